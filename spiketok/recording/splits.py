"""Which time is for training, which for validation, which for the test: typed, disjoint, the same on every machine.

A split is a set of half-open intervals with a name; a *division* (a *set* where it is stored) is what one rule makes
of a session. The source's own divisions come first where it has any (NLB, FALCON); else a rule makes one. What keeps
windows and all that they reach inside their split is ``spiketok.recording.leakage``.

What is unusual:

- chance is a sha256 of names and a seed, never a random generator's or a process's state: one division for one rule,
  on any machine and in any version of Python or numpy;
- a trial is known by its session and its start in ns, so that it keeps its fold when other trials come or go;
- trials that share time always go to the same split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.draws import NAMES
from spiketok.recording.intervals import without
from spiketok.recording.leakage import Reach, guarded
from spiketok.recording.nouns import Intervals, Ragged, Session, Spikes
from spiketok.settings import build, parse_assignment

KINDS = ("auto", "stored", "block", "trial", "kfold", "day", "all")
MADE = ("block", "trial", "kfold", "day", "all")  # the kinds that make a division, so that it can be stored
SOURCE_SET = "source"  # what rows without a set belong to
STANDS_FOR = {"train": "calibration", "test": "minival"}  # what a set (FALCON's) has in place of a split it lacks
MOST_STRATA = 64  # a column with more values than this divides nothing into strata
MOST_BLOCKS = 1_000_000
LEARNED = ("train", "calibration")  # what something is fitted on


@dataclass(frozen=True)
class SplitRule:
    """How time is divided.

    Args:
        kind: ``"auto"`` (the first stored set that serves, else blocks), ``"stored"`` (a stored set), ``"block"`` (one
            stretch of time each, in the order train, valid, test), ``"trial"`` (whole trials, by chance, stratified),
            ``"kfold"`` (whole trials by a stable hash: fold ``fold`` is the test, the next one valid), ``"day"`` (whole
            sessions, the last days of each subject are the test), or ``"all"`` (everything is train).
        train, valid, test: shares of the time (block), the trials (trial) or the days (day); they sum to 1.
        margin_ms: time left out on both sides of each border between two splits.
        set: the stored set; None takes the only one.
        seed: of ``"trial"``.
        stratify: a column of the trials; each of its values is divided by the same shares. None for none.
        k, fold: how many folds there are, and which of them (from 0) is the test.
        block_s: divide stretches of this many seconds (counted from time zero) in place of trials; None for trials.
        between: time outside of trials: ``"drop"`` leaves it out, ``"before"`` gives it to the trial before it, and
            ``"train"`` to train.
    """

    kind: str = "auto"
    train: float = 0.7
    valid: float = 0.1
    test: float = 0.2
    margin_ms: float = 0.0
    set: str | None = None
    seed: int = 0
    stratify: str | None = None
    k: int = 5
    fold: int = 0
    block_s: float | None = None
    between: str = "drop"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            message = f"split kind '{self.kind}' is not one of {', '.join(KINDS)}"
            raise UsageError(message)
        if self.between not in ("drop", "before", "train"):
            message = f"split between '{self.between}' is not one of drop, before, train"
            raise UsageError(message)
        shares = (self.train, self.valid, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            message = f"split shares train, valid, test are {shares}: each must be at least 0 and they must sum to 1"
            raise UsageError(message)
        if self.margin_ms < 0:
            message = f"split margin_ms is {self.margin_ms}, must not be negative"
            raise UsageError(message)
        if self.k < 3 or not 0 <= self.fold < self.k:
            message = f"split k is {self.k} and fold {self.fold}: k must be at least 3, fold from 0 to below k"
            raise UsageError(message)
        if self.block_s is not None and not 0.001 <= self.block_s < np.inf:
            message = f"split block_s is {self.block_s}, must be at least 0.001"
            raise UsageError(message)
        if self.block_s is not None and self.stratify is not None:
            message = f"split stratify is '{self.stratify}' and block_s {self.block_s}: only trials have a column"
            raise UsageError(message)

    @property
    def margin_ns(self) -> int:
        return round(self.margin_ms * 1e6)

    @property
    def shares(self) -> tuple[float, float, float]:
        return self.train, self.valid, self.test

    def to_dict(self) -> dict[str, object]:
        """JSON-able: the kind and what differs from the defaults, so that a rule has one spelling."""
        plain = SplitRule()
        facts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": self.kind} | {k: v for k, v in facts.items() if v != getattr(plain, k)}


def parse_rule(texts: Sequence[str]) -> SplitRule:
    """A rule from ``"key=value"`` words, as ``kind=trial`` and ``stratify=direction``; a bare word is the kind.

    Raises:
        UnknownNameError: no such key. UsageError: a value has another type, or the rule is none.

    >>> parse_rule(["kfold", "k=10"])
    SplitRule(kind='kfold', train=0.7, valid=0.1, test=0.2, margin_ms=0.0, set=None, seed=0, stratify=None, k=10, \
fold=0, block_s=None, between='drop')
    """
    values: dict[str, object] = {}
    for text in texts:
        values |= parse_assignment(text if "=" in text else f"kind={text}", "--rule")
    if "set" in values:
        values.setdefault("kind", "stored")
    return build(SplitRule, values, "split", "key")


# ---- dividing a session ---------------------------------------------------------------------------------------------


def resolve_splits(
    stored: Intervals, domain: Intervals, rule: SplitRule, trials: Intervals | None = None, session_id: str = ""
) -> dict[str, Intervals]:
    """The splits of one session, each as disjoint sorted intervals inside ``domain``.

    Args:
        stored: the stored divisions, with a column ``name`` and perhaps ``set``; may be empty.
        domain: the time that can be used at all (observed, behaviour valid).
        rule: how to divide; ``"day"`` divides sessions (:func:`assign_days`), not the time of one.
        trials: the main trial table, with the column to stratify by. session_id: names the trials.

    Raises:
        DataError: nothing that the rule needs is there, or splits overlap. UnknownNameError: no such set or column.
        UsageError: ``rule.kind`` is ``"day"``.
    """
    splits = _stored_splits(stored, domain, rule) if rule.kind in ("auto", "stored") else None
    if splits is None:
        splits = _made_splits(domain, rule, trials if trials is not None else Intervals.empty(), session_id)
    check_disjoint(splits)
    return splits


def _stored_splits(stored: Intervals, domain: Intervals, rule: SplitRule) -> dict[str, Intervals] | None:
    """A stored division inside the domain; None where ``"auto"`` finds none that serves."""
    sets = stored_sets(stored)
    if rule.set is not None:
        _require_set(stored, rule.set)
    if rule.kind == "stored" and rule.set is None and len(sets) > 1:
        message = f"the session has {len(sets)} stored split sets ({', '.join(sets)}): choose by split.set=NAME"
        raise DataError(message)
    for name in sets if rule.set is None else [rule.set]:
        found = {split: part.intersect(domain) for split, part in set_splits(stored, name).items()}
        own = {split: found.get(split, Intervals.empty()) for split in NAMES}
        for split, other in STANDS_FOR.items():
            if len(own[split]) == 0:
                own[split] = found.get(other, Intervals.empty())
        if len(own["test"]) == 0:  # as NLB's, whose test trials have no behaviour: what is scored validates nothing
            own["test"], own["valid"] = own["valid"], Intervals.empty()
        if len(own["train"]) > 0 and (len(own["test"]) > 0 or (rule.kind == "stored" and rule.set is not None)):
            return _with_margin(own, rule)
    if rule.kind == "stored" or rule.set is not None:
        held = "; ".join(f"set '{s}' has {', '.join(set_splits(stored, s))}" for s in sets) or "it has no stored splits"
        message = f"the source has no train and test split with usable time ({held}): use split.kind=block"
        raise DataError(message)
    return None


def valid_is_test(stored: Intervals, splits: dict[str, Intervals], rule: SplitRule) -> bool:
    """Whether :func:`resolve_splits` let stored valid time stand for test time that cannot be used."""
    if rule.kind not in ("auto", "stored") or not len(stored):
        return False
    sets = stored_sets(stored) if rule.set is None else [rule.set]
    parts = [set_splits(stored, name).get("valid", Intervals.empty()) for name in sets]
    return any(len(part.intersect(splits["test"])) > 0 for part in parts)


def _made_splits(domain: Intervals, rule: SplitRule, trials: Intervals, session_id: str) -> dict[str, Intervals]:
    if rule.kind == "day":
        message = "split kind 'day' divides sessions, not the time of one session: give it all sessions of the subject"
        raise UsageError(message)
    if rule.kind == "all":
        return {"train": domain.union(), "valid": Intervals.empty(), "test": Intervals.empty()}
    if rule.kind in ("auto", "block"):
        return _blocks(domain, rule)
    items, label = _items(domain, rule, trials)
    names = _by_chance(items, label, rule, session_id) if rule.kind == "trial" else _by_fold(items, rule, session_id)
    spans = _with_time_between(items, rule)
    splits = {name: spans.take(names == name).intersect(domain) for name in NAMES}
    if rule.between == "train":
        splits["train"] = without(without(domain, splits["valid"]), splits["test"])
    splits = _with_margin(splits, rule)
    needed = ("train", "test") if rule.kind == "kfold" else ("train",)
    for name in needed:
        if len(splits[name]) == 0:
            n, kind = int((names == name).sum()), f"fold {rule.fold} of {rule.k}" if rule.kind == "kfold" else "trial"
            message = (
                f"split '{name}' ({kind}) has no usable time: {n} of {len(items)} {_item_word(rule)} are in it; "
                "use another fold, other shares or split.kind=block"
            )
            raise DataError(message)
    return splits


def _blocks(domain: Intervals, rule: SplitRule) -> dict[str, Intervals]:
    """Divide the used time (gaps do not count) at the shares' borders."""
    domain = domain.union()
    total = domain.total_ns
    first = np.round(np.cumsum([0.0, *rule.shares]) * total).astype(np.int64)
    first[-1] = total
    elapsed = np.concatenate([[0], np.cumsum(domain.stop_ns - domain.start_ns)])

    def clock(used_ns: int, *, end: bool) -> int:
        """The time of day at which this much of the domain has passed."""
        row = int(np.searchsorted(elapsed, used_ns, side="left" if end else "right")) - 1
        row = min(max(row, 0), len(domain) - 1)
        return int(domain.start_ns[row] + used_ns - elapsed[row])

    splits = {}
    for k, name in enumerate(NAMES):
        if first[k + 1] <= first[k]:
            splits[name] = Intervals.empty()
            continue
        start = clock(int(first[k]), end=False) + (rule.margin_ns if first[k] > 0 else 0)
        stop = clock(int(first[k + 1]), end=True) - (rule.margin_ns if first[k + 1] < total else 0)
        if stop <= start:
            message = f"split '{name}' has no time left between its margins of {rule.margin_ms} ms"
            raise DataError(message)
        splits[name] = domain.intersect(Intervals(np.array([start]), np.array([stop])))
    return splits


