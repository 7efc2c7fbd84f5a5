"""Curves over the length of the calibration: how each row of the transfer table grows with it.

``curve.json`` holds the summaries of the reports by length, ``curve.html`` a picture a task and the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiketok.errors import require
from spiketok.evaluation.page import picture
from spiketok.evaluation.report import COLOURS, Report, page_of, plain_axes
from spiketok.evaluation.results import TransferResult
from spiketok.storage.files import atomic_file, json_text, sha256_file, signed
from spiketok.training.tasks.base import Task

FORMAT, VERSION = "spiketok-curve", 1


def curve_rows(results: Sequence[TransferResult], task: Task) -> list[dict[str, object]]:
    """A row a protocol and length: mean of the headline over sessions, its spread, interval and ``n``."""
    rows = []
    for protocol in dict.fromkeys(p for result in results for p in result.protocols_of(task.name)):
        for result in results:
            over = result.summary[task.name].get(protocol)
            if over is not None:
                head = over[task.metrics[0]]
                low, high = head["ci95"] or (None, None)
                row = {"protocol": protocol, "calibration_s": result.calibration_s, task.metrics[0]: head["mean"]}
                spread = {"sd": head["sd"], "sd_repeats": head["sd_repeats"], "ci_low": low, "ci_high": high}
                rows.append(row | spread | {"n": head["n"]})
    return rows


def write_curve(results: Sequence[TransferResult], folder: Path) -> Report:
    """Write ``curve.json`` and ``curve.html`` of transfer results of one run, by rising length of calibration.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plots", "drawing the curve")
    folder.mkdir(parents=True, exist_ok=True)
    run, tasks = results[0].run, results[0].tasks
    tables = []
    for task in tasks:
        columns = ["protocol", "calibration_s", task.metrics[0], "sd", "sd_repeats", "ci_low", "ci_high", "n"]
        tables.append((f"{run.config.model} ({run.config.size}): {task.name}", columns, curve_rows(results, task)))
    body = {
        "format": FORMAT,
        "version": VERSION,
        "run": run.path.resolve().name,
        "checkpoint_digest": run.digest,
        "calibration_drawn": results[0].calibration,
        "repeats": results[0].repeats,
        "reports": [f"{result.calibration_s:g}s" for result in results],
        "curves": {task.name: rows for task, (_, _, rows) in zip(tasks, tables, strict=True)},
    }
    pictures = [picture(curve_plot(results, task), f"{task.name} by length of calibration") for task in tasks]
    page = page_of(f"{run.config.model} ({run.config.size}) by length of calibration", tables, pictures)
    with atomic_file(folder / "curve.html") as html, atomic_file(folder / "curve.json") as path:  # both or none
        html.write_text(page, encoding="utf-8")
        body = signed(body | {"page_sha256": sha256_file(html)})
        path.write_text(json_text(body))
    return Report(tables, [], body)


def curve_plot(results: Sequence[TransferResult], task: Task):
    """A figure: the headline of each protocol over seconds of calibration, with its interval where there is one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 4.2), layout="constrained", facecolor="white")
    axes, metric = figure.subplots(), task.metrics[0]
    rows = [row for row in curve_rows(results, task) if row[metric] is not None]
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        own = [row for row in rows if row["protocol"] == protocol]
        x, y = [row["calibration_s"] for row in own], [row[metric] for row in own]
        axes.plot(x, y, marker="o", markersize=4, color=COLOURS[protocol], linewidth=1.6, label=protocol)
        for row in own:
            if row["ci_low"] is not None:
                axes.plot([row["calibration_s"]] * 2, [row["ci_low"], row["ci_high"]], color=COLOURS[protocol])
    axes.set_xscale("log")
    axes.set_xticks([r.calibration_s for r in results], [f"{r.calibration_s:g}" for r in results])
    axes.minorticks_off()
    axes.axhline(0, color="#9AA0A8", linewidth=0.8)
    axes.set_xlabel("calibration (s)", fontsize=9)
    axes.set_ylabel(task.titles[metric], fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain_axes(axes)
    return figure
