import pytest
import torch

from seglens.steering import shared_codes
from seglens.steering.edits import change_of, slice_change
from seglens.steering.shared_codes import SharedCodes, active_codes, codes_of


def grid_of(seed, batch=3, channels_first=True):
    values = torch.randn(batch, 8, 2, 2, 5, generator=torch.Generator().manual_seed(seed))
    grid = values.movedim(1, -1)
    return grid if channels_first else grid.contiguous()


@pytest.fixture
def counted(dictionary, monkeypatch):
    """How often codes of a few latents are computed."""
    calls = []

    def counting(own, tokens, latents):
        calls.append(tuple(latents))
        return codes_of(own, tokens, latents)

    monkeypatch.setattr(shared_codes, "codes_of", counting)
    return calls


EDITS = [
    {"operation": "multiply", "value": -1.0},
    {"operation": "multiply", "value": 2.5},
    {"operation": "zero", "value": 0.0},
    {"operation": "add", "value": -0.7},
    {"operation": "add", "value": 0.7, "where": "active"},
    {"operation": "clamp", "value": 1.5},
    {"operation": "multiply", "value": 3.0, "mode": "replace"},
]


@pytest.mark.parametrize("channels_first", [True, False])
def test_shared_and_alone_are_the_same_bits_in_the_same_layout(dictionary, make_edit, channels_first):
    shared = SharedCodes(dictionary)
    for seed in (0, 1):
        grid = grid_of(seed, channels_first=channels_first)
        before = grid.clone()
        for latents in ((1, 3, 5), (3,), (2, 20)):
            for settings in EDITS:
                edit = make_edit(dictionary, latents, **settings)
                together = change_of(dictionary, [edit], shared=shared)(grid)
                alone = change_of(dictionary, [edit])(grid_of(seed, channels_first=channels_first))
                assert torch.equal(together, alone)
                assert torch.equal(grid, before)
    scaled = change_of(dictionary, [make_edit(dictionary, (1, 3, 5))], shared=shared)(grid)
    assert scaled.stride() == grid.stride()


def test_edits_that_differ_in_alpha_share_one_product(dictionary, make_edit, counted):
    shared, grid = SharedCodes(dictionary), grid_of(0)
    for value in (-1.0, 0.0, 2.0, 3.0):
        change_of(dictionary, [make_edit(dictionary, (1, 3), value=value)], shared=shared)(grid)
        change_of(dictionary, [make_edit(dictionary, (1, 3), "clamp", value)], shared=shared)(grid)
    assert counted == [(1, 3)]
    change_of(dictionary, [make_edit(dictionary, (1, 4))], shared=shared)(grid)
    assert counted == [(1, 3), (1, 4)]


def test_another_activation_is_noticed_also_in_the_same_memory(dictionary, make_edit, counted):
    shared, grid = SharedCodes(dictionary), grid_of(0)
    change = change_of(dictionary, [make_edit(dictionary)], shared=shared)
    change(grid)
    change(grid.view_as(grid))
    assert len(counted) == 1
    grid.mul_(2.0)
    assert torch.equal(change(grid), change_of(dictionary, [make_edit(dictionary)])(grid.clone()))
    assert len(counted) == 3  # the change, and the one that shares nothing
    change(grid[:2])
    assert len(counted) == 4
    for seed in range(5):  # freed memory may be handed out again
        assert torch.equal(change(grid_of(seed)), change_of(dictionary, [make_edit(dictionary)])(grid_of(seed)))


def test_what_does_not_fit_is_computed_again(dictionary, make_edit, counted, monkeypatch):
    monkeypatch.setattr(shared_codes, "KEPT_BYTES", 0)
    shared, grid = SharedCodes(dictionary), grid_of(0)
    edits = [make_edit(dictionary, latents) for latents in ((1, 3), (5,), (1, 3))]
    for edit in edits:
        assert torch.equal(change_of(dictionary, [edit], shared=shared)(grid), change_of(dictionary, [edit])(grid))
    assert counted == [(1, 3), (1, 3), (5,), (5,), (1, 3), (1, 3)]


def test_graphs_are_not_shared(dictionary, make_edit):
    shared = SharedCodes(dictionary)
    change = change_of(dictionary, [make_edit(dictionary)], shared=shared)
    grid = grid_of(0).requires_grad_()
    gradients = []
    for _ in range(2):
        (gradient,) = torch.autograd.grad(change(grid).square().sum(), grid)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_slices_with_latents_of_their_own_share_products_too(dictionary):
    shared, grid = SharedCodes(dictionary), grid_of(0)
    latents = torch.tensor([[1, 2], [3, 4], [5, 20]])
    for value in (0.25, 2.0, 5.0):
        together = slice_change(dictionary, latents, value, shared)(grid)
        assert torch.equal(together, slice_change(dictionary, latents, value)(grid_of(0)))
    other = slice_change(dictionary, latents.flip(0), 2.0, shared)(grid)
    assert torch.equal(other, slice_change(dictionary, latents.flip(0), 2.0)(grid))
    assert not torch.equal(other, slice_change(dictionary, latents, 2.0, shared)(grid))


def test_where_nothing_fires_the_activation_itself_comes_back(dictionary, make_edit):
    dictionary.theta.fill_(1e6)
    shared, grid = SharedCodes(dictionary), grid_of(0)
    assert shared.part(grid, (1, 3)) is None
    for settings in EDITS[:3]:
        assert change_of(dictionary, [make_edit(dictionary, **settings)], shared=shared)(grid) is grid
    assert slice_change(dictionary, torch.tensor([[1], [2], [3]]), 2.0, shared)(grid) is grid


def test_a_negative_zero_stays_one_where_nothing_fires(dictionary, make_edit):
    grid = grid_of(0)
    fires = SharedCodes(dictionary).part(grid, (1, 3, 5)).fires.expand_as(grid)
    assert not fires.all()
    grid = torch.where(fires, grid, -0.0)
    before = grid.clone()
    part = SharedCodes(dictionary).part(grid, (1, 3, 5))
    changed = change_of(dictionary, [make_edit(dictionary, (1, 3, 5))])(grid)
    quiet = ~part.fires.expand_as(grid)
    assert torch.equal(changed[quiet].view(torch.int32), before[quiet].view(torch.int32))


def test_active_codes_are_the_dense_ones_with_the_same_gradients(dictionary):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(50, 8, generator=generator)
    latents = [5, 0, 7]
    dense_tokens, sparse_tokens = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    dense = codes_of(dictionary, dense_tokens, latents)
    sparse = active_codes(dictionary, sparse_tokens, latents)
    assert 0 < sparse.nnz < 150
    assert torch.equal(sparse.to_dense().detach(), dense.detach())
    weights = torch.randn(50, 3, generator=generator)
    (dense * weights).sum().backward()
    (sparse.values * weights[sparse.token_rows(), sparse.latents.long()]).sum().backward()
    torch.testing.assert_close(sparse_tokens.grad, dense_tokens.grad)
