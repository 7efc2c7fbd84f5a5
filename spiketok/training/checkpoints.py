"""Checkpoints: one folder that is whole or not there, with the same bytes for the same training.

    <run>/checkpoint/model.safetensors         the weights
                     train_state.safetensors   the optimizer's moments, by parameter name
                     checkpoint.json           everything else; see :func:`write_checkpoint`

No date, no path and no wall time stands in it. The state of the random generators is not stored, because training
draws every step's randomness from (seed, step, rank) alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spiketok import __version__
from spiketok.errors import ArtefactError, PluginError, SpiketokError, UnreadableError, UsageError
from spiketok.models.base import Model
from spiketok.models.nn import module_key
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.identity import Identity
from spiketok.recording.nouns import Intervals, Source
from spiketok.recording.splits import SplitRule
from spiketok.storage.causes import NEWER, raise_cause
from spiketok.storage.files import (
    WIP,
    atomic_folder,
    clean_leftovers,
    sha256_file,
    write_signed,
    writing,
)
from spiketok.storage.locks import unless_replaced
from spiketok.storage.pushed import was_left_out
from spiketok.storage.records import checkpoint_digest, run_checkpoint, run_config
from spiketok.training import step_log
from spiketok.training.config import RunConfig, model_class
from spiketok.training.plugged import plugins_of, require_plugins
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import DividedSession, divide
from spiketok.training.tables import tables_of
from spiketok.training.tasks import TASKS
from spiketok.training.tasks.base import Task

FORMAT = "spiketok-checkpoint"
VERSION, VERSION_OF_BLOCKS = 3, 2  # in the one before, each block of a table was a parameter of its own
FOLDER = "checkpoint"
WAITING = "waiting"  # rows of tables at a step between two checkpoints
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "m", "v")  # what the optimizers keep of a parameter


@dataclass(frozen=True)
class TrainedSession:
    """A session that a model was trained on, with the digests that lead back to its source.

    Args:
        id: ``"<dataset>/<session>"``. subject, n_units, n_spikes: what it was.
        shards: by input, ``digest`` of the shard and ``shard``, where it lies among a workspace's shards, as
            ``"binned/<dataset>/<session>/<fingerprint>"``.
        store_digest: of the stored session. source_sha256: of the source file.
        source: the session's whole :class:`~spiketok.recording.nouns.Source`.
        earlier: the run that this one started from was trained on it, this one was not.
        recording: what tells which recording it is of, beside its files: fields of
            :class:`~spiketok.recording.identity.Identity`; empty where the store was not at hand.
    """

    id: str
    subject: str
    n_units: int
    n_spikes: int
    shards: Mapping[str, Mapping[str, str]]
    store_digest: str
    source_sha256: str
    source: Mapping[str, object] = field(default_factory=dict)
    earlier: bool = False
    recording: Mapping[str, object] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """Which recording it is of; of a session without a store its files tell it alone."""
        files = tuple(part.sha256 for part in Source.from_dict(self.source).files) if self.source else ()
        known = {"files": files or (self.source_sha256,), "subject": self.subject, "n_spikes": self.n_spikes}
        return Identity(self.id, **known, **self.recording)

    @classmethod
    def of(cls, tokens: SessionTokens) -> TrainedSession:
        manifest, info = tokens.reader.manifest, tokens.info
        readers = tokens.windowed | {name: once.reader for name, once in tokens.once.items()}
        return cls(
            id=info.id,
            subject=info.subject,
            n_units=int(info.n_units),
            n_spikes=int(info.n_spikes),
            shards={
                name: {"digest": r.digest, "shard": f"{r.scheme.name}/{info.id}/{r.path.name}"}
                for name, r in readers.items()
            },
            store_digest=manifest["store_digest"],
            source_sha256=manifest["source"]["sha256"],
            source=manifest["source"],
            recording=_recording(tokens.facts),
        )


def _recording(facts: Mapping[str, object]) -> dict[str, object]:
    if not facts:
        return {}
    found = Identity.of(facts)
    return {key: getattr(found, key) for key in ("identifier", "source_session", "zero", "start_ns", "stop_ns")}


@dataclass(frozen=True, eq=False)
class Run:
    """A trained (or half-trained) model with all that it needs to be used.

    Args:
        path: the run's folder.
        config, model, tasks: as trained; the model is on the CPU, in eval mode.
        trained_on: the sessions.
        step, total_steps: how far it is.
        digest: of the checkpoint's files, for the chain of what was made from what.
        facts: the whole of ``checkpoint.json``.
    """

    path: Path
    config: RunConfig
    model: Model
    tasks: tuple[Task, ...]
    trained_on: tuple[TrainedSession, ...]
    step: int
    total_steps: int
    digest: str
    facts: Mapping[str, object]

    @property
    def own(self) -> list[str]:
        """Ids of the sessions that this training itself saw; those of a run that it started from are not among them."""
        return sorted(s.id for s in self.trained_on if not s.earlier)

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps

    def tokenized_anew(self, tokens: SessionTokens) -> bool:
        """Whether a session that it was trained on has other tokens now."""
        known = next(s for s in self.trained_on if s.id == tokens.id).shards
        return any(known.get(name, {}).get("digest") != reader.digest for name, reader in tokens.windowed.items())

    def divide(self, tokens: SessionTokens, rule: SplitRule | None = None, train_share: float = 1.0) -> DividedSession:
        """How this run divides a session: a kept one, to whose calibration it adapted, as it was then.

        That calibration is its training time and its test time the one that was scored.

        Args:
            rule, train_share: of other sessions; by default the run's rule, and all of the training time.
        """
        kept = next((one for one in self.facts.get("kept", ()) if one["session"] == tokens.id), None)
        if kept is None:
            return divide(tokens, self.tasks, self.config.split if rule is None else rule, train_share)
        whole = divide(tokens, self.tasks, SplitRule("all"))
        train, test = (
            Intervals(*np.array(kept[part], np.int64).reshape(-1, 2).T).intersect(whole.domain)
            for part in ("calibration_ns", "test_ns")
        )
        splits = {"train": train, "valid": Intervals.empty(), "test": test}
        return replace(whole, splits=splits, valid_is_test=kept["valid_is_test"])


def write_checkpoint(
    run_dir: Path,
    *,
    config: RunConfig,
    model: Model,
    tasks: Sequence[Task],
    sessions: list[TrainedSession],
    train_state: Mapping[str, Tensor],
    step: int,
    total_steps: int,
    loader_state: Mapping[str, object],
    kept: Sequence[Mapping[str, object]] = (),
) -> None:
    """Put ``<run_dir>/checkpoint`` in place, replacing the one before.

    ``train_state``: the optimizer's tensors, from :func:`optimizer_tensors`; empty for closed-form models. ``kept``: of
    a model that adapted to a session, what it saw of it (``spiketok.evaluation.kept``); of others nothing is written.
    The same holds of ``plugins``, what of the run other packages gave (``spiketok.training.plugged``).

    ``checkpoint.json`` holds: format and version; the resolved config; the model's vocabularies (``extra_state``); the
    tasks with what training time said of them; the sessions with their digests; step and loader state; the files'
    sha256; and ``digest`` over all of it.
    """
    with atomic_folder(run_dir / FOLDER) as wip:
        _save(dict(model.state_dict()), wip / "model.safetensors")
        _save(train_state, wip / "train_state.safetensors")
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": f"spiketok {__version__}",
            "config": config.to_dict(),
            "extra_state": model.extra_state(),
            "tasks": [{"kind": task.kind, "about": task.about, "state": task.to_dict()} for task in tasks],
            "sessions": [asdict(s) for s in sessions],
            "step": step,
            "total_steps": total_steps,
            "loader": dict(loader_state),
            "files": {name: sha256_file(wip / name) for name in ("model.safetensors", "train_state.safetensors")},
        }
        if kept:
            facts["kept"] = [dict(one) for one in kept]
        if plugins := plugins_of(config):
            facts["plugins"] = [origin.to_dict() for origin in plugins]
        write_signed(wip / "checkpoint.json", facts)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with writing(path, sum(tensor.nbytes for tensor in plain.values())):
        save_file(plain, path)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by ``<parameter name>/<moment>``."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}/{key}": torch.as_tensor(value)
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def waiting_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What rows of tables still wait for, by ``<parameter name>/waiting/<part>``: of a training that stops in between.

    Written beside :func:`optimizer_tensors` of rows that were brought up to date, which is what readers take.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}/{WAITING}/{part}": tensor
        for p, held in optimizer.waiting().items()
        for part, tensor in held.items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` and :func:`waiting_tensors` gave; moments go where their parameter is."""
    parameters = dict(model.named_parameters())
    waiting: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        if key.startswith(f"{step_log.WAITING}/"):
            continue
        if name.endswith(f"/{WAITING}"):
            waiting.setdefault(name.removesuffix(f"/{WAITING}"), {})[moment] = tensor
            continue
        p = parameters[name]
        scalar_on_cpu = tensor.ndim == 0 and moment == "step"  # AdamW keeps its step count on the host
        optimizer.state[p][moment] = tensor.clone() if scalar_on_cpu else tensor.to(p.device, copy=True)
    for name, held in waiting.items():
        optimizer.put_back(parameters[name], held)


