"""Section of shared latents: never a share without floor, ceiling and whether the pairs fire together."""

from collections.abc import Sequence
from dataclasses import fields

from seglens.diffing.records import AlignmentRecord, MatchingRecord
from seglens.reports.blocks import Block, Cell, Chart, Fold, Key, Paragraph, Section, head, table
from seglens.reports.charts import NARROW
from seglens.reports.figures import TITLE, fact, range_chart, range_rows
from seglens.reports.palette import BLUE, INK, MUTED, VERMILLION, heat
from seglens.reports.wording import (
    UNDEFINED,
    count,
    listed,
    number,
    pair_of,
    percent,
    plain,
)
from seglens.summaries import Summary

INTRO = (
    "Two models are compared latent by latent. A raw share misleads: two dictionaries that begin at the same random "
    "seed look alike before they have learnt anything. So every share stands between a floor (the same, on "
    "activations that were randomly rotated and hence share no meaning) and a ceiling (the same model and data twice)."
)
KEYS = (
    Key("floor: randomly rotated activations, same SAE seed", VERMILLION, "tick"),
    Key("raw share of this pair", BLUE, "dot"),
    Key("ceiling: same model and data, other token order", INK, "tick"),
    Key("same model and data, other SAE seed", MUTED, "ring"),
)
CAPTION = (
    "Bar: from floor to ceiling. The blue dot is the raw share; only its place on the bar says something. "
    "“Calibrated”: 0 is the floor, 1 is the ceiling. “Correlation, by weight”: how well the codes of the pairs "
    "matched by their weights agree on the same slices; “by function”: the same for pairs chosen by their codes, with "
    "the value for slices that have nothing in common but the place (null). High share with low correlation: same "
    "vectors, other use."
)


def sharing_section(summary: Summary) -> Section:
    """The main figure, the matrix and the numbers."""
    entries = summary.alignments
    if not entries:
        text = "No pair of dictionaries was compared (it takes two)."
        return Section("sharing", "Shared and specific latents", INTRO, (Paragraph(text, "missing"),))
    rows = range_rows(summary)
    figure = Chart(TITLE, range_chart(rows), range_chart(rows, width=NARROW), CAPTION, KEYS)
    blocks: list[Block] = [figure, *_universal(summary), *_matrices(summary), _numbers(entries)]
    bounds = [_bounds(entry) for entry in entries if entry.bounds]
    if bounds:
        blocks.append(Fold("Every way to match, between its floor and its ceiling", tuple(bounds)))
    methods = [block for entry in entries if (block := _methods(entry)) is not None]
    if methods:
        blocks.append(
            Fold("Other ways to match, with and without the threshold", (*methods, Paragraph(METHODS, "note")))
        )
    return Section("sharing", "Shared and specific latents", INTRO, tuple(blocks))


METHODS = (
    "Agreement, stability, collision and predictability compare ways to match. With the shared set's own filter, full "
    "agreement and no collision are true by construction, so each is given without the filter as well; agreement alone "
    "says nothing, for two unrelated untrained dictionaries also reach 100 %."
)


def _universal(summary: Summary) -> list[Block]:
    if summary.universal is None:
        return []
    names = listed(plain(name) for name in summary.universal.segmenters)
    text = f"Shared in every pair of {names}: {count(summary.universal.n)} latents"
    return [
        Paragraph(
            f"{text} ({percent(summary.universal.share)} of the live ones). The rest are specific to some. This count "
            "is as raw as the shares it is made of, and its own floor was not measured."
        )
    ]


def _matrices(summary: Summary) -> list[Block]:
    """One for each set of dictionaries that pairs link; of several, each says at which hookpoints they are."""
    groups: list[list[AlignmentRecord]] = []
    for entry in summary.alignments:
        linked = [group for group in groups if any({one.source, one.target} & {*_sides(entry)} for one in group)]
        groups = [group for group in groups if group not in linked] + [[*(one for own in linked for one in own), entry]]
    hookpoints = {one.name: plain(one.hookpoint) for one in summary.dictionaries}
    blocks = []
    for group in groups:
        known = dict.fromkeys(hookpoints[side] for one in group for side in _sides(one) if side in hookpoints)
        blocks.append(_matrix(group, f", at {listed(known)}" if known and len(groups) > 1 else ""))
    return blocks


def _sides(entry: AlignmentRecord) -> tuple[str, str]:
    return entry.source, entry.target


