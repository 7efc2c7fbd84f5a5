"""What BrainWideBench's conventions make of one of its files: targets as signals, its windows as trials.

    signals         the five series of TS1, called as their tasks: whiskers and paws z-scored by the file's own mean and
                    deviation, licks as counts a bin; those of the file stay beside them (``wheel.wheel_speed``)
    trials          a row for each window of each task, with its label where it has one; see :func:`_window_rows`
    all_trials      the file's own table of trials
    splits          ``ts1`` and ``ts2``, or ``pretrain``; the gaps between them are in none

What is unusual: values are normalised in float64 and kept as float32 then, as the reference does. A paw's sample that
is not confident is not valid, so that neither training nor a score counts it. The whole of a trial with a reward is not
its window: windows of several tasks overlap, each has its row, and only the rows of a task have its label.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import Finding, Intervals, Session, Signal, Source
from spiketok.sources.catalogue.base import Rules
from spiketok.sources.catalogue.bwb.catalogue import BUILDS
from spiketok.sources.catalogue.bwb.windows import ALIGNED, REGIMES

BRAINSET = "ibl_brain_wide_bench_2026"
WINDOW = "window"  # the column of trials that says which window a row is
NONE = ""
LABELLED = ("choice", "reward", "stimulus_contrast")
WINDOWS = ("choice", "reward", "stimulus_contrast", "movement_window", "licking_window")
SHORT = {"movement_window": "movement", "licking_window": "licking"}
OUTSIDE = "outside_"  # of what lies between the rows of a window
LICK_HZ = 50.0  # counts were multiplied by it
# each task's group and column in the file, whether it is normalised, and the column that says which samples are sure
SERIES = {
    "whisker_motion_energy": ("whisker", "whisker_motion_energy", True, ""),
    "wheel_speed": ("wheel", "wheel_speed", False, ""),
    "right_paw_speed": ("paws", "right_paw_speed", True, "is_right_paw_confident"),
    "left_paw_speed": ("paws", "left_paw_speed", True, "is_left_paw_confident"),
    "licking_rate": ("licks", "licking_rate", False, ""),
}
MEASURE = {"licking_rate": "licks a bin of 20 ms", "wheel_speed": "rad/s"}


def read(path: Path, session_id: str, source: Source) -> Session:
    """A file of the benchmark, see :func:`spiketok.sources.formats.torch_brain.read_torch_brain`.

    Raises:
        SourceError: it cannot be read, or is of another brainset.
    """
    from spiketok.sources.formats.torch_brain import read_torch_brain

    session = read_torch_brain(path, session_id, source)
    brainset = session.info.get("identifier", "")
    if brainset != BRAINSET:
        message = f"{path.name}: is of brainset '{brainset}', the rules ibl_bwb are for '{BRAINSET}': add --rules none"
        raise SourceError(message)
    return session


def adjust(session: Session, path: Path) -> Session:
    """Targets, regions, windows as trials; a note where the file is of another build than the dataset."""
    session = _with_targets(session, path)
    columns = dict(session.units.columns)
    if "region_beryl" in columns:
        columns["region"] = columns["region_beryl"]
    tables = dict(session.intervals)
    if "trials" in tables:
        tables["all_trials"] = tables.pop("trials")
    rows = _window_rows(session)
    if len(rows):
        tables["trials"] = rows
    session = replace(session, units=replace(session.units, columns=columns), intervals=tables)
    build, expected = session.info.get("brainset.unit_filtering", ""), BUILDS.get(session.dataset)
    if expected is not None and build != expected:
        text = f"the file is of the build '{build}', the dataset {session.dataset} of '{expected}'"
        session = _noted(session, "bwb-build", 1, text)
    lacking = [task for task in SERIES if task not in session.signals]
    text = f"not in the file, for want of quality: {', '.join(lacking)}"
    return _noted(session, "bwb-behaviours", len(lacking), text) if lacking else session


RULES = Rules("ibl_bwb", 1, adjust=adjust, read=read, suffixes=(".h5",))


def _noted(session: Session, finding: str, count: int, text: str) -> Session:
    return replace(session, notes=(*session.notes, Finding(finding, count, text)))


# ---- targets --------------------------------------------------------------------------------------------------------


def _with_targets(session: Session, path: Path) -> Session:
    """The session with the signal that each task is scored on, where the file has it."""
    from spiketok.sources.formats.nwb.hdf5 import Hdf5

    signals = dict(session.signals)
    with Hdf5(path) as h5:
        for task, (group, name, normalised, sure) in SERIES.items():
            raw = signals.get(f"{group}.{name}")
            where = h5.group(h5.root, group)
            item = None if where is None or raw is None else h5.dataset(where, name)
            if item is None or raw.value.shape[1] != 1:
                continue
            value = h5.array(item).astype(np.float64).reshape(-1)
            if value.size != raw.valid.size:
                h5.refuse(
                    f"{item.name} has {value.size} values, {raw.valid.size} of them with a time", "fetch it again"
                )
            if normalised:
                mean, std = _normalisation(session, group, name)
                if std is None:
                    continue
                value = (value - mean) / std
            elif task == "licking_rate":
                value = np.rint(value / LICK_HZ)
            valid = raw.valid & np.isfinite(value)
            if sure:
                confident = signals.get(f"{group}.{sure}")
                if confident is None:
                    continue
                valid = valid & (confident.value[:, 0] > 0)
            own = np.where(np.isfinite(value), value, 0).astype(np.float32)[:, None]
            measure = MEASURE.get(task, "SD of training")
            signals[task] = Signal(raw.time_ns, own, (task,), measure, valid, raw.rate_hz)
    return replace(session, signals=signals)


def _normalisation(session: Session, group: str, name: str) -> tuple[float, float | None]:
    """Mean and deviation of a signal, as the file states them; no deviation where it states none."""
    for regime in REGIMES:
        place = f"{regime}_normalize.{group}.{name}"
        mean, std = (session.info.get(f"{place}.{what}") for what in ("mean", "std"))
        if mean is not None and std is not None and float(std) > 0:
            return float(mean), float(std)
    return 0.0, None


# ---- windows as trials ----------------------------------------------------------------------------------------------


def _window_rows(session: Session) -> Intervals:
    """Every window of every task as a row: ``window``, its label in the column of its task, ``trial_index``.

    The stretches between the movement windows are rows ``outside_movement``, those between the licking windows
    ``outside_licking``: what a decoder weighs with zero (``task.decode.weights``) to be taught and scored in the
    windows alone.
    """
    start, stop, which, trial = [], [], [], []
    labels: dict[str, list[str]] = {name: [] for name in LABELLED}
    tables = {name: session.intervals.get(f"{ALIGNED}.{name}") for name in WINDOWS}
    for name, table in tables.items():
        if table is None:
            continue
        spans = [(table.start_ns, table.stop_ns, SHORT.get(name, name), table.columns.get("trial_index"))]
        if name in SHORT:
            union = table.union()
            edges = (
                np.concatenate([[session.start_ns], union.stop_ns]),
                np.concatenate([union.start_ns, [session.stop_ns]]),
            )
            lasts = edges[0] < edges[1]
            spans.append((edges[0][lasts], edges[1][lasts], OUTSIDE + SHORT[name], None))
        for a, b, word, index in spans:
            start.append(a)
            stop.append(b)
            which += [word] * len(a)
            trial.append(np.full(len(a), -1, np.int64) if index is None else np.asarray(index, np.int64))
            for label, own in labels.items():
                of_it = label == word and label in table.columns
                own += np.asarray(table.columns[label]).astype(str).tolist() if of_it else [NONE] * len(a)
    if not start:
        return Intervals.empty()
    columns = {WINDOW: np.array(which), "trial_index": np.concatenate(trial)}
    columns |= {name: np.array(own) for name, own in labels.items()}
    first, last = np.concatenate(start), np.concatenate(stop)
    order = np.lexsort((last, first))
    return Intervals(first[order], last[order], {name: column[order] for name, column in columns.items()})
