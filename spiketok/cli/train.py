"""The commands ``train``, ``models``, ``ensemble`` and ``eval-xsession``."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.choose import chosen_in
from spiketok.cli.console import progress, say, show_json, show_rows
from spiketok.cli.hub import Shards, ShardsCap, shards_at
from spiketok.cli.options import Json, Root, Sessions, hidden_package, hold, indexed, package_of, part_of, print_rows
from spiketok.cli.print_config import PrintConfig, config_place, show_config, show_transfer
from spiketok.cli.sweep import variants
from spiketok.cli.training import How, plain_scores, require_apart, tell_one, train_one, train_several
from spiketok.errors import SpiketokError, UsageError, require, the_one
from spiketok.storage.records import seal_predictions
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.evaluation.results import TransferResult


def train(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="'spiketok models' lists them.", show_default="by the shards that are there"
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="KIND[:NAME]", help="What is asked, as decode:hand_vel or population; repeat."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="TOML file, or a run whose settings are taken."),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as optim.steps=500.")
    ] = None,
    sessions: Sessions = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            "--hold-out",
            metavar="GLOB",
            help="Leave these sessions out, for eval-xsession; none leaves out none.",
            show_default="the last session of each subject that has several",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="Start from the weights of a run, its folder or name."),
    ] = None,
    latents: Annotated[
        str | None,
        typer.Option("--latents", metavar="RUN", help="Learn the latents of a run of ldns, as --task decode:latents."),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", readable=False, help="Vectors of the units that the model reads, of spiketok embed."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="N[,N...]", help="A run for each seed; mean and SEM over them at the end."),
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="KEY=A,B,C", help="A run for each value; of several keys the product."),
    ] = None,
    part_words: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Of these runs the I-th of N parts, as of a job array."),
    ] = None,
    trackers: Annotated[
        str | None,
        typer.Option("--log", metavar="TRACKER[,...]", help="tensorboard, csv, wandb, mlflow or trackio too."),
    ] = None,
    tokenize: Annotated[bool, typer.Option("--tokenize", help="Make the shards that are missing.")] = False,
    save_predictions: Annotated[
        bool, typer.Option("--save-predictions", help="Write the test predictions into the run's folder.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Insist on going on with an interrupted run.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever an earlier run reached.")] = False,
    print_config: PrintConfig = False,
    shards: Shards = None,
    shards_cap: ShardsCap = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Train a model on the shards of the chosen sessions; the same command goes on with an interrupted run."""
    if resume and restart:
        message = "--resume and --restart exclude each other"
        raise UsageError(message)
    several = variants(seeds, sweeps or [], sets or [])
    divided = part_of(part_words)
    if divided is not None and len(several) < 2:
        message = f"--part {part_words} divides the runs of --seeds and --sweep: give one of them"
        raise UsageError(message)
    require("torch", "train", "training")
    from spiketok.training.requests import asked_training
    from spiketok.training.trackers import tracker_names

    shards_at(shards, shards_cap)
    logged = tracker_names(trackers)
    workspace = indexed(root)
    config = config_place(workspace, config)
    words = [word.strip() for text in tasks or [] for word in text.split(",") if word.strip()]
    asked = asked_training(
        workspace,
        model,
        path=config,
        sets=sets or [],
        tasks=words,
        sessions=sessions,
        listed=chosen_in(workspace, sessions) if sessions is not None and sessions.startswith("@") else [],
        hold_out=hold_out,
        base=base,
        latents=latents,
        vectors=vectors,
        swept=several[0].sets,
        told=say,
    )
    resolved = [asked.configured(*variant.sets) for variant in several]  # all of them before the first one trains
    require_apart(several, resolved)
    if print_config:
        if len(several) > 1:
            message = "--print-config shows one run: leave out --seeds and --sweep"
            raise UsageError(message)
        show_config(resolved[0], config, [*asked.sets, *several[0].sets], words, as_json)
        return
    how = How(
        asked=asked,
        tokenize=tokenize,
        save_predictions=save_predictions,
        resume="must" if resume else "never" if restart else "auto",
        trackers=logged,
    )
    if len(several) > 1:
        chosen = list(zip(several, resolved, strict=True))
        if divided is not None:
            chosen = chosen[divided[0] - 1 :: divided[1]]
        train_several(workspace, chosen, how, part_words, as_json)
        return
    done = train_one(workspace, resolved[0], how)
    if done is not None:
        tell_one(done, as_json)


