"""The picture of a star table, a panel a measure with an axis in its own measure, and the one page around it.

What is unusual: nothing is drawn as an area of a radar, whose size depends on the order of its axes; each panel shows
the numbers themselves, and curves (data, jitter) as points from light to dark. The page holds its pictures and style
and no date: the same measures give the same file.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from spiketok import __version__
from spiketok.errors import require
from spiketok.evaluation.page import html_table, picture, whole_page
from spiketok.evaluation.report import plain_axes
from spiketok.evaluation.star.measuring import CHUNKS_MS, JITTERS_MS, SHARES
from spiketok.evaluation.star.results import CHUNK_MS, COLUMNS, StarTable, at
from spiketok.storage.files import atomic_file

BLUE, ORANGE, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#22262B", "#9AA0A8"
LEAST_R2 = -0.5  # points below are drawn at it


def star_plot(table: StarTable):
    """A figure: a panel a measure, a row a model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    n = len(table.labels)
    figure = Figure(figsize=(12.5, 5 * (0.95 + 0.235 * n)), layout="constrained", facecolor="white")
    axes = figure.subplots(5, 2, sharey=True)
    for axis, (title, draw) in zip(axes.flat, PANELS, strict=True):
        axis.set_title(title, fontsize=9, loc="left", color=INK)
        plain_axes(axis)
        axis.grid(axis="y", color="#EEF0F2", linewidth=0.8)
        axis.set_axisbelow(True)
        draw(axis, table)
        if not axis.collections and not axis.texts:
            axis.text(0.5, 0.5, "not measured", fontsize=8, color=GREY, ha="center", transform=axis.transAxes)
        if axis.get_xscale() == "log":
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
            axis.xaxis.set_minor_formatter(lambda value, place: "")
    for axis in axes[:, 0]:
        axis.set_yticks(range(n), table.labels, fontsize=8.5)
    axes[0, 0].set_ylim(n - 0.5, -0.5)
    return figure


def _dots(axis, table: StarTable, read: Callable, **style: object) -> None:
    """A point a model at the mean over seeds, and small ones at each seed where there are several."""
    for k, label in enumerate(table.labels):
        mean = table.curve(label, read)
        if mean is None:
            continue
        axis.scatter([mean], [k], **({"s": 30, "color": BLUE, "zorder": 3} | style))
        if len(table.of(label)) > 1:
            each = [read(one.facts) for one in table.of(label)]
            axis.scatter(each, [k] * len(each), s=6, color=INK, zorder=4)


def _scaled(read: Callable, scale: float) -> Callable:
    def scaled(facts) -> float | None:
        value = read(facts)
        return None if value is None else value * scale

    return scaled


def _r2(read: Callable) -> Callable:
    def bounded(facts) -> float | None:
        value = read(facts)
        return None if value is None else max(value, LEAST_R2)

    return bounded


def _r2_axis(axis, table: StarTable, reads: Sequence[Callable]) -> None:
    found = [table.curve(label, read) for label in table.labels for read in reads]
    low = min([v for v in found if v is not None], default=0.0)
    axis.set_xlim(min(low, 0.0) - 0.04, 1.03)
    if low < 0:
        axis.axvline(0, color=GREY, linewidth=0.8)


def _accuracy(axis, table: StarTable) -> None:
    read = _r2(at("train", "r2"))
    _dots(axis, table, read)
    _r2_axis(axis, table, [read])


def _data(axis, table: StarTable) -> None:
    reads = [_r2(at("data", "shares", f"{share:g}")) for share in (*SHARES, 1.0)]
    for read, colour in zip(reads, ("#BFDDF0", "#7FBBE0", "#3F97CE", "#004C78"), strict=True):
        _dots(axis, table, read, color=colour)
    _r2_axis(axis, table, reads)


def _jitter(axis, table: StarTable) -> None:
    reads = [_r2(at("jitter", "r2", f"{ms:g}")) for ms in (*JITTERS_MS[::-1], 0.0)]
    for read, colour in zip(reads, ("#F7D0B5", "#EFAE82", "#E58A4D", "#D55E00", "#7A3600"), strict=True):
        _dots(axis, table, read, color=colour)
    _r2_axis(axis, table, reads)


def _log(column: str, measure: Callable) -> Callable:
    def draw(axis, table: StarTable) -> None:
        axis.set_xscale("log")
        _dots(axis, table, _scaled(measure, COLUMNS[column].scale), color=GREEN)

    return draw


def _latency(axis, table: StarTable) -> None:
    axis.set_xscale("log")
    median, late = (at("latency", "chunks", CHUNK_MS, name) for name in ("p50_ms", "p99_ms"))
    for k, label in enumerate(table.labels):
        ends = table.curve(label, median), table.curve(label, late)
        if None not in ends:
            axis.plot(ends, [k, k], color=GREEN, linewidth=1.4)
    _dots(axis, table, median, color=GREEN)
    _dots(axis, table, at("latency", "chunks", CHUNK_MS, "cpu_p50_ms"), color=INK, marker="|", s=60)
    axis.axvline(CHUNKS_MS[0], color=GREY, linewidth=0.8, linestyle="--")


