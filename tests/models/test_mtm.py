"""What MtM promises beside the contract: masks and their statistics, no future in causal mode, regions."""

from __future__ import annotations

import copy
import dataclasses
import json
from itertools import groupby
from typing import get_args

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Batch, Facts, Input, Stretch  # noqa: E402
from spiketok.models.masking import Mask, draw_mask, draw_span, hide_timesteps  # noqa: E402
from spiketok.models.mtm import Mtm, MtmConfig  # noqa: E402
from tests.models.test_ndt1 import (  # noqa: E402
    BIN_NS,
    HALF,
    HEADS,
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

MASKS = get_args(Mask)
FOUR = MASKS[:4]
QUIET = {"channels": 12, "dim": 16, "heads": 2, "hidden": 24, "dropout": 0.0, "dropout_embedding": 0.0}
REGION = np.array(["V1", "CA1", "V1", "V1", "CA1", "PO"])
A = dataclasses.replace(info("a.1", 6), unit_columns={"region": REGION})
B, C = info("b", 9), info("c", 6)  # which name no regions
ALONE = {"stitch": False, "session_token": False}


def mtm(sessions=(A,), heads=HEADS, seed: int = 0, **changes) -> Mtm:
    torch.manual_seed(seed)
    model = Mtm(MtmConfig(**(Mtm.sizes["tiny"] | QUIET | changes)), heads, TIMING)
    model.add_sessions(list(sessions))
    return model.eval()


def make_batch(session=A, **settings) -> Batch:
    return dataclasses.replace(plain_batch(session, **settings), facts=Facts({session.id: session}))


# ---- sizes, state, sessions -----------------------------------------------------------------------------------------


def test_it_reads_binned_counts():
    assert Mtm.inputs(MtmConfig(), ["population"], TIMING) == {"counts": Input("binned", {"bin_ns": BIN_NS})}


@pytest.mark.parametrize("size", ["stitch", "single"])
def test_published_sizes_have_the_parameters_of_the_reference(size):
    """Counted by hand: torch's encoder layers, 668 channels, 512 wide, 100 positions, four prompts, and sessions."""
    stitched, units = size == "stitch", [300, 410] if size == "stitch" else [668]
    model = Mtm(MtmConfig(**Mtm.sizes[size]), [POPULATION], TIMING)
    model.add_sessions([info(f"s{n}", n) for n in units])
    d, c, linear = 512, 668, lambda a, b: a * b + b
    layer = sum(p.numel() for p in torch.nn.TransformerEncoderLayer(d, 8, 1024).parameters())
    shared = 5 * layer + 2 * d + linear(c, 2 * c) + linear(2 * c, d) + (100 + 4) * d
    own = sum((linear(n, c) + d if stitched else 0) + linear(d, n) for n in units)
    assert sum(p.numel() for p in model.parameters()) == shared + own


@pytest.mark.parametrize("changes", [{}, ALONE | {"mask_channels": True}, {"position": "learned", "norm": "scale"}])
def test_every_parameter_trains_and_its_state_rebuilds_it(changes):
    model, batch = mtm(**changes), make_batch(n_windows=4)
    before = model.loss(batch, model(batch), HALF)
    untouched = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-2)
    sparse = getattr(model, "session_table", None)
    for step in range(30):
        optimizer.zero_grad()
        model.loss(batch, run(model, batch, step), HALF)["total"].backward()
        if sparse is not None:
            sparse.weight.grad = sparse.weight.grad.to_dense()
        optimizer.step()
    after = model.eval().loss(batch, model(batch), HALF)
    assert all(after[term] < before[term] for term in ("population", VELOCITY.task, "total"))
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, untouched[name])]
    torch.manual_seed(9)
    other = Mtm(model.config, HEADS, TIMING)
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert same(other.eval()(batch), model(batch))


def test_sessions_are_known_by_name_not_by_their_number_of_units():
    """The reference keys both matrices by that number: two sessions of as many units share them there."""
    model = mtm((A, C))
    own, other = ({id(p.parameter) for p in model.identity_parameters([s.id]) if p.rows is None} for s in (A, C))
    assert len(own) == len(other) == 4 and not own & other
    rows = [[part.rows for part in model.identity_parameters([s.id]) if part.rows is not None] for s in (A, C)]
    assert rows == [[slice(0, 1)], [slice(1, 2)]]
    assert not torch.equal(*model.session_table.weight)
    model.add_sessions([B])
    torch.testing.assert_close(model.session_table.weight[2], model.session_table.weight[:2].mean(0))


