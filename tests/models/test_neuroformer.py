"""Neuroformer: what a token sees, what is drawn from it, frames and behaviours; the original's numbers are goldens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from spiketok.models.batch import Generation, Tokens  # noqa: E402
from spiketok.models.neuroformer import Neuroformer, NeuroformerConfig  # noqa: E402
from spiketok.models.neuroformer_layers import CURRENT, EOS, HISTORY, Past, Stream, contrast, draw, steps_of  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from tests.models.test_models import (  # noqa: E402
    BIN_NS,
    EVENTS,
    N_BINS,
    TIMING,
    VELOCITY,
    A,
    build,
    config_of,
    make_batch,
)

WINDOWS = [(A, 40), (A, 40 + N_BINS), (A, 200)]


def model_of(heads=(EVENTS,), **settings) -> Neuroformer:
    torch.manual_seed(0)
    config = dataclasses.replace(config_of("neuroformer"), init_std=0.3, **settings)
    model = Neuroformer(config, heads, TIMING)
    model.add_sessions([A.info])
    return model.eval()


def batch_of(model: Neuroformer, windows=WINDOWS):
    """Windows of the toy session, with behaviours made by hand where the model reads them."""
    sighted = model.inputs
    try:
        model.inputs = lambda *of: {key: own for key, own in sighted(*of).items() if key != "behaviour"}
        batch = make_batch(model, windows) if VELOCITY.task in model.heads else without_velocity(model, windows)
    finally:
        del model.inputs
    rng, n = np.random.default_rng(1), len(windows)
    if model.config.behaviours:
        names = len(model.config.behaviours)
        category = torch.from_numpy(rng.integers(0, 511, (n * N_BINS, names)).astype(np.int16))
        columns = {"behaviour": category, "behaviour_valid": torch.ones_like(category, dtype=torch.uint8)}
        batch.inputs["behaviour"] = Tokens(columns, torch.arange(n + 1) * N_BINS)
    return batch


def without_velocity(model: Neuroformer, windows):
    batch = make_batch(model, windows)
    del batch.asked[VELOCITY.task]
    return batch


def told(model: Neuroformer, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)[EVENTS.task]


FRAMES = {"frames": True, "frame_size": (8, 8), "frame_kernel": (2, 4, 4), "frame_stride": (2, 4, 4), "frame_layers": 1}


def test_an_event_is_told_from_those_before_it_alone():
    model = model_of()
    batch = batch_of(model, [(A, 40)])
    expected = told(model, batch)
    columns = batch.inputs["spikes"].columns
    place = torch.arange(len(columns["unit"]))
    current = place[(columns["stream"] == CURRENT) & (columns["type"] == 0)]
    middle = int(current[len(current) // 2])
    columns["unit"] = torch.where(place >= middle, columns["unit"] % 6 + 1, columns["unit"]).int()
    found = told(model, batch)
    k = middle - int(current[0]) + 1  # behind SOS
    torch.testing.assert_close(found[:k], expected[:k])
    assert (found[k] - expected[k]).abs().max() > 1e-4
    first = place[(columns["stream"] == HISTORY) & (columns["type"] == 0)][0]
    columns["unit"][first] = int(columns["unit"][first]) % 6 + 1
    assert (told(model, batch)[0] - expected[0]).abs().max() > 1e-5  # the history reaches the first of all


def test_frames_and_the_values_of_behaviours_reach_the_model():
    """With the reference's LayerNorm over one number, the value does not."""
    for quirks, reaches in ((False, True), (True, False)):
        model = model_of(behaviours=("speed",), **FRAMES, reference_quirks=quirks)
        batch = batch_of(model)
        expected = told(model, batch)
        batch.inputs["behaviour"].columns["behaviour"] += 100
        assert bool((told(model, batch) - expected).abs().max() > 1e-5) == reaches
        batch.inputs["frames"].columns["pixels"][-1] += 90  # of the last window
        changed = (told(model, batch) - expected).abs().amax(1) > 1e-5
        assert changed[int(batch.asked["events"].offset[2]) :].all()
        assert reaches or not changed[: int(batch.asked["events"].offset[2])].any()


def test_behaviour_that_was_not_measured_is_not_read():
    model = model_of(behaviours=("speed",))
    batch = batch_of(model)
    columns = batch.inputs["behaviour"].columns
    columns["behaviour_valid"][5:9] = 0
    columns["behaviour_valid"][N_BINS : 2 * N_BINS] = 0  # a whole window
    expected = told(model, batch)
    columns["behaviour"][5:9] = -1
    columns["behaviour"][N_BINS : 2 * N_BINS] = 300
    assert torch.equal(told(model, batch), expected) and expected.isfinite().all()


