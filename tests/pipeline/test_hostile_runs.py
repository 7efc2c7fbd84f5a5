"""Runs of others: what came by ``pull`` and says what no run says, and what stands beside a run that is deleted."""

from __future__ import annotations

import json

import pytest

from spiketok.errors import ArtefactError
from spiketok.pipeline.hub.items import check_item
from spiketok.pipeline.run_table import dependents
from spiketok.storage.files import write_signed
from spiketok.storage.records import checkpoint_digest
from spiketok.storage.workspace import Workspace

RUN = "runs/linear-0123456789"


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        (b"", "it is empty"),
        (b"null", "it holds no JSON object"),
        (b"[1]", "it holds no JSON object"),
        (b"[" * 10**5, "it is nested too deeply"),
        (b'{"version": "x"}', "a checkpoint of version 'x', expected a whole number"),
        (b'{"version": null}', "a checkpoint of version 'None', expected a whole number"),
        (b'{"version": 1}', "is of an earlier release"),
        (b'{"version": 3}', "was changed since it was written"),
    ],
)
def test_a_checkpoint_that_came_and_is_none_is_one_line(tmp_path, body, fact):
    file = tmp_path / RUN / "checkpoint" / "checkpoint.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(body)
    with pytest.raises(ArtefactError, match=fact) as caught:
        check_item(Workspace(tmp_path), RUN)
    assert "linear-0123456789" in str(caught.value)


@pytest.mark.parametrize("key", ["sessions", "tasks", "files", "step", "config"])
def test_one_that_was_signed_anew_is_held_against_its_form(tmp_path, key):
    facts = {"version": 3, "tasks": [], "sessions": [], "files": {}, "step": 1, "total_steps": 1}
    facts |= {"config": {"model": "linear", "data": {}, "model_overrides": {}}}
    write_signed(tmp_path / RUN / "checkpoint" / "checkpoint.json", facts | {key: None})
    with pytest.raises(ArtefactError, match=rf"was changed since it was written: its '{key}' is null, expected"):
        check_item(Workspace(tmp_path), RUN)


@pytest.mark.parametrize(
    "damaged",
    [
        {"config": "x"},
        {"config": ["x"]},
        {"config": {"model_overrides": 3}},
        {"kept": None},
        {"kept": [3]},
        {"kept": [{"parent": "x"}]},
    ],
)
def test_a_damaged_run_is_no_reason_that_another_cannot_be_deleted(tmp_path, damaged):
    workspace, run = Workspace(tmp_path), tmp_path / RUN
    write_signed(run / "checkpoint" / "checkpoint.json", {"version": 3})
    (run / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    good = {"config": {"start": checkpoint_digest(run)}}
    for name, facts in (("damaged", damaged), ("later", good)):
        folder = tmp_path / "runs" / name / "checkpoint"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text(json.dumps(facts))
    assert dependents(workspace, run) == ["run later, which started from its weights (--from)"]
