"""The runs of a workspace: how far each is, what it scored, how two differ, and what depends on one.

A run is read by its JSON files alone, so that a list of hundreds needs no torch. One that is damaged has a row that
says so, and does not keep the others from their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spiketok.errors import ArtefactError, BusyError
from spiketok.storage.files import WIP, clean_leftovers, human_bytes, read_json, sha256_file, source_bytes
from spiketok.storage.forms import Each, form_fault
from spiketok.storage.locks import inside, locked
from spiketok.storage.npz import read_npz
from spiketok.storage.records import (
    CHECKPOINT,
    RESULT,
    checkpoint_digest,
    is_run,
    report_body,
    run_checkpoint,
    run_config,
    run_result,
)
from spiketok.storage.workspace import Workspace

FLOOR = "linear"  # the row of a report that is no model's but of the decoder beside it, or of that decoder's own run
REPORT = Path("xsession") / "report.json"  # of a run, where --out named no other place


@dataclass(frozen=True)
class RunRow:
    """What a list says of a run.

    Args:
        path: its folder. model, size, seed, tasks: as configured. sessions: how many it is trained on.
        step, total_steps: how far it is. state: in words.
        scores: by task, the means over its sessions of the test split; headline metric first.
        transfer: by task and protocol, the means of its report.
        changed_s: when it was last saved, in seconds since 1970. nbytes: of all its files.
        config, sessions_trained: for a comparison.
    """

    path: Path
    model: str = ""
    size: str = ""
    seed: int | None = None
    tasks: tuple[str, ...] = ()
    sessions: int | None = None
    step: int | None = None
    total_steps: int | None = None
    state: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    transfer: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    changed_s: float = 0.0
    nbytes: int = 0
    config: Mapping[str, object] = field(default_factory=dict)
    sessions_trained: tuple[str, ...] = ()

    @property
    def headline(self) -> tuple[str, float] | None:
        """The metric and its value that stand for the run: of its first task."""
        return next((next(iter(own.items())) for own in self.scores.values() if own), None)

    @property
    def best_transfer(self) -> tuple[str, float] | None:
        """The best protocol of the first task that the report scored, by its headline metric, and that."""
        for rows in self.transfer.values():
            own_rows = {name: own for name, own in rows.items() if name != FLOOR or self.model == FLOOR}
            found = {name: next(iter(own.values())) for name, own in own_rows.items() if own}
            if found:
                return max(found.items(), key=lambda item: item[1])
        return None

    def told(self) -> dict[str, object]:
        """The row as it is printed; the numbers as they are."""
        headline, transfer = self.headline, self.best_transfer
        return {
            "run": self.path.name,
            "model": self.model or None,
            "seed": self.seed,
            "tasks": ", ".join(self.tasks) or None,
            "sessions": self.sessions,
            "steps": self.step,
            "state": self.state,
            "score": None if headline is None else headline[1],
            "of": None if headline is None else headline[0],
            "transfer": None if transfer is None else transfer[1],
            "by": None if transfer is None else transfer[0],
            "saved": time.strftime("%Y-%m-%d %H:%M", time.localtime(self.changed_s)),
            "size": human_bytes(self.nbytes),
        }


def run_folders(workspace: Workspace) -> list[Path]:
    """Every run, in order of name."""
    return sorted(p for p in workspace.runs.glob("*") if not p.name.startswith(".") and is_run(p))


def run_row(path: Path) -> RunRow:
    """What is known of a run, also of one that is damaged or not finished."""
    facts: dict[str, object] = {"path": path, "nbytes": source_bytes(path), "changed_s": _saved_s(path)}
    try:
        state = run_checkpoint(path) if (path / CHECKPOINT).exists() else None
        config = run_config(path, state)
        facts |= _configured(config, state)
        if os.path.lexists(path / RESULT):
            result = run_result(path)
            metrics = {task["name"]: task["metrics"] for task in result["tasks"]}
            means = result["test_mean"]
            facts["scores"] = {
                t: {m: means[t][m] for m in names if m in means.get(t, {})} for t, names in metrics.items()
            }
        facts["state"] = _state_words(path, state)
        if (path / REPORT).exists():
            facts["transfer"] = _transfer(report_body(path / REPORT), facts.get("scores", {}))
    except (ArtefactError, OSError, KeyError, TypeError, AttributeError) as error:
        facts["state"] = f"damaged: {error if isinstance(error, ArtefactError) else type(error).__name__}"
    return RunRow(**facts)


def means_of(result: Mapping) -> dict[str, dict[str, float]]:
    """By task the means that exist, in the order of its metrics."""
    means = result["test_mean"]
    return {
        task["name"]: {
            name: means[task["name"]][name] for name in task["metrics"] if name in means.get(task["name"], {})
        }
        for task in result["tasks"]
    }


def _saved_s(path: Path) -> float:
    files = [path / CHECKPOINT, path / RESULT, path / "config.json"]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _configured(config: Mapping, state: Mapping | None) -> dict[str, object]:
    facts = {"model": config["model"], "size": config["size"], "seed": config["seed"], "config": config}
    if state is None:
        return facts | {"tasks": tuple(config["tasks"])}
    trained = tuple(one["id"] for one in state["sessions"] if not one.get("earlier"))
    return facts | {
        "tasks": tuple(":".join(filter(None, (t["kind"], t["about"]))) for t in state["tasks"]),
        "sessions": len(trained),
        "sessions_trained": trained,
        "step": state["step"],
        "total_steps": state["total_steps"],
    }


def _state_words(path: Path, state: Mapping | None) -> str:
    if is_held(path):
        return "running" if state is None else f"running, saved at step {state['step']} of {state['total_steps']}"
    if state is None:
        return "nothing saved yet"
    if state["step"] < state["total_steps"]:
        return f"stopped at step {state['step']} of {state['total_steps']}"
    return "finished" if (path / RESULT).exists() else "trained, not scored"


def is_held(path: Path) -> bool:
    """Whether a command is writing a run now."""
    if not inside(path).exists():
        return False
    try:
        with locked(inside(path), f"run {path}"):
            return False
    except BusyError:
        return True


def _transfer(report: Mapping, scores: Mapping) -> dict[str, dict[str, dict[str, float]]]:
    """By task and protocol the means of a report, those that exist, in the order of the run's own ``scores``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task, rows in report["summary"].items():
        known = list(scores.get(task, ()))
        for protocol, over in rows.items():
            names = sorted(over, key=lambda name: known.index(name) if name in known else len(known))
            own = {name: over[name]["mean"] for name in names if over[name].get("mean") is not None}
            found.setdefault(task, {})[protocol] = own
    return found


