"""Whether the files that were fetched are still the ones that were recorded: no server is asked, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from spiketok.sources.archives.base import Archive, Found
from spiketok.sources.archives.plans import Asset, Request
from spiketok.sources.archives.selection import Selection, choose
from spiketok.storage.causes import cause_of
from spiketok.storage.files import WIP, sha256_file

THREADS = 4  # hashing waits for the disk and leaves Python's lock


@dataclass(frozen=True)
class Checked:
    """What was found of one file.

    Args:
        path: inside its dandiset, record or folder. file: where it belongs on this machine.
        state: ``good``; ``differs``: other bytes than recorded; ``missing``: recorded, and not there;
            ``unrecorded``: there, and nothing vouches for it.
        detail: what is wrong, with both values; empty for a good one.
        repair: the words of the command that mends it, without options of the workspace; empty for a good one.
    """

    path: str
    file: Path
    state: Literal["good", "differs", "missing", "unrecorded", "unread"]
    detail: str = ""
    repair: tuple[str, ...] = ()


def check_files(
    archive: Archive, request: Request, raw: Path, selection: Selection, session_of: Callable[[str], str]
) -> list[Checked]:
    """Read every recorded file of a request once, and look for files without a record.

    Where an archive announces no digests, files that no record has are nobody's.

    Raises:
        UnknownNameError: a pattern of the selection matches nothing that is here. ArtefactError: a record is damaged.
    """
    checked: list[Checked] = []
    for plan in archive.folders(request, raw):
        folder, recorded = plan.folder, archive.recorded(request, plan.folder)
        strangers = _strangers(folder, recorded) if archive.announces else []
        listing = [Asset(path, entry["size"], sha256=entry["sha256"]) for path, entry in recorded.items()]
        listing += [Asset(path, (folder / path).stat().st_size) for path in strangers]
        if not listing:
            continue
        chosen = choose(
            sorted(listing, key=lambda asset: asset.path),
            selection,
            archive.place(plan),
            include=request.include,
            exclude=request.exclude,
            path=request.path,
            session_of=session_of,
        )
        words = [archive.word(Found(vars(plan), a.path, recorded.get(a.path, {}))) for a in chosen.assets]
        with ThreadPoolExecutor(THREADS) as pool:
            files = [folder / asset.path for asset in chosen.assets]
            checked += pool.map(_check, files, chosen.assets, words)
    return checked


def _strangers(folder: Path, recorded: Mapping[str, object]) -> list[str]:
    """Files that ought to have a record: those that end like a recorded one, or like NWB."""
    suffixes = {PurePosixPath(path).suffix.lower() for path in recorded} | {".nwb"}
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(WIP))
    return [path for p in found if p.is_file() and (path := p.relative_to(folder).as_posix()) not in recorded]


def _check(file: Path, asset: Asset, origin: str) -> Checked:
    try:
        return _checked(file, asset, origin)
    except OSError as error:  # what is in it is not known
        return Checked(asset.path, file, "unread", str(cause_of(error, file) or error))


def _checked(file: Path, asset: Asset, origin: str) -> Checked:
    again = ("spiketok", "fetch", origin, "--download-only")
    anew = (*again, "-e", "overwrite-different")
    if not asset.sha256:
        return Checked(asset.path, file, "unrecorded", "is there and no record vouches for it", anew)
    if not file.is_file():
        return Checked(asset.path, file, "missing", f"was fetched ({asset.size} bytes) and is gone", again)
    size = file.stat().st_size
    if size != asset.size:
        return Checked(asset.path, file, "differs", f"has {size} bytes, {asset.size} were fetched", anew)
    found = sha256_file(file)
    if found != asset.sha256:
        detail = f"has sha256 {found[:12]}..., {asset.sha256[:12]}... was fetched"
        return Checked(asset.path, file, "differs", detail, anew)
    return Checked(asset.path, file, "good")
