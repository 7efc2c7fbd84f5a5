"""The blocks: every attention backend gives the same, forward and backward; times and tables keep their laws."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models import masking  # noqa: E402
from spiketok.models.batch import Asked, Batch, Head, Stretch, mean_counts  # noqa: E402
from spiketok.models.losses import (  # noqa: E402
    behaviour_losses,
    mallow_distance,
    nt_xent,
    poisson_log_rate,
    poisson_rate,
    softened_counts,
    softened_cross_entropy,
    weighted_cross_entropy,
    weighted_mse,
)
from spiketok.models.nn import (  # noqa: E402
    ATTENTION,
    FIRST,
    NEVER,
    EncoderBlock,
    RotaryTime,
    ScaleNorm,
    Visible,
    attention,
    band_mask,
    causal_attention,
    module_key,
    rotary_steps,
    rotate,
    rotate_halves,
    sinusoidal_position,
)
from spiketok.models.vocabulary import Vocabulary  # noqa: E402

# ---- attention ------------------------------------------------------------------------------------------------------

LENGTHS = {
    "self": ([5, 1, 9, 3, 3], None),
    "cross, equal queries": ([4] * 6, [7, 2, 30, 1, 8, 8]),
    "cross": ([4, 1, 3, 6], [7, 2, 30, 1]),
    "equal": ([4] * 3, [6] * 3),
    "one": ([3], [5]),
    "empty keys and queries": ([3, 0, 2, 4], [5, 4, 0, 6]),
    "more than a bucket": ([2] * 11, list(range(1, 12))),
}
CPU_BACKENDS = ["auto", "loop", "bucket", "padded", "nested"]


def slow_attention(query, key, value, query_length, key_length):
    """Softmax attention by loops over windows, heads and queries."""
    out, q0, k0 = torch.zeros_like(query), 0, 0
    for n_query, n_key in zip(query_length, key_length, strict=True):
        for row in range(q0, q0 + n_query):
            for head in range(query.shape[1]):
                if n_key:
                    score = key[k0 : k0 + n_key, head] @ query[row, head] / math.sqrt(query.shape[2])
                    out[row, head] = torch.softmax(score, 0) @ value[k0 : k0 + n_key, head]
        q0, k0 = q0 + n_query, k0 + n_key
    return out


def attention_case(name: str, width: int = 8):
    query_length, key_length = LENGTHS[name]
    key_length = query_length if key_length is None else key_length
    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(query_length), 2, width), (sum(key_length), 2, width), (sum(key_length), 2, width)]
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes], query_length, key_length


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_attention_backends_are_the_slow_twin(backend, name):
    tensors, query_length, key_length = attention_case(name)
    direction = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    expected = slow_attention(*(t.detach().double() for t in tensors), query_length, key_length)
    out = attention(*tensors, query_length, key_length, backend=backend)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad((out * direction).sum(), tensors)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    parts, q0, k0 = [], 0, 0
    for n_query, n_key in zip(query_length, key_length, strict=True):
        q, k, v = doubles[0][q0 : q0 + n_query], doubles[1][k0 : k0 + n_key], doubles[2][k0 : k0 + n_key]
        score = torch.einsum("qhe,khe->hqk", q, k) / math.sqrt(q.shape[-1])
        parts.append(torch.einsum("hqk,khe->qhe", score.softmax(-1), v) if n_key else torch.zeros_like(q))
        q0, k0 = q0 + n_query, k0 + n_key
    expected = torch.autograd.grad((torch.cat(parts) * direction).sum(), doubles)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no CUDA GPU is here, which varlen and nested kernels need: run it on a machine that has one",
)
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize(
    ("backend", "dtype"), [("varlen", "bfloat16"), ("auto", "bfloat16"), ("auto", "float32"), ("padded", "float32")]
)
def test_attention_on_a_gpu_is_the_cpus(backend, dtype, name):
    tensors, query_length, key_length = attention_case(name, width=32)
    tolerance = 1e-4 if dtype == "float32" else 3e-2
    there = [t.detach().cuda().to(getattr(torch, dtype)).requires_grad_() for t in tensors]
    here = [t.detach().float().cpu().requires_grad_() for t in there]  # the same rounded numbers
    out, expected = (
        attention(*there, query_length, key_length, backend=backend),
        attention(*here, query_length, key_length, backend="loop"),
    )
    torch.testing.assert_close(out.float().cpu(), expected, rtol=tolerance, atol=tolerance)
    got, wanted = torch.autograd.grad(out.sum(), there), torch.autograd.grad(expected.sum(), here)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.float().cpu(), b, rtol=tolerance, atol=tolerance)


def test_the_backend_that_auto_takes():
    from spiketok.models import nn

    query = torch.zeros(1, 1, 8)
    assert nn._choose(query, True, 0.0) == "loop"
    assert nn._choose(query, False, 0.0) == "bucket"
    assert set(CPU_BACKENDS) - {"auto"} | {"varlen"} == set(ATTENTION)


def orders(length: list[int], seed: int, context: int = 2) -> torch.Tensor:
    """Bins of the rows of each window in any order, the last rows of a window context, and some rows seen by none."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for n in length:
        own = torch.randint(0, 4, (n,), generator=generator)
        own[torch.rand(n, generator=generator) < 0.2] = NEVER
        own[max(n - context, 0) :] = FIRST
        parts.append(own)
    return torch.cat(parts)