def remove(run_dir: Path) -> None:
    """Remove the checkpoint, first out of sight and then from the disk: a kill leaves a whole one or none."""
    if (run_dir / FOLDER).exists():
        os.rename(run_dir / FOLDER, run_dir / f"{WIP}{os.getpid()}-removed")
        clean_leftovers(run_dir)


def read_facts(run_dir: Path) -> dict[str, object]:
    """``checkpoint.json``, checked for its digest, format and version.

    Raises:
        ArtefactError: there is no checkpoint, or one that this version does not read, or that was changed.
    """
    path = Path(run_dir) / FOLDER / "checkpoint.json"
    try:
        facts = run_checkpoint(Path(run_dir))
    except FileNotFoundError:
        message = f"{run_dir} holds no checkpoint: 'spiketok train --model NAME' makes one"
        raise ArtefactError(message) from None
    if facts.get("format") != FORMAT or facts.get("version") not in (VERSION, VERSION_OF_BLOCKS):
        version = facts.get("version") if facts.get("format") == FORMAT else None
        is_newer = isinstance(version, int) and version > VERSION
        remedy = NEWER if is_newer else "spiketok upgrade" if version == 1 else "train again"
        message = (
            f"{path} has format '{facts.get('format')}' version {facts.get('version')}, this spiketok reads "
            f"'{FORMAT}' versions {VERSION_OF_BLOCKS} and {VERSION}: {remedy}"
        )
        raise ArtefactError(message)
    return facts


