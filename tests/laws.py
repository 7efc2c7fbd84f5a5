"""What the tests of the scheme laws share beside ``spiketok.testing.schemes``: what the slow twin wants of a window."""

from __future__ import annotations

import numpy as np

from spiketok.recording.nouns import Intervals, Session
from spiketok.testing.schemes import assert_same, cut_one, of_all_units, one, token_rows
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.base import Windows
from tests.reference import TWINS

__all__ = ["assert_same", "cut_one", "of_all_units", "one", "token_rows", "wanted_tokens"]


def wanted_tokens(
    scheme: Scheme, session: Session, segments: Intervals, windows: Windows, b: int, keep=None, unit_row=None
) -> dict[str, np.ndarray]:
    """What the twin says of window b."""
    own = None if keep is None else keep[b].tolist()
    rows = None if unit_row is None else unit_row.tolist()
    return TWINS[scheme.name].window(scheme, session, segments, windows, b, own, rows)
