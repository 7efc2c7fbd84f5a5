"""NuCLR: its size, its three forms on windows made by hand, and that the contrast falls."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.nuclr import Nuclr, NuclrConfig
from spiketok.models.nuclr_layers import contrast, matched
from spiketok.recording.nouns import SessionInfo

SMALL = {"dim": 16, "heads": 2, "dim_head": 8, "time_layers": 1, "unit_layers": 1, "dropout": 0.0, "patch_ms": 100.0}
TIMING = Timing(400_000_000, 20_000_000)
HEAD = Head("embed", "embed", "vectors")


def build(**config) -> Nuclr:
    torch.manual_seed(0)
    model = Nuclr(NuclrConfig(**(SMALL | config)), [HEAD], TIMING).eval()
    model.add_sessions([SessionInfo("made/a", "m", np.array([f"u{i}" for i in range(7)]), 0, 0, 10**10)])
    return model


def batch_of(name: str, columns: dict[str, torch.Tensor], length: list[int]) -> Batch:
    n, none = len(length), torch.zeros(0)
    asked = Asked(none, torch.zeros(n + 1, dtype=torch.int64), np.zeros(0, np.int64), none, none)
    return Batch(
        inputs={name: Tokens(columns, torch.tensor([0, *length]).cumsum(0))},
        window_ns=TIMING.window_ns,
        session_B=torch.zeros(n, dtype=torch.int64),
        sessions=["made/a"] * n,
        start_ns=np.zeros(n, np.int64),
        asked={"embed": asked},
    )


def counted(seed: int = 0, n_windows: int = 2) -> Batch:
    """Seven units, each with a rate of its own; the third is silent."""
    rng = np.random.default_rng(seed)
    rate = np.array([0.3, 0.6, 0, 1, 1.5, 2.2, 3])
    counts = torch.from_numpy(rng.poisson(rate, (n_windows * 20, 7)).astype(np.uint8))
    columns = {"counts": counts, "observed": torch.ones(len(counts), dtype=torch.uint8)}
    return batch_of("counts", columns, [20] * n_windows)


def test_the_published_size():
    model = Nuclr(NuclrConfig(), [HEAD], Timing(10**10, 20_000_000))
    assert sum(p.numel() for p in model.trunk.parameters()) == 6_330_624
    assert sum(p.numel() for p in model.projector.parameters()) == 132_096


def test_units_without_a_spike_have_no_vector():
    output = build()(counted())
    assert output["embed.unit"].tolist() == [0, 1, 3, 4, 5, 6] * 2
    assert output["embed.offset"].tolist() == [0, 6, 12]


def test_spikes_of_each_unit_make_its_vector():
    """A unit's vector depends on when its spikes are; a window without spikes has no vector."""
    unit = torch.tensor([1, 1, 4, 4, 4, 0, 6], dtype=torch.int32)
    time = torch.tensor([0.1, 0.2, 0.05, 0.3, 0.35, 0.11, 0.2])
    model = build(form="spikes")
    output = model(batch_of("spikes", {"unit": unit, "time": time}, [5, 0, 2]))
    assert output["embed.unit"].tolist() == [1, 4, 0, 6] and output["embed.offset"].tolist() == [0, 2, 2, 4]
    time[0] = 0.15
    other = model(batch_of("spikes", {"unit": unit, "time": time}, [5, 0, 2]))
    moved = (other["embed"] - output["embed"]).abs().amax(1)
    assert moved[0] > 1e-6 and (moved[2:] == 0).all()


def test_frames_are_patches_of_each_unit():
    rng = np.random.default_rng(0)
    value = torch.from_numpy(rng.normal(size=(9, 3)).astype(np.float32))  # 9 frames, 3 units
    unit = torch.tensor([2, 3, 5], dtype=torch.int32).repeat(9)
    model = build(form="calcium", frame_hz=22.0)
    batch = batch_of("frames", {"unit": unit, "value": value.flatten()}, [27])
    views = model.views(batch)
    assert views.unit.tolist() == [2, 3, 5]
    assert torch.equal(views.patch, value[:8].T.unflatten(1, (2, 4)))
    with pytest.raises(DataError, match="a window has 9 frames of dF/F, at model.frame_hz 60 it would have about 24"):
        build(form="calcium", frame_hz=60.0).views(batch)


def test_a_window_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(UsageError, match="400 ms is no whole number of patches of 300 ms"):
        build(patch_ms=300.0)


def test_the_share_of_units_that_is_kept():
    model = build().train()
    sizes = set()
    for k in range(40):
        torch.manual_seed(k)
        sizes |= set(model(counted())["embed.offset"].diff().tolist())
    assert sizes == {3, 4, 5, 6}


