"""``spiketok score`` on the files of FALCON and NLB."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.cli import app
from spiketok.evaluation.scoring.falcon import FalconScorer
from spiketok.evaluation.scoring.nlb import NlbScorer
from tests.evaluation.scoring.test_falcon_scorer import made_binned, spoilt, written
from tests.evaluation.scoring.test_nlb_scorer import SET, made, write


def test_both_suites_print_their_tables_and_name_what_is_broken(tmp_path):
    said, true = made_binned("m1")
    nlb_rates, nlb_target = made()
    day, out = "20120926", tmp_path / "out.json"
    falcon = [str(path) for path in written(tmp_path, said, true)]
    nlb = [str(write(tmp_path / "rates.h5", {SET: nlb_rates})), str(write(tmp_path / "truth.h5", {SET: nlb_target}))]
    for suite, paths, scorer in (("falcon", falcon, FalconScorer()), ("nlb21", nlb, NlbScorer())):
        words = ["score", paths[0], "--suite", suite]
        done = CliRunner().invoke(app, [*words, "--truth", paths[1], "--json", str(out)])
        assert done.exit_code == 0, done.output
        table = json.loads(out.read_text())["table"]
        assert table["rows"] == [dict(row) for row in scorer.table(*paths).rows]
    write(tmp_path / "rates.h5", {SET: {**nlb_rates, "eval_rates_heldin": nlb_rates["eval_rates_heldout"]}})
    written(tmp_path, spoilt(said, "m1", day, said["m1"][day].T), true)
    for suite, paths, rule in (("falcon", falcon, "axes"), ("nlb21", nlb, "heldin-heldout")):
        done = CliRunner().invoke(app, ["score", paths[0], "--suite", suite, "--truth", paths[1], "--json", str(out)])
        assert done.exit_code == 1 and rule in done.output
        facts = json.loads(out.read_text())
        assert [one["rule"] for one in facts["broken"]] == [rule] and facts["table"] is None
