"""NLB's scorer: nlb_tools' recorded numbers, and for each rule a file that breaks it alone, by its name."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import ArtefactError, DataError, UsageError
from spiketok.evaluation.scoring.nlb import METRICS, NlbScorer, split_name
from spiketok.evaluation.scoring.nlb_rules import GROUPS, UNITS
from tests.oracles.run_nlb_tools import score_inputs

TABLES = Path(__file__).parents[2] / "golden" / "nlb" / "evaluate.json"
GOLDEN = Path(__file__).parents[2] / "golden" / "nlb" / "scores.npz"
SET = "mc_maze_small"
E, R, T, F, HELDIN, HELDOUT = 4, 6, 140, 40, 5, 3
RULES = {
    *("file", "group", "truth", "array", "type", "dimensions", "axes", "bin-width", "bins", "heldin-heldout", "units"),
    *("trials", "finite", "negative"),
}


def made(bin_ms: int = 5) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rates and targets of a set with few units: holes in spikes and behaviour, a PSTH, forward bins."""
    rng, n, ahead = np.random.default_rng(0), T * 5 // bin_ms, F * 5 // bin_ms
    units = {"heldin": HELDIN, "heldout": HELDOUT}
    rates = {f"{part}_rates_{kind}": rng.gamma(2.0, 0.2, (rows, n, u)).astype(np.float32)
             for part, rows in (("eval", E), ("train", R)) for kind, u in units.items()}  # fmt: skip
    rates |= {f"eval_rates_{kind}_forward": rng.gamma(2.0, 0.2, (E, ahead, u)) for kind, u in units.items()}
    counted = ("eval_rates_heldout", "eval_rates_heldin_forward", "eval_rates_heldout_forward")
    target = {name.replace("rates", "spikes"): rng.poisson(rates[name]).astype(np.float32) for name in counted}
    target["eval_spikes_heldout"][1, n - 8 :] = np.nan
    target |= {f"{part}_behavior": rng.normal(size=(rows, n, 2)) for part, rows in (("eval", E), ("train", R))}
    target["eval_behavior"][1, n - 8 :] = np.nan
    target["psth"] = rng.gamma(2.0, 0.2, (2, n, HELDIN + HELDOUT))
    target["psth"][:, n - 8 :] = np.nan
    target["eval_cond_idx"] = [np.array([0, 1]), np.array([2, 3])]
    return rates, target


def write(path: Path, groups: dict[str, dict]) -> Path:
    with h5py.File(path, "w") as file:
        for group, arrays in groups.items():
            file.create_group(group)
            for name, value in arrays.items():
                if isinstance(value, list):
                    rows = file.create_dataset(f"{group}/{name}", (len(value),), h5py.vlen_dtype(np.int32))
                    for k, own in enumerate(value):
                        rows[k] = own
                else:
                    file[f"{group}/{name}"] = value
    return path


def rules(folder: Path, rates: dict, target: dict | None, group: str = SET) -> list[tuple[str, str]]:
    """The rule and message of what is broken; a test has one target."""
    truth = folder / "truth.h5" if target is not None else None
    if truth is not None and not truth.exists():
        write(truth, {SET: target})
    broken = NlbScorer().check(write(folder / "rates.h5", {group: rates}), truth)
    assert all(one.path == Path("rates.h5") for one in broken)
    return [(one.rule, one.message) for one in broken]


# ---- parity ---------------------------------------------------------------------------------------------------------


def recorded_case(group: str) -> tuple[dict, dict]:
    """The made-up rates and targets of which nlb_tools' numbers were recorded, as its files hold them.

    All six units are held out where the recorded bits are of all six; dmfc_rsg's spikes are of three.
    """
    a = score_inputs()
    if group == "dmfc_rsg":
        halves = np.split(a["eval_rates"], 2, axis=2)
        rates = {f"eval_rates_{k}": part for k, part in zip(("heldin", "heldout"), halves, strict=True)}
        spikes = a["tp_spikes"].copy()
        spikes[0, 20, 0] = 1  # bits a spike need one
        return rates, {
            "eval_spikes_heldout": spikes, "eval_behavior": a["tp_behavior"], "train_behavior": a["tp_behavior"],
            "eval_spikes_heldin_forward": spikes, "eval_spikes_heldout_forward": spikes,
        }  # fmt: skip
    rates = {f"{part}_rates_heldout": a[f"{part}_rates"] for part in ("train", "eval")}
    rates |= {f"{part}_rates_heldin": a[f"{part}_rates"][..., :0] for part in ("train", "eval")}
    target = {f"{part}_behavior": a[f"{part}_behavior"] for part in ("train", "eval")}
    target |= {f"{part}_decode_mask": a[f"{part}_mask"] for part in ("train", "eval")}
    target |= {"eval_spikes_heldout": a["spikes"], "psth": a["psth"], "eval_jitter": a["jitter"]}
    return rates, target | {"eval_cond_idx": [a[f"condition{k}"] for k in range(3)]}


