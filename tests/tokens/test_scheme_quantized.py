"""What quantized promises besides the laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, UnitTable
from spiketok.tokens.schemes import Quantized
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.schemes.quantized import (
    behaviour_categories,
    behaviour_centres,
    behaviour_edges,
    behaviour_scale,
    bucketize,
    poisson_targets,
)
from spiketok.tokens.shards import ShardReader, write_shard
from tests.made import MS, artefact_files, golden_segments, golden_session
from tests.strategies import SOURCE

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-quantized-v2"
NAN, INF = np.nan, np.inf


def counted(counts: list[int], **signals: Signal) -> tuple[Session, Intervals]:
    """A session of one unit with these counts in its bins of 20 ms."""
    whole = Intervals([0], [20 * MS * len(counts)])
    spikes = Spikes.from_units([np.repeat(np.arange(len(counts)) * 20 * MS, counts)])
    return Session("a/b", "", 0, 20 * MS * len(counts), UnitTable(["u"]), spikes, whole, SOURCE, signals=signals), whole


def categories(scheme: Quantized, counts: list[int]) -> list[int]:
    return scheme.bake(*counted(counts)).columns["category"][:, 0].tolist()


# ---- counts ---------------------------------------------------------------------------------------------------------


def test_clip_is_the_smaller_of_count_and_maximum():
    counts = [0, 1, 5, 19, 20, 21, 300]
    assert categories(Quantized(), counts) == [0, 1, 5, 19, 20, 20, 20]
    assert Quantized().bake(*counted(counts)).lost == {"outside_segments": 0, "clipped": 1 + 280}


@pytest.mark.parametrize(
    ("edge_rule", "wanted"), [("right", [0, 1, 2, 2, 3, 3, 4, 4]), ("left", [0, 0, 1, 2, 2, 3, 3, 4])]
)
def test_counts_on_edges(edge_rule, wanted):
    """numpy's digitize means by ``right`` the opposite of what torch's bucketize does."""
    counts, edges = [0, 1, 2, 3, 4, 7, 8, 300], (1, 2, 4, 8)
    scheme = Quantized(rule="edges", edges=edges, edge_rule=edge_rule)
    assert categories(scheme, counts) == wanted
    assert np.digitize(counts, edges, right=edge_rule == "left").tolist() == wanted
    lost = scheme.bake(*counted(counts)).lost["merged"]
    assert (
        lost
        == {"right": 325 - (0 + 1 + 2 + 2 + 4 + 4 + 8 + 8), "left": 325 - (0 + 0 + 2 + 3 + 3 + 5 + 5 + 9)}[edge_rule]
    )


def test_detokenize_gives_the_lowest_count_of_each_category():
    scheme = Quantized(rule="edges", edges=(1, 3, 10))
    assert scheme.lowest_count.tolist() == [0, 1, 3, 10]
    session, whole = counted([0, 2, 3, 9, 50])
    window = Windows(np.array([0]), np.array([0]), 100 * MS)
    (back,) = scheme.detokenize(scheme.cut(scheme.bake(session, whole).columns, window), window)
    assert back.time_ns.tolist() == [30 * MS] * 1 + [50 * MS] * 3 + [70 * MS] * 3 + [90 * MS] * 10


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bin_ns": 1.0}, "bin_ns is 1.0, must be a whole number"),
        ({"max_count": 0}, "max_count is 0, must be a whole number from 1 to 255"),
        ({"rule": "quantile"}, "rule is 'quantile', must be one of clip, edges"),
        ({"edge_rule": "both"}, "must be one of right, left"),
        ({"rule": "edges"}, "rule 'edges' with 0 edges"),
        ({"edges": (1,)}, "rule 'clip' with 1 edges"),
        ({"rule": "edges", "edges": "12"}, "must be a list of numbers"),
        ({"rule": "edges", "edges": (2, 1)}, "must be numbers that rise"),
        ({"rule": "edges", "edges": (1, 1)}, "must be numbers that rise"),
        ({"rule": "edges", "edges": (1, NAN)}, "must be numbers that rise"),
        ({"rule": "edges", "edges": (NAN,)}, "make 2 categories, and the counts 0 to 255 are in 1 of them"),
        ({"rule": "edges", "edges": (0, 1)}, "make 3 categories, and the counts 0 to 255 are in 2 of them"),
        ({"rule": "edges", "edges": (1.2, 1.8)}, "make 3 categories, and the counts 0 to 255 are in 2 of them"),
        ({"rule": "edges", "edges": (1, 255), "edge_rule": "left"}, "are in 2 of them"),
        ({"signals": "vel"}, "must be a list of names"),
        ({"signals": ["v", "v"]}, "must be names that differ"),
    ],
)
def test_wrong_fields_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        Quantized(**values)


def test_all_255_edges_serve():
    assert Quantized(rule="edges", edges=tuple(range(1, 256))).table.tolist() == list(range(256))


# ---- behaviour ------------------------------------------------------------------------------------------------------


def test_behaviour_by_hand():
    """Scaled by the 99.9 % quantile, one category of 512, -1 and a flag where nothing was measured."""
    value = np.zeros((10, 2), np.float32)
    value[:, 0] = [-2, -1, 0, 1, 2, 2, 2, 2, 2, 2]
    vel = Signal(np.arange(10) * 10 * MS + 1, value, ("x", "y"), "", np.arange(10) < 8)
    session, whole = counted([0] * 5, vel=vel)
    columns = Quantized(signals=("vel",)).bake(session, whole).columns
    assert columns["behaviour.scale"].tolist() == [2, 1]  # a behaviour of zeros is divided by one
    # bins: means of pairs -1.5, 0.5, 2, 2 and one without a sample; normalised -0.75, 0.25, 1, 1
    assert columns["behaviour"].tolist() == [[64, 255], [319, 255], [511, 255], [511, 255], [-1, -1]]
    assert columns["behaviour_valid"].tolist() == [[1, 1]] * 4 + [[0, 0]]
    centres = behaviour_centres(columns["behaviour"][:4, 0], columns["behaviour.scale"][0])
    np.testing.assert_allclose(centres, [-1.5, 0.5, 2, 2], atol=2 * 2.002 / 1024 + 1e-6)


def test_a_behaviour_that_is_not_there_is_refused():
    session, whole = counted([0])
    with pytest.raises(NotServedError, match="a/b has no behaviour 'vel': it has none"):
        Quantized(signals=("vel",)).bake(session, whole)


def test_scale_is_the_quantile_of_the_valid_samples():
    rng = np.random.default_rng(0)
    value = rng.normal(size=(5000, 3)).astype(np.float32)
    valid = rng.random(5000) < 0.7
    value[~valid] = np.nan
    signal = Signal(np.arange(5000), value, ("x", "y", "z"), "", valid)
    size = np.sort(np.abs(value[valid].astype(np.float64)), axis=0)
    at = 0.999 * (len(size) - 1)
    low, share = int(at), at - int(at)
    np.testing.assert_allclose(behaviour_scale(signal), size[low] + (size[low + 1] - size[low]) * share, rtol=1e-6)
    none = Signal(np.arange(2), np.full((2, 1), np.nan), ("x",), "", np.zeros(2, np.bool_))
    assert behaviour_scale(none).tolist() == [1]


def test_behaviour_categories_are_their_centres():
    """The middle of every bucket is in it; a value is at most half a bucket from its centre."""
    every = np.arange(512)
    assert behaviour_categories(behaviour_centres(every)).tolist() == every.tolist()
    assert behaviour_categories(behaviour_centres(every, 3.0), 3.0).tolist() == every.tolist()
    value = np.linspace(-1, 1, 100_001, dtype=np.float32)
    assert np.abs(behaviour_centres(behaviour_categories(value)) - value).max() <= 2.002 / 1024 + 1e-7
    assert behaviour_categories(np.float32([-INF, -5, 5, INF])).tolist() == [0, 0, 511, 511]
    with pytest.raises(UsageError, match="1 values of a behaviour are NaN"):
        behaviour_categories(np.float32([0, NAN]))


def test_behaviour_edges_are_symmetric():
    edges = behaviour_edges()
    assert (edges.dtype, edges.shape, edges[256]) == (np.float32, (513,), 0)
    np.testing.assert_array_equal(edges, -edges[::-1])
    np.testing.assert_allclose(edges, np.linspace(-1.001, 1.001, 513), atol=6e-8)


# ---- soft targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [1, 2, 22, 256])
def test_poisson_targets(n_classes):
    """Ratios of neighbours are y / k, rows sum to one, the top row is not the reference's row of zeros."""
    targets = poisson_targets(n_classes)
    assert (targets.dtype, targets.shape) == (np.float64, (n_classes, n_classes))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-12)
    assert targets[0].tolist() == [1] + [0] * (n_classes - 1)
    for y in range(1, n_classes):
        k = np.flatnonzero(targets[y] > 1e-200)[1:]
        np.testing.assert_allclose(targets[y, k] / targets[y, k - 1], y / k, rtol=1e-9)
        assert targets[y].argmax() in (y - 1, y)  # a Poisson distribution of whole mean has both as its modes


