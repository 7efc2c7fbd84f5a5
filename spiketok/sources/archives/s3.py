"""Public buckets of S3: their list and their files over https, without an account.

Objects are overwritten in place, so a list is asked for anew each time, and a file's record has its ETag: another ETag,
another file. The ETag of an object that was put in one piece is its MD5. That of one that was put in parts is made of
the parts' MD5s, and their size is not told: the sizes that common programs take are tried. Where none fits, the first
download is trusted if it is whole and HDF5; its sha256 is recorded and binds every later run.

    <raw>/s3/<bucket>/<key>            only whole files
    <raw>/s3/<bucket>/s3.json          what they are: size, ETag and sha256 of each

API: ListObjectsV2 (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

import h5py

from spiketok.errors import FetchError, UsageError
from spiketok.recording.nouns import Source
from spiketok.sources.archives import ranged
from spiketok.sources.archives.base import Archive, Bring, Found
from spiketok.sources.archives.kept import Shape
from spiketok.sources.archives.plans import Asset, Plan, Request
from spiketok.sources.archives.web import TooSlowError, Trace, one_line, printable, reason
from spiketok.storage.files import sha256_file
from spiketok.storage.remote import RemotePath

HOST = "s3"
PUBLIC = "https://{bucket}.s3.amazonaws.com"
MOST_PAGES = 10_000  # of a thousand objects each
_BUCKET = r"(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"
_FORM = re.compile(rf"s3:(?://)?{_BUCKET}(?:/(?P<path>.*))?")
_MD5 = re.compile(r"[0-9a-f]{32}")
_OF_PARTS = re.compile(r"[0-9a-f]{32}-(\d{1,5})")
MIB = 2**20
PART_BYTES = tuple(k * MIB for k in (8, 5, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024))


@dataclass(frozen=True)
class S3Request(Request):
    """Objects of a bucket: those that match the globs, or one, or a folder."""

    host = HOST

    bucket: str
    include: tuple[str, ...] = field(default=("*.nwb", "*.h5"), kw_only=True)

    @property
    def number(self) -> str:
        return self.bucket

    @property
    def prefix(self) -> str:
        """How all keys begin that can be meant."""
        heads = [re.split(r"[*?\[]", text)[0] for text in ((self.path,) if self.path is not None else self.include)]
        return "".join(c[0] for c in _while_equal(heads))


class S3(Archive):
    """See the module."""

    host = HOST
    announces = False
    shape = Shape("s3.json", head=("record",), each=("etag",))

    def request(self, name: str) -> S3Request | None:
        match = _FORM.fullmatch(name)
        return S3Request(name, match["bucket"], path=match["path"] or None) if match else None

    def place(self, plan: Plan) -> str:
        return f"s3://{plan.record}"

    def ask(self, request: S3Request, raw: Path, api_url: str | None) -> Plan:
        base = _base(request.bucket, api_url)
        with ranged.open_session(Trace()) as (session, _):
            listing = tuple(sorted(_objects(session, base, request), key=lambda asset: asset.path))
        if not listing:
            message = f"s3://{request.bucket} holds no file that begins with '{request.prefix}': nothing to fetch"
            raise FetchError(message)
        return replace(_head(request, raw), archive=HOST, api_url=api_url or "", listing=listing)

    def remembered(self, asset: Asset, file: Path, entry: Mapping) -> Asset:
        return replace(asset, sha256=entry["sha256"]) if entry["etag"] == asset.asset_id else asset

    def connect(self, plan: Plan, trace: Trace, stop: threading.Event) -> AbstractContextManager[Bring]:
        return ranged.by_ranges(trace, stop)

    def discard(self, part: Path) -> None:
        ranged.discard(part)

    def verify(self, file: Path, asset: Asset) -> tuple[str, str]:
        if asset.sha256 or asset.md5:
            return super().verify(file, asset)
        if not file.is_file():
            return "", "nothing came"
        if file.stat().st_size != asset.size:
            return "", f"{file.stat().st_size} bytes came, {asset.size} were announced"
        if not _has_etag(file, asset.asset_id) and not h5py.is_hdf5(file):
            return "", f"it has not the ETag {asset.asset_id}, as far as can be told, and is no HDF5 file"
        return sha256_file(file), ""

    def entry(self, asset: Asset) -> dict[str, str]:
        return {"etag": asset.asset_id}

    def owns(self, folder: Path | RemotePath) -> bool:
        return folder.parent.name == HOST

    def folders(self, request: S3Request, raw: Path) -> list[Plan]:
        return [_head(request, raw)]

    def source(self, found: Found) -> Source:
        """Its citation is its address, its version the ETag that it had."""
        return replace(super().source(found), citation=self.word(found), version=f"etag {found.entry['etag']}")

    def word(self, found: Found) -> str:
        return f"s3://{found.record['record']}/{found.path}"

    def number(self, found: Found) -> str:
        return found.record["record"]

    def plain_name(self, number: str) -> str:
        return number


def _while_equal(texts: list[str]) -> Iterator[tuple[str, ...]]:
    for letters in zip(*texts, strict=False):
        if len(set(letters)) > 1:
            return
        yield letters


def _head(request: S3Request, raw: Path) -> Plan:
    return Plan(HOST, request.name, raw / HOST / request.bucket, record=request.bucket)


def _base(bucket: str, api_url: str | None) -> str:
    """The address of a bucket: its own host, or a folder of another server."""
    if api_url is None:
        return PUBLIC.format(bucket=bucket)
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"--api-url {api_url!r} is not an http(s) address, such as {PUBLIC.format(bucket='BUCKET')}"
        raise UsageError(message)
    return f"{api_url.rstrip('/')}/{bucket}"


# ---- the list -------------------------------------------------------------------------------------------------------


def _objects(session: Any, base: str, request: S3Request) -> Iterator[Asset]:
    """Every object whose key begins as the request's, page by page."""
    token = ""
    for _ in range(MOST_PAGES):
        asked = {"list-type": "2", "prefix": request.prefix} | ({"continuation-token": token} if token else {})
        page = _page(session, f"{base}/?{urlencode(asked)}", request.bucket)
        try:
            for item in page.findall("{*}Contents"):
                yield from _asset(base, {child.tag.rpartition("}")[2]: child.text or "" for child in item})
        except (KeyError, ValueError) as error:
            message = f"s3://{request.bucket}: a list that is not S3's ({one_line(error)})"
            raise FetchError(message) from error
        token = page.findtext("{*}NextContinuationToken") or ""
        if page.findtext("{*}IsTruncated") != "true" or not token:
            return
    message = f"s3://{request.bucket} lists over {MOST_PAGES} thousand files: name a folder of it"
    raise FetchError(message)


