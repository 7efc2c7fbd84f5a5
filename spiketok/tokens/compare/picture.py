"""The picture of a comparison: one panel a measure, on an axis with its numbers; one line a scheme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, require
from spiketok.recording.nouns import NS_PER_S
from spiketok.storage.files import atomic_file
from spiketok.tokens.compare.results import Comparison, SchemeResult, short, times
from spiketok.tokens.pictures import COLORS, FAINT, INK


@dataclass(frozen=True)
class _Panel:
    """One measure of the picture.

    ``name``: the mean that is drawn; ``factor``: to ``measure``, which the axis says. ``log``: points on an axis of
    decades, where a bar would have no foot; else bars from 0.
    """

    title: str
    measure: str
    name: str
    factor: float = 1.0
    log: bool = True
    color: int = 0


PANELS = (
    _Panel("tokens", "tokens a second", "tokens_per_s"),
    _Panel("size, baked", "bytes a second", "bytes_per_s"),
    _Panel("empty tokens", "% of tokens", "empty_share", 100.0, log=False),
    _Panel("timing error: median, line to the 99th percentile", "ms", "timing_error_median_ms", color=1),
    _Panel("spikes without a partner after detokenize", "% of spikes", "unmatched_share", 100.0, log=False, color=1),
    _Panel("a window gains with one more unit", "tokens", "tokens_per_unit", log=False, color=2),
    _Panel("a window gains with one more spike", "tokens", "tokens_per_spike", log=False, color=2),
    _Panel("attention of one layer, by reader", "MFLOP a second of recording", "", 1e-6, color=3),
    _Panel("bake", "million spikes a second", "bake_spikes_per_s", 1e-6, color=5),
    _Panel("cut", "windows of their length a second", "cut_windows_per_s", color=5),
)
ROOM = 0.42  # of an axis, to the right of its values: for what is written there


def plot_comparison(comparison: Comparison, out: Path) -> None:
    """One panel a measure, one line a scheme, the value printed at each bar.

    Raises:
        MissingExtraError: matplotlib is not installed. DataError: no scheme can serve any of the sessions.
    """
    matplotlib = require("matplotlib", "plots", "drawing")
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a name with "$" is no formula
    from matplotlib import pyplot

    results = [result for result in comparison.results if result.served]
    if not results:
        message = f"nothing to draw: {comparison.results[0].sessions[0].reason}"
        raise DataError(message)
    n_rows = len(PANELS) // 2
    figure, axes = pyplot.subplots(
        n_rows, 2, sharey=True, figsize=(13, 0.6 + n_rows * (1.1 + 0.25 * len(results))), layout="constrained"
    )
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        _draw_panel(axis, panel, results)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(results)), _labels(comparison, results), fontsize=9, color=INK)
    axes[0, 0].invert_yaxis()
    sessions = [m.session_id for m in results[0].sessions]
    shown = sessions[0] if len(sessions) == 1 else f"mean of {len(sessions)} sessions"
    title = f"{shown}; {comparison.n_windows} stretches of {comparison.window_ns / NS_PER_S:g} s at most"
    refused = [r.scheme.name for r in comparison.results if not r.served]
    figure.suptitle(title + (f"; not served: {', '.join(refused)}" if refused else ""), fontsize=10, color=INK)
    with atomic_file(out) as wip:
        figure.savefig(wip, dpi=110, format=out.suffix[1:].lower())
    pyplot.close(figure)


def _labels(comparison: Comparison, results: list[SchemeResult]) -> list[str]:
    """Names with the length of their windows if that is another one; a name that occurs twice gets a number."""
    labels = []
    for result in results:
        window_s = result.mean("window_s")
        length = "" if round(window_s * NS_PER_S) == comparison.window_ns else f", {short(window_s)} s"
        labels.append(result.scheme.name + length)
    return [a if labels.count(a) == 1 else f"{a} ({labels[: k + 1].count(a)})" for k, a in enumerate(labels)]


def _draw_panel(axis, panel: _Panel, results: list[SchemeResult]) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=INK)
    axis.set_title(panel.title, fontsize=9, loc="left", color=INK)
    axis.set_xlabel(panel.measure + (" (log)" if panel.log else ""), fontsize=8, color=INK, labelpad=1)
    axis.grid(axis="x", color=FAINT, alpha=0.35, lw=0.6)
    axis.set_axisbelow(True)
    if not panel.name:
        found = [max(r.attention.values(), default=None if r.unpaid == "not known" else 0.0) for r in results]
        labels = [_readers(r) or {"none": "no attention"}.get(r.unpaid, r.unpaid) for r in results]
    else:
        found = [result.mean(panel.name) for result in results]
        labels = [short(times(v, panel.factor)) for v in found]
    value = [None if v is None else v * panel.factor for v in found]
    ends = [times(r.mean("timing_error_p99_ms"), panel.factor) for r in results]
    if panel.name != "timing_error_median_ms":
        ends = [None] * len(results)
    low, high = _range([v for v in value + ends if v], panel.log)
    room = ROOM if panel.name else 2.2 * ROOM
    axis.set_xlim(low, high * (high / low) ** room if panel.log else high * (1 + room))
    if panel.log:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=7))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    elif panel.factor == 100.0:  # shares: the whole is always in sight
        axis.set_xlim(0, 100 * (1 + ROOM))
        axis.set_xticks(range(0, 101, 25))
    color = COLORS[panel.color]
    for k, (v, end, label) in enumerate(zip(value, ends, labels, strict=True)):
        if not panel.log:
            axis.barh(k, v or 0.0, height=0.62, color=color)
        elif v:
            axis.hlines(k, low, v, color=color, lw=1.2, alpha=0.45)
            axis.plot([v], [k], marker="o", ms=6, color=color)
        if end and v:
            axis.plot([v, end], [k, k], color=INK, lw=1.2, marker="|", markevery=[1], ms=7)
            label = f"{label} .. {short(end)}"
        at = end or v or (low if panel.log else 0.0)
        text = "0, not on this axis" if panel.log and v == 0 and panel.name else label
        axis.annotate(text, (at, k), (6, 0), textcoords="offset points", va="center", fontsize=8, color=INK)


def _range(values: list[float], log: bool) -> tuple[float, float]:
    """The ends of an axis: 0 and the most; of decades from below the least."""
    most = max(values, default=1.0)
    if not log:
        return 0.0, most
    return 10 ** np.floor(np.log10(min(values, default=1.0)) - 0.3), most


def _readers(result: SchemeResult) -> str:
    """Readers of one cost together: ``NDT1, MtM 1.28``."""
    costs: dict[str, list[str]] = {}
    for reader, flops in sorted(result.attention.items(), key=lambda item: -item[1]):
        if flops:
            costs.setdefault(short(flops / 1e6), []).append(reader)
    return "; ".join(f"{', '.join(readers)} {cost}" for cost, readers in costs.items())
