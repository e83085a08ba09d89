"""Latents that every one of several cohorts shares (paper, section 5.4)."""

from collections.abc import Sequence
from itertools import combinations

import polars as pl

from seglens.diffing.alignment import Alignment


def universal_latents(alignments: Sequence[Alignment], reference: str | None = None) -> pl.DataFrame:
    """Latents in S of all pairs of cohorts: the intersection over m != n of S_mn.

    Latent numbers differ from one dictionary to the next, so the intersection is taken through a reference cohort: its
    latent is universal if it is shared with every other cohort, and the partners found are shared with one another in
    every further pair. The result does not depend on the reference; only the order of rows does.

    Args:
        alignments: one for every pair of cohorts, in either direction.
        reference: cohort whose latents sort the result; the first alignment's source when None.

    Returns:
        One row a universal latent, one Int32 column a cohort (the reference first) with its number there.

    Raises:
        ValueError: no alignment, a pair missing or given twice, or an unknown reference.
    """
    if not alignments:
        raise ValueError("no alignments; give one for every pair of cohorts")
    names = list(dict.fromkeys(name for alignment in alignments for name in (alignment.source, alignment.target)))
    shared: dict[tuple[str, str], dict[int, int]] = {}
    for alignment in alignments:
        forward = dict(zip(alignment.shared["source_latent"], alignment.shared["target_latent"], strict=True))
        if alignment.source == alignment.target or (alignment.source, alignment.target) in shared:
            raise ValueError(f"{alignment.source} / {alignment.target} is given twice or is a cohort with itself")
        shared[alignment.source, alignment.target] = forward
        shared[alignment.target, alignment.source] = {target: source for source, target in forward.items()}
    missing = [f"{a} / {b}" for i, a in enumerate(names) for b in names[i + 1 :] if (a, b) not in shared]
    if missing:
        raise ValueError(f"universal latents need every pair of cohorts; missing: {', '.join(missing)}")
    first = reference or names[0]
    if first not in names:
        raise ValueError(f"unknown reference {first!r}; the cohorts are {', '.join(names)}")
    others = [name for name in names if name != first]
    found = []
    for latent in sorted(shared[first, others[0]]):
        partners = {name: shared[first, name][latent] for name in others if latent in shared[first, name]}
        mutual = all(shared[a, b].get(partners[a]) == partners[b] for a, b in combinations(partners, 2))
        if mutual and len(partners) == len(others):
            found.append({first: latent, **partners})
    return pl.DataFrame(found, schema=dict.fromkeys([first, *others], pl.Int32))


def specific_latents(alignments: Sequence[Alignment], cohort: str, universal: pl.DataFrame) -> list[int]:
    """The live latents of a cohort that are not universal: population-specific in the paper's sense (section 5.4).

    Args:
        alignments: those that ``universal`` came from.
        cohort: whose latents.
        universal: result of ``universal_latents``.

    Raises:
        ValueError: no alignment has the cohort.
    """
    live: set[int] = set()
    seen = False
    for alignment in alignments:
        if alignment.source == cohort:
            live |= set(alignment.pairs["source_latent"]) | set(alignment.unmatched_source)
        elif alignment.target == cohort:
            live |= set(alignment.pairs["target_latent"]) | set(alignment.unmatched_target)
        else:
            continue
        seen = True
    if not seen:
        names = sorted({name for alignment in alignments for name in (alignment.source, alignment.target)})
        raise ValueError(f"unknown cohort {cohort!r}; the alignments are of {', '.join(names)}")
    return sorted(live - set(universal[cohort]))
