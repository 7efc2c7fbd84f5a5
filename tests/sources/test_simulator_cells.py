"""The simulator's visual sessions, types of cells, regions, and calcium with classes: what it says of them is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import UsageError
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Session, Source
from spiketok.recording.splits import strata
from spiketok.sources.formats.nwb import read_nwb
from spiketok.sources.simulator import CLOCK_HZ, SimulationConfig, latent_names, simulate
from spiketok.sources.simulator.session import simulate_session
from spiketok.sources.simulator.truth import true_rates
from spiketok.tokens.schemes import Frames
from spiketok.tokens.schemes.base import Windows
from tests.made import MS, whole

ONE = {"n_subjects": 1, "sessions_per_subject": 1}


def made(folder: Path, **settings) -> tuple[Session, dict[str, np.ndarray]]:
    (path,) = simulate(SimulationConfig(**ONE, **settings), folder)
    session = read_nwb(path, "made/one", Source(path.name, "0" * 64, 1))
    assert verify_session(session, path) == []  # pynwb reads the same
    with np.load(next(path.parent.glob("*_truth.npz"))) as truth:
        return session, dict(truth)


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> tuple[Session, dict[str, np.ndarray]]:
    """A visual session of two types of cells, imaged."""
    folder = tmp_path_factory.mktemp("visual")
    return made(folder, task="visual", duration_s=80, n_units=40, cell_types=2, calcium_hz=20.0, rate_median_hz=8)


@pytest.mark.parametrize(
    ("settings", "fingerprint", "truth"),
    [
        ({}, "622f78bf9c37b3eb", "ae8b8620ddbded0bad1dd24ffde8111d93c7270a1d4e66ec0acb2bc7faa1cfbd"),
        (
            {"task": "random_target", "calcium_hz": 30.0, "gap_s": 2.0},
            "2f00bbf9d4bc30b3",
            "1c16591548005df8cf4cd3187c6120a97ff94bfac1cdfc63d09125b81791108c",
        ),
    ],
)
def test_older_simulations_keep_their_names_and_their_truth(tmp_path, settings, fingerprint, truth):
    """Digests of before there were types of cells and screens."""
    simulate(SimulationConfig(**ONE, duration_s=8, n_units=4, **settings), tmp_path)
    (record,) = tmp_path.rglob("*_simulation.json")
    facts = json.loads(record.read_text())
    assert facts["fingerprint"] == fingerprint
    assert next(sha256 for name, sha256 in facts["files"].items() if name.endswith("truth.npz")) == truth
    assert "cell_types" not in facts["config"]


def test_the_screen_is_a_stimulus_and_trials_are_classes(visual):
    session, truth = visual
    screen = session.stimuli["screen"]
    assert screen.frames.shape == (141, 32, 32)
    assert len(screen) == 80 * 20
    assert set(np.diff(screen.time_ns).tolist()) == {50 * MS}
    classes = strata(session.trials)
    assert set(classes["direction"]) == {f"{degrees:03d}" for degrees in range(0, 360, 45)}
    assert set(classes["orientation"]) == {"000", "045", "090", "135"}
    columns = Frames().bake(session, whole(session)).columns
    for start, stop, direction in zip(
        session.trials.start_ns, session.trials.stop_ns, classes["direction"], strict=True
    ):
        shown = Frames().cut(columns, Windows(np.array([0]), np.array([start]), int(stop - start)))
        power = np.abs(np.fft.fft2(shown.columns["pixels"] / 255 - 0.5)).sum(axis=0)
        # a grating of three periods has its strongest wave along its direction
        y, x = np.unravel_index(power.argmax(), power.shape)
        found = np.degrees(np.arctan2(-np.fft.fftfreq(32)[y], np.fft.fftfreq(32)[x])) % 180
        assert min(abs(found - int(direction) % 180), 180 - abs(found - int(direction) % 180)) < 15
    movies = session.intervals["movies"]
    firsts = [screen.frame[np.searchsorted(screen.time_ns, t)] for t in movies.start_ns]
    assert set(firsts) == {80}
    assert ((movies.stop_ns - movies.start_ns) == 3 * NS_PER_S).all()
    assert session.signals["running_speed"].value.min() >= 0
    assert truth["latent"].shape == (8000, len(latent_names(SimulationConfig(task="visual", cell_types=2))))


def test_units_are_tuned_to_the_orientation_that_the_truth_says(visual):
    session, truth = visual
    names = truth["latent_name"].tolist()
    x, y = (truth["loading"][:, names.index(f"orientation_{axis}")] for axis in "xy")
    angle = np.radians([float(word) for word in strata(session.trials)["orientation"]])
    correct = 0
    for n in range(len(session.units)):
        time_ns = session.spikes.time_ns[session.spikes.unit == n]
        low, high = (np.searchsorted(time_ns, t + 60 * MS) for t in (session.trials.start_ns, session.trials.stop_ns))
        rate = (high - low).astype(float)
        found = np.angle(((rate - rate.mean()) * np.exp(2j * angle)).sum())
        off = np.angle(np.exp(1j * (found - np.arctan2(y[n], x[n]))))
        correct += abs(off) < np.radians(50)
    assert correct >= 0.8 * len(session.units)


def intervals_ms(session: Session, n: int) -> np.ndarray:
    return np.diff(session.spikes.time_ns[session.spikes.unit == n]) / MS


def test_types_differ_in_their_intervals_and_not_in_their_rates(visual):
    session, truth = visual
    kind = session.units.columns["cell_type"]
    assert kind.tolist() == [("excitatory", "inhibitory")[k] for k in truth["cell_type"]]
    assert 0.15 < (kind == "inhibitory").mean() < 0.6
    assert set(session.units.columns["region"]) == {"M1", "PMd", "S1"}
    short, cv, rates = {}, {}, {}
    for name in ("excitatory", "inhibitory"):
        rows = np.flatnonzero(kind == name)
        gaps = [intervals_ms(session, n) for n in rows]
        short[name] = np.mean([(g < 6.5).mean() for g in gaps])
        # of neighbouring intervals, which a rate that changes hardly touches: 1 of a Poisson process
        cv[name] = np.mean([(2 * np.abs(np.diff(g)) / (g[1:] + g[:-1])).mean() for g in gaps])
        rates[name] = np.log([len(g) for g in gaps])
    assert short["excitatory"] > 0.2 > 0.05 > short["inhibitory"]
    assert cv["inhibitory"] < 0.7 < 1.05 < cv["excitatory"]
    assert abs(rates["excitatory"].mean() - rates["inhibitory"].mean()) < 0.4
    assert min(g.min() for g in (intervals_ms(session, n) for n in range(len(kind)))) > 1.5
    with pytest.raises(UsageError, match="cells with types is not known"):
        true_rates(SimulationConfig(cell_types=2), truth)


def test_cells_that_fire_as_the_other_type():
    """Their intervals are those of the type that they fire as, and nothing else of the session is another."""
    settings = {"duration_s": 60, "n_units": 120, "cell_types": 2, "rate_median_hz": 8}
    plain, other = (
        simulate_session(SimulationConfig(**settings, atypical_fraction=share), 0, 0) for share in (0.0, 0.3)
    )
    kind, fires_as = other.population.cell_type, other.population.fires_as
    np.testing.assert_array_equal(kind, plain.population.cell_type)
    np.testing.assert_array_equal(plain.population.fires_as, kind)
    atypical = fires_as != kind
    assert 0.2 < atypical.mean() < 0.4 and set(kind[atypical].tolist()) == {0, 1}
    short = np.array([(np.diff(ticks) < 6.5 * CLOCK_HZ / 1000).mean() for ticks in other.ticks])
    assert short[fires_as == 0].mean() > 0.2 > 0.05 > short[fires_as == 1].mean()
    same = [np.array_equal(a, b) for a, b in zip(plain.ticks, other.ticks, strict=True)]
    np.testing.assert_array_equal(same, ~atypical)


def test_coupling_is_a_factor_of_the_loadings_on_the_drives():
    settings = {"duration_s": 5, "n_units": 40, "cell_types": 2}
    stronger = SimulationConfig(**settings, coupling=2.0, inhibitory_coupling=0.25)
    plain, other = (simulate_session(config, 0, 0).population for config in (SimulationConfig(**settings), stronger))
    factor = np.where(plain.cell_type == 1, 0.5, 2.0)[:, None]
    assert set(factor.ravel()) == {0.5, 2.0}
    np.testing.assert_allclose(other.loading[:, -3:], plain.loading[:, -3:] * factor, rtol=1e-12)
    np.testing.assert_array_equal(other.loading[:, :-3], plain.loading[:, :-3])


def test_tracked_units_have_the_name_of_their_neuron_and_only_then(tmp_path):
    session, truth = made(tmp_path, duration_s=8, n_units=4, tracked=1, cell_types=2, atypical_fraction=0.5)
    assert session.units.columns["neuron"].tolist() == [f"01-{neuron:05d}" for neuron in truth["neuron"]]
    assert "fires_as" in truth
    simulate(SimulationConfig(**ONE, duration_s=8, n_units=4, cell_types=2), tmp_path / "older")
    facts = json.loads(next((tmp_path / "older").rglob("*_simulation.json")).read_text())
    assert facts["fingerprint"] == "49072f58597817d8"  # of before there were these settings
    assert (
        facts["files"]["sub-S01_ses-CO-day01_truth.npz"]
        == "b2cb019e88ce5fe1a840372498244b6bb669199c1dbdc623d3efe78f9aa7ef4f"
    )
    assert not {"tracked", "coupling", "inhibitory_coupling", "atypical_fraction"} & set(facts["config"])


def test_cells_of_a_region_share_its_drive(visual):
    session, truth = visual
    names, region = truth["latent_name"].tolist(), session.units.columns["region"]
    assert names[-3:] == ["drive_M1", "drive_PMd", "drive_S1"]
    drive = truth["latent"][:, -3:]
    assert np.abs(drive.std(axis=0) - 1).max() < 0.25
    spectrum = np.abs(np.fft.rfft(drive[:, 2])) ** 2
    assert abs(np.fft.rfftfreq(len(drive), 0.01)[spectrum.argmax()] - 9) < 1.5
    counts = np.stack(
        [np.bincount(session.spikes.time_ns[session.spikes.unit == n] // (10 * MS), minlength=8000)
         for n in range(len(region))]
    )  # fmt: skip
    together = np.corrcoef(counts.astype(float), drive.T)[: len(region), len(region) :]
    own = np.array(["M1", "PMd", "S1"])[np.abs(together).argmax(axis=1)]
    assert (own == region).mean() > 0.95
    for k, name in enumerate(("M1", "PMd", "S1")):
        assert (truth["loading"][region != name, len(names) - 3 + k] == 0).all()


def test_calcium_has_classes(visual):
    """Imaged units whose frames, by trial, tell the orientation: as many frames a trial as the rate says."""
    session, _ = visual
    frames, classes = session.signals[FLUORESCENCE], strata(session.trials)["orientation"]
    low, high = (np.searchsorted(frames.time_ns, t) for t in (session.trials.start_ns, session.trials.stop_ns))
    full = high - low >= 9
    response = np.stack([frames.value[a:b].mean(axis=0) for a, b in zip(low[full], high[full], strict=True)])
    label, half = classes[full], int(full.sum()) // 2
    known = sorted(set(label))
    means = np.stack([response[:half][label[:half] == name].mean(axis=0) for name in known])
    guess = ((response[half:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert (np.array(known)[guess] == label[half:]).mean() > 0.7  # one of four by chance


def test_a_longer_visual_session_begins_as_a_shorter_one():
    short, longer = (
        simulate_session(SimulationConfig(task="visual", duration_s=s, n_units=5, cell_types=2), 0, 1) for s in (10, 20)
    )
    np.testing.assert_array_equal(longer.behaviour.frame[:200], short.behaviour.frame)
    for a, b in zip(short.ticks, longer.ticks, strict=True):
        np.testing.assert_array_equal(b[b < 9 * CLOCK_HZ], a[a < 9 * CLOCK_HZ])
        assert a.size
