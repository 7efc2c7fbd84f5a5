"""A trained run as a decoder of FALCON: an answer to each bin of 20 ms, from the counts that its evaluator gives.

    from falcon_challenge.evaluator import FalconEvaluator
    from spiketok.evaluation.falcon_decoder import falcon_decoder

    evaluator = FalconEvaluator(split="m1")
    decoder = falcon_decoder("spiketok-data/runs/poyo-0123456789", "m1", files=evaluator.get_eval_files("minival"))
    evaluator.evaluate(decoder, phase="minival")

The evaluator of falcon-challenge 1.0.2 takes any object with the methods of its ``BCIDecoder``; that package is asked
for nothing but the tag of a file.

What is unusual:

- each bin is answered by a window that ends with it: the numbers are those of an offline prediction with
  ``data.eval_step_ms=20`` and ``data.stitch=causal`` on the same counts. A model that hands on its state goes from
  chunk to chunk, so that its chunks must divide a bin;
- counts do not say where in a bin a spike was: all stand at its middle;
- a model on bins answers for the bin. A model that is asked at times is asked at the bin's stamp: its end for H1 and
  M1, its start for M2, as the evaluator reads the stamps;
- what was before the first bin was not observed. The first answers come from windows that lie partly there; a model
  that cannot do without that past (``linear``) has the target's mean in training for an answer as long.

Shape letters: B streams at once, N units, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from spiketok.errors import ArtefactError, DataError, MissingExtraError, UsageError
from spiketok.evaluation.live import LiveDecoder
from spiketok.pipeline.export.falcon_tensors import BIN_NS, TARGETS
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.recording.splits import SplitRule
from spiketok.storage.workspace import Workspace
from spiketok.tokens.shards import ShardReader
from spiketok.training.checkpoints import Run, TrainedSession, load_run
from spiketok.training.runs import run_inputs
from spiketok.training.sampling import Once, SessionTokens, listing
from spiketok.training.tasks.decode import Decode

STAMP_NS = {"h1": BIN_NS - 1, "m1": BIN_NS - 1, "m2": 0}  # of a bin, from its start: half-open bins hold their end so
LONGEST_NS = 24 * 3600 * NS_PER_S  # of a stream: its samples are planned


class FalconDecoder:
    """What FALCON's evaluator asks of a decoder, by a trained run.

    Args:
        run: from ``load_run``, with the task's target among its decode tasks.
        sessions: by tag the shards of the session that files of this tag belong to; the model knows each.
        task: ``"h1"``, ``"m1"`` or ``"m2"``.
        batch_size: how many files the evaluator gives at once.
        tag_of: the tag of what :meth:`reset` is given; by default it is the tag.

    Raises:
        UsageError: the run cannot answer bins of 20 ms, or not this task. DataError: there is no session.
    """

    def __init__(
        self,
        run: Run,
        sessions: Mapping[str, SessionTokens],
        task: str,
        *,
        batch_size: int = 1,
        tag_of: Callable[[object], str] = str,
    ) -> None:
        if task not in STAMP_NS:
            message = f"FALCON's task '{task}' is not decoded bin by bin: {', '.join(STAMP_NS)} are"
            raise UsageError(message)
        if not sessions:
            message = f"{run.path.name} was trained on no file of FALCON's {task}"
            raise DataError(message)
        self.batch_size, self.sessions = batch_size, dict(sessions)
        self._tag_of, self._run = tag_of, _bin_by_bin(run, TARGETS[task])
        self._target = _planned(self._run, STAMP_NS[task])
        self._tags: list[str] = []
        self._streams: list[_Stream] = []
        self._stream(next(iter(self.sessions)))  # refuses what cannot be decoded live

    def require(self, files: Iterable[object]) -> list[str]:
        """The tags of files.

        Raises:
            DataError: the run knows no session of one of them.
        """
        tags = []
        for file in files:
            tags.append(self._tag_of(file))
            if tags[-1] not in self.sessions:
                name = file.name if isinstance(file, Path) else file
                message = (
                    f"{name} has the tag '{tags[-1]}', of which {self._run.path.name} knows no session "
                    f"(it knows {listing(list(self.sessions))}): train on that day too, its calibration file is enough"
                )
                raise DataError(message)
        return tags

    def reset(self, dataset_tags: Sequence[object] = ("",)) -> None:
        """Begin a stream for each file of a batch, without any past.

        Raises:
            DataError: the run knows no session of one of them.
        """
        self._tags = self.require(dataset_tags)
        self._streams = [self._stream(tag) for tag in self._tags]

    def predict(self, neural_observations: np.ndarray) -> np.ndarray:
        """Take the next bin of each stream, and answer it.

        Args:
            neural_observations: whole numbers ``[B, N]``, counts of 20 ms.

        Returns:
            float64 ``[B, C]``, in the target's own measure.

        Raises:
            DataError: other shapes, or counts that are none.
        """
        counts = np.asarray(neural_observations)
        if counts.ndim != 2 or len(counts) != len(self._streams):
            message = f"counts have shape {counts.shape}, expected [{len(self._streams)}, units]: reset() began so many"
            raise DataError(message)
        return np.stack([stream.answer(own) for stream, own in zip(self._streams, counts, strict=True)])

    def observe(self, neural_observations: np.ndarray) -> None:
        """Take the next bin of each stream without an answer, as :meth:`predict`."""
        self.predict(neural_observations)

    def on_done(self, dones: np.ndarray) -> None:
        """End the streams that are done, bool ``[B]``: each begins anew, without any past, in the same session."""
        done = np.asarray(dones).astype(np.bool_).reshape(-1)
        if len(done) != len(self._streams):
            message = f"{len(done)} streams are said to be done or not, reset() began {len(self._streams)}"
            raise DataError(message)
        for row in np.flatnonzero(done):
            self._streams[row] = self._stream(self._tags[row])

    def set_batch_size(self, batch_size: int) -> None:
        """How many files the evaluator gives at once from now on."""
        self.batch_size = batch_size

    def _stream(self, tag: str) -> _Stream:
        tokens = self.sessions[tag]
        _require_bins(self._run, tokens)
        plan = _plan(self._run, tokens, self._target)
        calibration, windows = _calibration(self._run, tokens), _windows(self._run, plan)
        live = LiveDecoder(self._run, tokens, plan, calibration, windows=windows, step_ns=BIN_NS)
        return _Stream(live, self._run, plan)


class _Stream:
    """The bins of one file, one after the other."""

    def __init__(self, live: LiveDecoder, run: Run, plan: Session) -> None:
        self._live, self._plan, self._bin = live, plan, 0
        (task,) = run.tasks
        self._task, self._spec, self._mean = task.name, task.target, np.array(task.target.mean)
        self._whole_ns = 0 if run.model.carries else run.config.data.window_ns  # before it, no window is all observed

    def answer(self, counts_N: np.ndarray) -> np.ndarray:
        """float64 ``[C]`` of the next bin, of all components: one that the run left out has its constant value."""
        n_units, start_ns = len(self._plan.units), self._bin * BIN_NS
        stop_ns = start_ns + BIN_NS
        if counts_N.shape != (n_units,) or counts_N.dtype.kind not in "iu" or (counts_N < 0).any():
            message = (
                f"bin {self._bin} of {self._plan.id} is {counts_N.dtype} {counts_N.shape}, expected counts of its "
                f"{n_units} units, whole numbers from 0"
            )
            raise DataError(message)
        unit = np.repeat(np.arange(n_units, dtype=np.int32), counts_N)
        windows = self._live.push(np.full(len(unit), start_ns + BIN_NS // 2, np.int64), unit, stop_ns)
        answer = self._mean if stop_ns < self._whole_ns else None
        for window in windows:
            if (window.time_ns[self._task] >= start_ns).any():
                answer = window.value[self._task][-1]
        if answer is None:
            message = f"{self._plan.id}: the run has no answer for bin {self._bin}, at {start_ns / NS_PER_S:g} s"
            raise DataError(message)
        self._bin += 1
        return self._spec.filled(answer)


def falcon_decoder(
    run: Path | str,
    task: str,
    *,
    batch_size: int = 1,
    files: Iterable[Path] = (),
    root: Path | None = None,
) -> FalconDecoder:
    """The decoder of a run's folder, for the files of one of FALCON's tasks.

    Sessions are found by the names of the files that they were made of, and read from the shards that the run was
    trained on: ``runs`` and ``shards`` of a workspace are enough, the store is not needed.

    Args:
        task: ``"h1"``, ``"m1"`` or ``"m2"``. batch_size: how many files the evaluator gives at once.
        files: what will be asked; a file without a session is told before anything is decoded.
        root: the workspace, by default the one that the run's folder is in.

    Raises:
        MissingExtraError: falcon-challenge is not installed. DataError: a file has no session or no name of the
            archive's, or two sessions have one tag. ArtefactError: a shard is not there, or not the one that the run
            was trained on.
    """
    if task not in STAMP_NS:
        message = f"FALCON's task '{task}' is not decoded bin by bin: {', '.join(STAMP_NS)} are"
        raise UsageError(message)
    try:
        from falcon_challenge.config import FalconConfig, FalconTask
    except ModuleNotFoundError as error:
        message = (
            f"telling FALCON's files apart needs '{error.name}', which is not installed: pip install falcon-challenge"
        )
        raise MissingExtraError(message) from error
    config, loaded = FalconConfig(FalconTask[task]), load_run(Path(run))
    workspace = Workspace(Path(root)) if root is not None else Workspace.around(loaded.path / "checkpoint")
    if workspace is None:
        message = f"{loaded.path} lies in no workspace with shards: name it by root="
        raise UsageError(message)

    def tag_of(file: object) -> str:
        try:
            return config.hash_dataset(Path(str(file)))
        except (IndexError, KeyError, ValueError) as error:
            message = f"{file} has no name of FALCON's {task}: give it the archive's"
            raise DataError(message) from error

    sessions: dict[str, SessionTokens] = {}
    for session, tokens in trained_sessions(loaded, task, workspace):
        tag = tag_of(PurePosixPath(session.source["file"]).name)
        if tag in sessions:
            message = f"{sessions[tag].id} and {session.id} have one tag, '{tag}': train on one of the two"
            raise DataError(message)
        sessions[tag] = tokens
    decoder = FalconDecoder(loaded, sessions, task, batch_size=batch_size, tag_of=tag_of)
    decoder.require(files)
    return decoder


def trained_sessions(run: Run, task: str, workspace: Workspace) -> list[tuple[TrainedSession, SessionTokens]]:
    """The sessions with a task's target that a run was trained on, and their shards in a workspace.

    Raises:
        ArtefactError: a shard is not there, or not the one that the run was trained on.
    """
    found = []
    for session in run.trained_on:
        if not run_inputs(run.config).keys() <= session.shards.keys():
            continue  # of the run that this one started from, which had other tasks
        tokens = _open(run, session, workspace)
        if TARGETS[task] in tokens.info.signals:  # else of another set
            found.append((session, tokens))
    return found


# ---- a run, bin by bin ----------------------------------------------------------------------------------------------


def _bin_by_bin(run: Run, target: str) -> Run:
    """The run with the one task that is asked, predicted causally by windows that go on by a bin."""
    tasks = [task for task in run.tasks if isinstance(task, Decode) and task.target.name == target]
    if not tasks:
        asked = listing([task.name for task in run.tasks])
        message = f"{run.path.name} answers '{asked}', FALCON asks '{target}': train with --task decode:{target}"
        raise UsageError(message)
    data = replace(run.config.data, eval_step_ms=BIN_NS / NS_PER_MS, stitch="causal")
    return replace(run, config=replace(run.config, data=data), tasks=(tasks[0],))


def _require_bins(run: Run, tokens: SessionTokens) -> None:
    """Raise UsageError where a window of the run's tokens cannot end with each bin."""
    model, bin_ms, grid_ns = run.model.name, BIN_NS / NS_PER_MS, tokens.length_grid_ns
    if tokens.bin_ns not in (1, BIN_NS):
        message = (
            f"{model} reads bins of {tokens.bin_ns / NS_PER_MS:g} ms, FALCON gives counts of {bin_ms:g} ms: "
            f"train with --set data.bin_ms={bin_ms:g}"
        )
        raise UsageError(message)
    if run.model.carries and BIN_NS % grid_ns:
        ms = grid_ns / NS_PER_MS
        message = (
            f"{model} hands its state from chunk to chunk of {ms:g} ms, which do not end with FALCON's bins of "
            f"{bin_ms:g} ms: train with --set model.chunk_ms={bin_ms:g} --set model.chunk_step_ms={bin_ms:g}"
        )
        raise UsageError(message)
    for name, reader in tokens.windowed.items():
        if reader.scheme.lookahead_ns:
            message = f"{model} waits for spikes after its windows (input '{name}'): no bin is answered in time"
            raise UsageError(message)
        if reader.scheme.name == "fine-time":
            message = (
                f"{model} reads when in a bin the units fired (input '{name}'), FALCON gives counts alone: train with "
                "--set model.fine_time=false"
            )
            raise UsageError(message)


