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

import copy
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from spiketok.batches import Loader, RandomWindows
from spiketok.checkpoints import Run, TrainedSession, seed_of
from spiketok.config import OptimConfig, RunConfig, TransferConfig, load_config, model_class
from spiketok.decoding import (
    LabelledSession,
    Prediction,
    dropped_by_split,
    label_session,
    predict,
    require_window,
    seconds,
)
from spiketok.divisions import grown, without
from spiketok.errors import DataError, SpiketokError, UnknownNameError, UsageError
from spiketok.leakage import with_stated_reach
from spiketok.models.base import Model
from spiketok.optimizers import build_optimizer, lr_at
from spiketok.recording import NS_PER_MS, NS_PER_S, Intervals, Session, Source, Spikes, UnitTable
from spiketok.schemes import SCHEMES
from spiketok.shards import ShardReader, write_shard
from spiketok.splits import SplitRule, check_disjoint
from spiketok.training import R2, deterministic, require_grid, stretches

PROTOCOLS = ("zero_shot", "zero_gradient", "identity_only", "full")
DEFAULT_PROTOCOLS = ("zero_shot", "identity_only", "full")
FLOOR, WITHIN = "linear", "within"
FLOOR_BINS = 50
BOOTSTRAP_DRAWS = 2000
Event = dict[str, object]


@dataclass(frozen=True, eq=False)
class Cell:
    """One protocol on one session.

    Args:
        session, protocol: which.
        score: from :meth:`Prediction.score`; None where the protocol does not apply.
        reason: why there is no score; empty where there is one.
        trained_parameters: how many numbers were trained on the calibration.
        prediction: the stitched test predictions behind the score.
    """

    session: str
    protocol: str
    score: dict[str, object] | None
    reason: str = ""
    trained_parameters: int = 0
    prediction: Prediction | None = None


@dataclass(frozen=True, eq=False)
class SessionFacts:
    """What a session was used for.

    Args:
        session: with its digests.
        trained_on: whether the checkpoint saw it.
        calibration: the labelled time that adaptation saw; test: the time that was scored; both disjoint.
        dropped: time of either that no window can use, in ns by reason. reach: how far windows reach beyond their ends.
        valid_is_test: stored valid time was scored in place of test time that cannot be used.
    """

    session: TrainedSession
    trained_on: bool
    calibration: Intervals
    test: Intervals
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    reach: str = ""
    valid_is_test: bool = False


@dataclass(frozen=True, eq=False)
class TransferResult:
    """Scores of a checkpoint on other sessions.

    Args:
        run: the checkpoint.
        protocols: in the order of the table, the floor and ``within`` included.
        calibration_s: asked for; labelled: always True for the protocols here that train.
        adapt: the settings of the adaptation. seed: of new rows and calibration windows.
        sessions: facts by session, in order of id. cells: one a session and protocol.
        summary: by protocol and R2: ``n``, ``mean``, ``sd`` (from two sessions), ``ci95`` (from three, bootstrap over
            sessions).
    """

    run: Run
    protocols: tuple[str, ...]
    calibration_s: float
    labelled: bool
    adapt: TransferConfig
    seed: int
    sessions: tuple[SessionFacts, ...]
    cells: tuple[Cell, ...]
    summary: dict[str, dict[str, dict[str, object]]]

    def cell(self, session: str, protocol: str) -> Cell | None:
        return next((c for c in self.of(protocol) if c.session == session), None)

    def of(self, protocol: str) -> list[Cell]:
        return [c for c in self.cells if c.protocol == protocol]


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


def first_of(intervals: Intervals, length_ns: int) -> Intervals:
    """The first ``length_ns`` of the intervals' time; less where they are shorter."""
    whole = intervals.union()
    before = np.concatenate([[0], np.cumsum(whole.stop_ns - whole.start_ns)[:-1]]).astype(np.int64)
    stop = np.minimum(whole.stop_ns, whole.start_ns + (length_ns - before))
    keep = stop > whole.start_ns
    return Intervals(whole.start_ns[keep], stop[keep])


# ---- protocols ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Task:
    """One session for which protocols are evaluated."""

    run: Run
    session: LabelledSession
    adapt: TransferConfig
    seed: int
    device: torch.device
    emit: Callable[[Event], None]

    def model(self) -> Model:
        """A copy of the trained model that knows the session; its new rows are the same in every protocol."""
        model = copy.deepcopy(self.run.model)
        torch.manual_seed(self.seed)
        model.add_sessions([self.session.reader.info])
        return model.to(self.device)

    def test(self, model: Model) -> Prediction:
        windows = self.session.windows("test")
        return predict(model, [windows], self.run.target, self.run.config, self.device)[self.session.id]


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
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, steps, optim)
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


# ---- the floor ------------------------------------------------------------------------------------------------------


def _floor(task: _Task) -> Cell:
    """Ridge on lagged counts, fitted on the session's calibration alone; scored at its bins, not at the raw samples."""
    session, target = task.session, task.run.target
    config = _floor_config(task.run.config, session.reader)
    with _binned_reader(session.reader, config) as reader:
        binned = replace(session, reader=reader)
        model = model_class(FLOOR)(config.model_config(), target)
        model.add_sessions([reader.info])
        try:
            model.fit_closed_form({session.id: stretches(binned, "calibration", target)})
            prediction = predict(model, [binned.windows("test")], target, config)[session.id]
        except SpiketokError as error:
            return Cell(session.id, FLOOR, None, str(error))
    return Cell(session.id, FLOOR, prediction.score(), "", model.n_fitted(), prediction)


