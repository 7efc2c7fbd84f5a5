"""Samples: the windows of sessions' shards, as the loaders of others take them, one mapping of plain values each.

A sample is a window of one split: the columns of its tokens under their own names, the samples of a behaviour in it
(``target.*``), and what says where it is from. What is unusual: a window is left out where it, or what its tokens and
its behaviour reach, touches the time of another split, exactly as in ``train``.

Shape letters: L tokens, Q samples of the behaviour, C its components.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.leakage import guarded
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_MS, Intervals
from spiketok.recording.splits import NAMES, SplitRule, resolve_splits
from spiketok.storage.files import read_json
from spiketok.storage.workspace import MANIFEST, Workspace
from spiketok.tokens.reach import scheme_reach, signal_reach
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader

Sample = dict[str, object]


@dataclass(frozen=True)
class Samples:
    """Which samples are made.

    Args:
        scheme: of the tokens. fields: those of the shard, where a session has several of the scheme.
        window_ms: length of a window. step_ms: from one to the next; None: its length.
        target: a behaviour; ``"auto"`` for the first that all sessions have, ``"none"`` for none.
        split: how sessions are divided.
    """

    scheme: str = "binned"
    fields: Mapping[str, object] = field(default_factory=dict)
    window_ms: float = 1000.0
    step_ms: float | None = None
    target: str = "auto"
    split: SplitRule = field(default_factory=SplitRule)

    def __post_init__(self) -> None:
        for name, value in (("window_ms", self.window_ms), ("step_ms", self.step_ms)):
            if value is not None and not 1e-3 <= value <= 1e7:
                message = f"{name} is {value:g}, expected a length in ms above 0"
                raise UsageError(message)


@dataclass(frozen=True)
class Source:
    """The windows of one session in one split.

    Args:
        shard: its folder. session: its id. start_ns, segment: int64 ``[R]``, see :class:`Windows`.
        length_ns: of a window. target: a behaviour; empty for none.
    """

    shard: Path
    session: str
    start_ns: np.ndarray
    segment: np.ndarray
    length_ns: int
    target: str

    def __len__(self) -> int:
        return len(self.start_ns)

    def sample(self, row: int, reader: ShardReader | None = None) -> Sample:
        """One window: ``session``, ``start_ns``, ``window_ns``, each column of its tokens, and of a behaviour
        ``target.value`` float32 ``[Q, C]``, ``target.time_ns`` int64 ``[Q]`` from the window's start, and
        ``target.valid`` uint8 ``[Q]``.
        """
        reader = reader or ShardReader(self.shard)
        window = Windows(self.segment[row : row + 1], self.start_ns[row : row + 1], self.length_ns)
        start_ns = int(self.start_ns[row])
        made: Sample = {"session": self.session, "start_ns": start_ns, "window_ns": self.length_ns}
        made |= {name: _plain(column) for name, column in reader.scheme.cut(reader.columns, window).columns.items()}
        if self.target:
            signal = reader.signal(self.target)
            low, high = np.searchsorted(signal.time_ns, [start_ns, start_ns + self.length_ns])
            made["target.value"] = np.asarray(signal.value[low:high], np.float32)
            made["target.time_ns"] = np.asarray(signal.time_ns[low:high] - start_ns, np.int64)
            made["target.valid"] = np.asarray(signal.valid[low:high], np.uint8)
        return made

    def samples(self) -> Iterator[Sample]:
        reader = ShardReader(self.shard)
        for row in range(len(self)):
            yield self.sample(row, reader)


def _plain(column: np.ndarray) -> np.ndarray:
    return column.view(np.uint8) if column.dtype == np.bool_ else column


def sources(
    workspace: Workspace, session_ids: Sequence[str], settings: Samples
) -> tuple[dict[str, list[Source]], list[ShardReader], str]:
    """By split the windows of each session; the shards; and the behaviour, empty for none.

    Raises:
        DataError: a session has no shard of the scheme, or no window fits. UnknownNameError: no such behaviour.
        UsageError: a length is not on the scheme's grid.
    """
    readers = [ShardReader(_shard(workspace, session, settings)) for session in session_ids]
    target = _target(readers, settings.target)
    found: dict[str, list[Source]] = {name: [] for name in NAMES}
    for reader in readers:
        scheme = reader.scheme
        length_ns = _on_grid(settings.window_ms, "window_ms", scheme.length_grid_ns)
        step_ns = length_ns if settings.step_ms is None else _on_grid(settings.step_ms, "step_ms", scheme.grid_ns)
        reach = scheme_reach(scheme)
        for name in dict.fromkeys([*([target] if target else []), *scheme.signals_read]):
            if name in reader.info.signals:
                reach |= signal_reach(name, reader.signal_reach_ns(name), reader.signal(name).period_ns, 1)
        splits = resolve_splits(reader.splits, reader.observed, settings.split, reader.trials, reader.info.id)
        for name, part in guarded(splits, reach).items():
            starts, segments = _tiled(reader, part, length_ns, step_ns)
            if starts.size and name in found:
                found[name].append(Source(reader.path.absolute(), reader.info.id, starts, segments, length_ns, target))
    if not any(found.values()):
        message = (
            f"no window of {settings.window_ms:g} ms fits in a split of {len(readers)} sessions: take shorter ones"
        )
        raise DataError(message)
    return {name: own for name, own in found.items() if own}, readers, target


def _shard(workspace: Workspace, session_id: str, settings: Samples) -> Path:
    """The one shard of a session by the scheme, made from the store as it is now."""
    digest = workspace.facts(session_id)["digest"]
    have = []
    for manifest in sorted(workspace.shards.glob(f"{settings.scheme}/{session_id}/*/{MANIFEST}")):
        facts = read_json(manifest)
        config = facts["scheme"]["config"]
        if facts["store_digest"] == digest and all(config.get(k) == v for k, v in settings.fields.items()):
            have.append((manifest.parent, config))
    if not have:
        told = f" with {dict(settings.fields)}" if settings.fields else ""
        message = (
            f"{session_id} has no {settings.scheme} shard{told}: spiketok tokenize --scheme {settings.scheme} "
            f"--sessions '{session_id}'"
        )
        raise DataError(message)
    if len(have) > 1:
        differ = [k for k in have[0][1] if len({str(config[k]) for _, config in have}) > 1] or ["segments"]
        values = ", ".join(str(config.get(differ[0])) for _, config in have)
        message = (
            f"{session_id} has {len(have)} {settings.scheme} shards, whose {differ[0]} is {values}: "
            f"--set fields.{differ[0]}=VALUE says which"
        )
        raise DataError(message)
    return have[0][0]


def _target(readers: Sequence[ShardReader], asked: str) -> str:
    if asked == "none":
        return ""
    common = [name for name in readers[0].info.signals if name != FLUORESCENCE]
    if asked == "auto":
        common = [name for name in common if all(name in reader.info.signals for reader in readers)]
        return common[0] if common else ""
    for reader in readers:
        if asked not in reader.info.signals:
            raise UnknownNameError("behaviour", asked, reader.info.signals, reader.info.id)
    return asked


def _on_grid(length_ms: float, name: str, grid_ns: int) -> int:
    length_ns = round(length_ms * NS_PER_MS)
    if length_ns % grid_ns:
        message = f"{name} is {length_ms:g} ms, no multiple of {grid_ns / NS_PER_MS:g} ms, the bins of the scheme"
        raise UsageError(message)
    return length_ns


def _tiled(reader: ShardReader, part: Intervals, length_ns: int, step_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts of windows through a split, on the grid of their segment, and their segments."""
    starts, segments = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    grid_ns = reader.scheme.grid_ns
    for k, (low, high) in enumerate(
        zip(reader.segments.start_ns.tolist(), reader.segments.stop_ns.tolist(), strict=True)
    ):
        own = part.intersect(Intervals([low], [high])).intersect(reader.observed).union()
        for start, stop in zip(own.start_ns.tolist(), own.stop_ns.tolist(), strict=True):
            first = low - (low - start) // grid_ns * grid_ns
            starts.append(np.arange(first, stop - length_ns + 1, step_ns, dtype=np.int64))
            segments.append(np.full(starts[-1].size, k, np.int64))
    return np.concatenate(starts), np.concatenate(segments)
