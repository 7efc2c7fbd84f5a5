"""Tokenizations measured on the same recordings, where the literature compares them by stars.

Every scheme tokenizes the same randomly chosen stretches of the same sessions. What depends on the data alone is the
same on every machine (:attr:`Measured.facts`); how fast it went is not, and is kept apart (:attr:`Measured.timing`).

How things are measured:
- Tokens a second: the tokens of windows laid end to end in each stretch, by the time that the windows cover.
- Bytes a second: the columns of a bake of the whole session, by the session's extent.
- Timing error: a window's tokens are turned back into spikes, and each unit's spikes are paired with its true ones in
  the window, in order. Where one side has more, the pairs are those with the least sum of errors, and the others are
  counted as unmatched.
- Growth: the same stretches with half of the units, and with half of the spikes thinned out at random. A window's
  length is taken as ``a + per_unit * N + per_spike * S``; the three measurements give both slopes.
- Attention: multiply-adds of scores and mixing in one layer, two FLOPs each, without projections and feed-forward
  (those grow with the length alone). Width, latents and queries are the same for all: see :data:`ATTENTION`.

Shape letters: L tokens of a window, N units, B windows, D model width, K latents, C queries.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, NotServedError, UsageError, require
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session, Signal, Spikes, UnitTable
from spiketok.storage.files import atomic_file
from spiketok.tokens.pictures import COLORS, INK
from spiketok.tokens.schemes import Scheme, scheme_config
from spiketok.tokens.schemes.base import Tokens, Windows

WIDTH = 128  # D
LATENTS = 128  # K of POYO's smallest model: 16 every 125 ms of a second
QUERIES = 2  # C, the components of a cursor's velocity
BATCH = 128
WHOLE_SESSION = ("calibration",)  # schemes that are cut once a session


# ---- what attention costs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """The sequence lengths of B windows.

    Args:
        tokens: int64 ``[B]``, all tokens. current: int64 ``[B]``, those of the window itself where a scheme also has
            tokens of its history, else all. units: how many units the session has. bins: T of a window, or 0.
    """

    tokens: np.ndarray
    current: np.ndarray
    units: int
    bins: int = 0


@dataclass(frozen=True)
class Attention:
    """How a model attends to its tokens: the formula as text, and as multiply-adds of each window."""

    formula: str
    multiply_adds: Callable[[Lengths], np.ndarray]


def _nuclr(own: Lengths) -> np.ndarray:
    """Each unit over its own patches, then the units of one patch over each other; ``L / N`` patches a unit."""
    tokens = own.tokens.astype(np.float64)
    return tokens * (tokens / max(own.units, 1) + own.units)


FULL = Attention("L^2 D", lambda own: own.tokens.astype(np.float64) ** 2)
TO_LATENTS = Attention(f"L K D, K = {LATENTS}", lambda own: own.tokens * float(LATENTS))
NO_ATTENTION = Attention("none", lambda own: np.zeros(len(own.tokens)))
ATTENTION: Mapping[str, Attention] = {
    "NDT1": FULL,
    "STNDT": Attention("(T^2 + N^2) D", lambda own: np.full(len(own.tokens), float(own.bins) ** 2 + own.units**2)),
    "MtM": FULL,
    "NEDS": FULL,
    "LFADS": NO_ATTENTION,
    "linear": NO_ATTENTION,
    "NDT2": FULL,
    "NDT3": FULL,
    "POYO": TO_LATENTS,
    "POYO+": TO_LATENTS,
    "CaPOYO": TO_LATENTS,
    "POSSM": Attention("L D, one latent a chunk", lambda own: own.tokens.astype(np.float64)),
    "Neuroformer": Attention("(Lc^2 + Lc Lh) D", lambda own: own.current * own.tokens.astype(np.float64)),
    "SPINT": Attention(f"C L D, C = {QUERIES}", lambda own: own.tokens * float(QUERIES)),
    "NuCLR": Attention("(N P^2 + P N^2) D, P = L / N", _nuclr),
    "any model that reads bins": FULL,
}
"""How each reader attends: full self-attention of L tokens costs ``L^2 D``; POYO's first layer lets K latents attend to
the tokens; POSSM has one latent for each chunk, which sees the chunk's tokens; SPINT's C queries attend to N units in
each bin; STNDT attends over T bins and over N units; NuCLR over each unit's patches and over the units of each patch;
Neuroformer lets the current window's tokens attend to themselves and to the history's. The identity encoder that reads
calibration trials (SPINT) is feed-forward: it has no entry for that scheme. All in multiply-adds, twice: scores and
mixing."""


def attention_flops(reader: str, own: Lengths) -> float:
    """FLOPs of one layer's attention in one window, mean over the windows; D is :data:`WIDTH`.

    >>> attention_flops("NDT1", Lengths(np.array([50]), np.array([50]), 10))
    1280000.0
    """
    return float(4.0 * WIDTH * ATTENTION[reader].multiply_adds(own).mean())


# ---- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One scheme on one session: ``reason`` says why there is nothing where the scheme cannot serve it."""

    session_id: str
    facts: dict[str, object]
    timing: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class SchemeResult:
    """One scheme on all sessions."""

    scheme: Scheme
    sessions: list[Measured]

    @property
    def served(self) -> list[Measured]:
        return [m for m in self.sessions if not m.reason]

    def mean(self, name: str) -> float | None:
        """The mean over the sessions that have this fact or timing; None where none has."""
        values = [(m.facts | m.timing).get(name) for m in self.served]
        return statistics.fmean(v for v in values if v is not None) if any(v is not None for v in values) else None

    @property
    def lost(self) -> dict[str, int]:
        """Spikes that the bakes do not hold, by reason, over all sessions."""
        total: dict[str, int] = {}
        for measured in self.served:
            for reason, n in measured.facts["lost"].items():
                total[reason] = total.get(reason, 0) + n
        return {reason: n for reason, n in total.items() if n}

    @property
    def attention(self) -> dict[str, float]:
        """FLOPs of one layer's attention a second of recording, by reader; mean over the sessions."""
        readers = self.served[0].facts["attention_flops_per_s"] if self.served else {}
        return {r: statistics.fmean(m.facts["attention_flops_per_s"][r] for m in self.served) for r in readers}


