"""O'Doherty & Sabes: motor and somatosensory cortex of two macaques, self-paced reaching (Zenodo record 3854034).

MATLAB v7.3 files, which are HDF5. What is unusual:

- Cells are references to datasets, and all arrays are transposed: ``spikes`` is ``[units, channels]``.
- Row 0 of ``spikes`` holds what was left of a channel's threshold crossings after sorting; the rows below are sorted
  units. Both are kept, told apart by the column ``quality``.
- An empty cell refers to a dataset with the cell's dimensions, which would pass for two spikes at 0 and 1 s; it is
  known by its attribute ``MATLAB_empty`` and its type.
- Waveforms (most of a file) are never opened.

Division, still periods and derivatives are those of torch_brain's pipeline ``odoherty_sabes_nonhuman_2017`` (0.2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.draws import division, draw_torch_brain
from spiketok.recording.intervals import from_whole_second, inhabited, longer_than, marked_segments, ns_of, without
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.recording.signals import derivative
from spiketok.recording.steps import with_step_reach
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules
from spiketok.storage.causes import raise_cause

SET = "odoherty_sabes"
SEED = 42
N_BLOCKS = 10
SHARES = (0.8, 0.1, 0.1)
SLOW, STILL_NS = 10.0, 10 * NS_PER_S  # a still period: slower than this for longer than that
LATEST_S = 9.2e9  # what int64 ns can hold
MOST_BYTES = 2**30  # of one array; in the longest session they have some MB
HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
AGAIN = "take a session file of Zenodo record 3854034, or fetch it again"
FIELDS = ("spikes", "chan_names", "t", "cursor_pos", "finger_pos", "target_pos")

REFERENCE = "torch_brain 0.2.1, pipeline odoherty_sabes_nonhuman_2017"
RECORD = "record 3854034 and its description"

ODOHERTY_SABES = Dataset(
    name="odoherty_sabes",
    aliases=("odoherty_sabes_nonhuman_2017",),
    title="O'Doherty-Sabes: macaque M1 and S1, self-paced reaching to targets on a grid",
    dandiset="",
    version=None,
    license="CC-BY-4.0",
    doi="10.5281/zenodo.3854034",
    citation=(
        "O'Doherty, Joseph E.; Cardoso, Mariana M. B.; Makin, Joseph G.; Sabes, Philip N. (2020) Nonhuman Primate "
        "Reaching with Multichannel Sensorimotor Cortex Electrophysiology [Data set]. Zenodo. "
        "https://doi.org/10.5281/zenodo.3854034"
    ),
    bytes=None,
    files=47,
    species="Macaca mulatta",
    subjects=("indy", "loco"),
    regions=("M1", "S1"),
    recording="sorted units and the unsorted crossings of each channel",
    units="16,566 in 47 sessions, of 96 channels (M1) or 192 (M1 and S1)",
    behaviours=("cursor_pos", "cursor_vel", "cursor_acc", "finger_pos", "finger_vel", "finger_angles", "target_pos"),
    splits="10 blocks of equal length, 8/1/1, seed 42; still periods of more than 10 s are left out",
    include=("*.mat",),
    host="zenodo",
    record="3854034",
    notes=(
        "about 22 GB, most of it waveforms, which are not read",
        "raw broadband recordings stand in records of their own and are not fetched",
        "time zero is the recorder's: behaviour may begin minutes after it",
    ),
    rules="odoherty_sabes",
    reference=REFERENCE,
    quirks=(
        Quirk(
            "odoherty_sabes-unsorted",
            "row 0 of a channel is what sorting left over: kept as a unit with quality 'unsorted'",
            RECORD,
        ),
        Quirk(
            "odoherty_sabes-empty",
            "empty cells refer to datasets that hold the cell's dimensions: no unit is made of them",
            "MATLAB's encoding of empty variables; seen in indy_20160630_01 by others: 249 of 480 cells",
        ),
        Quirk(
            "odoherty_sabes-derivatives",
            "velocity and acceleration are derived from the positions; the reference's central differences",
            REFERENCE,
        ),
        Quirk(
            "odoherty_sabes-still",
            "stretches of more than 10 s in which the cursor is slower than 10 per second are in no part of the "
            "division (table still); with such stretches the reference's test block is the busiest of the ten, not a "
            "random one, and so it is here",
            REFERENCE,
        ),
    ),
)


def read(path: Path, session_id: str, source: Source) -> Session:
    """Read a .mat file of this record whole.

    Raises:
        SourceError: it is no MATLAB v7.3 file, or not one of this layout.
    """
    with _Mat(path) as mat:
        missing = [name for name in FIELDS if mat.item(name) is None]
        if missing:
            mat.refuse(f"lacks {', '.join(missing)}")
        units, spikes, notes = _read_units(mat)
        signals = _read_behaviour(mat)
    subject, date = (*path.stem.split("_"), "")[:2]
    cursor = signals["cursor_pos"].time_ns
    early, late = int((spikes.time_ns < cursor[0]).sum()), int((spikes.time_ns > cursor[-1]).sum())
    text = f"{early} spikes lie before the first sample of behaviour and {late} after the last; kept"
    notes.append(Finding("odoherty_sabes-outside", early + late, text))
    moments = [spikes.time_ns, *(signal.time_ns for signal in signals.values())]
    observed = from_whole_second(inhabited(moments))
    text = "the source does not say what was observed: from the first to the last spike or sample is taken"
    notes.append(Finding("observed-assumed", 1, text))
    begun = f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else ""
    return Session(
        id=session_id,
        subject=subject,
        start_ns=int(observed.start_ns[0]),
        stop_ns=int(observed.stop_ns[-1]),
        units=units,
        spikes=spikes,
        observed=observed,
        source=source if source.session_start else replace(source, session_start=begun),
        signals=signals,
        info={"species": "Macaca mulatta"},
        notes=tuple(notes),
    )


def adjust(session: Session, path: Path) -> Session:
    """Derivatives, the table ``still`` and the division ``odoherty_sabes``."""
    signals, info = dict(session.signals), session.info
    for source, name, order in (
        ("cursor_pos", "cursor_vel", 1),
        ("finger_pos", "finger_vel", 1),
        ("cursor_pos", "cursor_acc", 2),
    ):
        step = {"name": name, "function": "derivative", "signal": source, "arguments": {"order": order}}
        signals[name], info = derivative(signals[source], order), with_step_reach(info, step, signals[source])
    text = "derived: cursor_vel, cursor_acc, finger_vel"
    repairs = (*session.repairs, Finding("odoherty_sabes-derivatives", 3, text))
    still = _still(signals["cursor_vel"])
    intervals = {**session.intervals, "still": still}
    notes = session.notes
    if len(still):
        text = f"{len(still)} still periods of {still.total_ns / NS_PER_S:.1f} s in all are in no part of the division"
        notes += (Finding("odoherty_sabes-still", len(still), text),)
    cursor = signals["cursor_pos"].time_ns
    period_ns = round((cursor[-1] - cursor[0]) / max(1, cursor.size - 1))
    domain = Intervals(cursor[:1], cursor[-1:] + period_ns)
    splits = division(_parts(domain, still), SET)
    return replace(
        session, signals=signals, info=info, intervals=intervals, repairs=repairs, notes=notes, splits=splits
    )


ENTRIES = (ODOHERTY_SABES,)
RULES = Rules("odoherty_sabes", 3, adjust=adjust, read=read, suffixes=(".mat",))


# ---- reading --------------------------------------------------------------------------------------------------------


class _Mat:
    """An open .mat file whose damage becomes one line for the user.

    Every value is read here: what is declared beyond all reason is refused before memory is taken for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Mat:
        from spiketok.sources.formats.nwb.hdf5 import open_hdf5, require_alone

        with self.guard("opening"):
            self.file = open_hdf5(self.path)
        try:
            require_alone(self.file, self.path.name)
        except SourceError:
            self.file.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self.guard("closing"):
            self.file.close()

    def refuse(self, fact: str) -> NoReturn:
        message = f"{self.path.name}: {fact}: {AGAIN}"
        raise SourceError(message)

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """The one place where what h5py raises on a file of another make becomes a line for the user."""
        try:
            yield
        except HDF5_ERRORS as error:
            if not isinstance(error, MemoryError):  # a damaged file asks for any memory
                raise_cause(error, self.path, SourceError)
            self.refuse(f"{doing} it as MATLAB v7.3 (HDF5) failed ({str(error)[:120]})")

    def item(self, name: str) -> object:
        """A member of the file, or None."""
        with self.guard(f"looking up '{name}' in"):
            return self.file.get(name)

    def values(self, item: object, name: str) -> np.ndarray:
        with self.guard(f"looking at '{name}' in"):
            is_array = isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype is not None
        if not is_array:
            self.refuse(f"'{name}' is no array")
        if item.size * item.dtype.itemsize > MOST_BYTES:
            self.refuse(f"'{name}' declares {item.size} values")
        with self.guard(f"reading '{name}' of"):
            return item[()]

    def references(self, name: str) -> np.ndarray:
        """A cell array's references as they are, ``[rows, columns]``."""
        cells = self.values(self.item(name), name)
        if h5py.check_ref_dtype(cells.dtype) is not h5py.Reference or cells.ndim != 2:
            fact = f"'{name}' is {cells.dtype} of shape {cells.shape}, expected references in two dimensions"
            self.refuse(fact)
        return cells

    def cell(self, reference: h5py.Reference, name: str) -> h5py.Dataset:
        with self.guard(f"following a cell of '{name}' in"):
            item = self.file[reference] if reference else None
        if not isinstance(item, h5py.Dataset):
            self.refuse(f"a cell of '{name}' refers to nothing")
        return item


