"""Joining files that follow one another in time, and behaviour that lies in a file of its own, into one session.

Pure functions over :class:`~spiketok.recording.nouns.Session`. What is unusual:

- where each file lies follows from what the files say: the moment of their time zero, in any time zone, and where their
  data begin. Only where these tell nothing must the user say that they follow one another (``how="time"``);
- what lies between two blocks was not observed, and a unit of one block alone was not observed in the others;
- units are matched by id; what tells where a unit was recorded must agree, or nothing is joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.joining import (
    equal_arrays,
    file_stem,
    interval_arrays,
    merge_units,
    once,
    recorded_span,
    short_labels,
    signal_arrays,
    stacked,
    stimulus_arrays,
    told,
)
from spiketok.recording.moving import laid_out, moved_columns
from spiketok.recording.nouns import (
    NS_PER_S,
    Column,
    Finding,
    Intervals,
    Ragged,
    Session,
    Signal,
    Spikes,
    Stimulus,
    UnitTable,
)

HOWS = ("units", "time")
FEW = 20  # so few spikes may be the same by chance
DAY_NS = 24 * 3600 * NS_PER_S
MOST_RATIO, LONG_NS = 50, 3600 * NS_PER_S  # behaviour that lasts so many times as long as the spikes, and so long
PROBES = re.compile(r"probe|imec|shank|array|tetrode", re.IGNORECASE)  # what tells files of probes by their names
PLACE = ("channel", "group", "location", "region", "probe", "shank", "electrode", "electrode_id")  # of a unit


def join_files(sessions: Sequence[Session], session_id: str, how: str = "") -> Session:
    """Several files of one recording, or of one day, as one session.

    Args:
        sessions: the files in the order given; those without units bring behaviour, tables and stimuli.
        session_id: of the joined session.
        how: ``"units"``: they are probes of one time; ``"time"``: they follow one another, in the order given where
            nothing tells where they lie; empty: as the files tell.

    Raises:
        DataError: they are not of one recording or one day, or do not tell whether they are probes or blocks.
    """
    with_units = [s for s in sessions if len(s.units)]
    if not with_units:
        message = f"{session_id}: none of its {len(sessions)} files has units: add the file with the spikes"
        raise DataError(message)
    names = [file_stem(s.source.file) for s in sessions]
    _check_subjects(sessions, session_id)
    _check_copies(with_units, session_id)
    with_units = _with_behaviours(with_units, [s for s in sessions if not len(s.units)], session_id)
    if len(sessions) == 1:
        return merge_units(sessions, session_id)
    if len(with_units) == 1:
        joined = replace(with_units[0], id=session_id)
    elif _are_probes(with_units, session_id, how):
        joined = merge_units(with_units, session_id)
    else:
        labels = short_labels([name for name, s in zip(names, sessions, strict=True) if len(s.units)])
        joined = _joined_in_time(with_units, labels, session_id)
    return replace(joined, source=replace(sessions[0].source, session_start=joined.source.session_start))


# ---- what the files are ---------------------------------------------------------------------------------------------


def _check_subjects(sessions: Sequence[Session], session_id: str) -> None:
    stated = list(dict.fromkeys(s.subject for s in sessions if s.subject))
    if len(stated) > 1:
        message = f"{session_id}: its files have different subjects ({', '.join(map(repr, stated))}): not one recording"
        raise DataError(message)


def _check_copies(sessions: Sequence[Session], session_id: str) -> None:
    """Raise DataError where two files hold the same spikes: one recording twice, whatever the files say."""
    for k, one in enumerate(sessions):
        for other in sessions[:k]:
            pair = ((s.spikes.time_ns, s.spikes.unit, s.units.id) for s in (one, other))
            if len(one.spikes) >= FEW and all(np.array_equal(a, b) for a, b in zip(*pair, strict=True)):
                names = " and ".join(file_stem(s.source.file) for s in (other, one))
                message = f"{session_id}: {names} hold the same {len(one.spikes)} spikes: leave one of them out"
                raise DataError(message)


def _zero(session: Session) -> str:
    """The moment of a file's time zero, as the file has it."""
    start = session.info.get("session_start_time", session.source.session_start)
    return session.info.get("timestamps_reference_time", start)