MEANS = (
    "window_s",
    "tokens_per_s",
    "bytes_per_s",
    "empty_share",
    "timing_error_median_ms",
    "timing_error_p99_ms",
    "unmatched_share",
    "tokens_per_window",
    "tokens_per_unit",
    "tokens_per_spike",
)
TIMINGS = ("bake_spikes_per_s", "cut_windows_per_s")


@dataclass(frozen=True)
class Comparison:
    """All schemes on all sessions, in the order in which they were given."""

    window_ns: int
    n_windows: int
    seed: int
    results: list[SchemeResult]

    def rows(self) -> list[dict[str, object]]:
        """One row a scheme for a table; the mean over the sessions, spikes lost summed."""
        return [_row(result) for result in self.results]

    def to_json(self) -> dict[str, object]:
        """Everything; what is not the same on every machine and in every run is under ``timing`` alone."""
        return {
            "window_ns": self.window_ns,
            "n_windows": self.n_windows,
            "seed": self.seed,
            "attention": {"width": WIDTH, "latents": LATENTS, "queries": QUERIES}
            | {"formulas": {reader: a.formula for reader, a in ATTENTION.items()}},
            "schemes": [
                {
                    **scheme_config(result.scheme),
                    "mean": {name: result.mean(name) for name in MEANS},
                    "lost": result.lost,
                    "attention_flops_per_s": result.attention,
                    "timing": {name: result.mean(name) for name in TIMINGS},
                    "sessions": [
                        {"session": m.session_id, "not_served": m.reason}
                        if m.reason
                        else {"session": m.session_id, **m.facts, "timing": m.timing}
                        for m in result.sessions
                    ],
                }
                for result in self.results
            ],
        }

    def write_json(self, out: Path) -> None:
        with atomic_file(out) as path:
            path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def to_markdown(self) -> str:
        """The table, as documents show it."""
        rows = self.rows()
        names = [name for name in rows[0] if name != "not served"]
        lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
        lines += [f"\n{row['scheme']}: {row['not served']}" for row in rows if row["not served"]]
        return "\n".join(lines) + "\n"


