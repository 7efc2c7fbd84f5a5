"""Settings: one way to type them (``KEY=VALUE``) and one way to build a frozen dataclass of them, strictly.

Runs, schemes, processing steps, split rules and the simulation all use these functions, so that a mistake reads the
same everywhere: an unknown name comes with the nearest known one, a wrong value with its place and what is expected.

What is unusual:

- pydantic validates, but the classes stay frozen dataclasses of the standard library, which need no pydantic to be
  made by hand. It is imported by the first :func:`build`, not with the package: it costs a tenth of a second;
- values are validated in pydantic's strict JSON mode, whose rules are the ones wanted here: ``1`` is a float and
  ``1.0`` no int, ``true`` is no int, a list is a tuple, text is no number. JSON holds every finite float64 exactly;
- JSON and TOML have no word for "no value" that both know, so an optional field also takes ``off``, ``auto`` and
  ``none``.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from spiketok.errors import LONGEST, UnknownNameError, UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

MOST_PARTS = 32  # of a key with dots, and of tables and lists in each other
NO_VALUE = ("off", "auto", "none")  # the words that stand for "no value" in an optional field
_BARE_WORD = re.compile(r"[\w./:,*@+-]*")


# ---- as it is typed -------------------------------------------------------------------------------------------------


def split_assignment(text: str, option: str, form: str = "KEY=VALUE") -> tuple[str, str]:
    """The key and the word of ``KEY=VALUE``, cut at the first ``=``, without the blanks around them.

    Raises:
        UsageError: there is no ``=`` or nothing before it; ``option`` says where it was typed.

    >>> split_assignment("optim.lr = 1e-3", "--set")
    ('optim.lr', '1e-3')
    """
    key, equals, word = (part.strip() for part in text.partition("="))
    if not equals or not key:
        message = f"{option} '{text}' must read {form}"
        raise UsageError(message)
    return key, word


def read_value(word: str, where: str) -> object:
    """A typed value: what TOML reads (numbers, true, quoted text, lists, tables), else a bare word as text.

    Raises:
        UsageError: it is neither; ``where`` says where it was typed.

    >>> read_value("[1, 2.5]", "--set"), read_value("hand_vel", "--set"), read_value("2024-01-01", "--set")
    ([1, 2.5], 'hand_vel', '2024-01-01')
    """
    try:
        values = tomllib.loads(f"value = {word}")
    except (ValueError, RecursionError):  # no TOML, endless digits, too deep
        values = {}
    value = values.get("value")
    if set(values) == {"value"} and isinstance(value, bool | int | float | str | list | dict):
        return value
    if not _BARE_WORD.fullmatch(word):
        message = f"{_short(where)}: '{_short(word)}' is neither a TOML value nor a bare word: put text in quotes"
        raise UsageError(message)
    return word  # a date, too, is a name here


def parse_assignment(text: str, option: str) -> dict[str, object]:
    """One ``KEY=VALUE`` as nested tables; dots in the key go down into them.

    Raises:
        UsageError: the text is no assignment, or the value cannot be read.

    >>> parse_assignment("data.unit_dropout.mode=80", "--set")
    {'data': {'unit_dropout': {'mode': 80}}}
    """
    key, word = split_assignment(text, option)
    value = read_value(word, f"{option} '{text}'")
    parts = key.split(".")
    if not all(parts) or len(parts) > MOST_PARTS:
        message = f"{option} '{_short(text)}': '{_short(key)}' is no key of names with dots between them"
        raise UsageError(message)
    for part in reversed(parts):
        value = {part: value}
    return value


def read_toml(path: Path) -> dict[str, object]:
    """The tables of a TOML file.

    Raises:
        UsageError: there is none, or it is no TOML; the message names it. OSError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors put a mark before UTF-8
        return tomllib.loads(text.replace("\r\n", "\n"))
    except FileNotFoundError:
        message = f"no configuration file at {path}"
    except UnicodeDecodeError as error:
        marked = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        fact = "it is in UTF-16" if marked else f"it is not in UTF-8 ({error.reason} at byte {error.start})"
        message = f"{path} is not TOML: {fact}: save it as UTF-8"
    except RecursionError:
        message = f"{path} is not TOML: it is nested too deeply"
    except ValueError as error:  # also endless digits
        message = f"{path} is not TOML: {_short(str(error))}"
    raise UsageError(message)


