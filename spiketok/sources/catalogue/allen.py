"""Allen Institute: Visual Coding and Visual Behavior with Neuropixels (DANDI 000021, 000022 and 000713).

A session has one file of units, stimuli and behaviour, and one of LFP a probe, which is not taken. What is unusual:
units name the electrode of their peak by its id, in place of a reference into the electrodes table; and AllenSDK shows
only units of a certain quality unless it is told otherwise, while the files hold all of them. No division of these
sessions is published, and none is made.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.recording.nouns import Finding, Session
from spiketok.sources.catalogue.base import Dataset, Quirk, Rules, open_source

_LAYOUT = "layout of the files (public summaries of their contents)"

QUIRKS = (
    Quirk(
        "allen-regions",
        "a unit's region and probe are those of the electrode whose id is its peak_channel_id; an empty location stays",
        _LAYOUT,
    ),
    Quirk(
        "allen-quality",
        "all units are kept, those of quality 'noise' too: AllenSDK's default choice by isi_violations, "
        "amplitude_cutoff and presence_ratio is not applied (--quality does it, and records it)",
        _LAYOUT,
    ),
    Quirk(
        "allen-lfp",
        "files of probes (LFP) and of training sessions hold no units and are not fetched",
        "names of the files in the dandisets",
    ),
)
NOTES = (
    "stimuli are tables named <stimulus>_presentations; presentations of a table may be blank (NaN orientation)",
    "stretches in which a probe or a stimulus failed stand in the table invalid_times; nothing is cut out for them",
)
CODING_NOTES = (
    *NOTES,
    "the dandiset is a draft without a stated licence; its description points to the Allen Institute's terms of use",
)

ALLEN_CODING = Dataset(
    name="allen_visual_coding",
    aliases=("allen_vc", "allen_vcn", "allen_brain_observatory_ecephys"),
    title="Allen Visual Coding Neuropixels, Brain Observatory 1.1 stimuli: mouse, passive viewing",
    dandiset="000021",
    version="draft",
    license=None,
    doi=None,
    citation=(
        "Siegle, Josh; Wakeman, Wayne; Jia, Xiaoxuan; Heller, Gregg; Ramirez, Tamina; Graddis, Nile; Mei, Nicholas; "
        "Durand, Severine (2022) 20191003_AIBS_mouse_ecephys_brain_observatory_1_1 (Version draft) [Data set]. "
        "DANDI archive. https://dandiarchive.org/dandiset/000021/draft"
    ),
    bytes=None,
    files=32,
    species="House mouse",
    subjects=(),
    regions=(),
    recording="Kilosort units of up to six Neuropixels, all qualities",
    units="2,779 in session 715093703",
    behaviours=("running_speed",),
    splits=None,
    exclude=("*_probe-*",),
    notes=(*CODING_NOTES, "214 files of 478 GB in all, 32 of them sessions"),
    rules="allen",
    quirks=QUIRKS,
)

ALLEN_CONNECTIVITY = Dataset(
    name="allen_functional_connectivity",
    aliases=("allen_vcn_2", "allen_vc_fc"),
    title="Allen Visual Coding Neuropixels, functional connectivity stimuli: mouse, passive viewing",
    dandiset="000022",
    version="draft",
    license=None,
    doi=None,
    citation=(
        "Siegle, Josh; Wakeman, Wayne; Jia, Xiaoxuan; Durand, Severine; Heller, Gregg; Ramirez, Tamina; Graddis, Nile; "
        "Mei, Nicholas (2022) 20191003_AIBS_mouse_ecephys_functional_connectivity (Version draft) [Data set]. "
        "DANDI archive. https://dandiarchive.org/dandiset/000022/draft"
    ),
    bytes=None,
    files=26,
    species="House mouse",
    subjects=(),
    regions=(),
    recording="Kilosort units of up to six Neuropixels, all qualities",
    units=None,
    behaviours=("running_speed",),
    splits=None,
    exclude=("*_probe-*",),
    notes=(*CODING_NOTES, "169 files of 375 GB in all, 26 of them sessions"),
    rules="allen",
    quirks=QUIRKS,
)

ALLEN_BEHAVIOR = Dataset(
    name="allen_visual_behavior",
    aliases=("allen_vbn",),
    title="Allen Visual Behavior Neuropixels: mouse, change detection",
    dandiset="000713",
    version="0.240702.1725",
    license=None,
    doi="10.48324/dandi.000713/0.240702.1725",
    citation=(
        "Morrison, Christopher; Bennett, Corbett (2024) Allen Institute - Visual Behavior - Neuropixels (Version "
        "0.240702.1725) [Data set]. DANDI archive. https://doi.org/10.48324/dandi.000713/0.240702.1725"
    ),
    bytes=None,
    files=153,
    species="Mus musculus - House mouse",
    subjects=(),
    regions=(),
    recording="Kilosort units of up to six Neuropixels, all qualities",
    units=None,
    behaviours=("running speed", "licks", "rewards", "trials"),
    splits=None,
    include=("*ecephys*.nwb",),
    exclude=("*_probe-*",),
    notes=(
        *NOTES,
        "4,293 files of 4.8 TB in all, most of them LFP and training sessions (*_image.nwb); the names of the 153 "
        "session files are taken to hold 'ecephys', as DANDI names files that have units",
        "the licence is not known here",
    ),
    rules="allen",
    quirks=QUIRKS,
)


def adjust(session: Session, path: Path) -> Session:
    """The units' region and probe by the electrode of their peak; what was not chosen is said."""
    session = _with_regions(session, path)
    quality = session.units.columns.get("quality")
    if quality is None or quality.dtype.kind != "U":
        return session
    n_noise = int((quality != "good").sum())
    text = (
        f"all {len(quality)} units are kept, {n_noise} of them not of quality 'good'; AllenSDK's default choice of "
        "units is not applied"
    )
    return replace(session, notes=(*session.notes, Finding("allen-quality", n_noise, text)))


ENTRIES = (ALLEN_CODING, ALLEN_CONNECTIVITY, ALLEN_BEHAVIOR)
RULES = Rules("allen", 1, adjust=adjust)


def _with_regions(session: Session, path: Path) -> Session:
    columns = session.units.columns
    peak = columns.get("peak_channel_id")
    if peak is None:
        return session
    with open_source(path) as file:
        table = file["general/extracellular_ephys/electrodes"]
        ids, place = table["id"][:], table["location"].asstr()[:]
        group = table["group_name"].asstr()[:]
    order = np.argsort(ids, kind="stable")
    row = order[np.minimum(np.searchsorted(ids[order], peak), ids.size - 1)]
    known = ids[row] == peak
    units = replace(
        session.units,
        columns={
            **columns,
            "region": np.where(known, place[row].astype(np.str_), ""),
            "group": np.where(known, group[row].astype(np.str_), ""),
        },
    )
    n_unplaced = int((units.columns["region"] == "").sum())
    text = (
        f"region and probe of {len(units)} units are those of their peak electrode; {n_unplaced} of them lie in no "
        "named structure or at an electrode that is not in the table"
    )
    return replace(session, units=units, repairs=(*session.repairs, Finding("allen-regions", len(units), text)))
