"""Whether the files that were fetched are still the ones that were recorded: no server is asked, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from spiketok.errors import ArtefactError
from spiketok.sources.archives.plans import Asset, DandiRequest, ZenodoRequest
from spiketok.sources.archives.selection import Selection, choose
from spiketok.storage.files import WIP, read_json, sha256_file
from spiketok.storage.remote import RemotePath

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
    state: Literal["good", "differs", "missing", "unrecorded"]
    detail: str = ""
    repair: tuple[str, ...] = ()


def load_record(file: Path | RemotePath, head: Set[str], entry: Set[str]) -> dict | None:
    """The record of what was fetched beside it; None if there is none.

    Args:
        file: the record. head: keys that it must have besides ``assets``; entry: those of each asset.

    Raises:
        ArtefactError: it is damaged.
    """
    if not file.is_file():
        return None
    try:
        record = read_json(file)
        whole = {*head, "assets"} <= record.keys()
        whole = whole and all(entry <= asset.keys() for asset in record["assets"].values())
    except (ValueError, AttributeError, TypeError):
        whole = False
    if not whole:
        message = f"{file} is damaged: remove it and run the fetch again (files that are here are kept)"
        raise ArtefactError(message)
    return record


def check_files(
    folder: Path,
    recorded: Mapping[str, Mapping],
    selection: Selection,
    place: str,
    request: DandiRequest | ZenodoRequest | None,
    prefix: str,
    session_of: Callable[[str], str],
) -> list[Checked]:
    """Read every recorded file in a folder once, and look for files without a record.

    Args:
        folder: where the paths begin.
        recorded: by path its ``size`` and ``sha256``, and its ``url`` if it came from a plain address.
        request: what of it is meant; None: the recorded files and no others.
        prefix: what makes a path a word for ``spiketok fetch``; empty for plain addresses.

    Raises:
        UnknownNameError: a pattern of the selection matches nothing that is here.
    """
    strangers = _strangers(folder, recorded) if request is not None else []
    listing = [Asset(p, e["size"], sha256=e["sha256"], url=e.get("url", "")) for p, e in recorded.items()]
    listing += [Asset(path, (folder / path).stat().st_size) for path in strangers]
    listing.sort(key=lambda asset: asset.path)
    if not listing:
        return []
    asked = {} if request is None else {"include": request.include, "exclude": request.exclude, "path": request.path}
    chosen = choose(listing, selection, place, session_of=session_of, **asked)
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda a: _check(folder / a.path, a, a.url or prefix + a.path), chosen.assets))


def _strangers(folder: Path, recorded: Mapping[str, object]) -> list[str]:
    """Files that ought to have a record: those that end like a recorded one, or like NWB."""
    suffixes = {PurePosixPath(path).suffix.lower() for path in recorded} | {".nwb"}
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(WIP))
    return [path for p in found if p.is_file() and (path := p.relative_to(folder).as_posix()) not in recorded]


def _check(file: Path, asset: Asset, origin: str) -> Checked:
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
