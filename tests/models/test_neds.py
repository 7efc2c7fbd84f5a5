"""What NEDS promises beside the contract: what it does not see of spikes and behaviours, and what a window hides."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Asked, Batch, Input, Stretch, Timing  # noqa: E402
from spiketok.models.masking import MODALITY_MASKS, draw_modality_masks, hide_modalities, hide_timesteps  # noqa: E402
from spiketok.models.neds import Neds, NedsConfig, labels  # noqa: E402
from spiketok.models.nn import module_key  # noqa: E402
from spiketok.training.checkpoints import start_from  # noqa: E402
from tests.models.test_ndt1 import (  # noqa: E402
    BIN_NS,
    HALF,
    N_BINS,
    POPULATION,
    POSITION,
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

SMALL = {"dim": 16, "heads": 2, "layers": 2, "hidden": 24, "dropout": 0.0, "dropout_embedding": 0.0, "mask_ratio": 0.3}
ALL = (POPULATION, VELOCITY, POSITION, TARGET_ID)
BEHAVIOURS = ALL[1:]
EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def neds(sessions=(A,), asked=ALL, seed: int = 0, **changes) -> Neds:
    torch.manual_seed(seed)
    model = Neds(NedsConfig(**(SMALL | changes)), asked, TIMING)
    model.add_sessions(list(sessions))
    return model.eval()


def batch_of(session=A, asked=ALL, n_windows: int = 4, **changes) -> Batch:
    """Every bin has its values, and each window a label of its own."""
    batch = make_batch(session, heads=asked, n_windows=n_windows, queries=N_BINS, **changes)
    for head in asked:
        if head.output == "values":
            ns = np.arange(n_windows * N_BINS) * BIN_NS + BIN_NS // 2
            batch.asked[head.task].ns = ns
    if TARGET_ID in asked:
        one = np.arange(n_windows) * N_BINS + 9
        batch.asked[TARGET_ID.task] = Asked(
            time=torch.full((n_windows,), 9 * BIN_NS / 1e9),
            offset=torch.arange(n_windows + 1),
            ns=one * BIN_NS,
            target=torch.arange(n_windows) % 4,
            weight=torch.ones(n_windows),
        )
    return batch


def with_truth(batch: Batch, task: str, rows=slice(None)) -> Batch:
    """The same batch with other values, or another label, in some rows of a task."""
    changed = batch.clone()
    target = changed.asked[task].target
    target[rows] = (target[rows] + 1) % 4 if target.dtype == torch.int64 else target[rows] + 3.0
    return changed


def hide_all(batch: Batch) -> Batch:
    batch.hidden["counts"] = torch.ones(batch.inputs["counts"].columns["counts"].shape, dtype=torch.bool)
    return batch


# ---- what it reads and how large it is ------------------------------------------------------------------------------


def test_it_reads_binned_counts():
    assert Neds.inputs(NedsConfig(), ["population"], TIMING) == {"counts": Input("binned", {"bin_ns": BIN_NS})}
    assert not Neds.causal and Neds.one_session_batches


@pytest.mark.parametrize(("size", "layers"), [("base", 5), ("medium", 16), ("large", 22)])
def test_published_sizes_have_the_parameters_of_the_reference(size, layers):
    """Counted by hand from torch's own modules: choice (2), whisker (1) and spikes of 40 units, bins of two seconds."""
    choice, whisker = dataclasses.replace(TARGET_ID, size=2), dataclasses.replace(VELOCITY, size=1)
    model = Neds(NedsConfig(**Neds.sizes[size]), [POPULATION, choice, whisker], Timing(2 * 10**9, 20_000_000))
    model.add_sessions([info("x", 40)])
    d, t, n = 256, 100, 40

    def linear(a: int, b: int) -> int:
        return a * b + b

    encoder = torch.nn.TransformerEncoderLayer(d, 8, 512)
    shared = layers * sum(p.numel() for p in encoder.parameters()) + 2 * d + d + 3 * (1 + t) * d
    spikes = linear(n, 2 * n) + linear(2 * n, d) + linear(d, n)
    dynamic = linear(1, 2) + linear(2, d) + linear(d, 1)
    static = linear(1, 2 * t) + 2 * t + linear(2, d) + linear(d, 2) + t  # one input a class: 2 T more for two classes
    assert model.n_fitted() == shared + spikes + dynamic + static + 3 * d


