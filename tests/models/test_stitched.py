"""What BrainWideBench's NDT-Stitch and MtM promise beside the contract: masks, initial values, prompts, labels."""

from __future__ import annotations

import dataclasses
from itertools import groupby

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Batch, Facts, Stretch, Timing  # noqa: E402
from spiketok.models.masking import hide_last  # noqa: E402
from spiketok.models.mtm_bwb import MtmBwb, MtmBwbConfig  # noqa: E402
from spiketok.models.ndt_stitch import NdtStitch, NdtStitchConfig  # noqa: E402
from spiketok.models.nn import EncoderBlock, scale_by_depth  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from tests.models.test_ndt1 import (  # noqa: E402
    BIN_NS,
    HALF,
    N_BINS,
    POPULATION,
    TARGET_ID,
    TIMING,
    VELOCITY,
    held_out,
    info,
    run,
    same,
    with_counts,
)
from tests.models.test_ndt1 import make_batch as plain_batch  # noqa: E402
from tests.references.harness import check, read, replay_of  # noqa: E402
from tests.references.test_references import BESIDE, COMMITTED  # noqa: E402

QUIET = {"dim": 16, "heads": 2, "hidden": 24}
A = dataclasses.replace(info("a.1", 6), unit_columns={"region": np.array(["V1", "CA1", "V1", "V1", "CA1", "PO"])})
B = info("b", 9)  # which names no regions
BOTH = pytest.mark.parametrize("kind", [NdtStitch, MtmBwb])


def build(kind, sessions=(A,), heads=(POPULATION, VELOCITY, TARGET_ID), seed: int = 0, **changes):
    torch.manual_seed(seed)
    channels = {"channels": 12} if kind is MtmBwb else {}
    model = kind(kind.Config(**(kind.sizes["tiny"] | QUIET | channels | changes)), heads, TIMING)
    model.add_sessions(list(sessions))
    return model.eval()


def make_batch(session=A, heads=(POPULATION, VELOCITY, TARGET_ID), **settings) -> Batch:
    return dataclasses.replace(plain_batch(session, heads, **settings), facts=Facts({session.id: session}))


# ---- against the original -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bwb_mtm_intra_region", "bwb_ndt_stitch_bins"])
def test_every_layer_and_gradient_of_the_original_to_1e_5(name):
    golden, meta = read(COMMITTED / f"{name}.npz")
    assert {key for key in golden if key.startswith("mid/")} <= replay_of(name).replay(golden, meta).keys()
    result = check(COMMITTED / f"{name}.npz")
    assert result.passed and result.worst < 1e-5, str(result)


@pytest.mark.skipif(not BESIDE.is_dir(), reason="the recorded files of the originals are not here (SPIKETOK_GOLDEN)")
def test_layers_are_scaled_as_in_the_original():
    golden, meta = read(next(BESIDE.rglob("bwb_tfixup.npz")))
    names = {"in_proj_": "to_qkv.", "out_proj.": "to_out.", "linear1.": "to_hidden.", "linear2.": "from_hidden."}
    layers = [EncoderBlock(16, 2, 24) for _ in range(meta["layers"])]
    for when in ("before", "after"):
        for k, layer in enumerate(layers):
            own = dict(layer.named_parameters())
            for key, ours in names.items():
                for part in ("weight", "bias"):
                    word = key if key.startswith("linear") else f"self_attn.{key}"
                    value = torch.from_numpy(golden[f"{when}/layers.{k}.{word}{part}"])
                    if when == "before":
                        own[ours + part].data.copy_(value)
                    else:
                        torch.testing.assert_close(own[ours + part].data, value, rtol=1e-6, atol=1e-8)
        if when == "before":
            scale_by_depth(layers)


def test_published_sizes_have_the_parameters_of_the_original():
    """Beside those of sessions: the stitchers, and a row of 256 each (bwb_params.json)."""
    for kind, shared, width in ((NdtStitch, 10_306_868, 256), (MtmBwb, 10_752_136, 668)):
        with torch.device("meta"):
            model = kind(kind.Config(**kind.sizes["10M"]), [POPULATION], Timing(50 * BIN_NS, BIN_NS))
            assert sum(p.numel() for p in model.parameters()) == shared
            model.add_sessions([info(f"s{n}", n) for n in (300, 410)])
        own = sum(n * width + width + 256 * n + n + 256 for n in (300, 410))
        assert sum(p.numel() for p in model.parameters()) == shared + own
        assert sum(part.value.numel() for part in model.identity_parameters()) == own


