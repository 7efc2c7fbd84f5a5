"""Units by place: what models of patches share that know a unit by the slot of its patch alone.

Such a model keeps no number of a unit. What it learned of a slot fits another session only as far as the unit in it is
alike, so a session's units can be put into other slots than the scheme ``patch`` put them into: the same counts, the
same units, other places. Slot s is place ``s % K`` of patch ``s // K``.

Shape letters: L tokens, K units of a patch, N units, P patches, R bins of all windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError
from spiketok.recording.nouns import SessionInfo


def patch_places(info: SessionInfo, patch_size: int, group_by: str) -> np.ndarray:
    """int64 ``[N]``, the slot of each unit as the scheme ``patch`` puts it: groups as they first appear, padded apart.

    Args:
        group_by: a unit column; one that the session lacks, or none, is one group.
    """
    values = np.asarray(info.unit_columns.get(group_by, np.zeros(info.n_units))).astype(str)
    slot, first = np.empty(info.n_units, np.int64), 0
    for value in dict.fromkeys(values.tolist()):
        rows = np.flatnonzero(values == value)
        slot[rows] = first + np.arange(len(rows))
        first += -(-len(rows) // patch_size) * patch_size
    return slot


def check_places(session: str, places: Sequence[int], n_units: int, n_slots: int) -> None:
    """Raise DataError where these are not different slots, one for each unit of a session."""
    fit = len(places) == n_units == len(set(places)) and all(0 <= slot < n_slots for slot in places)
    if not fit:
        message = (
            f"{session}: {len(places)} slots came for {n_units} units, which need as many different ones of {n_slots}"
        )
        raise DataError(message)


def laid(
    columns: Mapping[str, Tensor], length: Sequence[int], places: Sequence[int], patch_size: int
) -> tuple[dict[str, Tensor], list[int]]:
    """Tokens of patches with each unit in another slot, and how many each window has.

    Args:
        columns: ``patch``, ``unit`` ``[L, K]``, ``time``, ``space``, ``observed`` ``[L]`` and perhaps ``unit_observed``
            ``[L, K]``, bin by bin, in each bin patch by patch. length: of each window. places: the slot of each unit.
    """
    first = columns["space"] == 0
    row = first.cumsum(0) - 1
    n_rows, patches = int(row[-1]) + 1 if len(row) else 0, max(places) // patch_size + 1
    held = columns["unit"] >= 0
    of_unit = columns["unit"][held].long()
    where = row[:, None].expand_as(held)[held], torch.tensor(places, device=row.device)[of_unit]
    found = {}
    for name, empty in (("patch", 0), ("unit", -1), ("unit_observed", 0)):
        if name in columns:
            slots = columns[name].new_full((n_rows, patches * patch_size), empty)
            slots[where] = columns[name][held]
            found[name] = slots.reshape(-1, patch_size)
    for name in ("time", "observed"):
        found[name] = columns[name][first].repeat_interleave(patches)
    found["space"] = torch.arange(patches, device=row.device, dtype=columns["space"].dtype).repeat(n_rows)
    per_bin = len(row) // max(n_rows, 1)
    return found, [n // max(per_bin, 1) * patches for n in length]
