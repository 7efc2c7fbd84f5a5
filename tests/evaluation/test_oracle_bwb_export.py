"""ibl-bwb-eval 0.1.0 itself (``make oracle``) takes the files of a run and scores them as we do."""

from __future__ import annotations

import warnings

import pytest

from spiketok.evaluation.scoring import bwb
from tests.evaluation.scoring.golden import far
from tests.evaluation.test_bwb_export import root, write_truths  # noqa: F401

pytestmark = pytest.mark.oracle


def test_its_scores_of_a_run_are_ours(root):  # noqa: F811
    from ibl_bwb_eval.scoring import ts1, ts2

    truth = write_truths(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {**ts1.score_dir(root / "said", truth), **ts2.score_dir(root / "said", truth)}
        ours, _ = bwb.score_folder(root / "said", truth)
    assert len(theirs) == 7 * 2  # tasks, sessions: none was left out
    assert {bwb.Key(*parts) for parts in theirs} == set(ours)
    for parts, own in theirs.items():
        for name, value in own.items():
            assert far(ours[bwb.Key(*parts)][name], value) <= 1e-6, (parts, name)
