"""International Brain Laboratory, brain-wide map: Neuropixels in mice that decide (DANDI 000409), processed files only.

The dandiset has terabytes of raw voltage and video; what is taken are the files of sorted units and behaviour. Two
layouts of them are known: the published one (``desc-processed``) and that of an earlier draft (``processed-only``),
with other names for the same columns. Both are served.

What is unusual: two probes share one units table. Which trials count follows NEDS and the brain-wide map's own
selection. NEDS divides by numpy's global generator, seeded once for many sessions and after steps of its own, so that
its very division cannot be made again from a file: shares and seed are the same, the draw is that of torch_brain's
``Interval.split``, which brainsets uses for these files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.recording.draws import division, draw_torch_brain
from spiketok.recording.intervals import ns_of
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules, filler_note, open_source, without_fillers

SET = "ibl"
SEED = 42
LEAST = 3  # trials; no more cannot be divided in three
BEFORE_NS, AFTER_NS = NS_PER_S // 2, 3 * NS_PER_S // 2  # of the stimulus: the window of a trial
SLOWEST_S = 10.0

# what a trial needs, by its name in the published files, the early files, and in IBL's own
ONSET = ("gabor_stimulus_onset_time", "stim_on_time", "stimOn_times")
MOVEMENT = ("wheel_movement_onset_time", "first_movement_time", "firstMovement_times")
FEEDBACK = ("feedback_time", "feedback_times")
CHOICE = ("mouse_wheel_choice", "choice")
PRIOR = ("probability_left", "probabilityLeft")
NO_CHOICE = ("none", "no_go", "no_response", "")

REFERENCE = "NEDS (window, shares, reaction times); brainsets pipeline ibl_brain_wide_map_2026 (draw)"

IBL = Dataset(
    name="ibl",
    aliases=("ibl_bwm", "ibl_brain_wide_map", "ibl_brain_wide_map_2026"),
    title="IBL brain-wide map: mouse Neuropixels during visual decisions, processed files",
    dandiset="000409",
    version="0.260309.1324",
    license="CC-BY-4.0",
    doi="10.48324/dandi.000409/0.260309.1324",
    citation=(
        "International Brain Laboratory. IBL - Brain Wide Map (Version 0.260309.1324) [Data set]. DANDI Archive. "
        "https://doi.org/10.48324/dandi.000409/0.260309.1324"
    ),
    bytes=None,
    files=459,
    species="Mus musculus - House mouse",
    subjects=(),
    regions=(),
    recording="Kilosort clusters of one or two Neuropixels, all of them",
    units="hundreds to thousands a session",
    behaviours=("wheel position and velocity", "camera motion energy", "trials: choice, feedback, prior"),
    splits="70/10/20 % of usable trials, seed 42; windows from 0.5 s before to 1.5 s after the stimulus",
    include=("*desc-processed*.nwb", "*processed-only*.nwb"),
    exclude=("*desc-raw*",),
    notes=(
        "139 mice, 459 sessions in the published version; an earlier draft had 347 sessions as *processed-only* files",
        "a session's processed file has about 0.4 GB; the dandiset as a whole tens of terabytes",
        "no unit is left out: columns such as ibl_quality_score or label choose them (--quality)",
        "sessions without motion energy of the whiskers are kept; NEDS leaves them out",
    ),
    rules="ibl",
    reference=REFERENCE,
    quirks=(
        Quirk(
            "ibl-unit-ids",
            "the units of two probes share a table: ids are '<probe>_<cluster>', from unit_name or probe_name",
            "layouts of the files as public loaders read them",
        ),
        Quirk(
            "ibl-regions",
            "regions are kept as the file gives them: that of the electrode of the largest amplitude (full names or "
            "acronyms), or allen_location; Beryl's are added as region_beryl only where the file has them",
            "layouts of the files as public loaders read them",
        ),
        Quirk(
            "ibl-trials",
            "a trial is usable (column is_valid) if stimulus, first movement, feedback, choice and prior are known, a "
            "choice was made, and the first movement came 0 to 10 s after the stimulus",
            REFERENCE,
        ),
        Quirk(
            "ibl-draw",
            "NEDS's draw depends on its earlier steps and cannot be made again: its shares and seed, brainsets' draw",
            REFERENCE,
        ),
    ),
)


def adjust(session: Session, path: Path) -> Session:
    """Ids by probe, regions as given, usable trials, the division ``ibl``."""
    session = _with_ids(session)
    session = _with_regions(session, path)
    return _with_division(session)


ENTRIES = (IBL,)
RULES = Rules("ibl", 1, adjust=adjust)


def _noted(session: Session, finding: str, count: int, text: str) -> Session:
    return replace(session, notes=(*session.notes, Finding(finding, count, text)))


# ---- units ----------------------------------------------------------------------------------------------------------


def _with_ids(session: Session) -> Session:
    columns = session.units.columns
    if "unit_name" in columns:
        unit_id, source = columns["unit_name"], "unit_name"
    elif "probe_name" in columns:
        probe = columns["probe_name"].tolist()
        unit_id = np.array([f"{p}_{i}" for p, i in zip(probe, session.units.id.tolist(), strict=True)])
        source = "probe_name and the row's id"
    else:
        return session
    if np.unique(unit_id).size != len(session.units):
        return _noted(session, "ibl-unit-ids", len(unit_id), f"{source} is not unique: the units keep the rows' ids")
    units = replace(session.units, id=unit_id)
    text = f"the ids of {len(units)} units are taken from {source}"
    return replace(session, units=units, repairs=(*session.repairs, Finding("ibl-unit-ids", len(units), text)))


def _with_regions(session: Session, path: Path) -> Session:
    columns = dict(session.units.columns)
    if "allen_location" in columns:
        columns["region"], source = columns["allen_location"], "allen_location"
    elif "max_electrode" in columns:
        with open_source(path) as file:
            table = file["general/extracellular_ephys/electrodes"]
            place, group = table["location"].asstr()[:], table["group_name"].asstr()[:]
        row = columns["max_electrode"]
        if ((row < 0) | (row >= place.size)).any():
            text = f"max_electrode lies outside of the {place.size} electrodes: regions are left as they are"
            return _noted(session, "ibl-regions", len(session.units), text)
        columns["region"], columns["group"] = place[row].astype(np.str_), group[row].astype(np.str_)
        source = "the electrode of the largest amplitude"
    else:
        return session
    if "beryl_location" in columns:
        columns["region_beryl"] = columns["beryl_location"]
    text = f"the region of {len(session.units)} units is that of {source}, as the file gives it"
    repairs = (*session.repairs, Finding("ibl-regions", len(session.units), text))
    return replace(session, units=replace(session.units, columns=columns), repairs=repairs)


# ---- trials ---------------------------------------------------------------------------------------------------------


def _column(trials: Intervals, names: tuple[str, ...]) -> np.ndarray | None:
    return next((trials.columns[name] for name in names if name in trials.columns), None)


def _known(column: np.ndarray) -> np.ndarray:
    """Where a column says something; of a choice, where one was made."""
    if column.dtype.kind == "U":
        return ~np.isin(column, NO_CHOICE)
    return np.isfinite(column.astype(np.float64))


def _with_division(session: Session) -> Session:
    trials = session.trials
    needed = {} if trials is None else {n[0]: _column(trials, n) for n in (ONSET, MOVEMENT, FEEDBACK, CHOICE, PRIOR)}
    missing = [name for name, column in needed.items() if column is None] if needed else ["trials"]
    if missing:
        return _noted(session, "ibl-no-split", 1, f"no {', '.join(missing)}: no trial is judged, no division is made")
    timed = [next(name for name in names if name in trials.columns) for names in (ONSET, MOVEMENT, FEEDBACK)]
    times, n_fillers = without_fillers(trials, timed, session.id)
    session = filler_note(session, n_fillers, timed)
    onset_s, moved_s, feedback_s = times.values()
    choice, prior = needed[CHOICE[0]], needed[PRIOR[0]]
    made = choice != 0 if choice.dtype.kind in "iuf" else np.ones(len(trials), np.bool_)
    reaction_s = moved_s - onset_s
    is_valid = np.all([_known(column) for column in (onset_s, moved_s, feedback_s, choice, prior)], axis=0) & made
    is_valid &= (reaction_s >= 0) & (reaction_s <= SLOWEST_S)  # NaN compares False
    table = Intervals(trials.start_ns, trials.stop_ns, {**trials.columns, "is_valid": is_valid})
    session = replace(session, intervals={**session.intervals, "trials": table})
    n_bad = int((~is_valid).sum())
    text = f"{n_bad} of {len(trials)} trials are not usable (an event or choice is missing, or the reaction time)"
    session = _noted(session, "ibl-trials", n_bad, text) if n_bad else session
    if is_valid.sum() <= LEAST:
        text = f"{int(is_valid.sum())} usable trials are too few to divide: no division is made"
        return _noted(session, "ibl-no-split", len(trials), text)
    onset_ns = ns_of(onset_s[is_valid])
    order = np.argsort(onset_ns, kind="stable")
    names = draw_torch_brain(onset_ns.size, seed=SEED)[order]
    start, stop = onset_ns[order] - BEFORE_NS, onset_ns[order] + AFTER_NS
    free = _after_others(start, stop, names)
    late = free > start
    windows = Intervals(free, stop)
    parts = {name: windows.take(names == name) for name in ("train", "valid", "test")}
    session = replace(session, splits=division(parts, SET))
    text = f"{int(late.sum())} windows begin later, where one of another part ends"
    return _noted(session, "ibl-windows-cut", int(late.sum()), text) if late.any() else session


def _after_others(start: np.ndarray, stop: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Starts of windows in order of time, later where one would reach into a window of another part; int64 ``[n]``."""
    free, reached = start.copy(), {}
    for k, name in enumerate(names.tolist()):
        free[k] = max(start[k], *(end for other, end in reached.items() if other != name), start[k])
        reached[name] = stop[k]
    return np.minimum(free, stop)
