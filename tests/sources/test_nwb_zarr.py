"""NWB in zarr folders: the same session as from the HDF5 file that they were made of, or one clear line."""

from __future__ import annotations

import builtins
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from numcodecs import Blosc
from pynwb import NWBHDF5IO, TimeSeries

from spiketok.errors import MissingExtraError, SourceError
from spiketok.pipeline.ingest import find_files, ingest
from spiketok.pipeline.verify import verify
from spiketok.recording.nouns import Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.files import sha256_source
from spiketok.storage.store import read_attributes, session_digest
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.nwb_files import new_file, save

SOURCE = Source("one.nwb", "0" * 64, 1)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """An HDF5 file and a zarr folder of it, written by hdmf-zarr."""
    backend = pytest.importorskip(
        "hdmf_zarr.nwb", reason="hdmf-zarr is not installed (pip install 'spiketok[zarr-nwb]')"
    )
    folder = tmp_path_factory.mktemp("zarr")
    nwb = new_file()
    group = nwb.create_electrode_group("shank", description="g", location="CA1", device=nwb.create_device("probe"))
    for _ in range(3):
        nwb.add_electrode(location="CA1", group=group, group_name="shank")
    nwb.add_unit_column("quality", "by hand")
    rng = np.random.default_rng(0)
    for row in range(3):
        times = np.sort(rng.uniform(0, 10, 40 * row))
        nwb.add_unit(
            spike_times=times, obs_intervals=[[0.0, 5.0], [6.0, 10.0 + row]], electrodes=[row], quality=f"q{row}"
        )
    nwb.add_trial_column("side", "a word")
    for start in (1.0, 4.0):
        nwb.add_trial(start_time=start, stop_time=start + 2, side="left" if start < 2 else "right")
    module = nwb.create_processing_module("behavior", "b")
    module.add(TimeSeries(name="speed", data=rng.normal(size=(50, 2)), unit="m/s", rate=5.0, conversion=0.5))
    path = save(nwb, folder / "one.nwb")
    target = folder / "folder" / "one.nwb.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with NWBHDF5IO(str(path), "r") as source, backend.NWBZarrIO(str(target), "w") as io:
            io.export(src_io=source, write_args={"link_data": False})
    return path, target


def test_the_same_session_as_from_hdf5(both):
    one, other = (read_nwb(path, "set/one", SOURCE) for path in both)
    assert session_digest(one, {}, "test") == session_digest(other, {}, "test")
    assert len(one.spikes) == 120
    assert set(one.signals) == {"speed"}


def test_a_folder_is_one_source(both, tmp_path):
    """Found in a folder or by name, digest over its files, verified, and not read twice."""
    shutil.copytree(both[1], tmp_path / "in" / "named.nwb")
    shutil.copytree(both[1], tmp_path / "in" / "other.nwb.zarr")
    assert [p.name for p in find_files([tmp_path / "in"])] == ["named.nwb", "other.nwb.zarr"]
    workspace = Workspace(tmp_path / "root")
    done = [outcome.result for outcome in ingest(workspace, [tmp_path / "in"])]
    assert [(d.session_id, d.state, d.n_spikes) for d in done] == [
        ("local/named", "new", 120),
        ("local/other", "new", 120),
    ]
    sources = [read_attributes(workspace.store_path(d.session_id))["source"] for d in done]
    assert sources[0]["sha256"] == sources[1]["sha256"]
    assert sources[0]["size"] == sum(f.stat().st_size for f in both[1].rglob("*") if f.is_file())
    (checked, _) = verify(workspace, ["local/named", "local/other"])
    assert checked.error is None, checked.message
    assert checked.result.differences == []
    assert [outcome.result.state for outcome in ingest(workspace, [tmp_path / "in"])] == ["already"] * 2
    (tmp_path / "in" / "named.nwb" / "more").write_text("another byte")
    (again,) = ingest(workspace, [tmp_path / "in" / "named.nwb"])
    assert again.result.state == "replaced"


def test_inspect_tells_a_folder_by_its_name(both, tmp_path):
    told = spiketok(tmp_path / "root", "inspect", both[1])
    assert "spikes                120" in told.stdout
    assert sha256_source(both[1])[:12] in told.stdout


def test_missing_chunks_of_spikes_are_refused(both, tmp_path):
    folder = shutil.copytree(both[1], tmp_path / "cut.nwb.zarr")
    (folder / "units" / "spike_times" / "0").unlink()
    with pytest.raises(SourceError, match=r"cut.nwb.zarr: 0 of 1 chunks of units/spike_times are there"):
        read_nwb(folder, "set/one", SOURCE)


@pytest.mark.parametrize("what", [".zgroup only", "metadata gone", "not json"])
def test_a_broken_folder_is_one_line(both, tmp_path, what):
    folder = shutil.copytree(both[1], tmp_path / "bad.nwb.zarr")
    (folder / ".zmetadata").unlink(missing_ok=True)
    if what == ".zgroup only":
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
    elif what == "metadata gone":
        (folder / "units" / "spike_times" / ".zarray").unlink()
    else:
        (folder / "units" / "spike_times" / ".zarray").write_text("{")
    with pytest.raises(SourceError) as raised:
        read_nwb(folder, "set/one", SOURCE)
    assert "bad.nwb.zarr" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pickle_that_runs_code_is_not_run(both, tmp_path):
    folder = shutil.copytree(both[1], tmp_path / "evil.nwb.zarr")
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    place = folder / "general" / "extracellular_ephys" / "electrodes" / "group"
    (place / "0").write_bytes(Blosc().encode(evil))
    with pytest.raises(SourceError, match=r"evil.nwb.zarr.*a pickle of os.system, which could run code"):
        read_nwb(folder, "set/one", SOURCE)
    assert not (tmp_path / "ran").exists()


def test_without_hdmf_zarr(both, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("hdmf_zarr"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("spiketok.errors.import_module", lambda name: refuse(name))
    with pytest.raises(MissingExtraError, match=r"needs 'hdmf_zarr.nwb'.*pip install 'spiketok\[zarr-nwb\]'"):
        read_nwb(both[1], "set/one", SOURCE)


def test_a_plain_folder_is_no_source(tmp_path):
    (tmp_path / "empty.nwb").mkdir()
    with pytest.raises(SourceError, match=r"is a folder, expected one NWB file"):
        read_nwb(tmp_path / "empty.nwb", "set/one", SOURCE)


def test_another_format_of_zarr_is_named(tmp_path):
    folder = tmp_path / "three.nwb.zarr"
    (folder / "units").mkdir(parents=True)
    node = '{"zarr_format": 3, "node_type": "group", "attributes": {"nwb_version": "2.8.0"}}'
    (folder / "zarr.json").write_text(node)
    (folder / "units" / "zarr.json").write_text(node)
    with pytest.raises(SourceError, match="is a zarr folder of format 3, hdmf-zarr reads format 2"):
        read_nwb(folder, "set/one", SOURCE)