def test_generation_is_of_its_seed_and_in_order():
    model = model_of()
    batch = batch_of(model)
    first, carry = model.generate(batch, Generation(seed=3))
    again, _ = model.generate(batch, Generation(seed=3))
    other, _ = model.generate(batch, Generation(seed=4))
    assert first.shape == (3 * N_BINS, 6) and first.dtype == torch.uint8 and model.generated_bin_ns() == BIN_NS
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.sum() > 0 and isinstance(carry, Past)


def test_generation_reads_no_spike_of_its_own_time_and_feeds_back_what_it_drew():
    model = model_of()
    batch = batch_of(model, WINDOWS[:2])
    expected, _ = model.generate(batch, Generation(seed=3))
    columns = batch.inputs["spikes"].columns
    columns["unit"][columns["stream"] == CURRENT] = 1
    second = int(batch.inputs["spikes"].offset[1])
    columns["unit"][second:] = 1  # also the second window's history: it was drawn
    assert torch.equal(model.generate(batch, Generation(seed=3))[0], expected)
    one, carry = model.generate(batch_of(model, WINDOWS[:1]), Generation(seed=3))
    two, _ = model.generate(batch_of(model, WINDOWS[1:2]), Generation(seed=3), carry)
    assert torch.equal(torch.cat([one, two]), expected)
    back = model.history_steps
    kept = [(u, t - N_BINS) for t in range(N_BINS - back, N_BINS) for u in range(6) for _ in range(one[t, u])]
    assert sorted(zip(carry.unit, carry.step, strict=True)) == sorted(kept)


def test_what_is_drawn_is_a_sentence():
    model = model_of()
    context = model.context(batch_of(model, [(A, 40)]))
    for seed in range(4):
        spikes = model.draw_sentence(A.info.id, context, Generation(), torch.Generator().manual_seed(seed))
        order = [(step, unit) for unit, step in spikes]
        assert order == sorted(order) and all(0 <= u < 6 and 0 <= s < N_BINS for u, s in spikes)


def test_draws_follow_temperature_top_k_and_top_p():
    logits, random = torch.tensor([2.0, 0.0, 1.0, -3.0]), torch.Generator().manual_seed(0)

    def share(how: Generation) -> np.ndarray:
        return np.bincount([draw(logits, how, random) for _ in range(2000)], minlength=4) / 2000

    np.testing.assert_allclose(share(Generation()), logits.softmax(0).numpy(), atol=0.05)
    np.testing.assert_allclose(share(Generation(temperature=2.0)), (logits / 2).softmax(0).numpy(), atol=0.05)
    two = logits[[0, 2]].softmax(0).numpy()
    np.testing.assert_allclose(share(Generation(top_k=2)), [two[0], 0, two[1], 0], atol=0.05)
    np.testing.assert_allclose(share(Generation(top_p=0.8)), [two[0], 0, two[1], 0], atol=0.05)
    assert share(Generation(temperature=0))[0] == share(Generation(top_p=0.1))[0] == 1


def test_history_attention_is_a_share_of_the_history():
    model = model_of()
    current, history, paid = model.history_attention(batch_of(model))
    torch.testing.assert_close(paid.sum(-1)[current.valid], torch.ones(int(current.valid.sum())))
    assert (paid * ~history.valid[:, None]).abs().max() == 0
    assert paid.shape == (*current.unit.shape, history.unit.shape[1])


