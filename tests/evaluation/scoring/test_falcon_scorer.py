"""FALCON's scorer: each rule has a file that breaks it alone, by its name; what breaks none is scored."""

from __future__ import annotations

import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install 'spiketok[train]')")

from spiketok.errors import ArtefactError, DataError, UsageError
from spiketok.evaluation.scoring.falcon import FalconScorer
from spiketok.evaluation.scoring.falcon_pickle import PickleFault, read_plain_pickle
from spiketok.evaluation.scoring.falcon_rules import B1_FRAMES, COMPONENTS, LATENCY, SETS, session_of

RULES = {
    *("pickle", "pickle-object", "layout", "task", "truth", "latency", "set-name", "sets-missing", "order", "type"),
    *("dimensions", "axes", "components", "length", "finite", "text", "sentences"),
}


def made_binned(task: str, parts: tuple[str, ...] = ("held_in", "held_out"), seed: int = 0) -> tuple[dict, dict]:
    """A submission and a truth of a task, its sets of several lengths, part of each scored."""
    rng = np.random.default_rng([seed, *task.encode()])
    said, true = {}, {}
    for part in parts:
        names = SETS[task][part]
        for name in sorted(names, key=lambda n: (session_of(n), n)):
            target = rng.normal(size=(int(rng.integers(30, 60)), COMPONENTS[task])).astype(np.float32).cumsum(axis=0)
            mask = rng.random(len(target)) < 0.7
            said[name] = target.astype(np.float64) + rng.normal(size=target.shape)
            said[name] = np.concatenate([said[name], np.zeros((3, target.shape[1]))])  # of a batch with a longer file
            true[name] = {"data": target[mask], "mask": mask}
    return {task: {**said, LATENCY: np.float64(0.25)}}, {task: true}


SENTENCES = ("the>cat, sat", "a>b~", "who>is>there?", "yes!")


def made_text() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    said, true = {}, {}
    for name in (*SETS["h2"]["held_in"], *SETS["h2"]["held_out"]):
        rows = [[ord(c) for c in text] for text in SENTENCES]
        padded = np.zeros((len(rows), 20), np.int32)
        for k, row in enumerate(rows):
            padded[k, : len(row)] = row
        spoilt = ["".join(c for c in text if rng.random() < 0.8) for text in SENTENCES]
        said[name] = [spoilt]
        true[name] = {"data": [padded], "mask": np.ones((50, 1), bool)}
    return {"h2": {**said, LATENCY: 0.5}}, {"h2": true}


def made_song(flat: bool = False) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    said, true = {}, {}
    for name in (*SETS["b1"]["held_in"], *SETS["b1"]["held_out"]):
        target = rng.random((2 * B1_FRAMES, 1, 158)).astype(np.float32)
        mask = np.zeros((2, B1_FRAMES, 1, 158), bool)
        mask[:, 100:800] = True
        mask = mask.reshape(target.shape)
        said[name] = target + 0.1 * rng.normal(size=target.shape).astype(np.float32)
        true[name] = {"data": target[mask] if flat else target, "mask": mask[:, 0] if flat else mask}
    return {"b1": {**said, LATENCY: 0.5}}, {"b1": true}


MADE = {**dict.fromkeys(("h1", "m1", "m2"), made_binned), "h2": lambda _: made_text(), "b1": lambda _: made_song()}


def written(folder: Path, said: object, true: object = None, protocol: int = 4) -> tuple[Path, Path]:
    paths = folder / "said.pkl", folder / "true.pkl"
    for path, value in zip(paths, (said, true), strict=True):
        path.write_bytes(pickle.dumps(value, protocol))
    return paths


def rules(folder: Path, said: object, true: object) -> set[tuple[str, str]]:
    """By rule and session what is broken, with the truth at hand."""
    said, true = written(folder, said, true)
    broken = FalconScorer().check(said, true)
    assert all(one.path == Path("said.pkl") and one.message for one in broken)
    return {(one.rule, one.session) for one in broken}


