"""audit.html: the verdict in a sentence, the volumes to look at, what moved, what the estimate is worth."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from torch import no_grad

from seglens.audit.alarm import LIMIT
from seglens.audit.auditing import Audit
from seglens.audit.ladder import RUNGS, nearest
from seglens.audit.predicted_dice import LEVEL, RungScore
from seglens.audit.volume_samples import MAX_SLICES, MAX_WINDOWS, VolumeSamples
from seglens.reports.blocks import (
    Block,
    Bullets,
    Card,
    Cards,
    Cell,
    Fold,
    Key,
    Paragraph,
    Picture,
    Section,
    Table,
    head,
    row,
)
from seglens.reports.palette import class_colours
from seglens.reports.pictures import best_sequence, heat_picture, mask_picture
from seglens.reports.report import render
from seglens.reports.wording import number, percent, plain, plural
from seglens.segmenters.segmenter import Segmenter

SUBTITLE = "What to expect of this model on images without masks: how good, on which volumes, and what changed."
OUTCOMES = {
    "worse": "Expect a loss",
    "different": "Different images, no loss established",
    "same": "No difference found",
    "outside": "Outside of what can be estimated",
}
FLAGS = {"low": "low", "outside": "unlike the source"}
MAX_PICTURED = 6
NEIGHBOURS = 3
SIDE = 208
MAX_MOVED = 12
P_SHOWN = 0.05
USEFUL_SKILL = 0.1
"""Share of a constant's error that a prediction must save on the source before volumes are ranked by it."""
_STATISTICS = {
    "noise": "noise in {}",
    "edges": "contrast at edges in {}",
    "blur": "sharpness of {}",
    "entropy": "spread of intensities in {}",
    "q05": "darkest intensities of {}",
    "q25": "dark intensities of {}",
    "q50": "median intensity of {}",
    "q75": "bright intensities of {}",
    "q95": "brightest intensities of {}",
}
_FEATURES = {
    "image.foreground_share": "share of the image that is foreground",
    "image.spacing_slice_log_mm": "distance of slices (log mm)",
    "image.spacing_row_log_mm": "pixel height (log mm)",
    "image.spacing_column_log_mm": "pixel width (log mm)",
    "area.components": "number of predicted pieces (log)",
    "area.samples_with": "share of slices with a prediction",
    "tta.mirror_dice": "agreement with the mirrored image",
    "tta.mirror_entropy": "disagreement with the mirrored image (log)",
    "tta.noise_dice": "agreement under added noise",
    "tta.noise_entropy": "disagreement under added noise (log)",
    "sdc@1.0": "Dice that the probabilities expect",
}
_PLACES = {"lesion": "inside what is predicted", "ring": "at its border", "all": "everywhere"}


def feature_text(name: str) -> str:
    """A column of the table in words."""
    if name in _FEATURES:
        return _FEATURES[name]
    family, _, rest = name.partition(".")
    if family == "image":
        sequence, _, statistic = rest.rpartition(".")
        return _STATISTICS.get(statistic, f"{plain(statistic)} of {{}}").format(sequence)
    if family == "area":
        return (
            f"predicted {plain(rest.removesuffix('_share'))} ({'share' if rest.endswith('_share') else 'log voxels'})"
        )
    if family == "logits":
        where, _, what = rest.partition("_")
        return f"{_QUANTITIES.get(what, f'confidence ({what})')} {_PLACES.get(where, where)}"
    return plain(name)


_QUANTITIES = {"sure": "mean confidence", "entropy": "uncertainty", "unsure": "share of unsure voxels"}


def render_audit(found: Audit, samples: Sequence[VolumeSamples]) -> str:
    """The page as HTML text.

    Args:
        found: the audit.
        samples: of target volumes to be shown, in the order in which they are to be looked at.
    """
    sections = [_verdict(found), _volumes(found, samples), _moved(found), _worth(found), _not_checked(found)]
    title = f"{plain(found.names[1])}, seen by the model of {plain(found.names[0])}"
    return render(title, sections, subtitle=SUBTITLE, sortable=True)


def to_look_at(found: Audit) -> list[str]:
    """The volumes that are shown with pictures, the likeliest failure first."""
    return found.volumes()["volume"].head(MAX_PICTURED).to_list()


