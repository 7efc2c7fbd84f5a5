"""Sessions and shards of an earlier release, made as this one writes them.

A session that is a folder of many files becomes two, with the same digest. Shards are baked again from the same store,
with equal tokens.

Shards of format 1 hold a file a column, and a copy of what their session's context holds. What an upgrade makes of one
is held against it column by column, after the old columns were held against their own digests. Only then is the old
folder given up, and only by :func:`remove`, after the runs that name it were upgraded too: a kill in between leaves
both, and the same command goes on.

Runs are upgraded by ``spiketok.training.upgrade``, which knows models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from spiketok.errors import ArtefactError, SpiketokError
from spiketok.pipeline.tokenize import shard_path, tokenize
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import WIP, below, clean_leftovers, content_digest, read_json, sha256_file
from spiketok.storage.locks import session_lock
from spiketok.storage.store import is_packed, read_attributes, repack
from spiketok.storage.workspace import MANIFEST, Workspace
from spiketok.tokens.schemes import scheme_from_config
from spiketok.tokens.shards import FORMAT, FORMAT_VERSION, ShardReader

OLD_VERSION = 1
FOLLOWS = ("segment.row",)  # columns of before that the others say


@dataclass(frozen=True)
class Upgraded:
    """What became of one artefact of an older format.

    Args:
        kind: ``"session"``, ``"shard"``, ``"run"`` or ``"report"``. name: which.
        state: ``"upgraded"``, ``"to upgrade"`` (nothing was written, as asked), or ``"left"`` as it is.
        remark: what was made of it, or why it was left and what to do.
    """

    kind: str
    name: str
    state: str
    remark: str = ""


@dataclass(frozen=True)
class OldShard:
    """A shard of an older format, and what stands in its place: a reader's digest and place among the shards.

    Args:
        path: its folder. digest: by which runs name it. new: the folder of what takes its place, once that is there.
    """

    path: Path
    digest: str
    new: Path


def upgrade_sessions(workspace: Workspace, *, dry_run: bool) -> Iterator[Upgraded]:
    """Write every session that is a folder of many files as two; what is in it, and its digest, stay as they are."""
    for session_id in workspace.session_ids():
        path = workspace.store_path(session_id)
        if is_packed(path):
            continue
        if dry_run:
            yield Upgraded("session", session_id, "to upgrade", "a folder of many files -> two")
            continue
        try:
            before = read_attributes(path)["digest"]
            with session_lock(path):
                repack(path)
            after = read_attributes(path)["digest"]
        except SpiketokError as error:
            yield Upgraded("session", session_id, "left", str(error))
            continue
        assert after == before, f"{session_id}: repack changed the digest {before} to {after}"
        yield Upgraded("session", session_id, "upgraded", f"two files, digest {after[:12]} as before")


def old_shards(workspace: Workspace) -> Iterator[tuple[Path, dict]]:
    """The folder and the manifest of each shard of an older format; other folders are none of ours."""
    for file in sorted(workspace.shards.glob(f"*/*/*/*/{MANIFEST}")):
        manifest = _old_manifest(file)
        if manifest and not file.parent.name.startswith("."):
            yield file.parent, manifest


def has_old_shard(target: Path) -> bool:
    """Whether beside the place of a shard lies one of the same session and scheme of an older format."""
    return any(_old_manifest(file) for file in target.parent.glob(f"*/{MANIFEST}"))


def _old_manifest(file: Path) -> dict:
    """The manifest of a shard of an older format; empty for others, and for one whose reader will say what is wrong."""
    try:
        manifest = read_json(file)
    except (OSError, ValueError):
        return {}
    return manifest if manifest.get("format") == FORMAT and is_old(manifest.get("format_version")) else {}


def is_old(version: object) -> bool:
    """Whether a shard's format version is one of before."""
    return isinstance(version, int) and version < FORMAT_VERSION


