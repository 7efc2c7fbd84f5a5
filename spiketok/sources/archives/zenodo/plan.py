"""From a request to a plan: which files, how many bytes, under which licence, and what of it is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spiketok.errors import FetchError
from spiketok.sources.archives.plans import Asset, Plan, ZenodoRequest, check_policy, judge_paths
from spiketok.sources.archives.selection import EVERYTHING, Selection, choose, plain_session
from spiketok.sources.archives.zenodo.api import address_of, ask_record
from spiketok.sources.archives.zenodo.local import kept_listing, part_of, read_record, staging_of, wrong


def plan_zenodo(
    request: ZenodoRequest,
    raw: Path,
    *,
    api_url: str | None = None,
    selection: Selection = EVERYTHING,
    session_of: Callable[[str], str] = plain_session,
    policy: str = "skip",
) -> Plan:
    """What a record means in files and bytes. Reads files and asks Zenodo; writes nothing.

    Args:
        request: from :func:`spiketok.sources.catalogue.resolve`.
        raw: the folder of source files.
        api_url: the base address of the API, as ``https://zenodo.org/api`` (the default).
        selection: which of its files. session_of: the session that a file belongs to, for the limits.
        policy: ``refresh`` asks Zenodo for its list even where the list of an earlier run would do.

    Raises:
        FetchError: Zenodo cannot be reached, refuses, lacks the record, or names hostile paths.
        UnknownNameError: no such file. ArtefactError: the record of earlier downloads is damaged.
    """
    check_policy(policy)
    api = address_of(api_url)
    raw = Path(raw)
    kept = None if policy == "refresh" or request.latest else kept_listing(request, raw, api)
    head = kept or ask_record(request, raw, api)
    place = f"Zenodo record {head.record}"
    judge_paths([asset.path for asset in head.listing], place)
    if not head.listing:
        message = f"{place} holds no file: nothing to fetch"
        raise FetchError(message)
    chosen = choose(
        head.listing,
        selection,
        place,
        include=request.include,
        exclude=request.exclude,
        path=request.path,
        session_of=session_of,
    )
    record = read_record(head.folder) or {"assets": {}}
    staging = staging_of(head, raw)
    assets = tuple(_with_state(asset, head.folder, staging, record["assets"]) for asset in chosen.assets)
    return replace(head, name=request.name, assets=assets, beyond=chosen.beyond, limits=chosen.limits)


def _with_state(asset: Asset, folder: Path, staging: Path, recorded: dict[str, dict]) -> Asset:
    """The asset with what is on this machine of it."""
    file, entry = folder / asset.path, recorded.get(asset.path, {})
    if entry.get("md5") == asset.md5:
        asset = replace(asset, sha256=entry["sha256"])
    if file.is_symlink() or file.exists():
        return replace(asset, state="differs" if wrong(file, asset) else "here")
    part = part_of(staging, asset)
    if part.is_file() and part.stat().st_size:
        return replace(asset, state="partial", partial_bytes=part.stat().st_size)
    return asset
