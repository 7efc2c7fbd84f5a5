"""One exit code for one mistake: what was typed wrong is 2 everywhere, what was found wrong is 1."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.storage.store import write_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.made import random_session

# mistake -> exit code -> commands that can meet it; NOTHING is a path where nothing is
TABLE = {
    ("a name that nothing has", 2): [
        "inspect nothing", "verify nothing", "cite nothing", "eval-xsession nothing", "embed nothing",
        "generate nothing", "coupling nothing", "ensemble nothing nothing", "train --from nothing",
        "export nothing --to nwb --out o", "session rename nothing b", "session remove nothing --yes",
        "tokenize --scheme nothing", "schemes nothing", "compare --scheme nothing", "stream a --scheme nothing",
        "models nothing", "train --model nothing", "train --model poyo --set size=nothing",
        "train --model poyo --task nothing", "train --model poyo --set nothing=1", "train --config nothing",
        "datasets nothing", "fetch nothing", "bench nothing", "score o --suite nothing",
        "splits nothing", "choose --like nothing", "simulate --set nothing=1", "simulate --task nothing",
        "ingest NOTHING --sorter nothing", "export a --to nothing --out o",
    ],
    ("a glob that nothing matches", 2): [
        "tokenize --sessions x*", "verify --sessions x*", "train --sessions x*", "compare x*", "splits x*",
        "export x* --to nwb --out o", "session remove x* --yes", "stream x* --scheme binned", "choose --sessions x*",
    ],
    ("the beginning of several", 2): [
        "tokenize --sessions made/", "verify made/", "inspect made/", "cite made/", "stream made/ --scheme binned",
        "session rename made/ b", "train --model nd", "tokenize --scheme f", "datasets mc_", "models n",
    ],
    ("a file that is not there", 2): [
        "ingest NOTHING/a.nwb", "fetch NOTHING/a.nwb", "inspect NOTHING/a.nwb", "verify NOTHING/a.nwb",
        "cite NOTHING/a.nwb", "train --config NOTHING/a.toml", "bench NOTHING/a.toml",
        "score NOTHING/a --suite falcon", "eval-xsession NOTHING/run",
    ],
    ("two options that exclude each other", 2): [
        "fetch a --dry-run --verify", "cite --bibtex --json", "train --resume --restart", "verify a --sessions b",
        "stream a --scheme binned --run b", "tokenize --jobs 2 --executor dask:local", "datasets ibl --species x",
        "--root r inspect --root r",
    ],
    ("an option or a command that is none", 2): ["tokenize --shceme binned", "tokenise", "session move", "runn"],
    ("nothing to confirm with", 2): ["session remove a"],
}  # fmt: skip
EMPTY = ["tokenize", "train --model linear", "verify", "compare", "splits", "choose", "export x --to nwb --out o"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    for name in ("a", "b"):
        write_session(random_session(name, 1), Workspace(folder).store_path(f"made/{name}"))
    return folder


@pytest.mark.parametrize(("code", "line"), [(code, line) for (_, code), lines in TABLE.items() for line in lines])
def test_a_mistake_has_one_exit_code(root, code, line, monkeypatch):
    monkeypatch.chdir(root)
    before = sorted(root.rglob("*"))
    done = spiketok(root, *line.replace("NOTHING", "there/is/nothing").split(), code=code)
    assert done.stdout == ""
    assert "internal error" not in done.stderr and "Traceback" not in done.stderr
    assert [p for p in sorted(root.rglob("*")) if "index" not in p.name] == [p for p in before if "index" not in p.name]


@pytest.mark.parametrize("line", EMPTY)
def test_an_empty_store_is_found_wrong_and_not_typed_wrong(tmp_path, line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no session in" in spiketok(tmp_path, *line.split(), code=1).stderr
