"""Which latents two models share: never a share without its floor, its ceiling and whether the pairs fire together."""

from collections.abc import Mapping
from typing import Any

from seglens.reports.blocks import Block, Cell, Chart, Fold, Key, Paragraph, Section, head, table
from seglens.reports.charts import NARROW
from seglens.reports.figures import TITLE, fact, range_chart, range_rows
from seglens.reports.palette import BLUE, INK, MUTED, VERMILLION, heat
from seglens.reports.wording import (
    UNDEFINED,
    count,
    defined,
    dig,
    listed,
    number,
    pair_of,
    percent,
    plain,
)

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


def sharing_section(summary: Mapping[str, Any]) -> Section:
    """The main figure, the matrix and the numbers."""
    entries = summary.get("alignments") or []
    if not entries:
        text = "No pair of dictionaries was compared (it takes two)."
        return Section("sharing", "Shared and specific latents", INTRO, (Paragraph(text, "missing"),))
    rows = range_rows(summary)
    figure = Chart(TITLE, range_chart(rows), range_chart(rows, width=NARROW), CAPTION, KEYS)
    blocks: list[Block] = [figure, *_universal(summary), _matrix(entries), _numbers(entries)]
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


def _universal(summary: Mapping[str, Any]) -> list[Block]:
    universal = summary.get("universal") or {}
    if defined(universal.get("n")) is None:
        return []
    names = listed(plain(name) for name in universal.get("segmenters") or [])
    text = f"Shared in every pair{f' of {names}' if names else ''}: {count(universal['n'])} latents"
    share = f" ({percent(universal['share'])} of the live ones)" if defined(universal.get("share")) is not None else ""
    return [
        Paragraph(
            f"{text}{share}. The rest are specific to some. This count is as raw as the shares it is made of, and its "
            "own floor was not measured."
        )
    ]


def _matrix(entries: list[Mapping[str, Any]]) -> Block:
    names = list(dict.fromkeys(str(entry[side]) for entry in entries for side in ("source", "target")))
    by_pair = {(str(entry["source"]), str(entry["target"])): entry for entry in entries}
    rows = []
    for a in names:
        cells: list[Cell] = []
        for b in names:
            entry = by_pair.get((a, b)) or by_pair.get((b, a))
            cells.append(Cell("") if entry is None else _pair_cell(entry))
        rows.append((head(plain(a)), *cells))
    return table(
        "Calibrated share of every pair, with the raw share and [floor–ceiling]",
        ("", *(plain(name) for name in names)),
        rows,
        "Large: calibrated share (0 the floor, 1 the ceiling; dark is low). Small: shared and specific share of the "
        "live latents, then [floor–ceiling]. – : not comparable by weights (other architecture or hookpoint), or not "
        "measured.",
        heat=True,
    )


def _pair_cell(entry: Mapping[str, Any]) -> Cell:
    raw, calibrated = defined(entry.get("shared")), defined(entry.get("calibrated"))
    if raw is None:
        return Cell(UNDEFINED, f"by function {number(dig(entry, 'functional', 'matched_by_function'))}")
    fill, ink = heat(calibrated) if calibrated is not None else ("", "")
    bounds = f"[{percent(entry.get('floor'))} – {percent(entry.get('ceiling'))}]"
    return Cell(number(calibrated), f"{percent(raw)} shared, {percent(1 - raw)} specific {bounds}", fill, ink)


def _numbers(entries: list[Mapping[str, Any]]) -> Block:
    rows = []
    for entry in entries:
        together = [
            dig(entry, "functional", key) for key in ("matched_by_weight", "matched_by_function", "floor", "ceiling")
        ]
        rows.append(
            (
                head(pair_of(entry), _circumstances(entry)),
                *(percent(entry.get(key), 1) for key in ("floor", "shared", "ceiling", "ceiling_other_seed")),
                Cell(number(entry.get("calibrated")), strong=True),
                *(number(value) for value in together),
                Cell(f"{count(entry.get('dead_source'))} / {count(entry.get('dead_target'))}"),
            )
        )
    columns = (
        "Pair", "Floor", "Raw share", "Ceiling", "Ceiling, other seed", "Calibrated", "Correlation, by weight",
        "… by function", "… null", "… same model", "Dead left out",
    )  # fmt: skip
    note = (
        "Shares are of the live latents of the narrower side; dead latents (source / target) are left out and counted. "
        "“Ceiling, other seed”: what the criterion finds between two dictionaries of one and the same model when only "
        "their seed differs. “… same model”: correlation by function of those two."
    )
    return table("Every pair in numbers", columns, rows, note)


def _circumstances(entry: Mapping[str, Any]) -> str:
    tau = defined(entry.get("tau"))
    facts = [
        "" if tau is None else f"tau {tau:g}",
        fact(entry.get("same_segmenter_start"), "common start", "separate starts"),
        fact(entry.get("same_sae_seed"), "same SAE seed", "other SAE seed"),
    ]
    return ", ".join(one for one in facts if one)


def _methods(entry: Mapping[str, Any]) -> Block | None:
    methods = {name: flattened(values) for name, values in (entry.get("methods") or {}).items()}
    columns = list(dict.fromkeys(key for values in methods.values() for key in values))
    if not columns:
        return None
    rows = [(head(plain(name)), *(_figure(values.get(key)) for key in columns)) for name, values in methods.items()]
    return table(pair_of(entry), ("Method", *(_column(key) for key in columns)), rows)


FILTERS = {"none": "no filter", "tau": "cosine ≥ tau", "shared": "the shared set only", "n": "pairs"}


def _column(key: str) -> str:
    return ", ".join(FILTERS.get(part, plain(part)) for part in key.split(", "))


def _figure(value: Any) -> str:
    return count(value) if isinstance(value, int) else number(value, 3)


def flattened(values: Any, before: str = "") -> dict[str, Any]:
    """Nested figures as one level: ``{"filtered": {"agreement": 1}}`` becomes ``{"agreement, filtered": 1}``."""
    flat: dict[str, Any] = {}
    if not isinstance(values, Mapping):
        return flat
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{before}{key}, ")
        else:
            flat[f"{key}, {before[:-2]}" if before else str(key)] = value
    return flat
