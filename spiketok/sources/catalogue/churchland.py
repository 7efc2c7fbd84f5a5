"""Churchland & Shenoy: motor and premotor cortex of two macaques in a maze task (DANDI 000070).

What is unusual: the clock restarts inside some files. Trials, time stamps and each unit's spikes then step back, in the
order of the file; the generic reader can only sort spikes and drop samples. Here the file is read once more and its
blocks are laid one after the other, 60 s apart, as torch_brain's pipeline ``churchland_shenoy_neural_2012`` (0.2.1)
does. That pipeline silently drops units whose spikes do not fall into as many rising runs as there are blocks, and two
overlapping trials; here both are kept, marked and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from spiketok.recording.draws import division, draw_torch_brain, labelled
from spiketok.recording.intervals import marked_segments, ns_of, without
from spiketok.recording.merging import merge_units
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session, Signal, Spikes
from spiketok.recording.signals import derivative
from spiketok.recording.steps import with_step_reach
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules, filler_note, open_source, without_fillers

SET = "churchland"
SEED = 42
# what the generic reader says of times on a clock that restarts, and what is true no more
OF_THE_OLD_TIME = ("spikes-unsorted", "spikes-duplicate", "spikes-unobserved", "spikes-after-end", "signal-times")
LATEST_S = 9.2e9  # what int64 ns can hold
LEAST = 3  # trials; no more cannot be divided in three
BETWEEN_NS = 60 * NS_PER_S  # from the end of a block to the start of the next
FASTEST, GROW_FAST = 80000.0, 50  # norm of the cursor's acceleration beyond which it is an outlier; samples of dilation
WEIGHTS = {"hold": 0.1, "reach": 5.0, "return": 1.0, "outlier": 1.0}
TIME_COLUMNS = ("target_presentation_time", "go_cue_time", "move_begins_time", "move_ends_time")

REFERENCE = "torch_brain 0.2.1, pipeline churchland_shenoy_neural_2012; weights: torch_brain examples/poyo"

CHURCHLAND = Dataset(
    name="churchland",
    aliases=("churchland_shenoy_neural_2012",),
    title="Churchland-Shenoy: macaque M1 and PMd, delayed reaching through mazes, whole sessions",
    dandiset="000070",
    version="0.251218.1714",
    license="CC-BY-4.0",
    doi="10.48324/dandi.000070/0.251218.1714",
    citation=(
        "Churchland, Mark; Cunningham, John P.; Kaufman, Matthew T.; Foster, Justin D.; Nuyujukian, Paul; Ryu, Stephen "
        "I.; Shenoy, Krishna V. Neural population dynamics during reaching (Version 0.251218.1714) [Data set]. "
        "DANDI Archive. https://doi.org/10.48324/dandi.000070/0.251218.1714"
    ),
    bytes=None,
    files=None,
    species="Rhesus monkey",
    subjects=("Jenkins", "Nitschke"),
    regions=("M1", "PMd"),
    recording="threshold crossings",
    units="1,911 in 10 sessions, 192 a session at most",
    behaviours=("Cursor", "Hand", "Eye", "cursor_vel", "cursor_acc", "hand_vel", "hand_acc"),
    splits="70/10/20 % of successful trials, seed 42; failures join train",
    notes=(
        "behaviour at 1 kHz within trials only; velocity and acceleration are derived within each of them",
        "a draft of 9 files had 45.9 GB, LFP without usable time stamps among them; this version's size is not known",
        "units are observed in trials only (obs_intervals)",
    ),
    rules="churchland",
    reference=REFERENCE,
    quirks=(
        Quirk(
            "churchland-clock",
            "the clock restarts inside a file: its blocks are laid one behind the other, 60 s apart (times of trials, "
            "spikes, stamps and observed time; the column clock_block says which)",
            REFERENCE,
        ),
        Quirk(
            "churchland-units-unmatched",
            "spikes of some units do not rise once in each block: kept, each run in the block that holds most of it, "
            "and the unit is marked in the column clock_matched; the reference drops the unit without a word",
            REFERENCE,
        ),
        Quirk(
            "churchland-overlap",
            "trials that overlap the one before them (two in Nitschke 20090910 and 20090920) are kept, marked in the "
            "column overlaps and left out of the division; the reference drops them",
            REFERENCE,
        ),
        Quirk(
            "churchland-derivatives",
            "velocity and acceleration are derived within contiguous stretches, never over a gap",
            REFERENCE,
        ),
    ),
)


def adjust(session: Session, path: Path) -> Session:
    """Blocks laid one after the other, derivatives, valid trials, phases with weights, the division ``churchland``."""
    trials = session.trials
    if trials is None or not len(trials):
        text = "no trials: clock blocks cannot be told, no division is made"
        return replace(session, notes=(*session.notes, Finding("churchland-no-split", 1, text)))
    overlaps = _overlapping(trials)
    blocks = _find_blocks(trials, overlaps)
    with open_source(path) as file:
        if "units/spike_times" not in file:
            text = "no spike times of units: whether its clock restarts is not looked at, no division is made"
            return replace(session, notes=(*session.notes, Finding("churchland-no-split", 1, text)))
        if len(blocks.first_ns) > 1:
            session = _respaced(session, file, blocks)
        else:
            rise = [bool((np.diff(time_ns) >= 0).all()) for time_ns in _unit_times(file, len(session.units))]
            session = _with_matched(session, np.array(rise))
    session = _with_derivatives(session)
    session = _with_tables(session, overlaps, blocks.of_trial)
    return _with_division(session, overlaps)


ENTRIES = (CHURCHLAND,)
RULES = Rules("churchland", 2, adjust=adjust, mends_clocks=True)


# ---- blocks of the clock --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """The stretches of a file between restarts of its clock; K of them.

    Args:
        first_ns, last_ns: int64 ``[K]``, first start and last stop of a block's trials, on the file's clock.
        shift_ns: int64 ``[K]``, what is added to every time of the block.
        of_trial: int64 ``[I]``, the block of each trial.
    """

    first_ns: np.ndarray
    last_ns: np.ndarray
    shift_ns: np.ndarray
    of_trial: np.ndarray

    def place(self, run_ns: np.ndarray, least: int) -> int:
        """The block from ``least`` on that holds most of a run's times; of equals the first."""
        held = [
            int(((run_ns >= low) & (run_ns <= high)).sum())
            for low, high in zip(self.first_ns[least:], self.last_ns[least:], strict=True)
        ]
        return least + int(np.argmax(held)) if held else len(self.first_ns) - 1

    def holds(self, block: int, run_ns: np.ndarray) -> bool:
        return bool(((run_ns >= self.first_ns[block]) & (run_ns <= self.last_ns[block])).all())


