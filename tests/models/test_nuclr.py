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
