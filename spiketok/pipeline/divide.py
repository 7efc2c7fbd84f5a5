"""What a division of a session is, for people: its timeline, its counts, what leaks; and storing one that a rule made.

A stored division is in the session's splits under the name of its set, and its rule in the store's settings under
``splits``, so that ``verify`` and a new ingest make it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, SpiketokError, require
from spiketok.recording.intervals import without
from spiketok.recording.leakage import FAR_NS, Reach, check_leakage, outside_ns, territories
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session
from spiketok.recording.segments import parse_trial_rule, resolve_segments
from spiketok.recording.splits import (
    SplitRule,
    assign_days,
    check_disjoint,
    divide_session,
    has_spikes,
    recorded_rule,
    recording_day,
    refuse_silence,
    set_splits,
    stored_sets,
    with_stored_sets,
    without_sets,
)
from spiketok.storage.files import atomic_file
from spiketok.storage.locks import session_lock
from spiketok.storage.store import read_attributes, read_session, write_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.pictures import COLORS, FAINT

LEFT_OUT = "(left out)"
LABEL = 14  # columns of a split's name
SHADES = (("█", "▓", "▒", "░"), ("#", "#", "+", "."))  # of a cell that is in a split wholly ... hardly; in ASCII


@dataclass(frozen=True, eq=False)
class Division:
    """One division of one session, counted.

    Args:
        session_id: which. name: the set, or the rule in words.
        start_ns, stop_ns: the session's extent.
        splits: by name, disjoint. observed: the session's.
        rows: for each split ``split``, ``seconds``, ``stretches``, ``trials`` (wholly inside) and ``spikes``.
        left_out: seconds that are in no split, by reason.
        trials_cut: trials that are neither wholly in a split nor wholly outside of all.
    """

    session_id: str
    name: str
    start_ns: int
    stop_ns: int
    splits: dict[str, Intervals]
    observed: Intervals
    rows: list[dict[str, object]]
    left_out: dict[str, float]
    trials_cut: int

    def to_dict(self) -> dict[str, object]:
        """As JSON: the rows with the stretches of each split, and what is left out."""
        stretches = [self.splits[str(row["split"])] for row in self.rows]
        return {
            "session": self.session_id,
            "division": self.name,
            "splits": [
                row | {"start_ns": part.start_ns.tolist()} | {"stop_ns": part.stop_ns.tolist()}
                for row, part in zip(self.rows, stretches, strict=True)
            ],
            "left_out_s": self.left_out,
            "trials_cut": self.trials_cut,
        }

    def left_out_words(self) -> str:
        """What is in no split, in words; empty where nothing is."""
        why = [f"{seconds:.3f} s {reason}" for reason, seconds in self.left_out.items()]
        why += [f"{self.trials_cut} trials cut by a border"] if self.trials_cut else []
        return ", ".join(why)


@dataclass(frozen=True)
class Examined:
    """One session under examination: its divisions, or why it has none.

    Args:
        reach: how far its windows reach, where leaks were asked for.
        windows: rows of :func:`trial_window_rows`, where windows are cut around trials.
        error: one line that begins with the session; empty where all is well.
        unfit: whether it is the session that cannot be divided so; else its files cannot be read.
    """

    session_id: str
    divisions: tuple[Division, ...] = ()
    reach: Reach | None = None
    windows: tuple[dict, ...] = ()
    error: str = ""
    unfit: bool = True


def sessions_named(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """The sessions of a dataset where a name is one, else those that match it; all without a name."""
    known = workspace.session_ids()
    of_dataset = {name: [s for s in known if s.split("/")[0] == name] for name in names}
    wanted = set()
    for name in names:
        wanted |= set(of_dataset[name] or workspace.select(name))
    return [s for s in known if s in wanted] if names else workspace.select()


def examine(
    workspace: Workspace,
    session_ids: Sequence[str],
    rule: SplitRule | None = None,
    days: Mapping[str, str] | None = None,
    *,
    reach_of: Callable[[Session], Reach] | None = None,
    segments: str | None = None,
) -> Iterator[Examined]:
    """How each session is divided, one after the other; one session's trouble does not stop the others.

    Args:
        rule, days: of :func:`divisions_of`; the split of each session where the rule divides days.
        reach_of: how far windows of a session reach beyond their ends; needed with ``segments``.
        segments: the rule of windows that are cut around trials.
    """
    for session_id in session_ids:
        try:
            session = read_session(workspace.store_path(session_id))
            reach = None if reach_of is None else reach_of(session)
            divisions = divisions_of(session, rule, (days or {}).get(session_id))
            windows = [row for d in divisions for row in _trial_windows(session, d, segments, reach)]
        except SpiketokError as error:
            text = str(error)
            said = text if text.startswith(session_id) else f"{session_id}: {text}"
            yield Examined(session_id, error=said, unfit=not isinstance(error, ArtefactError))
        else:
            yield Examined(session_id, tuple(divisions), reach, tuple(windows))


def _trial_windows(session: Session, division: Division, segments: str | None, reach: Reach | None) -> list[dict]:
    """Rows for windows around the trials; each belongs to the split that holds the time to which it is aligned."""
    if segments is None:
        return []
    _, pre_ns, _ = parse_trial_rule(segments)
    cut = resolve_segments(session, segments)
    return trial_window_rows(division, cut, cut.start_ns + pre_ns, reach)


def divisions_of(session: Session, rule: SplitRule | None = None, assigned: str | None = None) -> list[Division]:
    """A session's stored divisions, or the one that a rule makes; without either, the one that training would take."""
    if rule is not None and not (rule.kind == "stored" and rule.set is not None):
        return [describe(session, _words(rule), divide_session(session, rule, assigned))]
    sets = stored_sets(session.splits) if rule is None else [rule.set]
    if not sets:
        return [describe(session, "none stored; by default: blocks", divide_session(session, SplitRule()))]
    return [describe(session, f"set {name}", set_splits(session.splits, name)) for name in sets]


