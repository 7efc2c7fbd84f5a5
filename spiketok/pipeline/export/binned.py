"""One's own sessions as the HDF5 files that NDT and LFADS are trained on: counts of windows by split.

    spiketok export SESSION --to ndt_h5 --out FOLDER --set segments=trials:go_cue_time,200,600 --set bin_ms=20

Keys as their loaders ask for them:

    ndt_h5    {train,eval}_data_heldin [R, T, U], _heldout, _heldin_forward, _heldout_forward, and the same arrays named
              {train,eval}_spikes_...; {train,eval}_behavior   (neural-data-transformers src/dataset.py, STNDT)
    lfads_h5  {train,valid,test}_encod_data [R, T, U], _recon_data [R, T + F, U], _data, _behavior; train_inds,
              valid_inds   (lfads-torch datamodules.py; ``_data`` and ``_inds``: lfads-run-manager, autolfads-tf2)

What is unusual: older loaders of NDT fail on a file without held-out units and forward bins, so both are there, if
only of width 0. Arrays are linked, not copied, where two keys hold the same. What is evaluated is the valid split, or
the test split where there is no other. The windows are made in ``binned_windows``.

Shape letters: R windows, T bins, F bins ahead, U units, C components.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spiketok.errors import UnknownNameError
from spiketok.pipeline.export.base import Exporter, origin_attribute, origin_text
from spiketok.pipeline.export.binned_windows import Cut, Windows, counts, cut_windows, held_out_units
from spiketok.recording.nouns import Session
from spiketok.settings import build
from spiketok.tokens.schemes.behaviour import signal_on_bins

if TYPE_CHECKING:
    import h5py

BLOCK_VALUES = 2**24  # counts of so many values at a time
Fill = Callable[["h5py.File", Session, Cut, np.ndarray], None]


def write_binned(session: Session, digest: str, path: Path, fill: Fill, settings: Windows | None = None) -> list[str]:
    """Write the counts of a session's windows.

    Args:
        session: with spikes. digest: of the store, for the file's attributes. path: the file.
        fill: puts the arrays of one format. settings: of windows, bins and splits; None: the usual ones.

    Returns:
        what is in the file and what was left out, one sentence each.

    Raises:
        DataError: no equal windows can be cut, or none lies in a split. UnknownNameError: no such behaviour.
        UsageError: the settings contradict each other.
    """
    import h5py

    from spiketok.storage.hdf5 import writing_hdf5

    settings = settings or Windows()
    names = list(session.behaviours)
    if settings.behavior is not None and settings.behavior not in names:
        raise UnknownNameError("behaviour", settings.behavior, names, session.id)
    cut, remarks = cut_windows(session, settings)
    out = held_out_units(session, settings)
    with writing_hdf5(path) as file:
        fill(file, session, cut, out)
        order = np.concatenate([np.flatnonzero(~out), np.flatnonzero(out)])
        ids = session.units.id[order].astype(object)
        file.create_dataset("unit_id", data=ids, dtype=h5py.string_dtype(), track_times=False)
        facts = {"session": session.id, "store_digest": digest, "origin": origin_text(session, digest)}
        file.attrs.update(facts | {"settings": _as_text(settings)})
    said = " and ".join(f"{rows.size} of {name}" for name, rows in cut.rows.items())
    first = (
        f"{said}: windows of {cut.n_bins} bins of {settings.bin_ms:g} ms, {int((~out).sum())} units given, "
        f"{int(out.sum())} held out, {cut.n_forward} bins ahead; nothing else of the session is in the file"
    )
    if settings.behavior is None and names:
        remarks.append(f"no behaviour is in the file: --set behavior=NAME takes one of {', '.join(names)}")
    return [first, *remarks]


# ---- the two formats ------------------------------------------------------------------------------------------------


def _fill_ndt(file: h5py.File, session: Session, cut: Cut, out: np.ndarray) -> None:
    for ours, name in (("train", "train"), (cut.scored, "eval")):
        start_ns = cut.start_ns[cut.rows[ours]]
        for units, label in ((~out, "heldin"), (out, "heldout")):
            for first, n_bins, ending in ((0, cut.n_bins, ""), (cut.n_bins, cut.n_forward, "_forward")):
                key = f"{name}_data_{label}{ending}"
                _put_counts(file, key, session, start_ns + first * cut.bin_ns, n_bins, cut, np.flatnonzero(units))
                file[f"{name}_spikes_{label}{ending}"] = file[key]
        _put_behaviour(file, f"{name}_behavior", session, start_ns, cut)


def _fill_lfads(file: h5py.File, session: Session, cut: Cut, out: np.ndarray) -> None:
    given, every = np.flatnonzero(~out), np.concatenate([np.flatnonzero(~out), np.flatnonzero(out)])
    names = {"train": "train", cut.scored: "valid"} | ({"test": "test"} if cut.scored != "test" else {})
    for ours, name in names.items():
        if ours not in cut.rows or not cut.rows[ours].size:
            continue
        start_ns = cut.start_ns[cut.rows[ours]]
        _put_counts(file, f"{name}_recon_data", session, start_ns, cut.n_bins + cut.n_forward, cut, every)
        for key, units in ((f"{name}_data", every), (f"{name}_encod_data", given)):
            if units.size == every.size and (cut.n_forward == 0 or f"{name}_data" in file):
                file[key] = file[f"{name}_data" if cut.n_forward else f"{name}_recon_data"]
            else:
                _put_counts(file, key, session, start_ns, cut.n_bins, cut, units)
        _put_behaviour(file, f"{name}_behavior", session, start_ns, cut)
    both = np.sort(np.concatenate([cut.rows["train"], cut.rows[cut.scored]]))
    for ours, name in (("train", "train_inds"), (cut.scored, "valid_inds")):
        file.create_dataset(name, data=np.searchsorted(both, cut.rows[ours]), track_times=False)


def _put_counts(
    file: h5py.File, key: str, session: Session, start_ns: np.ndarray, n_bins: int, cut: Cut, units: np.ndarray
) -> None:
    shape = (start_ns.size, n_bins, units.size)
    packing = {"compression": "gzip", "shuffle": True} if min(shape) else {}
    data = file.create_dataset(key, shape, np.float32, track_times=False, **packing)
    for rows in _blocks(shape):
        data[rows] = counts(session.spikes, start_ns[rows], n_bins, cut.bin_ns, units, len(session.units))


def _blocks(shape: tuple[int, int, int]) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // max(1, shape[1] * shape[2]))
    return (slice(low, low + step) for low in range(0, shape[0] if min(shape) else 0, step))


def _put_behaviour(file: h5py.File, key: str, session: Session, start_ns: np.ndarray, cut: Cut) -> None:
    """A behaviour on the bins, float32 ``[R, T, C]``; NaN where it was not measured."""
    if cut.behavior is None:
        return
    value, valid = signal_on_bins(session.signals[cut.behavior], cut.intervals(start_ns), cut.bin_ns)
    value[valid == 0] = np.nan
    shape = (start_ns.size, cut.n_bins, value.shape[1])
    file.create_dataset(key, data=value.reshape(shape), compression="gzip", track_times=False)


def _as_text(settings: Windows) -> str:
    return json.dumps(asdict(settings), sort_keys=True)


def _origin(settings: Windows, file: h5py.File) -> str:
    """Empty in a file of other settings."""
    return origin_attribute(file) if file.attrs["settings"] == _as_text(settings) else ""


def _configured(exporter: Exporter, fill: Fill, values: Mapping[str, object]) -> Exporter:
    settings = build(Windows, values, "", "setting")
    write = partial(write_binned, fill=fill, settings=settings)
    return replace(exporter, write=write, origin=partial(_origin, settings))


def _exporter(name: str, title: str, fill: Fill) -> Exporter:
    write, origin = partial(write_binned, fill=fill), partial(_origin, Windows())
    plain = Exporter(name, f".{name.partition('_')[0]}.h5", title, write, origin)
    return replace(plain, configure=partial(_configured, plain, fill))


EXPORTERS = (
    _exporter("ndt_h5", "counts of windows as NDT's and STNDT's loaders read them, an HDF5 file", _fill_ndt),
    _exporter("lfads_h5", "counts of windows as LFADS' loaders read them, an HDF5 file", _fill_lfads),
)