@pytest.mark.parametrize("task", ["h1", "m1", "m2", "h2"])
def test_what_the_evaluator_writes_breaks_no_rule_and_is_scored(task, tmp_path):
    said, true = written(tmp_path, *MADE[task](task))
    scorer = FalconScorer()
    assert scorer.check(said, true) == []
    assert scorer.check(said, None) == []
    table = scorer.table(said, true)
    assert [(row["task"], row["part"]) for row in table.rows] == [(task, "Held In"), (task, "Held Out")]
    assert table.notes == []
    for row in table.rows:
        assert list(row) == list(table.columns)
        assert all(np.isfinite(v) for v in list(row.values())[3:])
    # a folder with both: the truth among them is no prediction
    assert scorer.table(tmp_path, tmp_path) == table


def test_r2_is_the_mean_over_days_of_what_is_scored(tmp_path):
    from spiketok.recording.metrics import r2_variance_weighted

    said, true = made_binned("m2")
    expected = []
    for day in sorted({session_of(name) for name in SETS["m2"]["held_in"]}):
        runs = sorted(name for name in SETS["m2"]["held_in"] if session_of(name) == day)
        data = np.concatenate([true["m2"][name]["data"] for name in runs])
        masks = [true["m2"][name]["mask"] for name in runs]
        own = np.concatenate([said["m2"][n][: len(m)][m] for n, m in zip(runs, masks, strict=True)])
        expected.append(r2_variance_weighted(data, own))
    row = FalconScorer().table(*written(tmp_path, said, true)).rows[0]
    assert row["R2 Mean"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert row["R2 Std."] == pytest.approx(np.std(expected), abs=1e-12)
    assert row["Normalized Latency"] == 0.25


def test_word_errors_by_hand(tmp_path):
    said, true = made_text()
    for name in SETS["h2"]["held_in"]:
        said["h2"][name] = [["the>cot, sat", "a>b~", "who>is>there?", "yes"]]
    row = FalconScorer().table(*written(tmp_path, said, true)).rows[0]
    # words: "the cat , sat", "a b ~", "who is there ?", "yes !" are 13; 2 of them are wrong
    assert row["WER"] == pytest.approx(2 / 13)
    assert row["CER"] == pytest.approx(2 / sum(map(len, SENTENCES)))
    assert row["WER Std."] == pytest.approx(0)


# ---- the rules ------------------------------------------------------------------------------------------------------


def spoilt(said: dict, task: str, name: str, value: object) -> dict:
    return {task: {**said[task], name: value}}


def test_each_rule_of_a_binned_task_is_told_by_its_name(tmp_path):
    (said, true), day = made_binned("m1"), "20120926"
    own, mask = said["m1"][day], true["m1"][day]["mask"]
    assert rules(tmp_path, said, true) == set()
    assert rules(tmp_path, spoilt(said, "m1", day, own.T), true) == {("axes", f"m1/{day}")}
    assert rules(tmp_path, spoilt(said, "m1", day, own[:, :15]), true) == {("components", f"m1/{day}")}
    assert rules(tmp_path, spoilt(said, "m1", day, own[:, None]), true) == {("dimensions", f"m1/{day}")}
    assert rules(tmp_path, spoilt(said, "m1", day, own[: len(mask) - 1]), true) == {("length", f"m1/{day}")}
    assert rules(tmp_path, spoilt(said, "m1", day, own.astype(str)), true) == {("type", f"m1/{day}")}
    assert rules(tmp_path, spoilt(said, "m1", day, own.tolist()), true) == {("type", f"m1/{day}")}
    (scored,), (unscored,) = np.flatnonzero(mask)[:1], np.flatnonzero(~mask)[:1]
    nan = own.copy()
    nan[unscored] = np.nan
    assert rules(tmp_path, spoilt(said, "m1", day, nan), true) == set(), "what is not scored may be nan"
    nan[scored] = np.nan
    assert rules(tmp_path, spoilt(said, "m1", day, nan), true) == {("finite", f"m1/{day}")}
    assert rules(tmp_path, {"m1": {**said["m1"], "20120925": own}}, true) == {("set-name", "m1/20120925")}
    less = {"m1": {name: value for name, value in said["m1"].items() if name != day}}
    assert rules(tmp_path, less, true) == {("sets-missing", "m1")}
    assert rules(tmp_path, {"m1": {LATENCY: 1.0}}, true) == {("sets-missing", "m1")}
    late = {"m1": {name: value for name, value in said["m1"].items() if name != LATENCY}}
    assert rules(tmp_path, late, true) == {("latency", "m1")}
    assert rules(tmp_path, spoilt(said, "m1", LATENCY, float("nan")), true) == {("latency", "m1")}
    turned = {"m1": {day: own, **{name: value for name, value in said["m1"].items() if name != day}}}
    assert rules(tmp_path, turned, true) == {("order", "m1")}
    assert rules(tmp_path, {"m3": said["m1"]}, true) == {("task", "m3")}
    assert rules(tmp_path, made_binned("m2")[0], true) == {("truth", "m2")}
    other = {"m1": {name: value for name, value in true["m1"].items() if name != day}}
    assert rules(tmp_path, said, other) == {("truth", f"m1/{day}")}
    for wrong in ({}, [], {"m1": 3}, {"m1": own}):
        assert rules(tmp_path, wrong, true) == {("layout", "")}


def test_the_message_says_both_shapes_and_the_next_command(tmp_path):
    (said, true), day = made_binned("m1"), "20120926"
    own, n = said["m1"][day], len(true["m1"][day]["mask"])
    paths = written(tmp_path, spoilt(said, "m1", day, own.T), true)
    (broken,) = FalconScorer().check(*paths)
    assert broken.message == f"it has shape (16, {n + 3}), must be [{n}, 16]: the axes are swapped, write x.T"
    table = FalconScorer().table(*paths)
    assert table.rows == [] and table.notes == ["said.pkl is not scored, it breaks the rules axes"]
    alone = written(tmp_path, spoilt(said, "m1", day, own[true["m1"][day]["mask"].nonzero()[0]]), true)
    (broken,) = FalconScorer().check(*alone)
    assert broken.rule == "length" and "looks like the scored ones alone" in broken.message
    unknown = {"b1": {"20210626": np.zeros((880, 1, 158)), LATENCY: 1}}
    (broken, *_) = FalconScorer().check(written(tmp_path, unknown)[0], None)
    assert broken.rule == "set-name" and "is '2021.06.26' meant?" in broken.message, "as the archive's B1 files make it"


def test_rules_of_text_and_song(tmp_path):
    said, true = made_text()
    day = SETS["h2"]["held_in"][3]
    for wrong in (["a", "b"], [["a", 3]], [["a"], ["b"]], "a"):
        assert rules(tmp_path, spoilt(said, "h2", day, wrong), true) == {("text", f"h2/{day}")}
    assert rules(tmp_path, spoilt(said, "h2", day, [["a"]]), true) == {("sentences", f"h2/{day}")}
    tag = "ses-" + day.replace(".", "")  # as the archive names the day
    renamed, known = ({"h2": {tag if n == day else n: v for n, v in x["h2"].items()}} for x in (said, true))
    assert rules(tmp_path, renamed, known) == set()

    frames, day = np.zeros((B1_FRAMES, 1, 158), np.float32), "2021.06.26"
    song = {"b1": {**dict.fromkeys(SETS["b1"]["held_in"], frames), LATENCY: 1.0}}
    for wrong, rule in (
        (frames[:-1], "length"),
        (frames[..., :-1], "components"),
        (frames[:, 0].T, "axes"),
        (frames[:, :, None], "dimensions"),
        (frames + np.nan, "finite"),
        ([1.0], "type"),
    ):
        broken = FalconScorer().check(written(tmp_path, spoilt(song, "b1", day, wrong))[0], None)
        assert {(one.rule, one.session) for one in broken} == {(rule, f"b1/{day}")}


def test_every_rule_is_documented_and_no_other():
    text = (Path(__file__).parents[3] / "docs" / "falcon.md").read_text()
    section = text.split("## Scored on this machine")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    assert {name.strip("` ") for row in rows for name in row.split(",")} == RULES


# ---- files ----------------------------------------------------------------------------------------------------------


class Hostile:
    """What a pickle can do where it is believed."""

    def __init__(self, call, *args) -> None:
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args

    def __repr__(self) -> str:
        return f"{self.call.__name__}{self.args}"


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_text_and_numbers_come_back_as_they_were(protocol, tmp_path):
    value = {
        "m1": {
            "a": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "b": np.array([[True, False]]),
            "c": np.arange(4, dtype=">i4"),
            "d": [["text", ""], 3, 0.5, True],
            "e": np.float32(0.25),
            "f": np.zeros((0, 2), np.float16),
            "g": np.array(["ab", "c"]),
        }
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_plain_pickle(path)["m1"]
    for name, expected in value["m1"].items():
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found[name], expected)
            assert found[name].dtype == expected.dtype
        else:
            assert found[name] == expected


@pytest.mark.parametrize(
    "value",
    [
        Hostile(print, "ran"),
        Hostile(eval, "print('ran')"),
        {"m1": {"20120924": Hostile(Path, "x")}},
        np.array([{"a": 1}], object),
        np.zeros(2, "c16"),
        np.zeros(2, [("a", "f8")]),
        np.dtype("f8"),
        {1: 2.0},
        {"a": None},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"a": 2**70},
    ],
    ids=str,
)
def test_anything_else_is_named_and_nothing_runs(value, tmp_path, capsys):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value))
    (broken,) = FalconScorer().check(path, None)
    assert broken.rule == "pickle-object", broken.message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"csv,of,something\n",
        pickle.dumps({"a": np.arange(9)})[:-20],
        b"\x80\x04N" + b"r" + struct.pack("<I", 2**32 - 1) + b".",  # a memo of 4 billion parts
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # a text of 2**62 bytes
        b"\x80\x04cnumpy\nndarray\n}b.",  # a state for a function
        b"\x80\x04cnumpy\nndarray\n)\x81.",  # a function for a class
    ],
)
def test_a_damaged_pickle_is_told(content, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(PickleFault) as caught:
        read_plain_pickle(path)
    assert caught.value.rule == "pickle"
    (broken,) = FalconScorer().check(path, None)
    assert broken.rule == "pickle"


def test_cut_off_or_changed_anywhere_it_is_told_or_read(tmp_path):
    """No byte of a file makes it do anything else than give plain values or a fault."""
    whole = pickle.dumps({"m1": {"a": np.arange(5.0), "b": [["x"]], LATENCY: np.float64(1)}})
    path, rng = tmp_path / "x.pkl", np.random.default_rng(0)
    for k in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[k] = int(rng.integers(256))
        for content in (whole[:k], bytes(changed)):
            path.write_bytes(content)
            try:
                found = read_plain_pickle(path)
            except PickleFault as fault:
                assert fault.rule in ("pickle", "pickle-object")
            else:
                assert isinstance(found, dict | list | str | float | int | np.ndarray)


def test_one_part_named_a_million_times_is_refused(tmp_path):
    value: object = "x"
    for _ in range(6):
        value = [value] * 30  # 30 ** 6 parts in 200 words
    path = tmp_path / "x.pkl"
    path.write_bytes(pickletools.optimize(pickle.dumps({"a": value})))
    with pytest.raises(PickleFault, match="200,000 parts"):
        read_plain_pickle(path)
    inside: list = []
    inside.append(inside)
    path.write_bytes(pickle.dumps(inside))
    with pytest.raises(PickleFault, match="more than 8 deep"):
        read_plain_pickle(path)


def test_a_truth_that_is_none_is_told(tmp_path):
    said, true = made_binned("m1", ("held_in",))
    paths = written(tmp_path, said, said)
    with pytest.raises(DataError, match="is no truth of FALCON's"):
        FalconScorer().table(*paths)
    paths[1].write_bytes(b"x")
    with pytest.raises(ArtefactError, match="no whole pickle"):
        FalconScorer().check(*paths)
    true["m1"]["20120924"]["data"] = true["m1"]["20120924"]["data"][1:]
    with pytest.raises(DataError, match="its mask says"):
        FalconScorer().check(*written(tmp_path, said, true))
    with pytest.raises(UsageError, match="is no file"):
        FalconScorer().check(tmp_path / "gone.pkl", None)
