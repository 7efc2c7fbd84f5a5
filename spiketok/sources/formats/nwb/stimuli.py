"""What was shown: image series of ``stimulus/presentation``, and index series into ``stimulus/templates``.

An ``ImageSeries`` holds its own frames, ``[F, height, width]`` or with three or four colours; an ``IndexSeries`` says
which picture of a template was shown: of an ``ImageSeries``, or of ``Images`` (in its ``order_of_images``, else by
name). Colours become grey (0.299, 0.587, 0.114); an index below zero shows nothing.

A picture is shown until the next one. Where that is over 2.5 median steps away, and for the last, it lasts one median
step: the file does not say when it was taken away.
"""

from __future__ import annotations

import math

import h5py
import numpy as np

from spiketok.recording.nouns import Stimulus
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.intervals import Reach
from spiketok.sources.formats.nwb.series import Series, series_seconds, stamped
from spiketok.sources.formats.nwb.tables import Findings

MAX_STIMULUS_VALUES = 1 << 29  # of all frames: half an hour at 30 Hz and 100 x 100; more is left out
GREY = np.array([0.299, 0.587, 0.114])
LONG_STEPS = 2.5


def read_stimulus(h5: Hdf5, series: Series, reach: Reach, found: Findings) -> Stimulus | str:
    """A series as a stimulus; or why it is left out."""
    if series.type_name == "IndexSeries":
        data = h5.dataset(series.group, "data")
        if data is None or h5.dtype(data).kind not in "iu" or len(h5.shape(data)) != 1:
            return "no whole numbers in one dimension"
        shown, frames = h5.array(data).astype(np.int64), _template(h5, series.group)
    else:
        frames = _series_frames(h5, series.group)
        shown = np.zeros(0, np.int64) if isinstance(frames, str) else np.arange(len(frames))
    if isinstance(frames, str):
        return frames
    if shown.size and shown.max() >= len(frames):
        return f"index {shown.max()} of {len(frames)} pictures"
    timing = series_seconds(h5, series, shown.size)
    if isinstance(timing, str):
        return timing
    seconds, rate_hz = timing
    time_ns, shown = stamped(series, seconds, shown, reach if rate_hz is None else None, found)
    if not time_ns.size:
        return "no picture with a usable time stamp"
    return Stimulus(frames, time_ns, stops(time_ns), np.maximum(shown, -1).astype(np.int32))


def stops(time_ns: np.ndarray) -> np.ndarray:
    """int64 ``[P]``: until when each of the pictures is shown that appear at these times; one alone lasts no time."""
    step = np.diff(time_ns)
    usual = int(np.median(step)) if step.size else 0
    lasts = np.append(np.where(step > LONG_STEPS * usual, usual, step), usual)
    return time_ns + lasts


def _template(h5: Hdf5, group: h5py.Group) -> np.ndarray | str:
    """The pictures that an index series leads to."""
    item = h5.child(group, "indexed_images")
    if isinstance(item, h5py.Group):
        return _images(h5, item)
    item = h5.child(group, "indexed_timeseries")
    return _series_frames(h5, item) if isinstance(item, h5py.Group) else "no template"


def _series_frames(h5: Hdf5, group: h5py.Group) -> np.ndarray | str:
    data = h5.dataset(group, "data")
    if data is None or math.prod(h5.shape(data)) == 0:
        return "no frames in the file"
    return _grey(h5, data, 3)


def _images(h5: Hdf5, group: h5py.Group) -> np.ndarray | str:
    """Single pictures of one size, in the order that the file states."""
    order = h5.dataset(group, "order_of_images")
    names = sorted(n for n in h5.names(group) if n != "order_of_images") if order is None else h5.reference_names(order)
    pictures = []
    for name in names:
        data = h5.dataset(group, name)
        picture = "a picture that is not there" if data is None else _grey(h5, data, 2)
        if isinstance(picture, str):
            return picture
        if pictures and (picture.shape, picture.dtype) != (pictures[0].shape, pictures[0].dtype):
            return f"pictures of {pictures[0].shape} {pictures[0].dtype} and {picture.shape} {picture.dtype}"
        if len(names) * picture.size > MAX_STIMULUS_VALUES:
            return f"{len(names) * picture.size} values"
        pictures.append(picture)
    return np.stack(pictures) if pictures else "no pictures"


def _grey(h5: Hdf5, data: h5py.Dataset, n_axes: int) -> np.ndarray | str:
    """Pixels of so many axes, as uint8 where the file has these, else as float32; or why not."""
    shape, dtype = h5.shape(data), h5.dtype(data)
    coloured = len(shape) == n_axes + 1 and shape[-1] in (3, 4)
    if not (len(shape) == n_axes or coloured) or 0 in shape or dtype.kind not in "biuf":
        return f"shape {shape} of {dtype}"
    if math.prod(shape) > MAX_STIMULUS_VALUES:
        return f"{math.prod(shape)} values"
    pixels = h5.array(data)
    if coloured:
        grey = pixels[..., :3] @ GREY
        return np.rint(grey).astype(np.uint8) if dtype == np.uint8 else _finite(grey)
    return pixels if dtype == np.uint8 else _finite(pixels)


def _finite(pixels: np.ndarray) -> np.ndarray | str:
    with np.errstate(over="ignore"):
        values = pixels.astype(np.float32)
    return values if np.isfinite(values).all() else "pixels that are not finite"
