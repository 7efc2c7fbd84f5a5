"""Items of a workspace to a place: what is there already is not sent, what makes the place whole comes last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from spiketok import __version__
from spiketok.pipeline.hub.card import card_text
from spiketok.pipeline.hub.items import Item, chosen_items
from spiketok.pipeline.hub.places import File, Place
from spiketok.storage.files import json_text
from spiketok.storage.locks import inside, locked, session_lock
from spiketok.storage.pushed import CARD, PUSHED, files_of, manifest_of, read_manifest, require_names
from spiketok.storage.workspace import Workspace


@dataclass(frozen=True)
class Pushed:
    """What became of an item.

    Args:
        path: its place. kind: of it. state: ``"new"``, ``"replaced"`` or ``"already"``.
        nbytes: of its files. sent: of those that were sent. remarks: what stayed here, one sentence each.
    """

    path: str
    kind: str
    state: str
    nbytes: int
    sent: int
    remarks: tuple[str, ...]


def push(
    workspace: Workspace,
    words: Sequence[str],
    place: Place,
    *,
    optimizer: bool = False,
    with_data: bool = False,
    again: bool = False,
    dry_run: bool = False,
    sent: Callable[[str, int], None] = lambda name, nbytes: None,
) -> list[Pushed]:
    """Push what some words name, beside what is at the place already.

    Args:
        words, optimizer, with_data: as :func:`spiketok.pipeline.hub.items.chosen_items`.
        again: send every file, whatever is there. dry_run: send nothing.
        sent: called with each file that was sent and its size.

    Raises:
        ArtefactError: an item is damaged, holds a pickle, or has a name that is not safe everywhere; or the place holds
            a manifest that was changed. FetchError: the place cannot be reached. BusyError: a run is being trained.
    """
    with ExitStack() as stack:
        stack.enter_context(place.held() if not dry_run else ExitStack())
        before = place.read(PUSHED)
        there = read_manifest(before, place.name)["items"] if before is not None else {}
        items = {}
        for item in chosen_items(workspace, words, optimizer=optimizer, with_data=with_data):
            if item.kind == "run":
                run = workspace.root / item.path
                stack.enter_context(locked(inside(run), f"run {run}"))
            elif item.kind == "session":
                stack.enter_context(session_lock(workspace.store_path(item.path.removeprefix("store/"))))
            items[item.path] = item
        entries = {path: item.to_entry() for path, item in items.items()}
        merged = dict(sorted((there | entries).items()))
        require_names(merged, f"{place.name}/{PUSHED}")
        paths = {_joined(item.path, name): file for item in items.values() for name, file in item.files.items()}
        files = {name: File(paths[name], sha256, nbytes) for name, sha256, nbytes in files_of(entries)}
        known = {name: (sha256, nbytes) for name, sha256, nbytes in files_of(there)}
        have = set() if again else place.there(files, known)
        lacking = {name: file for name, file in files.items() if name not in have}
        facts = manifest_of(merged, f"spiketok {__version__}")
        manifest = json_text(facts).encode()
        if not dry_run and (lacking or manifest != before):
            old = (place.read(CARD) or b"").decode(errors="replace")
            card = card_text(facts, place.shown, place.kind, old)
            place.put(lacking, card.encode(), manifest, sent)
        return [_outcome(item, entries[path], there.get(path), lacking) for path, item in items.items()]


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if name else path


def _outcome(item: Item, entry: Mapping, before: Mapping | None, lacking: Mapping[str, File]) -> Pushed:
    own = [(_joined(item.path, name), one["bytes"]) for name, one in entry["files"].items()]
    sent = sum(nbytes for name, nbytes in own if name in lacking)
    state = "new" if before is None else "already" if before["files"] == entry["files"] else "replaced"
    remarks = [f"{name} stays here: --optimizer takes it too" for name in item.left_out]
    silent = [one.name for one in item.cite if one.kind == "data" and not one.license]
    if silent:
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        remarks.append(f"no licence is stated for {silent[0]}{more}: ask its authors before others may see it")
    if item.skipped:
        more = f" and {len(item.skipped) - 1} more" if len(item.skipped) > 1 else ""
        remarks.append(f"{item.skipped[0]}{more} stays here: no kind of file that a run holds")
    if item.outside:
        more = f" and {len(item.outside) - 1} more" if len(item.outside) > 1 else ""
        remarks.append(f"{item.outside[0]}{more} stays here: a link out of the workspace")
    return Pushed(item.path, item.kind, state, sum(nbytes for _, nbytes in own), sent, tuple(remarks))
