"""Nasty files and folders: each is refused in a line that says why, or is rightly in the store and verify holds.

``tests/nasty_files.py`` and ``tests/nasty_more.py`` say what each must become; no pickle of any of them may run.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests.nasty_files import NASTY, Nasty, judge
from tests.nasty_more import FOLDERS, MORE, NastyFolder
from tests.nwb_files import write_plain
from tests.robustness import Case, Cli


def cases(count: int | None) -> list[Case]:
    files = [Case(name, partial(_run_file, nasty)) for name, nasty in (NASTY | MORE).items()]
    return [*files, *(Case(name, partial(_run_folder, nasty)) for name, nasty in FOLDERS.items())][:count]


def _run_file(nasty: Nasty, cli: Cli, folder: Path) -> None:
    root, files = folder / "root", folder / "files"
    root.mkdir()
    files.mkdir()
    path = files / "nasty.nwb"
    nasty.make(write_plain(folder / "good.nwb"), path)
    outcome = cli("ingest", path, root=root)
    if nasty.refused:
        outcome.refuses(nasty.refused, f"{nasty.called or path.name}")
        assert not Workspace(root).session_ids(), "what was refused is in the store"
        return
    outcome.succeeds()
    (session_id,) = Workspace(root).session_ids()
    judge(read_session(Workspace(root).store_path(session_id)), nasty)
    verified = cli("verify", root=root).sane()
    assert not nasty.pynwb or verified.code == 0, str(verified)


def _run_folder(nasty: NastyFolder, cli: Cli, folder: Path) -> None:
    root = folder / "root"
    root.mkdir()
    path = nasty.make(folder / "files")
    outcome = cli("ingest", "--sorter", nasty.sorter, *nasty.options, path, root=root)
    assert not list(folder.rglob("ran")), "what is in the folder was run"
    if nasty.refused:
        outcome.refuses(nasty.refused)
        assert not Workspace(root).session_ids(), "what was refused is in the store"
        return
    outcome.succeeds()
    (session_id,) = Workspace(root).session_ids()
    session = read_session(Workspace(root).store_path(session_id))
    assert (len(session.units), len(session.spikes)) == (nasty.units, nasty.spikes)
    assert set(nasty.notes) <= {note.id for note in session.notes}
    cli("verify", root=root).succeeds("equal")
