"""What of a workspace is pushed: runs, shards, sessions, and what they cannot be without.

An item is checked before it is sent, as ``verify --quick`` checks it. No file that can hold a pickle is an item's.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, DataError, SpiketokError, UnknownNameError, UsageError
from spiketok.pipeline.citations import Citation, cite
from spiketok.pipeline.provenance import first_broken, walk
from spiketok.plugins import Origin, find_module, origins_of, present, require_origins
from spiketok.storage.causes import content_fault
from spiketok.storage.files import WIP, read_json, read_signed, sha256_file
from spiketok.storage.locks import LOCK
from spiketok.storage.pushed import MARKS, RUN_FILES, STATE, kind_at
from spiketok.storage.records import CONFIG, RESULT, checkpoint_digest, is_run, report_body, run_checkpoint, run_result
from spiketok.storage.remote import RemotePath
from spiketok.storage.store import holds_session, is_packed, read_session
from spiketok.storage.workspace import CONTEXT, MANIFEST, Workspace, match_sessions

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".dill")
SCORED = 40  # sessions of a run whose scores stand in a card one by one


@dataclass(frozen=True)
class Item:
    """One thing to push.

    Args:
        path: its place in a workspace, as ``"runs/poyo-0123456789"``. files: by name in it.
        left_out: files of it that stay here. skipped: files that are no part of what it is. outside: links to what lies
            outside of the workspace and stands under no digest.
        needs: places of what it cannot be used without. made_of: of what it was made of.
        about: facts for the card. cite: what to cite for it.
    """

    path: str
    files: dict[str, Path]
    about: dict[str, object]
    cite: list[Citation] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return kind_at(self.path)

    def to_entry(self) -> dict[str, object]:
        """What a manifest says of it; every file of it is read."""
        files = {name: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for name, p in sorted(self.files.items())}
        return {
            "kind": self.kind,
            "files": files,
            "left_out": list(self.left_out),
            "needs": list(self.needs),
            "made_of": list(self.made_of),
            "about": self.about,
            "cite": [asdict(one) for one in self.cite],
        }


def chosen_items(
    workspace: Workspace, words: Sequence[str], *, optimizer: bool = False, with_data: bool = False
) -> Iterator[Item]:
    """The items that some words name, with what these need, each once and checked.

    Args:
        words: runs (path or name), shards (path, or a place below ``shards/`` as ``binned`` or ``binned/dataset``) and
            sessions (ids and globs).
        optimizer: with the optimizer's state of runs. with_data: with all that runs and shards were made of, too.

    Raises:
        UnknownNameError: a word names nothing. ArtefactError: an item is damaged or holds a pickle.
    """
    waiting = [path for word in words for path in _places(workspace, word)]
    done: set[str] = set()
    while waiting:
        path = waiting.pop(0)
        if path in done:
            continue
        done.add(path)
        kind = kind_at(path)
        item = _run(workspace, path, optimizer, with_data) if kind == "run" else _MAKE[kind](workspace, path)
        yield item
        waiting += [*item.needs, *(item.made_of if with_data else ())]


def _places(workspace: Workspace, word: str) -> list[str]:
    """The places of the items that a word names."""
    for path in (Path(word), workspace.runs / word):
        if is_run(path):
            if path.resolve().parent != workspace.runs.resolve():
                message = f"{path} is no run of the workspace {workspace.root}: give its --root"
                raise UsageError(message)
            return [f"runs/{path.resolve().name}"]
    for path in (_shards(workspace) / word, Path(word)):
        home = _shards(workspace).resolve()
        if path.is_dir() and home in path.resolve().parents:
            found = sorted(p.parent for p in path.resolve().rglob(MANIFEST) if WIP not in str(p))
            if found:
                return [f"shards/{p.relative_to(home).as_posix()}" for p in found]
    if isinstance(workspace.store, Path) and holds_session(Path(word)):
        own = Path(word).resolve()
        if own.parents[1] == workspace.store.resolve():
            return [f"store/{own.parent.name}/{own.name}"]
    known = workspace.session_ids()
    try:
        return [f"store/{session}" for session in match_sessions(known, word, str(workspace.root))]
    except UnknownNameError:
        runs = [p.name for p in workspace.runs.glob("*") if is_run(p)]
        schemes = [p.name for p in _shards(workspace).glob("*") if p.name != CONTEXT and p.is_dir()]
        raise UnknownNameError("run, shard or session", word, [*runs, *schemes, *known], str(workspace.root)) from None


def _shards(workspace: Workspace) -> Path:
    """The shards of the workspace itself, also while others are read from behind a URL."""
    return workspace.root / "shards"


# ---- sessions, shards, vectors --------------------------------------------------------------------------------------


def _session(workspace: Workspace, path: str) -> Item:
    session_id = path.removeprefix("store/")
    place = workspace.store_path(session_id)
    if isinstance(place, RemotePath):
        message = (
            f"{place} is behind a URL already: push sessions of a store on this machine, or give its URL to others"
        )
        raise UsageError(message)
    if not is_packed(place):
        message = f"{place} is a folder of many files, as an earlier release wrote it: spiketok upgrade"
        raise ArtefactError(message)
    session, attributes = read_session(place), workspace.attributes(session_id)
    about = {
        "session": session_id,
        "subject": session.subject,
        "units": len(session.units),
        "spikes": len(session.spikes),
        "seconds": round(session.observed.total_ns / 1e9, 3),
        "signals": sorted(session.signals),
        "digest": attributes["digest"],
    }
    files = {name: place / name for name in ("session.json", "arrays.zip")}
    return Item(path, files, about, cite([session_id], workspace))


def _shard(workspace: Workspace, path: str) -> Item:
    folder = workspace.root / path
    if not (folder / MANIFEST).is_file():
        message = f"{folder} is gone, of which something that is pushed is made: spiketok tokenize"
        raise ArtefactError(message)
    _require_whole(folder, workspace)
    manifest = read_signed(folder / MANIFEST, "shard", "spiketok tokenize")
    session_id = manifest["session"]["id"]
    about = {"session": session_id, "digest": manifest["digest"], "store_digest": manifest["store_digest"]}
    needs: tuple[str, ...] = ()
    if kind_at(path) == "shard":
        context = (folder / manifest["context"]["path"]).resolve()
        needs = (f"shards/{context.relative_to(_shards(workspace).resolve()).as_posix()}",)
        about |= {"scheme": manifest["scheme"]["name"], "config": manifest["scheme"]["config"],
                  "segments": manifest["segments_rule"], "spikes": manifest["n_spikes"]}  # fmt: skip
    files = {name.name: name for name in (folder / MANIFEST, folder / "columns.bin")}
    made_of = (f"store/{session_id}",)
    return Item(path, files, about, cite([str(folder)], workspace), needs=needs, made_of=made_of)


def _vectors(workspace: Workspace, path: str) -> Item:
    file = workspace.root / path
    if not file.is_file():
        message = f"{file} is gone, which a run reads: spiketok eval-xsession RUN --vectors FILE"
        raise ArtefactError(message)
    refuse_pickle(file)
    return Item(path, {"": file}, {"digest": sha256_file(file)})


# ---- runs -----------------------------------------------------------------------------------------------------------


def _run(workspace: Workspace, path: str, optimizer: bool, with_data: bool) -> Item:
    folder = workspace.root / path
    if not (folder / MARKS["run"]).is_file():
        message = f"{folder} has no checkpoint yet: let 'spiketok train' write one"
        raise DataError(message)
    for link in walk(folder, workspace, quick=True):
        own = link.kind in ("result", "predictions", "checkpoint") and link.depth <= 1
        if link.state == "broken" and (own or with_data):
            message = f"{link.kind} {link.name} {link.remark}: nothing was pushed"
            raise ArtefactError(message)
    checkpoint = run_checkpoint(folder)
    files, skipped, outside, reports, entries = {}, [], [], {}, list(checkpoint["sessions"])
    own = {CONFIG, RESULT, MARKS["run"], *(f"checkpoint/{name}" for name in checkpoint["files"])}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if any(part.startswith((WIP, LOCK)) for part in name.split("/")):
            continue
        refuse_pickle(file)
        if not name.endswith(RUN_FILES) or any(part.startswith(".") for part in name.split("/")):
            skipped.append(name)
        elif name not in own and _leads_out(file, (workspace.root, folder)):
            outside.append(name)
            continue
        elif name != STATE or optimizer:
            files[name] = file
        if file.name == "report.json":
            body = report_body(file)
            reports[name.rpartition("/")[0]] = _report_facts(body)
            entries += body["sessions"]
    left_out = (STATE,) if STATE.split("/")[1] in checkpoint["files"] and STATE not in files else ()
    for name, digest in checkpoint["files"].items():
        if f"checkpoint/{name}" in files and not name.endswith(".safetensors"):
            message = f"{folder}/checkpoint/{name} ({digest[:12]}) is not in safetensors: nothing was pushed"
            raise ArtefactError(message)
    config = checkpoint["config"]
    result = run_result(folder) if (folder / "result.json").is_file() else {}
    own_sessions = [s for s in checkpoint["sessions"] if not s.get("earlier")]
    about = {
        "run": folder.name,
        "model": config["model"],
        "size": config["size"],
        "tasks": [task["kind"] + (f":{task['about']}" if task["about"] else "") for task in checkpoint["tasks"]],
        "window_ms": config["data"]["window_ms"],
        "bin_ms": config["data"]["bin_ms"],
        "step": checkpoint["step"],
        "total_steps": checkpoint["total_steps"],
        "seed": config["seed"],
        "digest": checkpoint_digest(folder),
        "sessions": [s["id"] for s in own_sessions],
        "schemes": sorted({shard["shard"].split("/")[0] for s in own_sessions for shard in s["shards"].values()}),
        "scores": result.get("test_mean", {}),
        "headline": {task["name"]: task["metrics"][0] for task in result.get("tasks", ())},
        "scores_by_session": dict(sorted(result.get("test", {}).items())[:SCORED]),
        "reports": reports,
        **({"plugins": plugins} if (plugins := checkpoint.get("plugins")) else {}),
    }
    needs = [f"runs/{run.name}" for run in _origins(workspace, config)]
    if digest := config["model_overrides"].get("vectors"):
        needs.append(f"vectors/{digest}.npz")
    made_of = [f"shards/{shard['shard']}" for s in entries for shard in s["shards"].values()]
    made_of += [f"store/{s['id']}" for s in entries]
    return Item(
        path,
        files,
        about,
        cite([str(folder)], workspace),
        left_out=left_out,
        skipped=tuple(skipped),
        outside=tuple(outside),
        needs=tuple(needs),
        made_of=tuple(dict.fromkeys(made_of)),
    )


def _leads_out(file: Path, places: Sequence[Path]) -> bool:
    """Whether a file is a link to what lies in none of some folders."""
    return file.is_symlink() and not any(file.resolve().is_relative_to(place.resolve()) for place in places)


def _origins(workspace: Workspace, config: dict) -> list[Path]:
    """The runs whose weights or latents a run took in, where they are here; verify names those that are not."""
    wanted = {config.get("start"), config.get("latents")} - {None, ""}
    runs = [p.parent.parent for p in sorted(workspace.runs.glob("*/checkpoint/checkpoint.json"))]
    return [run for run in runs if wanted and checkpoint_digest(run) in wanted]


def _report_facts(body: dict) -> dict[str, object]:
    return {
        "digest": body["digest"],
        "calibration_s": body["calibration_s"],
        "sessions": sorted({one["id"] for one in body["sessions"]}),
        "summary": {
            task: {row: {metric: one["mean"] for metric, one in metrics.items()} for row, metrics in rows.items()}
            for task, rows in body["summary"].items()
        },
    }


_MAKE = {"session": _session, "context": _shard, "shard": _shard, "vectors": _vectors}


# ---- checks ---------------------------------------------------------------------------------------------------------


def _require_whole(folder: Path, workspace: Workspace) -> None:
    """Raise ArtefactError where a shard or a context is not what was written."""
    own = ("shard", "context")
    broken = first_broken([link for link in walk(folder, workspace, quick=True) if link.kind in own])
    if broken is not None:
        message = f"{broken.kind} {broken.name}: {broken.remark}"
        raise ArtefactError(message)


def refuse_pickle(file: Path) -> None:
    """Raise ArtefactError where a file is a pickle, or a file of arrays or weights that holds one."""
    if why := pickle_in(file):
        message = f"{file} {why}, which runs code where it is read: it is not taken; keep weights in safetensors"
        raise ArtefactError(message)


def pickle_in(file: Path) -> str:
    """Why a file is one that runs code where it is read; empty if it is none.

    Args:
        file: looked at by its ending and by its content.
    """
    if file.suffix.lower() in PICKLES:
        return f"has the ending {file.suffix}, of pickles"
    with open(file, "rb") as stream:
        begin = stream.read(16)
        if begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return "is a pickle"
        if file.suffix == ".safetensors":
            return _no_safetensors(begin, stream, file.stat().st_size)
    if begin[:4] == b"PK\x03\x04":
        return _pickle_in_zip(file)
    return ""


def _no_safetensors(begin: bytes, stream, size: int) -> str:
    length = int.from_bytes(begin[:8], "little")
    if len(begin) < 8 or length > min(size - 8, 100_000_000):
        return "is not in safetensors"
    stream.seek(8)
    try:
        said = json.loads(stream.read(length))
    except ValueError:
        return "is not in safetensors"
    return "" if isinstance(said, dict) else "is not in safetensors"


def _pickle_in_zip(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as members:
            for name in members.namelist():
                if name.endswith((".pkl", ".pickle")):
                    return f"holds the pickle {name[:80]}"
                if name.endswith(".npy"):
                    with members.open(name) as stream:
                        version = np.lib.format.read_magic(stream)
                        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                        dtype = (read or np.lib.format.read_array_header_2_0)(stream)[2]
                    if dtype.hasobject:
                        return f"holds {name[:80]}, an array of objects"
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        return f"is a damaged zip ({error})"
    return ""


def check_item(staged: Workspace, path: str) -> None:
    """Hold an item that came against itself: its place, its own digests, and what it says of others in the place.

    Args:
        staged: a workspace that holds what came, and its record.

    Raises:
        SpiketokError: it is not what it should be, in one line.
    """
    kind, place = kind_at(path), staged.root / path
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    for file in files:
        refuse_pickle(file)
    if kind == "vectors":
        found = sha256_file(place)
        if found != path.split("/")[1].removesuffix(".npz"):
            message = f"{path} has sha256 {found[:12]}, which is not its name: it is not taken"
            raise ArtefactError(message)
        return
    if kind in ("shard", "context"):
        _check_place(path, place)
    if kind == "run":
        _require_version(path, place)
        run_checkpoint(place)  # says what a checkpoint says
        _require_named(path, place)
    if kind == "session":
        found = read_session(place).id  # every byte
        if f"store/{found}" != path:
            message = f"{path} says that it is session {found}: it is not taken"
            raise ArtefactError(message)
        return
    walks = [place, *(p.parent for p in sorted(place.rglob("report.json")))] if kind == "run" else [place]
    for one in walks:
        broken = first_broken(list(walk(one, staged, quick=True)))
        if broken is not None:
            message = f"{path}: {broken.kind} {broken.name}: {broken.remark}"
            raise ArtefactError(message)


def _require_version(path: str, place: Path) -> None:
    """Raise ArtefactError where a run that came is none, or of a release whose runs are upgraded first."""
    try:
        version = read_json(place / MARKS["run"]).get("version", 0)
    except ValueError as error:
        message = f"{path} has a checkpoint that cannot be read ({content_fault(error)}): it is not taken"
        raise ArtefactError(message) from error
    if not isinstance(version, int):
        message = f"{path} has a checkpoint of version {str(version)[:40]!r}, expected a whole number: it is not taken"
        raise ArtefactError(message)
    if version < 2:
        message = f"{path} is of an earlier release: upgrade it where it was made, and push again"
        raise ArtefactError(message)


def plugins_at(place: Path, kind: str) -> list[Origin]:
    """What of other packages an item of a workspace was made with, as it says itself; nothing is imported.

    Args:
        place: of a run or a shard; other kinds have none.
    """
    if kind not in ("run", "shard"):
        return []
    facts = read_json(place / MARKS[kind])
    return origins_of(facts.get("plugins") if kind == "run" else [facts["plugin"]] if "plugin" in facts else [])


def plugin_remarks(origins: Sequence[Origin]) -> Iterator[str]:
    """What an item needs of other packages, whether it is here, and what would be run where the item is used."""
    for origin in origins:
        state, remark = present(origin)
        told = f"it needs {origin}"
        if state == "not here":
            yield f"{told}: {remark}"
            continue
        module = origin.entry.split(":")[0]
        file = find_module(module)
        yield f"{told}{f', {remark}' if remark else ''}: what uses it imports {file or module}"


def _require_named(path: str, place: Path) -> None:
    """Raise ArtefactError where a run's model is a class of a module and the run does not say of which file.

    Whoever loads it would import what has that name here, without a word.
    """
    checkpoint, model = read_json(place / MARKS["run"]), ""
    with contextlib.suppress(KeyError, TypeError):
        model = str(checkpoint["config"]["model"])
    said = {origin.name for origin in origins_of(checkpoint.get("plugins")) if origin.kind == "model"}
    if ":" in model and model not in said:
        message = f"{path} has the model '{model[:80]}' and does not say what plug-in that is: it is not taken"
        raise ArtefactError(message)


def _check_place(path: str, place: Path) -> None:
    """Raise ArtefactError where a shard or context says of itself that it lies elsewhere."""
    from spiketok.tokens.context import context_fingerprint
    from spiketok.tokens.schemes import scheme_from_config
    from spiketok.tokens.shards import shard_fingerprint

    try:
        manifest = read_signed(place / MANIFEST, kind_at(path), "push it again")
        session_id, digest = manifest["session"]["id"], manifest["store_digest"]
        if "plugin" in manifest:
            require_origins([manifest["plugin"]], "it")
        if kind_at(path) == "context":
            due = f"shards/{CONTEXT}/{session_id}/{context_fingerprint(digest)}"
        else:
            scheme = scheme_from_config(manifest["scheme"])
            named = shard_fingerprint(scheme, manifest["segments_rule"], digest)
            due = f"shards/{scheme.name}/{session_id}/{named}"
            way = f"../../../../{CONTEXT}/{session_id}/{context_fingerprint(digest)}"
            if manifest["context"]["path"] != way:
                message = f"{path} says that its context lies at {manifest['context']['path'][:120]}, not at {way}"
                raise ArtefactError(message)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{path} has a manifest that cannot be understood ({type(error).__name__}: {error})"
        raise ArtefactError(message) from error
    except SpiketokError as error:
        message = f"{path}: {error}"
        raise ArtefactError(message) from error
    if due != path:
        message = f"{path} says of itself that it lies at {due[:200]}: it is not taken"
        raise ArtefactError(message)