def _with_margin(splits: Mapping[str, Intervals], rule: SplitRule) -> dict[str, Intervals]:
    """The splits without the margin on both sides of each border between two of them."""
    if not rule.margin_ns:
        return dict(splits)
    return guarded(splits, Reach.of("margin", rule.margin_ns, rule.margin_ns))


# ---- trials and blocks ----------------------------------------------------------------------------------------------


def _item_word(rule: SplitRule) -> str:
    return "trials" if rule.block_s is None else f"blocks of {rule.block_s:g} s"


def _items(domain: Intervals, rule: SplitRule, trials: Intervals) -> tuple[Intervals, np.ndarray]:
    """What goes whole into one split, sorted and disjoint, and the stratum of each."""
    if rule.block_s is not None:
        blocks = _grid_blocks(domain, round(rule.block_s * 1e9))
        return blocks, np.zeros(len(blocks), "<U1")
    used = np.flatnonzero(trials.stop_ns > trials.start_ns)
    if used.size == 0:
        message = (
            f"split kind '{rule.kind}' divides trials and the session has none: divide stretches of time instead "
            "(split.block_s=10)"
        )
        raise DataError(message)
    order = used[np.argsort(trials.start_ns[used], kind="stable")]
    label = np.zeros(order.size, "<U1") if rule.stratify is None else stratum_labels(trials, rule.stratify)[order]
    start, reach = trials.start_ns[order], np.maximum.accumulate(trials.stop_ns[order])
    first = np.concatenate([[True], start[1:] >= reach[:-1]])  # trials that touch share no time
    last = np.concatenate([first[1:], [True]])
    return Intervals(start[first], reach[last]), label[first]


