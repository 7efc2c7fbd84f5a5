"""Runs of an earlier release, made as this one reads them: the same weights, with shards and tasks named as now.

Checkpoints of version 1 decode one signal (``target``) from one shard a session. What they say is said again as
version 2 says it: a task in place of the target, shards by the model's inputs. The weights are copied byte for byte.
A run is upgraded whole or not at all: its folder is made anew beside it and takes its place.

A report is not made again: its page holds numbers and digests as text. ``spiketok eval-xsession`` writes it anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spiketok.errors import ArtefactError, SpiketokError
from spiketok.pipeline.jobs import describe
from spiketok.pipeline.upgrade import OldShard, Upgraded
from spiketok.storage.files import (
    atomic_folder,
    below,
    content_digest,
    read_json,
    sha256_file,
    write_json,
    write_signed,
)
from spiketok.storage.locks import LOCK, inside, locked
from spiketok.storage.workspace import Workspace
from spiketok.tokens.shards import ShardReader
from spiketok.training.checkpoints import FOLDER, FORMAT, Run, checkpoint_digest, load_run
from spiketok.training.config import RunConfig
from spiketok.training.loop import mean_scores
from spiketok.training.runs import run_inputs, scheme_of

OLD_VERSION, NEW_VERSION = 1, 2
# Of the earlier release's three models, those that computed what they compute now. ndt1 read rates out beside the
# behaviour in every run; that is the task population now, with a state that was never fitted there.
SAME_MODELS = ("linear", "poyo")
STALE = ("target", "digest")  # of what was written of a run: said otherwise, or made again


def old_runs(workspace: Workspace) -> Iterator[tuple[Path, dict]]:
    """The folder of each run whose checkpoint is of the earlier release, and what stands beside its weights.

    A run of which that cannot be read is given with nothing: nobody can say of which release it is.
    """
    for file in sorted(workspace.runs.glob(f"*/{FOLDER}/checkpoint.json")):
        try:
            facts = read_json(file)
        except (OSError, ValueError):
            facts = {}
        if not facts or (facts.get("format") == FORMAT and facts.get("version") == OLD_VERSION):
            yield file.parent.parent, facts


def shards_to_keep(workspace: Workspace, shards: Sequence[OldShard]) -> set[str]:
    """The digests of the shards that a run of the earlier release may still need to be upgraded."""
    left = [facts for _, facts in old_runs(workspace)]
    if not all(left):
        return {shard.digest for shard in shards}
    try:
        return {session.get("shard_digest", "") for facts in left for session in facts.get("sessions", [])}
    except (AttributeError, TypeError):  # one that was changed: nobody can say which shards are its
        return {shard.digest for shard in shards}


def upgrade_runs(workspace: Workspace, shards: Sequence[OldShard], *, dry_run: bool) -> Iterator[Upgraded]:
    """Upgrade every run of the earlier release.

    Args:
        shards: those that have successors, by which the runs' own are found.
    """
    by_digest = {shard.digest: shard for shard in shards}
    for path, facts in old_runs(workspace):
        if not facts:
            remark = f"its checkpoint.json cannot be read, so nobody knows of which release it is: {_again(facts)}"
            yield Upgraded("run", path.name, "left", remark)
            continue
        try:
            config = upgraded_config(facts)
            if dry_run:
                _upgraded_sessions(facts, config, by_digest, dry_run=True)
                yield Upgraded("run", path.name, "to upgrade", f"checkpoint version {OLD_VERSION} -> {NEW_VERSION}")
            else:
                with locked(inside(path), f"run {path}"):
                    upgrade_run(path, facts, config, by_digest)
                yield Upgraded("run", path.name, "upgraded", f"checkpoint version {NEW_VERSION}, weights unchanged")
        except SpiketokError as error:
            yield Upgraded("run", path.name, "left", str(error))
        except OSError as error:
            yield Upgraded("run", path.name, "left", describe(error))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            remark = f"it cannot be understood ({type(error).__name__}: {error}): {_again(facts)}"
            yield Upgraded("run", path.name, "left", remark)
        else:
            for report in sorted(path.glob("*/report.json")):
                again = f"spiketok eval-xsession {path.name}"
                yield Upgraded(
                    "report", "/".join(report.parts[-3:-1]), "left", f"to have it as it is written now: {again}"
                )


def _again(facts: Mapping) -> str:
    config = facts.get("config")
    return f"spiketok train --model {config.get('model', 'NAME') if isinstance(config, dict) else 'NAME'}"


def upgraded_config(facts: Mapping) -> RunConfig:
    """The configuration of a run as it is said now: what was decoded is its task.

    Raises:
        SpiketokError: it does not fit the model as it is now, or the model asked otherwise.
    """
    name = facts["config"]["model"]
    if name not in SAME_MODELS:
        message = f"'{name}' had rates and behaviour in one, which are two tasks now: train anew, {_again(facts)}"
        raise ArtefactError(message)
    values = json.loads(json.dumps(facts["config"]))
    target = values["data"].pop("target")
    values["tasks"] = ["decode" if target == "auto" else f"decode:{target}"]
    return RunConfig.from_dict(values)


def upgrade_run(path: Path, facts: Mapping, config: RunConfig, shards: Mapping[str, OldShard]) -> None:
    """Write a run anew in its own place.

    Args:
        facts: its ``checkpoint.json``. config: as it is said now. shards: by the digests that the run names.

    Raises:
        ArtefactError: it is damaged, unfinished, its shards have no successors, or its weights do not fit the model.
    """
    _require_whole(path, facts)
    if facts["step"] < facts["total_steps"]:
        message = (
            f"its training stopped at step {facts['step']} of {facts['total_steps']}, and only the release that began "
            f"it can go on: {_again(facts)}"
        )
        raise ArtefactError(message)
    sessions = _upgraded_sessions(facts, config, shards)
    target = facts["target"]
    said = {key: value for key, value in facts.items() if key not in STALE} | {
        "version": NEW_VERSION,
        "config": config.to_dict(),
        "tasks": [{"kind": "decode", "about": target["name"], "state": target}],
        "sessions": sessions,
        "loader": {},  # where training would go on: it is at its end
    }
    with atomic_folder(path) as wip:
        shutil.copytree(path, wip, dirs_exist_ok=True, ignore=shutil.ignore_patterns(f"{LOCK}*"))
        write_json(wip / FOLDER / "checkpoint.json", said | {"digest": content_digest(said)})
        write_signed(wip / "config.json", config.to_dict() | {"transfer": read_json(path / "config.json")["transfer"]})
        run = load_run(wip)  # whether the weights fit the model
        if (path / "result.json").exists():
            write_json(wip / "result.json", _upgraded_result(path, facts, run, sessions, checkpoint_digest(wip)))


def _require_whole(path: Path, facts: Mapping) -> None:
    """Raise ArtefactError where a run is not what was written: nothing is signed anew that was not held against it."""
    for name, digest in facts["files"].items():
        found = sha256_file(below(path / FOLDER, name, "its checkpoint.json"))
        if found != digest:
            message = f"its {name} is damaged (sha256 {found[:12]}, written was {digest[:12]}): {_again(facts)}"
            raise ArtefactError(message)
    if facts["digest"] != content_digest(facts):
        message = f"its checkpoint.json was changed (it does not match its own digest): {_again(facts)}"
        raise ArtefactError(message)


def _upgraded_sessions(
    facts: Mapping, config: RunConfig, shards: Mapping[str, OldShard], *, dry_run: bool = False
) -> list[dict]:
    """The sessions of a run with their shards as they are now.

    Raises:
        ArtefactError: a shard has no successor, or not by the scheme that the model reads.
    """
    schemes = {name: scheme_of(wanted) for name, wanted in run_inputs(config).items()}
    found = []
    for session in facts["sessions"]:
        old = shards.get(session["shard_digest"])
        if old is None:
            message = (
                f"its shard {session.get('shard') or session['shard_digest'][:12]} has no successor "
                f"(gone, or left as it is): {_again(facts)}"
            )
            raise ArtefactError(message)
        own = {key: value for key, value in session.items() if key not in ("shard", "shard_digest")}
        if not dry_run:
            reader = ShardReader(old.new)
            unlike = [name for name, scheme in schemes.items() if scheme != reader.scheme]
            if unlike:
                now = f"'{config.model}' reads {schemes[unlike[0]]} now"
                message = f"{now}, it was trained on {reader.scheme}: {_again(facts)}"
                raise ArtefactError(message)
            place = f"{reader.scheme.name}/{session['id']}/{old.new.name}"
            own["shards"] = {name: {"digest": reader.digest, "shard": place} for name in schemes}
        found.append(own)
    return found


def _upgraded_result(path: Path, facts: Mapping, run: Run, sessions: Sequence[dict], digest: str) -> dict:
    """A run's result as it is said now: scores by task.

    Raises:
        ArtefactError: it was changed, or is of another checkpoint.
    """
    result = read_json(path / "result.json")
    said = result.get("digest"), result.get("checkpoint_digest")
    if said != (content_digest(result), checkpoint_digest(path)):
        message = f"its result.json was changed, or is of another checkpoint: {_again(facts)}"
        raise ArtefactError(message)
    (task,) = run.tasks
    scores = {session: {task.name: score} for session, score in result["test"].items()}
    body = {key: value for key, value in result.items() if key not in STALE} | {
        "config_fingerprint": run.config.fingerprint(),
        "tasks": [{"name": task.name, "kind": task.kind, "metrics": list(task.metrics)}],
        "sessions": list(sessions),
        "checkpoint_digest": digest,
        "test": scores,
        "test_mean": mean_scores(run.tasks, scores),
    }
    return body | {"digest": content_digest(body)}
