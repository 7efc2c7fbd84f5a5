"""Stress and shortcuts in a report: tables for the command line, and pictures and tables for the page.

Means are over sessions; a row that has no score at a level in some of them is a mean over the others, and ``n`` says of
how many.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from spiketok.evaluation.controls import CONTROLS, LABELS_SHIFTED, LABELS_SHUFFLED, NO_SPIKES, WITHOUT_SPIKES
from spiketok.evaluation.page import html_table, picture
from spiketok.evaluation.report import COLOURS, plain_axes
from spiketok.evaluation.results import TransferResult
from spiketok.evaluation.stress import Row
from spiketok.evaluation.stress_intervals import TOLD
from spiketok.evaluation.stress_kinds import KINDS
from spiketok.training.tasks.base import Task

Table = tuple[str, list[str], list[dict[str, object]]]

LOWEST = -1.0  # what is drawn is cut off here; the numbers stand in the tables
CONTROL_MEANING = {
    NO_SPIKES: "the row itself, every spike of the scored time taken out",
    LABELS_SHIFTED: "labels moved along the scored time by 5 s and more",
    LABELS_SHUFFLED: "labels of other trials",
    "constant": "the mean of the calibration",
    "session_time": "a ridge on the time in the session",
    "trial_time": "the calibration's mean trial",
    "own_past": "a ridge on the behaviour one to two windows ago",
}
MARKS = dict(zip(CONTROLS, ("o", "", "", "_", "^", "s", "D"), strict=True))


def _mean(values: Sequence[object]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def _protocols(result: TransferResult, rows: Sequence[Row], task: Task) -> list[str]:
    own = {row["protocol"] for row in rows if row["task"] == task.name}
    return [p for p in result.protocols if p in own]


def _curve(result: TransferResult, task: Task, protocol: str, kind: str) -> list[float | None]:
    """The headline at each level, mean over sessions."""
    own = _of(result.stress.stress, task=task.name, protocol=protocol, kind=kind)
    return [_mean([r[task.metrics[0]] for r in own if r["level"] == level]) for level in KINDS[kind].levels]


def _control(result: TransferResult, task: Task, protocol: str, control: str, key: str = "score") -> float | None:
    own = _of(result.stress.controls, task=task.name, protocol=protocol, control=control)
    return _mean([row[key] for row in own])


def _largest_p(result: TransferResult, task: Task, protocol: str, control: str) -> str | None:
    """Of the sessions the one that speaks least against chance."""
    own = _of(result.stress.controls, task=task.name, protocol=protocol, control=control)
    known = [row["p"] for row in own if row["p"] is not None]
    return f"{max(known):.2g}" if known else None


def _score(result: TransferResult, task: Task, protocol: str) -> float | None:
    """The row's own score, mean over the sessions of the controls (the first draw of each)."""
    cells = [c for c in result.of(protocol, task.name) if c.score is not None and not c.repeat]
    return _mean([c.score[task.metrics[0]] for c in cells])


# ---- the command line -----------------------------------------------------------------------------------------------


def stress_tables(result: TransferResult) -> list[Table]:
    """Tables of a result: scores by level, controls, coverage of intervals; none where it was not stressed."""
    if result.stress is None:
        return []
    tables: list[Table] = []
    for task in result.tasks:
        tables += [t for t in (_levels(result, task), _shortcuts(result, task), _coverage(result, task)) if t[2]]
    return tables


def _levels(result: TransferResult, task: Task) -> Table:
    rows, stress = [], result.stress
    for protocol in _protocols(result, stress.stress, task):
        for kind in stress.settings.kinds:
            levels = " ".join(f"{level:g}" for level in KINDS[kind].levels)
            curve = " ".join("none" if s is None else f"{s:.3f}" for s in _curve(result, task, protocol, kind))
            n = len({r["session"] for r in _of(stress.stress, task=task.name, protocol=protocol, kind=kind)})
            told = {"protocol": protocol, "stress": kind, "levels": f"{levels} {KINDS[kind].measure}"}
            rows.append(told | {task.metrics[0]: curve, "n": n})
    return f"stress of {task.name}", ["protocol", "stress", "levels", task.metrics[0], "n"], rows


def _shortcuts(result: TransferResult, task: Task) -> Table:
    rows = []
    for protocol in _protocols(result, result.stress.controls, task):
        row = {"protocol": protocol, "score": _score(result, task, protocol)}
        for control in CONTROLS:
            row[control] = _control(result, task, protocol, control)
            if control in (LABELS_SHIFTED, LABELS_SHUFFLED):
                row[f"p {control.removeprefix('labels_')}"] = _largest_p(result, task, protocol, control)
        rows.append(row)
    return f"what a cheat would get of {task.name}", list(rows[0]) if rows else [], rows


def _coverage(result: TransferResult, task: Task) -> Table:
    rows, every = [], _of(result.stress.intervals, task=task.name)
    for protocol in _protocols(result, every, task):
        own = _of(every, protocol=protocol)
        row = {"protocol": protocol}
        row |= {f"in {level:.0%}": _mean([r["coverage"] for r in _of(own, level=level)]) for level in TOLD}
        rows.append(row | {"n": len({r["session"] for r in own if r["coverage"] is not None})})
    return f"share of {task.name} that intervals hold", list(rows[0]) if rows else [], rows