def _overlapping(trials: Intervals) -> np.ndarray:
    """Both of each two neighbours that overlap without a restart of the clock, bool ``[I]``."""
    start = trials.start_ns
    early = (start[1:] >= start[:-1]) & (start[1:] < trials.stop_ns[:-1])
    return np.concatenate([early, [False]]) | np.concatenate([[False], early])


def _find_blocks(trials: Intervals, overlaps: np.ndarray) -> Blocks:
    restart = np.concatenate([[False], trials.start_ns[1:] < trials.start_ns[:-1]])
    of_trial = np.cumsum(restart)
    rows = [np.flatnonzero(of_trial == block) for block in range(of_trial[-1] + 1)]
    # A block is bounded by trials that do not overlap, as the reference bounds it, where there are such.
    sound = [block[~overlaps[block]] if (~overlaps[block]).any() else block for block in rows]
    first = np.array([trials.start_ns[block[0]] for block in sound])
    last = np.array([trials.stop_ns[block[-1]] for block in sound])
    shift, end = np.zeros(len(rows), np.int64), last[0]
    for block in range(1, len(rows)):
        shift[block] = end + BETWEEN_NS - first[block]
        end = last[block] + shift[block]
    return Blocks(first, last, shift, of_trial)


def _unit_times(file: h5py.File, n_units: int) -> Iterator[np.ndarray]:
    """Each unit's spikes in the order of the file, one unit after the other; times that are none are left out."""
    seconds = file["units/spike_times"]
    index = file.get("units/spike_times_index")
    stop = np.arange(1, n_units + 1) if index is None else index[:].astype(np.int64)
    for low, high in zip([0, *stop[:-1].tolist()], stop.tolist(), strict=True):
        unit_s = seconds[low:high]
        yield ns_of(unit_s[np.abs(unit_s) < LATEST_S])  # NaN compares False


