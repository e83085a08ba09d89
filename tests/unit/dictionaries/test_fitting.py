import math
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed

import seglens.runtime.progress
from seglens.dictionaries import calibration, fitting
from seglens.dictionaries.batch_topk import batch_topk
from seglens.dictionaries.calibration import calibrate
from seglens.dictionaries.fit_settings import DictionarySize
from seglens.dictionaries.fitting import FitPlan, FitSettings, fit_dictionaries, fit_dictionary
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.dictionaries.token_source import TokenSource

SMALL = FitSettings(k=4, expansion=4, steps=30, batch_size=128, dead_after=0.1)


class FakeStore:
    hookpoint = "stage2"
    segmenter_hash = "segmenter"

    def __init__(self, raw, name="store"):
        self.raw = raw
        self.hash = name
        self.d_in = raw.shape[1]
        self.n_tokens = len(raw)
        self.centre = raw.mean(0)
        energy = float((raw - self.centre).square().sum(1).mean())
        self.scale = math.sqrt(self.d_in / energy) if energy > 0 else 1.0

    def tokens(self, rows):
        return self.raw[rows]

    def random_batches(self, batch_size, generator, first=0):
        for rows in torch.randperm(self.n_tokens, generator=generator).split(batch_size)[first:]:
            yield self.raw[rows]


def mixture(n, d_in=16, n_factors=40, seed=0):
    """Tokens made of a few of 40 directions each, with a mean and a scale of their own."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_factors, d_in, generator=torch.Generator().manual_seed(99))
    directions /= directions.norm(dim=1, keepdim=True)
    active = torch.rand(n, n_factors, generator=generator) < 0.06
    strengths = active * (0.5 + torch.rand(n, n_factors, generator=generator))
    return 3 * (strengths @ directions + 0.02 * torch.randn(n, d_in, generator=generator)) + 5


def dense_training(store, settings, seed):
    """The same fit by dense arrays and autograd."""
    first = SparseAutoencoder(store.d_in, settings.expansion * store.d_in, k=settings.k, seed=seed)
    encoder, b_enc, decoder, b_dec = parameters = [
        tensor.detach().clone().requires_grad_()
        for tensor in (first.W_enc.T.contiguous(), first.b_enc, first.W_dec, first.b_dec)
    ]
    optimiser = torch.optim.Adam(parameters)
    unseen = torch.zeros(len(encoder))
    step, epoch, n_auxiliary = 0, 0, 0
    while step < settings.steps:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        for tokens in store.random_batches(settings.batch_size, generator):
            if step == settings.steps:
                break
            x = (tokens - store.centre) * store.scale
            if step == 0:
                trial = batch_topk(x @ encoder.detach().T, settings.k).to_dense() @ decoder.detach()
                encoder.data *= min(1.0, fitting.OVERSHOOT * float((trial * x).sum() / trial.square().sum()))
            pre = (x - b_dec) @ encoder.T + b_enc
            active = batch_topk(pre.detach(), settings.k).to_dense() > 0
            error = (pre * active) @ decoder + b_dec - x
            loss = error.square().mean()
            dead = unseen >= settings.dead_tokens(store.n_tokens)
            if bool(dead.any()):
                n_auxiliary += 1
                own = pre[:, dead].relu()
                places = own.topk(min(store.d_in // 2, own.shape[1]), dim=1).indices
                z = own * torch.zeros_like(own).scatter(1, places, 1.0)
                rest = -error.detach()
                loss = loss + (rest - z @ decoder[dead]).square().sum() / rest.square().sum() / 32
            optimiser.zero_grad()
            loss.backward()
            rows = decoder.detach()
            decoder.grad -= (decoder.grad * rows).sum(1, keepdim=True) * rows
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip / store.d_in)
            optimiser.param_groups[0]["lr"] = settings.rate_at(step, len(encoder))
            optimiser.step()
            decoder.data /= decoder.data.norm(dim=1, keepdim=True)
            unseen += len(x)
            unseen[active.any(0)] = 0
            step += 1
        epoch += 1
    return [parameter.detach() for parameter in parameters], n_auxiliary


def largest_difference(one, other):
    """Over all parameters; theta included."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_the_fake_is_a_token_source():
    assert isinstance(FakeStore(torch.ones(2, 3)), TokenSource)


