"""What models of binned counts share that keep a read-in and a read-out of each session.

A model of this kind reads the counts of one session at a time, knows its sessions by name with the keys of their units,
and reads behaviour out of the features of each bin.

Shape letters: B windows, T bins of a window, N units, D width, C components, Q query times.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError
from spiketok.models.base import Model, Part, check_same_units
from spiketok.models.batch import Asked, Batch, Head, Input, Stretch, Timing, mean_counts, query_bin
from spiketok.models.nn import module_key
from spiketok.recording.nouns import SessionInfo

COUNTS = "counts"  # the name of the input
READS_IN, READS_OUT = ("read_in", "encoder_in"), ("read_out", "decoder_out")  # layers of a session's own, by name


class BinnedModel(Model, ABC):
    """A model of binned counts, of one session in a batch.

    Class attributes:
        own_tables: names of the module dicts that hold, by session, what belongs to it.
    """

    tasks: ClassVar[tuple[str, ...]] = ("population", "decode", "classify")
    default_tasks: ClassVar[tuple[str, ...]] = ("population", "decode")
    protocols: ClassVar[tuple[str, ...]] = ("identity_unlabelled", "identity_only", "full")
    one_session_batches: ClassVar[bool] = True
    own_tables: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def inputs(cls, config, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {COUNTS: Input("binned", {"bin_ns": timing.bin_ns})}

    def __init__(self, config, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.behaviours = [head for head in heads if head.output != "counts"]
        self.population = self.head("counts").task if len(self.behaviours) < len(heads) else ""

    # ---- sessions -----------------------------------------------------------------------------------------------

    def clear_sessions(self) -> None:
        """Know none, with empty tables."""
        self.units: dict[str, list[str]] = {}
        for name in self.own_tables:
            setattr(self, name, nn.ModuleDict())

    @abstractmethod
    def add_own(self, session: str, n_units: int) -> None:
        """Make what belongs to a new session, in the tables, on the model's device.

        Raises:
            UsageError: the model does not hold such a session beside those that it has.
        """

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """For each session that is new what belongs to it: a read-in and a read-out, as far as the model has them.

        Raises:
            UsageError: a second session, where the model holds one. DataError: a session without units, or known with
                others.
        """
        for info in self.fresh(infos):
            self.keep(info.id, info.unit_keys())

    def fresh(self, infos: Sequence[SessionInfo]) -> Iterator[SessionInfo]:
        """Those that are not known, one by one: each is kept before the next is asked for."""
        for info in infos:
            if info.id in self.units:
                check_same_units(info.id, self.units[info.id], info.unit_keys())
            else:
                yield info

    def keep(self, session: str, keys: list[str]) -> None:
        """Make what belongs to a new session with these units, and know it from now on."""
        if not keys:
            message = f"{session} has no units: it cannot be read in"
            raise DataError(message)
        self.add_own(session, len(keys))
        self.units[session] = keys

    def sessions(self) -> list[str]:
        return list(self.units)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """All of the tables that is of these sessions."""
        found: list[Part] = []
        for session in self.units if sessions is None else sessions:
            if session not in self.units:
                raise self.unknown(session)
            key = module_key(session)
            for table in (getattr(self, name) for name in self.own_tables):
                found += map(Part, table[key].parameters()) if key in table else []
        return found

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        """The columns of a linear read-in, the rows of a read-out and of its bias."""
        if session not in self.units:
            raise self.unknown(session)
        key, found = module_key(session), []
        for name in self.own_tables:
            table = getattr(self, name)
            if key in table:
                layers = [(name, table[key]), *table[key].named_children()]
                found += [part for layer, module in layers for part in _along_units(layer, module)]
        return found

    def extra_state(self) -> dict[str, object]:
        return {"units": [[session, keys] for session, keys in self.units.items()]}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.clear_sessions()
        for session, keys in state["units"]:
            self.keep(session, list(keys))

    # ---- behaviour ----------------------------------------------------------------------------------------------

    def told_behaviour(self, batch: Batch, task: str, n_bins: int) -> tuple[Tensor, Tensor]:
        """A behaviour on the bins, for a model that is told it: in training, and where an evaluation gives it.

        A label is told in all bins of its window.

        Returns:
            float32 ``[B * T, C]``, 0 where it is not known, and bool ``[B * T, 1]``, where it is.
        """
        head, n_rows, device = self.heads[task], len(batch) * n_bins, batch.session_B.device
        value = torch.zeros(n_rows, head.size, device=device)
        known = torch.zeros(n_rows, 1, dtype=torch.bool, device=device)
        if task in batch.asked and (self.training or task in batch.given):
            asked: Asked = batch.asked[task]
            measured = asked.weight > 0
            row, target = query_bin(batch, asked, n_bins)[measured], asked.target[measured]
            if head.output == "classes":
                row = ((row // n_bins * n_bins)[:, None] + torch.arange(n_bins, device=device)).flatten()
                target = F.one_hot(target, head.size).repeat_interleave(n_bins, 0)
            value[row], known[row] = target.to(value.dtype), True
        return value, known


def _along_units(layer: str, module: nn.Module) -> list[tuple[Part, int]]:
    """The parts of a layer of a session's own that lie along its units; none of a layer that is neither in nor out."""
    last = module[-1] if isinstance(module, nn.Sequential) else module  # a read-out may be of several layers
    if layer not in READS_IN + READS_OUT or not isinstance(last, nn.Linear):
        return []
    if layer in READS_IN:
        return [(Part(last.weight), 1)]
    return [(Part(p), 0) for p in (last.weight, last.bias) if p is not None]


def read_behaviours(read_outs: nn.ModuleDict, batch: Batch, features: Tensor, n_bins: int) -> dict[str, Tensor]:
    """By task that has a read-out, what it says at the bins of the queries, ``[Q, C]``.

    Args:
        read_outs: by ``module_key`` of the task. features: ``[B * T, D]``.
    """
    return {
        task: read_outs[module_key(task)](features)[query_bin(batch, asked, n_bins)]
        for task, asked in batch.asked.items()
        if module_key(task) in read_outs
    }


def window_generator(*words: object) -> torch.Generator:
    """Draws that follow from words, as the session and start of a window, whatever else is drawn."""
    digest = hashlib.sha256(" ".join(map(str, words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def region_index(info: SessionInfo, column: str) -> Tensor:
    """int64 ``[N]``: the region of each unit, counted from 0; all 0 where the session says nothing of them.

    Args:
        column: the unit column of regions.
    """
    words = info.unit_columns.get(column)
    if words is None:
        return torch.zeros(info.n_units, dtype=torch.int64)
    return torch.from_numpy(np.unique(np.asarray(words).astype(str), return_inverse=True)[1].reshape(-1))


@torch.no_grad()
def begin_at_mean_rates(bias: Tensor, stretches: Sequence[Stretch], *, log: bool = True) -> None:
    """Let the bias of a read-out ``[N]`` be each unit's mean count in the observed bins of a session, or its log."""
    rate = torch.from_numpy(mean_counts(stretches, COUNTS))
    bias.copy_(rate.log() if log else rate)
