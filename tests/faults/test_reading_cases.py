"""Rows 13 to 27: files that are right each, and wrong together."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.faults.scans import LPS, codes, head, write_cohort, write_nifti

from seglens.cohorts.case_reader import read_case
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.slices import Preprocessing, SliceSampling, prepare_slices
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError


def shifted(mm: float) -> np.ndarray:
    affine = LPS.copy()
    affine[2, 3] = mm
    return affine


def test_row_13_mask_of_another_shape(tmp_path: Path) -> None:
    """An image and a mask of different shape are quarantined, with both shapes."""
    root = write_cohort(tmp_path / "c")
    write_nifti(root / "a/a_seg.nii.gz", head()[1][..., :-1])
    report = check_cohort(read_cohort(root))
    assert codes(report) == {"a": ["other_shape"]}
    assert "(11, 28, 24) is not (12, 28, 24)" in report.findings[0].what


def test_row_14_small_differences_pass(tmp_path: Path) -> None:
    """Affines that differ by up to 1e-3 share a grid; beyond that the case is quarantined."""
    root = write_cohort(tmp_path / "c")
    write_nifti(root / "a/a_seg.nii.gz", head()[1], shifted(9e-4))
    write_nifti(root / "b/b_seg.nii.gz", head()[1], shifted(2e-3))
    report = check_cohort(read_cohort(root))
    assert codes(report) == {"b": ["other_affine"]}
    assert "resample" in report.findings[0].fix


def test_row_14_resample(tmp_path: Path) -> None:
    """With resample, images and masks are brought onto the first sequence's grid, and a note says so."""
    root = write_cohort(tmp_path / "c", ["a"])
    image, mask = head(1)
    pad = ((0, 0), (0, 0), (3, 0))  # three slices more below, and an affine that says so
    write_nifti(root / "a/a_t1ce.nii.gz", np.pad(image, pad), shifted(-3.0))
    write_nifti(root / "a/a_seg.nii.gz", np.pad(mask, pad), shifted(-3.0))
    assert codes(check_cohort(read_cohort(root))) == {"a": ["other_shape", "other_shape"]}
    cohort = read_cohort(root, SourceOptions(resample=True))
    report = check_cohort(cohort)
    assert codes(report) == {}
    assert codes(report, "note") == {"a": ["resampled", "resampled"]}
    content = read_case(cohort.cases[0], ("T1", "T1c"), cohort.labels)
    np.testing.assert_allclose(content.stacks["T1c"].values, image.transpose(2, 1, 0), atol=1e-3)
    assert content.mask is not None
    np.testing.assert_array_equal(content.mask, np.where(mask == 4, 3, mask).transpose(2, 1, 0))


def test_row_14_a_mask_elsewhere_is_not_lost_in_resampling(tmp_path: Path) -> None:
    """A mask that lies outside of the image is quarantined even with resample: no label vanishes without a word."""
    root = write_cohort(tmp_path / "c", ["a", "b"])
    write_nifti(root / "a/a_seg.nii.gz", head()[1], shifted(500.0))
    write_nifti(root / "b/b_t1ce.nii.gz", head()[0], shifted(500.0))
    report = check_cohort(read_cohort(root, SourceOptions(resample=True)))
    assert codes(report) == {"a": ["lost_in_resampling"], "b": ["lost_in_resampling"]}
    assert "keeps 0.0% of the value 2, 0.0% of the value 4 on the other grid" in report.findings[0].what


def test_row_15_las_beside_ras(tmp_path: Path) -> None:
    """Files of other voxel orders are one orientation inside: the same head gives the same slices."""
    straight = write_cohort(tmp_path / "one/c", ["a"])
    turned = tmp_path / "two/c"
    for file in sorted(straight.rglob("*.nii.gz")):
        image = nibabel.load(file)
        for axes, tag in (("LAS", "t1"), ("PIR", "t1ce"), ("RAS", "seg")):
            if file.name.endswith(f"_{tag}.nii.gz"):
                wanted = nibabel.orientations.axcodes2ornt(axes)
                change = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted)
                (turned / "a").mkdir(parents=True, exist_ok=True)
                nibabel.save(image.as_reoriented(change), turned / "a" / file.name)
    both = Preprocessing(("T1", "T1c"), size=32), SliceSampling(minimum_foreground_share=0.0)
    one, two = (prepare_slices(read_cohort(root), *both) for root in (straight, turned))
    assert one.hash == two.hash


