"""Cross-session transfer: how a trained model answers for a session that it never saw.

What is unusual:

- which sessions were trained on comes from the checkpoint; a trained one is refused unless ``within=True``, and then
  it is scored under its own protocol, ``within``; a trained recording under another name is always refused;
- calibration is so many seconds of the unseen session's training time, the first or others (``calibration``), and no
  test window comes nearer to it than one window;
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
    profile              labelled     numbers of each unit in closed form (``Model.fit_sessions``), no parameter
    mapped_unlabelled, mapped, adapted, adapted+linear: see ``adapted``
    aligned_pca, aligned_cca, few_shot: see ``alignment`` and ``few_shot``
    linear               labelled     ridge on lagged counts, fitted on the calibration alone
    within                            the model as it is, on the test time of a session that it was trained on
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import torch
from lightning_fabric import Fabric

from spiketok.errors import DataError, UnfitError, UnknownNameError, UsageError, the_one
from spiketok.evaluation.adapted import NoMap, begin, evaluate_mapped
from spiketok.evaluation.alignment import Alignments, aligned_cell
from spiketok.evaluation.calibration import How, calibration_of, check_draws
from spiketok.evaluation.few_shot import few_shot_cells
from spiketok.evaluation.floor import floor_cell
from spiketok.evaluation.kept import Kept
from spiketok.evaluation.maps import Maps, Opened, knows_units
from spiketok.evaluation.results import (
    ADAPTED,
    ALIGNED_CCA,
    ALIGNED_PCA,
    FEW_SHOT,
    FLOOR,
    KEPT,
    MIXED,
    OF_MAPS,
    ROWS,
    WITHIN,
    Cell,
    Event,
    SessionFacts,
    TransferResult,
)
from spiketok.evaluation.spread import paired_tests, summarize
from spiketok.evaluation.stress import Held, Stress, StressSettings, stress_session
from spiketok.evaluation.unseen import Unseen, still
from spiketok.models.base import PROTOCOLS, Model, Part
from spiketok.models.batch import Progress
from spiketok.recording.identity import Recordings
from spiketok.recording.intervals import grown, without
from spiketok.recording.nouns import Intervals, Session
from spiketok.recording.splits import SplitRule, check_disjoint
from spiketok.training.checkpoints import Run, TrainedSession, seed_of
from spiketok.training.loop import deterministic, require_grid
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.predict import predict
from spiketok.training.runs import require_inputs
from spiketok.training.sampling import RandomWindows, SequentialWindows, SessionTokens
from spiketok.training.sections import OptimConfig, TransferConfig
from spiketok.training.sessions import (
    CALIBRATION,
    DividedSession,
    Stretches,
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
    calibration: How = "first",
    repeats: int = 1,
    within: bool = False,
    seed: int = 0,
    adapt: TransferConfig | None = None,
    device: torch.device | str | None = None,
    stored: Callable[[str], Session | None] | None = None,
    trained: Opened | None = None,
    on_event: Callable[[Event], None] | None = None,
    keep: str | None = None,
    on_kept: Callable[[Kept], None] | None = None,
    stress: StressSettings | None = None,
) -> TransferResult:
    """Score a checkpoint on sessions that it never saw, by each protocol and by the floor.

    Args:
        run: from ``load_run``; it is not changed.
        sessions: shards of the inputs of the model and its tasks.
        protocols: of ``results.ROWS``; by default ``zero_shot``, those that the model has, and with ``trained`` those
            that begin at a map. ``linear`` is there anyway, ``adapted+linear`` comes with ``adapted``.
        calibration_s: seconds of time that adaptation sees. calibration: how they lie in the training time.
        repeats: draws of the calibration; each session is evaluated on each.
        within: also take sessions that the model was trained on.
        adapt: how to adapt; the run's own settings by default.
        device: where to compute; by default one of the kind that the run's ``optim.accelerator`` names.
        stored: gives a session by its id from the store, of which the floor counts its bins; None where the store is
            not at hand (a run on binned counts needs none).
        trained: opens the shards of trained sessions by their ids, of which a map is learned; None where they are not
            at hand.
        on_event: called with a dict for each logged step (``"adapt"``) and each score (``"score"``).
        keep: the row whose adapted models ``on_kept`` is called with, one a session that has one; of one draw.
        stress: score all rows again under perturbed spikes too, beside controls (:mod:`.stress`); of the first draw.

    Raises:
        UsageError: a trained session without ``within``, a trained recording under another name, an unknown protocol,
            a shard by another scheme or other fields than the run reads, a row that cannot be kept.
        UnfitError: sessions with nothing to score, too little calibration or no test time.
    """
    protocols = _checked_protocols(run, protocols, maps=trained is not None)
    check_draws(calibration, repeats)
    _check_keep(keep, protocols, repeats)
    if not calibration_s > 0:
        message = f"calibration is {calibration_s} s, must be above 0"
        raise UsageError(message)
    seen = {s.id for s in run.trained_on}
    _refuse_trained(run, sessions, within)
    require_inputs(run.config, sessions)
    emit = on_event or (lambda event: None)
    adapt = adapt or run.config.transfer
    if device is None:
        device = Fabric(accelerator=run.config.optim.accelerator, devices=1).device
    device = torch.device(device)
    maps = Maps(run, trained, stored, calibration_s, calibration, adapt, seed)
    alignments = Alignments(run, trained, stored, adapt, seed)
    facts, cells, stressed = [], [], []
    for tokens, session, repeat in _transfer_sessions(run, sessions, calibration_s, calibration, repeats, seed):
        known = session.id in seen
        facts.append(
            SessionFacts(
                TrainedSession.of(tokens),
                known,
                session.splits[CALIBRATION],
                session.splits["test"],
                dropped_by_split([session]),
                str(session.reach),
                session.valid_is_test,
                repeat,
            )
        )
        words = [zlib.crc32(session.id.encode()), *([repeat] if repeat else [])]
        adapted: dict[str, Model] = {}
        hold = adapted.__setitem__ if keep is not None else lambda protocol, model: None
        unseen = Unseen(run, session, adapt, seed_of(seed, *words), device, emit, maps, stored, hold, alignments)
        held = Held()
        if stress is not None and not repeat:
            unseen = replace(unseen, answered=held)
        first = len(cells)
        for protocol in (*([WITHIN] if known else protocols), FLOOR):
            with deterministic(device):
                found = _evaluate(unseen, protocol)
            cells += [replace(cell, repeat=repeat) for cell in found]
            _tell(emit, cells, len(found))
            model = adapted.pop(protocol, None)
            if model is not None and protocol == keep:
                own = [cell for cell in found if cell.protocol == keep]
                on_kept(Kept(run, session, model, keep, adapt, own, calibration_s, calibration, seed))
        if stress is not None and not repeat:
            with deterministic(device):
                stressed.append(stress_session(unseen, held, cells[first:], stress, _evaluate))
    shown = (*([WITHIN] if any(f.trained_on for f in facts) else []), FLOOR)
    if not all(f.trained_on for f in facts):
        shown += (*protocols, *([MIXED] if ADAPTED in protocols else []))
    of = {t.name: {p: [c for c in cells if (c.protocol, c.task) == (p, t.name)] for p in shown} for t in run.tasks}
    summary = {t.name: {p: summarize(of[t.name][p], t.metrics, seed) for p in shown} for t in run.tasks}
    paired = [test for t in run.tasks for test in paired_tests(of[t.name], t.name, t.metrics[0])]
    told = tuple(findings_told(sessions, run.tasks))
    return TransferResult(
        run, run.tasks, shown, float(calibration_s), adapt, seed, tuple(facts), tuple(cells), summary, told,
        calibration, repeats, tuple(paired), None if stress is None else Stress.joined(stress, stressed),
    )  # fmt: skip


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


def _checked_protocols(run: Run, protocols: Sequence[str] | None, *, maps: bool) -> tuple[str, ...]:
    if protocols is None:
        own = run.model.protocols
        protocols = ("zero_shot", *own, *(OF_MAPS if maps and own else ()))
    named = [the_one("protocol", name, (*ROWS, MIXED, FLOOR)) for name in protocols]
    if not named:
        message = f"no protocol is named: give some of {', '.join(ROWS)}"
        raise UsageError(message)
    return tuple(p for p in ROWS if p in named or (p == ADAPTED and MIXED in named))  # the floor is there anyway


def _check_keep(keep: str | None, protocols: Sequence[str], repeats: int) -> None:
    if keep is None:
        return
    if keep not in KEPT:
        raise UnknownNameError("row to keep", keep, KEPT)
    if keep not in protocols:
        named = ", ".join((*protocols, FLOOR))
        message = f"'{keep}' is to be kept and is not evaluated: name it among the protocols ({named})"
        raise UsageError(message)
    if repeats > 1:
        message = f"{repeats} draws of the calibration give as many models a session: keep that of one draw"
        raise UsageError(message)


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
    run: Run, sessions: Sequence[SessionTokens], calibration_s: float, how: How, repeats: int, seed: int
) -> list[tuple[SessionTokens, DividedSession, int]]:
    """Each session with its parts and each draw of its calibration, in order of id; all before the first adapts.

    Raises:
        UnfitError: some have too little time.
    """
    found, unfit = [], {}
    for tokens in sorted(sessions, key=lambda s: s.id):
        try:
            for repeat in range(repeats):
                found.append((tokens, _transfer_session(run, tokens, calibration_s, how, repeat, seed), repeat))
        except DataError as error:
            unfit[tokens.id] = str(error)
    if unfit:
        raise UnfitError(unfit)
    return found


def _transfer_session(
    run: Run, tokens: SessionTokens, calibration_s: float, how: How = "first", repeat: int = 0, seed: int = 0
) -> DividedSession:
    """The session with two parts of its usable time, ``calibration`` and ``test``, at least one window apart."""
    window_ns = run.config.data.window_ns
    require_grid(tokens, run.config)
    if all(task.why_not(tokens) for task in run.tasks):
        message = f"{tokens.id}: {run.tasks[0].why_not(tokens)}"
        raise DataError(message)
    rule = run.config.split  # days divide sessions; inside an unseen one, calibration comes first and test last
    session = run.divide(tokens, SplitRule("block") if rule.kind == "day" else rule)
    calibration = calibration_of(session.splits["train"], session.id, calibration_s, how, repeat, seed)
    guard = grown(calibration, window_ns)
    test = without(session.splits["test"], guard)
    check_disjoint({"calibration": guard, "test": test})
    divided = replace(session, splits={CALIBRATION: calibration, "test": test})
    for part in divided.splits:
        require_window(divided.windows(part), part, window_ns)
    require_heard(divided)
    return divided


# ---- protocols ------------------------------------------------------------------------------------------------------


def _evaluate(unseen: Unseen, protocol: str) -> list[Cell]:
    """A cell a task; of ``adapted`` one more each."""
    if protocol == FLOOR:
        return [floor_cell(unseen.run.config, unseen.session, task, unseen.stored) for task in unseen.session.tasks]
    if protocol == ADAPTED and unseen.session.tokens.vectors is not None:
        why = "its unit vectors are of the whole calibration, and blocks of it must not know of each other"
        return [
            Cell(unseen.session.id, row, t.name, None, why) for row in (ADAPTED, MIXED) for t in unseen.session.tasks
        ]
    if protocol in OF_MAPS:
        return evaluate_mapped(unseen, protocol)
    if protocol in (ALIGNED_PCA, ALIGNED_CCA):
        config, session = unseen.run.config, unseen.session
        kept = unseen.alignments, unseen.stored
        return [aligned_cell(config, session, task, protocol, *kept) for task in session.tasks]
    if protocol == FEW_SHOT:
        return few_shot_cells(unseen)
    session, model, trained = unseen.session, unseen.model(), 0
    reason = "" if protocol == WITHIN else model.why_not(protocol, session.id)
    tasks = _learned(session, protocol)
    if not reason and protocol != WITHIN and PROTOCOLS[protocol][1] in ("identity", "all") and not tasks:
        reason = f"its tasks ({', '.join(t.name for t in session.tasks)}) all need labels"
    if reason:
        return [Cell(session.id, protocol, task.name, None, reason) for task in session.tasks]
    how, known = None, session.calibration  # what the inputs of the session are cut of
    moves = "nothing" if protocol == WITHIN else PROTOCOLS[protocol][1]
    if protocol == "zero_shot":
        known = Intervals.empty()
    elif moves == "calibrate":
        sampler = SequentialWindows([session.windows(CALIBRATION)], unseen.run.config.data.window_ns)
        batches = unseen.loader(model, tasks, sampler, unseen.adapt.batch_size)
        model.calibrate(batch.to(unseen.device) for batch in batches)
        known = Intervals.empty()  # what calibrate took in is all that it knows
    elif moves == "profile":
        try:
            with still(model, (), protocol):
                model.fit_sessions(Stretches([session], CALIBRATION))
        except DataError as error:
            return [Cell(session.id, protocol, task.name, None, str(error)) for task in session.tasks]
    elif moves in ("identity", "all"):
        how = _begin(unseen, model, protocol)
        trained = _adapt(unseen, model, protocol, tasks)
        unseen.keep(protocol, model)
    unseen.answered(protocol, model, known)
    answers = predict(model, session, "test", unseen.run.config, unseen.device, calibration=known)
    return [Cell(session.id, protocol, name, answers.score(name), "", trained, a, how) for name, a in answers.items()]


def _begin(unseen: Unseen, model: Model, protocol: str) -> dict[str, object] | None:
    """What must stand before an adaptation; ``identity_unlabelled`` begins at a map where one can be learned."""
    if protocol == "identity_unlabelled" and unseen.maps.at_hand and knows_units(model, unseen.session.id):
        try:
            _, found = begin(unseen, model, unseen.session, labelled=False)
        except NoMap as error:
            how = {"start": "initial values", "why": str(error)}
        else:
            return {"start": found.begins()}
    else:
        how = None
    model.fit_sessions(Stretches([unseen.session], CALIBRATION, labelled=False))
    return how


def _learned(session: DividedSession, protocol: str) -> tuple[Task, ...]:
    """The tasks whose loss an adaptation may use."""
    labelled = protocol == WITHIN or PROTOCOLS[protocol][0] == "labelled"
    return tuple(task for task in session.tasks if labelled or not task.labelled)


def _adapt(unseen: Unseen, model: Model, protocol: str, tasks: Sequence[Task]) -> int:
    """Train on the calibration in place; returns how many numbers were trained."""
    identity, adapt = model.identity_parameters([unseen.session.id]), unseen.adapt
    if PROTOCOLS[protocol][1] == "identity":
        with still(model, identity, protocol):
            _train(unseen, model, identity, protocol, tasks, adapt.identity_steps, adapt.identity_lr, 0.0)
        return sum(part.value.numel() for part in identity)
    if identity and adapt.unfreeze_after:
        _train(unseen, model, identity, protocol, tasks, adapt.unfreeze_after, adapt.identity_lr, 0.0)
    every = [Part(p) for p in model.parameters()]
    _train(unseen, model, every, protocol, tasks, adapt.full_steps, adapt.full_lr, adapt.weight_decay)
    return sum(part.value.numel() for part in every)


def _train(
    unseen: Unseen,
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
                unseen.tell(protocol, step + 1, steps, float(loss.detach()))
        optimizer.catch_up()
    model.eval()
