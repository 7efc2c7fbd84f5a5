"""Binned counts and targets as FALCON's reference loader gives them, from a session of the store.

What is unusual: FALCON counts with ``numpy.histogram`` between float64 seconds, so that a spike on a bin's edge falls
by the last bits of both numbers. A session has whole nanoseconds. :func:`falcon_tensors` therefore has two readings:

- ``"reference"``: float64 seconds and ``numpy.histogram``, equal to ``load_nwb`` of falcon-challenge 1.0.2 but for the
  width of its counts (uint8 there, which wraps at 256). The seconds are those of the NWB file where ``source`` names
  it; without it they are ``ns / 1e9``, and spikes within a nanosecond of an edge may fall elsewhere: ``n_near_edge``
  counts them;
- ``"exact"``: whole nanoseconds, half-open bins, and for M2 the bins that its stamps really end (one ms later).

A bin after a gap holds its last 20 ms only; the last bin of the reference also takes a spike on its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import NS_PER_S, Session
from spiketok.storage.hdf5 import writing_hdf5

BIN_S, BIN_NS = 0.02, 20_000_000
TASKS = ("h1", "h2", "m1", "m2", "b1")
TARGETS = {"h1": "OpenLoopKinematicsVelocity", "m1": "preprocessed_emg", "m2": "finger_vel", "b1": "spectrogram"}
TAU_MS = 240.0
Reading = Literal["reference", "exact"]


@dataclass(frozen=True, eq=False)
class FalconTensors:
    """What the reference loader returns for a file, in its order.

    Args:
        task: ``"h1"``, ``"h2"``, ``"m1"``, ``"m2"`` or ``"b1"``.
        neural: int32 ``[T, N]`` counts of bins of 20 ms (B1: of samples of 1/30,000 s).
        target: float32 ``[T, C]``; B1 ``[frames, 158]``; H2 one int32 array of code points a trial.
        trial_change: bool ``[T]``. H1, M1, M2: the first bin of a trial; H2 and B1: the last.
        eval_mask: bool ``[T]``; B1 ``[frames, 158]``.
        n_near_edge: spikes within 1 ns of an edge, where neither the file's seconds nor exact reading decide.
    """

    task: str
    neural: np.ndarray
    target: np.ndarray | tuple[np.ndarray, ...]
    trial_change: np.ndarray
    eval_mask: np.ndarray
    n_near_edge: int = 0


def task_of(session: Session) -> str:
    """Which of FALCON's tasks a session is of.

    Raises:
        DataError: of none.
    """
    for task, target in TARGETS.items():
        if target in session.signals:
            return task
    if session.observed_source == "bins" and session.trials is not None and "cue" in session.trials.columns:
        return "h2"
    message = (
        f"{session.id} has no target of FALCON ({', '.join(TARGETS.values())}, or trials with a cue): "
        "ingest it by the rules 'falcon'"
    )
    raise DataError(message)


def falcon_tensors(session: Session, source: Path | None = None, reading: Reading = "reference") -> FalconTensors:
    """A session's bins, targets, trial changes and scored samples.

    Args:
        session: of one of the six sets, ingested by the rules ``falcon``.
        source: its NWB file, for the very seconds that the reference compares; used by M1, M2 and H1 only.
        reading: see the module.

    Raises:
        UsageError: no such reading. DataError: the session lacks a part, or does not fit its source.
    """
    if reading not in ("reference", "exact"):
        message = f"reading is '{reading}', must be 'reference' or 'exact'"
        raise UsageError(message)
    task = task_of(session)
    if task == "h2":
        return _h2(session)
    if task == "b1":
        return _b1(session, reading)
    target, mask = session.signals[TARGETS[task]], _signal(session, "eval_mask")
    if not np.array_equal(target.time_ns, mask.time_ns):
        message = f"{session.id}: '{TARGETS[task]}' and 'eval_mask' differ in time"
        raise DataError(message)
    near = 0
    if reading == "exact":
        neural, stamp, start = _exact_counts(session, task), target.time_ns, _trial_start_ns(session)
    else:
        seconds = _seconds(session, task) if source is None else _source_seconds(session, task, Path(source))
        neural, doubtful = _reference_counts(session, task, seconds)
        near, stamp, start = doubtful if source is None else 0, seconds.stamp, seconds.trial_start
    if task == "h1":
        change = np.append(False, np.diff(_signal(session, "TrialNum").value[:, 0]) > 0)
    else:
        change = _trial_starts(session, stamp, start)
    return FalconTensors(task, neural, target.value, change, mask.value[:, 0] != 0, near)


def _signal(session: Session, name: str):
    if name not in session.signals:
        message = f"{session.id} has no signal '{name}' (it has {', '.join(session.signals) or 'none'})"
        raise DataError(message)
    return session.signals[name]


# ---- bins -----------------------------------------------------------------------------------------------------------


def bin_edges(end: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bins that end at given times, and which of the bins between them count.

    Args:
        end: float64 seconds or int64 ns ``[T]``, rising.
        width: of a bin, in the same measure.

    Returns:
        edges ``[K + 1]`` and bool ``[K]``, T of which are True: what is between a gap's bins is counted apart.
    """
    step = np.diff(end)
    if end.dtype.kind == "f":
        gap = (step > width) & ~np.isclose(step, width)
    else:
        gap = step > width + 1000  # stamps are rounded; a true gap is a millisecond at least
    at = np.flatnonzero(gap) + 1
    edges = np.insert(end, at, end[at] - width)
    counts = np.insert(np.ones(end.size, np.bool_), at, False)
    return np.concatenate([[end[0] - width], edges]), counts


