"""Datasets by what they hold, groups of them, and what a fetch would bring when nobody answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spiketok.cli.embed import _refuse_written
from spiketok.cli.groups import GROUPS, expanded
from spiketok.errors import UsageError
from tests.cli.test_cli import spiketok


def names(*words: str) -> list[str]:
    return [d["name"] for d in json.loads(spiketok(Path("."), "datasets", *words, "--json").stdout)]


def test_datasets_are_chosen_by_what_they_hold():
    assert names("--species", "human") == ["falcon_h1", "falcon_h2"]
    assert names("--species", "Taeniopygia") == names("--species", "finch") == ["falcon_b1"]
    assert names("--region", "pmd", "--max-size", "100MB") == ["mc_maze_small"]
    assert "area2_bump" in names("--task", "decode:hand_vel") and "falcon_h2" not in names("--task", "hand_vel")
    monkeys = names("--species", "macaque")
    assert {"mc_maze", "mc_rtt", "falcon_m1", "perich_miller"} <= set(monkeys) and "steinmetz" not in monkeys
    assert names("--species", "axolotl") == []


def test_a_size_that_nobody_states_is_said_and_left_out():
    done = spiketok(Path("."), "datasets", "nlb", "--max-size", "60MB")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["name", "mc_maze_small", "mc_rtt"]
    assert "left out, of no stated size: mc_maze, mc_maze_medium, dmfc_rsg" in done.stderr
    assert "fits all of that" in spiketok(Path("."), "datasets", "--species", "axolotl").stderr


def test_a_group_is_all_of_its_sets_and_a_file_of_its_name_is_that(tmp_path, monkeypatch):
    assert names("falcon") == list(GROUPS["falcon"])
    assert expanded(["nlb", "mc_rtt", "ibl"]) == [*GROUPS["nlb"], "ibl"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nlb").mkdir()
    assert expanded(["nlb"]) == ["nlb"]


@pytest.mark.long
def test_a_pinned_dataset_is_known_when_its_archive_does_not_answer(tmp_path):
    pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")
    nobody = ["--api-url", "http://127.0.0.1:9/api"]
    done = spiketok(tmp_path, "fetch", "mc_maze_small", "--dry-run", *nobody)
    for word in ("000140 version 0.220113.0408", "CC-BY-4.0", "29.9 MB", "Churchland"):
        assert word in done.stdout
    assert "from the catalogue alone, its archive does not answer" in done.stderr
    told = json.loads(spiketok(tmp_path, "fetch", "mc_maze_small", "--dry-run", "--json", *nobody).stdout)
    assert told["plans"] == [] and told["offline"][0]["bytes"] == 29896840
    assert not (tmp_path / "raw").exists()
    other = spiketok(tmp_path, "fetch", "000999", "--dry-run", *nobody, code=1)
    assert "error: 000999" in other.stderr  # of what nobody pinned nothing is known


def test_predictions_that_stand_there_are_not_replaced_unasked(tmp_path):
    _refuse_written(tmp_path, "mine", 42)
    file = tmp_path / "mine_linear_single" / "ts3-region" / "seed_42.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    _refuse_written(tmp_path, "other", 42)
    _refuse_written(tmp_path, "mine", 43)
    with pytest.raises(UsageError, match="stands there already: --overwrite replaces it"):
        _refuse_written(tmp_path, "mine", 42)
