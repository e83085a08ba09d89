"""Rows 55 to 57: images that are no stripped brains lose no pixel under a label, and what a rule blanks is told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.faults.scans import codes, write_nifti

from seglens.cohorts.case import WHOLE_TUMOUR_LABELS, Cohort
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slices import SliceSampling, prepare_slices
from seglens.cohorts.source_options import SourceOptions
from seglens.shapes import plane_of
from seglens.verbs.data import FileOptions, check

PICTURES = SourceOptions(
    images="images/{patient}.png", masks="masks/{patient}.png", labels=WHOLE_TUMOUR_LABELS, mask_values={0: 0, 255: 1}
)
EVERY = SliceSampling(lesion_free_share=0.0, minimum_foreground_share=0.0)


def pictures(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Cohort:
    """A cohort of 8-bit pictures and masks, a patient each."""
    for number, (image, mask) in enumerate(pairs):
        for place, pixels in (("images", image), ("masks", mask * 255)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / place / f"p{number}.png")
    return read_pictures(folder)


def read_pictures(folder: Path) -> Cohort:
    return read_cohort(folder, PICTURES, sequences=["T1"])


def shown(cohort: Cohort, size: int, foreground: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks as a network is shown them."""
    slices = prepare_slices(cohort, Preprocessing(cohort.sequences, size, foreground=foreground), EVERY)
    return plane_of(slices.images())[:, 0].numpy(), plane_of(slices.masks()).numpy()


def chest(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An X-ray, whose lungs are dark and open to the dark edge, and the lungs' mask."""
    rng = np.random.default_rng(seed)
    image = rng.normal(150, 8, (64, 64))
    lungs = np.zeros((64, 64), bool)
    lungs[10:50, 8:26] = lungs[10:50, 38:56] = True
    image[lungs] = rng.normal(14, 3, int(lungs.sum()))
    image[10:40, :8] = rng.normal(6, 2, (30, 8))  # the arm is raised: dark from the lung to the edge
    return np.clip(image, 1, 255).round(), lungs


def test_row_55_a_dark_organ_is_shown_whole(tmp_path: Path) -> None:
    """Of a chest X-ray no pixel is blanked by default; the brain's rule would cut out lungs, and that is told."""
    cohort = pictures(tmp_path, [chest(seed) for seed in range(2)])
    report = check_cohort(cohort)
    assert (report.foreground, report.blanked, report.findings) == ("none", (), ())
    images, masks = shown(cohort, 64, "auto")
    assert (images[masks > 0] != 0).all()
    assert (images != 0).all()
    blanked, _ = shown(cohort, 64, "brain")
    n_blanked = int((blanked[masks > 0] == 0).sum())
    assert n_blanked > 0.3 * (masks > 0).sum()
    asked = check_cohort(cohort, foreground="brain")
    assert sum(one.blanked for one in asked.blanked) == n_blanked
    assert codes(asked, "note") == {"p0": ["label_blanked"], "p1": ["label_blanked"]}
    assert not asked.quarantined


def test_row_55_the_check_says_which_rule_and_what_it_blanks(tmp_path: Path, capsys) -> None:
    """`seglens check` names the rule and what it blanks, by case, label and share, and how to keep every pixel."""
    pictures(tmp_path / "c", [chest(0)])
    files = FileOptions(layout="folder", sequences=["T1"], images=PICTURES.images, masks=PICTURES.masks)
    assert check(tmp_path / "c", files=files) == 0
    assert "foreground none: no label pixel is blanked" in capsys.readouterr().out
    assert check(tmp_path / "c", files=files, foreground="brain") == 0
    text = capsys.readouterr().out
    assert "label pixels of 1 cases are blanked" in text
    assert "of 1440 pixels of tumour" in text
    assert "set foreground: none" in text
    with pytest.raises(ValueError, match="no foreground rule 'brian'"):
        check(tmp_path / "c", files=files, foreground="brian")


def two_pieces(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice low in the head: two lobes apart, in noise, and a lesion that fills the smaller one."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(1, 8, (64, 64))
    image[6:58, 4:36] = rng.normal(120, 10, (52, 32))
    image[20:40, 44:58] = rng.normal(200, 10, (20, 14))
    mask = np.zeros((64, 64), bool)
    mask[22:38, 46:56] = True
    return np.clip(image, 1, 255).round(), mask


def test_row_56_a_lesion_in_the_smaller_piece_is_shown(tmp_path: Path) -> None:
    """Of a slice in two pieces both are shown by default; the brain's rule keeps one, and tells the label's loss."""
    cohort = pictures(tmp_path, [two_pieces(seed) for seed in range(2)])
    images, masks = shown(cohort, 64, "auto")
    assert (images[masks > 0] > 1).all()  # bright, as it is in the file
    blanked, _ = shown(cohort, 64, "brain")
    assert (blanked[masks > 0] == 0).all()
    report = check_cohort(cohort, foreground="brain")
    assert [(one.case, one.label, one.share) for one in report.blanked] == [("p0", "tumour", 1), ("p1", "tumour", 1)]
    assert "160 of 160 pixels of tumour (100.00%)" in report.findings[0].what
    assert "foreground: none" in report.findings[0].fix
    assert check_cohort(cohort).blanked == ()


def test_row_56_two_pieces_of_a_stripped_brain(tmp_path: Path) -> None:
    """In a stripped brain nothing that is not zero is blanked, in however many pieces it lies."""
    pairs = [(np.where(image > 8, image, 0), mask) for image, mask in (two_pieces(0), two_pieces(1))]
    cohort = pictures(tmp_path, pairs)
    for rule in ("auto", "brain", "nonzero", "none"):
        assert check_cohort(cohort, foreground=rule).blanked == ()
        images, masks = shown(cohort, 64, rule)
        assert (images[masks > 0] > 0.5).all()


def test_row_57_a_crop_that_the_label_fills(tmp_path: Path) -> None:
    """Of a crop around an organ no pixel is blanked by default; what the brain's rule blanks is told by case."""
    rng = np.random.default_rng(0)
    cohort_folder = tmp_path / "c"
    for name in ("a", "b"):
        image = rng.normal(40, 6, (20, 24, 12))
        mask = np.zeros((20, 24, 12), np.uint8)
        mask[4:16, 4:20, 2:10] = 2
        mask[:, :, 5] = 2  # fills its slice
        image[mask > 0] -= 25  # darker than what is around it
        image[:6] += 120  # bright tissue at the side of the crop
        write_nifti(cohort_folder / f"{name}/{name}_t1.nii.gz", np.clip(image, 1, None).astype(np.float32))
        write_nifti(cohort_folder / f"{name}/{name}_seg.nii.gz", mask)
    cohort = read_cohort(cohort_folder, sequences=["T1"])
    report = check_cohort(cohort)
    assert (report.foreground, report.blanked) == ("none", ())
    slices = prepare_slices(cohort, Preprocessing(("T1",), 24), EVERY)
    assert slices.preprocessing is not None
    assert slices.preprocessing.foreground == "none"
    assert slices.blanked == ()
    assert (slices.images()[:, 0][slices.masks() > 0] != 0).all()
    full = [row for row in range(len(slices)) if (slices.masks([row]) > 0).sum() == 20 * 24]
    assert len(full) == 2
    asked = check_cohort(cohort, foreground="brain")
    assert {one.case for one in asked.blanked} == {"a", "b"}
    assert min(one.share for one in asked.blanked) > 0.1
    prepared = prepare_slices(cohort, Preprocessing(("T1",), 24, foreground="brain"), EVERY)
    assert prepared.blanked == asked.blanked