def _moved(time_ns: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, bool]:
    """A stream on the new time, and whether it rose once in each block, inside of it, as the reference demands.

    A stream of another make is laid run by run where most of a run lies, each in the block of the one before it or in a
    later one. None of it is lost.
    """
    runs = np.split(time_ns, np.flatnonzero(np.diff(time_ns) < 0) + 1) if time_ns.size else []
    if len(runs) <= len(blocks.first_ns) and all(blocks.holds(k, run) for k, run in enumerate(runs)):
        return _joined([run + blocks.shift_ns[k] for k, run in enumerate(runs)]), True
    moved, least = [], 0
    for run in runs:
        least = blocks.place(run, least)
        moved.append(run + blocks.shift_ns[least])
    return _joined(moved), False


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _moved_spikes(file: h5py.File, blocks: Blocks, n_units: int) -> tuple[Spikes, np.ndarray]:
    """All spikes on the new time, and which units fit; unit by unit, so that hundreds of millions fit in memory."""
    time_ns, offset, matched = np.empty(file["units/spike_times"].size, np.int64), [0], []
    for unit_ns in _unit_times(file, n_units):
        moved, fits = _moved(unit_ns, blocks)
        time_ns[offset[-1] : offset[-1] + moved.size] = moved
        offset.append(offset[-1] + moved.size)
        matched.append(fits)
    return Spikes(*merge_units(time_ns[: offset[-1]], np.array(offset))), np.array(matched)


def _respaced(session: Session, file: h5py.File, blocks: Blocks) -> Session:
    """The session with all its times on the new, rising time."""
    spikes, matched = _moved_spikes(file, blocks, len(session.units))
    trials, shift = session.trials, blocks.shift_ns[blocks.of_trial]
    columns = dict(trials.columns)
    for name in TIME_COLUMNS:
        if name in columns:
            columns[name] = columns[name] + shift / NS_PER_S
    trials = Intervals(trials.start_ns + shift, trials.stop_ns + shift, columns)
    signals, notes = _respaced_signals(session, file, blocks)
    observed, more = _respaced_observed(session, file, trials)
    text = (
        f"the clock restarts {len(blocks.first_ns) - 1} times: {len(blocks.first_ns)} blocks are laid one behind the "
        f"other, {BETWEEN_NS // NS_PER_S} s apart"
    )
    inside = np.searchsorted(spikes.time_ns, observed.stop_ns) - np.searchsorted(spikes.time_ns, observed.start_ns)
    outside = len(spikes) - int(inside.sum())
    unobserved = Finding("spikes-unobserved", outside, f"{outside} spikes lie outside of the trials; kept")
    more += (unobserved,) if outside else ()
    repairs = tuple(one for one in session.repairs if one.id not in OF_THE_OLD_TIME)
    kept = tuple(one for one in session.notes if one.id not in OF_THE_OLD_TIME)
    ends = [session.start_ns, trials.start_ns.min(), observed.start_ns[0], *spikes.time_ns[:1]]
    stops = [trials.stop_ns.max(), observed.stop_ns[-1], *(spikes.time_ns[-1:] + 1)]
    session = replace(
        session,
        start_ns=int(min(ends)),
        stop_ns=int(max(stops)),
        spikes=spikes,
        observed=observed,
        unit_observed=None,
        intervals={**session.intervals, "trials": trials},
        signals=signals,
        repairs=(*repairs, Finding("churchland-clock", len(blocks.first_ns) - 1, text)),
        notes=kept + notes + more,
    )
    return _with_matched(session, matched)


