"""How numbers and names are written for a reader: one place, so that every page of a report agrees with itself."""

from collections.abc import Callable, Iterable

from seglens.artifacts import finite
from seglens.diffing.records import AlignmentRecord
from seglens.steering.records import SteeringRecord

UNDEFINED = "–"
CONVENTIONS: dict[str, str] = {
    "dice_pooled": "pooled",
    "dice_sampled": "per volume, sampled slices",
    "dice_slice_present": "per slice, class present",
    "dice_slice_empty1": "per slice, empty = 1",
}
"""Key in a score summary to the short name of the Dice convention."""

_PLAIN = {
    "ccf": "component filter (CCF)",
    "ccf_untuned": "largest component (CCF, untuned)",
    "uf": "entropy filter (UF)",
    "logit_bias_foreground": "logit bias, tuned on the foreground",
    "flip_augmentation": "mirror test-time augmentation",
    "mean_ablation": "whole activation at its mean",
    "held_out": "held-out",
    "label_free": "label-free",
    "reconstruct_only": "reconstruction only",
    "ssa": "SSA",
    "unet": "U-Net",
}


def plain(name: object) -> str:
    """A name as words: ``"held_out"`` becomes ``"held-out"``, ``"necrotic_core"`` becomes ``"necrotic core"``."""
    text = str(name)
    return _PLAIN.get(text.lower(), text.replace("_", " "))


def number(value: float | int | None, digits: int = 2) -> str:
    """A number with fixed digits and a true minus sign; undefined is a dash."""
    value = finite(value)
    if value is None:
        return UNDEFINED
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float | int | None, digits: int = 2) -> str:
    """A difference, always with its sign; what rounds to nothing is ±0."""
    value = finite(value)
    if value is None:
        return UNDEFINED
    text = number(value, digits)
    if float(text.replace("−", "-")) == 0:
        return f"±{text}"
    return text if value < 0 else f"+{text}"


def bracketed(
    low: float | int | None, high: float | int | None, written: Callable[[float | int | None], str] = number
) -> str:
    """An interval as ``"[0.02, 0.11]"``; nothing where either end is undefined."""
    return "" if None in (finite(low), finite(high)) else f"[{written(low)}, {written(high)}]"


def percent(value: float | int | None, digits: int = 0) -> str:
    """A share in 0..1 as a percentage."""
    value = finite(value)
    return UNDEFINED if value is None else f"{number(100 * value, digits)}%"


def count(value: float | int | None) -> str:
    """A whole number with thin spaces between thousands."""
    value = finite(value)
    return UNDEFINED if value is None else f"{round(value):,}".replace(",", "\u202f").replace("-", "−")


def duration(seconds: float | int | None) -> str:
    """A time span in the units a person would use."""
    seconds = finite(seconds)
    if seconds is None:
        return UNDEFINED
    if seconds < 60:
        return f"{number(seconds, 1 if seconds < 10 else 0)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def plural(n: float | int | None, noun: str, many: str | None = None) -> str:
    """``"1 slice"``, ``"3 slices"``."""
    return f"{count(n)} {noun if n == 1 else many or noun + 's'}"


def listed(names: Iterable[str]) -> str:
    """``"a, b and c"``."""
    texts = list(names)
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""


def pair_of(entry: SteeringRecord | AlignmentRecord) -> str:
    """``"adult → pediatric"`` of a record with a source and a target."""
    return f"{plain(entry.source)} → {plain(entry.target)}"


AXIAL = ("T1", "T1c", "T1CE", "T1Gd", "T2", "FLAIR", "ADC", "DWI", "SWI", "PD", "CT")
"""Sequences whose slices are axial: files of them say where the patient's right is, or the study does."""


def orientation(sequences: Iterable[str]) -> str:
    """Sentence end on how a slice lies: of other images than axial slices nothing is claimed."""
    known = {name.lower() for name in AXIAL}
    if any(name.lower() in known for name in sequences):
        return "seen from below: the patient's right is on the left of the picture, the front is at the top."
    return "as they lie in their files: nothing is known of the patient's sides."
