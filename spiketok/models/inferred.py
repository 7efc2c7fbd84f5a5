"""What models share whose units have no rows: who a unit is follows from its session's calibration.

Such a model keeps nothing of a session but the names of its units, so that an unseen session needs unlabelled
calibration and no gradient (``zero_gradient``). Abstract: the models are final.

Three ways to tell a unit, each a function of its own:

- :func:`mean_over_trials`: a network reads its counts in each calibration trial; the mean over trials (SPINT);
- :class:`PoolSpikes`: learned queries attend over its own spikes, of which each is known by the intervals around it;
- :class:`ReadVectors`: a fixed vector from a file (``spiketok embed``), through a linear layer.

Shape letters: N units, L spikes, M calibration trials, P points of a trial, K queries, V width of a vector, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import NamesUnits, Part, check_range
from spiketok.models.batch import Batch, Tokens
from spiketok.models.nn import module_key

VECTORS = "vectors"  # the input of a session that comes from a file
SPIKE = 0  # the type of a token that is a spike
LEAST_S, MOST_S = 1e-3, 10.0  # intervals between spikes are told apart between these
OWN, OTHERS = (1, 2, 4, 8), (16, 64, 256)  # to which of the next spikes: of the unit, of the population


class Inferred(NamesUnits, ABC):
    """A model that infers who its units are from inputs of their session.

    What :meth:`calibrate` inferred is kept for evaluation. It is no part of the state, and is forgotten when training
    begins or other weights are loaded. An adaptation makes rows of it (:meth:`own_units`), which are parameters.
    """

    infers: ClassVar[bool] = True

    def make_inferred(self, names: Sequence[str]) -> None:
        """Know no session yet.

        Args:
            names: of the inputs of a session that tell of its units.
        """
        self.names = tuple(names)
        self.units: dict[str, list[str]] = {}
        self._calibrated: dict[str, Tensor] = {}
        self.own = nn.ParameterDict()
        self.register_load_state_dict_post_hook(_forget)

    @abstractmethod
    def identify(self, given: Sequence[Mapping[str, Tokens]], n_units: Sequence[int]) -> list[Tensor]:
        """``[N, D]`` for each session, who its units are.

        Args:
            given: by name, the inputs of each session; they may hold nothing. n_units: of each.
        """

    def check_given(self, session: str, given: Mapping[str, Tokens]) -> None:
        """Raise DataError where inputs of a session are not of its units, or have another shape than is read."""

    def extra_state(self) -> dict[str, object]:
        own = [[session, self.own[module_key(session)].shape[1]] for session in self.units if self._owns(session)]
        return super().extra_state() | ({"own": own} if own else {})

    def load_extra_state(self, state: dict[str, object]) -> None:
        super().load_extra_state(state)
        self._calibrated.clear()
        self.own = nn.ParameterDict()
        for session, width in state.get("own", ()):
            self.own[module_key(session)] = nn.Parameter(torch.zeros(len(self.units[session]), width))

    # ---- rows of its own ------------------------------------------------------------------------------------------

    def own_units(self, session: str) -> None:
        self.session_row(session)
        self.own[module_key(session)] = nn.Parameter(self._calibrated[session].clone())

    def _owns(self, session: str) -> bool:
        return module_key(session) in self.own

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The rows of sessions whose units have such."""
        super().identity_parameters(sessions)
        known = self.units if sessions is None else sessions
        return [Part(self.own[module_key(session)]) for session in known if self._owns(session)]

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        return [(part, 0) for part in self.identity_parameters([session])]

    # ---- identities -----------------------------------------------------------------------------------------------

    def _given(self, batch: Batch) -> dict[str, dict[str, Tokens]]:
        """By session of a batch its inputs, by name.

        Raises:
            DataError: there are none for a session, or they do not fit it.
        """
        for name in self.names:
            if len(batch.session_inputs.get(name, ())) != len(batch.present):
                shown = ", ".join(batch.present)
                message = f"the batch has no {name} of {shown}: {self.name} reads it beside the windows"
                raise DataError(message)
        found = {}
        for k, session in enumerate(batch.present):
            if session not in self.units:
                raise self.unknown(session)
            found[session] = {name: batch.session_inputs[name][k] for name in self.names}
            self.check_given(session, found[session])
        return found

    def _identify(self, given: Mapping[str, Mapping[str, Tokens]]) -> dict[str, Tensor]:
        if not given:
            return {}
        n_units = [len(self.units[session]) for session in given]
        return dict(zip(given, self.identify(list(given.values()), n_units), strict=True))

    def session_identities(self, batch: Batch) -> list[Tensor]:
        """``[N, D]`` for each session of ``batch.present``: its rows, or by :meth:`calibrate`, or of the batch."""
        kept = {} if self.training else self._calibrated
        found = {session: kept[session] for session in batch.present if session in kept}
        found |= {session: self.own[module_key(session)] for session in batch.present if self._owns(session)}
        if len(found) < len(batch.present):
            found |= self._identify({s: given for s, given in self._given(batch).items() if s not in found})
        return [found[session] for session in batch.present]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Compute and keep the identities of the sessions of these batches, for evaluation.

        Args:
            batches: with the sessions' inputs; their windows are not read.
        """
        fresh: dict[str, Tensor] = {}
        for batch in batches:
            fresh |= self._identify({s: given for s, given in self._given(batch).items() if s not in fresh})
        self._calibrated |= fresh

    def train(self, mode: bool = True) -> Inferred:
        """As torch's; identities that were kept belong to the weights as they are, and training changes those."""
        if mode:
            self._calibrated.clear()
        return super().train(mode)


