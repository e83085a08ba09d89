import polars as pl
import pytest

from seglens.experiments.reproduction import outcome_of, reproduce
from seglens.experiments.stability import EXPERIMENT


@pytest.fixture(scope="module")
def tables(tiny_settings, tmp_path_factory):
    made = reproduce(
        tiny_settings, tmp_path_factory.mktemp("stability"), ["stability"], experiments={"stability": EXPERIMENT}
    )
    assert not made.faults
    return outcome_of(made.run, "stability").finding.tables


def test_every_recipe_stands_beside_its_null(tables) -> None:
    table = tables["stability"]
    fitted = table.filter(pl.col("the second fit has another") != "set of seeds")
    assert set(fitted["dictionary"]) == {"plain", "plain from points", "archetypal", "Matryoshka"}
    assert fitted["shared with rotated"].null_count() == 0
    assert fitted["explained variance"].null_count() == 0


def test_another_token_order_agrees_more_than_another_seed(tables) -> None:
    plain = tables["stability"].filter(pl.col("dictionary") == "plain")
    order, seed = plain["shared"].to_list()
    assert order > seed


def test_a_common_start_from_points_is_seen_in_the_shared_share(tables) -> None:
    table = tables["stability"].filter(pl.col("dictionary") == "archetypal")
    same_points, other_points = table["shared"].to_list()
    assert same_points > other_points


def test_the_whole_explains_most(tables) -> None:
    for _, part in tables["prefixes"].group_by("dictionary"):
        explained = part.sort("first latents")["explained variance"].to_list()
        assert max(explained) == explained[-1]
