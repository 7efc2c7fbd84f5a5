"""Which sessions an epoch of a training draws its windows from: all, or first some and then more and more.

What is unusual:

- every epoch has as many batches as one of all sessions: while some are missing, those that are there are passed over
  several times, each time at other places. So the same number of steps is the same amount of training, and what is
  compared is the order alone;
- which sessions are there follows from the epoch, the order and the seed alone: a resumed run meets the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import NS_PER_S
from spiketok.training.config import RunConfig
from spiketok.training.sampling import (
    RandomWindows,
    Sampler,
    SessionTokens,
    SessionWindows,
    Stream,
    generator,
    listing,
)
from spiketok.training.tasks.base import Task, own_sampler


class Curriculum(RandomWindows):
    """Random windows of the first few sessions of an order, of more in each epoch, and at last of all.

    Args:
        sessions, window_ns, seed, weights: as of :class:`RandomWindows`.
        order: positions in ``sessions`` of all of them, the first one first.
        first: share of the sessions that epoch 0 has. epochs: from this epoch on all are there.
        block: windows of a session come in multiples of this while some are missing: the size of a batch, where each
            batch is of one session.
    """

    def __init__(
        self,
        sessions: Sequence[SessionWindows],
        window_ns: int,
        *,
        order: Sequence[int],
        first: float,
        epochs: int,
        block: int = 1,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(sessions, window_ns, seed=seed, weights=weights)
        self.order, self.first, self.epochs, self.block = list(order), first, epochs, block

    def describe(self) -> dict[str, object]:
        order = [self.sessions[k].id for k in self.order]
        return super().describe() | {"order": order, "first": self.first, "epochs": self.epochs, "block": self.block}

    def present(self, epoch: int) -> list[int]:
        """The positions of the sessions that an epoch has, in their order; those without a window are passed over."""
        whole = super().wanted(epoch)
        order = [k for k in self.order if whole[k] > 0]
        share = self.first + (1 - self.first) * min(epoch / self.epochs, 1.0)
        return order[: max(math.ceil(share * len(order) - 1e-9), 1)]

    def wanted(self, epoch: int) -> list[int]:
        whole = super().wanted(epoch)
        if epoch >= self.epochs:
            return whole
        blocks = np.array([-(-n // self.block) for n in whole])
        present = self.present(epoch)
        found = np.zeros(len(whole), np.int64)
        found[present] = divided(int(blocks.sum()), blocks[present])
        return (found * self.block).tolist()


def divided(total: int, parts: np.ndarray) -> np.ndarray:
    """A whole number in proportion to parts, by largest remainders.

    >>> divided(10, np.array([1, 1, 1])).tolist()
    [4, 3, 3]
    """
    exact = total * parts / parts.sum()
    found = np.floor(exact).astype(np.int64)
    most = np.argsort(found - exact, kind="stable")[: total - int(found.sum())]
    found[most] += 1
    return found


def require_named(config: RunConfig, session_ids: Sequence[str]) -> None:
    """Raise UsageError where weights or an order name other sessions than those of the training."""
    data = config.data
    for session in data.session_weights:
        if session not in session_ids:
            message = f"data.session_weights names '{session}', which is not trained on ({', '.join(session_ids[:6])})"
            raise UsageError(message)
    if data.curriculum == "listed":
        missing = sorted(set(session_ids) - set(data.curriculum_order))
        other = sorted(set(data.curriculum_order) - set(session_ids))
        twice = len(set(data.curriculum_order)) < len(data.curriculum_order)
        if missing or other or twice:
            fact = "names a session twice" if twice else f"names {other[0]}, which is not trained on" if other else ""
            fact = fact or f"lacks {listing(missing, 3)}"
            message = f"data.curriculum is listed and data.curriculum_order {fact}: give each trained session once"
            raise UsageError(message)


def order_of(config: RunConfig, sessions: Sequence[SessionWindows]) -> list[int]:
    """Positions of the sessions in the order in which they enter.

    Raises:
        UsageError: the rates are asked for and nobody has a spike.
    """
    data, ids = config.data, [session.id for session in sessions]
    if data.curriculum == "listed":
        return [ids.index(session) for session in data.curriculum_order]
    if data.curriculum == "drawn":
        return generator(Stream.CURRICULUM, config.seed).permutation(len(ids)).tolist()
    rate = [rate_hz(session.tokens) for session in sessions]
    if not any(rate):
        message = "data.curriculum is rate and no session has a spike: use drawn or listed"
        raise UsageError(message)
    return sorted(range(len(ids)), key=lambda k: (-rate[k], ids[k]))


def rate_hz(tokens: SessionTokens) -> float:
    """Mean rate of a session's units in its observed time."""
    observed_s = tokens.observed.total_ns / NS_PER_S
    return tokens.info.n_spikes / max(tokens.info.n_units, 1) / observed_s if observed_s else 0.0


def training_sampler(
    config: RunConfig, windows: Sequence[SessionWindows], tasks: Sequence[Task], *, one_session: bool
) -> Sampler:
    """Where the windows of a training come from.

    Args:
        one_session: each batch is of one session.

    Raises:
        UsageError: weights or a curriculum do not apply to a task whose windows are its own.
    """
    data = config.data
    own = own_sampler(tasks, windows, data.window_ns, seed=config.seed, training=True)
    if own is not None:
        key = "session_weights" if data.session_weights else "curriculum" if data.curriculum != "off" else ""
        if key:
            message = f"data.{key} does not apply to {tasks[0].name}, whose windows are its own: leave it out"
            raise UsageError(message)
        return own
    weights = {s.id: data.session_weights.get(s.id, 1.0) for s in windows}
    if data.curriculum == "off":
        return RandomWindows(windows, data.window_ns, seed=config.seed, weights=weights)
    return Curriculum(
        windows,
        data.window_ns,
        order=order_of(config, windows),
        first=data.curriculum_first,
        epochs=data.curriculum_epochs,
        block=data.batch_size if one_session else 1,
        seed=config.seed,
        weights=weights,
    )


def require_all_met(config: RunConfig, steps_in_epoch: int) -> None:
    """Raise UsageError where a training ends before the last sessions enter it.

    Args:
        steps_in_epoch: 0 for a model that is fitted in closed form, in which nothing has an order.
    """
    data, optim = config.data, config.optim
    if data.curriculum == "off":
        return
    if not steps_in_epoch:
        message = f"data.curriculum is {data.curriculum} and {config.model} is fitted in closed form: leave it out"
        raise UsageError(message)
    steps = optim.steps or optim.epochs * steps_in_epoch
    if steps <= data.curriculum_epochs * steps_in_epoch:
        message = (
            f"data.curriculum_epochs is {data.curriculum_epochs} and the training has {steps / steps_in_epoch:.3g} "
            f"epochs of {steps_in_epoch} steps, so that the last sessions would never be met: use fewer, or more than "
            f"{data.curriculum_epochs * steps_in_epoch} optim.steps"
        )
        raise UsageError(message)
