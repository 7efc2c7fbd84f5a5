"""Units without rows: what tells them, against slow twins; and poyo_id against the trunk that it shares with poyo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Tokens  # noqa: E402
from spiketok.models.inferred import (  # noqa: E402
    LEAST_S,
    MOST_S,
    OTHERS,
    OWN,
    PoolSpikes,
    ReadVectors,
    interval_features,
    spikes_of,
)
from spiketok.models.poyo import Poyo, PoyoConfig  # noqa: E402
from spiketok.models.poyo_id import PoyoId, PoyoIdConfig  # noqa: E402
from spiketok.models.spint import SpintConfig  # noqa: E402
from spiketok.recording.nouns import Intervals, Spikes  # noqa: E402
from spiketok.tokens.schemes import make_scheme  # noqa: E402
from spiketok.tokens.schemes.base import Windows  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.models.test_models import QUICK, TASK, TIMING, VELOCITY, A, make_batch  # noqa: E402

N_UNITS = 7


def recorded(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spikes of two stretches with ties; unit 3 has none, unit 5 one."""
    rng = np.random.default_rng(seed)
    parts = []
    for stretch, n in enumerate((400, 150)):
        unit = rng.choice([0, 1, 2, 4, 6], n)
        time = np.sort(np.round(rng.uniform(0, 20, n), 2))  # some at the same moment
        parts.append((time, unit, np.full(n, stretch)))
    time, unit, stretch = (np.concatenate(column) for column in zip(*parts, strict=True))
    unit[17] = 5
    return torch.tensor(time, dtype=torch.float32), torch.tensor(unit), torch.tensor(stretch)


def slow_features(time: np.ndarray, unit: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    found = np.empty((len(time), 2 * (len(OWN) + len(OTHERS))))
    groups: dict[tuple, list[int]] = {}
    for i in range(len(time)):
        groups.setdefault((stretch[i],), []).append(i)
        groups.setdefault((stretch[i], unit[i]), []).append(i)
    for i in range(len(time)):
        column = 0
        for rows, places in ((groups[stretch[i], unit[i]], OWN), (groups[stretch[i],], OTHERS)):
            at = rows.index(i)
            for k in places:
                for other in (at + k, at - k):
                    inside = 0 <= other < len(rows)
                    apart = abs(time[rows[other]] - time[i]) if inside else MOST_S
                    found[i, column] = (np.log(min(max(apart, LEAST_S), MOST_S)) + 2) / 2
                    column += 1
    return found


def test_intervals_are_those_of_a_slow_twin():
    time, unit, stretch = recorded()
    found = interval_features(time, unit, stretch).numpy()
    np.testing.assert_allclose(found, slow_features(time.numpy(), unit.numpy(), stretch.numpy()), atol=2e-4)


def test_few_spikes_have_intervals_too():
    for n in (0, 1, 2):
        time, unit, stretch = (column[:n] for column in recorded())
        found = interval_features(time, unit, stretch)
        assert found.shape == (n, 2 * (len(OWN) + len(OTHERS))) and found.isfinite().all()


def test_the_pool_is_a_softmax_over_each_units_own_spikes():
    torch.manual_seed(1)
    pool = PoolSpikes(6, 3)
    torch.nn.init.normal_(pool.queries.weight, std=3.0)
    time, unit, stretch = recorded()
    found = pool(time, unit, stretch, N_UNITS).detach().unflatten(1, (3, 6))
    spike = pool.encode_spike(interval_features(time, unit, stretch)).detach()
    for k in range(N_UNITS):
        own = spike[unit == k]
        if not len(own):
            assert not found[k].any()
            continue
        torch.testing.assert_close(found[k], pool.queries(own).softmax(0).detach().T @ own, rtol=1e-4, atol=1e-5)


def test_stretches_begin_at_the_starts_of_units():
    """A later stretch's first spike may come later in it than the last one of the stretch before."""
    spikes = Spikes(np.array([100, 200, 5_000, 5_400]) * 1_000_000, np.array([0, 1, 1, 0], np.int32))
    session = replace(decodable_session("cut", n_units=3, seconds=6.0), spikes=spikes)
    scheme = make_scheme("per-spike")
    columns = scheme.bake(session, Intervals([0], [session.stop_ns])).columns
    cuts = [
        scheme.cut(columns, Windows(np.array([0]), np.array([start]), 300_000_000)).columns
        for start in (0, 4_900_000_000, 5_200_000_000)
    ]
    joined = {key: torch.from_numpy(np.concatenate([cut[key] for cut in cuts])) for key in cuts[0]}
    time, unit, stretch = spikes_of(Tokens(joined, torch.tensor([0, len(joined["time"])])))
    torch.testing.assert_close(time, torch.tensor([0.1, 0.2, 0.1, 0.2]))
    assert unit.tolist() == [0, 1, 1, 0]
    assert torch.unique(stretch, return_inverse=True)[1].tolist() == [0, 0, 1, 2]


def test_vectors_go_through_one_linear_layer_each_at_its_own_scale():
    read = ReadVectors(4, 3)
    vector = torch.tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 20.0, 30.0, 60.0], [torch.nan] * 4])
    found, none = read([Tokens({"vector": vector}), Tokens({"vector": vector[:0]})], [3, 2])
    row = vector[0].double().numpy()
    scaled = torch.tensor((row - row.mean()) / np.sqrt(row.var() + 1e-5), dtype=torch.float32)
    torch.testing.assert_close(found[0], read.project(scaled))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert not found[2].any() and not none.any() and none.shape == (2, 3)
    with pytest.raises(DataError, match="3 vectors of 4 numbers came for 5 units"):
        read([Tokens({"vector": vector})], [5])


