"""The Neural Latents Benchmark on this machine: the rates that its server takes, checked rule by rule, and its table.

    NlbScorer().check(Path("submission.h5"), Path("targets"))      # [] where nlb_tools' evaluate takes it
    NlbScorer().table(Path("submission.h5"), Path("targets"))

Predictions are a file as ``spiketok export RUN --to nlb`` or ``nlb_tools.make_tensors.save_to_h5`` writes it, or a
folder of such files. Truth is what ``spiketok export SESSION --to nlb`` or ``make_eval_target_tensors`` writes, a file
or a folder of them. Numbers are those of ``nlb_tools.evaluation.evaluate`` (0.0.4) on the same files.

Rules by name: docs/nlb.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spiketok.errors import ArtefactError, DataError, UsageError
from spiketok.evaluation.nlb_scores import scores
from spiketok.evaluation.scoring.base import Broken, ScoreTable
from spiketok.evaluation.scoring.nlb_rules import GROUPS, Group, group_faults, name_fault, remarks

if TYPE_CHECKING:
    import h5py

METRICS = ("co-bps", "vel R2", "tp corr", "psth R2", "fp-bps")
COLUMNS = ("file", "dataset", "bin_ms", "split", *METRICS)
TRUTH = "eval_spikes_heldout"  # what nlb_tools knows a group of truth by
SCALING = {"mc_maze_large": "[500]", "mc_maze_medium": "[250]", "mc_maze_small": "[100]"}  # trials, in its one split


class NlbScorer:
    """The benchmark's rules and table."""

    suite: ClassVar[str] = "nlb21"

    def check(self, predictions: Path, truth: Path | None) -> list[Broken]:
        """The rules that the files break; without truth those that can be told without it.

        Raises:
            UsageError: there is no such file. ArtefactError: the truth cannot be read. DataError: there is none in it.
        """
        return [broken for one in _read(Path(predictions), truth) for broken in one.broken]

    def table(self, predictions: Path, truth: Path) -> ScoreTable:
        """The benchmark's numbers, a row for each set and width of bins; of groups that break no rule.

        Errors as :meth:`check`.
        """
        rows, notes, answers = [], [], _truth(Path(truth))
        for one in _read(Path(predictions), truth):
            bad = {broken.session for broken in one.broken}
            for broken in one.broken:
                place = f"{one.name}: {broken.session}" if broken.session else f"{one.name}"
                notes.append(f"{place} is not scored, it breaks the rule {broken.rule}")
            for name, rates in one.rates.items():
                if name in bad:
                    continue
                notes += [f"{one.name}: {name}: {remark}" for remark in remarks(GROUPS[name], rates, answers[name])]
                notes += [f"{one.name}: {name}/{array} is not read by nlb_tools" for array in one.unread.get(name, ())]
                found, lacking = _scores(rates, answers[name])
                notes += [f"{one.name}: {name}: {lack}" for lack in lacking]
                lead = {"file": one.name.as_posix(), "dataset": GROUPS[name].dataset, "bin_ms": GROUPS[name].bin_ms}
                rows.append({**lead, "split": split_name(name), **{metric: found.get(metric) for metric in METRICS}})
        return ScoreTable(COLUMNS, rows, list(dict.fromkeys(notes)))


def split_name(group: str) -> str:
    """The leaderboard's split of a group.

    >>> split_name("mc_rtt_20"), split_name("mc_maze_small")
    ('mc_rtt_20_split', 'mc_maze_scaling_split [100]')
    """
    dataset = GROUPS[group].dataset
    ending = group.removeprefix(dataset)
    if dataset in SCALING:
        return f"mc_maze_scaling{ending}_split {SCALING[dataset]}"
    return f"{group}_split"


def _scores(rates: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> tuple[dict[str, float], list[str]]:
    """The scores, and what there is none of and why."""
    lacking = []
    if "eval_rates_heldin_forward" in rates and "eval_spikes_heldin_forward" not in target:
        rates = {name: rate for name, rate in rates.items() if not name.endswith("_forward")}
        lacking.append("no fp-bps, the truth has no forward bins")
    elif "eval_rates_heldin_forward" not in rates:
        lacking.append("no fp-bps, there are no forward bins: train with --set task.population.forward_ms=200")
    if "psth" not in target:
        lacking.append("no psth R2, the truth has no PSTH")
    try:
        return scores(target, rates), lacking
    except DataError as error:
        return {}, [*lacking, f"not scored: {error}"]


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Submission:
    """One file: by group the arrays that the server reads, what it breaks, and arrays that the server does not read."""

    name: Path
    rates: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)


