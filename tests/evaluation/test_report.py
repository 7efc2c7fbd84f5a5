"""The report: every number and every reason is in it, it needs nothing from outside, and it is the same each time."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from spiketok.evaluation.curve import write_curve
from spiketok.evaluation.page import number
from spiketok.evaluation.remarks import chosen_lines, paired_lines
from spiketok.evaluation.report import LOWEST, TRACE_S, bar_plot, trace_plot, write_report
from spiketok.evaluation.results import Cell
from spiketok.evaluation.spread import summarize
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.sampling import SessionTokens
from tests.decodable import SMALL_POYO, bake, decodable_session

VOID = {"meta", "img", "br"}
TASK = "decode:hand_vel"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Transfer of a small poyo to two sessions, one of them with a name that must be escaped."""
    folder = tmp_path_factory.mktemp("work")
    names = ["day0", "new<0>", "new1"]
    made = {m.id: m for m in (decodable_session(n, k) for k, n in enumerate(names))}
    shards = [SessionTokens({"spikes": bake(folder / "shards", m)}) for m in made.values()]
    train(load_config("poyo", None, SMALL_POYO, [TASK]), shards[:1], folder / "run")
    protocols = ["zero_shot", "zero_gradient", "identity_only", "full"]
    run = load_run(folder / "run")
    return evaluate_transfer(run, shards[1:], protocols=protocols, calibration_s=5, stored=made.get)


@pytest.fixture(scope="module")
def decode(result):
    """The one task of that run."""
    (task,) = result.tasks
    return task


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report = write_report(result, folder)
    return report, (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())


