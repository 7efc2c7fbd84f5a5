"""What APST promises beside the contract: where its profiles come from, and that it reads by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.apst import ApstConfig, smoothed  # noqa: E402
from spiketok.models.batch import Stretch  # noqa: E402
from spiketok.models.nn import module_key  # noqa: E402
from spiketok.recording import profiles  # noqa: E402
from tests.models.test_models import (  # noqa: E402
    HALF,
    MODELS,
    N_BINS,
    QUICK,
    TASK,
    TIMING,
    VELOCITY,
    A,
    B,
    C,
    build,
    counts_of,
    losses,
    make_batch,
    predict,
    toy,
    train,
)


def stretch(session, rows=slice(None), **changes) -> Stretch:
    """Labelled time of a toy session."""
    counts = counts_of(session)[rows]
    columns = {"counts": {"counts": counts, "observed": np.ones(len(counts), np.uint8)}}
    made = Stretch(columns, {TASK: session.velocity[rows]}, {TASK: np.ones(len(counts), np.float32)})
    return replace(made, **changes)


def made(sessions, **settings):
    """A model with other settings, fitted on these sessions."""
    torch.manual_seed(0)
    model = MODELS["apst"](ApstConfig(**QUICK["apst"] | settings), [VELOCITY], TIMING)
    model.add_sessions([s.info for s in sessions])
    model.fit({s.info.id: [stretch(s)] for s in sessions})
    return model.eval()


def profile_of(model, session) -> torch.Tensor:
    return model.profiles[module_key(session.info.id)].whole


def raw_of(model, session, rows=slice(None)) -> np.ndarray:
    """A unit's raw responses, from the session itself: rows of five bins."""
    counts, velocity = counts_of(session)[rows], session.velocity[rows]
    n = len(counts) // 5
    rate = counts[: 5 * n].reshape(n, 5, -1).sum(1) / 0.1
    behaviour = velocity[: 5 * n].reshape(n, 5, -1).mean(1)
    states = profiles.signed_states(behaviour, model.behaviour_rms.numpy())
    return profiles.responses(profiles.deviations(rate, 0.1), states, 10.0)


def test_a_new_session_is_measured_by_what_was_trained_on():
    """Its profile is that of the formula; nothing else of the model changes, by a bit."""
    model = made((A, B))
    source = np.concatenate([raw_of(model, A), raw_of(model, B)])
    found = profiles.fit_normaliser(source, 4)
    np.testing.assert_allclose(profile_of(model, B).numpy(), found(raw_of(model, B)), rtol=1e-4, atol=1e-5)
    rms = np.sqrt(np.square(np.concatenate([A.velocity, B.velocity]), dtype=np.float64).mean(0))
    np.testing.assert_allclose(model.behaviour_rms.numpy(), rms, rtol=1e-6)

    model.add_sessions([C.info])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert not profile_of(model, C).any()
    model.fit_sessions({C.info.id: [stretch(C, slice(0, 700))]})
    np.testing.assert_allclose(
        profile_of(model, C).numpy(), found(raw_of(model, C, slice(0, 700))), rtol=1e-4, atol=1e-5
    )
    own = f"profiles.{module_key(C.info.id)}."
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if not key.startswith(own))


def test_without_labels_there_is_no_profile():
    model = made((A, B))
    model.add_sessions([C.info])
    model.fit_sessions({C.info.id: [stretch(C, target={}, weight={})]})
    assert not profile_of(model, C).any()
    with pytest.raises(DataError, match=r"toy/c: no 0\.1 s of it are labelled and recorded"):
        model.fit_sessions({C.info.id: [stretch(C, weight={TASK: np.zeros(len(C.velocity))})]})
    with pytest.raises(DataError, match=r"toy/b: no 0\.1 s of it"):
        model.fit({A.info.id: [stretch(A)], B.info.id: []})


