"""The picture of a comparison: one panel a measure, one bar a scheme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, require
from spiketok.recording.nouns import NS_PER_S
from spiketok.storage.files import atomic_file
from spiketok.tokens.compare.results import Comparison, SchemeResult, short, times
from spiketok.tokens.pictures import COLORS, INK


@dataclass(frozen=True)
class _Panel:
    """One measure of the picture. ``name``: the mean that is drawn; ``factor``: to the measure that the title says."""

    title: str
    name: str
    factor: float = 1.0
    log: bool = True
    color: int = 0


PANELS = (
    _Panel("tokens a second", "tokens_per_s"),
    _Panel("bytes a second, baked", "bytes_per_s"),
    _Panel("empty tokens (%)", "empty_share", 100.0, log=False),
    _Panel("timing error (ms): median, and to p99", "timing_error_median_ms", color=1),
    _Panel("spikes without a partner after detokenize (%)", "unmatched_share", 100.0, log=False, color=1),
    _Panel("tokens a window gains with a unit", "tokens_per_unit", log=False, color=2),
    _Panel("tokens a window gains with a spike", "tokens_per_spike", log=False, color=2),
    _Panel("attention of one layer (MFLOP a second), by reader", "", 1e-6, color=3),
    _Panel("bake (million spikes a second)", "bake_spikes_per_s", 1e-6, color=5),
    _Panel("cut (windows of their length a second)", "cut_windows_per_s", color=5),
)


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
        n_rows, 2, sharey=True, figsize=(13, 0.6 + n_rows * (0.8 + 0.24 * len(results))), layout="constrained"
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
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    axis.set_title(panel.title + (", log" if panel.log else ""), fontsize=9, loc="left", color=INK)
    if not panel.name:
        found, labels = [max(r.attention.values(), default=0.0) for r in results], [_readers(r) for r in results]
        labels = [label or "no attention" for label in labels]
    else:
        found = [result.mean(panel.name) for result in results]
        labels = [short(times(v, panel.factor)) for v in found]
    value = [None if v is None else v * panel.factor for v in found]
    ends = [times(r.mean("timing_error_p99_ms"), panel.factor) for r in results]
    if panel.name != "timing_error_median_ms":
        ends = [None] * len(results)
    place = _scale([v for v in value + ends if v], panel.log)
    color = COLORS[panel.color]
    for k, (v, end, label) in enumerate(zip(value, ends, labels, strict=True)):
        width = place(v)
        axis.barh(k, width, height=0.62, color=color)
        if end:
            axis.plot([width, place(end)], [k, k], color=INK, lw=1.2, marker="|", markevery=[1], ms=7)
            width, label = place(end), f"{label} .. {short(end)}"
        axis.text(max(width, 0.0) + 0.012, k, label, va="center", fontsize=8, color=INK)
    axis.set_xlim(0, 1.45 if panel.name else 2.3)


def _scale(values: list[float], log: bool) -> Callable[[float | None], float]:
    """From a value to a bar's length between 0 and 1; in logarithms from half a decade below the least."""
    most = max(values, default=1.0)
    if not log:
        return lambda v: max(v or 0.0, 0.0) / most
    low = np.log10(min(values, default=1.0)) - 0.5
    span = np.log10(most) - low
    return lambda v: (np.log10(v) - low) / span if v else 0.0


def _readers(result: SchemeResult) -> str:
    """Readers of one cost together: ``NDT1, MtM 1.28``."""
    costs: dict[str, list[str]] = {}
    for reader, flops in sorted(result.attention.items(), key=lambda item: -item[1]):
        if flops:
            costs.setdefault(short(flops / 1e6), []).append(reader)
    return "; ".join(f"{', '.join(readers)} {cost}" for cost, readers in costs.items())
