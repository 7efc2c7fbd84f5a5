"""A DANDI archive on 127.0.0.1, as far as the official client needs one, with faults that can be switched on.

    with DandiServer({"sub-A/sub-A.nwb": b"..."}) as server:
        server.faults.cut["sub-A/sub-A.nwb"] = [100_000]   # the first download breaks after 100,000 bytes
        ... --api-url server.api_url ...
        server.blob_bytes                                   # what really went over the wire

Shapes as dandi-archive's own (info, dandiset, versions, version metadata, asset pages, asset metadata, download -> 302
-> blob with Range). Digests are computed here and not by the client's code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

DATE = "2022-01-13T04:08:00.000000Z"
ETAG_PART = 64 * 2**20


@dataclass
class Faults:
    """Keys are asset paths; a list is used up, one entry a request."""

    cut: dict[str, list[int]] = field(default_factory=dict)  # send so many bytes of the body, then close
    stall: dict[str, int] = field(default_factory=dict)  # send so many bytes, the rest after `release.set()`
    blob_status: dict[str, list[tuple[int, dict]]] = field(default_factory=dict)  # answers before the blob
    corrupt: dict[str, int] = field(default_factory=dict)  # so many bodies with one wrong byte
    metadata_status: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)  # another size in the list
    digest: dict[str, dict] = field(default_factory=dict)  # other digests in the metadata
    vanished: set[str] = field(default_factory=set)  # 404 for the blob
    trickle: dict[str, tuple[int, float]] = field(default_factory=dict)  # from this byte on one every so many seconds
    expire_after: int | None = None  # a signed address serves so many requests, then 403
    wrong_range: bool = False  # 206 with other bytes than were asked for
    ignore_range: bool = False
    api_status: list[int] = field(default_factory=list)  # answers to the next API requests
    api_stall: bool = False
    api_trickle_s: float = 0.0  # API answers come byte by byte, with such pauses
    hang: dict[str, int] = field(default_factory=dict)  # by a part of the path: so many requests have no answer
    html: bool = False
    token: str = ""  # embargoed: only with this token
    info: dict = field(default_factory=dict)  # other values in /info/


class DandiServer:
    """One dandiset with one published version and a draft of the same assets."""

    def __init__(
        self, assets: dict[str, bytes], dandiset: str = "000140", version: str = "0.220113.0408", port: int = 0
    ) -> None:
        self.port = port  # 0: any that is free
        self.assets, self.dandiset, self.version = dict(assets), dandiset, version
        self.zarrs: list[str] = []
        self.plain: dict[str, bytes] = {}  # other addresses, as "/files/a.nwb"
        self.validators: dict[str, tuple[str, str]] = {}  # of such an address: ("ETag", its text); it then has ranges
        self.heeds_if_range = True
        self.license = ["spdx:CC-BY-4.0"]
        self.citation = f"Nobody (2022) A test (Version {version}) [Data set]. DANDI archive."
        self.page_size = 100
        self.faults = Faults()
        self.requests: list[tuple[str, str | None]] = []  # path with query, Range
        self.blob_bytes = 0
        self.blob_tokens: set[str | None] = set()  # what stood in the Authorization of requests for blobs
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._signed = 0
        self.dead = False
        self._served: dict[str, int] = {}

    def __enter__(self) -> DandiServer:
        handler = type("Handler", (_Handler,), {"archive": self})
        self._http = _Server(("127.0.0.1", self.port), handler)
        self.port = self._http.server_address[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def die(self) -> None:
        """Vanish in the middle of everything: open connections end, new ones are refused."""
        self.dead = True
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._http.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.release.set()

    def __exit__(self, *exc_info: object) -> None:
        if self.dead:
            self._thread.join()
            return
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        assert not self._http.errors, self._http.errors  # the imitation itself must not fail

    @property
    def api_url(self) -> str:
        return self.root + "/api"

    def forget(self) -> None:
        """Count from zero."""
        self.requests, self.blob_bytes = [], 0

    @property
    def blob_requests(self) -> list[tuple[str, str | None]]:
        return [request for request in self.requests if request[0].startswith("/blobs/")]

    # what the archive says

    def asset_id(self, path: str) -> str:
        return str(uuid.UUID(bytes=hashlib.md5(path.encode("utf-8", "surrogatepass")).digest()))

    def path_of(self, asset_id: str) -> str | None:
        return next((path for path in self.assets if self.asset_id(path) == asset_id), None)

    def version_record(self, version: str) -> dict:
        size = sum(map(len, self.assets.values()))
        return {
            "version": version, "name": "A test", "asset_count": len(self.assets), "size": size,
            "status": "Valid", "created": DATE, "modified": DATE,
        }  # fmt: skip

    def dandiset_record(self) -> dict:
        return {
            "identifier": self.dandiset, "created": DATE, "modified": DATE, "contact_person": "Nobody",
            "embargo_status": "EMBARGOED" if self.faults.token else "OPEN",
            "most_recent_published_version": self.version_record(self.version),
            "draft_version": self.version_record("draft"),
        }  # fmt: skip

    def version_metadata(self, version: str) -> dict:
        return {
            "id": f"DANDI:{self.dandiset}/{version}", "name": "A test", "license": self.license,
            "citation": self.citation, "schemaKey": "Dandiset",
        }  # fmt: skip

    def asset_records(self) -> list[dict]:
        blobs = [
            {
                "asset_id": self.asset_id(path), "blob": self.asset_id(path), "zarr": None, "path": path,
                "size": self.faults.size.get(path, len(body)), "created": DATE, "modified": DATE,
            }
            for path, body in self.assets.items()
        ]  # fmt: skip
        zarrs = [
            {
                "asset_id": self.asset_id(path), "blob": None, "zarr": self.asset_id(path), "path": path,
                "size": 10, "created": DATE, "modified": DATE,
            }
            for path in self.zarrs
        ]  # fmt: skip
        return blobs + zarrs

    def asset_metadata(self, path: str) -> dict:
        body = self.assets[path]
        parts = [body[i : i + ETAG_PART] for i in range(0, len(body), ETAG_PART)] or [b""]
        etag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
        digest = {"dandi:dandi-etag": f"{etag}-{len(parts)}", "dandi:sha2-256": hashlib.sha256(body).hexdigest()}
        return {"path": path, "digest": self.faults.digest.get(path, digest), "blobDateModified": DATE}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.errors: list[BaseException] = []
        self.connections: list[socket.socket] = []

    def process_request(self, request: socket.socket, address: object) -> None:
        self.connections.append(request)
        super().process_request(request, address)

    def handle_error(self, request: object, address: object) -> None:
        self.errors.append(sys.exception())


class _Handler(BaseHTTPRequestHandler):
    archive: DandiServer

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        archive, faults = self.archive, self.archive.faults
        with archive._lock:
            archive.requests.append((self.path, self.headers.get("Range")))
            hung = next((part for part, left in faults.hang.items() if part in self.path and left > 0), None)
            if hung is not None:
                faults.hang[hung] -= 1
        try:
            if hung is not None:
                archive.release.wait(30)
                self.close_connection = True
            elif self.path.startswith("/blobs/"):
                archive.blob_tokens.add(self.headers.get("Authorization"))
                self._blob(archive.path_of(self.path.split("/")[2].split("?")[0]))
            elif self.path in archive.plain:
                validator, asked = archive.validators.get(self.path), self.headers.get("If-Range")
                ranged = validator and (asked in (None, validator[1]) or not archive.heeds_if_range)
                wanted = self.headers.get("Range") if ranged else None
                self._body(archive.plain[self.path], self.path, wanted, [validator] if validator else [])
            elif self.path.startswith("/api/"):
                with archive._lock:
                    status = faults.api_status.pop(0) if faults.api_status else None
                if faults.api_stall:
                    archive.release.wait(30)
                elif status:
                    self._json({"detail": "busy"}, status, {"Retry-After": "0"})
                elif faults.html:
                    self._send(b"<!DOCTYPE html><title>Sign in</title>", 200, {"Content-Type": "text/html"})
                else:
                    self._api(urlsplit(self.path).path.removeprefix("/api"), parse_qs(urlsplit(self.path).query))
            else:
                self._json({"detail": "Not found."}, 404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away, as it may

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        archive, faults = self.archive, self.archive.faults
        allowed = not faults.token or self.headers.get("Authorization") == f"token {faults.token}"
        parts = path.strip("/").split("/")
        if path == "/info/":
            urls = {"api": {"url": archive.api_url}, "webui": {"url": archive.root}}
            info = {"version": "0.3.0", "schema_version": "0.6.0", "services": urls}
            self._json({**info, "cli-minimal-version": "0.60.0", "cli-bad-versions": [], **faults.info})
        elif path == "/auth/token/" or path == "/auth/token":
            self._json({"token": "x"}, 200 if allowed else 401)
        elif parts[0] == "assets" and parts[2:] == ["download"] and allowed:
            self._download(archive.path_of(parts[1]))
        elif not allowed:
            self._json({"detail": "Authentication credentials were not provided."}, 401)
        elif parts[:2] != ["dandisets", archive.dandiset]:
            self._json({"detail": "Not found."}, 404)
        elif len(parts) == 2:
            self._json(archive.dandiset_record())
        elif parts[2:] == ["versions"]:
            results = [archive.version_record(v) for v in (archive.version, "draft")]
            self._json({"count": 2, "next": None, "previous": None, "results": results})
        elif parts[3] not in (archive.version, "draft"):
            self._json({"detail": "Not found."}, 404)
        elif len(parts) == 4:
            self._json(archive.version_metadata(parts[3]))
        elif parts[4:] == ["assets"]:
            self._pages(path, query)
        elif parts[4] == "assets" and len(parts) == 6:
            asset = archive.path_of(parts[5])
            status = 404 if asset is None else faults.metadata_status.get(asset, 200)
            self._json(archive.asset_metadata(asset) if status == 200 else {"detail": "refused"}, status)
        else:
            self._json({"detail": "Not found."}, 404)

    def _pages(self, path: str, query: dict[str, list[str]]) -> None:
        archive = self.archive
        records = archive.asset_records()
        if query.get("order") == ["path"]:
            records.sort(key=lambda record: record["path"])
        page, size = int(query.get("page", ["1"])[0]), int(query.get("page_size", [archive.page_size])[0])
        more = page * size < len(records)
        rest = "&".join(f"{key}={value[0]}" for key, value in query.items() if key != "page")
        following = f"{archive.api_url}{path}?{rest + '&' if rest else ''}page={page + 1}" if more else None
        count = len(records) if page == 1 else None
        self._json({"count": count, "next": following, "results": records[(page - 1) * size : page * size]})

    def _download(self, path: str | None) -> None:
        if path is None:
            self._json({"detail": "Not found."}, 404)
        else:
            with self.archive._lock:
                self.archive._signed += 1
                sign = f"secret{self.archive._signed}"
            address = f"{self.archive.root}/blobs/{self.archive.asset_id(path)}?signature={sign}"
            self._send(b"", 302, {"Location": address})

    def _blob(self, path: str | None) -> None:
        faults = self.archive.faults
        if path is None or path in faults.vanished:
            self._send(b"<Error>NoSuchKey</Error>", 404)
            return
        with self.archive._lock:
            answer = faults.blob_status[path].pop(0) if faults.blob_status.get(path) else None
            self.archive._served[self.path] = self.archive._served.get(self.path, 0) + 1
            if faults.expire_after is not None and self.archive._served[self.path] > faults.expire_after:
                answer = (403, {})
        if answer:
            self._send(b"busy", *answer)
            return
        body = self.archive.assets[path]
        with self.archive._lock:
            wrong = faults.corrupt.get(path, 0) > 0
            faults.corrupt[path] = faults.corrupt.get(path, 0) - 1
        if wrong:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self._body(body, path, self.headers.get("Range"))

    def _body(self, body: bytes, path: str, wanted: str | None, headers: Sequence[tuple[str, str]] = ()) -> None:
        """A file, or its end, with the faults of its path."""
        faults, start, end = self.archive.faults, 0, len(body)
        ranged = bool(wanted) and not faults.ignore_range
        if ranged:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(body), len(body))
            if start >= len(body):
                self._send(b"", 416, {"Content-Range": f"bytes */{len(body)}"})
                return
        shift = 1 if faults.wrong_range and start else 0
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start - shift}-{end - 1 - shift}/{len(body)}")
        for header in headers:
            self.send_header(*header)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        with self.archive._lock:
            cut = faults.cut[path].pop(0) if faults.cut.get(path) else None
            stall, trickle = faults.stall.get(path), faults.trickle.get(path)
        ends = [start + part for part in (cut, stall) if part is not None] + ([trickle[0]] if trickle else [])
        stop = max(start, min([end, *ends]))
        self._write(body[start - shift : stop - shift])
        if stall is not None:
            self.archive.release.wait(30)
            self._write(body[stop:end])
        elif trickle is not None:
            while stop < end and not self.archive.release.wait(trickle[1]):
                self._write(body[stop : stop + 1])
                stop += 1
        self.close_connection = True

    def _write(self, body: bytes) -> None:
        for at in range(0, len(body), 65536):
            piece = body[at : at + 65536]
            self.wfile.write(piece)
            with self.archive._lock:
                self.archive.blob_bytes += len(piece)
        self.wfile.flush()

    def _json(self, value: object, status: int = 200, headers: dict | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, body: bytes, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        pause_s = self.archive.faults.api_trickle_s if self.path.startswith("/api/") else 0.0
        if not pause_s:
            self.wfile.write(body)
            return
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            if self.archive.release.wait(pause_s):
                return
