"""The units of a session against the units table: their ids, spikes, columns and observed time."""

from __future__ import annotations

from collections import Counter

import h5py
import numpy as np

from spiketok.pipeline.source_check.blocks import Layout
from spiketok.pipeline.source_check.columns import WIDE, as_values, compare_columns, source_columns
from spiketok.pipeline.source_check.differences import Verification
from spiketok.pipeline.source_check.source_file import DAY_NS, is_time, merged, stated, to_ns
from spiketok.recording.intervals import EMPTY_NS, EMPTY_TIMES, LEAST_ROWS, STRAY_NS, TOUCHING_NS
from spiketok.recording.nouns import Column, Intervals, Ragged, Session

ACRONYMS = (  # columns that stand for a location or region that is not there
    *("beryl_location", "ecephys_structure_acronym", "structure_acronym", "brain_region", "brain_area"),
    *("allen_location", "cosmos_location"),
)
TOUCHING = range(-TOUCHING_NS, TOUCHING_NS + 1)  # so near to its stop the next row of a table begins: all of it counts


def _rows(column) -> tuple[np.ndarray, np.ndarray]:
    """All values of a table's column, ragged or not, and how many each row has."""
    target = getattr(column, "target", None)
    values = np.asarray((column if target is None else target).data[:])
    if target is None:
        return values.reshape(-1), np.full(len(values), values[:1].size, np.int64)
    count = np.diff(np.asarray(column.data[:]).astype(np.int64), prepend=0)
    return values[: count.sum()], count


def compare_spikes(session: Session, units, out: Verification, layout: Layout | None = None) -> None:
    ids = [str(i) for i in np.asarray(units.id[:]).tolist()]
    uses = Counter(ids)
    named = [f"{name}.row{row}" if uses[name] > 1 else name for row, name in enumerate(ids)]
    for row, (stored, source) in enumerate(zip(session.units.id.tolist(), named, strict=True)):
        if stored != source:
            out.expect(f"id of unit row {row}", stored, source)
    if "spike_times" not in units.colnames:
        out.differences.append(f"spikes: {len(session.spikes)} in the session, no column spike_times in the source")
        return
    seconds, count = _rows(units["spike_times"])
    seconds = seconds.astype(np.float64)
    unit, good = np.repeat(np.arange(count.size), count), is_time(seconds)
    unit, source_ns = unit[good], to_ns(seconds[good])
    for row, shift_s in (layout.units if layout is not None else {}).items():
        source_ns[unit == row] += to_ns(shift_s)
    order = np.lexsort((source_ns, unit))
    unit, source_ns = unit[order], source_ns[order]
    order = np.argsort(session.spikes.unit, kind="stable")
    held, stored_ns = session.spikes.unit[order], session.spikes.time_ns[order]
    n_held, n_source = (np.bincount(rows, minlength=count.size) for rows in (held, unit))
    apart = n_held != n_source
    if not apart.any():
        apart[unit[stored_ns != source_ns]] = True
    else:
        apart[:] = True  # which spikes differ shows only where each unit is looked at
    ends, stops = np.cumsum(n_held), np.cumsum(n_source)
    for row in np.flatnonzero(apart).tolist():
        stored = stored_ns[ends[row] - n_held[row] : ends[row]]
        source = source_ns[stops[row] - n_source[row] : stops[row]]
        if out.expect(f"spikes of unit '{ids[row]}' (row {row})", stored.size, source.size):
            out.expect_array(f"spike times in ns of unit '{ids[row]}' (row {row})", stored, source)
    out.n_units += count.size
    out.n_spikes += source_ns.size
    out.expect("spikes removed because they are no time", stated(session, "spikes-not-finite"), int((~good).sum()))


