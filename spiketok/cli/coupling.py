"""The command ``coupling``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.options import Json, Root
from spiketok.errors import require
from spiketok.storage.workspace import Workspace


def coupling(
    run: Annotated[str, typer.Argument(help="A run's folder or name, or a model's name for its newest run.")],
    sessions: Annotated[
        str | None,
        typer.Argument(help="Only these sessions; comma-separated globs.", show_default="those trained on"),
    ] = None,
    how: Annotated[
        str | None, typer.Option("--how", help="removal or attention.", show_default="the model's best")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Of each session's test time.")] = 60.0,
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="So many of the strongest pairs are shown.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the files.", show_default="RUN/coupling")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write how much each unit depends on each other one, by a model that says it, as npz and picture.

    A simulated session with synapses is scored against their truth.
    """
    require("torch", "train", "reading the coupling")
    from spiketok.evaluation.coupling import against_truth, draw_coupling, strongest, write_coupling
    from spiketok.evaluation.coupling import coupling as coupling_of
    from spiketok.pipeline.ingest import recorded_paths
    from spiketok.sources.simulator import synapses_beside
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, find_run, open_shards

    workspace = Workspace.locate(root)
    run_dir = find_run(workspace, run)
    loaded = load_run(run_dir)
    chosen = workspace.select(sessions) if sessions is not None else loaded.own
    folder, files, strong, scores = out or run_dir / "coupling", [], [], []
    for tokens in open_shards(workspace, chosen, loaded.config):
        found = coupling_of(loaded, tokens, how, seconds=seconds, device=device_of(loaded.config))
        files.append(write_coupling(found, loaded, folder))
        truth = synapses_beside(recorded_paths(workspace, tokens.id))
        draw_coupling(found, files[-1].with_suffix(".png"), truth)
        strong += [{"session": tokens.id, **row} for row in strongest(found, pairs)]
        if truth is not None:
            scores.append({"session": tokens.id, "how": found.how, **against_truth(found, truth)})
        say(f"{tokens.id}: {len(found.matrix)} units, {found.seconds:g} s of test time, by {found.how}")
    if as_json:
        show_json({"run": str(run_dir), "files": [str(p) for p in files], "strongest": strong, "scores": scores})
        return
    if strong:
        show_rows("the strongest pairs", list(strong[0]), strong)
    if scores:
        show_rows("against the simulator's synapses", list(scores[0]), scores)
    print(f"{len(files)} sessions in {folder}")
