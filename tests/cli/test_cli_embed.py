"""The command ``embed`` as a user meets it: its file, its probes and matches, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok

DAYS = [f"local/sub-S01_ses-CO-day0{k}_behavior+ecephys" for k in (1, 2)]
PLAIN = "local/sub-S01_ses-RT-day01_behavior+ecephys"
SIZES = ("size=tiny", "model.dim=16", "model.dim_head=8", "data.window_ms=2000", "optim.steps=2", "data.batch_size=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two days of a subject whose units have types and names, one session of which they have none; two runs."""
    folder = tmp_path_factory.mktemp("embed")
    short = {"n_subjects": 1, "n_units": 12, "duration_s": 30.0}
    made = simulate(SimulationConfig(sessions_per_subject=2, cell_types=2, tracked=1, **short), folder / "typed")
    made += simulate(SimulationConfig(sessions_per_subject=1, task="random_target", **short), folder / "plain")
    root = folder / "root"
    spiketok(root, "ingest", *made)
    sets = [word for setting in SIZES for word in ("--set", setting)]
    spiketok(root, "train", "-m", "nuclr", "--tokenize", "-s", "*CO*", "--hold-out", "*day02*", *sets)
    spiketok(root, "train", "-m", "linear", "--tokenize", "-s", "*RT*", "--hold-out", "none")
    return root


@pytest.fixture(scope="module")
def told(root) -> dict:
    words = ("--probe", "cell_type", "--probe", "region", "--match", "neuron", "--json")
    return json.loads(spiketok(root, "embed", "nuclr", "*CO*", *words).stdout)


@pytest.mark.long
def test_the_file_names_each_unit_of_each_session(root, told):
    workspace = Workspace.locate(root, None)
    with np.load(told["file"]) as file:
        arrays = dict(file)
    sessions = [read_session(workspace.store_path(name)) for name in DAYS]
    assert arrays["unit"].tolist() == [f"{s.id}/{unit}" for s in sessions for unit in s.units.id.tolist()]
    assert arrays["session"].tolist() == [s.id for s in sessions for _ in range(len(s.units))]
    assert arrays["trained"].tolist() == [name == DAYS[0] for name in arrays["session"].tolist()]
    for column in ("cell_type", "neuron"):
        assert arrays[f"unit.{column}"].tolist() == [w for s in sessions for w in s.units.columns[column].tolist()]
    assert arrays["vector"].shape == (len(arrays["unit"]), 16) and arrays["vector"].dtype == np.float32
    assert (np.isfinite(arrays["vector"]).all(1) == (arrays["n_windows"] > 0)).all()
    assert told["with_vector"] == (arrays["n_windows"] > 0).sum() > 0


def test_probes_and_matches_have_every_baseline(root, told):
    ways = [(row["column"], row["probe"]) for row in told["probes"]]
    assert ways == [(c, w) for c in ("cell_type", "region") for w in ("inductive", "transductive")]
    features = ("vector", "untrained", "rate", "isi", "chance")
    for row in told["probes"]:
        assert all(0 <= row[name] <= 1 for name in features)
    (row,) = told["matches"]
    assert (row["session"], row["among"], row["trained_on"]) == (DAYS[1], DAYS[0], 1)
    own, other = (read_session(Workspace.locate(root, None).store_path(name)).units.columns["neuron"] for name in DAYS)
    assert row["n"] == len(set(own) & set(other)) > 4
    assert row["chance"] == pytest.approx(1 / len(own))
    assert all(0 <= row[name] <= 1 for name in features)


def test_a_table_says_when_units_may_be_the_same(root):
    done = spiketok(root, "embed", "nuclr", "*CO*", "--probe", "cell_type", "--out", root / "more.npz")
    assert done.stdout.splitlines()[0].split("\t")[:4] == ["column", "probe", "vector", "untrained"]
    assert done.stdout.splitlines()[-1] == f"vectors {root / 'more.npz'}"
    assert "1 of the sessions that were not trained on are of subjects that were" in done.stderr
    assert (root / "more.npz").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("linear", "*RT*"), "is of linear, which has no vector a unit: train with --task embed"),
        (("nuclr", "*CO*", "--probe", "colour"), "no column 'colour' (there are cell_type,"),
        (("nuclr", "*CO*", "--match", "colour"), "no column 'colour' (there are cell_type,"),
        (("nuclr", "--tokenize", "--probe", "cell_type"), f"{PLAIN}: its units have no column 'cell_type'"),
        (("nuclr", "*CO*", "--match", "cell_type"), "the column 'cell_type' has 'excitatory' for"),
        (("nuclr", "*CO*", "--out", "vectors.parquet"), "vectors.parquet: vectors are written as npz"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(root, words, message):
    done = spiketok(root, "embed", *words, code=2 if "--out" in words or "linear" in words else 1)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400


def test_a_trained_recording_under_another_name_is_no_session_that_the_model_never_saw(root, tmp_path):
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    (file,) = sorted((root.parent / "typed").rglob("*CO-day01*.nwb"))
    spiketok(copy, "ingest", file, "--dataset", "again")
    twin = f"again/{DAYS[0].partition('/')[2]}"
    fact = f"{twin} is the recording of {DAYS[0]} (they share "
    words = ("embed", "nuclr", "--tokenize", "--json", "--out", copy / "v.npz")
    told = spiketok(copy, *words, "--probe", "region")
    assert f"left out: {fact}" in told.stderr and json.loads(told.stdout)["sessions"] == 3
    refused = spiketok(copy, *words, "--probe", "region", "--test", twin, code=2)
    assert fact in refused.stderr and "leave it out" in refused.stderr
    assert fact in spiketok(copy, *words, "again/*", "--match", "neuron", code=2).stderr
    assert json.loads(spiketok(copy, *words).stdout)["sessions"] == 4  # vectors alone claim nothing


@pytest.mark.long
def test_of_two_unseen_sessions_of_one_recording_one_is_asked(root, tmp_path):
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    (file,) = sorted((root.parent / "typed").rglob("*CO-day02*.nwb"))
    spiketok(copy, "ingest", file, "--dataset", "again")
    twin = f"again/{DAYS[1].partition('/')[2]}"
    fact = f"{DAYS[1]} is the recording of {twin} (they share "  # the first by name is kept
    words = ("embed", "nuclr", "--tokenize", "--json", "--out", copy / "v.npz")
    told = spiketok(copy, *words, "--probe", "region", "--test", twin)
    assert f"left out: {fact}" in told.stderr and json.loads(told.stdout)["sessions"] == 3
    refused = spiketok(copy, *words, "--probe", "region", "--test", DAYS[1], code=2)
    assert fact in refused.stderr and "leave it out" in refused.stderr
    assert fact in spiketok(copy, *words, "*CO*", "--match", "neuron", code=2).stderr
