"""Time series wherever a file may have them (``PLACES``): behaviours and dF/F become signals, events intervals."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import NS_PER_S, Intervals, Signal
from spiketok.sources.formats.nwb.clocks import refuse_restarted_samples, refuse_times_in_no_seconds
from spiketok.sources.formats.nwb.hdf5 import VALUE_BYTES, Hdf5, OutsideError
from spiketok.sources.formats.nwb.intervals import Reach, Table, is_table, read_table
from spiketok.sources.formats.nwb.tables import BROKEN, Findings, is_time, misfit, ns_from_seconds, plain, row_ids

PLACES = (("processing",), ("acquisition",), ("analysis",), ("stimulus", "presentation"))
MAX_COMPONENTS = 64
FEW, LEAST_KEPT = 20, 20  # of more samples than a few, less than half of all times, or one in so many, is no behaviour
MAX_DEPTH = 32  # groups within groups: NWB's own are at most five deep
SCALED_VALUES = 10**6  # scaled at a time
MAX_VALUES = 10**8  # more is raw data: 1 kHz and three components reach it after 9 hours
MAX_IMAGED_VALUES = 2 * 10**9  # of imaged ROIs: 5,000 of them at 30 Hz reach it after 4 hours

# neurodata types that are no signal: raw and processed voltage, images, stimuli
# fmt: off
NOT_BEHAVIOUR = frozenset({
    "ElectricalSeries", "SpikeEventSeries", "LFP", "FilteredEphys", "EventDetection", "EventWaveform", "Clustering",
    "ClusterWaveforms", "FeatureExtraction", "DecompositionSeries", "ImageSeries", "OpticalSeries", "IndexSeries",
    "ImageMaskSeries", "Images", "GrayscaleImage", "RGBImage", "RGBAImage", "TwoPhotonSeries", "OnePhotonSeries",
    "ImageSegmentation", "PlaneSegmentation", "MotionCorrection",
    "CorrectedImageStack", "PatchClampSeries", "CurrentClampSeries", "CurrentClampStimulusSeries",
    "VoltageClampSeries", "VoltageClampStimulusSeries", "IZeroClampSeries", "OptogeneticSeries",
})
# fmt: on
SHOWN_TYPES = frozenset({"ImageSeries", "OpticalSeries", "IndexSeries"})  # in stimulus/presentation they are stimuli
EVENT_TYPES = frozenset({"AnnotationSeries", "IntervalSeries", "Events", "LabeledEvents", "TTLs"})
EVENT_CONTAINERS = frozenset({"BehavioralEvents", "BehavioralEpochs"})


@dataclass
class Series:
    """A series that was found, not yet read."""

    parts: tuple[str, ...]
    group: h5py.Group
    type_name: str
    is_event: bool

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    @property
    def is_imaged(self) -> bool:
        """Fluorescence or dF/F: a component for each ROI, and no limit to how many."""
        return self.type_name == "RoiResponseSeries"


@dataclass
class Found:
    """What is below ``PLACES``."""

    series: list[Series]
    tables: list[Table]
    left_out: list[str]
    stimuli: list[Series]


def find_series(h5: Hdf5, found: Findings, taken: Sequence[tuple[str, ...]] = ()) -> Found:
    """Every series and interval table of ``PLACES`` that is not ``taken`` already, in order of place and name."""
    out = Found([], [], [], [])
    seen: set[tuple[int, int]] = set()

    def enter(group: h5py.Group, name: str, parts: tuple[str, ...], in_events: bool) -> None:
        try:
            item = h5.child(group, name)
        except SourceError as error:
            if parts not in (("acquisition",), ("stimulus", "presentation")):
                raise
            leads = "out of its folder" if isinstance(error, OutsideError) else "nowhere"  # raw data in other files
            out.left_out.append(f"{'/'.join((*parts, name))} (a link that leads {leads})")
            return
        if isinstance(item, h5py.Group) and (identity := h5.identity(item)) not in seen:
            seen.add(identity)  # a link may lead back to where we are, or to what was read already
            walk(item, (*parts, name), in_events)

    def walk(group: h5py.Group, parts: tuple[str, ...], in_events: bool) -> None:
        type_name, members = h5.type_name(group), h5.names(group)
        path = "/".join(parts)
        if len(parts) > MAX_DEPTH:
            out.left_out.append(f"{path[:80]}... ({len(parts)} groups deep)")
        elif parts in taken:
            return
        elif type_name in SHOWN_TYPES and parts[:2] == ("stimulus", "presentation"):
            out.stimuli.append(Series(parts, group, type_name, is_event=False))
        elif type_name in NOT_BEHAVIOUR:
            out.left_out.append(f"{path} ({type_name})")
        elif is_table(h5, group):
            out.tables.append(read_table(h5, group, parts, found))
        elif "timestamps" in members or "starting_time" in members:
            out.series.append(Series(parts, group, type_name, in_events or type_name in EVENT_TYPES))
        elif h5.attr(group, "colnames") is not None:
            out.left_out.append(f"{path} ({type_name or 'table'})")
        else:
            for name in members:
                enter(group, name, parts, in_events or type_name in EVENT_CONTAINERS)

    for place in PLACES:
        top = h5.group(h5.root, *place)
        for name in h5.names(top) if top is not None else ():
            enter(top, name, place, False)
    return out


# ---- times ----------------------------------------------------------------------------------------------------------


def series_seconds(h5: Hdf5, series: Series, n_samples: int) -> tuple[np.ndarray, float | None] | str:
    """The seconds of a series' samples and its declared rate (None with time stamps); or why it has none."""
    item = h5.dataset(series.group, "timestamps")
    scale = h5.time_unit.scale(series.parts) or 1.0
    if item is not None:
        if h5.dtype(item).kind not in "iuf" or len(h5.shape(item)) != 1:
            return "time stamps that are not numbers in one dimension"
        return _laid(h5, series, h5.array(item).astype(np.float64) * scale), None
    item = h5.dataset(series.group, "starting_time")
    if item is None or h5.dtype(item).kind not in "iuf" or math.prod(h5.shape(item)) != 1:
        return "no usable starting_time"
    rate_hz, start_s = h5.number_attr(item, "rate"), float(h5.array(item).reshape(-1)[0])
    if rate_hz is None or not 0 < rate_hz < NS_PER_S:
        return f"the rate {rate_hz} Hz"
    h5.plan(item, 2 * VALUE_BYTES * n_samples)
    rate_hz /= scale
    seconds = _laid(h5, series, np.arange(n_samples) / rate_hz + start_s * scale)
    return (seconds, rate_hz) if is_time(seconds).all() else f"times beyond 292 years at the rate {rate_hz} Hz"


