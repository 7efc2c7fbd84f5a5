"""Sorter output through spikeinterface: exact times, all units and their labels, and one line for what is none."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import SourceError, UnknownNameError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.verify import verify
from spiketok.recording.nouns import Session, Source
from spiketok.sources.formats.sorting import SORTERS, read_sorting
from spiketok.storage.files import sha256_file, sha256_source
from spiketok.storage.store import read_attributes, read_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok

pytest.importorskip("spikeinterface")

FRAMES = np.array([10, 40, 40, 41, 3_000_000, 3_000_007, 108_000_000])
CLUSTERS = np.array([7, 3, 7, 3, 12, 3, 7])


def write_phy(folder: Path, *, rate: str = "30000.", listed=(3, 7, 12, 20)) -> Path:
    """As phy's documentation has it: spikes in samples, one table a property."""
    folder.mkdir(parents=True)
    np.save(folder / "spike_times.npy", FRAMES[:, None].astype(np.uint64))
    np.save(folder / "spike_clusters.npy", CLUSTERS.astype(np.int32))
    np.save(folder / "spike_templates.npy", CLUSTERS.astype(np.uint32))
    (folder / "params.py").write_text(
        f"dat_path = r'raw.dat'\nn_channels_dat = 4\ndtype = 'int16'\nsample_rate = {rate}\nhp_filtered = False\n"
    )
    labels = {3: "good", 7: "mua", 12: "", 20: "noise"}
    rows = "".join(f"{c}\t{labels[c]}\n" for c in listed)
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n" + rows)
    rows = "".join(f"{c}\t{'good' if c % 2 else 'mua'}\n" for c in listed)
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n" + rows)
    (folder / "cluster_Amplitude.tsv").write_text(
        "cluster_id\tAmplitude\n" + "".join(f"{c}\t{c / 2}\n" for c in listed)
    )
    return folder


def read(path: Path, sorter: str, **options) -> Session:
    return read_sorting(path, "set/one", Source(path.name, "0" * 64, 1), sorter, **options)


def unit_times(session: Session) -> dict[str, list[int]]:
    return {u: session.spikes.time_ns[session.spikes.unit == k].tolist() for k, u in enumerate(session.units.id)}


@pytest.mark.parametrize(("rate", "start_s"), [("30000.", 0.0), ("24414.0625", 2.5), ("30000.238", -1.0)])
def test_phy(tmp_path, rate, start_s):
    session = read(write_phy(tmp_path / "phy", rate=rate), "phy", start_s=start_s)
    expected = {}
    for cluster in (3, 7, 12, 20):
        exact = [Fraction(int(f)) * 10**9 / Fraction(rate) for f in FRAMES[cluster == CLUSTERS]]
        expected[str(cluster)] = [int(t + Fraction(1, 2)) + round(start_s * 1e9) for t in exact]
    assert unit_times(session) == expected
    assert session.clock_hz == float(rate)
    columns = session.units.columns
    assert columns["quality"].tolist() == ["good", "mua", "", "noise"]
    assert columns["KSLabel"].tolist() == ["good", "good", "mua", "mua"]
    assert columns["Amplitude"].tolist() == [1.5, 3.5, 6.0, 10.0]
    assert session.start_ns == round(start_s * 1e9)
    assert {f.id: f.count for f in session.notes} == {"units-silent": 1, "observed-assumed": 1}
    assert session.repairs == ()


def test_kilosort_keeps_every_unit(tmp_path):
    """The extractor's habit of leaving out empty units is turned off; nothing depends on the label."""
    session = read(write_phy(tmp_path / "ks"), "kilosort")
    assert session.units.id.tolist() == ["3", "7", "12", "20"]
    assert len(session.spikes) == 7


def test_npz_as_spikeinterface_writes_it(tmp_path):
    from spikeinterface.core import NpzSortingExtractor, NumpySorting

    sorting = NumpySorting.from_samples_and_labels([FRAMES], [CLUSTERS], 20_000.0)
    NpzSortingExtractor.write_sorting(sorting, str(tmp_path / "sorted.npz"))
    session = read(tmp_path / "sorted.npz", "npz")
    assert unit_times(session) == {str(c): (FRAMES[c == CLUSTERS] * 50_000).tolist() for c in (3, 7, 12)}