def _words(rule: SplitRule) -> str:
    return "rule " + " ".join(f"{key}={value}" for key, value in rule.to_dict().items())


def describe(session: Session, name: str, splits: Mapping[str, Intervals]) -> Division:
    """Count what is in each split and what is in none.

    Raises:
        DataError: splits overlap, or training or calibration time is silent.
    """
    check_disjoint(splits)
    if len(session.spikes):  # else its units were imaged
        remedy = f"{name} does not serve it, use another --rule"
        refuse_silence(session.id, splits, partial(has_spikes, session.spikes), remedy)
    trials = session.trials if session.trials is not None else Intervals.empty()
    every = _joined(list(splits.values()))
    rows = []
    for split, part in splits.items():
        first, last = np.searchsorted(session.spikes.time_ns, [part.start_ns, part.stop_ns])
        rows.append(
            {
                "split": split,
                "seconds": part.total_ns / NS_PER_S,
                "stretches": len(part),
                "trials": int(_wholly_in(trials, part).sum()),
                "spikes": int((last - first).sum()),
            }
        )
    inside = sum(int(row["trials"]) for row in rows)
    extent = Intervals([session.start_ns], [session.stop_ns])
    outside = without(session.observed, every)
    in_trials = outside.intersect(trials)
    left_out = {
        "not observed": (extent.total_ns - extent.intersect(_joined([session.observed, every])).total_ns) / NS_PER_S,
        "between trials" if len(trials) else "in no split": (outside.total_ns - in_trials.total_ns) / NS_PER_S,
        "inside trials": in_trials.total_ns / NS_PER_S,
    }
    return Division(
        session_id=session.id,
        name=name,
        start_ns=session.start_ns,
        stop_ns=session.stop_ns,
        splits=dict(splits),
        observed=session.observed,
        rows=rows,
        left_out={reason: seconds for reason, seconds in left_out.items() if seconds > 0},
        trials_cut=int(_touching(trials, every).sum()) - inside,
    )


def _joined(parts: Sequence[Intervals]) -> Intervals:
    start = np.concatenate([np.zeros(0, np.int64), *(p.start_ns for p in parts)])
    return Intervals(start, np.concatenate([np.zeros(0, np.int64), *(p.stop_ns for p in parts)])).union()


def _wholly_in(trials: Intervals, part: Intervals) -> np.ndarray:
    """bool ``[I]``: trials of some length that are inside one stretch."""
    whole = part.union()
    if len(whole) == 0:
        return np.zeros(len(trials), np.bool_)
    row = np.searchsorted(whole.start_ns, trials.start_ns, side="right") - 1
    return (row >= 0) & (trials.stop_ns <= whole.stop_ns[np.maximum(row, 0)]) & (trials.stop_ns > trials.start_ns)


def _touching(trials: Intervals, whole: Intervals) -> np.ndarray:
    """bool ``[I]``: trials that share time with sorted disjoint intervals."""
    if len(whole) == 0:
        return np.zeros(len(trials), np.bool_)
    row = np.searchsorted(whole.start_ns, trials.stop_ns) - 1  # the last that begins before the trial's stop
    return (row >= 0) & (whole.stop_ns[np.maximum(row, 0)] > trials.start_ns) & (trials.stop_ns > trials.start_ns)


