import random
from itertools import combinations

import polars as pl
import pytest

from seglens.diffing.alignment import Alignment
from seglens.diffing.sharing import PAIR_COLUMNS
from seglens.diffing.universal import specific_latents, universal_latents


def alignment(source, target, shared, n=6, unshared=()):
    rows = [(i, j, j, 0.9, 0.9, True) for i, j in shared] + [(i, j, j, 0.1, 0.1, False) for i, j in unshared]
    pairs = pl.DataFrame(rows, schema=PAIR_COLUMNS, orient="row")
    rest = tuple(sorted(set(range(n)) - set(pairs["source_latent"])))
    other = tuple(sorted(set(range(n)) - set(pairs["target_latent"])))
    return Alignment(source, target, pairs, n, n, 0, 0, 0.8, "hungarian_dual", rest, other)


def test_equals_trying_every_tuple_whatever_the_direction_and_reference():
    sizes = set()
    for seed in range(20):
        rng = random.Random(seed)
        names = ["a", "b", "c", "d"]
        of = {}
        given = []
        for a, b in combinations(names, 2):
            shared = [(i, i) for i in range(6) if rng.random() < 0.8]
            if rng.random() < 0.5 and len(shared) > 2:  # two partners exchanged: no mutual agreement
                (i, j), (k, n) = shared[:2]
                shared[:2] = [(i, n), (k, j)]
            of[a, b] = set(shared)
            flip = rng.random() < 0.5
            given.append(alignment(b, a, [(j, i) for i, j in shared]) if flip else alignment(a, b, shared))
        expected = {
            (i, j, k, n)
            for i in range(6)
            for j in range(6)
            for k in range(6)
            for n in range(6)
            if all(
                pair in of[names[x], names[y]]
                for (x, y), pair in zip(combinations(range(4), 2), combinations((i, j, k, n), 2), strict=True)
            )
        }
        for reference in (None, *names):
            found = universal_latents(given, reference)
            assert set(found.select(names).rows()) == expected
            assert found.columns[0] == (reference or given[0].source)
        sizes.add(len(expected))
    assert len(sizes) > 2


def test_two_cohorts_and_none_shared():
    assert universal_latents([alignment("a", "b", [(0, 3), (2, 1)])]).rows() == [(0, 3), (2, 1)]
    empty = universal_latents([alignment("a", "b", [])])
    assert empty.rows() == [] and empty.schema == {"a": pl.Int32, "b": pl.Int32}


def test_specific_latents_are_the_live_rest():
    given = [alignment("a", "b", [(0, 3), (2, 1)], unshared=[(4, 4)])]
    universal = universal_latents(given)
    assert specific_latents(given, "a", universal) == [1, 3, 4, 5]
    assert specific_latents(given, "b", universal) == [0, 2, 4, 5]


def test_a_cohort_in_several_pairs_keeps_its_live_latents():
    given = [alignment("a", "b", [(0, 0)]), alignment("a", "c", [(0, 0)]), alignment("c", "b", [(0, 0)])]
    assert specific_latents(given, "c", universal_latents(given)) == [1, 2, 3, 4, 5]


def test_refusals():
    ab, bc = alignment("a", "b", [(0, 0)]), alignment("b", "c", [(0, 0)])
    with pytest.raises(ValueError, match="no alignments"):
        universal_latents([])
    with pytest.raises(ValueError, match="missing: a / c"):
        universal_latents([ab, bc])
    with pytest.raises(ValueError, match="given twice"):
        universal_latents([ab, alignment("b", "a", [])])
    with pytest.raises(ValueError, match="unknown reference 'x'; the cohorts are a, b"):
        universal_latents([ab], "x")
    with pytest.raises(ValueError, match="unknown cohort 'x'"):
        specific_latents([ab], "x", universal_latents([ab]))
