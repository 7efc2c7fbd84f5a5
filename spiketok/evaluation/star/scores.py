"""The one number of a score that the table compares: R2 of the behaviour, weighted by variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spiketok.training.tasks.base import Score, Task

METRIC = "r2_variance_weighted"


def decoded(tasks: Sequence[Task | Mapping]) -> str | None:
    """The name of the first behaviour that is decoded; None where none is.

    Args:
        tasks: of a run, or what ``result.json`` says of them.
    """
    for task in tasks:
        kind, name = (task["kind"], task["name"]) if isinstance(task, Mapping) else (task.kind, task.name)
        if kind == "decode":
            return name
    return None


def mean_r2(tasks: Sequence[Task | Mapping], scores: Mapping[str, Mapping[str, Score]]) -> float | None:
    """The mean over sessions of the R2 of :func:`decoded`; None where a session has none, or nothing is decoded.

    Args:
        scores: by session and task.
    """
    name = decoded(tasks)
    found = [own[name][METRIC] for own in scores.values() if name in own]
    return None if not found or None in found else sum(found) / len(found)


def share_needed(scores: Mapping[float, float | None], part: float = 0.9) -> tuple[float | None, str]:
    """The least share of the training time with ``part`` of the full score, linear between the shares measured.

    Args:
        scores: R2 by share; that of 1 is the full one.

    Returns:
        the share, and ``"at most"`` where the smallest one measured is enough; None and why there is none.

    >>> share_needed({0.25: 0.4, 0.5: 0.8, 1.0: 0.8})
    (0.45, '')
    >>> share_needed({0.25: 0.79, 0.5: 0.8, 1.0: 0.8})
    (0.25, 'at most')
    """
    full = scores.get(1.0)
    if full is None or not full > 0:
        return None, f"its full score is {'none' if full is None else f'{full:.3f}'}: no part of it can be reached"
    wanted, shares = part * full, sorted(scores)
    reached = next(share for share in shares if scores[share] is not None and scores[share] >= wanted)
    below = [share for share in shares if share < reached]
    if not below:
        return reached, "at most"
    low, r2_low = below[-1], scores[below[-1]]
    if r2_low is None:
        return reached, "the share below has no score"
    return low + (reached - low) * (wanted - r2_low) / (scores[reached] - r2_low), ""
