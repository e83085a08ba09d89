from dataclasses import replace

import pytest
from tests.records import counted, dictionary, failure, scores, steering, summary

from seglens.reports.headline import claims_of, helped_sentence, short_answer, worst_cell
from seglens.segmenters.class_falls import ClassCell, class_cells

HOMES = {"adult": "adult"}
NOTHING = summary()


def cells(home: float, away: float, *, patients: int = 8, spread: float = 0.04) -> list[ClassCell]:
    tables = {
        ("adult", "adult"): counted({"core": home, "edema": 0.8}, spread=spread),
        ("adult", "pediatric"): counted({"core": away, "edema": 0.8}, patients=patients, spread=spread),
    }
    return class_cells(tables, HOMES)


def text_of(*found: ClassCell) -> str:
    return " ".join(short_answer(NOTHING, found))


def test_a_collapsed_class_is_named_first_with_its_figures() -> None:
    text = text_of(*cells(0.8, 0.05))
    assert text.startswith("Model adult loses core on pediatric: pooled Dice 0.05 [")
    assert "over 8 patients, against 0.80 [" in text
    assert "Of 24 slices with core there it misses it altogether in 0, and finds 5% of its pixels" in text
    claims = claims_of(NOTHING, cells(0.8, 0.05))
    assert (claims[0].verdict, claims[0].section) == ("holds", "where")
    assert claims[0].text.startswith("core collapses for adult on pediatric: Dice 0.05 [")
    assert claims[1].text == "A class does worse elsewhere, in 1 other combination of model, cohort and class"
    assert claims[1].verdict == "does not hold"


def test_where_nothing_collapses_nothing_is_said_to() -> None:
    found = cells(0.8, 0.75, spread=0.2)
    text = text_of(*found)
    assert text.startswith("No class surely does worse on another cohort than at home (2 combinations")
    assert "may be chance" in text
    assert "loses" not in text
    assert [claim.verdict for claim in claims_of(NOTHING, found)] == ["does not hold"]


def test_a_fall_is_not_called_a_collapse() -> None:
    text = text_of(*cells(0.8, 0.6))
    assert text.startswith("No class collapses, but core of model adult on pediatric does worse than at home")


def test_too_few_patients_are_told() -> None:
    found = cells(0.8, 0.05, patients=2)
    text = text_of(*found)
    assert text.startswith("Too few patients to say whether a class fails elsewhere: 6 on each side are needed.")
    assert "loses" not in text
    assert {claim.verdict for claim in claims_of(NOTHING, found)} == {"too few patients"}


def test_some_with_too_few_are_counted_beside_those_that_are_judged() -> None:
    few = [replace(one, verdict="too few patients") if one.class_name == "edema" else one for one in cells(0.8, 0.05)]
    assert "2 combinations with fewer than 6 patients a side were not judged" in text_of(*few)


def test_of_many_findings_some_are_named_and_the_rest_counted() -> None:
    one = next(cell for cell in cells(0.8, 0.05) if cell.verdict == "collapsed")
    text = text_of(*[one] * 6)
    assert "Lost as well: core of adult on pediatric (0.05), core of adult on pediatric (0.05) and core" in text
    assert ", and 2 more." in text
    claims = claims_of(NOTHING, [one] * 6)
    assert len(claims) == 5
    assert claims[-1].text == "A class collapses in 2 other combinations of model, cohort and class"


def test_what_was_never_learnt_is_said() -> None:
    tables = {("adult", at): counted({"core": 0.0}) for at in ("adult", "pediatric")}
    text = text_of(*class_cells(tables, HOMES))
    assert text.startswith("Model adult has not learnt core (Dice at home below 0.2). So there is no class")


def test_without_another_cohort_there_is_nothing_to_compare() -> None:
    found = class_cells({("adult", "adult"): counted({"core": 0.8})}, HOMES)
    assert worst_cell(found) is None
    assert "nothing can be said about a fall" in text_of(*found)
    assert short_answer(NOTHING, []) == []
    assert claims_of(NOTHING, []) == []


@pytest.mark.parametrize(
    ("after", "baseline", "words"),
    [
        (0.5, 0.4, "raised Dice of edema of adult on pediatric (+0.20 [+0.18, +0.22]), more than logit bias"),
        (0.5, 0.5, "; logit bias, which needs no latents, cannot be told from it (+0.20)."),
        (0.5, 0.6, "; logit bias, which needs no latents, did better (+0.30)."),
        (0.31, 0.3, "did not surely raise Dice of edema of adult on pediatric (+0.01 [−0.01, +0.03])"),
        (0.1, 0.3, "lowered Dice"),
    ],
)
def test_what_helped_follows_from_the_intervals(after: float, baseline: float, words: str) -> None:
    entry = steering(scores({"edema": 0.3}), scores({"edema": after}), {"logit_bias": scores({"edema": baseline})})
    assert words in helped_sentence(entry)


def test_a_correction_of_another_class_is_not_passed_off_as_one_of_the_failure() -> None:
    entry = steering(scores({"edema": 0.3}), scores({"edema": 0.5}), {})
    text = " ".join(short_answer(summary(steering=[entry]), cells(0.8, 0.05)))
    assert "No correction of core of adult on pediatric was tried; one of another class was: Changing 3 latents" in text
    own = replace(entry, class_name="core", before=scores({"core": 0.1}), after=scores({"core": 0.2}))
    text = " ".join(short_answer(summary(steering=[own]), cells(0.8, 0.05)))
    assert "was tried" not in text
    assert "Changing 3 latents raised Dice of core of adult on pediatric" in text


def test_claims_of_corrections_have_verdicts() -> None:
    good = steering(scores({"edema": 0.3}), scores({"edema": 0.5}), {"uf": scores({"edema": 0.5})})
    claims = claims_of(summary(steering=[good]), [])
    assert [(one.verdict, one.section) for one in claims] == [("holds", "helped"), ("does not hold", "helped")]
    few = replace(good, evaluation=replace(good.evaluation, patients=3))
    assert [one.verdict for one in claims_of(summary(steering=[few]), [])] == ["too few patients"]


def test_claims_of_recovery_and_dictionaries_have_verdicts() -> None:
    found = claims_of(summary(failures=[failure(23, 5), failure(5, 5), failure(5, 5, over_random=None)]), [])
    assert [one.verdict for one in found] == ["holds", "does not hold"]
    fitted = [dictionary("a", control_explained_variance=0.4), dictionary("b", control_explained_variance=0.99)]
    (one,) = claims_of(summary(dictionaries=fitted), [])
    assert (one.verdict, one.section) == ("does not hold", "dictionaries")
    assert one.text.endswith("1 of 2 do")