@pytest.mark.parametrize("name", LENGTHS)
def test_attention_by_order_is_the_slow_twin(name):
    """Each query by itself over the keys whose order is not above its own; a query that sees none gives zeros."""
    (query, key, value), query_length, key_length = attention_case(name)
    q_order, k_order = orders(query_length, 1), orders(key_length, 2)
    q_order[q_order == NEVER] = 1
    visible = Visible.of(q_order, k_order, query_length, key_length)
    out = attention(query, key, value, query_length, key_length, mask=visible)
    expected, q0, k0 = torch.zeros(out.shape, dtype=torch.float64), 0, 0
    for n_query, n_key in zip(query_length, key_length, strict=True):
        for row in range(q0, q0 + n_query):
            seen = [j for j in range(k0, k0 + n_key) if int(k_order[j]) <= int(q_order[row])]
            if seen:
                alone = [t.detach().double() for t in (query[row : row + 1], key[seen], value[seen])]
                expected[row] = slow_attention(*alone, [1], [len(seen)])[0]
        q0, k0 = q0 + n_query, k0 + n_key
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (query, key, value)))


@pytest.mark.parametrize("band", [(0, 1), (1, 0), (2, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("lengths", [[6, 1, 9, 4], [7] * 3, [5, 0, 8]], ids=["ragged", "equal", "with an empty one"])
def test_a_band_over_windows_of_any_lengths_is_a_mask_of_the_whole_batch(band, lengths):
    """The dense twin: one mask over all rows, from windows, orders and the two special orders, element by element."""
    (forward, backward), n = band, sum(lengths)
    torch.manual_seed(0)
    query, key, value = (torch.randn(n, 2, 8, requires_grad=True) for _ in range(3))
    order, window = orders(lengths, 3, context=1), np.repeat(np.arange(len(lengths)), lengths)
    dense = torch.zeros(n, n, dtype=torch.bool)
    for q, k in itertools.product(range(n), range(n)):
        own, other = int(order[q]), int(order[k])
        if own == FIRST or other in (FIRST, NEVER):
            seen = other == FIRST
        else:
            seen = (forward < 0 or other - own <= forward) and (backward < 0 or own - other <= backward)
        dense[q, k] = bool(seen and window[q] == window[k])
    # what a row sees that none sees is nobody's business
    asked = order != NEVER
    out = attention(query, key, value, lengths, lengths, mask=Visible.of(order, order, lengths, lengths, band=band))
    expected = attention(query, key, value, [n], [n], mask=dense)
    torch.testing.assert_close(out[asked], expected[asked], rtol=1e-5, atol=1e-6)
    grads = (torch.autograd.grad(o[asked].square().sum(), (query, key, value)) for o in (out, expected))
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_band_over_bins_is_band_mask():
    order = torch.arange(7)
    for band in ((0, 2), (4, 8), (1, -1), (-1, 3), (0, -1)):
        assert torch.equal(Visible.of(order, order, [7], [7], band=band).shared, band_mask(7, *band)), band


def test_windows_with_the_same_orders_share_one_mask():
    """And give what they give one by one; no mask is of more rows than a window has."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(15, 2, 8) for _ in range(3))
    own = torch.tensor([2, 0, 1, NEVER, FIRST])
    one = Visible.of(own.repeat(3), own.repeat(3), [5] * 3, [5] * 3)
    assert one.shared.tolist() == [[int(k) <= int(q) for k in own] for q in own]
    apart = Visible(one.query, one.key)
    a, b = (attention(query, key, value, [5] * 3, [5] * 3, mask=v) for v in (one, apart))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    other = own.repeat(3)
    other[7] = 3
    for order, length in ((other, [5] * 3), (own.repeat(3), [5, 4, 6]), (own.repeat(3), [15, 0])):
        assert (Visible.of(order, order, length, length).shared is None) == (length != [15])


@pytest.mark.parametrize("length", [[5, 5, 5], [4, 6, 5], [0, 10, 5]])
def test_a_row_may_see_itself_whatever_its_order(length):
    """Rows that nobody sees see themselves beside what their order lets them see."""
    torch.manual_seed(0)
    x, order = torch.randn(15, 2, 8), torch.tensor([2, 0, 1, NEVER, FIRST]).repeat(3)
    query = torch.where(order == NEVER, 1, order)
    visible = Visible.of(query, order, length, length, itself=True)
    assert (visible.shared is None) == (length != [5, 5, 5])
    out, expected, start = attention(x, x, x, length, length, mask=visible), [], 0
    for n in length:
        for row in range(start, start + n):
            seen = [j for j in range(start, start + n) if order[j] <= query[row] or j == row]
            expected.append(slow_attention(x[row : row + 1].double(), *[x[seen].double()] * 2, [1], [len(seen)])[0])
        start += n
    torch.testing.assert_close(out.double(), torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_an_encoder_block_takes_the_rule():
    """Block-causal with context: a row's output is that of the rows that it sees, put alone."""
    torch.manual_seed(0)
    block = EncoderBlock(8, 2, 12, pre_norm=False, activation="gelu").eval()
    order = torch.tensor([0, 0, 1, 2, FIRST])
    x = torch.randn(5, 8)
    out = block(x, [5], Visible.of(order, order, [5], [5]))
    for row, seen in ((1, [0, 1, 4]), (2, [0, 1, 2, 4]), (4, [4])):
        alone = block(x[seen], [len(seen)])
        torch.testing.assert_close(out[row], alone[seen.index(row)], rtol=1e-5, atol=1e-5)


def test_attention_refuses_wrong_lengths():
    tensors, query_length, key_length = attention_case("cross")
    with pytest.raises(DataError, match="13 and 40, expected 14 queries"):
        attention(*tensors, [*query_length[:-1], 5], key_length)
    with pytest.raises(DataError, match="equal lengths"):
        attention(*tensors, query_length, key_length, mask=torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"no dropout.*0\.1"):
        attention(*tensors, query_length, key_length, dropout=0.1, backend="varlen")


def test_no_windows_at_all():
    empty = torch.zeros(0, 2, 8)
    assert attention(empty, empty, empty, [], []).shape == (0, 2, 8)


# ---- time -----------------------------------------------------------------------------------------------------------


def test_rotary_periods_are_poyos():
    """16 frequencies for a head of 64, log-spaced from 0.1 ms to 2.0627 s; the other half stands still."""
    rotary = RotaryTime(64)
    period = 2 * math.pi / rotary.omega.double().numpy()
    np.testing.assert_allclose(period[[0, -1]], [1e-4, 2.0627], rtol=1e-5)
    np.testing.assert_allclose(np.diff(np.log(period)), math.log(2.0627 / 1e-4) / 15, rtol=1e-4)
    turn = rotary(torch.tensor([0.3]))
    assert turn.shape == (1, 32)
    assert turn.dtype == torch.complex64
    assert (turn[0, 16:] == 1).all()


def test_rotate_turns_adjacent_pairs():
    turn = torch.polar(torch.ones(2), torch.tensor([math.pi / 2, 0.3]))[None]
    got = rotate(torch.tensor([[1.0, 2.0, 1.0, 0.0]]), turn)
    torch.testing.assert_close(got, torch.tensor([[-2.0, 1.0, math.cos(0.3), math.sin(0.3)]]))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 1, width=32))
def test_rotation_depends_on_the_difference_of_times_only(seed, shift):
    generator = torch.Generator().manual_seed(seed)
    rotary = RotaryTime(16, t_min_s=0.05)
    q, k = torch.randn(2, 16, generator=generator)
    a, b = torch.rand(2, generator=generator)

    def score(shift):
        return rotate(q, rotary(a + shift)) @ rotate(k, rotary(b + shift))

    assert float(score(shift)) == pytest.approx(float(score(0.0)), abs=1e-3)
    torch.testing.assert_close(rotate(rotate(q, rotary(a)), rotary(a).conj()), q, rtol=1e-5, atol=1e-5)


def test_half_precision_does_not_reach_the_time():
    rotary = RotaryTime(8).to(torch.bfloat16)
    time = torch.tensor([0.12345])
    exact = RotaryTime(8)(time)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(RotaryTime(8)(time), exact)
        assert rotate(torch.ones(1, 8, dtype=torch.bfloat16), exact).dtype == torch.bfloat16
    assert rotary(time).dtype == torch.complex64
    torch.testing.assert_close(rotary(time), exact)


def test_rotary_refuses_odd_heads():
    with pytest.raises(UsageError, match="dim_head is 6"):
        RotaryTime(6)


def test_rotary_steps_turn_halves():
    x, step = torch.randn(5, 3, 8), torch.tensor([0, 1, 2, 7, 40])
    turned = rotate_halves(x, rotary_steps(step, 8)[:, None])
    for i in range(4):
        angle = (step * 10_000 ** (-2 * i / 8))[:, None]
        a, b = x[..., i], x[..., i + 4]
        torch.testing.assert_close(turned[..., i], a * angle.cos() - b * angle.sin())
        torch.testing.assert_close(turned[..., i + 4], b * angle.cos() + a * angle.sin())
    later = rotate_halves(x, rotary_steps(step + 100, 8)[:, None])
    torch.testing.assert_close(torch.einsum("lhe,mhe->lm", turned, turned), torch.einsum("lhe,mhe->lm", later, later))
    assert rotate_halves(x.bfloat16(), rotary_steps(step, 8)[:, None]).dtype == torch.bfloat16


def test_a_block_turns_queries_and_keys_alone():
    block = EncoderBlock(8, 2, 16, norm=ScaleNorm).double()
    assert isinstance(block.norm_attention, ScaleNorm) and isinstance(block.norm_hidden, ScaleNorm)
    x, step = torch.randn(6, 8, dtype=torch.float64), torch.arange(6)
    for shift in (0, 3):  # only differences of steps tell
        turn = rotary_steps(step + shift, 4).to(torch.complex128)
        torch.testing.assert_close(
            block(x, [6], turn=turn), block(x, [6], turn=rotary_steps(step, 4)), atol=1e-5, rtol=0
        )
    assert not torch.allclose(block(x, [6], turn=rotary_steps(step, 4)), block(x, [6]), atol=1e-3)


def test_sinusoidal_positions():
    table = sinusoidal_position(5, 6, first=1)
    assert table.shape == (5, 6)
    assert table[2, 0] == pytest.approx(math.sin(3))
    assert table[2, 3] == pytest.approx(math.cos(3 / 10_000 ** (2 / 6)), abs=1e-6)


# ---- encoder block --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_block_is_torchs(pre_norm, activation):
    torch.manual_seed(0)
    ours = EncoderBlock(12, 3, 20, pre_norm=pre_norm, activation=activation).eval()
    theirs = torch.nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, activation=activation, batch_first=True, norm_first=pre_norm
    ).eval()
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for a, b in (
            (theirs.self_attn.in_proj_weight, ours.to_qkv.weight),
            (theirs.self_attn.in_proj_bias, ours.to_qkv.bias),
            (theirs.self_attn.out_proj.weight, ours.to_out.weight),
            (theirs.self_attn.out_proj.bias, ours.to_out.bias),
            (theirs.linear1.weight, ours.to_hidden.weight),
            (theirs.linear1.bias, ours.to_hidden.bias),
            (theirs.linear2.weight, ours.from_hidden.weight),
            (theirs.linear2.bias, ours.from_hidden.bias),
            (theirs.norm1.weight, ours.norm_attention.weight),
            (theirs.norm1.bias, ours.norm_attention.bias),
            (theirs.norm2.weight, ours.norm_hidden.weight),
            (theirs.norm2.bias, ours.norm_hidden.bias),
        ):
            a.copy_(b)
    x = torch.randn(4, 7, 12)
    mask = band_mask(7, 1, 3)
    expected = theirs(x, src_mask=~mask)
    torch.testing.assert_close(ours(x.flatten(0, 1), [7] * 4, mask), expected.flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_band_mask():
    expected = [[-2 <= key - query <= 1 for key in range(5)] for query in range(5)]
    assert band_mask(5, 1, 2).tolist() == expected
    assert band_mask(5, -1, 2).tolist() == band_mask(5, 99, 2).tolist()
    assert band_mask(5, 1, -1).tolist() == band_mask(5, 1, 99).tolist()
    assert band_mask(5, 0, 0).tolist() == torch.eye(5, dtype=torch.bool).tolist()
    assert band_mask(5, -1, -1) is None


def test_scale_norm_leaves_the_direction():
    norm = ScaleNorm(4)
    x = torch.tensor([[3.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    out = norm(x)
    torch.testing.assert_close(out[0], 2.0 * x[0] / 5.0)
    out.sum().backward()
    assert (out[1] == 0).all()
    assert x.grad.isfinite().all()


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_vocabulary_grows_and_old_rows_stay():
    torch.manual_seed(0)
    table = Vocabulary(3, padding=True)
    table.extend({"d/a": ["d/a/0", "d/a/1"]})
    value = table.table().detach().clone()
    table.extend({"d/b.1": ["d/b.1/0"], "d/c": ["d/c/0"]})
    assert [name for name, _ in table.named_parameters()] == ["weight"]
    assert torch.equal(table.table()[:3], value)
    assert [table.rows(b).tolist() for b in ("d/a", "d/b.1", "d/c")] == [[1, 2], [3], [4]]
    assert table.rows("d/a").dtype == np.int32
    assert torch.equal(table(torch.tensor([0, 3])), torch.stack([torch.zeros(3), table.block("d/b.1")[0]]))
    assert len(table) == 5
    assert 0 < table.block("d/a").std() < 0.1


def test_vocabulary_draws_block_by_block_as_one_by_one():
    blocks = {f"s{k}": [str(i) for i in range(k + 3)] for k in range(9)}
    torch.manual_seed(4)
    together, drawn = Vocabulary(5, padding=False), []
    together.extend(blocks)
    torch.manual_seed(4)
    apart = Vocabulary(5, padding=False)
    for block, words in blocks.items():
        apart.extend({block: words})
    torch.manual_seed(4)
    drawn = [torch.randn(len(words), 5) * 0.02 for words in blocks.values()]
    assert torch.equal(together.weight, apart.weight)
    assert torch.equal(together.weight, torch.cat(drawn))


@given(st.integers(0, 10**6), st.booleans())
def test_vocabulary_reads_and_differentiates_as_a_dense_embedding(seed, padding):
    """Its gradient holds the rows that were read and no others."""
    generator = torch.Generator().manual_seed(seed)
    table = Vocabulary(3, padding=padding)
    values = [torch.randn(n, 3, generator=generator) for n in (3, 0, 2)]
    table.extend({"a": list("uvw"), "b": [], "c": list("xy")}, values)
    dense = torch.cat([torch.zeros(int(padding), 3), table.weight.detach()]).requires_grad_()
    row = torch.randint(len(dense), (4, 3), generator=generator, dtype=torch.int32)
    direction = torch.randn(4, 3, 3, generator=generator)
    found, expected = table(row), torch.nn.functional.embedding(row, dense)
    assert torch.equal(found, expected)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    grad = table.weight.grad.coalesce()
    torch.testing.assert_close(grad.to_dense(), dense.grad[int(padding) :])
    read = {max(int(r) - int(padding), 0) for r in row.flatten()}
    assert set(grad.indices()[0].tolist()) == read


def test_vocabulary_state_is_json_and_keeps_the_order():
    table = Vocabulary(2, padding=False)
    table.extend({block: [f"{block}{i}" for i in range(2)] for block in ("z", "a", "m")})
    other = Vocabulary(2, padding=False)
    other.extend({"left over": ["x"]})
    other.load_state(json.loads(json.dumps(table.state())))
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.table(), table.table())
    for block, rows in (("z", [0, 1]), ("a", [2, 3]), ("m", [4, 5])):
        assert other.rows(block).tolist() == table.rows(block).tolist() == rows
    assert other.words == table.words


def test_vocabulary_given_values_and_empty_blocks():
    table = Vocabulary(2, padding=True)
    assert len(table) == 1
    table.extend({"silent": [], "b": ["b0", "b1"]}, [torch.zeros(0, 2), torch.tensor([[1.0, 2.0]])])
    assert table.table().tolist() == [[0, 0], [1, 2], [1, 2]]
    assert table.rows("silent").tolist() == []
    table.extend({})
    assert len(table) == 3


def test_vocabulary_refuses():
    table = Vocabulary(2, padding=True)
    table.extend({"a": ["x", "y"]})
    before = copy.deepcopy(table.state())
    for block, words, said in (("b", ["z", "y", "z"], "'z' of block 'b' stands twice"), ("a", ["z"], "block 'a'")):
        with pytest.raises(DataError, match=said):
            table.extend({block: words})
    with pytest.raises(DataError, match="no block 'w' among its 1"):
        table.rows("w")
    assert table.state() == before


def test_module_keys_have_no_dots_and_do_not_meet():
    names = ["d/s.1", "d/s1", "d/s%2E1", "d/s 1", "d/é"]
    keys = [module_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert not any("." in key for key in keys)


# ---- losses ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 3))
def test_weighted_mse_is_its_slow_twin(seed, n, c):
    rng = np.random.default_rng(seed)
    prediction, target, weight = rng.normal(size=(n, c)), rng.normal(size=(n, c)), rng.uniform(0.1, 2, n)
    slow = sum(w * np.mean((p - t) ** 2) for w, p, t in zip(weight, prediction, target, strict=True)) / sum(weight)
    assert float(weighted_mse(*(torch.from_numpy(a) for a in (prediction, target, weight)))) == pytest.approx(slow)


def test_losses_leave_out_what_is_absent():
    prediction = torch.tensor([[1.0], [torch.nan]], requires_grad=True)
    loss = weighted_mse(prediction, torch.tensor([[3.0], [0.0]]), torch.tensor([2.0, 0.0]))
    loss.backward()
    assert loss == 4.0
    assert prediction.grad.tolist() == [[-4.0], [0.0]]
    assert weighted_mse(prediction.detach(), torch.zeros(2, 1), torch.zeros(2)) == 0.0


def test_poisson_loss():
    log_rate = torch.tensor([[0.5, 100.0], [torch.inf, -1.0]], requires_grad=True)
    count = torch.tensor([[2, 9], [1, 0]], dtype=torch.uint8)
    scored = torch.tensor([[True, False], [False, True]])
    loss = poisson_log_rate(log_rate, count, scored)
    theirs = torch.nn.PoissonNLLLoss(log_input=True, full=False)(log_rate[scored], count[scored].float())
    torch.testing.assert_close(loss, theirs)
    loss.backward()
    assert log_rate.grad.isfinite().all()
    assert poisson_log_rate(log_rate.detach(), count, torch.zeros(2, 2, dtype=torch.bool)) == 0.0
    row = torch.tensor([[True], [False]])  # whole bins
    expected = poisson_log_rate(torch.zeros(2, 2), count, row.expand(2, 2))
    assert poisson_log_rate(torch.zeros(2, 2), count, row) == expected == 1.0


def test_the_largest_terms_alone():
    z, count = torch.tensor([[0.0, 1.0], [2.0, 9.0]]), torch.zeros(2, 2)
    scored = torch.tensor([[True, True], [True, False]])
    assert poisson_log_rate(z, count, scored, top=0.5) == pytest.approx(math.exp(2) / 3)  # int(1.5) of 3
    assert poisson_log_rate(z, count, scored, top=0.1) == 0
    assert poisson_log_rate(z, count, torch.zeros(2, 2, dtype=torch.bool), top=0.5) == 0


def test_poisson_of_rates_is_torchs():
    rate = torch.tensor([[0.5, 0.0], [2.0, -torch.inf]], requires_grad=True)
    count, scored = torch.tensor([[1, 0], [3, 5]]), torch.tensor([[True, True], [True, False]])
    loss = poisson_rate(rate, count, scored)
    loss.backward()
    theirs = torch.nn.PoissonNLLLoss(log_input=False, full=False, eps=1e-8)(rate[scored], count[scored].float())
    torch.testing.assert_close(loss, theirs)
    assert rate.grad.isfinite().all()
    assert rate.grad[1, 1] == 0
    assert poisson_rate(rate.detach(), count, scored, top=0.5) == pytest.approx((0.5 - math.log(0.5)) / 3)


def test_weighted_cross_entropy():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    logits[3] = torch.nan
    logits.requires_grad_()
    label, weight = torch.tensor([0, 2, 1, -1]), torch.tensor([1.0, 2.0, 0.5, 0.0])
    each = torch.nn.functional.cross_entropy(logits[:3], label[:3], reduction="none")
    loss = weighted_cross_entropy(logits, label, weight)
    torch.testing.assert_close(loss, (each * weight[:3]).sum() / 3.5)
    loss.backward()
    assert (logits.grad[3] == 0).all()
    assert weighted_cross_entropy(logits, label, torch.zeros(4)) == 0
    assert weighted_cross_entropy(logits[:0], label[:0], weight[:0]) == 0


def test_mallow_distance_is_its_slow_twin():
    """Class by class; a wrong class near by costs less than one far away, and what has no weight nothing."""
    rng = np.random.default_rng(0)
    scores, label, weight = rng.normal(size=(5, 4)), rng.integers(0, 4, 5), np.array([1.0, 2.0, 0.5, 0.0, 1.0])
    terms = []
    for row, true in zip(scores, label, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        terms.append(np.mean([(p[: k + 1].sum() - float(true <= k)) ** 2 for k in range(4)]))
    logits = torch.from_numpy(scores)
    logits[3] = torch.nan
    logits.requires_grad_()
    wrong = torch.from_numpy(np.where(weight > 0, label, -7))
    loss = mallow_distance(logits, wrong, torch.from_numpy(weight))
    assert float(loss.detach()) == pytest.approx((np.array(terms) * weight).sum() / weight.sum(), rel=1e-5)
    loss.backward()
    assert logits.grad.isfinite().all() and (logits.grad[3] == 0).all()
    sure = 20 * torch.eye(4)
    near, far = (mallow_distance(sure[[k]], torch.tensor([0]), torch.ones(1)) for k in (1, 3))
    assert 0 < near < far
    assert mallow_distance(sure, torch.arange(4), torch.zeros(4)) == 0


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_nt_xent_is_its_slow_twin(temperature):
    """Row by row, as the paper has it: the other view among all rows but itself."""
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 5, 7))
    rows, terms = views.reshape(10, 7), []
    for i in range(10):
        cosine = rows @ rows[i] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[i]) / temperature
        others = [cosine[k] for k in range(10) if k != i]
        terms.append(np.log(np.exp(others).sum()) - cosine[(i + 5) % 10])
    first, second = (torch.from_numpy(view).float().requires_grad_() for view in views)
    loss = nt_xent(first, second, temperature)
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nt_xent(first, second, temperature) == loss
    swapped = nt_xent(3 * second, first, temperature)
    assert float(swapped.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_nt_xent_of_one_window_and_of_silence():
    one = torch.randn(1, 4, requires_grad=True)
    assert nt_xent(one, torch.randn(1, 4)) == 0
    silent = torch.zeros(3, 4, requires_grad=True)
    loss = nt_xent(silent, torch.zeros(3, 4))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(5))  # nothing tells the five other rows apart
    assert silent.grad.isfinite().all()


def test_behaviour_losses_are_by_output_and_of_what_is_asked():
    heads = {
        "decode:v": Head("decode:v", "decode", "values", 2),
        "classify:c": Head("classify:c", "classify", "classes", 3),
        "population": Head("population", "population", "counts"),
        "decode:absent": Head("decode:absent", "decode", "values", 1),
    }
    values, labels, weight = torch.randn(4, 2), torch.tensor([0, 2, 1, 1]), torch.tensor([1.0, 0.0, 2.0, 1.0])
    output = {"decode:v": torch.randn(4, 2), "classify:c": torch.randn(4, 3), "population": torch.randn(4, 5)}
    targets = {"decode:v": values, "classify:c": labels, "population": torch.ones(4, 5), "decode:other": values}
    asked = {task: Asked(weight, torch.tensor([0, 4]), np.arange(4), t, weight) for task, t in targets.items()}
    batch = Batch({}, 1, torch.zeros(1), ["a"], np.zeros(1), asked)
    found = behaviour_losses(heads, batch, output)
    assert set(found) == {"decode:v", "classify:c"}
    assert found["decode:v"] == weighted_mse(output["decode:v"], values, weight)
    assert found["classify:c"] == weighted_cross_entropy(output["classify:c"], labels, weight)


def test_mean_counts_are_of_what_was_observed():
    rng = np.random.default_rng(0)
    counts, observed = rng.poisson(2.0, (2, 30, 4)).astype(np.uint8), rng.random((2, 30)) > 0.3
    each = rng.random((30, 4)) > 0.5
    stretches = [
        Stretch({"counts": {"counts": counts[0], "observed": observed[0].astype(np.uint8)}}, {}, {}),
        Stretch(
            {"counts": {"counts": counts[1], "observed": observed[1].astype(np.uint8), "unit_observed": each}}, {}, {}
        ),
    ]
    for unit, mean in enumerate(mean_counts(stretches, "counts")):
        seen = [*counts[0][observed[0], unit].tolist(), *counts[1][each[:, unit], unit].tolist()]
        assert mean == pytest.approx((sum(seen) + 0.5) / (len(seen) + 1))


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [1, 2, 3, 4])
def test_hidden_stretches(span):
    """Every start hides a stretch around it: the dilation of the same draw, by loops."""
    start = torch.rand(6, 50, generator=torch.Generator().manual_seed(0)) < 0.3 / span
    hidden = masking.hide_timesteps(6, 50, 0.3, span, generator=torch.Generator().manual_seed(0))
    slow = torch.zeros(6, 50, dtype=torch.bool)
    for b, t in start.nonzero().tolist():
        first = t + 1 - span + span // 2
        slow[b, max(first, 0) : first + span] = True
    assert torch.equal(hidden, slow)


def test_share_of_hidden_bins():
    for span in (1, 5):
        hidden = masking.hide_timesteps(200, 100, 0.25, span, generator=torch.Generator().manual_seed(1))
        assert 0.2 < hidden.float().mean() <= 0.26
    assert masking.hide_timesteps(2, 0, 0.25, 3).shape == (2, 0)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("timestep", (4, 6, 1)), ("shared_timestep", (1, 6, 1)), ("element", (4, 6, 3)), ("unit", (4, 1, 3))],
)
def test_what_a_draw_hides(mode, shape):
    generator = torch.Generator().manual_seed(0)
    assert masking.hide(mode, (4, 6, 3), 0.5, generator=generator).shape == shape
    share = masking.hide(mode, (400, 600, 30), 0.25, generator=generator).float().mean()
    assert share == pytest.approx(0.25, abs=0.06)
    assert masking.hide(mode, (4, 6, 3), 1.0).all()
    assert not masking.hide(mode, (4, 6, 3), 0.0).any()


