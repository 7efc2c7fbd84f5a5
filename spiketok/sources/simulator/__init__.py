"""The simulator: sessions with a known truth, written as real NWB files.

What it makes: one or more subjects, each recorded on several days while they move a cursor, as

    <folder>/sub-S01/sub-S01_ses-CO-day01_behavior+ecephys.nwb      what a laboratory would publish
    <folder>/sub-S01/sub-S01_ses-CO-day01_truth.npz                 what only a simulator knows (:func:`simulate`)
    <folder>/sub-S01/sub-S01_ses-CO-day01_simulation.json           settings, fingerprint and digests, written last

and, with ``calcium_hz``, dF/F of the same units in the same NWB file. The task ``visual`` has a screen in place of the
cursor (:mod:`~spiketok.sources.simulator.visual`); ``cell_types=2`` gives units a type and a third region
(:mod:`~spiketok.sources.simulator.cells`), ``synapses`` lets neurons hear each other
(:mod:`~spiketok.sources.simulator.synapses`).

A subject reaches (``center_out``, ``random_target``), or writes symbols with a pen, one to several a trial
(``handwriting``: trial columns ``symbols`` and ``first_symbol``, signals ``pen_pos`` and ``pen_vel``).

How: kinematics (minimum-jerk reaches, Flash and Hogan 1985) drive a latent state that leads them by ``lag_ms``; the
state has planes that turn by themselves and noise of its own (rotational dynamics, Churchland et al. 2012); each
neuron's log intensity is a baseline plus its loadings on the state (cosine tuning to velocity, Georgopoulos et al.
1982, with speed as in Moran and Schwartz 1999); spikes are drawn in continuous time by time rescaling (Brown et al.
2002) from a process with an absolute and a relative refractory period, and stamped by a 30 kHz clock.

What is unusual:
- A point in the plane is one complex number: x + iy. So turning a preferred direction is one multiplication.
- Each random choice has its own stream, named by subject, day and purpose (numpy ``SeedSequence``). A longer session
  begins with the same behaviour and the same spikes; more days or subjects change no other file.
- The same settings give the same bytes: dates are fixed and the ids of all NWB objects follow from their place in
  the file, where pynwb would draw them at random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spiketok.errors import ArtefactError, UsageError
from spiketok.sources.simulator.config import CLOCK_HZ, TASKS, SimulationConfig
from spiketok.sources.simulator.nwb_file import fix_object_ids, write_nwb
from spiketok.sources.simulator.population import latent_names
from spiketok.sources.simulator.session import Simulated, session_name, simulate_session
from spiketok.storage import files
from spiketok.storage.npz import read_npz

__all__ = [
    "CLOCK_HZ",
    "TASKS",
    "SimulationConfig",
    "fix_object_ids",
    "latent_names",
    "simulate",
    "synapses_beside",
]

SIMULATOR_VERSION = 1  # part of every fingerprint: raise it when the same settings come to give other data


def simulate(
    config: SimulationConfig, folder: Path, progress: Callable[[int, int, str], None] | None = None
) -> list[Path]:
    """Write the sessions of a simulation; those that are there already, whole and from the same settings, stay.

    Beside each NWB file is ``<session>_truth.npz`` (``numpy.load``, no pickle) with, for N units in the order of
    the units table, T samples at 100 Hz and D latent dimensions:

    - ``latent`` float32 ``[T, D]``, ``latent_name`` ``[D]``, ``baseline`` ``[N]``, ``loading`` ``[N, D]``: unit n has
      the intensity ``exp(baseline[n] + latent @ loading[n])`` Hz, at most 200, before ``refractory_ms`` and
      ``recovery_ms`` take from it after each spike; between samples the exponent is linear
    - ``neuron`` int64 ``[N]``: who a unit is. The same number is the same neuron on all days of the subject
    - ``born_day`` ``[N]``, and the drift since then: ``turned_rad``, ``log_gain``, ``log_rate`` (all ``[N]``), which
      ``baseline`` and ``loading`` contain already
    - ``multi_unit`` bool ``[N]``; ``missed``: neurons that were there and were not recorded
    - ``synapse`` float64 ``[N, N]`` with ``synapses``: what a spike of unit j adds to the log intensity of unit i
    - ``cell_type`` int64 ``[N]`` with ``cell_types=2``: 0 excitatory, 1 inhibitory; the drives of regions are
      dimensions of the latent state, and the loadings on them the units' coupling
    - ``fires_as`` int64 ``[N]`` with ``atypical_fraction``: the type whose intervals a cell has

    Args:
        config: the settings.
        folder: where the files go; made if it does not exist.
        progress: called as ``progress(done, total, session)`` after each session.

    Returns:
        The NWB files, by subject and day.

    Raises:
        UsageError: ``folder`` is a file.

    Example:
        >>> from tempfile import mkdtemp
        >>> paths = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=1, duration_s=5, n_units=3), mkdtemp())
        >>> paths[0].name
        'sub-S01_ses-CO-day01_behavior+ecephys.nwb'
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        message = f"cannot write a simulation into '{folder}': it is a file, not a folder"
        raise UsageError(message)
    total = config.n_subjects * config.sessions_per_subject
    written = []
    for subject in range(config.n_subjects):
        for day in range(config.sessions_per_subject):
            written.append(_write_session(config, subject, day, folder))
            if progress is not None:
                progress(len(written), total, session_name(config, subject, day))
    return written


