"""Processing steps as data: ``hand_vel=derivative(hand_pos)`` on the command line, a JSON object in a store's settings.

The functions are those of ``processing``; a step's arguments are theirs, and their names carry the measure that a
number may be written with. What is unusual: a step also knows how far the samples that it makes reach in time, which
the guard against leakage asks for.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from typing import get_type_hints

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.leakage import stated_reach_ns, with_stated_reach
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Finding, Session, Signal
from spiketok.recording.signals import (
    CUTOFF,
    EXPONENTIAL_REACH,
    FUNCTIONS,
    GAUSSIAN_REACH,
    ZERO_CROSSINGS,
    sampling_period_ns,
)
from spiketok.settings import build, field_hints, split_assignment

GRAMMAR = "NAME=FUNCTION(SIGNAL, ARGUMENTS)"
_CALL = re.compile(r"(?P<function>\w+)\s*\(\s*(?P<signal>[^,()=]+?)\s*(?:,(?P<rest>[^()]*))?\)")
_NUMBER = re.compile(
    r"(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)\s*(?P<measure>[a-z]*)", re.IGNORECASE
)
_MEASURES = {"hz": {"hz": 1, "khz": 1000}, "ms": {"ms": 1, "s": 1000}, "s": {"s": 1, "ms": 0.001}}


def parse_step(text: str) -> dict[str, object]:
    """A processing step as a JSON object: name, function, signal, arguments.

    Args:
        text: ``NAME=FUNCTION(SIGNAL, ARGUMENTS)``. Arguments are numbers in the function's order, or ``key=number``;
            they may carry their measure (``100hz``, ``40ms``, ``5s``), which is checked against the argument's own.

    Raises:
        UsageError: the text is no such thing, an argument is missing, unknown, no number or of another measure.
        UnknownNameError: no such function or argument.

    >>> parse_step("hand_vel=resample(hand_vel, 100hz)")
    {'name': 'hand_vel', 'function': 'resample', 'signal': 'hand_vel', 'arguments': {'rate_hz': 100.0}}
    """
    name, call = split_assignment(text, "step", GRAMMAR)
    match = _CALL.fullmatch(call)
    if match is None or "(" in name or ")" in name:
        message = f"step '{text}' must read {GRAMMAR}, as hand_vel=derivative(hand_pos)"
        raise UsageError(message)
    function, signal = match["function"], match["signal"]
    if function not in FUNCTIONS:
        raise UnknownNameError("function", function, FUNCTIONS, f"step '{text}'")
    words = [word.strip() for word in (match["rest"] or "").split(",")] if (match["rest"] or "").strip() else []
    known = field_hints(_arguments(function))
    arguments: dict[str, float | int] = {}
    for place, word in enumerate(words):
        if "=" in word:
            key, value = split_assignment(word, f"step '{text}':", "ARGUMENT=NUMBER")
        elif place < len(known):
            key, value = list(known)[place], word
        else:
            message = f"step '{text}': {function} takes {len(known)} arguments ({', '.join(known)}), got {len(words)}"
            raise UsageError(message)
        if key not in known:
            raise UnknownNameError("argument", key, known, f"{function} of step '{text}'")
        if key in arguments:
            message = f"step '{text}': '{key}' is given twice"
            raise UsageError(message)
        arguments[key] = _number(text, function, key, value)
    step = {"name": name, "function": function, "signal": signal, "arguments": arguments}
    check_step(step)
    return step


@dataclass(frozen=True)
class _Step:
    """What a step is in JSON."""

    name: str
    function: str
    signal: str
    arguments: dict[str, object]


@cache
def _arguments(function: str) -> type:
    """The arguments of a function after the signal, as a dataclass of them."""
    hints, spec = get_type_hints(FUNCTIONS[function]), []
    for name, parameter in list(inspect.signature(FUNCTIONS[function]).parameters.items())[1:]:
        required = parameter.default is inspect.Parameter.empty
        spec.append((name, hints[name]) if required else (name, hints[name], field(default=parameter.default)))
    return make_dataclass(function, spec, frozen=True)


def _number(text: str, function: str, key: str, word: str) -> float | int:
    match = _NUMBER.fullmatch(word)
    if match is None:
        message = f"step '{text}': {key} is '{word}', expected a number"
        raise UsageError(message)
    measures = _MEASURES.get(key.rpartition("_")[2], {})
    measure = match["measure"].lower()
    if measure and measure not in measures:
        expected = " or ".join(measures) or "no measure"
        message = f"step '{text}': {key} is '{word}', expected a number in {expected}"
        raise UsageError(message)
    number = float(match["number"]) * measures.get(measure, 1)
    if field_hints(_arguments(function))[key] is int:
        if number != round(number):
            message = f"step '{text}': {key} is '{word}', expected a whole number"
            raise UsageError(message)
        return round(number)
    return number


def check_step(step: Mapping[str, object]) -> None:
    """Whether a step is one: its keys, its function, its arguments (their values too, tried on a signal of no samples).

    Raises:
        UsageError: it is not. UnknownNameError: no such function or argument.
    """
    made = build(_Step, step, "step", "key")
    if made.function not in FUNCTIONS:
        raise UnknownNameError("function", made.function, FUNCTIONS, "processing")
    build(_arguments(made.function), made.arguments, made.function, "argument")
    none = Signal(np.zeros(0, np.int64), np.zeros((0, 1), np.float32), ("x",), "", np.zeros(0, np.bool_))
    FUNCTIONS[made.function](none, **made.arguments)


def step_text(step: Mapping[str, object]) -> str:
    """A step as it is written on the command line."""
    arguments = "".join(f", {key}={value!r}" for key, value in step["arguments"].items())
    return f"{step['name']}={step['function']}({step['signal']}{arguments})"


def apply_steps(session: Session, steps: Sequence[Mapping[str, object]]) -> Session:
    """The session with these steps done, one after the other, each told among its repairs.

    Its ``info`` says how far the samples of each made signal reach
    (:func:`spiketok.recording.leakage.stated_reach_ns`).

    Raises:
        UsageError: a step cannot be read. UnknownNameError: the session has no such signal.
        DataError: a signal cannot be processed so.
    """
    signals, repairs, info = dict(session.signals), list(session.repairs), session.info
    for step in steps:
        check_step(step)
        source = str(step["signal"])
        if source not in signals:
            raise UnknownNameError("signal", source, signals, session.id)
        before = signals[source]
        try:
            after = FUNCTIONS[str(step["function"])](before, **step["arguments"])
        except DataError as error:
            message = f"{session.id}: {step_text(step)}: {error}"
            raise DataError(message) from error
        signals[str(step["name"])] = after
        info = with_step_reach(info, step, before)
        text = (
            f"{step_text(step)}: {before.time_ns.size} samples, {int(before.valid.sum())} of them valid, "
            f"became {after.time_ns.size} and {int(after.valid.sum())}"
        )
        repairs.append(Finding("processed", after.time_ns.size, text))
    return replace(session, signals=signals, repairs=tuple(repairs), info=info)


def with_step_reach(info: Mapping[str, str], step: Mapping[str, object], before: Signal) -> dict[str, str]:
    """A session's info that also says how far the samples reach of the signal that a step made of ``before``."""
    name = str(step["name"])
    back, ahead = stated_reach_ns(info, str(step["signal"]))
    own_back, own_ahead = reach_ns([step], name, math.ceil(sampling_period_ns(before)))
    return with_stated_reach(info, name, back + own_back, ahead + own_ahead)


