import pytest
import torch

from seglens.phantoms.anatomy import REGIONS, Anatomy, load_template, sample_anatomy
from seglens.phantoms.lesions import Compartments
from seglens.phantoms.physics import Protocol, acquire, field_scale
from seglens.phantoms.tissue import (
    DEEP,
    EDEMA,
    ENHANCING,
    FLUID,
    GREY,
    HEALTHY_LABELS,
    LESION_FIELD_EXPONENT,
    NECROSIS,
    WHITE,
    TissueState,
    label_shares,
    labels_of,
    signal,
    tissue_maps,
)

STATE = TissueState(white_t1=1.0, grey_t1=1.0, white_t2=1.0, grey_t2=1.0, edema_strength=1.0, millimolar=0.3)
FLAT = torch.zeros(2, 1)
PROTOCOL = Protocol(
    tesla=3.0,
    t1_sequence="inversion_recovery",
    t1_tr_ms=2000.0,
    t1_te_ms=3.0,
    t1_ti_ms=900.0,
    t1_flip_degrees=90.0,
    t2_tr_ms=4000.0,
    t2_te_ms=100.0,
    flair_tr_ms=9000.0,
    flair_te_ms=120.0,
    flair_ti_ms=2500.0,
)


def point(grey: float = 0.0, white: float = 0.0, fluid: float = 0.0, **regions: float) -> Anatomy:
    shares = [torch.tensor([value]) for value in (grey, white, fluid)]
    return Anatomy(*shares, torch.tensor([[regions.get(name, 0.0)] for name in REGIONS]))


def lesion(necrosis: float = 0.0, solid: float = 0.0, enhancing: float = 0.0, edema: float = 0.0) -> Compartments:
    return Compartments(*(torch.tensor([value]) for value in (necrosis, solid, enhancing, edema)))


@pytest.mark.parametrize("tesla", [0.5, 3.0])
def test_a_pure_point_has_its_tissues_values(tesla):
    white = tissue_maps(point(white=1.0), None, STATE, tesla=tesla, texture=FLAT)
    assert float(white.t1_ms) == pytest.approx(WHITE.t1 * field_scale("white", tesla), rel=1e-3)
    assert float(white.t2_ms) == pytest.approx(WHITE.t2, rel=1e-3)
    grey = tissue_maps(point(grey=1.0), None, STATE._replace(grey_t1=1.1), tesla=tesla, texture=FLAT)
    assert float(grey.t1_ms) == pytest.approx(1.1 * GREY.t1 * field_scale("grey", tesla), rel=1e-3)
    for name, tissue in DEEP.items():
        deep = tissue_maps(point(grey=1.0, **{name: 1.0}), None, STATE, tesla=3.0, texture=FLAT)
        assert float(deep.t1_ms) == pytest.approx(tissue.t1, rel=1e-3)
    dead = tissue_maps(point(white=1.0), lesion(necrosis=1.0), STATE, tesla=tesla, texture=FLAT)
    assert float(dead.t1_ms) == pytest.approx(NECROSIS.t1 * (tesla / 3) ** LESION_FIELD_EXPONENT, rel=1e-3)


def test_rates_add_within_the_parenchyma():
    half = tissue_maps(point(grey=0.5, white=0.5), None, STATE, tesla=3.0, texture=FLAT)
    assert float(1 / half.t1_ms) == pytest.approx(0.5 / GREY.t1 + 0.5 / WHITE.t1, rel=1e-3)
    assert float(1 / half.t2_ms) == pytest.approx(0.5 / GREY.t2 + 0.5 / WHITE.t2, rel=1e-3)
    assert float(half.pd) == pytest.approx((GREY.pd + WHITE.pd) / 2)


def test_signals_add_between_tissue_and_fluid():
    grey, fluid, mixed = (
        signal(tissue_maps(at, None, STATE, tesla=3.0, texture=FLAT), PROTOCOL)
        for at in (point(grey=1.0), point(fluid=1.0), point(grey=0.7, fluid=0.3))
    )
    assert torch.allclose(mixed, 0.7 * grey + 0.3 * fluid, rtol=1e-3)
    pure = acquire(
        torch.tensor([FLUID.t1]), torch.tensor([FLUID.t2]), torch.tensor([FLUID.pd]), torch.zeros(1), PROTOCOL
    )
    assert torch.allclose(fluid, pure, rtol=1e-4)


