"""Section of circuits: what edges are worth on each cohort, whether few are enough, and whether others are in use."""

import polars as pl

from seglens.circuits.reliability import RELIABLE
from seglens.reports.blocks import Block, Cell, Chart, Fold, Heading, Key, Section, head, table
from seglens.reports.charts import NARROW, WIDE, Series, line_chart
from seglens.reports.palette import BLUE, MUTED, ORANGE
from seglens.reports.wording import number, plain, signed
from seglens.runs import Run

MAX_EDGES = 12
LINES = (
    ("score", "largest scores", BLUE, ""),
    ("distance", "distance, no gradient", ORANGE, "6 3"),
    ("random", "random, same stages", MUTED, "2 3"),
)


def circuits_section(run: Run) -> Section | None:
    """A table of cohorts, a table of edges and a chart for each segmenter; None where no circuit was looked for."""
    units = [stage.removeprefix("circuits/") for stage in run.stages("circuits/")]
    if not units:
        return None
    intro = (
        "A network is a graph of parts that read each other. An edge is ablated by giving one reader the mean of the "
        "training slices in the place of what one other part gives. Its worth is the soft Dice to the network's own "
        "mask that is lost, without any mask of the cohort: what a segmentation rests on, not whether it is right."
    )
    blocks: list[Block] = []
    for name in dict.fromkeys(unit.rsplit("@", 1)[0] for unit in units):
        own = [unit for unit in units if unit.rsplit("@", 1)[0] == name]
        known = [unit for unit in own if run.artifact(f"circuits/{unit}").has("edges.parquet")]
        blocks += [Heading(plain(name)), _cohorts(run, own)]
        if known:
            blocks += [_edges(run, known), _curves(run, known[0])]
    return Section("circuits", "What segmentations rest on", intro, tuple(blocks))


def _cohort(unit: str) -> str:
    return plain(unit.rsplit("@", 1)[1])


def _cohorts(run: Run, units: list[str]) -> Block:
    rows = []
    for unit in units:
        document = run.artifact(f"circuits/{unit}").document("circuits")
        reliability = document.get("reliability")
        rows.append(
            (
                head(_cohort(unit), document.get("undefined", "")),
                Cell(number(document.get("patients"), 0)),
                Cell(number(reliability), strong=reliability is not None and reliability < RELIABLE),
                Cell(number(document.get("area"))),
                Cell(number(document.get("shift"))),
                Cell(number(document.get("p"), 3)),
            )
        )
    return table(
        "Circuits by cohort",
        ("Cohort", "Patients", "Reliability of ranks", "Area under faithfulness", "Shift from home", "p"),
        rows,
        f"Reliability: do two halves of the patients rank edges alike? Below {RELIABLE:g} (bold) nothing else here is "
        "worth reading. Shift: 1 - rank correlation of all edges with those at home, p by permuting patients; another "
        "way is not a worse mask.",
    )


def _edges(run: Run, units: list[str]) -> Block:
    means = []
    for unit in units:
        edges = run.artifact(f"circuits/{unit}").table("edges")
        mean = edges.group_by("producer", "consumer", maintain_order=True).agg(pl.col("score").mean())
        means.append({(producer, consumer): score for producer, consumer, score in mean.rows()})
    order = sorted(means[0], key=lambda edge: -abs(means[0][edge]))
    rows = [
        (head(f"{producer} → {consumer}"), *(Cell(signed(mean.get((producer, consumer)), 3)) for mean in means))
        for producer, consumer in order
    ]
    columns = ("Edge", *(_cohort(unit) for unit in units))
    first = rows[:MAX_EDGES]
    first = rows[:MAX_EDGES]
    largest = table(f"Soft Dice lost when an edge is ablated: the {len(first)} largest", columns, first)
    return Fold("Worth of edges", (largest, table("All edges", columns, rows)))


def _curves(run: Run, unit: str) -> Block:
    curves = run.artifact(f"circuits/{unit}").table("curves").filter(pl.col("part") == "kept")
    series, keys = [], []
    for ranking, name, colour, dash in LINES:
        own = curves.filter(pl.col("ranking") == ranking).sort("share")
        series.append(Series(name, tuple(own["share"]), tuple(own["faithfulness"]), colour, dash))
        keys.append(Key(name, colour, "line", dash))
    title = f"{_cohort(unit)}: what some edges keep of all that the network does"
    wide, narrow = (
        line_chart(title, series, (), x_label="share of edges kept", y_label="faithfulness", width=width)
        for width in (WIDE, NARROW)
    )
    caption = "Edges are ranked on one half of the patients and measured on the other. 1 is the whole network."
    return Chart(title, wide, narrow, caption, tuple(keys))
