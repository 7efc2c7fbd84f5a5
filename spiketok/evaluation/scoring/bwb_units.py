"""The mean over neighbours that BrainWideBench's region task also takes.

Source: ibl-bwb-eval 0.1.0 ``multi_unit.py`` (method of NEMO).
"""

from __future__ import annotations

import numpy as np

from spiketok.errors import DataError

RADIUS_UM = 60.0
NEIGHBOURS = 5


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
