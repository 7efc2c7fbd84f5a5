"""What FALCON's server takes: its sets, and the rules that a submission can break, each with its name.

Source: falcon-challenge 1.0.2, ``evaluator.py`` (``DATASET_HELDINOUT_MAP``, ``evaluate``, ``predict_files``),
``config.py`` (``out_dim``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

LATENCY = "normalized_latency"
PARTS = {"held_in": "Held In", "held_out": "Held Out"}
COMPONENTS = {"h1": 7, "m1": 16, "m2": 2, "b1": 158}
B1_FRAMES, B1_SCORED_FRAMES = 880, 700  # of a motif; of these are scored


def _h1(sets: dict[int, int]) -> tuple[str, ...]:
    return tuple(f"S{day}_set_{k}" for day, n in sets.items() for k in range(1, n + 1))


def _m2(days: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"Run{run}_{day}" for day, n in days.items() for run in range(1, n + 1))


def _days(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "h1": {
        "held_in": _h1({0: 2, 1: 3, 2: 2, 3: 2, 4: 2, 5: 2}),
        "held_out": _h1(dict.fromkeys(range(6, 13), 2)),
    },
    "h2": {
        "held_in": _days(
            "2022.05.18 2022.05.23 2022.05.25 2022.06.01 2022.06.03 2022.06.06 2022.06.08 2022.06.13 2022.06.15 "
            "2022.06.22 2022.09.01 2022.09.29 2022.10.06 2022.10.18 2022.10.25 2022.10.27 2022.11.01 2022.11.03 "
            "2022.12.08 2022.12.15 2023.02.28"
        ),
        "held_out": _days("2023.04.17 2023.05.31 2023.06.28 2023.08.16 2023.10.09"),
    },
    "m1": {
        "held_in": _days("20120924 20120926 20120927 20120928"),
        "held_out": _days("20121004 20121017 20121024"),
    },
    "m2": {
        "held_in": _m2({"20201019": 2, "20201020": 2, "20201027": 2, "20201028": 1}),
        "held_out": _m2({"20201030": 2, "20201118": 1, "20201119": 1, "20201124": 2}),
    },
    "b1": {
        "held_in": _days("2021.06.26 2021.06.27 2021.06.28"),
        "held_out": _days("2021.06.30 2021.07.01 2021.07.05"),
    },
}
BY_BIN = ("h1", "m1", "m2")  # answered bin by bin, scored by R2 of sessions

Fault = tuple[str, str, str]
"""The rule's name, the session (``"m1/20120924"``; empty where none is meant), the fact."""


def session_of(name: str) -> str:
    """The day that a set is of, by its name: ``S0_set_1`` is of S0, ``Run1_20201019`` of 20201019."""
    if name.startswith("Run"):
        return name.split("_")[1]
    return name.split("_")[0] if name.startswith("S") else name


def listed_name(task: str, name: str) -> str:
    """The name in the evaluator's list; the archive's own names of H2 (``ses-20220518``) are read as these."""
    if task == "h2" and name.startswith("ses-"):
        day = name.removeprefix("ses-")
        return f"{day[:4]}.{day[4:6]}.{day[6:]}"
    return name


def part_of(task: str, name: str) -> str:
    """``"held_in"`` or ``"held_out"``; empty: in no list."""
    return next((part for part, sets in SETS[task].items() if listed_name(task, name) in sets), "")


def in_order(task: str, said: Iterable[str]) -> list[str]:
    """The sets of a submission as the evaluator lays them end to end: as they come; M2's by day, then by run."""
    names = [name for name in said if name != LATENCY]
    if task != "m2":
        return names
    days = dict.fromkeys(session_of(name) for name in names)
    return [name for day in days for name in sorted(n for n in names if session_of(n) == day)]


