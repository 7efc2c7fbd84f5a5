"""Modes of the population: what each pass hides and scores, against a slow twin that goes window by window."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from spiketok.errors import UnknownNameError, UsageError
from spiketok.evaluation.ensemble import ensemble
from spiketok.evaluation.report import write_report
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.recording.metrics import bps_of_units, bps_per_unit
from spiketok.recording.nouns import Intervals, Spikes
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loader import Loader
from spiketok.training.loop import build_model, prepare, train
from spiketok.training.predict import predict
from spiketok.training.predictions import read_predictions, write_predictions
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import SequentialWindows, SessionTokens
from spiketok.training.tasks.population import PopulationConfig
from spiketok.training.tasks.population_modes import MODES
from tests.decodable import BIN_NS, bake_tokens, decodable_session
from tests.toys import Toy

N = 7
REGION = np.array(["CA1", "CA1", "VIS", "CA1", "VIS", "alone", "VIS"])
HELD = np.arange(N) == 3
BINS = 25  # of a window
ALL = f"task.population.modes={','.join(MODES)}"


class Described(SessionTokens):
    """A session's shards with unit columns."""

    columns: dict[str, np.ndarray]

    @property
    def info(self):
        return replace(self.reader.info, unit_columns=self.columns)


def described(tokens: SessionTokens, **columns: np.ndarray) -> SessionTokens:
    made = Described(tokens.windowed, tokens.once)
    object.__setattr__(made, "columns", columns)
    return made


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return bake_tokens(tmp_path_factory.mktemp("modes"), decodable_session("m", 3, n_units=N), "binned")


def said(seen: np.ndarray, bin_: np.ndarray, given: np.ndarray | float = 0.0) -> np.ndarray:
    """Log rates ``[..., T, N]`` by a rule: of what is seen of a window, each unit else, and what is given."""
    total = seen.sum(-1, keepdims=True)
    around = total.cumsum(-2) / (1 + bin_[:, None])
    return np.log(0.1 + 0.01 * total + 0.02 * around + 0.03 * np.arange(N)) + given


class Seeing(Toy):
    """Its rates follow from the counts that are not hidden, and from the behaviour where it is given."""

    one_session_batches = True

    def __init__(self) -> None:
        super().__init__()
        self.met: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []

    def forward(self, batch):
        counts = batch.inputs["counts"].columns["counts"].double()
        hidden = batch.hidden.get("counts", torch.zeros(counts.shape, dtype=torch.bool))
        seen = torch.where(hidden, 0.0, counts).unflatten(0, (len(batch), -1)).numpy()
        given = 0.0
        for task in batch.given:
            given = given + batch.asked[task].target.double().mean(1).reshape(len(batch), -1, 1).numpy()
        self.met.append((batch.mode, batch.given, tuple(batch.asked)))
        rates = torch.from_numpy(said(seen, np.arange(seen.shape[1]), given)).flatten(0, 1).float()
        behaviour = {n: torch.zeros(a.target.shape) for n, a in batch.asked.items() if n != "population"}
        return {"population": rates} | behaviour


def asked_of(tokens, *sets, tasks=("population",)):
    config = load_config("ndt1", sets=["data.window_ms=500", "data.batch_size=6", *sets], tasks=list(tasks))
    (divided,), found = prepare(config, [tokens])
    return config, divided, found


def starts_of(divided, config) -> np.ndarray:
    """First bins of the windows, as they are evaluated: half over one another, the last flush with the end."""
    (low,), (high,) = divided.splits["test"].start_ns // BIN_NS, divided.splits["test"].stop_ns // BIN_NS
    step = config.data.eval_step_ns // BIN_NS
    starts = list(range(low, high - BINS + 1, step))
    return np.array(starts + ([high - BINS] if starts[-1] != high - BINS else []))


