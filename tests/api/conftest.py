"""A workspace with three small sessions, two of one width, and their shards, made once for all tests of the room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import spiketok
from spiketok.recording.nouns import Intervals
from spiketok.storage.store import write_session
from tests.decodable import SECOND, decodable_session


@pytest.fixture(scope="session")
def ws(tmp_path_factory):
    root = tmp_path_factory.mktemp("api")
    for name, seed, n_units in (("a", 0, 12), ("b", 1, 12), ("c", 2, 9)):
        session = decodable_session(name, seed, n_units=n_units, seconds=30.0)
        side = np.array(["left", "right", "left"])
        trials = Intervals([0, 5 * SECOND, 9 * SECOND], [4 * SECOND, 8 * SECOND, 12 * SECOND], {"side": side})
        session = replace(session, intervals={"trials": trials}, subject="s" if name != "c" else "t")
        write_session(session, root / "store" / "made" / name)
    opened = spiketok.open(root)
    opened.tokenize(["binned", "per-spike"])
    return opened
