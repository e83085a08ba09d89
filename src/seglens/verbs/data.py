"""The verbs of a cohort's files as they lie: ``seglens phantom`` makes one, ``check`` reads one."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, Token

from seglens.cohorts.layout_table import AUTO, LAYOUTS
from seglens.cohorts.source_options import SourceOptions
from seglens.foreign.plain_numbers import whole_number
from seglens.verbs.options import DECIMAL, DONE, QUARANTINED, WHOLE, Strict

if TYPE_CHECKING:
    from seglens.cohorts.case import Cohort


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
        return whole_number(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no whole number; give --labels as 0=background,1=tumour, --mask-values as 0=0,255=1 and "
            "--channels as FLAIR=1"
        ) from None


def _pairs_of(key: Callable[[str], Any], value: Callable[[str], Any], what: str) -> Parameter:
    """An option that is given as pairs, such as ``0=background,1=tumour``."""

    def read(_: object, tokens: Sequence[Token]) -> dict[Any, Any]:
        given = pairs(",".join(token.value for token in tokens))
        return {key(name): value(text) for name, text in given.items()}

    return Parameter(converter=read, accepts_keys=False, n_tokens=1, help=what)


@Parameter(name="*", negative="")
@dataclass(frozen=True, kw_only=True)
class FileOptions(SourceOptions):
    """How a cohort's files are found and what is allowed of them.

    Attributes:
        sequences: sequences that must be there, in this order; R G B for colour pictures.
    """

    layout: Annotated[str, Parameter(help=f"{AUTO} looks; {', '.join(LAYOUTS)}, or one of an installed package.")] = (
        AUTO
    )
    labels: Annotated[
        Mapping[int, str] | None, _pairs_of(whole, str, "Values and their names, such as 0=background,1=tumour.")
    ] = None
    mask_values: Annotated[
        Mapping[int, int] | None, _pairs_of(whole, whole, "Codes in the masks, such as 0=0,255=1.")
    ] = None
    channels: Annotated[
        Mapping[str, int] | None, _pairs_of(str, whole, "Sequences and channels of the files, such as FLAIR=1,T1=0.")
    ] = None
    mask_threshold: Annotated[float | None, DECIMAL] = None
    max_gib: Annotated[float, DECIMAL] = SourceOptions.max_gib
    sequences: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None

    def cohort(
        self,
        path: Path,
        *,
        sequences: tuple[str, ...] | None = None,
        labels: Mapping[int, str] | None = None,
        with_masks: bool = True,
    ) -> "Cohort":
        """Find the cases; what is not given here is taken from the arguments."""
        from seglens.cohorts.layouts import read_cohort

        options = replace(self, labels=self.labels or labels)
        return read_cohort(path, options, sequences=self.sequences or sequences, with_masks=with_masks)


DEFAULTS = FileOptions()


def phantom(
    *,
    out: Annotated[Path, Parameter(help="Folder for the cohort, in nnU-Net's raw layout.")],
    population: Literal["adult", "pediatric", "ssa", "healthy"],
    subjects: Annotated[int, WHOLE] = 20,
    seed: Annotated[int, WHOLE] = 0,
    slices: Annotated[int, WHOLE] = 10,
    size: Annotated[int, WHOLE] = 128,
    factor: Annotated[
        list[str] | None, Parameter(help="One difference of another population, such as noise=ssa; repeatable.")
    ] = None,
) -> int:
    """Make a cohort with planted truth."""
    from seglens.phantoms.cohort import write_phantom_cohort
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
    files: FileOptions = DEFAULTS,
    out: Annotated[
        Path | None,
        Parameter(help="Write quarantine.json and quarantine.txt there, and know these files again the next time."),
    ] = None,
    foreground: Annotated[
        str, Parameter(help="Which pixels a network is shown: brain, nonzero, none (all of them), or auto.")
    ] = "auto",
    strict: Strict = False,
) -> int:
    """List all that is wrong with the data, per case, with the fix; exit 3 if a case is quarantined."""
    from seglens.cohorts.checks import check_cohort
    from seglens.studies.input_checksums import (
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
        report = check_cohort(found, known=known, foreground=foreground, progress=progress)
    print(report.text())
    if out is not None:
        with quarantine_reported(out, sorted({found.name, *cohorts_of(out)})):
            remember(out, found, report.sha256, report, root=cohort)
    report.settle(strict=strict)
    return QUARANTINED if report.quarantined else DONE
