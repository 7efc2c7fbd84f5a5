"""Probes and matches of units against what is known: made features, scikit-learn's dummy, a loop."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError
from spiketok.evaluation.embedding import Compared, UnitVectors, f1_by_chance, matches, probes
from spiketok.recording.nouns import Intervals, SessionInfo
from tests.made import SECOND, random_session


def compared(
    day: int, names: list[str], features: dict[str, np.ndarray], subject: str = "m", trained=False
) -> Compared:
    n = len(names)
    kind = np.where(np.arange(n) % 3 == 0, "a", "b")
    columns = {"neuron": np.array(names), "kind": kind}
    info = SessionInfo(f"made/{subject}{day}", subject, np.arange(n).astype(str), 0, 0, 10**9, unit_columns=columns)
    return Compared(info, trained, features)


def test_chance_is_what_a_dummy_guesses():
    dummy = pytest.importorskip("sklearn.dummy", reason="scikit-learn is not installed (pip install 'spiketok[train]')")
    f1_score = pytest.importorskip(
        "sklearn.metrics", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    ).f1_score
    rng = np.random.default_rng(0)
    train, test = rng.choice(list("abc"), 20_000, p=[0.2, 0.3, 0.5]), rng.choice(list("abc"), 20_000, p=[0.5, 0.4, 0.1])
    guess = dummy.DummyClassifier(strategy="stratified", random_state=1).fit(np.zeros((20_000, 1)), train)
    found = f1_score(test, guess.predict(np.zeros((20_000, 1))), average="macro")
    assert f1_by_chance(train, test) == pytest.approx(found, abs=0.01)
    assert f1_by_chance(np.array(["a", "a"]), np.array(["a"])) is None


def test_a_probe_reads_the_feature_that_holds_the_word():
    """Of sessions that were trained on to another; nothing is read from noise."""
    rng = np.random.default_rng(1)
    sessions = []
    for day in range(3):
        n = 60
        told = np.where(np.arange(n)[:, None] % 3 == 0, 1.0, -1.0) + 0.1 * rng.normal(size=(n, 4))
        features = {"vector": told, "untrained": rng.normal(size=(n, 4)), "rate": rng.normal(size=(n, 1))}
        features["vector"][7] = np.nan  # no window held it
        sessions.append(compared(day, [f"{k}" for k in range(n)], features, trained=day < 2))
    inductive, transductive = probes(sessions, "kind")
    for row in (inductive, transductive):
        assert row["vector"] == 1 and row["untrained"] < 0.7 and row["rate"] < 0.7
    assert (inductive["n_train"], inductive["n_test"]) == (118, 59)
    assert transductive["n_train"] + transductive["n_test"] == 177
    assert inductive["chance"] == pytest.approx(0.5, abs=0.02)


def test_units_are_found_again_among_all_of_the_earlier_day():
    """Against a loop: other order, a unit that left, one that came, one without a vector, and a shift of all."""
    rng = np.random.default_rng(2)
    first = {name: rng.normal(size=6) for name in "abcdefgh"}
    second = {name: first[name] + 0.05 * rng.normal(size=6) for name in "hgfedcb"} | {"new": rng.normal(size=6)}
    second["d"] = first["e"]  # looks like another
    one = compared(1, list(first), {"vector": np.stack(list(first.values())), "rate": np.arange(8.0)[:, None]})
    values = np.stack(list(second.values())) * 3 + 5
    values[0] = np.nan
    rate = np.arange(7, -1, -1.0)[:, None]
    two = compared(2, list(second), {"vector": values, "rate": rate})
    other = compared(1, list(first), one.features, subject="other")
    (row,) = matches([two, other, one], "neuron")
    assert (row["session"], row["among"], row["n"], row["chance"]) == ("made/m2", "made/m1", 6, 1 / 8)

    def standard(x):
        return (x - x.mean(0)) / x.std(0)

    found = []
    for rows, among in ((values[1:], one.features["vector"]), (rate[1:], one.features["rate"])):
        rows, among, hits = standard(rows), standard(among), []
        for name, x in zip("gfedcb", rows, strict=False):
            if x.size == 1:
                nearest = min(range(8), key=lambda k: abs(x[0] - among[k][0]))
            else:
                nearest = max(range(8), key=lambda k: x @ among[k] / np.linalg.norm(among[k]))
            hits.append(list(first)[nearest] == name)
        found.append(np.mean(hits))
    assert (row["vector"], row["rate"]) == tuple(found)
    assert row["vector"] == pytest.approx(5 / 6)


def test_days_that_share_no_unit_are_refused():
    features = {"vector": np.eye(2)}
    days = [compared(1, ["a", "b"], features), compared(2, ["c", "d"], features)]
    with pytest.raises(DataError, match="no two of 2 sessions are of one subject and share a unit by the column 'neu"):
        matches(days, "neuron")
    with pytest.raises(DataError, match="made/m1: the column 'neuron' has 'a' for 2 units, not for one"):
        matches([compared(1, ["a", "a"], features), days[1]], "neuron")


def test_what_stands_beside_vectors_is_of_the_same_time():
    """Rate and intervals of two seconds, as the vectors are, and not of all six; against a loop."""
    session = random_session("one", 3)
    time = Intervals([SECOND, 4 * SECOND], [2 * SECOND, 5 * SECOND])
    n = len(session.units)
    info = SessionInfo(session.id, "m", np.arange(n).astype(str), 0, session.start_ns, session.stop_ns)
    found = UnitVectors(info, np.eye(n, dtype=np.float32), np.ones(n, np.int64), False, time)
    features = Compared.of(found, found, session).features
    at, unit = session.spikes.time_ns, session.spikes.unit
    observed = session.observed.intersect(time)
    inside = np.zeros(len(at), bool)
    for start, stop in zip(observed.start_ns, observed.stop_ns, strict=True):
        inside |= (at >= start) & (at < stop)
    assert 0 < inside.sum() < len(at)
    for k in range(n):
        own = np.sort(at[inside & (unit == k)])
        assert features["rate"][k, 0] == pytest.approx(np.log((len(own) + 0.5) / (observed.total_ns / 1e9)))
        short = (np.diff(own) / 1e9 < 0.01).mean() if len(own) > 1 else 0
        assert features["isi"][k, :5].sum() == pytest.approx(short)
