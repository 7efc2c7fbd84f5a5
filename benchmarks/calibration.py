"""Calibration matrices: 32 trials laid on 1024 points, against numpy and scipy on the same counts."""

from __future__ import annotations

import numpy as np
from harness import Row, measure
from recordings import recording

from spiketok.tokens.schemes import Calibration
from spiketok.tokens.schemes.kernels import resample as kernels

TRIALS, POINTS = 32, 1024
AT_LEAST_LINEAR = 20.0  # times an np.interp loop


def rows(size: str, rounds: int) -> list[Row]:
    from scipy.interpolate import interp1d

    session = recording(size)
    baked = Calibration(n_trials=TRIALS, length=POINTS, pseudo_ns=2_000_000_000).bake(session, session.observed)
    counts, row = baked.columns["counts"], baked.columns["counts.row"]
    trials = [counts[row[m] : row[m + 1]] for m in range(TRIALS)]
    by_unit = [np.ascontiguousarray(own.T, np.float64) for own in trials]  # the layout that suits np.interp
    n_units = counts.shape[1]
    value, second = (np.empty((max(map(len, trials)), n_units)) for _ in range(2))
    out, loop = np.empty((TRIALS, POINTS, n_units), np.float32), np.empty((TRIALS, n_units, POINTS), np.float32)
    peer = np.empty_like(out)

    def ours(kind: str) -> None:
        for own, taken in zip(trials, out, strict=True):
            if kind == "linear":
                kernels.linear_counts(own, taken)
            else:
                mine, bent = value[: len(own)], second[: len(own)]
                kernels.smooth(own, 0.0, mine)
                kernels.bend(mine, bent)
                kernels.cubic(mine, bent, taken)

    def numpy_loop() -> None:
        for own, taken in zip(by_unit, loop, strict=True):
            at, bins = np.linspace(0, own.shape[1] - 1, POINTS), np.arange(own.shape[1])
            for n in range(n_units):
                taken[n] = np.interp(at, bins, own[n])

    def scipy(kind: str) -> None:
        for own, taken in zip(trials, peer, strict=True):
            taken[:] = interp1d(np.linspace(0, 1, len(own)), own, kind=kind, axis=0)(np.linspace(0, 1, POINTS))

    ours("linear")
    numpy_loop()
    np.testing.assert_allclose(out, loop.swapaxes(1, 2), atol=1e-5)
    for kind in ("linear", "cubic"):
        ours(kind)
        scipy(kind)
        np.testing.assert_allclose(out, peer, atol=1e-5)

    timing = measure(
        {
            "np": numpy_loop,
            "scipy linear": lambda: scipy("linear"),
            "linear": lambda: ours("linear"),
            "scipy cubic": lambda: scipy("cubic"),
            "cubic": lambda: ours("cubic"),
            "limit": lambda: out.fill(0),
        },
        rounds,
    )
    task = f"calibration, {TRIALS} trials x {n_units} units x {POINTS}, {size}"

    def against(who: str, name: str, kind: str, wanted: float | None = None) -> Row:
        return Row(f"{task}, {kind}", who, timing.median(name), timing.ratio(name, kind), wanted)

    return [
        against("np.interp loop", "np", "linear", AT_LEAST_LINEAR),
        against("scipy interp1d", "scipy linear", "linear"),
        against("limit: writing the output once", "limit", "linear"),
        Row(f"{task}, linear", "spiketok", timing.median("linear")),
        against("scipy interp1d", "scipy cubic", "cubic"),
        Row(f"{task}, cubic", "spiketok", timing.median("cubic")),
    ]
