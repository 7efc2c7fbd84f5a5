"""The catalogue entries of the Neural Latents Benchmark '21 (Pei et al. 2021, doi 10.48550/arXiv.2109.04463).

Each has two NWB files: ``desc-train`` (train and val trials, all units, behaviour) and ``desc-test`` (held-in units
only, no behaviour). ``bytes`` are the sum of the two assets of the pinned version where both sizes are known.
"""

from __future__ import annotations

from spiketok.sources.catalogue.base import Dataset, Quirk
from spiketok.sources.catalogue.nlb.benchmark import BENCHMARKS

REFERENCE = "nlb_tools 0.0.4; Pei et al. 2021, doi 10.48550/arXiv.2109.04463"
READ = "nlb_tools 0.0.4"

TWO_FILES = Quirk(
    "nlb-two-files",
    "a session is a train file and a test file with times of their own: the test file is laid behind the train file at "
    "the first multiple of 100 ms that is 50 ms or more away, and the table 'files' says where",
    f"{READ}, nwb_interface.py (which lays them in order of name, test first)",
)
HELD_OUT = Quirk(
    "nlb-held-out-unobserved",
    "the test file has held-in units only: held-out units have no observed time in the test part, which is not silence",
    f"{READ}; the files of 000140",
)
COLUMNS = Quirk(
    "nlb-columns-missing",
    "the test file's trials have few columns: nan, empty text or no row stand for the others",
    "the files of 000140",
)
ELECTRODES = Quirk(
    "mc_maze-electrodes",
    "electrode rows of M1 units (ids that begin with 2; PMd is 1) are 96 too low and point into PMd: 96 is added, "
    "channel, group, location and region follow",
    "the benchmark's dataset page; the test file of 000140",
)
IN_TRIALS = Quirk(
    "mc_maze-only-in-trials",
    "spikes and behaviour exist only within trials: between them is no observed time and no sample",
    "the files of 000140",
)
PSEUDO_TRIALS = Quirk(
    "mc_rtt-pseudo-trials",
    "one continuous recording that the source cuts into trials of 600 ms, whatever the animal did",
    f"{READ}; the benchmark's dataset page",
)
BY_RATE = Quirk(
    "area2-by-rate",
    "behaviours have a rate and no time stamps, and run through the unobserved time between trials",
    "readers of 000127",
)
PASSIVE = Quirk(
    "area2-passive-trials",
    "half of the trials are bumps of the resting hand (ctr_hold_bump), decoded for themselves; behaviour is taken "
    "20 ms before the spikes and not after them, for area 2 senses",
    f"{READ}, make_tensors.py",
)
NO_SERIES = Quirk(
    "dmfc-no-series",
    "there is no behavioural series: targets are the trial columns is_eye, theta, is_short, ts and tp; trials with "
    "is_outlier 1 have none",
    f"{READ}, make_tensors.py",
)
NONE_SPLIT = Quirk("nlb-split-none", "trials whose split is 'none' belong to no split", f"{READ}, make_tensors.py")
COMMON = (TWO_FILES, HELD_OUT, COLUMNS)


def _window_note(name: str) -> str:
    bench = BENCHMARKS[name]
    target = bench.behaviour if isinstance(bench.behaviour, str) else ", ".join(bench.behaviour)
    later = "" if bench.lag_ms is None else f", {abs(bench.lag_ms)} ms {'later' if bench.lag_ms > 0 else 'earlier'}"
    return f"the benchmark's window: --segments {bench.segments} (bins of 5 or 20 ms); target {target}{later}"


def _citation(people: str, year: int, title: str, version: str, dandiset: str) -> str:
    return (
        f"{people} ({year}) {title} (Version {version}) [Data set]. DANDI archive. "
        f"https://doi.org/10.48324/dandi.{dandiset}/{version}"
    )


def _maze(
    suffix: str, dandiset: str, version: str, units: str, splits: str, n_bytes: int | None, own: tuple[str, ...] = ()
) -> Dataset:
    name = f"mc_maze{suffix.lower()}"
    title = (
        f"MC_Maze{suffix}: macaque primary motor and dorsal premotor cortex spiking activity during delayed reaching"
    )
    return Dataset(
        name=name,
        title=title,
        dandiset=dandiset,
        version=version,
        license="CC-BY-4.0",
        citation=_citation("Churchland, Mark; Kaufman, Matthew", 2022, title, version, dandiset),
        doi=f"10.48324/dandi.{dandiset}/{version}",
        bytes=n_bytes,
        files=2,
        species="Rhesus monkey",
        subjects=("Jenkins",),
        recording="sorted units",
        units=units,
        behaviours=("hand_vel", "hand_pos", "cursor_pos", "eye_pos"),
        splits=splits,
        notes=(*own, _window_note(name)),
        aliases=(f"nlb_{name}",),
        regions=("M1", "PMd"),
        quirks=(*COMMON, ELECTRODES, IN_TRIALS, NONE_SPLIT),
        rules="nlb",
        reference=REFERENCE,
    )


