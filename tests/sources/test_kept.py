"""Records of what was fetched, edited by hand: never believed further than they are whole."""

from __future__ import annotations

import json

import pytest

from spiketok.errors import ArtefactError
from spiketok.sources.archives.kept import LISTING, LISTING_FORMAT, Shape, kept_listing, read_record
from spiketok.sources.archives.plans import Plan

SHAPE = Shape("archive.json", head=("version", "license"), each=("md5",))
ENTRY = {"size": 7, "sha256": "ab" * 32, "md5": "cd" * 16}
RECORD = {"version": "1", "license": "", "assets": {"sub-1/a.nwb": ENTRY}}


def assets(**changed: object) -> dict:
    return RECORD | {"assets": {"sub-1/a.nwb": ENTRY | changed}}


DAMAGED = {
    "null": None,
    "list": [RECORD],
    "no version": {k: v for k, v in RECORD.items() if k != "version"},
    "version null": RECORD | {"version": None},
    "assets null": RECORD | {"assets": None},
    "assets list": RECORD | {"assets": ["sub-1/a.nwb"]},
    "entry null": RECORD | {"assets": {"sub-1/a.nwb": None}},
    "entry without md5": RECORD | {"assets": {"sub-1/a.nwb": {"size": 1, "sha256": ""}}},
    "size text": assets(size="7"),
    "size negative": assets(size=-7),
    "size true": assets(size=True),
    "digest number": assets(sha256=7),
    "up and out": RECORD | {"assets": {"../../a.nwb": ENTRY}},
    "absolute": RECORD | {"assets": {"/etc/a.nwb": ENTRY}},
}


@pytest.mark.parametrize("record", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_named(tmp_path, record):
    (tmp_path / "archive.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"archive\.json is damaged \(.+\): "):
        read_record(tmp_path, SHAPE)


def test_a_record_that_is_no_file(tmp_path):
    assert read_record(tmp_path, SHAPE) is None
    (tmp_path / "archive.json").symlink_to("gone")
    with pytest.raises(ArtefactError, match="a link that leads nowhere"):
        read_record(tmp_path, SHAPE)
    (tmp_path / "archive.json").unlink()
    (tmp_path / "archive.json").mkdir()
    with pytest.raises(ArtefactError, match="is a folder, expected a file"):
        read_record(tmp_path, SHAPE)


def test_a_whole_record_is_read(tmp_path):
    (tmp_path / "archive.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(RECORD, indent=1).replace("\n", "\r\n").encode()
    )
    assert read_record(tmp_path, SHAPE) == RECORD


@pytest.mark.parametrize("change", [{}, {"size": None}, {"size": -1}, {"path": 3}, {"sha256": ["a"]}, {"other": 1}])
def test_a_listing_that_is_not_whole_is_asked_for_again(tmp_path, change):
    head = Plan("dandi", "000001", tmp_path, api_url="https://example.org/api")
    asset = {"path": "a.nwb", "size": 7, "asset_id": "x"} | change
    kept = {"format": LISTING_FORMAT, "api_url": head.api_url, "version": "0.1", "assets": [asset]}
    (tmp_path / LISTING).write_text(json.dumps(kept))
    found = kept_listing(head)
    assert (found is None) == bool(change)
    assert found is None or [(a.path, a.size) for a in found.listing] == [("a.nwb", 7)]
