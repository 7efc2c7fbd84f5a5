"""Sessions as training and transfer use them: which of their time is usable, and how it is divided.

Usable time is where something was recorded *and* some task of the run has something to ask; splits are made inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spiketok.errors import DataError, UnfitError
from spiketok.models.batch import Stretch
from spiketok.recording.findings import TRAIN, Rated, Told, told_again
from spiketok.recording.intervals import first_of
from spiketok.recording.leakage import Reach, guarded, territories
from spiketok.recording.nouns import Intervals
from spiketok.recording.splits import (
    SplitRule,
    assign_days,
    recording_day,
    refuse_silence,
    resolve_splits,
    valid_is_test,
)
from spiketok.tokens.schemes.base import Windows
from spiketok.training.sampling import SessionTokens, SessionWindows, listing
from spiketok.training.tasks.base import Task

CALIBRATION = "calibration"
PIECE_NS, PIECES = 1_000_000_000, 8  # in such pieces, so many at once, time is looked through for a spike


@dataclass(frozen=True, eq=False)
class DividedSession:
    """A session with what is asked of it, and the division of its time.

    Args:
        tokens: its shards. tasks: those that it can serve.
        domain: usable time: observed, inside a baked segment, of use to a task.
        splits: the domain's division: ``train``, ``valid`` and ``test``; or ``calibration`` and ``test`` in transfer.
        valid_is_test: the stored test time cannot be used, and the stored valid time stands for it.
    """

    tokens: SessionTokens
    tasks: tuple[Task, ...]
    domain: Intervals
    splits: Mapping[str, Intervals]
    valid_is_test: bool = False

    @property
    def id(self) -> str:
        return self.tokens.id

    @cached_property
    def reach(self) -> Reach:
        """How far all that a window tells of reaches beyond it: its tokens, and what is asked."""
        reach = self.tokens.reach
        for task in self.tasks:
            reach |= task.reach(self.tokens)
        return reach

    @cached_property
    def guarded(self) -> dict[str, Intervals]:
        """The splits without the time in which windows would reach into what another split's windows touch."""
        return guarded(self.splits, self.reach)

    @property
    def calibration(self) -> Intervals:
        """The time of which the inputs of the session are cut: calibration in transfer, else the training time."""
        return self.guarded[CALIBRATION if CALIBRATION in self.splits else "train"]

    def windows(self, split: str) -> SessionWindows:
        """Where windows of a split may lie: nothing that they reach is touched by windows of another split."""
        own = self._territories[split]
        return SessionWindows(self.tokens, self.splits[split], reach=self.reach, within=own)

    @cached_property
    def _territories(self) -> dict[str, Intervals]:
        return territories(self.splits, self.reach)

    def stretches(self, split: str) -> list[Stretch]:
        """A split's contiguous stretches of whole bins, for what is fitted and not trained.

        Columns are those with one row a bin; a task's weight is 0 in bins that were not observed or have no truth.
        """
        tokens, bin_ns = self.tokens, self.tokens.bin_ns
        truths = [(task, task.truth(tokens)) for task in self.tasks]
        truths = [(task, truth) for task, truth in truths if truth is not None and truth.bin_row is not None]
        n_bins = int(tokens.bin_row[-1])
        columns = {
            name: {key: c for key, c in reader.columns.items() if len(c) == n_bins and not key.startswith("segment.")}
            for name, reader in tokens.windowed.items()
            if reader.scheme.grid_ns == bin_ns
        }
        found = []
        for g in range(len(tokens.segments)):
            start_ns, stop_ns = int(tokens.segments.start_ns[g]), int(tokens.segments.stop_ns[g])
            inside = self.guarded[split].intersect(Intervals([start_ns], [stop_ns]))
            for low, high in zip(inside.start_ns.tolist(), inside.stop_ns.tolist(), strict=True):
                first = int(tokens.bin_row[g])
                row = slice(first - (start_ns - low) // bin_ns, first + (high - start_ns) // bin_ns)
                if row.stop > row.start:
                    begins = start_ns + (row.start - first) * bin_ns
                    found.append(_with_trials(_stretch(columns, truths, row), tokens, begins))
        return found


class Stretches(Mapping):
    """By session id the stretches of a split, cut when a model asks for them: most models ask for none.

    Args:
        labelled: whether they hold what a task with labels asks, and tell of trials.
    """

    def __init__(self, sessions: Sequence[DividedSession], split: str, *, labelled: bool = True) -> None:
        self.sessions, self.split, self.labelled = {s.id: s for s in sessions}, split, labelled

    def __getitem__(self, session: str) -> list[Stretch]:
        found = self.sessions[session].stretches(self.split)
        return found if self.labelled else [Stretch(s.columns, {}, {}) for s in found]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)


