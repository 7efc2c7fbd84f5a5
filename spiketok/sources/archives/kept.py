"""What this machine keeps of archives: digests that files must have, lists of files, records of what was fetched.

<folder of the plan>/<path>              only whole, verified files
<folder of the plan>/<record>            what they are: licence, citation, size and sha256 of each
<folder of the plan>/.listing.json       the list of a version that never changes: a rerun needs no network
<raw>/.staging/<the same folder>/        parts of files, kept for the next run
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spiketok.errors import ArtefactError, require
from spiketok.sources.archives.plans import Asset, Plan, path_fault
from spiketok.storage.causes import content_fault, raise_cause
from spiketok.storage.files import read_json, sha256_file, write_json
from spiketok.storage.locks import beside, locked
from spiketok.storage.remote import RemotePath

LISTING = ".listing.json"
LISTING_FORMAT = 1
STAGING = ".staging"
_OF_A_PLAN = ("version", "title", "license", "citation", "doi")
_OF_AN_ASSET = ("path", "size", "sha256", "etag", "md5", "asset_id", "modified", "url", "problem")


# ---- digests --------------------------------------------------------------------------------------------------------


def verify(file: Path, asset: Asset) -> tuple[str, str]:
    """The file's sha256, and what is wrong with it (empty if it is the announced one).

    The strongest digest that is announced decides: sha256, DANDI's etag, md5. A file of which none is announced is
    wrong.
    """
    try:
        size = file.stat().st_size
        if asset.size is not None and size != asset.size:
            return "", f"{size} bytes came, {asset.size} were announced"
        sha256 = sha256_file(file)
        if asset.sha256:
            wrong = sha256 != asset.sha256
            return sha256, f"sha256 is {sha256[:12]}..., announced was {asset.sha256[:12]}..." if wrong else ""
        if asset.etag:
            etag = _etag(file)
            return sha256, f"dandi-etag is {etag}, announced was {asset.etag}" if etag != asset.etag else ""
        if asset.md5:
            md5 = _md5(file)
            return sha256, f"md5 is {md5[:12]}..., announced was {asset.md5[:12]}..." if md5 != asset.md5 else ""
    except FileNotFoundError:
        return "", "nothing came"
    return sha256, "no digest is announced for it"


def _etag(file: Path) -> str:
    digest = require("dandischema.digests.dandietag", "dandi", "checking a DANDI digest")
    return digest.DandiETag.from_file(file).as_str()


def _md5(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def staging_of(folder: Path, raw: Path) -> Path:
    """Where parts of a plan's files gather."""
    return raw / STAGING / folder.relative_to(raw)


# ---- lists ----------------------------------------------------------------------------------------------------------


def kept_listing(head: Plan) -> Plan | None:
    """The list as an earlier run kept it; None if there is none from this server.

    Args:
        head: whose it is, from ``Archive.lasting``.
    """
    try:
        kept = read_json(head.folder / LISTING)
        if kept["format"] != LISTING_FORMAT or kept["api_url"] != head.api_url:
            return None
        listing = tuple(Asset(**asset) for asset in kept["assets"])
        said = {key: kept[key] for key in _OF_A_PLAN if key in kept}
        left_out = tuple(kept.get("left_out", ()))
        words = [
            *said.values(),
            *left_out,
            *(getattr(a, key) for a in listing for key in _OF_AN_ASSET if key != "size"),
        ]
        if not all(isinstance(word, str) for word in words) or not all(_is_size(asset.size) for asset in listing):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or not whole: the archive has it
    return replace(head, listing=listing, left_out=left_out, kept_list=True, **said)


def keep_listing(plan: Plan) -> None:
    """Keep the list for the next run."""
    assets = [
        {key: value for key, value in asdict(asset).items() if key in _OF_AN_ASSET and value != ""}
        for asset in plan.listing
    ]
    said = {key: getattr(plan, key) for key in (*_OF_A_PLAN, "api_url")}
    listing = {"format": LISTING_FORMAT, **said, "left_out": list(plan.left_out), "assets": assets}
    write_json(plan.folder / LISTING, listing)


def forget_listing(plan: Plan) -> None:
    """What was announced of a file does not fit its bytes: the next run asks the archive anew."""
    (plan.folder / LISTING).unlink(missing_ok=True)


# ---- records --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Of a record of what was fetched.

    Args:
        name: of the file. head: what it says of the plan. each: keys of an entry besides size and sha256.
        files: the key under which the entries stand.
        advice: what to do where it is damaged.
    """

    name: str
    head: tuple[str, ...]
    each: tuple[str, ...] = ()
    files: str = "assets"
    advice: str = "remove it and run the fetch again (files that are here are kept)"


def read_record(folder: Path | RemotePath, shape: Shape) -> dict | None:
    """The record in a folder; None if there is none.

    Raises:
        ArtefactError: it is damaged.
    """
    file = folder / shape.name
    if not file.is_file() and not (isinstance(file, Path) and os.path.lexists(file)):
        return None
    try:
        record = read_json(file)
        fault = _fault_of(record, shape)
    except OSError as error:
        raise_cause(error, file)
        raise
    except ValueError as error:
        fault = content_fault(error)
    except (KeyError, TypeError, AttributeError):
        fault = "it does not say what a record says"
    if fault:
        message = f"{file} is damaged ({fault}): {shape.advice}"
        raise ArtefactError(message)
    return record


def _fault_of(record: dict, shape: Shape) -> str:
    """Why a record is none; empty if it is one."""
    # one that an older version wrote lacks what is only told of a place, as its DOI
    absent = {*shape.head, shape.files} - {"doi"} - record.keys()
    if absent:
        return f"it lacks '{min(absent)}'"
    strange = [key for key in shape.head if not isinstance(record.get(key, ""), str)]
    if strange:
        return f"its '{strange[0]}' is no text"
    for path, entry in record[shape.files].items():
        if path_fault(path):
            return f"it names a file {path[:80]!r}, which {path_fault(path)}"
        if not _is_size(entry["size"]) or not all(isinstance(entry[key], str) for key in ("sha256", *shape.each)):
            return f"what it says of {path} is no size and digest"
    return ""


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def entries(folder: Path | RemotePath, shape: Shape) -> dict[str, dict]:
    """The files of a folder's record, by path; none where there is no record.

    Raises:
        ArtefactError: it is damaged.
    """
    record = read_record(folder, shape)
    return {} if record is None else record[shape.files]


def write_record(plan: Plan, shape: Shape, digests: Mapping[str, str], entry: Callable[[Asset], Mapping]) -> None:
    """Write (merge into) the record what is whole and verified.

    Args:
        digests: sha256 by path. entry: what is recorded of a file besides its size and sha256.
    """
    if not digests:
        return
    file = plan.folder / shape.name
    if _merged(plan, shape, digests, entry) is None:
        return
    with locked(beside(file), str(file), wait=True):  # what another fetch adds meanwhile must not be lost
        record = _merged(plan, shape, digests, entry)
        if record is not None:
            write_json(file, record)


def _merged(plan: Plan, shape: Shape, digests: Mapping[str, str], entry: Callable[[Asset], Mapping]) -> dict | None:
    """The record with what is whole and verified now; None where it stands like that."""
    old = read_record(plan.folder, shape)
    assets = {asset.path: asset for asset in plan.assets}
    fresh = {
        path: {**entry(assets[path]), "size": (plan.folder / path).stat().st_size, "sha256": digest}
        for path, digest in digests.items()
    }
    record = {key: getattr(plan, key) for key in shape.head}
    record[shape.files] = {**(old[shape.files] if old else {}), **fresh}
    return None if record == old else record