def _planned(run: Run, stamp_ns: int) -> Signal:
    """When the target is sampled, as far as a stream may go; its values are not known."""
    (task,) = run.tasks
    time_ns = np.arange(stamp_ns, LONGEST_NS, BIN_NS, dtype=np.int64)
    value = np.broadcast_to(np.float32(0), (len(time_ns), len(task.target.every)))
    return Signal(time_ns, value, task.target.every, task.target.measure, np.zeros(len(time_ns), np.bool_))


def _plan(run: Run, tokens: SessionTokens, target: Signal) -> Session:
    """What is known of a stream beforehand: its units, and when the target is sampled. Its first bin begins at 0."""
    info, (task,) = tokens.info, run.tasks
    return Session(
        id=info.id,
        subject=info.subject,
        start_ns=0,
        stop_ns=LONGEST_NS,
        units=UnitTable(info.unit_id, info.unit_columns),
        spikes=Spikes(np.zeros(0, np.int64), np.zeros(0, np.int32)),
        observed=Intervals([0], [LONGEST_NS]),
        source=Source("", "", 0),
        signals={task.target.name: target},
    )


@dataclass(frozen=True, eq=False)
class _Windows:
    """Where a stream's windows lie, as :class:`~spiketok.training.sampling.SessionWindows` says it of a split."""

    id: str
    segments: Intervals
    segment: np.ndarray
    start_ns: np.ndarray
    stop_ns: np.ndarray


