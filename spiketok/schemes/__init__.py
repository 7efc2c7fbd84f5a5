"""The token schemes by name: one file a scheme, one name here."""

from __future__ import annotations

from dataclasses import asdict, fields

from spiketok.errors import ArtefactError, UnknownNameError
from spiketok.schemes.base import Scheme
from spiketok.schemes.binned import Binned
from spiketok.schemes.per_spike import PerSpike

__all__ = [
    "SCHEMES",
    "Binned",
    "PerSpike",
    "Scheme",
    "make_scheme",
    "scheme_config",
    "scheme_from_config",
]

SCHEMES: dict[str, type[Scheme]] = {
    s.name: s
    for s in (
        Binned,
        PerSpike,
    )
}


def make_scheme(name: str, **values: object) -> Scheme:
    """A scheme by name, with its fields.

    Raises:
        UnknownNameError: no such scheme, or it has no such field. UsageError: a field's value cannot be.

    >>> make_scheme("binned", bin_ns=5_000_000)
    Binned(bin_ns=5000000)
    """
    if name not in SCHEMES:
        raise UnknownNameError("scheme", name, SCHEMES)
    scheme = SCHEMES[name]
    known = [field.name for field in fields(scheme)]
    for key in values:
        if key not in known:
            raise UnknownNameError("field", key, known, f"scheme '{name}'")
    return scheme(**values)


def scheme_config(scheme: Scheme) -> dict[str, object]:
    """The scheme as JSON: what manifests and checkpoints hold of it.

    >>> scheme_config(PerSpike())
    {'name': 'per-spike', 'version': 1, 'config': {'start_end': True}}
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
