"""A run as a container for FALCON's server: a folder from which ``docker build`` makes what EvalAI takes.

    packed = write_container(Path("spiketok-data/runs/poyo-0123456789"), Path("containers"))

The folder holds a Dockerfile, an entry script that gives FALCON's evaluator the decoder of
:mod:`spiketok.evaluation.falcon_decoder`, what that decoder reads (the checkpoint's weights and the shards of the
sessions that it was trained on), this release of spiketok itself, pinned requirements, and a README with the commands.

What is unusual: nothing is built here. Before the folder becomes visible, its own copy of the run is loaded and made a
decoder, so that no file is missing in it.

Source of the settings and places: falcon-challenge 1.0.2 (``evaluator.py``) and its repository's template of a
Dockerfile.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from spiketok import __version__
from spiketok.errors import ArtefactError, MissingExtraError, UsageError
from spiketok.evaluation.falcon_decoder import STAMP_NS, FalconDecoder, falcon_decoder, trained_sessions
from spiketok.evaluation.scoring.falcon_rules import SETS
from spiketok.pipeline.export.falcon_tensors import TARGETS
from spiketok.storage.files import atomic_folder, read_json, write_json
from spiketok.storage.locks import beside, locked
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import Run, load_run
from spiketok.training.sampling import listing
from spiketok.training.tasks.decode import Decode

CHALLENGE = "falcon-challenge==1.0.2"
READ = ("config.json", "checkpoint/checkpoint.json", "checkpoint/model.safetensors")  # of a run, by load_run
RECIPE = "recipe.json"

DOCKERFILE = """\
# Made by spiketok {version} of the run {run}, for FALCON's task {task}. See README.md.
FROM python:{python}-slim
WORKDIR /opt/decoder

COPY requirements.txt requirements.txt
RUN python -m pip install --no-cache-dir -r requirements.txt

COPY spiketok spiketok
COPY workspace workspace
COPY evaluate.py evaluate.py

# Where FALCON's server looks for predictions and keeps its data: leave these as they are.
ENV PREDICTION_PATH=/submission/submission.csv
ENV PREDICTION_PATH_LOCAL=/tmp/submission.pkl
ENV GT_PATH=/tmp/ground_truth.pkl
ENV EVAL_DATA_PATH=/dataset/evaluation_data

# EVALUATION_LOC: remote or local. PHASE: test or minival. BATCH_SIZE: files decoded at once.
ARG PHASE=test
ENV EVALUATION_LOC=remote
ENV PHASE=$PHASE
ENV BATCH_SIZE=1

CMD ["python", "evaluate.py"]
"""

EVALUATE = '''\
"""Gives FALCON's evaluator the decoder of {run}; its settings are the environment of the Dockerfile."""

import os
from pathlib import Path

from falcon_challenge.evaluator import FalconEvaluator

from spiketok.evaluation.falcon_decoder import falcon_decoder

TASK = "{task}"
WORKSPACE = Path(__file__).resolve().parent / "workspace"


def main() -> None:
    phase, remote = os.environ["PHASE"], os.environ["EVALUATION_LOC"] == "remote"
    # no workers: a container has little shared memory
    evaluator = FalconEvaluator(eval_remote=remote, split=TASK, dataloader_workers=0)
    files = evaluator.get_eval_files(phase)
    run, batch_size = WORKSPACE / "runs" / "{run}", int(os.environ["BATCH_SIZE"])
    decoder = falcon_decoder(run, TASK, batch_size=batch_size, files=files, root=WORKSPACE)
    evaluator.evaluate(decoder, phase=phase)


if __name__ == "__main__":
    main()
