"""All tensors of the seven sets against nlb_tools 0.0.4 itself, run by ``make oracle-nlb`` (SPIKETOK_NLB_PYTHON)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spiketok.pipeline.export.nlb_tensors import eval_input
from tests.conftest import real_data
from tests.layouts.nlb import FILES
from tests.oracles.run_nlb_tools import golden_part, score_inputs
from tests.sources.test_nlb import GOLDEN, all_tensors, assert_as_reference, made, our_scores

pytestmark = pytest.mark.oracle
SCRIPT = Path(__file__).parents[1] / "oracles" / "run_nlb_tools.py"


@pytest.fixture(scope="module")
def old_python():
    python = os.environ.get("SPIKETOK_NLB_PYTHON")
    if not python:
        pytest.skip("SPIKETOK_NLB_PYTHON names no interpreter with nlb_tools 0.0.4: run make oracle-nlb")
    return python


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "twisted"])
def reference(old_python, tmp_path_factory, request):
    """The files that the old environment wrote, and what nlb_tools made of them."""
    folder = tmp_path_factory.mktemp("oracle")
    run(old_python, SCRIPT, folder / "files", folder / "out.npz", request.param)
    return folder / "files", dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("name", FILES)
def test_every_tensor(name, reference):
    folder, found = reference
    session = made(name, [folder / name / path for path in FILES[name]])
    ours = all_tensors(session, name, 5) | all_tensors(session, name, 20)
    expected = {path: value for path, value in found.items() if path.startswith(f"{name}/")}
    assert set(expected) == set(ours)
    assert_as_reference(ours, expected)


@pytest.mark.parametrize("reference", [0], ids=["plain"], indirect=True)
@pytest.mark.parametrize("name", FILES)
def test_golden_numbers_are_the_reference_s(name, reference):
    made_now, kept = golden_part(reference[1])[name], dict(np.load(GOLDEN / f"{name}.npz"))
    assert set(made_now) == set(kept)
    for path, value in kept.items():
        np.testing.assert_allclose(made_now[path], value, rtol=1e-6, atol=1e-6, err_msg=path)


def test_real_test_file(old_python, tmp_path):
    folder = real_data()
    file = folder / "sub-Jenkins_ses-small_desc-test_ecephys.nwb" if folder else None
    if file is None or not file.exists():
        pytest.skip(
            "the real test file of mc_maze_small is not in the folder of real recordings (SPIKETOK_REAL_DATA names it)"
        )
    run(old_python, SCRIPT, "--file", file, "mc_maze_small", tmp_path / "out.npz")
    expected = dict(np.load(tmp_path / "out.npz"))
    session = made("mc_maze_small", [file])
    for bin_ms in (5, 20):
        found = eval_input(session, split="test", bin_ms=bin_ms)["eval_spikes_heldin"]
        np.testing.assert_array_equal(found, expected[f"mc_maze_small/{bin_ms}/test/eval_spikes_heldin"])


def test_scores(old_python, tmp_path):
    run(old_python, SCRIPT, "--metrics", tmp_path / "out.npz")
    expected, kept = dict(np.load(tmp_path / "out.npz")), dict(np.load(GOLDEN / "scores.npz"))
    for name, value in our_scores(score_inputs()).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(kept[name], expected[name], rtol=1e-12, err_msg=name)
