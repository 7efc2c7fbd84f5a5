"""Training: one loop on Lightning Fabric, from shards to a checkpoint and its scores.

What is unusual:

- each step's randomness is drawn from (seed, step, rank) alone, the loader's from (seed, epoch), and the learning rate
  is a function of the step: a run that was killed and resumed ends in the same bytes on the CPU, with the same number
  of threads;
- the checkpoint that counts is the last one, never the best on validation: schedules end low, and nothing is selected;
- ``metrics.jsonl`` is cut back to the checkpoint's step on resume, so no step stands in it twice.

Written into the run's folder: ``config.json`` (resolved), ``metrics.jsonl``, ``checkpoint/``, ``result.json``.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from spiketok.errors import DataError, TooLargeError, UsageError
from spiketok.models.base import Model
from spiketok.models.batch import Batch, Progress
from spiketok.recording.intervals import seconds
from spiketok.stopping import later, stop
from spiketok.storage.causes import asked_for, is_of_memory
from spiketok.storage.files import clean_leftovers, write_signed
from spiketok.storage.locks import inside, locked
from spiketok.storage.records import STEPS, checkpoint_digest
from spiketok.training.checkpoints import (
    Run,
    TrainedSession,
    load_optimizer,
    load_start,
    optimizer_tensors,
    read_facts,
    read_tensors,
    remove,
    require_base,
    require_same_split,
    require_trained_read_ins,
    seed_of,
    seen_before,
    start_from,
    taken_over,
    waiting_tensors,
    write_checkpoint,
)
from spiketok.training.config import RunConfig, model_class
from spiketok.training.curriculum import require_all_met, require_named, training_sampler
from spiketok.training.latents import require_latents
from spiketok.training.loader import Loader
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.predict import Answers, score_split
from spiketok.training.runs import require_inputs
from spiketok.training.sampling import SessionTokens, listing
from spiketok.training.sessions import (
    DividedSession,
    Stretches,
    divide,
    divide_days,
    divide_each,
    dropped_by_split,
    findings_told,
    stand_in_line,
)
from spiketok.training.step_log import Event, StepLog
from spiketok.training.tables import average_rows, clip_, keep_from_ddp, tables_of
from spiketok.training.tasks import TASKS
from spiketok.training.tasks.base import Score, Task
from spiketok.training.unit_dropout import UnitDropout

LOG_EVERY = 10  # steps between two lines of metrics.jsonl


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Args:
        run_dir: where it lies.
        step, total_steps: equal, as training ends with its last step.
        scores: by session id and task: the scores of the test split, with ``scored_s`` and ``unanswered_s``; empty
            where the split rule leaves no test time.
        answers: by session id and task, the predictions behind the scores.
        resumed_from: the step that an earlier, killed run had reached; 0 for a fresh one; ``total_steps`` where
            nothing was left to train.
        rank: of this process; with several devices only rank 0 has scores, and only it should print.
    """

    run_dir: Path
    step: int
    total_steps: int
    scores: dict[str, dict[str, Score]]
    resumed_from: int
    rank: int = 0
    answers: Mapping[str, Answers] = field(default_factory=dict)


def train(
    config: RunConfig,
    sessions: Sequence[SessionTokens],
    run_dir: Path,
    *,
    resume: Literal["auto", "must", "never"] = "auto",
    on_event: Callable[[Event], None] | None = None,
    base: Run | None = None,
    latents: Run | None = None,
) -> TrainResult:
    """Train a model, or go on with one that was interrupted, and score it on its sessions' test time.

    Args:
        config: the resolved configuration.
        sessions: the shards of each, by the inputs of the model and its tasks.
        run_dir: the run's folder; made if absent.
        resume: ``"auto"`` continues from a checkpoint that stands in ``run_dir``, ``"must"`` insists on one,
            ``"never"`` removes it and begins anew.
        on_event: called with a dict a step, validation, checkpoint and score; key ``"event"`` says which.
        base: the run whose weights it starts from, where the configuration names one (``start``).
        latents: the run whose latents the sessions have as a behaviour, where it names one (``latents``).

    Raises:
        DataError: nothing to learn, or no window fits. UsageError: the checkpoint in ``run_dir`` is of another
            configuration or of other sessions. ArtefactError: it cannot be read, or ``resume`` is ``"must"`` and there
            is none.
    """
    with contextlib.ExitStack() as held:
        return _train(config, sessions, Path(run_dir), resume, on_event, base, latents, held)


