"""A finished run as the explorer holds it: read when it is first asked for, then kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32

from seglens.activations.hooks import activations
from seglens.activations.replay import Replay
from seglens.cohorts.case import Cohort
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.lens_names import segmenter_of
from seglens.reports.shown_planes import plane_at, planes_of, token_planes
from seglens.runs import Run
from seglens.runtime.malloc import give_back_freed_memory
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.shapes import Extent, Logits
from seglens.steering.edits import LatentEdit, change_of, check_edits
from seglens.steering.shared_codes import codes_of
from seglens.studies.cohorts import cohort_of
from seglens.studies.stages import unseen_rows

T = TypeVar("T")
RUNNING = Lock()
"""One network runs at a time: one person looks, and what two take at once would add up."""
SURVEYED = 200
"""Slices on which a latent's usual strength is measured."""
BATCH = 4
"""Slices at once: more are no faster on a CPU, and a wide network's activations are large."""


class UnknownError(KeyError):
    """Raised for a name or number that this run does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Survey:
    """Every latent on a sample of slices.

    Attributes:
        rows: of the cohort's slices.
        mass: sum of each latent's codes in each slice ``[n m]``, float32.
    """

    rows: list[int]
    mass: Float32[np.ndarray, "n m"]


@dataclass
class Opened:
    """A segmenter of a run with a dictionary and its atlas, and the slice that it was last asked about.

    Attributes:
        name: of the segmenter, with ``@`` and the hookpoint where that is not the segmenter's first.
        run: that it is of.
        sibling: the same segmenter opened at another hookpoint, whose network is used; None: the network is read.
        effects: of latents that were measured in this process, the change of Dice by class (see `explorer.zeroing`).
    """

    name: str
    run: Run
    sibling: "Opened | None" = None
    effects: dict[int, dict[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = RUNNING
        self._reading = {what: Lock() for what in ("segmenter", "dictionary", "atlas", "lens")}
        self._read: dict[str, Any] = {}
        self._replay: Replay | None = None
        self._at: tuple[str, int] | None = None
        self._untouched: Logits | None = None
        self._codes: tuple[tuple[str, int], tuple[Codes, Extent]] | None = None

    @property
    def segmenter(self) -> Segmenter:
        """The network."""
        if self.sibling is not None:
            return self.sibling.segmenter
        stage = f"segmenter/{segmenter_of(self.name)}"
        return self._once("segmenter", lambda: Segmenter.read(self.run.artifact(stage)))

    @property
    def dictionary(self) -> SparseAutoencoder:
        """Its dictionary."""
        return self._once("dictionary", lambda: SparseAutoencoder.read(self.run.artifact(f"dictionary/{self.name}")))

    @property
    def atlas(self) -> LatentAtlas:
        """Atlas of its latents."""
        return self._once("atlas", lambda: LatentAtlas.read(self.run.artifact(f"atlas/{self.name}")))

    @property
    def lens(self) -> Lens:
        """The network through its dictionary, whose hash is computed once: to hash 200 MB takes half a second.

        Raises:
            ValueError: it was fitted to another network.
        """

        def seen() -> Lens:
            lens = Lens(self.segmenter, self.dictionary)
            _ = lens.dictionary_hash
            return lens

        return self._once("lens", seen)

    @property
    def dictionary_hash(self) -> str:
        """The hash of the dictionary that the atlas describes, without reading it."""
        described: str = self.atlas.context["dictionary_hash"]
        return described

    @property
    def hookpoint(self) -> str:
        """Where its latents come from."""
        hookpoint: str = self.atlas.context["hookpoint"]
        return hookpoint

    @property
    def cohort(self) -> str:
        """On whose unseen slices its latents were described."""
        cohort: str = self.atlas.context["cohort"]
        return cohort

    def _once(self, what: str, made: Callable[[], T]) -> T:
        """Two requests that want the same thing first wait for one copy of it: a dictionary may have 200 MB."""
        with self._reading[what]:
            if what not in self._read:
                self._read[what] = made()
            found: T = self._read[what]
            return found

    def has_latent(self, latent: int) -> None:
        """Refuse a latent that the dictionary does not have."""
        if not 0 <= latent < self.atlas.n_latents:
            raise UnknownError(f"{self.name} has latents 0 to {self.atlas.n_latents - 1}, not {latent}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While it lasts no other request runs this network; what was recorded of a slice is forgotten."""
        with self._lock:
            self._at = None
            try:
                yield
            finally:
                give_back_freed_memory()

    def codes(self, slices: SliceSet, row: int) -> tuple[Codes, Extent]:
        """Codes of one slice, token after token, and the token grid's size; those of the last slice are kept."""
        with self._lock, torch.no_grad():
            if self._codes is None or self._codes[0] != (slices.hash, row):
                view = self.lens.view(slices.images([row]))
                self._codes = (slices.hash, row), (view.codes, view.grid)
            return self._codes[1]

    def maps(self, slices: SliceSet, rows: list[int], latent: int) -> Float32[np.ndarray, "n h w"]:
        """One latent's codes on the token grids of some slices, of volumes on those of their planes that are shown."""
        with self._lock, torch.no_grad():
            grid = activations(self.segmenter, self.dictionary.hookpoint, slices.images(rows))
            codes = codes_of(self.dictionary, grid.flatten(0, 3), [latent])
        maps = codes.float().view(grid.shape[:-1])
        _, numbers = planes_of(slices, rows)
        return plane_at(maps, token_planes(numbers, slices.size[0], maps.shape[1])).numpy()

    def scale(self, latent: int) -> float:
        """The code that a heat map shows in full colour: the largest on the latent's exemplars, 1 for a dead latent."""
        _, maps = self.atlas.exemplars_of(latent)
        return float(maps.max()) if maps.numel() else 1.0

    def surveyed(self, slices: SliceSet, rows: list[int], progress: Progress = silent) -> Float32[np.ndarray, "n m"]:
        """Sum of each latent's codes in each of these slices."""
        views = self.lens.over(slices.select(rows), batch_size=BATCH, progress=progress)
        parts = []
        while True:
            with self._lock:
                view = next(views, None)
                if view is None:
                    break
                parts.append(view.mass().numpy())
        give_back_freed_memory()
        return np.concatenate(parts)

    def logits(self, slices: SliceSet, row: int, edits: Sequence[LatentEdit] = ()) -> Logits:
        """Logits ``[1 K 1 H W]`` of a slice, with latents changed where edits are given.

        The part of the network that the hookpoint does not reach is computed once a slice.
        """
        check_edits(self.lens, edits)
        with self._lock, torch.no_grad():
            if self._replay is None:
                self._replay = Replay(self.segmenter, self.dictionary.hookpoint)
            if self._at != (slices.hash, row):
                self._at = None  # where recording breaks off, neither slice is there
                self._untouched = self._replay.record(slices.images([row]))
                self._at = (slices.hash, row)
                give_back_freed_memory()  # what can be replayed was found out by passes that keep everything
            assert self._untouched is not None
            return self._replay.logits(change_of(self.dictionary, edits)) if edits else self._untouched


