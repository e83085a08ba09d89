"""The sparse autoencoder: tokens to sparse codes and back."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seglens.artifacts import Artifact, Draft, hash_tensors
from seglens.dictionaries.codes import Codes, weighted_rows
from seglens.foreign.tensors import refuse_non_finite
from seglens.shapes import Tokens

CHUNK_ELEMENTS = 2**22
"""Pre-activations held at once (16 MiB): an [n m] array of all tokens never exists."""
CACHED_ELEMENTS = 2**19
"""On a CPU an encoder holds only so many (2 MiB): still in the cache when they are compared, up to a third faster."""
FILE = "dictionary"


class SparseAutoencoder(nn.Module):
    """A dictionary of m latents for one hookpoint of one segmenter.

    A raw activation h becomes ``x = (h - centre) * scale`` (E||x||^2 = d_in); the pre-activations are
    ``(x - b_dec) @ W_enc + b_enc``; inference keeps those above ``theta`` unshrunk (so it does not depend on the
    batch), and ``x_hat = z @ W_dec + b_dec`` is brought back to the raw scale. BatchTopK, arXiv 2412.06410, eq. 1-4.

    No parameter asks for gradients: the fit computes them itself, and a dictionary inside a steered network must not
    hold its graph.

    Attributes:
        W_enc: [d_in m].
        b_enc: [m].
        W_dec: [m d_in], unit rows.
        b_dec: [d_in].
        theta: inference threshold on pre-activations, >= 0.
        centre: [d_in], mean raw activation.
        scale: factor after centring, > 0.
        k: average number of active latents a token.
        hookpoint: where the activations come from.
        segmenter_hash: hash of the network they come from.
        store_hash: hash of the activations it was fitted to.
        seed: the weights' seed.
    """

    theta: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        *,
        k: int,
        seed: int = 0,
        hookpoint: str = "",
        segmenter_hash: str = "",
        store_hash: str = "",
    ):
        """Draw an untrained dictionary: random unit decoder rows, the encoder their transpose.

        Raises:
            ValueError: k or a width is out of range.
        """
        super().__init__()
        if d_in < 1 or n_latents < 1:
            raise ValueError(f"a dictionary needs d_in >= 1 and n_latents >= 1; got {d_in} and {n_latents}")
        if not 1 <= k <= n_latents:
            raise ValueError(f"k is {k}; it must be from 1 to the number of latents, {n_latents}")
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n_latents, d_in, generator=generator)
        rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.W_enc = nn.Parameter(rows.T.contiguous(), requires_grad=False)
        self.b_enc = nn.Parameter(torch.zeros(n_latents), requires_grad=False)
        self.W_dec = nn.Parameter(rows, requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(d_in), requires_grad=False)
        self.register_buffer("theta", torch.tensor(0.0))
        self.register_buffer("centre", torch.zeros(d_in))
        self.register_buffer("scale", torch.tensor(1.0))
        self.k = k
        self.seed = seed
        self.hookpoint = hookpoint
        self.segmenter_hash = segmenter_hash
        self.store_hash = store_hash

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.W_enc.shape[0]

    @property
    def n_latents(self) -> int:
        """m, the number of latents."""
        return self.W_enc.shape[1]

    @property
    def hash(self) -> str:
        """Identity of the weights and buffers, wherever they are kept."""
        return hash_tensors(self.state_dict())

    def normalise(self, tokens: Tokens) -> Tokens:
        """Raw activations -> centred and scaled ones."""
        return (tokens - self.centre) * self.scale

    def pre_activations(self, tokens: Tokens) -> Float[Tensor, "n m"]:
        """Dense pre-activations of raw tokens, differentiable; for small n only."""
        return self.normalise(tokens) @ self.W_enc + self.encoder_offset()

    def encoder_offset(self) -> Float[Tensor, " m"]:
        """``b_enc - b_dec @ W_enc``: what the encoder adds to ``x @ W_enc``."""
        return self.b_enc - self.b_dec @ self.W_enc

    @torch.no_grad()
    def encode(self, tokens: Tokens) -> Codes:
        """Codes of raw tokens: pre-activations above ``theta``, unshrunk.

        Args:
            tokens: [n d_in] in the network's own scale.

        Raises:
            ValueError: another width than the dictionary's.
        """
        if tokens.shape[1] != self.d_in:
            raise ValueError(
                f"tokens are {tokens.shape[1]} wide; this dictionary of {self.hookpoint!r} takes {self.d_in}"
            )
        x = self.normalise(tokens.to(self.W_enc.dtype))
        offset = self.encoder_offset()
        at_once = min(CHUNK_ELEMENTS, CACHED_ELEMENTS) if x.device.type == "cpu" else CHUNK_ELEMENTS
        chunk = max(1, at_once // self.n_latents)
        buffer = x.new_empty(min(chunk, len(x)), self.n_latents)
        counts = [torch.zeros(0, dtype=torch.int64, device=x.device)]
        latents = [torch.zeros(0, dtype=torch.int32, device=x.device)]
        values = [x.new_zeros(0)]
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            pre = torch.addmm(offset, part, self.W_enc, out=buffer[: len(part)]).reshape(-1)
            kept = (pre > self.theta).nonzero()[:, 0]
            rows = kept // self.n_latents
            counts.append(torch.bincount(rows, minlength=len(part)))
            latents.append((kept - rows * self.n_latents).int())
            values.append(pre[kept])
        all_counts = torch.cat(counts)
        offsets = torch.cat([all_counts.new_zeros(1), all_counts.cumsum(0)])
        return Codes(offsets, torch.cat(latents), torch.cat(values).float(), self.n_latents)

    def decode(self, codes: Codes) -> Tokens:
        """Reconstructed raw tokens [n d_in]."""
        return (self._through_decoder(codes) + self.b_dec) / self.scale + self.centre

    def decode_difference(self, codes: Codes) -> Tokens:
        """Change of the raw activation by a change of codes: ``delta_z @ W_dec / scale``."""
        return self._through_decoder(codes) / self.scale

    def write(self, draft: Draft) -> None:
        """Write weights and what they belong to into an artifact."""
        draft.save_tensors(FILE, self.state_dict())
        draft.save_document(FILE, self.description())

    def description(self) -> dict[str, Any]:
        """Everything beside the tensors, JSON-able."""
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "seed": self.seed,
            "hookpoint": self.hookpoint,
            "segmenter_hash": self.segmenter_hash,
            "store_hash": self.store_hash,
        }

    @classmethod
    def read(cls, artifact: Artifact) -> "SparseAutoencoder":
        """Read what ``write`` wrote.

        Raises:
            ValueError: tensors are missing, of other shapes than described, or not finite.
        """
        tensors, description = artifact.tensors(FILE), artifact.document(FILE)
        sizes = description["d_in"], description["n_latents"]
        # before the dictionary is made: it takes as much memory as its description says
        if "W_enc" not in tensors or tuple(tensors["W_enc"].shape) != sizes:
            raise ValueError(f"{artifact.path}: its description says W_enc {sizes}, its tensors say otherwise")
        with torch.device("meta"):  # nothing is drawn that is replaced below
            dictionary = cls(**description)
        expected = {name: tuple(tensor.shape) for name, tensor in dictionary.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if got != expected:
            raise ValueError(f"{artifact.path}: the dictionary's tensors are {got}; its description says {expected}")
        refuse_non_finite(tensors, str(artifact.path))
        dictionary.to_empty(device="cpu").load_state_dict(tensors)
        return dictionary

    def _through_decoder(self, codes: Codes) -> Tokens:
        if codes.n_latents != self.n_latents:
            raise ValueError(f"codes have {codes.n_latents} latents; this dictionary has {self.n_latents}")
        return weighted_rows(self.W_dec, codes.offsets, codes.latents, codes.values)
