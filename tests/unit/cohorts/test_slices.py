from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from seglens.artifacts import ArtifactError, hash_file, new_artifact, read_artifact
from seglens.cohorts import slice_shards
from seglens.cohorts.case import Cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.slices import Preprocessing, SliceSampling, SliceSet, prepare_slices
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError

T1 = Preprocessing(("T1",), size=16)
ANY = SliceSampling(minimum_foreground_share=0.0)


@pytest.fixture
def adults(tmp_path: Path, write_brats):
    return read_cohort(write_brats(tmp_path / "adults", [f"a{i}" for i in range(5)]), sequences=["T1", "T1c"])


def same(a: SliceSet, b: SliceSet) -> bool:
    pixels = all(torch.equal(getattr(a, what)(), getattr(b, what)()) for what in ("images", "masks", "brains"))
    return pixels and a.index.equals(b.index) and a.hash == b.hash


def test_slices_are_radiological_and_normalised(adults, head) -> None:
    slices = prepare_slices(adults, Preprocessing(("T1",), size=28), replace(ANY, lesion_free_share=0.5))
    image, mask = head(0)  # LPS: x runs to the left, y to the back
    rows = slices.index.filter(pl.col("case") == "a0")
    brain = image != 0
    low, high = np.percentile(image[brain], [0.5, 99.5])
    clipped = np.clip(image.astype(np.float64), low, high)
    normal = np.where(brain, (clipped - clipped[brain].mean()) / clipped[brain].std(), 0)
    _, last_mask = head(1)  # write_brats writes the mask of the last channel; it does not hang on the seed
    np.testing.assert_array_equal(mask, last_mask)
    for row, z in zip(rows["row"], rows["position"], strict=True):
        window = np.zeros((28, 28))
        window[:, 2:26] = normal[:, :, z].T
        np.testing.assert_allclose(slices.images([row])[0, 0, 0].numpy(), window, atol=1e-4)
        labels = np.zeros((28, 28), int)
        labels[:, 2:26] = np.where(mask == 4, 3, mask)[:, :, z].T
        np.testing.assert_array_equal(slices.masks([row])[0, 0].numpy(), labels)
    lesion = (slices.masks() > 0).nonzero().float()
    assert lesion[:, 2].mean() < 13  # in front: upper rows
    assert lesion[:, 3].mean() > 15  # the patient's left: right columns
    assert set(slices.index["spacing_row_mm"]) == {1.0}


