"""The report of a transfer evaluation: rows for a table, ``report.json``, and one self-contained ``report.html``.

The HTML file holds its pictures (PNG, in base64) and its style; it opens from anywhere, without a network, and has no
date, so the same evaluation gives the same file. Every number stands with the name of its definition, every empty cell
with the reason why it is empty.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok import __version__
from spiketok.errors import require
from spiketok.evaluation.floor import FLOOR
from spiketok.evaluation.results import TransferResult, to_dict
from spiketok.evaluation.transfer import WITHIN
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import NS_PER_S
from spiketok.storage.files import atomic_file, content_digest, sha256_file, write_json
from spiketok.training.loop import R2
from spiketok.training.sampling import dropped_words
from spiketok.training.sessions import stand_in_line
from spiketok.training.tasks.decoding import Prediction

# Okabe and Ito's colours, which stay apart for colour-blind eyes; the floor and the truth are greys.
COLOURS = {
    "zero_shot": "#E69F00",
    "zero_gradient": "#CC79A7",
    "identity_only": "#0072B2",
    "full": "#009E73",
    WITHIN: "#D55E00",
    FLOOR: "#8A8F98",
}
TRUE_COLOUR = "#22262B"
MEANING = {
    WITHIN: "the model as it is, on the test time of a session that it was trained on",
    FLOOR: "the floor: ridge regression on lagged spike counts, fitted on the calibration alone; scored at its bins",
    "zero_shot": "nothing learned: the session's new rows stand at their initial values",
    "zero_gradient": "a forward pass over unlabelled calibration, no training",
    "identity_only": "labelled calibration trains only the parameters that belong to the session",
    "full": "labelled calibration trains all parameters, the session's own first",
}
FORMAT, VERSION = "spiketok-report", 1
TRACE_S, TRACE_WINDOWS = 10.0, 8  # a trace shows this much, whichever is longer
LOWEST_R2 = -0.6  # bars are cut off here; the number stands beside them
R2_NAMES = {"r2_variance_weighted": "R² variance-weighted", "r2_mean": "R² mean over components"}


@dataclass(frozen=True)
class Report:
    """What the command line shows of a report.

    Args:
        title: one line. columns, rows: the table; ``None`` is an empty cell.
        remarks: one line each: why cells are empty, and what the calibration was.
        summary: the whole of ``report.json``.
    """

    title: str
    columns: list[str]
    rows: list[dict[str, object]]
    remarks: list[str]
    summary: dict[str, object]


# ---- rows -----------------------------------------------------------------------------------------------------------

COLUMNS = ["protocol", "session", *R2, "sd", "n"]
OVER_SESSIONS = "mean over sessions"


def table_rows(result: TransferResult) -> list[dict[str, object]]:
    """One row a protocol and session, and one for each protocol's mean and spread over sessions.

    Keys: ``protocol``, ``session``, the two R2 (None where there is none), ``sd`` of the first of them (in rows over
    sessions), and ``n``, the sessions that have a score.
    """
    rows = []
    for protocol in result.protocols:
        for cell in result.of(protocol):
            score = cell.score or dict.fromkeys(R2)
            row = {"protocol": protocol, "session": cell.session, "sd": None, "n": int(cell.score is not None)}
            rows.append(row | {name: score[name] for name in R2})
        over = result.summary[protocol]
        row = {"protocol": protocol, "session": OVER_SESSIONS, "sd": over[R2[0]]["sd"], "n": over[R2[0]]["n"]}
        rows.append(row | {name: over[name]["mean"] for name in R2})
    return rows


def remarks(result: TransferResult) -> list[str]:
    """Why cells are empty, each reason once with its sessions, and what the calibration was."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in result.cells:
        if cell.score is None:
            reasons.setdefault((cell.protocol, cell.reason), []).append(cell.session)
    lines = [f"{protocol} is empty for {', '.join(ids)}: {why}" for (protocol, why), ids in reasons.items()]
    if not result.run.finished:
        lines.append(f"the run is not finished: {result.run.step} of {result.run.total_steps} steps")
    for facts in result.sessions:
        parts = {part: dropped_words(reasons) for part, reasons in facts.dropped.items()}
        words = "; ".join(f"{words} of {part}" for part, words in parts.items() if words)
        if words:
            lines.append(f"{facts.session.id}: no window uses {words} (windows reach {facts.reach})")
    stand_in = stand_in_line([f.session.id for f in result.sessions if f.valid_is_test], result.run.target.name)
    lines += [stand_in] if stand_in else []
    seen = "labelled" if result.labelled else "unlabelled"
    lines.append(
        f"calibration: the first {result.calibration_s:g} s of each session's training time, {seen}; "
        "sd: over sessions, of r2_variance_weighted"
    )
    return lines


