"""The token schemes by name: one file a scheme, one name here.

Other packages have theirs by entry points of the group ``spiketok.schemes`` (:mod:`spiketok.plugins`).
"""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass

from spiketok.errors import ArtefactError, the_one
from spiketok.plugins import Registry, why_no_class
from spiketok.settings import build
from spiketok.tokens.schemes.base import Scheme
from spiketok.tokens.schemes.binned import Binned
from spiketok.tokens.schemes.calibration import Calibration
from spiketok.tokens.schemes.event_pair import EventPair
from spiketok.tokens.schemes.fine_time import FineTime
from spiketok.tokens.schemes.fluorescence import Fluorescence
from spiketok.tokens.schemes.frames import Frames
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
    "Frames",
    "Neuron",
    "Patch",
    "PerSpike",
    "Quantized",
    "Scheme",
    "make_scheme",
    "scheme_config",
    "scheme_from_config",
]

_BUILT_IN: dict[str, type[Scheme]] = {
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
        Frames,
    )
}


def why_no_scheme(thing: object, module: object = None) -> str:
    """Why something is no scheme that can bake; empty where it is one."""
    fault = why_no_class(thing, Scheme, ("name", "version", "readers", "token", "keeps", "loses"))
    if not fault and not (is_dataclass(thing) and thing.__dataclass_params__.frozen):
        return "is no frozen dataclass, whose fields are its settings"
    if not fault:
        _ = thing().grid_ns  # every field has a default
    return fault


SCHEMES = Registry("scheme", _BUILT_IN, why_no_scheme)


def make_scheme(name: str, **values: object) -> Scheme:
    """A scheme by name, with its fields, as they are typed or written in JSON.

    Raises:
        UnknownNameError: no such scheme, or it has no such field. UsageError: a field's value cannot be.

    >>> make_scheme("binned", bin_ns=5_000_000)
    Binned(bin_ns=5000000, edges='left-closed', compat='')
    """
    name = the_one("scheme", name, SCHEMES)
    return build(SCHEMES[name], values, name, "field")


def scheme_config(scheme: Scheme) -> dict[str, object]:
    """The scheme as JSON: what manifests and checkpoints hold of it.

    >>> scheme_config(PerSpike())
    {'name': 'per-spike', 'version': 1, 'config': {'start_end': True, 'chunk_ns': 0, 'order': 'time'}}
    """
    return {
        "name": scheme.name,
        "version": scheme.version,
        "config": {f.name: getattr(scheme, f.name) for f in fields(scheme) if not _as_before(scheme, f)},
    }


def _as_before(scheme: Scheme, field: Field) -> bool:
    """Whether a field that came after the first shards has its default: those shards keep their names and manifests."""
    return bool(field.metadata.get("came_later")) and getattr(scheme, field.name) == field.default


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
