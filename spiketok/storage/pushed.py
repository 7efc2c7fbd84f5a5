"""What ``spiketok push`` leaves beside the files that it put somewhere, and what ``spiketok pull`` notes of them.

    <place>/spiketok.json            each item with the sha256 of its files; signed as every JSON of the project
    <root>/pulled/<digest>.json      the same, with the place that it came from

The files of a place lie as in a workspace, so a folder that was pushed to is one.

What is unusual: no name in a manifest is believed. Each must be that of a file which a workspace has at that place,
safe on every file system, and no two may be one to a system without regard to case. What was left out on purpose (the
state of an optimizer, the sessions that a run was trained on) is written down, so that ``verify`` can tell it from
loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spiketok.errors import ArtefactError
from spiketok.storage.causes import NEWER
from spiketok.storage.files import content_digest, parse_json, read_signed, sha256_file, signed
from spiketok.storage.forms import Each, require_form
from spiketok.storage.names import fault_of, fold_name
from spiketok.storage.workspace import COLUMNS, CONTEXT, MANIFEST

PUSHED = "spiketok.json"
CARD = "README.md"
PULLED = "pulled"  # the folder of a workspace
FORMAT, VERSION = "spiketok-pushed", 1
KINDS = ("session", "context", "shard", "vectors", "run")  # in the order in which they can stand alone
STATE = "checkpoint/train_state.safetensors"  # of a run: its optimizer's, of use to nobody who does not train it on
MARKS = {"session": "session.json", "context": MANIFEST, "shard": MANIFEST, "run": "checkpoint/checkpoint.json"}
RUN_FILES = (".json", ".jsonl", ".safetensors", ".npz", ".html", ".png", ".svg", ".pdf", ".csv", ".tsv", ".md", ".txt",
             ".toml")  # fmt: skip

_FORM = {  # what pull and verify read of an item; what its page says of it is looked at by whoever shows it
    "items": Each(
        {
            "kind": str,
            "files": Each({"sha256": str, "bytes": int}),
            "needs": [str],
            "made_of": [str],
            "left_out": [str],
            "about": Each(object),
        }
    )
}
_HEX64, _HEX16 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
_FILES = {"session": {"session.json", "arrays.zip"}, "context": {MANIFEST, COLUMNS}, "shard": {MANIFEST, COLUMNS}}


def kind_at(path: str) -> str:
    """The kind of the item that lies at a place in a workspace; empty where none does.

    >>> kind_at("runs/poyo-0123456789")
    'run'
    """
    parts = path.split("/")
    if parts[0] == "runs" and len(parts) == 2:
        return "run"
    if parts[0] == "store" and len(parts) == 3:
        return "session"
    if parts[0] == "shards" and len(parts) == 5 and _HEX16.fullmatch(parts[4]):
        return "context" if parts[1] == CONTEXT else "shard"
    if parts[0] == "vectors" and len(parts) == 2 and parts[1].endswith(".npz") and _HEX64.fullmatch(parts[1][:-4]):
        return "vectors"
    return ""


def manifest_of(items: Mapping[str, Mapping], written_by: str) -> dict:
    """The manifest of a place, signed.

    Args:
        items: by place in the workspace: ``kind``, ``files`` (by name in it ``sha256`` and ``bytes``), ``left_out``,
            ``needs`` and ``made_of`` (places of other items), ``about`` and ``cite`` (for the card).
    """
    return signed({"format": FORMAT, "version": VERSION, "written_by": written_by, "items": items})


def read_manifest(data: bytes, where: str) -> dict:
    """What a manifest says, after its digest and every name in it were checked.

    Args:
        where: the place, for messages.

    Raises:
        ArtefactError: it is no manifest, was changed, or names what no workspace has.
    """
    file = f"{where}/{PUSHED}"
    try:
        facts = parse_json(data)
    except ValueError as error:
        message = f"{file} cannot be read ({error}): push again"
        raise ArtefactError(message) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        message = f"{file} is not what 'spiketok push' writes (no format '{FORMAT}')"
        raise ArtefactError(message)
    if facts.get("version") != VERSION:
        found = facts.get("version")
        remedy = NEWER if isinstance(found, int) and found > VERSION else "push again"
        message = f"{file} has version {found}, this spiketok reads version {VERSION}: {remedy}"
        raise ArtefactError(message)
    found = content_digest(facts)
    if found != facts.get("digest"):
        message = (
            f"{file} was changed since it was written: its content has digest {found[:12]}, written was "
            f"{str(facts.get('digest'))[:12]}: push again"
        )
        raise ArtefactError(message)
    require_form(facts, _FORM, "manifest", file, "push again")
    require_names(facts["items"], file)
    return facts


def require_names(items: Mapping[str, Mapping], file: str) -> None:
    """Raise ArtefactError where an item or a file has a name that no workspace has, or two are one to some systems."""
    seen: dict[str, tuple[str, bool]] = {}
    for path, item in items.items():
        _require(not _fault(path), path, _fault(path), file)
        kind = kind_at(path)
        _require(kind != "" and kind == item["kind"], path, f"is no place of a {item['kind']}", file)
        names, mark = list(item["files"]), MARKS.get(kind)
        if kind in _FILES:
            _require(set(names) == _FILES[kind], path, f"has the files {names[:4]}", file)
        _require(mark is None or mark in names, path, f"has no {mark}", file)
        _require(kind != "vectors" or names == [""], path, f"has the files {names[:4]}", file)
        for name, entry in item["files"].items():
            whole = f"{path}/{name}" if name else path
            _require(not _fault(whole), whole, _fault(whole), file)
            known = kind != "run" or name.endswith(RUN_FILES)
            _require(known, whole, "is no kind of file that a run holds", file)
            is_digest = isinstance(entry["sha256"], str) and bool(_HEX64.fullmatch(entry["sha256"]))
            _require(is_digest, whole, "has no sha256", file)
            size = entry["bytes"]
            _require(isinstance(size, int) and not isinstance(size, bool) and size >= 0, whole, "has no size", file)
            _require_alone(whole, seen, file)
        for other in (*item["needs"], *item["made_of"]):
            _require(kind_at(other) != "" and not _fault(other), other, _fault(other) or "is no item's place", file)
        for name in item["left_out"]:
            _require(name == STATE, name, "is nothing that may be left out", file)


def _require(holds: bool, name: object, why: str, file: str) -> None:
    if not holds:
        message = f"{file} names '{str(name)[:120]}', which {why}: it is not taken"
        raise ArtefactError(message)


def _fault(path: object) -> str:
    """Why a path in a manifest is not safe; empty if it is."""
    if not isinstance(path, str) or not path:
        return "is no path"
    if path.startswith("/") or "\\" in path:
        return "lies outside of the workspace"
    for part in path.split("/"):
        if part == "..":
            return "lies outside of the workspace"
        if why := fault_of(part):
            return why
    return ""


def _require_alone(whole: str, seen: dict[str, tuple[str, bool]], file: str) -> None:
    """Hold a file's path, and each folder above it, against those before it: none may be another's twin or folder."""
    parts = whole.split("/")
    for k in range(1, len(parts) + 1):
        own = ("/".join(parts[:k]), k == len(parts))
        before = seen.setdefault(fold_name(own[0]), own)
        if before != own:
            message = (
                f"{file} names '{before[0][:120]}' and '{own[0][:120]}', which are one to some file systems: it is "
                "not taken"
            )
            raise ArtefactError(message)


def files_of(items: Mapping[str, Mapping]) -> Iterator[tuple[str, str, int]]:
    """Each file of some items: its path in the place, its sha256 and its size."""
    for path, item in sorted(items.items()):
        for name, entry in sorted(item["files"].items()):
            yield (f"{path}/{name}" if name else path), entry["sha256"], entry["bytes"]


# ---- what was pulled ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pulled:
    """The items that came to a workspace from elsewhere, by place; of one place, each that ever came."""

    items: Mapping[str, Sequence[Mapping]]

    @classmethod
    def of(cls, root: Path) -> Pulled:
        """What the records of a workspace say; a folder that was pushed to is a workspace with one of its own.

        Raises:
            ArtefactError: a record was changed.
        """
        files = sorted((root / PULLED).glob("*.json")) + [root / PUSHED] * (root / PUSHED).is_file()
        return _of_records(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))

    def at(self, root: Path, path: str) -> Mapping | None:
        """The record of the item that lies at a place, if it is what came; None if it is not or nothing came."""
        for item in self.items.get(path, ()):
            mark = MARKS.get(item["kind"])
            if mark is None:
                return item
            file = root / path / mark
            if file.is_file() and sha256_file(file) == item["files"][mark]["sha256"]:
                return item
        return None

    def names(self, path: str) -> bool:
        """Whether an item of this place ever came."""
        return path in self.items


@lru_cache(maxsize=4)
def _of_records(records: tuple[tuple[Path, int, int], ...]) -> Pulled:
    """Read once for all sessions of a command; ``records``: with time and size, by which another state is another."""
    found: dict[str, list[Mapping]] = {}
    for file, _, _ in records:
        word, remedy = (
            ("manifest", "push again") if file.name == PUSHED else ("record of what was pulled", "pull it again")
        )
        facts = read_signed(file, word, remedy)
        require_form(facts, _FORM, word, file, remedy)
        require_names(facts["items"], str(file))
        for path, item in facts["items"].items():
            found.setdefault(path, []).append(item)
    return Pulled(found)


def was_left_out(run: Path, name: str) -> bool:
    """Whether a run of a workspace came without a file of it, on purpose."""
    root = run.resolve().parent.parent
    item = Pulled.of(root).at(root, f"runs/{run.resolve().name}")
    return item is not None and name in item["left_out"]
