"""Kinds of question: what is asked where, what is hidden, how answers are stitched, scored and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Batch, Progress, Timing
from spiketok.recording.leakage import with_stated_reach
from spiketok.recording.metrics import co_bps
from spiketok.recording.nouns import Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.training import loop, runs
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loader import Loader
from spiketok.training.loop import prepare, train, train_loader
from spiketok.training.predict import predict, score_split
from spiketok.training.predictions import read_predictions, write_predictions
from spiketok.training.runs import choose_training
from spiketok.training.sampling import RandomWindows, SequentialWindows, SessionTokens, SessionWindows
from spiketok.training.tasks.base import MISSING
from spiketok.training.tasks.classify import Classified, Classify, ClassifyConfig
from spiketok.training.tasks.decode import Decode, DecodeConfig, Prediction
from spiketok.training.tasks.population import Population, PopulationConfig, deviance_explained
from spiketok.training.unit_dropout import UnitDropout
from tests.decodable import BIN_NS, SECOND, SMALL_POYO, bake_tokens, decodable_session
from tests.toys import Toy

MS = 1_000_000
VEL = "decode:hand_vel"


def with_trials(session: Session, every_ms: int = 2000, length_ms: int = 1500, **columns) -> Session:
    """The session with trials one after the other, and columns of them."""
    n = len(next(iter(columns.values())))
    start = np.arange(n) * every_ms * MS
    trials = Intervals(start, start + length_ms * MS, {k: np.array(v) for k, v in columns.items()})
    return replace(session, intervals={"trials": trials})


def with_values(session: Session, value: np.ndarray | None = None, valid: np.ndarray | None = None) -> Session:
    """The session with other samples of its behaviour."""
    vel = session.signals["hand_vel"]
    value, valid = vel.value if value is None else value, vel.valid if valid is None else valid
    return replace(session, signals={"hand_vel": Signal(vel.time_ns, value, vel.components, "mm/s", valid, 100.0)})


def described(tokens: SessionTokens, **columns: np.ndarray) -> SessionTokens:
    """The session's shards, with unit columns."""

    class Described(SessionTokens):
        @property
        def info(self):
            return replace(self.reader.info, unit_columns=columns)

    return Described(tokens.windowed, tokens.once)


def batches(tokens: SessionTokens, tasks, window_ms: int, allowed: Intervals | None = None, **options) -> list[Batch]:
    """All windows of a session, one behind the other."""
    allowed = Intervals([0], [40 * SECOND]) if allowed is None else allowed
    windows = [SessionWindows(tokens, allowed)]
    sampler = SequentialWindows(windows, window_ms * MS)
    return [b.clone() for b in Loader(windows, sampler, batch_size=7, tasks=tasks, **options)]


