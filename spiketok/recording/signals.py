"""Processing of behaviours: resampling, derivatives, smoothing, masks; each a function Signal -> Signal.

What is unusual: nothing ever reaches over a gap. A *block* is a run of valid samples with steps near the sampling
period; every function works on each block as if there were no other, so that two blocks give what each gives alone.
What cannot be known inside a block (the derivative of a single sample) becomes not valid; samples that are not valid
hold 0. Computed in float64, kept as float32.

How a function is asked for on the command line, and recorded in a store's settings, is in ``steps``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Signal

TOLERANCE = 0.5  # a step further than this share of the period from it is a gap

# The low-pass of resample: a sinc under a Kaiser window (beta 8: the stop band is 80 dB down). With 16 zero crossings
# to each side its transition is 0.32 of the cutoff wide; a cutoff of 0.84 of the new Nyquist frequency puts all of it
# below, so that nothing folds back.
ZERO_CROSSINGS, KAISER_BETA, CUTOFF = 16, 8.0, 0.84
PHASE_STEPS = 10**6  # positions between two samples are rounded to this, so that a regular grid has few phases
MOST_PHASES = 64
CHUNK_VALUES = 2**22  # of weights at a time
JITTER = 0.01  # of a period: stamps further than this from a regular grid are not taken for one
GAUSSIAN_REACH = 4.0  # standard deviations to each side, as scipy's gaussian_filter1d
EXPONENTIAL_REACH = 10.0  # time constants after which a sample weighs less than 5e-5


# ---- blocks ---------------------------------------------------------------------------------------------------------


def sampling_period_ns(signal: Signal) -> float:
    """The sampling period: of the declared rate, else the median step; 0 where it cannot be known."""
    if signal.rate_hz is not None:
        return NS_PER_S / signal.rate_hz
    return float(np.median(np.diff(signal.time_ns))) if signal.time_ns.size > 1 else 0.0


def _runs(time_ns: np.ndarray, good: np.ndarray, period_ns: float) -> tuple[np.ndarray, np.ndarray]:
    """First row, and the row after the last, of each run of good samples whose steps are near the period."""
    step = np.diff(time_ns)
    near = np.abs(step - period_ns) <= TOLERANCE * period_ns
    linked = good[1:] & good[:-1] & near
    first = np.flatnonzero(good & ~np.concatenate([[False], linked])) if good.size else np.zeros(0, np.int64)
    last = np.flatnonzero(good & ~np.concatenate([linked, [False]])) if good.size else np.zeros(0, np.int64)
    return first, last + 1


def contiguous_blocks(signal: Signal) -> Intervals:
    """The blocks of a signal: runs of valid samples whose steps are within half a period of the period.

    Returns:
        ``[first sample, last sample + period)`` of each (never beyond the next sample), with the columns
        ``first_index`` and ``stop_index``: the block's rows.
    """
    period_ns = sampling_period_ns(signal)
    first, stop = _runs(signal.time_ns, signal.valid, period_ns)
    end = signal.time_ns[stop - 1] + max(1, round(period_ns))
    following = np.append(signal.time_ns, np.iinfo(np.int64).max)[stop] if first.size else end
    columns = {"first_index": first.astype(np.int64), "stop_index": stop.astype(np.int64)}
    return Intervals(signal.time_ns[first], np.minimum(end, following), columns)


def _rebuilt(signal: Signal, value: np.ndarray, valid: np.ndarray, **changes: object) -> Signal:
    """The signal with other values; what float32 cannot hold is not valid, and what is not valid is 0."""
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    valid = valid & np.isfinite(value).all(axis=1)
    return replace(signal, value=np.where(valid[:, None], value, np.float32(0)), valid=valid, **changes)


def _by_block(signal: Signal, change: Callable[[np.ndarray, np.ndarray], np.ndarray | None]) -> Signal:
    """The signal with ``change(seconds, value)`` done to each block (float64 ``[n]``, ``[n, C]``); None: not valid."""
    value, valid = np.zeros(signal.value.shape), np.zeros(signal.valid.shape, np.bool_)
    for first, stop in zip(*_runs(signal.time_ns, signal.valid, sampling_period_ns(signal)), strict=True):
        seconds = (signal.time_ns[first:stop] - signal.time_ns[first]) / NS_PER_S
        changed = change(seconds, signal.value[first:stop].astype(np.float64))
        if changed is not None:
            value[first:stop], valid[first:stop] = changed, True
    return _rebuilt(signal, value, valid)


def _need_period(signal: Signal, doing: str) -> float:
    period_ns = sampling_period_ns(signal)
    if period_ns <= 0:
        message = f"{doing} needs a sampling period: the signal has {signal.time_ns.size} samples and no declared rate"
        raise DataError(message)
    return period_ns


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        message = f"{name} is {value:g}, must be a number above 0"
        raise UsageError(message)


# ---- resampling -----------------------------------------------------------------------------------------------------


def grid_ns(start_ns: int, stop_ns: int, rate_hz: float) -> np.ndarray:
    """The times ``rint(k * 1e9 / rate_hz)`` ns, k whole, in ``[start_ns, stop_ns]``; none drifts."""
    rate = Fraction(rate_hz).limit_denominator(10**6)
    num, den = NS_PER_S * rate.denominator, rate.numerator  # k * num / den ns
    low, high = (start_ns * den) // num - 1, (stop_ns * den) // num + 2
    if max(abs(low), abs(high)) * 2 * num < 2**63:
        time_ns = (2 * num * np.arange(low, high, dtype=np.int64) + den) // (2 * den)
    else:  # beyond int64: Python's own integers
        time_ns = np.array([(2 * num * k + den) // (2 * den) for k in range(low, high)], np.int64)
    return time_ns[(time_ns >= start_ns) & (time_ns <= stop_ns)]


def _weights(phase: np.ndarray, offset: np.ndarray, cutoff: float) -> np.ndarray:
    """The low-pass's weights ``[P, taps]`` of the samples at ``offset`` from the one before a position.

    A sinc under a Kaiser window, then corrected so that a constant and a ramp come out as themselves at every phase.

    Args:
        phase: whole ``[P]``, the distance from that sample in ``1 / PHASE_STEPS`` of a sample.
        offset: whole ``[taps]``.
        cutoff: as a share of the source's Nyquist frequency.
    """
    distance = offset - (phase / PHASE_STEPS)[:, None]
    inside = np.maximum(0.0, 1 - (distance * cutoff / ZERO_CROSSINGS) ** 2)
    window = np.i0(KAISER_BETA * np.sqrt(inside)) * (inside > 0)
    weight = cutoff * np.sinc(cutoff * distance) * window / np.i0(KAISER_BETA)
    # taken away is (a + b * distance) * window, smooth enough to touch slow movements only, such that the weights sum
    # to 1 and have their centre at the position
    sums = [(window * distance**k).sum(axis=1) for k in range(3)]
    excess, centre = weight.sum(axis=1) - 1, (weight * distance).sum(axis=1)
    determinant = sums[0] * sums[2] - sums[1] ** 2
    a = (excess * sums[2] - centre * sums[1]) / determinant
    b = (centre * sums[0] - excess * sums[1]) / determinant
    return weight - (a[:, None] + b[:, None] * distance) * window


def _filtered_at(value: np.ndarray, position: np.ndarray, cutoff: float) -> np.ndarray:
    """Low-passed ``value [n, C]`` at these positions, float64 in samples within 0..n-1, rising.

    No ringing at the edges: the block goes on past its first and last sample reflected through that point, without a
    jump in value or slope. A constant or a ramp comes out as itself, up to the last sample.
    """
    if len(value) == 1:
        return np.repeat(value, position.size, axis=0)
    reach = math.ceil(ZERO_CROSSINGS / cutoff)
    around = np.pad(value, ((reach, reach + 1), (0, 0)), mode="reflect", reflect_type="odd")
    base, phase = np.divmod(np.rint(position * PHASE_STEPS).astype(np.int64), PHASE_STEPS)
    phases, which = np.unique(phase, return_inverse=True)
    offset = np.arange(-reach, reach + 2)
    out = np.empty((position.size, value.shape[1]))
    if phases.size <= MOST_PHASES:  # the grid is in a simple ratio to the samples
        for row, weight in enumerate(_weights(phases, offset, cutoff)):
            rows_of_phase = np.flatnonzero(which == row)
            out[rows_of_phase] = _at_stride(around, weight, base[rows_of_phase])
        return out
    rows = max(1, CHUNK_VALUES // offset.size)
    for low in range(0, position.size, rows):
        part = slice(low, low + rows)
        near = around[base[part, None] + (offset + reach)]  # [rows, taps, C]
        out[part] = np.einsum("kt,ktc->kc", _weights(phase[part], offset, cutoff), near)
    return out


def _at_stride(around: np.ndarray, weight: np.ndarray, base: np.ndarray) -> np.ndarray:
    """``sum_t weight[t] * around[base + t]`` for bases that are mostly one distance apart."""
    from scipy.signal import upfirdn

    out = np.empty((base.size, around.shape[1]))
    step = np.diff(base)
    stride = int(np.median(step)) if step.size else 1
    begins = np.concatenate([[0], np.flatnonzero(step != stride) + 1, [base.size]])
    for low, high in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        ahead = -(weight.size - 1) % stride  # so that the first full sum is one of those that are taken
        stretch = around[base[low] : base[high - 1] + weight.size]
        padded = np.concatenate([np.zeros((ahead, around.shape[1])), stretch])
        skip = (weight.size - 1 + ahead) // stride
        out[low:high] = upfirdn(weight[::-1], padded, down=stride, axis=0)[skip : skip + high - low]
    return out


def _regular(time_ns: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, float]:
    """A block's values at equal distances from its first to its last sample, and that distance in ns.

    If stamps are off such a grid by more than a hundredth of it, values are taken from the lines between samples.
    """
    if time_ns.size == 1:
        return value, 1.0
    since = (time_ns - time_ns[0]).astype(np.float64)
    step = since[-1] / (since.size - 1)
    even = np.arange(since.size) * step
    if np.abs(since - even).max() <= JITTER * step:
        return value, step
    return np.stack([np.interp(even, since, column) for column in value.T], axis=1), step


def resample(signal: Signal, rate_hz: float) -> Signal:
    """The signal on the grid ``rint(k * 1e9 / rate_hz)`` ns from time zero, whatever the phase of its own samples.

    Polyphase: one set of weights for each distance between grid and samples. To a lower rate a low-pass first removes
    what is above the new Nyquist frequency (by 80 dB; what lies below 0.68 of it is kept to 1e-3); to a higher or equal
    one the samples are interpolated (a sample that lies on the grid stays). Edges of a block do not ring, see
    :func:`_filtered_at`; its very first and last sample are kept as they are, so there nothing is removed.
    Grid times in a gap of the source's times get no sample, those between samples that are not valid one that is not.

    Args:
        signal: where its stamps jitter, straight lines first lay each block on equal distances, see :func:`_regular`.
        rate_hz: the new rate.

    Raises:
        UsageError: the rate is not above 0. DataError: the signal has one sample and no declared rate.
    """
    _positive("rate_hz", rate_hz)
    if not signal.time_ns.size:
        return replace(signal, rate_hz=rate_hz)
    period_ns = _need_period(signal, f"resampling to {rate_hz:g} Hz")
    ratio = rate_hz * period_ns / NS_PER_S
    cutoff = CUTOFF * ratio if ratio < 1 - 1e-9 else 1.0
    times, values, valids = [], [], []
    every = np.ones(signal.time_ns.size, np.bool_)
    for begin, end in zip(*_runs(signal.time_ns, every, period_ns), strict=True):
        time_ns, valid = signal.time_ns[begin:end], signal.valid[begin:end]
        grid = grid_ns(int(time_ns[0]), int(time_ns[-1]), rate_hz)
        value, known = np.zeros((grid.size, signal.value.shape[1])), np.zeros(grid.size, np.bool_)
        for first, stop in zip(*_runs(time_ns, valid, period_ns), strict=True):
            block_ns = time_ns[first:stop]
            low, high = np.searchsorted(grid, block_ns[0]), np.searchsorted(grid, block_ns[-1], side="right")
            block, step = _regular(block_ns, signal.value[begin + first : begin + stop].astype(np.float64))
            position = np.minimum((grid[low:high] - block_ns[0]) / step, block_ns.size - 1)
            value[low:high], known[low:high] = _filtered_at(block, position, cutoff), True
        times.append(grid)
        values.append(value)
        valids.append(known)
    grid, value, valid = np.concatenate(times), np.concatenate(values), np.concatenate(valids)
    return _rebuilt(signal, value, valid, time_ns=grid, rate_hz=rate_hz)


# ---- derivatives and smoothing --------------------------------------------------------------------------------------


def derived_measure(measure: str) -> str:
    """The measure of the derivative: ``"mm"`` -> ``"mm/s"`` -> ``"mm/s^2"``; unknown stays unknown."""
    if not measure:
        return ""
    match = re.fullmatch(r"(.+)/s(?:(?:\^|\*\*)?([0-9]+))?", measure)
    if match is None:
        return f"{measure}/s"
    return f"{match[1]}/s^{int(match[2] or 1) + 1}"


def derivative(signal: Signal, order: int = 1) -> Signal:
    """The derivative by central differences over the samples' own times, one-sided at the ends of a block.

    A block of one sample has none and becomes not valid.

    Raises:
        UsageError: the order is not 1, 2, 3 or 4.
    """
    if order not in (1, 2, 3, 4):
        message = f"derivative of order {order}, must be 1, 2, 3 or 4"
        raise UsageError(message)

    def change(seconds: np.ndarray, value: np.ndarray) -> np.ndarray | None:
        if len(value) < 2:
            return None
        for _ in range(order):
            value = np.gradient(value, seconds, axis=0)
        return value

    measure = signal.measure
    for _ in range(order):
        measure = derived_measure(measure)
    return replace(_by_block(signal, change), measure=measure)


def smooth_gaussian(signal: Signal, sigma_ms: float) -> Signal:
    """Smoothed with a Gaussian (4 standard deviations to each side); at the ends of a block it is reflected there.

    Raises:
        UsageError: sigma is not above 0. DataError: the sampling period is not known.
    """
    from scipy.ndimage import gaussian_filter1d

    _positive("sigma_ms", sigma_ms)
    if not signal.time_ns.size:
        return signal
    sigma = sigma_ms * NS_PER_MS / _need_period(signal, "smoothing")

    def change(_seconds: np.ndarray, value: np.ndarray) -> np.ndarray:
        return gaussian_filter1d(value, sigma, axis=0, mode="reflect", truncate=GAUSSIAN_REACH)

    return _by_block(signal, change)


def smooth_causal_exponential(signal: Signal, tau_ms: float) -> Signal:
    """Smoothed by ``y = a * y_before + (1 - a) * x`` with ``a = exp(-period / tau)``: no value knows of a later sample.

    A block begins with its own first sample.

    Raises:
        UsageError: tau is not above 0. DataError: the sampling period is not known.
    """
    from scipy.signal import lfilter

    _positive("tau_ms", tau_ms)
    if not signal.time_ns.size:
        return signal
    keep = math.exp(-_need_period(signal, "smoothing") / (tau_ms * NS_PER_MS))

    def change(_seconds: np.ndarray, value: np.ndarray) -> np.ndarray:
        rest = value - value[0]  # starts at 0, so a constant stays one to the last bit
        return lfilter([1 - keep], [1, -keep], rest, axis=0) + value[0]

    return _by_block(signal, change)


# ---- masks ----------------------------------------------------------------------------------------------------------


def _without(signal: Signal, out: np.ndarray) -> Signal:
    return _rebuilt(signal, signal.value, signal.valid & ~out)


def mask_outliers(
    signal: Signal, limit: float | None = None, norm: float | None = None, quantile: float | None = None
) -> Signal:
    """The signal without its outliers: they become not valid. Exactly one of the rules is given.

    Args:
        signal: the signal.
        limit: out is what has a component beyond this, either sign, in the signal's measure.
        norm: out is what is longer than this as a vector.
        quantile: out is what has a component beyond this quantile of that component's absolute values.

    Raises:
        UsageError: no rule or several, a limit below 0, or a quantile outside of 0..1.
    """
    rules = {
        name: rule for name, rule in (("limit", limit), ("norm", norm), ("quantile", quantile)) if rule is not None
    }
    if len(rules) != 1:
        message = f"mask_outliers: got {', '.join(rules) or 'no rule'}, expected one of limit, norm, quantile"
        raise UsageError(message)
    ((name, rule),) = rules.items()
    if not 0 <= rule <= (1 if name == "quantile" else math.inf):
        message = (
            f"mask_outliers: {name} is {rule:g}, must be at least 0{' and at most 1' if name == 'quantile' else ''}"
        )
        raise UsageError(message)
    size = np.abs(signal.value.astype(np.float64))
    if norm is not None:
        return _without(signal, np.linalg.norm(size, axis=1) > norm)
    if quantile is not None and signal.valid.any():
        return _without(signal, (size > np.quantile(size[signal.valid], quantile, axis=0)).any(axis=1))
    return signal if limit is None else _without(signal, (size > limit).any(axis=1))


def mask_still(signal: Signal, below: float, longer_than_s: float) -> Signal:
    """The signal without its still periods: runs inside a block, longer than this, in which it is shorter than that.

    Args:
        signal: a velocity (or any signal whose length as a vector is the movement).
        below: still is what is shorter as a vector, in the signal's measure.
        longer_than_s: a run of n samples lasts n periods; shorter runs stay.

    Raises:
        UsageError: an argument is not above 0. DataError: the sampling period is not known.
    """
    _positive("below", below)
    _positive("longer_than_s", longer_than_s)
    if not signal.time_ns.size:
        return signal
    period_ns = _need_period(signal, "finding still periods")
    slow = signal.valid & (np.linalg.norm(signal.value.astype(np.float64), axis=1) < below)
    out = np.zeros(slow.size, np.bool_)
    for first, stop in zip(*_runs(signal.time_ns, slow, period_ns), strict=True):
        lasts_ns = signal.time_ns[stop - 1] - signal.time_ns[first] + period_ns
        out[first:stop] = lasts_ns > longer_than_s * NS_PER_S
    return _without(signal, out)


FUNCTIONS: dict[str, Callable[..., Signal]] = {
    f.__name__: f for f in (resample, derivative, smooth_gaussian, smooth_causal_exponential, mask_outliers, mask_still)
}
