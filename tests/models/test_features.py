"""Features are what a model reads its answers of: its own last layer on them says what it says."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from tests.models.test_models import TASK, build, make_batch, windows_of  # noqa: E402

WITH = (
    "poyo",
    "poyo_plus",
    "capoyo",
    "possm",
    "ndt1",
    "ndt2",
    "stndt",
    "mtm",
    "lfads",
    "ldns",
    "spint",
    "ndt_stitch",
    "mtm_bwb",
)


def features_of(name: str):
    model = build(name)
    batch = make_batch(model, windows_of(model))
    with torch.no_grad():
        said, _ = model.predict(batch)
        found, _ = model.features(batch)
        again, _ = model.predict(batch)
    assert torch.equal(said[TASK], again[TASK])  # nothing is left behind
    return model, said, found


@pytest.mark.parametrize("name", [name for name in WITH if name != "spint"])
def test_the_last_layer_reads_the_answer_of_the_features(name):
    model, said, found = features_of(name)
    with torch.no_grad():
        torch.testing.assert_close(model.last_layers()[TASK](found[TASK]), said[TASK], equal_nan=True)
    assert found[TASK].shape[1] == model.last_layers()[TASK].in_features
    others = [task for task in said if task in model.heads and task != TASK]
    assert all(torch.equal(found[task], said[task]) for task in others)


def test_features_of_spint_are_those_of_each_component_side_by_side():
    model, said, found = features_of("spint")
    n = model.heads[TASK].size
    with torch.no_grad():
        steps = model.read_out(found[TASK].unflatten(1, (n, -1)))
    torch.testing.assert_close(steps[..., -1] / model.config.scale, said[TASK])


@pytest.mark.parametrize("name", ["linear", "neds", "ndt3", "neuroformer"])
def test_a_model_that_names_no_such_layer_says_so(name):
    model = build(name)
    batch = make_batch(model, windows_of(model))
    with pytest.raises(UsageError, match=f"{name} says of no layer"):
        model.features(batch)
