"""How much each session would help to decode another one, measured with a decoder that costs seconds.

What is unusual:

- the decoder knows no unit: a window's population is summed up as the mean of its units' activity, each unit weighed by
  each of its statistics (``unit_statistics``; what a population vector does with preferred directions). A ridge from
  the last few hundred milliseconds of these sums to the behaviour holds in every session that has statistics;
- it is fitted on a candidate's training time and scored on the target's calibration: block by block, with the
  statistics of the target's units from its other blocks;
- of the target nothing is cut but its calibration, the first seconds of its training time. Its test time is never read.

Shape letters: T bins, N units, F statistics, C components of behaviour, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.calibration import blocks_of, calibration_of
from spiketok.evaluation.identity_map import Ridge, fit_ridge
from spiketok.evaluation.maps import COUNTS
from spiketok.evaluation.unit_statistics import unit_statistics
from spiketok.models.batch import Stretch
from spiketok.recording.metrics import r2_variance_weighted
from spiketok.recording.splits import SplitRule
from spiketok.training.checkpoints import TrainedSession
from spiketok.training.config import RunConfig
from spiketok.training.curriculum import rate_hz
from spiketok.training.loop import prepare
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import DividedSession, divide
from spiketok.training.tasks.base import Task

LAGS = 15  # bins that a prediction sees, its own and those before it
BLOCKS = 3  # of the target's calibration; each is scored with the statistics of the others
WORST = -1.0  # what a target counts at least
FOLDS = 5  # of a candidate's training time, which choose the penalty


@dataclass(frozen=True)
class Ranked:
    """What was measured of a session.

    Args:
        session: its id. store_digest: of the stored session that was read. rate_hz: of its units, on average.
        own: R2 of its own behaviour in parts of its training time that were left out.
        transfer: by target, R2 of the target's behaviour in its calibration.
    """

    session: str
    store_digest: str
    rate_hz: float
    own: float
    transfer: dict[str, float]

    @property
    def worth(self) -> float:
        """What the ranking goes by: the mean over the targets, or without any the session's own.

        How much worse than the mean behaviour a decoder is says nothing: below -1 all count as -1, so that no target
        outweighs the others.
        """
        return float(np.maximum(list(self.transfer.values()), WORST).mean()) if self.transfer else self.own


@dataclass(frozen=True)
class Choice:
    """A ranking, the best session first.

    Args:
        task: what is decoded. targets: by id of each session that is to be helped, the digest of the stored session.
        calibration_s: seconds of each target that were seen; 0 without targets.
        sessions: all candidates. chosen: ids of those that are to be trained on, the best first.
    """

    task: str
    targets: dict[str, str]
    calibration_s: float
    sessions: tuple[Ranked, ...]
    chosen: tuple[str, ...]

    def facts(self) -> dict[str, object]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Decoder:
    """What a candidate gives: the scale of its statistics, and a ridge on the sums that they weigh."""

    centre: np.ndarray
    scale: np.ndarray
    ridge: Ridge


def rank_sessions(
    config: RunConfig,
    candidates: Sequence[SessionTokens],
    targets: Sequence[SessionTokens] = (),
    *,
    calibration_s: float = 30.0,
    top: int | None = None,
) -> Choice:
    """Rank sessions by what their decoders say of others, or without targets by what they say of themselves.

    Args:
        config: of a run of ``linear``, whose bins, behaviour and division of time are taken.
        candidates, targets: their binned shards. calibration_s: seconds of each target that are seen.
        top: how many are chosen; half of them, rounded up, by default with targets, else all.

    Raises:
        UnfitError: candidates that cannot serve. DataError: a target cannot. UsageError: there are not ``top``.
    """
    if top is not None and not 1 <= top <= len(candidates):
        message = f"--top {top}: there are {len(candidates)} sessions to choose from"
        raise UsageError(message)
    divided, (task,) = prepare(config, candidates)
    bin_s = config.data.bin_ms / 1e3
    blocks = {tokens.id: _calibration(config, tokens, task, calibration_s) for tokens in targets}
    found = []
    for session in divided:
        decoder, own = _fit(session.stretches("train"), task.name, bin_s)
        transfer = {target: _score(decoder, parts, task.name, bin_s) for target, parts in blocks.items()}
        digest = TrainedSession.of(session.tokens).store_digest
        found.append(Ranked(session.id, digest, rate_hz(session.tokens), own, transfer))
    found.sort(key=lambda r: (-r.worth, r.session))
    n = top or (-(-len(found) // 2) if targets else len(found))
    digests = {tokens.id: TrainedSession.of(tokens).store_digest for tokens in targets}
    seen_s = float(calibration_s) if targets else 0.0
    return Choice(task.name, digests, seen_s, tuple(found), tuple(r.session for r in found[:n]))


def _calibration(config: RunConfig, tokens: SessionTokens, task: Task, calibration_s: float) -> list[list[Stretch]]:
    """The target's calibration in blocks; no bin of one tells of another's or of any later time.

    Raises:
        DataError: the target has no such behaviour, or too little time.
    """
    if why := task.why_not(tokens):
        message = f"{tokens.id}: {why}"
        raise DataError(message)
    rule = config.split
    session = divide(tokens, (task,), SplitRule("block") if rule.kind == "day" else rule)
    calibration = calibration_of(session.splits["train"], session.id, calibration_s)
    parts = {f"block {k}": part for k, part in enumerate(blocks_of(calibration, BLOCKS))}
    held = replace(session, splits={**parts, "test": session.splits["test"]})
    blocks = [_labelled(held, part) for part in parts]
    if not all(blocks):
        message = f"{tokens.id}: a third of {calibration_s:g} s of calibration holds no whole window of {LAGS} bins"
        raise DataError(message)
    return blocks


def _labelled(session: DividedSession, part: str) -> list[Stretch]:
    return [s for s in session.stretches(part) if len(next(iter(s.weight.values()))) >= LAGS]


def _fit(stretches: Sequence[Stretch], task: str, bin_s: float) -> tuple[_Decoder, float]:
    """A candidate's decoder, and its R2 in the folds that were left out."""
    statistics = unit_statistics(stretches, COUNTS, bin_s, [task])
    centre, scale = statistics.mean(0), np.maximum(statistics.std(0), 1e-9)
    x, y = _rows(stretches, (statistics - centre) / scale, task)
    fold = np.arange(len(x)) * FOLDS // max(len(x), 1)
    ridge = fit_ridge(x, y, fold)
    return _Decoder(centre, scale, ridge), ridge.explained


