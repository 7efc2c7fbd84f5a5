"""The floor that transfer must beat: a linear decoder that saw the same seconds of calibration, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from spiketok.errors import ArtefactError, SpiketokError
from spiketok.evaluation.results import FLOOR, Cell
from spiketok.models.batch import Head
from spiketok.recording.nouns import NS_PER_MS, Session
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.config import RunConfig, load_config, model_class
from spiketok.training.predict import predict
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import CALIBRATION, DividedSession
from spiketok.training.tasks.base import Task
from spiketok.training.tasks.decode import Prediction

FLOOR_BINS = 50


def floor_cell(
    run: RunConfig, session: DividedSession, task: Task, stored: Callable[[str], Session | None] | None
) -> Cell:
    """Ridge on lagged counts, fitted on the session's calibration alone; scored at its bins, not at the raw samples.

    Args:
        stored: gives the session from the store, of which bins are counted; not asked if the run reads binned counts.
    """
    head = task.head()
    if head.output != "values":
        return Cell(session.id, FLOOR, task.name, None, f"a ridge has no answer to '{task.kind}'")
    try:
        config = floor_config(run, session.tokens)
        with binned_tokens(session.tokens, config, stored) as tokens:
            divided = replace(session, tokens=tokens, tasks=(task,))
            answers, fitted = _decode(config, divided, task, head)
    except ArtefactError:  # damage is no reason for an empty cell
        raise
    except SpiketokError as error:
        return Cell(session.id, FLOOR, task.name, None, str(error))
    return Cell(session.id, FLOOR, task.name, answers.score(task.name), "", fitted, answers[task.name])


def floor_answers(
    run: RunConfig, sessions: Sequence[DividedSession], task: Task, stored: Callable[[str], Session | None] | None
) -> list[Prediction]:
    """What the floor answers in several divisions of one session, whose bins are counted once.

    Raises:
        SpiketokError: it has no answer in one of them; the message says why.
    """
    config = floor_config(run, sessions[0].tokens)
    with binned_tokens(sessions[0].tokens, config, stored) as tokens:
        divided = [replace(session, tokens=tokens, tasks=(task,)) for session in sessions]
        return [_decode(config, one, task, task.head())[0][task.name] for one in divided]


def _decode(config: RunConfig, session: DividedSession, task: Task, head: Head):
    model = model_class(FLOOR)(config.model_config(), [head], config.timing)
    model.add_sessions([session.tokens.info])
    model.fit({session.id: session.stretches(CALIBRATION)})
    return predict(model, session, "test", config, torch.device("cpu")), model.n_fitted()


def floor_config(run: RunConfig, tokens: SessionTokens) -> RunConfig:
    """The run's own settings where it is linear; else linear's, with the run's windows.

    Bins that are cut here are a fiftieth of the window, at least linear's own: a run with long windows decodes slow
    behaviour, for which linear's fixed number of lags must reach further back to be a fair floor. A window is at least
    linear's own too: some models read windows of a single bin.
    """
    if run.model == FLOOR:
        return run
    config = load_config(FLOOR)
    if _binned(tokens) is not None:
        bin_ns = tokens.bin_ns
    else:
        bin_ms = max(run.data.window_ns // FLOOR_BINS // NS_PER_MS, 1)
        bin_ns = max(bin_ms * NS_PER_MS, round(config.data.bin_ms * NS_PER_MS))
    least_ns = run.data.window_ns if run.data.window_ns > tokens.bin_ns else config.data.window_ns
    window_ns = max(least_ns // bin_ns, 1) * bin_ns
    data = replace(config.data, window_ms=window_ns / NS_PER_MS, bin_ms=bin_ns / NS_PER_MS, eval_step_ms=None)
    return replace(config, data=data)


def _binned(tokens: SessionTokens) -> ShardReader | None:
    return next((r for r in tokens.windowed.values() if r.scheme.name == "binned"), None)


@contextmanager
def binned_tokens(
    tokens: SessionTokens, config: RunConfig, stored: Callable[[str], Session | None] | None
) -> Iterator[SessionTokens]:
    """The same session in bins: the run's binned shard, or one that is baked of the stored session.

    Raises:
        SpiketokError: there is neither.
    """
    reader = _binned(tokens)
    if reader is not None:
        yield SessionTokens({"counts": reader})
        return
    session = None if stored is None else stored(tokens.id)
    if session is None:
        message = f"{tokens.id} is not in the store, of which the floor counts its bins"
        raise SpiketokError(message)
    scheme = make_scheme("binned", bin_ns=round(config.data.bin_ms * NS_PER_MS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "binned"
        write_shard(path, scheme, session, tokens.segments, segments_rule="those of the run", store_digest="")
        yield SessionTokens({"counts": ShardReader(path)})
