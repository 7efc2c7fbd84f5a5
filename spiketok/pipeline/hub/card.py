"""The page of a place that was pushed to: ``README.md`` with a YAML front matter, as Hugging Face reads it.

All of it follows from the manifest, so the same items give the same card. What stands below the line that says so was
written by people, and stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from spiketok.pipeline.citations import NOT_STATED, Citation, merge_citations, to_bibtex
from spiketok.storage.files import human_bytes
from spiketok.storage.pushed import PUSHED, files_of

KEPT = "<!-- written by spiketok push: what stands below this line is yours and stays -->"
# of https://huggingface.co/docs/hub/repositories-licenses, those that recordings have
LICENSES = {
    "cc-by-4.0": "cc-by-4.0", "cc by 4.0": "cc-by-4.0", "cc0-1.0": "cc0-1.0", "cc0": "cc0-1.0", "cc0 1.0": "cc0-1.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0", "cc-by-sa-4.0": "cc-by-sa-4.0", "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "mit": "mit", "apache-2.0": "apache-2.0", "odbl-1.0": "odbl", "cc-by-3.0": "cc-by-3.0",
}  # fmt: skip
LONGEST = 200  # rows of a table


def card_text(manifest: Mapping, name: str, kind: str, before: str = "") -> str:
    """The card of a place.

    Args:
        manifest: of the place. name: as it is typed. kind: ``"model"``, ``"dataset"``, or empty: as the items are.
        before: the card that is there now.
    """
    items = manifest["items"]
    runs = _of(items, "run")
    kind = kind or ("model" if runs else "dataset")
    cited = merge_citations(
        Citation(**{**one, "used_by": tuple(one["used_by"])}) for item in items.values() for one in item["cite"]
    )
    lines = ["---", *_yaml(_front(items, kind, name, cited)), "---", "", f"# {_title(name)}", ""]
    lines += _summary(items, name)
    lines += _runs(runs)
    lines += _sessions(_of(items, "session"))
    lines += _shards(_of(items, "shard"))
    lines += _citations(cited)
    lines += [
        "## Digests", "",
        f"`{PUSHED}` names the sha256 of every file; its own digest is `{manifest['digest']}`. `spiketok pull` walks "
        "the chain of digests before anything is seen in the workspace; `spiketok verify` walks it again. Weights are "
        "in safetensors; nothing here is a pickle.", "", KEPT,
    ]  # fmt: skip
    return "\n".join(lines) + "\n" + _kept(before)


def _kept(before: str) -> str:
    """What people wrote into the card that is there."""
    if KEPT in before:
        return before.partition(KEPT)[2].lstrip("\n")
    if before.startswith("---\n") and "\n---\n" in before[4:]:
        return before[4:].partition("\n---\n")[2].lstrip("\n")
    return before


def _of(items: Mapping[str, Mapping], kind: str) -> list[Mapping]:
    return [{**item["about"], "place": path, "left_out": item["left_out"]} for path, item in sorted(items.items())
            if item["kind"] == kind]  # fmt: skip


def _title(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]


def _front(items: Mapping[str, Mapping], kind: str, name: str, cited: Sequence[Citation]) -> dict[str, object]:
    license_id, stated = license_of(cited)
    front: dict[str, object] = {"license": license_id}
    if license_id == "other":
        front["license_name"] = "several" if len(stated) > 1 else stated[0]
    schemes = sorted(
        {one["scheme"] for one in _of(items, "shard")} | {s for r in _of(items, "run") for s in r["schemes"]}
    )
    tags = ["spiketok", "neuroscience", "electrophysiology", "neural-decoding", *schemes]
    if kind == "dataset":
        return front | {"pretty_name": _title(name), "tags": tags}
    runs = _of(items, "run")
    front |= {"library_name": "spiketok", "tags": [*tags, *sorted({run["model"] for run in runs})]}
    index = [{"name": run["run"], "results": results} for run in runs if (results := list(_results(run)))]
    return front | ({"model-index": index} if index else {})


def license_of(cited: Sequence[Citation]) -> tuple[str, list[str]]:
    """The licence of what data are cited, as Hugging Face calls it, and what was stated.

    ``"unknown"`` where one of them states none, ``"other"`` where there are several or one that has no name there.
    """
    stated = [one.license for one in cited if one.kind == "data"]
    if not stated or not all(stated):
        return "unknown", sorted(set(filter(None, stated)))
    names = sorted(set(stated))
    known = LICENSES.get(names[0].lower().removeprefix("spdx:").strip())
    return (known, names) if len(names) == 1 and known else ("other", names)


def _results(run: Mapping) -> Iterator[dict[str, object]]:
    """The scores of a run in the form of a model index: of its test time, and of the reports on unseen sessions."""
    data = {"name": ", ".join(sorted({s.split("/")[0] for s in run["sessions"]})), "type": "spiketok"}
    for task, scores in run["scores"].items():
        metrics = [{"type": name, "name": f"{task}: {name}", "value": value} for name, value in scores.items()]
        if metrics:
            yield {"task": {"type": "neural-decoding", "name": f"{task}, test time of its own sessions"},
                   "dataset": data, "metrics": metrics}  # fmt: skip
    for report in run["reports"].values():
        for task, rows in report["summary"].items():
            for row, scores in rows.items():
                metrics = [{"type": name, "name": f"{task}: {name}", "value": value} for name, value in scores.items()
                           if value is not None and name == run["headline"].get(task, name)]  # fmt: skip
                if metrics:
                    unseen = f"{task}, unseen sessions, {row}, {report['calibration_s']:g} s of calibration"
                    yield {"task": {"type": "neural-decoding", "name": unseen}, "dataset": data, "metrics": metrics}


# ---- the body -------------------------------------------------------------------------------------------------------


def _summary(items: Mapping[str, Mapping], name: str) -> list[str]:
    counts = {word: len(_of(items, word)) for word in ("run", "session", "shard")}
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for word, n in counts.items() if n)
    size = human_bytes(sum(nbytes for _, _, nbytes in files_of(items)))
    lines = [f"{told} of [spiketok](https://pypi.org/project/spiketok/), {size}.", "", "```"]
    lines += ["pip install 'spiketok[hub]'", f"spiketok pull {name}"]
    runs = _of(items, "run")
    lines += [f"spiketok verify {runs[0]['run']}", f"spiketok eval-xsession {runs[0]['run']}"] if runs else []
    lines += [] if runs else ["spiketok verify --quick"]
    return [*lines, "```", ""]


def _runs(runs: Sequence[Mapping]) -> list[str]:
    lines: list[str] = []
    for run in runs:
        lines += [f"## {run['run']}", ""]
        lines += _table(["what", ""], [
            ["model", f"{run['model']}, size {run['size']}"],
            ["asked", ", ".join(run["tasks"])],
            ["reads", f"{', '.join(run['schemes'])}; windows of {run['window_ms']:g} ms, bins of {run['bin_ms']:g} ms"],
            ["trained", f"{run['step']} of {run['total_steps']} steps, seed {run['seed']}"],
            ["sessions", _listed(run["sessions"])],
            ["left out", ", ".join(run["left_out"]) or "nothing"],
            ["checkpoint digest", f"`{run['digest']}`"],
        ])  # fmt: skip
        rows = [
            [task, metric, f"{value:.4f}"] for task, scores in run["scores"].items() for metric, value in scores.items()
        ]
        if rows:
            lines += ["Scores on the test time of the sessions that it was trained on:", ""]
            lines += _table(["task", "metric", "mean"], rows)
        for name, report in run["reports"].items():
            rows = [[task, row, metric, f"{value:.4f}"]
                    for task, by_row in report["summary"].items() for row, scores in by_row.items()
                    for metric, value in scores.items() if value is not None]  # fmt: skip
            seconds = f"{report['calibration_s']:g} s of calibration"
            lines += [f"Scores on sessions that it never saw (`{name}`, {len(report['sessions'])} of them, {seconds}):"]
            lines += ["", *_table(["task", "row", "metric", "mean"], rows)]
    return lines


def _sessions(sessions: Sequence[Mapping]) -> list[str]:
    if not sessions:
        return []
    rows = [[s["session"], s["subject"] or "-", s["units"], s["spikes"], f"{s['seconds']:.1f}",
             ", ".join(s["signals"]) or "-", f"`{s['digest'][:12]}`"] for s in sessions]  # fmt: skip
    return [
        "## Sessions",
        "",
        *_table(["session", "subject", "units", "spikes", "seconds", "behaviours", "digest"], rows),
    ]


def _shards(shards: Sequence[Mapping]) -> list[str]:
    if not shards:
        return []
    rows = [[s["session"], s["scheme"], f"`{json.dumps(s['config'])}`", s["segments"], s["spikes"],
             f"`{s['digest'][:12]}`"] for s in shards]  # fmt: skip
    return ["## Token shards", "", *_table(["session", "scheme", "fields", "segments", "spikes", "digest"], rows)]


def _citations(cited: Sequence[Citation]) -> list[str]:
    if not cited:
        return []
    lines = ["## Citation", ""]
    for one in cited:
        facts = [f"licence: {one.license or NOT_STATED}"] * (one.kind == "data")
        facts += [f"doi: {one.doi}"] * bool(one.doi) + [f"version {one.version}"] * bool(one.version)
        text = one.text if one.text and one.text != one.name else ""
        lines.append(f"- {one.kind}: {_plain(one.name)}" + f": {_plain(text)}" * bool(text)
                     + f" ({'; '.join(facts)})" * bool(facts))  # fmt: skip
    return [*lines, "", "```bibtex", *to_bibtex(cited), "```", ""]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_plain(str(cell)) for cell in row) + " |" for row in rows[:LONGEST]]
    return [*lines, *([f"\nand {len(rows) - LONGEST} more"] if len(rows) > LONGEST else []), ""]


def _plain(text: str) -> str:
    """What a file says, in a line of Markdown that it cannot leave."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("```", "'''")


def _yaml(value: object, depth: int = 0) -> Iterator[str]:
    """YAML of mappings, lists and plain values; texts are in quotes, as JSON has them."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, one in value.items():
            if isinstance(one, Mapping | list) and one:
                yield f"{pad}{key}:"
                yield from _yaml(one, depth + isinstance(one, Mapping))
            else:
                yield f"{pad}{key}: {json.dumps(one, ensure_ascii=False)}"
        return
    for one in value:
        if isinstance(one, Mapping):
            first, *others = _yaml(one, depth + 1)
            yield f"{pad}- {first.lstrip()}"
            yield from others
        else:
            yield f"{pad}- {json.dumps(one, ensure_ascii=False)}"
