"""What STNDT promises beside the contract: both streams, hidden counts, contrastive views, one session."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Batch, Input, Stretch, Timing  # noqa: E402
from spiketok.models.losses import nt_xent  # noqa: E402
from spiketok.models.masking import corrupt, hide  # noqa: E402
from spiketok.models.stndt import Stndt, StndtConfig  # noqa: E402
from spiketok.training.optimizers import table_parameters  # noqa: E402
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
    C,
    held_out,
    info,
    make_batch,
    run,
    same,
    with_counts,
)

QUIET = {"heads": 1, "hidden": 24, "dropout": 0.0, "dropout_rates": 0.0, "dropout_embedding": 0.0}


def stndt(session=A, asked=HEADS, timing: Timing = TIMING, **changes) -> Stndt:
    torch.manual_seed(0)
    model = Stndt(StndtConfig(**(Stndt.sizes["tiny"] | QUIET | changes)), asked, timing)
    model.add_sessions([session])
    return model.eval()


def silenced(batch: Batch) -> Batch:
    return with_counts(batch, torch.ones(1, 1, dtype=torch.bool), 0)


# ---- sizes, state, its session --------------------------------------------------------------------------------------


def test_it_reads_binned_counts_and_has_no_transfer():
    assert Stndt.inputs(StndtConfig(), ["population"], TIMING) == {"counts": Input("binned", {"bin_ns": BIN_NS})}
    assert Stndt.one_session and Stndt.protocols == () and not Stndt.causal
    assert "the one session that it was trained on" in stndt().why_not("full", C.id)
    assert stndt().identity_parameters([A.id]) == []


@pytest.mark.parametrize(("size", "units", "window_ms"), [("mc_maze", 182, 900), ("dmfc_rsg", 54, 1700)])
def test_published_sizes_have_the_parameters_of_the_reference(size, units, window_ms):
    """Counted by hand from torch's modules; without the values and output of the units' attention, which are dead."""
    config = StndtConfig(**Stndt.sizes[size])
    model = stndt(info("x", units), [POPULATION], Timing(window_ms * 10**6, 5_000_000), **dataclasses.asdict(config))
    n, t, f = units, window_ms // 5, 128
    bins = torch.nn.TransformerEncoderLayer(n, 2, f)
    feed_forward = (n * f + f) + (f * n + n)
    layer = sum(p.numel() for p in bins.parameters()) + (2 * t * t + 2 * t) + 2 * t + 2 * 2 * n + feed_forward
    expected = config.layers * layer + (n * n + n) + (t * t + t) + 2 * n + (n * n + n)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_its_state_rebuilds_it():
    model, batch = stndt(position="learned"), make_batch(n_windows=4)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    untouched = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    before = model.loss(batch, model(batch), HALF)
    model.train()
    for step in range(30):
        optimizer.zero_grad()
        model.loss(batch, run(model, batch, step), HALF)["total"].backward()
        optimizer.step()
    model.eval()
    after = model.loss(batch, model(batch), HALF)
    assert all(after[term] < before[term] for term in ("population", VELOCITY.task, "total"))
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, untouched[name])]
    torch.manual_seed(9)
    other = Stndt(model.config, HEADS, TIMING)
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert same(other.eval()(batch), model(batch))


def test_learned_positions_are_tables_which_do_not_decay():
    model = stndt(position="learned")
    tables = {id(p) for p in table_parameters(model)}
    assert {n for n, p in model.named_parameters() if id(p) in tables} == {
        "position_bins.weight",
        "position_units.weight",
    }
    assert not any("position" in key or "waves" in key for key in stndt().state_dict())


def test_rates_start_from_the_means_of_the_observed_training_time():
    counts = np.random.default_rng(3).poisson(0.3, (40, 6)).astype(np.uint8)
    observed = (np.arange(40) < 30).astype(np.uint8)
    stretches = {A.id: [Stretch({"counts": {"counts": counts, "observed": observed}}, {}, {})]}
    model, plain = stndt(), stndt(rate_init=False)
    before = copy.deepcopy(model.state_dict())
    plain.fit({})
    model.fit(stretches)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["read_out.bias"] and same(plain.state_dict(), before)
    np.testing.assert_allclose(model.read_out.bias.detach(), np.log((counts[:30].sum(0) + 0.5) / 31), rtol=1e-6)


# ---- both streams ---------------------------------------------------------------------------------------------------


def slow_weights(layer, units_BNT: torch.Tensor) -> torch.Tensor:
    """torch's own attention, whose values and output projection play no part."""
    n_bins, heads = units_BNT.shape[2], layer.heads
    attention = torch.nn.MultiheadAttention(n_bins, heads, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight[: 2 * n_bins] = layer.to_query_key.weight
        attention.in_proj_bias[: 2 * n_bins] = layer.to_query_key.bias
    normed = layer.norm_units(units_BNT)
    return attention(normed, normed, normed)[1]


def test_the_weights_of_units_are_torchs():
    layer = stndt(B, timing=Timing(24 * BIN_NS, BIN_NS), heads=3).layers[0]
    torch.nn.init.normal_(layer.to_query_key.bias)
    units, x = torch.randn(4, 9, 24), torch.randn(4, 24, 9)
    weights = layer.weights(units)
    torch.testing.assert_close(weights, slow_weights(layer, units), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 9))
    mixed = torch.stack([sum(weights[:, i, j, None] * x[:, :, j] for j in range(9)) for i in range(9)], 2)
    torch.testing.assert_close(layer._mix(x, weights), mixed)


