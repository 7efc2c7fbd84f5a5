"""The rooms of docs/architecture.md, walked by their imports; and what must not be imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "spiketok"
# A room imports rooms of rows above its own; rooms of one row do not know each other.
ROWS = [
    ["errors", "notes", "stopping"],
    ["settings", "compiled", "plugins"],
    ["recording"],
    ["storage", "models"],
    ["sources", "tokens"],
    ["pipeline"],
    ["training"],
    ["evaluation"],
    ["api", "testing"],
    ["cli"],
    ["__main__"],
]
ROW = {room: k for k, row in enumerate(ROWS) for room in row}
TORCH = {"models", "training", "evaluation", "api", "testing"}
# Leaves: one file or folder each of its kind, none of which imports another; beside them stands what they share.
LEAVES = {
    "tokens.schemes": {"base", "behaviour", "bins", "kernels"},
    "models": {
        "base",
        "batch",
        "binned",
        "dropout",
        "losses",
        "masking",
        "nn",
        "perceiver",
        "places",
        "vocabulary",
        "fine",
        "inferred",
        "stitched",
    },
    "sources.catalogue": {"base"},
    "pipeline.export": {"base"},
    "training.tasks": {"base"},
}
LONG = 600
HEAVY = ("torch", "numba", "pynwb", "dandi", "spikeinterface", "numpy", "zarr", "fsspec", "pydantic")
SHOWN = " / ".join(", ".join(row) for row in ROWS)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(p): ast.parse(p.read_text()) for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE}
MODULES |= {p.stem: ast.parse(p.read_text()) for p in sorted(PACKAGE.glob("*.py")) if p.stem != "__init__"}


def imports(tree: ast.Module) -> set[str]:
    """Every module that is imported anywhere in a file, and what is imported from it as if that were one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the module in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(tree: ast.Module) -> list[str]:
    """What a file imports of spiketok, without the first name."""
    return sorted(t.removeprefix("spiketok.") for t in imports(tree) if t.startswith("spiketok."))


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_rooms_of_the_rows_above_it(name):
    room = name.split(".")[0]
    assert room in ROW, f"{room} is no room: give it a row here and in docs/architecture.md ({SHOWN})"
    for target in inside(MODULES[name]):
        other = target.split(".")[0]
        if other == "__version__" or other == room:
            continue
        assert other in ROW, f"{name} imports {target}: {other} is no room ({SHOWN})"
        assert ROW[other] < ROW[room], f"{name} imports {target}, which is not in a row above {room}: {SHOWN}"


@pytest.mark.parametrize("package", LEAVES)
def test_a_leaf_imports_no_other_leaf(package):
    shared, own = LEAVES[package], [n for n in MODULES if n.startswith(f"{package}.")]
    leaves = {n.removeprefix(f"{package}.").split(".")[0] for n in own} - shared
    for name in own:
        leaf = name.removeprefix(f"{package}.").split(".")[0]
        for target in inside(MODULES[name]):
            other = target.removeprefix(f"{package}.").split(".")[0] if target.startswith(f"{package}.") else leaf
            of_one = other == leaf or other.startswith(f"{leaf}_")  # falcon and its falcon_tensors
            assert of_one or other not in leaves, f"in {package}, {name} imports {target}: a leaf imports no other leaf"


@pytest.mark.parametrize("name", MODULES)
def test_torch_is_imported_only_where_something_is_learned(name):
    used = [t for t in imports(MODULES[name]) if t.split(".")[0] in ("torch", "lightning_fabric", "torchmetrics")]
    allowed = name.split(".")[0] in TORCH or name == "cli.doctor"  # which tells of its devices
    assert allowed or not used, f"{name} imports {used}: torch only in {', '.join(sorted(TORCH))}"


def test_no_module_is_long():
    lines = {name_of(p): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    long = sorted(name for name, n in lines.items() if n > LONG)
    assert not long, f"over {LONG} lines, to be split by what they do: {long}"


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
