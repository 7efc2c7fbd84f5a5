"""Adaptation that blocks of the calibration choose: what moves, what is tried, what is chosen, what it is worth."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from spiketok.evaluation import adapted, transfer
from spiketok.evaluation.adapting import (
    BACK,
    EXPLORE,
    FIRST,
    FIRST_LOOK,
    GRID,
    LEAST_WEIGHT,
    NARROW,
    OTHER,
    PARTIAL,
    SHARES,
    Candidate,
    Errors,
    Point,
    Walker,
    block_errors,
    folds_of,
    mixed,
    mixing_weight,
    narrow_components,
    search,
)
from spiketok.evaluation.identity_map import principal, rows_of
from spiketok.evaluation.maps import Maps
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.models.batch import Progress
from spiketok.recording.nouns import Intervals
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.sampling import RandomWindows
from spiketok.training.tasks.decode import Prediction
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session

SECOND = 1_000_000_000
TASK = "decode:hand_vel"
IDS = ["made/day0", "made/day1", "made/new0", "made/new1"]

# ---- the search, on curves that are laid out ------------------------------------------------------------------------


class Laid:
    """A candidate whose errors follow a formula of (steps, share); notes how far each went."""

    def __init__(self, curve, far, name):
        self.curve, self.far, self.name = curve, far, name

    def to(self, steps):
        self.far[self.name] = steps
        points = []
        for share in SHARES if steps else (1.0,):
            error = self.curve(steps, share)
            error = error if isinstance(error, Errors) else Errors(error, error)
            points.append(Point(steps, share, error, (self.name, steps, share)))
        return points


def searched(curves, most=1000):
    """``curves``: by candidate's word, the error after so many steps; all others lose."""
    far = {}
    losing = lambda n, share: 1.0 + 0.3 * (n > 0)  # noqa: E731
    found = search(FIRST, OTHER, lambda c: Laid(curves.get(str(c), losing), far, str(c)), most)
    return *found, far


def test_where_every_step_loses_much_the_start_stands():
    candidate, choice, answers, far = searched({})
    assert (candidate, choice.steps, choice.error, choice.start_error) == (FIRST[0], 0, 1.0, 1.0)
    assert answers == (str(FIRST[0]), 0, 1.0)
    assert max(far.values()) == far[str(FIRST[2])] == EXPLORE
    assert max(steps for name, steps in far.items() if name != str(FIRST[2])) <= 100
    assert all(points[0] == (0, 1.0, 1.0) for points in choice.errors.values())


def test_the_best_is_followed_to_its_end_and_the_others_are_not():
    far_best = str(FIRST[2])
    candidate, choice, answers, far = searched({far_best: lambda n, share: 0.1 + 0.9 * np.exp(-n / 300)})
    assert (candidate, choice.steps, choice.share) == (FIRST[2], GRID[-1], 0.5)  # all of the way is no better
    assert answers == (far_best, GRID[-1], 0.5)
    assert far[str(OTHER[2])] <= 100  # the other rate was tried beside it
    assert far[str(FIRST[0])] == far[str(FIRST[1])] == 25


def test_another_rate_is_chosen_where_it_is_better_and_what_rises_again_is_not_followed():
    other = str(OTHER[1])
    curves = {
        str(FIRST[1]): lambda n, share: 0.85 if n else 1.0,
        other: lambda n, share: 1.0 - 0.004 * n if n <= 100 else 0.7,
    }
    candidate, choice, _, far = searched(curves)
    assert (candidate, choice.steps) == (OTHER[1], 100)
    assert choice.error == pytest.approx(0.6)
    assert far[other] == 400  # two points of the grid without gain


def test_what_gains_late_is_seen_where_everything_is_trained():
    """Less than a fiftieth of the error in a hundred steps, and most of it after that: a model trained little."""
    late = {25: 0.99, 50: 0.985, 100: 0.98, 200: 0.85, 400: 0.6, 700: 0.5, 1000: 0.5}
    falls = lambda n, share: late.get(n, 1.0)  # noqa: E731
    candidate, choice, *_ = searched({str(FIRST[2]): falls})
    assert (candidate, choice.steps, choice.error) == (FIRST[2], 700, 0.5)
    assert searched({str(FIRST[1]): falls})[1].steps == 0  # rows alone are not followed so far


