"""How much each unit of a session depends on each other one, as a trained model has it; and what that is worth.

What is unusual:

- a coupling is of the model: of what it reads from one unit about another. Units that follow a common cause are coupled
  as well, as far as the model is not given the cause;
- where it is known who hears whom (a simulation), the matrix is scored by the area under the curve (AUC): the chance
  that a pair that is coupled stands above one that is not. Beside it stand pairs of a truth whose units are shuffled,
  which keeps how many each unit hears.

Shape letters: N units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import DataError, UsageError, require
from spiketok.models.batch import Batch
from spiketok.storage.files import atomic_file
from spiketok.storage.names import file_stem
from spiketok.training.checkpoints import Run
from spiketok.training.loader import Loader
from spiketok.training.predict import session_loader
from spiketok.training.sampling import SequentialWindows, SessionTokens
from spiketok.training.sessions import DividedSession, require_window

SHUFFLES = 1000


@dataclass(frozen=True, eq=False)
class Coupling:
    """The coupling of a session's units.

    Args:
        matrix: float64 ``[N, N]``: how much unit i depends on unit j, 0 where it does not; NaN where nobody knows.
        unit_id: str ``[N]``. how: the way in which it was found. seconds: of test time that it was found in.
    """

    session: str
    matrix: np.ndarray
    unit_id: np.ndarray
    how: str
    seconds: float


def coupling(
    run: Run, tokens: SessionTokens, how: str | None = None, *, seconds: float, device: torch.device | str = "cpu"
) -> Coupling:
    """The coupling of a session's units, from the first ``seconds`` of its test time.

    Args:
        how: one of the model's ``couplings``; its first by default.

    Raises:
        UsageError: the model knows of no coupling, or not in this way. DataError: it does not know the session, or no
            window fits into its test time.
    """
    model = run.model
    if not model.couplings:
        message = f"{run.path.name}: {run.config.model} does not say how units depend on each other (neuroformer does)"
        raise UsageError(message)
    how = model.couplings[0] if how is None else how
    if how not in model.couplings:
        message = f"--how is '{how}', {run.config.model} has {' and '.join(model.couplings)}"
        raise UsageError(message)
    if not seconds > 0:
        message = f"--seconds is {seconds:g}, must be above 0"
        raise UsageError(message)
    if tokens.id not in model.sessions():
        message = f"{tokens.id} is none of the sessions that {run.path.name} was trained on: {', '.join(run.own)}"
        raise DataError(message)
    model.to(device).eval()
    session, config = run.divide(tokens), run.config.data
    n_batches = max(round(seconds * 1e9 / config.window_ns / config.batch_size), 1)
    used = 0

    def batches() -> Iterator[Batch]:
        nonlocal used
        for batch in islice(_windows(run, session), n_batches):
            used += len(batch)
            yield batch.to(device)

    with torch.inference_mode():
        matrix = model.coupling(batches(), how).numpy()
    return Coupling(tokens.id, matrix, np.asarray(tokens.info.unit_id).astype(str), how, used * config.window_ns / 1e9)


def _windows(run: Run, session: DividedSession) -> Loader:
    windows, data = session.windows("test"), run.config.data
    require_window(windows, "test", data.window_ns)
    sampler = SequentialWindows([windows], data.window_ns)
    return session_loader(run.model, sampler, data.batch_size, calibration=session.calibration)


# ---- what it is worth -----------------------------------------------------------------------------------------------


def strongest(found: Coupling, n: int = 10) -> list[dict[str, object]]:
    """The pairs of different units with the largest values: which unit depends, on which, and by how much."""
    matrix = np.where(np.eye(len(found.matrix), dtype=np.bool_), -np.inf, np.nan_to_num(found.matrix, nan=-np.inf))
    order = np.argsort(-matrix, axis=None, kind="stable")[:n]
    pairs = [divmod(int(k), len(matrix)) for k in order if np.isfinite(matrix.flat[k])]
    return [
        {"unit": found.unit_id[i], "depends_on": found.unit_id[j], "coupling": float(matrix[i, j])} for i, j in pairs
    ]


def against_truth(found: Coupling, truth: np.ndarray) -> dict[str, float | int]:
    """How well pairs that are truly coupled stand above others, of all pairs of different units.

    Args:
        truth: ``[N, N]``, not 0 where unit i hears unit j.

    Returns:
        ``auc``; ``shuffled`` and ``shuffled_sd``, its mean and standard deviation over truths with shuffled units;
        ``pairs``, those that are coupled.

    Raises:
        DataError: a truth of other units, or in which no pair is coupled, or every one.
    """
    n = len(found.matrix)
    if truth.shape != (n, n):
        message = f"{found.session} has {n} units, its truth is of shape {truth.shape}: it is of another session"
        raise DataError(message)
    apart = ~np.eye(n, dtype=np.bool_) & np.isfinite(found.matrix)
    coupled = truth != 0
    if not coupled[apart].any() or coupled[apart].all():
        message = f"{found.session}: {int(coupled[apart].sum())} of {int(apart.sum())} pairs are coupled: no curve"
        raise DataError(message)
    rank = np.zeros((n, n))
    _, place, times = np.unique(found.matrix[apart], return_inverse=True, return_counts=True)
    rank[apart] = (np.cumsum(times) - (times - 1) / 2)[place]  # equal ones have the mean of their ranks

    def auc(true: np.ndarray) -> float:
        positive = true & apart
        n_positive, n_all = int(positive.sum()), int(apart.sum())
        return float((rank[positive].mean() - (n_positive + 1) / 2) / (n_all - n_positive))

    random = np.random.default_rng(0)
    shuffled = []
    for _ in range(SHUFFLES):
        order = random.permutation(n)
        other = coupled[np.ix_(order, order)]
        if other[apart].any() and not other[apart].all():
            shuffled.append(auc(other))
    facts = {"auc": auc(coupled), "shuffled": float(np.mean(shuffled)), "shuffled_sd": float(np.std(shuffled))}
    return facts | {"pairs": int(coupled[apart].sum())}


# ---- files ----------------------------------------------------------------------------------------------------------


def write_coupling(found: Coupling, run: Run, folder: Path) -> Path:
    """Write ``matrix``, ``unit_id``, ``session``, ``how``, ``seconds`` and ``run_digest`` as ``<session>.npz``.

    Returns:
        the file.
    """
    path = Path(folder) / f"{file_stem(found.session)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as wip, wip.open("wb") as file:
        np.savez(
            file,
            matrix=found.matrix,
            unit_id=found.unit_id,
            session=np.array(found.session),
            how=np.array(found.how),
            seconds=np.array(found.seconds),
            run_digest=np.array(run.digest),
        )
    return path


def draw_coupling(found: Coupling, path: Path, truth: np.ndarray | None = None) -> None:
    """Draw the matrix, a row for each unit that depends; pairs that are truly coupled have a ring.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "plots", "drawing the coupling")
    matplotlib.rcParams["text.parse_math"] = False  # a name with "$" is no formula
    from matplotlib.figure import Figure

    n = len(found.matrix)
    shown = np.where(np.eye(n, dtype=np.bool_), np.nan, found.matrix)
    most = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    side = min(max(4.0, 1.5 + 0.22 * n), 14.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.add_subplot()
    image = axis.imshow(shown, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    if truth is not None:
        i, j = np.nonzero((truth != 0) & ~np.eye(n, dtype=np.bool_))
        axis.scatter(j, i, s=min(60, 12_000 / n**2 + 12), facecolors="none", edgecolors="black", linewidths=1.0)
    if n <= 60:
        axis.set_xticks(range(n), found.unit_id, rotation=90, fontsize=7)
        axis.set_yticks(range(n), found.unit_id, fontsize=7)
    axis.set_facecolor("#d9d9d9")
    axis.set_xlabel("on which it depends")
    axis.set_ylabel("unit")
    rings = "; rings: truly coupled" if truth is not None else ""
    axis.set_title(f"{found.session}\ncoupling by {found.how}{rings}", fontsize=9, loc="left")
    figure.colorbar(image, ax=axis, shrink=0.8, label="ln of the ratio")
    with atomic_file(path) as wip:
        figure.savefig(wip, dpi=110, format="png", metadata={"Software": None})
