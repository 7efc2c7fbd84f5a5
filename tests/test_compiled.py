"""Where compiled loops are kept: a folder that can be written, else nowhere; damaged code is never run."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
from numba.core import config

from spiketok import compiled, notes

SOURCE = """
from spiketok.compiled import njit

@njit(nogil=True)
def twice(values):
    total = 0
    for k in range(values.size):
        total += 2 * values[k]
    return total
"""
VALUES = np.arange(5)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())
    monkeypatch.setattr(compiled, "_kept_in", set())
    monkeypatch.setattr(compiled, "_not_kept", [])


@pytest.fixture
def load(tmp_path):
    (tmp_path / "loops.py").write_text(SOURCE)

    def loaded():
        spec = importlib.util.spec_from_file_location("loops", tmp_path / "loops.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.twice(VALUES) == 20
        return module.twice

    return loaded


def hits(loop) -> int:
    return sum(loop.stats.cache_hits.values())


def test_code_is_kept_beside_the_source_and_found_again(load, tmp_path, capsys):
    assert hits(load()) == 0
    assert hits(load()) == 1
    assert compiled.cache_places() == ([str(tmp_path / "__pycache__")], "")
    assert capsys.readouterr().err == ""


def test_without_a_folder_it_is_compiled_and_said_once(load, tmp_path, monkeypatch, capsys):
    (tmp_path / "__pycache__").touch()
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    monkeypatch.setattr(config, "CACHE_DIR", "/dev/null/mine")
    assert hits(load()) == 0
    assert hits(load()) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be kept" in told
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in told
    assert compiled.cache_places()[1].startswith(f"neither {tmp_path / '__pycache__'} nor")


@pytest.mark.long
def test_a_setting_that_is_no_folder_is_said_and_another_taken(load, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "CACHE_DIR", "/dev/null/mine")
    load()
    assert "NUMBA_CACHE_DIR=/dev/null/mine is no folder that can be written" in capsys.readouterr().err
    assert hits(load()) == 1


def test_damaged_code_is_compiled_anew_and_kept(load, tmp_path, capsys):
    load()
    (file,) = (tmp_path / "__pycache__").glob("*.nbc")
    file.write_bytes(file.read_bytes()[:-50] + bytes(50))
    assert hits(load()) == 0
    assert hits(load()) == 1
    assert capsys.readouterr().err.count("are damaged: compiled anew") == 1


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "harm",
    [lambda b: b"", lambda b: b[:40], lambda b: bytes(len(b)), lambda b: b[:-50] + bytes(50),
     lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :]],
    ids=["empty", "cut", "zeros", "zeros at its end", "a bit"],
)  # fmt: skip
def test_damage_of_any_kind_is_compiled_anew(load, tmp_path, harm, suffix):
    load()
    (file,) = (tmp_path / "__pycache__").glob(f"*.{suffix}")
    file.write_bytes(harm(file.read_bytes()))
    assert hits(load()) == 0
    assert hits(load()) == 1


@pytest.mark.long
def test_an_index_of_another_numba_is_made_anew(load, tmp_path):
    load()
    (file,) = (tmp_path / "__pycache__").glob("*.nbi")
    file.write_bytes(pickle.dumps("0.1") + b"what no other version reads")
    assert hits(load()) == 0
    assert hits(load()) == 1


def test_code_of_other_types_under_our_name_is_not_run(load, tmp_path):
    """Two processes that write one index at once may leave each other's file under their own name."""
    loop = load()
    assert loop(VALUES.astype(np.float32)) == 20.0
    files = sorted((tmp_path / "__pycache__").glob("*.nbc"))
    bodies = [file.read_bytes() for file in files]
    assert len(files) == 2
    for file, body in zip(files, reversed(bodies), strict=True):
        file.write_bytes(body)
    again = load()
    assert again(VALUES.astype(np.float32)) == 20.0
    assert hits(again) == 0


@pytest.mark.long
def test_a_disk_that_fills_up_ends_nothing(load, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    load()
    assert "No space left on device" in capsys.readouterr().err
