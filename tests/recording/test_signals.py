"""Processing: against scipy and formulas; nothing reaches over a gap, and nothing is lost without being counted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.signal import resample_poly

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording import signals
from spiketok.recording.nouns import Signal
from spiketok.recording.signals import (
    FUNCTIONS,
    contiguous_blocks,
    derivative,
    derived_measure,
    grid_ns,
    mask_outliers,
    mask_still,
    resample,
    smooth_causal_exponential,
    smooth_gaussian,
)
from spiketok.recording.steps import apply_steps, check_step, parse_step, reach_ns, step_text
from tests.made import MS, SECOND, random_session


def signal(time_ns, value, valid=None, rate_hz=None, measure="mm") -> Signal:
    value = np.asarray(value, np.float32)
    value = value[:, None] if value.ndim == 1 else value
    valid = np.ones(len(value), np.bool_) if valid is None else np.asarray(valid, np.bool_)
    names = tuple("xyz"[: value.shape[1]])
    return Signal(np.asarray(time_ns, np.int64), np.where(valid[:, None], value, 0), names, measure, valid, rate_hz)


def regular(n: int, value, step_ns: int = MS, start_ns: int = 0) -> Signal:
    time_ns = start_ns + np.arange(n) * step_ns
    return signal(time_ns, value(time_ns / SECOND) if callable(value) else value)


def sine(hz: float):
    return lambda t: np.sin(2 * np.pi * hz * t)


STEPS = {
    "resample": {"rate_hz": 130.0},
    "derivative": {"order": 1},
    "smooth_gaussian": {"sigma_ms": 25.0},
    "smooth_causal_exponential": {"tau_ms": 40.0},
    "mask_outliers": {"limit": 40.0},
    "mask_still": {"below": 20.0, "longer_than_s": 0.025},
}


@st.composite
def gappy(draw, n_blocks: int | None = None) -> Signal:
    """Blocks at 100 Hz, some of one sample, apart by time or by samples that are not valid; perhaps jittered."""
    n_blocks = draw(st.integers(1, 4)) if n_blocks is None else n_blocks
    jitter = draw(st.sampled_from([0, 0, 10_000, 2 * MS]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start, times, valid = draw(st.integers(-50, 50)) * MS + draw(st.sampled_from([0, 1, 333_333])), [], []
    for _ in range(n_blocks):
        n = draw(st.sampled_from([1, 2, 3, 7, 40]))
        times.append(start + np.arange(n) * 10 * MS + rng.integers(-jitter, jitter + 1, n))
        valid.append(np.ones(n, np.bool_))
        gap = draw(st.integers(2, 30))
        if draw(st.booleans()):
            times.append(start + (n + np.arange(gap)) * 10 * MS)
            valid.append(np.zeros(gap, np.bool_))
        start += (n + gap) * 10 * MS
    time_ns = np.concatenate(times)
    return signal(time_ns, rng.normal(0, 30, (time_ns.size, 2)), np.concatenate(valid), 100.0)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def test_blocks_by_hand():
    time_ns = np.array([0, 10, 20, 31, 60, 70, 80, 90, 93, 103]) * MS
    found = contiguous_blocks(signal(time_ns, np.zeros(10), [1, 1, 1, 1, 1, 1, 0, 1, 1, 1]))
    assert found.columns["first_index"].tolist() == [0, 4, 7, 8]
    assert found.columns["stop_index"].tolist() == [4, 6, 8, 10]
    assert found.start_ns.tolist() == [0, 60 * MS, 90 * MS, 93 * MS]
    assert found.stop_ns.tolist() == [41 * MS, 80 * MS, 93 * MS, 113 * MS]  # never beyond the next sample


@given(gappy())
def test_blocks_hold_every_valid_sample_once(one):
    found = contiguous_blocks(one)
    rows = [
        r for a, b in zip(found.columns["first_index"], found.columns["stop_index"], strict=True) for r in range(a, b)
    ]
    assert rows == np.flatnonzero(one.valid).tolist()
    assert (found.start_ns[1:] >= found.stop_ns[:-1]).all()
    step = np.diff(one.time_ns)
    for first in found.columns["first_index"].tolist():  # a block begins where the sample before does not join
        assert first == 0 or not one.valid[first - 1] or abs(step[first - 1] - 10 * MS) > 5 * MS


# ---- laws of all functions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
@given(one=gappy())
def test_a_block_knows_of_no_other(name, one):
    """Each block alone gives the same bytes as the whole signal does there."""
    done = FUNCTIONS[name](one, **STEPS[name])
    found = contiguous_blocks(one)
    for first, stop in zip(found.columns["first_index"], found.columns["stop_index"], strict=True):
        rows = slice(first, stop)
        alone = FUNCTIONS[name](
            Signal(one.time_ns[rows], one.value[rows], one.components, one.measure, one.valid[rows], one.rate_hz),
            **STEPS[name],
        )
        here = (done.time_ns >= one.time_ns[first]) & (done.time_ns <= one.time_ns[stop - 1])
        np.testing.assert_array_equal(done.time_ns[here], alone.time_ns)
        np.testing.assert_array_equal(done.value[here], alone.value)
        np.testing.assert_array_equal(done.valid[here], alone.valid)


@pytest.mark.parametrize("name", STEPS)
@given(one=gappy(), level=st.floats(-30, 30, width=32))
def test_constants_stay_and_validity_is_accounted_for(name, one, level):
    flat = replace(one, value=np.where(one.valid[:, None], np.float32(level), np.float32(0)) + np.zeros_like(one.value))
    done = FUNCTIONS[name](flat, **STEPS[name])
    if name == "derivative":
        np.testing.assert_allclose(done.value, 0, atol=1e-4)
        blocks = contiguous_blocks(one).columns
        size = blocks["stop_index"] - blocks["first_index"]
        assert done.valid.sum() == size[size > 1].sum()
    elif name == "resample":
        np.testing.assert_allclose(done.value[done.valid], np.float32(level), rtol=2e-6, atol=1e-6)
        grid = grid_ns(int(one.time_ns[0]), int(one.time_ns[-1]), 130.0)
        assert np.isin(done.time_ns, grid).all()
        blocks = contiguous_blocks(one)
        last = one.time_ns[blocks.columns["stop_index"] - 1]
        inside = [((grid >= a) & (grid <= b)) for a, b in zip(blocks.start_ns, last, strict=True)]
        np.testing.assert_array_equal(done.time_ns[done.valid], grid[np.any(inside, axis=0)])
    elif name.startswith("smooth"):
        np.testing.assert_allclose(done.value[done.valid], np.float32(level), rtol=2e-6, atol=1e-6)
        np.testing.assert_array_equal(done.valid, one.valid)
    else:
        assert not (done.valid & ~one.valid).any()
        np.testing.assert_array_equal(done.value[done.valid], flat.value[done.valid])
    assert not done.value[~done.valid].any()


@given(one=gappy(), slope=st.floats(-100, 100, width=32))
def test_ramps_stay_ramps(one, slope):
    seconds = one.time_ns / SECOND
    ramp = signal(one.time_ns, (slope * seconds)[:, None] + [0, 1], one.valid, 100.0)
    off = 2e-5 * max(1, abs(slope))
    if (np.diff(one.time_ns) % (10 * MS)).any():  # a stamp may be a hundredth of the period off: so far a value moves
        off += 3 * signals.JITTER * 0.01 * abs(slope)
    for rate_hz in (35.0, 100.0, 130.0, 1000.0):
        done = resample(ramp, rate_hz)
        expected = slope * done.time_ns[done.valid] / SECOND
        np.testing.assert_allclose(done.value[done.valid, 0], expected, atol=off)
    speed = derivative(ramp)
    np.testing.assert_allclose(speed.value[speed.valid], slope, atol=0.02 + 1e-3 * abs(slope))


# ---- against scipy and formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("up", "down"), [(1, 10), (3, 7), (5, 2), (1, 1)])
def test_resample_is_scipys_polyphase(up, down):
    """The same taps through scipy.signal.resample_poly give the same inner samples."""
    one = regular(4000, np.random.default_rng(0).normal(size=4000))
    cutoff = signals.CUTOFF * up / down if up < down else 1.0
    reach = math.ceil(signals.ZERO_CROSSINGS / cutoff)
    place = np.arange(-reach * up, reach * up + 1) / up
    inside = np.sqrt(np.maximum(0, 1 - (place * cutoff / signals.ZERO_CROSSINGS) ** 2))
    taps = cutoff * np.sinc(cutoff * place) * np.i0(8.0 * inside) / np.i0(8.0)
    theirs = resample_poly(one.value[:, 0].astype(np.float64), up, down, window=taps / taps.sum())
    ours = resample(one, 1000 * up / down)
    assert len(ours.time_ns) <= len(theirs)
    inner = slice(len(theirs) // 10, -len(theirs) // 10)
    np.testing.assert_allclose(ours.value[inner, 0], theirs[: len(ours.time_ns)][inner], atol=3e-4)
    np.testing.assert_array_equal(ours.time_ns, np.rint(np.arange(len(ours.time_ns)) * 1e6 * down / up))


@pytest.mark.parametrize("shift_ns", [0, 1, 333_333])
def test_resample_keeps_slow_and_removes_fast(shift_ns):
    slow, fast = (resample(regular(20_000, sine(hz), start_ns=shift_ns), 100.0) for hz in (5.0, 55.0))
    inner = slice(50, -50)
    np.testing.assert_allclose(slow.value[:, 0], sine(5.0)(slow.time_ns / SECOND), atol=1e-3)  # edges too
    assert np.abs(fast.value[inner]).max() < 1e-3
    assert np.abs(regular(20_000, sine(55.0)).value[::10]).max() > 0.9  # what plain decimation would let through
    assert slow.rate_hz == 100.0
    assert (slow.time_ns % (10 * MS) == 0).all()


def test_resample_with_jittered_stamps():
    rng = np.random.default_rng(1)
    time_ns = np.arange(5000) * MS + rng.integers(-200_000, 200_000, 5000)
    one = signal(time_ns, sine(3.0)(time_ns / SECOND))
    for rate_hz in (100.0, 2000.0):
        done = resample(one, rate_hz)
        np.testing.assert_allclose(done.value[:, 0], sine(3.0)(done.time_ns / SECOND), atol=1e-3)


def test_resample_by_stride_and_by_chunks_agree(monkeypatch):
    one = regular(3000, np.random.default_rng(2).normal(size=(3000, 2)))
    fast = resample(one, 300.0)
    monkeypatch.setattr(signals, "MOST_PHASES", 0)
    monkeypatch.setattr(signals, "CHUNK_VALUES", 1000)
    np.testing.assert_allclose(resample(one, 300.0).value, fast.value, atol=1e-6)


def test_resample_leaves_what_is_on_the_grid():
    one = regular(300, np.random.default_rng(3).normal(size=300))
    np.testing.assert_array_equal(resample(one, 1000.0).value, one.value)
    np.testing.assert_allclose(resample(one, 2000.0).value[::2], one.value, atol=1e-6)


@given(st.integers(-(10**13), 10**13), st.integers(0, 10**9), st.sampled_from([30.0, 1000.0, 24414.0625, 0.25, 59.94]))
def test_grid_is_exact(start, length, rate_hz):
    from fractions import Fraction

    period = SECOND / Fraction(rate_hz).limit_denominator(10**6)
    grid = grid_ns(start, start + length, rate_hz)
    index = [round(Fraction(int(t)) / period) for t in grid.tolist()]
    assert index == list(range(index[0], index[0] + len(index))) if index else length < period
    assert all(abs(int(t) - k * period) <= Fraction(1, 2) for t, k in zip(grid.tolist(), index, strict=True))
    assert abs(len(grid) * period - length) <= period


def test_derivative_is_numpys_gradient():
    rng = np.random.default_rng(4)
    time_ns = np.arange(200) * 10 * MS + rng.integers(-2 * MS, 2 * MS, 200)
    one = signal(time_ns, rng.normal(size=(200, 2)))
    expected = np.gradient(one.value.astype(np.float64), time_ns / SECOND, axis=0)
    np.testing.assert_allclose(derivative(one).value, expected, rtol=1e-5)
    twice = derivative(one, 2)
    np.testing.assert_allclose(twice.value, np.gradient(expected, time_ns / SECOND, axis=0), rtol=1e-4)
    assert (derivative(one).measure, twice.measure, derivative(twice).measure) == ("mm/s", "mm/s^2", "mm/s^3")
    assert [derived_measure(m) for m in ("", "m/s", "m/s**2", "m/s2", "a.u.")] == [
        "",
        "m/s^2",
        "m/s^3",
        "m/s^3",
        "a.u./s",
    ]


def test_smoothing_is_scipys_and_the_formula():
    one = regular(500, np.random.default_rng(5).normal(size=500), step_ns=20 * MS)
    expected = gaussian_filter1d(one.value[:, 0].astype(np.float64), 2.5)
    np.testing.assert_allclose(smooth_gaussian(one, 50.0).value[:, 0], expected, atol=1e-6)
    keep, level, expected = math.exp(-20 / 240), float(one.value[0, 0]), []
    for x in one.value[:, 0].tolist():
        level = keep * level + (1 - keep) * x
        expected.append(level)
    done = smooth_causal_exponential(one, 240.0)
    np.testing.assert_allclose(done.value[:, 0], expected, atol=1e-6)
    later = replace(one, value=np.where(np.arange(500)[:, None] < 300, one.value, np.float32(9)))
    np.testing.assert_array_equal(smooth_causal_exponential(later, 240.0).value[:300], done.value[:300])


def test_masks_by_hand():
    one = signal(np.arange(6) * 10 * MS, [[3, 4], [0, 5.5], [-6, 0], [1, 1], [0, 0], [2, 2]], [1, 1, 1, 0, 1, 1])
    assert mask_outliers(one, limit=5).valid.tolist() == [True, False, False, False, True, True]
    assert mask_outliers(one, norm=4.9).valid.tolist() == [False, False, False, False, True, True]
    assert mask_outliers(one, quantile=1).valid.tolist() == one.valid.tolist()
    assert mask_outliers(one, quantile=0.7).valid.sum() < one.valid.sum()
    still = signal(np.arange(9) * 10 * MS, [5, 0, 0, 0, 5, 0, 0, 5, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1], 100.0)
    assert mask_still(still, 1, 0.0299).valid.tolist() == [True, False, False, False, True, True, True, True, True]
    assert mask_still(still, 1, 0.03).valid.all()  # longer than, not as long as


def test_what_float32_cannot_hold_is_not_valid():
    done = derivative(signal([0, 1, 2], [0, 3e38, 3e38]))
    assert done.valid.tolist() == [False, False, True]
    assert done.value.tolist() == [[0], [0], [0]]


def test_a_signal_without_a_period():
    lone = signal([5], [1.0])
    for name, arguments in STEPS.items():
        if name in ("derivative", "mask_outliers"):
            continue
        with pytest.raises(DataError, match="needs a sampling period: the signal has 1 samples"):
            FUNCTIONS[name](lone, **arguments)
    assert not derivative(lone).valid.any()
    assert resample(replace(lone, rate_hz=1000.0, time_ns=np.array([MS])), 500.0).time_ns.tolist() == []


# ---- steps as data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "function", "arguments"),
    [
        ("v=derivative(p)", "derivative", {}),
        (" hand/vel = derivative( hand pos , 2 ) ", "derivative", {"order": 2}),
        ("v=resample(p, 1khz)", "resample", {"rate_hz": 1000.0}),
        ("v=smooth_gaussian(p,0.05s)", "smooth_gaussian", {"sigma_ms": 50.0}),
        ("v=mask_still(p, below=10, longer_than_s=500ms)", "mask_still", {"below": 10.0, "longer_than_s": 0.5}),
        ("v=mask_outliers(p, quantile=.999)", "mask_outliers", {"quantile": 0.999}),
    ],
)
def test_steps_are_read_and_written(text, function, arguments):
    step = parse_step(text)
    assert (step["function"], step["arguments"]) == (function, pytest.approx(arguments))
    assert json.loads(json.dumps(step)) == step
    assert parse_step(step_text(step)) == step


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("derivative(p)", UsageError, r"must read NAME=FUNCTION\(SIGNAL"),
        ("v=derivative(resample(p,5))", UsageError, "must read NAME=FUNCTION"),
        ("v(1)=derivative(p)", UsageError, "must read NAME=FUNCTION"),
        ("v=resample(p, =5)", UsageError, "must read ARGUMENT=NUMBER"),
        ("v=derive(p)", UnknownNameError, "unknown function 'derive'"),
        ("v=derivative(p, 1.5)", UsageError, "expected a whole number"),
        ("v=derivative(p, 9)", UsageError, "derivative of order 9"),
        ("v=derivative(p, 1, 2)", UsageError, "takes 1 arguments"),
        ("v=resample(p)", UsageError, "resample.rate_hz is missing, expected float"),
        ("v=resample(p, 5ms)", UsageError, "expected a number in hz or khz"),
        ("v=resample(p, -5)", UsageError, "must be a number above 0"),
        ("v=resample(p, rate=5)", UnknownNameError, "did you mean 'rate_hz'"),
        ("v=resample(p, fast)", UsageError, "expected a number"),
        ("v=mask_outliers(p)", UsageError, "got no rule"),
        ("v=mask_outliers(p, 1, norm=2)", UsageError, "got limit, norm"),
        ("v=mask_outliers(p, quantile=2)", UsageError, "at most 1"),
    ],
)
def test_a_step_that_cannot_be_is_one_line(text, error, line):
    with pytest.raises(error, match=line) as raised:
        parse_step(text)
    assert "\n" not in str(raised.value)


def test_steps_on_a_session():
    session = random_session("one", 0)
    steps = [parse_step(t) for t in ("acc=derivative(vel)", "acc=resample(acc, 50hz)", "vel=mask_outliers(vel, 2)")]
    done = apply_steps(session, steps)
    assert set(done.signals) == {"vel", "acc"}
    assert (done.signals["acc"].measure, done.signals["acc"].rate_hz) == ("mm/s^2", 50.0)
    assert [f.id for f in done.repairs] == ["processed"] * 3
    assert "600 samples, 580 of them valid, became 600 and" in done.repairs[2].text
    with pytest.raises(UnknownNameError, match=r"unknown signal 'val' in made/one: did you mean 'vel'"):
        apply_steps(session, [parse_step("v=derivative(val)")])
    with pytest.raises(UsageError, match="step.function is missing, expected str"):
        check_step({"name": "v"})
    with pytest.raises(UsageError, match=r"resample.rate_hz is 'fast', expected float"):
        check_step({"name": "v", "function": "resample", "signal": "p", "arguments": {"rate_hz": "fast"}})


@pytest.mark.parametrize(
    "chain", [["resample"], ["derivative"], ["smooth_gaussian"], ["smooth_gaussian", "resample", "derivative"]]
)
def test_reach_bounds_what_a_sample_knows(chain):
    """A change outside of the reach changes nothing; the reach is no more than three times too long."""
    steps = [
        {
            "name": "v",
            "function": f,
            "signal": "v",
            "arguments": STEPS[f] | ({"rate_hz": 50.0} if f == "resample" else {}),
        }
        for f in chain
    ]
    base = regular(1000, np.random.default_rng(6).normal(size=1000), step_ns=2 * MS)
    session = replace(random_session("one", 0), signals={"v": base})
    other = base.value.copy()
    other[500] += 100
    changed = replace(session, signals={"v": replace(base, value=other)})
    before, after = (apply_steps(s, steps).signals["v"] for s in (session, changed))
    moved = after.time_ns[(before.value != after.value).any(axis=1)]
    back, ahead = reach_ns(steps, "v", 2 * MS)
    assert moved.min() >= 1000 * MS - ahead
    assert moved.max() <= 1000 * MS + back
    assert moved.max() - moved.min() >= (back + ahead) / 3