def _laid(h5: Hdf5, series: Series, seconds: np.ndarray) -> np.ndarray:
    """The seconds where the file's blocks lie."""
    return seconds if h5.laid is None else seconds + h5.laid.shift_s(series.path, seconds.size)


def rising(time_ns: np.ndarray) -> np.ndarray:
    """Which samples to keep (bool ``[T]``) so that times rise strictly and the fewest are lost; of equals the first."""
    if time_ns.size < 2 or (np.diff(time_ns) > 0).all():
        return np.ones(time_ns.size, np.bool_)
    tail_ns: list[int] = []  # the earliest end of a rising run of each length, and its row
    tail_row: list[int] = []
    previous = np.full(time_ns.size, -1, np.int64)
    for row, time in enumerate(time_ns.tolist()):
        place = bisect_left(tail_ns, time)
        previous[row] = tail_row[place - 1] if place else -1
        if place == len(tail_ns):
            tail_ns.append(time)
            tail_row.append(row)
        elif time < tail_ns[place]:
            tail_ns[place], tail_row[place] = time, row
    keep = np.zeros(time_ns.size, np.bool_)
    row = tail_row[-1]
    while row >= 0:
        keep[row] = True
        row = int(previous[row])
    return keep


def stamped(
    series: Series, seconds: np.ndarray, value: np.ndarray, reach: Reach | None, found: Findings
) -> tuple[np.ndarray, np.ndarray]:
    """Times in ns and values of the samples that have a usable time.

    Args:
        series, found: for the repairs.
        seconds: float64 ``[T]``.
        value: ``[T, ...]``, or of another length: then both are cut to the shorter.
        reach: stamps far outside of it are dropped; None where times come from a rate.
    """
    if len(value) != seconds.size:
        shorter = min(len(value), seconds.size)
        text = f"{series.path} has {len(value)} samples and {seconds.size} time stamps: cut to {shorter}"
        found.repair("signal-length", abs(len(value) - seconds.size), text)
        seconds, value = seconds[:shorter], value[:shorter]
    stamped = is_time(seconds)
    time_ns = ns_from_seconds(np.where(stamped, seconds, 0))
    near = stamped if reach is None else stamped & reach.is_near(time_ns)
    keep = near.copy()
    if not series.is_event:
        keep[near] = rising(time_ns[near])
    n_missing, n_far, n_back = int((~stamped).sum()), int((stamped & ~near).sum()), int((near & ~keep).sum())
    text = (
        f"{series.path}: dropped {n_missing + n_far + n_back} of {keep.size} samples: {n_missing} with no time stamp, "
        f"{n_far} with one far outside the recording, {n_back} with one that does not rise"
    )
    found.repair("signal-times", n_missing + n_far + n_back, text)
    return time_ns[keep], value[keep]


