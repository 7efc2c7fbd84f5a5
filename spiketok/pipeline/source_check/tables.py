"""The interval tables of a session, and its splits, against those of the source."""

from __future__ import annotations

import h5py
import numpy as np

from spiketok.pipeline.source_check.blocks import Layout, moved
from spiketok.pipeline.source_check.columns import as_values, compare_columns, rows_of, source_columns
from spiketok.pipeline.source_check.differences import Verification
from spiketok.pipeline.source_check.source_file import Found, is_time, merged, pick, stated_in, to_ns
from spiketok.recording.nouns import Intervals, Session

SPLIT_WORDS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}


def compare_tables(
    session: Session, tables: list[Found], raw: h5py.File, out: Verification, layout: Layout | None = None
) -> set[str]:
    matched: set[str] = set()
    for found in tables:
        name = pick(found, session.intervals, matched)
        if name is None:
            out.differences.append(f"{found.path}: missing in the session, {len(found.item.id)} rows in the source")
            continue
        matched.add(name)
        _compare_table(session, session.intervals[name], found, raw, out, layout or Layout())
        out.n_tables += 1
    return matched


def _table_seconds(table) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops; an event lasts for its duration, or no time at all where it has none."""
    columns = {
        name: np.asarray(table[name].data[:], dtype=np.float64)
        for name in ("start_time", "stop_time", "timestamp", "duration")
        if name in table.colnames and (name != "duration" or "timestamp" in table.colnames)
    }
    if "start_time" in columns:
        return columns["start_time"], columns.get("stop_time", np.full(len(table.id), np.nan))
    start_s = columns["timestamp"]
    lasts_s = columns.get("duration", np.zeros(start_s.size))
    return start_s, np.where(np.isfinite(lasts_s) & (lasts_s > 0), start_s + lasts_s, start_s)


def _compare_table(
    session: Session, stored: Intervals, found: Found, raw: h5py.File, out: Verification, layout: Layout
) -> None:
    table = found.item
    own_start_s, own_stop_s = _table_seconds(table)
    start_s, stop_s = found.laid(own_start_s), found.laid(own_stop_s)
    keep = is_time(start_s)
    out.expect(
        f"{found.path}: rows without a start", stated_in(session, "interval-start-missing", found), (~keep).sum()
    )
    start, stop_s = to_ns(start_s[keep]), stop_s[keep]
    if not out.expect(f"{found.path}: rows", len(stored), start.size):
        return
    out.expect_array(f"{found.path}: starts in ns", stored.start_ns, start)
    known = is_time(stop_s)
    stop = to_ns(np.where(known, stop_s, 0))
    good = known & (stop >= start)
    for row in np.flatnonzero(~good):  # the rule: the next start; after the last one, the session's end
        later = np.array([*start[start > start[row]], *(end for end in layout.ends if end > start[row])], np.int64)
        stop[row] = later.min() if later.size else max(session.stop_ns, int(start[row]))
    out.expect_array(f"{found.path}: stops in ns", stored.stop_ns, stop)
    out.expect(f"{found.path}: missing stops", stated_in(session, "interval-stop-missing", found), (~known).sum())
    early = (known & ~good).sum()
    out.expect(f"{found.path}: stops before starts", stated_in(session, "interval-stop-before-start", found), early)
    expected = {"id": np.asarray(table.id[:]).astype(np.int64)[keep]}
    for name, column in source_columns(table, raw, found.path):
        if name not in ("start_time", "stop_time", "timestamp"):
            if found.shift_s is not None:
                column = moved(column, own_start_s, own_stop_s, found.shift_s, name)
            expected[name] = rows_of(column, keep)
    if not good.all():
        expected["stop_repaired"] = ~good
    compare_columns(found.path, stored.columns, expected, out)
    out.n_intervals += start.size


def compare_splits(session: Session, nwb, out: Verification) -> None:
    trials = session.intervals.get("trials")
    words = None
    if nwb.trials is not None and "split" in nwb.trials.colnames and trials is not None:
        words = as_values(nwb.trials["split"].data[:])
    if words is not None and words.dtype.kind == "U" and words.ndim == 1:
        words = words[is_time(np.asarray(nwb.trials["start_time"].data[:], dtype=np.float64))]
    else:
        words = np.zeros(0, np.str_)
    if words.size and words.size != len(trials):
        return  # the tables differ already
    names = session.splits.columns.get("name", np.zeros(0, np.str_))
    for name, known in SPLIT_WORDS.items():
        rows = [row for row, word in enumerate(words.tolist()) if word.strip().lower() in known]
        source = merged([(trials.start_ns[row], trials.stop_ns[row]) for row in rows])
        split_rows = np.flatnonzero(names == name)
        stored = [(int(session.splits.start_ns[row]), int(session.splits.stop_ns[row])) for row in split_rows]
        out.expect(f"split '{name}' in ns", stored, source)
