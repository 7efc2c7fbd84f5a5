"""The command ``embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.options import Json, Root, indexed
from spiketok.errors import require


def embed(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's folder or name, or a model's name for its newest run.", show_default="the newest"),
    ] = None,
    sessions: Annotated[str | None, typer.Argument(metavar="[GLOB]", help="Sessions.", show_default="all")] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option("--probe", metavar="COLUMN", help="Read a unit column from the vectors, as region; repeat."),
    ] = None,
    tokenize: Annotated[bool, typer.Option("--tokenize", help="Make the shards that are missing.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The npz file.", show_default="RUN/vectors.npz")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write the mean vector of each unit by a run of the task embed; with --probe, what can be read from them."""
    require("torch", "train", "embedding")
    from spiketok.evaluation.embedding import probes, spike_statistics, unit_vectors, write_vectors
    from spiketok.storage.store import read_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, find_run, make_shards, open_shards

    workspace = indexed(root)
    loaded = load_run(find_run(workspace, run))
    chosen = workspace.select(sessions)
    if tokenize:
        make_shards(workspace, chosen, loaded.config, say)
    device = device_of(loaded.config)
    found = [unit_vectors(loaded, tokens, device) for tokens in open_shards(workspace, chosen, loaded.config)]
    path = out or loaded.path / "vectors.npz"
    write_vectors(path, found, loaded)
    rows = []
    if probe:
        statistics = {of.info.id: spike_statistics(read_session(workspace.store_path(of.info.id))) for of in found}
        rows = [row for column in probe for row in probes(found, statistics, column)]
    n_seen = sum(int((of.n_windows > 0).sum()) for of in found)
    n_units = sum(of.info.n_units for of in found)
    if as_json:
        show_json({"file": str(path), "sessions": len(found), "units": n_units, "with_vector": n_seen, "probes": rows})
        return
    if rows:
        show_rows("macro-F1 of units, from vectors, rates and intervals between spikes", list(rows[0]), rows)
    say(f"{n_seen} of {n_units} units of {len(found)} sessions have a vector")
    print(f"vectors {path}")
