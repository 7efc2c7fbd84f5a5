"""The commands ``runs``, ``train --seeds --sweep --part`` and ``train --log``."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.cli.sweep import variants
from spiketok.errors import UsageError
from spiketok.pipeline.run_table import dependents, run_row
from spiketok.storage.files import write_signed
from spiketok.storage.locks import inside, locked
from spiketok.storage.records import checkpoint_digest
from spiketok.storage.workspace import Workspace
from spiketok.training import trackers
from tests.evaluation.bench.made_suite import made_workspace

SWEPT = ["train", "--model", "linear", "--tokenize", "--set", "data.window_ms=600", "--seeds", "1,2", "--sweep",
         "model.lags=2,5"]  # fmt: skip
SMALL = [word for one in ("dim=16", "depth=1", "dim_head=8", "self_heads=2", "latents_per_step=2")
         for word in ("--set", f"model.{one}")]  # fmt: skip
POYO = ["train", "--model", "poyo", "--tokenize", *SMALL, "--set", "data.window_ms=600", "--set", "data.batch_size=8",
        "--set", "optim.steps=4", "--set", "optim.validate_every=2", "--set", "optim.checkpoint_every=2"]  # fmt: skip


def spiketok(root, *words, code: int = 0):
    done = CliRunner().invoke(app, [*map(str, words), "--root", str(root)], catch_exceptions=True)
    error = done.exception
    assert (done.exit_code if error is None or isinstance(error, SystemExit) else error.exit_code) == code, done.output
    return done


def refused(root, *words) -> str:
    done = CliRunner().invoke(app, [*map(str, words), "--root", str(root)])
    assert done.exception is not None, done.output
    return str(done.exception)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with four swept runs of linear and one of poyo that logged to TensorBoard."""
    root = tmp_path_factory.mktemp("runs")
    made_workspace(root)
    first = json.loads(spiketok(root, *SWEPT, "--part", "1/2", "--json").stdout)
    swept = json.loads(spiketok(root, *SWEPT, "--json").stdout)
    spiketok(root, *POYO, "--log", "tensorboard")
    return root, first, swept


# ---- seeds and sweeps -----------------------------------------------------------------------------------------------


def test_each_seed_of_each_value_is_a_run_and_parts_make_up_the_whole(made):
    root, first, swept = made
    assert [(run["model.lags"], run["seed"]) for run in swept["runs"]] == [("2", 1), ("2", 2), ("5", 1), ("5", 2)]
    assert [run["run"] for run in first["runs"]] == [run["run"] for run in swept["runs"][::2]]
    assert all((root / "runs" / run["run"] / "result.json").exists() for run in swept["runs"])
    rows = {(row["model.lags"], row["metric"]): row for row in swept["summary"]}
    values = [run["test"]["decode:hand_vel"]["r2_mean"] for run in swept["runs"] if run["model.lags"] == "5"]
    row = rows["5", "r2_mean"]
    assert row["seeds"] == 2 and row["mean"] == pytest.approx(np.mean(values))
    assert row["SEM"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2), abs=1e-12)


@pytest.mark.parametrize(
    ("seeds", "sweeps", "sets", "message"),
    [
        ("1,x", [], [], "'x' must be a whole number"),
        ("1,1", [], [], "says 1 twice"),
        ("1,2", [], ["seed=3"], "seed is set by --set and by --seeds"),
        ("1,2", ["seed=3,4"], [], "seed is given by --sweep and by --seeds"),
        (None, ["optim.lr=0.1"], [], "has one value"),
        (None, ["optim.lr=0.1,0.1"], [], "says 0.1 twice"),
        (None, ["optim.lr=0.1,0.2", "optim.lr=1,2"], [], "--sweep optim.lr is given twice"),
        (None, ["optim.lr=0.1,0.2"], ["optim.lr=3"], "optim.lr is set by --set and by --sweep"),
    ],
)
def test_what_cannot_be_swept_is_one_line(seeds, sweeps, sets, message):
    with pytest.raises(UsageError, match=message):
        variants(seeds, sweeps, sets)


def test_lists_are_swept_as_toml_has_them():
    assert [one.sets for one in variants(None, ["optim.betas=[[0.9,0.99],[0.9,0.999]]"], [])] == [
        ["optim.betas=[0.9, 0.99]"],
        ["optim.betas=[0.9, 0.999]"],
    ]


def test_values_that_shape_no_checkpoint_and_parts_of_one_run_are_refused(made):
    words = ["train", "--model", "linear", "--sweep", "transfer.full_steps=3,4"]
    assert "make the same run" in refused(made[0], *words)
    assert "--part 1/2 divides the runs" in refused(made[0], "train", "--model", "linear", "--part", "1/2")


# ---- list, compare, draw, delete ------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_state_score_and_size(made):
    rows = json.loads(spiketok(made[0], "runs", "--json").stdout)
    assert rows[0]["model"] == "poyo" and len(rows) == 5
    assert {row["state"] for row in rows} == {"finished"} and all(row["bytes"] > 1000 for row in rows)
    assert rows[0]["steps"] == 4 and rows[0]["of"] == "r2_variance_weighted"
    assert len(json.loads(spiketok(made[0], "runs", "--model", "linear", "--json").stdout)) == 4
    assert refused(made[0], "runs", "--model", "liner").startswith("unknown model 'liner'")


