"""One of the package's models with its batches and its score, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiketok.api.dataset import Placing, Recipe, WindowDataset, WindowLoader
from spiketok.errors import UsageError
from spiketok.models.base import Model
from spiketok.models.batch import Batch, Progress
from spiketok.training.checkpoints import seed_of
from spiketok.training.config import RunConfig
from spiketok.training.curriculum import training_sampler
from spiketok.training.loop import build_model, deterministic, prepare
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.predict import score_split
from spiketok.training.requests import Told, TrainingRequest, without_unfit
from spiketok.training.sessions import DividedSession, Stretches
from spiketok.training.tables import clip_
from spiketok.training.tasks.base import Score, Task
from spiketok.training.unit_dropout import UnitDropout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spiketok.api.lightning import WindowModule


@dataclass(eq=False)
class Prepared:
    """A run before its first step: ``ws.prepare(...)``.

    Attributes:
        config: the resolved configuration. model: with rows for the sessions, fitted where it is fitted.
        tasks: what is asked. sessions: with their time divided. held_out: sessions that were left out.
    """

    config: RunConfig
    model: Model
    tasks: Sequence[Task]
    divided: Sequence[DividedSession] = field(repr=False)
    held_out: Sequence[str] = ()
    _optimizer: torch.optim.Optimizer | None = field(default=None, init=False, repr=False)

    def __repr__(self) -> str:
        of = ", ".join(task.name for task in self.tasks)
        return (
            f"Prepared({self.config.model} {self.config.size}, {self.model.n_fitted():,} numbers, {of}, "
            f"{len(self.divided)} sessions, {self.steps} steps)"
        )

    @property
    def sessions(self) -> list[str]:
        return [session.id for session in self.divided]

    @property
    def steps(self) -> int:
        """How many steps the configuration asks for."""
        optim = self.config.optim
        return optim.steps or optim.epochs * self._in_epoch

    @cached_property
    def _in_epoch(self) -> int:
        """Steps in a pass, of one process."""
        return -(-len(self.dataset(rank=0, world=1)) // self.config.optim.accumulate)

    @property
    def _rank(self) -> int:
        distributed = torch.distributed
        return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0

    def dataset(self, split: str = "train", **options: object) -> WindowDataset:
        """The batches of a split as the model gets them; of ``"train"`` the very ones that ``spiketok train`` draws.

        Args:
            options: ``batch_size``, and ``rank``, ``world``, ``even`` of :class:`WindowDataset`.
        """
        config, model, training = self.config, self.model, split == "train"
        data, dropout = config.data, config.data.unit_dropout if training else None
        sampler = Placing(data.window_ns, shuffled=False, seed=config.seed)
        if training:
            sampler = partial(training_sampler, config, one_session=model.one_session_batches)
        recipe = Recipe(
            sessions=self.divided,
            tasks=tuple(self.tasks),
            split=split,
            sampler=sampler,
            window_ns=data.window_ns,
            batch_size=int(options.pop("batch_size", data.batch_size)),
            layout="packed",
            one_session=model.one_session_batches,
            unit_dropout=UnitDropout(dropout.min, dropout.mode, dropout.max, dropout.peak) if dropout else None,
            seed=config.seed,
            unit_rows={s.id: model.unit_row(s.tokens.info) for s in self.divided},
            session_rows=model.session_rows(self.sessions),
            data=data,
        )
        return WindowDataset(recipe, **options)

    def loader(self, split: str = "train", **options: object) -> WindowLoader:
        """A DataLoader of :meth:`dataset`, each iteration of which is the next epoch.

        Args:
            options: of ``torch.utils.data.DataLoader``, as ``num_workers``.
        """
        return self.dataset(split).loader(**options)

    def datamodule(self, num_workers: int = 0) -> WindowModule:
        """The same batches for a Lightning Trainer.

        Raises:
            MissingExtraError: Lightning is not installed.
        """
        from spiketok.api.lightning import WindowModule

        return WindowModule(self.dataset(), num_workers=num_workers)

    def loss(self, batch: Batch, step: int = 0) -> dict[str, Tensor]:
        """What the model is trained by: named terms, of which ``total`` is minimised.

        What the model draws (dropout, masks) follows from the seed and the step, as in ``spiketok train``: torch's
        global generator is seeded by them.

        Args:
            step: how far the training is; terms may be ramped.
        """
        progress = Progress(step, self.steps)
        self.model.begin_step(progress)
        torch.manual_seed(seed_of(self.config.seed, step, self._rank))
        return self.model.loss(batch, self.model(batch), progress)

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the configuration; :meth:`set_rate` sets its rate before each step."""
        self._optimizer = build_optimizer(self.model, self.config.optim)
        return self._optimizer

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set and return the learning rate of a step, as the configuration's schedule says."""
        return set_rates(optimizer, step, self.steps, self.config.optim, self._in_epoch)

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Tensor]:
        """One step as the configuration has it: its rate, the loss, the gradient, clipped, the optimizer's step.

        Args:
            optimizer: of :meth:`optimizer`. step: which one, from 0.

        Raises:
            UsageError: the configuration adds up the gradients of several batches.
        """
        optim = self.config.optim
        if optim.accumulate > 1:
            message = f"optim.accumulate is {optim.accumulate} and a step is of one batch here: set it to 1"
            raise UsageError(message)
        self.set_rate(optimizer, step)
        with deterministic(batch.session_B.device):
            losses = self.loss(batch, step)
            losses["total"].backward()
            if optim.clip is not None:
                clip_(self.model.parameters(), optim.clip)
            optimizer.step()
        optimizer.zero_grad()
        return losses

    def score(self, split: str = "test", device: torch.device | str = "cpu") -> dict[str, dict[str, Score]]:
        """The model's scores by session and task, as ``spiketok train`` tells them of the test split."""
        if self._optimizer is not None:
            self._optimizer.catch_up()
        with deterministic(torch.device(device)):
            return score_split(self.model, self.divided, split, self.config, device)[0]


def prepared(request: TrainingRequest, told: Told) -> Prepared:
    """A request with its model built and its time divided, as a training does it before its first step.

    Raises:
        as :func:`spiketok.training.loop.prepare`.
    """
    config, base = request.config, request.base
    divided, tasks = without_unfit(
        partial(prepare, config), request.sessions, request.unfit, named=request.named, told=told
    )
    model = build_model(config, tasks, divided, base)
    if base is None:
        model.fit(Stretches(divided, "train"))
    else:
        known = {s.id for s in base.trained_on}
        model.fit_sessions(Stretches([s for s in divided if s.id not in known], "train"))
    return Prepared(config, model, tasks, divided, request.held_out)


def settings_words(settings: Mapping[str, object] | Sequence[str] | None) -> list[str]:
    """Settings as ``--set`` takes them: ``{"optim.steps": 200}`` or ``["optim.steps=200"]``.

    >>> settings_words({"optim.steps": 200, "data": {"unit_dropout": None}})
    ['optim.steps=200', 'data.unit_dropout=off']
    """
    from spiketok.settings import typed

    if settings is None or not hasattr(settings, "items"):
        return list(settings or [])
    words = []
    for key, value in settings.items():
        if hasattr(value, "items"):
            words += [f"{key}.{word}" for word in settings_words(value)]
        else:
            words.append(f"{key}={typed(value)}")
    return words