def test_each_sequence_shows_what_a_radiologist_expects():
    def seen(anatomy: Anatomy, grown: Compartments | None = None) -> dict[str, float]:
        values = signal(tissue_maps(anatomy, grown, STATE, tesla=3.0, texture=FLAT), PROTOCOL)
        return dict(zip(("T1", "T1c", "T2", "FLAIR"), values[:, 0].tolist(), strict=True))

    white, grey, fluid = seen(point(white=1.0)), seen(point(grey=1.0)), seen(point(fluid=1.0))
    none = lesion()
    edema, ring, dead = (
        seen(point(white=1.0), part) for part in (lesion(edema=1.0), lesion(enhancing=1.0), lesion(necrosis=1.0))
    )
    assert seen(point(white=1.0), none) == pytest.approx(white)
    assert white["T1"] > grey["T1"] > fluid["T1"]
    assert fluid["T2"] > edema["T2"] > grey["T2"] > white["T2"]
    assert edema["FLAIR"] > 1.3 * grey["FLAIR"] and fluid["FLAIR"] < 0.3 * white["FLAIR"]
    assert ring["T1c"] > 1.5 * white["T1c"] and ring["T1"] < white["T1"]
    assert dead["T1c"] < edema["T1c"] < white["T1c"]


def test_weaker_edema_is_nearer_to_white_matter():
    strengths = [
        float(
            tissue_maps(
                point(white=1.0), lesion(edema=1.0), STATE._replace(edema_strength=value), tesla=3.0, texture=FLAT
            ).t2_ms
        )
        for value in (0.0, 0.5, 1.0)
    ]
    assert strengths == pytest.approx([WHITE.t2, (WHITE.t2 + EDEMA.t2) / 2, EDEMA.t2], rel=1e-3)


def test_texture_touches_the_lesion_alone():
    rough = torch.ones(2, 1)
    for grown, same in ((lesion(), True), (lesion(enhancing=1.0), False)):
        plain = tissue_maps(point(white=1.0), grown, STATE, tesla=3.0, texture=FLAT)
        textured = tissue_maps(point(white=1.0), grown, STATE, tesla=3.0, texture=rough)
        assert torch.equal(plain.t1_ms, textured.t1_ms) is same
    assert float(1 / textured.t1_ms) == pytest.approx(float(torch.exp(torch.tensor(0.1))) / ENHANCING.t1, rel=1e-3)


def test_label_shares_sum_to_one_and_name_the_tissue():
    points = torch.stack(torch.meshgrid(*(torch.arange(-80.0, 80.0, 16.0),) * 3, indexing="ij"), -1).reshape(-1, 3)
    shares = label_shares(sample_anatomy(load_template(), points), None)
    assert shares.shape[0] == len(HEALTHY_LABELS)
    assert torch.allclose(shares.sum(0), torch.ones(len(points)), atol=1e-5)
    assert float(shares.min()) > -0.01
    expected = {
        "cortical_grey": point(grey=1.0),
        "white_matter": point(white=1.0),
        "ventricles": point(fluid=1.0, ventricles=1.0),
        "caudate": point(grey=1.0, caudate=1.0),
        "lentiform": point(grey=0.6, white=0.4, lentiform=1.0),
        "thalamus": point(grey=0.5, white=0.5, thalamus=1.0),
        "cerebellum": point(grey=1.0, cerebellum=1.0),
        "brainstem": point(white=1.0, brainstem=1.0),
        "background": point(fluid=1.0),
    }
    for name, at in expected.items():
        assert HEALTHY_LABELS[int(label_shares(at, None).argmax())] == name
    # white matter of a capsule stays white matter though it lies in the nucleus's ellipsoid
    capsule = label_shares(point(white=1.0, lentiform=1.0), None)
    assert HEALTHY_LABELS[int(capsule.argmax())] == "white_matter"


def test_tumour_labels_put_dead_and_solid_tissue_together():
    shares = label_shares(point(white=1.0), lesion(necrosis=0.3, solid=0.2, enhancing=0.1, edema=0.15))
    assert shares[:, 0].tolist() == pytest.approx([0.25, 0.5, 0.15, 0.1])


def test_nested_labels_equal_a_loop_and_edema_ignores_what_the_core_is_made_of():
    shares = torch.rand(4, 200, generator=torch.Generator().manual_seed(0))
    shares = shares / shares.sum(0)
    expected = []
    for _, inner, edema, enhancing in shares.T.tolist():
        if inner + edema + enhancing <= 0.5:
            expected.append(0)
        elif inner + enhancing <= edema:
            expected.append(2)
        else:
            expected.append(3 if enhancing > inner else 1)
    assert labels_of(shares).tolist() == expected
    assert set(expected) == {0, 1, 2, 3}
    swapped = labels_of(shares[[0, 3, 2, 1]])
    assert torch.equal(swapped == 2, labels_of(shares) == 2)
    assert labels_of(torch.eye(9)).tolist() == list(range(9))
