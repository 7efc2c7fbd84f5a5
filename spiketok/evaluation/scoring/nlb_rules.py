"""What the Neural Latents Benchmark's server takes: its groups, and the rules that rates can break, each with its name.

What is unusual: a wrong shape is told by its likely cause (axes, width of bins, held-in and held-out units, forward
bins, trials of another split), each a rule of its own, with both shapes.

Source: nlb_tools 0.0.4, ``evaluation.evaluate`` and ``make_tensors``; units by the sets' own tables of units.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from spiketok.sources.catalogue.nlb.benchmark import BENCHMARKS

if TYPE_CHECKING:
    import h5py

UNITS = {  # held-in, held-out
    "mc_maze": (137, 45),
    "mc_maze_large": (122, 40),
    "mc_maze_medium": (114, 38),
    "mc_maze_small": (107, 35),
    "mc_rtt": (98, 32),
    "area2_bump": (49, 16),
    "dmfc_rsg": (40, 14),
}
ORDER = ("mc_maze", "mc_rtt", "area2_bump", "dmfc_rsg", "mc_maze_large", "mc_maze_medium", "mc_maze_small")
BINS_MS = {5: "", 20: "_20"}
EVAL = ("eval_rates_heldin", "eval_rates_heldout")
TRAIN = ("train_rates_heldin", "train_rates_heldout")
FORWARD = ("eval_rates_heldin_forward", "eval_rates_heldout_forward")
NOT_READ = ("train_rates_heldin_forward", "train_rates_heldout_forward")  # of an export: known, and not scored
MOST = 2**31  # numbers in an array: no set has a tenth
IN_HZ = 20  # times as many spikes as there are: a rate of another measure

Shape = tuple[int | None, int | None, int | None]
"""Trials, bins, units; None where only the truth says it."""


@dataclass(frozen=True)
class Group:
    """A set of the benchmark at one width of bins: a group of the file."""

    dataset: str
    bin_ms: int

    @property
    def name(self) -> str:
        return self.dataset + BINS_MS[self.bin_ms]

    @property
    def needs(self) -> tuple[str, ...]:
        """Arrays without which nlb_tools stops; dmfc_rsg has no decoder, so no training rates."""
        return EVAL if BENCHMARKS[self.dataset].lag_ms is None else (*EVAL, *TRAIN)

    @property
    def n_bins(self) -> int:
        start_ms, stop_ms = BENCHMARKS[self.dataset].window_ms
        return (stop_ms - start_ms) // self.bin_ms

    @property
    def n_forward(self) -> int:
        return BENCHMARKS[self.dataset].forward_ms // self.bin_ms


GROUPS = {group.name: group for dataset in ORDER for group in (Group(dataset, bin_ms) for bin_ms in BINS_MS)}

Fault = tuple[str, str, str]
"""The rule's name, the array, the fact."""


def name_fault(name: str, is_group: bool) -> tuple[str, str] | None:
    """What is wrong with a name at the file's top, if anything."""
    if name not in GROUPS:
        near = difflib.get_close_matches(name, GROUPS, n=1, cutoff=0.5)
        hint = f"is '{near[0]}' meant?" if near else f"there are {', '.join(GROUPS)}"
        return "group", f"'{name}' is no set's name, and nlb_tools passes over it: {hint}"
    if not is_group:
        return "group", f"'{name}' is no group with arrays in this file"
    return None


def group_faults(
    group: Group, given: h5py.Group, target: Mapping[str, np.ndarray] | None
) -> tuple[list[Fault], dict[str, np.ndarray], list[str]]:
    """What a group breaks; its arrays as float64, where it breaks nothing; arrays that nlb_tools does not read.

    Args:
        target: the truth's arrays, None where it is not at hand.
    """
    names = list(given)
    faults = [*_missing(group, names, target)]
    wanted = wanted_shapes(group, target)
    read = [name for name in wanted if name in names]
    for name in read:
        fault = _array_fault(name, given, wanted, group)
        if fault is not None:
            faults.append((fault[0], name, fault[1]))
    unread = [name for name in names if name not in wanted and name not in NOT_READ]
    if faults:
        return faults, {}, unread
    rates = {name: given[name][()].astype(np.float64) for name in read}
    faults = [*_same_trials(rates)] if target is None else []
    faults += [(rule, name, text) for name, rate in rates.items() for rule, text in _value_faults(name, rate, target)]
    return faults, rates, unread


def _missing(group: Group, names: list[str], target: Mapping | None) -> Iterator[Fault]:
    for name in group.needs:
        if name not in names:
            near = difflib.get_close_matches(name, [n for n in names if n not in group.needs], n=1, cutoff=0.6)
            hint = f"; is it '{near[0]}'?" if near else ""
            what = "leaves the set out" if name == "eval_rates_heldout" else "stops there"
            yield (
                "array",
                name,
                f"it is missing, and nlb_tools {what} (the group has {', '.join(names) or 'none'}){hint}",
            )
    here = [name for name in FORWARD if name in names]
    if len(here) == 1 and (target is None or "eval_spikes_heldin_forward" in target):
        lack = FORWARD[1 - FORWARD.index(here[0])]
        yield "array", lack, f"it is missing beside {here[0]}: fp-bps is of held-in and held-out units together"


