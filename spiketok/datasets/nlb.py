"""Neural Latents Benchmark '21 (Pei et al. 2021, doi 10.48550/arXiv.2109.04463): the datasets' catalogue entries.

Each has two NWB files: ``desc-train`` (train and val trials, all units, behaviour) and ``desc-test`` (held-in units
only, no behaviour). Sizes are the sum of the two assets of the pinned version.
"""

from __future__ import annotations

from spiketok.datasets.base import Dataset

MC_MAZE_SMALL = Dataset(
    name="mc_maze_small",
    aliases=("nlb_mc_maze_small",),
    title="MC_Maze_Small: macaque primary motor and dorsal premotor cortex, delayed reaching through mazes",
    dandiset="000140",
    version="0.220113.0408",
    license="CC-BY-4.0",
    doi="10.48324/dandi.000140/0.220113.0408",
    citation=(
        "Churchland, Mark; Kaufman, Matthew (2022) MC_Maze_Small: macaque primary motor and dorsal premotor cortex "
        "spiking activity during delayed reaching (Version 0.220113.0408) [Data set]. DANDI archive. "
        "https://doi.org/10.48324/dandi.000140/0.220113.0408"
    ),
    bytes=29_896_840,  # train 29,207,528, test 689,312
    files=2,
    species="Rhesus monkey",
    subjects=("Jenkins",),
    recording="sorted units",
    units="107 held-in + 35 held-out",
    behaviours=("hand_vel", "hand_pos", "cursor_pos", "eye_pos"),
    splits="train 75, val 25, test 100 trials (trials.split)",
    notes=(
        "behaviour and observed time exist only within trials",
        "the test file has held-in units only, 0.7 s a trial and no behaviour",
        "electrode indices of the M1 units are 96 too low in the source; the first digit of a unit id tells the array "
        "(1 PMd, 2 M1)",
    ),
)

MC_RTT = Dataset(
    name="mc_rtt",
    aliases=("nlb_mc_rtt",),
    title="MC_RTT: macaque motor cortex, self-paced reaching to random targets",
    dandiset="000129",
    version="0.241017.1444",
    license="CC-BY-4.0",
    doi="10.48324/dandi.000129/0.241017.1444",
    citation=(
        "O'Doherty, Joseph (2024) MC_RTT: macaque motor cortex spiking activity during self-paced reaching "
        "(Version 0.241017.1444) [Data set]. DANDI archive. https://doi.org/10.48324/dandi.000129/0.241017.1444"
    ),
    bytes=50_965_512,  # train 49,764,168, test 1,201,344
    files=2,
    species="macaque",
    subjects=("Indy",),
    recording="sorted units",
    units="98 held-in + 32 held-out",
    behaviours=("finger_vel", "finger_pos", "cursor_pos", "target_pos"),
    splits="train, val and test by 600 ms pseudo-trials (trials.split)",
    notes=(
        "one continuous recording, cut by the source into 600 ms pseudo-trials",
        "finger_pos has three components, finger_vel two",
        "the test file has held-in units only and no behaviour",
    ),
)
