"""The rates of a population run in the windows of the Neural Latents Benchmark, as the file that its evaluation reads.

    file = write_rates(run, session, digest, "valid", Path("mc_maze_small.h5"))
    rates = read_rates(file)                 # train_rates_heldin [R, T, U] ..., as nlb_scores.scores takes them

Keys and nesting are those of nlb_tools 0.0.4 (``make_tensors.save_to_h5``, ``evaluation.evaluate``): a group with the
set's name (and ``_20`` for bins of 20 ms) with ``train_rates_heldin``, ``train_rates_heldout``, ``eval_rates_heldin``,
``eval_rates_heldout`` and, where the run has forward bins, ``eval_rates_heldin_forward`` and
``eval_rates_heldout_forward``. Rates are expected spikes a bin.

What is unusual: the session is baked again in the benchmark's windows, whose bins lie on the axis of the files and not
on that of a segment, so that the model sees the very counts of the benchmark's tensors. Each window is answered by
itself: nothing is averaged over windows that overlap, as the run's own score does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.nlb_scores import scores
from spiketok.evaluation.own_windows import batches_at, require_no_calibration
from spiketok.pipeline.export.nlb_tensors import BIN_MS, eval_target, window_starts
from spiketok.recording.nouns import Intervals, Session
from spiketok.sources.catalogue.nlb.benchmark import BENCHMARKS, Benchmark
from spiketok.storage.files import atomic_file
from spiketok.storage.hdf5 import writing_hdf5
from spiketok.storage.locks import beside, locked
from spiketok.storage.store import read_attributes, read_session
from spiketok.training.checkpoints import Run
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.population import HELD_OUT, Population

BINS_MS = (5, 20)
TRAIN_SPLIT = {"valid": "train", "test": "train+valid"}  # whose rates are the decoder's training data


@dataclass(frozen=True)
class ExportedRates:
    """The file of one session.

    Args:
        remarks: what to know of it, a line each. scores: the benchmark's, by its names; none without a public truth.
        state: ``"new"``, ``"replaced"``, or ``"already"``: it was there, of the same session and checkpoint.
    """

    path: str
    nbytes: int
    remarks: tuple[str, ...]
    scores: dict[str, float]
    state: str = "new"


def export_rates(
    run: Run,
    tokens: SessionTokens,
    stored: Path,
    split: str,
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    overwrite: bool = False,
) -> ExportedRates:
    """Write ``<dataset>/<session>.nlb_rates.h5`` (``.nlb_test_rates.h5`` of the test split) in a folder, and score it.

    Args:
        run, split, device: as :func:`write_rates`. tokens: the session's shards, as the run was trained on them.
        stored: the session in the store. overwrite: replace a file that is there.

    Raises:
        UsageError: another file is there. Errors as :func:`write_rates`.
    """
    dataset, name = tokens.id.split("/")
    path = Path(folder) / dataset / f"{name}.{'nlb' if split == 'valid' else 'nlb_test'}_rates.h5"
    session, digest = read_session(stored), read_attributes(stored)["digest"]
    with locked(beside(path), str(path), wait=True):
        state = "replaced" if path.exists() else "new"
        if state == "replaced" and not overwrite:
            if not _is_of(path, session.id, digest, run):
                message = f"{path} is there already, and was made of something else: --overwrite replaces it"
                raise UsageError(message)
            state = "already"
        else:
            write_rates(run, session, digest, split, path, device)
    bin_ms, window_ns = round(run.config.data.bin_ms), run.config.data.window_ns
    start_ns = window_starts(session, "", split, bin_ms=bin_ms)
    train = run.divide(tokens, None, run.config.data.train_share).splits["train"]
    n_arrays = len(read_rates(path))
    seen, remarks = seen_in_training(start_ns, window_ns, train), [f"{n_arrays} arrays, of the {split} split"]
    if seen:
        remarks.append(
            f"{seen} of its {len(start_ns)} evaluated windows lie in the run's training time, so their scores are no "
            "test: train with --set split.kind=stored"
        )
    scored = score_rates(session, path, bin_ms) if split == "valid" else {}
    return ExportedRates(str(path), path.stat().st_size, tuple(remarks), scored, state)


def _is_of(path: Path, session_id: str, digest: str, run: Run) -> bool:
    """Whether a file of rates says that it was made of this session by this checkpoint."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            said = tuple(file.attrs.get(key) for key in ("session", "store_digest", "checkpoint_digest"))
    except OSError:
        return False
    return said == (session_id, digest, run.digest)


