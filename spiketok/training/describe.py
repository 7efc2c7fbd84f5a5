"""What is known of a model without any data: for ``spiketok models NAME``.

Parameters are counted by building each size for one made-up session (:func:`toy`), asked the model's own questions with
the windows and bins of that size's recipe. Tensors are made without memory (torch's ``meta`` device), so that a large
size costs as little as a small one.

Where it comes from and how it differs from there is read in the docstring of the model's module: the paragraph that
names its ``Reference code:``, and the one that begins with ``Differs from the reference`` with the list behind it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spiketok.errors import SpiketokError, UsageError
from spiketok.models.base import PROTOCOLS, Model
from spiketok.models.batch import Head
from spiketok.recording.nouns import SessionInfo
from spiketok.training.config import RunConfig, load_config, model_class

N_UNITS, N_COMPONENTS, N_CLASSES = 96, 2, 8
TOY = f"one session of {N_UNITS} units in 2 regions, a behaviour of {N_COMPONENTS} components, {N_CLASSES} classes"


@dataclass(frozen=True)
class Counted:
    """Parameters of a size.

    Args:
        total: what training sets. session: of these, what belongs to the one session (its units, read-ins, tokens).
        reason: why the size could not be built for :data:`TOY`; then both are 0.
    """

    total: int
    session: int
    reason: str = ""


def toy() -> SessionInfo:
    """The session that models are built for: :data:`TOY`."""
    half = np.arange(N_UNITS) < N_UNITS // 2
    return SessionInfo(
        id="made/toy",
        subject="toy",
        unit_id=np.array([f"u{k}" for k in range(N_UNITS)]),
        n_spikes=1,
        start_ns=0,
        stop_ns=1,
        signals={"vel": (("x", "y")[:N_COMPONENTS], "mm/s")},
        unit_columns={
            "region": np.where(half, "one", "other"),
            "group": np.where(half, "one", "other"),
            "channel": np.arange(N_UNITS),
            "held_out": np.zeros(N_UNITS, np.bool_),
        },
    )


def heads_of(kinds: Sequence[str]) -> list[Head]:
    """What tasks of these kinds want in :func:`toy`.

    Raises:
        UsageError: a kind of question that is not known here (another package's).
    """
    words = tuple(f"word{k}" for k in range(N_CLASSES))
    known = {
        "population": Head("population", "population", "counts", input="counts"),
        "decode": Head("decode:vel", "decode", "values", N_COMPONENTS, ("x", "y")),
        "classify": Head("classify:word", "classify", "classes", N_CLASSES, words),
        "sequence": Head("sequence:word", "sequence", "sequence", 1 + N_CLASSES, ("<blank>", *words)),
        "events": Head("events", "events", "events"),
        "embed": Head("embed", "embed", "vectors"),
    }
    for kind in kinds:
        if kind not in known:
            message = f"the made-up session has nothing to ask for '{kind}', only {', '.join(known)}"
            raise UsageError(message)
    return [known[kind] for kind in kinds]


def built(config: RunConfig) -> Model:
    """The model of a configuration for :func:`toy`, without memory for its tensors.

    Raises:
        SpiketokError: it cannot hold such a session.
    """
    kinds = [kind for kind, _ in config.questions()]
    with torch.device("meta"):
        model = model_class(config.model)(config.model_config(), heads_of(kinds), config.timing)
        model.add_sessions([toy()])
    return model


def counted(config: RunConfig) -> Counted:
    """The parameters of a configuration."""
    try:
        model = built(config)
    except SpiketokError as error:
        return Counted(0, 0, str(error))
    session = sum(part.value.numel() for part in model.identity_parameters([toy().id]))
    return Counted(model.n_fitted(), session)


def sizes_of(name: str) -> dict[str, Counted]:
    """The parameters of each size of a model."""
    return {size: counted(load_config(name, sets=[f'size="{size}"'])) for size in model_class(name).sizes}


def protocols_of(config: RunConfig) -> dict[str, str]:
    """By protocol, why the model does not have it; empty where it has."""
    try:
        model = built(config)
    except SpiketokError as error:
        has = model_class(config.model).protocols
        return {protocol: "" if protocol in has else f"not known: {error}" for protocol in PROTOCOLS}
    return {protocol: model.why_not(protocol, toy().id) for protocol in PROTOCOLS}


def origin_of(name: str) -> tuple[str, str]:
    """Where a model comes from (its paper and code), and how it differs from there; empty where it does not say."""
    text = inspect.cleandoc(sys.modules[model_class(name).__module__].__doc__ or "")
    paragraphs = text.split("\n\n")
    source = next((p for p in paragraphs if "Reference code:" in " ".join(p.split())), "")
    first = next((k for k, p in enumerate(paragraphs) if p.startswith("Differs from the reference")), None)
    if first is None:
        return " ".join(source.split()), ""
    last = first + 1 if not paragraphs[first].endswith(":") else first + 2
    return " ".join(source.split()), "\n\n".join(paragraphs[first:last])
