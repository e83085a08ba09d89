from pathlib import Path

import pytest

from seglens.cohorts.case import TUMOUR_LABELS
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions


@pytest.fixture
def bids(tmp_path: Path, write_nifti, head) -> Path:
    """Subject 01 with two sessions, subject 02 without; T1w, T1w with contrast, FLAIR, masks below derivatives."""
    root = tmp_path / "bids"
    for number, place in enumerate(("sub-01/ses-a", "sub-01/ses-b", "sub-02")):
        name = place.replace("/", "_")
        for channel, ending in enumerate(("T1w", "ce-gadolinium_T1w", "FLAIR")):
            image, mask = head(10 * number + channel, enhancing=3)
            write_nifti(root / place / "anat" / f"{name}_{ending}.nii.gz", image)
        write_nifti(root / "derivatives/manual" / place / "anat" / f"{name}_dseg.nii.gz", mask)
        write_nifti(root / "derivatives/n4" / place / "anat" / f"{name}_desc-n4_T1w.nii.gz", image)
    rows = ["index\tname", "1\tnecrotic_core", "2\tedema", "3\tenhancing"]
    (root / "derivatives/manual/dseg.tsv").write_text("\n".join(rows) + "\n")
    return root


def test_sessions_contrast_and_masks(bids: Path) -> None:
    cohort = read_cohort(bids)
    assert [case.id for case in cohort.cases] == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    assert [case.patient for case in cohort.cases] == ["sub-01", "sub-01", "sub-02"]
    assert cohort.sequences == ("T1", "T1c", "FLAIR")
    assert cohort.labels == TUMOUR_LABELS
    assert cohort.cases[0].images["T1c"].path.name == "sub-01_ses-a_ce-gadolinium_T1w.nii.gz"
    assert all(case.mask is not None and "manual" in case.mask.path.parts for case in cohort.cases)
    assert check_cohort(cohort).findings == ()


def test_labels_from_arguments(bids: Path) -> None:
    (bids / "derivatives/manual/dseg.tsv").unlink()
    with pytest.raises(ValueError, match=r"has no dseg.tsv .* give `labels` and `mask_values`"):
        read_cohort(bids)
    whole = {0: "background", 1: "tumour"}
    cohort = read_cohort(bids, SourceOptions(labels=whole, mask_values={0: 0, 1: 1, 2: 1, 3: 1}))
    assert (dict(cohort.labels), check_cohort(cohort).findings) == (whole, ())
    (bids / "dseg.tsv").write_text("value,label\n1,a\n")
    with pytest.raises(ValueError, match="is no table with one column index and one name"):
        read_cohort(bids)


def test_two_of_one_kind_are_refused(bids: Path, write_nifti, head) -> None:
    again = write_nifti(bids / "sub-02/anat/sub-02_run-2_T1w.nii.gz", head()[0])
    with pytest.raises(ValueError, match="are both T1w of sub-02; keep one"):
        read_cohort(bids)
    again.unlink()
    write_nifti(bids / "derivatives/other/sub-02/anat/sub-02_dseg.nii.gz", head()[1])
    with pytest.raises(ValueError, match="are both dseg of sub-02"):
        read_cohort(bids)


def test_without_masks(bids: Path) -> None:
    for mask in bids.rglob("*_dseg.nii.gz"):
        mask.unlink()
    assert {finding.code for finding in check_cohort(read_cohort(bids)).findings} == {"no_mask"}
    (bids / "derivatives/manual/dseg.tsv").unlink()
    cohort = read_cohort(bids, SourceOptions(labels=TUMOUR_LABELS))  # as `seglens predict` does
    assert cohort.cases[0].mask_values == {0: 0, 1: 1, 2: 2, 3: 3}
