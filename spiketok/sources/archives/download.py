"""From a plan to files: the one loop of all archives. A file has its final name only when it is whole and verified.

Each file is locked (a second command waits for it, and takes what came), brought to its part (from where an earlier
attempt or run ended), verified, fetched once more where its bytes are wrong, synced, and renamed. One file's error is
that file's alone; what came of it stays for the next run.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spiketok.errors import BusyError, FetchError
from spiketok.sources.archives.base import Archive, Bring, DamagedError, Job
from spiketok.sources.archives.kept import (
    entries,
    forget_listing,
    keep_listing,
    read_record,
    staging_of,
    write_record,
)
from spiketok.sources.archives.plans import (
    JOBS,
    Asset,
    AssetResult,
    Plan,
    Progress,
    check_jobs,
    check_policy,
    decide,
)
from spiketok.sources.archives.web import StoppedError, Trace, one_line, reason
from spiketok.storage.causes import cause_of
from spiketok.storage.files import clean_leftovers, human_bytes, sha256_file, sync
from spiketok.storage.locks import beside, locked

ATTEMPTS = 2  # a file with wrong bytes is removed and fetched once more
KEPT = "; what came is kept for the next run"


def download_plan(
    archive: Archive,
    plan: Plan,
    raw: Path,
    *,
    jobs: int = JOBS,
    policy: str = "skip",
    progress: Progress | None = None,
) -> list[AssetResult]:
    """Fetch what a plan lacks; each file appears under its name only when whole and verified.

    Args:
        plan: from :func:`spiketok.sources.archives.planning.plan_of`. raw: the same folder.
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
    raw = Path(raw)
    wanted, results, digests = _settle(plan, policy)
    if not archive.announces and policy not in ("error", "skip"):  # a lost file must come back as it was recorded
        wanted = [replace(asset, sha256="", size=None) for asset in wanted]
    _check_room(plan, wanted, raw)
    read_record(plan.folder, archive.shape)  # a damaged one is told before the download, not after it
    plan.folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(plan.folder)
    if archive.keeps(plan) and (wanted or not plan.kept_list):
        keep_listing(plan)
    staging = staging_of(plan.folder, raw)
    try:
        if wanted:
            _fetch_all(archive, plan, wanted, staging, jobs, progress, results, digests)
    except FetchError as error:  # the archive cannot be reached: what is here is not lost for that
        for asset in wanted:
            results.setdefault(asset.path, AssetResult(asset.path, "failed", None, str(error)))
    finally:  # also when the user interrupts: what is here is recorded
        write_record(plan, archive.shape, digests, archive.entry)
        for folder in [*(staging.iterdir() if staging.is_dir() else ()), staging]:
            _remove_empty(folder, raw)
    return [results[asset.path] for asset in plan.assets]


def _fetch_all(
    archive: Archive,
    plan: Plan,
    wanted: Sequence[Asset],
    staging: Path,
    jobs: int,
    progress: Progress | None,
    results: dict[str, AssetResult],
    digests: dict[str, str],
) -> None:
    """Fetch several assets at a time into ``results`` and ``digests``."""
    stop, lock, trace = threading.Event(), threading.Lock(), Trace()

    def fetch(asset: Asset) -> None:
        def tell(done: int, total: int) -> None:
            if progress is not None:
                with lock:
                    progress(asset.path, min(done, total) if total else done, total)

        job = Job(asset, archive.part(staging, asset), tell, stop, trace)
        with trace.of_one() as tried:
            digest, fault = _fetch_one(archive, plan, job, bring)
            if fault:
                trace.add(fault)
                results[asset.path] = AssetResult(asset.path, "failed", None, fault, tuple(tried))
                return
        with lock:
            digests[asset.path] = digest
            results[asset.path] = AssetResult(asset.path, "fetched", plan.folder / asset.path)
            if not archive.announces:
                write_record(plan, archive.shape, {asset.path: digest}, archive.entry)

    with archive.connect(plan, trace, stop) as bring:
        _in_threads(fetch, wanted, jobs, stop)


