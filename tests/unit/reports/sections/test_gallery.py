import polars as pl

from seglens.reports.sections.gallery import chosen_latents, described_slices, gallery_section
from seglens.runs import Run
from seglens.summaries import summary_of


def table_of(rows: list[tuple[str | None, float | None, float, float, bool]]) -> pl.DataFrame:
    """Rows of top_class, lift of it, firing rate, mass, dead."""
    return pl.DataFrame(
        {
            "latent": list(range(len(rows))),
            "top_class": [row[0] for row in rows],
            "lift_edema": [row[1] if row[0] == "edema" else 0.1 for row in rows],
            "lift_core": [row[1] if row[0] == "core" else None for row in rows],
            "firing_rate": [row[2] for row in rows],
            "mass": [row[3] for row in rows],
            "dead": [row[4] for row in rows],
            "class_replicates": True,
        },
        schema_overrides={"top_class": pl.String, "lift_core": pl.Float64},
    )


def test_the_highest_lift_of_each_class_in_turn_then_the_heaviest_of_the_rest() -> None:
    rows = [
        ("edema", 5.0, 0.1, 9.0, False),
        ("edema", 9.0, 0.1, 9.0, False),
        ("core", 3.0, 0.1, 9.0, False),
        ("core", 30.0, 1e-5, 9.0, False),  # too rare
        ("core", 99.0, 0.0, 0.0, True),  # dead
        ("background", 1.0, 0.5, 50.0, False),
        ("mixed", None, 0.5, 70.0, False),
        (None, None, 0.5, 1.0, False),
    ]
    table = table_of(rows)
    assert chosen_latents(table, ["edema", "core"], 4) == [1, 0, 2, 6]
    assert chosen_latents(table, ["edema", "core"], 3) == [1, 2, 6]
    assert chosen_latents(table, ["edema", "core"], 99) == [1, 0, 2, 6, 5, 7]


def test_others_are_few_and_each_of_another_name() -> None:
    names = ["outside", "outside", "diffuse", "midline", "left", "right", "deep"]
    table = table_of([("background", 1.0, 0.5, 90.0 - place, False) for place in range(7)])
    assert chosen_latents(table.with_columns(pl.Series("name", names)), ["edema", "core"], 10) == [0, 2, 3, 4]


def test_a_class_that_does_not_come_back_is_no_example_of_it() -> None:
    table = table_of([("edema", 9.0, 0.1, 9.0, False), ("edema", 5.0, 0.1, 1.0, False)])
    table = table.with_columns(pl.Series("class_replicates", [False, True]))
    assert chosen_latents(table, ["edema", "core"], 2) == [1, 0]


def test_rare_latents_are_shown_where_nothing_else_is_there() -> None:
    assert chosen_latents(table_of([("core", 3.0, 1e-6, 1.0, False)]), ["edema", "core"], 5) == [0]
    assert chosen_latents(table_of([("core", 3.0, 0.0, 0.0, True)]), ["edema", "core"], 5) == []


def test_exemplars_are_looked_up_in_the_unseen_slices(full_run: Run) -> None:
    slices = described_slices(full_run, "adult")
    assert set(slices.index["split"]) == {"val", "test"}
    section = gallery_section(full_run, {one.name: one.trained_on for one in summary_of(full_run).segmenters})
    cards = [block for block in section.blocks if block.kind == "cards"]
    assert len(cards) == 5
    assert all(8 <= len(block.cards) <= 12 for block in cards)
    tables = [block for block in section.blocks if block.kind == "table"]
    assert len(tables) == 5
    assert [cell.text for cell in tables[0].rows[0]] == ["class", "9", "6", "2.5", "1"]
    assert [cell.text for cell in tables[0].rows[1]] == ["side", "9", "1", "4.0", "–"]
    card = cards[1].cards[0]
    assert len(card.pictures) == 4
    first = slices.index.row(1, named=True)  # latent 1, rank 0 in the generated atlas
    assert f"{first['case']}, slice {first['position']}" in card.pictures[0].alt
    assert ("necrotic core", "70% of its mass (lift 9.9; base rate 4.0%)") in card.facts
