"""Every block and every command of the guides is run (``make wheel``), by the spiketok of a clean environment.

Which: the fenced blocks of quickstart.md and python.md, in order, in one folder a page; the commands of how-do-i.md,
question by question. What cannot be run here says why on the page, ``<!-- not run: ... -->``, and is counted; what
needs a package is run where the environment has it.
A word in capitals (``SESSION``, ``RUN``) is what a reader puts in; :data:`GIVEN` is what we put in.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from tests.dandi_server import DandiServer
from tests.docs.markdown import ROOT, blocks
from tests.docs.questions import GIVEN, questions
from tests.docs.running import Place
from tests.hf_server import hf_server

pytestmark = pytest.mark.slow
GUIDES = [page for name in ("quickstart", "python") if (page := ROOT / "docs" / f"{name}.md").is_file()]


@pytest.fixture(scope="session")
def archives(tmp_path_factory, recordings):
    """Addresses of servers that hold made files of the dandisets which the pages name."""
    from spiketok.sources.catalogue import DATASETS
    from tests.layouts import falcon, nlb, perich_miller

    made = tmp_path_factory.mktemp("archives")
    maze = nlb.write_nlb("mc_maze_small", made / "nlb")
    falcon.write_set(made / "m1", "falcon_m1")
    reach = made / "perich" / perich_miller.CENTER_OUT
    reach.parent.mkdir(parents=True)
    perich_miller.write_center_out(reach)
    sets = {  # beginnings of names that are typed: the catalogue's entry, and where its files lie
        ("mc_maze_small", "000140"): ("mc_maze_small", maze["train"].parents[1]),
        ("falcon/m1",): ("falcon_m1", made / "m1"),
        ("perich_miller",): ("perich_miller", made / "perich"),
    }
    large = {f"sub-{path.stem[4:7]}/{path.name}": path.read_bytes() for path in recordings}
    addresses = {}
    with ExitStack() as stack:
        for names, (name, folder) in sets.items():
            entry = DATASETS[name]
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.nwb")}
            server = stack.enter_context(DandiServer(files, entry.dandiset, entry.version))
            addresses |= dict.fromkeys(names, server.api_url)
        addresses["000409"] = stack.enter_context(DandiServer(large, "000409", "0.240101.0000")).api_url
        yield addresses


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Two simulated NWB files, for the pages that ingest a reader's own."""
    place = Place(tmp_path_factory.mktemp("recordings"))
    place.shell("spiketok simulate --subjects 1 --seed 7 --files-only --out made")
    return sorted((place.folder / "made").rglob("*.nwb"))


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_of_a_guide(page, tmp_path, archives, recordings):
    place = Place(tmp_path, archives)
    (tmp_path / "recordings").mkdir()
    for number, path in enumerate(recordings):  # a reader's own have names of their own
        shutil.copy(path, tmp_path / "recordings" / f"own-{number}.nwb")
    ran = [block for block in blocks(page) if block.reason is None or is_met(place, block.reason)]
    for python, run in groupby(ran, key=lambda block: block.language == "python"):
        text = "\n".join(block.text for block in run)  # blocks of Python go on with each other's names
        (place.python if python else place.shell)(text)
    assert ran, "no block of the page is run"


def is_met(place: Place, reason: str) -> bool:
    """Whether a block that needs a package finds it."""
    kind, _, module = reason.partition(": ")
    return kind == "needs" and place.has(module)


LEFT_OUT = [block for page in GUIDES for block in blocks(page) if block.reason]


@pytest.mark.parametrize("block", LEFT_OUT, ids=str)
def test_a_block_that_is_not_run_is_counted(block, tmp_path):
    if not is_met(Place(tmp_path), block.reason):
        pytest.skip(block.reason)


