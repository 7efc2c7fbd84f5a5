"""Plain addresses of NWB files (a file of an institute's web server, a list of them), fetched through pooch.

A web server announces no digest, so the first download is trusted if it is whole and HDF5; its sha256 is recorded and
binds every later run.

    <raw>/url/<name>        the name is the last part of the address
    <raw>/url/urls.json     address, size and sha256 of each
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py

from spiketok.errors import ArtefactError, FetchError, require
from spiketok.recording.nouns import Source
from spiketok.sources.archives.plans import (
    Asset,
    AssetResult,
    Plan,
    Progress,
    UrlRequest,
    check_jobs,
    check_policy,
    decide,
    judge_paths,
)
from spiketok.sources.archives.selection import EVERYTHING, Selection, choose
from spiketok.sources.archives.web import PIECE_BYTES, StoppedError, TooSlowError, Trace, Watch, in_threads
from spiketok.storage.files import WIP, clean_leftovers, fingerprint, read_json, sha256_file, sync, write_json
from spiketok.storage.remote import RemotePath

FOLDER = "url"
RECORD = "urls.json"
STAGING = ".staging"
TIMEOUT_S = (10.0, 30.0)
RETRIES = 2


def plan_urls(request: UrlRequest, raw: Path, *, selection: Selection = EVERYTHING, policy: str = "skip") -> Plan:
    """What a list of addresses means in files. Asks no server; writes nothing.

    Raises:
        FetchError: an address names no file, or two would be the same file here.
        UnknownNameError: a glob matches no file.
        ArtefactError: the record of earlier downloads is damaged.
    """
    check_policy(policy)
    folder = Path(raw) / FOLDER
    names = [_name(url) for url in request.urls]
    judge_paths(names, request.name)
    known = read_record(folder)
    listing = [
        Asset(name, known[name]["size"] if name in known else None, url=url)
        for name, url in sorted(zip(names, request.urls, strict=True))
    ]
    chosen = choose(listing, selection, request.name)
    assets = []
    for name, url in ((asset.path, asset.url) for asset in chosen.assets):
        entry = known.get(name, {})
        if entry and entry["url"] != public_url(url):
            message = (
                f"{public_url(url)} would become {name}, which was fetched from {entry['url']}: "
                f"rename or remove {folder / name}"
            )
            raise FetchError(message)
        assets.append(_asset(folder / name, url, entry))
    return Plan(name=request.name, folder=folder, assets=tuple(assets), beyond=chosen.beyond, limits=chosen.limits)


def _asset(file: Path, url: str, entry: dict) -> Asset:
    """One file as it is; without a record nothing vouches for a file that is there."""
    if not entry:
        there = file.exists() or file.is_symlink()
        return Asset(file.name, None, state="differs" if there else "missing", url=url)
    here = file.is_file() and file.stat().st_size == entry["size"] and sha256_file(file) == entry["sha256"]
    state = "here" if here else "differs" if file.exists() or file.is_symlink() else "missing"
    return Asset(file.name, entry["size"], sha256=entry["sha256"], state=state, url=url)


def download_urls(
    plan: Plan, raw: Path, *, jobs: int = 6, policy: str = "skip", progress: Progress | None = None
) -> list[AssetResult]:
    """Fetch what a plan lacks; as :func:`spiketok.sources.archives.dandi.download_dandi`, without resume."""
    check_policy(policy)
    check_jobs(jobs)
    results: dict[str, AssetResult] = {}
    wanted = []
    for asset in plan.assets:
        fetch, fault = decide(asset, policy)
        if fetch:
            wanted.append(asset)
        else:
            file = None if fault else plan.folder / asset.path
            results[asset.path] = AssetResult(asset.path, "failed" if fault else "skipped", file, fault)
    if wanted:
        staging = Path(raw) / STAGING / f"{WIP}{os.getpid()}-{FOLDER}"  # pooch cannot resume: nothing here outlives us
        clean_leftovers(staging.parent)
        staging.mkdir(parents=True, exist_ok=True)
        plan.folder.mkdir(parents=True, exist_ok=True)
        clean_leftovers(plan.folder)
        try:
            _fetch_all(plan.folder, staging, wanted, policy, jobs, progress, results)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return [results[asset.path] for asset in plan.assets]


def _fetch_all(
    folder: Path,
    staging: Path,
    wanted: Sequence[Asset],
    policy: str,
    jobs: int,
    progress: Progress | None,
    results: dict[str, AssetResult],
) -> None:
    stop, lock, trace = threading.Event(), threading.Lock(), Trace()

    def tell(name: str, done: int, total: int) -> None:
        if stop.is_set():
            message = "interrupted"
            raise StoppedError(message)
        if progress is not None:
            with lock:
                progress(name, done, total)

    def fetch(asset: Asset) -> None:
        # A file that was lost must come back as it was recorded; who replaces it takes what the server has now.
        expected = asset.sha256 if policy in ("error", "skip") else ""
        with trace.of_one() as tried:
            watch.done()
            bar = _Bar(lambda done, total: tell(asset.path, done, total), watch)
            digest, size, fault = _fetch_one(asset, expected, staging, folder, bar, [trace.answered, watch.answered])
        with lock:
            if fault:
                results[asset.path] = AssetResult(asset.path, "failed", None, fault, (*tried, fault))
            else:
                entry = {"url": public_url(asset.url), "size": size, "sha256": digest}
                write_json(folder / RECORD, {"files": {**read_record(folder), asset.path: entry}})
                results[asset.path] = AssetResult(asset.path, "fetched", folder / asset.path)

    with Watch() as watch:
        in_threads(fetch, wanted, jobs, stop)


def _fetch_one(
    asset: Asset, expected: str, staging: Path, folder: Path, bar: _Bar, hooks: Sequence[Callable]
) -> tuple[str, int, str]:
    """sha256, size and fault (empty if it is well) of one download; the file has its final name only if it is well.

    ``hooks`` are told of each answer.
    """
    pooch = require("pooch", "dandi", "downloading from plain addresses")
    import requests

    pooch.get_logger().setLevel("WARNING")  # else a line on stderr for each file
    part = staging / f"{fingerprint(asset.path)}.part"
    part.unlink(missing_ok=True)
    store = pooch.create(
        path=staging,
        base_url="",
        registry={part.name: expected or None},
        urls={part.name: asset.url},
        retry_if_failed=RETRIES,
    )
    host = urlsplit(asset.url).netloc.rpartition("@")[2]
    try:
        downloader = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=PIECE_BYTES, timeout=TIMEOUT_S, hooks={"response": list(hooks)}
        )
        store.fetch(part.name, downloader=downloader)
        size = part.stat().st_size
        if size < bar.total:  # an older urllib3 takes a cut body for the whole
            return "", 0, f"{host}: {size} bytes came, {bar.total} were announced"
        if not h5py.is_hdf5(part):
            return "", 0, f"{host}: {_start(part)} is no NWB (HDF5) file"
        digest = sha256_file(part)
        sync(part)
        os.replace(part, folder / asset.path)
        sync(folder)
    except requests.HTTPError as error:
        return "", 0, f"{host}: HTTP {error.response.status_code} {error.response.reason}"
    except TooSlowError as error:
        return "", 0, f"{host}: {error}"
    except requests.Timeout:
        return "", 0, f"{host}: no answer in time"
    except requests.ConnectionError:
        return "", 0, f"{host}: no connection, or one that broke"
    except requests.RequestException as error:
        return "", 0, f"{host}: the download broke ({type(error).__name__})"
    except ValueError:  # pooch's own digest check
        return (
            "",
            0,
            f"{host}: other bytes than in an earlier run (sha256 was {expected[:12]}...): -e overwrite takes them",
        )
    except OSError as error:
        return "", 0, f"{host}: {error.strerror or error}"
    finally:
        part.unlink(missing_ok=True)
    return digest, size, ""


class _Bar:
    """What pooch takes for a progress bar: passes the bytes on."""

    def __init__(self, tell: Callable[[int, int], None], watch: Watch) -> None:
        self.total, self.done, self._tell, self._watch = 0, 0, tell, watch

    def update(self, count: int) -> None:
        self._watch.moved()
        self.done += count  # pooch counts whole chunks, so the last one may be too long
        self._tell(min(self.done, self.total) if self.total else self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Nothing to close."""


