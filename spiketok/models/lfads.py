"""LFADS: a recurrent generator whose first state and inputs are inferred from the spikes, a sequential autoencoder.

Pandarinath et al. 2018 (Nature Methods 15), and as AutoLFADS Keshtkaran et al. 2022 (Nature Methods 19). Reference
code: arsedler9/lfads-torch (lfads_torch/model.py, modules/, configs/model/nlb_mc_maze.yaml and its siblings).

What is unusual:

- an encoder reads the window in both directions and says a distribution of the generator's first state; a controller
  says one of the generator's input in each bin; both are held to priors by divergences whose weights rise slowly;
- counts that the encoder sees are not learned from: a share is dropped from its input, and gradients flow from those
  alone (coordinated dropout; the value of the loss is that of all);
- forward bins at the end of a window reach no encoder: the generator goes on without them;
- rates of an evaluation are the mean over draws from the posteriors (``samples``); the draws of a window follow from
  its session and time alone.

Differs from the reference:

- held-out units are channels of the encoder whose count is a constant; there they are no channels;
- what is hidden otherwise (bins, single units, regions), and what was not observed, reads as the unit's mean count in
  the training time: 0 would say that it was silent;
- the divergence of the inferred inputs is computed in closed form (``kl_draws``: by one draw, as there);
- with ``initial_bins`` the gradients of dropped counts fall on the bins that they were dropped from; there, and with
  ``reference_quirks``, they fall on bins that lie ``initial_bins`` earlier;
- ramps are shares of the training, not epochs; a batch holds one session, and a step does not average over all;
- behaviour: a linear layer for each task on the factors, on detached ones unless ``decode_joint``. The reference
  decodes by ridge regression on its rates.

Shape letters: B windows, T bins of a window, N units, F factors, C components, Q query times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range, session_of
from spiketok.models.batch import Batch, Head, Progress, Stretch, Timing, bins_of, mean_counts
from spiketok.models.binned import COUNTS, BinnedModel, read_behaviours
from spiketok.models.lfads_layers import (
    AutoregressivePrior,
    Decoder,
    Encoder,
    NormalPrior,
    Posterior,
    Rollout,
    bins_ahead,
    fan_in_linear,
    ramp,
    recurrent_l2,
    window_draws,
)
from spiketok.models.lfads_read_ins import aligned, start_from
from spiketok.models.losses import behaviour_losses, poisson_log_rate, stirling
from spiketok.models.masking import coordinated_dropout
from spiketok.models.nn import module_key

SMOOTH_MS = 60.0  # standard deviation of the Gaussian under which counts lie before principal components


@dataclass(frozen=True)
class LfadsConfig:
    """The defaults are those of the reference's configs/model/nlb_mc_maze.yaml.

    Args:
        read_in: channels that a session's own matrix makes of its counts; 0 for the counts themselves (one session).
        read_in_train: train that matrix too. pcr: read-ins start as principal components of smoothed counts, not as
            draws; and the read-outs with them, where there are as many factors as channels.
        align: with ``pcr``, a trial column: the components are those of the mean over each of its words' trials, of all
            sessions together, and each session's read-in is the regression to them. Empty: each session by itself.
            align_ms: length of the mean from each trial's start.
        encoder, input_encoder: widths of the GRUs that tell of the first state, and of the inputs. initial: dimensions
            of the first state's distribution. generator; factors; controller: widths. inputs: dimensions of the
            inferred inputs. One of ``input_encoder``, ``controller`` and ``inputs`` at 0: no inputs are inferred.
        initial_bins: bins at a window's start that alone tell of the first state; 0: all do. lag: bins by which the
            controller reads late of the past, and early of the future.
        external: tasks whose behaviour is an input of the generator: in training, and in evaluations that give it
            (others see 0, its mean).
        clip: largest value in a state, at least 1. dropout: of what the encoder says, of the generator's states and
            external inputs, and of what the controller reads.
        drop: share of the counts that training drops from the input. drop_pass: share of the others that is learned
            from all the same.
        initial_var, initial_min_var: variance of the first state's prior; least one of its posterior. input_tau,
            input_var: first time constant (bins) and variance of a step of the inputs' prior.
        loss_scale: of everything. kl_initial, kl_inputs: weights of the divergences. kl_start, kl_ramp: share of the
            training at which they begin, and in which they rise. kl_draws: by one draw, not in closed form.
        l2_encoder, l2_input_encoder, l2_generator, l2_controller: weights of the recurrent kernels. l2_start, l2_ramp:
            as for the divergences.
        samples: draws that rates are the mean of in evaluation; 0 for the posterior means.
        rate_init: the biases of the read-outs start from the mean rates of the training time, not from 0.
        decode_weight: of the losses of behaviour beside the Poisson loss. decode_joint: let them train the rest too.
        reference_quirks: with ``initial_bins``, gradients of dropped counts fall on bins that lie so much earlier.
    """

    read_in: int = 0
    read_in_train: bool = True
    pcr: bool = False
    align: str = ""
    align_ms: float = 500.0
    encoder: int = 64
    input_encoder: int = 64
    initial: int = 64
    generator: int = 200
    factors: int = 100
    controller: int = 64
    inputs: int = 4
    initial_bins: int = 0
    lag: int = 1
    external: tuple[str, ...] = ()
    clip: float = 5.0
    dropout: float = 0.3
    drop: float = 0.3
    drop_pass: float = 0.0
    initial_var: float = 0.1
    initial_min_var: float = 1e-4
    input_tau: float = 10.0
    input_var: float = 0.1
    loss_scale: float = 1e4
    kl_initial: float = 1e-7
    kl_inputs: float = 1e-7
    kl_start: float = 0.0
    kl_ramp: float = 0.08
    kl_draws: bool = False
    l2_encoder: float = 0.0
    l2_input_encoder: float = 0.0
    l2_generator: float = 0.0
    l2_controller: float = 0.0
    l2_start: float = 0.0
    l2_ramp: float = 0.08
    samples: int = 50
    rate_init: bool = False
    decode_weight: float = 1.0
    decode_joint: bool = False
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "encoder", "initial", "generator", "factors", "clip")
        counted = ("read_in", "input_encoder", "controller", "inputs", "initial_bins", "lag", "samples")
        ramps = ("kl_initial", "kl_inputs", "kl_start", "kl_ramp", "l2_start", "l2_ramp")
        weights = ("l2_encoder", "l2_input_encoder", "l2_generator", "l2_controller", "decode_weight")
        check_range(self, "[0, inf)", *counted, *ramps, *weights)
        positive = ("initial_var", "initial_min_var", "input_tau", "input_var", "loss_scale", "align_ms")
        check_range(self, "(0, inf)", *positive)
        check_range(self, "[0, 1)", "dropout", "drop", "drop_pass")
        if self.pcr and not self.read_in:
            message = "model.pcr is set and model.read_in is 0: there is no read-in to start, use model.pcr=false"
            raise UsageError(message)
        if self.align and not self.pcr:
            message = f"model.align is '{self.align}' and model.pcr is not set: nothing is aligned"
            raise UsageError(message)

    @property
    def infers_inputs(self) -> bool:
        """Whether there is a controller."""
        return bool(self.input_encoder and self.controller and self.inputs)


class _Own(nn.Module):
    """What belongs to one session: its read-in and read-out, as far as there are such, and its mean counts."""

    def __init__(self, n_units: int, config: LfadsConfig, population: bool) -> None:
        super().__init__()
        self.read_in = fan_in_linear(n_units, config.read_in) if config.read_in else None
        if self.read_in is not None:
            self.read_in.requires_grad_(config.read_in_train)
        self.read_out = fan_in_linear(config.factors, n_units) if population else None
        self.register_buffer("mean", torch.zeros(n_units))


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one pass works on.

    Args:
        own: of the session. counts: ``[B, T', N]``, as the encoder sees them; T' bins without those ahead.
        n_bins: T. learned: bool ``[B, T, N]``, counts whose loss has a gradient; None for all.
        external: ``[T, B, E]``.
    """

    own: _Own
    counts: Tensor
    n_bins: int
    learned: Tensor | None
    external: Tensor


