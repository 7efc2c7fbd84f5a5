"""fetch, ingest and tokenize in parts: any order, at once, again where one died; the files of one whole run."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spiketok.cli.options import part_of
from spiketok.errors import UsageError
from spiketok.pipeline.jobs import share_of
from spiketok.sources.simulator import SimulationConfig, simulate
from tests.cli.test_cli import spiketok
from tests.dandi_server import DandiServer
from tests.s3_server import s3_server

REPO = Path(__file__).resolve().parents[2]
SLURM = REPO / "examples" / "slurm"
SCHEMES = ("--scheme", "binned,per-spike")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of four recordings."""
    folder = tmp_path_factory.mktemp("files")
    simulate(SimulationConfig(n_subjects=2, sessions_per_subject=2, n_units=6, duration_s=10.0), folder)
    return folder


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory) -> Path:
    """A workspace that was made in one go."""
    root = tmp_path_factory.mktemp("whole")
    spiketok(root, "ingest", files)
    spiketok(root, "tokenize", *SCHEMES)
    return root


def tree(root: Path, *below: str) -> dict[str, bytes]:
    """The bytes of all files that are artefacts, by path; stamps, locks and the index are none."""
    found = {}
    for folder in below or ("store", "shards"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and not path.name.startswith(".") and path.name != "index.jsonl":
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


# ---- which is whose -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 11])
def test_each_item_is_in_one_part(n):
    parts = [share_of(range(7), (i, n)) for i in range(1, n + 1)]
    assert sorted(item for part in parts for item in part) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert share_of(range(7), None) == list(range(7))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", " 1/2", "１/2"])
@pytest.mark.parametrize(
    "command", [("ingest", "nowhere"), ("tokenize",), ("fetch", "mc_maze_small"), ("bench", "smoke")]
)
def test_no_such_part_is_one_line_of_every_command(command, text, tmp_path):
    done = spiketok(tmp_path, *command, "--part", text, code=2)
    assert done.stderr == f"error: --part {text}: must read I/N, with I from 1 to N, as 3/8\n"
    assert part_of("3/8") == (3, 8) and part_of(None) is None
    with pytest.raises(UsageError):
        part_of(text)


# ---- ingest and tokenize --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_parts_in_any_order_give_the_files_of_one_run(files, whole, tmp_path):
    for part in ("3/3", "1/3", "2/3", "2/3"):
        spiketok(tmp_path, "ingest", files, "--part", part)
    assert tree(tmp_path, "store") == tree(whole, "store")
    for part in ("2/3", "3/3", "1/3"):
        done = spiketok(tmp_path, "tokenize", *SCHEMES, "--part", part)
        assert f"{4 if part == '1/3' else 2} shards" in done.stderr
    assert tree(tmp_path) == tree(whole)
    assert "already" in spiketok(tmp_path, "ingest", files).stderr


def test_a_part_without_a_session_is_done(files, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "root")
    done = spiketok(tmp_path / "root", "tokenize", "--part", "5/5")
    assert "part 5/5 has none of 4 sessions: nothing to do" in done.stderr
    assert "0 sessions" in spiketok(tmp_path / "root", "ingest", files, "--part", "5/5").stderr


def test_what_makes_no_session_is_told_by_the_first_part_alone(files, tmp_path):
    shutil.copytree(files, tmp_path / "files")
    one = next((tmp_path / "files").rglob("*.nwb"))
    (tmp_path / "files" / "again").mkdir()
    shutil.copy(one, tmp_path / "files" / "again" / one.name)
    assert (
        "files would all be session" in spiketok(tmp_path, "ingest", tmp_path / "files", "--part", "1/2", code=1).stderr
    )
    assert "files would all be" not in spiketok(tmp_path, "ingest", tmp_path / "files", "--part", "2/2").stderr


def test_a_part_that_died_is_run_again(files, whole, tmp_path, monkeypatch):
    from spiketok.pipeline import tokenize

    shutil.copytree(whole / "store", tmp_path / "store")
    plain, made = tokenize.tokenize_session, []

    def dying(workspace, session_id, schemes, rule):
        if made:
            raise MemoryError
        made.append(session_id)
        return plain(workspace, session_id, schemes, rule)

    with monkeypatch.context() as patched:
        patched.setattr(tokenize, "tokenize_session", dying)
        spiketok(tmp_path, "tokenize", *SCHEMES, "--part", "1/2", code=1)
    spiketok(tmp_path, "tokenize", *SCHEMES, "--part", "2/2")
    assert len(tree(tmp_path, "shards")) < len(tree(whole, "shards"))
    assert "already" in spiketok(tmp_path, "tokenize", *SCHEMES, "--part", "1/2").stderr
    assert tree(tmp_path, "shards") == tree(whole, "shards")


# ---- fetch ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_parts_of_a_fetch_divide_its_sessions(files, tmp_path):
    assets = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files.rglob("*.nwb")}
    with DandiServer(assets) as server:
        api = ("--api-url", server.api_url)
        spiketok(tmp_path / "one", "fetch", "000140", *api)
        for part in ("2/3", "1/3", "3/3"):
            spiketok(tmp_path / "parts", "fetch", "000140", *api, "--part", part)
        got = server.blob_bytes
        spiketok(tmp_path / "parts", "fetch", "000140", *api)
        assert server.blob_bytes == got == 2 * sum(map(len, assets.values()))  # each file came once
        assert tree(tmp_path / "parts", "store") == tree(tmp_path / "one", "store")
        assert tree(tmp_path / "parts", "raw").keys() == tree(tmp_path / "one", "raw").keys()
        done = spiketok(tmp_path / "none", "fetch", "000140", *api, "--part", "9/9")
        assert "part 9/9 has no session of 000140: nothing to do" in done.stderr
        rows = spiketok(tmp_path / "none", "fetch", "000140", *api, "--part", "1/4", "--dry-run").stdout
        assert rows.count(".nwb") == 1
    line = spiketok(tmp_path, "fetch", files, "--part", "1/2", code=2).stderr
    assert f"is on this machine: spiketok ingest {files} --part 1/2" in line
    assert "leave --part out" in spiketok(tmp_path, "fetch", "000140", "--verify", "--part", "1/2", code=2).stderr


