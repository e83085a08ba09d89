from pathlib import Path

import pytest

from seglens.cohorts.case import TUMOUR_LABELS, Case, Cohort, ImageRef, patient_of, split_by_patient


def case(case_id: str, patient: str | None = None, **mask_values: int) -> Case:
    ref = ImageRef(Path(f"{case_id}.nii.gz"))
    return Case(case_id, patient or case_id, case_id, "c", {"T1": ref}, ref, {0: 0, 1: 1})


def cohort(*cases: Case, name: str = "c", splits: dict[str, tuple[str, ...]] | None = None) -> Cohort:
    return Cohort(name, cases, ("T1",), TUMOUR_LABELS, splits or {})


@pytest.mark.parametrize("n_patients", range(1, 30))
def test_every_patient_lands_whole_in_one_split(n_patients: int) -> None:
    cases = [case(f"p{i}-{visit}", f"p{i}") for i in range(n_patients) for visit in range(1 + i % 3)]
    fractions = {"train": 0.6, "val": 0.15, "test": 0.25}
    splits = split_by_patient(cases, fractions, seed=n_patients)
    assert sorted(case_id for ids in splits.values() for case_id in ids) == sorted(c.id for c in cases)
    patients = {name: {case_id.split("-")[0] for case_id in ids} for name, ids in splits.items()}
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]
    for name, share in fractions.items():
        assert abs(len(patients[name]) - share * n_patients) <= 1
    if n_patients >= 3:
        assert all(patients.values())


def test_split_hangs_on_the_seed_and_not_on_the_order() -> None:
    cases = [case(f"p{i}") for i in range(20)]
    fractions = {"train": 0.5, "test": 0.5}
    first = split_by_patient(cases, fractions, seed=1)
    assert {name: set(ids) for name, ids in split_by_patient(cases[::-1], fractions, seed=1).items()} == {
        name: set(ids) for name, ids in first.items()
    }
    assert split_by_patient(cases, fractions, seed=2) != first


def test_two_patients_go_to_train_and_test() -> None:
    splits = split_by_patient([case("a"), case("b")], {"train": 0.6, "val": 0.15, "test": 0.25}, seed=0)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [1, 0, 1]


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "test": -0.5}, {"train": float("nan")}])
def test_shares_must_add_up(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split_by_patient([case("a")], fractions, seed=0)


def test_cohort_refuses_what_would_tear_or_mix_cases() -> None:
    with pytest.raises(ValueError, match=r"occur twice|differ only by capitals, Unicode form or blanks"):
        cohort(case("a"), case("A"))
    with pytest.raises(ValueError, match=r"patients in two splits: p \(test and train\)"):
        cohort(case("a", "p"), case("b", "p"), splits={"train": ("a",), "test": ("b",)})
    with pytest.raises(ValueError, match="the splits name ghost"):
        cohort(case("a"), splits={"train": ("ghost",)})
    with pytest.raises(ValueError, match=r"masks are mapped to \[1\]"):
        Cohort("c", (case("a"),), ("T1",), {0: "background"}, {})
    with pytest.raises(ValueError, match="have no 0"):
        Cohort("c", (case("a"),), ("T1",), {1: "tumour"}, {})


def test_merging_keeps_splits_and_renames() -> None:
    first = cohort(case("a"), case("b"), splits={"train": ("a",), "test": ("b",)})
    second = cohort(case("d"), name="other", splits={"train": ("d",), "val": ()})
    merged = Cohort.merged([first, second], "both")
    assert [c.id for c in merged.cases] == ["a", "b", "d"]
    assert {c.cohort for c in merged.cases} == {"both"}
    assert merged.splits == {"train": ("a", "d"), "test": ("b",), "val": ()}
    assert merged.split_of() == {"a": "train", "d": "train", "b": "test"}


def test_merging_refuses_other_channels_labels_and_patients_across_splits() -> None:
    first = cohort(case("a", "p"), splits={"train": ("a",)})
    with pytest.raises(ValueError, match="patients in two splits"):
        Cohort.merged([first, cohort(case("b", "p"), splits={"test": ("b",)})], "both")
    with pytest.raises(ValueError, match="same `sequences`"):
        Cohort.merged([first, Cohort("o", (), ("T2",), TUMOUR_LABELS, {})], "both")
    with pytest.raises(ValueError, match="same `labels`"):
        Cohort.merged([first, Cohort("o", (), ("T1",), {0: "background"}, {})], "both")
    with pytest.raises(ValueError, match="no cohorts"):
        Cohort.merged([], "both")


def test_looking_up_cases_and_sequences() -> None:
    c = cohort(case("BraTS-1"), case("BraTS-2"))
    assert c.case("BraTS-2").id == "BraTS-2"
    with pytest.raises(ValueError, match="nearest: BraTS-"):
        c.case("BraTS-3")
    assert c.with_sequences(["T1"]).sequences == ("T1",)
    with pytest.raises(ValueError, match="has no FLAIR; it has T1"):
        c.with_sequences(["FLAIR"])
    assert c.with_splits({"test": ["BraTS-1"]}).splits == {"test": ("BraTS-1",)}


def test_a_timepoint_is_not_part_of_the_patient() -> None:
    assert patient_of("BraTS-GLI-00000-001") == "BraTS-GLI-00000"
    assert patient_of("BraTS2021_01477") == "BraTS2021_01477"
    assert patient_of("study-12345-001") == "study-12345-001"


@pytest.mark.parametrize("orientation", ["", "P", "AP", "PP", "LR", "PLS", "pl", "AL "])
def test_an_impossible_orientation_is_refused(orientation: str) -> None:
    with pytest.raises(ValueError, match="two letters"):
        ImageRef(Path("a.png"), orientation=orientation)


def test_a_cohort_shows_cases_and_patients_with_text_escaped() -> None:
    cases = tuple(case(f"p{number // 2}-{number}", f"p{number // 2}") for number in range(4))
    page = cohort(*cases, name="<b>", splits={"train": ("p0-0", "p0-1"), "test": ("p1-2",)})._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "<td>&quot;train&quot;</td><td>2</td><td>1</td>" in page
    assert "<td>&quot;all&quot;</td><td>4</td><td>2</td>" in page


def test_cohorts_with_and_without_masks_are_not_merged() -> None:
    one = cohort(case("a"), name="one")
    bare = cohort(case("b"), name="bare").without_masks()
    assert (bare.labelled, bare.cases[0].mask, one.labelled) == (False, None, True)
    with pytest.raises(ValueError, match="bare has no masks, the other has; keep them apart"):
        Cohort.merged([one, bare], "both")
    assert not Cohort.merged([bare], "again").labelled
