"""What FALCON's conventions make of a file: subject, role, times, one target, scored time.

All six sets go through the same steps; each step acts on what it finds in a file, not on the set's name, so that files
under other names are treated alike. Every change is a repair or a note of the session under the id of a quirk of the
catalogue. Facts: falcon-challenge 1.0.2 (``dataloaders.py``, ``config.py``) and the writers in its ``preproc``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Ragged, Session, Signal
from spiketok.sources.catalogue.base import Rules, name_of_file

BIN_NS = 20_000_000
SPLIT_SET = "falcon"
SPLIT_OF_ROLE = {"held_in_calib": "train", "held_out_calib": "calibration", "minival": "minival"}
_ROLE = re.compile(r"[-_](?:(held)[-_](in|out)[-_])?(calib|minival)(?=$|[-_./])", re.IGNORECASE)
_PUBLIC = re.compile(r"sub-(?P<subject>.+?)_ses-(?P<tag>[A-Za-z0-9-]+)")
_DAY = re.compile(r"(?P<year>\d{4})[-.]?(?P<month>\d{2})[-.]?(?P<day>\d{2})(?:-(?P<run>Run\d+))?")

# H1's file stamps are dates shifted to 1925; with each: the day's number, then the times of its sets in order
_H1_DAYS = {
    "19250101": (0, "111740 112404"),
    "19250108": (1, "110520 111022 111455"),
    "19250113": (2, "120811 121303"),
    "19250115": (3, "110633 111328"),
    "19250119": (4, "113543 114045"),
    "19250120": (5, "115044 115537"),
    "19250126": (6, "113454 114029"),
    "19250127": (7, "120333 120826"),
    "19250129": (8, "112555 113059"),
    "19250202": (9, "113958 114452"),
    "19250203": (10, "113515 114018"),
    "19250206": (11, "112219 112712"),
    "19250209": (12, "111826 112327"),
}
H1_SETS = {
    f"{date}T{time}": f"S{day}_set_{k}"
    for date, (day, times) in _H1_DAYS.items()
    for k, time in enumerate(times.split(), 1)
}


# ---- names ----------------------------------------------------------------------------------------------------------


def role_of(text: str) -> str:
    """The part of the benchmark that a subject id, file name or folder is of; empty where it does not say.

    >>> role_of("MonkeyL-held-in-calib"), role_of("T5_held_in_minival"), role_of("Jenkins")
    ('held_in_calib', 'minival', '')
    """
    match = _ROLE.search(text)
    if match is None:
        return ""
    if match[3].lower() == "minival":
        return "minival"
    return f"held_{match[2].lower()}_calib" if match[2] else ""


def session_name(file_name: str) -> str:
    """``<session>_<role>`` of a file of the archive, the session's tag as FALCON has it; else the file's own name.

    >>> session_name("sub-HumanPitt-held-in-calib_ses-19250108T111455.nwb")
    'S1_set_3_held_in_calib'
    >>> session_name("sub-MonkeyN-held-out-calib_ses-2020-11-24-Run2_behavior+ecephys.nwb")
    '2020-11-24-Run2_held_out_calib'
    """
    match, role = _PUBLIC.match(file_name), role_of(file_name.split("_ses-")[0])
    if match is None or not role:
        return name_of_file(file_name)
    return f"{H1_SETS.get(match['tag'], match['tag'])}_{role}"


def _facts_of_name(file_name: str) -> dict[str, str]:
    """Day, run and set that a file's name states."""
    match = _PUBLIC.match(file_name)
    if match is None:
        return {}
    tag, facts = match["tag"], {}
    if tag in H1_SETS:
        facts["falcon_set"] = H1_SETS[tag]
    day = _DAY.match(tag)
    if day:
        facts["falcon_day"] = f"{day['year']}-{day['month']}-{day['day']}"
        if day["run"]:
            facts["falcon_run"] = day["run"]
    return facts


# ---- the steps ------------------------------------------------------------------------------------------------------


def adjust(session: Session, path: Path) -> Session:
    """A file of FALCON as its conventions want it.

    Args:
        session: as the generic reader gave it.
        path: the file, for what the reader does not keep.

    Raises:
        DataError: it holds nothing of FALCON, or parts of it contradict each other.
    """
    kinds = {"OpenLoopKinematicsVelocity", "eval_mask"} & set(session.signals)
    trials = session.trials
    if not kinds and not (trials is not None and "spectrogram_values" in trials.columns):
        message = (
            f"{session.id}: {path.name} has neither 'eval_mask' nor spectrograms, so it is no file of FALCON: "
            "ingest it with --rules none"
        )
        raise DataError(message)
    session = _name_parts(session)
    session = _mend_rate(session, path)
    for container in ("preprocessed_emg", "finger_vel", "finger_pos"):
        session = _join_components(session, container, path)
    session = _note_stamps(session)
    session = _note_clock(session)
    session = _take_spectrogram(session)
    session = _apply_mask(session, "eval_mask")
    session = _apply_mask(session, "eval_mask_audio")
    return _set_splits(session)


