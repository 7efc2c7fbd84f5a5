"""Compare a session with the NWB file that it came from, through pynwb.

The session is what the store gives back; nothing here knows how it is stored. What is unusual: this is a second,
independent reading of the source. It shares no code with the h5py reader in ``spiketok.sources.formats.nwb``, states
the rules of the repairs once more, and holds every deviation from the source against them: a spike, interval or sample
that is missing must be one that a rule removes, and a finding of the session must say so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import h5py

from spiketok.errors import SourceError
from spiketok.pipeline.isolation import bounds
from spiketok.pipeline.source_check.blocks import find_layout
from spiketok.pipeline.source_check.differences import Verification
from spiketok.pipeline.source_check.series import compare_events, compare_signals
from spiketok.pipeline.source_check.source_file import find_units, leads_out, links_of, stated, walk_file
from spiketok.pipeline.source_check.stimuli import compare_stimuli
from spiketok.pipeline.source_check.tables import compare_splits, compare_tables
from spiketok.pipeline.source_check.units import compare_observed, compare_spikes, compare_unit_columns
from spiketok.pipeline.source_check.units_of_series import COUNTS, IMAGED, compare_counts, compare_imaged
from spiketok.recording.nouns import Session
from spiketok.sources.formats.nwb.hdf5 import open_hdf5
from spiketok.storage.causes import raise_cause

SECONDS_PER_LINK = 1e-3  # pynwb 3: 0.4 ms an empty group, 1.6 ms a dataset that no column is
QUICK = "'spiketok verify --quick' tells by its digest whether it is the file that was ingested"


def verify_session(session: Session, path: Path, units_path: str = "", restarts: Sequence[str] = ()) -> list[str]:
    """Every difference between a session and its source file; empty where they are equal.

    Args:
        session: as the store gives it back.
        path: the NWB file. units_path: where its units table lies; empty: ``/units``, or the one other.
        restarts: the session's setting, where the file's clock begins again.

    Raises:
        SourceError: pynwb cannot read the file.
    """
    return compare_with_source(session, path, units_path, restarts).differences


def compare_with_source(
    session: Session, path: Path, units_path: str = "", restarts: Sequence[str] = ()
) -> Verification:
    """Compare all spikes, unit columns, observed time, interval tables and series of a session with its source file.

    Args:
        session: as the store gives it back.
        path: the NWB file. units_path, restarts: see :func:`verify_session`.

    Returns:
        the differences, and how much was compared.

    Raises:
        SourceError: pynwb cannot read the file.
    """
    from hdmf.build.errors import ConstructError
    from pynwb import NWBHDF5IO

    if Path(path).is_dir():  # zarr arrays: by way of a file that pynwb writes of them
        from spiketok.sources.formats.nwb.zarr_folder import as_hdf5

        with as_hdf5(Path(path)) as file:
            return compare_with_source(session, file, units_path, restarts)
    out = Verification()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pynwb says of old or odd files is no difference
            with open_hdf5(Path(path)) as raw:
                _require_an_end(raw, Path(path))
                with NWBHDF5IO(file=raw, mode="r", load_namespaces=True) as io:
                    _compare(session, io.read(), raw, units_path, restarts, out)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, ConstructError) as error:
        raise_cause(error, path, SourceError)
        reason = " ".join(str(error).split())[:200]
        message = f"{Path(path).name}: cannot be read through pynwb ({type(error).__name__}: {reason}): {QUICK}"
        raise SourceError(message) from error
    return out


def _require_an_end(raw: h5py.File, path: Path) -> None:
    """Refuse at once what pynwb would not come to the end of within the bounds of ``isolation``."""
    n_links, circle = links_of(raw)
    cpu_s = bounds(path.stat().st_size)["cpu_s"]
    if circle:
        fact = f"{circle} is a group that it lies in"
    elif n_links * SECONDS_PER_LINK > cpu_s:
        fact = f"it takes a millisecond and more for each of {n_links} objects, {cpu_s} s are given"
    else:
        return
    message = f"{path.name}: cannot be read through pynwb ({fact}): {QUICK}"
    raise SourceError(message)


def _compare(
    session: Session, nwb, raw: h5py.File, units_path: str, restarts: Sequence[str], out: Verification
) -> None:
    units, place = find_units(nwb, units_path)
    tables, series = ([one for one in found if not leads_out(raw, one)] for found in walk_file(nwb))
    layout = find_layout(nwb, units, tables, series, restarts)
    for found in (*tables, *series):
        found.shift_s = layout.rows.get(found.path)
    out.expect("restarts of the clock", stated(session, "clock-restarts"), len(layout.gaps))
    counts = [s for s in series if s.parts[-1] in COUNTS] if units is None or not len(units.id) else []
    if len(counts) == 1:
        series.remove(counts[0])
        compare_counts(session, counts[0], out)
    elif IMAGED in session.signals and session.observed_source == "frames":
        session = compare_imaged(session, series, raw, out)
        units = None
    elif not len(session.units):
        out.expect("units", 0, 0 if units is None else len(units.id))
        units = None
    elif units is None:
        out.differences.append(f"units: {len(session.units)} in the session, no units table in the source")
        return
    subject = nwb.subject.subject_id if nwb.subject is not None else None
    out.expect("subject", session.subject, (subject or "").strip())
    if not counts and units is not None and out.expect("units", len(session.units), len(units.id)):
        compare_spikes(session, units, out, layout)
        compare_unit_columns(session, units, raw, place, out)
        compare_observed(session, units, out, layout)
    matched = compare_tables(session, tables, raw, out, layout)
    matched |= compare_events(session, [s for s in series if s.is_event], out)
    for name in sorted(set(session.intervals) - matched):
        out.differences.append(f"intervals '{name}': {len(session.intervals[name])} rows, no such table in the source")
    compare_signals(session, [s for s in series if not s.is_event], out)
    compare_splits(session, nwb, out)
    compare_stimuli(session, nwb, out, layout)
