"""What a whole study makes of bad files: it ends, says so in one place, and its figures are those of the good ones."""

import errno
import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.faults.scans import failing, put, unpacked, write_cohort, write_nifti

from seglens.artifacts import hash_file
from seglens.cohorts.slice_set import SliceSet
from seglens.phantoms.cohort import write_phantom_cohort
from seglens.runs import Run
from seglens.studies.input_checksums import quarantine_reported
from seglens.studies.report import write_report
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study
from seglens.studies.study import run_study
from seglens.studies.table import analysis_table

DAMAGED = 10


def settings_of(folder: Path, *, strict: bool = False) -> StudySettings:
    return StudySettings.parse(
        {
            "name": "small",
            "sequences": ["T1c"],
            "size": 32,
            "cohorts": {"adult": {"sources": [{"path": str(folder)}]}},
            "segmenters": {"adult": {"cohort": "adult", "steps": 2, "batch_size": 4}},
            "hookpoints": "stage2",
            "dictionaries": {"k": 4, "expansion": 2, "steps": 3, "batch_size": 64, "controls": False},
            "device": "cpu",
            "strict": strict,
        },
        "the test",
    )


def sliced(folder: Path, out: Path, *, strict: bool = False) -> SliceSet:
    settings, run = settings_of(folder, strict=strict), Run(out)
    with run.writing(settings.model_dump(mode="json")), quarantine_reported(out, settings.cohorts):
        return Study(settings, run, analysis_table()).slices("adult")


def findings(out: Path) -> dict[str, list[str]]:
    """The codes in quarantine.json by case."""
    found: dict[str, list[str]] = {}
    for one in json.loads((out / "quarantine.json").read_text())["cohorts"][0]["findings"]:
        found.setdefault(one["case"], []).append(one["code"])
    return found


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "cohort", ["a", "b", "c", "d", "e"])


