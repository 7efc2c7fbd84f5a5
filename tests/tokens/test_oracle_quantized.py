"""Buckets and soft targets against torch and numpy, run by ``make oracle``."""

from __future__ import annotations

import numpy as np
import pytest

from spiketok.recording.nouns import Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes import Quantized
from spiketok.tokens.schemes.quantized import (
    behaviour_categories,
    behaviour_edges,
    behaviour_scale,
    bucketize,
    poisson_targets,
)

pytestmark = pytest.mark.oracle

SPECIAL = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38])


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "equal edges", "infinite edges", "counts"])
def test_bucketize_equals_torch_and_digitize(kind, right):
    """Every value, those on edges and beside them, infinities and NaN."""
    import torch

    rng = np.random.default_rng(0)
    value = {"lognormal": rng.lognormal(0, 3, 300_000), "counts": rng.poisson(2, 300_000)}.get(
        kind, rng.normal(size=300_000)
    )
    value = value.astype(np.float32)
    edges = np.quantile(value, np.arange(1, 256) / 256).astype(np.float32)
    if kind == "equal edges":
        edges = np.repeat(edges, 2)
    elif kind == "infinite edges":
        edges = np.concatenate([np.float32([-np.inf]), edges, np.float32([np.inf, np.inf])])
    beside = [np.nextafter(edges, np.float32(way)) for way in (-np.inf, np.inf)]
    value = np.concatenate([value, edges, *beside, SPECIAL])
    found = bucketize(value, edges, right)
    wanted = torch.bucketize(torch.from_numpy(value), torch.from_numpy(edges), right=right)
    np.testing.assert_array_equal(found, wanted.numpy())
    np.testing.assert_array_equal(found, np.digitize(value, edges, right=not right))


@pytest.mark.parametrize("edge_rule", ["right", "left"])
def test_edges_of_counts_equal_torch_and_digitize(edge_rule):
    """The scheme's categories of a session, with edges on counts and between them."""
    import torch

    rng = np.random.default_rng(0)
    counts, edges = rng.poisson(3, (400, 7)), (1, 1.5, 3, 5.25, 8)
    stop = 400 * 20_000_000
    times = [np.repeat(np.arange(400) * 20_000_000, counts[:, n]) for n in range(7)]
    whole = Intervals([0], [stop])
    units = UnitTable([f"u{n}" for n in range(7)])
    session = Session("a/b", "", 0, stop, units, Spikes.from_units(times), whole, Source("m.nwb", "0" * 64, 1))
    if edge_rule == "left":
        edges = edges[2:]
    found = Quantized(rule="edges", edges=edges, edge_rule=edge_rule).bake(session, whole).columns["category"]
    right = edge_rule == "right"
    wanted = torch.bucketize(torch.from_numpy(counts).double(), torch.tensor(edges).double(), right=right)
    np.testing.assert_array_equal(found, wanted.numpy())
    np.testing.assert_array_equal(found, np.digitize(counts, edges, right=not right))


def test_behaviour_equals_the_formula_in_torch():
    """Edges to the bit; categories of a million values and of every edge; the scale against torch.quantile."""
    import torch

    edges = torch.linspace(-1.001, 1.001, 513)
    np.testing.assert_array_equal(behaviour_edges(), edges.numpy())
    rng = np.random.default_rng(0)
    value = rng.normal(size=(1_000_000, 1)).astype(np.float32) * 0.6
    value[:513, 0] = edges.numpy()
    value[513:1026, 0] = np.nextafter(edges.numpy(), np.float32(9))
    scale = behaviour_scale(Signal(np.arange(len(value)), value, ("x",), "", np.ones(len(value), np.bool_)))
    torch_scale = torch.quantile(torch.from_numpy(value).double().abs(), 0.999, dim=0).float()
    np.testing.assert_array_equal(scale, torch_scale.numpy())
    for divided in (scale, np.float32([1.0])):
        wanted = torch.bucketize((torch.from_numpy(value) / torch.from_numpy(divided)).clamp(-1, 1), edges) - 1
        np.testing.assert_array_equal(behaviour_categories(value, divided), wanted.numpy())


def test_poisson_targets_equal_torch_but_for_the_top_row():
    import torch

    count = torch.arange(22).double()
    pmf = torch.distributions.Poisson(count[1:, None], validate_args=False).log_prob(count).exp()
    wanted = (pmf / pmf.sum(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(poisson_targets(22)[1:], wanted, rtol=1e-10)
