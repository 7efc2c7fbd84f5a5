"""The six FALCON sets (Karpowicz et al. 2024): catalogue entries.

Bytes and files are those that the archive itself states for the version (read in its dandiset.yaml, or in a summary of
the draft); counts of sessions are the evaluator's lists of falcon-challenge 1.0.2 and the writers' own lists.
"""

from __future__ import annotations

from spiketok.sources.catalogue.base import Dataset, Quirk

LOADER = "falcon-challenge 1.0.2: falcon_challenge/dataloaders.py, config.py, evaluator.py"

SUBJECT = Quirk(
    "falcon-subject",
    "The split is part of subject_id and folder, so that one animal looks like three: it is taken off the subject, and "
    "kept as info.falcon_role and as the split of the set 'falcon'.",
    "subject_id of the writers (preproc/*.py of falcon-challenge); the archive counts 3 subjects for each set",
)
ROLE = Quirk(
    "falcon-role",
    "A whole file is one split of the set 'falcon': held-in calibration is train, held-out calibration is calibration, "
    "minival is minival. The evaluation parts are not public.",
    "falcon_challenge/evaluator.py; the dandisets' descriptions",
)
MINIVAL = Quirk(
    "falcon-minival",
    "Minival trials are the first trials of held-in calibration, too: a smoke test of a submission, no validation.",
    "SMOKETEST_NUM in preproc/*.py of falcon-challenge; the dandisets call minival a subset of held-in-calib",
)
MASK = Quirk(
    "falcon-eval-mask",
    "Only samples whose eval_mask is True are scored. The mask stays as a signal, and samples of the target where it "
    "is False keep their value and are marked as not valid.",
    LOADER,
)
ONE_SIGNAL = Quirk(
    "falcon-one-signal",
    "The target is kept as one series a component: they become one signal with a component each.",
    LOADER,
)
H1_RATE = Quirk(
    "falcon-h1-rate",
    "The series' 'rate' of 0.02 holds seconds a sample, which NWB reads as 0.02 Hz, 2500 times too long. Times are "
    "made anew as offset + k * 0.02 s, where offset is the data's 'offset', which is then taken off the values again.",
    LOADER,
)
H1_STAMPS = Quirk(
    "falcon-end-stamps",
    "A stamp is the end of its 20 ms bin: the first bin begins 20 ms before it.",
    LOADER,
)
M2_STAMPS = Quirk(
    "falcon-m2-stamps",
    "A stamp is the last millisecond of its 20 ms bin (0.019, 0.039 ...), but the reference loader takes it for the "
    "bin's start, so that its counts come 19 ms late. Stamps are stored as they are; the tensors have both readings.",
    "preproc/m2_preproc.py writes the last of each 20 samples of 1 ms; falcon_challenge/dataloaders.py reads a start",
)
M2_GAPS = Quirk(
    "falcon-m2-gaps",
    "2 ms are missing between trials in the source, where behaviour is interpolated; nothing is done about it.",
    "preproc/m2_preproc.py",
)
H2_COUNTS = Quirk(
    "falcon-h2-counts",
    "There is no units table: acquisition/binned_spikes holds counts of 20 ms. A count of n becomes n spikes at the "
    "bin's stamp, and observed are the bins that are there.",
    "preproc/h2_preproc.py; the archive's layout of 000950",
)
H2_GAPS = Quirk(
    "falcon-h2-gaps",
    "10 s are put between trials, which the recording did not have, and a trial's stop_time is the start of its last "
    "bin. Both are left as they are; the gap is not observed time.",
    "preproc/h2_preproc.py",
)
B1_COUNTS = Quirk(
    "falcon-b1-counts",
    "There is no units table: acquisition/tx holds a 0 or 1 for each sample of 1/30,000 s. Each 1 becomes a spike.",
    "preproc/b1_nwb_utils.py; the archive's layout of 001046",
)
B1_CLOCK = Quirk(
    "falcon-b1-clock",
    "Song motifs were cut out of a long recording and laid end to end on a clock that begins at 0: times between "
    "trials mean nothing. Use segments of trials, which no window crosses.",
    "preproc/b1_preproc.py",
)
B1_SPECTROGRAM = Quirk(
    "falcon-b1-spectrogram",
    "The target stands in three columns of the trials (values and mask: trials x 158 frequencies x 880 frames, times "
    "from each trial's start). They become the signals 'spectrogram' and 'spectrogram_eval_mask'.",
    "the archive's layout of 001046; " + LOADER,
)
COMMON = (SUBJECT, ROLE, MINIVAL, MASK)
SPLITS = "held-in calibration ({held_in}), held-out calibration ({held_out}), minival ({minival})"

