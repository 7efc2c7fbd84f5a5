"""What NDT3 promises beside the contract: what each row of its stream has seen, and what is never read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Batch, Head, Input, Stretch, Tokens  # noqa: E402
from spiketok.models.ndt3 import Ndt3, Ndt3Config  # noqa: E402
from spiketok.models.ndt3_layers import Block  # noqa: E402
from spiketok.tokens.schemes import make_scheme  # noqa: E402
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
)
from tests.tokens.test_scheme_patch import cut, session_of, steps  # noqa: E402

SMALL = {"dim": 16, "heads": 2, "patch_size": 4, "layers": 2, "dropout": 0.0, "activation": "gelu"}
BOTH = (VELOCITY, POPULATION)
SHOWN = {"hide_behaviour": 0.5}  # behaviour is an input of training
ROLLED = SHOWN | {"rollout": True}
EACH_TARGET = pytest.mark.parametrize("buckets", [0, 8])
HIDDEN = "counts"


def ndt3(sessions=(A,), heads=BOTH, seed: int = 0, **changes) -> Ndt3:
    torch.manual_seed(seed)
    model = Ndt3(Ndt3Config(**(SMALL | changes)), heads, TIMING)
    model.add_sessions([session.info for session in sessions])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # far from a start at which little depends on anything
    return model.eval()


def batch_of(model: Ndt3, n_windows: int = 2) -> Batch:
    return make_batch(model, [(A, 40 * k + 3) for k in range(n_windows)])


def run(model: Ndt3, batch: Batch, seed: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(batch)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def with_patches(batch: Batch, where: torch.Tensor, value: int) -> Batch:
    """The same batch with another count in some slots; what is asked stays."""
    changed = batch.clone()
    patch = changed.inputs["patches"].columns["patch"]
    patch[where.expand_as(patch)] = value
    return changed


def with_target(batch: Batch, target: torch.Tensor, given: tuple[str, ...] = ()) -> Batch:
    """The same batch with another true behaviour."""
    changed = batch.clone()
    changed.asked[TASK].target, changed.given = target, given
    return changed


def bins_that_change(a: torch.Tensor, b: torch.Tensor) -> list[int]:
    return (a != b).any(-1).nonzero().flatten().tolist()


# ---- the stream -----------------------------------------------------------------------------------------------------


def test_what_it_reads():
    plain = {"bin_ns": BIN_NS, "patch_size": 4, "max_count": 20, "group_by": "array"}
    config = Ndt3Config(**(SMALL | {"group_by": "array"}))
    assert Ndt3.inputs(config, ["decode"], TIMING) == {"patches": Input("patch", plain)}
    config = dataclasses.replace(config, returns="reward", max_behaviours=3, max_patches=2)
    more = {"order": "ndt3", "constraints": "", "returns": "reward", "reserved": (1, 3, 2, 1, 3)}
    assert Ndt3.inputs(config, ["decode"], TIMING) == {"patches": Input("patch", plain | more)}


def test_the_order_of_the_stream():
    """In each bin its patches, then the numbers of its behaviour, where it is asked."""
    model = ndt3(max_behaviours=5, max_patches=3, max_places=20)
    batch = make_batch(model, [(A, 3), (A, 60)], queries=[N_BINS, 3])
    columns, length = batch.inputs["patches"].packed()
    sequence = model._sequence(batch, columns, length, model._behaviours(batch, N_BINS), N_BINS)
    asked = batch.asked[TASK].ns[N_BINS:] // BIN_NS - 60
    expected = [(t, s) for t in range(N_BINS) for s in (6, 7, 10, 11)]
    expected += [(t, s) for t in range(N_BINS) for s in ((6, 7, 10, 11) if t in asked else (6, 7))]
    assert list(zip(sequence.time.tolist(), sequence.space.tolist(), strict=True)) == expected
    assert sequence.length == [4 * N_BINS, 2 * N_BINS + 6]


def test_a_count_reaches_what_follows_it_in_the_stream_and_nothing_else():
    model, batch = ndt3(), batch_of(ndt3(), 1)
    where = torch.zeros(50, 1, dtype=torch.bool)
    where[2 * 10] = True  # the first patch of bin 10: units 0 to 3
    a, b = run(model, batch), run(model, with_patches(batch, where, 9))
    assert bins_that_change(a[TASK], b[TASK]) == list(range(10, N_BINS))
    rates = a["population"] != b["population"]
    assert not rates[:10].any() and not rates[10, :4].any() and rates[10, 4:].all() and rates[11:].all()
    where[2 * 10], where[2 * 10 + 1] = False, True  # the second: units 4 and 5
    c = run(model, with_patches(batch, where, 9))
    assert not (a["population"] != c["population"])[:11].any()
    assert model.causal


def test_a_causal_twin_row_by_row():
    """Every row is what a shorter stream gives: the first bins alone."""
    model = ndt3()
    batch = batch_of(model, 1)
    whole, short = run(model, batch), batch.clone()
    short.inputs["patches"].columns = {n: c[: 2 * 12] for n, c in batch.inputs["patches"].columns.items()}
    short.inputs["patches"].offset = torch.tensor([0, 24])
    said = run(model, short)
    torch.testing.assert_close(said[TASK][:12], whole[TASK][:12], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said["population"][:12], whole["population"][:12], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_hidden_counts_reach_no_output(training):
    model = ndt3(**SHOWN).train(training)
    batch = batch_of(model)
    hidden = torch.zeros(batch.asked["population"].target.shape, dtype=torch.bool)
    hidden[:, -2:] = True
    hidden.unflatten(0, (2, N_BINS))[:, -3:] = True
    batch.hidden[HIDDEN] = hidden
    unit, time = (batch.inputs["patches"].columns[n].long() for n in ("unit", "time"))
    row = torch.arange(2).repeat_interleave(50) * N_BINS + time
    where = hidden[row[:, None], unit.clamp_min(0)] & (unit >= 0)
    expected = run(model, batch)
    for value in (0, 5, 250):
        assert same(run(model, with_patches(batch, where, value)), expected)
    assert not same(run(model, with_patches(batch, ~where, 1)), expected)
    assert torch.equal(expected["scored"], where if not training else unit >= 0)
    silent = with_patches(batch, torch.ones(1, 1, dtype=torch.bool), 0)
    shown = dataclasses.replace(silent, hidden={})
    assert not torch.allclose(run(model, silent)[TASK], run(model, shown)[TASK])  # nothing there is no silence


def test_what_was_not_observed_changes_nothing():
    model, batch = ndt3(), batch_of(ndt3())
    columns = batch.inputs["patches"].columns
    columns["observed"][10:14] = 0
    batch.asked["population"].weight[5:7] = False
    expected = run(model, batch)
    for value in (0, 5, 9):
        assert same(run(model, with_patches(batch, columns["observed"][:, None] == 0, value)), expected)
    assert not expected["scored"][10:14].any()
    by_unit = torch.ones_like(columns["patch"])
    by_unit[60:70, 1] = 0
    columns["unit_observed"] = by_unit
    expected = run(model, batch)
    assert same(run(model, with_patches(batch, by_unit == 0, 9)), expected)


def test_windows_of_sessions_with_other_units_stand_side_by_side():
    """What the loader does not do, the model can: B has a patch more."""
    for changes in ({}, ROLLED):
        model = ndt3((A, B), heads=(VELOCITY,), **changes)
        windows = [(A, 3), (B, 5), (A, 60)]
        together = run(model, make_batch(model, windows))[TASK].split(N_BINS)
        for window, expected in zip(windows, together, strict=True):
            alone = run(model, make_batch(model, [window]))[TASK]
            torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)


# ---- behaviour as an input ------------------------------------------------------------------------------------------


@EACH_TARGET
@pytest.mark.parametrize("changes", [{}, SHOWN, {"hide_random": True}, ROLLED], ids=str)
def test_the_true_behaviour_of_an_evaluation_changes_no_prediction(changes, buckets):
    model = ndt3(**changes, buckets=buckets)
    batch = batch_of(model)
    expected = run(model, batch)
    target = batch.asked[TASK].target
    for other in (torch.zeros_like(target), -target, torch.full_like(target, torch.nan)):
        assert same(run(model, with_target(batch, other)), expected)
    without = batch.clone()
    without.asked[TASK].weight.zero_()
    assert torch.equal(run(model, without)[TASK], expected[TASK])


@EACH_TARGET
def test_a_roll_out_is_what_reading_its_own_predictions_gives(buckets):
    """Without a cache: the whole stream in one pass, its behaviour given as the roll-out says it.

    A stream in which each number is what the numbers before it make the model say is the only one of its kind.
    """
    model = ndt3(**ROLLED, buckets=buckets)
    batch = batch_of(model)
    rolled = run(model, batch)
    given = run(model, with_target(batch, rolled[TASK], (TASK,)))
    for name in (TASK, "population"):
        torch.testing.assert_close(given[name], rolled[name], rtol=1e-4, atol=1e-5)
    # number by number, each from a pass of its own
    said = torch.zeros_like(rolled[TASK])
    for t in range(4):
        for c in range(2):
            said[[t, N_BINS + t], c] = run(model, with_target(batch, said, (TASK,)))[TASK][[t, N_BINS + t], c]
    torch.testing.assert_close(said[:4], rolled[TASK][:4], rtol=1e-4, atol=1e-5)
    plain = ndt3(**SHOWN, buckets=buckets)  # nothing in its place says something else
    assert not torch.allclose(run(plain, batch)[TASK][1:], rolled[TASK][1:], atol=1e-3)


def test_a_roll_out_computes_each_row_once(monkeypatch):
    model = ndt3(**ROLLED)
    batch, rows, whole = batch_of(model, 3), [], []
    plain = Block.feed_forward
    monkeypatch.setattr(Block, "feed_forward", lambda self, x: rows.append(len(x)) or plain(self, x))
    run(model, batch)
    rolled, rows[:] = sum(rows), []
    run(ndt3(**SHOWN), batch)
    whole = sum(rows)
    assert rolled == whole == 2 * 3 * N_BINS * 4  # layers, windows, bins, two patches and two numbers


def test_given_behaviour_is_read_and_reaches_only_what_follows():
    model = ndt3(**SHOWN)
    batch = batch_of(model, 1)
    target = batch.asked[TASK].target.clone()
    a = run(model, with_target(batch, target, (TASK,)))
    target[10, 0] += 3
    b = run(model, with_target(batch, target, (TASK,)))
    assert a[TASK][10, 0] == b[TASK][10, 0] and a[TASK][10, 1] != b[TASK][10, 1]
    assert bins_that_change(a[TASK], b[TASK]) == list(range(10, N_BINS))
    assert bins_that_change(a["population"], b["population"]) == list(range(11, N_BINS))
    # a model that never saw behaviour as an input reads none, given or not
    model = ndt3()
    assert same(run(model, with_target(batch, target, (TASK,))), run(model, batch))
    # what was not measured is not read
    model = ndt3(**SHOWN)
    batch.asked[TASK].weight[10] = 0
    a, b = (run(model, with_target(batch, t, (TASK,))) for t in (target, target.index_fill(0, torch.tensor(10), 9.0)))
    assert same(a, b)


def test_training_hides_the_same_places_of_every_window():
    model = ndt3(**SHOWN).train()
    batch = batch_of(model)
    drawn = torch.zeros(100, dtype=torch.bool)
    drawn[[22, 47]] = True  # of a bin: two patches, two numbers; the first number of bin 5, the second of bin 11
    model.draw_hidden = lambda n_tokens, device: drawn[:n_tokens]
    expected = run(model, batch)
    target = batch.asked[TASK].target.clone()
    for window in range(2):
        target[window * N_BINS + 5, 0] = target[window * N_BINS + 11, 1] = 9
    assert same(run(model, with_target(batch, target)), expected)
    target[5, 1] = 9
    assert not same(run(model, with_target(batch, target)), expected)
    blind = ndt3().train()  # by default nothing is shown
    assert same(run(blind, with_target(batch, -target)), run(blind, batch))


def test_several_queries_in_a_bin_and_bins_without_one():
    model = ndt3(**SHOWN)
    batch = make_batch(model, [(A, 3)], queries=[N_BINS])
    twice = batch.clone()
    asked = twice.asked[TASK]
    rows = torch.arange(N_BINS).repeat_interleave(2)
    asked.ns, asked.time, asked.weight = asked.ns[rows.numpy()], asked.time[rows], asked.weight[rows]
    asked.target, asked.offset = asked.target[rows], asked.offset * 2
    for given in ((), (TASK,)):
        once = run(model, dataclasses.replace(batch, given=given))[TASK]
        assert torch.equal(run(model, dataclasses.replace(twice, given=given))[TASK], once[rows])


def test_a_run_of_two_behaviours():
    """Each number counts alike in the total, and has a place of its own."""
    other = Head("decode:force", "decode", "values", 1)
    model = ndt3(heads=(VELOCITY, other))
    batch = batch_of(model)
    asked = batch.asked[TASK]
    force = dataclasses.replace(asked, target=asked.target[:, :1] * 2, weight=torch.ones(2 * N_BINS))
    force.weight[:20] = 0
    batch.asked["decode:force"] = force
    output = run(model, batch)
    terms = model.loss(batch, output, HALF)
    square = [(output[t] - batch.asked[t].target).square() for t in (TASK, "decode:force")]
    expected = (square[0].sum() + square[1][20:].sum()) / (100 + 30)
    torch.testing.assert_close(terms["total"], expected)
    torch.testing.assert_close(terms["decode:force"], square[1][20:].mean())


def test_behaviour_in_buckets():
    model = ndt3(heads=(VELOCITY,), buckets=8, bucket_range=2.0)
    assert model._bucket(torch.tensor([-9.0, -1.9, -0.1, 0.1, 1.9, 9.0])).tolist() == [0, 0, 3, 4, 7, 7]
    batch = batch_of(model)
    output = run(model, batch)
    logits = output[f"{TASK}.logits"]
    middle = torch.arange(-1.75, 2, 0.5)
    torch.testing.assert_close(output[TASK], (logits.softmax(-1) * middle).sum(-1))
    target = batch.asked[TASK].target
    label = ((target + 2) / 0.5).floor().long().clamp(0, 7)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten())
    torch.testing.assert_close(model.loss(batch, output, HALF)[TASK], expected)


# ---- counts as classes ----------------------------------------------------------------------------------------------


def test_rates_are_expected_counts():
    model, batch = ndt3(max_count=6), batch_of(ndt3())
    columns, output = batch.inputs["patches"].columns, run(model, batch)
    assert output["slots"].shape == (100, 4, 8)  # with a class of all counts above 6
    share = output["slots"].softmax(-1)
    for row, (unit, time) in enumerate(zip(columns["unit"].tolist(), columns["time"].tolist(), strict=True)):
        for k, n in enumerate(unit):
            if n >= 0:
                expected = (share[row, k] * torch.arange(8)).sum()
                torch.testing.assert_close(output["population"][row // 50 * N_BINS + time, n].exp(), expected)


def test_counts_above_the_table_are_clamped_and_counted():
    model, batch = ndt3(max_count=3), batch_of(ndt3())
    high = with_patches(batch, torch.ones(1, 1, dtype=torch.bool), 250)
    assert same(run(model, high), run(model, with_patches(batch, torch.ones(1, 1, dtype=torch.bool), 3)))
    high.asked["population"].target = torch.full_like(high.asked["population"].target, 250)
    output = run(model, high)
    z = output["slots"].log_softmax(-1)
    expected = -(z * model.softened[4]).sum(-1)[output["scored"]].mean()
    torch.testing.assert_close(model.loss(high, output, HALF)["population"], expected)
    quirks = ndt3(max_count=3, reference_quirks=True)
    assert quirks.loss(high, run(quirks, high), HALF)["population"] == 0  # the reference's top row


def test_counts_start_from_the_mean_of_the_observed_training_time():
    counts = np.random.default_rng(3).poisson(0.3, (4000, 6)).astype(np.uint8)
    stretches = {A.info.id: [Stretch({"counts": {"counts": counts, "observed": np.ones(4000, np.uint8)}}, {}, {})]}
    model = ndt3(rate_init=True)
    model.fit(stretches)
    share = model.read_rates.bias.detach().unflatten(0, (4, -1)).softmax(-1)
    assert (share * torch.arange(22)).sum(-1).numpy() == pytest.approx(counts.mean(), rel=1e-3)
    plain = ndt3()
    before = plain.read_rates.bias.detach().clone()
    plain.fit(stretches)
    assert torch.equal(plain.read_rates.bias, before)


# ---- constraints and returns ----------------------------------------------------------------------------------------


def with_returns(model: Ndt3, batch: Batch, value: torch.Tensor) -> Batch:
    """The patches of a batch with a return behind those of each bin, and a constraint in each window's first bin."""
    columns, length = batch.inputs["patches"].packed()
    places, rows, n = np.cumsum([0, *model.config.places]), [], 0
    for b, own in enumerate(length):
        rows.append({"time": 0, "space": places[1], "kind": 1, "constraint": (1.0, 0.5, 0.0)})
        for t in range(N_BINS):
            for p in range(own // N_BINS):
                rows.append({"time": t, "space": places[2] + p, "kind": 2, "row": n})
                n += 1
            rows.append({"time": t, "space": places[3], "kind": 3, "value": float(value[b * N_BINS + t])})
    spike = torch.tensor([r.get("row", -1) for r in rows])
    held = (spike >= 0)[:, None]
    made = {
        "patch": torch.where(held, columns["patch"][spike], 0),
        "unit": torch.where(held, columns["unit"][spike], -1),
        "observed": torch.ones(len(rows), dtype=torch.uint8),
        "constraint": torch.tensor([r.get("constraint", (0.0, 0.0, 0.0)) for r in rows]),
    }
    types = (("time", torch.int32), ("space", torch.int32), ("kind", torch.uint8), ("value", torch.float32))
    made |= {key: torch.tensor([r.get(key, 0) for r in rows], dtype=dtype) for key, dtype in types}
    offset = torch.tensor(np.cumsum([0, *(1 + n + N_BINS for n in length)]))
    return dataclasses.replace(batch, inputs={"patches": Tokens(made, offset)})


def test_constraints_and_returns_stand_in_the_stream():
    model = ndt3(constraints="assist", returns="return", return_weight=1.0, max_return=10)
    value = torch.tensor([3.0] * 10 + [2.0] * 15 + [1.0] * N_BINS)
    batch = with_returns(model, batch_of(model), value)
    a = run(model, batch)
    # of the second window nothing fell: the border of windows is no reward
    assert model.rewarded(value, torch.arange(2 * N_BINS), N_BINS).nonzero().flatten().tolist() == [10]
    fewer = value.clone()
    fewer[20:25] = 0
    b = run(model, with_returns(model, batch_of(model), fewer))
    assert bins_that_change(a[TASK], b[TASK]) == list(range(20, N_BINS))  # the return stands before behaviour,
    assert bins_that_change(a["population"], b["population"]) == list(range(21, N_BINS))  # and behind the spikes
    assert torch.equal(a["returns.target"], value.long() + 1)
    expected = torch.nn.functional.cross_entropy(a["returns"], value.long() + 1)
    terms = model.loss(batch, a, HALF)
    torch.testing.assert_close(terms["returns"], expected)
    torch.testing.assert_close(terms["total"], terms["population"] + terms[TASK] + expected)
    other = batch.clone()
    other.inputs["patches"].columns["constraint"][0] = torch.tensor([0.0, 0.0, 1.0])
    c = run(model, other)
    assert bins_that_change(a[TASK], c[TASK]) == list(range(N_BINS))
    gone = batch.clone()
    columns = gone.inputs["patches"].columns
    columns["observed"][columns["kind"] != 2] = 0
    d = run(model, gone)
    columns["value"].fill_(7)
    columns["constraint"].fill_(7)
    assert same({k: v for k, v in run(model, gone).items() if k != "returns.target"},
                {k: v for k, v in d.items() if k != "returns.target"})  # fmt: skip
    assert model.loss(gone, d, HALF)["returns"] == 0


@pytest.mark.long  # it compiles a scheme anew
def test_the_stream_is_the_schemes_with_behaviour_as_tokens():
    """What is cut for the model, with behaviour put in by it, against the scheme that puts it in itself."""
    rng = np.random.default_rng(0)
    assist = np.repeat(rng.integers(0, 2, (5, 6)), 5, axis=0).astype(float)
    signals = {
        "assist": steps(assist.tolist()),
        "return": steps([[t // 10] for t in range(N_BINS, 0, -1)]),
        "vel": steps(rng.normal(size=(N_BINS, 2)).tolist()),
    }
    session = session_of(rng.poisson(1.0, (N_BINS, 6)).tolist(), signals=signals)
    model = ndt3(constraints="assist", returns="return", group_by="", **SHOWN).train()
    (wanted,) = Ndt3.inputs(model.config, ["decode"], TIMING).values()
    tokens = {n: torch.from_numpy(c) for n, c in cut(make_scheme(wanted.scheme, **wanted.fields), session).items()}
    expected = cut(make_scheme(wanted.scheme, **wanted.fields, covariates=("vel",)), session)
    batch = make_batch(model, [(A, 0)])
    batch.inputs["patches"] = Tokens(tokens, torch.tensor([0, len(tokens["time"])]))
    batch.asked[TASK].target = torch.tensor(signals["vel"].value)
    sequence = model._sequence(batch, tokens, [len(tokens["time"])], model._behaviours(batch, N_BINS), N_BINS)
    for name in ("time", "space"):
        assert getattr(sequence, name).tolist() == expected[name].tolist()
    model.draw_hidden = lambda n_tokens, device: torch.zeros(n_tokens, dtype=torch.bool)
    sequence = model._sequence(batch, tokens, [len(tokens["time"])], model._behaviours(batch, N_BINS), N_BINS)
    read = torch.from_numpy(expected["kind"] == 4)
    value = torch.from_numpy(expected["value"])[read]
    assert torch.equal(sequence.content[read], model.value_in(value[:, None]))
    assert sequence.content[torch.from_numpy(expected["kind"] > 1)].any(1).all()  # a constraint may be three zeros
    model.loss(batch, model(batch), HALF)["total"].backward()
    for part in (model.constraint_rows, model.return_table.weight, model.reward_table.weight, model.value_in.weight):
        assert part.grad.any()


# ---- sizes, layers and refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions"), [("45M", 45), ("350M", 354)])
def test_published_sizes(size, millions):
    """By hand: of a layer 4 D^2 of attention, 3 D^2 of the gated layer, their biases and the two norms of heads."""
    config = Ndt3Config(**Ndt3.sizes[size])
    with torch.device("meta"):
        model = Ndt3(config, BOTH, TIMING)
    d = config.dim
    layer = 7 * d * d + 7 * d + 2 * d // config.heads
    counts = 21 * d // 32 + (d + 1) * 32 * 22
    behaviour = 2 * d + d + 1
    assert model.n_fitted() == config.layers * layer + d + 48 * d + counts + behaviour
    assert round(model.n_fitted() / 1e6) == millions


def test_the_layers_end_in_a_norm_of_the_sum():
    model, quirks = ndt3(), ndt3(reference_quirks=True)
    batch = batch_of(model)
    columns, length = batch.inputs["patches"].packed()
    sequence = model._sequence(batch, columns, length, model._behaviours(batch, N_BINS), N_BINS)
    said = model._whole(sequence)
    torch.testing.assert_close(said.mean(-1), torch.zeros(len(said)), atol=1e-5, rtol=0)
    torch.testing.assert_close(said.var(-1, correction=0), torch.ones(len(said)), atol=1e-3, rtol=0)
    branch = quirks._whole(sequence)
    assert not torch.allclose(branch.var(-1), branch.var(-1).mean().expand(len(branch)), atol=1e-2)


def test_a_model_is_rebuilt():
    model, other = ndt3((A, B, C)), ndt3((B,), seed=1)
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(model.state_dict())
    assert other.sessions() == [A.info.id, B.info.id, C.info.id]
    batch = make_batch(model, [(C, 3)])
    assert same(run(other, batch), run(model, batch))
    assert counts_of(C)[3 : 3 + N_BINS].sum() > 0


def test_a_session_is_read_as_it_is():
    model = ndt3((A,))
    assert model.identity_parameters([A.info.id]) == []
    assert model.why_not("zero_shot", A.info.id) == model.why_not("full", A.info.id) == ""
    assert "no parameters of a session's own" in model.why_not("identity_only", A.info.id)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 15}, "model.dim is 15, which model.patch_size 4 does not divide"),
        ({"heads": 3}, "model.dim is 16, which model.heads 3"),
        ({"dim": 12, "heads": 4}, "is odd: rotary time turns pairs"),
        ({"layers": 0}, "model.layers is 0, must be at least 1"),
        ({"hide_behaviour": 1.5}, r"model.hide_behaviour is 1\.5, must be in"),
        ({"bucket_range": 0.0}, r"model.bucket_range is 0\.0, must be above 0"),
        ({"max_places": 45}, "model.max_places is 45 and a bin needs 46"),
        ({"rollout": True}, "model.rollout reads behaviour and model.hide_behaviour 1 never shows any"),
        ({"return_weight": 1.0}, "model.returns names no signal"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        Ndt3Config(**(SMALL | changes))


def test_what_finds_no_place_is_refused():
    with pytest.raises(DataError, match=r"toy/b has 3 patches of 4 units and model\.max_patches is 2: raise it"):
        ndt3((A, B), max_patches=2)
    with pytest.raises(UsageError, match=r"decodes 2 numbers a bin and model\.max_behaviours is 1"):
        ndt3(max_behaviours=1)


def test_a_window_of_which_nothing_is_left():
    for changes in ({}, ROLLED):
        model = ndt3(**changes).train()
        batch = batch_of(model)
        batch.hidden[HIDDEN] = torch.ones_like(batch.asked["population"].weight)
        output = model(batch)
        assert output[TASK].isfinite().all() and output["population"].isfinite().all()
        model.loss(batch, output, HALF)["total"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert run(model.eval(), batch)[TASK].isfinite().all()


def test_a_roll_out_in_half_precision():
    model = ndt3(**ROLLED)
    batch = batch_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = run(model, batch)[TASK]
    torch.testing.assert_close(said.float(), run(model, batch)[TASK], rtol=0.2, atol=0.2)