def reach(model: Stndt, row: int) -> list[int]:
    batch = make_batch(n_windows=1, heads=(POPULATION,))
    where = torch.zeros(N_BINS, 1, dtype=torch.bool)
    where[row] = True
    expected, changed = model(batch)["population"], model(with_counts(batch, where, 9))["population"]
    return ((changed - expected).abs().amax(1) > 0).nonzero().flatten().tolist()


def test_bins_attend_to_their_band_and_units_to_the_whole_window():
    """Units' weights that do not depend on the counts leave the band alone: what is beyond it came by the units."""
    banded = {"context_forward": 1, "context_backward": 2, "layers": 1}
    model = stndt(**banded)
    assert reach(model, 10) == list(range(N_BINS))
    with torch.no_grad():
        model.layers[0].to_query_key.weight.zero_()
    assert reach(model, 10) == [9, 10, 11, 12]


def test_another_order_of_the_units_is_noticed():
    """Its widths are the units of one session: they have no identity but their row."""
    model, batch = stndt(), make_batch()
    order = torch.tensor([3, 1, 2, 0, 4, 5])
    moved = batch.clone()
    moved.inputs["counts"].columns["counts"] = batch.inputs["counts"].columns["counts"][:, order]
    assert not torch.allclose(model(moved)["population"], model(batch)["population"][:, order])


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_norm": False},
        {"activation": "gelu"},
        {"embed": "identity", "contrast_weight": 0.0},
        {"position": "learned"},
    ],
)
def test_other_forms(changes):
    model, batch = stndt(**changes).train(), make_batch()
    output = run(model, batch)
    assert not same(output, run(stndt().train(), batch))
    model.loss(batch, output, HALF)["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not [name for name, p in model.named_parameters() if not p.grad.any()]


# ---- what is hidden -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer", ["embedder", "decoder"])
def test_hidden_counts_never_reach_an_output(layer, training):
    """Nor the contrast, nor the largest count that random replacements are drawn from."""
    ratios = {"mask_zero_ratio": 0.3, "mask_random_ratio": 0.6, "contrast_layer": layer, "contrast_mask_ratio": 0.4}
    model, batch = stndt(**ratios).train(training), make_batch()
    batch.hidden["counts"] = hidden = held_out(batch)
    expected = run(model, batch)
    assert ("contrast" in expected) == training
    for value in (0, 1, 250):
        assert same(run(model, with_counts(batch, hidden, value)), expected)
    assert not same(run(model, with_counts(batch, ~hidden, 1)), expected)
    assert expected["scored"][hidden].all()
    assert not training or 0 < expected["scored"][~hidden].float().mean() < 0.5


def test_what_is_scored():
    model, batch = stndt(), make_batch()
    asked = batch.asked["population"]
    asked.weight[:10] = 0
    output = model(batch)
    assert torch.equal(output["scored"], asked.weight > 0)
    expected = torch.nn.PoissonNLLLoss(log_input=True, full=False)(output["population"][10:], asked.target[10:])
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)
    batch.hidden["counts"] = hidden = held_out(batch)
    assert torch.equal(model(batch)["scored"], hidden & (asked.weight > 0))
    own = run(model.train(), batch)["scored"] & ~hidden
    assert not own[:10].any() and 0.1 < own[10:].float().mean() < 0.4


