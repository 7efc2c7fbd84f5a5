"""What is told of a model without data: counts against a model with memory and the published ones, and its origin."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.evaluation.results import OF_MAPS
from spiketok.models import MODELS
from spiketok.models.base import PROTOCOLS
from spiketok.training.config import default_size, load_config
from spiketok.training.describe import N_UNITS, built, counted, heads_of, origin_of, protocols_of, sizes_of, toy


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_known_in_every_size(name):
    """Counted without memory; of the default size equal to a model that has it."""
    found = sizes_of(name)
    assert list(found) == list(MODELS[name].sizes)
    for size, one in found.items():
        assert one.reason == "", size
        assert 0 <= one.session < one.total, size
    config = load_config(name)
    kinds = [kind for kind, _ in config.questions()]
    model = MODELS[name](config.model_config(), heads_of(kinds), config.timing)
    model.add_sessions([toy()])
    assert found[default_size(name)].total == model.n_fitted()
    assert all(p.device.type == "meta" for p in built(config).parameters())
    why = protocols_of(config)
    assert list(why) == list(PROTOCOLS)
    assert [protocol for protocol, reason in why.items() if not reason] == list(MODELS[name].protocols)
    source, differs = origin_of(name)
    assert "Reference code:" in source or name == "linear"
    assert "  " not in source
    assert not differs or differs.startswith("Differs from the reference")


def test_counts_are_those_by_hand():
    """NDT1 tiny: a read-in and a read-out of the session, and the encoder that all sessions share."""
    tiny = counted(load_config("ndt1"))
    assert tiny.session == (N_UNITS * 64 + 64) + (64 * N_UNITS + N_UNITS)
    layer = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * 2 * 64
    assert tiny.total == tiny.session + 2 * layer + 2 * 64 + 512 * 64 + (64 * 2 + 2)


def test_a_size_that_cannot_hold_the_session_says_why():
    found = counted(load_config("ndt1", sets=["size=nlb", "model.heads=7"]))
    assert (found.total, found.session) == (0, 0)
    assert found.reason == f"made/toy has {N_UNITS} units, which 7 heads do not divide: use --set model.embed=linear"


def test_on_the_command_line():
    told = CliRunner().invoke(app, ["models", "stndt", "--json"])
    about = json.loads(told.stdout)
    assert "trungle93/STNDT" in about["source"]
    rows = (*PROTOCOLS, *OF_MAPS)
    assert {row["protocol"]: row["has it"] for row in about["protocols"]} == dict.fromkeys(rows, "no")
    assert [row["size"] for row in about["parameters"]] == list(MODELS["stndt"].sizes)
    lines = CliRunner().invoke(app, ["models", "ndt2"]).stdout
    for part in ("joel99/context_general_bci", "identity_unlabelled", "of the session", "no value stands for padding"):
        assert part in " ".join(lines.split()), part
    assert torch.get_default_device().type == "cpu"
