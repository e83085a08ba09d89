import pytest
import torch

from seglens.dictionaries.codes import Codes, weighted_rows


@pytest.fixture
def dense():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 5, generator=generator)
    values[torch.rand(7, 5, generator=generator) < 0.5] = 0
    values[3] = 0  # a token without a latent
    values[:, 2] = 0  # a latent without a token
    return values


def test_dense_and_sparse_say_the_same(dense):
    codes = Codes.from_dense(dense)
    assert torch.equal(codes.to_dense(), dense)
    assert (codes.n, codes.nnz, codes.n_latents) == (7, int((dense != 0).sum()), 5)
    assert codes.l0 == pytest.approx(float((dense != 0).sum(1).double().mean()))
    assert codes.offsets.dtype == torch.int64
    assert codes.latents.dtype == torch.int32
    assert all(bool((part.diff() > 0).all()) for part in codes.latents.split(codes.counts().tolist()))


def test_columns_are_the_transposed_codes(dense):
    offsets, tokens, values = Codes.from_dense(dense).columns()
    rebuilt = torch.zeros(5, 7)
    for latent in range(5):
        mine = tokens[offsets[latent] : offsets[latent + 1]]
        assert bool((mine.diff() > 0).all())
        rebuilt[latent, mine.long()] = values[offsets[latent] : offsets[latent + 1]]
    assert torch.equal(rebuilt.T, dense)
    assert torch.equal(Codes.from_dense(dense).firing_counts(), (dense != 0).sum(0))


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (4, 3)])
def test_columns_of_nothing(shape):
    offsets, tokens, values = Codes.from_dense(torch.zeros(shape)).columns()
    assert offsets.tolist() == [0] * (shape[1] + 1) and offsets.dtype == torch.int64
    assert len(tokens) == len(values) == 0 and tokens.dtype == torch.int32 and values.dtype == torch.float32


def test_columns_of_a_graph_equal_the_others_and_keep_it(dense):
    codes = Codes.from_dense(dense)
    with_graph = codes.with_values(codes.values.clone().requires_grad_()).columns()
    assert with_graph.values.requires_grad
    assert all(torch.equal(one, other) for one, other in zip(with_graph, codes.columns(), strict=True))


def test_scipy_sees_the_same_matrix(dense):
    assert torch.equal(torch.from_numpy(Codes.from_dense(dense).to_scipy().toarray()), dense)


@pytest.mark.parametrize("rows", [[4, 0, 4, 3], [], slice(1, 6, 2), torch.tensor([6])])
def test_rows_index_like_a_dense_array(dense, rows):
    assert torch.equal(Codes.from_dense(dense).rows(rows).to_dense(), dense[rows])


@pytest.mark.parametrize("latents", [[0, 2, 4], [4, 1, 0], [], [3]])
def test_selected_latents_are_renumbered_like_dense_columns(dense, latents):
    chosen = Codes.from_dense(dense).select_latents(latents)
    assert torch.equal(chosen.to_dense(), dense[:, latents])
    assert all(bool((part.diff() > 0).all()) for part in chosen.latents.split(chosen.counts().tolist()))


@pytest.mark.parametrize("latents", [[0, 0], [5], [-1]])
def test_latents_that_cannot_be_selected_are_refused(dense, latents):
    with pytest.raises(ValueError, match=r"different numbers in 0\.\.4"):
        Codes.from_dense(dense).select_latents(latents)


def test_parts_are_joined_in_order(dense):
    codes = Codes.from_dense(dense)
    joined = Codes.concatenate([codes.rows([0, 1]), codes.rows(slice(2, 7))])
    assert torch.equal(joined.to_dense(), dense)
    assert torch.equal(codes.with_values(codes.values * 2).to("cpu").to_dense(), dense * 2)
    with pytest.raises(ValueError, match="one width"):
        Codes.concatenate([codes, codes.select_latents([0])])
    with pytest.raises(ValueError, match="no parts"):
        Codes.concatenate([])


def test_parts_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="end at 3, but there are 2"):
        Codes(torch.tensor([0, 3]), torch.zeros(2, dtype=torch.int32), torch.zeros(2), 5)


def test_no_tokens_have_no_l0():
    empty = Codes.from_dense(torch.zeros(0, 4))
    assert empty.l0 != empty.l0
    assert empty.to_dense().shape == (0, 4)


def test_weighted_rows_is_a_matrix_product(dense):
    matrix = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    codes = Codes.from_dense(dense)
    torch.testing.assert_close(weighted_rows(matrix, codes.offsets, codes.latents, codes.values), dense @ matrix)
    nothing = Codes.from_dense(torch.zeros(2, 5))
    assert torch.equal(weighted_rows(matrix, nothing.offsets, nothing.latents, nothing.values), torch.zeros(2, 3))