def upgrade_shard(workspace: Workspace, path: Path, manifest: Mapping, *, dry_run: bool = False) -> OldShard:
    """Make a shard again from the store, by the same scheme on the same segments; the old one stays beside it.

    Raises:
        ArtefactError: the old one is damaged, the store is another one now, or the tokens are not equal: the message
            says which, and what to do. SpiketokError: the session cannot be read or baked.
    """
    columns = _old_columns(path, manifest)
    session_id, rule = manifest["session"]["id"], manifest["segments_rule"]
    scheme = scheme_from_config(manifest["scheme"])
    again = f"spiketok tokenize --scheme {scheme.name} --sessions '{session_id}'"
    found = workspace.facts(session_id)["digest"]
    if found != manifest["store_digest"]:
        message = (
            f"was made from store {manifest['store_digest'][:12]}, there lies {found[:12]}: remove it, then {again}"
        )
        raise ArtefactError(message)
    target = shard_path(workspace, session_id, scheme, rule)
    old = OldShard(path, manifest["digest"], target)
    if dry_run:
        return old
    for outcome in tokenize(workspace, [session_id], [scheme], rule):
        if outcome.error is not None:
            raise outcome.error
        for done in outcome.result:
            if done.state in ("failed", "not served"):
                message = f"cannot be baked again ({'; '.join(done.notes)})"
                raise ArtefactError(message)
    unlike = differing_column(columns, manifest, ShardReader(target))
    if unlike:
        message = f"has other tokens than the store gives now (column '{unlike}'): it stays; to train anew, {again}"
        raise ArtefactError(message)
    return old


def _old_columns(path: Path, manifest: Mapping) -> dict[str, np.ndarray]:
    """The columns of a shard of format 1, each held against its digest.

    Raises:
        ArtefactError: it is damaged.
    """
    try:
        if manifest["format_version"] != OLD_VERSION or manifest["digest"] != content_digest(manifest):
            _refuse_damaged("its manifest does not match its own digest")
        columns = {}
        for name, entry in manifest["columns"].items():
            file = below(path, entry["file"], f"column '{name}'")
            dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
            if sha256_file(file) != entry["sha256"] or math.prod(shape) * dtype.itemsize != entry["bytes"]:
                _refuse_damaged(f"column '{name}' is not what was written")
            columns[name] = np.fromfile(file, dtype).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_cause(error, path)
        _refuse_damaged(error)
    return columns


def _refuse_damaged(fact: object) -> NoReturn:
    message = f"is damaged ({fact}): it stays as it is; 'spiketok tokenize' makes it anew"
    raise ArtefactError(message)


def differing_column(old: Mapping[str, np.ndarray], manifest: Mapping, new: ShardReader) -> str:
    """The first column of an old shard that its successor, or the context of that, does not say; empty if none.

    Contexts leave out columns of trials with many values; those of a few are compared by their words.
    """
    words = new.context.manifest["session"]["trial_words"]
    for name, column in old.items():
        if name.startswith("bin."):
            signal, part = name.removeprefix("bin.").rsplit(".", 1)
            found = new.bin_signal(signal)[("value", "valid").index(part)]
        elif name.startswith("trial.column."):
            own = name.removeprefix("trial.column.")
            if own not in words:
                continue
            found = np.array(words[own], np.str_)[new.context.columns[name]]
            column = np.array(manifest["session"]["trial_words"][own], np.str_)[column]
        elif name in new.columns:
            found = new.columns[name]
        elif name in FOLLOWS:
            continue
        elif name in new.context.columns:
            found = new.context.columns[name]
        else:
            return name
        if found.dtype != column.dtype and found.dtype.kind != "U":
            return name
        if not np.array_equal(found, column):
            return name
    facts = ("n_spikes", "lost", "source")
    return next((name for name in facts if manifest[name] != new.manifest[name]), "")


def upgrade_shards(workspace: Workspace, *, dry_run: bool, made: Callable[[OldShard], None]) -> Iterator[Upgraded]:
    """Make every shard of an older format again, one after the other; see :func:`upgrade_shard`.

    Args:
        made: called with each for which there is, or would be, a successor.
    """
    for path, manifest in old_shards(workspace):
        name = "/".join(path.parts[-4:])
        try:
            old = upgrade_shard(workspace, path, manifest, dry_run=dry_run)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            remark = f"its manifest cannot be understood ({type(error).__name__}: {error}): 'spiketok tokenize' anew"
            yield Upgraded("shard", name, "left", remark)
        except SpiketokError as error:
            yield Upgraded("shard", name, "left", str(error))
        else:
            made(old)
            if dry_run:
                yield Upgraded("shard", name, "to upgrade", f"format {OLD_VERSION} -> {FORMAT_VERSION}")
            else:
                yield Upgraded("shard", name, "upgraded", f"{old.new.name}, every column equal")


def remove(old: OldShard) -> None:
    """Give an old shard up: out of sight first, then from the disk."""
    os.rename(old.path, old.path.with_name(f"{WIP}{os.getpid()}-{old.path.name}"))
    clean_leftovers(old.path.parent)