# ---- job arrays -----------------------------------------------------------------------------------------------------

SBATCH = '''#!{python}
"""A stand-in for sbatch: runs the tasks of an array at once on this machine, after those that it depends on."""
import os, re, subprocess, sys

at = next(k for k, word in enumerate(sys.argv) if k and not word.startswith("--"))
words, script, arguments = sys.argv[1:at], sys.argv[at], sys.argv[at + 1:]
head = re.findall(r"^#SBATCH (.*)$", open(script).read(), re.M)
given = [word.removeprefix("--") for line in (*head, *words) for word in line.split() if "=" in word]
options = dict(word.split("=", 1) for word in given)
log = os.environ["SBATCH_LOG"]
depends = options.get("dependency", "").removeprefix("afterok:")
told = open(log).read().split() if os.path.exists(log) else []
number = str(len([line for line in told if line.startswith("job")]) + 1)
if any(f"failed:{{one}}" in told for one in depends.split(":")):
    sys.exit(f"a job of {{depends}} failed")
first, last = map(int, options.get("array", "0-0").split("%")[0].split("-"))
tasks = []
for k in range(first, last + 1):
    array = {{"SLURM_ARRAY_TASK_ID": str(k), "SLURM_ARRAY_TASK_MAX": str(last), "SLURM_JOB_ID": number}}
    tasks.append(subprocess.Popen(["bash", script, *arguments], env=os.environ | array, stdout=sys.stderr))
codes = [task.wait() for task in tasks]
with open(log, "a") as file:
    file.write(f"job{{number}}:{{options.get('job-name', script)}}:{{len(tasks)}}\\n")
    file.write(f"failed:{{number}}\\n" if any(codes) else "")
print(number)
'''


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with ``sbatch`` and ``spiketok`` on the path; gives what ``sbatch`` ran, a line a job."""
    place = tmp_path / "bin"
    place.mkdir()
    scripts = {
        "sbatch": SBATCH.format(python=sys.executable),
        "spiketok": f'#!/bin/sh\nexec "{sys.executable}" -m spiketok "$@"\n',
    }
    for name, text in scripts.items():
        (place / name).write_text(text)
        (place / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("SBATCH_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("SPIKETOK_ROOT", str(tmp_path / "root"))
    return lambda: [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("job")]


def submit(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", SLURM / "prepare.sh", *map(str, words)], capture_output=True, text=True)


@pytest.mark.long  # each task is a process of its own
def test_the_recipe_for_slurm_gives_the_files_of_one_run(slurm, files, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("PARTS", "3")
    monkeypatch.setenv("SCHEMES", "binned,per-spike")
    done = submit(files)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[1:] for line in slurm()] == [["ingest", "3"], ["tokenize", "3"], ["index", "1"]]
    assert tree(tmp_path / "root") == tree(whole)
    assert submit(files).returncode == 0  # all of it again: nothing is made anew
    assert tree(tmp_path / "root") == tree(whole)


@pytest.mark.long
def test_the_recipe_works_on_a_store_behind_a_url(slurm, files, whole, tmp_path, monkeypatch):
    """From S3 to S3, in jobs at once, then shards here that are those of a local store."""
    with s3_server() as (s3, _):
        s3.mkdir("lab")
        for path in files.rglob("*.nwb"):
            s3.put_file(str(path), f"lab/raw/{path.name}")
        monkeypatch.setenv("PARTS", "2")
        monkeypatch.setenv("SCHEMES", "binned,per-spike")
        monkeypatch.setenv("SPIKETOK_STORE", "s3://lab/store")
        monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"])
        done = submit("s3://lab/raw/*.nwb")
        assert done.returncode == 0, done.stderr
        assert tree(tmp_path / "root", "shards") == tree(whole, "shards")
        there = {path for path in s3.find("lab/store") if path.endswith("session.json")}
        assert len(there) == 4
        for path in there:
            local = whole / "store" / Path(path).relative_to("lab/store")
            assert s3.cat_file(path) == local.read_bytes()
        told = spiketok(tmp_path / "root", "verify", "--quick", "--store", "s3://lab/store").stdout
        assert told.count("\t2\tdigests hold\n") == 4  # each with its two shards
