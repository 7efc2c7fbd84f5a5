"""Which bins a masked model does not see, and what stands in their place.

Masks are drawn for each batch and never stored. Draws come from ``generator``, or from torch's global generator of the
bins' device, so that a run which restores the generator goes on with the same masks.

Sources: NDT1, src/mask.py of snel-repo/neural-data-transformers; NDT2, context_general_bci/task_io.py of
joel99/context_general_bci (``keep_tokens``); NDT3, context_general_bci/model.py of joel99/ndt3 (``drop_inputs``); MtM,
src/models/masker.py of colehurwitz/IBL_foundation_model (``draw_mask``); NEDS, src/multi_modal/mm.py of
yzhang511/NEDS (``hide_modalities``). Shape letters: B windows, T bins, N units, L tokens, M modalities.

Differs from the reference: its mode ``neuron`` spreads units over the wrong axis; here ``"unit"`` hides whole units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from spiketok.errors import UsageError

# What a draw decides at once; the reference's names are timestep, timestep_only, full and neuron.
HideMode = Literal["timestep", "shared_timestep", "element", "unit"]
# What a batch hides, and from what it is to be predicted; ``inter-region``, ``intra-region`` and ``random`` in MtM.
Mask = Literal["neuron", "causal", "inter_region", "intra_region", "temporal", "random_token"]


def span_probability(step: int, ramp_start: int, ramp_end: int) -> float:
    """How often spans are used at all: 0 up to ``ramp_start``, then rising linearly to 1 at ``ramp_end``."""
    if step >= ramp_end:
        return 1.0
    return max(0.0, (step - ramp_start) / (ramp_end - ramp_start)) if ramp_end > ramp_start else 0.0


def draw_span(max_span: int, probability: float, generator: torch.Generator | None = None) -> int:
    """The width of the hidden stretches of one batch: 1, or with ``probability`` uniform in 1..max_span."""
    if max_span <= 1 or probability <= 0 or torch.rand((), generator=generator).item() >= probability:
        return 1
    return int(torch.randint(1, max_span + 1, (), generator=generator))


def hide_timesteps(
    n_windows: int,
    n_bins: int,
    ratio: float,
    span: int = 1,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw whole bins to hide (all units at once).

    Each bin starts a stretch with probability ``ratio / span``; a stretch covers ``span`` bins around it, cut off at
    the window's ends, and stretches may overlap: with span > 1 slightly fewer than ``ratio`` of the bins are hidden.

    Returns:
        bool ``[B, T]``, True where hidden.
    """
    hidden = torch.rand(n_windows, n_bins, device=device, generator=generator) < ratio / span
    if span == 1 or n_bins == 0:
        return hidden
    left = span // 2
    wide = torch.nn.functional.pad(hidden.float(), (left, span - 1 - left))
    return torch.nn.functional.max_pool1d(wide[:, None], span, stride=1)[:, 0] > 0