'''

README = """\
# {run} for FALCON's {task}

Made by spiketok {version}. The image was not built when this folder was made: build it where docker is.

Build it, and run it on the minival files (DATA holds `{task}/minival`, or the dandiset's folder as `dandi` names it):

    docker build -t {image} .
    mkdir -p scored
    docker run --rm -v DATA:/dataset/evaluation_data -v "$PWD/scored:/scored" \\
        -e EVALUATION_LOC=local -e PHASE=minival \\
        -e PREDICTION_PATH_LOCAL=/scored/local_prediction.pkl -e GT_PATH=/scored/local_gt.pkl {image}
    spiketok score scored/local_prediction.pkl --suite falcon --truth scored/local_gt.pkl

The same without docker, with `pip install -r requirements.txt`:

    EVAL_DATA_PATH=DATA EVALUATION_LOC=local PHASE=minival BATCH_SIZE=1 PREDICTION_PATH_LOCAL=local_prediction.pkl \\
        GT_PATH=local_gt.pkl python evaluate.py

Send it to EvalAI (a team of the challenge is needed, and its token; CHALLENGE is the number in the submission page's
own command, 2319 in falcon-challenge 1.0.2):

    pip install evalai
    evalai set_token TOKEN
    docker build --build-arg PHASE=minival -t {image}-minival .
    evalai push {image}-minival:latest --phase few-shot-minival-CHALLENGE --private
    docker build -t {image} .
    evalai push {image}:latest --phase few-shot-test-CHALLENGE --private

The phase is part of the image. A submission may run for 6 hours. With `-e BATCH_SIZE=4` four files are decoded at once,
with the same numbers.

Sessions that the run knows: {sessions}.
"""


@dataclass(frozen=True)
class Packed:
    """A recipe that stands. ``remarks``: what to know of it. ``state``: ``"new"``, ``"replaced"`` or ``"already"``."""

    path: str
    task: str
    nbytes: int
    remarks: tuple[str, ...]
    state: str


def write_container(run: Path, folder: Path, *, overwrite: bool = False, root: Path | None = None) -> Packed:
    """Write ``<folder>/<run>.falcon_container``, from which docker builds a submission.

    Args:
        run: the folder of a run that decodes the target of h1, m1 or m2. overwrite: replace what stands there.
        root: the workspace, by default the one that the run's folder is in.

    Raises:
        UsageError: the run cannot answer FALCON's bins, or another recipe is there. DataError: it was trained on no
            file of FALCON's. ArtefactError: a shard is not there, or not the one that the run was trained on.
    """
    loaded = load_run(Path(run))
    task = _task(loaded)
    workspace = Workspace(Path(root)) if root is not None else Workspace.around(loaded.path / "checkpoint")
    if workspace is None:
        message = f"{loaded.path} lies in no workspace with shards: name it by root="
        raise UsageError(message)
    target = Path(folder) / f"{loaded.path.name}.falcon_container"
    says = {"run": loaded.path.name, "task": task, "checkpoint_digest": loaded.digest, "spiketok": __version__}
    with locked(beside(target), str(target), wait=True):
        state = "replaced" if target.exists() else "new"
        if state == "replaced" and not overwrite:
            if not (target / RECIPE).exists() or read_json(target / RECIPE) != says:
                message = f"{target} is there already, and was made of something else: --overwrite replaces it"
                raise UsageError(message)
            state = "already"
        else:
            with atomic_folder(target) as wip:
                _fill(wip, loaded, task, workspace)
                write_json(wip / RECIPE, says)
    nbytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    remarks = ("the image was not built here: README.md has the commands", *_unknown(target, loaded, task))
    return Packed(str(target), task, nbytes, remarks, state)


def requirements() -> str:
    """A line a package that the decoder needs, pinned to what is installed here.

    Raises:
        MissingExtraError: one is not installed, or spiketok itself is not.
    """
    try:
        names = [name for line in metadata.requires("spiketok") or () if (name := _needed(line))]
        pins = [f"{name}=={metadata.version(name).split('+')[0]}" for name in names]
    except metadata.PackageNotFoundError as error:
        message = f"pinning the decoder's packages needs '{error.name}' installed: pip install 'spiketok[train]'"
        raise MissingExtraError(message) from error
    return "\n".join([*sorted(pins), CHALLENGE]) + "\n"


def _needed(line: str) -> str:
    """The package of a requirement of spiketok, or of its extra for training; empty for those of other extras."""
    extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
    if extra is not None and extra[1] != "train":
        return ""
    return re.match(r"[\w.-]+", line)[0]


def _task(run: Run) -> str:
    asked = {task.target.name for task in run.tasks if isinstance(task, Decode)}
    tasks = [task for task in STAMP_NS if TARGETS[task] in asked]
    if len(tasks) != 1:
        wanted = ", ".join(f"{TARGETS[task]} ({task})" for task in STAMP_NS)
        message = (
            f"{run.path.name} answers '{listing([task.name for task in run.tasks])}', FALCON's server asks one of "
            f"{wanted}: train with --task decode:{TARGETS['m1']} on its sessions"
        )
        raise UsageError(message)
    return tasks[0]


def _fill(wip: Path, run: Run, task: str, workspace: Workspace) -> None:
    copy, here = Workspace(wip / "workspace"), Path(__file__).parents[1]
    name = run.path.name
    for part in READ:
        (copy.runs / name / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.path / part, copy.runs / name / part)
    sessions = trained_sessions(run, task, workspace)
    for _, tokens in sessions:
        for reader in (*tokens.windowed.values(), *(once.reader for once in tokens.once.values())):
            for place in (reader.path, reader.context.path):
                _copy_folder(place, workspace.shards, copy.shards)
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(here, wip / "spiketok", ignore=ignored)
    known = {
        "version": __version__,
        "run": name,
        "task": task,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "image": re.sub(r"[^a-z0-9]+", "-", f"{name}-{task}".lower()).strip("-"),
        "sessions": ", ".join(session.id for session, _ in sessions),
    }
    (wip / "Dockerfile").write_text(DOCKERFILE.format(**known))
    (wip / "evaluate.py").write_text(EVALUATE.format(**known))
    (wip / "README.md").write_text(README.format(**known))
    (wip / "requirements.txt").write_text(requirements())
    again = load_run(copy.runs / name)
    FalconDecoder(again, {s.id: tokens for s, tokens in trained_sessions(again, task, copy)}, task)


def _copy_folder(place: Path, home: Path, target: Path) -> None:
    try:
        inside = place.resolve().relative_to(home.resolve())
    except ValueError as error:
        message = f"{place} does not lie in {home}, with which it would be packed: tokenize again"
        raise ArtefactError(message) from error
    if not (target / inside).exists():
        shutil.copytree(place.resolve(), target / inside)


def _unknown(target: Path, run: Run, task: str) -> list[str]:
    """Which sets of the task the decoder would refuse; falcon-challenge tells them apart."""
    try:
        decoder = falcon_decoder(target / "workspace" / "runs" / run.path.name, task)
    except MissingExtraError:
        return ["which of FALCON's files it knows was not looked at: that needs falcon-challenge (pip install it)"]
    lacking = [name for part in SETS[task].values() for name in part if name not in decoder.sessions]
    if not lacking:
        return []
    return [
        f"it knows no session of {listing(lacking)}, and refuses these files of the test phase: train with --sessions "
        f"'falcon_{task}/*_calib' --hold-out none"
    ]
