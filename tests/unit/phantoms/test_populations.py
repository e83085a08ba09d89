from dataclasses import fields, is_dataclass

import pytest

from seglens.phantoms.populations import FACTORS, LESION_FACTORS, POPULATIONS, resolve, sources


def test_a_factor_changes_that_prior_alone():
    for factor in FACTORS:
        mixed = resolve("adult", {factor: "ssa"})
        for name in FACTORS:
            expected = POPULATIONS["ssa" if name == factor else "adult"]
            assert getattr(mixed, name) == getattr(expected, name)


def test_all_factors_make_the_other_population():
    assert resolve("adult", dict.fromkeys(FACTORS, "pediatric")) == POPULATIONS["pediatric"]
    assert resolve("healthy", {}) == POPULATIONS["healthy"]


def test_every_range_is_in_order():
    for name, population in POPULATIONS.items():
        for factor in FACTORS:
            prior = getattr(population, factor)
            if prior is None:
                assert name == "healthy" and factor in LESION_FACTORS
                continue
            assert is_dataclass(prior)
            for field in fields(prior):
                value = getattr(prior, field.name)
                if isinstance(value, tuple) and isinstance(value[0], float):
                    assert 0 < value[0] <= value[1], f"{name}.{factor}.{field.name}"


def test_the_populations_differ_as_the_literature_says():
    adult, child, late = (POPULATIONS[name] for name in ("adult", "pediatric", "ssa"))
    assert child.edema.width_mm[1] < adult.edema.width_mm[0] + 1
    assert child.enhancement.coverage[1] < adult.enhancement.coverage[0]
    assert late.size.core_mm[0] > adult.size.core_mm[0] and late.size.core_mm[1] > adult.size.core_mm[1]
    assert late.noise.snr[1] < adult.noise.snr[0]
    assert late.thickness.slice_mm[0] > adult.thickness.slice_mm[1]
    assert late.contrast.tesla[1] < adult.contrast.tesla[0]
    assert late.place == adult.place
    assert all(site.centre_mm[2] > -15 for site in adult.place.sites)
    assert sum(site.weight for site in child.place.sites if site.centre_mm[2] < -25) >= 0.6


@pytest.mark.parametrize(
    ("population", "factors", "message"),
    [
        ("martian", {}, "population 'martian' is unknown; choose one of adult"),
        ("adult", {"nose": "ssa"}, "factor 'nose' is unknown; choose among head"),
        ("adult", {"noise": "loud"}, "that population is unknown"),
        ("adult", {"size": "healthy"}, "healthy has no lesion"),
        ("healthy", {"place": "adult"}, "healthy has no lesion"),
    ],
)
def test_wrong_names_are_refused_with_the_legal_ones(population, factors, message):
    with pytest.raises(ValueError, match=message):
        resolve(population, factors)


def test_sources_say_where_each_factor_comes_from():
    got = sources("adult", {"noise": "ssa"})
    assert got["noise"] == "ssa" and got["place"] == "adult"
    assert set(got) == set(FACTORS)
    assert not set(sources("healthy", {})) & set(LESION_FACTORS)
