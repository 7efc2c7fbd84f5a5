"""The cheap mask has its rate and no pattern; attention with dropout is the formula with the same mask."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.models.dropout import Dropout, dropped_attention, margin, share_kept, words  # noqa: E402
from spiketok.models.nn import CrossAttention, RotaryTime, SelfAttention, attention  # noqa: E402


def kept(shape, rate, source):
    return margin(shape, rate, source) > 0, share_kept(rate)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4, 0.5, 0.9])
def test_the_mask_has_its_rate_and_its_values_know_nothing_of_each_other(rate):
    torch.manual_seed(1)
    stays, share = kept((4, 250_001), rate, words())  # no multiple of the four values of a word
    n = stays.numel()
    assert share == pytest.approx(1 - rate, abs=1 / 65_536)
    flat = stays.flatten().double()
    spread = (share * (1 - share) / n) ** 0.5
    assert abs(flat.mean() - share) < 5 * spread
    for place in range(4):  # of each of the four values in a word
        assert abs(flat[place::4].mean() - share) < 10 * spread
    for lag in (1, 2, 3, 4, 5, 8, 250_001):
        together = ((flat[lag:] - share) * (flat[:-lag] - share)).mean() / (share * (1 - share))
        assert abs(together) < 5 / (n - lag) ** 0.5, lag


def test_the_mask_follows_from_the_seed():
    torch.manual_seed(7)
    source = words()
    first = margin((3, 5), 0.5, source)
    assert not torch.equal(first, margin((3, 5), 0.5, source))
    assert not torch.equal(first, margin((3, 5), 0.5, words()))
    torch.manual_seed(7)
    assert torch.equal(first, margin((3, 5), 0.5, words()))


def test_masks_of_one_layer_after_another_know_nothing_of_each_other():
    torch.manual_seed(1)
    rate = 0.3
    share, n = share_kept(rate), 400_000
    masks = [kept((n,), rate, words())[0].double() - share for _ in range(6)]
    for first in range(6):
        for second in range(first):
            together = (masks[first] * masks[second]).mean() / (share * (1 - share))
            assert abs(together) < 5 / n**0.5, (first, second)


def test_no_margin_is_zero_and_the_extreme_words_fall_on_the_right_side():
    class Source:
        def random_raw(self, size):
            return np.array([-32768, 32767, 0, -1] * size, np.int16).view(np.uint64)

    assert margin((4,), 0.5, Source()).tolist() == [-32767.5, 32767.5, 0.5, -0.5]
    assert margin((4,), 1 / 65_536, Source()).tolist()[0] == -0.5


def test_dropout_scales_what_stays_and_does_nothing_in_evaluation():
    layer, x = Dropout(0.25), torch.randn(1000, 7, requires_grad=True)
    y = layer(x)
    zero = y == 0
    assert 0.2 < zero.double().mean() < 0.3
    torch.testing.assert_close(y[~zero], x[~zero] / 0.75)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (~zero) / 0.75)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x


LENGTHS = [([3, 5, 1], [7, 2, 4]), ([4, 4], [4, 4]), ([2, 0, 3], [5, 3, 0])]


@pytest.mark.parametrize(("query_length", "key_length"), LENGTHS)
def test_without_a_rate_it_is_the_attention_of_torch(query_length, key_length):
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(n), 3, 8, requires_grad=True) for n in (query_length, key_length, key_length))
    ours = dropped_attention(q, k, v, query_length, key_length, 0.0)
    plain = attention(q, k, v, query_length, key_length)
    torch.testing.assert_close(ours, plain)
    weight = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad((t * weight).sum(), (q, k, v)) for t in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_with_a_rate_it_is_the_formula_with_the_same_mask():
    query_length, key_length, rate = [3, 5, 4], [6, 2, 4], 0.4
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(n), 2, 8, requires_grad=True) for n in (query_length, key_length, key_length))
    torch.manual_seed(5)
    ours = dropped_attention(q, k, v, query_length, key_length, rate)
    torch.manual_seed(5)
    parts, source = [], words()
    for a, b, c in zip(q.split(query_length), k.split(key_length), v.split(key_length), strict=True):
        weight = torch.einsum("ihe,jhe->hij", a, b).div(8**0.5).softmax(-1)
        stays, share = kept(weight.shape, rate, source)
        parts.append(torch.einsum("hij,jhe->ihe", weight * stays / share, c))
    plain = torch.cat(parts)
    torch.testing.assert_close(ours, plain)
    weight = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad((t * weight).sum(), (q, k, v)) for t in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_rotary_layers_drop_weights_in_training_alone():
    torch.manual_seed(0)
    turn, x = RotaryTime(8)(torch.rand(6)), torch.randn(6, 16)
    layers = {0.0: SelfAttention(16, 2, 8, 0.0), 0.5: SelfAttention(16, 2, 8, 0.5)}
    layers[0.5].load_state_dict(layers[0.0].state_dict())
    plain = layers[0.0](x, turn, [2, 4])
    assert not torch.allclose(layers[0.5](x, turn, [2, 4]), plain)
    many = torch.stack([layers[0.5](x, turn, [2, 4]) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(many, plain, atol=0.05, rtol=0)
    torch.testing.assert_close(layers[0.5].eval()(x, turn, [2, 4]), plain)
    cross = CrossAttention(16, 2, 8, 0.5, rotate_value=True)
    given = cross.query(x), cross.key_value(x), turn, turn, [2, 4], [2, 4]
    assert not torch.equal(cross(*given), cross(*given))
    cross.eval()
    assert torch.equal(cross(*given), cross(*given))