def test_the_table_has_the_recorded_numbers_of_nlb_tools(tmp_path):
    recorded = np.load(GOLDEN)
    cases = {group: recorded_case(group) for group in ("area2_bump", "dmfc_rsg")}
    rates = write(tmp_path / "rates.h5", {group: case[0] for group, case in cases.items()})
    truth = write(tmp_path / "truth.h5", {group: case[1] for group, case in cases.items()})
    scorer = NlbScorer()
    assert scorer.check(rates, truth) == []
    bump, rsg = scorer.table(rates, truth).rows
    assert (bump["split"], rsg["split"]) == ("area2_bump_split", "dmfc_rsg_split")
    for metric, name in (("co-bps", "bits_per_spike"), ("vel R2", "velocity_r2"), ("psth R2", "psth_r2")):
        assert bump[metric] == pytest.approx(float(recorded[name]), rel=1e-9), metric
    assert rsg["tp corr"] == pytest.approx(float(recorded["tp_correlation"]), rel=1e-9)
    assert bump["tp corr"] is None and rsg["vel R2"] is None and rsg["psth R2"] is None


def test_a_file_that_breaks_no_rule_is_scored_in_full(tmp_path):
    rates, target = made()
    coarse, coarse_target = made(20)
    write(tmp_path / "rates.h5", {SET: rates, f"{SET}_20": coarse})
    truth = tmp_path / "truth"
    truth.mkdir()
    write(truth / "fine.h5", {SET: target})
    write(truth / "coarse.h5", {f"{SET}_20": coarse_target})
    scorer = NlbScorer()
    assert scorer.check(tmp_path / "rates.h5", truth) == []
    table = scorer.table(tmp_path / "rates.h5", truth)
    assert [row["split"] for row in table.rows] == [
        "mc_maze_scaling_split [100]",
        "mc_maze_scaling_20_split [100]",
    ]
    assert [row["bin_ms"] for row in table.rows] == [5, 20]
    for row in table.rows:
        assert list(row) == list(table.columns)
        assert all(np.isfinite(row[metric]) for metric in ("co-bps", "vel R2", "psth R2", "fp-bps"))
        assert row["tp corr"] is None
    assert table.notes == []
    # a folder with both: files of truth are no predictions
    assert scorer.table(tmp_path, truth).rows == table.rows
    assert split_name("mc_rtt_20") == "mc_rtt_20_split"


def cases() -> dict[str, tuple[dict, dict]]:
    """Rates and targets of several groups, of which nlb_tools' whole tables were recorded."""
    return {SET: made(), f"{SET}_20": made(20), "mc_rtt": without_psth(), "dmfc_rsg": recorded_case("dmfc_rsg")}


def without_psth() -> tuple[dict, dict]:
    rates, target = made()
    return rates, {name: value for name, value in target.items() if name not in ("psth", "eval_cond_idx")}


