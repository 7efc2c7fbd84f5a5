"""The catalogue: every entry whole, every rule used, every document about it true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spiketok.errors import UnknownNameError
from spiketok.sources.catalogue import DATASETS, RULES, catalogued
from spiketok.testing.others import entry_is_whole

DOCS = Path(__file__).parents[2] / "docs"
ISSUE = {
    *("mc_maze", "mc_maze_large", "mc_maze_medium", "mc_maze_small", "mc_rtt", "area2_bump", "dmfc_rsg"),
    *("falcon_h1", "falcon_h2", "falcon_m1", "falcon_m1b", "falcon_m2", "falcon_b1"),
    *("perich_miller", "churchland", "odoherty_sabes", "link", "steinmetz", "ibl"),
    *("allen_visual_coding", "allen_visual_behavior"),
}


def test_what_the_field_uses_is_there_and_documented():
    assert DATASETS.keys() >= ISSUE
    text = (DOCS / "datasets.md").read_text()
    assert {name for name in DATASETS if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("name", DATASETS)
def test_an_entry_is_whole(name):
    entry_is_whole(DATASETS[name])
    assert DATASETS[name].rules in RULES
    assert DATASETS[name].quirks, "no dataset of this field is without one"


def test_all_rules_are_used():
    assert {d.rules for d in DATASETS.values()} | {""} == RULES.keys()


def test_names_and_aliases_are_found():
    assert catalogued("nlb/mc_maze").name == "mc_maze"
    assert catalogued("DANDI:000140").name == "mc_maze_small"
    with pytest.raises(UnknownNameError, match="did you mean 'perich_miller'"):
        catalogued("perich_milller")


def test_the_command_shows_all_and_each_without_the_network():
    def run(*words: str) -> str:
        code = "import socket, sys; socket.socket.connect = None; from spiketok.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code, "datasets", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = run()
    assert {line.split("\t")[0] for line in listed.splitlines()[1:]} == set(DATASETS)
    told = run("perich_miller")
    for quirk in DATASETS["perich_miller"].quirks:
        assert f"{quirk.id}: {quirk.text} [known from: {quirk.source}]" in told