def test_another_order_of_the_units_with_their_columns_and_rows_changes_nothing():
    model, order = mtm(), torch.tensor([3, 1, 5, 0, 4, 2])
    moved, batch = copy.deepcopy(model), make_batch()
    (read_in,), (read_out,) = moved.read_in.values(), moved.read_out.values()
    with torch.no_grad():
        read_in.weight.copy_(read_in.weight[:, order])
        read_out.weight.copy_(read_out.weight[order])
        read_out.bias.copy_(read_out.bias[order])
    swapped = batch.clone()
    swapped.inputs["counts"].columns["counts"] = batch.inputs["counts"].columns["counts"][:, order]
    expected, found = model(batch), moved(swapped)
    torch.testing.assert_close(found["population"], expected["population"][:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[VELOCITY.task], expected[VELOCITY.task], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(swapped)["population"], expected["population"][:, order], atol=1e-3)


def test_rates_start_from_the_means_of_the_observed_training_time():
    counts = np.random.default_rng(3).poisson(0.3, (40, 6)).astype(np.uint8)
    observed = (np.arange(40) < 30).astype(np.uint8)
    model = mtm()
    model.fit({A.id: [Stretch({"counts": {"counts": counts, "observed": observed}}, {}, {})]})
    (read_out,) = model.read_out.values()
    np.testing.assert_allclose(read_out.bias.detach(), np.log((counts[:30].sum(0) + 0.5) / 31), rtol=1e-6)
    mtm(rate_init=False).fit({})


# ---- masks ----------------------------------------------------------------------------------------------------------

# The reference's mask functions over 2,000 batches of [16, 100, 40], four regions of ten units (mtm_maskstats.json):
# what was to be predicted, its standard deviation between batches, and what was set to 0; ratio .3.
REFERENCE_MASKS = {
    "neuron": (0.299455, 0.018069, 0.299455),
    "temporal": (0.300310, 0.011827, 0.300310),
    "random_token": (0.299988, 0.001828, 0.299988),
    "inter_region": (0.25, 0.0, 0.25),
    "intra_region": (0.074574, 0.008966, 0.824574),
}
SHAPE = (16, 100, 40)
FOUR_REGIONS = torch.arange(40) % 4


@pytest.mark.parametrize("mask", REFERENCE_MASKS)
def test_masks_have_the_statistics_of_the_reference(mask):
    target, deviation, zeroed = REFERENCE_MASKS[mask]
    generator, draws = torch.Generator().manual_seed(3), 200
    shares = []
    for _ in range(draws):
        hidden, predicted = (t.expand(SHAPE) for t in draw_mask(mask, SHAPE, FOUR_REGIONS, 0.3, generator=generator))
        shares.append([predicted.float().mean(), hidden.float().mean()])
    shares = torch.tensor(shares)
    slack = 4 * deviation * (1 / draws + 1 / 2000) ** 0.5 + 1e-6
    assert shares[:, 0].mean() == pytest.approx(target, abs=slack)
    assert shares[:, 1].mean() == pytest.approx(zeroed, abs=slack)
    assert shares[:, 0].std() == pytest.approx(deviation, rel=0.2, abs=1e-6)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_hidden_bins_lie_next_to_each_other_as_in_the_reference(ratio):
    """Whole bins, each by itself: of 118,594 + 34,980 + ... stretches at .3, 58 % were of one bin; 37 % at .6."""
    hidden, _ = draw_mask("causal", (800, 100, 2), torch.zeros(2), ratio, generator=torch.Generator().manual_seed(1))
    assert hidden.shape == (800, 100, 1)
    runs = [len(list(run)) for row in hidden[..., 0].tolist() for is_hidden, run in groupby(row) if is_hidden]
    shares = {0.3: (0.7035, 0.2075, 0.0628), 0.6: (0.4023, 0.2385, 0.1424)}[ratio]
    for length, share in enumerate(shares, start=1):
        assert runs.count(length) / len(runs) == pytest.approx(share, abs=0.01)


def test_stretches_of_bins_have_the_statistics_of_the_reference():
    """Its option of spans (up to 7 bins, always): share .2710, standard deviation between batches .0256."""
    generator = torch.Generator().manual_seed(1)
    shares = []
    for _ in range(600):
        span = draw_span(7, 1.0, generator)
        shares.append(hide_timesteps(16, 100, 0.3, span, generator=generator).float().mean())
    shares = torch.stack(shares)
    assert shares.mean() == pytest.approx(0.2710, abs=0.005) and shares.std() == pytest.approx(0.0256, rel=0.15)


@pytest.mark.parametrize("mask", MASKS)
def test_what_each_mask_hides(mask):
    generator, region, shape = torch.Generator().manual_seed(0), torch.tensor([2, 0, 2, 2, 0, 7]), (5, 8, 6)
    chosen = set()
    for _ in range(60):
        hidden, predicted = (t.expand(shape) for t in draw_mask(mask, shape, region, 0.5, generator=generator))
        assert not (predicted & ~hidden).any()
        assert mask == "intra_region" or torch.equal(hidden, predicted)
        by_unit, by_bin = hidden.any(1), hidden.any(2)
        if mask in ("neuron", "inter_region", "intra_region"):
            assert torch.equal(hidden, by_unit[:, None].expand(shape))
        elif mask != "random_token":
            assert torch.equal(hidden, by_bin[..., None].expand(shape))
        if mask == "inter_region":
            (one,) = {int(r) for r in region[by_unit[0]]}
            assert torch.equal(by_unit, (region == one).expand(5, 6))
            chosen.add(one)
        elif mask == "intra_region":
            (one,) = {int(r) for r in region} - {int(r) for r in region[by_unit.all(0)]} or {None}
            inside = region == one
            assert torch.equal(predicted, hidden & inside) or one is None
            chosen.add(one)
    assert chosen - {None} == ({0, 2, 7} if "region" in mask else set())


def test_a_training_batch_has_one_mask_and_all_of_them_come():
    model, batch = mtm().train(), make_batch()
    plain, seen = model.encode, []

    def watching(session, counts, hidden, observed, mask):
        seen.append((mask, hidden))
        return plain(session, counts, hidden, observed, mask)

    model.encode = watching
    for seed in range(40):
        scored = run(model, batch, seed)["scored"]
        mask, hidden = seen[-1]
        hidden = hidden.flatten(0, 1)
        assert not (scored & ~hidden).any()
        assert torch.equal(scored, hidden) == (mask != "intra_region") or not scored.any()
    counted = {mask: [s for s, _ in seen].count(mask) for mask in FOUR}
    assert sum(counted.values()) == 40 and min(counted.values()) >= 4
    shares = [hidden.float().mean() for mask, hidden in seen if mask == "causal"]
    assert np.mean(shares) == pytest.approx(0.6, abs=0.06)  # of the bins, .3 elsewhere
    model.eval()(batch)
    assert seen[-1][0] == "neuron" and not seen[-1][1].any()


def test_a_session_of_one_region():
    """Nothing would be left to see where all of it is hidden; inside of it there is something to hide."""
    model, batch = mtm((B,), masks=("inter_region", "intra_region")).train(), make_batch(B)
    for seed in range(6):
        scored = run(model, batch, seed)["scored"].unflatten(0, (2, N_BINS))
        assert torch.equal(scored, scored[:, :1].expand_as(scored)) and scored.float().mean() < 0.8
    mtm((A,), masks=("inter_region",))
    mtm((B,), (VELOCITY,), masks=("inter_region",))
    with pytest.raises(DataError, match=r"toy/b has one region by its unit column 'region', and model\.masks is"):
        mtm((B,), masks=("inter_region",))
    with pytest.raises(DataError, match=r"toy/a\.1 has one region by its unit column 'area'"):
        mtm((A,), masks=("inter_region",), region_column="area")


# ---- what a bin sees ------------------------------------------------------------------------------------------------


def reached(model: Mtm, mask: str, row: int = 10) -> list[int]:
    """The bins whose counts have a gradient in the output of one bin."""
    counts = torch.rand(2, N_BINS, 6, requires_grad=True)
    nothing, every = torch.zeros(2, N_BINS, 6, dtype=torch.bool), torch.ones(2, N_BINS, dtype=torch.bool)
    model.encode(A.id, counts, nothing, every, mask)[:, row].square().sum().backward()
    return counts.grad.abs().sum((0, 2)).nonzero().flatten().tolist()


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_in_causal_mode_no_bin_knows_its_future(position):
    """In the reference the tokens in front do, and tell it from the second layer on."""
    past, every = list(range(11)), list(range(N_BINS))
    assert reached(mtm(layers=3, position=position), "causal") == past
    assert reached(mtm(layers=3, position=position), "neuron") == every
    assert reached(mtm(layers=3, position=position, reference_quirks=True), "causal") == every
    assert reached(mtm(layers=1, position=position, reference_quirks=True), "causal") == past
    bare = {"session_token": False, "prompt_token": False}
    assert reached(mtm(layers=3, position=position, reference_quirks=True, **bare), "causal") == past


def test_it_is_causal_where_no_other_mask_trains():
    assert mtm(masks=("causal",)).causal
    assert not mtm().causal and not mtm(masks=("causal",), reference_quirks=True).causal


@pytest.mark.parametrize("mask", ["neuron", "causal"])
def test_bins_that_were_not_observed_are_no_bins(mask):
    """Behind a window they change nothing of it, whatever counts stand there: as if it were shorter."""
    model, batch, short = mtm(position="rotary"), make_batch(), N_BINS - 6
    columns = batch.inputs["counts"].columns
    counts = columns["counts"].float().unflatten(0, (2, N_BINS))
    nothing = torch.zeros_like(counts, dtype=torch.bool)
    every = torch.ones(2, N_BINS, dtype=torch.bool)
    alone = model.encode(A.id, counts[:, :short], nothing[:, :short], every[:, :short], mask)
    observed = every.clone()
    observed[0, short:] = False  # of one window alone: each has a mask of its own
    found = model.encode(A.id, counts, nothing, observed, mask)
    torch.testing.assert_close(found[0, :short], alone[0], rtol=1e-5, atol=1e-5)
    assert mask == "causal" or not torch.allclose(found[1, :short], alone[1], atol=1e-4)
    columns["observed"].copy_(observed.flatten())
    batch.mode = {"causal": "forward"}.get(mask, "")
    expected = model(batch)["population"][:short]
    columns["counts"][short:N_BINS] = 9
    torch.testing.assert_close(model(batch)["population"][:short], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("changes", [{}, ALONE | {"mask_channels": True}])
def test_hidden_counts_never_reach_an_output(changes, training):
    model, batch = mtm(**changes).train(training), make_batch()
    batch.hidden["counts"] = hidden = held_out(batch)
    for seed in range(5 if training else 1):
        expected = run(model, batch, seed)
        for value in (0, 1, 250):
            assert same(run(model, with_counts(batch, hidden, value), seed), expected)
        assert expected["scored"][hidden].all() and (training or torch.equal(expected["scored"], hidden))
    assert not same(model.eval()(with_counts(batch, ~hidden, 1)), model(batch))


def test_mask_channels_tell_what_is_hidden_from_what_is_silent():
    silent = with_counts(make_batch(heads=(POPULATION,)), torch.ones(1, 1, dtype=torch.bool), 0)
    hiding = dataclasses.replace(silent, hidden={"counts": held_out(silent)})
    for told in (False, True):
        model = mtm(**ALONE, mask_channels=told)
        assert torch.equal(model(silent)["population"], model(hiding)["population"]) != told


def test_an_evaluation_is_told_how_it_hides():
    trained = mtm()
    rates = {}
    for mode in ("", "unit", "forward", "inter_region", "intra_region"):
        rates[mode] = trained(dataclasses.replace(make_batch(), mode=mode))["population"]
    assert torch.equal(rates[""], rates["unit"])
    assert len({float(rate.sum().detach()) for rate in rates.values()}) == 4
    told = {
        ("temporal",): ["temporal"] * 4,
        ("causal", "intra_region"): ["causal", "causal", "causal", "intra_region"],
        ("inter_region", "neuron"): ["neuron", "neuron", "inter_region", "neuron"],
    }
    for masks, expected in told.items():
        model = mtm(masks=masks)
        modes = ("unit", "forward", "inter_region", "intra_region")
        assert [model.mask(dataclasses.replace(make_batch(), mode=mode)) for mode in modes] == expected
        assert len(model.prompt.weight) == len(masks)


# ---- losses and heads -----------------------------------------------------------------------------------------------


def test_what_is_scored():
    model, batch = mtm(), make_batch()
    asked = batch.asked["population"]
    asked.weight[:10] = 0
    output = model(batch)
    assert torch.equal(output["scored"], asked.weight > 0)
    expected = torch.nn.PoissonNLLLoss(log_input=True, full=False)(output["population"][10:], asked.target[10:])
    torch.testing.assert_close(model.loss(batch, output, HALF)["population"], expected)
    summed = mtm(spike_loss="sum")
    torch.testing.assert_close(summed.loss(batch, output, HALF)["population"], expected * 40 * 6)
    batch.hidden["counts"] = hidden = held_out(batch)
    assert torch.equal(model(batch)["scored"], hidden & (asked.weight > 0))
    assert not run(model.train(), batch)["scored"][:10].any()


def test_a_run_without_the_population_draws_nothing():
    model, batch = mtm(heads=(VELOCITY,)), make_batch(heads=(VELOCITY,))
    expected = model(batch)
    assert set(expected) == {VELOCITY.task} and same(model.train()(batch), expected)
    assert not model.read_out
    nothing = make_batch(heads=())
    assert mtm().loss(nothing, mtm().train()(nothing), HALF) == {"total": 0}


def test_behaviour_and_labels():
    heads = (POPULATION, VELOCITY, TARGET_ID)
    for joint in (False, True):
        model, batch = mtm(heads=heads, decode_joint=joint, decode_weight=3.0), make_batch(heads=heads)
        output = model(batch)
        assert output[VELOCITY.task].shape == (14, 2) and output[TARGET_ID.task].shape == (14, 4)
        terms = model.loss(batch, output, HALF)
        expected = terms["population"] + 3 * (terms[VELOCITY.task] + terms[TARGET_ID.task])
        torch.testing.assert_close(terms["total"], expected)
        (terms[VELOCITY.task] + terms[TARGET_ID.task]).backward()
        assert all(p.grad.abs().sum() > 0 for p in model.decoders.parameters())
        assert bool([p for p in model.layers.parameters() if p.grad is not None]) == joint


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"masks": ()}, r"model.masks is \[\], must be some of neuron, causal, inter_region, intra_region, temporal"),
        ({"masks": ("neuron", "neuron")}, "each once"),
        ({"masks": ("unit",)}, r"model.masks is \['unit'\]"),
        ({"mask_ratio": 0.0}, r"mask_ratio is 0\.0, must be in \(0, 1\]"),
        ({"channels": 0}, "model.channels is 0, must be at least 1"),
        ({"decode_weight": -1.0}, r"decode_weight is -1\.0, must be at least 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0, must be in"),
        ({"heads": 3}, "model.dim is 512, which 3 heads do not divide$"),
        ({"dim": 6, "heads": 2, "position": "rotary"}, "dim is 6, which 2 heads do not divide into an even number"),
        ({"mask_channels": True}, "mask_channels needs model.stitch=false"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        MtmConfig(**changes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"stitch=false holds one session, toy/a\.1, not toy/b too: use --set model.s"):
        mtm((A, B), **ALONE)
    with pytest.raises(DataError, match=r"25 bins and model.max_bins is 24: .*model.position=rotary"):
        mtm(position="learned", max_bins=24)(make_batch())
    with pytest.raises(DataError, match=r"toy/a\.1: the batch has 9 units, the model knows 6"):
        mtm()(dataclasses.replace(make_batch(B), sessions=[A.id, A.id]))
    with pytest.raises(DataError, match=r"'toy/b' is not one of the 1"):
        mtm()(make_batch(B))
    with pytest.raises(DataError, match="toy/none has no units"):
        mtm((info("none", 0),))