def _floor_config(run: RunConfig, reader: ShardReader) -> RunConfig:
    """The run's own settings where it is linear; else linear's, with the run's windows.

    Bins that are cut here are a fiftieth of the window, at least linear's own: a run with long windows decodes slow
    behaviour, for which linear's fixed number of lags must reach further back to be a fair floor.
    """
    if run.model == FLOOR:
        return run
    config = load_config(FLOOR)
    bin_ns = reader.scheme.grid_ns
    if reader.scheme.name != "binned":
        bin_ms = max(run.data.window_ns // FLOOR_BINS // NS_PER_MS, 1)
        bin_ns = max(bin_ms * NS_PER_MS, round(config.data.bin_ms * NS_PER_MS))
    window_ns = max(run.data.window_ns // bin_ns, 1) * bin_ns
    data = replace(config.data, window_ms=window_ns / NS_PER_MS, bin_ms=bin_ns / NS_PER_MS, eval_step_ms=None)
    return replace(config, data=data)


@contextmanager
def _binned_reader(reader: ShardReader, config: RunConfig) -> Iterator[ShardReader]:
    """The same session in bins: the shard itself, or one that is baked from the spikes of a per-spike shard."""
    if reader.scheme.name == "binned":
        yield reader
        return
    session = session_of(reader)
    scheme = SCHEMES["binned"](bin_ns=round(config.data.bin_ms * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "binned"
        segments_rule = f"those of shard {reader.digest}"
        write_shard(path, scheme, session, reader.segments, segments_rule=segments_rule, store_digest="")
        yield ShardReader(path)


def session_of(reader: ShardReader) -> Session:
    """The session that a per-spike shard still knows: every spike of its segments, and the behaviours.

    Where segments overlap, a spike stands in the shard more than once; it is taken once.
    """
    row, columns = reader.columns["segment.row"], reader.columns
    times, units, reach = [], [], np.iinfo(np.int64).min
    for g in np.argsort(reader.segments.start_ns, kind="stable"):
        time_ns, unit = columns["time_ns"][row[g] : row[g + 1]], columns["unit"][row[g] : row[g + 1]]
        new = np.searchsorted(time_ns, reach)
        times.append(time_ns[new:])
        units.append(unit[new:])
        reach = max(reach, int(reader.segments.stop_ns[g]))
    info, facts = reader.info, {}
    for name in info.signals:
        facts = with_stated_reach(facts, name, *reader.signal_reach_ns(name))
    return Session(
        id=info.id,
        subject=info.subject,
        start_ns=info.start_ns,
        stop_ns=info.stop_ns,
        units=UnitTable(info.unit_id),
        spikes=Spikes(np.concatenate(times), np.concatenate(units)),
        observed=reader.observed,
        source=Source.from_dict(reader.manifest["source"]),
        splits=reader.splits,
        signals={name: reader.signal(name) for name in info.signals},
        info=facts,
    )


# ---- over sessions --------------------------------------------------------------------------------------------------


def summarize(cells: Sequence[Cell], seed: int = 0) -> dict[str, dict[str, object]]:
    """Mean and spread over sessions of each R2, over the cells that have a score.

    Returns:
        by R2: ``n``; ``mean``, None without a score; ``sd`` (n - 1 in the denominator), None with fewer than two;
        ``ci95``, the 2.5 and 97.5 percentiles of the mean over sessions drawn again, None with fewer than three.
    """
    summary = {}
    for name in R2:
        values = np.array([c.score[name] for c in cells if c.score is not None and c.score[name] is not None])
        draws = None
        if values.size >= 3:
            drawn = np.random.default_rng(seed).integers(values.size, size=(BOOTSTRAP_DRAWS, values.size))
            draws = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5]).tolist()
        summary[name] = {
            "n": int(values.size),
            "mean": float(values.mean()) if values.size else None,
            "sd": float(values.std(ddof=1)) if values.size >= 2 else None,
            "ci95": draws,
        }
    return summary


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


def to_dict(result: TransferResult) -> dict[str, object]:
    """Everything but the traces, JSON-able: the body of ``report.json``."""
    run = result.run

    def spans(intervals: Intervals) -> list[list[int]]:
        return [[int(a), int(b)] for a, b in zip(intervals.start_ns, intervals.stop_ns, strict=True)]

    return {
        "model": run.config.model,
        "size": run.config.size,
        "config": run.config.to_dict(),
        "run": run.path.resolve().name,
        "checkpoint_digest": run.digest,
        "checkpoint_step": run.step,
        "target": asdict(run.target),
        "trained_on": [asdict(s) for s in run.trained_on],
        "protocols": list(result.protocols),
        "calibration_s": result.calibration_s,
        "calibration_labelled": result.labelled,
        "adapt": asdict(result.adapt),
        "seed": result.seed,
        "sessions": [
            asdict(f.session)
            | {
                "trained_on": f.trained_on,
                "calibration_ns": spans(f.calibration),
                "calibration_s": seconds(f.calibration),
                "test_ns": spans(f.test),
                "test_s": seconds(f.test),
                "dropped": f.dropped,
                "split_reach": f.reach,
            }
            for f in result.sessions
        ],
        "scores": [
            {
                "session": c.session,
                "protocol": c.protocol,
                "score": c.score,
                "reason": c.reason,
                "trained_parameters": c.trained_parameters,
            }
            for c in result.cells
        ],
        "summary": result.summary,
    }