def twin(counts, starts, passes, always_hidden, ahead, given=None) -> tuple[np.ndarray, np.ndarray]:
    """Rates and counts of the scored elements, both NaN elsewhere: the mean over windows, by plain loops.

    ``passes``: scored units, hidden units and whether the pass scores the last bins (how many) in place of the others.
    """
    total, times = np.zeros(counts.shape), np.zeros(counts.shape)
    for start in starts:
        window = counts[start : start + BINS].astype(float)
        for scored, hidden, last in passes:
            seen = window.copy()
            seen[:, always_hidden] = 0
            seen[BINS - ahead :] = 0
            for unit in hidden:
                seen[:, unit] = 0
            if last:
                seen[BINS - last :] = 0
            more = 0.0 if given is None else given[start : start + BINS].mean(1, keepdims=True)
            rate = np.exp(said(seen, np.arange(BINS), more))
            for t in range(BINS):
                wanted = t >= BINS - last if last else t < BINS - ahead
                for unit in scored if wanted else ():
                    total[start + t, unit] += rate[t, unit]
                    times[start + t, unit] += 1
    known = times > 0
    return np.where(known, total / np.maximum(times, 1), np.nan), np.where(known, counts, np.nan)


def by_hand(mode: str, units: list[int], ahead: int, held: list[int]) -> list:
    """The passes of a mode, written out."""
    of = {word: [u for u in units if REGION[u] == word] for word in dict.fromkeys(REGION[units])}
    if mode == "unit":
        return [([u], [u], 0) for u in units if u not in held] + [([u], held, 0) for u in held]
    if mode == "forward":
        return [(units, [], ahead or 2)]  # 0.1 of 25, rounded to even
    if mode == "encode":
        return [(units, units, 0)]
    if mode == "inter_region":
        return [(own, own, 0) for own in of.values()]
    found = []
    for word, own in of.items():
        if len(own) > 1:
            found += [([u], [u, *(v for v in units if REGION[v] != word)], 0) for u in own]
    return found


