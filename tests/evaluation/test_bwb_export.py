"""A run's files for BrainWideBench: its windows and bins, measures, hidden counts, rules of its server, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from spiketok.evaluation.bwb_export import answered, export_session  # noqa: E402
from spiketok.evaluation.scoring.bwb import BwbScorer  # noqa: E402
from spiketok.evaluation.scoring.bwb_files import (  # noqa: E402
    read_tensors,
    unpack_ids,
    write_rate_truth,
    write_region_truth,
    write_trial_truth,
)
from spiketok.sources.catalogue.bwb import windows as bwb  # noqa: E402
from spiketok.storage.store import read_session  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.runs import open_shards  # noqa: E402
from tests.cli.test_cli import spiketok  # noqa: E402
from tests.layouts import bwb as layout  # noqa: E402

pytestmark = pytest.mark.long
SESSION, OTHER = f"ibl_bwb_selected/{layout.EID}", "ibl_bwb_selected/fitted"
TASKS = "population,decode:wheel_speed,decode:licking_rate,decode:left_paw_speed,classify:choice,classify:reward"
SETS = ("model.dim=16", "model.heads=2", "model.hidden=24", "optim.steps=2", "data.batch_size=4", "split.kind=stored")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two generated files of the benchmark, ingested by its rules; a run of both; its files."""
    folder = tmp_path_factory.mktemp("bwb")
    layout.write(folder / f"{layout.EID}.h5", seed=3, build="selected_units", n_units=14)
    layout.write(folder / "fitted.h5", seed=4, eid="fitted", build="selected_units", n_units=12)
    root = folder / "root"
    spiketok(root, "ingest", folder / f"{layout.EID}.h5", folder / "fitted.h5", "--dataset", "ibl_bwb_selected")
    sets = [word for setting in (*SETS, "split.set=ts1", "seed=43") for word in ("--set", setting)]
    spiketok(root, "train", "-m", "ndt_stitch", "--tokenize", "--hold-out", "none", "--task", TASKS, *sets)
    spiketok(root, "export", run_of(root, "ndt_stitch"), "--to", "bwb", "--out", root / "said", "--label", "mine")
    return root


def run_of(root: Path, model: str) -> Path:
    """The folder of its only run."""
    (found,) = (root / "runs").glob(f"{model}-*")
    return found


@pytest.fixture(scope="module")
def opened(root):
    """The run, the shards of the session, the session, and where it is stored."""
    workspace = Workspace.locate(root, None)
    run = load_run(run_of(root, "ndt_stitch"))
    (tokens,) = open_shards(workspace, [SESSION], run.config)
    stored = workspace.store_path(SESSION)
    return run, tokens, read_session(stored), stored


def file_of(root: Path, task: str, label: str = "mine") -> dict[str, np.ndarray]:
    path = root / label / task / layout.EID / "seed_43.safetensors"
    return {name: tensor.numpy() for name, tensor in read_tensors(path).items()}


def write_truths(root: Path) -> Path:
    """The truths of both sessions, as the benchmark keeps them."""
    truth, workspace = root / "truth", Workspace.locate(root, None)
    for name in (SESSION, OTHER):
        session = read_session(workspace.store_path(name))
        eid = bwb.eid_of(session)
        for task in ("choice", "reward", "wheel_speed", "left_paw_speed", "licking_rate"):
            w = bwb.task_windows(session, task, "test")
            values = w.values[:, 0] if task in bwb.N_CLASSES else w.values
            write_trial_truth(truth, f"ts1-{task}", eid, w.trial_id, values, w.mask)
        starts, held = bwb.population_windows(session, "test"), bwb.held_out_units(session)
        ids = np.array([f"{eid}/{unit}" for unit in session.units.id.tolist()])
        counts = bwb.counts(session, starts)
        write_rate_truth(truth, "ts2-co_smoothing", eid, starts, bwb.co_smoothing(counts, held)[1], ids[held].tolist())
        write_rate_truth(truth, "ts2-forecasting", eid, starts, bwb.forecasting(counts)[1], ids.tolist())
    return truth


