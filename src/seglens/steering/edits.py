"""Edits of latents, and the context in which a segmenter runs with them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seglens.activations.hooks import Change
from seglens.activations.hooks import edit as edit_activation
from seglens.artifacts import hash_of
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.shapes import TokenGrid, Tokens
from seglens.steering.shared_codes import Contribution, SharedCodes, codes_of

Operation = Literal["multiply", "add", "zero", "clamp", "swap"]
Mode = Literal["difference", "replace"]
Where = Literal["everywhere", "active"]

SwapSource = Callable[[Tokens, tuple[int, ...]], Float[Tensor, "n s"]]
"""Gives, for raw tokens [n d_in] and the latents of a swap, the codes [n s] to be taken over."""


@dataclass(frozen=True)
class LatentEdit:
    """One operation on some latents of one dictionary.

    Paper, sections 6.1 and 7: MLS is ``multiply`` (z_k <- value * z_k), ALS is ``add`` (z_k <- z_k + value, at every
    token, whether the latent fires there or not, and with no floor at zero), ablation is ``zero``; 5.3: ``swap``.
    ``clamp`` pins a latent to ``value``. Values are in the dictionary's scaled units (E||x||^2 = d_in): useful ones lie
    within about -2..3; beyond 10 a segmentation is destroyed.

    Attributes:
        hookpoint: where the dictionary's activations come from.
        dictionary_hash: ``SparseAutoencoder.hash``.
        latents: different latents, in 0..m-1; kept in ascending order.
        operation: see above.
        value: factor, offset or level; not used by ``zero`` and ``swap``.
        mode: ``difference`` adds (z_edited - z) @ W_dec to the untouched activation; ``replace`` puts the decoded
            codes in its place (the paper's reading), so it also loses what the dictionary does not explain.
        where: tokens at which ``add`` and ``clamp`` act: all of them, or only those where the latent fires.
        gate: a latent; at tokens where it does not fire nothing is changed. None acts at every token.
    """

    hookpoint: str
    dictionary_hash: str
    latents: tuple[int, ...]
    operation: Operation
    value: float | int = 0.0
    mode: Mode = "difference"
    where: Where = "everywhere"
    gate: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could only be a mistake."""
        for name, legal in (("operation", Operation), ("mode", Mode), ("where", Where)):
            if getattr(self, name) not in get_args(legal):
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(get_args(legal))}")
        if not math.isfinite(self.value):
            raise ValueError(f"the value of an edit is {self.value}; give a finite number (useful: about -2..3)")
        if len(set(self.latents)) != len(self.latents) or min(self.latents, default=0) < 0:
            raise ValueError(f"latents must be different numbers >= 0; got {list(self.latents)[:20]}")
        if self.gate is not None and self.gate < 0:
            raise ValueError(f"the gate is {self.gate}; give a latent >= 0, or None for an edit at every token")
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "latents", tuple(sorted(int(latent) for latent in self.latents)))

    @property
    def is_identity(self) -> bool:
        """Whether no code can change: a factor of 1, an offset of 0, or no latents."""
        neutral = {"multiply": 1.0, "add": 0.0}.get(self.operation)
        return not self.latents or (neutral is not None and self.value == neutral)

    @property
    def name(self) -> str:
        """Short and different for different edits, such as ``multiply 2, 5 latents, 1f0a63``."""
        if not self.latents:
            return "reconstruct only" if self.mode == "replace" else "identity"
        value = f" {self.value:g}" if self.operation in ("multiply", "add", "clamp") else ""
        rest = "".join(f", {word}" for word in (self.mode, self.where) if word not in ("difference", "everywhere"))
        rest += "" if self.gate is None else f", where {self.gate} fires"
        count = f"{len(self.latents)} latent{'s' if len(self.latents) > 1 else ''}"
        return f"{self.operation}{value}, {count}{rest}, {hash_of([self.dictionary_hash, list(self.latents)])[:6]}"

    def description(self) -> dict[str, Any]:
        """JSON-able; ``LatentEdit.from_description`` gives the edit back."""
        return {**asdict(self), "latents": list(self.latents)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "LatentEdit":
        """The edit that ``description`` was made from."""
        fields = dict(description)
        fields["latents"] = tuple(fields["latents"])
        return cls(**fields)

    def edited(self, codes: Float[Tensor, "n s"], swapped: Float[Tensor, "n s"] | None = None) -> Float[Tensor, "n s"]:
        """Apply to the codes of this edit's own latents, in their order.

        Args:
            codes: [n s], s = len(latents).
            swapped: [n s], the codes that ``swap`` takes over.

        Raises:
            ValueError: a swap without ``swapped``.
        """
        match self.operation:
            case "multiply":
                return codes * self.value
            case "zero":
                return torch.zeros_like(codes)
            case "swap":
                if swapped is None:
                    raise ValueError("a swap needs the codes to take over; give steer() a `source` (see swap_source)")
                return swapped
            case "add":
                new = codes + self.value
            case "clamp":
                new = torch.full_like(codes, self.value)
        return new if self.where == "everywhere" else torch.where(codes > 0, new, codes)

    def apply(self, codes: Codes, swapped: Float[Tensor, "n s"] | None = None) -> Codes:
        """Apply to sparse codes; an identity returns the same object.

        Raises:
            ValueError: a latent that the codes do not have.
        """
        if self.is_identity:
            return codes
        chosen = torch.tensor(self.latents, device=codes.latents.device)
        own = codes.select_latents(chosen).to_dense()
        edited = self.edited(own, swapped)
        if self.gate is not None:
            open_ = codes.select_latents(torch.tensor([self.gate], device=chosen.device)).to_dense() > 0
            edited = torch.where(open_, edited, own)
        new = Codes.from_dense(edited)
        kept = ~torch.isin(codes.latents, chosen)
        rows = torch.cat([codes.token_rows()[kept], new.token_rows()])
        latents = torch.cat([codes.latents[kept].long(), chosen[new.latents.long()]])
        values = torch.cat([codes.values[kept], new.values])
        order = (rows * codes.n_latents + latents).argsort()
        offsets = torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=codes.n).cumsum(0)])
        return Codes(offsets, latents[order].int(), values[order], codes.n_latents)


