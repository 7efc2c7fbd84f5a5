"""What was shown: image and index series of the source, which a session has as stimuli."""

from __future__ import annotations

import numpy as np

from spiketok.pipeline.source_check.blocks import Layout
from spiketok.pipeline.source_check.differences import Verification
from spiketok.pipeline.source_check.source_file import in_reach, is_time, series_seconds, to_ns, type_names
from spiketok.recording.nouns import Session

SHOWN = {"ImageSeries", "IndexSeries"}


def compare_stimuli(session: Session, nwb, out: Verification, layout: Layout | None = None) -> None:
    """Frames, onsets and which frame each shows; a series that is missing must be one that a note says is left out."""
    matched = set()
    told = " ".join(f.text for f in session.notes if f.id == "series-left-out")
    for name, item in nwb.stimulus.items():
        if not SHOWN & set(type_names(item)):
            continue
        path = f"stimulus/presentation/{name}"
        key = next((k for k in (name, f"presentation.{name}", path.replace("/", ".")) if k in session.stimuli), None)
        if key is None:
            if path not in told and " more" not in told:  # a note names twenty
                out.differences.append(f"{path}: missing in the session, and no note says why")
            continue
        matched.add(key)
        stored, indexed = session.stimuli[key], "IndexSeries" in type_names(item)
        frames = np.stack([_grey(picture) for picture in _pictures(item, indexed)])
        shown = np.asarray(item.data[:], np.int64) if indexed else np.arange(len(frames))
        seconds = series_seconds(item, len(shown))
        shorter = min(len(shown), len(seconds))
        shown, seconds = shown[:shorter], seconds[:shorter]
        seconds = seconds if layout is None else seconds + layout.of(path, shorter)
        time_ns = to_ns(np.where(is_time(seconds), seconds, 0))
        usable = is_time(seconds) & (in_reach(session, time_ns) if item.rate is None else True)
        rows = np.flatnonzero(usable & np.isin(time_ns, stored.time_ns))
        rows = rows[np.unique(time_ns[rows], return_index=True)[1]]  # of equal times the first
        out.expect_array(f"{path}: frames", stored.frames, frames.astype(stored.frames.dtype))
        out.expect_array(f"{path}: times in ns", stored.time_ns, time_ns[rows])
        out.expect_array(f"{path}: which frame is shown", stored.frame, np.maximum(shown[rows], -1).astype(np.int32))
        rises = bool((np.diff(time_ns) > 0).all() and usable.all())
        if rises:
            out.expect(f"{path}: presentations", len(stored), shorter)
        out.n_stimuli += 1
    for name in sorted(set(session.stimuli) - matched):
        out.differences.append(f"stimulus '{name}': {len(session.stimuli[name])} presentations, none in the source")


def _pictures(item, indexed: bool) -> list[np.ndarray]:
    if not indexed:
        return list(np.asarray(item.data[:]))
    if item.indexed_images is None:
        return list(np.asarray(item.indexed_timeseries.data[:]))
    held = item.indexed_images
    if held.order_of_images is not None:
        return [np.asarray(image.data[:]) for image in held.order_of_images.data[:]]
    return [np.asarray(held.images[name].data[:]) for name in sorted(held.images)]


def _grey(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 2:
        return picture
    grey = 0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]
    return np.rint(grey) if picture.dtype == np.uint8 else grey
