"""Scorers of prediction files: what a benchmark's server takes, checked rule by rule, and its official table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from spiketok.errors import the_one

if TYPE_CHECKING:
    from spiketok.evaluation.scoring.base import Scorer

SCORERS = {  # by suite, where its class is; imported when it is asked for
    "falcon": "spiketok.evaluation.scoring.falcon:FalconScorer",
    "nlb21": "spiketok.evaluation.scoring.nlb:NlbScorer",
    "bwb": "spiketok.evaluation.scoring.bwb:BwbScorer",
}


def scorer_class(suite: str) -> type[Scorer]:
    """The scorer of a suite.

    Raises:
        UnknownNameError: there is none.
    """
    module, _, name = SCORERS[the_one("suite", suite, SCORERS)].partition(":")
    return getattr(import_module(module), name)
