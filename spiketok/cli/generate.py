"""The command ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.options import Json, Root, hold
from spiketok.errors import require
from spiketok.storage.workspace import Workspace


def generate(
    run: Annotated[str, typer.Argument(help="A run's folder or name, or a model's name for its newest run.")],
    sessions: Annotated[
        str | None,
        typer.Argument(help="Only these sessions; comma-separated globs.", show_default="those trained on"),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Of each session's test time.")] = 60.0,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same spikes.")] = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Divides the logits; 0 takes the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Draw from so many of the likeliest.", show_default="all")
    ] = None,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the likeliest with this share together.")] = 1.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the files.", show_default="RUN/generated")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Draw spikes from a model that can, and hold them against the recorded ones and a Poisson sample.

    Of a model with latents it also tells what a ridge reads of behaviour from them, beside the same ridge from counts.
    """
    require("torch", "train", "drawing spikes")
    from spiketok.evaluation.generation import generate as draw
    from spiketok.evaluation.generation import write_drawn
    from spiketok.evaluation.latents import read_latents
    from spiketok.models.batch import Generation
    from spiketok.storage.store import read_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, find_run, open_shards

    how = Generation(seed, temperature, top_k, top_p)
    workspace = Workspace.locate(root)
    run_dir = find_run(workspace, run)
    folder = out or run_dir / "generated"
    with hold(folder, "the drawn spikes"):
        loaded = load_run(run_dir)
        chosen = workspace.select(sessions) if sessions is not None else loaded.own
        tokens, device = open_shards(workspace, chosen, loaded.config), device_of(loaded.config)
        drawn = draw(
            loaded,
            tokens,
            how,
            seconds=seconds,
            stored=lambda session: read_session(workspace.store_path(session)),
            device=device,
            told=say,
        )
        files = [write_drawn(one, how, folder) for one in drawn]
    rows = [{"session": one.session, "spikes": name, **scores} for one in drawn for name, scores in one.scores.items()]
    read = [row for one in tokens for row in read_latents(loaded, one, device)] if loaded.model.has_latents else []
    if as_json:
        told = {"run": str(run_dir), "files": [str(path) for path in files], "scores": rows}
        show_json(told | ({"behaviour_r2": read} if read else {}))
        return
    show_rows("drawn and recorded spikes, held against the recorded test time", list(rows[0]), rows)
    if read:
        show_rows("R2 of behaviour in the test time, by a ridge from latents and from counts", list(read[0]), read)
    print(f"{len(files)} sessions in {folder}")
