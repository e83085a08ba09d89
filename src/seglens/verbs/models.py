"""The verbs of a trained model: ``seglens open`` says what it is, ``predict`` writes its masks."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from seglens.verbs.data import DEFAULTS, FileOptions
from seglens.verbs.options import DONE, QUARANTINED, REFUSED, Strict

if TYPE_CHECKING:
    from seglens.segmenters.opened import OpenedModel
    from seglens.segmenters.own_networks import BuildNetwork
    from seglens.segmenters.segmenter import Segmenter
    from seglens.steering.edits import LatentEdit

Fold = Annotated[
    list[str] | None,
    Parameter(help="Of an nnU-Net: 0, 1, ... or all; repeat it for an ensemble. All that are there by default."),
]
Settings = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        help="Of a MONAI bundle, or the description of a network of your own: KEY=JSON in the place of what stands "
        "there, or was left to code, such as pixdim=[1.5,1.5,1.5]; KEY#KEY leads inside. Repeat it.",
    ),
]
Module = Annotated[
    str | None,
    Parameter(
        help="Of a network of your own: package.module:function that builds it, of an installed package. It is "
        "imported and called: name only what you trust. No file can name it."
    ),
]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, or auto: a GPU where there is one.")]


def open_(
    model: Annotated[
        Path,
        Parameter(
            help="An nnU-Net's results folder, a data set's folder with several, a MONAI bundle, the folder of a "
            "SegFormer of transformers, or one with a network of your own and its seglens.json or seglens.yaml."
        ),
    ],
    *,
    fold: Fold = None,
    settings: Settings = None,
    module: Module = None,
    device: Device = "auto",
) -> int:
    """Say what a model of others expects, says and costs, and where it can be opened; nothing in it is run."""
    from seglens.activations.model_summary import summarise_model
    from seglens.foreign.bundles import bundle_config
    from seglens.foreign.own_models import own_description
    from seglens.foreign.transformers_config import is_transformers_folder
    from seglens.runtime.devices import usable_device
    from seglens.segmenters.nnunet import results_folders
    from seglens.segmenters.opened import open_model

    usable = usable_device(device)
    single = bundle_config(model) or own_description(model) or is_transformers_folder(model)
    folders = [model] if single else results_folders(model)
    if len(folders) == 1:
        opened = open_model(folders[0], fold=fold, settings=_settings(settings), network=_function(module))
        print(summarise_model(opened.to(usable)).text())
        return DONE
    n_opened = 0
    for folder in folders:
        try:
            text = summarise_model(open_model(folder, fold=fold).to(usable)).text()
            n_opened += 1
        except ValueError as error:
            text = f"model          {folder.name}\ncannot be opened: {error}"
        print(text, end="\n\n")
    return DONE if n_opened else REFUSED


def predict(
    cohort: Annotated[
        Path, Parameter(help="The cohort's folder, or nnU-Net's of case_0000.nii.gz; without masks too.")
    ],
    *,
    model: Annotated[
        Path,
        Parameter(
            help="A run's segmenter (results/artifacts/segmenter-...), an nnU-Net's folder, a MONAI bundle, the "
            "folder of a SegFormer of transformers, or one with a network of your own."
        ),
    ],
    out: Annotated[Path, Parameter(help="Folder for the masks; must not exist.")],
    files: FileOptions = DEFAULTS,
    fold: Fold = None,
    settings: Settings = None,
    module: Module = None,
    mirror: Annotated[bool, Parameter(help="Of an nnU-Net: also run each window turned round, as it does itself.")] = (
        True
    ),
    precision: Annotated[
        Literal["float16", "float32"] | None,
        Parameter(help="In which windows are added up; by default as the model's own software: nnU-Net's float16."),
    ] = None,
    device: Device = "auto",
    edits: Annotated[Path | None, Parameter(help="JSON file of latent edits to steer by.")] = None,
    dictionary: Annotated[Path | None, Parameter(help="Folder of the dictionary that the edits are of.")] = None,
    strict: Strict = False,
) -> int:
    """Write a mask for every case on its file's own grid, steered or not; exit 3 if a case is quarantined."""
    from seglens.artifacts import MANIFEST
    from seglens.cohorts.checks import check_cohort
    from seglens.runtime.streams import printable
    from seglens.segmenters.prediction import DOCUMENT, predict_cohort
    from seglens.segmenters.segmenter import Segmenter
    from seglens.segmenters.volume_prediction import REASON, predict_volumes
    from seglens.steering.edit_files import read_edits
    from seglens.terminal import StageDisplay

    if (edits is None) != (dictionary is None):
        raise ValueError("--edits and --dictionary belong together; give both or neither")
    others = fold is not None or settings is not None or module is not None or not mirror or precision is not None
    if others and (model / MANIFEST).is_file():
        raise ValueError(
            "--fold, --set, --module, --no-mirror and --precision are of a model of others, and this is a run's "
            "segmenter; leave them out"
        )
    network, foreground = opened_network(model, fold=fold, settings=settings, module=module, device=device)
    if not isinstance(network, Segmenter):
        if edits is not None and len(network.folds) > 1:
            raise ValueError(
                f"--edits are of one network, and {model} was opened with the folds {', '.join(network.folds)}; give "
                f"--fold {next(iter(network.folds))}"
            )
        files = replace(files, mask_values=files.mask_values or {code: label for label, code in network.codes.items()})
    found = files.cohort(cohort, sequences=network.sequences, labels=network.labels, with_masks=False).with_splits({})
    acting = [] if edits is None else read_edits(edits)
    steering = [edit.description() for edit in acting]
    display = StageDisplay()
    lost: list[str] = []
    with ExitStack() as stack:
        if dictionary is not None:
            _steer(stack, network, dictionary, acting)
        with display(f"check {found.name}") as progress:
            report = check_cohort(found, foreground=foreground, progress=progress)
        if report.findings:
            print(report.text())
        report.settle(strict=strict)
        with display(f"predict {found.name}") as progress:
            if isinstance(network, Segmenter):
                predict_cohort(
                    network,
                    found,
                    folder=out,
                    quarantined=report.quarantined,
                    steering=steering,
                    progress=progress,
                )
            else:
                done = predict_volumes(
                    network,
                    found,
                    folder=out,
                    quarantined=report.quarantined,
                    steering=steering,
                    mirror=mirror,
                    precision=precision,
                    strict=strict,
                    progress=progress,
                )
                rows = [row for row in done.document(DOCUMENT) if REASON in row]
                lost = [printable(f"{row['case']} was quarantined: {row[REASON]}") for row in rows]
    for line in (*lost, out):
        print(line)
    return QUARANTINED if report.quarantined or lost else DONE


