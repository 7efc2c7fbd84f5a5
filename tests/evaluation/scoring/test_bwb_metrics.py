"""BrainWideBench's scores: every recorded case of ibl-bwb-eval 0.1.0, and the formulas in float64."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

import torch

from spiketok.errors import SpiketokError
from spiketok.evaluation.scoring import bwb_metrics as metrics
from spiketok.evaluation.scoring.bwb_units import mean_of_neighbours
from spiketok.sources.catalogue.bwb.windows import held_out_of
from tests.evaluation.scoring.golden import GOLDEN, answers, cases, far, needs_golden

EXACT = 1e-6
CLASSES = {"cls2": 2, "cls5": 5}


def each(name: str):
    """The cases of a file; those that need torchmetrics or scikit-learn, whose import costs seconds, are long."""
    light = ("pois_", "ts2_")
    return [pytest.param(one, marks=() if one.startswith(light) else pytest.mark.long) for one in cases(name)]


def parts_of(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with np.load(GOLDEN / "metrics.npz") as golden:
        n = cases("metrics.json")[name]["updates"]
        both = [(golden[f"{name}/preds{i}"], golden[f"{name}/target{i}"]) for i in range(n)]
    return [(torch.from_numpy(p), torch.from_numpy(t)) for p, t in both]


def scores_of(name: str) -> dict[str, float]:
    """Our scores of a case."""
    parts = parts_of(name)
    kind = name.split("_")[0]
    if kind == "pois":
        sums = [metrics.PoissonSums.of(*part, finite="novalidate" not in name) for part in parts]
        total = sums[0]
        for more in sums[1:]:
            total = total + more
        if name == "pois_1d":
            return {"poisson_d2": total.d2()}
        return {"poisson_d2": total.d2(), "bps": total.bits_per_spike()}
    prediction, target = (torch.cat(side) for side in zip(*parts, strict=True))
    if kind == "reg":
        return metrics.series_scores(prediction.reshape(-1), target.reshape(-1))
    return metrics.class_scores(prediction, target, CLASSES[kind])


def check(recorded: dict, own) -> None:
    """Our answer, or our refusal, is the recorded one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if "error" in recorded:
            with pytest.raises(SpiketokError):
                own()
            return
        found, *remarks = own()
    assert set(found) == set(recorded["result"])
    apart = {key: far(found[key], value) for key, value in recorded["result"].items()}
    assert max(apart.values()) <= EXACT, {key: (found[key], recorded["result"][key]) for key in apart}
    told = remarks[0] if remarks else caught
    assert bool(told) == bool(recorded["warnings"])


@needs_golden
@pytest.mark.parametrize("name", each("metrics.json"))
def test_a_metric_is_the_references(name):
    check(cases("metrics.json")[name], lambda: (scores_of(name),))


@needs_golden
@pytest.mark.parametrize("name", each("files.json"))
def test_a_file_scores_as_with_the_reference(name):
    case, folder = cases("files.json")[name], GOLDEN / "files" / name
    check(case, lambda: metrics.score_file(case["task"], folder / "pred.safetensors", folder / "gt.safetensors"))


@needs_golden
def test_neighbours_are_averaged_as_by_the_reference():
    with np.load(GOLDEN / "multi_unit.npz") as golden:
        own = [golden[f"distinct/{key}"] for key in ("pred_proba", "depths", "probe_ids")]
        np.testing.assert_allclose(mean_of_neighbours(*own), golden["distinct/averaged"], atol=1e-7)
        tied = [golden[key] for key in ("pred_proba", "depths", "probe_ids")]
        ours, theirs = mean_of_neighbours(*tied), golden["averaged"]
        by_chance = [*range(1, 9), 10, 12]  # six units at one depth: the reference's sort is not stable
        settled = np.setdiff1d(np.arange(len(ours)), by_chance)
        np.testing.assert_allclose(ours[settled], theirs[settled], atol=1e-7)
        for k in by_chance:
            near = np.flatnonzero((tied[2] == tied[2][k]) & (np.abs(tied[1] - tied[1][k]) <= 60))
            low, high = tied[0][near].min(axis=0), tied[0][near].max(axis=0)
            assert ((ours[k] >= low) & (ours[k] <= high) & (theirs[k] >= low) & (theirs[k] <= high)).all()


@needs_golden
def test_the_units_held_out_are_the_pipelines():
    golden = answers("heldout_units.json")
    for split in ("test", "val"):
        assert held_out_of(golden["unit_ids"], split).tolist() == golden[split]
    for n, count in golden["counts"].items():
        assert held_out_of([f"unit {k}" for k in range(int(n))], "test").sum() == count


def test_d2_and_bits_per_spike_are_their_formulas():
    """In float64, term by term, by scipy's own log probabilities."""
    from scipy.stats import poisson

    rng = np.random.default_rng(0)
    count = rng.poisson(0.4, (400, 6))
    log_rate = rng.normal(-1, 0.5, (400, 6))
    count[:, 2] = 0
    sums = metrics.PoissonSums.of(torch.from_numpy(log_rate), torch.from_numpy(count))
    own = -poisson.logpmf(count, np.exp(log_rate)).sum(axis=0)
    null = -poisson.logpmf(count, count.mean(axis=0)).sum(axis=0)
    best = -poisson.logpmf(count, count).sum(axis=0)
    spiking = count.sum(axis=0) > 0
    d2 = 1 - (own - best)[spiking] / (null - best)[spiking]
    assert sums.d2() == pytest.approx(d2.mean(), abs=1e-5)
    bits = (null - own)[spiking].sum() / count.sum() / np.log(2)
    assert sums.bits_per_spike() == pytest.approx(bits, abs=1e-5)
