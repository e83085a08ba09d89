"""Row 15, the way back: predictions on the file's own grid, orientation and affine."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.faults.scans import head, write_cohort, write_nifti

from seglens.cohorts.case import Case, Cohort, ImageRef
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.mask_files import write_mask
from seglens.cohorts.slice_stack import read_stack
from seglens.cohorts.slices import Preprocessing, SliceSampling, prepare_slices
from seglens.cohorts.source_options import SourceOptions
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.prediction import predict_cohort
from seglens.segmenters.segmenter import Segmenter
from seglens.verbs.models import predict

ALL_ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*axes)
]
OBLIQUE = np.array([[0.9, -0.3, 0.1, -20], [0.25, 0.95, -0.1, 14], [-0.1, 0.2, 1.9, 3], [0, 0, 0, 1]])


def turned(axes: str, shape: tuple[int, int, int], base: np.ndarray) -> np.ndarray:
    """The affine of an array of that shape whose voxels run as ``axes`` says."""
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    affine = base @ nibabel.orientations.inv_ornt_aff(change, shape)
    assert "".join(nibabel.aff2axcodes(affine)) == axes
    return affine


@pytest.mark.parametrize("axes", ALL_ORIENTATIONS)
def test_row_15_masks_go_back_to_any_orientation(tmp_path: Path, axes: str) -> None:
    """A mask that was read from a file of any orientation, oblique too, is written back voxel for voxel."""
    shape = (5, 7, 4)
    given = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    original = write_nifti(tmp_path / "mask.nii.gz", given, turned(axes, shape, OBLIQUE))
    mask = read_stack(ImageRef(original)).values.astype(np.uint8)
    write_mask(tmp_path / "again.nii.gz", mask, {0: 0, 1: 1, 2: 2, 3: 3}, ImageRef(original))
    first, again = nibabel.load(original), nibabel.load(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(np.asarray(again.dataobj), given)
    np.testing.assert_array_equal(again.affine, first.affine)
    for field in ("pixdim", "qform_code", "sform_code", "quatern_b", "srow_x", "xyzt_units"):
        np.testing.assert_array_equal(again.header[field], first.header[field])


def test_row_15_the_cap_of_the_reading_is_that_of_the_writing(tmp_path: Path) -> None:
    """The image is looked at again when its mask is written, under the cap under which it was read."""
    original = write_nifti(tmp_path / "image.nii.gz", head()[0], np.eye(4))
    mask = np.zeros(read_stack(ImageRef(original)).values.shape, np.uint8)
    with pytest.raises(ValueError, match="over the cap of 1000"):
        write_mask(tmp_path / "mask.nii.gz", mask, {0: 0}, ImageRef(original), max_bytes=1000)


class Threshold(torch.nn.Module):
    """Says label k where the normalised image is about k / 2: a segmenter whose right answer is known."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = torch.arange(4.0)[:, None, None] / 2
        return -((images - levels) ** 2) * 50


def knowing(size: int) -> Segmenter:
    labels = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
    return Segmenter.wrap(
        Threshold(),
        sequences=("T1",),
        labels=labels,
        hookpoints={},
        size=size,
        preprocessing=Preprocessing(("T1",), size, foreground="brain"),
    )