def _forget(model: Inferred, _incompatible: object) -> None:
    """Other weights give other identities."""
    model._calibrated.clear()


def stack(first: int, hidden: int, last: int, layers: int) -> nn.Sequential:
    """So many linear layers with ReLU between them, none behind the last."""
    width = [first, *[hidden] * (layers - 1), last]
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(width[i], width[i + 1]), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


# ---- from counts in trials ------------------------------------------------------------------------------------------


def mean_over_trials(encode_trial: nn.Module, calibration: Sequence[Tokens], n_units: Sequence[int]) -> Tensor:
    """``[sum N, D]``: what a network makes of each unit's trials, the mean over those in which it was recorded.

    Args:
        encode_trial: ``[n, P]`` to ``[n, D]``.
        calibration: a session's trials each, ``matrix`` ``[M, P, N]``; M may be 0. n_units: of each.
    """
    matrices = [tokens.columns["matrix"] for tokens in calibration]
    encoded = encode_trial(torch.cat([m.transpose(1, 2).flatten(0, 1) for m in matrices]))  # [sum M * N, D]
    means = []
    rows = encoded.split([len(m) * n for m, n in zip(matrices, n_units, strict=True)])
    for tokens, own, n in zip(calibration, rows, n_units, strict=True):
        own = own.unflatten(0, (-1, n))  # [M, N, D]
        if "unit_observed" in tokens.columns:
            recorded = tokens.columns["unit_observed"].to(own)[..., None]
            means.append((own * recorded).sum(0) / recorded.sum(0).clamp_min(1))
        else:
            means.append(own.sum(0) / max(len(own), 1))
    return torch.cat(means)


def check_trials(session: str, tokens: Tokens, length: int, n_units: int) -> None:
    """Raise DataError where calibration trials are of other units or of another length."""
    expected, found = (length, n_units), tuple(tokens.columns["matrix"].shape[1:])
    if found != expected:
        message = f"{session}: calibration trials of {found} points and units, the model reads {expected}"
        raise DataError(message)


# ---- from spikes ----------------------------------------------------------------------------------------------------


class PoolSpikes(nn.Module):
    """Learned queries attend over each unit's own spikes; a unit without any gives zeros.

    A spike is known by the logarithms of the intervals from it to spikes before and behind it, of its unit and of the
    whole population (:func:`interval_features`): no absolute time, which means nothing on another day.

    Args:
        dim: D of a spike. queries: K.
    """

    def __init__(self, dim: int, queries: int) -> None:
        super().__init__()
        self.encode_spike = stack(2 * (len(OWN) + len(OTHERS)), dim, dim, 2)
        self.queries = nn.Linear(dim, queries, bias=False)

    def forward(self, time: Tensor, unit: Tensor, stretch: Tensor, n_units: int) -> Tensor:
        """``[N, K * D]``. Arguments as of :func:`interval_features`."""
        spike = self.encode_spike(interval_features(time, unit, stretch))  # [L, D]
        score = self.queries(spike)  # [L, K]
        own = unit[:, None].expand_as(score)
        top = score.new_full((n_units, score.shape[1]), -torch.inf).scatter_reduce(0, own, score.detach(), "amax")
        weight = (score - top[unit]).exp()
        total = score.new_zeros(n_units, score.shape[1]).index_add(0, unit, weight)
        weight = weight / total[unit]
        pooled = spike.new_zeros(n_units, score.shape[1], spike.shape[1])
        return pooled.index_add(0, unit, weight[:, :, None] * spike[:, None]).flatten(1)


