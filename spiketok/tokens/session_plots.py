"""Pictures of sessions and tokens that a person understands at a glance (matplotlib, drawn off screen)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiketok.errors import DataError, UsageError, require
from spiketok.recording.codes import Marks, code_columns, is_code, marks_of
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.storage.files import atomic_file
from spiketok.tokens.pictures import COLORS, FAINT, INK, PICTURES, not_drawn

UNOBSERVED = "#f4d9d0"
MOST_CODES = 6  # so many rows of codes below a raster


def _figure(n_rows: int, heights: list[float]):
    matplotlib = require("matplotlib", "plots", "drawing")
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a name with "$" is no formula
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        n_rows,
        1,
        sharex=True,
        figsize=(11, 1.2 + sum(heights)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axis in axes[:, 0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
    return figure, list(axes[:, 0])


def _save(figure, out: Path) -> None:
    from matplotlib import pyplot

    with atomic_file(out) as wip:
        figure.savefig(wip, dpi=110, format=out.suffix[1:].lower())
    pyplot.close(figure)


def busiest_start(session: Session, length_ns: int) -> int:
    """Start of the stretch of this length with the median number of spikes among those that hold any."""
    first = session.spikes.time_ns[0]
    count = np.bincount((session.spikes.time_ns - first) // length_ns)
    rows = np.flatnonzero(count)
    return int(first + rows[np.argsort(count[rows], kind="stable")[rows.size // 2]] * length_ns)


def _shade_unobserved(axis, observed: Intervals, start_ns: int, stop_ns: int, zero_ns: int = 0) -> bool:
    """Shade what was not observed between two times, on an axis in seconds after ``zero_ns``; whether there was any."""
    inside = observed.intersect(Intervals(np.array([start_ns]), np.array([stop_ns])))
    edges = np.concatenate([[start_ns], np.column_stack([inside.start_ns, inside.stop_ns]).reshape(-1), [stop_ns]])
    gaps = [(low - zero_ns, high - zero_ns) for low, high in edges.reshape(-1, 2) if high > low]
    for low, high in gaps:
        axis.axvspan(low / NS_PER_S, high / NS_PER_S, color=UNOBSERVED, lw=0)
    return bool(gaps)


def code_rows(session: Session) -> list[tuple[str, Marks]]:
    """What a session holds of codes, by name: signals where they change, code columns at trials' starts."""
    rows = [(name, marks_of(signal)) for name, signal in session.behaviours.items() if is_code(signal)]
    if session.trials is not None:
        order = np.argsort(session.trials.start_ns, kind="stable")
        for name, words in code_columns(session.trials).items():
            rows.append((f"trial {name}", Marks(session.trials.start_ns[order], words[order])))
    return rows


