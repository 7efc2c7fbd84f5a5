"""Units that a model knows by place: where they stand, and that they can stand elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.places import laid, laid_among, patch_places  # noqa: E402
from spiketok.recording.nouns import Intervals  # noqa: E402
from spiketok.tokens.schemes import make_scheme  # noqa: E402
from spiketok.tokens.shards import ShardReader, write_shard  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.models.test_models import N_BINS, TASK, A, B, make_batch  # noqa: E402
from tests.models.test_ndt2 import BOTH, ndt2, run  # noqa: E402
from tests.models.test_ndt3 import ndt3, with_returns  # noqa: E402


@pytest.mark.parametrize("groups", [None, list("aabab"), list("cabab")])
def test_places_are_those_of_the_scheme(groups, tmp_path):
    session = decodable_session("made", 0, n_units=5)
    columns = {} if groups is None else {"group": np.array(groups)}
    session = replace(session, units=replace(session.units, columns=columns))
    scheme = make_scheme("patch", patch_size=2, group_by="" if groups is None else "group")
    whole = Intervals([session.start_ns], [session.stop_ns])
    write_shard(tmp_path / "shard", scheme, session, whole, segments_rule="continuous", store_digest="d" * 64)
    baked = scheme.bake(session, whole)
    assert (
        patch_places(ShardReader(tmp_path / "shard").info, 2, "group").tolist() == baked.columns["unit.slot"].tolist()
    )


def test_units_are_laid_as_one_by_one():
    """Two windows of three and two bins, units 0 to 4 in patches of two, unit 3 dropped in one bin."""
    rng = np.random.default_rng(0)
    n_bins, size, n_units = 5, 2, 5
    unit = np.full((n_bins, 6), -1)
    unit[:, :5] = np.arange(5)
    unit[1, 3] = -1
    patch = np.where(unit >= 0, rng.integers(0, 9, unit.shape), 0)
    columns = {
        "patch": torch.tensor(patch.reshape(-1, size), dtype=torch.uint8),
        "unit": torch.tensor(unit.reshape(-1, size), dtype=torch.int32),
        "unit_observed": torch.tensor((unit >= 0).reshape(-1, size), dtype=torch.uint8),
        "time": torch.tensor(np.repeat([0, 1, 2, 0, 1], 3), dtype=torch.int32),
        "space": torch.tensor(np.tile([0, 1, 2], n_bins), dtype=torch.int32),
        "observed": torch.tensor(np.repeat([1, 1, 0, 1, 1], 3), dtype=torch.uint8),
    }
    places = [7, 0, 3, 5, 2]
    found, length = laid(columns, [9, 6], places, size)
    assert length == [12, 8]
    for b in range(n_bins):
        rows = slice(4 * b, 4 * b + 4)
        assert found["time"][rows].tolist() == [[0, 1, 2, 0, 1][b]] * 4
        assert found["observed"][rows].tolist() == [[1, 1, 0, 1, 1][b]] * 4
        assert found["space"][rows].tolist() == [0, 1, 2, 3]
        for slot in range(8):
            here = [u for u in range(n_units) if places[u] == slot and u in unit[b]]
            assert found["unit"].reshape(n_bins, 8)[b, slot] == (here[0] if here else -1)
            assert found["patch"].reshape(n_bins, 8)[b, slot] == (patch[b, here[0]] if here else 0)
            assert found["unit_observed"].reshape(n_bins, 8)[b, slot] == bool(here)
    assert all(found[name].dtype == columns[name].dtype for name in columns)


def placed(kind: str, sessions=(A,), **changes):
    """A model that knows units by place; with returns and a constraint the patches stand among other tokens."""
    if kind == "ndt2":
        return ndt2(sessions, heads=BOTH, **({"session_tokens": 0} | changes))
    return ndt3(sessions, max_patches=12, **({"constraints": "assist", "returns": "return"} if "+" in kind else {}))


def asked(model, batch) -> dict[str, torch.Tensor]:
    if getattr(model.config, "returns", ""):
        value = torch.arange(N_BINS, 0, -1).float().repeat(len(batch)) // 5
        batch = with_returns(model, batch, value)
    return run(model, batch)


EACH_KIND = pytest.mark.parametrize("kind", ["ndt2", "ndt3", "ndt3+returns"])


@EACH_KIND
def test_a_unit_in_another_slot_is_read_there(kind):
    """Units of B put as A's stand, with A's own counts, give what A gives; rates come back in the units' own order."""
    model = placed(kind, (A, B))
    n = A.info.n_units
    batch = make_batch(model, [(A, 3), (A, 60)])
    expected = asked(model, batch)
    order = np.random.default_rng(1).permutation(n)  # row k of the same recording otherwise sorted is A's order[k]
    turned = batch.clone()
    columns = turned.inputs["patches"].columns
    for name in ("patch", "unit"):
        slots = columns[name].reshape(-1, columns[name].shape[1] * (int(columns["space"].max()) + 1))
        moved = slots.clone()
        moved[:, :n] = slots[:, order] if name == "patch" else slots[:, :n]
        columns[name] = moved.reshape(columns[name].shape)
    assert not torch.allclose(asked(model, turned)[TASK], expected[TASK], rtol=1e-3)
    model.put_units(A.info.id, model.unit_places(A.info)[order])
    found = asked(model, turned)
    torch.testing.assert_close(found[TASK], expected[TASK], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["population"], expected["population"][:, order], rtol=1e-4, atol=1e-5)
    assert model.unit_places(A.info).tolist() == order.tolist()


