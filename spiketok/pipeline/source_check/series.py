"""Series of the source, which a session has as signals or, if they are events, as intervals."""

from __future__ import annotations

import numpy as np

from spiketok.pipeline.source_check.columns import as_values, compare_columns
from spiketok.pipeline.source_check.differences import Verification
from spiketok.pipeline.source_check.source_file import (
    Found,
    in_reach,
    is_time,
    pick,
    stated,
    stated_in,
    to_ns,
    type_names,
)
from spiketok.recording.nouns import Session, Signal

MOST_COMPONENTS, MOST_VALUES = 64, 10**8  # nor are series with more


def in_units(item, values: np.ndarray) -> np.ndarray:
    """``data * conversion * channel_conversion + offset``; a conversion that is NaN or zero counts as 1."""
    conversion, offset = getattr(item, "conversion", 1.0), getattr(item, "offset", 0.0)
    scale = 1.0 if conversion is None or not np.isfinite(conversion) or conversion == 0 else float(conversion)
    channel = getattr(item, "channel_conversion", None)
    if channel is not None:
        scale = scale * np.asarray(channel[:], dtype=np.float64)
    shift = float(offset) if offset is not None and np.isfinite(offset) else 0.0
    return values.astype(np.float64) * scale + shift


def compare_events(session: Session, series: list[Found], out: Verification) -> set[str]:
    matched: set[str] = set()
    for found in series:
        data = getattr(found.item, "data", None)
        values = None if data is None else as_values(data[:])
        seconds = found.seconds(0 if values is None else len(values))
        if seconds is None:
            continue
        if values is not None:
            shorter = min(len(values), seconds.size)
            values, seconds = values[:shorter], seconds[:shorter]
            if values.dtype.kind in "if" and getattr(found.item, "conversion", 1.0) not in (None, 1.0):
                values = in_units(found.item, values)
        keep = is_time(seconds)
        time_ns = to_ns(np.where(keep, seconds, 0))
        keep &= in_reach(session, time_ns)
        name = pick(found, session.intervals, matched)
        if name is None:
            out.differences.append(f"{found.path}: missing in the session, {seconds.size} events in the source")
            continue
        matched.add(name)
        stored = session.intervals[name]
        out.expect_array(f"{found.path}: times in ns", stored.start_ns, time_ns[keep])
        out.expect_array(f"{found.path}: stops in ns", stored.stop_ns, time_ns[keep])
        out.expect(f"{found.path}: events dropped", stated_in(session, "signal-times", found), (~keep).sum())
        compare_columns(found.path, stored.columns, {} if values is None else {"value": values[keep]}, out)
        out.n_tables += 1
        out.n_intervals += len(stored)
    return matched


def _is_imaged(series: object) -> bool:
    """Whether a series has a component for each unit, and no limit to how many."""
    return "RoiResponseSeries" in type_names(series)


def _is_turned(series: object, shape: tuple[int, ...], n_samples: int) -> bool:
    """Whether a series is stored components first: its second dimension fits its times, and its first is narrow."""
    fits = len(shape) == 2 and shape[0] != n_samples == shape[1]
    return fits and (shape[0] <= MOST_COMPONENTS or _is_imaged(series))


def _is_signal(series: object, data: object, seconds: np.ndarray | None, session: Session) -> bool:
    """Whether a series has what makes a signal: numbers in few columns, with a time."""
    shape, kind = np.shape(data), np.asarray(data[:0]).dtype.kind
    imaged = _is_imaged(series)
    if kind not in "biuf" or len(shape) not in (1, 2) or 0 in shape or seconds is None:
        return False
    turned = _is_turned(series, shape, seconds.size)
    width = 1 if len(shape) == 1 else shape[0] if turned else shape[1]
    good = is_time(seconds)
    return (imaged or width <= MOST_COMPONENTS) and bool(in_reach(session, to_ns(seconds[good])).any())


