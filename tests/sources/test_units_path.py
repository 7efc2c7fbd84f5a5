"""A units table that lies elsewhere: found where it is the only one, named where there are several."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pynwb.misc import Units

from spiketok.errors import SourceError
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import Session, Source
from spiketok.sources.formats.nwb import read_nwb
from tests import nwb_files
from tests.cli.test_cli import spiketok


def trains(n_units: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.sort(rng.uniform(2, 50, 40 + 9 * row)) for row in range(n_units)]


def made(path: Path, *tables: tuple[str, str, int], own: int = 0) -> Path:
    """A file with a table of units in each (module, name, number of units), and ``own`` units at /units."""
    nwb = nwb_files.new_file()
    for train in trains(own, 99):
        nwb.add_unit(spike_times=train)
    for seed, (module, name, n_units) in enumerate(tables):
        table = Units(name=name, description="sorted")
        table.add_column("depth", "of the unit")
        for row, train in enumerate(trains(n_units, seed)):
            table.add_unit(spike_times=train, depth=10.0 * row)
        place = nwb.processing.get(module) or nwb.create_processing_module(module, "made")
        place.add(table)
    return nwb_files.save(nwb, path)


def read(path: Path, units_path: str = "") -> Session:
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, 1), units_path=units_path)


def held(session: Session) -> list[list[int]]:
    return [session.spikes.time_ns[session.spikes.unit == row].tolist() for row in range(len(session.units))]


def expected(n_units: int, seed: int) -> list[list[int]]:
    return [np.rint(train * 1e9).astype(np.int64).tolist() for train in trains(n_units, seed)]


@pytest.mark.parametrize("own", ["none", "empty"])
def test_the_one_table_with_spikes_is_read_wherever_it_is(tmp_path, own):
    path = made(tmp_path / "one.nwb", ("ecephys", "sorted_units", 4))
    if own == "empty":
        with h5py.File(path, "a") as file:
            file.copy(file["processing/ecephys/sorted_units"], "units")
            for name in ("id", "spike_times", "spike_times_index", "depth"):
                nwb_files.replace_data(file, f"units/{name}", file[f"units/{name}"][:0])
    session = read(path)
    assert held(session) == expected(4, 0)
    assert session.units.columns["depth"].tolist() == [0, 10, 20, 30]
    notes = {note.id: note.text for note in session.notes}
    assert "those of processing/ecephys/sorted_units" in notes["units-elsewhere"]
    assert "sorted_units" not in notes.get("series-left-out", "")
    if own == "none":
        assert verify_session(session, path) == []


def test_of_several_one_is_named(tmp_path):
    path = made(tmp_path / "two.nwb", ("ecephys", "good", 3), ("ecephys", "mua", 2), ("other", "units", 2))
    with pytest.raises(SourceError) as raised:
        read(path)
    for where in ("processing/ecephys/good", "processing/ecephys/mua", "processing/other/units", "add --units PATH"):
        assert where in str(raised.value)
    session = read(path, "processing/ecephys/mua")
    assert held(session) == expected(2, 1)
    assert verify_session(session, path, "processing/ecephys/mua") == []
    assert verify_session(session, path, "processing/ecephys/good") != []


def test_a_named_table_goes_before_the_files_own(tmp_path):
    path = made(tmp_path / "both.nwb", ("ecephys", "other", 3), own=2)
    assert held(read(path)) == expected(2, 99)
    assert "units-elsewhere" not in {note.id for note in read(path).notes}
    assert held(read(path, "processing/ecephys/other")) == expected(3, 0)
    for wrong in ("processing/ecephys", "processing/nothing/units", "identifier", "processing/ecephys/other/id"):
        with pytest.raises(SourceError, match=f"--units {wrong}: .* is there .*units, processing/ecephys/other"):
            read(path, wrong)


@pytest.mark.long
def test_it_is_a_setting_of_the_session(tmp_path):
    path = made(tmp_path / "two.nwb", ("ecephys", "good", 3), ("ecephys", "mua", 2))
    assert "add --units PATH" in spiketok(tmp_path, "ingest", path, code=1).stderr
    spiketok(tmp_path, "ingest", path, "--units", "/processing/ecephys/mua/")
    assert "units processing/ecephys/mua" in spiketok(tmp_path, "inspect", "local/two").stdout
    assert "equal" in spiketok(tmp_path, "verify").stdout
    sorted_ = spiketok(tmp_path, "ingest", path.parent, "--sorter", "phy", "--units", "a/b", code=1).stderr
    assert "--units is for NWB files" in sorted_
    assert "must be a path inside of the files" in spiketok(tmp_path, "ingest", path, "--units", "../x", code=2).stderr
