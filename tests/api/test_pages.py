"""docs/python.md and the notebooks run as they stand, block by block and cell by cell, in an empty folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """What each Python block of a page needs beside the package (empty for nothing), and its code."""
    return [(needs or "", code) for needs, code in BLOCK.findall(page.read_text(encoding="utf-8"))]


def cells(notebook: Path) -> list[str]:
    body = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in body["cells"] if cell["cell_type"] == "code"]


def run(parts: list[str], name: str) -> dict[str, object]:
    """All parts in one namespace, one after the other."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(parts, 1):
        exec(compile(code, f"{name}, part {number}", "exec"), namespace)
    return namespace


@pytest.mark.long
def test_every_block_of_the_page_runs_and_the_notebooks_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = blocks(ROOT / "docs" / "python.md")
    assert len(parts) >= 10
    assert [needs for needs, _ in parts if needs] == ["lightning"]
    done = run([code for needs, code in parts if not needs], "docs/python.md")
    session = done["windows"].sessions[0]
    assert done["windows"].score(done["model"])[session]["decode:cursor_vel"]["r2_variance_weighted"] > 0.2
    assert done["ready"].score() == done["run"].result["test"]  # a loop of one's own, to the last bit
    assert len(NOTEBOOKS) == 2
    for notebook in NOTEBOOKS:
        run(cells(notebook), notebook.name)


@pytest.mark.oracle
def test_the_page_runs_with_lightning_too(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    wanted = [code for _, code in blocks(ROOT / "docs" / "python.md") if "Reader" in code or "ws.simulate" in code]
    done = run(["import logging", *wanted[:1], "ws.tokenize('binned')", *wanted[1:]], "docs/python.md")
    scores = done["data"].dataset.score(done["decoder"].reader)
    assert all(-1 < score["decode:cursor_vel"]["r2_variance_weighted"] <= 1 for score in scores.values())


def test_notebooks_are_whole_and_hold_no_output():
    for notebook in NOTEBOOKS:
        body = json.loads(notebook.read_text(encoding="utf-8"))
        assert body["nbformat"] == 4
        assert len({cell["id"] for cell in body["cells"]}) == len(body["cells"])
        assert not any(cell.get("outputs") for cell in body["cells"])