class OpenedRun:
    """A run and what of it has been read.

    Raises:
        ValueError: the run has no finished segmenter with a dictionary and an atlas.
    """

    def __init__(self, path: Path):
        self.run = Run(path)
        names = [stage.removeprefix("atlas/") for stage in self.run.stages("atlas/")]
        if not names:
            raise ValueError(
                f"{path} holds no finished atlas, so there are no latents to look at; "
                "give the folder of a finished `seglens demo` or `seglens run`"
            )
        self._opened: dict[str, Opened] = {}
        for name in names:
            alike = (opened for other, opened in self._opened.items() if segmenter_of(other) == segmenter_of(name))
            self._opened[name] = Opened(name, self.run, next(alike, None))
        self._slices: dict[str, SliceSet] = {}
        self._surveys: dict[str, Survey] = {}
        self._surveying = Lock()
        self._survey_progress: dict[str, tuple[int, int]] = {}
        self._sources: dict[str, Cohort] = {}

    @property
    def segmenters(self) -> list[str]:
        """Names of the segmenters whose latents can be looked at, one for each hookpoint."""
        return list(self._opened)

    @property
    def cohorts(self) -> list[str]:
        """Names of the cohorts whose slices are there."""
        return [stage.removeprefix("slices/") for stage in self.run.stages("slices/")]

    def warm_up(self) -> None:
        """Read the networks, so that the first slice that is looked at does not wait for the libraries."""
        for opened in self._opened.values():
            with suppress(Exception):  # told to whoever asks for it
                # the dictionary first: while it is read it takes its memory twice
                _ = opened.atlas, opened.dictionary, opened.lens

    def opened(self, name: str) -> Opened:
        """One segmenter."""
        if name not in self._opened:
            raise UnknownError(f"no segmenter {name!r}; there are {', '.join(self._opened)}")
        return self._opened[name]

    def slices(self, cohort: str, row: int | None = None) -> SliceSet:
        """A cohort's slices, all splits; ``row`` must be one of them."""
        if cohort not in self.cohorts:
            raise UnknownError(f"no cohort {cohort!r}; there are {', '.join(self.cohorts)}")
        if cohort not in self._slices:
            self._slices[cohort] = SliceSet.read(self.run.artifact(f"slices/{cohort}"))
        slices = self._slices[cohort]
        if row is not None and not 0 <= row < len(slices):
            raise UnknownError(f"{cohort} has slices 0 to {len(slices) - 1}, not {row}")
        return slices

    def source(self, cohort: str) -> Cohort:
        """Where the files are that a cohort's slices were cut from; what they hold is not looked at."""
        self.slices(cohort)
        if cohort not in self._sources:
            try:
                self._sources[cohort] = cohort_of(self.run, cohort)
            except (ValueError, OSError) as error:
                raise UnknownError(f"the files of {cohort} cannot be found: {error}") from None
        return self._sources[cohort]

    def shown_to(self, opened: Opened, cohort: str, row: int) -> SliceSet:
        """Slices that a segmenter can take: those of its sequences and size."""
        slices = self.slices(cohort, row)
        opened.segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)
        return slices

    def unseen(self, cohort: str) -> list[int]:
        """Rows of the slices that nothing was trained on, in the order in which an atlas counts them."""
        return unseen_rows(self.slices(cohort))

    def survey(self, opened: Opened) -> Survey:
        """Every latent of a segmenter on at most `SURVEYED` unseen slices of its own cohort; kept."""
        with self._surveying:
            if opened.name not in self._surveys:
                unseen = self.unseen(opened.cohort)
                rows = [unseen[place] for place in evenly_spaced(len(unseen), SURVEYED)]

                def report(done: int, total: int, **_figures: float) -> None:
                    self._survey_progress[opened.name] = done, total

                self._surveys[opened.name] = Survey(rows, opened.surveyed(self.slices(opened.cohort), rows, report))
                report(len(rows), len(rows))
            return self._surveys[opened.name]

    def survey_progress(self, opened: Opened) -> tuple[int, int]:
        """Slices that `survey` has looked at, and of how many; (0, 0) before it begins."""
        return self._survey_progress.get(opened.name, (0, 0))