def test_half_way_along_directions_stands_and_what_is_simpler_unless_the_other_is_better_by_a_margin():
    def chosen(*less, whole=0.0):
        """By kind of move so much less than the start; all of the way so much less than half of it."""
        curves = {
            str(c): lambda n, share, gain=gain: 1.0 - (gain + whole * (share == 1)) * (n > 0)
            for c, gain in zip(FIRST, less, strict=True)
        }
        candidate, choice, *_ = searched(curves)
        return candidate.moves, choice.steps, choice.share

    assert chosen(1 - 1 / (1 - BACK) - 0.01, -1.0, -1.0) == ("directions", 0, 1.0)  # the start is far better
    assert chosen(1 - 1 / (1 - BACK) + 0.01, -1.0, -1.0) == ("directions", FIRST_LOOK, 0.5)
    assert chosen(0.5, 0.51, 0.52) == ("directions", FIRST_LOOK, 0.5)
    assert chosen(0.5, 0.53, 0.52) == ("rows", GRID[0], 0.5)
    assert chosen(0.5, 0.53, 0.56) == ("full", GRID[0], 0.5)
    assert chosen(0.5, 0.0, 0.0, whole=0.02) == ("directions", FIRST_LOOK, 0.5)
    assert chosen(0.5, 0.0, 0.0, whole=0.03) == ("directions", FIRST_LOOK, 1.0)


def test_other_steps_are_chosen_only_where_they_are_better_by_a_margin():
    def steps(later):
        return searched({str(FIRST[0]): lambda n, share: {0: 1.0, FIRST_LOOK: 0.5}.get(n, later)})[1].steps

    assert steps(0.48) == FIRST_LOOK
    assert steps(0.47) == 50


def test_both_errors_of_the_blocks_choose():
    def steps(shape, plain):
        curves = {str(c): lambda n, share: Errors(shape if n else 1.0, plain if n else 1.0) for c in (*FIRST, *OTHER)}
        return searched(curves)[1].steps

    assert steps(0.5, 4.0) == 0  # better about the mean of each block alone
    assert steps(4.0, 0.1) == FIRST_LOOK
    assert steps(0.9, 1.8) == 0
    assert steps(0.9, 1.6) == FIRST_LOOK
    assert Errors(-0.8, -0.8).judged == -0.8  # scores with their sign turned, where a run has no values
    assert Errors(np.inf, np.inf).judged == np.inf


def test_better_is_what_is_better_in_each_block_or_far_better():
    one = Errors(0.5, 0.5, (0.4, 0.6, np.inf))
    assert Errors(0.4, 0.4, (0.3, 0.5, np.inf)).beats(one)  # where neither can be scored a block has no vote
    assert not Errors(0.4, 0.4, (0.1, 0.7, np.inf)).beats(one)
    assert not Errors(0.4, 0.4, (0.3, 0.5, 0.1)).beats(Errors(0.4, 0.4, (0.4, 0.6, 0.2)))  # and by the margin
    assert not Errors(0.4, 0.4, (0.3, np.inf, np.inf)).beats(one)
    assert Errors(0.36, 0.36, (0.1, 0.7, np.inf)).beats(one)  # by far more than a block can gainsay


def test_no_step_beyond_the_most():
    falling = {str(c): lambda n, share: 1.0 / (1 + n) for c in (*FIRST, *OTHER)}
    for most in (0, 1, 7, 60):
        _, choice, _, far = searched(falling, most)
        assert choice.steps == max(far.values()) == most


def test_errors_that_are_none_can_be_written():
    choice = searched({str(c): lambda n, share: np.inf for c in (*FIRST, *OTHER)})[1]
    assert choice.steps == 0
    told = choice.written()
    assert (told.error, told.start_error) == (None, None)
    assert {e for points in told.errors.values() for *_, e in points} == {None}
    assert json.loads(json.dumps(asdict(told), allow_nan=False))["blocks"] == 0


# ---- a toy poyo -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return {i: decodable_session(i.split("/")[1], k, n_units=9 + k) for k, i in enumerate(IDS)}


