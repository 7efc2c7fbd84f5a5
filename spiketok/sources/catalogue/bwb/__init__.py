"""IBL BrainWideBench: catalogue, rules, and the windows and targets of its eleven tasks.

``catalogue`` has the entries, ``rules`` what the benchmark's conventions make of a file, ``windows`` the windows,
targets and units that it scores.
"""

from spiketok.sources.catalogue.bwb.catalogue import ENTRIES
from spiketok.sources.catalogue.bwb.rules import RULES

__all__ = ["ENTRIES", "RULES"]