# ---- what is hidden of the spikes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_hidden_counts_never_reach_an_output(training):
    model, batch = neds().train(training), batch_of()
    batch.hidden["counts"] = hidden = held_out(batch)
    expected = run(model, batch)
    for value in (0, 1, 250):
        assert same(run(model, with_counts(batch, hidden, value)), expected)
    assert not same(run(model, with_counts(batch, ~hidden, 1)), expected)
    assert expected["scored"][hidden].all()
    assert 0 < expected["scored"][~hidden].float().mean() < 0.9 if training else not expected["scored"][~hidden].any()


def test_a_hidden_bin_is_no_silence():
    model, batch = neds(), batch_of()
    bins = torch.zeros(len(batch) * N_BINS, 1, dtype=torch.bool)
    bins[7] = True
    silent = with_counts(batch, bins, 0)
    expected = run(model, silent)
    silent.hidden["counts"] = bins.expand(-1, 6).contiguous()
    assert not torch.equal(run(model, silent)["population"], expected["population"])
    silent.hidden["counts"][7, 0] = False  # a bin of which something is seen is a bin of counts, with 0 for the rest
    assert torch.equal(run(model, silent)["population"], expected["population"])


def test_unobserved_time_changes_nothing():
    for training in (False, True):
        model, batch = neds().train(training), batch_of()
        columns = batch.inputs["counts"].columns
        columns["observed"][3:9] = 0
        batch.asked["population"].weight[3:9] = 0
        gap = torch.zeros(len(columns["observed"]), 1, dtype=torch.bool)
        gap[3:9] = True
        expected = run(model, batch)
        assert same(run(model, with_counts(batch, gap, 9)), expected)
        assert not expected["scored"][3:9].any()
        assert not same(run(model, with_counts(batch, ~gap, 9)), expected)
        columns["unit_observed"] = torch.ones(columns["counts"].shape, dtype=torch.uint8)
        columns["unit_observed"][:, 2] = 0
        one = torch.zeros(1, 6, dtype=torch.bool)
        one[:, 2] = True
        assert same(run(model, with_counts(batch, one, 9)), run(model, batch))


# ---- what is seen of behaviour --------------------------------------------------------------------------------------


def test_an_evaluation_reads_no_truth_that_is_not_given():
    model, batch = neds(), batch_of()
    expected = run(model, batch)
    for head in BEHAVIOURS:
        assert same(run(model, with_truth(batch, head.task)), expected)
    for given in BEHAVIOURS:
        told = dataclasses.replace(batch, given=(given.task,))
        output = run(model, told)
        assert not torch.equal(output["population"], expected["population"])
        assert not output[f"{given.task}.weight"].any()
        for head in BEHAVIOURS:
            changed = run(model, with_truth(told, head.task))
            assert same(changed, output) == (head is not given), (given.task, head.task)


def test_rates_from_behaviour_alone():
    """All counts hidden and one behaviour given: each bin's value reaches the rates, the counts do not."""
    model, batch = neds(), hide_all(dataclasses.replace(batch_of(), given=(VELOCITY.task,), mode="encode"))
    expected = run(model, batch)
    assert same(run(model, with_counts(batch, EVERYWHERE, 9)), expected)
    rates, changed = expected["population"], run(model, with_truth(batch, VELOCITY.task, slice(30, 31)))["population"]
    windows = (rates != changed).any(1).unflatten(0, (4, N_BINS)).any(1)
    assert windows.tolist() == [False, True, False, False]


@pytest.mark.parametrize("training", [False, True])
def test_what_was_not_measured_is_hidden(training):
    model, batch = neds().train(training), dataclasses.replace(batch_of(), given=tuple(h.task for h in BEHAVIOURS))
    for task in batch.given:
        batch.asked[task].weight[1] = 0
    expected, spoilt = run(model, batch), batch.clone()
    for task in batch.given:
        asked = spoilt.asked[task]
        asked.target[1] = torch.nan if asked.target.is_floating_point() else 99
    assert same(run(model, spoilt), expected)
    assert model.loss(spoilt, expected, HALF)["total"] == model.loss(batch, expected, HALF)["total"]
    whole = batch_of()
    assert not same(run(model, dataclasses.replace(whole, given=batch.given)), expected)


