"""What tests read of the pages: headings, links, fenced blocks, and what was said about them. No markdown library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)(`{3,})(\w*)\s*$")
NOT_RUN = re.compile(r"<!-- (?:not run: |(?=needs: ))(.+?) -->")  # "needs: lightning" is a reason too
CODE = re.compile(r"(`+)(.+?)\1")
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def pages() -> list[Path]:
    """Every page that a reader is sent to, from the root of the repository."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: where its first line stands, its language and lines, and why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; ``<!-- not run: REASON -->`` stands on a line of its own above one."""
    found: list[Block] = []
    fence, language, begun, held, said = "", "", 0, [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = FENCE.match(line)
        if fence:
            if line.strip() == fence:
                found.append(Block(page, begun, language, "\n".join(held) + "\n", said))
                fence, said = "", None
            else:
                held.append(line)
        elif match:
            fence, language, begun, held = match[2], match[3], number + 1, []
        elif line.strip():
            comment = NOT_RUN.fullmatch(line.strip())
            said = comment[1] if comment else None
    assert not fence, f"{page}:{begun}: a block without an end"
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Lines of a page outside of fenced blocks, with their numbers."""
    fence = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = re.match(r" *(`{3,})", line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif match:
            fence = match[1]
        else:
            yield number, line


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub (and the site) makes it: lower case, hyphens for blanks, no punctuation."""
    text = LINK.sub(lambda m: m["text"], heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Every anchor of a page."""
    found: dict[str, int] = {}
    for _, line in prose(page):
        if match := re.match(r"#{1,6} (.+)", line):
            name = slug(match[1])
            found[name] = found.get(name, 0) + 1
    return set(found) | {f"{name}-{k}" for name, n in found.items() for k in range(1, n)}


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Targets of links and pictures that stand in prose, with the numbers of their lines."""
    for number, line in prose(page):
        for match in LINK.finditer(CODE.sub("", line)):
            yield number, match["target"]
        yield from ((number, found) for found in re.findall(r"<img [^>]*src=\"([^\"]+)\"", line))