# ---- poyo_id --------------------------------------------------------------------------------------------------------


def build(identity: str = "counts", **others) -> PoyoId:
    torch.manual_seed(0)
    config = PoyoIdConfig(**QUICK["poyo_id"], identity=identity, **others)
    model = PoyoId(config, [VELOCITY], TIMING)
    model.add_sessions([A.info])
    return model.eval()


def test_given_poyos_rows_it_is_poyo():
    """The trunk of one model, computed by the other with the same numbers."""
    torch.manual_seed(3)
    poyo = Poyo(PoyoConfig(**QUICK["poyo"]), [VELOCITY], TIMING)
    poyo.add_sessions([A.info])
    poyo.eval()
    model = build()
    shared = {key: value for key, value in poyo.state_dict().items() if key in model.state_dict()}
    assert len(shared) == len(poyo.state_dict()) - 2  # but for the tables
    model.load_state_dict(shared, strict=False)
    with torch.no_grad():
        model.session.copy_(poyo.session_table.weight)
    model._calibrated = {A.info.id: poyo.units.block(A.info.id)}
    windows = [(A, 3), (A, 70), (A, 400)]
    expected = poyo(make_batch(poyo, windows))[TASK]
    found = model(make_batch(model, windows))[TASK]
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected)


def test_an_evaluation_averages_stretches_and_a_training_draws_one():
    model = build("spikes", spikes_block=100, spikes_blocks=3)
    batch = make_batch(model, [(A, 3)])
    spikes = spikes_of(batch.session_inputs["calibration"][0])
    n = len(spikes[0])
    assert n > 500
    (found,) = model.session_identities(batch)
    starts = [0, (n - 100) // 2, n - 100]
    by_hand = [model.to_identity(model.pool(*(c[k : k + 100] for c in spikes), n_units=A.info.n_units)) for k in starts]
    mean = torch.stack(by_hand).mean(0).double()
    expected = (mean - mean.mean(0)) / mean.std(0, unbiased=False) * model.config.init_std
    torch.testing.assert_close(found, expected.float(), rtol=5e-3, atol=1e-4)
    model.train()
    torch.manual_seed(0)
    first, second = (model.session_identities(batch)[0] for _ in range(2))
    assert (first - second).abs().max() > 1e-4
    torch.manual_seed(0)
    torch.testing.assert_close(model.session_identities(batch)[0], first, rtol=0, atol=0)


@pytest.mark.parametrize("identity", ["counts", "spikes"])
def test_without_calibration_all_units_are_the_same(identity):
    model = build(identity)
    batch = make_batch(model, [(A, 3)])
    (tokens,) = batch.session_inputs["calibration"]
    assert model.session_identities(batch)[0].std(0).min() > 1e-2
    batch.session_inputs["calibration"] = [Tokens({k: c[:0] for k, c in tokens.columns.items()}, torch.tensor([0, 0]))]
    (found,) = model.session_identities(batch)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PoyoIdConfig(identity="vectors"), "come from a file: spiketok embed RUN"),
        (lambda: PoyoIdConfig(vectors="ab", vector_dim=3), "model.identity is 'counts' and model.vector_dim 3"),
        (lambda: PoyoIdConfig(identity="vectors", vector_dim=3), "both are set by 'spiketok train --vectors FILE'"),
        (lambda: SpintConfig(vectors="ab"), "both are set by 'spiketok train --vectors FILE'"),
        (lambda: PoyoIdConfig(spikes_block=0), "model.spikes_block is 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, line):
    with pytest.raises(UsageError, match=line):
        make()