def _read_units(mat: _Mat) -> tuple[UnitTable, Spikes, list[Finding]]:
    """Channel by channel, within it the unsorted unit first."""
    names = []
    for reference in mat.references("chan_names").reshape(-1):
        codes = mat.values(mat.cell(reference, "chan_names"), "chan_names")
        if codes.dtype.kind not in "iu" or not ((codes >= 32) & (codes < 127)).all():
            mat.refuse(f"'chan_names' holds {codes.dtype} that is no text")
        names.append("".join(map(chr, codes.reshape(-1).tolist())))
    cells = mat.references("spikes")
    if cells.shape[1] != len(names) or len(set(names)) != len(names):
        mat.refuse(f"'spikes' is of {cells.shape[1]} channels, {len(set(names))} different names are there")
    rows, times, n_empty, n_bad = [], [], 0, 0
    for channel, name in enumerate(names):
        for row in range(cells.shape[0]):
            cell = mat.cell(cells[row, channel], "spikes")
            with mat.guard("looking at a cell of 'spikes' in"):
                is_empty = "MATLAB_empty" in cell.attrs or cell.dtype.kind != "f"
            if is_empty:
                n_empty += 1
                continue
            seconds = mat.values(cell, "spikes").reshape(-1).astype(np.float64)
            good = np.abs(seconds) < LATEST_S  # NaN compares False
            n_bad += int((~good).sum())
            rows.append((name, row))
            times.append(ns_of(seconds[good]))
    if not sum(map(len, times)):
        mat.refuse(f"has {len(names)} channels and not one spike")
    columns = {
        "channel": np.array([name for name, _ in rows]),
        "region": np.array([name.split(" ")[0] for name, _ in rows]),
        "unit_number": np.array([row for _, row in rows], np.int64),
        "quality": np.array(["sorted" if row else "unsorted" for _, row in rows]),
    }
    notes = []
    text = f"{n_empty} of {cells.size} cells are empty: no unit is made of them"
    notes += [Finding("odoherty_sabes-empty", n_empty, text)] if n_empty else []
    n_unsorted = int((columns["unit_number"] == 0).sum())
    text = f"{n_unsorted} of {len(rows)} units are what sorting left over of a channel: kept, with quality 'unsorted'"
    notes += [Finding("odoherty_sabes-unsorted", n_unsorted, text)] if n_unsorted else []
    notes += [Finding("spikes-not-finite", n_bad, f"removed {n_bad} spike times that are no times")] if n_bad else []
    unit_id = np.array([f"{name}.{row or 'unsorted'}" for name, row in rows])
    return UnitTable(unit_id, columns), Spikes.from_units(times), notes


