"""One picture a scheme: the tokens of one window, as a person understands them at a glance.

Each function draws on the axis it is given (x: seconds in the window; y: unit unless it sets another label) and returns
the line above: what the tokens are, how many, and how many spikes they hold.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spiketok.recording.nouns import NS_PER_S
from spiketok.tokens.schemes import SCHEMES

INK, FAINT = "#1f2933", "#9aa5b1"
MOST_NUMBERS = 120  # so many numbers of a token are written beside it
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes


def not_drawn(name: str, drawn: Iterable[str]) -> str:
    """That there is no picture of a scheme, which another package gives; the schemes that are drawn."""
    origin = SCHEMES.origin(name) if name in SCHEMES else None
    told = str(origin or f"scheme '{name}'")
    return f"there is no picture of {told}: spiketok draws {', '.join(sorted(drawn))}"


def mark_token(axis, left: float, right: float, low: float, high: float, words: str) -> str:
    """Box one token among the others; returns the line that says what it holds."""
    from matplotlib.patches import Rectangle

    box = Rectangle((left, low), right - left, high - low, fill=False, edgecolor=COLORS[1], lw=1.8, zorder=5)
    axis.add_patch(box)
    box.set_clip_on(False)
    return f"\norange box, one token: {words}"


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
    token, bin_s = int(counts.sum(axis=1).argmax()), reader.scheme.bin_ns / NS_PER_S
    words = f"{counts.shape[1]} counts of one bin, {int(counts[token].sum())} spikes"
    one = mark_token(axis, token * bin_s, (token + 1) * bin_s, -0.5, counts.shape[1] - 0.5, words)
    return (
        f"binned: {counts.shape[0]} tokens (bins of {reader.scheme.bin_ns / 1e6:g} ms) of {counts.shape[1]} counts, "
        f"{int(counts.sum())} spikes{one}"
    )


def picture_per_spike(axis, reader, tokens, length_ns: int) -> str:
    """With chunks, their edges are drawn and a blank is put at its chunk's middle, below the units."""
    scheme, seconds = reader.scheme, length_ns / NS_PER_S
    time, unit, kind = (tokens.columns[k] for k in ("time", "unit", "type"))
    if scheme.chunk_ns:
        step = scheme.chunk_ns / NS_PER_S
        axis.vlines(np.arange(length_ns // scheme.chunk_ns + 1) * step, -2, reader.info.n_units, color=FAINT, lw=0.5)
        blank = kind == 3
        time = time + tokens.columns["chunk"] * step + np.where(blank, step / 2, 0)
        unit = np.where(blank, -1, unit)
    styles = (
        (0, "|", 34, INK, "spike"),
        (1, ">", 9, COLORS[2], "START"),
        (2, "<", 9, COLORS[1], "END"),
        (3, "x", 14, COLORS[1], "blank"),
    )
    for number, marker, size, color, label in styles:
        rows = kind == number
        if rows.any():
            axis.scatter(time[rows], unit[rows], marker=marker, s=size, color=color, linewidths=0.9, label=label)
    axis.set_xlim(-0.02 * seconds, 1.02 * seconds)
    axis.set_ylim(-2, reader.info.n_units)
    if len(time):
        axis.legend(fontsize=8, frameon=False, loc="upper center", ncols=3, bbox_to_anchor=(0.85, 1.09))
    chunks = f" in {length_ns // scheme.chunk_ns} chunks" if scheme.chunk_ns else ""
    return f"per-spike: {len(time)} tokens{chunks}, {int((kind == 0).sum())} of them spikes"


def picture_event_pair(axis, reader, tokens, length_ns: int) -> str:
    """Each spike a cell of one step and unit, darker if it is there more than once; history left of 0."""
    scheme, columns, n_units = reader.scheme, tokens.columns, reader.info.n_units
    n_history, n_current = scheme.history_ns // scheme.step_ns, scheme.current_ns // scheme.step_ns
    spike, history = columns["type"] == 0, columns["stream"] == 0
    step = columns["dt"].astype(np.int64) + np.where(history, 0, n_history)
    count = np.zeros((n_units, n_history + n_current), np.int64)
    np.add.at(count, (columns["unit"][spike], step[spike]), 1)
    left, right = -scheme.history_ns / NS_PER_S, scheme.current_ns / NS_PER_S
    most = max(1, int(count.max(initial=0)))
    image = axis.imshow(
        count,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="Greys",
        extent=(left, right, -0.5, n_units - 0.5),
        vmin=0,
        vmax=most,
        alpha=np.where(count > 0, 1.0, 0.0),
    )
    ticks = list(range(0, most + 1, max(1, most // 5)))
    axis.figure.colorbar(image, ax=axis, label="tokens of unit and step", ticks=ticks, fraction=0.03, pad=0.01)
    axis.vlines(np.arange(-n_history, n_current) * scheme.step_ns / NS_PER_S, -0.5, n_units - 0.5, color=FAINT, lw=0.3)
    axis.axvline(0, color=COLORS[1], lw=1.5)
    for x, align, stream, words in ((left, "left", history, "history"), (right, "right", ~history, "current")):
        held, pads = int((spike & stream).sum()), int(((columns["type"] == 3) & stream).sum())
        text = f"{words}: SOS, {held} spikes, EOS, {pads} PAD"
        axis.text(x, 1.06 * n_units - 0.5, text, ha=align, va="top", fontsize=8, color=COLORS[1])
    axis.set_ylim(-0.5, 1.06 * n_units - 0.5)  # room for the two lines above the last unit
    return f"event-pair: {len(step)} tokens (steps of {scheme.step_ns / 1e6:g} ms), {int(spike.sum())} of them spikes"


def picture_patch(axis, reader, tokens, length_ns: int) -> str:
    """Each token a box of its units in its bin, slots of no unit grey; each behaviour token a mark above."""
    scheme, columns = reader.scheme, tokens.columns
    n_patches, n_bins = len(reader.columns["n_real"]), length_ns // scheme.bin_ns
    step, height = scheme.bin_ns / NS_PER_S, n_patches * scheme.patch_size
    spikes = columns["kind"] == 2 if scheme.order == "ndt3" else np.ones(len(columns["time"]), np.bool_)
    count = columns["patch"][spikes].reshape(n_bins, height)
    nobody = columns["unit"][spikes].reshape(n_bins, height) < 0
    seconds = length_ns / NS_PER_S
    place = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "extent": (0, seconds, 0, height)}
    axis.imshow(np.ones_like(count.T), cmap="Greys", vmin=0, vmax=6, alpha=nobody.T * 1.0, **place)
    most = max(1, int(count.max(initial=0)))
    image = axis.imshow(count.T, cmap="Greys", vmin=0, vmax=most, alpha=(count.T > 0) * 1.0, **place)
    axis.figure.colorbar(image, ax=axis, label="spikes in the bin", fraction=0.03, pad=0.01, ticks=[0, most])
    axis.hlines(np.arange(n_patches + 1) * scheme.patch_size, 0, seconds, color=COLORS[0], lw=1.2)
    axis.vlines(np.arange(n_bins + 1) * step, 0, height, color=COLORS[0], lw=0.3 if n_bins < 150 else 0.05)
    axis.set_yticks((np.arange(n_patches) + 0.5) * scheme.patch_size, [f"patch {p}" for p in range(n_patches)])
    top = height
    if scheme.order == "ndt3":
        names = ((1, "constraint"), (3, "return"), (4, "covariate"))
        for kind, label in names:
            own = columns["kind"] == kind
            for space in np.unique(columns["space"][own]):
                rows = own & (columns["space"] == space)
                top += height * 0.06
                color = np.where(columns["observed"][rows] > 0, COLORS[kind], FAINT)
                axis.scatter((columns["time"][rows] + 0.5) * step, np.full(rows.sum(), top), s=9, marker="s", c=color)
                axis.text(seconds, top, f" {label} {space - scheme.first_space[kind]}", fontsize=7, va="center")
    axis.set_xlim(0, seconds)
    axis.set_ylim(0, top + height * 0.04)
    each = count.reshape(n_bins, n_patches, scheme.patch_size).sum(axis=2)
    token, patch = divmod(int(each.argmax()), n_patches)
    low = patch * scheme.patch_size
    words = f"{scheme.patch_size} counts of one bin, {int(each[token, patch])} spikes"
    one = mark_token(axis, token * step, (token + 1) * step, low, low + scheme.patch_size, words)
    empty = f"; grey: slots of no unit ({int(nobody[0].sum())} in a bin)" if nobody.any() else ""
    return (
        f"patch, {scheme.order}: {len(spikes)} tokens, {int(spikes.sum())} of them patches (blue boxes: "
        f"{scheme.patch_size} units x {scheme.bin_ns / 1e6:g} ms), {int(count.sum())} spikes{empty}{one}"
    )


def picture_quantized(axis, reader, tokens, length_ns: int) -> str:
    """The category of each unit and bin; behaviour, where there is any, as a line of its categories above."""
    scheme, category = reader.scheme, tokens.columns["category"]
    n_units, seconds = category.shape[1], length_ns / NS_PER_S
    most = max(1, int(category.max(initial=0)))
    image = axis.imshow(
        category.T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="Greys",
        extent=(0, seconds, -0.5, n_units - 0.5),
        vmin=0,
        vmax=most,
        alpha=(category.T > 0) * 1.0,
    )
    bar = axis.figure.colorbar(image, ax=axis, label="category (lowest count)", fraction=0.03, pad=0.01)
    shown = range(0, most + 1, max(1, most // 5))
    bar.set_ticks(list(shown), labels=[f"{c} ({scheme.lowest_count[c]})" for c in shown])
    axis.set_ylim(-0.5, n_units - 0.5)
    said = ""
    if scheme.signals:
        behaviour = tokens.columns["behaviour"].astype(float)
        behaviour[behaviour < 0] = np.nan
        time = (np.arange(len(behaviour)) + 0.5) * scheme.bin_ns / NS_PER_S
        band = n_units * 0.3
        for d in range(behaviour.shape[1]):
            line = n_units + behaviour[:, d] / 511 * band
            axis.plot(time, line, drawstyle="steps-mid", lw=1, color=COLORS[d % len(COLORS)], label=f"behaviour {d}")
        axis.axhline(n_units - 0.5, color=FAINT, lw=0.8)
        axis.set_ylim(-0.5, n_units + band + 0.5)
        axis.legend(fontsize=7, frameon=False, loc="upper right", ncols=4)
        said = f"; above: {behaviour.shape[1]} dimensions of behaviour, categories 0 to 511 from bottom to top"
    token, bin_s = int(category.sum(axis=1, dtype=np.int64).argmax()), scheme.bin_ns / NS_PER_S
    one = mark_token(axis, token * bin_s, (token + 1) * bin_s, -0.5, n_units - 0.5, f"{n_units} categories of one bin")
    return f"quantized, {scheme.rule}: {len(category)} tokens of {n_units} categories{said}{one}"


def picture_fine_time(axis, reader, tokens, length_ns: int) -> str:
    """A bar from the first to the last spike of each cell, coloured by how irregular the intervals between were."""
    count, first, last, cv = (tokens.columns[k] for k in ("count", "first_ns", "last_ns", "cv_isi"))
    bin_ns, n_units = reader.scheme.bin_ns, count.shape[1]
    index, unit = np.nonzero(count)
    start, stop = ((index * bin_ns + edge[index, unit]) / NS_PER_S for edge in (first, last))
    several = count[index, unit] > 1
    bars = axis.hlines(unit[several], start[several], stop[several], lw=3, cmap="viridis")
    bars.set_array(cv[index, unit][several])
    bars.set_clim(0, max(1.0, float(cv.max(initial=0))))
    axis.figure.colorbar(bars, ax=axis, label="variation of the intervals (cv)", fraction=0.03, pad=0.01)
    axis.plot(start, unit, "|", ms=6, color=INK, label="first spike")
    axis.plot(stop[several], unit[several], "|", ms=6, color=COLORS[1], label="last spike")
    for k, n in zip(index.tolist(), unit.tolist(), strict=True):
        if count[k, n] > 2:
            middle = k * bin_ns + (int(first[k, n]) + int(last[k, n])) / 2
            axis.text(middle / NS_PER_S, n + 0.3, str(count[k, n]), fontsize=6, ha="center", color=FAINT)
    for edge in range(0, length_ns + 1, bin_ns):
        axis.axvline(edge / NS_PER_S, color=FAINT, lw=0.4, alpha=0.5)
    axis.set_xlim(0, length_ns / NS_PER_S)
    axis.set_ylim(-1, n_units)
    axis.legend(fontsize=8, frameon=False, loc="upper center", ncols=2, bbox_to_anchor=(0.85, 1.09))
    return (
        f"fine-time: {len(count)} tokens (bins of {bin_ns / 1e6:g} ms) of {n_units} x 5 numbers, "
        f"{int(count.sum(dtype=np.int64))} spikes (grey: counts above 2)"
    )


def picture_fluorescence(axis, reader, tokens, length_ns: int) -> str:
    """A dot a token at its frame's own time: jitter and gaps are seen."""
    value, time, unit = (tokens.columns[k] for k in ("value", "time", "unit"))
    low, high = np.percentile(value, [1, 99]) if len(value) else (0.0, 1.0)
    size = 260_000 / max(1, length_ns / NS_PER_S * 30) / max(8, reader.info.n_units)
    size = float(np.clip(size, 2, 60))
    dots = axis.scatter(time, unit, c=value, s=size, marker="s", lw=0, cmap="magma", vmin=low, vmax=high)
    axis.figure.colorbar(dots, ax=axis, label=reader.scheme.signal, fraction=0.03, pad=0.01)
    axis.set_xlim(0, length_ns / NS_PER_S)
    axis.set_ylim(-1, reader.info.n_units)
    n_frames = len(np.unique(time))
    return f"fluorescence: {len(value)} tokens, {n_frames} frames of {len(np.unique(unit))} units"


def picture_frames(axis, reader, tokens, length_ns: int) -> str:
    """A strip of at most 12 of the window's frames, each at its own time; hatched where nothing is shown."""
    scheme, pixels, shown = reader.scheme, tokens.columns["pixels"], tokens.columns["shown"]
    left, bin_s = -scheme.lookback_ns / NS_PER_S, scheme.grid_ns / NS_PER_S
    step = max(1, -(-len(pixels) // 12))
    for k in range(0, len(pixels), step):
        extent = (left + k * bin_s, left + min(k + step, len(pixels)) * bin_s, 0.0, 1.0)
        if shown[k]:
            axis.imshow(pixels[k], cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest", extent=extent)
        else:
            axis.add_patch(_nothing(extent))
    axis.set_yticks([])
    axis.set_ylabel(f"{scheme.height} x {scheme.width} pixels")
    axis.set_xlim(left, length_ns / NS_PER_S)
    axis.set_ylim(0, 1)
    if left < 0:
        axis.axvline(0, color=COLORS[0], lw=1, label="window begins")
        axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    each = f"every {step} of them is drawn" if step > 1 else "all are drawn"
    return f"frames: {len(pixels)} tokens (bins of {bin_s * 1e3:g} ms), {int(shown.sum())} show a frame; {each}"


def _nothing(extent: tuple[float, float, float, float]):
    from matplotlib.patches import Rectangle

    left, right, low, high = extent
    return Rectangle((left, low), right - left, high - low, fill=False, hatch="//", edgecolor=FAINT, lw=0)


def picture_neuron(axis, reader, tokens, length_ns: int) -> str:
    """One row a unit: its series as counts; bins that were not observed shaded, units without a token crossed out.

    One token is boxed, with the numbers that it holds. Of histories, those that end with the window's last
    bin; a line is drawn where the window begins.
    """
    scheme, n_units, seconds = reader.scheme, reader.info.n_units, length_ns / NS_PER_S
    series, observed, unit, time = (tokens.columns[name] for name in ("series", "observed", "unit", "time"))
    item, bin_s = series.shape[1], scheme.bin_ns / NS_PER_S
    if scheme.view == "history":
        shown, place = np.flatnonzero(time == time.max(initial=0)), np.zeros(len(time), np.int64)
        left, n_bins = seconds - item * bin_s, item
    else:
        shown, place = np.arange(len(time)), time.astype(np.int64) * item
        left, n_bins = 0.0, length_ns // scheme.bin_ns
    counts, unseen = np.zeros((n_units, n_bins), np.int64), np.zeros((n_units, n_bins), np.bool_)
    for token in shown:
        bins = slice(place[token], place[token] + item)
        counts[unit[token], bins], unseen[unit[token], bins] = series[token], observed[token] == 0
    most = max(1, int(counts.max(initial=0)))
    extent = (left, seconds, -0.5, n_units - 0.5)
    layout = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "extent": extent}
    paint = np.zeros((*unseen.shape, 4))
    paint[unseen] = 0.84, 0.37, 0.0, 0.2  # COLORS[1], so faint that spikes stand out
    axis.imshow(paint, **layout)
    image = axis.imshow(counts, cmap="Greys", vmin=0, vmax=most, alpha=np.where(counts > 0, 1.0, 0.0), **layout)
    ticks = list(range(0, most + 1, max(1, most // 5)))
    axis.figure.colorbar(image, ax=axis, label="spikes in the bin", ticks=ticks, fraction=0.03, pad=0.01)
    silent = np.setdiff1d(np.arange(n_units), unit)
    if len(silent):
        axis.hlines(silent, left, seconds, color=COLORS[1], lw=0.8, label="no token (silent)")
    if unseen.any():
        axis.fill_between([], [], color=COLORS[1], alpha=0.2, label="not observed")
    if scheme.view == "patch":
        axis.vlines(np.arange(0, n_bins + 1, item) * bin_s, -0.5, n_units - 0.5, color=COLORS[0], lw=0.8, label="patch")
    elif scheme.view == "history":
        axis.axvline(0, color=COLORS[0], lw=1, label="window begins")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False, loc="lower right", ncols=3, bbox_to_anchor=(1.0, 1.04))
    axis.set_xlim(left, seconds)
    one = ""
    if len(shown):
        token = int(shown[series[shown].sum(axis=1, dtype=np.int64).argmax()])
        row, first = int(unit[token]), left + place[token] * bin_s
        held = f"unit {row}: {item} counts, {int(series[token].sum())} spikes"
        one = mark_token(axis, first, first + item * bin_s, row - 0.5, row + 0.5, held)
        above = row + 1 if row + 1 < n_units else row - 1  # the numbers stand in the row beside, on white
        for k in range(item) if item * bin_s > 0 and item <= MOST_NUMBERS else ():
            axis.text(
                first + (k + 0.5) * bin_s,
                above,
                f"{series[token, k]:g}",
                fontsize=7 if item <= 60 else 5,
                ha="center",
                va="center",
                color=COLORS[1],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )
    words = {
        "trial": f"one a unit, of {item} bins",
        "patch": f"{item} bins of a unit each",
        "history": f"{item} bins that end with each bin; shown: the last bin's",
    }
    return f"neuron ({scheme.view}): {len(unit)} tokens, {words[scheme.view]} ({scheme.bin_ns / 1e6:g} ms){one}"


def picture_calibration(axis, reader, tokens, length_ns: int) -> str:
    """Each trial where it is in time, drawn over its T points: grey where spikes are, blue where cubics overshoot."""
    scheme, matrix = reader.scheme, tokens.columns["matrix"]
    start_s, stop_s = tokens.columns["start_ns"] / NS_PER_S, tokens.columns["stop_ns"] / NS_PER_S
    high, low = float(matrix.max(initial=0.0)), float(matrix.min(initial=0.0))
    most = max(high, -low) or 1.0
    axis.set_ylim(-0.5, reader.info.n_units - 0.5)
    if len(matrix) == 0:
        axis.text(0.5, 0.5, "no calibration trial lies wholly inside", ha="center", transform=axis.transAxes)
        axis.set_xlim(0, length_ns / NS_PER_S)
    else:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("counts", [COLORS[0], "white", INK])
        for trial, left, right in zip(matrix, start_s, stop_s, strict=True):
            image = axis.imshow(
                trial.T,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                cmap=shades,
                vmin=-most,
                vmax=most,
                extent=(left, right, -0.5, reader.info.n_units - 0.5),
            )
        bar = axis.figure.colorbar(image, ax=axis, label="spikes a bin, resampled", fraction=0.03, pad=0.01)
        bar.ax.set_ylim(low, most)
        axis.vlines([*start_s, *stop_s], -0.5, reader.info.n_units - 0.5, color=COLORS[1], lw=0.8, label="trial's ends")
        axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))
        edge = 0.01 * (stop_s.max() - start_s.min())
        axis.set_xlim(start_s.min() - edge, stop_s.max() + edge)
    found = int(reader.columns["trials.found"][0])
    return (
        f"calibration: {len(matrix)} trials (of {found}) x {matrix.shape[2]} units x {scheme.length} points, "
        f"{scheme.resample}, {low:.2f} to {high:.2f}"
    )


PICTURES = {
    "calibration": picture_calibration,
    "neuron": picture_neuron,
    "binned": picture_binned,
    "fine-time": picture_fine_time,
    "fluorescence": picture_fluorescence,
    "frames": picture_frames,
    "patch": picture_patch,
    "per-spike": picture_per_spike,
    "quantized": picture_quantized,
    "event-pair": picture_event_pair,
}
