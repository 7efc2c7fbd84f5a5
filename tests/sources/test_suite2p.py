"""suite2p: planes and labels are what numpy reads of the same files, and no pickle is ever loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import SourceError, UsageError
from spiketok.pipeline.tokenize import tokenize
from spiketok.pipeline.verify import verify
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Session, Source
from spiketok.sources.formats.sorting import looks_like, read_sorting
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import SCHEMES
from tests.cli.test_cli import spiketok
from tests.folders import save, write_suite2p


def read(folder: Path, **options: object) -> Session:
    return read_sorting(folder, "set/one", Source(folder.name, "0" * 64, 10**6), "suite2p", **options)


@pytest.mark.parametrize("rate_hz", [7.5, 15, 30.03])
def test_planes_are_one_session(tmp_path, rate_hz):
    folder = write_suite2p(tmp_path, (3, 4), rate_hz=rate_hz)
    (folder / "combined").mkdir()
    save(folder / "combined" / "F.npy", np.zeros((7, 600)))  # the same once more: not read
    session = read(folder, start_s=1.25)
    assert session.units.id.tolist() == [f"plane{p}:{k}" for p, n in ((0, 3), (1, 4)) for k in range(n)]
    assert session.units.columns["plane"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    expected = np.concatenate([np.load(folder / f"plane{p}/iscell.npy") for p in (0, 1)])
    assert session.units.columns["iscell"].tolist() == expected.tolist()
    for name, stored in (("F", FLUORESCENCE), ("Fneu", "Fneu"), ("spks", "spks")):
        value = np.concatenate([np.load(folder / f"plane{p}/{name}.npy") for p in (0, 1)]).T
        assert np.array_equal(session.signals[stored].value, value)
        assert session.signals[stored].rate_hz == rate_hz
    time_ns = [round((1.25 + k / rate_hz) * NS_PER_S) for k in range(600)]
    assert np.abs(session.signals[FLUORESCENCE].time_ns - time_ns).max() <= 1
    assert (len(session.spikes), session.observed_source) == (0, "frames")
    assert {note.id for note in session.notes} == {"units-from-rois"}


def test_a_plane_by_itself(tmp_path):
    folder = write_suite2p(tmp_path)
    assert read(folder).units.id.tolist() == ["0", "1", "2", "3"]
    assert read(folder / "plane0").units.id.tolist() == ["0", "1", "2", "3"]
    assert len(read(tmp_path).units) == 4
    assert [looks_like(place) for place in (folder, folder / "plane0", tmp_path)] == ["suite2p"] * 3


def test_a_last_volume_that_is_not_whole_is_left_out(tmp_path):
    session = read(write_suite2p(tmp_path / "a", (2, 2, 3), (600, 600, 599)))
    assert len(session.signals[FLUORESCENCE].time_ns) == 599
    assert "planes-cut" in {note.id for note in session.notes}
    with pytest.raises(SourceError, match="its planes have 590 to 600 frames"):
        read(write_suite2p(tmp_path / "b", (2, 2), (600, 590)))


class Runs:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_loaded(tmp_path):
    folder = write_suite2p(tmp_path)
    for name in ("ops", "stat"):
        save(folder / f"plane0/{name}.npy", {"fs": 20.0, "x": Runs(tmp_path / "ran")}, allow_pickle=True)
    assert read(folder).signals[FLUORESCENCE].rate_hz == 20.0
    for name in ("F", "iscell"):
        save(folder / f"plane0/{name}.npy", np.array([Runs(tmp_path / "ran")] * 4, object), allow_pickle=True)
        with pytest.raises(SourceError, match=f"suite2p/plane0/{name}.npy holds pickled Python objects"):
            read(folder)
        write_suite2p(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda f: [(p / "ops.npy").unlink() for p in f.iterdir()], "ops.npy says nothing .*--frame-rate HZ"),
        (lambda f: [os.truncate(p / "ops.npy", 150) for p in f.iterdir()], "says nothing"),
        (lambda f: save(f / "plane0/ops.npy", {"fs": 12.0}, allow_pickle=True), "says 7.5 Hz and 12 Hz"),
        (lambda f: save(f / "plane0/ops.npy", {"fs": "quick"}, allow_pickle=True) and (f / "plane1/ops.npy").unlink(),
         "says nothing"),
        (lambda f: [save(p / "F.npy", np.zeros((600_000, 1))) for p in f.iterdir()] + [
            (p / f"{n}.npy").unlink() for p in f.iterdir() for n in ("Fneu", "spks")], "have 1200000 ROIs"),
        (lambda f: (f / "plane1/spks.npy").unlink(), "spks.npy is missing in plane1"),
        (lambda f: save(f / "plane1/spks.npy", np.zeros((3, 599))), "F.npy has .3, 600."),
        (lambda f: save(f / "plane1/iscell.npy", np.zeros((4, 2))), "expected two numbers of 3 ROIs"),
        (lambda f: [save(p / "F.npy", np.zeros((0, 600))) for p in f.iterdir()], "F.npy is float64 of shape .0, 600."),
        (lambda f: os.truncate(f / "plane0/F.npy", 3000), "claims float32"),
        (lambda f: [p.rename(f / f"x{p.name}") for p in f.iterdir()], "holds no F.npy, nor any below plane0"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_line(tmp_path, break_it, line):
    folder = write_suite2p(tmp_path, (2, 3))
    break_it(folder)
    with pytest.raises(SourceError, match=line) as raised:
        read(folder)
    assert "\n" not in str(raised.value)


def test_ingest_verify_and_tokenize(tmp_path):
    folder = write_suite2p(tmp_path / "mouse", (3, 4))
    root = tmp_path / "root"
    done = spiketok(root, "ingest", "--sorter", "suite2p", "--frame-rate", "8", "--json", folder.parent)
    (row,) = json.loads(done.stdout)
    assert (row["session"], row["units"], row["seconds"]) == ("local/mouse", 7, 75.0)
    (folder / "plane0/data.bin").write_bytes(bytes(5))  # not read, so not of the digest
    (checked,) = verify(Workspace(root), ["local/mouse"])
    assert checked.result.differences == []
    (baked,) = tokenize(Workspace(root), ["local/mouse"], [SCHEMES["fluorescence"]()])
    assert baked.error is None, baked.message
    save(folder / "plane0/F.npy", np.zeros((3, 600)))
    (checked,) = verify(Workspace(root), ["local/mouse"])
    assert "ingest it again" in checked.result.differences[0]
    with pytest.raises(UsageError, match="--frame-rate says nothing of the output of phy"):
        read_sorting(_phy(tmp_path), "a/b", Source("x", "", 0), "phy", frame_rate_hz=2.0)


def _phy(tmp_path: Path) -> Path:
    from tests.sources.test_sorting import write_phy

    return write_phy(tmp_path / "phy")