def test_the_published_training():
    """1e-4 by the root of 16 windows, 200 epochs; the rate is held for half of them, or rises over .15."""
    for name, schedule in (("ndt_stitch", "onecycle"), ("mtm_bwb", "cosine")):
        config = load_config(name, sets=["size=10M"])
        assert (config.optim.schedule, config.optim.epochs, config.optim.lr) == (schedule, 200, 4e-4)
        assert (config.data.batch_size, config.timing) == (16, Timing(50 * BIN_NS, BIN_NS))


def test_initial_values_are_those_of_the_original():
    """Tables from N(0, .02), the token of a mask from N(0, 1), stitchers as torch draws a linear layer."""
    torch.manual_seed(0)
    model = MtmBwb(MtmBwbConfig(layers=1), [POPULATION], TIMING)
    model.add_sessions([info(f"s{k}", 30) for k in range(8)])
    assert float(model.position.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.session_table.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(model.prompt.weight.detach().std()) == pytest.approx(1.0, rel=0.1)
    read_in, read_out = (next(iter(table.values())) for table in (model.read_in, model.read_out))
    assert float(read_in.weight.detach().abs().max()) == pytest.approx(30**-0.5, rel=0.01)
    assert float(read_out.weight.detach().abs().max()) == pytest.approx(256**-0.5, rel=0.01)


# ---- masks ----------------------------------------------------------------------------------------------------------

# The masker of the reference over 2,000 batches of [16, 50, 24] (bwb_maskstats.json): the share of hidden bins, its
# deviation between batches, and the shares of stretches of 1, 2, 3 and 7 bins among all.
STRETCHES = {
    0.0: (0.5003, 0.0178, (0.5077, 0.2516, 0.1240, 0.0070)),
    0.5: (0.4610, 0.0539, (0.4210, 0.2353, 0.1316, 0.0211)),
    1.0: (0.4215, 0.0474, (0.1813, 0.2053, 0.1555, 0.0596)),
}


@pytest.mark.parametrize("share", STRETCHES)
def test_hidden_bins_have_the_statistics_of_the_original(share):
    target, deviation, lengths = STRETCHES[share]
    model = build(NdtStitch, block_share=share)
    counts, shares, runs = torch.zeros(16, 50, 24), [], []
    torch.manual_seed(3)
    for _ in range(300):
        name, hidden, predicted = model.draw(None, A.id, counts)
        assert name == "" and hidden is predicted and hidden.shape == (16, 50, 1)
        shares.append(float(hidden.float().mean()))
        runs += [len(list(run)) for row in hidden[..., 0].tolist() for away, run in groupby(row) if away]
    assert np.mean(shares) == pytest.approx(target, abs=4 * deviation / 300**0.5)
    assert np.std(shares) == pytest.approx(deviation, rel=0.2)
    for length, part in zip((1, 2, 3, 7), lengths, strict=True):
        assert runs.count(length) / len(runs) == pytest.approx(part, abs=0.025)


def test_masks_of_mtm_have_the_statistics_of_the_original():
    """As above, four regions of six units: what is predicted, its deviation, what is set to 0; each mask as often."""
    stated = {
        "neuron": (0.2994, 0.0234, 0.2994),
        "causal": (0.1, 0.0, 0.1),
        "inter_region": (0.25, 0.0, 0.25),
        "intra_region": (0.0753, 0.0114, 0.8253),
    }
    of = dataclasses.replace(info("r", 24), unit_columns={"region": np.arange(24) % 4})
    model, counts = build(MtmBwb, (of,)), torch.zeros(16, 50, 24)
    batch = dataclasses.replace(plain_batch(of, (POPULATION,)), facts=Facts({of.id: of}))
    torch.manual_seed(3)
    seen = {name: [] for name in stated}
    for _ in range(800):
        name, hidden, predicted = model.draw(batch, of.id, counts)
        assert not (predicted & ~hidden).any()
        parts = (part.float().expand(counts.shape) for part in (predicted, hidden))
        seen[name].append([float(part.mean()) for part in parts])
    for name, (target, deviation, zeroed) in stated.items():
        found = np.array(seen[name])
        assert 140 < len(found) < 260, name  # of 800, .25 each
        slack = 4 * deviation / len(found) ** 0.5 + 1e-6
        assert found.mean(0) == pytest.approx([target, zeroed], abs=slack), name
        assert found[:, 0].std() == pytest.approx(deviation, rel=0.25, abs=1e-6), name


def test_causal_hides_the_last_bins_and_no_bin_less_than_one():
    assert hide_last(50, 0.1).sum() == 5 and hide_last(50, 0.1)[0, 45:].all()
    assert hide_last(5, 0.1).flatten().tolist() == [False] * 4 + [True]
    assert hide_last(4, 1.0).all()


def test_a_session_of_one_region():
    model, batch = build(MtmBwb, (B,), masks=("inter_region", "intra_region")).train(), make_batch(B)
    for seed in range(6):
        assert run(model, batch, seed)["scored"].float().mean() < 0.8
    build(MtmBwb, (A,), masks=("inter_region",))
    build(MtmBwb, (B,), (VELOCITY,), masks=("inter_region",))
    with pytest.raises(DataError, match=r"toy/b has one region by its unit column 'region', and model\.masks is"):
        build(MtmBwb, (B,), masks=("inter_region",))
    with pytest.raises(DataError, match=r"toy/a\.1 has one region by its unit column 'area'"):
        build(MtmBwb, (A,), masks=("inter_region",), region_column="area")


# ---- what a row sees, and what it is told ---------------------------------------------------------------------------


@BOTH
def test_every_bin_sees_every_bin_under_every_mask(kind):
    """Nothing in attention says what is hidden: it is 0 on the way in, and no more."""
    model = build(kind)
    for mask in getattr(model.config, "masks", ("",)):
        seen = torch.rand(2, N_BINS, 6, requires_grad=True)
        every = torch.ones(2, N_BINS, dtype=torch.bool)
        model.encode(A.id, seen, every, mask)[:, 10].square().sum().backward()
        assert seen.grad.abs().sum((0, 2)).gt(0).all()


@BOTH
def test_hidden_counts_never_reach_an_output(kind):
    for training in (False, True):
        model, batch = build(kind).train(training), make_batch()
        batch.hidden["counts"] = hidden = held_out(batch)
        for seed in range(4 if training else 1):
            expected = run(model, batch, seed)
            for value in (0, 1, 250):
                assert same(run(model, with_counts(batch, hidden, value), seed), expected)
            assert expected["scored"][hidden].all() and (training or torch.equal(expected["scored"], hidden))


def test_an_evaluation_is_told_how_it_hides_and_a_run_without_population_is_told_nothing():
    model, rates = build(MtmBwb), {}
    for mode in ("", "unit", "forward", "inter_region", "intra_region"):
        rates[mode] = model(dataclasses.replace(make_batch(), mode=mode))["population"]
    assert torch.equal(rates[""], rates["unit"])
    assert len({float(rate.sum().detach()) for rate in rates.values()}) == 4
    told = build(MtmBwb, masks=("causal", "intra_region"))
    modes = ("unit", "forward", "inter_region", "intra_region")
    found = [told.mask_of(dataclasses.replace(make_batch(), mode=mode)) for mode in modes]
    assert found == ["causal", "causal", "causal", "intra_region"]
    alone = build(MtmBwb, heads=(VELOCITY,))
    assert not hasattr(alone, "prompt") and not alone.read_out
    batch = make_batch(heads=(VELOCITY,))
    assert same(alone.train()(batch), alone.eval()(batch))  # and nothing is hidden


# ---- losses and heads -----------------------------------------------------------------------------------------------


@BOTH
def test_the_loss_is_the_whole_likelihood(kind):
    model, batch = build(kind), make_batch()
    asked = batch.asked["population"]
    asked.weight[:10] = 0
    output = model(batch)
    terms = model.loss(batch, output, HALF)
    whole = torch.nn.PoissonNLLLoss(log_input=True, full=True)
    torch.testing.assert_close(terms["population"], whole(output["population"][10:], asked.target[10:]))
    weighed = build(kind, decode_weight=3.0)
    terms = weighed.loss(batch, weighed(batch), HALF)
    behaviour = terms[VELOCITY.task] + terms[TARGET_ID.task]
    torch.testing.assert_close(terms["total"], terms["population"] + 3 * behaviour)
    behaviour.backward()
    assert all(p.grad is not None for p in weighed.layers.parameters())  # a head trains all of it


@BOTH
def test_a_label_is_read_from_the_mean_over_the_observed_bins(kind):
    model, batch = build(kind), make_batch()
    observed = torch.ones(2, N_BINS, dtype=torch.bool)
    observed[1, 15:] = False
    batch.inputs["counts"].columns["observed"].copy_(observed.flatten())
    counts = torch.where(observed[..., None], batch.inputs["counts"].columns["counts"].unflatten(0, (2, -1)), 0)
    x = model.encode(A.id, counts.float(), observed, model.mask_of(batch))
    mean = torch.stack([x[0].mean(0), x[1, :15].mean(0)])
    (read,) = [layer for key, layer in model.decoders.items() if "target" in key]
    found = model(batch)[TARGET_ID.task].unflatten(0, (2, -1))
    torch.testing.assert_close(found, read(mean)[:, None].expand_as(found))
    alone = model.encode(A.id, counts[1:, :15].float(), observed[1:, :15], model.mask_of(batch))
    torch.testing.assert_close(alone[0], x[1, :15], rtol=1e-5, atol=1e-5)


@BOTH
def test_rates_start_from_the_means_of_the_observed_training_time(kind):
    counts = np.random.default_rng(3).poisson(0.3, (40, 6)).astype(np.uint8)
    observed = (np.arange(40) < 30).astype(np.uint8)
    model = build(kind)
    model.fit({A.id: [Stretch({"counts": {"counts": counts, "observed": observed}}, {}, {})]})
    (read_out,) = model.read_out.values()
    np.testing.assert_allclose(read_out.bias.detach(), np.log((counts[:30].sum(0) + 0.5) / 31), rtol=1e-6)
    build(kind, rate_init=False).fit({})


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (NdtStitchConfig, {"heads": 3}, "model.dim is 256, which 3 heads do not divide$"),
        (NdtStitchConfig, {"mask_ratio": 0.0}, r"model\.mask_ratio is 0\.0, must be in \(0, 1\]"),
        (NdtStitchConfig, {"block_share": 1.5}, r"model\.block_share is 1\.5"),
        (NdtStitchConfig, {"max_block": 0}, r"model\.max_block is 0, must be at least 1"),
        (NdtStitchConfig, {"dropout_rates": 1.0}, r"model\.dropout_rates is 1\.0, must be in"),
        (MtmBwbConfig, {"masks": ()}, r"model\.masks is \[\], must be some of neuron, causal, inter_region"),
        (MtmBwbConfig, {"masks": ("neuron", "neuron")}, "each once"),
        (MtmBwbConfig, {"masks": ("temporal",)}, r"model\.masks is \['temporal'\]"),
        (MtmBwbConfig, {"causal_ratio": 0.0}, r"model\.causal_ratio is 0\.0"),
    ],
)
def test_a_configuration_is_refused(config, changes, says):
    with pytest.raises(UsageError, match=says):
        config(**changes)


@BOTH
def test_what_does_not_fit_is_refused(kind):
    with pytest.raises(DataError, match=r"25 bins and model\.max_bins is 24: shorten data\.window_ms, or raise"):
        build(kind, max_bins=24)(make_batch())
    with pytest.raises(DataError, match=r"toy/a\.1: the batch has 9 units, the model knows 6"):
        build(kind)(dataclasses.replace(make_batch(B), sessions=[A.id, A.id]))
    with pytest.raises(DataError, match=r"'toy/b' is not one of the 1"):
        build(kind)(make_batch(B))
    with pytest.raises(DataError, match="toy/none has no units"):
        build(kind, (info("none", 0),))
