"""Steinmetz et al. 2019: choice, action and engagement across the mouse brain, several Neuropixels (DANDI 000017).

What is unusual: the files (written in 2019) say things that NWB reads otherwise. ``rate`` of some series holds the
seconds a sample lasts; the videos' series have two time stamps, of their first and last frame; moves of the wheel have
a start and a stop each, and one value for both; channels are counted from 1. All of it is mended here from the file. No
reference divides these sessions, and no division is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from spiketok.recording.intervals import ns_of
from spiketok.recording.nouns import Finding, Intervals, Ragged, Session, Signal
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules, open_source

SLOWEST_HZ = 1.0  # no series of these files is slower: a rate below it is a period

READER = "a public exporter of these files to tables, which met all 39 of them"

STEINMETZ = Dataset(
    name="steinmetz",
    aliases=("steinmetz2019",),
    title="Steinmetz: mouse brain-wide Neuropixels during visual discrimination",
    dandiset="000017",
    version="0.240329.1926",
    license="CC-BY-4.0",
    doi="10.48324/dandi.000017/0.240329.1926",
    citation=(
        "Steinmetz, Nicholas; Zatka-Haas, Peter; Carandini, Matteo; Harris, Kenneth (2024) Distributed coding of "
        "choice, action and engagement across the mouse brain (Version 0.240329.1926) [Data set]. DANDI archive. "
        "https://doi.org/10.48324/dandi.000017/0.240329.1926"
    ),
    bytes=14_682_586_049,
    files=39,
    species="House mouse",
    subjects=(),
    regions=(),
    recording="Kilosort clusters of one to three Neuropixels 3A",
    units="hundreds to thousands a session (1,085 in Cori 2016-12-14)",
    behaviours=("wheel_position", "face_motion_energy", "eye_area", "eye_xy_positions", "lickPiezo"),
    splits=None,
    notes=(
        "ten mice",
        "units with phy_annotations below 2 are multi-unit and are kept; those from 2 on are the paper's",
        "trials have 'included', the paper's own criterion of engagement",
    ),
    rules="steinmetz",
    quirks=(
        Quirk("steinmetz-rate", "series whose rate is below 1 Hz hold their period there: read as such", READER),
        Quirk(
            "steinmetz-frames",
            "series of the videos have the stamps of the first and last frame: frames are laid evenly between",
            READER,
        ),
        Quirk("steinmetz-moves", "wheel_moves has (start, stop) pairs for each value: read as intervals", READER),
        Quirk(
            "steinmetz-region",
            "a unit's region is that of its peak channel, which is counted from 1; its electrodes are the 50 nearest",
            READER,
        ),
        Quirk(
            "steinmetz-waveform-duration",
            "in 11 of 39 files waveform_duration repeats cluster_depths: left as it is, and said",
            READER,
        ),
    ),
)


def adjust(session: Session, path: Path) -> Session:
    """Series on their true times, moves of the wheel as intervals, units' regions by their peak channel."""
    with open_source(path) as file:
        session = _with_series(session, file)
        session = _with_moves(session, file)
        return _with_regions(session, file)


ENTRIES = (STEINMETZ,)
RULES = Rules("steinmetz", 1, adjust=adjust, mends_clocks=True)


