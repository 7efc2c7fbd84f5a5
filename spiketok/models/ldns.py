"""LDNS: an autoencoder that finds smooth latents of spikes, and a diffusion model that draws new ones.

Kapoor et al. 2024 (NeurIPS, "Latent Diffusion for Neural Spiking Data"). Reference code: mackelab/LDNS
(ldns/networks/blocks.py, s4.py, count_wrapper.py, conf/ and the training notebooks).

What is unusual:

- one command trains two stages, one after the other: from the share ``diffuse_from`` of the steps on, the autoencoder
  stands still and the denoiser learns its latents, z-scored by the statistics of its own first steps;
- the autoencoder learns from counts that were dropped from its input alone (coordinated dropout);
- spikes are drawn (:meth:`Ldns.generate`): latents by all steps of the diffusion with the running mean of the
  denoiser's weights, rates from them, counts from the rates. Each window is a draw of its own.

Differs from the reference:

- each session has a read-in, a read-out and the mean and deviation of its latents, and a vector that the denoiser adds
  to the time of the diffusion step (0 at first); all else is shared. There a model holds one session;
- what is hidden or was not observed reads as 0, as what is dropped does; it is learned from where it is hidden, and
  never where it was not observed; the reference knows neither;
- the two stages share one schedule of the learning rate, and the batch size;
- the condition is the behaviour of each bin (or a label of the window), there one vector a trial; a share of windows is
  learned without it (``condition_drop``), so that a model with a condition draws without one too;
- ``denoiser_tells="latents"`` and ``denoiser_norm="channels"`` (of ``tiny``, with a square loss) are not in the
  reference, whose denoiser tells the noise behind norms over time;
- ``rate_init`` starts the read-outs at the mean rates;
- behaviour: a linear layer for each task on the latents, on detached ones unless ``decode_joint``.

Shape letters: B windows, T bins of a window, N units, K latents, C channels, Q query times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range, session_of
from spiketok.models.batch import Batch, Generation, Head, Progress, Stretch, Timing, bins_of, mean_counts
from spiketok.models.binned import COUNTS, BinnedModel, read_behaviours, window_generator
from spiketok.models.ldns_layers import AutoEncoder, Denoiser, NoiseSchedule, Norm, draw_counts
from spiketok.models.losses import behaviour_losses
from spiketok.models.masking import coordinated_dropout
from spiketok.models.nn import module_key

RATE_EPS = 1e-8
STATISTICS_STEPS = 100  # of the second stage, from which the latents' mean and standard deviation follow


@dataclass(frozen=True)
class LdnsConfig:
    """The defaults are those of the reference's conf/autoencoder-monkey_z=16.yaml and diffusion_monkey_unconditional.

    Args:
        channels: width of the autoencoder. latents: K. blocks, decoder_blocks: of its halves. linear_layers: of the
            mixing of channels. states: of each channel's linear system. bidirectional: its encoder reads ahead too.
            gelu_latents: a GELU before the decoder.
        drop: share of the counts that training drops from the input.
        latent_beta: weight of the latents' squares. latent_td_beta: of the squares of their differences over 1 to
            ``td_bins`` bins.
        diffuse_from: share of the training behind which the denoiser learns; 1 for an autoencoder alone.
        denoiser_channels, denoiser_blocks, denoiser_bidirectional: its width, depth and reach. denoiser_norm: of its
            blocks, over ``"time"`` or ``"channels"``. Over time, as in the reference, a block does not see the mean of
            a window, and what windows differ by in their means is drawn too small: most for short ones.
            denoiser_tells: the ``"noise"``, or the ``"latents"`` without it: of smooth latents that is learned in far
            fewer steps, for what is slow in them is a small part of the noise and all of the latents.
        timesteps: of the diffusion. smooth: where the denoiser's loss turns from a square to a line.
        condition: tasks whose behaviour the denoiser is told. condition_drop: share of the windows without it.
        ema_power, ema_most: the running mean of the denoiser's weights keeps ``1 - (1 + step) ** -power`` of itself,
            at most so much.
        rate_init: read-outs start at the mean rates of the training time.
        decode_weight: of the losses of behaviour. decode_joint: let them train the autoencoder too.
    """

    channels: int = 256
    latents: int = 16
    blocks: int = 4
    decoder_blocks: int = 0
    linear_layers: int = 2
    states: int = 64
    bidirectional: bool = False
    gelu_latents: bool = False
    drop: float = 0.5
    latent_beta: float = 1e-3
    latent_td_beta: float = 0.2
    td_bins: int = 5
    diffuse_from: float = 0.5
    denoiser_channels: int = 256
    denoiser_blocks: int = 6
    denoiser_bidirectional: bool = True
    denoiser_norm: Norm = "time"
    denoiser_tells: Literal["noise", "latents"] = "noise"
    timesteps: int = 1000
    smooth: float = 0.04
    condition: tuple[str, ...] = ()
    condition_drop: float = 0.1
    ema_power: float = 2 / 3
    ema_most: float = 0.9999
    rate_init: bool = False
    decode_weight: float = 1.0
    decode_joint: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "channels", "latents", "blocks", "denoiser_blocks")
        check_range(self, "[2, inf)", "linear_layers", "states")
        check_range(self, "[4, inf)", "denoiser_channels")
        check_range(self, "[25, inf)", "timesteps")  # below, a step would take more than all of the variance
        check_range(self, "[0, inf)", "decoder_blocks", "latent_beta", "latent_td_beta", "td_bins", "decode_weight")
        check_range(self, "[0, 1)", "drop", "ema_most")
        check_range(self, "[0, 1]", "diffuse_from", "condition_drop")
        check_range(self, "(0, inf)", "smooth", "ema_power")
        for name, multiple in (("states", 2), ("denoiser_channels", 4)):
            if getattr(self, name) % multiple:
                message = f"model.{name} is {getattr(self, name)}, must be a multiple of {multiple}"
                raise UsageError(message)


class _Own(nn.Module):
    """What belongs to one session: its read-in and read-out, and sums of its latents (of them, of their squares)."""

    def __init__(self, n_units: int, channels: int, latents: int) -> None:
        super().__init__()
        self.encoder_in = nn.Linear(n_units, channels)
        self.decoder_out = nn.Linear(channels, n_units)
        self.register_buffer("latent_count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("latent_sum", torch.zeros(2, latents, dtype=torch.float64))

    def forget_latents(self) -> None:
        for state in (self.latent_count, self.latent_sum):
            state.zero_()

    def take_latents(self, rows_RK: Tensor) -> None:
        rows = rows_RK.double()
        self.latent_count += len(rows)
        self.latent_sum += torch.stack([rows.sum(0), rows.square().sum(0)])

    def latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, float32 ``[K]``."""
        mean, square = self.latent_sum / self.latent_count.clamp_min(1)
        return mean.float(), (square - mean.square()).clamp_min(1e-12).sqrt().float()


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one pass works on.

    Args:
        session: its id; own: what belongs to it. counts: float ``[B, T, N]``, 0 where hidden or not observed.
        observed, hidden: bool in that shape.
    """

    session: str
    own: _Own
    counts: Tensor
    observed: Tensor
    hidden: Tensor


def _published(bins: int, bin_ms: float, **optim: object) -> dict[str, dict]:
    return {
        "data": {"window_ms": bins * bin_ms, "bin_ms": bin_ms, "batch_size": 64},
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup": 0.02,
            "clip": 2.0,
            "accelerator": "auto",
        }
        | optim,
    }


class Ldns(BinnedModel):
    """Reads binned counts; gives log rates for each bin, behaviour at the bins of the queries, and draws spikes."""

    name: ClassVar[str] = "ldns"
    checked: ClassVar[str] = "4 recorded configurations of its original: outputs, losses, gradients, steps of a draw"
    generates: ClassVar[bool] = True
    draws_apart: ClassVar[bool] = True
    has_latents: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = True
    own_tables: ClassVar[tuple[str, ...]] = ("own",)
    read_by: ClassVar[str] = "read_outs"
    Config: ClassVar[type] = LdnsConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": {
            "channels": 64,
            "latents": 8,
            "blocks": 2,
            "states": 16,
            "bidirectional": True,
            "drop": 0.3,
            "latent_td_beta": 0.02,
            "diffuse_from": 0.4,
            "denoiser_channels": 64,
            "denoiser_blocks": 3,
            "denoiser_norm": "channels",
            "denoiser_tells": "latents",
            "timesteps": 200,
            "smooth": 10.0,
            "rate_init": True,
        },
        "monkey": {},
        "human": {"latents": 32, "blocks": 6, "drop": 0.2, "latent_td_beta": 0.02},
        "lorenz": {"latents": 8, "bidirectional": True},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 2000.0, "batch_size": 16},
            "optim": {
                "name": "adamw",
                "lr": 4e-3,
                "weight_decay": 1e-4,
                "schedule": "cosine",
                "steps": 1500,
                "clip": 2.0,
            },
        },
        # The reference trains an autoencoder for 260 passes of batches of 64, then a denoiser for 2000 of 512: about
        # as many steps, here of batches of 64.
        "monkey": _published(140, 5.0, epochs=510),
        "human": _published(512, 20.0, epochs=800),
        "lorenz": _published(256, 10.0, epochs=400),
    }

    def __init__(self, config: LdnsConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        for task in config.condition:
            if task not in self.heads or task == self.population:
                named = ", ".join(t for t in self.heads if t != self.population) or "none"
                message = f"model.condition names '{task}', which is no behaviour that the run asks ({named})"
                raise UsageError(message)
        n_bins = timing.window_ns // timing.bin_ns
        self.autoencoder = AutoEncoder(
            config.channels,
            config.latents,
            n_bins,
            n_states=config.states,
            blocks=config.blocks,
            decoder_blocks=config.decoder_blocks,
            bidirectional=config.bidirectional,
            n_linear=config.linear_layers,
            gelu_latents=config.gelu_latents,
        )
        self.denoiser = Denoiser(
            config.latents,
            config.denoiser_channels,
            n_bins,
            n_states=config.states,
            blocks=config.denoiser_blocks,
            bidirectional=config.denoiser_bidirectional,
            condition=sum(self.heads[task].size for task in config.condition),
            norm=config.denoiser_norm,
        )
        self.schedule = NoiseSchedule(config.timesteps)
        self.read_outs = nn.ModuleDict({module_key(h.task): nn.Linear(config.latents, h.size) for h in self.behaviours})
        self.clear_sessions()
        self.diffuses = False  # the step is of the second stage
        self.register_buffer("n_diffused", torch.zeros((), dtype=torch.int64))  # steps of it that have begun
        self.register_buffer("mean_weights", parameters_to_vector(self.denoiser.parameters()).detach().clone())

    # ---- sessions -----------------------------------------------------------------------------------------------

    def clear_sessions(self) -> None:
        super().clear_sessions()
        self.of_session = nn.ModuleDict()  # no identity parameters: an adaptation of those has no second stage

    def add_own(self, session: str, n_units: int) -> None:
        """A read-in and a read-out, and what the denoiser adds to the diffusion step's time: 0 at first."""
        config, device, key = self.config, self.mean_weights.device, module_key(session)
        self.own[key] = _Own(n_units, config.channels, config.latents).to(device)
        self.of_session[key] = nn.Embedding(1, config.denoiser_channels // 4).to(device)
        nn.init.zeros_(self.of_session[key].weight)

    @torch.no_grad()
    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the mean rate of each unit in the observed time."""
        if not self.config.rate_init:
            return
        for session in sessions:
            rate = torch.from_numpy(mean_counts(sessions[session], COUNTS))
            self.own[module_key(session)].decoder_out.bias.copy_(torch.expm1(rate).log())  # the inverse of softplus

    # ---- the computation ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_step(self, progress: Progress) -> None:
        """Which stage the step is of; in the second the running mean takes in the denoiser's weights.

        A training that does not move the denoiser (an adaptation of what belongs to a session) has the first alone.
        """
        moves = self.denoiser.conv_out.weight.requires_grad
        self.diffuses = moves and progress.share >= self.config.diffuse_from
        if moves and progress.step == 0:
            self.n_diffused.zero_()
            for own in self.own.values():
                own.forget_latents()
        if self.diffuses:
            kept = min(1 - (1 + int(self.n_diffused)) ** -self.config.ema_power, self.config.ema_most)
            self.mean_weights.lerp_(parameters_to_vector(self.denoiser.parameters()), 1 - kept)
            self.n_diffused += 1

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``; beside them ``latents`` ``[B * T, K]``.

        In training ``learned`` (bool ``[B * T, N]``); in its second stage instead of that what the denoiser should
        tell and what it tells, ``to_tell`` and ``told``, both ``[B * T, K]``.
        """
        seen = self._see(batch)
        second = self.training and self.diffuses
        if second:
            with torch.no_grad():
                z, rate = self.autoencode(seen.own, seen.counts)
        elif self.training:
            counts, learned = coordinated_dropout(seen.counts, self.config.drop)
            z, rate = self.autoencode(seen.own, counts)
        else:
            z, rate = self.autoencode(seen.own, seen.counts)
        output = self._put_out(batch, z, rate)
        if second:
            to_tell, told = self._diffuse(batch, seen, z)
            output |= {"to_tell": to_tell.flatten(0, 1), "told": told.flatten(0, 1)}
        elif self.training:
            output["learned"] = (learned | seen.hidden).flatten(0, 1)
        return output

    def autoencode(self, own: _Own, counts_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``[B, T, K]`` and rates, expected spikes a bin, ``[B, T, N]``."""
        z = self.autoencoder.encode(own.encoder_in(counts_BTN))
        return z, F.softplus(own.decoder_out(self.autoencoder.decode(z)).float())

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The Poisson loss of what the input lacked and the size of the latents; in the second stage the denoiser's.

        Beside them the losses of behaviour, in both. In the second stage the Poisson loss is told and has no gradient.
        """
        config, seen = self.config, self._see(batch)
        asked = batch.asked.get(self.population)
        target = seen.counts.flatten(0, 1) if asked is None else asked.target
        scored = seen.observed.flatten(0, 1) if asked is None else asked.weight > 0
        log_rate = output["log_rate"]
        decode = behaviour_losses(self.heads, batch, output)
        poisson = reconstruction_loss(log_rate, target, scored, output.get("learned", scored))
        terms = {self.population or "reconstruction": poisson}
        if "told" in output:
            terms["diffusion"] = diffusion_loss(output["to_tell"], output["told"], seen.observed, config.smooth)
            total = terms["diffusion"]
        else:
            total = poisson
            if self.training:
                z = output["latents"].float().unflatten(0, seen.counts.shape[:2])
                size = latent_size(z, config.latent_beta, config.latent_td_beta, config.td_bins)
                terms["latents"] = size / seen.counts.numel()
                total = total + terms["latents"]
        for term in decode.values():
            total = total + config.decode_weight * term
        return terms | decode | {"total": total}

    def _put_out(self, batch: Batch, z_BTK: Tensor, rate_BTN: Tensor) -> dict[str, Tensor]:
        log_rate, latents = (rate_BTN + RATE_EPS).log().flatten(0, 1), z_BTK.flatten(0, 1)
        read = latents if self.config.decode_joint else latents.detach()
        output = read_behaviours(self.read_outs, batch, read, z_BTK.shape[1])
        if self.population in batch.asked:
            output[self.population] = log_rate
        return output | {"latents": latents, "log_rate": log_rate}

    def _see(self, batch: Batch) -> _Seen:
        columns, length = batch.inputs[COUNTS].packed()
        session, shape = (
            session_of(self, batch, self.units, columns["counts"].shape[-1]),
            (len(length), bins_of(length)),
        )
        counts = columns["counts"].float().unflatten(0, shape)
        observed = columns.get("unit_observed", columns["observed"][:, None]).unflatten(0, shape) > 0
        observed = observed.expand_as(counts)
        hidden = torch.zeros_like(observed)
        if COUNTS in batch.hidden:
            hidden = batch.hidden[COUNTS].unflatten(0, shape)
        counts = torch.where(observed & ~hidden, counts, 0.0)
        return _Seen(session, self.own[module_key(session)], counts, observed, hidden)

    # ---- diffusion ----------------------------------------------------------------------------------------------

    def _diffuse(self, batch: Batch, seen: _Seen, z_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """What the denoiser should tell, and what it tells from latents with noise in them."""
        z, device = z_BTK.float(), z_BTK.device
        there = seen.observed.any(-1)
        if int(self.n_diffused) <= STATISTICS_STEPS:
            seen.own.take_latents(z[there])
        mean, std = seen.own.latent_statistics()
        step = torch.randint(self.config.timesteps, (len(z),), device=device)
        noise = torch.randn_like(z)
        condition, known = self._condition(batch, z.shape[1])
        if condition is not None:
            known = known & (torch.rand(len(z), 1, 1, device=device) >= self.config.condition_drop)
        z = (z - mean) / std
        noisy = self.schedule.noisy(z, noise, step)
        session = self.of_session[module_key(seen.session)].weight[0]
        to_tell = z if self.config.denoiser_tells == "latents" else noise
        return to_tell, self.denoiser(noisy, step, condition, known, session)

    def _condition(self, batch: Batch, n_bins: int) -> tuple[Tensor | None, Tensor | None]:
        """What the denoiser is told, ``[B, T, c]``, and in which bins all of it is known, bool ``[B, T, 1]``."""
        if not self.config.condition:
            return None, None
        told = [self.told_behaviour(batch, task, n_bins) for task in self.config.condition]
        value, known = (torch.cat(parts, -1) for parts in zip(*told, strict=True))
        shape = (len(batch), n_bins)
        return value.unflatten(0, shape), known.all(-1, keepdim=True).unflatten(0, shape)

    @torch.no_grad()
    def generate(self, batch: Batch, how: Generation, carry: object = None) -> tuple[Tensor, object]:
        """Counts of new latents, window by window; no spike of the batch is read, nor anything of a window before.

        The behaviours of ``condition`` that are given are told to the denoiser. ``temperature``, ``top_k`` and
        ``top_p`` are of the Poisson distribution of each count.

        Raises:
            DataError: the second stage has not been trained.
        """
        columns, length = batch.inputs[COUNTS].packed()
        session, n_bins = session_of(self, batch, self.units, columns["counts"].shape[-1]), bins_of(length)
        own, device = self.own[module_key(session)], self.mean_weights.device
        if not own.latent_count:
            message = (
                f"{session}: this ldns has not come to its second stage, so it draws no spikes: train it whole, with "
                f"model.diffuse_from (now {self.config.diffuse_from:g}) below 1"
            )
            raise DataError(message)
        generators = [window_generator(how.seed, session, start) for start in batch.start_ns.tolist()]

        def draw(sampler, width: int) -> Tensor:
            return torch.stack([sampler(n_bins, width, generator=g) for g in generators]).to(device)

        z = self.draw_latents(batch, session, n_bins, lambda: draw(torch.randn, self.config.latents))
        rate = F.softplus(own.decoder_out(self.autoencoder.decode(z)).float())
        return draw_counts(rate.flatten(0, 1), draw(torch.rand, rate.shape[-1]).flatten(0, 1), how), None

    def draw_latents(self, batch: Batch, session: str, n_bins: int, noise: Callable[[], Tensor]) -> Tensor:
        """``[B, T, K]`` from the diffusion, all steps of it.

        Args:
            batch: whose given behaviours are the condition. session: of its windows. noise: gives standard normal
                numbers in that shape.
        """
        weights, (condition, known) = self._mean_parameters(), self._condition(batch, n_bins)
        kernels = functional_call(_Kernels(self.denoiser), {f"of.{k}": v for k, v in weights.items()}, (n_bins,))
        of_session = self.of_session[module_key(session)].weight[0]
        x = noise()
        for step in range(self.config.timesteps - 1, -1, -1):
            steps = torch.full((len(x),), step, device=x.device)
            told = functional_call(self.denoiser, weights, (x, steps, condition, known, of_session, kernels)).float()
            clean = told if self.config.denoiser_tells == "latents" else self.schedule.clean(x, told, step)
            x = self.schedule.back(x, clean, step, noise() if step else x)
        mean, std = self.own[module_key(session)].latent_statistics()
        return x * std + mean

    def _mean_parameters(self) -> dict[str, Tensor]:
        """The running mean of the denoiser's weights, by their names."""
        names, parameters = zip(*self.denoiser.named_parameters(), strict=True)
        parts = self.mean_weights.split([p.numel() for p in parameters])
        return {name: part.view_as(p) for name, part, p in zip(names, parts, parameters, strict=True)}


class _Kernels(nn.Module):
    """:meth:`Denoiser.kernels` as a call, for weights that are not its own."""

    def __init__(self, of: Denoiser) -> None:
        super().__init__()
        self.of = of

    def forward(self, n_bins: int) -> list[Tensor]:
        return self.of.kernels(n_bins)


def reconstruction_loss(log_rate: Tensor, count: Tensor, scored: Tensor, learned: Tensor) -> Tensor:
    """Negative log likelihood of the counts that are learned from, over the number of all that are scored.

    Args:
        log_rate, count: ``[L, N]``. scored, learned: bool ``[L, N]``.
    """
    used = scored & learned
    y, z = torch.where(used, count, 0).float(), torch.where(used, log_rate.float(), 0.0)
    stirling = torch.where(y > 1, y * y.clamp_min(1).log() - y + 0.5 * (2 * math.pi * y.clamp_min(1)).log(), 0.0)
    return torch.where(used, z.exp() - y * z + stirling, 0.0).sum() / scored.sum().clamp_min(1)


def latent_size(z_BTK: Tensor, beta: float, td_beta: float, td_bins: int) -> Tensor:
    """``beta`` times the sum of squares, and ``td_beta`` times that of differences over i bins, over ``1 + i``."""
    total = beta * z_BTK.square().sum()
    for i in range(1, min(td_bins, z_BTK.shape[1] - 1) + 1):
        total = total + td_beta * (z_BTK[:, i:] - z_BTK[:, :-i]).square().sum() / (1 + i)
    return total


def diffusion_loss(to_tell: Tensor, told: Tensor, observed_BTN: Tensor, smooth: float) -> Tensor:
    """Mean of the smooth L1 loss over the bins in which anything was observed.

    Args:
        to_tell, told: ``[B * T, K]``.
    """
    there = observed_BTN.any(-1).flatten()
    error = F.smooth_l1_loss(told.float(), to_tell, beta=smooth, reduction="none").mean(-1)
    return torch.where(there, error, 0.0).sum() / there.sum().clamp_min(1)
