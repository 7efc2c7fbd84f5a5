"""The report of a transfer evaluation: rows for a table, ``report.json``, and one self-contained ``report.html``.

The HTML file holds its pictures (PNG, in base64) and its style; it opens from anywhere, without a network, and has no
date, so the same evaluation gives the same file. Every number stands with the name of its definition, every empty cell
with the reason why it is empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spiketok import __version__
from spiketok.errors import require
from spiketok.evaluation.page import escape, html_table, number, picture, whole, whole_page
from spiketok.evaluation.remarks import calibration_words, chosen_lines, named_tasks, remarks
from spiketok.evaluation.results import (
    ADAPTED,
    ALIGNED_CCA,
    ALIGNED_PCA,
    CALIBRATION_KINDS,
    CALIBRATION_OF,
    FEW_SHOT,
    FLOOR,
    MIXED,
    WITHIN,
    TransferResult,
    to_dict,
)
from spiketok.evaluation.spread import summarize
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import NS_PER_S
from spiketok.storage.files import atomic_file, json_text, sha256_file, signed
from spiketok.training.checkpoints import TrainedSession
from spiketok.training.sampling import listing
from spiketok.training.tasks.base import Task
from spiketok.training.tasks.decode import Prediction

# Okabe and Ito's colours, which stay apart for colour-blind eyes; the floor and the truth are greys.
COLOURS = {
    "zero_shot": "#E69F00",
    "zero_gradient": "#CC79A7",
    "identity_unlabelled": "#56B4E9",
    "identity_only": "#0072B2",
    "full": "#009E73",
    "mapped_unlabelled": "#A6D3EE",
    "mapped": "#F0E442",
    ADAPTED: "#7A3E9D",
    "profile": "#8C6D1F",
    MIXED: "#B79AD0",
    ALIGNED_PCA: "#C9B38B",
    ALIGNED_CCA: "#8C6D3F",
    FEW_SHOT: "#4B5D2A",
    WITHIN: "#D55E00",
    FLOOR: "#8A8F98",
}
TRUE_COLOUR = "#22262B"
MEANING = {
    WITHIN: "the model as it is, on the test time of a session that it was trained on",
    FLOOR: "the floor: ridge regression on lagged spike counts, fitted on the calibration alone; scored at its bins",
    "zero_shot": "nothing learned: the session's new rows stand at their initial values",
    "zero_gradient": "a forward pass over unlabelled calibration, no training",
    "identity_unlabelled": "unlabelled calibration trains only the parameters that belong to the session",
    "identity_only": "labelled calibration trains only the parameters that belong to the session",
    "full": "labelled calibration trains all parameters, the session's own first",
    "profile": "labelled calibration gives each unit a profile in closed form; the weights stay as they are",
    "mapped_unlabelled": "units begin where spikes say: at a ridge on trained sessions, or as trained units alike",
    "mapped": "units begin where spikes and tuning say: at a ridge on trained sessions, or as trained units alike",
    ADAPTED: "from there on, what blocks of the calibration chose: what moves, at which rate, for how many steps",
    MIXED: "a weighted mean of adapted and linear, whose weight the same blocks gave",
    ALIGNED_PCA: "ridges of the trained sessions on principal components, those here matched by their distributions",
    ALIGNED_CCA: "ridges of the trained sessions on principal components, those here aligned at like behaviour",
    FEW_SHOT: "a ridge on what the model reads its answers of, its penalty chosen by blocks of the calibration",
}
FORMAT, VERSION = "spiketok-report", 2
TRACE_S, TRACE_WINDOWS = 10.0, 8  # a trace shows this much, whichever is longer
LOWEST = -0.6  # bars are cut off here; the number stands beside them
PANELS = 2  # so many metrics of a task are drawn
TRACES = 3  # so many components of a behaviour are drawn


@dataclass(frozen=True)
class Report:
    """What the command line shows of a report.

    Args:
        tables: a task each: title in one line, columns, rows; ``None`` is an empty cell.
        remarks: one line each: why cells are empty, and what the calibration was.
        summary: the whole of ``report.json``.
    """

    tables: list[tuple[str, list[str], list[dict[str, object]]]]
    remarks: list[str]
    summary: dict[str, object]


# ---- rows -----------------------------------------------------------------------------------------------------------

OVER_SESSIONS = "mean over sessions"
TIMES = ("scored_s", "unanswered_s")  # of a score: the test time that it is of, and what no window answered


def columns_of(task: Task) -> list[str]:
    return ["protocol", "session", *task.metrics, "sd", "n", *TIMES]


def table_rows(result: TransferResult, task: Task) -> list[dict[str, object]]:
    """One row a protocol and session, and one for each protocol's mean and spread over sessions.

    Keys: ``protocol``, ``session``, the task's metrics (None where there is none; means over repeats), ``sd`` of the
    first of them (over sessions, in a session's row over its repeats), ``n``, what has a score (sessions, in a
    session's row repeats), and :data:`TIMES` (summed).
    """
    rows = []
    for protocol in result.protocols_of(task.name):
        for session in dict.fromkeys(cell.session for cell in result.of(protocol, task.name)):
            cells = [cell for cell in result.of(protocol, task.name) if cell.session == session]
            over, scores = summarize(cells, task.metrics), [c.score for c in cells if c.score is not None]
            row = {"protocol": protocol, "session": session, "sd": over[task.metrics[0]]["sd_repeats"]}
            row |= {"n": len(scores)} | {name: over[name]["mean"] for name in task.metrics}
            rows.append(row | {name: sum(s[name] for s in scores) if scores else None for name in TIMES})
        over = result.summary[task.name][protocol]
        head = over[task.metrics[0]]
        row = {"protocol": protocol, "session": OVER_SESSIONS, "sd": head["sd"], "n": head["n"]}
        scored = [cell.score for cell in result.of(protocol, task.name) if cell.score is not None]
        row |= {name: sum(score[name] for score in scored) if scored else None for name in TIMES}
        rows.append(row | {name: over[name]["mean"] for name in task.metrics})
    return rows


def title_of(result: TransferResult) -> str:
    config, n = result.run.config, len(result.session_ids)
    return f"{config.model} ({config.size}): {named_tasks(result)} in {n} session{'s' if n != 1 else ''}"


def task_title(result: TransferResult, task: Task) -> str:
    return title_of(replace(result, tasks=(task,)))


def write_report(result: TransferResult, folder: Path) -> Report:
    """Write ``report.json`` and ``report.html`` into ``folder``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "plots", "drawing the report")
    matplotlib.rcParams["text.parse_math"] = False  # a name with "$" is no formula
    from spiketok.evaluation.stress_report import stress_tables  # it draws as this file does, and so imports it

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    body = {"format": FORMAT, "version": VERSION} | to_dict(result)
    page = _page(result, body)
    with atomic_file(folder / "report.html") as html, atomic_file(folder / "report.json") as path:  # both or none
        html.write_text(page, encoding="utf-8")
        body = signed(body | {"page_sha256": sha256_file(html)})
        path.write_text(json_text(body))
    tables = [(task_title(result, task), columns_of(task), table_rows(result, task)) for task in result.tasks]
    return Report(tables + stress_tables(result), remarks(result), body)