def _windows(run: Run, plan: Session) -> _Windows:
    """From so long before the first bin that the first window ends with it; a model that carries begins with it."""
    start_ns = 0 if run.model.carries else BIN_NS - run.config.data.window_ns
    whole = Intervals([start_ns], [plan.stop_ns])
    return _Windows(plan.id, whole, np.zeros(1, np.int64), whole.start_ns, whole.stop_ns)


def _calibration(run: Run, tokens: SessionTokens) -> Intervals:
    """The session's calibration time, as in training; none where no input is of the session."""
    if not tokens.once:
        return Intervals.empty()
    rule = run.config.split  # days divide sessions; inside one, calibration is its training time
    rule = SplitRule("block") if rule.kind == "day" else rule
    return run.divide(tokens, rule, run.config.data.train_share).calibration


def _open(run: Run, session: TrainedSession, workspace: Workspace) -> SessionTokens:
    """The shards that a run was trained on, of one session."""
    windowed, once = {}, {}
    for name, wanted in run_inputs(run.config).items():
        made = session.shards[name]
        reader = ShardReader(workspace.shards / made["shard"])
        if reader.digest != made["digest"]:
            message = (
                f"{reader.path} has the digest {reader.digest[:12]}, {run.path.name} was trained on "
                f"{made['digest'][:12]}: train again"
            )
            raise ArtefactError(message)
        if wanted.per == "session":
            once[name] = Once(reader, wanted.most, wanted.choose)
        else:
            windowed[name] = reader
    return SessionTokens(windowed, once)
