"""ibl-bwb-eval 0.1.0 itself (``make oracle``) on the same files: scores, aggregates, ranks, ids, neighbours."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from spiketok.evaluation.scoring import bwb, bwb_files, bwb_metrics, bwb_units
from tests.evaluation.scoring.golden import far
from tests.evaluation.scoring.submissions import CHOICE, SESSIONS, TRIALS, change, file_of, write_submission

pytestmark = pytest.mark.oracle

EXACT = 1e-6
LABELS = {"good": 0.8, "near": 0.75, "bad": 0.2}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """All eleven tasks of three labels."""
    root = tmp_path_factory.mktemp("tree")
    for label, skill in LABELS.items():
        write_submission(root, label, skill, tasks=tuple(bwb_files.TASKS))
    return root


def theirs(root: Path) -> dict:
    """Their raw scores, with a key of four parts."""
    from ibl_bwb_eval.scoring import ts1, ts2, ts3

    places = (root / "predictions", root / "truth")
    raw = {**ts1.score_dir(*places), **ts2.score_dir(*places)}
    return raw | {(label, "ts3-unit_cosmos", seed): own for (label, seed), own in ts3.score_dir(*places).items()}


def key(parts: tuple) -> bwb.Key:
    return bwb.Key(*parts) if len(parts) == 4 else bwb.Key(*parts[:2], bwb_files.ALL_RECORDINGS, parts[2])


def test_scores_aggregates_and_ranks_of_a_tree_are_theirs(tree):
    from ibl_bwb_eval.scoring import aggregation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = theirs(tree)
        scores, notes = bwb.score_folder(tree / "predictions", tree / "truth")
    assert set(scores) == {key(parts) for parts in raw} and len(scores) == 3 * 3 * (10 * 2 + 1)
    for parts, own in raw.items():
        apart = {name: far(scores[key(parts)][name], value) for name, value in own.items()}
        assert set(own) == set(scores[key(parts)]) and max(apart.values()) <= EXACT, (parts, apart)
    expected = aggregation.aggregate(raw)
    for parts, own in bwb.aggregate(scores).items():
        for name, summary in own.items():
            assert far(summary.mean, expected[parts][name][0]) <= EXACT
            assert far(summary.sem, expected[parts][name][1]) <= EXACT
    over = aggregation.aggregate_over_seeds(raw)
    for parts, own in bwb.over_seeds(scores).items():
        assert all(far(summary.mean, over[parts][name][0]) <= EXACT for name, summary in own.items())
        assert all(far(summary.sem, over[parts][name][1]) <= EXACT for name, summary in own.items())
    primary = {task: bwb_files.TASKS[task].primary for task in bwb_files.TASKS}
    places, _ = bwb.ranked(bwb.aggregate(scores))
    assert places == aggregation.rank(expected, primary)
    assert notes == [] or all("left out" not in note for note in notes)


def test_what_they_declare_of_tasks_is_what_we_say():
    from ibl_bwb_eval.tasks import COSMOS_LABELS, SUITE_TASKS, get_ts1_readout_spec, get_ts2_readout_spec, task_id

    ids = [task_id(suite, task) for suite, tasks in SUITE_TASKS.items() for task in tasks]
    assert ids == list(bwb_files.TASKS) and COSMOS_LABELS == bwb_files.REGIONS
    for task in SUITE_TASKS["ts1"]:
        spec, own = get_ts1_readout_spec(task), bwb_files.TASKS[f"ts1-{task}"]
        assert (spec.dim, spec.num_timesteps, spec.primary_metric) == (own.width, own.bins, own.primary)
        assert (spec.mask_key is not None) == own.masked
    for task in SUITE_TASKS["ts2"]:
        assert get_ts2_readout_spec(task).primary_metric == bwb_files.TASKS[f"ts2-{task}"].primary


def test_files_of_their_writer_break_no_rule_and_score_alike(tmp_path):
    import torch
    from ibl_bwb_eval.predictions import PredictionsWriter
    from ibl_bwb_eval.scoring import ts1

    predictions = write_submission(tmp_path, tasks=(CHOICE,))
    (tmp_path / "theirs").mkdir()
    for session in SESSIONS:
        for seed in (43, 44, 45):
            held = bwb_files.read_tensors(file_of(predictions, CHOICE, seed, session))
            said = {"recording_id": session, "unit_filtering": "all_units", "dataset_version": "0.1.0"}
            where = {"base_path": tmp_path / "theirs", "task": CHOICE, "seed": seed, "label": "model", "metadata": said}
            writer = PredictionsWriter(True, path_fn=lambda base, words: base / words["recording_id"], **where)
            writer.add(predictions=held["predictions"])
            writer.set(trial_id=torch.from_numpy(TRIALS))
            writer.save()
    assert bwb.BwbScorer().check(tmp_path / "theirs", tmp_path / "truth") == []
    scores, _ = bwb.score_folder(tmp_path / "theirs", tmp_path / "truth")
    assert {key(parts): own for parts, own in ts1.score_dir(tmp_path / "theirs", tmp_path / "truth").items()} == scores


@pytest.mark.parametrize("task", [task for task, own in bwb_files.TASKS.items() if own.has_recording])
@pytest.mark.parametrize(
    "spoil",
    [lambda a: a[::-1].copy(), lambda a: a[2:], lambda a: np.concatenate([a[3:4], a])],
    ids=["turned", "fewer", "twice"],
)
def test_odd_files_score_as_with_them(tmp_path, task, spoil):
    from ibl_bwb_eval.scoring import ts1, ts2

    predictions = write_submission(tmp_path, seeds=(43,), tasks=(task,))
    rows = "window_timestamps" if task.startswith("ts2") else "trial_id"
    path, truth = file_of(predictions, task), bwb_files.truth_path(tmp_path / "truth", task, SESSIONS[0])
    change(path, lambda held: held.update({name: spoil(held[name]) for name in (rows, "predictions")}))
    recorded = ts1.score_file(task, path, truth) if task.startswith("ts1") else ts2.score_file(path, truth)
    own, _ = bwb_metrics.score_file(task, path, truth)
    assert set(own) == set(recorded) and max(far(own[name], recorded[name]) for name in own) <= EXACT


def test_ids_and_neighbours_are_theirs():
    from ibl_bwb_eval.entity_ids import decode_entity_ids, encode_entity_ids
    from ibl_bwb_eval.multi_unit import multi_unit_prediction

    ids = np.array(["a/1", "a/22", "longer/3"])
    np.testing.assert_array_equal(bwb_files.pack_ids(ids), encode_entity_ids(ids).numpy())
    assert bwb_files.unpack_ids(encode_entity_ids(ids).numpy()) == decode_entity_ids(encode_entity_ids(ids)).tolist()
    rng = np.random.default_rng(0)
    own = rng.random((50, 10)).astype(np.float32), rng.permutation(200)[:50] * 7.3, rng.choice(["p", "q"], 50)
    np.testing.assert_allclose(bwb_units.mean_of_neighbours(*own), multi_unit_prediction(*own), atol=1e-7)