def read_tensors(run_dir: Path, name: str, facts: Mapping[str, object], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of one file of the checkpoint, after its digest was compared.

    Args:
        model: knows the checkpoint's sessions.
    """
    path = Path(run_dir) / FOLDER / name
    if not path.exists() and was_left_out(Path(run_dir), f"{FOLDER}/{name}"):
        message = f"{run_dir} was pulled without {name}: --restart, or push it again with --optimizer and pull that"
        raise ArtefactError(message)
    try:
        found, expected = sha256_file(path), facts["files"][name]
        if found != expected:
            message = f"{path} is damaged: its sha256 is {found[:12]}, written was {expected[:12]}; train again"
            raise ArtefactError(message)
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise_cause(error, path)
        message = f"{path} cannot be read ({error}): train again with --restart"
        raise ArtefactError(message) from error
    return join_blocks(tensors, model) if facts["version"] == VERSION_OF_BLOCKS else tensors


def join_blocks(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of version 2 held, as it is held now: tables and their moments whole, not block by block.

    All blocks had gone through the same steps, so their counts of steps are one.
    """
    joined = dict(tensors)
    for name, table in model.named_modules():
        if not isinstance(table, Vocabulary):
            continue
        parts: dict[str, list[Tensor]] = {}
        for block in table.words:
            key = f"{name}.blocks.{module_key(block)}"
            for old in [n for n in (key, *(f"{key}/{moment}" for moment in MOMENTS)) if n in joined]:
                parts.setdefault(f"{name}.weight{old.removeprefix(key)}", []).append(joined.pop(old))
        joined |= {new: torch.cat(own) if own[0].ndim else own[0] for new, own in parts.items()}
    return joined


def read_tasks(facts: Mapping[str, object], config: RunConfig) -> tuple[Task, ...]:
    """The tasks of a checkpoint, as they were fitted."""
    return tuple(TASKS[t["kind"]].from_dict(t["state"], config.task_config(t["kind"])) for t in facts["tasks"])


def load_run(run_dir: Path) -> Run:
    """Load a checkpoint and rebuild its model; a training may replace it meanwhile.

    Raises:
        ArtefactError: there is none, or it is damaged, or of another version.
    """
    run_dir = Path(run_dir)
    if run_dir.name == FOLDER and (run_dir / "checkpoint.json").exists():
        run_dir = run_dir.parent
    return unless_replaced(run_dir / FOLDER / "checkpoint.json", lambda: _load_run(run_dir))


def _load_run(run_dir: Path) -> Run:
    digest, facts = checkpoint_digest(run_dir), read_facts(run_dir)
    require_plugins(facts.get("plugins"), f"run {run_dir.name}")
    try:
        later = run_config(run_dir, facts)["transfer"]  # shapes no checkpoint: as the last train on this folder said
        config = RunConfig.from_dict(facts["config"] | {"transfer": later})
        tasks = read_tasks(facts, config)
        model = model_class(config.model)(config.model_config(), [task.head() for task in tasks], config.timing)
        model.load_extra_state(facts["extra_state"])
        weights = read_tensors(run_dir, "model.safetensors", facts, model)
        model.load_state_dict(weights)
        trained_on = tuple(TrainedSession(**s) for s in facts["sessions"])
        step, total_steps = int(facts["step"]), int(facts["total_steps"])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError) as error:
        raise_cause(error, run_dir / FOLDER)
        message = f"{run_dir / FOLDER} does not fit this spiketok ({type(error).__name__}: {error}): train again"
        raise ArtefactError(message) from error
    except (UnreadableError, PluginError):
        raise
    except SpiketokError as error:
        message = f"{run_dir / FOLDER}: {error}"
        raise ArtefactError(message) from error
    if checkpoint_digest(run_dir) != digest:
        message = f"{run_dir / FOLDER} was replaced while it was read: run the command again"
        raise ArtefactError(message)
    model.eval()
    return Run(
        path=run_dir,
        config=config,
        model=model,
        tasks=tasks,
        trained_on=trained_on,
        step=step,
        total_steps=total_steps,
        digest=digest,
        facts=facts,
    )