@pytest.mark.parametrize("axes", ["LPS", "LAS", "PIR"])
def test_row_15_predictions_are_those_of_the_slices(tmp_path: Path, axes: str) -> None:
    """What the network says of a slice stands in the file at that slice's voxels, 4 for enhancing where it is 4."""
    shape = (24, 28, 12) if axes != "PIR" else (28, 12, 24)
    image = np.random.default_rng(1).integers(100, 300, shape).astype(np.int16)
    affine = turned(axes, shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    write_nifti(tmp_path / "c/a/a_t1.nii.gz", image, affine)
    write_nifti(tmp_path / "c/a/a_seg.nii.gz", np.zeros(shape, np.uint8), affine)
    cohort = read_cohort(tmp_path / "c")
    segmenter = knowing(28)
    done = predict_cohort(segmenter, cohort, folder=tmp_path / "out", batch_size=5)
    written = nibabel.load(tmp_path / "out/a.nii.gz")
    np.testing.assert_array_equal(written.affine, nibabel.load(tmp_path / "c/a/a_t1.nii.gz").affine)
    assert written.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(written.dataobj))) == {0, 1, 2, 4}
    # read again as a mask, it gives what the network says of the slices
    write_nifti(tmp_path / "c/a/a_seg.nii.gz", np.asarray(written.dataobj), written.affine)
    sampling = SliceSampling(minimum_foreground_share=0.0, lesion_free_share=0.0)
    slices = prepare_slices(read_cohort(tmp_path / "c"), segmenter.preprocessing, sampling)
    assert len(slices) == 12
    inside = slices.brains()
    assert torch.equal(segmenter.predict(slices.images())[inside], slices.masks()[inside])
    row = done.document("cases")[0]
    assert row["values"]["enhancing"] == 4
    assert sum(row["voxels"].values()) == image.size


def test_row_15_other_sizes_keep_the_grid(tmp_path: Path) -> None:
    """Where the network's slices are smaller or larger than the file's, the mask still has the file's grid."""
    cohort = read_cohort(write_cohort(tmp_path / "c", ["a"]), sequences=["T1"])
    for size in (16, 64):
        predict_cohort(knowing(size), cohort, folder=tmp_path / str(size))
        assert nibabel.load(tmp_path / str(size) / "a.nii.gz").shape == (24, 28, 12)


@pytest.mark.parametrize("orientation", ["PL", "AR", "RA", "LP"])
def test_row_15_pictures_go_back_as_png(tmp_path: Path, orientation: str) -> None:
    """The mask of a 2-D image is a PNG with the image's own rows and columns and the masks' own values."""
    generator = np.random.default_rng(0)
    for number in range(2):
        pixels = generator.integers(100, 255, (12, 9)).astype(np.uint8)
        (tmp_path / "c").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"c/p_{number}.png")
    options = SourceOptions(
        images="{patient}_{slice}.png",
        orientation=orientation,
        labels={0: "background", 1: "tumour"},
        mask_values={0: 0, 255: 1},
    )
    cohort = read_cohort(tmp_path / "c", options, sequences=["T1"])
    network = torch.nn.Conv2d(1, 2, 1)
    network.weight.data = torch.tensor([[[[0.0]]], [[[1.0]]]])
    network.bias.data = torch.tensor([0.0, 0.0])
    segmenter = Segmenter.wrap(
        network,
        sequences=("T1",),
        labels={0: "background", 1: "tumour"},
        hookpoints={},
        size=12,
        preprocessing=Preprocessing(("T1",), 12, foreground="none"),
    )
    predict_cohort(segmenter, cohort, folder=tmp_path / "out")
    everything = np.concatenate([np.asarray(Image.open(tmp_path / f"c/p_{n}.png")).ravel() for n in range(2)])
    low, high = np.percentile(everything.astype(np.float64), (0.5, 99.5))
    mean = np.clip(everything, low, high).mean()
    for number in range(2):
        picture = np.asarray(Image.open(tmp_path / f"c/p_{number}.png"))
        mask = np.asarray(Image.open(tmp_path / f"out/p-{number}.png"))
        np.testing.assert_array_equal(mask, np.where(picture > mean, 255, 0))


def test_codes_of_merged_and_missing_labels(tmp_path: Path) -> None:
    from seglens.cohorts.mask_files import file_codes

    case = Case("a", "a", "a", "c", {}, None, {0: 0, 1: 1, 2: 1, 4: 1})
    assert file_codes(case, {0: "background", 1: "tumour"}) == {0: 0, 1: 1}
    with pytest.raises(ValueError, match=r"stands for 2 \(edema\)"):
        file_codes(case, {0: "background", 1: "tumour", 2: "edema"})
    image = write_nifti(tmp_path / "a.nii.gz", head()[0])
    with pytest.raises(ValueError, match="do not fit"):
        write_mask(tmp_path / "m.png", np.zeros((1, 2, 2), np.uint8), {0: 0, 1: 300}, ImageRef(image))


