"""Which shards a run needs, where runs lie, and which is meant: between the workspace and training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, DataError, UnfitError, UnknownNameError, UsageError
from spiketok.models import MODELS
from spiketok.models.batch import Input
from spiketok.pipeline.tokenize import plan_session, shard_path, tokenize, tokenize_words
from spiketok.pipeline.upgrade import has_old_shard
from spiketok.recording.codes import is_code
from spiketok.recording.identity import Identity, Recordings, Shared, common_ns
from spiketok.recording.nouns import FLUORESCENCE, Intervals
from spiketok.recording.splits import recording_day
from spiketok.settings import typed
from spiketok.storage.files import fingerprint
from spiketok.storage.finding import find_run as find_run
from spiketok.storage.remote import RemotePath
from spiketok.storage.store import read_attributes, read_signal
from spiketok.storage.workspace import Workspace, match_sessions
from spiketok.tokens.schemes import Scheme, make_scheme
from spiketok.tokens.shards import ShardReader
from spiketok.training.checkpoints import Run, require_model
from spiketok.training.config import LATENTS, RunConfig, load_config, model_class
from spiketok.training.plugged import usable_models
from spiketok.training.sampling import Once, SessionTokens, listing
from spiketok.training.tasks import TASKS
from spiketok.training.vectors import keep_vectors, kept_vectors, require_same_embedding


def run_inputs(config: RunConfig) -> dict[str, Input]:
    """What a run reads, by name: the inputs of its model, and those that the truth of its tasks is made of.

    Raises:
        UsageError: a task needs other tokens under a name that the model has.
    """
    model = model_class(config.model)
    kinds = [kind for kind, _ in config.questions()]
    inputs = model.inputs(config.model_config(), kinds, config.timing)
    for kind in kinds:
        for name, wanted in TASKS[kind].inputs(config.timing).items():
            have = inputs.setdefault(name, wanted)
            if (have.scheme, dict(have.fields)) != (wanted.scheme, dict(wanted.fields)):
                message = f"task '{kind}' needs {wanted.scheme} tokens as '{name}', {config.model} reads {have.scheme}"
                raise UsageError(message)
    return _exposed(inputs, model) if config.data.exposure else inputs


def _exposed(inputs: Mapping[str, Input], model: type) -> dict[str, Input]:
    """The inputs with the shares of bins that were recorded in part."""
    if not model.weighs_exposure:
        known = ", ".join(name for name in MODELS if model_class(name).weighs_exposure)
        message = f"data.exposure: {model.name} does not weigh bins by the share that was recorded: {known} do"
        raise UsageError(message)
    return {
        name: replace(one, fields={**one.fields, "exposure": True}) if one.scheme == "binned" else one
        for name, one in inputs.items()
    }


def scheme_of(wanted: Input) -> Scheme:
    """The scheme of an input, with all its fields."""
    return make_scheme(wanted.scheme, **wanted.fields)


def tokenize_command(config: RunConfig, scheme: Scheme) -> str:
    """The command that makes the shards of a scheme for a run, as it is typed in a shell."""
    return tokenize_words(scheme, config.data.segments)


def require_inputs(config: RunConfig, sessions: Sequence[SessionTokens]) -> None:
    """Raise UsageError where a session lacks an input of the run, or has it by another scheme or other fields."""
    inputs = run_inputs(config)
    for tokens in sessions:
        have = {
            "window": {name: reader.scheme for name, reader in tokens.windowed.items()},
            "session": {name: once.reader.scheme for name, once in tokens.once.items()},
        }
        for name, wanted in inputs.items():
            scheme, found = scheme_of(wanted), have[wanted.per].get(name)
            if found == scheme:
                continue
            shown = "no shard" if found is None else f"a shard of scheme '{found.name}'"
            reads = f"'{scheme.name}'"
            if found is not None and found.name == scheme.name:
                shown, reads = f"a shard by {found}", str(scheme)
            message = (
                f"{tokens.id}: input '{name}' has {shown}, model '{config.model}' reads {reads}: "
                f"{tokenize_command(config, scheme)}"
            )
            raise UsageError(message)
        digest = vectors_of(config)
        if bool(digest) != (tokens.vectors is not None):
            shown = f"reads unit vectors, {digest[:12]}" if digest else "reads no unit vectors"
            held = "none came with it" if digest else "some came with it"
            message = f"{tokens.id}: model '{config.model}' {shown}, {held}: name their file by --vectors"
            raise UsageError(message)


def vectors_of(config: RunConfig) -> str:
    """The sha256 of the file of unit vectors that a run reads; empty for none."""
    return getattr(config.model_config(), "vectors", "")


def with_vectors(workspace: Workspace, run: Run, path: Path) -> Run:
    """The run with other unit vectors than those that it was trained on, of the same embedding run.

    Raises:
        UsageError: it reads none, or another run made these.
    """
    found = keep_vectors(workspace, path)
    require_same_embedding(workspace, vectors_of(run.config), found)
    overrides = run.config.model_overrides | {"vectors": found.digest}
    return replace(run, config=replace(run.config, model_overrides=overrides))


def missing_shards(
    workspace: Workspace, session_ids: Sequence[str], config: RunConfig
) -> list[tuple[Scheme, list[str]]]:
    """The schemes of which some sessions have no shard for a run, and those sessions."""
    found = []
    for scheme in dict.fromkeys(scheme_of(wanted) for wanted in run_inputs(config).values()):
        absent = [s for s in session_ids if not shard_path(workspace, s, scheme, config.data.segments).exists()]
        if absent:
            found.append((scheme, absent))
    return found


def make_shards(
    workspace: Workspace, session_ids: Sequence[str], config: RunConfig, told: Callable[[str], None]
) -> None:
    """Tokenize what a run lacks.

    Args:
        told: called with one line a scheme.

    Raises:
        UnfitError: sessions that an input's scheme cannot serve; those of the others are made. SpiketokError: a session
            could not be tokenized.
    """
    unfit = {}
    for scheme, absent in missing_shards(workspace, session_ids, config):
        told(f"tokenizing {len(absent)} sessions: {tokenize_command(config, scheme)}")
        for outcome in tokenize(workspace, absent, [scheme], config.data.segments):
            if outcome.error is not None:
                raise outcome.error
            for done in outcome.result:
                why = _said_of(done.session_id, "; ".join(done.notes))
                if done.state == "failed":
                    raise DataError(why)
                if done.state == "not served":
                    unfit[done.session_id] = why
    if unfit:
        raise UnfitError(unfit)


def opened_shards(
    workspace: Workspace,
    session_ids: Sequence[str],
    config: RunConfig,
    *,
    named: bool,
    made: Callable[[str], None] | None = None,
) -> tuple[list[SessionTokens], dict[str, str]]:
    """:func:`open_shards` of the sessions that the run's schemes serve, and why each of the others is left out.

    Args:
        named: somebody chose these very sessions: nothing is left out. made: tokenize what lacks, telling it.

    Raises:
        UnfitError: a scheme does not serve a session that was named, or any of them. Else as :func:`open_shards`.
    """
    unfit: dict[str, str] = {}
    try:
        if made is not None:
            make_shards(workspace, session_ids, config, made)
        elif not named:
            unfit = _not_served(workspace, session_ids, config)
    except UnfitError as error:
        unfit = error.sessions
    kept = [s for s in session_ids if s not in unfit]
    if unfit and (named or not kept):
        raise UnfitError(unfit)
    return open_shards(workspace, kept, config), unfit


def _not_served(workspace: Workspace, session_ids: Sequence[str], config: RunConfig) -> dict[str, str]:
    """Why the sessions have no shard for which no command can make one."""
    unfit = {}
    for scheme, absent in missing_shards(workspace, session_ids, config):
        for session_id in absent:
            try:
                plans = plan_session(workspace, session_id, [scheme], config.data.segments)
            except (DataError, UnknownNameError) as error:
                unfit[session_id] = str(error)
            else:
                unfit |= {p.session_id: _said_of(p.session_id, p.reason) for p in plans if p.state == "not served"}
    return unfit


def _said_of(session_id: str, said: str) -> str:
    """A reason that names its session, once."""
    return said if said.startswith(session_id) else f"{session_id}: {said}"


def open_shards(workspace: Workspace, session_ids: Sequence[str], config: RunConfig) -> list[SessionTokens]:
    """The shards of these sessions that fit the run's inputs and segments, made from the store as it is now.

    Raises:
        DataError: some are not there; the message holds the commands that make them. Or the run reads unit vectors, and
            a session has none.
    """
    lacking = missing_shards(workspace, session_ids, config)
    if lacking:
        scheme, absent = lacking[0]
        if has_old_shard(shard_path(workspace, absent[0], scheme, config.data.segments)):
            message = f"the {scheme.name} shard of {listing(absent, 3)} is of an earlier release: spiketok upgrade"
            raise DataError(message)
        commands = " && ".join(tokenize_command(config, scheme) for scheme, _ in lacking)
        message = f"no {scheme.name} shard of {listing(absent, 3)} for this run: {commands} (or add --tokenize)"
        raise DataError(message)
    inputs = run_inputs(config)  # once: there may be thousands of sessions
    found = [_open_session(workspace, session, inputs, config.data.segments) for session in session_ids]
    if digest := vectors_of(config):
        vectors = kept_vectors(workspace, digest).of([tokens.info for tokens in found])
        found = [replace(tokens, vectors=own) for tokens, own in zip(found, vectors, strict=True)]
    return found


def _open_session(
    workspace: Workspace, session_id: str, inputs: Mapping[str, Input], segments_rule: str
) -> SessionTokens:
    """The shards of one session by input; two inputs of one scheme share a reader."""
    readers: dict[Scheme, ShardReader] = {}
    windowed, once = {}, {}
    for name, wanted in inputs.items():
        scheme = scheme_of(wanted)
        if scheme not in readers:
            readers[scheme] = ShardReader(shard_path(workspace, session_id, scheme, segments_rule))
        if wanted.per == "session":
            once[name] = Once(readers[scheme], wanted.most, wanted.choose)
        else:
            windowed[name] = readers[scheme]
    return SessionTokens(windowed, once, workspace.facts(session_id))


def default_model(workspace: Workspace, session_ids: Sequence[str]) -> str | None:
    """The first model of which these sessions have the shards that its default configuration reads.

    Sessions that its schemes cannot serve do not count, as long as there are others.
    """
    for name in usable_models():
        config = load_config(name)
        lacking = {s for _, absent in missing_shards(workspace, session_ids, config) for s in absent}
        if len(lacking) < len(session_ids) and lacking <= _not_served(workspace, session_ids, config).keys():
            return name
    return None


def last_sessions(workspace: Workspace, session_ids: Sequence[str]) -> list[str]:
    """The last session by day of each subject that has several; of a subject with an undated session none."""
    days: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for session_id in session_ids:
        facts = workspace.facts(session_id)
        start = facts["session_start"]
        day = recording_day(session_id, start) if start else ""
        days.setdefault((session_id.split("/")[0], facts["subject"]), []).append((day, session_id))
    return sorted(max(held)[1] for held in days.values() if len(held) > 1 and all(day for day, _ in held))


@dataclass(frozen=True)
class Chosen:
    """Which sessions a command takes.

    Args:
        sessions: their ids. left_out: a line for each that was left out without being asked to.
        held_out: those that were held out.
    """

    sessions: list[str]
    left_out: list[str]
    held_out: list[str]


def choose_training(
    workspace: Workspace, config: RunConfig | None, sessions: str | None, hold_out: str | None
) -> Chosen:
    """The sessions to train on.

    Without ``sessions``, those that no task can use are left out; and always those whose recording is part of another
    chosen (or held out) session: what one scores the other trains. The same holds for two sessions of one recording
    (:mod:`spiketok.recording.identity`): the second is left out where neither ``sessions`` nor ``hold_out`` asked for
    it. Without ``sessions`` and ``hold_out``, the last session of each subject that has several is held out
    (``hold_out="none"``: none), unless days divide the sessions.

    Raises:
        DataError: nothing is left. UnknownNameError: a pattern matches nothing.
        UsageError: two sessions were asked for that are one recording.
    """
    chosen = workspace.select(sessions)
    named = hold_out if hold_out not in (None, "none") else None
    held = set(match_sessions(chosen, named, "the chosen sessions")) if named else set()
    whole = _parts_of(workspace, chosen)
    among = set(chosen)
    left_out = [f"{s} is part of {whole[s]}" for s in chosen if s not in held and whole.get(s) in among]
    chosen = [s for s in chosen if s not in held and whole.get(s) not in among]
    if not sessions and config is not None:
        needed = _signals_needed(config)
        having, without = _with_behaviour(workspace, chosen, needed)
        if chosen and not having and "auto" not in needed:
            there = {name for s in chosen for name in workspace.facts(s)["signals"]} - {FLUORESCENCE}
            if there:
                raise UnknownNameError("behaviour", listing(needed), there, str(workspace.store))
        chosen = having
        left_out += without
    chosen, without = _one_of_each(workspace, chosen, held, asked=bool(sessions))
    left_out += without
    if not sessions and hold_out is None and (config is None or config.split.kind != "day"):
        held = set(last_sessions(workspace, chosen))
        chosen = [s for s in chosen if s not in held]
    if not chosen:
        message = "no session is left to train on: " + ("; ".join(left_out) or "all are held out")
        raise DataError(message)
    return Chosen(chosen, left_out, sorted(held))


def _signals_needed(config: RunConfig) -> list[str]:
    """The behaviours of which a session must have one to be of use, ``"auto"`` for any; empty where none is needed.

    Latents of another run are no stored behaviour: a session that has none is refused where they are made.
    """
    questions = config.questions()
    if config.latents or any(kind != "decode" for kind, _ in questions):
        return []
    return [about or "auto" for _, about in questions]


def open_transfer_shards(
    workspace: Workspace,
    run: Run,
    sessions: str | None,
    *,
    within: bool,
    told: Callable[[str], None] | None = None,
) -> tuple[list[SessionTokens], list[str], bool]:
    """The shards to evaluate a run on, remarks on what was chosen, and whether they are the run's own sessions.

    Without ``sessions``: every session that the run was not trained on and that has its target; where there is none,
    the run's own sessions, with a remark that says so. With ``told`` missing shards are made, a line each.

    Raises:
        UsageError: a session that was asked for is one of the run's own, and ``within`` is not set; or it is another
            session of one of their recordings; or all that the run says is latents of another run.
        DataError: a shard is missing.
    """
    if {task.name for task in run.tasks} == {f"decode:{LATENTS}"}:
        message = (
            f"{run.path.name} decodes the latents of another run, which no unseen session has: evaluate a run that "
            f"goes on from it, by spiketok train --from {run.path.name} --task decode"
        )
        raise UsageError(message)
    trained = {s.id for s in run.trained_on}
    chosen = workspace.select(sessions)
    whole = _parts_of(workspace, chosen)
    seen = trained | {s for s, other in whole.items() if other in trained}
    left_out: list[str] = []
    same = trained_recordings(workspace, run, [s for s in chosen if s not in seen])
    if sessions:
        if same:
            session, fact = next(iter(same.items()))
            message = f"{session} {fact}, which the run was trained on: no session that it never saw; leave it out"
            raise UsageError(message)
        asked = [s for s in chosen if s in seen]
        if asked and not within:
            fact = "is" if asked[0] in trained else f"is part of {whole[asked[0]]},"
            message = (
                f"{asked[0]} {fact} one of the sessions that the run was trained on: "
                "--within evaluates on it all the same"
            )
            raise UsageError(message)
    else:
        left_out += [f"{s} {fact}, which the run was trained on" for s, fact in same.items()]
        chosen = [s for s in chosen if (within or s not in seen) and s not in same]
        needed = [task.about for task in run.tasks if task.kind == "decode"]
        chosen, without = _with_behaviour(workspace, chosen, needed if len(needed) == len(run.tasks) else [])
        left_out += without
        if not chosen:
            chosen = run.own
            asked = listing([task.name for task in run.tasks])
            left_out.append(
                f"nothing unseen: no other session with '{asked}' is in {workspace.store}, so the scores are "
                "WITHIN the sessions trained on, not across sessions (fetch another, or train with --hold-out GLOB)"
            )
            within = True
    opened, unfit = opened_shards(workspace, chosen, run.config, named=bool(sessions), made=told)
    left_out += list(unfit.values())
    if not sessions:
        useless = {s.id: run.tasks[0].why_not(s) for s in opened if all(task.why_not(s) for task in run.tasks)}
        if len(useless) < len(opened):
            left_out += [f"{session}: {why}" for session, why in useless.items()]
            opened = [s for s in opened if s.id not in useless]
    return opened, left_out, within


def trained_recordings(workspace: Workspace, run: Run, chosen: Sequence[str]) -> dict[str, str]:
    """By session that is the recording of a trained one what they share, for a message."""
    known = Recordings.of(s.identity for s in run.trained_on)
    found: dict[str, str] = {}
    for session in chosen:
        identity = Identity.of(workspace.facts(session))
        for other, what in known.like(identity):
            if session not in found and _same_time(workspace, identity, other, what):
                found[session] = f"is the recording of {other.session} (they share {what.words})"
    return found


def twins_among(workspace: Workspace, chosen: Sequence[str]) -> dict[str, str]:
    """By session that is the recording of one before it what they share, for a message."""
    known, found = Recordings(), {}
    for session in chosen:
        identity = Identity.of(workspace.facts(session))
        for other, what in known.like(identity):
            if _same_time(workspace, identity, other, what):
                found[session] = f"is the recording of {other.session} (they share {what.words})"
                break
        else:
            known.put(identity)
    return found


def _one_of_each(
    workspace: Workspace, chosen: Sequence[str], held: Collection[str], *, asked: bool
) -> tuple[list[str], list[str]]:
    """The sessions to train on of which no other and none that is held out is the same recording; lines on the rest.

    Raises:
        UsageError: they were asked for by name, or one that was held out by name is the recording of another.
    """
    known = Recordings.of(Identity.of(workspace.facts(s)) for s in sorted(held))
    kept, left_out = [], []
    for session in chosen:
        identity = Identity.of(workspace.facts(session))
        for other, what in known.like(identity):
            if not _same_time(workspace, identity, other, what):
                continue
            fact = f"{session} and {other.session} are one recording, they share {what.words}"
            if asked or other.session in held:
                role = "one is held out and the other trained on" if other.session in held else "both are trained on"
                message = (
                    f"{fact}, and {role}: a score would be of what was trained on; choose one of them "
                    "(--sessions, --hold-out), or ingest parts of one recording as one session by --merge-as"
                )
                raise UsageError(message)
            left_out.append(f"{session}: {fact}")
            break
        else:
            known.put(identity)
            kept.append(session)
    return kept, left_out


def _same_time(workspace: Workspace, one: Identity, other: Identity, what: Shared) -> bool:
    """Whether two sessions that share something are of the same moments too."""
    return what.always or common_ns(one, other, _time_of(workspace, one), _time_of(workspace, other)) > 0


def _time_of(workspace: Workspace, one: Identity) -> Intervals:
    """The observed time of a session; its extent where the store does not have it."""
    try:
        stretches = workspace.sizes(one.session)["stretches"]
    except ArtefactError:
        return Intervals([one.start_ns], [one.stop_ns])
    start, stop = np.array(stretches, np.int64).reshape(-1, 2).T
    return Intervals(start, stop).union()


def _parts_of(workspace: Workspace, session_ids: Sequence[str]) -> dict[str, str]:
    """The session that holds another's whole recording, for each that says so (FALCON's minival)."""
    info = {s: workspace.facts(s)["info"] for s in session_ids}
    return {s: facts["part_of"] for s, facts in info.items() if "part_of" in facts}


def _with_behaviour(
    workspace: Workspace, session_ids: Sequence[str], targets: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The sessions that have one of some behaviours, and a line for each of the others; all where none is named."""
    if not targets:
        return list(session_ids), []
    having = {s: set(workspace.facts(s)["signals"]) - {FLUORESCENCE} for s in session_ids}
    codes = _codes_among(workspace, having) if "auto" in targets else set()
    if not any(signals - codes for signals in having.values()):
        codes = set()  # whoever chooses the behaviour says what all of them hold
    kept, left_out = [], []
    for session_id, signals in having.items():
        if signals - codes if "auto" in targets else signals & set(targets):
            kept.append(session_id)
        else:
            named = "" if "auto" in targets else f" '{listing(targets)}'"
            but = f" but event codes ({listing(sorted(signals))})" if signals & codes else ""
            left_out.append(f"{session_id} has no behaviour{named}{but}")
    return kept, left_out