# ---- pictures -------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def plain_axes(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#9AA0A8")
    axes.spines["bottom"].set_color("#9AA0A8")
    axes.tick_params(colors="#555B63", labelsize=8)


def bar_plot(result: TransferResult, task: Task):
    """A figure: mean of each protocol as a bar, sessions as points, 95 % bootstrap interval as a line.

    Scores that end at 1 share an axis up to 1; bits per spike have no such end, and each panel goes as far as it must.
    """
    protocols, names = result.protocols_of(task.name), task.metrics[:PANELS]
    figure, to_one = _figure(9.2, 3.6), task.head().output != "counts"
    panels = figure.subplots(1, len(names), sharey=to_one, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for k, protocol in enumerate(protocols):
            _bar(axes, k, result, task, protocol, name)
        axes.axhline(0, color="#9AA0A8", linewidth=0.8, zorder=1)
        axes.set_xticks(range(len(protocols)), protocols)
        if len(protocols) > 4:
            axes.tick_params(axis="x", labelrotation=18)
        axes.set_title(task.titles[name], fontsize=10, loc="left", color="#22262B")
        axes.set_xlim(-0.6, len(protocols) - 0.4)
        axes.grid(axis="y", color="#E6E8EB", linewidth=0.7)
        axes.set_axisbelow(True)
        plain_axes(axes)
    low, high = zip(*(_span(result, task, protocols, name) for name in names), strict=True)
    for axes, bottom, top in zip(panels, low, high, strict=True):
        if to_one:
            axes.set_ylim(max(LOWEST, min(low) - 0.12), 1.08)
        else:
            room = 0.2 * max(top - max(LOWEST, bottom), 0.05)
            axes.set_ylim(max(LOWEST, bottom - (room if bottom < 0 else 0)), top + room)
    panels[0].set_ylabel("on test time", fontsize=9, color="#22262B")
    return figure


def _span(result: TransferResult, task: Task, protocols: Sequence[str], name: str) -> tuple[float, float]:
    """The least and the most that is drawn of a metric, 0 among them."""
    scores = [c.score[name] for p in protocols for c in result.of(p, task.name) if c.score]
    means = [result.summary[task.name][p][name]["mean"] for p in protocols]
    drawn = [0.0, *(value for value in (*scores, *means) if value is not None)]
    return min(drawn), max(drawn)


def _bar(axes, k: int, result: TransferResult, task: Task, protocol: str, name: str) -> None:
    over, colour = result.summary[task.name][protocol][name], COLOURS[protocol]
    if over["mean"] is None:
        _above(axes, k, 0.0, "no score", rotation=90, fontsize=8, color="#8A8F98")
        return
    axes.bar(k, max(over["mean"], LOWEST), width=0.62, color=colour, alpha=0.82, zorder=2)
    values = [c.score[name] for c in result.of(protocol, task.name) if c.score and c.score[name] is not None]
    spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else np.zeros(len(values))
    inside = np.maximum(values, LOWEST + 0.03)
    axes.scatter(k + spread, inside, s=20, color="white", edgecolor=TRUE_COLOUR, linewidth=0.9, zorder=4)
    if over["ci95"] is not None:
        axes.plot([k + 0.24, k + 0.24], over["ci95"], color=TRUE_COLOUR, linewidth=1.4, zorder=3)
    top = max(over["mean"], *values, 0.0)
    label = f"{over['mean']:z.{3 if task.head().output == 'counts' else 2}f}"
    _above(axes, k, top, label, fontsize=9, color=TRUE_COLOUR, fontweight="bold")


def _above(axes, k: int, height: float, text: str, **style: object) -> None:
    axes.annotate(text, (k, height), (0, 6), textcoords="offset points", ha="center", va="bottom", **style)


def trace_s(result: TransferResult) -> float:
    """How many seconds the traces show: more where long windows say that the behaviour is slow."""
    return max(TRACE_S, TRACE_WINDOWS * result.run.config.data.window_ms / 1e3)


def trace_plot(result: TransferResult, task: Task, session: str):
    """A figure: predicted against true behaviour in some seconds of the session's test time.

    One row a protocol that has a prediction, one column a component, of the first few; None where the answers are no
    traces.
    """
    cells = [(p, result.cell(session, p, task.name)) for p in result.protocols_of(task.name)]
    shown = [(p, c.answer) for p, c in cells if c is not None and isinstance(c.answer, Prediction)]
    if not shown:
        return None
    components, measure = shown[0][1].components[:TRACES], shown[0][1].measure
    start_ns = min(int(p.time_ns[0]) for _, p in shown if len(p.time_ns))
    stop_ns = start_ns + round(trace_s(result) * NS_PER_S)
    figure = _figure(9.2, 0.5 + 1.35 * len(shown))
    grid = figure.subplots(len(shown), len(components), sharex=True, sharey="col", squeeze=False)
    for row, (protocol, prediction) in enumerate(shown):
        cell = result.cell(session, protocol, task.name)
        for column, component in enumerate(components):
            axes = grid[row][column]
            _trace(axes, prediction, column, start_ns, stop_ns, COLOURS[protocol])
            r2 = cell.score["r2_per_component"][component]
            text = f"{protocol}   R² {r2:z.2f}" if r2 is not None else f"{protocol}   no R²"
            axes.set_title(text, fontsize=8.5, loc="left", color=COLOURS[protocol], fontweight="bold", pad=3)
            plain_axes(axes)
            axes.set_ylabel(f"{component} ({measure})" if measure else component, fontsize=8, color="#22262B")
            if row == len(shown) - 1:
                axes.set_xlabel("time in the session (s)", fontsize=8.5, color="#22262B")
    return figure


def _trace(axes, prediction: Prediction, column: int, start_ns: int, stop_ns: int, colour: str) -> None:
    low, high = np.searchsorted(prediction.time_ns, [start_ns, stop_ns])
    time_ns = prediction.time_ns[low:high]
    true = np.where(prediction.valid[low:high], prediction.true[low:high, column], np.nan)
    predicted = prediction.predicted[low:high, column].copy()
    if len(time_ns) > 1:  # lines do not bridge time that was not scored
        gap = np.flatnonzero(np.diff(time_ns) > 3 * np.median(np.diff(time_ns))) + 1
        time_ns = np.insert(time_ns, gap, time_ns[gap] - 1)
        true, predicted = np.insert(true, gap, np.nan), np.insert(predicted, gap, np.nan)
    second = time_ns / NS_PER_S
    axes.plot(second, true, color=TRUE_COLOUR, linewidth=1.0, alpha=0.9)
    axes.plot(second, predicted, color=colour, linewidth=1.3)
    axes.set_xlim(start_ns / NS_PER_S, stop_ns / NS_PER_S)


# ---- the page -------------------------------------------------------------------------------------------------------


def _protocol(name: str) -> str:
    dot = f'<span class="dot" style="background:{COLOURS[name]}"></span>'
    return f'<span class="protocol">{dot}{escape(name)}</span>'


def _short(digest: str) -> str:
    return f'<span class="hash" title="{escape(digest)}">{escape(digest[:12])}</span>' if digest else ""


def _shards(session: TrainedSession) -> str:
    """The digests of a session's shards, each once, and the inputs that read them where there are several."""
    readers: dict[str, list[str]] = {}
    for name, shard in session.shards.items():
        readers.setdefault(shard["digest"], []).append(name)
    if len(session.shards) == 1:
        return _short(next(iter(readers)))
    return "<br>".join(f"{escape(', '.join(names))} {_short(digest)}" for digest, names in readers.items())


def _page(result: TransferResult, body: dict[str, object]) -> str:
    from spiketok.evaluation.stress_report import stress_sections

    title = title_of(result)
    sections = [_head(result, title)]
    for task in result.tasks:
        of = _of(result, task)
        sections += [
            f"<h2>Scores{of}</h2>",
            picture(bar_plot(result, task), f"scores of {task.name} by protocol, sessions as points"),
            '<p class="soft small">Bars: mean over sessions. Points: sessions. Lines: 95 % bootstrap interval of the '
            f"mean over sessions and repeats (from three). What lies below {LOWEST} is drawn at the edge.</p>",
            _summary_table(result, task),
            f"<h2>Each session{of}</h2>",
            _session_table(result, task),
            _traces(result, task),
        ]
    sections += stress_sections(result)
    sections += ["<h2>What was used</h2>", _used(result), "<h2>Provenance</h2>", _provenance(result, body)]
    return whole_page(title, sections)


def page_of(
    title: str, tables: Sequence[tuple[str, list[str], list[dict[str, object]]]], pictures: Sequence[str]
) -> str:
    """A page of tables, each under its picture."""
    sections = [f"<h1>{escape(title)}</h1>"]
    for (name, columns, rows), drawn in zip(tables, pictures, strict=True):
        head = [(column.replace("_", " "), column != "protocol") for column in columns]
        cells = [("", [_cell(column, row[column]) for column in columns]) for row in rows]
        sections += [f"<h2>{escape(name)}</h2>", drawn, html_table(head, cells)]
    return whole_page(title, sections)


def _cell(column: str, value: object) -> str:
    if column == "protocol":
        return _protocol(str(value))
    return (
        number(value)
        if isinstance(value, float) and column != "calibration_s"
        else escape("" if value is None else f"{value:g}")
    )


def _of(result: TransferResult, task: Task) -> str:
    """Which task a section is about, where there are several."""
    return f": {escape(task.name)}" if len(result.tasks) > 1 else ""


def _head(result: TransferResult, title: str) -> str:
    run = result.run
    facts = [
        (str(len(run.trained_on)), "sessions trained on"),
        (str(len({f.session.id for f in result.sessions if not f.trained_on})), "unseen sessions scored"),
        (f"{result.calibration_s:g} s", "calibration"),
        (f"{run.model.n_fitted():,}", "parameters"),
        (f"{run.step:,} of {run.total_steps:,}", "training steps"),
    ]
    boxes = "".join(f'<div class="fact"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in facts)
    asked = ", and ".join(_asked(task) for task in result.tasks)
    seen = [f.trained_on for f in result.sessions]
    whose = "was trained on" if all(seen) else "was trained on, and of others" if any(seen) else "never saw"
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="soft">The model was asked for {asked}, from spikes of sessions that it {whose}. Scores are on test '
        f"time that is disjoint from calibration.</p>"
        f'<div class="facts">{boxes}</div>'
    )


def _asked(task: Task) -> str:
    """A task in words, as HTML."""
    head = task.head()
    if head.output == "counts":
        return "hidden counts of the <b>population</b>"
    what = f"<b>{escape(task.about)}</b> ({escape(listing(head.words))})"
    return what if head.output == "values" else f"the {'class' if head.output == 'classes' else head.kind} of {what}"


def _summary_table(result: TransferResult, task: Task) -> str:
    head = [("protocol", False), ("n", True)]
    for name in task.metrics:
        head += [(task.titles[name], True), ("SD", True), ("95\u00a0%\u00a0CI", True)]
    head.append(("what it sees", False))
    rows = []
    kinds = {
        kind: [p for p in result.protocols_of(task.name) if CALIBRATION_OF[p] == kind] for kind in CALIBRATION_KINDS
    }
    for protocol in (p for kind in CALIBRATION_KINDS for p in kinds[kind]):
        if protocol == kinds[CALIBRATION_OF[protocol]][0]:
            kind = {"none": "no calibration"}.get(CALIBRATION_OF[protocol], f"{CALIBRATION_OF[protocol]} calibration")
            rows.append(("mean", [escape(kind)]))
        over = result.summary[task.name][protocol]
        cells = [_protocol(protocol), str(over[task.metrics[0]]["n"])]
        for name in task.metrics:
            ci = over[name]["ci95"]
            cells += [
                f"<b>{number(over[name]['mean'])}</b>",
                number(over[name]["sd"]),
                f"{number(ci[0])} … {number(ci[1])}" if ci else "",
            ]
        cells.append(f'<span class="sees">{escape(MEANING[protocol])}</span>')
        rows.append(("", cells))
    return html_table(head, rows)


def _session_table(result: TransferResult, task: Task) -> str:
    head = [("session", False), ("protocol", False), *((task.titles[name], True) for name in task.metrics)]
    head += [("each", False), ("trained numbers", True), ("test samples", True), ("scored", True), ("unanswered", True)]
    rows, words, last = [], set(task.head().words), None
    for facts in result.sessions:
        for protocol in result.protocols_of(task.name):
            cell = result.cell(facts.session.id, protocol, task.name, facts.repeat)
            if cell is None:
                continue
            again = last == (cell.session, facts.repeat)
            name = ["" if again else whole(cell.session), _protocol(protocol)]
            last = (cell.session, facts.repeat)
            if cell.score is None:
                empty = [""] * len(task.metrics)
                rows.append(("", [*name, *empty, f'<span class="empty">{escape(cell.reason)}</span>', *[""] * 4]))
                continue
            parts = next((v for v in cell.score.values() if isinstance(v, dict) and words.issuperset(v)), {})
            each = ", ".join(whole(f"{c} {number(v, 2)}") for c, v in parts.items())
            each += "".join(f' <span class="empty">{escape(line)}</span>' for line in chosen_lines(cell))
            for metric, why in cell.score.get("reasons", {}).items():
                each += f'<span class="empty">{escape(f"{task.titles.get(metric, metric)}: {why}")}</span> '
            scores = [number(cell.score[key]) for key in task.metrics]
            numbers = [f"{cell.trained_parameters:,}", f"{cell.score['n_samples']:,}"]
            times = [f"{cell.score[key]:.1f} s" for key in TIMES]
            rows.append(("", [*name, *scores, each, *numbers, *times]))
    return html_table(head, rows)


def _traces(result: TransferResult, task: Task) -> str:
    parts = []
    for session in result.session_ids:  # of several draws the first
        figure = trace_plot(result, task, session)
        if figure is not None:
            parts.append(f"<h3>{escape(session)}</h3>")
            parts.append(picture(figure, f"predicted and true {task.about} in {session}"))
    if not parts:
        return ""
    told = f"The first {trace_s(result):g} s of each session's test time. Dark: true. Colour: predicted."
    if task.head().size > TRACES:
        told += f" The first {TRACES} of {task.head().size} components."
    title = f"<h2>Predicted against true{_of(result, task)}</h2>"
    return "".join([title, f'<p class="soft small">{told}</p>', *parts])


def _used(result: TransferResult) -> str:
    trained = html_table(
        [("trained on", False), ("subject", False), ("units", True), ("spikes", True), ("shard", False)],
        [
            ("", [escape(s.id), escape(s.subject), f"{s.n_units:,}", f"{s.n_spikes:,}", _shards(s)])
            for s in result.run.trained_on
        ],
    )
    scored = html_table(
        [
            ("scored", False),
            ("subject", False),
            ("units", True),
            ("calibration", True),
            ("from", True),
            ("test time", True),
            ("from", True),
        ],
        [
            (
                "",
                [
                    escape(f.session.id) + (" (trained on)" if f.trained_on else ""),
                    escape(f.session.subject),
                    f"{f.session.n_units:,}",
                    f"{seconds(f.calibration):.1f} s",
                    f"{f.calibration.start_ns[0] / NS_PER_S:.2f} s",
                    f"{seconds(f.test):.1f} s",
                    f"{f.test.start_ns[0] / NS_PER_S:.2f} s",
                ],
            )
            for f in result.sessions
        ],
    )
    window = result.run.config.data.window_ms
    return (
        trained
        + scored
        + f'<p class="soft small">Calibration is {calibration_words(result)} of usable training time of a '
        "session; whether a protocol sees labels in it, its row says. No test window lies nearer to it than one window "
        f"of {window:g} ms. Predictions of overlapping windows are averaged at identical times. Each session adapts "
        "alone, from the same checkpoint.</p>"
    )


def _provenance(result: TransferResult, body: dict[str, object]) -> str:
    rows = [("", ["checkpoint", _short(result.run.digest), "", ""])]
    for kind, sessions in (
        ("trained on", result.run.trained_on),
        ("scored", [f.session for f in result.sessions]),
    ):
        for s in sessions:
            rows.append(("", [f"{kind}: {escape(s.id)}", _shards(s), _short(s.store_digest)]))
            rows[-1][1].append(_short(s.source_sha256))
    chain = html_table([("artefact", False), ("digest", False), ("store", False), ("source", False)], rows)
    settings = {key: body[key] for key in ("config", "adapt", "seed")}
    told = escape(json.dumps(settings, indent=2, sort_keys=True))
    return (
        chain
        + f"<details><summary>All settings</summary><pre>{told}</pre></details>"
        + f'<p class="soft small">Written by spiketok {escape(__version__)}. R² variance-weighted: components count '
        "by their variance (as FALCON). R² mean: plain mean over components (as NLB and POYO).</p>"
    )
