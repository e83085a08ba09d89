"""The verbs of a cohort's files as they lie: ``seglens phantom`` makes one, ``check`` and ``predict`` read one."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from seglens.verbs.options import DONE, QUARANTINED, Strict

if TYPE_CHECKING:
    from seglens.cohorts.case import Cohort

Layout = Literal["auto", "brats", "nnunet", "bids", "msd", "folder"]


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """How a cohort's files are found and what is allowed of them; see `read_cohort`."""

    layout: Layout = "auto"
    sequences: Annotated[list[str] | None, Parameter(help="Sequences that must be there.", consume_multiple=True)] = (
        None
    )
    images: Annotated[str | None, Parameter(help="2-D folders: pattern with {patient} and {slice}.")] = None
    masks: Annotated[str | None, Parameter(help="2-D folders: pattern of the masks.")] = None
    channels: Annotated[str | None, Parameter(help="2-D folders: such as FLAIR=1,T1=0.")] = None
    labels: Annotated[str | None, Parameter(help="Values and their names, such as 0=background,1=tumour.")] = None
    mask_values: Annotated[str | None, Parameter(help="Codes in the masks, such as 0=0,255=1.")] = None
    patient: Annotated[
        str | None, Parameter(help="Expression with one group, which finds the patient in a case's id.")
    ] = None
    inverted: Annotated[bool, Parameter(help="2-D folders: intensities are 255 - x.", negative="")] = False
    orientation: Annotated[str, Parameter(help="2-D folders: where rows and columns run to.")] = "PL"
    nonfinite: Annotated[
        Literal["quarantine", "zero"], Parameter(help="Images with NaN or infinite voxels; zero counts and tells them.")
    ] = "quarantine"
    resample: Annotated[bool, Parameter(help="Bring files onto the first sequence's grid.", negative="")] = False
    follow_links: Annotated[bool, Parameter(help="Also read what links lead to outside.", negative="")] = False
    max_gib: Annotated[float, Parameter(help="The most that an unpacked file may hold.")] = 2.0

    def cohort(
        self,
        path: Path,
        *,
        sequences: tuple[str, ...] | None = None,
        labels: Mapping[int, str] | None = None,
        with_masks: bool = True,
    ) -> "Cohort":
        """Find the cases; what is not given here is taken from the arguments."""
        from seglens.cohorts.case import Reading
        from seglens.cohorts.layouts import read_cohort

        return read_cohort(
            path,
            layout=self.layout,
            sequences=self.sequences or sequences,
            images=self.images,
            masks=self.masks,
            channels={name: whole(number) for name, number in pairs(self.channels).items()} or None,
            labels={whole(value): name for value, name in pairs(self.labels).items()} or labels,
            mask_values={whole(code): whole(value) for code, value in pairs(self.mask_values).items()} or None,
            patient=self.patient,
            inverted=self.inverted,
            orientation=self.orientation,
            reading=Reading(self.nonfinite, self.resample, self.follow_links, self.max_gib),
            with_masks=with_masks,
        )


AS_THEY_LIE = Files()


def phantom(
    *,
    out: Annotated[Path, Parameter(help="Folder for the cohort, in nnU-Net's raw layout.")],
    population: Literal["adult", "pediatric", "ssa", "healthy"],
    subjects: int = 20,
    seed: int = 0,
    slices: int = 10,
    size: int = 128,
    factor: Annotated[
        list[str] | None, Parameter(help="One difference of another population, such as noise=ssa; repeatable.")
    ] = None,
) -> int:
    """Make a cohort with planted truth."""
    from seglens.cohorts.phantom.cohort import write_phantom_cohort
    from seglens.terminal import StageDisplay

    factors = pairs(",".join(factor or []))
    with StageDisplay()(f"phantom {population}") as progress:
        write_phantom_cohort(
            out,
            population,
            subjects=subjects,
            seed=seed,
            factors=factors,
            size=size,
            slices=slices,
            workers=os.cpu_count() or 1,
            progress=progress,
        )
    return DONE


