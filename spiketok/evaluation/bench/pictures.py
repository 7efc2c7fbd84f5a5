"""What a leaderboard draws: the ranking of a track, and how scores grow with the calibration.

What is unusual: figures are narrow, so that a page on a telephone still shows words that can be read.
"""

from __future__ import annotations

from spiketok.evaluation.bench.leaderboard import Leaderboard, Row
from spiketok.evaluation.bench.suite import Track
from spiketok.evaluation.controls import WITHOUT_SPIKES
from spiketok.evaluation.report import plain_axes
from spiketok.evaluation.results import FLOOR

# Okabe and Ito's colours, which stay apart for colour-blind eyes, a model each in the order of the suite.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A3E9D", "#8C6D1F")
INK, GREY = "#22262B", "#8A8F98"
MARKS = ("o", "s", "^", "D", "v", "P", "X")  # a protocol each
LEAST = -0.3  # of R2: what is below is drawn at it, without a bar; the page says so
WIDTH = 6.2  # inches


def colour_of(board: Leaderboard, model: str) -> str:
    names = [entry.name for entry in board.suite.models]
    return COLOURS[names.index(model) % len(COLOURS)]


def _figure(height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    plain_axes(axes)
    axes.set_axisbelow(True)
    return figure, axes


def ranking_plot(board: Leaderboard, track: Track):
    """A figure: a line a model, the mean with its standard error, each seed, and the floor; None without a score."""
    metric, ranked = track.metrics[0], [row for _, row in board.ranked(track)]
    if not any(row.summary(metric) for row in ranked):
        return None
    figure, axes = _figure(0.9 + 0.42 * len(ranked))
    for k, row in enumerate(ranked):
        own, floor = row.summary(metric), board.floor(row)
        level = None if floor is None else floor.summary(metric)
        if level is not None:
            axes.scatter([_shown(level.mean)], [k], marker="|", s=240, linewidth=2.4, color=GREY, zorder=2)
        if own is None:
            axes.text(0.01, k, "no score", fontsize=9, color=GREY, va="center", transform=axes.get_yaxis_transform())
            continue
        mean, colour = _shown(own.mean), colour_of(board, row.model)
        if own.sem:
            axes.plot([mean - own.sem, mean + own.sem], [k, k], color=colour, linewidth=2.6, zorder=3)
        axes.scatter([mean], [k], s=54, color=colour, zorder=4)
        each = [_shown(value) for value in row.seeds(metric).values()]
        axes.scatter(each, [k] * len(each), s=9, color=INK, zorder=5)
    axes.set_yticks(range(len(ranked)), [row.model for row in ranked], fontsize=10)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.grid(axis="x", color="#E6E8EB", linewidth=0.7)
    axes.tick_params(axis="x", labelsize=9)
    axes.set_xlabel(metric, fontsize=10, color=INK)
    return figure


def curve_plot(board: Leaderboard, track: Track):
    """A figure: each model's rows over seconds of calibration, floors in grey; None with fewer than two lengths."""
    lengths, metric = track.calibration_s, track.metrics[0]
    rows = [row for row in board.of(track) if row.calibration_s and row.summary(metric) is not None]
    rows = [row for row in rows if row.protocol not in WITHOUT_SPIKES]
    if len(lengths) < 2 or not rows:
        return None
    figure, axes = _figure(4.4)
    protocols = [p for p in dict.fromkeys(row.protocol for row in rows) if p != FLOOR]
    drawn: set[str] = set()
    for model, protocol in dict.fromkeys((row.model, row.protocol) for row in rows):
        own = [row for row in rows if (row.model, row.protocol) == (model, protocol)]
        is_floor = protocol == FLOOR
        alone = is_floor and any(e.name == model and e.protocol == FLOOR for e in board.part.entries)
        style = _line(board, own[0], protocols)
        if alone:  # the floor of this entry is what it is ranked by
            style |= {"color": colour_of(board, model), "linewidth": 1.7, "marker": "d", "zorder": 3}
        label = f"{model}: {protocol}" if alone or not is_floor else "floors"
        means = [_shown(row.summary(metric).mean) for row in own]
        sems = [0.0 if row.summary(metric).mean < LEAST else row.summary(metric).sem or 0.0 for row in own]
        axes.errorbar([row.calibration_s for row in own], means, sems, label="_" if label in drawn else label, **style)
        drawn.add(label)
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{s:g}" for s in lengths])
    axes.minorticks_off()
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.grid(axis="y", color="#E6E8EB", linewidth=0.7)
    axes.tick_params(labelsize=9)
    axes.set_xlabel("calibration (s)", fontsize=10, color=INK)
    axes.set_ylabel(metric, fontsize=10, color=INK)
    figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
    return figure


def _line(board: Leaderboard, row: Row, protocols: list[str]) -> dict[str, object]:
    if row.protocol == FLOOR:
        return {"color": GREY, "linewidth": 1.2, "marker": ".", "markersize": 5, "zorder": 1}
    mark = MARKS[protocols.index(row.protocol) % len(MARKS)]
    style = {"color": colour_of(board, row.model), "linewidth": 1.7, "marker": mark, "markersize": 5.5, "zorder": 3}
    headline = next(e.protocol for e in board.part.entries if e.name == row.model)
    return style | ({} if row.protocol == headline else {"linestyle": ":"})


def _shown(value: float) -> float:
    return max(value, LEAST)
