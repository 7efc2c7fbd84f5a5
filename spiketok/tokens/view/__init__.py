"""One self-contained HTML page of a session: raster, behaviour, codes, trials, splits, tokens, predictions over truth.

Nothing is loaded from outside. The data stand in the page as packed arrays (``packing``): every spike to the ns where
the size cap allows it, else every spike of a stretch, and counts of the rest; the page says which. Style and script are
``page.css`` and ``page.js``, written by hand.

Shape letters: N units, S spikes, T samples, C components, K windows.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np

from spiketok import __version__
from spiketok.errors import UsageError
from spiketok.notes import note_once
from spiketok.recording.codes import is_code
from spiketok.recording.intervals import without
from spiketok.recording.nouns import NS_PER_S, Intervals, Ragged, Session, Signal
from spiketok.recording.signals import sampling_period_ns
from spiketok.recording.splits import set_splits, stored_sets
from spiketok.storage.clock import find_period, nearest_ticks
from spiketok.storage.files import atomic_file, human_bytes
from spiketok.tokens.pictures import not_drawn
from spiketok.tokens.session_plots import busiest_start, code_rows
from spiketok.tokens.view.layers import LAYERS, Layer, layer_of
from spiketok.tokens.view.packing import Blobs

OVERVIEW_BINS = 2048
OVERVIEW_CELLS = 2_000_000  # units x bins of the counts that stand for the whole session
ENVELOPE = 4096  # bins of a behaviour of which the page cannot hold every sample
SAMPLES = 200_000  # samples x components of a behaviour that is always whole
MOST_LABELS = 20_000  # rows of an interval table
MOST_COLUMNS = 12


@dataclass(frozen=True, eq=False)
class Trace:
    """Predictions over truth on one axis.

    Args:
        name, measure, score: for people. components: of ``said`` and ``true``, float32 ``[T, C]``; NaN where none is.
        time_ns: int64 ``[T]``, rising.
    """

    name: str
    score: str
    measure: str
    components: tuple[str, ...]
    time_ns: np.ndarray
    said: np.ndarray
    true: np.ndarray


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels that were said, above those that are true: one mark a moment."""

    name: str
    score: str
    time_ns: np.ndarray
    said: Sequence[str]
    true: Sequence[str]


