"""Run hostile cases through the commands, and print how many are met.

python -m tests.robustness --json after.json
python -m tests.robustness fuzz kills --package ../release --json before.json
python -m tests.robustness --table before.json after.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.robustness import LOCKING, REPOSITORY, Case, Cli


def kinds() -> list[str]:
    return sorted(m.name for m in iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_"))


def judge(case: Case, package: Path) -> tuple[str, float, int]:
    """Why it was not met (empty: it was), and the most seconds and bytes that one of its commands took."""
    cli, why = Cli(package), ""
    with tempfile.TemporaryDirectory(prefix="spiketok-robust-") as folder:
        try:
            case.run(cli, Path(folder))
        except AssertionError as error:
            why = str(error) or traceback.format_exc(limit=-1)
        except Exception:  # noqa: BLE001 - a case that fails in an unforeseen way is not met, and the others run on
            why = traceback.format_exc(limit=-3)
    seconds = max((one.seconds for one in cli.ran), default=0.0)
    return why, seconds, max((one.peak_bytes for one in cli.ran), default=0)


def run_kind(kind: str, package: Path, count: int | None, jobs: int, only: str) -> dict[str, object]:
    cases = import_module(f"tests.robustness.{kind}").cases(count)
    cases = [case for case in cases if only in case.name]
    begun, missed, seconds, peak = time.monotonic(), {}, 0.0, 0
    with ThreadPoolExecutor(jobs) as pool:
        for case, (why, longest, most) in zip(cases, pool.map(lambda c: judge(c, package), cases), strict=True):
            seconds, peak = max(seconds, longest), max(peak, most)
            if why:
                missed[case.name] = why
                print(f"NOT MET {kind}: {case.name}: {why}", file=sys.stderr, flush=True)
    took = time.monotonic() - begun
    return {"met": len(cases) - len(missed), "tried": len(cases), "seconds": seconds, "peak_bytes": peak,
            "took_s": took, "missed": missed}  # fmt: skip


def table(before: dict, after: dict) -> str:
    lines = ["| kind | before | after | longest command | most memory |", "|---|---|---|---|---|"]
    for kind, now in after.items():
        was = before.get(kind)
        old = f"{was['met']} of {was['tried']}" if was else "not run"
        bounds = f"{now['seconds']:.0f} s | {now['peak_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {kind.replace('_', ' ')} | {old} | {now['met']} of {now['tried']} | {bounds} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {', '.join(kinds())}; all if left out")
    parser.add_argument("--package", type=Path, default=REPOSITORY, help="the checkout whose commands run")
    parser.add_argument("--count", type=int, help="fewer cases of the kinds that draw theirs from a seed")
    parser.add_argument("--only", default="", help="cases with these letters in their name")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results here, beside those of other kinds")
    parser.add_argument("--table", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="print two such files as one")
    asked = parser.parse_args()
    if asked.table:
        print(table(*(json.loads(file.read_text()) for file in asked.table)))
        return 0
    os.environ[LOCKING] = "FALSE"  # before h5py comes: a command that another thread starts would hold a file's lock on
    results = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    for kind in asked.kinds or kinds():
        results[kind] = run_kind(kind, asked.package.resolve(), asked.count, asked.jobs, asked.only)
        print(f"{kind}: {results[kind]['met']} of {results[kind]['tried']}", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(results, indent=1))
    print(table({}, results))
    return int(any(one["missed"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