def _respaced_signals(
    session: Session, file: h5py.File, blocks: Blocks
) -> tuple[dict[str, Signal], tuple[Finding, ...]]:
    """Every position series anew from the file, its stamps on the new time."""
    signals, notes = dict(session.signals), []
    for name, group in file.get("processing/behavior/Position", {}).items():
        if name not in session.signals or "timestamps" not in group:
            continue  # no series of its own name, or one with a rate, whose stamps cannot step back
        data, stamps = group["data"], ns_of(group["timestamps"][:])
        moved, matched = _moved(stamps, blocks)
        value = data[:].reshape(moved.size, -1) * float(data.attrs.get("conversion", 1.0))
        order = np.argsort(moved, kind="stable")
        keep = order[np.concatenate([[True], np.diff(moved[order]) > 0])]  # of samples at one time the first
        if not matched or keep.size < moved.size:
            text = (
                f"{name}: stamps do not rise once in each of {len(blocks.first_ns)} blocks; laid where most of a run "
                f"lies, {moved.size - keep.size} of {moved.size} samples at the time of another are left out"
            )
            notes.append(Finding("churchland-stamps-unmatched", moved.size - keep.size, text))
        value, finite = value[keep].astype(np.float32), np.isfinite(value[keep]).all(axis=1)
        before = session.signals[name]
        signals[name] = replace(
            before, time_ns=moved[keep], value=np.where(finite[:, None], value, np.float32(0)), valid=finite
        )
    return signals, tuple(notes)


def _respaced_observed(session: Session, file: h5py.File, trials: Intervals) -> tuple[Intervals, tuple[Finding, ...]]:
    """Observed time: the trials, which the units' obs_intervals repeat row for row."""
    stated = file["units/obs_intervals"][:] if "obs_intervals" in file["units"] else np.zeros((0, 2))
    trial_s = np.stack([file["intervals/trials/start_time"][:], file["intervals/trials/stop_time"][:]], axis=1)
    repeats = stated.shape == (len(session.units) * len(trial_s), 2) and np.allclose(
        stated.reshape(-1, *trial_s.shape), trial_s[None], rtol=0, atol=1e-6
    )
    if repeats:
        return trials.union(), ()
    text = "obs_intervals are not the trials, as in the other files: the trials are taken as observed, in all units"
    return trials.union(), (Finding("churchland-observed", len(stated), text),)


def _with_matched(session: Session, matched: np.ndarray) -> Session:
    count = int((~matched).sum())
    units = replace(session.units, columns={**session.units.columns, "clock_matched": matched})
    if not count:
        return replace(session, units=units)
    text = (
        f"the spikes of {count} of {matched.size} units do not rise once in each block of the clock: kept, laid run by "
        "run where most of a run lies, marked in the column clock_matched"
    )
    return replace(session, units=units, notes=(*session.notes, Finding("churchland-units-unmatched", count, text)))


# ---- behaviour, trials, division ------------------------------------------------------------------------------------


def _with_derivatives(session: Session) -> Session:
    signals, derived, info = dict(session.signals), [], session.info
    for source, name in (("Cursor", "cursor"), ("Hand", "hand")):
        if source in session.signals:
            for word, order in (("vel", 1), ("acc", 2)):
                made, before = f"{name}_{word}", session.signals[source]
                step = {"name": made, "function": "derivative", "signal": source, "arguments": {"order": order}}
                signals[made], info = derivative(before, order), with_step_reach(info, step, before)
                derived.append(made)
    if not derived:
        return session
    text = f"derived within contiguous stretches: {', '.join(derived)}"
    finding = Finding("churchland-derivatives", len(derived), text)
    return replace(session, signals=signals, info=info, repairs=(*session.repairs, finding))