# ---- values ---------------------------------------------------------------------------------------------------------


def _scaled(
    h5: Hdf5, series: Series, data: h5py.Dataset, raw: np.ndarray, found: Findings, dtype: type = np.float64
) -> np.ndarray:
    """Values in the series' measure: ``raw * conversion * channel_conversion + offset``, in float64, then as dtype."""
    conversion, shift = h5.number_attr(data, "conversion"), h5.number_attr(data, "offset")
    if conversion is not None and (conversion == 0 or not math.isfinite(conversion)):
        found.repair("signal-conversion", 1, f"{series.path} declares the conversion {conversion}, taken as 1")
        conversion = None
    scale: float | np.ndarray = 1.0 if conversion is None else conversion
    channel = h5.dataset(series.group, "channel_conversion")
    if channel is not None:
        factor = h5.array(channel)
        if raw.ndim != 2 or factor.shape != raw.shape[1:] or factor.dtype.kind not in "iuf":
            h5.refuse(f"{channel.name} has shape {factor.shape} for data of shape {raw.shape}", BROKEN)
        scale = scale * factor.astype(np.float64)
    if series.is_imaged and raw.dtype == np.float32 and np.all(scale == 1.0) and not shift:
        return raw  # a large matrix, and the file already has it as it is to be
    out, rows = np.empty(raw.shape, dtype), max(1, SCALED_VALUES // max(1, math.prod(raw.shape[1:])))
    shift = shift if shift is not None and math.isfinite(shift) else 0.0
    for low in range(0, len(raw), rows):  # piece by piece: float64 of the whole may be eight times what was read
        out[low : low + rows] = raw[low : low + rows].astype(np.float64) * scale + shift
    return out


def _component_names(h5: Hdf5, series: Series, n_components: int) -> tuple[str, ...]:
    """From comments such as ``columns=[x,y]`` (the habit of the NLB files); else by type."""
    match = re.search(r"columns\s*=\s*\[([^\]]*)\]", h5.text_attr(series.group, "comments"))
    names = tuple(name.strip(" '\"") for name in match[1].split(",")) if match else ()
    if len(names) == n_components == len(set(names)) and all(names):
        return names
    if series.is_imaged:
        names = _roi_ids(h5, series)
        if len(names) == n_components == len(set(names)):
            return names
    if series.type_name == "SpatialSeries" and n_components <= 3:
        return ("x", "y", "z")[:n_components]
    return tuple(f"c{i}" for i in range(n_components))


def roi_table(h5: Hdf5, series: Series) -> tuple[h5py.Group | None, np.ndarray]:
    """The segmentation that a series' columns are rows of, and which; None and no rows where the file does not say."""
    rois = h5.dataset(series.group, "rois")
    table = None if rois is None else h5.follow(rois, "table")
    if not isinstance(table, h5py.Group) or h5.dtype(rois).kind not in "iu":
        return None, np.zeros(0, np.int64)
    row = h5.array(rois).reshape(-1).astype(np.int64)
    if ((row < 0) | (row >= row_ids(h5, table).size)).any():
        return None, np.zeros(0, np.int64)
    return table, row


def _roi_ids(h5: Hdf5, series: Series) -> tuple[str, ...]:
    """The ids of the rows of the segmentation that a series' columns are; none where the file does not say."""
    table, row = roi_table(h5, series)
    return () if table is None else tuple(str(i) for i in row_ids(h5, table)[row].tolist())


def read_signal(h5: Hdf5, series: Series, reach: Reach, found: Findings) -> Signal | str:
    """A series as a signal; or why it is left out."""
    data = h5.dataset(series.group, "data")
    if data is None:
        return "no data"
    shape, dtype = h5.shape(data), h5.dtype(data)
    if dtype.kind not in "biuf":
        return "not numbers"
    if len(shape) not in (1, 2) or math.prod(shape) == 0:
        return f"shape {shape}"
    most, widest = (MAX_IMAGED_VALUES, max(shape)) if series.is_imaged else (MAX_VALUES, MAX_COMPONENTS)
    if math.prod(shape) > most:
        return f"{math.prod(shape)} values"
    timing = series_seconds(h5, series, shape[0])
    if isinstance(timing, str):
        return timing
    seconds, rate_hz = timing
    components_first = rate_hz is None and len(shape) == 2 and shape[1] == seconds.size != shape[0] <= widest
    n_components = 1 if len(shape) == 1 else shape[0] if components_first else shape[1]
    if n_components > widest:
        return f"{n_components} components"
    raw = h5.array(data)
    if components_first:
        text = f"{series.path} has shape {shape} for {seconds.size} time stamps: read with components first"
        found.repair("signal-transposed", 1, text)
        raw = raw.T
    refuse_times_in_no_seconds(h5, series.parts, seconds, reach)
    if rate_hz is None:
        refuse_restarted_samples(h5, series.path, ns_from_seconds(seconds[is_time(seconds)]))
    time_ns, raw = stamped(series, seconds, raw, reach if rate_hz is None else None, found)
    if not time_ns.size:
        return "no sample with a usable time stamp"
    if rate_hz is None and not h5.mends_clocks:
        own_ns = ns_from_seconds(seconds[is_time(seconds)])
        own_ns = own_ns[reach.is_near(own_ns)]
        if own_ns.size > FEW and (2 * time_ns.size < np.unique(own_ns).size or LEAST_KEPT * time_ns.size < own_ns.size):
            return f"{own_ns.size} time stamps, of which {time_ns.size} rise"
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is marked so below
        value = _scaled(h5, series, data, raw, found, np.float32).reshape(time_ns.size, n_components)
    names = _component_names(h5, series, n_components)
    finite = np.isfinite(value)
    valid = finite.all(axis=1)
    n_invalid, n_beyond = int((~valid).sum()), int((~reach.is_near(time_ns)).sum())
    text = f"{series.path}: {n_invalid} of {valid.size} samples are not finite, marked as not valid"
    found.note("signal-not-finite", n_invalid, text)
    never = [one for one, any_finite in zip(names, finite.any(axis=0), strict=True) if not any_finite]
    text = (
        f"{series.path}: {', '.join(never[:8])} of {n_components} components are finite in no sample, so none is valid"
    )
    found.note("signal-component-missing", len(never), f"{text}: write it without them")
    text = f"{series.path}: {n_beyond} of {valid.size} samples lie over a day from all spikes and trials; kept"
    found.note("signal-beyond", n_beyond, text)
    return Signal(time_ns, np.where(finite, value, 0), names, h5.text_attr(data, "unit"), valid, rate_hz)


def read_events(h5: Hdf5, series: Series, reach: Reach, found: Findings) -> Intervals | str:
    """A series of events as intervals of no length with the column ``value``, in the source's order; or why not."""
    data = h5.dataset(series.group, "data")
    reason = "no data" if data is None else misfit(h5, data)
    value = None
    if data is not None and not reason:
        value = np.atleast_1d(h5.array(data))
        if value.dtype.kind in "iuf" and h5.number_attr(data, "conversion") not in (None, 1.0):
            value = _scaled(h5, series, data, value, found)
    timing = series_seconds(h5, series, 0 if value is None else len(value))
    if isinstance(timing, str):
        return timing
    seconds, rate_hz = timing
    near = reach if rate_hz is None else None
    if value is not None:
        time_ns, value = stamped(series, seconds, value, near, found)
        return Intervals(time_ns, time_ns, {"value": plain(value)})
    if data is not None:
        found.note("events-without-value", seconds.size, f"{series.path}: left out the values ({reason})")
    time_ns, _ = stamped(series, seconds, seconds, near, found)
    return Intervals(time_ns, time_ns)


def short_names(parts: Sequence[tuple[str, ...]], taken: Sequence[str] = ()) -> list[str]:
    """A name for each: its own where only one has it, else with its container before it, else the whole path.

    Args:
        parts: the path of each, as ``("processing", "behavior", "Position", "cursor")``.
        taken: names that are not free.
    """
    own = Counter(p[-1] for p in parts)
    pair = Counter(".".join(p[-2:]) for p in parts)
    names = []
    for p in parts:
        near = ".".join(p[-2:])
        free = own[p[-1]] == 1 and p[-1] not in taken
        names.append(p[-1] if free else near if pair[near] == 1 and near not in taken else ".".join(p))
    return names
