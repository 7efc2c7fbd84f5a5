"""The layers of docs/architecture.md, walked by their imports; and what must not be imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "spiketok"
ROWS = [
    ["errors", "recording"],
    [
        "divisions",
        "files",
        "isolation",
        "jobs",
        "leakage",
        "metrics",
        "processing",
        "quality",
        "remote",
        "splits",
        "steps",
        "units",
        "workspace",
    ],
    ["store", "reading", "schemes"],
    ["shards", "datasets", "verify"],
    ["ingestion", "stages", "export", "streamed", "streaming", "sampling", "batches", "masking", "losses", "nn"],
    ["models"],
    ["config", "optimizers"],
    ["checkpoints", "decoding"],
    ["training", "runs"],
    ["transfer", "report", "token_plots", "plots", "timelines", "compare", "inspection", "doctor", "demo"],
    ["provenance", "citations"],
    ["console", "options"],
    ["data_commands", "fetch_commands", "split_commands", "token_commands", "provenance_commands", "cli", "__main__"],
]
ROW = {name: k for k, row in enumerate(ROWS) for name in row}
TORCH_ALLOWED = {
    "batches",
    "masking",
    "losses",
    "nn",
    "models",
    "training",
    "transfer",
    "optimizers",
    "checkpoints",
    "decoding",
    "runs",
}
SHARED_IN_LEAVES = {"base", "behaviour", "bins", "kernels", "merge", "nwb", "offline", "selection", "web", "__init__"}
HEAVY = ("torch", "numba", "pynwb", "dandi", "spikeinterface", "numpy", "zarr", "fsspec")


def modules() -> dict[str, ast.Module]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): ast.parse(p.read_text()) for p in paths}


def imports(tree: ast.Module) -> list[str]:
    """Every module that is imported anywhere in a file; ``from spiketok import x`` counts as ``spiketok.x``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += names if node.module == "spiketok" else [node.module, *names]
    return found


@pytest.mark.parametrize(("name", "tree"), modules().items())
def test_no_module_imports_a_row_below_it(name, tree):
    top, _, leaf = name.partition(".")
    if top == "__init__":
        return
    assert top in ROW, f"{top} has no row: give it one here and in docs/architecture.md"
    for target in imports(tree):
        parts = target.split(".")
        if parts[0] != "spiketok" or len(parts) < 2 or parts[1] not in ROW:
            continue
        assert ROW[parts[1]] <= ROW[top], f"{name} imports {target}, a row below it"
        own = leaf.split(".")[0]
        if parts[1] == top and len(parts) > 2 and own and own not in SHARED_IN_LEAVES:
            leaves = {p.stem for p in (PACKAGE / top).iterdir()} - SHARED_IN_LEAVES - {own}
            assert parts[2] not in leaves, f"leaf {name} imports leaf {target}"


@pytest.mark.parametrize(("name", "tree"), modules().items())
def test_no_torch_in_the_data_half(name, tree):
    if name.partition(".")[0] not in TORCH_ALLOWED:
        used = [t for t in imports(tree) if t.split(".")[0] in ("torch", "lightning_fabric", "torchmetrics")]
        assert not used or name in ("cli", "demo", "doctor"), f"{name} imports {used}"


@pytest.mark.parametrize(
    "command", [["-c", "import spiketok"], ["-m", "spiketok", "--help"], ["-c", "import spiketok.cli"]]
)
def test_start_imports_nothing_heavy(command):
    code = "import sys, runpy; sys.argv = sys.argv[1:]\n"
    code += "try:\n    "
    code += f"{command[1]}" if command[0] == "-c" else "runpy.run_module('spiketok', run_name='__main__')"
    code += f"\nexcept SystemExit: pass\nprint('heavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    argv = [sys.executable, "-c", code, *([] if command[0] == "-c" else ["spiketok", *command[2:]])]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("heavy: []"), done.stdout[-300:]