def _grid_blocks(domain: Intervals, block_ns: int) -> Intervals:
    domain = domain.union()
    if len(domain) == 0:
        return Intervals.empty()
    first, last = int(domain.start_ns[0]) // block_ns, -(-int(domain.stop_ns[-1]) // block_ns)
    if last - first > MOST_BLOCKS:
        message = f"{last - first} blocks of {block_ns / 1e9:g} s: use a larger split.block_s"
        raise DataError(message)
    start = np.arange(first, last, dtype=np.int64) * block_ns
    return Intervals(start, start + block_ns)


def _with_time_between(items: Intervals, rule: SplitRule) -> Intervals:
    if rule.between != "before" or len(items) == 0:
        return items
    return Intervals(items.start_ns, np.concatenate([items.start_ns[1:], [max(2**62, int(items.stop_ns[-1]))]]))


def stratum_labels(trials: Intervals, name: str) -> np.ndarray:
    """str ``[I]``: the values of a trial column as strata.

    Raises:
        UnknownNameError: there is no such column. DataError: it has more than ``MOST_STRATA`` values.
    """
    known = strata(trials)
    if name in known:
        return known[name]
    column = trials.columns.get(name)
    if column is None or isinstance(column, Ragged) or np.ndim(column) != 1:
        raise UnknownNameError("trial column", name, known, "the columns that can be strata")
    message = (
        f"trial column '{name}' has {len(np.unique(column))} values, strata may be {MOST_STRATA} at most: "
        f"choose another ({', '.join(known) or 'there is none'})"
    )
    raise DataError(message)