@pytest.fixture(scope="module")
def hub():
    """What names the stand-in of Hugging Face to a command."""
    with hf_server():
        yield {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_TOKEN")} | {"HF_HUB_DISABLE_XET": "1"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, archives, recordings, hub):
    """What the questions are asked of: four simulated sessions with shards, and a run with its report."""
    place = Place(tmp_path_factory.mktemp("questions"), archives, more=hub)
    place.shell("spiketok simulate\nspiketok tokenize --scheme binned,per-spike\nspiketok train --model poyo")
    place.shell("spiketok eval-xsession")
    for name in ("file.nwb", "a.nwb"):
        shutil.copy(recordings[0], place.folder / name)
    shutil.copy(recordings[1], place.folder / "b.nwb")
    _foreign_files(place.folder)
    return place


def _foreign_files(folder: Path) -> None:
    """What other programs leave: a sorting by phy, an ALF folder, one of suite2p, an archive's files, a model, a file
    whose clock begins again, units and behaviour in two files, a suite, predictions of three benchmarks.
    """
    from tests.evaluation.scoring import submissions, test_falcon_scorer, test_nlb_scorer
    from tests.folders import write_alf, write_suite2p
    from tests.layouts import perich_miller
    from tests.recording.test_joining_time import save
    from tests.sources.test_blocks import Broken
    from tests.sources.test_sorting import write_phy

    Broken((60.0, 45.0)).save(folder / "again.nwb")
    save(folder / "part_ecephys.nwb", (0, 90), with_behaviour=False)
    save(folder / "part_behavior.nwb", (0, 90), with_units=False)
    (folder / "small.toml").write_text(SMALL_SUITE)
    for suite in ("falcon", "nlb21", "bwb"):
        (folder / "scored" / suite).mkdir(parents=True)
    test_falcon_scorer.written(folder / "scored" / "falcon", *test_falcon_scorer.made_binned("m1"))
    for name, held in zip(("said.h5", "true.h5"), test_nlb_scorer.made(), strict=True):
        test_nlb_scorer.write(folder / "scored" / "nlb21" / name, {test_nlb_scorer.SET: held})
    bwb = submissions.write_submission(folder / "scored" / "bwb", tasks=(submissions.FORECAST,))
    bwb.rename(bwb.with_name("said"))
    bwb.with_name("truth").rename(bwb.with_name("true"))
    write_phy(folder / "phy")
    write_alf(folder / "ones").rename(folder / "alf-session")
    write_suite2p(folder)
    reach = folder / "perich" / perich_miller.CENTER_OUT
    reach.parent.mkdir(parents=True)
    perich_miller.write_center_out(reach)
    model = "from spiketok.models.linear import Linear\n\n\nclass MyModel(Linear):\n    name = 'mine'\n"
    (folder / "my_models.py").write_text(model)


# What the suites of the package are, in seconds.
SMALL_SUITE = """
name = "small"
version = 1
title = "Small"
about = "Two decoders of three simulated days."
seeds = [43, 44]

[[tracks]]
name = "days"
dataset = "simulated"
score = "transfer"
tasks = ["decode:cursor_vel"]
metrics = ["r2_variance_weighted"]
sessions = "*"
unseen = "*day03*"
protocols = ["zero_shot"]
calibration_s = [10]
headline_s = 10

[tracks.simulate]
task = "center_out"
seed = 0
n_subjects = 1
sessions_per_subject = 3
duration_s = 60
n_units = 12

[[models]]
name = "linear"
model = "linear"
protocol = "linear"

[[models]]
name = "ndt1"
model = "ndt1"
protocol = "zero_shot"
sets = ["optim.steps=4"]

[[changes]]
version = 1
text = "First version."
"""
QUESTIONS = questions(ROOT / "docs" / "how-do-i.md")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.name)
def test_every_command_of_how_do_i(question, workspace):
    if question.reason:
        pytest.skip(question.reason)
    given = GIVEN.get(question.name, {})
    place = replace(workspace, root=given.get("root", workspace.root))
    if "before" in given:
        place.shell(given["before"])
    for command in question.commands:
        place.shell(question.typed(command), given.get("code", 0))


def test_what_is_given_is_asked():
    assert set(GIVEN) <= {question.name for question in QUESTIONS}
    for question in QUESTIONS:
        for word in GIVEN.get(question.name, {}).get("words", {}):
            assert any(word in command for command in question.commands), f"{question.name}: {word}"


def test_the_environment_has_every_file_of_the_package(workspace):
    """Of a wheel: suites, marks of types and templates too, and the version of the checkout."""
    where = workspace.python("import spiketok; print(spiketok.__file__); print(spiketok.__version__)").split()
    installed, ours = Path(where[0]).parent, ROOT / "spiketok"
    kept = {p.relative_to(ours) for p in ours.rglob("*") if p.is_file() and p.parent.name != "__pycache__"}
    assert {p for p in kept if not (installed / p).is_file()} == set()
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{where[1]}"\n' in text