def test_a_run_that_stopped_runs_or_is_damaged_says_so(made, tmp_path):
    (path,) = made[0].glob("runs/poyo-*")
    run = shutil.copytree(path, tmp_path / "root" / "runs" / "one")
    (run / "result.json").unlink()
    assert run_row(run).state == "trained, not scored"
    with locked(inside(run), "run"):
        assert run_row(run).state == "running, saved at step 4 of 4"
        assert "is being written" in refused(tmp_path / "root", "runs", "delete", "one", "--yes")
    text = (run / "checkpoint" / "checkpoint.json").read_text()
    (run / "checkpoint" / "checkpoint.json").write_text(text.replace('"step": 4', '"step": 3'))
    assert run_row(run).state.startswith("damaged: ") and run_row(run).nbytes > 0


def test_two_runs_beside_each_other(made):
    names = [run["run"] for run in made[2]["runs"]]
    found = json.loads(spiketok(made[0], "runs", "compare", names[0], names[3], "--json").stdout)
    assert found["configuration"] == [
        {"key": "model.lags", names[0]: 2, names[3]: 5},
        {"key": "seed", names[0]: 1, names[3]: 2},
    ]
    (row,) = [row for row in found["scores"] if row["metric"] == "r2_mean"]
    assert row[names[3]] == pytest.approx(made[2]["runs"][3]["test"]["decode:hand_vel"]["r2_mean"])
    assert "name two or more" in refused(made[0], "runs", "compare", names[0])


def test_curves_are_those_of_the_log(made, tmp_path):
    out = tmp_path / "curves.html"
    spiketok(made[0], "runs", "curves", "--page", out)
    page = out.read_text()
    (path,) = made[0].glob("runs/poyo-*")
    assert path.name in page and page.count("<section") == 3  # the loss, the score of the valid split, the rate
    assert "http" not in page.replace("http-equiv", "")
    last = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in last if line["event"] == "step"][-1]
    assert f"{last['loss']['total']:.4g} at step 4" in page
    spiketok(made[0], "inspect", path.name, "--plot", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    solved = made[2]["runs"][0]["run"]
    for words in (("runs", "curves", solved), ("inspect", solved, "--plot", tmp_path / "none.png")):
        assert f"takes no step, so that there is no curve: spiketok view {solved}" in refused(made[0], *words)
    assert not (tmp_path / "none.png").exists()


def test_a_run_that_something_needs_is_not_deleted(made, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(made[0] / "runs", root / "runs")
    workspace = Workspace(root)
    names = sorted(p.name for p in workspace.runs.iterdir() if p.name.startswith("linear"))
    run = workspace.runs / names[0]
    digest = checkpoint_digest(run)
    assert dependents(workspace, run) == []
    later = workspace.runs / "later"
    write_signed(later / "config.json", json.loads((run / "config.json").read_text()) | {"start": digest})
    write_signed(run / "xsession" / "report.json", {"checkpoint_digest": digest})
    write_signed(root / "elsewhere" / "report.json", {"checkpoint_digest": digest})
    np.savez(run / "vectors.npz", run_digest=np.array(digest))
    np.savez(workspace.runs / "other.npz", run_digest=np.array("another"))
    for name, size in (("cut", -300), ("shorter", 40), ("empty", 0)):  # none of them is anybody's
        whole = (run / "vectors.npz").read_bytes()
        (workspace.runs / "later" / f"{name}.npz").write_bytes(whole[:size])
    assert dependents(workspace, run) == [
        f"vectors runs/{run.name}/vectors.npz",
        "run later, which started from its weights (--from)",
        "report elsewhere/report.json",
        f"report runs/{run.name}/xsession/report.json",
    ]
    line = refused(root, "runs", "delete", run.name, "--yes")
    assert "is needed by vectors" in line and "run later" in line and run.exists()
    assert "report elsewhere" in refused(root, "runs", "delete", run.name, "--yes", "--with-reports")
    (root / "elsewhere" / "report.json").unlink()
    spiketok(root, "runs", "delete", run.name, "later", "--yes", "--with-reports")
    assert not run.exists() and not later.exists() and len(list(workspace.runs.glob("linear-*"))) == 3
    assert not list(workspace.runs.glob(".*"))
    assert "nobody can be asked" in refused(root, "runs", "delete", names[1])


# ---- trackers -------------------------------------------------------------------------------------------------------


def scalars(folder) -> dict[tuple[str, int], float]:
    """What an event file of TensorBoard holds: records of a length, its check sum, a protocol buffer, its check sum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (n,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + n])
            at += 16 + n
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_a_tracker_has_the_numbers_of_the_log(made):
    (path,) = made[0].glob("runs/poyo-*")
    logged, told = scalars(path / "trackers" / "tensorboard"), {}
    for line in (path / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        told |= {(name.replace(":", "_"), line["step"]): value for name, value in trackers.values_of(line).items()}
    assert len({step for _, step in told}) == 2 and any(name.startswith("valid/") for name, _ in told)
    assert {key for key in logged if not key[0].startswith("test/")} == set(told)
    assert {key: np.float32(value) for key, value in told.items()} == {key: np.float32(logged[key]) for key in told}


def test_a_tracker_that_is_not_installed_or_not_known_is_one_line(made, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    line = refused(made[0], *POYO, "--log", "wandb")
    assert line.endswith("wandb and pytorch-lightning, which are not installed: pip install wandb pytorch-lightning")
    assert refused(made[0], *POYO, "--log", "tensorbord").startswith("unknown tracker 'tensorbord'")
