"""From a plan to files: the official client brings the bytes, we give them their name once they are right."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spiketok.errors import FetchError
from spiketok.sources.archives.dandi.archive import Archive, connect, gave_up, listen
from spiketok.sources.archives.dandi.local import (
    discard,
    forget_listing,
    keep_listing,
    read_record,
    staged_name,
    staging_folder,
    verify,
    write_record,
)
from spiketok.sources.archives.dandi.plan import JOBS
from spiketok.sources.archives.plans import Asset, AssetResult, Plan, Progress, check_jobs, check_policy
from spiketok.sources.archives.web import (
    StoppedError,
    Trace,
    Watch,
    check_room,
    in_threads,
    one_line,
    reason,
    remove_empty,
    settle,
)
from spiketok.storage.files import clean_leftovers, sync

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
        policy: one of :data:`spiketok.sources.archives.plans.POLICIES`.
        progress: called with the bytes as they come.

    Returns:
        One result an asset, in the plan's order. A failure is that asset's alone; what came of it stays for the next
        run.

    Raises:
        FetchError: the disk has no room for the plan.
        ArtefactError: the record of earlier downloads is damaged.
    """
    check_policy(policy)
    check_jobs(jobs)
    wanted, results, digests = settle(plan, policy)
    staging = staging_folder(plan.folder, Path(raw))
    check_room(plan, wanted, Path(raw))
    read_record(plan.folder)  # a damaged one is told before the download, not after it
    plan.folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(plan.folder)
    if not plan.kept_list or wanted:
        keep_listing(plan)
    try:
        if wanted:
            _fetch_all(plan, wanted, staging, jobs, progress, results, digests)
    except FetchError as error:  # the archive cannot be reached: what is here is not lost for that
        for asset in wanted:
            results.setdefault(asset.path, AssetResult(asset.path, "failed", None, str(error)))
    finally:  # also when the user interrupts: what is here is recorded
        write_record(plan, digests)
        remove_empty(staging, Path(raw))
    return [results[asset.path] for asset in plan.assets]


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
    archive, trace = Archive(plan.archive, plan.api_url), Trace()
    stop, lock = threading.Event(), threading.Lock()
    staging.mkdir(parents=True, exist_ok=True)

    def tell(asset: Asset, done: int) -> None:
        if progress is not None:
            with lock:
                progress(asset.path, min(done, asset.size), asset.size)

    def fetch(asset: Asset) -> None:
        with trace.of_one() as tried:
            watch.done()
            job = _Job(client, archive, watch, plan, asset, staging / staged_name(asset.path), partial(tell, asset))
            digest, fault, doubted = _fetch_one(job, stop)
            if doubted:
                forget_listing(plan)
            if fault:
                trace.add(fault)
                results[asset.path] = AssetResult(asset.path, "failed", None, fault, tuple(tried))
                return
        digests[asset.path] = digest
        results[asset.path] = AssetResult(asset.path, "fetched", plan.folder / asset.path)

    with connect(archive, token=plan.needs_token, trace=trace, stop=stop) as (client, watch), listen(trace):
        in_threads(fetch, wanted, jobs, stop)


class _Damaged(Exception):
    """What came is not what was announced: remove it and fetch it once more."""


@dataclass(frozen=True)
class _Job:
    """One asset on its way: who brings it, where to, and who is told."""

    client: Any
    archive: Archive
    watch: Watch
    plan: Plan
    asset: Asset
    part: Path
    tell: Callable[[int], None]


def _fetch_one(job: _Job, stop: threading.Event) -> tuple[str, str, bool]:
    """Fetch, verify and publish one asset.

    Returns:
        its sha256, what went wrong (empty if it is well), and whether that may be the fault of what was announced.
    """
    import requests

    archive, asset, part, final = job.archive, job.asset, job.part, job.plan.folder / job.asset.path
    fault = ""
    for _ in range(DOWNLOAD_ATTEMPTS):
        try:
            digest, fault = verify(part, asset) if part.is_file() else ("", "not there")
            if fault:  # else an earlier run was killed between the last byte and the final name
                part.unlink(missing_ok=True)
                _stage(job, stop)
                digest, fault = verify(part, asset)
            if not fault:
                final.parent.mkdir(parents=True, exist_ok=True)
                sync(part)
                os.replace(part, final)
                sync(final.parent)
                job.tell(asset.size)
                return digest, "", False
        except _Damaged as error:
            fault = one_line(error)
        except requests.RequestException as error:
            return "", f"{archive.host}: {reason(error)}", False
        except (FetchError, StoppedError) as error:
            return "", f"{archive.host}: {one_line(error)}", False
        except OSError as error:  # of this machine's disk; what came stays for the next run
            fault = f"this machine's disk: {error.strerror or one_line(error)}; what came is kept for the next run"
            return "", fault, False
        except RuntimeError as error:
            if "lock" not in str(error):
                raise
            return "", "another run is fetching it now", False
        discard(part)
    return "", fault, True


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


def _stage(job: _Job, stop: threading.Event) -> None:
    """Let the official client bring one asset to its part: it resumes from its own ``<part>.dandidownload``.

    Raises:
        _Damaged: bytes came and they are wrong. FetchError: the client gave up, or the server is too slow; what came
            stays.
    """
    import requests
    from dandi.dandiapi import RemoteAsset, RemoteDandiset
    from dandi.download import Downloader, DownloadExisting

    client, plan, asset, part = job.client, job.plan, job.asset, job.part
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
                raise StoppedError(message)
            job.watch.moved()
            if "done" in record:
                job.tell(record["done"])
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
