import json
from dataclasses import replace

import nibabel
import numpy as np
import polars as pl
import pytest
from markupsafe import escape
from tests.faults.scans import write_cohort, write_nifti
from tests.nnunet_folder import REGIONS, write_case, write_folder
from tests.unit.audit.conftest import SEQUENCES, audited, cohorts_of

from seglens.artifacts import read_artifact
from seglens.audit.audit_page import render_audit, to_look_at
from seglens.audit.auditing import DOCUMENT, FEATURES, PAGE, VOLUMES, AuditSettings, audit, read_again, write_audit
from seglens.cohorts.case import Case, Cohort, ImageRef
from seglens.cohorts.checks import check_cohort
from seglens.segmenters.opened import open_model


def test_a_folder_holds_the_page_the_document_and_the_tables(found, unlabelled, labelled, tmp_path):
    target = cohorts_of(labelled, unlabelled)[1]
    page = render_audit(found, read_again(found, target, to_look_at(found)))
    written = write_audit(found, tmp_path / "out", page)
    assert read_artifact(tmp_path / "out", "audit", verify=True).hash == written.hash
    document = json.loads((tmp_path / "out" / f"{DOCUMENT}.json").read_text())
    assert document["verdict"]["sentence"] == found.verdict.sentence and str(escape(found.verdict.sentence)) in page
    table = pl.read_csv(tmp_path / "out" / VOLUMES)
    assert sorted(table["volume"]) == [f"q{number}" for number in range(6)]
    assert table["predicted_dice"].to_list() == pytest.approx([row["predicted_dice"] for row in document["volumes"]])
    assert table["chance_of_failure"].to_list() == sorted(table["chance_of_failure"], reverse=True)
    assert written.table(FEATURES).height == 26  # 10 of the source, 10 virtual, 6 here
    assert (tmp_path / "out" / PAGE).read_text() == page


def test_no_mask_of_the_target_is_looked_at(found, labelled, unlabelled, tmp_path):
    masked = write_cohort(tmp_path / "unlabelled", [f"q{number}" for number in range(6)], seed=500)
    again = audited(*cohorts_of(labelled, masked))
    assert again.volumes().equals(found.volumes()) and again.verdict.sentence == found.verdict.sentence


def test_the_same_files_are_refused_and_some_of_them_are_named(labelled, unlabelled):
    source, target = cohorts_of(labelled, unlabelled)
    same = cohorts_of(labelled, labelled)[1]
    with pytest.raises(ValueError, match=r"all 20 files of the target .* are the source's, byte for byte"):
        audited(source, same)
    mixed = Cohort("mixed", (*target.cases[:2], same.cases[0]), SEQUENCES, source.labels, {})
    notes = audited(source, mixed).notes
    assert any("2 of 6 files of the target are the source's" in note for note in notes)


def test_a_source_without_masks_and_a_target_that_cannot_be_read_are_refused(labelled, unlabelled, tmp_path):
    source, target = cohorts_of(labelled, unlabelled)
    bare = replace(source, cases=tuple(replace(case, mask=None) for case in source.cases))
    with pytest.raises(ValueError, match=r"none of 10 cases can be read \(it has no mask\)"):
        audited(bare, target)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    cases = tuple(
        replace(case, images={name: replace(ref, path=broken) for name, ref in case.images.items()})
        for case in target.cases
    )
    with pytest.raises(ValueError, match="none of 6 cases can be read"):
        audited(source, replace(target, cases=cases))


def test_a_model_of_volumes_and_regions_is_audited_window_by_window(tmp_path):
    """Its channels are too few for a dictionary: those rungs are constants, and the rest is there."""
    model = open_model(write_folder(tmp_path, labels=REGIONS), fold=0)
    cases = []
    for number in range(8):
        paths = write_case(tmp_path / "images", f"c{number}", seed=number, shape=(14, 15, 20))
        refs = {name: ImageRef(path) for name, path in zip(model.sequences, paths, strict=True)}
        image = nibabel.load(paths[0])
        mask = (np.asarray(image.dataobj) > 100).astype(np.uint8) + (np.asarray(image.dataobj) > 130)
        file = write_nifti(tmp_path / "masks" / f"c{number}.nii.gz", mask.astype(np.uint8), image.affine)
        cases.append(Case(f"c{number}", f"c{number}", f"c{number}", "c", refs, ImageRef(file), {0: 0, 1: 1, 2: 2}))
    source, target = (
        Cohort(name, tuple(replace(case, cohort=name) for case in own), model.sequences, model.labels, {})
        for name, own in (("source", cases[:5]), ("target", [replace(case, mask=None) for case in cases[5:]]))
    )
    checks = check_cohort(source), check_cohort(target, with_masks=False)
    found = audit(model, source, target, checks=checks, settings=AuditSettings(hospitals=1))
    assert found.maker.of_fold == {} and found.source.latents.shape == (5, 0)
    assert found.source.rows["n_samples"].min() > 1 and found.training.rows.height == 10
    assert np.isfinite(found.prediction.target).all() and len(found.prediction.target) == 3
    page = render_audit(found, read_again(found, target, to_look_at(found)))
    assert page.count("data:image/png") == 9
