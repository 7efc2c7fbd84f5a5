"""Counts as categories, and behaviour as categories beside them.

Rule ``clip`` is what NDT2 and NDT3 do to spikes: ``min(count, max_count)``, a row in a table of embeddings. Rule
``edges`` puts counts into buckets between explicit edges. NDT3 (Ye et al., bioRxiv 2025.02.02.634313,
github.com/joel99/ndt3) does *not* put spike counts into buckets: its ``torch.bucketize`` is for behaviour, in an
ablation with 512 classes between edges at ``linspace(-1.001, 1.001, 513)``, which is the rule for behaviour here.

What "right" means. ``edge_rule="right"``: a count on an edge is in the bucket that begins there (``[a, b)``, as bins
and intervals are everywhere here). ``"left"``: it is in the bucket that ends there (``(a, b]``). The libraries name
opposite things so:

| edge_rule | torch.bucketize | numpy.digitize | numpy.searchsorted |
|---|---|---|---|
| ``"right"`` | ``right=True`` | ``right=False`` (its default) | ``side="right"`` |
| ``"left"`` | ``right=False`` (its default) | ``right=True`` | ``side="left"`` (its default) |

Unusual here:
- Edges must tell whole counts from 0 to 255 apart: a bucket that no count could reach would be a class that no model
  could learn, and is refused.
- The scale of each behaviour is found once, over all valid samples of the session, and kept. It knows of later data:
  where that matters (a causal decoder), take NDT3's other way, a fixed scale, by dividing the behaviour beforehand.
- Behaviour that is not valid in a bin has category -1, which is no class, and a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NoReturn

import numpy as np

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Signal, Spikes
from spiketok.tokens.bounds import require_columns, require_shape, require_within
from spiketok.tokens.schemes.base import (
    ALL_KEPT,
    Baked,
    Columns,
    ColumnSpec,
    Scheme,
    Tokens,
    Windows,
    check_cut,
    freeze,
    grid_rows,
    require_bins,
    segment_columns,
    segment_plan,
    spikes_outside,
)
from spiketok.tokens.schemes.behaviour import signal_on_bins
from spiketok.tokens.schemes.bins import count_bins, observed_bins

RULES, EDGE_RULES = ("clip", "edges"), ("right", "left")
FORGOTTEN = {"clip": "clipped", "edges": "merged"}  # what ``lost`` calls spikes above their category's lowest count
BEHAVIOUR_CLASSES = 512
BEHAVIOUR_BOUND = 1.001
SCALE_QUANTILE = 0.999
MOST_CELLS = 65_536  # of a table that fits well into a core's cache
UINT8, INT16, FLOAT32 = np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32)
BLOCK = 1 << 20  # cells that are looked at together where a wider copy of them is needed


@dataclass(frozen=True)
class Quantized(Scheme):
    """The category of each unit's count in bins of ``bin_ns``.

    Columns: ``category`` uint8 ``[T, N]``, ``observed`` uint8 ``[T]``, ``unit_observed`` uint8 ``[T, N]`` where the
    session's units were not all recorded at the same times; with ``signals`` also ``behaviour`` int16 ``[T, D]`` (-1
    where not valid), ``behaviour_valid`` uint8 ``[T, D]`` and ``behaviour.scale`` float32 ``[D]``, one dimension for
    each component of each signal. A cut gives the same columns but the scale; a dropped unit has category 0 and zeros
    in ``unit_observed``. ``unit_row`` has no effect: a unit is a position, not a token.

    Lost are time within the bin, and what a count has above the lowest of its category: ``lost["clipped"]`` (rule
    ``clip``) or ``lost["merged"]`` (rule ``edges``) counts those spikes.

    Args:
        max_count: for rule ``clip``, the last category.
        edges: for rule ``edges``, rising numbers; n edges make n + 1 categories.
        edge_rule: on which side of an edge a count on it is: see the module.
        signals: names of behaviours.

    >>> from spiketok.tokens.schemes import Quantized
    >>> Quantized(rule="edges", edges=(1, 2, 4, 8)).lowest_count.tolist()
    [0, 1, 2, 4, 8]
    """

    bin_ns: int = 20_000_000
    rule: str = "clip"
    max_count: int = 20
    edges: tuple[float, ...] = ()
    edge_rule: str = "right"
    signals: tuple[str, ...] = ()

    name: ClassVar[str] = "quantized"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("NDT2", "NDT3")
    token: ClassVar[str] = "one bin of the whole population"
    keeps: ClassVar[str] = "every spike's bin and unit, to the category of the count"
    loses: ClassVar[str] = "time within the bin; counts within a category (counted)"

    def __post_init__(self) -> None:
        for key in ("edges", "signals"):  # JSON has lists
            if isinstance(getattr(self, key), list):
                object.__setattr__(self, key, tuple(getattr(self, key)))
        for key, most in (("bin_ns", 2**62), ("max_count", 255)):
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= most:
                self._refuse_field(key, f"a whole number from 1 to {most}")
        for key, known in (("rule", RULES), ("edge_rule", EDGE_RULES)):
            if getattr(self, key) not in known:
                self._refuse_field(key, f"one of {', '.join(known)}")
        names = self.signals
        if not isinstance(names, tuple) or not all(isinstance(n, str) and n for n in names):
            self._refuse_field("signals", "a list of names")
        if len(set(names)) < len(names):
            self._refuse_field("signals", "names that differ")
        edges = self.edges
        if not isinstance(edges, tuple) or not all(type(e) in (int, float) for e in edges):
            self._refuse_field("edges", "a list of numbers")
        object.__setattr__(self, "edges", tuple(float(e) for e in edges))  # 1 and 1.0 are one configuration
        edges = self.edges
        if (self.rule == "edges") != bool(edges):
            message = (
                f"quantized: rule '{self.rule}' with {len(edges)} edges: only rule 'edges' has them, and needs them"
            )
            raise UsageError(message)
        if not all(a < b for a, b in pairwise(edges)):
            self._refuse_field("edges", "numbers that rise")
        reached = np.unique(self.table).size
        if edges and reached != len(edges) + 1:
            message = (
                f"quantized: edges {edges} with edge_rule '{self.edge_rule}' make {len(edges) + 1} categories, and the "
                f"counts 0 to 255 are in {reached} of them"
            )
            raise UsageError(message)

    def _refuse_field(self, key: str, wanted: str) -> NoReturn:
        message = f"quantized: {key} is {getattr(self, key)!r}, must be {wanted}"
        raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    @property
    def signals_read(self) -> tuple[str, ...]:
        return self.signals

    @property
    def not_live(self) -> str:
        return "the scale of a behaviour is found over the whole session" if self.signals else ""

    @property
    def table(self) -> np.ndarray:
        """uint8 ``[256]``: the category of each count."""
        if self.rule == "clip":
            return np.minimum(np.arange(256), self.max_count).astype(np.uint8)
        return np.searchsorted(np.array(self.edges, np.float64), np.arange(256.0), self.edge_rule).astype(np.uint8)

    @property
    def lowest_count(self) -> np.ndarray:
        """uint8: the lowest count of each category, which :meth:`detokenize` gives back."""
        return np.unique(self.table, return_index=True)[1].astype(np.uint8)

    # ---- baking -----------------------------------------------------------------------------------------------------

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        n_dimensions = self._dimensions(info.id, {name: len(c) for name, (c, _) in info.signals.items()})
        rows = int(grid_rows(segments.start_ns, segments.stop_ns, self.bin_ns)[-1])
        plan = {
            "category": ColumnSpec(UINT8, (info.n_units,), rows),
            "observed": ColumnSpec(UINT8, (), rows),
            "unit_observed": ColumnSpec(UINT8, (info.n_units,), rows),
            **segment_plan(segments),
        }
        if self.signals:
            plan["behaviour"] = ColumnSpec(INT16, (n_dimensions,), rows)
            plan["behaviour_valid"] = ColumnSpec(UINT8, (n_dimensions,), rows)
            plan["behaviour.scale"] = ColumnSpec(FLOAT32, (), n_dimensions)
        return plan

    def _dimensions(self, session_id: str, components: Mapping[str, int]) -> int:
        for name in self.signals:
            if name not in components:
                has = f"it has {', '.join(sorted(components))}" if components else "it has none"
                message = f"{session_id} has no behaviour '{name}': {has}"
                raise NotServedError(message)
        return sum(components[name] for name in self.signals)

    def bake(self, session: Session, segments: Intervals) -> Baked:
        from spiketok.tokens.schemes.kernels import buckets as kernels

        self._dimensions(session.id, {name: len(s.components) for name, s in session.signals.items()})
        counts, row, saturated = count_bins(session, segments, self.bin_ns)
        table, lowest = self.table, self.lowest_count.astype(np.int64)
        forgotten = kernels.count_categories(counts.reshape(-1), table, np.arange(256) - lowest[table])
        columns = {
            "category": counts,
            **observed_bins(session, segments, row, self.bin_ns),
            **self._behaviour_columns(session, segments),
            **segment_columns(segments, row),
        }
        lost = {
            "outside_segments": spikes_outside(session.spikes, segments),
            FORGOTTEN[self.rule]: saturated + int(forgotten),
        }
        return Baked(freeze(columns), lost)

    def _behaviour_columns(self, session: Session, segments: Intervals) -> dict[str, np.ndarray]:
        if not self.signals:
            return {}
        category, flags, scales = [], [], []
        for name in self.signals:
            signal = session.signals[name]
            scale = behaviour_scale(signal)
            value, valid = signal_on_bins(signal, segments, self.bin_ns)
            category.append(np.where(valid[:, None] > 0, behaviour_categories(value, scale), np.int16(-1)))
            flags.append(np.repeat(valid[:, None], value.shape[1], axis=1))
            scales.append(scale)
        return {
            "behaviour": np.concatenate(category, axis=1),
            "behaviour_valid": np.concatenate(flags, axis=1),
            "behaviour.scale": np.concatenate(scales),
        }

    def check(self, columns: Columns) -> None:
        wanted = {"category": (UINT8, 2), "observed": (UINT8, 1)}
        if self.signals:
            wanted |= {"behaviour": (INT16, 2), "behaviour_valid": (UINT8, 2), "behaviour.scale": (FLOAT32, 1)}
        require_columns(columns, wanted, {"unit_observed": (UINT8, 2)})
        n_rows = len(columns["category"])
        require_shape(columns, (n_rows,), ["observed"])
        require_shape(columns, columns["category"].shape, ["unit_observed"])
        require_bins(columns, self.bin_ns, n_rows)
        require_within(columns, "category", 0, len(self.lowest_count))
        if self.signals:
            n_dimensions = len(columns["behaviour.scale"])
            require_shape(columns, (n_rows, n_dimensions), ["behaviour", "behaviour_valid"])
            require_within(columns, "behaviour", -1, BEHAVIOUR_CLASSES)

    def spikes_held(self, columns: Columns) -> int:
        flat, held = columns["category"].reshape(-1), 0
        for at in range(0, flat.size, BLOCK):  # bincount turns what it counts into int64
            times = np.bincount(flat[at : at + BLOCK], minlength=len(self.lowest_count))
            held += int(times @ self.lowest_count.astype(np.int64))
        return held

    # ---- cutting ----------------------------------------------------------------------------------------------------

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, columns["category"].shape[1])
        return np.full(len(windows), windows.length_ns // self.bin_ns, np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return {name: (columns[name].dtype, columns[name].shape[1:]) for name in self._main(columns)}

    @staticmethod
    def _main(columns: Columns) -> list[str]:
        names = ("category", "observed", "unit_observed", "behaviour", "behaviour_valid")
        return [name for name in names if name in columns]

    def fill(
        self,
        columns: Columns,
        windows: Windows,
        row: np.ndarray,
        out: Mapping[str, np.ndarray],
        keep: np.ndarray | None = None,
        unit_row: np.ndarray | None = None,
        length: np.ndarray | None = None,
    ) -> None:
        from spiketok.tokens.schemes.kernels import buckets as kernels

        first = columns["segment.row"][windows.segment]
        first = first + (windows.start_ns - columns["segment.start_ns"][windows.segment]) // self.bin_ns
        n_rows = windows.length_ns // self.bin_ns
        for name in self._main(columns):
            source, target = columns[name], out[name]
            if source.ndim == 1:
                source, target = source.reshape(-1, 1), target.reshape(-1, 1)
            kept = keep if name in ("category", "unit_observed") and keep is not None else ALL_KEPT
            kernels.copy_categories(source, first, n_rows, kept, row, target)

    # ---- back -------------------------------------------------------------------------------------------------------

    def empty(self, tokens: Tokens) -> np.ndarray:
        return ~tokens.columns["category"].any(axis=1)

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """The lowest count of each category, all at their bin's middle: no spike that the tokens do not prove."""
        spikes = []
        for b in range(len(windows)):
            counts = self.lowest_count[tokens.columns["category"][tokens.offset[b] : tokens.offset[b + 1]]]
            index, unit = np.nonzero(counts)
            time_ns = windows.start_ns[b] + index * self.bin_ns + self.bin_ns // 2
            times = counts[index, unit]
            spikes.append(Spikes(np.repeat(time_ns, times), np.repeat(unit.astype(np.int32), times)))
        return spikes


