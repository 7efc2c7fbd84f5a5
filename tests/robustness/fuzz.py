"""Damaged bytes of good NWB files: ``ingest`` refuses one in a line that names it, or ``verify`` can read it, too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.fuzzing import damaged
from tests.nwb_files import write_plain, write_rich
from tests.robustness import Case, Cli

MANY = 500


def cases(count: int | None) -> list[Case]:
    return [Case(f"seed {seed}", partial(_run, seed)) for seed in range(count or MANY)]


def _run(seed: int, cli: Cli, folder: Path) -> None:
    good = (write_plain if seed % 2 else write_rich)(folder / "good.nwb")
    done, content = damaged(good.read_bytes(), seed)
    (folder / "bad.nwb").write_bytes(content)
    outcome = cli("ingest", "bad.nwb", "--dataset", "fuzz", root=folder).sane()
    if outcome.code:
        assert "bad.nwb" in outcome.text, f"{done}: the file is not named: {outcome}"
        return
    verified = cli("verify", root=folder).sane()
    assert verified.code == 0 or "fuzz/bad" in verified.text, f"{done}: the session is not named: {verified}"
