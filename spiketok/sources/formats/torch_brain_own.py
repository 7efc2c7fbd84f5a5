"""What a file of torch_brain says in its group ``spiketok``, which ``spiketok export`` writes: the rest of a session.

    session          uint8: a JSON text, see ``facts_of``
    splits           ArrayDict: start_ns, stop_ns and every column
    unit_observed    ArrayDict: unit, start_ns, stop_ns
    unmeasured       Data of an ArrayDict a signal: row, value; the values of samples that are not valid

torch_brain keeps the group as it is. What is unusual: nothing of it is believed that the other groups do not bear out;
a table or signal that somebody has taken out of the file since is simply not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import h5py
import numpy as np

from spiketok.errors import DataError
from spiketok.recording.nouns import Finding, Intervals, Ragged, Session, Signal, Source
from spiketok.sources.formats.nwb.hdf5 import Hdf5, decoded

OWN = "spiketok"
FORMAT = 1
MOST_BYTES = 2**26  # of the text
BROKEN = "take the group 'spiketok' out of the file, or export it again"


def facts_of(session: Session, keys: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """The facts of a session that torch_brain's own groups do not hold.

    Args:
        keys: of ``"domains"``, ``"tables"`` and ``"signals"``: the session's name of each group by its key, in order.
    """
    return {
        "format": FORMAT,
        "subject": session.subject,
        "start_ns": int(session.start_ns),
        "stop_ns": int(session.stop_ns),
        "observed_source": session.observed_source,
        "clock_hz": session.clock_hz,
        "session_start": session.source.session_start,
        "info": dict(session.info),
        "repairs": [asdict(found) for found in session.repairs],
        "notes": [asdict(found) for found in session.notes],
        "domains": list(keys["domains"]),
        "tables": dict(keys["tables"]),
        "signals": {key: {"name": name, **_of_signal(session.signals[name])} for key, name in keys["signals"].items()},
    }


def _of_signal(signal: Signal) -> dict[str, object]:
    return {"components": list(signal.components), "measure": signal.measure, "rate_hz": signal.rate_hz}


def texts_of(values: np.ndarray, *, keep_width: bool = False) -> np.ndarray:
    """Texts of a file as str; as wide as they are declared, or as the longest is."""
    words = [decoded(value) for value in values.reshape(-1).tolist()]
    width = max(
        1, values.dtype.itemsize if keep_width and values.dtype.kind == "S" else max(map(len, words), default=1)
    )
    return np.array(words, dtype=f"<U{width}").reshape(values.shape)


@dataclass(frozen=True)
class Own:
    """The group of a file, as it was read.

    Args:
        facts: of :func:`facts_of`. splits: the stored divisions. unit_observed: each unit's own time, or None.
        unmeasured: rows and values of samples that are not valid, by the key of their signal.
    """

    facts: Mapping
    splits: Intervals
    unit_observed: Mapping[str, np.ndarray] | None
    unmeasured: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def domains(self) -> frozenset[str]:
        """The groups that are splits, which the division itself holds better."""
        return frozenset(self.facts["domains"])

    def complete(self, h5: Hdf5, made: Session, source: Source) -> Session:
        """The session as it was before it was written, of what the rest of the file says.

        Raises:
            SourceError: the two do not fit.
        """
        facts = self.facts
        try:
            tables = {name: made.intervals[key] for key, name in facts["tables"].items() if key in made.intervals}
            signals = {
                said["name"]: self._signal(key, said, made.signals[key])
                for key, said in facts["signals"].items()
                if key in made.signals
            }
            others = [*(set(made.intervals) - set(facts["tables"])), *(set(made.signals) - set(facts["signals"]))]
            tables |= {key: made.intervals[key] for key in sorted(others) if key in made.intervals}
            signals |= {key: made.signals[key] for key in sorted(others) if key in made.signals}
            return replace(
                made,
                subject=str(facts["subject"]),
                start_ns=int(facts["start_ns"]),
                stop_ns=int(facts["stop_ns"]),
                observed_source=str(facts["observed_source"]),
                source=source if source.session_start else replace(source, session_start=str(facts["session_start"])),
                unit_observed=self._unit_observed(len(made.units)),
                intervals=tables,
                splits=self.splits,
                signals=signals,
                clock_hz=None if facts["clock_hz"] is None else float(facts["clock_hz"]),
                info={str(key): str(value) for key, value in facts["info"].items()},
                repairs=(*(_finding(found) for found in facts["repairs"]), *made.repairs),
                notes=tuple(_finding(found) for found in facts["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError, DataError) as error:
            h5.refuse(f"its group '{OWN}' does not fit the rest ({_line(error)})", BROKEN)

    def _signal(self, key: str, said: Mapping, signal: Signal) -> Signal:
        rate_hz = None if said["rate_hz"] is None else float(said["rate_hz"])
        value = signal.value
        if key in self.unmeasured:
            row, own = self.unmeasured[key]
            value = value.copy()
            value[row] = own
        names = tuple(map(str, said["components"]))
        return replace(signal, value=value, components=names, measure=str(said["measure"]), rate_hz=rate_hz)

    def _unit_observed(self, n_units: int) -> Ragged | None:
        if self.unit_observed is None:
            return None
        unit, start, stop = (self.unit_observed[name] for name in ("unit", "start_ns", "stop_ns"))
        if (np.diff(unit) < 0).any() or unit.min(initial=0) < 0 or unit.max(initial=0) >= max(1, n_units):
            message = "unit_observed names units that are not there"
            raise ValueError(message)
        offset = np.concatenate([[0], np.cumsum(np.bincount(unit, minlength=n_units))])
        return Ragged(np.stack([start, stop], axis=1), offset)


def read_own(h5: Hdf5) -> Own | None:
    """The group ``spiketok`` of a file; None where there is none.

    Raises:
        SourceError: it is damaged, or of a later spiketok.
    """
    group = h5.group(h5.root, OWN)
    if group is None:
        return None
    item = h5.dataset(group, "session")
    if item is None or h5.dtype(item) != np.uint8 or len(h5.shape(item)) != 1 or h5.shape(item)[0] > MOST_BYTES:
        h5.refuse(f"its group '{OWN}' holds no text 'session'", BROKEN)
    try:
        facts = json.loads(h5.array(item, stored=True).tobytes().decode("utf-8"))
        known = int(facts["format"])
        _ = [facts[key] for key in ("domains", "tables", "signals", "info", "repairs", "notes", "subject")]
        if not all(isinstance(name, str) for name in (*facts["domains"], *facts["tables"].values())):
            message = "names that are no texts"
            raise ValueError(message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        h5.refuse(f"its group '{OWN}' does not say what an export says ({_line(error)})", BROKEN)
    if known != FORMAT:
        h5.refuse(
            f"its group '{OWN}' has format {known}, this spiketok reads {FORMAT}", "pip install --upgrade spiketok"
        )
    splits = _arrays(h5, group, "splits")
    try:
        divided = (
            Intervals.empty() if splits is None else Intervals(splits.pop("start_ns"), splits.pop("stop_ns"), splits)
        )
    except (KeyError, DataError) as error:
        h5.refuse(f"{OWN}/splits is no division ({_line(error)})", BROKEN)
    unmeasured = {}
    below = h5.group(group, "unmeasured")
    for key in h5.names(below) if below is not None else ():
        found = _arrays(h5, below, key)
        if set(found or ()) != {"row", "value"} or found["row"].dtype.kind != "i":
            h5.refuse(f"{OWN}/unmeasured/{key} holds no rows and values", BROKEN)
        unmeasured[key] = found["row"], found["value"]
    return Own(facts, divided, _arrays(h5, group, "unit_observed"), unmeasured)


def _arrays(h5: Hdf5, group: h5py.Group, name: str) -> dict[str, np.ndarray] | None:
    """The arrays of an ArrayDict, texts as wide as they are declared; None where there is none."""
    found = h5.group(group, name)
    if found is None:
        return None
    arrays = {}
    for key in h5.names(found):
        item = h5.dataset(found, key)
        if h5.dtype(item).kind not in "biufS":
            h5.refuse(f"{item.name} holds {h5.dtype(item)}", BROKEN)
        values = h5.array(item)
        arrays[key] = texts_of(values, keep_width=True) if values.dtype.kind == "S" else values
    return arrays


def _finding(said: Mapping) -> Finding:
    return Finding(**{"id": str(said["id"]), "count": int(said["count"]), "text": str(said["text"])})


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
