"""The six FALCON sets (Karpowicz et al. 2024, snel-repo.github.io/falcon): catalogue, rules, tensors.

``catalogue`` has the entries, ``rules`` what FALCON's conventions make of a file, ``tensors`` the arrays that the
reference loader gives.
"""

from spiketok.sources.catalogue.falcon.catalogue import ENTRIES
from spiketok.sources.catalogue.falcon.rules import RULES

__all__ = ["ENTRIES", "RULES"]