def _histogram(times: list[np.ndarray], edges: np.ndarray, counts: np.ndarray, closed: bool) -> np.ndarray:
    """Counts int32 ``[T, N]`` of each unit's times; the last bin with its end where ``closed``."""
    out = np.zeros((int(counts.sum()), len(times)), np.int32)
    for unit, own in enumerate(times):
        ordered = np.sort(own)
        place = np.searchsorted(ordered, edges, side="left")
        if closed:
            place[-1] = np.searchsorted(ordered, edges[-1], side="right")
        out[:, unit] = np.diff(place)[counts]
    return out


def _times_ns(session: Session) -> list[np.ndarray]:
    """int64 ns of each unit's spikes."""
    order = np.argsort(session.spikes.unit, kind="stable")
    stop = np.cumsum(np.bincount(session.spikes.unit, minlength=len(session.units)))
    return np.split(session.spikes.time_ns[order], stop[:-1])


def _exact_counts(session: Session, task: str) -> np.ndarray:
    """Counts by whole ns, in half-open bins."""
    end_ns = session.signals[TARGETS[task]].time_ns
    if task == "m2":
        if (int(end_ns[0]) + 1_000_000) % BIN_NS:
            message = (
                f"{session.id}: the first stamp is at {end_ns[0] / NS_PER_S:g} s, not on the last ms of a bin of "
                "20 ms, so where its bins end is not known: use reading='reference'"
            )
            raise DataError(message)
        end_ns = end_ns + 1_000_000
    return _histogram(_times_ns(session), *bin_edges(end_ns, BIN_NS), closed=False)


def _reference_counts(session: Session, task: str, seconds: _Seconds) -> tuple[np.ndarray, int]:
    """Counts by float64 seconds, and how many spikes lie within 1 ns of an edge."""
    edges, counts = bin_edges(seconds.stamp + BIN_S if task == "m2" else seconds.stamp, BIN_S)
    neural = _histogram(seconds.spikes, edges, counts, closed=True)
    edge_ns, time_ns = np.sort(np.rint(edges * NS_PER_S).astype(np.int64)), session.spikes.time_ns
    above = np.clip(np.searchsorted(edge_ns, time_ns), 1, edge_ns.size - 1)
    away = np.minimum(np.abs(time_ns - edge_ns[above]), np.abs(time_ns - edge_ns[above - 1]))
    return neural, int((away <= 1).sum())


# ---- seconds --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Seconds:
    """float64 seconds of each unit's spikes, of the target's samples and of the trials' starts (H1 has none)."""

    spikes: list[np.ndarray]
    stamp: np.ndarray
    trial_start: np.ndarray


def _seconds(session: Session, task: str) -> _Seconds:
    """What a session knows of the seconds in its file: its nanoseconds, through the arithmetic of the file's writer."""
    target = session.signals[TARGETS[task]]
    stamp_s = target.time_ns / 1e9
    if task == "h1":
        stamp_s = stamp_s[0] + np.arange(stamp_s.size) * (1 / (target.rate_hz or 1 / BIN_S))
    start_ns = _trial_start_ns(session)
    start_s = start_ns * 1e-9 if task == "m1" else start_ns / 1e9  # M1's writer multiplies whole ns by 1e-9
    return _Seconds([own / 1e9 for own in _times_ns(session)], stamp_s, start_s)