def _matrix(entries: Sequence[AlignmentRecord], where: str) -> Block:
    names = list(dict.fromkeys(side for entry in entries for side in (entry.source, entry.target)))
    by_pair = {(entry.source, entry.target): entry for entry in entries}
    rows = []
    for a in names:
        cells: list[Cell] = []
        for b in names:
            entry = by_pair.get((a, b)) or by_pair.get((b, a))
            cells.append(Cell("") if entry is None else _pair_cell(entry))
        rows.append((head(plain(a)), *cells))
    return table(
        f"Calibrated share of every pair, with the raw share and [floor–ceiling]{where}",
        ("", *(plain(name) for name in names)),
        rows,
        "Large: calibrated share (0 the floor, 1 the ceiling; dark is low). Small: shared and specific share of the "
        "live latents, then [floor–ceiling]. – : not comparable by weights (other architecture or hookpoint), or not "
        "measured.",
        heat=True,
    )


def _pair_cell(entry: AlignmentRecord) -> Cell:
    raw, calibrated = entry.shared, entry.calibrated
    if raw is None:
        codes = entry.functional
        return Cell(UNDEFINED, f"by function {number(codes.matched_by_function)} (its null {number(codes.floor)})")
    fill, ink = heat(calibrated) if calibrated is not None else ("", "")
    bounds = f"[{percent(entry.floor)} – {percent(entry.ceiling)}]"
    return Cell(number(calibrated), f"{percent(raw)} shared, {percent(1 - raw)} specific {bounds}", fill, ink)


def _numbers(entries: Sequence[AlignmentRecord]) -> Block:
    rows = []
    for entry in entries:
        shares = (entry.floor, entry.shared, entry.ceiling, entry.ceiling_other_seed)
        codes = entry.functional
        together = (
            codes.matched_by_weight,
            codes.matched_by_function,
            codes.floor,
            codes.ceiling,
            codes.calibrated,
        )
        rows.append(
            (
                head(pair_of(entry), _circumstances(entry)),
                *(percent(share, 1) for share in shares),
                Cell(number(entry.calibrated), strong=True),
                *(number(value) for value in together),
                Cell(f"{count(entry.dead_source)} / {count(entry.dead_target)}"),
            )
        )
    columns = (
        "Pair", "Floor", "Raw share", "Ceiling", "Ceiling, other seed", "Calibrated", "Correlation, by weight",
        "… by function", "… null", "… same model", "… calibrated", "Dead left out",
    )  # fmt: skip
    note = (
        "Shares are of the live latents of the narrower side; dead latents (source / target) are left out and counted. "
        "“Ceiling, other seed”: what the criterion finds between two dictionaries of one and the same model when only "
        "their seed differs. “… same model”: correlation by function of those two. "
        "Correlations by function of dictionaries of different width or token grid start from different nulls: each "
        "compares with its own null alone, and none of them is calibrated (0 the null, 1 the same model)."
    )
    return table("Every pair in numbers", columns, rows, note)


def _circumstances(entry: AlignmentRecord) -> str:
    facts = [
        "" if entry.tau is None else f"tau {entry.tau:g}",
        fact(entry.same_segmenter_start, "common start", "separate starts"),
        fact(entry.same_sae_seed, "same SAE seed", "other SAE seed"),
    ]
    return ", ".join(one for one in facts if one)


def _bounds(entry: AlignmentRecord) -> Block:
    rows = [
        (
            head(plain(one.method)),
            *(percent(share, 1) for share in (one.floor, one.share, one.ceiling)),
            Cell(number(one.calibrated), strong=True),
        )
        for one in entry.bounds or ()
    ]
    return table(pair_of(entry), ("Method", "Floor", "Raw share", "Ceiling", "Calibrated"), rows)


def _methods(entry: AlignmentRecord) -> Block | None:
    if not entry.methods:
        return None
    first = next(iter(entry.methods.values()))
    figures = [one.name for one in fields(MatchingRecord)]
    columns = [f"{plain(WORDS.get(one, one))}, {WORDS.get(kept, kept)}" for kept in first for one in figures]
    rows = []
    for name, by_filter in entry.methods.items():
        values = [getattr(by_filter[kept], figure) for kept in first for figure in figures]
        rows.append((head(plain(name)), *(count(one) if isinstance(one, int) else number(one, 3) for one in values)))
    return table(pair_of(entry), ("Method", *columns), rows)


WORDS = {"none": "no filter", "tau": "cosine ≥ tau", "shared": "the shared set only", "n": "pairs"}