def _fetch_one(archive: Archive, plan: Plan, job: Job, bring: Bring) -> tuple[str, str]:
    """Fetch, verify and publish one asset; its sha256, and what went wrong (empty if it is well)."""
    import requests

    asset, host = job.asset, urlsplit(job.asset.url or plan.api_url).netloc.rpartition("@")[2]
    try:
        with locked(beside(job.part), str(plan.folder / asset.path), wait=True, stop=job.stop) as free:
            if not free:
                digest = _brought_by_another(archive, plan, asset)
                if digest:
                    return digest, ""
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    bring(job)
                    digest, fault = archive.verify(job.part, asset)
                except DamagedError as error:
                    fault = one_line(error)
                if not fault:
                    _publish(archive, job, plan.folder / asset.path)
                    return digest, ""
                archive.discard(job.part)
                fault = f"{host}: {fault}"
                if attempt < ATTEMPTS:
                    job.trace.add(fault)
            forget_listing(plan)
            return "", fault
    except requests.RequestException as error:
        fault = f"{host}: {reason(error)}"
    except (FetchError, BusyError, StoppedError) as error:
        fault = f"{host}: {one_line(error)}"
    except OSError as error:
        fault = f"this machine's disk: {cause_of(error, plan.folder / asset.path) or one_line(error)}"
    return "", fault + (KEPT if archive.part_bytes(job.part) else "")


def _brought_by_another(archive: Archive, plan: Plan, asset: Asset) -> str:
    """The sha256 of a file that came while we waited for its lock; empty where none came, or none vouches for it."""
    if asset.state not in ("missing", "partial"):
        return ""  # it was there before, and the policy wants it anew
    file, entry = plan.folder / asset.path, entries(plan.folder, archive.shape).get(asset.path)
    if not file.is_file() or (not archive.announces and entry is None):
        return ""
    digest, fault = archive.verify(file, archive.remembered(asset, file, entry) if entry else asset)
    return "" if fault else digest


def _publish(archive: Archive, job: Job, final: Path) -> None:
    """Give a verified part its final name."""
    size = job.part.stat().st_size
    final.parent.mkdir(parents=True, exist_ok=True)
    sync(job.part)
    os.replace(job.part, final)
    sync(final.parent)
    archive.discard(job.part)
    job.tell(size, size)


# ---- before and after -----------------------------------------------------------------------------------------------


def _settle(plan: Plan, policy: str) -> tuple[list[Asset], dict[str, AssetResult], dict[str, str]]:
    """What a policy makes of a plan: the assets to fetch, the results of the others, the sha256 of the good ones."""
    wanted: list[Asset] = []
    results: dict[str, AssetResult] = {}
    digests: dict[str, str] = {}
    for asset in plan.assets:
        fetch, fault = decide(asset, policy)
        if fetch:
            wanted.append(asset)
            continue
        file = plan.folder / asset.path
        results[asset.path] = AssetResult(asset.path, "failed" if fault else "skipped", None if fault else file, fault)
        if asset.state == "here":
            digests[asset.path] = asset.sha256 or sha256_file(file)
    return wanted, results, digests


def _check_room(plan: Plan, wanted: Sequence[Asset], raw: Path) -> None:
    """A full disk is known before the first byte, as far as sizes are.

    Raises:
        FetchError: what is wanted does not fit.
    """
    needed = sum(max(asset.size - asset.partial_bytes, 0) for asset in wanted if asset.size is not None)
    place = next(folder for folder in (raw, *raw.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        message = (
            f"{plan.name} needs {human_bytes(needed)} more and the disk has {human_bytes(free)} ({place}): "
            "free some, or choose fewer files with --sessions or --max-bytes"
        )
        raise FetchError(message)


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove the folder and those above it, below ``top``, as far as they hold nothing."""
    with suppress(OSError):  # another command has just put something there, or removed it
        for one in (folder, *folder.parents):
            if one == top or not one.is_dir() or any(one.iterdir()):
                return
            one.rmdir()


def _in_threads(fetch: Callable[[Any], None], items: Sequence[Any], jobs: int, stop: threading.Event) -> None:
    """``fetch`` each item, ``jobs`` at a time; the user's interrupt sets ``stop``: all end at their next bytes."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(fetch, item) for item in items]:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
