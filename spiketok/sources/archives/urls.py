"""Plain addresses of NWB files (a file of an institute's web server, a list of them).

A web server announces no digest, so the first download is trusted if it is whole and HDF5; its sha256 is recorded and
binds every later run.

    <raw>/url/<name>        the name is the last part of the address
    <raw>/url/urls.json     address, size and sha256 of each
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py

from spiketok.errors import FetchError
from spiketok.recording.nouns import Source
from spiketok.sources.archives import ranged
from spiketok.sources.archives.base import Archive, Bring, Found
from spiketok.sources.archives.kept import Shape, entries
from spiketok.sources.archives.plans import Asset, Plan, Request
from spiketok.sources.archives.web import Trace
from spiketok.storage.files import sha256_file
from spiketok.storage.remote import RemotePath

HOST = "url"


@dataclass(frozen=True)
class UrlRequest(Request):
    """NWB files by their addresses."""

    host = HOST

    urls: tuple[str, ...]
    include: tuple[str, ...] = field(default=("*",), kw_only=True)


class Urls(Archive):
    """See the module."""

    host = HOST
    announces = False
    shape = Shape("urls.json", (), ("url",), "files", advice="remove it and the files beside it, and fetch them again")

    def request(self, name: str) -> UrlRequest | None:
        return UrlRequest(public_url(name), (name,)) if re.match(r"https?://", name, re.IGNORECASE) else None

    def place(self, plan: Plan) -> str:
        return plan.name

    def ask(self, request: UrlRequest, raw: Path, api_url: str | None) -> Plan:
        folder = raw / HOST
        sizes = {name: entry["size"] for name, entry in entries(folder, self.shape).items()}
        named = sorted((_name(url), url) for url in request.urls)
        listing = tuple(Asset(name, sizes.get(name), url=url) for name, url in named)
        return Plan(HOST, request.name, folder, listing=listing)

    def remembered(self, asset: Asset, file: Path, entry: Mapping) -> Asset:
        if entry["url"] != public_url(asset.url):
            message = (
                f"{public_url(asset.url)} would become {asset.path}, which was fetched from {entry['url']}: "
                f"rename or remove {file}"
            )
            raise FetchError(message)
        return replace(asset, sha256=entry["sha256"])

    def connect(self, plan: Plan, trace: Trace, stop: threading.Event) -> AbstractContextManager[Bring]:
        return ranged.by_ranges(trace, stop)

    def discard(self, part: Path) -> None:
        ranged.discard(part)

    def verify(self, file: Path, asset: Asset) -> tuple[str, str]:
        if asset.sha256:
            sha256, fault = super().verify(file, asset)
            told = f"other bytes than in an earlier run (sha256 was {asset.sha256[:12]}...): -e overwrite takes them"
            return sha256, told if fault else ""
        if not file.is_file():
            return "", "nothing came"
        return ("", f"{_start(file)} is no NWB (HDF5) file") if not h5py.is_hdf5(file) else (sha256_file(file), "")

    def entry(self, asset: Asset) -> dict[str, str]:
        return {"url": public_url(asset.url)}

    def owns(self, folder: Path | RemotePath) -> bool:
        return folder.name == HOST

    def folders(self, request: UrlRequest, raw: Path) -> list[Plan]:
        return [Plan(HOST, request.name, raw / HOST)]

    def recorded(self, request: UrlRequest, folder: Path) -> dict[str, dict]:
        asked = {public_url(url) for url in request.urls}
        return {path: entry for path, entry in entries(folder, self.shape).items() if entry["url"] in asked}

    def source(self, found: Found) -> Source:
        return replace(super().source(found), citation=found.entry["url"])

    def word(self, found: Found) -> str:
        return found.entry["url"]


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
