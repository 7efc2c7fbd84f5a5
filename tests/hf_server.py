"""A Hugging Face that lives in this process: the calls that huggingface_hub makes to push and to pull, and no more.

Files of over ``LFS_BYTES`` bytes, and all that are no text, go the way of large files, as on the real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

LFS_BYTES = 10_000
TEXT = (".json", ".jsonl", ".md", ".html")


class Hub:
    """What the server holds: ``repos[(type, id)]`` is a list of commits, each a mapping of path to digest."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], list[tuple[str, dict[str, str]]]] = {}
        self.private: dict[tuple[str, str], str] = {}
        self.blobs: dict[str, bytes] = {}
        self.large: set[str] = set()
        self.answered: list[str] = []
        self.tokens: set[str] = {"hf_good"}
        self.fail_after: int | None = None  # large files that may still be put before the server breaks

    def put(self, data: bytes, large: bool) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        if large:
            self.large.add(digest)
        return digest

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        return {path: self.blobs[digest] for path, digest in self.repos[kind, name][-1][1].items()}

    def change(self, kind: str, name: str, path: str, data: bytes) -> None:
        """What somebody else commits."""
        _, files = self.repos[kind, name][-1]
        large = files.get(path) in self.large
        self.commit(kind, name, files | {path: self.put(data, large)})

    def commit(self, kind: str, name: str, files: dict[str, str]) -> str:
        sha = hashlib.sha1(json.dumps([len(self.repos[kind, name]), sorted(files.items())]).encode()).hexdigest()
        self.repos[kind, name].append((sha, files))
        return sha

    def oid(self, digest: str) -> str:
        data = self.blobs[digest]
        if digest in self.large:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        self._route()

    do_GET = do_HEAD = do_PUT = do_POST

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._chunks()
        self.hub.answered.append(f"{self.command} {path}")
        for pattern, name in ROUTES:
            if (found := re.fullmatch(pattern, path)) and (self.command in name[0]):
                getattr(self, name[1])(*found.groups(), body)
                return
        self._say({"error": f"no route {self.command} {path}"}, 404)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, value: object, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, **headers)

    def _send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _writer(self) -> bool:
        if self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.tokens:
            return True
        self._say({"error": "Invalid username or password."}, 401)
        return False

    def _repo(self, kind: str, name: str) -> list | None:
        repo = self.hub.repos.get((kind, name))
        if repo is None:
            self._say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        return repo

    def _at(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, str]] | None:
        repo = self._repo(kind, name)
        if repo is None:
            return None
        found = repo[-1] if revision == "main" else next((c for c in repo if c[0] == revision), None)
        if found is None:
            self._say({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        return found

    @staticmethod
    def _url(kind: str, name: str) -> str:
        return f"datasets/{name}" if kind == "dataset" else name

    def yaml(self, body: bytes) -> None:
        self._say({"errors": [], "warnings": []})

    def create(self, body: bytes) -> None:
        if not self._writer():
            return
        asked = json.loads(body)
        key = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        if key in self.hub.repos:
            self._say({"error": "You already created this repo"}, 409)
            return
        self.hub.repos[key] = []
        self.hub.private[key] = asked.get("visibility", "public")
        self.hub.commit(*key, {".gitattributes": self.hub.put(b"*.bin filter=lfs\n", False)})
        self._say({"url": f"http://{self.headers['Host']}/{self._url(*key)}"})

    def info(self, kind: str, name: str, revision: str | None, body: bytes) -> None:
        found = self._at(kind, name, revision or "main")
        if found is not None:
            self._say({"id": name, "sha": found[0], "private": True, "tags": [], "siblings": []})

    def preupload(self, kind: str, name: str, revision: str, body: bytes) -> None:
        found = self._at(kind, name, revision)
        if found is None or not self._writer():
            return

        def about(file: dict) -> dict:
            large = file["size"] > LFS_BYTES or not file["path"].endswith(TEXT)
            there = found[1].get(file["path"])
            oid = {"oid": there if there in self.hub.large else self.hub.oid(there)} if there else {}
            return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} | oid

        self._say({"files": [about(file) for file in json.loads(body)["files"]]})

    def batch(self, kind: str | None, name: str, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        host = self.headers["Host"]
        for one in objects:
            if one["oid"] not in self.hub.blobs:
                one["actions"] = {"upload": {"href": f"http://{host}/lfs/{one['oid']}", "header": {}}}
        self._say({"transfer": "basic", "objects": objects})

    def lfs(self, oid: str, body: bytes) -> None:
        if self.hub.fail_after is not None:
            self.hub.fail_after -= 1
            if self.hub.fail_after < 0:
                self._say({"error": "the disk is full"}, 507)
                return
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.put(body, True)
        self._say({})

    def commit(self, kind: str, name: str, revision: str, body: bytes) -> None:
        found = self._at(kind, name, revision)
        if found is None or not self._writer():
            return
        head, *lines = [json.loads(line) for line in body.splitlines()]
        if head["value"].get("parentCommit", found[0]) != found[0]:
            self._say({"error": "A commit has happened since."}, 412)
            return
        files = dict(found[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = self.hub.put(base64.b64decode(value["content"]), False)
            else:
                assert value["oid"] in self.hub.blobs
                files[value["path"]] = value["oid"]
        sha = self.hub.commit(kind, name, files)
        self._say(
            {
                "commitUrl": f"http://{self.headers['Host']}/{self._url(kind, name)}/commit/{sha}",
                "commitOid": sha,
                "success": True,
            }
        )

    def tree(self, kind: str, name: str, revision: str, body: bytes) -> None:
        found = self._at(kind, name, revision)
        if found is None:
            return
        entries = []
        for path, digest in sorted(found[1].items()):
            size = len(self.hub.blobs[digest])
            lfs = {"lfs": {"oid": digest, "size": size, "pointerSize": 130}} if digest in self.hub.large else {}
            entries.append({"type": "file", "path": path, "size": size, "oid": self.hub.oid(digest)} | lfs)
        self._say(entries)

    def resolve(self, kind: str | None, name: str, revision: str, path: str, body: bytes) -> None:
        found = self._at("dataset" if kind else "model", name, revision)
        if found is None:
            return
        if path not in found[1]:
            self._say({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
            return
        digest = found[1][path]
        etag = digest if digest in self.hub.large else self.hub.oid(digest)
        data, headers, status = self.hub.blobs[digest], {"ETag": f'"{etag}"', "X_Repo_Commit": found[0]}, 200
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            stop = int(span[2]) + 1 if span[2] else len(data)
            headers["Content_Range"] = f"bytes {span[1]}-{stop - 1}/{len(data)}"
            data, status = data[int(span[1]) : stop], 206
        self._send(data, status, **headers)


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"/api/validate-yaml", (("POST",), "yaml")),
    (r"/api/repos/create", (("POST",), "create")),
    (rf"/api/(model|dataset)s/{NAME}/preupload/([^/]+)", (("POST",), "preupload")),
    (rf"/api/(model|dataset)s/{NAME}/commit/([^/]+)", (("POST",), "commit")),
    (rf"/api/(model|dataset)s/{NAME}/tree/([^/]+)", (("GET",), "tree")),
    (rf"/api/(model|dataset)s/{NAME}(?:/revision/([^/]+))?", (("GET",), "info")),
    (rf"/(datasets/)?{NAME}\.git/info/lfs/objects/batch", (("POST",), "batch")),
    (r"/lfs/([0-9a-f]+)", (("PUT",), "lfs")),
    (rf"/(datasets/)?{NAME}/resolve/([^/]+)/(.+)", (("GET", "HEAD"), "resolve")),
]


@contextmanager
def hf_server() -> Iterator[Hub]:
    """An empty one, which the environment names for as long as the block lasts."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed (pip install 'spiketok[hub]')"
    )
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("HF_TOKEN", "hf_good")
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks the older protocol only
        yield hub
    server.shutdown()
    server.server_close()
