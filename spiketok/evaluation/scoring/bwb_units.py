"""Which units BrainWideBench holds out, and the mean over neighbours that its region task also takes.

Sources: the benchmark's data pipeline (held-out units), ibl-bwb-eval 0.1.0 ``multi_unit.py`` (method of NEMO).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from spiketok.errors import DataError

HELD_OUT_SHARE = 0.1
RADIUS_UM = 60.0
NEIGHBOURS = 5


def held_out_units(unit_ids: Sequence[str], split: Literal["test", "val"]) -> np.ndarray:
    """Which units co-smoothing holds out: a tenth, by the sha256 of their ids, so that no order matters.

    Args:
        unit_ids: raw UUIDs, without the session before them.

    Returns:
        bool ``[U]``; at least one is held out.
    """
    keys = [hashlib.sha256(f"ts2_co_smoothing_{split}:{unit}".encode()).hexdigest() for unit in unit_ids]
    held_out = np.zeros(len(keys), bool)
    held_out[np.argsort(np.array(keys, str), kind="stable")[: max(1, round(HELD_OUT_SHARE * len(keys)))]] = True
    return held_out


def mean_of_neighbours(probability: np.ndarray, depth_um: np.ndarray, probe_id: np.ndarray) -> np.ndarray:
    """Each unit's probabilities averaged over the nearest five units, itself included, within 60 um on its probe.

    The benchmark chooses among units at one depth by an unstable sort, differently on different machines; here the
    first in order are taken.

    Args:
        probability: ``[U, K]``. depth_um: ``[U]``. probe_id: ``[U]``.

    Raises:
        DataError: shapes do not fit.
    """
    if not len(probability) == len(depth_um) == len(probe_id):
        message = f"{len(probability)} units have {len(depth_um)} depths and {len(probe_id)} probes"
        raise DataError(message)
    mean = np.empty_like(probability)
    for k in range(len(probability)):
        away = np.abs(depth_um - depth_um[k])
        near = np.flatnonzero((probe_id == probe_id[k]) & (away <= RADIUS_UM))
        nearest = near[np.argsort(away[near], kind="stable")][:NEIGHBOURS]
        mean[k] = probability[nearest].mean(axis=0)
    return mean