def test_several_values_of_a_bin_are_their_mean():
    model, batch = neds(asked=(POPULATION, VELOCITY)), batch_of(asked=(POPULATION, VELOCITY), n_windows=1)
    batch = dataclasses.replace(batch, given=(VELOCITY.task,))
    asked, twice = batch.asked[VELOCITY.task], batch.clone()
    twice.asked[VELOCITY.task] = Asked(
        time=asked.time.repeat(2),
        offset=2 * asked.offset,
        ns=np.tile(asked.ns, 2),
        target=torch.cat([asked.target - 1, asked.target + 1]),
        weight=asked.weight.repeat(2),
    )
    expected = run(model, batch)["population"]
    torch.testing.assert_close(run(model, twice)["population"], expected, rtol=1e-5, atol=1e-6)


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_the_label_of_a_window():
    weight = torch.tensor([1.0, 1, 1, 0, 1, 1, 0])
    asked = Asked(
        torch.zeros(7), torch.tensor([0, 2, 4, 4, 6, 7]), np.zeros(7), torch.tensor([2, 2, 1, 9, 0, 3, 1]), weight
    )
    label, known = labels(asked, 5)
    assert known.tolist() == [True, True, False, False, False]  # twice the same; one; none; two; one without weight
    assert label[known].tolist() == [2, 1]


def test_a_window_with_two_labels_is_neither_read_nor_learned_from():
    model = neds(asked=(POPULATION, TARGET_ID), masks=("decoding",))
    batch = batch_of(asked=(POPULATION, TARGET_ID), n_windows=2)
    asked = batch.asked[TARGET_ID.task]
    batch.asked[TARGET_ID.task] = Asked(
        time=asked.time[[0, 0, 1]],
        offset=torch.tensor([0, 2, 3]),
        ns=asked.ns[[0, 0, 1]] + np.array([0, BIN_NS, 0]),
        target=torch.tensor([0, 3, 2]),
        weight=torch.ones(3),
    )
    said = run(model, batch)[TARGET_ID.task]
    assert torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])
    assert run(model.train(), batch)[f"{TARGET_ID.task}.weight"].tolist() == [0, 0, 1]
    model.eval()
    told = dataclasses.replace(batch, given=(TARGET_ID.task,))
    expected = run(model, told)["population"].unflatten(0, (2, N_BINS))
    other = run(model, with_truth(told, TARGET_ID.task))["population"].unflatten(0, (2, N_BINS))
    assert torch.equal(other[0], expected[0]) and not torch.equal(other[1], expected[1])


# ---- what a window of training hides --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MODALITY_MASKS)
def test_what_each_mask_hides_and_learns(mask):
    """Whatever is hidden has a loss and reaches nothing; whatever is seen has none and reaches the rest."""
    model, batch = neds(masks=(mask,)).train(), batch_of()
    output = run(model, batch)
    terms = model.loss(batch, output, HALF)
    weight = {head.task: output[f"{head.task}.weight"].bool() for head in BEHAVIOURS}
    spikes = output["scored"][:, 0]
    assert torch.equal(output["scored"], spikes[:, None].expand_as(output["scored"]))
    some = {"encoding": 1.0, "decoding": 0.0, "self_behaviour": 0.0}.get(mask, 0.3)
    assert spikes.float().mean() == pytest.approx(some, abs=0.15 if some == 0.3 else 0)
    share = {"decoding": 1.0, "self_behaviour": 0.3, "random_token": 0.3}.get(mask, 0.0)
    for head in (VELOCITY, POSITION):
        assert weight[head.task].float().mean() == pytest.approx(share, abs=0.15 if share == 0.3 else 0)
        assert (terms[head.task] > 0) == (share > 0)
    assert weight[TARGET_ID.task].all() == (mask == "decoding")  # else some of its tokens are seen
    if mask == "random_token":
        assert torch.equal(weight[VELOCITY.task], spikes) and torch.equal(weight[POSITION.task], spikes)
    if mask == "self_behaviour":
        assert not torch.equal(weight[VELOCITY.task], weight[POSITION.task])

    def reaches(changed: Batch) -> bool:
        other = run(model, changed)
        return any(not torch.equal(other[name], output[name]) for name in output)

    if spikes.any():
        assert not reaches(with_counts(batch, spikes[:, None], 9))
    if not spikes.all():
        assert reaches(with_counts(batch, ~spikes[:, None], 9))
    for head in (VELOCITY, POSITION):
        hidden = weight[head.task]
        assert not reaches(with_truth(batch, head.task, hidden))
        assert hidden.all() or reaches(with_truth(batch, head.task, ~hidden))
    assert reaches(with_truth(batch, TARGET_ID.task)) == (mask != "decoding")