# Over 2,000 batches of [16, 40, 10] the reference's mask functions hide this share of the counts, with this standard
# deviation between batches; of what is hidden these shares became 0, and stayed as they were. Counts were drawn
# uniformly from 1..5.
REFERENCE_MASKS = {
    "mask": (0.249953, 0.005443, 1.0, 0.0),
    "contrast_mask": (0.049914, 0.002683, 0.550363, 0.290486),
}


@pytest.mark.parametrize("name", REFERENCE_MASKS)
def test_masks_have_the_statistics_of_the_reference(name):
    config, (share, deviation, zeroed, unchanged) = StndtConfig(), REFERENCE_MASKS[name]
    ratio, mode = getattr(config, f"{name}_ratio"), getattr(config, f"{name}_mode")
    start = name.removesuffix("mask")  # the settings are mask_zero_ratio and contrast_zero_ratio
    zero, random = (getattr(config, f"{start or 'mask_'}{kind}_ratio") for kind in ("zero", "random"))
    generator, draws, shape = torch.Generator().manual_seed(4), 500, (16, 40, 10)
    shares, became = [], []
    for _ in range(draws):
        counts = torch.randint(1, 6, shape, generator=generator).float()
        hidden = hide(mode, shape, ratio, generator=generator)
        seen = corrupt(counts, hidden, zero, random, generator)
        assert torch.equal(seen[~hidden], counts[~hidden])
        shares.append(hidden.float().mean())
        became.append(torch.stack([(seen == 0)[hidden].float().mean(), (seen == counts)[hidden].float().mean()]))
    shares = torch.stack(shares)
    assert shares.mean() == pytest.approx(share, abs=4 * deviation * (1 / draws + 1 / 2000) ** 0.5)
    assert shares.std() == pytest.approx(deviation, rel=0.15)
    assert torch.stack(became).mean(0).tolist() == pytest.approx([zeroed, unchanged], abs=0.006)


# ---- contrast -------------------------------------------------------------------------------------------------------


def test_two_views_are_drawn_in_training_alone_and_follow_the_seed():
    model, batch = stndt(contrast_weight=2.0), make_batch(n_windows=4)
    assert "contrast" not in model(batch)
    model.train()
    first, again, other = (run(model, batch, seed) for seed in (1, 1, 2))
    assert same(first, again) and first["contrast"] != other["contrast"]
    terms = model.loss(batch, first, HALF)
    assert set(terms) == {"population", VELOCITY.task, "contrast", "total"}
    expected = terms["population"] + model.config.decode_weight * terms[VELOCITY.task] + 2.0 * terms["contrast"]
    torch.testing.assert_close(terms["total"], expected)
    seen = []
    model.contrast = lambda *views: seen.append(views) or torch.zeros(())
    run(model, batch)
    (one, two), counts = seen[0], batch.inputs["counts"].columns["counts"].float().unflatten(0, (4, N_BINS))
    assert not torch.equal(one, two)
    for view in (one, two):
        assert 0 < (view != counts).float().mean() < 0.05  # of a share of .05 some stay as they are