def _train(config, sessions, run_dir, resume, on_event, base, latents, held: contextlib.ExitStack) -> TrainResult:
    """:func:`train`, which holds the run's folder until ``held`` is closed."""
    asked = {tokens.id for tokens in sessions}
    require_base(config, base)
    require_latents(config, latents)
    divided, tasks = prepare(config, sessions)
    fabric = _launch(config)
    first = fabric.global_rank == 0
    emit = on_event if on_event is not None and first else _silent
    trained_on = [TrainedSession.of(s.tokens) for s in divided]
    for other in (base, latents):
        if other is not None:
            require_same_split(config, [s.id for s in divided], other)
    trained_on += seen_before((base, latents), [s.id for s in divided])
    if first:
        _prepare_folder(run_dir, resume, held)
    fabric.barrier()
    start = load_start(run_dir, config, trained_on, resume)
    if first:
        write_signed(run_dir / "config.json", config.to_dict())
    model = build_model(config, tasks, divided, base)
    by_steps = any(True for _ in model.parameters())  # of a model without any, fit is all
    if not by_steps:
        require_all_met(config, 0)
        loader, total = None, 1
    else:
        loader = train_loader(config, divided, model, tasks, rank=fabric.global_rank, world=fabric.world_size)
        total = config.optim.steps or config.optim.epochs * steps_in_epoch(loader, config)
    other_days = sorted(asked - {s.id for s in divided})
    told = {"other_days": other_days, "base": base.path.name if base is not None else ""}
    emit(_start_event(config, divided, tasks, model, loader, start, total) | told)
    checkpoint = _Checkpointer(run_dir, config, tasks, trained_on, total, emit if first else None)
    with deterministic(fabric.device):
        if start is not None:
            model.load_state_dict(read_tensors(run_dir, "model.safetensors", start, model))
        elif base is None:
            model.fit(Stretches(divided, "train"))
        else:
            known = {s.id for s in base.trained_on}
            model.fit_sessions(Stretches([s for s in divided if s.id not in known], "train"))
        if start is not None and start["step"] >= total:
            resumed_from = total
        elif not by_steps:
            resumed_from = 0
            checkpoint(model, None, 1, {}, {})
        else:
            resumed_from = int(start["step"]) if start is not None else 0
            held = taken_over(model, base) if base is not None and config.optim.hold_steps else []
            with later() as asked:
                _fit(fabric, config, model, loader, divided, run_dir, start, total, checkpoint, emit, held, asked)
        fabric.barrier()
        model.to(fabric.device)
        scores, answers = score_split(model, divided, "test", config, fabric.device) if first else ({}, {})
    if first:
        _write_result(run_dir, config, tasks, divided, trained_on, scores, total)
    emit({"event": "done", "step": total, "scores": scores})
    return TrainResult(run_dir, total, total, scores, resumed_from, fabric.global_rank, answers)


def _launch(config: RunConfig) -> Fabric:
    """Fabric on the devices of the configuration; with several, this program runs once more for each."""
    several = config.optim.devices > 1
    # a model with a read-in a session leaves those of other sessions without gradient
    unused = model_class(config.model).one_session_batches
    fabric = Fabric(
        accelerator=config.optim.accelerator,
        devices=config.optim.devices,
        precision=config.optim.precision,
        strategy=DDPStrategy(find_unused_parameters=unused) if several else "auto",
    )
    fabric.launch()
    return fabric


# ---- before the loop ------------------------------------------------------------------------------------------------


