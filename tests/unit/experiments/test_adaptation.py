"""The tables of `adaptation`, from counts whose answer is known."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.experiments.adaptation import learning_curve
from seglens.experiments.adaptation_latents import PLAIN, differing_in_words, differing_latents
from seglens.experiments.adaptation_tables import (
    class_headlines,
    curve_rows,
    headlines,
    improvement_rows,
    paragraphs,
    policy_rows,
)
from seglens.experiments.transfers import Transfer, by_transfer, patients_of, transfers_of
from seglens.segmenters.scoring import SCHEMA, Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.steering.comparison import Method
from seglens.steering.interventions import Intervention
from seglens.steering.records import InterventionRecord
from seglens.studies.demo import demo_settings
from seglens.studies.stages import Study

CONTESTANTS = [
    InterventionRecord("latents", "edit", 4, ("latents", "latents, seed 1"), "held_out", {"inner_dice": 0.7}),
    InterventionRecord("last_layer", "baseline", 4, ("last_layer",), "held_out", {"inner_dice": 0.6}),
    InterventionRecord("whole_suffix", "ceiling", 99, ("whole_suffix",)),
]
HITS = {"none": 40, "latents": 80, "latents, seed 1": 70, "last_layer": 60, "whole_suffix": 90}


def scores_of(hits, patients=6):
    """Masks and predictions of 100 pixels each, so that pooled Dice is the hits over 100."""
    rows = [
        {
            "edit": edit,
            "row": patient,
            "case": f"p{patient}",
            "patient": f"p{patient}",
            "volume": f"p{patient}",
            "label": label,
            "class": name,
            "tp": count,
            "predicted": 100,
            "truth": 100,
            "hd95_mm": None,
        }
        for edit, count in hits.items()
        for patient in range(patients)
        for label, name in ((0, "background"), (1, "edema"))
    ]
    return Scores(pl.DataFrame(rows, schema=SCHEMA))


def curve_of(hits, transfer="adult on pediatric", inner=None, **more):
    """Rows of a curve; what is not given in ``inner`` has the same Dice there as its hits."""
    own = {edit: count / 100 for edit, count in hits.items() if edit != "none"}
    return curve_rows(scores_of(hits, **more), own | (inner or {}), transfer)


@pytest.fixture(scope="module")
def policies():
    return policy_rows(scores_of(HITS), CONTESTANTS, "adult on pediatric", "edema")


def test_values_are_means_over_seeds_with_intervals_over_patients(policies):
    main = policies.filter((pl.col("figure") == "dice_pooled") & (pl.col("class") == "foreground"))
    found = dict(main.select("policy", "value").iter_rows())
    assert found == pytest.approx({"latents": 0.75, "last_layer": 0.6, "whole_suffix": 0.9, "none": 0.4})
    # all patients are alike: only the two seeds of the latents differ, by .1, which Student's t of one degree widens
    width = dict(main.select("policy", pl.col("high") - pl.col("low")).iter_rows())
    assert width.pop("latents") == pytest.approx(2 * 12.7062 * 0.05, rel=1e-5)
    assert list(width.values()) == pytest.approx([0, 0, 0], abs=1e-12)
    assert dict(main.select("policy", "seeds").iter_rows())["latents"] == 2


def test_the_class_stands_beside_the_papers_table(policies):
    assert class_headlines(policies) == pytest.approx({"edema Dice (pooled), untouched, adult on pediatric": 0.4})


def test_the_improvement_is_over_the_best_baseline_and_the_ceiling_is_none(policies):
    improvements = improvement_rows(policies)
    assert set(improvements["edit"]) == {"latents"}
    assert set(improvements["best baseline"]) == {"last_layer"}
    assert improvements["improvement"].to_list() == pytest.approx([0.15] * improvements.height)


def test_the_curve_compares_at_equal_patients():
    hits = {"none": 40}
    for size, (edit, baseline) in {1: (50, 55), 5: (70, 60)}.items():
        hits |= {f"{size} {draw} latents": edit + draw for draw in (0, 2)}
        hits |= {f"{size} {draw} last_layer": baseline for draw in (0, 2)}
    curve = curve_of(hits)
    edits = curve.filter(pl.col("policy") == "latents")
    assert curve.filter(pl.col("policy") == "chosen edit")["improvement"].to_list() == edits["improvement"].to_list()
    assert dict(edits.select("labelled patients", "improvement").iter_rows()) == pytest.approx({1: -0.04, 5: 0.11})
    assert set(edits["draws"]) == {2}


BOUND = "upper bound (best baseline on these patients)"


def test_where_few_patients_only_harm_the_untouched_network_is_the_upper_bound():
    curve = curve_of({"none": 60, "1 0 latents": 50, "1 0 last_layer": 40})
    edit = curve.row(by_predicate=pl.col("policy") == "latents", named=True)
    assert (edit["best baseline"], edit["improvement"]) == ("last_layer", pytest.approx(0.1))
    assert (edit[BOUND], edit["improvement over the upper bound"]) == ("none", pytest.approx(-0.1))


def test_with_few_patients_edit_and_baseline_are_chosen_draw_by_draw_and_not_by_who_is_judged():
    hits = {"none": 40}
    for draw, (latents, channels) in enumerate([(70, 50), (50, 60)]):
        hits |= {f"1 {draw} latents": latents, f"1 {draw} last_layer": 55, f"1 {draw} channel_affine": channels}
    inner = {"1 0 last_layer": 0.1, "1 0 channel_affine": 0.3, "1 1 last_layer": 0.4, "1 1 channel_affine": 0.2}
    row = curve_of(hits, inner=inner).row(by_predicate=pl.col("policy") == "chosen edit", named=True)
    assert row["best baseline"] == "channel_affine or last_layer"
    assert row["improvement"] == pytest.approx(((0.7 - 0.5) + (0.5 - 0.55)) / 2)


def test_the_best_of_many_chance_baselines_is_an_upper_bound_and_not_the_baseline():
    """Ten baselines that are worth the same, each with its own luck on the patients judged on."""
    chance = np.random.default_rng(0)
    baselines = [f"b{number}" for number in range(10)]
    records = [InterventionRecord("latents", "edit", 4, ("latents",), "held_out", {"inner_dice": 0.7})]
    records += [
        InterventionRecord(name, "baseline", 1, (name,), "held_out", {"inner_dice": 0.6 - 0.01 * place})
        for place, name in enumerate(baselines)
    ]
    scores = scores_of(dict.fromkeys(("none", "latents", *baselines), 50), patients=12)
    luck = {(name, f"p{patient}"): int(chance.integers(-20, 21)) for name in baselines for patient in range(12)}
    hits = [tp + luck.get(key, 0) for *key, tp in scores.table.select("edit", "patient", "tp").iter_rows()
            for key in [tuple(key)]]  # fmt: skip
    scores = Scores(scores.table.with_columns(pl.Series("tp", hits, dtype=scores.table["tp"].dtype)))
    rows = improvement_rows(policy_rows(scores, records, "d", "edema"))
    (row,) = rows.filter((pl.col("class") == "foreground") & (pl.col("figure") == "dice_pooled")).iter_rows(named=True)
    assert row["best baseline"] == "b0"
    assert row[BOUND] != "b0"
    assert row["low"] < 0 < row["high"], "the baseline that selection patients chose cannot be told from the edit"
    assert row["improvement over the upper bound"] < row["improvement"]
    assert row["bound low"] < row["improvement over the upper bound"]


def test_the_words_say_which_way_it_falls(policies):
    hits = {"none": 40, "1 0 latents": 50, "1 0 last_layer": 55}
    curve = curve_of(hits)
    words = " ".join(paragraphs(improvement_rows(policies), curve, policies, 30))
    assert "(latents, 4 numbers) cannot be told from the best baseline (last_layer, 4): +0.150" in words
    assert "whole_suffix 0.900" in words
    assert "1 labelled patient: chosen edit against last_layer: -0.050" in words
    found = headlines(improvement_rows(policies), curve)
    assert found["improvement adult on pediatric"] == pytest.approx(0.15)
    assert found["improvement adult on pediatric, 1 patients"] == pytest.approx(-0.05)
    steady = policy_rows(scores_of(HITS | {"latents, seed 1": 80}), CONTESTANTS, "adult on pediatric", "edema")
    words = " ".join(paragraphs(improvement_rows(steady), curve, steady, 30))
    assert "(latents, 4 numbers) beats the best baseline (last_layer, 4): +0.200" in words


class FakeStudy(Study):
    """Stands for the demo, with slices that cost nothing."""

    def __init__(self):
        self.settings = demo_settings(0)

    def slices(self, cohort):
        splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 6
        index = pl.DataFrame({"case": [f"p{number // 2:02}" for number in range(22)], "split": splits})
        masks = torch.zeros(22, 4, 4, dtype=torch.uint8)
        return SliceSet.from_tensors(
            torch.zeros(22, 1, 4, 4), masks, masks == 0, index, name=cohort, sequences=("T1",), labels={0: "a", 1: "b"}
        )

    def segmenter(self, name):
        return SimpleNamespace(labels={0: "a", 1: "b"})


@pytest.mark.parametrize(("cohort", "sizes"), [("pediatric", (10, 12)), ("healthy", (4, 6)), ("adult", (4, 6))])
def test_nobody_is_in_both_parts_and_nobody_is_chosen_on_that_was_trained_on(cohort, sizes):
    chosen, evaluated = patients_of(FakeStudy(), Transfer("adult", cohort, "edema", True))
    assert (len(chosen), len(evaluated)) == sizes
    assert not set(chosen.index["patient"]) & set(evaluated.index["patient"])
    assert "test" not in set(chosen.index["split"])


def test_every_transfer_is_a_part_and_further_parts_do_nothing():
    study, done = FakeStudy(), []

    def one(study, transfer):
        done.append(transfer.name)

    for do in by_transfer(one, study.settings):
        do(study)
    assert done == [transfer.name for transfer in transfers_of(study)]
    assert done[:2] == ["adult on pediatric", "pediatric on adult"]
    assert "adult-unet on pediatric" in done
    assert by_transfer(one, study.settings.model_copy(update={"steering": []})) == []


def test_a_pair_that_is_steered_for_two_classes_is_told_apart_and_none_stands_there_twice():
    study = FakeStudy()
    asked = study.settings.steering
    more = [
        asked[0].model_copy(update={"label": "necrotic_core"}),
        asked[0].model_copy(update={"segmenter": "adult-unet"}),
    ]
    study.settings = study.settings.model_copy(update={"steering": [*asked, *more]})
    names = [transfer.name for transfer in transfers_of(study)]
    assert len(names) == len(set(names))
    assert {"adult on pediatric, edema", "adult on pediatric, necrotic_core", "adult-unet on pediatric"} < set(names)


def test_the_curve_draws_nested_patients_and_names_them():
    study, batch = FakeStudy(), []

    def comparison(few, draw):
        batch.append((draw, set(few.index["patient"])))
        return [
            Method(
                "latents_two_depths",
                "edit",
                [Intervention("latents_two_depths", 1, "held_out", lambda batch: batch.logits)],
            )
        ]

    full = comparison(study.slices("adult"), 0)
    batch.clear()
    found = learning_curve(comparison, full, study.slices("adult"), {"draws": {"1": 2, "3": 2}})
    assert [intervention.name for intervention in found] == [
        "11 0 latents_two_depths",
        "1 0 latents_two_depths",
        "3 0 latents_two_depths",
        "1 1 latents_two_depths",
        "3 1 latents_two_depths",
    ]
    assert [len(patients) for _, patients in batch] == [1, 3, 1, 3]
    assert batch[0][1] < batch[1][1]


def cohort(name, seed, patients, brighter):
    """Noise in two sequences, the second one brighter; the left half of every slice is lesion."""
    images = torch.randn(patients, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    images[:, 1] += brighter
    masks = torch.zeros(patients, 8, 8, dtype=torch.uint8)
    masks[..., :4] = 1
    index = pl.DataFrame({"case": [f"{name} {number}" for number in range(patients)]})
    return SliceSet.from_tensors(
        images, masks, masks >= 0, index, name=name, sequences=("T1", "T2"), labels={0: "background", 1: "edema"}
    )


def seen_through():
    """A network whose stem hands on its input, and a dictionary of plus and minus each channel."""
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(2)[:, :, None, None])
        network[0].bias.zero_()
    segmenter = Segmenter.wrap(
        network, sequences=("T1", "T2"), labels={0: "background", 1: "edema"}, hookpoints={"here": "0"}, size=8
    )
    dictionary = SparseAutoencoder(2, 4, k=2, seed=0, hookpoint="here", segmenter_hash=segmenter.hash)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        dictionary.W_enc.copy_(dictionary.W_dec.T)
    return segmenter, dictionary


def test_latents_of_what_differs_come_first():
    segmenter, dictionary = seen_through()
    table = differing_latents(Lens(segmenter, dictionary), cohort("own", 0, 8, 0.0), cohort("target", 1, 8, 1.0))
    ranked = table.filter(compared=PLAIN)["latent"].unique(maintain_order=True).to_list()
    assert set(ranked[:2]) == {2, 3}
    assert set(ranked) == {0, 1, 2, 3}
    assert set(table.filter(pl.col("differential"))["latent"]) == {2, 3}
    plain, of_like_size = differing_in_words(table, "own on target")
    assert "all patients: 2 of 4 latents called; the least effect" in plain
    assert "patients with lesions of like size" in of_like_size


def test_one_patient_differs_from_nobody():
    segmenter, dictionary = seen_through()
    found = differing_latents(Lens(segmenter, dictionary), cohort("own", 0, 8, 0.0), cohort("target", 1, 1, 1.0))
    assert found.is_empty()
    assert differing_in_words(found, "own on target") == []


def test_the_edit_is_chosen_by_the_inner_split_and_not_by_who_is_judged():
    two = [
        InterventionRecord(name, "edit", 1, (name,), "held_out", {"inner_dice": inner})
        for name, inner in (("lucky", 0.5), ("chosen", 0.6))
    ]
    hits = {"none": 40, "lucky": 90, "chosen": 70, "last_layer": 60, "whole_suffix": 95}
    rows = policy_rows(scores_of(hits), [*two, *CONTESTANTS[1:]], "adult on pediatric", "edema")
    improvements = improvement_rows(rows)
    assert set(improvements.filter("chosen")["edit"]) == {"chosen"}
    curve = curve_of({"none": 40, "1 0 latents": 50, "1 0 last_layer": 55})
    assert headlines(improvements, curve)["improvement adult on pediatric"] == pytest.approx(0.1)


def test_how_much_the_draw_of_labelled_patients_matters_is_in_the_interval():
    hits = {"none": 40} | {f"1 {draw} last_layer": 50 for draw in range(4)}
    steady = curve_of(hits | {f"1 {draw} latents": 70 for draw in range(4)}, "d")
    shaky = curve_of(hits | {f"1 {draw} latents": 40 + 20 * draw for draw in range(4)}, "d")
    width = [
        table.filter(pl.col("policy") == "latents")
        .select(pl.col("improvement high") - pl.col("improvement low"))
        .item()
        for table in (steady, shaky)
    ]
    assert width[0] == pytest.approx(0, abs=1e-9)
    assert width[1] == pytest.approx(2 * 3.1824 * 0.2582 / 2, abs=1e-3)  # t with 3 degrees, the draws' spread, 4 draws


def test_one_evaluation_patient_has_no_interval_and_breaks_no_table():
    curve = curve_of({"none": 40, "1 0 latents": 50, "1 0 last_layer": 55}, "d", patients=1)
    others = curve_of({"none": 40, "1 0 latents": 50, "1 0 last_layer": 55}, "e")
    assert pl.concat([curve, others]).schema == others.schema
    assert curve["improvement low"].null_count() == curve.height