# ---- the timeline ---------------------------------------------------------------------------------------------------


def timeline(division: Division, width: int = 100, *, ascii_only: bool = False) -> list[str]:
    """The division as lines of text: one of blocks for each split, one for what is left out, and one of seconds.

    A cell is darker the more of its time is in the split, and never empty where any of it is.

    Args:
        width: columns of a line. ascii_only: for a terminal that has no block characters.
    """
    cells = max(width - LABEL, 10)
    edges = np.linspace(division.start_ns, division.stop_ns, cells + 1)
    lines = [f"{division.session_id}: {division.name}"]
    parts = dict(division.splits)
    outside = without(Intervals([division.start_ns], [division.stop_ns]), _joined(list(parts.values())))
    if len(outside):
        parts[LEFT_OUT] = outside
    for name, part in parts.items():
        lines.append(f"{_short(name):<{LABEL}}{_bar(part, edges, SHADES[ascii_only])}".rstrip())
    first, last = f"{division.start_ns / NS_PER_S:.6g}", f"{division.stop_ns / NS_PER_S:.6g} s"
    return [*lines, f"{'':<{LABEL}}{first}{last:>{max(cells - len(first), len(last) + 1)}}"]


def _short(name: str) -> str:
    return name if len(name) < LABEL else f"{name[: LABEL - 2]}~"


def _bar(part: Intervals, edges: np.ndarray, shades: Sequence[str]) -> str:
    whole = part.union()
    before = np.concatenate([[0], np.cumsum(whole.stop_ns - whole.start_ns)])
    # time of the split that has passed at each edge
    row = np.searchsorted(whole.start_ns, edges, side="right")
    passed = before[row].astype(np.float64)
    if len(whole):
        passed -= np.where(row > 0, np.maximum(whole.stop_ns[np.maximum(row, 1) - 1] - edges, 0), 0)
    share = np.diff(passed) / np.maximum(np.diff(edges), 1)
    bar = [
        " " if s <= 0 else shades[0] if s > 0.75 else shades[1] if s > 0.5 else shades[2] if s > 0.25 else shades[3]
        for s in share
    ]
    for start in whole.start_ns:  # what is shorter than a ns of rounding still shows
        cell = min(max(int(np.searchsorted(edges, start, side="right")) - 1, 0), len(bar) - 1)
        bar[cell] = shades[3] if bar[cell] == " " else bar[cell]
    return "".join(bar)


COLOR_OF = {"train": COLORS[0], "valid": COLORS[4], "test": COLORS[1], "calibration": COLORS[2]}
OTHERS = (COLORS[3], COLORS[5], FAINT)
UNOBSERVED = "#f4d9d0"