def _memory(axis, table: StarTable) -> None:
    for part, colour in (("train", "#004C2E"), ("decode", "#66C2A4")):
        _dots(axis, table, _scaled(at(part, "peak_bytes"), 1e-6), color=colour)
    _dots(axis, table, _scaled(at("decode", "before_bytes"), 1e-6), color=GREY, marker="|", s=60)
    axis.set_xlim(left=0)


def _transfer(axis, table: StarTable) -> None:
    own, none, floor = (
        _r2(at("transfer", *path)) for path in (("best_labelled", "r2"), ("best_unlabelled", "r2"), ("floor",))
    )
    _dots(axis, table, floor, color=GREY, marker="|", s=110, linewidth=2)
    _dots(axis, table, none, facecolors="none", edgecolors=ORANGE, color=None)
    _dots(axis, table, own, color=ORANGE)
    _r2_axis(axis, table, [own, none, floor])


def _generation(axis, table: StarTable) -> None:
    of = ("generation", "population_distance")
    _dots(axis, table, at(*of, "poisson"), color=GREY, marker="|", s=110, linewidth=2)
    _dots(axis, table, at(*of, "training"), facecolors="none", edgecolors=GREY, color=None)
    _dots(axis, table, at(*of, "sample"), color="#CC79A7")
    axis.set_xlim(left=0)
    for k, label in enumerate(table.labels):
        if table.shown(label, "generation") == "no":
            axis.text(
                0.01, k, "draws none", fontsize=7.5, color=GREY, va="center", transform=axis.get_yaxis_transform()
            )


PANELS: tuple[tuple[str, Callable], ...] = (
    ("test R²", _accuracy),
    ("test R² with 1/8, 1/4, 1/2, all of the training time (light to dark)", _data),
    ("test R² with spikes jittered by 50, 20, 5, 1, 0 ms (light to dark)", _jitter),
    ("unseen sessions, R²: best with labels (full), without (ring), linear floor (bar)", _transfer),
    ("parameters (thousand, log)", _log("parameters", at("train", "parameters"))),
    ("training (CPU s, log)", _log("training", at("train", "cpu_s"))),
    ("decoding (CPU ms a second of recording, log)", _log("decoding", at("decode", "cpu_ms_per_s"))),
    ("latency (ms, log): median, line to p99; CPU time (bar); dashed: 20 ms", _latency),
    ("peak memory (MB): training (dark), decoding (light), before any data (bar)", _memory),
    ("drawn spikes, population distance: sample, Poisson (bar), recorded training time (ring)", _generation),
)


# ---- the page -------------------------------------------------------------------------------------------------------


def write_page(table: StarTable, out: Path) -> None:
    """One self-contained HTML file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plots", "drawing the star table")
    title = "Models measured on the same sessions"
    sections = [
        f"<h1>{title}</h1>",
        _facts(table),
        "<h2>Numbers</h2>",
        _numbers(table),
        _lines(table.reasons()),
        picture(star_plot(table), "a panel a measure, a row a model"),
        "<h2>Stars</h2>",
        _stars(table),
        "<h2>Unseen sessions by protocol</h2>",
        _protocols(table),
        "<h2>What was used</h2>",
        _used(table),
    ]
    with atomic_file(out) as path:
        path.write_text(whole_page(title, sections), encoding="utf-8")


def write_picture(table: StarTable, out: Path) -> None:
    """The picture alone, as .png, .svg or .pdf.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "plots", "drawing the star table")
    ending = out.suffix[1:].lower()
    with matplotlib.rc_context({"svg.hashsalt": "spiketok"}), atomic_file(out) as path:
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
        star_plot(table).savefig(path, format=ending, dpi=130, metadata=metadata)


def escaped(value: object) -> str:
    return html.escape(str(value))


def _facts(table: StarTable) -> str:
    said = table.settings
    facts = [
        (str(len(table.labels)), "models"),
        (str(len(said["sessions"])), "sessions trained on"),
        (str(len(said["held_out"])), "unseen sessions"),
        (str(max(len(table.of(label)) for label in table.labels)), "seeds at most"),
    ]
    if said["most_steps"]:
        facts.append((f"{said['most_steps']:,}", "steps at most"))
    if said["most_cpu_s"]:
        facts.append((f"{said['most_cpu_s']:g} s", "of CPU a training, about, at most"))
    boxes = "".join(f'<div class="fact"><b>{escaped(a)}</b><span>{escaped(b)}</span></div>' for a, b in facts)
    return f'<div class="facts">{boxes}</div>'


