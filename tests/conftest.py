"""Shared by all tests: where the real recordings are, and hypothesis profiles for two slow cores."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # one worker a core: torch with a thread for every core in each of them takes more than twice as long, and numpy's
    # linear algebra up to ten times
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if threading.current_thread() is threading.main_thread():
    # a job in the background of a shell has Ctrl-C ignored, and tests that send one would wait, or die of the next
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "default", deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    """What numba warns of is an error. Said in pyproject.toml it would import numpy before the lines above."""
    config.addinivalue_line("filterwarnings", "error::numba.NumbaWarning")


def pytest_collection_finish() -> None:
    """Keep what is imported out of garbage collection: each walks through all objects of torch, pynwb and the tests."""
    gc.freeze()


def real_data() -> Path | None:
    """The folder of real recordings (``SPIKETOK_REAL_DATA``, or ``shared/data`` beside the repository), or None."""
    given = os.environ.get("SPIKETOK_REAL_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))  # its fonts are listed once
os.environ["XDG_CONFIG_HOME"] = os.devnull  # no test reads the preferences of who runs it
