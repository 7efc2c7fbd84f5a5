"""This machine's side: what a file must be to count, the kept asset list, and the record of where files came from."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from spiketok.errors import require
from spiketok.recording.nouns import Source
from spiketok.sources.archives.dandi.archive import VERSION, Archive
from spiketok.sources.archives.offline import load_record
from spiketok.sources.archives.plans import Asset, DandiRequest, Plan
from spiketok.storage.files import fingerprint, read_json, sha256_file, write_json
from spiketok.storage.remote import RemotePath

RECORD = "dandiset.json"
LISTING = ".listing.json"
LISTING_FORMAT = 1
STAGING = ".staging"


def verify(file: Path, asset: Asset) -> tuple[str, str]:
    """The file's sha256, and what is wrong with it (empty if it is the announced one)."""
    try:
        size = file.stat().st_size
        if size != asset.size:
            return "", f"{size} bytes came, {asset.size} were announced"
        sha256 = sha256_file(file)
        if asset.sha256:
            wrong = sha256 != asset.sha256
            return sha256, f"sha256 is {sha256[:12]}..., announced was {asset.sha256[:12]}..." if wrong else ""
        if not asset.etag:
            return sha256, "no digest is announced for it"
        etag = _etag(file)
        return sha256, f"dandi-etag is {etag}, announced was {asset.etag}" if etag != asset.etag else ""
    except FileNotFoundError:
        return "", "nothing came"


def _etag(file: Path) -> str:
    digest = require("dandischema.digests.dandietag", "dandi", "checking a DANDI digest")
    return digest.DandiETag.from_file(file).as_str()


def versions_here(dandiset: str, raw: Path) -> list[str]:
    """The published versions of a dandiset of which this machine has the list."""
    return sorted(path.parent.name for path in (raw / dandiset).glob(f"*/{LISTING}"))


def staging_folder(folder: Path, raw: Path) -> Path:
    return raw / STAGING / folder.relative_to(raw)


def staged_name(path: str) -> str:
    """A short flat name for the parts of an asset: a long path has no room for the client's suffix."""
    return f"{fingerprint(path)}.part"


def discard(part: Path) -> None:
    """Remove a staged file and the client's parts of it."""
    part.unlink(missing_ok=True)
    shutil.rmtree(part.with_name(part.name + ".dandidownload"), ignore_errors=True)


def kept_listing(request: DandiRequest, raw: Path, archive: Archive) -> Plan | None:
    """The list of a published version as an earlier run kept it; None if there is none from this archive."""
    if request.version in (None, "draft"):
        return None  # only a published version never changes
    folder = raw / request.dandiset / request.version
    try:
        kept = read_json(folder / LISTING)
        if kept["format"] != LISTING_FORMAT or kept["api_url"] != archive.api:
            return None
        listing = tuple(Asset(**asset) for asset in kept["assets"])
        if not all(isinstance(asset.path, str) and isinstance(asset.size, int) for asset in listing):
            return None
        head = {key: kept[key] for key in ("title", "license", "citation")}
        left_out = tuple(kept["left_out"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # absent, or not whole: the archive has it
    return Plan(
        name=request.name,
        folder=folder,
        assets=(),
        dandiset=request.dandiset,
        version=request.version,
        left_out=left_out,
        kept_list=True,
        archive=archive.name,
        api_url=archive.api,
        listing=listing,
        **head,
    )


def keep_listing(plan: Plan) -> None:
    """Keep the list of a public, published version for the next run."""
    if plan.version == "draft" or plan.needs_token:
        return
    fields = ("path", "size", "sha256", "etag", "asset_id", "modified")
    assets = [{key: value for key, value in asdict(asset).items() if key in fields} for asset in plan.listing]
    listing = {
        "format": LISTING_FORMAT,
        "api_url": plan.api_url,
        "title": plan.title,
        "license": plan.license,
        "citation": plan.citation,
        "left_out": list(plan.left_out),
        "assets": assets,
    }
    write_json(plan.folder / LISTING, listing)


def forget_listing(plan: Plan) -> None:
    """What was announced of a file does not fit its bytes: the next run asks the archive anew."""
    (plan.folder / LISTING).unlink(missing_ok=True)


def write_record(plan: Plan, digests: dict[str, str]) -> None:
    """Write (merge into) ``dandiset.json`` what is whole and verified."""
    if not digests:
        return
    file = plan.folder / RECORD
    old = read_record(plan.folder)
    sizes = {asset.path: asset.size for asset in plan.assets}
    fresh = {path: {"size": sizes[path], "sha256": digest} for path, digest in digests.items()}
    record = {
        "dandiset": plan.dandiset,
        "version": plan.version,
        "license": plan.license,
        "citation": plan.citation,
        "assets": {**(old["assets"] if old else {}), **fresh},
    }
    if record != old:
        write_json(file, record)


def read_record(folder: Path | RemotePath) -> dict | None:
    """The ``dandiset.json`` of a version's folder; None if there is none.

    Raises:
        ArtefactError: it is damaged.
    """
    return load_record(folder / RECORD, {"dandiset", "version", "license", "citation"}, {"size", "sha256"})


def find_source(file: Path | RemotePath) -> Source | None:
    """What was recorded of a file in the raw tree, here or in a copy of it behind a URL.

    None for a file that was not fetched from DANDI.

    Raises:
        ArtefactError: the record beside it is damaged.
    """
    file = file.absolute()
    for folder in file.parents:
        record = read_record(folder) if VERSION.fullmatch(folder.name) else None
        if record is None:
            continue
        path = file.relative_to(folder).as_posix()
        entry = record["assets"].get(path)
        if entry is None:
            return None
        return Source(
            file=path,
            sha256=entry["sha256"],
            size=entry["size"],
            dandiset=record["dandiset"],
            version=record["version"],
            license=record["license"],
            citation=record["citation"],
        )
    return None