@dataclass(frozen=True, eq=False)
class Extra:
    """What a page shows beside the session: tokens, bands by name, predictions, further facts."""

    shards: Sequence[object] = ()
    bands: Mapping[str, Mapping[str, Intervals]] = field(default_factory=dict)
    traces: Sequence[Trace | Labels] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A page: its bytes, and of which seconds it holds every spike."""

    path: Path
    nbytes: int
    detail_s: tuple[float, float]
    whole: bool


def write_page(
    session: Session,
    out: Path,
    extra: Extra | None = None,
    *,
    start_s: float | None = None,
    duration_s: float = 10.0,
    max_bytes: int = 20_000_000,
) -> Written:
    """Write the page of a session.

    Args:
        start_s, duration_s: what it shows first; by default a usual stretch. Where not all spikes fit, those around it.
        max_bytes: of the page.

    Raises:
        UsageError: the start lies outside of the session, or not even the counts fit.
    """
    extra = extra or Extra()
    view = _first_view(session, start_s, duration_s)
    share, stretch, least = 1.0, (session.start_ns, session.stop_ns), None
    for _ in range(12):
        text = _page(session, extra, view, stretch)
        if len(text) <= max_bytes:
            whole = stretch == (session.start_ns, session.stop_ns)
            with atomic_file(out) as wip:
                wip.write_bytes(text)
            return Written(out, len(text), (stretch[0] / NS_PER_S, stretch[1] / NS_PER_S), whole)
        least = len(text) if least is None else min(least, len(text))
        if share == 0.0:
            break
        share = 0.0 if share < 1e-3 else share * min(0.9, 0.9 * max_bytes / len(text))
        stretch = _stretch(session, view, share)
    message = (
        f"{session.id}: its page takes {human_bytes(least)} without a single spike in detail, the cap is "
        f"{human_bytes(max_bytes)}: raise --max-mb"
    )
    raise UsageError(message)


def _first_view(session: Session, start_s: float | None, duration_s: float) -> tuple[int, int]:
    length = min(round(duration_s * NS_PER_S), session.stop_ns - session.start_ns)
    if start_s is None:
        start = busiest_start(session, max(1, length)) if len(session.spikes) else session.start_ns
    else:
        start = round(start_s * NS_PER_S)
        if not session.start_ns <= start < session.stop_ns:
            place = f"{session.start_ns / NS_PER_S:g} .. {session.stop_ns / NS_PER_S:g} s"
            message = f"--start-s {start_s:g} lies outside of {session.id}, which is {place}"
            raise UsageError(message)
    start = max(session.start_ns, min(start, session.stop_ns - length))
    return start, start + length


def _stretch(session: Session, view: tuple[int, int], share: float) -> tuple[int, int]:
    """A share of the session around what is shown first."""
    length = int((session.stop_ns - session.start_ns) * share)
    middle = (view[0] + view[1]) // 2
    start = max(session.start_ns, min(middle - length // 2, session.stop_ns - length))
    return start, start + length


def _page(session: Session, extra: Extra, view: tuple[int, int], stretch: tuple[int, int]) -> bytes:
    blobs = Blobs()
    facts = _facts(session, extra, view, stretch, blobs)
    here = files("spiketok.tokens.view")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # "<" is written as an escape, so that no name ends the element that holds it
    told = json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    data = "".join(
        f'<script type="application/octet-stream" id="b{k}">{t}</script>\n' for k, t in enumerate(blobs.texts)
    )
    title = html.escape(session.id)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - spiketok view</title><style>{style}</style></head>
<body><noscript>This page draws with JavaScript, which is switched off.</noscript><main id="page"></main>
<script type="application/json" id="facts">{told}</script>
{data}<script>{script}</script></body></html>
""".encode()


def _s(time_ns: np.ndarray | int) -> object:
    """Seconds for JSON, to the microsecond: what is drawn, not what is computed with."""
    return np.round(np.asarray(time_ns) / NS_PER_S, 6).tolist()


def _facts(session: Session, extra: Extra, view, stretch, blobs: Blobs) -> dict[str, object]:
    whole = stretch == (session.start_ns, session.stop_ns)
    spikes, period_ns = _spikes(session, stretch, blobs)
    observed_s = session.observed.total_ns / NS_PER_S
    about = {
        "subject": session.subject or "-",
        "units": f"{len(session.units):,}",
        "spikes": f"{len(session.spikes):,}",
        "time": f"{session.start_ns / NS_PER_S:g} .. {session.stop_ns / NS_PER_S:g} s, {observed_s:,.1f} s observed",
        "licence": session.source.license or "not stated",
        "source": session.source.file,
        **extra.facts,
    }
    low, high = stretch[0] / NS_PER_S, stretch[1] / NS_PER_S
    clock = "" if period_ns == 1 else f" (clock of {float(NS_PER_S / period_ns):,.10g} Hz)"
    detail = (
        f"Every spike of the session is in this page, to the ns{clock}."
        if whole
        else f"Every spike of {low:,.1f} .. {high:,.1f} s is in this page ({spikes['n']:,} of {len(session.spikes):,}; "
        "the green line below the strip); elsewhere counts are drawn. A larger page holds more: spiketok view --max-mb."
    )
    shown = [(name, s) for name, s in session.behaviours.items() if s.valid.any() and not is_code(s)]
    columns = {k: c for k, c in session.units.columns.items() if not isinstance(c, Ragged) and np.ndim(c) == 1}
    return {
        "title": session.id,
        "version": __version__,
        "about": about,
        "detail": detail,
        "start": session.start_ns / NS_PER_S,
        "stop": session.stop_ns / NS_PER_S,
        "view": [view[0] / NS_PER_S, view[1] / NS_PER_S],
        "stretch": [low, high],
        "units": {
            "id": session.units.id.tolist(),
            "columns": {k: _words(columns[k]) for k in list(columns)[:MOST_COLUMNS]},
        },
        "spikes": spikes,
        "overview": _overview(session, blobs),
        "unobserved": _unobserved(session),
        "bands": _bands(session, extra),
        "tables": [_table(name, t) for name, t in session.intervals.items() if len(t)],
        "codes": [
            {"name": name, "time": _s(marks.time_ns[:MOST_LABELS]), "label": marks.labels()[:MOST_LABELS]}
            for name, marks in code_rows(session)
            if len(marks.time_ns)
        ],
        "signals": [_signal(name, s, stretch, blobs) for name, s in shown],
        "tokens": [layer for one in extra.shards if (layer := _layer(one, view, blobs)) is not None],
        "predictions": [_prediction(one, blobs) for one in extra.traces],
    }


