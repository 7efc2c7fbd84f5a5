"""What LFADS promises beside the contract: its GRU, encoder and priors, coordinated dropout, draws, read-ins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Batch, Input, Progress, Stretch, Timing  # noqa: E402
from spiketok.models.lfads import Lfads, LfadsConfig  # noqa: E402
from spiketok.models.lfads_layers import (  # noqa: E402
    AutoregressivePrior,
    Bidirectional,
    Encoder,
    Gru,
    NormalPrior,
    Step,
    recurrent_l2,
)
from spiketok.models.lfads_read_ins import principal, regression, smoothed  # noqa: E402
from spiketok.models.losses import poisson_log_rate, stirling  # noqa: E402
from spiketok.models.masking import coordinated_dropout  # noqa: E402
from tests.models.test_ndt1 import (  # noqa: E402
    BIN_NS,
    HALF,
    HEADS,
    N_BINS,
    POPULATION,
    TARGET_ID,
    TIMING,
    VELOCITY,
    A,
    B,
    held_out,
    info,
    make_batch,
    run,
    same,
    with_counts,
)

SMALL = dict.fromkeys(("read_in", "encoder", "input_encoder", "controller", "initial", "generator", "factors"), 8)


def lfads(sessions=(A, B), heads=HEADS, seed: int = 0, **changes) -> Lfads:
    torch.manual_seed(seed)
    model = Lfads(LfadsConfig(**(Lfads.sizes["tiny"] | SMALL | changes)), heads, TIMING)
    model.add_sessions(list(sessions))
    return model.eval()


def wide(model: Lfads, factor: float = 3.0) -> Lfads:
    """With larger weights, so that what is read shows in what is put out."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "prior" not in name:
                parameter.mul_(factor)
    return model


# ---- sessions, sizes ------------------------------------------------------------------------------------------------


def test_it_reads_binned_counts_of_several_sessions_or_of_one():
    assert Lfads.inputs(LfadsConfig(), ["population"], TIMING) == {"counts": Input("binned", {"bin_ns": BIN_NS})}
    assert not lfads().one_session and not Lfads.causal
    one = lfads((A,), read_in=0, pcr=False)
    assert one.one_session and one.own["toy/a%2E1"].read_in is None
    with pytest.raises(UsageError, match=r"model.read_in=0 holds one session, toy/a\.1, not toy/b too: set model.read"):
        one.add_sessions([B])
    assert one.sessions() == [A.id]
    blind = lfads((A,), heads=(VELOCITY,), read_in=0, pcr=False)
    assert "no parameters of a session's own" in blind.why_not("identity_only", A.id)
    assert "no population task" in lfads(heads=(VELOCITY,)).why_not("identity_unlabelled", A.id)


@pytest.mark.parametrize(("size", "held_in", "units"), [("mc_maze", 137, 182), ("dmfc_rsg", 40, 54)])
def test_published_sizes_have_the_parameters_of_the_original(size, held_in, units):
    """Counted from torch's cells, less their second biases; and the columns of held-out units, which it does not have.

    The original learns neither those biases nor the variance of the first state's prior.
    """
    config = LfadsConfig(**Lfads.sizes[size])
    model = Lfads(config, [POPULATION], Timing(45 * BIN_NS, BIN_NS))
    model.add_sessions([info("x", units)])

    def cell(n_in: int, dim: int) -> int:
        return sum(p.numel() for p in torch.nn.GRUCell(n_in, dim).parameters()) - 3 * dim

    e, c, f = config.encoder, config.input_encoder, config.factors
    encoder = 2 * (cell(held_in, e) + e + cell(held_in, c) + c) + (2 * e + 1) * 2 * config.initial
    decoder = (config.initial + 1) * config.generator + cell(config.inputs, config.generator) + f * config.generator
    controller = cell(2 * c + f, config.controller) + config.controller + (config.controller + 1) * 2 * config.inputs
    priors, read_out = config.initial + 2 * config.inputs, (f + 1) * units
    held_out_columns = 2 * 3 * (e + c) * (units - held_in)
    expected = encoder + decoder + controller + priors + read_out + held_out_columns
    assert sum(p.numel() for p in model.parameters()) == expected


