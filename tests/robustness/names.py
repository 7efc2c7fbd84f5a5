"""Names of files, datasets and sessions: what is typed is refused where it is not safe, what is derived is made safe.

Each session that comes into the store has a name that Windows, macOS and Linux take, and answers to it.
"""

from __future__ import annotations

import json
import unicodedata
from functools import partial
from pathlib import Path

from tests.nwb_files import write_plain
from tests.robustness import Case, Cli

TYPED = (
    *(
        "",
        ".",
        "..",
        "../up",
        "/abs",
        "a/b",
        "a\\b",
        "a\nb",
        "a\tb",
        "a\x1b[2Jb",
        "a\u202eb",
        "*",
        "a?b",
        "[ab]",
        "a,b",
    ),
    *("-leading", "trailing.", "trailing ", " leading", "CON", "nul", "Com3", "LPT9.txt", "a:b", "a<b", 'a"b', "a|b"),
    *("n" * 300, "u\u0308ber"),
)
FILES = (
    *(
        "line\nfeed",
        "star*",
        "-leading",
        "trailing.",
        "trailing ",
        " leading",
        "con",
        "NUL",
        "aux.x",
        "lpt1",
        "n" * 240,
    ),
    *(
        "u\u0308ber",
        'a<b>c:d"e|f?g',
        "[ab]",
        "a,b",
        "back\\slash",
        "esc\x1b[2J",
        "bidi\u202e",
        "..dots",
        "猫",
        "~",
        "%41",
    ),
)
DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))}
TWINS = (
    ("Mouse", "mouse"),
    ("STRASSE", "straße"),
    (unicodedata.normalize("NFC", "été"), unicodedata.normalize("NFD", "été")),
    ("a b", "a_b"),
    ("x.", "x"),
)


def cases(count: int | None) -> list[Case]:
    made = [Case(f"--dataset {name[:20]!r}", partial(_typed, "--dataset", name)) for name in TYPED]
    made += [Case(f"--merge-as {name[:20]!r}", partial(_typed, "--merge-as", name)) for name in TYPED[3:9]]
    made += [Case(f"a file {name[:20]!r}", partial(_file, name)) for name in FILES]
    made += [Case(f"{a!r} and {b!r}, {how}", partial(_twins, a, b, how)) for a, b in TWINS for how in ("once", "twice")]
    made += [Case("datasets that differ in case", _datasets)]
    return made[:count]


def _typed(option: str, name: str, cli: Cli, folder: Path) -> None:
    path = write_plain(folder / "one.nwb")
    cli("ingest", path, option, name, root=folder).refuses(option, code=2)
    assert not (folder / "store").exists()


def fault(name: str) -> str:
    """Why some system has no such name of a folder."""
    if any(c in '<>:"/\\|?*' or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name):
        return "a reserved sign"
    if name[:1] in ("", "-", ".", " ") or name[-1] in ". ":
        return "its first or last sign"
    if name.split(".")[0].lower() in DEVICES:
        return "the name of a device"
    if len(name.encode()) > 200:
        return "its length"
    return "" if unicodedata.is_normalized("NFC", name) else "its form"


def _ids(cli: Cli, folder: Path) -> list[str]:
    if not (folder / "store").exists():
        return []
    told = cli("inspect", "--json", root=folder).succeeds()
    return [row["session"] for row in json.loads(told.out)["tables"].get("sessions", [])]


def _file(name: str, cli: Cli, folder: Path) -> None:
    """The session's name is safe, is said where it is not the file's, and every command takes it."""
    (folder / "data").mkdir()
    path = write_plain(folder / "data" / f"{name}.nwb")
    told = cli("ingest", f"./data/{path.name}", root=folder).succeeds()
    (session_id,) = _ids(cli, folder)
    made = session_id.partition("/")[2]
    assert not fault(made), f"{made!r}: {fault(made)}"
    assert session_id in told.text
    cli("inspect", session_id, root=folder).succeeds()
    cli("tokenize", "--scheme", "per-spike", "--sessions", session_id, root=folder).succeeds(session_id)
    cli("verify", root=folder).succeeds()


def _twins(first: str, second: str, how: str, cli: Cli, folder: Path) -> None:
    """Two sessions that some file system takes for one are never both in the store, and one of them is refused."""
    paths = []
    for k, name in enumerate((first, second)):
        (folder / f"data{k}").mkdir()
        paths.append(write_plain(folder / f"data{k}" / f"{name}.nwb"))
    told = [cli("ingest", *paths, root=folder)] if how == "once" else [cli("ingest", p, root=folder) for p in paths]
    ids = _ids(cli, folder)
    folded = {unicodedata.normalize("NFC", i).casefold() for i in ids}
    assert len(folded) == len(ids), f"{ids} are one on some systems"
    refused = any(one.sane().code == 1 for one in told)
    assert refused or len(ids) == 2 or "replaced" in told[-1].text, "the second is not told of"


def _datasets(cli: Cli, folder: Path) -> None:
    paths = [write_plain(folder / f"{name}.nwb") for name in ("one", "two")]
    cli("ingest", paths[0], "--dataset", "Monkey", root=folder).succeeds()
    cli("ingest", paths[1], "--dataset", "monkey", root=folder).refuses("Monkey")
    cli("ingest", paths[1], "--dataset", "Monkey", root=folder).succeeds()
