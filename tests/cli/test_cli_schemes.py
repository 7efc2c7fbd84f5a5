"""The commands around token schemes: tokenize with several of them, schemes, stream, compare."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.recording.nouns import Stimulus
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.store import read_attributes, read_session, write_session
from spiketok.tokens.schemes import SCHEMES
from spiketok.tokens.stamps import STAMP
from tests.cli.test_cli import spiketok
from tests.made import artefact_files


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two short sessions in the store, one of them with dF/F of its units and a stimulus."""
    folder = tmp_path_factory.mktemp("schemes")
    simulate(SimulationConfig(n_subjects=1, sessions_per_subject=1, n_units=10, duration_s=60.0), folder / "plain")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=1, n_units=8, duration_s=60.0, calcium_hz=30.0)
    simulate(config, folder / "imaged")
    for dataset in ("plain", "imaged"):
        spiketok(folder / "root", "ingest", folder / dataset, "--dataset", dataset)
    (stored,) = (folder / "root" / "store" / "imaged").iterdir()
    session, settings = read_session(stored), read_attributes(stored)["settings"]
    movie = Stimulus(
        np.arange(32, dtype=np.uint8).reshape(2, 4, 4), [10**9, 3 * 10**10], [2 * 10**10, 5 * 10**10], [0, 1]
    )
    write_session(replace(session, stimuli={"movie": movie}), stored, settings)
    return folder / "root"


SHOWN = ("binned", "per-spike", "frames")  # counts, tokens and images


def shards(root: Path) -> dict[str, str]:
    files = (p for p in (root / "shards").rglob("*") if p.is_file() and not p.name.startswith(STAMP))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.long  # every scheme
def test_tokenize_all_serves_what_it_can_and_says_why_not(root):
    done = spiketok(root, "tokenize", "--scheme", "all", "--json")
    rows = {(row["session"].split("/")[0], row["scheme"]): row for row in json.loads(done.stdout)}
    assert set(rows) == {(d, s) for d in ("plain", "imaged") for s in SCHEMES} - {
        ("plain", "fluorescence"),
        ("plain", "frames"),
    }
    assert done.stderr.count("has no signal 'fluorescence'") == 1
    assert done.stderr.count("has 0 stimuli (none), scheme frames reads one") == 1
    for (_, scheme), row in rows.items():
        lost = {name: int(n) for n, name in (w.split() for w in row["lost"].split(", ") if w != "none")}
        elsewhere = sum(n for name, n in lost.items() if not name.startswith("cut_off"))  # those are still held
        assert row["held"] + elsewhere == row["spikes"] > 0, scheme
    again = json.loads(spiketok(root, "tokenize", "--scheme", "all", "--json").stdout)
    assert {row["state"] for row in again} == {"already"}


@pytest.mark.long  # every scheme, in processes of their own
def test_workers_and_a_memory_cap_change_no_byte(root, tmp_path):
    spiketok(root, "tokenize", "--scheme", "all")
    wanted = shards(root)
    other = tmp_path / "root"
    words = ["tokenize", "--scheme", "all", "--store", root / "store", "-J", 2, "--max-memory", "2GB"]
    spiketok(other, *words)
    assert shards(other) == wanted


def test_a_plan_writes_nothing_and_bounds_what_is_written(root, tmp_path):
    other, store = tmp_path / "root", ["--store", root / "store"]
    plan = json.loads(spiketok(other, "tokenize", "--scheme", "all", "--dry-run", "--json", *store).stdout)
    assert not (other / "shards").exists()
    assert {p["state"] for p in plan} == {"new", "not served"}
    made = json.loads(spiketok(other, "tokenize", "--scheme", "all", "--json", *store).stdout)
    most = {(p["session_id"], p["scheme"]): p["nbytes"] for p in plan}
    for row in made:
        assert {*artefact_files(Path(row["path"]))} == {"manifest.json", "columns.bin"}
        size = (Path(row["path"]) / "columns.bin").stat().st_size
        assert 0 < size <= most[row["session"], row["scheme"]], row["scheme"]
    for session in {row["session"] for row in made}:
        (file,) = (other / "shards" / "context" / session).glob("*/columns.bin")
        assert most[session, "context"] / 2 < file.stat().st_size <= most[session, "context"]
    shown = spiketok(other, "tokenize", "--scheme", "binned", "--dry-run", *store).stdout
    assert "already" in shown
    assert "at most 0 B in 0 shards and 0 contexts" in shown


