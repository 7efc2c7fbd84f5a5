"""A session's tokens by one scheme, as a notebook holds them: columns, and windows cut out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spiketok.api.sessions import ns_of
from spiketok.api.tables import html_of
from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import NS_PER_S, Intervals
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader


class SessionShard:
    """The tokens of one session by one scheme: ``ws.tokens(session, scheme)``.

    Attributes:
        reader: the shard as the rest of the package reads it.
    """

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __repr__(self) -> str:
        return f"SessionShard({self.session}, {self.scheme})"

    def _repr_html_(self) -> str:
        facts = {"scheme": self.scheme, "spikes": self.reader.manifest["n_spikes"], "lost": self.reader.lost or "none"}
        shapes = {name: f"{c.dtype} {list(c.shape)}" for name, c in self.columns.items()}
        return html_of(self.session, facts | {f"column {name}": shape for name, shape in shapes.items()})

    @property
    def session(self) -> str:
        return self.reader.manifest["session"]["id"]

    @property
    def scheme(self) -> Scheme:
        return self.reader.scheme

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """All tokens of the session, read-only, mapped from the disk."""
        return self.reader.columns

    @property
    def segments(self) -> Intervals:
        """The stretches that were baked, in ns; a window lies inside of one."""
        return self.reader.segments

    def window(self, start_s: float, stop_s: float, units: Sequence[bool] | None = None) -> dict[str, np.ndarray]:
        """The tokens of a window, as a model gets them: times count from the window's start.

        Args:
            start_s, stop_s: inside one of :attr:`segments`, on the scheme's grid counted from its start.
            units: bool ``[N]``, which units it has; all by default.

        Raises:
            UsageError: the window is not on the scheme's grid. DataError: no segment holds it.
        """
        start, stop = ns_of(start_s, "start_s"), ns_of(stop_s, "stop_s")
        held = np.flatnonzero((self.segments.start_ns <= start) & (stop <= self.segments.stop_ns))
        asked = f"{start / NS_PER_S:g}..{stop / NS_PER_S:g} s"
        if not held.size or stop <= start:
            each = zip(self.segments.start_ns[:4] / NS_PER_S, self.segments.stop_ns[:4] / NS_PER_S, strict=True)
            shown = ", ".join(f"{low:g}..{high:g}" for low, high in each)
            message = f"{self.session}: no segment holds a window of {asked}: there are {len(self.segments)}, {shown} s"
            raise DataError(message)
        segment, scheme = int(held[0]), self.scheme
        off = (start - int(self.segments.start_ns[segment])) % scheme.grid_ns
        if off or (stop - start) % scheme.length_grid_ns:
            message = (
                f"{self.session}: a window of {asked} is not on the grid of {scheme}: it starts on multiples of "
                f"{scheme.grid_ns / NS_PER_S:g} s from {self.segments.start_ns[segment] / NS_PER_S:g} s and is a "
                f"multiple of {scheme.length_grid_ns / NS_PER_S:g} s long"
            )
            raise UsageError(message)
        keep = None
        if units is not None:
            keep = np.asarray(units, np.bool_)[None, :]
            if keep.shape[1] != self.reader.info.n_units:
                message = f"units has {keep.shape[1]} flags, {self.session} has {self.reader.info.n_units} units"
                raise UsageError(message)
        windows = Windows(np.array([segment]), np.array([start], np.int64), stop - start)
        return dict(scheme.cut(self.columns, windows, keep).columns)