def test_windows_without_behaviour_hide_bins_of_their_spikes():
    model, batch = neds(masks=("encoding", "decoding"), mask_ratio=0.5).train(), batch_of()
    for head in BEHAVIOURS:
        asked = batch.asked[head.task]
        asked.weight[: int(asked.offset[2])] = 0
    spikes = run(model, batch)["scored"][:, 0].unflatten(0, (4, N_BINS)).float().mean(1)
    assert ((spikes[:2] > 0.1) & (spikes[:2] < 0.9)).all() and set(spikes[2:].tolist()) <= {0.0, 1.0}


def test_spikes_alone_are_learned_without_a_label():
    """A run of the population alone, and batches from which labels were left out."""
    for model in (neds(asked=(POPULATION,)), neds(asked=ALL)):
        batch = batch_of(asked=(POPULATION,), n_windows=8)
        before = model.loss(batch, run(model, batch), HALF)["total"].item()
        model.train()
        for step in range(10):
            model.zero_grad()
            output = run(model, batch, step)
            assert 0 < output["scored"].float().mean() < 0.6
            terms = model.loss(batch, output, HALF)
            assert terms.keys() == {"population", "total"}
            terms["total"].backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.0 if p.grad is None else 0.1 * p.grad.to_dense())
        assert model.loss(batch, run(model.eval(), batch), HALF)["total"].item() < before - 0.05


def test_a_run_of_behaviour_alone_hides_behaviour():
    model, batch = neds(asked=(VELOCITY,)).train(), batch_of(asked=(VELOCITY,))
    assert model.masks == ["decoding", "self_behaviour", "random_token"]
    for seed in range(5):
        output = run(model, batch, seed)
        assert output.keys() == {VELOCITY.task, f"{VELOCITY.task}.weight"} and output[f"{VELOCITY.task}.weight"].any()
    assert "no population task" in model.why_not("identity_unlabelled", A.id)
    with pytest.raises(UsageError, match="masks encoding hide spikes alone and the run has no population task"):
        neds(asked=(VELOCITY,), masks=("encoding",))


def test_every_parameter_learns():
    model, batch = neds().train(), batch_of(n_windows=16)
    model.loss(batch, run(model, batch), HALF)["total"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.to_dense().any()]


def test_the_sum_of_the_losses():
    model, batch = neds(decode_weight=3.0), batch_of()
    output = model(batch)
    terms = model.loss(batch, output, HALF)
    assert terms.keys() == {head.task for head in ALL} | {"total"}
    behaviour = sum(terms[head.task] for head in BEHAVIOURS)
    torch.testing.assert_close(terms["total"], terms["population"] + 3.0 * behaviour)
    z, y = output["population"], batch.asked["population"].target
    torch.testing.assert_close(terms["population"], torch.nn.PoissonNLLLoss(log_input=True, full=False)(z, y))
    expected = torch.nn.functional.cross_entropy(output[TARGET_ID.task], batch.asked[TARGET_ID.task].target)
    torch.testing.assert_close(terms[TARGET_ID.task], expected)


# ---- masks ----------------------------------------------------------------------------------------------------------

