"""POSSM: its chunks, its backbones step by step, its state over windows, its frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from spiketok.models.batch import Asked, Batch, Head, Timing, Tokens  # noqa: E402
from spiketok.models.losses import ctc  # noqa: E402
from spiketok.models.possm import Possm, PossmConfig  # noqa: E402
from spiketok.models.possm_layers import BACKBONES, scan  # noqa: E402
from spiketok.training.checkpoints import start_from  # noqa: E402
from tests.models.test_models import A, B  # noqa: E402

CHUNK_NS = 50_000_000
VELOCITY, LABEL = Head("v", "decode", "values", 2), Head("c", "classify", "classes", 3)
SPELT = Head("s", "sequence", "sequence", 4)
SMALL = {"dim": 16, "dim_head": 8, "rnn_dim": 12, "cross_heads": 2, "dropout_ffn": 0.0, "dropout_rnn": 0.0}
EACH = pytest.mark.parametrize("backbone", BACKBONES)


def possm(heads=(VELOCITY, LABEL), **changes) -> Possm:
    torch.manual_seed(0)
    model = Possm(PossmConfig(**(SMALL | changes)), list(heads), Timing(20 * CHUNK_NS, CHUNK_NS))
    model.add_sessions([A.info, B.info])
    with torch.no_grad():
        for p in model.parameters():  # so that every part speaks
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def windows(model: Possm, start_ns: list[int], n_chunks: int, session=A) -> Batch:
    """Tokens of windows, as the scheme cuts them; 13 queries in each 130 ms."""
    row, columns, length, asked_ns = model.unit_row(session.info), [], [], []
    for start in start_ns:
        stop = start + n_chunks * CHUNK_NS
        inside = (session.time_ns >= start) & (session.time_ns < stop)
        time, unit = session.time_ns[inside] - start, session.unit[inside]
        cut = []
        for chunk in range(n_chunks):
            own = time // CHUNK_NS == chunk
            cut += [(row[u], 0, (t - chunk * CHUNK_NS) / 1e9, chunk) for u, t in zip(unit[own], time[own], strict=True)]
            cut += [] if own.any() else [(0, 3, 0.0, chunk)]
        columns += cut
        length.append(len(cut))
        every = np.arange(-(-start // 10_000_000), stop // 10_000_000 + 1) * 10_000_000 + 1_234_567
        asked_ns.append(every[(every >= start) & (every < stop)])
    ns, n = np.concatenate(asked_ns), [len(a) for a in asked_ns]
    time = ((ns - np.repeat(start_ns, n)) / 1e9).astype(np.float32)
    asked = Asked(
        time=torch.from_numpy(time),
        offset=torch.tensor(np.cumsum([0, *n])),
        ns=ns,
        target=torch.zeros(len(ns), 2),
        weight=torch.ones(len(ns)),
    )
    unit, kind, since, chunk = (np.array(c) for c in zip(*columns, strict=True))
    tokens = {"unit": unit.astype(np.int32), "type": kind.astype(np.uint8), "time": since.astype(np.float32)}
    tokens["chunk"] = chunk.astype(np.int32)
    label = replace(asked, target=torch.zeros(len(ns), dtype=torch.int64))
    return Batch(
        inputs={
            "spikes": Tokens({k: torch.from_numpy(c) for k, c in tokens.items()}, torch.tensor(np.cumsum([0, *length])))
        },
        window_ns=n_chunks * CHUNK_NS,
        session_B=torch.tensor([model.session_row(session.info.id)] * len(start_ns)),
        sessions=[session.info.id] * len(start_ns),
        start_ns=np.array(start_ns, np.int64),
        asked={VELOCITY.task: asked, LABEL.task: label},
    )


@pytest.mark.parametrize(("size", "expected"), [("small", 405_954), ("8M", 7_658_242)])
def test_published_sizes(size, expected):
    model = Possm(PossmConfig(**Possm.sizes[size]), [VELOCITY], Timing(20 * CHUNK_NS, CHUNK_NS))
    assert model.n_fitted() == expected


# ---- backbones ------------------------------------------------------------------------------------------------------


@EACH
def test_a_backbone_step_by_step_is_the_backbone_at_once(backbone):
    torch.manual_seed(0)
    net = BACKBONES[backbone](5, 6, 2, 8, 0.0).eval()
    x = torch.randn(3, 40, 5)
    expected, last = net(x)
    for cuts in ([1] * 40, [7, 1, 30, 2]):
        state, parts = None, []
        for part in x.split(cuts, 1):
            y, state = net(part, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5)
        for a, b in zip(state, last, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_scan_is_its_recurrence():
    torch.manual_seed(0)
    decay, add = torch.rand(2, 13, 3), torch.randn(2, 13, 3)
    h, rows = torch.zeros(2, 3), []
    for t in range(13):
        h = decay[:, t] * h + add[:, t]
        rows.append(h)
    torch.testing.assert_close(scan(decay, add), torch.stack(rows, 1))


@pytest.mark.parametrize(("dt", "chunks"), [((0.1, 1.0), 20), ((1e-3, 1e-1), 2000)])
def test_an_s4d_channel_starts_with_a_memory_of_two_over_its_step(dt, chunks):
    """What is left of a chunk after so many others: at least 1 / e in the slowest channel, in none much more."""
    torch.manual_seed(0)
    net = BACKBONES["s4d"](4, 256, 1, 8, 0.0, dt)
    (layer,) = net.layers
    with torch.no_grad():
        _, state = layer(torch.eye(1, 1 + chunks)[..., None].expand(-1, -1, 256))
        _, first = layer(torch.ones(1, 1, 256))
    left = (state.abs() / first.abs())[0]
    assert 0.3 < float(left.max()) < 1.01 / np.e
    with torch.no_grad():
        layer.log_dt.fill_(np.log(2 / chunks))
        _, state = layer(torch.eye(1, 1 + chunks)[..., None].expand(-1, -1, 256))
        _, first = layer(torch.ones(1, 1, 256))
    torch.testing.assert_close(state.abs() / first.abs(), torch.full_like(first.abs(), 1 / np.e), rtol=1e-3, atol=1e-3)


def test_mamba_starts_with_the_steps_that_are_asked():
    (layer,) = BACKBONES["mamba"](4, 256, 1, 8, 0.0, (0.1, 1.0)).layers
    step = torch.nn.functional.softplus(layer.dt_proj.bias.detach())
    assert 0.1 <= float(step.min()) < 0.12 and 0.9 < float(step.max()) <= 1.0


# ---- state over windows ---------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("n_chunks", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 20))])
def test_windows_one_after_another_give_what_one_long_window_gives(backbone, n_chunks):
    model, total, first = possm(backbone=backbone), 40, 100 * CHUNK_NS
    with torch.no_grad():
        expected = model(windows(model, [first], total))
        carry, parts = None, {task: [] for task in expected}
        for k in range(total // n_chunks):
            output, carry = model.predict(windows(model, [first + k * n_chunks * CHUNK_NS], n_chunks), carry)
            for task, rows in output.items():
                parts[task].append(rows)
        alone = model(windows(model, [first + 20 * CHUNK_NS], 20))["v"]
    for task, rows in expected.items():
        torch.testing.assert_close(torch.cat(parts[task]), rows, rtol=1e-5, atol=1e-5)
    assert (alone - expected["v"][-len(alone) :]).abs().max() > 1e-3, "the past changes nothing"


def test_an_answer_knows_its_chunk_and_nothing_later():
    model = possm()
    batch = windows(model, [0], 10)
    later = batch.clone()
    chunk = later.inputs["spikes"].columns["chunk"]
    later.inputs["spikes"].columns["unit"][chunk >= 6] = int(model.unit_row(A.info)[0])
    with torch.no_grad():
        a, b = model(batch)["v"], model(later)["v"]
    before = torch.from_numpy(batch.asked["v"].ns < 6 * CHUNK_NS)
    assert torch.equal(a[before], b[before])
    assert (a[~before] - b[~before]).abs().max() > 1e-4


def test_dropout_of_chunks_is_of_what_goes_into_the_backbone_in_training_alone():
    model = possm(dropout_chunk=0.9)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = windows(model, [0, 20 * CHUNK_NS], 20)
    with torch.no_grad():
        model(batch)
        model.train()(batch)
    whole, part = seen
    assert (whole != 0).all()
    kept = part != 0
    assert 0.05 < float(kept.float().mean()) < 0.15
    torch.testing.assert_close(part[kept], 10 * whole[kept])


def test_a_query_sees_so_many_chunks():
    """The outputs of other chunks change no answer."""
    model, n = possm(context=3), 10
    batch = windows(model, [0], n)
    seen = torch.randn(1, n, model.config.rnn_dim)
    query = model.session_table(batch.session_B)
    with torch.no_grad():
        expected = model.decode(seen, query, batch, batch.asked["v"], n)
        own = batch.asked["v"].ns // CHUNK_NS
        for chunk in range(n):
            other = seen.clone()
            other[:, chunk] = torch.randn(model.config.rnn_dim)  # a constant would not pass the LayerNorm
            moved = (model.decode(other, query, batch, batch.asked["v"], n) - expected).abs().amax(1) > 1e-6
            assert np.array_equal(moved.numpy(), (own >= chunk) & (own < chunk + 3)), chunk


def test_the_filler_of_the_reference_changes_answers_and_is_off_by_default():
    model = possm()
    one, two = windows(model, [0], 10), windows(model, [0], 10)
    busy = two.inputs["spikes"]  # a spike that comes fifty times, in the last chunk
    again = {key: torch.cat([c, c[-1:].expand(50)]) for key, c in busy.columns.items()}
    two.inputs["spikes"] = Tokens(again, torch.tensor([0, len(again["unit"])]))
    early = torch.from_numpy(one.asked["v"].ns < 9 * CHUNK_NS)
    with torch.no_grad():
        assert torch.equal(model(one)["v"][early], model(two)["v"][early])
        model.config = replace(model.config, reference_quirks=True)
        assert (model(one)["v"][early] - model(two)["v"][early]).abs().max() > 1e-4


# ---- sequences ------------------------------------------------------------------------------------------------------


def spelt(model: Possm, span_s: list[float], labels: list[list[int]]) -> Batch:
    batch = windows(model, [20 * CHUNK_NS * k for k in range(len(span_s))], 20)
    n = [len(own) for own in labels]
    batch.asked = {
        SPELT.task: Asked(
            time=torch.zeros(sum(n)),
            offset=torch.tensor(np.cumsum([0, *n])),
            ns=np.repeat(batch.start_ns, n),
            target=torch.tensor([label for own in labels for label in own]),
            weight=torch.ones(sum(n)),
            span=torch.tensor(span_s),
        )
    }
    return batch


@pytest.mark.parametrize("backbone", ["gru", "s4d"])
def test_frames_end_inside_their_span(backbone):
    model = possm((SPELT,), backbone=backbone)
    batch = spelt(model, [1.0, 0.3, 0.19], [[1, 2], [3], [1]])
    with torch.no_grad():
        output = model(batch)
        whole = model(spelt(model, [1.0, 1.0, 1.0], [[1], [3], [1]]))
    # 20 chunks: 0-3, 2-5 .. 16-19; 6 chunks: 0-3, 2-5; 3 chunks: none
    assert output["s.offset"].tolist() == [0, 9, 11, 11]
    assert torch.equal(output["s"], whole["s"][:11]) and output["s"].shape == (11, 4)


def test_a_sequence_is_learnt():
    model = possm((SPELT,))
    batch = spelt(model, [1.0, 1.0], [[1, 2, 3], [3, 1]])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p is not model.units.weight], 1e-2)
    model.train()
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.loss(batch, model(batch), None)["total"]
        loss.backward()
        optimizer.step()
    best = model(batch)["s"].argmax(-1).split(9)
    read = [[int(k) for k in torch.unique_consecutive(rows) if k] for rows in best]
    assert read == [[1, 2, 3], [3, 1]]


def test_ctc_is_the_sum_over_alignments():
    """Against all paths of a short sequence; windows without labels or frames count for nothing."""
    torch.manual_seed(0)
    logits = torch.randn(4, 3)
    p = logits.softmax(-1)
    paths = torch.cartesian_prod(*[torch.arange(3)] * 4)
    fits = [[int(k) for k in torch.unique_consecutive(path) if k] == [2, 1] for path in paths]
    likelihood = sum(p[torch.arange(4), path].prod() for path, fit in zip(paths, fits, strict=True) if fit)
    label = torch.tensor([2, 1])
    expected = -likelihood.log() / 2
    torch.testing.assert_close(ctc(logits, torch.tensor([0, 4]), label, torch.tensor([0, 2])), expected)
    several = ctc(logits, torch.tensor([0, 0, 4, 4]), label, torch.tensor([0, 0, 2, 2]))
    torch.testing.assert_close(several, expected)
    assert ctc(logits, torch.tensor([0, 4]), label[:0], torch.tensor([0, 0])) == 0


def test_a_run_with_other_tasks_takes_over_all_but_their_rows_and_read_outs():
    base, model = possm(), possm((replace(VELOCITY, task="w"), SPELT, LABEL))
    drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = SimpleNamespace(facts={"extra_state": base.extra_state()}, model=base, path=Path("run"))
    start_from(model, run)
    own = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, drawn[name])}
    left = set(drawn) - own
    assert {name.split(".")[0] for name in left} == {"task_rows", "readouts"}
    assert {name.split(".")[1] for name in left} == {"w", "s"}
    for name in own:
        assert torch.equal(model.state_dict()[name], base.state_dict()[name])


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dt_min", 0.0),
        ("dt_max", 1e-4),
        ("dim", 0),
        ("backbone", "lstm"),
        ("context", 0),
        ("chunk_ms", 0.0),
        ("dropout_rnn", 1.0),
        ("state_dim", 1),
    ],
)
def test_possm_refuses(key, value):
    with pytest.raises(UsageError, match=key):
        PossmConfig(**{key: value})


def test_chunks_that_shards_cannot_hold_are_refused():
    timing = Timing(1_000_000_000, 20_000_000)
    with pytest.raises(UsageError, match="chunk_step_ms is 25"):
        Possm.inputs(PossmConfig(chunk_step_ms=25.0), ["decode"], timing)
    with pytest.raises(UsageError, match="window of 1000 ms does not divide into chunks of 30 ms"):
        Possm.inputs(PossmConfig(chunk_ms=30.0, chunk_step_ms=30.0), ["decode"], timing)
    model = possm((SPELT,), frame_kernel=21)
    with pytest.raises(UsageError, match="a frame takes 21"):
        model(spelt(model, [1.0], [[1]]))