def submission_faults(said: object, truth: Mapping[str, Mapping] | None) -> list[Fault]:
    """What a submission breaks.

    Args:
        said: of the pickle. truth: by task and set ``data`` and ``mask``; None: not at hand.
    """
    if not isinstance(said, dict) or not said or not all(isinstance(sets, dict) for sets in said.values()):
        what = "is empty" if said == {} else "is no dict of dicts"
        text = f"it {what}: the server takes {{task: {{set: prediction, ..., '{LATENCY}': seconds a second}}}}"
        return [("layout", "", text)]
    return [fault for task, sets in said.items() for fault in _task_faults(task, sets, truth)]


def _task_faults(task: str, said: Mapping[str, object], truth: Mapping[str, Mapping] | None) -> Iterator[Fault]:
    if task not in SETS:
        yield "task", task, f"there is no task '{task}', the evaluator scores {', '.join(SETS)}"
        return
    if truth is not None and task not in truth:
        text = f"the truth is of {', '.join(truth)}, not of {task}: the server would say that it is missing there"
        yield "truth", task, text
        return
    if LATENCY not in said:
        yield "latency", task, f"'{LATENCY}' is missing (seconds of computing a second of data): the server stops there"
    elif not _is_number(said[LATENCY]):
        yield "latency", task, f"'{LATENCY}' is {said[LATENCY]!r}, must be a finite number from 0"
    names = [name for name in said if name != LATENCY]
    listed = [name for part in SETS[task].values() for name in part]
    unknown = [name for name in names if not part_of(task, name)]
    for name in unknown:
        near = difflib.get_close_matches(name, listed, n=1, cutoff=0.5)
        hint = f": is '{near[0]}' meant?" if near else ""
        text = f"'{name}' is in no list of {task}, held in ({listed[0]} ...) or held out ({listed[-1]} ...){hint}"
        yield "set-name", f"{task}/{name}", text
    yield from _missing(task, names)
    if not unknown and task in BY_BIN:
        yield from _order(task, names)
    for name in names:
        if name in unknown:
            continue
        own = None
        if truth is not None:
            if name not in truth[task]:
                text = f"the truth has no set '{name}' (it has {', '.join(truth[task])}): is it of another phase?"
                yield "truth", f"{task}/{name}", text
                continue
            own = truth[task][name]
        check = {"h2": _text_faults, "b1": _frame_faults}.get(task, _bin_faults)
        for rule, text in check(task, said[name], own):
            yield rule, f"{task}/{name}", text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _missing(task: str, names: list[str]) -> Iterator[Fault]:
    """Of a part of which there is a set, all must be there."""
    said = {listed_name(task, name) for name in names}
    if not names:
        yield "sets-missing", task, f"there is no set of {task}, the server wants all held-in or all held-out ones"
    for part, sets in SETS[task].items():
        lacking = [name for name in sets if name not in said]
        if 0 < len(lacking) < len(sets):
            text = (
                f"{len(sets) - len(lacking)} of the {len(sets)} {PARTS[part].lower()} sets are there, the server wants "
                f"all: {', '.join(lacking[:6])}{' ...' if len(lacking) > 6 else ''} missing; ask the evaluator for all "
                "files of the phase"
            )
            yield "sets-missing", task, text


def _order(task: str, names: list[str]) -> Iterator[Fault]:
    for part in PARTS:
        own = [session_of(name) for name in in_order(task, names) if part_of(task, name) == part]
        if own != sorted(own):
            k = next(k for k, (a, b) in enumerate(zip(own, sorted(own), strict=True)) if a != b)
            text = (
                f"{PARTS[part].lower()} sessions come as {', '.join(dict.fromkeys(own))}: the server cuts them where "
                f"sorted ones would end ({sorted(own)[k]} stands before {own[k]} there), so that its R2 is of mixed "
                "sessions; put the sets in the order of sorted(sessions)"
            )
            yield "order", task, text


