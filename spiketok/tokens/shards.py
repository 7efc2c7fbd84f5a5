"""Shards: one session's tokens by one scheme, as raw columns that are mapped into memory and a manifest.

A shard is a folder. Each column is one file of raw little-endian values (``<column>.bin``), so that a window is a slice
of mapped memory and costs microseconds; ``manifest.json`` is written last and says what each file must be. It has
all that training needs, so that the store can be elsewhere: the scheme's columns, the observed intervals, the source's
own splits, the trials, and every behaviour, both as sampled and, for a scheme with bins, laid on its bins.

Nothing in a shard depends on a model, a vocabulary or another session; it holds no dates and no paths, and the same
session, segments and scheme give the same bytes. The format is specified in ``docs/shard-format.md``.

Shape letters: N units, G segments, T bins or samples, C components.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import numpy as np

from spiketok.errors import ArtefactError, SpiketokError, UnknownNameError
from spiketok.recording.leakage import stated_reach_ns
from spiketok.recording.nouns import FLUORESCENCE, Intervals, Session, SessionInfo, Signal
from spiketok.recording.splits import strata
from spiketok.storage.files import atomic_folder, content_digest, fingerprint, sha256_file
from spiketok.tokens.schemes import Scheme, scheme_config, scheme_from_config
from spiketok.tokens.schemes.base import grid_rows
from spiketok.tokens.schemes.behaviour import signal_on_bins

FORMAT = "spiketok-shard"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def shard_fingerprint(scheme: Scheme, segments_rule: str, store_digest: str) -> str:
    """The name of a shard's folder: other scheme, segments or store, other name."""
    return fingerprint(
        {
            "format": FORMAT_VERSION,
            "scheme": scheme_config(scheme),
            "segments": segments_rule,
            "store": store_digest,
        }
    )


def plan_bytes(scheme: Scheme, info: SessionInfo, segments: Intervals) -> int:
    """An upper bound of what a bake holds in memory and a shard on disk, without the behaviour as sampled."""
    total = sum(column.nbytes for column in scheme.plan(info, segments).values())
    if scheme.grid_ns > 1:
        bins = int(grid_rows(segments.start_ns, segments.stop_ns, scheme.grid_ns)[-1])
        total += sum(
            bins * (4 * len(components) + 1) for name, (components, _) in info.signals.items() if name != FLUORESCENCE
        )
    return total


