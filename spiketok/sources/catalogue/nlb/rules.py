"""What the benchmark's conventions make of its files: one session of the train and the test file.

The test file is laid after the train file: its time zero comes to the first multiple of 100 ms that is 50 ms or more
after the train file's last millisecond (the gap of nlb_tools 0.0.4, ``nwb_interface.py``, which lays the train file
after the test file; the tensors undo the order, see ``grid``). Held-out units have no observed time in the test part.
The interval table ``files`` says where each file is, the trial column ``file`` of which one a trial is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.nouns import (
    NS_PER_MS,
    NS_PER_S,
    Column,
    Finding,
    Intervals,
    Ragged,
    Session,
    Signal,
    Spikes,
    UnitTable,
)
from spiketok.sources.catalogue.nlb.grid import FILES, following_ms, length_ms

SET = "nlb"
KINDS = ("train", "test")  # in the session's order
M1_DIGIT, M1_SHIFT = "2", 96
ELECTRODES_FIX = "mc_maze-electrodes"


def session_name(file: str) -> str:
    """``sub-Jenkins_ses-small`` for both of its files: the name up to ``_desc-``."""
    return Path(file).name.removesuffix(".nwb").partition("_desc-")[0]


def adjust(session: Session, path: Path) -> Session:
    """One file as the benchmark wants it: the set of its splits and the file of its trials named, electrodes mended."""
    kind = _kind(session)
    intervals = dict(session.intervals)
    trials = session.trials
    if trials is not None:
        columns = {**trials.columns, "file": np.full(len(trials), kind)}
        intervals["trials"] = Intervals(trials.start_ns, trials.stop_ns, columns)
    columns = {"name": np.array([kind]), "file": np.array([Path(session.source.file).name])}
    intervals[FILES] = Intervals(np.array([0]), np.array([max(session.stop_ns, 0)]), columns)
    splits = session.splits
    if len(splits):
        columns = {**splits.columns, "set": np.full(len(splits), SET)}
        splits = Intervals(splits.start_ns, splits.stop_ns, columns)
    notes = (*session.notes, *_unsplit(trials))
    session = replace(session, intervals=intervals, splits=splits, notes=notes)
    return mend_electrodes(session, path) if session.dataset.startswith("mc_maze") else session


def _unsplit(trials: Intervals | None) -> list[Finding]:
    """A note on the trials that are of no split."""
    split = trials.columns.get("split") if trials is not None else None
    n_none = int((split == "none").sum()) if isinstance(split, np.ndarray) else 0
    text = f"{n_none} of {len(trials or ())} trials are of split 'none': in no split, kept in the table"
    return [Finding("nlb-split-none", n_none, text)] if n_none else []


def _kind(session: Session) -> str:
    """``train`` or ``test``: what the file's name says, else what its trials are."""
    name = Path(session.source.file).name
    for kind in KINDS:
        if f"desc-{kind}" in name:
            return kind
    return "test" if set(session.splits.columns.get("name", ())) == {"test"} else "train"


# ---- electrodes of MC_Maze ------------------------------------------------------------------------------------------


def mend_electrodes(session: Session, path: Path) -> Session:
    """Give the M1 units of MC_Maze their own electrodes.

    A unit's id is its array (1 PMd, 2 M1), two digits of the electrode there, and its number; the rows that the files
    give count each array's electrodes from 0, so those of M1 are 96 too low and point into PMd.
    """
    import h5py

    from spiketok.sources.formats.nwb.hdf5 import Hdf5
    from spiketok.sources.formats.nwb.tables import texts

    units = session.units
    of_m1 = np.array([len(name) == 4 and name.isdigit() and name[0] == M1_DIGIT for name in units.id.tolist()], bool)
    channel, group = units.columns.get("channel"), units.columns.get("group")
    if not of_m1.any() or not isinstance(channel, np.ndarray) or group is None:
        return session
    if isinstance(path, Path) and not h5py.is_hdf5(path):
        text = f"the electrodes of {int(of_m1.sum())} M1 units are as the file has them: its table is not in HDF5"
        return replace(session, notes=(*session.notes, Finding(ELECTRODES_FIX, int(of_m1.sum()), text)))
    with Hdf5(path) as h5:
        table = h5.group(h5.root, "general", "extracellular_ephys", "electrodes")
        held = {name: h5.dataset(table, name) for name in ("id", "group_name", "location")}
        ids = h5.array(held["id"]).astype(np.int64)
        words = {name: texts(h5.array(item)) for name, item in held.items() if name != "id" and item is not None}
    row_of = {int(number): row for row, number in enumerate(ids)}
    row = np.array([row_of.get(int(number), -1) for number in channel[of_m1]])
    moved = row + M1_SHIFT
    wrong = (row >= 0) & (row < M1_SHIFT) & (moved < ids.size)
    if not wrong.any() or "group_name" not in words or words["group_name"][row[wrong]][0].endswith("M1"):
        return session
    rows = np.flatnonzero(of_m1)[wrong]
    moved = moved[wrong]
    columns: dict[str, Column] = dict(units.columns)
    columns["channel"] = _put(channel, rows, ids[moved])
    columns["group"] = _put(group, rows, words["group_name"][moved])
    for name in ("location", "region"):
        if name in columns and "location" in words:
            columns[name] = _put(columns[name], rows, words["location"][moved])
    text = (
        f"the electrodes of {rows.size} M1 units (ids that begin with {M1_DIGIT}) are {M1_SHIFT} too low in the file "
        f"and name PMd: {M1_SHIFT} added to channel, group, location and region follow"
    )
    repairs = (*session.repairs, Finding(ELECTRODES_FIX, int(rows.size), text))
    return replace(session, units=UnitTable(units.id, columns), repairs=repairs)


