"""A run that starts from another one's weights: what it takes over, what it does not, and who must know of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from safetensors.numpy import load_file  # noqa: E402

from spiketok.errors import UsageError  # noqa: E402
from spiketok.sources.simulator import SimulationConfig, simulate  # noqa: E402
from spiketok.training.checkpoints import load_run, start_from  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from tests.cli.test_cli import spiketok  # noqa: E402

DAY = "local/sub-S01_ses-CO-day0{}_behavior+ecephys"
SMALL = ("--set", "optim.steps=2", "--set", "data.batch_size=4", "--set", "data.window_ms=500", "--tokenize")
OWN = ("--set", "model.dim=16", "--set", "model.layers=1", "--set", "model.rate_init=false")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three days, the first two of which ndt1 was trained on, without behaviour."""
    root, nwb = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("nwb")
    files = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=8, duration_s=40.0), nwb)
    spiketok(root, "ingest", *files)
    spiketok(root, "train", "--model", "ndt1", "--task", "population", *SMALL, *OWN)
    return root


def base_of(root: Path) -> Path:
    """The run that knows two days and no behaviour."""
    configs = {p: load_run(p).config for p in (root / "runs").glob("ndt1-*")}
    return next(p for p, config in configs.items() if not config.start and not config.latents)


def newest(root: Path, *words: str) -> Path:
    return Path(json.loads(spiketok(root, "train", *words, "--json").stdout)["run"])


def test_weights_and_settings_are_taken_over(root):
    base = base_of(root)
    done = spiketok(
        root, "train", "--from", base, "--task", "decode", "--sessions", "*day03*", *SMALL, "--set", "optim.lr=1e-12",
    )  # fmt: skip
    assert f"the weights of {base.name}" in done.stderr
    run = Path(done.stdout.split("run ")[1].split()[0])
    before, after = (load_file(path / "checkpoint" / "model.safetensors") for path in (base, run))
    shared = [name for name in before if name in after]
    assert [name for name in before if DAY.format(1) in unquote(name) and name in after]
    for name in shared:  # that it was trained with a rate of 1e-12 moves nothing
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    assert {name.split(".")[0] for name in after.keys() - before.keys()} >= {"decoders"}
    assert not [name for name in after if name.startswith("read_outs")]  # no rates are asked
    config = load_run(run).config
    assert config.model_overrides == {"dim": 16, "layers": 1, "rate_init": False} and config.start
    # what the weights have seen is not unseen, and the chain goes on behind them
    assert {s.id for s in load_run(run).trained_on} == {DAY.format(k) for k in (1, 2, 3)}
    assert load_run(run).own == [DAY.format(3)] and load_run(base).own == [DAY.format(k) for k in (1, 2)]
    refused = spiketok(root, "eval-xsession", run, "--sessions", "*day01*", code=2)
    assert "trained on" in refused.stderr
    names = [row["name"] for row in json.loads(spiketok(root, "verify", run, "--json").stdout)["chain"]]
    assert base.name in names


def test_a_new_session_starts_from_its_own_rates(root):
    base = base_of(root).name
    words = ("--from", base, "--task", "population", "--sessions", "*day03*", *SMALL, "--set", "model.rate_init=true")
    run = load_run(newest(root, *words, "--set", "optim.lr=1e-12"))
    bias = {unquote(name).split("/")[-1]: p for name, p in run.model.named_parameters() if "read_out" in name}
    ((_, new),) = [(name, p) for name, p in bias.items() if "day03" in name and name.endswith("bias")]
    known = [p for name, p in bias.items() if "day01" in name and name.endswith("bias")]
    assert new.min() < -1 and known[0].abs().max() < 0.2  # of spikes in 20 ms; the base began at 0


def test_the_same_command_goes_on(root):
    words = ("--from", base_of(root).name, "--task", "population,decode", "--sessions", "*day03*", *SMALL)
    run = newest(root, *words)
    first = (run / "checkpoint" / "model.safetensors").read_bytes()
    assert newest(root, *words) == run
    assert newest(root, *words, "--restart") == run
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == first


def test_what_does_not_fit_is_refused(root):
    def told(*words: str) -> str:
        return spiketok(root, "train", "--sessions", "*day03*", *SMALL, *words, code=2).stderr

    base = base_of(root).name
    assert "names a model, whose newest run changes: --from ndt1-" in told("--from", "ndt1", "--task", "decode")
    assert "do not fit" in told("--from", base, "--task", "decode", "--set", "model.dim=32")
    shared = told(
        "--from",
        base,
        "--task",
        "population",
        "--sessions",
        "*day01*",
        "--set",
        "split.train=0.6",
        "--set",
        "split.test=0.3",
    )
    assert "was trained on" in shared and "another split" in shared
    assert "cannot start from the weights" in told("--from", base, "--model", "poyo", "--set", "model.dim=32")
    assert "'spiketok train --from RUN'" in told("--model", "ndt1", "--set", "start=abc")


def test_a_share_of_the_training_time(root):
    def seconds(*sets: str) -> tuple[float, dict]:
        words = [word for text in sets for word in ("--set", text)]
        run = newest(root, "--model", "linear", "--sessions", "*day03*", "--tokenize", *words)
        result = json.loads((run / "result.json").read_text())
        (train,), (test,) = result["train_s"].values(), result["test"].values()
        return train, test["decode:cursor_vel"]

    whole, best = seconds()
    third, worse = seconds("data.train_share=0.3")
    assert third == pytest.approx(0.3 * whole) and worse["n_samples"] == best["n_samples"]
    assert worse["r2_mean"] < best["r2_mean"]


def test_names_of_runs_of_before_stay():
    plain = load_config("ndt1")
    assert plain.fingerprint() == load_config("ndt1", sets=["data.train_share=1.0"]).fingerprint()
    assert plain.fingerprint() != load_config("ndt1", sets=["data.train_share=0.5"]).fingerprint()
    assert plain.fingerprint() != load_config("ndt1", sets=["start=abc"]).fingerprint()


def test_weights_without_a_name_in_common_are_refused():
    model, other = torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.load_extra_state = lambda state: None
    base = SimpleNamespace(model=other, facts={"extra_state": {}}, path=Path("base"))
    with pytest.raises(UsageError, match="no tensor has a name in common"):
        start_from(model, base)


@pytest.mark.long
def test_a_run_that_learned_latents_leads_back_to_theirs(root):
    days = ("--sessions", "*day0[12]*", *SMALL)
    small = (
        "--set",
        "model.channels=8",
        "--set",
        "model.blocks=1",
        "--set",
        "model.states=4",
        "--set",
        "model.diffuse_from=1.0",
    )
    ldns = newest(root, "--model", "ldns", "--task", "population", *days, *small)
    words = ("--model", "ndt1", "--latents", ldns.name, *days, *OWN)
    taught = newest(root, *words, "--task", "decode:latents")
    assert load_run(taught).config.latents == load_run(ldns).digest
    refused = spiketok(root, "eval-xsession", taught, code=2).stderr
    assert "decodes the latents of another run" in refused and f"train --from {taught.name}" in refused
    child = newest(root, "--from", taught, "--task", "decode", "--sessions", "*day03*", *SMALL)
    chain = json.loads(spiketok(root, "verify", child, "--quick", "--json").stdout)["chain"]
    assert {child.name, taught.name, ldns.name} <= {link["name"] for link in chain}
    assert {link["state"] for link in chain if link["kind"] == "checkpoint"} == {"holds"}
    unknown = spiketok(root, "train", *words, "--task", "decode:latents", "--sessions", "*day03*", code=2).stderr
    assert "it was not trained on" in unknown
