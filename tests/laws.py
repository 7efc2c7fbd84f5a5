"""What the tests of the scheme laws share: cuts of one window, and what the slow twin wants of it."""

from __future__ import annotations

import numpy as np

from spiketok.recording.nouns import Intervals, Session, Signal
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.base import Columns, Tokens, Windows
from tests.reference import TWINS


def wanted_tokens(
    scheme: Scheme, session: Session, segments: Intervals, windows: Windows, b: int, keep=None, unit_row=None
) -> dict[str, np.ndarray]:
    """What the twin says of window b."""
    own = None if keep is None else keep[b].tolist()
    rows = None if unit_row is None else unit_row.tolist()
    return TWINS[scheme.name].window(scheme, session, segments, windows, b, own, rows)


def token_rows(tokens: Tokens, b: int) -> dict[str, np.ndarray]:
    return {name: column[tokens.offset[b] : tokens.offset[b + 1]] for name, column in tokens.columns.items()}


def one(windows: Windows, b: int) -> Windows:
    return Windows(windows.segment[b : b + 1], windows.start_ns[b : b + 1], windows.length_ns)


def cut_one(scheme: Scheme, columns: Columns, windows: Windows, b: int, keep=None, unit_row=None) -> Tokens:
    return scheme.cut(columns, one(windows, b), None if keep is None else keep[b : b + 1], unit_row)


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Same columns, dtypes and bytes (NaN equals NaN)."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def of_all_units(known: Signal, n_units: int) -> Signal:
    """A signal whose components are the rows of the units that left tokens, with zeros for the others."""
    value = np.zeros((len(known.time_ns), n_units), np.float32)
    value[:, [int(row) for row in known.components]] = known.value
    return Signal(known.time_ns, value, tuple(str(n) for n in range(n_units)), known.measure, known.valid)