def test_row_16_unknown_label_values(tmp_path: Path) -> None:
    """Unknown label values are quarantined and listed, never merged into another."""
    root = write_cohort(tmp_path / "c")
    mask = head()[1]
    mask[0, 0, :3] = (7, 9, 200)
    write_nifti(root / "a/a_seg.nii.gz", mask)
    report = check_cohort(read_cohort(root))
    assert codes(report) == {"a": ["unknown_labels"]}
    assert "[7, 9, 200]" in report.findings[0].what


def test_row_17_masks_as_floats(tmp_path: Path) -> None:
    """A mask of whole floats is read as labels; 0.9997 is quarantined, never rounded."""
    root = write_cohort(tmp_path / "c")
    mask = head()[1].astype(np.float32)
    write_nifti(root / "a/a_seg.nii.gz", mask)
    write_nifti(root / "b/b_seg.nii.gz", np.where(mask == 2, np.float32(1.9997), mask))
    cohort = read_cohort(root)
    report = check_cohort(cohort)
    assert codes(report) == {"b": ["fractional_labels"]}
    assert "1.9997" in report.findings[0].what
    labels = read_case(cohort.case("a"), ("T1",), cohort.labels).mask
    assert labels is not None
    np.testing.assert_array_equal(labels, np.where(mask == 4, 3, mask).transpose(2, 1, 0))


def test_row_18_the_code_of_enhancing_tumour(tmp_path: Path) -> None:
    """Enhancing coded as by the other years' rule is refused, and the rest with it, until `mask_values` says."""
    old, new = write_cohort(tmp_path / "old", ["a"]), write_cohort(tmp_path / "new", ["b"], style="new")
    for root in (old, new):  # by their names 4 in one and 3 in the other: both become 3
        assert check_cohort(read_cohort(root)).findings == ()
    mask = head()[1]
    write_nifti(old / "a/a_seg.nii.gz", np.where(mask == 4, 3, mask))
    report = check_cohort(read_cohort(old))
    assert codes(report, "refuse") == {"a": ["enhancing_code"]}
    assert report.quarantined == frozenset()
    with pytest.raises(ValueError, match=r"a_seg.nii.gz.*holds the value 3.*code enhancing tumour as 4.*mask_values"):
        report.settle(strict=False)
    check_cohort(read_cohort(old, SourceOptions(mask_values={0: 0, 1: 1, 2: 2, 3: 3}))).settle(strict=True)


def test_row_19_empty_mask(tmp_path: Path) -> None:
    """An empty mask is fine: a slice without any label is a slice."""
    root = write_cohort(tmp_path / "c")
    write_nifti(root / "b/b_seg.nii.gz", np.zeros((24, 28, 12), np.uint8))
    cohort = read_cohort(root)
    assert check_cohort(cohort).findings == ()
    many = SliceSampling(minimum_foreground_share=0.0, lesion_free_share=0.8)
    slices = prepare_slices(cohort.with_splits({"test": ["a", "b"]}), Preprocessing(("T1",), size=32), many)
    of_b = slices.select([row for row, case in enumerate(slices.index["case"]) if case == "b"])
    assert len(of_b) > 0
    assert int(of_b.masks().max()) == 0


def test_row_20_missing_sequence(tmp_path: Path) -> None:
    """A missing sequence is quarantined, never filled with zeros."""
    root = write_cohort(tmp_path / "c")
    (root / "a/a_t1ce.nii.gz").unlink()
    cohort = read_cohort(root)
    assert codes(check_cohort(cohort)) == {"a": ["missing_sequence"]}
    with pytest.raises(VolumeError, match="no T1c"):
        prepare_slices(cohort, Preprocessing(("T1", "T1c"), size=32))


def test_row_20_capitals(tmp_path: Path) -> None:
    """A sequence named in other capitals is found."""
    root = write_cohort(tmp_path / "c", ["a"], style="new")
    (root / "a/a-t1c.nii.gz").rename(root / "a/a-T1C.nii.gz")
    cohort = read_cohort(root)
    assert cohort.sequences == ("T1", "T1c")
    assert check_cohort(cohort).findings == ()


def test_row_21_four_dimensions(tmp_path: Path) -> None:
    """4-D where 3-D is due is refused with the question whether the fourth is the sequence or the time."""
    root = write_cohort(tmp_path / "c")
    image = head()[0]
    write_nifti(root / "b/b_t1.nii.gz", np.stack([image, image + 1], axis=-1))
    report = check_cohort(read_cohort(root))
    assert codes(report, "refuse") == {"b": ["four_dimensions"]}
    with pytest.raises(ValueError, match="the sequence or the time"):
        report.settle(strict=False)


