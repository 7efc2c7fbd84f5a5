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
    test: Annotated[
        str | None,
        typer.Option(
            "--test",
            metavar="GLOB",
            help="Sessions whose units are tested, fitted on those of the others.",
            show_default="not trained on",
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="bwb: read regions as BrainWideBench does (its suite TS3).")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="With --suite: the folder to write its files of regions in.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Of these files, the model's name.", show_default="the run's name")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of --predictions that stand there.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The npz file.", show_default="RUN/vectors.npz")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write a vector for each unit, by a run of the task embed or as a model keeps it; with --probe, what they tell."""
    require("torch", "train", "embedding")
    import numpy as np

    from spiketok.evaluation.bwb_export import build_of
    from spiketok.evaluation.embedding import (
        Compared,
        first_training_time,
        keeps_units,
        kept_vectors,
        matches,
        probes,
        require_column,
        unit_vectors,
        untrained,
        write_vectors,
    )
    from spiketok.evaluation.region_probe import (
        REGION_COLUMN,
        probe_regions,
        rows_of,
        with_isi,
        write_region_files,
    )
    from spiketok.storage.store import read_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, find_run, opened_shards, trained_recordings, twins_among

    workspace = indexed(root)
    if suite not in (None, "bwb"):
        message = f"--suite {suite}: the regions of units are read as bwb reads them"
        raise UsageError(message)
    if suite is None and (predictions is not None or label is not None):
        message = "--predictions and --label are of --suite bwb: name it"
        raise UsageError(message)
    loaded = load_run(find_run(workspace, run))
    if predictions is not None and not overwrite:
        _refuse_written(predictions, label or loaded.path.name, loaded.config.seed)
    kept = keeps_units(loaded)
    if kept and calibration_s is not None:
        message = (
            f"--calibration-s {calibration_s:g}: {loaded.path.name} is of {loaded.model.name}, which keeps its vectors "
            "of units, they are of all its training: leave it out"
        )
        raise UsageError(message)
    path = out or loaded.path / "vectors.npz"
    if path.suffix != ".npz":
        message = f"--out {path.name}: vectors are written as npz, give a name that ends in .npz"
        raise UsageError(message)
    chosen = workspace.select(sessions)
    making = say if tokenize else None
    tokens, unfit = opened_shards(workspace, chosen, loaded.config, named=sessions is not None, made=making)
    for why in unfit.values():
        say(f"left out: {why}")
    regions = None if suite is None else (probe or [REGION_COLUMN])[0]
    columns = [*(probe or []), *([match] if match else []), *([regions] if regions else [])]
    tested = None if test is None else workspace.select(test)
    trained = {one.id for one in loaded.trained_on}
    others = [of.info.id for of in tokens if of.info.id not in trained] if columns else []
    why = "which the run was trained on: its units are none that the model never saw"
    twins = {session: f"{fact}, {why}" for session, fact in trained_recordings(workspace, loaded, others).items()}
    why = "whose units are asked too: they would be fitted and tested, or found again, as themselves"
    more = twins_among(workspace, [session for session in others if session not in twins])
    twins |= {session: f"{fact}, {why}" for session, fact in more.items()}
    for session, fact in twins.items():
        line = f"{session} {fact}"
        if sessions is not None or session in (tested or ()) or len(tokens) == 1:
            message = f"{line}; leave it out"
            raise UsageError(message)
        say(f"left out: {line}")
        tokens = [of for of in tokens if of.info.id != session]
    for column in columns:
        require_column([of.info for of in tokens], column)
    device = device_of(loaded.config)
    with hold(path, "the vectors"):
        found, unfit = [], {}
        for of in tokens:
            try:
                if kept:
                    found.append(kept_vectors(loaded, of.info, of.observed))
                    continue
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
    probed, matched, read = [], [], []
    if columns:
        drawn = untrained(loaded)
        if kept:
            drawn.model.add_sessions([of.info for of in tokens])
        stored = [read_session(workspace.store_path(of.info.id)) for of in tokens]
        compared = []
        for own, of, session in zip(found, tokens, stored, strict=True):
            other = kept_vectors(drawn, of.info, own.time) if kept else unit_vectors(drawn, of, device, own.time)
            compared.append(Compared.of(own, other, session))
        probed = [row for column in probe or [] for row in probes(compared, column, tested)]
        matched = matches(compared, match) if match else []
    if regions:
        judged = [of.info.id for of in compared if (not of.trained if tested is None else of.info.id in tested)]
        times = None if calibration_s is None else [own.time for own in found]
        told = probe_regions(with_isi(compared, stored, times), stored, judged, regions)
        read = rows_of(told)
        for region in told["vector"].lacking:
            say(f"no unit of the sessions that are fitted on lies in {region}: its probability is 0")
        if predictions is not None:
            about = build_of([of for of in stored if of.id in set(judged)])
            written = write_region_files(
                predictions, label or loaded.path.name, loaded.config.seed, about, told["vector"]
            )
            for file in written:
                say(f"predictions {file}")
    n_seen = sum(int(np.isfinite(of.vector).all(1).sum()) for of in found)
    n_units = sum(of.info.n_units for of in found)
    if as_json:
        counted = {"file": str(path), "sessions": len(found), "units": n_units, "with_vector": n_seen}
        show_json(counted | {"probes": probed, "matches": matched} | ({"regions": read} if regions else {}))
        return
    if probed:
        show_rows("macro-F1 of units, from vectors and from what is beside them", list(probed[0]), probed)
    if read:
        show_rows("macro-F1 of the ten regions, as BrainWideBench scores them", list(read[0]), read)
    if matched:
        show_rows("units found again among those of another day", list(matched[0]), matched)
    met = {of.info.subject for of in found if of.trained}
    again = [of.info.id for of in found if not of.trained and of.info.subject in met]
    if probe and again:
        say(f"{len(again)} of the sessions that were not trained on are of subjects that were: units may be the same")
    say(f"{n_seen} of {n_units} units of {len(found)} sessions have a vector")
    print(f"vectors {path}")


def _refuse_written(folder: Path, label: str, seed: int) -> None:
    """Refuse to write files of predictions over those that stand there, before anything is computed."""
    own = (f"{label}_linear_single", f"{label}_linear_multi")
    found = next((p for p in sorted(folder.rglob(f"seed_{seed}.safetensors")) if set(own) & set(p.parts)), None)
    if found is not None:
        message = f"{found} stands there already: --overwrite replaces it, --label NAME writes beside it"
        raise UsageError(message)