def public_url(url: str) -> str:
    """The address without user, password, query and fragment: what may be written into records and messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _name(url: str) -> str:
    parts = urlsplit(url)
    name = unquote(parts.path).rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.hostname or not name.lower().endswith(".nwb"):
        message = (
            f"{public_url(url)} is not the http(s) address of a .nwb file; "
            "a dandiset is named by its number, as 'spiketok fetch 000140'"
        )
        raise FetchError(message)
    return name


def _start(file: Path) -> str:
    """The first bytes of a file, for a message."""
    with open(file, "rb") as stream:
        return repr(stream.read(24).decode("latin-1"))


def read_record(folder: Path | RemotePath) -> dict[str, dict]:
    """What was recorded in a folder, by name of the file.

    Raises:
        ArtefactError: the record is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return {}
    try:
        files = read_json(file)["files"]
        whole = all({"url", "size", "sha256"} <= entry.keys() for entry in files.values())
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        message = f"{file} is damaged: remove it and the files beside it, and fetch them again"
        raise ArtefactError(message)
    return files


def find_source(file: Path | RemotePath) -> Source | None:
    """What was recorded of a file; None for one that was not fetched from a plain address.

    Raises:
        ArtefactError: the record is damaged.
    """
    file = file.absolute()
    if file.parent.name != FOLDER:
        return None
    entry = read_record(file.parent).get(file.name)
    if entry is None:
        return None
    return Source(file=file.name, sha256=entry["sha256"], size=entry["size"], citation=entry["url"])
