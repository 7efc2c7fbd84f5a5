"""What a place holds into a workspace: seen there as a whole, after its chain of digests was walked, or not at all.

Everything comes first into ``<root>/.pulling-<digest>/``, which is laid out as a workspace and is walked as one. What
came with the right digest stays there when a pull is killed, and is not fetched again; so does what the workspace has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from spiketok.errors import ArtefactError, DataError, FetchError, UnknownNameError
from spiketok.pipeline.hub.items import check_item, plugin_remarks, plugins_at
from spiketok.pipeline.hub.places import Place
from spiketok.plugins import Origin, origins_of
from spiketok.storage.files import atomic_folder, fingerprint, human_bytes, sha256_file, write_signed
from spiketok.storage.locks import beside, inside, locked, session_lock
from spiketok.storage.names import folded, twin_of
from spiketok.storage.pushed import KINDS, MARKS, PULLED, PUSHED, files_of, kind_at, read_manifest
from spiketok.storage.remote import RemotePath
from spiketok.storage.store import put_session, read_attributes
from spiketok.storage.workspace import Workspace

STAGING = ".pulling-"


@dataclass(frozen=True)
class PulledItem:
    """What became of an item.

    Args:
        path: its place in the workspace. kind: of it. state: ``"new"``, ``"replaced"``, ``"already"`` or ``"absent"``
            (of a dry run: it would be fetched).
        nbytes: of its files. fetched: of those that came now. remarks: what it came without, and what it needs of other
            packages, one sentence each.
    """

    path: str
    kind: str
    state: str
    nbytes: int
    fetched: int
    remarks: tuple[str, ...] = ()


def pull(
    workspace: Workspace,
    place: Callable[[Path], Place],
    name: str,
    words: Sequence[str] = (),
    *,
    with_data: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    came: Callable[[str, int], None] = lambda name, nbytes: None,
) -> list[PulledItem]:
    """Pull what some words name of a place; all of it without words.

    Args:
        place: makes the place, given a folder for what is on its way. name: the place, as it is typed.
        words: names or globs of runs, sessions (whole ids or the part behind the slash), or places of items.
        with_data: with what the items were made of, as far as it is there.
        overwrite: replace what has the same place in the workspace and another content.
        dry_run: fetch nothing but the manifest.
        came: called with each file that came and its size.

    Raises:
        DataError: nothing was pushed there, or something else is in an item's place. UnknownNameError: a word names
            nothing there. ArtefactError: something that came is not what was pushed, by name. FetchError: the place
            cannot be reached. BusyError: another pull from it, or a training of a run, is under way.
    """
    staging = workspace.root / f"{STAGING}{fingerprint(name)}"
    with locked(beside(staging), f"what comes from {name}"):
        source = place(staging / ".hf")
        data = source.read(PUSHED)
        if data is None:
            message = f"{name} has no {PUSHED}: nothing was pushed there (or it may not be seen: log in)"
            raise DataError(message)
        facts = read_manifest(data, name)
        items = _chosen(facts["items"], words, name, with_data)
        state = {path: _state_here(workspace, path, item, overwrite) for path, item in items.items()}
        _require_no_twins(workspace, items)
        if dry_run:
            said = {path: _claimed(item) for path, item in items.items()}
            return [_outcome(path, item, state[path], {}, said[path]) for path, item in items.items()]
        lacking = {path: item for path, item in items.items() if state[path] != "already"}
        if lacking:
            staging.mkdir(parents=True, exist_ok=True)
            fetched = _fetch(workspace, source, lacking, staging, came)
            _stage_rest(workspace, items, lacking, staging)
            staged = Workspace(staging)
            _note(staged.root, name, facts, items)
            for path in _in_order(lacking):
                check_item(staged, path)
            shutil.rmtree(staged.root / PULLED)
        else:
            fetched = {}
        _note(workspace.root, name, facts, items)
        for path in _in_order(lacking):
            _put(workspace, staging, path, items[path])
        if staging.exists():
            shutil.rmtree(staging)
        made = {path: _plugins_here(workspace, path, item["kind"]) for path, item in items.items()}
        return [_outcome(path, item, state[path], fetched, made[path]) for path, item in items.items()]


def _in_order(items: Iterable[str]) -> list[str]:
    """Items after those that they need: sessions, contexts, shards, vectors, runs."""
    return sorted(items, key=lambda path: (KINDS.index(kind_at(path)), path))


# ---- which ----------------------------------------------------------------------------------------------------------


def _chosen(items: Mapping[str, Mapping], words: Sequence[str], name: str, with_data: bool) -> dict[str, Mapping]:
    """The items that the words name, and what those need."""
    chosen = set() if words else set(items)
    for word in words:
        hits = {path for path in items if any(fnmatchcase(one, word) for one in _names(path))}
        if not hits:
            raise UnknownNameError("item", word, {_names(path)[-1] for path in items}, name)
        chosen |= hits
    waiting = sorted(chosen)
    while waiting:
        path = waiting.pop()
        item = items[path]
        for other in (*item["needs"], *(item["made_of"] if with_data else ())):
            if other in items and other not in chosen:
                chosen.add(other)
                waiting.append(other)
            elif other not in items and other in item["needs"]:
                message = f"{name} has {path} and not {other}, which it needs: push it again"
                raise ArtefactError(message)
    return {path: items[path] for path in sorted(chosen)}


def _names(path: str) -> tuple[str, ...]:
    """By what names an item is asked for: its place, without the first folder, and the shortest."""
    parts = path.split("/")
    below = "/".join(parts[1:])
    if kind_at(path) == "session":
        return path, below, parts[2]
    if kind_at(path) in ("shard", "context"):
        return path, below, parts[1], "/".join(parts[1:4])
    return path, below


def _state_here(workspace: Workspace, path: str, item: Mapping, overwrite: bool) -> str:
    """``"already"``, ``"new"`` or ``"replaced"``: what will become of what has an item's place in the workspace.

    Raises:
        DataError: something else has it, and may not be replaced.
    """
    here = _place_here(workspace, path)
    if isinstance(here, RemotePath):
        try:
            found = read_attributes(here)["digest"]
        except ArtefactError:
            return "new"
        same = found == item["about"].get("digest")
        other = [] if same else [MARKS["session"]]
    else:
        if not here.exists():
            return "new"
        names = {name: (here / name if name else here) for name in item["files"]}
        lacking = [name for name, file in names.items() if not file.is_file()]
        other = [name for name, file in names.items() if name not in lacking
                 and sha256_file(file) != item["files"][name]["sha256"]]  # fmt: skip
        if not lacking and not other:
            return "already"
        same = not other
    if same and isinstance(here, RemotePath):
        return "already"
    if other and not overwrite:
        message = (
            f"{here} is here already, and its {other[0] or 'content'} is another than what would come: --overwrite "
            "replaces it, or pull into another --root"
        )
        raise DataError(message)
    return "replaced"


def _place_here(workspace: Workspace, path: str) -> Path | RemotePath:
    if kind_at(path) == "session":
        return workspace.store_path(path.removeprefix("store/"))
    return workspace.root / path


def _require_no_twins(workspace: Workspace, items: Mapping[str, Mapping]) -> None:
    """Raise DataError where a session has a name that some file systems take for that of one that is here."""
    known = folded(workspace.session_ids())
    for path in items:
        if kind_at(path) == "session" and (twin := twin_of(path.removeprefix("store/"), known)):
            message = f"{path} and {twin}, which is here, are one to some file systems: pull it into another --root"
            raise DataError(message)


# ---- fetching -------------------------------------------------------------------------------------------------------


def _fetch(
    workspace: Workspace,
    source: Place,
    items: Mapping[str, Mapping],
    staging: Path,
    came: Callable[[str, int], None],
) -> dict[str, int]:
    """Bring every file of some items to the staging folder, each held against its digest; returns what was fetched."""
    missing, linked = [], 0
    for name, sha256, nbytes in files_of(items):
        target = staging / name
        if target.is_file() and sha256_file(target) == sha256:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if _from_workspace(workspace, name, sha256, target):
            linked += 1
        else:
            missing.append((name, sha256, nbytes))
    _require_room(workspace.root, sum(nbytes for _, _, nbytes in missing))
    fetched = {}
    for name, sha256, nbytes in missing:
        target = staging / name
        part = target.with_name(f"{target.name}.part")
        try:
            source.get(name, part)
        except FileNotFoundError as error:
            message = f"{source.name} lacks {name}, which its {PUSHED} names: push it again"
            raise ArtefactError(message) from error
        found = sha256_file(part)
        if found != sha256:
            size = part.stat().st_size
            part.unlink()
            differs = f", {size} bytes of {nbytes}" if size != nbytes else ""
            message = (
                f"{source.name}/{name} has sha256 {found[:12]}, pushed was {sha256[:12]}{differs}: it was changed or "
                "damaged there, and nothing was taken; push it again with --again"
            )
            raise ArtefactError(message)
        os.replace(part, target)
        fetched[name] = nbytes
        came(name, nbytes)
    due = {name for name, _, _ in files_of(items)}
    for file in [p for p in staging.rglob("*") if p.is_file()]:  # of an earlier pull of another state of the place
        if file.relative_to(staging).as_posix() not in due:
            file.unlink()
    return fetched


def _from_workspace(workspace: Workspace, name: str, sha256: str, target: Path) -> bool:
    """Take a file that the workspace has with the right digest, if it has."""
    here = workspace.root / name
    if name.startswith("store/") and isinstance(workspace.store, Path):
        here = workspace.store / name.removeprefix("store/")
    if not here.is_file() or sha256_file(here) != sha256:
        return False
    target.unlink(missing_ok=True)
    try:
        os.link(here, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(here, target)
    return True


def _require_room(root: Path, nbytes: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if nbytes > free:
        message = (
            f"{human_bytes(nbytes)} are to come and {human_bytes(free)} are free below {root}: make room, or name less"
        )
        raise FetchError(message)


def _stage_rest(workspace: Workspace, items: Mapping[str, Mapping], lacking: Mapping, staging: Path) -> None:
    """Put beside what came what the workspace has already, so that the chain can be walked through both."""
    for path in items.keys() - lacking.keys():
        here = _place_here(workspace, path)
        if isinstance(here, RemotePath):
            here.download(staging / path)
            continue
        for name, entry in items[path]["files"].items():
            whole = f"{path}/{name}" if name else path
            (staging / whole).parent.mkdir(parents=True, exist_ok=True)
            if not (staging / whole).exists():
                _from_workspace(workspace, whole, entry["sha256"], staging / whole)


# ---- making it seen -------------------------------------------------------------------------------------------------


def _note(root: Path, name: str, facts: Mapping, items: Mapping[str, Mapping]) -> None:
    """Write down in a workspace what came from where, so that ``verify`` knows what it came without."""
    record = {"from": name, "manifest": facts["digest"], "items": dict(items)}
    write_signed(root / PULLED / f"{fingerprint([name, facts['digest'], sorted(items)])}.json", record)


def _put(workspace: Workspace, staging: Path, path: str, item: Mapping) -> None:
    """An item in its place, whole; one that is there is replaced, of a run what stands beside what came is kept."""
    kind, here, there = kind_at(path), _place_here(workspace, path), staging / path
    if kind == "session":
        with session_lock(here):
            put_session(there, here)
        return
    if kind == "vectors":
        here.parent.mkdir(parents=True, exist_ok=True)
        os.replace(there, here)
        return
    lock = locked(inside(here), f"run {here}") if kind == "run" and here.exists() else contextlib.nullcontext()
    with ExitStack() as stack:
        stack.enter_context(lock)
        with atomic_folder(here) as wip:
            if kind == "run" and here.is_dir():
                _keep(here, wip, item)
            for name in item["files"]:
                (wip / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(there / name, wip / name)


def _keep(run: Path, wip: Path, item: Mapping) -> None:
    """Take over what a run has and did not come, but for what is of another checkpoint than the one that came."""
    same = _checkpoint_here(run) == item["files"][MARKS["run"]]["sha256"]
    for file in sorted(p for p in run.rglob("*") if p.is_file()) if same else ():
        name = file.relative_to(run)
        if any(part.startswith(".") for part in name.parts):
            continue
        (wip / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, wip / name)


def _checkpoint_here(run: Path) -> str:
    file = run / MARKS["run"]
    return sha256_file(file) if file.is_file() else ""


def _claimed(item: Mapping) -> list[Origin]:
    """What a manifest says that an item needs; before the item came there is nothing else to go by."""
    about = item.get("about")
    return origins_of(about.get("plugins")) if isinstance(about, Mapping) else []


def _plugins_here(workspace: Workspace, path: str, kind: str) -> list[Origin]:
    place = _place_here(workspace, path)
    return [] if isinstance(place, RemotePath) else plugins_at(place, kind)


def _outcome(path: str, item: Mapping, state: str, fetched: Mapping[str, int], plugins: Sequence[Origin]) -> PulledItem:
    names = [f"{path}/{name}" if name else path for name in item["files"]]
    nbytes = sum(entry["bytes"] for entry in item["files"].values())
    remarks = [f"it came without {name}: it cannot be trained on, but used" for name in item["left_out"]]
    remarks += plugin_remarks(plugins)
    return PulledItem(path, item["kind"], state, nbytes, sum(fetched.get(name, 0) for name in names), tuple(remarks))
