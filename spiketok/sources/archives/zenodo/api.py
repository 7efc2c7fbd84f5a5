"""Zenodo's side: requests with deadlines, and what a record says of itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spiketok.errors import FetchError, UsageError, require
from spiketok.sources.archives.plans import Asset, Plan, ZenodoRequest
from spiketok.sources.archives.web import Trace, Watch, instrument, one_line, printable, reason, wait_s, where
from spiketok.sources.archives.zenodo.local import FOLDER

API = "https://zenodo.org/api"
ATTEMPTS = 6  # connections for one file without a byte more
PAUSE_S = 2.0  # before the second one, twice as long before each further one
RETRIED = (429, 500, 502, 503, 504)
_MD5 = re.compile(r"[0-9a-f]{32}")


def address_of(api_url: str | None) -> str:
    api = (api_url or API).rstrip("/")
    parts = urlsplit(api)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"--api-url {api_url!r} is not an http(s) address, such as {API}"
        raise UsageError(message)
    return api


def ask_record(request: ZenodoRequest, raw: Path, api: str) -> Plan:
    """The record and all its files, from Zenodo."""
    path = f"/records/{request.record}" + ("/versions/latest" if request.latest else "")
    with open_session(Trace()) as (session, _):
        found = _get_json(session, api + path, f"record {request.record}")
    try:
        return _plan_of(found, request, raw, api)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{where(api)}, record {request.record}: an answer that is not Zenodo's ({one_line(error)})"
        raise FetchError(message) from error


def _plan_of(found: dict, request: ZenodoRequest, raw: Path, api: str) -> Plan:
    record, metadata = str(found["id"]), found["metadata"]
    if not re.fullmatch(r"[0-9]{1,12}", record) or (not request.latest and record != request.record):
        message = f"the record is {printable(record)!r}"
        raise ValueError(message)
    listing = []
    for entry in found.get("files") or []:
        kind, _, digest = str(entry["checksum"]).partition(":")
        problem = "" if kind == "md5" and _MD5.fullmatch(digest) else "no md5 is announced, so it could not be verified"
        url = entry["links"]["self"]
        if urlsplit(url).scheme not in ("http", "https"):
            problem = problem or "its address is not http(s)"
        size = int(entry["size"])
        listing.append(Asset(entry["key"], size, md5="" if problem else digest, url=url, problem=problem))
    licence = metadata.get("license") or {}
    doi = printable(found.get("doi") or metadata.get("doi") or "")
    return Plan(
        name=request.name,
        folder=raw / FOLDER / record,
        assets=(),
        record=record,
        version=printable(metadata.get("version") or ""),
        title=printable(metadata.get("title") or ""),
        license=printable(licence if isinstance(licence, str) else licence.get("id") or ""),
        citation=_citation(metadata, doi),
        doi=doi,
        archive="zenodo",
        api_url=api,
        listing=tuple(sorted(listing, key=lambda asset: asset.path)),
    )


def _citation(metadata: dict, doi: str) -> str:
    """Creators, year, title, version and DOI in one line."""
    names = "; ".join(str(creator["name"]) for creator in metadata.get("creators") or [])
    year = str(metadata.get("publication_date") or "")[:4]
    version = f" (Version {metadata['version']})" if metadata.get("version") else ""
    parts = [names, f"({year})" if year else "", f"{metadata.get('title', '')}{version} [Data set]. Zenodo."]
    return printable(" ".join([*filter(None, parts), f"https://doi.org/{doi}" if doi else ""]))


@contextmanager
def open_session(trace: Trace, stop: threading.Event | None = None) -> Iterator[tuple[Any, Watch]]:
    """A ``requests`` session with deadlines, and the watch that sets them."""
    requests = require("requests", "dandi", "downloading from Zenodo")
    with requests.Session() as session, Watch() as watch:
        instrument(session, watch, trace, stop)
        session.headers["Accept-Encoding"] = "identity"  # a part's size must count the file's bytes
        yield session, watch


def _get_json(session: Any, url: str, what: str) -> dict:
    """An object from the API; busy servers are asked again."""
    import requests

    host = where(url).partition("/")[0]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer = session.get(url, headers={"Accept": "application/json"})
            answer.raise_for_status()
            found = answer.json()
            if isinstance(found, dict):
                return found
            fault = "an answer that is no object"
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            if status == 404:
                message = f"{host} has no {what}: check the number, or --api-url"
                raise FetchError(message) from error
            if status in (401, 403, 410):
                message = f"{host}, {what}: {reason(error)}: it is restricted or was withdrawn, its page says why"
                raise FetchError(message) from error
            fault = reason(error)
            if attempt < ATTEMPTS and (status in RETRIED or (status is None and not isinstance(error, ValueError))):
                pause(error.response, attempt)
                continue
        break
    message = f"{host}, {what}: {fault}; check the connection or --api-url, then run the command again"
    raise FetchError(message)


def pause(response: Any, attempt: int, wait: Callable[[float], object] = time.sleep) -> None:
    """Wait as long as the server asks, else longer and longer."""
    asked = response.headers.get("Retry-After") if response is not None else None
    wait(wait_s(asked) if asked is not None else PAUSE_S * 2 ** (attempt - 1))
