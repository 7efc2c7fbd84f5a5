"""The sections of a run's configuration that do not depend on the model: data, optim, transfer.

What is unusual: each checks its own values when it is made, so that a wrong one is refused before anything is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from spiketok.errors import UsageError
from spiketok.recording.segments import CONTINUOUS, OBSERVED

# Keys of optim of which one layer (recipe, file, --set) gives at most one, and a later layer's replaces the others.
RIVALS = (("epochs", "steps"), ("warmup", "warmup_steps", "warmup_epochs"))
MOST_WINDOWS, MOST_DEVICES = 2**20, 1024  # of a batch, of a run: what is beyond is a slip of the hand
MOST_OVERLAPPING = 10_000  # windows of an evaluation over each other
MOST_STEPS = 10**9  # at a millisecond each, eleven days
MOST_RATE = 1e15  # of what gradients are multiplied by: the product of two is a number of 32 bits
MOST_PIECES = 1000  # of what is cut anew for each session: draws of maps, blocks of a calibration


@dataclass(frozen=True)
class UnitDropoutConfig:
    """How many units a training window keeps: between ``min`` and ``max``, most often near ``mode`` (as POYO)."""

    min: int = 30
    mode: int = 100
    max: int = 300
    peak: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.min <= self.mode <= self.max:
            message = f"data.unit_dropout needs 0 < min <= mode <= max, got {self.min}, {self.mode}, {self.max}"
            raise UsageError(message)
        _positive("data.unit_dropout", self, "peak")


@dataclass(frozen=True)
class DataConfig:
    """What the model reads, and how its predictions are put together.

    Args:
        window_ms: length of a window. eval_step_ms: step between windows whose predictions are averaged; half a
            window by default (``"auto"``), less where a model needs more history than that inside its window.
        batch_size: windows in a batch.
        bin_ms: bin width of the schemes that bin.
        segments: what is baked: ``"observed"`` (each stretch of observed time), ``"continuous"`` (the whole extent of
            the session) or ``"trials:ALIGN,PRE_MS,POST_MS"``.
        unit_dropout: ``"off"``, or its table.
        session_weights: relative number of windows by session id; 1 for those not named.
        stitch: how predictions of overlapping windows become one: ``"mean"`` of all that speak of a time, or
            ``"causal"``, that of the window that ends first after it and so knows least of what follows.
        train_share: share of each session's training time that is used, its first part; for curves over the amount of
            data. The rest is not read; valid and test time stay as they are.
        exposure: bins that were recorded in part are read and scored by their share (counts of ``binned`` alone).
        curriculum: in which order sessions enter the training (``curriculum``): ``"off"``, all at once; ``"drawn"``, by
            the seed; ``"rate"``, those whose units fire most first; ``"listed"``, as ``curriculum_order`` says.
        curriculum_order: ids of all sessions of the training, the first one first. curriculum_first: share of the
            sessions that the first epoch has. curriculum_epochs: from this epoch on all are there.
    """

    window_ms: float = 1000.0
    eval_step_ms: float | None = None
    batch_size: int = 32
    bin_ms: float = 20.0
    segments: str = OBSERVED
    unit_dropout: UnitDropoutConfig | None = None
    session_weights: dict[str, float] = field(default_factory=dict)
    stitch: Literal["mean", "causal"] = "mean"
    train_share: float = 1.0
    exposure: bool = False
    curriculum: Literal["off", "drawn", "rate", "listed"] = "off"
    curriculum_order: tuple[str, ...] = ()
    curriculum_first: float = 0.25
    curriculum_epochs: int = 4

    def __post_init__(self) -> None:
        _positive("data", self, "window_ms", "batch_size", "bin_ms")
        _at_most("data", self, MOST_WINDOWS, "batch_size")
        _whole_ns("data", self, "window_ms", "bin_ms")
        if not 0 < self.train_share <= 1:
            message = f"data.train_share is {self.train_share}, must be above 0 and at most 1"
            raise UsageError(message)
        if self.eval_step_ms is not None:
            _positive("data", self, "eval_step_ms")
            _whole_ns("data", self, "eval_step_ms")
            if self.eval_step_ms < self.window_ms / MOST_OVERLAPPING:
                message = (
                    f"data.eval_step_ms is {self.eval_step_ms:g} and data.window_ms is {self.window_ms:g}: every "
                    f"moment would lie in more than {MOST_OVERLAPPING} windows"
                )
                raise UsageError(message)
        whole = self.segments in (OBSERVED, CONTINUOUS)
        if not whole and not re.fullmatch(r"trials:[^,]+,-?[\d.]+,-?[\d.]+", self.segments):
            known = f"'{OBSERVED}', '{CONTINUOUS}' or 'trials:ALIGN,PRE_MS,POST_MS'"
            message = f"data.segments is '{self.segments}', expected {known}"
            raise UsageError(message)
        for session, weight in self.session_weights.items():
            if weight < 0:
                message = f"data.session_weights['{session}'] is {weight}, must not be negative"
                raise UsageError(message)
        _positive("data", self, "curriculum_epochs")
        if not 0 < self.curriculum_first < 1:
            message = f"data.curriculum_first is {self.curriculum_first}, must be above 0 and below 1"
            raise UsageError(message)
        if self.curriculum_order and self.curriculum != "listed":
            message = f"data.curriculum_order is given and data.curriculum is '{self.curriculum}': set it to listed"
            raise UsageError(message)

    @property
    def window_ns(self) -> int:
        return round(self.window_ms * 1e6)

    @property
    def eval_step_ns(self) -> int:
        return round(self.eval_step_ms * 1e6) if self.eval_step_ms is not None else self.window_ns // 2


@dataclass(frozen=True)
class OptimConfig:
    """How the model is trained; exactly one of ``epochs`` and ``steps`` is set.

    Args:
        name: ``"adamw"``, or ``"lamb"`` with sparse rows (rows of a table without gradient stay as they are).
        lr: the highest learning rate. betas: of the moments. weight_decay: not on norms, biases and tables (AdamW).
        group_lr: factors on the learning rate by the beginning of a parameter's name, in whole parts between dots
            (``{"units" = 10}``); the longest that fits counts.
        schedule: ``"cosine"`` (to 0), ``"onecycle"`` (constant for ``pct_start`` of the steps, then cosine to
            ``lr / 1e4``, as POYO), or ``"constant"``.
        warmup: share of the steps in which ``"cosine"`` first rises linearly. warmup_steps, warmup_epochs: the same as
            a number of steps or epochs, in its place and for any schedule (``"onecycle"`` rises within its constant
            part).
        pct_start: share of the steps before ``"onecycle"`` falls. cycle_beta1: let it also move the first beta, from
            0.95 to 0.85 while the rate is constant and back to 0.95 while it falls, in place of ``betas[0]``.
        reference_quirks: train as POYO's code does (``optimizers``): what LAMB does with absent rows, the first beta
            cycled, every change of the rate one step earlier.
        accumulate: batches whose gradients are added up before a step.
        clip: largest norm of the gradient; ``"off"`` for none.
        checkpoint_every, validate_every: in steps; 0 for only at the end.
        hold_steps: first steps of a training from another run's weights (``train --from RUN``) in which those stand
            still; tables of sessions and units are free. As many as there are steps or more: throughout.
    """

    name: Literal["adamw", "lamb"] = "adamw"
    lr: float = 1e-3
    group_lr: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup: float = 0.05
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    pct_start: float = 0.5
    cycle_beta1: bool = False
    reference_quirks: bool = False
    epochs: int | None = None
    steps: int | None = None
    accumulate: int = 1
    clip: float | None = 1.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "cpu"
    devices: int = 1
    checkpoint_every: int = 200
    validate_every: int = 0
    hold_steps: int = 0

    def __post_init__(self) -> None:
        _positive("optim", self, "lr", "devices", "accumulate")
        _at_most("optim", self, MOST_DEVICES, "devices")
        if (self.epochs is None) == (self.steps is None):
            message = f"optim.epochs is {self.epochs} and optim.steps is {self.steps}: exactly one must be set"
            raise UsageError(message)
        _positive("optim", self, "epochs" if self.steps is None else "steps")
        _at_most("optim", self, MOST_STEPS, "epochs" if self.steps is None else "steps", "accumulate")
        if self.clip is not None:
            _positive("optim", self, "clip")
        _not_negative("optim", self, "weight_decay", "checkpoint_every", "validate_every", "hold_steps")
        if not all(0 <= share < 1 for share in (self.warmup, self.pct_start, *self.betas)):
            shown = f"optim.warmup is {self.warmup}, optim.pct_start {self.pct_start} and optim.betas {self.betas}"
            message = f"{shown}: each must be in [0, 1)"
            raise UsageError(message)
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            shown = f"optim.warmup_steps is {self.warmup_steps} and optim.warmup_epochs is {self.warmup_epochs}"
            message = f"{shown}: give one of the two"
            raise UsageError(message)
        warmups = [name for name in RIVALS[1][1:] if getattr(self, name) is not None]
        _not_negative("optim", self, *warmups)
        _at_most("optim", self, MOST_STEPS, *warmups)
        _at_most("optim", self, MOST_RATE, "lr", "weight_decay", *(["clip"] if self.clip is not None else []))
        for prefix, factor in self.group_lr.items():
            if not 0 <= factor <= MOST_RATE:
                bound = "must not be negative" if factor < 0 else f"must be at most {MOST_RATE:g}"
                message = f"optim.group_lr['{prefix}'] is {factor}, {bound}"
                raise UsageError(message)


@dataclass(frozen=True)
class TransferConfig:
    """How a trained model adapts to the calibration time of an unseen session.

    It shapes no checkpoint, so it is no part of a run's fingerprint.

    Args:
        identity_steps, identity_lr: training of ``identity_parameters()`` alone.
        unfreeze_after: steps of ``full`` that train the identity alone, at ``identity_lr``, before everything is free.
        full_steps, full_lr: the training of everything that follows.
        batch_size: windows in a batch.
        weight_decay: on the weights that training decays, in ``full`` only.
        adapt_steps, adapt_blocks: the most steps of ``adapted``, and the blocks of the calibration that choose them.
        map_sessions, map_draws: trained sessions of which maps are learned, at most, and stretches of each.
        new_units: how the rows of a new session's units begin where trained ones have rows: foretold by a ridge
            (``"map"``), or as those of trained units that are alike (``"alike"``), as where units have no rows.
    """

    identity_steps: int = 100
    identity_lr: float = 2e-2
    unfreeze_after: int = 100
    full_steps: int = 60
    full_lr: float = 2e-4
    batch_size: int = 16
    weight_decay: float = 1e-4
    adapt_steps: int = 1000
    adapt_blocks: int = 3
    map_sessions: int = 40
    map_draws: int = 6
    new_units: Literal["map", "alike"] = "map"

    def __post_init__(self) -> None:
        _positive("transfer", self, "identity_steps", "identity_lr", "full_steps", "full_lr", "batch_size")
        _positive("transfer", self, "map_sessions", "map_draws")
        _at_most("transfer", self, MOST_WINDOWS, "batch_size")
        _at_most("transfer", self, MOST_STEPS, "identity_steps", "unfreeze_after", "full_steps", "adapt_steps")
        _at_most("transfer", self, MOST_PIECES, "map_draws", "adapt_blocks")
        _at_most("transfer", self, MOST_RATE, "identity_lr", "full_lr", "weight_decay")
        _not_negative("transfer", self, "unfreeze_after", "weight_decay", "adapt_steps", "adapt_blocks")


# ---- checks ---------------------------------------------------------------------------------------------------------


def _positive(section: str, config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            message = f"{section}.{name} is {getattr(config, name)}, must be above 0"
            raise UsageError(message)


def _at_most(section: str, config: object, most: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) > most:
            bound = most if isinstance(most, int) else f"{most:g}"
            message = f"{section}.{name} is {getattr(config, name)}, must be at most {bound}"
            raise UsageError(message)


def _whole_ns(section: str, config: object, *names: str) -> None:
    for name in names:
        if not 1 <= getattr(config, name) * 1e6 < 2**62:
            message = f"{section}.{name} is {getattr(config, name)}, must be from 1 ns to 146 years"
            raise UsageError(message)


def _not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 0:
            message = f"{section}.{name} is {getattr(config, name)}, must not be negative"
            raise UsageError(message)