def strata(trials: Intervals) -> dict[str, np.ndarray]:
    """Every plain column of a trial table that has few values, as str ``[I]``."""
    found = {}
    for name, column in trials.columns.items():
        if isinstance(column, Ragged) or np.ndim(column) != 1:
            continue
        label = np.asarray(column).astype(np.str_)
        if len(np.unique(label)) <= MOST_STRATA:
            found[name] = label
    return found


def _identity(items: Intervals, rule: SplitRule, session_id: str) -> list[str]:
    """A name for each trial or block that is the same whatever other trials there are."""
    kind = "trial" if rule.block_s is None else f"block-{round(rule.block_s * 1e9)}"
    return [f"{session_id}/{kind}/{start}" for start in items.start_ns.tolist()]


def stable_hash(text: str) -> int:
    """A whole number below 2**64 that is the same in any process on any machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _by_fold(items: Intervals, rule: SplitRule, session_id: str) -> np.ndarray:
    """str ``[I]``: the split of each item: fold ``fold`` is the test, the next one valid, the others train."""
    fold = np.array([stable_hash(name) % rule.k for name in _identity(items, rule, session_id)], np.int64)
    after = (rule.fold + 1) % rule.k
    return np.where(fold == rule.fold, "test", np.where(fold == after, "valid", "train"))


def _by_chance(items: Intervals, label: np.ndarray, rule: SplitRule, session_id: str) -> np.ndarray:
    """str ``[I]``: the split of each item, every stratum divided by the shares as evenly as whole trials allow."""
    rank = np.array([stable_hash(f"{rule.seed}/{name}") for name in _identity(items, rule, session_id)], np.uint64)
    names = np.full(len(items), NAMES[0], dtype="<U5")
    owed = np.zeros(len(NAMES))
    for stratum in np.unique(label):
        rows = np.flatnonzero(label == stratum)
        rows = rows[np.argsort(rank[rows], kind="stable")]
        counts, owed = allot(len(rows), rule.shares, owed)
        names[rows] = np.repeat(np.array(NAMES), counts)
    return names


def allot(n: int, shares: Sequence[float], owed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Divide ``n`` whole things by shares, the largest remainder first.

    Args:
        n: how many. shares: they sum to 1. owed: what earlier divisions gave too little of, for each share.

    Returns:
        int64, how many each gets, summing to ``n``; and what is owed now, each less than one.
    """
    due = n * np.asarray(shares, np.float64) + (0.0 if owed is None else owed)
    given = np.maximum(np.floor(due + 1e-9), 0).astype(np.int64)
    for _ in range(n - int(given.sum())):
        given[np.argmax(np.where(np.asarray(shares) > 0, due - given, -np.inf))] += 1
    return given, due - given


