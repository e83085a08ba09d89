"""Do the words of latents' names come back: in both halves of the patients, beside chance and other patients' masks."""

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from seglens.semantics.naming import (
    BOUNDARY,
    CLASS,
    MIXED,
    PARTS,
    Words,
    name_latent,
    replicated,
    withheld,
    words_of,
)

FULL = "full name"
OF_MASKS = (CLASS, BOUNDARY)
"""Parts that masks decide; the others follow from the image alone, so that other masks are no null for them."""


def each_words(facts: pl.DataFrame, labels: Mapping[int, str]) -> list[Words | None]:
    """Words of every latent, a row each; None for the dead."""
    return [words_of(row, labels) for row in facts.iter_rows(named=True)]


def named(
    words: Sequence[Words | None], halves: Sequence[Sequence[Words | None]], labels: Mapping[int, str]
) -> pl.DataFrame:
    """Names of latents, of words that came back in both halves of the patients only.

    Args:
        words: of all patients, a latent each.
        halves: the same of each half.
        labels: label value to class name.

    Returns:
        Columns name, withheld (the words that did not come back, null where all did) and class_replicates (null for a
        dead latent).
    """
    rows = []
    for every, *of_halves in zip(words, *halves, strict=True):
        kept = None if every is None else replicated(every, of_halves)
        rows.append(
            {
                "name": name_latent(kept, labels),
                "withheld": None if every is None or kept is None else withheld(every, kept),
                "class_replicates": None if kept is None else kept[CLASS] is not None,
            }
        )
    return pl.DataFrame(rows, schema={"name": pl.String, "withheld": pl.String, "class_replicates": pl.Boolean})


def replication(
    words: Sequence[Words | None],
    halves: Sequence[Sequence[Words | None]],
    elsewhere: Sequence[Words | None] | None,
    labels: Mapping[int, str],
) -> pl.DataFrame:
    """Count for each part of the names how often it was given and how often it came back.

    A class counts where it is not the background. The full name is that of the latents with such a class.

    Args:
        words: of all patients, a latent each.
        halves: the same of each half.
        elsewhere: with the masks of other patients; None where they cannot be had.
        labels: label value to class name.

    Returns:
        Columns part, named (latents that have it on all patients), replicated (of those, the same in both halves),
        by_chance (expected replicated if the second half's words were dealt to the live latents at random) and
        other_masks (named with the masks of other patients; null where masks do not decide the part).
    """
    nothing = (MIXED, labels.get(0))

    def of(part: str, one: Words | None) -> str | None:
        if one is None or (part in (CLASS, FULL) and one[CLASS] in nothing):
            return None
        return name_latent(one, labels) if part == FULL else one[part]

    rows = []
    for part in (*PARTS, FULL):
        every, first, second = ([of(part, one) for one in given] for given in (words, *halves))
        given = [word for word in every if word is not None]
        half = [word for word, same in zip(every, first, strict=True) if word is not None and word == same]
        live, by_word = sum(one is not None for one in halves[1]), Counter(second)
        counted = elsewhere is not None and part in OF_MASKS
        rows.append(
            {
                "part": part,
                "named": len(given),
                "replicated": sum(a == b == c for a, b, c in zip(every, first, second, strict=True) if a is not None),
                "by_chance": sum(by_word[word] for word in half) / live if live else 0.0,
                "other_masks": sum(of(part, one) is not None for one in elsewhere or ()) if counted else None,
            }
        )
    schema = {"part": pl.String, "named": pl.Int64, "replicated": pl.Int64, "by_chance": pl.Float64}
    return pl.DataFrame(rows, schema=schema | {"other_masks": pl.Int64})
