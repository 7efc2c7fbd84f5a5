"""Neural Latents Benchmark '21: seven sets, the rules that join their two files, and the benchmark's tensors.

``entries`` is the catalogue, ``rules`` what ingest does to the files, ``benchmark`` the numbers of each set, ``grid``
and ``tensors`` what nlb_tools would make of the stored session.
"""

from __future__ import annotations

from spiketok.sources.catalogue.base import Rules
from spiketok.sources.catalogue.nlb.entries import ENTRIES
from spiketok.sources.catalogue.nlb.rules import adjust, join, session_name

__all__ = ["ENTRIES", "RULES"]

RULES = Rules("nlb", version=1, adjust=adjust, session_name=session_name, join=join)