def test_a_fixed_read_in_does_not_train_with_the_rest():
    model = lfads(read_in_train=False)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {f"own.{key}.read_in.{part}" for key in model.own for part in ("weight", "bias")}
    assert len(model.identity_parameters([A.id])) == 4  # transfer trains it all the same


# ---- recurrences ----------------------------------------------------------------------------------------------------


def slow_step(gru: Gru, x, h):
    """By the formulas, gate by gate."""
    d = gru.dim
    w, u, b = (part.split(d) for part in (gru.weight, gru.kernel, gru.bias))
    z, r = (torch.sigmoid(x @ w[k].T + h @ u[k].T + b[k]) for k in (0, 1))
    n = torch.tanh(x @ w[2].T + (r * h) @ u[2].T + b[2])
    return (z * h + (1 - z) * n).clamp(-gru.clip, gru.clip)


def test_the_step_is_the_formula_and_its_gradient_is_numerical():
    torch.manual_seed(0)
    gru = Gru(3, 5, 5.0)
    assert gru.bias.tolist() == [1.0] * 10 + [0.0] * 5
    x, h = torch.randn(4, 3), 4 * torch.randn(4, 5)
    torch.testing.assert_close(gru(x, h), slow_step(gru, x, h))
    assert (gru(x, 20 * h).abs() == 5.0).any()
    for lead in ((4,), (2, 4)):
        own = (2,) if len(lead) == 2 else ()
        shapes = ((*lead, 10), (*lead, 5), (*lead, 5), (*own, 5, 10), (*own, 5, 5))
        inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        assert torch.autograd.gradcheck(Step.apply, inputs)


def test_both_directions_are_steps_one_after_the_other():
    torch.manual_seed(0)
    both, x = Bidirectional(3, 5, 1.0), torch.randn(6, 4, 3)
    with torch.no_grad():
        both.start.normal_(std=3.0)
    ahead, back = both(x)
    for gru, start, got, order in ((both.ahead, 0, ahead, range(6)), (both.back, 1, back, range(5, -1, -1))):
        h = both.start[start].expand(4, -1)
        for t in order:
            h = slow_step(gru, x[t], h)
            torch.testing.assert_close(got[t], h)
    assert ahead[0].abs().max() == 1.0  # clipped


@pytest.mark.parametrize(("initial_bins", "lag"), [(0, 1), (0, 3), (4, 2), (0, 0)])
def test_what_the_controller_reads_of_each_bin(initial_bins, lag):
    """Of the past without the last ``lag`` bins, of the future without the next; nothing of the initial bins."""
    torch.manual_seed(0)
    sizes = {"initial_bins": initial_bins, "lag": lag, "min_var": 1e-4, "clip": 5.0, "dropout": 0.0}
    encoder = Encoder(3, 5, 4, 6, **sizes)
    x = torch.randn(2, 12, 3)
    expected = encoder(x, 15)
    assert expected.seen.shape == (15, 2, 8)
    assert not expected.seen[12:].any() and not expected.seen[:initial_bins].any()
    moved = x.clone()
    moved[:, 7] += 1
    got = encoder(moved, 15)
    late, early = (
        (part.abs().amax((1, 2)) > 0).nonzero().flatten().tolist() for part in (got.seen - expected.seen).split(4, -1)
    )
    assert late == list(range(7 + lag, 12))
    assert early == list(range(initial_bins, 8 - lag))
    assert torch.equal(got.mean, expected.mean) == (initial_bins > 0)
    assert (expected.std > 1e-2).all()


