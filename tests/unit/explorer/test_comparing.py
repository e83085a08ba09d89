import pytest

from seglens.explorer.comparing import PARTNER, compare, sharing
from seglens.explorer.opened import UnknownError


@pytest.fixture
def aligned(explored):
    """Names of the two, in the order of the run's alignment, and its artifact."""
    (stage,) = explored.run.stages("alignment/")
    return (*stage.removeprefix("alignment/").split("~"), explored.run.artifact(stage))


def test_pairs_are_those_of_the_alignment_and_the_rest_is_unmatched(held, explored, aligned):
    source, target, artifact = aligned
    found = compare(source, target, held)
    table = artifact.table("functional")
    expected = table.select("source_latent", "target_latent", "correlation").rows()
    assert [(pair.source, pair.target, pair.correlation) for pair in found.pairs] == expected
    for name, own, unmatched in (
        (source, [pair.source for pair in found.pairs], found.unmatched_source),
        (target, [pair.target for pair in found.pairs], found.unmatched_target),
    ):
        assert sorted(own + unmatched) == list(range(explored.opened(name).dictionary.n_latents))


def test_turned_round_the_same_pairs_are_told(held, aligned):
    source, target, _ = aligned
    there, back = compare(source, target, held), compare(target, source, held)
    assert [(pair.target, pair.source, pair.correlation, pair.shared) for pair in back.pairs] == [
        (pair.source, pair.target, pair.correlation, pair.shared) for pair in there.pairs
    ]
    assert (back.unmatched_source, back.unmatched_target) == (there.unmatched_target, there.unmatched_source)


def test_partners_by_weight_are_mutual(held, explored, aligned):
    source, target, artifact = aligned
    if not artifact.document("pair")["comparable_by_weights"]:
        pytest.fail("the second segmenter starts from the first: the two have one space")
    ours, theirs = sharing(explored, source), sharing(explored, target)
    assert ours.columns == [f"{PARTNER}{target}"] and theirs.columns == [f"{PARTNER}{source}"]
    shared = {(a, b) for a, b in enumerate(ours[f"{PARTNER}{target}"]) if b is not None}
    assert shared == {(a, b) for b, a in enumerate(theirs[f"{PARTNER}{source}"]) if a is not None}
    by_weight = artifact.table("pairs").filter("shared").select("source_latent", "target_latent").rows()
    assert shared == set(by_weight)
    announce = {(pair.source, pair.target) for pair in compare(source, target, held).pairs if pair.shared}
    assert announce <= shared


def test_two_that_were_not_aligned_are_refused(held):
    with pytest.raises(UnknownError, match="has not aligned first and first; `seglens diff` does"):
        compare("first", "first", held)