def test_more_memory_than_allowed_is_refused_before_work(root, tmp_path):
    words = ["tokenize", "--scheme", "binned", "--max-memory", "1MB", "--store", root / "store"]
    done = spiketok(tmp_path / "root", *words, code=1)
    assert done.stderr.count("1.0 MB") >= 2  # a line a session, with both numbers
    assert not (tmp_path / "root" / "shards").exists()


def test_fields_by_name(root):
    made = json.loads(
        spiketok(
            root, "tokenize", "--scheme", "patch", "--set", "patch_size=8", "--set", "covariates=cursor_vel",
            "--set", "order=ndt3", "--bin-ms", 10, "--json",
        ).stdout
    )  # fmt: skip
    manifest = json.loads((Path(made[0]["path"]) / "manifest.json").read_text())
    config = manifest["scheme"]["config"]
    assert (config["patch_size"], config["covariates"], config["bin_ns"]) == (8, ["cursor_vel"], 10_000_000)


def test_bin_compat_is_binneds_field(root):
    made = json.loads(spiketok(root, "tokenize", "--scheme", "binned", "--bin-compat", "nlb", "--json").stdout)
    manifest = json.loads((Path(made[0]["path"]) / "manifest.json").read_text())
    assert manifest["scheme"]["config"]["compat"] == "nlb"
    assert "compat" in spiketok(root, "tokenize", "--scheme", "binned", "--bin-compat", "nbl", code=2).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scheme", "pach"], "did you mean 'patch'"),
        (["--scheme", "patch", "--set", "patch_sise=8"], "did you mean 'patch_size'"),
        (["--scheme", "patch", "--set", "patch_size=big"], "patch.patch_size is 'big', expected int"),
        (["--scheme", "patch,binned", "--set", "patch_size=8"], "SCHEME.FIELD=VALUE"),
        (["--scheme", "per-spike", "--bin-ms", "5"], "has no bins"),
        (["--scheme", "binned", "--max-memory", "lots"], "must be a size"),
        (["--scheme", "binned", "--executor", "slurm"], "cannot be read"),
        (["--scheme", "binned", "--executor", "dask:local", "-J", "2"], "give one"),
    ],
)
def test_bad_requests_are_one_line(root, words, said):
    done = spiketok(root, "tokenize", *words, code=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_scheme_that_was_asked_for_and_cannot_be_served_fails(root):
    done = spiketok(root, "tokenize", "--scheme", "fluorescence", "--sessions", "plain/*", code=1)
    assert "has no signal 'fluorescence'" in done.stderr


def test_schemes_are_told(root):
    listed = spiketok(root, "schemes").stdout
    assert all(name in listed for name in SCHEMES)
    about = spiketok(root, "schemes", "event-pair").stdout
    assert "history_ns=150000000" in about
    assert "Neuroformer" in about


def test_stream_counts_what_it_replayed(root):
    words = ["stream", "imaged/*", "--scheme", "per-spike", "--set", "start_end=false", "--window-ms", 100]
    told = json.loads(spiketok(root, *words, "--duration-s", 10, "--json").stdout)
    assert told["n_windows"] == 100
    assert told["n_tokens"] == told["n_spikes"] > 0
    assert told["n_outside"] == 0
    assert set(told["latency_us"]) == {"p50", "p90", "p99", "max"}
    shown = spiketok(root, "stream", "imaged/*", "--scheme", "event-pair", "--duration-s", 2).stdout
    assert "40 of 50 ms" in shown
    refused = spiketok(root, "stream", "*", "--scheme", "binned", code=2).stderr
    assert "names 2 sessions" in refused


@pytest.mark.long  # every scheme, measured
def test_compare_writes_table_json_and_figure(root, tmp_path):
    words = ["compare", "--windows", 8, "--plot", tmp_path / "c.png", "--out", tmp_path / "c.json"]
    shown = spiketok(root, *words).stdout
    assert all(name in shown for name in SCHEMES)
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "c.json").read_text())
    assert "ending" in spiketok(root, "compare", "--plot", tmp_path / "c.bmp", code=2).stderr


@pytest.mark.parametrize("scheme", [s if s in SHOWN else pytest.param(s, marks=pytest.mark.long) for s in SCHEMES])
def test_every_scheme_has_a_picture(root, tmp_path, scheme):
    made = json.loads(spiketok(root, "tokenize", "--scheme", scheme, "--sessions", "imaged/*", "--json").stdout)
    spiketok(root, "inspect", made[0]["path"], "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
