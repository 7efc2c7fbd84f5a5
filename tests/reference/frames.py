"""frames: the picture that is shown at the middle of each bin, pooled by area, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
from hypothesis import strategies as st

from spiketok.recording.nouns import Session, Stimulus
from spiketok.tokens.schemes import Frames
from tests import strategies

VARIANTS = [
    Frames(height=2, width=3),
    Frames(rate_hz=30.0, height=1, width=2, history_ms=200 / 3),
    Frames("movie", rate_hz=200.0, height=3, width=1, history_ms=10.0),
]


@st.composite
def stimuli(draw) -> Stimulus:
    """Presentations with gaps, of no length, of nothing; frames as bytes or as numbers, perhaps all equal or none."""
    edges = sorted(draw(st.lists(strategies.times(), max_size=12)))
    edges = edges[: len(edges) // 2 * 2]
    time_ns, stop_ns = np.array(edges[::2], np.int64), np.array(edges[1::2], np.int64)
    n_frames, seed = draw(st.integers(0, 3)), draw(st.integers(0, 99))
    rng, shape = np.random.default_rng(seed), (n_frames, draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    frames = rng.integers(0, 256, shape).astype(np.uint8)
    if draw(st.booleans()):
        frames = (rng.normal(size=shape) * draw(st.sampled_from([0, 1, 1e4]))).astype(np.float32)
    return Stimulus(frames, time_ns, stop_ns, rng.integers(-1, n_frames, len(time_ns)).astype(np.int32))


@st.composite
def sessions(draw) -> Session:
    return replace(draw(strategies.sessions()), stimuli={"movie": draw(stimuli())})


def dressed(session: Session) -> Session:
    """With a movie of two frames."""
    movie = Stimulus(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), [0, 7], [7, 9], np.array([1, 0], np.int32))
    return replace(session, stimuli={"movie": movie})


@cache
def whole_greys(data: bytes, dtype: str, size: int, pixel: int) -> int:
    """The grey of one pixel of all frames in a row, 0 to 255."""
    values = np.frombuffer(data, dtype)
    assert len(values) == size
    if dtype == "uint8":
        return int(values[pixel])
    low, high = min(map(float, values)), max(map(float, values))
    return 0 if high == low else round((float(values[pixel]) - low) / (high - low) * 255)


def overlap(part: int, n: int, pixel: int, source: int) -> Fraction:
    """How much of a source pixel lies in one of n equal parts of the source."""
    low, high = Fraction(part * source, n), Fraction((part + 1) * source, n)
    return max(Fraction(0), min(high, Fraction(pixel + 1)) - max(low, Fraction(pixel)))


@cache
def picture(data: bytes, dtype: str, shape: tuple[int, int, int], frame: int, height: int, width: int) -> tuple:
    size, (_, rows, columns), image = shape[0] * shape[1] * shape[2], shape, []
    for i in range(height):
        line = []
        for j in range(width):
            total, area = Fraction(0), Fraction(rows * columns, height * width)
            for y in range(rows):
                for x in range(columns):
                    share = overlap(i, height, y, rows) * overlap(j, width, x, columns)
                    if share:
                        total += share * whole_greys(data, dtype, size, (frame * rows + y) * columns + x)
            line.append(int(total / area + Fraction(1, 2)))
        image.append(tuple(line))
    return tuple(image)


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    (stimulus,) = session.stimuli.values()
    bin_ns, frames = scheme.grid_ns, stimulus.frames
    n_back = scheme.lookback_ns // bin_ns
    images, flags = [], []
    for k in range(-n_back, windows.length_ns // bin_ns):
        middle = int(windows.start_ns[b]) + k * bin_ns + bin_ns // 2
        pairs = zip(stimulus.time_ns.tolist(), stimulus.stop_ns.tolist(), stimulus.frame.tolist(), strict=True)
        shown = [f for start, stop, f in pairs if start <= middle < stop and f >= 0]
        flags.append(len(shown))
        size = (scheme.height, scheme.width)
        nothing = tuple((0,) * size[1] for _ in range(size[0]))
        told = frames.tobytes(), str(frames.dtype), frames.shape
        images.append(picture(*told, shown[0], *size) if shown else nothing)
    pixels = np.array(images, np.uint8).reshape(-1, scheme.height, scheme.width)
    return {"pixels": pixels, "shown": np.array(flags, np.uint8)}


def check_bake(scheme, session, segments, baked) -> None:
    """Every spike inside a segment is counted as not held, once for each segment."""
    pairs = zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)
    inside = sum(start <= t < stop for start, stop in pairs for t in session.spikes.time_ns.tolist())
    assert baked.lost["not_in_frames"] == inside
    assert scheme.spikes_held(baked.columns) == 0
    assert len(baked.columns["pixels"]) == len(next(iter(session.stimuli.values())).frames)
