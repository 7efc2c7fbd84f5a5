"""What attention costs each model that reads a scheme: multiply-adds of one layer, by formula.

Shape letters: L tokens of a window, N units, B windows, D model width, K latents, C queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

WIDTH = 128  # D
LATENTS = 128  # K of POYO's smallest model: 16 every 125 ms of a second
QUERIES = 2  # C, the components of a cursor's velocity


@dataclass(frozen=True)
class Lengths:
    """The sequence lengths of B windows.

    Args:
        tokens: int64 ``[B]``, all tokens. current: int64 ``[B]``, those of the window itself where a scheme also has
            tokens of its history, else all. units: how many units the session has. bins: T of a window, or 0.
    """

    tokens: np.ndarray
    current: np.ndarray
    units: int
    bins: int = 0


@dataclass(frozen=True)
class Attention:
    """How a model attends to its tokens: the formula as text, and as multiply-adds of each window."""

    formula: str
    multiply_adds: Callable[[Lengths], np.ndarray]


def _nuclr(lengths: Lengths) -> np.ndarray:
    """Each unit over its own patches, then the units of one patch over each other; ``L / N`` patches a unit."""
    tokens = lengths.tokens.astype(np.float64)
    return tokens * (tokens / max(lengths.units, 1) + lengths.units)


def _stndt(lengths: Lengths) -> np.ndarray:
    """Over the T bins, and over the N units."""
    return np.full(len(lengths.tokens), float(lengths.bins) ** 2 + lengths.units**2)


FULL = Attention("L^2 D", lambda lengths: lengths.tokens.astype(np.float64) ** 2)
TO_LATENTS = Attention(f"L K D, K = {LATENTS}", lambda lengths: lengths.tokens * float(LATENTS))
NO_ATTENTION = Attention("none", lambda lengths: np.zeros(len(lengths.tokens)))
ATTENTION: Mapping[str, Attention] = {
    "NDT1": FULL,
    "STNDT": Attention("(T^2 + N^2) D", _stndt),
    "MtM": FULL,
    "NEDS": FULL,
    "LFADS": NO_ATTENTION,
    "linear": NO_ATTENTION,
    "NDT2": FULL,
    "NDT3": FULL,
    "POYO": TO_LATENTS,
    "POYO+": TO_LATENTS,
    "CaPOYO": TO_LATENTS,
    "POSSM": Attention("L D, one latent a chunk", lambda lengths: lengths.tokens.astype(np.float64)),
    "Neuroformer": Attention("(Lc^2 + Lc Lh) D", lambda lengths: lengths.current * lengths.tokens.astype(np.float64)),
    "SPINT": Attention(f"C L D, C = {QUERIES}", lambda lengths: lengths.tokens * float(QUERIES)),
    "NuCLR": Attention("(N P^2 + P N^2) D, P = L / N", _nuclr),
    "any model that reads bins": FULL,
}
"""How each reader attends: full self-attention of L tokens costs ``L^2 D``; POYO's first layer lets K latents attend to
the tokens; POSSM has one latent for each chunk, which sees the chunk's tokens; SPINT's C queries attend to N units in
each bin; STNDT attends over T bins and over N units; NuCLR over each unit's patches and over the units of each patch;
Neuroformer lets the current window's tokens attend to themselves and to the history's. The identity encoder that reads
calibration trials (SPINT) is feed-forward: it has no entry for that scheme. All in multiply-adds, twice: scores and
mixing."""


def without_formula(readers: Iterable[str]) -> list[str]:
    """The readers, of other packages, of which it is not known how they attend."""
    return [reader for reader in readers if reader not in ATTENTION]


def attention_flops(reader: str, lengths: Lengths) -> float:
    """FLOPs of one layer's attention in one window, mean over the windows; D is :data:`WIDTH`.

    >>> attention_flops("NDT1", Lengths(np.array([50]), np.array([50]), 10))
    1280000.0
    """
    return float(4.0 * WIDTH * ATTENTION[reader].multiply_adds(lengths).mean())
