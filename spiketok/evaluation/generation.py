"""Spikes drawn from a run, held against recorded ones: the sessions' test time, drawn anew window by window.

Beside the sample's scores stand those of an independent Poisson sample with the mean counts of the training time (what
a sample must beat) and those of recorded training time (about the most that can be reached). All three are held against
the recorded spikes of the same test windows.

What is unusual: recorded spikes are counted from the store on the bins that the model draws on, whatever tokens it
reads; behaviours that the run asks are given to the model, which may be told them; windows go to the model one by one
in their order, so that it can read its own past; together where it draws each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Generation
from spiketok.recording.nouns import Session
from spiketok.recording.sample_scores import poisson_sample, sample_scores
from spiketok.storage.files import atomic_file, write_json
from spiketok.storage.names import file_stem
from spiketok.training.checkpoints import Run
from spiketok.training.predict import session_loader
from spiketok.training.sampling import SequentialWindows, SessionTokens
from spiketok.training.sessions import DividedSession, require_window


@dataclass(frozen=True, eq=False)
class Drawn:
    """Spikes drawn for one session.

    Args:
        counts: uint8 ``[W, T, N]``. start_ns: int64 ``[W]``, the windows whose time they stand for. bin_ns: of T.
        unit_id: ``[N]``. scores: by what is held against the recorded test windows (``sample``, ``poisson``,
            ``training``), those of :func:`spiketok.recording.sample_scores.sample_scores`.
    """

    session: str
    counts: np.ndarray
    start_ns: np.ndarray
    bin_ns: int
    unit_id: np.ndarray
    scores: dict[str, dict[str, float | None]]


def generate(
    run: Run,
    sessions: Sequence[SessionTokens],
    how: Generation,
    *,
    seconds: float,
    stored: Callable[[str], Session],
    device: torch.device | str = "cpu",
    told: Callable[[str], None] = lambda line: None,
) -> list[Drawn]:
    """Draw spikes for the first ``seconds`` of each session's test time, and score them.

    Args:
        stored: gives a session as it was recorded. told: takes a line for each session that is done.

    Raises:
        UsageError: the model draws no spikes, or no time is asked. DataError: it does not know a session, or no window
            fits into a session's test or training time.
    """
    if not run.model.generates:
        message = f"{run.path.name}: {run.config.model} draws no spikes (spiketok models lists what each can do)"
        raise UsageError(message)
    if not seconds > 0:
        message = f"--seconds is {seconds:g}, must be above 0"
        raise UsageError(message)
    known = set(run.model.sessions())
    for tokens in sessions:
        if tokens.id not in known:
            message = f"{tokens.id} is none of the sessions that {run.path.name} was trained on: {', '.join(run.own)}"
            raise DataError(message)
    run.model.to(device).eval()
    found = []
    for tokens in sessions:
        found.append(_generate(run, run.divide(tokens), how, seconds, stored, device))
        told(f"{tokens.id}: {len(found[-1].start_ns)} windows drawn")
    return found


def _generate(
    run: Run, session: DividedSession, how: Generation, seconds: float, stored: Callable[[str], Session], device
) -> Drawn:
    model, window_ns = run.model, run.config.data.window_ns
    bin_ns, most = model.generated_bin_ns(), max(round(seconds * 1e9 / window_ns), 1)
    counts: list[np.ndarray] = []
    starts: list[int] = []
    given, carry = tuple(task.name for task in session.tasks if task.labelled), None
    with torch.inference_mode():
        for batch in _windows(run, session, "test", run.config.data.batch_size if model.draws_apart else 1):
            first, stop_ns = int(batch.start_ns[0]), starts[-1] + window_ns if starts else None
            if len(batch) == 1 and _lies_over(first, stop_ns, window_ns):
                continue
            drawn, carry = model.generate(
                replace(batch.to(device), given=given), how, carry if first == stop_ns else None
            )
            for start_ns, own in zip(
                batch.start_ns.tolist(), drawn.cpu().numpy().reshape(len(batch), -1, drawn.shape[1]), strict=True
            ):
                if not _lies_over(start_ns, starts[-1] + window_ns if starts else None, window_ns):
                    counts.append(own)
                    starts.append(start_ns)
            if len(starts) >= most:
                break
    start = np.array(starts[:most], np.int64)
    recorded = stored(session.id)
    before = np.array([int(b.start_ns[0]) for b in _windows(run, session, "train", 1)], np.int64)
    truth, trained = (counts_of(recorded, part, window_ns, bin_ns) for part in (start, before))
    sample = np.stack(counts[:most])
    held = {"sample": sample, "poisson": poisson_sample(trained, len(truth), how.seed), "training": trained}
    scores = {name: sample_scores(part, truth, bin_ns) for name, part in held.items()}
    return Drawn(session.id, sample, start, bin_ns, np.asarray(recorded.units.id), scores)


def _lies_over(start_ns: int, stop_ns: int | None, window_ns: int) -> bool:
    """Whether a window begins inside the one before, which ends at ``stop_ns``: the last of a stretch may."""
    return stop_ns is not None and stop_ns - window_ns < start_ns < stop_ns


def _windows(run: Run, session: DividedSession, split: str, batch_size: int) -> Iterator:
    """Batches of windows, one behind the other."""
    windows = session.windows(split)
    require_window(windows, "drawing" if split == "test" else "training", run.config.data.window_ns)
    sampler = SequentialWindows([windows], run.config.data.window_ns)
    return iter(session_loader(run.model, sampler, batch_size, tasks=session.tasks, calibration=session.calibration))


def counts_of(session: Session, start_ns: np.ndarray, window_ns: int, bin_ns: int) -> np.ndarray:
    """uint8 ``[W, T, N]``: the recorded spikes in the whole bins of each window; 255 stands for more.

    Args:
        start_ns: int64 ``[W]``.
    """
    n_bins, n_units = window_ns // bin_ns, len(session.units)
    counts = np.zeros((len(start_ns), n_bins, n_units), np.int64)
    time_ns, unit = session.spikes.time_ns, session.spikes.unit
    for w, start in enumerate(start_ns.tolist()):
        low, high = np.searchsorted(time_ns, [start, start + n_bins * bin_ns])
        np.add.at(counts[w], ((time_ns[low:high] - start) // bin_ns, unit[low:high]), 1)
    return counts.clip(max=255).astype(np.uint8)


def write_drawn(drawn: Drawn, how: Generation, folder: Path) -> Path:
    """Write ``counts``, ``start_ns``, ``bin_ns`` and ``unit_id`` as ``<session>.npz``, scores and settings beside.

    Returns:
        the ``.npz``.
    """
    path = Path(folder) / f"{file_stem(drawn.session)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as wip, wip.open("wb") as file:
        np.savez_compressed(
            file,
            counts=drawn.counts,
            start_ns=drawn.start_ns,
            bin_ns=np.int64(drawn.bin_ns),
            unit_id=drawn.unit_id.astype(str),
        )
    settings = {"seed": how.seed, "temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p}
    write_json(path.with_suffix(".json"), {"session": drawn.session, "drawn": settings, "scores": drawn.scores})
    return path
