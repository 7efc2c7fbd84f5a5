"""The log of a training's steps, ``metrics.jsonl``: a line for every few steps, and for every validation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from spiketok.errors import DataError
from spiketok.storage.files import atomic_file, writing
from spiketok.storage.records import step_lines
from spiketok.training.tasks.base import Score

Event = dict[str, object]
WAITING, COUNTS = "step_log", "of_batches_windows_seconds"  # names of tensors in a checkpoint


class StepLog:
    """Lines of ``metrics.jsonl``: means of the losses since the line before, cut back to ``step`` at the start."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in step_lines(path) if line["step"] <= step]
        with atomic_file(path) as wip:
            wip.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._begin()

    def _begin(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.batches, self.windows, self.since = 0, 0, time.perf_counter()

    def waiting(self) -> dict[str, torch.Tensor]:
        """What was summed since the line before: of a training that stops between two lines."""
        counts = torch.tensor([self.batches, self.windows, time.perf_counter() - self.since], dtype=torch.float64)
        return {f"{WAITING}/{COUNTS}": counts, **{f"{WAITING}/{name}": value for name, value in self.sums.items()}}

    def put_back(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """What :meth:`waiting` gave, among other tensors; nothing where it is not among them."""
        held = {k.removeprefix(f"{WAITING}/"): v for k, v in tensors.items() if k.startswith(f"{WAITING}/")}
        if held:
            batches, windows, took = held.pop(COUNTS).tolist()
            self.batches, self.windows, self.since = int(batches), int(windows), time.perf_counter() - took
            self.sums = {name: value.to(device) for name, value in held.items()}

    def add(self, losses: dict[str, torch.Tensor], windows: int) -> None:
        """Sum a batch's losses where they are, without waiting for the device."""
        for name, value in losses.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.batches, self.windows = self.batches + 1, self.windows + windows

    def line(self, step: int, total: int, epoch: int, lr: float) -> Event:
        losses = {name: float(value) / self.batches for name, value in self.sums.items()}
        for name, value in losses.items():
            if not math.isfinite(value):
                message = (
                    f"loss '{name}' is {value} at step {step}: lower the learning rate by --set optim.lr={lr / 3:.1e}"
                )
                raise DataError(message)
        per_s = self.windows / max(time.perf_counter() - self.since, 1e-9)
        row = {
            "event": "step",
            "step": step,
            "epoch": epoch,
            "lr": lr,
            "windows_per_s": round(per_s, 2),
            "loss": losses,
        }
        self._append(row)
        self._begin()
        return row | {"total_steps": total}

    def validation(self, step: int, scores: dict[str, dict[str, Score]]) -> Event:
        row = {"event": "valid", "step": step, "scores": scores}
        self._append(row)
        return row

    def _append(self, row: Event) -> None:
        with writing(self.path), open(self.path, "ab", buffering=0) as stream:
            whole, line = stream.tell(), json.dumps(row).encode() + b"\n"
            try:
                while line:  # a disk that is getting full takes a part of it first
                    line = line[stream.write(line) :]
            except OSError:
                stream.truncate(whole)
                raise
