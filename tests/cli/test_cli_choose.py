"""The command ``choose`` as a user meets it, and the training that takes what it chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.cli.choose import chosen_in
from spiketok.errors import ArtefactError, ChangedError, UsageError
from spiketok.pipeline.inspect import describe_path
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.files import write_signed
from spiketok.storage.records import CHOICE
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import load_run
from tests.cli.test_cli import spiketok

SMALL = (
    "size=tiny",
    "model.dim=16",
    "model.layers=1",
    "optim.steps=12",
    "data.batch_size=16",
    "data.curriculum=listed",
)
SMALL += ("data.curriculum_epochs=1", "tasks=decode:cursor_vel")


class Held(Workspace):
    """A workspace whose store holds two sessions."""

    def session_ids(self) -> list[str]:
        return ["made/a", "made/b"]

    def attributes(self, session_id: str) -> dict[str, object]:
        return {"digest": {"made/a": "a" * 64, "made/b": "b" * 64}[session_id]}


def choice(**changes) -> dict[str, object]:
    of = {"rate_hz": 3.0, "own": 0.7, "transfer": {"made/c": 0.5}}
    one, other = (
        {"session": "made/b", "store_digest": "b" * 64} | of,
        {"session": "made/a", "store_digest": "a" * 64} | of,
    )
    facts = {"format": CHOICE, "version": 1, "written_by": "x", "task": "decode:v", "targets": {"made/c": "c" * 64}}
    return facts | {"calibration_s": 30.0, "sessions": [one, other], "chosen": ["made/b", "made/a"]} | changes


def test_a_choice_is_taken_as_it_was_written(tmp_path):
    path = tmp_path / "choices" / "c.json"
    path.parent.mkdir()
    write_signed(path, choice())
    assert chosen_in(Held(tmp_path), f"@{path}") == ["made/b", "made/a"]
    told = describe_path(path)
    assert (told.kind, told.facts["to help"], told.facts["chosen"]) == ("choice", "made/c", "2 of 2 sessions")
    assert told.tables["sessions, the best first"][0]["R2 in made/c"] == 0.5


def test_one_that_cannot_be_believed_is_refused(tmp_path):
    path, held = tmp_path / "c.json", Held(tmp_path)
    with pytest.raises(UsageError, match="there is no file .*c.json: spiketok choose writes one"):
        chosen_in(held, f"@{path}")
    written = write_signed(path, choice())
    path.write_text(json.dumps(written | {"chosen": ["made/a"]}))
    with pytest.raises(ChangedError, match="was changed since it was written"):
        chosen_in(held, f"@{path}")
    write_signed(path, choice(format="another"))
    with pytest.raises(ArtefactError, match="has format 'another', expected 'spiketok-choice'"):
        chosen_in(held, f"@{path}")
    facts = choice()
    facts["sessions"][0]["store_digest"] = "d" * 64
    write_signed(path, facts)
    with pytest.raises(ArtefactError, match="made/b was chosen with digest dddddddddddd and has digest bbbbbbbbbbbb"):
        chosen_in(held, f"@{path}")
    facts["sessions"][0] |= {"session": "made/z"}
    write_signed(path, facts | {"chosen": ["made/z"]})
    with pytest.raises(ArtefactError, match="made/z was chosen with digest dddddddddddd and is not in the store"):
        chosen_in(held, f"@{path}")


@pytest.mark.long
def test_choose_then_train_then_score(tmp_path):
    sizes = {"n_subjects": 2, "sessions_per_subject": 2, "n_units": 15, "duration_s": 60.0}
    root = tmp_path / "root"
    spiketok(root, "ingest", *simulate(SimulationConfig(seed=3, **sizes), tmp_path / "files"))
    words = ("choose", "--like", "*S01*day02*", "--task", "decode:cursor_vel", "--tokenize", "--json")
    found = json.loads(spiketok(root, *words).stdout)
    again = json.loads(spiketok(root, *words).stdout)
    assert found == again
    assert len(found["sessions"]) == 3 and len(found["chosen"]) == 2
    target = next(iter(found["targets"]))
    assert target.endswith("sub-S01_ses-CO-day02_behavior+ecephys") and target not in found["chosen"]
    assert target in spiketok(root, "inspect", found["file"]).stdout
    sets = [word for setting in SMALL for word in ("--set", setting)]
    train = ("train", "-m", "ndt1", "--tokenize", "-s", f"@{found['file']}", *sets, "--json")
    run = load_run(Path(json.loads(spiketok(root, *train).stdout)["run"]))
    assert run.own == sorted(found["chosen"])
    assert list(run.config.data.curriculum_order) == found["chosen"]
    spiketok(root, "choose", "--like", "*day02*", "--top", "9", "--task", "decode:cursor_vel", "--tokenize", code=2)
