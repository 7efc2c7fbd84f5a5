"""What does not lie together: observed time in which nothing is, trials and behaviours where no unit was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spiketok.recording.intervals import EMPTY_NS, holds, inhabited, longer_than, touching, without
from spiketok.recording.nouns import NS_PER_S, Intervals, Signal
from spiketok.sources.formats.nwb.clocks import MOST_RATIO, TELLING, TELLING_ROWS, UNBOUND
from spiketok.sources.formats.nwb.intervals import Table
from spiketok.sources.formats.nwb.series import Series
from spiketok.sources.formats.nwb.tables import Findings, in_seconds

EMPTY_SHARE = 0.1  # of stated observed time: so much with nothing in it is said
FAST_NS = 2_000_000  # no behaviour of a small part of a recording is usually sampled so often


def note_empty(spike_ns: np.ndarray, spans: Sequence[Intervals], observed: Intervals, found: Findings) -> None:
    """Say where the source states observed time in which nothing lies.

    Args:
        spike_ns: int64, in order, no fillers. spans: rows of tables, stretches of behaviours. found: takes the note.
    """
    empty = longer_than(without(observed, inhabited([spike_ns], spans)), EMPTY_NS)
    if empty.total_ns > EMPTY_SHARE * observed.total_ns:
        part = f"{in_seconds(empty.total_ns)} of the {in_seconds(observed.total_ns)}"
        text = (
            f"no spike, trial or sample lies in {part} that the source calls observed (the first {span_told(empty)}): "
            "rates and splits count them"
        )
        found.note("observed-empty", len(empty), text)


def note_apart(
    tables: Sequence[tuple[Table, Intervals]],
    signals: Sequence[tuple[Series, Signal]],
    observed: Intervals,
    found: Findings,
) -> None:
    """Say which trials and behaviours lie where no unit was observed, or last a small part of it."""
    lasts_ns = int(observed.stop_ns[-1]) - int(observed.start_ns[0])
    for table, rows in tables:
        if table.parts[-1] != "trials" or len(rows) < TELLING_ROWS:
            continue
        n_out = int((~touching(rows, observed)).sum())
        text = f"{table.path}: {n_out} of {len(rows)} rows lie where no unit was observed ({span_told(observed)})"
        found.note("trials-apart", n_out if 2 * n_out >= len(rows) else 0, text)
    for one, signal in signals:
        time_ns = signal.time_ns
        if one.parts[0] in UNBOUND or time_ns.size < TELLING:
            continue
        first, last = int(time_ns[0]), int(time_ns[-1])
        if not holds(observed, time_ns).any():
            where = f"{in_seconds(first)} to {in_seconds(last)}"
            text = f"{one.path}: lies at {where}, where no unit was observed ({span_told(observed)})"
            found.note("signal-apart", time_ns.size, text)
        elif MOST_RATIO * (last - first) < lasts_ns and last - first < FAST_NS * (time_ns.size - 1):
            rate_hz = (time_ns.size - 1) * NS_PER_S / max(last - first, 1)
            lasts = f"lasts {(last - first) / NS_PER_S:.3g} s of {in_seconds(lasts_ns)}, at {rate_hz:.0f} Hz"
            text = (
                f"{one.path}: {lasts}: if these are minutes, --time-unit {one.parts[-1]}=samples:{1 / 60:.6g} says so"
            )
            found.note("signal-short", time_ns.size, text)


def note_long(tables: Mapping[str, Intervals], observed: Intervals, found: Findings) -> None:
    """Say which rows reach far into time that was not observed, as those with a filler for a start or a stop do.

    Args:
        tables: rows as the source states them, by path. observed: as it is assumed. found: takes the note.
    """
    for path, rows in tables.items():
        lasts_ns = rows.stop_ns - rows.start_ns
        empty_ns = np.array(
            [
                without(Intervals(rows.start_ns[[k]], rows.stop_ns[[k]]), observed).total_ns
                for k in np.flatnonzero(lasts_ns > EMPTY_NS).tolist()
            ]
        )
        n_long = int((empty_ns > EMPTY_NS).sum())
        text = (
            f"{path}: {n_long} of {len(rows)} rows reach over a minute into time in which nothing else lies, as with a "
            "filler for a start or a stop; kept, their time is not taken as observed"
        )
        found.note("intervals-long", n_long, text)


def span_told(spans: Intervals) -> str:
    """From where to where the first of some intervals is, and how many there are besides; for people."""
    more = f" and {len(spans) - 1} more" if len(spans) > 1 else ""
    return f"{in_seconds(spans.start_ns[0])} to {in_seconds(spans.stop_ns[0])}{more}"
