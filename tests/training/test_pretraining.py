"""Trained on a population alone, then on behaviour: what each model takes over, what stands still, what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from spiketok.recording.nouns import Intervals  # noqa: E402
from spiketok.tokens.shards import ShardReader, write_shard  # noqa: E402
from spiketok.training import loop  # noqa: E402
from spiketok.training.checkpoints import Run, load_run, require_trained_read_ins, taken_over  # noqa: E402
from spiketok.training.config import RunConfig, load_config  # noqa: E402
from spiketok.training.loop import build_model, prepare, train  # noqa: E402
from spiketok.training.optimizers import build_optimizer  # noqa: E402
from spiketok.training.runs import run_inputs, scheme_of, sets_from  # noqa: E402
from spiketok.training.sampling import SessionTokens  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.models.test_models import QUICK  # noqa: E402

SHORT = ["data.batch_size=4", "optim.steps=4", "optim.checkpoint_every=1"]
MODELS = ["ndt1", *(pytest.param(name, marks=pytest.mark.long) for name in ("mtm", "ndt2", "neds"))]


def tokens(folder, name: str, config: RunConfig, n_units: int = 6) -> SessionTokens:
    """The shards of a made session that a run reads."""
    session = decodable_session(name, 0, n_units=n_units, seconds=10.0)
    whole, readers = Intervals([session.start_ns], [session.stop_ns]), {}
    for key, wanted in run_inputs(config).items():
        target = folder / "shards" / name / key
        if not target.exists():
            scheme = scheme_of(wanted)
            write_shard(target, scheme, session, whole, segments_rule="continuous", store_digest="d" * 64)
        readers[key] = ShardReader(target)
    return SessionTokens(readers)


def pretrained(folder, model: str, *sets: str) -> Run:
    own = [f"model.{key}={value}" for key, value in QUICK[model].items()]
    own += ["model.group_by="] if model == "ndt2" else []
    config = load_config(model, sets=[*own, *sets, "data.window_ms=500", *SHORT], tasks=["population"])
    train(config, [tokens(folder, "day", config)], folder / "base")
    return load_run(folder / "base")


def child_of(base: Run, *sets: str) -> RunConfig:
    return load_config(base.config.model, sets=[*sets_from(base, None), *SHORT, *sets], tasks=["decode:hand_vel"])


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def is_own(name: str) -> bool:
    """Of the sessions alone: rows, read-ins, read-outs."""
    return name.startswith(("read_in.", "read_out.", "session_table"))


@pytest.mark.parametrize("model", MODELS)
def test_the_encoder_stands_still_and_the_rest_learns(model, tmp_path):
    base = pretrained(tmp_path, model)
    config = child_of(base, "optim.hold_steps=4")
    chosen = [tokens(tmp_path, "next", config, n_units=7)]
    divided, tasks = prepare(config, chosen)
    drawn, theirs = weights(build_model(config, tasks, divided, base)), weights(base.model)
    train(config, chosen, tmp_path / "held", base=base)
    held = weights(load_run(tmp_path / "held").model)
    shared = [name for name in held if name in theirs and not is_own(name)]
    assert len(shared) > 8 and all(held[name].equal(theirs[name]) for name in shared)
    fresh = [name for name in held if name not in theirs and drawn[name].any()]
    assert fresh and [name for name in fresh if not held[name].equal(drawn[name])]
    if model != "ndt2":  # which knows no unit by itself
        new = [name for name in fresh if name.startswith("read_in.") and "next" in name]
        assert new and all(not held[name].equal(drawn[name]) for name in new)
    after = replace(config, optim=replace(config.optim, hold_steps=2))
    train(after, chosen, tmp_path / "freed", base=base)
    freed = weights(load_run(tmp_path / "freed").model)
    assert sum(not freed[name].equal(theirs[name]) for name in shared) > len(shared) / 2


@pytest.mark.long
def test_held_weights_count_neither_in_the_norm_nor_in_the_decay(tmp_path):
    """A slow twin: as if nothing else were a parameter."""
    base = pretrained(tmp_path, "ndt1")
    config = child_of(base, "optim.hold_steps=4", "optim.clip=0.01", "optim.weight_decay=0.5")
    chosen = [tokens(tmp_path, "next", config)]
    train(config, chosen, tmp_path / "held", base=base)
    with pytest.MonkeyPatch.context() as patched:

        def still(model, given, parameters=None):
            for parameter in taken_over(model, base):
                parameter.requires_grad = False
            return build_optimizer(model, given, parameters)

        patched.setattr(loop, "build_optimizer", still)
        plain = replace(config, optim=replace(config.optim, hold_steps=0))
        train(plain, chosen, tmp_path / "twin", base=base)
    one, other = (weights(load_run(tmp_path / name).model) for name in ("held", "twin"))
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.long
def test_a_run_that_stops_while_weights_are_held_goes_on_to_the_same_bytes(tmp_path):
    base = pretrained(tmp_path, "ndt1")
    config = child_of(base, "optim.hold_steps=2")
    chosen = [tokens(tmp_path, "next", config)]
    train(config, chosen, tmp_path / "whole", base=base)
    for at in (1, 3):

        def stop(event: dict, at: int = at) -> None:
            if event["event"] == "checkpoint" and event["step"] == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, chosen, tmp_path / f"killed{at}", base=base, on_event=stop)
        assert train(config, chosen, tmp_path / f"killed{at}", base=base).resumed_from == at
        files = [sorted((tmp_path / name / "checkpoint").iterdir()) for name in ("whole", f"killed{at}")]
        assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_nothing_is_held_of_fresh_weights(tmp_path):
    config = load_config("ndt1", sets=["optim.hold_steps=4"])
    with pytest.raises(UsageError, match="starts from fresh weights, of which none can stand still"):
        train(config, [tokens(tmp_path, "day", config)], tmp_path / "run")
    with pytest.raises(UsageError, match=r"optim\.hold_steps is -1"):
        load_config("ndt1", sets=["optim.hold_steps=-1"])


@pytest.mark.parametrize("model", MODELS)
def test_other_sizes_are_refused_with_what_to_do(model, tmp_path):
    base = pretrained(tmp_path, model)
    config = child_of(base, "model.layers=1", "model.dim=32")
    with pytest.raises(UsageError, match="do not fit: .* there and .* here; size, windows, bins and fields of the"):
        train(config, [tokens(tmp_path, "next", config)], tmp_path / "run", base=base)


def test_a_new_read_in_that_nothing_would_train_is_refused(tmp_path):
    base = pretrained(tmp_path, "ndt1", "model.decode_joint=false")
    config = child_of(base)
    why = "nothing would train the read-in of made/next, which is new; use --set model.decode_joint=true, or --task pop"
    with pytest.raises(UsageError, match=why):
        train(config, [tokens(tmp_path, "next", config)], tmp_path / "run", base=base)
    joint = child_of(base, "model.decode_joint=true")
    own = tokens(tmp_path, "day", config)
    for name, fits, chosen in (("joint", joint, tokens(tmp_path, "next", config)), ("own", config, own)):
        assert train(fits, [chosen], tmp_path / name, base=base).step == 4
    model = SimpleNamespace(
        config=base.config.model_config(), heads={}, reconstructs=True, identity_parameters=lambda _: [1]
    )
    require_trained_read_ins(model, ["made/next"], base)  # ldns learns a read-in without being asked for spikes
