"""Which time is for training, which for validation, which for the test: typed, disjoint, never leaking.

A split is a set of half-open intervals with a name. The source's own splits come first where it has any (NLB);
else a rule makes them. Windows are only ever placed inside one interval of one split, so that no window, lag or
smoothing kernel reaches over a border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.recording import Intervals

NAMES = ("train", "valid", "test")


@dataclass(frozen=True)
class SplitRule:
    """How a session is divided.

    Args:
        kind: ``"auto"`` (the source's own splits where they serve, else blocks), ``"stored"``, ``"block"`` (one
            stretch of time each, in the order train, valid, test), or ``"all"`` (everything is ``train`` and
            ``test`` at once is not allowed, so only ``train``).
        train, valid, test: shares of the time for ``"block"``; they sum to 1.
        margin_ms: time left out on both sides of each border between blocks.
    """

    kind: str = "auto"
    train: float = 0.7
    valid: float = 0.1
    test: float = 0.2
    margin_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "stored", "block", "all"):
            message = f"split kind '{self.kind}' is not one of auto, stored, block, all"
            raise UsageError(message)
        shares = (self.train, self.valid, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            message = f"split shares train, valid, test are {shares}: each must be at least 0 and they must sum to 1"
            raise UsageError(message)
        if self.margin_ms < 0:
            message = f"split margin_ms is {self.margin_ms}, must not be negative"
            raise UsageError(message)


def resolve_splits(stored: Intervals, domain: Intervals, rule: SplitRule) -> dict[str, Intervals]:
    """The splits of one session, each as disjoint sorted intervals inside ``domain``.

    Args:
        stored: the source's own splits, with a column ``name``; may be empty.
        domain: the time that can be used at all (observed, behaviour valid).
        rule: how to divide.

    Raises:
        DataError: ``rule.kind`` is ``"stored"`` and the source has no train split inside the domain; or splits overlap.
    """
    use_stored = False
    if rule.kind in ("auto", "stored") and len(stored):
        own = {name: stored.take(stored.columns["name"] == name).intersect(domain) for name in NAMES}
        use_stored = len(own["train"]) > 0 and len(own["valid"]) + len(own["test"]) > 0
    if use_stored:
        splits = own
    elif rule.kind == "stored":
        message = "the source has no train and test split with usable time: use split.kind=block"
        raise DataError(message)
    elif rule.kind == "all":
        splits = {"train": domain.union(), "valid": Intervals.empty(), "test": Intervals.empty()}
    else:
        splits = _blocks(domain, rule)
    check_disjoint(splits)
    return splits


def _blocks(domain: Intervals, rule: SplitRule) -> dict[str, Intervals]:
    """Divide the used time (gaps do not count) at the shares' borders."""
    domain = domain.union()
    total = domain.total_ns
    first = np.round(np.cumsum([0.0, rule.train, rule.valid, rule.test]) * total).astype(np.int64)
    first[-1] = total
    elapsed = np.concatenate([[0], np.cumsum(domain.stop_ns - domain.start_ns)])

    def clock(used_ns: int, *, end: bool) -> int:
        """The time of day at which this much of the domain has passed."""
        row = int(np.searchsorted(elapsed, used_ns, side="left" if end else "right")) - 1
        row = min(max(row, 0), len(domain) - 1)
        return int(domain.start_ns[row] + used_ns - elapsed[row])

    margin = round(rule.margin_ms * 1e6)
    splits = {}
    for k, name in enumerate(NAMES):
        if first[k + 1] <= first[k]:
            splits[name] = Intervals.empty()
            continue
        start = clock(int(first[k]), end=False) + (margin if first[k] > 0 else 0)
        stop = clock(int(first[k + 1]), end=True) - (margin if first[k + 1] < total else 0)
        if stop <= start:
            message = f"split '{name}' has no time left between its margins of {rule.margin_ms} ms"
            raise DataError(message)
        splits[name] = domain.intersect(Intervals(np.array([start]), np.array([stop])))
    return splits


def check_disjoint(splits: dict[str, Intervals]) -> None:
    """Raise DataError if two splits share any time."""
    names = list(splits)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            common = splits[a].intersect(splits[b])
            if len(common):
                message = f"splits '{a}' and '{b}' share {common.total_ns / 1e9:.3f} s from {common.start_ns[0]} ns"
                raise DataError(message)
