"""What ``inspect`` tells of files that others may have made."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from spiketok.errors import ArtefactError, UsageError
from spiketok.pipeline.inspect import describe_path, kind_of


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