def _source_seconds(session: Session, task: str, source: Path) -> _Seconds:
    """The seconds as they are in the NWB file; each must round to the session's nanoseconds."""
    from spiketok.sources.formats.nwb.hdf5 import Hdf5
    from spiketok.sources.formats.nwb.tables import Findings
    from spiketok.sources.formats.nwb.units import find_units, spike_seconds

    target, n_units = session.signals[TARGETS[task]], len(session.units)
    with Hdf5(source) as h5:
        found = Findings()
        table, acquired = find_units(h5, "", found), h5.group(h5.root, "acquisition")
        if table is None or acquired is None:
            h5.refuse(f"has no units or no series, {session.id} has both", "name the file that it was made of")
        seconds, offset = spike_seconds(h5, table[0], n_units, found)
        if task == "h1":
            kinematics = h5.group(acquired, "OpenLoopKinematics")
            rate = h5.number_attr(h5.dataset(kinematics, "starting_time"), "rate")
            first_s = h5.number_attr(h5.dataset(kinematics, "data"), "offset") or 0.0
            stamp_s = first_s + np.arange(target.time_ns.size) * rate
        else:  # the reference keeps the stamps of M1's first series and of M2's last
            series = h5.group(acquired, TARGETS[task], target.components[0 if task == "m1" else -1])
            stamp_s = h5.array(h5.dataset(series, "timestamps")).astype(np.float64)
        trials = h5.group(h5.root, "intervals", "trials")
        start_s = np.zeros(0) if trials is None else h5.array(h5.dataset(trials, "start_time")).astype(np.float64)
    same = np.array_equal(np.rint(stamp_s * NS_PER_S).astype(np.int64), target.time_ns)
    if not same or not np.array_equal(np.sort(np.rint(seconds * NS_PER_S).astype(np.int64)), session.spikes.time_ns):
        message = f"{source.name} has other times than {session.id}: name the file that it was made of"
        raise DataError(message)
    return _Seconds(np.split(seconds, offset[1:-1]), stamp_s, start_s)


def _trial_start_ns(session: Session) -> np.ndarray:
    return np.zeros(0, np.int64) if session.trials is None else session.trials.start_ns


def _trial_starts(session: Session, stamp: np.ndarray, start: np.ndarray) -> np.ndarray:
    """M1 and M2: True in the first sample at or after each trial's start, both in seconds or both in ns.

    Raises:
        DataError: there are no trials, or one starts after the last sample, where the reference fails.
    """
    place, change = np.searchsorted(stamp, start), np.zeros(stamp.size, np.bool_)
    late = np.flatnonzero(place == change.size)
    if late.size or not place.size:
        fact = f"trial {late[0]} of {place.size} starts after the last sample" if late.size else "there are no trials"
        message = f"{session.id}: {fact}, so there is no trial_change"
        raise DataError(message)
    change[place] = True
    return change


# ---- sets without units ---------------------------------------------------------------------------------------------


def _h2(session: Session) -> FalconTensors:
    """Counts as they were read; a trial ends where the next stamp is more than 21 ms away, and at the end."""
    mask = _signal(session, "eval_mask")
    stamp_ns = mask.time_ns
    place = np.searchsorted(stamp_ns, session.spikes.time_ns)
    place = np.minimum(place, stamp_ns.size - 1)
    if not np.array_equal(stamp_ns[place], session.spikes.time_ns):
        message = f"{session.id}: 'eval_mask' does not stand at the bins of the counts"
        raise DataError(message)
    neural = np.zeros((stamp_ns.size, len(session.units)), np.int32)
    np.add.at(neural, (place, session.spikes.unit), 1)
    target = tuple(np.array([ord(c) for c in cue], np.int32) for cue in session.trials.columns["cue"].tolist())
    change = np.append(np.diff(stamp_ns) > 21_000_000, True)
    return FalconTensors("h2", neural, target, change, mask.value[:, 0] != 0)


def _b1(session: Session, reading: Reading) -> FalconTensors:
    """Samples at the recording's rate; spectrograms frame by frame."""
    trials, rate_hz = session.trials, session.clock_hz
    if trials is None or session.observed_source != "bins" or rate_hz is None:
        message = f"{session.id}: B1 needs trials and counts of samples, which this session was not made of"
        raise DataError(message)
    observed = session.observed
    length = np.rint((observed.stop_ns - observed.start_ns) * rate_hz / NS_PER_S).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(length)])
    run = np.searchsorted(observed.start_ns, session.spikes.time_ns, side="right") - 1
    within = np.rint((session.spikes.time_ns - observed.start_ns[run]) * rate_hz / NS_PER_S).astype(np.int64)
    neural = np.zeros((int(first[-1]), len(session.units)), np.int32)
    np.add.at(neural, (first[run] + within, session.spikes.unit), 1)
    target, mask = session.signals["spectrogram"], _signal(session, "spectrogram_eval_mask")
    scored = np.broadcast_to(mask.value != 0, target.value.shape).copy()
    return FalconTensors("b1", neural, target.value, _b1_changes(session, neural.shape[0], reading), scored)