def _draw_codes(axis, rows: list[tuple[str, Marks]], start_ns: int, stop_ns: int) -> None:
    """One row a code: a tick at each moment with its label, where there is room for one."""
    span = stop_ns - start_ns
    for k, (_, marks) in enumerate(rows):
        inside = slice(*np.searchsorted(marks.time_ns, [start_ns, stop_ns]))
        shown = Marks(marks.time_ns[inside], marks.value[inside])
        axis.vlines(shown.time_ns / NS_PER_S, k - 0.42, k + 0.42, color=COLORS[k % len(COLORS)], lw=1.2)
        free = start_ns
        for time_ns, label in zip(shown.time_ns.tolist(), shown.labels(), strict=True):
            short = label if len(label) <= 14 else f"{label[:13]}…"
            width = span * 0.0085 * (len(short) + 1)
            if time_ns >= free and time_ns + width <= stop_ns:
                axis.text(time_ns / NS_PER_S, k, f" {short}", fontsize=7, va="center", color=INK)
                free = time_ns + width
    axis.set_yticks(range(len(rows)), [name if len(name) <= 22 else f"{name[:21]}…" for name, _ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def plot_session(session: Session, out: Path, start_s: float | None = None, duration_s: float = 10.0) -> None:
    """A raster of all units over a stretch of time, behaviours below, codes as ticks, unobserved time shaded."""
    length_ns = round(duration_s * NS_PER_S)
    start_ns = busiest_start(session, length_ns) if start_s is None else round(start_s * NS_PER_S)
    stop_ns = start_ns + length_ns
    window = session.spikes.window(start_ns, stop_ns)
    codes = code_rows(session)[:MOST_CODES]
    signals = [(name, signal) for name, signal in session.behaviours.items() if not is_code(signal)][:3]
    heights = [3.6] + [1.3] * len(signals) + ([0.25 + 0.22 * len(codes)] if codes else [])
    figure, axes = _figure(len(heights), heights)
    axis = axes[0]
    gaps = _shade_unobserved(axis, session.observed, start_ns, stop_ns)
    axis.scatter(window.time_ns / NS_PER_S, window.unit, s=22, marker="|", color=INK, linewidths=0.7)
    if session.trials is not None:
        for start in session.trials.start_ns[
            (session.trials.start_ns >= start_ns) & (session.trials.start_ns < stop_ns)
        ]:
            axis.axvline(start / NS_PER_S, color=COLORS[0], lw=0.8)
    axis.set_ylim(-1, len(session.units))
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(f"unit (of {len(session.units)})")
    title = [f"{session.id}: {len(window):,} of {len(session.spikes):,} spikes"]
    title += ["blue: trial starts"] if session.trials is not None else []
    title += ["shaded: not observed"] if gaps else []
    axis.set_title("; ".join(title), fontsize=9, loc="left", color=INK)
    for axis, (name, signal) in zip(axes[1 : 1 + len(signals)], signals, strict=True):
        rows = slice(*np.searchsorted(signal.time_ns, [start_ns, stop_ns]))
        for k, component in enumerate(signal.components[:6]):
            value = np.where(signal.valid[rows], signal.value[rows, k], np.nan)
            axis.plot(signal.time_ns[rows] / NS_PER_S, value, lw=1.1, color=COLORS[k], label=component)
        axis.set_ylabel(f"{name}\n({signal.measure or 'no measure'})", fontsize=8)
        axis.legend(fontsize=7, frameon=False, loc="upper right", ncols=min(6, len(signal.components)))
    if codes:
        _draw_codes(axes[-1], codes, start_ns, stop_ns)
    axes[-1].set_xlabel("time in the session (s)")
    axes[-1].set_xlim(start_ns / NS_PER_S, stop_ns / NS_PER_S)
    _save(figure, out)


def plot_shard(reader, out: Path, start_s: float | None = None) -> None:
    """A second of a shard's tokens (or the one window that its scheme has) as the model meets them.

    Raises:
        UsageError: the scheme is of another package, and nothing here draws it. DataError: no window lies there.
    """
    from spiketok.tokens.schemes.base import Windows

    if reader.scheme.name not in PICTURES:
        raise UsageError(not_drawn(reader.scheme.name, PICTURES))
    grid_ns = reader.scheme.grid_ns
    segment = _segment_with_spikes(reader)
    seg_start, seg_stop = int(reader.segments.start_ns[segment]), int(reader.segments.stop_ns[segment])
    length_ns = _picture_ns(reader.scheme, seg_stop - seg_start)
    wanted = seg_start + (seg_stop - seg_start - length_ns) // 2 if start_s is None else round(start_s * NS_PER_S)
    start_ns = seg_start + (wanted - seg_start) // grid_ns * grid_ns
    if length_ns <= 0 or not seg_start <= start_ns <= seg_stop - length_ns:
        place = f"{seg_start / NS_PER_S:g}..{seg_stop / NS_PER_S:g} s"
        shown = "its middle" if start_s is None else f"{start_s:g} s"
        message = f"a window of the shard at {shown} is not inside its segment ({place})"
        raise DataError(message)
    window = Windows(np.array([segment]), np.array([start_ns]), length_ns)
    tokens = reader.scheme.cut(reader.columns, window)
    figure, (axis,) = _figure(1, [4.6])
    axis.set_xlabel(f"time in the window (s), which starts at {start_ns / NS_PER_S:.3f} s of {reader.info.id}")
    axis.set_ylabel(f"unit (of {reader.info.n_units})")
    axis.yaxis.get_major_locator().set_params(integer=True)
    drawn = PICTURES[reader.scheme.name](axis, reader, tokens, length_ns)
    if axis.get_xlabel().startswith("time in the window") and _shade_unobserved(
        axis, reader.observed, start_ns, start_ns + length_ns, start_ns
    ):
        axis.annotate("shaded: not observed", (0, -0.1), xycoords="axes fraction", fontsize=8, color=FAINT)
    axis.set_title(drawn, fontsize=9, loc="left", color=INK)
    _save(figure, out)


def _picture_ns(scheme, segment_ns: int) -> int:
    """A window's length for a picture: the scheme's only one, or about a second; 0 where the segment holds none."""
    if scheme.window_ns is not None:
        return scheme.window_ns if scheme.window_ns <= segment_ns else 0
    if scheme.whole_session:
        return segment_ns
    step_ns = scheme.length_grid_ns
    return max(step_ns, NS_PER_S // step_ns * step_ns) if segment_ns >= NS_PER_S else segment_ns // step_ns * step_ns


def _segment_with_spikes(reader) -> int:
    """The segment with the median number of rows in its columns."""
    rows = np.diff(reader.columns["segment.row"])
    return int(np.argsort(rows, kind="stable")[rows.size // 2])
