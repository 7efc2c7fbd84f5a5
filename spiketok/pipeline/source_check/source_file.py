"""What a source file has, as pynwb gives it: interval tables and series with their paths, and their times in ns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from spiketok.recording.nouns import NS_PER_S, Session

LIMIT_S = 9.2e9  # |seconds| beyond this have no int64 ns
DAY_NS = 86_400 * NS_PER_S
NOT_TAKEN = (
    *("ElectricalSeries", "ImageSeries", "IndexSeries", "PatchClampSeries"),
    *("DecompositionSeries", "OptogeneticSeries", "ImageMaskSeries", "OnePhotonSeries", "TwoPhotonSeries"),
)
EVENTS = (
    "BehavioralEvents",
    "BehavioralEpochs",
    "AnnotationSeries",
    "IntervalSeries",
    "Events",
    "LabeledEvents",
    "TTLs",
)

# ---- objects --------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """An object of the source with its path, as ``("processing", "behavior", "Position", "cursor")``."""

    parts: tuple[str, ...]
    item: object
    is_event: bool = False
    shift_s: np.ndarray | None = None  # what is added to the time of each row, where the clock began again

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    def laid(self, seconds: np.ndarray) -> np.ndarray:
        """The seconds of its rows where the blocks of the source lie."""
        return seconds if self.shift_s is None else seconds + self.shift_s[: seconds.size]

    def seconds(self, n_samples: int) -> np.ndarray | None:
        """The seconds of a series' samples; None where it states neither stamps nor a rate."""
        seconds = series_seconds(self.item, n_samples)
        return None if seconds is None else self.laid(seconds)

    def names(self) -> list[str]:
        """Under what names the session may have it, the shortest first."""
        return list(dict.fromkeys([self.parts[-1], ".".join(self.parts[-2:]), ".".join(self.parts)]))


def type_names(item: object) -> set[str]:
    return {kind.__name__ for kind in type(item).__mro__}


def walk_file(nwb) -> tuple[list[Found], list[Found]]:
    """All interval tables and all series, of the places that a session is made from."""
    from hdmf.common import DynamicTable
    from pynwb import TimeSeries
    from pynwb.epoch import TimeIntervals

    main = [nwb.trials, nwb.epochs, nwb.invalid_times, *(nwb.intervals or {}).values()]
    tables = {table.name: Found(("intervals", table.name), table) for table in main if table is not None}
    events = [Found(("events", table.name), table) for table in (getattr(nwb, "events", None) or {}).values()]
    below, series = [], []

    def walk(item: object, parts: tuple[str, ...], in_events: bool) -> None:
        kinds = type_names(item)
        is_event = in_events or bool(kinds & set(EVENTS))
        if isinstance(item, TimeIntervals) or (isinstance(item, DynamicTable) and "timestamp" in item.colnames):
            below.append(Found(parts, item))
        elif isinstance(item, TimeSeries) or hasattr(item, "timestamps"):
            if not kinds & set(NOT_TAKEN):
                series.append(Found(parts, item, is_event))
        elif not isinstance(item, DynamicTable):
            for child in item.children:
                walk(child, (*parts, child.name), is_event)

    for module in nwb.processing.values():
        for item in module.data_interfaces.values():
            walk(item, ("processing", module.name, item.name), False)
    for item in nwb.acquisition.values():
        walk(item, ("acquisition", item.name), False)
    for item in nwb.analysis.values():
        walk(item, ("analysis", item.name), False)
    for item in nwb.stimulus.values():
        walk(item, ("stimulus", "presentation", item.name), False)
    return [*tables.values(), *events, *below], series