def _spikes(session: Session, stretch: tuple[int, int], blobs: Blobs) -> tuple[dict[str, object], object]:
    """Every spike of the stretch: ticks of the session's clock, and rows of units; whole, with its last ns."""
    time_ns = session.spikes.time_ns
    whole = stretch == (session.start_ns, session.stop_ns)
    rows = slice(None) if whole else slice(*np.searchsorted(time_ns, stretch))
    period_ns = find_period(time_ns, session.clock_hz)
    unit = session.spikes.unit[rows]
    facts = {
        "n": len(unit),
        "total": len(time_ns),
        "period_ns": [period_ns.numerator, period_ns.denominator],
        "tick": blobs.rising(nearest_ticks(time_ns[rows], period_ns)),
        "unit": blobs.whole(unit, "u1" if len(session.units) <= 256 else "u2"),
    }
    return facts, period_ns


def _overview(session: Session, blobs: Blobs) -> dict[str, object]:
    """Counts of all units on bins of the whole session, uint8, those above 255 as 255."""
    n_units = max(1, len(session.units))
    n_bins = max(64, min(OVERVIEW_BINS, OVERVIEW_CELLS // n_units))
    span = max(1, session.stop_ns - session.start_ns)
    step = -(-span // n_bins)
    bin_of = np.clip((session.spikes.time_ns - session.start_ns) // step, 0, n_bins - 1)
    count = np.bincount(session.spikes.unit * n_bins + bin_of, minlength=n_units * n_bins).reshape(n_units, n_bins)
    packed = blobs.whole(np.minimum(count, 255), "u1")
    return {"step": step / NS_PER_S, "bins": n_bins, "count": packed, "total": count.sum(axis=0).tolist()}


def _unobserved(session: Session) -> list[list[float]]:
    gaps = without(Intervals([session.start_ns], [session.stop_ns]), session.observed)
    return [[_s(a), _s(b)] for a, b in zip(gaps.start_ns, gaps.stop_ns, strict=True)]


def _bands(session: Session, extra: Extra) -> list[dict[str, object]]:
    """Rows of named stretches: observed time, each stored division, and what ``extra`` brings."""
    named: dict[str, Mapping[str, Intervals]] = {"observed": {"observed": session.observed}}
    named |= {f"splits: {name}": set_splits(session.splits, name) for name in stored_sets(session.splits)}
    named |= extra.bands
    return [
        {
            "name": name,
            "rows": [
                [_s(a), _s(b), word]
                for word, part in parts.items()
                for a, b in zip(part.start_ns[:MOST_LABELS], part.stop_ns[:MOST_LABELS], strict=True)
            ],
        }
        for name, parts in named.items()
    ]


def _words(column: object) -> list[str]:
    values = np.asarray(column)
    if values.dtype.kind == "f":
        return ["" if np.isnan(v) else f"{v:.6g}" for v in values]
    return [str(v) for v in values.tolist()]


def _table(name: str, table: Intervals) -> dict[str, object]:
    rows = np.argsort(table.start_ns, kind="stable")[:MOST_LABELS]
    plain = {k: np.asarray(c) for k, c in table.columns.items() if not isinstance(c, Ragged) and np.ndim(c) == 1}
    return {
        "name": name,
        "n": len(table),
        "start": _s(table.start_ns[rows]),
        "stop": _s(table.stop_ns[rows]),
        "columns": {k: _words(plain[k][rows]) for k in list(plain)[:MOST_COLUMNS]},
    }


def _signal(name: str, signal: Signal, stretch: tuple[int, int], blobs: Blobs) -> dict[str, object]:
    """A behaviour: every sample where there are few, or the stretch has all; else lowest and highest on bins too."""
    value = np.where(signal.valid[:, None], signal.value, np.float32(np.nan))
    held = slice(*np.searchsorted(signal.time_ns, [stretch[0], stretch[1] + 1]))
    facts: dict[str, object] = {"name": name, "measure": signal.measure, "components": list(signal.components)}
    facts["gap"] = 1.5 * sampling_period_ns(signal) / NS_PER_S or 1e9
    facts["range"] = [float(np.nanmin(value)), float(np.nanmax(value))]
    whole = value.size <= SAMPLES or held == slice(0, len(value))
    if not whole:
        edges = np.linspace(0, len(value), min(ENVELOPE, len(value)) + 1).astype(np.int64)[:-1]
        low = np.minimum.reduceat(np.where(np.isnan(value), np.inf, value), edges, axis=0)
        high = np.maximum.reduceat(np.where(np.isnan(value), -np.inf, value), edges, axis=0)
        seen = np.isfinite(low)
        facts["envelope"] = {
            "time": blobs.rising(signal.time_ns[edges]),
            "low": blobs.floats(np.where(seen, low, np.nan)),
            "high": blobs.floats(np.where(seen, high, np.nan)),
        }
    rows = slice(None) if whole else held
    return facts | {"time": blobs.rising(signal.time_ns[rows]), "value": blobs.floats(value[rows]), "whole": whole}


def _layer(reader, view: tuple[int, int], blobs: Blobs) -> dict[str, object] | None:
    """Tokens of a shard around what is shown first, for a minute at most; a note where nothing draws its scheme."""
    if reader.scheme.name not in LAYERS:
        note_once(f"{not_drawn(reader.scheme.name, LAYERS)}; the page has none of its tokens")
        return None
    middle = (view[0] + view[1]) // 2
    layer: Layer | None = layer_of(reader, min(view[0], middle - 30 * NS_PER_S), max(view[1], middle + 30 * NS_PER_S))
    if layer is None:
        return None
    facts: dict[str, object] = {
        "scheme": reader.scheme.name,
        "words": layer.words,
        "start": np.round(layer.start_s, 6).tolist(),
        "stop": np.round(layer.stop_s, 6).tolist(),
    }
    if layer.cells is not None:
        shape = list(layer.cells.shape)
        return facts | {
            "cells": blobs.whole(layer.cells, "u1"),
            "shape": shape,
            "most": layer.most,
            "measure": layer.measure,
            "token": list(layer.token),
        }
    rows = max(reader.info.n_units, int(layer.row.max(initial=0)) + 1)
    return facts | {
        "time": blobs.rising(np.rint(layer.time_s * 1e6).astype(np.int64)),  # in us
        "row": blobs.whole(np.maximum(layer.row, 0), "u2"),
        "mark": blobs.whole(layer.kind, "u1"),
        "kinds": list(layer.kinds),
        "rows": rows,
    }


def _prediction(one: Trace | Labels, blobs: Blobs) -> dict[str, object]:
    facts: dict[str, object] = {"name": one.name, "score": one.score}
    if isinstance(one, Labels):
        return facts | {"at": _s(one.time_ns), "said": list(one.said), "true": list(one.true)}
    return facts | {
        "measure": one.measure,
        "components": list(one.components),
        "time": blobs.rising(one.time_ns),
        "said": blobs.floats(one.said),
        "truth": blobs.floats(one.true),
        "gap": 2.5 * float(np.median(np.diff(one.time_ns))) / NS_PER_S if len(one.time_ns) > 2 else 1e9,
    }
