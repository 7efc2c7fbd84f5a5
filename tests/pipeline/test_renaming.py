"""A session under another id, or gone: its shards with it, its chain whole, and what was made of it told first."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spiketok.cli.session import app
from spiketok.errors import AmbiguousNameError, DataError, UsageError
from spiketok.pipeline import renaming
from spiketok.pipeline.provenance import first_broken, walk
from spiketok.pipeline.renaming import dependents, new_id, remove, rename
from spiketok.pipeline.tokenize import tokenize_session
from spiketok.pipeline.verify import verify_session_files
from spiketok.storage.files import write_json
from spiketok.storage.locks import session_lock
from spiketok.storage.store import read_session, write_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import make_scheme
from tests.made import random_session

OLD, NEW = "made/a", "mine/b"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two sessions, one with two shards of two rules, a source that is known, and a run and a report of it."""
    workspace = Workspace(tmp_path)
    for name, seed in (("a", 1), ("other", 2)):
        write_session(random_session(name, seed), workspace.store_path(f"made/{name}"))
    tokenize_session(workspace, OLD, [make_scheme("binned"), make_scheme("per-spike")], "observed")
    tokenize_session(workspace, OLD, [make_scheme("binned")], "continuous")
    write_json(tmp_path / "sources.json", {OLD: ["/data/a.nwb"], "made/other": ["/data/o.nwb"]})
    return workspace


def with_run(workspace: Workspace) -> None:
    run = workspace.runs / "poyo-1"
    (run / "checkpoint").mkdir(parents=True)
    write_json(run / "checkpoint" / "checkpoint.json", {"sessions": [{"id": OLD}]})
    write_json(run / "xsession" / "report.json", {"sessions": [{"id": OLD}], "trained_on": []})
    write_json(workspace.choices / "c.json", {"sessions": [{"session": "made/other"}], "targets": [OLD]})


def state(workspace: Workspace) -> dict[str, bytes]:
    """Every file but stamps and locks, by its path."""
    files = (p for p in workspace.root.rglob("*") if p.is_file())
    return {
        str(p.relative_to(workspace.root)): p.read_bytes()
        for p in files
        if ".lock" not in p.name and not p.name.startswith(".") and "index" not in p.name
    }


def test_a_renamed_session_is_as_if_it_had_been_made_so(workspace, tmp_path):
    done = rename(workspace, OLD, NEW)
    assert done.shards == 3 and done.notes == ()
    fresh = Workspace(tmp_path / "fresh")
    digest = write_session(replace(random_session("a", 1), id=NEW), fresh.store_path(NEW))
    assert done.digest == digest == workspace.attributes(NEW)["digest"]
    assert workspace.session_ids() == ["made/other", NEW]
    assert not list(workspace.shards.rglob("made")) and len(workspace.baked(NEW)) == 4  # a context beside three shards
    assert json.loads((workspace.root / "sources.json").read_text())[NEW] == ["/data/a.nwb"]
    assert verify_session_files(workspace, NEW, quick=True).differences == []
    assert read_session(workspace.store_path(NEW)).id == NEW


@pytest.mark.parametrize("killed_in", ["tokenize_session", "move_sources", "_take_away"])
def test_a_rename_that_is_killed_goes_on_to_the_same_bytes(workspace, tmp_path, monkeypatch, killed_in):
    whole = Workspace(tmp_path / "whole")
    for part in ("store", "shards"):
        shutil.copytree(workspace.root / part, whole.root / part)
    shutil.copy(workspace.root / "sources.json", whole.root)
    rename(whole, OLD, NEW)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(renaming, killed_in, die)
        with pytest.raises(KeyboardInterrupt):
            rename(workspace, OLD, NEW)
    assert OLD in workspace.session_ids()
    rename(workspace, OLD, NEW)
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    found = {path: data for path, data in state(workspace).items() if not path.startswith("whole/")}
    assert found == state(whole)


def test_what_was_made_of_a_session_is_found_and_verify_names_what_is_gone(workspace):
    with_run(workspace)
    found = dependents(workspace, OLD)
    assert (found.runs, found.reports, found.choices) == (("poyo-1",), ("runs/poyo-1/xsession",), ("c.json",))
    assert found.lines() == ["1 run: poyo-1", "1 report: runs/poyo-1/xsession", "1 choice: c.json"]
    assert dependents(workspace, "made/other").lines() == ["1 choice: c.json"]
    (shard,) = [p for p in workspace.baked(OLD) if "per-spike" in str(p)]
    assert first_broken(list(walk(shard, workspace, quick=True))) is None
    rename(workspace, OLD, NEW)
    (shard,) = [p for p in workspace.baked(NEW) if "per-spike" in str(p)]
    assert first_broken(list(walk(shard, workspace, quick=True))) is None


def test_the_commands_refuse_ask_and_tell(workspace):
    with_run(workspace)
    run, root = CliRunner(), ["--root", str(workspace.root)]
    refused = run.invoke(app, ["rename", "made/a", "b", *root])
    assert isinstance(refused.exception, DataError)
    assert "1 run: poyo-1; 1 report" in str(refused.exception) and "--force" in str(refused.exception)
    before = state(workspace)
    assert "would be removed" in run.invoke(app, ["remove", "*", "--dry-run", "--force", *root]).stdout
    asked = run.invoke(app, ["remove", "made/a", "--force", *root])
    assert isinstance(asked.exception, UsageError) and "--yes" in str(asked.exception)
    assert state(workspace) == before
    several = run.invoke(app, ["rename", "made/", "b", *root])
    assert isinstance(several.exception, AmbiguousNameError)
    done = run.invoke(app, ["rename", "made/a", "b", "--force", *root])
    assert done.exit_code == 0 and "3 shards baked anew" in done.stdout
    gone = run.invoke(app, ["remove", "made/b", "--yes", "--json", *root])
    assert json.loads(gone.stdout) == [{"session": "made/b", "shards": 4}]
    assert workspace.session_ids() == ["made/other"]
    assert workspace.baked("made/b") == []
    assert list(json.loads((workspace.root / "sources.json").read_text())) == ["made/other"]


def test_ids_that_cannot_be_are_refused(workspace):
    assert new_id(OLD, "b") == "made/b" and new_id(OLD, NEW) == NEW
    with pytest.raises(UsageError, match="called so already"):
        new_id(OLD, "a")
    for word in ("x/", "/x", "..", "a/b/c", ""):
        with pytest.raises(UsageError):
            new_id(OLD, word)
    with pytest.raises(DataError, match="there is another session made/other"):
        rename(workspace, OLD, "made/other")
    assert workspace.session_ids() == [OLD, "made/other"]


def test_a_rename_waits_for_who_makes_the_session_anew(workspace):
    import threading

    with session_lock(workspace.store_path(OLD)):
        done = threading.Thread(target=rename, args=(workspace, OLD, NEW))
        done.start()
        done.join(0.3)
        assert done.is_alive() and workspace.session_ids() == [OLD, "made/other"]
    done.join(20)
    assert workspace.session_ids() == ["made/other", NEW]


def test_remove_leaves_the_others(workspace):
    remove(workspace, OLD)
    assert workspace.session_ids() == ["made/other"]
    assert verify_session_files(workspace, "made/other", quick=True).n_spikes > 0
