"""Which units are good enough: filters on rates and on unit columns, and quality metrics through spikeinterface.

What is unusual: a unit without a value does not pass, whatever the comparison, and is counted by itself; rates are
spikes per second in which the unit was observed; and what a filter takes away is told with its spikes.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError, require
from spiketok.recording.nouns import NS_PER_S, Column, Finding, Intervals, Ragged, Session, UnitTable
from spiketok.recording.units import observed_spikes, take_units

COMPARE: dict[str, Callable] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
GRAMMAR = "COLUMN<NUMBER, COLUMN==WORD, COLUMN[INDEX]>NUMBER of a column with several values, joined by 'and'"
_COMPARISON = re.compile(r"\s*(?P<column>[^=!<>]+?)\s*(?P<sign>==|!=|<=|>=|<|>)\s*(?P<value>[^=!<>]+?)\s*")
_ENTRY = re.compile(r"(?P<column>.+?)\s*\[\s*(?P<entry>[0-9]+)\s*\]")
METRICS = "metric_"  # how the columns of quality metrics begin


# ---- filters --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One comparison of a unit column, or of one entry of a column with several values, with a number or a word."""

    column: str
    sign: str
    value: float | str
    entry: int | None = None

    def __str__(self) -> str:
        return f"{self.column}{'' if self.entry is None else f'[{self.entry}]'}{self.sign}{self.value!r}"


def parse_quality(text: str) -> tuple[Comparison, ...]:
    """Comparisons on unit columns, all of which a unit must pass.

    Args:
        text: as ``isi_violations<0.5 and quality=='good'``; quotes around a word may be left out. ``iscell[0]>0.5``
            compares one entry, counted from 0, of a column with several values a unit.

    Raises:
        UsageError: the text is no such thing.

    >>> [str(c) for c in parse_quality("isi_violations < .5 and quality == good")]
    ['isi_violations<0.5', "quality=='good'"]
    """
    comparisons = []
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            message = f"--quality '{text}': '{part}' cannot be read: use {GRAMMAR}"
            raise UsageError(message)
        word = match["value"]
        quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
        value: float | str = word[1:-1] if quoted else _number_or_word(word)
        if isinstance(value, str) and match["sign"] not in ("==", "!="):
            message = f"--quality '{text}': '{part}' compares a word with '{match['sign']}': use == or !="
            raise UsageError(message)
        named = _ENTRY.fullmatch(match["column"])
        column, entry = (match["column"], None) if named is None else (named["column"], int(named["entry"]))
        comparisons.append(Comparison(column, match["sign"], value, entry))
    return tuple(comparisons)


def _number_or_word(word: str) -> float | str:
    try:
        number = float(word)
    except ValueError:
        return word
    return word if np.isnan(number) else number


