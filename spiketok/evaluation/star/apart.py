"""Training and decoding in a process of its own, of which the processor time and the memory are measured.

What is unusual: a process's highest resident memory is of all that it ever did, so each measure of memory has a process
that does nothing else. It is spawned, not forked: a forked one would begin with its parent's memory. On a GPU torch's
own count of the device's memory is told instead.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from spiketok import stopping
from spiketok.errors import DataError, SpiketokError
from spiketok.recording.intervals import seconds
from spiketok.storage.records import run_checkpoint
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import load_run
from spiketok.training.config import RunConfig
from spiketok.training.loop import train
from spiketok.training.predict import predict
from spiketok.training.runs import device_of, open_shards
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import divide

PROBE_STEPS = 30  # of a run that was trained before, so many are timed anew; three lines of its metrics


def apart(function: Callable, *arguments: object) -> dict[str, object]:
    """What a function returns, from a fresh process that runs it alone.

    Args:
        function: of a module, as it is pickled by its name.

    Raises:
        DataError: the function raised an error of spiketok, whose line it holds, or its process died.
        RuntimeError: it raised another one.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, function, arguments), daemon=True)
    process.start()
    sending.close()
    try:
        kind, found = receiving.recv()
    except EOFError:
        process.join()
        message = f"the process that measured it ended with code {process.exitcode} (out of memory?)"
        raise DataError(message) from None
    finally:
        if sys.exc_info()[0] is not None and process.is_alive():
            process.terminate()
        process.join()
        receiving.close()
    if kind == "stopped":
        stopping.stop(found)
    if kind == "refused":
        raise DataError(found)
    if kind == "broken":
        raise RuntimeError(found)
    return found


def _work(sending, function: Callable, arguments: tuple) -> None:
    stopping.in_worker()
    try:
        answer = "done", stopping.job(function, *arguments)
    except KeyboardInterrupt as asked:
        answer = "stopped", str(asked)
    except SpiketokError as error:
        answer = "refused", str(error)
    except Exception:  # noqa: BLE001 - raised again in the parent
        answer = "broken", traceback.format_exc()
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more: what was trained is on disk
        sending.send(answer)
    sending.close()


