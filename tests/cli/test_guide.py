"""Help in groups, examples that parse, and what a shell completes: equal to the registries, imports none."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer

from spiketok.cli import app, completion, groups, guide
from spiketok.cli.command import _with_kinds

ROOT = typer.main.get_command(app)


def commands() -> dict[str, object]:
    """Every command by its words, groups of commands too."""
    found = {}
    for name, command in ROOT.commands.items():
        found[name] = command
        found |= {f"{name} {word}": one for word, one in getattr(command, "commands", {}).items()}
    return found


@pytest.mark.parametrize("name", commands())
def test_a_command_stands_in_a_group_and_has_two_examples_that_parse(name):
    command = commands()[name]
    assert name.split()[0] in guide.GROUPS, f"give '{name}' a group in spiketok/cli/guide.py"
    examples = guide.EXAMPLES.get(name, ())
    assert len(examples) >= 2, f"give '{name}' two examples in spiketok/cli/guide.py"
    assert "Examples:" in command.epilog
    for example in examples:
        assert len(example) <= 76, f"longer than 80 columns of help show in one line: {example}"
        words = shlex.split(example)
        assert words[0] == "spiketok" and " ".join(words[1:]).startswith(name.split()[0])
        own = ROOT.commands[words[1]]
        with ROOT.make_context("spiketok", list(words[1:]), resilient_parsing=True) as parent:
            rest = words[2:]
            if hasattr(own, "commands") and rest and not rest[0].startswith("-"):
                own, rest = own.commands[rest[0]], rest[1:]
            if "--help" not in rest and (rest or not hasattr(own, "commands")):
                own.make_context(own.name, rest, parent=parent)


def test_every_group_of_options_names_options_that_there_are():
    there = {opt for command in commands().values() for option in command.params for opt in option.opts}
    assert set(guide.PANELS) - there <= {"--help"}


def test_names_that_a_shell_completes_are_those_of_the_registries():
    pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")
    from spiketok.evaluation.stress_kinds import KINDS
    from spiketok.models import MODELS
    from spiketok.sources.catalogue import DATASETS, nlb
    from spiketok.tokens.schemes import SCHEMES

    assert completion.model_names() == sorted(MODELS)
    assert completion.scheme_names() == sorted(SCHEMES)
    assert sorted(groups.DATASETS) == sorted(DATASETS)
    assert set(groups.GROUPS["nlb"]) == {one.name for one in nlb.ENTRIES}
    assert tuple(KINDS) == guide.STRESSES


def test_keys_that_a_shell_completes_are_those_of_the_configuration():
    pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")
    from dataclasses import fields

    from spiketok.models import MODELS
    from spiketok.tokens.schemes import SCHEMES
    from spiketok.training.config import _keys

    open_ended = {"data.unit_dropout", "data", "split", "optim", "transfer", "tasks", "start", "latents"}
    for model in MODELS:
        found = completion.set_keys("train", SimpleNamespace(params={"model": model}))
        known = [key for key, _ in _keys(model)]
        lacking = {key for key in known if key not in found} - open_ended
        assert not lacking, model
        assert {key for key in found if not key.startswith("task.")} <= set(known), model
    for name, scheme in SCHEMES.items():
        found = completion.set_keys("tokenize", SimpleNamespace(params={"scheme": name}))
        assert {key for key in found if "." not in key} == {f.name for f in fields(scheme)}


def test_completion_imports_nothing_heavy_and_answers(tmp_path):
    (tmp_path / "store" / "local" / "day1").mkdir(parents=True)
    run = tmp_path / "runs" / "poyo-abc"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    code = "import sys; from spiketok.cli import app\n"
    code += "sys.argv = ['spiketok']\ntry:\n    app()\nexcept SystemExit: pass\n"
    code += "print('heavy:', [m for m in ('torch', 'numba', 'numpy', 'h5py', 'zarr') if m in sys.modules])"

    def completed(words: str) -> str:
        environment = {"_SPIKETOK_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words, "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment | {"SPIKETOK_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert "heavy: []" in done.stdout, done.stdout + done.stderr
        return done.stdout

    assert "poyo_plus" in completed("spiketok train --model poyo_")
    assert "local/day1" in completed("spiketok tokenize --sessions lo")
    assert "poyo-abc" in completed("spiketok eval-xsession poyo-")
    assert "optim.steps=" in completed("spiketok train --set optim.st")
    assert "mc_maze_small" in completed("spiketok fetch mc_maze_s")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stress"], ["--stress=all"]),
        (["--stress", "--json"], ["--stress=all", "--json"]),
        (["--stress", "gain,permuted"], ["--stress", "gain,permuted"]),
        (["--stress", "poyo"], ["--stress=all", "poyo"]),  # a run of that name is there
        (["--stress", "gein", "poyo"], ["--stress", "gein", "poyo"]),  # a slip in a kind stays one
    ],
)
def test_a_run_behind_stress_is_no_kind(words, told, tmp_path, monkeypatch):
    (tmp_path / "runs" / "poyo-abc").mkdir(parents=True)
    monkeypatch.setenv("SPIKETOK_ROOT", str(tmp_path))
    assert _with_kinds(words) == told
    monkeypatch.setenv("SPIKETOK_ROOT", str(tmp_path / "other"))
    assert _with_kinds([*words, f"--root={tmp_path}"]) == [*told, f"--root={tmp_path}"]
    assert _with_kinds(["--root", str(tmp_path), *words])[2:] == told
