"""From a plan to files: the official client brings the bytes, we give them their name once they are right."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spiketok.datasets.base import Asset, AssetResult, Plan, Progress, check_jobs, check_policy, decide
from spiketok.datasets.dandi.archive import Archive, connect, gave_up, one_line, reason
from spiketok.datasets.dandi.local import (
    discard,
    keep_listing,
    read_record,
    remove_empty,
    staged_name,
    staging_folder,
    verify,
    write_record,
)
from spiketok.datasets.dandi.plan import JOBS
from spiketok.errors import FetchError
from spiketok.files import clean_leftovers, human_bytes, sha256_file, sync

DOWNLOAD_ATTEMPTS = 2  # a file with wrong bytes is removed and fetched once more


def download_dandi(
    plan: Plan,
    raw: Path,
    *,
    jobs: int = JOBS,
    policy: str = "skip",
    progress: Progress | None = None,
) -> list[AssetResult]:
    """Fetch what a plan lacks; each file appears under its name only when whole and verified.

    Args:
        plan: from :func:`plan_dandi`. raw: the same folder.
        jobs: files at a time.
        policy: one of :data:`spiketok.datasets.base.POLICIES`.
        progress: told of bytes as they come.

    Returns:
        One result an asset, in the plan's order. A failure is that asset's alone; what came of it stays for the next
        run.

    Raises:
        FetchError: the archive cannot be reached, or the disk has no room for the plan.
        ArtefactError: the record of earlier downloads is damaged.
    """
    check_policy(policy)
    check_jobs(jobs)
    decisions = {asset.path: decide(asset, policy) for asset in plan.assets}
    wanted = [asset for asset in plan.assets if decisions[asset.path][0]]
    staging = staging_folder(plan.folder, Path(raw))
    _check_room(plan, wanted, Path(raw))
    read_record(plan.folder)  # a damaged one is told before the download, not after it
    plan.folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(plan.folder)
    if not plan.kept_list or wanted:
        keep_listing(plan)

    results: dict[str, AssetResult] = {}
    digests: dict[str, str] = {}
    for asset in plan.assets:
        fetch, fault = decisions[asset.path]
        if not fetch:
            file = plan.folder / asset.path
            results[asset.path] = AssetResult(
                asset.path, "failed" if fault else "skipped", None if fault else file, fault
            )
            if asset.state == "here":
                digests[asset.path] = asset.sha256 or sha256_file(file)
    try:
        if wanted:
            _fetch_all(plan, wanted, staging, jobs, progress, results, digests)
    finally:  # also when the user interrupts: what is here is recorded
        write_record(plan, digests)
        remove_empty(staging, Path(raw))
    return [results[asset.path] for asset in plan.assets]


def _check_room(plan: Plan, wanted: Sequence[Asset], raw: Path) -> None:
    """A full disk is known before the first byte."""
    needed = sum(max(asset.size - asset.partial_bytes, 0) for asset in wanted)
    place = next(folder for folder in (raw, *raw.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        message = (
            f"{plan.name} needs {human_bytes(needed)} more and the disk has {human_bytes(free)}: "
            "free some, or choose fewer files with --sessions"
        )
        raise FetchError(message)


def _fetch_all(
    plan: Plan,
    wanted: Sequence[Asset],
    staging: Path,
    jobs: int,
    progress: Progress | None,
    results: dict[str, AssetResult],
    digests: dict[str, str],
) -> None:
    """Fetch several assets at a time into ``results`` and ``digests``."""
    archive = Archive(plan.archive, plan.api_url)
    stop, lock = threading.Event(), threading.Lock()
    staging.mkdir(parents=True, exist_ok=True)

    def tell(asset: Asset, done: int) -> None:
        if progress is not None:
            with lock:
                progress(asset.path, min(done, asset.size), asset.size)

    def fetch(asset: Asset) -> None:
        result, digest = _fetch_one(client, archive, plan, asset, staging, partial(tell, asset), stop)
        results[asset.path] = result
        if digest:
            digests[asset.path] = digest

    with connect(archive, token=plan.needs_token) as client, ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(fetch, asset) for asset in wanted]:
                future.result()
        except BaseException:  # the user's interrupt, too: the others stop at their next bytes and keep them
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Damaged(Exception):
    """What came is not what was announced: remove it and fetch it once more."""


class _Stopped(Exception):
    """The user interrupted."""


def _fetch_one(
    client: Any,
    archive: Archive,
    plan: Plan,
    asset: Asset,
    staging: Path,
    tell: Callable[[int], None],
    stop: threading.Event,
) -> tuple[AssetResult, str]:
    """Fetch, verify and publish one asset; returns its result and its sha256 (empty if it failed)."""
    import requests

    part, final = staging / staged_name(asset.path), plan.folder / asset.path
    fault = ""
    for _ in range(DOWNLOAD_ATTEMPTS):
        try:
            digest, fault = verify(part, asset) if part.is_file() else ("", "not there")
            if fault:  # else an earlier run was killed between the last byte and the final name
                part.unlink(missing_ok=True)
                _stage(client, plan, asset, part, tell, stop)
                digest, fault = verify(part, asset)
            if not fault:
                final.parent.mkdir(parents=True, exist_ok=True)
                sync(part)
                os.replace(part, final)
                sync(final.parent)
                tell(asset.size)
                return AssetResult(asset.path, "fetched", final), digest
        except _Damaged as error:
            fault = one_line(error)
        except requests.RequestException as error:
            fault = f"{archive.host}: {reason(error)}"
            break
        except (FetchError, _Stopped, OSError) as error:
            fault = f"{archive.host}: {one_line(error)}"
            break
        except RuntimeError as error:
            if "lock" not in str(error):
                raise
            fault = "another run is fetching it now"
            break
        discard(part)
    return AssetResult(asset.path, "failed", None, fault), ""


@dataclass(frozen=True)
class _OneAsset:
    """Stands where the official ``Downloader`` takes a URL: hands it one known asset and our own connection."""

    client: Any
    asset: Any
    name: str

    @contextmanager
    def navigate(self, *, strict: bool = False, authenticate: bool | None = None) -> Iterator[tuple[Any, None, list]]:
        yield self.client, None, [self.asset]

    def get_asset_download_path(self, asset: Any, preserve_tree: bool) -> str:
        return self.name


def _stage(
    client: Any, plan: Plan, asset: Asset, part: Path, tell: Callable[[int], None], stop: threading.Event
) -> None:
    """Let the official client bring one asset to ``part``: it resumes from its own ``<part>.dandidownload``.

    Raises:
        _Damaged: bytes came and they are wrong. FetchError: the client gave up; the part stays.
    """
    import requests
    from dandi.dandiapi import RemoteAsset, RemoteDandiset
    from dandi.download import Downloader, DownloadExisting

    listed = {"asset_id": asset.asset_id, "path": asset.path, "size": asset.size, "blob": asset.asset_id}
    listed |= {"created": asset.modified, "modified": asset.modified}
    digests = {"dandi:dandi-etag": asset.etag} | ({"dandi:sha2-256": asset.sha256} if asset.sha256 else {})
    remote = RemoteAsset.from_data(
        RemoteDandiset(client, plan.dandiset, plan.version),
        listed,
        {"digest": digests, "blobDateModified": asset.modified},
    )
    downloader = Downloader(
        url=_OneAsset(client, remote, part.name),
        output_dir=part.parent,
        existing=DownloadExisting.OVERWRITE,
        get_metadata=False,
        get_assets=True,
        preserve_tree=False,
        jobs_per_zarr=None,
        on_error="raise",
    )
    try:
        for record in downloader.download_generator():
            if stop.is_set():
                message = "interrupted"
                raise _Stopped(message)
            if "done" in record:
                tell(record["done"])
            if record.get("status") == "error":
                message = record.get("message", "no reason given")
                if record.get("checksum") == "differs":
                    raise _Damaged(message)
                message = gave_up(message)
                raise FetchError(message)
    except requests.RequestException:  # some are ValueErrors, too
        raise
    except ValueError as error:  # the client's digest counts the bytes: more came than announced
        message = f"other bytes than announced ({one_line(error)})"
        raise _Damaged(message) from error
