"""What holds codes: told from values and measures, the same for pictures, targets and inspect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spiketok.recording.codes import code_columns, code_words, is_code, marks_of
from spiketok.recording.nouns import Intervals, Ragged, Signal
from spiketok.tokens import session_plots
from tests.made import MS, SECOND, random_session

RNG = np.random.default_rng(0)


def signal(value, measure="", step_ns=MS, valid=None) -> Signal:
    value = np.asarray(value, np.float32)
    value = value if value.ndim == 2 else value[:, None]
    time_ns = np.cumsum(np.broadcast_to(step_ns, len(value)).astype(np.int64))
    valid = np.ones(len(value), np.bool_) if valid is None else valid
    return Signal(time_ns, value, tuple(f"c{k}" for k in range(value.shape[1])), measure, valid)


WALK = np.cumsum(RNG.integers(-2, 3, 3000)) + 500  # a position in whole pixels
STROBES = RNG.choice(np.arange(17, 240, 3), 400)


@pytest.mark.parametrize(
    ("value", "measure", "expected"),
    [
        (RNG.integers(0, 5, 300), "", True),
        (RNG.integers(0, 5, 300), "NA", True),
        (np.repeat([0, 1, 2, 3], 200), "n/a", True),
        (STROBES, "", True),
        (RNG.normal(size=50), "bool", True),
        (RNG.integers(0, 2, 300), "V", True),
        (np.tile([3, 3], (50, 1)) * (np.arange(50) % 4)[:, None], "", True),
        (RNG.normal(size=300), "", False),
        (RNG.integers(0, 5, 300), "licks", False),
        (WALK, "", False),
        (WALK, "pixels", False),
        (np.full(40, 7.0), "", False),
        (RNG.permutation(20_000), "", False),
        (np.append(np.zeros(9000), 0.5), "", False),
        (np.zeros((0, 1)), "", False),
    ],
)
def test_codes_are_whole_few_or_far_apart_and_without_a_measure(value, measure, expected):
    assert is_code(signal(value, measure)) is expected


def test_what_is_not_valid_tells_nothing_and_one_component_of_numbers_makes_a_signal_of_numbers():
    value = RNG.integers(0, 4, 100).astype(np.float32)
    value[3] = 0.5
    valid = np.arange(100) != 3
    assert is_code(signal(value, valid=valid)) and not is_code(signal(value))
    assert not is_code(signal(np.column_stack([value.round(), RNG.normal(size=100)])))


def test_marks_stand_at_changes_of_a_sampled_code_and_at_every_event():
    sampled = marks_of(signal([2, 2, 2, 5, 5, 2, 2]))
    assert (sampled.time_ns // MS).tolist() == [1, 4, 6] and sampled.labels() == ["2", "5", "2"]
    events = marks_of(signal([2, 2, 5, 5], step_ns=np.array([1, 400, 3, 90]) * MS))
    assert events.labels() == ["2", "2", "5", "5"]
    assert code_words(signal([9, 1, 4] * 4)) == "codes: 1, 4, 9"


def test_code_columns_of_trials():
    start = np.arange(20) * SECOND
    columns = {
        "result": np.tile(["hit", "miss"], 10),
        "side": np.tile([1.0, np.nan], 10),
        "go_time": start / SECOND + 0.25,
        "always": np.full(20, "x"),
        "spans": Ragged(np.zeros(0), np.zeros(21, np.int64)),
    }
    found = code_columns(Intervals(start, start + SECOND, columns))
    assert list(found) == ["result", "side"] and found["side"][:2].tolist() == ["1", ""]


def test_a_picture_draws_codes_as_ticks_and_no_line(tmp_path, monkeypatch):
    session = random_session("codes", 3)
    words = signal(RNG.integers(0, 4, 300), step_ns=20 * MS)
    trials = Intervals([SECOND, 2 * SECOND], [2 * SECOND, 3 * SECOND], {"result": np.array(["hit", "miss"])})
    session = replace(session, signals={**session.signals, "strobe": words}, intervals={"trials": trials})
    kept = []
    monkeypatch.setattr(session_plots, "_save", lambda figure, out: kept.append(figure))
    session_plots.plot_session(session, tmp_path / "x.png", 0.0, 6.0)
    codes, behaviours = kept[0].axes[-1], kept[0].axes[1:-1]
    assert [label.get_text() for label in codes.get_yticklabels()] == ["strobe", "trial result"]
    assert not codes.lines and {"hit", "miss"} <= {text.get_text().strip() for text in codes.texts}
    ticks = [len(one.get_segments()) for one in codes.collections]
    assert ticks == [int((marks_of(words).time_ns < 6 * SECOND).sum()), 2]
    assert all("strobe" not in axis.get_ylabel() for axis in behaviours)
