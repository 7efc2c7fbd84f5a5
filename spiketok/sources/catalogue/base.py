"""An entry of the catalogue (Dataset), and what its conventions make of its files (Rules)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session, Source
from spiketok.recording.segments import TrialTimes, held_in_trials
from spiketok.storage.causes import raise_cause
from spiketok.storage.names import safe_name

EVENT_SLACK_NS = NS_PER_S


@dataclass(frozen=True)
class Quirk:
    """Something unusual in a dataset's files, and what is done about it.

    Args:
        id: short and stable, as ``"mc_maze-electrodes"``: also of the finding that a session carries where it was met.
        text: what is odd and what is done, in a sentence or two.
        source: from where it is known.
    """

    id: str
    text: str
    source: str


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalogue. A fact that no source states is None (or an empty tuple), never a guess.

    Args:
        name: what the user types, and the first part of its session ids.
        title: one line for people.
        dandiset: six digits; empty where it is elsewhere.
        version: the pinned version.
        license: SPDX id. citation, doi: of that version.
        bytes, files: of the assets that ``include`` and ``exclude`` select.
        species, subjects: as the source writes them.
        recording: ``"sorted units"``, ``"threshold crossings"`` ...
        units: how many, in words. behaviours: names of the behavioural series. splits: the source's own, in words.
        notes: what is unusual in these files, one sentence each.
        aliases: other names that are accepted. include, exclude: globs on asset paths; ``*`` matches ``/`` too.
        host: the archive, a name in ``ARCHIVES``. record: the number there, where it is not DANDI.
        regions: of the brain. quirks: what is unusual and is handled, each by its id.
        rules: a name in ``RULES``: what this dataset's conventions make of its files. Empty: nothing.
        reference: the paper or loader that defines splits and rules.
    """

    name: str
    title: str
    dandiset: str
    version: str | None
    license: str | None
    citation: str | None
    doi: str | None
    bytes: int | None
    files: int | None
    species: str | None
    subjects: tuple[str, ...]
    recording: str | None
    units: str | None
    behaviours: tuple[str, ...]
    splits: str | None
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    include: tuple[str, ...] = ("*.nwb",)
    exclude: tuple[str, ...] = ()
    host: str = "dandi"
    record: str = ""
    regions: tuple[str, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    rules: str = ""
    reference: str | None = None

    def takes(self, path: str) -> bool:
        """Whether a file of this name is one of the dataset's."""
        return any(fnmatchcase(path, glob) for glob in self.include) and not any(
            fnmatchcase(path, glob) for glob in self.exclude
        )

    @property
    def number(self) -> str:
        """Of its dandiset or record."""
        return self.dandiset or self.record

    @property
    def word(self) -> str:
        """What it is called on the command line without the catalogue."""
        if self.dandiset:
            return self.dandiset if self.version is None else f"{self.dandiset}/{self.version}"
        return f"{self.host}:{self.record}"

    def holds(self, host: str, number: str, path: str) -> bool:
        """Whether the file ``path`` of a place in an archive belongs to this dataset."""
        return (host, number) == (self.host, self.number) and self.takes(path)


def event_times(trials: Intervals, seconds: np.ndarray, name: str, session_id: str) -> TrialTimes:
    """Events of trials as the rules of a dataset read them: fillers are none.

    A reference does not ask where its events lie, and some are logged at the border of two trials: up to
    ``EVENT_SLACK_NS`` outside of its trial an event counts. A column without any event has none.

    Raises:
        DataError: most lie outside of their trial.
    """
    if not np.isfinite(seconds).any():
        return TrialTimes(np.zeros(len(trials), np.int64), np.zeros(len(trials), np.bool_), 0)
    cure = "the rules of its dataset need times of the session: ingest it with --rules none"
    return held_in_trials(trials, seconds, name, session_id, slack_ns=EVENT_SLACK_NS, cure=cure)


def without_fillers(trials: Intervals, names: Sequence[str], session_id: str) -> tuple[dict[str, np.ndarray], int]:
    """The events of some columns in seconds, NaN where there is none or a filler; and how many were fillers."""
    found, n_fillers = {}, 0
    for name in names:
        seconds = trials.columns[name]
        times = event_times(trials, seconds, name, session_id)
        found[name] = np.where(times.inside, seconds, np.nan)
        n_fillers += times.n_outside
    return found, n_fillers


def filler_note(session: Session, n_fillers: int, names: Sequence[str]) -> Session:
    """The session with a note on times that were taken as fillers, if there are any."""
    if not n_fillers:
        return session
    text = (
        f"{n_fillers} times in {', '.join(names)} lie outside of their trial: no events for the rules; left as they are"
    )
    return replace(session, notes=(*session.notes, Finding("events-outside-trials", n_fillers, text)))


def as_read(session: Session, path: Path) -> Session:
    """The session as the reader gave it: what rules do that change nothing."""
    return session


def stem_of(file_name: str) -> str:
    """A file's name without its ending."""
    return re.sub(r"\.(nwb|nwb\.zarr|mat|h5|hdf5)$", "", file_name, flags=re.IGNORECASE)


def name_of_file(file_name: str) -> str:
    """The session half of an id: a file's name without its ending, made safe."""
    return safe_name(stem_of(file_name))


def read_nwb_file(
    path: Path,
    session_id: str,
    source: Source,
    time_unit: Mapping[str, str] | None = None,
    *,
    mends_clocks: bool = False,
    units_path: str = "",
    restarts: Sequence[str] = (),
    is_part: bool = False,
) -> Session:
    """The generic reader (:func:`spiketok.sources.formats.nwb.read_nwb`), imported when it is used."""
    from spiketok.sources.formats.nwb import read_nwb

    options = {"time_unit": time_unit, "mends_clocks": mends_clocks, "restarts": restarts, "is_part": is_part}
    return read_nwb(path, session_id, source, units_path=units_path, **options)


def open_source(path: Path) -> h5py.File:
    """A source file for rules that look into it once more, to be closed by the caller.

    Raises:
        SourceError: it is no HDF5 file, or names other files.
    """
    from spiketok.sources.formats.nwb.hdf5 import open_hdf5, require_alone

    try:
        file = open_hdf5(path)
    except OSError as error:
        raise_cause(error, path, SourceError)
        message = f"{path.name} is not HDF5, which the rules of its dataset need: ingest it with --rules none"
        raise SourceError(message) from error
    try:
        require_alone(file, path.name)
    except SourceError:
        file.close()
        raise
    return file


@dataclass(frozen=True)
class Rules:
    """What a benchmark's or a dataset's conventions make of its files.

    Args:
        name: as in the store's settings and after ``--rules``.
        version: another version, another session: a store made by an older one is made again by ``ingest``.
        adjust: one file as it was read, and its path, to what the rules want of it: splits, mended metadata ... Each
            change is a repair or a note of the session, with the quirk's id.
        read: how a file is read. Only what the generic reader reads is compared with pynwb's reading by ``verify``.
        session_name: a file's name to the session half of its id; files of one ingest with the same one are joined.
        join: the adjusted sessions of one name, in order of path (also if it is one), and the id, to one session; None
            where a session has one file.
        suffixes: of the files that are taken from a folder, in lower case.
        mends_clocks: times of its files may be no seconds of one clock, and ``adjust`` mends that.
    """

    name: str
    version: int
    adjust: Callable[[Session, Path], Session] = as_read
    read: Callable[[Path, str, Source], Session] = read_nwb_file
    session_name: Callable[[str], str] = name_of_file
    join: Callable[[Sequence[Session], str], Session] | None = None
    suffixes: tuple[str, ...] = (".nwb",)
    mends_clocks: bool = False