# ---- days -----------------------------------------------------------------------------------------------------------


def recording_day(session_id: str, session_start: str, info: Mapping[str, str] | None = None) -> str:
    """The date of a recording, as ``"2017-05-08"``, from the source's start or ``info["session_start"]``.

    Raises:
        DataError: neither is a date.
    """
    text = session_start or str((info or {}).get("session_start", ""))
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        found = f"its start is '{text}'" if text else "its source states no start"
        message = f"{session_id}: split kind 'day' needs the day of recording and {found}: use split.kind=block"
        raise DataError(message) from None


def assign_days(days: Mapping[str, tuple[str, str]], rule: SplitRule) -> dict[str, str]:
    """The split of each session: the first days of each subject are train, then come valid and test.

    Args:
        days: (subject, day) by session id. rule: its shares are of each subject's days.
    """
    assigned = {}
    for subject in sorted({subject for subject, _ in days.values()}):
        day_of = {session: day for session, (whose, day) in days.items() if whose == subject}
        ordered = sorted(set(day_of.values()))
        counts, _ = allot(len(ordered), rule.shares)
        split_of = dict(zip(ordered, np.repeat(np.array(NAMES), counts).tolist(), strict=True))
        assigned |= {session: split_of[day] for session, day in day_of.items()}
    return {session: assigned[session] for session in days}


# ---- stored divisions -----------------------------------------------------------------------------------------------


def stored_sets(stored: Intervals) -> list[str]:
    """The sets of stored splits, in the order of their first rows."""
    return list(dict.fromkeys(_set_of(stored).tolist()))


def _set_of(stored: Intervals) -> np.ndarray:
    """str ``[I]``: the set that each row belongs to."""
    named = stored.columns.get("set")
    return np.full(len(stored), SOURCE_SET) if named is None else np.where(named == "", SOURCE_SET, named)


def set_splits(stored: Intervals, name: str) -> dict[str, Intervals]:
    """The splits of one stored set by name: train, valid and test first, others in the order of their first rows."""
    _require_set(stored, name)
    rows = np.flatnonzero(_set_of(stored) == name)
    names = stored.columns["name"][rows]
    found = dict.fromkeys(names.tolist())
    ordered = [n for n in NAMES if n in found] + [n for n in found if n not in NAMES]
    return {split: stored.take(rows[names == split]).union() for split in ordered}


def _require_set(stored: Intervals, name: str) -> None:
    sets = stored_sets(stored)
    if name not in sets:
        place = f"the stored splits ({', '.join(sets)})" if sets else "the stored splits, of which there are none"
        raise UnknownNameError("split set", name, sets, place)


def divide_session(session: Session, rule: SplitRule, assigned: str | None = None) -> dict[str, Intervals]:
    """The splits of a session's observed time.

    Args:
        assigned: for ``"day"``, the split that the whole session goes to (:func:`assign_days`).
    """
    if rule.kind == "day" and assigned is not None:
        if assigned not in NAMES:
            raise UnknownNameError("split", assigned, NAMES)
        return {name: session.observed.union() if name == assigned else Intervals.empty() for name in NAMES}
    return resolve_splits(session.splits, session.observed, rule, session.trials, session.id)


