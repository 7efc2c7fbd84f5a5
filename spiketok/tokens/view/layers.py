"""Tokens of a few windows as a page draws them: cells in time and rows, or points; one function a scheme.

A window's tokens are those of the scheme's own cut. What a scheme keeps beside counts (behaviour tokens, padding,
masks) is counted in the words above the picture and not drawn here; ``inspect SHARD --plot`` draws it.

Shape letters: K windows, T bins, R rows, P points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spiketok.recording.nouns import NS_PER_MS, NS_PER_S
from spiketok.tokens.schemes.base import Tokens, Windows

MOST_CELLS = 2_000_000
MOST_WINDOWS = 300
MOST_TIME = 256  # bins of a window; calibration trials have more points than a screen


@dataclass(frozen=True, eq=False)
class Layer:
    """Tokens of one shard.

    Args:
        words: what the tokens are, for people. start_s, stop_s: of each window, ``[K]``.
        cells: uint8 ``[K, T, R]``, darker where more; or None. most: what 255 stands for, in ``measure``.
        token: how many bins and rows one token has (0: none is drawn).
        time_s, row, kind: of points ``[P]``; kinds: the word of each kind.
    """

    words: str
    start_s: np.ndarray
    stop_s: np.ndarray
    cells: np.ndarray | None = None
    most: float = 1.0
    measure: str = ""
    token: tuple[int, int] = (0, 0)
    time_s: np.ndarray | None = None
    row: np.ndarray | None = None
    kind: np.ndarray | None = None
    kinds: tuple[str, ...] = ()


def layer_of(reader, start_ns: int, stop_ns: int) -> Layer | None:
    """The tokens of a shard in windows inside a stretch of time; None where no window of it lies there."""
    scheme = reader.scheme
    segments = reader.segments
    found_segment, found_start, length_ns = [], [], _window_ns(scheme)
    history_ns = scheme.history_ns if scheme.name == "event-pair" else 0  # of which each window brings its own
    for k, (low, high) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        if scheme.whole_session:
            found_segment, found_start, length_ns = [k], [low], high - low
            break
        first = low + max(0, -(-(start_ns - low) // scheme.grid_ns)) * scheme.grid_ns
        while first + length_ns <= min(high, stop_ns):
            found_segment.append(k)
            found_start.append(first)
            first += -(-(length_ns + history_ns) // scheme.grid_ns) * scheme.grid_ns
    if not found_start or length_ns <= 0:
        return None
    bins = length_ns // scheme.length_grid_ns if scheme.length_grid_ns >= NS_PER_MS else 1  # points have no cells
    most = min(MOST_WINDOWS, max(1, MOST_CELLS // max(1, bins * reader.info.n_units)))
    middle = (start_ns + stop_ns) // 2
    nearest = np.argsort(np.abs(np.array(found_start) + length_ns // 2 - middle), kind="stable")[:most]
    rows = np.sort(nearest)
    windows = Windows(np.array(found_segment)[rows], np.array(found_start)[rows], length_ns)
    return LAYERS[scheme.name](reader, scheme.cut(reader.columns, windows), windows)


def _window_ns(scheme) -> int:
    if scheme.window_ns is not None:
        return scheme.window_ns
    step = scheme.length_grid_ns
    return max(step, NS_PER_S // step * step)


def _spans(windows: Windows) -> dict[str, np.ndarray]:
    start = windows.start_ns / NS_PER_S
    return {"start_s": start, "stop_s": start + windows.length_ns / NS_PER_S}


def _shade(value: np.ndarray) -> tuple[np.ndarray, float]:
    """uint8 from 0 to 255, and what 255 stands for; what is below 0 or not a number is empty."""
    value = np.nan_to_num(np.asarray(value, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    most = float(value.max(initial=0.0)) or 1.0
    return np.ceil(np.clip(value / most, 0, 1) * 255).astype(np.uint8), most


def _cells(windows: Windows, value: np.ndarray, words: str, measure: str, token: tuple[int, int]) -> Layer:
    shade, most = _shade(value)
    return Layer(words, **_spans(windows), cells=shade, most=most, measure=measure, token=token)


def _grid(tokens: Tokens, windows: Windows, column: str) -> np.ndarray:
    value = tokens.columns[column]
    return value.reshape(len(windows), -1, *value.shape[1:])


def _binned(reader, tokens: Tokens, windows: Windows) -> Layer:
    value = _grid(tokens, windows, "counts")
    words = f"{value.shape[1]} tokens a window; a token is a bin of {reader.scheme.bin_ns / 1e6:g} ms with a count of "
    return _cells(windows, value, f"{words}each of {value.shape[2]} units", "spikes", (1, value.shape[2]))


def _quantized(reader, tokens: Tokens, windows: Windows) -> Layer:
    value = _grid(tokens, windows, "category")
    words = f"{value.shape[1]} tokens a window; a token is a bin with a category of each of {value.shape[2]} units"
    return _cells(windows, value, words, "category", (1, value.shape[2]))


def _fine_time(reader, tokens: Tokens, windows: Windows) -> Layer:
    value = _grid(tokens, windows, "count")
    words = (
        f"{value.shape[1]} tokens a window; a token is a bin with count, first, last and mean time and variation of "
    )
    return _cells(windows, value, f"{words}each unit", "spikes", (1, value.shape[2]))


def _fluorescence(reader, tokens: Tokens, windows: Windows) -> Layer:
    time, unit = tokens.columns["time"], tokens.columns["unit"]
    words = "a token is a value of dF/F of one unit"
    return _points(windows, tokens, time, unit, np.zeros(len(time), np.int64), ("value",), words)


def _patch(reader, tokens: Tokens, windows: Windows) -> Layer:
    scheme, columns = reader.scheme, tokens.columns
    spikes = columns["kind"] == 2 if scheme.order == "ndt3" else np.ones(len(columns["time"]), np.bool_)
    n_bins = windows.length_ns // scheme.bin_ns
    value = columns["patch"][spikes].reshape(len(windows), n_bins, -1)
    words = f"{len(spikes) // len(windows)} tokens a window; a token is a box of {scheme.patch_size} units in a bin of "
    words += f"{scheme.bin_ns / 1e6:g} ms"
    return _cells(windows, value, words, "spikes", (1, scheme.patch_size))


def _neuron(reader, tokens: Tokens, windows: Windows) -> Layer:
    scheme, n_units = reader.scheme, reader.info.n_units
    series, unit, time = (tokens.columns[name] for name in ("series", "unit", "time"))
    item, n_bins = series.shape[1], windows.length_ns // scheme.bin_ns
    value = np.zeros((len(windows), n_bins, n_units), np.int64)
    row = np.repeat(np.arange(len(windows)), np.diff(tokens.offset))
    for token in range(len(unit)):
        if scheme.view == "history":  # of each token its own bin, the last that it holds
            value[row[token], int(time[token]), unit[token]] = series[token, -1]
            continue
        first = int(time[token]) * item
        value[row[token], first : first + item, unit[token]] = series[token]
    wide = {"trial": n_bins, "patch": item, "history": 1}[scheme.view]
    words = f"a token is {item} counts of one unit ({scheme.view}), in bins of {scheme.bin_ns / 1e6:g} ms"
    return _cells(windows, value, words, "spikes", (wide, 1))


def _points(windows: Windows, tokens: Tokens, time_s, row, kind, kinds: tuple[str, ...], words: str) -> Layer:
    start = np.repeat(windows.start_ns / NS_PER_S, np.diff(tokens.offset))
    order = np.argsort(start + time_s, kind="stable")
    place = {"time_s": (start + time_s)[order], "row": np.asarray(row)[order], "kind": np.asarray(kind)[order]}
    return Layer(words, **_spans(windows), **place, kinds=kinds)


def _per_spike(reader, tokens: Tokens, windows: Windows) -> Layer:
    scheme, columns = reader.scheme, tokens.columns
    time, kind = columns["time"].astype(np.float64), columns["type"]
    if scheme.chunk_ns:
        time = time + columns["chunk"] * (scheme.chunk_ns / NS_PER_S)
    words = "a token is a spike of one unit, or a mark (START, END, blank)"
    return _points(windows, tokens, time, columns["unit"], kind, ("spike", "START", "END", "blank"), words)


def _event_pair(reader, tokens: Tokens, windows: Windows) -> Layer:
    scheme, columns = reader.scheme, tokens.columns
    step_s, spike = scheme.step_ns / NS_PER_S, columns["type"] == 0
    time = columns["dt"] * step_s + np.where(columns["stream"] == 0, -scheme.history_ns / NS_PER_S, 0.0)
    start = np.repeat(windows.start_ns / NS_PER_S, np.diff(tokens.offset))[spike]
    order = np.argsort(start + time[spike], kind="stable")
    words = f"a token is a pair (unit, step of {scheme.step_ns / 1e6:g} ms) of a spike, in history or in the window"
    return Layer(
        words,
        start_s=(windows.start_ns - scheme.history_ns) / NS_PER_S,
        stop_s=(windows.start_ns + windows.length_ns) / NS_PER_S,
        time_s=(start + time[spike])[order],
        row=columns["unit"][spike][order],
        kind=(columns["stream"][spike] != 0).astype(np.int64)[order],
        kinds=("history", "current"),
    )


def _calibration(reader, tokens: Tokens, windows: Windows) -> Layer | None:
    matrix = tokens.columns["matrix"]
    if not len(matrix):
        return None
    step = -(-matrix.shape[1] // MOST_TIME)
    pad = -matrix.shape[1] % step
    value = np.pad(matrix, ((0, 0), (0, pad), (0, 0))).reshape(len(matrix), -1, step, matrix.shape[2]).max(axis=2)
    shade, most = _shade(value)
    offset = int(windows.start_ns[0]) / NS_PER_S
    start, stop = (tokens.columns[name] / NS_PER_S + offset for name in ("start_ns", "stop_ns"))
    words = f"{len(matrix)} trials of calibration, {matrix.shape[1]} points of each unit, once a session"
    return Layer(words, start, stop, cells=shade, most=most, measure="spikes a bin", token=(0, 1))


def _frames(reader, tokens: Tokens, windows: Windows) -> Layer:
    shown = np.asarray(tokens.columns["shown"]).reshape(len(windows), -1, 1)
    return _cells(windows, shown, f"{shown.shape[1]} frames a window; dark: one is shown", "shown", (1, 1))


LAYERS: dict[str, Callable] = {
    "binned": _binned,
    "calibration": _calibration,
    "event-pair": _event_pair,
    "fine-time": _fine_time,
    "fluorescence": _fluorescence,
    "frames": _frames,
    "neuron": _neuron,
    "patch": _patch,
    "per-spike": _per_spike,
    "quantized": _quantized,
}