def wanted_shapes(group: Group, target: Mapping[str, np.ndarray] | None) -> dict[str, Shape]:
    """The shape of each array that nlb_tools reads: of the truth, else of the benchmark's own sets."""
    heldin, heldout = UNITS[group.dataset]
    n_bins = n_train_bins = group.n_bins
    n_forward, n_eval, n_train = group.n_forward, None, None
    if target is not None:
        n_eval, n_bins, heldout = target["eval_spikes_heldout"].shape
        train = target["train_behavior"].shape
        n_train, n_train_bins = train[0], train[1] if len(train) == 3 else n_bins
        if "eval_spikes_heldin_forward" in target:
            _, n_forward, heldin = target["eval_spikes_heldin_forward"].shape
        elif "psth" in target:
            heldin = target["psth"].shape[2] - heldout
    units = {"heldin": heldin, "heldout": heldout}
    shapes = {f"eval_rates_{kind}": (n_eval, n_bins, n) for kind, n in units.items()}
    if group.needs != EVAL:
        shapes |= {f"train_rates_{kind}": (n_train, n_train_bins, n) for kind, n in units.items()}
    return shapes | {f"eval_rates_{kind}_forward": (n_eval, n_forward, n) for kind, n in units.items()}


def _array_fault(name: str, given: h5py.Group, wanted: Mapping[str, Shape], group: Group) -> tuple[str, str] | None:
    """What is wrong with an array before its numbers are read."""
    import h5py

    if not isinstance(given.get(name, getlink=True), h5py.HardLink) or not isinstance(given[name], h5py.Dataset):
        return "array", "it is no array of this file, but a link or a group: write the numbers themselves"
    array = given[name]
    if array.external or array.is_virtual:
        return "array", "its numbers lie in another file: write the numbers themselves"
    if array.dtype.kind not in "fiub":
        return "type", f"it is of type {array.dtype}, must be real numbers: write x.astype('float32')"
    if array.shape is None or array.size > MOST:
        return "dimensions", f"it has shape {array.shape}, must be {_shown(wanted[name])}"
    if not _fits(array.shape, wanted[name]):
        rule, cause = _cause(name, array.shape, wanted, group)
        return (
            rule,
            f"it has shape {_shown(array.shape)}, must be {_shown(wanted[name])} (trials, bins, units): {cause}",
        )
    return None


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == 3 and all(w is None or n == w for n, w in zip(shape, wanted, strict=True))


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"


def _cause(name: str, shape: tuple[int, ...], wanted: Mapping[str, Shape], group: Group) -> tuple[str, str]:
    """The rule and the likely cause of a wrong shape, the first of: axes, bins, units, trials."""
    _, n_bins, n_units = wanted[name]
    if len(shape) != 3:
        flat = len(shape) == 2 and shape[1] == n_units and shape[0] % n_bins == 0
        hint = f"trials and bins are laid flat, write x.reshape(-1, {n_bins}, {n_units})" if flat else "three axes"
        return "dimensions", hint
    for axes in permutations(range(3)):
        if axes != (0, 1, 2) and _fits(tuple(shape[k] for k in axes), wanted[name]):
            return "axes", f"the axes are in another order, write x.transpose({', '.join(map(str, axes))})"
    if shape[1] != n_bins:
        return _cause_of_bins(name, shape[1], n_bins, group)
    if n_units != shape[2]:
        return _cause_of_units(name, shape[2], wanted)
    other = next((w for w in wanted.values() if w[0] == shape[0]), None)
    if other is not None:
        mine, theirs = ("train", "eval") if name.startswith("train") else ("eval", "train")
        return (
            "trials",
            f"as many trials as the {theirs} arrays have: are train and eval swapped? It is of the {mine} split",
        )
    return "trials", (
        "the truth is of another split or in another file (val where test is meant?): write both with spiketok export "
        "RUN --to nlb and spiketok export SESSION --to nlb, each trial in the order of the benchmark's tensors"
    )


def _cause_of_bins(name: str, found: int, wanted: int, group: Group) -> tuple[str, str]:
    width_ms = wanted * group.bin_ms / found if found else 0
    if width_ms in BINS_MS:
        right = group.dataset + BINS_MS[round(width_ms)]
        return "bin-width", f"bins of {width_ms:g} ms under the name of {group.bin_ms} ms: name the group '{right}'"
    if width_ms in (1, 2, 10):
        return "bin-width", f"bins of {width_ms:g} ms, the benchmark takes 5 or 20: train with --set data.bin_ms=5"
    if found == wanted + group.n_forward:
        n = group.n_forward
        return (
            "bins",
            f"the {n} forward bins are among them: write x[:, :{wanted}], and x[:, {wanted}:] as {name}_forward",
        )
    start, stop = BENCHMARKS[group.dataset].window_ms
    return (
        "bins",
        f"the window is {start} to {stop} ms in bins of {group.bin_ms} ms: train with data.window_ms={stop - start}",
    )


