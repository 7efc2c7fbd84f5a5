"""The token schemes by name: one file a scheme, one name here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import get_args, get_origin, get_type_hints

from spiketok.errors import ArtefactError, UnknownNameError, UsageError
from spiketok.tokens.schemes.base import Scheme
from spiketok.tokens.schemes.binned import Binned
from spiketok.tokens.schemes.calibration import Calibration
from spiketok.tokens.schemes.event_pair import EventPair
from spiketok.tokens.schemes.fine_time import FineTime
from spiketok.tokens.schemes.fluorescence import Fluorescence
from spiketok.tokens.schemes.neuron import Neuron
from spiketok.tokens.schemes.patch import Patch
from spiketok.tokens.schemes.per_spike import PerSpike
from spiketok.tokens.schemes.quantized import Quantized

__all__ = [
    "SCHEMES",
    "Binned",
    "Calibration",
    "EventPair",
    "FineTime",
    "Fluorescence",
    "Neuron",
    "Patch",
    "PerSpike",
    "Quantized",
    "Scheme",
    "make_scheme",
    "parse_fields",
    "scheme_config",
    "scheme_from_config",
]

SCHEMES: dict[str, type[Scheme]] = {
    s.name: s
    for s in (
        Binned,
        Patch,
        Quantized,
        PerSpike,
        EventPair,
        Neuron,
        Calibration,
        Fluorescence,
        FineTime,
    )
}


def make_scheme(name: str, **values: object) -> Scheme:
    """A scheme by name, with its fields.

    Raises:
        UnknownNameError: no such scheme, or it has no such field. UsageError: a field's value cannot be.

    >>> make_scheme("binned", bin_ns=5_000_000)
    Binned(bin_ns=5000000, edges='left-closed', compat='')
    """
    if name not in SCHEMES:
        raise UnknownNameError("scheme", name, SCHEMES)
    scheme = SCHEMES[name]
    known = [field.name for field in fields(scheme)]
    for key in values:
        if key not in known:
            raise UnknownNameError("field", key, known, f"scheme '{name}'")
    return scheme(**values)


def parse_fields(name: str, words: Mapping[str, str]) -> dict[str, object]:
    """Fields of a scheme from words as they are typed: ``{"bin_ns": "5000000"}``.

    Raises:
        UnknownNameError: no such scheme or field. UsageError: a word does not read as the field's type.

    >>> parse_fields("binned", {"bin_ns": "5000000"})
    {'bin_ns': 5000000}
    """
    if name not in SCHEMES:
        raise UnknownNameError("scheme", name, SCHEMES)
    kinds = get_type_hints(SCHEMES[name])
    known = {f.name: kinds[f.name] for f in fields(SCHEMES[name])}
    for key in words:
        if key not in known:
            raise UnknownNameError("field", key, known, f"scheme '{name}'")
    return {key: _read_word(name, key, word, known[key]) for key, word in words.items()}


def _read_word(name: str, key: str, word: str, kind: type) -> object:
    try:
        if get_origin(kind) is tuple:
            return tuple(get_args(kind)[0](part.strip()) for part in word.split(",") if part.strip())
        return {"true": True, "false": False}[word] if kind is bool else kind(word)
    except (ValueError, KeyError):
        shown = "true or false" if kind is bool else getattr(kind, "__name__", str(kind))
        message = f"{name}: {key}={word} does not read as {shown}"
        raise UsageError(message) from None


def scheme_config(scheme: Scheme) -> dict[str, object]:
    """The scheme as JSON: what manifests and checkpoints hold of it.

    >>> scheme_config(PerSpike())
    {'name': 'per-spike', 'version': 1, 'config': {'start_end': True, 'chunk_ns': 0, 'order': 'time'}}
    """
    return {"name": scheme.name, "version": scheme.version, "config": asdict(scheme)}


def scheme_from_config(config: dict) -> Scheme:
    """The scheme that :func:`scheme_config` described.

    Raises:
        ArtefactError: it was written by another version of the scheme. UnknownNameError: no such scheme or field.
    """
    scheme = make_scheme(config["name"], **config["config"])
    if config["version"] != scheme.version:
        message = f"scheme '{scheme.name}' has version {config['version']} there, this spiketok has {scheme.version}"
        raise ArtefactError(message)
    return scheme
