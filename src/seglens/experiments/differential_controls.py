"""Planted factors beside controls: the test on features that know less of the model than its latents, or nothing.

Two populations of images differ in any features that see the image. So what the test finds in a model's latents says
something about the model only beyond what it finds in pixels; and what matters of the model is what its output depends
on: responses weighted by their effect on the segmentation, and factors that cost Dice beside those that do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from seglens.activations.cells import cell_shares
from seglens.activations.live import live_activations
from seglens.activations.sensitivity import class_gradients
from seglens.activations.store import ActivationStore
from seglens.artifacts import Draft
from seglens.dictionaries.codes import Codes, pair_dots
from seglens.dictionaries.controls import (
    DENSE,
    LENS,
    PIXELS,
    RANDOM_LATENTS,
    SHUFFLED,
    UNTRAINED_DICTIONARY,
    UNTRAINED_NETWORK,
    UNTRAINED_SEEDS,
    Features,
    channels,
    lens_features,
    pixels,
    untrained_dictionary,
)
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.differential import Responses, differential_latents
from seglens.experiments.differential_bench import (
    BASE,
    BATCH,
    FACTORS,
    NONE,
    OFF,
    Bench,
    Specific,
    held_out_cohorts,
    paired,
    responses_of,
)
from seglens.experiments.experiment import part
from seglens.runtime.progress import Progress
from seglens.segmenters.scoring import predict_slices
from seglens.shapes import Images, TokenGrid, grid_of
from seglens.steering.baselines import random_latents
from seglens.studies.untrained import untrained_segmenter
from seglens.studies.variants import fit_to_store

CHANNELS, PRINCIPAL = "channels", "principal components"
WEIGHTED = ", by effect on the segmentation"
"""Follows the name of features whose responses are weighted by what they do to the foreground."""
RUNG_OF: Mapping[str, str] = {
    **{f"{UNTRAINED_NETWORK} {number}": UNTRAINED_NETWORK for number in UNTRAINED_SEEDS},
    UNTRAINED_DICTIONARY: UNTRAINED_DICTIONARY,
    CHANNELS: DENSE,
    PRINCIPAL: DENSE,
    PIXELS: PIXELS,
}
"""Features to their rung."""
DRAWS = 3
"""Of random latents, and of permuted labels."""
ALPHA = 0.05
"""A factor costs Dice where a signed-rank test over the held-out patients says so."""
EVERY = 2
"""Of the slices one in so many is used where gradients are needed."""


@dataclass(frozen=True, eq=False)
class Controls:
    """The same phantoms through everything that could stand in the lens's place, at one hookpoint.

    Attributes:
        bench: of the phantoms and the base segmenter.
        hookpoint: of the lens.
        rate: false discovery rate of the test.
    """

    bench: Bench
    hookpoint: str
    rate: float
    _sources: dict[str, Features] = field(default_factory=dict)
    _responses: dict[tuple[str, str], Responses] = field(default_factory=dict)
    _uses: dict[str, tuple[Tensor, Tensor, int]] = field(default_factory=dict)

    def rows(self) -> pl.DataFrame:
        """A row for features, factor and draw: what the test calls, and how that answers in held-out patients."""
        found = []
        for factor in FACTORS:
            names = (LENS, *RUNG_OF, LENS + WEIGHTED, CHANNELS + WEIGHTED, PIXELS + WEIGHTED)
            tested = {name: self._tested(name, factor) for name in names}
            found += [self._row(name, factor, one) for name, one in tested.items()]
            for how in ("", WEIGHTED):
                lens = tested[LENS + how]
                for draw in range(DRAWS):
                    found.append(self._row(SHUFFLED + how, factor, self._shuffled(lens, draw), draw))
                    found.append(self._row(RANDOM_LATENTS + how, factor, self._matched(lens, factor, draw), draw))
        return pl.DataFrame(found, infer_schema_length=None)

    def dice(self) -> pl.DataFrame:
        """Of every factor what it costs the base segmenter in held-out patients: Dice of the whole lesion."""
        from scipy.stats import wilcoxon

        rows: list[dict[str, Any]] = []
        for factor in FACTORS:
            if factor == NONE:
                continue
            off, on = (self._lesion_dice(cohort) for cohort in held_out_cohorts(factor))
            both = [patient for patient in off if patient in on]
            change = np.array([on[patient] - off[patient] for patient in both])
            p = float(wilcoxon(change).pvalue) if len(change) and np.any(change != 0) else 1.0
            rows.append(
                {
                    "factor": factor,
                    "Dice off": float(np.mean([off[patient] for patient in both])),
                    "Dice on": float(np.mean([on[patient] for patient in both])),
                    "cost": float(-change.mean()),
                    "p": p,
                    "costs Dice": bool(p <= ALPHA and change.mean() < 0),
                }
            )
        return pl.DataFrame(rows)

    def _row(self, name: str, factor: str, found: Specific, draw: int = 0) -> dict[str, Any]:
        return {"features": name, "factor": factor, "draw": draw, **found.row(factor)}

    def _tested(self, name: str, factor: str) -> Specific:
        discovery = self._response(name, OFF), self._response(name, factor)
        held_out = paired(*(self._response(name, cohort) for cohort in held_out_cohorts(factor)))
        return self._called(discovery, held_out)

    def _called(self, discovery: tuple[Responses, Responses], held_out: tuple[Responses, Responses]) -> Specific:
        table = differential_latents(*discovery, rate=self.rate)
        called = table.filter("differential")["latent"].unique().sort().to_list()
        return Specific(called, table["latent"].n_unique(), discovery, held_out)

    def _shuffled(self, lens: Specific, draw: int) -> Specific:
        """The test where the discovery patients are dealt to the cohorts at random."""
        pool = Responses.pooled(lens.discovery)
        order = np.random.default_rng(draw).permutation(len(pool.patients))
        half = len(lens.discovery[0].patients)
        sides = [pool.of([pool.patients[place] for place in places]) for places in (order[:half], order[half:])]
        return self._called((sides[0], sides[1]), lens.held_out)

    def _matched(self, lens: Specific, factor: str, draw: int) -> Specific:
        """Live latents, called ones too, that fire in as many tokens and as strongly as those called."""
        drawn = matched_latents(*self._use(factor), lens.latents, seed=draw)
        return Specific(drawn, lens.live, lens.discovery, lens.held_out)

    def _use(self, factor: str) -> tuple[Tensor, Tensor]:
        """Of every latent the share of tokens at which it fires, and its mean code, over both discovery cohorts."""
        (fired, mass, tokens), (more, further, others) = (self._used_in(cohort) for cohort in (OFF, factor))
        return (fired + more) / (tokens + others), (mass + further) / (tokens + others)

    def _used_in(self, cohort: str) -> tuple[Tensor, Tensor, int]:
        if cohort not in self._uses:
            views = self._source(LENS).over(self.bench.slices(cohort), batch_size=BATCH)
            self._uses[cohort] = use_of(Codes.concatenate([view.codes.to("cpu") for view in views]))
        return self._uses[cohort]

    def _response(self, name: str, cohort: str) -> Responses:
        if name == LENS:
            return self.bench.responses(BASE, self.hookpoint, cohort)
        if (name, cohort) not in self._responses:
            slices = self.bench.slices(cohort)
            if name.endswith(WEIGHTED):
                slices = slices.select(range(0, len(slices), EVERY))
            views = list(self._source(name).over(slices, batch_size=BATCH))
            codes = Codes.concatenate([view.codes.to("cpu") for view in views])
            self._responses[name, cohort] = responses_of(codes, slices, views[0].grid)
        return self._responses[name, cohort]

    @cached_property
    def _store(self) -> ActivationStore:
        return self.bench.store(BASE, self.hookpoint)

    def _source(self, name: str) -> Features:
        if name not in self._sources:
            self._sources[name] = self._made(name)
        return self._sources[name]

    def _made(self, name: str) -> Features:
        base, store = self.bench.segmenter(BASE), self._store
        dictionary = self.bench.dictionary(BASE, self.hookpoint)[0].to(base.device)
        if name == LENS:
            return lens_features(Lens(base, dictionary))
        if name == UNTRAINED_DICTIONARY:
            return lens_features(Lens(base, untrained_dictionary(dictionary, store)))
        if name in (CHANNELS, PRINCIPAL):
            return channels(base, store, principal=name == PRINCIPAL)
        if name == PIXELS:
            return pixels(base, store.grid)
        if name.endswith(WEIGHTED):
            return weighted(Lens(base, dictionary), store.centre, name.removesuffix(WEIGHTED))
        return lens_features(self._untrained(int(name.rsplit(maxsplit=1)[-1])))

    def _untrained(self, number: int) -> Lens:
        """An untrained network through a dictionary of its own."""
        study, base = self.bench.study, self.bench.base
        network, slices = untrained_segmenter(study, base, number), study.own_slices(base, "train")
        store, own = live_activations(network, slices, self.hookpoint), study.settings.dictionaries
        seeds = (study.settings.seed + number,) * 2

        def make(draft: Draft, progress: Progress) -> None:
            fit_to_store(store, own, seeds=seeds, device=study.device, checkpoint=None, progress=progress).write(draft)

        inputs = {"store": store.hash, "settings": own.model_dump(mode="json", exclude={"controls"}), "seeds": seeds}
        made = part(study, f"control-dictionary/{base}-{self.hookpoint}-{number}", "dictionary", inputs, make)
        return Lens(network, SparseAutoencoder.read(made).to(network.device))

    def _lesion_dice(self, cohort: str) -> dict[str, float]:
        """Dice of the whole lesion of each patient who has one."""
        slices = self.bench.slices(cohort)
        predicted = predict_slices(self.bench.segmenter(BASE), slices, BATCH) > 0
        truth, patients, found = slices.masks() > 0, np.array(slices.index["patient"].to_list()), {}
        for patient in sorted(set(patients.tolist())):
            rows = torch.from_numpy(np.flatnonzero(patients == patient))
            p, t = predicted[rows], truth[rows]
            if t.any():
                found[patient] = 2 * float((p & t).sum()) / float(p.sum() + t.sum())
        return found


def use_of(codes: Codes) -> tuple[Tensor, Tensor, int]:
    """At how many tokens each latent fires, the sum of its codes there, and how many tokens there are."""
    mass = torch.bincount(codes.latents, weights=codes.values.double(), minlength=codes.n_latents)
    return codes.firing_counts(), mass, codes.n


def matched_latents(rates: Tensor, masses: Tensor, latents: Sequence[int], *, seed: int) -> tuple[int, ...]:
    """As many latents of like firing rate and mass, drawn from all that fire: what the choice of these is worth.

    Without the chosen ones in the draw it would be one of latents that a test rejected, and lose to anything.

    Args:
        rates: [m] share of tokens at which each latent fires.
        masses: [m] mean code.
        latents: the chosen ones; they fire.
        seed: of the draw.
    """
    chosen = torch.tensor(latents, dtype=torch.int64)
    beside = torch.zeros_like(rates)
    beside[chosen] = rates[chosen]  # a second copy of them is matched, so that the first can be drawn
    copies = (chosen + len(rates)).tolist()
    (drawn,) = random_latents(torch.cat([rates, beside]), copies, draws=1, seed=seed, masses=torch.cat([masses] * 2))
    return drawn


def weighted(lens: Lens, centre: Tensor, name: str) -> Features:
    """Features by what they do to the segmentation: |feature x gradient of the expected pixels of foreground|.

    Args:
        lens: gives network, hookpoint and, for its latents, the dictionary.
        centre: mean token, from which channels count.
        name: "the lens"; "channels", one feature a channel; "pixels", one a sequence, over the token's cell.
    """
    segmenter, hookpoint, dictionary = lens.segmenter, lens.hookpoint, lens.dictionary
    d = dictionary.d_in

    def tokens(images: Images) -> TokenGrid:
        grid, (gradient,) = class_gradients(segmenter, hookpoint, images, [None])
        return torch.cat([grid, gradient], -1)

    def of_pixels(images: Images) -> TokenGrid:
        with torch.enable_grad():
            given = images.detach().clone().requires_grad_()
            expected = (1 - segmenter.logits(given).softmax(1)[:, 0]).sum()
            (gradient,) = torch.autograd.grad(expected, given)
        effect = (gradient * given.detach()).abs()
        grid = grid_of(lens.view(images).tokens)
        return torch.stack([cell_shares(effect[:, place], grid) for place in range(effect.shape[1])], -1)

    def encode(values: Tensor) -> Codes:
        if name == PIXELS:
            return Codes.from_dense(values.cpu())
        activation, gradient = values[:, :d], values[:, d:]
        if name == CHANNELS:
            return Codes.from_dense(((activation.cpu() - centre) * gradient.cpu()).abs())
        codes = dictionary.encode(activation)
        along = pair_dots(gradient.contiguous(), dictionary.W_dec / dictionary.scale, codes.offsets, codes.latents)
        return codes.with_values((codes.values * along).abs())

    n = {PIXELS: len(segmenter.sequences), CHANNELS: d}.get(name, dictionary.n_latents)
    return Features(segmenter, n, of_pixels if name == PIXELS else tokens, encode)
