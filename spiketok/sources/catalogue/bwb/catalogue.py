"""The two builds of IBL BrainWideBench: all units (TS1), and selected units (TS2 and TS3)."""

from __future__ import annotations

from dataclasses import replace

from spiketok.sources.catalogue.base import Dataset, Quirk

BUCKET = "brain-wide-bench"
FOLDER = "ibl_brain_wide_bench_2026"
BUILDS = {"ibl_bwb": "all_units", "ibl_bwb_selected": "selected_units"}
REFERENCE = "ibl-bwb (datasets, data pipeline), ibl-bwb-eval 0.1.0, torch_brain 0.2.1"

ALL_UNITS = Dataset(
    name="ibl_bwb",
    aliases=("ibl_bwb_all_units", "ibl_brain_wide_bench_2026", "brain_wide_bench", "brainwidebench"),
    title="IBL BrainWideBench, all units: mouse Neuropixels during visual decisions (the behaviours, TS1)",
    dandiset="",
    version=None,
    license="CC-BY-4.0",
    citation=(
        "International Brain Laboratory. IBL BrainWideBench (brainset ibl_brain_wide_bench_2026) [Data set]. "
        "s3://brain-wide-bench"
    ),
    doi=None,
    bytes=None,
    files=452,
    species="Mus musculus - House mouse",
    subjects=(),
    recording="sorted units of one or two Neuropixels, all of them",
    units=None,
    behaviours=("whisker_motion_energy", "wheel_speed", "right_paw_speed", "left_paw_speed", "licking_rate"),
    splits=(
        "29 sessions for evaluation (ts1: 40/20/40 % of task time; ts2: chunks of 300 s), 423 for pretraining "
        "(pretrain: 90/10), no animal in both; gaps of 20 s between splits"
    ),
    include=("brainsets/all_units/*.h5",),
    host="s3",
    record=BUCKET,
    notes=(
        "files are overwritten in place: a build is told by brainset.derived_version, a file by its ETag",
        "evaluation alone: --glob '*/eval/*'; pretraining alone: --glob '*/pretrain/*'",
        "local field potentials lie apart and are not fetched",
        "windows and targets of the eleven tasks: spiketok.sources.catalogue.bwb.windows, docs/bwb.md",
    ),
    rules="ibl_bwb",
    reference=REFERENCE,
    quirks=(
        Quirk(
            "bwb-seconds",
            "the scorer matches windows by float64 equality: tables keep the file's seconds in start_s and stop_s",
            "ibl-bwb-eval 0.1.0",
        ),
        Quirk(
            "bwb-trials",
            "the table trials has a row for each window of each task with its label, the file's own is all_trials",
            REFERENCE,
        ),
        Quirk(
            "bwb-targets",
            "signals named as the tasks are their targets: whiskers and paws z-scored by the file's mean and "
            "deviation, licks as counts a bin; samples of a paw that are not confident are not valid",
            REFERENCE,
        ),
        Quirk("bwb-behaviours", "a behaviour whose quality was FAIL or MISSING is not in the file", REFERENCE),
        Quirk(
            "bwb-build",
            "a file of another build than its dataset is noted: the suites ask for one build each",
            REFERENCE,
        ),
    ),
)

SELECTED_UNITS = replace(
    ALL_UNITS,
    name="ibl_bwb_selected",
    aliases=("ibl_bwb_selected_units",),
    title="IBL BrainWideBench, selected units: the same recordings (population TS2, regions TS3)",
    recording="sorted units of more than 1 Hz with label 1; in evaluation sessions of probes that pass",
    include=("brainsets/selected_units/*.h5",),
)

ENTRIES = (ALL_UNITS, SELECTED_UNITS)
