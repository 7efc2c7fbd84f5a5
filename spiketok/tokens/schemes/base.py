"""The contract of a tokenization scheme, the laws that the tests hold every scheme to, and what all schemes share.

A scheme *bakes* a session into flat, time-indexed columns (a shard) once, and *cuts* windows out of them in
microseconds. Its fields are its whole configuration. Subclasses are final and never import each other.

Laws, each tested for every scheme in ``SCHEMES``:

1. ``cut(bake(session), window)`` equals the slow reference tokenizer on that window, exactly, dtype included.
2. A window's tokens do not depend on the other windows of the cut.
3. No spike is invented; none is lost unless ``Baked.lost`` names and counts it.
4. ``tokenize(detokenize(x)) == x``.
5. ``Scheme(**json(asdict(scheme))) == scheme``.
6. A shard holds session-local unit rows only.
7. The same bytes for any worker count, executor and chunking, and for a live stream pushed in pieces of any size.

Shape letters: B windows, N units, G segments, L tokens, T bins.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import require_equal, require_segments

Columns = Mapping[str, np.ndarray]

CAME_LATER = {"came_later": True}  # of a field: manifests name it only where it is set, so older ones stay equal
ALL_KEPT = np.zeros((0, 0), np.bool_)  # what a kernel takes for "no unit is dropped"


@dataclass(frozen=True)
class ColumnSpec:
    """dtype and shape of one item of a column, and how many rows are expected (an upper bound before any work)."""

    dtype: np.dtype
    item: tuple[int, ...]
    rows: int

    @property
    def nbytes(self) -> int:
        return int(self.dtype.itemsize * self.rows * math.prod(self.item))


@dataclass(frozen=True, eq=False)
class Baked:
    """A session's tokens, before they are written.

    Args:
        columns: named flat arrays, read-only; always among them ``segment.start_ns``, ``segment.stop_ns`` (int64
            ``[G]``) and ``segment.row`` (int64 ``[G + 1]``), each segment's first row in the scheme's main columns.
        lost: spikes of the session that the columns do not hold, by reason.
    """

    columns: dict[str, np.ndarray]
    lost: dict[str, int]


@dataclass(frozen=True, eq=False)
class Windows:
    """B windows of one session and of one length, each inside one segment.

    Args:
        segment: int64 ``[B]``.
        start_ns: int64 ``[B]``, session time, on the scheme's grid counted from the segment's start.
        length_ns: int, a multiple of the scheme's ``length_grid_ns``.
    """

    segment: np.ndarray
    start_ns: np.ndarray
    length_ns: int

    def __len__(self) -> int:
        return len(self.start_ns)


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a cut gives: ragged tokens of B windows, row ``offset[b]:offset[b + 1]`` of each column for window b."""

    offset: np.ndarray  # int64 [B + 1]
    columns: dict[str, np.ndarray]


