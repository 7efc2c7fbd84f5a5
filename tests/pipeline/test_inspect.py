"""What ``inspect`` tells of files that others may have made."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from spiketok.errors import ArtefactError, UsageError
from spiketok.pipeline.inspect import describe_path, kind_of
from spiketok.pipeline.provenance import walk
from spiketok.storage.files import write_signed
from spiketok.storage.records import CHOICE, STAR_TABLE


def test_a_truth_is_told_from_headers_alone(tmp_path):
    """An array of 80 GB of which no value is there, and one of objects."""
    path, header = tmp_path / "a_truth.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**10,)})
    np.savez(path, small=np.zeros((3, 4), np.int16), odd=np.array([print], object))
    with zipfile.ZipFile(path, "a") as members:
        members.writestr("large.npy", header.getvalue())
    assert describe_path(path).tables["arrays"] == [
        {"array": "small", "dtype": "int16", "shape": "3 x 4"},
        {"array": "odd", "dtype": "object", "shape": "1"},
        {"array": "large", "dtype": "float64", "shape": "10000000000"},
    ]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtefactError, match=r"a_truth\.npz is no \.npz of arrays"):
        describe_path(path)


def test_a_folder_of_a_curve_names_its_reports(tmp_path):
    for name in ("30s", "10s", "300s"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text("{}")
    (tmp_path / "curve.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a report for each length of calibration: name one of 10s, 30s, 300s"):
        kind_of(tmp_path)


def test_json_is_told_by_what_it_says_wherever_it_lies(tmp_path):
    write_signed(tmp_path / "mine.json", {"format": CHOICE, "task": 3})
    assert kind_of(tmp_path / "mine.json") == "choice"
    with pytest.raises(ArtefactError, match=r"mine.json was changed since it was written: it does not say 'targets'"):
        describe_path(tmp_path / "mine.json")
    model = {"label": "linear", "mean": {"accuracy": 0.5, "latency": None}, "stars": {"accuracy": 3, "latency": None}}
    table = {"columns": {"accuracy": {"title": "R2", "stars": ">"}}, "models": [model]}
    table |= {"format": STAR_TABLE, "settings": {"sessions": ["made/a"], "seed": 0}}
    write_signed(tmp_path / "star" / "star.json", table)
    for place in (tmp_path / "star", tmp_path / "star" / "star.json"):
        told = describe_path(place)
        assert (told.kind, told.tables["stars"]) == ("star table", [{"model": "linear", "R2": 3, "latency": "-"}])
        with pytest.raises(UsageError, match="is a star table: no chain begins there"):
            list(walk(place, None))


@pytest.mark.parametrize("name", ["runs/x/config.json", "runs/x/result.json", "runs/x/checkpoint/checkpoint.json"])
def test_a_part_of_a_run_names_the_run(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=rf"is a part of the run {tmp_path}/runs/x: name that"):
        kind_of(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "it is empty"),
        (b'{"a": 1', "it is no JSON"),
        ('{"a": 1}'.encode("utf-16"), "nothing that can be looked at by itself"),
        (b"[" * 10**5, "it is nested too deeply"),
        (b'{"format": ["x"]}', "nothing that can be looked at by itself"),
    ],
)
def test_json_that_is_none_is_not_told_as_a_recording(tmp_path, content, fact):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=fact) as caught:
        kind_of(tmp_path / "a.json")
    assert "NWB" not in str(caught.value) and "a.json" in str(caught.value)


def test_vectors_of_units_are_told_as_such(tmp_path):
    times = {
        "time.session": np.array(["made/a"]),
        "time.start_ns": np.array([0]),
        "time.stop_ns": np.array([8 * 10**9]),
    }
    own = {"session": np.array(["made/a"] * 3), "vector": np.zeros((3, 5)), "run_digest": np.array("c0ffee" * 4)}
    np.savez(tmp_path / "v.npz", **own, **times)
    told = describe_path(tmp_path / "v.npz")
    assert (told.kind, told.facts["numbers of a unit"]) == ("vectors", 5)
    assert told.tables["sessions"] == [{"session": "made/a", "units": 3, "seconds": 8.0}]
    np.savez(tmp_path / "v.npz", **own | {"vector": np.zeros(3)}, **times)
    with pytest.raises(ArtefactError, match=r"v.npz does not say what a vectors says"):
        describe_path(tmp_path / "v.npz")