def test_contrast_against_its_formula():
    """The released form, term by term."""
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(4, 5, generator=rng), dim=1) for _ in range(2))
    i, j = matched(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 7]))
    pull, push = contrast(first, second, (i, j), 0.2, "dcl_full")
    terms = []
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        for x, own, y, other in ((first, a, second, b), (second, b, first, a)):
            across = sum(np.exp(float(x[own] @ y[k]) / 0.2) for k in range(4) if k != other)
            same = sum(np.exp(float(x[own] @ x[k])) for k in range(4) if k != own)
            terms.append(np.log(across + same) - np.log(8))
    assert float(push) == pytest.approx(np.mean(terms), rel=1e-5)
    near = [float(first[a] @ second[b]) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    assert float(pull) == pytest.approx(5 - 5 * np.mean(near), rel=1e-5)


def test_the_contrast_falls_and_pairs_are_needed():
    model = build(keep=1.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for step in range(30):
        batch = counted(step)
        total = model.loss(batch, model(batch), Progress(step, 30))["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    odd = counted(0, 3)
    with pytest.raises(DataError, match="pairs of windows, this batch has 3"):
        model.loss(odd, model(odd), Progress(0, 1))


def named(pull: float, push: float) -> dict[str, object]:
    return {key: pytest.approx(pull + push, rel=1e-5, abs=1e-5) for key in ("embed", "total")}


def test_the_contrast_is_of_single_precision_under_autocast():
    """Vectors of half precision, similarities of full: equal to the formula on the vectors that autocast gave."""
    model = build(keep=1.0)
    batch = counted()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
        terms = model.loss(batch, output, Progress(0, 1))
        seen = model.project(output["embed"])
    assert all(value.dtype == torch.float32 for value in terms.values())
    first, second = seen.detach().numpy().astype(np.float64).reshape(2, 6, -1)
    near = first @ second.T
    same = [np.exp(x @ x.T) * (1 - np.eye(6)) for x in (first, second)]
    across = np.exp(near / 0.2) * (1 - np.eye(6))
    rows = [across.sum(1) + same[0].sum(1), across.sum(0) + same[1].sum(1)]
    push = np.mean([np.log(row / 12).mean() for row in rows])
    found = {key: float(value.detach()) for key, value in terms.items()}
    assert found == named(5 - 5 * np.diag(near).mean(), push)


def test_each_term_of_the_contrast_in_half_precision_is_near_that_in_full():
    """At the same weights; after steps of Adam the two go apart, term by term, and the total less."""
    model = build(keep=1.0)
    found = []
    for half in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(counted())
            views = model.project(output["embed"]).split([6, 6]), output["embed.unit"].split([6, 6])
        found.append([float(term) for term in model.pull_and_push([(*views[0], matched(*views[1]))])])
    assert found[1] == pytest.approx(found[0], rel=0.01)


@pytest.mark.parametrize("form", ["bin", "spikes"])
@pytest.mark.parametrize("loss", ["dcl_full", "vicreg"])
def test_silence_has_a_loss_of_nought_and_finite_gradients(form, loss):
    """Whole batches of silence, and a pair of which one window is silent, beside a pair that is not."""
    model = build(form=form, loss=loss).train()
    for silent in ([0, 1, 2, 3], [0, 1], [2], []):
        torch.manual_seed(0)
        batch = counted(3, 4) if form == "bin" else spiking(4, silent)
        if form == "bin":
            for window in silent:
                batch.inputs["counts"].columns["counts"][20 * window : 20 * (window + 1)] = 0
        model.zero_grad()
        output = model(batch)
        held = output["embed.offset"].diff()
        assert [k for k in range(4) if held[k] == 0] == silent
        terms = model.loss(batch, output, Progress(0, 1))
        terms["total"].backward()
        assert all(value.isfinite() for value in terms.values())
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)
        assert (len(silent) == 4) == (float(terms["total"].detach()) == 0)


def spiking(n_windows: int, silent: list[int]) -> Batch:
    """Three spikes of each of five units, but for windows of silence."""
    length = [0 if k in silent else 15 for k in range(n_windows)]
    n = sum(length) // 15
    unit = torch.arange(5, dtype=torch.int32).repeat_interleave(3).repeat(n)
    time = torch.rand(n * 5, 3, generator=torch.Generator().manual_seed(1)).sort(1)[0].flatten() * 0.4
    return batch_of("spikes", {"unit": unit, "time": time}, length)


def test_a_unit_that_is_silent_in_one_window_is_a_negative_alone():
    """It has no row, and its vector stands among the negatives of the others: the formula over the rest."""
    model = build(keep=1.0)
    batch = counted(5)
    batch.inputs["counts"].columns["counts"][20:, 4] = 0  # unit 4 is silent in the second window
    output = model(batch)
    assert output["embed.unit"].tolist() == [0, 1, 3, 4, 5, 6, 0, 1, 3, 5, 6]
    terms = model.loss(batch, output, Progress(0, 1))
    first, second = (v.detach().numpy().astype(np.float64) for v in model.project(output["embed"]).split([6, 5]))
    place = [0, 1, 2, 4, 5]  # of the shared units in the first window
    near, push = first @ second.T, []
    for k, a in enumerate(place):
        across = sum(np.exp(near[a, j] / 0.2) for j in range(5) if j != k)
        push.append(np.log((across + sum(np.exp(first[a] @ first[b]) for b in range(6) if b != a)) / 11))
        across = sum(np.exp(near[b, k] / 0.2) for b in range(6) if b != a)
        push.append(np.log((across + sum(np.exp(second[k] @ second[j]) for j in range(5) if j != k)) / 11))
    pull = 5 - 5 * np.mean([near[a, k] for k, a in enumerate(place)])
    assert {key: float(value.detach()) for key, value in terms.items()} == named(pull, np.mean(push))
