"""Laws that each model of MODELS keeps from shards to checkpoint: resume, other unit counts, precision, processes.

Every model trains a few steps at toy size on sessions that have an unobserved stretch inside their segment. What holds
for a batch made by hand stands in tests/models/test_laws.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from spiketok.errors import UsageError
from spiketok.evaluation import transfer
from spiketok.models import MODELS
from spiketok.recording.nouns import Intervals
from spiketok.settings import typed
from spiketok.testing.models import SETS, STEPS, Stopped, bytes_of
from spiketok.testing.sessions import recorded
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.checkpoints import load_run
from spiketok.training.config import RunConfig, load_config
from spiketok.training.loop import train
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import Once, SessionTokens
from tests.models.test_models import ALL, CLOSED_FORM, OF_SEVERAL, QUICK, TRAINED, WITH_IDENTITY


def config_of(name: str, *sets: str) -> RunConfig:
    size = ["size=tiny"] if "tiny" in MODELS[name].sizes else []
    return load_config(name, None, [*size, *(f"model.{k}={typed(v)}" for k, v in QUICK[name].items()), *SETS, *sets])


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Gives the shards of sessions that a run reads; each is baked once, whole."""
    folder = tmp_path_factory.mktemp("shards")

    @cache
    def shard(name: str, scheme, noise: bool) -> ShardReader:
        session = recorded(name, noise)
        target = folder / str(len(list(folder.iterdir())))
        whole = Intervals([0], [session.stop_ns])
        write_shard(target, scheme, session, whole, segments_rule="continuous", store_digest="d" * 64)
        return ShardReader(target)

    def session(config: RunConfig, name: str, noise: bool) -> SessionTokens:
        inputs = run_inputs(config).items()
        readers = {key: shard(name, scheme_of(wanted), noise) for key, wanted in inputs}
        once = {key: Once(readers[key], w.most, w.choose) for key, w in inputs if w.per == "session"}
        return SessionTokens({key: reader for key, reader in readers.items() if key not in once}, once)

    def sessions(config: RunConfig, names=None, noise: bool = False) -> list[SessionTokens]:
        names = names or ("a" if MODELS[config.model].one_session else "ab")
        return [session(config, name, noise) for name in ([names] if names == "new" else names)]

    return sessions


@pytest.fixture(scope="module")
def whole(tokens, tmp_path_factory):
    """Gives the folder of a model's uninterrupted run, and its result."""

    @cache
    def run(name: str):
        folder, config = tmp_path_factory.mktemp(name), config_of(name)
        return folder, train(config, tokens(config), folder)

    return run


def losses_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@TRAINED
def test_a_run_that_stopped_goes_on_to_the_same_bytes(name, tokens, whole, tmp_path):
    def stop(told):
        if (told["event"], told.get("step")) == ("checkpoint", 2):
            raise Stopped

    config = config_of(name)
    with pytest.raises(Stopped):
        train(config, tokens(config), tmp_path, on_event=stop)
    result = train(config, tokens(config), tmp_path, resume="must")
    assert result.resumed_from == 2
    assert bytes_of(tmp_path) == bytes_of(whole(name)[0])
    assert result.scores == whole(name)[1].scores


@OF_SEVERAL
def test_a_session_of_another_unit_count_trains_beside(name, whole):
    folder, result = whole(name)
    assert sorted(result.scores) == load_run(folder).model.sessions() == ["made/a", "made/b"]
    for by_task in result.scores.values():
        assert set(by_task) == {task.name for task in load_run(folder).tasks}
        assert all(np.isfinite(v) for score in by_task.values() for v in score.values() if isinstance(v, float))


@ALL
def test_time_that_was_not_observed_changes_no_training(name, tokens, whole, tmp_path):
    """Not by its spikes, its behaviour, nor the scale of either."""
    config = config_of(name)
    result = train(config, tokens(config, noise=True), tmp_path)
    folder, clean = whole(name)
    assert bytes_of(tmp_path)["model.safetensors"] == bytes_of(folder)["model.safetensors"]
    assert result.scores == clean.scores


