"""``compare --models``: the star table, measured."""

from __future__ import annotations

from pathlib import Path

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.options import hold, indexed
from spiketok.errors import require


def compare_models(
    root: Path | None,
    store: str | None,
    models: str,
    *,
    sessions: str | None,
    hold_out: str | None,
    task: str | None,
    sets: list[str],
    steps: int | None,
    seconds: float | None,
    seeds: int,
    measures: str | None,
    protocols: str | None,
    calibration_s: float,
    seed: int,
    plot: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure models or runs, print the table and its stars, write the page."""
    require("torch", "train", "comparing models")
    from spiketok.evaluation.star import compare_models as measure
    from spiketok.evaluation.star.page import write_page, write_picture
    from spiketok.evaluation.star.results import COST, WORTH, legend

    workspace = indexed(root, store)
    folder = out or workspace.root / "star"
    with hold(folder, "the star table"):
        table = measure(
            workspace,
            _words(models),
            folder,
            sessions=sessions,
            hold_out=hold_out,
            task=task,
            sets=sets,
            steps=steps,
            seconds=seconds,
            seeds=seeds,
            measures=_words(measures) if measures is not None else None,
            protocols=_words(protocols) if protocols is not None else None,
            calibration_s=calibration_s,
            seed=seed,
            told=say,
        )
        table.write_json(folder / "star.json")
        write_page(table, folder / "star.html")
        for path in filter(None, (folder / "star.png", plot)):
            write_picture(table, path)
    if as_json:
        show_json(table.to_json())
        return
    shown = (
        ("how well", table.rows(WORTH)),
        ("at what cost", table.rows(COST)),
        ("stars, 1 to 5", table.star_rows()),
    )
    for title, rows in shown:
        show_rows(title, list(rows[0]), rows)
    for line in (*legend(), *table.reasons()):
        say(line)
    print(f"page {folder / 'star.html'}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