def _cause_of_units(name: str, found: int, wanted: Mapping[str, Shape]) -> tuple[str, str]:
    own, other = ("heldin", "heldout") if "heldin" in name else ("heldout", "heldin")
    theirs = name.replace(own, other)
    n_own, n_other = wanted[name][2], wanted[theirs][2]
    if found == n_other:
        return "heldin-heldout", f"{theirs} has so many units: are held-in and held-out units swapped?"
    if found == n_own + n_other:
        part = f":{n_own}" if own == "heldin" else f"{n_other}:"
        return "heldin-heldout", f"held-in and held-out units together: write x[..., {part}], held-in units stand first"
    return "units", "the set's own units, each once, silent ones too, in the order of its table"


def _same_trials(rates: Mapping[str, np.ndarray]) -> Iterator[Fault]:
    """Without a truth: arrays that are laid side by side have as many trials."""
    for names in ((*EVAL, *FORWARD), TRAIN):
        here = [name for name in names if name in rates]
        for name in here[1:]:
            n, first = len(rates[name]), len(rates[here[0]])
            if n != first:
                yield "trials", name, f"it has {n} trials, {here[0]} has {first}: both are of the same trials"


def _value_faults(name: str, rate: np.ndarray, target: Mapping[str, np.ndarray] | None) -> Iterator[tuple[str, str]]:
    """Numbers that nlb_tools stops at, where they count."""
    exact = target is not None
    hint = "" if exact else " (what was not observed may be so: with the truth this is told apart)"
    counted = counts(name, target) if exact else np.ones(rate.shape[:2], np.bool_)
    numbers = rate[np.broadcast_to(counted if counted.ndim == 3 else counted[:, :, None], rate.shape)]
    bad = ~np.isfinite(numbers)
    if bad.any():
        yield "finite", f"{int(bad.sum())} of {bad.size} rates that count are nan or infinite{hint}"
    if name not in (EVAL[1], *FORWARD):
        return  # rates that are read by a ridge alone may be negative
    observed = ~np.isnan(target[name.replace("rates", "spikes")]) if exact and _spikes(name, target) else None
    low = (rate if observed is None else rate[observed]) < 0
    if low.any():
        text = f"{int(low.sum())} of {low.size} rates are below 0, down to {np.nanmin(rate):.3g} spikes a bin{hint}"
        yield "negative", text + ": are they log rates? Write np.exp(x)"


def _spikes(name: str, target: Mapping[str, np.ndarray]) -> bool:
    return name.replace("rates", "spikes") in target


def counts(name: str, target: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where a rate must be finite: bool ``[R, T]``, or ``[R, T, U]`` where each unit has its own.

    Spikes that are scored, bins with behaviour, and bins of a PSTH, each as nlb_tools takes them.
    """
    if name.startswith("train"):
        return ~np.isnan(target["train_behavior"]).any(axis=2)
    if name in FORWARD:
        key = name.replace("rates", "spikes")
        return ~np.isnan(target[key])
    behaviour = target["eval_behavior"]
    spikes = target["eval_spikes_heldout"]
    if behaviour.ndim == 3:
        found = ~np.isnan(behaviour).any(axis=2)
    else:
        found = ~np.isnan(spikes[..., 0])  # the neural speed of dmfc_rsg
    found = found | _of_psth(target, *spikes.shape[:2])
    return found if name == EVAL[0] else found[:, :, None] | ~np.isnan(spikes)


def _of_psth(target: Mapping[str, np.ndarray], n_trials: int, n_bins: int) -> np.ndarray:
    """Bins of trials that a PSTH is made of, bool ``[R, T]``."""
    found = np.zeros((n_trials, n_bins), np.bool_)
    if "psth" not in target:
        return found
    jitter = target.get("eval_jitter", np.zeros(n_trials, np.int64))
    known = ~np.isnan(target["psth"][:, :, 0])
    for k, rows in enumerate(target["eval_cond_idx"]):
        for row in np.asarray(rows, np.int64):
            late = int(jitter[row])
            found[row, : n_bins - late] |= known[k, late:]
    return found


def remarks(group: Group, rates: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> list[str]:
    """What the server takes and a person should know: rates of another measure, negative ones that a ridge reads."""
    found = []
    spikes, rate = target["eval_spikes_heldout"], rates["eval_rates_heldout"]
    observed = ~np.isnan(spikes)
    said, true = rate[observed].mean(), spikes[observed].mean()
    if true > 0 and said > IN_HZ * true:
        found.append(
            f"held-out rates are {said:.3g} spikes a bin on average, there are {true:.3g}: are they in Hz? Multiply by "
            f"{group.bin_ms / 1000:g}"
        )
    low = [name for name in (EVAL[0], *TRAIN) if name in rates and (rates[name] < 0).any()]
    if low:
        found.append(f"{', '.join(low)} have numbers below 0, which no rate is; nlb_tools takes them there")
    return found