def typed(value: object) -> str:
    """A value as :func:`read_value` reads it back: a number, true, text, a list of these; ``off`` for None.

    >>> typed(False), typed(5e-05), typed("time"), typed("hand vel"), typed(("a", "b"))
    ('false', '5e-05', 'time', '"hand vel"', '["a", "b"]')
    """
    if value is None:
        return NO_VALUE[0]
    if isinstance(value, str) and _BARE_WORD.fullmatch(value) and read_value(value, "") == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Nested tables with the values of ``over`` in place of those of ``base``."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


# ---- building -------------------------------------------------------------------------------------------------------


def build(kind: type[T], values: object, place: str = "", noun: str = "config key") -> T:
    """A dataclass (or any other type) from plain values, strictly.

    An int is taken for a float, a list for a tuple, a word with commas for a tuple of what stands between them,
    ``off``, ``auto`` or ``none`` for None in an optional field, tables in a table of numbers for keys with dots.

    Args:
        kind: a frozen dataclass, whose ``__post_init__`` may refuse more; or a type, as ``int``.
        values: a mapping of its fields, as TOML, JSON or :func:`parse_assignment` give it.
        place: where the values stand, for messages: ``"optim"`` makes ``optim.lr``.
        noun: what a key is called in messages.

    Raises:
        UnknownNameError: a key is no field, or a word is none of those that a field takes.
        UsageError: a value is missing, of another type, NaN or infinite, or beyond 64 bits; or a seed is negative.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Bins:
    ...     width_ms: float
    ...     edges: tuple[float, ...] = ()
    >>> build(Bins, {"width_ms": 20, "edges": "0,1.5"})
    Bins(width_ms=20.0, edges=(0.0, 1.5))
    """
    from pydantic import ValidationError

    prepared = _prepared(kind, values)
    _require_plain(prepared, place)
    try:
        return _adapter(kind).validate_json(json.dumps([prepared]))[0]
    except ValidationError as error:
        _refuse(kind, prepared, error, place, noun)


def plain(value: object) -> object:
    """Nested mappings, lists and tuples as dicts and lists: what JSON gives back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _adapter(kind: type) -> TypeAdapter:
    from pydantic import ConfigDict, TypeAdapter

    # TypeAdapter takes no configuration for a dataclass itself, but hands it down into one that stands in a tuple.
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, extra="forbid"))


@cache
def field_hints(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass that its constructor takes."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def _bare(hint: object) -> tuple[object, bool]:
    """A type without its "or None", and whether it had that; the first of several."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    some = [kind for kind in kinds if kind is not NoneType]
    return some[0] if some else NoneType, len(some) < len(kinds)


def _prepared(hint: object, value: object) -> object:
    """The value with words for no value as None, words with commas as lists, and keys of nested tables joined."""
    kind, optional = _bare(hint)
    if optional and isinstance(value, str) and value in NO_VALUE:
        return None
    origin, items = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, Mapping):
        hints = field_hints(kind)
        return {str(k): _prepared(hints[k], v) if k in hints else v for k, v in value.items()}
    if origin is dict and isinstance(value, Mapping):
        if items[1] in (int, float, str, bool):
            value = dict(_joined(value))
        return {str(k): _prepared(items[1], v) for k, v in value.items()}
    if origin in (tuple, list):
        if isinstance(value, str):
            value = [read_value(part.strip(), f"'{value}'") for part in value.split(",") if part.strip()]
        elif isinstance(value, bool | int | float) and (origin is list or items[-1] is Ellipsis):
            value = [value]
    return value


