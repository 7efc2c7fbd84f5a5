"""Zenodo on 127.0.0.1, as far as a download needs it, with faults that can be switched on.

    with ZenodoServer({"indy_20160407_02.mat": b"..."}) as server:
        server.cut["indy_20160407_02.mat"] = [100_000]     # the first download breaks after 100,000 bytes
        ... --api-url server.api_url ...

Shapes as InvenioRDM's own (record, files with key, size, checksum and links). Digests are computed here.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote


class ZenodoServer:
    """One record of some files."""

    def __init__(self, files: dict[str, bytes], record: str = "3854034") -> None:
        self.files, self.record, self.newest = dict(files), record, record
        self.cut: dict[str, list[int]] = {}  # send so many bytes of the body, then close; one entry a request
        self.status: dict[str, list[tuple[int, dict]]] = {}  # answers before the file ("" before the record)
        self.corrupt: dict[str, int] = {}  # so many bodies with one wrong byte
        self.stall: dict[str, int] = {}  # send so many bytes, the rest after `release.set()`
        self.said: dict[str, dict] = {}  # other facts of a file in the record
        self.hang: dict[str, int] = {}  # by a part of the path: so many requests have no answer
        self.ignore_range = False
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.file_bytes = 0
        self.release = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> ZenodoServer:
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"zenodo": self}))
        self.root = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.api_url = self.root + "/api"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        assert not self._http.errors, self._http.errors  # the imitation itself must not fail

    def forget(self) -> None:
        """Count from zero."""
        self.requests, self.file_bytes = [], 0

    @property
    def file_requests(self) -> list[tuple[str, str | None]]:
        return [request for request in self.requests if "/files/" in request[0]]

    def record_of(self, number: str) -> dict:
        files = [
            {
                "id": str(k), "key": key, "size": len(body), "checksum": f"md5:{hashlib.md5(body).hexdigest()}",
                "links": {"self": f"{self.api_url}/records/{number}/files/{quote(key)}/content"},
                **self.said.get(key, {}),
            }
            for k, (key, body) in enumerate(self.files.items())
        ]  # fmt: skip
        metadata = {
            "title": "Nonhuman Primate Reaching with Multichannel Sensorimotor Cortex Electrophysiology",
            "doi": f"10.5281/zenodo.{number}", "publication_date": "2020-05-26", "version": "2",
            "creators": [{"name": "O'Doherty, Joseph E."}, {"name": "Sabes, Philip N."}],
            "license": {"id": "cc-by-4.0"},
        }  # fmt: skip
        return {"id": int(number), "doi": f"10.5281/zenodo.{number}", "metadata": metadata, "files": files}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.errors: list[BaseException] = []

    def handle_error(self, request: object, address: object) -> None:
        self.errors.append(sys.exception())


class _Handler(BaseHTTPRequestHandler):
    zenodo: ZenodoServer

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        zenodo, wanted = self.zenodo, self.headers.get("Range")
        parts = [unquote(part) for part in self.path.strip("/").split("/")]
        with zenodo.lock:
            zenodo.requests.append((self.path, wanted))
            key = parts[4] if parts[3:4] == ["files"] and len(parts) == 6 else ""
            answer = zenodo.status[key].pop(0) if zenodo.status.get(key) else None
            hung = next((part for part, left in zenodo.hang.items() if part in self.path and left > 0), None)
            if hung is not None:
                zenodo.hang[hung] -= 1
        try:
            if hung is not None:
                zenodo.release.wait(30)
                self.close_connection = True
            elif answer:
                self._send(b"busy", *answer)
            elif parts[:2] != ["api", "records"] or parts[2] not in (zenodo.record, zenodo.newest):
                self._send(b'{"status": 404}', 404)
            elif key in zenodo.files:
                self._file(key, wanted)
            elif len(parts) == 3 or parts[3:] == ["versions", "latest"]:
                number = zenodo.newest if len(parts) == 5 else parts[2]
                self._send(json.dumps(zenodo.record_of(number)).encode(), 200, {"Content-Type": "application/json"})
            else:
                self._send(b'{"status": 404}', 404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away, as it may

    def _file(self, key: str, wanted: str | None) -> None:
        zenodo, body, start = self.zenodo, self.zenodo.files[key], 0
        with zenodo.lock:
            if zenodo.corrupt.get(key, 0) > 0:
                zenodo.corrupt[key] -= 1
                body = body[:-1] + bytes([body[-1] ^ 1])
            cut = zenodo.cut[key].pop(0) if zenodo.cut.get(key) else None
        if wanted and not zenodo.ignore_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self._send(b"", 416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stall = zenodo.stall.get(key)
        stop = min([len(body), *(start + part for part in (cut, stall) if part is not None)])
        self._write(body[start:stop])
        if stall is not None:
            zenodo.release.wait(30)
            self._write(body[stop:])
        self.close_connection = True

    def _write(self, body: bytes) -> None:
        for at in range(0, len(body), 65536):
            piece = body[at : at + 65536]
            self.wfile.write(piece)
            with self.zenodo.lock:
                self.zenodo.file_bytes += len(piece)
        self.wfile.flush()

    def _send(self, body: bytes, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