def test_poisson_targets_refuse_no_classes():
    with pytest.raises(UsageError, match="n_classes is 0"):
        poisson_targets(0)


# ---- buckets --------------------------------------------------------------------------------------------------------

SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38]
FLOATS = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32), st.integers(-3, 3).map(float))


@example([INF, NAN, 0.0], [INF, INF], True)
@example([1.0, 2.0], [], False)
@example([-3.4028235e38, 0.0, 3.4028235e38, INF], [-3.4028235e38, 3.4028235e38], True)  # a span beyond float32
@example([0.0, 1e-45, 2e-45], [0.0, 1e-45], False)  # a span so small that its inverse is infinite
@given(
    st.lists(FLOATS, max_size=30),
    st.lists(FLOATS.filter(lambda x: x == x), max_size=30).map(sorted),
    st.booleans(),
)
def test_buckets_are_counted_edges(values, edges, right):
    """One by one: how many edges are below the value, or at it; NaN is behind all."""
    value, edge = np.float32(values), np.float32(edges)
    with np.errstate(over="ignore"):
        beside = [np.nextafter(edge, np.float32(way)) for way in (INF, -INF)]
    on_edges = np.concatenate([value, edge, *beside])
    found = bucketize(on_edges, edge, right)
    for v, bucket in zip(on_edges, found.tolist(), strict=True):
        assert bucket == (len(edge) if v != v else sum(e <= v if right else e < v for e in edge))


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("kind", ["normal", "log-normal", "uniform", "one cell", "equal", "few", "many"])
def test_buckets_of_many_values(kind, right):
    """Quantiles of several distributions: tables with one edge a cell, and those that must be searched."""
    rng = np.random.default_rng(0)
    draw = {"log-normal": lambda n: rng.lognormal(0, 4, n), "uniform": lambda n: rng.uniform(-1, 1, n)}
    value = draw.get(kind, rng.normal)(**({"size": 200_000} if kind not in draw else {"n": 200_000})).astype(np.float32)
    edges = np.quantile(value, np.arange(1, 256) / 256).astype(np.float32)
    if kind == "one cell":
        edges = np.sort(np.append(edges, np.float32(1e30)))
    elif kind == "equal":
        edges = np.repeat(edges, 3)
    elif kind == "few":
        edges = edges[100:101]
    elif kind == "many":
        edges = np.sort(rng.choice(value, 70_000))
    value = np.concatenate([value, edges, np.float32(SPECIAL)])
    found = bucketize(value, edges, right)
    np.testing.assert_array_equal(found, np.searchsorted(edges, value, "right" if right else "left"))


