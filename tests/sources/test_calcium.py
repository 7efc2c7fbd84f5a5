"""Units that were imaged: ROIs of a segmentation or one series a neuron, without a units table and without spikes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pynwb import TimeSeries
from pynwb.behavior import BehavioralTimeSeries
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

from spiketok.errors import SourceError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.source_check import compare_with_source
from spiketok.pipeline.tokenize import tokenize
from spiketok.pipeline.verify import verify
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import SCHEMES
from tests.cli.test_cli import spiketok
from tests.nwb_files import edited, new_file, replace_data, save

N_FRAMES = 60


def values(n_units: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N_FRAMES, n_units)).astype(np.float32)


def imaged_file(path: Path, n_units: int = 4, *, dff: bool = True, stamps: np.ndarray | None = None) -> Path:
    """Two-photon as the archive has it: a segmentation with one ROI more than is used, fluorescence, dF/F, running."""
    nwb = new_file()
    device = nwb.create_device("microscope")
    channel = OpticalChannel(name="green", description="GCaMP", emission_lambda=520.0)
    plane = nwb.create_imaging_plane(
        name="plane", optical_channel=channel, description="V1", device=device, excitation_lambda=920.0,
        indicator="GCaMP6f", location="VISp", imaging_rate=10.0,
    )  # fmt: skip
    segmentation = ImageSegmentation()
    rois = segmentation.create_plane_segmentation(name="rois", description="ROIs", imaging_plane=plane)
    rois.add_column("accepted", "by hand")
    for row in range(n_units + 1):
        rois.add_roi(id=100 + row, pixel_mask=[(row, 1, 1.0), (row, 2, 0.5)], accepted=row % 2 == 0)
    module = nwb.create_processing_module("ophys", "processed")
    module.add(segmentation)
    clock = {"rate": 10.0, "starting_time": 0.5} if stamps is None else {"timestamps": stamps}
    for seed, container in enumerate([Fluorescence, DfOverF] if dff else [Fluorescence]):
        region = rois.create_roi_table_region("all but the first", region=list(range(1, n_units + 1)))
        series = RoiResponseSeries(name="traces", data=values(n_units, seed), rois=region, unit="n.a.", **clock)
        module.add(container(roi_response_series=series))
    behavior = nwb.create_processing_module("behavior", "b")
    behavior.add(
        BehavioralTimeSeries(time_series=TimeSeries(name="running", data=np.arange(600.0), unit="cm/s", rate=100.0))
    )
    nwb.add_trial(start_time=1.0, stop_time=3.0)
    return save(nwb, path)


def neuron_file(path: Path, n_units: int = 11, *, group: str = "Calcium", shared: bool = True) -> Path:
    """One series a neuron, the stamps of all linked to the first's."""
    nwb = new_file()
    module = nwb.create_processing_module("imaging", "processed")
    container = BehavioralTimeSeries(name=group)
    first, stamps = None, np.arange(N_FRAMES) * 0.1 + np.repeat([0.0, 5.0], N_FRAMES // 2)
    for row in range(n_units):
        clock = first if shared and first is not None else stamps + (0.0 if shared else row)
        one = TimeSeries(name=f"neuron_{row}", data=values(n_units, 0)[:, row], unit="dF/F", timestamps=clock)
        container.add_timeseries(one)
        first = first or one
    module.add(container)
    return save(nwb, path)


def turned(path: Path, target: Path) -> Path:
    """The ROIs in the first dimension, as some files have them."""
    name = "processing/ophys/Fluorescence/traces/data"
    with edited(path, target) as file:
        replace_data(file, name, file[name][:].T)
    return target


def read(path: Path) -> Session:
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, 1))


def test_rois_are_units(tmp_path):
    session = read(imaged_file(tmp_path / "two.nwb"))
    assert session.units.id.tolist() == ["101", "102", "103", "104"]
    assert session.units.columns["accepted"].tolist() == [False, True, False, True]
    assert set(session.units.columns) == {"accepted"}
    assert len(session.spikes) == 0
    signal = session.signals["fluorescence"]
    np.testing.assert_array_equal(signal.value, values(4, 1))  # dF/F, not the raw fluorescence
    assert (signal.components, signal.rate_hz) == (("101", "102", "103", "104"), 10.0)
    assert set(session.signals) == {"fluorescence", "running", "traces"}
    assert session.observed_source == "frames"
    assert (session.observed.start_ns.tolist(), session.observed.stop_ns.tolist()) == ([5 * 10**8], [65 * 10**8])
    notes = {f.id: f for f in session.notes}
    assert notes["units-from-rois"].count == 4
    assert "other imaging stays signals: processing/ophys/Fluorescence/traces" in notes["units-from-rois"].text
    assert session.repairs == ()


