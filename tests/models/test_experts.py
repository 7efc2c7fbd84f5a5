"""POYO with experts in place of its feed-forward layers, and the gate that weighs them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from spiketok.models.nn import GatedFeedForward  # noqa: E402
from spiketok.models.perceiver import ExpertFeedForward  # noqa: E402
from spiketok.models.poyo import Poyo, PoyoConfig  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from spiketok.training.runs import sets_from  # noqa: E402
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session  # noqa: E402
from tests.models.test_models import HALF, QUICK, TASK, TIMING, VELOCITY, A, B, make_batch, same  # noqa: E402


def poyo(sessions=(A, B), **changes) -> Poyo:
    torch.manual_seed(0)
    model = Poyo(PoyoConfig(**{**QUICK["poyo"], "depth": 2, "experts": 3, **changes}), [VELOCITY], TIMING)
    model.add_sessions([session.info for session in sessions])
    return model.eval()


def one_of(layer: ExpertFeedForward, k: int) -> GatedFeedForward:
    """An expert as a layer of its own."""
    dim = layer.norm.weight.shape[0]
    alone = GatedFeedForward(dim)
    with torch.no_grad():
        alone.to_hidden.weight.copy_(layer.to_hidden.weight.unflatten(0, (layer.experts, -1))[k])
        alone.to_hidden.bias.copy_(layer.to_hidden.bias.unflatten(0, (layer.experts, -1))[k])
        alone.to_out.weight.copy_(layer.to_out.weight.unflatten(1, (layer.experts, -1))[:, k])
        alone.to_out.bias.copy_(layer.to_out.bias)
        alone.norm.load_state_dict(layer.norm.state_dict())
    return alone.eval()


def test_the_mixture_is_the_weighted_mean_of_layers_that_stand_alone():
    torch.manual_seed(1)
    layer, x = ExpertFeedForward(8, 3).eval(), torch.randn(11, 8)
    torch.nn.init.normal_(layer.norm.weight)
    apart = torch.stack([one_of(layer, k)(x) for k in range(3)], 1)  # [L, X, D]
    weight = torch.rand(11, 3).softmax(-1)
    torch.testing.assert_close(layer(x, weight), (apart * weight[..., None]).sum(1))
    torch.testing.assert_close(layer(x, torch.eye(3)[1].expand(11, 3)), apart[:, 1])


def test_each_expert_is_drawn_as_one_layer():
    torch.manual_seed(2)
    layer, plain = ExpertFeedForward(32, 4), GatedFeedForward(32)
    for part in ("to_hidden", "to_out"):
        ours, theirs = getattr(layer, part).weight, getattr(plain, part).weight
        assert float(ours.detach().std()) == pytest.approx(float(theirs.detach().std()), rel=0.03)
        assert float(ours.detach().abs().max()) == pytest.approx(float(theirs.detach().abs().max()), rel=0.01)


def test_one_expert_is_the_model_that_was():
    plain, one = poyo(experts=1), poyo(experts=1, balance=5.0)
    assert not any("gate." in name for name in plain.state_dict())
    batch = make_batch(plain, [(A, 0), (B, 30)])
    output = plain(batch)
    assert set(output) == {TASK}
    assert set(plain.loss(batch, output, HALF)) == {TASK, "total"}
    assert same(one(batch)[TASK], output[TASK])


def test_weights_follow_the_row_of_the_session_alone():
    model = poyo()
    rows = torch.tensor([model.session_row(s.info.id) for s in (A, B, A)])
    weight = model.expert_weights(rows)
    torch.testing.assert_close(weight.sum(1), torch.ones(3))
    assert torch.equal(weight[0], weight[2]) and not torch.allclose(weight[0], weight[1])
    row = model.session_table(rows).detach().numpy().astype(np.float64)
    z = (row - row.mean(1, keepdims=True)) / np.sqrt(row.var(1, keepdims=True) + 1e-5)
    logit = z @ model.gate.weight.detach().numpy().T + model.gate.bias.detach().numpy()
    np.testing.assert_allclose(weight.detach(), np.exp(logit) / np.exp(logit).sum(1, keepdims=True), rtol=1e-5)


def test_a_new_session_begins_at_the_gate_of_the_mean_row_and_its_row_moves_it():
    model = poyo((A,))
    mean = model.session_table.weight.detach().mean(0)
    model.add_sessions([B.info])
    row = torch.tensor([model.session_row(B.info.id)])
    torch.testing.assert_close(model.session_table(row)[0], mean)
    batch = make_batch(model, [(B, 0), (B, 30)])
    weight = model(batch)["experts"]
    model.loss(batch, model(batch), HALF)["total"].backward()
    own = [part for part in model.identity_parameters([B.info.id]) if part.parameter is model.session_table.weight]
    assert len(own) == 1
    with torch.no_grad():
        own[0].value.add_(torch.linspace(-1, 1, mean.numel()))
    assert not torch.allclose(model(batch)["experts"], weight)


def test_the_balance_is_the_squared_coefficient_of_variation():
    model = poyo(balance=0.5)
    batch = make_batch(model, [(A, 0), (A, 30)])
    mixed = copy.copy(batch)
    mixed.sessions = [A.info.id] * (len(batch) - 1) + [B.info.id]
    output = model(batch)
    output["experts"] = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    terms = model.loss(mixed, output, HALF)
    mean = np.array([0.75, 0.25, 0.0])
    assert float(terms["balance"]) == pytest.approx(mean.var() / mean.mean() ** 2)
    assert terms["total"].item() == pytest.approx((terms[TASK] + 0.5 * terms["balance"]).item())
    assert model.loss(batch, output, HALF)["balance"] == 0  # one session


def test_a_configuration_is_refused():
    with pytest.raises(UsageError, match="model.experts is 0, must be at least 1"):
        PoyoConfig(experts=0)
    with pytest.raises(UsageError, match="model.balance is -1"):
        PoyoConfig(balance=-1)


def test_a_run_logs_its_balance_and_no_run_without_experts_is_its_start(tmp_path):
    shards = [bake_tokens(tmp_path, decodable_session(f"day{k}", k, n_units=8 + k)) for k in range(2)]
    sets = [*SMALL_POYO, "optim.steps=4", "optim.checkpoint_every=0"]
    train(load_config("poyo", None, [*sets, "model.experts=2"]), shards, tmp_path / "experts")
    assert '"balance"' in (tmp_path / "experts" / "metrics.jsonl").read_text()
    assert load_run(tmp_path / "experts").model.gate.weight.shape[0] == 2
    train(load_config("poyo", None, sets), shards, tmp_path / "plain")
    base = load_run(tmp_path / "plain")
    config = load_config("poyo", None, [*sets, *sets_from(base, None), "model.experts=2"])
    with pytest.raises(UsageError, match=r"do not fit: 'layers.0.1.to_hidden.weight' is \(128, 16\) there"):
        train(config, shards, tmp_path / "from", base=base)
