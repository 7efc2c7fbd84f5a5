"""The context of a session: all that training needs of it beside its tokens, once, however many schemes baked it.

The observed intervals, the source's own splits, the trials, every behaviour as it was sampled, and what is known of
each unit. Token shards of the session name it by digest and by its place from theirs, and open it when it is needed.

Nothing in it depends on a scheme, a model or another session; it holds no date and no path, and the same session gives
the same bytes. The format is specified in ``docs/shard-format.md``.

Shape letters: N units, I intervals, T samples, C components.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from spiketok.errors import UnknownNameError, UsageError
from spiketok.recording.leakage import stated_reach_ns
from spiketok.recording.nouns import Intervals, Ragged, Session, SessionInfo, Signal
from spiketok.recording.splits import strata
from spiketok.recording.units import plain_unit_columns
from spiketok.storage.files import fingerprint
from spiketok.storage.workspace import CONTEXT, MANIFEST
from spiketok.tokens.bounds import (
    FARTHEST_NS,
    require_columns,
    require_intervals,
    require_order,
    require_shape,
    require_within,
)
from spiketok.tokens.columns import Columns, Kind, manifest_of, write_folder

FORMAT = "spiketok-context"
FORMAT_VERSION = 1
KIND = Kind("context", FORMAT, FORMAT_VERSION)


def context_fingerprint(store_digest: str) -> str:
    """The name of a context's folder: another store or format, another name."""
    return fingerprint({"format": FORMAT, "version": FORMAT_VERSION, "store": store_digest})


def write_context(target: Path, session: Session, *, store_digest: str) -> dict:
    """Write a session's context, whole or not at all.

    Args:
        target: the context's folder; one that is there is replaced.
        store_digest: the digest of the store that the session was read from.

    Returns:
        The manifest.
    """
    return write_folder(target, *_contents(session, store_digest))


def ensure_context(target: Path, session: Session, *, store_digest: str) -> dict:
    """The manifest of the context at ``target``, which is written if there is none.

    Raises:
        ArtefactError: what is there is damaged. UsageError: it is of another session or store.
    """
    if not (target / MANIFEST).exists():
        return write_context(target, session, store_digest=store_digest)
    manifest = Context(target).manifest
    found = manifest["session"]["id"], manifest["store_digest"]
    if found != (session.id, store_digest):
        wanted = f"{session.id}, store {store_digest[:12]}"
        message = f"{target} is the context of {found[0]}, store {found[1][:12]}, not of {wanted}"
        raise UsageError(message)
    return manifest


def context_beside(folder: Path, session: Session, *, store_digest: str) -> Path:
    """Where the context of a shard in ``folder`` is by default: its name says its content."""
    return folder / f"{CONTEXT}-{manifest_of(*_contents(session, store_digest))['digest'][:16]}"


def _contents(session: Session, store_digest: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The facts and the columns of a session's context."""
    columns = {
        "observed.start_ns": session.observed.start_ns,
        "observed.stop_ns": session.observed.stop_ns,
        "split.start_ns": session.splits.start_ns,
        "split.stop_ns": session.splits.stop_ns,
    }
    words: dict[str, object] = {}
    words["split_names"], columns["split.name"] = _coded(session.splits.columns.get("name", ()))
    if "set" in session.splits.columns:
        words["split_sets"], columns["split.set"] = _coded(session.splits.columns["set"])
    trials = session.trials or Intervals.empty()
    columns["trial.start_ns"], columns["trial.stop_ns"] = trials.start_ns, trials.stop_ns
    trial_words, unit_words, unit_flags = {}, {}, []
    for name, label in _plain_trial_columns(trials).items():
        trial_words[name], columns[f"trial.column.{name}"] = _coded(label)
    for name, column in plain_unit_columns(session.units).items():
        if column.dtype.kind == "U":
            unit_words[name], column = _coded(column)
        elif column.dtype == np.bool_:
            unit_flags.append(name)
        columns[f"unit.{name}"] = column
    for name, signal in session.behaviours.items():
        columns[f"signal.{name}.time_ns"] = signal.time_ns
        columns[f"signal.{name}.value"] = signal.value
        columns[f"signal.{name}.valid"] = signal.valid
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "session": {
            "id": session.id,
            "subject": session.subject,
            "unit_id": [str(unit) for unit in session.units.id],
            "n_spikes": len(session.spikes),
            "start_ns": int(session.start_ns),
            "stop_ns": int(session.stop_ns),
            "signals": {
                name: {"components": list(s.components), "measure": s.measure, "rate_hz": s.rate_hz}
                | _reach_fact(session, name)
                for name, s in session.behaviours.items()
            },
            **words,
            "trial_words": trial_words,
            "unit_words": unit_words,
            "unit_flags": sorted(unit_flags),
        },
        "source": session.source.to_dict(),
        "store_digest": store_digest,
    }
    return facts, columns


