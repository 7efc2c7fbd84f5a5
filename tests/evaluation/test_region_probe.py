"""The region probe of BrainWideBench: its units against the recorded ones, its regression, its scores and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError
from spiketok.evaluation.bwb_export import FILTERING, VERSION, Build, build_of
from spiketok.evaluation.embedding import Compared
from spiketok.evaluation.region_probe import (
    chosen_units,
    macro_f1,
    probe_regions,
    region_probabilities,
    rows_of,
    with_isi,
    write_region_files,
)
from spiketok.evaluation.scoring.bwb_files import REGIONS, read_header, read_tensors, unpack_ids
from spiketok.recording.nouns import NS_PER_S, Intervals, Session, SessionInfo, Source, Spikes, UnitTable
from spiketok.sources.catalogue import RULES
from tests.made import random_session
from tests.references.test_references import BESIDE

FIXTURE = BESIDE / "bwb" / "fixture"
RECORDED = pytest.mark.skipif(not FIXTURE.is_dir(), reason="the recorded files of BrainWideBench are not here")
SCORED = ["made/scored"]


def session_of(name: str, n_units: int, **columns) -> Session:
    units = UnitTable(np.array([f"u{k}" for k in range(n_units)]), columns)
    spikes = Spikes.from_units([np.array([k, 5_000_000 + k], np.int64) for k in range(n_units)])
    return replace(random_session(name, 0), units=units, spikes=spikes)


def probed_sessions(n_units: int = 80, noise: float = 0.5) -> tuple[list[Compared], list[Session]]:
    """Two sessions whose vectors tell the region; unit by unit down the probe the same region stays."""
    compared, stored = [], []
    for k, name in enumerate(("fit", "scored")):
        rng = np.random.default_rng(k)
        place = np.arange(n_units) * len(REGIONS) // n_units
        vector = np.eye(len(REGIONS))[place] + noise * rng.normal(size=(n_units, len(REGIONS)))
        columns = {
            "region_cosmos": np.array(REGIONS)[place],
            "probe_id": np.full(n_units, "p"),
            "depths": np.arange(n_units) * 20.0,
        }
        stored.append(session_of(name, n_units, **columns))
        info = SessionInfo(f"made/{name}", "m", stored[-1].units.id, 1, 0, 1, unit_columns=stored[-1].units.columns)
        compared.append(Compared(info, not k, {"vector": vector, "noise": rng.normal(size=(n_units, 3))}))
    return compared, stored


@RECORDED
@pytest.mark.parametrize("regime", ["eval", "pretrain"])
def test_the_units_are_those_of_the_benchmark(regime):
    (path,) = (FIXTURE / "selected_units" / "ibl_brain_wide_bench_2026" / regime).glob("*.h5")
    rules = RULES["ibl_bwb"]
    session = rules.adjust(rules.read(path, "ibl_bwb_selected/one", Source(path.name, "", 1)), path)
    with np.load(FIXTURE / "expected.npz") as expected:
        wanted = expected[f"ts3/{regime}/unit_id"]
    kept = chosen_units(session, "region_cosmos")
    assert [f"{path.stem}/{unit}" for unit in session.units.id[kept].tolist()] == wanted.tolist()


def test_probabilities_are_those_of_scikit_learns_pipeline():
    """Written once more, as the benchmark's code has it."""
    linear = pytest.importorskip("sklearn.linear_model")
    scale = pytest.importorskip("sklearn.preprocessing")
    pipeline = pytest.importorskip("sklearn.pipeline")
    rng = np.random.default_rng(0)
    word = np.array(REGIONS)[rng.choice(10, 200, p=np.arange(1, 11) / 55)]
    x, others = rng.normal(size=(200, 6)) * [1, 9, 1, 1, 1, 1], rng.normal(size=(30, 6))
    logistic = linear.LogisticRegression(C=1.0, max_iter=1000, solver="newton-cg", class_weight="balanced")
    fitted = pipeline.Pipeline([("scaler", scale.StandardScaler()), ("classifier", logistic)]).fit(x, word)
    assert fitted.named_steps["classifier"].classes_.tolist() == list(REGIONS)  # sorted as the ten are
    np.testing.assert_array_equal(region_probabilities(x, word, others), fitted.predict_proba(others))


