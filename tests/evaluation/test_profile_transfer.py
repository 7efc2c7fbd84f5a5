"""The row ``profile`` of apst: labels of the calibration set what a unit is, and nothing is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError  # noqa: E402
from spiketok.models.apst import Apst  # noqa: E402
from spiketok.recording.nouns import Session  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.evaluation.test_spint_transfer import permuted, predictions, tokens_for, transfer  # noqa: E402

SECOND, CALIBRATION_S = 1_000_000_000, 10
BRIEF = [
    *(
        "model.dim=16",
        "model.heads=2",
        "model.hidden=16",
        "model.slots=2",
        "model.slot_heads=2",
        "model.slot_hidden=16",
    ),
    *("model.identity=8", "model.read_out=16", "model.calibration_trials=3", "model.calibration_length=20"),
    *("model.profile_draws=2", "model.profile_s=5", "optim.steps=8", "data.batch_size=4"),
]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A run on two sessions, a third one, and what makes shards of it."""
    folder, config = tmp_path_factory.mktemp("profiles"), load_config("apst", None, BRIEF)
    sessions = [decodable_session(f"day{k}", k, n_units=9 + k) for k in range(3)]
    train(config, [tokens_for(folder / "as-is", s, config) for s in sessions[:2]], folder / "run")
    return load_run(folder / "run"), sessions[2], lambda name, s: tokens_for(folder / name, s, config)


def moved(session: Session, from_ns: int, to_ns: int) -> Session:
    """The same recording with another behaviour in some time."""
    signals = {}
    for name, signal in session.signals.items():
        rows = (signal.time_ns >= from_ns) & (signal.time_ns < to_ns)
        signals[name] = replace(signal, value=np.where(rows[:, None], -3 * signal.value[::-1], signal.value))
    return replace(session, signals=signals)


def test_a_profile_is_of_the_labels_of_the_calibration(setting):
    run, session, shards = setting
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    found = transfer(run, [shards("as-is", session)], CALIBRATION_S, "zero_shot", "zero_gradient", "profile", "full")
    (facts,), (task,) = found.sessions, found.tasks
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())
    cell = found.cell(session.id, "profile", task.name)
    assert cell.score is not None and cell.trained_parameters == 0
    for protocol in ("zero_gradient", "full"):
        assert "the row 'profile'" in found.cell(session.id, protocol, task.name).reason
    expected = cell.answer.predicted
    zero_shot = predictions(found, "zero_shot")[session.id]
    assert np.abs(zero_shot - expected).max() > 1e-3 * np.abs(expected).max()

    def profile(name: str, other: Session) -> np.ndarray:
        return predictions(transfer(run, [shards(name, other)], CALIBRATION_S, "profile"), "profile")[other.id]

    stop_ns, test_ns = int(facts.calibration.stop_ns[-1]), int(facts.test.start_ns[0])
    assert stop_ns < test_ns
    later = profile("later", moved(session, stop_ns, session.stop_ns))
    np.testing.assert_array_equal(later, expected)  # labels that it may not see
    assert np.abs(profile("earlier", moved(session, 0, stop_ns)) - expected).max() > 1e-3 * np.abs(expected).max()
    turned = profile("turned", permuted(session))
    assert np.abs(turned - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_session_that_gives_no_profile_is_an_empty_cell(setting, monkeypatch):
    run, session, shards = setting

    def none(self, sessions):
        message = f"{session.id}: 2 trials of 2 different angles: a cosine needs three angles at least"
        raise DataError(message)

    monkeypatch.setattr(Apst, "fit_sessions", none)
    found = transfer(run, [shards("again", session)], CALIBRATION_S, "profile")
    cell = found.cell(session.id, "profile", found.tasks[0].name)
    assert cell.score is None and cell.reason.endswith("three angles at least")