def _zeros_ns(sessions: Sequence[Session], session_id: str) -> list[int]:
    """How long after the earliest time zero each file's own lies; DataError where that cannot be told."""
    texts = [_zero(s) for s in sessions]
    if len(set(texts)) == 1:
        return [0] * len(texts)
    try:
        moments = [datetime.fromisoformat(text) for text in texts]
        after = [moment - min(moments) for moment in moments]
    except (ValueError, TypeError):  # no date, or only some have a time zone
        message = f"{session_id}: when its files begin cannot be compared ({', '.join(map(repr, texts))})"
        message = f"{message}: write all with a time zone, or none"
        raise DataError(message) from None
    return [(a.days * 86_400 + a.seconds) * NS_PER_S + a.microseconds * 1000 for a in after]


def _are_probes(sessions: Sequence[Session], session_id: str, how: str) -> bool:
    """Whether files with units are probes of one time; DataError where they do not tell."""
    zeros, names = _zeros_ns(sessions, session_id), [file_stem(s.source.file) for s in sessions]
    spans = [(a + z, b + z) for (a, b), z in zip(map(recorded_span, sessions), zeros, strict=True)]
    common = max(a for a, _ in spans) < min(b for _, b in spans)
    if how == "units":
        return True
    if _follow(spans) or (how == "time" and not any(zeros)):
        return False
    if any(zeros) or not common:
        at = ", ".join(
            f"{n} {a / NS_PER_S:.1f} to {b / NS_PER_S:.1f} s" for n, (a, b) in zip(names, spans, strict=True)
        )
        starts = ", ".join(repr(_zero(s)) for s in sessions)
        message = (
            f"{session_id}: its files have different session starts ({starts}) or times ({at} after the earliest "
            "start): some overlap and some do not, so they are neither probes of one time nor blocks: join fewer"
        )
        raise DataError(message)
    same = any(_may_be_same(s, sessions[0]) for s in sessions[1:])
    if same and not all(PROBES.search(label) for label in short_labels(names)):
        message = (
            f"{session_id}: {len(sessions)} files of one time have units of the same ids ({', '.join(names)}), nothing "
            "tells whether they are probes or blocks: add --join units (probes of one time) or --join time (blocks, "
            "one behind the other in the order given)"
        )
        raise DataError(message)
    return True


def _follow(spans: Sequence[tuple[int, int]]) -> bool:
    """Whether of several spans none shares time with another."""
    ordered = sorted(spans)
    return all(stop <= start for (_, stop), (start, _) in pairwise(ordered))


def _may_be_same(one: Session, other: Session) -> bool:
    """Whether two files may hold the same units: they share ids, and say nothing of these that differs by place."""
    ours, theirs = ({unit: row for row, unit in enumerate(s.units.id.tolist())} for s in (one, other))
    shared = [(ours[unit], theirs[unit]) for unit in ours if unit in theirs]
    named = [name for name in one.units.columns if _is_place(name) and name in other.units.columns]
    pairs = [(one.units.columns[name], other.units.columns[name]) for name in named]
    return bool(shared) and all(_same(a[k], b[m]) for a, b in pairs for k, m in shared)


def _is_place(column: str) -> bool:
    return column.removeprefix("electrode_") in PLACE


def _same(one: object, other: object) -> bool:
    """Whether two cells hold the same; NaN equals NaN."""
    return equal_arrays([np.asarray(one)], [np.asarray(other)])


# ---- behaviour of a file of its own ---------------------------------------------------------------------------------


def _with_behaviours(units: Sequence[Session], others: Sequence[Session], session_id: str) -> list[Session]:
    """The files with units, each with what files without units bring to it."""
    found = list(units)
    for other in others:
        k = _whose(found, other, session_id)
        found[k] = _with_behaviour(found[k], other, session_id)
    return found