def _put(column: Column, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A copy of a column with other values at some rows; texts get the room that they need."""
    column = np.asarray(column)
    values = np.asarray(values.tolist())
    out = column.astype(np.result_type(column, values)) if column.dtype.kind == "U" else column.copy()
    out[rows] = values
    return out


# ---- two files as one session ---------------------------------------------------------------------------------------


def join(sessions: Sequence[Session], session_id: str) -> Session:
    """The train and the test file of a set as one session; a single file as it is.

    Raises:
        DataError: more than one train or test file, or a unit that only the test file has.
    """
    by_kind: dict[str, Session] = {}
    for session in sessions:
        kind = str(session.intervals[FILES].columns["name"][0])
        if kind in by_kind:
            names = f"{by_kind[kind].source.file} and {session.source.file}"
            message = f"{session_id}: {names} are both {kind} files: ingest one version of the dataset at a time"
            raise DataError(message)
        by_kind[kind] = session
    if len(by_kind) == 1:
        return replace(next(iter(by_kind.values())), id=session_id)
    train, test = by_kind["train"], by_kind["test"]
    shift_ns = following_ms(_length_ms(train)) * NS_PER_MS
    row = _rows_of(train, test)
    notes = [replace(f, text=f"{kind} file: {f.text}") for kind, s in by_kind.items() for f in s.notes]
    repairs = [replace(f, text=f"{kind} file: {f.text}") for kind, s in by_kind.items() for f in s.repairs]
    intervals = {}
    for name in dict.fromkeys([*train.intervals, *test.intervals]):
        intervals[name] = _stack(name, train.intervals.get(name), test.intervals.get(name), shift_ns, notes)
    splits = _stack("splits", train.splits, test.splits, shift_ns, notes)
    time_ns = np.concatenate([train.spikes.time_ns, test.spikes.time_ns + shift_ns])
    unit = np.concatenate([train.spikes.unit, row[test.spikes.unit]])
    order = np.lexsort((unit, time_ns))
    observed, unit_observed = _observed(train, test, row, shift_ns)
    n_silent = len(train.units) - row.size
    text = f"{test.source.file} is laid {shift_ns / NS_PER_S:g} s later, behind {train.source.file}"
    notes.append(Finding("nlb-two-files", 1, text))
    text = f"{n_silent} held-out units have no observed time in the test part, {test.source.file}"
    notes += [Finding("nlb-held-out-unobserved", n_silent, text)] if n_silent else []
    return replace(
        train,
        id=session_id,
        stop_ns=max(train.stop_ns, test.stop_ns + shift_ns),
        start_ns=min(train.start_ns, test.start_ns + shift_ns),
        spikes=Spikes(time_ns[order], unit[order].astype(np.int32)),
        observed=observed,
        unit_observed=unit_observed,
        observed_source=train.observed_source if train.observed_source == test.observed_source else "assumed",
        intervals=intervals,
        splits=splits,
        signals=_signals(train, test, shift_ns),
        clock_hz=train.clock_hz if train.clock_hz == test.clock_hz else None,
        source=replace(sessions[0].source, joined=tuple(s.source for s in sessions[1:])),
        repairs=tuple(repairs),
        notes=tuple(notes),
    )


def _length_ms(session: Session) -> int:
    """The milliseconds of a file: to the last observed one, and past every spike and trial."""
    stop_ns = int(session.observed.stop_ns.max(initial=0))
    return max(length_ms(stop_ns), -(-session.stop_ns // NS_PER_MS) if session.stop_ns > stop_ns else 0)


def _rows_of(train: Session, test: Session) -> np.ndarray:
    """The row in the train file's unit table of each unit of the test file."""
    row_of = {name: row for row, name in enumerate(train.units.id.tolist())}
    unknown = [name for name in test.units.id.tolist() if name not in row_of]
    if unknown:
        message = (
            f"{test.source.file} has {len(unknown)} units that {train.source.file} does not have, as '{unknown[0]}': "
            "these are not the two files of one session"
        )
        raise DataError(message)
    return np.array([row_of[name] for name in test.units.id.tolist()], np.int64)


def _observed(train: Session, test: Session, row: np.ndarray, shift_ns: int) -> tuple[Intervals, Ragged | None]:
    observed = Intervals(
        np.concatenate([train.observed.start_ns, test.observed.start_ns + shift_ns]),
        np.concatenate([train.observed.stop_ns, test.observed.stop_ns + shift_ns]),
    ).union()
    if row.size == len(train.units) and train.unit_observed is None and test.unit_observed is None:
        return observed, None
    pairs = [_pairs(train, unit) for unit in range(len(train.units))]
    for unit, train_row in enumerate(row):
        pairs[train_row] = np.concatenate([pairs[train_row], _pairs(test, unit) + shift_ns])
    return observed, Ragged(np.concatenate(pairs), np.cumsum([0, *(len(p) for p in pairs)]))


def _pairs(session: Session, unit: int) -> np.ndarray:
    if session.unit_observed is not None:
        return session.unit_observed[unit]
    return np.stack([session.observed.start_ns, session.observed.stop_ns], axis=1)


def _signals(train: Session, test: Session, shift_ns: int) -> Mapping[str, Signal]:
    signals = dict(train.signals)
    for name, late in test.signals.items():
        moved = replace(late, time_ns=late.time_ns + shift_ns)
        early = signals.get(name)
        if early is not None:
            if early.components != late.components or early.measure != late.measure:
                message = (
                    f"signal '{name}' has components {early.components} in {early.measure} in {train.source.file} and "
                    f"{late.components} in {late.measure} in {test.source.file}"
                )
                raise DataError(message)
            moved = replace(
                early,
                time_ns=np.concatenate([early.time_ns, moved.time_ns]),
                value=np.concatenate([early.value, late.value]),
                valid=np.concatenate([early.valid, late.valid]),
                rate_hz=None,
            )
        signals[name] = moved
    return signals


# ---- tables ---------------------------------------------------------------------------------------------------------


def _stack(
    name: str, early: Intervals | None, late: Intervals | None, shift_ns: int, notes: list[Finding]
) -> Intervals:
    """A table with the rows of both files; times in columns ``..._time`` move too; what one file lacks is empty."""
    early, late = early or Intervals.empty(), late or Intervals.empty()
    columns = {}
    for key in dict.fromkeys([*early.columns, *late.columns]):
        moved = late.columns.get(key)
        if key.endswith("_time") and isinstance(moved, np.ndarray) and moved.dtype.kind == "f":
            moved = moved + shift_ns / NS_PER_S
        columns[key] = _stacked(early.columns.get(key), moved, len(early), len(late))
    for table, other in ((early, late), (late, early)):
        lacking = [key for key in other.columns if key not in table.columns]
        if lacking and len(table) and len(other):
            text = f"{name}: {len(table)} rows have no {', '.join(lacking)}: nan, empty text or no row stand there"
            notes.append(Finding("nlb-columns-missing", len(table), text))
    return Intervals(
        np.concatenate([early.start_ns, late.start_ns + shift_ns]),
        np.concatenate([early.stop_ns, late.stop_ns + shift_ns]),
        columns,
    )


def _stacked(early: Column | None, late: Column | None, n_early: int, n_late: int) -> Column:
    """One column of both; where a file has none, whole numbers and truths become float64 so that nan can be written."""
    known = early if early is not None else late
    if isinstance(known, Ragged):
        early = early if early is not None else Ragged(known.value[:0], np.zeros(n_early + 1, np.int64))
        late = late if late is not None else Ragged(known.value[:0], np.zeros(n_late + 1, np.int64))
        value = np.concatenate([early.value, late.value])
        return Ragged(value, np.concatenate([early.offset, late.offset[1:] + early.offset[-1]]))
    lacking = (early is None and n_early) or (late is None and n_late)
    dtype = np.float64 if lacking and known.dtype.kind in "bif" else known.dtype
    empty = "" if known.dtype.kind == "U" else np.nan if dtype == np.float64 else 0
    early = np.full((n_early, *known.shape[1:]), empty, dtype) if early is None else early.astype(dtype)
    late = np.full((n_late, *known.shape[1:]), empty, dtype) if late is None else late
    return np.concatenate([early, late.astype(dtype) if known.dtype.kind != "U" else late])