def _stretch(columns, truths, row: slice) -> Stretch:
    cut = {name: {key: c[row] for key, c in part.items()} for name, part in columns.items()}
    observed = next((part["observed"] > 0 for part in cut.values() if "observed" in part), None)
    target, weight = {}, {}
    for task, truth in truths:
        known = truth.weight[row].copy()
        if observed is not None:
            known *= observed
        target[task.name] = task.normalised(truth.value[row])
        target[task.name][known <= 0] = 0
        weight[task.name] = known
    return Stretch(cut, target, weight)


def _with_trials(stretch: Stretch, tokens: SessionTokens, start_ns: int) -> Stretch:
    """With the trials that begin in it; ``start_ns`` is where it begins itself."""
    trials, bin_ns = tokens.trials, tokens.bin_ns
    n_bins = len(next(column for part in stretch.columns.values() for column in part.values()))
    at = (np.asarray(trials.start_ns) - start_ns) // bin_ns
    inside = np.flatnonzero((at >= 0) & (at < n_bins))
    columns = {name: np.asarray(column)[inside] for name, column in trials.columns.items()}
    return replace(stretch, trial_bin=at[inside], trial_columns=columns)


def divide(tokens: SessionTokens, tasks: Sequence[Task], rule: SplitRule, train_share: float = 1.0) -> DividedSession:
    """Find a session's usable time and divide it.

    Args:
        tasks: of the run; those that the session cannot serve are left out.
        rule: one that divides the time of a session; :func:`divide_days` turns ``"day"`` into such a one.
        train_share: of the training time, its first part, that is used.

    Raises:
        DataError: no time is usable, or the rule does not fit.
    """
    served = tuple(task for task in tasks if not task.why_not(tokens))
    usable = Intervals.empty()
    for task in served:
        part = task.usable(tokens)
        usable = Intervals([*usable.start_ns, *part.start_ns], [*usable.stop_ns, *part.stop_ns]).union()
    domain = usable.intersect(tokens.observed).intersect(tokens.segments)
    if len(domain) == 0:
        why = "; ".join(task.why_not(tokens) for task in tasks if task not in served)
        asked = " or ".join(f"'{task.name}'" for task in tasks)
        message = f"{tokens.id}: no time has both spikes observed and {asked} measured{f' ({why})' if why else ''}"
        raise DataError(message)
    try:
        splits = resolve_splits(tokens.splits, domain, rule, tokens.trials, tokens.id)
    except DataError as error:
        message = f"{tokens.id}: {error}"
        raise DataError(message) from error
    stands_in = valid_is_test(tokens.splits, splits, rule)
    if train_share < 1:
        used = first_of(splits["train"], round(train_share * splits["train"].total_ns))
        splits = {**splits, "train": used}
    return DividedSession(tokens, served, domain, splits, stands_in)


def divide_each(
    sessions: Sequence[SessionTokens],
    tasks: Sequence[Task],
    divided: Callable[[SessionTokens], DividedSession],
    needed: Callable[[DividedSession], Iterable[str]],
    window_ns: int,
) -> list[DividedSession]:
    """Sessions with their time divided, in their order; tasks are fitted on training time.

    Args:
        divided: divides one. needed: names the splits of one in which a window must fit.

    Raises:
        UnfitError: some sessions cannot serve, each with its reason.
    """
    found, unfit = [], {}
    for tokens in sessions:
        try:
            session = divided(tokens)
            for split in needed(session):
                require_window(session.windows(split), split, window_ns)
            require_heard(session)
        except DataError as error:
            unfit[tokens.id] = str(error)
        else:
            found.append(session)
    if unfit:
        raise UnfitError(unfit)
    for task in tasks:
        task.fit([(s.tokens, s.guarded["train"]) for s in found if task in s.tasks])
    return found