def _verdict(found: Audit) -> Section:
    verdict, prediction = found.verdict, found.prediction
    loss = verdict.loss
    skill, mae = prediction.nested.errors.skill, prediction.nested.errors.mae
    facts = [
        f"Expected Dice here: {number(verdict.expected)} over {plural(found.shift.n_target, 'patient')}. "
        f"On the labelled source it is {number(verdict.source)} over {plural(prediction.n_patients, 'patient')}.",
    ]
    if np.isfinite(loss.low):
        reach = "" if np.isnan(prediction.reach) else ", and over virtual hospitals that the estimate had not seen"
        facts.append(
            f"Expected loss: {number(loss.value)} (interval over patients{reach}: {number(loss.low)} to "
            f"{number(loss.high)})."
        )
    learnt = "the source's patients as they are"
    if prediction.n_hospitals:
        learnt = (
            f"the source's patients, as they are and as {prediction.n_hospitals} virtual hospitals would have imaged "
            "them (noise, blur, thick slices, large pixels, shading, contrast, and pairs of these)"
        )
    facts.append(
        f"The estimate learns from {learnt}. On patients and kinds of hospital that it had not seen it is wrong by "
        f"{number(mae, 3)} Dice on average, {percent(abs(skill))} {'less' if skill > 0 else 'more'} than by saying the "
        "same number for everyone."
    )
    if not skill > USEFUL_SKILL:
        facts.append(
            "That is too little to rank volumes by: the labelled patients are too alike, or too few, to learn from "
            "them which ones fail. Read the order of the volumes as a guess."
        )
    rang = verdict.alarm.rang_after
    rings = f"would have rung after {plural(rang, 'patient')}." if rang else "would not have rung."
    facts.append(
        "Had these patients come one after another, in the order of their names, an alarm on falling predicted Dice "
        f"{rings} Without a change a false one comes after {LIMIT:.0f} patients or more, on average."
    )
    facts.append(
        f"{percent(float(verdict.outside.mean()))} of the volumes here lie farther from the labelled ones than any of "
        "those from each other. For what was not simulated, such as another disease, age or artefact, nothing is "
        "guaranteed: the true Dice can be far below the estimate."
    )
    blocks: list[Block] = [Bullets(tuple(facts))]
    blocks += [Paragraph(note, "missing") for note in found.notes]
    lost = [f"{volume}: {reason}" for volume, reason in found.target.lost.items()]
    if lost:
        blocks += [Paragraph("Not looked at, for they cannot be shown to the model:", "key"), Bullets(tuple(lost))]
    return Section("findings", OUTCOMES[verdict.outcome], verdict.sentence, tuple(blocks))


def _volumes(found: Audit, samples: Sequence[VolumeSamples]) -> Section:
    rows = []
    kinds = dict(zip(found.target.rows["volume"], found.flags, strict=True))
    for one in found.volumes().iter_rows(named=True):
        patient = "" if one["patient"] == one["volume"] else one["patient"]
        interval = "–" if one["low"] is None else f"{number(one['low'])} to {number(one['high'])}"
        flags = head(", ".join(FLAGS[flag.kind] for flag in kinds[one["volume"]]) or "none")
        rows.append(
            row(
                head(one["volume"], patient),
                number(one["predicted_dice"]),
                interval,
                percent(one["chance_of_failure"]),
                number(one["distance"], 1),
                flags,
            )
        )
    columns = (
        "volume",
        "predicted Dice",
        f"{percent(LEVEL)} interval",
        f"chance of Dice below {number(found.prediction.threshold)}",
        "distance, 1 = farthest of the labelled",
        "flag",
    )
    note = (
        "Low: likelier than not below the threshold. Unlike the source: farther from the labelled volumes than any of "
        "them, so that the estimate is an extrapolation. Click a heading to sort; volumes.csv holds the reasons."
    )
    if np.isnan(found.prediction.low).all():
        note += " There are no intervals: the source has too few patients, and no virtual hospitals."
    blocks: list[Block] = [
        Table("Every volume, the likeliest failure first", columns, tuple(rows), note, sortable=True)
    ]
    if samples:
        segmenter = found.maker.reader.segmenter
        colours = class_colours(segmenter.labels)
        keys = tuple(Key(plain(segmenter.labels[value]), colour) for value, colour in colours.items())
        cards = tuple(_card(found, one, segmenter, colours) for one in samples)
        caption = "The slice with most of the prediction: image, mask, and where the network is unsure (bright)."
        blocks.append(Cards("Look at these first", cards, caption, keys))
    n_flagged = sum(bool(own) for own in found.flags)
    intro = f"{n_flagged} of {plural(len(found.flags), 'volume')} carry a flag."
    return Section("volumes", "Which volumes", intro, tuple(blocks))


def _card(found: Audit, one: VolumeSamples, segmenter: Segmenter, colours: dict[int, str]) -> Card:
    with no_grad():
        logits = segmenter.logits(one.stack.to(segmenter.device)).cpu()
    masks = segmenter.decision.labels(logits)
    place, depth = divmod(int((masks > 0).flatten(2).sum(2).argmax()), masks.shape[1])
    image = one.stack[place, best_sequence(segmenter.sequences), depth].numpy()
    inside, mask = one.inside[place, depth].numpy(), masks[place, depth].numpy()
    likely = segmenter.decision.log_odds(logits[place : place + 1], None)[0, depth].sigmoid()
    unsure = (4 * likely * (1 - likely)).numpy()
    pictures = [
        Picture(mask_picture(image, inside, None, {}, SIDE), f"{one.volume}: the image", SIDE, SIDE),
        Picture(mask_picture(image, inside, mask, colours, SIDE), f"{one.volume}: the mask", SIDE, SIDE),
        Picture(heat_picture(image, inside, unsure, 1.0, side=SIDE), f"{one.volume}: uncertainty", SIDE, SIDE),
    ]
    own = found.volumes().row(by_predicate=pl.col("volume") == one.volume, named=True)
    near = nearest(found.source, found.target, one.volume, NEIGHBOURS)
    facts = (
        ("predicted Dice", number(own["predicted_dice"])),
        ("flags", own["flags"] or "none"),
        ("most alike in the source (true Dice)", "; ".join(f"{name} ({number(dice)})" for name, dice in near)),
    )
    return Card(one.volume, "", facts, tuple(pictures))


