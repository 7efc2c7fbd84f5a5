"""The windows and targets of BrainWideBench, of a session that the rules ``ibl_bwb`` made: numpy only.

    TS1   seven behaviours: one window of a second a trial; see :func:`task_windows`
    TS2   windows of 50 bins of 20 ms with the counts of all units; see :func:`population_windows`
    TS3   units with a region, their ISI histograms; see :func:`scored_units`

What is unusual: seconds are the file's own float64, because the scorer matches windows by equality to the last bit. The
tables of the session keep them. The starts of TS2 are those of ``torch.arange``, which adds in one rounding where the
processor has AVX2 (``fused``) and in two elsewhere. Reference: ibl-bwb at 3c8cee9 and torch_brain 0.2.1, reference/bwb.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from spiketok.errors import DataError, UnknownNameError
from spiketok.recording.nouns import NS_PER_S, Intervals, Session

ALIGNED = "task_aligned_intervals"
# each task of TS1: the table of its windows, the series that its values are of, and the column of its label
TASKS = {
    "choice": ("choice", "", "choice"),
    "reward": ("reward", "", "reward"),
    "stimulus_contrast": ("stimulus_contrast", "", "stimulus_contrast"),
    "whisker_motion_energy": ("movement_window", "whisker", ""),
    "wheel_speed": ("movement_window", "wheel", ""),
    "right_paw_speed": ("movement_window", "paws", ""),
    "left_paw_speed": ("movement_window", "paws", ""),
    "licking_rate": ("licking_window", "licks", ""),
}
N_CLASSES = {"choice": 2, "reward": 2, "stimulus_contrast": 5}
COUNTS = "licking_rate"  # the task whose target is a count a bin
CONFIDENT = {"right_paw_speed": "num_right_paw_confident", "left_paw_speed": "num_left_paw_confident"}
SPLITS = ("train", "val", "test")
REGIMES = ("ts1", "pretrain")  # the sets that hold the splits of TS1: of eval files, of pretraining files
WINDOW_S, RATE_HZ, N_SAMPLES = 1.0, 50.0, 50
BIN_S, N_BINS = 0.02, 50
STRIDE = {"val": 3, "test": 1}  # bins between the starts of TS2
N_FORECAST = 5  # bins
HELD_OUT_SHARE = 0.1  # of the units, in co-smoothing
GRID_SLACK = 1e-9  # of a sample: torch_brain's
REGIONS = ("CB", "CNU", "CTXsp", "HB", "HPF", "HY", "Isocortex", "MB", "OLF", "TH")  # the order of TS3's labels
NO_REGION = ("void", "root")
N_ISI_BINS, ISI_S = 128, (1e-3, 3.0)
AGAIN = "ingest it with --dataset ibl_bwb"

Span = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class TaskWindows:
    """The windows of a task in a split of a session; n of them, in order of time.

    Args:
        task, split: their names. start, end: float64 ``[n]``, seconds of the file. trial_id: int64 ``[n]``.
        values: int64 ``[n, 1]`` labels, float32 ``[n, 50]``, or int32 ``[n, 50]`` counts (licks).
        mask: bool ``[n, 50]`` of paws, True where the sample is scored; None elsewhere.
        timestamps: float64 ``[n, 50]``, seconds from the window's start; None of labels.
    """

    task: str
    split: str
    start: np.ndarray
    end: np.ndarray
    trial_id: np.ndarray
    values: np.ndarray
    mask: np.ndarray | None = None
    timestamps: np.ndarray | None = None

    def __len__(self) -> int:
        return self.start.size


def eid_of(session: Session) -> str:
    """What the benchmark calls a recording: the name that stands before the ids of its units."""
    return session.info.get("session_id") or session.name


def task_windows(session: Session, task: str, split: str) -> TaskWindows:
    """The windows of a task of TS1 that have their whole second in a split, with their targets.

    Args:
        session: made by the rules ``ibl_bwb``. task: of ``TASKS``. split: of ``SPLITS``.

    Raises:
        UnknownNameError: no such task or split. DataError: the session lacks what the task needs.
    """
    _require("task", task, TASKS)
    _require("split", split, SPLITS)
    table_name, series, column = TASKS[task]
    table = _table(session, f"{ALIGNED}.{table_name}")
    start, end, row = windows_in(session, task, split)
    trial_id = np.asarray(table.columns["trial_index"], np.int64)[row]
    if not series:
        values = np.asarray(table.columns[column], np.int64)[row]
        return TaskWindows(task, split, start, end, trial_id, values[:, None])
    signal = session.signals[task]
    first_s = _span(_table(session, f"{series}.domain"))[0][0]
    index = _sample_at(start, first_s)
    at = index[:, None] + np.arange(N_SAMPLES)
    value, valid = signal.value[:, 0][at], signal.valid[at]
    if task == COUNTS:
        value = value.astype(np.int32)
    timestamps = (first_s + index / RATE_HZ - start)[:, None] + np.arange(N_SAMPLES) / RATE_HZ
    return TaskWindows(task, split, start, end, trial_id, value, valid if task in CONFIDENT else None, timestamps)


def windows_in(session: Session, task: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The windows of a task in a split: starts and ends in seconds, and each one's row in the task's table.

    A window that a split, a hull or the signal's domain cuts is left out: the reference does not guard against one.
    """
    table_name, series, _ = TASKS[task]
    table = _table(session, f"{ALIGNED}.{table_name}")
    if series and task not in session.signals:
        message = (
            f"{session.id} has no '{task}': its quality was not good enough, or the rules did not make it: {AGAIN}"
        )
        raise DataError(message)
    allowed = intersection(_span(_table(session, f"{ALIGNED}.domain")), split_domain(session, _regime(session), split))
    if series:
        allowed = intersection(allowed, _span(_table(session, f"{series}.domain")))
    own_start, own_end = _span(table)
    keep = np.ones(len(table), np.bool_)
    if task in CONFIDENT:
        keep = np.asarray(table.columns[CONFIDENT[task]]) >= 1
    rows = np.flatnonzero(keep)
    start, end, of = _pieces((own_start[rows], own_end[rows]), allowed)
    whole = end - start > WINDOW_S - 1 / RATE_HZ / 2
    if series:
        first_s = _span(_table(session, f"{series}.domain"))[0][0]
        whole &= _sample_at(end, first_s) - _sample_at(start, first_s) == N_SAMPLES
    return start[whole], end[whole], rows[of[whole]]