@pytest.mark.parametrize(("steps", "tolerance"), [(30, 1e-6), (200, 1e-5)])
def test_training_equals_dense_training(steps, tolerance):
    store, settings = FakeStore(mixture(500)), replace(SMALL, steps=steps)
    # (at a rate of 8e-3 seed 3 once meets a gap of 1e-7 at the threshold: rounding then decides which pair is kept)
    fitted = fit_dictionary(store, settings=settings, seed=4)
    (encoder, b_enc, decoder, b_dec), n_auxiliary = dense_training(store, settings, 4)
    assert n_auxiliary > 5, "the auxiliary loss was never on: the comparison would say nothing about it"
    for mine, dense in [
        (fitted.W_enc, encoder.T),
        (fitted.b_enc, b_enc),
        (fitted.W_dec, decoder),
        (fitted.b_dec, b_dec),
    ]:
        torch.testing.assert_close(mine.data, dense, rtol=0, atol=tolerance)


def test_dictionaries_of_one_pass_equal_separate_fits(tmp_path):
    passes = []

    class Counted(FakeStore):
        def random_batches(self, batch_size, generator, first=0):
            passes.append(batch_size)
            yield from super().random_batches(batch_size, generator, first)

    store, other = Counted(mixture(500)), Counted(mixture(300, d_in=8, seed=1), "other")
    plans = [
        FitPlan(store, SMALL, seed=1, order_seed=0),
        FitPlan(store, replace(SMALL, k=2, expansion=6), seed=0),
        FitPlan(store, replace(SMALL, steps=10), seed=2, order_seed=0, checkpoint=tmp_path),
        FitPlan(store, SMALL, seed=1),
        FitPlan(other, SMALL, seed=3),
    ]
    together = fit_dictionaries(plans)
    # 30 steps of 4 batches are 8 epochs; 3 orders of 2 stores
    assert len(passes) <= 8 + 8 + 30 // 3 + 1
    for plan, fitted in zip(plans, together, strict=True):
        alone = fit_dictionary(plan.store, settings=plan.settings, seed=plan.seed, order_seed=plan.order_seed)
        assert largest_difference(fitted, alone) == 0
        assert fitted.hash == alone.hash
    again = fit_dictionaries(plans[:3])  # the third is finished: its checkpoint is where the others never are
    assert [fitted.hash for fitted in again] == [fitted.hash for fitted in together[:3]]


def test_a_fit_explains_held_out_tokens_at_the_l0_asked_for():
    store = FakeStore(mixture(6000))
    settings = FitSettings(k=6, expansion=8, steps=300, batch_size=512)
    fitted = fit_dictionary(store, settings=settings)
    held_out = mixture(3000, seed=1)
    codes = fitted.encode(held_out)
    left = (fitted.decode(codes) - held_out).square().sum() / (held_out - held_out.mean(0)).square().sum()
    assert 1 - float(left) > 0.9
    assert abs(codes.l0 - 6) < 0.6
    torch.testing.assert_close(fitted.W_dec.norm(dim=1), torch.ones(128))
    assert (fitted.k, fitted.hookpoint, fitted.segmenter_hash, fitted.store_hash) == (6, "stage2", "segmenter", "store")
    assert float(fitted.scale) == pytest.approx(store.scale)
    torch.testing.assert_close(fitted.centre, store.centre)


def test_the_auxiliary_loss_acts_in_a_short_fit_over_a_large_store():
    store = FakeStore(mixture(20_000))
    settings = replace(SMALL, steps=24, dead_after=0.25)
    assert settings.dead_after * store.n_tokens > settings.steps * settings.batch_size  # no latent could ever be dead
    assert settings.dead_tokens(store.n_tokens) == 24 * 128 // 4
    start = SparseAutoencoder(16, 64, k=4)
    start.b_enc[:20] = -4.0  # out of reach of the codes, and at a few tokens not of the auxiliary loss
    told = []
    with_loss, without = (
        fit_dictionaries(
            [FitPlan(store, replace(settings, auxiliary_coefficient=weight), start=start)],
            progress=lambda done, total, **figures: told.append(figures["dead"]),
        )[0]
        for weight in (1 / 32, 0.0)
    )
    silent = with_loss.encode(mixture(768, seed=5)).firing_counts() == 0
    assert told[23] == pytest.approx(float(silent.float().mean()), abs=0.03)  # what new tokens show
    assert told[23] > 0.25
    moved, unmoved = ((fit.W_dec - start.W_dec).norm(dim=1)[silent] for fit in (with_loss, without))
    assert int((moved > unmoved + 1e-4).sum()) > 5


