"""Where the recorded answers of ibl-bwb-eval 0.1.0 lie, and how they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
GOLDEN = Path(os.environ.get("SPIKETOK_GOLDEN") or REPOSITORY.parent / "shared" / "golden") / "bwb" / "scorer"

needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the recorded answers of ibl-bwb-eval are not here (SPIKETOK_GOLDEN)"
)


def cases(name: str) -> dict[str, dict]:
    """The cases of a file of answers; none where the folder is not here."""
    return json.loads((GOLDEN / name).read_text())["cases"] if GOLDEN.is_dir() else {}


def answers(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def number(value: object) -> float:
    """A recorded number; 'nan', 'inf' and '-inf' are strings there."""
    return float(value)


def far(own: object, recorded: object) -> float:
    """How far two numbers are apart, relative where they are large; nan and infinity only equal themselves."""
    own, recorded = float(own), number(recorded)
    if np.isnan(own) or np.isnan(recorded):
        return 0.0 if np.isnan(own) and np.isnan(recorded) else float("inf")
    if np.isinf(own) or np.isinf(recorded):
        return 0.0 if own == recorded else float("inf")
    return abs(own - recorded) / max(1.0, abs(recorded))