def write_rates(
    run: Run, session: Session, digest: str, split: str, path: Path, device: torch.device | str = "cpu"
) -> dict[str, tuple[int, ...]]:
    """Predict the rates of a session's windows and write the benchmark's file.

    Args:
        run: with a population task, whose windows have the benchmark's length. session: one that it was trained on.
        digest: of the session's store. split: ``"valid"`` or ``"test"``. path: the file; visible when it is whole.

    Returns:
        the shape of each array by its path in the file.

    Raises:
        UsageError: the run has no population, or other windows or bins than the benchmark.
        DataError: the session names no held-out units, or lacks trials of the split. UnknownNameError: its dataset is
            none of the benchmark's.
    """

    bench = benchmark_of(session)
    population, n_bins = _fitting(run, session, bench)
    bin_ms = round(run.config.data.bin_ms)
    found, held = {}, np.asarray(session.units.columns[HELD_OUT]).astype(np.bool_)
    for name, part in (("train", TRAIN_SPLIT[split]), ("eval", split)):
        start_ns = window_starts(session, "", part, bin_ms=bin_ms)
        rate = _rates(run, population, session, digest, start_ns, device)
        for group, units in (("heldin", ~held), ("heldout", held)):
            found[f"{name}_rates_{group}"] = rate[:, :n_bins, units]
            if rate.shape[1] > n_bins:
                found[f"{name}_rates_{group}_forward"] = rate[:, n_bins:, units]
    group = session.dataset + ("" if bin_ms == BIN_MS else f"_{bin_ms}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as wip, writing_hdf5(wip) as file:
        for name, rate in found.items():
            file.create_dataset(f"{group}/{name}", data=rate, dtype=np.float32, compression="gzip", track_times=False)
        file.attrs.update(session=session.id, store_digest=digest, run=run.path.name, checkpoint_digest=run.digest)
    return {f"{group}/{name}": rate.shape for name, rate in found.items()}


def read_rates(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of one set, without the set's name."""
    import h5py

    with h5py.File(path) as file:
        (group,) = file.values()
        return {name: array[()].astype(np.float64) for name, array in group.items()}


def score_rates(session: Session, path: Path, bin_ms: int) -> dict[str, float]:
    """The benchmark's scores of a file of the valid split, by its own definitions.

    Args:
        session: with the truth of its valid trials. bin_ms: of the file.
    """
    target = eval_target(session, bin_ms=bin_ms, psth=True)
    return scores(next(iter(target.values())), read_rates(path))


def benchmark_of(session: Session) -> Benchmark:
    """How the session's set is cut.

    Raises:
        UnknownNameError: it is none of the benchmark's.
    """
    if session.dataset not in BENCHMARKS:
        raise UnknownNameError("benchmark set", session.dataset, BENCHMARKS)
    return BENCHMARKS[session.dataset]


def seen_in_training(start_ns: np.ndarray, length_ns: int, train: Intervals) -> int:
    """How many windows touch training time.

    >>> seen_in_training(np.array([0, 50, 100]), 20, Intervals([10], [60]))
    2
    """
    train = train.union()
    low = np.searchsorted(train.stop_ns, start_ns, side="right")
    high = np.searchsorted(train.start_ns, start_ns + length_ns, side="left")
    return int((high > low).sum())


def _fitting(run: Run, session: Session, bench: Benchmark) -> tuple[Population, int]:
    """The run's population, and the bins of the benchmark's window."""
    population = next((task for task in run.tasks if isinstance(task, Population)), None)
    if population is None:
        message = f"{run.path.name} was not asked for the population ({', '.join(t.name for t in run.tasks)}): no rates"
        raise UsageError(message)
    if not np.asarray(session.units.columns.get(HELD_OUT, ())).astype(np.bool_).any():
        message = f"{session.id} names no held-out units, of which the benchmark wants rates: store its train file too"
        raise DataError(message)
    data, forward_ms, n_ms = run.config.data, population.config.forward_ms, bench.window_ms[1] - bench.window_ms[0]
    if data.bin_ms not in BINS_MS:
        message = f"data.bin_ms is {data.bin_ms:g}, the benchmark takes 5 or 20: train with --set data.bin_ms=5"
        raise UsageError(message)
    if forward_ms not in (0, bench.forward_ms) or data.window_ms != n_ms + forward_ms:
        ahead = f"data.window_ms={n_ms + bench.forward_ms} --set task.population.forward_ms={bench.forward_ms}"
        message = (
            f"the run has windows of {data.window_ms:g} ms with {forward_ms:g} ms of forward bins, {session.dataset} "
            f"has {n_ms} ms: train with --set data.window_ms={n_ms}, or with forward bins: --set {ahead}"
        )
        raise UsageError(message)
    require_no_calibration(run, "the benchmark's windows")
    return population, round(n_ms / data.bin_ms)


def _rates(run: Run, population: Population, session: Session, digest: str, start_ns: np.ndarray, device) -> np.ndarray:
    """Expected spikes a bin in the windows from ``start_ns`` on, float64 ``[R, T, N]``."""
    once, row = np.unique(start_ns, return_inverse=True)
    said = []
    with torch.inference_mode():
        for batch in batches_at(run, session, digest, once, [population], rule="nlb", device=device):
            output, _ = run.model.predict(batch)
            log_rate = output[population.name].double().unflatten(0, (len(batch), -1))
            said.append(log_rate.exp().cpu().numpy())
    rate = np.concatenate(said)
    if not np.isfinite(rate).all():
        message = (
            f"{session.id}: {run.config.model} gives no rate in {int((~np.isfinite(rate)).any((1, 2)).sum())} windows"
        )
        raise DataError(message)
    return rate[row]