def with_stored_sets(session: Session, recorded: Mapping[str, Mapping[str, object]]) -> Session:
    """The session with divisions that were stored by rule, made again from what the store's settings record of them.

    Args:
        recorded: by set, as :func:`recorded_rule` gives it; the value of ``settings["splits"]``.

    Raises:
        UsageError: a set of this name is the source's own, or the rule makes no division.
    """
    for name in sorted(recorded):
        facts = dict(recorded[name])
        assigned = facts.pop("assigned", None)
        rule = SplitRule(**facts)
        check_storable(session, name, rule)
        session = replace(session, splits=_with_rows(session.splits, name, divide_session(session, rule, assigned)))
    return session


def recorded_rule(rule: SplitRule, assigned: str | None = None) -> dict[str, object]:
    """What the store's settings record of a division, so that it can be made again."""
    return rule.to_dict() | ({"assigned": assigned} if assigned is not None else {})


def check_storable(session: Session, name: str, rule: SplitRule) -> None:
    """Raise UsageError where a division cannot be stored under this name."""
    if rule.kind not in MADE:
        message = f"split kind '{rule.kind}' makes no division of its own: store one of kind {', '.join(MADE)}"
        raise UsageError(message)
    if not name or name != name.strip() or "/" in name:
        message = f"split set '{name}': must be a name without '/' and outer spaces"
        raise UsageError(message)
    if name == SOURCE_SET or name in stored_sets(session.splits):
        message = f"{session.id}: split set '{name}' is the source's own, choose another name"
        raise UsageError(message)


def without_sets(stored: Intervals, names: Iterable[str]) -> Intervals:
    """The stored rows without those of some sets."""
    left = stored.take(np.flatnonzero(~np.isin(_set_of(stored), list(names))))
    if set(stored_sets(left)) <= {SOURCE_SET}:
        return Intervals(left.start_ns, left.stop_ns, {k: c for k, c in left.columns.items() if k != "set"})
    return left


def _with_rows(stored: Intervals, name: str, splits: Mapping[str, Intervals]) -> Intervals:
    """The stored rows and those of one more set, in order of time."""
    start = np.concatenate([part.start_ns for part in splits.values()])
    stop = np.concatenate([part.stop_ns for part in splits.values()])
    split = np.repeat(np.array(list(splits)), [len(part) for part in splits.values()])
    order = np.argsort(start, kind="stable")
    names = [*stored.columns.get("name", ()), *split[order]]
    sets = [*_set_of(stored), *[name] * len(order)]
    return Intervals(
        np.concatenate([stored.start_ns, start[order]]),
        np.concatenate([stored.stop_ns, stop[order]]),
        # as narrow as the words: the same rows have the same bytes, whatever rows came before
        {"name": np.array(names, np.str_), "set": np.array(sets, np.str_)},
    )


def check_disjoint(splits: Mapping[str, Intervals]) -> None:
    """Raise DataError if two splits share any time."""
    names = list(splits)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            common = splits[a].intersect(splits[b])
            if len(common):
                message = f"splits '{a}' and '{b}' share {common.total_ns / 1e9:.3f} s from {common.start_ns[0]} ns"
                raise DataError(message)


def refuse_silence(
    session_id: str, splits: Mapping[str, Intervals], has_spikes: Callable[[Intervals], bool], remedy: str
) -> None:
    """Raise DataError where a split that something is fitted on has time and not one spike in it.

    Args:
        session_id: for the message. splits: by name; those in ``LEARNED`` are looked at.
        has_spikes: whether there is a spike in some time. remedy: what to do next.
    """
    for name in LEARNED:
        part = splits.get(name, Intervals.empty()).union()
        if part.total_ns and not has_spikes(part):
            message = (
                f"{session_id}: not one spike in its {name} time ({part.total_ns / 1e9:.1f} s, from "
                f"{part.start_ns[0] / 1e9:.1f} s to {part.stop_ns[-1] / 1e9:.1f} s), of which nothing can be learned: "
                f"{remedy}"
            )
            raise DataError(message)


def has_spikes(spikes: Spikes, time: Intervals) -> bool:
    """Whether any spike lies in sorted disjoint intervals."""
    first, stop = np.searchsorted(spikes.time_ns, time.start_ns), np.searchsorted(spikes.time_ns, time.stop_ns)
    return bool((stop > first).any())
