"""The identity maps of a run: made of its trained sessions when a row of the transfer table first needs one.

What is unusual: the shards of the trained sessions are opened when they are needed and not before; where they are not
at hand, the rows that need a map are empty and say why.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from spiketok.errors import ArtefactError, DataError, SpiketokError
from spiketok.evaluation.calibration import How, calibration_of
from spiketok.evaluation.floor import binned_tokens, floor_config
from spiketok.evaluation.identity_map import IdentityMap, fit_map
from spiketok.evaluation.unit_statistics import unit_statistics
from spiketok.models.base import Model
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.recording.splits import SplitRule
from spiketok.training.checkpoints import Run
from spiketok.training.config import RunConfig
from spiketok.training.predict import session_loader
from spiketok.training.sampling import SequentialWindows, SessionTokens
from spiketok.training.sections import TransferConfig
from spiketok.training.sessions import CALIBRATION, DividedSession

Opened = Callable[[Sequence[str]], Sequence[SessionTokens]]
Stored = Callable[[str], Session | None]
COUNTS = "counts"  # under which name binned tokens stand


class Maps:
    """Maps by what calibration shows, each fitted once.

    Args:
        run: its rows are foretold. trained: opens trained sessions by their ids; None where they are not at hand.
        stored: gives a session from the store, of which bins are counted.
        length_s, how: of the calibration, which the stretches of trained sessions are as long and spread as.
        adapt: how many sessions, and how many stretches of each. seed: of the stretches.
    """

    def __init__(
        self,
        run: Run,
        trained: Opened | None,
        stored: Stored | None,
        length_s: float,
        how: How,
        adapt: TransferConfig,
        seed: int,
    ) -> None:
        self.run, self.trained, self.stored = run, trained, stored
        self.length_s, self.how, self.adapt, self.seed = length_s, how, adapt, seed
        self._fitted: dict[tuple[str, ...], IdentityMap | str] = {}
        self._sessions: list[DividedSession] | None = None

    @property
    def at_hand(self) -> bool:
        """Whether trained sessions can be opened at all."""
        return self.trained is not None

    def of(self, tasks: tuple[str, ...]) -> IdentityMap:
        """The map from statistics that know these behaviours; of none for calibration without labels.

        Raises:
            SpiketokError: there is none; the message says why.
        """
        if tasks not in self._fitted:
            try:
                self._fitted[tasks] = self._fit(tasks)
            except ArtefactError:  # damage is no reason for an empty cell
                raise
            except SpiketokError as error:
                self._fitted[tasks] = str(error)
        found = self._fitted[tasks]
        if isinstance(found, str):
            raise SpiketokError(found)
        return found

    def _fit(self, tasks: tuple[str, ...]) -> IdentityMap:
        model, chosen = self.run.model, self._chosen()
        if not knows_units(model, chosen[0]):
            return fit_map(model, chosen, {})
        if self._sessions is None:
            self._sessions = self._open(chosen)
        sessions = [s for s in self._sessions if {t.name for t in s.tasks}.issuperset(tasks)]
        if not sessions:
            message = f"no trained session has {' and '.join(tasks)}, of which a map could be learned"
            raise DataError(message)
        if model.infers:
            model = copy.deepcopy(model)
            for session in sessions:
                infer_rows(model, session, self.run.config.data.window_ns)
        draws = {s.id: self._draws(s, tasks) for s in sessions}
        places = {s.id: model.unit_places(s.tokens.info) for s in sessions} if model.by_place else None
        alike = self.adapt.new_units == "alike"
        return fit_map(model, [s.id for s in sessions], draws, places, alike)

    def _chosen(self) -> list[str]:
        """Trained sessions, some of many; the same whatever is asked."""
        known = sorted(set(self.run.own) & set(self.run.model.sessions()))
        if not known:
            message = "the model has rows of no session of its run, of which a map could be learned"
            raise DataError(message)
        if len(known) > self.adapt.map_sessions:
            picked = np.random.default_rng(self.seed).choice(len(known), self.adapt.map_sessions, replace=False)
            known = [known[k] for k in np.sort(picked)]
        return known

    def _open(self, chosen: Sequence[str]) -> list[DividedSession]:
        if self.trained is None:
            message = "its map is learned of the trained sessions' shards, which are not at hand"
            raise DataError(message)
        config, found = self.run.config, []
        rule = SplitRule("all") if config.split.kind == "day" else config.split  # whole days are trained on
        for tokens in self.trained(chosen):
            info = tokens.info
            rows = [part.value.shape[axis] for part, axis in self.run.model.unit_parts(info.id)]
            if any(n != info.n_units for n in rows):
                message = f"{info.id} was trained on with {rows[0]} units and now has {info.n_units}: no map of it"
                raise DataError(message)
            if self.run.tokenized_anew(tokens):
                message = f"{info.id} was tokenized anew since the run was trained on it: no map of it"
                raise DataError(message)
            found.append(self.run.divide(tokens, rule, config.data.train_share))
        return found

    def _draws(self, session: DividedSession, tasks: Sequence[str]) -> list[np.ndarray]:
        time = session.splits["train"]
        length_s = min(self.length_s, time.total_ns / NS_PER_S)
        how = "spread" if self.how == "spread" else "random"
        parts = [
            replace(session, splits={CALIBRATION: part, "test": Intervals.empty()})
            for k in range(self.adapt.map_draws)
            for part in [calibration_of(time, session.id, length_s, how, k, self.seed ^ zlib.crc32(b"map"))]
        ]
        return statistics_of(self.run.config, parts, self.stored, tasks)


def knows_units(model: Model, session: str) -> bool:
    """Whether a map can say something of the units of a session."""
    return model.by_place or model.infers or bool(model.unit_parts(session))


def infer_rows(model: Model, session: DividedSession, window_ns: int, device: torch.device | str = "cpu") -> None:
    """Let a model that infers units have rows of a session's: what it infers of all that it may know of it."""
    split = CALIBRATION if CALIBRATION in session.splits else "train"
    sampler = SequentialWindows([session.windows(split)], window_ns)
    batch = next(iter(session_loader(model, sampler, 1, calibration=session.calibration)))
    model.calibrate([batch.to(device)])
    model.own_units(session.id)


def statistics_of(
    config: RunConfig, parts: Sequence[DividedSession], stored: Stored | None, tasks: Sequence[str]
) -> list[np.ndarray]:
    """``[N, F]`` a part: the unit statistics of several calibrations of one session, whose bins are counted once.

    Args:
        tasks: whose targets are read; nothing of any other is cut.

    Raises:
        SpiketokError: there are no counts, or a calibration holds no whole bin.
    """
    first, found = parts[0], []
    read = tuple(task for task in first.tasks if task.name in tasks)
    floor = floor_config(config, first.tokens)
    with binned_tokens(first.tokens, floor, stored) as tokens:
        for part in parts:
            stretches = replace(part, tokens=tokens, tasks=read).stretches(CALIBRATION)
            if not stretches:
                message = f"{part.id}: its calibration holds no whole bin of {floor.data.bin_ms:g} ms"
                raise DataError(message)
            found.append(unit_statistics(stretches, COUNTS, floor.data.bin_ms / 1e3, tasks))
    return found