def _note(session: Session, name: str, count: int, text: str) -> Session:
    return replace(session, notes=(*session.notes, Finding(name, count, text))) if count else session


def _repair(session: Session, name: str, count: int, text: str) -> Session:
    return replace(session, repairs=(*session.repairs, Finding(name, count, text)))


def _with_signals(session: Session, signals: Mapping[str, Signal], without: Sequence[str] = ()) -> Session:
    kept = {name: signal for name, signal in session.signals.items() if name not in without}
    return replace(session, signals=kept | dict(signals))


def _name_parts(session: Session) -> Session:
    """Role, day, run and set into ``info``; the role off the subject."""
    file = PurePosixPath(session.source.file)
    places = {
        "subject id": session.subject,
        "file name": file.name.split("_ses-")[0],
        "folder": file.parent.name,
        "identifier": session.info.get("identifier", ""),
    }
    roles = {place: role for place, text in places.items() if (role := role_of(text))}
    if len(set(roles.values())) > 1:
        listed = ", ".join(f"{place} '{places[place]}'" for place in roles)
        message = f"{session.id}: its role is not clear ({listed}): give the file back its name in the archive"
        raise DataError(message)
    role = next(iter(roles.values()), "")
    info = dict(session.info) | _facts_of_name(file.name) | ({"falcon_role": role} if role else {})
    session = replace(session, info=info)
    if not role:
        text = "neither file name, folder, subject id nor identifier says which part of FALCON this is: no split is set"
        session = _note(session, "falcon-role", 1, text)
    if role == "minival":
        text = "what is in this file is in the held-in calibration of its day as well: it is no validation of a model"
        session = _note(session, "falcon-minival", 1, text)
        whole = re.sub(r"_minival$", "_held_in_calib", session.id)
        if whole != session.id:
            session = replace(session, info=dict(session.info) | {"part_of": whole})
    subject = _ROLE.sub("", session.subject)
    if subject == session.subject:
        return session
    text = f"the subject '{session.subject}' is '{subject}': the rest is the part of the benchmark ({role})"
    return _repair(replace(session, subject=subject), "falcon-subject", 1, text)


