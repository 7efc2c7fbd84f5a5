"""The command ``view`` as a user meets it: of a session, of a file, of a run."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.errors import SpiketokError
from spiketok.storage.store import write_session
from tests.cli.test_cli import spiketok
from tests.made import random_session


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    write_session(random_session("one", 1), folder / "store/made/one")
    return folder


def run(root, *words) -> str:
    done = CliRunner().invoke(app, ["view", *map(str, words), "--root", str(root)], catch_exceptions=True)
    if isinstance(done.exception, SpiketokError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def facts_of(path) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', path.read_text(encoding="utf-8")).group(1))


@pytest.mark.parametrize("name", ["one", "made/one"])
def test_a_session_is_named_as_inspect_takes_it(root, tmp_path, name):
    out = tmp_path / "page.html"
    assert run(root, name, "--out", out).strip().endswith("page.html")
    assert facts_of(out)["title"] == "made/one" and facts_of(out)["tokens"] == []


def test_where_it_opens_is_asked_for(root, tmp_path):
    run(root, "one", "--out", tmp_path / "p.html", "--start-s", 2, "--duration-s", 1.5)
    assert facts_of(tmp_path / "p.html")["view"] == [2.0, 3.5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one", "--out", "p.png"], r"the ending '\.png' is not \.html"),
        (["one", "--scheme", "binned"], r"made/one has no binned shard \(there are none\): spiketok tokenize --scheme"),
        (["one", "--session", "x"], "--session is of a run, and one is a session"),
        (["one", "--start-s", "99"], r"--start-s 99 lies outside of made/one"),
        (["one", "--max-mb", "0.03"], r"without a single spike in detail, the cap is 30.0 kB: raise --max-mb"),
        ([None], "there is no page of a workspace"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_no_file(root, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpiketokError, match=message):
        run(root, *[root if word is None else word for word in words])
    assert list(tmp_path.glob("*.html")) == list(tmp_path.glob("p.*")) == []


@pytest.mark.long
def test_a_run_shows_predictions_over_truth_with_the_scores_of_its_result(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")
    spiketok(
        tmp_path, "simulate", "--subjects", "1", "--sessions-per-subject", "1", "--units", "8", "--duration-s", "40"
    )
    spiketok(tmp_path, "train", "--model", "linear", "--tokenize")
    (result,) = tmp_path.glob("runs/*/result.json")
    (session,), out = json.loads(result.read_text())["test"], tmp_path / "run.html"
    score = json.loads(result.read_text())["test"][session]["decode:cursor_vel"]["r2_variance_weighted"]
    spiketok(tmp_path, "view", "linear", "--out", out)
    facts = facts_of(out)
    (shown,) = facts["predictions"]
    assert facts["title"] == session and f"R² variance-weighted {score:.3f}" in shown["score"]
    assert {row[2] for row in facts["bands"][-1]["rows"]} == {"train", "valid", "test"}
    assert [layer["scheme"] for layer in facts["tokens"]] == ["binned"]
    refused = spiketok(tmp_path, "view", "linear", "--session", "nobody", "--out", tmp_path / "n.html", code=1)
    assert "was not trained on nobody, but on" in refused.stderr and not (tmp_path / "n.html").exists()