def check(
    cohort: Annotated[Path, Parameter(help="The cohort's folder.")],
    *,
    files: Files = AS_THEY_LIE,
    out: Annotated[
        Path | None,
        Parameter(help="Write quarantine.json and quarantine.txt there, and know these files again the next time."),
    ] = None,
    strict: Strict = False,
) -> int:
    """List all that is wrong with the data, per case, with the cure; exit 3 if a case is quarantined."""
    from seglens.cohorts.checks import check_cohort
    from seglens.studies.inputs import (
        cohorts_of,
        known_files,
        quarantine_reported,
        refuse_another_data_set,
        remember,
    )
    from seglens.terminal import StageDisplay

    found = files.cohort(cohort)
    known = {}
    if out is not None:
        refuse_another_data_set(out, found, cohort)
        known = known_files(out, found)
    with StageDisplay()(f"check {found.name}") as progress:
        report = check_cohort(found, known=known, progress=progress)
    print(report.text())
    if out is not None:
        with quarantine_reported(out, sorted({found.name, *cohorts_of(out)})):
            remember(out, found, report.sha256, report, root=cohort)
    report.settle(strict=strict)
    return QUARANTINED if report.quarantined else DONE


def predict(
    segmenter: Annotated[Path, Parameter(help="Folder of a segmenter, such as results/artifacts/segmenter-...")],
    cohort: Annotated[Path, Parameter(help="The cohort's folder; masks are not needed.")],
    *,
    out: Annotated[Path, Parameter(help="Folder for the masks; must not exist.")],
    files: Files = AS_THEY_LIE,
    edits: Annotated[Path | None, Parameter(help="JSON file of latent edits to steer by.")] = None,
    dictionary: Annotated[Path | None, Parameter(help="Folder of the dictionary that the edits are of.")] = None,
    strict: Strict = False,
) -> int:
    """Write a mask for every case on its file's own grid, steered or not; exit 3 if a case is quarantined."""
    from seglens.artifacts import read_artifact
    from seglens.cohorts.checks import check_cohort
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.segmenters.prediction import predict_cohort
    from seglens.segmenters.segmenter import Segmenter
    from seglens.steering.edit_files import read_edits
    from seglens.steering.edits import steer
    from seglens.terminal import StageDisplay

    if (edits is None) != (dictionary is None):
        raise ValueError("--edits and --dictionary belong together; give both or neither")
    network = Segmenter.load(segmenter)
    found = files.cohort(cohort, sequences=network.sequences, labels=network.labels, with_masks=False).with_splits({})
    network.check_data(found.name, found.sequences, found.labels)
    acting = [] if edits is None else read_edits(edits)
    display = StageDisplay()
    with ExitStack() as stack:
        if dictionary is not None:
            stack.enter_context(steer(network, SparseAutoencoder.read(read_artifact(dictionary)), acting))
        with display(f"check {found.name}") as progress:
            report = check_cohort(found, with_masks=False, progress=progress)
        if report.findings:
            print(report.text())
        report.settle(strict=strict)
        with display(f"predict {found.name}") as progress:
            predict_cohort(
                network,
                found,
                folder=out,
                quarantined=report.quarantined,
                steering=[edit.description() for edit in acting],
                progress=progress,
            )
    print(out)
    return QUARANTINED if report.quarantined else DONE


def pairs(text: str | None) -> dict[str, str]:
    """``a=1,b=2`` as a mapping."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    wrong = [part for part in parts if "=" not in part]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: give pairs such as name=value, separated by commas")
    found: dict[str, str] = {}
    for name, value in (part.split("=", 1) for part in parts):
        if name.strip() in found:
            raise ValueError(f"{text}: {name.strip()} stands there twice; give each once")
        found[name.strip()] = value.strip()
    return found


def whole(text: str) -> int:
    """A whole number of such a pair."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no whole number; give --labels as 0=background,1=tumour, --mask-values as 0=0,255=1 and "
            "--channels as FLAIR=1"
        ) from None