# ---- behaviour ------------------------------------------------------------------------------------------------------


def behaviour_edges() -> np.ndarray:
    """float32 ``[513]``: equal to ``torch.linspace(-1.001, 1.001, 513)`` in float32, to the last bit.

    Which is not the float64 line rounded: the step is rounded first, and each half is counted from its own end.
    """
    n, bound = BEHAVIOUR_CLASSES, np.float32(BEHAVIOUR_BOUND)
    step = np.float64(np.float32(2 * bound) / np.float32(n))
    k = np.arange(n // 2)
    return np.concatenate([-bound + step * k, bound - step * np.arange(n // 2, -1, -1)]).astype(np.float32)


def behaviour_scale(signal: Signal) -> np.ndarray:
    """float32 ``[C]``: the 99.9 % quantile of each component's size over the valid samples; 1 where that is 0 or none.

    The quantile between two samples is on the line between them (``torch.quantile`` and ``numpy.quantile``).
    """
    if not signal.valid.any():
        return np.ones(len(signal.components), np.float32)
    scale = np.quantile(np.abs(signal.value[signal.valid]).astype(np.float64), SCALE_QUANTILE, axis=0)
    scale = scale.astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1))


def behaviour_categories(value: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """int16, shaped as ``value``: 0 to 511, NDT3's ``bucketize(value) - 1`` after division by ``scale``, within +-1.

    Args:
        value: float32 ``[..., C]``, no NaN. scale: ``[C]`` or one number.

    Raises:
        UsageError: a value is NaN, which has no category.

    >>> behaviour_categories(np.float32([-3.0, -0.002, 0.0, 0.002, 3.0])).tolist()
    [0, 255, 255, 256, 511]
    """
    value = np.clip(np.asarray(value, np.float32) / np.asarray(scale, np.float32), np.float32(-1), np.float32(1))
    if np.isnan(value).any():
        message = f"{int(np.isnan(value).sum())} values of a behaviour are NaN, which has no category"
        raise UsageError(message)
    category = bucketize(value, behaviour_edges(), right=False, out=np.empty(value.shape, np.int16))
    category -= 1
    return category


def behaviour_centres(category: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """float32, shaped as ``category``: the middle of each category's bucket, times ``scale``.

    >>> behaviour_categories(behaviour_centres(np.array([0, 255, 256, 511]), 2.0), 2.0).tolist()
    [0, 255, 256, 511]
    """
    edges = behaviour_edges().astype(np.float64)
    middle = ((edges[:-1] + edges[1:]) / 2)[category]
    return (middle * np.asarray(scale, np.float64)).astype(np.float32)


def poisson_targets(n_classes: int) -> np.ndarray:
    """float64 ``[C, C]``: soft targets for classes that are counts; row y sums to 1.

    Row y is the probability of each class under a Poisson distribution of mean y, cut off after the last class and
    scaled up again; row 0 is one-hot. Differs from NDT2 and NDT3 (``PoissonCrossEntropyLoss``): their loop stops before
    the last row, which stays zero, so that a bin with the largest count costs nothing and is never learned.

    >>> poisson_targets(3).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]
    """
    if type(n_classes) is not int or n_classes < 1:
        message = f"n_classes is {n_classes!r}, must be a whole number of at least 1"
        raise UsageError(message)
    count = np.arange(n_classes)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(count[1:]))])
    mean = count[1:, None]
    log_pmf = count * np.log(mean) - mean - log_factorial
    pmf = np.concatenate([(count == 0)[None].astype(np.float64), np.exp(log_pmf)])
    return pmf / pmf.sum(axis=1, keepdims=True)


# ---- buckets --------------------------------------------------------------------------------------------------------


def bucketize(value: np.ndarray, edges: np.ndarray, right: bool = False, out: np.ndarray | None = None) -> np.ndarray:
    """The bucket of each value: what ``torch.bucketize(value, edges, right=right)`` gives, faster.

    A table says how many edges are before the value's cell; where no cell has more than one edge (quantiles of most
    distributions), one comparison is left to do, else a binary search among the cell's own. NaN is above all edges.

    Args:
        value: float32 of any shape. edges: float32 ``[E]``, sorted, no NaN; equal ones and infinities are allowed.
        right: as torch means it: a value on an edge is in the bucket that begins there.
        out: integers of the shape of ``value``, contiguous and of a dtype that holds E; the smallest such if not given.

    Raises:
        UsageError: wrong dtypes or shapes, or edges that fall or are NaN.

    >>> bucketize(np.float32([0, 1, 2, np.nan]), np.float32([1, 2])).tolist()
    [0, 0, 1, 2]
    """
    value, edges = np.asarray(value), np.asarray(edges)
    if value.dtype != np.float32 or edges.dtype != np.float32 or edges.ndim != 1:
        message = f"values are {value.dtype}, edges {edges.dtype} {edges.shape}: both must be float32, edges one row"
        raise UsageError(message)
    if np.isnan(edges).any() or (edges[1:] < edges[:-1]).any():
        raise UsageError("edges must be sorted and not NaN")
    if out is None:
        out = np.empty(value.shape, np.min_scalar_type(len(edges)))
    elif (
        out.shape != value.shape
        or out.dtype.kind not in "iu"
        or not out.flags.c_contiguous
        or np.iinfo(out.dtype).max < len(edges)
    ):
        message = f"out is {out.dtype} {out.shape}, must be contiguous integers {value.shape} that hold {len(edges)}"
        raise UsageError(message)
    _bucketize(np.ascontiguousarray(value).reshape(-1), edges, bool(right), out.reshape(-1))
    return out


def _bucketize(value: np.ndarray, edges: np.ndarray, right: bool, out: np.ndarray) -> None:
    from spiketok.tokens.schemes.kernels import buckets as kernels

    finite = edges[np.isfinite(edges)]
    low = finite[0] if finite.size else np.float32(0)
    with np.errstate(over="ignore"):
        span = finite[-1] - low if finite.size else np.float32(0)
    n_cells = 1024
    while True:
        with np.errstate(over="ignore", divide="ignore"):
            scale = np.float32(n_cells - 1) / span
        scale = scale if 0 < scale < np.inf else np.float32(1)  # of a span beyond float32, or of none: any is right
        below = np.empty(n_cells + 2, np.int64)
        most = kernels.cell_table(edges, low, scale, n_cells, below)
        one_each = most <= 1 and below[n_cells] == len(edges)  # none in the last cell, where NaN is
        if one_each or n_cells >= MOST_CELLS:
            break
        n_cells *= 2
    if one_each:
        ended = np.append(edges, np.float32(np.nan))
        few = below[:-1].astype(np.uint16 if len(edges) < 65_536 else np.int32)
        kernels.buckets_by_compare(value, ended, right, few, low, scale, out)
    else:
        kernels.buckets_by_search(value, edges, right, below, low, scale, out)
