"""Sessions from Python: what is read in part is what is read whole."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import spiketok
from spiketok.errors import DataError, PartError, UnknownNameError, UsageError


def test_the_package_imports_nothing_heavy_and_knows_its_names():
    code = "import spiketok, sys; print(dir(spiketok)); spiketok.open; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"'{name}'" in done.stdout for name in spiketok.__all__)
    assert done.stdout.strip().endswith("False")
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = spiketok.opne


def test_a_session_in_parts_is_the_session_whole(ws):
    stored, whole = ws["made/a"], ws["made/a"].load()
    window = stored.window(3.0, 4.5)
    expected = whole.spikes.window(3_000_000_000, 4_500_000_000)
    assert np.array_equal(window.spikes.time_ns, expected.time_ns)
    assert np.array_equal(window.spikes.unit, expected.unit)
    counts = np.bincount(whole.spikes.unit, minlength=12)
    assert stored.units["n_spikes"].tolist() == counts.tolist()
    assert stored.units["rate_hz"].tolist() == pytest.approx((counts / 30).tolist())
    assert stored.trials["side"].tolist() == ["left", "right", "left"]
    assert stored.trials["start_ns"].tolist() == whole.trials.start_ns.tolist()
    signal, own = whole.signals["hand_vel"], stored.signals["hand_vel"]
    assert np.array_equal(signal.value, own.value)
    assert np.array_equal(signal.time_ns, own.time_ns)
    assert len(window.signals["hand_vel"].time_ns) == 150
    assert stored.frame("hand_vel").loc[3.0:3.1].shape == (11, 2)
    assert np.array_equal(stored.spikes_of("u3"), stored.spikes_of(3))
    assert stored.observed.total_ns == 30_000_000_000


def test_counts_of_a_window_are_the_tokens_of_the_scheme(ws):
    window, shard = ws["a"].window(3.0, 4.5), ws.tokens("a", "binned")
    assert np.array_equal(window.counts(20), shard.window(3.0, 4.5)["counts"])
    some = np.arange(12) % 2 == 0
    kept = shard.window(3.0, 4.5, units=some)["counts"]
    assert np.array_equal(kept[:, some], window.counts(20)[:, some])
    assert not kept[:, ~some].any()


def test_sessions_are_chosen_by_globs_and_facts(ws):
    assert ws.sessions().ids == ["made/a", "made/b", "made/c"]
    assert ws.sessions("a, made/c").ids == ["made/a", "made/c"]
    assert ws.sessions(["a", ws["b"]]).ids == ["made/a", "made/b"]
    assert ws.sessions(subject="t").ids == ["made/c"]
    assert ws.sessions(where=lambda facts: facts["n_units"] > 10, signal="hand_vel").ids == ["made/a", "made/b"]
    assert ws.sessions(signal="gaze").ids == []
    assert ws.sessions()[1:].ids == ["made/b", "made/c"]
    assert ws.sessions().table()["units"].tolist() == [12, 12, 9]
    assert len(ws) == 3
    assert "made/a" in ws
    assert [session.id for session in ws] == ws.sessions().ids


def test_what_is_shown_is_short(ws):
    for shown in (ws, ws["a"], ws.sessions(), ws["a"].window(0, 1), ws["a"].signals, ws.tokens("a", "binned")):
        assert len(repr(shown)) < 200
    assert "<table>" in ws["a"]._repr_html_()
    assert "<table" in ws.sessions()._repr_html_()
    assert "hand_vel" in ws["a"]._repr_html_()
    assert "12" in ws._repr_html_() or "3" in ws._repr_html_()
    whole = ws["a"].load()
    for noun in (whole.spikes, whole.trials, whole.units, whole.signals["hand_vel"]):
        assert len(repr(noun)) < 100


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (lambda ws: ws["made/x"], UnknownNameError, "unknown session 'made/x'"),
        (lambda ws: ws["*"], UsageError, "names 3 sessions"),
        (lambda ws: ws["a"].window(2, 1), UsageError, "before it starts"),
        (lambda ws: ws["a"].window(float("nan"), 1), UsageError, "finite number"),
        (lambda ws: ws["a"].signals["gaze"], UnknownNameError, "unknown signal 'gaze'"),
        (lambda ws: ws["a"].intervals("epochs"), UnknownNameError, "unknown table of intervals"),
        (lambda ws: ws["a"].spikes_of("u99"), UnknownNameError, "unknown unit 'u99'"),
        (lambda ws: ws["a"].window(0, 1).counts(0), UsageError, "bin_ms is 0"),
        (lambda ws: ws.tokens("a", "bined"), UnknownNameError, "did you mean 'binned'"),
        (lambda ws: ws.tokens("a", "binned", bin_ms=5), DataError, "spiketok tokenize --scheme binned --bin-ms 5"),
        (lambda ws: ws.tokens("a", "binned").window(0.01, 1.0), UsageError, "not on the grid"),
        (lambda ws: ws.tokens("a", "binned").window(29, 31), DataError, "no segment holds"),
        (lambda ws: ws.tokens("a", "binned").window(0, 1, units=[True]), UsageError, "12 units"),
        (lambda ws: ws.sessions([]), UsageError, "no session is named"),
        (lambda ws: ws.simulate(n_unit=3), UnknownNameError, "n_units"),
    ],
)
def test_wrong_requests_are_one_line_that_says_the_remedy(ws, asked, error, said):
    with pytest.raises(error, match=None) as caught:
        asked(ws)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_shards_are_made_only_when_asked(tmp_path, ws):
    from spiketok.storage.store import write_session

    own = spiketok.open(tmp_path)
    write_session(ws["a"].load(), tmp_path / "store" / "made" / "a")
    with pytest.raises(DataError, match=r"no binned shard of made/a: spiketok tokenize --scheme binned"):
        own.tokens("a", "binned")
    assert not (tmp_path / "shards").exists()
    made = own.tokens("a", "binned", tokenize=True)
    assert made.reader.digest == ws.tokens("a", "binned").reader.digest


@pytest.mark.long
def test_a_bad_file_does_not_stop_the_good_ones(tmp_path):
    made = spiketok.simulate(root=tmp_path, n_subjects=1, sessions_per_subject=1, n_units=4, duration_s=6.0)
    assert len(made) == 1
    assert made[0].n_units <= 4
    (tmp_path / "bad.nwb").write_bytes(b"no NWB")
    files = [*(tmp_path / "simulated").rglob("*.nwb"), tmp_path / "bad.nwb"]
    with pytest.raises(PartError, match="1 of 2 files failed: .*bad.nwb") as caught:
        spiketok.ingest(files, root=tmp_path)
    assert list(caught.value.failed) == ["bad.nwb"]
    assert len(spiketok.open(tmp_path).sessions("local/*")) == 1
