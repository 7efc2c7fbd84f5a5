"""Live decoding gives the numbers of the offline causal prediction, however the stream is cut into pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.evaluation.live import LiveDecoder  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.sessions import divide  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.evaluation.test_spint_transfer import tokens_for  # noqa: E402

SMALL = {
    "linear": ["data.stitch=causal"],
    "poyo": ["model.dim=16", "optim.steps=3", "data.stitch=causal"],
}


@pytest.mark.parametrize("name", SMALL)
def test_live_equals_offline_for_random_pieces(name, tmp_path):
    config = load_config(name, None, SMALL[name])
    session = decodable_session("day0", 0, seconds=30.0)
    tokens = tokens_for(tmp_path / "shards", session, config)
    train(config, [tokens], tmp_path / "run")
    run = load_run(tmp_path / "run")
    divided = divide(tokens, run.tasks, config.split)
    (task,) = run.tasks
    offline = predict(run.model, divided, "test", run.config)[task.name]
    rng = np.random.default_rng(1)
    start_ns = int(divided.windows("test").start_ns[0])
    decoder = LiveDecoder(run, tokens, session, divided.calibration, start_ns)
    rows = session.spikes.time_ns >= start_ns
    time_ns, unit = session.spikes.time_ns[rows], session.spikes.unit[rows]
    cuts = np.sort(rng.integers(0, len(time_ns) + 1, 200))
    found = []
    for low, high in zip([0, *cuts], [*cuts, len(time_ns)], strict=True):
        found += decoder.push(time_ns[low:high], unit[low:high])
    found += decoder.finish(session.stop_ns)
    live = {t: v for one in found for t, v in zip(one.time_ns[task.name].tolist(), one.value[task.name], strict=True)}
    assert len(live) == sum(len(one.time_ns[task.name]) for one in found)  # no time is answered twice
    both = [k for k, t in enumerate(offline.time_ns.tolist()) if t in live]
    assert len(both) > 0.7 * len(offline.time_ns)
    said = np.array([live[t] for t in offline.time_ns[both].tolist()])
    assert np.abs(said - offline.predicted[both]).max() <= 1e-5 * max(np.abs(offline.predicted).max(), 1)
    with pytest.raises(DataError, match="does not know it"):
        LiveDecoder(run, tokens, replace(session, id="made/other"), divided.calibration)


def test_a_model_that_reads_time_before_its_windows_is_refused(tmp_path):
    config = load_config("spint", None, ["size=tiny", "optim.steps=1", "data.bin_ms=20", "data.batch_size=4"])
    session = decodable_session("day0", 0, seconds=30.0)
    tokens = tokens_for(tmp_path / "shards", session, config)
    train(config, [tokens], tmp_path / "run")
    run = load_run(tmp_path / "run")
    divided = divide(tokens, run.tasks, config.split)
    with pytest.raises(UsageError, match="before each window"):
        LiveDecoder(run, tokens, session, divided.calibration)