def _whose(units: Sequence[Session], other: Session, session_id: str) -> int:
    """Of which file with units another one is the behaviour: it has its time zero, and shares its time."""
    name = file_stem(other.source.file)
    same = [k for k, s in enumerate(units) if not any(_zeros_ns([s, other], session_id))]
    if not same:
        starts = ", ".join(dict.fromkeys(repr(_zero(s)) for s in units))
        message = (
            f"{session_id}: {name} has another session start ({_zero(other)!r}) than the file with units ({starts})"
        )
        message = f"{message}: not one session"
        raise DataError(message)
    low, high = _held_span(other)
    shared = [min(high, b) - max(low, a) for a, b in (recorded_span(units[k]) for k in same)]
    if max(shared) <= 0:
        a, b = recorded_span(units[same[0]])
        message = (
            f"{session_id}: {name} lasts from {low / NS_PER_S:.1f} to {high / NS_PER_S:.1f} s, the spikes from "
            f"{a / NS_PER_S:.1f} to {b / NS_PER_S:.1f} s: they do not overlap in time, so they are not one session"
        )
        raise DataError(message)
    best = [k for k, n in zip(same, shared, strict=True) if 2 * n > max(shared)]
    probes = max(recorded_span(units[k])[0] for k in best) < min(recorded_span(units[k])[1] for k in best)
    if len(best) > 1 and not (probes and not any(_may_be_same(units[k], units[best[0]]) for k in best[1:])):
        files = ", ".join(file_stem(units[k].source.file) for k in best)
        message = f"{session_id}: to which of {files} the behaviour of {name} belongs is not known"
        message = f"{message}: join each with its own first, or give them their own session starts"
        raise DataError(message)
    return best[0]


def _held_span(session: Session) -> tuple[int, int]:
    """From where to where something is in a file without units."""
    return int(session.observed.start_ns[0]), int(session.observed.stop_ns[-1])


def _with_behaviour(session: Session, other: Session, session_id: str) -> Session:
    """A file with units and the behaviour, tables, stimuli and splits of another file of the session."""
    name = file_stem(other.source.file)
    ours, theirs = session.info.get("session_id", ""), other.info.get("session_id", "")
    if ours and theirs and ours != theirs:
        message = f"{session_id}: its files have different session ids ('{ours}', '{theirs}'): not one session"
        raise DataError(message)
    low, high = recorded_span(session)
    for signal_name, signal in other.signals.items():
        lasts_ns = int(signal.time_ns[-1] - signal.time_ns[0])
        if lasts_ns > max(MOST_RATIO * (high - low), LONG_NS):
            message = (
                f"{session_id}: '{signal_name}' of {name} lasts {lasts_ns / NS_PER_S:.1f} s, the spikes "
                f"{(high - low) / NS_PER_S:.1f} s: these are not seconds: say what they are with --time-unit "
                f"{signal_name}=UNIT"
            )
            raise DataError(message)
    splits = [s.splits for s in (session, other) if len(s.splits)]
    if len(splits) > 1 and not equal_arrays(*map(interval_arrays, splits)):
        message = f"{session_id}: its files state different splits: ingest them one by one"
        raise DataError(message)
    notes: list[Finding] = []
    pair, labels = [session, other], ["units", name]
    what = [*other.signals, *other.intervals, *other.stimuli]
    text = f"{len(what)} behaviours, tables and stimuli come from {name}, which has no units: {', '.join(what[:12])}"
    kept = [note for note in told([other], [name], "notes") if note.id != "observed-assumed"]
    ids = [s.info.get("identifier", "") for s in pair]
    if len(set(ids)) > 1:
        notes.append(Finding("merge-identifiers", 2, f"the files have the identifiers {ids[0]!r} and {ids[1]!r}"))
    return replace(
        session,
        subject=session.subject or other.subject,
        intervals=once([s.intervals for s in pair], labels, interval_arrays, notes),
        signals=once([s.signals for s in pair], labels, signal_arrays, notes),
        stimuli=once([s.stimuli for s in pair], labels, stimulus_arrays, notes),
        splits=splits[0] if splits else session.splits,
        info={**other.info, **session.info},
        repairs=(*session.repairs, *told([other], [name], "repairs"), Finding("behaviour-joined", len(what), text)),
        notes=(*session.notes, *kept, *notes),
    )


# ---- blocks ---------------------------------------------------------------------------------------------------------


