"""The command ``embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.options import Json, Root, hold, indexed
from spiketok.errors import DataError, UnfitError, UsageError, require


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
    match: Annotated[
        str | None,
        typer.Option("--match", metavar="COLUMN", help="Find units again on another day; the column says who is who."),
    ] = None,
    tokenize: Annotated[bool, typer.Option("--tokenize", help="Make the shards that are missing.")] = False,
    calibration_s: Annotated[
        float | None,
        typer.Option(
            "--calibration-s",
            min=0.001,
            help="Only of the first seconds of each session's training time: for 'train --vectors'.",
            show_default="of all observed time",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The npz file.", show_default="RUN/vectors.npz")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write the mean vector of each unit by a run of the task embed; with --probe or --match, what they tell."""
    require("torch", "train", "embedding")
    from spiketok.evaluation.embedding import (
        Compared,
        first_training_time,
        head_of_vectors,
        matches,
        probes,
        require_column,
        unit_vectors,
        untrained,
        write_vectors,
    )
    from spiketok.storage.store import read_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, find_run, opened_shards

    workspace = indexed(root)
    loaded = load_run(find_run(workspace, run))
    head_of_vectors(loaded)
    path = out or loaded.path / "vectors.npz"
    if path.suffix != ".npz":
        message = f"--out {path.name}: vectors are written as npz, give a name that ends in .npz"
        raise UsageError(message)
    chosen = workspace.select(sessions)
    making = say if tokenize else None
    tokens, unfit = opened_shards(workspace, chosen, loaded.config, named=sessions is not None, made=making)
    for why in unfit.values():
        say(f"left out: {why}")
    columns = [*(probe or []), *([match] if match else [])]
    for column in columns:
        require_column([of.info for of in tokens], column)
    device = device_of(loaded.config)
    with hold(path, "the vectors"):
        found, unfit = [], {}
        for of in tokens:
            try:
                time = None if calibration_s is None else first_training_time(loaded, of, calibration_s)
                found.append(unit_vectors(loaded, of, device, time))
            except DataError as error:
                unfit[of.info.id] = str(error)
        if unfit and (sessions is not None or not found):
            raise UnfitError(unfit)
        for why in unfit.values():
            say(f"left out: {why}")
        tokens = [of for of in tokens if of.info.id not in unfit]
        write_vectors(path, found, loaded)
    probed, matched = [], []
    if columns:
        drawn = untrained(loaded)
        compared = [
            Compared.of(own, unit_vectors(drawn, of, device, own.time), read_session(workspace.store_path(of.info.id)))
            for own, of in zip(found, tokens, strict=True)
        ]
        probed = [row for column in probe or [] for row in probes(compared, column)]
        matched = matches(compared, match) if match else []
    n_seen = sum(int((of.n_windows > 0).sum()) for of in found)
    n_units = sum(of.info.n_units for of in found)
    if as_json:
        counted = {"file": str(path), "sessions": len(found), "units": n_units, "with_vector": n_seen}
        show_json(counted | {"probes": probed, "matches": matched})
        return
    if probed:
        show_rows("macro-F1 of units, from vectors and from what is beside them", list(probed[0]), probed)
    if matched:
        show_rows("units found again among those of another day", list(matched[0]), matched)
    met = {of.info.subject for of in found if of.trained}
    again = [of.info.id for of in found if not of.trained and of.info.subject in met]
    if probe and again:
        say(f"{len(again)} of the sessions that were not trained on are of subjects that were: units may be the same")
    say(f"{n_seen} of {n_units} units of {len(found)} sessions have a vector")
    print(f"vectors {path}")
