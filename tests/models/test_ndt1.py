"""What NDT1 promises beside the contract: hidden counts, heads, modes, and the statistics of its masks."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Asked, Batch, Head, Input, Progress, Stretch, Timing, Tokens  # noqa: E402
from spiketok.models.masking import corrupt, hide  # noqa: E402
from spiketok.models.ndt1 import Ndt1, Ndt1Config  # noqa: E402
from spiketok.recording.nouns import SessionInfo  # noqa: E402

BIN_NS, N_BINS = 20_000_000, 25
WINDOW_NS = BIN_NS * N_BINS
TIMING = Timing(WINDOW_NS, BIN_NS)
POPULATION = Head("population", "population", "counts", input="counts")
VELOCITY = Head("decode:hand_vel", "decode", "values", 2, ("x", "y"))
POSITION = Head("decode:hand_pos", "decode", "values", 3, ("x", "y", "z"))
TARGET_ID = Head("classify:target", "classify", "classes", 4, ("a", "b", "c", "d"))
HEADS = (POPULATION, VELOCITY)
QUIET = {"heads": 2, "hidden": 24, "dropout": 0.0, "dropout_rates": 0.0, "dropout_embedding": 0.0}
EMBEDS = {
    "identity": {"embed": "identity"},
    "linear": {"embed": "linear", "dim": 16},
    "linear_as_wide_as_units": {"embed": "linear", "dim": 0},
    "count_table": {"embed": "count_table", "embed_dim": 3, "max_spikes": 4},
}
EACH_EMBED = pytest.mark.parametrize("embed", EMBEDS)
HALF = Progress(1, 2)


def info(name: str, n_units: int) -> SessionInfo:
    return SessionInfo(f"toy/{name}", "m", np.array([f"u{i}" for i in range(n_units)]), 0, 0, 10**12)


A, B, C = info("a.1", 6), info("b", 9), info("c", 8)


def ndt1(sessions=(A,), heads=HEADS, seed: int = 0, **changes) -> Ndt1:
    torch.manual_seed(seed)
    model = Ndt1(
        Ndt1Config(
            **(Ndt1.sizes["tiny"] | {"dim": 16, "mask_mode": "timestep", "decode_weight": 10.0} | QUIET | changes)
        ),
        heads,
        TIMING,
    )
    model.add_sessions(list(sessions))
    return model.eval()


def make_batch(session: SessionInfo = A, heads=HEADS, n_windows: int = 2, queries: int = 7, seed: int = 0) -> Batch:
    """Counts that follow a slow signal; each decoding head asks for it at some times."""
    rng = np.random.default_rng(seed)
    n, rows = session.n_units, n_windows * N_BINS
    slow = np.stack([np.convolve(rng.normal(size=rows + 20), np.hanning(21), "valid") for _ in range(4)], 1) / 2.5
    counts = rng.poisson(np.exp(slow[:, :2] @ rng.normal(size=(2, n)) * 0.8 - 0.5)).clip(0, 9)
    start_ns = np.arange(n_windows, dtype=np.int64) * WINDOW_NS
    bins = np.concatenate([w * N_BINS + np.sort(rng.integers(0, N_BINS, queries)) for w in range(n_windows)])
    asked = {}
    for head in heads:
        at = np.arange(rows) if head.output == "counts" else bins
        ns, per_window = at * BIN_NS + BIN_NS // 2, len(at) // n_windows
        if head.output == "counts":
            target, weight = torch.from_numpy(counts).float(), torch.ones(rows, n)
        elif head.output == "classes":
            target, weight = torch.from_numpy((slow[at, 0] > 0).astype(np.int64)), torch.ones(len(at))
        else:
            target, weight = torch.from_numpy(slow[at, : head.size]).float(), torch.ones(len(at))
        time = torch.from_numpy((ns % WINDOW_NS / 1e9).astype(np.float32))
        asked[head.task] = Asked(time, torch.arange(n_windows + 1) * per_window, ns.astype(np.int64), target, weight)
    columns = {"counts": torch.from_numpy(counts.astype(np.uint8)), "observed": torch.ones(rows, dtype=torch.uint8)}
    tokens = Tokens(columns, torch.arange(n_windows + 1) * N_BINS)
    rows_of = torch.zeros(n_windows, dtype=torch.int64)
    return Batch({"counts": tokens}, WINDOW_NS, rows_of, [session.id] * n_windows, start_ns, asked)


def held_out(batch: Batch, units: int = 2, forward: int = 3) -> torch.Tensor:
    """bool ``[B * T, N]``: the last units, and the last bins of each window."""
    hidden = torch.zeros(batch.inputs["counts"].columns["counts"].shape, dtype=torch.bool)
    hidden[:, -units:] = True
    hidden.unflatten(0, (len(batch), N_BINS))[:, -forward:] = True
    return hidden


def with_counts(batch: Batch, where: torch.Tensor, value: int) -> Batch:
    """The same batch with other counts on the input side; targets stay."""
    changed = batch.clone()
    counts = changed.inputs["counts"].columns["counts"]
    counts[where.expand_as(counts)] = value
    return changed


def run(model: Ndt1, batch: Batch, seed: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return model(batch)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- width, state, sessions -----------------------------------------------------------------------------------------


def test_it_reads_binned_counts():
    assert Ndt1.inputs(Ndt1Config(), ["population"], TIMING) == {"counts": Input("binned", {"bin_ns": BIN_NS})}


def test_as_in_the_reference_it_is_as_wide_as_its_units():
    torch.manual_seed(0)
    model = Ndt1(Ndt1Config(**Ndt1.sizes["nlb"]), HEADS, TIMING)
    model.add_sessions([A])
    assert model.dim == 6
    assert len(model.read_in) == 0
    batch = make_batch()
    model.loss(batch, model(batch), HALF)["total"].backward()
    with pytest.raises(UsageError, match=r"model.embed=identity holds one session, toy/a\.1, not toy/c too"):
        model.add_sessions([C])
    with pytest.raises(UsageError, match="9 units, which 2 heads do not divide: use --set model.embed=linear"):
        Ndt1(model.config, HEADS, TIMING).add_sessions([B])
    with pytest.raises(UsageError, match="model.embed=linear with model.dim=0 holds one session"):
        ndt1((A, C), **EMBEDS["linear_as_wide_as_units"])


@EACH_EMBED
def test_each_embedding_trains_and_its_state_rebuilds_it(embed):
    model, batch = ndt1(**EMBEDS[embed]), make_batch(n_windows=4)
    assert model.dim == {"identity": 6, "linear": 16, "linear_as_wide_as_units": 6, "count_table": 18}[embed]
    before = model.loss(batch, model(batch), HALF)
    untouched = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model.train()
    for step in range(40):
        optimizer.zero_grad()
        model.loss(batch, run(model, batch, step), Progress(step, 40))["total"].backward()
        optimizer.step()
    model.eval()
    after = model.loss(batch, model(batch), HALF)
    assert all(after[term] < before[term] for term in ("population", VELOCITY.task, "total"))
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, untouched[name])]
    torch.manual_seed(9)
    other = Ndt1(model.config, HEADS, TIMING)
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert same(other.eval()(batch), model(batch))


def test_counts_above_the_table_read_its_last_row():
    model, batch = ndt1(**EMBEDS["count_table"]), make_batch()
    assert model.count_table.weight.shape == (6, 3)
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    top, above, below = (model(with_counts(batch, everywhere, value)) for value in (5, 200, 4))
    assert same(top, above)
    assert not same(top, below)


def test_positions():
    model, batch = ndt1(position="sinusoidal"), make_batch()
    assert not any("position" in key for key in model.state_dict())
    expected = model(batch)
    assert expected[VELOCITY.task].isfinite().all()
    shifted = ndt1(position="sinusoidal", position_offset=False)
    assert not same(shifted(batch), expected)


# ---- what is hidden -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@EACH_EMBED
def test_hidden_counts_never_reach_an_output(embed, training):
    """Neither in what stands for them, nor by the largest count that random replacements are drawn from."""
    model = ndt1(**EMBEDS[embed], mask_zero_ratio=0.3, mask_random_ratio=0.6, mask_mode="element").train(training)
    batch = make_batch()
    batch.hidden["counts"] = hidden = held_out(batch)
    expected = run(model, batch)
    for value in (0, 1, 250):
        assert same(run(model, with_counts(batch, hidden, value)), expected)
    assert not same(run(model, with_counts(batch, ~hidden, 1)), expected)
    assert expected["scored"][hidden].all()
    assert expected["scored"].all() == hidden.all() or training
    assert not training or 0 < expected["scored"][~hidden].float().mean() < 0.5


def test_in_evaluation_it_scores_what_is_hidden_and_else_what_was_observed():
    model, batch = ndt1(), make_batch()
    asked = batch.asked["population"]
    asked.weight[:10] = 0
    output = model(batch)
    assert torch.equal(output["scored"], asked.weight > 0)
    expected = torch.nn.PoissonNLLLoss(log_input=True, full=False)(output["population"][10:], asked.target[10:])
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)
    batch.hidden["counts"] = hidden = held_out(batch)
    output = model(batch)
    assert torch.equal(output["scored"], hidden & (asked.weight > 0))
    chosen = output["scored"]
    expected = torch.nn.PoissonNLLLoss(log_input=True, full=False)(output["population"][chosen], asked.target[chosen])
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)
    spoilt = copy.deepcopy(batch)
    spoilt.asked["population"].target[~chosen] = torch.nan
    assert model.loss(spoilt, output, HALF)["population"] == model.loss(batch, output, HALF)["population"]


def test_in_training_it_hides_whole_bins_of_its_own():
    model, batch = ndt1(mask_ratio=0.5).train(), make_batch()
    batch.asked["population"].weight[:10] = 0
    output = run(model, batch)
    scored = output["scored"]
    assert torch.equal(scored, scored[:, :1].expand_as(scored))
    assert 0 < scored[10:].float().mean() < 1
    assert not scored[:10].any()
    assert same(run(model, batch), output)
    unseen = scored.nonzero()[0, 0]
    for row, changes in ((int(unseen), False), (int((~scored[10:, 0]).nonzero()[0]) + 10, True)):
        where = torch.zeros(len(scored), 1, dtype=torch.bool)
        where[row] = True
        assert same(run(model, with_counts(batch, where, 7)), output) != changes


def test_hidden_counts_and_its_own_mask_are_scored_together():
    model, batch = ndt1(mask_ratio=0.3).train(), make_batch()
    own = run(model, batch)["scored"]
    batch.hidden["counts"] = held_out(batch)
    assert torch.equal(run(model, batch)["scored"], own | held_out(batch))


@pytest.mark.parametrize(
    ("mode", "constant_over"), [("timestep", (2,)), ("shared_timestep", (0, 2)), ("unit", (1,)), ("element", ())]
)
def test_mask_modes(mode, constant_over):
    model, batch = ndt1(mask_ratio=0.5, mask_mode=mode).train(), make_batch(n_windows=8)
    scored = run(model, batch)["scored"].unflatten(0, (8, N_BINS))
    for axis in range(3):
        first = scored.narrow(axis, 0, 1)
        assert torch.equal(first.expand_as(scored), scored) == (axis in constant_over)


def test_spans_follow_the_batches_seen():
    model, batch = ndt1(mask_max_span=4, span_ramp_start=1, span_ramp_end=2, mask_ratio=0.2).train(), make_batch()
    for _ in range(3):
        model(batch)
    assert model.batches_seen == 3
    assert model.state_dict()["batches_seen"] == 3
    model.eval()(batch)
    assert model.batches_seen == 3


# Over 2,000 batches of [16, 40, 10] the reference's mask function hides this share of the counts, with this standard
# deviation between batches; these shares of the hidden stretches of a unit are 1, 2, 3 ... bins long; of what is hidden
# these shares became 0, and stayed as they were. Counts were drawn uniformly from 1..5, widths of spans from 1..7.
REFERENCE_MASKS = {
    "timestep": ((0.2, 1, 1.0), 0.19977, 0.01555, (0.8063, 0.1566, 0.0295, 0.0062), 1.0, 0.0),
    "timestep in spans": ((0.25, 7, 1.0), 0.22773, 0.03238, (0.2958, 0.2263, 0.1328, 0.1122, 0.0795, 0.0620), 1.0, 0.0),
    "timestep corrupted": ((0.25, 1, 0.8), 0.24982, 0.01672, (0.7580, 0.1838, 0.0437, 0.0108), 0.8201, 0.1158),
    "element": ((0.25, 1, 1.0), 0.24987, 0.00551, (0.7563, 0.1835, 0.0457, 0.0104), 1.0, 0.0),
    "shared_timestep": ((0.25, 1, 1.0), 0.25133, 0.06854, (0.7558, 0.1831, 0.0463, 0.0114), 1.0, 0.0),
}


@pytest.mark.parametrize(
    "name", [n if n == "timestep corrupted" else pytest.param(n, marks=pytest.mark.slow) for n in REFERENCE_MASKS]
)
def test_masks_have_the_statistics_of_the_reference(name):
    (ratio, widest, zero_ratio), share, deviation, stretches, zeroed, unchanged = REFERENCE_MASKS[name]
    generator, draws, shape = torch.Generator().manual_seed(4), 700, (16, 40, 10)
    shares, lengths, became = [], [], []
    for draw in range(draws):
        counts = torch.randint(1, 6, shape, generator=generator).float()
        span = 1 + draw % widest  # each width as often as the others
        hidden = hide(name.split()[0], shape, ratio, span, generator=generator).expand(shape)
        seen = corrupt(counts, hidden, zero_ratio, 0.5, generator)
        assert torch.equal(seen[~hidden], counts[~hidden])
        shares.append(hidden.float().mean())
        became.append(torch.stack([(seen == 0)[hidden].float().mean(), (seen == counts)[hidden].float().mean()]))
        edges = torch.nn.functional.pad(hidden[:, :, 0].int(), (1, 1)).diff(dim=1)
        lengths.append((edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1])
    shares, lengths = torch.stack(shares), torch.cat(lengths)
    assert shares.mean() == pytest.approx(share, abs=4 * deviation * (1 / draws + 1 / 2000) ** 0.5)
    assert shares.std() == pytest.approx(deviation, rel=0.12)
    found = [(lengths == k + 1).float().mean().item() for k in range(len(stretches))]
    assert found == pytest.approx(stretches, abs=0.012)
    assert torch.stack(became).nanmean(0).tolist() == pytest.approx([zeroed, unchanged], abs=0.005)


# ---- attention ------------------------------------------------------------------------------------------------------


def reach(model: Ndt1, row: int) -> list[int]:
    """Bins of a window whose output changes with the count in one bin."""
    batch = make_batch(n_windows=1)
    where = torch.zeros(N_BINS, 1, dtype=torch.bool)
    where[row] = True
    expected, changed = model(batch)["population"], model(with_counts(batch, where, 9))["population"]
    return ((changed - expected).abs().amax(1) > 0).nonzero().flatten().tolist()


def test_it_attends_to_its_band():
    assert reach(ndt1(context_forward=1, context_backward=2, layers=1), 10) == [9, 10, 11, 12]
    assert reach(ndt1(context_forward=-1, context_backward=2, layers=1), 10) == list(range(13))
    assert reach(ndt1(context_forward=1, context_backward=-1, layers=1), 10) == list(range(9, N_BINS))
    assert reach(ndt1(context_forward=-1, context_backward=-1, layers=1), 10) == list(range(N_BINS))
    assert reach(ndt1(context_forward=1, context_backward=0, layers=1), 10) == [9, 10]


def test_without_a_context_ahead_it_is_causal():
    model = ndt1(context_forward=0, context_backward=-1)
    assert model.causal
    assert reach(model, 10) == list(range(10, N_BINS))
    assert not ndt1().causal
    assert not Ndt1.causal


@pytest.mark.parametrize(
    "changes", [{"pre_norm": False}, {"final_norm": "scale", "activation": "gelu"}, {"read_out_layers": 2}]
)
def test_other_layers(changes):
    model, batch = ndt1(**changes), make_batch()
    output = model(batch)
    assert not same(output, ndt1()(batch))
    model.loss(batch, output, HALF)["total"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# ---- heads and losses -----------------------------------------------------------------------------------------------


def test_decoding_alone_can_leave_the_encoder_to_the_spikes():
    for joint in (False, True):
        model, batch = ndt1(decode_joint=joint), make_batch()
        model.loss(batch, model(batch), HALF)[VELOCITY.task].backward()
        assert all(p.grad.abs().sum() > 0 for p in model.decoders.parameters())
        reached = [p for p in model.layers.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert bool(reached) == joint


def test_several_heads_and_their_sum():
    heads = (POPULATION, VELOCITY, POSITION, TARGET_ID)
    model, batch = ndt1(heads=heads, decode_weight=3.0), make_batch(heads=heads)
    output = model(batch)
    for head in heads[1:]:
        assert output[head.task].shape == (14, head.size)
    assert output["population"].shape == batch.asked["population"].target.shape
    terms = model.loss(batch, output, HALF)
    assert set(terms) == {head.task for head in heads} | {"total"}
    decode = terms[VELOCITY.task] + terms[POSITION.task] + terms[TARGET_ID.task]
    torch.testing.assert_close(terms["total"], terms["population"] + 3.0 * decode)
    asked = batch.asked[TARGET_ID.task]
    expected = torch.nn.functional.cross_entropy(output[TARGET_ID.task], asked.target)
    torch.testing.assert_close(terms[TARGET_ID.task], expected)
    asked.weight[3], asked.target[3] = 0, -1
    kept = torch.arange(14) != 3
    expected = torch.nn.functional.cross_entropy(output[TARGET_ID.task][kept], asked.target[kept])
    torch.testing.assert_close(model.loss(batch, output, HALF)[TARGET_ID.task], expected)


def test_answers_stand_at_the_bins_of_their_queries():
    model, batch = ndt1(), make_batch(queries=N_BINS)
    asked = batch.asked[VELOCITY.task]
    asked.ns = np.arange(2 * N_BINS) * BIN_NS
    everywhere = model(batch)[VELOCITY.task]
    asked.offset, asked.ns = torch.tensor([0, 1, 3]), np.array([3, 26, 49]) * BIN_NS + BIN_NS - 1
    asked.target, asked.weight = torch.zeros(3, 2), torch.ones(3)
    assert torch.equal(model(batch)[VELOCITY.task], everywhere[[3, 26, 49]])


def test_a_batch_without_labels_trains_what_is_a_session_s_own():
    model = ndt1((A, B)).train()
    batch = make_batch(B, heads=(POPULATION,))
    terms = model.loss(batch, model(batch), HALF)
    assert set(terms) == {"population", "total"}
    assert terms["total"] == terms["population"]
    terms["total"].backward()
    assert all(part.parameter.grad.abs().sum() > 0 for part in model.identity_parameters([B.id]))
    assert all(part.parameter.grad is None for part in model.identity_parameters([A.id]))
    assert model.why_not("identity_unlabelled", B.id) == model.why_not("identity_only", B.id) == ""
    assert "read-in is a session's own" in model.why_not("zero_shot", B.id)
    assert "cannot set" in model.why_not("zero_gradient", B.id)


def test_a_run_without_the_population_has_no_read_out_and_hides_nothing():
    model, batch = ndt1(heads=(VELOCITY,)), make_batch(heads=(VELOCITY,))
    assert len(model.read_out) == 0
    expected = model(batch)
    assert set(expected) == {VELOCITY.task}
    assert same(model.train()(batch), expected)
    terms = model.loss(batch, expected, HALF)
    assert set(terms) == {VELOCITY.task, "total"}
    torch.testing.assert_close(terms["total"], 10.0 * terms[VELOCITY.task])
    assert "no population task" in model.why_not("identity_unlabelled", A.id)
    assert len(model.identity_parameters()) == 2
    hidden = torch.zeros(2 * N_BINS, 6, dtype=torch.bool)
    hidden[:, 2] = True
    batch.hidden["counts"] = hidden
    assert same(model(with_counts(batch, hidden, 9)), model(batch))
    bare = ndt1(heads=(VELOCITY,), embed="identity")
    assert "no parameters of a session's own" in bare.why_not("identity_only", A.id)


def test_a_batch_that_asks_nothing_costs_nothing():
    model, batch = ndt1(), make_batch(heads=())
    assert model(batch) == {}
    terms = model.loss(batch, {}, HALF)
    assert terms.keys() == {"total"}
    assert terms["total"] == 0
    empty = make_batch(queries=0)
    assert model(empty)[VELOCITY.task].shape == (0, 2)
    assert model.loss(empty, model(empty), HALF)[VELOCITY.task] == 0


def test_rates_instead_of_log_rates():
    model, batch = ndt1(log_rate=False), make_batch()
    output = model(batch)
    assert (output["rate"] == 0).any()
    torch.testing.assert_close(output["population"].exp(), output["rate"] + 1e-8)
    loss = torch.nn.PoissonNLLLoss(log_input=False, full=False, eps=1e-8)
    expected = loss(output["rate"], batch.asked["population"].target)
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_rates_start_from_the_means_of_the_observed_training_time(layers):
    """Only with rate_init, and only of what was observed; no other parameter moves."""
    counts = np.random.default_rng(3).poisson(0.3, (40, 6)).astype(np.uint8)
    observed = np.ones(40, np.uint8)
    observed[30:] = 0
    counts[:, 2] = 0
    stretches = {A.id: [Stretch({"counts": {"counts": counts, "observed": observed}}, {}, {})]}
    plain, fitted = ndt1(read_out_layers=layers), ndt1(read_out_layers=layers, rate_init=True)
    plain.fit({})
    fitted.fit(stretches)
    changed = [n for (n, a), (_, b) in zip(plain.state_dict().items(), fitted.state_dict().items(), strict=True)
               if not torch.equal(a, b)]  # fmt: skip
    assert len(changed) == 1 and changed[0].endswith("bias")
    expected = np.log((counts[:30].sum(0) + 0.5) / 31)
    np.testing.assert_allclose(fitted.state_dict()[changed[0]].numpy(), expected, rtol=1e-6)
    rates = ndt1(read_out_layers=layers, rate_init=True, log_rate=False)
    rates.fit(stretches)
    np.testing.assert_allclose(rates.state_dict()[changed[0]].numpy(), np.exp(expected), rtol=1e-6)
    ndt1(heads=(VELOCITY,), rate_init=True).fit({})  # no read-out, nothing to set


def test_the_hardest_counts_alone():
    model, batch = ndt1(loss_top=0.25), make_batch()
    output = model(batch)
    z, y = output["population"], batch.asked["population"].target
    term = (z.exp() - y * z).flatten().sort(descending=True).values
    expected = term[: len(term) // 4].sum() / len(term)
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)


# ---- attention in two levels ----------------------------------------------------------------------------------------


def two_levels(**changes) -> Ndt1:
    return ndt1(**({"layers": 3, "local_ms": 100.0, "embed": "linear", "dim": 16} | changes))


def test_two_levels_are_the_layers_of_one_applied_to_blocks():
    """The slow way: window by window, block by block, with the model's own layers and no packed rows."""
    model, batch = two_levels(layers=4), make_batch()
    before, first, second, behind = model.layers
    counts = batch.inputs["counts"].columns["counts"].float().unflatten(0, (2, N_BINS))
    rates = []
    for window in counts:
        x = model.read_in["toy/a%2E1"](window) * 4 + model._positions(N_BINS, window.device)
        blocks = [before(block, [5]) for block in x.split(5)]
        means = torch.stack([block.mean(0) for block in blocks])
        gained = second(first(means, [5]), [5]) - means
        whole = torch.cat([behind(block + gain, [5]) for block, gain in zip(blocks, gained, strict=True)])
        rates.append(model.read_out["toy/a%2E1"](model.norm(whole)))
    with torch.no_grad():
        torch.testing.assert_close(run(model, batch)["population"], torch.cat(rates).detach(), rtol=1e-4, atol=1e-5)


