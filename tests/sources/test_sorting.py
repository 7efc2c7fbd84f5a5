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

pytest.importorskip("spikeinterface", reason="spikeinterface is not installed (pip install 'spiketok[sorting]')")

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
    # the last spike lies alone, an hour behind all others
    assert found(session) == {"units-silent": 1, "observed-assumed": 1, "spikes-unobserved": 1}


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


def test_no_unit_is_left_out_because_a_table_lacks_it(tmp_path):
    """Curated clusters in one table, all in another; a cell that nothing states is empty."""
    folder = write_phy(tmp_path / "phy")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n3\tgood\n12\tnoise\n")
    session = read(folder, "phy")
    assert (session.units.id.tolist(), len(session.spikes)) == (["3", "7", "12", "20"], 7)
    assert session.units.columns["quality"].tolist() == ["good", "", "noise", ""]
    assert session.units.columns["KSLabel"].tolist() == ["good", "good", "mua", "mua"]
    for table in folder.glob("cluster_*.tsv"):
        table.unlink()
    assert read(folder, "phy").units.id.tolist() == ["3", "7", "12"]


def test_the_table_of_a_column_wins_over_the_summary(tmp_path):
    folder = write_phy(tmp_path / "phy")
    (folder / "cluster_info.tsv").write_text(
        "cluster_id\tch\tgroup\tfr\n3\t1\tgood\t0.5\n7\t2\tgood\t\n\t3\tgood\t2\nx\t1\t\t\n20\t\tnoise\t1e2\n"
    )
    session = read(folder, "phy")
    columns = session.units.columns
    assert columns["quality"].tolist() == ["good", "mua", "", "noise"]  # not the summary's "good" of 7
    assert np.array_equal(columns["ch"], [1.0, 2.0, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(columns["fr"], [0.5, np.nan, np.nan, 100.0], equal_nan=True)
    notes = {note.id: note for note in session.notes}
    assert notes["sorter-tables-differ"].count == 1
    assert notes["sorter-table-rows"].count == 2
    assert "cluster_info.tsv, line 4 (its id is ''), cluster_info.tsv, line 5 (its id is 'x')" in (
        notes["sorter-table-rows"].text
    )


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.int32, np.float64, ">u8"])
def test_samples_of_any_type_are_whole_and_may_be_negative(tmp_path, dtype):
    folder = write_phy(tmp_path / "phy")
    below = np.where(np.arange(7) == 0, -5, FRAMES)
    np.save(folder / "spike_times.npy", below.astype(np.int64).astype(dtype) if dtype != np.float64 else below * 1.0)
    session = read(folder, "phy")
    assert session.spikes.time_ns[0] == -round(5e9 / 30_000)
    assert [(n.id, n.count) for n in session.notes if n.id == "spikes-negative"] == [("spikes-negative", 1)]
    np.save(folder / "spike_times.npy", FRAMES / 30_000)
    with pytest.raises(SourceError, match="spike_times.npy is float64 and holds 0.000333.* whole numbers of samples"):
        read(folder, "phy")
    np.save(folder / "spike_times.npy", FRAMES * 1_000_000)
    with pytest.raises(SourceError, match="over two days at 30000 Hz"):
        read(folder, "phy")


def test_spikeinterface_reads_the_same_where_it_can(tmp_path):
    from spikeinterface.extractors import read_phy

    folder = write_phy(tmp_path / "phy")
    theirs = read_phy(folder)
    times = {str(u): theirs.get_unit_spike_train(u).tolist() for u in theirs.unit_ids}
    ours = read(folder, "phy")
    assert {u: [round(t * 30_000 / 1e9) for t in own] for u, own in unit_times(ours).items()} == times
    assert ours.units.columns["Amplitude"].tolist() == theirs.get_property("Amplitude").tolist()


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda f: (f / "params.py").unlink(), "holds no params.py"),
        (lambda f: (f / "spike_times.npy").unlink(), "holds no spike_times.npy"),
        (lambda f: (f / "spike_times.npy").write_bytes(b"no array"), "spike_times.npy is no npy file"),
        (lambda f: np.save(f / "spike_times.npy", FRAMES[:3]), "spike_times.npy has 3 spikes, spike_clusters.npy 7"),
        (lambda f: (f / "params.py").write_text("n = 1\n"), "sampling frequency None Hz"),
        (lambda f: (f / "params.py").write_text("sample_rate = 0\n"), "sampling frequency 0 Hz"),
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

    assert set(SORTERS) - {"alf", "suite2p"} <= set(sorting_extractor_full_dict)


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


IDS = (2, 5, 9, 14)


