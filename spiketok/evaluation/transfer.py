"""Cross-session transfer: how a trained model decodes a session that it never saw.

What is unusual:

- which sessions were trained on comes from the checkpoint; a trained one is refused unless ``within=True``, and then
  it is scored under its own protocol, ``within``; a trained recording under another name is always refused;
- calibration is the first stated seconds of the unseen session's training time, labelled, and no test window comes
  nearer to it than one window;
- each session adapts alone, from the same checkpoint, so that no result depends on which others were asked for;
- ``identity_only`` is checked: every parameter outside ``identity_parameters([session])`` must be bit-identical after;
- ``linear``, a ridge refit on the same calibration, always stands in the table: the floor that transfer must beat.

Protocols:

    zero_shot       the session's new rows at their initial values; nothing is learned
    zero_gradient   a forward pass over unlabelled calibration (only models without identity parameters)
    identity_only   labelled calibration trains identity_parameters([session]) and nothing else
    full            labelled calibration trains everything, after some steps of the identity alone (gradual unfreezing,
                    as POYO's fine-tuning)
    linear          ridge on lagged counts, fitted on the labelled calibration alone
    within          the model as it is, on the test time of a session that it was trained on
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.floor import FLOOR, _floor
from spiketok.evaluation.results import Cell, Event, SessionFacts, TransferResult, _Task, summarize
from spiketok.models.base import Model
from spiketok.recording.intervals import first_of, grown, seconds, without
from spiketok.recording.nouns import NS_PER_S
from spiketok.recording.splits import SplitRule, check_disjoint
from spiketok.tokens.shards import ShardReader
from spiketok.training.checkpoints import Run, TrainedSession, seed_of
from spiketok.training.config import OptimConfig, TransferConfig, model_class
from spiketok.training.loader import Loader
from spiketok.training.loop import R2, deterministic, require_grid
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.sampling import RandomWindows
from spiketok.training.sessions import LabelledSession, dropped_by_split, label_session, require_window

PROTOCOLS = ("zero_shot", "zero_gradient", "identity_only", "full")
DEFAULT_PROTOCOLS = ("zero_shot", "identity_only", "full")
WITHIN = "within"


def evaluate_transfer(
    run: Run,
    readers: Sequence[ShardReader],
    *,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    calibration_s: float = 30.0,
    within: bool = False,
    seed: int = 0,
    adapt: TransferConfig | None = None,
    device: torch.device | str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TransferResult:
    """Score a checkpoint on sessions that it never saw, by each protocol and by the floor.

    Args:
        run: from ``load_run``; it is not changed.
        readers: shards of the scheme that the model reads.
        protocols: of :data:`PROTOCOLS`.
        calibration_s: seconds of labelled time that adaptation sees.
        within: also take sessions that the model was trained on.
        adapt: how to adapt; the run's own settings by default.
        device: where to compute; by default one of the kind that the run's ``optim.accelerator`` names.
        on_event: called with a dict for each logged step (``"adapt"``) and each score (``"score"``).

    Raises:
        UsageError: a trained session without ``within``, a trained recording under another name, an unknown protocol,
            another scheme.
        DataError: no behaviour, too little calibration or no test time; the message says which session.
    """
    protocols = _checked_protocols(protocols)
    if not calibration_s > 0:
        message = f"calibration is {calibration_s} s, must be above 0"
        raise UsageError(message)
    trained = {s.id for s in run.trained_on}
    _refuse_trained(run, readers, within)
    emit = on_event or (lambda event: None)
    adapt = adapt or run.config.transfer
    if device is None:
        device = Fabric(accelerator=run.config.optim.accelerator, devices=1).device
    device = torch.device(device)
    facts, cells = [], []
    for reader in sorted(readers, key=lambda r: r.info.id):
        session = _transfer_session(run, reader, calibration_s)
        known = session.id in trained
        facts.append(
            SessionFacts(
                TrainedSession.of(reader),
                known,
                session.splits["calibration"],
                session.splits["test"],
                dropped_by_split([session]),
                str(session.reach),
                session.valid_is_test,
            )
        )
        task = _Task(run, session, adapt, seed_of(seed, zlib.crc32(session.id.encode())), device, emit)
        for protocol in ([WITHIN] if known else [*protocols]) + [FLOOR]:
            with deterministic(device):
                cells.append(_evaluate(task, protocol))
            emit(_score_event(cells[-1]))
    shown = (*([WITHIN] if any(f.trained_on for f in facts) else []), FLOOR)
    shown += tuple(protocols) if not all(f.trained_on for f in facts) else ()
    summary = {p: summarize([c for c in cells if c.protocol == p], seed) for p in shown}
    return TransferResult(run, shown, float(calibration_s), True, adapt, seed, tuple(facts), tuple(cells), summary)


def _checked_protocols(protocols: Sequence[str]) -> tuple[str, ...]:
    for name in protocols:
        if name not in PROTOCOLS:
            raise UnknownNameError("protocol", name, PROTOCOLS)
    if not protocols:
        message = f"no protocol is named: give some of {', '.join(PROTOCOLS)}"
        raise UsageError(message)
    return tuple(p for p in PROTOCOLS if p in protocols)


def _refuse_trained(run: Run, readers: Sequence[ShardReader], within: bool) -> None:
    trained = {s.id: s for s in run.trained_on}
    if not readers:
        message = f"no session to evaluate: the model was trained on {', '.join(sorted(trained))}; give others"
        raise UsageError(message)
    seen = sorted(r.info.id for r in readers if r.info.id in trained)
    if seen and not within:
        message = (
            f"the model was trained on {', '.join(seen)}: choose unseen sessions by --sessions GLOB, or add --within "
            "to score trained ones too"
        )
        raise UsageError(message)
    recordings = {s.source_sha256: s.id for s in run.trained_on}
    for reader in readers:
        same = recordings.get(reader.manifest["source"]["sha256"])
        if reader.info.id not in trained and same is not None:
            message = (
                f"{reader.info.id} was made from the same file as {same}, which the model was trained on: "
                "leave it out by --sessions GLOB"
            )
            raise UsageError(message)


# ---- a session's calibration and test time --------------------------------------------------------------------------


def _transfer_session(run: Run, reader: ShardReader, calibration_s: float) -> LabelledSession:
    """The session with two parts of its usable time, ``calibration`` and ``test``, at least one window apart."""
    scheme, window_ns = model_class(run.config.model).scheme, run.config.data.window_ns
    if reader.scheme.name != scheme:
        message = f"{reader.info.id}: its shard has scheme '{reader.scheme.name}', the model reads '{scheme}'"
        raise UsageError(message)
    require_grid(reader, run.config)
    _require_target(run, reader)
    rule = run.config.split  # days divide sessions; inside an unseen one, calibration comes first and test last
    session = label_session(reader, run.target.name, SplitRule("block") if rule.kind == "day" else rule)
    calibration = first_of(session.splits["train"], round(calibration_s * NS_PER_S))
    if seconds(calibration) < calibration_s - 1e-9:
        message = (
            f"{session.id}: {calibration_s:g} s of calibration are asked for and its training time has "
            f"{seconds(calibration):.1f} s: use --calibration-s {max(int(seconds(calibration)), 1)}"
        )
        raise DataError(message)
    guard = grown(calibration, window_ns)
    test = without(session.splits["test"], guard)
    check_disjoint({"calibration": guard, "test": test})
    divided = replace(session, splits={"calibration": calibration, "test": test})
    for part in divided.splits:
        require_window(divided.windows(part), part, window_ns)
    return divided


def _require_target(run: Run, reader: ShardReader) -> None:
    target, signals = run.target, reader.info.signals
    if target.name not in signals:
        message = (
            f"{reader.info.id}: it has no signal '{target.name}', which the model decodes "
            f"(it has {', '.join(sorted(signals)) or 'none'})"
        )
        raise DataError(message)
    components, measure = signals[target.name]
    if (tuple(components), measure) != (target.components, target.measure):
        message = (
            f"{reader.info.id}: '{target.name}' is ({', '.join(components)}) in '{measure}', the model decodes "
            f"({', '.join(target.components)}) in '{target.measure}'"
        )
        raise DataError(message)


# ---- protocols ------------------------------------------------------------------------------------------------------


def _evaluate(task: _Task, protocol: str) -> Cell:
    if protocol == FLOOR:
        return _floor(task)
    model, trained = task.model(), 0
    reason = why_not(model, protocol, task.session.id)
    if reason:
        return Cell(task.session.id, protocol, None, reason)
    if protocol in ("identity_only", "full"):
        trained = _adapt(task, model, protocol)
    prediction = task.test(model)
    return Cell(task.session.id, protocol, prediction.score(), "", trained, prediction)


def why_not(model: Model, protocol: str, session_id: str) -> str:
    """Why a protocol does not apply to a model; empty where it does."""
    has_identity = bool(model.identity_parameters([session_id]))
    if protocol == WITHIN:
        return ""
    if model.closed_form:
        return "closed form: it has no weights for an unseen session; its refit is the row 'linear'"
    if protocol == "zero_shot" and model.one_session_batches and has_identity:
        return "its read-in is a session's own and nothing has trained the new one"
    if protocol == "zero_gradient" and has_identity:
        return "a new session has parameters of its own, which a forward pass cannot set"
    if protocol == "identity_only" and not has_identity:
        return "it has no parameters of a session's own"
    return ""


def _adapt(task: _Task, model: Model, protocol: str) -> int:
    """Train on the calibration in place; returns how many numbers were trained."""
    identity = model.identity_parameters([task.session.id])
    adapt = task.adapt
    if protocol == "identity_only":
        before = _others(model, identity)
        _train(task, model, identity, protocol, adapt.identity_steps, adapt.identity_lr, 0.0)
        changed = [name for name, tensor in _others(model, identity).items() if not _same_bits(tensor, before[name])]
        if changed:
            message = f"identity_only changed {', '.join(changed[:4])}, which are not identity parameters: a bug"
            raise AssertionError(message)
        return sum(p.numel() for p in identity)
    if identity and adapt.unfreeze_after:
        _train(task, model, identity, protocol, adapt.unfreeze_after, adapt.identity_lr, 0.0)
    every = list(model.parameters())
    _train(task, model, every, protocol, adapt.full_steps, adapt.full_lr, adapt.weight_decay)
    return sum(p.numel() for p in every)


def _others(model: nn.Module, identity: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    own = {id(p) for p in identity}
    return {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in own}


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


@contextmanager
def _only_trainable(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    chosen = {id(p) for p in parameters}
    before = [(p, p.requires_grad) for p in model.parameters()]
    for p, _ in before:
        p.requires_grad_(id(p) in chosen)
    try:
        yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)


def _train(
    task: _Task, model: Model, parameters: Sequence[nn.Parameter], protocol: str, steps: int, lr: float, decay: float
) -> None:
    """``steps`` of AdamW on random calibration windows, cosine to zero, all units kept."""
    session, info = task.session, task.session.reader.info
    optim = OptimConfig(name="adamw", lr=lr, weight_decay=decay, schedule="cosine", steps=steps, clip=1.0)
    windows = session.windows("calibration")
    sampler = RandomWindows([windows], task.run.config.data.window_ns, seed=task.seed)
    loader = Loader(
        [windows],
        sampler,
        batch_size=task.adapt.batch_size,
        target=task.run.target,
        unit_rows={session.id: model.unit_row(info)},
        session_rows={session.id: model.session_row(session.id)},
        one_session=model.one_session_batches,
        seed=task.seed,
    )
    model.train()
    with _only_trainable(model, parameters):
        optimizer = build_optimizer(model, optim, list(parameters))
        batches = (batch for _ in count() for batch in loader)
        for step, batch in zip(range(steps), batches, strict=False):
            set_rates(optimizer, step, steps, optim)
            torch.manual_seed(seed_of(task.seed, step))
            batch = batch.to(task.device)
            loss = model.loss(batch, model(batch))["total"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, optim.clip)
            optimizer.step()
            if (step + 1) % 20 == 0 or step + 1 == steps:
                task.emit(
                    {
                        "event": "adapt",
                        "cell": f"{session.id} {protocol}",
                        "session": session.id,
                        "protocol": protocol,
                        "step": step + 1,
                        "total_steps": steps,
                        "loss": float(loss.detach()),
                    }
                )
    model.eval()


def _score_event(cell: Cell) -> Event:
    score = {name: cell.score[name] for name in R2} if cell.score is not None else None
    return {
        "event": "score",
        "cell": f"{cell.session} {cell.protocol}",
        "session": cell.session,
        "protocol": cell.protocol,
        "score": score,
        "reason": cell.reason,
        "trained_parameters": cell.trained_parameters,
    }