# Over 2,000 batches of 16 windows of 100 bins the reference's masks hide this share of the bins, with this standard
# deviation between batches; and so many hidden stretches of one bin there are for each of two.
REFERENCE_BINS = {0.1: (0.099993, 0.007500, 32383 / 3226), 0.3: (0.300086, 0.011748, 59233 / 17543)}
# In its mixed training every mask comes as often; where bins are drawn at .1, all windows of a mask share a row.
REFERENCE_SHARES = {
    "encoding": 0.20059,
    "decoding": 0.19828,
    "self_spikes": 0.19969,
    "self_behaviour": 0.19934,
    "random_token": 0.20209,
}
REFERENCE_HIDDEN = {  # of spikes, of a behaviour
    "encoding": (1.0, 0.0),
    "decoding": (0.0, 1.0),
    "self_spikes": (0.10405, 0.0),
    "self_behaviour": (0.0, 0.09921),
    "random_token": (0.0969, 0.0969),
}


@pytest.mark.parametrize("ratio", REFERENCE_BINS)
def test_hidden_bins_have_the_statistics_of_the_reference(ratio):
    share, deviation, ones = REFERENCE_BINS[ratio]
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([hide_timesteps(16, 100, ratio, generator=generator) for _ in range(500)])
    shares = draws.float().mean((1, 2))
    assert shares.mean() == pytest.approx(share, abs=4 * deviation * (1 / 500 + 1 / 2000) ** 0.5)
    assert shares.std() == pytest.approx(deviation, rel=0.15)
    edge = torch.nn.functional.pad(draws.flatten(0, 1), (1, 1)).int().diff()
    length = (edge == -1).nonzero()[:, 1] - (edge == 1).nonzero()[:, 1]
    assert (length == 1).sum() / (length == 2).sum() == pytest.approx(ones, rel=0.1)


@pytest.mark.parametrize("one_row", [False, True])
def test_masks_have_the_statistics_of_the_reference(one_row):
    generator, draws = torch.Generator().manual_seed(1), 400
    masks = [draw_modality_masks(16, generator=generator) for _ in range(draws)]
    hidden = torch.cat([hide_modalities(s, 4, 100, 0.1, one_row=one_row, generator=generator) for s in masks])
    mask = torch.cat(masks)
    for place, name in enumerate(MODALITY_MASKS):
        own = hidden[mask == place]
        assert len(own) / len(mask) == pytest.approx(REFERENCE_SHARES[name], abs=0.02)
        spikes, behaviour = own[:, 0].float().mean(), own[:, 1:].float().mean((0, 2))
        assert spikes == pytest.approx(REFERENCE_HIDDEN[name][0], abs=0.012)
        assert behaviour.tolist() == pytest.approx([REFERENCE_HIDDEN[name][1]] * 4, abs=0.012)
        if name == "random_token":
            assert torch.equal(own, own[:, :1].expand_as(own))
        if name == "self_behaviour":
            assert not (own[:, 1] == own[:, 2]).all(1).any()
    batch = hide_modalities(torch.full((16,), MODALITY_MASKS.index("self_spikes")), 4, 100, 0.1, one_row=one_row)
    assert bool((batch == batch[0]).all()) == one_row


def test_masks_that_may_come():
    drawn = draw_modality_masks(200, ("decoding", "random_token"), generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 4}


# ---- forms ----------------------------------------------------------------------------------------------------------


