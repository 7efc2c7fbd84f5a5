"""``spiketok.toml``: flag over environment over project over user, and one line for what it may not say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from spiketok.cli.command import Command
from spiketok.cli.options import Executor, Root, Store, Workers
from spiketok.errors import SpiketokError
from spiketok.storage import preferences
from spiketok.storage.workspace import Workspace

app = typer.Typer()


@app.callback()
def _common(root: Annotated[str | None, typer.Option("--root")] = None) -> None: ...


@app.command(cls=Command)
def work(
    sets: Annotated[list[str] | None, typer.Option("--set")] = None,
    rate: Annotated[float, typer.Option("--rate")] = 1.0,
    fast: Annotated[bool, typer.Option("--fast")] = False,
    out: Annotated[Path | None, typer.Option("--out")] = None,
    yes: Annotated[bool, typer.Option("--yes")] = False,
    jobs: Workers = 1,
    executor: Executor = None,
    root: Root = None,
    store: Store = None,
) -> None:
    workspace = Workspace.locate(root, store)
    print(f"{sets or []} {rate} {fast} {out} {jobs} {executor} {workspace.root} {workspace.store}")


@app.command(cls=Command)
def idle() -> None:
    print("idle")


@pytest.fixture
def places(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The project's file and the user's, and a working folder below the project."""
    for name in ("SPIKETOK_ROOT", "SPIKETOK_STORE", "SPIKETOK_JOBS", "SPIKETOK_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    project, user = tmp_path / "project", tmp_path / "config" / "spiketok"
    (project / "deep" / "er").mkdir(parents=True)
    user.mkdir(parents=True)
    monkeypatch.chdir(project / "deep" / "er")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    preferences.forget()
    yield project / "spiketok.toml", user / "spiketok.toml"
    preferences.forget()


def told(*words: str, **environment: str) -> str:
    done = CliRunner().invoke(app, list(words), env=environment)
    if isinstance(done.exception, SpiketokError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_flag_over_environment_over_project_over_user(places):
    project, user = places
    assert told("work") == "[] 1.0 False None 1 None spiketok-data spiketok-data/store"
    user.write_text('root = "/user"\njobs = 2\nstore = "s3://bucket/store"\n[work]\nrate = 2\nfast = true\n')
    preferences.forget()
    assert told("work") == "[] 2.0 True None 2 None /user s3://bucket/store"
    project.write_text('root = "data"\njobs = 3\n[work]\nrate = 3.5\nout = "to/here"\n')
    preferences.forget()
    here = project.parent
    assert told("work") == f"[] 3.5 True {here / 'to/here'} 3 None {here / 'data'} s3://bucket/store"
    of_environment = told("work", SPIKETOK_ROOT="/env", SPIKETOK_JOBS="4", SPIKETOK_STORE="/envstore")
    assert of_environment == f"[] 3.5 True {here / 'to/here'} 4 None /env /envstore"
    line = ("--root", "/line", "--jobs", "5", "--rate", "9", "--out", "x")
    assert told("work", *line, SPIKETOK_ROOT="/env") == "[] 9.0 True x 5 None /line s3://bucket/store"
    assert told("--root", "/before", "work") == f"[] 3.5 True {here / 'to/here'} 3 None /before s3://bucket/store"


def test_sets_add_up_and_may_be_a_table(places):
    project, user = places
    user.write_text('[work]\nset = ["seed=1", "optim.steps=9"]\n')
    preferences.forget()
    assert told("work", "--set", "seed=2").startswith("['seed=1', 'optim.steps=9', 'seed=2'] ")
    project.write_text('[work.set]\noptim.lr = 1e-3\nname = "a b"\nlist = [1, 2]\n')
    preferences.forget()
    assert told("work").startswith("""['optim.lr=0.001', 'name="a b"', 'list=[1, 2]'] """)


def test_of_jobs_and_executor_the_nearer_one_counts(places):
    project, user = places
    user.write_text('executor = "dask:local"\n')
    preferences.forget()
    assert " 1 dask:local " in told("work")
    assert " 4 None " in told("work", "--jobs", "4")
    assert " 3 None " in told("work", SPIKETOK_JOBS="3")
    project.write_text("jobs = 2\n")
    preferences.forget()
    assert " 2 None " in told("work")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('rot = "x"\n', "unknown key 'rot' in FILE: did you mean 'root'?"),
        ("jobs = 0\n", "FILE: jobs is 0, expected a whole number from 1"),
        ("jobs = true\n", "FILE: jobs is True, expected a whole number from 1"),
        ('root = ""\n', "FILE: root is '', expected text"),
        ("[wrok]\nrate = 1\n", "unknown command 'wrok' in FILE: did you mean 'work'?"),
        ("[work]\nrtae = 1\n", "unknown option 'rtae' in [work] of FILE: did you mean 'rate'?"),
        ("[work]\nyes = true\n", "unknown option 'yes' in [work] of FILE"),
        ("[work]\nfast = 1\n", "FILE: fast of [work] is 1, expected true or false"),
        ("[work]\nrate = [1]\n", "FILE: rate of [work] is [1], expected a number or text"),
        ('[work]\nrate = "much"\n', "FILE: --rate is 'much': Invalid value for '--rate'"),
        ("rate = \n", "FILE is not TOML"),
    ],
)
def test_what_may_not_stand_there_is_one_line(places, text, line):
    project, _ = places
    project.write_text(text)
    preferences.forget()
    with pytest.raises(SpiketokError) as caught:
        told("work")
    assert str(caught.value).startswith(line.replace("FILE", str(project)))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_help_and_commands_without_a_place_go_on(places):
    project, _ = places
    project.write_text("jobs = 0\n")
    preferences.forget()
    assert "Usage" in CliRunner().invoke(app, ["work", "--help"]).stdout
    project.write_text("jobs = 2\n")
    preferences.forget()
    assert told("idle", "--root", "x") == told("--root", "x", "idle") == told("idle", "--root=x") == "idle"


def test_doctor_tells_where_each_value_comes_from(places, monkeypatch):
    from spiketok.cli.doctor import preferences as checked

    project, user = places
    user.write_text('root = "/user"\nexecutor = "dask:local"\n')
    project.write_text('root = "data"\n[train]\nset = ["seed=1"]\n')
    preferences.forget()
    monkeypatch.setenv("SPIKETOK_STORE", "/env")
    found = [f"{c.check}: {c.found}" for c in checked(None)]
    assert found[:4] == [
        f"root: {project.parent / 'data'} (project file {project})",
        "store: /env (SPIKETOK_STORE)",
        "jobs: 1 (the default)",
        f"executor: dask:local (user file {user})",
    ]
    assert found[4:] == [
        f"spiketok.toml: project file {project}: [train] set",
        f"spiketok.toml: user file {user}",
    ]
    assert checked(Path("/line"))[0].found == "/line (--root)"
    project.write_text("rot = 1\n")
    preferences.forget()
    assert [c.state for c in checked(None)] == ["broken"]
