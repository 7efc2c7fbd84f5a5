"""Latents of a trained model as a behaviour of its sessions, which another model learns: ``train --latents RUN``.

What is unusual:

- they are computed when a training begins and written nowhere. They follow from a checkpoint, whose digest stands in
  the configuration (``latents``), and from shards: nothing can be left over from an earlier one;
- a latent is made of all counts of its windows, and the guard between splits knows how far that is: no window of
  training time asks for a latent that knows counts of another split;
- windows overlap by half, and a bin has the mean of theirs.

Shape letters: T bins of a session, K latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from spiketok.errors import ArtefactError, UsageError
from spiketok.recording.leakage import Reach
from spiketok.recording.nouns import Signal
from spiketok.training.checkpoints import Run
from spiketok.training.config import LATENTS, RunConfig
from spiketok.training.predict import session_loader
from spiketok.training.sampling import SequentialWindows, SessionTokens, SessionWindows, listing
from spiketok.training.sessions import require_window


def require_latents(config: RunConfig, of: Run | None) -> None:
    """Raise UsageError where a run does not learn the latents of the checkpoint that its configuration names."""
    there = of.digest if of is not None else ""
    if config.latents != there:
        shown = f"'{config.latents[:12]}'", f"'{there[:12]}'" if there else "none"
        message = f"latents is {shown[0]} and the run given is {shown[1]}: it is set by 'spiketok train --latents RUN'"
        raise UsageError(message)
    if of is not None and ("decode", LATENTS) not in config.questions():
        message = f"the latents of {of.path.name} are given and not asked: add --task decode:{LATENTS}"
        raise UsageError(message)


def with_latents(sessions: Sequence[SessionTokens], of: Run, read: Sequence[SessionTokens]) -> list[SessionTokens]:
    """The sessions with the latents that a run finds in them as one more behaviour, ``"latents"``.

    Args:
        read: the same sessions' shards, as that run reads them.

    Raises:
        UsageError: its model has no latents, or was not trained on a session, or one has a signal of that name.
        ArtefactError: it was trained on other shards of a session.
        DataError: no window of its length fits into a session.
    """
    if not of.model.has_latents:
        message = f"--latents {of.path.name}: {of.config.model} has no latents, use a run of one that has (ldns)"
        raise UsageError(message)
    unknown = [tokens.id for tokens in sessions if tokens.id not in of.own]
    if unknown:
        message = (
            f"--latents {of.path.name}: it was not trained on {listing(unknown, 3)}, so it has no latents there; "
            f"leave out what it does not know by --sessions or --hold-out ({listing(of.own, 3)}), or train it on that"
        )
        raise UsageError(message)
    taken = [tokens.id for tokens in sessions if LATENTS in tokens.info.signals]
    if taken:
        message = f"{taken[0]} has a signal '{LATENTS}' of its own: rename it before --latents"
        raise UsageError(message)
    for tokens in read:
        if of.tokenized_anew(tokens):
            message = f"{tokens.id} was tokenized anew since {of.path.name} was trained on it: train that run again"
            raise ArtefactError(message)
    reach_ns = of.config.data.window_ns, of.config.data.window_ns
    made = {tokens.id: (latents_of(of, tokens), reach_ns) for tokens in read}
    return [replace(tokens, made={LATENTS: made[tokens.id]}) for tokens in sessions]


def latents_of(of: Run, tokens: SessionTokens) -> Signal:
    """A run's latents of a session that it knows, a sample in the middle of each bin; on the CPU.

    Raises:
        DataError: no window fits.
    """
    data, bin_ns, model = of.config.data, of.config.timing.bin_ns, of.model.to("cpu").eval()
    windows = SessionWindows(tokens, tokens.observed, reach=Reach())
    require_window(windows, "observed", data.window_ns)
    step_ns = max(data.window_ns // 2 // windows.grid_ns, 1) * windows.grid_ns
    sampler = SequentialWindows([windows], data.window_ns, step_ns=step_ns)
    unlabelled = [task for task in of.tasks if not task.labelled]  # what they hide the model has never read
    times, values = [], []
    with torch.inference_mode():
        for batch in session_loader(model, sampler, data.batch_size, tasks=unlabelled):
            values.append(model.predict(batch)[0][LATENTS].double().numpy())
            first_ns = np.arange(batch.window_ns // bin_ns) * bin_ns + bin_ns // 2
            times.append((np.asarray(batch.start_ns)[:, None] + first_ns).ravel())
    time_ns, row, count = np.unique(np.concatenate(times), return_inverse=True, return_counts=True)
    value = np.concatenate(values)
    total = np.zeros((len(time_ns), value.shape[1]))
    np.add.at(total, row, value)
    names = tuple(f"latent{k}" for k in range(value.shape[1]))
    return Signal(time_ns, (total / count[:, None]).astype(np.float32), names, "", np.ones(len(time_ns), np.bool_))
