"""Laws that each model of MODELS keeps: what must change nothing of its answers, losses and gradients.

The batches are made by hand; the same laws on shards and through training stand in tests/training/test_model_laws.py.
A model that another package names falls under them too; what is told of a model here is a line of ORDERED.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.models import MODELS  # noqa: E402
from spiketok.models.batch import Asked, Batch, Head, Stretch, Tokens  # noqa: E402
from spiketok.models.vocabulary import Vocabulary  # noqa: E402
from tests.models.test_models import (  # noqa: E402
    ALL,
    BIN_NS,
    CHOICE,
    CLOSED_FORM,
    EVENTS,
    HALF,
    N_BINS,
    POPULATION,
    TASK,
    TIMING,
    VECTORS,
    VELOCITY,
    WINDOW_NS,
    A,
    B,
    Toy,
    add,
    config_of,
    inputs_of,
    make_batch,
    one_label,
    same,
    sessions_of,
    toy,
    windows_of,
)

SPELT = Head("sequence:word", "sequence", "sequence", 4, ("blank", "a", "b", "c"))
QUESTIONS = {head.kind: head for head in (VELOCITY, POPULATION, CHOICE, SPELT, EVENTS, VECTORS)}
# Models in which the order of the units counts, and why; for all others it must not.
ORDERED = {
    "ndt2": "a patch holds neighbours, and patches have places",
    "ndt3": "a patch holds neighbours, and patches have places",
    "stndt": "units have places, as bins have",
    "neuroformer": "the spikes of a step stand in the order of units",
}
D = toy("d", 11, 3)  # no width of a toy model is 11: a parameter of this size is of its units
ORDER = np.random.default_rng(4).permutation(D.info.n_units)


def build(name: str, sessions=None):
    """A model of toy size that is asked everything it can answer."""
    torch.manual_seed(0)
    model = MODELS[name](config_of(name), [QUESTIONS[kind] for kind in MODELS[name].tasks], TIMING)
    add(model, sessions_of(name) if sessions is None else sessions)
    return model.eval()


def batch_of(model, windows: list[tuple[Toy, int]], *, padded: bool = False) -> Batch:
    """All questions of the model; a label is asked once a window."""
    batch = make_batch(model, windows, padded=padded)
    if CHOICE.task in model.heads:
        batch.asked[CHOICE.task] = one_label(batch.start_ns)
    if SPELT.task in model.heads:
        n = len(windows)
        batch.asked[SPELT.task] = Asked(
            time=torch.zeros(2 * n),
            offset=torch.arange(n + 1) * 2,
            ns=np.repeat(batch.start_ns, 2),
            target=torch.arange(2 * n) % 3 + 1,
            weight=torch.ones(2 * n),
            span=torch.full((n,), WINDOW_NS / 1e9),
        )
    return batch


def answers(model, batch: Batch) -> dict[str, torch.Tensor]:
    """What an evaluation gets, by task; a model that draws draws the same."""
    torch.manual_seed(5)
    with torch.no_grad():
        output, _ = model.predict(batch)
    return {task: output[task] for task in batch.asked}


def learnt(model, batch: Batch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The losses of a training step, and the gradients where there are such."""
    torch.manual_seed(5)
    if model.name == CLOSED_FORM:
        return model.loss(batch, model(batch), HALF), {}
    model.train()
    model.zero_grad()
    terms = model.loss(batch, model(batch), HALF)
    terms["total"].backward()
    model.eval()
    return terms, {key: p.grad.to_dense().clone() for key, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], kept=None) -> None:
    """The same bits; ``kept``: by name, which rows are compared."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        rows = ... if kept is None else kept[key]
        assert same(found[key][rows], value[rows]), key


def spoilt(value: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Other values at those places: NaN of real numbers, else a number that is not the one that stood there."""
    if value.is_floating_point():
        return torch.where(where, torch.nan, value)
    return torch.where(where, (value + 1) % 7, value)


# ---- the order of units ---------------------------------------------------------------------------------------------


def reordered(session: Toy, order: np.ndarray) -> Toy:
    """The same recording, whose unit table has its rows in another order."""
    columns = {key: np.asarray(column)[order] for key, column in session.info.unit_columns.items()}
    info = dataclasses.replace(session.info, unit_id=session.info.unit_id[order], unit_columns=columns)
    return dataclasses.replace(session, info=info, unit=np.argsort(order)[session.unit].astype(np.int32))