def _joined_in_time(sessions: Sequence[Session], labels: Sequence[str], session_id: str) -> Session:
    """Files that follow one another as one session, on the clock of the first."""
    shifts = _shifts(sessions, session_id)
    order = sorted(range(len(sessions)), key=lambda k: recorded_span(sessions[k])[0] + shifts[k])
    sessions, labels = [sessions[k] for k in order], [labels[k] for k in order]
    shifts = [shifts[k] for k in order]
    first, notes = sessions[0], []
    spans = [(a + s, b + s) for (a, b), s in zip(map(recorded_span, sessions), shifts, strict=True)]
    for ((_, stop), (start, _)), label in zip(pairwise(spans), labels[1:], strict=True):
        if start - stop > DAY_NS:
            message = f"{session_id}: {label} begins {(start - stop) / DAY_NS:.1f} days after the file before it ends"
            message = f"{message}: no blocks of one day, ingest them one by one"
            raise DataError(message)
    ids, rows = _matched(sessions)
    columns = _unit_columns(sessions, labels, rows, len(ids), session_id, notes)
    time_ns = np.concatenate([s.spikes.time_ns + shift for s, shift in zip(sessions, shifts, strict=True)])
    unit = np.concatenate([row[s.spikes.unit] for s, row in zip(sessions, rows, strict=True)]).astype(np.int32)
    by_time = np.lexsort((unit, time_ns))
    observed, unit_observed = _observed(sessions, shifts, rows, len(ids))
    partial = len(ids) - len(set.intersection(*(set(s.units.id.tolist()) for s in sessions)))
    text = f"{partial} of {len(ids)} units are in some of the {len(sessions)} blocks only: not observed in the others"
    if partial:
        notes.append(Finding("units-unmatched", partial, text))
    clocks = {s.clock_hz for s in sessions}
    if len(clocks) > 1:
        notes.append(Finding("merge-clocks", len(clocks), f"the files declare {len(clocks)} clocks: none is taken"))
    where = [
        f"{label} from {a / NS_PER_S:.1f} to {b / NS_PER_S:.1f} s"
        + (f" (its own {(a - s) / NS_PER_S:.1f})" if s else "")
        for label, (a, b), s in zip(labels, spans, shifts, strict=True)
    ]
    text = f"{len(sessions)} files follow one another, matched by unit id: {', '.join(where)}; what lies between them"
    merged = Finding("files-in-time", len(sessions), f"{text} was not observed")
    sources = {s.observed_source for s in sessions}
    return Session(
        id=session_id,
        subject=next((s.subject for s in sessions if s.subject), ""),
        start_ns=min(s.start_ns + shift for s, shift in zip(sessions, shifts, strict=True)),
        stop_ns=max(s.stop_ns + shift for s, shift in zip(sessions, shifts, strict=True)),
        units=UnitTable(ids, columns),
        spikes=Spikes(time_ns[by_time], unit[by_time]),
        observed=observed,
        source=first.source,
        unit_observed=unit_observed,
        observed_source=sources.pop() if len(sources) == 1 else "assumed",
        intervals=_in_time([s.intervals for s in sessions], shifts, interval_arrays, _joined_tables, session_id),
        splits=_joined_tables([s.splits for s in sessions], shifts),
        signals=_in_time([s.signals for s in sessions], shifts, signal_arrays, _joined_signals, session_id),
        stimuli=_in_time([s.stimuli for s in sessions], shifts, stimulus_arrays, _joined_stimuli, session_id),
        clock_hz=clocks.pop() if len(clocks) == 1 else None,
        info={key: text for s in reversed(sessions) for key, text in s.info.items()},
        repairs=(*told(sessions, labels, "repairs"), merged),
        notes=(*told(sessions, labels, "notes"), *notes),
    )


def _shifts(sessions: Sequence[Session], session_id: str) -> list[int]:
    """What is added to each file's times, ns: by their time zeros, or one behind the other where these are one."""
    zeros = _zeros_ns(sessions, session_id)
    spans = [(a + z, b + z) for (a, b), z in zip(map(recorded_span, sessions), zeros, strict=True)]
    if any(zeros) or _follow(spans):
        return zeros
    ends = [_ends(s) for s in sessions]
    return laid_out(np.array([a for a, _ in ends]), np.array([b for _, b in ends])).tolist()


def _ends(session: Session) -> tuple[int, int]:
    """From where to where anything of a file reaches that lies within a day of what was recorded."""
    low, high = recorded_span(session)
    low, high = min(low, session.start_ns), max(high, session.stop_ns)
    moments = [np.array([low, high]), session.spikes.time_ns[:1], session.spikes.time_ns[-1:] + 1]
    moments += [t for table in session.intervals.values() for t in (table.start_ns, table.stop_ns)]
    moments += [edge for s in session.signals.values() for edge in (s.time_ns[:1], s.time_ns[-1:] + 1)]
    moments += [edge for s in session.stimuli.values() for edge in (s.time_ns[:1], s.stop_ns[-1:])]
    every = np.concatenate(moments)
    near = every[(every >= low - DAY_NS) & (every <= high + DAY_NS)]
    return int(near.min()), int(near.max())


