"""Population: the spikes themselves, as rates of bins that the model does not see.

Three questions, by what the session and the settings say:

- held-out units (a unit column ``held_out``, as NLB's files have it, or ``task.population.held_out``, a share drawn by
  name): never seen, predicted from the others; ``co_bps``;
- forward bins (``task.population.forward_ms``): the end of each window, never seen; ``fp_bps``;
- neither: windows are scored several times, each bin hidden once; ``bps_per_unit``.

Beside these, ``task.population.modes`` has the windows scored in passes of other kinds, each under a number of its own
(:mod:`spiketok.training.tasks.population_modes`). Training does not know of them.

What is unusual:

- what is hidden leaves the input (``batch.hidden``), in training and in every evaluation, also in that of other tasks;
- rates of overlapping windows are averaged before they are scored, as the predictions of a behaviour are;
- a unit that the file names held out and that has no spike in the whole recording was kept back with its truth (the
  test halves of NLB): it is neither asked nor scored, and counts as none of those named;
- the null model of all bits per spike is each unit's mean rate over the scored bins themselves (NLB's definition);
- ``velocity_r2`` (with ``task.population.velocity``) reads the behaviour from the rates by a ridge regression that is
  fitted on the first half of the scored time and scored on the second.

``d2`` is the share of the Poisson deviance that is explained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from spiketok.errors import DataError, UnknownNameError, UsageError, require
from spiketok.models.batch import Asked, Batch, Head, Input, Timing, exposure_of
from spiketok.recording.metrics import (
    METRICS,
    MIN_RATE,
    bps_of_units,
    bps_per_unit,
    co_bps,
    fp_bps,
    null_rate,
    r2_mean,
    require_metrics,
)
from spiketok.recording.nouns import Intervals
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.base import Answer, Buffers, Collector, Group, Pass, Score, Task, bin_spans, number
from spiketok.training.tasks.population_modes import MODES, metric_of, passes_of, why_none

COUNTS = "counts"  # the name of the input whose counts are asked; a model of the spikes reads it under this name
HELD_OUT = "held_out"  # the unit column


@dataclass(frozen=True)
class PopulationConfig:
    """What is hidden.

    Args:
        held_out: share of the units that are held out in sessions whose file names none, drawn by unit id. seed: of it.
        forward_ms: length of the end of each window that is never seen.
        hide: share of the bins that are hidden at a time where neither units nor forward bins are.
        velocity: a behaviour to read from the rates (``velocity_r2``); empty for none.
        condition: a trial column; ``psth_r2`` compares the rates' mean over its trials with the counts'.
        psth_ms: length of the mean from each trial's start.
        modes: other ways to hide, each scored in passes of its own after training: unit, forward, intra_region,
            inter_region, encode.
        forward_share: share of the window that ``forward`` hides where ``forward_ms`` is 0.
        region_column: the unit column that holds the regions.
        metrics: further ones to report, of spikes (``spiketok.recording.metrics``, or of another package).
    """

    held_out: float = 0.0
    seed: int = 0
    forward_ms: float = 0.0
    hide: float = 0.25
    velocity: str = ""
    condition: str = ""
    psth_ms: float = 500.0
    modes: tuple[str, ...] = ()
    forward_share: float = 0.1
    region_column: str = "region"
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_metrics(self.metrics, "spikes", Population.titles, "task.population.metrics")
        for mode in self.modes:
            if mode not in MODES:
                raise UnknownNameError("mode", mode, MODES, "task.population.modes")
        if len(set(self.modes)) < len(self.modes):
            message = f"task.population.modes is {', '.join(self.modes)}: each mode once"
            raise UsageError(message)
        for name, low, high in (("held_out", 0, 1), ("hide", 1e-3, 1), ("forward_share", 1e-3, 1)):
            if not low <= getattr(self, name) < high:
                message = f"task.population.{name} is {getattr(self, name)}, must be from {low:g} to below {high:g}"
                raise UsageError(message)
        for name in ("forward_ms", "psth_ms", "seed"):
            if getattr(self, name) < 0:
                message = f"task.population.{name} is {getattr(self, name)}, must not be negative"
                raise UsageError(message)


class Population(Task):
    """The counts of a session's units."""

    kind: ClassVar[str] = "population"
    Config: ClassVar[type] = PopulationConfig
    labelled: ClassVar[bool] = False
    titles: ClassVar[Mapping[str, str]] = {
        "co_bps": "co-bps (held-out units)",
        "fp_bps": "fp-bps (forward bins)",
        "bps_per_unit": "bits per spike, mean over units",
        "d2": "D² of the Poisson deviance",
        "velocity_r2": "velocity R² from rates",
        "psth_r2": "PSTH R²",
        "unit_bps": "bits per spike, one unit hidden",
        "forward_bps": "bits per spike, forward bins",
        "intra_region_bps": "bits per spike, from its region",
        "inter_region_bps": "bits per spike, from other regions",
        "encode_bps": "bits per spike, from behaviour",
    }

    def __init__(self, about: str, config: PopulationConfig, holds_out: bool) -> None:
        if about:
            message = f"--task population:{about}: the population has no name, use --task population"
            raise UsageError(message)
        super().__init__(about, config)
        self.titles = Population.titles | {name: name for name in config.metrics}
        self.holds_out = holds_out
        self._held: WeakKeyDictionary[SessionTokens, np.ndarray] = WeakKeyDictionary()  # asked for in every batch

    @property
    def metrics(self) -> tuple[str, ...]:
        """The headline is co-bps with held-out units, fp-bps with forward bins alone, else the hidden bins' bits."""
        first = (["co_bps"] if self.holds_out else []) + (["fp_bps"] if self.config.forward_ms else [])
        more = (["velocity_r2"] if self.config.velocity else []) + (["psth_r2"] if self.config.condition else [])
        return (*first, "bps_per_unit", "d2", *more, *map(metric_of, self.config.modes), *self.config.metrics)

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: PopulationConfig) -> Population:
        named = [s.id for s in sessions if _named(s) is not None]
        if named and len(named) < len(sessions) and not config.held_out:
            other = next(s.id for s in sessions if s.id not in named)
            message = (
                f"{named[0]} names held-out units and {other} does not: choose sessions by --sessions GLOB, or hold "
                "out a share of the others by --set task.population.held_out=0.25"
            )
            raise DataError(message)
        return cls(about, config, bool(named or config.held_out))

    @classmethod
    def inputs(cls, timing: Timing) -> dict[str, Input]:
        return {COUNTS: Input("binned", {"bin_ns": timing.bin_ns})}

    def why_not(self, session: SessionTokens) -> str:
        if not session.info.n_spikes:
            return "it has no spikes"
        held = self.held_out(session)
        if self.holds_out and not 0 < held.sum() < len(held):
            return f"{int(held.sum())} of its {len(held)} units are held out"
        return ""

    def usable(self, session: SessionTokens) -> Intervals:
        return session.observed

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """Counts are not normalised: there is nothing to set."""

    def head(self) -> Head:
        return Head(self.name, self.kind, "counts", input=COUNTS)

    def held_out(self, session: SessionTokens) -> np.ndarray:
        """bool ``[N]``: the session's own column, else the units with the lowest sha256 of seed and name.

        Named units without any spike were kept back: they count as not named, and are never drawn.
        """
        held = self._held.get(session)
        if held is None:
            held = self._held[session] = self._draw_held_out(session)
        return held

    def _draw_held_out(self, session: SessionTokens) -> np.ndarray:
        column = _named(session)
        if column is not None:
            return column
        keys, able = session.info.unit_keys(), np.flatnonzero(~_kept_back(session)).tolist()
        held = np.zeros(len(keys), np.bool_)
        drawn = [hashlib.sha256(f"{self.config.seed} {key}".encode()).digest() for key in keys]
        first = sorted(able, key=drawn.__getitem__)[: round(self.config.held_out * len(able))]
        held[first] = True
        return held

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        tokens = batch.inputs[COUNTS]
        columns, length = tokens.packed()
        counts = columns["counts"]
        n_rows, n_units = counts.shape
        n_bins = length[0]
        bin_ns = batch.window_ns // n_bins
        middle = np.arange(n_bins) * bin_ns + bin_ns // 2
        weight = columns["observed"].bool()[:, None].expand(n_rows, n_units)
        if "unit_observed" in columns:
            weight = columns["unit_observed"].bool()
        for group in groups:
            absent = _kept_back(group.session)
            if absent.any():
                rows = slice(group.rows.start * n_bins, group.rows.stop * n_bins)
                weight = weight.contiguous()
                weight[rows] &= torch.from_numpy(~absent)
            if group.keep is not None:  # the zeros of a dropped unit are no silence
                rows = slice(group.rows.start * n_bins, group.rows.stop * n_bins)
                weight = weight.contiguous()
                weight[rows] &= torch.from_numpy(group.keep.repeat(n_bins, axis=0))
        hidden = torch.from_numpy(buffers.array("population.hidden", (n_rows, n_units), np.bool_))
        hidden.zero_()
        if self.holds_out:
            for group in groups:
                rows = slice(group.rows.start * n_bins, group.rows.stop * n_bins)
                hidden[rows] |= torch.from_numpy(self.held_out(group.session))
        forward = self._forward_bins(bin_ns, n_bins)
        shaped = hidden.unflatten(0, (len(batch), n_bins))
        if forward:
            shaped[:, n_bins - forward :] = True
        if self.holds_out or forward:
            batch.hidden[COUNTS] = hidden
        batch.asked[self.name] = Asked(
            time=torch.from_numpy(np.tile(middle / 1e9, len(batch)).astype(np.float32)),
            offset=torch.arange(len(batch) + 1) * n_bins,
            ns=np.repeat(batch.start_ns, n_bins) + np.tile(middle, len(batch)),
            target=counts,
            weight=weight,
            exposure=exposure_of(columns),
        )

    @property
    def _own_passes(self) -> int:
        """How many passes hide each bin once; 0 where units or forward bins are hidden in every batch instead."""
        return 0 if self.holds_out or self.config.forward_ms else max(round(1 / self.config.hide), 2)

    def passes(self, session: SessionTokens, others: Sequence[str] = ()) -> list[Pass]:
        found = [Pass(k) for k in range(self._own_passes)]
        able = np.flatnonzero(~_kept_back(session))
        held = self.held_out(session) if self.holds_out else np.zeros(session.info.n_units, np.bool_)
        for mode in self.config.modes:
            if not self.why_no_mode(mode, session, others):
                given = tuple(others) if mode == "encode" else ()
                found += [Pass(rows, mode, given) for rows in passes_of(mode, able, held, self._region(session))]
        return found

    def why_no_mode(self, mode: str, session: SessionTokens, others: Sequence[str]) -> str:
        """Why a session is not scored in a mode; empty where it is. ``others``: as :meth:`passes` has them."""
        able = np.flatnonzero(~_kept_back(session))
        return why_none(mode, able, self._region(session), self.config.region_column, len(others))

    def _region(self, session: SessionTokens) -> np.ndarray | None:
        """str ``[N]``."""
        column = session.info.unit_columns.get(self.config.region_column)
        return None if column is None else np.asarray(column).astype(str)

    def hide(self, batch: Batch, session: SessionTokens, of: Pass) -> Batch:
        """Also ``asked[...].weight``, in a mode: what is scored is hidden, and no more than the pass scores."""
        asked = batch.asked[self.name]
        n_bins = len(asked.ns) // len(batch)
        always = batch.hidden.get(COUNTS)
        hidden = torch.zeros_like(asked.target, dtype=torch.bool) if always is None else always.clone()
        shaped = hidden.unflatten(0, (len(batch), n_bins))
        if not of.mode:
            shaped[:, of.hide :: self._own_passes] = True
            return replace(batch, hidden=batch.hidden | {COUNTS: hidden})
        scored, units = (torch.from_numpy(rows).to(hidden.device) for rows in of.hide)
        ahead = self._forward_bins(batch.window_ns // n_bins, n_bins)
        bins = slice(0, n_bins - ahead)
        if of.mode == "forward":
            last = ahead or min(max(round(self.config.forward_share * n_bins), 1), n_bins - 1)
            bins = slice(n_bins - last, n_bins)
            shaped[:, bins] = True
        shaped[:, :, units] = True
        weight = torch.zeros_like(hidden)
        weight.unflatten(0, (len(batch), n_bins))[:, bins, scored] = True
        posed = replace(asked, weight=weight & (asked.weight > 0))
        return replace(
            batch,
            hidden=batch.hidden | {COUNTS: hidden},
            asked=batch.asked | {self.name: posed},
            mode=of.mode,
            given=of.given,
        )

    def _forward_bins(self, bin_ns: int, n_bins: int) -> int:
        bins = round(self.config.forward_ms * 1e6 / bin_ns)
        if bins >= n_bins:
            message = (
                f"task.population.forward_ms is {self.config.forward_ms:g} and a window has {n_bins * bin_ns / 1e6:g} "
                "ms: nothing is left to see, use a longer data.window_ms"
            )
            raise UsageError(message)
        return bins

    # ---- scores ---------------------------------------------------------------------------------------------------

    def row_spans(self, session: SessionTokens, time_ns: np.ndarray) -> Intervals:
        return bin_spans(time_ns, session.windowed[COUNTS].scheme.bin_ns)

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        why = {metric_of(mode): self.why_no_mode(mode, session, others) for mode in self.config.modes}
        return _Rates(self, session, {metric: reason for metric, reason in why.items() if reason})

    def to_dict(self) -> dict[str, object]:
        return {"holds_out": self.holds_out}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: PopulationConfig) -> Population:
        return cls("", config, bool(facts["holds_out"]))


