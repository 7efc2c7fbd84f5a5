"""The coupling of units from a run: scores against a truth, files, the picture, refusals; and the command's truth."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.coupling import Coupling, against_truth, coupling, draw_coupling, strongest, write_coupling
from spiketok.models.neuroformer import Neuroformer
from spiketok.sources.simulator import SimulationConfig, simulate, synapses_beside
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.sampling import SessionTokens
from tests.decodable import decodable_session
from tests.models.test_models import QUICK

SESSION = decodable_session("day", 0, n_units=5)


def found_of(matrix: np.ndarray) -> Coupling:
    return Coupling("a/b", matrix, np.array([f"u{n}" for n in range(len(matrix))]), "removal", 1.0)


def test_auc_is_the_chance_that_a_coupled_pair_stands_above_another():
    rng = np.random.default_rng(0)
    matrix, truth = rng.normal(size=(7, 7)).round(1), (rng.random((7, 7)) < 0.3) * 1.2
    matrix[1, 2] = np.nan
    apart = ~np.eye(7, dtype=bool) & np.isfinite(matrix)
    yes, no = matrix[apart & (truth != 0)], matrix[apart & (truth == 0)]
    wanted = np.mean([(a > b) + (a == b) / 2 for a in yes for b in no])
    scores = against_truth(found_of(matrix), truth)
    assert scores["auc"] == pytest.approx(wanted)
    assert scores["pairs"] == len(yes)
    assert scores["shuffled"] == pytest.approx(0.5, abs=0.03)
    assert 0.02 < scores["shuffled_sd"] < 0.2
    np.fill_diagonal(truth, 0)
    assert against_truth(found_of(np.where(np.isnan(matrix), np.nan, truth)), truth)["auc"] == 1


def test_a_truth_that_fits_not_is_refused():
    matrix = np.ones((3, 3))
    with pytest.raises(DataError, match="3 units, its truth is of shape .4, 4."):
        against_truth(found_of(matrix), np.ones((4, 4)))
    with pytest.raises(DataError, match="0 of 6 pairs are coupled"):
        against_truth(found_of(matrix), np.eye(3))


def test_the_strongest_pairs_are_of_different_units_that_met():
    matrix = np.array([[9.0, 1.0, np.nan], [3.0, 9.0, -1.0], [0.5, 2.0, 9.0]])
    pairs = [(row["unit"], row["depends_on"], row["coupling"]) for row in strongest(found_of(matrix), 3)]
    assert pairs == [("u1", "u0", 3.0), ("u2", "u1", 2.0), ("u0", "u1", 1.0)]
    assert len(strongest(found_of(matrix), 100)) == 5


def test_a_run_gives_a_matrix_its_file_and_its_picture(tmp_path):
    sets = [f"model.{key}={value}" for key, value in QUICK["neuroformer"].items()]
    sets += ["data.window_ms=100", "data.batch_size=8", "optim.steps=2"]
    config = load_config("neuroformer", sets=sets, tasks=["events"])
    (wanted,) = Neuroformer.inputs(config.model_config(), ["events"], config.timing).values()
    write_shard(
        tmp_path / "shard",
        make_scheme(wanted.scheme, **wanted.fields),
        SESSION,
        SESSION.observed,
        segments_rule="continuous",
        store_digest="d" * 64,
    )
    tokens = SessionTokens({"spikes": ShardReader(tmp_path / "shard")})
    train(config, [tokens], tmp_path / "run")
    run = load_run(tmp_path / "run")
    for how in ("removal", "attention"):
        found = coupling(run, tokens, how, seconds=0.8)
        assert found.matrix.shape == (5, 5)
        assert np.isfinite(found.matrix).all()
        assert (found.how, found.seconds) == (how, pytest.approx(0.8))
    path = write_coupling(found, run, tmp_path / "out")
    draw_coupling(found, path.with_suffix(".png"), np.eye(5)[::-1])
    with np.load(path) as file:
        np.testing.assert_array_equal(file["matrix"], found.matrix)
        assert file["unit_id"].tolist() == SESSION.units.id.tolist()
        assert (str(file["session"]), str(file["run_digest"])) == (SESSION.id, run.digest)
    assert path.with_suffix(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UsageError, match="--how is 'magic', neuroformer has removal and attention"):
        coupling(run, tokens, "magic", seconds=1)
    with pytest.raises(UsageError, match="--seconds is 0"):
        coupling(run, tokens, seconds=0)


def test_the_truth_lies_beside_the_one_file_of_a_session(tmp_path):
    settings = {"n_subjects": 1, "sessions_per_subject": 1, "duration_s": 5.0, "n_units": 6}
    (nwb,) = simulate(SimulationConfig(**settings, synapses=2.0), tmp_path / "with")
    (other,) = simulate(SimulationConfig(**settings), tmp_path / "without")
    with np.load(next(nwb.parent.glob("*_truth.npz"))) as truth:
        np.testing.assert_array_equal(synapses_beside([nwb]), truth["synapse"])
    assert synapses_beside([other]) is None
    assert synapses_beside([tmp_path / "gone_behavior+ecephys.nwb"]) is None
    assert synapses_beside([nwb, nwb]) is synapses_beside([]) is None
