"""Stimuli in NWB files: image series, index series and their templates, through both readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from pynwb.base import ImageReferences, Images
from pynwb.image import GrayscaleImage, ImageSeries, IndexSeries

from spiketok.pipeline.inspect import describe_path
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.store import read_session, write_session
from tests.nwb_files import new_file, save

MOVIE = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
GRATINGS = np.linspace(-1, 1, 18).reshape(3, 2, 3)
PLACE = "stimulus/presentation"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    nwb = new_file()
    nwb.add_unit(spike_times=[0.1, 0.2, 9.0])
    stamps = [0.0, 1.0, 2.0, 8.0]  # the third frame does not stay for six seconds
    nwb.add_stimulus(ImageSeries(name="movie", data=MOVIE, timestamps=stamps, unit="n.a."))
    colours = np.stack([MOVIE, 2 * MOVIE, 0 * MOVIE], axis=-1)
    nwb.add_stimulus(ImageSeries(name="colours", data=colours, rate=4.0, starting_time=0.5, unit="n.a."))
    files = {"format": "external", "external_file": ["movie.avi"], "starting_frame": [0], "timestamps": [0.0]}
    nwb.add_stimulus(ImageSeries(name="elsewhere", unit="n.a.", **files))
    template = ImageSeries(name="gratings", data=GRATINGS, rate=1.0, unit="n.a.")
    nwb.add_stimulus_template(template)
    order = [GrayscaleImage(name=name, data=MOVIE[k]) for k, name in enumerate("ca")]
    images = Images(name="scenes", images=order, order_of_images=ImageReferences(name="order_of_images", data=order))
    nwb.add_stimulus_template(images)
    shown = {"timestamps": [1.0, 2.0, 3.0], "unit": "N/A"}
    nwb.add_stimulus(IndexSeries(name="shown", data=np.array([2, 0, 2], np.uint32), indexed_images=images, **shown))
    nwb.add_stimulus(IndexSeries(name="seen", data=np.array([1, 0, 1], np.uint32), indexed_images=images, **shown))
    path = save(nwb, tmp_path_factory.mktemp("stimuli") / "stimuli.nwb")
    with h5py.File(path, "r+") as file:  # what older files have, and pynwb reads but does not write
        group = file["stimulus/presentation/shown"]
        del group["indexed_images"]
        group["indexed_timeseries"] = h5py.SoftLink("/stimulus/templates/gratings")
    return path


@pytest.fixture(scope="module")
def session(path) -> Session:
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, 1))


def test_frames_and_when_each_was_shown(session):
    assert set(session.stimuli) == {"movie", "colours", "shown", "seen"}
    movie = session.stimuli["movie"]
    np.testing.assert_array_equal(movie.frames, MOVIE)
    assert (movie.time_ns / NS_PER_S).tolist() == [0, 1, 2, 8]
    assert (movie.stop_ns / NS_PER_S).tolist() == [1, 2, 3, 9]
    assert movie.frame.tolist() == [0, 1, 2, 3]
    colours = session.stimuli["colours"]
    np.testing.assert_array_equal(colours.frames, np.rint(MOVIE * (0.299 + 2 * 0.587)))
    assert (colours.time_ns / NS_PER_S).tolist() == [0.5, 0.75, 1.0, 1.25]
    assert (colours.stop_ns[-1] / NS_PER_S) == 1.5
    assert session.stimuli["shown"].frame.tolist() == [2, 0, 2]
    np.testing.assert_array_equal(session.stimuli["shown"].frames, GRATINGS.astype(np.float32))
    np.testing.assert_array_equal(session.stimuli["seen"].frames, MOVIE[:2])
    (note,) = [f.text for f in session.notes if f.id == "series-left-out"]
    assert "stimulus/presentation/elsewhere (ImageSeries: no frames in the file)" in note


def test_the_other_reader_agrees_and_sees_what_is_wrong(path, session):
    assert verify_session(session, path) == []
    movie = session.stimuli["movie"]
    frames, frame = movie.frames.copy(), movie.frame.copy()
    frames[1, 0, 0] += 1
    frame[2] = 0
    for changed, said in [
        ({"frames": frames}, "stimulus/presentation/movie: frames: 1 of 24 values differ"),
        ({"frame": frame}, "movie: which frame is shown: 1 of 4 values differ"),
        ({"time_ns": movie.time_ns + 1, "stop_ns": movie.stop_ns + 1}, "movie: times in ns"),
    ]:
        wrong = replace(session, stimuli={**session.stimuli, "movie": replace(movie, **changed)})
        assert said in "\n".join(verify_session(wrong, path))
    gone = {name: s for name, s in session.stimuli.items() if name != "movie"}
    (line,) = verify_session(replace(session, stimuli=gone), path)
    assert line == "stimulus/presentation/movie: missing in the session, and no note says why"
    (line,) = verify_session(replace(session, stimuli={**session.stimuli, "more": movie}), path)
    assert line == "stimulus 'more': 4 presentations, none in the source"


def test_it_is_stored_and_told(session, tmp_path):
    write_session(session, tmp_path / "one")
    again = read_session(tmp_path / "one")
    np.testing.assert_array_equal(again.stimuli["shown"].frames, session.stimuli["shown"].frames)
    rows = {row["stimulus"]: row for row in describe_path(tmp_path / "one").tables["stimuli"]}
    assert rows["movie"] == {
        "stimulus": "movie", "frames": "4 of 2 x 3 (uint8)", "presentations": 4, "of nothing": 0, "seconds": 4.0
    }  # fmt: skip


def _changed(path: Path, folder: Path, change) -> Session:
    target = folder / "changed.nwb"
    target.write_bytes(path.read_bytes())
    with h5py.File(target, "r+") as file:
        change(file)
    return read_nwb(target, "set/one", Source("a.nwb", "0" * 64, 1))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("shown", lambda f: f[f"{PLACE}/shown/data"].__setitem__(0, 3), "IndexSeries: index 3 of 3 pictures"),
        ("shown", lambda f: f[f"{PLACE}/shown"].pop("indexed_timeseries"), "IndexSeries: no template"),
        ("shown", lambda f: f["stimulus/templates/gratings/data"].__setitem__(0, np.nan), "pixels that are not finite"),
        ("movie", lambda f: f[f"{PLACE}/movie/timestamps"].__setitem__(slice(None), np.nan), "no picture with"),
    ],
)
def test_what_is_no_stimulus_is_named(path, tmp_path, name, change, said):
    session = _changed(path, tmp_path, change)
    assert name not in session.stimuli
    (note,) = [f.text for f in session.notes if f.id == "series-left-out"]
    assert said in note
