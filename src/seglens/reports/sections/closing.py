"""The glossary, the conventions, and how to do it again."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from seglens.reports.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Fold,
    Heading,
    Link,
    Paragraph,
    Section,
    Terms,
    head,
    table,
)
from seglens.reports.wording import UNDEFINED, duration, plural
from seglens.runs import Run
from seglens.summaries import FILE as SUMMARY_FILE
from seglens.summaries import Summary

TERMS = (
    (
        "Token",
        "One place on the coarse grid on which the network works inside; a slice gives a few hundred of them.",
    ),
    (
        "Activation",
        "The numbers that the network holds at each token, at one place (hookpoint) between its layers.",
    ),
    (
        "Dictionary",
        "A sparse autoencoder: writes an activation as a sum of a few latents out of many.",
    ),
    (
        "Latent",
        "One entry of a dictionary: a direction in the activation. It fires where its code is above zero.",
    ),
    (
        "k and L0",
        "The average number of latents active at a token: asked for (k), and measured at inference (L0).",
    ),
    (
        "Variance explained",
        "How much of the activation the dictionary gives back. Proves nothing without its control.",
    ),
    (
        "Dice kept",
        "(Dice with latents − Dice with the mean) / (Dice untouched − Dice with the mean).",
    ),
    (
        "Lift",
        "How many times more of a latent's activation lies on a class than the class's share of the pixels.",
    ),
    (
        "Shared, specific",
        (
            "A pair of latents is shared if encoder and decoder pick the same partner with a cosine of at least tau; "
            "the rest are specific."
        ),
    ),
    (
        "Floor",
        "The shared share that means nothing: same SAE seed, fitted to randomly rotated activations.",
    ),
    (
        "Ceiling",
        "The shared share of the same model and data twice: other token order, or other SAE seed.",
    ),
    (
        "Calibrated share",
        "(raw − floor) / (ceiling − floor). Not defined where the two do not part.",
    ),
    (
        "Correlation of codes",
        "Whether two latents fire on the same tokens of the same slices; needs no common weights.",
    ),
    (
        "Edit",
        (
            "Multiply, add to, zero, clamp or swap codes; only the difference is added to the activation, so an edit "
            "that changes no code changes no bit."
        ),
    ),
    (
        "Oracle, held-out, label-free",
        (
            "What an edit was chosen with: the judged slice's own mask (not deployable); masks of other patients of "
            "the target cohort; images only."
        ),
    ),
    (
        "Random latents",
        "The same number of other latents that fire about as often, edited in the same way: what any edit does.",
    ),
    (
        "Reconstruction only",
        "The activation replaced by its decoded codes, nothing edited: what the dictionary itself costs.",
    ),
    (
        "CCF, UF, logit bias",
        (
            "Baselines at the output: keep large components; turn uncertain foreground into background; add a number "
            "to a class's logit. Tuned on the same patients."
        ),
    ),
    (
        "Drop class, predict nothing",
        "Never predict the class, or anything: shows which figures such a model would win.",
    ),
    (
        "HD95",
        (
            "95th percentile of the distance between two outlines, in mm. Slices where the class is missed have none "
            "and are counted."
        ),
    ),
)
CONVENTION_ROWS = (
    (
        "Pooled",
        "true positives, predictions and truth summed over every evaluated slice",
        "not defined only if the class is nowhere",
    ),
    (
        "Per volume",
        "summed over the evaluated slices of a volume, then the mean over the volumes whose mask has the class",
        "the field's standard, but over the slices that were kept: see the share without lesion under Cohorts",
    ),
    (
        "Per slice, class present",
        "mean over the slices whose mask has the class",
        "does not see false alarms elsewhere",
    ),
    (
        "Per slice, empty = 1",
        "mean over all slices; absent from both counts as 1",
        "rewards never predicting the class",
    ),
)


def glossary_section() -> Section:
    """Terms and Dice conventions."""
    rows = [(head(name), head(how), head(remark)) for name, how, remark in CONVENTION_ROWS]
    conventions = table(
        "Four ways to count Dice",
        ("Convention", "How", "Mind"),
        rows,
        "A slice where a class is absent from both mask and prediction has no Dice; the conventions differ in what "
        "they make of it. “Foreground” is the mean over the foreground classes. A dash means not defined or not "
        "measured, never zero. Slices and volumes are counted as such.",
    )
    return Section("glossary", "Glossary and conventions", "", (Terms(TERMS), Heading("Dice"), conventions))


def repeat_section(settings: Mapping[str, Any], hashes: Mapping[str, str], computed: str = "") -> Section:
    """The command, the settings, what computed the results (one sentence), and their identities."""
    blocks: list[Block] = [
        Paragraph("Save the study file (JSON is YAML; folders of data are cut to their last part), then:")
    ]
    if settings:
        blocks.insert(0, study_link(settings))
    blocks.append(Code("seglens run study.yaml --out results"))
    blocks.append(
        Paragraph(
            "The same settings, data and versions on the same kind of CPU with the same number of threads give the "
            "same results, bit for bit: compare the hashes.",
            "note",
        )
    )
    if computed:
        blocks.append(Paragraph(computed, "note"))
    if hashes:
        rows = [(head(stage), Cell(value[:16], text_cell=True)) for stage, value in hashes.items()]
        blocks.append(Fold("Hash of every result", (table("First 16 digits", ("Stage", "Hash"), rows),)))
    return Section("repeat", "How to do it again", "", tuple(blocks))


def study_link(settings: Mapping[str, Any]) -> Link:
    """The study file, to be saved."""
    text = json.dumps(without_folders(settings), indent=2, ensure_ascii=False)
    address = f"data:application/yaml;base64,{base64.b64encode(text.encode()).decode()}"
    return Link("Study file (study.yaml)", address, "study.yaml")


def about_blocks(run: Run, summary: Summary) -> list[Block]:
    """Facts of a run under the title: when, with what, and how to go on.

    Args:
        run: finished.
        summary: of the run.
    """
    finished = datetime.fromtimestamp((run.path / SUMMARY_FILE).stat().st_mtime, UTC)
    facts = [("Finished", f"{finished:%Y-%m-%d %H:%M} UTC")]
    stages = run.stages()
    record = run.artifact(stages[-1]).computed_by if stages else None
    if record is not None:
        facts += [
            ("Med-SegLens", record.versions.get("med-seglens", UNDEFINED)),
            ("Device", f"{record.device} ({record.instruction_set}), {plural(record.threads, 'thread')}"),
        ]
    facts += [
        ("Took", duration(summary.seconds)),
        ("Seed", str(summary.seed)),
        ("Command", "seglens run study.yaml --out RUN"),
        ("Look inside", "seglens explore RUN"),
    ]
    return [Facts(tuple(facts)), *([study_link(summary.settings)] if summary.settings else [])]


def without_folders(value: Any, key: str = "") -> Any:
    """Settings without the folders of the machine: a path keeps its last part only."""
    if isinstance(value, Mapping):
        return {name: without_folders(entry, str(name)) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(entry, key) for entry in value]
    if key == "path" and isinstance(value, str):
        return value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return value