def _numbers(table: StarTable) -> str:
    head = [("model", False), ("steps", True), *((of.title, True) for of in COLUMNS.values())]
    rows = []
    for label in table.labels:
        steps = table.of(label)[0].facts.get("run", {}).get("steps")
        cells = [escaped(label), "" if not steps else f"{steps:,}"]
        for name, of in COLUMNS.items():
            _, sd = table.mean(label, name)
            spread = "" if sd is None else f' <span class="soft small">± {sd * of.scale:,.{of.digits}f}</span>'
            cells.append(f"{escaped(table.shown(label, name))}{spread}")
        rows.append(("", cells))
    return html_table(head, rows)


def _stars(table: StarTable) -> str:
    head = [("model", False), *((of.title, False) for of in COLUMNS.values())]
    rows = []
    for label in table.labels:
        given = [table.stars(label, name) for name in COLUMNS]
        shown = ["" if n is None else f'<span title="{n} of 5">{"★" * n}{"☆" * (5 - n)}</span>' for n in given]
        rows.append(("", [escaped(label), *shown]))
    rules = html_table(
        [("column", False), ("stars from", False), ("measured by", False)],
        [("", [escaped(of.title), escaped(f"{of.rule()}, else 1★"), escaped(MEANING[n])]) for n, of in COLUMNS.items()],
    )
    return html_table(head, rows) + rules


MEANING = {
    "accuracy": "R² weighted by variance on the test split, mean over the sessions trained on",
    "data": "the same steps on the first 1/8, 1/4, 1/2 and all of the training time; linear between the shares",
    "parameters": "numbers that training sets, the sessions' own included",
    "training": "CPU seconds of all steps and of what is fitted before; of a run of before, 30 steps extrapolated",
    "decoding": "CPU time of an evaluation of the test split, a second of recording",
    "latency": "from a window's last piece to its prediction, live at steps of 20 ms (to the model's grid), 10 s",
    "memory": "highest resident memory of a process that only trains, or decodes (the larger), less the bare one",
    "jitter": "test spikes moved by a Gaussian within observed test time; R² as a share of the unmoved one",
    "transfer": "best row with labels, chosen after the fact, less a ridge on the same calibration",
    "generation": "Wasserstein distance of spikes in a bin, as a share of an independent Poisson sample's",
}


def _protocols(table: StarTable) -> str:
    rows = []
    for label in table.labels:
        for one in table.of(label):
            found = one.facts.get("transfer", {})
            for protocol, r2 in found.get("scores", {}).items():
                why = found["reasons"].get(protocol, "") if r2 is None else ""
                name = f"{escaped(label)}{f', seed {one.seed}' if len(table.of(label)) > 1 else ''}"
                rows.append(("", [name, escaped(protocol), "" if r2 is None else f"{r2:.3f}", escaped(why)]))
    if not rows:
        return '<p class="soft">Not measured.</p>'
    said = f'<p class="soft small">{table.settings["calibration_s"]:g} s of calibration; mean over sessions.</p>'
    head = [("model", False), ("protocol", False), ("R²", True), ("why not", False)]
    return f"{said}<details><summary>{len(rows)} rows</summary>{html_table(head, rows)}</details>"


def _used(table: StarTable) -> str:
    said = table.settings
    role = dict.fromkeys(said["sessions"], "trained on") | dict.fromkeys(said["held_out"], "unseen")
    sessions = html_table(
        [("session", False), ("use", False), ("store", False)],
        [
            ("", [escaped(s), role[s], f'<span class="hash">{d[:12]}</span>'])
            for s, d in said["session_digests"].items()
        ],
    )
    runs = []
    for one in table.runs:
        own = one.facts.get("run", {})
        trained = one.facts.get("train", {})
        threads = f"{trained['threads']} thread{'s' * (trained['threads'] > 1)}" if "threads" in trained else ""
        cells = [one.label, str(one.seed), own.get("size", ""), own.get("run", "")]
        digest = _hash(own.get("checkpoint_digest", ""))
        timed = "" if not trained.get("steps") else f"{trained['timed_steps']:,} of {trained['steps']:,} steps"
        runs.append(("", [*map(escaped, cells), digest, escaped(timed), threads]))
    head = ("model", "seed", "size", "run", "checkpoint", "timed", "threads")
    told = {key: value for key, value in said.items() if key not in ("sessions", "held_out", "session_digests")}
    settings = escaped(json.dumps(told, indent=2, sort_keys=True))
    return (
        sessions
        + html_table([(text, False) for text in head], runs)
        + f"<details><summary>Settings</summary><pre>{settings}</pre></details>"
        + f'<p class="soft small">Written by spiketok {escaped(__version__)}. Times and memory are of this machine, '
        "with whatever else ran on it.</p>"
    )


def _hash(digest: str) -> str:
    return f'<span class="hash">{digest[:12]}</span>'


def _lines(lines: Sequence[str]) -> str:
    return "".join(f'<p class="soft small">{escaped(line)}</p>' for line in lines)