def _asset(base: str, said: Mapping[str, str]) -> Iterator[Asset]:
    key, etag = said["Key"], said["ETag"].strip('"')
    if key.endswith("/"):  # what consoles put for a folder
        return
    known = bool(_MD5.fullmatch(etag) or _OF_PARTS.fullmatch(etag))
    yield Asset(
        key,
        int(said["Size"]),
        md5=etag if _MD5.fullmatch(etag) else "",
        asset_id=printable(etag),
        modified=printable(said.get("LastModified", "")),
        url=f"{base}/{quote(key)}",
        problem="" if known else "its ETag is none of S3's, so it could not be told from another",
    )


def _page(session: Any, url: str, bucket: str) -> ElementTree.Element:
    """A page of a list; busy servers are asked again."""
    import requests

    for attempt in range(1, ranged.ATTEMPTS + 1):
        try:
            answer = session.get(url)
            answer.raise_for_status()
            found = ElementTree.fromstring(answer.content)
            if found.tag.rpartition("}")[2] == "ListBucketResult":
                return found
            fault = "an answer that is no list"
        except TooSlowError as error:
            fault = str(error)
        except ElementTree.ParseError as error:
            fault = f"an answer that is no XML ({one_line(error)})"
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            if status in (401, 403, 404):
                message = f"s3://{bucket}: {reason(error)}: it is not there, or not open to everybody"
                raise FetchError(message) from error
            fault = reason(error)
            if attempt < ranged.ATTEMPTS and (status in ranged.RETRIED or status is None):
                ranged.pause(error.response, attempt)
                continue
        break
    message = f"s3://{bucket}: {fault}; check the connection or --api-url, then run the command again"
    raise FetchError(message)


# ---- digests --------------------------------------------------------------------------------------------------------


def _has_etag(file: Path, etag: str) -> bool:
    """Whether a file that was put in parts has this ETag, for any usual size of a part."""
    match = _OF_PARTS.fullmatch(etag)
    size = file.stat().st_size
    sizes = [part for part in PART_BYTES if match and -(-size // part) == int(match[1])]
    return any(_etag_of(file, part) == etag for part in sizes)


def _etag_of(file: Path, part_bytes: int) -> str:
    digests = []
    with open(file, "rb") as stream:
        while piece := stream.read(part_bytes):
            digests.append(hashlib.md5(piece, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