def write_spikes(
    folder: Path, frame: np.ndarray, *, rate: str = "30000.", tables: dict[str, str] | None = None
) -> Path:
    """As Kilosort writes them: samples in order, the cluster of each, tables by name."""
    folder.mkdir(parents=True)
    np.save(folder / "spike_times.npy", frame)
    np.save(folder / "spike_clusters.npy", np.array(IDS)[np.arange(frame.size) * 7 % 11 % 4].astype(np.int32))
    (folder / "params.py").write_text(f"sample_rate = {rate}\n")
    for name, text in (tables or {}).items():
        (folder / name).write_text(text)
    return folder


def samples(n: int = 4000, lasts_s: float = 70.0, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(0, int(lasts_s * 30_000), n))


def found(session: Session) -> dict[str, int]:
    return {one.id: one.count for one in (*session.repairs, *session.notes)}


@pytest.mark.parametrize(
    ("change", "rate", "line"),
    [
        (
            lambda t: np.where(t > 930_000, t - 930_000, t),
            "30000.",
            "4 of 4 units begin again .* do not lie one behind",
        ),
        (lambda t: np.append(np.where(t > 930_000, t - 930_000, t)[:-1], 10**9), "30000.", "begin again"),
        (lambda t: np.round(t / 30_000).astype(np.int64), "30000.", "Hz a unit: these are no samples at 30000 Hz"),
        (lambda t: t // 30, "30000.", "Hz a unit: these are no samples at 30000 Hz"),
        (lambda t: t * 2000, "32000.", "Hz a unit: these are no samples at 32000 Hz"),
        (lambda t: t, "25.", "at which no spike is seen: mend sample_rate in params.py .is it in kHz: 25000"),
        (
            lambda t: (t + 2**31 - 900_000).astype(np.int32),
            "30000.",
            "the samples ran over that type: write them as int64",
        ),
    ],
)
def test_samples_of_no_one_recording_are_refused(tmp_path, change, rate, line):
    folder = write_spikes(tmp_path / "odd", change(samples()), rate=rate)
    with pytest.raises(SourceError, match=line):
        read(folder, "phy")


def test_odd_spikes_have_the_findings_of_nwb(tmp_path):
    plain = read(write_spikes(tmp_path / "plain", samples()), "phy")
    assert found(plain).keys() <= {"observed-assumed", "spikes-duplicate"}
    lone = samples()
    lone[-1] = 5000 * 30_000
    session = read(write_spikes(tmp_path / "lone", lone), "phy")
    assert found(session)["spikes-unobserved"] == 1
    assert session.observed.total_ns < 70 * 10**9
    filled = np.append(samples(), np.full(40, 9999 * 30_000))
    assert found(read(write_spikes(tmp_path / "filled", filled), "phy"))["spikes-filler"] == 40
    swapped = samples()
    swapped[1000:1012] = swapped[1000:1012][::-1]
    assert found(read(write_spikes(tmp_path / "swapped", swapped), "phy"))["spikes-unsorted"] > 0
    some = np.where((np.arange(4000) * 7 % 11 % 4 == 1) & (samples() > 930_000), samples() - 930_000, samples())
    assert found(read(write_spikes(tmp_path / "some", some), "phy"))["spikes-begin-again"] == 1


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int64])
def test_what_went_below_zero_is_negative_in_any_type(tmp_path, dtype):
    frame = samples()
    frame[:7] = -np.arange(70, 0, -10)
    session = read(write_spikes(tmp_path / "under", frame.astype(dtype)), "phy")
    assert found(session)["spikes-negative"] == 7
    assert session.spikes.time_ns[0] == pytest.approx(-70 / 30_000 * 1e9, abs=1)
    long = np.sort(np.random.default_rng(1).integers(0, 2**32 - 1, 40_000)).astype(np.uint32)
    if dtype is np.uint32:  # a recording of 39 h may well reach there
        assert read(write_spikes(tmp_path / "long", long, rate="30000."), "phy").spikes.time_ns[-1] > 140_000 * 10**9


def test_tables_that_state_a_cell_twice_and_other_hands_are_read_and_said(tmp_path):
    group = "cluster_id\tgroup\n2\tgood\n5\tmua\n9\tnoise\n14\tgood\n"
    twice = read(write_spikes(tmp_path / "twice", samples(), tables={"cluster_group.tsv": group + "5\tgood\n"}), "phy")
    assert found(twice)["sorter-rows-differ"] == 1
    both = {"cluster_group.tsv": group, "cluster_group.csv": "cluster_id,group\n2,noise\n5,mua\n9,mua\n"}
    session = read(write_spikes(tmp_path / "both", samples(), tables=both), "phy")
    assert found(session)["sorter-rows-differ"] == 2
    assert session.units.columns["quality"].tolist() == ["good", "mua", "noise", "good"]
    for name, text in (("semi", group.replace("\t", ";")), ("case", group.replace("cluster_id", "Cluster_ID"))):
        session = read(write_spikes(tmp_path / name, samples(), tables={"cluster_group.tsv": text}), "phy")
        assert session.units.columns["quality"].tolist() == ["good", "mua", "noise", "good"]
