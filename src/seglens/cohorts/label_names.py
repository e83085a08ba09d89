"""Names that must not be taken for each other: of classes, of patients and of cases."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping

FOREGROUND = "foreground"
"""Stands in every table for the mean over the classes; no class may be called so."""
BACKGROUND = "background"
"""A name that the label 0 alone may have."""
MAX_LABEL = 255
MAX_NAME_BYTES = 120
"""Of a class name in UTF-8: it stands in names of folders beside two other names."""


def without_blanks(name: str) -> str:
    """The name in one Unicode form (NFKC), without blanks and characters that nobody sees."""
    plain = unicodedata.normalize("NFKC", name)
    return unicodedata.normalize("NFKC", "".join(char for char in plain if unicodedata.category(char)[0] not in "ZC"))


def spoken(name: str) -> str:
    """Form that two names share which differ only by capitals, Unicode form or blanks."""
    return unicodedata.normalize("NFKC", without_blanks(name).casefold())


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that differ only by capitals, Unicode form or blanks, in their order."""
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        groups.setdefault(spoken(name), {})[name] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def label_faults(labels: Mapping[int, str]) -> list[str]:
    """All that keeps labels from being told apart, by value or by name; empty where nothing does.

    Args:
        labels: value in the masks to class name. Names that differ only by capitals are told apart.
    """
    faults = []
    strange = [value for value in labels if isinstance(value, bool) or not 0 <= value <= MAX_LABEL]
    if strange:
        faults.append(
            f"the labels {strange[:10]} are not in 0..{MAX_LABEL}; give `labels` numbered 0, 1, 2, ... and map the "
            "values in the files to them by `mask_values`"
        )
    first: dict[str, tuple[int, str]] = {}
    for value, name in labels.items():
        if not isinstance(name, str) or not without_blanks(name):
            faults.append(f"the label {value} has the name {name!r}; give it one of letters and digits")
            continue
        if "\0" in name or (not name.isprintable() and any("\ud800" <= char <= "\udfff" for char in name)):
            faults.append(f"the name of the label {value}, {name[:40]!r}, cannot be written; give another by `labels`")
        if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
            faults.append(f"the name of the label {value}, {name[:40]!r}..., has more than {MAX_NAME_BYTES} bytes; "
                          "give a shorter one by `labels`")  # fmt: skip
        other, other_name = first.setdefault(without_blanks(name), (value, name))
        if other != value:
            faults.append(f"the labels {other} and {value} have one name, {other_name!r} and {name!r}; name each once")
        if spoken(name) == FOREGROUND:
            faults.append(
                f"the label {value} is called {name!r}, which stands for the mean over all classes; give it another "
                "name by `labels`"
            )
        if spoken(name) == BACKGROUND and value != 0:
            faults.append(f"the label {value} is called {name!r}, which is the name of 0; give it another by `labels`")
    return faults


def refuse_labels(whose: str, labels: Mapping[int, str]) -> None:
    """Refuse labels that cannot be told apart.

    Args:
        whose: for the message.
        labels: value in the masks to class name.

    Raises:
        ValueError: a value outside 0..255; a name without letters, too long, given twice (in whatever Unicode form), or
            reserved: ``foreground`` for none, ``background`` for 0 alone.
    """
    faults = label_faults(labels)
    if faults:
        raise ValueError(f"{whose}: " + "; ".join(faults))


def regions_of(labels: Mapping[int, str], regions: Mapping[str, Collection[int]] | None) -> dict[str, tuple[int, ...]]:
    """The regions that were asked for, each with its label values in rising order.

    Raises:
        ValueError: a value that is no foreground label, a region of none, or one that has a class's name.
    """
    found = {name: tuple(sorted(values)) for name, values in (regions or {}).items()}
    for name, values in found.items():
        if name in (*labels.values(), FOREGROUND):
            raise ValueError(
                f"the region {name!r} has the name of a class; give it another, such as {name + ' region'!r}"
            )
        if unknown := [value for value in values if not value or value not in labels]:
            raise ValueError(f"the region {name!r} has the values {unknown}; give foreground values of {dict(labels)}")
        if not values or len(set(values)) < len(values):
            raise ValueError(f"the region {name!r} has the values {list(values)}; give each of its labels once")
    return found