def test_row_21_channels_that_are_named(tmp_path: Path) -> None:
    """4-D images whose channels a decathlon's dataset.json names are read, each channel as its sequence."""
    images = [head(seed)[0] for seed in range(2)]
    mask = head(enhancing=3)[1]
    write_nifti(tmp_path / "imagesTr/p_001.nii.gz", np.stack(images, axis=-1))
    write_nifti(tmp_path / "labelsTr/p_001.nii.gz", mask)
    described = {
        "modality": {"0": "FLAIR", "1": "t1gd"},
        "labels": {"0": "background", "1": "necrotic_core", "2": "edema", "3": "enhancing"},
        "training": [{"image": "./imagesTr/p_001.nii.gz", "label": "./labelsTr/p_001.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    cohort = read_cohort(tmp_path)
    assert cohort.sequences == ("T1c", "FLAIR")
    assert check_cohort(cohort).findings == ()
    content = read_case(cohort.cases[0], cohort.sequences, cohort.labels)
    for sequence, image in zip(("FLAIR", "T1c"), images, strict=True):
        np.testing.assert_array_equal(content.stacks[sequence].values, image.transpose(2, 1, 0))
    described["training"][0]["image"] = "../elsewhere.nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="leads out of the data set's folder"):
        read_cohort(tmp_path, SourceOptions(layout="msd"))


def test_row_23_links_out_of_the_folder(tmp_path: Path) -> None:
    """A file or folder that links out of the data folder is quarantined; with follow_links it is read."""
    elsewhere = write_cohort(tmp_path / "elsewhere", ["b", "d"])
    root = write_cohort(tmp_path / "c", ["a", "c"])
    (root / "b").symlink_to(elsewhere / "b")
    (root / "c/c_t1.nii.gz").unlink()
    (root / "c/c_t1.nii.gz").symlink_to(elsewhere / "d/d_t1.nii.gz")
    cohort = read_cohort(root)
    report = check_cohort(cohort)
    assert codes(report) == {"b": ["outside_link"], "c": ["outside_link"]}
    assert "follow_links" in report.findings[0].fix
    with pytest.raises(VolumeError, match="link out of"):
        read_case(cohort.case("c"), ("T1",), cohort.labels)
    trusted = read_cohort(root, SourceOptions(follow_links=True))
    assert [case.id for case in trusted.cases] == ["a", "b", "c"]
    assert codes(check_cohort(trusted)) == {}


def test_row_23_links_within_the_folder_and_in_a_circle(tmp_path: Path) -> None:
    """Links inside the folder are followed once, circles come to an end, and a link to nothing is quarantined."""
    root = write_cohort(tmp_path / "c", ["a", "b"])
    (root / "a/again").symlink_to(root)
    (root / "b/here").symlink_to(root / "b")
    (root / "hidden").symlink_to(root / "a")
    (root / "b/b_t1.nii.gz").unlink()
    (root / "b/b_t1.nii.gz").symlink_to(root / "b/nothing.nii.gz")
    (root / "b/b_t1ce.nii.gz").unlink()
    (root / "b/b_t1ce.nii.gz").symlink_to(root / "b/b_t1ce.nii.gz")
    for follow in (False, True):
        cohort = read_cohort(root, SourceOptions(follow_links=follow))
        assert [case.id for case in cohort.cases] == ["a", "b"]
        assert codes(check_cohort(cohort)) == {"b": ["missing", "missing"]}


def test_row_23_a_pipe_is_no_file(tmp_path: Path) -> None:
    """A named pipe in place of a file is quarantined at once, not waited for."""
    root = write_cohort(tmp_path / "c", ["a"])
    (root / "a/a_t1.nii.gz").unlink()
    os.mkfifo(root / "a/a_t1.nii.gz")
    assert codes(check_cohort(read_cohort(root))) == {"a": ["missing"]}


def test_row_24_the_same_id_twice(tmp_path: Path) -> None:
    """The same case id twice, or differing by capitals, is refused before any file is read."""
    for number, (first, second) in enumerate((("a", "a"), ("case", "CASE"))):
        root = tmp_path / str(number)
        write_cohort(root / "x", [first])
        write_cohort(root / "y", [second])
        with pytest.raises(ValueError, match=r"occur twice|differ only by capitals, Unicode form or blanks"):
            read_cohort(root)


def test_row_25_a_patient_in_two_splits(tmp_path: Path) -> None:
    """One patient in train and test is refused, and all of a patient's visits are dealt to one split."""
    ids = [f"BraTS-GLI-0000{patient}-00{visit}" for patient in range(4) for visit in range(2)]
    cohort = read_cohort(write_cohort(tmp_path / "c", ids, style="new"))
    split = cohort.split_of()
    assert all(split[first] == split[second] for first, second in zip(ids[::2], ids[1::2], strict=True))
    with pytest.raises(ValueError, match=r"patients in two splits: BraTS-GLI-00000 \(test and train\)"):
        cohort.with_splits({"train": [ids[0]], "test": [ids[1]]})


def duplicates(root: Path) -> Path:
    """Case d is case a, saved in another voxel order and type."""
    write_cohort(root, ["a", "b", "c", "d"])
    for tag in ("t1", "t1ce", "seg"):
        image = nibabel.load(root / f"a/a_{tag}.nii.gz")
        data = np.asarray(image.dataobj)[::-1].astype(np.float32)
        flip = image.affine @ np.array([[-1, 0, 0, data.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        write_nifti(root / f"d/d_{tag}.nii.gz", data, flip)
    return root


def test_row_26_duplicates_across_splits(tmp_path: Path) -> None:
    """The same voxels under two ids are refused across splits, in whatever type and order they are saved."""
    cohort = read_cohort(duplicates(tmp_path / "c")).with_splits({"train": ["a", "b"], "test": ["c", "d"]})
    report = check_cohort(cohort)
    assert codes(report, "refuse") == {"d": ["same_voxels"]}
    with pytest.raises(
        ValueError, match="voxel for voxel, the T1 of the case a, and they are in the splits test and train"
    ):
        report.settle(strict=False)


def test_row_26_duplicates_within_a_split(tmp_path: Path) -> None:
    """Within a split the same voxels under two ids are a warning."""
    cohort = read_cohort(duplicates(tmp_path / "c")).with_splits({"train": ["a", "d"], "test": ["b", "c"]})
    report = check_cohort(cohort)
    assert codes(report, "note") == {"d": ["same_voxels"]}
    report.settle(strict=True)


STRANGE = ("a b", "two\nlines", "<script>alert(1)</script>", "=1+1,;\"'", "../up", "\x1b[31mred")


def test_row_27_strange_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spaces, newlines and markup in ids stay what they are: escaped in HTML, CSV, terminal text and paths."""
    import polars as pl

    from seglens.cohorts.mask_files import mask_name
    from seglens.reports.blocks import Section, row, table
    from seglens.reports.report import render

    ids = [name.replace("/", "_") for name in STRANGE]
    root = write_cohort(tmp_path / "c", ids)
    for case_id in ids:
        (root / case_id / f"{case_id}_seg.nii.gz").unlink()
    cohort = read_cohort(root)
    assert {case.id for case in cohort.cases} == set(ids)
    report = check_cohort(cohort)
    assert report.quarantined == set(ids)
    lines = report.text().splitlines()
    assert len(lines) == 1 + 2 * len(ids)
    assert all(line.isprintable() for line in lines)
    names = {mask_name(case, case.images["T1"]) for case in cohort.cases}
    assert len(names) == len(ids)
    assert all((tmp_path / name).parent == tmp_path and name.isprintable() and " " not in name for name in names)
    frame = pl.DataFrame({"case": ids})
    assert pl.read_csv(frame.write_csv().encode())["case"].to_list() == ids
    page = render("t", [Section("s", "s", "", (table("cases", ("case",), [row(case_id) for case_id in ids]),))])
    assert ids[2] not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;".replace("/", "_") in page


def test_row_27_ids_from_folders_cannot_leave_the_output(tmp_path: Path) -> None:
    """An id with slashes and dots names a file inside the folder it is written to."""
    from seglens.cohorts.mask_files import mask_name

    for name in ("x/y", "x/z"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
    cohort = read_cohort(tmp_path, SourceOptions(images="images/*/*.png"), sequences=["T1"])
    assert {case.id for case in cohort.cases} == {"images/x/y", "images/x/z"}
    names = {mask_name(case, case.images["T1"]) for case in cohort.cases}
    assert len(names) == 2
    assert not any("/" in name or name.startswith(".") for name in names)
