"""MtM's four scores on simulated sessions of two regions: beside mean rates, a GLM, and the model of one mask alone.

The GLM (``sklearn.linear_model.PoissonRegressor``, a fit a unit) reads smoothed counts of what a mode leaves to see:
all other units, those of the own region, those of the other, or for bins ahead the last bins of all units. It is asked
through ``predict`` as the models are: on the same windows, bins and units, by the same scores.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from scipy.ndimage import gaussian_filter1d  # noqa: E402
from sklearn.linear_model import PoissonRegressor  # noqa: E402

from spiketok.pipeline.ingest import ingest  # noqa: E402
from spiketok.sources.simulator import SimulationConfig, simulate  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import prepare, train  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.runs import make_shards, open_shards  # noqa: E402
from tests.toys import Toy  # noqa: E402

MODES = ("unit", "forward", "intra_region", "inter_region")
SD_BINS, LAST, ALPHA = 2.5, (2, 5, 15), 1e-2  # of 20 ms; bins whose means tell of those ahead
MASKS = {"all": (), "temporal": ('model.masks=["temporal"]',)}


def configured(*sets: str):
    return load_config(
        "mtm", sets=[f"task.population.modes={list(MODES)}".replace("'", '"'), *sets], tasks=["population"]
    )


def smooth(counts: np.ndarray) -> np.ndarray:
    """Counts ``[..., T, N]`` under a Gaussian over bins; at the ends the mean of what is there."""
    there = gaussian_filter1d(np.ones(counts.shape[-2]), SD_BINS, mode="constant")[:, None]
    return gaussian_filter1d(counts, SD_BINS, axis=-2, mode="constant") / there


class Glm(Toy):
    """Says what a GLM of what it may see says, whichever the mode."""

    one_session_batches = True

    def __init__(self, stretches: list[np.ndarray], region: np.ndarray, n_ahead: int) -> None:
        super().__init__()
        self.region, self.n_units, self.ahead = region, len(region), n_ahead
        x, y = (np.concatenate([change(s) for s in stretches]) for change in (smooth, np.asarray))
        self.mean = y.mean(axis=0)
        everyone = np.arange(self.n_units)
        self.seen = {
            "unit": [np.delete(everyone, n) for n in everyone],
            "intra_region": [np.setdiff1d(np.flatnonzero(region == region[n]), [n]) for n in everyone],
            "inter_region": [np.flatnonzero(region != region[n]) for n in everyone],
        }
        self.fits = {
            mode: [self._fit(x[:, seen], y[:, n]) for n, seen in enumerate(units)] for mode, units in self.seen.items()
        }
        first = max(LAST)
        rows = [np.arange(first, len(s) - n_ahead) for s in stretches]
        past = np.concatenate([self._last(s, r) for s, r in zip(stretches, rows, strict=True)])
        self.fits["forward"] = [
            [
                self._fit(past, np.concatenate([s[r + h, n] for s, r in zip(stretches, rows, strict=True)]))
                for n in everyone
            ]
            for h in range(n_ahead)
        ]

    @staticmethod
    def _fit(x: np.ndarray, y: np.ndarray) -> PoissonRegressor:
        return PoissonRegressor(alpha=ALPHA, max_iter=200, tol=1e-3).fit(x, y)

    @staticmethod
    def _last(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """``[R, len(LAST) * N]``, means of the bins before each row."""
        total = np.concatenate([np.zeros((1, counts.shape[1])), counts.cumsum(axis=0)])
        return np.concatenate([(total[rows] - total[rows - n]) / n for n in LAST], axis=1)

    def forward(self, batch):
        hidden = batch.hidden["counts"].unflatten(0, (len(batch), -1)).numpy()
        counts = batch.inputs["counts"].columns["counts"].unflatten(0, (len(batch), -1)).numpy().astype(float)
        rate = np.broadcast_to(self.mean, counts.shape).copy()
        if batch.mode == "forward":
            n_bins = counts.shape[1]
            past = np.concatenate([self._last(window, np.array([n_bins - self.ahead])) for window in counts])
            for h, fits in enumerate(self.fits["forward"]):
                for n, fit in enumerate(fits):
                    rate[:, n_bins - self.ahead + h, n] = fit.predict(past)
        elif batch.mode:
            x = smooth(counts)
            asked = batch.asked["population"].weight.unflatten(0, (len(batch), -1)).numpy() > 0
            for n in np.flatnonzero((hidden & asked).any(axis=(0, 1))):
                seen = self.seen[batch.mode][n]
                assert not hidden[..., seen].any()  # it reads nothing that the mode hides
                rate[..., n] = (
                    self.fits[batch.mode][n].predict(x[..., seen].reshape(-1, len(seen))).reshape(x.shape[:2])
                )
        return {"population": torch.from_numpy(np.log(np.maximum(rate, 1e-9))).flatten(0, 1)}


@pytest.mark.slow
def test_four_masks_serve_four_questions(tmp_path):
    """Each score is above the mean rates' (0) and the GLM's, and training with all masks helps in at least three."""
    simulation = SimulationConfig(
        n_subjects=1, sessions_per_subject=2, n_units=60, duration_s=300.0, rate_median_hz=10.0, tuning_depth=1.0
    )
    workspace = Workspace.locate(tmp_path / "root")
    found = [outcome.result.session_id for outcome in ingest(workspace, simulate(simulation, tmp_path / "simulated"))]
    make_shards(workspace, found, configured(), lambda line: None)
    tokens = open_shards(workspace, found, configured())
    means: dict[str, dict[str, float]] = {}
    for name, sets in MASKS.items():
        result = train(configured(*sets), tokens, tmp_path / name)
        scores = [answers["population"].score() for answers in result.answers.values()]
        means[name] = {mode: float(np.mean([score[f"{mode}_bps"] for score in scores])) for mode in MODES}
    divided, _ = prepare(configured(), tokens)
    n_ahead = round(0.1 * configured().data.window_ms / 20)
    told = []
    for session in divided:
        region = np.asarray(session.tokens.info.unit_columns["region"]).astype(str)
        assert len(np.unique(region)) == 2
        stretches = [s.columns["counts"]["counts"].astype(np.float64) for s in session.stretches("train")]
        told.append(predict(Glm(stretches, region, n_ahead), session, "test", configured())["population"].score())
    means["GLM"] = {mode: float(np.mean([score[f"{mode}_bps"] for score in told])) for mode in MODES}
    for name, values in means.items():
        print(name, {mode: round(value, 4) for mode, value in values.items()})
    assert all(means["all"][mode] > max(0, means["GLM"][mode]) for mode in MODES), means
    assert sum(means["all"][mode] > means["temporal"][mode] for mode in MODES) >= 3, means
