"""The verb ``seglens audit``: what to expect of a model on images without masks."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seglens.verbs.data import DEFAULTS, FileOptions
from seglens.verbs.models import Device, Fold, Module, Settings, opened_network
from seglens.verbs.options import DECIMAL, DONE, QUARANTINED, WHOLE, Strict

if TYPE_CHECKING:
    from seglens.cohorts.case import Cohort


def audit(
    *,
    model: Annotated[
        Path,
        Parameter(
            help="A run's segmenter (results/artifacts/segmenter-...), an nnU-Net's folder, a MONAI bundle, or the "
            "folder of a network of your own."
        ),
    ],
    source: Annotated[
        Path, Parameter(help="Cohort with masks, from where the model comes; best patients that it was not trained on.")
    ],
    target: Annotated[Path, Parameter(help="Cohort without masks, of the place in question.")],
    out: Annotated[
        Path, Parameter(help="Folder for audit.html, audit.json, volumes.csv and features.parquet; must not exist.")
    ],
    files: FileOptions = DEFAULTS,
    split: Annotated[
        str | None, Parameter(help="Of the source, only this split, such as test: what the model has not seen.")
    ] = None,
    hookpoint: Annotated[
        str | None, Parameter(help="Where the network is opened; by default in the middle of its list.")
    ] = None,
    dictionary: Annotated[
        Path | None, Parameter(help="Folder of the model's dictionary; without it small ones are fitted.")
    ] = None,
    threshold: Annotated[
        float | None,
        DECIMAL,
        Parameter(help="Dice below which a volume fails; by default the source's 10% quantile."),
    ] = None,
    hospitals: Annotated[
        int, WHOLE, Parameter(help="Virtual hospitals a patient of the source to learn from, 0 to 30; 0 is quicker.")
    ] = 4,
    fold: Fold = None,
    settings: Settings = None,
    module: Module = None,
    seed: Annotated[int, WHOLE] = 0,
    device: Device = "auto",
    strict: Strict = False,
) -> int:
    """Say how good a model will be on images without masks, on which volumes it fails, and what is different there."""
    from seglens.artifacts import read_artifact
    from seglens.audit.audit_page import render_audit, to_look_at
    from seglens.audit.auditing import PAGE, AuditSettings, read_again, write_audit
    from seglens.audit.auditing import audit as audit_of
    from seglens.cohorts.checks import check_cohort
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.terminal import StageDisplay

    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"--threshold {threshold:g} is no Dice between 0 and 1; give one such as 0.7")
    network, foreground = opened_network(model, fold=fold, settings=settings, module=module, device=device)
    cohorts = []
    for path, with_masks in ((source, True), (target, False)):
        own = files
        if codes := getattr(network, "codes", None):
            own = replace(files, mask_values=files.mask_values or {code: label for label, code in codes.items()})
        cohorts.append(own.cohort(path, sequences=network.sequences, labels=network.labels, with_masks=with_masks))
    labelled, bare = cohorts
    if split is not None:
        labelled = _only(labelled, split)
    if labelled.name == bare.name:
        labelled, bare = (
            replace(labelled, name=f"{source.parent.name}-{labelled.name}"),
            replace(bare, name=f"{target.parent.name}-{bare.name}"),
        )
    display = StageDisplay()
    checks = []
    for cohort in (labelled, bare):
        with display(f"check {cohort.name}") as progress:
            checks.append(check_cohort(cohort, foreground=foreground, progress=progress))
        checks[-1].settle(strict=strict)
    given = None if dictionary is None else SparseAutoencoder.read(read_artifact(dictionary, "dictionary"))
    found = audit_of(
        network,
        labelled,
        bare,
        checks=(checks[0], checks[1]),
        dictionary=given,
        settings=AuditSettings(hookpoint=hookpoint, threshold=threshold, hospitals=hospitals, seed=seed),
        announce=display,
    )
    page = render_audit(found, read_again(found, bare, to_look_at(found)))
    write_audit(found, out, page)
    print(found.verdict.sentence)
    print(out / PAGE)
    lost = found.source.lost or found.target.lost or any(check.quarantined for check in checks)
    return QUARANTINED if lost else DONE


def _only(cohort: "Cohort", split: str) -> "Cohort":
    """The cases of one split."""
    if split not in cohort.splits or not cohort.splits[split]:
        known = ", ".join(name for name, ids in cohort.splits.items() if ids)
        raise ValueError(f"the source {cohort.name} has no case in the split {split!r}; it has {known}")
    kept = set(cohort.splits[split])
    return cohort.with_splits({}).without({case.id for case in cohort.cases} - kept)
