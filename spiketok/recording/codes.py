"""Event codes: signals and trial columns whose values are names of something, written as numbers.

A strobe's word, the phase of a task, a mask: nothing lies between 3 and 4. They are drawn as ticks with labels, never
as a line, and nobody is offered to decode them as a number; :func:`is_code` is the one place that tells, for pictures,
for the choice of a target, and for ``inspect``. A source does not say it, so it is told from the values:

- all are whole numbers, and there are two or more;
- where the source states a measure, which a code has not, there are two of them: a line that is up or down;
- else there are few (:data:`FEW`); or more, and changes go far: the usual one passes over a tenth of the values that
  lie between the lowest and the highest, where a position in whole steps goes to a value nearby.

Measures that say it (``"bool"``, ``"code"`` ...) are taken at their word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketok.recording.nouns import Intervals, Ragged, Signal

MEASURES = ("bool", "boolean", "code", "codes", "event code", "enum", "label")
NO_MEASURE = (
    "",
    "-",
    "1",
    "-1",
    "a.u.",
    "arbitrary",
    "arbitrary unit",
    "arbitrary units",
    "au",
    "dimensionless",
    "int",
)
NO_MEASURE += ("n.a.", "n/a", "na", "nan", "no unit", "none", "null", "unitless", "unknown", "not specified")
FEW = 12  # so many whole values are codes, however they follow each other
MOST = 4096  # more whole values than these are no codes
FAR = 0.1  # of the values in between, which the median change of a code passes over
LOOK = 4096  # samples that are looked at first: most signals show within them that they are none


def is_code(signal: Signal) -> bool:
    """Whether a signal holds codes: all its components do, in the samples that are valid."""
    measure = signal.measure.strip().lower()
    if measure in MEASURES:
        return True
    if not _whole(signal.value[:LOOK][signal.valid[:LOOK]]):
        return False
    value = signal.value[signal.valid]
    if not len(value) or not _whole(value):
        return False
    few = FEW if measure in NO_MEASURE else 2
    each = [_follow_as_codes(value[:, k], few) for k in range(value.shape[1])]
    return bool(each) and all(kind is not False for kind in each) and any(each)


def is_code_column(column: object) -> bool:
    """Whether a column of a trial table holds codes: words, flags, or whole numbers of which few differ."""
    if isinstance(column, Ragged) or np.ndim(column) != 1 or len(column) == 0:
        return False
    values = np.asarray(column)
    if values.dtype.kind in "USOb":
        return True
    known = values[np.isfinite(values)]
    return known.size > 0 and _whole(known) and np.unique(known).size <= min(FEW, max(2, known.size // 2))


def code_columns(trials: Intervals) -> dict[str, np.ndarray]:
    """The columns of a trial table that hold codes and more than one of them, as str ``[I]``; of no value: empty."""
    found = {}
    for name, column in trials.columns.items():
        if not is_code_column(column):
            continue
        values = np.asarray(column)
        if values.dtype.kind in "fiu":
            known = np.isfinite(values)
            words = np.array([f"{v:g}" if good else "" for v, good in zip(values, known, strict=True)], np.str_)
        else:
            words = values.astype(np.str_)
        if np.unique(words).size > 1:
            found[name] = words
    return found


def _whole(value: np.ndarray) -> bool:
    return bool((value == np.rint(value)).all())


def _follow_as_codes(value: np.ndarray, few: int) -> bool | None:
    """Whether whole values ``[T]`` follow each other as codes do; None where they are constant, and so tell nothing."""
    change = value[1:][value[1:] != value[:-1]]
    known = np.unique(value)
    if known.size < 2:
        return None
    if known.size <= few:
        return True
    if few < FEW or known.size > MOST:
        return False
    before = value[:-1][value[1:] != value[:-1]]
    steps = np.abs(np.searchsorted(known, change) - np.searchsorted(known, before))
    return bool(np.median(steps) > max(1.0, FAR * (known.size - 1)))


@dataclass(frozen=True, eq=False)
class Marks:
    """Moments at which a code stands, and what stands there.

    Args:
        time_ns: int64 ``[M]``, rising. value: the code at each, float ``[M, C]`` or str ``[M]``.
    """

    time_ns: np.ndarray
    value: np.ndarray

    def labels(self) -> list[str]:
        """One a mark: ``"4"``, or ``"4, 1"`` of several components."""
        if self.value.ndim == 1:
            return [str(word) for word in self.value.tolist()]
        return [", ".join(f"{v:g}" for v in row) for row in self.value.tolist()]


def marks_of(signal: Signal) -> Marks:
    """Where a signal of codes has another value than the valid sample before, the first one among them.

    Of a signal whose samples are events (their steps are of no one length), every sample: a code that comes twice in
    a row is two events.
    """
    time_ns, value = signal.time_ns[signal.valid], signal.value[signal.valid]
    if len(value) < 3 or (signal.rate_hz is None and _irregular(signal.time_ns)):
        return Marks(time_ns, value)
    other = np.ones(len(value), np.bool_)
    other[1:] = (value[1:] != value[:-1]).any(axis=1)
    return Marks(time_ns[other], value[other])


def _irregular(time_ns: np.ndarray) -> bool:
    step = np.diff(time_ns)
    middle = np.median(step)
    return bool((np.abs(step - middle) > 0.5 * middle).mean() > 0.1)


def code_words(signal: Signal) -> str:
    """For people: ``"codes: 0, 1, 4"``, at most six of them."""
    known = np.unique(signal.value[signal.valid]).tolist()
    more = f" and {len(known) - 6} more" if len(known) > 6 else ""
    return f"codes: {', '.join(f'{v:g}' for v in known[:6])}{more}"
