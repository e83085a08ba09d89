import pytest
import torch

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries import sae
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder


def by_loop(dictionary, tokens):
    """Each pre-activation by the definition, one token and one latent at a time."""
    codes = torch.zeros(len(tokens), dictionary.n_latents)
    for i, token in enumerate(tokens):
        x = (token - dictionary.centre) * dictionary.scale
        for j in range(dictionary.n_latents):
            pre = torch.dot(x - dictionary.b_dec, dictionary.W_enc[:, j]) + dictionary.b_enc[j]
            codes[i, j] = pre if pre > dictionary.theta else 0.0
    return codes


def test_codes_and_reconstruction_follow_the_definition(dictionary, tokens, monkeypatch):
    monkeypatch.setattr(sae, "CHUNK_ELEMENTS", 24 * 7)  # several chunks, the last one short
    codes = dictionary.encode(tokens)
    expected = by_loop(dictionary, tokens)
    torch.testing.assert_close(codes.to_dense(), expected)
    decoded = (expected @ dictionary.W_dec + dictionary.b_dec) / dictionary.scale + dictionary.centre
    torch.testing.assert_close(dictionary.decode(codes), decoded)


def test_codes_do_not_depend_on_the_batch(dictionary, tokens):
    alone = Codes.concatenate([dictionary.encode(tokens[i : i + 1]) for i in range(len(tokens))])
    together = dictionary.encode(tokens)
    assert torch.equal(alone.latents, together.latents)
    torch.testing.assert_close(alone.values, together.values)


def test_a_difference_of_codes_moves_the_reconstruction_by_as_much(dictionary, tokens):
    codes = dictionary.encode(tokens)
    doubled = codes.with_values(codes.values * 2)
    moved = dictionary.decode(doubled) - dictionary.decode(codes)
    torch.testing.assert_close(dictionary.decode_difference(codes), moved, rtol=1e-4, atol=1e-5)


def test_untrained_dictionary_has_unit_rows_from_its_seed():
    first, again, other = (SparseAutoencoder(8, 32, k=2, seed=seed) for seed in (5, 5, 6))
    torch.testing.assert_close(first.W_dec.norm(dim=1), torch.ones(32))
    assert torch.equal(first.W_enc, first.W_dec.T)
    assert first.hash == again.hash != other.hash
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_pre_activations_carry_gradients(dictionary, tokens):
    tokens.requires_grad_()
    dictionary.pre_activations(tokens)[:, 4].sum().backward()
    torch.testing.assert_close(tokens.grad[0], dictionary.W_enc[:, 4] * dictionary.scale)


def test_written_and_read_is_the_same(dictionary, tmp_path):
    with new_artifact(tmp_path / "d", kind="dictionary", inputs={}) as draft:
        dictionary.write(draft)
    back = SparseAutoencoder.read(read_artifact(tmp_path / "d", "dictionary"))
    assert back.hash == dictionary.hash
    assert back.description() == dictionary.description()


def test_tensors_of_another_shape_are_refused(dictionary, tmp_path):
    with new_artifact(tmp_path / "d", kind="dictionary", inputs={}) as draft:
        draft.save_tensors("dictionary", dictionary.state_dict())
        draft.save_document("dictionary", dictionary.description() | {"d_in": 7})
    with pytest.raises(ValueError, match="its description says"):
        SparseAutoencoder.read(read_artifact(tmp_path / "d"))


@pytest.mark.parametrize("k", [0, 25])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="from 1 to the number of latents, 24"):
        SparseAutoencoder(6, 24, k=k)


def test_what_does_not_fit_is_refused(dictionary):
    with pytest.raises(ValueError, match="takes 6"):
        dictionary.encode(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="this dictionary has 24"):
        dictionary.decode(Codes.from_dense(torch.zeros(2, 5)))
    with pytest.raises(ValueError, match="d_in >= 1"):
        SparseAutoencoder(0, 4, k=1)


def test_no_tokens_and_zero_tokens(dictionary):
    assert dictionary.encode(torch.zeros(0, 6)).n == 0
    at_rest = dictionary.decode(dictionary.encode(torch.zeros(3, 6)))
    assert bool(at_rest.isfinite().all())