def compare_unit_columns(session: Session, units, raw: h5py.File, place: str, out: Verification) -> None:
    elsewhere = {"spike_times", "obs_intervals", "electrodes", "electrode_group"}
    renamed = {"heldout": "held_out"}
    expected = {}
    for name, column in source_columns(units, raw, place, WIDE):
        if name not in elsewhere:
            flag = name in ("heldout", "held_out") and isinstance(column, np.ndarray) and column.dtype.kind in "biu"
            expected[renamed.get(name, name) if flag else name] = column.astype(bool) if flag else column
    derived = _electrode_columns(units)
    for name, column in derived.items():
        expected[f"electrode_{name}" if name in expected else name] = column
    if "region" not in expected and isinstance(expected.get("location"), np.ndarray):
        places = expected["location"].tolist()
        inside = [p.split("brain_region:")[1].split(";")[0].strip() if "brain_region:" in p else p for p in places]
        expected["region"] = np.array(inside, dtype=np.str_)
    for name in ACRONYMS:
        named = expected.get(name)
        if "region" not in expected and isinstance(named, np.ndarray) and named.dtype.kind == "U":
            expected["region"] = named
    compare_columns("units", session.units.columns, expected, out)


def _electrode_columns(units) -> dict[str, Column]:
    """Channel, group and location of each unit as the electrodes table has them."""
    if "electrodes" not in units.colnames or len(units["electrodes"]) == 0:
        own = units["electrode_group"][:] if "electrode_group" in units.colnames else []
        return {"group": np.array([group.name for group in own], dtype=np.str_)} if len(own) else {}
    column = units["electrodes"]
    region = getattr(column, "target", column)
    row = np.asarray(region.data[:]).astype(np.int64)
    end = np.asarray(column.data[:]).astype(np.int64) if region is not column else np.arange(1, row.size + 1)
    offset = np.concatenate([[0], end])
    table = region.table
    if row.size and not (row.min() >= 0 and row.max() < len(table.id)):
        return {}
    ids = np.asarray(table.id[:]).astype(np.int64)
    columns: dict[str, Column] = {"channel": ids[row] if (np.diff(offset) == 1).all() else Ragged(ids[row], offset)}
    placed = next((name for name in ("location", *ACRONYMS) if name in table.colnames), "location")
    for name, source in (("group", "group_name"), ("location", placed)):
        if source in table.colnames:
            words = as_values(table[source].data[:]).tolist()
            own = [[words[i] for i in rows] for rows in np.split(row, offset[1:-1])]
            texts = [",".join(sorted(set(w), key=w.index)) for w in own]
            columns[name] = np.array(texts, dtype=np.str_)
    return columns


def compare_observed(session: Session, units, out: Verification, layout: Layout | None = None) -> None:
    layout = layout or Layout()
    n_units, pairs = len(units.id), []
    if "obs_intervals" in units.colnames:
        for row in range(n_units):
            seconds = np.asarray(units["obs_intervals"][row], dtype=np.float64).reshape(-1, 2)
            good = is_time(seconds).all(axis=1)
            good &= seconds[:, 0] <= seconds[:, 1]
            seconds = seconds + layout.observed.get(row, np.zeros(len(seconds)))[:, None]
            pairs.append(to_ns(seconds[good]))
    together = merged(np.concatenate(pairs)) if pairs else []
    stored = list(zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True))
    if not together:
        out.expect("source of the observed time", session.observed_source, "assumed")
        out.expect("assumed observed time in ns", stored, _apart(assumed(session), layout.gaps))
        return
    out.expect("source of the observed time", session.observed_source, "obs_intervals")
    out.expect("observed time in ns", stored, together)
    for row in range(n_units):
        of_unit = merged(pairs[row]) if len(pairs[row]) else together
        kept = stored
        if session.unit_observed is not None:
            kept = [(int(a), int(b)) for a, b in session.unit_observed[row]]
        out.expect(f"observed time in ns of unit row {row}", kept, of_unit)


