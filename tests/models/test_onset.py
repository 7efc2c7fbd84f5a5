"""onset: its features by hand, the penalty and optimum of scikit-learn, and a world in which only latencies tell."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from sklearn.linear_model import LogisticRegression  # noqa: E402

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens  # noqa: E402
from spiketok.models.onset import Onset, OnsetConfig  # noqa: E402
from spiketok.recording.nouns import SessionInfo  # noqa: E402

MS = 1_000_000
SIDE = Head("classify:side", "classify", "classes", 2, ("l", "r"))
INFO = SessionInfo("made/a", "s", np.array(["u0", "u1", "u2"]), 0, 0, 1000 * MS)
WINDOW, BIN = 100 * MS, 50 * MS


def model_of(**values) -> Onset:
    torch.manual_seed(0)
    model = Onset(OnsetConfig(**values), [SIDE], Timing(WINDOW, BIN))
    model.add_sessions([INFO])
    return model.eval()


def batch_of(spikes: list[list[tuple[float, int]]], label: list[int], asked_of=None) -> Batch:
    """Windows of (ms, unit) spikes, the first of each unit as latency tokens and all of them as counts."""
    first = [[(t, u) for k, (t, u) in enumerate(own) if u not in [of for _, of in own[:k]]] for own in spikes]
    flat = [spike for own in first for spike in own]
    counts = np.zeros((len(spikes), 2, 3), np.uint8)
    for b, own in enumerate(spikes):
        for t, u in own:
            counts[b, int(t // 50), u] += 1
    latency = {
        "time": torch.tensor([t / 1e3 for t, _ in flat], dtype=torch.float32),
        "unit": torch.tensor([u for _, u in flat], dtype=torch.int32),
        "type": torch.zeros(len(flat), dtype=torch.uint8),
    }
    n = len(spikes)
    binned = {"counts": torch.from_numpy(counts).flatten(0, 1), "observed": torch.ones(2 * n, dtype=torch.uint8)}
    offset = torch.tensor(np.cumsum([0, *map(len, first)]))
    start = np.arange(n) * WINDOW
    each = [1] * n if asked_of is None else asked_of
    asked = Asked(
        torch.zeros(sum(each)),
        torch.tensor(np.cumsum([0, *each])),
        np.repeat(start, each),
        torch.tensor(np.repeat(label, each)),
        torch.ones(sum(each)),
    )
    return Batch(
        {"counts": Tokens(binned, torch.arange(n + 1) * 2), "spikes": Tokens(latency, offset)},
        WINDOW, torch.zeros(n, dtype=torch.int64), ["made/a"] * n, start, {SIDE.task: asked}, present=["made/a"],
    )  # fmt: skip


def only(batch: Batch, *names: str) -> Batch:
    return Batch(**{**vars(batch), "inputs": {name: batch.inputs[name] for name in names}})


def test_features_by_hand():
    """Unit 0 fires at 25 and 75 ms, unit 1 four times in the second bin, unit 2 not at all."""
    batch = batch_of([[(25, 0), (75, 0), (80, 1), (81, 1), (82, 1), (83, 1)], []], [0, 1])
    model = model_of(reads="both")
    assert model._latencies(batch.inputs["spikes"], 3, WINDOW)[0].numpy() == pytest.approx(
        np.array([[1, 0.75], [1, 0.2], [0, 0]])
    )
    assert model._counts(batch)[0].tolist() == [[1, 1], [0, 2], [0, 0]]
    assert model.n_features == 4
    said = model(batch)[SIDE.task].detach()
    read_in = next(iter(model.read_in.values()))
    torch.testing.assert_close(said[1], model.bias.detach())  # silence
    by_hand = torch.tensor([[1, 1, 1, 0.75], [0, 2, 1, 0.2], [0, 0, 0, 0]])
    torch.testing.assert_close(
        said[0], (by_hand[..., None] * read_in.weight.detach()).sum((0, 1)) + model.bias.detach()
    )


def test_every_query_of_a_window_gets_its_answer_and_a_window_without_one_none():
    batch = batch_of([[(25, 0)], [(5, 1)], [(9, 2)]], [0, 1, 1], asked_of=[2, 0, 1])
    model = model_of(reads="latency")
    alone = model(only(batch_of([[(25, 0)], [(5, 1)], [(9, 2)]], [0, 1, 1]), "spikes"))[SIDE.task]
    torch.testing.assert_close(model(only(batch, "spikes"))[SIDE.task], alone[[0, 0, 2]])


@pytest.mark.parametrize("reads", ["latency", "counts"])
def test_the_optimum_is_that_of_scikit_learn(reads):
    """With the stated C, on the same features; found here by lbfgs on the model's own loss."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 60)
    spikes = [
        sorted((float(t), u) for u in range(3) for t in rng.uniform(0, 100, rng.poisson(1 + 2 * (u == k))))
        for k in label.tolist()
    ]
    name = {"latency": "spikes", "counts": "counts"}[reads]
    batch, penalty = only(batch_of(spikes, label.tolist()), name), 0.05
    model = model_of(reads=reads, penalty=penalty).train()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=60, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        total = model.loss(batch, model(batch), Progress(0, 1))["total"]
        total.backward()
        return total

    for _ in range(3):  # in float32 a line search may give up early
        optimizer.step(step)
    x = model._latencies(batch.inputs[name], 3, WINDOW) if reads == "latency" else model._counts(batch)
    x = x.flatten(1).double().numpy()
    # two columns of weights that penalise each other are one of half the penalty on their difference
    sk = LogisticRegression(C=2 / (penalty * len(label)), tol=1e-9, max_iter=1000).fit(x, label)
    said = model(batch)[SIDE.task].detach().softmax(-1)[:, 1].numpy()
    assert said == pytest.approx(sk.predict_proba(x)[:, 1], abs=2e-4)


def test_what_only_latencies_tell():
    """Every unit fires once in each window, in one order for one class and in the other for the other."""
    rng = np.random.default_rng(0)
    label = np.arange(80) % 2
    spikes = [
        sorted((20 + 10.0 * (u if k == 0 else 2 - u) + rng.normal(0, 1), u) for u in range(3)) for k in label.tolist()
    ]
    found = {}
    for reads, name in (("latency", "spikes"), ("counts", "counts")):
        batch, model = only(batch_of(spikes, label.tolist()), name), model_of(reads=reads, penalty=1e-4).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
        for _ in range(60):
            optimizer.zero_grad()
            model.loss(batch, model(batch), Progress(0, 1))["total"].backward()
            optimizer.step()
        found[reads] = float((model(batch)[SIDE.task].argmax(-1).numpy() == label).mean())
    assert found["latency"] == 1.0
    assert found["counts"] == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="model.penalty is -1"):
        OnsetConfig(penalty=-1)
    batch = batch_of([[(25, 0)]], [0])
    long = Tokens({k: torch.cat([c, c]) for k, c in batch.inputs["counts"].columns.items()}, torch.tensor([0, 4]))
    with pytest.raises(DataError, match="windows of 4 bins, onset was made for 2: all must be of one length"):
        model_of()(Batch(**{**vars(batch), "inputs": {"counts": long}}))
