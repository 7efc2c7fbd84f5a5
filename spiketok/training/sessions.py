"""Sessions as training and transfer use them: which of their time is usable, and how it is divided.

Usable time is where something was recorded *and* the behaviour was measured; splits are made inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from spiketok.errors import DataError
from spiketok.recording.intervals import labelled_intervals
from spiketok.recording.leakage import Reach, guarded, territories
from spiketok.recording.nouns import Intervals, Signal
from spiketok.recording.splits import SplitRule, assign_days, recording_day, resolve_splits, valid_is_test
from spiketok.tokens.shards import ShardReader
from spiketok.training.sampling import SessionWindows, window_reach


@dataclass(frozen=True, eq=False)
class LabelledSession:
    """A session with the behaviour that is decoded.

    Args:
        reader: its shard.
        signal: the behaviour.
        domain: usable time: observed, inside a baked segment, behaviour measured.
        splits: the domain's division into ``train``, ``valid`` and ``test``.
        target: the behaviour's name, by which its processing is known; None where it is no signal of the shard.
        valid_is_test: the stored test time cannot be used, and the stored valid time stands for it.
    """

    reader: ShardReader
    signal: Signal
    domain: Intervals
    splits: Mapping[str, Intervals]
    target: str | None = None
    valid_is_test: bool = False

    @property
    def id(self) -> str:
        return self.reader.info.id

    @cached_property
    def reach(self) -> Reach:
        """How far a window's tokens and targets reach beyond it."""
        return window_reach(self.reader, self.target)

    @cached_property
    def guarded(self) -> dict[str, Intervals]:
        """The splits without the time in which windows would reach into what another split's windows touch."""
        return guarded(self.splits, self.reach)

    def windows(self, split: str) -> SessionWindows:
        """Where windows of a split may lie: nothing that they reach is touched by windows of another split."""
        own = territories(self.splits, self.reach)[split]
        return SessionWindows(self.reader, self.splits[split], reach=self.reach, within=own)


def label_session(reader: ShardReader, target: str, rule: SplitRule) -> LabelledSession:
    """Find a session's usable time and divide it.

    Args:
        rule: one that divides the time of a session; :func:`divide_days` turns ``"day"`` into such a one.

    Raises:
        DataError: no time is usable, or the rule does not fit.
    """
    signal = reader.signal(target)
    domain = labelled_intervals(signal).intersect(reader.observed).intersect(reader.segments)
    if len(domain) == 0:
        message = f"{reader.info.id}: no time has both spikes observed and '{target}' measured"
        raise DataError(message)
    try:
        splits = resolve_splits(reader.splits, domain, rule, reader.trials, reader.info.id)
    except DataError as error:
        message = f"{reader.info.id}: {error}"
        raise DataError(message) from error
    return LabelledSession(reader, signal, domain, splits, target, valid_is_test(reader.splits, splits, rule))


def stand_in_line(sessions: Sequence[str], target: str) -> str:
    """Says for which sessions valid time is scored as the test; empty for none."""
    if not sessions:
        return ""
    return f"the stored test time has no '{target}': the valid time is scored in its place, in {_listing(sessions)}"


def divide_days(readers: Sequence[ShardReader], rule: SplitRule) -> dict[str, str]:
    """The split of each session by its day of recording (:func:`spiketok.recording.splits.assign_days`)."""
    days = {}
    for reader in readers:
        info = reader.info
        days[info.id] = info.subject, recording_day(info.id, reader.manifest["source"].get("session_start", ""))
    return assign_days(days, rule)


def dropped_by_split(sessions: Sequence[LabelledSession]) -> dict[str, dict[str, int]]:
    """Time of each split that no window can use, in ns by reason, summed over sessions; only what is not zero."""
    total: dict[str, dict[str, int]] = {}
    for session in sessions:
        for split in session.splits:
            own = total.setdefault(split, {})
            for reason, value in session.windows(split).dropped.items():
                if value:
                    own[reason] = own.get(reason, 0) + value
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


def _listing(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
