import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
import torch
from markupsafe import escape
from tests.faults.scans import write_cohort, write_nifti
from tests.nnunet_folder import REGIONS, write_case, write_folder
from tests.unit.audit.conftest import FIT, SEQUENCES, audited, cohorts_of
from torch import nn

from seglens.artifacts import read_artifact
from seglens.audit.audit_page import render_audit, to_look_at
from seglens.audit.auditing import DOCUMENT, FEATURES, PAGE, VOLUMES, AuditSettings, audit, read_again, write_audit
from seglens.cohorts.case import Case, Cohort, ImageRef
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.source_options import SourceOptions
from seglens.segmenters.opened import open_model
from seglens.segmenters.segmenter import Segmenter

FOLDER = os.environ.get("SEGLENS_REAL_DATA")


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
    mixed = Cohort("mixed", (*target.cases[:2], same.cases[0]), SEQUENCES, source.labels, {}, labelled=False)
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
        for name, own in (("source", cases[:5]), ("target", cases[5:]))
    )
    target = target.without_masks()
    checks = check_cohort(source), check_cohort(target)
    found = audit(model, source, target, checks=checks, settings=AuditSettings(hospitals=1))
    assert found.maker.of_fold == {} and found.source.latents.shape == (5, 0)
    assert found.source.rows["n_samples"].min() > 1 and found.training.rows.height == 10
    assert np.isfinite(found.prediction.target).all() and len(found.prediction.target) == 3
    page = render_audit(found, read_again(found, target, to_look_at(found)))
    assert page.count("data:image/png") == 9


@pytest.mark.real
@pytest.mark.skipif(FOLDER is None, reason="SEGLENS_REAL_DATA names no folder of scans")
def test_real_chest_x_rays_of_another_hospital_are_told_from_the_first(tmp_path):
    """Two real sites, the second without its masks; the network calls what is dark lung."""
    for place, site in (("source", "montgomery"), ("target", "shenzhen")):
        files = sorted((Path(FOLDER) / "cxr_lungs" / site / "images").iterdir())[:12]
        for what in ("images", "masks") if place == "source" else ("images",):
            (tmp_path / place / what).mkdir(parents=True)
            for file in files:
                (tmp_path / place / what / file.name).write_bytes((file.parents[1] / what / file.name).read_bytes())
    labels = {0: "background", 1: "lungs"}
    layout = {"images": "images/{patient}.png", "masks": "masks/{patient}.png", "mask_values": {0: 0, 255: 1}}
    options = SourceOptions(labels=labels, **layout)
    source = read_cohort(tmp_path / "source", options, sequences=("X",))
    target = read_cohort(tmp_path / "target", options, sequences=("X",), with_masks=False)
    features, head = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU()), nn.Conv2d(8, 2, 1)
    with torch.no_grad():
        features[0].weight[:, 0, 0, 0], features[0].bias[:] = torch.linspace(-2, -0.5, 8), 0.1
        head.weight.zero_()
        head.weight[1], head.bias[:] = 1.0, torch.tensor([1.0, 0.0])
    segmenter = Segmenter.wrap(
        nn.Sequential(features, head),
        sequences=("X",),
        labels=labels,
        hookpoints={"features": "0"},
        size=64,
        preprocessing=Preprocessing(("X",), 64, foreground="none"),
    )
    checks = check_cohort(source), check_cohort(target)
    assert not checks[0].quarantined and not checks[1].quarantined
    found = audit(segmenter, source, target, checks=checks, settings=AuditSettings(fit=FIT, hospitals=1))
    assert found.shift.different and found.prediction.n_patients == 12 and len(found.volumes()) == 12
    assert 0.1 < found.verdict.source < 0.9 and np.isfinite(found.prediction.target).all()