@pytest.mark.parametrize(
    ("n_tokens", "steps", "tokens"), [(500, 30, 125), (10**6, 30, 960), (10**9, 10**6, 10**7), (3, 30, 1)]
)
def test_dead_is_counted_over_a_bounded_number_of_tokens(n_tokens, steps, tokens):
    assert FitSettings(steps=steps, batch_size=128).dead_tokens(n_tokens) == tokens


def test_seeds_decide_weights_and_order_apart():
    store = FakeStore(mixture(400))
    base = fit_dictionary(store, settings=SMALL, seed=1)
    assert fit_dictionary(store, settings=SMALL, seed=1).hash == base.hash
    assert fit_dictionary(store, settings=SMALL, seed=1, order_seed=1).hash == base.hash
    other_order = fit_dictionary(store, settings=SMALL, seed=1, order_seed=2)
    other_weights = fit_dictionary(store, settings=SMALL, seed=2, order_seed=1)
    near = torch.nn.functional.cosine_similarity(base.W_dec, other_order.W_dec, dim=1).median()
    far = torch.nn.functional.cosine_similarity(base.W_dec, other_weights.W_dec, dim=1).median()
    assert base.hash != other_order.hash
    assert float(near) > 0.9 > float(far)


def test_arguments_go_before_settings():
    store = FakeStore(mixture(200))
    fitted = fit_dictionary(store, k=2, expansion=3, settings=replace(SMALL, steps=2))
    assert (fitted.k, fitted.n_latents) == (2, 48)


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 7, 10, 23])
def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path, stop_at):
    store = FakeStore(mixture(400))
    settings = replace(SMALL, checkpoint_every=5)
    undisturbed = fit_dictionary(store, settings=settings)

    def stop(done, total, **figures):
        if done == stop_at:
            raise StopError

    with pytest.raises(StopError):
        fit_dictionary(store, settings=settings, checkpoint=tmp_path, progress=stop)
    seen = []
    again = fit_dictionary(
        store, settings=settings, checkpoint=tmp_path, progress=lambda done, total, **figures: seen.append(done)
    )
    assert again.hash == undisturbed.hash
    assert seen[0] == stop_at // 5 * 5 + 1
    finished = fit_dictionary(store, settings=settings, checkpoint=tmp_path, progress=stop)
    assert finished.hash == undisturbed.hash


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    store = FakeStore(mixture(400))
    settings = replace(SMALL, steps=2)
    fit_dictionary(store, settings=settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"settings\.k was 4, is 5"):
        fit_dictionary(store, k=5, settings=settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match='store was "store", is "other"'):
        fit_dictionary(FakeStore(mixture(400), "other"), settings=settings, checkpoint=tmp_path)


def test_nan_stops_with_the_last_good_state(tmp_path):
    store = FakeStore(mixture(400))
    broken = FakeStore(mixture(400))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    broken.raw[order[300]] = math.nan  # in the third batch of 128
    settings = replace(SMALL, steps=4)
    with pytest.raises(FloatingPointError, match=r"step 3 of 4.*after step 2, it is kept in .*fit\.safetensors"):
        fit_dictionary(broken, settings=settings, checkpoint=tmp_path)
    # with the token mended the fit goes on as if nothing had been
    assert (
        fit_dictionary(store, settings=settings, checkpoint=tmp_path).hash
        == fit_dictionary(store, settings=settings).hash
    )
    with pytest.raises(FloatingPointError, match="give a checkpoint folder"):
        fit_dictionary(broken, settings=settings)


def test_a_store_of_equal_tokens_gives_no_nan():
    fitted = fit_dictionary(FakeStore(torch.full((300, 16), 2.0)), settings=replace(SMALL, steps=5))
    assert all(bool(tensor.isfinite().all()) for tensor in fitted.state_dict().values())
    assert bool(fitted.decode(fitted.encode(torch.full((3, 16), 2.0))).isfinite().all())


def test_theta_gives_k_on_the_sample_whatever_the_chunks(monkeypatch):
    store = FakeStore(mixture(1000))
    dictionary = SparseAutoencoder(16, 64, k=5)
    dictionary.centre.copy_(store.centre)
    dictionary.scale.fill_(store.scale)
    calibrate(dictionary, store)
    whole = float(dictionary.theta)
    assert dictionary.encode(store.raw).l0 == pytest.approx(5, abs=0.005)
    monkeypatch.setattr(calibration, "CHUNK_ELEMENTS", 64 * 90)
    calibrate(dictionary, store)
    assert float(dictionary.theta) == pytest.approx(whole, rel=1e-6)
    calibrate(dictionary, store, n_tokens=100)
    assert dictionary.encode(store.raw).l0 == pytest.approx(5, rel=0.15)