def test_what_a_draw_cannot_hide():
    with pytest.raises(UsageError, match="'unit' and span 3"):
        masking.hide("unit", (4, 6, 3), 0.5, 3)
    with pytest.raises(UsageError, match="'neuron' and span 1: modes are timestep, shared_timestep, element, unit"):
        masking.hide("neuron", (4, 6, 3), 0.5)


def test_corruption_of_hidden_elements():
    counts = torch.full((40, 50, 20), 7.0)
    hidden = torch.zeros(40, 50, 1, dtype=torch.bool)
    hidden[:, ::2] = True
    seen = masking.corrupt(counts, hidden, 0.6, 0.5, torch.Generator().manual_seed(0))
    assert (seen[:, 1::2] == 7).all()
    there = seen[:, ::2]
    assert set(there.unique().tolist()) == set(range(8))  # random counts are 0 .. max - 1, and 7 where left as it was
    assert (there == 7).float().mean() == pytest.approx(0.4 * 0.5, abs=0.02)
    assert (there == 0).float().mean() == pytest.approx(0.6 + 0.4 * 0.5 / 7, abs=0.02)
    assert (masking.corrupt(counts, hidden, 1.0, 0.5)[:, ::2] == 0).all()
    loud = torch.where(hidden, 200.0, counts)  # what became 0 does not set the range of the random counts
    seen = masking.corrupt(loud, hidden, 1.0, 1.0, torch.Generator().manual_seed(0))
    assert seen.max() == 7
    assert masking.corrupt(torch.zeros(2, 3, 4), hidden[:2, :3], 0.0, 1.0).abs().sum() == 0