def test_what_the_vectors_tell_is_read_and_neighbours_help():
    compared, stored = probed_sessions()
    found = probe_regions(compared, stored, SCORED, "region_cosmos")
    single, multi = rows_of(found)
    assert (single["units"], multi["units"], single["n_scored"]) == ("single", "multi", 80)
    assert multi["vector"] > single["vector"] > 0.4 > single["noise"]
    assert found["vector"].unit_id[0] == "scored/u0"
    np.testing.assert_allclose(found["vector"].probability.sum(1), 1)
    np.testing.assert_allclose(found["vector"].averaged[3], found["vector"].probability[[1, 2, 3, 4, 5]].mean(0))
    for of in compared:
        of.features["vector"][:7] = np.nan  # no window held them
    assert rows_of(probe_regions(compared, stored, SCORED, "region_cosmos"))[0]["n_scored"] == 73


def test_units_without_a_probe_have_no_neighbours():
    compared, stored = probed_sessions()
    stored[1] = replace(stored[1], units=UnitTable(stored[1].units.id, {"region_cosmos": np.full(80, "TH")}))
    (row,) = rows_of(probe_regions(compared, stored, SCORED, "region_cosmos"))
    assert row["units"] == "single"


def test_a_region_that_nobody_has_counts_zero():
    word = np.array([*REGIONS[:2]] * 3)
    right = np.eye(10)[[REGIONS.index(w) for w in word]]
    assert macro_f1(word, right) == pytest.approx(0.2)
    compared, stored = probed_sessions()
    stored[0].units.columns["region_cosmos"][:16] = "void"
    found = probe_regions(compared, stored, SCORED, "region_cosmos")
    assert found["vector"].lacking == ("CB", "CNU")
    assert not found["vector"].probability[:, :2].any()


def test_intervals_of_the_benchmark_stand_beside():
    compared, stored = probed_sessions()
    (one, _) = with_isi(compared, stored)
    assert one.features["isi"].shape == (80, 128) and (one.features["isi"].sum(1) == 1).all()  # each of 5 ms


def test_intervals_are_of_the_time_of_the_vectors():
    """Intervals of 5 ms in the first second, of 50 ms after it: vectors of that second stand beside the first alone."""
    compared, stored = probed_sessions()
    early = np.arange(0, NS_PER_S, 5_000_000)
    train = np.concatenate([early, np.arange(NS_PER_S, 9 * NS_PER_S, 50_000_000)])
    stored = [replace(one, spikes=Spikes.from_units([train] * len(one.units))) for one in stored]
    first = [Intervals([0], [NS_PER_S])] * len(stored)
    for found, n_bins in ((with_isi(compared, stored), 2), (with_isi(compared, stored, first), 1)):
        assert all(((of.features["isi"] > 0).sum(1) == n_bins).all() for of in found)


def test_files_of_regions_are_two_submissions(tmp_path):
    probed = probe_regions(*probed_sessions(), SCORED, "region_cosmos")["vector"]
    files = write_region_files(tmp_path, "mine", 43, Build("selected_units", "0.1.0"), probed)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        f"mine_linear_{units}/ts3-unit_cosmos/seed_43.safetensors" for units in ("single", "multi")
    ]
    for file, probability in zip(files, (probed.probability, probed.averaged), strict=True):
        said, _ = read_header(file)
        assert (said["seed"], said["unit_filtering"]) == ("43", "selected_units")
        assert said["label_names"] == ",".join(REGIONS)
        tensors = read_tensors(file)
        assert unpack_ids(tensors["entity_ids"].numpy()) == probed.unit_id.tolist()
        np.testing.assert_array_equal(tensors["pred_proba"], probability.astype(np.float32))


def test_a_build_is_told_or_refused():
    plain = session_of("a", 2)
    one, other = (replace(plain, info={FILTERING: word, VERSION: "0.1.0"}) for word in ("selected_units", "all_units"))
    assert build_of([one, one]) == ("selected_units", "0.1.0")
    with pytest.raises(DataError, match=r"is no file of BrainWideBench: its info names no brainset\.unit_filtering"):
        build_of([one, plain])
    with pytest.raises(DataError, match=r"predictions are of one build of BrainWideBench: .*selected_units 0\.1\.0; "):
        build_of([one, other])


def test_what_cannot_be_probed_is_refused():
    compared, stored = probed_sessions()
    with pytest.raises(DataError, match=r"160 units of 2 sessions to fit on and 0 of 0 to score"):
        probe_regions(compared, stored, [], "region_cosmos")
    with pytest.raises(DataError, match=r"made/fit: its units have no column 'region' \(there are depths, probe_id"):
        probe_regions(compared, stored, SCORED, "region")
    stored[0].units.columns["region_cosmos"][:] = "TH"
    with pytest.raises(DataError, match="the 80 units that are fitted on are of 1 region"):
        probe_regions(compared, stored, SCORED, "region_cosmos")
