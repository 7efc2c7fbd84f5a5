"""Units that the source has as a series in place of a units table: counts of bins, or the fluorescence of ROIs."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np

from spiketok.pipeline.source_check.columns import WIDE, compare_columns, rows_of, source_columns
from spiketok.pipeline.source_check.differences import Verification
from spiketok.pipeline.source_check.series import compare_signal, in_units
from spiketok.pipeline.source_check.source_file import Found, merged, to_ns, type_names
from spiketok.recording.nouns import Session, Signal

COUNTS = ("binned_spikes", "tx", "ThresholdCrossings")  # they stand for a units table, one column a unit
DERIVED = ("neuropil", "fneu", "deconv", "spks", "background")  # names of what is not the ROIs' own fluorescence
IMAGED = "fluorescence"  # the signal of units that were imaged and have no spikes


def compare_counts(session: Session, found: Found, out: Verification) -> None:
    """Spikes that the source has as counts of bins: so many of each unit at the bin's stamp, and nothing between."""
    data = np.asarray(found.item.data[:])
    seconds, (n_bins, n_units) = found.seconds(len(data)), data.shape
    if seconds is None or seconds.size != n_bins or not out.expect("units", len(session.units), n_units):
        out.expect(f"{found.path}: time stamps", None if seconds is None else seconds.size, n_bins)
        return
    out.expect("unit ids", session.units.id.tolist(), [str(column) for column in range(n_units)])
    out.expect("source of the observed time", session.observed_source, "bins")
    start_ns = to_ns(seconds)
    order = np.argsort(session.spikes.unit, kind="stable")
    stop = np.cumsum(np.bincount(session.spikes.unit, minlength=n_units))
    for column, stored in enumerate(np.split(session.spikes.time_ns[order], stop[:-1])):
        source = np.repeat(start_ns, data[:, column].astype(np.int64))
        if out.expect(f"{found.path}: spikes of channel {column}", stored.size, source.size):
            out.expect_array(f"{found.path}: spike times in ns of channel {column}", stored, source)
        out.n_units += 1
        out.n_spikes += source.size
    width_ns = int(np.rint(np.median(np.diff(start_ns))))
    observed = merged([(t, t + width_ns + width_ns // 2) for t in start_ns])  # half a bin more bridges uneven stamps
    observed = [(start, stop - width_ns // 2) for start, stop in observed]
    stored = list(zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True))
    out.expect("observed time in ns", stored, observed)


def compare_imaged(session: Session, series: list[Found], raw: h5py.File, out: Verification) -> Session:
    """Units that are ROIs: their series (taken out of ``series``), columns and frames; returns the rest to compare."""
    signal = session.signals[IMAGED]
    out.expect("spikes of units that were imaged", len(session.spikes), 0)
    out.expect("components of the fluorescence", list(signal.components), session.units.id.tolist())
    n_units = len(session.units)
    rois = [s for s in series if "RoiResponseSeries" in type_names(s.item) and np.ndim(s.item.data) == 2]
    rois = [s for s in rois if n_units in s.item.data.shape and n_units > 1]
    rois.sort(key=lambda s: any(word in s.parts[-1].lower() for word in DERIVED))
    found = next((s for s in rois if "DfOverF" in type_names(s.item.parent)), rois[0] if rois else None)
    if found is not None:
        series.remove(found)
        table, row = found.item.rois.table, np.asarray(found.item.rois.data[:]).astype(np.int64)
        out.expect("ids of the ROIs", session.units.id.tolist(), [str(table.id[r]) for r in row])
        compare_signal(session, signal, found, found.seconds(len(found.item.data)), out)
        place = raw[raw[f"{found.path}/rois"].attrs["table"]].name
        expected = {name: rows_of(c, row) for name, c in source_columns(table, raw, place, WIDE)}
        compare_columns("ROIs", session.units.columns, expected, out)
    else:
        _compare_neurons(session, signal, series, out)
    times = signal.time_ns[signal.valid]
    if times.size > 1:
        period = 1e9 / signal.rate_hz if signal.rate_hz else float(np.median(np.diff(signal.time_ns)))
        steps = np.flatnonzero(np.diff(times) > 1.5 * period)
        first, last = times[np.concatenate([[0], steps + 1])], times[np.concatenate([steps, [times.size - 1]])]
        out.expect_array("observed frames, starts in ns", session.observed.start_ns, first)
        out.expect_array("observed frames, stops in ns", session.observed.stop_ns, last + max(1, round(period)))
    out.n_units += n_units
    return replace(session, signals={name: s for name, s in session.signals.items() if name != IMAGED})


def _compare_neurons(session: Session, signal: Signal, series: list[Found], out: Verification) -> None:
    """Fluorescence that the source has as one series a neuron, named as the unit."""
    groups = {s.parts[:-1] for s in series}
    names = session.units.id.tolist()
    complete = [{s.parts[-1]: s for s in series if s.parts[:-1] == group} for group in sorted(groups)]
    complete = [members for members in complete if set(members) == set(names)]
    if not out.expect("groups of one series a unit", len(complete[:1]), 1):
        return
    valid = np.ones(signal.valid.size, np.bool_)
    for column, name in enumerate(names):
        found = complete[0][name]
        series.remove(found)
        value = in_units(found.item, np.asarray(found.item.data[:]).reshape(-1)).astype(np.float32)
        seconds = found.seconds(value.size)
        if seconds is not None and out.expect_array(f"{found.path}: times in ns", signal.time_ns, to_ns(seconds)):
            valid &= np.isfinite(value)
            out.expect_array(f"{found.path}: values", signal.value[signal.valid, column], value[signal.valid])
            out.n_samples += value.size
    out.expect_array("valid frames", signal.valid, valid)
    out.n_signals += 1