def test_predict_quarantines_steers_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb: bad cases are left out and told, the rest is written; strict stops; edits need their dictionary."""
    from seglens.artifacts import new_artifact, read_artifact
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.steering.edits import LatentEdit

    root = write_cohort(tmp_path / "c", ["a", "b"])
    broken = root / "b/b_t1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-50])
    (root / "a/a_seg.nii.gz").unlink()  # masks are not needed
    cohort = read_cohort(root, sequences=["T1"])
    segmenter = build_segmenter("segformer-b0", sequences=("T1",), labels=cohort.labels, size=32, seed=0)
    segmenter = replace(segmenter, preprocessing=Preprocessing(("T1",), 32, foreground="brain"))
    segmenter.save(tmp_path / "segmenter")
    network = tmp_path / "segmenter"
    assert predict(root, model=network, out=tmp_path / "plain") == 3
    assert "truncated" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "plain").glob("*.nii.gz")) == ["a.nii.gz"]
    assert read_artifact(tmp_path / "plain", verify=True).inputs["quarantined"] == ["b"]
    with pytest.raises(ValueError, match="strict"):
        predict(root, model=network, out=tmp_path / "none", strict=True)
    d_in = 64
    dictionary = SparseAutoencoder(
        d_in=d_in, n_latents=128, k=4, seed=0, hookpoint="stage2", segmenter_hash=segmenter.hash, store_hash=""
    )
    with new_artifact(tmp_path / "dictionary", kind="dictionary", inputs={}) as draft:
        dictionary.write(draft)
    assert isinstance(cohort, Cohort)
    edit = LatentEdit("stage2", dictionary.hash, tuple(range(64)), "add", 30.0)
    (tmp_path / "edits.json").write_text(json.dumps(edit.description()))
    given = {"edits": tmp_path / "edits.json", "dictionary": tmp_path / "dictionary"}
    assert predict(root, model=network, out=tmp_path / "steered", **given) == 3
    steered = read_artifact(tmp_path / "steered")
    assert steered.inputs["steering"] == [edit.description()]
    plain, other = (np.asarray(nibabel.load(tmp_path / name / "a.nii.gz").dataobj) for name in ("plain", "steered"))
    assert (plain != other).any()
    with pytest.raises(ValueError, match="belong together"):
        predict(root, model=network, out=tmp_path / "none", edits=given["edits"])
    (tmp_path / "edits.json").write_text('{"hookpoint": "stage2"}')
    with pytest.raises(ValueError, match="no file of edits"):
        predict(root, model=network, out=tmp_path / "none", **given)
    (tmp_path / "edits.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"empty list, which steers nothing\); write LatentEdit\.description\(\) as JSON"
    ):
        predict(root, model=network, out=tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()


def test_predict_segments_a_test_folder_without_masks(tmp_path: Path) -> None:
    """The verb takes nnU-Net's imagesTs without labelsTs; a study passes over them, for they cannot be scored."""
    root = tmp_path / "raw"
    labels = {"background": 0, "tumour": 1}
    for folder, case in (("Tr", "a"), ("Ts", "b")):
        write_nifti(root / f"images{folder}/{case}_0000.nii.gz", head()[0])
    write_nifti(root / "labelsTr/a.nii.gz", (head()[1] > 0).astype(np.uint8))
    described = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    assert [case.id for case in read_cohort(root).cases] == ["a"]
    network = build_segmenter("segformer-b0", sequences=("T1",), labels=read_cohort(root).labels, size=32, seed=0)
    network = replace(network, preprocessing=Preprocessing(("T1",), 32, foreground="brain"))
    network.save(tmp_path / "segmenter")
    assert predict(root, model=tmp_path / "segmenter", out=tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]