def _moved(found: Audit) -> Section:
    shift = found.shift
    intro = (
        f"How well one feature alone tells this cohort's {plural(shift.n_target, 'patient')} from the source's "
        f"{shift.n_source}: 0.5 is not at all, 0 and 1 are always."
    )
    own = [one for one in shift.moved if one.p < P_SHOWN]
    rows = [
        row(
            head(feature_text(one.feature)),
            number(one.separation),
            number(one.source, 3),
            number(one.target, 3),
            "<0.001" if one.p < 0.001 else number(one.p, 3),
        )
        for one in (own or shift.moved)[:MAX_MOVED]
    ]
    columns = ("feature", "separation", "median, source", "median, here", "p, over all features")
    note = (
        f"In 95% of random splits of the same patients no feature lies further from 0.5 than {number(shift.limit)}. "
        "Images are shown to the network normalised, so a brightness that normalisation takes away is not here."
    )
    if not own:
        intro += " No feature moved further than in random splits; the list shows those that moved most."
    more = len(own) - MAX_MOVED
    if more > 0:
        note += f" {plural(more, 'more feature')} moved as well; audit.json holds all."
    return Section("why", "What is different", intro, (Table("", columns, tuple(rows), note),))


def _worth(found: Audit) -> Section:
    prediction = found.prediction
    about = {rung.name: rung.about for rung in RUNGS}
    rows = [_score_row(score, about.get(score.rung, "")) for score in prediction.ladder]
    rows.append(_score_row(prediction.nested, "the whole procedure: what is taken is chosen by other folds and kinds"))
    rows.append(_score_row(prediction.shuffled, f"{prediction.chosen}, true Dice given to other patients: chance"))
    columns = (
        "from",
        "mean error",
        "skill",
        "skill, source alone",
        "error of a hospital's mean",
        "rank correlation",
        "failures (AUROC)",
        "90% intervals hold",
        "width",
    )
    failures = prediction.nested.failures
    note = (
        "Skill: share of a constant's mean error that is saved; 0 is a constant's, 1 is perfect. "
        f"{plural(failures.n_failures, 'volume')} of {failures.n} fail (Dice below {number(prediction.threshold)}); an "
        f"AUROC of fewer than twenty says little. Taken for this cohort: {prediction.chosen}."
    )
    intro = (
        "Every score climbs the same ladder: a regression on labelled patients, measured on patients and kinds of "
        "virtual hospital that it was not fitted to. A score that does not beat the simpler ones above it adds nothing."
    )
    return Section("worth", "What the estimate is worth", intro, (Table("", columns, tuple(rows), note),))


def _score_row(score: RungScore, about: str) -> tuple[Cell, ...]:
    errors = score.errors
    return row(
        head(score.rung, about),
        number(errors.mae, 3),
        number(errors.skill),
        number(score.within.skill),
        number(score.cohorts, 3),
        number(errors.spearman),
        number(score.failures.auroc),
        percent(score.coverage.share),
        number(score.coverage.mean_width),
    )


def _not_checked(found: Audit) -> Section:
    lines = (
        "The true Dice here: no mask of this cohort was looked at.",
        "Whether the source's masks are right, and whether they mean what a reader here would draw.",
        "Whether the model was trained on the source's patients. If it was, its Dice there is too good, and so is "
        "the estimate here: give labelled patients that it has not seen.",
        "Failures of a kind that is neither in the source nor simulated: another disease, age or artefact shows as "
        "distance, if at all, and not as a lower estimate.",
        f"Slices or windows beyond {MAX_SLICES} or {MAX_WINDOWS} a volume.",
        "Orientation, units and sequence of the files, beyond what `seglens check` reads; look at the pictures.",
        "Fixes: this page says what to expect, not what to change.",
    )
    settings = found.settings
    used = Fold(
        "How it was made",
        (
            Bullets(
                (
                    f"Model {found.model[:12]}; pooled at {', '.join(found.maker.hookpoints)}; reconstructed at "
                    f"{found.maker.hookpoint}; seed {settings.seed}.",
                    f"{plural(len(found.source), 'volume')} of the source, {plural(len(found.target), 'volume')} here.",
                )
            ),
        ),
    )
    private = Paragraph("This page shows pictures and names of volumes: treat it as you treat the images.", "note")
    return Section("not-checked", "What was not checked", "", (Bullets(lines), private, used))