def test_spacing_after_resizing(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    for tag, data in (("t1", image), ("seg", mask)):
        write_nifti(tmp_path / f"c/a/a_{tag}.nii.gz", data, np.diag([-0.5, -2.0, 4.0, 1.0]))
    slices = prepare_slices(read_cohort(tmp_path / "c"), T1, ANY)
    # 28 rows of 2 mm and 24 columns of 0.5 mm, padded to 28 x 28, shown as 16 x 16
    assert slices.index["spacing_row_mm"][0] == pytest.approx(2.0 * 28 / 16)
    assert slices.index["spacing_column_mm"][0] == pytest.approx(0.5 * 28 / 16)


def test_memory_and_disk_agree_to_the_bit(adults, tmp_path: Path, monkeypatch) -> None:
    both = Preprocessing(("T1c", "T1"), size=16), SliceSampling(minimum_foreground_share=0.1)
    monkeypatch.setattr(slice_shards, "SHARD_BYTES", 16 * 16 * 10 * 7)
    memory = prepare_slices(adults, *both)
    disk = prepare_slices(adults, *both, folder=tmp_path / "slices")
    assert same(memory, disk)
    assert len(disk.shards) == -(-len(disk) // 7)
    assert {len(shard) for shard in list(disk.shards)[:-1]} == {7}
    again = prepare_slices(adults, *both, folder=tmp_path / "again")
    first, second = (read_artifact(tmp_path / name, "slices", verify=True) for name in ("slices", "again"))
    assert first.hash == second.hash
    assert same(again, SliceSet.read(first))
    with pytest.raises(ArtifactError, match="exists"):
        prepare_slices(adults, *both, folder=tmp_path / "slices")


def test_the_share_of_lesion_free_slices(adults) -> None:
    for share in (0.0, 0.1, 0.2, 0.3):
        slices = prepare_slices(adults, T1, replace(ANY, lesion_free_share=share))
        free = ~(slices.masks() > 0).flatten(1).any(1)
        n_lesion = int((~free).sum())
        assert n_lesion == 5 * int((adults_mask_extent(adults)).sum())
        for split in ("train", "val", "test"):
            rows = slices.index.filter(pl.col("split") == split)["row"].to_list()
            wanted = round(int((~free[rows]).sum()) * share / (1 - share))
            assert int(free[rows].sum()) == wanted
    only = prepare_slices(adults, T1, replace(ANY, lesion_free_share=1.0))
    assert not only.masks().any()


def adults_mask_extent(cohort) -> np.ndarray:
    import nibabel

    return np.asanyarray(nibabel.load(cohort.cases[0].mask.path).dataobj).any((0, 1))


def test_the_draw_hangs_on_the_seed_and_the_volume_alone(adults) -> None:
    def free(seed: int, **options) -> dict[str, list[int]]:
        cohort = adults.with_splits({"x": [c.id for c in adults.cases]})
        slices = prepare_slices(cohort, T1, replace(ANY, lesion_free_share=0.3), seed=seed, **options)
        shows = (slices.masks() > 0).flatten(1).any(1)
        table = slices.index.filter(~pl.Series(shows.numpy()))
        return {case: table.filter(pl.col("case") == case)["position"].to_list() for case in table["case"].unique()}

    assert free(0) == free(0)
    assert free(0) != free(1)
    assert free(0, quarantined={"a0"})["a1"] == free(0)["a1"] or len(free(0, quarantined={"a0"})["a1"]) != len(
        free(0)["a1"]
    )


def test_slices_per_volume_are_spread_over_the_lesion(adults) -> None:
    sampling = replace(ANY, lesion_free_share=0.0, slices_per_volume=3)
    slices = prepare_slices(adults, T1, sampling)
    extent = np.flatnonzero(adults_mask_extent(adults))
    assert len(extent) > 3
    for case in adults.cases:
        kept = slices.index.filter(pl.col("case") == case.id)["position"].to_list()
        assert kept == [extent[0], extent[round((len(extent) - 1) / 2)], extent[-1]]


def test_slices_with_too_little_brain_are_left_out(adults, head) -> None:
    share = 0.4
    sampling = SliceSampling(minimum_foreground_share=share, lesion_free_share=0.45)
    slices = prepare_slices(adults, T1, sampling)
    brain = (head(0)[0] != 0).mean((0, 1))
    kept = set(slices.index["position"])
    assert kept <= set(np.flatnonzero(brain >= share).tolist())
    assert kept != set(range(12))
    with pytest.raises(ValueError, match="no slice of 5 cases is kept; lower minimum_foreground_share"):
        prepare_slices(adults, Preprocessing(("T1",)), SliceSampling(minimum_foreground_share=1.0))


def test_a_lesion_that_resizing_loses_makes_no_slice_lesion_free(tmp_path: Path, write_picture) -> None:
    image = np.zeros((64, 64), np.uint8)
    image[8:-8, 8:-8] = np.random.default_rng(0).integers(50, 99, (48, 48))
    for number, place in enumerate(((slice(20, 40), slice(20, 40)), (slice(31, 32), slice(31, 32)), (0, slice(0, 0)))):
        mask = np.zeros((64, 64), np.uint8)
        mask[place] = 255
        write_picture(tmp_path / f"i/p-{number}.png", image)
        write_picture(tmp_path / f"m/p-{number}.png", mask)
    patterns = {"images": "i/{patient}-{slice}.png", "masks": "m/{patient}-{slice}.png"}
    cohort = read_cohort(tmp_path, SourceOptions(**patterns), sequences=["T1"])
    small = prepare_slices(cohort, Preprocessing(("T1",), size=8), SliceSampling(lesion_free_share=0.5))
    assert small.index["position"].to_list() == [0, 2]
    full = prepare_slices(cohort, Preprocessing(("T1",), size=64), SliceSampling(lesion_free_share=0.5))
    assert full.index["position"].to_list() == [0, 1, 2]


def _unlabelled(cohort: Cohort, *, but: str) -> Cohort:
    """Set every voxel of all masks but one case's to 0."""
    import nibabel

    for case in cohort.cases:
        if case.id != but and case.mask is not None:
            mask = nibabel.load(case.mask.path)
            nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), case.mask.path)
    return cohort


