"""The rows ``aligned_pca`` and ``aligned_cca``: the trained sessions' linear decoders, on latents aligned to theirs.

The baselines of the field, without a gradient and without the run's model. A session's latents are principal components
of the smoothed roots of its counts, in the floor's bins. On those of each trained session a ridge with the floor's lags
is fitted, on its labelled training time. The calibration of an unseen session then gives a linear map from its latents
to the trained ones, and what is decoded is the mean of what the trained sessions' decoders say.

    aligned_pca  unlabelled  each component here is matched with one there, with its sign, so that their distributions
                             and autocorrelations are the most alike (Hungarian algorithm), and has its deviation. The
                             field's unlabelled alignment (Degenhart et al. 2020, doi 10.1038/s41551-020-0542-9) follows
                             the same units from day to day: sessions that share none leave no more than this
    aligned_cca  labelled    canonical correlations (Gallego et al. 2020, doi 10.1038/s41593-019-0555-4; across animals
                             Safaie et al. 2023, doi 10.1038/s41586-023-06714-0). There trials of one condition are
                             averaged; here, where there need be no trials, each moment of the calibration is paired
                             with the mean latents of the moments of the trained session that are nearest in behaviour
                             (what it is, was and will be ten bins apart)

Both end in weights on the lagged counts of the unseen session's units, so that a ``linear`` with these weights is what
is scored: same bins, history and times as the floor.

Shape letters: T bins, N units, K latents here, J latents there, C components of behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from spiketok.errors import ArtefactError, DataError, SpiketokError, require
from spiketok.evaluation.floor import binned_tokens, floor_config
from spiketok.evaluation.results import ALIGNED_CCA, FLOOR, Cell
from spiketok.evaluation.unit_statistics import LAG_BINS
from spiketok.models.batch import Stretch, whole_counts
from spiketok.models.nn import module_key
from spiketok.recording.nouns import Session
from spiketok.recording.splits import SplitRule
from spiketok.training.checkpoints import Run
from spiketok.training.config import RunConfig, model_class
from spiketok.training.predict import predict
from spiketok.training.sampling import SessionTokens
from spiketok.training.sections import TransferConfig
from spiketok.training.sessions import CALIBRATION, DividedSession, Stretches
from spiketok.training.tasks.base import Task

COUNTS = "counts"  # under which name binned tokens stand
LATENTS = 10  # as Gallego et al.
SMOOTH_S = 0.05  # deviation of the kernel, at least a bin's worth
NEIGHBOURS = 25  # moments of a trained session that stand for one of the calibration
QUANTILES = np.linspace(0.05, 0.95, 19)
AGAIN_BINS = (2, 5, 10, 25)  # of the autocorrelations of a latent

Opened = Callable[[Sequence[str]], Sequence[SessionTokens]]
Stored = Callable[[str], Session | None]


@dataclass(frozen=True, eq=False)
class Latents:
    """The latents of a session over some time.

    Args:
        mean: ``[N]`` of the roots of its counts. axes: ``[N, K]``. smooth: ``[T, K]`` of each stretch, of the smoothed
            counts. observed: bool ``[T]`` of each.
    """

    mean: np.ndarray
    axes: np.ndarray
    smooth: tuple[np.ndarray, ...]
    observed: tuple[np.ndarray, ...]

    @property
    def seen(self) -> np.ndarray:
        """``[T, K]``: those of all observed bins."""
        return np.concatenate([z[o] for z, o in zip(self.smooth, self.observed, strict=True)])


@dataclass(frozen=True, eq=False)
class Reference:
    """A trained session.

    Args:
        weight, intercept, alpha: of its decoder, ``[C, J, lags]`` and ``[C]``, the oldest bin first.
        matched: behaviour ``[T, 3 C]`` and latents ``[T, J]`` of its labelled moments.
    """

    latents: Latents
    weight: np.ndarray
    intercept: np.ndarray
    alpha: float
    matched: tuple[np.ndarray, np.ndarray]


class Alignments:
    """The trained sessions of a run, by task, each made once when a row first needs it.

    Args:
        trained: opens trained sessions by their ids; None where they are not at hand. stored: gives a session from the
            store, of which bins are counted. adapt, seed: which sessions of many.
    """

    def __init__(
        self, run: Run, trained: Opened | None, stored: Stored | None, adapt: TransferConfig, seed: int
    ) -> None:
        self.run, self.trained, self.stored, self.adapt, self.seed = run, trained, stored, adapt, seed
        self._made: dict[str, list[Reference] | str] = {}

    def of(self, task: Task) -> list[Reference]:
        """The trained sessions that have the task's behaviour.

        Raises:
            SpiketokError: there are none; the message says why.
        """
        if task.name not in self._made:
            try:
                self._made[task.name] = self._make(task.name)
            except ArtefactError:  # damage is no reason for an empty cell
                raise
            except SpiketokError as error:
                self._made[task.name] = str(error)
        found = self._made[task.name]
        if isinstance(found, str):
            raise SpiketokError(found)
        return found

    def _make(self, task: str) -> list[Reference]:
        run, config = self.run, self.run.config
        if self.trained is None:
            message = "it is aligned to the trained sessions' shards, which are not at hand"
            raise DataError(message)
        chosen = run.own
        if len(chosen) > self.adapt.map_sessions:
            picked = np.random.default_rng(self.seed).choice(len(chosen), self.adapt.map_sessions, replace=False)
            chosen = [chosen[k] for k in np.sort(picked)]
        rule = SplitRule("all") if config.split.kind == "day" else config.split  # whole days are trained on
        found = []
        for tokens in self.trained(chosen):
            if run.tokenized_anew(tokens):
                message = f"{tokens.id} was tokenized anew since the run was trained on it: nothing to align to"
                raise DataError(message)
            divided = run.divide(tokens, rule, config.data.train_share)
            asked = tuple(one for one in divided.tasks if one.name == task)
            if asked:
                floor = floor_config(config, tokens)
                with binned_tokens(tokens, floor, self.stored) as binned:
                    own = replace(divided, tokens=binned, tasks=asked)
                    found.append(_reference(floor, own, asked[0]))
        if not found:
            message = f"no trained session has '{task}', to which it could be aligned"
            raise DataError(message)
        return found


def aligned_cell(
    run: RunConfig, session: DividedSession, task: Task, protocol: str, alignments: Alignments, stored: Stored | None
) -> Cell:
    """The cell of one of the two rows; empty where no trained session or no binned counts are at hand."""
    head = task.head()
    if head.output != "values":
        return Cell(session.id, protocol, task.name, None, f"a linear decoder has no answer to '{task.kind}'")
    try:
        references = alignments.of(task)
        config = floor_config(run, session.tokens)
        with binned_tokens(session.tokens, config, stored) as tokens:
            divided = replace(session, tokens=tokens, tasks=(task,))
            labelled = protocol == ALIGNED_CCA
            stretches = Stretches([divided], CALIBRATION, labelled=labelled)[session.id]
            own = latents_of(config, stretches)
            behaviour = _matched(stretches, own, task.name) if labelled else None
            maps = [align_cca(own, behaviour, r) if labelled else align_pca(own, r.latents) for r in references]
            model = model_class(FLOOR)(config.model_config(), [head], config.timing)
            model.add_sessions([tokens.info])
            _set_weights(model.ridges[module_key(session.id)], own, references, maps)
            answers = predict(model, divided, "test", config, torch.device("cpu"))
    except ArtefactError:  # damage is no reason for an empty cell
        raise
    except SpiketokError as error:
        return Cell(session.id, protocol, task.name, None, str(error))
    numbers = own.mean.size + own.axes.size + sum(m.size + shift.size for m, shift in maps)
    how = {"latents": own.axes.shape[1], "trained_sessions": len(references)}
    return Cell(
        session.id, protocol, task.name, answers.score(task.name), "", numbers, answers[task.name], how
    )  # fmt: skip


# ---- latents --------------------------------------------------------------------------------------------------------


def _roots(stretch: Stretch) -> tuple[np.ndarray, np.ndarray]:
    """float64 ``[T, N]``, the roots of the counts that the floor reads, and bool ``[T]``, which bins were observed."""
    columns = stretch.columns[COUNTS]
    counts = whole_counts(columns) * columns.get("unit_observed", 1)
    return np.sqrt(np.asarray(counts, np.float64)), np.asarray(columns["observed"]) > 0


def latents_of(config: RunConfig, stretches: Sequence[Stretch]) -> Latents:
    """The principal components of the smoothed counts, at most :data:`LATENTS`.

    Raises:
        DataError: there are fewer observed bins than two.
    """
    ndimage = require("scipy.ndimage", "train", "the alignment rows")
    decomposition = require("sklearn.decomposition", "train", "the alignment rows")
    sigma = max(SMOOTH_S / (config.data.bin_ms / 1e3), 1.0)
    roots, observed = zip(*map(_roots, stretches), strict=True) if stretches else ((), ())
    bins = sum(int(o.sum()) for o in observed)
    if bins < 2:
        message = f"{bins} observed bins of {config.data.bin_ms:g} ms: there are no latents of so few"
        raise DataError(message)
    smooth = [ndimage.gaussian_filter1d(x, sigma, axis=0, mode="nearest") for x in roots]
    known = np.concatenate([x[o] for x, o in zip(smooth, observed, strict=True)])
    pca = decomposition.PCA(min(LATENTS, *known.shape), svd_solver="covariance_eigh").fit(known)
    axes = pca.components_.T
    return Latents(pca.mean_, axes, tuple((x - pca.mean_) @ axes for x in smooth), observed)


def _reference(config: RunConfig, session: DividedSession, task: Task) -> Reference:
    """A trained session: its latents, and the floor's ridge on them in place of units."""
    stretches = session.stretches("train")
    own = latents_of(config, stretches)
    raw = [replace(s, columns={COUNTS: {COUNTS: (_roots(s)[0] - own.mean) @ own.axes}}) for s in stretches]
    linear = replace(config.model_config(), sqrt=False)
    model = model_class(FLOOR)(linear, [task.head()], config.timing)
    info = replace(session.tokens.info, unit_id=np.arange(own.axes.shape[1]).astype(str), unit_columns={})
    model.add_sessions([info])
    model.fit({session.id: raw})
    ridge = model.ridges[module_key(session.id)]
    weight, intercept = ridge.weight.double().numpy(), ridge.intercept.double().numpy()
    return Reference(own, weight, intercept, float(ridge.alpha), _matched(stretches, own, task.name))