def _read(predictions: Path, truth: Path | None) -> list[_Submission]:
    """Every file of predictions with what it breaks; in a folder, a file of truth is none of them."""
    import h5py

    answers = _truth(Path(truth)) if truth is not None else None
    home, found = predictions if predictions.is_dir() else predictions.parent, []
    for path in _files(predictions):
        one = _Submission(path.relative_to(home))
        try:
            with h5py.File(path) as file:
                if predictions.is_dir() and _is_truth(file):
                    continue
                _check_file(one, file, answers)
        except OSError as error:
            text = f"it cannot be read as HDF5 ({error}): write it with spiketok export RUN --to nlb"
            one.broken.append(Broken("file", one.name, "", text))
        found.append(one)
    if not found:
        message = (
            f"{predictions} holds truth alone, no rates: write them with spiketok export RUN --to nlb --out FOLDER"
        )
        raise UsageError(message)
    return found


def _check_file(one: _Submission, file: h5py.File, answers: Mapping[str, Mapping] | None) -> None:
    for name in file:
        fault = name_fault(name, _is_group(file, name))
        if fault is not None:
            one.broken.append(Broken(fault[0], one.name, name, fault[1]))
            continue
        if answers is not None and name not in answers:
            text = f"the truth has no '{name}' (it has {', '.join(answers)}): nlb_tools leaves it out of its table"
            one.broken.append(Broken("truth", one.name, name, text))
            continue
        group = GROUPS[name]
        faults, rates, unread = group_faults(group, file[name], answers[name] if answers is not None else None)
        one.broken.extend(Broken(rule, one.name, name, f"{array}: {text}") for rule, array, text in faults)
        one.rates[name], one.unread[name] = rates, unread
    if not len(file):
        text = f"it has no group: one a set is wanted, as 'mc_maze' (5 ms) or 'mc_maze_20' ({', '.join(GROUPS)})"
        one.broken.append(Broken("group", one.name, "", text))


def _is_group(file: h5py.File, name: str) -> bool:
    """Whether it is a group of this very file; links lead out of what was handed in."""
    import h5py

    return isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Group)


def _files(place: Path) -> list[Path]:
    files = [place] if place.is_file() else sorted({f for end in ("*.h5", "*.hdf5") for f in place.rglob(end)})
    if not files:
        message = (
            f"{place} is no file, and no folder with *.h5: write one with spiketok export RUN --to nlb --out FOLDER"
        )
        raise UsageError(message)
    return files


def _truth_groups(file: h5py.File) -> list[str]:
    return [name for name in file if name in GROUPS and _is_group(file, name) and TRUTH in file[name]]


def _is_truth(file: h5py.File) -> bool:
    return bool(_truth_groups(file))


def _truth(place: Path) -> dict[str, dict[str, np.ndarray]]:
    """By group the arrays of ``eval_target``: of a file, or of those in a folder that hold them."""
    import h5py

    found: dict[str, dict[str, np.ndarray]] = {}
    for path in _files(place):
        try:
            with h5py.File(path) as file:
                for name in _truth_groups(file):
                    if name in found:
                        message = (
                            f"{place} has the truth of {name} twice, the second time in {path.name}: name one file"
                        )
                        raise DataError(message)
                    found[name] = {key: _target(array[()]) for key, array in file[name].items()}
        except OSError as error:
            message = f"{path} cannot be read as HDF5 ({error}): write it with spiketok export SESSION --to nlb"
            raise ArtefactError(message) from error
    if not found:
        message = (
            f"{place} holds no truth ('{TRUTH}' in a group as mc_maze): spiketok export SESSION --to nlb writes it"
        )
        raise DataError(message)
    for name, target in found.items():
        if lacking := [key for key in ("train_behavior", "eval_behavior") if key not in target]:
            message = f"{place}: the truth of {name} has no '{lacking[0]}': spiketok export SESSION --to nlb writes it"
            raise DataError(message)
    return found


def _target(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if value.dtype.kind == "f" else value


__all__ = ["GROUPS", "Group", "NlbScorer", "split_name"]