def test_spikes_of_clusters_that_no_table_lists_are_told(tmp_path):
    session = read(write_phy(tmp_path / "phy", listed=(3, 12)), "phy")
    assert len(session.spikes) == 4
    (repair,) = session.repairs
    assert (repair.id, repair.count) == ("sorter-spikes-without-cluster", 3)
    assert "left out 3 of 7 spikes" in repair.text


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda f: (f / "params.py").unlink(), "holds no params.py"),
        (lambda f: (f / "spike_times.npy").unlink(), "holds no spike_times.npy"),
        (lambda f: (f / "spike_times.npy").write_bytes(b"no array"), "cannot be read as the output of phy"),
        (lambda f: np.save(f / "spike_times.npy", FRAMES[:3]), "cannot be read as the output of phy"),
        (lambda f: (f / "params.py").write_text("n = 1\n"), "cannot be read as the output of phy"),
        (lambda f: (f / "params.py").write_text("sample_rate = 0\n"), "sampling frequency 0.0 Hz"),
        (
            lambda f: (f / "params.py").write_text("import os\nsample_rate = 1\n"),
            "line 1 is 'import os', which would be run",
        ),
        (lambda f: (f / "params.py").write_text("sample_rate = open('ran', 'w')\n"), "which would be run"),
        (lambda f: (f / "params.py").write_text("sample_rate ="), "is no Python"),
    ],
)
def test_a_broken_folder_is_one_line(tmp_path, break_it, line):
    folder = write_phy(tmp_path / "phy")
    break_it(folder)
    with pytest.raises(SourceError, match=line) as raised:
        read(folder, "phy")
    assert "\n" not in str(raised.value)


def test_the_wrong_thing_is_one_line(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown sorter 'phi': did you mean 'phy'"):
        read(tmp_path, "phi")
    with pytest.raises(SourceError, match="is a folder, the output of npz is a file"):
        read(tmp_path, "npz")
    (tmp_path / "file.npz").write_bytes(b"")
    with pytest.raises(SourceError, match="is a file, the output of phy is a folder"):
        read(tmp_path / "file.npz", "phy")
    with pytest.raises(SourceError, match="there is no such folder"):
        read(tmp_path / "gone", "phy")


def test_every_sorter_of_the_list_is_known_to_spikeinterface():
    from spikeinterface.extractors import sorting_extractor_full_dict

    assert set(SORTERS) <= set(sorting_extractor_full_dict)


def test_ingest_and_verify(tmp_path):
    folder = write_phy(tmp_path / "rec.phy")
    words = ("--sorter", "phy", "--start-s", "1.5", "--quality", "quality=='good'", "--json")
    done = spiketok(tmp_path / "root", "ingest", *words, folder)
    (row,) = json.loads(done.stdout)
    assert (row["session"], row["units"], row["spikes"]) == ("local/rec.phy", 1, 3)
    assert "units-below-quality (3)" in done.stderr
    workspace = Workspace(tmp_path / "root")
    attributes = read_attributes(workspace.store_path("local/rec.phy"))
    names = sorted(p.name for p in folder.iterdir())
    assert attributes["source"]["sha256"] == sha256_source(folder)
    assert attributes["source"]["size"] == sum((folder / n).stat().st_size for n in names)
    assert attributes["settings"]["sorter"] == "phy"
    assert read_session(workspace.store_path("local/rec.phy")).spikes.time_ns[0] == 1_500_000_000 + 40 * 10**9 // 30_000
    (checked,) = verify(workspace, ["local/rec.phy"])
    assert checked.error is None, checked.message
    assert checked.result.differences == []
    wanted = {k: v for k, v in attributes["settings"].items() if k != "quality"}
    assert [o.result.state for o in ingest(workspace, [folder], wanted=attributes["settings"])] == ["already"]
    assert [o.result.n_units for o in ingest(workspace, [folder], wanted=wanted)] == [4]
    np.save(folder / "spike_times.npy", FRAMES + 1)
    (checked,) = verify(workspace, ["local/rec.phy"])
    assert "ingest it again" in checked.result.differences[0]


def test_a_folders_digest_is_over_names_and_bytes(tmp_path):
    import hashlib

    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "two").write_text("2")
    (tmp_path / "a" / "one").write_text("1")
    lines = f"b/two {hashlib.sha256(b'2').hexdigest()}\none {hashlib.sha256(b'1').hexdigest()}\n"
    assert sha256_source(tmp_path / "a") == hashlib.sha256(lines.encode()).hexdigest()
    assert sha256_source(tmp_path / "a" / "one") == sha256_file(tmp_path / "a" / "one")
