"""JSON that spiketok wrote and that was edited: read strictly, in one place, and every fault one clear line."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, ChangedError
from spiketok.storage.files import below, parse_json, read_signed, sha256_file, write_signed
from spiketok.storage.records import PREDICTIONS, predictions_fault, seal_predictions
from spiketok.storage.workspace import Workspace

DEEP = 10**5
NO_JSON = {
    "empty": (b"", "it is empty"),
    "blank": (b" \r\n\t", "it is empty"),
    "cut": (b'{"a": 1, "b"', "it is no JSON"),
    "garbage": (b"\x93\xfe\x00\x81\xaa", "it is no text in UTF-8"),
    "NaN": (b'{"a": [NaN]}', "it holds NaN"),
    "infinity": (b'{"a": -Infinity}', "it holds -Infinity"),
    "beyond floats": (b'{"a": 1e999}', "it holds 1e999"),
    "400 digits": (b'{"a": ' + b"7" * 400 + b"}", "it holds a whole number of 400 digits"),
    "5000 digits": (b'{"a": ' + b"7" * 5000 + b"}", "it holds a whole number of 5000 digits"),
    "deep": (b"[" * DEEP + b"]" * DEEP, "it is nested too deeply"),
    "twice": (b'{"x": {"a": 1, "b": 2, "a": 1}}', "it says 'a' twice"),
}


@pytest.mark.parametrize(("text", "fault"), NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_is_said(tmp_path, text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_json(text)
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(ArtefactError, match=rf"^report .*report\.json cannot be read \({fault}") as caught:
        read_signed(tmp_path / "report.json", "report", "make it again")
    assert len(str(caught.value).removeprefix(f"report {tmp_path}")) < 200


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(value=values, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_what_json_wrote_is_read_as_json_reads_it(value, encoding):
    text = json.dumps(value)
    assert parse_json(text.replace("\n", "\r\n").encode(encoding)) == json.loads(text)


@pytest.mark.parametrize("root", [b"null", b"7", b'"text"', b"[1]"])
def test_no_object(tmp_path, root):
    (tmp_path / "x.json").write_bytes(root)
    with pytest.raises(ArtefactError, match="it holds no JSON object"):
        read_signed(tmp_path / "x.json", "result", "again")


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nothing").symlink_to("gone")
    for name, cause in (("folder", "is a folder, expected a file"), ("circle", "a link that leads in a circle")):
        with pytest.raises(ArtefactError, match=rf"{name}: .*{cause}"):
            read_signed(tmp_path / name, "result", "again")
    with pytest.raises(FileNotFoundError):
        read_signed(tmp_path / "nothing", "result", "again")


def test_what_was_changed_can_be_shown(tmp_path):
    written = write_signed(tmp_path / "result.json", {"step": 3, "test": {}})
    facts = written | {"step": 4}
    (tmp_path / "result.json").write_text(json.dumps(facts))
    with pytest.raises(ChangedError, match="was changed since it was written") as caught:
        read_signed(tmp_path / "result.json", "result", "again")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.facts, str(again)) == (facts, str(caught.value))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", "", "a\\..\\x", "a\0b", 7, None, ["a"]])
def test_names_that_lead_out_of_a_folder(tmp_path, name):
    with pytest.raises(ArtefactError, match="which does not lie in"):
        below(tmp_path, name, "the checkpoint")
    with pytest.raises(ArtefactError, match="a session's id names"):
        Workspace(tmp_path).store_path(name)


def test_names_that_stay_in_a_folder(tmp_path):
    for name in ("a", "a/b.c", "..a/b..", "with space/é"):
        assert below(tmp_path, name, "it").resolve().is_relative_to(tmp_path.resolve())


def test_predictions_are_held_against_their_digests(tmp_path):
    folder = tmp_path / "predictions"
    (folder / "made%2Fx").mkdir(parents=True)
    file, other = folder / "made%2Fx" / "decode.safetensors", folder / "made%2Fx" / "population.safetensors"
    file.write_bytes(b"one"), other.write_bytes(b"two")
    with pytest.raises(FileNotFoundError):
        predictions_fault(folder, "c0ffee", "again")
    seal_predictions(folder, "c0ffee")
    assert predictions_fault(folder, "c0ffee", "again") == ""
    assert "are of checkpoint c0ffee, beside them lies beef" in predictions_fault(folder, "beef", "again")
    other.write_bytes(b"2")
    assert f"{other} has sha256" in predictions_fault(folder, "c0ffee", "again")
    other.unlink()
    assert f"{other} is gone: again" in predictions_fault(folder, "c0ffee", "again")
    write_signed(folder / PREDICTIONS, {"checkpoint_digest": "c0ffee", "files": {"../../secret": "0"}})
    assert "names '../../secret', which does not lie in" in predictions_fault(folder, "c0ffee", "again")


def test_a_failed_read_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1")
    monkeypatch.setattr("hashlib.file_digest", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError) as caught:
        sha256_file(tmp_path / "x")
    assert caught.value.filename == str(tmp_path / "x")
