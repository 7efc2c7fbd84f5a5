"""Which shards a run needs, where runs lie, and which is meant: between the workspace and training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.pipeline.tokenize import shard_path
from spiketok.recording.nouns import FLUORESCENCE
from spiketok.recording.splits import CONTINUOUS
from spiketok.storage.files import fingerprint
from spiketok.storage.store import read_attributes
from spiketok.storage.workspace import Workspace, match_sessions
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader
from spiketok.training.checkpoints import Run
from spiketok.training.config import RunConfig, model_class


def scheme_of(config: RunConfig):
    """The scheme, with its fields, that a run's model reads."""
    name = model_class(config.model).scheme
    return make_scheme(name, bin_ns=round(config.data.bin_ms * 1e6)) if name == "binned" else make_scheme(name)


def open_shards(workspace: Workspace, session_ids: Sequence[str], config: RunConfig) -> list[ShardReader]:
    """The shards of these sessions that fit the run's scheme and segments, made from the store as it is now.

    Raises:
        DataError: some are not there; the message holds the command that makes them.
    """
    scheme = scheme_of(config)
    paths = {s: shard_path(workspace, s, scheme, config.data.segments) for s in session_ids}
    missing = [s for s, path in paths.items() if not path.exists()]
    if missing:
        words = ["spiketok tokenize --scheme", scheme.name]
        words += ["--bin-ms", f"{config.data.bin_ms:g}"] if scheme.name == "binned" and config.data.bin_ms != 20 else []
        words += ["--segments", config.data.segments] if config.data.segments != CONTINUOUS else []
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        message = f"no {scheme.name} shard of {shown} for this run: {' '.join(words)}"
        raise DataError(message)
    return [ShardReader(path) for path in paths.values()]


def open_training_shards(
    workspace: Workspace, config: RunConfig, sessions: str | None, hold_out: str | None
) -> tuple[list[ShardReader], list[str]]:
    """The shards to train on, and a line for each session that was left out without being asked to.

    Without ``sessions``, those that have no behaviour (or not the target that the configuration names) are left out;
    and always those whose recording is part of another chosen (or held out) session: what one scores the other trains.

    Raises:
        DataError: nothing is left, or a shard is missing. UnknownNameError: a pattern matches nothing.
    """
    chosen = workspace.select(sessions)
    held = set(match_sessions(chosen, hold_out, "the chosen sessions")) if hold_out else set()
    whole = _parts_of(workspace, chosen)
    left_out = [f"{s} is part of {whole[s]}" for s in chosen if s not in held and whole.get(s) in chosen]
    chosen = [s for s in chosen if s not in held and whole.get(s) not in chosen]
    if not sessions:
        chosen, without = _with_behaviour(workspace, chosen, dict(config.questions())["decode"] or "auto")
        left_out += without
    if not chosen:
        message = "no session is left to train on: " + ("; ".join(left_out) or "all are held out")
        raise DataError(message)
    return open_shards(workspace, chosen, config), left_out


def open_transfer_shards(
    workspace: Workspace, run: Run, sessions: str | None, *, within: bool
) -> tuple[list[ShardReader], list[str], bool]:
    """The shards to evaluate a run on, remarks on what was chosen, and whether they are the run's own sessions.

    Without ``sessions``: every session that the run was not trained on and that has its target; where there is none,
    the run's own sessions, with a remark that says so.

    Raises:
        UsageError: a session that was asked for is one of the run's own, and ``within`` is not set.
        DataError: a shard is missing.
    """
    trained = {s.id for s in run.trained_on}
    chosen = workspace.select(sessions)
    whole = _parts_of(workspace, chosen)
    seen = trained | {s for s, other in whole.items() if other in trained}
    left_out: list[str] = []
    if sessions:
        asked = [s for s in chosen if s in seen]
        if asked and not within:
            fact = "is" if asked[0] in trained else f"is part of {whole[asked[0]]},"
            message = (
                f"{asked[0]} {fact} one of the sessions that the run was trained on: "
                "--within evaluates on it all the same"
            )
            raise UsageError(message)
    else:
        chosen = [s for s in chosen if within or s not in seen]
        chosen, left_out = _with_behaviour(workspace, chosen, run.target.name)
        if not chosen:
            chosen = sorted(trained)
            left_out.append(
                f"nothing unseen: no other session with '{run.target.name}' is in {workspace.store}, so the scores are "
                "WITHIN the sessions trained on, not across sessions (fetch another, or train with --hold-out GLOB)"
            )
            within = True
    return open_shards(workspace, chosen, run.config), left_out, within


def _parts_of(workspace: Workspace, session_ids: Sequence[str]) -> dict[str, str]:
    """The session that holds another's whole recording, for each that says so (FALCON's minival)."""
    info = {s: read_attributes(workspace.store_path(s))["info"] for s in session_ids}
    return {s: facts["part_of"] for s, facts in info.items() if "part_of" in facts}


def _with_behaviour(workspace: Workspace, session_ids: Sequence[str], target: str) -> tuple[list[str], list[str]]:
    kept, left_out = [], []
    for session_id in session_ids:
        signals = set(read_attributes(workspace.store_path(session_id))["signals"]) - {FLUORESCENCE}
        if signals if target == "auto" else target in signals:
            kept.append(session_id)
        else:
            left_out.append(f"{session_id} has no behaviour" + ("" if target == "auto" else f" '{target}'"))
    return kept, left_out


def run_path(workspace: Workspace, config: RunConfig, readers: Sequence[ShardReader]) -> Path:
    """The folder of the run of this configuration on these shards: same inputs, same name."""
    named = {r.info.id: r.manifest["digest"] for r in readers}
    return workspace.runs / f"{config.model}-{fingerprint([config.fingerprint(), named])[:10]}"


def device_of(config: RunConfig):
    """The one device on which a run's model is evaluated: the first of those it was configured for."""
    from lightning_fabric import Fabric

    return Fabric(accelerator=config.optim.accelerator, devices=1).device


def find_run(workspace: Workspace, name: str) -> Path:
    """A run's folder from its path, its name in the workspace, or a model's name (the newest finished run of it).

    Raises:
        UnknownNameError: there is no such run.
    """
    for path in (Path(name), workspace.runs / name):
        if (path / "config.json").exists():
            return path
    known = {p.parent.name: p for p in workspace.runs.glob("*/result.json")}
    of_model = [p for run, p in known.items() if json.loads(p.read_text())["model"] == name]
    if of_model:
        return max(of_model, key=lambda p: p.stat().st_mtime).parent
    raise UnknownNameError("run", name, known, str(workspace.runs))