def _published(window_ms: float, bin_ms: float, lr: float) -> dict[str, dict]:
    """The reference's configs: a window is an NLB trial with its 200 ms ahead; 1000 passes, constant rate, clip 200."""
    return {
        "data": {"window_ms": window_ms, "bin_ms": bin_ms, "batch_size": 256},
        "task": {"population": {"forward_ms": 200.0}},
        "optim": {
            "name": "adamw",
            "lr": lr,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "epochs": 1000,
            "clip": 200.0,
            "accelerator": "auto",
        },
    }


_OLDER = {  # configs/model of MC_RTT, Area2_Bump and the multi-session MC_Maze
    "encoder": 100,
    "input_encoder": 80,
    "controller": 80,
    "initial": 100,
    "generator": 100,
    "factors": 40,
    "dropout": 0.02,
    "kl_initial": 0.0,  # they leave these to the search of population based training
    "kl_inputs": 0.0,
}


class Lfads(BinnedModel):
    """Reads binned counts; gives log rates for each bin, and behaviour at the bins of the queries."""

    name: ClassVar[str] = "lfads"
    checked: ClassVar[str] = "4 recorded configurations of its original: outputs, losses, gradients"
    own_tables: ClassVar[tuple[str, ...]] = ("own",)
    read_by: ClassVar[str] = "read_outs"
    Config: ClassVar[type] = LfadsConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": {
            "read_in": 48,
            "encoder": 48,
            "input_encoder": 32,
            "controller": 32,
            "inputs": 4,
            "initial": 32,
            "generator": 64,
            "factors": 32,
            "dropout": 0.0,
            "kl_initial": 1e-5,
            "kl_inputs": 1e-5,
            "samples": 0,
            "rate_init": True,
            "pcr": True,
            "decode_weight": 0.1,
            "decode_joint": True,
        },
        "mc_maze": {},
        "mc_rtt": _OLDER,
        "area2_bump": _OLDER,
        "dmfc_rsg": _OLDER
        | {
            "input_encoder": 64,
            "controller": 64,
            "dropout": 0.15,
            "l2_generator": 3e-3,
            "l2_controller": 1e-4,
            "kl_initial": 3e-7,
            "kl_inputs": 3e-7,
        },
        "multisession": _OLDER | {"read_in": 40, "read_in_train": False, "pcr": True},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        # Six simulated days: .82 of the true rates' co-bps, with a rate of 4e-3 .80 (docs/models.md).
        "tiny": {
            "data": {"window_ms": 1000.0, "batch_size": 64},
            "optim": {
                "name": "adamw",
                "lr": 8e-3,
                "weight_decay": 0.0,
                "schedule": "cosine",
                "steps": 1400,
                "clip": 200.0,
            },
        },
        "mc_maze": _published(900.0, 20.0, 4e-3),
        "mc_rtt": _published(800.0, 5.0, 1e-2),
        "dmfc_rsg": _published(1700.0, 5.0, 5e-3),
        "multisession": _published(900.0, 5.0, 4e-3),
        "*": _published(800.0, 5.0, 4e-3),
    }

    def __init__(self, config: LfadsConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.one_session = not config.read_in
        for task in config.external:
            if task not in self.heads or self.heads[task].output != "values":
                named = ", ".join(t for t, head in self.heads.items() if head.output == "values") or "none"
                message = f"model.external names '{task}', which is no behaviour that the run asks ({named})"
                raise UsageError(message)
        self.n_external = sum(self.heads[task].size for task in config.external)
        self.clear_sessions()
        self.decoder = Decoder(
            config.initial,
            config.generator,
            config.factors,
            controller=config.controller if config.infers_inputs else 0,
            inputs=config.inputs,
            seen=2 * config.input_encoder,
            external=self.n_external,
            clip=config.clip,
            dropout=config.dropout,
        )
        self.initial_prior = NormalPrior(config.initial, config.initial_var)
        if config.infers_inputs:
            self.input_prior = AutoregressivePrior(config.inputs, config.input_tau, config.input_var)
        self.read_outs = nn.ModuleDict({module_key(h.task): nn.Linear(config.factors, h.size) for h in self.behaviours})
        if config.read_in:
            self._build_encoder(config.read_in)

    def _build_encoder(self, channels: int) -> None:
        config = self.config
        self.encoder = Encoder(
            channels,
            config.encoder,
            config.input_encoder if config.infers_inputs else 0,
            config.initial,
            initial_bins=config.initial_bins,
            lag=config.lag,
            min_var=config.initial_min_var,
            clip=config.clip,
            dropout=config.dropout,
        )

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_own(self, session: str, n_units: int) -> None:
        """A read-in (where there is one) and, for the population, a read-out.

        Raises:
            UsageError: a second session without read-ins.
        """
        device = self.initial_prior.mean.device
        if self.one_session:
            if self.units:
                message = (
                    f"model.read_in=0 holds one session, {next(iter(self.units))}, not {session} too: set "
                    "model.read_in to the number of channels that sessions share"
                )
                raise UsageError(message)
            self._build_encoder(n_units)
            self.encoder.to(device)
        self.own[module_key(session)] = _Own(n_units, self.config, bool(self.population)).to(device)

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """As :meth:`fit_sessions`; with ``align`` the read-ins go to channels that all sessions share."""
        config, shared = self.config, {}
        if config.align:
            n_bins, sd_bins = self._bins(config.align_ms), self._bins(SMOOTH_MS)
            shared = aligned(sessions, COUNTS, config.align, n_bins, sd_bins, config.read_in)
        self._fit(sessions, shared)

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """The mean counts of each session; with ``rate_init`` the biases of its read-out; with ``pcr`` its read-in."""
        self._fit(sessions, {})

    @torch.no_grad()
    def _fit(self, sessions: Mapping[str, Sequence[Stretch]], shared: Mapping[str, np.ndarray]) -> None:
        config, sd_bins = self.config, self._bins(SMOOTH_MS)
        for session in sessions:
            own, stretches = self.own[module_key(session)], sessions[session]
            mean = mean_counts(stretches, COUNTS)
            own.mean.copy_(torch.from_numpy(mean))
            if own.read_out is not None and config.rate_init:
                own.read_out.bias.copy_(torch.from_numpy(np.log(mean)))
            if config.pcr:
                counts = [s.columns[COUNTS]["counts"] for s in stretches]
                start_from(own.read_in, own.read_out, counts, mean, sd_bins, shared.get(session))

    def _bins(self, milliseconds: float) -> int:
        return max(round(milliseconds * 1e6 / self.timing.bin_ns), 1)

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``; in training of draws, else of posterior means.

        Beside them ``factors`` ``[B * T, F]``, ``initial_condition`` ``[B, I]`` and ``inferred_inputs`` ``[B * T, U]``;
        in training ``learned``, and the divergences ``kl_initial`` and ``kl_inputs`` of each window.
        """
        seen = self._see(batch)
        posterior = self.encode(seen)
        if not self.training:
            return self._put_out(batch, seen.own, self.roll_out(seen, posterior), posterior.mean)
        size, device = len(batch), posterior.mean.device
        noise = torch.randn(size, self._n_noise(seen.n_bins), device=device)
        initial, of_inputs = self._split(noise, seen.n_bins)
        rollout = self.roll_out(seen, posterior, initial, of_inputs)
        output = self._put_out(batch, seen.own, rollout, posterior.mean)
        for_kl = torch.randn_like(rollout.mean) if self.config.kl_draws else None
        output |= self.divergences(posterior, rollout, for_kl)
        return output if seen.learned is None else output | {"learned": seen.learned}

    def predict(self, batch: Batch, carry: object = None) -> tuple[dict[str, Tensor], object]:
        """With ``samples``, the mean over so many draws: of rates, and of everything that :meth:`forward` gives."""
        if not self.config.samples or self.training:
            return self.forward(batch), None
        seen = self._see(batch)
        posterior, total = self.encode(seen), {}
        n = self._n_noise(seen.n_bins)
        for noise in window_draws(batch.sessions, batch.start_ns.tolist(), n, self.config.samples):
            noise = noise.to(posterior.mean.device)
            rollout = self.roll_out(seen, posterior, *self._split(noise, seen.n_bins))
            output = self._put_out(batch, seen.own, rollout, posterior.mean)
            if self.population in output:
                output[self.population] = output[self.population].exp()
            total = {name: total.get(name, 0) + value / self.config.samples for name, value in output.items()}
        if self.population in total:
            total[self.population] = total[self.population].log()
        return total, None

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The Poisson loss of all observed counts with ``log y!``, those of behaviour; in training the divergences, L2.

        ``total`` is ``loss_scale`` times their weighted sum.
        """
        config, terms = self.config, {}
        zero = self.initial_prior.mean.new_zeros(())
        total = zero
        if self.population in output:
            asked, z = batch.asked[self.population], output[self.population]
            if "learned" in output:
                z = torch.where(output["learned"], z, z.detach())
            scored = asked.weight > 0
            terms[self.population] = poisson_log_rate(z, asked.target, scored) + stirling(asked.target, scored)
            total = total + terms[self.population]
        decode = behaviour_losses(self.heads, batch, output)
        for term in decode.values():
            total = total + config.decode_weight * term
        if self.training:
            for name, weight in (("kl_initial", config.kl_initial), ("kl_inputs", config.kl_inputs)):
                terms[name] = output[name].mean()
                total = total + ramp(progress, config.kl_start, config.kl_ramp) * weight * terms[name]
            terms["l2"] = recurrent_l2(list(self._kernels())).to(zero)
            total = total + ramp(progress, config.l2_start, config.l2_ramp) * terms["l2"]
        return terms | decode | {"total": config.loss_scale * total}

    def encode(self, seen: _Seen) -> Posterior:
        """What the counts say of the first state and to the controller."""
        x = seen.counts if seen.own.read_in is None else seen.own.read_in(seen.counts)
        with torch.autocast(x.device.type, enabled=False):
            return self.encoder(x.float(), seen.n_bins)

    def roll_out(
        self, seen: _Seen, posterior: Posterior, noise_BI: Tensor | None = None, noise_TBU: Tensor | None = None
    ) -> Rollout:
        """What the generator does, of posterior means or by draws of standard normal numbers."""
        initial = posterior.mean if noise_BI is None else posterior.mean + posterior.std * noise_BI
        with torch.autocast(initial.device.type, enabled=False):
            return self.decoder(initial, posterior.seen, seen.external.float(), noise_TBU)

    def divergences(self, posterior: Posterior, rollout: Rollout, noise_BTU: Tensor | None) -> dict[str, Tensor]:
        """``kl_initial`` and ``kl_inputs``, ``[B]``; with noise the second by that draw."""
        of_initial = self.initial_prior.kl(posterior.mean, posterior.std)
        of_inputs = torch.zeros_like(of_initial)
        if self.config.infers_inputs and noise_BTU is None:
            of_inputs = self.input_prior.kl(rollout.mean, rollout.std)
        elif self.config.infers_inputs:
            of_inputs = self.input_prior.sampled_kl(rollout.mean, rollout.std, noise_BTU)
        return {"kl_initial": of_initial, "kl_inputs": of_inputs}

    def _put_out(self, batch: Batch, own: _Own, rollout: Rollout, initial_BI: Tensor) -> dict[str, Tensor]:
        factors, n_bins = rollout.factors.flatten(0, 1), rollout.factors.shape[1]
        read = factors if self.config.decode_joint else factors.detach()
        output = read_behaviours(self.read_outs, batch, read, n_bins)
        if self.population in batch.asked:
            output[self.population] = own.read_out(factors)
        inferred = rollout.inputs[..., : rollout.mean.shape[-1]].flatten(0, 1)
        return output | {"factors": factors, "initial_condition": initial_BI, "inferred_inputs": inferred}

    # ---- what is seen -------------------------------------------------------------------------------------------

    def _see(self, batch: Batch) -> _Seen:
        columns, length = batch.inputs[COUNTS].packed()
        session, n_bins = session_of(self, batch, self.units, columns["counts"].shape[-1]), bins_of(length)
        own, shape = self.own[module_key(session)], (len(length), n_bins)
        counts = columns["counts"].float().unflatten(0, shape)
        observed = columns.get("unit_observed", columns["observed"][:, None]) > 0
        away, ahead = ~observed.unflatten(0, shape), 0
        if COUNTS in batch.hidden:
            hidden = batch.hidden[COUNTS].unflatten(0, shape)
            away, ahead = away | hidden, bins_ahead(hidden)
        if n_bins - ahead <= self.config.initial_bins:
            message = f"model.initial_bins is {self.config.initial_bins} and {n_bins - ahead} bins of a window are seen"
            raise DataError(message)
        learned = None
        if self.training and self.population in batch.asked:
            counts, learned = self._drop(counts, away)
        counts = torch.where(away, own.mean, counts)[:, : n_bins - ahead]
        return _Seen(own, counts, n_bins, learned, self._external(batch, n_bins))

    def _drop(self, counts_BTN: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinated dropout of what is seen behind the initial bins; learned from, as the rows of rates."""
        first = self.config.initial_bins
        dropped, learned = coordinated_dropout(counts_BTN[:, first:], self.config.drop, self.config.drop_pass)
        parts = [torch.ones_like(counts_BTN[:, :first], dtype=torch.bool), learned]
        learned = torch.cat(parts[::-1] if self.config.reference_quirks else parts, 1) | away
        return torch.cat([counts_BTN[:, :first], dropped], 1), learned.flatten(0, 1)

    def _external(self, batch: Batch, n_bins: int) -> Tensor:
        """``[T, B, E]``: the behaviours that are inputs, 0 where they are not given or not measured."""
        parts = [self.initial_prior.mean.new_zeros(len(batch) * n_bins, 0)]
        parts += [self.told_behaviour(batch, task, n_bins)[0] for task in self.config.external]
        return torch.cat(parts, -1).unflatten(0, (len(batch), n_bins)).transpose(0, 1)

    def _n_noise(self, n_bins: int) -> int:
        return self.config.initial + (n_bins * self.config.inputs if self.config.infers_inputs else 0)

    def _split(self, noise: Tensor, n_bins: int) -> tuple[Tensor, Tensor | None]:
        """Numbers of each window ``[B, I + T U]`` as those of its first state and of its inputs, ``[T, B, U]``."""
        initial, inputs = noise.split([self.config.initial, noise.shape[1] - self.config.initial], dim=1)
        return initial, inputs.unflatten(1, (n_bins, -1)).transpose(0, 1) if self.config.infers_inputs else None

    def _kernels(self) -> Iterator[tuple[nn.Parameter, float]]:
        config, encoder, decoder = self.config, self.encoder, self.decoder
        yield from ((gru.kernel, config.l2_encoder) for gru in (encoder.of_initial.ahead, encoder.of_initial.back))
        yield decoder.generator.kernel, config.l2_generator
        if config.infers_inputs:
            of_inputs = encoder.of_inputs
            yield from ((gru.kernel, config.l2_input_encoder) for gru in (of_inputs.ahead, of_inputs.back))
            yield decoder.controller.kernel, config.l2_controller
