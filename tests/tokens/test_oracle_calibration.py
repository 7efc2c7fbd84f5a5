"""calibration against SPINT's own recipe: trials of binned counts through scipy's interp1d, in the same process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spiketok.recording.nouns import Intervals, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.tokens.schemes import Binned, Calibration
from tests.conftest import real_data

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        real_data() is None, reason="the real recordings are not here (set SPIKETOK_REAL_DATA to their folder)"
    ),
]


def real_session(name: str):
    path = Path(real_data()) / name
    return read_nwb(path, f"real/{path.stem}", Source(path.name, "0" * 64, 1))


@pytest.mark.parametrize("name", ["sub-Jenkins_ses-small_desc-test_ecephys.nwb", "sub-anm372793_ses-20170508.nwb"])
@pytest.mark.parametrize(("n_trials", "length"), [(10, 1024), (33, 100)])
def test_a_real_sessions_trials_equal_interp1d(name, n_trials, length):
    """FALCON's M1 and M2 settings: every number within 1e-5 of what scipy makes of the same counts."""
    from scipy.interpolate import interp1d

    session = real_session(name)
    scheme = Calibration(n_trials=n_trials, length=length)
    baked = scheme.bake(session, Intervals([session.start_ns], [session.stop_ns]))
    assert len(baked.columns["matrix"]) == n_trials
    worst, held = 0.0, 0
    for m in range(n_trials):
        start, stop = int(baked.columns["start_ns"][m]), int(baked.columns["stop_ns"][m])
        counts = Binned().bake(session, Intervals([start], [stop])).columns["counts"][: (stop - start) // 20_000_000]
        lay = interp1d(np.linspace(0, 1, len(counts)), counts, kind="cubic", axis=0)
        worst = max(worst, np.abs(baked.columns["matrix"][m] - lay(np.linspace(0, 1, length))).max())
        held += int(counts.sum())
    assert worst < 1e-5
    assert held == scheme.spikes_held(baked.columns) == len(session.spikes) - sum(baked.lost.values())
    assert held > 100 or name.startswith("sub-anm")
