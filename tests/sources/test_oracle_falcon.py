"""Our tensors against falcon-challenge 1.0.2 itself, run by ``make oracle``; and what golden/falcon was recorded by.

Record anew, where the layouts change: ``python -m tests.sources.test_oracle_falcon`` in the oracle environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spiketok.pipeline.export.falcon_tensors import bin_edges, falcon_tensors, smooth_causal, standardize
from spiketok.recording.nouns import Session, Source
from spiketok.sources.catalogue.falcon.rules import H1_SETS, adjust
from spiketok.sources.formats.nwb import read_nwb
from tests.layouts import falcon as layout
from tests.sources.test_falcon import GOLDEN, NAMES, digests

pytestmark = pytest.mark.oracle


def load(path: Path, name: str) -> SimpleNamespace:
    """The reference loader's arrays in our names, targets as the float32 that a session keeps."""
    from falcon_challenge.config import FalconTask
    from falcon_challenge.dataloaders import load_nwb

    neural, target, change, mask = load_nwb(path, FalconTask["m1" if name == "falcon_m1b" else name[-2:]])
    target = tuple(target) if isinstance(target, list) else np.asarray(target).astype(np.float32)
    return SimpleNamespace(neural=neural, target=target, trial_change=change, eval_mask=mask)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, list[layout.Made]]:
    root = tmp_path_factory.mktemp("falcon")
    return {name: layout.write_set(root / name, name) for name in NAMES}


def adjusted(one: layout.Made) -> Session:
    return adjust(read_nwb(one.path, "falcon/x", Source(one.asset, "0" * 64, 1), mends_clocks=True), one.path)


@pytest.mark.parametrize("name", NAMES)
def test_every_array_is_the_references(made, name):
    for one in made[name]:
        ours, theirs = falcon_tensors(adjusted(one), one.path), load(one.path, name)
        assert np.array_equal(ours.neural, theirs.neural)
        assert ours.neural.max() < 256  # uint8 there
        if name == "falcon_h2":
            assert all(np.array_equal(a, b) for a, b in zip(ours.target, theirs.target, strict=True))
        else:
            assert np.array_equal(ours.target, theirs.target)
        assert np.array_equal(ours.trial_change, theirs.trial_change)
        assert np.array_equal(ours.eval_mask, theirs.eval_mask)


def test_an_offset_is_read_as_the_reference_does(tmp_path):
    one = layout.write_h1(tmp_path, layout.HELD_OUT, offset_s=3.5)
    ours, theirs = falcon_tensors(adjusted(one), one.path), load(one.path, "falcon_h1")
    assert np.array_equal(ours.neural, theirs.neural)
    assert np.array_equal(ours.target, theirs.target)


def test_b1_trials_change_where_the_reference_thinks(tmp_path):
    """It truncates a product of float64, which now and then lies just below a whole number."""
    one = layout.write_b1(tmp_path, layout.HELD_IN, trial_s=0.1, n_trials=60)
    session = adjusted(one)
    ours, theirs = falcon_tensors(session), load(one.path, "falcon_b1")
    assert np.array_equal(ours.trial_change, theirs.trial_change)
    exact = np.flatnonzero(falcon_tensors(session, reading="exact").trial_change)
    assert exact.tolist() == (np.arange(1, 61) * 3000 - 1).tolist()
    assert 0 < (exact != np.flatnonzero(ours.trial_change)).sum() < 10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_start", [False, True])
def test_edges_are_bin_units_after_gaps(seed, is_start, capsys):
    """Uneven stamps and spikes on edges, decided by the same last bits."""
    import pandas as pd
    from falcon_challenge.dataloaders import bin_units

    rng = np.random.default_rng(seed)
    stamp_s = np.cumsum(rng.choice([0.02, 0.02, 0.02, 0.022, 0.012, 10.02], 300)) + 1
    times = [np.sort(rng.choice(np.concatenate([stamp_s, stamp_s + 0.02, rng.uniform(0, 400, 500)]), 800))]
    theirs = bin_units(pd.DataFrame({"spike_times": times}), 0.02, stamp_s, is_timestamp_bin_start=is_start)
    edges, counts = bin_edges(stamp_s + 0.02 if is_start else stamp_s, 0.02)
    assert np.array_equal(np.histogram(times[0], edges)[0][counts], theirs[:, 0])


def test_smoothing_and_scores_are_the_decoders():
    from decoder_demos.decoding_utils import zscore_data
    from decoder_demos.filtering import apply_exponential_filter

    counts = np.random.default_rng(0).poisson(0.8, (2000, 9)).astype(float)
    counts[:, 4] = 2
    for extent in (1, 3):
        ours, theirs = smooth_causal(counts, extent=extent), apply_exponential_filter(counts, extent=extent)
        assert np.allclose(ours, theirs, rtol=0, atol=1e-13)
    assert np.allclose(standardize(counts), zscore_data(counts), rtol=0, atol=1e-13)


def reference(root: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """What golden/falcon holds: digests of every array, and the counts of the smallest files."""
    from falcon_challenge.config import H1_NEW_TO_OLD

    files, counts = {}, {}
    for name in NAMES:
        for one in layout.write_set(root / name, name):
            theirs = load(one.path, name)
            files[one.asset] = digests(theirs)
        counts[name] = np.asarray(theirs.neural).astype(np.uint8)
    return {"from": "falcon-challenge 1.0.2", "h1_sets": H1_NEW_TO_OLD, "files": files}, counts


def test_golden_is_what_the_reference_gives(tmp_path):
    facts, counts = reference(tmp_path)
    assert json.loads((GOLDEN / "reference.json").read_text()) == facts
    with np.load(GOLDEN / "minival_counts.npz") as file:
        assert all(np.array_equal(file[name], count) for name, count in counts.items())
    assert facts["h1_sets"] == H1_SETS


def record() -> None:
    import tempfile

    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        facts, counts = reference(Path(root))
    (GOLDEN / "reference.json").write_text(json.dumps(facts, indent=1) + "\n")
    np.savez_compressed(GOLDEN / "minival_counts.npz", **counts)


if __name__ == "__main__":
    record()
