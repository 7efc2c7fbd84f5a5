"""The leaderboard as one self-contained HTML file, in the style of the transfer report, and as markdown.

Both say what is partial, name the row that each number is of, and give every empty cell its reason. Seconds and the
machine stand in the page alone: they are not the same in two runs of the same suite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from spiketok.errors import require
from spiketok.evaluation.bench.leaderboard import Leaderboard, Row, versions
from spiketok.evaluation.bench.pictures import LEAST, colour_of, curve_plot, ranking_plot
from spiketok.evaluation.bench.suite import NLB, TEST, TRANSFER, Track
from spiketok.evaluation.controls import CONSTANT, OWN_PAST, SESSION_TIME, TRIAL_TIME, WITHOUT_SPIKES
from spiketok.evaluation.page import html_table, picture, whole_page
from spiketok.evaluation.results import CALIBRATION_OF, FLOOR
from spiketok.evaluation.star.page import escaped
from spiketok.settings import plain
from spiketok.storage.files import atomic_file

WHAT = {
    TRANSFER: "Sessions that the models never saw; test time disjoint from calibration.",
    TEST: "The test split of the sessions that the models were trained on.",
    NLB: "Rates of the valid split's trials, by the Neural Latents Benchmark's definitions.",
}
HOW = (
    "The score of a seed is the mean over sessions; mean and SEM (n - 1) are over seeds. Ranks: step-down Welch tests "
    "over seeds, one-sided, at .05; models that the seeds do not tell apart share a place."
)


CHEATS_WORDS = (
    "Without spikes, on the same calibration and test time: the calibration's mean (constant); the better of two that "
    "read the time in the session or in the trial (clock); the behaviour itself one to two windows ago (own past)."
)


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def protocol_words(row: Row) -> str:
    """What a row is: the protocol, and what calibration showed it."""
    if row.protocol == TEST:
        return "test split of trained sessions"
    if row.protocol == NLB:
        return "valid trials"
    if row.protocol in WITHOUT_SPIKES:
        return f"no spikes: {row.protocol}"
    kind = CALIBRATION_OF[row.protocol]
    return row.protocol if kind == "none" else f"{row.protocol} ({kind})"


def ranking_rows(board: Leaderboard, track: Track) -> list[dict[str, str]]:
    """The ranking of a track, a row a model, as text: each metric, SEM, the floor and what is over it."""
    rows = []
    for place, row in board.ranked(track):
        head, floor = row.summary(track.metrics[0]), board.floor(row)
        level = None if floor is None else floor.summary(track.metrics[0])
        cells = {"rank": "" if place is None else str(place), "model": row.model}
        for k, metric in enumerate(track.metrics):
            own = row.summary(metric)
            cells[metric] = "" if own is None else number(own.mean)
            if k == 0:
                cells["SEM"] = "" if own is None else number(own.sem, 4)
        cells["row"] = protocol_words(row)
        cells["seeds"] = str(len(row.seeds(track.metrics[0])))
        if track.score == TRANSFER:
            cells["floor"] = "" if level is None else number(level.mean)
            cells["over the floor"] = "" if level is None or head is None else f"{head.mean - level.mean:+.3f}"
            clocks = [value for name in (SESSION_TIME, TRIAL_TIME) if (value := board.cheat(row, name)) is not None]
            cells["constant"] = number(board.cheat(row, CONSTANT))
            cells["clock"] = number(max(clocks, default=None))
            cells["own past"] = number(board.cheat(row, OWN_PAST))
        rows.append(cells)
    return rows


def all_rows(board: Leaderboard, track: Track) -> list[dict[str, str]]:
    """Every row of a track that has a score, with the length of its calibration, as text."""
    rows = []
    for row in board.of(track):
        if row.reason and row.summary(track.metrics[0]) is None:
            continue  # told in a line below
        own, floor = row.summary(track.metrics[0]), board.floor(row)
        level = None if floor is None else floor.summary(track.metrics[0])
        rows.append(
            {
                "model": row.model,
                "row": protocol_words(row),
                "calibration": f"{row.calibration_s:g} s" if row.calibration_s else "",
                track.metrics[0]: "" if own is None else number(own.mean),
                "SEM": "" if own is None else number(own.sem, 4),
                "floor": "" if level is None else number(level.mean),
            }
        )
    return [
        {k: v for k, v in row.items() if track.score == TRANSFER or k not in ("calibration", "floor")} for row in rows
    ]


def session_rows(board: Leaderboard, track: Track) -> list[dict[str, str]]:
    """The ranked rows by session: the mean over seeds."""
    ranked = [row for _, row in board.ranked(track)]
    floors = [floor for row in ranked if (floor := board.floor(row)) is not None]
    shown = [(row.model, protocol_words(row), row) for row in ranked]
    shown += [(row.model, f"its floor, {FLOOR}", row) for row in floors]
    sessions = sorted({s for *_, row in shown for s in row.sessions})
    return [
        {"model": model, "row": words, **{_name(s): number(row.session(track.metrics[0], s)) for s in sessions}}
        for model, words, row in shown
    ]


def _name(session: str) -> str:
    """The session's name as short as it stays clear."""
    return session.partition("/")[2].removesuffix("_behavior+ecephys")