def test_one_direction_alone():
    encoding, decoding = neds(form="encoding"), neds(asked=BEHAVIOURS, form="decoding")
    batch, asked_less = batch_of(), batch_of(asked=BEHAVIOURS)
    told = dataclasses.replace(batch, given=(VELOCITY.task,))
    expected = run(encoding, told)
    assert same(run(encoding, with_counts(told, EVERYWHERE, 9)), expected)
    assert not same(run(encoding, with_truth(told, VELOCITY.task)), expected)
    assert all(not expected[head.task].any() for head in BEHAVIOURS)  # their means: it says nothing of them
    said = run(decoding, asked_less)
    assert "population" not in said and said[VELOCITY.task].any()
    assert same(run(decoding.train(), with_truth(asked_less, POSITION.task)), run(decoding, asked_less))
    assert run(encoding.train(), batch)["scored"].all()
    for model, own in ((encoding, batch), (decoding, asked_less)):
        terms = model.loss(own, run(model, own), HALF)
        terms["total"].backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None and name != "mask_token"]
    assert all(terms[head.task] > 0 for head in BEHAVIOURS)
    key = module_key(A.id)
    assert encoding.read_out[key]["spikes"].in_features == 3 * 16 and "spikes" not in encoding.read_in[key]
    with pytest.raises(UsageError, match=r"decoding, which gives no rates, and asked are population, decode:hand_vel"):
        neds(asked=(POPULATION, VELOCITY), form="decoding")
    with pytest.raises(UsageError, match=r"encoding, rates from behaviour, and asked are population: use --task"):
        neds(asked=(POPULATION,), form="encoding")


@pytest.mark.parametrize("changes", [{"rope": False}, {"widen": 3}, {"fixup_init": False}, {"embedding_std": 0.1}])
def test_other_settings(changes):
    batch = batch_of()
    assert not same(run(neds(**changes), batch), run(neds(), batch))


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_behaviour_starts_alike_and_a_later_session_at_the_mean():
    model = neds((A, B))
    task = module_key(VELOCITY.task)
    a, b = (model.read_out[module_key(s.id)][task].weight for s in (A, B))
    assert torch.equal(a, b) and a is not b
    with torch.no_grad():
        a.add_(1.0)
    rows = model.session_tables["spikes"].weight.detach().clone()
    model.add_sessions([C])
    c = model.read_out[module_key(C.id)][task].weight
    torch.testing.assert_close(c, (a + b) / 2)
    assert model.read_out[module_key(C.id)]["spikes"].out_features == C.n_units
    torch.testing.assert_close(model.session_tables["spikes"].block(C.id), (rows[:1] + rows[1:]) / 2)


def test_weights_of_spikes_alone_start_a_model_with_behaviours():
    base = Neds(neds().config, [POPULATION], TIMING)
    base.add_sessions([A, B])
    run = SimpleNamespace(model=base, facts={"extra_state": base.extra_state()}, path=Path("base"))
    model = Neds(base.config, [POPULATION, *BEHAVIOURS], TIMING)
    start_from(model, run)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in base.state_dict().items())
    fresh = {name.split(".")[0] for name in state.keys() - base.state_dict().keys()}
    assert fresh == {"modality", "position", "session_tables", "read_in", "read_out"}
    model.add_sessions([C])
    task = module_key(VELOCITY.task)
    a, b, c = (model.read_out[module_key(s.id)][task].weight for s in (A, B, C))
    assert torch.equal(a, b) and torch.equal(a, c)  # what nothing trained is as it is drawn


def test_what_a_batch_without_labels_trains():
    model, batch = neds((A, B)).train(), batch_of(B, asked=(POPULATION,))
    model.loss(batch, run(model, batch), HALF)["total"].backward()
    spikes = [*model.read_in[module_key(B.id)]["spikes"].parameters()]
    assert all(p.grad.any() for p in spikes)
    assert all(p.grad is None for p in model.read_in[module_key(A.id)].parameters())
    assert all(p.grad is None for p in model.read_out[module_key(B.id)][module_key(VELOCITY.task)].parameters())
    assert model.why_not("identity_unlabelled", B.id) == ""
    assert "read-in is a session's own" in model.why_not("zero_shot", B.id)


def test_rates_start_from_the_means_of_the_observed_training_time():
    counts = np.random.default_rng(3).poisson(0.3, (40, 6)).astype(np.uint8)
    observed = (np.arange(40) < 30).astype(np.uint8)
    stretches = {A.id: [Stretch({"counts": {"counts": counts, "observed": observed}}, {}, {})]}
    model, plain = neds(rate_init=True), neds()
    before = copy.deepcopy(model.state_dict())
    plain.fit({})
    model.fit(stretches)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert len(changed) == 1 and changed[0].endswith("spikes.bias") and same(plain.state_dict(), before)
    expected = np.log((counts[:30].sum(0) + 0.5) / 31)
    np.testing.assert_allclose(model.state_dict()[changed[0]], expected, rtol=1e-6)