def test_the_server_takes_the_files_and_the_scorer_scores_them(root):
    """Every rule that is of one seed, with truths of both sessions."""
    truth = write_truths(root)
    scorer = BwbScorer(deterministic=True)
    assert scorer.check(root / "said", truth) == []
    table = scorer.table(root / "said", truth)
    assert {row["task"] for row in table.rows} == {
        *("ts1-choice", "ts1-reward", "ts1-wheel_speed", "ts1-left_paw_speed", "ts1-licking_rate"),
        *("ts2-co_smoothing", "ts2-forecasting"),
    }


def exported(opened, folder: Path, predict) -> Path:
    """Files of the run, whose model says what ``predict`` does."""
    run, tokens, _, stored = opened
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run.model, "predict", lambda batch, carry=None: (predict(batch), None))
        assert len(list(export_session(run, tokens, stored, folder, "mine"))) == 7
    return folder


def test_rates_stand_in_the_windows_and_bins_of_the_benchmark(opened, tmp_path):
    """A model that says what it would see, were nothing hidden: the very counts of the benchmark's windows."""
    run, _, session, _ = opened
    hidden = []

    def predict(batch):
        counts = batch.inputs["counts"].columns["counts"].float()
        if batch.mode:
            hidden.append((batch.mode, batch.hidden["counts"].unflatten(0, (len(batch), -1))))
        said = {head.task: torch.zeros(len(batch.asked[head.task].ns), head.size) for head in run.model.behaviours
                if head.task in batch.asked}  # fmt: skip
        return said | {"population": counts}

    folder = exported(opened, tmp_path, predict)
    starts, held = bwb.population_windows(session, "test"), bwb.held_out_units(session)
    counts = bwb.counts(session, starts)
    for task, wanted, units in (
        ("ts2-co_smoothing", bwb.co_smoothing(counts, held)[1], held),
        ("ts2-forecasting", bwb.forecasting(counts)[1], np.ones_like(held)),
    ):
        found = file_of(folder, task)
        np.testing.assert_array_equal(found["window_timestamps"], starts)
        assert unpack_ids(found["unit_ids"]) == [f"{layout.EID}/{u}" for u in session.units.id[units].tolist()]
        assert (found["predictions"] != wanted).mean() < 1e-4  # spikes within 1 ns of an edge
    for mode, where in hidden:
        of_unit, of_bin = where.all(1), where.all(2)
        assert torch.equal(where, of_unit[:, None] | of_bin[..., None])
        if mode == "unit":
            assert torch.equal(of_unit, torch.from_numpy(held).expand_as(of_unit)) and not of_bin.any()
        else:
            assert mode == "forward" and torch.equal(of_bin[0].nonzero().flatten(), torch.arange(45, 50))


def test_behaviours_are_asked_at_their_samples_in_the_truths_measure(opened, tmp_path):
    """A model that says the time it is asked at: seconds of the session, as it would a normalised value."""
    run, _, session, _ = opened
    asked_at = {}

    def predict(batch):
        said = {"population": batch.inputs["counts"].columns["counts"].float()}
        for head in run.model.behaviours:
            if head.task in batch.asked:
                asked = batch.asked[head.task]
                since = torch.from_numpy(asked.ns / 1e9).float()[:, None]
                assert asked.time.max() <= 1 and not asked.target.any()
                asked_at[head.task] = asked
                said[head.task] = since * torch.arange(1, head.size + 1)
        return said

    folder = exported(opened, tmp_path, predict)
    for task in run.tasks:
        name = getattr(getattr(task, "target", None), "name", task.about)
        if task.kind == "population":
            continue
        w, found = bwb.task_windows(session, name, "test"), file_of(folder, f"ts1-{name}")
        np.testing.assert_array_equal(found["trial_id"], w.trial_id)
        if task.kind == "classify":
            np.testing.assert_allclose(found["predictions"][:, 0], (w.end[:, None]) * [1, 2], rtol=1e-6)
            continue
        wanted = (w.start[:, None] + w.timestamps) * task.target.std[0] + task.target.mean[0]
        wanted = np.log(np.maximum(wanted, 1e-3)) if name == "licking_rate" else wanted
        np.testing.assert_allclose(found["predictions"][..., 0], wanted, rtol=1e-5)