def _matched(sessions: Sequence[Session]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All unit ids in the order of their first file, str ``[N]``, and for each file the rows of its units in them."""
    ids = list(dict.fromkeys(unit for s in sessions for unit in s.units.id.tolist()))
    row = {unit: k for k, unit in enumerate(ids)}
    return np.array(ids, np.str_), [np.array([row[u] for u in s.units.id.tolist()], np.int64) for s in sessions]


def _unit_columns(
    sessions: Sequence[Session],
    labels: Sequence[str],
    rows: Sequence[np.ndarray],
    n_units: int,
    session_id: str,
    notes: list[Finding],
) -> dict[str, Column]:
    """The columns of all units, each from the first file that has it; what differs later stands beside it.

    Raises:
        DataError: of a unit two files say that it was recorded in different places.
    """
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for s in sessions for name in s.units.columns):
        having = [k for k, s in enumerate(sessions) if name in s.units.columns]
        first, differing = np.full(n_units, -1), []
        for k in having:
            own, new = sessions[k].units.columns[name], first[rows[k]] < 0
            for unit in np.flatnonzero(~new).tolist():
                of = first[rows[k][unit]]
                before = int(np.flatnonzero(rows[of] == rows[k][unit])[0])
                was = sessions[of].units.columns[name]
                if not _same(was[before], own[unit]):
                    if _is_place(name):
                        message = (
                            f"{session_id}: unit '{sessions[k].units.id[unit]}' has {name} {_shown(was[before])} in "
                            f"{labels[of]} and {_shown(own[unit])} in {labels[k]}: not the same unit, so the files are "
                            "no blocks of one set of units"
                        )
                        raise DataError(message)
                    differing.append(k)
                    break
            first[rows[k][new]] = k
        parts = [(k, np.flatnonzero(first[rows[k]] == k)) for k in having]
        columns[name] = _placed(sessions, rows, name, parts, n_units)
        for k in differing:
            columns[f"{name}.{labels[k]}"] = _placed(sessions, rows, name, [(k, np.arange(len(rows[k])))], n_units)
            text = f"unit column '{name}' of {labels[k]} differs from that of the files before it"
            notes.append(Finding("merge-differs", 1, f"{text}: kept as '{name}.{labels[k]}'"))
    return columns


def _shown(value: object) -> str:
    return repr(np.asarray(value).tolist())


def _placed(
    sessions: Sequence[Session],
    rows: Sequence[np.ndarray],
    name: str,
    parts: Sequence[tuple[int, np.ndarray]],
    n_units: int,
) -> Column:
    """A column of all units from the given rows of some files; NaN, an empty text or an empty row elsewhere."""
    at = np.concatenate([rows[k][own] for k, own in parts])
    rest = np.setdiff1d(np.arange(n_units), at)
    taken: list[Column | None] = [take_rows(sessions[k].units.columns[name], own) for k, own in parts]
    sizes = [len(own) for _, own in parts]
    if rest.size:
        taken, sizes = [*taken, None], [*sizes, rest.size]
    used = [k for k, size in enumerate(sizes) if size]
    column = stacked([taken[k] for k in used], [sizes[k] for k in used])
    return take_rows(column, np.argsort(np.concatenate([at, rest]), kind="stable"))


def take_rows(column: Column, rows: np.ndarray) -> Column:
    """Some rows of a column, in their order."""
    if not isinstance(column, Ragged):
        return column[rows]
    own = [column[row] for row in rows.tolist()]
    return Ragged(np.concatenate([column.value[:0], *own]), np.cumsum([0, *map(len, own)]))


def _observed(
    sessions: Sequence[Session], shifts: Sequence[int], rows: Sequence[np.ndarray], n_units: int
) -> tuple[Intervals, Ragged | None]:
    """Observed by any unit, and each unit's own: a unit that a block has not was not observed in it."""
    pairs: list[list[np.ndarray]] = [[] for _ in range(n_units)]
    every = []
    for s, shift, row in zip(sessions, shifts, rows, strict=True):
        shared = np.stack([s.observed.start_ns, s.observed.stop_ns], axis=1) + shift
        every.append(shared)
        for k, unit in enumerate(row.tolist()):
            own = shared if s.unit_observed is None else s.unit_observed[k].reshape(-1, 2) + shift
            pairs[unit].append(own.astype(np.int64))
    found = [Intervals(*np.concatenate(own).T).union() for own in pairs]
    observed = Intervals(*np.concatenate(every).T).union()
    if all(equal_arrays([f.start_ns, f.stop_ns], [observed.start_ns, observed.stop_ns]) for f in found):
        return observed, None
    own = [np.stack([f.start_ns, f.stop_ns], axis=1) for f in found]
    return observed, Ragged(np.concatenate(own), np.cumsum([0, *map(len, own)]))


def _in_time(items: Sequence[Mapping], shifts: Sequence[int], arrays, join, session_id: str) -> dict:
    """What the blocks hold by name: what is equal in all and not moved once, all else one behind the other."""
    joined = {}
    for name in dict.fromkeys(name for held in items for name in held):
        own = [(held[name], shift) for held, shift in zip(items, shifts, strict=True) if name in held]
        same = all(equal_arrays(arrays(item), arrays(own[0][0])) for item, _ in own[1:])
        if len(own) > 1 and same and not any(shifts):
            joined[name] = own[0][0]
        else:
            joined[name] = join([item for item, _ in own], [shift for _, shift in own], f"{session_id}: '{name}'")
    return joined


def _joined_tables(tables: Sequence[Intervals], shifts: Sequence[int], _: str = "") -> Intervals:
    """The rows of tables one behind the other, with the times in their columns; what a table has not is missing."""
    held = [(table, shift) for table, shift in zip(tables, shifts, strict=True) if len(table)]
    if not held:
        return tables[0]
    moved = []
    for table, shift in held:
        start_s, stop_s = table.start_ns / NS_PER_S, table.stop_ns / NS_PER_S
        columns = moved_columns(table.columns, start_s, stop_s, np.full(len(table), shift / NS_PER_S))
        moved.append(Intervals(table.start_ns + shift, table.stop_ns + shift, columns if shift else table.columns))
    names = dict.fromkeys(key for table in moved for key in table.columns)
    sizes = [len(table) for table in moved]
    return Intervals(
        np.concatenate([table.start_ns for table in moved]),
        np.concatenate([table.stop_ns for table in moved]),
        {key: stacked([table.columns.get(key) for table in moved], sizes) for key in names},
    )


def _joined_signals(signals: Sequence[Signal], shifts: Sequence[int], what: str) -> Signal:
    first = signals[0]
    for other in signals[1:]:
        if (first.components, first.measure) != (other.components, other.measure):
            message = (
                f"{what} has components {', '.join(first.components)} in '{first.measure}' in one file "
                f"and {', '.join(other.components)} in '{other.measure}' in another: not one behaviour"
            )
            raise DataError(message)
    time_ns = [signal.time_ns + shift for signal, shift in zip(signals, shifts, strict=True)]
    for before, after in pairwise(time_ns):
        if after[0] <= before[-1]:
            message = (
                f"{what} of one file ends at {before[-1] / NS_PER_S:.3f} s, that of the next begins at "
                f"{after[0] / NS_PER_S:.3f} s: blocks of one behaviour must not overlap"
            )
            raise DataError(message)
    rates = {signal.rate_hz for signal in signals}
    value, valid = np.concatenate([s.value for s in signals]), np.concatenate([s.valid for s in signals])
    rate_hz = rates.pop() if len(rates) == 1 else None
    return Signal(np.concatenate(time_ns), value, first.components, first.measure, valid, rate_hz)


def _joined_stimuli(stimuli: Sequence[Stimulus], shifts: Sequence[int], what: str) -> Stimulus:
    first = stimuli[0]
    kinds = {(s.frames.shape[1:], s.frames.dtype.str) for s in stimuli}
    if len(kinds) > 1:
        message = f"{what} has pictures of {len(kinds)} kinds in its files: not one stimulus"
        raise DataError(message)
    shared = all(np.array_equal(s.frames, first.frames) for s in stimuli[1:])
    before = np.zeros(len(stimuli), np.int64) if shared else np.cumsum([0, *(len(s.frames) for s in stimuli[:-1])])
    frame = [np.where(s.frame < 0, s.frame, s.frame + n) for s, n in zip(stimuli, before.tolist(), strict=True)]
    return Stimulus(
        first.frames if shared else np.concatenate([s.frames for s in stimuli]),
        np.concatenate([s.time_ns + shift for s, shift in zip(stimuli, shifts, strict=True)]),
        np.concatenate([s.stop_ns + shift for s, shift in zip(stimuli, shifts, strict=True)]),
        np.concatenate(frame).astype(np.int32),
    )