def hide(
    mode: HideMode,
    shape: tuple[int, int, int],
    ratio: float,
    span: int = 1,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw what is hidden of counts of a shape ``[B, T, N]``.

    Args:
        mode: ``"timestep"``: whole bins, drawn for each window; ``"shared_timestep"``: the same whole bins in every
            window; ``"element"``: single counts; ``"unit"``: whole units, drawn for each window.
        shape: B, T, N. ratio: share that is hidden. span: width of the hidden stretches, for whole bins.

    Returns:
        bool ``[B, T, 1]``, ``[1, T, 1]``, ``[B, T, N]`` or ``[B, 1, N]``, True where hidden.

    Raises:
        UsageError: the mode is unknown, or has no spans.

    >>> hide("unit", (4, 10, 3), 0.5).shape
    torch.Size([4, 1, 3])
    """
    n_windows, n_bins, n_units = shape
    if mode in ("timestep", "shared_timestep"):
        rows = n_windows if mode == "timestep" else 1
        return hide_timesteps(rows, n_bins, ratio, span, device=device, generator=generator)[..., None]
    if mode not in get_args(HideMode) or span != 1:
        message = f"a mask of mode '{mode}' and span {span}: modes are {', '.join(get_args(HideMode))}; spans need bins"
        raise UsageError(message)
    drawn = (n_windows, n_bins if mode == "element" else 1, n_units)
    return torch.rand(drawn, device=device, generator=generator) < ratio


def draw_mask(
    mask: Mask,
    shape: tuple[int, int, int],
    region: Tensor,
    ratio: float,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw by a mask of MtM what is hidden of counts of a shape ``[B, T, N]``, and which of that is to be predicted.

    Only with ``"intra_region"`` the two differ.

    Args:
        mask: ``"neuron"``: whole units, drawn for each window. ``"temporal"`` and ``"causal"``: whole bins, drawn for
            each window (what a bin then attends to is the model's). ``"random_token"``: single counts.
            ``"inter_region"``: all units of one region, the same in every window. ``"intra_region"``: all units of all
            regions but one, and of that one a share of the units, which alone are to be predicted.
        shape: B, T, N. region: integer ``[N]``, the region of each unit; each that occurs is drawn as often.
        ratio: share that is hidden; ``"inter_region"`` has none.

    Returns:
        hidden and predicted, bool, each of a shape that broadcasts to ``[B, T, N]``.

    >>> hidden, predicted = draw_mask("intra_region", (4, 10, 3), torch.tensor([0, 0, 1]), 1.0)
    >>> bool(hidden.all()), predicted.shape
    (True, torch.Size([4, 1, 3]))
    """
    if mask in ("inter_region", "intra_region"):
        present = region.to(device).unique()
        chosen = present[torch.randint(len(present), (1,), device=device, generator=generator)]
        inside = (region.to(device) == chosen)[None, None]
        if mask == "inter_region":
            return inside, inside
        drawn = hide("unit", shape, ratio, device=device, generator=generator)
        return drawn | ~inside, drawn & inside
    modes: dict[Mask, HideMode] = {"neuron": "unit", "temporal": "timestep", "causal": "timestep"}
    hidden = hide(modes.get(mask, "element"), shape, ratio, device=device, generator=generator)
    return hidden, hidden


def hide_last(n_bins: int, ratio: float, *, device: torch.device | str = "cpu") -> Tensor:
    """The last bins of every window, at least one: bool ``[1, T, 1]`` (BrainWideBench's causal mask of MtM).

    >>> hide_last(5, 0.5).flatten()
    tensor([False, False, False,  True,  True])
    """
    return (torch.arange(n_bins, device=device) >= n_bins - max(1, int(ratio * n_bins)))[None, :, None]


def keep_tokens(
    n_tokens: int, ratio: float, *, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """Draw which tokens of a window an encoder sees; the rest are to be predicted (masked autoencoding, NDT2).

    A random choice of exactly ``int((1 - ratio) * n_tokens)``, as the first of a permutation.

    Returns:
        bool ``[L]``, True where kept.

    >>> int(keep_tokens(70, 0.25).sum())
    52
    """
    kept = torch.zeros(n_tokens, dtype=torch.bool, device=device)
    kept[torch.randperm(n_tokens, device=device, generator=generator)[: int((1 - ratio) * n_tokens)]] = True
    return kept


def drop_inputs(
    n_tokens: int,
    ratio: float,
    *,
    random_ratio: bool = False,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw which places of a sequence lose what stands there, so that it is not learned to be copied (NDT3).

    Args:
        ratio: probability of each. random_ratio: it is itself drawn, uniform from 0 to ``ratio``.

    Returns:
        bool ``[L]``, True where nothing is shown.

    >>> bool(drop_inputs(5, 1.0).all())
    True
    """
    if random_ratio:
        ratio *= torch.rand((), generator=generator).item()
    return torch.rand(n_tokens, device=device, generator=generator) < ratio


# What a window with spikes and behaviours is asked at once (NEDS): the spikes, from the behaviours; these, from the
# spikes; some bins of the spikes; some of each behaviour; some bins of everything.
MODALITY_MASKS = ("encoding", "decoding", "self_spikes", "self_behaviour", "random_token")


def draw_modality_masks(
    n_windows: int,
    masks: Sequence[str] = MODALITY_MASKS,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """A mask for each window, each as likely: int64 ``[B]``, places in ``MODALITY_MASKS``.

    Args:
        masks: names of those that may come.
    """
    place = torch.tensor([MODALITY_MASKS.index(name) for name in masks], device=device)
    return place[torch.randint(len(place), (n_windows,), device=device, generator=generator)]


def hide_modalities(
    mask_B: Tensor,
    n_behaviours: int,
    n_bins: int,
    ratio: float,
    *,
    one_row: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the bins of each modality that are hidden in each window, the spikes being the first modality.

    ``self_behaviour`` draws for each behaviour by itself, ``random_token`` the same bins for all modalities.

    Args:
        mask_B: int64 ``[B]`` of :func:`draw_modality_masks`. ratio: share of the bins, where bins are drawn.
        one_row: all windows of a mask hide the same bins, as in NEDS's code; else each has a draw of its own.

    Returns:
        bool ``[B, M, T]``, M being 1 and the behaviours.

    >>> hide_modalities(torch.tensor([0, 1]), 2, 3, 0.5).all(-1)
    tensor([[ True, False, False],
            [False,  True,  True]])
    """
    rows, n_modalities, device = 1 if one_row else len(mask_B), 1 + n_behaviours, mask_B.device
    own = hide_timesteps(rows * n_modalities, n_bins, ratio, device=device, generator=generator)
    own = own.unflatten(0, (rows, n_modalities))
    shared = hide_timesteps(rows, n_bins, ratio, device=device, generator=generator)[:, None]
    spikes = (torch.arange(n_modalities, device=device) == 0)[:, None]
    encoding, decoding, self_spikes, self_behaviour, random_token = (
        (mask_B == place)[:, None, None] for place in range(len(MODALITY_MASKS))
    )
    whole = encoding & spikes | decoding & ~spikes
    return whole | (self_spikes & spikes | self_behaviour & ~spikes) & own | random_token & shared


def corrupt(
    counts: Tensor, hidden: Tensor, zero_ratio: float, random_ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """The counts as the model sees them: each hidden element becomes 0, a random count, or stays.

    The draw is made for each element (bin and unit), though bins are hidden whole.

    Args:
        counts: float ``[B, T, N]``. hidden: bool, of a shape that broadcasts to it.
        zero_ratio: probability that a hidden element becomes 0.
        random_ratio: probability that one of the rest becomes uniform in ``0 .. max - 1``, max being the largest count
            that is left after the zeros are set: what was set to 0 has no influence on what the model sees.
    """
    zero = (torch.rand(counts.shape, device=counts.device, generator=generator) < zero_ratio) & hidden
    random = (torch.rand(counts.shape, device=counts.device, generator=generator) < random_ratio) & hidden & ~zero
    left = torch.where(zero, 0.0, counts)
    top = left.max().clamp_min(1) if counts.numel() else counts.new_ones(())
    draw = torch.rand(counts.shape, device=counts.device, generator=generator)
    return torch.where(random, (draw * top).floor(), left)


def hide_counts(
    counts: Tensor,
    always: Tensor | None,
    drawn: Tensor | None,
    zero_ratio: float,
    random_ratio: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The counts without what is hidden, and what that is.

    Args:
        counts: float ``[B, T, N]``.
        always: bool ``[B, T, N]``, what the task hides (held-out units, forward bins): 0 before anything else, so that
            it has no influence on what the model sees. drawn: bool, broadcasts to it, what the model hides beside, as
            :func:`corrupt` does. None where there is nothing of the kind.
        zero_ratio, random_ratio: as in :func:`corrupt`.

    Returns:
        float ``[B, T, N]``; bool that broadcasts to it, None where nothing is hidden.
    """
    if always is not None:
        counts = torch.where(always, 0.0, counts)
    if drawn is None:
        return counts, always
    own = drawn if always is None else drawn & ~always
    return corrupt(counts, own, zero_ratio, random_ratio, generator), own if always is None else own | always


def coordinated_dropout(
    counts: Tensor, rate: float, pass_rate: float = 0.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Drop single counts from an autoencoder's input, so that it learns from those alone (Keshtkaran et al. 2019).

    Args:
        counts: float ``[B, T, N]``. rate: share that becomes 0; the others are divided by ``1 - rate``. At 0 nothing is
            dropped and all is learned from.
        pass_rate: share of the others that are learned from too.

    Returns:
        float ``[B, T, N]``; bool ``[B, T, N]``, which counts are learned from.
    """
    if rate == 0:
        return counts, torch.ones_like(counts, dtype=torch.bool)
    dropped = torch.rand(counts.shape, device=counts.device, generator=generator) < rate
    learned = dropped
    if pass_rate:
        learned = dropped | (torch.rand(counts.shape, device=counts.device, generator=generator) < pass_rate)
    return torch.where(dropped, 0.0, counts) / (1 - rate), learned