def opened_network(
    model: Path, *, fold: list[str] | None, settings: list[str] | None, module: str | None, device: str
) -> "tuple[Segmenter | OpenedModel, str]":
    """A run's segmenter or a model of others, on its device, and its foreground rule.

    Raises:
        ValueError: what cannot be opened; options of a model of others for a run's segmenter.
    """
    from seglens.artifacts import MANIFEST
    from seglens.runtime.devices import usable_device
    from seglens.segmenters.opened import open_model
    from seglens.segmenters.prediction import preprocessing_of
    from seglens.segmenters.segmenter import Segmenter

    usable = usable_device(device)
    if not (model / MANIFEST).is_file():
        opened = open_model(model, fold=fold, settings=_settings(settings), network=_function(module))
        return opened.to(usable), "none"
    if fold is not None or settings is not None or module is not None:
        raise ValueError(
            "--fold, --set and --module are of a model of others, and this is a run's segmenter; leave them out"
        )
    segmenter = Segmenter.load(model).to(usable)
    return segmenter, preprocessing_of(segmenter).foreground


def _function(module: str | None) -> "BuildNetwork | None":
    """Function that ``--module`` names."""
    from seglens.segmenters.own_networks import function_named

    return None if module is None else function_named(module)


def _settings(given: list[str] | None) -> dict[str, Any] | None:
    """Values of ``KEY=JSON``."""
    from seglens.foreign.json_text import JsonError, parse_json

    found = {}
    for one in given or []:
        key, equals, text = one.partition("=")
        try:
            if not key or not equals:
                raise JsonError("there is no = in it")
            found[key] = parse_json(text)
        except JsonError as error:
            raise ValueError(
                f"--set {one[:200]!r} is not KEY=JSON ({error}); write a value as JSON has it, texts in quotes: "
                "--set 'pixdim=[1.5, 1.5, 1.5]'"
            ) from None
    return found or None


def _steer(
    stack: ExitStack, network: "Segmenter | OpenedModel", dictionary: Path, edits: "Sequence[LatentEdit]"
) -> None:
    """Put edits in force until the stack ends."""
    from seglens.artifacts import read_artifact
    from seglens.dictionaries.lens import Lens
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.segmenters.segmenter import Segmenter
    from seglens.steering.edits import steer

    own = network if isinstance(network, Segmenter) else network.segmenter
    read = SparseAutoencoder.read(read_artifact(dictionary, "dictionary")).to(own.device)
    stack.enter_context(steer(Lens(own, read), *edits))
