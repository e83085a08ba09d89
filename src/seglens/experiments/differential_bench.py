"""Phantom cohorts that differ in one factor, and the models that the methods of the experiment `planted` look at.

Every cohort holds other patients, but for the held-out ones: they are rendered without a factor and with each.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from torch import Tensor

from seglens.activations.cells import cell_shares
from seglens.activations.extraction import each_grid
from seglens.activations.live import live_activations
from seglens.activations.store import ActivationStore
from seglens.artifacts import Draft
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.slices import Preprocessing, SliceSet, prepare_slices
from seglens.cohorts.source_options import SourceOptions
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.crosscoder import CROSSCODER_FIT, Crosscoder, fit_crosscoder
from seglens.diffing.crosscoder import KIND as CROSSCODER_KIND
from seglens.diffing.crosscoder_sharing import evaluate_crosscoder
from seglens.diffing.differential import Responses, patient_responses, response_to_factor
from seglens.experiments.experiment import NotApplicableError, part
from seglens.phantoms.cohort import write_phantom_cohort
from seglens.phantoms.subject import SEQUENCES
from seglens.phantoms.tissue import TUMOUR_LABELS
from seglens.runtime.progress import Progress
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.shapes import Extent, grid_of
from seglens.studies.stages import Study
from seglens.studies.variants import PLAIN, alive_latents, fit_to_store, variant_seeds

POPULATION = "adult"
NONE = "none"
FACTORS: Mapping[str, Mapping[str, str]] = {
    NONE: {},
    "contrast": {"contrast": "ssa"},
    "noise": {"noise": "ssa"},
    "thickness": {"thickness": "ssa"},
    "lesion place": {"place": "pediatric"},
    "edema extent": {"edema": "pediatric"},
    "enhancement": {"enhancement": "pediatric"},
    "head size": {"head": "pediatric"},
}
"""Factor to the one prior that is taken from another population."""
OFF = "off"
BASE = "base"
SLICES = 8
DISCOVERY_SEED, HELD_OUT_SEED = 520, 720
"""Added to a thousand times the study's seed, so that no phantom of the study itself comes again, nor one of those on
which the methods were built (500 and 700)."""
BATCH = 16
LESION_SHARE = 0.5
"""A token belongs to the lesion where at least this share of its area does."""


@dataclass(frozen=True)
class Sizes:
    """How much is made.

    Attributes:
        discovery: patients of every discovery cohort, at most: as many as the base segmenter's own cohort has.
        held_out: patients that are rendered with every factor off and on, at most.
        training_steps: of each cohort's segmenter, from the base segmenter.
    """

    discovery: int = 56
    held_out: int = 20
    training_steps: int = 40


@dataclass(frozen=True)
class Specific:
    """Latents that a method calls specific to one of two cohorts, among those that it looks at.

    Attributes:
        latents: those that it calls.
        live: how many it could have called.
        discovery: responses of the discovery patients without and with the factor.
        held_out: of the held-out patients with the factor off and on.
    """

    latents: Sequence[int]
    live: int
    discovery: tuple[Responses, Responses]
    held_out: tuple[Responses, Responses]

    def row(self, factor: str) -> dict[str, Any]:
        """Counts and, where a factor is planted, how the called latents answer to it, by column."""
        answer = asdict(response_to_factor(self.latents, discovery=self.discovery, held_out=self.held_out))
        called = answer.pop("called")
        counts = {"called": called, "live": self.live, "called share": called / max(self.live, 1)}
        return counts | (dict.fromkeys(answer) if factor == NONE else answer)


@dataclass(frozen=True, eq=False)
class Bench:
    """The cohorts and models of the experiment; each is made when it is first asked for.

    A cohort is named ``off``, or by a factor (its discovery patients), or ``held out/off``, ``held out/<factor>``. A
    model is named ``base`` (the study's) or by the discovery cohort that it was fine-tuned on.

    Attributes:
        study: whose base segmenter and settings are used.
        base: name of that segmenter.
        sizes: how much is made.
    """

    study: Study
    base: str
    sizes: Sizes
    _slices: dict[str, SliceSet] = field(default_factory=dict)
    _segmenters: dict[str, Segmenter] = field(default_factory=dict)
    _dictionaries: dict[tuple[str, str, str], tuple[SparseAutoencoder, Tensor]] = field(default_factory=dict)
    _responses: dict[tuple[str, str, str], Responses] = field(default_factory=dict)

    def hookpoints(self) -> list[str]:
        """The first of the base segmenter, where appearance is seen, and the study's own."""
        first = next(iter(self.study.segmenter(self.base).hookpoints))
        return list(dict.fromkeys([first, self.study.hookpoint(self.base)]))

    def slices(self, cohort: str) -> SliceSet:
        """A phantom cohort."""
        if cohort not in self._slices:
            held_out, factor = cohort.startswith("held out/"), cohort.rsplit("/", maxsplit=1)[-1]
            own = self.study.slices(self.study.settings.segmenters[self.base].cohort)
            most = self.sizes.held_out if held_out else self.sizes.discovery
            place = 0 if held_out or factor == OFF else 1 + list(FACTORS).index(factor)
            phantoms = _Phantoms(
                factors=FACTORS.get(factor, {}),
                subjects=min(most, own.index["patient"].n_unique()),
                seed=1000 * self.study.settings.seed + (HELD_OUT_SEED if held_out else DISCOVERY_SEED) + place,
                preprocessing=own.preprocessing or Preprocessing(own.sequences, self.study.settings.size),
            )
            stage = f"planted-slices/{cohort.replace('/', '-').replace(' ', '-')}"
            made = part(self.study, stage, "slices", asdict(phantoms), partial(_render, cohort, phantoms))
            self._slices[cohort] = SliceSet.read(made)
        return self._slices[cohort]

    def segmenter(self, model: str) -> Segmenter:
        """The base segmenter, or it fine-tuned on a discovery cohort."""
        base = self.study.segmenter(self.base)
        if model == BASE:
            return base
        if model not in self._segmenters:
            slices, seed, device = self.slices(model), self.study.settings.seed, self.study.device
            settings = TrainingSettings(steps=self.sizes.training_steps)

            def make(draft: Draft, progress: Progress) -> None:
                train_segmenter(
                    slices, init_from=base, settings=settings, seed=seed, device=device, progress=progress
                ).write(draft)

            inputs = {"slices": slices.hash, "init_from": base.hash, "steps": settings.steps, "seed": seed}
            made = part(self.study, f"planted-segmenter/{model.replace(' ', '-')}", "segmenter", inputs, make)
            self._segmenters[model] = Segmenter.read(made).to(device)
        return self._segmenters[model]

    def store(self, model: str, hookpoint: str) -> ActivationStore:
        """A model's activations on what it was trained on."""
        slices = self.study.own_slices(self.base, "train") if model == BASE else self.slices(model)
        return live_activations(self.segmenter(model), slices, hookpoint)

    def dictionary(self, model: str, hookpoint: str, variant: str = PLAIN) -> tuple[SparseAutoencoder, Tensor]:
        """A model's dictionary, fitted as the study's are, and which of its latents are alive."""
        key = (model, hookpoint, variant)
        if key not in self._dictionaries:
            settings, seed, store = self.study.settings, self.study.settings.seed, self.store(model, hookpoint)
            if (model, hookpoint, variant) == (BASE, self.study.hookpoint(self.base), PLAIN):
                dictionary = self.study.dictionary(self.base)
                self._dictionaries[key] = dictionary, alive_latents(dictionary, store)
                return self._dictionaries[key]

            def make(draft: Draft, progress: Progress) -> None:
                fit_to_store(
                    store,
                    settings.dictionaries,
                    seeds=variant_seeds(variant, seed),
                    device=self.study.device,
                    checkpoint=None,
                    progress=progress,
                ).write(draft)

            inputs = {
                "store": store.hash,
                "settings": settings.dictionaries.model_dump(mode="json", exclude={"controls"}),
                "seed": seed,
                "variant": variant,
            }
            name = f"planted-dictionary/{model}-{hookpoint}-{variant}".replace(" ", "-")
            dictionary = SparseAutoencoder.read(part(self.study, name, "dictionary", inputs, make))
            self._dictionaries[key] = dictionary, alive_latents(dictionary, store)
        return self._dictionaries[key]

    def tokens(self, model: str, hookpoint: str, slices: SliceSet) -> Tensor:
        """A model's activations of some slices, [B d h w d_in]."""
        grids = each_grid(self.segmenter(model), slices, hookpoint, batch_size=BATCH)
        return torch.cat([grid.cpu() for _, grid in grids])

    def responses(self, model: str, hookpoint: str, cohort: str) -> Responses:
        """How strongly the latents of a model's dictionary answer in each patient of a cohort."""
        key = (model, hookpoint, cohort)
        if key not in self._responses:
            slices, (dictionary, _) = self.slices(cohort), self.dictionary(model, hookpoint)
            grids = self.tokens(model, hookpoint, slices)
            self._responses[key] = responses_of(dictionary.encode(grids.flatten(0, 3)), slices, grid_of(grids))
        return self._responses[key]

    def held_out(self, model: str, hookpoint: str, factor: str) -> tuple[Responses, Responses]:
        """The held-out patients with a factor off and on; twice as they are where there is none."""
        return paired(*(self.responses(model, hookpoint, cohort) for cohort in held_out_cohorts(factor)))

    def crosscoder(self, hookpoint: str, factor: str) -> tuple[Crosscoder, list[int], int]:
        """One dictionary of the models of both cohorts, on the slices of both.

        Returns:
            The dictionary; its live latents that are in one model only, by their decoder norms and after latent scaling
            too, both judged on the held-out patients that calls are made on; and how many are live there.
        """
        stores = self._stores(hookpoint, factor, joined(self.slices(OFF), self.slices(factor)))
        seed = self.study.settings.seed

        def make(draft: Draft, progress: Progress) -> None:
            fit_crosscoder(stores, seed=seed, device=self.study.device, progress=progress).write(draft)

        inputs = {"stores": [store.hash for store in stores.values()], "settings": asdict(CROSSCODER_FIT), "seed": seed}
        name = f"differential-crosscoder/{factor}-{hookpoint}".replace(" ", "-")
        crosscoder = Crosscoder.read(part(self.study, name, CROSSCODER_KIND, inputs, make))
        calling, _ = self.held_out_halves()
        seen = (of_patients(self.slices(cohort), calling) for cohort in held_out_cohorts(factor))
        sharing = evaluate_crosscoder(crosscoder, self._stores(hookpoint, factor, joined(*seen, same_patients=True)))
        alone = (sharing.in_models("norm").sum(1) == 1) & (sharing.in_models("scaled").sum(1) == 1)
        return crosscoder, (alone & sharing.live).nonzero()[:, 0].tolist(), int(sharing.live.sum())

    def held_out_halves(self) -> tuple[list[str], list[str]]:
        """The held-out patients on whom a crosscoder's latents are called, and those on whom they are scored."""
        return alternating(self.slices(f"held out/{OFF}").index["patient"].to_list())

    def _stores(self, hookpoint: str, factor: str, slices: SliceSet) -> dict[str, ActivationStore]:
        """Activations of the models of both discovery cohorts, each on all of these slices."""
        return {model: live_activations(self.segmenter(model), slices, hookpoint) for model in (OFF, factor)}

    def crosscoder_responses(self, crosscoder: Crosscoder, hookpoint: str, cohort: str) -> Responses:
        """How strongly the latents of a crosscoder answer in each patient of a cohort."""
        slices = self.slices(cohort)
        grids = {model: self.tokens(model, hookpoint, slices) for model in crosscoder.names}
        codes = crosscoder.encode({model: grid.flatten(0, 3) for model, grid in grids.items()})
        any_grid = next(iter(grids.values()))
        return responses_of(codes, slices, grid_of(any_grid))


def open_bench(study: Study, sizes: Sizes) -> Bench:
    """The bench on the first segmenter of a study that can look at phantoms of tumours.

    Raises:
        NotApplicableError: there is none.
    """
    for name in study.settings.segmenters:
        slices = study.slices(study.settings.segmenters[name].cohort)
        if set(slices.sequences) <= set(SEQUENCES) and dict(slices.labels) == TUMOUR_LABELS:
            return Bench(study, name, sizes)
    raise NotApplicableError(
        f"needs a segmenter of {', '.join(SEQUENCES)} with the labels {', '.join(TUMOUR_LABELS.values())}: factors can "
        "be planted in phantoms only"
    )


def held_out_cohorts(factor: str) -> tuple[str, str]:
    """Names of the held-out cohorts with a factor off and on; the first twice where there is none."""
    return f"held out/{OFF}", f"held out/{OFF if factor == NONE else factor}"


def paired(off: Responses, on: Responses) -> tuple[Responses, Responses]:
    """The patients that both sides have, in one order."""
    both = [patient for patient in off.patients if patient in on.patients]
    return off.of(both), on.of(both)


def alternating(patients: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every second patient by name, from the first on, and the others."""
    names = sorted(set(patients))
    return names[::2], names[1::2]


def of_patients(slices: SliceSet, patients: Collection[str]) -> SliceSet:
    """The slices of these patients, in their order."""
    return slices.select([row for row, patient in enumerate(slices.index["patient"]) if patient in patients])


def joined(one: SliceSet, other: SliceSet, *, same_patients: bool = False) -> SliceSet:
    """The slices of two cohorts as one set.

    Args:
        one: of one cohort.
        other: of the other.
        same_patients: a name that is in both cohorts is one patient in two renderings, who is not independent of
            himself; otherwise the patients are told apart.
    """
    index = pl.concat([one.index, other.index])
    if not same_patients:
        cohort = pl.when(pl.int_range(pl.len()) < len(one)).then(pl.lit("0/")).otherwise(pl.lit("1/"))
        index = index.with_columns((cohort + pl.col("patient")).alias("patient"))
    return SliceSet.from_tensors(
        torch.cat([one.images(), other.images()]),
        torch.cat([one.masks(), other.masks()]),
        torch.cat([one.brains(), other.brains()]),
        index,
        name=f"{one.name} and {other.name}",
        sequences=one.sequences,
        labels=one.labels,
        preprocessing=one.preprocessing,
    )


def responses_of(codes: Codes, slices: SliceSet, grid: Extent) -> Responses:
    """Mean activation by patient, in the lesion and elsewhere; patients without a token of lesion are left out.

    Args:
        codes: of all tokens of the slices, slice after slice.
        slices: with masks.
        grid: slices, rows and columns of a sample's tokens.
    """
    per_slice = prod(grid)
    shares = cell_shares((slices.masks() > 0).float(), grid)
    lesion = shares.reshape(-1) >= LESION_SHARE
    owners = slices.index["patient"].to_list()
    seen = lesion.reshape(-1, per_slice).any(1).tolist()
    names = sorted({patient for patient, has_lesion in zip(owners, seen, strict=True) if has_lesion})
    number = {patient: place for place, patient in enumerate(names)}
    patients = torch.tensor([number.get(patient, -1) for patient in owners]).repeat_interleave(per_slice)
    kept = patients >= 0
    inside = lesion[kept]
    regions = {"lesion": inside, "rest": ~inside}
    return patient_responses(codes.rows(kept.nonzero()[:, 0]), patients[kept], regions, names)


@dataclass(frozen=True)
class _Phantoms:
    """All that a cohort of phantoms follows from."""

    factors: Mapping[str, str]
    subjects: int
    seed: int
    preprocessing: Preprocessing


def _render(name: str, phantoms: _Phantoms, draft: Draft, progress: Progress) -> None:
    """Phantoms through the files that a scanner's would come in, so that they are read as any cohort is."""
    with TemporaryDirectory() as scratch:
        folder = write_phantom_cohort(
            Path(scratch) / "cohort",
            POPULATION,
            subjects=phantoms.subjects,
            seed=phantoms.seed,
            factors=phantoms.factors,
            size=phantoms.preprocessing.size,
            slices=SLICES,
            workers=min(2, torch.get_num_threads()),
            progress=progress,
        )
        sequences = phantoms.preprocessing.sequences
        cohort = read_cohort(folder, SourceOptions(layout="nnunet"), name=name, sequences=sequences, seed=0)
        prepare_slices(cohort, phantoms.preprocessing).write(draft)
