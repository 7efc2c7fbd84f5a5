"""``python -m tests.references FOLDER``: one line a golden file, and exit 1 if one fails or none has a replay."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.references.harness import check, prefix_of


def main(folder: Path) -> int:
    """The exit code.

    Args:
        folder: golden files, at any depth.
    """
    files = sorted(folder.rglob("*.npz"))
    replayed = failed = 0
    for file in files:
        if prefix_of(file.stem) is None:
            print(f"SKIP {file.stem} no replay for it", flush=True)
            continue
        result = check(file)
        print(result, flush=True)
        replayed += 1
        failed += not result.passed
    skipped = len(files) - replayed
    print(f"{replayed - failed} passed, {failed} failed, {skipped} skipped in {folder}")
    return 1 if failed or not replayed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.references FOLDER")
    sys.exit(main(Path(sys.argv[1])))