def hand_over(model, other, session: str, order: np.ndarray) -> None:
    """Give ``other`` the numbers of ``model``; those of a unit to the unit of this name.

    Rows of tables go by their names. Of a parameter that is a session's own, what has a width of its units is of them.
    """
    state = {key: value.clone() for key, value in model.state_dict().items()}
    names = {id(p): key for key, p in model.named_parameters()}
    for part in model.identity_parameters([session]):
        if part.rows is None:
            value = part.parameter.detach()
            for axis in (k for k, n in enumerate(value.shape) if n == len(order)):
                value = value.index_select(axis, torch.from_numpy(order))
            state[names[id(part.parameter)]] = value
    others = dict(other.named_modules())
    for key, table in model.named_modules():
        if isinstance(table, Vocabulary):
            for block, words in others[key].words.items():
                place = [table.words[block].index(word) for word in words]
                state[f"{key}.weight"][others[key].span(block)] = table.weight.detach()[table.span(block)][place]
    other.load_state_dict(state)


@ALL
def test_the_order_of_units_changes_nothing_where_the_model_says_so(name):
    """Where units keep what belongs to them, in a session whose unit table has another order."""
    twin = reordered(D, ORDER)
    model, other = build(name, (D,)), build(name, (twin,))
    if name != CLOSED_FORM:
        hand_over(model, other, D.info.id, ORDER)
    starts = [3, 43, 83]
    expected = answers(model, batch_of(model, [(D, b) for b in starts]))
    found = answers(other, batch_of(other, [(twin, b) for b in starts]))
    if POPULATION.task in expected:
        expected[POPULATION.task] = expected[POPULATION.task][:, ORDER]
    if VECTORS.task in expected:  # each window holds every unit
        expected[VECTORS.task] = expected[VECTORS.task].unflatten(0, (len(starts), -1))[:, ORDER].flatten(0, 1)
    worst = max(float((found[task] - value).nan_to_num().abs().max()) for task, value in expected.items())
    if name in ORDERED:
        assert worst > 1e-3, f"the order of units changes nothing in {name}: take it out of ORDERED"
    else:
        assert worst < 1e-4, f"the order of units changes answers by {worst}; if it must, say why in ORDERED"


# ---- padding and batch mates ----------------------------------------------------------------------------------------


@ALL
def test_padding_changes_no_answer_and_no_gradient(name):
    model = build(name)
    windows = windows_of(model)
    packed, padded = batch_of(model, windows), batch_of(model, windows, padded=True)
    assert_equal(answers(model, padded), answers(model, packed))
    for found, expected in zip(learnt(model, padded), learnt(model, packed), strict=True):
        assert_equal(found, expected)


@ALL
def test_batch_mates_change_no_answer(name):
    """Neither their number nor what is recorded in them."""
    model = build(name)
    mate = A if model.one_session_batches else B
    noisy = dataclasses.replace(mate, time_ns=np.repeat(mate.time_ns, 3), unit=np.repeat(mate.unit, 3))
    alone = answers(model, batch_of(model, [(A, 3)]))
    for windows in ([(A, 3), (mate, 43), (mate, 83)], [(A, 3), (noisy, 200)]):
        batch = batch_of(model, windows)
        if model.one_session_batches:  # what is cut once a session is no mate's
            batch.session_inputs = batch_of(model, [(A, 3)]).session_inputs
        found = answers(model, batch)
        for task, expected in alone.items():
            part = found[task][: len(expected)]
            torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5, equal_nan=True, msg=task)


# ---- time that was not observed -------------------------------------------------------------------------------------

GAP = np.zeros((4, N_BINS), np.bool_)  # of four windows, the bins that were not recorded
GAP[0, 4:8] = GAP[1, :3] = GAP[2, 20:] = True


def gap_of(tokens: Tokens, start_bin: np.ndarray) -> dict[str, torch.Tensor]:
    """By column that says what was observed, what lies in the gap: bool in its shape."""
    columns, length = tokens.packed()
    window = np.repeat(np.arange(len(length)), length)
    if "series" in columns:  # each bin of a history by itself
        past = np.arange(columns["series"].shape[1])[::-1]
        bins = columns["time"].numpy()[:, None] - past
        return {"observed": torch.from_numpy((bins >= 0) & GAP[window[:, None], bins.clip(0)])}
    time = columns["time"].numpy() if "time" in columns else np.tile(np.arange(N_BINS), len(length))
    return {"observed": torch.from_numpy(GAP[window, time])}