def _numeric(column: str) -> bool:
    return column not in ("model", "row", "session", "calibration", "what", "why")


# ---- HTML -----------------------------------------------------------------------------------------------------------


def write_page(board: Leaderboard, out: Path) -> None:
    """One self-contained HTML file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "plots", "drawing the leaderboard")
    matplotlib.rcParams["text.parse_math"] = False
    suite = board.suite
    sections = [
        f"<h1>{escaped(suite.title)}</h1>",
        f'<p class="soft">{escaped(suite.about)}</p>',
        _partial(board),
        _facts(board),
    ]
    for track in board.part.tracks:
        sections += _track(board, track)
    sections += [
        "<h2>What can move a number</h2>",
        html_table(
            [("version", True), ("change", False)],
            [("", [str(change.version), escaped(change.text)]) for change in suite.changes],
        ),
        "<h2>What was used</h2>",
        _used(board),
    ]
    with atomic_file(out) as path:
        path.write_text(whole_page(f"{suite.label}: leaderboard", [s for s in sections if s]), encoding="utf-8")


def _partial(board: Leaderboard) -> str:
    if not board.partial:
        return ""
    said = "; ".join(board.partial)
    return f"<p><b>A partial result, not to be cited as {escaped(board.suite.label)}:</b> {escaped(said)}.</p>"


def _facts(board: Leaderboard) -> str:
    sessions = board.sessions.values()
    spent_s = board.seconds("train") + board.seconds("evaluate")
    facts = [
        (board.suite.label, f"suite {board.suite.digest[:8]}"),
        (str(len(board.part.entries)), "models"),
        (str(len(board.part.seeds)), "seeds"),
        (str(sum(len(s.trained) for s in sessions)), "sessions trained on"),
        (str(sum(len(s.unseen) for s in sessions)), "unseen sessions"),
        (_duration(spent_s), "of training and scoring"),
    ]
    boxes = "".join(f'<div class="fact"><b>{escaped(a)}</b><span>{escaped(b)}</span></div>' for a, b in facts)
    return f'<div class="facts">{boxes}</div>'


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _track(board: Leaderboard, track: Track) -> list[str]:
    title = f": {escaped(track.name)}" if len(board.part.tracks) > 1 else ""
    length = f" Ranked: {track.metrics[0]} with {track.headline_s:g} s of calibration." if track.headline_s else ""
    cheats = f" {CHEATS_WORDS}" if track.score == TRANSFER else ""
    said = escaped(f"{WHAT[track.score]}{length} {HOW}{cheats}")
    sections = [f"<h2>Ranking{title}</h2>", f'<p class="soft small">{said}</p>']
    sections.append(_table(board, ranking_rows(board, track)))
    if (figure := ranking_plot(board, track)) is not None:
        bar = " Grey bar: the floor, a linear decoder on the same calibration." if track.score == TRANSFER else ""
        sections += [
            picture(figure, f"ranking of {track.name}"),
            f'<p class="soft small">Dot: mean. Line: SEM over seeds. Black: seeds.{bar}</p>',
        ]
    if (figure := curve_plot(board, track)) is not None:
        sections += [
            f"<h2>By length of calibration{title}</h2>",
            picture(figure, f"scores of {track.name} by length of calibration"),
            '<p class="soft small">Full lines: the ranked row of a model. Dotted: its other rows. Bars: SEM over '
            "seeds. Grey: the floor beside each model, which is scored at the model's own windows. "
            f"A mean below {LEAST:g} is drawn at {LEAST:g}, without its bar.</p>",
        ]
    rows = all_rows(board, track)
    sections += [f"<h2>Each session{title}</h2>", _table(board, session_rows(board, track))]
    sections += [
        f"<h2>All rows{title}</h2>",
        f"<details open><summary>{len(rows)} rows</summary>{_table(board, rows)}</details>",
    ]
    reasons = [line for line in board.reasons() if line.startswith(f"{track.name}, ")]
    sections += [f'<p class="soft small">{escaped(line)}</p>' for line in reasons]
    return sections


def _table(board: Leaderboard, rows: Sequence[Mapping[str, str]]) -> str:
    head = [(column, _numeric(column)) for column in rows[0]]
    cells = []
    for row in rows:
        dot = f'<span class="dot" style="background:{colour_of(board, row["model"])}"></span>'
        name = f'<span class="protocol">{dot}{escaped(row["model"])}</span>'
        shown = {k: name if k == "model" else escaped(v) for k, v in row.items()}
        cells.append(("mean" if row.get("rank") == "1" else "", list(shown.values())))
    return html_table(head, cells)


def _used(board: Leaderboard) -> str:
    runs = []
    for job, found, cost in zip(board.jobs, board.scored, board.costs, strict=True):
        spent = [number(cost.get(kind, {}).get("cpu_s"), 1) for kind in ("train", "evaluate")]
        cells = [job.track.name, job.entry.name, job.seed, found.run["run"]]
        digest = f'<span class="hash">{found.run["checkpoint_digest"][:12]}</span>'
        numbers = [f"{found.run['steps']:,}" if found.run["steps"] else "", f"{found.run['parameters']:,}", *spent]
        runs.append(("", [*map(escaped, cells), digest, *numbers]))
    head = [(text, False) for text in ("track", "model", "seed", "run", "checkpoint")]
    head += [(text, True) for text in ("steps", "parameters", "training (CPU s)", "scoring (CPU s)")]
    role = {s: "trained on" for own in board.sessions.values() for s in own.trained}
    role |= {s: "unseen" for own in board.sessions.values() for s in own.unseen}
    sessions = html_table(
        [("session", False), ("use", False), ("store", False)],
        [("", [escaped(s), role[s], f'<span class="hash">{d[:12]}</span>']) for s, d in board.digests.items()],
    )
    machines = list(dict.fromkeys(json.dumps(cost["machine"], sort_keys=True) for cost in board.costs if cost))
    told = [", ".join(f"{k} {v}" for k, v in json.loads(text).items()) for text in machines]
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    settings = escaped(json.dumps(plain(asdict(board.suite)), indent=2, sort_keys=True))
    return (
        html_table(head, runs)
        + sessions
        + f'<p class="soft small">{escaped(made)}.</p>'
        + "".join(f'<p class="soft small">Machine: {escaped(text)}.</p>' for text in told)
        + '<p class="soft small">Seconds are of what was done and written, with whatever else ran on the machine; an '
        "empty cell is of a run that was there before.</p>"
        + f"<details><summary>The suite</summary><pre>{settings}</pre></details>"
    )


# ---- markdown -------------------------------------------------------------------------------------------------------


def markdown(board: Leaderboard) -> str:
    """The tables of the page without times: the same scores give the same text."""
    suite = board.suite
    lines = [f"# {suite.title}", "", suite.about, ""]
    if board.partial:
        lines += [f"**A partial result, not to be cited as {suite.label}:** {'; '.join(board.partial)}.", ""]
    seeds = ", ".join(map(str, board.part.seeds))
    lines += [f"Suite `{suite.name}`, version {suite.version} (`{suite.digest[:8]}`), seeds {seeds}. {HOW}", ""]
    for track in board.part.tracks:
        length = f", {track.headline_s:g} s of calibration" if track.headline_s else ""
        cheats = f" {CHEATS_WORDS}" if track.score == TRANSFER else ""
        lines += [f"## {track.name}: {track.metrics[0]}{length}", "", f"{WHAT[track.score]}{cheats}", ""]
        lines += _markdown_table(ranking_rows(board, track))
        lines += ["### Each session", "", *_markdown_table(session_rows(board, track))]
        lines += ["### All rows", "", *_markdown_table(all_rows(board, track))]
        reasons = [line for line in board.reasons() if line.startswith(f"{track.name}, ")]
        lines += [*(f"- {_cell(line)}" for line in reasons), ""] if reasons else []
    lines += ["## What can move a number", ""]
    lines += [f"- version {change.version}: {change.text}" for change in suite.changes]
    lines += ["", ", ".join(f"{name} {number}" for name, number in versions().items()) + "."]
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    columns = list(rows[0])
    rule = ["--:" if _numeric(column) else "---" for column in columns]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *cells)] + [""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
