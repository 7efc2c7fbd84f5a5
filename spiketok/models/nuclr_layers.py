"""What NuCLR is made of: views as rows of units, the trunk over time and over units, and the contrasts of two views.

Shape letters: V views, n units of all views, P patches of a view, K numbers in a patch, S spikes, M matched units, D
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.models.nn import GatedFeedForward, RotaryTime, attention, rotate

FORMS = ("dcl_full", "dcl", "ntxent", "full")


@dataclass(frozen=True, eq=False)
class Views:
    """The units that views hold, view behind view.

    Args:
        unit: int64 ``[n]``, rows of the session's own unit table, rising in each view. length: units of each view.
        patch: float32 ``[n, P, K]``; None for spikes as they are.
        time: float32 ``[S]``, seconds from the view's start, unit behind unit. spikes: int64 ``[n]``, spikes of each.
    """

    unit: Tensor
    length: list[int]
    patch: Tensor | None = None
    time: Tensor | None = None
    spikes: Tensor | None = None

    def take(self, kept: Tensor) -> Views:
        """The units of bool ``[n]``."""
        length = [int(own.sum()) for own in kept.split(self.length)]
        spike = None if self.time is None else torch.repeat_interleave(kept, self.spikes)
        return Views(
            self.unit[kept],
            length,
            None if self.patch is None else self.patch[kept],
            None if self.time is None else self.time[spike],
            None if self.spikes is None else self.spikes[kept],
        )


# ---- the trunk ------------------------------------------------------------------------------------------------------


class Attend(nn.Module):
    """Self-attention normalised before, with biases; rows may be turned by time, values too."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x_LD: Tensor, length: Sequence[int], turn: Tensor | None = None) -> Tensor:
        """``[L, D]``; ``length`` rows of each group, ``turn`` ``[L, E / 2]`` of :class:`RotaryTime`, or None."""
        qkv = self.to_qkv(self.norm(x_LD)).unflatten(-1, (3, self.heads, -1))
        if turn is not None:
            qkv = rotate(qkv, turn[:, None, None])
        dropout = self.dropout if self.training else 0.0
        out = attention(*qkv.unbind(1), length, length, dropout=dropout)
        if turn is not None:
            out = rotate(out, turn[:, None].conj())
        return self.to_out(out.flatten(-2))


