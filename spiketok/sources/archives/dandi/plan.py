"""From a request to a plan: which assets, how many bytes, under which licence, and what of it is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from spiketok.errors import FetchError
from spiketok.sources.archives.dandi.archive import Archive, ask_digests, ask_listing, find_archive
from spiketok.sources.archives.dandi.local import kept_listing, staged_name, staging_folder, verify, versions_here
from spiketok.sources.archives.plans import Asset, DandiRequest, Plan, check_jobs, check_policy, judge_paths
from spiketok.sources.archives.selection import EVERYTHING, Selection, choose, plain_session

JOBS = 6  # as the official client


def plan_dandi(
    request: DandiRequest,
    raw: Path,
    *,
    api_url: str | None = None,
    selection: Selection = EVERYTHING,
    session_of: Callable[[str], str] = plain_session,
    policy: str = "skip",
    jobs: int = JOBS,
) -> Plan:
    """What a request means in files and bytes. Reads files and asks the archive; writes nothing.

    Args:
        request: from :func:`spiketok.sources.catalogue.resolve`.
        raw: the folder of source files.
        api_url: the base address of the archive's API, as ``https://api.dandiarchive.org/api`` (the default).
        selection: which of its assets. session_of: the session that an asset's path belongs to, for the limits.
        policy: ``refresh`` asks the archive for its list even where the list of an earlier run would do.
        jobs: requests for metadata at a time.

    Raises:
        FetchError: the archive cannot be reached, refuses, lacks the dandiset, or names hostile paths.
        UnknownNameError: no such version, asset or session.
    """
    check_policy(policy)
    check_jobs(jobs)
    archive = find_archive(request, api_url)
    kept = None if policy == "refresh" else kept_listing(request, Path(raw), archive)
    head = kept or _ask(request, Path(raw), archive)

    place = f"dandiset {head.dandiset}/{head.version}"
    judge_paths([asset.path for asset in head.listing], place)
    if not head.listing:
        message = f"{place} holds no NWB file: nothing to fetch"
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
    unknown = [asset for asset in chosen.assets if not (asset.sha256 or asset.etag)]
    known = ask_digests(archive, head, unknown, jobs) if unknown else {}
    listing = tuple(known.get(asset.path, asset) for asset in head.listing)

    staging = staging_folder(head.folder, Path(raw))
    wanted = [known.get(asset.path, asset) for asset in chosen.assets]
    with ThreadPoolExecutor(min(jobs, 4)) as pool:
        assets = tuple(pool.map(lambda asset: _with_state(asset, head.folder, staging), wanted))
    return replace(
        head,
        name=request.name,
        assets=assets,
        listing=_without_problems(listing),
        beyond=chosen.beyond,
        limits=chosen.limits,
    )


def _ask(request: DandiRequest, raw: Path, archive: Archive) -> Plan:
    """The archive's list; where it fails and no version was named, the versions that need no network are told."""
    try:
        return ask_listing(request, raw, archive)
    except FetchError as error:
        here = versions_here(request.dandiset, raw)
        if request.version is not None or not here:
            raise
        names = ", ".join(f"{request.dandiset}/{version}" for version in here)
        message = f"{error}; on this machine already: {names}"
        raise FetchError(message) from error


def _with_state(asset: Asset, folder: Path, staging: Path) -> Asset:
    """The asset with what is on this machine of it."""
    if (folder / asset.path).is_symlink() or (folder / asset.path).exists():
        _, fault = verify(folder / asset.path, asset)
        return replace(asset, state="differs" if fault else "here")
    name = staged_name(asset.path)
    for part in (staging / name, staging / f"{name}.dandidownload" / "file"):
        if part.is_file() and part.stat().st_size:
            return replace(asset, state="partial", partial_bytes=part.stat().st_size)
    return asset


def _without_problems(listing: Sequence[Asset]) -> tuple[Asset, ...]:
    """A listing as it is kept: what failed today is asked again tomorrow."""
    return tuple(replace(asset, problem="") if asset.problem else asset for asset in listing)
