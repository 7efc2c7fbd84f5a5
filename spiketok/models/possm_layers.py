"""The recurrent backbones of POSSM, in plain torch: over many chunks at once for training, one by one when live.

Cho et al. 2014 (GRU); Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models"
(S4D, arXiv 2206.11893); Gu and Dao 2023, "Mamba" (arXiv 2312.00752).
Reference code: state-spaces/s4, models/s4/s4d.py; state-spaces/mamba, mamba_ssm/modules/mamba_simple.py.

What is unusual: every backbone takes and gives a state, so that chunks cut into parts give what they give at once.

Shape letters: B windows, T chunks, D width of the input, R width of the backbone, I inner width, N states of a channel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = list[Tensor]
Span = tuple[float, float]
DT: Span = (1e-3, 1e-1)  # of the reference layers: between which steps start, in chunks


class Gru(nn.Module):
    """torch's GRU, which starts at 0."""

    def __init__(self, dim: int, width: int, layers: int, state_dim: int, dropout: float, dt: Span = DT) -> None:
        super().__init__()
        self.net = nn.GRU(dim, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """``[B, T, R]`` and the state behind the last chunk."""
        y, last = self.net(x_BTD, None if state is None else state[0])
        return y, [last]


class S4dLayer(nn.Module):
    """A diagonal linear recurrence for each channel, as a convolution; GELU, then a gated mix of the channels.

    Args:
        state_dim: real states of a channel: half as many conjugate pairs.
    """

    def __init__(self, width: int, state_dim: int, dt: Span = DT) -> None:
        super().__init__()
        pairs = state_dim // 2
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(math.log(dt[0]), math.log(dt[1])))
        self.c = nn.Parameter(torch.randn(width, pairs, 2) * math.sqrt(0.5))
        self.log_a_real = nn.Parameter(torch.full((width, pairs), math.log(0.5)))
        self.a_imag = nn.Parameter(math.pi * torch.arange(pairs).float().repeat(width, 1))
        self.d = nn.Parameter(torch.randn(width))
        self.to_out = nn.Linear(width, 2 * width)

    def forward(self, u_BTR: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, T, R]`` and the state, complex ``[B, R, N]``."""
        u = u_BTR.float().transpose(1, 2)
        n_chunks = u.shape[-1]
        a = torch.complex(-self.log_a_real.exp(), self.a_imag)
        decay = a * self.log_dt.exp()[:, None]
        b, c = (decay.exp() - 1) / a, torch.view_as_complex(self.c)
        if n_chunks == 1:
            start = 0.0 if state is None else decay.exp() * state
            state = start + b * u
            y = 2 * torch.einsum("rn,brn->br", c, state).real[..., None]
        else:
            power = (decay[..., None] * torch.arange(n_chunks + 1, device=u.device)).exp()  # [R, N, T + 1]
            kernel = 2 * torch.einsum("rn,rnt->rt", c * b, power[..., :-1]).real
            size = 2 * n_chunks
            y = torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(kernel, size), size)[..., :n_chunks]
            last = b * torch.einsum("brt,rnt->brn", u.to(power.dtype), power[..., :-1].flip(-1))
            if state is not None:
                y = y + 2 * torch.einsum("rn,rnt,brn->brt", c, power[..., 1:], state).real
                last = last + power[..., -1] * state
            state = last
        y = F.gelu(y + self.d[:, None] * u).transpose(1, 2).to(u_BTR.dtype)
        return F.glu(self.to_out(y), dim=-1), state


class S4d(nn.Module):
    """A linear layer, then S4D layers, each added to its input and normalised after."""

    def __init__(self, dim: int, width: int, layers: int, state_dim: int, dropout: float, dt: Span = DT) -> None:
        super().__init__()
        self.encoder = nn.Linear(dim, width)
        self.layers = nn.ModuleList(S4dLayer(width, state_dim, dt) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """``[B, T, R]`` and the state behind the last chunk."""
        x, states = self.encoder(x_BTD), []
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y, last = layer(x, None if state is None else state[i])
            x = norm(x + self.dropout(y))
            states.append(last)
        return x, states


def scan(decay: Tensor, add: Tensor) -> Tensor:
    """``h_t = decay_t h_(t-1) + add_t`` from h = 0 along axis 1, in log2(T) steps.

    >>> scan(torch.full((1, 3), 0.5), torch.ones(1, 3))
    tensor([[1.0000, 1.5000, 1.7500]])
    """
    step = 1
    while step < add.shape[1]:
        add = torch.cat([add[:, :step], add[:, step:] + decay[:, step:] * add[:, :-step]], 1)
        decay = torch.cat([decay[:, :step], decay[:, step:] * decay[:, :-step]], 1)
        step *= 2
    return add


class MambaLayer(nn.Module):
    """A recurrence whose step and gates follow from its input, behind a short causal convolution."""

    def __init__(self, width: int, state_dim: int, conv: int = 4, expand: int = 2, dt: Span = DT) -> None:
        super().__init__()
        inner, rank = expand * width, -(-width // 16)
        self.rank, self.state_dim = rank, state_dim
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.a_log = nn.Parameter(torch.arange(1, state_dim + 1).float().log().repeat(inner, 1))
        self.d = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        step = torch.empty(inner).uniform_(math.log(dt[0]), math.log(dt[1])).exp()
        with torch.no_grad():  # softplus of the bias is the step
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, u_BTR: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """``[B, T, R]``, and the state: the last inputs of the convolution and ``[B, I, N]``."""
        x, z = self.in_proj(u_BTR).chunk(2, dim=-1)
        n_past = self.conv.kernel_size[0] - 1
        past = x.new_zeros(len(x), n_past, x.shape[-1]) if state is None else state[0]
        x = torch.cat([past, x], 1)
        past = x[:, -n_past:]
        x = F.silu(self.conv(x.transpose(1, 2)).transpose(1, 2))
        dt, b, c = self.x_proj(x).split([self.rank, self.state_dim, self.state_dim], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        decay = (dt[..., None] * -self.a_log.exp()).exp()  # [B, T, I, N]
        add = (dt * x)[..., None] * b[:, :, None]
        if state is not None:
            add = torch.cat([add[:, :1] + decay[:, :1] * state[1][:, None], add[:, 1:]], 1)
        h = scan(decay, add)
        y = torch.einsum("btin,btn->bti", h, c) + self.d * x
        return self.out_proj(y * F.silu(z)), [past, h[:, -1]]


class Mamba(nn.Module):
    """A linear layer, then Mamba layers, each added to its input that is normalised before, and a last norm."""

    def __init__(self, dim: int, width: int, layers: int, state_dim: int, dropout: float, dt: Span = DT) -> None:
        super().__init__()
        self.encoder = nn.Linear(dim, width)
        self.layers = nn.ModuleList(MambaLayer(width, state_dim, dt=dt) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """``[B, T, R]`` and the state behind the last chunk."""
        x, states = self.encoder(x_BTD), []
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y, last = layer(norm(x), None if state is None else state[2 * i : 2 * i + 2])
            x = x + self.dropout(y)
            states += last
        return self.norm(x), states


BACKBONES = {"gru": Gru, "s4d": S4d, "mamba": Mamba}


class FrameHead(nn.Module):
    """Logits of frames for CTC: a strided convolution over chunks without padding, GELU, a linear layer."""

    def __init__(self, width: int, hidden: int, size: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, hidden, kernel, stride)
        self.out = nn.Linear(hidden, size)

    def n_frames(self, n_chunks: int) -> int:
        """Frames that so many chunks hold whole."""
        return max(0, (n_chunks - self.conv.kernel_size[0]) // self.conv.stride[0] + 1)

    def forward(self, x_BTR: Tensor) -> Tensor:
        """``[B, F, size]``."""
        return self.out(F.gelu(self.conv(x_BTR.transpose(1, 2)).transpose(1, 2)))