# ---- decode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["per-spike", "binned"])
def test_decode_is_normalised_by_guarded_training_time_alone(tmp_path, scheme):
    """What a window of another split may touch, and all other splits, may hold any value."""
    stated = {"info": with_stated_reach({}, "hand_vel", 80 * MS, 40 * MS)}
    session = replace(decodable_session("a"), **stated)
    config = load_config({"per-spike": "poyo", "binned": "linear"}[scheme], sets=["data.window_ms=500"])
    (divided,), (task,) = prepare(config, [bake_tokens(tmp_path, session, scheme)])
    vel = session.signals["hand_vel"]
    used = vel.time_ns < 28 * SECOND - 40 * MS  # 0.7 of 40 s are for training, of which the last may reach 40 ms on
    assert divided.splits["train"].stop_ns.tolist() == [28 * SECOND]
    assert divided.guarded["train"].stop_ns.tolist() == [28 * SECOND - 40 * MS]
    np.testing.assert_allclose(task.target.mean, vel.value[used].mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(task.target.std, vel.value[used].std(axis=0, dtype=np.float64), rtol=1e-9)
    value = vel.value.copy()
    value[~used] = 1e6
    _, (other,) = prepare(config, [bake_tokens(tmp_path / "other", with_values(session, value), scheme)])
    assert other.target == task.target


def weight_by_hand(trials: Intervals, weights: Mapping[str, float], time_ns: int) -> float:
    total = 1.0
    for name, weight in weights.items():
        column, word = name.split("=")
        for k in range(len(trials)):
            if trials.columns[column][k] == word and trials.start_ns[k] <= time_ns < trials.stop_ns[k]:
                total *= weight
    return total


@pytest.mark.parametrize("scheme", ["per-spike", "binned"])
def test_decode_weights_multiply(tmp_path, scheme):
    """Also where the segments overlap and bins of one stand among those of another."""
    weights = {"phase=reach": 5.0, "odd=yes": 0.5, "phase=never": 7.0}
    valid = np.ones(1000, np.bool_)
    valid[300:400] = False
    session = with_values(decodable_session("a", seconds=10), valid=valid)
    session = with_trials(session, 1010, 1500, phase=["reach", "hold"] * 4, odd=["yes", "yes", "no", "no"] * 2)
    segments = Intervals([0, 1510 * MS, 6003 * MS], [4 * SECOND, 6 * SECOND, 10 * SECOND])
    tokens = bake_tokens(tmp_path, session, scheme, segments)
    task = Decode.resolve("hand_vel", [tokens], DecodeConfig(weights))
    task.fit([(tokens, Intervals([0], [10 * SECOND]))])
    found = [
        pair
        for batch in batches(tokens, [task], 100)
        for pair in zip(batch.asked[VEL].ns.tolist(), batch.asked[VEL].weight.tolist(), strict=True)
    ]
    seen = set()
    for ns, weight in found:
        # of a bin the two samples in it, of which one is enough; else the sample itself
        span = ns - 10 * MS, ns + 10 * MS
        own = slice(-(-span[0] // (10 * MS)), -(-span[1] // (10 * MS))) if scheme == "binned" else ns // (10 * MS)
        assert weight == (weight_by_hand(session.trials, weights, ns) if valid[own].any() else 0.0)
        seen.add(weight)
    assert seen == {0.0, 0.5, 1.0, 1.25, 2.5, 5.0}


def test_weights_shape_no_score(tmp_path):
    """They stand in training alone: each valid sample counts alike in a score."""
    session = with_trials(decodable_session("a"), phase=["reach", "hold"] * 10)
    sets = ["data.window_ms=500", 'task.decode.weights={"phase=reach"=5}']
    answers = []
    for chosen in (sets, sets[:1]):
        config = load_config("poyo", sets=[*SMALL_POYO, *chosen])
        (divided,), (task,) = prepare(config, [bake_tokens(tmp_path, session)])
        answers.append(predict(Constant({VEL: 0.25}), divided, "test", config)[VEL])
        assert task.config.weights == ({"phase=reach": 5.0} if chosen is sets else {})
    assert set(answers[0].weight.tolist()) == {1.0, 5.0}
    assert answers[0].score() == answers[1].score()
    np.testing.assert_array_equal(answers[0].arrays()["weight"], 1.0)


def test_samples_that_were_not_measured_are_not_scored():
    """What stands in their place is no truth, however well it is met."""
    rng = np.random.default_rng(0)
    true, said = rng.normal(size=(2, 60, 2))
    weight = np.ones(60, np.float32)
    weight[::3] = 0
    true[::3] = said[::3] = 1e6
    columns = {"components": ("x", "y"), "measure": "mm/s"}
    answer = Prediction(np.arange(60), said, true, weight, **columns)
    kept = weight > 0
    assert answer.score() == Prediction(np.arange(40), said[kept], true[kept], weight[kept], **columns).score()
    assert answer.score()["r2_mean"] == pytest.approx(sk.r2_score(true[kept], said[kept]), rel=1e-9)


@pytest.mark.parametrize("name", ["reach", "phase=reach=", "phase=reach"])
def test_weights_that_cannot_be_used_say_why(tmp_path, name):
    if name == "reach":
        with pytest.raises(UsageError, match=r"task.decode.weights\['reach'\] is 2.0: use COLUMN=VALUE"):
            DecodeConfig({name: 2.0})
        return
    with pytest.raises(UsageError, match=r"is -1.0"):
        DecodeConfig({name: -1.0})
    tokens = bake_tokens(tmp_path, with_trials(decodable_session("a"), side=["l", "r"]))
    task = Decode.resolve("", [tokens], DecodeConfig({name: 2.0}))
    with pytest.raises(DataError, match="made/a has no trial column 'phase' to weigh by: it has side"):
        task.truth(tokens)


def test_decode_says_what_it_chose_and_why_not(tmp_path):
    one = bake_tokens(tmp_path, decodable_session("one"))
    two = bake_tokens(tmp_path, decodable_session("two", signals=("hand_vel", "eye_vel")))
    none = bake_tokens(tmp_path, decodable_session("none", signals=()))
    metres = {"hand_vel": replace(decodable_session("m").signals["hand_vel"], measure="m/s")}
    other = bake_tokens(tmp_path, replace(decodable_session("m"), signals=metres))
    task = Decode.resolve("", [one, two], DecodeConfig())
    assert (task.name, task.target.components, task.target.measure) == (VEL, ("x", "y"), "mm/s")
    assert [task.why_not(s) for s in (one, two)] == ["", ""]
    assert task.why_not(none) == "it has no signal 'hand_vel', which the model decodes (it has none)"
    assert task.why_not(other).endswith("is (x, y) in 'm/s', the model decodes (x, y) in 'mm/s'")
    with pytest.raises(DataError, match=r"more than one signal can be decoded \(eye_vel, hand_vel\): choose by --task"):
        Decode.resolve("", [two], DecodeConfig())
    with pytest.raises(DataError, match="made/none hold no behaviour to decode"):
        Decode.resolve("", [none], DecodeConfig())
    with pytest.raises(DataError, match="no signal is in every session .*made/one has hand_vel; made/none has none"):
        Decode.resolve("", [one, none], DecodeConfig())
    flat = bake_tokens(tmp_path / "flat", with_values(decodable_session("one"), np.ones((4000, 2), np.float32)))
    with pytest.raises(DataError, match="x, y of 'hand_vel' are constant in the training time"):
        task.fit([(flat, Intervals([0], [SECOND]))])
    with pytest.raises(DataError, match="no valid sample in the training time of made/one"):
        task.fit([(one, Intervals.empty())])


# ---- classify -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 5])
def test_accuracies_are_those_of_scikit_learn(n_classes):
    rng = np.random.default_rng(n_classes)
    label = rng.choice(n_classes, 200, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    said = rng.normal(size=(200, n_classes)) + 1.5 * np.eye(n_classes)[label]
    weight = np.ones(200, np.float32)
    weight[::9] = 0
    words = tuple(f"w{k}" for k in range(n_classes))
    score = Classified(np.arange(200), said, label, weight, words).score()
    true, found = label[weight > 0], said.argmax(1)[weight > 0]
    assert score["accuracy"] == pytest.approx(sk.accuracy_score(true, found), rel=1e-12)
    assert score["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, found), rel=1e-12)
    each = sk.recall_score(true, found, average=None)
    assert [score["recall"][word] for word in words] == pytest.approx(each.tolist(), rel=1e-12)
    assert score["n_samples"] == (weight > 0).sum()
    assert Classified(np.arange(3), said[:3], label[:3], np.zeros(3), words).score()["accuracy"] is None
    written = Classified(np.arange(200), said, label, 3 * weight, words).arrays()["weight"]
    np.testing.assert_array_equal(written, weight)  # as it is scored: yes or no


WORDS = ["left", "right", "", "up", "nan", "left", "None", "right", "up", "right"]


@pytest.mark.parametrize("scheme", ["per-spike", "binned"])
@pytest.mark.parametrize("at", ["start", "middle", "stop"])
def test_a_label_is_asked_once_at_its_moment_and_a_missing_one_never(tmp_path, scheme, at):
    """Also a word that training time does not know is never asked, and is no class."""
    session = with_trials(decodable_session("a", seconds=20), side=WORDS)
    tokens = bake_tokens(tmp_path, session, scheme)
    task = Classify.resolve("", [tokens], ClassifyConfig(at))
    task.fit([(tokens, Intervals([0, 14 * SECOND], [4 * SECOND, 16 * SECOND]))])  # trials 0, 1 and 7
    assert task.name == "classify:side"
    assert task.head().words == task.classes == ("left", "right")
    offset = {"start": 0, "middle": 750 * MS, "stop": 1500 * MS - 1}[at]
    expected = [(2 * k * SECOND + offset, WORDS[k]) for k in (0, 1, 5, 7, 9)]
    found = []
    for batch in batches(tokens, [task], 500, Intervals([0], [20 * SECOND])):
        asked = batch.asked["classify:side"]
        assert (asked.target.dtype, asked.weight.tolist()) == (torch.int64, [1.0] * len(asked.ns))
        found += zip(asked.ns.tolist(), [task.classes[k] for k in asked.target.tolist()], strict=True)
        window = np.repeat(np.arange(len(batch)), np.diff(asked.offset.numpy()))
        second = (asked.ns - batch.start_ns[window]) * 1e-9
        np.testing.assert_array_equal(asked.time.numpy(), second.astype(np.float32))
    assert found == expected
    again = Classify.from_dict(json.loads(json.dumps(task.to_dict())), ClassifyConfig(at))
    assert (again.name, again.classes) == (task.name, task.classes)


@pytest.mark.parametrize(
    ("at", "after_ms", "offset_ms"), [("start", 250, 250), ("stop", -500.0, 1000), ("middle", 2, 752)]
)
def test_a_label_is_asked_so_long_after_its_moment_within_its_trial(tmp_path, at, after_ms, offset_ms):
    session = with_trials(decodable_session("a", seconds=20), side=WORDS)
    tokens = bake_tokens(tmp_path, session, "binned")
    task = Classify.resolve("", [tokens], ClassifyConfig(at, after_ms))
    task.fit([(tokens, Intervals([0], [20 * SECOND]))])
    truth = task.truth(tokens)
    late = int(at == "stop")  # of which the last instant is asked
    expected = [2 * k * SECOND + offset_ms * MS - late for k, word in enumerate(WORDS) if word not in MISSING]
    assert truth.time_ns.tolist() == expected
    beyond = Classify.resolve("", [tokens], ClassifyConfig("start", 1500))
    with pytest.raises(DataError, match="of . moments, 1500 ms after the start of their trial, lie outside"):
        beyond.fit([(tokens, Intervals([0], [20 * SECOND]))])
    with pytest.raises(UsageError, match="after_ms of a classification is nan"):
        ClassifyConfig("start", float("nan"))


def test_classes_are_of_guarded_training_time(tmp_path):
    """Of a run: a word of test time alone is no class, and its trials are not scored."""
    words = ["a", "b"] * 7 + ["a", "b", "c", "a", "c", "b"]
    session = with_trials(decodable_session("a"), side=words)
    config = load_config("ndt1", sets=["data.window_ms=1000"], tasks=["classify:side"])
    (divided,), (task,) = prepare(config, [bake_tokens(tmp_path, session, "binned")])
    assert divided.splits["train"].stop_ns[-1] < 28 * SECOND
    assert task.classes == ("a", "b")
    answer = predict(Constant({task.name: [1.0, 0.0]}), divided, "test", config)[task.name]
    start, stop = divided.splits["test"].start_ns[0], divided.splits["test"].stop_ns[-1]
    moments = [2 * k * SECOND + 1500 * MS - 1 for k in range(20)]
    inside = [k for k in range(20) if start <= moments[k] < stop and words[k] != "c"]
    assert answer.time_ns.tolist() == [moments[k] for k in inside]
    assert [task.classes[k] for k in answer.label] == [words[k] for k in inside]
    assert answer.score()["accuracy"] == np.mean([words[k] == "a" for k in inside])


def test_classify_says_what_it_lacks(tmp_path):
    none = bake_tokens(tmp_path, decodable_session("none"))
    two = bake_tokens(tmp_path, with_trials(decodable_session("two"), side=["l", "r"], odd=["l", "l"]))
    with pytest.raises(DataError, match=r"no trial column can be classified: choose by --task classify:COLUMN"):
        Classify.resolve("", [none], ClassifyConfig())
    with pytest.raises(DataError, match=r"more than one trial column can be classified \(odd, side\)"):
        Classify.resolve("", [two], ClassifyConfig())
    with pytest.raises(DataError, match=r"made/none has no trial column 'side' of few values \(there are odd, side\)"):
        Classify.resolve("side", [two, none], ClassifyConfig())
    task = Classify.resolve("odd", [two], ClassifyConfig())
    assert task.why_not(none) == "it has no trial column 'odd' (it has none)"
    with pytest.raises(DataError, match=r"'odd' has fewer than two classes in the training time \(l\)"):
        task.fit([(two, Intervals([0], [40 * SECOND]))])


# ---- population -----------------------------------------------------------------------------------------------------


def poisson_session(name: str = "p", n_units: int = 8, seconds: int = 40) -> tuple[Session, np.ndarray]:
    """Units of known rates, expected spikes a bin ``[T, N]``, that follow two slow waves."""
    rng = np.random.default_rng(5)
    n_bins = seconds * SECOND // BIN_NS
    second = np.arange(n_bins) * BIN_NS / SECOND
    wave = np.stack([np.sin(2 * np.pi * 0.4 * second), np.cos(2 * np.pi * 0.7 * second)], axis=1)
    rate = np.exp(-1.0 + wave @ rng.normal(0, 0.8, (2, n_units)))
    times = []
    for k in range(n_units):
        bin_of = np.repeat(np.arange(n_bins), rng.poisson(rate[:, k]))
        times.append(np.sort(bin_of * BIN_NS + rng.integers(0, BIN_NS, len(bin_of))))
    stop, time_ns = seconds * SECOND, np.arange(seconds * 100) * 10 * MS
    value = np.stack([np.sin(2 * np.pi * 0.4 * time_ns / SECOND), np.cos(2 * np.pi * 0.7 * time_ns / SECOND)], axis=1)
    vel = Signal(time_ns, value.astype(np.float32), ("x", "y"), "mm/s", np.ones(len(time_ns), np.bool_), 100.0)
    session = Session(
        id=f"made/{name}",
        subject="s",
        start_ns=0,
        stop_ns=stop,
        units=UnitTable([f"u{k}" for k in range(n_units)]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop]),
        source=Source(f"{name}.nwb", "0" * 64, 1),
        signals={"hand_vel": vel},
    )
    return session, rate


class Constant(Toy):
    """Says the same at every query."""

    one_session_batches = True

    def __init__(self, says: Mapping[str, object]) -> None:
        super().__init__()
        self.says = says

    def forward(self, batch):
        said = {}
        for name, value in self.says.items():
            asked = batch.asked[name]
            width = len(value) if isinstance(value, list) else asked.target.shape[-1]
            said[name] = torch.tensor(value).float().expand(len(asked.ns), width)
        return said


class Knowing(Toy):
    """Says given rates ``[T, N]`` at the bins of the session, and 0 for a behaviour; notes what was hidden."""

    one_session_batches = True

    def __init__(self, rate: np.ndarray) -> None:
        super().__init__()
        self.log_rate, self.seen = torch.from_numpy(np.log(rate)).float(), []

    def forward(self, batch):
        counts = batch.inputs["counts"].columns["counts"]
        self.seen.append((batch.start_ns.copy(), batch.hidden["counts"].clone() if batch.hidden else None))
        n_bins = batch.window_ns // BIN_NS
        first = batch.start_ns // BIN_NS
        rates = torch.cat([self.log_rate[k : k + n_bins] for k in first.tolist()])
        assert rates.shape == counts.shape
        behaviour = {n: torch.zeros(a.target.shape) for n, a in batch.asked.items() if n != "population"}
        return {"population": rates} | behaviour


HELD = np.array([False, True, False, False, True, False, False, False])


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A session of known rates, its rates, and its shard with and without a column of held-out units."""
    session, rate = poisson_session()
    tokens = bake_tokens(tmp_path_factory.mktemp("known"), session, "binned")
    return session, rate, tokens, described(tokens, held_out=HELD)


def asked_of(tokens: SessionTokens, *sets: str, tasks=("population",)):
    """The configuration of a run on a session, the session divided, and the tasks."""
    config = load_config("ndt1", sets=["data.window_ms=500", "data.batch_size=6", *sets], tasks=list(tasks))
    (divided,), found = prepare(config, [tokens])
    return config, divided, found


def test_held_out_units_come_from_the_column_else_from_a_share_by_name(known):
    _, _, plain, named = known
    task = Population.resolve("", [named], PopulationConfig())
    assert task.holds_out
    np.testing.assert_array_equal(task.held_out(named), HELD)
    assert task.metrics[0] == "co_bps"
    assert not Population.resolve("", [plain], PopulationConfig()).holds_out
    config = PopulationConfig(held_out=0.25)
    task = Population.resolve("", [plain, named], config)
    drawn = task.held_out(plain)
    assert drawn.sum() == 2
    np.testing.assert_array_equal(task.held_out(named), HELD)  # the file's word counts more
    with pytest.raises(DataError, match="made/p names held-out units and made/q does not"):
        Population.resolve("", [named, renamed(plain, "made/q")], PopulationConfig())
    seeds = {tuple(Population("", PopulationConfig(0.25, seed), True).held_out(plain).tolist()) for seed in range(20)}
    assert len(seeds) > 5
    none = described(plain, held_out=np.zeros(8, np.bool_))
    assert Population("", PopulationConfig(), True).why_not(none) == "0 of its 8 units are held out"


def test_named_units_that_were_kept_back_are_neither_asked_nor_scored(known, tmp_path):
    """NLB's test halves name units whose spikes are not in the file: their zeros are no truth."""
    session, rate, *_ = known
    heard = ~np.isin(session.spikes.unit, [1, 6])
    spikes = Spikes(session.spikes.time_ns[heard], session.spikes.unit[heard])
    tokens = bake_tokens(tmp_path, replace(session, spikes=spikes), "binned")
    some = described(tokens, held_out=np.isin(np.arange(8), [1, 4, 6]))
    config, divided, (task,) = asked_of(some)
    np.testing.assert_array_equal(task.held_out(some), np.arange(8) == 4)
    answer = predict(Knowing(rate), divided, "test", config)["population"]
    scored = np.isfinite(answer.pair("held_out")[1])
    np.testing.assert_array_equal(scored.any(axis=0), np.arange(8) == 4)
    rows = (answer.time_ns - BIN_NS // 2) // BIN_NS
    truth = tokens.reader.columns["counts"][rows][:, [4]].astype(float)
    assert answer.score()["co_bps"] == pytest.approx(co_bps(rate[rows][:, [4]], truth), abs=1e-5)
    assert np.isnan(answer.rate["all"][:, [1, 6]]).all()
    # Where all named ones were kept back the file names none: a share is drawn from the others.
    absent = np.isin(np.arange(8), [1, 6])
    every = described(tokens, held_out=absent)
    assert not Population.resolve("", [every], PopulationConfig()).holds_out
    drawn = Population.resolve("", [every], PopulationConfig(held_out=0.5)).held_out(every)
    assert drawn.sum() == 3 and not drawn[absent].any()
    # A unit that nobody named is silent by itself: that is a measurement.
    silent = described(tokens, held_out=np.arange(8) == 4)
    config, divided, _ = asked_of(silent)
    answer = predict(Knowing(rate), divided, "test", config)["population"]
    assert np.isfinite(answer.rate["all"]).all()
    # What else reads the rates goes on without the units that are not asked.
    config, divided, _ = asked_of(some, "task.population.velocity=hand_vel")
    answer = predict(Knowing(rate), divided, "test", config)["population"]
    assert answer.score()["velocity_r2"] > 0.5


def renamed(tokens: SessionTokens, name: str, rows: np.ndarray | None = None) -> SessionTokens:
    """The shards under another session's name, or with some of the units, in an order."""

    class Renamed(SessionTokens):
        @property
        def info(self):
            info = self.reader.info
            return replace(info, id=name, unit_id=info.unit_id if rows is None else info.unit_id[rows])

        @property
        def id(self):
            return name

    return Renamed(tokens.windowed, tokens.once)


def test_a_share_of_units_is_stable_under_others(known):
    """By name and not by place: another order and fewer units around them change nothing."""
    task, plain = Population("", PopulationConfig(held_out=0.4), True), known[2]

    def held(rows: np.ndarray, session: str = "made/p") -> set[str]:
        tokens = renamed(plain, session, rows)
        return set(tokens.info.unit_id[task.held_out(tokens)].tolist())

    whole = held(np.arange(8))
    assert len(whole) == 3
    assert held(np.arange(8)[::-1]) == whole
    inside = [k for k in range(8) if f"u{k}" not in whole]
    for gone in inside:  # 0.4 of 7 are 3 as well
        assert held(np.array([k for k in range(8) if k != gone])) == whole
    for gone in whole:
        rest = held(np.array([k for k in range(8) if f"u{k}" != gone]))
        assert len(rest) == 3
        assert whole - {gone} < rest
    assert {tuple(sorted(held(np.arange(8), f"made/{k}"))) for k in range(9)} != {tuple(sorted(whole))}


def test_what_is_hidden_in_a_batch(known):
    """Held-out units in every bin, forward bins in every unit, nothing else; the counts stay as the target."""
    _, _, plain, named = known
    for config, tokens in (
        (PopulationConfig(), named),
        (PopulationConfig(forward_ms=100), plain),
        (PopulationConfig(forward_ms=100), named),
        (PopulationConfig(held_out=0.5), plain),
    ):
        task = Population.resolve("", [tokens], config)
        assert task.passes(tokens) == []
        n_forward = round(config.forward_ms * MS / BIN_NS)
        expected = np.zeros((25, 8), np.bool_)
        expected[:, task.held_out(tokens) if task.holds_out else np.zeros(8, np.bool_)] = True
        expected[25 - n_forward :] = True
        for batch in batches(tokens, [task], 500, one_session=True):
            hidden, asked = batch.hidden["counts"].numpy(), batch.asked["population"]
            np.testing.assert_array_equal(hidden, np.tile(expected, (len(batch), 1)))
            rows = (asked.ns - BIN_NS // 2) // BIN_NS
            np.testing.assert_array_equal(asked.target.numpy(), plain.reader.columns["counts"][rows])
            assert asked.offset.tolist() == list(range(0, 25 * len(batch) + 1, 25))
            assert bool(asked.weight.all())
    with pytest.raises(UsageError, match="forward_ms is 500 and a window has 500 ms"):
        batches(plain, [Population("", PopulationConfig(forward_ms=500), False)], 500, one_session=True)


def test_what_was_not_recorded_or_was_dropped_is_not_asked(known, tmp_path):
    """Neither unobserved bins nor the units that unit dropout takes out: their zeros are no silence."""
    session = replace(known[0], observed=Intervals([0, 5 * SECOND], [4_010 * MS, 40 * SECOND]))
    gap = bake_tokens(tmp_path, session, "binned", Intervals([0], [40 * SECOND]))
    task = Population.resolve("", [gap], PopulationConfig())
    windows = [SessionWindows(gap, Intervals([0], [40 * SECOND]))]
    assert windows[0].start_ns.tolist() == [0, 5 * SECOND]
    loader = Loader(
        windows,
        RandomWindows(windows, 500 * MS),
        batch_size=5,
        tasks=[task],
        unit_dropout=UnitDropout(3, 4, 6),
        one_session=True,
    )
    dropped = 0
    for batch in loader:
        asked = batch.asked["population"]
        weight = asked.weight.unflatten(0, (len(batch), 25)).numpy()
        kept = weight[:, 0]
        assert set(kept.sum(1).tolist()) <= {3, 4, 5}
        np.testing.assert_array_equal(weight, np.repeat(kept[:, None], 25, axis=1))
        rows = (asked.ns - BIN_NS // 2) // BIN_NS
        truth = gap.reader.columns["counts"][rows]
        np.testing.assert_array_equal(asked.target.numpy(), np.where(asked.weight.numpy(), truth, 0))
        dropped += int(truth[~asked.weight.numpy()].sum())
    assert dropped > 1000


@pytest.mark.parametrize(("hide", "passes"), [(0.25, 4), (0.5, 2), (0.2, 5), (0.9, 2)])
def test_passes_hide_every_bin_of_a_window_once(known, hide, passes):
    config, divided, (task,) = asked_of(known[2], f"task.population.hide={hide}")
    assert len(task.passes(known[2])) == passes
    model = Knowing(known[1])
    predict(model, divided, "test", config)
    times: dict[int, np.ndarray] = {}
    share = []
    for starts, hidden in model.seen:
        shaped = hidden.unflatten(0, (len(starts), 25)).numpy()
        assert (shaped.all(axis=2) == shaped.any(axis=2)).all()  # whole bins
        for start, window in zip(starts.tolist(), shaped[:, :, 0], strict=True):
            times[start] = times.get(start, np.zeros(25, int)) + window
            share.append(window.mean())
    assert len(model.seen) % passes == 0
    assert all((window == 1).all() for window in times.values())
    assert max(share) - min(share) <= 1 / 25 + 1e-9
    for batch in batches(known[2], [task], 500, one_session=True):
        assert batch.hidden == {}  # in training the model chooses


def test_hidden_counts_are_hidden_in_the_batches_of_other_tasks_too(known, tmp_path):
    """In every batch of an evaluation, whichever task it is collected for, and in training."""
    _, rate, _, named = known
    config, divided, tasks = asked_of(named, "task.population.forward_ms=60", tasks=("decode:hand_vel", "population"))
    model = Knowing(rate)
    answers = predict(model, divided, "test", config)
    assert list(answers) == [VEL, "population"]
    expected = np.tile(HELD, (25, 1))
    expected[22:] = True
    for starts, hidden in model.seen:
        np.testing.assert_array_equal(hidden.numpy(), np.tile(expected, (len(starts), 1)))
    loader = loop.train_loader(config, [divided], model, tasks)
    for batch in loader:
        np.testing.assert_array_equal(batch.hidden["counts"].numpy(), np.tile(expected, (len(batch), 1)))
    assert len(answers[VEL].true) == 8 * SECOND // BIN_NS


def test_co_bps_of_the_true_rates_bounds_all_others(known):
    """Through loader, hiding and stitching; and it is the metric on the held-out units of the split."""
    _, rate, plain, named = known
    config, divided, _ = asked_of(named)
    first, last = divided.splits["test"].start_ns[0] // BIN_NS, divided.splits["test"].stop_ns[-1] // BIN_NS
    count = plain.reader.columns["counts"][first:last].astype(np.float64)

    def scored(said: np.ndarray) -> dict:
        return predict(Knowing(said), divided, "test", config)["population"].score()

    best = scored(rate)
    assert best["co_bps"] == pytest.approx(co_bps(rate[first:last][:, HELD], count[:, HELD]), rel=1e-5)
    assert best["co_bps"] > 0.1
    assert best["n_samples"] == count[:, HELD].size
    rng = np.random.default_rng(0)
    others = [rate * np.exp(rng.normal(0, 0.3, rate.shape)), np.roll(rate, 20, axis=0), 1.3 * rate, rate**0.5]
    others += [np.roll(rate, 1, axis=1), np.tile(rate.mean(0), (len(rate), 1))]
    for said in others:
        score = scored(said)
        assert score["co_bps"] < best["co_bps"]
        assert score["d2"] < best["d2"]
        assert score["bps_per_unit"] < best["bps_per_unit"]
    seen = rate.copy()
    seen[:, ~HELD] = 17.0  # what is said of the units that are seen is not scored
    assert scored(seen) == pytest.approx(best)
    null = np.tile(count.mean(0), (len(rate), 1))
    assert scored(null)["co_bps"] == pytest.approx(0, abs=1e-6)
    assert scored(null)["d2"] == pytest.approx(0, abs=1e-6)


def test_fp_bps_scores_forward_bins_alone(known):
    _, rate, plain, _ = known
    config, divided, (task,) = asked_of(plain, "task.population.forward_ms=100", "data.eval_step_ms=500")
    assert task.metrics[0] == "fp_bps"
    answer = predict(Knowing(rate), divided, "test", config)["population"]
    first, last = divided.splits["test"].start_ns[0] // BIN_NS, divided.splits["test"].stop_ns[-1] // BIN_NS
    ahead = np.arange(first, last).reshape(-1, 25)[:, 20:].ravel()
    count = plain.reader.columns["counts"].astype(np.float64)
    score = answer.score()
    assert score["fp_bps"] == pytest.approx(co_bps(rate[ahead], count[ahead]), rel=1e-5)
    assert score["n_samples"] == 8 * len(ahead)
    said, true = answer.pair("forward")
    assert np.flatnonzero(np.isfinite(true).all(1)).tolist() == (ahead - first).tolist()
    np.testing.assert_allclose(said[ahead - first], rate[ahead], rtol=1e-5)


def test_d2_is_the_share_of_the_deviance(known):
    rng = np.random.default_rng(3)
    _, rate, plain, _ = known
    count = plain.reader.columns["counts"].astype(np.float64)
    said = rate * np.exp(rng.normal(0, 0.2, rate.shape))
    for k in range(8):  # of one unit alone the null is scikit-learn's too
        expected = sk.d2_tweedie_score(count[:, k], said[:, k], power=1)
        assert deviance_explained(said[:, [k]], count[:, [k]]) == pytest.approx(expected, rel=1e-9)
    lost = rng.random(count.shape) < 0.3
    some, shown = np.where(lost, np.nan, count), np.where(lost, np.nan, said)
    model = null = 0.0
    for k in range(8):
        y, mu = count[~lost[:, k], k], said[~lost[:, k], k]
        model += len(y) * sk.mean_poisson_deviance(y, mu)
        null += len(y) * sk.mean_poisson_deviance(y, np.full(len(y), y.mean()))
    assert deviance_explained(shown, some) == pytest.approx(1 - model / null, rel=1e-9)
    assert deviance_explained(np.ones((4, 2)), np.zeros((4, 2))) is None


def test_behaviour_and_conditions_are_read_from_the_rates(known, tmp_path):
    """Of true rates the velocity is a line; their mean over a condition's trials is near the counts'."""
    session, rate, _, _ = known
    session = with_trials(session, 2500, 1500, side=["a"] * 16)  # 2.5 s are a whole period of both waves' 0.4 Hz
    tokens = bake_tokens(tmp_path, session, "binned")
    sets = [
        "task.population.velocity=hand_vel",
        "task.population.condition=side",
        "split.kind=block",
        "split.train=0.2",
    ]
    config, divided, (task,) = asked_of(tokens, *sets, "split.valid=0.1", "split.test=0.7")
    assert task.metrics[-2:] == ("velocity_r2", "psth_r2")
    answer = predict(Knowing(rate), divided, "test", config)["population"]
    score = answer.score()
    assert score["velocity_r2"] > 0.99
    first = answer.time_ns[0] // BIN_NS
    rows = [row for row in range(0, 2000, 125) if row >= first]  # of the trials that lie in test time
    assert len(rows) == 11
    count = tokens.reader.columns["counts"].astype(np.float64)
    said, true = (np.mean([x[r : r + 25] for r in rows], axis=0) for x in (rate, count))
    assert score["psth_r2"] == pytest.approx(sk.r2_score(true, said), rel=1e-4)
    late = predict(Knowing(np.roll(rate, 62, axis=0)), divided, "test", config)["population"].score()
    assert late["psth_r2"] < score["psth_r2"]


def test_settings_of_the_population_are_checked():
    with pytest.raises(UsageError, match=r"held_out is 1, must be from 0 to below 1"):
        PopulationConfig(held_out=1)
    with pytest.raises(UsageError, match=r"hide is 0, must be from 0.001"):
        PopulationConfig(hide=0)
    with pytest.raises(UsageError, match="the population has no name, use --task population"):
        Population("m1", PopulationConfig(), False)
    assert Population.inputs(Timing(SECOND, 5 * MS))["counts"].fields == {"bin_ns": 5 * MS}


# ---- several tasks in one run ---------------------------------------------------------------------------------------

NDT1 = [
    "model.dim=16",
    "model.layers=1",
    "model.heads=2",
    "model.hidden=16",
    "data.window_ms=1000",
    "data.batch_size=8",
    "optim.steps=8",
    "optim.checkpoint_every=0",
]
ALL_TASKS = ["population", "decode:hand_vel", "classify:side"]


def test_several_tasks_train_together_and_a_bare_session_takes_part(tmp_path):
    """A session without behaviour and trials is asked for its population alone."""
    sides = ["l", "r", "r", "l"] * 5
    sessions = [with_trials(decodable_session(f"day{k}", k, n_units=6 + k), side=sides) for k in range(2)]
    sessions.append(decodable_session("bare", 7, n_units=5, signals=()))
    tokens = [bake_tokens(tmp_path, s, "binned") for s in sessions]
    config = load_config("ndt1", sets=NDT1, tasks=[",".join(ALL_TASKS)])
    with pytest.raises(DataError, match="made/bare has no trial column 'side'"):
        Classify.resolve("side", tokens, ClassifyConfig())
    result = train(config, tokens, tmp_path / "run")
    assert {s: list(by_task) for s, by_task in result.scores.items()} == {
        "made/bare": ["population"],
        "made/day0": ALL_TASKS,
        "made/day1": ALL_TASKS,
    }
    (line,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert list(line["loss"]) == [*ALL_TASKS, "total"]
    written = json.loads((tmp_path / "run/result.json").read_text())
    assert written["test"] == result.scores
    assert [t["name"] for t in written["tasks"]] == ALL_TASKS
    for task, name in zip(ALL_TASKS, ("bps_per_unit", "r2_variance_weighted", "balanced_accuracy"), strict=True):
        values = [by_task[task][name] for by_task in result.scores.values() if task in by_task]
        assert written["test_mean"][task][name] == pytest.approx(np.mean(values))
    run = load_run(tmp_path / "run")
    assert [t.name for t in run.tasks] == ALL_TASKS
    divided, tasks = prepare(run.config, tokens)
    assert [t.to_dict() for t in run.tasks] == [t.to_dict() for t in tasks]
    assert score_split(run.model, divided, "test", run.config)[0] == result.scores


STNDT = ["model.layers=1", "model.hidden=16", "model.dropout=0.1", *NDT1[4:-1], "optim.checkpoint_every=4"]


def test_stndt_trains_on_one_session_and_resumes_to_the_same_bytes(tmp_path):
    """Its masks, views and dropout follow the step; a second session is refused before anything is trained."""
    tokens = [bake_tokens(tmp_path, decodable_session(f"day{k}", k, n_units=6), "binned") for k in range(2)]
    config = load_config("stndt", sets=STNDT, tasks=["population", "decode:hand_vel"])
    result = train(config, tokens[:1], tmp_path / "whole")
    assert list(result.scores["made/day0"]) == ["population", "decode:hand_vel"]
    (line,) = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()][-1:]
    assert list(line["loss"]) == ["population", "contrast", "decode:hand_vel", "total"]

    def stop(event: dict) -> None:
        if event["event"] == "checkpoint" and event["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tokens[:1], tmp_path / "killed", on_event=stop)
    assert train(config, tokens[:1], tmp_path / "killed").resumed_from == 4
    one, other = (load_run(tmp_path / name).model.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    with pytest.raises(UsageError, match="stndt holds one session, made/day0, not made/day1 too"):
        train(config, tokens, tmp_path / "two")
    assert not (tmp_path / "two/checkpoint").exists()


LFADS = [
    *(f"model.{name}=6" for name in ("read_in", "encoder", "input_encoder", "controller", "initial", "generator")),
    *("model.factors=6", "model.align=side", "model.align_ms=200", "model.samples=2", "task.population.held_out=0.25"),
    *("task.population.forward_ms=100", "data.window_ms=500", "data.batch_size=4", "optim.steps=6"),
    "optim.checkpoint_every=4",
]


@pytest.mark.long  # test_model_laws.py stops and continues each model
def test_lfads_trains_on_sessions_of_other_units_and_resumes_to_the_same_bytes(tmp_path):
    """Read-ins that are aligned by a trial column; its draws and dropped counts follow the step."""
    days = [decodable_session(f"day{k}", k, n_units=6 + 2 * k) for k in range(2)]
    tokens = [bake_tokens(tmp_path, with_trials(day, side=["l", "r"] * 10), "binned") for day in days]
    config = load_config("lfads", sets=LFADS, tasks=["population", "decode:hand_vel"])
    result = train(config, tokens, tmp_path / "whole")
    assert list(result.scores) == ["made/day0", "made/day1"]
    assert all(np.isfinite(s["population"]["co_bps"] + s["population"]["fp_bps"]) for s in result.scores.values())
    (line,) = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()][-1:]
    assert set(line["loss"]) == {"population", "kl_initial", "kl_inputs", "l2", "decode:hand_vel", "total"}

    def stop(event: dict) -> None:
        if event["event"] == "checkpoint" and event["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tokens, tmp_path / "killed", on_event=stop)
    assert train(config, tokens, tmp_path / "killed").resumed_from == 4
    one, other = (load_run(tmp_path / name).model.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_stretch_tells_of_the_trials_that_begin_in_it(tmp_path):
    session = with_trials(decodable_session("a", n_units=6), 1990, 1500, side=["l", "r"] * 10)
    tokens = bake_tokens(tmp_path, session, "binned")
    config = load_config("ndt1", sets=["split.kind=block"], tasks=["population"])
    (divided,), _ = prepare(config, [tokens])
    whole, found = tokens.windowed["counts"].columns["counts"], []
    for stretch in (s for split in divided.splits for s in divided.stretches(split)):
        counts, begins = stretch.columns["counts"]["counts"], session.trials.start_ns // (20 * MS)
        (first,) = [k for k in range(len(whole)) if np.array_equal(whole[k : k + len(counts)], counts)]
        inside = np.flatnonzero((begins >= first) & (begins < first + len(counts)))
        assert stretch.trial_bin.tolist() == (begins[inside] - first).tolist()
        assert stretch.trial_columns["side"].tolist() == ["lr"[k % 2] for k in inside]
        found += inside.tolist()
    assert sorted(found) == sorted(set(found)) and len(found) > 10


def test_a_question_that_cannot_be_asked_is_refused(tmp_path):
    tokens = [bake_tokens(tmp_path, decodable_session("a"), "binned")]
    with pytest.raises(UsageError, match="'linear' answers decode, not population"):
        load_config("linear", tasks=["population"])
    with pytest.raises(UsageError, match="'decode:hand_vel' is asked twice"):
        prepare(load_config("ndt1", sets=NDT1, tasks=["decode", "decode:hand_vel"]), tokens)
    with pytest.raises(DataError, match="no trial column 'side'"):
        prepare(load_config("ndt1", sets=NDT1, tasks=["population", "classify:side"]), tokens)
    silent = [bake_tokens(tmp_path, decodable_session("b", signals=()), "binned")]
    _, tasks = prepare(load_config("ndt1", sets=NDT1), silent)  # of the model's own tasks, what can be served
    assert [t.name for t in tasks] == ["population"]
    with pytest.raises(DataError, match="made/b hold no behaviour"):
        prepare(load_config("ndt1", sets=NDT1, tasks=["population", "decode"]), silent)


# ---- gradients added up ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spikes")
    return [bake_tokens(folder, decodable_session(f"day{k}", k, n_units=6)) for k in range(2)]


STILL = [*SMALL_POYO, "model.dropout_lin=0", "optim.clip=off", "optim.schedule=constant"]


def test_accumulated_batches_are_one_batch_of_all_of_them(spikes, tmp_path, monkeypatch):
    """By gradient descent, whose step has the gradient's length: neither a sum nor a part of the mean would pass."""

    class PlainDescent(torch.optim.SGD):
        def catch_up(self) -> None:
            """No row waits: every step moves all."""

    monkeypatch.setattr(loop, "build_optimizer", lambda model, optim: PlainDescent(model.parameters(), lr=optim.lr))
    sets = [*STILL, "optim.steps=5", "optim.lr=0.05"]
    weights, losses = [], []
    for name, more in (("two", ["data.batch_size=8", "optim.accumulate=2"]), ("one", ["data.batch_size=16"])):
        train(load_config("poyo", sets=[*sets, *more]), spikes, tmp_path / name)
        weights.append(load_run(tmp_path / name).model.state_dict())
        losses.append([json.loads(t)["loss"] for t in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-6, msg=name)
    assert losses[0][-1]["total"] == pytest.approx(losses[1][-1]["total"], rel=1e-4)
    train(load_config("poyo", sets=[*sets, "data.batch_size=8"]), spikes, tmp_path / "half")
    moved = load_run(tmp_path / "half").model.state_dict()
    assert any(not torch.allclose(t, weights[0][name], rtol=1e-3, atol=1e-5) for name, t in moved.items())


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", [*(pytest.param(k, marks=pytest.mark.slow) for k in (2, 4, 6)), 5])
def test_a_run_that_accumulates_goes_on_to_the_same_bytes(spikes, tmp_path, at):
    """An epoch of 14 batches has five steps, the last of two batches: stopped in it, at its end and behind it."""
    sets = [*SMALL_POYO, "optim.accumulate=3", "optim.epochs=2", "optim.checkpoint_every=1"]
    config = load_config("poyo", sets=sets)
    seen = []
    result = train(config, spikes, tmp_path / "whole", on_event=seen.append)
    assert result.total_steps == 10
    assert [e["epoch"] for e in seen if e["event"] == "step"] == [0] * 5 + [1] * 5

    def stop(event):
        if (event["event"], event.get("step")) == ("checkpoint", at):
            raise Stopped

    with pytest.raises(Stopped):
        train(config, spikes, tmp_path / "cut", on_event=stop)
    again = train(config, spikes, tmp_path / "cut")
    assert again.resumed_from == at
    for path in sorted((tmp_path / "whole" / "checkpoint").iterdir()):
        assert (tmp_path / "cut" / "checkpoint" / path.name).read_bytes() == path.read_bytes()


# ---- stitching ------------------------------------------------------------------------------------------------------


class Clock(Toy):
    """Says, at each query, when its window stops, in ms."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, batch):
        (name,) = batch.asked
        stop_ms = torch.from_numpy((batch.start_ns + batch.window_ns) / MS).float()
        return {name: stop_ms.repeat_interleave(batch.asked[name].offset.diff())[:, None].repeat(1, 2)}


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """A session whose test time, the last 40 %, has a gap in it."""
    session = replace(decodable_session("gap"), observed=Intervals([0, 35_120 * MS], [34 * SECOND, 40 * SECOND]))
    return bake_tokens(tmp_path_factory.mktemp("gap"), session)


def stitched(tokens: SessionTokens, model: Toy, *sets: str):
    """The answer in test time, what was said in the model's own words, and the split."""
    sets = ["split.train=0.5", "split.valid=0.1", "split.test=0.4", "data.window_ms=700", "data.batch_size=5", *sets]
    config = load_config("poyo", sets=[*SMALL_POYO, *sets])
    (divided,), (task,) = prepare(config, [tokens])
    answer = predict(model, divided, "test", config)[VEL]
    said = (answer.predicted[:, 0] - task.target.mean[0]) / task.target.std[0]
    return answer, said, divided.splits["test"]


@pytest.mark.parametrize("causal", [False, True])
def test_causal_stitching_takes_each_time_from_one_window(gappy, causal):
    """That which ends soonest after it; a model that is not causal knows at most one step of the future."""
    answer, stop_ms, split = stitched(gappy, Clock(causal), "data.stitch=causal", "data.eval_step_ms=150")
    assert (answer.windows == 1).all()
    time_ms = answer.time_ns / MS
    assert (stop_ms > time_ms).all()
    if not causal:
        assert (stop_ms <= time_ms + 150 + 1e-6).all()
    expected = []
    for low, high in zip((split.start_ns / MS).tolist(), (split.stop_ns / MS).tolist(), strict=True):
        stops = np.array([*np.arange(low + 700, high, 150), high])
        first = low if causal else low + 700 - 150
        times = np.arange(np.ceil(first / 10) * 10, high, 10)
        expected += [(t, stops[np.searchsorted(stops, t, side="right")]) for t in times.tolist()]
    assert len(split) == 2
    assert time_ms.tolist() == [t for t, _ in expected]
    np.testing.assert_allclose(stop_ms, [stop for _, stop in expected], rtol=1e-9)


def test_mean_stitching_knows_more_of_the_future(gappy):
    """The contrast: what causal stitching is there to leave out."""
    answer, stop_ms, split = stitched(gappy, Clock(False), "data.eval_step_ms=150")
    assert answer.windows.max() >= 5
    assert len(answer.time_ns) == split.total_ns // (10 * MS)
    assert (stop_ms - answer.time_ns / MS).max() > 300


class Counting(Toy):
    """Carries how many windows it has seen since the start of a stretch, and says it."""

    carries, causal = True, True

    def __init__(self) -> None:
        super().__init__()
        self.met = []

    def predict(self, batch, carry=None):
        assert len(batch) == 1
        number = 1 if carry is None else carry + 1
        self.met.append((int(batch.start_ns[0]), number))
        return {VEL: torch.full(batch.asked[VEL].target.shape, float(number))}, number


def test_a_state_is_handed_from_window_to_window_and_begins_anew_after_a_gap(gappy):
    model = Counting()
    answer, said, split = stitched(gappy, model, "data.eval_step_ms=150")
    window, expected = 700 * MS, []
    for low, high in zip(split.start_ns.tolist(), split.stop_ns.tolist(), strict=True):
        expected += [(low + k * window, k + 1) for k in range((high - low) // window)]
    assert model.met == expected  # no window lies over another, and none crosses the gap
    assert [start for start, number in model.met if number == 1] == split.start_ns.tolist()
    assert (answer.windows == 1).all()
    starts = np.array([start for start, _ in model.met])
    number = np.array([n for _, n in model.met])[np.searchsorted(starts, answer.time_ns, side="right") - 1]
    np.testing.assert_allclose(said, number, rtol=1e-9)


# ---- predictions as files -------------------------------------------------------------------------------------------


def test_scores_of_written_predictions_are_those_of_scikit_learn(tmp_path):
    valid = np.ones(4000, np.bool_)
    valid[3300:3302] = False  # a gap so short that it is no border of labelled time
    session = with_values(with_trials(decodable_session("a"), side=["l", "r"] * 10), valid=valid)
    tokens = bake_tokens(tmp_path, session, "binned")
    linear = train(load_config("linear"), [tokens], tmp_path / "linear")
    (path,) = write_predictions(tmp_path / "said", session.id, linear.answers[session.id])
    file, score = read_predictions(path), linear.scores[session.id][VEL]
    assert set(file) == {"time_ns", "prediction", "target", "weight"}
    assert (file["weight"] == 0).any()
    weighted = {"y_true": file["target"], "y_pred": file["prediction"], "sample_weight": file["weight"]}
    assert sk.r2_score(**weighted, multioutput="variance_weighted") == pytest.approx(
        score["r2_variance_weighted"], rel=1e-9
    )
    assert sk.r2_score(**weighted) == pytest.approx(score["r2_mean"], rel=1e-9)
    used = file["weight"] > 0
    time_ns = file["time_ns"][used]
    vel = session.signals["hand_vel"].value.reshape(-1, 2, 2).mean(axis=1)  # two samples in each bin
    np.testing.assert_allclose(file["target"][used], vel[time_ns // BIN_NS], rtol=1e-4, atol=1e-3)

    config = load_config("ndt1", sets=NDT1, tasks=ALL_TASKS)
    several = train(config, [tokens], tmp_path / "ndt1")
    paths = write_predictions(tmp_path / "said", session.id, several.answers[session.id])
    files, scores = [read_predictions(p) for p in paths], several.scores[session.id]
    assert [p.name for p in paths] == [
        "population.safetensors",
        "decode%3Ahand_vel.safetensors",
        "classify%3Aside.safetensors",
    ]
    counts, labels = files[0], files[2]
    used = counts["weight"] > 0
    model = sum(
        sk.mean_poisson_deviance(counts["target"][u, k], counts["prediction"][u, k]) * u.sum()
        for k, u in enumerate(used.T)
    )
    null = sum(
        sk.mean_poisson_deviance(t := counts["target"][u, k], np.full(len(t), t.mean())) * u.sum()
        for k, u in enumerate(used.T)
    )
    assert scores["population"]["d2"] == pytest.approx(1 - model / null, rel=1e-9)
    found = labels["prediction"].argmax(1)
    assert scores["classify:side"]["accuracy"] == sk.accuracy_score(labels["target"], found)


def test_a_file_of_predictions_says_whose_they_are(tmp_path):
    from safetensors import safe_open

    answer = Classified(np.arange(4), np.log(np.full((4, 2), 0.5)), np.array([0, 1, 0, 1]), np.ones(4), ("l", "r"))
    (path,) = write_predictions(tmp_path, "made/x", {"classify:side": answer})
    assert path == tmp_path / "made%2Fx" / "classify%3Aside.safetensors"
    with safe_open(path, "np") as file:
        about = file.metadata()
    assert (about["session"], about["task"]) == ("made/x", "classify:side")
    assert json.loads(about["score"]) == answer.score()


# ---- sessions with different tasks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    """Sessions of which each has other things to ask, and one that has all."""
    folder, sides = tmp_path_factory.mktemp("unlike"), ["l", "r", "r", "l"] * 5
    sessions = [
        decodable_session("vel", 0, n_units=6, signals=("hand_vel",)),
        decodable_session("pos", 1, n_units=7, signals=("hand_pos",)),
        with_trials(decodable_session("side", 2, n_units=5, signals=()), side=sides),
        with_trials(decodable_session("whole", 3, n_units=6, signals=("hand_vel", "hand_pos")), side=sides),
    ]
    return [bake_tokens(folder, s) for s in sessions]


def test_sessions_with_different_tasks_share_batches(unlike, tmp_path):
    """A window is asked what its session has, each session is scored by it, and what is named nowhere is refused."""
    asked = ["decode:hand_vel", "decode:hand_pos", "classify:side"]
    config = load_config("poyo_plus", sets=[*SMALL_POYO, "optim.accelerator=cpu"], tasks=asked)
    result = train(config, unlike, tmp_path)
    assert {s: list(by_task) for s, by_task in result.scores.items()} == {
        "made/pos": ["decode:hand_pos"],
        "made/side": ["classify:side"],
        "made/vel": ["decode:hand_vel"],
        "made/whole": asked,
    }
    divided, tasks = prepare(config, unlike)
    model = load_run(tmp_path).model
    mixed = next(b for b in train_loader(config, divided, model, tasks) if len(set(b.sessions)) == 4)
    output = model(mixed)
    terms = {name: term.detach() for name, term in model.loss(mixed, output, Progress(0, 1)).items()}
    total = 0.0
    for task, name in zip(tasks, asked, strict=True):
        has = np.array([not task.why_not(s) for s in sorted(unlike, key=lambda s: s.id)])
        session = [model.sessions().index(s) for s in mixed.sessions]
        n_queries = mixed.asked[name].offset.diff()
        assert not n_queries[~has[session]].any()
        total += float(terms[name]) * float((n_queries > 0).float().mean())
    assert float(terms["total"]) == pytest.approx(total, rel=1e-6)
    with pytest.raises(DataError, match=r"'eye' is missing in made/.*; there are hand_pos, hand_vel"):
        prepare(replace(config, tasks=("decode:hand_vel", "decode:eye")), unlike)
    with pytest.raises(DataError, match=r"'hand_vel' is missing in made/pos, made/side; made/vel, made/whole have it"):
        prepare(replace(config, tasks=("decode:hand_vel",)), unlike)


def test_sessions_that_have_one_of_several_behaviours_are_chosen(monkeypatch):
    signals = {"a": ["hand_vel"], "b": ["hand_pos", "fluorescence"], "c": ["fluorescence"], "d": ["eye"]}
    blank = {"info": {}, "subject": "s", "session_start": "", "start_ns": 0, "stop_ns": 1, "n_spikes": 1}
    store = SimpleNamespace(
        select=lambda pattern: list(signals),
        facts=lambda session: blank | {"id": session, "signals": signals[session], "files": [session * 64]},
    )
    monkeypatch.setattr(runs, "_codes_among", lambda workspace, having: set())  # it reads the signals themselves
    for tasks, expected in (
        (["decode:hand_vel", "decode:hand_pos"], ["a", "b"]),
        (["decode:hand_vel"], ["a"]),
        (["decode"], ["a", "b", "d"]),
        (["decode:hand_vel", "classify:side"], ["a", "b", "c", "d"]),
    ):
        chosen = choose_training(store, load_config("poyo_plus", tasks=tasks), None, "none")
        assert chosen.sessions == expected, tasks