def require_base(config: RunConfig, base: Run | None) -> None:
    """Raise UsageError where a run does not start from the checkpoint that its configuration names."""
    there = base.digest if base is not None else ""
    if config.start != there:
        shown = f"'{config.start[:12]}'", f"'{there[:12]}'" if there else "none"
        message = f"start is {shown[0]} and the run given is {shown[1]}: it is set by 'spiketok train --from RUN'"
        raise UsageError(message)
    if base is not None:
        require_model(config.model, base)
    elif config.optim.hold_steps:
        message = (
            f"optim.hold_steps is {config.optim.hold_steps} and the run starts from fresh weights, of which none can "
            "stand still: leave it out, or start from a run by 'spiketok train --from RUN'"
        )
        raise UsageError(message)


def require_same_split(config: RunConfig, session_ids: Sequence[str], base: Run) -> None:
    """Raise UsageError where the earlier run may have learned from what this one scores: a session divided anew."""
    shared = sorted({s.id for s in base.trained_on} & set(session_ids))
    if shared and base.config.split != config.split:
        message = (
            f"{base.path.name} was trained on {shared[0]} too, divided by another split.*: "
            "its training time may be test time here; use the same one, or other sessions"
        )
        raise UsageError(message)


def seen_before(runs: Sequence[Run | None], session_ids: Sequence[str]) -> list[TrainedSession]:
    """What other runs saw, whose weights or latents this one takes in: their sessions that are not its own, each once.

    Args:
        runs: None where there is none. session_ids: its own.
    """
    found = {s.id: replace(s, earlier=True) for run in reversed(runs) if run is not None for s in run.trained_on}
    return [found[session] for session in sorted(found.keys() - set(session_ids))]