MC_MAZE = _maze("", "000128", "0.220113.0400", "137 held-in + 45 held-out", "train and val 2,295 trials, test", None)
MC_MAZE_LARGE = _maze(
    "_Large", "000138", "0.220113.0407", "122 held-in + 40 held-out", "train and val 500 trials, test", 149_392_888
)  # train 148,590,536, test 802,352
MC_MAZE_MEDIUM = _maze(
    "_Medium", "000139", "0.220113.0408", "114 held-in + 38 held-out", "train and val 250 trials, test", None
)
MC_MAZE_SMALL = _maze(
    "_Small",
    "000140",
    "0.220113.0408",
    "107 held-in + 35 held-out",
    "train 75, val 25, test 100 trials (trials.split)",
    29_896_840,
    ("the test file has 0.7 s a trial, every 0.8 s",),
)  # fmt: skip; train 29,207,528, test 689,312

MC_RTT = Dataset(
    name="mc_rtt",
    title="MC_RTT: macaque motor cortex spiking activity during self-paced reaching",
    dandiset="000129",
    version="0.241017.1444",
    license="CC-BY-4.0",
    citation=_citation(
        "O'Doherty, Joseph", 2024, "MC_RTT: macaque motor cortex spiking activity during self-paced reaching",
        "0.241017.1444", "000129",
    ),
    doi="10.48324/dandi.000129/0.241017.1444",
    bytes=50_965_512,  # train 49,764,168, test 1,201,344
    files=2,
    species="macaque",
    subjects=("Indy",),
    recording="sorted units",
    units="98 held-in + 32 held-out",
    behaviours=("finger_vel", "finger_pos", "cursor_pos", "target_pos"),
    splits="train, val and test by 600 ms pseudo-trials (trials.split)",
    notes=("finger_pos has three components, finger_vel two", _window_note("mc_rtt")),
    aliases=("nlb_mc_rtt",),
    regions=("M1",),
    quirks=(*COMMON, PSEUDO_TRIALS, NONE_SPLIT),
    rules="nlb",
    reference=REFERENCE,
)  # fmt: skip

AREA2_BUMP = Dataset(
    name="area2_bump",
    title="Area2_Bump: macaque somatosensory area 2 spiking activity during reaching with perturbations",
    dandiset="000127",
    version="0.220113.0359",
    license="CC-BY-4.0",
    citation=_citation(
        "Chowdhury, Raeed; Miller, Lee", 2022,
        "Area2_Bump: macaque somatosensory area 2 spiking activity during reaching with perturbations",
        "0.220113.0359", "000127",
    ),
    doi="10.48324/dandi.000127/0.220113.0359",
    bytes=1_823_368_810,  # train 1,822,876,234, test 492,576
    files=2,
    species="Rhesus monkey",
    subjects=("Han",),
    recording="sorted units",
    units="49 held-in + 16 held-out",
    behaviours=("hand_vel", "hand_pos", "force", "joint_ang", "joint_vel", "muscle_len", "muscle_vel"),
    splits="train, val and test trials; 'none' is no split (trials.split)",
    notes=(_window_note("area2_bump"),),
    aliases=("nlb_area2_bump",),
    regions=("area 2",),
    quirks=(*COMMON, BY_RATE, PASSIVE, NONE_SPLIT),
    rules="nlb",
    reference=REFERENCE,
)  # fmt: skip

DMFC_RSG = Dataset(
    name="dmfc_rsg",
    title="DMFC_RSG: macaque dorsomedial frontal cortex spiking activity during time interval reproduction task",
    dandiset="000130",
    version="0.241017.1448",
    license="CC-BY-4.0",
    citation=_citation(
        "Sohn, Hansem; Jazayeri, Mehrdad", 2024,
        "DMFC_RSG: macaque dorsomedial frontal cortex spiking activity during time interval reproduction task",
        "0.241017.1448", "000130",
    ),
    doi="10.48324/dandi.000130/0.241017.1448",
    bytes=None,  # 15.7 MB; the version before it: 15,673,496
    files=2,
    species="Rhesus monkey",
    subjects=("Haydn",),
    recording="sorted units",
    units="40 held-in + 14 held-out",
    behaviours=(),
    splits="train, val and test trials; 'none' is no split (trials.split)",
    notes=(_window_note("dmfc_rsg"),),
    aliases=("nlb_dmfc_rsg",),
    regions=("DMFC",),
    quirks=(*COMMON, NO_SERIES, NONE_SPLIT),
    rules="nlb",
    reference=REFERENCE,
)  # fmt: skip

ENTRIES = (MC_MAZE, MC_MAZE_LARGE, MC_MAZE_MEDIUM, MC_MAZE_SMALL, MC_RTT, AREA2_BUMP, DMFC_RSG)
