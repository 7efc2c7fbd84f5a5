"""What mkdocs does for this site beside turning pages into HTML (``hooks`` of mkdocs.yml).

The pages are written for a reader of the repository: their links lead to files of it. Here the README becomes the
front page, AGENTS.md and all of examples/ come into the site under their own paths, and links are made to lead there.
The reference is a page a room, of the modules that a program imports.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
FRONT = {"README.md": "index.md"}
# Pages of the reference: title, what it is for, modules.
REFERENCE = {
    "reference/recording.md": (
        "Recording",
        "What a recording is, and what is computed of it in memory: numpy alone.",
        ["recording.nouns", "recording.intervals", "recording.splits", "recording.metrics"],
    ),
    "reference/store.md": (
        "Store",
        "Sessions on disk, and windows of them.",
        ["storage.workspace", "storage.store", "storage.window_reader", "storage.index"],
    ),
    "reference/tokens.md": (
        "Tokens",
        "Schemes, shards and live streams.",
        ["tokens.schemes", "tokens.schemes.base", "tokens.shards", "tokens.live"],
    ),
    "reference/models.md": ("Models", "The nouns of learning and the contract.", ["models.batch", "models.base"]),
    "reference/tasks.md": (
        "Tasks",
        "The kinds of question.",
        ["training.tasks", "training.tasks.base"],
    ),
    "reference/runs.md": (
        "Runs",
        "What a training is told, and what it leaves.",
        ["training.config", "training.runs", "training.checkpoints"],
    ),
    "reference/evaluation.md": (
        "Evaluation",
        "Transfer to unseen sessions, and decoding live.",
        ["evaluation.transfer", "evaluation.results", "evaluation.live", "evaluation.falcon_decoder"],
    ),
    "reference/errors.md": ("Errors", "The exception tree.", ["errors"]),
}
API = "reference/api.md"  # the Python front door, where the package has one
LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")
IMAGE = re.compile(r'(<img [^>]*src=")([^":]+)()(")')
ROLE = re.compile(r":(?:py:)?(?:func|class|meth|mod|attr|data|exc):(?=<code>)")


def in_site(path: str) -> str:
    """The address in the site of a file of the repository."""
    return FRONT.get(path, path.removeprefix("docs/"))


def in_repository(path: str) -> str:
    """The file of the repository that stands at an address of the site."""
    back = {there: here for here, there in FRONT.items()}.get(path)
    if back:
        return back
    return path if (ROOT / path).is_file() and not (ROOT / "docs" / path).is_file() else f"docs/{path}"


def outside() -> list[str]:
    """Files outside of docs/ that the site has too."""
    found = [path for path in (ROOT / "examples").rglob("*") if path.is_file()]
    hidden = [p for p in found if any(part.startswith((".", "__")) or part.endswith("-info") for part in p.parts)]
    named = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "LICENSE", *(p for p in found if p not in hidden)]
    return [path.relative_to(ROOT).as_posix() for path in named]


def on_config(config):
    """Name the page of the Python front door where there is one."""
    if (ROOT / "spiketok" / "api").is_dir():
        reference = next(part["Reference"] for part in config["nav"] if "Reference" in part)
        reference.insert(0, {"Python": API})
    return config


def on_files(files: Files, config) -> Files:
    """Add the pages that do not lie in docs/."""
    for path in outside():
        files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    for path, (title, about, modules) in REFERENCE.items():
        text = f"# {title}\n\n{about}\n\n" + "\n\n".join(f"::: spiketok.{module}" for module in modules) + "\n"
        files.append(File.generated(config, path, content=text))
    front = sorted((ROOT / "spiketok" / "api").glob("[a-z]*.py"))
    if front:
        directives = "\n\n".join(f"::: spiketok.api.{path.stem}" for path in front)
        files.append(File.generated(config, API, content=f"# Python\n\n`import spiketok`.\n\n{directives}\n"))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Links to files of the repository, as links of the site."""
    here = in_repository(page.file.src_uri)
    if page.file.src_uri.startswith("reference/"):
        return markdown

    def moved(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        to = posixpath.relpath(in_site(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{to}{match[3] or ''}{match[4]}"

    parts = re.split(r"(^ *```.*?^ *```|`[^`\n]+`)", markdown, flags=re.M | re.S)
    return "".join(p if k % 2 else IMAGE.sub(moved, LINK.sub(moved, p)) for k, p in enumerate(parts))


def on_page_content(html: str, page, config, files) -> str:
    """Docstrings name things as Sphinx does; here the name alone is shown."""
    return ROLE.sub("", html)
