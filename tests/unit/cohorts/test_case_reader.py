from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts import case_reader
from seglens.cohorts.case import TUMOUR_LABELS, Case, ImageRef
from seglens.cohorts.case_reader import read_case, read_contents
from seglens.cohorts.volumes import VolumeError

UNTIL_2021 = {0: 0, 1: 1, 2: 2, 4: 3}


def case(image: Path, mask: Path | None, **others: Path) -> Case:
    images = {"T1": ImageRef(image)} | {name: ImageRef(path) for name, path in others.items()}
    return Case("a", "a", "a", "c", images, ImageRef(mask) if mask else None, UNTIL_2021)


def test_other_orientations_and_small_differences_share_a_grid(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    flipped = affine @ np.array([[-1, 0, 0, image.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    nearly = affine + 9e-4 * (np.arange(16).reshape(4, 4) == 3)
    one = case(
        write_nifti(tmp_path / "t1.nii.gz", image, affine),
        write_nifti(tmp_path / "seg.nii.gz", mask[::-1].astype(np.float32), flipped),
        T2=write_nifti(tmp_path / "t2.nii.gz", image, nearly),
    )
    content = read_case(one, ["T1", "T2"], TUMOUR_LABELS)
    np.testing.assert_array_equal(content.stacks["T1"].values, image.transpose(2, 1, 0))
    assert content.mask is not None
    np.testing.assert_array_equal(content.mask, np.where(mask == 4, 3, mask).transpose(2, 1, 0))
    assert content.stacks["T1"].spacing_mm == (2.0, 1.0)


def test_grids_that_differ_are_refused(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    t1 = write_nifti(tmp_path / "t1.nii.gz", image)
    shifted = np.diag([-1.0, -1.0, 1.0, 1.0])
    shifted[0, 3] = 0.01
    with pytest.raises(VolumeError, match=r"affine differs by up to 0\.01 from that of t1") as caught:
        read_case(case(t1, write_nifti(tmp_path / "a.nii.gz", mask, shifted)), ["T1"], TUMOUR_LABELS)
    assert caught.value.code == "other_affine"
    with pytest.raises(VolumeError, match=r"\(11, 28, 24\) is not \(12, 28, 24\)") as caught:
        read_case(case(t1, write_nifti(tmp_path / "b.nii.gz", mask[..., :-1])), ["T1"], TUMOUR_LABELS)
    assert caught.value.code == "other_shape"


def test_what_is_missing_is_said(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    t1, seg = write_nifti(tmp_path / "t1.nii.gz", image), write_nifti(tmp_path / "seg.nii.gz", mask)
    with pytest.raises(VolumeError, match="no mask"):
        read_case(case(t1, None), ["T1"], TUMOUR_LABELS)
    with pytest.raises(VolumeError, match="no FLAIR"):
        read_case(case(t1, seg), ["FLAIR"], TUMOUR_LABELS)


def test_all_faults_are_gathered_and_the_first_is_raised(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    broken = tmp_path / "t2.nii.gz"
    broken.write_bytes(b"")
    seg = write_nifti(tmp_path / "seg.nii.gz", mask[..., 1:] + np.uint8(50))
    one = case(write_nifti(tmp_path / "t1.nii.gz", image), seg, T2=broken)
    content = read_contents(one, ["FLAIR", "T2", "T1"], TUMOUR_LABELS)
    codes = [fault.code for fault in content.faults]
    assert codes == ["missing_sequence", "empty_file", "other_shape", "unknown_labels"]
    assert list(content.stacks) == ["T1"]
    assert content.mask is None
    assert set(content.sha256) == {tmp_path / "t1.nii.gz", seg}
    with pytest.raises(VolumeError, match="no FLAIR"):
        read_case(one, ["FLAIR", "T2", "T1"], TUMOUR_LABELS)


def test_a_file_with_several_channels_is_read_once(tmp_path: Path, write_nifti, head, monkeypatch) -> None:
    images = [head(seed)[0] for seed in range(3)]
    path = write_nifti(tmp_path / "all.nii.gz", np.stack(images, -1))
    refs = {name: ImageRef(path, channel) for channel, name in enumerate(("T1", "T2", "FLAIR"))}
    one = Case("a", "a", "a", "c", refs, None, UNTIL_2021)
    read = []
    real = case_reader.read_stacks
    monkeypatch.setattr(case_reader, "read_stacks", lambda refs, **rest: read.append(refs) or real(refs, **rest))
    content = read_contents(one, ["FLAIR", "T1"], TUMOUR_LABELS, with_mask=False)
    assert [[ref.channel for ref in refs] for refs in read] == [[2, 0]]
    np.testing.assert_array_equal(content.stacks["T1"].values, images[0].transpose(2, 1, 0))
    np.testing.assert_array_equal(content.stacks["FLAIR"].values, images[2].transpose(2, 1, 0))