def title_of(result: TransferResult) -> str:
    config, n = result.run.config, len(result.sessions)
    return f"{config.model} ({config.size}): {result.run.target.name} in {n} session{'s' if n != 1 else ''}"


def write_report(result: TransferResult, folder: Path) -> Report:
    """Write ``report.json`` and ``report.html`` into ``folder``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plots", "drawing the report")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    body = {"format": FORMAT, "version": VERSION} | to_dict(result)
    page = _page(result, body)
    with atomic_file(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    body["page_sha256"] = sha256_file(folder / "report.html")
    body = json.loads(json.dumps(body))  # as it will be read: the digest is of that
    body["digest"] = content_digest(body)
    write_json(folder / "report.json", body)
    return Report(title_of(result), COLUMNS, table_rows(result), remarks(result), body)


# ---- pictures -------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _plain_axes(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#9AA0A8")
    axes.spines["bottom"].set_color("#9AA0A8")
    axes.tick_params(colors="#555B63", labelsize=8)


def bar_plot(result: TransferResult):
    """A figure: mean R2 of each protocol as a bar, sessions as points, 95 % bootstrap interval as a line."""
    protocols = result.protocols
    figure = _figure(9.2, 3.6)
    panels = figure.subplots(1, len(R2_NAMES), sharey=True)
    for axes, (name, title) in zip(panels, R2_NAMES.items(), strict=True):
        for k, protocol in enumerate(protocols):
            _bar(axes, k, result, protocol, name)
        axes.axhline(0, color="#9AA0A8", linewidth=0.8, zorder=1)
        axes.set_xticks(range(len(protocols)), protocols)
        axes.set_title(title, fontsize=10, loc="left", color="#22262B")
        axes.set_xlim(-0.6, len(protocols) - 0.4)
        axes.grid(axis="y", color="#E6E8EB", linewidth=0.7)
        axes.set_axisbelow(True)
        _plain_axes(axes)
    shown = [s[n]["mean"] for s in result.summary.values() for n in R2_NAMES if s[n]["mean"] is not None]
    points = [c.score[n] for c in result.cells if c.score for n in R2_NAMES if c.score[n] is not None]
    panels[0].set_ylim(max(LOWEST_R2, min([0.0, *shown, *points]) - 0.12), 1.08)
    panels[0].set_ylabel("R² on test time", fontsize=9, color="#22262B")
    return figure


def _bar(axes, k: int, result: TransferResult, protocol: str, name: str) -> None:
    over, colour = result.summary[protocol][name], COLOURS[protocol]
    if over["mean"] is None:
        axes.text(k, 0.03, "no score", ha="center", va="bottom", rotation=90, fontsize=8, color="#8A8F98")
        return
    axes.bar(k, max(over["mean"], LOWEST_R2), width=0.62, color=colour, alpha=0.82, zorder=2)
    values = [c.score[name] for c in result.of(protocol) if c.score and c.score[name] is not None]
    spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else np.zeros(len(values))
    inside = np.maximum(values, LOWEST_R2 + 0.03)
    axes.scatter(k + spread, inside, s=20, color="white", edgecolor=TRUE_COLOUR, linewidth=0.9, zorder=4)
    if over["ci95"] is not None:
        axes.plot([k + 0.24, k + 0.24], over["ci95"], color=TRUE_COLOUR, linewidth=1.4, zorder=3)
    top = max(over["mean"], *values, 0.0)
    label = f"{over['mean']:.2f}"
    axes.text(k, top + 0.03, label, ha="center", va="bottom", fontsize=9, color=TRUE_COLOUR, fontweight="bold")


def trace_s(result: TransferResult) -> float:
    """How many seconds the traces show: more where long windows say that the behaviour is slow."""
    return max(TRACE_S, TRACE_WINDOWS * result.run.config.data.window_ms / 1e3)


def trace_plot(result: TransferResult, session: str):
    """A figure: predicted against true behaviour in some seconds of the session's test time.

    One row a protocol that has a prediction, one column a component.
    """
    shown = [(p, c.prediction) for p in result.protocols if (c := result.cell(session, p)) and c.prediction]
    if not shown:
        return None
    components, measure = shown[0][1].components, shown[0][1].measure
    start_ns = min(int(p.time_ns[0]) for _, p in shown if len(p.time_ns))
    stop_ns = start_ns + round(trace_s(result) * NS_PER_S)
    figure = _figure(9.2, 0.5 + 1.35 * len(shown))
    grid = figure.subplots(len(shown), len(components), sharex=True, sharey="col", squeeze=False)
    for row, (protocol, prediction) in enumerate(shown):
        cell = result.cell(session, protocol)
        for column, component in enumerate(components):
            axes = grid[row][column]
            _trace(axes, prediction, column, start_ns, stop_ns, COLOURS[protocol])
            r2 = cell.score["r2_per_component"][component]
            text = f"{protocol}   R² {r2:.2f}" if r2 is not None else f"{protocol}   no R²"
            axes.set_title(text, fontsize=8.5, loc="left", color=COLOURS[protocol], fontweight="bold", pad=3)
            _plain_axes(axes)
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
    axes.plot(second, true, color=TRUE_COLOUR, linewidth=1.0, alpha=0.75)
    axes.plot(second, predicted, color=colour, linewidth=1.3)
    axes.set_xlim(start_ns / NS_PER_S, stop_ns / NS_PER_S)


# ---- the page -------------------------------------------------------------------------------------------------------

_STYLE = """
:root { --ink:#22262b; --soft:#5b626b; --line:#e3e6ea; --band:#f6f7f9; --accent:#0072b2; }
* { box-sizing:border-box; }
body { margin:0; color:var(--ink); background:#fff; }
body { font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
main { max-width:1160px; margin:0 auto; padding:36px 24px 64px; }
h1 { font-size:26px; line-height:1.25; margin:0 0 6px; }
h2 { font-size:18px; margin:40px 0 10px; padding-bottom:6px; border-bottom:1px solid var(--line); }
h3 { font-size:15px; margin:24px 0 6px; }
p { margin:8px 0; } .soft { color:var(--soft); } .small { font-size:13px; }
.facts { display:flex; flex-wrap:wrap; gap:10px; margin:20px 0 8px; }
.fact { background:var(--band); border:1px solid var(--line); border-radius:8px; padding:9px 14px; }
.fact b { display:block; font-size:18px; font-weight:650; } .fact span { color:var(--soft); font-size:12.5px; }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:13.5px; margin:8px 0; }
th { text-align:left; font-weight:600; color:var(--soft); border-bottom:1.5px solid var(--line); padding:6px 10px; }
td { border-bottom:1px solid var(--line); padding:6px 10px; vertical-align:top; }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; }
td.n, .protocol { white-space:nowrap; }
tr.mean td { background:var(--band); font-weight:600; }
.dot { display:inline-block; width:10px; height:10px; border-radius:3px; margin-right:7px; }
.empty { color:var(--soft); font-style:italic; }
code, .hash { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; font-size:12px; }
img { max-width:100%; height:auto; display:block; margin:6px 0; }
details { margin:10px 0; } summary { cursor:pointer; color:var(--accent); }
pre { background:var(--band); border:1px solid var(--line); border-radius:8px; padding:12px; }
pre { overflow:auto; font-size:12px; }
"""


def _escape(value: object) -> str:
    return html.escape(str(value))


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[tuple[str, bool]], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """``head``: (text, is a number); ``rows``: (class of the row, cells as HTML)."""
    kind = ["n" if number else "" for _, number in head]
    top = "".join(f'<th class="{k}">{_escape(text)}</th>' for k, (text, _) in zip(kind, head, strict=True))
    body = "".join(
        f'<tr class="{cls}">'
        + "".join(f'<td class="{k}">{cell}</td>' for k, cell in zip(kind, cells, strict=True))
        + "</tr>"
        for cls, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _image(figure, text: str) -> str:
    data = base64.b64encode(_png(figure)).decode()
    return f'<img alt="{_escape(text)}" src="data:image/png;base64,{data}">'


def _protocol(name: str) -> str:
    dot = f'<span class="dot" style="background:{COLOURS[name]}"></span>'
    return f'<span class="protocol">{dot}{_escape(name)}</span>'


def _short(digest: str) -> str:
    return f'<span class="hash" title="{_escape(digest)}">{_escape(digest[:12])}</span>' if digest else ""


def _page(result: TransferResult, body: dict[str, object]) -> str:
    title = title_of(result)
    sections = [
        _head(result, title),
        "<h2>Scores</h2>",
        _image(bar_plot(result), "R2 of each protocol, sessions as points"),
        '<p class="soft small">Bars: mean over sessions. Points: sessions. Lines: 95 % bootstrap interval of the mean '
        "over sessions (from three sessions).</p>",
        _summary_table(result),
        "<h2>Each session</h2>",
        _session_table(result),
        _traces(result),
        "<h2>What was used</h2>",
        _used(result),
        "<h2>Provenance</h2>",
        _provenance(result, body),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def _head(result: TransferResult, title: str) -> str:
    run = result.run
    parameters = run.model.n_fitted()
    facts = [
        (str(len(run.trained_on)), "sessions trained on"),
        (str(sum(not f.trained_on for f in result.sessions)), "unseen sessions scored"),
        (f"{result.calibration_s:g} s", f"calibration, {'labelled' if result.labelled else 'unlabelled'}"),
        (f"{parameters:,}", "parameters"),
        (f"{run.step:,} of {run.total_steps:,}", "training steps"),
    ]
    boxes = "".join(f'<div class="fact"><b>{_escape(a)}</b><span>{_escape(b)}</span></div>' for a, b in facts)
    components = ", ".join(run.target.components)
    measure = f" in {run.target.measure}" if run.target.measure else ""
    return (
        f"<h1>{_escape(title)}</h1>"
        f'<p class="soft">Decoding <b>{_escape(run.target.name)}</b> ({_escape(components)}{_escape(measure)}) from '
        f"spikes of sessions that the model never saw. Scores are on test time that is disjoint from calibration.</p>"
        f'<div class="facts">{boxes}</div>'
    )


def _summary_table(result: TransferResult) -> str:
    head = [("protocol", False), ("what it sees", False), ("n", True)]
    for title in R2_NAMES.values():
        head += [(title, True), ("SD", True), ("95 % CI", True)]
    rows = []
    for protocol in result.protocols:
        over = result.summary[protocol]
        cells = [_protocol(protocol), _escape(MEANING[protocol]), str(over["r2_variance_weighted"]["n"])]
        for name in R2_NAMES:
            ci = over[name]["ci95"]
            cells += [
                f"<b>{_number(over[name]['mean'])}</b>",
                _number(over[name]["sd"]),
                f"{ci[0]:.3f} … {ci[1]:.3f}" if ci else "",
            ]
        rows.append(("", cells))
    return _table(head, rows)


def _session_table(result: TransferResult) -> str:
    head = [("session", False), ("protocol", False), *((t, True) for t in R2_NAMES.values())]
    head += [("each component", False), ("trained numbers", True), ("test samples", True)]
    rows = []
    for facts in result.sessions:
        for protocol in result.protocols:
            cell = result.cell(facts.session.id, protocol)
            if cell is None:
                continue
            name = [_escape(cell.session), _protocol(protocol)]
            if cell.score is None:
                rows.append(("", [*name, "", "", f'<span class="empty">{_escape(cell.reason)}</span>', "", ""]))
                continue
            each = ", ".join(f"{c} {_number(v, 2)}" for c, v in cell.score["r2_per_component"].items())
            scores = [_number(cell.score[key]) for key in R2_NAMES]
            rows.append(
                ("", [*name, *scores, _escape(each), f"{cell.trained_parameters:,}", f"{cell.score['n_samples']:,}"])
            )
    return _table(head, rows)


def _traces(result: TransferResult) -> str:
    parts = ["<h2>Predicted against true</h2>"]
    told = f"The first {trace_s(result):g} s of each session's test time. Dark: true. Colour: predicted."
    parts.append(f'<p class="soft small">{told}</p>')
    for facts in result.sessions:
        figure = trace_plot(result, facts.session.id)
        if figure is not None:
            parts.append(f"<h3>{_escape(facts.session.id)}</h3>")
            parts.append(_image(figure, f"predicted and true {result.run.target.name} in {facts.session.id}"))
    return "".join(parts)


def _used(result: TransferResult) -> str:
    trained = _table(
        [("trained on", False), ("subject", False), ("units", True), ("spikes", True), ("shard", False)],
        [
            ("", [_escape(s.id), _escape(s.subject), f"{s.n_units:,}", f"{s.n_spikes:,}", _short(s.shard_digest)])
            for s in result.run.trained_on
        ],
    )
    scored = _table(
        [
            ("scored", False),
            ("subject", False),
            ("units", True),
            ("calibration", True),
            ("from", True),
            ("test", True),
            ("from", True),
        ],
        [
            (
                "",
                [
                    _escape(f.session.id) + (" (trained on)" if f.trained_on else ""),
                    _escape(f.session.subject),
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
    labels = "labelled: adaptation sees the behaviour in it" if result.labelled else "unlabelled"
    return (
        trained
        + scored
        + f'<p class="soft small">Calibration is the first {result.calibration_s:g} s of usable training time of a '
        f"session, {labels}. No test window lies nearer to it than one window of {window:g} ms. Predictions of "
        "overlapping windows are averaged at identical times. Each session adapts alone, from the same checkpoint.</p>"
    )


def _provenance(result: TransferResult, body: dict[str, object]) -> str:
    rows = [("", ["checkpoint", _short(result.run.digest), "", ""])]
    for kind, sessions in (
        ("trained on", result.run.trained_on),
        ("scored", [f.session for f in result.sessions]),
    ):
        for s in sessions:
            rows.append(("", [f"{kind}: {_escape(s.id)}", *map(_short, (s.shard_digest, s.store_digest))]))
            rows[-1][1].append(_short(s.source_sha256))
    chain = _table([("artefact", False), ("digest", False), ("store", False), ("source", False)], rows)
    settings = {key: body[key] for key in ("config", "adapt", "seed")}
    told = _escape(json.dumps(settings, indent=2, sort_keys=True))
    return (
        chain
        + f"<details><summary>All settings</summary><pre>{told}</pre></details>"
        + f'<p class="soft small">Written by spiketok {_escape(__version__)}. R² variance-weighted: components count '
        "by their variance (as FALCON). R² mean: plain mean over components (as NLB and POYO).</p>"
    )
