"""The recurrent parts of ``lfads``, its priors, and what its read-ins start from.

What is unusual:

- the GRU is that of the first LFADS: gates in the order z, r, n, the state is reset before it is multiplied
  (``tanh(W x + b + U (r * h))``; torch multiplies first), ``h' = z h + (1 - z) n``, clipped. A second bias, which the
  original holds at its first value of 0, is not built;
- inputs of whole sequences are projected at once, both directions of an encoder go side by side, and only what hangs
  on the state is left in the loop over bins;
- recurrences run in float32, whatever the precision of a run: rounding would add up over the bins.

Shape letters: B windows, T bins, N units (or read-in channels), G generator, F factors, I initial condition, U inferred
inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketok.errors import DataError
from spiketok.models.batch import Progress
from spiketok.models.binned import window_generator


def fan_in_(weight: Tensor) -> Tensor:
    """Draw from N(0, 1 / inputs)."""
    return weight.normal_(std=weight.shape[1] ** -0.5) if weight.numel() else weight


def fan_in_linear(n_in: int, n_out: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer that starts from N(0, 1 / inputs) and biases of 0."""
    linear = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        fan_in_(linear.weight)
        if bias:
            linear.bias.zero_()
    return linear


class Gru(nn.Module):
    """One clipped GRU; weights of the gates z, r, n lie one behind the other.

    Args:
        n_in: width of the input, perhaps 0. dim: of the state. clip: largest value of a state, at least 1.
    """

    def __init__(self, n_in: int, dim: int, clip: float) -> None:
        super().__init__()
        self.dim, self.clip = dim, clip
        self.weight = nn.Parameter(torch.empty(3 * dim, n_in))
        self.kernel = nn.Parameter(torch.empty(3 * dim, dim))
        self.bias = nn.Parameter(torch.ones(3 * dim))
        with torch.no_grad():
            fan_in_(self.weight)
            fan_in_(self.kernel)
            self.bias[2 * dim :] = 0

    def parts(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``[..., 3 dim]``, what belongs to the gates z and r, and to n."""
        return projected[..., : 2 * self.dim], projected[..., 2 * self.dim :]

    def kernels(self) -> tuple[Tensor, Tensor]:
        """``[dim, 2 dim]`` of the gates z and r, ``[dim, dim]`` of n: what :class:`Step` multiplies a state by."""
        return self.kernel[: 2 * self.dim].T, self.kernel[2 * self.dim :].T

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The next state, ``[B, dim]``, for an input ``[B, n_in]``."""
        h = Step.apply(*self.parts(F.linear(x, self.weight, self.bias)), h, *self.kernels())
        return h.clamp(-self.clip, self.clip)


class Step(torch.autograd.Function):
    """The next state of a GRU, or of several side by side, not clipped; its gradient by hand, in a third of the calls.

    A state lies between the one before and a number in -1 .. 1: with a clip of at least 1, none but the first can be
    beyond it.

    Args:
        gates_in, new_in: ``[..., 2 dim]`` and ``[..., dim]``, of the input, with its bias. h: ``[..., dim]``.
        gates, new: :meth:`Gru.kernels`.
    """

    @staticmethod
    def forward(ctx, gates_in: Tensor, new_in: Tensor, h: Tensor, gates: Tensor, new: Tensor) -> Tensor:
        multiply = torch.addmm if h.ndim == 2 else torch.baddbmm
        gate = multiply(gates_in, h, gates).sigmoid_()
        z, r = gate.chunk(2, dim=-1)
        reset = r * h
        n = multiply(new_in, reset, new).tanh_()
        ctx.save_for_backward(gate, n, reset, h, gates, new)
        return torch.lerp(n, h, z)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        gate, n, reset, h, gates, new = ctx.saved_tensors
        z, r = gate.chunk(2, dim=-1)
        kept = grad * z
        to_new = (grad - kept) * (1 - n * n)
        to_reset = to_new @ new.mT
        to_gates = torch.cat([grad * (h - n), to_reset * h], dim=-1) * (gate - gate * gate)
        to_h = kept.addcmul_(to_reset, r) + to_gates @ gates.mT
        return to_gates, to_new, to_h, h.mT @ to_gates, reset.mT @ to_new


class Bidirectional(nn.Module):
    """A GRU from the first bin on and one from the last bin back, each from a learned state."""

    def __init__(self, n_in: int, dim: int, clip: float) -> None:
        super().__init__()
        self.ahead, self.back = Gru(n_in, dim, clip), Gru(n_in, dim, clip)
        self.start = nn.Parameter(torch.zeros(2, 1, dim))

    def forward(self, x_TBN: Tensor) -> tuple[Tensor, Tensor]:
        """Two times ``[T, B, dim]``: the states at each bin, of the one that has seen the past and of the other."""
        grus = self.ahead, self.back
        gates, new = (torch.stack(part) for part in zip(*(gru.kernels() for gru in grus), strict=True))
        ahead, back = (F.linear(x_TBN, gru.weight, gru.bias) for gru in grus)
        parts = self.ahead.parts(torch.stack([ahead, back.flip(0)], 1))
        h, states, clip = self.start.expand(2, x_TBN.shape[1], -1), [], self.ahead.clip
        for gates_in, new_in in zip(*(part.unbind(0) for part in parts), strict=True):
            h = Step.apply(gates_in, new_in, h, gates, new)
            h = h if states else h.clamp(-clip, clip)
            states.append(h)
        ahead, back = torch.stack(states, 1).unbind(0)
        return ahead, back.flip(0)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the encoder says.

    Args:
        mean, std: ``[B, I]`` of the initial condition. seen: ``[T, B, 2 C]``, what the controller reads in each bin; of
            width 0 without a controller.
    """

    mean: Tensor
    std: Tensor
    seen: Tensor


class Encoder(nn.Module):
    """From counts to a distribution of the initial condition, and to what the controller reads.

    Args:
        n_in: channels. dim, dim_inputs: of the two bidirectional GRUs; the second may be 0. initial: I.
        initial_bins: bins at the start that alone tell of the initial condition; the controller's GRU begins after
            them. 0: all bins tell of it, and it reads all. lag: bins by which what the controller reads is late (from
            the past) and ahead (from the future). min_var: least variance of the initial condition.
    """

    def __init__(
        self,
        n_in: int,
        dim: int,
        dim_inputs: int,
        initial: int,
        *,
        initial_bins: int,
        lag: int,
        min_var: float,
        clip: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.initial_bins, self.lag, self.min_var = initial_bins, lag, min_var
        self.of_initial = Bidirectional(n_in, dim, clip)
        self.to_initial = fan_in_linear(2 * dim, 2 * initial)
        self.of_inputs = Bidirectional(n_in, dim_inputs, clip) if dim_inputs else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTN: Tensor, n_bins: int) -> Posterior:
        """For the bins that are seen; ``n_bins`` is how many the generator will make."""
        x_TBN, first = x_BTN.transpose(0, 1), self.initial_bins
        ahead, back = self.of_initial(x_TBN[:first] if first else x_TBN)
        last = self.dropout(torch.cat([ahead[-1], back[0]], dim=-1))
        mean, log_var = self.to_initial(last).chunk(2, dim=-1)
        std = (log_var.exp() + self.min_var).sqrt()
        if self.of_inputs is None:
            return Posterior(mean, std, mean.new_zeros(n_bins, len(mean), 0))
        rest = x_TBN[first:]
        ahead, back = self.of_inputs(rest)
        late = F.pad(ahead, (0, 0, 0, 0, self.lag, 0))[: len(rest)]
        early = F.pad(back, (0, 0, 0, 0, 0, self.lag))[self.lag :]
        seen = torch.cat([late, early], dim=-1)
        return Posterior(mean, std, F.pad(seen, (0, 0, 0, 0, first, n_bins - first - len(rest))))


@dataclass(frozen=True, eq=False)
class Rollout:
    """What the generator did.

    Args:
        start: ``[B, G]``, its first state. states: ``[B, T, G]``. factors: ``[B, T, F]``.
        controller: ``[B, T, C]`` states. mean, std: ``[B, T, U]`` of the inferred inputs.
        inputs: ``[B, T, U + E]``, what it got, with the external inputs.
    """

    start: Tensor
    states: Tensor
    factors: Tensor
    controller: Tensor
    mean: Tensor
    std: Tensor
    inputs: Tensor


class Decoder(nn.Module):
    """Generator, factors, and the controller that infers its inputs.

    Args:
        initial: I. generator: G. factors: F. controller: width of its state, 0 for none. inputs: U. seen: width of what
            the controller reads. external: E.
    """

    def __init__(
        self,
        initial: int,
        generator: int,
        factors: int,
        *,
        controller: int,
        inputs: int,
        seen: int,
        external: int,
        clip: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.to_start = fan_in_linear(initial, generator)
        self.generator = Gru((inputs if controller else 0) + external, generator, clip)
        self.to_factors = fan_in_linear(generator, factors, bias=False)
        self.controller = Gru(seen + factors, controller, clip) if controller else None
        if controller:
            self.to_inputs = fan_in_linear(controller, 2 * inputs)
            self.start = nn.Parameter(torch.zeros(1, controller))
        self.dropout = nn.Dropout(dropout)

    def forward(self, initial_BI: Tensor, seen_TBC: Tensor, external_TBE: Tensor, noise_TBU: Tensor | None) -> Rollout:
        """``noise_TBU``: standard normal, for inferred inputs that are drawn; None takes their means."""
        n_bins, n_seen, n_windows = len(seen_TBC), seen_TBC.shape[-1], len(initial_BI)
        to_factors = F.normalize(self.to_factors.weight, dim=1)
        generator, controller = self.generator, self.controller
        n_own = generator.weight.shape[1] - external_TBE.shape[-1]  # inputs that are inferred
        own, outer = generator.weight.split([n_own, external_TBE.shape[-1]], dim=1)
        outer = F.linear(self.dropout(external_TBE), outer, generator.bias).unbind(0)
        kernels = generator.kernels()
        start = g = self.to_start(initial_BI)
        factor = F.linear(self.dropout(g), to_factors)
        states, factors, controls, says, given = [], [], [], [], []
        if controller is not None:
            of_seen, of_factor = controller.weight.split([n_seen, len(to_factors)], dim=1)
            read = F.linear(self.dropout(seen_TBC), of_seen, controller.bias).unbind(0)
            c, of_state = self.start.expand(n_windows, -1), controller.kernels()
        for t in range(n_bins):
            into = outer[t]
            if controller is not None:
                control = torch.addmm(read[t], self.dropout(factor), of_factor.T)
                c = Step.apply(*controller.parts(control), c, *of_state)
                c = c if t else c.clamp(-controller.clip, controller.clip)
                said = self.to_inputs(c)
                u = said[:, :n_own]
                if noise_TBU is not None:
                    u = torch.addcmul(u, (said[:, n_own:] / 2).exp(), noise_TBU[t])
                into = torch.addmm(into, u, own.T)
                controls.append(c)
                says.append(said)
                given.append(u)
            g = Step.apply(*generator.parts(into), g, *kernels)
            g = g if t else g.clamp(-generator.clip, generator.clip)
            factor = F.linear(self.dropout(g), to_factors)
            states.append(g)
            factors.append(factor)
        states, factors = torch.stack(states, 1), torch.stack(factors, 1)
        external_BTE = external_TBE.transpose(0, 1)
        if controller is None:
            none = states.new_zeros(n_windows, n_bins, 0)
            return Rollout(start, states, factors, none, none, none, external_BTE)
        mean, log_var = torch.stack(says, 1).chunk(2, dim=-1)
        inputs = torch.cat([torch.stack(given, 1), external_BTE], dim=-1)
        return Rollout(start, states, factors, torch.stack(controls, 1), mean, (log_var / 2).exp(), inputs)


# ---- priors ---------------------------------------------------------------------------------------------------------


class NormalPrior(nn.Module):
    """Of the initial condition: a learned mean and a fixed variance."""

    def __init__(self, dim: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))
        self.register_buffer("log_var", torch.full((dim,), math.log(variance)))

    def kl(self, mean_BI: Tensor, std_BI: Tensor) -> Tensor:
        """``[B]``: the divergence of a distribution from the prior, summed over the dimensions."""
        distance = (std_BI.square() + (mean_BI - self.mean).square()) / self.log_var.exp()
        return 0.5 * (distance - 1 + self.log_var - 2 * std_BI.log()).sum(-1)


class AutoregressivePrior(nn.Module):
    """Of the inferred inputs: each an AR(1) process with learned time constant (in bins) and variance of its steps."""

    def __init__(self, dim: int, tau: float, step_var: float) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.full((dim,), math.log(tau)))
        self.log_var = nn.Parameter(torch.full((dim,), math.log(step_var)))

    def kl(self, mean_BTU: Tensor, std_BTU: Tensor) -> Tensor:
        """``[B]``: the divergence from the prior, summed over bins and inputs, in closed form."""
        decay, log_var = self._process(mean_BTU.shape[1])
        var = std_BTU.square()
        moved = mean_BTU - decay * F.pad(mean_BTU, (0, 0, 1, 0))[:, :-1]
        spread = moved.square() + var + decay.square() * F.pad(var, (0, 0, 1, 0))[:, :-1]
        return 0.5 * (spread / log_var.exp() - 1 + log_var - 2 * std_BTU.log()).sum((1, 2))

    def sampled_kl(self, mean_BTU: Tensor, std_BTU: Tensor, noise_BTU: Tensor) -> Tensor:
        """``[B]``: the same by one draw, as the original."""
        decay, log_var = self._process(mean_BTU.shape[1])
        drawn = mean_BTU + std_BTU * noise_BTU
        moved = drawn - decay * F.pad(drawn, (0, 0, 1, 0))[:, :-1]
        prior = moved.square() / log_var.exp() + log_var
        return 0.5 * (prior - noise_BTU.square() - 2 * std_BTU.log()).sum((1, 2))

    def _process(self, n_bins: int) -> tuple[Tensor, Tensor]:
        """The factor from bin to bin, ``[U]``; the log variance of what is new, ``[T, U]``, first the process's."""
        decay = torch.exp(-1 / self.log_tau.exp())
        first = self.log_var - torch.log1p(-decay.square())
        return decay, torch.cat([first[None], self.log_var.expand(n_bins - 1, -1)])


def recurrent_l2(kernels: Sequence[tuple[nn.Parameter, float]]) -> Tensor:
    """Sum of weight times half the squares of a kernel, over the number of elements that have a weight.

    Args:
        kernels: with the weight of each.
    """
    used = [(kernel, weight) for kernel, weight in kernels if weight > 0]
    if not used:
        return torch.zeros(())
    total = torch.stack([weight * 0.5 * kernel.square().sum() for kernel, weight in used]).sum()
    return total / sum(kernel.numel() for kernel, _ in used)


def window_draws(sessions: Sequence[str], start_ns: Sequence[int], n: int, samples: int) -> Iterator[Tensor]:
    """``samples`` times ``[B, n]``: standard normal numbers that follow from the session and start of each window."""
    generators = [window_generator(session, start) for session, start in zip(sessions, start_ns, strict=True)]
    for _ in range(samples):
        yield torch.stack([torch.randn(n, generator=generator) for generator in generators])


# ---- what else a pass needs ------------------------------------------------------------------------------------------


def ramp(progress: Progress, start: float, length: float) -> float:
    """0 up to ``start``, then rising to 1 over ``length``, as shares of the training."""
    if not length:
        return float(progress.share >= start)
    return min(max((progress.share - start) / length, 0.0), 1.0)


def bins_ahead(hidden_BTN: Tensor) -> int:
    """How many bins at the end of each window are hidden whole; 0 where nothing is seen at all.

    Raises:
        DataError: windows differ.
    """
    whole = hidden_BTN.all(-1).flip(1).int().cumprod(1).sum(1).tolist()
    if len(set(whole)) > 1:
        message = (
            f"the windows of a batch hide {min(whole)} to {max(whole)} bins at their end, expected the same number"
        )
        raise DataError(message)
    return 0 if whole[0] == hidden_BTN.shape[1] else whole[0]