def _named(session: SessionTokens) -> np.ndarray | None:
    """bool ``[N]``: the units with spikes that the session itself says are held out; None where it says so of none."""
    held = _column(session) & ~_kept_back(session)
    return held if held.any() else None


def _column(session: SessionTokens) -> np.ndarray:
    column = session.info.unit_columns.get(HELD_OUT)
    return np.zeros(session.info.n_units, np.bool_) if column is None else np.asarray(column).astype(np.bool_)


def _kept_back(session: SessionTokens) -> np.ndarray:
    """bool ``[N]``: the units that the session says are held out and that have no spike in it; found once a session."""
    kept = session.__dict__.setdefault("_kept_back", {})
    if HELD_OUT not in kept:
        kept[HELD_OUT] = absent = _column(session)
        if absent.any():
            counts = session.windowed[COUNTS].columns["counts"]
            kept[HELD_OUT] = absent & ~np.asarray(counts).any(axis=0)
    return kept[HELD_OUT]


class _Rates(Collector):
    """Mean rates over windows: of held-out units, of forward bins, of hidden bins, each by itself; and of all bins.

    Beside them those of modes, whose passes over the windows of a batch together fill one ``[Q, N]``: each count is
    scored in one of them.
    """

    def __init__(self, task: Population, session: SessionTokens, reasons: Mapping[str, str]) -> None:
        self.task, self.session, self.reasons = task, session, dict(reasons)
        self.held = task.held_out(session) if task.holds_out else np.zeros(session.info.n_units, np.bool_)
        self.parts: list[tuple[np.ndarray, ...]] = []
        self.shares: list[np.ndarray] = []  # of bins that were recorded in part, where tokens carry them
        self.modes: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}  # ns, rate, scored, by metric

    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        asked = batch.asked[self.task.name]
        if batch.mode:
            self._add_mode(metric_of(batch.mode), asked, output[self.task.name], used)
            return
        rate = asked.exposed(output[self.task.name].float()).exp().cpu().numpy()
        count, weight = asked.target.cpu().numpy(), asked.weight.cpu().numpy() > 0
        n_bins = len(asked.ns) // len(batch)
        forward = self.task._forward_bins(batch.window_ns // n_bins, n_bins)
        ahead = np.tile(np.arange(n_bins) >= n_bins - forward, len(batch))
        hidden = batch.hidden[COUNTS].cpu().numpy() if COUNTS in batch.hidden else np.zeros(rate.shape, np.bool_)
        rows = slice(None) if used is None else used
        share = None if asked.exposure is None else asked.exposure.expand(count.shape).cpu().numpy()
        if share is not None:
            self.shares.append(share[rows].astype(np.float64))
        self.parts.append(tuple(a[rows] for a in (np.array(asked.ns), rate, count.copy(), weight, hidden, ahead)))

    def _add_mode(self, metric: str, asked: Asked, log_rate: torch.Tensor, used: np.ndarray | None) -> None:
        held = self.modes.setdefault(metric, [])
        if not held or not np.array_equal(held[-1][0], asked.ns):  # the first pass over these windows
            shape = tuple(asked.target.shape)
            held.append((np.array(asked.ns), np.zeros(shape, np.float32), np.zeros(shape, np.bool_)))
        _, rate, scored = held[-1]
        now = asked.weight if used is None else asked.weight & torch.from_numpy(used).to(asked.weight.device)[:, None]
        said = asked.exposed(log_rate.float())[now].exp().cpu().numpy()
        now = now.cpu().numpy()
        rate[now] = said
        scored |= now

    def answer(self) -> Rates:
        if not self.parts or not sum(len(part[0]) for part in self.parts):
            message = f"{self.session.id}: no bin of the population lies in the evaluated windows"
            raise DataError(message)
        ns, rate, count, weight, hidden, ahead = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        time_ns, first, inverse = np.unique(ns, return_index=True, return_inverse=True)
        chosen = {
            "held_out": weight & hidden & ~ahead[:, None] & self.held,
            "forward": weight & ahead[:, None],
            "hidden": weight & hidden & ~ahead[:, None] & ~self.held,
            "all": weight & ~ahead[:, None],
        }
        means = {name: _mean(rate, scored, inverse, len(time_ns)) for name, scored in chosen.items()}
        for metric, held in self.modes.items():
            ns, rate, scored = (np.concatenate(column) for column in zip(*held, strict=True))
            known = np.isin(ns, time_ns)
            row = np.searchsorted(time_ns, ns[known])
            means[metric] = _mean(rate[known], scored[known], row, len(time_ns))
        about = self.held, self.task, self.session, self.reasons
        share = np.concatenate(self.shares)[first] if self.shares else None
        return Rates(time_ns, means, count[first].astype(np.float64), weight[first], *about, share)


def _mean(rate: np.ndarray, scored: np.ndarray, inverse: np.ndarray, n_times: int) -> np.ndarray:
    """float64 ``[T, N]``: the mean of the scored rates at each time; NaN where none was scored."""
    total, times = np.zeros((n_times, rate.shape[1])), np.zeros((n_times, rate.shape[1]), np.int64)
    order = np.argsort(inverse, kind="stable")
    at = inverse[order]
    turn = np.arange(len(at)) - np.searchsorted(at, at)  # how many predictions of the same time stand before
    for k in range(int(turn.max(initial=-1)) + 1):  # each time once in a turn: plain sums, ten times as fast as add.at
        rows = order[turn == k]
        total[inverse[rows]] += np.where(scored[rows], rate[rows], 0.0)
        times[inverse[rows]] += scored[rows]
    return np.divide(total, times, out=np.full_like(total, np.nan), where=times > 0)


@dataclass(frozen=True, eq=False)
class Rates(Answer):
    """Stitched rates of one session, in expected spikes a bin.

    Args:
        time_ns: int64 ``[T]``, the bins' middles.
        rate: float64 ``[T, N]`` by what was hidden: ``held_out``, ``forward``, ``hidden``; ``all``, of every bin that
            is not ahead; and of each mode that was asked under the name of its metric. NaN where it was not hidden.
        count: float64 ``[T, N]``. observed: bool ``[T, N]``. held_out: bool ``[N]``.
        reasons: by metric, why the session has no score of a mode.
        exposure: float64 ``[T, N]``, the share of each bin that was recorded; None for all of each. The rates and the
            null are of that share.
    """

    time_ns: np.ndarray
    rate: dict[str, np.ndarray]
    count: np.ndarray
    observed: np.ndarray
    held_out: np.ndarray
    task: Population
    session: SessionTokens
    reasons: Mapping[str, str] = field(default_factory=dict)
    exposure: np.ndarray | None = None

    def pair(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Rates and counts of one part, both NaN where it was not scored."""
        known = np.isfinite(self.rate[part])
        return np.where(known, self.rate[part], np.nan), np.where(known, self.count, np.nan)

    @property
    def scored(self) -> np.ndarray:
        return np.isfinite(self.pair(self.headline)[1]).any(axis=1)

    @property
    def headline(self) -> str:
        """The part that the general numbers are of."""
        return "held_out" if self.task.holds_out else "forward" if self.task.config.forward_ms else "hidden"

    def score(self) -> Score:
        """Each metric of the task; None where it does not exist (no spike, no such part).

        Beside the mean over units of a mode its values by unit (``unit_bps_of``), and where a session cannot be scored
        in one, why (``reasons``). A mode that was not asked (the validation in a training) has no key.
        """
        rate, count = self.pair(self.headline)
        found: Score = {}
        for name in self.task.metrics:
            if name == "co_bps":
                found[name] = number(co_bps(*self.pair("held_out"), self.exposure))
            elif name == "fp_bps":
                found[name] = number(fp_bps(*self.pair("forward"), self.exposure))
            elif name == "bps_per_unit":
                found[name] = number(bps_per_unit(rate, count, self.exposure))
            elif name == "d2":
                found[name] = deviance_explained(rate, count, self.exposure)
            elif name in self.task.config.metrics:
                found[name] = number(METRICS[name](rate, count))
            elif name == "velocity_r2":
                found[name] = self._velocity_r2()
            elif name == "psth_r2":
                found[name] = self._psth_r2()
            elif name in self.rate:
                each = bps_of_units(*self.pair(name), self.exposure)
                found[name] = number(np.mean(each[np.isfinite(each)])) if np.isfinite(each).any() else None
                ids = np.asarray(self.session.info.unit_id).tolist()
                found[f"{name}_of"] = {unit: number(bits) for unit, bits in zip(ids, each, strict=True)}
            elif name in self.reasons:
                found[name] = None
        found |= {"reasons": dict(self.reasons)} if self.reasons else {}
        return found | {"n_samples": int(np.isfinite(count).sum())}

    def arrays(self) -> dict[str, np.ndarray]:
        rate, count = self.pair(self.headline)
        scored = np.isfinite(count)
        found = {
            "time_ns": self.time_ns,
            "prediction": np.where(scored, rate, 0.0),
            "target": np.where(scored, count, 0.0),
            "weight": scored.astype(np.float32),
        }
        for name in map(metric_of, self.task.config.modes):
            if name in self.rate:
                rate, count = self.pair(name)
                scored = np.isfinite(count)
                found |= {
                    f"{name}.prediction": np.where(scored, rate, 0.0),
                    f"{name}.target": np.where(scored, count, 0.0),
                    f"{name}.weight": scored.astype(np.float32),
                }
        return found

    def _velocity_r2(self) -> float | None:
        """R2 (mean over components) of a ridge from the rates to a behaviour: first half to second half of the time."""
        name = self.task.config.velocity
        if name not in self.session.info.signals:
            return None
        linear = require("sklearn.linear_model", "train", "velocity R2")
        signal, rate = self.session.signal(name), self.rate["all"]
        rate = rate[:, np.isfinite(rate).any(axis=0)]  # those that were asked
        row = np.clip(np.searchsorted(signal.time_ns, self.time_ns), 0, len(signal.time_ns) - 1)
        known = np.isfinite(rate).all(1) & signal.valid[row]
        known &= np.abs(signal.time_ns[row] - self.time_ns) <= max(signal.period_ns, 1)
        x, y = np.log(np.maximum(rate[known], MIN_RATE)), signal.value[row][known].astype(np.float64)
        half = len(x) // 2
        if half < 2:
            return None
        ridge = linear.RidgeCV(alphas=np.logspace(-3, 4, 8)).fit(x[:half], y[:half])
        return number(r2_mean(y[half:], ridge.predict(x[half:]).reshape(y[half:].shape)))

    def _psth_r2(self) -> float | None:
        """R2 over units of the rates' mean over a condition's trials against the counts' (NLB's PSTH R2, by ours)."""
        config, trials = self.task.config, self.session.trials
        if config.condition not in trials.columns:
            return None
        words = np.asarray(trials.columns[config.condition]).astype(str)
        step = int(np.median(np.diff(self.time_ns))) if len(self.time_ns) > 1 else 1
        n_bins = max(int(config.psth_ms * 1e6) // step, 1)
        told = np.isfinite(self.rate["all"]).any(axis=0)
        rate, count = self.rate["all"][:, told], np.where(self.observed, self.count, np.nan)[:, told]
        predicted, true = [], []
        for word in np.unique(words):
            start = trials.start_ns[words == word]
            first = np.searchsorted(self.time_ns, start)
            start, first = (a[first + n_bins <= len(rate)] for a in (start, first))
            whole = self.time_ns[first + n_bins - 1] - self.time_ns[first] == (n_bins - 1) * step  # no gap inside
            rows = first[whole & (self.time_ns[first] - start < step)]  # and the trial begins in the evaluated time
            if len(rows):
                predicted.append(np.nanmean([rate[r : r + n_bins] for r in rows], axis=0))
                true.append(np.nanmean([count[r : r + n_bins] for r in rows], axis=0))
        if not true:
            return None
        predicted, true = np.concatenate(predicted), np.concatenate(true)
        known = np.isfinite(predicted).all(0) & np.isfinite(true).all(0) & (np.ptp(true, axis=0) > 0)
        return number(r2_mean(true[:, known], predicted[:, known])) if known.any() else None


def deviance_explained(rate: np.ndarray, count: np.ndarray, exposure: np.ndarray | None = None) -> float | None:
    """D2 of the Poisson deviance over all scored bins and units, the null being each unit's mean count over them.

    Args:
        rate, count: ``[T, N]``, NaN where not scored. exposure: as :func:`spiketok.recording.metrics.null_rate` has it.
    """
    known = np.isfinite(count)
    if not np.nansum(count) > 0:
        return None

    def deviance(expected: np.ndarray) -> float:
        y, mu = count[known], np.maximum(expected[known], MIN_RATE)
        log = np.where(y > 0, y * np.log(np.maximum(y, MIN_RATE) / mu), 0.0)
        return float(2 * (log - y + mu).sum())

    null = deviance(null_rate(count, exposure))
    return number(1 - deviance(rate) / null) if null > 0 else None
