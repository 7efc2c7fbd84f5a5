"""What suites say, and what is refused in a line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.bench.data import dataset_of, require_data
from spiketok.evaluation.bench.jobs import jobs_of, share
from spiketok.evaluation.bench.suite import FOLDER, part_of, read_suite, suite_names
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.evaluation.bench.made_suite import suite, suite_file

# Whoever changes what a suite runs raises its version, says so under its changes, and writes the digest here.
DIGESTS = {
    "bwb 1": "a8d72758264c2298",
    "falcon 1": "4e581d5c5aa29ab0",
    "nlb21 1": "3f163758d73e879c",
    "smoke 1": "d0d58f6d7c08887c",
    "xsession 2": "eada6a2c95ff7995",
}


def test_the_suites_of_the_package_are_what_their_versions_say():
    suites = [read_suite(name) for name in suite_names()]
    assert {s.label: s.digest for s in suites} == DIGESTS
    assert [s.name for s in suites] == suite_names() == ["bwb", "falcon", "nlb21", "smoke", "xsession"]
    for one in suites:
        assert set(one.seeds) <= {43, 44, 45, 46, 47} and one.title and one.about
        assert len(jobs_of(one, part_of(one))) >= len(one.seeds) * len(one.models)  # every setting resolves


def test_the_suites_are_shipped_with_the_package():
    said = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = said["tool"]["setuptools"]["package-data"]["spiketok.evaluation.bench"]
    assert sorted(p.stem for pattern in patterns for p in FOLDER.parent.glob(pattern)) == suite_names()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("headline_s = 8", "headline_s = 9", "headline_s is 9.0, must be one of calibration_s .4, 8."),
        ('unseen = "day2"', "", "scores transfer and needs 'unseen'"),
        ('score = "transfer"', 'score = "test"', "scores test and has no use for 'unseen'"),
        ('score = "transfer"', 'score = "speed"', "unknown value 'speed'"),
        ('name = "small"', 'name = "ridge"', "models are ridge, ridge"),
        ('name = "tiny"', 'name = "a/b"', "a/b"),
        ("seeds = [3, 5]", "seeds = [3, 3]", r"seeds are \[3, 3\]"),
        ("seeds = [3, 5]", "seeds = [-1]", r"seeds are \[-1\]"),
        ("[[changes]]\nversion = 2", "[[changes]]\nversion = 1", "version 2, of which its changes say nothing"),
        ('protocol = "linear"', "", "model 'ridge' names no protocol"),
        ('model = "poyo"', 'model = "poyo"\ntracks = ["other*"]', "takes part in no track"),
        ('title = "Tiny"', 'titel = "Tiny"', "unknown key of a suite 'titel': did you mean 'title'"),
        ("calibration_s = [4, 8]", 'calibration_s = "long"', "calibration_s"),
        ('name = "tiny"', 'name = "smoke"', "has the name of a suite of the package"),
    ],
)
def test_a_suite_that_says_something_wrong_is_refused(tmp_path, old, new, said):
    with pytest.raises(UsageError, match=said):
        suite(tmp_path, (old, new))


def test_settings_and_protocols_are_checked_before_anything_runs(tmp_path):
    for old, new, said in (
        ('["identity_only"]', '["identity_onli"]', "unknown protocol 'identity_onli'"),
        ('model = "poyo"', 'model = "poio"', "unknown model 'poio'"),
        ('"optim.steps=3"', '"optim.stebs=3"', "unknown config key 'optim.stebs'"),
        ('"decode:hand_vel"', '"decoed:hand_vel"', "unknown task 'decoed'"),
    ):
        wrong = suite(tmp_path, (old, new))
        with pytest.raises(UsageError, match=said):
            jobs_of(wrong, part_of(wrong))


def test_a_part_is_in_the_suites_order_and_says_what_is_missing(tmp_path):
    whole = suite(tmp_path)
    assert part_of(whole).missing == ()
    assert part_of(whole, ["small", "ridge"], [5, 3]).missing == ()
    some = part_of(whole, ["small"], [5])
    assert some.missing == ("models small of ridge, small", "seeds 5 of 3, 5")
    assert [str(job) for job in jobs_of(whole, some)] == ["made, small, seed 5"]
    for wrong, said in (
        ({"models": ["smal"]}, "model 'smal'"),
        ({"seeds": [4]}, "seed '4'"),
        ({"tracks": ["x"]}, "'x'"),
    ):
        with pytest.raises(UnknownNameError, match=said):
            part_of(whole, **wrong)


def test_parts_share_the_jobs_out_evenly():
    jobs = list(range(11))
    for n in (1, 2, 4, 11, 13):
        parts = [share(jobs, k, n) for k in range(1, n + 1)]
        assert sorted(job for part in parts for job in part) == jobs
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_simulated_data_are_named_by_all_of_their_settings():
    track = read_suite("smoke").tracks[0]
    named = dataset_of(track)
    longer = type(track)(**{**vars(track), "simulate": track.simulate | {"duration_s": 91}})
    stated = type(track)(**{**vars(track), "simulate": track.simulate | {"turnover": 0.25}})  # its default
    assert dataset_of(longer) != named == dataset_of(stated)
    assert dataset_of(read_suite("nlb21").tracks[0]) == "mc_maze"


@pytest.mark.parametrize("name", ["nlb21", "falcon", "bwb"])
def test_a_suite_whose_data_are_absent_is_refused_in_one_line(tmp_path, name):
    one = read_suite(name)
    first = one.tracks[0].dataset
    with pytest.raises(DataError, match=rf"needs {first}, .*: spiketok fetch {first} "):
        require_data(Workspace(tmp_path), one, one.tracks)


def test_the_command_lists_shows_and_refuses(tmp_path):
    listed = spiketok(tmp_path, "bench").stdout
    assert all(name in listed for name in suite_names())
    shown = spiketok(tmp_path, "bench", "xsession", "--show").stdout
    assert "possm" in shown and "300" in shown and "First version" in shown
    absent = spiketok(tmp_path, "bench", "nlb21", "--tracks", "mc_maze_small", code=1).stderr
    assert absent.count("\n") == 1 and absent.endswith("holds no session: spiketok fetch mc_maze_small\n")
    assert "unknown suite 'smoek': did you mean 'smoke'" in spiketok(tmp_path, "bench", "smoek", code=2).stderr
    path = suite_file(tmp_path)
    for words, said in (
        (("--part", "3/2"), "--part 3/2: must read I/N"),
        (("--seeds", "x"), "'x' is no whole number"),
        (("--models", "pojo"), "unknown model 'pojo'"),
    ):
        assert said in spiketok(tmp_path, "bench", path, *words, code=2).stderr