class Balanced(HTMLParser):
    """Collects the text and all attributes, and fails on a tag that is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_needs_nothing_from_outside(page):
    parser = Balanced()
    parser.feed(page[1])
    assert parser.open == []
    for name, value in parser.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:image/png;base64,"), value[:60]
    assert not re.search(r"https?://|@import|url\(|<script|<link", page[1])


def test_a_session_is_named_once_whole_and_a_kind_of_calibration_goes_over_all_columns(page, result):
    each = page[1].split("<h2>Each session")[1].split("</table>")[0]
    for session in result.session_ids:
        assert each.count(f'<span class="whole">{html.escape(session)}</span>') == 1
    assert '<td colspan="9">labelled calibration</td>' in page[1]
    assert "prefers-color-scheme:dark" in page[1]
    assert f"What lies below {LOWEST} is drawn at the edge." in page[1]


def test_what_rounds_to_zero_has_no_sign():
    assert [number(value, 2) for value in (-0.001, 0.0, -0.01, None)] == ["0.00", "0.00", "-0.01", ""]


def test_pictures_are_pictures(page, result):
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page[1])
    assert len(images) == 1 + len(result.sessions)  # bars, and the traces of each session
    assert all(base64.b64decode(i).startswith(b"\x89PNG\r\n\x1a\n") for i in images)


def test_every_score_and_every_reason_stands_in_the_page(page, result):
    parser = Balanced()
    parser.feed(page[1])
    text = " ".join(parser.text)
    for cell in result.cells:
        assert cell.session in text  # unescaped by the parser: `new<0>` went in as text
        if cell.score is None:
            assert cell.reason in text
        else:
            assert f"{cell.score['r2_variance_weighted']:.3f}" in text
            assert f"{cell.score['r2_mean']:.3f}" in text
    for facts in [*result.run.trained_on, *(f.session for f in result.sessions)]:
        assert [shard["digest"][:12] in text for shard in facts.shards.values()] == [True]
    assert result.run.digest[:12] in text
    assert "labelled" in text
    assert "5 s" in text


def test_the_json_says_the_same(page, result):
    _, _, written = page
    assert written["checkpoint_digest"] == result.run.digest
    assert written["config"] == result.run.config.to_dict()
    assert written["calibration_s"] == 5.0
    assert (written["calibration_drawn"], written["repeats"]) == ("first", 1)
    assert written["calibration"] == {
        "linear": "labelled",
        "zero_shot": "none",
        "zero_gradient": "unlabelled",
        "identity_only": "labelled",
        "full": "labelled",
    }
    assert [t["name"] for t in written["tasks"]] == [TASK]
    assert [s["shards"] for s in written["sessions"]] == [f.session.shards for f in result.sessions]
    assert len(written["scores"]) == len(result.cells) == 10
    assert written["summary"] == json.loads(json.dumps(result.summary))
    assert written["trained_on"][0]["source_sha256"] == result.run.trained_on[0].source_sha256
    assert len(written["trained_on"][0]["source_sha256"]) == 64


def test_the_rows_are_the_table(page, result):
    report, _, _ = page
    ((title, columns, rows),) = report.tables
    assert title == "poyo (tiny): decode:hand_vel in 2 sessions"
    assert len(rows) == 5 * 3  # protocols and the floor, times two sessions and their mean
    for row in rows:
        assert set(row) == set(columns)
    mean = next(r for r in rows if r["protocol"] == "full" and r["session"] == "mean over sessions")
    scores = [result.cell(f.session.id, "full", TASK).score["r2_mean"] for f in result.sessions]
    assert mean["r2_mean"] == pytest.approx(np.mean(scores))
    assert mean["n"] == 2
    empty = [r for r in rows if r["protocol"] == "zero_gradient"]
    assert all(r["r2_mean"] is None and r["n"] == 0 for r in empty)
    assert any("zero_gradient is empty for made/new1, made/new<0>: " in line for line in report.remarks)


def test_the_same_result_gives_the_same_files(result, page, tmp_path):
    write_report(result, tmp_path)
    assert (tmp_path / "report.html").read_text() == page[1]
    assert json.loads((tmp_path / "report.json").read_text()) == page[2]
    assert str(result.run.path) not in page[1] + json.dumps(page[2])


def test_the_bars_are_the_means_and_the_points_the_sessions(result, decode):
    figure = bar_plot(result, decode)
    for axes, name in zip(figure.axes, decode.metrics, strict=True):
        means = [s[name]["mean"] for s in result.summary[TASK].values() if s[name]["mean"] is not None]
        np.testing.assert_allclose([p.get_height() for p in axes.patches], means)
        drawn = np.concatenate([c.get_offsets()[:, 1] for c in axes.collections])
        assert len(drawn) == 2 * len(means)


def with_summary(result, cells):
    """The result with other cells."""
    summary = {
        task.name: {
            p: summarize([c for c in cells if (c.protocol, c.task) == (p, task.name)], task.metrics)
            for p in result.protocols
        }
        for task in result.tasks
    }
    return replace(result, cells=tuple(cells), summary=summary)


def test_a_score_far_below_is_cut_off_and_its_number_shown(result, decode):
    bad = {"r2_variance_weighted": -40.0, "r2_mean": -40.0, "r2_per_component": {"x": -40.0, "y": -40.0}}
    cells = [replace(c, score=c.score | bad) if c.protocol == "zero_shot" else c for c in result.cells]
    figure = bar_plot(with_summary(result, cells), decode)
    low, _ = figure.axes[0].get_ylim()
    assert -1 < low < -0.5
    assert "-40.00" in [t.get_text() for t in figure.axes[0].texts]


def test_traces_are_the_first_seconds_of_the_test_time(result, decode):
    session = result.sessions[1].session.id
    figure = trace_plot(result, decode, session)
    shown = [p for p in result.protocols if result.cell(session, p, TASK).answer is not None]
    assert len(figure.axes) == 2 * len(shown)
    prediction = result.cell(session, shown[-1], TASK).answer
    true, predicted = figure.axes[-1].lines
    inside = prediction.time_ns < result.sessions[1].test.start_ns[0] + TRACE_S * 1e9
    np.testing.assert_allclose(predicted.get_ydata(), prediction.predicted[inside, 1])
    np.testing.assert_allclose(true.get_ydata(), prediction.true[inside, 1])
    np.testing.assert_allclose(true.get_xdata(), prediction.time_ns[inside] / 1e9)
    assert "mm/s" in figure.axes[0].get_ylabel()
    assert "(s)" in figure.axes[-1].get_xlabel()


def test_a_trace_does_not_bridge_a_gap(result, decode):
    session = result.sessions[0].session.id
    cell = result.cell(session, "full", TASK)
    keep = np.ones(len(cell.answer.time_ns), bool)
    keep[100:200] = False
    whole = cell.answer
    cut = replace(whole, **{k: getattr(whole, k)[keep] for k in ("time_ns", "predicted", "true", "weight", "windows")})
    cells = tuple(replace(c, answer=cut) if c is cell else c for c in result.cells)
    figure = trace_plot(replace(result, cells=cells), decode, session)
    line = figure.axes[-1].lines[1]
    assert np.isnan(line.get_ydata()[100])
    assert np.isfinite(np.delete(line.get_ydata(), 100)).all()


def test_without_any_score_there_is_still_a_report(result, tmp_path):
    cells = tuple(Cell(c.session, c.protocol, c.task, None, "nothing worked") for c in result.cells)
    report = write_report(with_summary(result, cells), tmp_path)
    assert "nothing worked" in (tmp_path / "report.html").read_text()
    ((_, _, rows),) = report.tables
    assert all(row["r2_mean"] is None for row in rows)


def test_a_curve_holds_the_summaries_by_length(result, decode, tmp_path):
    longer = replace(result, calibration_s=10.0)
    curve = write_curve([result, longer], tmp_path)
    written = json.loads((tmp_path / "curve.json").read_text())
    assert written["reports"] == ["5s", "10s"] and written["checkpoint_digest"] == result.run.digest
    rows = written["curves"][TASK]
    assert [(r["protocol"], r["calibration_s"]) for r in rows] == [
        (p, s) for p in result.protocols_of(TASK) for s in (5.0, 10.0)
    ]
    for row in rows:
        assert row[decode.metrics[0]] == result.summary[TASK][row["protocol"]][decode.metrics[0]]["mean"]
    page = (tmp_path / "curve.html").read_text()
    Balanced().feed(page)
    assert page.count("data:image/png;base64,") == 1
    assert all(protocol in page for protocol in result.protocols)
    assert curve.tables[0][2] == rows
    assert write_curve([result, longer], tmp_path).summary == curve.summary


def test_lines_say_what_was_chosen_and_what_differs():
    errors = {"full, lr 0.001": [(0, 1.0, 0.9), (10, 1.0, 0.8), (25, 0.5, None)]}
    how = {"start": "map", "candidate": "full, lr 0.001", "steps": 10, "error": 0.8, "start_error": 0.9, "blocks": 3}
    how |= {"share": 1.0, "narrow": []}
    cell = Cell("a/b", "adapted", TASK, {"r2_mean": 0.5}, how=how | {"errors": errors})
    where = f"adapted of a/b, {TASK}: begins at the map"
    assert chosen_lines(cell) == [f"{where}, full, lr 0.001, 10 steps (3 blocks, error 0.900 at the start, 0.800)"]
    (line,) = chosen_lines(replace(cell, how=cell.how | {"share": 0.5}))
    assert line == f"{where}, full, lr 0.001, 10 steps and 0.5 of the way (3 blocks, error 0.900 at the start, 0.800)"
    (line,) = chosen_lines(replace(cell, how=cell.how | {"narrow": [f"{TASK} x"], "steps": 0}))
    assert line == f"{where}, and stays: {TASK} x hardly varies in the calibration, so blocks cannot judge"
    stays = replace(cell, how=cell.how | {"steps": 0}, repeat=1)
    (line,) = chosen_lines(stays)
    assert line.endswith("0 steps (3 blocks, error 0.900 at the start, none less by enough (least 0.800))")
    assert "a/b (draw 2)" in line
    (line,) = chosen_lines(replace(cell, how=cell.how | {"blocks": 0}))
    assert line == f"{where}, and stays: no blocks of the calibration hold a window each"
    mixed = replace(cell, protocol="adapted+linear", how=how | {"weight": 0.25})
    assert chosen_lines(mixed) == [f"adapted+linear of a/b, {TASK}: weight 0.25 of the model"]
    test = {"task": TASK, "metric": "r2_mean", "row": "adapted", "against": "linear", "n": 7, "pairs": "sessions"}
    test |= {"difference": 0.25, "test": "Wilcoxon signed-rank", "p": 0.0156}
    said = f"adapted - linear: +0.250 r2_mean of {TASK}, Wilcoxon signed-rank over 7 sessions: p = 0.016"
    assert paired_lines(test) == [said]
    assert paired_lines(test | {"p": None}) == []