def test_weights_of_sessions_are_refused_where_a_task_has_windows_of_its_own(tokens, tmp_path):
    config = config_of("nuclr", "data.session_weights={'made/a'=2}")
    message = "data.session_weights does not apply to embed, whose windows are its own: leave it out"
    with pytest.raises(UsageError, match=message):
        train(config, tokens(config), tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@TRAINED
def test_mixed_precision_trains_as_full_precision_does(name, tokens, whole, tmp_path):
    config = config_of(name, "optim.precision=bf16-mixed")
    train(config, tokens(config), tmp_path)
    assert bytes_of(tmp_path)["model.safetensors"] != bytes_of(whole(name)[0])["model.safetensors"]
    assert all(p.dtype == torch.float32 for p in load_run(tmp_path).model.parameters())
    lines, full = losses_of(tmp_path), losses_of(whole(name)[0])
    assert len(lines) == len(full) == STEPS // 2
    for found, expected in zip(lines, full, strict=True):
        assert found == pytest.approx(expected, rel=0.05, abs=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is here: run it on a machine that has one")
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 0.2), ("bf16-mixed", 0.25)])
@TRAINED
def test_a_gpu_trains_as_the_cpu_does(name, precision, tolerance, tokens, whole, tmp_path):
    """What is hidden and dropped is drawn on the device: losses are near, and no more.

    Gradients of a step without draws are compared in tests/models/test_models.py.
    """
    config = config_of(name, "optim.accelerator=cuda", f"optim.precision={precision}")
    result = train(config, tokens(config), tmp_path)
    assert sorted(result.scores) == sorted(whole(name)[1].scores)
    for found, expected in zip(losses_of(tmp_path), losses_of(whole(name)[0]), strict=True):
        assert found == pytest.approx(expected, rel=tolerance, abs=0.1)


@WITH_IDENTITY
def test_identity_only_moves_every_identity_parameter_and_no_other(name, tokens, whole, monkeypatch):
    """As eval-xsession adapts: by the numbers before and after, not by what the adaptation itself says of them."""
    moved: set[tuple[str, int]] = set()
    identity: set[tuple[str, int]] = set()
    real = transfer._adapt

    def watched(unseen, model, protocol, tasks):
        parts = model.identity_parameters([unseen.session.id])
        names = {id(p): key for key, p in model.named_parameters()}
        for part in parts:
            identity.update(
                (names[id(part.parameter)], r) for r in range(len(part.parameter))[part.rows or slice(None)]
            )
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        trained = real(unseen, model, protocol, tasks)
        for key, p in model.named_parameters():
            moved.update((key, r) for r in (p != before[key]).reshape(len(p), -1).any(1).nonzero().flatten().tolist())
        return trained

    monkeypatch.setattr(transfer, "_adapt", watched)
    run = load_run(whole(name)[0])
    (unseen,) = tokens(run.config, "new")
    found = transfer.evaluate_transfer(run, [unseen], protocols=["identity_only"], calibration_s=4)
    assert identity and moved == identity
    for task in run.tasks:
        cell = found.cell("made/new", "identity_only", task.name)
        assert cell.score is not None, cell.reason
        assert cell.trained_parameters > 0


# ---- two processes --------------------------------------------------------------------------------------------------

TWO = textwrap.dedent("""
    import json, sys, torch
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from spiketok.tokens.shards import ShardReader
    from spiketok.training import loop
    from spiketok.training.config import RunConfig
    from spiketok.training.sampling import Once, SessionTokens
    out, real = Path(sys.argv[1]), loop._fit

    def fit(fabric, config, model, *rest):
        real(fabric, config, model, *rest)
        assert fabric.world_size == 2
        torch.save(model.state_dict(), out / f"{{config.model}}.{{fabric.global_rank}}")

    loop._fit = fit
    for facts in json.loads((out / "runs.json").read_text()):
        config = RunConfig.from_dict(facts["config"])
        sessions = [
            SessionTokens(
                {{k: ShardReader(Path(p)) for k, p in one["windowed"].items()}},
                {{k: Once(ShardReader(Path(p)), most, choose) for k, (p, most, choose) in one["once"].items()}},
            )
            for one in facts["sessions"]
        ]
        loop.train(config, sessions, out / "run" / config.model)
""")


@pytest.fixture(scope="module")
def of_two(tokens, tmp_path_factory):
    """The folder in which two processes left what each made of every model, and what they said."""
    out, runs = tmp_path_factory.mktemp("two"), []
    for name in MODELS:
        if name != CLOSED_FORM:
            config = config_of(name, "optim.devices=2")
            sessions = [
                {
                    "windowed": {k: str(reader.path) for k, reader in s.windowed.items()},
                    "once": {k: (str(o.reader.path), o.most, o.choose) for k, o in s.once.items()},
                }
                for s in tokens(config)
            ]
            runs.append({"config": config.to_dict(), "sessions": sessions})
    (out / "runs.json").write_text(json.dumps(runs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    code = TWO.format(tests=str(Path(__file__).parents[2]))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out)], stderr=subprocess.PIPE, env=told | {"LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=600)[1].decode()[-1500:] for process in running]
    return out, "" if all(process.returncode == 0 for process in running) else "\n".join(said)


@pytest.mark.slow  # two processes that import torch and train every model
@TRAINED
def test_two_processes_train_to_the_same_parameters(name, of_two, whole):
    out, error = of_two
    found = [out / f"{name}.{rank}" for rank in range(2)]
    assert all(path.exists() for path in found), error
    first, second = (torch.load(path) for path in found)
    alone = load_run(whole(name)[0]).model.state_dict()
    assert first.keys() == second.keys() == alone.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not all(torch.equal(value, alone[key]) for key, value in first.items())  # each took windows of its own
