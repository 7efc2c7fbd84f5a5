"""The contract of a model.

Subclasses are final; parts that several models share are blocks in ``spiketok.models.nn``, not parents. Everything that
belongs to one session (unit rows, read-ins) is a parameter of its own, keyed by stable ids, never by the number or
position of its units: an optimizer that holds the parameters of one session can touch no other session, neither by
weight decay nor by momentum.

Shape letters: B windows, L tokens, N units, T bins, Q query times, C components, D width, H heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from spiketok.errors import DataError
from spiketok.models.batch import TargetSpec, TokenBatch
from spiketok.recording.nouns import SessionInfo


class Model(nn.Module, ABC):
    """A decoder (and, for some, a model of the spikes) over one scheme's tokens.

    Class attributes:
        name: its name on the command line.
        scheme: the name of the scheme it reads.
        one_session_batches: every batch must hold windows of one session (models with a read-in a session).
        closed_form: fitted by ``fit_closed_form(sessions)`` instead of by gradient steps; ``sessions`` maps a session
            id to its contiguous stretches, each ``(counts [T, N], target [T, C] normalised, weight [T])``.
        Config: a frozen dataclass of the reference's numbers; ``sizes`` holds named presets of its fields.
    """

    name: ClassVar[str]
    scheme: ClassVar[str]
    one_session_batches: ClassVar[bool] = False
    closed_form: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("decode",)
    default_tasks: ClassVar[tuple[str, ...]] = ("decode",)
    Config: ClassVar[type]
    sizes: ClassVar[dict[str, dict[str, object]]]
    recipes: ClassVar[dict[str, dict[str, dict]]]

    @abstractmethod
    def __init__(self, config, target: TargetSpec) -> None:
        super().__init__()
        self.config = config
        self.n_components = len(target.components)

    @abstractmethod
    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """Make rows or read-ins for sessions that the model does not know yet; those it knows stay as they are.

        New parameters are drawn from torch's global generator: seed it for the same result. Parameters that exist keep
        their identity, so an optimizer made before goes on with them; it does not know the new ones.

        Raises:
            DataError: a session is known with other units than these.
        """

    @abstractmethod
    def sessions(self) -> list[str]:
        """Ids of the sessions that the model has rows for, in the order of their rows."""

    def session_row(self, session_id: str) -> int:
        """The session's row, as ``TokenBatch.session_B`` carries it.

        Raises:
            DataError: the model does not know the session.
        """
        known = self.sessions()
        if session_id not in known:
            message = (
                f"session '{session_id}' is not one of the {len(known)} that the model knows: add_sessions() first"
            )
            raise DataError(message)
        return known.index(session_id)

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        """int32 ``[N]``: what the cut writes for each unit of the session; its rows in the unit table by default."""
        return np.arange(info.n_units, dtype=np.int32)

    @property
    def history_bins(self) -> int:
        """Bins at the start of each window for which no prediction is made, because their past lies outside of it."""
        return 0

    @abstractmethod
    def forward(self, batch: TokenBatch) -> dict[str, Tensor]:
        """At least ``prediction``: ``[Q_total, C]`` normalised behaviour at the batch's queries.

        Its rows are NaN where the model makes no prediction (``history_bins``): such rows are neither averaged nor
        scored, and a consumer that forgets them is stopped by the metrics instead of scoring a made-up value.
        """

    @abstractmethod
    def loss(self, batch: TokenBatch, output: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named terms; ``total`` is minimised."""

    @abstractmethod
    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[nn.Parameter]:
        """All that identity-only transfer may train: the parameters that belong to these sessions and to no other.

        Args:
            sessions: ids; None for all that the model knows. Transfer names the sessions that it adapts to.
        """

    def n_fitted(self) -> int:
        """How many numbers training sets: the parameters, or the solution that a closed-form model holds in buffers."""
        return sum(t.numel() for t in (self.buffers() if self.closed_form else self.parameters()))

    def extra_state(self) -> dict[str, object]:
        """JSON-able facts beside the weights that rebuild the same model: vocabularies, sessions."""
        return {}

    def load_extra_state(self, state: dict[str, object]) -> None:
        """Rebuild tables and read-ins for a state from :meth:`extra_state`, before the weights are loaded."""


def check_same_units(session_id: str, known: Sequence[str], given: Sequence[str]) -> None:
    """Raise DataError where a session that the model knows comes with other units."""
    if list(known) == list(given):
        return
    pairs = enumerate(zip(known, given, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(known), len(given)))
    message = (
        f"{session_id}: the model knows it with {len(known)} units and it now has {len(given)}, the first that "
        f"differs being row {first}: train anew, or use the store that the model was trained on"
    )
    raise DataError(message)