def _series(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """Every time series that stands in the acquisition or in a container of the behaviour module."""
    places = ["acquisition", *(f"processing/behavior/{name}" for name in file.get("processing/behavior", {}))]
    for place in places:
        for name, item in file.get(place, {}).items():
            if isinstance(item, h5py.Group) and "data" in item:
                yield f"{place}/{name}", item


def _with_series(session: Session, file: h5py.File) -> Session:
    signals = dict(session.signals)
    for path, group in _series(file):
        data = group["data"]
        if data.dtype.kind not in "iuf" or data.ndim > 2:
            continue
        seconds, finding, fact = None, "", ""
        if "starting_time" in group and 0 < float(group["starting_time"].attrs.get("rate", 0)) < SLOWEST_HZ:
            period_s = float(group["starting_time"].attrs["rate"])
            seconds = float(group["starting_time"][()]) + np.arange(len(data)) * period_s
            finding, fact = "steinmetz-rate", f"its rate {period_s:g} is read as the seconds a sample lasts"
        elif "timestamps" in group and group["timestamps"].shape == (2,) and len(data) > 2:
            seconds = np.linspace(*group["timestamps"][:], len(data))
            finding, fact = "steinmetz-frames", f"{len(data)} frames are laid evenly between its two time stamps"
        if seconds is None:
            continue
        name = path.rpartition("/")[2]
        value = data[:].reshape(len(data), -1) * float(data.attrs.get("conversion", 1.0))
        valid = np.isfinite(value).all(axis=1)
        measure = data.attrs.get("unit", "")
        components = signals[name].components if name in signals else tuple(f"c{k}" for k in range(value.shape[1]))
        signals[name] = Signal(
            time_ns=ns_of(seconds),
            value=np.where(valid[:, None], value, 0).astype(np.float32),
            components=components,
            measure=measure.decode() if isinstance(measure, bytes) else str(measure),
            valid=valid,
        )
        session = _forget(session, path)
        session = replace(session, repairs=(*session.repairs, Finding(finding, len(data), f"{path}: {fact}")))
    return replace(session, signals=signals)


def _forget(session: Session, path: str) -> Session:
    """Without what the generic reader said about a series that was read anew."""

    def others(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        kept = []
        for one in findings:
            if one.text.startswith((f"{path} ", f"{path}:")):
                continue
            if one.id == "series-left-out" and path in one.text:
                text = re.sub(rf"{re.escape(path)} \([^)]*\)(, )?", "", one.text).removesuffix(", ")
                if one.count == 1:
                    continue
                one = replace(one, count=one.count - 1, text=text)
            kept.append(one)
        return tuple(kept)

    return replace(session, repairs=others(session.repairs), notes=others(session.notes))


def _with_moves(session: Session, file: h5py.File) -> Session:
    path = "processing/behavior/BehavioralEpochs/wheel_moves"
    group = file.get(path)
    if group is None or group["timestamps"].size != 2 * group["data"].size:
        return session
    time_ns, kind = ns_of(group["timestamps"][:]), group["data"][:]
    moves = Intervals(time_ns[0::2], time_ns[1::2], {"value": kind.astype(np.int64)})
    session = _forget(session, path)
    text = f"{path}: {len(moves)} moves are read as intervals, a start and a stop each"
    repairs = (*session.repairs, Finding("steinmetz-moves", len(moves), text))
    return replace(session, intervals={**session.intervals, "wheel_moves": moves}, repairs=repairs)


def _with_regions(session: Session, file: h5py.File) -> Session:
    columns, place = session.units.columns, "general/extracellular_ephys/electrodes"
    peak, channel = columns.get("peak_channel"), columns.get("channel")
    notes = session.notes
    depth, duration = columns.get("cluster_depths"), columns.get("waveform_duration")
    if depth is not None and duration is not None and np.array_equal(depth.reshape(-1), duration.reshape(-1)):
        text = "waveform_duration repeats cluster_depths in all units: it is no duration; left as it is"
        notes += (Finding("steinmetz-waveform-duration", len(session.units), text),)
    session = replace(session, notes=notes)
    if peak is None or channel is None or place not in file:
        return session
    row, ids = peak.reshape(-1).astype(np.int64) - 1, file[f"{place}/id"][:]
    nearest = channel.value[channel.offset[:-1]] if isinstance(channel, Ragged) else channel
    if ((row < 0) | (row >= ids.size)).any() or not np.array_equal(ids[row], nearest):
        text = "peak_channel does not name the first electrode of each unit, as in the other files: regions are left"
        return replace(session, notes=(*session.notes, Finding("steinmetz-region", len(session.units), text)))
    taken = {"region": file[f"{place}/location"].asstr()[:], "group": file[f"{place}/group_name"].asstr()[:]}
    units = replace(
        session.units, columns={**columns, **{name: words[row].astype(np.str_) for name, words in taken.items()}}
    )
    text = f"region and group of {len(units)} units are those of their peak channel"
    repairs = (*session.repairs, Finding("steinmetz-region", len(units), text))
    return replace(session, units=units, repairs=repairs)