def swap_source(own: SparseAutoencoder, other: SparseAutoencoder, pairs: Mapping[int, int]) -> SwapSource:
    """Codes for a swap from another dictionary that reads the same activation (paper, section 5.3).

    They are in the units of the edited dictionary: each scales the activation by a factor of its own, and the same
    strength is ``own.scale / other.scale`` times as large a number there.

    Args:
        own: the dictionary that is edited.
        other: dictionary whose codes are taken over.
        pairs: latent of ``own`` to latent of ``other``.
    """
    factor = float(own.scale) / float(other.scale)

    def source(tokens: Tokens, latents: tuple[int, ...]) -> Float[Tensor, "n s"]:
        unpaired = [latent for latent in latents if latent not in pairs]
        if unpaired:
            raise ValueError(f"latents {unpaired[:10]} have no partner in the other dictionary; swap paired ones only")
        return codes_of(other, tokens, [pairs[latent] for latent in latents]) * factor

    return source


def check_edits(lens: Lens, *groups: Sequence[LatentEdit]) -> None:
    """Refuse edits that do not belong to this dictionary and this segmenter.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        groups: edits; those of one group act together.

    Raises:
        ValueError: all that does not fit, in one message.
    """
    problems = []
    if not lens.dictionary.segmenter_hash:
        problems.append(
            "the dictionary does not say which segmenter it was fitted to; fit one to its activations, or where you "
            "know that it was this one, set dictionary.segmenter_hash = segmenter.hash"
        )
    identity = lens.dictionary_hash
    for edit in (edit for group in groups for edit in group):
        if edit.dictionary_hash != identity:
            problems.append(f"edit {edit.name!r} is for dictionary {edit.dictionary_hash[:12]}, not {identity[:12]}")
        if edit.hookpoint != lens.hookpoint:
            problems.append(f"edit {edit.name!r} is for {edit.hookpoint!r}, the dictionary for {lens.hookpoint!r}")
        named = (*edit.latents, *(() if edit.gate is None else (edit.gate,)))
        outside = [latent for latent in named if latent >= lens.dictionary.n_latents]
        if outside:
            problems.append(
                f"edit {edit.name!r} has latents {outside[:5]}; legal are 0..{lens.dictionary.n_latents - 1}"
            )
    if any(len({edit.mode for edit in group}) > 1 for group in groups):
        problems.append("edits of both modes, difference and replace, at one hookpoint; use one mode for all")
    if problems:
        raise ValueError("; ".join(problems))


def change_of(
    dictionary: SparseAutoencoder,
    edits: Sequence[LatentEdit],
    source: SwapSource | None = None,
    shared: SharedCodes | None = None,
) -> Change:
    """The change of an activation that edits make, one after the other (not checked against a segmenter).

    Args:
        dictionary: whose latents are edited.
        edits: all of one mode.
        source: codes for swap edits.
        shared: give the same one to the changes of many edits, and what they have in common is computed once.
    """
    replaces = any(edit.mode == "replace" for edit in edits)
    acting = [edit for edit in edits if not edit.is_identity]

    def change(grid: TokenGrid) -> TokenGrid:
        own = shared or SharedCodes(dictionary)
        if replaces:
            return _replaced(grid, own, edits, source)
        if len(acting) == 1 and _is_linear(acting[0]):
            return _with_linear(grid, own, acting[0])
        return _with_difference(grid, own, acting, source) if acting else grid

    return change