def test_what_is_always_hidden_is_hidden_first():
    """0 before anything else, and never what a draw is made of; beside it the draw, as corrupt has it."""
    counts = torch.full((3, 5, 4), 3.0)
    always = torch.zeros(3, 5, 4, dtype=torch.bool)
    always[..., -1] = True
    counts[always] = 200.0
    drawn = torch.rand(3, 5, 1, generator=torch.Generator().manual_seed(1)) < 0.5
    seen, hidden = masking.hide_counts(counts, always, drawn, 0.2, 1.0, torch.Generator().manual_seed(0))
    own = drawn & ~always
    zeroed = torch.where(always, 0.0, counts)
    assert torch.equal(hidden, own | always)
    assert torch.equal(seen, masking.corrupt(zeroed, own, 0.2, 1.0, torch.Generator().manual_seed(0)))
    assert (seen[always] == 0).all() and seen.max() == 3
    alone, hidden = masking.hide_counts(counts, always, None, 0.2, 1.0)
    assert torch.equal(alone, zeroed) and hidden is always
    seen, hidden = masking.hide_counts(counts, None, drawn, 1.0, 1.0)
    assert torch.equal(seen, torch.where(drawn, 0.0, counts)) and hidden is drawn
    seen, hidden = masking.hide_counts(counts, None, None, 1.0, 1.0)
    assert seen is counts and hidden is None


