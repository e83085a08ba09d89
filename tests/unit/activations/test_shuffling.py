import pytest
import torch

from seglens.activations import shuffling
from seglens.activations.shuffling import fits_in_buffer, shuffled_batches, slices_in_block


def batches(n_slices, tokens_in_slice, *, block, batch_size, seed=0, first=0, read=None):
    """Tokens are [slice, place]; what was read is noted."""

    def numbered(start, stop):
        if read is not None:
            read.append((start, stop))
        rows = torch.arange(start, stop).float()
        grid = torch.empty(stop - start, 1, tokens_in_slice, 1, 2)
        grid[..., 0] = rows[:, None, None, None]
        grid[..., 1] = torch.arange(tokens_in_slice).float()[:, None]
        return grid

    return list(
        shuffled_batches(
            numbered,
            n_slices=n_slices,
            tokens_in_slice=tokens_in_slice,
            d_in=2,
            block=block,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed),
            first=first,
        )
    )


def reference(n_slices, tokens_in_slice, *, block, batch_size, seed, buffer_bytes):
    """The same order by lists: blocks dealt into groups, every group shuffled, all groups in one line, cut."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [list(range(start, min(start + block, n_slices))) for start in range(0, n_slices, block)]
    per_group = max(1, buffer_bytes // (block * tokens_in_slice * 2 * 4))
    n_groups = (len(blocks) + per_group - 1) // per_group
    order = torch.randperm(len(blocks), generator=generator).tolist()
    seeds = torch.randint(2**62, (n_groups,), generator=generator).tolist()
    line, taken = [], 0
    for group, own in enumerate(seeds):
        n_blocks = len(blocks) // n_groups + (group < len(blocks) % n_groups)
        rows = [row for number in order[taken : taken + n_blocks] for row in blocks[number]]
        taken += n_blocks
        tokens = [(row, place) for row in rows for place in range(tokens_in_slice)]
        mixed = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(own)).tolist()
        line += [tokens[number] for number in mixed]
    return [line[start : start + batch_size] for start in range(0, len(line), batch_size)]


SHAPES = [
    # slices, tokens a slice, block, batch, buffer in tokens
    (1, 1, 1, 1, 1),
    (1, 6, 4, 4, 2),
    (7, 3, 2, 5, 12),
    (20, 4, 3, 16, 24),
    (20, 4, 3, 500, 24),
    (13, 5, 32, 8, 10),
    (64, 2, 1, 7, 33),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_order_is_that_of_the_twin(monkeypatch, shape, seed):
    n_slices, tokens_in_slice, block, batch_size, buffer_tokens = shape
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", buffer_tokens * 8)
    found = batches(n_slices, tokens_in_slice, block=block, batch_size=batch_size, seed=seed)
    expected = reference(
        n_slices, tokens_in_slice, block=block, batch_size=batch_size, seed=seed, buffer_bytes=buffer_tokens * 8
    )
    assert [[(int(row), int(place)) for row, place in batch.tolist()] for batch in found] == expected
    everything = sorted(token for batch in expected for token in batch)
    assert everything == [(row, place) for row in range(n_slices) for place in range(tokens_in_slice)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pass_goes_on_at_any_batch_and_reads_only_what_is_left(monkeypatch, shape):
    n_slices, tokens_in_slice, block, batch_size, buffer_tokens = shape
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", buffer_tokens * 8)
    whole = batches(n_slices, tokens_in_slice, block=block, batch_size=batch_size)
    for first in range(len(whole) + 2):
        read = []
        rest = batches(n_slices, tokens_in_slice, block=block, batch_size=batch_size, first=first, read=read)
        assert len(rest) == max(0, len(whole) - first)
        assert all(torch.equal(one, other) for one, other in zip(rest, whole[first:], strict=True))
        assert len(set(read)) == len(read)
        tokens_left = sum(map(len, rest))
        tokens_read = sum(stop - start for start, stop in read) * tokens_in_slice
        one_group = max(buffer_tokens, block * tokens_in_slice)
        assert tokens_left <= tokens_read < tokens_left + max(1, one_group)


def test_batches_are_mixed_like_random_samples(monkeypatch):
    """Of 4096 slices with 8 tokens, in blocks of 4, through a buffer of an eighth of them."""
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", 4096 * 8)
    n_slices = 4096
    found = batches(n_slices, 8, block=4, batch_size=512, seed=3)
    slices = [batch[:, 0] for batch in found]
    # where in the cohort a batch's tokens come from: mean and spread of a uniform sample
    uniform = n_slices / 12**0.5
    means = torch.stack([rows.mean() for rows in slices])
    # 512 tokens of 128 blocks a group: the standard error is that of 128 draws, at most
    assert float((means - n_slices / 2).abs().max()) < 4.5 * uniform / 128**0.5
    assert 0.8 * uniform < float(torch.stack([rows.std() for rows in slices]).mean()) < 1.2 * uniform
    # time in the epoch does not tell the slice
    order = torch.cat(slices)
    time = torch.arange(len(order)).float()
    assert abs(float(torch.corrcoef(torch.stack([time, order]))[0, 1])) < 4 / (n_slices / 4) ** 0.5
    # neighbours in a batch are of one slice as often as chance has it: 7 others among 4095 tokens of the group
    together = float((order[1:] == order[:-1]).float().mean())
    assert together == pytest.approx(7 / 4095, rel=0.35)
    # within a slice, every place comes first equally often
    places = torch.cat([batch[:, 1] for batch in found])
    seen, first_places = set(), torch.zeros(8)
    for row, place in zip(order.tolist(), places.tolist(), strict=True):
        if row not in seen:
            seen.add(row)
            first_places[int(place)] += 1
    expected = n_slices / 8
    assert float(((first_places - expected) ** 2 / expected).sum()) < 24.3  # chi-square, 7 degrees, p = 0.001


def test_what_fits_and_how_long_blocks_are(monkeypatch):
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", 64 * 5 * 7 * 4 * 16)
    assert fits_in_buffer(64 * 16 * 7, 5)
    assert not fits_in_buffer(64 * 16 * 7 + 1, 5)
    assert [slices_in_block(n, 5) for n in (1, 14, 15, 64, 448, 449, 10_000)] == [32, 32, 29, 7, 1, 1, 1]
