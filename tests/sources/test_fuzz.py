"""Damaged files by the hundred: each is refused in one line or read as pynwb reads it, and none crashes or hangs."""

from __future__ import annotations

import sys

import pytest

from tests import fuzzing, nwb_files

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a crash of HDF5 is caught on Linux only"),
    pytest.mark.filterwarnings("ignore:Behavioral.* is deprecated", "ignore:.*Series is deprecated"),
]


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    many = [[0.001 * k + 0.1 * unit for k in range(400)] for unit in range(20)]
    return [
        nwb_files.write_plain(folder / "plain.nwb"),
        nwb_files.write_rich(folder / "rich.nwb"),
        nwb_files.write_plain(folder / "many.nwb", many),
    ]


@pytest.mark.parametrize(
    "n_cases",
    [
        10,
        pytest.param(40, marks=pytest.mark.long),
        pytest.param(500, marks=pytest.mark.slow),
        pytest.param(5000, marks=pytest.mark.slow),
    ],
)
def test_damaged_files_are_refused_or_right(goods, tmp_path, n_cases, record_property):
    ends, findings = fuzzing.run_cases(tmp_path, goods, n_cases)
    record_property("ends", dict(ends))
    assert findings == []
    assert ends.total() == n_cases
    assert ends["refused"]
    assert ends["equal"] + ends["whole"]


def test_the_same_seed_damages_alike(goods):
    content = goods[0].read_bytes()
    cases = [fuzzing.damaged(content, seed) for seed in range(200)]
    assert cases == [fuzzing.damaged(content, seed) for seed in range(200)]
    assert {what.split()[0] for what, _ in cases} == set(fuzzing.KINDS)
    assert len({damaged for _, damaged in cases} - {content}) > 150  # a hole in what is zeros already changes nothing