@EACH_KIND
def test_units_may_stand_where_the_session_has_no_patch(kind):
    model = placed(kind)
    before = asked(model, make_batch(model, [(A, 3)]))
    model.put_units(A.info.id, np.arange(A.info.n_units) + 30)
    output = asked(model, make_batch(model, [(A, 3)]))
    assert output[TASK].isfinite().all() and output["population"].isfinite().all()
    assert not torch.allclose(output[TASK], before[TASK], rtol=1e-3)


def test_among_other_kinds_patches_alone_move():
    """Windows of unlike length, one of which begins with a constraint; every other token stays where it was."""
    columns = {
        "patch": torch.tensor([[0, 0], [3, 4], [5, 0], [0, 0], [6, 7], [8, 0], [0, 0], [1, 2], [9, 0], [0, 0]]),
        "unit": torch.tensor(
            [[-1, -1], [0, 1], [2, -1], [-1, -1], [0, 1], [2, -1], [-1, -1], [0, 1], [2, -1], [-1, -1]]
        ),
        "time": torch.tensor([0, 0, 0, 0, 1, 1, 1, 0, 0, 0]),
        "space": torch.tensor([1, 5, 6, 9, 5, 6, 9, 5, 6, 9]),
        "kind": torch.tensor([1, 2, 2, 3, 2, 2, 3, 2, 2, 3]),
        "observed": torch.tensor([1, 1, 1, 1, 0, 0, 1, 1, 1, 1]),
        "value": torch.tensor([0.0, 0, 0, 2, 0, 0, 1, 0, 0, 7]),
    }
    found, length = laid_among(columns, [7, 3], [5, 1, 0], 2, 5)
    assert length == [9, 4]
    assert found["time"].tolist() == [0] * 5 + [1] * 4 + [0] * 4
    assert found["space"].tolist() == [1, 5, 6, 7, 9, 5, 6, 7, 9, 5, 6, 7, 9]
    assert found["kind"].tolist() == [1, 2, 2, 2, 3, 2, 2, 2, 3, 2, 2, 2, 3]
    assert found["observed"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert found["value"].tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7]
    expected = [[0, 0], [5, 4], [0, 0], [0, 3], [0, 0], [8, 7], [0, 0], [0, 6], [0, 0], [9, 2], [0, 0], [0, 1], [0, 0]]
    assert found["patch"].tolist() == expected
    assert found["unit"][1:4].tolist() == [[2, 1], [-1, -1], [-1, 0]]


@EACH_KIND
def test_where_units_stand_is_part_of_the_model(kind):
    model, other = placed(kind, (A, B)), placed(kind, (A, B))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert "put" not in model.extra_state()
    model.put_units(B.info.id, np.arange(B.info.n_units)[::-1])
    other.load_extra_state(json.loads(json.dumps(model.extra_state())))
    other.load_state_dict(model.state_dict())
    for session in (A, B):
        batch = make_batch(model, [(session, 3)])
        assert torch.equal(asked(other, batch)[TASK], asked(model, batch)[TASK])
    assert other.unit_places(B.info).tolist() == model.unit_places(B.info).tolist()


@pytest.mark.parametrize("places", [[0, 1], [0] * 6, [-1, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 10_000]])
def test_places_that_are_none_are_refused(places):
    model = ndt2((A,))
    assert A.info.n_units == 6
    with pytest.raises(DataError, match=f"{len(places)} slots came for 6 units"):
        model.put_units(A.info.id, places)


def test_other_models_know_no_places():
    from spiketok.models.poyo import Poyo, PoyoConfig
    from tests.models.test_models import TIMING, VELOCITY

    model = Poyo(PoyoConfig(dim=16, depth=1, dim_head=8), [VELOCITY], TIMING)
    assert not model.by_place and not model.infers
    for ask in (lambda: model.unit_places(A.info), lambda: model.put_units(A.info.id, [])):
        with pytest.raises(UsageError, match="knows no unit by its place"):
            ask()