def _apart(pairs: list[tuple[int, int]], gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The intervals without the gaps between blocks."""
    for low, high in gaps:
        pairs = [
            part
            for start, stop in pairs
            for part in ((start, min(stop, low)), (max(start, high), stop))
            if part[1] > part[0]
        ]
    return pairs


def _next_start(table: Intervals, start_ns: int) -> int:
    return int(table.start_ns[table.start_ns > start_ns].min(initial=2**63 - 1))


def _stated_stops(table: Intervals) -> list[int]:
    repaired = table.columns.get("stop_repaired", np.zeros(len(table), np.bool_))
    return table.stop_ns[~repaired].tolist()


def _recorded(session: Session) -> np.ndarray:
    """The spike times without the first or last one where that is a filler: again by another way, counting pairs."""
    spikes = session.spikes
    edges = list(dict.fromkeys(spikes.time_ns[[0, -1]].tolist()))
    if len(edges) < 2:
        return spikes.time_ns
    at_edge = {edge: Counter(spikes.unit[spikes.time_ns == edge].tolist()) for edge in edges}
    if all(max(at.values()) < 3 and len(at) < 3 for at in at_edge.values()):
        return spikes.time_ns
    between = ~np.isin(spikes.time_ns, edges)
    if not between.any():
        return spikes.time_ns
    pairs = Counter(zip(spikes.time_ns[between].tolist(), spikes.unit[between].tolist(), strict=True))
    together = Counter(time_ns for time_ns, _ in pairs)
    repeated, shared, spiking = max(pairs.values()), max(together.values()), len(set(spikes.unit.tolist()))
    gone = [
        edge
        for edge, at in at_edge.items()
        if max(at.values()) > max(2, 2 * repeated) or (2 * len(at) >= spiking and len(at) > max(2, 2 * shared))
    ]
    return spikes.time_ns[~np.isin(spikes.time_ns, gone)]


def assumed(session: Session) -> list[tuple[int, int]]:
    """What is taken as observed where the source is silent: where something lies, divided where nothing does for long.

    Found in another way than by the reader: every moment at which something is, in one sorted row.
    """
    spikes = _recorded(session)
    low, high = len(spikes) // 4, 3 * len(spikes) // 4
    usual = (int(spikes[high]) - int(spikes[low])) // (high - low) if high > low else 0
    most = max(EMPTY_NS, EMPTY_TIMES * usual)
    moments, reach = [spikes], [int(spikes[0]), int(spikes[-1]) + 1]
    edges = [edge for table in session.intervals.values() for edge in (*table.start_ns.tolist(), *_stated_stops(table))]
    near = [edge for edge in edges if reach[0] - DAY_NS <= edge <= reach[1] + DAY_NS]
    low_ns, high_ns = min([reach[0], *near]) - DAY_NS, max([reach[1], *near]) + DAY_NS
    for signal in session.signals.values():  # what was acquired may run on: the extent says how far it counts
        since_ns, until_ns = max(session.start_ns, low_ns), min(session.stop_ns, high_ns + 1)
        inside = (signal.time_ns >= since_ns) & (signal.time_ns < until_ns)
        moments.append(signal.time_ns[signal.valid & inside])
    for table in session.intervals.values():
        repaired = table.columns.get("stop_repaired", np.zeros(len(table), np.bool_))
        lasts = np.where(repaired, 0, table.stop_ns - table.start_ns)
        longest = max(EMPTY_NS, EMPTY_TIMES * int(np.median(lasts))) if len(table) >= LEAST_ROWS else 2**63
        for start, stop, is_repaired in zip(table.start_ns.tolist(), table.stop_ns.tolist(), repaired, strict=True):
            if not is_repaired and stop - start > longest and _next_start(table, start) - stop not in TOUCHING:
                moments.append(np.array([edge for edge in (start, stop) if low_ns <= edge <= high_ns], np.int64))
                continue
            last = start if is_repaired or not low_ns <= stop <= high_ns else max(start, stop - 1)
            if low_ns <= start <= high_ns:
                moments.append(np.array([*range(start, last, EMPTY_NS), last], np.int64))
    moment = np.sort(np.concatenate(moments))
    gap = np.flatnonzero(np.diff(moment) - 1 > most)
    pairs = list(zip([moment[0], *moment[gap + 1]], [*(moment[gap] + 1), moment[-1] + 1], strict=True))
    pairs = [(int(a), int(b)) for a, b in pairs if b - a >= STRAY_NS] or [(int(a), int(b)) for a, b in pairs]
    pairs = [pair for pair in pairs if ((spikes >= pair[0]) & (spikes < pair[1])).any()] or pairs
    first = pairs[0][0]
    return [(first // 10**9 * 10**9 if first > 0 else first, pairs[0][1]), *pairs[1:]]
