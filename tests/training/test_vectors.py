"""Unit vectors as an input of a session: the file, whose time it is of, and runs that read it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import ArtefactError, DataError, UsageError  # noqa: E402
from spiketok.evaluation.live import LiveDecoder  # noqa: E402
from spiketok.recording.nouns import Intervals, SessionInfo  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.sessions import divide  # noqa: E402
from spiketok.training.vectors import (  # noqa: E402
    SessionVectors,
    keep_vectors,
    kept_vectors,
    read_vectors,
    require_same_embedding,
    vector_sets,
)
from tests.decodable import SECOND, decodable_session  # noqa: E402
from tests.evaluation.test_spint_transfer import predictions, tokens_for, transfer  # noqa: E402

DIM = 5


def write(path: Path, sessions, run_digest: str = "r" * 64, stop_s: float = 8.0, **others) -> Path:
    """A file as ``spiketok embed --calibration-s`` writes it: vectors of the first seconds, made by the seed."""
    names = [s.id for s in sessions]
    rng = np.random.default_rng(0)
    n = [len(s.units) for s in sessions]
    arrays = {
        "unit": np.array([f"{s.id}/{unit}" for s in sessions for unit in s.units.id]),
        "session": np.repeat(names, n),
        "vector": rng.normal(size=(sum(n), DIM)).astype(np.float32),
        "run_digest": np.array(run_digest),
        "time.session": np.array(names),
        "time.start_ns": np.zeros(len(names), np.int64),
        "time.stop_ns": np.full(len(names), round(stop_s * SECOND)),
    }
    np.savez(path, **(arrays | others))
    return path


@pytest.fixture(scope="module")
def sessions():
    return [decodable_session(f"day{k}", k, n_units=6 + k, seconds=30.0) for k in range(3)]


def test_a_file_is_kept_under_its_digest_and_checked(sessions, tmp_path):
    path, workspace = write(tmp_path / "v.npz", sessions), Workspace(tmp_path / "root")
    found = keep_vectors(workspace, path)
    again = kept_vectors(workspace, found.digest)
    assert (again.dim, again.run_digest, list(again.sessions)) == (DIM, "r" * 64, [s.id for s in sessions])
    infos = [SessionInfo(s.id, s.subject, np.array(s.units.id), 1, s.start_ns, s.stop_ns) for s in sessions]
    with np.load(path) as file:
        np.testing.assert_array_equal(np.concatenate([v.vector for v in again.of(infos)]), file["vector"])
    other = dataclasses.replace(infos[1], unit_id=infos[1].unit_id[::-1])
    with pytest.raises(DataError, match="made/day1 has 7 units, its 7 unit vectors are of others"):
        again.of([other])
    fewer = read_vectors(write(tmp_path / "w.npz", sessions[:1], run_digest="q" * 64))
    with pytest.raises(DataError, match="holds no unit vectors of made/day1 and 1 more"):
        fewer.of(infos)
    with pytest.raises(UsageError, match="was embedded by run qqqqqqqqqqqq, the model was trained on vectors by rrrr"):
        require_same_embedding(workspace, found.digest, fewer)
    with pytest.raises(UsageError, match="the run reads no unit vectors"):
        require_same_embedding(workspace, "", fewer)
    workspace.vectors_path(found.digest).write_bytes(fewer.path.read_bytes())
    with pytest.raises(ArtefactError, match="is damaged"):
        kept_vectors(workspace, found.digest)
    workspace.vectors_path(found.digest).unlink()
    with pytest.raises(ArtefactError, match="there is no file of unit vectors"):
        kept_vectors(workspace, found.digest)


def test_what_is_no_such_file_is_refused(sessions, tmp_path):
    noise, old = tmp_path / "noise.npz", tmp_path / "old.npz"
    noise.write_bytes(b"PK\x03\x04 nothing")
    with np.load(write(tmp_path / "v.npz", sessions)) as file:
        np.savez(old, **{key: value for key, value in file.items() if not key.startswith("time.")})
    short = write(tmp_path / "s.npz", sessions, vector=np.zeros((2, DIM), np.float32))
    for path in (noise, old, short):
        with pytest.raises(ArtefactError, match="is no file of unit vectors"):
            read_vectors(path)
    with np.load(tmp_path / "v.npz") as file:
        good = file["vector"]
    for wrong in (good * 1j, good.astype(str), np.full_like(good, np.inf), good[:, :0]):
        with pytest.raises(ArtefactError, match=r"is no file of unit vectors \(.*vectors of"):
            read_vectors(write(tmp_path / "w.npz", sessions, vector=wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": np.array("made/day0")},
        {"session": np.zeros(21)},
        {"unit": np.zeros((21, 2))},
        {"unit": np.array(3)},
        {"time.start_ns": np.zeros(3)},
        {"time.start_ns": np.full(3, np.nan)},
        {"time.start_ns": np.array(["0", "0", "0"])},
        {"time.start_ns": np.full(3, 10**18)},
        {"time.start_ns": np.zeros((3, 2), np.int64)},
        {"time.session": np.array(["made/day0"])},
        {"time.session": np.array(["made/day0", "made/day0", "made/day0"])},
    ],
    ids=lambda wrong: " ".join(f"{key} {value.dtype} {value.shape}" for key, value in wrong.items()),
)
def test_arrays_that_do_not_go_together_are_one_line_with_the_file(sessions, tmp_path, wrong):
    with pytest.raises(ArtefactError, match=r"w.npz is no file of unit vectors \(.*\): spiketok embed RUN"):
        read_vectors(write(tmp_path / "w.npz", sessions, **wrong))


def with_vectors(tokens, file):
    return [dataclasses.replace(t, vectors=file.of([t.info])[0]) for t in tokens]


@pytest.mark.parametrize("model", ["poyo_id", pytest.param("spint", marks=pytest.mark.long)])
def test_vectors_reach_a_run_only_from_its_calibration(model, sessions, tmp_path):
    """From training to an unseen session and a live stream; never in ``zero_shot``, never of other time."""
    file = read_vectors(write(tmp_path / "v.npz", sessions))
    late = read_vectors(write(tmp_path / "late.npz", sessions, stop_s=12.0))
    brief = ["optim.steps=2", "data.batch_size=4", "model.dim=16", *vector_sets(file)]
    brief += {
        "poyo_id": ["model.identity=vectors", "model.dim_head=8", "model.self_heads=2", "model.latents_per_step=2"],
        "spint": ["model.heads=2", "model.hidden=16", "model.history_bins=4", "model.calibration_length=20"],
    }[model]
    config = load_config(model, None, brief)
    bare = [tokens_for(tmp_path / "shards", s, config) for s in sessions]
    with pytest.raises(UsageError, match="none came with it: name their file by --vectors"):
        train(config, bare[:2], tmp_path / "none")
    tokens = with_vectors(bare, file)
    train(config, tokens[:2], tmp_path / "run")
    run = load_run(tmp_path / "run")
    found = transfer(run, tokens[2:], 10, "zero_shot", "zero_gradient")
    zero_shot, zero_gradient = (predictions(found, p)["made/day2"] for p in ("zero_shot", "zero_gradient"))
    assert np.isfinite(zero_gradient).all() and np.abs(zero_shot - zero_gradient).max() > 0
    adapted = transfer(run, tokens[2:], 10, "adapted")
    reasons = {cell.protocol: cell.reason for cell in adapted.cells if cell.protocol != "linear"}
    assert reasons == dict.fromkeys(("adapted", "adapted+linear"), reasons["adapted"])
    assert "blocks of it must not know of each other" in reasons["adapted"]
    with pytest.raises(DataError, match=r"of 12 s, 2 s of which are not in the 10 s that may be known"):
        transfer(run, with_vectors(bare[2:], late), 10, "zero_gradient")
    everything = read_vectors(write(tmp_path / "all.npz", sessions, stop_s=30.0))
    with pytest.raises(DataError, match=r"made/day0: its unit vectors are of 30 s"):
        train(config, with_vectors(bare[:2], everything), tmp_path / "other")
    plan = sessions[0]
    divided = divide(tokens[0], run.tasks, config.split)
    offline = predict(run.model, divided, "test", config)
    live = LiveDecoder(run, tokens[0], plan, divided.calibration, windows=divided.windows("test"))
    done = live.push(plan.spikes.time_ns, plan.spikes.unit) + live.finish(plan.stop_ns)
    (task,) = run.tasks
    value = np.concatenate([d.value[task.name] for d in done])
    assert len(value) > 20 and np.isfinite(value).all() and len(offline[task.name].predicted) >= len(value)


def test_calibration_that_is_not_known_gives_no_rows():
    own = SessionVectors("made/a", np.zeros((3, DIM), np.float32), Intervals([0], [10]))
    assert own.columns(Intervals.empty())["vector"].shape == (0, DIM)
    assert own.columns(Intervals([0, 5], [5, 10]))["vector"].shape == (3, DIM)
