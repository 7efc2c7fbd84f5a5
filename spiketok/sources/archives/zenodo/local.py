"""This machine's side: what a file must be to count, the kept list of files, and the record of where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from spiketok.recording.nouns import Source
from spiketok.sources.archives.offline import load_record
from spiketok.sources.archives.plans import Asset, Plan, ZenodoRequest
from spiketok.storage.files import fingerprint, read_json, sha256_file, write_json
from spiketok.storage.remote import RemotePath

FOLDER, RECORD, LISTING, STAGING = "zenodo", "zenodo.json", ".listing.json", ".staging"
LISTING_FORMAT = 1


def wrong(file: Path, asset: Asset) -> str:
    """What is wrong with a file; empty if it has the recorded sha256, else the announced md5."""
    try:
        size = file.stat().st_size
        if size != asset.size:
            return f"{size} bytes are there, {asset.size} were announced"
        if asset.sha256:
            return "" if sha256_file(file) == asset.sha256 else "its sha256 is not the recorded one"
        return "" if _md5(file) == asset.md5 else "its md5 is not the announced one"
    except OSError as error:
        return error.strerror or str(error)


def _md5(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def staging_of(plan: Plan, raw: Path) -> Path:
    return raw / STAGING / FOLDER / plan.record


def part_of(staging: Path, asset: Asset) -> Path:
    """Where the bytes of a file gather: of this file, and no other with its name."""
    return staging / fingerprint([asset.path, asset.md5]) / "part"


def kept_listing(request: ZenodoRequest, raw: Path, api: str) -> Plan | None:
    """The list as an earlier run kept it; None if there is none from this server."""
    folder = raw / FOLDER / request.record
    try:
        kept = read_json(folder / LISTING)
        if kept["format"] != LISTING_FORMAT or kept["api_url"] != api:
            return None
        listing = tuple(Asset(**asset) for asset in kept["assets"])
        if not all(isinstance(asset.path, str) and isinstance(asset.size, int) for asset in listing):
            return None
        head = {key: kept[key] for key in ("version", "title", "license", "citation", "doi")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # absent, or not whole: Zenodo has it
    return Plan(
        name=request.name,
        folder=folder,
        assets=(),
        record=request.record,
        kept_list=True,
        archive="zenodo",
        api_url=api,
        listing=listing,
        **head,
    )


def keep_listing(plan: Plan) -> None:
    fields = ("path", "size", "md5", "url", "problem")
    head = {key: getattr(plan, key) for key in ("api_url", "version", "title", "license", "citation", "doi")}
    assets = [{key: value for key, value in asdict(asset).items() if key in fields} for asset in plan.listing]
    write_json(plan.folder / LISTING, {"format": LISTING_FORMAT, **head, "assets": assets})


def forget_listing(plan: Plan) -> None:
    """What was announced of a file does not fit its bytes: the next run asks Zenodo anew."""
    (plan.folder / LISTING).unlink(missing_ok=True)


def write_record(plan: Plan, digests: dict[str, str]) -> None:
    """Write (merge into) ``zenodo.json`` what is whole and verified."""
    if not digests:
        return
    old = read_record(plan.folder)
    assets = {asset.path: asset for asset in plan.assets}
    fresh = {p: {"size": assets[p].size, "md5": assets[p].md5, "sha256": digest} for p, digest in digests.items()}
    head = {key: getattr(plan, key) for key in ("record", "version", "license", "citation", "doi")}
    record = {**head, "assets": {**(old["assets"] if old else {}), **fresh}}
    if record != old:
        write_json(plan.folder / RECORD, record)


def read_record(folder: Path | RemotePath) -> dict | None:
    """The ``zenodo.json`` of a record's folder; None if there is none.

    Raises:
        ArtefactError: it is damaged.
    """
    return load_record(folder / RECORD, {"record", "version", "license", "citation"}, {"size", "md5", "sha256"})


def find_record(file: Path | RemotePath) -> tuple[dict, str] | None:
    """The record that a file in the raw tree was fetched from, and its path there; None for any other file.

    Raises:
        ArtefactError: the record beside it is damaged.
    """
    file = file.absolute()
    for folder in file.parents:
        if folder.name.isdigit() and folder.parts[-2:-1] == (FOLDER,):
            record = read_record(folder)
            path = file.relative_to(folder).as_posix()
            return (record, path) if record is not None and path in record["assets"] else None
    return None


def find_source(file: Path | RemotePath) -> Source | None:
    """What was recorded of a file; None for one that was not fetched from Zenodo.

    Raises:
        ArtefactError: the record is damaged.
    """
    found = find_record(file)
    if found is None:
        return None
    record, path = found
    return Source(
        file=path,
        sha256=record["assets"][path]["sha256"],
        size=record["assets"][path]["size"],
        version=record["version"],
        license=record["license"],
        citation=record["citation"],
    )