def test_masks_follow_their_generator():
    torch.manual_seed(5)
    first = masking.hide_timesteps(4, 30, 0.5)
    torch.manual_seed(5)
    assert torch.equal(masking.hide_timesteps(4, 30, 0.5), first)
    own = [masking.hide_timesteps(4, 30, 0.5, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*own)


def test_spans_ramp_up():
    assert [masking.span_probability(s, 10, 20) for s in (0, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    assert [masking.span_probability(s, 10, 10) for s in (9, 10)] == [0, 1]
    generator = torch.Generator().manual_seed(0)
    assert {masking.draw_span(3, 1.0, generator) for _ in range(50)} == {1, 2, 3}
    assert {masking.draw_span(3, 0.0, generator) for _ in range(50)} == {1}
    assert {masking.draw_span(1, 1.0, generator) for _ in range(5)} == {1}


# ---- counts as classes, and tokens that are left out ----------------------------------------------------------------


def test_softened_counts_are_poissons():
    poisson = pytest.importorskip("scipy.stats", reason="scipy is not installed (pip install spiketok)").poisson
    expected = poisson.pmf(np.arange(7)[None], np.arange(7)[:, None])
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(softened_counts(6).numpy(), expected, atol=1e-7)
    quirk = softened_counts(6, top_row=False)
    assert torch.equal(quirk[:-1], softened_counts(6)[:-1]) and not quirk[-1].any()


def test_softened_cross_entropy_is_torchs_over_what_is_scored():
    torch.manual_seed(0)
    logits, count = torch.randn(5, 3, 7), torch.randint(0, 9, (5, 3))
    scored = torch.rand(5, 3) < 0.6
    logits[~scored], count[~scored] = torch.nan, -4
    table = softened_counts(6)
    target = table[count[scored].clamp_max(6)]
    expected = torch.nn.functional.cross_entropy(logits[scored], target)
    torch.testing.assert_close(softened_cross_entropy(logits, count, scored, table), expected)
    assert softened_cross_entropy(logits, count, torch.zeros_like(scored), table) == 0
    uniform = torch.zeros(1, 7)
    top = torch.tensor([6])
    assert softened_cross_entropy(uniform, top, top > 0, softened_counts(6, top_row=False)) == 0


# Over 2,000 draws of 70 tokens the reference leaves out this many, and each position this often, at least and at most.
REFERENCE_LEFT_OUT = {0.25: (18, 0.2305, 0.288), 0.5: (35, 0.471, 0.521), 0.1: (7, 0.0855, 0.122)}


@pytest.mark.parametrize("ratio", REFERENCE_LEFT_OUT)
def test_kept_tokens_have_the_statistics_of_the_reference(ratio):
    number, least, most = REFERENCE_LEFT_OUT[ratio]
    generator = torch.Generator().manual_seed(0)
    left_out = torch.stack([~masking.keep_tokens(70, ratio, generator=generator) for _ in range(2000)])
    assert (left_out.sum(1) == number).all()
    share = left_out.float().mean(0)
    spread = 4 * math.sqrt(number / 70 * (1 - number / 70) / 2000)
    assert share.min() > number / 70 - spread and share.max() < number / 70 + spread
    assert least > number / 70 - spread and most < number / 70 + spread  # the bound holds for the reference's too
    together = (left_out[:, :-1] & left_out[:, 1:]).float().mean()  # neighbours are drawn as any two are
    assert float(together) == pytest.approx(number * (number - 1) / (70 * 69), abs=0.01)


# Over 2,000 draws of the reference: mean, standard deviation, least and most of the share of inputs that are hidden.
REFERENCE_DROPPED = {
    (1.0, False): (1.0, 0.0, 1.0, 1.0),
    (1.0, True): (0.4903, 0.2965, 0.0, 1.0),
    (0.5, False): (0.5, 0.085, 0.239, 0.783),
}


@pytest.mark.parametrize("draw", REFERENCE_DROPPED)
def test_dropped_inputs_have_the_statistics_of_the_reference(draw):
    """In its batch of two windows of 8 and 6 bins, where a place is drawn once for both and what pads counts."""
    with np.load(Path(__file__).parents[1] / "golden" / "models" / "ndt3_classification.npz") as golden:
        behaviour = torch.from_numpy(golden["mid/modality_index"] == 1)[:, :-1]  # the last is no input
    generator = torch.Generator().manual_seed(0)
    drawn = [masking.drop_inputs(62, draw[0], random_ratio=draw[1], generator=generator)[:-1] for _ in range(2000)]
    share = torch.stack([(behaviour & mask).sum() / behaviour.sum() for mask in drawn])
    mean, spread, least, most = REFERENCE_DROPPED[draw]
    assert float(share.mean()) == pytest.approx(mean, abs=0.02)
    assert float(share.std()) == pytest.approx(spread, rel=0.06)
    assert float(share.min()) == pytest.approx(least, abs=0.06) and float(share.max()) == pytest.approx(most, abs=0.06)


@pytest.mark.parametrize("length", [[5, 1, 9, 3], [4, 4, 4], [6], [3, 0, 2], [2, 0, 2], [0], []], ids=str)
def test_causal_attention_is_the_slow_twin(length):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(sum(length), 2, 8, generator=generator).requires_grad_() for _ in range(3)]
    query, key, value = tensors
    out = causal_attention(*tensors, length)
    expected, first = [query[:0]], 0
    for n in length:
        for row in range(first, first + n):  # alone, with what stands before it as all that there is
            seen = slice(first, row + 1)
            score = torch.einsum("he,khe->hk", query[row], key[seen]) / math.sqrt(8)
            expected.append(torch.einsum("hk,khe->he", score.softmax(-1), value[seen])[None])
        first += n
    expected = torch.cat(expected)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    if len(query):
        direction = torch.randn(out.shape, generator=generator)
        for a, b in zip(*(torch.autograd.grad((o * direction).sum(), tensors) for o in (out, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_table_says_the_same_with_and_without_a_gradient():
    """Without one, rows are read as they come; rows that an optimizer left behind are moved in both."""
    table = Vocabulary(4, 1.0, padding=True)
    table.extend({"a": ["x", "y"], "b": ["z"]})
    row = torch.tensor([[3, 0, 1], [1, 3, 3]])
    said = table(row)
    with torch.no_grad():
        torch.testing.assert_close(table(row), said)
        table.late = lambda own: torch.ones(len(own), 4)
        moved = table(row)
    torch.testing.assert_close(moved, said + (row > 0)[..., None])


@pytest.mark.parametrize("mixed", [False, True])
def test_times_turn_in_float32_with_and_without_autocast(mixed):
    x, time = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    turn = RotaryTime(8)(time)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        turned = rotate(x, RotaryTime(8)(time))
    torch.testing.assert_close(turned, rotate(x, turn), rtol=0, atol=0)
