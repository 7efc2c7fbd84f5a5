"""LINK: a macaque's motor cortex over three and a half years, finger movements (DANDI 001201).

What is unusual: there is no units table. The files hold threshold crossings of 96 channels as counts of 20 ms bins, and
no time of a single spike; the generic reader makes units of such counts, each spike at the start of its bin.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.recording.draws import division
from spiketok.recording.nouns import Finding, Session
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules, open_source

SET = "link"
N_TRAIN, N_VALID = 300, 75  # trials of each target style

REFERENCE = "Temmar et al. 2025 (300 trials to train, up to 75 to test a decoder), as a brainsets pipeline reports it"

LINK = Dataset(
    name="link",
    aliases=("temmar_link_2025",),
    title="LINK: one macaque's motor cortex over 3.5 years, individuated finger movements",
    dandiset="001201",
    version="0.251023.2336",
    license="CC-BY-4.0",
    doi="10.48324/dandi.001201/0.251023.2336",
    citation=(
        "Temmar, Hisham. LINK: Long-Term Intracortical Neural Activity and Kinematics (Version 0.251023.2336) "
        "[Data set]. DANDI Archive. https://doi.org/10.48324/dandi.001201/0.251023.2336"
    ),
    bytes=None,
    files=None,
    species="Macaca mulatta",
    subjects=("Monkey N",),
    regions=("M1",),
    recording="threshold crossings, as counts of 20 ms bins",
    units="96 channels a session, the same in all (two 64-channel arrays)",
    behaviours=("index_position", "mrs_position", "index_velocity", "mrs_velocity"),
    splits="by trials, in each target style: the first 300 train, the next 75 valid",
    notes=(
        "about 12.5 GB in 312 sessions on 303 days; sizes of the pinned version are not known",
        "sessions are days: the natural division is by day",
        "velocities are per 20 ms bin, not per second, as the files say (flexion units per time bin)",
    ),
    rules="link",
    reference=REFERENCE,
    quirks=(
        Quirk(
            "spikes-binned",
            "spikes are known as counts of 20 ms bins only: each stands at the start of its bin, and what needs finer "
            "times than that has no meaning here",
            "the files; the dataset's own description",
        ),
        Quirk(
            "link-band-power",
            "spiking-band power (96 channels) is neither a unit nor a behaviour and is left out",
            "layout of the files as the authors' code writes them",
        ),
    ),
)


def adjust(session: Session, path: Path) -> Session:
    """The channels' places, and the division ``link``."""
    session = _with_places(session, path)
    trials = session.trials
    if trials is None or "target_style" not in trials.columns:
        text = "no trials with a target style: no division is made"
        return replace(session, notes=(*session.notes, Finding("link-no-split", 1, text)))
    style = trials.columns["target_style"]
    parts: dict[str, list[np.ndarray]] = {"train": [], "valid": []}
    for name in np.unique(style):
        rows = np.flatnonzero(style == name)
        parts["train"].append(rows[:N_TRAIN])
        parts["valid"].append(rows[N_TRAIN : N_TRAIN + N_VALID])
    rows = {name: np.sort(np.concatenate(found)) for name, found in parts.items()}
    n_left = len(trials) - sum(map(len, rows.values()))
    notes = session.notes
    if n_left:
        text = f"{n_left} of {len(trials)} trials are behind the first {N_TRAIN + N_VALID} of their style: in no part"
        notes += (Finding("link-trials-left", n_left, text),)
    splits = division({name: trials.take(own).union() for name, own in rows.items()}, SET)
    return replace(session, splits=splits, notes=notes)


ENTRIES = (LINK,)
RULES = Rules("link", 1, adjust=adjust)


def _with_places(session: Session, path: Path) -> Session:
    """Channels' columns from the electrodes table, whose rows are the columns of the counts."""
    with open_source(path) as file:
        table = file.get("general/extracellular_ephys/electrodes")
        if table is None or table["id"].shape != (len(session.units),):
            return session
        names = {"location": "region", "array_name": "group", "bank": "bank"}
        columns = {new: table[old].asstr()[:].astype(np.str_) for old, new in names.items() if old in table}
    return replace(session, units=replace(session.units, columns={**session.units.columns, **columns}))
