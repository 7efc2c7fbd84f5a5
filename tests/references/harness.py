"""What every replay needs: reading a golden file, copying its weights in, and comparing what comes out."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from tests.references import REPLAYS

Golden = Mapping[str, np.ndarray]

TOLERANCE = 1e-5  # of the largest value in a tensor
TOLERANCE_OF = {"ldns": 1e-4, "spint_size": 1e-4}  # by the beginning of a file's name: sums of a thousand terms
GRADIENT_TOLERANCE = 2e-4


@dataclass
class Result:
    """What the replay of one file came to.

    Args:
        worst: the largest error, relative to the largest value of its tensor.
        n_keys: keys that were compared. n_all: keys that the file asks for.
        left_out: keys that are not compared, with the reason.
        fault: the key that failed, and how; empty where all agree.
    """

    name: str
    worst: float = 0.0
    n_keys: int = 0
    n_all: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def passed(self) -> bool:
        return not self.fault

    def __str__(self) -> str:
        if self.fault:
            return f"FAIL {self.name} {self.fault}"
        lines = [f"PASS {self.name} {self.worst:.1e} {self.n_keys}/{self.n_all}"]
        return "\n".join(lines + [f"     left out {key}: {reason}" for key, reason in self.left_out.items()])


# ---- running a replay -----------------------------------------------------------------------------------------------


def prefix_of(name: str) -> str | None:
    """The entry of ``REPLAYS`` that serves a golden file of this name; None where there is none."""
    return max((prefix for prefix in REPLAYS if name.startswith(prefix)), key=len, default=None)


def replay_of(name: str) -> ModuleType:
    """The module that replays a golden file of this name."""
    return importlib.import_module(REPLAYS[prefix_of(name)])


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a golden file and its ``meta``."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
        return arrays, json.loads(str(file["meta"]))


def check(path: Path) -> Result:
    """Replay one file; whatever the replay raises is its fault."""
    golden, meta = read(path)
    try:
        module = replay_of(path.stem)
        found = module.replay(golden, meta)
    except Exception as error:  # noqa: BLE001 a file that cannot be replayed must not hide the others
        return Result(path.stem, fault=f"replay {type(error).__name__}: {error}")
    return compare(path.stem, golden, found, module.LEFT_OUT)


def compare(name: str, golden: Golden, found: Mapping[str, np.ndarray], left_out: Mapping[str, str]) -> Result:
    """Hold what a replay gave against the file.

    Args:
        left_out: reasons by key, or by pattern of keys. What is given all the same is compared.
    """
    result = Result(name)
    needed = [key for key in golden if key.startswith(("out/", "loss/", "grad/", "mid/grad_norm/")) or key in found]
    result.n_all = len(needed)
    ratio = 0.0
    for key in needed:
        reason = next((text for pattern, text in left_out.items() if fnmatchcase(key, pattern)), "")
        if key not in found and reason:
            result.left_out[key] = reason
            continue
        if key not in found:
            result.fault = f"{key} is not given"
            return result
        error, message = difference(golden[key], np.asarray(found[key]))
        result.n_keys += 1
        result.worst = max(result.worst, error)
        allowed = tolerance(name, key)
        if not error <= allowed and error / allowed > ratio:
            ratio, result.fault = error / allowed, f"{key} {message or f'{error:.1e}'}"
    if not result.n_keys:
        result.fault = "nothing was compared"
    return result


def tolerance(name: str, key: str) -> float:
    """The largest error that a key of a file may have, relative to the largest value of its tensor."""
    own = next((value for prefix, value in TOLERANCE_OF.items() if name.startswith(prefix)), TOLERANCE)
    return max(own, GRADIENT_TOLERANCE) if key.startswith(("grad/", "mid/grad_norm/", "out/grad_")) else own


def difference(expected: np.ndarray, found: np.ndarray) -> tuple[float, str]:
    """The largest difference over the largest finite value expected, and what is wrong where that says nothing."""
    if expected.shape != found.shape:
        return np.inf, f"has shape {found.shape}, expected {expected.shape}"
    if expected.dtype.kind in "biuSU":
        wrong = int((expected != found).sum())
        return (np.inf, f"differs in {wrong} of {expected.size} values") if wrong else (0.0, "")
    if expected.size == 0:
        return 0.0, ""
    finite = np.isfinite(expected)
    if not np.array_equal(np.where(finite, 0, expected), np.where(np.isfinite(found), 0, found), equal_nan=True):
        return np.inf, "is not finite at the same places"
    if not finite.any():
        return 0.0, ""
    scale = np.abs(expected[finite]).max()
    return float(np.abs(expected[finite].astype(np.float64) - found[finite]).max() / (scale or 1.0)), ""


# ---- for the replays ------------------------------------------------------------------------------------------------

Parts = Mapping[str, Sequence[Tensor]]


def copy_weights(golden: Golden, parts: Parts) -> None:
    """Copy every weight of a golden file into a model.

    Args:
        parts: by the weight's name (without ``w/``), what of the model stands behind one another along its first axis.
            A part that is no parameter is a constant of the model, and the file must hold the same.

    Raises:
        ValueError: the file has a weight that nothing takes, or lacks one, or has another constant.
    """
    held = {key.removeprefix("w/") for key in golden if key.startswith("w/")}
    if held != set(parts):
        message = f"not taken: {sorted(held - set(parts))}; not in the file: {sorted(set(parts) - held)}"
        raise ValueError(message)
    for name, own in parts.items():
        weight = torch.from_numpy(golden[f"w/{name}"]).reshape(-1, *own[0].shape[1:])
        with torch.no_grad():
            for part, rows in zip(own, weight.split([len(part) for part in own]), strict=True):
                if isinstance(part, nn.Parameter):
                    part.copy_(rows)
                elif not torch.allclose(part, rows, rtol=1e-6, atol=0):
                    message = f"w/{name} is a constant of the model, which has other values"
                    raise ValueError(message)


def grad_norms(parts: Parts) -> dict[str, np.ndarray]:
    """The norm of the gradient of each weight, by the golden's key; 0 where nothing came."""
    norms = {}
    for name, own in parts.items():
        grads = [part.grad.to_dense().flatten() for part in own if part.grad is not None]
        norms[f"mid/grad_norm/{name}"] = torch.cat([torch.zeros(1), *grads]).norm().numpy()
    return norms


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()
