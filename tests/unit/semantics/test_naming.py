import pytest

from seglens.semantics import naming

TUMOUR = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
HEALTHY = {0: "background", 1: "ventricles", 2: "thalamus"}


def facts(labels=TUMOUR, base=None, **given):
    """A live latent in the middle of every range, with the shares given."""
    base = base or {"background": 0.95}
    shares = {name: given.pop(name, 0.0) for name in labels.values()}
    row = {f"p_{name}": share for name, share in shares.items()}
    row |= {f"lift_{name}": share / base.get(name, 0.02) for name, share in shares.items()}
    middle = {
        "boundary": 0.1,
        "boundary_even": 0.5,
        "brain": 0.9,
        "edge": 0.2,
        "depth": 0.35,
        "spread": 0.2,
        "angular_coverage": 0.1,
    }
    return {"dead": False, "side": None, **middle, **row, **given}


@pytest.mark.parametrize(
    ("row", "labels", "name"),
    [
        ({"dead": True}, TUMOUR, "dead"),
        (
            facts(edema=0.5, background=0.5, side="left", depth=0.7, spread=0.05),
            TUMOUR,
            "edema, left, deep, localised",
        ),
        (
            facts(background=0.99, side="bilateral", edge=0.8, spread=0.5),
            TUMOUR,
            "background, brain edge, diffuse",
        ),
        (facts(background=0.99, edge=0.8, angular_coverage=0.8), TUMOUR, "background, brain edge, ring"),
        (
            facts(HEALTHY, ventricles=0.4, background=0.6, side="midline", depth=0.6),
            HEALTHY,
            "ventricles, midline, deep",
        ),
        (facts(necrotic_core=0.3, background=0.7, boundary=0.8), TUMOUR, "necrotic core, boundary"),
        (facts(necrotic_core=0.3, background=0.7, boundary=0.8, boundary_even=0.9), TUMOUR, "necrotic core"),
        (facts(necrotic_core=0.3, background=0.7, boundary=0.96, boundary_even=0.9), TUMOUR, "necrotic core, boundary"),
        (facts(edema=0.15, background=0.85, side="right", depth=0.1), TUMOUR, "(mixed), right, superficial"),
        (facts(background=1.0, brain=0.1, side="left"), TUMOUR, "background, outside the brain"),
        (facts(edema=0.4, enhancing=0.3, background=0.3, side="bilateral"), TUMOUR, "edema, bilateral"),
        (facts(background=1.0, edge=None, depth=None, spread=None, angular_coverage=None), TUMOUR, "background"),
    ],
)
def test_names(row, labels, name):
    assert naming.name_latent(naming.words_of(row, labels), labels) == name


def test_a_class_needs_lift_and_share():
    assert naming.top_class(facts(edema=0.2, background=0.8), TUMOUR) == "edema"
    assert naming.top_class(facts(edema=0.19, background=0.81), TUMOUR) == "mixed"
    assert naming.top_class(facts(edema=0.09, background=0.91), TUMOUR) == "background"
    common = {"background": 0.5, "edema": 0.3}
    assert naming.top_class(facts(base=common, edema=0.55, background=0.45), TUMOUR) == "mixed"
    assert naming.top_class(facts(base=common, edema=0.61, background=0.39), TUMOUR) == "edema"


def test_a_class_that_never_occurs_has_no_lift():
    row = facts(background=0.96) | {"lift_edema": None, "p_edema": 0.0}
    assert naming.top_class(row, TUMOUR) == "background"
    assert naming.top_class({"p_tumour": 0.1, "lift_tumour": 1.0}, {1: "tumour"}) == "mixed"


@pytest.mark.parametrize(
    ("centroid", "spread", "expected"),
    [
        (0.2, 0.3, "right"),
        (0.8, 0.3, "left"),
        (0.5, 0.05, "midline"),
        (0.55, 0.3, "bilateral"),
        (None, None, None),
    ],
)
def test_low_columns_are_the_patients_right(centroid, spread, expected):
    assert naming.side(centroid, spread) == expected


def test_each_word_must_come_back_in_both_halves():
    whole = naming.words_of(facts(edema=0.5, background=0.5, side="left", depth=0.7, spread=0.05), TUMOUR)
    other = naming.words_of(facts(edema=0.4, background=0.6, side="right", depth=0.8, spread=0.2), TUMOUR)
    kept = naming.replicated(whole, [whole, other])
    assert naming.name_latent(whole, TUMOUR) == "edema, left, deep, localised"
    assert naming.name_latent(kept, TUMOUR) == "edema, deep"
    assert naming.withheld(whole, kept) == "left, localised"
    assert naming.withheld(whole, naming.replicated(whole, [whole, whole])) is None
    silent = naming.replicated(whole, [whole, None])
    assert naming.name_latent(silent, TUMOUR) == "(unreplicated)"
    elsewhere = naming.words_of(facts(necrotic_core=0.5, background=0.5, side="left", depth=0.7), TUMOUR)
    assert naming.name_latent(naming.replicated(whole, [whole, elsewhere]), TUMOUR) == "(unreplicated), left, deep"
