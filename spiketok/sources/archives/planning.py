"""From a request to a plan: which files, how many bytes, under which licence, and what of it is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from spiketok.sources.archives.base import Archive
from spiketok.sources.archives.kept import entries, kept_listing, staging_of
from spiketok.sources.archives.plans import JOBS, Asset, Plan, Request, check_jobs, check_policy, judge_paths
from spiketok.sources.archives.selection import EVERYTHING, Selection, choose, plain_session
from spiketok.storage.causes import raise_cause

THREADS = 4  # hashing waits for the disk and leaves Python's lock


def plan_of(
    archive: Archive,
    request: Request,
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
        api_url: the base address of another server with the archive's API; None: the public one.
        selection: which of its files. session_of: the session that a file's path belongs to, for the limits.
        policy: ``refresh`` asks the archive for its list even where the list of an earlier run would do.
        jobs: requests for metadata at a time.

    Raises:
        FetchError: the archive cannot be reached, refuses, lacks what is asked for, or names hostile paths.
        UnknownNameError: no such version, file or session. ArtefactError: the record of earlier downloads is damaged.
    """
    check_policy(policy)
    check_jobs(jobs)
    raw = Path(raw)
    lasting = None if policy == "refresh" else archive.lasting(request, raw, api_url)
    kept = None if lasting is None else kept_listing(lasting)
    head = kept or archive.ask(request, raw, api_url)

    place = archive.place(head)
    judge_paths([asset.path for asset in head.listing], place)
    chosen = choose(
        head.listing,
        selection,
        place,
        include=request.include,
        exclude=request.exclude,
        path=request.path,
        session_of=session_of,
    )
    known = archive.announced(head, chosen.assets, jobs)
    staging, recorded = staging_of(head.folder, raw), entries(head.folder, archive.shape)

    def as_here(asset: Asset) -> Asset:
        return _with_state(archive, known.get(asset.path, asset), head.folder, staging, recorded.get(asset.path, {}))

    with ThreadPoolExecutor(min(jobs, THREADS)) as pool:
        assets = tuple(pool.map(as_here, chosen.assets))
    # what was asked for and failed today is asked again tomorrow
    listing = tuple(replace(known[a.path], problem="") if a.path in known else a for a in head.listing)
    return replace(head, assets=assets, listing=listing, beyond=chosen.beyond, limits=chosen.limits)


def _with_state(archive: Archive, asset: Asset, folder: Path, staging: Path, entry: Mapping) -> Asset:
    """The asset with what is on this machine of it; nothing vouches for a file without digest or record."""
    file = folder / asset.path
    asset = archive.remembered(asset, file, entry) if entry else asset
    if file.is_symlink() or file.exists():
        return replace(asset, state="here" if _is_good(archive, file, asset) else "differs")
    done = archive.part_bytes(archive.part(staging, asset))
    return replace(asset, state="partial", partial_bytes=done) if done else asset


def _is_good(archive: Archive, file: Path, asset: Asset) -> bool:
    if not (asset.sha256 or asset.etag or asset.md5):
        return False
    try:
        return not archive.verify(file, asset)[1]
    except IsADirectoryError:  # the download says that it cannot take its place
        return False
    except OSError as error:
        raise_cause(error, file)  # nobody knows whether it differs
        return False
