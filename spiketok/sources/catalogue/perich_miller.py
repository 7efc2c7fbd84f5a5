"""Perich & Miller: motor and premotor cortex of four macaques, center-out and random-target reaching (DANDI 000688).

The rules are those of torch_brain's pipeline ``perich_miller_population_2018`` (0.2.1), with which POYO was trained:
which trials count, what the animal does when, what a sample weighs in the loss, and the seeded division of trials. They
were read there and are checked against it; the loss weights are in POYO's example configurations.

What is unusual: ``train`` is all time of the cursor that is a second or more away from valid and test trials, so it
holds failures, pauses and outliers too; a center-out trial lasts from the onset of its target to that of the next.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.recording.draws import division, draw_sklearn, labelled
from spiketok.recording.intervals import grown, marked_segments, ns_of, without
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules, event_times, filler_note, without_fillers

SET = "perich_miller"
TIME_COLUMNS = ("target_on_time", "go_cue_time")
SEED = 42
AWAY_NS = NS_PER_S  # of train from valid and test
LONGEST_GAP_S = 1.0  # added after a trial whose successor has no target onset

CENTER_OUT_S, RANDOM_TARGET_S = (0.5, 6.0), (2.0, 10.0)  # a valid trial lasts longer and shorter than these
N_TARGETS = 4  # that a valid random-target trial attempts
FASTEST, FARTHEST = 1500.0, 10.0  # beyond this norm of acceleration, or outside of +-this in x or y: an outlier
GROW_FAST, GROW_FAR, SHRINK_FAR = 2, 400, 100  # samples by which outlier masks are dilated, and eroded again

WEIGHTS = {"hold": 0.1, "reach": 5.0, "return": 1.0, "invalid": 0.1, "random": 1.0, "outlier": 0.0}

REFERENCE = "torch_brain 0.2.1, pipeline perich_miller_population_2018; weights: torch_brain examples/poyo"

PERICH_MILLER = Dataset(
    name="perich_miller",
    aliases=("perich_miller_population_2018", "poyo_mp"),
    title="Perich-Miller: macaque M1 and PMd over months, center-out and random-target reaching",
    dandiset="000688",
    version="0.250122.1735",
    license="CC-BY-4.0",
    doi="10.48324/dandi.000688/0.250122.1735",
    citation=(
        "Perich, Matthew G.; Miller, Lee E.; Azabou, Mehdi; Dyer, Eva L. (2025) Long-term recordings of motor and "
        "premotor cortical spiking activity during reaching in monkeys (Version 0.250122.1735) [Data set]. "
        "DANDI Archive. https://doi.org/10.48324/dandi.000688/0.250122.1735"
    ),
    bytes=13_179_483_710,
    files=111,
    species="Macaca mulatta and Macaca fascicularis",
    subjects=("C", "J", "M", "T"),
    regions=("M1", "PMd"),
    recording="sorted units (three animals), threshold crossings (one)",
    units="10,410 in 111 sessions (84 center-out, 27 random-target)",
    behaviours=("cursor_pos", "cursor_vel", "cursor_acc"),
    splits="70/10/20 % of valid trials, seed 42; train is all time 1 s or more away from the other two",
    notes=("units are renumbered in each session", "cursor in cm at 100 Hz, with time stamps"),
    rules="perich_miller",
    reference=REFERENCE,
    quirks=(
        Quirk(
            "perich_miller-regions",
            "M1 and PMd stand in the names of electrode groups only: the units' region is taken from there",
            "layout of the files as torch_brain reads them",
        ),
        Quirk(
            "perich_miller-trial-grid",
            "a center-out trial is taken from its target's onset to the next one's (table target_trials); where the "
            "onset is NaN, from the end of the trial before it, at most 1 s later",
            REFERENCE,
        ),
        Quirk(
            "perich_miller-outliers",
            "stretches with an acceleration above 1500 cm/s2 or a position beyond 10 cm weigh nothing; the reference "
            "bounds each one sample early, and so does the table phases",
            REFERENCE,
        ),
        Quirk(
            "perich_miller-thresholds",
            "one of the four animals has threshold crossings in place of sorted units; the files do not say which",
            "description of the dandiset",
        ),
    ),
)


def adjust(session: Session, path: Path) -> Session:
    """Regions, valid trials, task phases with their weights, and the division ``perich_miller``."""
    session = _with_regions(session)
    trials, cursor = session.trials, session.signals.get("cursor_pos")
    if trials is None or "result" not in trials.columns or cursor is None:
        lacks = "trials with a result" if cursor is not None else "cursor_pos"
        return _noted(session, "perich_miller-no-split", 1, f"no {lacks}: no phases and no division are made")
    domain = Intervals(cursor.time_ns[:1], cursor.time_ns[-1:])
    if "go_cue_time_array" in trials.columns:
        bounds, is_valid, phases, n_fillers = _random_target(trials, session.id)
        session = filler_note(session, n_fillers, ["go_cue_time_array"])
    else:
        timed, n_fillers = without_fillers(trials, TIME_COLUMNS, session.id)
        session = filler_note(session, n_fillers, TIME_COLUMNS)
        bounds = _target_trials(trials, timed["target_on_time"], int(cursor.time_ns[-1]))
        if bounds is None:
            text = "the onsets of targets do not rise from trial to trial: no phases and no division are made"
            return _noted(session, "perich_miller-no-split", len(trials), text)
        is_valid, phases = _center_out(trials, timed["go_cue_time"], bounds)
    session = _with_tables(session, domain, bounds, is_valid, phases)
    return _with_division(session, domain, bounds.take(is_valid))


ENTRIES = (PERICH_MILLER,)
RULES = Rules("perich_miller", 1, adjust=adjust)


def _noted(session: Session, finding: str, count: int, text: str) -> Session:
    return replace(session, notes=(*session.notes, Finding(finding, count, text)))


def _with_regions(session: Session) -> Session:
    """``region`` from the names of the electrode groups, as ``electrode_group_PMd``."""
    group = session.units.columns.get("group")
    if group is None:
        return session
    named = [re.search(r"(?:^|_)(M1|PMd)$", name) for name in group.tolist()]
    if not any(named):
        return session
    given = session.units.columns.get("region", np.full(len(named), ""))
    region = np.array([match[1] if match else other for match, other in zip(named, given.tolist(), strict=True)])
    units = replace(session.units, columns={**session.units.columns, "region": region})
    count = sum(match is not None for match in named)
    text = f"the region of {count} of {len(named)} units is taken from the name of their electrode group"
    return replace(session, units=units, repairs=(*session.repairs, Finding("perich_miller-regions", count, text)))


# ---- trials and phases ----------------------------------------------------------------------------------------------


def _target_trials(trials: Intervals, shown_s: np.ndarray, last_ns: int) -> Intervals | None:
    """Center-out trials from target to target; None where they would not follow each other."""
    stop_s = trials.stop_ns / NS_PER_S
    onset_s = np.append(shown_s, min(stop_s[-1] + LONGEST_GAP_S, last_ns / NS_PER_S))
    behind_s = np.append(trials.start_ns[0] / NS_PER_S, stop_s + LONGEST_GAP_S)
    behind_s[1:-1] = np.minimum(behind_s[1:-1], stop_s[1:])
    border = ns_of(np.where(np.isnan(onset_s), behind_s, onset_s))
    return Intervals(border[:-1], border[1:]) if (np.diff(border) >= 0).all() else None


def _lasts(bounds: Intervals, shortest_s: float, longest_s: float) -> np.ndarray:
    length_s = (bounds.stop_ns - bounds.start_ns) / NS_PER_S
    return (length_s > shortest_s) & (length_s < longest_s)


def _center_out(trials: Intervals, go_s: np.ndarray, bounds: Intervals) -> tuple[np.ndarray, dict[str, Intervals]]:
    """Which trials are valid, and the time of each phase but ``random``."""
    columns = trials.columns
    is_valid = (columns["result"] == "R") & ~np.isnan(columns["target_id"]) & _lasts(bounds, *CENTER_OUT_S)
    stop_ns = trials.stop_ns
    cued = is_valid & np.isfinite(go_s)
    go_ns = ns_of(np.where(cued, go_s, 0))

    def between(start_ns: np.ndarray, end_ns: np.ndarray, rows: np.ndarray) -> Intervals:
        rows = rows & (start_ns < end_ns)
        return Intervals(start_ns[rows], end_ns[rows])

    phases = {
        "hold": between(bounds.start_ns, go_ns, cued),
        "reach": between(go_ns, stop_ns, cued),
        "return": between(stop_ns, bounds.stop_ns, is_valid),
        "invalid": between(bounds.start_ns, bounds.stop_ns, ~is_valid),
    }
    return is_valid, phases


def _random_target(trials: Intervals, session_id: str) -> tuple[Intervals, np.ndarray, dict[str, Intervals], int]:
    """The trials' own bounds, which are valid, and the time of the phase ``hold``; how many times are fillers."""
    columns = trials.columns
    bounds = Intervals(trials.start_ns, trials.stop_ns)
    is_valid = (columns["result"] == "R") & (columns["num_attempted"] == N_TARGETS) & _lasts(bounds, *RANDOM_TARGET_S)
    first = event_times(trials, columns["go_cue_time_array"][:, 0], "go_cue_time_array", session_id)
    held = first.inside & (trials.start_ns < first.time_ns)
    hold = Intervals(trials.start_ns[held], first.time_ns[held])
    return bounds, is_valid, {"hold": hold}, first.n_outside


