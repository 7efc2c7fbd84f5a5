"""The nouns of learning: a batch of windows as tensors (TokenBatch), and the behaviour that is decoded (TargetSpec).

Shape letters: B windows in a batch, L tokens, N units, T bins, Q query times, C components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError


@dataclass(frozen=True)
class TargetSpec:
    """The behaviour that is decoded, and how it is normalised: ``(value - mean) / std``, from training windows only.

    Args:
        name: the signal's name in the store. components: C names. measure: the unit of measure.
        mean, std: C numbers each.
    """

    name: str
    components: tuple[str, ...]
    measure: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class TokenBatch:
    """B windows of one length, from one or several sessions.

    Packed layout (the default): columns are ``[L_total, *item]``, window b is ``offset[b]:offset[b + 1]``.
    Padded layout: columns are ``[B, L, *item]`` and ``valid_BL`` says what is real.
    Queries (the times at which behaviour is asked for) are always packed by ``query_offset``.

    Args:
        columns: the scheme's tokens. per-spike: ``time`` float32 seconds from the window's start, ``unit`` int32 rows
            of the model's table, ``type`` uint8. binned: ``counts`` uint8 ``[B*T, N]``, ``observed`` uint8 ``[B*T]``,
            and ``unit_observed`` uint8 ``[B*T, N]`` where units were not all recorded at the same times.
        offset: int64 ``[B + 1]``; None in the padded layout.
        valid_BL: bool ``[B, L]``; None in the packed layout.
        window_ns: the windows' length.
        session_B: int64 ``[B]``, rows of the model's session table.
        sessions: the session id of each window.
        start_ns: int64 ``[B]``, the window's start in session time (on the host, numpy).
        query_time: float32 ``[Q_total]`` seconds from the window's start; query_offset: int64 ``[B + 1]``.
        query_ns: int64 ``[Q_total]`` session time (on the host, numpy): what predictions are stitched by.
        target: float32 ``[Q_total, C]``, normalised; 0 where not valid.
        weight: float32 ``[Q_total]``; 0 where the behaviour is not valid.
    """

    columns: dict[str, Tensor]
    offset: Tensor | None
    valid_BL: Tensor | None
    window_ns: int
    session_B: Tensor
    sessions: list[str]
    start_ns: np.ndarray
    query_time: Tensor
    query_offset: Tensor
    query_ns: np.ndarray
    target: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.sessions)

    def _map(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        """The same batch with ``change`` applied to each tensor."""
        changed: dict[str, object] = {"columns": {name: change(column) for name, column in self.columns.items()}}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> TokenBatch:
        """The batch on another device; on the same device, the batch itself with its reused buffers."""
        return self._map(lambda tensor: tensor.to(device))

    def clone(self) -> TokenBatch:
        """A copy in memory of its own, which stays valid when the loader goes on."""
        copied = self._map(torch.clone)
        copied.query_ns = self.query_ns.copy()
        return copied


def packed_columns(batch: TokenBatch) -> tuple[dict[str, Tensor], list[int]]:
    """The batch's columns as ``[L_total, *item]`` and the number of tokens in each window, for either layout."""
    if batch.offset is not None:
        return batch.columns, batch.offset.diff().tolist()
    return {name: column[batch.valid_BL] for name, column in batch.columns.items()}, batch.valid_BL.sum(1).tolist()


def query_bin(batch: TokenBatch, bins_per_window: int) -> Tensor:
    """int64 ``[Q_total]``: for each query the row, in packed bins, of the bin that holds it (exact, in integer ns).

    Raises:
        DataError: the window is no whole number of bins, or a query lies outside its window.
    """
    if bins_per_window < 1 or batch.window_ns % bins_per_window:
        message = f"a window of {batch.window_ns} ns does not divide into {bins_per_window} bins"
        raise DataError(message)
    window = np.repeat(np.arange(len(batch)), np.diff(batch.query_offset.cpu().numpy()))
    index = (batch.query_ns - batch.start_ns[window]) // (batch.window_ns // bins_per_window)
    outside = np.flatnonzero((index < 0) | (index >= bins_per_window))
    if outside.size:
        row = outside[0]
        session, start = batch.sessions[window[row]], batch.start_ns[window[row]]
        window_text = f"its window {start}..{start + batch.window_ns} ns"
        message = f"{session}: a query at {batch.query_ns[row]} ns is not in {window_text}"
        raise DataError(message)
    return torch.from_numpy(window * bins_per_window + index).to(batch.target.device)
