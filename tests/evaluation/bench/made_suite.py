"""A suite that runs in seconds, and sessions for it."""

from __future__ import annotations

from pathlib import Path

from spiketok.evaluation.bench.suite import Suite, read_suite
from spiketok.storage.store import write_session
from spiketok.storage.workspace import Workspace
from tests.decodable import decodable_session

TEXT = """
name = "tiny"
version = 2
title = "Tiny"
about = "Made in a test."
seeds = [3, 5]

[[tracks]]
name = "made"
dataset = "made"
score = "transfer"
tasks = ["decode:hand_vel"]
metrics = ["r2_variance_weighted", "r2_mean"]
unseen = "day2"
protocols = ["identity_only"]
calibration_s = [4, 8]
headline_s = 8
sets = ["data.window_ms=600", "data.batch_size=8"]

[[models]]
name = "ridge"
model = "linear"
protocol = "linear"
sets = ["model.lags=5"]

[[models]]
name = "small"
model = "poyo"
protocol = "identity_only"
sets = ["model.dim=16", "model.depth=1", "model.dim_head=8", "model.self_heads=2", "model.latents_per_step=2",
        "optim.steps=3", "transfer.identity_steps=2", "transfer.batch_size=4"]

[[changes]]
version = 2
text = "Second."
"""


def suite_file(folder: Path, text: str = TEXT, *swaps: tuple[str, str]) -> Path:
    """The suite as a file, with some of its words replaced."""
    for old, new in swaps:
        assert old in text, old
        text = text.replace(old, new)
    path = Path(folder) / "tiny.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def suite(folder: Path, *swaps: tuple[str, str]) -> Suite:
    return read_suite(str(suite_file(folder, TEXT, *swaps)))


def made_workspace(folder: Path) -> Workspace:
    """Three days of one animal, the units of which are decodable."""
    workspace = Workspace(Path(folder))
    for day in range(3):
        session = decodable_session(f"day{day}", day, n_units=8, seconds=16.0)
        write_session(session, workspace.store_path(session.id))
    return workspace