def _codes_among(workspace: Workspace, having: Mapping[str, set[str]]) -> set[str]:
    """The signals that hold event codes, of which the first session that has one says so.

    Nothing is read where all sessions have the same, since none is better than another, and nothing of a store behind
    a URL, which a training asks for its index alone.
    """
    names = set().union(*having.values())
    if isinstance(workspace.store, RemotePath) or all(signals == names for signals in having.values()):
        return set()
    found = set()
    for name in sorted(names):
        for session in (s for s, signals in having.items() if name in signals):
            path = workspace.store_path(session)
            signal = read_signal(path, read_attributes(path), name)
            if signal.valid.any():
                found |= {name} if is_code(signal) else set()
                break
    return found


def run_path(workspace: Workspace, config: RunConfig, sessions: Sequence[SessionTokens]) -> Path:
    """The folder of the run of this configuration on these shards: same inputs, same name."""
    named = {s.id: sorted(r.digest for r in s.readers) for s in sessions}
    model = config.model.replace(":", ".")  # of one that a module names: no colon in the name of a folder
    return workspace.runs / f"{model}-{fingerprint([config.fingerprint(), named])[:10]}"


def sets_from(base: Run, model: str | None) -> list[str]:
    """What a run takes over from the one that it starts from: size, windows and bins, and fields of the model's own.

    In the form of ``--set``; the user's own stand behind them. A file's keys do not override them.

    Args:
        model: that was asked for, None for the base's.

    Raises:
        UsageError: it is another.
    """
    require_model(model or base.config.model, base)
    config = base.config
    own = {f"model.{key}": value for key, value in config.model_overrides.items()}
    taken = {"size": config.size, "data.window_ms": config.data.window_ms, "data.bin_ms": config.data.bin_ms}
    return [f"{key}={typed(value)}" for key, value in ({"start": base.digest} | taken | own).items()]


def device_of(config: RunConfig):
    """The one device on which a run's model is evaluated: the first of those it was configured for."""
    from lightning_fabric import Fabric

    return Fabric(accelerator=config.optim.accelerator, devices=1).device