def grey(slices: SliceSet, row: int, number: int | None = None) -> np.ndarray:
    """A slice as grey levels ``[C H W]``: 1..255 between the brain's 0.5th and 99.5th percentile, 0 outside.

    Where no brain is known, all of the slice counts.

    Args:
        slices: of the sample.
        row: which.
        number: of a volume's plane; None: the one that is shown.
    """
    (images, _, brains), _ = planes_of(slices, [row], None if number is None else torch.tensor([number]))
    brain = brains[0]
    inside = brain if brain.any() else np.ones_like(brain)
    levels = np.zeros((len(slices.sequences), *brain.shape), dtype=np.uint8)
    for level, image in zip(levels, images[0], strict=True):
        low, high = np.percentile(image[inside], [0.5, 99.5])
        shares = ((image[inside] - low) / max(float(high - low), 1e-6)).clip(0, 1)
        level[inside] = (1 + 254 * shares).round().astype(np.uint8)
    return levels


def heat_map(codes: Codes, grid: Extent, latent: int, share: float = 0.5) -> np.ndarray:
    """One latent's codes on a plane ``[h w]`` of the token grid, float32.

    Args:
        codes: of a sample.
        grid: of its tokens.
        latent: which.
        share: where the plane lies between the first (0) and the last (1) of a volume.
    """
    rows, columns = codes.token_rows(), codes.latents
    fired = columns == latent
    heat = torch.zeros(grid)
    heat.view(-1)[rows[fired]] = codes.values[fired].float()
    return heat[min(int(share * grid[0]), grid[0] - 1)].numpy()


def shown_plane(slices: SliceSet, row: int) -> int:
    """Number of the plane of a sample that is shown: the one with the most labelled voxels."""
    return int(planes_of(slices, [row])[1])