def test_coupling_by_attention_is_a_mean_over_pairs_of_spikes():
    model = model_of()
    batch, total, met = batch_of(model), np.zeros((6, 6)), np.zeros((6, 6))
    with torch.no_grad():
        current, history, paid = model.history_attention(batch)
    for b in range(3):
        for k in range(current.unit.shape[1]):
            for j in range(history.unit.shape[1]):
                if current.unit[b, k] > 0 and history.unit[b, j] > 0:
                    place = int(current.unit[b, k]) - 1, int(history.unit[b, j]) - 1
                    total[place] += float(paid[b, k, j])
                    met[place] += 1
    with np.errstate(invalid="ignore"):
        wanted = np.log(total / met * (total.sum() / met.sum()))
        wanted -= np.log((total.sum(1) / met.sum(1))[:, None] * (total.sum(0) / met.sum(0)))
    np.testing.assert_allclose(model.coupling([batch], "attention").numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_coupling_by_removal_is_what_a_change_of_the_removed_unit_cannot_change():
    """With the spikes of unit j unseen, whose spikes they were makes no difference to what others are told."""
    model = model_of()
    batch, j = batch_of(model), 2
    current, context = Stream.of(batch.inputs["spikes"], CURRENT), model.context(batch)
    row = torch.tensor(j + 1)
    behind = (current.unit == row).cumsum(1).bool() | (context.history.unit == row).any(1, keepdim=True)
    counted = current.asks & behind & (current.unit != row)
    assert counted.sum() > 10

    def told(unseen, moved: bool):
        with torch.no_grad():
            if moved:
                model.units.weight[j] += 1.0
            try:
                history = dataclasses.replace(context, history_BKD=model.context(batch).history_BKD)
                x, _ = model.encode(current, history, unseen)
            finally:
                if moved:
                    model.units.weight[j] -= 1.0
            return model.logits(A.info.id, x)[0].softmax(-1)[..., :6][counted].double()

    torch.testing.assert_close(told(row, True), told(row, False), rtol=1e-5, atol=1e-6)
    assert (told(None, True) - told(None, False)).abs().max() > 1e-3
    wanted = (told(None, False).sum(0) / told(row, False).sum(0)).log()
    torch.testing.assert_close(model.coupling([batch], "removal")[:, j], wanted, rtol=1e-4, atol=1e-5)


def test_special_tokens_meet_no_unit():
    """However high the rows of another session lie: tokens are told apart by their type."""
    model = build("neuroformer")
    stream = Stream.of(make_batch(model, [(A, 40)]).inputs["spikes"], CURRENT)
    moved = dataclasses.replace(stream, unit=torch.where(stream.type == EOS, 9, stream.unit))
    assert torch.equal(model._embed(stream, CURRENT), model._embed(moved, CURRENT))


def test_contrast_is_one_directional_info_nce():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=rng), torch.randn(5, 3, generator=rng)
    s = torch.stack([torch.cosine_similarity(row[None], b) for row in a]) / 0.5
    expected = (s.logsumexp(1) - s.diagonal()).mean()
    torch.testing.assert_close(contrast([a, b], 0.5), expected)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"dim": 30}, "multiple of twice model.heads"),
        ({"contrastive": True}, "model.contrast is id, frames"),
        ({"frame_size": (0, 8)}, "model.frame_size"),
        ({"max_current": 2}, "model.max_current"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, match):
    with pytest.raises(UsageError, match=match):
        NeuroformerConfig(**settings)


def test_a_behaviour_is_read_or_asked():
    with pytest.raises(UsageError, match="the run asks decode:hand_vel and model.behaviours reads it"):
        model_of((VELOCITY,), behaviours=("hand_vel",))


@pytest.mark.parametrize("size", ["v1al", "visnav"])
def test_published_sizes_read_frames_and_take_their_time(size):
    config = load_config("neuroformer", sets=[f"size={size}"])
    model, optim = config.model_config(), config.optim
    assert model.frames
    assert model.contrastive == (size == "visnav")
    wanted = Neuroformer.inputs(model, ["events"], config.timing)["frames"]
    assert wanted.fields["history_ms"] + config.data.window_ms == model.frame_ms
    tokens_a_step = 100 * config.data.batch_size  # a sentence of 100, PADs among them
    assert optim.warmup_steps * tokens_a_step == 8e7


def test_units_and_steps_that_are_drawn_have_the_distributions_of_their_heads():
    """Over all units; those below the last one have no spike in its step."""
    random = np.random.default_rng(0)
    unit_logits, step_logits = torch.tensor(random.normal(size=7)), torch.tensor(random.normal(size=5))
    drawn = [(0, 1), (3, 2)]
    step_logits[2] = -1.0
    unit, share = unit_logits.softmax(0), step_logits[2:].softmax(0)
    given = torch.stack([steps_of(u, unit_logits, step_logits, drawn).softmax(0) for u in range(7)])
    torch.testing.assert_close((unit[:, None] * given).sum(0)[2:], share)
    assert (given[:, :2] == 0).all()
    assert (given[:3, 2] == 0).all()
    torch.testing.assert_close(given[3, 2], share[0] / unit[3:].sum())
    assert steps_of(2, unit_logits, step_logits, []) is step_logits
    assert steps_of(5, unit_logits, step_logits, [(3, 4)]).softmax(0).tolist() == [0, 0, 0, 0, 1]
    step_logits[2] = 9.0  # more than the units from 3 on have together
    assert steps_of(5, unit_logits, step_logits, drawn).softmax(0)[2] == 1