def prepare(config: RunConfig, sessions: Sequence[SessionTokens]) -> tuple[list[DividedSession], list[Task]]:
    """Resolve the tasks, divide each session's time, and fit the tasks on training time; order by session id.

    Raises:
        UnfitError: some sessions cannot serve the configuration. DataError, UsageError: none together can; the message
            says which session and why.
    """
    window_ns = config.data.window_ns
    if not sessions:
        message = "no session to train on: give at least one"
        raise UsageError(message)
    require_inputs(config, sessions)
    for tokens in sessions:
        require_grid(tokens, config)
    ordered, rule = sorted(sessions, key=lambda s: s.id), config.split
    if rule.kind == "day":  # sessions of later days are not trained on: eval-xsession scores them
        day = divide_days(ordered, rule)
        ordered, rule = [s for s in ordered if day[s.id] == "train"], replace(rule, kind="all")
        if not ordered:
            message = (
                f"split.kind=day with split.train={config.split.train:g} leaves no session of {len(day)} to train on"
            )
            raise DataError(message)
    require_named(config, [s.id for s in ordered])
    tasks = resolve_tasks(config, ordered)
    divided = divide_each(
        ordered,
        tasks,
        lambda tokens: divide(tokens, tasks, rule, config.data.train_share),
        lambda session: [split for split, allowed in session.splits.items() if split == "train" or len(allowed)],
        window_ns,
    )
    return divided, tasks


def resolve_tasks(config: RunConfig, sessions: Sequence[SessionTokens]) -> list[Task]:
    """The questions of a run on these sessions: those that it names, else the model's own.

    Of the model's own, one that no session can serve is left out. Where several are asked, each may be of some sessions
    alone: a session takes part in those that it has.

    Raises:
        UsageError: one question is asked twice.
        DataError: the sessions cannot serve it.
    """
    questions = config.questions()
    found: list[Task] = []
    for kind, about in questions:
        chosen = sessions
        if len(questions) > 1:
            chosen = [s for s in sessions if TASKS[kind].has(about, s)] or sessions
        try:
            task = TASKS[kind].resolve(about, chosen, config.task_config(kind))
        except DataError:
            if config.tasks or len(questions) == 1 or any(s.info.signals for s in sessions):
                raise
            continue
        if any(other.name == task.name for other in found):
            message = f"'{task.name}' is asked twice"
            raise UsageError(message)
        found.append(task)
    return found


def require_grid(tokens: SessionTokens, config: RunConfig) -> None:
    """Raise UsageError where the window is no whole number of the shards' bins."""
    for grid_ns in (tokens.grid_ns, tokens.length_grid_ns):
        if config.data.window_ns % grid_ns:
            message = (
                f"data.window_ms is {config.data.window_ms:g}, no multiple of the {grid_ns / 1e6:g} ms bins of "
                f"{tokens.id}: use --set data.window_ms=... or --set data.bin_ms=..."
            )
            raise UsageError(message)


@contextlib.contextmanager
def _all_of_it_stays() -> Iterator[None]:
    """Python looks for no garbage meanwhile: it would walk again and again through what thousands of sessions made."""
    again = gc.enable if gc.isenabled() else gc.disable
    gc.disable()
    try:
        yield
    finally:
        again()


@_all_of_it_stays()
def build_model(
    config: RunConfig, tasks: Sequence[Task], sessions: Sequence[DividedSession], base: Run | None = None
) -> Model:
    """A model with rows for the sessions; the same weights for the same seed, sessions and run that it starts from."""
    torch.manual_seed(seed_of(config.seed))
    try:
        model = model_class(config.model)(config.model_config(), [task.head() for task in tasks], config.timing)
        if base is not None:
            start_from(model, base)
        model.add_sessions([s.tokens.info for s in sessions])
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        raise _too_large(config, error) from error
    if base is not None:
        require_trained_read_ins(model, [s.id for s in sessions], base)
    return model


def _too_large(config: RunConfig, error: BaseException) -> TooLargeError:
    given = ", ".join(f"model.{key}={value}" for key, value in config.model_overrides.items())
    message = (
        f"{config.model} of size '{config.size}'{f' with {given}' if given else ''} does not fit into memory"
        f" ({asked_for(error) or error}): choose smaller values or a smaller --size"
    )
    return TooLargeError(message)