def test_two_levels_have_the_parameters_of_one():
    one, two = ndt1(layers=3).state_dict(), two_levels().state_dict()
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in two.items()}
    assert not same(run(ndt1(layers=3), make_batch()), run(two_levels(), make_batch()))


def test_a_bin_hears_far_bins_through_their_block_alone():
    """Two changes in another block that leave its mean as the first layers give it cannot be told apart."""
    model, batch = two_levels(), make_batch(n_windows=1)
    changed = with_counts(batch, (torch.arange(N_BINS) == 2)[:, None], 5)
    said, other = (run(model, b)["population"] for b in (batch, changed))
    assert not torch.equal(said[20], other[20])
    moved = []
    hook = model.layers[1].register_forward_hook(lambda layer, given, out: moved.append(out.detach()))
    run(model, batch)
    hook.remove()
    model.layers[1].register_forward_hook(lambda layer, given, out: moved[0])  # the blocks tell what they told before
    assert torch.equal(run(model, changed)["population"][5:], said[5:])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"local_ms": 90.0}, "local_ms is 90, data.bin_ms 20 and data.window_ms 500: blocks must be whole bins"),
        ({"local_ms": 200.0}, "windows whole blocks"),
        ({"layers": 2}, "model.layers is 2: with model.local_layers 1 before and behind none is left"),
        ({"context_forward": 0}, "context_forward 0 and model.context_backward -1: set both to -1"),
        ({"local_ms": -1.0}, "local_ms is -1"),
    ],
)
def test_levels_that_cannot_be_are_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        two_levels(**changes)


