import math

import pytest
import torch

from seglens.phantoms.physics import (
    Protocol,
    acquire,
    field_scale,
    inversion_recovery,
    null_ti_ms,
    rician,
    rooney_t1_ms,
    spin_echo,
    spoiled_gradient_echo,
    with_gadolinium,
)

T1, T2, PD = 885.0, 79.0, 0.7


def maps(*values: float, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=dtype) for value in values]


def test_spoiled_gradient_echo_is_the_ernst_equation():
    for flip in (5.0, 12.1, 25.0, 90.0):
        e1, angle = math.exp(-20 / T1), math.radians(flip)
        expected = PD * math.sin(angle) * (1 - e1) / (1 - math.cos(angle) * e1) * math.exp(-4 / T2)
        got = spoiled_gradient_echo(*maps(T1, T2, PD), tr_ms=20.0, te_ms=4.0, flip_degrees=flip)
        assert float(got) == pytest.approx(expected, rel=1e-9)


def test_the_ernst_angle_gives_the_largest_signal():
    ernst = math.degrees(math.acos(math.exp(-20 / T1)))
    best = spoiled_gradient_echo(*maps(T1, T2, PD), tr_ms=20.0, te_ms=4.0, flip_degrees=ernst)
    for other in (ernst - 1, ernst + 1):
        assert float(spoiled_gradient_echo(*maps(T1, T2, PD), tr_ms=20.0, te_ms=4.0, flip_degrees=other)) < float(best)


def test_spin_echo_in_closed_form_and_in_its_limits():
    got = spin_echo(*maps(T1, T2, PD), tr_ms=500.0, te_ms=15.0)
    assert float(got) == pytest.approx(PD * (1 - math.exp(-500 / T1)) * math.exp(-15 / T2), rel=1e-9)
    assert float(spin_echo(*maps(T1, T2, PD), tr_ms=1e6, te_ms=0.0)) == pytest.approx(PD)


def test_inversion_recovery_in_closed_form_and_nulled_where_it_says():
    got = inversion_recovery(*maps(T1, T2, PD), tr_ms=2000.0, te_ms=3.0, ti_ms=900.0)
    recovered = 1 - 2 * math.exp(-900 / T1) + math.exp(-2000 / T1)
    assert float(got) == pytest.approx(PD * abs(recovered) * math.exp(-3 / T2), rel=1e-9)
    null = null_ti_ms(4300.0, 9000.0)
    assert float(inversion_recovery(*maps(4300.0, 1800.0, 1.0), tr_ms=9000.0, te_ms=120.0, ti_ms=null)) < 1e-9
    early = inversion_recovery(*maps(T1, T2, PD), tr_ms=2000.0, te_ms=0.0, ti_ms=1.0)
    assert float(early) > 0, "magnitude images have no negative intensity"


def test_gradients_reach_tissue_and_protocol():
    inputs = [value.requires_grad_() for value in maps(900.0, 80.0, 0.7) + maps(20.0, 4.0, 25.0) + maps(2000.0, 900.0)]

    def signals(*values):
        t1, t2, pd, tr, te, flip, long_tr, ti = values
        return (
            spoiled_gradient_echo(t1, t2, pd, tr_ms=tr, te_ms=te, flip_degrees=flip)
            + spin_echo(t1, t2, pd, tr_ms=long_tr, te_ms=te)
            + inversion_recovery(t1, t2, pd, tr_ms=long_tr, te_ms=te, ti_ms=ti)
            + with_gadolinium(t1, pd) / 1000
        )

    assert torch.autograd.gradcheck(signals, inputs, eps=1e-4, atol=1e-6)


def test_gadolinium_adds_to_the_rate():
    got = with_gadolinium(*maps(1000.0, 0.5), relaxivity=4.0)
    assert float(got) == pytest.approx(1000 / (1 + 2.0))
    assert float(with_gadolinium(*maps(1000.0, 0.0))) == pytest.approx(1000.0)


def test_t1_rises_with_the_field_as_rooney_measured():
    measured = {("white", 1.5): 656, ("white", 4.0): 1010, ("grey", 4.0): 1445}
    for (tissue, tesla), t1 in measured.items():
        assert rooney_t1_ms(tissue, tesla) == pytest.approx(t1, rel=0.06)
        assert rooney_t1_ms(tissue, 3.0) * field_scale(tissue, tesla) == pytest.approx(rooney_t1_ms(tissue, tesla))


def test_rician_noise_has_the_moment_of_theory():
    generator = torch.Generator().manual_seed(0)
    real, imaginary = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    for level in (0.0, 1.0, 20.0):
        noisy = rician(torch.full_like(real, level), real, imaginary, sigma=0.5)
        # E[M^2] = S^2 + 2 sigma^2
        assert float((noisy**2).mean()) == pytest.approx(level**2 + 2 * 0.25, rel=0.01)
    clean = torch.linspace(0, 2, 5, dtype=torch.float64)
    assert torch.equal(rician(clean, real[:5], imaginary[:5], sigma=0.0), clean)


@pytest.mark.parametrize("t1_sequence", ["gradient_echo", "inversion_recovery", "spin_echo"])
def test_contrast_agent_changes_t1c_alone(t1_sequence):
    protocol = Protocol(
        tesla=3.0,
        t1_sequence=t1_sequence,
        t1_tr_ms=2000.0 if t1_sequence == "inversion_recovery" else 20.0,
        t1_te_ms=3.0,
        t1_ti_ms=900.0,
        t1_flip_degrees=25.0,
        t2_tr_ms=4000.0,
        t2_te_ms=100.0,
        flair_tr_ms=9000.0,
        flair_te_ms=120.0,
        flair_ti_ms=2500.0,
    )
    plain = acquire(*maps(1450.0, 115.0, 0.87, 0.0), protocol)
    taken = acquire(*maps(1450.0, 115.0, 0.87, 0.3), protocol)
    assert plain.shape == (4, 1)
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(plain[[0, 2, 3]], taken[[0, 2, 3]])
    assert float(taken[1]) > 1.3 * float(plain[1])
