"""spiketok: from public recordings of spiking neurons to exact tokens, trained decoders and cross-session scores.

    import spiketok

    ws = spiketok.open("spiketok-data")        # the folder that the commands work in
    ws.sessions("mc_maze*")                    # what is in its store
    ws.dataset("binned", target="hand_vel")    # windows for a DataLoader

Nothing heavy is imported before it is used: the names below are looked up when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from spiketok.api.making import fetch, ingest, simulate, tokenize
    from spiketok.api.runs import load_run
    from spiketok.api.workspace import open_workspace as open

# Where each name lies; spiketok/api is the only room that they come from.
_LAZY = {
    "open": ("spiketok.api.workspace", "open_workspace"),
    "load_run": ("spiketok.api.runs", "load_run"),
    "fetch": ("spiketok.api.making", "fetch"),
    "ingest": ("spiketok.api.making", "ingest"),
    "simulate": ("spiketok.api.making", "simulate"),
    "tokenize": ("spiketok.api.making", "tokenize"),
}

__all__ = ["__version__", "fetch", "ingest", "load_run", "open", "simulate", "tokenize"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        message = f"module 'spiketok' has no attribute '{name}'"
        raise AttributeError(message)
    from importlib import import_module

    module, attribute = _LAZY[name]
    found = getattr(import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
