"""Every rule of BrainWideBench's server: a file that breaks it is refused by its name, and one beside it is not."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError
from spiketok.evaluation.scoring import bwb_rules
from spiketok.evaluation.scoring.bwb import BwbScorer
from tests.evaluation.scoring.submissions import (
    CHOICE,
    FORECAST,
    REGION,
    SESSIONS,
    change,
    file_of,
    write_submission,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bwb")
    write_submission(root, tasks=(CHOICE, FORECAST, REGION))
    return root


def put(name, value):
    """Changes one tensor by a function of it."""

    def changed(held):
        held[name] = value(held[name])

    return changed


def tensor(task, name, value):
    return lambda root: change(file_of(root / "predictions", task), put(name, value))


def words(task, /, **said):
    return lambda root: change(file_of(root / "predictions", task), words=said)


def drop(task, name):
    return lambda root: change(file_of(root / "predictions", task), lambda held: held.pop(name))


def moved(task, to, copy=False):
    """Puts a file elsewhere; ``to`` is relative to the folder of predictions."""

    def do(root):
        source, target = file_of(root / "predictions", task), root / "predictions" / to
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copy if copy else shutil.move)(source, target)

    return do


def touched(name):
    def do(root):
        path = root / "predictions" / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    return do


def without_seeds(*seeds, sessions=SESSIONS):
    """Removes seeds of a task."""

    def do(root):
        for session in sessions:
            for seed in seeds:
                file_of(root / "predictions", CHOICE, seed, session).unlink()

    return do


def seed_46_for_44(root):
    for session in SESSIONS:
        path = file_of(root / "predictions", CHOICE, 44, session)
        change(path, words={"seed": "46"})
        path.rename(path.with_name("seed_46.safetensors"))


def a_second_label(root):
    path = root / "predictions" / "other" / CHOICE / SESSIONS[0] / "seed_43.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(file_of(root / "predictions", CHOICE), path)
    change(path, words={"label": "other"})


def nothing(root):
    """The submission as it is."""


def cut(root):
    path = file_of(root / "predictions", CHOICE)
    held = path.read_bytes()
    path.unlink()
    path.write_bytes(held[:-5])


def nan(a):
    a = a.copy()
    a.reshape(-1)[3] = np.nan
    return a


def next_float(a):
    a = a.copy()
    a[2] = np.nextafter(a[2], np.inf)
    return a


def another_last(a):
    a = a.copy()
    a[-1, -1] += 1
    return a


def in_turn(a):
    return np.ascontiguousarray(a[::-1])


def grown(a):
    return np.concatenate([a, a[:1]])


def turned(task, *names):
    return lambda root: change(
        file_of(root / "predictions", task), lambda held: held.update({n: in_turn(held[n]) for n in names})
    )


def an_unknown_unit(held):
    held["entity_ids"] = np.concatenate(
        [held["entity_ids"], held["entity_ids"][:1] + (held["entity_ids"][:1] == ord("0"))]
    )
    held["pred_proba"] = grown(held["pred_proba"])


def with_one_more_unit(root):
    change(file_of(root / "predictions", REGION), an_unknown_unit)


def repeat(task, *names):
    return lambda root: change(
        file_of(root / "predictions", task), lambda held: held.update({n: grown(held[n]) for n in names})
    )


# rule, what breaks it, what comes near it and is taken, words of the fact
NEAR = [
    ("E001", words(CHOICE, unit_filtering=None), words(CHOICE, bin_size="0.02"), "metadata unit_filtering missing"),
    ("E001", words(FORECAST, recording_id=None), nothing, "metadata recording_id missing"),
    ("E001", words(REGION, label_names=None), nothing, "metadata label_names missing"),
    ("E001", drop(FORECAST, "unit_ids"), nothing, "tensor unit_ids missing"),
    ("E002", words(CHOICE, unit_filtering="good"), words(CHOICE, unit_filtering="mixed"), "unit_filtering is 'good'"),
    ("E003", words(CHOICE, dataset_version="0.1"), words(CHOICE, dataset_version="10.0.11"), "'0.1', must be x.y.z"),
    ("E004", moved(CHOICE, f"model/{CHOICE}/{SESSIONS[0]}/seed_x.safetensors"), nothing, "'seed_x.safetensors'"),
    (
        "E005",
        moved(CHOICE, f"model/ts1-choise/{SESSIONS[0]}/seed_43.safetensors"),
        nothing,
        "'ts1-choise', must be one",
    ),
    ("E006", tensor(CHOICE, "predictions", lambda a: a[:, 0]), nothing, r"\[12, 2\], must have 3 axes"),
    ("E006", tensor(CHOICE, "predictions", lambda a: a[..., :1]), nothing, "last axis of predictions is 1.*it is 2"),
    ("E006", tensor(CHOICE, "trial_id", lambda a: a[:-1]), nothing, r"trial_id have shape \[11\] for 12 rows"),
    ("E007", tensor(FORECAST, "predictions", lambda a: a[:, 0]), nothing, r"\[8, 6\], must have 3 axes"),
    ("E007", tensor(FORECAST, "window_timestamps", lambda a: a[:, None]), nothing, r"\[8, 1\] for 8 rows"),
    (
        "E008",
        tensor(FORECAST, "window_timestamps", lambda a: np.append(a[:-1], a[0])),
        nothing,
        "stands 2 times, 7 of 8",
    ),
    ("E009", tensor(REGION, "pred_proba", lambda a: a[:, :9]), nothing, "last axis of pred_proba is 9"),
    ("E009", tensor(REGION, "entity_ids", lambda a: a[:-1]), nothing, "for 12 rows of pred_proba"),
    ("E009", tensor(REGION, "entity_ids", lambda a: a + np.uint8(128)), nothing, "no ASCII"),
    (
        "E010",
        words(REGION, label_names="TH,OLF,MB,Isocortex,HY,HPF,HB,CTXsp,CNU,CB"),
        turned(REGION, "entity_ids", "pred_proba"),
        "label_names are TH,OLF",
    ),
    ("E011", lambda root: shutil.rmtree(root / "truth" / CHOICE / SESSIONS[0]), nothing, "no truth of ts1-choice"),
    (
        "E012",
        tensor(CHOICE, "trial_id", lambda a: a + 1),
        turned(CHOICE, "trial_id", "predictions"),
        "first 320.*1 unknown",
    ),
    (
        "E012",
        tensor(FORECAST, "window_timestamps", next_float),
        turned(FORECAST, "window_timestamps", "predictions"),
        "1 of the truth's 8 windows missing.*equal to the last bit",
    ),
    ("E012", tensor(FORECAST, "unit_ids", another_last), nothing, "1 of the truth's 6 units missing"),
    (
        "E012",
        tensor(REGION, "entity_ids", lambda a: a + (a == ord("u"))),
        with_one_more_unit,
        "12 of the truth's 12 units",
    ),
    ("E013", moved(CHOICE, f"model/{CHOICE}/seed_43.safetensors"), nothing, "2 folders above a file of ts1-choice"),
    ("E013", moved(REGION, f"model/{REGION}/{SESSIONS[0]}/seed_43.safetensors"), nothing, "must be label/task/file"),
    ("E013", moved(CHOICE, f"model/deep/{CHOICE}/{SESSIONS[0]}/seed_43.safetensors"), nothing, "4 folders above"),
    ("E013", words(CHOICE, label="other"), nothing, "path says label 'model', the metadata 'other'"),
    ("E013", words(CHOICE, task="ts1-reward"), nothing, "path says task"),
    ("E013", words(CHOICE, seed="44"), words(CHOICE, seed="043"), "path says seed '43', the metadata '44'"),
    ("E013", words(CHOICE, recording_id=SESSIONS[1]), nothing, "path says recording_id"),
    ("E014", touched("readme.txt"), touched(".DS_Store"), "'readme.txt' is no prediction"),
    ("E014", touched("x.safetensors"), touched("__MACOSX/anything"), "'x.safetensors' is no prediction"),
    ("E101", without_seeds(45), nothing, "ts1-choice has 2 seeds"),
    ("E102", seed_46_for_44, nothing, "seeds 43, 45, 46: 44 is missing"),
    ("E103", without_seeds(45, sessions=SESSIONS[1:]), nothing, "seeds 43, 44 of this recording and 43, 44, 45"),
    ("E104", without_seeds(43, 44, 45, sessions=SESSIONS[1:]), nothing, "1 of 2 recordings with a truth"),
    (
        "E105",
        moved(CHOICE, f"model/{CHOICE}/{SESSIONS[0]}/seed_043.safetensors", copy=True),
        moved(CHOICE, f"model/{CHOICE}/{SESSIONS[0]}/seed_043.safetensors"),
        "seed 43 of ts1-choice is also in",
    ),
    ("E106", a_second_label, nothing, "labels model, other"),
    (
        "E107",
        tensor(CHOICE, "predictions", nan),
        nothing,
        r"1 of 24 predictions are not finite, first nan at \[1, 0, 1\]",
    ),
    ("E107", tensor(FORECAST, "predictions", lambda a: a + np.float16(np.inf)), nothing, "240 of 240"),
    ("E107", tensor(REGION, "pred_proba", nan), nothing, "1 of 120"),
    (
        "E109",
        words(FORECAST, unit_filtering="all_units"),
        words(CHOICE, unit_filtering="custom"),
        "takes selected_units",
    ),
    ("E109", words(REGION, unit_filtering="custom"), nothing, "takes selected_units"),
    ("E999", cut, nothing, "no whole safetensors file"),
    ("bins", tensor(FORECAST, "predictions", lambda a: a[:, 1:]), nothing, "middle axis of predictions is 4"),
    ("bins", tensor(FORECAST, "unit_ids", grown), nothing, "7 unit_ids for a last axis of 6"),
    ("order", turned(FORECAST, "unit_ids"), nothing, "unit 0 is .*unit-5"),
    ("repeated", repeat(CHOICE, "trial_id", "predictions"), nothing, "trial 320 stands 2 times, 12 of 13"),
    ("repeated", repeat(REGION, "entity_ids", "pred_proba"), nothing, "stands 2 times"),
]


def checked(root: Path, **how) -> list:
    return BwbScorer(**how).check(root / "predictions", root / "truth")


def copied(whole: Path, tmp_path: Path, *changes) -> Path:
    root = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
    shutil.copytree(whole, root, copy_function=os.link)  # a file that is changed is written anew
    for change_it in changes:
        change_it(root)
    return root


def near() -> list:
    """The first of each rule, and the others as long ones."""
    seen: set[str] = set()
    marked = []
    for k, row in enumerate(NEAR):
        marks = pytest.mark.long if row[0] in seen else ()
        seen.add(row[0])
        marked.append(pytest.param(*row, marks=marks, id=f"{row[0]}-{k}"))
    return marked


@pytest.mark.parametrize(("rule", "bad", "good", "fact"), near())
def test_a_bad_file_is_refused_by_its_rule_and_one_beside_it_is_taken(whole, tmp_path, rule, bad, good, fact):
    broken = checked(copied(whole, tmp_path, bad))
    told = [one for one in broken if one.rule == rule]
    assert told, broken
    assert any(re.search(fact, one.message) for one in told), told
    if good is not nothing:
        assert checked(copied(whole, tmp_path, good)) == []


def test_a_submission_that_breaks_no_rule_is_taken(whole):
    assert checked(whole) == []
    assert BwbScorer().check(whole / "predictions" / "model", whole / "truth") == []  # the label's own folder


def test_each_rule_of_the_server_is_among_the_bad_files():
    server = {f"E{k:03d}" for k in range(1, 15)} | {f"E{k}" for k in range(101, 110)}
    assert server - {"E108"} <= {rule for rule, *_ in NEAR}  # E108 needs a range, see below
    told = set(re.findall(r"E\d{3}", bwb_rules.__doc__))
    assert server | {"E999"} == told


@pytest.mark.parametrize(
    ("versions", "told"),
    [(("0.2.0", ""), "0.1.0, taken are 0.2.0 and later"), (("", "0.0.9"), "0.1.0, taken are those up to 0.0.9")],
)
def test_versions_outside_of_the_range_are_refused(whole, versions, told):
    broken = checked(whole, versions=versions)
    assert {one.rule for one in broken} == {"E108"} and told in broken[0].message
    assert checked(whole, versions=("0.1.0", "0.10.0")) == []


def test_a_bound_that_is_no_version_is_a_wrong_request(whole):
    with pytest.raises(UsageError, match="'1' is no version"):
        checked(whole, versions=("1", ""))


@pytest.mark.parametrize(
    "bad",
    [without_seeds(44, 45), seed_46_for_44, without_seeds(45, sessions=SESSIONS[1:])],
    ids=["E101", "E102", "E103"],
)
def test_a_deterministic_model_needs_no_seeds(whole, tmp_path, bad):
    root = copied(whole, tmp_path, bad)
    assert [one.rule[:3] for one in checked(root)] == ["E10"]
    assert checked(root, deterministic=True) == []


def test_what_a_rule_says_of_a_file_names_file_and_session(whole, tmp_path):
    (one,) = checked(copied(whole, tmp_path, tensor(CHOICE, "predictions", nan)))
    assert one.path == Path("model", CHOICE, SESSIONS[0], "seed_43.safetensors")
    assert (one.rule, one.session) == ("E107", SESSIONS[0])


def test_without_the_truth_its_rules_are_not_asked(whole, tmp_path):
    root = copied(whole, tmp_path, tensor(CHOICE, "trial_id", lambda a: a + 1), without_seeds(45))
    assert {one.rule for one in BwbScorer().check(root / "predictions", None)} == {"E101"}


def test_several_rules_of_one_file_are_told_together(whole, tmp_path):
    root = copied(whole, tmp_path, words(FORECAST, unit_filtering="good", dataset_version="x", label_names="a"))
    change(file_of(root / "predictions", FORECAST), put("predictions", nan))
    assert {one.rule for one in checked(root)} == {"E002", "E003", "E107", "E109"}


def test_labels_beside_each_other_are_checked_one_by_one(whole, tmp_path):
    root = copied(whole, tmp_path)
    write_submission(root, "other", seeds=(50, 51, 52), tasks=(CHOICE,))
    assert {one.rule for one in checked(root)} == {"E102", "E106"}  # the server puts seeds of all labels together
    assert checked(root, compare=True) == []