def _plain_trial_columns(trials: Intervals) -> dict[str, np.ndarray]:
    """The columns that divide trials (of few values), and those of text, as str ``[I]``, in the table's order."""
    few, found = strata(trials), {}
    for name, column in trials.columns.items():
        if name in few:
            found[name] = few[name]
        elif not isinstance(column, Ragged) and np.ndim(column) == 1 and all(isinstance(word, str) for word in column):
            found[name] = np.asarray(column).astype(np.str_)
    return found


def _coded(labels: object) -> tuple[list[str], np.ndarray]:
    """The different words, sorted, and int32 rows among them."""
    words = sorted({str(label) for label in labels})
    return words, np.searchsorted(words, labels).astype(np.int32)


def _words(known: list[str], row: np.ndarray) -> np.ndarray:
    """The inverse of :func:`_coded`."""
    return np.array(known, np.str_)[row] if known else np.zeros(0, np.str_)


def _reach_fact(session: Session, name: str) -> dict[str, list[int]]:
    """``reach_ns`` of a behaviour whose samples depend on others, by the processing that made it; else nothing."""
    reach = stated_reach_ns(session.info, name)
    return {"reach_ns": list(reach)} if any(reach) else {}


def _require_sound(manifest: dict, columns: Columns) -> None:
    """Raise ArtefactError where a context's columns do not fit each other or its words, KeyError where facts lack."""
    session = manifest["session"]
    n_units = len(session["unit_id"])
    _ = session["id"], session["subject"], session["n_spikes"], session["start_ns"], session["stop_ns"]
    _ = manifest["store_digest"], dict(manifest["source"])
    for name in ("observed", "split", "trial"):
        require_intervals(columns, f"{name}.start_ns", f"{name}.stop_ns")
    coded = {"split.name": session["split_names"]}
    if "split.set" in columns:
        coded["split.set"] = session["split_sets"]
    of_splits = tuple(coded)
    of_trials = {f"trial.column.{name}": words for name, words in session["trial_words"].items()}
    of_units = {f"unit.{name}": words for name, words in session["unit_words"].items()}
    flags = {f"unit.{name}": (np.dtype(np.uint8), 1) for name in session["unit_flags"]}
    coded |= of_trials | of_units
    require_columns(columns, {name: (np.dtype(np.int32), 1) for name in coded} | flags)
    require_shape(columns, columns["split.start_ns"].shape, of_splits)
    require_shape(columns, columns["trial.start_ns"].shape, of_trials)
    for name in columns:
        if name.startswith("unit."):
            require_columns(columns, {name: (columns[name].dtype, 1)})
            require_shape(columns, (n_units,), [name])
    for name, words in coded.items():
        require_within(columns, name, 0, len(words))
    for name, about in session["signals"].items():
        _ = about["measure"], about["rate_hz"]
        time, value, valid = (f"signal.{name}.{part}" for part in ("time_ns", "value", "valid"))
        kinds = {time: (np.dtype(np.int64), 1), value: (np.dtype(np.float32), 2), valid: (np.dtype(np.uint8), 1)}
        require_columns(columns, kinds)
        n_samples = columns[time].size
        require_shape(columns, (n_samples, len(about["components"])), [value])
        require_shape(columns, (n_samples,), [valid])
        require_within(columns, time, -FARTHEST_NS, FARTHEST_NS)
        require_order(columns, time, np.zeros(0, np.int64))
        require_within(columns, valid, 0, 2)