H1 = Dataset(
    name="falcon_h1",
    aliases=("falcon/h1",),
    title="FALCON H1: human motor cortex, open-loop reach and grasp in 7 dimensions",
    dandiset="000954",
    version="draft",
    license="CC-BY-4.0",
    citation=(
        "Ye, Joel; Jennifer L. Collinger; Robert Gaunt (2024) FALCON Benchmark H1: Human 7DoF Reach and Grasp Motor "
        "BCI (Version draft) [Data set]. DANDI archive. dandiset 000954"
    ),
    doi=None,
    bytes=102_258_934,
    files=40,
    species="Homo sapiens - Human",
    subjects=("HumanPitt",),
    recording="threshold crossings",
    units="176 channels, some silent",
    behaviours=("OpenLoopKinematicsVelocity", "OpenLoopKinematics", "TrialNum", "eval_mask"),
    splits=SPLITS.format(held_in="13 sets of 6 days", held_out="14 sets of 7 days", minival="13 files"),
    regions=("motor cortex",),
    notes=(
        "the dandiset's description asks whoever downloads it to agree to a data use agreement: no attempt to identify "
        "or contact the participant, no redistribution",
        "dates are shifted to 1925; each file name stands for a set (S0_set_1 ... S12_set_2)",
        "only the active phases of a trial are scored; velocity is a change a bin, smoothed by 490 ms",
        "a draft: its bytes may change",
    ),
    quirks=(*COMMON, H1_RATE, H1_STAMPS),
    rules="falcon",
    reference=LOADER,
)

H2 = Dataset(
    name="falcon_h2",
    aliases=("falcon/h2",),
    title="FALCON H2: human motor cortex, attempted handwriting of sentences",
    dandiset="000950",
    version="0.241029.1403",
    license="CC-BY-4.0",
    citation=(
        "Fan, Chaofei; Hahn, Nick; Kamdar, Foram; Avansino, Donald; Wilson, Guy; Hochberg, Leigh; Shenoy, Krishna V; "
        "Henderson, Jaime; Willett, Frank (2024) FALCON Benchmark H2: Human Handwriting iBCI (Version 0.241029.1403) "
        "[Data set]. DANDI archive. https://doi.org/10.48324/dandi.000950/0.241029.1403"
    ),
    doi="10.48324/dandi.000950/0.241029.1403",
    bytes=1_224_956_736,
    files=47,
    species="Homo sapiens - Human",
    subjects=("T5",),
    recording="counts of threshold crossings in bins of 20 ms",
    units="192 channels",
    behaviours=("eval_mask",),
    splits=SPLITS.format(held_in="21 days", held_out="5 days, 3 sentences each", minival="21 files"),
    regions=("left precentral gyrus, hand knob",),
    notes=("the target is text: the sentence in the trials' column cue, '>' for a space",),
    quirks=(*COMMON, H2_COUNTS, H2_GAPS),
    rules="falcon",
    reference=LOADER,
)

M1 = Dataset(
    name="falcon_m1",
    aliases=("falcon/m1", "falcon/m1_a", "falcon_m1_a"),
    title="FALCON M1-A: macaque primary motor cortex, reach-to-grasp with EMG of 16 muscles",
    dandiset="000941",
    version="0.241029.1405",
    license="CC-BY-4.0",
    citation=(
        "Rouse, Adam G; Schieber, Marc H (2024) FALCON Benchmark M1-A: primary motor cortex recordings in primate "
        "during reach-to-grasp task (Version 0.241029.1405) [Data set]. DANDI archive. "
        "https://doi.org/10.48324/dandi.000941/0.241029.1405"
    ),
    doi="10.48324/dandi.000941/0.241029.1405",
    bytes=311_792_278,
    files=11,
    species="Macaca mulatta - Rhesus monkey",
    subjects=("MonkeyL",),
    recording="threshold crossings",
    units="64 channels, silent ones included",
    behaviours=("preprocessed_emg", "eval_mask"),
    splits=SPLITS.format(held_in="4 days", held_out="3 days, 10 trials each", minival="4 files of 2 trials"),
    regions=("M1",),
    notes=("only 1 s before the go cue to 1 s after the reward is scored; trial times are rounded to 20 ms",),
    quirks=(*COMMON, ONE_SIGNAL, H1_STAMPS),
    rules="falcon",
    reference=LOADER,
)

