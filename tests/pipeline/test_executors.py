"""Jobs on processes and on dask: the same bytes wherever they run, also when a worker is killed in the middle."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from spiketok.errors import DataError, MissingExtraError, SpiketokError, UsageError
from spiketok.pipeline import ingest, jobs, tokenize
from spiketok.pipeline.jobs import Job, Place, parse_executor, run_jobs
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage import files
from spiketok.storage.files import WIP
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.stamps import STAMP

SCHEMES = [make_scheme("per-spike"), make_scheme("binned")]
FORMS = r"use processes:N, dask:local, dask:local:N or dask:SCHEDULER_URL"


# ---- what --executor means


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", Place("here")),
        (0, Place("here")),
        (1, Place("here")),
        (3, Place("processes", 3)),
        ("processes:1", Place("here")),
        ("processes:12", Place("processes", 12)),
        ("dask:local", Place("dask")),
        ("dask:local:2", Place("dask", 2)),
        ("dask:tcp://10.0.0.1:8786", Place("dask", address="tcp://10.0.0.1:8786")),
        ("dask:tls://head-node:8786/", Place("dask", address="tls://head-node:8786")),
    ],
)
def test_every_form_is_read(text, place):
    assert parse_executor(text) == place


@pytest.mark.parametrize(
    "text",
    ["processes", "processes:", "processes:0", "processes:-2", "processes:2x", "dask", "dask:", "dask:local:0",
     "dask:head:8786", "dask:http://head:8787", "dask:tcp://", "threads:4", "slurm", "Processes:2"],
)  # fmt: skip
def test_other_forms_are_refused(text):
    with pytest.raises(UsageError, match=rf"^executor '{text}' cannot be read: {FORMS}"):
        parse_executor(text)


def test_without_dask_the_pip_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spiketok\[dask\]'"):
        list(run_jobs([Job("a", abs, (-1,))], "dask:local"))


# ---- jobs that die


def _die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def _die_first(mark: Path, x: int) -> int:
    """Kills its worker once: the mark tells the second time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def _slowly(x: int) -> int:
    time.sleep(0.05)
    return x


def _refuse(x: int) -> int:
    message = f"no {x}"
    raise DataError(message)


def deadly(tmp_path: Path) -> list[Job]:
    """Three that go well, one that kills every worker it is given to, one that kills the first, one that fails."""
    good = [Job(f"good{k}", _slowly, (k,)) for k in range(6)]
    bad = [Job("deadly", _die, (7,)), Job("once", _die_first, (tmp_path / "mark", 8)), Job("refused", _refuse, (9,))]
    return good[:2] + bad[:2] + good[2:4] + bad[2:] + good[4:]


def check_deadly(outcomes: list[jobs.Outcome]) -> None:
    results = {o.name: o.result for o in outcomes if o.error is None}
    assert results == {f"good{k}": k for k in range(6)} | {"once": 8}
    messages = {o.name: o.message for o in outcomes if o.error is not None}
    assert messages.keys() == {"deadly", "refused"}
    assert messages["refused"] == "no 9"
    assert messages["deadly"].startswith("its worker process was killed, and again when tried anew")
    assert len(outcomes) == 9


@pytest.mark.long
def test_a_job_that_kills_processes_fails_alone(tmp_path):
    check_deadly(list(run_jobs(deadly(tmp_path), "processes:2")))


@pytest.mark.long
def test_a_job_that_kills_dask_workers_fails_alone(tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed (pip install 'spiketok[dask]')")
    check_deadly(list(run_jobs(deadly(tmp_path), "dask:local:2")))


# ---- memory


def _span(x: int) -> tuple[float, float]:
    begun = time.monotonic()
    time.sleep(0.15)
    return begun, time.monotonic()


def test_no_more_jobs_run_at_once_than_fit_the_memory():
    sizes = [3, 4, 5, 1, 6, 2, 0, 10]
    made = [Job(f"{k}", _span, (k,), nbytes=size) for k, size in enumerate(sizes)]
    outcomes = list(run_jobs(made, "processes:3", memory_bytes=10))
    spans = {int(o.name): o.result for o in outcomes}
    assert len(spans) == len(sizes)
    for moment in (begun for begun, _ in spans.values()):
        assert sum(sizes[k] for k, (begun, ended) in spans.items() if begun <= moment < ended) <= 10
    assert any(a < c < b for a, b in spans.values() for c, _ in spans.values()), "none ran beside another"


@pytest.mark.parametrize("executor", ["", "processes:2"])
def test_a_job_beyond_the_memory_is_refused_with_both_numbers(executor):
    made = [Job("small", abs, (-1,), 10**9), Job("large", abs, (-2,), 4 * 10**9), Job("unknown", abs, (-3,))]
    outcomes = {o.name: o for o in run_jobs(made, executor, memory_bytes=2 * 10**9)}
    assert (outcomes["small"].result, outcomes["unknown"].result) == (1, 3)
    assert outcomes["large"].message == "plans to take 4.0 GB of memory, --max-memory is 2.0 GB: raise it"


# ---- dask


@pytest.fixture(scope="module")
def dask_cluster():
    """A scheduler with two worker processes; their nannies start another one for each that dies."""
    distributed = pytest.importorskip("distributed", reason="dask is not installed (pip install 'spiketok[dask]')")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory) -> tuple[list[Path], Workspace]:
    """Recordings, and the workspace that one process makes of them."""
    config = SimulationConfig(n_subjects=1, sessions_per_subject=4, n_units=8, duration_s=15.0)
    recordings = [Path(file) for file in simulate(config, tmp_path_factory.mktemp("recordings"))]
    workspace = Workspace(tmp_path_factory.mktemp("peace"))
    make(workspace, recordings, "")
    return recordings, workspace