def test_what_was_not_recorded_or_labelled_is_in_no_profile():
    model = made((A, B))
    whole, spoilt = stretch(A), stretch(A)
    weight, seen = np.ones(len(A.velocity)), np.ones((len(A.velocity), A.info.n_units), np.uint8)
    weight[200:300], seen[500:600, 2] = 0, 0
    for one, noise in ((whole, 0), (spoilt, 7)):
        columns = one.columns["counts"]
        columns["unit_observed"] = seen
        columns["counts"] = np.where(seen > 0, columns["counts"], noise).astype(np.uint8)
        columns["counts"][200:300] += np.uint8(noise)
    model.fit_sessions({A.info.id: [replace(whole, weight={TASK: weight})]})
    expected = profile_of(model, A).clone()
    model.fit_sessions({A.info.id: [replace(spoilt, weight={TASK: weight})]})
    assert torch.equal(profile_of(model, A), expected)
    assert not torch.equal(made((A, B)).profiles[module_key(A.info.id)].whole, expected)


def test_training_meets_the_profiles_of_stretches():
    """Each as long as is set, evenly over the time; evaluation has that of all of it."""
    model = made((A, B), profile_draws=3, profile_s=10.0)
    drawn = model.profiles[module_key(A.info.id)].drawn
    source = profiles.fit_normaliser(np.concatenate([raw_of(model, A), raw_of(model, B)]), 4)
    for k, first in enumerate((0, 500, 1000)):
        expected = source(raw_of(model, A, slice(first, first + 500)))
        np.testing.assert_allclose(drawn[k].numpy(), expected, rtol=1e-4, atol=1e-5)
    batch = make_batch(model, [(A, 3)])
    expected = predict(model, batch)
    profile_of(model, A).add_(1.0)
    assert not torch.equal(predict(model, batch), expected)
    profile_of(model, A).sub_(1.0)
    before = {float(losses(model.train(), batch)["total"].detach()) for _ in range(20)}
    assert len(before) == 3  # one for each stretch
    assert len({float(losses(made((A, B), profile_draws=0).train(), batch)["total"].detach()) for _ in range(3)}) == 1


def test_one_session_is_trained_on_with_a_line(capsys):
    made((A, B))
    assert not capsys.readouterr().err
    model = made((A,))
    line = "note: apst learns of several sessions what a profile means, and toy/a.1 is alone: sessions that it never"
    assert capsys.readouterr().err.startswith(line)
    assert profile_of(model, A).any()