def _score(decoder: _Decoder, blocks: Sequence[Sequence[Stretch]], task: str, bin_s: float) -> float:
    """R2 of the target's behaviour over all blocks."""
    said, true = [], []
    for k, block in enumerate(blocks):
        others = [stretch for j, other in enumerate(blocks) if j != k for stretch in other]
        statistics = unit_statistics(others, COUNTS, bin_s, [task])
        x, y = _rows(block, (statistics - decoder.centre) / decoder.scale, task)
        said.append(decoder.ridge.foretell(x))
        true.append(y)
    return r2_variance_weighted(np.concatenate(true), np.concatenate(said))


def _rows(stretches: Sequence[Stretch], weight_NF: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Predictors ``[R, LAGS * (F + 1)]`` and behaviour ``[R, C]`` of the bins that have both.

    A unit's activity is the root of its counts less its mean here, in units of its deviation, so that rates do not
    matter; the last sum is of all units alike.
    """
    root = [np.sqrt(_counts(stretch)) for stretch in stretches]
    whole = np.concatenate(root)
    mean, deviation = whole.mean(0), np.maximum(whole.std(0), 1e-9)
    weight = np.column_stack([weight_NF, np.ones(len(weight_NF))]) / len(weight_NF)
    x, y = [], []
    for stretch, counts in zip(stretches, root, strict=True):
        sums = ((counts - mean) / deviation) @ weight
        lagged = np.lib.stride_tricks.sliding_window_view(sums, LAGS, axis=0).reshape(len(sums) - LAGS + 1, -1)
        known = stretch.weight[task][LAGS - 1 :] > 0
        x.append(lagged[known])
        y.append(stretch.target[task][LAGS - 1 :][known].astype(np.float64))
    return np.concatenate(x), np.concatenate(y)


def _counts(stretch: Stretch) -> np.ndarray:
    """float64 ``[T, N]``, 0 where a unit was not recorded; the bins of a stretch are all observed."""
    columns = stretch.columns[COUNTS]
    return columns["counts"].astype(np.float64) * (columns.get("unit_observed", np.uint8(1)) > 0)