def plot_divisions(divisions: Sequence[Division], out: Path) -> None:
    """Draw the divisions one above the other, a row for each split, time not observed shaded."""
    matplotlib = require("matplotlib", "plots", "drawing")
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a name with "$" is no formula
    from matplotlib import pyplot

    heights = [0.5 + 0.32 * len(d.splits) for d in divisions]
    figure, axes = pyplot.subplots(
        len(divisions),
        1,
        figsize=(11, 0.9 + 1.35 * sum(heights)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axis, division in zip(axes[:, 0], divisions, strict=True):
        extent = Intervals([division.start_ns], [division.stop_ns])
        for start, stop in _seconds(without(extent, division.observed)):
            axis.axvspan(start, stop, color=UNOBSERVED, lw=0)
        others = iter(OTHERS * len(division.splits))
        for row, (name, part) in enumerate(division.splits.items()):
            spans = [(start, stop - start) for start, stop in _seconds(part)]
            axis.broken_barh(spans, (row - 0.38, 0.76), color=COLOR_OF.get(name) or next(others), lw=0)
        axis.set_yticks(range(len(division.splits)), [_row_label(row) for row in division.rows], fontsize=8)
        axis.set_ylim(len(division.splits) - 0.4, -0.6)
        axis.set_xlim(division.start_ns / NS_PER_S, division.stop_ns / NS_PER_S)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=8)
        left = ", ".join(f"{seconds:.1f} s {reason}" for reason, seconds in division.left_out.items())
        title = f"{division.session_id}: {division.name}" + (f"; left out: {left}" if left else "")
        axis.set_title(title, fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("time in the session (s)")
    with atomic_file(out) as wip:
        figure.savefig(wip, dpi=110, format=out.suffix[1:].lower())
    pyplot.close(figure)


def _row_label(row: Mapping[str, object]) -> str:
    return f"{row['split']}\n{row['seconds']:.1f} s, {row['trials']} trials"


def _seconds(part: Intervals) -> list[tuple[float, float]]:
    return [(a / NS_PER_S, b / NS_PER_S) for a, b in zip(part.start_ns, part.stop_ns, strict=True)]


# ---- what leaks -----------------------------------------------------------------------------------------------------


def leak_rows(division: Division, reach: Reach) -> list[dict[str, object]]:
    """A row for each border between two splits: where it is, the gap, and by how many ms windows would leak over it."""
    return [
        {
            "session": division.session_id,
            "division": division.name,
            "border": f"{border.before} | {border.after}",
            "at_s": border.stop_ns / NS_PER_S,
            "gap_ms": border.gap_ns / NS_PER_MS,
            "leak_ms": min(border.leak_ns, division.stop_ns - division.start_ns) / NS_PER_MS,
        }
        for border in check_leakage(division.splits, reach)
    ]


def leak_words(division: Division, rows: Sequence[Mapping], reach: Reach) -> str:
    """What the rows of :func:`leak_rows` of one division come to, in a sentence."""
    leaking = [row for row in rows if row["leak_ms"]]
    if not rows:
        return "no border between two splits, nothing can leak"
    if not leaking:
        return f"nothing can leak over its {len(rows)} borders; windows reach {reach}"
    if reach.back_ns >= FAR_NS:
        return "the scheme's tokens depend on the whole session: what is in one split is seen in the others"
    most = max(row["leak_ms"] for row in leaking)
    margin_ms = (reach.back_ns + reach.ahead_ns) / 2e6  # on both sides: the gap then holds the reach of both
    return (
        f"windows reach {reach} and can leak over {len(leaking)} of {len(rows)} borders, by up to {most:g} ms: "
        f"the guard of training keeps them away (--rule margin_ms={margin_ms:g} would, too)"
    )


def trial_window_rows(division: Division, windows: Intervals, at_ns: np.ndarray, reach: Reach) -> list[dict]:
    """A row a split for windows that are cut around trials: how many touch what is another split's, and by how much.

    Args:
        windows: one a trial. at_ns: int64 ``[I]``, the time that says which split a window belongs to; those with a
            time in no split are left out.
    """
    rows = []
    for name, territory in territories(division.splits, reach).items():
        part = division.splits[name].union()
        row = np.searchsorted(part.start_ns, at_ns, side="right") - 1
        inside = (
            (row >= 0) & (at_ns < part.stop_ns[np.maximum(row, 0)]) if len(part) else np.zeros(len(at_ns), np.bool_)
        )
        over = outside_ns(windows.take(np.flatnonzero(inside)), territory, reach)
        rows.append(
            {
                "session": division.session_id,
                "division": division.name,
                "split": name,
                "windows": int(inside.sum()),
                "over_border": int((over > 0).sum()),
                "leak_ms": int(over.max(initial=0)) / NS_PER_MS,
            }
        )
    return rows


# ---- rules over sessions, and storing -------------------------------------------------------------------------------


def assigned_days(workspace: Workspace, session_ids: Sequence[str], rule: SplitRule) -> dict[str, str]:
    """The split of each session where the rule divides days; empty for every other rule.

    Raises:
        DataError: a session's source states no date.
    """
    if rule.kind != "day":
        return {}
    days = {}
    for session_id in session_ids:
        facts = workspace.facts(session_id)
        days[session_id] = facts["subject"], recording_day(session_id, facts["session_start"], facts["info"])
    return assign_days(days, rule)


def store_division(
    workspace: Workspace, session_id: str, name: str, rule: SplitRule, assigned: str | None = None
) -> str:
    """Write a division into the store under the name of a set: ``"new"``, ``"replaced"``, or ``"already"`` there.

    The session is written anew as a whole; its digest changes, and with it the shards that belong to it.

    Raises:
        UsageError: the source has a set of this name, or the rule makes no division. DataError: the rule does not fit.
    """
    target = workspace.store_path(session_id)
    with session_lock(target):
        settings = read_attributes(target)["settings"]
        before = settings.get("splits", {})
        recorded = before | {name: recorded_rule(rule, assigned)}
        if before == recorded:
            return "already"
        session = read_session(target)
        plain = replace(session, splits=without_sets(session.splits, before))
        write_session(with_stored_sets(plain, recorded), target, settings | {"splits": recorded})
    return "replaced" if name in before else "new"


def store_divisions(
    workspace: Workspace, session_ids: Sequence[str], name: str, rule: SplitRule, days: Mapping[str, str]
) -> list[dict[str, str]]:
    """:func:`store_division` of several sessions: a row each with what became of it."""
    return [
        {"session": s, "set": name, "state": store_division(workspace, s, name, rule, days.get(s))} for s in session_ids
    ]