def interval_features(time: Tensor, unit: Tensor, stretch: Tensor) -> Tensor:
    """float32 ``[L, F]``: ln of the intervals to the spikes behind and before each, between -2.5 and 2.2.

    To the unit's own spikes that are ``OWN`` places away, then to those of all units that are ``OTHERS`` places away.
    Where the stretch has no such spike the interval is the longest that is told apart.

    Args:
        time: float32 ``[L]``, seconds from the start of the spike's stretch. unit: int64 ``[L]``.
        stretch: int64 ``[L]``, rising; spikes of a stretch are in order of time.
    """
    order = torch.argsort(unit, stable=True)
    own = torch.empty(len(time), 2 * len(OWN), device=time.device)
    own[order] = torch.stack(_intervals(time[order], (unit[order], stretch[order]), OWN), 1)
    among_all = torch.stack(_intervals(time, (stretch,), OTHERS), 1)
    seconds = torch.cat([own, among_all], 1).clamp(LEAST_S, MOST_S)
    return (seconds.log() + 2) / 2


def _intervals(time: Tensor, same: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    """``[L]`` each: to the row so many places behind, and from the one before, where these are the same."""
    found = []
    for k in places:
        apart, k = torch.full_like(time, MOST_S), min(k, len(time))
        together = torch.ones(len(time) - k, dtype=torch.bool, device=time.device)
        for column in same:
            together = together & (column[k:] == column[: len(time) - k])
        interval = torch.where(together, time[k:] - time[: len(time) - k], MOST_S)
        found += [torch.cat([interval, apart[:k]]), torch.cat([apart[:k], interval])]
    return found


def spikes_of(tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Time, unit and stretch of the spikes among the tokens of a session, by ``per-spike`` in order of time.

    START and END of the units stand at the edges of each stretch, and tell where one begins.
    """
    spike = tokens.columns["type"] == SPIKE
    begins = torch.diff((~spike).to(torch.int64), prepend=spike.new_zeros(1, dtype=torch.int64)) > 0
    return tokens.columns["time"][spike], tokens.columns["unit"][spike].long(), begins.cumsum(0)[spike]


# ---- from vectors ---------------------------------------------------------------------------------------------------


class ReadVectors(nn.Module):
    """A linear layer on fixed vectors, each brought to mean 0 and variance 1; a unit without a vector gives zeros.

    Args:
        vector_dim: V. dim: of what comes out.
    """

    def __init__(self, vector_dim: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(vector_dim, dim)

    def forward(self, vectors: Sequence[Tokens], n_units: Sequence[int]) -> list[Tensor]:
        """``[N, D]`` for each session.

        Args:
            vectors: of each, ``vector`` ``[N, V]``, NaN where a unit has none; or of no rows. n_units: of each.

        Raises:
            DataError: they are of other units, or of another width.
        """
        rows, wide = [], self.project.in_features
        for tokens, n in zip(vectors, n_units, strict=True):
            own = tokens.columns["vector"]
            if own.shape[1] != wide or len(own) not in (0, n):
                found = f"{len(own)} vectors of {own.shape[1]} numbers"
                message = f"{found} came for {n} units, the model reads {wide} of each (model.vector_dim)"
                raise DataError(message)
            rows.append(own if len(own) else own.new_full((n, wide), torch.nan))
        row = torch.cat(rows)
        known = row.isfinite().all(1, keepdim=True)
        scaled = F.layer_norm(torch.where(known, row, 0), (wide,))
        return list((self.project(scaled) * known).split(list(n_units)))


def check_vectors(config) -> None:
    """Raise UsageError where a file of vectors has no width, or a width no file."""
    check_range(config, "[0, inf)", "vector_dim")
    if bool(config.vectors) != bool(config.vector_dim):
        message = (
            f"model.vectors is '{config.vectors[:12]}' and model.vector_dim {config.vector_dim}: both are set by "
            "'spiketok train --vectors FILE'"
        )
        raise UsageError(message)