def links_of(raw: h5py.File) -> tuple[int, str]:
    """How many links a file has, and the path of one to a group that it lies in (empty: there is none).

    pynwb follows such a link until Python's stack is full, with all names of the group once more at each turn; here
    the walk ends at it.
    """
    n_links = 0
    done: set[tuple[int, int]] = set()

    def identity(group: h5py.h5g.GroupID, name: bytes = b".") -> tuple[int, int] | None:
        """Of a group; None of anything else, and of what lies in another file or nowhere."""
        if name != b"." and group.links.get_info(name).type == h5py.h5l.TYPE_EXTERNAL:
            return None
        try:
            info = h5py.h5o.get_info(group, name)
        except (KeyError, RuntimeError, ValueError, OSError):
            return None
        return (info.fileno, info.addr) if info.type == h5py.h5o.TYPE_GROUP else None

    def entered(group: h5py.h5g.GroupID) -> tuple[h5py.h5g.GroupID, tuple[int, int] | None, Iterator[bytes]]:
        return group, identity(group), iter(list(group))

    above = [entered(raw["/"].id)]
    inside = {above[0][1]}
    while above:
        group, own, names = above[-1]
        for name in names:
            n_links += 1
            found = identity(group, name)
            if found in inside:
                place = h5py.h5i.get_name(group).rstrip(b"/") + b"/" + name
                return n_links, place.decode(errors="replace")
            if found is not None and found not in done:
                above.append(entered(h5py.h5g.open(group, name)))
                inside.add(found)
                break
        else:
            above.pop()
            inside.discard(own)
            done.add(own)
    return n_links, ""


def leads_out(raw: h5py.File, found: Found) -> bool:
    """Whether an object of the acquisition or of what was shown lies behind a link out of the file's folder."""
    top = 1 if found.parts[0] == "acquisition" else 2
    link = raw.get("/".join(found.parts[: top + 1]), getlink=True)
    home = Path(raw.filename).resolve().parent
    return isinstance(link, h5py.ExternalLink) and home not in (home / link.filename).resolve().parents


def find_units(nwb, path: str = "") -> tuple[object | None, str]:
    """The units table and its path: that at the path; else ``/units`` with rows, or the one other with spike times."""
    from hdmf.common import DynamicTable

    tables = {}

    def walk(item: object, name: str) -> None:
        if isinstance(item, DynamicTable):
            if "spike_times" in item.colnames:
                tables[name] = item
            return
        for child in getattr(item, "children", ()):
            walk(child, f"{name}/{child.name}")

    for place in ("processing", "acquisition", "analysis", "scratch"):
        for item in getattr(nwb, place).values():
            walk(item, f"{place}/{item.name}")
    own = nwb.units
    if path:
        return (own, path) if path == "units" else (tables.get(path), path)
    if own is not None and len(own.id) and "spike_times" in own.colnames:
        return own, "units"
    full = [name for name, table in tables.items() if len(table.id)]
    return (tables[full[0]], full[0]) if len(full) == 1 else (own, "units")


def pick(found: Found, candidates: Iterable[str], matched: set[str]) -> str | None:
    free = [name for name in found.names() if name in candidates and name not in matched]
    return free[-1] if free else None


# ---- times ----------------------------------------------------------------------------------------------------------


def is_time(seconds: np.ndarray) -> np.ndarray:
    return np.isfinite(seconds) & (seconds > -LIMIT_S) & (seconds < LIMIT_S)


def to_ns(seconds: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(seconds, dtype=np.float64) * 1e9).astype(np.int64)


def in_reach(session: Session, time_ns: np.ndarray) -> np.ndarray:
    spikes = session.spikes.time_ns  # one that lies alone is outside of the extent
    low, high = min(session.start_ns, *spikes[:1]), max(session.stop_ns, *spikes[-1:] + 1)
    return (time_ns >= low - DAY_NS) & (time_ns <= high + DAY_NS)


def series_seconds(item, n_samples: int) -> np.ndarray | None:
    """The seconds of a series' samples; None where it states neither stamps nor a rate."""
    stamps = getattr(item, "timestamps", None)
    if stamps is not None:
        return np.asarray(stamps[:], dtype=np.float64)
    rate_hz = getattr(item, "rate", None)
    if rate_hz is None or not 0 < rate_hz < 1e9:
        return None
    return (item.starting_time or 0.0) + np.arange(n_samples) / rate_hz


def merged(pairs_ns: np.ndarray) -> list[tuple[int, int]]:
    """Sorted disjoint intervals; what overlaps or touches is one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted((int(a), int(b)) for a, b in pairs_ns if b > a):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


# ---- what the session says was repaired -----------------------------------------------------------------------------


def stated(session: Session, finding: str, place: str = "") -> int:
    """The count that the session's repairs state under this id (of this place, which begins their text)."""
    return sum(f.count for f in session.repairs if f.id == finding and f.text.startswith(place))


def stated_in(session: Session, finding: str, found: Found) -> int:
    return stated(session, finding, f"{found.path}:")