@pytest.mark.parametrize("kind", ["plain", "held and forward"])
def test_every_mode_is_its_slow_twin(tokens, kind):
    columns, sets, held, ahead = {"region": REGION}, [], [], 0
    if kind != "plain":
        columns, sets, held, ahead = columns | {"held_out": HELD}, ["task.population.forward_ms=80"], [3], 4
    session = described(tokens, **columns)
    config, divided, (_, decode) = asked_of(session, ALL, *sets, tasks=("population", "decode:hand_vel"))
    model = Seeing()
    answer = predict(model, divided, "test", config)["population"]
    score = answer.score()
    counts = tokens.reader.columns["counts"].astype(float)
    value, valid = session.bin_signal("hand_vel")
    assert valid.all()
    given = (value - np.array(decode.target.mean)) / np.array(decode.target.std)
    starts = starts_of(divided, config)
    rows = (answer.time_ns - BIN_NS // 2) // BIN_NS
    for mode in MODES:
        passes = by_hand(mode, list(range(N)), ahead, held)
        rate, count = twin(counts, starts, passes, held, ahead, given if mode == "encode" else None)
        mine, true = answer.pair(f"{mode}_bps")
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(rate[rows]), err_msg=mode)
        np.testing.assert_allclose(mine, rate[rows], rtol=2e-5, err_msg=mode)
        np.testing.assert_array_equal(true, count[rows])
        assert score[f"{mode}_bps"] == pytest.approx(bps_per_unit(rate, count), rel=1e-4, abs=1e-6)
        each = score[f"{mode}_bps_of"]
        assert list(each) == [f"u{k}" for k in range(N)]
        wanted = bps_of_units(rate, count)
        for unit, bits in zip(each.values(), wanted, strict=True):
            assert (unit is None) == bool(np.isnan(bits))
            assert unit is None or unit == pytest.approx(bits, rel=1e-4, abs=1e-6)
    assert score["intra_region_bps_of"]["u5"] is None  # alone in its region
    # What a model is told, and what it is asked beside: the behaviour in encode alone, where it is given.
    n_batches = -(-len(starts) // 6)
    own = {"": 4 if kind == "plain" else 0, "unit": N, "forward": 1, "intra_region": 6, "inter_region": 3, "encode": 1}
    for mode, n_passes in own.items():
        met = [(given, asked) for word, given, asked in model.met if word == mode]
        if mode == "encode":
            assert met == [(("decode:hand_vel",), ("population", "decode:hand_vel"))] * n_batches
        elif mode:
            assert met == [((), ("population",))] * n_batches * n_passes, mode
        else:  # beside the walk that all tasks share
            assert len(met) == n_batches * (n_passes + 1)


def test_modes_change_no_other_score(tokens):
    """Nor does the walk that all tasks share see what a mode hides."""
    session = described(tokens, region=REGION)
    scores = []
    for sets in ([], [ALL]):
        config, divided, _ = asked_of(session, *sets, tasks=("population", "decode:hand_vel"))
        scores.append({task: a.score() for task, a in predict(Seeing(), divided, "test", config).items()})
    plain, more = scores
    assert plain["decode:hand_vel"] == more["decode:hand_vel"]
    assert {k: more["population"][k] for k in plain["population"]} == plain["population"]
    assert list(more["population"])[: len(plain["population"]) - 1] == list(plain["population"])[:-1]
    config, divided, _ = asked_of(session, ALL)
    assert not [k for k in predict(Seeing(), divided, "test", config, modes=False)["population"].score() if k in more]


def test_causal_stitching_takes_each_scored_bin_from_one_window(tokens):
    """And a time that no window answers in a mode stays unscored."""
    session = described(tokens, region=REGION)
    sets = ["task.population.modes=unit,forward", "data.stitch=causal", "task.population.forward_share=0.2"]
    config, divided, _ = asked_of(session, *sets)
    answer = predict(Seeing(), divided, "test", config)["population"]
    counts = tokens.reader.columns["counts"].astype(float)
    starts = starts_of(divided, config)
    step = config.data.eval_step_ns // BIN_NS
    expected = {"unit_bps": np.full(counts.shape, np.nan), "forward_bps": np.full(counts.shape, np.nan)}
    covered = None
    for start in starts:
        fresh = max(covered if covered is not None else 0, start + BINS - step)
        covered = start + BINS
        for metric, mode in (("unit_bps", "unit"), ("forward_bps", "forward")):
            passes = by_hand(mode, list(range(N)), 5, [])
            rate, _ = twin(counts, [start], passes, [], 0)
            expected[metric][fresh : start + BINS] = rate[fresh : start + BINS]
    rows = (answer.time_ns - BIN_NS // 2) // BIN_NS
    for metric, rate in expected.items():
        np.testing.assert_allclose(answer.rate[metric], rate[rows], rtol=2e-5, err_msg=metric)
    assert np.isfinite(answer.rate["forward_bps"]).any(1).mean() == pytest.approx(5 / step, abs=0.03)


def test_the_truth_of_what_is_not_given_changes_no_rate(tokens, tmp_path):
    """In encode the behaviour does, in the other modes it is not even in the batch."""
    velocity = decodable_session("m", 3, n_units=N)
    signal = velocity.signals["hand_vel"]
    other = replace(velocity, signals={"hand_vel": replace(signal, value=signal.value[::-1].copy())})
    answers = []
    for made in (tokens, bake_tokens(tmp_path, other, "binned")):
        session = described(made, region=REGION)
        config, divided, _ = asked_of(session, ALL, tasks=("population", "decode:hand_vel"))
        answers.append(predict(Seeing(), divided, "test", config)["population"])
    for mode in MODES:
        same = np.array_equal(*(a.rate[f"{mode}_bps"] for a in answers), equal_nan=True)
        assert same == (mode != "encode")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, "its units have no column 'region': name another by task.population.region_column"),
        ({"region": np.array(["M1"] * N)}, "its units are of one region (M1 in column 'region'), two are needed"),
    ],
)
def test_a_session_without_two_regions_says_why(tokens, columns, why):
    config, divided, _ = asked_of(described(tokens, **columns), ALL)
    score = predict(Seeing(), divided, "test", config)["population"].score()
    assert score["intra_region_bps"] is None
    assert score["inter_region_bps"] is None
    assert score["reasons"] == {
        "intra_region_bps": why,
        "inter_region_bps": why,
        "encode_bps": "no behaviour to encode from is asked in it: add a task with labels, as --task decode",
    }
    assert score["unit_bps"] is not None


