"""The parts of LDNS: the structured state space layer (S4), the autoencoder, the denoiser and the noise schedule.

Reference code: mackelab/LDNS (ldns/networks/s4.py, blocks.py; the scheduler of diffusers).

The state of a channel is a complex linear system ``x' = M x + B u``, ``M = diag(A) - P P*`` of rank one beside its
diagonal, stepped by the bilinear rule. Its kernel over L bins is evaluated at the L-th roots of unity (Gu et al. 2022),
where each needs sums over the states alone, and goes back to bins by one inverse transform.

What is unusual: as in the reference, the layer keeps ``C~ = C (I - Abar^L)`` for the length L that it was made for. A
shorter window takes the first taps, a longer one the kernel of the next length ``2 L, 4 L, ...``, where the reference
writes that into its weights.

Shape letters: B windows, T bins, C channels, K latents, S states of half a system, D width.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.models.batch import Generation

Norm = Literal["time", "channels"]
NORM_EPS = 1e-5
SINUSOIDS = 256  # features of a diffusion step's time
LONGEST_PERIOD = 10_000.0


def legs_system(n_states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HiPPO-LegS in diagonal form with a rank-one part: A, P and B, complex ``[S]``, of one of each conjugate pair.

    Args:
        n_states: of the whole system, even; S is half of it.
    """
    n = np.arange(n_states)
    p = np.sqrt(n + 0.5)
    b = np.sqrt(2 * n + 1.0)
    lower = np.tril(np.sqrt(np.outer(2 * n + 1.0, 2 * n + 1.0)), -1) + np.diag(n + 1.0)
    skew = -lower + np.outer(p, p)  # -1/2 on its diagonal, else antisymmetric
    frequency, basis = np.linalg.eigh((skew + 0.5 * np.eye(n_states)) * -1j)
    half = frequency < 0
    basis = basis[:, half]
    return -0.5 + 1j * frequency[half], basis.conj().T @ p, basis.conj().T @ b