def reach_ns(steps: Iterable[Mapping[str, object]], name: str, period_ns: int) -> tuple[int, int]:
    """How far back and ahead in time the samples of a signal know of others, through all steps that made it.

    Args:
        steps: the steps of a store's settings, in order.
        name: the signal.
        period_ns: the period of the samples that the first of them read.

    Returns:
        (back, ahead) in ns. Not in it: the quantile of mask_outliers, which knows the whole session, and mask_still,
        which decides on whole still periods.
    """
    reaches: dict[str, tuple[int, int, float]] = {}
    for step in steps:
        back, ahead, period = reaches.get(str(step["signal"]), (0, 0, float(period_ns)))
        arguments = step["arguments"]
        match step["function"]:
            case "resample":
                new_period = NS_PER_S / float(arguments["rate_hz"])
                cutoff = CUTOFF * period / new_period if period < new_period * (1 - 1e-9) else 1.0
                wide = math.ceil((math.ceil(ZERO_CROSSINGS / cutoff) + 1) * period)
                back, ahead, period = back + wide, ahead + wide, new_period
            case "derivative":
                wide = math.ceil(int(arguments.get("order", 1)) * period)
                back, ahead = back + wide, ahead + wide
            case "smooth_gaussian":
                wide = math.ceil(GAUSSIAN_REACH * float(arguments["sigma_ms"]) * NS_PER_MS + period)
                back, ahead = back + wide, ahead + wide
            case "smooth_causal_exponential":
                back += math.ceil(EXPONENTIAL_REACH * float(arguments["tau_ms"]) * NS_PER_MS)
        reaches[str(step["name"])] = (back, ahead, period)
    back, ahead, _ = reaches.get(name, (0, 0, 0.0))
    return back, ahead