def test_units_that_were_kept_back_are_in_no_pass(tokens, tmp_path):
    """Named held-out without a spike: neither scored nor hidden for their sake, and no region of their own."""
    session = decodable_session("m", 3, n_units=N)
    heard = session.spikes.unit != 5
    silent = replace(session, spikes=Spikes(session.spikes.time_ns[heard], session.spikes.unit[heard]))
    made = bake_tokens(tmp_path, silent, "binned")
    columns = {"held_out": np.arange(N) == 5, "region": np.where(np.arange(N) == 5, "b", "a")}
    config, divided, (task,) = asked_of(described(made, **columns), "task.population.modes=unit,inter_region")
    score = predict(Seeing(), divided, "test", config)["population"].score()
    assert score["reasons"]["inter_region_bps"].startswith("its units are of one region (a in column")
    assert score["unit_bps_of"]["u5"] is None
    assert sum(bits is not None for bits in score["unit_bps_of"].values()) == N - 1
    passes = [one for one in task.passes(divided.tokens) if one.mode == "unit"]
    assert [one.hide[0].tolist() for one in passes] == [[k] for k in range(N) if k != 5]


def test_settings_of_the_modes_are_checked():
    with pytest.raises(UnknownNameError, match="unknown mode 'units'"):
        PopulationConfig(modes=("units",))
    with pytest.raises(UsageError, match="modes is unit, unit: each mode once"):
        PopulationConfig(modes=("unit", "unit"))
    with pytest.raises(UsageError, match=r"forward_share is 1, must be from 0.001 to below 1"):
        PopulationConfig(forward_share=1)
    assert load_config("ndt1", sets=["task.population.modes=unit,encode"]).task_config("population").modes == (
        "unit",
        "encode",
    )


NDT1 = ["model.dim=16", "model.layers=1", "model.heads=2", "model.hidden=16", "data.window_ms=500"]
SHORT = [*NDT1, "data.batch_size=8", "optim.steps=6", "optim.validate_every=3"]


def test_a_run_writes_its_modes_and_an_ensemble_means_them(tokens, tmp_path):
    session = described(tokens, region=REGION)
    config = [load_config("ndt1", sets=[*SHORT, ALL, f"seed={k}"], tasks=["population", "decode"]) for k in range(2)]
    results = [train(c, [session], tmp_path / f"run{k}") for k, c in enumerate(config)]
    (written,) = [json.loads((tmp_path / "run0/result.json").read_text())["test"]["made/m"]]
    score = written["population"]
    assert score == results[0].scores["made/m"]["population"]
    for mode in MODES:
        each = [bits for bits in score[f"{mode}_bps_of"].values() if bits is not None]
        assert score[f"{mode}_bps"] == pytest.approx(np.mean(each), rel=1e-12)
    means = json.loads((tmp_path / "run0/result.json").read_text())["test_mean"]["population"]
    assert means["encode_bps"] == score["encode_bps"]
    valid = [json.loads(line) for line in (tmp_path / "run0/metrics.jsonl").read_text().splitlines()]
    (line,) = [row for row in valid if row["event"] == "valid" and row["step"] == 3]
    assert not set(line["scores"]["made/m"]["population"]) & {f"{mode}_bps" for mode in MODES}
    files = write_predictions(tmp_path / "predictions", "made/m", results[0].answers["made/m"])
    saved = read_predictions(files[0])
    for mode in MODES:
        rate, count, weight = (saved[f"{mode}_bps.{what}"] for what in ("prediction", "target", "weight"))
        again = bps_per_unit(np.where(weight > 0, rate, np.nan), np.where(weight > 0, count, np.nan))
        assert again == pytest.approx(score[f"{mode}_bps"], rel=1e-12)
    found = ensemble([load_run(tmp_path / f"run{k}") for k in range(2)], [session])
    rates = [result.answers["made/m"]["population"] for result in results]
    if sum(member.taken for member in found.members) == 2:
        mean = np.mean([r.rate["unit_bps"] for r in rates], axis=0)
    else:
        (best,) = [int(m.run[-1]) for m in found.members if m.taken]
        mean = rates[best].rate["unit_bps"]
    expected = bps_per_unit(mean, np.where(np.isfinite(mean), rates[0].count, np.nan))
    assert found.test["made/m"]["unit_bps"] == pytest.approx(expected, rel=1e-12)


