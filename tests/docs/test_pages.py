"""The pages are true as far as a machine can tell: links and anchors lead somewhere, commands and options exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer

from spiketok import __version__
from spiketok.cli import app
from tests.docs.markdown import ROOT, anchors, blocks, links, pages, slug

# Options of programs that are not ours, by where they are named.
OTHERS = {
    "docs/directions.md": {"--table"},
    "docs/models.md": {"--data", "--only"},
    "docs/performance.md": {"--only", "--compile"},
    "docs/robustness.md": {"--package", "--table"},
    "docs/view.md": {"--headless", "--screenshot", "--virtual-time-budget", "--window-size"},
    "docs/how-do-i.md": {"--logdir", "--signal"},
    "docs/many-machines.md": {"--signal"},
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    for number, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists():
            found.append(f"{page.relative_to(ROOT)}:{number}: {target}: no such file")
        elif not to.is_relative_to(ROOT):
            found.append(f"{page.relative_to(ROOT)}:{number}: {target}: outside of the repository")
        elif anchor and anchor not in anchors(to):
            found.append(f"{page.relative_to(ROOT)}:{number}: {target}: no such heading")
    return found


def commands() -> dict[str, set[str]]:
    """Options of every command by its name; those of a group's commands by ``group command``."""
    found: dict[str, set[str]] = {}

    def walk(command: object, name: str) -> None:
        if hasattr(command, "commands"):
            for word, below in command.commands.items():
                walk(below, f"{name} {word}".strip())
        if name and not command.hidden:
            found[name] = {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
            found[name] |= {"--help", "-h"}

    walk(typer.main.get_command(app), "")
    return found


COMMANDS = commands()
ANY = set.union(*COMMANDS.values()) | {"--version", "--debug", "--install-completion"}


def test_links_and_anchors_lead_somewhere():
    assert [line for page in pages() for line in broken(page)] == []


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_pages.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A `name` of it\n```\n# none\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](there.md#a-name-of-it) [b](there.md#none) [c](gone.md) `[d](gone.md)` [e](#page)\n"
        "[f](../out.md) ![g](gone.png) [h](https://example.org/x)\n```\n[i](gone.md)\n```\n"
    )
    said = [line.split(": ")[1] for line in broken(page)]
    assert said == ["there.md#none", "gone.md", "../out.md", "gone.png"]


@pytest.mark.parametrize("heading", ["How do I ...", "`ndt_stitch`, `mtm_bwb`", "A [link](x.md) in it", "R2 (two)"])
def test_anchors_have_no_punctuation(heading):
    assert re.fullmatch(r"[\w-]+", slug(heading))


def test_every_command_has_its_row():
    cells = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs/commands.md").read_text(), flags=re.M)
    rows = [row for cell in cells for row in re.findall(r"`([a-z][a-z-]*(?: [a-z]+(?=[ `]))?)", cell)]
    named = {row if row in COMMANDS else row.partition(" ")[0] for row in rows}
    groups = {name.partition(" ")[0] for name in COMMANDS if " " in name}
    missing = [name for name in COMMANDS if name not in named and name not in groups]
    assert missing == [], "rows of docs/commands.md"
    invented = [name for name in named if name not in COMMANDS]
    assert invented == [], "rows of docs/commands.md for which there is no command"


def test_every_option_on_a_page_exists():
    unknown = []
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        for number, line in enumerate(page.read_text().splitlines(), 1):
            words = set(OPTION.findall(line)) - ANY - OTHERS.get(name, set())
            unknown += [f"{name}:{number}: {word}" for word in sorted(words)]
    assert unknown == []


def test_a_command_on_a_page_has_the_options_that_it_is_given():
    wrong = []
    for page in pages():
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for match in re.finditer(r"spiketok ([a-z][a-z-]*)([^`|#;&]*)", line):
                rest = match[2].split()
                name = f"{match[1]} {rest[0]}" if rest and f"{match[1]} {rest[0]}" in COMMANDS else match[1]
                if name not in COMMANDS:
                    continue
                words = set(re.findall(r"(?<![\w-])--?[A-Za-z][a-z-]*", match[2]))
                words -= COMMANDS[name] | {"--debug"}
                wrong += [f"{page.relative_to(ROOT)}:{number}: {name} {word}" for word in sorted(words)]
    assert wrong == []


def test_every_page_is_in_the_site_once():
    shown = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    assert len(shown) == len(set(shown))
    ours = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert ours - set(shown) == set(), "pages that mkdocs.yml does not name"
    # the front page is README.md, AGENTS.md and examples/ come in under their own paths, the reference is written
    elsewhere = {"index.md", "AGENTS.md", "examples/README.md"} | {s for s in shown if s.startswith("reference/")}
    assert set(shown) - ours == elsewhere, "what mkdocs.yml names and is no page"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_one_version_is_said_everywhere():
    assert PROJECT["project"]["version"] == __version__
    newest = re.search(r"^## (\S+)", (ROOT / "docs/changelog.md").read_text(), flags=re.M)
    assert newest and newest[1] == __version__


def test_the_wheel_has_every_file_that_is_no_code():
    package = ROOT / "spiketok"
    listed = {
        path
        for name, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / name.replace(".", "/")).glob(pattern)
    }
    data = {p for p in package.rglob("*") if p.is_file() and p.suffix != ".py" and p.parent.name != "__pycache__"}
    assert data - listed == set(), "files that pyproject.toml's package-data does not name"


def test_a_block_that_is_not_run_says_why(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: needs the network -->\n\n```\na\n```\n\nText.\n\n```python\nb\n```\n")
    assert [(b.line, b.language, b.text, b.reason) for b in blocks(page)] == [
        (4, "", "a\n", "needs the network"),
        (10, "python", "b\n", None),
    ]