# ---- pictures -------------------------------------------------------------------------------------------------------


def stress_plot(result: TransferResult, task: Task):
    """A figure: a panel a kind, the headline of each row over the levels, mean over sessions."""
    from matplotlib.figure import Figure

    kinds, rows = result.stress.settings.kinds, _protocols(result, result.stress.stress, task)
    width = 2.35 * len(kinds) + 1.6
    figure = Figure(figsize=(max(width, 5.0), 3.4), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        place = range(len(KINDS[kind].levels))
        for protocol in rows:
            curve = [np.nan if s is None else max(s, LOWEST) for s in _curve(result, task, protocol, kind)]
            style = {"color": COLOURS[protocol], "linewidth": 1.6, "marker": "o", "markersize": 4}
            axes.plot(place, curve, label=protocol, **style)
        axes.axhline(0, color="#9AA0A8", linewidth=0.8, zorder=1)
        axes.axvline(KINDS[kind].levels.index(KINDS[kind].plain), color="#E6E8EB", linewidth=5, zorder=0)
        axes.set_xticks(place, [f"{level:g}" for level in KINDS[kind].levels])
        axes.set_title(f"{KINDS[kind].title} ({KINDS[kind].measure})", fontsize=9.5, loc="left", color="#22262B")
        plain_axes(axes)
    panels[0].set_ylabel(task.titles[task.metrics[0]], fontsize=9, color="#22262B")
    drawn = [s for p in rows for kind in kinds for s in _curve(result, task, p, kind) if s is not None]
    panels[0].set_ylim(max(LOWEST, min([0.0, *drawn])) - 0.06, 1.04)
    panels[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def controls_plot(result: TransferResult, task: Task):
    """A figure: each row's score as a bar, what it keeps without a spike, the shifted labels, what the clock has."""
    from matplotlib.figure import Figure

    rows = _protocols(result, result.stress.controls, task)
    figure = Figure(figsize=(9.2, 0.9 + 0.5 * len(rows)), layout="constrained", facecolor="white")
    axes, named = figure.subplots(), set()

    def once(label: str) -> str | None:
        """For the legend, a label where it is first drawn."""
        return None if label in named else named.add(label) or label

    for k, protocol in enumerate(rows):
        score = _score(result, task, protocol)
        if score is not None:
            axes.barh(k, max(score, LOWEST), height=0.6, color=COLOURS[protocol], alpha=0.55, zorder=2)
        low = _control(result, task, protocol, LABELS_SHIFTED)
        high = _control(result, task, protocol, LABELS_SHIFTED, "high")
        if low is not None:
            label, span = once("labels_shifted, mean to 95 %"), [max(low, LOWEST), max(high, LOWEST)]
            axes.plot(span, [k - 0.36] * 2, color="#5B626B", linewidth=3, zorder=3, label=label)
        for control in (NO_SPIKES, *WITHOUT_SPIKES):
            value = _control(result, task, protocol, control)
            if value is not None:
                style = {"s": 42, "marker": MARKS[control], "linewidth": 1.4, "zorder": 4, "label": once(control)}
                if control == NO_SPIKES:
                    style |= {"facecolor": "white", "edgecolor": "#D55E00"}
                else:
                    style |= {"color": "#22262B", "alpha": 0.8}
                axes.scatter([max(value, LOWEST)], [k], **style)
    axes.axvline(0, color="#9AA0A8", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(LOWEST - 0.04, 1.04)
    axes.set_xlabel(task.titles[task.metrics[0]], fontsize=9, color="#22262B")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain_axes(axes)
    return figure


def coverage_plot(result: TransferResult, task: Task):
    """A figure: the share of scored samples that intervals hold against their level, mean over sessions and components.

    None where there are no intervals.
    """
    from matplotlib.figure import Figure

    every = [row for row in result.stress.intervals if row["task"] == task.name and row["coverage"] is not None]
    if not every:
        return None
    figure = Figure(figsize=(5.6, 3.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.plot([0.45, 1], [0.45, 1], color="#9AA0A8", linewidth=1, linestyle="--")
    for protocol in _protocols(result, every, task):
        own = _of(every, protocol=protocol)
        levels = sorted({row["level"] for row in own})
        held = [_mean([row["coverage"] for row in _of(own, level=level)]) for level in levels]
        style = {"color": COLOURS[protocol], "linewidth": 1.6, "marker": "o", "markersize": 4}
        axes.plot(levels, held, label=protocol, **style)
    axes.set_xlabel("level of the interval", fontsize=9, color="#22262B")
    axes.set_ylabel("share of scored samples inside", fontsize=9, color="#22262B")
    axes.set_ylim(min(0.45, *(row["coverage"] for row in every)) - 0.02, 1.02)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain_axes(axes)
    return figure


# ---- the page -------------------------------------------------------------------------------------------------------


def stress_sections(result: TransferResult) -> list[str]:
    """Parts of the page, as HTML; none where the result was not stressed."""
    if result.stress is None:
        return []
    sections = []
    for task in result.tasks:
        of = f": {html.escape(task.name)}" if len(result.tasks) > 1 else ""
        for title, draw in (
            (f"Stress{of}", _stress),
            (f"What a cheat would get{of}", _cheats),
            (f"Intervals{of}", _held),
        ):
            drawn = draw(result, task)
            sections += [f"<h2>{title}</h2>", *drawn] if drawn else []
    told = "".join(f"<li>{html.escape(line)}</li>" for line in result.stress.lines())
    sections = sections or ["<h2>Stress</h2>"]
    return [*sections, f'<ul class="small">{told}</ul>'] if told else sections


def _text(value: object, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _note(text: str) -> str:
    return f'<p class="soft small">{text}</p>'


def _marked(protocol: str) -> str:
    dot = f'<span class="dot" style="background:{COLOURS[protocol]}"></span>'
    return f'<span class="protocol">{dot}{html.escape(protocol)}</span>'


def _stress(result: TransferResult, task: Task) -> list[str]:
    stress = result.stress
    rows = _protocols(result, stress.stress, task)
    if not rows:
        return []
    again = (
        "the calibration is perturbed alike, and each row made again of it at each level"
        if stress.settings.calibration
        else "the calibration stays as it was, and no model is trained anew"
    )
    parts = [
        picture(stress_plot(result, task), f"{task.name} under stress, by row"),
        _note(
            f"{html.escape(task.titles[task.metrics[0]])}, mean over sessions. Spikes of the scored time are perturbed "
            f"and tokenized again; {again}. Pale bars: nothing is changed."
        ),
    ]
    for kind in stress.settings.kinds:
        facts = KINDS[kind]
        head = [(facts.title, False), *((f"{level:g} {facts.measure}", True) for level in facts.levels)]
        cells = [("", [_marked(p), *map(_text, _curve(result, task, p, kind))]) for p in rows]
        parts += [f"<h3>{html.escape(facts.title)}</h3>", _note(html.escape(facts.meaning)), html_table(head, cells)]
    return parts


def _cheats(result: TransferResult, task: Task) -> list[str]:
    rows = _protocols(result, result.stress.controls, task)
    if not rows:
        return []
    head = [("session", False), ("protocol", False), ("score", True), (NO_SPIKES, True)]
    for control in (LABELS_SHIFTED, LABELS_SHUFFLED):
        head += [(control, True), ("95 %", True), ("p", True)]
    head += [(control, True) for control in WITHOUT_SPIKES]
    cells = []
    for session in result.session_ids:
        for protocol in rows:
            own = _of(result.stress.controls, session=session, protocol=protocol, task=task.name)
            cell = result.cell(session, protocol, task.name)
            if not own:
                continue
            by = {row["control"]: row for row in own}
            line = [html.escape(session), _marked(protocol), _text(cell.score[task.metrics[0]])]
            line.append(_text(by[NO_SPIKES]["score"]))
            for control in (LABELS_SHIFTED, LABELS_SHUFFLED):
                row = by.get(control, {})
                line += [_text(row.get("score")), _text(row.get("high")), _text(row.get("p"), 4)]
            cells.append(("", [*line, *(_text(by.get(control, {}).get("score")) for control in WITHOUT_SPIKES)]))
    meaning = "; ".join(f"<b>{html.escape(name)}</b>: {html.escape(what)}" for name, what in CONTROL_MEANING.items())
    return [
        picture(controls_plot(result, task), f"{task.name}: scores beside controls"),
        _note(
            f"{meaning}. Of shifted and shuffled labels the mean, the 95th percentile, and the share that scores as "
            "well as the row (p). All on the row's own samples. A row that reads spikes lies above them all."
        ),
        html_table(head, cells),
    ]


def _held(result: TransferResult, task: Task) -> list[str]:
    figure = coverage_plot(result, task)
    if figure is None:
        return []
    every = _of(result.stress.intervals, task=task.name)
    head = [("protocol", False), ("component", False)]
    for level in TOLD:
        head += [(f"in {level:.0%}", True), ("half-width", True)]
    cells = []
    for protocol in _protocols(result, every, task):
        for component in task.head().words:
            own = _of(every, protocol=protocol, component=component)
            line = [_marked(protocol), html.escape(component)]
            for level in TOLD:
                at = _of(own, level=level)
                line += [_text(_mean([r["coverage"] for r in at])), _text(_mean([r["half_width"] for r in at]))]
            if own:
                cells.append(("", line))
    return [
        picture(figure, f"{task.name}: coverage of intervals by level"),
        _note(
            "Split conformal intervals, means over sessions: half-widths (in the behaviour's measure) from calibration "
            "time whose labels the row did not learn from, in blocks of half a second; the share of scored samples "
            "that they hold. Blocks are exchangeable only roughly: a behaviour that drifts breaks the promise."
        ),
        html_table(head, cells),
    ]
