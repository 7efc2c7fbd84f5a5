"""Which units the passes of a mode hide and score (``task.population.modes``).

    unit           each unit hidden over its whole window once, all others seen             unit_bps
    forward        the end of the window hidden in all units                                forward_bps
    intra_region   each unit hidden once, and all units of other regions with it            intra_region_bps
    inter_region   all units of one region hidden, for each region                          inter_region_bps
    encode         all units hidden; the behaviours of the run's other tasks are given      encode_bps

The first four are those of MtM (Zhang et al. 2024, "Towards a universal translator for neural dynamics at single-cell,
single-spike resolution"), the last is that of NEDS (Zhang et al. 2025, "Neural encoding and decoding at scale"). Each
number is the mean over units of their bits per spike, against each unit's mean rate over its own scored bins.

What is unusual:

- held-out units and forward bins (``forward_ms``) are hidden in all passes, as they are in every batch; held-out units
  are asked in one pass of ``unit`` together;
- a unit that is alone in its region is not scored in ``intra_region``: nothing would be seen.
"""

from __future__ import annotations

import numpy as np

MODES = ("unit", "forward", "intra_region", "inter_region", "encode")
Rows = np.ndarray  # int64, of units


def metric_of(mode: str) -> str:
    """The name of a mode's score.

    >>> metric_of("unit")
    'unit_bps'
    """
    return f"{mode}_bps"


def passes_of(mode: str, able: Rows, held: np.ndarray, region: np.ndarray | None) -> list[tuple[Rows, Rows]]:
    """For each pass of a mode the units that are scored, and those that are hidden over the whole window.

    Args:
        able: the units that can be scored. held: bool ``[N]``, the held-out units. region: str ``[N]``, read by the
            modes of regions alone.

    >>> regions = np.array(["a", "a", "b"])
    >>> for mode in ("unit", "inter_region", "intra_region"):
    ...     print([(s.tolist(), h.tolist()) for s, h in passes_of(mode, np.arange(3), np.zeros(3, bool), regions)])
    [([0], [0]), ([1], [1]), ([2], [2])]
    [([0, 1], [0, 1]), ([2], [2])]
    [([0], [0, 2]), ([1], [1, 2])]
    """
    if mode == "forward":
        return [(able, able[:0])]
    if mode == "encode":
        return [(able, able)]
    if mode == "unit":
        parts = [able[held[able]], *able[~held[able], None]]
        return [(part, part) for part in parts if len(part)]
    own = [able[region[able] == word] for word in np.unique(region[able])]
    if mode == "inter_region":
        return [(units, units) for units in own]
    others = [np.setdiff1d(able, units) for units in own]
    return [
        (unit[None], np.sort(np.append(other, unit)))
        for units, other in zip(own, others, strict=True)
        for unit in units
        if len(units) > 1
    ]


def why_none(mode: str, able: Rows, region: np.ndarray | None, column: str, behaviours: int) -> str:
    """Why a session is not scored in a mode; empty where it is.

    Args:
        region: str ``[N]``, what the unit column ``column`` says; None where there is no such column.
        behaviours: how many tasks with labels are asked in the session.
    """
    if mode == "encode" and not behaviours:
        return "no behaviour to encode from is asked in it: add a task with labels, as --task decode"
    if not mode.endswith("_region"):
        return ""
    if region is None:
        return f"its units have no column '{column}': name another by task.population.region_column"
    words = np.unique(region[able]).tolist()
    if len(words) < 2:
        return f"its units are of one region ({', '.join(words) or 'none'} in column '{column}'), two are needed"
    return ""
