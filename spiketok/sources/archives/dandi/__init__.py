"""DANDI archive: a dandiset's NWB files, brought by the official client.

Resume, retries and ranges are the client's (``dandi.download.Downloader``, driven one asset at a time). Added is what
it leaves open (measured with 0.81): it writes any path that a server names, waits without end for an API answer, asks
for a token on the terminal, stops all assets for one refused metadata request, and leaves a file with wrong bytes under
its final name. So API calls have a deadline, nothing prompts, and paths, digests and names are our own loop's.

    <raw>/<dandiset>/<version>/<asset path>      only whole, verified files
    <raw>/<dandiset>/<version>/dandiset.json     what they are: licence, citation, size and sha256 of each

``Downloader`` is not public API of the client, so it is used in one function (``client._stage``), and the tests run the
real client against a loopback archive.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from spiketok.errors import FetchError, UsageError
from spiketok.sources.archives.base import Archive, Bring, Found
from spiketok.sources.archives.dandi.api import (
    HOST,
    VERSION,
    DandiRequest,
    ask_digests,
    ask_listing,
    find_instance,
    head_of,
)
from spiketok.sources.archives.dandi.client import PARTS, by_client, staged_name
from spiketok.sources.archives.kept import LISTING, Shape
from spiketok.sources.archives.plans import Asset, Plan
from spiketok.sources.archives.web import Trace
from spiketok.storage.remote import RemotePath

_ID, _VERSION = r"(?P<id>[0-9]{6})", rf"(?P<version>{VERSION.pattern})"
_FORMS = (
    re.compile(rf"(?:DANDI:)?{_ID}(?:[/@]{_VERSION})?(?::(?P<path>.+))?", re.IGNORECASE),
    re.compile(rf"dandi://(?P<instance>[a-z-]+)/{_ID}(?:@{_VERSION})?(?:/(?P<path>.+)?)?", re.IGNORECASE),
    re.compile(rf"(?:https?://(?:dx\.)?doi\.org/|doi:)?10\.48324/dandi\.{_ID}(?:/{_VERSION})?", re.IGNORECASE),
)
_PAGE = re.compile(rf"/dandiset/{_ID}(?:/{_VERSION})?(?:/files)?/?")
_PAGES = {
    "dandiarchive.org": "dandi",
    "www.dandiarchive.org": "dandi",
    "gui.dandiarchive.org": "dandi",
    "sandbox.dandiarchive.org": "dandi-sandbox",
}


class Dandi(Archive):
    """See the module."""

    host = HOST
    shape = Shape("dandiset.json", head=("dandiset", "version", "license", "citation"))

    def request(self, name: str) -> DandiRequest | None:
        for form in _FORMS:
            match = form.fullmatch(name)
            if match:
                parts = match.groupdict()
                version = parts["version"].lower() if parts["version"] else None
                return DandiRequest(name, parts["id"], version, path=parts.get("path"), instance=parts.get("instance"))
        return _page(name) if re.match(r"https?://", name, re.IGNORECASE) else None

    def with_version(self, request: DandiRequest, version: str, *, pinned: bool) -> DandiRequest:
        if version != "latest" and not VERSION.fullmatch(version):
            message = f"--version {version}: must be latest, draft or a version such as 0.220113.0408"
            raise UsageError(message)
        wanted = None if version == "latest" else version
        if not pinned and request.version is not None and request.version != wanted:
            message = f"{request.name} names the version {request.version}, --version says {version}: give one"
            raise UsageError(message)
        return replace(request, version=wanted)

    def place(self, plan: Plan) -> str:
        return f"dandiset {plan.dandiset}/{plan.version}"

    def ask(self, request: DandiRequest, raw: Path, api_url: str | None) -> Plan:
        """Where it fails and no version was named, the versions that need no network are told."""
        try:
            plan = ask_listing(request, raw, find_instance(request, api_url))
        except FetchError as error:
            here = sorted(path.parent.name for path in (raw / request.dandiset).glob(f"*/{LISTING}"))
            if request.version is not None or not here:
                raise
            names = ", ".join(f"{request.dandiset}/{version}" for version in here)
            message = f"{error}; on this machine already: {names}"
            raise FetchError(message) from error
        if not plan.listing:
            message = f"{self.place(plan)} holds no NWB file: nothing to fetch"
            raise FetchError(message)
        return plan

    def lasting(self, request: DandiRequest, raw: Path, api_url: str | None) -> Plan | None:
        """Only a published version never changes."""
        instance = find_instance(request, api_url)
        return None if request.version in (None, "draft") else head_of(request, request.version, raw, instance)

    def keeps(self, plan: Plan) -> bool:
        """The lists of public, published versions."""
        return plan.version != "draft" and not plan.needs_token

    def announced(self, plan: Plan, assets: Sequence[Asset], jobs: int) -> dict[str, Asset]:
        unknown = [asset for asset in assets if not (asset.sha256 or asset.etag)]
        return ask_digests(plan, unknown, jobs) if unknown else {}

    def connect(self, plan: Plan, trace: Trace, stop: threading.Event) -> AbstractContextManager[Bring]:
        return by_client(plan, trace, stop)

    def part(self, staging: Path, asset: Asset) -> Path:
        return staging / staged_name(asset.path)

    def part_bytes(self, part: Path) -> int:
        for file in (part, part.with_name(part.name + PARTS) / "file"):
            if file.is_file() and file.stat().st_size:
                return file.stat().st_size
        return 0

    def discard(self, part: Path) -> None:
        part.unlink(missing_ok=True)
        shutil.rmtree(part.with_name(part.name + PARTS), ignore_errors=True)

    def entry(self, asset: Asset) -> dict[str, str]:
        return {}

    def owns(self, folder: Path | RemotePath) -> bool:
        return bool(VERSION.fullmatch(folder.name))

    def folders(self, request: DandiRequest, raw: Path) -> list[Plan]:
        """Of all versions that are here, where the request names none."""
        found = sorted((raw / request.dandiset).glob(request.version or "*"))
        return [Plan(HOST, request.name, f, dandiset=request.dandiset, version=f.name) for f in found]

    def word(self, found: Found) -> str:
        return f"{found.record['dandiset']}/{found.record['version']}:{found.path}"

    def number(self, found: Found) -> str:
        return found.record["dandiset"]

    def plain_name(self, number: str) -> str:
        return number


def _page(address: str) -> DandiRequest | None:
    """A dandiset's page in the archive's web interface, as a browser shows it."""
    parts = urlsplit(address.replace("/#/", "/", 1))
    instance = _PAGES.get(parts.hostname or "")
    match = _PAGE.fullmatch(parts.path) if instance else None
    if match is None:
        return None
    location = parse_qs(parts.query).get("location", [""])[0].strip("/")
    return DandiRequest(address, match["id"], match["version"], path=location or None, instance=instance)