def _row(result: SchemeResult) -> dict[str, object]:
    refused = [m.reason for m in result.sessions if m.reason]
    share, error, late = (result.mean(n) for n in ("unmatched_share", "timing_error_median_ms", "timing_error_p99_ms"))
    attention = ", ".join(f"{reader} {short(f / 1e6)}" for reader, f in result.attention.items() if f)
    return {
        "scheme": result.scheme.name,
        "sessions": len(result.served),
        "window s": short(result.mean("window_s")),
        "tokens/s": short(result.mean("tokens_per_s")),
        "bytes/s": short(result.mean("bytes_per_s")),
        "empty %": short(_times(result.mean("empty_share"), 100)),
        "spikes lost": ", ".join(f"{n} {why}" for why, n in result.lost.items()) or ("none" if result.served else "-"),
        "error ms, median": short(error),
        "p99": short(late),
        "unmatched %": short(_times(share, 100)),
        "tokens/unit": short(result.mean("tokens_per_unit")),
        "tokens/spike": short(result.mean("tokens_per_spike")),
        "bake, M spikes/s": short(_times(result.mean("bake_spikes_per_s"), 1e-6)),
        "cut, windows/s": short(result.mean("cut_windows_per_s")),
        "attention, MFLOP/s": attention or ("none" if result.served else "-"),
        "not served": "; ".join(refused),
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def short(value: float | None) -> str:
    """Three digits that a person reads at once.

    >>> [short(v) for v in (None, 0.0, 0.01234, 5.0, 1234.5, 98_765_432.0)]
    ['-', '0', '0.0123', '5', '1,230', '98.8 M']
    """
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        scale, name = (1e9, "G") if abs(value) >= 1e9 else (1e6, "M")
        return f"{value / scale:.3g} {name}" if abs(value) < 1e12 else f"{value:.3g}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


# ---- measuring ------------------------------------------------------------------------------------------------------


def compare(
    sessions: Iterable[Session],
    schemes: Sequence[Scheme],
    *,
    window_ns: int = NS_PER_S,
    n_windows: int = 256,
    seed: int = 0,
    rounds: int = 3,
) -> Comparison:
    """Measure schemes against each other on the same stretches of the same sessions.

    Args:
        sessions: read one after the other; one is held at a time.
        schemes: several of one name are told apart by their fields.
        window_ns: the length of a stretch, and of the windows where the scheme leaves it free: the largest multiple of
            its ``length_grid_ns`` in it. Schemes of one window length lay several into a stretch.
        n_windows: stretches of each session, chosen at random; all where it has fewer.
        seed: of that choice, and of the units and spikes that are left out to measure growth.
        rounds: bakes and cuts are timed so often; the median counts.

    Raises:
        UsageError: no scheme, no session, or a number that must be above 0.
    """
    for name, value in (("window_ns", window_ns), ("n_windows", n_windows), ("rounds", rounds)):
        if value < 1:
            message = f"{name} is {value}, must be at least 1"
            raise UsageError(message)
    measured: list[list[Measured]] = [[] for _ in schemes]
    for session in sessions:
        stretches = _choose_stretches(session, window_ns, n_windows, seed)
        for scheme, own in zip(schemes, measured, strict=True):
            try:
                own.append(_measure(scheme, session, stretches, window_ns, seed, rounds))
            except (NotServedError, _TooShortError) as refusal:
                own.append(Measured(session.id, {}, {}, str(refusal)))
    if not schemes or not measured[0]:
        message = (
            f"{len(schemes)} schemes on {len(measured[0]) if schemes else 0} sessions: there is nothing to compare"
        )
        raise UsageError(message)
    results = [SchemeResult(scheme, own) for scheme, own in zip(schemes, measured, strict=True)]
    return Comparison(window_ns, n_windows, seed, results)


class _TooShortError(DataError):
    """No window of a scheme fits into a session's stretches."""


def _choose_stretches(session: Session, window_ns: int, n_windows: int, seed: int) -> np.ndarray:
    """int64: the starts of stretches on a grid of ``window_ns`` from the session's start, in order."""
    n = (session.stop_ns - session.start_ns) // window_ns
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_windows])
    return session.start_ns + chosen * window_ns