def stand_in_line(sessions: Sequence[str], asked: str) -> str:
    """Says for which sessions valid time is scored as the test; empty for none."""
    if not sessions:
        return ""
    return f"the stored test time has no '{asked}': the valid time is scored in its place, in {listing(sessions)}"


def findings_told(sessions: Sequence[SessionTokens], tasks: Sequence[Task]) -> list[Told]:
    """What ingesting found in these sessions that matters to who trains on them or scores them."""
    found, signals = {}, {}
    for session in sessions:
        found[session.id] = [Rated(**one) for one in session.facts.get("findings", ())]
        names = [task.about for task in tasks if task.about]
        for made, of in reversed(session.facts.get("made_of", ())):
            if made in names and of not in names:
                names.append(of)
        signals[session.id] = names
    return told_again(TRAIN, found, signals)


def divide_days(sessions: Sequence[SessionTokens], rule: SplitRule) -> dict[str, str]:
    """The split of each session by its day of recording (:func:`spiketok.recording.splits.assign_days`)."""
    days = {}
    for session in sessions:
        start = session.reader.manifest["source"].get("session_start", "")
        days[session.id] = session.info.subject, recording_day(session.id, start)
    return assign_days(days, rule)


def dropped_by_split(sessions: Sequence[DividedSession]) -> dict[str, dict[str, int]]:
    """Time of each split that no window can use, in ns by reason, summed over sessions; only what is not zero."""
    total: dict[str, dict[str, int]] = {}
    for session in sessions:
        for split in session.splits:
            reasons = total.setdefault(split, {})
            for reason, value in session.windows(split).dropped.items():
                if value:
                    reasons[reason] = reasons.get(reason, 0) + value
    return total


def require_window(windows: SessionWindows, part: str, window_ns: int) -> None:
    """Raise DataError where no window fits; ``part`` names the time for the message, as ``"train"``."""
    longest = int((windows.stop_ns - windows.start_ns).max(initial=0))
    if longest < window_ns:
        message = (
            f"{windows.id}: no window of {window_ns / 1e6:g} ms fits into its {part} time, whose longest stretch is "
            f"{longest / 1e6:g} ms: use --set data.window_ms=..., or other shares by --set split.train=... and so on"
        )
        border_ns = windows.dropped["split_border_ns"]
        if border_ns:
            message += f" ({border_ns / 1e9:g} s lie too near to another split: windows reach {windows.reach})"
        raise DataError(message)


def require_heard(session: DividedSession) -> None:
    """Raise DataError where the time that something is fitted on holds no spike; mostly one window tells."""
    remedy = "divide it otherwise (--set split.kind=trial, other shares) or leave it out by --sessions GLOB"
    refuse_silence(session.id, session.splits, lambda time: _is_heard(session.tokens, time), remedy)


def _is_heard(tokens: SessionTokens, time: Intervals) -> bool:
    """Whether any token of some time holds a spike; cut in pieces until one does, as many windows at a time as fit."""
    windows = SessionWindows(tokens, time, reach=Reach())
    for segment, start, stop in zip(windows.segment, windows.start_ns, windows.stop_ns, strict=True):
        for reader in tokens.windowed.values():
            scheme = reader.scheme
            if not scheme.reads_units:
                continue
            length = scheme.window_ns or max(PIECE_NS // scheme.length_grid_ns, 1) * scheme.length_grid_ns
            if scheme.window_ns is None:
                length = min(length, (stop - start) // scheme.length_grid_ns * scheme.length_grid_ns)
            if not 0 < length <= stop - start:
                continue
            starts = np.append(
                np.arange(start, stop - length, length), stop - length - (stop - length - start) % scheme.grid_ns
            )
            for first in range(0, len(starts), PIECES):
                own = starts[first : first + PIECES]
                cut = scheme.cut(reader.columns, Windows(np.full(len(own), segment), own, int(length)))
                if not scheme.empty(cut).all():
                    return True
    return False