class Context:
    """A session's context; its columns are mapped into memory when first used.

    Attributes:
        path: the folder. manifest: as :func:`write_context` returned it.
        info: the session, with the columns of its units. columns: read-only arrays by name.

    Args:
        anew: check every byte, whatever the context's stamp says; else only the first reader of a context does.

    Raises:
        ArtefactError: no context there, another format version, or a damaged manifest or file, or columns that do not
            fit each other.
    """

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        self.path = Path(path)
        self.manifest, self.columns = KIND.open(self.path, _require_sound, anew=anew)

    def __reduce__(self):
        return (type(self), (self.path,))

    def __repr__(self) -> str:
        return f"Context({self.manifest['session']['id']})"

    @property
    def digest(self) -> str:
        """One digest over everything in the context."""
        return self.manifest["digest"]

    def verify(self) -> list[str]:
        """Read every byte again; what differs from the manifest's digests, one line a column, none if all is well."""
        return self.columns.verify()

    @cached_property
    def info(self) -> SessionInfo:
        session = self.manifest["session"]
        return SessionInfo(
            id=session["id"],
            subject=session["subject"],
            unit_id=np.array(session["unit_id"], dtype=np.str_),
            n_spikes=session["n_spikes"],
            start_ns=session["start_ns"],
            stop_ns=session["stop_ns"],
            signals={name: (tuple(s["components"]), s["measure"]) for name, s in session["signals"].items()},
            unit_columns={
                name.removeprefix("unit."): self._unit_column(name.removeprefix("unit."))
                for name in self.columns
                if name.startswith("unit.")
            },
            n_trials=len(self.columns["trial.start_ns"]),
        )

    def _unit_column(self, name: str) -> np.ndarray:
        session, column = self.manifest["session"], self.columns[f"unit.{name}"]
        if name in session["unit_words"]:
            return _words(session["unit_words"][name], column)
        return column.view(np.bool_).copy() if name in session["unit_flags"] else column.copy()

    @cached_property
    def observed(self) -> Intervals:
        return self._intervals("observed", {})

    def _intervals(self, name: str, columns: Mapping[str, np.ndarray]) -> Intervals:
        # copies, as of all that is kept: an array on the map would keep it for as long as the context lives
        start, stop = (self.columns[f"{name}.{edge}"].copy() for edge in ("start_ns", "stop_ns"))
        return Intervals(start, stop, columns)

    @cached_property
    def splits(self) -> Intervals:
        """The stored splits, with a column ``name`` and, where the session has it, ``set``; empty where it has none."""
        session = self.manifest["session"]
        columns = {"name": _words(session["split_names"], self.columns["split.name"])}
        if "split.set" in self.columns:
            columns["set"] = _words(session["split_sets"], self.columns["split.set"])
        return self._intervals("split", columns)

    @cached_property
    def trials(self) -> Intervals:
        """The main trial table's times, and its columns of few values or text, as str; empty where there is none."""
        words = self.manifest["session"]["trial_words"]
        columns = {name: _words(known, self.columns[f"trial.column.{name}"]) for name, known in words.items()}
        return self._intervals("trial", columns)

    def signal(self, name: str) -> Signal:
        """A behaviour as it was sampled.

        Raises:
            UnknownNameError: the session has no such behaviour.
        """
        made = self.columns.made
        found = made.get(name)
        if found is None:
            self.require_signal(name)
            about = self.manifest["session"]["signals"][name]
            found = made[name] = Signal(
                time_ns=self.columns[f"signal.{name}.time_ns"],
                value=self.columns[f"signal.{name}.value"],
                components=tuple(about["components"]),
                measure=about["measure"],
                valid=self.columns[f"signal.{name}.valid"].view(np.bool_),
                rate_hz=about["rate_hz"],
            )
        return found

    def signal_reach_ns(self, name: str) -> tuple[int, int]:
        """How far before and after its time a sample of a behaviour depends on, by the processing that made it."""
        self.require_signal(name)
        back, ahead = self.manifest["session"]["signals"][name].get("reach_ns", (0, 0))
        return int(back), int(ahead)

    def require_signal(self, name: str) -> None:
        """Raise UnknownNameError if the session has no such behaviour."""
        signals = self.manifest["session"]["signals"]
        if name not in signals:
            raise UnknownNameError("behaviour", name, signals, self.manifest["session"]["id"])