# ---- TS2 ------------------------------------------------------------------------------------------------------------


def population_intervals(session: Session, split: str) -> Span:
    """The time of a split of TS2 that lies in trials: starts and ends in seconds."""
    _require("split", split, SPLITS)
    return intersection(_span(_table(session, f"{ALIGNED}.domain")), split_domain(session, "ts2", split))


def population_windows(session: Session, split: str, *, fused: bool = True) -> np.ndarray:
    """The starts of the windows of TS2 that are scored, float64 seconds ``[w]``: those that the scorer matches.

    Args:
        split: ``"val"`` or ``"test"``; in training windows lie anywhere in :func:`population_intervals`.
        fused: the truth was made where the processor has AVX2.
    """
    _require("split", split, STRIDE)
    spans = zip(*population_intervals(session, split), strict=True)
    starts = [window_starts(float(a), float(b), STRIDE[split] * BIN_S, fused=fused) for a, b in spans]
    return np.concatenate([np.zeros(0), *starts])


def window_starts(start: float, end: float, step: float = BIN_S, *, fused: bool = True) -> np.ndarray:
    """The starts of windows of a second in an interval: one each ``step`` seconds, and a last one that ends with it."""
    starts = arange(start, end, step, fused=fused)
    starts = starts[starts + WINDOW_S <= end]
    if starts.size and starts[-1] + WINDOW_S < end:
        starts = np.append(starts, end - WINDOW_S)
    return starts