def compare_signals(session: Session, series: list[Found], out: Verification) -> None:
    matched: set[str] = set()
    for found in series:
        data = getattr(found.item, "data", None)
        if data is None:
            continue
        name = pick(found, session.signals, matched)
        if name is None and np.prod(np.shape(data), dtype=np.float64) > MOST_VALUES and not _is_imaged(found.item):
            continue
        seconds = found.seconds(len(data))
        if name is None:
            dropped = stated_in(session, "signal-times", found)  # where most stamps do not rise, none is a behaviour
            if _is_signal(found.item, data, seconds, session) and 2 * dropped <= len(data):
                out.differences.append(f"{found.path}: missing in the session, {len(data)} samples in the source")
            continue
        if seconds is None:
            out.differences.append(
                f"{found.path}: {session.signals[name].time_ns.size} samples, no times in the source"
            )
            continue
        matched.add(name)
        compare_signal(session, session.signals[name], found, seconds, out)
    for name in sorted(set(session.signals) - matched):
        out.differences.append(f"signal '{name}': {len(session.signals[name].time_ns)} samples, none in the source")


def compare_signal(session: Session, signal: Signal, found: Found, seconds: np.ndarray, out: Verification) -> None:
    item, raw = found.item, np.asarray(found.item.data[:])
    if item.rate is None and _is_turned(item, raw.shape, seconds.size):
        raw = raw.T  # components first
    shorter = min(len(raw), seconds.size)
    cut = abs(len(raw) - seconds.size)
    out.expect(f"{found.path}: samples cut", stated(session, "signal-length", f"{found.path} "), cut)
    out.expect(f"{found.path}: measure", signal.measure, item.unit or "")
    out.expect(f"{found.path}: rate in Hz", signal.rate_hz, item.rate)
    seconds, raw = seconds[:shorter], raw[:shorter]
    time_ns = to_ns(np.where(is_time(seconds), seconds, 0))
    rows = _kept_rows(session, signal, found, seconds, time_ns, out)
    if rows is None:
        return
    n_dropped = shorter - rows.size
    out.expect(f"{found.path}: samples dropped", stated_in(session, "signal-times", found), n_dropped)
    with np.errstate(over="ignore"):
        value = in_units(item, raw[rows]).reshape(rows.size, -1).astype(np.float32)
    finite = np.isfinite(value)
    out.expect_array(f"{found.path}: valid", signal.valid, finite.all(axis=1))
    out.expect_array(f"{found.path}: values", signal.value, np.where(finite, value, np.float32(0)))
    out.n_signals += 1
    out.n_samples += rows.size


def _kept_rows(
    session: Session, signal: Signal, found: Found, seconds: np.ndarray, time_ns: np.ndarray, out: Verification
) -> np.ndarray | None:
    """The rows of the source that a signal's samples are, or None with a difference noted.

    A row may be missing only if it has no time, a time far outside the recording (stamps only), or one that is not
    between those of the rows that are kept before and after it.
    """
    if np.array_equal(signal.time_ns, time_ns) and is_time(seconds).all():
        return np.arange(seconds.size)
    usable = is_time(seconds)
    if found.item.rate is None:
        usable &= in_reach(session, time_ns)
    rows, row = [], 0
    source = time_ns.tolist()
    for stored in signal.time_ns.tolist():
        while row < len(source) and not (usable[row] and source[row] == stored):
            row += 1
        if row == len(source):
            out.differences.append(
                f"{found.path}: a sample at {stored} ns in the session, none in the source (in order)"
            )
            return None
        rows.append(row)
        row += 1
    kept = np.array(rows, np.int64)
    after = np.searchsorted(kept, np.arange(len(source)), side="left")
    low = np.concatenate([[np.iinfo(np.int64).min], time_ns[kept]])[after]
    high = np.concatenate([time_ns[kept], [np.iinfo(np.int64).max]])[after]
    needless = usable & (time_ns > low) & (time_ns < high)
    needless[kept] = False
    if needless.any():
        first = int(np.flatnonzero(needless)[0])
        out.differences.append(
            f"{found.path}: {int(needless.sum())} usable samples are missing in the session, "
            f"the first is row {first} at {time_ns[first]} ns in the source"
        )
        return None
    return kept
