"""Twenty things that a new user wants, here and with the nearest peer; run as a program it writes docs/why.md.

``newcomer.toml`` holds both sides as they are typed; tests/docs/test_newcomer.py runs them. What is counted: lines that
are not blank, of a shell on our side, of Python on the peer's.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "why.md"
HEAD = """# Why spiketok

Twenty things that a new user wants, with the commands that they take here and the lines of Python that they take with
the nearest peer (torch_brain, pynapple, nlb_tools, dandi, nwbinspector). Both sides stand below as they were run, but
for nlb_tools' lines: ours by `make wheel` with the spiketok of a clean environment, the peers' by `make oracle` with
the releases pinned there. A count says how much is typed, not how good it is; what the shorter side leaves out is said.

`ingest` is counted wherever it is needed, though a session is ingested once. Files and archive are made; trainings have
few steps.

"""
TABLE = "| task | here: commands | nearest peer: lines |\n|---|---|---|\n"


@dataclass(frozen=True)
class Task:
    """One thing: what is typed here, what with the peer, why either is missing or was not run."""

    title: str
    ours: str = ""
    peer: str = ""
    theirs: str = ""
    prepared: str = ""
    lacks: str = ""
    not_run: str = ""
    archive: bool | str = False

    @property
    def name(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


def tasks() -> list[Task]:
    """All of them, in the order of the page."""
    with (ROOT / "benchmarks" / "newcomer.toml").open("rb") as file:
        return [Task(**{key: _plain(value) for key, value in row.items()}) for row in tomllib.load(file)["tasks"]]


def _plain(value: str | bool) -> str | bool:
    return value.strip("\n") if isinstance(value, str) else value


def lines(text: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in text.splitlines())


def page() -> str:
    """The text of docs/why.md."""
    rows, sections = [], []
    for number, task in enumerate(tasks(), 1):
        ours = str(lines(task.ours)) if task.ours else "no command"
        if not task.theirs:
            theirs = "not compared"
        else:
            theirs = f"{task.peer}: {lines(task.theirs)}" + (" (not run here)" if task.not_run else "")
        rows.append(f"| {number}. {task.title} | {ours} | {theirs} |\n")
        parts = [f"### {number}. {task.title}\n"]
        if task.ours:
            parts.append(f"```\n{task.ours}\n```\n")
        if task.theirs:
            parts.append(f"With {task.peer}:\n\n```python\n{task.theirs}\n```\n")
        if task.not_run:
            parts.append(f"Not run here: {task.not_run}.\n")
        if task.lacks:
            parts.append(f"{task.lacks[0].upper()}{task.lacks[1:]}.\n")
        sections.append("\n".join(parts))
    legend = "`a.nwb` and `b.nwb` are two days of one animal, `API_URL` is an archive on this machine.\n"
    return HEAD + TABLE + "".join(rows) + "\n## As they were run\n\n" + legend + "\n" + "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page())