def make(workspace: Workspace, recordings: list[Path], executor: str, *, between=lambda: None) -> None:
    """Ingest and tokenize."""
    check(ingest.ingest(workspace, recordings, executor=executor), len(recordings))
    between()
    check(tokenize.tokenize(workspace, workspace.select(), SCHEMES, executor=executor), len(recordings))


def check(outcomes, n: int) -> None:
    outcomes = list(outcomes)
    assert not [o.message for o in outcomes if o.error]
    assert len(outcomes) == n


def tree(folder: Path) -> dict[str, str]:
    found = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(STAMP)]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def _arm(mark: str) -> int:
    """From now on this worker dies when it, or its child, has written a folder and is about to make it visible."""
    worker = os.getpid()

    def die(path: Path) -> None:
        note = Path(f"{mark}-{os.getpid()}-{threading.get_ident()}")
        note.write_text(str(path))
        note.replace(mark)  # whole, also where another child of this worker dies while it writes its own
        os.kill(worker, signal.SIGKILL)
        time.sleep(30)  # a child dies with the worker

    files.sync = die
    return worker


@pytest.mark.long
def test_a_worker_that_is_killed_changes_no_byte(dask_cluster, in_peace, tmp_path, monkeypatch):
    recordings, peace = in_peace
    monkeypatch.chdir(tmp_path)  # the workers stand elsewhere, as they do on other machines
    workspace = Workspace(Path("disturbed"))

    def arm(stage: str) -> None:
        workers = dask_cluster.scheduler_info(n_workers=-1)["workers"]
        dask_cluster.run(_arm, str(tmp_path / stage), workers=[sorted(workers)[0]])

    arm("ingest")
    make(workspace, recordings, f"dask:{dask_cluster.scheduler.address}", between=lambda: arm("tokenize"))
    for stage, part in (("ingest", "store"), ("tokenize", "shards")):
        in_the_middle = Path((tmp_path / stage).read_text())  # no such file: no worker was killed
        assert in_the_middle.is_relative_to(tmp_path / workspace.root / part)
        assert any(name.startswith(WIP) for name in in_the_middle.parts)
        n_files = len(tree(peace.root / part))
        assert n_files == 2 * len(recordings) if part == "store" else n_files > 20
        assert tree(workspace.root / part) == tree(peace.root / part)
    assert not list(workspace.root.rglob(f"{WIP}*"))


@pytest.mark.long  # processes of their own
def test_processes_give_the_same_bytes(in_peace, tmp_path):
    _, peace = in_peace
    workspace = Workspace(tmp_path, store_place=peace.store)
    check(tokenize.tokenize(workspace, workspace.select(), SCHEMES, executor="processes:2"), 4)
    assert tree(workspace.shards) == tree(peace.shards)


def test_no_scheduler_is_said_in_one_line(monkeypatch):
    pytest.importorskip("distributed", reason="dask is not installed (pip install 'spiketok[dask]')")
    monkeypatch.setattr(jobs, "CONNECT_S", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SpiketokError, match=rf"^no dask scheduler at {address} \([^\n]*\): check that it runs[^\n]*$"):
        list(run_jobs([Job("a", abs, (-1,))], f"dask:{address}"))


@pytest.mark.long  # it waits for timeouts
def test_a_scheduler_that_is_lost_fails_its_jobs_by_name():
    distributed = pytest.importorskip("distributed", reason="dask is not installed (pip install 'spiketok[dask]')")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    )
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), contextlib.closing(cluster):
        outcomes = run_jobs([Job("quick", _slowly, (1,)), Job("lost", time.sleep, (600,))],
                            f"dask:{cluster.scheduler_address}")  # fmt: skip
        assert next(outcomes).result == 1
        cluster.close()
        (outcome,) = outcomes
    assert (outcome.name, outcome.message) == ("lost", "the dask scheduler was lost before it ended: run it again")
