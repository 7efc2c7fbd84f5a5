"""Intervals around decoded values, and how often they hold the truth: split conformal prediction by blocks of time.

Residuals on labelled calibration time that a row did not learn from give the half-width of its intervals (Papadopoulos
et al. 2002; Lei et al. 2018, JASA). A row that reads no label has all of the calibration for that; of any other the
last third is taken out, and the row is made again of the rest.

What is unusual: neighbouring samples are nearly the same, so what counts as one in the finite-sample correction is a
block of half a second, not a sample. Blocks, and the calibration and the scored time, are exchangeable only roughly: a
behaviour that drifts breaks the promise, which is why the coverage on scored time stands beside the level.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spiketok.recording.nouns import NS_PER_MS
from spiketok.training.tasks.decode import Prediction

BLOCK_NS = 500 * NS_PER_MS
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TOLD = (0.8, 0.9, 0.95)  # that stand in the table


def interval_rows(known: Prediction, scored: Prediction) -> Iterator[dict[str, object]]:
    """A row a component and level: the half-width of its intervals and the share of scored samples that they hold.

    Args:
        known: answers on calibration time that the row did not learn from. scored: on the test time.

    Returns:
        a dict each: ``component``, ``level``, ``coverage`` and ``half_width`` (in the behaviour's measure), both None
        where ``reason`` says why there is none; ``blocks``.
    """
    error = np.abs(known.predicted - known.true)[known.valid]
    off = np.abs(scored.predicted - scored.true)[scored.valid]
    blocks = len(np.unique(known.time_ns[known.valid] // BLOCK_NS))
    for k, component in enumerate(scored.components):
        for level in LEVELS:
            width = half_width(error[:, k], blocks, level)
            row = {"component": component, "level": level, "blocks": blocks, "reason": ""}
            if width is None:
                least = int(np.ceil(level / (1 - level) - 1e-9))
                length = f"{BLOCK_NS / NS_PER_MS:g} ms"
                row["reason"] = f"{level:.0%} needs {least} blocks of {length}, the calibration gives {blocks}"
            yield row | {"half_width": width, "coverage": None if width is None else float(np.mean(off[:, k] <= width))}


def half_width(error: np.ndarray, blocks: int, level: float) -> float | None:
    """The quantile of absolute errors that holds a new one with at least this chance; None of too few blocks.

    The rank is that of the next of ``blocks + 1`` exchangeable ones: ``ceil((blocks + 1) * level)`` of ``blocks``.
    """
    rank = int(np.ceil((blocks + 1) * level - 1e-9))
    if blocks < 1 or rank > blocks:
        return None
    place = -(-len(error) * rank // blocks) - 1  # in whole numbers: a share that is off by a bit is the next one
    return float(np.partition(error, place)[place])
