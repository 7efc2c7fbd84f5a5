"""Pairs of windows: where the second lies, and that nothing tears the two apart."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes import Binned
from spiketok.training.loader import Loader
from spiketok.training.pairs import PairWindows
from spiketok.training.sampling import SessionWindows
from tests.made import MS, SECOND, random_session, shard, whole

BIN, WINDOW, DISTANCE = 20 * MS, 500 * MS, 2 * SECOND


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    found = []
    for k in range(2):
        session = random_session(k, name=f"made/{k}")
        reader = shard(folder / str(k), Binned(bin_ns=BIN), session, whole(session))
        stop = session.stop_ns
        found.append(SessionWindows(reader, Intervals([0, stop // 2 + 7], [stop // 2 - SECOND, stop])))
    return found


def pairs_of(plan) -> list[tuple[int, int, int]]:
    assert np.array_equal(plan.session[::2], plan.session[1::2])
    return list(zip(plan.session[::2].tolist(), plan.start_ns[::2].tolist(), plan.start_ns[1::2].tolist(), strict=True))