def _outliers(session: Session) -> Intervals:
    """Stretches in which the cursor is too fast or too far away."""
    from scipy.ndimage import binary_dilation, binary_erosion

    position, acceleration = session.signals["cursor_pos"], session.signals.get("cursor_acc")
    far = (np.abs(position.value) > FARTHEST).any(axis=1)
    far = binary_dilation(far, np.ones(GROW_FAR, np.bool_))
    marked = binary_erosion(far, np.ones(SHRINK_FAR, np.bool_))
    if acceleration is not None and np.array_equal(acceleration.time_ns, position.time_ns):
        fast = np.linalg.norm(acceleration.value.astype(np.float64), axis=1) > FASTEST
        marked |= binary_dilation(fast, np.ones(GROW_FAST, np.bool_))
    return marked_segments(marked, position.time_ns)


def _with_tables(
    session: Session, domain: Intervals, bounds: Intervals, is_valid: np.ndarray, phases: dict[str, Intervals]
) -> Session:
    trials, outliers = session.trials, _outliers(session)
    phases["random"] = without(domain, labelled(phases))
    weighted = {name: without(time, outliers) for name, time in phases.items()} | {"outlier": outliers}
    table = labelled(weighted)
    weight = np.array([WEIGHTS[name] for name in table.columns["name"].tolist()], np.float64)
    tables = {
        **session.intervals,
        "trials": Intervals(trials.start_ns, trials.stop_ns, {**trials.columns, "is_valid": is_valid}),
        "phases": Intervals(table.start_ns, table.stop_ns, {**table.columns, "weight": weight}),
    }
    notes = session.notes
    if "go_cue_time_array" not in trials.columns:
        tables["target_trials"] = Intervals(bounds.start_ns, bounds.stop_ns, {"is_valid": is_valid})
        n_unset = int(np.isnan(trials.columns["target_on_time"]).sum())
        text = f"{n_unset} of {len(trials)} trials have no target onset: bounded by the end of the trial before them"
        notes += (Finding("perich_miller-trial-grid", n_unset, text),) if n_unset else ()
    if len(outliers):
        text = f"{len(outliers)} stretches of {outliers.total_ns / NS_PER_S:.1f} s in all are outliers of the cursor"
        notes += (Finding("perich_miller-outliers", len(outliers), text),)
    return replace(session, intervals=tables, notes=notes)


def _with_division(session: Session, domain: Intervals, trials: Intervals) -> Session:
    names = draw_sklearn(len(trials), seed=SEED)
    parts = {name: trials.take(names == name) for name in ("valid", "test")}
    if not (names == "train").any() or not all(map(len, parts.values())):
        text = f"{len(trials)} valid trials are too few to divide: no division is made"
        return _noted(session, "perich_miller-no-split", len(trials), text)
    train = without(domain, grown(labelled(parts), AWAY_NS))
    return replace(session, splits=division({"train": train, **parts}, SET))