def test_buckets_into_given_memory_of_any_shape():
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    out = np.empty((2, 3), np.int64)
    assert bucketize(value, np.float32([1, 4]), True, out=out) is out
    assert out.tolist() == [[0, 1, 1], [1, 2, 2]]
    assert bucketize(value.T, np.float32([1, 4]), True).tolist() == out.T.tolist()
    assert bucketize(value, np.float32([1, 4])).dtype == np.uint8
    assert bucketize(np.zeros((0, 2), np.float32), np.zeros(300, np.float32)).dtype == np.uint16


@pytest.mark.parametrize(
    ("value", "edges", "out", "words"),
    [
        (np.zeros(2), np.zeros(1, np.float32), None, "values are float64"),
        (np.zeros(2, np.float32), np.zeros(1), None, "edges float64"),
        (np.zeros(2, np.float32), np.float32([2, 1]), None, "sorted and not NaN"),
        (np.zeros(2, np.float32), np.float32([1, NAN]), None, "sorted and not NaN"),
        (np.zeros(2, np.float32), np.zeros(1, np.float32), np.zeros(3, np.uint8), "out is uint8"),
        (np.zeros(2, np.float32), np.zeros(1, np.float32), np.zeros(2, np.float32), "out is float32"),
        (np.zeros(2, np.float32), np.zeros(300, np.float32), np.zeros(2, np.uint8), "that hold 300"),
        (np.zeros(2, np.float32), np.zeros(1, np.float32), np.zeros(4, np.uint8)[::2], "contiguous"),
    ],
)
def test_buckets_refuse_what_does_not_fit(value, edges, out, words):
    with pytest.raises(UsageError, match=words):
        bucketize(value, edges, out=out)