class AttendSpikes(nn.Module):
    """What a unit's patches find in its spikes, of which nothing but the times is known.

    Keys and values come from zeros: they are their biases, turned by the spikes' times.

    Args:
        first: the patches hold nothing yet, and are not normalised.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float, first: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.Identity() if first else nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, heads * dim_head)
        self.to_key_value = nn.Linear(dim, 2 * heads * dim_head)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x_LD: Tensor, turn: Tensor, length: list[int], spike_turn: Tensor, spikes: list[int]) -> Tensor:
        """``[L, D]``; ``spike_turn`` ``[S, E / 2]``, ``spikes`` of each unit."""
        query = self.to_query(self.norm(x_LD)).unflatten(-1, (self.heads, -1))
        silent = self.to_key_value(x_LD.new_zeros(1, x_LD.shape[-1])).unflatten(-1, (2, self.heads, -1))
        key, value = rotate(silent.expand(len(spike_turn), -1, -1, -1), spike_turn[:, None, None]).unbind(1)
        dropout = self.dropout if self.training else 0.0
        out = attention(rotate(query, turn[:, None]), key, value, length, spikes, dropout=dropout)
        return self.to_out(rotate(out, turn[:, None].conj()).flatten(-2))


class Trunk(nn.Module):
    """From the patches of units to a vector a unit: layers over time, then layers over units and time.

    Args:
        read_in: numbers in a patch; 0 for spikes as they are. n_patches: P. step_s: length of a patch, for spikes.
    """

    def __init__(self, config, read_in: int, n_patches: int, step_s: float) -> None:
        super().__init__()
        dim, heads, dim_head = config.dim, config.heads, config.dim_head
        self.n_patches, self.step_s, self.of_spikes = n_patches, step_s, read_in == 0
        spare, self.dropout = config.dropout_attention, nn.Dropout(config.dropout)

        def attend() -> Attend:
            return Attend(dim, heads, dim_head, spare)

        def part(of_units: bool) -> nn.ModuleDict:
            parts = {"over_units" if of_units else "over_time": attend()}
            if self.of_spikes:
                parts["over_spikes"] = AttendSpikes(dim, heads, dim_head, spare)
            return nn.ModuleDict(parts | {"ffn": GatedFeedForward(dim)})

        if self.of_spikes:
            self.rotary = RotaryTime(dim_head, 1e-4, 8 * n_patches * step_s)
            self.first, self.first_ffn = AttendSpikes(dim, heads, dim_head, spare, first=True), GatedFeedForward(dim)
        else:
            self.rotary = RotaryTime(dim_head, 1.0, 8.0 * n_patches)
            self.read_in = nn.Linear(read_in, dim)
        self.time_layers = nn.ModuleList(part(False) for _ in range(config.time_layers))
        self.unit_layers = nn.ModuleList(
            nn.ModuleDict({"units": part(True), "time": part(False)}) for _ in range(config.unit_layers)
        )

    def forward(self, views: Views) -> Tensor:
        """``[n, D]``: the mean over patches, of the last layer."""
        n, n_patches = len(views.unit), self.n_patches
        step = torch.arange(n_patches, device=views.unit.device, dtype=torch.float32)
        self_turn = self.rotary((step + 0.5) * self.step_s if self.of_spikes else step).repeat(n, 1)
        patches = [n_patches] * n
        spikes = ()
        if self.of_spikes:
            spikes = (self_turn, patches, self.rotary(views.time), views.spikes.tolist())
            x = self_turn.real.new_zeros(n * n_patches, self.first.to_query.in_features)
            x = x + self.dropout(self.first(x, *spikes))
            x = x + self.dropout(self.first_ffn(x))
        else:
            x = self.read_in(views.patch.flatten(0, 1))

        def rest(x: Tensor, part: nn.ModuleDict) -> Tensor:
            if spikes:
                x = x + self.dropout(part["over_spikes"](x, *spikes))
            return x + self.dropout(part["ffn"](x))

        def over_time(x: Tensor, part: nn.ModuleDict) -> Tensor:
            return rest(x + self.dropout(part["over_time"](x, patches, self_turn)), part)

        def over_units(x: Tensor, part: nn.ModuleDict) -> Tensor:
            own = x.unflatten(0, (n, n_patches)).split(views.length)
            found = [  # the units of a view at one patch
                part["over_units"](rows.transpose(0, 1).flatten(0, 1), [len(rows)] * n_patches)
                .unflatten(0, (n_patches, -1))
                .transpose(0, 1)
                for rows in own
                if len(rows)
            ]
            return rest(x + self.dropout(torch.cat(found).flatten(0, 1)), part) if found else x

        for part in self.time_layers:
            x = over_time(x, part)
        for layer in self.unit_layers:
            x = over_time(over_units(x, layer["units"]), layer["time"])
        return x.unflatten(0, (n, n_patches)).mean(1)


# ---- two views ------------------------------------------------------------------------------------------------------


def matched(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the units that both views hold, int64 ``[M]`` in each.

    >>> matched(torch.tensor([1, 4, 6]), torch.tensor([4, 5, 6]))
    (tensor([1, 2]), tensor([0, 2]))
    """
    pair = (first[:, None] == second[None, :]).nonzero()
    return pair[:, 0], pair[:, 1]


def contrast(
    first: Tensor, second: Tensor, match: tuple[Tensor, Tensor], tau: float, form: str, same_view_tau: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What pulls matched units together, and what pushes them from others: two means over the matched units.

    Args:
        first, second: ``[n1, D]`` and ``[n2, D]``, of length 1. match: as :func:`matched` gives it.
        tau: temperature. form: ``"dcl_full"`` (the released one: a positive is no negative, and the units of the same
            view are negatives too), ``"dcl"`` (of the other view alone), ``"full"`` and ``"ntxent"`` (the same two with
            the positive among the negatives).
        same_view_tau: temperature of the negatives of the same view; the released code has none, which is 1.
    """
    i, j = match
    across = first @ second.T / tau
    pull = 1 / tau - across[i, j].mean()
    if form in ("dcl", "dcl_full"):
        across = across.index_put((i, j), across.new_tensor(-torch.inf))
    rows = [across[i], across.T[j]]
    if form in ("full", "dcl_full"):
        for k, (view, own) in enumerate(((first, i), (second, j))):
            same = view @ view.T / same_view_tau
            same = same.masked_fill(torch.eye(len(view), dtype=torch.bool, device=view.device), -torch.inf)
            rows[k] = torch.cat([rows[k], same[own]], 1)
    push = [(row.logsumexp(1) - torch.tensor(float(row.shape[1])).log().to(row)).mean() for row in rows]
    return pull, (push[0] + push[1]) / 2


def vicreg(first: Tensor, second: Tensor, match: tuple[Tensor, Tensor]) -> Tensor:
    """VICReg (Bardes et al. 2022): 25 invariance, 25 variance, 1 covariance.

    Args:
        first, second: ``[n1, D]`` and ``[n2, D]``, of all pairs; variance and covariance are over all rows of a view.
        match: the rows that are one unit, which invariance is of.
    """
    total = 25 * F.mse_loss(first[match[0]], second[match[1]])
    for view in (first, second):
        centred = view - view.mean(0)
        covariance = centred.T @ centred / (len(view) - 1)
        off = covariance - torch.diag(covariance.diagonal())
        total = total + 25 * F.relu(1 - (view.var(0) + 1e-4).sqrt()).mean() + off.square().sum() / view.shape[1]
    return total