class Scheme(ABC):
    """A frozen dataclass whose fields are its JSON configuration.

    Class attributes:
        name: its name on the command line and in manifests.
        version: raised whenever the same session and fields would bake to other bytes.
        readers: the models that read it.
        token: what one token is, in a few words; keeps, loses: what it knows of the spikes, and what it does not.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    readers: ClassVar[tuple[str, ...]]
    token: ClassVar[str]
    keeps: ClassVar[str]
    loses: ClassVar[str]

    @property
    @abstractmethod
    def grid_ns(self) -> int:
        """Windows start on multiples of this, counted from their segment's start.

        A scheme without bins has 1; any other value is the length of its bins, on which a shard lays the behaviour.
        """

    @property
    def length_grid_ns(self) -> int:
        """Windows are a multiple of this long: the grid, or a multiple of it."""
        return self.grid_ns

    @property
    def lookback_ns(self) -> int:
        """How far before its start a window's tokens reach for spikes."""
        return 0

    @property
    def lookahead_ns(self) -> int:
        """How far past its stop a window's tokens reach for spikes."""
        return 0

    @property
    def signals_read(self) -> tuple[str, ...]:
        """The behaviours of the session that it makes tokens of."""
        return ()

    @property
    def reads_units(self) -> bool:
        """Whether its tokens tell of the units; else a session whose units were imaged can be served as any other."""
        return True

    @property
    def not_live(self) -> str:
        """Why a window's tokens cannot be told from the stretch around it, and so not be streamed; else empty."""
        return ""

    @property
    def window_ns(self) -> int | None:
        """The one length that windows may have; None where any multiple of ``length_grid_ns`` will do."""
        return None

    @property
    def whole_session(self) -> bool:
        """Whether tokens depend on the session as a whole: a window only says which of them lie inside it."""
        return False

    @abstractmethod
    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        """dtype, item shape and rows of every column that a bake may give, before any work: for sizes and memory."""

    @abstractmethod
    def bake(self, session: Session, segments: Intervals) -> Baked:
        """Tokenize the given stretches of a session.

        Raises:
            NotServedError: the session has not what the scheme needs; says what.
        """

    @abstractmethod
    def check(self, columns: Columns) -> None:
        """Hold columns that were read to what kernels trust: dtypes, shapes, rows and offsets inside of their bounds.

        Of time that grows with their bytes at most; called once, when a shard is first opened.

        Raises:
            ArtefactError: the first fault, in one line that names the column.
        """

    @abstractmethod
    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        """int64 ``[B]``: tokens in each window. ``keep``: bool ``[B, N]``, False where a unit is dropped.

        Raises:
            UsageError: a window leaves its segment or is off the grid.
        """

    @abstractmethod
    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """dtype and item shape of each column of a cut of windows of ``length_ns``."""

    @abstractmethod
    def fill(
        self,
        columns: Columns,
        windows: Windows,
        row: np.ndarray,
        out: Mapping[str, np.ndarray],
        keep: np.ndarray | None = None,
        unit_row: np.ndarray | None = None,
        length: np.ndarray | None = None,
    ) -> None:
        """Write window b's tokens into ``out[...][row[b]:]``, which has room for ``lengths()[b]`` of them.

        The windows were checked by :meth:`lengths`. Nothing outside of the windows' own rows is touched.

        Args:
            row: int64 ``[B]``.
            unit_row: int32 ``[N]``, what is written instead of the session-local unit row (a vocabulary's rows).
            length: int64 ``[B]``, what :meth:`lengths` gave for the same windows and ``keep``; spares counting again.
        """

    @abstractmethod
    def spikes_held(self, columns: Columns) -> int:
        """Spikes in the columns: with what ``Baked.lost`` names, those of the session (once for each segment)."""

    @abstractmethod
    def empty(self, tokens: Tokens) -> np.ndarray:
        """bool ``[L]``: tokens that hold no spike."""

    @abstractmethod
    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """What the tokens still know: the spikes of each window, in session time. For cuts without ``unit_row``."""

    def cut(
        self, columns: Columns, windows: Windows, keep: np.ndarray | None = None, unit_row: np.ndarray | None = None
    ) -> Tokens:
        """``lengths`` and ``fill`` into fresh arrays."""
        length = self.lengths(columns, windows, keep)
        offset = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        out = {
            k: np.empty((int(offset[-1]), *item), dtype)
            for k, (dtype, item) in self.outputs(columns, windows.length_ns).items()
        }
        self.fill(columns, windows, offset[:-1], out, keep, unit_row, length)
        return Tokens(offset, out)


