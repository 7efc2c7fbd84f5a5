"""One picture a scheme: the tokens of one window, as a person understands them at a glance.

Each function draws on the axis it is given (x: seconds in the window; y: unit unless it sets another label) and returns
the line that stands above: what the tokens are, how many, and how many spikes they hold.
"""

from __future__ import annotations

import numpy as np

from spiketok.recording import NS_PER_S

INK, FAINT = "#1f2933", "#9aa5b1"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes


def picture_binned(axis, reader, tokens, length_ns: int) -> str:
    counts = tokens.columns["counts"]
    seconds = length_ns / NS_PER_S
    image = axis.imshow(
        counts.T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="Greys",
        extent=(0, seconds, -0.5, counts.shape[1] - 0.5),
        vmin=0,
        vmax=max(1, int(counts.max(initial=0))),
        alpha=np.where(counts.T > 0, 1.0, 0.0),
    )
    ticks = range(0, int(counts.max(initial=0)) + 1, max(1, int(counts.max(initial=0)) // 5))
    axis.figure.colorbar(image, ax=axis, label="spikes in the bin", ticks=list(ticks), fraction=0.03, pad=0.01)
    return (
        f"binned: {counts.shape[0]} tokens (bins of {reader.scheme.bin_ns / 1e6:g} ms) of {counts.shape[1]} counts, "
        f"{int(counts.sum())} spikes"
    )


def picture_per_spike(axis, reader, tokens, length_ns: int) -> str:
    time, unit, kind = (tokens.columns[k] for k in ("time", "unit", "type"))
    styles = ((0, "|", 34, INK, "spike"), (1, ">", 9, COLORS[2], "START"), (2, "<", 9, COLORS[1], "END"))
    for number, marker, size, color, label in styles:
        rows = kind == number
        axis.scatter(time[rows], unit[rows], marker=marker, s=size, color=color, linewidths=0.9, label=label)
    axis.set_xlim(-0.02 * length_ns / NS_PER_S, 1.02 * length_ns / NS_PER_S)
    axis.set_ylim(-1, reader.info.n_units)
    axis.legend(fontsize=8, frameon=False, loc="upper center", ncols=3, bbox_to_anchor=(0.85, 1.09))
    return f"per-spike: {len(time)} tokens, {int((kind == 0).sum())} of them spikes"


PICTURES = {
    "binned": picture_binned,
    "per-spike": picture_per_spike,
}