def numbers(rows: list[dict]) -> dict[str, dict[str, float]]:
    """By split the metrics, as nlb_tools lays them out: the scaled sets share a split, their trials lead the metric."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        split, _, lead = row["split"].partition(" ")
        own = {f"{lead} {name}".strip(): row[name] for name in METRICS if row[name] is not None}
        found.setdefault(split, {}).update(own)
    return found


def test_whole_tables_are_those_recorded_of_nlb_tools(tmp_path):
    """Recorded by tests/evaluation/scoring/test_oracle_nlb_scorer.py (make oracle-nlb)."""
    rates = write(tmp_path / "rates.h5", {name: case[0] for name, case in cases().items()})
    truth = write(tmp_path / "truth.h5", {name: case[1] for name, case in cases().items()})
    ours, recorded = numbers(NlbScorer().table(rates, truth).rows), json.loads(TABLES.read_text())
    assert {split: set(own) for split, own in ours.items()} == {split: set(own) for split, own in recorded.items()}
    for split, own in recorded.items():
        assert ours[split] == pytest.approx(own, abs=1e-9), split


def test_what_the_server_passes_over_is_noted(tmp_path):
    rates, target = made()
    hz = {name: rate * 200 for name, rate in rates.items()} | {"extra": np.zeros(3)}
    hz["eval_rates_heldin"] = hz["eval_rates_heldin"] - 1
    hz = {name: rate for name, rate in hz.items() if not name.endswith("forward")}
    paths = write(tmp_path / "rates.h5", {SET: hz, "mc_rtt": rates}), write(tmp_path / "truth.h5", {SET: target})
    table = NlbScorer().table(*paths)
    assert [row["dataset"] for row in table.rows] == [SET]
    notes = "\n".join(table.notes)
    assert "are they in Hz? Multiply by 0.005" in notes
    assert f"{SET}/extra is not read" in notes and "no fp-bps, there are no forward bins" in notes
    assert (
        "eval_rates_heldin have numbers below 0" in notes and "mc_rtt is not scored, it breaks the rule truth" in notes
    )


# ---- the rules ------------------------------------------------------------------------------------------------------


def changed(rates: dict, **arrays: np.ndarray) -> dict:
    return {**rates, **arrays}


def test_each_wrong_shape_is_told_by_its_cause(tmp_path):
    rates, target = made()
    assert rules(tmp_path, rates, target) == []
    eval_in, eval_out = rates["eval_rates_heldin"], rates["eval_rates_heldout"]
    both = np.concatenate([eval_in, eval_out], 2)
    longer = np.concatenate([eval_out, rates["eval_rates_heldout_forward"]], 1)
    for wrong, rule, says in (
        (eval_in.transpose(0, 2, 1), "axes", "[4, 5, 140], must be [4, 140, 5]"),
        (eval_in.transpose(1, 2, 0), "axes", "write x.transpose(2, 0, 1)"),
        (eval_in.reshape(-1, HELDIN), "dimensions", "write x.reshape(-1, 140, 5)"),
        (eval_in[0, 0], "dimensions", "[5], must be [4, 140, 5]"),
        (eval_in[:, ::4], "bin-width", f"bins of 20 ms under the name of 5 ms: name the group '{SET}_20'"),
        (eval_in.repeat(5, 1), "bin-width", "bins of 1 ms, the benchmark takes 5 or 20"),
        (eval_in[:, :120], "bins", "train with data.window_ms=700"),
        (eval_out, "heldin-heldout", "are held-in and held-out units swapped?"),
        (both, "heldin-heldout", "write x[..., :5]"),
        (eval_in[..., :4], "units", "[4, 140, 4], must be [4, 140, 5]"),
        (rates["train_rates_heldin"], "trials", "are train and eval swapped?"),
        (eval_in[:3], "trials", "the truth is of another split"),
    ):
        ((found, message),) = rules(tmp_path, changed(rates, eval_rates_heldin=wrong), target)
        assert found == rule and says in message and message.startswith("eval_rates_heldin: "), message
    ((found, message),) = rules(tmp_path, changed(rates, eval_rates_heldout=longer), target)
    assert found == "bins" and "x[:, 140:] as eval_rates_heldout_forward" in message
    ((found, message),) = rules(tmp_path, changed(rates, eval_rates_heldout=both), target)
    assert found == "heldin-heldout" and "write x[..., 5:]" in message


def test_each_other_rule_is_told_by_its_name(tmp_path):
    rates, target = made()
    out = rates["eval_rates_heldout"]
    holes = out.copy()
    holes[1, T - 8 :] = np.nan  # nothing was observed there
    assert rules(tmp_path, changed(rates, eval_rates_heldout=holes), target) == []
    holes[1, 0, 0] = np.inf
    ((rule, message),) = rules(tmp_path, changed(rates, eval_rates_heldout=holes), target)
    assert rule == "finite" and message.startswith("eval_rates_heldout: 1 of ")
    for name in ("train_rates_heldin", "eval_rates_heldin_forward", "eval_rates_heldin"):
        wrong = rates[name].copy()
        wrong[0, 3] = np.nan
        assert [rule for rule, _ in rules(tmp_path, changed(rates, **{name: wrong}), target)] == ["finite"], name
    for name in ("eval_rates_heldout", "eval_rates_heldin_forward"):
        ((rule, message),) = rules(tmp_path, changed(rates, **{name: np.log(rates[name] + 1e-9)}), target)
        assert rule == "negative" and "are they log rates? Write np.exp(x)" in message
    words = changed(rates, eval_rates_heldin=np.full(rates["eval_rates_heldin"].shape, b"1"))
    assert [rule for rule, _ in rules(tmp_path, words, target)] == ["type"]
    assert [rule for rule, _ in rules(tmp_path, changed(rates, eval_rates_heldin=out + 1j), target)] == ["type"]
    whole = {name: np.ones(rate.shape, np.int64) for name, rate in rates.items()}
    assert rules(tmp_path, whole, target) == [], "whole numbers are rates"
    for lack in ("eval_rates_heldout", "train_rates_heldin", "eval_rates_heldout_forward"):
        less = {name: rate for name, rate in rates.items() if name != lack}
        ((rule, message),) = rules(tmp_path, less, target)
        assert rule == "array" and message.startswith(f"{lack}: it is missing")
    renamed = {name.replace("eval_rates_heldout", "rates_heldout"): rate for name, rate in rates.items()}
    assert ("array", True) in [
        (rule, "is it 'rates_heldout'?" in text) for rule, text in rules(tmp_path, renamed, None)
    ]
    ((rule, message),) = rules(tmp_path, rates, target, "mc_maze_smal")
    assert rule == "group" and f"is '{SET}' meant?" in message
    ((rule, message),) = rules(tmp_path, rates, target, "mc_rtt")
    assert rule == "truth" and f"it has {SET}" in message


def test_links_and_files_that_are_none(tmp_path):
    rates, target = made()
    truth, path = write(tmp_path / "truth.h5", {SET: target}), tmp_path / "rates.h5"
    write(path, {SET: rates})
    with h5py.File(path, "r+") as file:
        del file[f"{SET}/eval_rates_heldin"]
        file[f"{SET}/eval_rates_heldin"] = h5py.ExternalLink("truth.h5", f"{SET}/eval_spikes_heldin_forward")
        file["mc_rtt"] = h5py.SoftLink(f"/{SET}")
    assert {(one.rule, one.session) for one in NlbScorer().check(path, truth)} == {("array", SET), ("group", "mc_rtt")}
    path.write_bytes(b"no HDF5")
    (broken,) = NlbScorer().check(path, truth)
    assert broken.rule == "file"
    assert NlbScorer().table(path, truth).rows == []
    (broken,) = NlbScorer().check(write(path, {}), truth)
    assert broken.rule == "group"
    with pytest.raises(UsageError, match="is no file"):
        NlbScorer().check(tmp_path / "gone.h5", truth)
    with pytest.raises(DataError, match="holds no truth"):
        NlbScorer().check(path, write(tmp_path / "none.h5", {SET: rates}))
    (tmp_path / "none.h5").write_bytes(b"x")
    with pytest.raises(ArtefactError, match="cannot be read as HDF5"):
        NlbScorer().check(path, tmp_path / "none.h5")


def test_without_a_truth_the_benchmarks_own_units_and_bins_count(tmp_path):
    heldin, heldout = UNITS[SET]
    units = {"heldin": heldin, "heldout": heldout}
    rates = {f"{part}_rates_{kind}": np.ones((2, 35, n), np.float32)
             for part in ("eval", "train") for kind, n in units.items()}  # fmt: skip
    group = f"{SET}_20"
    assert rules(tmp_path, rates, None, group) == []
    less = changed(rates, train_rates_heldout=rates["train_rates_heldout"][:1])
    assert [rule for rule, _ in rules(tmp_path, less, None, group)] == ["trials"]
    nan = changed(rates, eval_rates_heldout=rates["eval_rates_heldout"] * np.nan)
    ((rule, message),) = rules(tmp_path, nan, None, group)
    assert rule == "finite" and "with the truth this is told apart" in message
    assert [rule for rule, _ in rules(tmp_path, rates, None)] == ["bin-width"] * 4
    assert {name: (g.n_bins, g.n_forward) for name, g in GROUPS.items()}["dmfc_rsg"] == (300, 40)


def test_every_rule_is_documented_and_no_other():
    text = (Path(__file__).parents[3] / "docs" / "nlb.md").read_text()
    section = text.split("## Scored on this machine")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    assert {name.strip("` ") for row in rows for name in row.split(",")} == RULES