def arange(start: float, end: float, step: float, *, fused: bool = True) -> np.ndarray:
    """``torch.arange(start, end, step, dtype=float64)`` on a CPU, to the last bit.

    Args:
        fused: with AVX2: eight at a time, in fours, of which each first is added in one rounding.
    """
    n = max(0, math.ceil((end - start) / step))
    k = np.arange(n)
    if not fused:
        base, rest = k - k % 4, k % 4
        vector = (start + step * base) + step * rest
        scalar = start + step * k
    else:
        exact_step, exact_start = Fraction(step), Fraction(start)
        fours = np.array([float(exact_step * m + exact_start) for m in range(0, n, 4)])
        vector = np.repeat(fours, 4)[:n] + step * (k % 4)
        tail = range(8 * (n // 8), n)
        scalar = np.concatenate([vector[: tail.start], [float(exact_step * m + exact_start) for m in tail]])
    return np.where(k < 8 * (n // 8), vector, scalar)


def held_out_units(session: Session, split: str = "test") -> np.ndarray:
    """bool ``[N]``: the tenth of the units that co-smoothing hides, by the smallest sha256 of their ids.

    Raises:
        DataError: the file says otherwise.
    """
    _require("split", split, STRIDE)
    held_out = held_out_of(session.units.id.tolist(), split)
    stated = session.units.columns.get(f"ts2_co_smoothing_is_held_out_{split}")
    if stated is not None and (np.asarray(stated, np.bool_) != held_out).any():
        fact = f"its file holds out {int(np.sum(stated))} units for {split}, the rule {held_out.sum()} others"
        message = f"{session.id}: {fact}: {AGAIN}"
        raise DataError(message)
    return held_out


def held_out_of(unit_ids: Sequence[str], split: str) -> np.ndarray:
    """The same of ids alone (raw UUIDs, without the session before them), in any order; at least one is held out."""
    digests = [hashlib.sha256(f"ts2_co_smoothing_{split}:{unit}".encode()).hexdigest() for unit in unit_ids]
    held_out = np.zeros(len(digests), np.bool_)
    held_out[np.argsort(np.array(digests, str))[: max(1, round(HELD_OUT_SHARE * len(digests)))]] = True
    return held_out


def counts(session: Session, starts: np.ndarray) -> np.ndarray:
    """The spikes of each unit in the 50 bins of windows, float32 ``[w, 50, N]``.

    Args:
        starts: float64 seconds ``[w]``. Bins are torch_brain's: floor of (time - start) x 50, in float64.
    """
    seconds, unit, n_units = session.spikes.time_ns / NS_PER_S, session.spikes.unit, len(session.units)
    out = np.zeros((len(starts), N_BINS, n_units), np.float32)
    low, high = np.searchsorted(seconds, starts), np.searchsorted(seconds, starts + WINDOW_S)
    for k, start in enumerate(np.asarray(starts).tolist()):
        own = slice(low[k], high[k])
        bins = np.floor((seconds[own] - start) * (1 / BIN_S)).astype(np.int64)
        inside = bins < N_BINS
        np.add.at(out[k], (bins[inside], unit[own][inside]), 1)
    return out


def co_smoothing(all_counts: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a model is given (the held-out units emptied), and what it is scored on, of counts ``[w, 50, N]``."""
    given = all_counts.copy()
    given[:, :, held_out] = 0
    return given, all_counts[:, :, held_out]


def forecasting(all_counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a model is given (the last five bins emptied), and what it is scored on, of counts ``[w, 50, N]``."""
    given = all_counts.copy()
    given[:, -N_FORECAST:] = 0
    return given, all_counts[:, -N_FORECAST:]


# ---- TS3 ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScoredUnits:
    """The units of a session whose region is asked: rows in its table, and what is known of each, ``[u]``.

    Args:
        row: int64. unit_id: with the recording before it. region: a word of ``REGIONS``. probe_id: the file's.
        depths: um.
    """

    row: np.ndarray
    unit_id: np.ndarray
    region: np.ndarray
    probe_id: np.ndarray
    depths: np.ndarray


def scored_units(session: Session) -> ScoredUnits:
    """The units of TS3: well sorted, well aligned, of more than 1 Hz, and in a region.

    Files for pretraining need no PASS of ``qc_neural``, only no FAIL.
    """
    columns = session.units.columns
    qc = np.asarray(columns["qc_neural"])
    good = qc != "FAIL" if _regime(session) == "pretrain" else qc == "PASS"
    good &= (np.asarray(columns["qc_neural_alignment"]) == "PASS") & (np.asarray(columns["label"]) == 1)
    good &= np.asarray(columns["firing_rate"]) > 1
    region = np.asarray(columns["region_cosmos"])
    row = np.flatnonzero(good & ~np.isin(region, NO_REGION))
    unit_id = np.array([f"{eid_of(session)}/{one}" for one in session.units.id[row].tolist()])
    probe_id = np.asarray(columns["probe_id"])[row]
    return ScoredUnits(row, unit_id, region[row], probe_id, np.asarray(columns["depths"], np.float64)[row])


def isi_histograms(session: Session, row: np.ndarray) -> np.ndarray:
    """The share of each unit's intervals between spikes in 128 logarithmic bins of 1 ms to 3 s; float32 ``[u, 128]``.

    Args:
        row: int64 ``[u]``, of the session's units.
    """
    edges = np.logspace(*np.log10(ISI_S), N_ISI_BINS + 1)
    order = np.argsort(session.spikes.unit, kind="stable")
    offset = np.searchsorted(session.spikes.unit[order], np.arange(len(session.units) + 1))
    seconds = session.spikes.time_ns[order] / NS_PER_S
    out = np.zeros((len(row), N_ISI_BINS), np.float32)
    for k, unit in enumerate(np.asarray(row).tolist()):
        found, _ = np.histogram(np.diff(seconds[offset[unit] : offset[unit + 1]]), edges)
        out[k] = found / max(1, found.sum())
    return out


# ---- seconds --------------------------------------------------------------------------------------------------------


def split_domain(session: Session, regime: str, split: str) -> Span:
    """The time of a split as the file has it: starts and ends in seconds."""
    name = f"{regime}_{split}_domain"
    if name in session.intervals:
        return _span(session.intervals[name])
    sets, names = session.splits.columns.get("set"), session.splits.columns.get("name")
    if sets is None or not (sets == regime).any():
        known = sorted(set(() if sets is None else sets.tolist()))
        message = f"{session.id} has no splits '{regime}' (it has {', '.join(known) or 'none'}): {AGAIN}"
        raise DataError(message)
    rows = session.splits.take((sets == regime) & (names == ("valid" if split == "val" else split)))
    return _span(rows)


def intersection(one: Span, other: Span) -> Span:
    """The time that is in both, as torch_brain's ``&`` gives it: later starts, earlier ends, none of them rounded."""
    start, end, _ = _pieces(one, other)
    return start, end


def _pieces(one: Span, other: Span) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is left of each interval of ``one`` inside each of ``other``, and which interval it is of."""
    start, end, of = [], [], []
    for k, (a, b) in enumerate(zip(one[0].tolist(), one[1].tolist(), strict=True)):
        low, high = np.maximum(a, other[0]), np.minimum(b, other[1])
        there = low < high
        start += low[there].tolist()
        end += high[there].tolist()
        of += [k] * int(there.sum())
    order = np.argsort(np.array(start), kind="stable")
    return np.array(start)[order], np.array(end)[order], np.array(of, np.int64)[order]


def _span(table: Intervals) -> Span:
    """Starts and ends in the file's own seconds."""
    if "start_s" in table.columns:
        return np.asarray(table.columns["start_s"]), np.asarray(table.columns["stop_s"])
    return table.start_ns / NS_PER_S, table.stop_ns / NS_PER_S


def _sample_at(seconds: np.ndarray, first_s: float) -> np.ndarray:
    """The first sample of a series that is not before each time."""
    return np.ceil((seconds - first_s) * RATE_HZ - GRID_SLACK).astype(np.int64)


def _regime(session: Session) -> str:
    sets = set(np.asarray(session.splits.columns.get("set", ())).tolist())
    found = [regime for regime in REGIMES if regime in sets]
    if not found:
        message = f"{session.id} has none of the splits {', '.join(REGIMES)}: {AGAIN}"
        raise DataError(message)
    return found[0]


def _table(session: Session, name: str) -> Intervals:
    if name not in session.intervals:
        message = f"{session.id} has no table '{name}', which a file of BrainWideBench has: {AGAIN}"
        raise DataError(message)
    return session.intervals[name]


def _require(kind: str, name: str, known: object) -> None:
    if name not in known:
        raise UnknownNameError(kind, name, list(known), "BrainWideBench")