def _mend_rate(session: Session, path: Path) -> Session:
    """H1: series whose ``rate`` holds seconds a sample get the times ``offset + k * rate`` seconds."""
    if "OpenLoopKinematicsVelocity" not in session.signals:
        return session
    slow = [name for name, signal in session.signals.items() if signal.rate_hz is not None and signal.rate_hz < 1]
    if not slow:
        return session
    from spiketok.sources.formats.nwb.hdf5 import Hdf5

    mended, moved = {}, 0
    with Hdf5(path) as h5:
        for name in slow:
            signal = session.signals[name]
            group = h5.group(h5.root, "acquisition", name)
            if group is None:
                continue  # of another place: not the writer's habit
            data = h5.dataset(group, "data")
            offset = h5.number_attr(data, "offset") or 0.0
            words = [word.strip() for word in h5.text_attr(group, "description").split(",")]
            time_s = offset + np.arange(signal.time_ns.size) * signal.rate_hz
            value = signal.value
            if offset:  # read again: taking it off float32 would cost bits
                raw = h5.array(data).reshape(value.shape).astype(np.float64)
                raw *= h5.number_attr(data, "conversion") or 1.0
                value = np.where(np.isfinite(raw), raw, 0).astype(np.float32)
                moved += 1
            named = len(words) == len(set(words)) == len(signal.components) and all(words)
            components = tuple(words) if named else signal.components
            time_ns = np.rint(time_s * NS_PER_S).astype(np.int64)
            mended[name] = Signal(time_ns, value, components, signal.measure, signal.valid, 1 / signal.rate_hz)
    if not mended:
        return session
    slow = list(mended)
    period_s, n_samples = session.signals[slow[0]].rate_hz, sum(s.time_ns.size for s in mended.values())
    text = (
        f"{', '.join(slow)}: the rate of {period_s:g} Hz holds seconds a sample; {n_samples} times made anew as "
        f"offset + k * {period_s:g} s" + (f", the offset taken off the values of {moved} series" if moved else "")
    )
    beyond = tuple(f"acquisition/{name}:" for name in slow)  # the reader's word on the wrong times
    notes = tuple(n for n in session.notes if not (n.id == "signal-beyond" and n.text.startswith(beyond)))
    session = _repair(replace(session, notes=notes), "falcon-h1-rate", n_samples, text)
    first_ns = min(int(s.time_ns[0]) for s in mended.values())
    session = _reach_from(session, first_ns - -(-(first_ns - session.start_ns) // BIN_NS) * BIN_NS)
    return _reach_to(_with_signals(session, mended), max(int(s.time_ns[-1]) + 1 for s in mended.values()))


def _reach_from(session: Session, start_ns: int) -> Session:
    """The extent from the edge of a bin on, so that bins that are cut from it end at the stamps."""
    observed = session.observed
    if session.observed_source == "assumed":
        observed = Intervals(np.array([start_ns]), np.array([session.stop_ns]))
    return replace(session, start_ns=start_ns, observed=observed)


def _reach_to(session: Session, stop_ns: int) -> Session:
    """The extent, and the observed time where that was assumed, at least as far as this."""
    if stop_ns <= session.stop_ns:
        return session
    observed = session.observed
    if session.observed_source == "assumed":
        observed = Intervals(np.array([session.start_ns]), np.array([stop_ns]))
    return replace(session, stop_ns=stop_ns, observed=observed)


def _join_components(session: Session, container: str, path: Path) -> Session:
    """The series of one container as one signal, a component each, in the file's order."""
    from spiketok.sources.formats.nwb.hdf5 import Hdf5

    with Hdf5(path) as h5:
        group = h5.group(h5.root, "acquisition", container)
        members = [] if group is None else h5.names(group)
    found = {}
    for member in members:  # the reader gives a name its container where two series have it
        names = (f"acquisition.{container}.{member}", f"{container}.{member}", member)
        own = next((name for name in names if name in session.signals), None)
        if own is None:
            message = f"{session.id}: acquisition/{container}/{member} could not be read, so '{container}' is not whole"
            raise DataError(message)
        found[own] = member
    if not found:
        return session
    parts = [session.signals[name] for name in found]
    for name, part in zip(found, parts, strict=True):
        if not np.array_equal(part.time_ns, parts[0].time_ns):
            message = f"{session.id}: the series of '{container}' differ in time: '{name}' and '{next(iter(found))}'"
            raise DataError(message)
    components = [c if len(part.components) == 1 else f"{c}.{k}" for part, c in zip(parts, found.values(), strict=True)
                  for k in range(len(part.components))]  # fmt: skip
    joined = Signal(
        time_ns=parts[0].time_ns,
        value=np.concatenate([part.value for part in parts], axis=1),
        components=tuple(components),
        measure=parts[0].measure if len({part.measure for part in parts}) == 1 else "",
        valid=np.logical_and.reduce([part.valid for part in parts]),
        rate_hz=parts[0].rate_hz,
    )
    text = (
        f"acquisition/{container}: its {len(parts)} series are one signal with the components {', '.join(components)}"
    )
    session = _note(session, "falcon-one-signal", len(parts), text)
    return _with_signals(session, {container: joined}, without=list(found))


def _note_stamps(session: Session) -> Session:
    """M2: say that stamps are on the last ms of their bins."""
    signal = session.signals.get("finger_vel")
    if signal is None or (int(signal.time_ns[0]) + 1_000_000) % BIN_NS:
        return session
    text = (
        f"the {signal.time_ns.size} stamps of finger_vel stand on the last ms of their 20 ms bins (the first at "
        f"{signal.time_ns[0] / NS_PER_S:.3f} s); the reference loader takes them for starts, its counts come 19 ms late"
    )
    return _note(session, "falcon-m2-stamps", signal.time_ns.size, text)


def _note_clock(session: Session) -> Session:
    """H2 and B1: say where the time between trials is not the recording's."""
    if session.observed_source != "bins":
        return session
    n_gaps = len(session.observed) - 1
    text = f"{n_gaps} gaps between trials were put there by the source; time does not pass in them as it did"
    session = _note(session, "falcon-h2-gaps", n_gaps, text)
    if session.trials is None or "spectrogram_values" not in session.trials.columns:
        return session
    text = f"{len(session.trials)} trials were cut out of a recording and laid end to end: no window should cross them"
    return _note(session, "falcon-b1-clock", len(session.trials), text)


def _take_spectrogram(session: Session) -> Session:
    """B1: values, times and mask of the trials' spectrograms as two signals."""
    trials = session.trials
    names = ("spectrogram_values", "spectrogram_times", "spectrogram_eval_mask")
    if trials is None or not any(name in trials.columns for name in names):
        return session
    columns = {name: trials.columns.get(name) for name in names}
    wrong = [name for name, column in columns.items() if column is None or isinstance(column, Ragged)]
    if wrong:
        message = f"{session.id}: the trials have no column '{wrong[0]}' of trials x frequencies x frames"
        raise DataError(message)
    value, time_s, scored = columns.values()
    if value.ndim != 3 or scored.shape != value.shape or time_s.shape != (value.shape[0], value.shape[2]):
        shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        message = f"{session.id}: the spectrograms' shapes do not fit each other ({shapes})"
        raise DataError(message)
    time_ns = _frame_times(session, np.rint(time_s * NS_PER_S).astype(np.int64))
    value, scored = (np.moveaxis(column, 1, 2).reshape(time_ns.size, -1) for column in (value, scored))
    finite = np.isfinite(value)
    alike = bool((scored == scored[:, :1]).all())
    mask = scored[:, :1] if alike else scored
    signals = {
        "spectrogram": Signal(
            time_ns,
            np.where(finite, value, 0).astype(np.float32),
            _frequency_names(trials.columns.get("spectrogram_frequencies"), value.shape[1]),
            "",
            finite.all(axis=1) & scored.any(axis=1),
        ),
        "spectrogram_eval_mask": Signal(
            time_ns,
            mask.astype(np.float32),
            tuple(f"c{k}" for k in range(mask.shape[1])),
            "bool",
            np.ones(time_ns.size, np.bool_),
        ),
    }
    rest = {name: column for name, column in trials.columns.items() if name not in names}
    intervals = dict(session.intervals) | {"trials": Intervals(trials.start_ns, trials.stop_ns, rest)}
    text = (
        f"the trials' columns {', '.join(names)} are the signals spectrogram ({time_ns.size} frames of "
        f"{value.shape[1]} frequencies, as float32) and spectrogram_eval_mask"
    )
    session = _note(replace(session, intervals=intervals), "falcon-b1-spectrogram", time_ns.size, text)
    n_hidden = int((~scored.any(axis=1)).sum())
    text = f"spectrogram: {n_hidden} of {time_ns.size} frames are not scored, marked as not valid"
    session = _note(session, "falcon-eval-mask", n_hidden, text)
    return _reach_to(_with_signals(session, signals), int(time_ns[-1]) + 1)


def _frame_times(session: Session, time_ns: np.ndarray) -> np.ndarray:
    """int64 ``[trials * frames]`` on the session's clock: frames count from each trial's start."""
    trials = session.trials
    on_clock = time_ns + trials.start_ns[:, None]
    flat = on_clock.reshape(-1)
    inside = (time_ns >= 0).all() and (on_clock <= trials.stop_ns[:, None] + BIN_NS).all()
    if not inside or (np.diff(flat) <= 0).any():
        message = (
            f"{session.id}: spectrogram_times do not count from their trials' starts "
            f"({time_ns.min() / NS_PER_S:g} to {time_ns.max() / NS_PER_S:g} s)"
        )
        raise DataError(message)
    return flat


def _frequency_names(column: np.ndarray | Ragged | None, n_components: int) -> tuple[str, ...]:
    """``"292.97 Hz"`` ... where all trials have the same frequencies; else ``"c0"`` ..."""
    if isinstance(column, np.ndarray) and column.ndim == 2 and column.shape[1] == n_components:
        names = tuple(f"{value:.2f} Hz" for value in column[0])
        if (column == column[0]).all() and len(set(names)) == n_components:
            return names
    return tuple(f"c{k}" for k in range(n_components))


def _apply_mask(session: Session, name: str) -> Session:
    """Samples at the mask's times at which it is False are marked as not valid; values stay."""
    mask = session.signals.get(name)
    if mask is None:
        return session
    scored = mask.valid & (mask.value[:, 0] != 0)
    n_hidden = int((~scored).sum())
    beside = {
        other: signal
        for other, signal in session.signals.items()
        if other not in (name, "TrialNum", "Blacklist") and np.array_equal(signal.time_ns, mask.time_ns)
    }
    if not beside:
        return session
    text = f"{', '.join(beside)}: {n_hidden} of {scored.size} samples are not scored ({name}), marked as not valid"
    session = _note(session, "falcon-eval-mask", n_hidden, text)
    return _with_signals(session, {other: replace(s, valid=s.valid & scored) for other, s in beside.items()})


def _set_splits(session: Session) -> Session:
    """The whole session as one split of the set ``falcon``, beside the source's own where it has any."""
    role, own = session.info.get("falcon_role", ""), session.splits
    if not role:
        return session
    start = np.concatenate([own.start_ns, [session.start_ns]])
    stop = np.concatenate([own.stop_ns, [session.stop_ns]])
    names = [*own.columns.get("name", np.zeros(0, np.str_)).tolist(), SPLIT_OF_ROLE[role]]
    sets = [*own.columns.get("set", np.full(len(own), "source")).tolist(), SPLIT_SET]
    return replace(session, splits=Intervals(start, stop, {"name": np.array(names), "set": np.array(sets)}))


RULES = Rules("falcon", 1, adjust=adjust, session_name=session_name, mends_clocks=True)
