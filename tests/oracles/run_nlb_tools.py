"""Runs nlb_tools 0.0.4 itself, in its own environment of old packages: see the target oracle-nlb of the Makefile.

    OLD_PYTHON tests/oracles/run_nlb_tools.py FOLDER OUT.npz TWIST         write the fourteen files, then their tensors
    OLD_PYTHON tests/oracles/run_nlb_tools.py --file FILE NAME OUT.npz     the test split's input of one file
    OLD_PYTHON tests/oracles/run_nlb_tools.py --metrics OUT.npz            its scores of made-up rates and spikes
    OLD_PYTHON tests/oracles/run_nlb_tools.py --evaluate TRUTH.h5 RATES.h5 OUT.json     its server's table
    OLD_PYTHON tests/oracles/run_nlb_tools.py --golden OUT.npz FOLDER      the part that tests/golden/nlb keeps

Keys of the output: ``<set>/<bin>/<which>/<nlb_tools' own key>``; lists of rows as one array a condition, ``.../<k>``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
warnings.filterwarnings("ignore")
BINS = (5, 20)


def flatten(tree: dict, path: str, out: dict) -> dict:
    for key, value in tree.items():
        if isinstance(value, dict):
            flatten(value, path, out)
        elif value.dtype == object:
            for k, rows in enumerate(value):
                out[f"{path}/{key}/{k}"] = np.asarray(rows, np.int64)
        else:
            out[f"{path}/{key}"] = value.astype(np.float32) if value.dtype == np.float16 else value
    return out


def tensors(name: str, folder: Path, bin_ms: int) -> dict:
    from nlb_tools.make_tensors import make_eval_input_tensors, make_eval_target_tensors, make_train_input_tensors
    from nlb_tools.nwb_interface import NWBDataset

    dataset = NWBDataset(str(folder))
    if bin_ms != 1:
        dataset.resample(bin_ms)
    quiet = {"save_file": False}
    train = make_train_input_tensors(dataset, name, include_behavior=True, include_forward_pred=True, **quiet)
    out = flatten(train, f"{name}/{bin_ms}/train", {})
    for split in ("val", "test"):
        flatten(make_eval_input_tensors(dataset, name, split, **quiet), f"{name}/{bin_ms}/{split}", out)
    target = make_eval_target_tensors(dataset, name, include_psth=True, **quiet)
    return flatten(target, f"{name}/{bin_ms}/target", out)


def one_file(file: str, name: str, out: str) -> None:
    from nlb_tools.make_tensors import make_eval_input_tensors
    from nlb_tools.nwb_interface import NWBDataset

    found = {}
    for bin_ms in BINS:
        dataset = NWBDataset(file)
        dataset.resample(bin_ms)
        flatten(make_eval_input_tensors(dataset, name, "test", save_file=False), f"{name}/{bin_ms}/test", found)
    np.savez_compressed(out, **found)


def score_inputs() -> dict[str, np.ndarray]:
    """Made-up rates and targets of two conditions with jitter, unobserved bins, behaviour holes and two decoders."""
    rng = np.random.default_rng(7)
    rates = {name: rng.gamma(2.0, 0.2, (24, 30, 6)) for name in ("train", "eval")}
    rates["eval"][0, 0, 0] = 0.0
    mix = rng.normal(size=(6, 2))
    out = {f"{name}_rates": rate for name, rate in rates.items()}
    for name, rate in rates.items():
        out[f"{name}_behavior"] = rate @ mix + 0.3 * rng.normal(size=(24, 30, 2))
        out[f"{name}_mask"] = np.stack([np.arange(24) % 2 == 0, np.arange(24) % 2 == 1]).T
    out["train_behavior"][3, 25:] = np.nan
    out["spikes"] = rng.poisson(rates["eval"]).astype(float)
    out["spikes"][2, 20:] = np.nan
    out["jitter"] = rng.integers(0, 4, 24)
    out["psth"] = rng.gamma(2.0, 0.2, (3, 30, 6))
    out["psth"][:, :5] = np.nan
    out |= {"condition0": np.arange(0, 12), "condition1": np.arange(12, 24), "condition2": np.zeros(0, int)}
    out["tp_spikes"] = np.where(np.arange(30)[:, None] < 8, np.nan, np.zeros((24, 30, 3)))
    columns = [np.arange(24) % 2, 180.0 * (np.arange(24) // 2 % 2), np.zeros(24), np.full(24, 800.0)]
    out["tp_behavior"] = np.stack([*columns, rng.normal(800, 60, 24)], axis=1)
    out["tp_behavior"][5] = np.nan
    return out


def metrics(out: str) -> None:
    from nlb_tools import evaluation as e

    a = score_inputs()
    found = {"bits_per_spike": e.bits_per_spike(a["eval_rates"].copy(), a["spikes"].copy())}
    found["velocity_r2"] = e.velocity_decoding(
        a["train_rates"], a["train_behavior"], a["train_mask"], a["eval_rates"], a["eval_behavior"], a["eval_mask"]
    )
    conditions = [a[f"condition{k}"] for k in range(3)]
    found["psth_r2"] = e.eval_psth(a["psth"], a["eval_rates"], conditions, jitter=a["jitter"])
    found["tp_correlation"] = e.speed_tp_correlation(a["tp_spikes"], a["eval_rates"], a["tp_behavior"])
    np.savez_compressed(out, **found)


def table(truth: str, rates: str, out: str) -> None:
    from nlb_tools.evaluation import evaluate

    found = {split: numbers for one in evaluate(truth, rates) for split, numbers in one.items()}
    plain = {split: {name: float(value) for name, value in numbers.items()} for split, numbers in found.items()}
    Path(out).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")


def golden_part(found: dict) -> dict[str, dict]:
    """What the repository keeps of the tensors, by set: all spikes (uint8, 255 for nan), less of what is real."""
    out: dict[str, dict] = {}
    for path, value in found.items():
        name, bin_ms, which, key = path.split("/")[:4]
        small = bin_ms == "20" or (key == "eval_behavior") or (key == "psth" and name in ("mc_maze", "area2_bump"))
        if "spikes" in key:
            if not np.nanmax(value, initial=0) < 255:
                raise ValueError(path)
            value = np.where(np.isnan(value), 255, value).astype(np.uint8)
        elif "behavior" in key or key == "psth":
            if which == "train" or not small:
                continue
            value = value.astype(np.float32)
        out.setdefault(name, {})[path] = value
    return out


def keep_golden(given: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, arrays in golden_part(dict(np.load(given))).items():
        np.savez_compressed(Path(folder) / f"{name}.npz", **arrays)


def main(arguments: list[str]) -> None:
    if arguments[0] == "--file":
        one_file(*arguments[1:])
    elif arguments[0] == "--metrics":
        metrics(*arguments[1:])
    elif arguments[0] == "--evaluate":
        table(*arguments[1:])
    elif arguments[0] == "--golden":
        keep_golden(*arguments[1:])
    else:
        from tests.layouts.nlb import FILES, write_nlb

        found: dict = {}
        for name in FILES:
            paths = write_nlb(name, Path(arguments[0]) / name, int(arguments[2]))
            for bin_ms in BINS:
                found.update(tensors(name, paths["train"].parent, bin_ms))
        np.savez_compressed(arguments[1], **found)


if __name__ == "__main__":
    main(sys.argv[1:])
