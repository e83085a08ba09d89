import json
from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.checks import check_cohort
from seglens.cohorts.findings import CheckReport
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions


@pytest.fixture
def adults(tmp_path: Path, write_brats) -> Path:
    return write_brats(tmp_path / "adults", ["a", "b", "c", "d"])


def codes(report) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.case, []).append(finding.code)
    return found


def test_healthy_cohorts_have_no_findings(adults: Path) -> None:
    cohort = read_cohort(adults)
    seen = []
    report = check_cohort(cohort, progress=lambda done, total, **figures: seen.append((done, total)))
    assert report.findings == ()
    assert report.quarantined == frozenset()
    assert report.text() == "adults: 4 cases, nothing wrong\n  foreground brain: no label pixel is blanked"
    assert (report.foreground, report.blanked) == ("brain", ())
    assert check_cohort(cohort.without_masks()).text() == "adults: 4 cases, nothing wrong"
    assert seen == [(i, 4) for i in (1, 2, 3, 4)]
    assert len(report.sha256) == 4 * 5


def test_everything_that_is_wrong_is_listed_at_once(adults: Path, write_nifti, head) -> None:
    image, mask = head()
    shifted = np.diag([-1.0, -1.0, 1.0, 1.0])
    shifted[1, 3] = 1.0
    (adults / "a/a_t1.nii.gz").write_bytes((adults / "a/a_t1.nii.gz").read_bytes()[:-100])
    (adults / "a/a_t2.nii.gz").unlink()
    write_nifti(adults / "a/a_flair.nii.gz", image, shifted)
    write_nifti(adults / "a/a_seg.nii.gz", np.where(mask == 4, 3, mask))
    write_nifti(adults / "b/b_seg.nii.gz", (mask[..., :-1] + 5).astype(np.float32))
    (adults / "c/c_seg.nii.gz").write_bytes(b"<html>")
    (adults / "d/d_seg.nii.gz").unlink()
    report = check_cohort(read_cohort(adults))
    assert codes(report) == {
        "a": ["truncated", "missing_sequence", "other_affine", "enhancing_code"],
        "b": ["other_shape", "unknown_labels"],
        "c": ["not_nifti"],
        "d": ["no_mask"],
    }
    assert report.quarantined == {"a", "b", "c", "d"}
    for finding in report.findings:
        assert finding.what
        assert finding.fix
        assert finding.fix in report.text()
    document = report.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["quarantined"] == ["a", "b", "c", "d"]
    assert {"case": "c", "file": "c_seg.nii.gz"}.items() <= document["findings"][-2].items()
    assert str(adults) not in json.dumps(document)


def test_only_the_sequences_in_use_are_looked_at(adults: Path) -> None:
    (adults / "a/a_t2.nii.gz").unlink()
    assert codes(check_cohort(read_cohort(adults))) == {"a": ["missing_sequence"]}
    assert codes(check_cohort(read_cohort(adults, sequences=["T1c"]))) == {}


def test_a_case_without_a_readable_image_is_still_checked(adults: Path) -> None:
    for file in adults.glob("a/a_[tf]*.nii.gz"):
        file.write_bytes(b"")
    assert codes(check_cohort(read_cohort(adults))) == {"a": ["empty_file"] * 4}


def test_an_empty_mask_is_fine_and_a_constant_image_is_not(adults: Path, write_nifti, head) -> None:
    image, mask = head()
    write_nifti(adults / "a/a_seg.nii.gz", np.zeros_like(mask))
    write_nifti(adults / "b/b_t1.nii.gz", np.zeros_like(image))
    assert codes(check_cohort(read_cohort(adults))) == {"b": ["constant"]}


def test_whole_floats_pass_and_fractions_do_not(adults: Path, write_nifti, head) -> None:
    mask = head()[1].astype(np.float64)
    write_nifti(adults / "a/a_seg.nii.gz", mask)
    write_nifti(adults / "b/b_seg.nii.gz", np.where(mask == 2, 1.9997, mask))
    assert codes(check_cohort(read_cohort(adults))) == {"b": ["fractional_labels"]}


def test_pictures(tmp_path: Path, write_picture) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        write_picture(tmp_path / f"images/p-{number}.png", rng.integers(0, 256, (8, 9, 3)).astype(np.uint8))
        write_picture(tmp_path / f"masks/p-{number}.png", np.eye(8, 9, dtype=np.uint8) * 255)
    (tmp_path / "masks/p-0.png").unlink()
    write_picture(tmp_path / "masks/p-1.png", np.eye(9, 8, dtype=np.uint8) * 255)
    write_picture(tmp_path / "masks/p-2.png", np.eye(8, 9, dtype=np.uint8) * 254)
    (tmp_path / "images/p-3.png").write_bytes(b"")
    patterns = {"images": "images/{patient}-{slice}.png", "masks": "masks/{patient}-{slice}.png"}
    report = check_cohort(read_cohort(tmp_path, SourceOptions(**patterns, channels={"FLAIR": 1})))
    assert codes(report) == {
        "p-0": ["no_mask"],
        "p-1": ["other_shape"],
        "p-2": ["unknown_labels"],
        "p-3": ["empty_file"],
    }


def test_a_brain_s_rule_on_what_is_no_stripped_brain_is_told_where_no_masks_are(
    adults: Path, write_nifti, head
) -> None:
    image, _ = head()
    noisy = image + np.random.default_rng(0).integers(1, 9, image.shape)
    write_nifti(adults / "b/b_t1.nii.gz", noisy.astype(np.int16))
    cohort = read_cohort(adults, sequences=["T1"])
    report = check_cohort(cohort.without_masks(), foreground="brain")
    assert codes(report) == {"b": ["not_stripped"]}
    assert (report.foreground, report.blanked) == ("brain", None)
    assert not report.quarantined
    assert codes(check_cohort(cohort.without_masks(), foreground="none")) == {}
    assert check_cohort(cohort).foreground == "none"
    with pytest.raises(ValueError, match="no foreground rule"):
        check_cohort(cohort, foreground="skull")


def test_findings_stand_in_the_order_of_the_cases(tmp_path: Path, write_picture) -> None:
    for name in ("p-10", "q-1", "p-2", "p-1"):
        write_picture(tmp_path / f"images/{name}.png", np.eye(8, dtype=np.uint8))
    cohort = read_cohort(tmp_path, SourceOptions(images="images/{patient}-{slice}.png"), sequences=["T1"])
    report = check_cohort(cohort)
    assert [one.case for one in report.findings if one.code == "no_mask"] == [case.id for case in cohort.cases]


def test_a_cohort_without_masks_is_sound_and_its_foreground_is_settled(adults: Path) -> None:
    cohort = read_cohort(adults, sequences=["T1"])
    for case in cohort.cases:
        case.mask.path.unlink()
    assert set(check_cohort(cohort).quarantined) == {case.id for case in cohort.cases}
    report = check_cohort(read_cohort(adults, sequences=["T1"], with_masks=False))
    assert (report.findings, report.foreground, report.blanked) == ((), "brain", None)
    again = CheckReport.from_json(report.to_json())
    assert (again.foreground, again.blanked) == ("brain", None)
