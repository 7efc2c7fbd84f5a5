"""Every golden file that has a replay agrees with it, and would not if a weight were another."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.models import MODELS
from tests.references import REPLAYS
from tests.references.__main__ import main
from tests.references.harness import (
    check,
    compare,
    copy_weights,
    difference,
    prefix_of,
    read,
    replay_of,
    tolerance,
)

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "tests" / "golden" / "models"
BESIDE = Path(os.environ.get("SPIKETOK_GOLDEN") or REPOSITORY.parent / "shared" / "golden")


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.npz")) if prefix_of(path.stem) is not None]


CHOSEN = files(COMMITTED)
NAMES = {path.stem for path in CHOSEN}
OTHERS = [path for path in files(BESIDE) if path.stem not in NAMES] if BESIDE.is_dir() else []


@pytest.mark.parametrize("path", CHOSEN, ids=lambda path: path.stem)
def test_committed_file(path):
    result = check(path)
    assert result.passed, str(result)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_file_beside_the_repository(path):
    result = check(path)
    assert result.passed, str(result)


def test_the_committed_choice_has_a_file_of_every_replay():
    for prefix, module in REPLAYS.items():
        assert any(name.startswith(prefix) for name in NAMES), prefix
        assert callable(importlib.import_module(module).replay)
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 4_200_000  # 18 models, about 200 KB each


NAMES_OF = {"bwb_mtm": "mtm_bwb", "bwb_ndt_stitch": "ndt_stitch"}  # of BrainWideBench's models, by their files
NAMED = re.compile(f"^({'|'.join(NAMES_OF)})(?=_)")


@pytest.mark.skipif(
    not BESIDE.is_dir(), reason="the recorded files of the originals are not here (set SPIKETOK_GOLDEN to their folder)"
)
def test_models_say_how_many_files_they_were_checked_against():
    named = [NAMED.sub(lambda found: NAMES_OF[found[1]], path.stem) for path in files(BESIDE)]
    models = [max((m for m in MODELS if name.startswith(f"{m}_")), key=len, default="") for name in named]
    for name, model in MODELS.items():
        n = models.count(name)  # of the longest name that fits: poyo_plus_... is not of poyo
        said = re.match(r"(\d+) recorded", model.checked)
        assert (int(said[1]) if said else 0) == n, name


WEIGHTED = {path: sum(key.startswith("w/") for key in np.load(path).files) for path in CHOSEN}
MANY = 30  # weights: a replay each


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.long] if n > MANY else [])
        for path, n in WEIGHTED.items()
        if n
    ],
)
def test_another_weight_is_noticed(path):
    """Each weight of the file by itself."""
    golden, meta = read(path)
    module = replay_of(path.stem)
    rng = np.random.default_rng(0)
    without_effect = getattr(module, "NO_EFFECT", {})
    for key in [key for key in golden if key.startswith("w/") and key not in without_effect]:
        change = 0.1 * rng.standard_normal(golden[key].shape) if golden[key].dtype.kind == "f" else 1
        changed = (golden[key] + change).astype(golden[key].dtype)
        try:
            found = module.replay(golden | {key: changed}, meta)
        except (ValueError, DataError, UsageError):  # a constant of the model, or a value that no model takes
            continue
        assert not compare(path.stem, golden, found, module.LEFT_OUT).passed, key


def test_a_weight_that_nothing_takes_is_an_error():
    golden, meta = read(COMMITTED / "spint_tiny.npz")
    replay = replay_of("spint_tiny").replay
    with pytest.raises(ValueError, match=r"not taken: \['fc_in.9.weight'\]"):
        replay(golden | {"w/fc_in.9.weight": golden["w/fc_in.0.weight"]}, meta)
    del golden["w/fc_out.bias"]
    with pytest.raises(ValueError, match=r"not in the file: \['fc_out.bias'\]"):
        replay(golden, meta)


def test_constants_must_agree():
    import torch

    copy_weights({"w/omega": np.array([1.0, 2.0], np.float32)}, {"omega": [torch.tensor([1.0, 2.0])]})
    with pytest.raises(ValueError, match="w/omega is a constant"):
        copy_weights({"w/omega": np.array([1.0, 2.1], np.float32)}, {"omega": [torch.tensor([1.0, 2.0])]})


def test_what_passes():
    golden = {"out/a": np.array([1.0, -2.0]), "loss/b": np.float32(3.0), "in/c": np.zeros(2), "mid/d": np.zeros(2)}
    same = {"out/a": np.array([1.0, -2.0]), "loss/b": np.array(3.0)}
    result = compare("x", golden, same, {})
    assert result.passed and str(result) == "PASS x 0.0e+00 2/2"
    near = compare("x", golden, same | {"out/a": np.array([1.0, -2.0 + 1e-5])}, {})
    assert near.passed and near.worst == pytest.approx(5e-6)
    far = compare("x", golden, same | {"out/a": np.array([1.0 + 3e-5, -2.0])}, {})
    assert str(far) == "FAIL x out/a 1.5e-05"
    assert compare("x", golden, {"out/a": golden["out/a"]}, {}).fault == "loss/b is not given"
    left = compare("x", golden, {"out/a": golden["out/a"]}, {"loss/*": "none in ours"})
    assert left.passed and left.left_out == {"loss/b": "none in ours"}
    assert "left out loss/b: none in ours" in str(left)
    wrong = compare("x", golden, same | {"loss/b": np.array(4.0)}, {"loss/*": "none in ours"})
    assert not wrong.passed  # what is given is compared
    assert not compare("x", golden, {}, {"*": "all"}).passed


def test_differences():
    one = np.array([1.0, np.inf, np.nan])
    assert difference(one, one)[0] == 0
    assert difference(one, np.array([1.0, -np.inf, np.nan]))[0] == np.inf
    assert difference(one, np.array([np.nan, np.inf, np.nan]))[0] == np.inf
    assert difference(one, one[:2]) == (np.inf, "has shape (2,), expected (3,)")
    assert difference(np.array([1, 2]), np.array([1, 3])) == (np.inf, "differs in 1 of 2 values")
    assert difference(np.zeros(2), np.array([0.0, 0.5]))[0] == 0.5
    assert tolerance("spint_tiny", "out/x") == 1e-5 and tolerance("spint_size_M1", "out/x") == 1e-4
    assert tolerance("spint_tiny", "grad/x") == tolerance("spint_tiny", "mid/grad_norm/x") == 2e-4


def test_the_command(tmp_path):
    def run(folder: Path) -> tuple[int, list[str]]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = main(folder)
        return code, out.getvalue().splitlines()

    golden = dict(np.load(COMMITTED / "spint_tiny.npz"))
    (tmp_path / "deep").mkdir()
    np.savez(tmp_path / "deep" / "spint_tiny.npz", **golden)
    np.savez(tmp_path / "other_model.npz", **golden)
    code, lines = run(tmp_path)
    assert code == 0 and lines[0].startswith("PASS spint_tiny ")
    assert lines[1:] == ["SKIP other_model no replay for it", f"1 passed, 0 failed, 1 skipped in {tmp_path}"]
    np.savez(tmp_path / "deep" / "spint_tiny.npz", **golden | {"w/fc_out.bias": golden["w/fc_out.bias"] + 1})
    code, lines = run(tmp_path)
    assert code == 1 and lines[0].startswith("FAIL spint_tiny out/")
    (tmp_path / "deep" / "spint_tiny.npz").unlink()
    assert run(tmp_path)[0] == 1