def _b1_changes(session: Session, n_samples: int, reading: Reading) -> np.ndarray:
    """The sample at each trial's stop; the reference finds it by its estimate of the rate, and loses a few by one.

    Raises:
        DataError: it is after the last sample, where the reference fails.
    """
    clock_hz = session.clock_hz
    start, stop = (np.rint(t * clock_hz / NS_PER_S) for t in (session.trials.start_ns, session.trials.stop_ns))
    place, rate = (stop - start[0]).astype(np.int64), clock_hz
    if reading == "reference":
        start_s, stop_s = start / clock_hz, stop / clock_hz  # the writer divides sample numbers by the rate
        length_s = round(float(stop_s[0] - start_s[0]), 1)
        rate = int(n_samples // len(start_s) / length_s) if length_s else 0
        place = ((stop_s - start_s[0]) * rate).astype(np.int64)
    if not rate or (place >= n_samples).any():
        message = f"{session.id}: trials end at sample {place.max()} of {n_samples} (at {rate:g} samples a second)"
        raise DataError(message)
    change = np.zeros(n_samples, np.bool_)
    change[place] = True
    return change


# ---- what baselines do with them ------------------------------------------------------------------------------------


def smooth_causal(counts: np.ndarray, tau_ms: float = TAU_MS, bin_ms: float = 20.0, extent: int = 1) -> np.ndarray:
    """Counts under FALCON's causal exponential: weights ``exp(-t / tau)`` for t below ``extent * tau``, sum 1.

    Args:
        counts: ``[T, N]``. tau_ms, bin_ms: milliseconds. extent: how many tau the kernel reaches back (1 in the
            reference's decoders, 3 in the original).

    Returns:
        float64 ``[T, N]``; what is before the first bin counts as zero.
    """
    counts = np.asarray(counts)
    if counts.ndim != 2:
        message = f"counts have {counts.ndim} dimensions, expected bins x units"
        raise DataError(message)
    kernel = np.exp(-np.arange(0, extent * tau_ms, bin_ms) / tau_ms)
    kernel /= kernel.sum()
    out = np.zeros(counts.shape)
    for back, weight in enumerate(kernel[: len(counts)]):
        out[back:] += weight * counts[: len(counts) - back]
    return out


def standardize(values: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
    """Z-scores ``[T, N]`` by the mean and the deviation of ``by`` (the training part, without NaN; else of all).

    A unit whose deviation is zero is divided by 1, as FALCON's decoders do.
    """
    by = values if by is None else by
    deviation = np.nanstd(by, axis=0)
    return (values - np.nanmean(by, axis=0)) / np.where(deviation == 0, 1, deviation)


# ---- files ----------------------------------------------------------------------------------------------------------


def write_falcon(
    session: Session, out: Path, *, source: Path | None = None, reading: Reading = "reference"
) -> FalconTensors:
    """Write a session's tensors as ``.npz`` or ``.h5``: neural_data, targets, trial_change, eval_mask and facts.

    Args:
        session, source, reading: see :func:`falcon_tensors`.
        out: the file, which is replaced; H2's targets are ``targets`` one after another and ``targets_offset``.

    Raises:
        UsageError: another ending. DataError: see :func:`falcon_tensors`.
    """
    from spiketok.storage.files import atomic_file

    out = Path(out)
    if out.suffix not in (".npz", ".h5"):
        message = f"{out.name}: FALCON's tensors are written as .npz or .h5"
        raise UsageError(message)
    made = falcon_tensors(session, source, reading)
    arrays = {"neural_data": made.neural, "trial_change": made.trial_change, "eval_mask": made.eval_mask}
    if isinstance(made.target, tuple):
        arrays["targets"] = np.concatenate([np.zeros(0, np.int32), *made.target])
        arrays["targets_offset"] = np.cumsum([0, *map(len, made.target)])
    else:
        arrays["targets"] = made.target
    facts = {
        "session": session.id, "task": made.task, "role": session.info.get("falcon_role", ""), "reading": reading,
        "source_sha256": session.source.sha256, "n_near_edge": str(made.n_near_edge),
    }  # fmt: skip
    with atomic_file(out) as wip:
        if out.suffix == ".npz":
            with open(wip, "wb") as stream:
                np.savez_compressed(stream, **arrays, **{name: np.array(fact) for name, fact in facts.items()})
        else:
            _write_h5(wip, arrays, facts)
    return made


def _write_h5(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, str]) -> None:

    with writing_hdf5(path, track_order=False) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", track_times=False)
        file.attrs.update(facts)
