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

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from spiketok.errors import NotServedError, UsageError
from spiketok.notes import note_once
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.tokens.compare.attention import ATTENTION, Lengths, attention_flops, without_formula
from spiketok.tokens.compare.growth import growth
from spiketok.tokens.compare.picture import plot_comparison
from spiketok.tokens.compare.results import Comparison, Measured, SchemeResult
from spiketok.tokens.compare.timing_error import TimingErrors, match_spikes
from spiketok.tokens.compare.windows import BATCH, WHOLE_SESSION, TooShortError, batches, choose_stretches, lay_windows
from spiketok.tokens.schemes import SCHEMES, Scheme
from spiketok.tokens.schemes.base import Tokens, Windows

__all__ = [
    "ATTENTION",
    "Comparison",
    "Lengths",
    "Measured",
    "SchemeResult",
    "attention_flops",
    "compare",
    "match_spikes",
    "plot_comparison",
]


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
        stretches = choose_stretches(session, window_ns, n_windows, seed)
        for scheme, of_scheme in zip(schemes, measured, strict=True):
            try:
                of_scheme.append(_measure(scheme, session, stretches, window_ns, seed, rounds))
            except (NotServedError, TooShortError) as refusal:
                of_scheme.append(Measured(session.id, {}, {}, str(refusal)))
    if not schemes or not measured[0]:
        message = (
            f"{len(schemes)} schemes on {len(measured[0]) if schemes else 0} sessions: there is nothing to compare"
        )
        raise UsageError(message)
    results = [SchemeResult(scheme, of_scheme) for scheme, of_scheme in zip(schemes, measured, strict=True)]
    return Comparison(window_ns, n_windows, seed, results)


def _measure(
    scheme: Scheme, session: Session, stretches: np.ndarray, window_ns: int, seed: int, rounds: int
) -> Measured:
    whole = Intervals([session.start_ns], [session.stop_ns])
    baked = scheme.bake(session, whole)
    windows = lay_windows(scheme, session, stretches, window_ns)
    seconds, window_s = (session.stop_ns - session.start_ns) / NS_PER_S, windows.length_ns / NS_PER_S
    n_tokens, n_current, n_empty, errors = [], [], 0, TimingErrors()
    for batch in batches(windows):
        tokens = scheme.cut(baked.columns, batch)
        n_tokens.append(np.diff(tokens.offset))
        n_current.append(_current_tokens(tokens))
        n_empty += int(scheme.empty(tokens).sum())
        errors.add(scheme.detokenize(tokens, batch), session.spikes, batch)
    bins = windows.length_ns // scheme.grid_ns if scheme.grid_ns > 1 else 0
    lengths = Lengths(np.concatenate(n_tokens), np.concatenate(n_current), len(session.units), bins)
    total = int(lengths.tokens.sum())
    readers = () if scheme.name in WHOLE_SESSION else scheme.readers
    unknown = without_formula(readers)
    if unknown:
        told = (SCHEMES.origin(scheme.name) if scheme.name in SCHEMES else None) or scheme.name
        names = ", ".join(unknown)
        note_once(f"{told} is read by {names}, of which no formula of attention is known: it is left out")
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
        **growth(scheme, session, windows, lengths, seed),
        "attention_flops_per_s": {
            reader: attention_flops(reader, lengths) / window_s for reader in readers if reader not in unknown
        },
    }
    return Measured(session.id, facts, _time(scheme, session, whole, baked.columns, windows, seed, rounds))


def _current_tokens(tokens: Tokens) -> np.ndarray:
    """int64 ``[B]``: tokens of the windows themselves, without those of their history (event pairs)."""
    if "stream" not in tokens.columns:
        return np.diff(tokens.offset)
    before = np.concatenate([[0], np.cumsum(tokens.columns["stream"], dtype=np.int64)])
    return np.diff(before[tokens.offset])


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
