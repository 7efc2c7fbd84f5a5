"""What a stretch of calibration tells of each unit: some numbers, of which a model's row for it can be foretold.

What is unusual:

- a number of a unit is drawn towards that of no tuning at all, the more the fewer its spikes are: thirty seconds of a
  quiet unit say little, and must not look like tuning;
- behaviour stands as the run normalises it, so that tuning means the same in every session;
- nothing depends on the order of the units or of the stretches.

    log rate                  ln((S + 1/2) / (T + 1) bins)
    Fano factor               ln of (variance + 1) / (mean + 1) of counts in ten bins
    coupling                  correlation of the root of its counts with the sum of all others'
    autocorrelation           of the root of its counts, one and five bins on
    tuning, by component      mean behaviour at its spikes less that at all times, in the bin, ten before, ten after
    products of components    the same of their products, in the bin (of up to four components)

Shape letters: T bins, N units, C components of behaviour, F statistics, S spikes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiketok.models.batch import Stretch

SHRINK_SPIKES = 10.0  # so many spikes of no tuning are added to each unit
FANO_BINS = 10
LAG_BINS = (-10, 10)  # behaviour before and after a spike, beside that at the spike
AGAIN_BINS = (1, 5)
MOST_COMPONENTS = 4  # of a behaviour whose products are taken


def unit_statistics(stretches: Sequence[Stretch], name: str, bin_s: float, tasks: Sequence[str] = ()) -> np.ndarray:
    """float64 ``[N, F]``: what the spikes say, and the tuning to each behaviour.

    Args:
        stretches: of calibration time, at least one. name: of the input with the counts. bin_s: its bins, in seconds.
        tasks: whose targets may be read; none where calibration is not labelled.
    """
    counts = [_seen(stretch, name) for stretch in stretches]
    columns = _of_spikes(counts, bin_s)
    for task in tasks:
        columns += _tuning(counts, [(s.target[task].astype(np.float64), s.weight[task]) for s in stretches])
    return np.column_stack(columns)


def _seen(stretch: Stretch, name: str) -> np.ndarray:
    columns = stretch.columns[name]
    seen = columns.get("unit_observed", columns["observed"][:, None]) > 0
    return np.where(seen, columns["counts"], 0).astype(np.float64)


def _of_spikes(counts: Sequence[np.ndarray], bin_s: float) -> list[np.ndarray]:
    total, bins = sum(c.sum(0) for c in counts), sum(len(c) for c in counts)
    rate = (total + 0.5) / ((bins + 1) * bin_s)
    sums = np.concatenate([_summed(c, min(FANO_BINS, len(c))) for c in counts])
    fano = (sums.var(0) + 1.0) / (sums.mean(0) + 1.0)
    root = [np.sqrt(c) for c in counts]
    mean, sd = np.concatenate(root).mean(0), np.maximum(np.concatenate(root).std(0), 1e-9)
    z = [(r - mean) / sd for r in root]
    trust = total / (total + SHRINK_SPIKES)
    whole = np.concatenate(z)
    others = whole.sum(1, keepdims=True) - whole
    others /= np.maximum(others.std(0), 1e-9)
    coupling = (whole * others).mean(0) * trust
    return [np.log(rate), np.log(fano), coupling, *(_again(z, lag) * trust for lag in AGAIN_BINS)]


def _again(z: Sequence[np.ndarray], lag: int) -> np.ndarray:
    """Mean product of what lies ``lag`` bins apart, within each stretch; 0 where none is so long."""
    products = [part[:-lag] * part[lag:] for part in z if len(part) > lag]
    return np.concatenate(products).mean(0) if products else np.zeros(z[0].shape[1])


def _summed(counts: np.ndarray, width: int) -> np.ndarray:
    whole = len(counts) // width * width
    return counts[:whole].reshape(-1, width, counts.shape[1]).sum(1)


def _tuning(counts: Sequence[np.ndarray], behaviour: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    found = [_at_spikes(counts, behaviour, lag) for lag in (0, *LAG_BINS)]
    n = behaviour[0][0].shape[1]
    if n <= MOST_COMPONENTS:
        a, b = np.triu_indices(n)
        found.append(_at_spikes(counts, [(value[:, a] * value[:, b], weight) for value, weight in behaviour], 0))
    return [column for part in found for column in part.T]


def _at_spikes(
    counts: Sequence[np.ndarray], behaviour: Sequence[tuple[np.ndarray, np.ndarray]], lag: int
) -> np.ndarray:
    """``[N, C]``: what the values are ``lag`` bins after a unit's spikes, less what they are at all times."""
    shape = counts[0].shape[1], behaviour[0][0].shape[1]
    sums, spikes, mean, bins = np.zeros(shape), np.zeros(shape[0]), np.zeros(shape[1]), 0.0
    for count, (value, weight) in zip(counts, behaviour, strict=True):
        low, high = max(-lag, 0), len(count) - max(lag, 0)
        if high <= low:
            continue
        known = (weight[low + lag : high + lag] > 0).astype(np.float64)
        own, there = count[low:high] * known[:, None], value[low + lag : high + lag] * known[:, None]
        sums, spikes = sums + own.T @ there, spikes + own.sum(0)
        mean, bins = mean + there.sum(0), bins + known.sum()
    if not bins:
        return np.zeros(shape)
    return (sums - spikes[:, None] * (mean / bins)) / (spikes[:, None] + SHRINK_SPIKES)