@_all_of_it_stays()
def train_loader(
    config: RunConfig,
    sessions: Sequence[DividedSession],
    model: Model,
    tasks: Sequence[Task],
    *,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Random windows of the training time of all sessions."""
    windows = [s.windows("train") for s in sessions]
    sampler = training_sampler(config, windows, tasks, one_session=model.one_session_batches)
    dropout = config.data.unit_dropout
    loader = Loader(
        windows,
        sampler,
        batch_size=config.data.batch_size,
        tasks=tasks,
        calibration={s.id: s.calibration for s in sessions if s.tokens.once_names},
        unit_rows={s.id: model.unit_row(s.tokens.info) for s in sessions},
        session_rows=model.session_rows([s.id for s in sessions]),
        unit_dropout=UnitDropout(dropout.min, dropout.mode, dropout.max, dropout.peak) if dropout is not None else None,
        one_session=model.one_session_batches,
        seed=config.seed,
        rank=rank,
        world=world,
    )
    require_all_met(config, steps_in_epoch(loader, config))
    return loader


def steps_in_epoch(loader: Loader, config: RunConfig) -> int:
    """Steps of the optimizer in one pass: batches whose gradients are added up make one."""
    return -(-len(loader) // config.optim.accumulate)


def _prepare_folder(run_dir: Path, resume: str, held: contextlib.ExitStack) -> None:
    clean_leftovers(run_dir)
    if resume == "must":
        read_facts(run_dir)
    held.enter_context(locked(inside(run_dir), f"run {run_dir}"))
    if resume == "never":
        remove(run_dir)
        for name in (STEPS, "result.json"):
            (run_dir / name).unlink(missing_ok=True)


def _start_event(config, sessions, tasks, model, loader, start, total) -> Event:
    return {
        "event": "start",
        "model": config.model,
        "size": config.size,
        "parameters": model.n_fitted(),
        "tasks": [task.name for task in tasks],
        "sessions": [s.id for s in sessions],
        "units": sum(s.tokens.info.n_units for s in sessions),
        "train_s": sum(seconds(s.splits["train"]) for s in sessions),
        "dropped": loader.dropped if loader is not None else dropped_by_split(sessions)["train"],
        "reach": str(sessions[0].reach),
        "stand_in": stand_in_line([s.id for s in sessions if s.valid_is_test], listing([task.name for task in tasks])),
        "findings": [told.line for told in findings_told([s.tokens for s in sessions], tasks)],
        "step": int(start["step"]) if start is not None else 0,
        "going_on": start is not None and start["step"] < total,
        "total_steps": total,
    }


# ---- the loop -------------------------------------------------------------------------------------------------------


def _fit(fabric, config, model, loader, sessions, run_dir, start, total, checkpoint, emit, held, asked) -> None:
    """The steps of a training; ``held`` are the parameters that stand still in the first ``optim.hold_steps``.

    Once somebody ``asked`` for the end, it is written as it is after a step, and goes on from there to the same bytes.
    """
    optim = config.optim
    optimizer = build_optimizer(model, optim)
    tables = [table.weight for table in tables_of(model)]
    keep_from_ddp(model)
    wrapped, stepper = fabric.setup(model, optimizer)  # moves the model in place
    held_back = {}
    if start is not None:
        held_back = read_tensors(run_dir, "train_state.safetensors", start, model)
        load_optimizer(model, optimizer, held_back)
        loader.load_state_dict(start["loader"])
    step = int(start["step"]) if start is not None else 0
    in_epoch = steps_in_epoch(loader, config)
    wrapped.train()
    metrics = StepLog(run_dir / STEPS, step) if fabric.global_rank == 0 else None
    if metrics is not None:
        metrics.put_back(held_back, fabric.device)
    while step < total:
        for last, batches in _added(loader, optim.accumulate):
            lr = set_rates(optimizer, step, total, optim, in_epoch)
            progress = Progress(step, total)
            model.begin_step(progress)
            for k, batch in enumerate(batches):
                torch.manual_seed(seed_of(config.seed, step, fabric.global_rank, *([k] if k else [])))
                batch = batch.to(fabric.device)
                with fabric.no_backward_sync(wrapped, enabled=k < last):
                    losses = model.loss(batch, wrapped(batch), progress)
                    fabric.backward(losses["total"] / (last + 1))
                if metrics is not None:
                    metrics.add(losses, len(batch))
            if fabric.world_size > 1:
                average_rows(tables)
            if step < optim.hold_steps:
                for parameter in held:
                    parameter.grad = None  # neither moved nor decayed, and no part of the norm that is clipped
            if optim.clip is not None:
                clip_(model.parameters(), optim.clip)
            stepper.step()
            stepper.zero_grad()
            step += 1
            save = step == total or (optim.checkpoint_every and step % optim.checkpoint_every == 0)
            validate = optim.validate_every and step % optim.validate_every == 0
            stopped = step < total and _all_know(fabric, asked())
            waiting = {}
            if stopped and not (save or validate):  # no step of its own: the rows must go on as if nothing was
                waiting = waiting_tensors(model, optimizer)
            if save or validate or stopped:  # by the step alone, so that a resumed run does the same
                optimizer.catch_up()
            if metrics is not None and (save or step % LOG_EVERY == 0):
                emit(metrics.line(step, total, loader.epoch, lr))
            elif metrics is not None and stopped:
                waiting |= metrics.waiting()
            if validate:
                scores, _ = score_split(model, sessions, "valid", config, fabric.device, modes=False)
                if metrics is not None and scores:
                    emit(metrics.validation(step, scores))
                wrapped.train()
            if save or stopped:
                checkpoint(model, optimizer, step, loader.state_dict(), waiting)
            if stopped:
                fabric.barrier()  # the process that writes is the last to end
                stop(f"{run_dir.name} is saved at step {step} of {total}")
            if step == total:
                break


def _all_know(fabric: Fabric, asked: bool) -> bool:
    """Whether any of the devices' processes was asked to stop: all end after the same step."""
    if fabric.world_size == 1:
        return asked
    return bool(fabric.all_reduce(torch.tensor(float(asked), device=fabric.device), reduce_op="sum"))


def _added(loader: Loader, accumulate: int) -> Iterator[tuple[int, Iterator[Batch]]]:
    """For each step of an epoch the number of its last batch and its batches; those at the end may be fewer."""
    batches = iter(loader)
    left = len(loader) - loader.batch
    while left > 0:
        n = min(accumulate, left)
        yield n - 1, itertools.islice(batches, n)
        left -= n
    next(batches, None)  # the loader moves to the next epoch


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU one order of summation in every kernel; on a GPU the fast kernels stay, and runs differ in bits."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and changes no result
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


class _Checkpointer:
    """Writes checkpoints of one training; on ranks other than the first it does nothing."""

    def __init__(self, run_dir, config, tasks, trained_on, total, emit) -> None:
        self.run_dir, self.emit = run_dir, emit
        self.facts = {"config": config, "tasks": tasks, "sessions": trained_on, "total_steps": total}

    def __call__(self, model, optimizer, step: int, loader_state, waiting: Mapping[str, torch.Tensor]) -> None:
        if self.emit is None:
            return
        state = (optimizer_tensors(model, optimizer) if optimizer is not None else {}) | waiting
        write_checkpoint(
            self.run_dir, model=model, train_state=state, step=step, loader_state=loader_state, **self.facts
        )
        self.emit({"event": "checkpoint", "step": step})


# ---- after the loop -------------------------------------------------------------------------------------------------


def _write_result(run_dir, config, tasks, sessions, trained_on, scores, total) -> None:
    facts = {
        "model": config.model,
        "size": config.size,
        "config_fingerprint": config.fingerprint(),
        "tasks": [{"name": task.name, "kind": task.kind, "metrics": list(task.metrics)} for task in tasks],
        "sessions": [asdict(s) for s in trained_on],
        "train_s": {s.id: seconds(s.splits["train"]) for s in sessions},
        "split_reach": {s.id: str(s.reach) for s in sessions},
        "dropped": dropped_by_split(sessions),
        "findings": [told._asdict() for told in findings_told([s.tokens for s in sessions], tasks)],
        "step": total,
        "checkpoint": "last",
        "checkpoint_digest": checkpoint_digest(run_dir),
        "test": scores,
        "test_mean": mean_scores(tasks, scores),
    }
    write_signed(run_dir / "result.json", facts)


def mean_scores(tasks: Sequence[Task], scores: dict[str, dict[str, Score]]) -> dict[str, dict[str, float]]:
    """By task, the plain mean of each metric over the sessions that have one; absent where none has."""
    means: dict[str, dict[str, float]] = {}
    for task in tasks:
        for name in task.metrics:
            values = [s[task.name][name] for s in scores.values() if task.name in s and s[task.name][name] is not None]
            if values:
                means.setdefault(task.name, {})[name] = float(np.mean(values))
    return means


def _silent(event: Event) -> None:
    """The listener of a training that nobody watches."""
