"""Frames of a stimulus on bins, as Neuroformer reads what an animal sees (Antoniades et al., ICLR 2024).

A token is the picture that is shown at one bin: grey, of one size whatever the source's, in bytes. A window has the
tokens of its own bins, and before them those of the bins that ``history_ms`` reaches back.

Unusual here:
- It holds no spike: ``Baked.lost["not_in_frames"]`` counts those inside the segments, once for each segment.
- A shard holds each picture once, and for each bin which one is shown: an hour of a repeated movie is as long as one
  showing of it. So the frames lie in the shards of this scheme alone, and in no session's context.
- Its windows read the stimulus before their segment as well: what was shown is known where nothing was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session, SessionInfo, Stimulus
from spiketok.tokens.bounds import require_columns, require_shape, require_within
from spiketok.tokens.schemes.base import (
    Baked,
    Columns,
    ColumnSpec,
    Scheme,
    Tokens,
    Windows,
    check_cut,
    freeze,
    grid_rows,
    require_bins,
    segment_columns,
    segment_plan,
    spikes_outside,
)
from spiketok.tokens.schemes.bins import bin_starts

MAX_RATE_HZ, MAX_SIDE = 1000.0, 1024
POOLED_BYTES = 1 << 24  # pixels that are turned into float64 at a time
UINT8, INT32, INT64 = np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64)


@dataclass(frozen=True)
class Frames(Scheme):
    """The frame of a stimulus that is shown in each bin of ``1 / rate_hz``, mean-pooled to ``height`` x ``width``.

    Columns: ``pixels`` uint8 ``[F, height, width]``, each frame once; ``frame`` int32 ``[T]``, which of them is shown
    at the middle of each bin, -1: none; ``units`` int64 ``[1]``, how many units the session has. Segments follow one
    after the other, each with the bins of ``history_ms`` before it; ``segment.row`` is the first of each.

    A cut gives, bin by bin, ``pixels`` uint8 ``[height, width]`` (0 where nothing is shown) and ``shown`` uint8.

    Frames of float32 become bytes first: the whole stimulus' lowest value is 0, its highest 255. A pixel is the mean
    over its share of the source's pixels, by area, rounded; halves go up.

    Args:
        stimulus: its name in the session; empty: the only one.
        rate_hz: bins a second; a bin is the nearest whole number of ns. history_ms: whole bins before the window.

    >>> from spiketok.tokens.schemes import Frames
    >>> Frames(history_ms=150.0).lookback_ns
    150000000
    """

    stimulus: str = ""
    rate_hz: float = 20.0
    height: int = 32
    width: int = 32
    history_ms: float = 0.0

    name: ClassVar[str] = "frames"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("Neuroformer",)
    token: ClassVar[str] = "the frame of a stimulus in one bin"
    keeps: ClassVar[str] = "what is shown in each bin, in 256 greys"
    loses: ClassVar[str] = "spikes (counted); detail below a pixel, changes within a bin"

    def __post_init__(self) -> None:
        if type(self.stimulus) is not str:
            message = f"frames: stimulus is {self.stimulus!r}, must be the name of a stimulus, or empty"
            raise UsageError(message)
        for field in ("rate_hz", "history_ms"):
            value = getattr(self, field)
            if type(value) not in (int, float) or not math.isfinite(value):
                message = f"frames: {field} is {value!r}, must be a number"
                raise UsageError(message)
            object.__setattr__(self, field, float(value))  # 20 and 20.0 are one scheme
        if not 0 < self.rate_hz <= MAX_RATE_HZ:
            message = f"frames: rate_hz is {self.rate_hz}, must be above 0, at most {MAX_RATE_HZ:g}"
            raise UsageError(message)
        for field in ("height", "width"):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= MAX_SIDE:
                message = f"frames: {field} is {value!r}, must be a whole number from 1 to {MAX_SIDE}"
                raise UsageError(message)
        off_ns = abs(self.history_ms * NS_PER_MS - self.lookback_ns)
        if self.history_ms < 0 or off_ns > max(1, self.history_bins):  # bins are rounded to ns
            bin_ms = self.grid_ns / NS_PER_MS
            message = f"frames: history_ms is {self.history_ms}, must be a multiple of the bin of {bin_ms:g} ms"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return round(NS_PER_S / self.rate_hz)

    @property
    def history_bins(self) -> int:
        return round(self.history_ms * NS_PER_MS / self.grid_ns)

    @property
    def lookback_ns(self) -> int:
        return self.history_bins * self.grid_ns

    @property
    def reads_units(self) -> bool:
        return False

    @property
    def not_live(self) -> str:
        return "its tokens are of the stimulus, and a live stream carries spikes and behaviours"

    def _padded(self, segments: Intervals) -> tuple[Intervals, np.ndarray]:
        """The segments with the time of their history, and int64 ``[G + 1]``: each one's first bin."""
        padded = Intervals(segments.start_ns - self.lookback_ns, segments.stop_ns)
        return padded, grid_rows(padded.start_ns, padded.stop_ns, self.grid_ns)

    def name_in(self, session_id: str, names: Mapping[str, object]) -> str:
        """The stimulus that is read; NotServedError where the session has none of that name, or not just one."""
        there = ", ".join(sorted(names)) or "none"
        if self.stimulus and self.stimulus not in names:
            message = f"{session_id} has no stimulus '{self.stimulus}': it has {there}"
            raise NotServedError(message)
        if not self.stimulus and len(names) != 1:
            remedy = ": name one, --set frames.stimulus=NAME" if names else ""
            message = f"{session_id} has {len(names)} stimuli ({there}), scheme frames reads one{remedy}"
            raise NotServedError(message)
        return self.stimulus or next(iter(names))

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        n_frames = info.stimuli[self.name_in(info.id, info.stimuli)][0]
        return {
            "pixels": ColumnSpec(UINT8, (self.height, self.width), n_frames),
            "frame": ColumnSpec(INT32, (), int(self._padded(segments)[1][-1])),
            "units": ColumnSpec(INT64, (), 1),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        stimulus = session.stimuli[self.name_in(session.id, session.stimuli)]
        padded, row = self._padded(segments)
        columns = {
            "pixels": pooled(stimulus.frames, self.height, self.width),
            "frame": shown_at(stimulus, bin_starts(padded, row, self.grid_ns) + self.grid_ns // 2),
            "units": np.array([len(session.units)], np.int64),
            **segment_columns(segments, row),
        }
        time_ns = session.spikes.time_ns
        inside = np.searchsorted(time_ns, segments.stop_ns) - np.searchsorted(time_ns, segments.start_ns)
        lost = {"outside_segments": spikes_outside(session.spikes, segments), "not_in_frames": int(inside.sum())}
        return Baked(freeze(columns), lost)

    def check(self, columns: Columns) -> None:
        require_columns(columns, {"pixels": (UINT8, 3), "frame": (INT32, 1), "units": (INT64, 1)})
        n_frames = len(columns["pixels"])
        require_shape(columns, (n_frames, self.height, self.width), ["pixels"])
        require_shape(columns, (1,), ["units"])
        require_within(columns, "units", 0, 1 << 31)
        require_within(columns, "frame", -1, n_frames)
        require_bins(columns, self.grid_ns, len(columns["frame"]), self.lookback_ns)

    def spikes_held(self, columns: Columns) -> int:
        return 0

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, int(columns["units"][0]))
        return np.full(len(windows), self.history_bins + windows.length_ns // self.grid_ns, np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return {"pixels": (UINT8, (self.height, self.width)), "shown": (UINT8, ())}

    def fill(
        self,
        columns: Columns,
        windows: Windows,
        row: np.ndarray,
        out: Mapping[str, np.ndarray],
        keep: np.ndarray | None = None,
        unit_row: np.ndarray | None = None,
        length: np.ndarray | None = None,
    ) -> None:
        n_bins = self.history_bins + windows.length_ns // self.grid_ns
        since = windows.start_ns - columns["segment.start_ns"][windows.segment]
        first = columns["segment.row"][windows.segment] + since // self.grid_ns
        for low, at in zip(first.tolist(), row.tolist(), strict=True):
            frame = columns["frame"][low : low + n_bins]
            shown = frame >= 0
            out["shown"][at : at + n_bins] = shown
            pixels = out["pixels"][at : at + n_bins]
            pixels[~shown] = 0
            pixels[shown] = columns["pixels"][frame[shown]]

    def empty(self, tokens: Tokens) -> np.ndarray:
        """Those of bins in which nothing is shown."""
        return tokens.columns["shown"] == 0

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Stimulus]:
        """What was shown in each window and its history: one presentation a bin, of the pooled frame."""
        known = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            shown = np.flatnonzero(tokens.columns["shown"][rows])
            time_ns = windows.start_ns[b] - self.lookback_ns + shown * self.grid_ns
            pixels = tokens.columns["pixels"][rows][shown]
            known.append(Stimulus(pixels, time_ns, time_ns + self.grid_ns, np.arange(len(shown), dtype=np.int32)))
        return known


def shown_at(stimulus: Stimulus, moment_ns: np.ndarray) -> np.ndarray:
    """int32 ``[T]``: the frame that is shown at each moment, -1 where none is."""
    frame = np.full(len(moment_ns), -1, np.int32)
    at = np.searchsorted(stimulus.time_ns, moment_ns, side="right") - 1  # of equal onsets the last: the others last 0
    inside = np.flatnonzero(at >= 0)
    inside = inside[moment_ns[inside] < stimulus.stop_ns[at[inside]]]
    frame[inside] = stimulus.frame[at[inside]]
    return frame


def pooled(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 ``[F, height, width]``: the mean of each pixel's share, by area, rounded, halves up.

    Sums of whole numbers below 2^53 are exact in float64, in any order: every machine gives the same bytes.
    """
    n_frames, source_height, source_width = frames.shape
    out = np.empty((n_frames, height, width), np.uint8)
    low, high = (float(frames.min()), float(frames.max())) if n_frames else (0.0, 0.0)
    rows, columns = _shares(source_height, height), _shares(source_width, width)
    area = source_height * source_width
    step = max(1, POOLED_BYTES // (8 * area))
    for first in range(0, n_frames, step):
        own = frames[first : first + step].astype(np.float64)
        if frames.dtype != np.uint8:
            own = np.rint((own - low) / (high - low) * 255) if high > low else np.zeros_like(own)
        total = (rows @ own @ columns.T).astype(np.int64)
        out[first : first + step] = (2 * total + area) // (2 * area)
    return out


def _shares(source: int, n: int) -> np.ndarray:
    """float64 ``[n, source]``: how much of each source pixel lies in each of ``n`` equal parts, in n-ths of a pixel."""
    part, pixel = np.arange(n)[:, None] * source, np.arange(source)[None, :] * n
    return np.clip(np.minimum(part + source, pixel + n) - np.maximum(part, pixel), 0, None).astype(np.float64)
