"""Unit vectors on the command line: from ``embed`` to a run that reads them, and whoever meets that run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.sources.simulator import SimulationConfig, simulate
from tests.cli.test_cli import spiketok

pytestmark = pytest.mark.long
DAYS = [f"local/sub-S01_ses-CO-day0{k}_behavior+ecephys" for k in (1, 2, 3)]
TINY = ("optim.steps=2", "data.batch_size=2", "model.dim=16")
POYO = (*TINY, "model.dim_head=8", "model.self_heads=2", "model.latents_per_step=2", "model.identity=vectors")


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three days, a nuclr run on the first two, and vectors of 8 s of the training time of all (and of two days)."""
    folder = tmp_path_factory.mktemp("vectors")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=8, duration_s=30.0)
    root = folder / "root"
    spiketok(root, "ingest", *simulate(config, folder / "files"))
    sized = sets("size=tiny", *TINY, "model.dim_head=8", "data.window_ms=2000")
    spiketok(root, "train", "-m", "nuclr", "--tokenize", "--hold-out", "*day03*", *sized)
    spiketok(root, "embed", "nuclr", "--tokenize", "--calibration-s", "8", "--out", root / "of8.npz")
    spiketok(root, "embed", "nuclr", "--calibration-s", "10", "--out", root / "of10.npz")
    spiketok(root, "embed", "nuclr", "*day01*", "--calibration-s", "8", "--out", root / "one.npz")
    return root


def test_from_embedding_to_verified_report_and_stream(root):
    words = ("train", "-m", "poyo_id", "--tokenize", "--hold-out", "*day03*", *sets(*POYO), "--json")
    run = json.loads(spiketok(root, *words, "--vectors", root / "of8.npz").stdout)["run"]
    lines = {
        "of8.npz": "",
        "of10.npz": "its unit vectors are of 10 s, 2 s of which are not in the 8 s that may be known of it",
    }
    for file, line in lines.items():
        more = ("--calibration-s", "8", "--protocols", "zero_shot,zero_gradient", "--vectors", root / file, "--json")
        told = spiketok(root, "eval-xsession", run, *more, code=1 if line else 0)
        assert line in told.stderr
        if not line:
            report = json.loads((Path(run) / "xsession" / "report.json").read_text())
            assert {(c["protocol"], c["reason"]) for c in report["scores"] if c["protocol"] != "linear"} == {
                ("zero_shot", ""),
                ("zero_gradient", ""),
            }
    spiketok(root, "eval-xsession", run, "--calibration-s", "10", "--vectors", root / "of10.npz", "--json")
    spiketok(root, "stream", DAYS[0], "--run", run, "--json")
    links = json.loads(spiketok(root, "verify", run, "--quick", "--json").stdout)["chain"]
    assert [link["state"] for link in links if link["kind"] == "vectors"] == ["holds"]
    spiketok(root, "inspect", run)
    (root / "vectors").rename(root / "away")
    for words, line in (
        (("verify", run, "--quick"), "is gone from"),
        (("eval-xsession", run, "--calibration-s", "8"), "there is no file of unit vectors"),
    ):
        told = spiketok(root, *words, code=1)
        assert line in told.stderr + told.stdout
    (root / "away").rename(root / "vectors")


def test_what_does_not_go_together_is_one_line(root):
    words = ("train", "--tokenize", "--hold-out", "*day03*")
    told = spiketok(root, *words, "-m", "poyo_id", *sets(*POYO), "--vectors", root / "one.npz", code=1)
    assert f"holds no unit vectors of {DAYS[1]}" in told.stderr
    told = spiketok(root, *words, "-m", "poyo_id", *sets(*POYO), code=2)
    assert "spiketok embed RUN" in told.stderr
    told = spiketok(root, *words, "-m", "poyo", "--vectors", root / "of8.npz", code=2)
    assert "model.vector" in told.stderr
    told = spiketok(root, *words, "-m", "poyo_id", "--vectors", root / "nothing.npz", code=1)
    assert "there is no file of unit vectors" in told.stderr


def test_spint_adds_them_to_its_identities(root):
    small = sets(*TINY, "model.heads=2", "model.hidden=16", "model.history_bins=4", "model.calibration_length=20")
    words = ("train", "-m", "spint", "--tokenize", "--hold-out", "*day03*", *small, "--json")
    plain = json.loads(spiketok(root, *words).stdout)["run"]
    run = json.loads(spiketok(root, *words, "--vectors", root / "of8.npz").stdout)["run"]
    assert run != plain
    spiketok(root, "eval-xsession", run, "--calibration-s", "8", "--protocols", "zero_gradient", "--json")
    told = spiketok(root, "eval-xsession", plain, "--calibration-s", "8", "--vectors", root / "of8.npz", code=2)
    assert "the run reads no unit vectors" in told.stderr
