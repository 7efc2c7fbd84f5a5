"""What ``--help`` shows beside the options themselves: the groups they stand in, and two examples a command.

Both stand here and not beside the options, so that the same option stands in the same group everywhere.
"""

from __future__ import annotations

WHICH, HOW, RESULT, WHERE = "Which data", "How it runs", "What comes out", "Everywhere"
TRAINING, SCORING, READING = "What is learned", "How it is scored", "How files are read"

PANELS: dict[str, str] = {
    option: panel
    for panel, options in {
        WHICH: "sessions session subjects glob max-sessions max-bytes version hold-out like top test split within "
        "dataset species region max-size part with-data",
        TRAINING: "model task from latents vectors config set seeds sweep size scheme bin-ms bin-compat segments "
        "window-ms step-ms steps seconds",
        SCORING: "protocols calibration-s calibration repeats stress stress-calibration probe match suite truth "
        "measures pairs how check",
        READING: "rules process min-rate quality metrics merge-as join sorter start-s mask time-unit drop-outside "
        "units restarts trials frame-rate strict",
        RESULT: "json plot out save-predictions predictions label keep markdown bibtex store-as overwrite "
        "print-config dry-run show page max-mb",
        HOW: "jobs executor max-memory tokenize resume restart existing api-url download-only stream verify quick yes "
        "force speed piece-ms duration-s log shards shards-cap again optimizer public with-reports",
        WHERE: "root store help",
    }.items()
    for option in (f"--{word}" for word in options.split())
}

DATA, TOKENS, MODELS, CHECKS = "Data", "Tokens", "Models and scores", "Look, check, keep"
GROUPS: dict[str, str] = {
    command: group
    for group, commands in {
        DATA: "fetch datasets ingest simulate splits session",
        TOKENS: "tokenize schemes stream compare",
        MODELS: "models train runs eval-xsession score embed ensemble generate bench choose coupling demo",
        CHECKS: "inspect view verify cite export push pull index upgrade doctor",
    }.items()
    for command in commands.split()
}

STRESSES = ("units_lost", "permuted", "gain", "rate_drift", "time_shift")  # kinds of --stress, known without torch


def examples(command: str) -> str:
    """The examples of a command, as the foot of its help shows them."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in EXAMPLES[command])


EXAMPLES: dict[str, tuple[str, ...]] = {
    "fetch": ("spiketok fetch mc_maze_small", "spiketok fetch 000140 --dry-run"),
    "datasets": ("spiketok datasets --species macaque --max-size 1GB", "spiketok datasets falcon_h1"),
    "ingest": ("spiketok ingest recordings/", "spiketok ingest day1.nwb --dataset mine --min-rate 0.5"),
    "simulate": ("spiketok simulate", "spiketok simulate --subjects 1 --units 20 --duration-s 60"),
    "splits": ("spiketok splits 'mc_maze*'", "spiketok splits --rule kind=trial --store-as mine"),
    "session": (
        "spiketok session rename local/day1 local/monkey-day1",
        "spiketok session remove 'local/test*'",
    ),
    "session rename": (
        "spiketok session rename local/day1 local/monkey-day1",
        "spiketok session rename local/day1 local/day-1 --dry-run",
    ),
    "session remove": ("spiketok session remove 'local/test*'", "spiketok session remove local/day1 --yes"),
    "tokenize": ("spiketok tokenize --scheme per-spike", "spiketok tokenize --scheme all --dry-run"),
    "schemes": ("spiketok schemes", "spiketok schemes per-spike"),
    "stream": (
        "spiketok stream SESSION --run poyo --speed 1",
        "spiketok stream SESSION --scheme binned --duration-s 10",
    ),
    "compare": ("spiketok compare --plot schemes.png", "spiketok compare --models linear,poyo --steps 200"),
    "models": ("spiketok models", "spiketok models poyo --size tiny"),
    "train": (
        "spiketok train --model poyo --tokenize",
        "spiketok train -m ndt1 --task population --set optim.steps=500",
    ),
    "runs": ("spiketok runs", "spiketok runs --model poyo"),
    "runs compare": ("spiketok runs compare poyo ndt1", "spiketok runs compare RUN RUN RUN --json"),
    "runs curves": ("spiketok runs curves", "spiketok runs curves poyo ndt1 --plot curves.png"),
    "runs delete": ("spiketok runs delete RUN", "spiketok runs delete RUN RUN --yes"),
    "ensemble": ("spiketok ensemble RUN RUN RUN", "spiketok ensemble RUN RUN --json"),
    "eval-xsession": (
        "spiketok eval-xsession poyo",
        "spiketok eval-xsession RUN --calibration-s 10,30,60 --save-predictions",
    ),
    "embed": ("spiketok embed nuclr --probe region", "spiketok embed nuclr 'ibl*' --out vectors.npz"),
    "demo": ("spiketok demo", "spiketok demo --help"),
    "generate": ("spiketok generate ldns", "spiketok generate neuroformer --seconds 20 --temperature 0.8"),
    "coupling": ("spiketok coupling neuroformer", "spiketok coupling neuroformer --how removal --pairs 20"),
    "choose": ("spiketok choose --like SESSION --top 10 --tokenize", "spiketok choose --out easy.json"),
    "score": (
        "spiketok score submission/ --suite falcon",
        "spiketok score rates.h5 --suite nlb21 --truth targets/",
    ),
    "bench": ("spiketok bench smoke --show", "spiketok bench xsession --part 1/8"),
    "inspect": ("spiketok inspect", "spiketok inspect file.nwb --plot raster.png"),
    "view": ("spiketok view SESSION", "spiketok view poyo --duration-s 8 --out page.html"),
    "push": ("spiketok push RUN hf://OWNER/NAME", "spiketok push RUN SESSION s3://bucket/shared --with-data"),
    "pull": ("spiketok pull hf://OWNER/NAME", "spiketok pull s3://bucket/shared RUN --dry-run"),
    "verify": ("spiketok verify", "spiketok verify poyo --quick"),
    "cite": ("spiketok cite poyo", "spiketok cite mc_maze_small --bibtex"),
    "export": ("spiketok export SESSION --to nwb --out files/", "spiketok export RUN --to nlb --out rates/"),
    "index": ("spiketok index", "spiketok index --store s3://bucket/store"),
    "upgrade": ("spiketok upgrade --dry-run", "spiketok upgrade"),
    "doctor": ("spiketok doctor", "spiketok doctor --json"),
}