def grid_rows(start_ns: np.ndarray, stop_ns: np.ndarray, grid_ns: int) -> np.ndarray:
    """int64 ``[G + 1]``: the first bin of each segment where segments follow one after the other.

    A segment whose length is no multiple of the bin ends with a bin that reaches over its end.
    """
    bins = -((start_ns - stop_ns) // grid_ns)
    return np.concatenate([[0], np.cumsum(bins)]).astype(np.int64)


def segment_columns(segments: Intervals, row: np.ndarray) -> dict[str, np.ndarray]:
    """The three columns that every bake holds."""
    return {"segment.start_ns": segments.start_ns, "segment.stop_ns": segments.stop_ns, "segment.row": row}


def segment_plan(segments: Intervals) -> dict[str, ColumnSpec]:
    """The plan of :func:`segment_columns`."""
    int64 = np.dtype(np.int64)
    rows = {"segment.start_ns": len(segments), "segment.stop_ns": len(segments), "segment.row": len(segments) + 1}
    return {name: ColumnSpec(int64, (), n) for name, n in rows.items()}


def require_bins(columns: Columns, grid_ns: int, n_rows: int, back_ns: int = 0) -> None:
    """Raise ArtefactError unless the segments' bins follow one after the other, ``n_rows`` in all.

    Args:
        back_ns: how much earlier than its segment each one's bins begin.
    """
    require_segments(columns, n_rows)
    wanted = grid_rows(columns["segment.start_ns"] - back_ns, columns["segment.stop_ns"], grid_ns)
    require_equal(columns, "segment.row", wanted, f"that of the segments in bins of {grid_ns} ns")


def spikes_outside(spikes: Spikes, segments: Intervals) -> int:
    """Spikes that are in none of the segments."""
    covered = segments.union()
    first = np.searchsorted(spikes.time_ns, covered.start_ns)
    stop = np.searchsorted(spikes.time_ns, covered.stop_ns)
    return len(spikes) - int((stop - first).sum())


def depth(segments: Intervals) -> int:
    """The largest number of segments that hold one moment: how often a spike can be in the columns."""
    edges = np.concatenate([segments.stop_ns, segments.start_ns])  # stops first: segments that touch share none
    change = np.repeat([-1, 1], len(segments))
    return int(np.cumsum(change[np.argsort(edges, kind="stable")]).max(initial=0))


def freeze(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same columns, read-only as those of a shard are: one compiled kernel serves both."""
    for column in columns.values():
        column.flags.writeable = False
    return columns


def unit_rows(unit_row: np.ndarray | None, n_units: int) -> np.ndarray:
    """int32 ``[N]``: what is written for each unit; its own row where nothing is given.

    Raises:
        UsageError: another dtype or length, past which a kernel would read.
    """
    if unit_row is None:
        return np.arange(n_units, dtype=np.int32)
    if unit_row.dtype != np.int32 or unit_row.shape != (n_units,):
        message = f"unit_row is {unit_row.dtype} {unit_row.shape}, must be int32 ({n_units},): one for each unit"
        raise UsageError(message)
    return unit_row


def check_cut(scheme: Scheme, columns: Columns, windows: Windows, keep: np.ndarray | None, n_units: int) -> None:
    """Raise UsageError unless each window lies inside its segment and on the scheme's grid, and ``keep`` fits.

    Kernels trust what they are given: after this check nothing else keeps them inside their arrays.
    """
    if keep is not None and (keep.dtype != np.bool_ or keep.shape != (len(windows), n_units)):
        message = f"keep is {keep.dtype} {keep.shape}, must be bool {(len(windows), n_units)}: windows by units"
        raise UsageError(message)
    segment, start, length, grid_ns = windows.segment, windows.start_ns, windows.length_ns, scheme.grid_ns
    if length <= 0 or length % scheme.length_grid_ns:
        message = (
            f"windows of {length} ns are no positive multiple of the {scheme.length_grid_ns} ns of scheme {scheme.name}"
        )
        raise UsageError(message)
    if scheme.window_ns is not None and length != scheme.window_ns:
        message = f"windows of {length} ns, scheme {scheme.name} has windows of {scheme.window_ns} ns"
        raise UsageError(message)
    from spiketok.tokens.schemes.kernels import windows as kernels

    first, last = columns["segment.start_ns"], columns["segment.stop_ns"]
    b = kernels.first_misplaced(segment, start, length, first, last, grid_ns)
    if b < 0:
        return
    g = int(segment[b])
    if not 0 <= g < len(first):
        message = f"window {b} names segment {g}, the shard has {len(first)}"
        raise UsageError(message)
    message = (
        f"window {b} at {int(start[b])}..{int(start[b]) + length} ns is not inside segment {g} at {int(first[g])}.."
        f"{int(last[g])} ns or not on its grid of {grid_ns} ns"
    )
    raise UsageError(message)
