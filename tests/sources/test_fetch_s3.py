"""Public buckets of S3: listing by pages, ranges, ETags, and a dataset of the catalogue, against a loopback server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from spiketok.errors import FetchError
from spiketok.sources.archives import ranged, s3
from spiketok.sources.archives.plans import Asset
from spiketok.sources.archives.s3 import S3, S3Request
from spiketok.sources.catalogue import dataset_of, download, load_source, plan_fetch, resolve
from tests.layouts import bwb
from tests.s3_server import s3_server

KEY = "brainsets/{build}/ibl_brain_wide_bench_2026/{regime}/{eid}.h5"
OPEN = "public-read"
EIDS = {"eval": ("a" * 8, "b" * 8), "pretrain": ("c" * 8,)}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket with both builds; the address of its server, its file system, and what was asked."""
    path = tmp_path_factory.mktemp("made") / "one.h5"
    bwb.write(path)
    with s3_server() as (system, answered):
        system.mkdir("brain-wide-bench")
        for build in ("all_units", "selected_units"):
            for regime, eids in EIDS.items():
                for eid in eids:
                    place = f"brain-wide-bench/{KEY.format(build=build, regime=regime, eid=eid)}"
                    system.pipe_file(place, path.read_bytes() + eid.encode(), ACL=OPEN)
        system.pipe_file("brain-wide-bench/readme.txt", b"words", ACL=OPEN)
        yield os.environ["AWS_ENDPOINT_URL"], system, answered


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ranged, "PAUSE_S", 0.0)


@pytest.mark.long
def test_a_dataset_is_listed_fetched_and_known_again(bucket, tmp_path):
    url, _, answered = bucket
    request = resolve("ibl_bwb")
    assert isinstance(request, S3Request) and request.prefix == "brainsets/all_units/"
    plan = plan_fetch(request, tmp_path, api_url=url)
    assert [a.path.split("/")[-2:] for a in plan.assets] == [
        ["eval", "aaaaaaaa.h5"], ["eval", "bbbbbbbb.h5"], ["pretrain", "cccccccc.h5"]
    ]  # fmt: skip
    assert [a.path.split("/")[1] for a in plan_fetch(resolve("ibl_bwb_selected"), tmp_path, api_url=url).assets] == [
        "selected_units"
    ] * 3
    results = download(plan, tmp_path)
    assert {r.status for r in results} == {"fetched"}
    file = results[0].file
    assert file == tmp_path / "s3/brain-wide-bench" / plan.assets[0].path
    assert dataset_of(file) == "ibl_bwb"
    source = load_source(file)
    etag = hashlib.md5(file.read_bytes()).hexdigest()
    assert source.origin == f"s3://brain-wide-bench/{plan.assets[0].path}"
    assert (source.license, source.version) == ("CC-BY-4.0", f"etag {etag}")
    assert "readme" not in "".join(p.path for p in plan.listing)
    before = len(answered)
    again = plan_fetch(request, tmp_path, api_url=url)
    assert again.complete
    assert {r.status for r in download(again, tmp_path)} == {"skipped"}
    assert all("list-type=2" in line for line in answered[before:])  # asked anew: nothing but the list


@pytest.mark.long
def test_an_object_that_was_overwritten_is_another_one(bucket, tmp_path):
    url, system, _ = bucket
    name = f"s3://brain-wide-bench/{KEY.format(build='selected_units', regime='pretrain', eid='c' * 8)}"
    first = plan_fetch(resolve(name), tmp_path, api_url=url)
    download(first, tmp_path)
    old = system.cat_file(name.removeprefix("s3://"))
    system.pipe_file(name.removeprefix("s3://"), old + b"more", ACL=OPEN)
    try:
        changed = plan_fetch(resolve(name), tmp_path, api_url=url)
        assert changed.assets[0].state == "differs"
        (kept,) = download(changed, tmp_path)
        assert kept.status == "failed" and "overwrite-different replaces it" in kept.message
        (taken,) = download(changed, tmp_path, policy="overwrite-different")
        assert taken.status == "fetched" and taken.file.read_bytes() == old + b"more"
        assert plan_fetch(resolve(name), tmp_path, api_url=url).complete
    finally:
        system.pipe_file(name.removeprefix("s3://"), old, ACL=OPEN)


@pytest.mark.parametrize("n_parts", [2, 3])
def test_what_was_put_in_parts_is_checked_by_its_parts(n_parts, tmp_path, monkeypatch):
    """Its ETag is no MD5: the usual sizes of parts are tried; a file that has it for none must be HDF5."""
    monkeypatch.setattr(s3, "PART_BYTES", (700, 1000, 600))
    body = bytes(range(256)) * (2 * n_parts)
    parts = [body[k : k + 600] for k in range(0, len(body), 600)]
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    etag = f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"
    file = tmp_path / "x.bin"
    file.write_bytes(body)
    sha256 = hashlib.sha256(body).hexdigest()
    assert S3().verify(file, Asset("x", len(body), asset_id=etag)) == (sha256, "")
    assert "it has not the ETag" in S3().verify(file, Asset("x", len(body), asset_id="0" * 32 + etag[32:]))[1]
    file.write_bytes(body[:-1])
    assert f"{len(body) - 1} bytes came" in S3().verify(file, Asset("x", len(body), asset_id=etag))[1]


@pytest.mark.long
def test_a_list_of_several_pages_and_a_bucket_that_is_not_open(bucket, tmp_path, monkeypatch):
    url, _, answered = bucket
    get = s3._page

    def in_small_pages(session, address, name):
        return get(session, address + "&max-keys=2", name)

    monkeypatch.setattr(s3, "_page", in_small_pages)
    before = len(answered)
    plan = plan_fetch(resolve("s3://brain-wide-bench/brainsets/"), tmp_path, api_url=url)
    assert len(plan.assets) == 6 and len(answered) - before == 3
    with pytest.raises(FetchError, match="s3://no-such-bucket: .*not there, or not open to everybody"):
        plan_fetch(resolve("s3://no-such-bucket"), tmp_path, api_url=url)
    with pytest.raises(FetchError, match="holds no file that begins with 'nothing/'"):
        plan_fetch(resolve("s3://brain-wide-bench/nothing/"), tmp_path, api_url=url)


def test_names_of_buckets():
    assert S3().request("s3://Bad_Bucket/x") is None
    request = S3().request("s3:brain-wide-bench/a/b*")
    assert (request.bucket, request.path, request.prefix) == ("brain-wide-bench", "a/b*", "a/b")
    assert S3Request("n", "bucket", include=("brainsets/all/*.h5", "brainsets/alt/*.h5")).prefix == "brainsets/al"
    assert s3.PUBLIC.format(bucket="b") == "https://b.s3.amazonaws.com"


@pytest.mark.long
def test_fetching_ingests_by_the_rules(bucket, tmp_path):
    from typer.testing import CliRunner

    from spiketok.cli import app

    url, _, _ = bucket
    words = ["fetch", "ibl_bwb", "--glob", "*/eval/a*", "--api-url", url, "--root", str(tmp_path)]
    dry = CliRunner().invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert not list(Path(tmp_path).rglob("*.h5"))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "store/ibl_bwb/aaaaaaaa").is_dir()
