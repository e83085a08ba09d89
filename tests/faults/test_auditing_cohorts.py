"""Row 94: an audit says in a clear sentence what it cannot say, and why."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.faults.scans import head, write_cohort, write_nifti
from tests.nnunet_folder import write_folder
from tests.unit.audit.conftest import PATIENTS, SEQUENCES, audited, cohorts_of

from seglens.audit.auditing import audit
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.segmenters.opened import open_model


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Cohort]:
    """Ten labelled patients, and six others without masks."""
    root = tmp_path_factory.mktemp("cohorts")
    return cohorts_of(write_cohort(root / "source", PATIENTS), without_masks(root / "target", 6))


def without_masks(folder: Path, n: int) -> Path:
    write_cohort(folder, [f"q{number}" for number in range(n)], seed=500)
    for mask in folder.rglob("*_seg.nii.gz"):
        mask.unlink()
    return folder


def test_row_94_empty_target(tmp_path):
    """A target folder without a case is refused by its path, before anything is computed."""
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"nothing.*(no case found|looks like none)"):
        read_cohort(tmp_path / "nothing", sequences=SEQUENCES, with_masks=False)


def test_row_94_one_volume(cohorts):
    """One volume is audited, and the sentence says that it is one patient."""
    source, target = cohorts
    one = replace(target, cases=target.cases[:1], splits={}, deal=None)
    found = audited(source, one, hospitals=0)
    assert "one patient" in found.verdict.sentence.lower() and len(found.volumes()) == 1


def test_row_94_target_that_is_the_source(cohorts):
    """A target all of whose files are the source's, byte for byte, is refused with their number."""
    source, _ = cohorts
    with pytest.raises(ValueError, match=r"all 20 files of the target .* byte for byte: there is nothing to find"):
        audited(source, replace(source.without_masks(), name="copy"))


def test_row_94_target_of_another_organ(cohorts, tmp_path):
    """Images that look like nothing in the source are called outside of what can be estimated, not good or bad."""
    source, target = cohorts
    random = np.random.default_rng(0)
    x, y, _ = np.indices((24, 28, 12))
    for case in target.cases:
        for tag in ("t1", "t1ce"):
            body = head()[0] > 0
            image = np.where((x // 4 + y // 4) % 2 == 0, 900, 60) + random.integers(0, 30, body.shape)
            write_nifti(tmp_path / case.id / f"{case.id}_{tag}.nii.gz", np.where(body, image, 0).astype(np.int16))
    other = cohorts_of(Path(source.cases[0].images["T1"].path).parents[1], tmp_path)[1]
    found = audited(source, other, hospitals=0)
    assert found.verdict.outcome == "outside" and "extrapolation" in found.verdict.sentence
    assert all(any(flag.kind == "outside" for flag in own) for own in found.flags)


def test_row_94_target_of_another_sequence(tmp_path):
    """A target without a sequence of the model is refused by the sequence's name, with those that there are."""
    write_cohort(tmp_path, ["q0"], n_sequences=1)
    with pytest.raises(ValueError, match="no case has T1c; there are T1"):
        read_cohort(tmp_path, sequences=SEQUENCES, with_masks=False)


def test_row_94_masks_of_another_label_set(cohorts):
    """A source whose masks mean other classes than the model's is refused with both."""
    source, target = cohorts
    other = replace(source, labels={0: "background", 1: "liver", 2: "spleen", 3: "kidney"})
    with pytest.raises(ValueError, match=r"its labels are .*liver.* the segmenter's .*edema"):
        audited(other, target)


def test_row_94_pictures_for_a_model_of_volumes(cohorts, tmp_path):
    """Pictures that are given to a model of volumes are refused with what to give."""
    model = open_model(write_folder(tmp_path), fold=0)
    source, target = (
        replace(
            cohort,
            sequences=model.sequences,
            labels=model.labels,
            splits={},
            deal=None,
            cases=tuple(_slices_of(case, dict(zip(model.sequences, SEQUENCES, strict=True))) for case in cohort.cases),
        )
        for cohort in cohorts
    )
    checks = check_cohort(source.without_masks()), check_cohort(target.without_masks())
    with pytest.raises(ValueError, match=r"none of the source's 1 volumes .*lies in 10 files of one slice each"):
        audit(model, source, target, checks=checks)


def _slices_of(case: Case, names: dict[str, str]) -> Case:
    """The case as one of several slices of one patient."""
    images = {own: case.images[name] for own, name in names.items()}
    number = int(case.id[1:])
    return replace(case, patient=case.cohort, volume=case.cohort, position=number, images=images, mask_values={})