def test_cosines_of_trials():
    trial_bin = np.arange(0, 1500, 60)
    angle = np.random.default_rng(0).uniform(-3, 3, len(trial_bin))
    settings = {"profile": "cosine", "angle": "direction", "profile_draws": 0, "angle_bins": (5, 30)}
    trials = {"trial_bin": trial_bin, "trial_columns": {"direction": angle}}
    model = MODELS["apst"](ApstConfig(**QUICK["apst"] | settings), [VELOCITY], TIMING)
    model.add_sessions([A.info, B.info])
    model.fit({s.info.id: [stretch(s, **trials)] for s in (A, B)})
    raw = []
    for session in (A, B):
        counts = counts_of(session)
        rate = np.array([counts[t + 5 : t + 30].mean(0) for t in trial_bin])
        design = np.stack([np.cos(angle), np.sin(angle), np.ones(len(angle))], 1)
        cosine, sine, height = np.linalg.solve(design.T @ design, design.T @ rate)
        raw.append(np.stack([cosine, sine, np.hypot(cosine, sine), height], 1))
    source = np.concatenate(raw)
    expected = (raw[1] - source.mean(0)) / source.std(0)
    np.testing.assert_allclose(profile_of(model, B).numpy(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=r"toy/b has no trial column 'direction' \(model\.angle\), it has other"):
        model.fit_sessions({B.info.id: [stretch(B, trial_bin=trial_bin, trial_columns={"other": angle})]})
    with pytest.raises(DataError, match="toy/b: 0 trials of 0 different angles"):
        model.fit_sessions({B.info.id: [stretch(B)]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "cosine"}, "'cosine' needs the trial column"),
        ({"angle": "direction"}, "'cosine' needs the trial column"),
        ({"profile": "cosine", "angle": "direction"}, "profile_draws is 16"),
        ({"half_life_s": (1.0, 2.0)}, "need 1 or 8"),
        ({"reach": ()}, "need a number of bins"),
        ({"reach": (0,)}, "need a number of bins"),
        ({"dim": 30}, r"8 heads \(model\.heads\) do not divide"),
        ({"angle_bins": (5, 5)}, "go up"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        ApstConfig(**settings)


def test_a_bin_sees_what_its_blocks_reach_and_nothing_after_it():
    """Two blocks of four bins, a convolution of five: eleven bins back, and its own."""
    model = made((A, B))
    batch = make_batch(model, [(A, 3)])
    expected = predict(model, batch)
    for t in (2, N_BINS - 5):
        changed = make_batch(model, [(A, 3)])
        changed.inputs["counts"].columns["counts"][t] += 3
        moved = (predict(model, changed) - expected).abs().amax(1) > 1e-7
        assert moved.nonzero().flatten().tolist() == list(range(t, min(t + 11, N_BINS)))


def test_the_loss_of_the_last_bin_alone():
    last = made((A, B), last_bin=True)
    batch = make_batch(last, [(A, 3), (A, 43)])
    said = last(batch)
    rows = torch.tensor([N_BINS - 1, 2 * N_BINS - 1])
    expected = (said[TASK][rows] - batch.asked[TASK].target[rows]).square().mean()
    assert float(last.loss(batch, said, HALF)["total"].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_answers_are_smoothed_in_evaluation_alone():
    plain, smooth = made((A, B), profile_draws=0), made((A, B), profile_draws=0, output_ema=0.5)
    batch = make_batch(plain, [(A, 3), (A, 43)])
    expected = smoothed(predict(plain, batch).unflatten(0, (2, N_BINS)), 0.5).flatten(0, 1)
    torch.testing.assert_close(predict(smooth, batch), expected)
    torch.testing.assert_close(smooth.train()(batch)[TASK], plain.train()(batch)[TASK])


def test_trials_that_do_not_fit_are_refused():
    model = build("apst")
    batch = make_batch(model, [(A, 3)])
    with pytest.raises(DataError, match=r"toy/b: calibration trials of \(8, 6\) .* reads \(8, 9\)"):
        other = make_batch(model, [(B, 3)])
        model(replace(other, session_inputs=batch.session_inputs))
    with pytest.raises(DataError, match=r"no calibration of toy/a\.1"):
        model(replace(batch, session_inputs={}))


def r2(model, session) -> float:
    """Of the second half of a toy session."""
    batch = make_batch(model, [(session, b) for b in range(750, 1500 - N_BINS, N_BINS)])
    said, true = predict(model, batch), batch.asked[TASK].target
    return float(1 - (said - true).square().sum() / (true - true.mean(0)).square().sum())


@pytest.mark.long
def test_a_session_that_was_never_seen_is_read_by_its_profiles_and_not_by_others():
    """The control: the same profiles handed to other units say nothing. It was .60 and -.36 on average."""
    sessions = [toy(f"s{k}", 14, 10 + k) for k in range(8)]
    model = made(sessions[:7], dim=32, heads=4, slot_heads=4, slots=4, profile_draws=4, profile_s=15.0)
    rng = np.random.default_rng(0)
    starts = [rng.integers(0, 1500 - N_BINS, 8).tolist() for _ in range(300)]
    batches = [make_batch(model, [(sessions[i % 7], b) for b in own]) for i, own in enumerate(starts)]
    for part in range(5):
        train(model, batches[60 * part : 60 * (part + 1)], 60, lr=3e-3 * (1 - part / 6), weight_decay=0.01)
    new = sessions[7]
    model.add_sessions([new.info])
    without = r2(model, new)
    model.fit_sessions({new.info.id: [stretch(new, slice(0, 750))]})
    known, own, others = r2(model, new), profile_of(model, new), []
    kept = own.clone()
    for _ in range(5):
        own.copy_(kept[torch.from_numpy(rng.permutation(len(kept)))])
        others.append(r2(model, new))
    assert known > 0.45
    assert without < 0.1 and np.mean(others) < 0.1
