from functools import partial

import numpy as np
import pytest
from anyio import run as wait_for

from seglens.explorer import latents
from seglens.explorer.names import GivenName
from seglens.explorer.opened import UnknownError


@pytest.fixture
def unseen(slices):
    """Rows of the patients that nothing was trained on."""
    return [row for row, split in enumerate(slices.index["split"]) if split != "train"]


@pytest.fixture
def mass(dense, unseen):
    """Sum of the codes of each unseen slice, [n m]."""
    return dense[unseen].sum((1, 2)).numpy()


@pytest.fixture
def examples(held, shown):
    """Ask for a latent's slices."""
    return lambda latent, **kind: shown(wait_for(partial(latents.examples, "first", latent, held, **kind)))


def test_the_table_holds_what_the_atlas_measured(held, first, alive, shown):
    latents.give_name("first", alive, GivenName(name="centre"), held)
    arrays, about = shown(latents.table("first", held))
    np.testing.assert_allclose(arrays["mass"], first.atlas.table["mass"].to_numpy(), rtol=1e-6)
    words = about["columns"]["name"]["words"]
    names = [words[code - 1] if code else None for code in arrays["name"].tolist()]
    assert names == first.atlas.table["name"].to_list()
    assert about["given"] == {str(alive): "centre"}
    assert (about["hookpoint"], about["labels"], about["cohort"]) == ("stage1", ["background", "tumour"], "discs")
    assert about["measured"] == [] and np.isnan(arrays["effect_tumour"]).all()


def test_a_page_names_the_nearest_decoder_rows(held, first, alive):
    page = latents.page("first", alive, held)
    rows = first.dictionary.W_dec.detach().double().numpy()
    cosine = rows @ rows[alive] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[alive])
    cosine[alive] = -np.inf
    expected = np.sort(cosine)[::-1][:8]
    assert [one.cosine for one in page.neighbours] == pytest.approx(expected.tolist(), abs=1e-5)
    assert all(cosine[one.latent] == pytest.approx(one.cosine, abs=1e-5) for one in page.neighbours)
    assert page.facts == first.atlas.of(alive)
    assert page.given is None


def test_a_page_names_the_partners_of_the_runs_alignment(held, explored, alive):
    page = latents.page("first", alive, held)
    (stage,) = explored.run.stages("alignment/")
    source, target = stage.removeprefix("alignment/").split("~")
    own, other = ("source", "target") if source == "first" else ("target", "source")
    pairs = explored.run.artifact(stage).table("functional").to_dicts()
    expected = [(one[f"{other}_latent"], one["correlation"]) for one in pairs if one[f"{own}_latent"] == alive]
    assert [(one.latent, one.correlation) for one in page.partners] == expected
    assert {one.segmenter for one in page.partners} <= {source, target} - {"first"}


def test_the_strongest_slices_are_the_atlas_exemplars(examples, first, unseen, dense, alive):
    arrays, about = examples(alive)
    rows = [unseen[row] for row in first.atlas.exemplars_of(alive)[0]["row"].to_list()]
    assert [one["row"] for one in about["slices"]] == rows[: latents.EXAMPLES]
    expected = dense[rows[: latents.EXAMPLES], :, :, alive].numpy()
    largest = expected.max()
    np.testing.assert_allclose(arrays["maps"], expected, atol=0.01 * largest)  # the atlas keeps half precision
    assert arrays["images"].shape == arrays["masks"].shape == (len(rows), 32, 32)


def test_middle_slices_fire_and_random_ones_are_drawn_the_same_again(examples, unseen, mass, dense, alive):
    arrays, about = examples(alive, kind="middle")
    chosen = [one["row"] for one in about["slices"]]
    assert chosen and len(set(chosen)) == len(chosen)
    assert all(mass[unseen.index(row), alive] > 0 for row in chosen)
    np.testing.assert_allclose(arrays["maps"], dense[chosen, :, :, alive].numpy(), rtol=1e-4, atol=1e-5)
    drawn, again = (examples(alive, kind="random")[1]["slices"] for _ in range(2))
    assert drawn == again
    rows = [one["row"] for one in drawn]
    assert len(set(rows)) == len(rows) == latents.EXAMPLES and set(rows) < set(unseen)


def test_strength_is_the_histogram_of_the_mass(held, mass, alive):
    found = wait_for(partial(latents.strength, "first", alive, held))
    own = mass[:, alive]
    assert (found.fires_in, found.of) == (int((own > 0).sum()), len(own))
    assert sum(found.counts) == found.fires_in
    assert (found.edges[0], found.edges[-1]) == pytest.approx((own[own > 0].min(), own.max()), rel=1e-4)
    progress = latents.survey("first", held)
    assert progress.done == progress.of == len(own)


def test_a_name_is_given_and_taken(held, first, alive):
    kept = latents.give_name("first", alive, GivenName(name="centre", who="me"), held)
    assert latents.page("first", alive, held).given == kept == held.names.of(first.dictionary.hash)[alive]
    latents.take_name("first", alive, held)
    assert latents.page("first", alive, held).given is None


def test_what_there_is_not_is_said(held, first, examples):
    outside = first.dictionary.n_latents
    for asked in (
        lambda: latents.page("first", outside, held),
        lambda: latents.give_name("first", -1, GivenName(name="x"), held),
    ):
        with pytest.raises(UnknownError, match=rf"latents 0 to {outside - 1}, not"):
            asked()
    with pytest.raises(UnknownError, match="discs has sequences 0 to 0, not 1"):
        examples(0, sequence=1)