def synapses_beside(sources: Sequence[object]) -> np.ndarray | None:
    """float64 ``[N, N]``: who hears whom in a session, from the truth beside its one NWB file; None without one.

    Args:
        sources: where the session's files lie; paths on this machine, or other places.
    """
    if len(sources) != 1 or not isinstance(sources[0], Path):
        return None
    nwb = sources[0]
    truth = nwb.with_name(nwb.name.removesuffix("_behavior+ecephys.nwb") + "_truth.npz")
    if not truth.is_file():
        return None
    try:
        return read_npz(truth, "synapse").get("synapse")
    except ArtefactError as error:
        message = f"{error}: simulate again"
        raise ArtefactError(message) from error


def _write_session(config: SimulationConfig, subject: int, day: int, folder: Path) -> Path:
    name = session_name(config, subject, day)
    settings = _session_settings(config)
    fingerprint = files.fingerprint([SIMULATOR_VERSION, settings, subject, day])
    home = folder / f"sub-S{subject + 1:02d}"
    nwb, truth = home / f"{name}_behavior+ecephys.nwb", home / f"{name}_truth.npz"
    record = home / f"{name}_simulation.json"
    if _is_whole(record, fingerprint, nwb, truth):
        return nwb
    files.clean_leftovers(home)  # of a killed run: a folder is ingested as a whole
    session = simulate_session(config, subject, day)
    with files.atomic_file(nwb) as path:
        write_nwb(session, path, fingerprint)
    with files.atomic_file(truth) as path, open(path, "wb") as stream:
        np.savez(stream, **_truth(session))
    facts = {
        "session": name,
        "fingerprint": fingerprint,
        "config": settings,
        "files": {path.name: files.sha256_file(path) for path in (nwb, truth)},
        "n_units": len(session.ticks),
        "n_spikes": sum(ticks.size for ticks in session.ticks),
        "n_trials": len(session.behaviour.trials),
    }
    files.write_json(record, facts)
    return nwb


def _is_whole(record: Path, fingerprint: str, *paths: Path) -> bool:
    """Whether there is a record of this fingerprint and the files have the digests that it names."""
    if not record.is_file() or not all(path.is_file() for path in paths):
        return False
    try:
        facts = files.read_json(record)
    except (OSError, ValueError):  # not what was written: somebody's edit, or a damaged disk
        return False
    digests = {path.name: files.sha256_file(path) for path in paths}
    return (facts.get("fingerprint"), facts.get("files")) == (fingerprint, digests)


def _truth(session: Simulated) -> dict[str, np.ndarray]:
    config, population = session.config, session.population
    left_out = {"region", "electrode"} | (set() if config.atypical_fraction else {"fires_as"})
    names = [field.name for field in dataclasses.fields(population) if field.name not in left_out]
    return {
        "latent": session.latent[: config.n_samples].astype(np.float32),
        "latent_name": np.array(latent_names(config)),
        **{name: getattr(population, name) for name in names if getattr(population, name) is not None},
    }


def _session_settings(config: SimulationConfig) -> dict[str, Any]:
    """The settings that a session follows from; how many other sessions there are is none of them.

    Without imaging its rate is none either, nor what concerns writing where nothing is written, nor types of cells
    where there is one, nor synapses where there are none, nor what is as it was before there was a setting: such files
    were made before there were these, and stay as they are.
    """
    others = {"n_subjects", "sessions_per_subject"} | (set() if config.calcium_hz else {"calcium_hz"})
    others |= set() if config.task == "handwriting" else {"n_symbols", "most_symbols"}
    others |= set() if config.cell_types > 1 else {"cell_types"}
    later = ("atypical_fraction", "coupling", "inhibitory_coupling", "tracked")
    others |= {name for name in later if getattr(config, name) == getattr(SimulationConfig, name)}
    others |= set() if config.synapses else {"synapses", "synapse_gain"}
    return {k: v for k, v in asdict(config).items() if k not in others}
