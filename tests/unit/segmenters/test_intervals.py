import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm, t

from seglens.segmenters.intervals import (
    FIGURES,
    interval_of,
    interval_over_fits,
    patient_bootstrap,
    patient_interval,
    resampled,
    share_interval,
)
from seglens.segmenters.scoring import SCHEMA, Scores

CLASSES = {0: "background", 1: "core", 2: "edema"}


def table_of(tp, *, edits=("a", "b"), patients=6, slices=3, seed=0, classes=CLASSES):
    """Counts of random slices; ``tp(edit, patient)`` gives the share of the smaller of the two masks that is hit."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 60, (patients, slices, len(classes))) * (
        generator.random((patients, slices, len(classes))) < 0.7
    )
    predicted = generator.integers(0, 60, (patients, slices, len(classes)))
    rows = []
    for edit in edits:
        for patient in range(patients):
            for number in range(slices):
                for label, name in classes.items():
                    said, true = int(predicted[patient, number, label]), int(truth[patient, number, label])
                    row = {
                        "edit": edit,
                        "row": patient * slices + number,
                        "case": f"p{patient}",
                        "patient": f"p{patient}",
                        "volume": f"p{patient}",
                        "label": label,
                        "class": name,
                        "tp": int(tp(edit, patient) * min(said, true)),
                        "predicted": said,
                        "truth": true,
                        "hd95_mm": None,
                    }
                    rows.append(row)
    return Scores(pl.DataFrame(rows, schema=SCHEMA))


@pytest.fixture(scope="module")
def scores():
    return table_of(lambda edit, patient: {"a": 0.9, "b": 0.5}[edit] * (1 - patient / 20))


@pytest.mark.parametrize("convention", FIGURES)
@pytest.mark.parametrize("class_name", ["core", "edema", "foreground"])
def test_the_figure_is_that_of_the_summary(scores, convention, class_name):
    found = patient_bootstrap(scores, "a", "b", class_name, convention, draws=50)
    a, b = (scores.summary(edit).score(convention, class_name).value for edit in ("a", "b"))
    assert found.value == pytest.approx(a - b, abs=1e-12)
    assert patient_interval(scores, "a", class_name, convention, draws=50).value == pytest.approx(a, abs=1e-12)


@pytest.mark.parametrize("convention", FIGURES)
def test_every_draw_is_the_summary_of_a_table_of_the_drawn_patients(scores, convention):
    draws, seed = 8, 3
    _, drawn = resampled(scores, ["a", "b"], "foreground", convention, draws=draws, seed=seed)
    patients = sorted(scores.table["patient"].unique())
    often = np.random.default_rng(seed).multinomial(6, np.full(6, 1 / 6), draws)
    for number in range(draws):
        copies = [
            scores.table.filter(pl.col("patient") == patient).with_columns(pl.col("volume") + f"-{copy}")
            for patient, count in zip(patients, often[number], strict=True)
            for copy in range(count)
        ]
        again = Scores(pl.concat(copies))
        for edit, values in zip(("a", "b"), drawn, strict=True):
            assert values[number] == pytest.approx(again.summary(edit).score(convention).value, abs=1e-12)


def test_a_planted_difference_has_a_known_interval():
    # every patient has the same counts: no draw differs, and the difference is exact
    same = table_of(lambda edit, patient: 1.0 if edit == "a" else 0.5, patients=1)
    whole = Scores(
        pl.concat(
            [
                same.table.with_columns(
                    pl.lit(f"q{copy}").alias("patient"),
                    pl.lit(f"q{copy}").alias("volume"),
                    (pl.col("row") + 100 * copy).cast(pl.UInt32).alias("row"),
                )
                for copy in range(5)
            ]
        )
    )
    found = patient_bootstrap(whole, "a", "b")
    assert found.low == pytest.approx(found.value, abs=1e-12)
    assert found.high == pytest.approx(found.value, abs=1e-12)
    assert found.excludes_zero
    assert (found.n_patients, found.n_draws) == (5, 2000)


def test_the_interval_of_a_share_is_the_binomial_one():
    # one slice a patient: the bootstrap of a share is the binomial distribution
    hits = [True] * 30 + [False] * 70
    found = share_interval([f"p{number}" for number in range(100)], hits, draws=20_000)
    spread = math.sqrt(0.3 * 0.7 / 100)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - 1.96 * spread, abs=0.012)
    assert found.high == pytest.approx(0.3 + 1.96 * spread, abs=0.012)


@pytest.mark.parametrize("n_patients", [2, 5, 6, 9, 200])
def test_of_few_patients_the_interval_is_as_wide_as_students(n_patients):
    # the bootstrap of a mean of n normal values: its variance is (n - 1) / n of the unbiased one
    shares = (np.arange(200_000) + 0.5) / 200_000
    drawn = norm.ppf(shares) * math.sqrt((n_patients - 1) / n_patients) / math.sqrt(n_patients)
    found = interval_of(0.0, drawn, n_patients)
    expected = t.ppf(0.975, n_patients - 1) / math.sqrt(n_patients)
    assert found.high == pytest.approx(expected, rel=0.01)
    assert found.low == pytest.approx(-expected, rel=0.01)


@pytest.mark.parametrize("n_patients", [2, 3, 5])
def test_of_very_few_patients_the_interval_is_students_and_excludes_0_as_often_as_it_should(n_patients):
    # true mean 0: the extremes of all draws leave 0 out of them in 1 of 2, 4 and 16 tables, Student's t in 1 of 20
    generator, excluded, tables = np.random.default_rng(0), 0, 1000
    often = generator.multinomial(n_patients, np.full(n_patients, 1 / n_patients), 1000)
    for values in generator.normal(size=(tables, n_patients)):
        excluded += interval_of(values.mean(), often @ values / n_patients, n_patients).excludes_zero
    assert excluded / tables == pytest.approx(0.05, abs=0.025)


def test_the_interval_of_three_patients_is_the_textbooks():
    hits = [True] * 1 + [False] * 9 + [True] * 2 + [False] * 8 + [True] * 3 + [False] * 7
    found = share_interval([f"p{number // 10}" for number in range(30)], hits, draws=200_000)
    reach = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom, sd of .1, .2 and .3
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(max(0.2 - reach, 0))
    assert found.high == pytest.approx(0.2 + reach, rel=0.01)
    assert interval_of(0.2, np.array([0.1, 0.3]), 3).low == pytest.approx(0.2 - 4.302653 * 0.1 * math.sqrt(1.5))


@pytest.mark.parametrize(("n_patients", "bound"), [(3, 0.707598), (10, 0.308497)])
def test_a_share_of_nothing_or_of_all_is_not_certain(n_patients, bound):
    patients = [f"p{number}" for number in range(n_patients)] * 4
    none, every = (share_interval(patients, [hit] * len(patients)) for hit in (False, True))
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(bound, abs=1e-6)  # 1 - 0.025 ** (1 / n)
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - bound, abs=1e-6)
    assert math.isnan(share_interval(["p"], [True]).low)


def test_of_fits_that_differ_on_equal_patients_the_interval_is_the_textbooks():
    values = np.array([0.1, 0.2, 0.6])
    found = interval_over_fits(values, np.repeat(values[:, None], 50, axis=1), 20)
    reach = t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.3 - reach, 0.3 + reach))


def test_of_equal_fits_the_interval_is_that_of_the_patients():
    drawn = np.tile(np.random.default_rng(0).normal(0.3, 0.1, 4000), (3, 1))
    found = interval_over_fits(np.full(3, 0.3), drawn, 20)
    reach = t.ppf(0.975, 19) * drawn[0].std() * math.sqrt(20 / 19)
    assert (found.low, found.high) == pytest.approx((0.3 - reach, 0.3 + reach))


def test_patients_and_fits_weigh_as_much_as_they_vary():
    spread = math.sqrt(3 * 19 / 20)  # of the draws, so that their variance is 3 with twenty patients
    values = np.array([math.sqrt(1.0), -math.sqrt(1.0)])  # variance of the mean: 2 / 2
    drawn = values[:, None] + spread * np.tile([1.0, -1.0], 500)
    found = interval_over_fits(values, drawn, 20)
    assert found.high == pytest.approx((3 * t.ppf(0.975, 19) + t.ppf(0.975, 1)) / 4 * 2)


def test_of_two_fits_the_interval_holds_the_truth_as_often_as_it_says():
    generator, held, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        values = generator.normal(scale=2, size=2) + generator.normal()
        drawn = values[:, None] + generator.normal(size=(1, 200)) * math.sqrt(generator.chisquare(28) / 29)
        interval = interval_over_fits(values, drawn, 29)
        held += interval.low < 0 < interval.high
    assert held / trials > 0.94


def test_of_a_figure_that_is_nowhere_defined_there_is_no_interval():
    found = interval_over_fits(np.full(3, np.nan), np.full((3, 50), np.nan), 8)
    assert math.isnan(found.low)
    assert found.n_draws == 0


def test_one_fit_has_the_interval_of_its_patients():
    drawn = np.random.default_rng(0).normal(size=(1, 400))
    assert interval_over_fits(np.zeros(1), drawn, 20) == interval_of(0.0, drawn[0], 20)


def test_of_one_patient_nothing_can_be_said():
    found = share_interval(["p", "p", "p"], [True, False, True])
    assert found.value == pytest.approx(2 / 3)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert not found.excludes_zero


def test_slices_of_one_patient_count_as_one():
    # the same hits in ten slices a patient: ten times the slices, the same doubt
    patients = [f"p{number}" for number in range(10)]
    hits = [number < 5 for number in range(10)]
    one, ten = share_interval(patients, hits), share_interval(patients * 10, hits * 10)
    assert (one.low, one.high) == (ten.low, ten.high)
    assert one.high - one.low > 0.5


def test_an_edit_compared_with_itself_differs_by_nothing(scores):
    found = patient_bootstrap(scores, "a", "a")
    assert (found.value, found.low, found.high, found.excludes_zero) == (0.0, 0.0, 0.0, False)


def test_the_order_of_the_rows_does_not_matter(scores):
    shuffled = Scores(scores.table.sample(fraction=1.0, shuffle=True, seed=1))
    for convention in FIGURES:
        one = patient_bootstrap(scores, "a", "b", "edema", convention, draws=100)
        other = patient_bootstrap(shuffled, "a", "b", "edema", convention, draws=100)
        assert (one.low, one.high) == (other.low, other.high)


def test_an_undefined_figure_has_no_interval_and_says_so(scores):
    nowhere = Scores(scores.table.with_columns(pl.lit(0).cast(pl.Int64).alias("tp"), pl.lit(0).alias("predicted")))
    found = patient_interval(Scores(nowhere.table.select(*SCHEMA)), "a", "edema", "precision")
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.n_draws == 0
    assert not found.excludes_zero


def test_refusals(scores):
    with pytest.raises(ValueError, match="convention is 'dice'"):
        patient_bootstrap(scores, "a", "b", convention="dice")
    with pytest.raises(ValueError, match="no class 'liver'"):
        patient_bootstrap(scores, "a", "b", "liver")
    with pytest.raises(ValueError, match="no scores of the edit 'c'"):
        patient_bootstrap(scores, "a", "c")
    fewer = Scores(scores.table.filter((pl.col("edit") == "a") | (pl.col("row") > 0)))
    with pytest.raises(ValueError, match="other slices"):
        patient_bootstrap(fewer, "a", "b")
    with pytest.raises(ValueError, match="2 patients and 1 hits"):
        share_interval(["p", "q"], [True])
