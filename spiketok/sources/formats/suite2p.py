"""The folder of suite2p: fluorescence of ROIs, plane by plane, as imaged units of one session.

    suite2p/plane0/F.npy [ROIs, frames]    the units' fluorescence
    Fneu.npy, spks.npy                     signals of these names: neuropil, and what was deconvolved
    iscell.npy, redcell.npy [ROIs, 2]      columns of the units: label and probability

What is unusual: ``ops.npy`` and ``stat.npy`` are pickles, which could run code. They are never loaded. The frame rate
``fs`` is found by walking the words of the pickle in ``ops.npy`` without doing what they say. Masks of ROIs are not
read.
The planes of a volume share its time: frame k of each stands at ``start + k / fs``, as suite2p itself has it.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import Finding, Session, Source
from spiketok.sources.formats.as_nwb import put_rois, put_table, read_as_nwb
from spiketok.sources.formats.plain import map_npy, read_npy
from spiketok.storage.npz import MAGIC

READ = ("F.npy", "Fneu.npy", "spks.npy", "iscell.npy", "redcell.npy", "ops.npy")  # what a session is made of
TRACES, LABELS = ("F", "Fneu", "spks"), ("iscell", "redcell")
MOST_HZ = 10_000
STATE_RATE = "state frames a second with --frame-rate HZ"
MOST_OPS_BYTES, MOST_WORDS = 2**28, 10**6  # of a pickle that is walked: suite2p's have some thousand words
MOST_ROIS = 10**6


def find_planes(folder: Path) -> list[Path]:
    """The folders of a folder's planes, in order of number: itself, or those below it or its ``suite2p``."""
    for place in (folder, folder / "suite2p"):
        if (place / "F.npy").is_file():
            return [place]
        numbered = [(re.fullmatch(r"plane(\d+)", path.name), path) for path in place.glob("plane*")]
        planes = sorted((int(match[1]), path) for match, path in numbered if match and (path / "F.npy").is_file())
        if planes:
            return [path for _, path in planes]
    message = f"{folder.name}: holds no F.npy, nor any below plane0, plane1 ..., so it is no output of suite2p"
    raise SourceError(message)


def read_suite2p(
    folder: Path, session_id: str, source: Source, start_s: float = 0.0, frame_rate_hz: float | None = None
) -> Session:
    """Read the output of suite2p.

    Args:
        folder: ``suite2p``, the one that holds it, or one plane.
        session_id: ``"<dataset>/<session>"``. source: where it came from.
        start_s: when the first frame was taken, in seconds of the session's time.
        frame_rate_hz: frames of a plane a second; without it what ``ops.npy`` says.

    Returns:
        all ROIs of all planes, whatever their label, without spikes.

    Raises:
        SourceError: it is no such folder, arrays do not fit each other, or the frame rate is not known.
    """
    planes = find_planes(folder)
    rate_hz = frame_rate_hz or _stated_rate(folder, planes)
    traces = {name: _traces(folder, planes, name) for name in TRACES}
    rois = [len(part) for part in traces["F"]]
    if sum(rois) > MOST_ROIS:
        message = f"{folder.name}: its F.npy have {sum(rois)} ROIs: they may be turned, expected ROIs x frames"
        raise SourceError(message)
    shortest = min(part.shape[1] for part in traces["F"])
    longest = max(part.shape[1] for part in traces["F"])
    if longest - shortest > 1 or not shortest:
        message = f"{folder.name}: its planes have {shortest} to {longest} frames: they are not of one recording"
        raise SourceError(message)
    columns = {}
    for name in LABELS:
        files = _files(folder, planes, name)
        if files:
            columns[name] = np.concatenate([_labels(folder, file, n) for file, n in zip(files, rois, strict=True)])
    number = [int(plane.name.removeprefix("plane")) if plane.name[5:].isdigit() else 0 for plane in planes]
    columns["plane"] = np.repeat(np.array(number, np.int64), rois)
    within = np.concatenate([np.arange(n) for n in rois])
    ids = [f"plane{p}:{k}" if len(planes) > 1 else str(k) for p, k in zip(columns["plane"], within, strict=True)]

    def fill(file: h5py.File) -> None:
        table = file.create_group("general/rois")
        put_table(table, np.array(ids, object), columns)
        for name, parts in traces.items():
            if parts:
                group = file.create_group(f"processing/ophys/Fluorescence/{name}")
                put_rois(group, [part[:, :shortest] for part in parts], table, (start_s, rate_hz))

    session = read_as_nwb(folder.name, session_id, source, fill)
    notes = session.notes
    if longest > shortest:
        text = f"planes have {shortest} or {longest} frames: the last, of some planes only, is left out"
        notes = (Finding("planes-cut", 1, text), *notes)
    return replace(session, info={"sorter": "suite2p"}, notes=notes)


