"""The archive's side: the official client with a deadline on every call, and what it says of a dandiset."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from spiketok.errors import FetchError, SpiketokError, UnknownNameError, UsageError, require
from spiketok.sources.archives.plans import Asset, Plan, Request
from spiketok.sources.archives.web import (
    PIECE_BYTES,
    TooSlowError,
    Trace,
    Watch,
    instrument,
    one_line,
    printable,
    reason,
)

HOST = "dandi"
CONNECT_ATTEMPTS = 3
CONNECT_PAUSE_S = 1.0

# The two public archives, so that a complete dataset is recognised without the client's import (about 1 s).
KNOWN_ARCHIVES = {
    "dandi": "https://api.dandiarchive.org/api",
    "dandi-sandbox": "https://api.sandbox.dandiarchive.org/api",
}

VERSION = re.compile(r"draft|[0-9]+\.[0-9]+\.[0-9]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ETAG = re.compile(r"[0-9a-f]{32}-[0-9]{1,5}")


@dataclass(frozen=True)
class DandiRequest(Request):
    """A dandiset, whole or in part.

    Args:
        dandiset: six digits.
        version: None is the most recent published one, else the draft.
        instance: the archive's name in the official client; None is the default one.
    """

    host = HOST

    dandiset: str
    version: str | None = None
    instance: str | None = None

    @property
    def number(self) -> str:
        return self.dandiset


@dataclass(frozen=True)
class Instance:
    """An archive of this kind: its name in the client (which names the token's variable) and its API's address."""

    name: str
    api: str

    @property
    def host(self) -> str:
        return urlsplit(self.api).netloc.rpartition("@")[2]

    @property
    def token_variable(self) -> str:
        return self.name.upper().replace("-", "_") + "_API_KEY"


def instance_of(plan: Plan) -> Instance:
    """Where a plan came from."""
    return Instance(plan.archive, plan.api_url)


def head_of(request: DandiRequest, version: str, raw: Path, instance: Instance) -> Plan:
    """The plan of a version, without list."""
    return Plan(
        HOST,
        request.name,
        raw / request.dandiset / version,
        dandiset=request.dandiset,
        version=version,
        archive=instance.name,
        api_url=instance.api,
    )


def find_instance(request: DandiRequest, api_url: str | None) -> Instance:
    """The archive that a request goes to; reads no more than the client's own table of archives."""
    if api_url is not None:
        parts = urlsplit(api_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = f"--api-url {api_url!r} is not an http(s) address, such as https://api.dandiarchive.org/api"
            raise UsageError(message)
        name = {api: known for known, api in KNOWN_ARCHIVES.items()}.get(api_url.rstrip("/"), "custom-dandi")
        return Instance(name, api_url.rstrip("/"))
    name = request.instance or os.environ.get("DANDI_INSTANCE") or "dandi"
    if name in KNOWN_ARCHIVES:
        return Instance(name, KNOWN_ARCHIVES[name])
    _, consts = client_modules()
    if name not in consts.known_instances:
        raise UnknownNameError("DANDI instance", name, consts.known_instances)
    return Instance(name, consts.known_instances[name].api.rstrip("/"))


def client_modules() -> tuple[ModuleType, ModuleType]:
    """The official client's ``dandiapi`` and ``consts``, told to be quiet before its first import."""
    os.environ["DANDI_NO_ET"] = "1"  # no telemetry call by each new client
    os.environ["DANDI_CACHE"] = "ignore"  # no cache of digests under the home folder
    # What a cut connection loses at most (8 MiB by default), and what the deadline on progress counts in.
    os.environ["DANDI_MAX_CHUNK_SIZE"] = str(min(_asked_chunk(), PIECE_BYTES))
    purpose = "downloading from the DANDI archive"
    consts = require("dandi.consts", "dandi", purpose)
    api = require("dandi.dandiapi", "dandi", purpose)
    log = logging.getLogger("dandi")
    if not any(isinstance(handler, logging.NullHandler) for handler in log.handlers):
        log.addHandler(logging.NullHandler())  # its messages reach the user through results, once
    return api, consts


def _asked_chunk() -> int:
    """The client's own setting, where somebody made it smaller."""
    asked = os.environ.get("DANDI_MAX_CHUNK_SIZE", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else PIECE_BYTES


@contextmanager
def connect(
    instance: Instance, token: bool = False, *, trace: Trace | None = None, stop: threading.Event | None = None
) -> Iterator[tuple[Any, Watch]]:
    """The official client on an archive that answered, with a deadline on every request, and the watch that sets it.

    Built from a ready ``DandiInstance``: an address alone would make the client ask for it without a deadline.
    """
    api, consts = client_modules()
    known = consts.DandiInstance(name=instance.name, gui=None, api=instance.api)
    with api.DandiAPIClient(dandi_instance=known) as client, Watch() as watch:
        instrument(client.session, watch, trace or Trace(), stop)
        _greet(client, instance)
        if token:
            _authenticate(client, instance)
        yield client, watch


def _no_answer(instance: Instance, error: Exception) -> str:
    return (
        f"the DANDI archive at {instance.host} does not answer ({reason(error)}): "
        "check the connection or --api-url, then run the command again"
    )


def _greet(client: Any, instance: Instance) -> None:
    """Ask the archive who it is: a dead address fails here, in seconds (the client would retry for a minute)."""
    import dandi
    import requests
    from packaging.version import InvalidVersion, Version

    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            answer = client.session.get(client.get_url("/info/"), headers={"accept": "application/json"})
            answer.raise_for_status()
            info = answer.json()
            break
        except TooSlowError as error:
            message = _no_answer(instance, error)
            raise FetchError(message) from error
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 503
            if attempt == CONNECT_ATTEMPTS or (status < 500 and status != 429) or isinstance(error, ValueError):
                message = _no_answer(instance, error)
                raise FetchError(message) from error
        time.sleep(CONNECT_PAUSE_S * attempt)
    try:
        least = Version(info.get("cli-minimal-version", "0"))
        bad = [Version(version) for version in info.get("cli-bad-versions", [])]
    except (AttributeError, TypeError, InvalidVersion) as error:
        message = f"{instance.host} does not describe itself as a DANDI archive: check --api-url"
        raise FetchError(message) from error
    ours = Version(dandi.__version__)
    if ours < least or ours in bad:
        message = (
            f"the DANDI archive at {instance.host} refuses client {ours} (at least {least}"
            f"{''.join(f', not {version}' for version in bad)}): pip install -U dandi"
        )
        raise FetchError(message)


def _authenticate(client: Any, instance: Instance) -> None:
    """Use the token in the environment; never asks for one, never says it."""
    import requests

    token = os.environ.get(instance.token_variable)
    if not token:
        message = f"{instance.host} asks for a token: set {instance.token_variable} to yours and run the command again"
        raise FetchError(message)
    try:
        client.authenticate(token)
    except TooSlowError as error:
        message = _no_answer(instance, error)
        raise FetchError(message) from None
    except (requests.RequestException, UnicodeError) as error:
        why = reason(error) if isinstance(error, requests.RequestException) else "not a token"
        message = f"{instance.host} does not accept the token in {instance.token_variable} ({why})"
        raise FetchError(message) from None  # the cause's text holds the request


@contextmanager
def _archive_errors(instance: Instance, what: str) -> Iterator[None]:
    """Turn what an API request can raise into one line."""
    import requests
    from dandi.exceptions import NotFoundError

    try:
        yield
    except TooSlowError as error:
        message = f"{instance.host}, {what}: {error}; run the command again"
        raise FetchError(message) from error
    except SpiketokError:
        raise
    except NotFoundError as error:
        message = f"{instance.host} has no {what}: check the number, or --api-url"
        raise FetchError(message) from error
    except requests.RequestException as error:
        message = f"{instance.host}, {what}: {reason(error)}; run the command again"
        raise FetchError(message) from error
    except (ValueError, TypeError, KeyError, AssertionError) as error:  # pydantic and the client's own checks
        message = f"{instance.host}, {what}: an answer that is not the DANDI API's ({one_line(error)})"
        raise FetchError(message) from error


def ask_listing(request: DandiRequest, raw: Path, instance: Instance) -> Plan:
    """The version and all its NWB assets, without digests, from the archive."""
    with connect(instance) as (client, _), _archive_errors(instance, f"dandiset {request.dandiset}"):
        needs_token = _open_dandiset(client, instance, request.dandiset)
        dandiset = client.get_dandiset(request.dandiset, request.version)
        version = dandiset.version_id
        if not VERSION.fullmatch(version):
            message = f"{instance.host} names the version {version!r} of dandiset {request.dandiset}: not a version"
            raise FetchError(message)
        metadata = _version_metadata(dandiset, request)
        found, left_out = [], []
        for asset in dandiset.get_assets(order="path"):
            kind = asset.asset_type.name
            if kind == "BLOB" and asset.path.lower().endswith(".nwb"):
                modified = asset.modified.isoformat()
                found.append(Asset(asset.path, asset.size, asset_id=asset.identifier, modified=modified))
            elif kind == "ZARR" and ".nwb" in asset.path.lower():
                left_out.append(f"{printable(asset.path)}: NWB as zarr is not fetched, ingest reads one that is here")
    licenses = metadata.get("license") or []
    return replace(
        head_of(request, version, raw, instance),
        title=printable(metadata.get("name") or ""),
        license=printable(
            ", ".join(str(x).removeprefix("spdx:") for x in ([licenses] if isinstance(licenses, str) else licenses))
        ),
        citation=printable(metadata.get("citation") or ""),
        left_out=tuple(left_out),
        needs_token=needs_token,
        listing=tuple(sorted(found, key=lambda asset: asset.path)),
    )


def _open_dandiset(client: Any, instance: Instance, dandiset: str) -> bool:
    """Make sure that the dandiset may be read; returns whether that takes the token."""
    status = _status(client, f"/dandisets/{dandiset}/")
    if status == 200:
        return False
    if status == 404:
        message = f"{instance.host} has no dandiset {dandiset}: check the number, or --api-url"
        raise FetchError(message)
    if not os.environ.get(instance.token_variable):
        message = (
            f"dandiset {dandiset} at {instance.host} is embargoed (HTTP {status}): "
            f"set {instance.token_variable} to a token that may read it"
        )
        raise FetchError(message)
    _authenticate(client, instance)
    status = _status(client, f"/dandisets/{dandiset}/")
    if status != 200:
        message = (
            f"dandiset {dandiset} at {instance.host} is embargoed (HTTP {status}): "
            f"the owner of the token in {instance.token_variable} may not read it"
        )
        raise FetchError(message)
    return True


def _status(client: Any, path: str) -> int:
    """200, or one of the refusals that say who may read; any other trouble is raised."""
    import requests

    try:
        client.get(path)
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403, 404):
            return error.response.status_code
        raise
    return 200


def _version_metadata(dandiset: Any, request: DandiRequest) -> dict:
    """The version's own metadata: licence, citation, name."""
    from dandi.exceptions import NotFoundError

    try:
        metadata = dandiset.get_raw_metadata()
    except NotFoundError:
        known = [version.identifier for version in dandiset.get_versions()]
        raise UnknownNameError("version", str(request.version), known, f"dandiset {request.dandiset}") from None
    if not isinstance(metadata, dict):
        message = "the metadata are no object"
        raise TypeError(message)
    return metadata


def ask_digests(head: Plan, assets: Sequence[Asset], jobs: int) -> dict[str, Asset]:
    """The assets with their digests, by path; one that is refused gets a ``problem`` and stops no other."""
    import requests
    from dandi.exceptions import NotFoundError

    def ask(asset: Asset) -> Asset:
        try:
            metadata = client.get(f"/dandisets/{head.dandiset}/versions/{head.version}/assets/{asset.asset_id}/")
        except (requests.RequestException, NotFoundError, TooSlowError) as error:
            why = "not found" if isinstance(error, NotFoundError) else reason(error)
            return replace(asset, problem=f"{instance.host} refuses its metadata ({why})")
        return _with_digests(asset, metadata)

    instance = instance_of(head)
    with connect(instance, token=head.needs_token) as (client, _), ThreadPoolExecutor(jobs) as pool:
        return {asset.path: asset for asset in pool.map(ask, assets)}


def _with_digests(asset: Asset, metadata: object) -> Asset:
    digests = metadata.get("digest") if isinstance(metadata, dict) else None
    if not isinstance(digests, dict):
        return replace(asset, problem="its metadata hold no digest, so that it could not be verified")
    sha256, etag = digests.get("dandi:sha2-256", ""), digests.get("dandi:dandi-etag", "")
    if not (isinstance(etag, str) and _ETAG.fullmatch(etag)):
        return replace(asset, problem="its metadata hold no dandi-etag, which the official client needs")
    if not (isinstance(sha256, str) and (sha256 == "" or _SHA256.fullmatch(sha256))):
        return replace(asset, problem="its metadata hold a sha2-256 that is none")
    try:
        modified = datetime.fromisoformat(metadata["blobDateModified"]).isoformat()
    except (KeyError, TypeError, ValueError):
        modified = asset.modified  # the client does so too: it only becomes the file's time stamp
    return replace(asset, sha256=sha256, etag=etag, modified=modified)


def gave_up(text: object) -> str:
    """Why the client gave up on a download, from its record's message: there the error is only text."""
    text = one_line(text)
    status = re.match(r"(\d{3}) (?:Client|Server) Error: (.*) for url: ", text)
    if status:
        return f"HTTP {status[1]} {status[2]}"
    if "timed out" in text:
        return "no answer in time"
    if re.search(r"Connection (broken|aborted)|Max retries exceeded|IncompleteRead", text):
        return "the connection broke again and again"
    return text


class _Ear(logging.Handler):
    """Passes on what the official client notes of its own retries, in the thread that downloads."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.DEBUG)
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        if "download failed" not in record.msg:
            return
        why = next((reason(word) for word in record.args if isinstance(word, Exception)), "")
        wait = f"; again in {record.args[-1]:.1f} s" if "will sleep" in record.msg else ""
        self._trace.add(f"{why}{wait}")


@contextmanager
def listen(trace: Trace) -> Iterator[None]:
    """Hear the client's log of retries into a trace, and nobody else: its debug lines hold signed addresses."""
    log, ear = logging.getLogger("dandi"), _Ear(trace)
    before = log.level, log.propagate
    log.addHandler(ear)
    log.propagate = False
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(ear)
        log.setLevel(before[0])
        log.propagate = before[1]