def _bin_faults(task: str, said: object, true: Mapping | None) -> Iterator[tuple[str, str]]:
    """H1, M1, M2: ``[T, C]``, at least as long as the mask, finite where it counts."""
    wanted = COMPONENTS[task]
    if not _is_real(said):
        yield "type", f"it is {_kind(said)}, must be an array of real numbers [bins, {wanted}]"
        return
    if said.ndim != 2:
        hint = f"; x.reshape(-1, {wanted}) lays it out" if said.size % wanted == 0 and said.ndim > 2 else ""
        yield "dimensions", f"it has shape {said.shape}, must be [bins, {wanted}]{hint}"
        return
    n_bins = len(true["mask"]) if true is not None else None
    if said.shape[1] != wanted:
        shown = f"[{'bins' if n_bins is None else n_bins}, {wanted}]"
        if said.shape[0] == wanted:
            yield "axes", f"it has shape {said.shape}, must be {shown}: the axes are swapped, write x.T"
        else:
            yield "components", f"it has shape {said.shape}, must be {shown}: {task} has {wanted} components"
        return
    counts = np.ones(len(said), np.bool_)
    if n_bins is not None:
        if len(said) < n_bins:
            yield (
                "length",
                f"it has {len(said)} bins, the recording {n_bins}: answer every bin of 20 ms, scored or not"
                + (", it looks like the scored ones alone" if len(said) == int(np.sum(true["mask"])) else ""),
            )
            return
        counts = np.zeros(len(said), np.bool_)
        counts[:n_bins] = true["mask"]
    yield from _not_finite(said[counts].reshape(-1, wanted), true is not None)


def _frame_faults(task: str, said: object, true: Mapping | None) -> Iterator[tuple[str, str]]:
    """B1: ``[frames, 1, 158]`` (or without the middle), whole motifs, as long as the mask."""
    wanted = COMPONENTS[task]
    if not _is_real(said):
        yield "type", f"it is {_kind(said)}, must be an array of real numbers [frames, 1, {wanted}]"
        return
    if said.ndim not in (2, 3) or (said.ndim == 3 and said.shape[1] != 1):
        yield "dimensions", f"it has shape {said.shape}, must be [frames, 1, {wanted}]"
        return
    if said.shape[-1] != wanted:
        rule, hint = ("axes", ": the axes are swapped") if said.shape[0] == wanted else ("components", "")
        yield rule, f"it has shape {said.shape}, must be [frames, 1, {wanted}]{hint}"
        return
    n_frames = len(true["mask"]) if true is not None else len(said) // B1_FRAMES * B1_FRAMES
    if len(said) < max(n_frames, B1_FRAMES):
        yield "length", f"it has {len(said)} frames, must be {max(n_frames, B1_FRAMES)}: whole motifs of {B1_FRAMES}"
        return
    mask = np.asarray(true["mask"], np.bool_).reshape(n_frames, -1) if true is not None else None
    kept = said[:n_frames].reshape(n_frames, wanted)
    yield from _not_finite(kept[mask] if mask is not None else kept, true is not None)


def _text_faults(task: str, said: object, true: Mapping | None) -> Iterator[tuple[str, str]]:
    """H2: a list that holds the list of a day's sentences."""
    sentences = said[0] if isinstance(said, list) and len(said) == 1 else None
    if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
        yield "text", f"it is {_kind(said)}, must be [[sentence, ...]]: one list of the day's sentences in a list"
        return
    n_true = len(true["data"][0]) if true is not None else None
    if n_true is not None and len(sentences) != n_true:
        yield (
            "sentences",
            (
                f"it has {len(sentences)} sentences, the day has {n_true}: the server compares the first "
                f"{min(len(sentences), n_true)} in order and forgets the rest; answer each trial, with '' where need be"
            ),
        )


def _not_finite(scored: np.ndarray, exact: bool) -> Iterator[tuple[str, str]]:
    bad = ~np.isfinite(scored)
    if bad.any():
        where = "scored numbers" if exact else "numbers"
        hint = "" if exact else " (what is not scored may be so: with the truth this is told apart)"
        yield "finite", f"{int(bad.sum())} of {bad.size} {where} are nan or infinite, of which there is no R2{hint}"


def _is_real(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | dict | str) else "")