def _read_behaviour(mat: _Mat) -> dict[str, Signal]:
    seconds = mat.values(mat.item("t"), "t").reshape(-1)
    if seconds.dtype.kind != "f" or seconds.size < 2 or not (np.abs(seconds) < LATEST_S).all():
        mat.refuse(f"'t' holds {seconds.size} values of {seconds.dtype} that are not all times")
    time_ns = ns_of(seconds)
    if (np.diff(time_ns) <= 0).any():
        mat.refuse(f"the {time_ns.size} time stamps in 't' do not rise")

    def signal(name: str, rows: slice, components: tuple[str, ...], measure: str) -> Signal:
        data = mat.values(mat.item(name), name)
        if data.dtype.kind != "f" or data.ndim != 2 or data[rows].shape != (len(components), time_ns.size):
            fact = f"'{name}' is {data.dtype} of shape {data.shape}"
            mat.refuse(f"{fact}, expected {len(components)} rows of {time_ns.size} numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is marked so
            value = data[rows].T.astype(np.float32)
        valid = np.isfinite(value).all(axis=1)
        return Signal(time_ns, np.where(valid[:, None], value, np.float32(0)), components, measure, valid)

    flat = slice(0, 2)
    signals = {
        "cursor_pos": signal("cursor_pos", flat, ("x", "y"), "mm"),
        "target_pos": signal("target_pos", flat, ("x", "y"), "mm"),
        "finger_pos": signal("finger_pos", slice(0, 3), ("z", "-x", "-y"), "cm"),
    }
    if mat.item("finger_pos").shape[0] == 6:
        signals["finger_angles"] = signal("finger_pos", slice(3, 6), ("azimuth", "elevation", "roll"), "")
    return signals


# ---- division -------------------------------------------------------------------------------------------------------


def _still(velocity: Signal) -> Intervals:
    slow = np.linalg.norm(velocity.value.astype(np.float64), axis=1) < SLOW
    return longer_than(marked_segments(slow, velocity.time_ns), STILL_NS)


def _parts(domain: Intervals, still: Intervals) -> dict[str, Intervals]:
    """Ten blocks from the first to the last moment of movement, divided as the reference divides them."""
    moving = longer_than(without(domain, still), STILL_NS) if len(still) else domain
    if not len(moving):
        return {}
    border = ns_of(np.linspace(moving.start_ns[0] / NS_PER_S, moving.stop_ns[-1] / NS_PER_S, N_BLOCKS + 1))
    blocks = Intervals(border[:-1], border[1:])
    if not len(still):
        names = draw_torch_brain(N_BLOCKS, SHARES, seed=SEED)
        return {name: blocks.take(names == name) for name in ("train", "valid", "test")}
    share = np.array(
        [blocks.take(np.array([k])).intersect(moving).total_ns / (border[k + 1] - border[k]) for k in range(N_BLOCKS)]
    )
    # The reference shuffles rows of (block, share) and sorts them by share: only ties are drawn, and the test block is
    # the one with the largest share of movement.
    table = np.column_stack((np.arange(N_BLOCKS), share))
    np.random.default_rng(SEED).shuffle(table)
    order = table[table[:, 1].argsort()][:, 0].astype(int)
    chosen = {"train": order[:8], "valid": order[8:9], "test": order[9:]}
    return {name: _moving(blocks, np.sort(rows), still) for name, rows in chosen.items()}


def _moving(blocks: Intervals, rows: np.ndarray, still: Intervals) -> Intervals:
    """What is left of blocks without still periods, each block by itself: rests of up to 10 s are left out."""
    left = [longer_than(without(blocks.take(np.array([row])), still), STILL_NS) for row in rows]
    return Intervals(np.concatenate([part.start_ns for part in left]), np.concatenate([part.stop_ns for part in left]))