def with_gap(model, batch: Batch, spoil: bool, by_unit: bool) -> Batch:
    """The batch with bins marked as not observed, where nothing is asked; spoilt, with other values in them.

    Args:
        by_unit: the first two units alone were not recorded, where the tokens can say so.
    """
    inputs = {}
    for key, tokens in batch.inputs.items():
        columns = dict(tokens.columns)
        content = next(word for word in ("counts", "patch", "series") if word in columns)
        gap = gap_of(tokens, batch.start_ns // BIN_NS)["observed"]
        if by_unit and content != "series":
            unit = columns["unit"] if "unit" in columns else torch.arange(columns[content].shape[1])
            gap = gap[:, None] & ((unit == 0) | (unit == 1))
            columns["unit_observed"] = (~gap).to(torch.uint8)
        else:
            if by_unit:
                gap = gap & (columns["unit"] < 2)[:, None]
            columns["observed"] = columns["observed"] * ~gap
        gap = gap if gap.ndim == 2 else gap[:, None]
        columns[content] = spoilt(columns[content], gap) if spoil else torch.where(gap, 0, columns[content])
        inputs[key] = Tokens(columns, tokens.offset, tokens.valid_BL)
    asked = {}
    for task, a in batch.asked.items():
        bins = (a.ns - np.repeat(batch.start_ns, a.offset.diff())) // BIN_NS
        gap = torch.from_numpy(GAP[np.repeat(np.arange(len(batch)), a.offset.diff()), bins])
        if a.weight.ndim == 2:
            gap = gap[:, None] & (torch.arange(a.weight.shape[1]) < (2 if by_unit else a.weight.shape[1]))
        elif by_unit:  # behaviour goes on
            gap = torch.zeros_like(gap)
        target = spoilt(a.target, gap if gap.ndim == a.target.ndim else gap[:, None]) if spoil else a.target
        asked[task] = dataclasses.replace(a, weight=a.weight * ~gap, target=target)
    return dataclasses.replace(batch, inputs=inputs, asked=asked)


@pytest.mark.parametrize("by_unit", [False, True], ids=["all units", "two units"])
@pytest.mark.parametrize("name", [n for n in MODELS if not {"spikes", "frames"} & inputs_of(build(n)).keys()])
def test_time_that_was_not_observed_changes_nothing(name, by_unit):
    """What stands in its bins, in tokens and truth, reaches no answer elsewhere, no loss and no gradient.

    A scheme leaves there what was recorded of a bin that was observed in part. Tokens of single spikes and of
    frames have no bins: what holds for them is told of shards.
    """
    model = build(name)
    batch = batch_of(model, [(A, b) for b in (3, 43, 83, 123)])
    clean, other = (with_gap(model, batch, spoil, by_unit) for spoil in (False, True))
    expected = answers(model, clean)
    kept = {task: a.weight > 0 for task, a in clean.asked.items() if task != VECTORS.task}
    assert all(int(rows.sum()) > 0 for rows in kept.values())
    if VECTORS.task in expected:  # of whole windows
        kept[VECTORS.task] = torch.ones(len(expected[VECTORS.task]), dtype=torch.bool)
    assert_equal(answers(model, other), expected, kept)
    for found, wanted in zip(learnt(model, other), learnt(model, clean), strict=True):
        assert_equal(found, wanted)
        assert all(value.isfinite().all() for value in found.values())


# ---- the truth of what is predicted ---------------------------------------------------------------------------------


def other_truth(asked: Asked) -> Asked:
    everywhere = torch.ones((), dtype=torch.bool)
    target = asked.target + 3.0 if asked.target.is_floating_point() else spoilt(asked.target, everywhere)
    return dataclasses.replace(asked, target=target)


def other_hidden(batch: Batch) -> dict[str, Tokens]:
    """The inputs with other counts where they are hidden, and with other behaviour where it stands among the tokens."""
    hidden, inputs = batch.hidden.get("counts"), {}
    for key, tokens in batch.inputs.items():
        columns = dict(tokens.columns)
        if hidden is not None and "counts" in columns:
            columns["counts"] = spoilt(columns["counts"], hidden)
        if hidden is not None and "patch" in columns:
            window = torch.repeat_interleave(torch.arange(len(batch)), tokens.offset.diff())
            unit = columns["unit"].long()
            under = hidden[(window * N_BINS + columns["time"])[:, None], unit.clamp_min(0)] & (unit >= 0)
            columns["patch"] = spoilt(columns["patch"], under)
        if "kind" in columns:
            columns["value"] = torch.where(columns["kind"] == 4, columns["value"] + 3.0, columns["value"])
        assert hidden is None or {"counts", "patch"} & columns.keys(), f"{key}: say here where its hidden counts stand"
        inputs[key] = Tokens(columns, tokens.offset)
    return inputs


@ALL
@pytest.mark.parametrize("hiding", ["nothing", "units", "bins"])
def test_an_evaluation_never_reads_the_truth_of_what_it_predicts(name, hiding):
    """Neither behaviour, nor labels, nor counts that are hidden; with ``batch.given``, no truth but what it names."""
    model = build(name)
    if hiding != "nothing" and POPULATION.task not in model.heads:
        return
    batch = batch_of(model, [(A, b) for b in (3, 43, 83)])
    if hiding != "nothing":
        hidden = torch.zeros(3, N_BINS, A.info.n_units, dtype=torch.bool)
        where = (slice(None), slice(None), [1, 4]) if hiding == "units" else (slice(None), slice(N_BINS - 6, None))
        hidden[where] = True
        batch.hidden["counts"] = hidden.flatten(0, 1)
    expected = answers(model, batch)
    changed = {task: other_truth(asked) for task, asked in batch.asked.items()}
    assert_equal(answers(model, dataclasses.replace(batch, inputs=other_hidden(batch), asked=changed)), expected)
    behaviour = [task for task in batch.asked if task != POPULATION.task]
    for task in behaviour:
        given = dataclasses.replace(batch, given=(task,))
        others = changed | {task: batch.asked[task]}
        assert_equal(answers(model, dataclasses.replace(given, asked=others)), answers(model, given))


def test_a_fit_reads_nothing_of_a_unit_that_was_not_recorded():
    """Of the one model that is fitted on counts themselves."""
    rng = np.random.default_rng(0)
    counts, target = rng.poisson(1.0, (300, 3)).astype(np.uint8), rng.normal(size=(300, 2))
    unit_observed = np.ones((300, 3), np.uint8)
    unit_observed[50:120, 1] = 0
    said = []
    for k in range(2):
        model = MODELS[CLOSED_FORM](config_of(CLOSED_FORM), [VELOCITY], TIMING)
        model.add_sessions([toy("fitted", 3).info])
        columns = {"counts": np.where(unit_observed > 0, counts, 7 * k), "unit_observed": unit_observed}
        model.fit({"toy/fitted": [Stretch({"counts": columns}, {TASK: target}, {TASK: np.ones(300)})]})
        said.append(model.state_dict())
    assert_equal(*said)


@pytest.mark.parametrize("name", ["poyo_plus", "capoyo"])
def test_models_of_several_tasks_take_the_loss_of_classes_that_is_set(name):
    """And their total weighs each task by the share of windows that ask it."""
    model = build(name)
    batch = batch_of(model, windows_of(model))
    asked = batch.asked[CHOICE.task]
    one = Asked(asked.time[:1], torch.tensor([0, 1, 1, 1, 1]), asked.ns[:1], asked.target[:1], asked.weight[:1])
    batch.asked[CHOICE.task] = one
    output = model(batch)
    terms = {key: term.detach() for key, term in model.loss(batch, output, HALF).items()}
    expected = torch.nn.functional.cross_entropy(output[CHOICE.task], one.target)
    assert float(terms[CHOICE.task]) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(terms["total"]) == pytest.approx(float(terms[TASK] + terms[CHOICE.task] / 4), rel=1e-5)
    model.config = dataclasses.replace(model.config, class_loss="mallow")
    p = output[CHOICE.task].detach().softmax(-1)[0]
    below = (torch.arange(3) >= one.target[0]).float()
    distance = float((p.cumsum(0) - below).square().mean())
    assert float(model.loss(batch, output, HALF)[CHOICE.task].detach()) == pytest.approx(distance, rel=1e-5)


# ---- what lies along the units --------------------------------------------------------------------------------------


NO_UNIT_PARTS = {"neds": "the layers of its read-in are as wide as a multiple of the units", CLOSED_FORM: "a ridge"}


@ALL
def test_unit_parts_are_what_of_the_identity_lies_along_the_units(name):
    """By size: of the toy session nothing but its units is 11 long."""
    model = build(name, (D,))
    if name in NO_UNIT_PARTS:
        assert model.unit_parts(D.info.id) == []
        return
    n = D.info.n_units
    expected = [
        (id(part.parameter), str(part.rows), axis)
        for part in model.identity_parameters([D.info.id])
        for axis, size in enumerate(part.value.shape)
        if size == n
    ]
    found = [(id(part.parameter), str(part.rows), axis) for part, axis in model.unit_parts(D.info.id)]
    assert sorted(found) == sorted(expected)


@ALL
def test_sessions_have_the_same_kinds_of_unit_parts(name):
    if MODELS[name].one_session or len(sessions_of(name)) < 2:
        pytest.skip(f"{name} holds one session: there is no second one whose parts could differ")
    model = build(name)
    kinds = [
        [(axis, tuple(np.delete(part.value.shape, axis))) for part, axis in model.unit_parts(session)]
        for session in model.sessions()
    ]
    assert all(one == kinds[0] for one in kinds)