# ---- golden: read forever -------------------------------------------------------------------------------------------

GOLDEN_SCHEME = Quantized(rule="edges", edges=(1, 2), signals=("hand/vel", "eye"))


def write_golden(target: Path) -> None:
    write_shard(
        target,
        GOLDEN_SCHEME,
        golden_session(),
        golden_segments(),
        segments_rule="trials:start,0,100",
        store_digest="0" * 64,
        context=target.parent / "context-v1",
    )


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert (reader.verify(), reader.scheme) == ([], GOLDEN_SCHEME)
    window = Windows(np.array([0, 1]), np.array([10 * MS, 50 * MS]), 60 * MS)
    tokens = reader.scheme.cut(reader.columns, window)
    assert tokens.columns["category"].tolist() == [
        *([2, 0, 2], [0, 0, 0], [0, 0, 0]),
        *([0, 0, 0], [0, 0, 0], [0, 0, 1]),
    ]
    assert tokens.columns["observed"].tolist() == [1, 0, 0, 0, 1, 1]
    assert tokens.columns["behaviour_valid"].tolist() == [[1, 1, 1]] * 6
    assert tokens.columns["behaviour"].dtype == np.int16
    scale = reader.columns["behaviour.scale"]
    np.testing.assert_allclose(scale, [22 / 8 - 0.018 / 8, 23 / 8 - 0.018 / 8, 99 / 4 - 0.099 / 4], rtol=1e-6)
    centres = behaviour_centres(tokens.columns["behaviour"][:, 2], scale[2])
    np.testing.assert_allclose(centres, [2.375, 4.875, 7.375, 7.375, 9.875, 12.375], atol=scale[2] * 2.002 / 1024)
    assert reader.lost == {"outside_segments": 1, "merged": 0}


def test_golden_bytes_are_written_today(tmp_path):
    write_golden(tmp_path / "shard")
    written = artefact_files(tmp_path / "shard")
    assert written == artefact_files(GOLDEN)
