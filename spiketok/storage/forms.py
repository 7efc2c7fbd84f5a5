"""What a JSON artefact must say, held against it by whoever reads it.

A digest in an artefact tells that it was not changed by accident: who edits one can sign it anew, and a program of
somebody else may write one. So what is read is also held against its form, and what is wrong is named by its place.

A form is written as the value looks: ``str``, ``int``, ``float`` (also a whole number), ``bool``, ``object``
(anything); ``[form]`` for a list, :class:`Each` for an object whose keys are names, :class:`Maybe` for what may be
null. In an object with known keys one that ends with ``?`` may be missing; keys that the form does not have are let be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spiketok.errors import ArtefactError

Form = object  # a type, a list of one form, a dict of forms, Each or Maybe
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


@dataclass(frozen=True)
class Each:
    """An object of any keys, each of whose values has a form."""

    form: Form


@dataclass(frozen=True)
class Maybe:
    """A value of a form, or null."""

    form: Form


def require_form(facts: object, form: Form, word: str, file: Path | str, remedy: str) -> None:
    """Raise ArtefactError where an artefact does not have its form: what it is, which place, what is expected there.

    Args:
        word: what it is, for messages. remedy: the command that makes it anew.
    """
    if fault := form_fault(facts, form):
        message = f"{word} {file} was changed since it was written: {fault}: {remedy}"
        raise ArtefactError(message)


def form_fault(value: object, form: Form, place: str = "") -> str:
    """The first place at which a value has not a form, in words; empty if it has.

    >>> form_fault({"a": [1, None]}, {"a": [int]}), form_fault({}, {"a": str, "b?": str}), form_fault(2, float)
    ("its 'a.1' is null, expected a whole number", "it does not say 'a'", '')
    """
    if isinstance(form, Maybe):
        return "" if value is None else form_fault(value, form.form, place)
    kind = dict if isinstance(form, dict | Each) else list if isinstance(form, list) else form
    if not _is(value, kind):
        return f"{f'its {_shown(place)!r}' if place else 'it'} is {_word(value)}, expected {_WORDS[kind]}"
    if isinstance(form, Each):
        inner = ((key, item, form.form) for key, item in value.items())
    elif isinstance(form, list):
        inner = ((str(k), item, form[0]) for k, item in enumerate(value))
    elif isinstance(form, dict):
        missing = [key for key in form if not key.endswith("?") and key not in value]
        if missing:
            return f"it does not say '{_shown(_below(place, missing[0]))}'"
        known = {key.removesuffix("?"): own for key, own in form.items()}
        inner = ((key, value[key], own) for key, own in known.items() if key in value)
    else:
        return ""
    return next(filter(None, (form_fault(item, own, _below(place, key)) for key, item, own in inner)), "")


def _below(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _is(value: object, kind: object) -> bool:
    if kind is object:
        return True
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, Mapping if kind is dict else kind)


def _word(value: object) -> str:
    """A value of another type than expected, in a few letters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"
    return _WORDS[dict if isinstance(value, Mapping) else list]


def _shown(place: str) -> str:
    return place if len(place) <= 160 else f"{place[:80]}...{place[-60:]}"