# ---- two beside each other ------------------------------------------------------------------------------------------


def differences(rows: Sequence[RunRow]) -> list[dict[str, object]]:
    """The keys in which the configurations of runs, or what they are trained on, are not all the same."""
    flat = [dict(_flat(row.config)) | {"sessions": ", ".join(row.sessions_trained) or None} for row in rows]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    return [
        {"key": key} | {row.path.name: one.get(key) for row, one in zip(rows, flat, strict=True)}
        for key in keys
        if any(one.get(key) != flat[0].get(key) for one in flat)
    ]


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if key == "digest":
            continue
        name = f"{prefix}{key}".replace("model_overrides.", "model.")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def scores_beside(rows: Sequence[RunRow]) -> list[dict[str, object]]:
    """Each score that one of the runs has, with that of each: the test split of its sessions, then transfer."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        for task, own in row.scores.items():
            for metric, value in own.items():
                found.setdefault((task, "test split", metric), {})[row.path.name] = value
    for row in rows:
        for task, by in row.transfer.items():
            for protocol, own in by.items():
                for metric, value in own.items():
                    found.setdefault((task, protocol, metric), {})[row.path.name] = value
    return [
        {"task": task, "of": of, "metric": metric} | {row.path.name: own.get(row.path.name) for row in rows}
        for (task, of, metric), own in found.items()
    ]


# ---- what depends on one --------------------------------------------------------------------------------------------

# what a run says of the runs that it needs
_NAMED = {"config": {"model_overrides?": Each(object)}, "kept": [{"parent?": Each(object)}]}


def dependents(workspace: Workspace, run: Path, *, but: Sequence[Path] = ()) -> list[str]:
    """What a run's deletion would leave without its origin, in words.

    Args:
        but: other runs that are deleted too.

    Reports of it anywhere in the workspace (also in its own folder), leaderboards, other runs that started from its
    weights, learned its latents, are adapted copies of it or read vectors of its units, those vectors, and choices.
    """
    digest, run = checkpoint_digest(run), run.resolve()
    if not digest:
        return []
    gone = {other.resolve() for other in but} - {run}
    vectors = {sha256_file(file): file for file in _vectors(workspace, digest)}
    found = [f"vectors {_short(workspace, file)}" for file in vectors.values() if file.resolve().parent not in gone]
    for other in run_folders(workspace):
        if other.resolve() in (run, *gone):
            continue
        facts = _read(other / CHECKPOINT)
        config = facts.get("config") or _read(other / "config.json")
        if form_fault({"config": config, "kept": facts.get("kept", [])}, _NAMED):
            continue  # it is damaged: whoever reads it says so
        overrides = config.get("model_overrides", {})
        if config.get("start") == digest:
            found.append(f"run {other.name}, which started from its weights (--from)")
        elif config.get("latents") == digest:
            found.append(f"run {other.name}, which learned its latents (--latents)")
        elif any(one.get("parent", {}).get("checkpoint_digest") == digest for one in facts.get("kept", ())):
            found.append(f"run {other.name}, which was adapted from it (--keep)")
        elif overrides.get("vectors") in vectors:
            found.append(f"run {other.name}, which reads vectors of its units (--vectors)")
    for file in sorted(workspace.root.rglob("*.json")):
        if file.name not in ("report.json", "curve.json", "leaderboard.json", "leaderboard-partial.json") and (
            file.parent != workspace.choices
        ):
            continue
        if any(part in gone for part in file.resolve().parents) or digest not in file.read_text(errors="replace"):
            continue
        kind = "choice" if file.parent == workspace.choices else file.stem.removesuffix("-partial")
        found.append(f"{'curve of reports' if kind == 'curve' else kind} {_short(workspace, file)}")
    return found


def own_reports(workspace: Workspace, run: Path) -> list[str]:
    """The lines of :func:`dependents` that are about the run's own folder, and go with it."""
    inside_it = f"{_short(workspace, run)}/"
    return [line for line in dependents(workspace, run) if inside_it in line and not line.startswith("run ")]


def _vectors(workspace: Workspace, digest: str) -> Iterator[Path]:
    """Files of vectors that a run made, in its folder and among those that runs read."""
    for file in sorted([*workspace.runs.glob("*/*.npz"), *(workspace.root / "vectors").glob("*.npz")]):
        try:
            made = read_npz(file, "run_digest").get("run_digest", "")
        except (OSError, ArtefactError):
            continue  # it is none: whoever reads it says so
        if str(made) == digest:
            yield file


def _short(workspace: Workspace, path: Path) -> str:
    return str(path.relative_to(workspace.root)) if path.is_relative_to(workspace.root) else str(path)


def _read(file: Path) -> dict:
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def delete_run(run: Path) -> None:
    """Remove a run, first out of sight and then from the disk: a kill leaves all of it or none in its place.

    Raises:
        BusyError: a command is writing it.
    """
    with locked(inside(run), f"run {run}"):
        os.rename(run, run.parent / f"{WIP}{os.getpid()}-removed-{run.name}")
    clean_leftovers(run.parent)
