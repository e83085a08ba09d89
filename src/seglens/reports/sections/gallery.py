"""A selection of named latents, each with the slices on which it is strongest."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from seglens.cohorts.slice_set import SliceSet
from seglens.lens_names import segmenter_of
from seglens.reports.blocks import Block, Card, Cards, Drawing, Paragraph, Picture, Section, Table, head, table
from seglens.reports.charts import colour_scale
from seglens.reports.palette import INFERNO
from seglens.reports.pictures import best_sequence, heat_picture
from seglens.reports.shown_planes import place_of, planes_of, strongest_planes
from seglens.reports.wording import count, number, orientation, percent, plain
from seglens.runs import Run
from seglens.semantics.atlas import LatentAtlas

LATENTS = 10
EXEMPLARS = 4
OTHERS = 4
"""Latents of the background or of no class, at most."""
SIDE = 144
MIN_FIRING = 1e-3
"""Share of tokens; latents that fire less often are shown only where nothing else is there."""
CAPTION = (
    "Below: the slices on which each latent is strongest, with its activation painted over them (bright: strong; one "
    "scale for the slices of one latent) and the class that it is named after outlined in white. Neither the model nor "
    "the dictionary has seen them in training."
)
TOTAL_PICTURES = 260
"""Of all galleries together, so that the page stays small enough to be sent."""


def gallery_section(run: Run, trained_on: Mapping[str, str]) -> Section:
    """Cards for each dictionary that has an atlas.

    Args:
        run: with atlases and slices.
        trained_on: segmenter to the cohort that it was trained on.
    """
    intro = (
        "Names are made by rules from where and on what a latent fires; they say what it goes with, not what it is "
        "for. A word stands in a name only if each half of the patients alone gives it too. “Lift” is how many times "
        "more often its activation lies on the class than chance would have it."
    )
    stages = run.stages("atlas/")
    if not stages:
        text = "No latents were described."
        return Section("latents", "What the latents mean", intro, (Paragraph(text, "missing"),))
    share = max(3, min(LATENTS, TOTAL_PICTURES // EXEMPLARS // len(stages)))
    blocks: list[Block] = []
    sequences: list[str] = []
    for stage in stages:
        name = stage.split("/", 1)[1]
        segmenter = segmenter_of(name)
        cohort = trained_on.get(segmenter, segmenter)
        atlas = LatentAtlas.read(run.artifact(stage))
        slices = described_slices(run, cohort) if f"slices/{cohort}" in run else None
        sequences += slices.sequences if slices is not None else ()
        title = f"{plain(segmenter)} at {plain(atlas.context['hookpoint'])}"
        blocks += [replication_table(title, atlas), _cards(title, atlas, slices, share)]
    caption = Paragraph(f"{CAPTION} Slices are {orientation(sequences)}", "note")
    return Section("latents", "What the latents mean", intro, (caption, Drawing(activation_scale()), *blocks))


def replication_table(title: str, atlas: LatentAtlas) -> Table:
    """How many names of an atlas come back, part by part.

    Args:
        title: of the lens.
        atlas: of its latents.
    """
    rows = [
        (
            head(row["part"]),
            count(row["named"]),
            count(row["replicated"]),
            number(row["by_chance"], 1),
            count(row["other_masks"]),
        )
        for row in atlas.replication.iter_rows(named=True)
    ]
    columns = ("part of the name", "on all patients", "in both halves too", "by chance", "with other patients' masks")
    note = (
        "“In both halves”: the same word on all patients and on each half of them. “By chance”: expected if the second "
        "half's words were dealt to its live latents at random. “With other patients' masks”: named although each "
        "slice had the mask of another patient; side, depth and extent do not follow from masks. A class counts where "
        "it is not the background; the full name is that of latents with such a class."
    )
    return table(f"{title}: names that come back", columns, rows, note)


def described_slices(run: Run, cohort: str) -> SliceSet:
    """The slices that an atlas was made on: those of the val and test splits, in their order."""
    slices = SliceSet.read(run.artifact(f"slices/{cohort}"))
    rows = [row for row, split in enumerate(slices.index["split"].to_list()) if split in ("val", "test")]
    return slices.select(rows)


def chosen_latents(table: pl.DataFrame, classes: list[str], wanted: int) -> list[int]:
    """Latents worth showing: in turn for each class the one with the highest lift that fires often enough and has its
    class in both halves of the patients; where classes have too few, some of the others, heaviest first, each of
    another name.

    Args:
        table: an atlas's table.
        classes: foreground class names.
        wanted: how many at most.

    Returns:
        Latent numbers, grouped by class, strongest first.
    """
    live = table.filter(
        ~pl.col("dead") & (pl.col("n_exemplars") > 0) if "n_exemplars" in table.columns else ~pl.col("dead")
    )
    frequent = live.filter(pl.col("firing_rate") >= MIN_FIRING)
    live = frequent if frequent.height else live
    ranked: dict[str, list[int]] = {}
    for name in classes:
        lift = f"lift_{name}"
        if lift in live.columns:
            own = live.filter((pl.col("top_class") == name) & pl.col("class_replicates") & pl.col(lift).is_not_null())
            ranked[name] = own.sort([lift, "latent"], descending=[True, False])["latent"].to_list()
    named = pl.col("top_class").is_in(list(ranked)) & pl.col("class_replicates")
    others = live.filter(~named | named.is_null())
    others = others.sort(["mass", "latent"], descending=[True, False])
    if "name" in others.columns:  # one of each kind: the heaviest latents of the background are all alike
        others = others.unique("name", keep="first", maintain_order=True)
    ranked[""] = others["latent"].to_list()[:OTHERS]
    taken: dict[str, int] = dict.fromkeys(ranked, 0)
    names = [name for name in ranked if name]
    while sum(taken.values()) < wanted:
        open_names = [name for name in names if taken[name] < len(ranked[name])]
        if not open_names:
            break
        for name in open_names:
            if sum(taken.values()) < wanted - (1 if ranked[""] and not taken[""] else 0):
                taken[name] += 1
        if ranked[""] and not taken[""]:
            taken[""] = 1
    taken[""] = min(len(ranked[""]), max(taken[""], wanted - sum(taken[name] for name in names)))
    return [latent for name, latents in ranked.items() for latent in latents[: taken[name]]]


def _cards(name: str, atlas: LatentAtlas, slices: SliceSet | None, wanted: int) -> Block:
    classes = [label for value, label in sorted(atlas.labels.items()) if value != 0]
    latents = chosen_latents(atlas.table, classes, wanted)
    live = atlas.table.height - int(atlas.table["dead"].sum())
    title = f"{name}: {len(latents)} of {live} live latents"
    if not latents:
        return Paragraph(f"{name}: no latent fires on the described slices.", "missing")
    cards = tuple(_card(atlas, latent, slices) for latent in latents)
    return Cards(title, cards)


def activation_scale() -> Markup:
    """The colours of a heat map, from weak to strong."""
    colours = [f"#{bytes(INFERNO[level].tolist()).hex()}" for level in range(55, 256, 10)]
    return colour_scale("Colours of the activation, from weak to strong", colours, "weak", "strong")


def _card(atlas: LatentAtlas, latent: int, slices: SliceSet | None) -> Card:
    facts = atlas.of(latent)
    top = facts.get("top_class")
    exemplars, maps = atlas.exemplars_of(latent)
    lines = [
        ("fires on", f"{percent(facts.get('firing_rate'), 1)} of tokens"),
        ("in any label", percent(facts.get("inside"))),
        ("on a border", percent(facts.get("boundary"))),
    ]
    if top and facts.get(f"p_{top}") is not None:
        base = percent(atlas.base_rates.get(top), 1)
        lift = f"lift {number(facts.get(f'lift_{top}'), 1)}"
        lines.insert(0, (plain(top), f"{percent(facts[f'p_{top}'])} of its mass ({lift}; base rate {base})"))
    if facts.get("withheld"):
        lines.append(("not in both halves of the patients", str(facts["withheld"])))
    name = str(facts.get("name") or "unnamed")
    pictures = () if slices is None else heat_pictures(facts, exemplars[:EXEMPLARS], maps[:EXEMPLARS], atlas, slices)
    return Card(name, f"latent {latent}", tuple(lines), pictures)


def heat_pictures(
    facts: Mapping[str, Any],
    exemplars: pl.DataFrame,
    maps: Float[Tensor, "n d h w"],
    atlas: LatentAtlas,
    slices: SliceSet,
) -> tuple[Picture, ...]:
    """Exemplar slices with a latent's codes over them, and the class that it is named after outlined.

    Args:
        facts: what the atlas says of the latent.
        exemplars: rows of the atlas's table.
        maps: one for each of them; of a volume the plane of most activation is shown.
        atlas: the latent's.
        slices: that the atlas was made on.
    """
    rows = exemplars["row"].cast(pl.Int64).to_list()
    if not rows or max(rows) >= len(slices):
        return ()
    name, top = str(facts.get("name") or "unnamed"), str(facts.get("top_class"))
    channel = best_sequence(slices.sequences, top)
    value = next((value for value, label in atlas.labels.items() if label == top), None)
    heat, numbers = strongest_planes(maps, slices.size[0])
    (images, masks, brains), _ = planes_of(slices, rows, numbers)
    strongest = float(heat.max()) if heat.size else 0.0
    pictures = []
    for place, row in enumerate(rows):
        entry = slices.index.row(row, named=True)
        region = masks[place] == value if value else None
        uri = heat_picture(images[place, channel], brains[place], heat[place], strongest, region=region, side=SIDE)
        where = place_of(entry, int(numbers[place]), slices)
        alt = f"{slices.sequences[channel]} slice of {where} with the activation of the latent “{name}” over it"
        pictures.append(Picture(uri, alt, SIDE, SIDE, ""))
    return tuple(pictures)
