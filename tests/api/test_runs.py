"""Training and evaluation from Python are those of the commands, and a loop of one's own reaches their score."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import spiketok
from spiketok.errors import ArtefactError, DataError, UnknownNameError, UsageError

TASK = "decode:hand_vel"
# a small ndt1, for 60 steps at a steady rate: enough to decode these sessions, in seconds
SETTINGS = {"optim.steps": 60, "optim.lr": 3e-3, "optim.schedule": "constant", "data.window_ms": 500}
SETTINGS |= {"data.batch_size": 16, "model.dim": 32, "model.layers": 1, "model.heads": 2, "transfer.identity_steps": 10}


@pytest.fixture(scope="module")
def run(ws):
    return ws.train("ndt1", "a,b", task=TASK, settings=SETTINGS)


def r2(scores) -> list[float]:
    return [own[TASK]["r2_variance_weighted"] for own in scores.values()]


def test_a_loop_of_ones_own_takes_the_steps_of_the_command(ws, run):
    ready = ws.prepare("ndt1", "a,b", task=TASK, settings=SETTINGS)
    optimizer, loader, step = ready.optimizer(), ready.loader(num_workers=0), 0
    while step < ready.steps:
        for batch in loader:
            ready.step(batch, optimizer, step)
            step += 1
            if step == ready.steps:
                break
    assert ready.score() == run.result["test"]
    assert min(r2(ready.score())) > 0.3
    for name, value in run.model.state_dict().items():
        assert np.array_equal(value.numpy(), ready.model.state_dict()[name].numpy()), name


@pytest.mark.long
def test_a_plain_torch_loop_reaches_the_score_of_the_command(ws, run):
    import torch

    ready = ws.prepare("ndt1", "a,b", task=TASK, settings=SETTINGS | {"seed": 7})
    optimizer = torch.optim.Adam(ready.model.parameters(), lr=3e-3)
    step = 0
    for _ in range(12):
        for batch in ready.loader():
            optimizer.zero_grad()
            ready.loss(batch, step)["total"].backward()
            optimizer.step()
            step += 1
    assert np.mean(r2(ready.score())) > np.mean(r2(run.result["test"])) - 0.05


def test_a_run_says_its_scores_its_curve_and_what_it_predicts(ws, run):
    assert run.sessions == ["made/a", "made/b"]
    assert run.scores.index.names == ["session", "task"]
    assert run.scores["r2_variance_weighted"].tolist() == r2(run.result["test"])
    assert run.curve["step"].tolist() == [10, 20, 30, 40, 50, 60]
    assert ws.run("ndt1").path == run.path
    assert ws.run().path == run.path
    assert [one.path for one in ws.runs()] == [run.path]
    assert "ndt1" in run._repr_html_()
    again = spiketok.load_run(run.path)
    said = again.predict("a")
    assert said.score["r2_variance_weighted"] == run.result["test"]["made/a"][TASK]["r2_variance_weighted"]
    table = said.table()
    assert table.shape == (len(said.time_ns), 4)
    error = ((table["prediction"] - table["target"]) ** 2).sum().sum()
    spread = ((table["target"] - table["target"].mean()) ** 2).sum().sum()
    assert 1 - error / spread == pytest.approx(said.score["r2_variance_weighted"], abs=1e-6)
    assert again.predict(ws["a"], split="valid").split == "valid"


@pytest.mark.long
def test_an_unseen_session_is_predicted_by_a_protocol_that_is_named(ws, run):
    with pytest.raises(UsageError, match=r"was not trained on made/c: say how it meets it, by protocol="):
        run.predict("c")
    with pytest.raises(DataError, match=r"made/c: zero_shot gives no prediction: its read-in is a session's own"):
        run.predict("c", protocol="zero_shot", calibration_s=5)
    said = run.predict("c", protocol="identity_only", calibration_s=5)
    found = ws.evaluate(run, "c", protocols=["identity_only"], calibration_s=5)
    row = found.scores.loc[("made/c", "identity_only", TASK, 0)]
    assert row["r2_variance_weighted"] == said.score["r2_variance_weighted"]
    assert set(found.scores.index.get_level_values("protocol")) == {"identity_only", "linear"}
    assert json.loads(found.report.with_suffix(".json").read_text())["format"]
    with pytest.raises(UsageError, match="leave out protocol="):
        run.predict("a", protocol="identity_only")


@pytest.mark.long
def test_what_was_chosen_is_logged_and_wrong_names_are_refused(ws, run, caplog, tmp_path):
    with caplog.at_level(logging.INFO, logger="spiketok"):
        again = ws.train("ndt1", "a,b", task=TASK, settings=SETTINGS)
        assert again.path == run.path
        ready = ws.prepare(sessions="a", task=TASK)
    assert f"model {ready.config.model}, which reads the shards that are there" in caplog.text
    for wrong, error in (
        ({"model": "ndt9"}, UnknownNameError),
        ({"settings": {"optim.step": 3}}, UnknownNameError),
        ({"resume": "perhaps"}, UnknownNameError),
        ({"sessions": "zzz"}, UnknownNameError),
    ):
        with pytest.raises(error):
            ws.train(**({"model": "ndt1", "sessions": "a", "task": TASK} | wrong))
    with pytest.raises(UnknownNameError, match="unknown task 'decode:gaze'"):
        run.predict("a", task="decode:gaze")
    with pytest.raises(UnknownNameError, match="unknown split 'later'"):
        run.predict("a", split="later")
    with pytest.raises(ArtefactError, match="holds no checkpoint"):
        spiketok.load_run(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_lightning_trainer_reaches_the_score_of_the_command(ws, run, num_workers):
    lightning = pytest.importorskip("lightning")
    import torch

    ready = ws.prepare("ndt1", "a,b", task=TASK, settings=SETTINGS)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.met = ready.model, []

        def training_step(self, batch, number):
            self.met.append(tuple(zip(batch.sessions, batch.start_ns.tolist(), strict=True)))
            return ready.loss(batch, self.global_step)["total"]

        def validation_step(self, batch, number):
            loss = ready.loss(batch, self.global_step)["total"]
            self.log("valid", loss, batch_size=len(batch))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=3e-3)

    module = Module()
    trainer = lightning.Trainer(
        max_steps=ready.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ready.datamodule(num_workers=num_workers))
    assert np.mean(r2(ready.score())) > np.mean(r2(run.result["test"])) - 0.05
    expected, own = [], ready.dataset()
    for epoch in range(20):
        own.set_epoch(epoch)
        expected += [tuple(zip(b.sessions, b.start_ns.tolist(), strict=True)) for b in own]
    assert module.met == expected[: ready.steps]  # every window of each epoch, each epoch another one
    assert "valid" in trainer.logged_metrics or "valid" in trainer.callback_metrics


@pytest.mark.oracle
def test_pynapple_has_the_same_spikes_trials_and_behaviour(ws):
    pytest.importorskip("pynapple")
    session = ws["a"].load()
    found = ws["a"].to_pynapple()
    assert len(found["units"]) == 12
    for k in range(12):
        expected = session.spikes.time_ns[session.spikes.unit == k] / 1e9
        assert found["units"][k].t == pytest.approx(expected)
    assert found["units"].get_info("unit_id").tolist() == session.units.id.tolist()
    assert found["hand_vel"].values == pytest.approx(session.signals["hand_vel"].value)
    assert found["trials"]["start"] == pytest.approx(session.trials.start_ns / 1e9)
    assert found["trials"].get_info("side").tolist() == ["left", "right", "left"]
