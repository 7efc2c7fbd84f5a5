"""Arrays inside a page: little-endian bytes, gzip, base64, each in a script element of its own.

Times are ticks of the session's clock, as differences in LEB128 (seven bits a byte, the lowest first, the high bit on
all but the last): a spike takes one or two bytes and comes back to the ns. Floats go as four planes of bytes, which
gzip takes better than whole floats.
"""

from __future__ import annotations

import base64
import gzip

import numpy as np

MOST_BYTES = 10  # of a number in LEB128


class Blobs:
    """The arrays of a page, in order; each ``add`` gives what the page's script needs to find one again."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def _put(self, raw: bytes, kind: str, n: int) -> dict[str, object]:
        self.texts.append(base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii"))
        return {"blob": len(self.texts) - 1, "kind": kind, "n": n}

    def rising(self, tick: np.ndarray) -> dict[str, object]:
        """Non-decreasing int64 ``[n]``; the first of them stands beside the blob."""
        first = int(tick[0]) if len(tick) else 0
        return self._put(varints(np.diff(tick, prepend=first)), "rising", len(tick)) | {"first": first}

    def whole(self, value: np.ndarray, dtype: str) -> dict[str, object]:
        """``dtype`` is ``"u1"`` or ``"u2"``; values that it cannot hold are a fault of the caller."""
        return self._put(np.ascontiguousarray(value, f"<{dtype}").tobytes(), dtype, int(np.size(value)))

    def floats(self, value: np.ndarray) -> dict[str, object]:
        """float32 of any shape, in C order; NaN where there is none."""
        raw = np.ascontiguousarray(value, "<f4").view(np.uint8).reshape(-1, 4)
        return self._put(np.ascontiguousarray(raw.T).tobytes(), "f4", int(np.size(value)))

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.texts))


def varints(value: np.ndarray) -> bytes:
    """LEB128 of int64 ``[n]``, none below 0."""
    rest = np.asarray(value, np.int64).astype(np.uint64)
    size = np.ones(len(rest), np.int64)
    for k in range(1, MOST_BYTES):
        size += (rest >> np.uint64(7 * k)) > 0 if 7 * k < 64 else 0
    stop = np.cumsum(size)
    out = np.zeros(int(stop[-1]) if len(stop) else 0, np.uint8)
    place = stop - size
    for k in range(int(size.max(initial=0))):
        rows = np.flatnonzero(size > k)
        low = (rest[rows] >> np.uint64(7 * k)) & np.uint64(127)
        out[place[rows] + k] = low.astype(np.uint8) | ((size[rows] > k + 1) * np.uint8(128)).astype(np.uint8)
    return out.tobytes()