def test_rates_are_a_linear_layer_on_factors_of_normed_rows():
    model, batch = lfads(), make_batch(B)
    output, weight = model(batch), model.decoder.to_factors.weight
    seen = model._see(batch)
    rollout = model.roll_out(seen, model.encode(seen))
    torch.testing.assert_close(rollout.factors, rollout.states @ (weight / weight.norm(dim=1, keepdim=True)).T)
    own = model.own["toy/b"].read_out
    torch.testing.assert_close(output["population"], output["factors"] @ own.weight.T + own.bias)
    shapes = {"factors": (2 * N_BINS, 8), "initial_condition": (2, 8), "inferred_inputs": (2 * N_BINS, 4)}
    assert {name: tuple(output[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("changes", [{"inputs": 0}, {"controller": 0}, {"input_encoder": 0}])
def test_without_a_controller_no_input_is_inferred(changes):
    model, batch = lfads(**changes).train(), make_batch(B)
    output = run(model, batch)
    assert output["inferred_inputs"].shape == (2 * N_BINS, 0)
    terms = model.loss(batch, output, HALF)
    assert terms["kl_inputs"] == 0
    terms["total"].backward()
    assert not hasattr(model, "input_prior") and model.encoder.of_inputs is None


# ---- priors and losses ----------------------------------------------------------------------------------------------


def test_divergences_are_those_of_the_distributions():
    torch.manual_seed(0)
    mean, std = torch.randn(5, 7), torch.rand(5, 7) + 0.3
    prior = NormalPrior(7, 0.1)
    with torch.no_grad():
        prior.mean.normal_()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(prior.mean, 0.1**0.5)).sum(-1)
    torch.testing.assert_close(prior.kl(mean, std), expected)
    process = AutoregressivePrior(2, 3.0, 0.2)
    mean, std = torch.randn(3, 6, 2), torch.rand(3, 6, 2) + 0.3
    decay = np.exp(-1 / 3.0)
    gaps = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    covariance = torch.from_numpy(0.2 / (1 - decay**2) * decay**gaps).float()
    whole = torch.distributions.MultivariateNormal(torch.zeros(6), covariance)
    expected = torch.zeros(3)
    for k in range(2):
        own = torch.distributions.MultivariateNormal(mean[..., k], torch.diag_embed(std[..., k] ** 2))
        expected = expected + torch.distributions.kl_divergence(own, whole)
    torch.testing.assert_close(process.kl(mean, std), expected, rtol=1e-4, atol=1e-4)
    many = (part.repeat(4000, 1, 1) for part in (mean, std))
    draws = process.sampled_kl(*many, torch.randn(12000, 6, 2)).unflatten(0, (4000, 3))
    assert ((draws.mean(0) - expected).abs() < 5 * draws.std(0) / 4000**0.5).all()


def test_the_terms_of_a_training_pass():
    changes = {"l2_generator": 0.3, "l2_controller": 0.1, "kl_initial": 0.01, "kl_inputs": 0.02, "loss_scale": 7.0}
    model, batch = lfads(kl_start=0.25, kl_ramp=0.5, l2_start=0.0, l2_ramp=0.0, **changes).train(), make_batch(B)
    output = run(model, batch)
    asked, z = batch.asked["population"], output["population"]
    for share, ramp in ((0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.75, 1.0), (1.0, 1.0)):
        terms = model.loss(batch, output, Progress(int(100 * share), 100))
        parts = terms["population"] + model.config.decode_weight * terms[VELOCITY.task] + terms["l2"]
        parts = parts + ramp * (0.01 * terms["kl_initial"] + 0.02 * terms["kl_inputs"])
        torch.testing.assert_close(terms["total"], 7.0 * parts)
    expected = torch.nn.functional.poisson_nll_loss(z, asked.target, full=True)
    torch.testing.assert_close(terms["population"], expected)
    kernels = model.decoder.generator.kernel, model.decoder.controller.kernel
    l2 = (0.3 * kernels[0].square().sum() / 2 + 0.1 * kernels[1].square().sum() / 2) / (2 * 24 * 8)
    torch.testing.assert_close(terms["l2"], l2)
    assert recurrent_l2([(kernels[0], 0.0)]) == 0
    assert "kl_initial" not in model.eval()(batch)
    assert set(model.loss(batch, model(batch), HALF)) == {"population", VELOCITY.task, "total"}


def test_stirling_counts_what_is_scored():
    count = torch.tensor([[0.0, 1.0, 2.0], [7.0, 300.0, 3.0]])
    scored = torch.tensor([[True, True, True], [True, False, True]])
    z = torch.zeros(2, 3)
    expected = torch.nn.functional.poisson_nll_loss(z[scored], count[scored], full=True)
    torch.testing.assert_close(poisson_log_rate(z, count, scored) + stirling(count, scored), expected)
    assert stirling(count, torch.zeros_like(scored)) == 0


# ---- coordinated dropout --------------------------------------------------------------------------------------------


def test_dropped_counts_have_the_statistics_of_the_original():
    """Over 2,000 draws of [8, 20, 10] the original dropped .30006 with sd .01121, and kept 1 as 1.42857; with a pass
    rate of .2 gradients flowed from .44030."""
    generator, draws, shape = torch.Generator().manual_seed(3), 500, (8, 20, 10)
    ones, shares, passed = torch.ones(shape), [], []
    for _ in range(draws):
        seen, learned = coordinated_dropout(ones, 0.3, generator=generator)
        assert torch.equal(learned, seen == 0)
        shares.append(learned.float().mean())
        passed.append(coordinated_dropout(ones, 0.3, 0.2, generator)[1].float().mean())
    shares = torch.stack(shares)
    assert seen.max() == pytest.approx(1 / 0.7)
    assert shares.mean() == pytest.approx(0.300063, abs=4 * 0.01121 * (1 / draws + 1 / 2000) ** 0.5)
    assert shares.std() == pytest.approx(0.01121, rel=0.15)
    assert torch.stack(passed).mean() == pytest.approx(0.440296, abs=4 * 0.0125 * (1 / draws + 1 / 2000) ** 0.5)
    whole, learned = coordinated_dropout(ones, 0.0)
    assert torch.equal(whole, ones) and learned.all()


def test_gradients_flow_from_dropped_hidden_and_initial_counts_alone():
    model, batch = lfads(drop=0.4, initial_bins=3).train(), make_batch(B)
    batch.hidden["counts"] = hidden = held_out(batch)
    output = run(model, batch)
    z, learned = output["population"], output["learned"]
    z.retain_grad()
    terms = model.loss(batch, output, HALF)
    terms["population"].backward()
    assert torch.equal(z.grad != 0, learned)
    assert learned[hidden].all() and learned.unflatten(0, (2, N_BINS))[:, :3].all()
    free = ~hidden.unflatten(0, (2, N_BINS))[:, 3:]
    share = learned.unflatten(0, (2, N_BINS))[:, 3:][free].float().mean()
    assert share == pytest.approx(0.4, abs=0.1)
    whole = model.loss(batch, {k: v for k, v in output.items() if k != "learned"}, HALF)
    assert terms["population"] == whole["population"]  # the value is that of all
    torch.manual_seed(2)
    seen = model._see(batch)
    dropped = learned.unflatten(0, (2, N_BINS))[:, :22, :7]
    assert not seen.counts[:, 3:22, :7][dropped[:, 3:]].any()
    quirks = run(lfads(drop=0.4, initial_bins=3, reference_quirks=True).train(), batch)["learned"]
    moved = learned.unflatten(0, (2, N_BINS))[:, 3:22, :7]
    assert torch.equal(quirks.unflatten(0, (2, N_BINS))[:, :19, :7], moved)
    assert "learned" not in run(lfads(heads=(VELOCITY,)).train(), make_batch(B, heads=(VELOCITY,)))


# ---- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_hidden_and_unobserved_counts_never_reach_an_output(training):
    model, batch = wide(lfads()).train(training), make_batch(B)
    batch.hidden["counts"] = hidden = held_out(batch)
    model.own["toy/b"].mean.fill_(0.7)
    expected = run(model, batch)
    for value in (0, 1, 250):
        assert same(run(model, with_counts(batch, hidden, value)), expected)
    assert not same(run(model, with_counts(batch, ~hidden, 1)), expected)
    columns = batch.inputs["counts"].columns
    columns["observed"][5:9] = 0
    gap = torch.zeros_like(hidden)
    gap[5:9] = True
    expected = run(model, batch)
    assert same(run(model, with_counts(batch, gap, 9)), expected)
    by_unit = batch.clone()
    by_unit.inputs["counts"].columns["unit_observed"] = (~gap).to(torch.uint8)
    assert same(run(model, by_unit), expected)


def test_what_is_hidden_reads_as_the_mean_count_and_bins_ahead_reach_no_encoder():
    model, batch = lfads(), make_batch(B)
    model.own["toy/b"].mean.copy_(torch.arange(9))
    batch.hidden["counts"] = hidden = held_out(batch)
    seen = model._see(batch)
    assert seen.counts.shape == (2, N_BINS - 3, 9) and seen.n_bins == N_BINS
    assert (seen.counts[..., -2:] == torch.tensor([7.0, 8.0])).all()
    assert not model.encode(seen).seen[-3:].any()
    hidden[:] = True
    assert model._see(batch).counts.shape == (2, N_BINS, 9)  # nothing is seen: all of it is the mean
    hidden.unflatten(0, (2, N_BINS))[0, -1] = False
    with pytest.raises(DataError, match="windows of a batch hide 0 to 25 bins at their end, expected the same number"):
        model(batch)
    batch.hidden["counts"] = held_out(batch)
    with pytest.raises(DataError, match="model.initial_bins is 22 and 22 bins of a window are seen"):
        lfads(initial_bins=22)(batch)


def test_another_order_of_the_units_with_their_identities_changes_nothing():
    model, batch = wide(lfads()), make_batch(B)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    moved, other = batch.clone(), lfads()
    other.load_state_dict(model.state_dict())
    own = other.own["toy/b"]
    with torch.no_grad():
        own.read_in.weight.copy_(own.read_in.weight[:, order])
        own.read_out.weight.copy_(own.read_out.weight[order])
    moved.inputs["counts"].columns["counts"] = batch.inputs["counts"].columns["counts"][:, order]
    expected = model(batch)["population"][:, order]
    ulps = (
        32 * torch.finfo(torch.float32).eps * expected.abs().max().item()
    )  # sums in another order, of values up to 12
    torch.testing.assert_close(other(moved)["population"], expected, rtol=1e-4, atol=ulps)


def external_batch(given: tuple[str, ...]) -> Batch:
    return dataclasses.replace(make_batch(B), given=given)


def test_a_behaviour_may_be_an_input_of_the_generator_where_it_is_given():
    model = wide(lfads(external=(VELOCITY.task,)))
    blind, told = (model(external_batch(given))["population"] for given in ((), (VELOCITY.task,)))
    assert not torch.equal(blind, told)
    for given, changes in (((), False), ((VELOCITY.task,), True)):
        batch = external_batch(given)
        expected = model(batch)
        batch.asked[VELOCITY.task].target.add_(1.0)
        assert same(model(batch), expected) != changes
        batch.asked[VELOCITY.task].weight.zero_()
        torch.testing.assert_close(model(batch)["population"], blind)
    assert not same(run(model.train(), external_batch(())), run(lfads(external=()).train(), external_batch(())))
    with pytest.raises(UsageError, match=r"model.external names 'x', .* \(decode:hand_vel\)"):
        lfads(external=("x",))


# ---- draws ----------------------------------------------------------------------------------------------------------


def test_predictions_are_means_over_draws_that_follow_from_the_window():
    model, heads = wide(lfads(samples=6, heads=(POPULATION, VELOCITY, TARGET_ID)), 2.0), (POPULATION, VELOCITY)
    batch = make_batch(B, heads=heads, n_windows=3)
    torch.manual_seed(1)
    found, _ = model.predict(batch)
    torch.manual_seed(2)
    assert same(model.predict(batch)[0], found)
    alone = make_batch(B, heads=heads, n_windows=3)
    columns = {name: c[N_BINS : 2 * N_BINS] for name, c in alone.inputs["counts"].columns.items()}
    alone.inputs["counts"].columns, alone.inputs["counts"].offset = columns, torch.tensor([0, N_BINS])
    asked = {POPULATION.task: dataclasses.replace(alone.asked[POPULATION.task], ns=alone.asked["population"].ns[:25])}
    alone = dataclasses.replace(alone, sessions=[B.id], start_ns=alone.start_ns[1:2], asked=asked)
    got = model.predict(alone)[0]["population"]
    torch.testing.assert_close(got, found["population"][N_BINS : 2 * N_BINS], rtol=1e-4, atol=1e-5)
    few, none = (wide(lfads(samples=n, heads=(POPULATION, VELOCITY, TARGET_ID)), 2.0) for n in (1, 0))
    assert same(none.predict(batch)[0], none(batch))
    assert not torch.allclose(few.predict(batch)[0]["population"], found["population"])
    many = wide(lfads(samples=60, heads=(POPULATION, VELOCITY, TARGET_ID)), 2.0)
    seen = many._see(batch)
    posterior = many.encode(seen)
    torch.manual_seed(0)
    rates = [
        many.own["toy/b"]
        .read_out(many.roll_out(seen, posterior, torch.randn(3, 8), torch.randn(N_BINS, 3, 4)).factors)
        .exp()
        for _ in range(60)
    ]
    rates = torch.stack(rates).flatten(1, 2)
    error = (many.predict(batch)[0]["population"].exp() - rates.mean(0)).abs() / rates.std(0).clamp_min(1e-6)
    assert error.median() < 0.25  # of the spread of a draw; a mean of 60 is .13 of it away from the truth


# ---- before the first step ------------------------------------------------------------------------------------------


def world(n_units: int, seed: int) -> Stretch:
    """Counts of trials whose four conditions move a common state of two dimensions, by loadings of a session."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(0)
    waves = [np.convolve(w, np.hanning(25), "same") for w in shape.normal(size=(8, 40))]
    states = np.stack(waves).reshape(4, 2, 40).transpose(0, 2, 1)
    words = rng.integers(0, 4, 60)
    state = np.concatenate([states[w] for w in words])
    rate = np.exp(0.2 * state @ rng.normal(size=(2, n_units)))
    counts = rng.poisson(rate).astype(np.uint8)
    columns = {"counts": {"counts": counts, "observed": np.ones(len(counts), np.uint8)}}
    return Stretch(columns, {}, {}, np.arange(60) * 40, {"target": words.astype(str)})


STRETCHES = {A.id: [world(6, 1)], B.id: [world(9, 2)]}


def channels(model: Lfads, session: str) -> np.ndarray:
    """``[trials, bins, D]``: smoothed counts through a session's read-in."""
    (stretch,) = STRETCHES[session]
    rate = smoothed(stretch.columns["counts"]["counts"], 3.0)
    own = model.own[session.replace(".", "%2E")]
    with torch.no_grad():
        return own.read_in(torch.from_numpy(rate).float()).numpy().reshape(60, 40, -1)


def condition_means(model: Lfads, session: str) -> np.ndarray:
    (stretch,) = STRETCHES[session]
    found, word = channels(model, session), stretch.trial_columns["target"]
    return np.concatenate([found[word == w].mean(0) for w in "0123"])


def test_rates_start_from_the_means_and_read_ins_from_principal_components():
    model, before = lfads(read_in=4, factors=4), lfads(read_in=4, factors=4)
    model.fit(STRETCHES)
    for session, (stretch,) in STRETCHES.items():
        own, counts = model.own[session.replace(".", "%2E")], stretch.columns["counts"]["counts"]
        mean = (counts.sum(0) + 0.5) / (len(counts) + 1)
        np.testing.assert_allclose(own.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(own.read_out.bias.detach(), np.log(mean), rtol=1e-5)
        with torch.no_grad():
            single = own.read_in(torch.from_numpy(counts).float()).numpy()
        np.testing.assert_allclose(single.std(0), 1, rtol=1e-3)
        np.testing.assert_allclose(single.mean(0), 0, atol=0.02)
        directions = own.read_in.weight.detach().numpy()
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        expected = np.linalg.svd(smoothed(counts, 3.0) - smoothed(counts, 3.0).mean(0), full_matrices=False)[2][:4]
        np.testing.assert_allclose(np.abs((directions * expected).sum(1)), 1, rtol=1e-3)
    plain = lfads(read_in=4, factors=4, pcr=False, rate_init=False)
    plain.fit(STRETCHES)
    other = {k for k, v in plain.state_dict().items() if not torch.equal(v, before.state_dict()[k])}
    assert other == {f"own.{key}.mean" for key in plain.own}


def test_aligned_read_ins_give_sessions_the_same_channels():
    shared, apart = lfads(read_in=2, align="target"), lfads(read_in=2)
    agreement = {}
    for name, model in (("shared", shared), ("apart", apart)):
        model.fit(STRETCHES)
        a, b = (condition_means(model, s) for s in (A.id, B.id))
        agreement[name] = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(2)]
    assert min(agreement["shared"]) > 0.9
    assert np.abs(agreement["apart"]).min() < 0.8
    for align, says in (("side", "toy/a.1 has no trial column 'side' to align by .model.align.: it has target"),):
        with pytest.raises(DataError, match=says):
            lfads(align=align).fit(STRETCHES)
    with pytest.raises(DataError, match="no word of this trial column has a whole trial in every session"):
        lfads(align="target", align_ms=1e5).fit(STRETCHES)


def test_smoothing_components_and_regression():
    counts = np.random.default_rng(0).poisson(2.0, (50, 4))
    ones = smoothed(np.ones((50, 4)), 3.0)
    np.testing.assert_allclose(ones, 1)
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed (pip install spiketok)")
    inner = ndimage.gaussian_filter1d(counts.astype(float), 3.0, axis=0, truncate=3.0)[12:-12]
    np.testing.assert_allclose(smoothed(counts, 3.0)[12:-12], inner, rtol=2e-2)
    assert principal(counts.astype(float), 9).shape == (4, 4)
    true = np.random.default_rng(1).normal(size=(4, 2))
    np.testing.assert_allclose(regression(counts, counts @ true, 1e-9), true, rtol=1e-5)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"generator": 0}, "model.generator is 0, must be at least 1"),
        ({"clip": 0.5}, r"model.clip is 0\.5, must be at least 1"),
        ({"samples": -1}, "model.samples is -1"),
        ({"drop": 1.0}, r"model.drop is 1\.0, must be in"),
        ({"input_var": 0.0}, r"model.input_var is 0\.0, must be above 0"),
        ({"pcr": True}, "model.pcr is set and model.read_in is 0"),
        ({"read_in": 4, "align": "target"}, "model.align is 'target' and model.pcr is not set"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        LfadsConfig(**changes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="toy/none has no units"):
        lfads([info("none", 0)])
    with pytest.raises(DataError, match=r"toy/a\.1: the batch has 9 units, the model knows 6"):
        lfads()(dataclasses.replace(make_batch(B), sessions=[A.id, A.id]))
    with pytest.raises(DataError, match=r"'toy/b' is not one of the 1"):
        lfads((A,))(make_batch(B))
