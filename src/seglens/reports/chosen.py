"""Chosen latents as one page that can be sent: what the explorer shows of them, without the explorer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from seglens.artifacts import write_text_whole
from seglens.reports.blocks import Block, Drawing, Paragraph, Pictures, Section, head, table
from seglens.reports.report import render
from seglens.reports.sections.gallery import activation_scale, described_slices, heat_pictures
from seglens.reports.wording import number, orientation, percent, plain
from seglens.runs import Run
from seglens.semantics.atlas import LatentAtlas

PICTURES = 8
CAPTION = (
    "Its activation is painted over the slices (bright: strong; one scale), the class that it is named after outlined "
    "in white. Neither the model nor the dictionary has seen them in training. Slices are"
)
SUBTITLE = "Chosen latents. The page needs no network and runs no script."


def write_chosen(
    run: Run, chosen: Mapping[str, Sequence[int]], path: Path, *, given: Mapping[tuple[str, int], str] | None = None
) -> Path:
    """Write a page about some latents.

    Args:
        run: a finished one.
        chosen: name of a segmenter -> its latents.
        path: the file.
        given: names that people gave, by segmenter and latent.

    Returns:
        Where it was written.

    Raises:
        ValueError: nothing is chosen, or the run does not have it.
    """
    if not any(chosen.values()):
        raise ValueError("no latents are chosen; give some, such as adult:3,17")
    missing = [name for name in chosen if f"atlas/{name}" not in run]
    if missing:
        known = ", ".join(stage.removeprefix("atlas/") for stage in run.stages("atlas/")) or "none"
        raise ValueError(f"{run.path}: no latents of {', '.join(missing)}; the run has those of {known}")
    sections = [
        _section(run, name, LatentAtlas.read(run.artifact(f"atlas/{name}")), latent, (given or {}).get((name, latent)))
        for name, latents in chosen.items()
        for latent in latents
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, render(run.study["name"], sections, subtitle=SUBTITLE))
    return path


def _section(run: Run, segmenter: str, atlas: LatentAtlas, latent: int, given: str | None) -> Section:
    facts = atlas.of(latent)
    name = given or str(facts["name"] or "never fires")
    intro = f"Latent {latent} of {plain(segmenter)}, at {atlas.context['hookpoint']}."
    if given:
        intro += f" The name was given by a person; by rule it is “{facts['name'] or 'never fires'}”."
    measured = [
        ("fires at (share of tokens)", percent(facts["firing_rate"], 2)),
        ("mean code where it fires", number(facts["mean_activation"], 2)),
        ("inside the lesion", percent(facts["inside"])),
        ("on a border of labels", percent(facts["boundary"])),
        ("at the edge of the brain", percent(facts["edge"])),
        ("depth (0 superficial, 1 deepest)", number(facts["depth"], 2)),
        ("side", str(facts["side"] or "–")),
    ]
    classes = [
        (head(plain(label)), percent(facts[f"p_{label}"]), percent(rate, 1), number(facts[f"lift_{label}"], 1))
        for label, rate in atlas.base_rates.items()
    ]
    blocks: list[Block] = [
        *_examples(run, atlas, latent),
        table("Where its mass lies", ("class", "share of its mass", "of all pixels", "lift"), classes),
        table("Measured", ("measure", "value"), [(head(what), value) for what, value in measured]),
    ]
    partners = _partners(run, segmenter, latent)
    if partners:
        note = "Matched by the correlation of codes on common slices."
        blocks.append(table("Partners in other segmenters", ("segmenter", "latent", "correlation"), partners, note))
    return Section(f"{segmenter}-{latent}", name, intro, tuple(blocks))


def _examples(run: Run, atlas: LatentAtlas, latent: int) -> list[Block]:
    cohort = atlas.context["cohort"]
    exemplars, maps = atlas.exemplars_of(latent)
    if exemplars.is_empty() or f"slices/{cohort}" not in run:
        return [Paragraph("It fires on none of the described slices.", "missing")]
    slices = described_slices(run, cohort)
    pictures = heat_pictures(atlas.of(latent), exemplars[:PICTURES], maps[:PICTURES], atlas, slices)
    return [
        Drawing(activation_scale()),
        Pictures("Where it is strongest", pictures, f"{CAPTION} {orientation(slices.sequences)}"),
    ]


def _partners(run: Run, segmenter: str, latent: int) -> list[tuple[Any, ...]]:
    found = []
    for stage in run.stages("alignment/"):
        sides = stage.removeprefix("alignment/").split("~")
        if segmenter not in sides:
            continue
        own, other = ("source", "target") if segmenter == sides[0] else ("target", "source")
        pairs = run.artifact(stage).table("functional").filter(pl.col(f"{own}_latent") == latent)
        for pair in pairs.to_dicts():
            place = sides[1] if own == "source" else sides[0]
            found.append((head(plain(place)), str(pair[f"{other}_latent"]), number(pair["correlation"], 2)))
    return found
