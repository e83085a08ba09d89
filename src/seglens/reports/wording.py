"""How numbers and names are written for a reader: one place, so that every page of a report agrees with itself."""

import math
from collections.abc import Mapping
from typing import Any

UNDEFINED = "–"
CONVENTIONS: dict[str, str] = {
    "dice_pooled": "pooled",
    "dice_volume": "per volume",
    "dice_slice_present": "per slice, class present",
    "dice_slice_empty1": "per slice, empty = 1",
}
"""Key in a score summary to the short name of the Dice convention."""

_PLAIN = {
    "ccf": "component filter (CCF)",
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


def plain(name: Any) -> str:
    """A name as words: ``"held_out"`` becomes ``"held-out"``, ``"necrotic_core"`` becomes ``"necrotic core"``."""
    text = str(name)
    return _PLAIN.get(text.lower(), text.replace("_", " "))


def defined(value: Any) -> float | None:
    """The value as a finite float, or None where it is undefined (None, NaN, infinite, not a number)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: Any, digits: int = 2) -> str:
    """A number with fixed digits and a true minus sign; undefined is a dash."""
    finite = defined(value)
    if finite is None:
        return UNDEFINED
    text = f"{finite:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: Any, digits: int = 2) -> str:
    """A difference, always with its sign; what rounds to nothing is ±0."""
    finite = defined(value)
    if finite is None:
        return UNDEFINED
    text = number(finite, digits)
    if float(text.replace("−", "-")) == 0:
        return f"±{text}"
    return text if finite < 0 else f"+{text}"


def percent(value: Any, digits: int = 0) -> str:
    """A share in 0..1 as a percentage."""
    finite = defined(value)
    return UNDEFINED if finite is None else f"{number(100 * finite, digits)}%"


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    finite = defined(value)
    return UNDEFINED if finite is None else f"{round(finite):,}".replace(",", "\u202f").replace("-", "−")


def duration(seconds: Any) -> str:
    """A time span in the units a person would use."""
    finite = defined(seconds)
    if finite is None:
        return UNDEFINED
    if finite < 60:
        return f"{number(finite, 1 if finite < 10 else 0)} s"
    minutes, rest = divmod(round(finite), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def plural(n: Any, noun: str, many: str | None = None) -> str:
    """``"1 slice"``, ``"3 slices"``."""
    finite = defined(n)
    return f"{count(n)} {noun if finite == 1 else many or noun + 's'}"


def listed(names: Any) -> str:
    """``"a, b and c"``."""
    texts = [str(name) for name in names]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""


def dig(value: Any, *keys: str) -> Any:
    """The entry at a path of keys in nested mappings; None where any step is missing."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def score(scores: Any, convention: str, name: str) -> float | None:
    """One Dice of a score summary, None where it is undefined or was not computed."""
    return defined(dig(scores, convention, name))


def classes_of(scores: Any) -> list[str]:
    """The foreground classes of a score summary, in its own order."""
    names = list(dig(scores, "dice_pooled") or {})
    return [name for name in names if name not in ("foreground", "background")]


def pair_of(entry: Mapping[str, Any]) -> str:
    """``"adult → pediatric"`` of an entry with a source and a target."""
    return f"{plain(entry.get('source', UNDEFINED))} → {plain(entry.get('target', UNDEFINED))}"
