"""What NDT2 promises beside the contract: what it does not see, what reaches which bin, and whose its tokens are."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.base import Part  # noqa: E402
from spiketok.models.batch import Batch, Input, Stretch, Timing  # noqa: E402
from spiketok.models.ndt2 import Ndt2, Ndt2Config  # noqa: E402
from tests.models.test_models import (  # noqa: E402
    BIN_NS,
    HALF,
    N_BINS,
    POPULATION,
    TASK,
    TIMING,
    VELOCITY,
    A,
    B,
    C,
    counts_of,
    make_batch,
    put_together,
    window_tokens,
)

SMALL = {"dim": 16, "heads": 2, "patch_size": 4, "max_bins": 40, "layers": 2, "decoder_layers": 1, "dropout": 0.0}
READ_OUTS = {
    "linear": {"read_out": "linear"},
    "in_context": {"read_out": "in_context"},
    "in_context, all tokens": {"read_out": "in_context", "pool": False},
    "cross_attention": {"read_out": "cross_attention"},
    "cross_attention, all tokens": {"read_out": "cross_attention", "pool": False},
}
EACH_READ_OUT = pytest.mark.parametrize("read_out", READ_OUTS)
BOTH = (POPULATION, VELOCITY)
HIDDEN = "counts"


def ndt2(sessions=(A,), heads=BOTH, seed: int = 0, **changes) -> Ndt2:
    torch.manual_seed(seed)
    model = Ndt2(Ndt2Config(**(SMALL | changes)), heads, TIMING)
    model.add_sessions([session.info for session in sessions])
    return model.eval()


def batch_of(model: Ndt2, n_windows: int = 2) -> Batch:
    return make_batch(model, [(A, 40 * k + 3) for k in range(n_windows)])


def run(model: Ndt2, batch: Batch, seed: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(batch)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], but: str = "") -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(9), b[k].nan_to_num(9)) for k in a if k != but)


def grad_of(part: Part) -> torch.Tensor:
    """The gradient of a part of the model; zeros where none came."""
    grad = part.parameter.grad
    return torch.zeros_like(part.value) if grad is None else grad.to_dense()[part.rows]


def with_patches(batch: Batch, where: torch.Tensor, value: int) -> Batch:
    """The same batch with another count in some slots; what is asked stays."""
    changed = batch.clone()
    patch = changed.inputs["patches"].columns["patch"]
    patch[where.expand_as(patch)] = value
    return changed


def slots(batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """bool ``[L, K]``: the slots of counts that are True in ``[B * T, N]``."""
    columns, length = batch.inputs["patches"].packed()
    window = torch.repeat_interleave(torch.arange(len(length)), torch.tensor(length))
    unit = columns["unit"].long()
    return hidden[(window * N_BINS + columns["time"])[:, None], unit.clamp_min(0)] & (unit >= 0)


def held_out(batch: Batch, units: int = 2, forward: int = 3) -> torch.Tensor:
    """bool ``[B * T, N]``: the last units, and the last bins of each window."""
    hidden = torch.zeros(batch.asked["population"].target.shape, dtype=torch.bool)
    hidden[:, -units:] = True
    hidden.unflatten(0, (len(batch), N_BINS))[:, N_BINS - forward :] = True
    return hidden


# ---- what it reads and how large it is ------------------------------------------------------------------------------


def test_it_reads_patches_of_its_own_size():
    config = Ndt2Config(**(SMALL | {"group_by": "array", "max_count": 9}))
    fields = {"bin_ns": BIN_NS, "patch_size": 4, "max_count": 9, "group_by": "array"}
    assert Ndt2.inputs(config, ["decode"], TIMING) == {"patches": Input("patch", fields)}


def test_published_widths():
    """By hand: of a layer 4 D^2 of attention and 2 D^2 of its feed-forward layer, and 9 D of biases and norms."""
    for size in ("f32", "falcon", "falcon-512", "falcon-1024"):
        config = Ndt2Config(**Ndt2.sizes[size])
        model = Ndt2(config, [POPULATION], TIMING)
        d = config.dim
        layers = 8 * (6 * d * d + 4 * d + 2 * d + 4 * d)  # six of the encoder, two of the decoder
        tables = 2 * (config.max_bins + config.max_patches) * d + 21 * d // 32
        flags = d * (1 + config.subject_token)
        expected = layers + tables + flags + d + 32 * d + 32
        assert (model.n_fitted(), config.dim) == (expected, {"f32": 256, "falcon": 256}.get(size, d))


# ---- what is hidden -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@EACH_READ_OUT
def test_hidden_counts_reach_no_output(read_out, training):
    model = ndt2(**READ_OUTS[read_out]).train(training)
    batch = batch_of(model)
    batch.hidden[HIDDEN] = hidden = held_out(batch)
    expected, where = run(model, batch), slots(batch, hidden)
    for value in (0, 1, 5, 250):
        assert same(run(model, with_patches(batch, where, value)), expected)
    assert not same(run(model, with_patches(batch, ~where, 1)), expected)
    assert torch.equal(expected["scored"] & where, where)  # always scored
    assert (expected["scored"] == where).all() or training


def test_hidden_counts_are_no_silence():
    model, batch = ndt2(), batch_of(ndt2())
    silent = with_patches(batch, torch.ones(1, 1, dtype=torch.bool), 0)
    silent.hidden[HIDDEN] = held_out(batch, units=1, forward=0)
    shown = dataclasses.replace(silent, hidden={})
    assert not torch.allclose(run(model, silent)[TASK], run(model, shown)[TASK])


def test_in_training_one_choice_of_tokens_is_left_out_of_every_window():
    model = ndt2(mask_ratio=0.3).train()
    batch = batch_of(model, 3)
    output = run(model, batch)
    real = batch.inputs["patches"].columns["unit"] >= 0
    left_out = output["scored"].any(1).unflatten(0, (3, -1))
    assert torch.equal(left_out, left_out[:1].expand_as(left_out))
    assert left_out[0].sum() == 50 - int(0.7 * 50)
    assert torch.equal(output["scored"], left_out.flatten()[:, None] & real)
    for seen, changes in ((True, True), (False, False)):
        row = int((left_out.flatten() != seen).nonzero()[0])
        where = torch.zeros(150, 1, dtype=torch.bool)
        where[row] = True
        assert same(run(model, with_patches(batch, where, 7)), output) != changes
    assert same(run(model, batch), output) and not same(run(model, batch, seed=4), output)


def test_in_evaluation_no_rate_is_said_of_a_count_whose_token_was_seen():
    """Another count changes what is said of others, and nothing that is said of its own token."""
    model, batch = ndt2(causal=False), batch_of(ndt2(), 1)
    expected = run(model, batch)["population"]
    where = torch.zeros(50, 1, dtype=torch.bool)
    where[2 * 10 + 1] = True  # the second patch of bin 10: units 4 and 5
    changed = run(model, with_patches(batch, where, 7))["population"]
    assert torch.equal(changed[10, 4:], expected[10, 4:])
    others = torch.ones(expected.shape, dtype=torch.bool)
    others[10, 4:] = False
    assert (changed != expected)[others].float().mean() > 0.4


def test_what_is_scored_in_evaluation():
    model, batch = ndt2(), batch_of(ndt2())
    asked = batch.asked["population"]
    asked.weight[:10] = False
    output = run(model, batch)
    assert torch.equal(output["scored"], slots(batch, asked.weight))
    z, y = output["population"][10:], asked.target[10:].float()
    expected = (z.exp() - y * z).mean()
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)
    batch.hidden[HIDDEN] = hidden = held_out(batch)
    output = run(model, batch)
    assert torch.equal(output["scored"], slots(batch, hidden & asked.weight))
    chosen = hidden & asked.weight
    z, y = output["population"][chosen], asked.target[chosen].float()
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], (z.exp() - y * z).mean())


def test_the_loss_takes_counts_above_the_table():
    model = ndt2(max_count=3)
    batch = batch_of(model)
    batch.asked["population"].target = batch.asked["population"].target.float() + 100
    output = run(model, batch)
    assert output["count"][output["scored"]].min() >= 100


@EACH_READ_OUT
def test_what_was_not_observed_changes_nothing(read_out):
    model = ndt2(**READ_OUTS[read_out], causal=False)
    batch = batch_of(model)
    observed = batch.inputs["patches"].columns["observed"]
    observed[10:14] = 0  # two bins of the first window
    where = (observed == 0)[:, None]
    batch.asked["population"].weight[5:7] = False
    expected = run(model, batch)
    for value in (0, 5, 9):
        changed = run(model, with_patches(batch, where, value))
        assert same(changed, expected)
    assert expected[TASK].isfinite().all()
    # nor does a unit that was not recorded in some bins
    by_unit = torch.ones_like(batch.inputs["patches"].columns["patch"])
    by_unit[60:70, 1] = 0
    batch.inputs["patches"].columns["unit_observed"] = by_unit
    expected = run(model, batch)
    assert same(run(model, with_patches(batch, by_unit == 0, 9)), expected)


# ---- what reaches which bin -----------------------------------------------------------------------------------------


def reach(model: Ndt2, output: str, at: int = 10) -> list[int]:
    """Bins of a window of which something else is said when the counts of one bin are others."""
    batch = make_batch(model, [(A, 3)])
    where = (batch.inputs["patches"].columns["time"] == at)[:, None]
    a, b = run(model, batch)[output], run(model, with_patches(batch, where, 9))[output]
    return (a.nan_to_num(9) != b.nan_to_num(9)).any(1).nonzero().flatten().tolist()


@EACH_READ_OUT
def test_a_causal_model_says_nothing_of_a_bin_that_later_bins_change(read_out):
    model = ndt2(**READ_OUTS[read_out])
    assert model.causal
    assert reach(model, TASK) == list(range(10, N_BINS))
    assert set(reach(model, "population")) <= set(range(10, N_BINS))
    acausal = ndt2(**READ_OUTS[read_out], causal=False)
    assert not acausal.causal
    assert min(reach(acausal, TASK)) < 10 and min(reach(acausal, "population")) < 10


@pytest.mark.parametrize("causal", [True, False])
def test_lag(causal):
    model = ndt2(read_out="linear", lag_ms=40, causal=causal)
    assert model.partial
    plain = ndt2(read_out="linear", causal=causal)
    batch = make_batch(model, [(A, 3), (A, 60)])
    said, now = (run(m, batch)[TASK].unflatten(0, (2, N_BINS)) for m in (model, plain))
    assert said[:, :2].isnan().all()
    assert torch.equal(said[:, 2:], now[:, :-2])
    loss = model.loss(batch, run(model, batch), HALF)[TASK]
    target = batch.asked[TASK].target.unflatten(0, (2, N_BINS))
    torch.testing.assert_close(loss, (said[:, 2:] - target[:, 2:]).square().mean())
    for read_out in ("in_context", "cross_attention"):  # their queries stand at the bin of the behaviour
        assert reach(ndt2(read_out=read_out, lag_ms=40), TASK) == list(range(10, N_BINS))


def test_the_order_of_the_tokens_is_nothing():
    model, batch = ndt2(read_out="cross_attention", pool=False), batch_of(ndt2(), 1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    moved = batch.clone()
    moved.inputs["patches"].columns = {n: c[order] for n, c in batch.inputs["patches"].columns.items()}
    for output in (TASK, "population"):
        torch.testing.assert_close(run(model, moved)[output], run(model, batch)[output], rtol=1e-4, atol=1e-5)


@EACH_READ_OUT
def test_windows_of_sessions_with_other_units_stand_side_by_side(read_out):
    """What the loader does not do, the model can: B has a patch more, and not all bins of a window were observed."""
    model = ndt2((A, B), heads=(VELOCITY,), **READ_OUTS[read_out])
    windows = [(A, 3), (B, 5), (A, 60), (B, 50)]
    batch = make_batch(model, windows)
    batch.inputs["patches"].columns["observed"][:8] = 0
    together = run(model, batch)[TASK].split(N_BINS)
    for k, window in enumerate(windows):
        alone = make_batch(model, [window])
        if k == 0:
            alone.inputs["patches"].columns["observed"][:8] = 0
        torch.testing.assert_close(run(model, alone)[TASK], together[k], rtol=1e-4, atol=1e-5)


# ---- tokens of sessions, subjects and datasets ----------------------------------------------------------------------


def test_what_belongs_to_a_session_alone_is_its_identity():
    other = dataclasses.replace(C, info=dataclasses.replace(C.info, subject="n"))
    model = ndt2((A, B, other), subject_token=True, dataset_token=True, session_tokens=2)
    (own,) = model.identity_parameters([A.info.id])
    assert own.parameter is model.session_table.weight and own.value.shape == (2, 16)  # the rest of A is B's too
    assert [len(part.value) for part in model.identity_parameters([C.info.id])] == [2, 1]  # C's subject is its own
    assert len(model.identity_parameters()) == 4
    batch = make_batch(model, [(A, 3)])
    expected = run(model, batch)
    for part in model.identity_parameters([B.info.id, C.info.id]):
        part.value.add_(1)
    assert same(run(model, batch), expected)
    model.subject_table.block("toy/m").add_(1)
    assert not same(run(model, batch), expected)
    model.loss(batch, model(batch), HALF)["total"].backward()
    assert grad_of(own).any(1).all()
    without = ndt2((A,), session_tokens=0)
    run(without, make_batch(without, [(A, 3)]))
    assert "no parameters of a session's own" in without.why_not("identity_only", A.info.id)


def test_a_new_session_starts_at_the_mean_of_those_that_are_there():
    model = ndt2((A, B), session_tokens=2)
    first = [model.session_table.block(s.info.id).clone() for s in (A, B)]
    assert not torch.equal(*first)
    model.add_sessions([C.info])
    torch.testing.assert_close(model.session_table.block(C.info.id), sum(first) / 2)
    assert not torch.equal(*model.session_table.block(C.info.id))


def test_a_model_is_rebuilt_with_every_table():
    tokens = {"subject_token": True, "dataset_token": True, "session_tokens": 2}
    model, other = ndt2((A, B, C), **tokens), ndt2((B,), seed=1, **tokens)
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(model.state_dict())
    for session in (A, B, C):
        batch = make_batch(model, [(session, 3)])
        assert same(run(other, batch), run(model, batch))


def test_the_spikes_alone_teach_a_new_session():
    model = ndt2((A, B)).train()
    batch = make_batch(model, [(B, 3), (B, 60)])
    del batch.asked[TASK]
    terms = model.loss(batch, model(batch), HALF)
    assert set(terms) == {"population", "total"} and terms["total"] == terms["population"]
    terms["total"].backward()
    assert all(grad_of(part).any(1).all() for part in model.identity_parameters([B.info.id]))
    assert model.why_not("identity_unlabelled", B.info.id) == model.why_not("zero_shot", B.info.id) == ""
    alone = ndt2(heads=(VELOCITY,))
    assert "no population task" in alone.why_not("identity_unlabelled", A.info.id)


def test_behaviour_does_not_move_context_through_its_own_decoder():
    """It trains them through the encoder; what the decoder of behaviour gets of them is detached, as there."""
    model = ndt2(heads=(VELOCITY,), read_out="cross_attention", layers=0)
    batch = make_batch(model, [(A, 3)])
    model.loss(batch, model(batch), HALF)["total"].backward()
    assert not any(grad_of(part).any() for part in model.identity_parameters())
    assert model.count_table.weight.grad.any()


# ---- counts as they are embedded ------------------------------------------------------------------------------------


@pytest.mark.parametrize("embed", ["count_table", "project"])
def test_no_value_is_padding(embed):
    model, quirks = ndt2(embed=embed), ndt2(embed=embed, reference_quirks=True)
    patch, seen = torch.tensor([[0, 5, 1, 0]]), torch.tensor([[True, True, True, False]])
    x, theirs = (m._embed(patch, seen).unflatten(1, (4, 4))[0].detach() for m in (model, quirks))
    assert x[:3].any(1).all() and not x[3].any()
    assert torch.equal(theirs[3], theirs[0])
    assert theirs[1].any() == (embed == "project")
    assert torch.equal(theirs[[0, 2]], x[[0, 2]])
    quirks._embed(patch, seen).sum().backward()
    if embed == "count_table":
        assert quirks.count_table.weight.grad.any(1).nonzero().flatten().tolist() == [0, 1]


def test_a_pooled_bin_that_was_drawn_is_present_only_with_quirks():
    """Bin 5 of which nothing was observed; in the reference a padding token stands there."""
    said = []
    for quirks in (False, True):
        model = ndt2(heads=(VELOCITY,), reference_quirks=quirks)
        batch = make_batch(model, [(A, 3)])
        columns = batch.inputs["patches"].columns
        columns["observed"][columns["time"] == 5] = 0
        _, rows = model._pooled(*_drawn(model, batch))
        said.append(rows.time.tolist())
    assert said == [[t for t in range(N_BINS) if t != 5], list(range(N_BINS))]


def _drawn(model: Ndt2, batch: Batch):
    tokens = model._tokens(batch)
    kept = tokens.seen.any(1)
    counted = torch.ones_like(kept) if model.config.reference_quirks else kept
    return tokens, kept, counted, model._encode(tokens, kept)


# ---- classes for counts ---------------------------------------------------------------------------------------------


def test_counts_as_classes():
    model = ndt2(spike_loss="soft_ce", max_count=6)
    batch = batch_of(model)
    output = run(model, batch)
    share = output["slots"].softmax(-1)
    assert output["slots"].shape == (100, 4, 7)
    rate = torch.full(batch.asked["population"].target.shape, torch.nan)
    columns = batch.inputs["patches"].columns
    for row, (unit, time) in enumerate(zip(columns["unit"].tolist(), columns["time"].tolist(), strict=True)):
        for k, n in enumerate(unit):
            if n >= 0:
                rate[row // 50 * N_BINS + time, n] = (share[row, k] * torch.arange(7)).sum()
    torch.testing.assert_close(output["population"].exp(), rate)
    model.loss(batch, model.train()(batch), HALF)["total"].backward()
    assert model.read_rates.weight.grad.any()


def test_rates_start_from_the_mean_of_the_observed_training_time():
    counts = np.random.default_rng(3).poisson(0.3, (40, 6)).astype(np.uint8)
    observed = np.ones(40, np.uint8)
    observed[30:] = 0
    stretches = {A.info.id: [Stretch({"counts": {"counts": counts, "observed": observed}}, {}, {})]}
    model = ndt2(rate_init=True)
    model.fit(stretches)
    expected = np.log((counts[:30].sum() + 0.5) / (180 + 1))
    np.testing.assert_allclose(model.read_rates.bias.detach().numpy(), expected, rtol=1e-6)
    plain = ndt2()
    before = plain.read_rates.bias.detach().clone()
    plain.fit(stretches)
    assert torch.equal(plain.read_rates.bias, before)
    ndt2(heads=(VELOCITY,), rate_init=True).fit({})


def test_a_local_start_is_a_start():
    """Neighbouring bins are alike and keys are queries; nothing else, and nothing that stays so."""
    model, plain = ndt2(local_start=True, read_out="cross_attention"), ndt2(read_out="cross_attention")
    for stack in (model.encoder, model.infill, model.behaviour):
        table = stack.time.weight.detach()
        alike = torch.nn.functional.cosine_similarity(table[:-1], table[1:]).mean()
        assert alike > torch.nn.functional.cosine_similarity(table[:-10], table[10:]).mean() + 0.1
    for stack in (model.encoder, model.infill):
        for layer in stack.layers:
            query, key, value = layer.to_qkv.weight.chunk(3)
            assert torch.equal(query, key) and not torch.equal(query, value)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    batch = batch_of(model)
    model.train()
    model.loss(batch, model(batch), HALF)["total"].backward()
    query, key, _ = model.encoder.layers[0].to_qkv.weight.grad.chunk(3)
    assert not torch.equal(query, key)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 15}, "model.dim is 15, which model.patch_size 4 does not divide"),
        ({"heads": 3}, "model.dim is 16, which model.heads 3"),
        ({"mask_ratio": 1.0}, r"model.mask_ratio is 1\.0, must be in"),
        ({"session_tokens": -1}, "model.session_tokens is -1, must be at least 0"),
        ({"read_out": "linear", "pool": False}, "a linear read-out needs one vector a bin"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        Ndt2Config(**(SMALL | changes))


def test_what_finds_no_row_is_refused():
    with pytest.raises(DataError, match=r"toy/b has 3 patches of 4 units and model\.max_patches is 2: raise it"):
        ndt2((A, B), max_patches=2)
    arrays = dataclasses.replace(A.info, unit_columns={"group": np.array(["a", "a", "b", "b", "c", "c"])})
    with pytest.raises(DataError, match="has 3 patches of 4"):
        ndt2((dataclasses.replace(A, info=arrays),), max_patches=2)
    short = ndt2(max_bins=N_BINS - 1)
    with pytest.raises(DataError, match="a window has 25 bins .* and model.max_bins is 24"):
        run(short, make_batch(short, [(A, 3)]))
    lagged = ndt2(max_bins=N_BINS, lag_ms=20)
    with pytest.raises(DataError, match=r"with its lag 26"):
        run(lagged, make_batch(lagged, [(A, 3)]))


def test_a_window_of_which_nothing_is_left():
    """All hidden, as one that lies in forward time alone."""
    for changes in ({}, {"session_tokens": 0}, {"read_out": "cross_attention", "session_tokens": 0}):
        model = ndt2(**changes).train()
        batch = batch_of(model)
        batch.hidden[HIDDEN] = torch.ones_like(batch.asked["population"].weight)
        output = model(batch)
        assert output[TASK].isfinite().all() and output["population"].isfinite().all()
        model.loss(batch, output, HALF)["total"].backward()
        assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_padded_tokens_are_no_tokens():
    """The toy windows put together with padding give what they give packed, in training too."""
    model = ndt2((A, B), heads=(VELOCITY,)).train()
    windows = [(A, 3), (B, 5)]
    batch = make_batch(model, windows)
    wanted = model.inputs(model.config, ["decode"], Timing(N_BINS * BIN_NS, BIN_NS))["patches"]
    cuts = [window_tokens(model, wanted, session, first) for session, first in windows]
    padded = dataclasses.replace(batch, inputs={"patches": put_together(cuts, padded=True)})
    assert same(run(model, padded), run(model, batch))
    assert counts_of(A)[3 : 3 + N_BINS].sum() > 0