def write_shard(
    target: Path, scheme: Scheme, session: Session, segments: Intervals, *, segments_rule: str, store_digest: str
) -> dict:
    """Bake a session and write its shard, whole or not at all.

    Args:
        target: the shard's folder; one that stands there is replaced.
        segments: the stretches to bake; they may overlap and reach over the session's ends.
        segments_rule: how they were made, as ``"continuous"``.
        store_digest: the digest of the store that the session was read from.

    Returns:
        The manifest.
    """
    baked = scheme.bake(session, segments)
    columns = dict(baked.columns)
    columns["observed.start_ns"] = session.observed.start_ns
    columns["observed.stop_ns"] = session.observed.stop_ns
    columns["split.start_ns"] = session.splits.start_ns
    columns["split.stop_ns"] = session.splits.stop_ns
    words: dict[str, list[str]] = {}
    words["split_names"], columns["split.name"] = _coded(session.splits.columns.get("name", ()))
    if "set" in session.splits.columns:
        words["split_sets"], columns["split.set"] = _coded(session.splits.columns["set"])
    trials = session.trials or Intervals.empty()
    columns["trial.start_ns"] = trials.start_ns
    columns["trial.stop_ns"] = trials.stop_ns
    trial_words = {}
    for name, label in strata(trials).items():
        trial_words[name], columns[f"trial.column.{name}"] = _coded(label)
    for name, signal in session.behaviours.items():
        columns[f"signal.{name}.time_ns"] = signal.time_ns
        columns[f"signal.{name}.value"] = signal.value
        columns[f"signal.{name}.valid"] = signal.valid
        if scheme.grid_ns > 1:
            value, valid = signal_on_bins(signal, segments, scheme.grid_ns)
            columns[f"bin.{name}.value"] = value
            columns[f"bin.{name}.valid"] = valid

    with atomic_folder(Path(target)) as folder:
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "scheme": scheme_config(scheme),
            "session": {
                "id": session.id,
                "subject": session.subject,
                "unit_id": [str(unit) for unit in session.units.id],
                "start_ns": int(session.start_ns),
                "stop_ns": int(session.stop_ns),
                "signals": {
                    name: {"components": list(s.components), "measure": s.measure, "rate_hz": s.rate_hz}
                    | _reach_fact(session, name)
                    for name, s in session.behaviours.items()
                },
                **words,
                **({"trial_words": trial_words} if trial_words else {}),
            },
            "source": session.source.to_dict(),
            "store_digest": store_digest,
            "segments_rule": segments_rule,
            "n_spikes": len(session.spikes),
            "lost": baked.lost,
            "columns": {name: _write_column(folder, name, columns[name]) for name in sorted(columns)},
        }
        manifest["digest"] = content_digest(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return manifest


def _coded(labels: object) -> tuple[list[str], np.ndarray]:
    """The different words, sorted, and int32 rows among them."""
    words = sorted({str(label) for label in labels})
    return words, np.searchsorted(words, labels).astype(np.int32)


def _reach_fact(session: Session, name: str) -> dict[str, list[int]]:
    """``reach_ns`` of a behaviour whose samples tell of others, by the processing that made it; else nothing."""
    reach = stated_reach_ns(session.info, name)
    return {"reach_ns": list(reach)} if any(reach) else {}


def _write_column(folder: Path, name: str, array: np.ndarray) -> dict:
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    file = f"{quote(name, safe='')}.bin"
    with open(folder / file, "wb") as stream:  # tofile hides why a write failed
        stream.write(array.reshape(-1).view(np.uint8).data)
    return {
        "file": file,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "bytes": array.nbytes,
        "sha256": hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest(),
    }


def _words(known: list[str], row: np.ndarray) -> np.ndarray:
    """The inverse of :func:`_coded`."""
    return np.array(known, np.str_)[row] if known else np.zeros(0, np.str_)


class _Mapped(Mapping[str, np.ndarray]):
    """Columns that are mapped into memory when first asked for."""

    def __init__(self, folder: Path, entries: Mapping[str, dict]) -> None:
        self._folder, self._entries = folder, entries
        self._open: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._open.get(name)
        if array is None:
            array = self._open[name] = self._map(self._entries[name])
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _map(self, entry: dict) -> np.ndarray:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        if entry["bytes"] == 0:  # an empty file cannot be mapped
            array = np.empty(shape, dtype)
            array.flags.writeable = False
            return array
        # a plain ndarray over the mapping: slicing a np.memmap costs more than twice as much
        return np.memmap(self._folder / entry["file"], dtype, mode="r", shape=shape).view(np.ndarray)


class ShardReader:
    """A shard, ready for random access; its columns are mapped into memory when first used, never read as a whole.

    Attributes:
        path: the folder. manifest: as :func:`write_shard` returned it.
        scheme: the scheme with its fields. info: the session. columns: read-only arrays by name.

    Raises:
        ArtefactError: no shard there, another format version, or a damaged manifest, missing or truncated column.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = self._read_manifest()
        session = self.manifest["session"]
        try:
            self.scheme = scheme_from_config(self.manifest["scheme"])
        except SpiketokError as error:
            self._refuse(f"cannot be read ({error})")
        self.info = SessionInfo(
            id=session["id"],
            subject=session["subject"],
            unit_id=np.array(session["unit_id"], dtype=np.str_),
            n_spikes=self.manifest["n_spikes"],
            start_ns=session["start_ns"],
            stop_ns=session["stop_ns"],
            signals={name: (tuple(s["components"]), s["measure"]) for name, s in session["signals"].items()},
        )
        for name, entry in self.manifest["columns"].items():
            self._check_size(name, entry)
        self.columns: Mapping[str, np.ndarray] = _Mapped(self.path, self.manifest["columns"])

    def __reduce__(self):
        return (type(self), (self.path,))

    def __repr__(self) -> str:
        return f"ShardReader({self.info.id}, {self.scheme}, {self.info.n_spikes} spikes)"

    def _refuse(self, fact: str) -> NoReturn:
        message = f"shard {self.path} {fact}: delete it and run 'spiketok tokenize' again"
        raise ArtefactError(message)

    def _read_manifest(self) -> dict:
        path = self.path / MANIFEST
        if not path.is_file():
            message = f"no shard at {self.path} (it has no {MANIFEST}): run 'spiketok tokenize'"
            raise ArtefactError(message)
        try:
            manifest = json.loads(path.read_text())
        except ValueError as error:
            self._refuse(f"has a damaged manifest ({error})")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            self._refuse(f"has a manifest that is not of a shard (no format '{FORMAT}')")
        if manifest.get("format_version") != FORMAT_VERSION:
            self._refuse(
                f"has format version {manifest.get('format_version')}, this spiketok reads version {FORMAT_VERSION}"
            )
        if manifest.get("digest") != content_digest(manifest):
            self._refuse("has a damaged manifest (it does not match its own digest)")
        return manifest

    def _check_size(self, name: str, entry: dict) -> None:
        file = self.path / entry["file"]
        if not file.is_file():
            self._refuse(f"lacks column '{name}' (no file {entry['file']})")
        size = file.stat().st_size
        if size != entry["bytes"]:
            self._refuse(f"has a damaged column '{name}' ({size} bytes, must be {entry['bytes']})")

    def verify(self) -> list[str]:
        """Read every byte again; what differs from the manifest's digests, one line a column, none if all is well."""
        differences = []
        for name, entry in self.manifest["columns"].items():
            found = sha256_file(self.path / entry["file"])
            if found != entry["sha256"]:
                differences.append(f"column '{name}' has sha256 {found[:12]}, must be {entry['sha256'][:12]}")
        return differences

    @property
    def digest(self) -> str:
        """One digest over everything in the shard."""
        return self.manifest["digest"]

    @property
    def lost(self) -> dict[str, int]:
        """Spikes of the session that the columns do not hold, by reason."""
        return dict(self.manifest["lost"])

    @cached_property
    def segments(self) -> Intervals:
        return Intervals(self.columns["segment.start_ns"], self.columns["segment.stop_ns"])

    @cached_property
    def observed(self) -> Intervals:
        return Intervals(self.columns["observed.start_ns"], self.columns["observed.stop_ns"])

    @cached_property
    def splits(self) -> Intervals:
        """The stored splits, with a column ``name`` and, where the session has it, ``set``; empty where it has none."""
        said = self.manifest["session"]
        columns = {"name": _words(said["split_names"], self.columns["split.name"])}
        if "split.set" in self.columns:
            columns["set"] = _words(said["split_sets"], self.columns["split.set"])
        return Intervals(self.columns["split.start_ns"], self.columns["split.stop_ns"], columns)

    @cached_property
    def trials(self) -> Intervals:
        """The main trial table's times, and its columns of few values as str; empty where the source has none."""
        words = self.manifest["session"].get("trial_words", {})
        columns = {name: _words(known, self.columns[f"trial.column.{name}"]) for name, known in words.items()}
        return Intervals(self.columns["trial.start_ns"], self.columns["trial.stop_ns"], columns)

    @cached_property
    def bin_row(self) -> np.ndarray:
        """int64 ``[G + 1]``: the first row of each segment in the ``bin.*`` columns."""
        return grid_rows(self.segments.start_ns, self.segments.stop_ns, self.scheme.grid_ns)

    def signal(self, name: str) -> Signal:
        """A behaviour as it was sampled.

        Raises:
            UnknownNameError: the session has no such behaviour.
        """
        self.require_signal(name)
        about = self.manifest["session"]["signals"][name]
        return Signal(
            time_ns=self.columns[f"signal.{name}.time_ns"],
            value=self.columns[f"signal.{name}.value"],
            components=tuple(about["components"]),
            measure=about["measure"],
            valid=self.columns[f"signal.{name}.valid"].view(np.bool_),
            rate_hz=about["rate_hz"],
        )

    def signal_reach_ns(self, name: str) -> tuple[int, int]:
        """How far before and behind its time a sample of a behaviour tells of, by the processing that made it."""
        self.require_signal(name)
        back, ahead = self.manifest["session"]["signals"][name].get("reach_ns", (0, 0))
        return int(back), int(ahead)

    def require_signal(self, name: str) -> None:
        """Raise UnknownNameError if the session has no such behaviour."""
        if name not in self.info.signals:
            raise UnknownNameError("behaviour", name, self.info.signals, self.info.id)