def _lay_windows(scheme: Scheme, session: Session, stretches: np.ndarray, window_ns: int) -> Windows:
    """Windows laid end to end in each stretch, from the first place on the scheme's grid."""
    if scheme.name in WHOLE_SESSION:
        return Windows(np.zeros(1, np.int64), np.array([session.start_ns]), session.stop_ns - session.start_ns)
    grid, step = scheme.grid_ns, scheme.length_grid_ns
    length_ns = scheme.window_ns or max(step, window_ns // step * step)
    first = session.start_ns - (session.start_ns - stretches) // grid * grid
    fits = np.maximum((stretches + window_ns - first) // length_ns, 1)
    index = np.arange(fits.sum()) - np.repeat(np.cumsum(fits) - fits, fits)
    start = np.repeat(first, fits) + index * length_ns
    start = start[start + length_ns <= session.stop_ns]
    if start.size == 0:
        seconds, length_s = (session.stop_ns - session.start_ns) / NS_PER_S, length_ns / NS_PER_S
        message = f"{session.id} has no stretch for a window of {length_s:g} s: it lasts {seconds:.3f} s"
        raise _TooShortError(message)
    return Windows(np.zeros(len(start), np.int64), start, length_ns)


def _measure(
    scheme: Scheme, session: Session, stretches: np.ndarray, window_ns: int, seed: int, rounds: int
) -> Measured:
    whole = Intervals([session.start_ns], [session.stop_ns])
    baked = scheme.bake(session, whole)
    windows = _lay_windows(scheme, session, stretches, window_ns)
    seconds, window_s = (session.stop_ns - session.start_ns) / NS_PER_S, windows.length_ns / NS_PER_S
    n_tokens, n_current, n_empty, errors = [], [], 0, _TimingErrors()
    for batch in _batches(windows):
        tokens = scheme.cut(baked.columns, batch)
        n_tokens.append(np.diff(tokens.offset))
        n_current.append(_current_tokens(tokens))
        n_empty += int(scheme.empty(tokens).sum())
        errors.add(scheme.detokenize(tokens, batch), session.spikes, batch)
    bins = windows.length_ns // scheme.grid_ns if scheme.grid_ns > 1 else 0
    lengths = Lengths(np.concatenate(n_tokens), np.concatenate(n_current), len(session.units), bins)
    total = int(lengths.tokens.sum())
    readers = () if scheme.name in WHOLE_SESSION else scheme.readers
    facts = {
        "n_units": len(session.units),
        "n_spikes": len(session.spikes),
        "spikes_per_s": len(session.spikes) / seconds,
        "window_s": window_s,
        "n_windows": len(windows),
        "tokens_per_s": total / (len(windows) * window_s),
        "tokens_per_window": total / len(windows),
        "bytes_per_s": sum(column.nbytes for column in baked.columns.values()) / seconds,
        "empty_share": n_empty / total if total else None,
        "lost": dict(baked.lost),
        **errors.facts(),
        **_growth(scheme, session, windows, lengths, seed),
        "attention_flops_per_s": {reader: attention_flops(reader, lengths) / window_s for reader in readers},
    }
    return Measured(session.id, facts, _time(scheme, session, whole, baked.columns, windows, seed, rounds))


def _batches(windows: Windows) -> list[Windows]:
    rows = [slice(k, k + BATCH) for k in range(0, len(windows), BATCH)]
    return [Windows(windows.segment[r], windows.start_ns[r], windows.length_ns) for r in rows]


def _current_tokens(tokens: Tokens) -> np.ndarray:
    """int64 ``[B]``: tokens of the windows themselves, without those of their history (event pairs)."""
    if "stream" not in tokens.columns:
        return np.diff(tokens.offset)
    before = np.concatenate([[0], np.cumsum(tokens.columns["stream"], dtype=np.int64)])
    return np.diff(before[tokens.offset])


# ---- timing error ---------------------------------------------------------------------------------------------------


class _TimingErrors:
    """What the way through tokens and back does to spike times."""

    def __init__(self) -> None:
        self._errors_ns: list[np.ndarray] = []
        self._true = self._unmatched = 0
        self._of_spikes = True

    def add(self, known: Sequence[Spikes | Signal], spikes: Spikes, windows: Windows) -> None:
        for b, back in enumerate(known):
            if isinstance(back, Signal):
                self._of_spikes = False
                return
            start_ns = int(windows.start_ns[b])
            true = spikes.window(start_ns, start_ns + windows.length_ns)
            own = back.window(start_ns, start_ns + windows.length_ns)  # without what lies in the history
            errors_ns, unmatched = match_spikes(true, own)
            self._errors_ns.append(errors_ns)
            self._true += len(true)
            self._unmatched += unmatched

    def facts(self) -> dict[str, object]:
        """None throughout for tokens of something else than spikes, or where there was no spike."""
        errors_ns = np.concatenate([np.zeros(0), *self._errors_ns])
        median, p99 = np.percentile(errors_ns, [50, 99]) / NS_PER_MS if errors_ns.size else (None, None)
        return {
            "timing_error_median_ms": None if median is None else float(median),
            "timing_error_p99_ms": None if p99 is None else float(p99),
            "n_matched": errors_ns.size,
            "n_unmatched": self._unmatched if self._of_spikes else None,
            "unmatched_share": self._unmatched / self._true if self._of_spikes and self._true else None,
        }


def match_spikes(true: Spikes, known: Spikes) -> tuple[np.ndarray, int]:
    """Pair each unit's spikes in order.

    Returns:
        int64: the distance of each pair in ns; and how many spikes of either side have no partner.
    """
    true_rows, known_rows = np.argsort(true.unit, kind="stable"), np.argsort(known.unit, kind="stable")
    true_unit, known_unit = true.unit[true_rows], known.unit[known_rows]
    true_ns, known_ns = true.time_ns[true_rows], known.time_ns[known_rows]
    if np.array_equal(true_unit, known_unit):
        return np.abs(true_ns - known_ns), 0
    errors, unmatched = [np.zeros(0, np.int64)], 0
    for unit in np.union1d(true_unit, known_unit):
        a = true_ns[slice(*np.searchsorted(true_unit, [unit, unit + 1]))]
        b = known_ns[slice(*np.searchsorted(known_unit, [unit, unit + 1]))]
        unmatched += abs(len(a) - len(b))
        errors.append(np.abs(a - b) if len(a) == len(b) else _least_errors(*sorted((a, b), key=len)))
    return np.concatenate(errors), unmatched


def _least_errors(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """The distances of the pairs, in order, that have the least sum: each of the few has one partner among the many."""
    gap, spare = np.abs(few[:, None] - many[None, :]), len(many) - len(few)
    # least[i, k]: the best sum for the first i of the few with partners among the first i + k of the many
    least = np.zeros((len(few) + 1, spare + 1), np.int64)
    for i in range(len(few)):
        least[i + 1] = np.minimum.accumulate(least[i] + gap[i, i : i + spare + 1])
    errors, k = np.empty(len(few), np.int64), spare
    for i in range(len(few) - 1, -1, -1):
        k = int(np.searchsorted(-least[i + 1, : k + 1], -least[i + 1, k]))  # the first that reaches this sum
        errors[i] = gap[i, i + k]
    return errors


# ---- growth ---------------------------------------------------------------------------------------------------------


def _growth(scheme: Scheme, session: Session, windows: Windows, lengths: Lengths, seed: int) -> dict[str, float | None]:
    """How a window's length grows with each unit and with each spike in it; None where it cannot be measured."""
    n_units, rng = len(session.units), np.random.default_rng([seed, 1])
    kept_units = np.sort(rng.permutation(n_units)[: n_units // 2])
    kept_spikes = np.sort(rng.permutation(len(session.spikes))[: len(session.spikes) // 2])
    thinned = Spikes(session.spikes.time_ns[kept_spikes], session.spikes.unit[kept_spikes])
    spikes, length = _spikes_per_window(session.spikes, windows), lengths.tokens.mean()
    fewer_spikes = spikes - _spikes_per_window(thinned, windows)
    if not fewer_spikes:
        return {"tokens_per_unit": None, "tokens_per_spike": None}
    shorter = length - _mean_length(scheme, _changed(session, spikes=thinned), windows)
    per_spike = shorter / fewer_spikes
    if kept_units.size == 0:
        return {"tokens_per_unit": None, "tokens_per_spike": float(per_spike)}
    smaller = _with_units(session, kept_units)
    fewer_spikes = spikes - _spikes_per_window(smaller.spikes, windows)
    shorter = length - _mean_length(scheme, smaller, windows)
    per_unit = (shorter - per_spike * fewer_spikes) / (n_units - kept_units.size)
    return {"tokens_per_unit": float(per_unit), "tokens_per_spike": float(per_spike)}


def _spikes_per_window(spikes: Spikes, windows: Windows) -> float:
    low = np.searchsorted(spikes.time_ns, windows.start_ns)
    return float((np.searchsorted(spikes.time_ns, windows.start_ns + windows.length_ns) - low).mean())


def _mean_length(scheme: Scheme, session: Session, windows: Windows) -> float:
    columns = scheme.bake(session, Intervals([session.start_ns], [session.stop_ns])).columns
    return float(np.concatenate([scheme.lengths(columns, batch) for batch in _batches(windows)]).mean())


def _changed(session: Session, **values: object) -> Session:
    return Session(**{**session.__dict__, **values})


def _with_units(session: Session, rows: np.ndarray) -> Session:
    """The session as if only these units had been recorded; a signal with a component a unit keeps only theirs."""
    n_units = len(session.units)
    new_row = np.full(n_units, -1, np.int32)
    new_row[rows] = np.arange(rows.size, dtype=np.int32)
    unit = new_row[session.spikes.unit]
    plain = {name: column[rows] for name, column in session.units.columns.items() if not isinstance(column, Ragged)}
    signals = {
        name: Signal(s.time_ns, s.value[:, rows], tuple(s.components[n] for n in rows), s.measure, s.valid, s.rate_hz)
        if len(s.components) == n_units
        else s
        for name, s in session.signals.items()
    }
    observed = session.unit_observed
    if observed is not None:
        own = [observed[n].reshape(-1, 2) for n in rows]
        observed = Ragged(np.concatenate(own), np.cumsum([0, *[len(i) for i in own]]))
    return _changed(
        session,
        units=UnitTable(session.units.id[rows], plain),
        spikes=Spikes(session.spikes.time_ns[unit >= 0], unit[unit >= 0]),
        unit_observed=observed,
        signals=signals,
    )


# ---- speed ----------------------------------------------------------------------------------------------------------


def _time(
    scheme: Scheme,
    session: Session,
    whole: Intervals,
    columns: Mapping[str, np.ndarray],
    windows: Windows,
    seed: int,
    rounds: int,
) -> dict[str, float]:
    """Spikes that are baked, and windows that are cut in batches of 128 at random places, each second."""
    room = (session.stop_ns - session.start_ns - windows.length_ns) // scheme.grid_ns
    places = np.random.default_rng([seed, 2]).integers(0, room + 1, BATCH if len(windows) > 1 else 1)
    batch = Windows(np.zeros(len(places), np.int64), session.start_ns + places * scheme.grid_ns, windows.length_ns)
    bake_s = _median_s(lambda: scheme.bake(session, whole), rounds)
    cut_s = _median_s(lambda: scheme.cut(columns, batch), max(rounds, 20))
    return {"bake_spikes_per_s": len(session.spikes) / bake_s, "cut_windows_per_s": len(batch) / cut_s}


def _median_s(run: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


# ---- picture --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Panel:
    """One measure of the picture. ``name``: the mean that is drawn; ``factor``: to the measure that the title says."""

    title: str
    name: str
    factor: float = 1.0
    log: bool = True
    color: int = 0


PANELS = (
    _Panel("tokens a second", "tokens_per_s"),
    _Panel("bytes a second, baked", "bytes_per_s"),
    _Panel("empty tokens (%)", "empty_share", 100.0, log=False),
    _Panel("timing error (ms): median, and to p99", "timing_error_median_ms", color=1),
    _Panel("spikes without a partner after detokenize (%)", "unmatched_share", 100.0, log=False, color=1),
    _Panel("tokens a window gains with a unit", "tokens_per_unit", log=False, color=2),
    _Panel("tokens a window gains with a spike", "tokens_per_spike", log=False, color=2),
    _Panel("attention of one layer (MFLOP a second), by reader", "", 1e-6, color=3),
    _Panel("bake (million spikes a second)", "bake_spikes_per_s", 1e-6, color=5),
    _Panel("cut (windows of their length a second)", "cut_windows_per_s", color=5),
)


def plot_comparison(comparison: Comparison, out: Path) -> None:
    """One panel a measure, one line a scheme, the value printed at each bar.

    Raises:
        MissingExtraError: matplotlib is not installed. DataError: no scheme can serve any of the sessions.
    """
    matplotlib = require("matplotlib", "plots", "drawing")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = [result for result in comparison.results if result.served]
    if not results:
        message = f"nothing to draw: {comparison.results[0].sessions[0].reason}"
        raise DataError(message)
    n_rows = len(PANELS) // 2
    figure, axes = pyplot.subplots(
        n_rows, 2, sharey=True, figsize=(13, 0.6 + n_rows * (0.8 + 0.24 * len(results))), layout="constrained"
    )
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        _draw_panel(axis, panel, results)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(results)), _labels(comparison, results), fontsize=9, color=INK)
    axes[0, 0].invert_yaxis()
    sessions = [m.session_id for m in results[0].sessions]
    shown = sessions[0] if len(sessions) == 1 else f"mean of {len(sessions)} sessions"
    title = f"{shown}; {comparison.n_windows} stretches of {comparison.window_ns / NS_PER_S:g} s at most"
    refused = [r.scheme.name for r in comparison.results if not r.served]
    figure.suptitle(title + (f"; not served: {', '.join(refused)}" if refused else ""), fontsize=10, color=INK)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def _labels(comparison: Comparison, results: list[SchemeResult]) -> list[str]:
    """Names with the length of their windows where that is another one; what stands more than once gets a number."""
    labels = []
    for result in results:
        window_s = result.mean("window_s")
        own = "" if round(window_s * NS_PER_S) == comparison.window_ns else f", {short(window_s)} s"
        labels.append(result.scheme.name + own)
    return [a if labels.count(a) == 1 else f"{a} ({labels[: k + 1].count(a)})" for k, a in enumerate(labels)]


def _draw_panel(axis, panel: _Panel, results: list[SchemeResult]) -> None:
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    axis.set_title(panel.title + (", log" if panel.log else ""), fontsize=9, loc="left", color=INK)
    if not panel.name:
        found, labels = [max(r.attention.values(), default=0.0) for r in results], [_readers(r) for r in results]
        labels = [label or "no attention" for label in labels]
    else:
        found = [result.mean(panel.name) for result in results]
        labels = [short(_times(v, panel.factor)) for v in found]
    value = [None if v is None else v * panel.factor for v in found]
    ends = [_times(r.mean("timing_error_p99_ms"), panel.factor) for r in results]
    if panel.name != "timing_error_median_ms":
        ends = [None] * len(results)
    place = _scale([v for v in value + ends if v], panel.log)
    color = COLORS[panel.color]
    for k, (v, end, label) in enumerate(zip(value, ends, labels, strict=True)):
        width = place(v)
        axis.barh(k, width, height=0.62, color=color)
        if end:
            axis.plot([width, place(end)], [k, k], color=INK, lw=1.2, marker="|", markevery=[1], ms=7)
            width, label = place(end), f"{label} .. {short(end)}"
        axis.text(max(width, 0.0) + 0.012, k, label, va="center", fontsize=8, color=INK)
    axis.set_xlim(0, 1.45 if panel.name else 2.3)


def _scale(values: list[float], log: bool) -> Callable[[float | None], float]:
    """From a value to a bar's length between 0 and 1; in logarithms from half a decade below the least."""
    most = max(values, default=1.0)
    if not log:
        return lambda v: max(v or 0.0, 0.0) / most
    low = np.log10(min(values, default=1.0)) - 0.5
    span = np.log10(most) - low
    return lambda v: (np.log10(v) - low) / span if v else 0.0


def _readers(result: SchemeResult) -> str:
    """Readers of one cost together: ``NDT1, MtM 1.28``."""
    costs: dict[str, list[str]] = {}
    for reader, flops in sorted(result.attention.items(), key=lambda item: -item[1]):
        if flops:
            costs.setdefault(short(flops / 1e6), []).append(reader)
    return "; ".join(f"{', '.join(readers)} {cost}" for cost, readers in costs.items())