def _traces(folder: Path, planes: list[Path], name: str) -> list[np.ndarray]:
    """A kind of trace of each plane, as maps ``[ROIs, T]``; none where the planes lack it."""
    parts = []
    for file in _files(folder, planes, name):
        called = _called(folder, file)
        part, shape = (
            map_npy(file, called),
            map_npy(file.parent / "F.npy", _called(folder, file.parent / "F.npy")).shape,
        )
        if part.dtype.kind not in "iuf" or part.ndim != 2 or part.shape != shape or not part.size:
            message = (
                f"{called} is {part.dtype} of shape {part.shape}, F.npy has {shape}: expected numbers, ROIs x frames"
            )
            raise SourceError(message)
        parts.append(part)
    return parts


def _files(folder: Path, planes: list[Path], name: str) -> list[Path]:
    """The files of a name of all planes; none where no plane has it."""
    files = [plane / f"{name}.npy" for plane in planes]
    missing = [file.parent.name for file in files if not file.is_file()]
    if missing and len(missing) < len(files):
        message = f"{folder.name}: {name}.npy is missing in {', '.join(missing)}: copy it again"
        raise SourceError(message)
    return [] if missing else files


def _labels(folder: Path, file: Path, n_rois: int) -> np.ndarray:
    """Label and probability of each ROI, float64 ``[ROIs, 2]``."""
    called = _called(folder, file)
    labels = read_npy(file, called)
    if (
        labels.dtype.kind not in "biuf"
        or labels.ndim not in (1, 2)
        or len(labels) != n_rois
        or labels.size > 4 * n_rois
    ):
        message = f"{called} is {labels.dtype} of shape {labels.shape}, expected two numbers of {n_rois} ROIs"
        raise SourceError(message)
    return labels.astype(np.float64)


def _called(folder: Path, file: Path) -> str:
    inner = file.relative_to(folder).as_posix()
    return f"{folder.name}/{inner}"


# ---- the frame rate -------------------------------------------------------------------------------------------------


def _stated_rate(folder: Path, planes: list[Path]) -> float:
    """The frame rate that the ``ops.npy`` of all planes state; SourceError where none does, or two say otherwise."""
    found = set()
    for plane in planes:
        if (plane / "ops.npy").is_file():
            found |= set(_rates_in(plane / "ops.npy"))
    if len(found) != 1:
        says = " and ".join(f"{rate:g} Hz" for rate in sorted(found)) or "nothing that can be read safely"
        message = f"{folder.name}: of its frame rate, ops.npy says {says}: {STATE_RATE}"
        raise SourceError(message)
    return found.pop()


def _rates_in(path: Path) -> Iterator[float]:
    """The numbers that follow the word ``fs`` in a pickle, which is walked and not loaded."""
    if path.stat().st_size > MOST_OPS_BYTES:
        return
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        return
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        read(stream)
        after_fs = False
        for opcode, value, _ in islice(pickletools.genops(stream), MOST_WORDS):
            if "PUT" in opcode.name or opcode.name in ("MEMOIZE", "MARK", "FRAME"):
                continue
            is_number = isinstance(value, int | float) and "GET" not in opcode.name and "EXT" not in opcode.name
            if after_fs and is_number and 0 < value < MOST_HZ:
                yield float(value)
            after_fs = value == "fs" and "UNICODE" in opcode.name
    except (ValueError, IndexError, EOFError, UnicodeDecodeError):  # no pickle, or one that is cut
        return