def models(
    name: Annotated[str | None, typer.Argument(help="Show everything about one model.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="Whose defaults are shown.")] = None,
    as_json: Json = False,
) -> None:
    """List the models: what they read, answer and transfer; one with sizes, settings, origin and differences."""
    require("torch", "train", "the models")
    import inspect as code

    from spiketok.models import MODELS
    from spiketok.settings import typed
    from spiketok.training.config import default_size, explain, load_config, model_class
    from spiketok.training.plugged import kinds_served, usable_models
    from spiketok.training.runs import run_inputs, scheme_of

    told, name = [], None if name is None else the_one("model", name, MODELS)
    for each in usable_models() if name is None else [name]:
        cls = model_class(each)
        chosen = load_config(each, None, [f"size={size}"] if size else [])
        inputs = {key: str(scheme_of(wanted)) + (" once a session" if wanted.per == "session" else "")
                  for key, wanted in run_inputs(chosen).items()}  # fmt: skip
        told.append(
            {
                "model": each,
                "reads": ", ".join(dict.fromkeys(wanted.scheme for wanted in run_inputs(chosen).values())),
                "answers": ", ".join(kinds_served(cls)),
                "asked by default": ", ".join(cls.default_tasks),
                "transfer": ", ".join(cls.protocols) or f"none ({_why_none(cls)})",
                "sizes": ", ".join(cls.sizes),
                "package": package_of(MODELS, each),
                "inputs": inputs,
                "settings": [setting._asdict() for setting in explain(each, size or default_size(each))],
            }
        )
    if name is None:
        if as_json:
            show_json(told)
            return
        print_rows("models", told, as_json=False, hidden=hidden_package(told))
        say("inputs, sizes, every setting and its default, origin: spiketok models NAME")
        return
    about = told[0] | _known_of(name, load_config(name, None, [f"size={size}"] if size else []))
    if as_json:
        show_json(about)
        return
    for label in ("model", "reads", "answers", "asked by default", "transfer", "sizes", "package"):
        print(f"{label:<18}{about[label]}")
    for key, scheme in about["inputs"].items():
        print(f"{'input ' + key:<18}{scheme}")
    print(f"{'from':<18}{about['source'] or 'no other code: it is described in its own module'}")
    print(f"{'checked against':<18}{about['checked'] or 'nothing of its origin'}")
    print()
    show_rows("transfer", ["protocol", "has it", "why not"], about["protocols"])
    print()
    print(f"parameters are counted for {about['counted for']}")
    show_rows("parameters", ["size", "parameters", "of the session"], about["parameters"])
    print()
    keys = [setting["key"] for setting in about["settings"]]
    shown = [
        setting | {"default": typed(setting["default"])}
        for setting in about["settings"]
        if setting["default"] is None or not any(key.startswith(f"{setting['key']}.") for key in keys)
    ]
    show_rows("settings, as --set takes them", ["key", "type", "default", "source"], shown)
    print()
    for described in reversed(model_class(name).Config.__mro__[:-1]):  # what it shares with others, then its own
        print(code.cleandoc(described.__doc__))
    if about["differs"]:
        print()
        print(about["differs"])


def _known_of(name: str, config: object) -> dict:
    """What ``spiketok models NAME`` tells beside the list: protocols, parameters of each size, origin, differences."""
    from spiketok.evaluation.adapted import rows_told
    from spiketok.training.config import model_class
    from spiketok.training.describe import TOY, origin_of, protocols_of, sizes_of

    source, differs = origin_of(name)
    rows = protocols_of(config)
    with suppress(SpiketokError):  # a model that cannot be built: the rows above say so
        rows |= rows_told(config)
    return {
        "source": source,
        "checked": model_class(name).checked,
        "protocols": [
            {"protocol": protocol, "has it": "no" if why else "yes", "why not": why} for protocol, why in rows.items()
        ],
        "counted for": TOY,
        "parameters": [
            {"size": size, "parameters": found.reason or found.total, "of the session": found.session}
            for size, found in sizes_of(name).items()
        ],
        "differs": differs,
    }


def _why_none(cls: type) -> str:
    return "it holds one session" if cls.one_session else "its refit is the floor"


def ensemble(
    runs: Annotated[list[str], typer.Argument(help="Runs' folders or names, of several seeds or models.")],
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Score the mean rates of several population runs; how many of the best take part is chosen on the valid time."""
    require("torch", "train", "evaluation")
    from dataclasses import asdict

    from spiketok.evaluation.ensemble import ensemble as combine
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, find_run, open_shards

    workspace = Workspace.locate(root)
    loaded = [load_run(find_run(workspace, name)) for name in runs]
    sessions = sorted({session for run in loaded for session in run.own})
    found = combine(loaded, open_shards(workspace, sessions, loaded[0].config), device_of(loaded[0].config))
    if as_json:
        show_json(asdict(found))
        return
    members = [asdict(member) for member in found.members]
    show_rows(f"{found.metric} of each run, the best on the valid time first", list(members[0]), members)
    rows = [{"session": session, **plain_scores(score)} for session, score in found.test.items()]
    taken = sum(member.taken for member in found.members)
    say(f"the mean rates of the first {taken} are best on the valid time: {found.metric} {found.valid:.4f} there")
    show_rows("their mean rates: scores on the test split", list(rows[0]), rows)


def eval_xsession(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's folder or name, or a model's name for its newest run.", show_default="the newest"),
    ] = None,
    sessions: Sessions = None,
    protocols: Annotated[
        str | None,
        typer.Option(
            "--protocols",
            help="Comma-separated: zero_shot, zero_gradient, identity_unlabelled, mapped_unlabelled, identity_only, "
            "full, profile, mapped, adapted, aligned_pca, aligned_cca, few_shot.",
            show_default="those that the model has, without the last three",
        ),
    ] = None,
    calibration_s: Annotated[
        str, typer.Option("--calibration-s", metavar="S[,S...]", help="Seconds to adapt on; several make a curve.")
    ] = "30",
    calibration: Annotated[
        str,
        typer.Option("--calibration", help="Where they lie in the training time: first, spread over it, random."),
    ] = "first",
    repeats: Annotated[int, typer.Option("--repeats", help="Draws of a spread or random calibration.")] = 1,
    within: Annotated[bool, typer.Option("--within", help="Allow sessions that the model was trained on.")] = False,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="transfer.KEY=VALUE", help="How the model adapts.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="TOML file, or a run, whose table transfer is taken."),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            "--vectors", readable=False, help="Other vectors of the units, by the same run.", show_default="the run's"
        ),
    ] = None,
    print_config: PrintConfig = False,
    tokenize: Annotated[bool, typer.Option("--tokenize", help="Make the shards that are missing.")] = False,
    save_predictions: Annotated[
        bool, typer.Option("--save-predictions", help="Write the test predictions beside the report.")
    ] = False,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="PROTOCOL", help="Write each session's adapted model of this row as a run."),
    ] = None,
    stress: Annotated[
        str | None,
        typer.Option(
            "--stress",
            metavar="[KIND[,KIND...]]",
            help="Score all rows under perturbed spikes too, beside what a cheat would get: units_lost, permuted, "
            "gain, rate_drift, time_shift; all without a kind.",
        ),
    ] = None,
    stress_calibration: Annotated[
        bool, typer.Option("--stress-calibration", help="Perturb the calibration too, and make each row again of it.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report.", show_default="RUN/xsession")
    ] = None,
    shards: Shards = None,
    shards_cap: ShardsCap = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure transfer to sessions that the model never saw, beside a linear decoder on the same calibration."""
    require("torch", "train", "evaluation")
    from spiketok.evaluation.calibration import check_draws
    from spiketok.evaluation.curve import write_curve
    from spiketok.evaluation.kept import write_kept
    from spiketok.evaluation.report import write_report
    from spiketok.evaluation.stress import stress_settings
    from spiketok.evaluation.transfer import evaluate_transfer
    from spiketok.storage.store import read_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.config import with_transfer
    from spiketok.training.predictions import write_predictions
    from spiketok.training.requests import without_unfit
    from spiketok.training.runs import device_of, find_run, open_shards, open_transfer_shards, with_vectors

    lengths = _lengths(calibration_s)
    check_draws(calibration, repeats)
    if keep is not None and len(lengths) > 1:
        message = f"--keep {keep} with {len(lengths)} lengths of calibration gives as many models a session: name one"
        raise UsageError(message)
    if stress_calibration and stress is None:
        message = "--stress-calibration says how --stress perturbs: add --stress"
        raise UsageError(message)
    asked = None if stress is None else stress_settings(stress, calibration=stress_calibration)
    shards_at(shards, shards_cap)
    workspace, kept = indexed(root), {}
    config = config_place(workspace, config)
    run_dir = find_run(workspace, run)
    if run is None:
        say(f"run {run_dir.name}, the newest (otherwise: spiketok eval-xsession RUN)")
    if print_config:
        show_transfer(with_transfer(load_run(run_dir).config, sets or [], config), config, sets or [], as_json)
        return
    folder = out or run_dir / "xsession"
    with hold(folder, "the report"):
        loaded = load_run(run_dir)
        if vectors is not None:
            loaded = with_vectors(workspace, loaded, vectors)
        opened, remarks, within = open_transfer_shards(
            workspace, loaded, sessions, within=within, told=say if tokenize else None
        )
        for line in remarks:
            say(f"note: {line}")
        names = [p.strip() for p in protocols.split(",") if p.strip()] if protocols is not None else None
        reports = {}
        for length_s in lengths:

            def evaluate(opened: list, length_s: float = length_s) -> TransferResult:
                with progress("eval-xsession", None, "cells") as advance:
                    return evaluate_transfer(
                        loaded,
                        opened,
                        protocols=names,
                        calibration_s=length_s,
                        calibration=calibration,
                        repeats=repeats,
                        within=within,
                        adapt=with_transfer(loaded.config, sets or [], config).transfer,
                        device=device_of(loaded.config),
                        stored=lambda session: read_session(workspace.store_path(session)),
                        trained=lambda chosen: open_shards(workspace, chosen, loaded.config),
                        on_event=lambda event: advance(1, str(event.get("cell", ""))),
                        keep=keep,
                        on_kept=lambda one: kept.update({one.session.id: write_kept(one, workspace.runs)}),
                        stress=asked,
                    )

            result = without_unfit(evaluate, opened, {}, named=sessions is not None, told=say)
            own = folder / f"{length_s:g}s" if len(lengths) > 1 else folder
            reports[own] = result, write_report(result, own)
            if save_predictions:
                answered = [cell for cell in result.cells if cell.answer is not None]
                for cell in answered:
                    part = f"{cell.protocol}-draw{cell.repeat + 1}" if cell.repeat else cell.protocol
                    write_predictions(own / "predictions" / part, cell.session, {cell.task: cell.answer})
                seal_predictions(own / "predictions", loaded.digest)
                say(f"{len(answered)} files of predictions in {own / 'predictions'}")
        curve = write_curve([result for result, _ in reports.values()], folder) if len(lengths) > 1 else None
    if as_json:
        told = curve.summary if curve else next(iter(reports.values()))[1].summary
        show_json(told if keep is None else told | {"kept": {session: str(path) for session, path in kept.items()}})
        return
    if curve:
        for title, columns, rows in curve.tables:
            show_rows(title, columns, rows)
        print(f"curve {folder / 'curve.html'}")
    for own, (_, report) in reports.items():
        if not curve:
            for title, columns, rows in report.tables:
                show_rows(title, columns, rows)
        for line in report.remarks:
            say(f"{own.name}: {line}" if curve else line)
        print(f"report {own / 'report.html'}")
    for session, path in kept.items():
        print(f"kept {path}")
        say(f"next: spiketok stream {session} --run {path.name}")
    if keep is not None and not kept:
        say(f"nothing was kept: no session has a score in the row {keep}")


def _lengths(text: str) -> list[float]:
    """Seconds of calibration, from words with commas between; each once, rising.

    Raises:
        UsageError: one is no number above 0.
    """
    found = set()
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            message = f"--calibration-s {text}: '{word.strip()}' must be a number of seconds above 0, as in 10,30,60"
            raise UsageError(message)
        found.add(value)
    return sorted(found)
