"""A network with one hookpoint, and small cohorts of files that it is audited on."""

from pathlib import Path

import pytest
import torch
from tests.faults.scans import write_cohort
from torch import nn

from seglens.audit.auditing import Audit, AuditSettings, audit
from seglens.audit.volume_samples import SampleReader
from seglens.audit.volume_table import TableMaker, VolumeTable, folds_of
from seglens.cohorts.case import TUMOUR_LABELS, Cohort
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.normalisation_groups import groups_of
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.source_options import SourceOptions
from seglens.dictionaries.fit_settings import FitSettings
from seglens.segmenters.segmenter import Segmenter

SEQUENCES = ("T1", "T1c")
FIT = FitSettings(expansion=2, steps=8, batch_size=256)
PATIENTS = [f"p{number}" for number in range(10)]


def network() -> Segmenter:
    """Random features of width 8, and a head that calls what is bright edema."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU())
        head = nn.Conv2d(8, 4, 1)
    with torch.no_grad():
        features[0].weight[0].zero_()
        features[0].weight[0, :, 1, 1] = 0.5
        features[0].bias[0] = -0.6
        head.weight.mul_(0.05)
        head.weight[2, 0], head.bias[:] = 4.0, torch.tensor([1.0, -1.0, -0.5, -1.0])
    return Segmenter.wrap(
        nn.Sequential(features, head),
        sequences=SEQUENCES,
        labels=TUMOUR_LABELS,
        hookpoints={"features": "0"},
        size=28,
        preprocessing=Preprocessing(SEQUENCES, 28, foreground="brain"),
    )


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients with masks."""
    return write_cohort(tmp_path_factory.mktemp("audit") / "labelled", PATIENTS)


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients whose masks are not there."""
    folder = write_cohort(tmp_path_factory.mktemp("audit") / "unlabelled", [f"q{n}" for n in range(6)], seed=500)
    for mask in folder.rglob("*_seg.nii.gz"):
        mask.unlink()
    return folder


def cohorts_of(labelled: Path, unlabelled: Path) -> tuple[Cohort, Cohort]:
    """The source, and the target without masks."""
    source = read_cohort(labelled, sequences=SEQUENCES)
    options = SourceOptions(labels=source.labels)
    return source, read_cohort(unlabelled, options, sequences=SEQUENCES, with_masks=False)


def audited(source: Cohort, target: Cohort, *, hospitals: int = 1) -> Audit:
    """An audit with small dictionaries."""
    checks = check_cohort(source), check_cohort(target)
    return audit(network(), source, target, checks=checks, settings=AuditSettings(fit=FIT, hospitals=hospitals))


@pytest.fixture(scope="session")
def found(labelled: Path, unlabelled: Path) -> Audit:
    return audited(*cohorts_of(labelled, unlabelled))


@pytest.fixture(scope="session")
def maker(labelled: Path) -> TableMaker:
    units = groups_of(read_cohort(labelled, sequences=SEQUENCES).cases)
    return TableMaker.fitted(SampleReader(network()), units, folds_of(PATIENTS), settings=FIT)


@pytest.fixture(scope="session")
def source(labelled: Path, maker: TableMaker) -> VolumeTable:
    units = groups_of(read_cohort(labelled, sequences=SEQUENCES).cases)
    return maker.table(units, folds=folds_of(PATIENTS), with_masks=True)


@pytest.fixture(scope="session")
def target(unlabelled: Path, maker: TableMaker) -> VolumeTable:
    cohort = read_cohort(unlabelled, sequences=SEQUENCES, with_masks=False)
    return maker.table(groups_of(cohort.cases))
