"""What the way through tokens and back does to spike times: each unit's spikes paired in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiketok.recording.nouns import NS_PER_MS, Signal, Spikes, Stimulus
from spiketok.tokens.schemes.base import Windows


class TimingErrors:
    """What the way through tokens and back does to spike times."""

    def __init__(self) -> None:
        self._errors_ns: list[np.ndarray] = []
        self._true = self._unmatched = 0
        self._of_spikes = True

    def add(self, known: Sequence[Spikes | Signal | Stimulus], spikes: Spikes, windows: Windows) -> None:
        for b, back in enumerate(known):
            if not isinstance(back, Spikes):
                self._of_spikes = False
                return
            start_ns = int(windows.start_ns[b])
            true = spikes.window(start_ns, start_ns + windows.length_ns)
            made = back.window(start_ns, start_ns + windows.length_ns)  # without what is in the history
            errors_ns, unmatched = match_spikes(true, made)
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
