"""From the logits of frames to labels: paths of Connectionist Temporal Classification (Graves et al. 2006).

A path names one class a frame; class 0 is the blank. Its labels are what is left when runs of one class are made one
and blanks are taken out, so that a label that comes twice needs a blank between.

Shape letters: F frames, K classes with the blank.
"""

from __future__ import annotations

import numpy as np

BLANK = 0


def best_path(log_probability: np.ndarray) -> tuple[int, ...]:
    """The labels of the likeliest path: greedy decoding.

    Args:
        log_probability: ``[F, K]``.

    >>> best_path(np.log([[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]]))
    (1, 1)
    """
    path = np.asarray(log_probability).argmax(axis=1)
    new = np.diff(path, prepend=BLANK) != 0
    return tuple(path[new & (path != BLANK)].tolist())


def prefix_beam(log_probability: np.ndarray, width: int) -> tuple[int, ...]:
    """The likeliest labels, whose probability is the sum over all their paths, by prefix beam search.

    Exact where no more than ``width`` beginnings are possible; of equally likely labels the first in order is taken.

    Args:
        log_probability: ``[F, K]``. width: beginnings that are kept from frame to frame.

    >>> frames = np.log([[0.6, 0.4], [0.6, 0.4]])
    >>> best_path(frames), prefix_beam(frames, width=8)  # no label: 0.36; one: 0.64, in three paths
    ((), (1,))
    """
    # by beginning: the log of the probability of its paths that end in a blank, and of those that end in its last label
    held: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -np.inf)}
    for frame in np.asarray(log_probability, np.float64).tolist():
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, label) in held.items():
            either = np.logaddexp(blank, label)
            _add(grown, prefix, 0, either + frame[BLANK])
            for k in range(1, len(frame)):
                if prefix and prefix[-1] == k:
                    _add(grown, prefix, 1, label + frame[k])
                    _add(grown, (*prefix, k), 1, blank + frame[k])
                else:
                    _add(grown, (*prefix, k), 1, either + frame[k])
        ranked = sorted(grown.items(), key=lambda item: (-np.logaddexp(*item[1]), item[0]))
        held = {prefix: (blank, label) for prefix, (blank, label) in ranked[:width]}
    return next(iter(held))


def _add(grown: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], end: int, log_probability: float) -> None:
    ends = grown.setdefault(prefix, [-np.inf, -np.inf])
    ends[end] = float(np.logaddexp(ends[end], log_probability))