def _set_weights(
    ridge, own: Latents, references: Sequence[Reference], maps: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """The mean of the trained sessions' decoders, as weights on the units' own counts."""
    weight, intercept = 0.0, 0.0
    for reference, (matrix, shift) in zip(references, maps, strict=True):
        to_there = own.axes @ matrix  # [N, J]
        weight = weight + np.einsum("cjl,nj->cnl", reference.weight, to_there) / len(references)
        constant = np.einsum("cjl,j->c", reference.weight, shift - own.mean @ to_there)
        intercept = intercept + (reference.intercept + constant) / len(references)
    ridge.weight.copy_(torch.from_numpy(weight))
    ridge.intercept.copy_(torch.from_numpy(intercept))
    ridge.alpha.fill_(float(np.mean([r.alpha for r in references])))


# ---- alignment ------------------------------------------------------------------------------------------------------


def align_pca(own: Latents, there: Latents) -> tuple[np.ndarray, np.ndarray]:
    """``[K, J]`` and ``[J]``: the map that matches components by their distributions; what has no match stands at 0."""
    optimize = require("scipy.optimize", "train", "the alignment rows")
    sd, other_sd = own.seen.std(0), there.seen.std(0)
    plain, turned = _signatures(own, 1.0), _signatures(own, -1.0)
    other = _signatures(there, 1.0)
    apart = np.stack([np.square(one[:, None] - other[None]).mean(2) for one in (plain, turned)])  # [2, K, J]
    here, target = optimize.linear_sum_assignment(apart.min(0))
    matrix = np.zeros((len(sd), len(other_sd)))
    sign = np.where(apart[0] <= apart[1], 1.0, -1.0)[here, target]
    matrix[here, target] = sign * other_sd[target] / np.where(sd[here] > 0, sd[here], 1.0)
    return matrix, np.zeros(len(other_sd))


def _signatures(of: Latents, sign: float) -> np.ndarray:
    """``[K, F]``: quantiles and autocorrelations of each latent, scaled to a deviation of 1, and its share of all."""
    seen = of.seen
    sd = np.where(seen.std(0) > 0, seen.std(0), 1.0)
    quantiles = np.quantile(sign * seen / sd, QUANTILES, axis=0)
    again = []
    for lag in AGAIN_BINS:
        pairs = [z[:-lag] * z[lag:] for z in of.smooth if len(z) > lag]
        again.append(np.concatenate(pairs).mean(0) / sd**2 if pairs else np.zeros(len(sd)))
    share = np.log(np.square(sd) / np.square(sd).sum())
    return np.vstack([quantiles, again, share]).T


def align_cca(
    own: Latents, behaviour: tuple[np.ndarray, np.ndarray], there: Reference
) -> tuple[np.ndarray, np.ndarray]:
    """``[K, J]`` and ``[J]``: the map through canonical variates, paired at like behaviour.

    Args:
        behaviour: ``[T, 3 C]`` of the calibration's labelled moments, and the latents ``[T, K]`` there.

    Raises:
        DataError: there are no more moments than latents.
    """
    neighbors = require("sklearn.neighbors", "train", "the alignment rows")
    asked, here = behaviour
    known, latents = there.matched
    if len(here) <= max(here.shape[1], latents.shape[1]) or len(known) <= latents.shape[1]:
        message = f"{len(here)} and {len(known)} labelled moments are too few to align latents by"
        raise DataError(message)
    nearest = neighbors.KNeighborsRegressor(min(NEIGHBOURS, len(known))).fit(known, latents)
    return canonical_map(here, nearest.predict(asked))


def canonical_map(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[K, J]`` and ``[J]``: x into the space of y, each canonical variate of x standing for that of y.

    Args:
        x: ``[T, K]``. y: ``[T, J]``, row by row of the same moments.
    """
    decomposition = require("sklearn.cross_decomposition", "train", "the alignment rows")
    n = min(np.linalg.matrix_rank(x - x.mean(0)), np.linalg.matrix_rank(y - y.mean(0)))
    cca = decomposition.CCA(n, scale=False, max_iter=5000).fit(x, y)
    u, v = cca.transform(x, y)
    scale = v.std(0) / u.std(0) * np.sign((u * v).mean(0))
    matrix = (cca.x_rotations_ * scale) @ np.linalg.pinv(cca.y_rotations_)
    return matrix, y.mean(0) - x.mean(0) @ matrix


def _matched(stretches: Sequence[Stretch], own: Latents, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Behaviour now, before and after, ``[T, 3 C]``, where all three are known, and the latents ``[T, K]`` there."""
    first, last = LAG_BINS
    moments, latents = [], []
    for stretch, z, observed in zip(stretches, own.smooth, own.observed, strict=True):
        value, known = stretch.target[task].astype(np.float64), (stretch.weight[task] > 0) & observed
        at = np.arange(-first, len(value) - last)
        at = at[known[at] & known[at + first] & known[at + last]]
        moments.append(np.hstack([value[at + first], value[at], value[at + last]]))
        latents.append(z[at])
    return np.concatenate(moments), np.concatenate(latents)