def test_quarantine_and_what_is_not(adults, tmp_path: Path) -> None:
    path = adults.cases[1].images["T1"].path
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(VolumeError, match="gzip stream"):
        prepare_slices(adults, T1, ANY, folder=tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    seen = []
    slices = prepare_slices(
        adults, T1, ANY, quarantined={"a1"}, progress=lambda done, total, **figures: seen.append((done, total))
    )
    assert slices.index["case"].unique().sort().to_list() == ["a0", "a2", "a3", "a4"]
    assert seen == [(i, 4) for i in (1, 2, 3, 4)]
    with pytest.raises(
        ValueError, match=r"no slice of 4 cases is kept: their masks hold no label pixel\. 1 further case"
    ):
        prepare_slices(_unlabelled(adults, but="a1"), T1, ANY, quarantined={"a1"})
    with pytest.raises(ValueError, match="has no FLAIR"):
        prepare_slices(adults, Preprocessing(("FLAIR",)))


def test_a_file_that_is_another_than_the_one_that_was_checked_is_refused(adults) -> None:
    path = adults.cases[0].images[adults.sequences[0]].path
    preprocessing = Preprocessing(adults.sequences, size=16)
    prepare_slices(adults, preprocessing, sha256={path: hash_file(path)})
    with pytest.raises(VolumeError, match="was written to since it was checked; run again"):
        prepare_slices(adults, preprocessing, sha256={path: "another"})


def test_cases_outside_every_split_keep_a_name_for_that(adults) -> None:
    slices = prepare_slices(adults.with_splits({"test": ["a0"]}), T1, ANY)
    assert slices.index.group_by("case").first().sort("case")["split"].to_list() == ["test"] + ["none"] * 4


def test_pictures_of_differing_size_are_normalised_as_one_volume(tmp_path: Path, write_picture) -> None:
    rng = np.random.default_rng(0)
    pixels = {}
    for number, shape in ((3, (20, 30)), (12, (16, 16)), (1, (24, 18))):
        image = np.zeros(shape, np.uint8)
        image[4:-4, 4:-4] = rng.integers(50 + 10 * number, 100 + 10 * number, (shape[0] - 8, shape[1] - 8))
        mask = np.zeros(shape, np.uint8)
        mask[6:9, 6:9] = 255
        write_picture(tmp_path / f"i/p-{number}.png", image)
        write_picture(tmp_path / f"m/p-{number}.png", mask)
        pixels[number] = image
    patterns = {"images": "i/{patient}-{slice}.png", "masks": "m/{patient}-{slice}.png"}
    cohort = read_cohort(tmp_path, SourceOptions(**patterns), sequences=["T1"])
    slices = prepare_slices(cohort, Preprocessing(("T1",), size=16, clip_percentiles=(0.0, 100.0)))
    assert slices.index["position"].to_list() == [1, 3, 12]
    assert slices.index["volume"].unique().to_list() == ["p"]
    assert slices.index["spacing_row_mm"].null_count() == 3  # a picture does not say how large its pixels are
    inside = np.concatenate([image[image > 0].astype(float) for image in pixels.values()])
    expected = np.where(pixels[12] > 0, (pixels[12] - inside.mean()) / inside.std(), 0)
    np.testing.assert_allclose(slices.images([2])[0, 0, 0].numpy(), expected, atol=1e-4)
    assert (slices.masks() == 1).flatten(1).any(1).all()


def test_a_volume_without_any_brain_gives_nothing(tmp_path: Path, write_picture) -> None:
    rng = np.random.default_rng(0)
    for patient, low in (("p", 1), ("q", 100)):
        image = rng.integers(low, low + 8, (24, 24)).astype(np.uint8)
        if patient == "q":
            image[:4], image[-4:], image[:, :4], image[:, -4:] = 0, 0, 0, 0
        else:  # noise and scattered bright pixels, which are no body
            image[2::6, 2::6] = 255
        write_picture(tmp_path / f"i/{patient}-1.png", image)
        write_picture(tmp_path / f"m/{patient}-1.png", np.eye(24, dtype=np.uint8) * 255)
    patterns = {"images": "i/{patient}-{slice}.png", "masks": "m/{patient}-{slice}.png"}
    cohort = read_cohort(tmp_path, SourceOptions(**patterns), sequences=["T1"])
    slices = prepare_slices(cohort, replace(T1, foreground="brain"), ANY)
    assert slices.index["case"].to_list() == ["q-1"]


def test_the_foreground_rule_is_settled_for_the_cohort(adults, write_nifti, head) -> None:
    assert T1.foreground == "auto"
    assert prepare_slices(adults, T1).preprocessing == replace(T1, foreground="brain")
    image, _ = head(0)
    noise = np.random.default_rng(0).integers(1, 9, image.shape)
    write_nifti(adults.cases[3].images["T1"].path, (image + noise).astype(np.int16))
    slices = prepare_slices(adults, T1)
    assert slices.preprocessing == replace(T1, foreground="none")
    # 24 columns are padded to 28 and brought to 16: what is left of the padding is no foreground, all else is
    assert slices.brains()[..., 2:-2].all()
    named = prepare_slices(adults, replace(T1, foreground="nonzero"))
    assert named.preprocessing == replace(T1, foreground="nonzero")
    assert named.images()[slices.brains()[:, None] & ~named.brains()[:, None]].eq(0).all()


def test_blanked_label_pixels_are_counted_and_told(adults, write_nifti, tmp_path: Path, caplog) -> None:
    import nibabel

    path = adults.cases[1].mask.path
    mask = np.asanyarray(nibabel.load(path).dataobj).copy()
    outside = int((np.asanyarray(nibabel.load(adults.cases[1].images["T1"].path).dataobj) == 0).sum())
    before = int((mask == 2).sum())
    mask[np.asanyarray(nibabel.load(adults.cases[1].images["T1"].path).dataobj) == 0] = 2
    write_nifti(path, mask)
    with caplog.at_level("WARNING"):
        slices = prepare_slices(adults, T1, folder=tmp_path / "slices")
    (found,) = slices.blanked
    assert (found.case, found.label) == ("a1", "edema")
    assert (found.blanked, found.pixels) == (outside, before + outside)
    assert f"{outside} label pixels of 1 cases are blanked" in caplog.text
    assert "set foreground: none" in caplog.text
    caplog.clear()
    assert prepare_slices(adults, replace(T1, foreground="none")).blanked == ()
    assert not caplog.text


@pytest.mark.parametrize(
    "wrong", [{"lesion_free_share": 1.2}, {"minimum_foreground_share": -0.1}, {"slices_per_volume": 0}]
)
def test_sampling_that_makes_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SliceSampling(**wrong)


def test_a_cohort_without_masks_gives_slices_evenly_over_its_foreground(adults, tmp_path: Path) -> None:
    bare = adults.without_masks()
    for case in adults.cases:
        case.mask.path.write_bytes(b"no mask is read")
    some = replace(ANY, slices_per_volume=4, minimum_foreground_share=0.05)
    slices = prepare_slices(bare, T1, some)
    every = prepare_slices(bare, T1, replace(some, slices_per_volume=None))
    for case in bare.cases:
        known = every.index.filter(case=case.id)["position"].to_list()
        assert known == list(range(known[0], known[-1] + 1)) and len(known) > 8
        assert slices.index.filter(case=case.id)["position"].to_list() == [known[n * len(known) // 4] for n in range(4)]
    assert not slices.labelled and not slices.select([0, 1]).labelled and slices.blanked == ()
    with pytest.raises(ValueError, match=r"adults is a cohort without masks \(labelled: false\), and this needs them"):
        slices.masks([0])
    disk = prepare_slices(bare, T1, some, folder=tmp_path / "slices")
    assert disk.hash == slices.hash and not disk.labelled and torch.equal(disk.images(), slices.images())
    with new_artifact(tmp_path / "again", kind="slices", inputs={}) as draft:
        slices.write(draft)
    assert SliceSet.read(read_artifact(tmp_path / "again", "slices")).hash == slices.hash
    empty = SliceSet.from_tensors(
        slices.images(), None, slices.brains(), slices.index, name="x", sequences=("T1",), labels=slices.labels
    )
    assert not empty.labelled
    background = SliceSet.from_tensors(
        slices.images(),
        torch.zeros(slices.brains().shape, dtype=torch.uint8),
        slices.brains(),
        slices.index,
        name="x",
        sequences=("T1",),
        labels=slices.labels,
    )
    assert empty.hash != background.hash


def test_a_cohort_without_masks_and_without_foreground_is_refused(adults) -> None:
    with pytest.raises(ValueError, match=r"no slice of 5 cases is kept; lower minimum_foreground_share \(1.0\)"):
        prepare_slices(adults.without_masks(), T1, replace(ANY, minimum_foreground_share=1.0))
