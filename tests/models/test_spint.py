"""SPINT: what its order, its sessions and its calibration must and must not change."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens  # noqa: E402
from spiketok.models.spint import Spint, SpintConfig  # noqa: E402
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Source, Spikes, UnitTable  # noqa: E402
from spiketok.tokens.schemes import Calibration, Neuron, make_scheme  # noqa: E402
from spiketok.tokens.schemes.base import Windows  # noqa: E402

BIN_NS = 20_000_000
TASK = "decode:vel"
SMALL = {
    "dim": 16,
    "heads": 4,
    "hidden": 24,
    "history_bins": 6,
    "calibration_trials": 3,
    "calibration_length": 8,
    "dropout": 0.0,
}
HEADS = [Head(TASK, "decode", "values", size=2)]
END = Progress(1, 1)


# ---- toy sessions and batches, cut by the schemes that the model names ----------------------------------------------


@dataclasses.dataclass
class Toy:
    info: SessionInfo
    histories: Neuron
    columns: dict[str, np.ndarray]
    trials: torch.Tensor  # [M, P, N]
    velocity: np.ndarray  # [T, 2]


def toy(name: str, n_units: int, seed: int, n_bins: int = 300) -> Toy:
    """Poisson spikes of units that follow two slow components."""
    rng = np.random.default_rng(seed)
    slow = np.stack([np.convolve(rng.normal(size=n_bins + 20), np.hanning(21), "valid") for _ in range(2)], 1)
    slow /= slow.std(0)
    count = rng.poisson(np.exp(slow @ rng.normal(size=(2, n_units)) * 0.8 - 0.5))
    stop_ns = n_bins * BIN_NS
    session = Session(
        id=f"toy/{name}",
        subject="s",
        start_ns=0,
        stop_ns=stop_ns,
        units=UnitTable([f"u{n}" for n in range(n_units)]),
        spikes=Spikes.from_units([np.repeat(np.arange(n_bins) * BIN_NS, own) for own in count.T]),
        observed=Intervals([0], [stop_ns]),
        source=Source(f"{name}.nwb", "0" * 64, 1),
    )
    whole = Intervals([0], [stop_ns])
    histories = Neuron(bin_ns=BIN_NS, view="history", history_bins=SMALL["history_bins"])
    calibration = Calibration(bin_ns=BIN_NS, n_trials=3, length=SMALL["calibration_length"], pseudo_ns=20 * BIN_NS)
    matrix = calibration.bake(session, whole).columns["matrix"]
    info = SessionInfo(session.id, "s", np.array([f"u{n}" for n in range(n_units)]), 0, 0, stop_ns)
    return Toy(info, histories, histories.bake(session, whole).columns, torch.from_numpy(matrix.copy()), slow)


A, B, C = toy("a.1", 6, 0), toy("b", 9, 1), toy("c", 4, 2)


def make_batch(
    windows: list[tuple[Toy, int]],
    *,
    n_bins: int = 1,
    trials: dict[str, torch.Tensor] | None = None,
    keep: dict[int, list[int]] | None = None,
    order: dict[str, np.ndarray] | None = None,
    padded: bool = False,
) -> Batch:
    """Windows (session, first bin) of so many bins; a query in each.

    Args:
        trials: instead of a session's own. keep: by window, the units that are not dropped.
        order: by session, another order of its units.
    """
    cuts, present = [], list(dict.fromkeys(s.info.id for s, _ in windows))
    by_id = {s.info.id: s for s, _ in windows}
    for b, (session, first) in enumerate(windows):
        kept = np.zeros((1, session.info.n_units), np.bool_)
        kept[0, (keep or {}).get(b, range(session.info.n_units))] = True
        window = Windows(np.zeros(1, np.int64), np.array([first * BIN_NS]), n_bins * BIN_NS)
        columns = dict(session.histories.cut(session.columns, window, kept).columns)
        if order and session.info.id in order:
            rows = (np.arange(n_bins)[:, None] * session.info.n_units + order[session.info.id]).ravel()
            columns = {name: c if name == "unit" else c[rows] for name, c in columns.items()}
        cuts.append({name: torch.from_numpy(column) for name, column in columns.items()})
    length = [len(cut["unit"]) for cut in cuts]
    offset, valid = torch.tensor(np.cumsum([0, *length])), None
    if padded:
        top = max(length) + 2
        offset, valid = None, torch.arange(top) < torch.tensor(length)[:, None]
        columns = {
            name: torch.stack(
                [torch.cat([c[name], c[name][:1].expand(top - len(c[name]), *c[name].shape[1:])]) for c in cuts]
            )
            for name in cuts[0]
        }
    else:
        columns = {name: torch.cat([cut[name] for cut in cuts]) for name in cuts[0]}
    calibration = []
    for name in present:
        matrix = (trials or {}).get(name, by_id[name].trials)
        if order and name in order:
            matrix = matrix[..., torch.from_numpy(order[name])]
        calibration.append(Tokens({"matrix": matrix}, torch.tensor([0, len(matrix)])))
    start_ns = np.array([first * BIN_NS for _, first in windows])
    bins = np.concatenate([np.arange(first, first + n_bins) for _, first in windows])
    target = np.concatenate([s.velocity[first : first + n_bins] for s, first in windows])
    return Batch(
        inputs={"units": Tokens(columns, offset, valid)},
        window_ns=n_bins * BIN_NS,
        session_B=torch.zeros(len(windows), dtype=torch.int64),
        sessions=[s.info.id for s, _ in windows],
        start_ns=start_ns,
        asked={
            TASK: Asked(
                time=torch.zeros(len(bins)),
                offset=torch.arange(len(windows) + 1) * n_bins,
                ns=bins * BIN_NS + BIN_NS // 3,
                target=torch.from_numpy(target.astype(np.float32)),
                weight=torch.ones(len(bins)),
            )
        },
        session_inputs={"calibration": calibration},
        present=present,
        present_B=torch.tensor([present.index(s.info.id) for s, _ in windows]),
    )


def build(*, seed: int = 0, heads=HEADS, sessions=(A, B, C), **values) -> Spint:
    torch.manual_seed(seed)
    model = Spint(SpintConfig(**SMALL | values), heads, Timing(BIN_NS, BIN_NS))
    model.add_sessions([s.info for s in sessions])
    return model.eval()


def predict(model: Spint, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)[TASK]


WINDOWS = [(A, 40), (B, 17), (A, 41), (B, 0)]


# ---- the computation ------------------------------------------------------------------------------------------------


def slow(model: Spint, session: Toy, last_bin: int, units: list[int]) -> torch.Tensor:
    """[C]: one sample, one unit and one head at a time, after the equations of the paper."""
    config = model.config

    def network(stack, x):
        for layer in stack:
            x = layer(x)
        return x

    counts = session.columns["counts"][:, last_bin : last_bin + config.history_bins]  # zeros stand before the session
    tokens = []
    for n in units:
        encoded = [network(model.encode_trial, trial[:, n]) for trial in session.trials]
        mean = sum(encoded) / len(encoded) if encoded else torch.zeros(config.dim)
        tokens.append(
            network(model.read_in, torch.from_numpy(counts[n].astype("f4")) + network(model.to_identity, mean))
        )
    result = []
    for c in range(len(model.query_CW)):
        y = network(model.read_in, model.query_CW[c])
        for layer in model.layers:
            query = layer.to_query(layer.norm_attention(y))
            keys = [layer.to_key_value(layer.norm_attention(t)) for t in tokens]
            width, heads = config.dim // config.heads, []
            for h in range(config.heads):
                part = slice(h * width, (h + 1) * width)
                score = torch.stack([query[part] @ k[: config.dim][part] for k in keys]) / width**0.5
                share = score.softmax(0)
                heads.append(sum(s * k[config.dim :][part] for s, k in zip(share, keys, strict=True)))
            y = y + layer.to_out(torch.cat(heads))
            y = y + layer.from_hidden(layer.to_hidden(layer.norm_hidden(y)).clamp_min(0))
        result.append(model.read_out(y)[-1] / config.scale)
    return torch.stack(result)


@pytest.mark.parametrize("values", [{}, {"layers": 2, "scale": 5.0}, {"identity_layers": 1, "learned_query": False}])
def test_equals_the_plain_computation_of_each_sample(values):
    model = build(**values)
    keep = {2: [0, 3, 5]}
    got = predict(model, make_batch(WINDOWS, keep=keep))
    with torch.no_grad():
        units = [keep.get(b, range(s.info.n_units)) for b, (s, _) in enumerate(WINDOWS)]
        expected = [slow(model, s, bin_, list(own)) for (s, bin_), own in zip(WINDOWS, units, strict=True)]
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert got.std(0).min() > 1e-4


def test_gradients_are_those_of_the_plain_computation():
    batch = make_batch(WINDOWS)
    fast, plain = build(), build()
    fast.loss(batch, fast(batch), END)["total"].backward()
    found = torch.stack([slow(plain, s, bin_, list(range(s.info.n_units))) for s, bin_ in WINDOWS])
    (found - batch.asked[TASK].target).square().mean(1).mean().backward()
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        scale = b.grad.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(a.grad / scale, b.grad / scale, rtol=0, atol=2e-4, msg=name)
        assert a.grad.abs().max() > 0, name


def test_the_order_of_units_changes_nothing():
    model, rng = build(), np.random.default_rng(0)
    order = {s.info.id: rng.permutation(s.info.n_units) for s in (A, B)}
    plain, turned = make_batch(WINDOWS, n_bins=3), make_batch(WINDOWS, n_bins=3, order=order)
    assert not torch.equal(plain.tokens().columns["series"], turned.tokens().columns["series"])
    torch.testing.assert_close(predict(model, turned), predict(model, plain), rtol=1e-5, atol=1e-6)
    only_trials = make_batch(WINDOWS, n_bins=3)
    for name, tokens in zip(only_trials.present, only_trials.session_inputs["calibration"], strict=True):
        tokens.columns["matrix"] = tokens.columns["matrix"][..., torch.from_numpy(order[name])]
    assert not torch.allclose(predict(model, only_trials), predict(model, plain), rtol=1e-3)  # identities are a unit's


def test_a_window_of_several_bins_is_as_many_samples():
    model = build()
    together = predict(model, make_batch([(A, 40), (B, 12)], n_bins=4, keep={1: [1, 2, 8]}))
    windows = [(A, 40 + i) for i in range(4)] + [(B, 12 + i) for i in range(4)]
    apart = predict(model, make_batch(windows, keep={b: [1, 2, 8] for b in range(4, 8)}))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def test_several_queries_a_bin_and_none():
    model, batch = build(), make_batch([(A, 40), (B, 12)], n_bins=4)
    asked = batch.asked[TASK]
    all_bins = predict(model, batch)
    rows = [1, 1, 3]  # of the first window; the second has no query
    batch.asked[TASK] = Asked(
        asked.time[rows], torch.tensor([0, 3, 3]), asked.ns[rows], asked.target[rows], asked.weight[rows]
    )
    assert torch.equal(predict(model, batch), all_bins[rows])
    asked.ns[0] = 60 * BIN_NS
    batch.asked[TASK] = asked
    with pytest.raises(DataError, match="is not in its window"):
        model(batch)


def test_sessions_share_a_batch_without_a_trace():
    model = build()
    mixed = predict(model, make_batch([*WINDOWS, (C, 5)]))
    for b, window in enumerate([*WINDOWS, (C, 5)]):
        torch.testing.assert_close(mixed[b : b + 1], predict(model, make_batch([window])), rtol=1e-5, atol=1e-6)


def test_layouts_agree():
    model = build()
    packed = predict(model, make_batch(WINDOWS, n_bins=2))
    torch.testing.assert_close(predict(model, make_batch(WINDOWS, n_bins=2, padded=True)), packed, rtol=1e-6, atol=1e-7)


def test_what_was_not_recorded_is_no_token():
    model, batch = build(), make_batch(WINDOWS)
    columns = batch.tokens().columns
    silent = (batch.present_B == 1).repeat_interleave(batch.tokens().offset.diff()) & (columns["unit"] == 2)
    columns["observed"][silent] = 0
    keep = [n for n in range(B.info.n_units) if n != 2]
    dropped = make_batch(WINDOWS, keep={1: keep, 3: keep})
    torch.testing.assert_close(predict(model, batch), predict(model, dropped), rtol=1e-5, atol=1e-6)
    columns["observed"][:] = 0
    assert torch.isfinite(predict(model, batch)).all()  # nothing at all to attend to


def test_queries_of_two_tasks_are_one_set():
    heads = [Head("decode:a", "decode", "values", size=3), Head(TASK, "decode", "values", size=2)]
    model, batch = build(heads=heads), make_batch(WINDOWS)
    asked = batch.asked[TASK]
    other = dataclasses.replace(asked, target=torch.ones(len(asked.ns), 3), weight=torch.zeros(len(asked.ns)))
    batch.asked["decode:a"] = other
    output = model(batch)
    assert output["decode:a"].shape == (4, 3) and output[TASK].shape == (4, 2) and output["steps"].shape == (4, 6, 5)
    torch.testing.assert_close(output["steps"][:, -1], torch.cat([output["decode:a"], output[TASK]], 1))
    loss = model.loss(batch, output, END)
    assert loss["decode:a"] == 0 and loss["total"] == loss[TASK] > 0
    del batch.asked["decode:a"]
    output = model(batch)
    assert set(output) == {TASK, "steps"} and set(model.loss(batch, output, END)) == {TASK, "total"}


# ---- identities -----------------------------------------------------------------------------------------------------


def test_a_session_without_trials_has_one_identity_for_all():
    model = build()
    none = {A.info.id: A.trials[:0]}
    batch = make_batch([(A, 40), (B, 3)], trials=none)
    without, with_ = model.identities(batch.session_inputs["calibration"], [6, 9])
    constant = model.to_identity(torch.zeros(1, SMALL["dim"]))
    torch.testing.assert_close(without, constant.expand(6, -1))
    assert with_.std(0).max() > 1e-3
    assert torch.isfinite(predict(model, batch)).all()
    alone = predict(model, make_batch([(A, 40)], trials=none))
    torch.testing.assert_close(alone, predict(model, batch)[:1], rtol=1e-5, atol=1e-6)


def test_fewer_trials_than_asked_are_their_mean():
    model = build()
    one = Tokens({"matrix": A.trials[:1]}, torch.tensor([0, 1]))
    twice = Tokens({"matrix": A.trials[[0, 0]]}, torch.tensor([0, 2]))
    first, second = model.identities([one, twice], [6, 6])
    torch.testing.assert_close(first, second)


def test_a_trial_in_which_a_unit_was_not_recorded_does_not_count_in_its_mean():
    model = build()
    flags = torch.ones(3, 6, dtype=torch.uint8)
    flags[1, 4], flags[:, 2] = 0, 0
    tokens = Tokens({"matrix": A.trials, "unit_observed": flags}, torch.tensor([0, 3]))
    (found,) = model.identities([tokens], [6])
    (all_,) = model.identities([Tokens({"matrix": A.trials}, torch.tensor([0, 3]))], [6])
    (two,) = model.identities([Tokens({"matrix": A.trials[[0, 2]]}, torch.tensor([0, 2]))], [6])
    torch.testing.assert_close(found[[0, 1, 3, 5]], all_[[0, 1, 3, 5]])
    torch.testing.assert_close(found[4], two[4])
    torch.testing.assert_close(found[2], model.to_identity(torch.zeros(SMALL["dim"])))


def encoded_rows(model: Spint) -> list[int]:
    """How many trials of a unit each later call of the trial encoder reads."""
    rows: list[int] = []
    model.encode_trial.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    return rows


def test_one_identity_a_session_of_a_batch():
    model = build()
    rows = encoded_rows(model)
    model(make_batch([(A, 40), (B, 3), (A, 41), (A, 90), (B, 60)], n_bins=3))
    assert rows == [3 * 6 + 3 * 9]


def test_calibrate_keeps_what_a_batch_would_give():
    model, batch = build(), make_batch(WINDOWS)
    inline = predict(model, batch)
    rows = encoded_rows(model)
    model.calibrate([make_batch([(A, 3)]), make_batch([(B, 3), (A, 7)])])
    assert rows == [18, 27]  # each session once
    batch.session_inputs.clear()  # live decoding needs the trials no more
    torch.testing.assert_close(predict(model, batch), inline, rtol=1e-6, atol=1e-7)
    assert rows == [18, 27]
    with pytest.raises(DataError, match="no calibration of"):
        model(dataclasses.replace(make_batch([(C, 3)]), session_inputs={}))


def test_kept_identities_are_of_these_weights_only():
    model, batch = build(), make_batch(WINDOWS)
    inline, state = predict(model, batch), copy.deepcopy(model.state_dict())
    model.calibrate([batch])
    assert set(model.state_dict()) == set(state)  # not persistent
    other = build(seed=1)
    expected = predict(other, batch)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(predict(model, batch), expected)
    model.load_state_dict(state)
    model.calibrate([batch])
    model.train()
    with torch.no_grad():
        for parameter in model.encode_trial.parameters():
            parameter.add_(0.3)
    assert not torch.allclose(predict(model.eval(), batch), inline, rtol=1e-3)
    kept = copy.deepcopy(model)
    assert torch.equal(predict(kept, batch), predict(model, batch))


def test_rows_of_a_sessions_own_are_what_was_inferred_until_they_move():
    model, batch = build(), make_batch(WINDOWS)
    inline, state = predict(model, batch), copy.deepcopy(model.extra_state())
    assert model.unit_parts(A.info.id) == [] and "own" not in state
    model.calibrate([batch])
    model.own_units(A.info.id)
    ((part, axis),) = model.unit_parts(A.info.id)
    assert axis == 0 and part.value.shape[0] == A.info.n_units and model.unit_parts(B.info.id) == []
    torch.testing.assert_close(predict(model, batch), inline, rtol=1e-6, atol=1e-7)
    model.train()  # which forgets what was only kept
    model.loss(batch, model(batch), END)["total"].backward()
    assert part.parameter.grad.abs().max() > 0
    model.eval()
    part.value.add_(1)
    moved = predict(model, batch)
    assert not torch.allclose(moved, inline, rtol=1e-3)
    only_b = make_batch([(B, 3)])
    torch.testing.assert_close(predict(model, only_b), predict(build(), only_b))  # no other session reads them
    other = build(seed=1)
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(predict(other, batch), moved)


# ---- training -------------------------------------------------------------------------------------------------------


def test_units_are_dropped_in_training_only():
    model, batch = build(), make_batch([(A, 40), (B, 17)], n_bins=8)
    assert torch.equal(predict(model, batch), predict(model, batch))
    model.train()
    torch.manual_seed(3)
    first, second = predict(model, batch), predict(model, batch)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(predict(model, batch), first)
    still = build(unit_dropout_high=0.0)
    torch.testing.assert_close(predict(still.train(), batch), predict(model.eval(), batch))


def test_the_share_of_dropped_units_is_uniform_and_tokens_keep_their_mean():
    model = build(unit_dropout_low=0.2, unit_dropout_high=0.6)
    torch.manual_seed(0)
    factors = [model.draw_units(500, torch.device("cpu")) for _ in range(300)]
    share = torch.stack([(f == 0).float().mean() for f in factors])
    kept = torch.stack([f.max() for f in factors])
    assert 0.1 < share.min() < 0.25 and 0.55 < share.max() < 0.7  # 500 draws scatter by .02
    assert abs(share.mean() - 0.4) < 0.02 and abs(share.var() - 0.4**2 / 12) < 0.004
    assert (kept - 1 / (1 - share)).abs().max() < 0.35 and abs(torch.cat(factors).mean() - 1) < 0.01
    fixed = build(unit_dropout_low=0.5, unit_dropout_high=0.5).draw_units(64, torch.device("cpu"))
    assert set(fixed.tolist()) <= {0.0, 2.0}


def test_a_dropped_unit_is_the_token_of_zeros():
    model = build().train()
    model.draw_units = lambda n_tokens, device: torch.zeros(n_tokens)
    nothing = predict(model, make_batch([(A, 40)]))
    torch.testing.assert_close(nothing, predict(model, make_batch([(A, 90)])))  # neither counts nor identities are left
    tokens = model.read_in(torch.zeros(6, SMALL["history_bins"]))
    y = model.layers[0](model.read_in(model.query_CW), tokens, [2], [6])
    torch.testing.assert_close(nothing[0], model.read_out(y)[:, -1].detach())


@pytest.mark.slow
def test_it_learns_two_sessions():
    other = toy("d", 6, 3)
    model = build(sessions=(A, other), dim=32, hidden=64, unit_dropout_high=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = make_batch([(s, first) for s in (A, other) for first in range(0, 240, 20)], n_bins=10)
    losses = []
    model.train()
    for step in range(150):
        optimizer.zero_grad()
        loss = model.loss(batch, model(batch), Progress(step, 150))["total"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7 and losses[-1] < 0.45


# ---- what it asks for, and what it refuses --------------------------------------------------------------------------


def test_inputs_are_schemes_with_all_their_fields():
    for size, values in Spint.sizes.items():
        config = SpintConfig(**values)
        inputs = Spint.inputs(config, ["decode"], Timing(BIN_NS, BIN_NS))
        units, calibration = inputs["units"], inputs["calibration"]
        assert make_scheme(units.scheme, **units.fields).lookback_ns == (config.history_bins - 1) * BIN_NS, size
        held = make_scheme(calibration.scheme, **calibration.fields)
        assert (held.length, held.choose) == (config.calibration_length, "all"), size
        assert calibration.per == "session" and calibration.most == config.calibration_trials
        assert calibration.choose == config.calibration_choose == ("block" if size in ("tiny", "H1") else "first")
        assert SpintConfig(**dataclasses.asdict(config)) == config


def test_published_sizes_have_the_published_number_of_parameters():
    for size, n_components, expected in (("M1", 16, 15_007_496), ("M2", 2, 4_594_888), ("H1", 7, 16_855_196)):
        with torch.device("meta"):
            model = Spint(
                SpintConfig(**Spint.sizes[size]), [Head(TASK, "decode", "values", size=n_components)], Timing(1, 1)
            )
        assert model.n_fitted() == expected, size


def test_no_parameter_is_a_sessions_own():
    model = build(sessions=(A,))
    before = list(model.parameters())
    model.add_sessions([A.info, B.info])
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert model.sessions() == [A.info.id, B.info.id] and model.session_row(B.info.id) == 1
    assert model.identity_parameters([B.info.id]) == []
    with pytest.raises(DataError, match=r"toy/a.1: .*first that differs being row 0"):
        model.add_sessions([dataclasses.replace(A.info, unit_id=np.array(["x"]))])
    with pytest.raises(DataError, match="toy/c"):
        model(make_batch([(C, 3)]))
    other = Spint(SpintConfig(**SMALL), HEADS, Timing(BIN_NS, BIN_NS))
    other.load_extra_state(model.extra_state())
    other.load_state_dict(model.state_dict())
    batch = make_batch(WINDOWS)
    assert torch.equal(predict(other.eval(), batch), predict(model, batch))


def test_protocols():
    model = build()
    for protocol in ("zero_shot", "zero_gradient", "full"):
        assert model.why_not(protocol, A.info.id) == ""
    for protocol in ("identity_only", "identity_unlabelled"):
        assert "no parameters of a session's own" in model.why_not(protocol, A.info.id)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"dim": 0}, "model.dim is 0"),
        ({"dim": 10}, "model.heads"),
        ({"layers": 0}, "model.layers"),
        ({"history_bins": 0}, "model.history_bins"),
        ({"calibration_length": 1}, "model.calibration_length"),
        ({"calibration_choose": "random"}, "model.calibration_choose is 'random'"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"unit_dropout_low": 0.6, "unit_dropout_high": 0.5}, "model.unit_dropout_low is 0.6"),
        ({"unit_dropout_high": 1.1}, "model.unit_dropout_high 1.1"),
        ({"scale": 0.0}, "model.scale"),
    ],
)
def test_faults_of_the_configuration_are_named(values, named):
    with pytest.raises(UsageError, match=named):
        SpintConfig(**SMALL | values)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="cannot answer population"):
        build(heads=[Head("population", "population", "counts", input="units")])
    model = build()
    with pytest.raises(DataError, match="model.history_bins is 6"):
        batch = make_batch([(A, 40)])
        batch.tokens().columns["series"] = batch.tokens().columns["series"][:, 1:]
        model(batch)
    with pytest.raises(DataError, match=r"toy/a.1: calibration trials of \(7, 6\)"):
        model(make_batch([(A, 40)], trials={A.info.id: A.trials[:, 1:]}))
    with pytest.raises(DataError, match="no whole number of bins"):
        batch = make_batch([(A, 40)])
        batch.window_ns += 1
        model(batch)
