"""Both sides of docs/why.md are run: ours with ``make wheel``, the peers' with ``make oracle``."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks.newcomer import PAGE, page, tasks
from tests.dandi_server import DandiServer
from tests.docs.running import Place

TASKS = tasks()


def test_the_page_is_what_the_script_writes():
    assert PAGE.read_text() == page(), "python benchmarks/newcomer.py writes it"
    assert len(TASKS) == 20


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Two days of one simulated animal."""
    place = Place(tmp_path_factory.mktemp("files"))
    place.shell("spiketok simulate --subjects 1 --files-only --out made")
    return sorted((place.folder / "made").rglob("*.nwb"))


def archive(task, files, folder):
    """A server with the files that a task downloads; nothing where it downloads none."""
    if not task.archive:
        return nullcontext()
    if task.archive == "nlb":
        from tests.layouts.nlb import write_nlb

        made = write_nlb("mc_maze_small", folder / "nlb")["train"].parents[1]
        served = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*.nwb")}
    else:
        served = {f"sub-S01/{path.name}": path.read_bytes() for path in files}
    return DandiServer(served, "000140", "0.220113.0408")


def place_of(task, files, tmp_path) -> Place:
    """An empty folder with the two files, and what was made ready for the task."""
    for path, name in zip(files, ("a.nwb", "b.nwb"), strict=True):
        shutil.copy(path, tmp_path / name)
    place = Place(tmp_path, root="prepared")
    if task.prepared:
        place.shell(task.prepared)
    return Place(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in TASKS if task.ours], ids=lambda task: task.name)
def test_what_is_typed_here(task, files, tmp_path):
    place = place_of(task, files, tmp_path)
    with archive(task, files, tmp_path) as server:
        text = task.ours.replace("API_URL", server.api_url if server else "")
        place.shell(text)


@pytest.mark.oracle
@pytest.mark.parametrize("task", [t for t in TASKS if t.theirs and not t.not_run], ids=lambda task: task.name)
def test_what_is_typed_with_the_peer(task, files, tmp_path):
    place = place_of(task, files, tmp_path)
    with archive(task, files, tmp_path) as server:
        place.python(task.theirs.replace("API_URL", server.api_url if server else ""))
