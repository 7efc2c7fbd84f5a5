"""Learning curves of runs, from their logs of steps: as a picture, and as one page that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, require
from spiketok.pipeline.run_table import RunRow
from spiketok.storage.files import atomic_file
from spiketok.storage.records import STEPS, step_lines

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b626b", "#8a6d00")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 290, 58, 14, 12, 34  # of a panel of the page
DASHES = ("", "6 3", "2 3")  # of the ninth run on

Curves = dict[str, dict[str, list[tuple[int, float]]]]  # by panel and run, (step, value)


def curves_of(runs: Sequence[Path]) -> Curves:
    """The losses, the headline scores of the valid split (mean over sessions) and the learning rates of runs.

    Raises:
        ArtefactError: a log is damaged. DataError: none of them has a line.
    """
    found: Curves = {}
    for run in runs:
        for line in step_lines(run / STEPS):
            for panel, value in _values(line):
                found.setdefault(panel, {}).setdefault(run.name, []).append((line["step"], value))
    if not found:
        names = [run.name for run in runs]
        message = f"no {STEPS} with a line in {', '.join(names) or 'any run'}: "
        if any((run / "result.json").exists() for run in runs):
            message += "a model that is fitted in closed form (linear) takes no step, so that there is no curve: "
            message += f"spiketok view {names[0]}"
        else:
            message += "only training makes one"
        raise DataError(message)
    return _without_twins(found)


def _values(line: Mapping) -> list[tuple[str, float]]:
    if line.get("event") == "step":
        losses = [(f"loss: {name}", value) for name, value in line["loss"].items()]
        return [*sorted(losses, key=lambda one: one[0] != "loss: total"), ("learning rate", line["lr"])]
    if line.get("event") != "valid":
        return []
    by: dict[str, list[float]] = {}
    for scores in line["scores"].values():
        for task, score in scores.items():
            name, value = next(iter(score.items()))
            if value is not None:
                by.setdefault(f"valid: {task}, {name}", []).append(value)
    return [(panel, float(np.mean(values))) for panel, values in by.items()]


def _without_twins(found: Curves) -> Curves:
    """Without the one term of a loss that is its total; the learning rate last."""
    total = found.get("loss: total")
    kept = {panel: own for panel, own in found.items() if panel == "loss: total" or own != total}
    return dict(sorted(kept.items(), key=lambda item: (item[0] == "learning rate", item[0].startswith("valid"))))


# ---- a picture ------------------------------------------------------------------------------------------------------


def plot_curves(runs: Sequence[Path], out: Path) -> None:
    """A panel for each loss, score and the learning rate, a line for each run.

    Raises:
        MissingExtraError: matplotlib is not installed. Else as :func:`curves_of`.
    """
    require("matplotlib", "plots", "drawing learning curves")
    from matplotlib.figure import Figure

    curves = curves_of(runs)
    names = [run.name for run in runs]
    columns = min(2, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.1 * rows), layout="constrained")
    for k, (panel, own) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, k + 1)
        for name, points in own.items():
            steps, values = zip(*points, strict=True)
            colour, dash = _look(names.index(name))
            style = {"": "-", "6 3": "--", "2 3": ":"}[dash]
            axes.plot(
                steps, values, style, color=colour, lw=1.6, marker="o" if len(points) < 12 else None, ms=3, label=name
            )
        axes.set_title(panel, fontsize=10, loc="left", parse_math=False)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if k == 0:
            axes.legend(fontsize=8, frameon=False)
    with atomic_file(out) as path:
        figure.savefig(path, format=out.suffix[1:].lower(), dpi=150)


def _look(k: int) -> tuple[str, str]:
    """Colour and dashes of the k-th run."""
    return COLOURS[k % len(COLOURS)], DASHES[k // len(COLOURS) % len(DASHES)]


# ---- a page ---------------------------------------------------------------------------------------------------------

_STYLE = """
:root { --ink:#22262b; --soft:#5b626b; --line:#e3e6ea; --band:#f6f7f9; }
* { box-sizing:border-box; }
body { margin:0; color:var(--ink); background:#fff; font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:1360px; margin:0 auto; padding:28px 18px 48px; }
h1 { font-size:24px; margin:0 0 4px; } h2 { font-size:15px; margin:0 0 2px; overflow-wrap:anywhere; }
.soft { color:var(--soft); font-size:13px; }
.panels { display:grid; gap:18px; margin-top:18px; }
.panels { grid-template-columns:repeat(auto-fill,minmax(min(380px,100%),1fr)); }
.panel { border:1px solid var(--line); border-radius:8px; padding:12px; min-width:0; }
svg { width:100%; height:auto; display:block; } svg text { font:12px system-ui,sans-serif; fill:var(--soft); }
.scroll { overflow-x:auto; } table { border-collapse:collapse; font-size:13.5px; width:100%; margin-top:12px; }
th { text-align:left; color:var(--soft); font-weight:600; }
th, td { padding:5px 10px; border-bottom:1px solid var(--line); }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; } td { white-space:nowrap; }
.key { display:inline-block; width:26px; vertical-align:middle; margin-right:8px; }
path.run { fill:none; stroke-width:1.8; } path.run:hover { stroke-width:3.5; }
"""


def write_page(rows: Sequence[RunRow], out: Path) -> None:
    """One HTML file: a table of the runs, with the key of their lines, and a panel for each curve.

    Raises:
        As :func:`curves_of`.
    """
    curves = curves_of([row.path for row in rows])
    names = [row.path.name for row in rows]
    panels = [
        f'<section class="panel"><h2>{html.escape(panel)}</h2>{_svg(own, names)}</section>'
        for panel, own in curves.items()
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Learning curves</title><style>{_STYLE}</style></head><body><main><h1>Learning curves</h1>"
        f'<p class="soft">{len(rows)} runs; point at a line for its name and last value. Scores of the valid split are '
        "means over sessions; the checkpoint that counts is the last one, whatever they say.</p>"
        f'{_table(rows)}<div class="panels">{"".join(panels)}</div></main></body></html>\n'
    )
    with atomic_file(out) as path:
        path.write_text(page, encoding="utf-8")


def _table(rows: Sequence[RunRow]) -> str:
    columns = ["run", "model", "seed", "tasks", "sessions", "state", "score", "of", "transfer", "by", "saved"]
    numeric = ("seed", "sessions", "score", "transfer")
    cls = {name: ' class="n"' if name in numeric else "" for name in columns}
    head = "".join(f"<th{cls[name]}>{name}</th>" for name in columns)
    body = []
    for k, row in enumerate(rows):
        colour, dash = _look(k)
        key = (
            f'<svg class="key" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" stroke="{colour}" '
            f'stroke-width="3" stroke-dasharray="{dash}"/></svg>'
        )
        told = row.told()
        cells = "".join(
            f"<td{cls[name]}>{key if name == 'run' else ''}{html.escape(_shown(told[name]))}</td>" for name in columns
        )
        body.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _svg(own: Mapping[str, list[tuple[int, float]]], names: Sequence[str]) -> str:
    every = [point for points in own.values() for point in points]
    first, last = min(s for s, _ in every), max(s for s, _ in every)
    low, high = min(v for _, v in every), max(v for _, v in every)
    if high == low:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for value in np.linspace(low, high, 4):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#e3e6ea"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for step in dict.fromkeys(int(s) for s in np.linspace(first, last, 3)):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{step:,}</text>')
    for name, points in own.items():
        colour, dash = _look(names.index(name))
        way = "".join(f"{'L' if k else 'M'}{x(s):.1f} {y(v):.1f}" for k, (s, v) in enumerate(points))
        title = f"{html.escape(name)}: {points[-1][1]:.4g} at step {points[-1][0]:,}"
        parts.append(
            f'<path class="run" d="{way}" stroke="{colour}" stroke-dasharray="{dash}"><title>{title}</title></path>'
        )
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])