def slice_change(
    dictionary: SparseAutoencoder, latents: Int[Tensor, "B s"], value: float, shared: SharedCodes | None = None
) -> Change:
    """Multiply, in each slice of a batch, that slice's own latents by ``value`` (paper, section 6.1)."""

    def change(grid: TokenGrid) -> TokenGrid:
        own = shared or SharedCodes(dictionary)
        return grid if value == 1 else _with_part(grid, own.slice_part(grid, latents), value - 1)

    return change


@contextmanager
def steer(
    lens: Lens,
    *edits: Any,
    source: SwapSource | None = None,
) -> Iterator[None]:
    """Run a segmenter with some latents changed.

    Where no code changes (identity edits, or latents that do not fire) the network computes the very same bits.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        edits: LatentEdits, applied in this order; a ChosenEdit stands for the edit it holds.
        source: codes for swap edits.

    Raises:
        ValueError: an edit of another dictionary, hookpoint or segmenter, or a latent out of range.

    Example:
        >>> edit = LatentEdit("stage2", lens.dictionary_hash, (4, 17), "multiply", 0.5)
        >>> with steer(lens, edit):
        ...     masks = segmenter.predict(images)
    """
    plain = [edit if isinstance(edit, LatentEdit) else edit.edit for edit in edits]
    check_edits(lens, plain)
    with edit_activation(lens.segmenter, lens.hookpoint, change_of(lens.dictionary, plain, source)):
        yield


def _is_linear(edit: LatentEdit) -> bool:
    """Whether the difference is linear in the value, its other factor the same for all values."""
    if edit.gate is not None:
        return False
    return edit.operation in ("multiply", "zero") or (edit.operation == "add" and edit.where == "everywhere")


def _with_linear(grid: TokenGrid, shared: SharedCodes, edit: LatentEdit) -> TokenGrid:
    if edit.operation == "add":
        return grid + (shared.rows(edit.latents).sum(0) / shared.dictionary.scale * edit.value).to(grid.dtype)
    factor = edit.value if edit.operation == "multiply" else 0.0
    return _with_part(grid, shared.part(grid, edit.latents), factor - 1)


def _with_part(grid: TokenGrid, part: Contribution | None, factor: float) -> TokenGrid:
    """Add what latents contribute ``factor`` times; tokens where none fires keep their bits."""
    if part is None:
        return grid
    return torch.where(part.fires, grid + (part.grid * factor).to(grid.dtype), grid)


def _with_difference(
    grid: TokenGrid, shared: SharedCodes, edits: Sequence[LatentEdit], source: SwapSource | None
) -> TokenGrid:
    union = sorted({latent for edit in edits for latent in edit.latents})
    place = {latent: number for number, latent in enumerate(union)}
    codes = shared.codes(grid, union)
    new = codes.clone()
    for edit in edits:
        own = torch.tensor([place[latent] for latent in edit.latents])
        edited = edit.edited(new[:, own], _swapped(grid, shared, edit, source))
        if edit.gate is not None:
            edited = torch.where(shared.codes(grid, (edit.gate,)) > 0, edited, new[:, own])
        new[:, own] = edited
    changed = (new != codes).any(dim=1)
    if not bool(changed.any()):
        return grid
    tokens = grid.reshape(-1, grid.shape[-1]).clone()
    difference = (new - codes)[changed] @ shared.rows(union) / shared.dictionary.scale
    tokens[changed] += difference.to(grid.dtype)
    return tokens.view(grid.shape)


def _replaced(
    grid: TokenGrid, shared: SharedCodes, edits: Sequence[LatentEdit], source: SwapSource | None
) -> TokenGrid:
    codes = shared.all_codes(grid)
    for edit in edits:
        codes = edit.apply(codes, _swapped(grid, shared, edit, source))
    return shared.dictionary.decode(codes).to(grid.dtype).view(grid.shape)


def _swapped(
    grid: TokenGrid, shared: SharedCodes, edit: LatentEdit, source: SwapSource | None
) -> Float[Tensor, "n s"] | None:
    if source is None or edit.operation != "swap":
        return None
    return source(shared.tokens(grid), edit.latents)