class S4(nn.Module):
    """Mixes time: each channel's own convolution with the kernel of a linear system, and a skip.

    Args:
        channels: C. n_states: of each channel's system. length: L, the bins that it is made for. bidirectional: a
            second kernel reads what comes after a bin.
    """

    def __init__(self, channels: int, n_states: int, length: int, bidirectional: bool) -> None:
        super().__init__()
        a, p, b = (np.repeat(v[None], channels, 0) for v in legs_system(n_states))
        self.D = nn.Parameter(torch.randn(1, channels))
        low, high = math.log(1e-3), math.log(1e-1)
        self.inv_dt = nn.Parameter(low + (high - low) * torch.rand(channels, 1))
        self.A_real = nn.Parameter(torch.tensor(np.log(-a.real)).float())
        self.A_imag = nn.Parameter(torch.tensor(-a.imag).float())
        self.P = nn.Parameter(torch.view_as_real(torch.tensor(p.astype(np.complex64)))[None].contiguous())
        self.B = nn.Parameter(torch.view_as_real(torch.tensor(b.astype(np.complex64)))[None].contiguous())
        c = torch.randn(2 if bidirectional else 1, channels, n_states // 2, 2) * 0.5**0.5
        self.length = length
        self.C = nn.Parameter(c)
        with torch.no_grad():
            self.C.copy_(torch.view_as_real(self.fitted(torch.view_as_complex(c), length, sign=-1)))

    def forward(self, x_BTC: Tensor, kernel: Tensor | None = None) -> Tensor:
        """``[B, T, C]``, in float32. ``kernel``: what :meth:`kernel` gives for T, where it is at hand."""
        n_bins = x_BTC.shape[1]
        with torch.autocast(x_BTC.device.type, enabled=False):
            x, k = x_BTC.float(), self.kernel(n_bins) if kernel is None else kernel
            taps = F.pad(k[0], (0, n_bins))
            if len(k) == 2:  # tap j reads bin t + j + 1
                taps = taps + F.pad(k[1].flip(-1), (n_bins, 0))
            spectrum = torch.fft.rfft(x, n=2 * n_bins, dim=1) * torch.fft.rfft(taps).T
            return torch.fft.irfft(spectrum, n=2 * n_bins, dim=1)[:, :n_bins] + self.D * x

    def kernel(self, n_bins: int) -> Tensor:
        """The taps, float32 ``[1 or 2, C, T]``."""
        length, c = self.length, torch.view_as_complex(self.C)
        while length < n_bins:
            c, length = self.fitted(c, length, sign=1), 2 * length
        a, p, b, dt = self._system()
        c = torch.cat([c, c.conj()], -1)
        z = torch.exp(-2j * torch.pi * torch.arange(length // 2 + 1, device=c.device) / length).to(c.dtype)
        resolvent = dt[..., None] / ((1 - z) - 0.5 * dt[..., None] * a[..., None] * (1 + z))  # [C, 2 S, frequencies]
        left = torch.cat([c, p.conj()[None]])[:, :, None]  # [., C, 1, 2 S]
        of_b, of_p = ((left * right)[..., 0, :].transpose(0, 1) @ resolvent for right in (b[:, None], p[:, None]))
        half = 0.5 * (1 + z)
        correction = half * of_p[:, :-1] * of_b[:, -1:] / (1 + half * of_p[:, -1:])
        return torch.fft.irfft((of_b[:, :-1] - correction).transpose(0, 1), n=length)[..., :n_bins]

    def fitted(self, c: Tensor, length: int, sign: int) -> Tensor:
        """``C (I + sign Abar^L)``, complex ``[., C, S]``: of C (-1), or of C~ of this length that of twice it (1)."""
        step, _ = self.discrete()
        power = torch.linalg.matrix_power(step, length)
        whole = torch.cat([c, c.conj()], -1)
        return (whole + sign * torch.einsum("kcs,csr->kcr", whole, power))[..., : c.shape[-1]]

    def discrete(self) -> tuple[Tensor, Tensor]:
        """``Abar`` complex ``[C, 2 S, 2 S]`` and ``Bbar`` ``[C, 2 S]``: a step of one bin of the whole system."""
        a, p, b, dt = self._system()
        m = torch.diag_embed(a) - p[:, :, None] * p.conj()[:, None, :]
        eye, half = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), 0.5 * dt[..., None] * m
        step = torch.linalg.solve(eye - half, torch.cat([eye + half, (dt * b)[..., None]], -1))
        return step[..., :-1], step[..., -1]

    def _system(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, P and B with their conjugates, complex ``[C, 2 S]``, and dt ``[C, 1]``."""
        a = torch.complex(-self.A_real.exp(), -self.A_imag)
        p, b = (torch.view_as_complex(part)[0] for part in (self.P, self.B))
        return *(torch.cat([part, part.conj()], -1) for part in (a, p, b)), self.inv_dt.exp()


class GroupedLinear(nn.Module):
    """A linear layer in groups of channels where their number is a multiple of the groups'; else a whole one.

    Args:
        n_in, n_out: channels. groups: wanted.
    """

    def __init__(self, n_in: int, n_out: int, groups: int) -> None:
        super().__init__()
        self.groups = groups if n_in % groups == n_out % groups == 0 else 1
        bound = (self.groups / n_in) ** 0.5
        self.weight = nn.Parameter(torch.empty(n_out, n_in // self.groups).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        grouped, weight = x.unflatten(-1, (self.groups, -1)), self.weight.unflatten(0, (self.groups, -1))
        return torch.einsum("...gi,goi->...go", grouped, weight).flatten(-2) + self.bias


def over_time(x_BTC: Tensor) -> Tensor:
    """Each channel of each window with mean 0 and variance 1 over its bins (no affine part)."""
    variance, mean = torch.var_mean(x_BTC.float(), dim=1, correction=0, keepdim=True)
    return (x_BTC - mean) * torch.rsqrt(variance + NORM_EPS)


def over_channels(x_BTC: Tensor) -> Tensor:
    """Each bin with mean 0 and variance 1 over its channels: what a window has in common is left in it."""
    return F.layer_norm(x_BTC.float(), x_BTC.shape[-1:], eps=NORM_EPS)


NORMS = {"time": over_time, "channels": over_channels}


def channel_mixer(channels: int, n_linear: int, bias: bool) -> nn.Sequential:
    """``n_linear`` layers, twice as wide inside, with GELU between."""
    widths = [channels, *[2 * channels] * (n_linear - 1), channels]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.GELU()] * bool(layers) + [nn.Linear(n_in, n_out, bias=bias)]
    return nn.Sequential(*layers)


class Block(nn.Module):
    """A block of the autoencoder: time, then channels, each behind a norm over time with a learned shift and scale."""

    def __init__(self, channels: int, n_states: int, length: int, bidirectional: bool, n_linear: int) -> None:
        super().__init__()
        self.ada_ln = nn.Parameter(torch.randn(6 * channels) / channels**0.5)  # the gates among them are unused
        self.time_mixer = S4(channels, n_states, length, bidirectional)
        self.scale = nn.Parameter(torch.rand(channels) * 2 - 1)
        self.bias = nn.Parameter(torch.rand(channels) * 2 - 1)
        self.channel_mixer = channel_mixer(channels, n_linear, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        shift_1, scale_1, _, shift_2, scale_2, _ = self.ada_ln.chunk(6)
        x = x_BTC + self.scale * F.gelu(self.time_mixer(over_time(x_BTC) * (1 + scale_1) + shift_1)) + self.bias
        return x + self.channel_mixer(over_time(x) * (1 + scale_2) + shift_2)


class AutoEncoder(nn.Module):
    """From the channels of a read-in to latents, and to the channels of a read-out.

    Args:
        channels: C. latents: K. length: bins of a window. blocks, decoder_blocks: of the two halves; a decoder without
            any is a GELU. n_linear: layers of a channel mixer. gelu_latents: a GELU before the decoder.
    """

    def __init__(
        self,
        channels: int,
        latents: int,
        length: int,
        *,
        n_states: int,
        blocks: int,
        decoder_blocks: int,
        bidirectional: bool,
        n_linear: int,
        gelu_latents: bool,
    ) -> None:
        super().__init__()
        of_block = (channels, n_states, length, bidirectional, n_linear)
        self.encoder = nn.ModuleList(Block(*of_block) for _ in range(blocks))
        self.bottleneck = GroupedLinear(channels, latents, latents)
        self.unbottleneck = GroupedLinear(latents, channels, latents)
        self.decoder = nn.ModuleList(Block(*of_block) for _ in range(decoder_blocks))
        self.gelu_latents = gelu_latents

    def encode(self, x_BTC: Tensor) -> Tensor:
        """Latents, ``[B, T, K]``."""
        for block in self.encoder:
            x_BTC = block(x_BTC)
        return self.bottleneck(x_BTC)

    def decode(self, z_BTK: Tensor) -> Tensor:
        """What the read-out reads, ``[B, T, C]``."""
        x = self.unbottleneck(F.gelu(z_BTK) if self.gelu_latents else z_BTK)
        if not self.decoder:
            return F.gelu(x)
        for block in self.decoder:
            x = block(x)
        return x


class DenoiserBlock(nn.Module):
    """As :class:`Block`, with shifts, scales and gates that follow from the diffusion step (and the condition)."""

    def __init__(self, channels: int, n_states: int, length: int, bidirectional: bool, norm: Norm) -> None:
        super().__init__()
        self.norm = NORMS[norm]
        self.ada_ln = nn.Linear(channels // 4, 6 * channels)
        self.time_mixer = S4(channels, n_states, length, bidirectional)
        self.channel_mixer = channel_mixer(channels, 2, bias=True)

    def forward(self, x_BTC: Tensor, told: Tensor, kernel: Tensor | None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.ada_ln(F.gelu(told)).chunk(6, -1)
        x = x_BTC + gate_1 * F.gelu(self.time_mixer(self.norm(x_BTC) * (1 + scale_1) + shift_1, kernel))
        return x + gate_2 * self.channel_mixer(self.norm(x) * (1 + scale_2) + shift_2)


class Denoiser(nn.Module):
    """Tells the noise in latents (or what they are without it), from the step of the diffusion and a condition.

    Args:
        latents: K. channels: C, a multiple of 4. length: bins of a window. condition: numbers of it; 0 for none.
        norm: of a block, over ``"time"`` or ``"channels"``.
    """

    def __init__(
        self,
        latents: int,
        channels: int,
        length: int,
        *,
        n_states: int,
        blocks: int,
        bidirectional: bool,
        condition: int,
        norm: Norm = "time",
    ) -> None:
        super().__init__()
        width = channels // 4
        self.conv_in = GroupedLinear(latents, channels, latents)
        self.of_time = nn.Sequential(nn.Linear(SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width))
        if condition:
            self.of_condition = nn.Sequential(nn.Linear(condition, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            DenoiserBlock(channels, n_states, length, bidirectional, norm) for _ in range(blocks)
        )
        self.conv_out = GroupedLinear(channels, latents, latents)
        with torch.no_grad():
            self.conv_out.weight.mul_(0.1)
            self.conv_out.bias.mul_(0.1)

    def forward(
        self,
        z_BTK: Tensor,
        step_B: Tensor,
        condition: Tensor | None = None,
        known: Tensor | None = None,
        session: Tensor | None = None,
        kernels: list[Tensor] | None = None,
    ) -> Tensor:
        """``[B, T, K]``.

        Args:
            step_B: int64, of the diffusion. condition: ``[B, T or 1, c]``; known: bool ``[B, T or 1, 1]``, where it is
                known; it adds nothing elsewhere. session: ``[C / 4]``, of the session that all windows are of.
            kernels: of :meth:`kernels`, where they are at hand.
        """
        told = self.of_time(sinusoids(step_B))[:, None]  # [B, 1, C / 4]
        if condition is not None:
            told = told + torch.where(known, self.of_condition(condition), 0.0)
        if session is not None:
            told = told + session
        x = self.conv_in(z_BTK)
        for k, block in enumerate(self.blocks):
            x = block(x, told, None if kernels is None else kernels[k])
        return self.conv_out(x)

    def kernels(self, n_bins: int) -> list[Tensor]:
        """The taps of each block: the same for every step of a draw."""
        return [block.time_mixer.kernel(n_bins) for block in self.blocks]


def sinusoids(step_B: Tensor) -> Tensor:
    """float32 ``[B, 256]``: cosines, then sines."""
    half = SINUSOIDS // 2
    frequency = LONGEST_PERIOD ** (-torch.arange(half, device=step_B.device, dtype=torch.float32) / half)
    angle = step_B[:, None].float() * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


class NoiseSchedule:
    """The variances of a diffusion in so many steps (Ho et al. 2020): linear from 1e-4 to 2e-2.

    Args:
        steps: of the diffusion. With fewer than 1000 the variances are as much larger, so that the end is as noisy.
    """

    def __init__(self, steps: int) -> None:
        beta = torch.linspace(1e-4, 2e-2, steps, dtype=torch.float64) * (1000 / steps)
        self.kept = (1 - beta).cumprod(0)  # share of the variance that is still signal behind each step
        self.steps = steps

    def noisy(self, z: Tensor, noise: Tensor, step_B: Tensor) -> Tensor:
        """``[B, T, K]``: the latents behind a step."""
        kept = self.kept.to(z.device)[step_B].float()[:, None, None]
        return kept.sqrt() * z + (1 - kept).sqrt() * noise

    def clean(self, x: Tensor, told: Tensor, step: int) -> Tensor:
        """The latents before all steps, from what is behind one and the noise in it."""
        kept = float(self.kept[step])
        return (x - (1 - kept) ** 0.5 * told) / kept**0.5

    def back(self, x: Tensor, clean: Tensor, step: int, noise: Tensor) -> Tensor:
        """One step back: a draw of the step before, given ``x`` behind this one and what is told of the clean latents.

        Args:
            noise: standard normal numbers in the shape of ``x``; unused at step 0.
        """
        kept, before = float(self.kept[step]), float(self.kept[step - 1]) if step else 1.0
        left = kept / before
        mean = before**0.5 * (1 - left) / (1 - kept) * clean + left**0.5 * (1 - before) / (1 - kept) * x
        return mean + ((1 - before) / (1 - kept) * (1 - left)) ** 0.5 * noise if step else mean


def draw_counts(rate: Tensor, uniform: Tensor, how: Generation) -> Tensor:
    """uint8 ``[L, N]``: a Poisson count of each rate.

    Args:
        rate: ``[L, N]``, expected spikes a bin. uniform: numbers in [0, 1) in its shape.
        how: ``temperature`` divides the logits of the counts; 0 takes the likeliest count.
    """
    most = float(rate.max()) if rate.numel() else 0.0
    count = torch.arange(min(int(most + 8 * most**0.5 + 10), 255) + 1, device=rate.device, dtype=torch.float32)
    rows = []
    for r, u in zip(rate.float().clamp_min(1e-12).split(1024), uniform.split(1024), strict=True):  # a table a row
        logits = count * r[..., None].log() - torch.lgamma(count + 1)  # [., N, counts]
        if how.temperature == 0:
            rows.append(logits.argmax(-1))
            continue
        p = (logits / how.temperature).softmax(-1)
        if how.top_k is not None or how.top_p < 1:
            falling, order = p.sort(-1, descending=True)
            away = falling.cumsum(-1) - falling >= how.top_p
            if how.top_k is not None:
                away = away | (torch.arange(len(count), device=p.device) >= how.top_k)
            p = p.masked_fill(torch.zeros_like(away).scatter(-1, order, away), 0.0)
            p = p / p.sum(-1, keepdim=True)
        rows.append((p.cumsum(-1) <= u[..., None]).sum(-1).clamp_max(len(count) - 1))
    return torch.cat(rows).to(torch.uint8) if rows else rate.to(torch.uint8)