def test_a_report_names_reasons_and_keeps_units_out_of_its_page(tokens, tmp_path):
    """Reasons once for all protocols; the values by unit stand in report.json alone."""
    session = described(tokens, region=np.array(["M1"] * N))
    sets = [*SHORT, "task.population.modes=unit,inter_region"]
    train(load_config("ndt1", sets=sets, tasks=["population"]), [session], tmp_path / "run")
    result = evaluate_transfer(load_run(tmp_path / "run"), [session], calibration_s=10, within=True)
    report = write_report(result, tmp_path / "report")
    (line,) = [line for line in report.remarks if "inter_region_bps" in line]
    assert line == "no inter_region_bps of made/m: its units are of one region (M1 in column 'region'), two are needed"
    ((_, columns, rows),) = report.tables
    assert columns[-6:-4] == ["unit_bps", "inter_region_bps"]
    (within,) = [row for row in rows if row["protocol"] == "within" and row["session"] == "made/m"]
    (cell,) = [c for c in report.summary["scores"] if c["protocol"] == "within"]
    assert within["unit_bps"] == cell["score"]["unit_bps"]
    assert list(cell["score"]["unit_bps_of"]) == [f"u{k}" for k in range(N)]
    page = (tmp_path / "report/report.html").read_text()
    assert "bits per spike, one unit hidden" in page
    assert ">u0 " not in page
    assert page.count(line.split(": ", 1)[1].split(" (")[0]) == 1


def test_ndt2_answers_a_mode_in_one_pass_of_its_own(tmp_path):
    """It hides seen tokens in turn to say their rates, which a mode does not score: the others are the same without."""
    sets = ["model.dim=16", "model.layers=1", "model.heads=2", "model.patch_size=4", 'model.group_by=""']
    sets += ["data.window_ms=500"]
    config = load_config("ndt2", sets=[*sets, "task.population.modes=unit,forward"], tasks=["population"])
    session, readers = decodable_session("m", 3, n_units=N), {}
    for name, wanted in run_inputs(config).items():
        scheme, span = scheme_of(wanted), Intervals([session.start_ns], [session.stop_ns])
        shard = tmp_path / name / session.id
        write_shard(shard, scheme, session, span, segments_rule="observed", store_digest="d" * 64)
        readers[name] = ShardReader(shard)
    (divided,), (task,) = prepare(config, [SessionTokens(readers)])
    model = build_model(config, [task], [divided]).eval()
    windows = divided.windows("test")
    row = {divided.id: model.session_row(divided.id)}
    sampler = SequentialWindows([windows], config.data.window_ns)
    loader = Loader([windows], sampler, batch_size=4, tasks=[task], session_rows=row, one_session=True)
    batch, made = next(iter(loader)), []
    encode, model._encode = model._encode, lambda *given: made.append(1) or encode(*given)
    with torch.inference_mode():
        for of in [one for one in task.passes(divided.tokens) if one.mode]:
            shown = task.hide(batch, divided.tokens, of)
            scored = shown.asked["population"].weight
            assert bool((shown.hidden["counts"] | ~scored).all()) and bool(scored.any())
            found = []
            for mode in (of.mode, ""):
                made.clear()
                found.append((model(replace(shown, mode=mode))["population"][scored], len(made)))
            (said, passes), (again, more) = found
            torch.testing.assert_close(said, again, rtol=0, atol=0)
            assert (passes, more) == (1, 1 + max(round(1 / config.model_config().mask_ratio), 2))
