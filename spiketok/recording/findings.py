"""How grave each finding is, and which commands say it again: one table by id.

    info     bookkeeping: nothing was lost, and nothing is unclear
    warning  data were lost, or what they mean is not clear
    error    stored, but not to be trained on before somebody decided

What is unusual: a session stores a finding's id, count and text and not its severity, so that a severity may be thought
over without a session being made again. An id that the table does not know (of rules of another package) is a warning:
nobody said that it is harmless. Some findings are of a store and not of a file (the same recording twice): they are
told when a session is ingested, and stored nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spiketok.recording.nouns import Finding

INFO, WARNING, ERROR = "info", "warning", "error"
SEVERITIES = (INFO, WARNING, ERROR)
GRAVE = (WARNING, ERROR)  # what --strict refuses
TOKENIZE, TRAIN = "tokenize", "train"  # who says a finding again; whatever scores a run says what training says
MASKED, INVALID = "time-masked", "invalid-times"


class Rating(NamedTuple):
    """What the table says of an id.

    Args:
        severity: of :data:`SEVERITIES`.
        told: the commands that say it again. of_signal: only where what is decoded comes of that behaviour.
        short: the finding in a few words, for the line that says it again.
    """

    severity: str
    told: tuple[str, ...] = ()
    short: str = ""
    of_signal: bool = False


def _of_time(severity: str, short: str) -> Rating:
    """Something about spikes or observed time: every user of the tokens should know."""
    return Rating(severity, (TOKENIZE, TRAIN), short)


def _of_training(severity: str, short: str) -> Rating:
    return Rating(severity, (TRAIN,), short)


def _of_signal(severity: str, short: str) -> Rating:
    return Rating(severity, (TRAIN,), short, of_signal=True)


TABLE: dict[str, Rating] = {
    # spikes
    "spikes-not-finite": _of_time(WARNING, "spike times that were no times are gone"),
    "spikes-unsorted": Rating(WARNING),
    "spikes-begin-again": _of_time(WARNING, "the times of some units begin again, those of the others go on"),
    "spikes-duplicate": Rating(WARNING),
    "spikes-negative": _of_time(WARNING, "spikes lie before time zero"),
    "spikes-after-end": Rating(INFO),
    "spikes-unobserved": _of_time(WARNING, "spikes lie outside of the observed time"),
    "spikes-all-unobserved": _of_time(ERROR, "no spike lies in the observed time: one of both is on another clock"),
    "spikes-filler": _of_time(WARNING, "many spikes lie at one time, as fillers do"),
    "spikes-outside-dropped": _of_time(WARNING, "spikes outside of the observed time are gone"),
    "spikes-low-precision": _of_time(WARNING, "spike times are stored with few digits"),
    "spikes-binned": _of_time(INFO, "spikes are known as counts of bins only"),
    # units
    "units-silent": Rating(INFO),
    "units-from-rois": Rating(INFO),
    "units-below-min-rate": Rating(INFO),
    "units-below-quality": Rating(INFO),
    "unit-ids-duplicate": Rating(WARNING),
    "metrics-computed": Rating(INFO),
    "electrodes-missing": Rating(INFO),
    "electrodes-unusable": Rating(WARNING),
    "electrodes-out-of-range": Rating(WARNING),
    "units-elsewhere": Rating(INFO),
    "units-unmatched": Rating(WARNING),
    "clusters-undescribed": Rating(WARNING),
    "units-undescribed": Rating(WARNING),
    "sortings-other": Rating(WARNING),
    "sorter-tables-differ": Rating(WARNING),
    "sorter-rows-differ": Rating(WARNING),
    "sorter-table-rows": Rating(WARNING),
    # time
    "observed-assumed": _of_training(INFO, "the source does not say what was observed"),
    "spikes-begin-late": _of_training(WARNING, "the first spike comes long after trials and behaviour begin"),
    "spikes-end-early": _of_training(WARNING, "the last spike comes long before trials and behaviour end"),
    "observed-empty": _of_time(WARNING, "the source states observed time in which nothing lies"),
    "obs-intervals-missing": _of_training(WARNING, "some units do not say when they were observed"),
    "obs-intervals-invalid": _of_training(WARNING, "observation intervals that were none are gone"),
    INVALID: _of_time(ERROR, "the source calls some of the time invalid, and it counts as observed"),
    MASKED: _of_time(INFO, "time of a table counts as not observed"),
    "clock-restarts": _of_time(WARNING, "the clock begins again: blocks lie one behind the other"),
    "clock-unix": Rating(INFO),
    "time-zero-differs": Rating(INFO),
    # tables and columns
    "intervals-left-out": Rating(INFO),
    "intervals-far": Rating(WARNING),
    "intervals-long": _of_training(WARNING, "rows reach far into time in which nothing else lies"),
    "trials-apart": _of_training(WARNING, "trials lie where no unit was observed"),
    "interval-start-missing": Rating(WARNING),
    "interval-stop-missing": Rating(WARNING),
    "interval-stop-before-start": Rating(WARNING),
    "splits-other": Rating(INFO),
    "columns-missing": Rating(WARNING),
    "columns-undeclared": Rating(INFO),
    "columns-left-out": Rating(INFO),
    # behaviours
    "signal-length": _of_signal(WARNING, "samples or stamps were cut to the shorter"),
    "signal-times": _of_signal(WARNING, "samples without a good time stamp are gone"),
    "signal-transposed": _of_signal(WARNING, "it was read with components first"),
    "signal-conversion": _of_signal(WARNING, "its conversion was no number and is taken as 1"),
    "signal-not-finite": _of_signal(INFO, "samples that are not finite are not scored"),
    "signal-component-missing": _of_signal(WARNING, "a component is finite in no sample, so none can be decoded"),
    "signal-gaps": _of_signal(INFO, "samples in gaps of its domain are not scored"),
    "signal-apart": _of_signal(WARNING, "it lies where no unit was observed"),
    "signal-short": _of_signal(WARNING, "it lasts a small part of the recording and is sampled very often"),
    "signal-beyond": _of_signal(WARNING, "samples lie over a day from all spikes and trials"),
    "samples-outside-dropped": _of_signal(WARNING, "samples outside of the observed time are gone"),
    "events-outside-trials": Rating(WARNING),
    "series-left-out": Rating(INFO),
    "events-without-value": Rating(INFO),
    "processed": Rating(INFO),
    "trials-stated": Rating(INFO),
    # files
    "external-links": Rating(WARNING),
    "streamed": Rating(INFO),
    "files-revised": Rating(INFO),
    "files-left-out": Rating(INFO),
    "files-in-time": Rating(INFO),
    "planes-cut": Rating(INFO),
    "behaviour-joined": Rating(INFO),
    "merge-identifiers": Rating(INFO),
    "files-merged": Rating(INFO),
    "merge-clocks": Rating(WARNING),
    "merge-columns": Rating(INFO),
    "merge-differs": Rating(WARNING),
    # of a store, told and not stored
    "same-file": Rating(WARNING),
    "same-recording": Rating(WARNING),
    # the rules of datasets
    "allen-quality": Rating(INFO),
    "allen-regions": Rating(INFO),
    "churchland-clock": Rating(INFO),
    "churchland-derivatives": Rating(INFO),
    "churchland-no-split": Rating(INFO),
    "churchland-observed": Rating(WARNING),
    "churchland-overlap": Rating(WARNING),
    "churchland-stamps-unmatched": _of_signal(WARNING, "samples at the time of another are gone"),
    "churchland-units-unmatched": _of_time(ERROR, "the spikes of some units do not fit the clock's blocks"),
    "falcon-b1-clock": _of_training(WARNING, "trials were laid end to end: no window should cross them"),
    "falcon-b1-spectrogram": Rating(INFO),
    "falcon-eval-mask": Rating(INFO),
    "falcon-h1-rate": Rating(INFO),
    "falcon-h2-gaps": _of_training(INFO, "time does not pass as it did in the gaps between trials"),
    "falcon-m2-stamps": Rating(INFO),
    "falcon-minival": _of_training(WARNING, "it is part of the held-in calibration: no validation"),
    "falcon-one-signal": Rating(INFO),
    "falcon-role": _of_training(WARNING, "which part of FALCON it is nobody says: no split is set"),
    "falcon-subject": Rating(INFO),
    "ibl-no-split": Rating(INFO),
    "ibl-regions": Rating(INFO),
    "ibl-trials": Rating(INFO),
    "ibl-unit-ids": Rating(INFO),
    "ibl-windows-cut": Rating(INFO),
    "link-no-split": Rating(INFO),
    "link-trials-left": Rating(INFO),
    "mc_maze-electrodes": Rating(INFO),
    "nlb-columns-missing": Rating(INFO),
    "nlb-held-out-unobserved": Rating(INFO),
    "nlb-split-none": Rating(INFO),
    "nlb-two-files": Rating(INFO),
    "odoherty_sabes-derivatives": Rating(INFO),
    "odoherty_sabes-empty": Rating(INFO),
    "odoherty_sabes-outside": Rating(INFO),
    "odoherty_sabes-still": Rating(INFO),
    "odoherty_sabes-unsorted": Rating(INFO),
    "perich_miller-no-split": Rating(INFO),
    "perich_miller-outliers": Rating(INFO),
    "perich_miller-regions": Rating(INFO),
    "perich_miller-trial-grid": Rating(INFO),
    "steinmetz-frames": Rating(INFO),
    "steinmetz-moves": Rating(INFO),
    "steinmetz-rate": Rating(INFO),
    "steinmetz-region": Rating(INFO),
    "steinmetz-waveform-duration": Rating(WARNING),
    "bwb-build": Rating(WARNING),
    "bwb-behaviours": Rating(INFO),
}
UNKNOWN = Rating(WARNING)


class Rated(NamedTuple):
    """A finding with its severity; ``kind`` is ``"repair"``, ``"note"`` or (told, not stored) ``"store"``."""

    id: str
    severity: str
    kind: str
    count: int
    text: str


def rated(repairs: Iterable[Finding], notes: Iterable[Finding]) -> list[Rated]:
    """The findings of a session with their severities, the gravest first.

    Invalid time that was masked is decided: its note is an info then.

    >>> rated([], [Finding("observed-assumed", 1, "..."), Finding("spikes-negative", 2, "...")])[0][:2]
    ('spikes-negative', 'warning')
    """
    kinds = [("repair", found) for found in repairs] + [("note", found) for found in notes]
    masked = " ".join(found.text for _, found in kinds if found.id == MASKED)
    all_masked = re.search(r"\binvalid_times\b", masked) is not None
    rows = []
    for kind, found in kinds:
        severity = TABLE.get(found.id, UNKNOWN).severity
        if found.id == INVALID and all_masked:
            severity = INFO
        rows.append(Rated(found.id, severity, kind, found.count, found.text))
    return sorted(rows, key=lambda row: -SEVERITIES.index(row.severity))


def grave(findings: Iterable[Rated]) -> list[Rated]:
    """The warnings and errors among them."""
    return [found for found in findings if found.severity in GRAVE]


def named(findings: Iterable[Rated]) -> str:
    """Findings in a list for one line.

    >>> named([Rated("spikes-negative", "warning", "note", 250, "...")])
    'spikes-negative (warning, 250)'
    """
    return ", ".join(f"{found.id} ({found.severity}, {found.count})" for found in findings)


# ---- said again -----------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """A finding that a command says again, once for all sessions that have it."""

    id: str
    severity: str
    short: str
    sessions: tuple[str, ...]

    @property
    def line(self) -> str:
        """For a person: what it is, where, and the command that says more."""
        first, n = self.sessions[0], len(self.sessions)
        where = first if n == 1 else f"{first} and {n - 1} more"
        return f"{self.severity}: {self.id} in {where}: {self.short} (spiketok inspect {first})"


def worth_keeping(findings: Iterable[Rated]) -> list[Rated]:
    """Those that some command says again."""
    return [found for found in findings if TABLE.get(found.id, UNKNOWN).told]


def told_again(
    consumer: str, sessions: Mapping[str, Sequence[Rated]], signals: Mapping[str, Sequence[str]] | None = None
) -> list[Told]:
    """What a command says again, the gravest first.

    Args:
        consumer: :data:`TOKENIZE` or :data:`TRAIN`.
        sessions: the findings of each, by id.
        signals: of each session the behaviours that are decoded, with those that they were made of; None for none.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for session, findings in sessions.items():
        for one in findings:
            rating = TABLE.get(one.id, UNKNOWN)
            if consumer not in rating.told:
                continue
            short = rating.short
            if rating.of_signal:
                names = [name for name in (signals or {}).get(session, ()) if is_about(one.text, name)]
                if not names:
                    continue
                short = f"{names[0]}: {short}"
            holders = found.setdefault((one.id, one.severity, short), [])
            if session not in holders:
                holders.append(session)
    told = [Told(name, severity, short, tuple(ids)) for (name, severity, short), ids in found.items()]
    return sorted(told, key=lambda one: -SEVERITIES.index(one.severity))


def is_about(text: str, signal: str) -> bool:
    """Whether a finding's text speaks of a behaviour: of the path in the source that its name is the end of.

    >>> is_about("processing/behavior/Position/hand: 3 of 9 samples are not finite", "hand")
    True
    >>> is_about("processing/behavior/Position/hand: 3 of 9 samples are not finite", "Position.hand")
    True
    >>> is_about("processing/behavior/Position/hand: 3 of 9 samples are not finite", "and")
    False
    """
    pattern = r"[./]".join(re.escape(part) for part in re.split(r"[./]", signal))
    return re.search(rf"(?:^|[\s/:]){pattern}(?=[\s:,]|$)", text) is not None