def _is_valid(trials: Intervals) -> np.ndarray:
    """Successful trials that are not to be discarded."""
    columns = trials.columns
    kept = columns.get("discard_trial", np.zeros(len(trials))) == 0
    return kept & (columns.get("task_success", np.zeros(len(trials))) == 1)


def _with_tables(session: Session, overlaps: np.ndarray, block: np.ndarray) -> Session:
    trials, notes = session.trials, session.notes
    is_valid = _is_valid(trials) & ~overlaps
    columns = {**trials.columns, "is_valid": is_valid, "overlaps": overlaps, "clock_block": block}
    tables = {**session.intervals, "trials": Intervals(trials.start_ns, trials.stop_ns, columns)}
    if overlaps.any():
        text = f"{int(overlaps.sum())} trials overlap a neighbour: kept, left out of the division"
        notes += (Finding("churchland-overlap", int(overlaps.sum()), text),)
    phases, n_fillers = _phases(trials, is_valid, session.id)
    session = filler_note(replace(session, notes=notes), n_fillers, TIME_COLUMNS)
    if phases is not None and "cursor_acc" in session.signals:
        acceleration = session.signals["cursor_acc"]
        outliers = _outliers(acceleration)
        parts = {name: without(time, outliers) for name, time in phases.items()} | {"outlier": outliers}
        table = labelled(parts)
        weight = np.array([WEIGHTS[name] for name in table.columns["name"].tolist()], np.float64)
        tables["phases"] = Intervals(table.start_ns, table.stop_ns, {**table.columns, "weight": weight})
    return replace(session, intervals=tables)


def _phases(trials: Intervals, is_valid: np.ndarray, session_id: str) -> tuple[dict[str, Intervals] | None, int]:
    """What the animal does in valid trials (None where the times for it are lacking), and how many are fillers."""
    if not set(TIME_COLUMNS) <= set(trials.columns):
        return None, 0
    found, n_fillers = without_fillers(trials, TIME_COLUMNS, session_id)
    shown, go, begins, ends = found.values()
    stop_s = trials.stop_ns / NS_PER_S

    def between(start_s: np.ndarray, end_s: np.ndarray) -> Intervals:
        rows = is_valid & (start_s < end_s)  # NaN compares False
        return Intervals(ns_of(start_s[rows]), ns_of(end_s[rows]))

    return {"hold": between(shown, go), "reach": between(begins, ends), "return": between(ends, stop_s)}, n_fillers


def _outliers(acceleration: Signal) -> Intervals:
    from scipy.ndimage import binary_dilation

    fast = np.linalg.norm(acceleration.value.astype(np.float64), axis=1) > FASTEST
    return marked_segments(binary_dilation(fast, np.ones(GROW_FAST, np.bool_)), acceleration.time_ns)


def _with_division(session: Session, overlaps: np.ndarray) -> Session:
    trials = session.trials
    is_valid = trials.columns["is_valid"]
    successful = trials.take(is_valid)
    if len(successful) <= LEAST:
        text = f"{len(successful)} successful trials are too few to divide: no division is made"
        return replace(session, notes=(*session.notes, Finding("churchland-no-split", len(successful), text)))
    names = draw_torch_brain(len(successful), seed=SEED)
    parts = {name: successful.take(names == name) for name in ("train", "valid", "test")}
    failed = trials.take(~is_valid & ~overlaps)
    train = labelled({"drawn": parts["train"], "failed": failed})
    return replace(session, splits=division({**parts, "train": train.union()}, SET))