def test_theta_is_zero_where_too_few_are_positive():
    store = FakeStore(mixture(100))
    dictionary = SparseAutoencoder(16, 64, k=64)
    dictionary.theta.fill_(3.0)
    calibrate(dictionary, store)
    assert float(dictionary.theta) == 0


def test_the_rate_rises_stays_and_falls():
    settings = FitSettings(steps=100, learning_rate=1.0, warmup=0.1, decay=0.2)
    rates = [settings.rate_at(step, 64) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    long_run = FitSettings(steps=100_000)
    assert long_run.rate_at(50_000, 2**14) == pytest.approx(2e-4)
    assert FitSettings(steps=400).rate_at(200, 1024) == pytest.approx(2e-3)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(ValueError, match=r"k is 0.*steps is 0.*learning_rate is -1\.0"):
        FitSettings(k=0, steps=0, learning_rate=-1.0)
    with pytest.raises(ValueError, match="k is 0"):
        fit_dictionary(FakeStore(mixture(10)), k=0)
    with pytest.raises(ValueError, match="k is 9; it must be at most 8, half of the activation's 16 channels"):
        fit_dictionary(FakeStore(mixture(10)), k=9, expansion=4)


@pytest.mark.parametrize(
    ("d_in", "n_tokens", "k", "expansion"),
    [(320, 10**7, 32, 16), (64, 92_160, 6, 16), (64, 65_535, 6, 8), (64, 100, 6, 2), (16, 10**6, 4, 16), (8, 1, 4, 2)],
)
def test_auto_fits_k_to_the_width_and_the_width_of_the_code_to_the_tokens(d_in, n_tokens, k, expansion):
    assert FitSettings().size(d_in, n_tokens) == DictionarySize(k, expansion * d_in)
    assert FitSettings(k=3, expansion=5).size(d_in, n_tokens) == DictionarySize(3, 5 * d_in)


def test_auto_is_what_a_fit_takes_by_default():
    fitted = fit_dictionary(FakeStore(mixture(3000)), settings=FitSettings(steps=2, batch_size=128))
    assert (fitted.k, fitted.n_latents) == (4, 2 * 16)


def test_stores_that_cannot_be_fitted_are_refused():
    empty = FakeStore(torch.ones(3, 4))
    empty.n_tokens = 0
    with pytest.raises(ValueError, match="no tokens"):
        fit_dictionary(empty)
    infinite = FakeStore(torch.ones(3, 4))
    infinite.scale = math.inf
    with pytest.raises(ValueError, match="must vary and be finite"):
        fit_dictionary(infinite)


def fit_as_rank(rank, meeting_point):
    """One of two processes; batches of 127 so that their shares differ."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        return fit_dictionary(FakeStore(mixture(500)), settings=replace(SMALL, batch_size=127), progress=no_progress)
    finally:
        distributed.destroy_process_group()


no_progress = seglens.runtime.progress.silent


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    one = fit_dictionary(FakeStore(mixture(500)), settings=replace(SMALL, batch_size=127))
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['fit_as_rank'](1, sys.argv[2])"
    source = str(Path(calibration.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen([sys.executable, "-c", code, __file__, str(tmp_path / "meet")], env=environment)
    try:
        two = fit_as_rank(0, tmp_path / "meet")
        assert other.wait(30) == 0
    finally:
        other.kill()
    assert largest_difference(one, two) < 1e-5


def test_a_fit_begins_with_the_weights_given(tmp_path):
    store = FakeStore(mixture(1000))
    start = SparseAutoencoder(16, 64, k=4, seed=7)
    start.b_enc.fill_(0.01)
    slow = replace(SMALL, steps=1, learning_rate=1e-9)
    fitted = fit_dictionaries([FitPlan(store, slow, start=start, checkpoint=tmp_path)])[0]
    torch.testing.assert_close(fitted.W_dec, start.W_dec)
    torch.testing.assert_close(fitted.b_enc, start.b_enc)
    assert not torch.equal(fitted.W_dec, SparseAutoencoder(16, 64, k=4).W_dec)
    with pytest.raises(ValueError, match="checkpoint of another fit: start was"):
        fit_dictionaries([FitPlan(store, slow, checkpoint=tmp_path)])
    with pytest.raises(ValueError, match=r"the start is \(16, 32\) \(d_in, m\); this store and expansion need"):
        fit_dictionaries([FitPlan(store, slow, start=SparseAutoencoder(16, 32, k=4))])
