"""Units by place: what models of patches share that know a unit by the slot of its patch alone.

Such a model keeps no number of a unit. What it learned of a slot fits another session only as far as the unit in it is
alike, so a session's units can be put into other slots than the scheme ``patch`` put them into: the same counts, the
same units, other places. Slot s is place ``s % K`` of patch ``s // K``.

Shape letters: L tokens, K units of a patch, N units, P patches, R bins of all windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError
from spiketok.models.batch import Batch
from spiketok.recording.nouns import SessionInfo

SPIKES = 2  # the column ``kind`` of a patch, where the scheme has other kinds of tokens too


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


def laid_among(
    columns: Mapping[str, Tensor], length: Sequence[int], places: Sequence[int], patch_size: int, first: int
) -> tuple[dict[str, Tensor], list[int]]:
    """:func:`laid` where tokens of other kinds (the column ``kind``) stand before and behind the patches of a bin.

    Args:
        first: the position (``space``) of the first patch. The other kinds keep theirs.
    """
    device = columns["time"].device
    window = torch.repeat_interleave(torch.tensor(length, device=device), output_size=sum(length))
    patches = columns["kind"] == SPIKES
    own = {name: value[patches] for name, value in columns.items()}
    own["space"] = own["space"] - first
    found, n = laid(own, torch.bincount(window[patches], minlength=len(length)).tolist(), places, patch_size)
    found["space"] = found["space"] + first
    merged = {}
    for name, value in columns.items():
        if name not in found:
            empty = SPIKES if name == "kind" else 0
            found[name] = value.new_full((sum(n), *value.shape[1:]), empty)
        merged[name] = torch.cat([found[name], value[~patches]])
    window = torch.cat([torch.repeat_interleave(torch.tensor(n, device=device)), window[~patches]])
    order = torch.arange(len(window), device=device)
    for key in (merged["space"], merged["time"], window):  # the last is the first to sort by
        order = order[torch.argsort(key[order], stable=True)]
    return {name: value[order] for name, value in merged.items()}, torch.bincount(
        window, minlength=len(length)
    ).tolist()


class ByPlace:
    """Beside :class:`spiketok.models.base.Model`: what a model of patches has that knows units by place.

    Of its ``config`` it reads ``patch_size``, ``max_patches`` and ``group_by``. ``units`` holds the keys of each
    session's units, ``put`` the slots of those that stand elsewhere than the scheme put them.
    """

    by_place: ClassVar[bool] = True
    units: dict[str, list[str]]
    put: dict[str, list[int]]

    def sessions(self) -> list[str]:
        return list(self.units)

    def unit_places(self, info: SessionInfo) -> np.ndarray:
        own = patch_places(info, self.config.patch_size, self.config.group_by)
        return np.array(self.put.get(info.id, own), np.int64)

    def put_units(self, session: str, places: Sequence[int]) -> None:
        self.session_row(session)
        check_places(session, places, len(self.units[session]), self.config.patch_size * self.config.max_patches)
        self.put[session] = [int(slot) for slot in places]

    def put_state(self) -> dict[str, object]:
        """Of ``extra_state``; nothing where all units stand as the scheme put them."""
        return {"put": [[session, places] for session, places in self.put.items()]} if self.put else {}

    def load_put(self, state: Mapping[str, object]) -> None:
        self.put = {session: list(places) for session, places in state.get("put", ())}

    def patches(self, batch: Batch, name: str, first: int = 0) -> tuple[dict[str, Tensor], list[int]]:
        """The packed tokens of an input and how many each window has, units where they were put.

        Args:
            first: the position of the first patch where the scheme has other kinds of tokens too.
        """
        columns, length = batch.inputs[name].packed()
        if self.put.keys().isdisjoint(batch.sessions):
            return columns, length
        put = self.put[batch.one_session(self.name)]
        if "kind" in columns:
            return laid_among(columns, length, put, self.config.patch_size, first)
        return laid(columns, length, put, self.config.patch_size)