@pytest.mark.parametrize("layer", ["embedder", "decoder"])
def test_the_contrast_is_of_the_embedders_or_of_the_rates(layer):
    model, batch = stndt(contrast_layer=layer), make_batch(n_windows=3)
    one, two = (
        silenced(batch).inputs["counts"].columns["counts"].float().unflatten(0, (3, N_BINS)) + k for k in (1, 3)
    )
    one[0, :9], two[1, 3:, 2] = 5, 7
    found = model.contrast(one, two)
    if layer == "decoder":
        expected = nt_xent(*(model.read_out(model.encode(view)).flatten(1) for view in (one, two)))
    else:  # neither a scale nor the order of the features changes a cosine
        bins, units = model.embed_bins, model.embed_units
        expected = nt_xent(*(bins(view).flatten(1) for view in (one, two)))
        expected = expected + nt_xent(*(units(view.transpose(1, 2)).flatten(1) for view in (one, two)))
    torch.testing.assert_close(found, expected)
    found.backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    every = {name.split(".")[0] for name, _ in model.named_parameters()} - {"decoders"}
    assert reached == ({"embed_bins", "embed_units"} if layer == "embedder" else every)


def test_a_run_without_the_population_draws_nothing():
    model, batch = stndt(asked=(VELOCITY,)), make_batch(heads=(VELOCITY,))
    expected = model(batch)
    assert set(expected) == {VELOCITY.task} and same(model.train()(batch), expected)
    assert not hasattr(model, "read_out")
    nothing = make_batch(heads=())
    assert stndt().loss(nothing, stndt().train()(nothing), HALF) == {"total": 0}


def test_one_window_or_silence_has_a_contrast():
    model = stndt().train()
    alone = make_batch(n_windows=1)
    assert run(model, alone)["contrast"] == 0
    batch = silenced(make_batch(n_windows=3))
    for parameter in (model.embed_bins.bias, model.embed_units.bias):
        torch.nn.init.zeros_(parameter)
    terms = model.loss(batch, run(model, batch), HALF)
    terms["total"].backward()
    assert terms["contrast"].isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# ---- heads ----------------------------------------------------------------------------------------------------------


def test_behaviour_and_labels():
    heads = (POPULATION, VELOCITY, TARGET_ID)
    for joint in (False, True):
        model, batch = stndt(asked=heads, decode_joint=joint), make_batch(heads=heads)
        output = model(batch)
        assert output[VELOCITY.task].shape == (14, 2) and output[TARGET_ID.task].shape == (14, 4)
        terms = model.loss(batch, output, HALF)
        (terms[VELOCITY.task] + terms[TARGET_ID.task]).backward()
        assert all(p.grad.abs().sum() > 0 for p in model.decoders.parameters())
        assert bool([p for p in model.layers.parameters() if p.grad is not None]) == joint


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 0}, "model.heads is 0, must be at least 1"),
        ({"contrast_mask_ratio": 1.5}, r"contrast_mask_ratio is 1\.5"),
        ({"contrast_weight": -1.0}, r"contrast_weight is -1\.0, must be at least 0"),
        ({"contrast_temperature": 0.0}, r"contrast_temperature is 0\.0, must be above 0"),
        ({"context_backward": -2}, "context_backward is -2, must be at least -1"),
        ({"dropout": 1.0}, r"dropout is 1\.0, must be in"),
        ({"embed": "identity"}, "trains nothing: use model.contrast_weight=0"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        StndtConfig(**changes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="a window has 25 bins, which 2 heads do not divide: use --set model.heads=1"):
        Stndt(StndtConfig(heads=2), HEADS, TIMING)
    with pytest.raises(UsageError, match="toy/b has 9 units, which 2 heads do not divide: use model.heads=1"):
        Stndt(StndtConfig(heads=2), HEADS, Timing(24 * BIN_NS, BIN_NS)).add_sessions([B])
    with pytest.raises(DataError, match="a window has 25 bins and stndt was built for 24"):
        stndt(timing=Timing(24 * BIN_NS, BIN_NS))(make_batch())
    with pytest.raises(DataError, match=r"toy/a\.1: the batch has 9 units, the model knows 6"):
        stndt()(dataclasses.replace(make_batch(B), sessions=[A.id, A.id]))
    with pytest.raises(DataError, match=r"'toy/b' is not one of the 1"):
        stndt()(make_batch(B))
    with pytest.raises(DataError, match="toy/none has no units"):
        stndt(info("none", 0))
