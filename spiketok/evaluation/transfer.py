"""Cross-session transfer: how a trained model answers for a session that it never saw.

What is unusual:

- which sessions were trained on comes from the checkpoint; a trained one is refused unless ``within=True``, and then
  it is scored under its own protocol, ``within``; a trained recording under another name is always refused;
- calibration is the first stated seconds of the unseen session's training time, and no test window comes nearer to it
  than one window;
- a protocol is a row of a table, (what calibration shows) x (what moves); a model says which rows it has. Unlabelled
  means that no label is cut into a batch: only tasks without labels are asked;
- each session adapts alone, from the same checkpoint, so that no result depends on which others were asked for;
- where only the identity moves, that is checked: every other parameter must be bit-identical after;
- ``linear``, a ridge refit on the same calibration, always stands in the table: the floor that transfer must beat.

    protocol             calibration  moves
    zero_shot            none         nothing: the session's new rows stand at their initial values
    zero_gradient        unlabelled   what a forward pass sets (``Model.calibrate``)
    identity_unlabelled  unlabelled   identity_parameters([session]), by the loss of tasks without labels
    identity_only        labelled     identity_parameters([session])
    full                 labelled     everything, after some steps of the identity alone (gradual unfreezing, as POYO's
                                      fine-tuning)
    linear               labelled     ridge on lagged counts, fitted on the calibration alone
    within                            the model as it is, on the test time of a session that it was trained on
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from spiketok.errors import DataError, UnfitError, UnknownNameError, UsageError
from spiketok.evaluation.floor import floor_cell
from spiketok.evaluation.results import FLOOR, WITHIN, Cell, Event, SessionFacts, TransferResult, summarize
from spiketok.models.base import PROTOCOLS, Model, Part
from spiketok.models.batch import Progress
from spiketok.recording.identity import Recordings
from spiketok.recording.intervals import first_of, grown, seconds, without
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.recording.splits import SplitRule, check_disjoint
from spiketok.training.checkpoints import Run, TrainedSession, seed_of
from spiketok.training.config import OptimConfig, TransferConfig
from spiketok.training.loader import Loader
from spiketok.training.loop import deterministic, require_grid
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.predict import predict, session_loader
from spiketok.training.runs import require_inputs
from spiketok.training.sampling import RandomWindows, SequentialWindows, SessionTokens
from spiketok.training.sessions import (
    CALIBRATION,
    DividedSession,
    Stretches,
    divide,
    dropped_by_split,
    findings_told,
    require_heard,
    require_window,
)
from spiketok.training.tables import clip_, only
from spiketok.training.tasks.base import Task, own_sampler


def evaluate_transfer(
    run: Run,
    sessions: Sequence[SessionTokens],
    *,
    protocols: Sequence[str] | None = None,
    calibration_s: float = 30.0,
    within: bool = False,
    seed: int = 0,
    adapt: TransferConfig | None = None,
    device: torch.device | str | None = None,
    stored: Callable[[str], Session | None] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TransferResult:
    """Score a checkpoint on sessions that it never saw, by each protocol and by the floor.

    Args:
        run: from ``load_run``; it is not changed.
        sessions: shards of the inputs of the model and its tasks.
        protocols: of :data:`PROTOCOLS`; by default those that the model has, and ``zero_shot``.
        calibration_s: seconds of time that adaptation sees.
        within: also take sessions that the model was trained on.
        adapt: how to adapt; the run's own settings by default.
        device: where to compute; by default one of the kind that the run's ``optim.accelerator`` names.
        stored: gives a session by its id from the store, of which the floor counts its bins; None where the store is
            not at hand (a run on binned counts needs none).
        on_event: called with a dict for each logged step (``"adapt"``) and each score (``"score"``).

    Raises:
        UsageError: a trained session without ``within``, a trained recording under another name, an unknown protocol,
            a shard by another scheme or other fields than the run reads.
        UnfitError: sessions with nothing to score, too little calibration or no test time.
    """
    protocols = _checked_protocols(run, protocols)
    if not calibration_s > 0:
        message = f"calibration is {calibration_s} s, must be above 0"
        raise UsageError(message)
    trained = {s.id for s in run.trained_on}
    _refuse_trained(run, sessions, within)
    require_inputs(run.config, sessions)
    emit = on_event or (lambda event: None)
    adapt = adapt or run.config.transfer
    if device is None:
        device = Fabric(accelerator=run.config.optim.accelerator, devices=1).device
    device = torch.device(device)
    facts, cells = [], []
    for tokens, session in _transfer_sessions(run, sessions, calibration_s):
        known = session.id in trained
        facts.append(
            SessionFacts(
                TrainedSession.of(tokens),
                known,
                session.splits[CALIBRATION],
                session.splits["test"],
                dropped_by_split([session]),
                str(session.reach),
                session.valid_is_test,
            )
        )
        unseen = _Unseen(run, session, adapt, seed_of(seed, zlib.crc32(session.id.encode())), device, emit)
        for protocol in [WITHIN] if known else protocols:
            with deterministic(device):
                cells += _evaluate(unseen, protocol)
            _tell(emit, cells, len(session.tasks))
        with deterministic(device):
            cells += [floor_cell(run.config, session, task, stored) for task in session.tasks]
        _tell(emit, cells, len(session.tasks))
    shown = (*([WITHIN] if any(f.trained_on for f in facts) else []), FLOOR)
    shown += tuple(protocols) if not all(f.trained_on for f in facts) else ()
    summary = {
        t.name: {
            p: summarize([c for c in cells if (c.protocol, c.task) == (p, t.name)], t.metrics, seed) for p in shown
        }
        for t in run.tasks
    }
    told = tuple(findings_told(sessions, run.tasks))
    return TransferResult(
        run, run.tasks, shown, float(calibration_s), adapt, seed, tuple(facts), tuple(cells), summary, told
    )


def _tell(emit: Callable[[Event], None], cells: Sequence[Cell], last: int) -> None:
    """Events of the last few cells."""
    for cell in cells[len(cells) - last :]:
        emit(
            {
                "event": "score",
                "cell": f"{cell.session} {cell.protocol}",
                "session": cell.session,
                "protocol": cell.protocol,
                "task": cell.task,
                "score": cell.score,
                "reason": cell.reason,
                "trained_parameters": cell.trained_parameters,
            }
        )


def _checked_protocols(run: Run, protocols: Sequence[str] | None) -> tuple[str, ...]:
    if protocols is None:
        protocols = ("zero_shot", *run.model.protocols)
    for name in protocols:
        if name not in PROTOCOLS:
            raise UnknownNameError("protocol", name, PROTOCOLS)
    if not protocols:
        message = f"no protocol is named: give some of {', '.join(PROTOCOLS)}"
        raise UsageError(message)
    return tuple(p for p in PROTOCOLS if p in protocols)


def _refuse_trained(run: Run, sessions: Sequence[SessionTokens], within: bool) -> None:
    trained = {s.id: s for s in run.trained_on}
    if not sessions:
        message = f"no session to evaluate: the model was trained on {', '.join(sorted(trained))}; give others"
        raise UsageError(message)
    seen = sorted(s.id for s in sessions if s.id in trained)
    if seen and not within:
        message = (
            f"the model was trained on {', '.join(seen)}: choose unseen sessions by --sessions GLOB, or add --within "
            "to score trained ones too"
        )
        raise UsageError(message)
    recordings = Recordings.of(s.identity for s in run.trained_on)
    for session in sessions:
        same = recordings.like(TrainedSession.of(session).identity) if session.id not in trained else []
        for other, what in same:
            if what.always:  # of other parts of a recording only who has the store can say whether they share time
                message = (
                    f"{session.id} is the recording of {other.session}, which the model was trained on (they share "
                    f"{what.words}): leave it out by --sessions GLOB"
                )
                raise UsageError(message)


# ---- a session's calibration and test time --------------------------------------------------------------------------


def _transfer_sessions(
    run: Run, sessions: Sequence[SessionTokens], calibration_s: float
) -> list[tuple[SessionTokens, DividedSession]]:
    """Each session with its parts, in order of id; all are looked at before the first adapts.

    Raises:
        UnfitError: some have too little time.
    """
    found, unfit = [], {}
    for tokens in sorted(sessions, key=lambda s: s.id):
        try:
            found.append((tokens, _transfer_session(run, tokens, calibration_s)))
        except DataError as error:
            unfit[tokens.id] = str(error)
    if unfit:
        raise UnfitError(unfit)
    return found


def _transfer_session(run: Run, tokens: SessionTokens, calibration_s: float) -> DividedSession:
    """The session with two parts of its usable time, ``calibration`` and ``test``, at least one window apart."""
    window_ns = run.config.data.window_ns
    require_grid(tokens, run.config)
    if all(task.why_not(tokens) for task in run.tasks):
        message = f"{tokens.id}: {run.tasks[0].why_not(tokens)}"
        raise DataError(message)
    rule = run.config.split  # days divide sessions; inside an unseen one, calibration comes first and test last
    session = divide(tokens, run.tasks, SplitRule("block") if rule.kind == "day" else rule)
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
    divided = replace(session, splits={CALIBRATION: calibration, "test": test})
    for part in divided.splits:
        require_window(divided.windows(part), part, window_ns)
    require_heard(divided)
    return divided


# ---- protocols ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Unseen:
    """One session on which protocols are evaluated."""

    run: Run
    session: DividedSession
    adapt: TransferConfig
    seed: int
    device: torch.device
    emit: Callable[[Event], None]

    def model(self) -> Model:
        """A copy of the trained model that knows the session; its new rows are the same in every protocol."""
        model = copy.deepcopy(self.run.model)
        torch.manual_seed(self.seed)
        model.add_sessions([self.session.tokens.info])
        return model.to(self.device)

    def loader(self, model: Model, tasks: Sequence[Task], sampler, batch_size: int) -> Loader:
        """Windows of the calibration time, with what these tasks ask."""
        time = self.session.calibration
        return session_loader(model, sampler, batch_size, tasks=tasks, calibration=time, seed=self.seed)


def _evaluate(unseen: _Unseen, protocol: str) -> list[Cell]:
    """A cell a task."""
    session, model, trained = unseen.session, unseen.model(), 0
    reason = "" if protocol == WITHIN else model.why_not(protocol, session.id)
    tasks = _learned(session, protocol)
    if not reason and protocol != WITHIN and PROTOCOLS[protocol][1] in ("identity", "all") and not tasks:
        reason = f"its tasks ({', '.join(t.name for t in session.tasks)}) all need labels"
    if reason:
        return [Cell(session.id, protocol, task.name, None, reason) for task in session.tasks]
    known = session.calibration  # what the inputs of the session are cut of
    moves = "nothing" if protocol == WITHIN else PROTOCOLS[protocol][1]
    if protocol == "zero_shot":
        known = Intervals.empty()
    elif moves == "calibrate":
        sampler = SequentialWindows([session.windows(CALIBRATION)], unseen.run.config.data.window_ns)
        batches = unseen.loader(model, tasks, sampler, unseen.adapt.batch_size)
        model.calibrate(batch.to(unseen.device) for batch in batches)
        known = Intervals.empty()  # what calibrate took in is all that it knows
    elif moves in ("identity", "all"):
        trained = _adapt(unseen, model, protocol, tasks)
    answers = predict(model, session, "test", unseen.run.config, unseen.device, calibration=known)
    return [Cell(session.id, protocol, name, answers.score(name), "", trained, a) for name, a in answers.items()]


def _learned(session: DividedSession, protocol: str) -> tuple[Task, ...]:
    """The tasks whose loss an adaptation may use."""
    labelled = protocol == WITHIN or PROTOCOLS[protocol][0] == "labelled"
    return tuple(task for task in session.tasks if labelled or not task.labelled)


def _adapt(unseen: _Unseen, model: Model, protocol: str, tasks: Sequence[Task]) -> int:
    """Train on the calibration in place; returns how many numbers were trained."""
    identity, adapt = model.identity_parameters([unseen.session.id]), unseen.adapt
    model.fit_sessions(Stretches([unseen.session], CALIBRATION, labelled=False))
    if PROTOCOLS[protocol][1] == "identity":
        before = _others(model, identity)
        _train(unseen, model, identity, protocol, tasks, adapt.identity_steps, adapt.identity_lr, 0.0)
        changed = [name for name, tensor in _others(model, identity).items() if not _same_bits(tensor, before[name])]
        if changed:
            message = f"{protocol} changed {', '.join(changed[:4])}, which are not identity parameters: a bug"
            raise AssertionError(message)
        return sum(part.value.numel() for part in identity)
    if identity and adapt.unfreeze_after:
        _train(unseen, model, identity, protocol, tasks, adapt.unfreeze_after, adapt.identity_lr, 0.0)
    every = [Part(p) for p in model.parameters()]
    _train(unseen, model, every, protocol, tasks, adapt.full_steps, adapt.full_lr, adapt.weight_decay)
    return sum(part.value.numel() for part in every)


def _others(model: nn.Module, identity: Sequence[Part]) -> dict[str, Tensor]:
    """Copies of all that is no part of an identity: whole parameters, and the other rows of tables."""
    own: dict[int, list[slice | None]] = {}
    for part in identity:
        own.setdefault(id(part.parameter), []).append(part.rows)
    found = {}
    for name, p in model.named_parameters():
        rows = own.get(id(p), [])
        if None not in rows:
            other = torch.ones(len(p) if rows else (), dtype=torch.bool, device=p.device)
            for part in rows:
                other[part] = False
            found[name] = p.detach()[other]  # a copy
    return found


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def _train(
    unseen: _Unseen,
    model: Model,
    parts: Sequence[Part],
    protocol: str,
    tasks: Sequence[Task],
    steps: int,
    lr: float,
    decay: float,
) -> None:
    """``steps`` of AdamW on random calibration windows, cosine to zero, all units kept."""
    session = unseen.session
    optim = OptimConfig(name="adamw", lr=lr, weight_decay=decay, schedule="cosine", steps=steps, clip=1.0)
    windows = session.windows(CALIBRATION)
    window_ns = unseen.run.config.data.window_ns
    sampler = own_sampler(tasks, [windows], window_ns, seed=unseen.seed, training=True)
    if sampler is None:
        sampler = RandomWindows([windows], window_ns, seed=unseen.seed)
    loader = unseen.loader(model, tasks, sampler, unseen.adapt.batch_size)
    model.train()
    parameters = list({id(part.parameter): part.parameter for part in parts}.values())
    with only(model, parts):
        optimizer = build_optimizer(model, optim, parameters)
        batches = (batch for _ in count() for batch in loader)
        for step, batch in zip(range(steps), batches, strict=False):
            set_rates(optimizer, step, steps, optim, len(loader))
            torch.manual_seed(seed_of(unseen.seed, step))
            batch, progress = batch.to(unseen.device), Progress(step, steps)
            model.begin_step(progress)
            loss = model.loss(batch, model(batch), progress)["total"]
            optimizer.zero_grad()
            loss.backward()
            clip_(parameters, optim.clip)
            optimizer.step()
            if (step + 1) % 20 == 0 or step + 1 == steps:
                unseen.emit(
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
        optimizer.catch_up()
    model.eval()