def test_a_window_that_is_no_whole_number_of_blocks_is_refused():
    batch, columns = make_batch(n_windows=1), make_batch(n_windows=1).inputs["counts"].columns
    batch.inputs["counts"] = Tokens({key: c[:23] for key, c in columns.items()}, torch.tensor([0, 23]))
    with pytest.raises(DataError, match="23 bins, which are no whole number of blocks of 5 bins"):
        two_levels()(batch)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"embed": "linear", "dim": 15}, "model.dim is 15, which 2 heads"),
        ({"mask_ratio": 1.5}, r"mask_ratio is 1\.5"),
        ({"dim": -1}, "model.dim is -1, must be at least 0"),
        ({"context_backward": -2}, "context_backward is -2, must be at least -1"),
        ({"loss_top": 0.0}, r"loss_top is 0\.0, must be in"),
        ({"read_out_layers": 3}, "read_out_layers is 3, must be 1 or 2"),
        ({"mask_mode": "unit", "mask_max_span": 3}, "mask_mode unit hides no whole bins"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        Ndt1Config(**changes)


def test_a_batch_is_refused():
    with pytest.raises(DataError, match="25 bins and model.max_bins is 24"):
        ndt1(max_bins=N_BINS - 1)(make_batch())
    mixed = make_batch()
    mixed.sessions = [A.id, B.id]
    with pytest.raises(DataError, match=r"ndt1 reads batches of one session.*toy/a\.1, toy/b"):
        ndt1((A, B))(mixed)
    with pytest.raises(DataError, match=r"toy/b: the batch has 6 units, the model knows 9"):
        ndt1((A, B))(dataclasses.replace(make_batch(), sessions=[B.id, B.id]))
    with pytest.raises(UsageError, match="answers one question of counts"):
        ndt1(heads=(POPULATION, dataclasses.replace(POPULATION, task="population:again")))
