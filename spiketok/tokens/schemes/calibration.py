"""Calibration trials: what an identity encoder reads of a session that no weight was fitted to.

SPINT (Le et al., NeurIPS 2025, arXiv 2507.08402) tells units apart by M calibration trials of N units, each trial
resampled to T points: M = 10, T = 1024 for FALCON M1; 33 and 100 for M2; 2 and 1024 for H1. Its T points are cubic
interpolation of 20 ms counts, from a trial's first scored bin to its last; time that is not scored is taken out before,
so that the bins on its two sides become neighbours.

Unusual here:
- Baked once a session; the reference puts the whole tensor into every sample, and a batch holds it as often as it has
  samples.
- Which trials are chosen depends on the session's trials and on scored time alone, never on spikes or segments: a
  shard of a part of the session, and a live stream, have the same trials as the whole. To calibrate on a part of a
  session, name a table of that part in ``scored``.
- Trials share no time: where one begins before the one before it ends, that one ends there, as in the reference, which
  knows trials by their starts. A session without trials gets trials of one length, laid over its observed time.
- ``choose="all"`` holds every trial that has enough scored bins, so that M of them inside some calibration time can be
  chosen at the cut.
- Fewer trials than were asked for are held as they are, none twice: ``trials.found`` says how many there were.

Differs from the reference: bins begin with their trial, not with the recording, and only those that are wholly inside
the trial, inside scored time and observed count; a trial with too few of them is skipped and counted. The spline is
solved here, equal to ``scipy.interpolate.interp1d(kind="cubic")`` to float32, and swings as that does: beside a burst
it falls below zero, and hardly a point is a whole number. ``linear`` does not leave the range of the counts, and
``area`` keeps their sum. The reference's causal exponential has 240 ms and is off in all released FALCON settings;
``smooth_ns`` smooths each trial by itself, from zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import (
    require_columns,
    require_intervals,
    require_offsets,
    require_segments,
    require_shape,
    require_within,
)
from spiketok.tokens.schemes.base import (
    ALL_KEPT,
    Baked,
    Columns,
    ColumnSpec,
    Scheme,
    Tokens,
    Windows,
    check_cut,
    depth,
    freeze,
    segment_columns,
    segment_plan,
    spikes_outside,
)
from spiketok.tokens.schemes.bins import bin_starts, bins_inside

UINT8, INT32, INT64 = np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64)
FLOAT32 = np.dtype(np.float32)
MOST_POINTS = 1 << 16  # so many lines between counts are exact in float32
MOST_BINS = 1 << 24  # scored bins of a trial: four days of 20 ms
LEAST_BINS = {"cubic": 4, "linear": 2, "area": 1}  # what each way of resampling needs of a trial
CHOICES = ("first", "block", "random", "all")
ALL_RECORDED = np.zeros((0, 0), UINT8)
ALL_RECORDED.flags.writeable = False


@dataclass(frozen=True)
class Calibration(Scheme):
    """M trials of N units at T points; a token is one trial of the whole population.

    The cut of a window gives those of the chosen trials that are wholly inside it, in order of time: with the whole
    session as window, all that are held, ``[M, T, N]`` (:meth:`by_unit` shows it as ``[M, N, T]``). R rows stand for
    the chosen trials, segment after segment; where segments overlap, a trial is in each that holds it.

    Columns: ``matrix`` float32 ``[R, T, N]``; ``start_ns``, ``stop_ns`` int64 ``[R]``; the counts that were resampled,
    ``counts`` uint8 ``[S, N]``, one row a scored bin, with ``counts.row`` int64 ``[R + 1]``, each trial's first, and
    ``counts.bin`` int32 ``[S]``, the bin's number in its trial; ``counts.most`` int64 ``[1]``, the most scored bins K
    of a chosen trial; ``trials.found`` and ``trials.short`` int64 ``[1]``, the session's trials, and those of them that
    have too few scored bins; ``unit_observed`` uint8 ``[R, N]`` where units were not all recorded at the same times: 1
    where the unit was recorded in every scored bin of the trial.

    A cut gives ``matrix`` float32 ``[T, N]``, ``counts`` uint8 ``[K, N]`` and ``bin`` int32 ``[K]`` (0 and -1 after
    the last scored bin), ``start_ns`` and ``stop_ns`` int64 from the window's start, and ``unit_observed`` uint8
    ``[N]`` where the shard has it. A dropped unit has zeros. ``unit_row`` has no effect: a unit is a position, not a
    token.

    Lost, by name: spikes ``outside_trials`` (inside a segment, in no trial that is held), ``unscored`` (in a held
    trial, in no scored bin), ``saturated`` (above 255 in a bin).

    Args:
        n_trials: M; of no effect with ``choose="all"``. length: T, 2 to 65,536.
        resample: ``"cubic"``, ``"linear"`` or ``"area"`` (what falls into each T-th of the trial; sums are kept).
        choose: the ``"first"`` trials, a random ``"block"`` of neighbours, ``"random"`` ones (seed: for these two), or
            ``"all"`` that have enough scored bins.
        scored: the table of the session's intervals whose time counts; ``""`` for all observed time.
        smooth_ns: time constant of a causal exponential over a trial's scored bins; 0 for none.
        pseudo_ns: length of the trials of a session that has none.

    >>> from spiketok.tokens.schemes import Calibration
    >>> Calibration(n_trials=33, length=100).resample
    'cubic'
    """

    bin_ns: int = 20_000_000
    n_trials: int = 10
    length: int = 1024
    resample: str = "cubic"
    choose: str = "first"
    seed: int = 0
    scored: str = ""
    smooth_ns: int = 0
    pseudo_ns: int = 2_000_000_000

    name: ClassVar[str] = "calibration"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("SPINT",)
    token: ClassVar[str] = "one trial of the whole population, resampled"
    keeps: ClassVar[str] = "the counts of the chosen trials' scored bins, and their course at T points"
    loses: ClassVar[str] = "time within the bin; all but the chosen trials' scored bins, counts above 255 (counted)"

    def __post_init__(self) -> None:
        for field, least in (
            ("bin_ns", 1),
            ("n_trials", 1),
            ("length", 2),
            ("seed", 0),
            ("smooth_ns", 0),
            ("pseudo_ns", 1),
        ):
            value = getattr(self, field)
            if type(value) is not int or value < least:
                message = f"calibration: {field} is {value!r}, must be a whole number of at least {least}"
                raise UsageError(message)
        if self.length > MOST_POINTS:
            message = f"calibration: length is {self.length}, must be at most {MOST_POINTS}"
            raise UsageError(message)
        for field, known in (("resample", tuple(LEAST_BINS)), ("choose", CHOICES)):
            if getattr(self, field) not in known:
                message = f"calibration: {field} is {getattr(self, field)!r}, must be one of {', '.join(known)}"
                raise UsageError(message)
        if type(self.scored) is not str:
            message = f"calibration: scored is {self.scored!r}, must be the name of a table of intervals, or empty"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return 1

    @property
    def whole_session(self) -> bool:
        return True

    @staticmethod
    def by_unit(matrix: np.ndarray) -> np.ndarray:
        """``[M, T, N]`` as the ``[M, N, T]`` that SPINT's encoder takes: a view, nothing is copied."""
        return matrix.swapaxes(-1, -2)

    # ---- the trials -------------------------------------------------------------------------------------------------

    def _trials(self, session: Session) -> Intervals:
        """The session's trials in order of time, none reaching into the next; laid out where it has none."""
        trials = session.trials
        if trials is None or len(trials) == 0:
            n_trials = (session.observed.stop_ns - session.observed.start_ns) // self.pseudo_ns
            start_ns = bin_starts(session.observed, _offsets(n_trials), self.pseudo_ns)
            return Intervals(start_ns, start_ns + self.pseudo_ns)
        order = np.lexsort((trials.stop_ns, trials.start_ns))
        start_ns, stop_ns = trials.start_ns[order], trials.stop_ns[order].copy()
        stop_ns[:-1] = np.minimum(stop_ns[:-1], start_ns[1:])
        return Intervals(start_ns, stop_ns)

    def _scored_time(self, session: Session) -> Intervals:
        if not self.scored:
            return session.observed
        if self.scored not in session.intervals:
            known = ", ".join(session.intervals) or "none"
            message = f"{session.id} has no intervals '{self.scored}' for calibration to score by: it has {known}"
            raise NotServedError(message)
        return session.observed.intersect(session.intervals[self.scored])

    def _chosen(self, n_candidates: int) -> np.ndarray:
        """Which of so many trials are taken, in order of time."""
        # PCG64's raw words are the same in every release of numpy, what its Generator makes of them need not be
        if self.choose == "all":
            return np.arange(n_candidates)
        if n_candidates <= self.n_trials or self.choose == "first":
            return np.arange(min(n_candidates, self.n_trials))
        words = np.random.PCG64(self.seed)
        if self.choose == "block":
            first = (int(words.random_raw()) * (n_candidates - self.n_trials + 1)) >> 64
            return first + np.arange(self.n_trials)
        return np.sort(np.argsort(words.random_raw(n_candidates), kind="stable")[: self.n_trials])

    def chosen_time(self, session: Session) -> Intervals:
        """The scored time of the trials that are chosen, as sorted disjoint intervals."""
        return self._chosen_trials(session)[0].intersect(self._scored_time(session))

    def _chosen_trials(self, session: Session) -> tuple[Intervals, np.ndarray, list[np.ndarray], int, int]:
        """The chosen trials, how many scored bins each has and where these start; trials found, and those too short."""
        trials = self._trials(session)
        n_bins = (trials.stop_ns - trials.start_ns) // self.bin_ns
        first = _offsets(n_bins)
        start_ns = bin_starts(trials, first, self.bin_ns)
        scored = bins_inside(start_ns, self.bin_ns, self._scored_time(session))
        n_scored = np.diff(np.concatenate([[0], np.cumsum(scored)])[first])
        candidates = np.flatnonzero(n_scored >= LEAST_BINS[self.resample])
        chosen = candidates[self._chosen(len(candidates))]
        bin_start = [start_ns[first[i] : first[i + 1]][scored[first[i] : first[i + 1]]] for i in chosen]
        return trials.take(chosen), n_scored[chosen], bin_start, len(n_bins), len(n_bins) - len(candidates)

    # ---- bake -------------------------------------------------------------------------------------------------------

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        rows = self._most_rows(info, segments)
        bins = int(((segments.stop_ns - segments.start_ns) // self.bin_ns).sum())
        one = ColumnSpec(INT64, (), 1)
        return {
            "matrix": ColumnSpec(FLOAT32, (self.length, info.n_units), rows),
            "start_ns": ColumnSpec(INT64, (), rows),
            "stop_ns": ColumnSpec(INT64, (), rows),
            "counts": ColumnSpec(UINT8, (info.n_units,), bins),
            "counts.row": ColumnSpec(INT64, (), rows + 1),
            "counts.bin": ColumnSpec(INT32, (), bins),
            "counts.most": one,
            "trials.found": one,
            "trials.short": one,
            "unit_observed": ColumnSpec(UINT8, (info.n_units,), rows),
            **segment_plan(segments),
        }

    def _most_rows(self, info: SessionInfo, segments: Intervals) -> int:
        """How many trials the columns can hold at most, once for each segment."""
        if self.choose != "all":
            return self.n_trials * depth(segments)
        # trials share no time, and each has enough bins
        rows = int(((segments.stop_ns - segments.start_ns) // (LEAST_BINS[self.resample] * self.bin_ns)).sum())
        if info.n_trials is None:
            return rows
        laid_out = max(info.stop_ns - info.start_ns, 0) // self.pseudo_ns
        return min(rows, (info.n_trials or laid_out) * depth(segments))

    def bake(self, session: Session, segments: Intervals) -> Baked:
        trials, n_scored, bin_start, n_found, n_short = self._chosen_trials(session)
        held = [
            np.flatnonzero((trials.start_ns >= low) & (trials.stop_ns <= high))
            for low, high in zip(segments.start_ns, segments.stop_ns, strict=True)
        ]
        rows = np.concatenate([np.zeros(0, np.int64), *held])
        spikes, n_units = session.spikes, len(session.units)
        counted = [_count_trial(spikes, bin_start[i], self.bin_ns, n_units) for i in rows]
        counts, inside = [c for c, _ in counted], [n for _, n in counted]
        bins = [(bin_start[i] - trials.start_ns[i]) // self.bin_ns for i in rows]
        columns = {
            "matrix": self._resample(counts, n_units),
            "start_ns": trials.start_ns[rows],
            "stop_ns": trials.stop_ns[rows],
            "counts": np.concatenate([np.zeros((0, n_units), UINT8), *counts]),
            "counts.row": _offsets(n_scored[rows]),
            "counts.bin": np.concatenate([np.zeros(0, INT64), *bins]).astype(INT32),
            "counts.most": np.array([n_scored.max(initial=0)], INT64),
            "trials.found": np.array([n_found], INT64),
            "trials.short": np.array([n_short], INT64),
            **self._unit_observed(session, [bin_start[i] for i in rows]),
            **segment_columns(segments, _offsets(np.array([len(own) for own in held], np.int64))),
        }
        # each trial once, though it is in every segment that holds it
        outside, outside_trials = spikes_outside(spikes, segments), spikes_outside(spikes, trials.take(np.unique(rows)))
        in_bins = sum(dict(zip(rows.tolist(), inside, strict=True)).values())
        lost = {
            "outside_segments": outside,
            "outside_trials": outside_trials - outside,
            "unscored": len(spikes) - outside_trials - in_bins,
            "saturated": sum(inside) - sum(int(c.sum(dtype=np.int64)) for c in counts),
        }
        return Baked(freeze(columns), lost)

    def _resample(self, counts: list[np.ndarray], n_units: int) -> np.ndarray:
        from spiketok.tokens.schemes.kernels import resample as kernels

        matrix = np.empty((len(counts), self.length, n_units), FLOAT32)
        decay = math.exp(-self.bin_ns / self.smooth_ns) if self.smooth_ns else 0.0
        for own, out in zip(counts, matrix, strict=True):
            if self.resample == "linear" and not self.smooth_ns:
                kernels.linear_counts(own, out)
                continue
            value = np.empty(own.shape)
            kernels.smooth(own, decay, value)
            if self.resample == "cubic":
                second = np.empty(own.shape)
                kernels.bend(value, second)
                kernels.cubic(value, second, out)
            elif self.resample == "linear":
                kernels.linear(value, out)
            else:
                kernels.area(value, out)
        return matrix

    def _unit_observed(self, session: Session, bin_start: list[np.ndarray]) -> dict[str, np.ndarray]:
        if session.unit_observed is None:
            return {}
        flags = np.empty((len(bin_start), len(session.units)), UINT8)
        for n in range(len(session.units)):
            own = session.unit_observed[n].reshape(-1, 2)
            recorded = Intervals(own[:, 0], own[:, 1]).union()
            for r, start_ns in enumerate(bin_start):
                flags[r, n] = bins_inside(start_ns, self.bin_ns, recorded).all()
        return {"unit_observed": flags}

    def check(self, columns: Columns) -> None:
        one = dict.fromkeys(("counts.most", "trials.found", "trials.short"), (INT64, 1))
        wanted = {"matrix": (FLOAT32, 3), "counts": (UINT8, 2), "counts.row": (INT64, 1), "counts.bin": (INT32, 1)}
        require_columns(columns, one | wanted, {"unit_observed": (UINT8, 2)})
        require_intervals(columns, "start_ns", "stop_ns")
        n_rows, (n_bins, n_units) = len(columns["start_ns"]), columns["counts"].shape
        require_shape(columns, (1,), one)
        require_shape(columns, (n_rows, self.length, n_units), ["matrix"])
        require_shape(columns, (n_rows, n_units), ["unit_observed"])
        require_shape(columns, (n_bins,), ["counts.bin"])
        require_offsets(columns, "counts.row", n_rows, n_bins)
        most = int(np.diff(columns["counts.row"]).max(initial=0))
        require_within(columns, "counts.most", most, MOST_BINS)
        require_segments(columns, n_rows)

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["counts"].sum(dtype=np.int64))

    # ---- cut --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _inside(columns: Columns, windows: Windows) -> np.ndarray:
        """bool ``[B, R]``: the trials that are wholly inside each window."""
        from spiketok.tokens.schemes.kernels import resample as kernels

        row, segment = columns["segment.row"], windows.segment
        inside = np.empty((len(windows), len(columns["start_ns"])), np.bool_)
        ends = columns["start_ns"], columns["stop_ns"], row[segment], row[segment + 1]
        kernels.trials_inside(*ends, windows.start_ns, windows.length_ns, inside)
        return inside

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, columns["matrix"].shape[2])
        return self._inside(columns, windows).sum(axis=1, dtype=np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        most, n_units = int(columns["counts.most"][0]), columns["counts"].shape[1]
        outputs = {
            "matrix": (FLOAT32, (self.length, n_units)),
            "counts": (UINT8, (most, n_units)),
            "bin": (INT32, (most,)),
            "start_ns": (INT64, ()),
            "stop_ns": (INT64, ()),
        }
        return outputs | ({"unit_observed": (UINT8, (n_units,))} if "unit_observed" in columns else {})

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
        from spiketok.tokens.schemes.kernels import resample as kernels

        inside = self._inside(columns, windows)
        kernels.fill_trials(
            columns["matrix"],
            columns["counts"],
            columns["counts.bin"],
            columns["counts.row"],
            columns.get("unit_observed", ALL_RECORDED),
            inside,
            ALL_KEPT if keep is None else keep,
            row,
            out["matrix"],
            out["counts"],
            out["bin"],
            out["unit_observed"] if "unit_observed" in columns else np.empty((0, 0), UINT8),
        )
        window, trial = np.nonzero(inside)
        token = row[window] + np.arange(len(window)) - _offsets(inside.sum(axis=1))[window]
        for name in ("start_ns", "stop_ns"):
            out[name][token] = columns[name][trial] - windows.start_ns[window]

    def empty(self, tokens: Tokens) -> np.ndarray:
        return ~tokens.columns["counts"].any(axis=(1, 2))

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """As many spikes as were counted in the scored bins of the trials, all at their bin's middle."""
        spikes = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            counts, bins = tokens.columns["counts"][rows], tokens.columns["bin"][rows].astype(np.int64)
            trial, k, unit = np.nonzero(counts)
            start_ns = windows.start_ns[b] + tokens.columns["start_ns"][rows][trial]
            time_ns = start_ns + bins[trial, k] * self.bin_ns + self.bin_ns // 2
            times = counts[trial, k, unit]
            spikes.append(Spikes(np.repeat(time_ns, times), np.repeat(unit.astype(np.int32), times)))
        return spikes


def _offsets(size: np.ndarray) -> np.ndarray:
    """int64: where each of so many rows begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(size)]).astype(np.int64)


def _count_trial(spikes: Spikes, start_ns: np.ndarray, bin_ns: int, n_units: int) -> tuple[np.ndarray, int]:
    """uint8 ``[T, N]``, the counts in the scored bins of a trial, which begin there; and the spikes in them."""
    from spiketok.tokens.schemes.kernels import resample as kernels

    low, high = np.searchsorted(spikes.time_ns, [start_ns[0], start_ns[-1] + bin_ns])
    counts = np.zeros((len(start_ns), n_units), UINT8)
    inside = kernels.count_bins(spikes.time_ns[low:high], spikes.unit[low:high], start_ns, bin_ns, counts)
    return counts, int(inside)
