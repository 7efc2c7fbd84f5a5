"""What a typed name means in a workspace: one function for each kind of thing, which every command asks.

A path is itself. Else a run is its name in the workspace, a model's name (its newest finished run) or the beginning of
one run's name; a session is its id, its name or the beginning of either. A word that means several is refused with all
that it means, one that means none with the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spiketok.errors import AmbiguousNameError, ArtefactError, DataError, NotFoundError, UnknownNameError, UsageError
from spiketok.storage.records import RESULT, is_run, run_result
from spiketok.storage.remote import RemotePath
from spiketok.storage.workspace import Workspace, beginning_with


def run_names(workspace: Workspace) -> list[str]:
    """The runs of a workspace, finished or not, in order of name."""
    return sorted(p.name for p in workspace.runs.glob("*") if is_run(p))


def find_run(workspace: Workspace, name: str | None) -> Path:
    """A run's folder from its path, its name in the workspace or the beginning of that, or a model's name.

    A model's name is the newest finished run of it; None the newest finished run of all.

    Raises:
        UnknownNameError: there is no such run. AmbiguousNameError: several begin so.
        DataError: there is no finished run at all, or none of the model.
    """
    if name is not None:
        for path in (Path(name), workspace.runs / name):
            if is_run(path):
                return path
    known = {p.parent.name: p for p in workspace.runs.glob("*/result.json")}
    newest = _newest(known.values(), name)
    if newest is not None:
        return newest
    if name is None:
        message = f"no finished run in {workspace.runs}: spiketok train makes one"
        raise DataError(message)
    stem = f"{name.replace(':', '.')}-"  # runs of PACKAGE.MODULE:CLASS have no colon in their names
    unscored = [run for run in run_names(workspace) if run.startswith(stem) and run not in known]
    if unscored and not any(run.startswith(stem) for run in known):
        message = (
            f"no run of {name} in {workspace.runs} is finished: {unscored[0]} has no {RESULT}: run the same "
            "'spiketok train' again, or name the run"
        )
        raise DataError(message)
    names = run_names(workspace)
    found = [run for run in names if name and run.startswith(name)]
    if len(found) > 1:
        raise AmbiguousNameError("run", name, found)
    if not found:
        raise UnknownNameError("run", name, names, str(workspace.runs))
    return workspace.runs / found[0]


def _newest(results: Iterable[Path], model: str | None) -> Path | None:
    """The newest finished run of a model, or of all; one that was kept after an adaptation is no training: named."""
    found = {path: run_result(path.parent) for path in results}
    of_model = [p for p, facts in found.items() if model in (None, facts["model"]) and "kept" not in facts]
    return max(of_model, key=lambda p: p.stat().st_mtime).parent if of_model else None


def locate(name: str | None, workspace: Workspace) -> Path | RemotePath:
    """What a name means in a workspace: a path, a session, a run, a shard's path; without a name the workspace itself.

    Raises:
        UnknownNameError: nothing of that name. AmbiguousNameError: several begin so. UsageError: no workspace yet.
    """
    if name is None:
        if not workspace.root.exists():
            message = (
                f"there is no workspace at {workspace.root} yet: 'spiketok simulate' or 'spiketok ingest PATH' make one"
            )
            raise UsageError(message)
        return workspace.root
    stored = [workspace.store / name] if len(Path(name).parts) == 2 else []  # the folder of a dataset is no session
    for path in (Path(name), *stored, workspace.runs / name, workspace.shards / name):
        if name and path.exists():
            return path
    ids = workspace.session_ids()
    exact = [s for s in ids if s.split("/", 1)[1] == name]
    sessions = exact or (beginning_with(ids, name) if name else [])
    runs = [] if exact else _runs_of(workspace, name)
    if len(sessions) + len(runs) > 1:
        kind = "session" if not runs else "run" if not sessions else "session or run"
        raise AmbiguousNameError(kind, name, [*sessions, *(run.name for run in runs)])
    if sessions:
        return workspace.store_path(sessions[0])
    if runs:
        return runs[0]
    raise NotFoundError(name, [*ids, *run_names(workspace)], str(workspace.root))


def _runs_of(workspace: Workspace, name: str) -> list[Path]:
    """The run that a name means, or all that it could mean; none where it means no run."""
    try:
        return [find_run(workspace, name)]
    except AmbiguousNameError as error:
        return [workspace.runs / run for run in error.found]
    except (UnknownNameError, DataError, ArtefactError):
        return [workspace.runs / run for run in run_names(workspace) if name and run.startswith(name)]