@pytest.mark.parametrize("names", [("Deconvolved", "Neuropil"), ("Fneu", "Background0")])
def test_what_was_derived_is_not_the_fluorescence(tmp_path, names):
    """suite2p's own files have three series of as many ROIs, of which the deconvolved one comes first by name."""
    path = imaged_file(tmp_path / "s2p.nwb", dff=False)
    with h5py.File(path, "r+") as file:
        group = file["processing/ophys/Fluorescence"]
        for seed, name in enumerate(names, start=5):
            file.copy(group["traces"], group, name=name)
            group[name].attrs["object_id"] = name
            group[f"{name}/rois"].attrs["table"] = group["traces/rois"].attrs["table"]  # a copy loses it
            group[f"{name}/data"][...] = values(4, seed)
    session = read(path)
    np.testing.assert_array_equal(session.signals["fluorescence"].value, values(4, 0))
    np.testing.assert_array_equal(session.signals[names[0]].value, values(4, 5))
    assert compare_with_source(session, path).differences == []


def test_neurons_one_series_each(tmp_path):
    session = read(neuron_file(tmp_path / "single.nwb"))
    assert session.units.id.tolist() == [f"neuron_{row}" for row in range(11)]  # 10 behind 9, not behind 1
    np.testing.assert_array_equal(session.signals["fluorescence"].value, values(11, 0))
    assert set(session.signals) == {"fluorescence"}
    half = N_FRAMES // 2
    assert (session.observed.stop_ns - session.observed.start_ns).tolist() == [half * NS_PER_S // 10] * 2


def test_frames_that_are_not_finite(tmp_path):
    path = imaged_file(tmp_path / "nan.nwb", dff=False)
    with h5py.File(path, "r+") as file:
        file["processing/ophys/Fluorescence/traces/data"][20:30, 2] = np.nan
    session = read(path)
    assert not session.signals["fluorescence"].valid[20:30].any()
    assert session.observed.stop_ns.tolist() == [25 * 10**8, 65 * 10**8]
    assert compare_with_source(session, path).differences == []


@pytest.mark.parametrize(
    "make",
    [
        imaged_file,
        pytest.param(lambda path: imaged_file(path, dff=False), marks=pytest.mark.long),
        pytest.param(lambda path: imaged_file(path, stamps=np.arange(N_FRAMES) * 0.1 + 3), marks=pytest.mark.long),
        lambda path: turned(imaged_file(path.with_stem("before"), dff=False, stamps=np.arange(N_FRAMES) * 0.1), path),
        neuron_file,
    ],
)
def test_the_other_reader_agrees_and_sees_every_change(tmp_path, make):
    path = make(tmp_path / "one.nwb")
    session = read(path)
    result = compare_with_source(session, path)
    assert result.differences == []
    assert result.n_units == len(session.units)
    with edited(path, tmp_path / "other.nwb") as file:
        name = (
            "processing/ophys/DfOverF/traces"
            if "processing/ophys/DfOverF" in file
            else "processing/ophys/Fluorescence/traces"
        )
        name = name if "processing/ophys" in file else "processing/imaging/Calcium/neuron_10"
        file[f"{name}/data"][1] = 9.0
    assert compare_with_source(session, tmp_path / "other.nwb").differences != []


def test_what_is_no_imaging_is_refused(tmp_path):
    for path in (
        neuron_file(tmp_path / "clocks.nwb", 3, shared=False),
        neuron_file(tmp_path / "joints.nwb", 3, group="Joints"),
    ):
        if path.stem == "joints":
            with h5py.File(path, "r+") as file:
                for row, name in enumerate(("knee", "hip", "ankle")):
                    file.move(f"processing/imaging/Joints/neuron_{row}", f"processing/imaging/Joints/{name}")
        line = "different time stamps" if path.stem == "clocks" else "and no imaged ROIs"
        with pytest.raises(SourceError, match=line):
            read(path)


def test_a_session_without_spikes_goes_all_the_way(tmp_path):
    """Store, verify, inspect, splits and every scheme: served with its fluorescence, or refused in one clear line."""
    workspace = Workspace(tmp_path / "root")
    (outcome,) = ingest(workspace, [imaged_file(tmp_path / "two.nwb")])
    assert outcome.error is None, outcome.message
    session = read_session(workspace.store_path("local/two"))
    assert (len(session.units), len(session.spikes)) == (4, 0)
    (done,) = tokenize(workspace, ["local/two"], [scheme() for scheme in SCHEMES.values()])
    assert done.error is None, done.message
    states = {t.scheme: t for t in done.result}
    assert states["fluorescence"].state == "new"
    assert states["frames"].notes == ["local/two has 0 stimuli (none), scheme frames reads one"]  # it reads no units
    for name in set(SCHEMES) - {"fluorescence", "frames"}:  # no counts of zero for units whose spikes nobody recorded
        assert states[name].state == "not served"
        assert states[name].notes == ["local/two has no spikes, its units were imaged: use --scheme fluorescence"]
    (checked,) = verify(workspace, ["local/two"])
    assert checked.error is None, checked.message
    assert checked.result.differences == []
    told = spiketok(workspace.root, "inspect", "local/two")
    assert "(frames)" in told.stdout
    assert "nan" not in told.stdout.lower()