def _passes(column: Column, comparison: Comparison, session_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Which units pass (bool ``[N]``), and which have no value."""
    column, lacks = _compared(column, comparison, session_id)
    value = comparison.value
    if column.dtype.kind == "b" and isinstance(value, str) and value.lower() in ("true", "false"):
        value = float(value.lower() == "true")
    texts = column.dtype.kind == "U"
    if texts != isinstance(value, str):
        if not texts:
            message = f"{session_id}: unit column '{comparison.column}' holds numbers, compared with '{value}'"
            raise UsageError(message)
        value = f"{value:g}"
        if comparison.sign not in ("==", "!="):
            message = f"{session_id}: unit column '{comparison.column}' holds words: use == or != in '{comparison}'"
            raise UsageError(message)
    missing = lacks | (column == "" if texts else np.isnan(column.astype(np.float64)))
    return COMPARE[comparison.sign](column, value) & ~missing, missing


def _compared(column: Column, comparison: Comparison, session_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The values that a comparison is about, ``[N]``, and which units have no such entry (their value is any)."""
    name, entry = f"{session_id}: unit column '{comparison.column}'", comparison.entry
    if not isinstance(column, Ragged) and column.ndim == 1:
        if entry is not None:
            message = f"{name} has one value a unit, no entries: leave out '[{entry}]'"
            raise UsageError(message)
        return column, np.zeros(len(column), np.bool_)
    if entry is None:
        message = f"{name} has several values a unit: name one of them, as {comparison.column}[0]"
        raise UsageError(message)
    if column.value.ndim > 1 if isinstance(column, Ragged) else column.ndim > 2:
        message = f"{name} has a table of values a unit: no filter can use it"
        raise UsageError(message)
    length = np.diff(column.offset) if isinstance(column, Ragged) else np.full(len(column), column.shape[1])
    lacks = length <= entry
    if lacks.all():
        message = (
            f"{name} has at most {length.max(initial=0)} values a unit: there is no entry [{entry}], the first is [0]"
        )
        raise UsageError(message)
    if not isinstance(column, Ragged):
        return column[:, entry], lacks
    return column.value[np.where(lacks, 0, column.offset[:-1] + entry)], lacks


def filter_units(session: Session, min_rate_hz: float | None = None, quality: str = "") -> Session:
    """The session without the units that fail, each filter told among its repairs.

    Args:
        session: the session.
        min_rate_hz: units with fewer spikes per observed second leave; so do those that were never observed.
        quality: see :func:`parse_quality`.

    Raises:
        UsageError: the filter cannot be read, or does not fit the column. UnknownNameError: there is no such column.
        DataError: not one unit would stay.
    """
    if min_rate_hz is not None:
        if not (np.isfinite(min_rate_hz) and min_rate_hz >= 0):
            message = f"--min-rate {min_rate_hz}: must be a number of Hz, at least 0"
            raise UsageError(message)
        count, seconds = observed_spikes(session)
        rate_hz = np.divide(count, seconds, out=np.full(count.size, np.nan), where=seconds > 0)
        missing = np.isnan(rate_hz)
        session = _leave(
            session, rate_hz >= min_rate_hz, missing, "units-below-min-rate", f"a rate below {min_rate_hz:g} Hz"
        )
    for comparison in parse_quality(quality) if quality else ():
        whole = "" if comparison.entry is None else f"{comparison.column}[{comparison.entry}]"
        if whole in session.units.columns:  # a column may have such a name itself
            comparison = replace(comparison, column=whole, entry=None)
        if comparison.column not in session.units.columns:
            raise UnknownNameError("unit column", comparison.column, session.units.columns, session.id)
        keep, missing = _passes(session.units.columns[comparison.column], comparison, session.id)
        session = _leave(session, keep, missing, "units-below-quality", f"not {comparison}")
    return session


def _leave(session: Session, keep: np.ndarray, missing: np.ndarray, name: str, why: str) -> Session:
    n_out, n_missing = int((~keep).sum()), int(missing.sum())
    if not keep.any():
        message = f"{session.id}: all {keep.size} units would leave ({why}; {n_missing} without a value): ask for less"
        raise DataError(message)
    if not n_out:
        return session
    done = take_units(session, keep)
    n_spikes = len(session.spikes) - len(done.spikes)
    text = (
        f"left out {n_out} of {keep.size} units and {n_spikes} of {len(session.spikes)} spikes: {why}"
        f"{f', {n_missing} of them without a value' if n_missing else ''}"
    )
    return replace(done, repairs=(*done.repairs, Finding(name, n_out, text)))


# ---- metrics --------------------------------------------------------------------------------------------------------


class _Analysed:
    """What spikeinterface's metrics of spike times ask of a sorting analyzer, without a recording.

    Args:
        sorting: a spikeinterface sorting of one segment.
        n_samples: its length.
    """

    def __init__(self, sorting: object, n_samples: int) -> None:
        self.sorting, self._n_samples = sorting, n_samples
        self.unit_ids, self.sampling_frequency = sorting.unit_ids, sorting.sampling_frequency

    def get_num_segments(self) -> int:
        return 1

    def get_num_samples(self, segment_index: int = 0) -> int:
        return self._n_samples

    def get_total_samples(self) -> int:
        return self._n_samples


def quality_columns(session: Session) -> dict[str, np.ndarray]:
    """Quality metrics that spike times alone give, by spikeinterface, as unit columns.

    Counted is what lies in the unit's observed time; the presence ratio (in minutes) takes the observed intervals as if
    they followed each other without a break, and no interval between spikes is counted across one.

    Returns:
        ``metric_num_spikes``, ``metric_firing_rate`` (Hz), ``metric_presence_ratio``, ``metric_isi_violations_ratio``,
        ``metric_isi_violations_count``, ``metric_rp_contamination``, ``metric_rp_violations``: float64 ``[N]``, NaN
        where a unit has no spikes.

    Raises:
        MissingExtraError: spikeinterface is not installed.
    """
    quality = require("spikeinterface.metrics.quality", "sorting", "computing quality metrics")
    trains = require("spikeinterface.metrics.spiketrain", "sorting", "computing quality metrics")
    columns: dict[str, np.ndarray] = {}
    for rows, observed in _groups_by_observed(session):
        there, joined = _sortings(session, rows, observed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a recording shorter than a bin: the result is NaN
            isi, rp = quality.compute_isi_violations(there), quality.compute_refrac_period_violations(there)
            results = {
                "num_spikes": trains.compute_num_spikes(there),
                "firing_rate": trains.compute_firing_rates(there),
                "presence_ratio": quality.compute_presence_ratios(joined, bin_duration_s=60.0),
                "isi_violations_ratio": isi.isi_violations_ratio,
                "isi_violations_count": isi.isi_violations_count,
                "rp_contamination": rp.rp_contamination,
                "rp_violations": rp.rp_violations,
            }
        for name, of_unit in results.items():
            column = columns.setdefault(METRICS + name, np.full(len(session.units), np.nan))
            value = np.array([of_unit[row] for row in rows.tolist()], np.float64)
            column[rows] = np.where(value < 0, np.nan, value)  # -1 stands for a count of no spikes
    return columns


def _groups_by_observed(session: Session) -> list[tuple[np.ndarray, Intervals]]:
    """Rows of units that were observed at the same times, with these times; those never observed are in none."""
    if session.unit_observed is None:
        groups = {b"": (list(range(len(session.units))), session.observed)}
    else:
        groups = {}
        for row in range(len(session.units)):
            pairs = session.unit_observed[row]
            rows, _ = groups.setdefault(pairs.tobytes(), ([], Intervals(pairs[:, 0], pairs[:, 1]).union()))
            rows.append(row)
    return [(np.array(rows), observed) for rows, observed in groups.values() if observed.total_ns]


def _sortings(session: Session, rows: np.ndarray, observed: Intervals) -> tuple[_Analysed, _Analysed]:
    """The observed spikes of some units in nanoseconds from the first observed one; and with the breaks taken out."""
    from spikeinterface.core import NumpySorting
    from spikeinterface.core.base import minimum_spike_dtype

    spikes = session.spikes
    wanted = np.zeros(len(session.units), np.bool_)
    wanted[rows] = True
    place = np.searchsorted(observed.start_ns, spikes.time_ns, side="right") - 1
    inside = wanted[spikes.unit] & (place >= 0) & (spikes.time_ns < observed.stop_ns[place])
    time_ns, unit, place = spikes.time_ns[inside], spikes.unit[inside], place[inside]
    lasts_ns = observed.stop_ns - observed.start_ns
    begins_ns = np.concatenate([[0], np.cumsum(lasts_ns)[:-1]])
    since = time_ns - observed.start_ns[0]
    joined = time_ns - observed.start_ns[place] + begins_ns[place]
    sortings = []
    for frame in (since, joined):
        stream = np.zeros(frame.size, minimum_spike_dtype)
        stream["sample_index"], stream["unit_index"] = frame, np.searchsorted(rows, unit)
        sortings.append(_Analysed(NumpySorting(stream, float(NS_PER_S), rows), int(observed.total_ns)))
    return sortings[0], sortings[1]


def add_metrics(session: Session) -> Session:
    """The session with the columns of :func:`quality_columns`, told among its notes."""
    columns = quality_columns(session)
    taken = sorted(set(columns) & set(session.units.columns))
    text = f"{len(columns)} unit columns were computed by spikeinterface from spike times: {', '.join(columns)}"
    text += f"; those of the source are replaced: {', '.join(taken)}" if taken else ""
    units = UnitTable(session.units.id, {**session.units.columns, **columns})
    return replace(session, units=units, notes=(*session.notes, Finding("metrics-computed", len(columns), text)))


# ---- settings -------------------------------------------------------------------------------------------------------


def apply_unit_settings(session: Session, settings: Mapping[str, object]) -> Session:
    """Metrics, then filters, as the settings of a store say: ``metrics``, ``min_rate_hz``, ``quality``."""
    if settings.get("metrics"):
        session = add_metrics(session)
    return filter_units(session, settings.get("min_rate_hz"), str(settings.get("quality", "")))
