import pytest
from tests.nnunet_folder import write_case

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions


def test_channel_numbers_are_the_places_of_the_sequences(tmp_path):
    for case in ("b", "a_1"):
        write_case(tmp_path, case)
    cohort = read_cohort(tmp_path, sequences=["FLAIR", "T1"], with_masks=False)
    assert [case.id for case in cohort.cases] == ["a_1", "b"]
    assert {name: ref.path.name for name, ref in cohort.cases[1].images.items()} == {
        "FLAIR": "b_0000.nii.gz",
        "T1": "b_0001.nii.gz",
    }
    named = read_cohort(tmp_path, SourceOptions(channels={"T1": 1}))
    assert named.sequences == ("T1",) and named.cases[0].images["T1"].path.name == "a_1_0001.nii.gz"
    with pytest.raises(ValueError, match=r"does not say what the channels of its files are; give `channels`"):
        read_cohort(tmp_path)


def test_files_of_channels_that_nobody_asked_for_are_refused(tmp_path):
    write_case(tmp_path, "a")
    with pytest.raises(ValueError, match=r"a_0001\.nii\.gz is a channel beyond the 1 that are asked for \(T1\); take"):
        read_cohort(tmp_path, sequences=["T1"], with_masks=False)
    assert read_cohort(tmp_path, SourceOptions(channels={"T1": 0}), with_masks=False).sequences == ("T1",)


def test_two_files_of_one_channel_are_refused(tmp_path):
    path = write_case(tmp_path, "a")[0]
    path.with_suffix("").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a_0000\.nii and a_0000\.nii\.gz are the same channel; keep one"):
        read_cohort(tmp_path, sequences=["T1", "FLAIR"], with_masks=False)
