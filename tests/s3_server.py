"""An S3 that lives in this process, for tests of what lies behind URLs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest


@contextmanager
def open_bucket(name: str, objects: dict[str, bytes]) -> Iterator[str]:
    """The address of an S3 with one bucket that anybody may read; it asks for no s3fs."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[server]')")
    import boto3

    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        keys = {"aws_access_key_id": "nobody", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=url, **keys)
        client.create_bucket(Bucket=name)
        for key, body in objects.items():
            client.put_object(Bucket=name, Key=key, Body=body, ACL="public-read")
        yield url
    finally:
        server.stop()


@contextmanager
def s3_server() -> Iterator[tuple]:
    """A file system of an empty S3, and the requests that it has answered, as ``"GET /bucket/key?query"``."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'spiketok[remote]')")
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[server]')")
    import s3fs

    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    answered: list[str] = []
    app = server._server.app

    def counted(environ, start_response):
        answered.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        return app(environ, start_response)

    server._server.app = counted
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "FSSPEC_S3"):
                patch.delenv(name, raising=False)
            s3fs.S3FileSystem.clear_instance_cache()
            yield s3fs.S3FileSystem(use_listings_cache=False), answered
            s3fs.S3FileSystem.clear_instance_cache()
    finally:
        urlopen(Request(f"{url}/moto-api/reset", method="POST")).close()  # else the next server has these buckets
        server.stop()
