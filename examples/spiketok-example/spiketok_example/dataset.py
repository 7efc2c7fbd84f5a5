"""An entry of the catalogue, and what its conventions make of its files.

A fact that no source states is None, never a guess. ``RULES`` stands beside the entry in its module; an entry whose
files need no rules has ``rules=""`` and no ``RULES``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.recording.draws import division
from spiketok.recording.nouns import Finding, Session
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules

EXAMPLE_REACH = Dataset(
    name="example_reach",
    aliases=("example/reach",),
    title="An example: reaches to targets, in a dandiset that does not exist",
    dandiset="999999",
    version="0.220113.0408",
    license="CC-BY-4.0",
    citation="Nobody (2022) A test (Version 0.220113.0408) [Data set]. DANDI archive.",
    doi=None,
    bytes=None,
    files=None,
    species=None,
    subjects=(),
    recording="sorted units",
    units=None,
    behaviours=("cursor_vel",),
    splits="by trials: of each ten the last is for testing, the one before for validation",
    rules="example_reach",
    reference="this file",
    quirks=(
        Quirk(
            "example-short",
            "trials of less than half a second were given up by the animal: they are in no part of the division",
            "this file",
        ),
    ),
)

SHORTEST_NS = 500_000_000


def adjust(session: Session, path: Path) -> Session:
    """The division ``example``: of each ten trials eight train, one validates, one tests."""
    trials = session.trials
    if trials is None:
        note = Finding("example-no-split", 1, "no trials: no division is made")
        return replace(session, notes=(*session.notes, note))
    long = np.flatnonzero(trials.stop_ns - trials.start_ns >= SHORTEST_NS)
    turn = long % 10
    rows = {"train": long[turn < 8], "valid": long[turn == 8], "test": long[turn == 9]}
    splits = division({name: trials.take(own).union() for name, own in rows.items()}, "example")
    notes = session.notes
    if len(long) < len(trials):
        given_up = len(trials) - len(long)
        text = f"{given_up} of {len(trials)} trials are shorter than 0.5 s: in no part of the division"
        notes += (Finding("example-short", given_up, text),)
    return replace(session, splits=splits, notes=notes)


RULES = Rules("example_reach", 1, adjust=adjust)