# ---- the reference's quirks -----------------------------------------------------------------------------------------


def test_the_quirks_are_off_by_default_and_can_be_had():
    plain, quirk = neds(), neds(reference_quirks=True)
    alone, two = batch_of(n_windows=1), batch_of(n_windows=2)
    assert same(run(plain, two), {k: v for k, v in run(quirk, two).items() if "tokens" not in k})
    before, rows_plain = run(quirk, alone), run(plain, alone)
    for model in (quirk, plain):
        for table in model.session_tables.values():
            table.weight.data.add_(1.0)
    assert same(run(quirk, alone), before) and not same(run(plain, alone), rows_plain)
    out = quirk.read_out[module_key(A.id)][module_key(TARGET_ID.task)].out
    torch.testing.assert_close(before[TARGET_ID.task], out.bias.detach()[None])  # a label of nothing


def test_the_cross_entropy_of_the_reference():
    """It sums over all windows, here also over two that hide nothing of the label, and divides by hidden tokens."""
    model, batch = neds(reference_quirks=True).train(), batch_of()
    hidden = torch.zeros(4, 4, N_BINS, dtype=torch.bool)
    hidden[0, 3], hidden[1, 3, :5] = True, True
    model.draw = lambda able_B: hidden
    output = run(model, batch)
    found = model.loss(batch, output, HALF)[TARGET_ID.task]
    target = batch.asked[TARGET_ID.task].target
    expected = torch.nn.functional.cross_entropy(output[TARGET_ID.task], target, reduction="sum") / (N_BINS + 5)
    torch.testing.assert_close(found, expected)
    hidden.zero_()
    assert model.loss(batch, run(model, batch), HALF)[TARGET_ID.task] == 0
    hidden[0, 3], hidden[1, 3, :5] = True, True
    own = neds().train()
    own.draw = model.draw
    assert run(own, batch)[f"{TARGET_ID.task}.weight"].tolist() == [1, 0, 0, 0]


def test_read_outs_that_the_reference_never_trains():
    for form, asked in (("encoding", ALL), ("decoding", BEHAVIOURS)):
        model, batch = neds(asked=asked, form=form, reference_quirks=True).train(), batch_of(asked=asked)
        model.loss(batch, run(model, batch), HALF)["total"].backward()
        assert all(p.grad is None for p in model.read_out.parameters())
        assert any(p.grad is not None and p.grad.any() for p in model.layers.parameters())


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 0}, "model.heads is 0, must be at least 1"),
        ({"dim": 12, "heads": 4}, "model.dim is 12, must be a multiple of twice model.heads, 8"),
        ({"mask_ratio": 1.0}, r"mask_ratio is 1\.0, must be in"),
        ({"dropout": 1.0}, r"dropout is 1\.0, must be in"),
        ({"decode_weight": -1.0}, r"decode_weight is -1\.0, must be at least 0"),
        ({"masks": ("encode",)}, "model.masks are encode: there are encoding, decoding"),
        ({"masks": ()}, "model.masks are none"),
    ],
)
def test_a_configuration_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        NedsConfig(**changes)


def test_what_does_not_fit_is_refused():
    model, batch = neds((A, B)), batch_of()
    with pytest.raises(DataError, match=r"neds reads batches of one session.*toy/a\.1, toy/b"):
        model(dataclasses.replace(batch, sessions=[A.id, A.id, B.id, B.id]))
    with pytest.raises(DataError, match=r"toy/b: the batch has 6 units, the model knows 9"):
        model(dataclasses.replace(batch, sessions=[B.id] * 4))
    with pytest.raises(DataError, match=r"'toy/c' is not one of the 2"):
        model(dataclasses.replace(batch, sessions=[C.id] * 4))
    with pytest.raises(DataError, match="toy/none has no units"):
        model.add_sessions([info("none", 0)])
    other = Neds(model.config, ALL, Timing(24 * BIN_NS, BIN_NS))
    other.add_sessions([A])
    with pytest.raises(DataError, match="a window has 25 bins and neds was built for 24"):
        other(batch)