def test_a_class_that_was_not_learned_is_the_least_likely(opened, tmp_path):
    run, tokens, _, stored = opened
    classify = next(task for task in run.tasks if task.name == "classify:choice")
    before, classify.classes = classify.classes, ("1", "0")
    try:
        list(export_session(run, tokens, stored, tmp_path, "other"))
    finally:
        classify.classes = before
    list(export_session(run, tokens, stored, tmp_path, "mine"))
    found, turned = (file_of(tmp_path, "ts1-choice", label)["predictions"] for label in ("mine", "other"))
    np.testing.assert_array_equal(turned, found[..., ::-1])


def test_what_is_there_stays_and_what_is_of_others_is_refused(root, opened, tmp_path):
    run, tokens, _, stored = opened
    first = [(done.task, done.state) for done in export_session(run, tokens, stored, tmp_path, "mine")]
    assert {state for _, state in first} == {"new"} and len(first) == 7
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert {done.state for done in export_session(run, tokens, stored, tmp_path, "mine")} == {"already"}
    other = replace(run, digest="0" * 64)
    with pytest.raises(UsageError, match="is there already, and was made of something else: --overwrite replaces it"):
        list(export_session(other, tokens, stored, tmp_path, "mine"))
    done = list(export_session(run, tokens, stored, tmp_path, "mine", overwrite=True))
    assert {one.state for one in done} == {"replaced"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before  # the same bytes
    assert next(one.seen for one in done if one.task == "ts1-choice") == 0  # of the run's split ts1


def test_regions_by_the_stitchers(root):
    """The command: fitted on one session, tested on the other; what is not fitted on is told."""
    done = spiketok(
        root, "embed", "ndt_stitch", "--suite", "bwb", "--test", SESSION, "--predictions", root / "regions",
        "--label", "mine", "--json",
    )  # fmt: skip
    assert "no unit of the sessions that are fitted on lies in CB: its probability is 0" in done.stderr
    files = sorted(path.relative_to(root / "regions") for path in (root / "regions").rglob("*.safetensors"))
    assert [path.parts[0] for path in files] == ["mine_linear_multi", "mine_linear_single"]
    session = read_session(Workspace.locate(root, None).store_path(SESSION))
    units = bwb.scored_units(session)
    ids = unpack_ids(read_tensors(root / "regions" / files[0])["entity_ids"].numpy())
    assert ids == units.unit_id.tolist()
    places = np.searchsorted(bwb.REGIONS, units.region)
    write_region_truth(root / "places", "ts3-unit_cosmos", ids, places)
    for label in ("mine_linear_single", "mine_linear_multi"):
        assert BwbScorer(deterministic=True).check(root / "regions" / label, root / "places") == []
    with np.load(run_of(root, "ndt_stitch") / "vectors.npz") as vectors:
        assert vectors["vector"].shape == (26, 32) and not vectors["n_windows"].any()


def test_what_cannot_be_answered_is_refused(opened):
    run, *_ = opened
    assert list(answered(run)) == [
        *("ts2-co_smoothing", "ts2-forecasting", "ts1-wheel_speed", "ts1-licking_rate", "ts1-left_paw_speed"),
        *("ts1-choice", "ts1-reward"),
    ]
    with pytest.raises(UsageError, match="was asked for nothing|which is no task of BrainWideBench: population"):
        answered(replace(run, tasks=[]))
    short = replace(run.config, data=replace(run.config.data, window_ms=500.0))
    with pytest.raises(UsageError, match="has windows of 500 ms in bins of 20, BrainWideBench has 1000 ms in bins of"):
        answered(replace(run, config=short))


def test_tasks_of_another_build_are_left_out(root, tmp_path):
    layout.write(tmp_path / "all.h5", seed=5, eid="all", n_units=10, without=("licks",))
    spiketok(root, "ingest", tmp_path / "all.h5", "--dataset", "ibl_bwb")
    sets = [word for setting in (*SETS, "split.set=ts1", "seed=44") for word in ("--set", setting)]
    words = ("-m", "mtm_bwb", "--tokenize", "--hold-out", "none", "--task", "population,decode:wheel_speed")
    spiketok(root, "train", *words, "-s", "ibl_bwb/*", *sets, "--set", "model.channels=12")
    done = spiketok(root, "export", run_of(root, "mtm_bwb"), "--to", "bwb", "--out", tmp_path / "said")
    assert "left out: ts2-co_smoothing is of the build selected_units, the session of all_units" in done.stderr
    (file,) = (tmp_path / "said").rglob("*.safetensors")
    assert file.parent.parent.name == "ts1-wheel_speed"
