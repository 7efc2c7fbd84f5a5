"""Prediction files of BrainWideBench: read by the safetensors library itself, the same bytes, whole or not there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from safetensors import safe_open
from safetensors.numpy import load_file

from spiketok.errors import ArtefactError, DataError, UnknownNameError
from spiketok.evaluation.scoring import bwb_files as files
from tests.evaluation.scoring.golden import GOLDEN, needs_golden

SESSION = "0802ced5-33a3-405e-8336-b65ebc5cb07c"
ABOUT = files.About("model", "ts1-choice", 43, SESSION, "all_units", "0.1.0", {"context_window": "1.0"})
RNG = np.random.default_rng(0)
IDS = [f"{SESSION}/unit-{'x' * k}{k}" for k in range(4)]


def one_of_each(root, seed=43):
    """A file of each kind; by task, what was given."""
    starts = 10.0 + 0.02 * np.arange(6)
    given = {
        "ts1-choice": ([5, 2, 9], RNG.normal(size=(3, 2))),
        "ts1-wheel_speed": ([5, 2, 9], RNG.normal(size=(3, 50)), np.tile(np.arange(50) / 50, (3, 1))),
        "ts2-co_smoothing": (starts, RNG.normal(size=(6, 50, 4)), IDS),
        "ts2-forecasting": (starts, RNG.normal(size=(6, 5, 4)), IDS),
        "ts3-unit_cosmos": (IDS, RNG.random((4, 10))),
    }
    write = {"classes": files.write_classes, "series": files.write_series}
    write |= {"rates": files.write_rates, "regions": files.write_regions}
    paths = {}
    for task, arguments in given.items():
        about = replace(ABOUT, task=task, seed=seed, recording=SESSION if files.TASKS[task].has_recording else "")
        paths[task] = write[files.TASKS[task].kind](root, about, *arguments)
    return given, paths


def test_a_file_of_each_kind_holds_what_the_benchmark_reads(tmp_path):
    given, paths = one_of_each(tmp_path)
    for task, path in paths.items():
        middle = (SESSION,) if files.TASKS[task].has_recording else ()
        assert path == tmp_path.joinpath("model", task, *middle, "seed_43.safetensors")
        with safe_open(path, "np") as file:
            said = file.metadata()
        assert (said["label"], said["task"], said["seed"]) == ("model", task, "43")
        assert said["unit_filtering"] == "all_units" and said["dataset_version"] == "0.1.0"
        assert said["context_window"] == "1.0"
        assert (said.get("recording_id"), said.get("label_names")) == (
            (SESSION, None) if middle else (None, "CB,CNU,CTXsp,HB,HPF,HY,Isocortex,MB,OLF,TH")
        )
    choice = load_file(paths["ts1-choice"])
    assert choice["predictions"].shape == (3, 1, 2) and choice["predictions"].dtype == np.float32
    assert choice["trial_id"].tolist() == [5, 2, 9] and choice["trial_id"].dtype == np.int64
    np.testing.assert_array_equal(choice["predictions"][:, 0], given["ts1-choice"][1].astype(np.float32))
    wheel = load_file(paths["ts1-wheel_speed"])
    assert wheel["predictions"].shape == (3, 50, 1) and wheel["timestamps"].shape == (3, 50)
    for task, bins in (("ts2-co_smoothing", 50), ("ts2-forecasting", 5)):
        rates = load_file(paths[task])
        assert rates["predictions"].shape == (6, bins, 4) and rates["predictions"].dtype == np.float16
        assert rates["window_timestamps"].tobytes() == given[task][0].tobytes()
        assert files.unpack_ids(rates["unit_ids"]) == IDS
    regions = load_file(paths["ts3-unit_cosmos"])
    assert regions["pred_proba"].shape == (4, 10) and files.unpack_ids(regions["entity_ids"]) == IDS


def test_the_same_predictions_give_the_same_bytes_in_any_order_of_words(tmp_path):
    words = dict.fromkeys("zyxwvutsrq", "1")
    turned = dict(reversed(words.items()))
    for k, more in enumerate((words, turned)):
        files.write_classes(tmp_path / str(k), replace(ABOUT, more=more), np.arange(2), np.eye(2))
    one, other = (next((tmp_path / str(k)).rglob("*.safetensors")).read_bytes() for k in range(2))
    assert one == other
    end = 8 + int.from_bytes(one[:8], "little")
    said = list(json.loads(one[8:end])["__metadata__"])
    assert end % 8 == 0 and said == sorted(said) and set(words) < set(said)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda root: files.write_classes(root, ABOUT, np.arange(3), np.zeros((3, 3))), r"shape \[3, 3\].*\[3, 2\]"),
        (lambda root: files.write_classes(root, ABOUT, np.arange(2), np.array([[0, 1], [np.nan, 0]])), "not finite"),
        (lambda root: files.write_classes(root, ABOUT, np.array([4, 4]), np.eye(2)), "trial 4 stands 2 times"),
        (lambda root: files.write_classes(root, replace(ABOUT, recording=""), np.arange(2), np.eye(2)), "one file a"),
        (lambda root: files.write_classes(root, replace(ABOUT, label=".."), np.arange(2), np.eye(2)), "leads else"),
        (lambda root: files.write_classes(root, replace(ABOUT, seed=-1), np.arange(2), np.eye(2)), "seed -1"),
        (
            lambda root: files.write_classes(root, replace(ABOUT, task="ts1-wheel_speed"), np.arange(2), np.eye(2)),
            "a task of series, this writes classes",
        ),
        (
            lambda root: files.write_rates(
                root, replace(ABOUT, task="ts2-forecasting"), np.arange(1.0), np.full((1, 5, 1), 7e4), ["u"]
            ),
            "not finite in float16, as 70000",
        ),
        (
            lambda root: files.write_rates(
                root, replace(ABOUT, task="ts2-forecasting"), np.zeros(2), np.zeros((2, 5, 1)), ["u"]
            ),
            "1 different of 2",
        ),
    ],
)
def test_what_a_server_would_refuse_is_not_written(tmp_path, break_it, told):
    with pytest.raises(DataError, match=told):
        break_it(tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = files.write_classes(tmp_path, ABOUT, np.arange(2), np.eye(2))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_bytes", full)
    with pytest.raises(OSError, match="No space"):
        files.write_classes(tmp_path, ABOUT, np.arange(2), np.zeros((2, 2)))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_cut_is_told(tmp_path):
    path = files.write_classes(tmp_path, ABOUT, np.arange(2), np.eye(2))
    path.write_bytes(path.read_bytes()[:-3])
    for read in (files.read_header, files.read_tensors):
        with pytest.raises(ArtefactError, match="no whole safetensors file"):
            read(path)


def test_unknown_tasks_are_told_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'ts1-choice'"):
        files.task_of("ts1-choise")


def test_ids_that_cannot_be_packed():
    for ids in ([], [""], ["µ"], ["a\0"]):
        with pytest.raises(DataError):
            files.pack_ids(ids)
    with pytest.raises(DataError, match="no ASCII"):
        files.unpack_ids(np.array([[200, 0]], np.uint8))


@needs_golden
def test_ids_are_packed_as_the_reference_packs_them():
    with np.load(GOLDEN / "entity_ids.npz") as golden:
        np.testing.assert_array_equal(files.pack_ids(golden["ids"]), golden["packed"])
        assert files.unpack_ids(golden["packed"]) == golden["ids"].tolist()


@needs_golden
@pytest.mark.parametrize("name", ["ts1_choice", "ts1_wheel_speed", "ts2_co_smoothing", "ts3_plain"])
def test_the_references_files_are_written_again_with_equal_content(tmp_path, name):
    path = GOLDEN / "files" / name / "pred.safetensors"
    said, _ = files.read_header(path)
    own = load_file(path)
    about = files.About(
        said["label"], said["task"], int(said["seed"]), said.get("recording_id", ""), "all_units", "0.1.0"
    )
    kind = files.TASKS[said["task"]].kind
    if kind == "classes":
        written = files.write_classes(tmp_path, about, own["trial_id"], own["predictions"][:, 0])
    elif kind == "series":
        written = files.write_series(tmp_path, about, own["trial_id"], own["predictions"][..., 0], own["timestamps"])
    elif kind == "rates":
        ids = files.unpack_ids(own["unit_ids"])
        written = files.write_rates(tmp_path, about, own["window_timestamps"], own["predictions"], ids)
    else:
        written = files.write_regions(tmp_path, about, files.unpack_ids(own["entity_ids"]), own["pred_proba"])
    again = load_file(written)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in again.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in own.items()
    }
    ours, _ = files.read_header(written)
    assert {key: ours[key] for key in said if key != "ibl_bwb_eval_version"} == {
        key: value for key, value in said.items() if key != "ibl_bwb_eval_version"
    }
