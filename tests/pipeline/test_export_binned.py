"""Counts of windows for NDT and LFADS: against plain loops over the spikes, read by the rules of their loaders."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.pipeline.export import export_session
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session, Signal, Source, Spikes, UnitTable
from tests.cli.test_cli import spiketok
from tests.folders import write_alf

N_UNITS, N_TRIALS, LENGTH_S = 5, 40, 2.0
GO_S = 0.5


def session_of(seed: int = 0, *, gap_s: float = 1.0, lengths: np.ndarray | None = None) -> Session:
    """Trials of one length (or of these, in seconds), spikes on and off edges of bins, and a ramp as behaviour."""
    rng = np.random.default_rng(seed)
    start = np.arange(N_TRIALS) * round((LENGTH_S + gap_s) * NS_PER_S)
    stop = start + (round(LENGTH_S * NS_PER_S) if lengths is None else np.rint(lengths * NS_PER_S).astype(np.int64))
    end = int(stop[-1])
    times = [
        np.append(rng.integers(0, end, 3000), rng.integers(0, end // NS_PER_MS, 500) * NS_PER_MS) for _ in range(5)
    ]
    stamps = np.arange(0, end, 5 * NS_PER_MS)
    ramp = Signal(stamps, (stamps[:, None] / NS_PER_S).astype(np.float32), ("x",), "m", np.ones(stamps.size, np.bool_))
    return Session(
        id="own/one",
        subject="s",
        start_ns=0,
        stop_ns=end,
        units=UnitTable([f"u{k}" for k in range(N_UNITS)]),
        spikes=Spikes.from_units([np.sort(t) for t in times]),
        observed=Intervals([0], [end]),
        source=Source("x.nwb", "ab" * 32, 1),
        intervals={"trials": Intervals(start, stop, {"go_s": start / NS_PER_S + GO_S})},
        signals={"ramp": ramp},
    )


def slow_counts(session: Session, start_ns: int, n_bins: int, bin_ns: int) -> np.ndarray:
    """Spike by spike, in Python's integers."""
    out = np.zeros((n_bins, len(session.units)))
    for time, unit in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True):
        if start_ns <= time < start_ns + n_bins * bin_ns:
            out[(time - start_ns) // bin_ns, unit] += 1
    return out


def export(
    session: Session, to: str, folder: Path, **settings: object
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    done = export_session(session, "cd" * 32, to, folder, overwrite=True, settings=settings)
    with h5py.File(done.path) as file:
        return {key: file[key][()] for key in file}, done.remarks


TRIAL_SPLIT = {"kind": "trial", "seed": 3}


def test_ndt_reads_it(tmp_path):
    """By the keys and sums of its loader: units and bins of the input and of what is held out add up to all."""
    session = session_of()
    asked = {"segments": "trials:go_s,300,700", "bin_ms": 50, "forward_ms": 200, "held_out": 0.4, "behavior": "ramp"}
    arrays, remarks = export(session, "ndt_h5", tmp_path, **asked, split=TRIAL_SPLIT)
    n_rows = {}
    for name in ("train", "eval"):
        heldin, heldout = arrays[f"{name}_data_heldin"], arrays[f"{name}_data_heldout"]
        ahead = [arrays[f"{name}_data_{which}_forward"] for which in ("heldin", "heldout")]
        n_rows[name] = len(heldin)
        assert heldin.shape == (n_rows[name], 20, 3)
        assert heldout.shape == (n_rows[name], 20, 2)
        assert [part.shape for part in ahead] == [(n_rows[name], 4, 3), (n_rows[name], 4, 2)]
        assert np.array_equal(arrays[f"{name}_spikes_heldin"], heldin)
        ids = [one.decode() for one in arrays["unit_id"]]
        order = [session.units.id.tolist().index(one) for one in ids]
        begins = arrays[f"{name}_behavior"][:, 0, 0] - 0.0225  # a bin's mean is at the middle of its ten samples
        for row in range(0, n_rows[name], 7):
            start_ns = round(float(begins[row]) * 1000) * NS_PER_MS
            expected = slow_counts(session, start_ns, 24, 50 * NS_PER_MS)[:, order]
            assert np.array_equal(np.concatenate([heldin[row], heldout[row]], axis=1), expected[:20])
            assert np.array_equal(np.concatenate([part[row] for part in ahead], axis=1), expected[20:])
            assert (start_ns - round((GO_S - 0.3) * NS_PER_S)) % (3 * NS_PER_S) == 0
    assert n_rows == {"train": 28, "eval": 4}
    assert remarks[0].startswith("28 of train and 4 of valid and 8 of test: windows of 20 bins of 50 ms, 3 units given")


@pytest.mark.parametrize("forward_ms", [0, 100])
@pytest.mark.parametrize("held_out", [False, True])
def test_lfads_reads_it(tmp_path, forward_ms, held_out):
    session = session_of(1)
    if held_out:
        session = replace(
            session, units=UnitTable(session.units.id, {"held_out": np.array([False, True, False, False, True])})
        )
    given, every = ([0, 2, 3], [0, 2, 3, 1, 4]) if held_out else ([0, 1, 2, 3, 4],) * 2
    arrays, _ = export(session, "lfads_h5", tmp_path, window_ms=500, bin_ms=100, forward_ms=forward_ms)
    splits = {name: len(arrays[f"{name}_data"]) for name in ("train", "valid", "test")}
    assert min(splits.values()) > 10
    total = slow_counts(session, 0, 5 + forward_ms // 100, 100 * NS_PER_MS)
    assert np.array_equal(arrays["train_encod_data"][0], total[:5, given])
    assert np.array_equal(arrays["train_data"][0], total[:5, every])
    assert np.array_equal(arrays["train_recon_data"][0], total[:, every])
    index = np.concatenate([arrays["train_inds"], arrays["valid_inds"]])
    assert sorted(index.tolist()) == list(range(splits["train"] + splits["valid"]))
    for name, rows in splits.items():
        for key in ("encod_data", "recon_data"):
            assert len(arrays[f"{name}_{key}"]) == rows
    assert "train_behavior" not in arrays


def test_whole_trials_where_all_are_equal(tmp_path):
    session = session_of(2)
    arrays, _ = export(session, "ndt_h5", tmp_path, split=TRIAL_SPLIT)
    assert arrays["train_data_heldin"].shape == (28, 100, 5)
    assert arrays["train_data_heldout"].shape == (28, 100, 0)
    assert arrays["train_data_heldin_forward"].shape == (28, 0, 5)
    every = np.concatenate([arrays["train_data_heldin"], arrays["eval_data_heldin"]]).tolist()
    known = [slow_counts(session, int(start), 100, 20 * NS_PER_MS).tolist() for start in session.trials.start_ns[:5]]
    assert sum(one in every for one in known) >= 3  # the others are of the test split
    longer = session_of(2, lengths=np.where(np.arange(N_TRIALS) == 7, 1.4, 2.0))
    with pytest.raises(DataError, match="40 trials last 1.400 to 2.000 s, 70 to 100 bins, .* --set segments="):
        export(longer, "ndt_h5", tmp_path)


def test_no_bin_is_in_two_splits(tmp_path):
    """Windows that reach beyond their trial: none shares time with one of another split, nor with another split."""
    session = session_of(3, gap_s=0.3)
    arrays, remarks = export(
        session, "lfads_h5", tmp_path, segments="trials:start,200,2250", bin_ms=50, behavior="ramp", split=TRIAL_SPLIT
    )
    spans = []
    for name in ("train", "valid", "test"):
        begins = arrays[f"{name}_behavior"][:, 0, 0] - 0.0225
        spans += [(float(begin), float(begin) + 2.45, name) for begin in begins]
    spans.sort()
    for (_, stop, one), (start, _, other) in pairwise(spans):
        assert start >= stop - 1e-3 or one == other
    assert len(spans) < N_TRIALS
    assert any("share time with a window of another split" in remark for remark in remarks)


def test_what_was_not_observed_is_no_zero(tmp_path):
    session = session_of(4)
    third = int(session.trials.start_ns[2])
    seen = Intervals([0, third + NS_PER_S], [third + NS_PER_S // 2, session.stop_ns])
    own = np.concatenate([np.stack([seen.start_ns, seen.stop_ns], 1)] * 4 + [[[third + NS_PER_S, session.stop_ns]]])
    session = replace(session, observed=seen, unit_observed=Ragged(own, np.array([0, 2, 4, 6, 8, 9])))
    arrays, remarks = export(session, "ndt_h5", tmp_path)
    assert 20 < len(arrays["train_data_heldin"]) < 0.7 * N_TRIALS
    assert "left out: 1 windows that reach into time that was not observed" in remarks
    assert any("pairs of window and unit were not observed" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("settings", "error", "line"),
    [
        ({"segments": "trials:start,0,610"}, UsageError, "is 610 ms, no whole number of bins of 20 ms"),
        ({"window_ms": 30}, UsageError, "window_ms is 30 ms, no whole number"),
        ({"window_ms": 500, "segments": "trials:start,0,100"}, UsageError, "both say where windows are"),
        ({"behavior": "rump"}, UnknownNameError, "did you mean 'ramp'"),
        ({"bin": 3}, UnknownNameError, "bin_ms"),
        ({"bin_ms": 0}, UsageError, "bin_ms must be from"),
        ({"window_ms": 1e6}, DataError, "no window of 0 lies in train"),
        ({"held_out": 0.9, "segments": "trials:nothing,0,100"}, UnknownNameError, "trial time"),
        (
            {"split": {"kind": "block", "train": 0.5, "valid": 0, "test": 0.5}, "window_ms": 200_000},
            DataError,
            "no window",
        ),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, settings, error, line):
    with pytest.raises(error, match=line) as raised:
        export(session_of(), "ndt_h5", tmp_path, **settings)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.h5"))


def test_sessions_without_spikes_or_formats_without_settings_are_one_line(tmp_path):
    with pytest.raises(DataError, match="has no spikes to count"):
        export(replace(session_of(), spikes=Spikes.from_units([])), "lfads_h5", tmp_path, window_ms=500)
    with pytest.raises(UsageError, match="--to nwb takes no --set .it is for ndt_h5, lfads_h5."):
        export(session_of(), "nwb", tmp_path, bin_ms=5)


def test_same_bytes_and_the_command(tmp_path):
    folder, root = write_alf(tmp_path), tmp_path / "root"
    spiketok(root, "ingest", "--sorter", "alf", folder)
    words = ("--to", "lfads_h5", "--set", "segments=trials:goCue_times,200,600", "--set", "behavior=wheel_position")
    for out in ("a", "b"):
        spiketok(root, "export", "local/*", *words, "--set", "split.kind=trial", "--out", tmp_path / out)
    one, two = (next((tmp_path / out).rglob("*.lfads.h5")).read_bytes() for out in ("a", "b"))
    assert one == two
    with h5py.File(next((tmp_path / "a").rglob("*.h5"))) as file:
        assert file["train_encod_data"].shape[1:] == (40, 5)
        assert file["valid_behavior"].shape[1:] == (40, 1)
        assert file.attrs["session"] == "local/M-7_2023-05-06_001"
    refused = spiketok(root, "export", "local/*", "--to", "ndt_h5", "--set", "window_ms=7", "--out", tmp_path, code=1)
    assert "window_ms is 7 ms, no whole number of bins of 20 ms" in refused.stderr
