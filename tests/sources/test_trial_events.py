"""Columns of trials that the rules of a dataset read as times: a filler in them is as if nothing was stated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from spiketok.errors import DataError
from spiketok.recording.nouns import NS_PER_S, Intervals, Session, Source
from spiketok.sources.catalogue import RULES
from spiketok.sources.catalogue.base import EVENT_SLACK_NS, event_times
from spiketok.sources.formats.nwb import read_nwb
from tests.layouts import churchland, ibl, perich_miller

# rules; the file's name and what writes it; columns of times
LONG = [
    ("perich_miller", "co.nwb", perich_miller.write_center_out, ["go_cue_time", "target_on_time"]),
    ("churchland", "steady.nwb", churchland.write_steady, ["move_ends_time"]),
]
CASES = [
    *(pytest.param(*case, marks=pytest.mark.long, id=case[1]) for case in LONG),
    ("perich_miller", "rt.nwb", perich_miller.write_random_target, ["go_cue_time_array"]),
    ("ibl", "sub-x_ses-1.nwb", lambda path: ibl.write(path, published=True), ["gabor_stimulus_onset_time"]),
]


def with_times(session: Session, column: str, change: Callable[[np.ndarray], np.ndarray]) -> Session:
    """The session with the times of a column changed, of several a trial the first."""
    trials = session.trials
    value = trials.columns[column].copy()
    first = value[:, 0] if value.ndim == 2 else value
    first[:] = change(first)
    table = Intervals(trials.start_ns, trials.stop_ns, {**trials.columns, column: value})
    return replace(session, intervals={**session.intervals, "trials": table})


def facts(session: Session) -> dict[str, list]:
    """The phases and the division, and who is valid."""
    tables = {"splits": session.splits}
    tables |= {name: session.intervals[name] for name in ("phases", "target_trials") if name in session.intervals}
    rows = {name: [t.start_ns.tolist(), t.stop_ns.tolist()] for name, t in tables.items()}
    rows |= {f"{name}.names": t.columns["name"].tolist() for name, t in tables.items() if "name" in t.columns}
    return rows | {"valid": session.trials.columns["is_valid"].tolist()}


@pytest.mark.parametrize(("rules", "name", "write", "columns"), CASES)
def test_a_filler_is_no_event(tmp_path, rules, name, write, columns):
    path = tmp_path / name
    write(path)
    plain = read_nwb(path, "set/one", Source(name, "0" * 64, 1), mends_clocks=RULES[rules].mends_clocks)

    def by_rules(session: Session) -> Session:
        return RULES[rules].adjust(session, path)

    before = sum(note.count for note in by_rules(plain).notes if note.id == "events-outside-trials")
    for column in columns:
        missing = with_times(plain, column, lambda times: np.where(np.arange(times.size) % 9 == 3, np.nan, times))
        value = missing.trials.columns[column]
        n_missing = int(np.isnan(value[:, 0] if value.ndim == 2 else value).sum())
        expected = facts(by_rules(missing))
        for filler in (0.0, 1e12):
            session = by_rules(with_times(missing, column, lambda times, f=filler: np.where(np.isnan(times), f, times)))
            assert facts(session) == expected
            told = [note for note in session.notes if note.id == "events-outside-trials"]
            assert [note.count for note in told] == [before + n_missing] and column in told[0].text
        start_s = plain.trials.start_ns / NS_PER_S
        relative = with_times(plain, column, lambda times, start_s=start_s: times - start_s)
        line = rf"times '{column}' lie outside of their trial .* trial's start: .*--rules none"
        with pytest.raises(DataError, match=line):
            by_rules(relative)


def test_an_event_may_lie_a_second_off_its_trial():
    start = np.arange(5) * 10 * NS_PER_S
    trials = Intervals(start, start + 2 * NS_PER_S)
    off_s = np.array([-1.5, -1.0, 1.0, 3.0, 3.5])
    found = event_times(trials, start / NS_PER_S + off_s, "go", "set/one")
    assert found.inside.tolist() == [False, True, True, True, False]
    assert found.n_outside == 2 and EVENT_SLACK_NS == NS_PER_S
    assert found.time_ns[1:4].tolist() == [9 * NS_PER_S, 21 * NS_PER_S, 33 * NS_PER_S]
    assert not event_times(trials, np.full(5, np.nan), "go", "set/one").inside.any()
