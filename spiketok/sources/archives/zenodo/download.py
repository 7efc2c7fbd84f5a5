"""From a plan to files: each brought over as many connections as it takes, checked by pooch, then given its name."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spiketok.errors import require
from spiketok.sources.archives.plans import Asset, AssetResult, Plan, Progress, check_jobs, check_policy
from spiketok.sources.archives.web import (
    PIECE_BYTES,
    StoppedError,
    TooSlowError,
    Trace,
    Watch,
    check_room,
    in_threads,
    one_line,
    reason,
    remove_empty,
    settle,
    where,
)
from spiketok.sources.archives.zenodo.api import ATTEMPTS, RETRIED, open_session, pause
from spiketok.sources.archives.zenodo.local import (
    forget_listing,
    keep_listing,
    part_of,
    read_record,
    staging_of,
    write_record,
)
from spiketok.storage.files import clean_leftovers, sha256_file, sync


def download_zenodo(
    plan: Plan, raw: Path, *, jobs: int = 6, policy: str = "skip", progress: Progress | None = None
) -> list[AssetResult]:
    """Fetch what a plan lacks; each file appears under its name only when whole and verified.

    Args, results and errors as of :func:`spiketok.sources.archives.dandi.download_dandi`.
    """
    check_policy(policy)
    check_jobs(jobs)
    raw = Path(raw)
    wanted, results, digests = settle(plan, policy)
    check_room(plan, wanted, raw)
    read_record(plan.folder)  # a damaged one is told before the download, not after it
    plan.folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(plan.folder)
    if not plan.kept_list or wanted:
        keep_listing(plan)
    staging = staging_of(plan, raw)
    try:
        if wanted:
            _fetch_all(plan, wanted, staging, jobs, progress, results, digests)
    finally:  # also when the user interrupts: what is here is recorded
        write_record(plan, digests)
        remove_empty(staging, raw)
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
    stop, lock, trace = threading.Event(), threading.Lock(), Trace()

    def tell(asset: Asset, done: int) -> None:
        if progress is not None:
            with lock:
                progress(asset.path, min(done, asset.size), asset.size)

    def fetch(asset: Asset) -> None:
        with trace.of_one() as tried:
            watch.done()
            job = _Job(session, watch, trace, plan, asset, staging, partial(tell, asset), stop)
            digest, fault = _fetch_one(job)
            if fault:
                trace.add(fault)
                results[asset.path] = AssetResult(asset.path, "failed", None, fault, tuple(tried))
                return
        digests[asset.path] = digest
        results[asset.path] = AssetResult(asset.path, "fetched", plan.folder / asset.path)

    with open_session(trace, stop) as (session, watch):
        in_threads(fetch, wanted, jobs, stop)


@dataclass(frozen=True)
class _Job:
    """One file on its way: who brings it, where to, and who is told."""

    session: Any
    watch: Watch
    trace: Trace
    plan: Plan
    asset: Asset
    staging: Path
    tell: Callable[[int], None]
    stop: threading.Event

    @property
    def part(self) -> Path:
        return part_of(self.staging, self.asset)


def _fetch_one(job: _Job) -> tuple[str, str]:
    """Fetch, verify and publish one file; returns its sha256, and what went wrong (empty if it is well)."""
    pooch = require("pooch", "dandi", "downloading from Zenodo")
    fasteners = require("fasteners", "dandi", "downloading from Zenodo")
    import requests

    pooch.get_logger().setLevel("WARNING")  # else a line on stderr for each file
    asset, folder, final = job.asset, job.part.parent, job.plan.folder / job.asset.path
    host = where(asset.url).partition("/")[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = fasteners.InterProcessLock(str(folder / "lock"))
        if not lock.acquire(blocking=False):
            return "", "another run is fetching it now"
        try:
            for attempt in (1, 2):  # a file with wrong bytes is removed and fetched once more
                try:
                    whole = Path(
                        pooch.retrieve(
                            asset.url, f"md5:{asset.md5}", "whole", folder, downloader=partial(_bring_for_pooch, job)
                        )
                    )
                    break
                except ValueError as error:  # pooch's own digest check
                    if isinstance(error, requests.RequestException):
                        raise
                    job.part.unlink(missing_ok=True)
                    fault = f"{host}: other bytes came than announced (md5 is to be {asset.md5[:12]}...)"
                    job.trace.add(fault)
                    if attempt == 2:
                        forget_listing(job.plan)
                        return "", fault
            if whole.stat().st_size != asset.size:
                whole.unlink()
                job.part.unlink(missing_ok=True)
                forget_listing(job.plan)
                return "", f"{host}: its md5 is right and its size is not the {asset.size} bytes that are announced"
            digest = sha256_file(whole)
            final.parent.mkdir(parents=True, exist_ok=True)
            sync(whole)
            os.replace(whole, final)
            sync(final.parent)
            job.part.unlink(missing_ok=True)
            job.tell(asset.size)
            return digest, ""
        finally:
            if not job.part.exists():
                shutil.rmtree(folder)
            lock.release()
    except requests.RequestException as error:
        return "", f"{host}: {reason(error)}; what came is kept for the next run"
    except (StoppedError, TooSlowError) as error:
        return "", f"{host}: {error}; what came is kept for the next run"
    except OSError as error:
        return "", f"this machine's disk: {error.strerror or one_line(error)}; what came is kept for the next run"


def _bring_for_pooch(job: _Job, url: str, output: str, _: object, check_only: bool = False) -> None:
    """What pooch takes for a downloader: the file under the name that it gave, the part kept until it is verified."""
    _bring(job)
    os.unlink(output)
    try:
        os.link(job.part, output)
    except OSError:  # a file system without hard links: a kill before the digest is checked then costs the part
        os.replace(job.part, output)


def _bring(job: _Job) -> None:
    """Bring the missing end of a file to its part, over as many connections as it takes.

    Raises:
        requests.RequestException: ``ATTEMPTS`` connections in turn brought nothing; the part stays.
    """
    import requests

    fruitless = 0
    while (have := _size(job.part)) < job.asset.size:
        try:
            if _read_on(job, have):
                return
            error = requests.exceptions.ChunkedEncodingError("the connection broke")
        except requests.RequestException as failure:
            error = failure
            status = error.response.status_code if error.response is not None else None
            if status is not None and status not in RETRIED:
                raise
            if isinstance(error, ValueError) and not isinstance(error, requests.ConnectionError):
                raise  # an address that cannot be asked
        finally:
            job.watch.paused()
        fruitless = 0 if _size(job.part) > have else fruitless + 1
        job.trace.add(f"{reason(error)}; {_size(job.part)} of {job.asset.size} bytes are here")
        if fruitless == ATTEMPTS:
            raise error
        pause(error.response, max(fruitless, 1), job.stop.wait)


def _read_on(job: _Job, have: int) -> bool:
    """Read from byte ``have`` on, as far as one connection brings it; whether that is all that the server has."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    with job.session.get(job.asset.url, headers=headers, stream=True) as answer:
        if answer.status_code == 416:  # the server's file is shorter than announced: the digest will tell
            return True
        answer.raise_for_status()
        resumed = have and answer.status_code == 206 and _begins_at(answer, have)
        done = have if resumed else 0
        with open(job.part, "ab" if resumed else "wb") as part:
            for piece in answer.iter_content(PIECE_BYTES):
                part.write(piece)
                done += len(piece)
                job.watch.moved()
                job.tell(done)
                if job.stop.is_set():
                    message = "interrupted"
                    raise StoppedError(message)
                if done > job.asset.size:
                    return True  # more came than announced: the digest will tell
    return done >= job.asset.size


def _begins_at(answer: Any, have: int) -> bool:
    return bool(re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")))


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