@pytest.fixture(scope="module")
def tokens(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return {i: bake_tokens(folder, session) for i, session in made.items()}


@pytest.fixture(scope="module")
def poyo(tokens, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("poyo")
    sets = [*SMALL_POYO, "optim.steps=4", "transfer.adapt_steps=2", "transfer.map_draws=2"]
    train(load_config("poyo", None, sets), [tokens[i] for i in IDS[:2]], run_dir)
    return load_run(run_dir)


ROWS = ["mapped_unlabelled", "identity_unlabelled", "mapped", "adapted"]


@pytest.fixture(scope="module")
def result(poyo, tokens, made):
    def trained(ids):
        return [tokens[i] for i in ids]

    kept = {"protocols": ROWS, "calibration_s": 6, "stored": made.get, "trained": trained, "calibration": "random"}
    both = evaluate_transfer(poyo, [tokens[i] for i in IDS[2:]], repeats=2, **kept)
    alone = evaluate_transfer(poyo, [tokens[IDS[3]]], repeats=1, **kept)
    return both, alone


def unseen(poyo, tokens, calibration_s=6.0):
    session = transfer._transfer_session(poyo, tokens[IDS[2]], calibration_s)
    maps = Maps(poyo, None, None, calibration_s, "first", poyo.config.transfer, 0)
    return transfer.Unseen(poyo, session, poyo.config.transfer, 3, torch.device("cpu"), lambda event: None, maps)


@pytest.mark.long  # with the other of the fixture ten seconds
def test_the_rows_stand_for_each_session_and_draw(result):
    both, _ = result
    assert both.protocols == (
        "linear",
        "identity_unlabelled",
        "mapped_unlabelled",
        "mapped",
        "adapted",
        "adapted+linear",
    )
    for protocol in ("mapped_unlabelled", "mapped", "adapted", "adapted+linear"):
        found = [(c.session, c.repeat) for c in both.of(protocol, TASK) if c.score is not None]
        assert found == [(s, r) for s in IDS[2:] for r in (0, 1)]
    how = both.cell(IDS[2], "adapted", TASK).how
    assert how["start"] == "map" and how["map_sessions"] == 2 and how["blocks"] == 3
    assert {points[-1][0] for points in how["errors"].values()} == {2}
    assert 0 <= both.cell(IDS[2], "adapted+linear", TASK).how["weight"] <= 1
    first, second = (both.sessions[k].calibration for k in (0, 1))
    assert first.start_ns.tolist() != second.start_ns.tolist()
    assert len({(t["row"], t["against"]) for t in both.paired}) == 5 + 4


@pytest.mark.long  # with the other of the fixture ten seconds
def test_no_result_depends_on_the_other_sessions_or_draws(result):
    both, alone = result
    for protocol in both.protocols:
        cell, again = both.cell(IDS[3], protocol, TASK), alone.cell(IDS[3], protocol, TASK)
        assert (cell.score, cell.how) == (again.score, again.how)


def test_without_trained_sessions_the_rows_say_why(poyo, tokens, made):
    found = evaluate_transfer(poyo, [tokens[IDS[2]]], protocols=ROWS, calibration_s=6, stored=made.get)
    for protocol in ("mapped_unlabelled", "mapped", "adapted", "adapted+linear"):
        cell = found.cell(IDS[2], protocol, TASK)
        assert cell.score is None
        assert cell.reason == "its map is learned of the trained sessions' shards, which are not at hand"
    gone = evaluate_transfer(
        poyo, [tokens[IDS[2]]], protocols=["mapped"], calibration_s=6, trained=lambda ids: [tokens[i] for i in ids]
    )
    assert "is not in the store" in gone.cell(IDS[2], "mapped", TASK).reason


def test_no_map_is_learned_of_a_session_that_has_other_tokens_now(poyo, tokens, made, tmp_path):
    """The same units and the same id, other spikes: what was trained is not what would be read."""
    other = decodable_session("day0", 77, n_units=9)
    assert other.id == IDS[0]
    now = {**tokens, IDS[0]: bake_tokens(tmp_path, other)}
    found = evaluate_transfer(
        poyo, [tokens[IDS[2]]], protocols=["mapped", "aligned_cca"], calibration_s=6,
        stored={**made, IDS[0]: other}.get, trained=lambda ids: [now[i] for i in ids],
    )  # fmt: skip
    for row in ("mapped", "aligned_cca"):
        cell = found.cell(IDS[2], row, TASK)
        assert cell.score is None and f"{IDS[0]} was tokenized anew since the run was trained on it" in cell.reason


def test_blocks_are_apart_and_a_calibration_of_few_windows_has_fewer(poyo, tokens):
    session = unseen(poyo, tokens).session
    window_ns = poyo.config.data.window_ns
    folds = folds_of(session, 3, window_ns)
    assert len(folds) == 3
    whole = session.splits["calibration"]
    for fold in folds:
        block, rest = fold.splits["test"], fold.splits["calibration"]
        assert block.intersect(rest).total_ns == 0
        assert block.total_ns + rest.total_ns == whole.total_ns == block.intersect(whole).total_ns + rest.total_ns
        touched = Intervals(fold.windows("test").start_ns, fold.windows("test").stop_ns)
        other = Intervals(fold.windows("calibration").start_ns, fold.windows("calibration").stop_ns)
        assert touched.intersect(other.union()).total_ns == 0
    for seconds, blocks in ((1.2, 2), (0.6, 0)):
        short = Intervals([0], [round(seconds * SECOND)])
        few = replace(session, splits={"calibration": short, "test": session.splits["test"]})
        assert len(folds_of(few, 3, window_ns)) == blocks


@pytest.mark.parametrize("candidate", [*FIRST, *OTHER], ids=str)
def test_what_moves_is_what_the_candidate_says(candidate, poyo, tokens):
    one = unseen(poyo, tokens)
    model, session = one.model(), one.session.id
    directions = [principal(rows_of(*model.unit_parts(IDS[0])[0]).double().numpy())[:3]]
    names = {id(p): name for name, p in model.named_parameters()}
    parts = [(names[id(p.parameter)], p.rows) for p in model.identity_parameters([session])]
    identity = {(name, r) for name, rows in parts for r in range(rows.start, rows.stop)}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    base = rows_of(*model.unit_parts(session)[0])
    batch = next(iter(one.loader(model, one.session.tasks, sampler_of(one), 4)))
    walker = Walker(model, session, candidate, directions)
    for step in range(2):
        walker.step(lambda step=step: model.loss(batch, model(batch), Progress(step, 2))["total"])
    moved = {
        (name, r)
        for name, p in model.named_parameters()
        for r in (p != before[name]).reshape(len(p), -1).any(1).nonzero().flatten().tolist()
    }
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    if candidate.moves != "full":
        assert moved == identity
    else:
        others = {(n, r) for n, r in moved if n in {n for n, _ in identity}} - identity
        assert identity < moved and not others
    if candidate.moves == "directions":
        step = rows_of(*model.unit_parts(session)[0]) - base
        inside = step @ directions[0].T @ directions[0]
        torch.testing.assert_close(inside, step, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("candidate", FIRST, ids=str)
def test_half_way_is_the_mean_of_the_two_ends_and_leaves_the_walk_as_it_is(candidate, poyo, tokens):
    one = unseen(poyo, tokens)
    model, session = one.model(), one.session.id
    directions = [principal(rows_of(*model.unit_parts(IDS[0])[0]).double().numpy())[:3]]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = next(iter(one.loader(model, one.session.tasks, sampler_of(one), 4)))
    walker = Walker(model, session, candidate, directions)
    for step in range(2):
        walker.step(lambda step=step: model.loss(batch, model(batch), Progress(step, 2))["total"])
    after = {name: p.detach().clone() for name, p in model.named_parameters()}
    with walker.at(0.5):
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), (before[name] + after[name]) / 2, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(p.detach(), after[name]) for name, p in model.named_parameters())
    walker.settle(0.5)
    assert any(not torch.equal(p.detach(), after[name]) for name, p in model.named_parameters())


def sampler_of(one):
    return RandomWindows([one.session.windows("calibration")], one.run.config.data.window_ns, seed=0)


def test_rows_are_pulled_back_to_where_they_began(poyo, tokens):
    one = unseen(poyo, tokens)
    model, session = one.model(), one.session.id
    part, axis = model.unit_parts(session)[0]
    base = rows_of(part, axis)
    walker = Walker(model, session, Candidate("rows", 1e-2, pull=5.0), ())
    with torch.no_grad():
        walker.rows[0][4].copy_(torch.ones_like(base))
    walker.step(lambda: 0.0 * sum(p.sum() for p in model.parameters() if p.requires_grad))
    torch.testing.assert_close(rows_of(part, axis), base + (1 - 1e-2 * 5.0), atol=1e-6, rtol=1e-5)


# ---- errors and weights ---------------------------------------------------------------------------------------------


def prediction(time_ns, predicted, true, weight=None):
    weight = np.ones(len(time_ns), np.float32) if weight is None else weight
    return Prediction(np.asarray(time_ns), predicted, true, weight, ("x", "y"), "mm/s")


def answers_of(seed: int):
    """A truth at 40 times; a model and a linear decoder that err each in their way, the latter at 15 other times."""
    rng = np.random.default_rng(seed)
    time = np.arange(0, 400, 10)
    truth = np.column_stack([np.sin(time / 60), 30 * np.cos(time / 45)])
    scale = np.array([1.0, 30.0])
    weight = (rng.random(40) < 0.8).astype(np.float32)
    model = prediction(time, truth + 0.5 * scale * rng.normal(size=truth.shape), truth, weight)
    there = np.arange(5, 395, 26)
    linear = prediction(there, 0.3 * scale * rng.normal(size=(15, 2)), np.zeros((15, 2)))
    return model, linear


def test_the_weight_is_that_of_the_least_error_among_many(poyo):
    task = replace_std(poyo.tasks[0], (2.0, 60.0))
    models, linears = zip(*(answers_of(seed) for seed in range(3)), strict=True)
    weight = mixing_weight(models, linears, task)
    error = [
        block_errors([{task.name: mixed(m, x, w)} for m, x in zip(models, linears, strict=True)], [task]).plain
        for w in np.linspace(0, 1, 101)
    ]
    assert weight == pytest.approx(np.argmin(error) / 100, abs=0.006)
    assert mixing_weight(models, models, task) == 1.0  # the same answer: nothing to weigh
    np.testing.assert_allclose(mixed(models[0], linears[0], 1.0).predicted, models[0].predicted)
    np.testing.assert_allclose(mixed(models[0], linears[0], 0.0).predicted[:1], linears[0].predicted[:1])


def test_a_weight_below_the_least_leaves_the_linear_decoder_alone(poyo):
    task = replace_std(poyo.tasks[0], (2.0, 60.0))
    models, linears = zip(*(answers_of(seed) for seed in range(3)), strict=True)
    weight = mixing_weight(models, linears, task)
    assert 0 < weight < 1
    assert mixing_weight(models, linears, task, weight - 1e-6) == weight
    assert mixing_weight(models, linears, task, weight + 1e-6) == 0.0


def replace_std(task, std):
    task = copy.copy(task)
    task.target = replace(task.target, std=std)
    return task


def test_the_errors_of_blocks_are_over_all_their_samples_in_sds(poyo):
    task = replace_std(poyo.tasks[0], (2.0, 60.0))
    models = [answers_of(seed)[0] for seed in range(2)]
    offs = [((m.predicted - m.true) / [2.0, 60.0])[m.weight > 0] for m in models]
    found = block_errors([{task.name: m} for m in models], [task])
    assert found.plain == pytest.approx(np.square(np.concatenate(offs)).mean())
    within = [off.var(0).mean() for off in offs]
    assert found.shape == pytest.approx(np.average(within, weights=[len(off) for off in offs]))
    alone = [np.sqrt(off.var(0).mean() * np.square(off).mean()) for off in offs]
    assert found.blocks == pytest.approx(alone)
    shifted = [replace(m, predicted=m.predicted + np.array([k, -9.0])) for k, m in enumerate(models)]
    moved = block_errors([{task.name: m} for m in shifted], [task])
    assert moved.shape == pytest.approx(found.shape) and moved.plain != pytest.approx(found.plain)
    assert block_errors([{}], [task]) == (np.inf, np.inf, (np.inf,))


def test_a_component_that_hardly_varies_in_all_blocks_is_named(poyo):
    task = replace_std(poyo.tasks[0], (2.0, 60.0))
    models = [answers_of(seed)[0] for seed in range(2)]
    varies = np.concatenate([(m.true / [2.0, 60.0])[m.weight > 0] for m in models]).var(0)
    assert varies[0] < 0.2 and varies[1] < 0.2  # sines of half and of a quarter of these deviations
    assert narrow_components([{task.name: m} for m in models], [task]) == (f"{task.name} x", f"{task.name} y")
    task = replace_std(poyo.tasks[0], (1.0, 60.0))
    assert narrow_components([{task.name: m} for m in models], [task]) == (f"{task.name} y",)
    assert narrow_components([{}], [task]) == ()
    assert narrow_components([{task.name: m} for m in models], [task], least=1e-9) == ()


@pytest.mark.long
def test_where_a_component_varies_little_what_is_no_sessions_own_stays(poyo, tokens, made, monkeypatch):
    def tried():
        found = evaluate_transfer(
            poyo, [tokens[IDS[2]]], protocols=["adapted"], calibration_s=6, stored=made.get,
            trained=lambda ids: [tokens[i] for i in ids],
        )  # fmt: skip
        return {name.split(",")[0] for name in found.cell(IDS[2], "adapted", TASK).how["errors"]}

    little = ("hand_vel x",)
    monkeypatch.setattr(adapted, "narrow_components", lambda answers, tasks, least=NARROW: little[: least == PARTIAL])
    assert tried() == {"directions", "rows"}
    little = ()
    assert tried() == {"directions", "rows", "full"}


@pytest.mark.long
def test_a_start_that_nobody_foretold_takes_no_part_where_blocks_cannot_judge(poyo, tokens, made, monkeypatch):
    """A model without a map, in a calibration in which the behaviour hardly varies: the linear decoder alone."""
    monkeypatch.setattr(type(poyo.model), "unit_parts", lambda model, session: [])

    def how():
        found = evaluate_transfer(
            poyo, [tokens[IDS[2]]], protocols=["adapted"], calibration_s=6, stored=made.get, trained=lambda ids: []
        )
        return found.cell(IDS[2], "adapted+linear", TASK).how

    monkeypatch.setattr(
        adapted, "mixing_weight", lambda models, linears, task, least: 0.4 if least == LEAST_WEIGHT else 1.0
    )
    assert how()["weight"] == 0.4
    monkeypatch.setattr(adapted, "narrow_components", lambda answers, tasks, least=0: ("hand_vel x",))
    narrow = how()
    assert (narrow["weight"], narrow["steps"], narrow["narrow"]) == (0.0, 0, ["hand_vel x"])


# ---- what the map is worth ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_map_beats_initial_rows_and_shuffled_statistics(tmp_path, monkeypatch):
    """Five days to learn rows and their map from, a sixth of which ten seconds are seen."""
    made = {m.id: m for m in (decodable_session(f"day{k}", 20 + k) for k in range(6))}
    tokens = {i: bake_tokens(tmp_path, session) for i, session in made.items()}
    *days, new = tokens
    config = load_config("poyo", None, [*SMALL_POYO, "optim.steps=300", "optim.checkpoint_every=300"])
    train(config, [tokens[i] for i in days], tmp_path / "run")
    run, stored = load_run(tmp_path / "run"), made.get

    def score(protocols):
        found = evaluate_transfer(
            run, [tokens[new]], protocols=protocols, calibration_s=10, stored=stored,
            trained=lambda ids: [tokens[i] for i in ids],
        )  # fmt: skip
        return {p: found.cell(new, p, TASK).score["r2_mean"] for p in protocols}

    plain = score(["zero_shot", "mapped_unlabelled", "mapped"])
    real = adapted.statistics_of
    order = np.random.default_rng(0).permutation(12)
    monkeypatch.setattr(adapted, "statistics_of", lambda *given: [rows[order] for rows in real(*given)])
    shuffled = score(["mapped"])
    assert plain["mapped"] > max(plain["zero_shot"], 0.0) + 0.1, plain
    assert shuffled["mapped"] < plain["mapped"] - 0.2, (plain, shuffled)
