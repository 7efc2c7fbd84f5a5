"""ibl-bwb-eval 0.1.0 itself (``make oracle``) takes the files of runs and scores them as we do.

One run is of files that lie here; the other goes the whole way that docs/bwb.md tells: files that torch_brain wrote, in
a bucket, fetched, divided, tokenized, trained on, exported. The truth of that one is cut by torch_brain, not by us.
"""

from __future__ import annotations

import json
import warnings
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.evaluation.scoring import bwb
from spiketok.evaluation.scoring.bwb import BwbScorer
from spiketok.evaluation.scoring.bwb_files import write_trial_truth
from tests.cli.test_cli import spiketok
from tests.evaluation.scoring.golden import far
from tests.evaluation.test_bwb_export import root, write_truths  # noqa: F401
from tests.layouts import bwb as layout
from tests.s3_server import open_bucket

pytestmark = pytest.mark.oracle
KEY = "brainsets/all_units/ibl_brain_wide_bench_2026/eval/{eid}.h5"
EIDS = (layout.EID, layout.EID.replace("1", "6"))
LABELS = {"choice": "choice", "reward": "reward", "stimulus_contrast": "stimulus_contrast"}
SERIES = {
    "wheel_speed": "wheel", "licking_rate": "licks", "whisker_motion_energy": "whisker",
    "left_paw_speed": "paws", "right_paw_speed": "paws",
}  # fmt: skip
TRAIN = (
    *("train", "-m", "poyo_plus", "--hold-out", "none", "--task"),
    ",".join([*(f"decode:{name}" for name in SERIES), *(f"classify:{name}" for name in LABELS)]),
    *("--set", "split.kind=stored", "--set", "split.set=ts1", "--set", "data.window_ms=1000", "--set", "seed=43"),
    *("--set", "size=tiny", "--set", "optim.steps=3", "--set", "data.batch_size=8"),
    *("--set", "task.classify.at=start"),
)


def both(said: Path, truth: Path) -> tuple[dict, dict]:
    """Scores by ibl-bwb-eval, and by us."""
    from ibl_bwb_eval.scoring import ts1, ts2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {**ts1.score_dir(said, truth), **ts2.score_dir(said, truth)}
        ours, _ = bwb.score_folder(said, truth)
    return {bwb.Key(*parts): scores for parts, scores in theirs.items()}, ours


def assert_equal(theirs: dict, ours: dict) -> None:
    assert set(theirs) == set(ours)
    for key, scores in theirs.items():
        assert scores
        for name, value in scores.items():
            assert far(ours[key][name], value) <= 1e-6, (key, name)


def test_its_scores_of_a_run_are_ours(root):  # noqa: F811
    theirs, ours = both(root / "said", write_truths(root))
    assert len(theirs) == 7 * 2  # tasks, sessions: none was left out
    assert_equal(theirs, ours)


def written_by_torch_brain(folder: Path, eid: str, seed: int) -> bytes:
    from torch_brain.data import Data

    layout.write(folder / "ours.h5", seed=seed, eid=eid, n_units=10)
    with h5py.File(folder / "ours.h5", "r") as file, h5py.File(folder / "theirs.h5", "w") as other:
        Data.from_hdf5(file, lazy=False).to_hdf5(other)
    return (folder / "theirs.h5").read_bytes()


def truth_by_torch_brain(file: Path, eid: str, truth: Path) -> int:
    """The targets of the test windows, as slices of the file; how many there are."""
    from torch_brain.data import Data

    n = 0
    with closing(h5py.File(file, "r")) as h5:
        data = Data.from_hdf5(h5, lazy=False)
        aligned = data.task_aligned_intervals
        for task in [*LABELS, *SERIES]:
            table = {"licking_rate": aligned.licking_window}.get(task, aligned.movement_window)
            table = getattr(aligned, task) if task in LABELS else table
            index = dict(zip(table.start.tolist(), table.trial_index.tolist(), strict=True))
            confident = f"num_{task.removesuffix('_speed')}_confident" if "paw" in task else ""
            sure = dict(zip(table.start.tolist(), getattr(table, confident), strict=True)) if confident else {}
            label = dict(zip(table.start.tolist(), getattr(table, task), strict=True)) if task in LABELS else {}
            own = table & data.ts1_test_domain & aligned.domain
            spans = [(a, b) for a, b in zip(own.start, own.end, strict=True) if b - a > 0.99 and sure.get(a, 1) >= 1]
            values, masks = [], []
            for start, end in spans:
                if task in LABELS:
                    values.append(label[start])
                    continue
                cut = getattr(data.slice(start, end), SERIES[task])
                value = getattr(cut, task)
                if task == "licking_rate":
                    value = np.rint(value / 50)
                elif task != "wheel_speed":
                    told = getattr(getattr(data.ts1_normalize, SERIES[task]), task)
                    value = (value - told.mean) / told.std
                values.append(value)
                masks += [getattr(cut, f"is_{task.removesuffix('_speed')}_confident")] if confident else []
            trial_id = np.array([index[start] for start, _ in spans])
            write_trial_truth(truth, f"ts1-{task}", eid, trial_id, np.array(values), np.array(masks) if masks else None)
            n += len(spans)
    return n


def test_from_a_bucket_to_its_scores(tmp_path):
    pytest.importorskip("torch_brain.data")
    bodies = {eid: written_by_torch_brain(tmp_path, eid, seed) for seed, eid in enumerate(EIDS, 7)}
    work = tmp_path / "root"
    with open_bucket("brain-wide-bench", {KEY.format(eid=eid): body for eid, body in bodies.items()}) as url:
        spiketok(work, "fetch", "ibl_bwb", "--api-url", url)
    files = {eid: work / "raw/s3/brain-wide-bench" / KEY.format(eid=eid) for eid in EIDS}
    assert all(files[eid].read_bytes() == body for eid, body in bodies.items())
    splits = json.loads(spiketok(work, "splits", "--json").stdout)["divisions"]
    assert {(row["session"], row["division"]) for row in splits} >= {(f"ibl_bwb/{eid}", "set ts1") for eid in EIDS}
    spiketok(work, "tokenize", "--scheme", "per-spike")
    spiketok(work, *TRAIN)
    (run,) = (work / "runs").glob("poyo_plus-*")
    spiketok(work, "export", run.name, "--to", "bwb", "--out", work / "said", "--label", "mine")
    spiketok(work, "verify", run.name)
    n = [truth_by_torch_brain(files[eid], eid, work / "truth") for eid in EIDS]
    assert min(n) > 50
    assert BwbScorer(deterministic=True).check(work / "said", work / "truth") == []
    theirs, ours = both(work / "said", work / "truth")
    assert len(theirs) == (len(LABELS) + len(SERIES)) * len(EIDS)
    assert_equal(theirs, ours)