def test_row_23_a_link_out_is_not_hashed(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study neither reads nor hashes what a link out of the data folder leads to, however large it is."""
    linked, hashed = cohort / "b/b_t1ce.nii.gz", []
    linked.rename(tmp_path / "elsewhere.nii.gz")
    linked.symlink_to(tmp_path / "elsewhere.nii.gz")

    def watched(path: Path) -> str:
        hashed.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("seglens.studies.cohorts.hash_file", watched)
    sliced(cohort, tmp_path / "run")
    assert sorted(hashed) == sorted(
        f"{case}_{kind}.nii.gz" for case in "abcde" for kind in ("t1ce", "seg") if (case, kind) != ("b", "t1ce")
    )
    assert findings(tmp_path / "run") == {"b": ["outside_link"]}


def test_row_03_a_second_run_knows_its_files(tmp_path: Path, cohort: Path) -> None:
    """A run keeps every input's sha256; a file that is another by the next run is quarantined, until that is undone."""
    out, scan = tmp_path / "out", cohort / "b/b_t1ce.nii"
    scan.write_bytes(unpacked(cohort / "b/b_t1ce.nii.gz"))
    (cohort / "b/b_t1ce.nii.gz").unlink()
    first = sliced(cohort, out)
    kept = json.loads((out / "inputs/adult.json").read_text())["sha256"]
    assert len(kept) == 5 * 2
    check = Run(out).artifact("check/adult").document("check")
    assert {place: digest for place, digest in check["sha256"].items() if digest} == kept
    right = scan.read_bytes()
    scan.write_bytes(put(right, 352 + 2 * 4000, "h", 199))
    assert "b" not in set(sliced(cohort, out).index["case"])
    assert findings(out) == {"b": ["changed"]}
    assert "its sha256 differs" in (out / "quarantine.txt").read_text()
    sliced(cohort, out)  # it is still another file, however often one looks
    assert findings(out) == {"b": ["changed"]}
    scan.write_bytes(right)
    assert sliced(cohort, out).hash == first.hash
    assert findings(out) == {}
    scan.write_bytes(put(right, 352 + 2 * 4000, "h", 199))
    (out / "inputs/adult.json").unlink()  # it was meant
    assert "b" in set(sliced(cohort, out).index["case"])


def test_row_03_a_mended_case_comes_back(tmp_path: Path, cohort: Path) -> None:
    """What was quarantined may be mended: the case is taken in again by the next run."""
    out, scan = tmp_path / "out", cohort / "c/c_t1ce.nii.gz"
    right = scan.read_bytes()
    scan.write_bytes(right[:-30])
    assert "c" not in set(sliced(cohort, out).index["case"])
    assert findings(out) == {"c": ["truncated"]}
    scan.write_bytes(right)
    assert "c" in set(sliced(cohort, out).index["case"])
    assert findings(out) == {}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_comes_back_when_it_can(tmp_path: Path, cohort: Path, number: int) -> None:
    out = tmp_path / "out"
    with failing(cohort / "b/b_t1ce.nii.gz", number):
        assert "b" not in set(sliced(cohort, out).index["case"])
    assert findings(out) == {"b": ["unreadable"]}
    assert "b" in set(sliced(cohort, out).index["case"])
    assert findings(out) == {}


def test_a_fault_that_passes_is_not_kept(tmp_path: Path, cohort: Path) -> None:
    """The bytes were hashed, so what is kept of them would be found again for ever."""
    out = tmp_path / "out"
    with (
        failing(cohort / "b/b_t1ce.nii.gz", errno.EIO, "read_bytes"),
        pytest.raises(ValueError, match=r"b_t1ce\.nii\.gz could be read once and then not; run again"),
    ):
        sliced(cohort, out)
    assert "b" in set(sliced(cohort, out).index["case"])
    assert findings(out) == {}


def test_what_was_not_hashed_is_not_cut(tmp_path: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, scan = tmp_path / "out", cohort / "b/b_t1ce.nii.gz"

    def at_first(path: Path) -> str:
        if path == scan:
            raise OSError(errno.EIO, "Input/output error")
        return hash_file(path)

    with monkeypatch.context() as patch:
        patch.setattr("seglens.studies.cohorts.hash_file", at_first)
        with pytest.raises(ValueError, match=r"b_t1ce\.nii\.gz could be read only at the second try; run again"):
            sliced(cohort, out)
    assert not list((out / "artifacts").glob("slices-*"))
    assert "b" in set(sliced(cohort, out).index["case"])
    assert findings(out) == {}


def test_row_05_a_raised_cap_is_heeded(tmp_path: Path, cohort: Path) -> None:
    """A cap that is raised counts in a folder that was begun under the lower one, as the fix says it does."""
    settings, out = settings_of(cohort), tmp_path / "run"
    (source,) = settings.cohorts["adult"].sources
    tight = settings.cohorts["adult"].model_copy(update={"sources": [replace(source, max_gib=1e-5)]})
    for own, left_out in ((settings.model_copy(update={"cohorts": {"adult": tight}}), True), (settings, False)):
        run = Run(out)
        with run.writing(own.model_dump(mode="json")):
            if left_out:
                with pytest.raises(ValueError, match="all 5 cases are quarantined"):
                    Study(own, run, analysis_table()).slices("adult")
                (out / "run.json").unlink()  # what the refusal of other settings says to do
            else:
                assert Study(own, run, analysis_table()).slices("adult").index["case"].n_unique() == 5


def test_row_18_a_study_is_refused_until_the_code_is_mapped(tmp_path: Path, cohort: Path) -> None:
    """A study whose masks code enhancing by the other rule is refused before a slice is cut; its report says why."""
    path = cohort / "d/d_seg.nii.gz"
    mask = nibabel.load(path)
    write_nifti(path, np.where(np.asarray(mask.dataobj) == 4, 3, np.asarray(mask.dataobj)), mask.affine)
    out = tmp_path / "out"
    for _ in range(2):  # also when the check is finished already
        with pytest.raises(ValueError, match="code enhancing tumour as 4"):
            sliced(cohort, out)
    assert findings(out) == {"d": ["enhancing_code"]}
    assert not list((out / "artifacts").glob("slices-*"))


def test_strict_stops_and_all_bad_stops_too(tmp_path: Path, cohort: Path) -> None:
    (cohort / "a/a_t1ce.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="strict, and 1 of 5 cases are bad: a "):
        sliced(cohort, tmp_path / "out", strict=True)
    assert findings(tmp_path / "out") == {"a": ["empty_file"]}
    sliced(cohort, tmp_path / "out")
    for case in "bcde":
        (cohort / f"{case}/{case}_t1ce.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"all 5 cases are quarantined; .*quarantine.txt"):
        sliced(cohort, tmp_path / "other")


def damage(cohort: Path, ids: list[str]) -> None:
    """Ten files, ten ways."""
    images = [cohort / f"imagesTr/{case_id}_0001.nii.gz" for case_id in ids]
    masks = [cohort / f"labelsTr/{case_id}.nii.gz" for case_id in ids]
    images[0].write_bytes(images[0].read_bytes()[:-200])
    bits = bytearray(images[1].read_bytes())
    bits[len(bits) // 2] ^= 8
    images[1].write_bytes(bits)
    masks[2].write_bytes(b"")
    images[3].write_bytes(b"<!DOCTYPE html><html>log in</html>" * 20)
    images[4].write_bytes(gzip.compress(put(unpacked(images[4]), 40, "8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)))
    for path, change in (
        (images[5], lambda data: np.where(np.indices(data.shape).sum(0) == 9, np.nan, data.astype(np.float32))),
        (images[6], lambda data: np.full_like(data, 7)),
        (masks[7], lambda data: data[..., :-1]),
        (masks[8], lambda data: np.where(np.indices(data.shape).sum(0) == 9, 77, data)),
    ):
        scan = nibabel.load(path)
        write_nifti(path, change(np.asarray(scan.dataobj)), scan.affine)
    images[9].unlink()


@pytest.mark.study
def test_ten_files_damaged_in_ten_ways(tmp_path: Path) -> None:
    """A cohort with ten bad files runs to its report without exactly those; its figures are those of a run without."""
    damaged = write_phantom_cohort(tmp_path / "damaged", "adult", subjects=18, seed=3, size=32, slices=3)
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (damaged / "labelsTr").iterdir())
    clean = tmp_path / "clean"
    shutil.copytree(damaged, clean)
    bad = ids[1::2] + ids[:1]
    assert len(bad) == DAMAGED
    damage(damaged, bad)
    for case_id in bad:
        for path in [*clean.glob(f"imagesTr/{case_id}_*"), clean / f"labelsTr/{case_id}.nii.gz"]:
            path.unlink()
    runs = {folder.name: run_study(settings_of(folder), tmp_path / f"out-{folder.name}") for folder in (damaged, clean)}
    page = write_report(runs["damaged"]).read_text()
    found = findings(tmp_path / "out-damaged")
    assert set(found) == set(bad)
    assert [code for case_id in bad for code in found[case_id]] == [
        "truncated", "corrupt", "empty_file", "not_nifti", "too_large",
        "nonfinite_voxels", "constant", "other_shape", "unknown_labels", "missing_sequence",
    ]  # fmt: skip
    assert all(case_id in page for case_id in bad)
    hashes = {name: run.hashes for name, run in runs.items()}
    assert [stage for stage in hashes["clean"] if hashes["clean"][stage] != hashes["damaged"][stage]] == ["check/adult"]
    assert {"slices/adult", "scores/adult@adult", "quality/adult", "atlas/adult"} <= set(hashes["clean"])
