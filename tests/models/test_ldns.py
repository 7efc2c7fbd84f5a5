"""LDNS: its kernels at other lengths, its two stages, its draws against distributions that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models.batch import Generation, Progress, Timing, observed_counts  # noqa: E402
from spiketok.models.ldns import Ldns, LdnsConfig  # noqa: E402
from spiketok.models.ldns_layers import S4, GroupedLinear, NoiseSchedule, draw_counts  # noqa: E402
from spiketok.recording.nouns import SessionInfo  # noqa: E402
from tests.models.test_models import POPULATION, QUICK, TIMING, VELOCITY, A, B, make_batch  # noqa: E402

STARTS = [(A, 3), (A, 43), (A, 83)]


def build(**more) -> Ldns:
    torch.manual_seed(0)
    config = LdnsConfig(**(Ldns.sizes["tiny"] | QUICK["ldns"] | {"diffuse_from": 0.5} | more))
    model = Ldns(config, [VELOCITY, POPULATION], TIMING)
    model.add_sessions([A.info])
    return model


def draw_latents(model: Ldns, session: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        return model.draw_latents(None, session, 5, lambda: torch.randn(2, 5, 4, generator=generator))


def steps(model: Ldns, n: int, total: int, accumulate: int = 1) -> list[dict[str, float]]:
    """So many steps of a training of ``total``, on one batch, ``accumulate`` times a step; the terms of each time."""
    model.train()
    optimizer, told = torch.optim.AdamW(model.parameters(), 1e-3), []
    batch = make_batch(model, STARTS)
    for step in range(n):
        torch.manual_seed(step)
        model.begin_step(Progress(step, total))
        optimizer.zero_grad()
        for _ in range(accumulate):
            terms = model.loss(batch, model(batch), Progress(step, total))
            terms["total"].backward()
            told.append({key: float(value.detach()) for key, value in terms.items()})
        optimizer.step()
    model.eval()
    return told


@pytest.mark.parametrize(
    ("size", "n_units", "n_bins", "autoencoder", "denoiser"),
    [
        ("monkey", 182, 140, 1_415_366, 2_692_496),
        ("human", 128, 512, 2_048_160, None),
        ("lorenz", 128, 256, 1_453_192, None),
    ],
)
def test_published_sizes_have_the_parameters_of_the_original(monkeypatch, size, n_units, n_bins, autoencoder, denoiser):
    monkeypatch.setattr(S4, "fitted", lambda self, c, length, sign: c)  # what C starts from costs seconds
    stop_ns = n_bins * TIMING.bin_ns
    model = Ldns(LdnsConfig(**Ldns.sizes[size]), [POPULATION], Timing(stop_ns, TIMING.bin_ns))
    model.add_sessions([SessionInfo("x/y", "x", np.array([f"u{k}" for k in range(n_units)]), 0, 0, stop_ns)])
    n = [sum(p.numel() for p in part.parameters()) for part in (model.autoencoder, model.own, model.denoiser)]
    assert n[0] + n[1] == autoencoder
    assert denoiser in (None, n[2])


@pytest.mark.parametrize("n_bins", [5, 12, 30])
def test_a_kernel_of_any_length_is_that_of_the_recurrence(n_bins):
    """Made for 12 bins: shorter, the same, and longer than twice of it."""
    torch.manual_seed(1)
    layer = S4(3, 8, 12, bidirectional=True).double()
    step, into = layer.discrete()
    whole = torch.cat([c := torch.view_as_complex(layer.C), c.conj()], -1)
    eye = torch.eye(8, dtype=step.dtype)
    c = torch.linalg.solve(eye - torch.linalg.matrix_power(step, 12), whole[..., None, :], left=False)[..., 0, :]
    state, taps = into, []
    for _ in range(n_bins):
        taps.append((c * state).sum(-1).real)
        state = torch.einsum("csr,cr->cs", step, state)
    expected = torch.stack(taps, -1)
    torch.testing.assert_close(layer.kernel(n_bins), expected, rtol=1e-4, atol=1e-5)
    x = torch.randn(2, n_bins, 3)
    y = layer.D * x
    for t in range(n_bins):  # the past with the first kernel, what comes after with the second
        y[:, t] += sum(expected[0, :, t - s] * x[:, s] for s in range(t + 1))
        y[:, t] += sum(expected[1, :, s - t - 1] * x[:, s] for s in range(t + 1, n_bins))
    torch.testing.assert_close(layer(x).double(), y, rtol=1e-4, atol=1e-5)


def test_groups_of_channels_do_not_mix():
    layer = GroupedLinear(6, 3, 3)
    moved = torch.zeros(6).index_fill(0, torch.tensor([2, 3]), 1.0)
    changed = layer(moved) - layer(torch.zeros(6))
    assert changed[1] != 0 and not changed[[0, 2]].any()
    assert GroupedLinear(6, 4, 4).groups == 1


def test_the_stages_follow_each_other():
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    told = steps(model, 3, 6)
    assert [set(terms) & {"latents", "diffusion"} for terms in told] == [{"latents"}] * 3
    first = {key: value.clone() for key, value in model.state_dict().items()}
    assert all(torch.equal(before[key], first[key]) for key in before if key.startswith("denoiser."))
    assert not torch.equal(before["autoencoder.bottleneck.weight"], first["autoencoder.bottleneck.weight"])

    model.train()
    batch = make_batch(model, STARTS)
    model.begin_step(Progress(3, 6))
    terms = model.loss(batch, model(batch), Progress(3, 6))
    model.zero_grad()
    terms["total"].backward()
    assert {"diffusion"} == set(terms) & {"latents", "diffusion"}
    learnt = {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None}
    assert learnt == {"denoiser", "of_session", "read_outs"}
    vector = torch.nn.utils.parameters_to_vector(model.denoiser.parameters())
    assert torch.equal(model.mean_weights, vector)  # the mean of one step
    with torch.no_grad():
        counts = observed_counts(batch.inputs["counts"].columns).float().unflatten(0, (3, -1))
        own = next(iter(model.own.values()))
        z = model.autoencode(own, counts)[0].flatten(0, 1)
    mean, std = own.latent_statistics()
    torch.testing.assert_close(mean, z.mean(0))
    torch.testing.assert_close(std, z.std(0, correction=0))


def test_a_step_of_several_batches_is_of_one_stage():
    model = build()
    told = steps(model, 5, 6, accumulate=2)
    assert ["diffusion" in terms for terms in told] == [False] * 6 + [True] * 4
    assert int(model.n_diffused) == 2
    rows = 3 * 25  # of a batch
    assert [int(own.latent_count) for own in model.own.values()] == [4 * rows]


def test_the_running_mean_follows_its_formula():
    model, expected = build(ema_power=0.5), None
    model.train()
    batch = make_batch(model, STARTS)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(6):
        if step >= 3:
            now = torch.nn.utils.parameters_to_vector(model.denoiser.parameters()).detach().clone()
            kept = 1 - (step - 2) ** -0.5
            expected = now if expected is None else kept * expected + (1 - kept) * now
        model.begin_step(Progress(step, 6))
        optimizer.zero_grad()
        model.loss(batch, model(batch), Progress(step, 6))["total"].backward()
        optimizer.step()
    torch.testing.assert_close(model.mean_weights, expected)


def test_an_adaptation_of_what_is_a_sessions_own_leaves_the_second_stage_as_it_is():
    model = build()
    steps(model, 6, 6)
    before = {key: value.clone() for key, value in model.state_dict().items() if "latent_" in key or "diffused" in key}
    model.denoiser.requires_grad_(False)
    told = steps(model, 3, 3)
    assert all({"latents"} == set(terms) & {"latents", "diffusion"} for terms in told)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items()) and len(before) == 3


def test_each_session_has_its_own_latents():
    model = build()
    model.add_sessions([B.info])
    model.train()
    for step in (3, 4):  # each its own session
        batch = make_batch(model, [((A, B)[step - 3], 3), ((A, B)[step - 3], 43)])
        model.begin_step(Progress(step, 6))
        model.loss(batch, model(batch), Progress(step, 6))["total"].backward()
    assert [int(own.latent_count) for own in model.own.values()] == [2 * 25, 2 * 25]
    a, b = (own.latent_statistics()[0] for own in model.own.values())
    assert not torch.allclose(a, b)
    vectors = [vector.weight for vector in model.of_session.values()]
    assert all(vector.grad is not None and vector.grad.any() for vector in vectors)
    model.eval()
    z = [draw_latents(model, session) for session in model.sessions()]
    with torch.no_grad():
        vectors[0].add_(1.0)
    again = [draw_latents(model, session) for session in model.sessions()]
    assert not torch.equal(z[0], again[0]) and torch.equal(z[1], again[1])


def test_no_spikes_are_drawn_before_the_second_stage():
    model = build()
    steps(model, 2, 6)
    with pytest.raises(DataError, match="has not come to its second stage"):
        model.generate(make_batch(model, STARTS), Generation())


@pytest.mark.parametrize("tells", ["noise", "latents"])
def test_what_a_draw_depends_on(tells):
    model = build(condition=(VELOCITY.task,), denoiser_tells=tells)
    steps(model, 6, 6)
    batch = make_batch(model, STARTS)
    with torch.inference_mode():
        drawn, carry = model.generate(batch, Generation(seed=1))
        assert drawn.dtype == torch.uint8 and drawn.shape == batch.asked["population"].target.shape and carry is None
        columns = batch.inputs["counts"].columns
        other = replace(batch.inputs["counts"], columns=columns | {"counts": columns["counts"] + 1})
        assert torch.equal(model.generate(replace(batch, inputs={"counts": other}), Generation(seed=1))[0], drawn)
        alone = model.generate(make_batch(model, STARTS[1:2]), Generation(seed=1))[0]
        assert (alone != drawn.chunk(3)[1]).float().mean() < 0.01  # a batch of one rounds otherwise
        assert not torch.equal(model.generate(batch, Generation(seed=2))[0], drawn)
        given = model.generate(replace(batch, given=(VELOCITY.task,)), Generation(seed=1))[0]
        assert not torch.equal(given, drawn)
    with pytest.raises(UsageError, match=r"model.condition names 'decode:none'"):
        build(condition=("decode:none",))


@pytest.mark.parametrize("tells", ["noise", "latents"])
def test_all_steps_back_with_the_truth_give_the_distribution(tells):
    """Latents of one normal distribution, whose noise, and what they are without it, is known in closed form."""
    mean, std, schedule = 1.5, 0.6, NoiseSchedule(200)
    torch.manual_seed(0)
    x = torch.randn(4000, 1, 1)
    for step in range(199, -1, -1):
        kept = float(schedule.kept[step])
        if tells == "noise":
            told = (1 - kept) ** 0.5 * (x - kept**0.5 * mean) / (kept * std**2 + 1 - kept)
            clean = schedule.clean(x, told, step)
        else:
            clean = mean + kept**0.5 * std**2 * (x - kept**0.5 * mean) / (kept * std**2 + 1 - kept)
        x = schedule.back(x, clean, step, torch.randn_like(x))
    assert stats.kstest(x.flatten().numpy(), stats.norm(mean, std).cdf).statistic < 0.035


def test_counts_are_poisson():
    rate = torch.tensor([[0.3, 4.2]]).expand(20_000, 2)
    uniform = torch.rand(rate.shape, generator=torch.Generator().manual_seed(0))
    drawn = draw_counts(rate, uniform, Generation()).numpy()
    for k, mean in enumerate((0.3, 4.2)):
        found = np.bincount(drawn[:, k], minlength=20)[:20] / len(drawn)
        np.testing.assert_allclose(found, stats.poisson.pmf(np.arange(20), mean), atol=0.012)
    for how in (Generation(temperature=0), Generation(top_k=1), Generation(top_p=1e-6)):
        assert np.unique(draw_counts(rate, uniform, how).numpy(), axis=0).tolist() == [[0, 4]]
    assert draw_counts(rate, uniform, Generation(top_k=3)).max() == 5
    assert draw_counts(rate, uniform, Generation(top_p=0.9))[:, 0].max() == 1


def test_a_class_is_a_condition_of_the_whole_window():
    from tests.models.test_laws import CHOICE, batch_of

    torch.manual_seed(0)
    config = LdnsConfig(**(Ldns.sizes["tiny"] | QUICK["ldns"] | {"condition": (CHOICE.task,)}))
    model = Ldns(config, [POPULATION, CHOICE], TIMING).eval()
    model.add_sessions([A.info])
    batch = batch_of(model, STARTS)
    condition, known = model._condition(replace(batch, given=(CHOICE.task,)), 25)
    assert known.all() and torch.equal(condition, torch.eye(3)[:, None].expand(3, 25, 3))
    assert not model._condition(batch, 25)[1].any()