def peak_bytes() -> int | None:
    """The highest resident memory of this process so far; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone: getrusage may hold what its parent had when it was spawned
        words = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()
        return int(words[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def _memory(device: torch.device, before: int | None) -> dict[str, object]:
    if device.type == "cuda":
        return {"device": "cuda", "peak_bytes": torch.cuda.max_memory_allocated(device), "before_bytes": 0}
    return {"device": device.type, "peak_bytes": peak_bytes(), "before_bytes": before}


# ---- training -------------------------------------------------------------------------------------------------------


def trained_apart(
    workspace: Workspace, config: RunConfig, session_ids: Sequence[str], run_dir: Path
) -> dict[str, object]:
    """Train a run, or time some steps of one that is finished, and say what it took.

    Returns:
        ``cpu_s``, ``wall_s`` of all its steps, with what is fitted before them; ``steps``; ``timed_steps``, fewer where
        the others are extrapolated; ``cpu_ms_per_window``, None without steps; ``peak_bytes``, ``before_bytes``,
        ``device``, ``threads``.
    """
    before = peak_bytes()
    opened = open_shards(workspace, session_ids, config)
    if (run_dir / "result.json").is_file():
        total = int(run_checkpoint(run_dir)["total_steps"])
        with tempfile.TemporaryDirectory() as folder:
            timed = _timed(probing(config, PROBE_STEPS, total), opened, Path(folder) / "probe", total)
    else:
        timed = _timed(config, opened, run_dir, None)
    return timed | _memory(device_of(config), before) | {"threads": torch.get_num_threads()}


def probing(config: RunConfig, steps: int, total: int) -> RunConfig:
    """The first steps of a run, for their time alone."""
    return replace(config, optim=replace(config.optim, epochs=None, steps=min(steps, total), validate_every=0))


def step_cpu_s(workspace: Workspace, config: RunConfig, session_ids: Sequence[str], total: int) -> dict[str, float]:
    """CPU seconds of one step of a run, measured on its first ones."""
    with tempfile.TemporaryDirectory() as folder:
        opened = open_shards(workspace, session_ids, config)
        timed = _timed(probing(config, PROBE_STEPS, total), opened, Path(folder) / "probe", total)
    return {"cpu_s_per_step": timed["cpu_s_per_step"]}


def _timed(config: RunConfig, opened: Sequence[SessionTokens], run_dir: Path, total: int | None) -> dict[str, object]:
    marks: list[tuple[str, int, float, float]] = []

    def listen(event: dict) -> None:
        if event["event"] in ("start", "step", "checkpoint"):
            marks.append((event["event"], int(event["step"]), time.process_time(), time.perf_counter()))

    result = train(config, opened, run_dir, on_event=listen)
    return step_times(marks, total or result.total_steps, config.data.batch_size * config.optim.accumulate)


def step_times(
    marks: Sequence[tuple[str, int, float, float]], total: int, windows: int
) -> dict[str, float | int | None]:
    """What all steps of a training took, from moments of some of them.

    Args:
        marks: event (``"start"``, ``"step"``, ``"checkpoint"``), step, CPU and wall seconds. total: steps of the run.
        windows: of a step.

    >>> marks = [("start", 0, 1.0, 1.0), ("step", 10, 4.0, 5.0), ("step", 30, 8.0, 9.0)]
    >>> found = step_times(marks, 100, 32)
    >>> found["cpu_s"], found["timed_steps"], found["cpu_ms_per_window"]
    (22.0, 30, 6.25)
    """
    (_, begun, *start), steps = marks[0], [mark for mark in marks if mark[0] == "step"]
    if not steps:  # a model without parameters: what it fits is all
        cpu_s, wall_s = (float(end - first) for first, end in zip(start, marks[-1][2:], strict=True))
        told = {"steps": 0, "timed_steps": 0, "cpu_ms_per_window": None, "cpu_s_per_step": None}
        return {"cpu_s": cpu_s, "wall_s": wall_s} | told
    (_, first, *early), (_, last, *late) = steps[0], steps[-1]
    if first == last:
        first, early = begun, start
    took = []
    for k in (0, 1):
        each = (late[k] - early[k]) / (last - first)
        fixed = max(early[k] - start[k] - each * (first - begun), 0.0)
        took.append((fixed + each * total, each))
    (cpu_s, each_s), (wall_s, _) = took
    return {
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "steps": total,
        "timed_steps": last - begun,
        "cpu_ms_per_window": 1000 * each_s / windows,
        "cpu_s_per_step": each_s,
    }


# ---- decoding -------------------------------------------------------------------------------------------------------


def decoded_apart(workspace: Workspace, session_ids: Sequence[str], run_dir: Path) -> dict[str, object]:
    """Decode the test time of a run's sessions as an evaluation does, and say what it took.

    Returns:
        ``recording_s`` of test time; ``cpu_ms_per_s``, ``wall_ms_per_s`` of it; ``peak_bytes``, ``before_bytes``,
        ``device``, ``threads``.
    """
    before, run = peak_bytes(), load_run(run_dir)
    device, config = device_of(run.config), run.config
    model = run.model.to(device)
    cpu_s = wall_s = recording_s = 0.0
    for k, tokens in enumerate(open_shards(workspace, session_ids, config)):
        session = divide(tokens, run.tasks, config.split, config.data.train_share)
        if not k:  # loops are compiled and buffers made by the first pass, which is not timed
            predict(model, session, "test", config, device, modes=False)
        begun = time.process_time(), time.perf_counter()
        predict(model, session, "test", config, device, modes=False)
        cpu_s, wall_s = cpu_s + time.process_time() - begun[0], wall_s + time.perf_counter() - begun[1]
        recording_s += seconds(session.splits["test"])
    rates = {"cpu_ms_per_s": 1000 * cpu_s / recording_s, "wall_ms_per_s": 1000 * wall_s / recording_s}
    return {"recording_s": recording_s} | rates | _memory(device, before) | {"threads": torch.get_num_threads()}
