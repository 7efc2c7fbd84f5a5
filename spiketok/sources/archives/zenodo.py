"""Records of Zenodo: their list from its REST API, the files from their addresses, each against the announced MD5.

A record is one version of the data and its files never change, so its list is kept and a complete record needs no
network. MD5 is what Zenodo has; our own sha256 is recorded beside it and binds the file from then on.

    <raw>/zenodo/<record>/<file>            only whole, verified files
    <raw>/zenodo/<record>/zenodo.json       what they are: licence, citation, DOI, size, md5 and sha256 of each

API: https://developers.zenodo.org (records), the answer's form as of InvenioRDM.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from spiketok.errors import FetchError, UsageError
from spiketok.sources.archives import ranged
from spiketok.sources.archives.base import Archive, Bring, Found
from spiketok.sources.archives.kept import Shape
from spiketok.sources.archives.plans import Asset, Plan, Request
from spiketok.sources.archives.web import TooSlowError, Trace, one_line, printable, reason, where
from spiketok.storage.remote import RemotePath

API = "https://zenodo.org/api"
HOST = "zenodo"
_MD5 = re.compile(r"[0-9a-f]{32}")
_RECORD = r"(?P<record>[0-9]{1,12})"
_FORMS = (
    re.compile(rf"zenodo:{_RECORD}(?::(?P<path>.+))?", re.IGNORECASE),
    re.compile(rf"(?:https?://(?:dx\.)?doi\.org/|doi:)?10\.5281/zenodo\.{_RECORD}", re.IGNORECASE),
    re.compile(
        rf"https?://(?:www\.)?zenodo\.org/records?/{_RECORD}(?:/files/(?P<quoted>[^?#]+))?/?(?:[?#].*)?", re.IGNORECASE
    ),
)


@dataclass(frozen=True)
class ZenodoRequest(Request):
    """A record of Zenodo, whole or in part.

    Args:
        record: its number. latest: not this version of the data, but the newest one.
    """

    host = HOST

    record: str
    latest: bool = False

    @property
    def number(self) -> str:
        return self.record


class Zenodo(Archive):
    """See the module."""

    host = HOST
    shape = Shape("zenodo.json", head=("record", "version", "license", "citation", "doi"), each=("md5",))

    def request(self, name: str) -> ZenodoRequest | None:
        for form in _FORMS:
            match = form.fullmatch(name)
            if match:
                parts = match.groupdict()
                path = parts.get("path") or (unquote(parts["quoted"]) if parts.get("quoted") else None)
                return ZenodoRequest(name, parts["record"].lstrip("0") or "0", path=path)
        return None

    def with_version(self, request: ZenodoRequest, version: str, *, pinned: bool) -> ZenodoRequest:
        if version != "latest":
            message = f"--version {version}: a Zenodo record is one version; name the record that is {version}"
            raise UsageError(message)
        return replace(request, latest=True)

    def place(self, plan: Plan) -> str:
        return f"Zenodo record {plan.record}"

    def ask(self, request: ZenodoRequest, raw: Path, api_url: str | None) -> Plan:
        api = _address_of(api_url)
        path = f"/records/{request.record}" + ("/versions/latest" if request.latest else "")
        with ranged.open_session(Trace()) as (session, _):
            found = _get_json(session, api + path, f"record {request.record}")
        try:
            plan = _plan_of(found, request, raw, api)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"{where(api)}, record {request.record}: an answer that is not Zenodo's ({one_line(error)})"
            raise FetchError(message) from error
        if not plan.listing:
            message = f"{self.place(plan)} holds no file: nothing to fetch"
            raise FetchError(message)
        return plan

    def lasting(self, request: ZenodoRequest, raw: Path, api_url: str | None) -> Plan | None:
        api = _address_of(api_url)
        return None if request.latest else _head(request.name, request.record, raw, api)

    def remembered(self, asset: Asset, file: Path, entry: Mapping) -> Asset:
        return replace(asset, sha256=entry["sha256"]) if entry["md5"] == asset.md5 else asset

    def connect(self, plan: Plan, trace: Trace, stop: threading.Event) -> AbstractContextManager[Bring]:
        return ranged.by_ranges(trace, stop)

    def entry(self, asset: Asset) -> dict[str, str]:
        return {"md5": asset.md5}

    def owns(self, folder: Path | RemotePath) -> bool:
        return folder.name.isdigit() and folder.parent.name == HOST

    def folders(self, request: ZenodoRequest, raw: Path) -> list[Plan]:
        return [_head(request.name, request.record, raw, "")]

    def word(self, found: Found) -> str:
        return f"zenodo:{found.record['record']}:{found.path}"

    def number(self, found: Found) -> str:
        return found.record["record"]

    def plain_name(self, number: str) -> str:
        return f"zenodo-{number}"


def _address_of(api_url: str | None) -> str:
    api = (api_url or API).rstrip("/")
    parts = urlsplit(api)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"--api-url {api_url!r} is not an http(s) address, such as {API}"
        raise UsageError(message)
    return api


def _head(name: str, record: str, raw: Path, api: str) -> Plan:
    return Plan(HOST, name, raw / HOST / record, record=record, archive=HOST, api_url=api)


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
    return replace(
        _head(request.name, record, raw, api),
        version=printable(metadata.get("version") or ""),
        title=printable(metadata.get("title") or ""),
        license=printable(licence if isinstance(licence, str) else licence.get("id") or ""),
        citation=_citation(metadata, doi),
        doi=doi,
        listing=tuple(sorted(listing, key=lambda asset: asset.path)),
    )


def _citation(metadata: dict, doi: str) -> str:
    """Creators, year, title, version and DOI in one line."""
    names = "; ".join(str(creator["name"]) for creator in metadata.get("creators") or [])
    year = str(metadata.get("publication_date") or "")[:4]
    version = f" (Version {metadata['version']})" if metadata.get("version") else ""
    parts = [names, f"({year})" if year else "", f"{metadata.get('title', '')}{version} [Data set]. Zenodo."]
    return printable(" ".join([*filter(None, parts), f"https://doi.org/{doi}" if doi else ""]))


def _get_json(session: Any, url: str, what: str) -> dict:
    """An object from the API; busy servers are asked again."""
    import requests

    host = where(url).partition("/")[0]
    for attempt in range(1, ranged.ATTEMPTS + 1):
        try:
            answer = session.get(url, headers={"Accept": "application/json"})
            answer.raise_for_status()
            found = answer.json()
            if isinstance(found, dict):
                return found
            fault = "an answer that is no object"
        except TooSlowError as error:
            fault = str(error)
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            if status == 404:
                message = f"{host} has no {what}: check the number, or --api-url"
                raise FetchError(message) from error
            if status in (401, 403, 410):
                message = f"{host}, {what}: {reason(error)}: it is restricted or was withdrawn, its page says why"
                raise FetchError(message) from error
            fault = reason(error)
            if attempt < ranged.ATTEMPTS and (
                status in ranged.RETRIED or (status is None and not isinstance(error, ValueError))
            ):
                ranged.pause(error.response, attempt)
                continue
        break
    message = f"{host}, {what}: {fault}; check the connection or --api-url, then run the command again"
    raise FetchError(message)
