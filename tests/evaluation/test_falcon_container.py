"""The recipe of a container: whole, and its entry script gives the evaluator the run's decoder."""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from typer.testing import CliRunner  # noqa: E402

from spiketok.cli import app  # noqa: E402
from spiketok.errors import ArtefactError, UsageError  # noqa: E402
from spiketok.evaluation.falcon_container import requirements, write_container  # noqa: E402
from spiketok.evaluation.falcon_decoder import FalconDecoder  # noqa: E402
from spiketok.recording.nouns import Source  # noqa: E402
from spiketok.storage.store import write_session  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from spiketok.training.runs import make_shards, open_shards, run_path  # noqa: E402
from tests.evaluation.test_falcon_decoder import MODELS, counts_of, recording  # noqa: E402

DAYS = ("20120924", "20120926")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with a linear run of two days of M1, and the two recordings."""
    workspace = Workspace(tmp_path_factory.mktemp("m1") / "workspace")
    two = []
    for k, day in enumerate(DAYS):
        file = f"sub-MonkeyL-held-in-calib_ses-{day}_behavior+ecephys.nwb"
        session = replace(recording(day, k), id=f"falcon_m1/{day}", source=Source(file, "0" * 64, 1))
        write_session(session, workspace.store_path(session.id))
        two.append(session)
    config = load_config("linear", None, MODELS["linear"], tasks=["decode:preprocessed_emg"])
    ids = [session.id for session in two]
    make_shards(workspace, ids, config, lambda line: None)
    tokens = open_shards(workspace, ids, config)
    folder = run_path(workspace, config, tokens)
    train(config, tokens, folder)
    return workspace, folder, two


class FakeEvaluator:
    """What the entry script asks of FALCON's evaluator."""

    asked: list

    def __init__(self, **settings) -> None:
        self.settings = settings

    def get_eval_files(self, phase: str) -> list[str]:
        return [f"sub-MonkeyL-held-in-minival_ses-{day}_behavior+ecephys.nwb" for day in DAYS]

    def evaluate(self, decoder: FalconDecoder, phase: str) -> None:
        FakeEvaluator.asked = [self.settings, phase, decoder]


class FakeConfig:
    def __init__(self, task: str) -> None:
        self.task = task

    def hash_dataset(self, file) -> str:
        return file.stem.split("_")[-2].split("-")[-1]


@pytest.fixture
def challenge(monkeypatch):
    """A stand-in for falcon-challenge, which the default suite does not have."""
    for name, content in (
        ("falcon_challenge", {}),
        ("falcon_challenge.evaluator", {"FalconEvaluator": FakeEvaluator}),
        ("falcon_challenge.config", {"FalconConfig": FakeConfig, "FalconTask": {"m1": "m1"}}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.long
def test_the_recipe_is_whole_and_its_entry_script_decodes(made, tmp_path, monkeypatch, challenge):
    workspace, run, two = made
    words = ["export", str(run), "--to", "falcon_container", "--out", str(tmp_path), "--root", str(workspace.root)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    folder = tmp_path / f"{run.name}.falcon_container"
    assert (row["folder"], row["task"], row["state"]) == (str(folder), "m1", "new")
    assert "the image was not built here" in done.stderr
    assert "knows no session of 20120927, 20120928" in done.stderr

    dockerfile = (folder / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+) (\S+)$", dockerfile, re.MULTILINE)
    assert {source for source, _ in copied} == {"requirements.txt", "spiketok", "workspace", "evaluate.py"}
    assert all((folder / source).exists() and source == target for source, target in copied)
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim" in dockerfile
    assert 'CMD ["python", "evaluate.py"]' in dockerfile
    set_there = dict(re.findall(r"^ENV (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    asked_for = set(re.findall(r'os.environ\["(\w+)"\]', (folder / "evaluate.py").read_text()))
    assert asked_for <= set(set_there) and set_there["PREDICTION_PATH"] == "/submission/submission.csv"
    assert (folder / "spiketok/evaluation/falcon_decoder.py").exists()
    assert not [p for p in folder.rglob("*") if p.name in ("__pycache__", "train_state.safetensors") or p.is_symlink()]

    for name, value in (set_there | {"PHASE": "minival", "EVALUATION_LOC": "local", "BATCH_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    runpy.run_path(str(moved / "evaluate.py"), run_name="__main__")
    settings, phase, decoder = FakeEvaluator.asked
    assert settings == {"eval_remote": False, "split": "m1", "dataloader_workers": 0} and phase == "minival"
    assert decoder.batch_size == 2
    own = FalconDecoder(decoder._run, {s.name: decoder.sessions[s.name] for s in two}, "m1", batch_size=2)
    own.reset(list(DAYS))
    decoder.reset(FakeEvaluator().get_eval_files("minival"))
    for k in range(12):
        counts = np.stack([counts_of(session)[k] for session in two])
        assert np.array_equal(decoder.predict(counts), own.predict(counts))


@pytest.mark.long
def test_what_is_there_is_kept_and_what_cannot_be_packed_is_told(made, tmp_path):
    _, run, _ = made
    assert write_container(run, tmp_path).state == "new"
    again = write_container(run, tmp_path)
    assert again.state == "already" and "was not looked at" in again.remarks[1]
    (tmp_path / f"{run.name}.falcon_container" / "recipe.json").write_text('{"run": "other"}')
    with pytest.raises(UsageError, match="was made of something else: --overwrite replaces it"):
        write_container(run, tmp_path)
    assert write_container(run, tmp_path, overwrite=True).state == "replaced"
    with pytest.raises(ArtefactError):
        write_container(run, tmp_path / "other", root=tmp_path)
    assert not list((tmp_path / "other").glob("*")), "whole or absent"


def test_requirements_are_pinned():
    lines = requirements().splitlines()
    assert lines[-1] == "falcon-challenge==1.0.2"
    assert all(re.fullmatch(r"[\w.-]+==\d[\w.]*", line) for line in lines)
    names = {line.split("==")[0].lower() for line in lines}
    assert {"torch", "numpy", "numba", "h5py", "safetensors"} <= names
    assert not {"pytest", "spikeinterface", "ruff"} & names


def test_sessions_are_no_run(tmp_path):
    with pytest.raises(UsageError, match="packs a run, not sessions: name a run's folder"):
        CliRunner().invoke(
            app,
            ["export", "falcon_m1/*", "--to", "falcon_container", "--out", str(tmp_path), "--root", str(tmp_path)],
            catch_exceptions=False,
        )