M1B = Dataset(
    name="falcon_m1b",
    aliases=("falcon/m1b", "falcon/m1_b", "falcon_m1_b"),
    title="FALCON M1-B: a second macaque, primary motor cortex, reach-to-grasp with EMG of 16 muscles",
    dandiset="001209",
    version="draft",
    license="CC-BY-4.0",
    citation=(
        "Rouse, Adam G; Schieber, Marc H (2024) FALCON Benchmark M1-B: primary motor cortex recordings in primate "
        "during reach-to-grasp task (Version draft) [Data set]. DANDI archive. dandiset 001209"
    ),
    doi=None,
    bytes=233_554_359,
    files=12,
    species="Macaca mulatta - Rhesus monkey",
    subjects=("MonkeyX",),
    recording="threshold crossings",
    units="64 channels, silent ones included",
    behaviours=("preprocessed_emg", "eval_mask"),
    splits=SPLITS.format(held_in="4 days", held_out="4 days, 10 trials each", minival="4 files"),
    regions=("M1",),
    notes=("the layout of M1-A; not among the tasks of falcon-challenge 1.0.2", "a draft: its bytes may change"),
    quirks=(*COMMON, ONE_SIGNAL, H1_STAMPS),
    rules="falcon",
    reference="preproc/m1b_reachgrasp_preprocv2.py of falcon-challenge; " + LOADER,
)

M2 = Dataset(
    name="falcon_m2",
    aliases=("falcon/m2",),
    title="FALCON M2: macaque primary motor cortex, movements of two finger groups",
    dandiset="000953",
    version="draft",
    license="CC-BY-4.0",
    citation=(
        "Samuel R Nason-Tomaszewski; Matthew J. Mender; Cynthia Chestek (2024) FALCON Benchmark M2: primary motor "
        "cortex recordings in primate during finger movement (Version draft) [Data set]. DANDI archive. dandiset 000953"
    ),
    doi=None,
    bytes=None,  # 22 MB in 20 files, then 2 files, then 16 GB: the draft changed
    files=None,
    species="Macaca mulatta - Rhesus monkey",
    subjects=("MonkeyN",),
    recording="threshold crossings",
    units="96 channels",
    behaviours=("finger_vel", "finger_pos", "eval_mask"),
    splits=SPLITS.format(held_in="7 runs of 4 days", held_out="6 runs of 4 days, 10 % each", minival="7 files"),
    regions=("M1",),
    notes=(
        "two runs of a day are two sessions; reset a decoder's state between them",
        "velocity is a change a bin, not a second",
        "a draft whose size changed: 22 MB in 20 files once, about 16 GB since full-band voltage stands in the files",
        "one trial of 2020-10-19 run 1 is missing in the source",
    ),
    quirks=(*COMMON, ONE_SIGNAL, M2_STAMPS, M2_GAPS),
    rules="falcon",
    reference=LOADER,
)

B1 = Dataset(
    name="falcon_b1",
    aliases=("falcon/b1",),
    title="FALCON B1: zebra finch RA, song as spectrogram",
    dandiset="001046",
    version=None,
    license=None,
    citation=None,
    doi=None,
    bytes=1_286_915_940,
    files=9,
    species="Taeniopygia guttata - Zebra finch",
    subjects=("Finch_z_r12r13_21",),
    recording="threshold crossings at 30 kHz",
    units="85 channels",
    behaviours=("spectrogram", "spectrogram_eval_mask", "vocalizations", "eval_mask_audio"),
    splits=SPLITS.format(held_in="3 days", held_out="3 days, 3 motifs each", minival="3 files of 2 motifs"),
    regions=("RA",),
    notes=("700 of a motif's 880 frames of 1 ms are scored (0.1 to 0.8 s)", "bytes and files are those of the draft"),
    quirks=(SUBJECT, ROLE, MINIVAL, MASK, B1_COUNTS, B1_CLOCK, B1_SPECTROGRAM),
    rules="falcon",
    reference=LOADER,
)

ENTRIES = (H1, H2, M1, M1B, M2, B1)