def require_model(model: str, base: Run) -> None:
    """Raise UsageError where a model is to start from the weights of another one."""
    if base.config.model != model:
        message = f"{model} cannot start from the weights of {base.path.name}, which are of {base.config.model}"
        raise UsageError(message)


def start_from(model: Model, base: Run) -> None:
    """Give a model without sessions the sessions of another run, and its weights.

    Tensors that the run has not (read-outs of other tasks) stay as they were drawn.

    Raises:
        UsageError: tensors of one name have different shapes, or none is the same.
    """
    model.load_extra_state(base.facts["extra_state"])
    ours, theirs = model.state_dict(), base.model.state_dict()
    shared = [name for name in ours if name in theirs]
    other = [name for name in shared if ours[name].shape != theirs[name].shape]
    if other or not shared:
        what = "no tensor has a name in common"
        if other:
            what = f"'{other[0]}' is {tuple(theirs[other[0]].shape)} there and {tuple(ours[other[0]].shape)} here"
            what += "; size, windows, bins and fields of the model are taken over from it: leave them out"
        message = f"the weights of {base.path.name} do not fit: {what}"
        raise UsageError(message)
    model.load_state_dict({name: theirs[name] for name in shared}, strict=False)


def taken_over(model: Model, base: Run) -> list[nn.Parameter]:
    """The parameters that :func:`start_from` gave a model, without tables, which hold rows of other sessions too."""
    theirs, tables = base.model.state_dict(), {id(table.weight) for table in tables_of(model)}
    return [p for name, p in model.named_parameters() if name in theirs and id(p) not in tables]


def require_trained_read_ins(model: Model, sessions: Sequence[str], base: Run) -> None:
    """Raise UsageError where a new session's own parameters would stay as they were drawn.

    A model whose losses of behaviour do not reach its encoder (``decode_joint``) trains a read-in by its spikes alone.

    Args:
        sessions: of the training.
    """
    known = set(base.model.sessions())
    new = [session for session in sessions if session not in known and model.identity_parameters([session])]
    spikes = any(head.output == "counts" for head in model.heads.values())
    if new and not spikes and not model.reconstructs and not getattr(model.config, "decode_joint", True):
        message = (
            f"model.decode_joint is false, as in {base.path.name}, and no population is asked: nothing would train the "
            f"read-in of {new[0]}, which is new; use --set model.decode_joint=true, or --task population,decode"
        )
        raise UsageError(message)


def load_start(run_dir: Path, config: RunConfig, trained_on: list[TrainedSession], resume: str) -> dict | None:
    """The facts of the checkpoint to go on from, or None; refuses one of another configuration or other data."""
    if resume == "never" or not (run_dir / "checkpoint").exists():
        return None
    facts = read_facts(run_dir)
    there, here = RunConfig.from_dict(facts["config"]), config
    if there.fingerprint() != here.fingerprint():
        message = (
            f"{run_dir} holds a run of another configuration ({_difference(there, here)}): choose another folder, or "
            "--restart to begin anew"
        )
        raise UsageError(message)
    require_plugins(facts.get("plugins"), f"run {run_dir.name}")
    # a shard's digest is of the store's and the source's too
    ours = {s.id: {name: shard["digest"] for name, shard in s.shards.items()} for s in trained_on}
    theirs = {s["id"]: {name: shard["digest"] for name, shard in s["shards"].items()} for s in facts["sessions"]}
    if ours != theirs:
        changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        message = (
            f"{run_dir} was trained on other data ({', '.join(changed[:6])} differ): choose another folder, or "
            "--restart to begin anew"
        )
        raise UsageError(message)
    return facts


def _difference(there: RunConfig, here: RunConfig) -> str:
    def flat(values: dict, prefix: str = "") -> dict[str, object]:
        found = {}
        for key, value in values.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    a, b = flat(there.to_dict()), flat(here.to_dict())
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k) and not k.startswith("transfer."))
    return ", ".join(f"{k} is {a.get(k)} there and {b.get(k)} here" for k in keys[:4])


def seed_of(*parts: int) -> int:
    """One seed out of several whole numbers, mixed well: neighbouring steps have unrelated draws."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