def _joined(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _joined(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _require_plain(value: object, place: str, depth: int = 0) -> None:
    """Refuse what no setting may be, whatever its field: no plain value, no number that is counted or computed with."""
    where, fault = place or "a setting", ""
    if depth > MOST_PARTS:
        fault = f"{where} is nested more than {MOST_PARTS} deep"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            _require_plain(item, f"{where}[{k}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        fault = f"{where} is {value}, expected a finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        fault = f"{where} is {_short(str(value))}, beyond the whole numbers of 64 bits"
    elif isinstance(value, int) and value < 0 and where.rpartition(".")[2] == "seed":
        fault = f"{where} is {value}, must not be negative"
    elif not isinstance(value, bool | int | float | str | None):
        fault = f"{where} is {value!s}, expected plain values: numbers, text, lists, tables"
    if fault:
        raise UsageError(fault)


def _short(text: str) -> str:
    """The beginning of what a person typed, for a message."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


# ---- what is wrong --------------------------------------------------------------------------------------------------

# Errors of pydantic that say no more than that the type is another one.
_OTHER_TYPE = {"missing", "too_long", "too_short", "int_from_float"}


def _refuse(kind: type, values: object, error: ValidationError, place: str, noun: str) -> NoReturn:
    """Raise the first thing that is wrong in the project's words; a misspelt key before the one that is missing."""
    first = min(error.errors(include_url=False), key=lambda found: found["type"] == "missing")
    hint, value, where = kind, values, place
    for step in first["loc"][1:]:  # behind the tuple of one in which the value was validated
        inner, _ = _bare(hint)
        if is_dataclass(inner):
            hints, dot = field_hints(inner), f"{where}." if where else ""
            if step not in hints:
                raise UnknownNameError(noun, str(step), hints, where) from None
            if step not in value:
                message = f"{dot}{step} is missing, expected {type_text(hints[step])}"
                raise UsageError(message) from None
            hint, value, where = hints[step], value[step], f"{dot}{step}"
        elif isinstance(value, Mapping) and step in value:
            hint, value, where = (get_args(inner) or (str, object))[1], value[step], f"{where}['{step}']"
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            items = get_args(inner)
            hint = items[step] if step < len(items) and items[-1] is not Ellipsis else items[0]
            value, where = value[step], f"{where}[{step}]"
        else:
            break
    inner, _ = _bare(hint)
    if get_origin(inner) is Literal:
        raise UnknownNameError("value", str(value), map(str, get_args(inner)), where) from None
    where = where or getattr(kind, "__name__", str(kind))
    shown = f"{where} is {_short(repr(value))}"
    if first["type"] == "value_error":
        message = f"{where}: {first['msg'].removeprefix('Value error, ')}"
    elif first["type"].endswith("_type") or first["type"] in _OTHER_TYPE:
        quote = f' (in quotes: "{value}")' if inner is str and isinstance(value, bool | int | float) else ""
        message = f"{shown}, expected {type_text(hint)}{quote}"
    else:
        message = f"{shown}: {first['msg']}"
    raise UsageError(message) from None


def type_text(hint: object) -> str:
    """A type in words for a message or a table.

    >>> type_text(int | None), type_text(Literal["adamw", "lamb"]), type_text(dict[str, float])
    ('int or off', 'adamw or lamb', 'a table of float')
    """
    kind, optional = _bare(hint)
    if get_origin(kind) is Literal:
        text = " or ".join(map(str, get_args(kind)))
    elif get_origin(kind) is dict:
        item = get_args(kind)[1]
        text = "a table" if get_origin(item) is dict or item is object else f"a table of {type_text(item)}"
    elif is_dataclass(kind):
        text = "a table"
    elif kind is bool:
        text = "true or false"
    else:
        text = str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))
    return f"{text} or off" if optional else text


def keys_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a dataclass, and of those in its fields, as it is typed, with its type."""
    for name, hint in field_hints(cls).items():
        yield f"{prefix}{name}", hint
        inner, _ = _bare(hint)
        if is_dataclass(inner):
            yield from keys_of(inner, f"{prefix}{name}.")
