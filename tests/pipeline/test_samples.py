"""Windows of shards for the loaders of others: which they are, and that each library gives them back as they were."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from spiketok.pipeline.samples.windows import Samples, sources
from spiketok.pipeline.tokenize import tokenize
from spiketok.recording.splits import NAMES, SplitRule, resolve_splits
from spiketok.storage.files import read_signed
from spiketok.storage.store import write_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader
from tests.cli.test_cli import spiketok
from tests.made import MS, random_session

SESSIONS = ("made/one", "made/two")
RULE = SplitRule("block", train=0.6, valid=0.2, test=0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two sessions with a behaviour, as counts and as spikes."""
    root = tmp_path_factory.mktemp("workspace")
    for k, name in enumerate(SESSIONS):
        session = random_session(name.split("/")[1], k, n_units=4 + k, seconds=12.0)
        write_session(session, root / "store" / name)
    outcomes = list(tokenize(Workspace(root), SESSIONS, [make_scheme("binned"), make_scheme("per-spike")]))
    assert not [one.error for one in outcomes if one.error]
    return root


def expected(root: Path, scheme: str, **more) -> dict[str, list[dict]]:
    found, _, _ = sources(Workspace(root), SESSIONS, Samples(scheme=scheme, window_ms=500, split=RULE, **more))
    return {name: [sample for source in own for sample in source.samples()] for name, own in found.items()}


@pytest.mark.parametrize("scheme", ["binned", pytest.param("per-spike", marks=pytest.mark.long)])
def test_samples_are_the_cuts_of_windows_that_lie_in_one_split(root, scheme):
    made = expected(root, scheme)
    assert set(made) == set(NAMES)
    for session in SESSIONS:
        (folder,) = (root / "shards" / scheme / session).glob("*")
        reader = ShardReader(folder)
        parts = resolve_splits(reader.splits, reader.observed, RULE, reader.trials, session)
        for name in NAMES:
            own = [one for one in made[name] if one["session"] == session]
            assert len(own) >= 3
            for one in own:
                start = one["start_ns"]
                row = np.searchsorted(parts[name].start_ns, start, side="right") - 1
                assert parts[name].start_ns[row] <= start
                assert start + one["window_ns"] <= parts[name].stop_ns[row]
                segment = np.searchsorted(reader.segments.start_ns, [start], side="right") - 1
                cut = reader.scheme.cut(reader.columns, Windows(segment, np.array([start]), one["window_ns"]))
                for column, values in cut.columns.items():
                    np.testing.assert_array_equal(one[column], values)
                signal = reader.signal("vel")
                low, high = np.searchsorted(signal.time_ns, [start, start + 500 * MS])
                np.testing.assert_array_equal(one["target.value"], signal.value[low:high])
                assert one["target.time_ns"].tolist() == (signal.time_ns[low:high] - start).tolist()
    assert "target.value" not in expected(root, scheme, target="none")["train"][0]


def test_what_is_wrong_is_one_line(root, tmp_path, monkeypatch):
    import sys

    words = ["export", "made/*", "--out", tmp_path / "out", "--to"]
    monkeypatch.setitem(sys.modules, "webdataset", None)
    done = spiketok(root, *words, "webdataset", code=2)
    assert "needs 'webdataset', which is not installed: pip install webdataset" in done.stderr
    monkeypatch.delitem(sys.modules, "webdataset")
    monkeypatch.syspath_prepend(tmp_path)
    for text, fact in (("import torchpicture", "which needs 'torchpicture', which is not installed: pip install web"),
                       ("raise RuntimeError('operator x::nms does not exist')", "which is installed and cannot be "
                        "imported (RuntimeError: operator x::nms does not exist)")):  # fmt: skip
        (tmp_path / "webdataset.py").write_text(f"{text}\n")
        importlib.invalidate_caches()
        assert fact in spiketok(root, *words, "webdataset", code=2).stderr
    (tmp_path / "webdataset.py").unlink()
    monkeypatch.setitem(sys.modules, "webdataset", json)  # something that can be imported
    for setting, line in (("window_ms=7", "no multiple of 20 ms"), ("scheme=patch", "has no patch shard"),
                          ("target=none_such", "unknown behaviour 'none_such'"),
                          ("window_ms=9e6", "no window of 9e+06 ms fits"), ("nothing=1", "nothing")):  # fmt: skip
        done = spiketok(root, *words, "webdataset", "--set", setting, code=2 if "patch" not in setting and "9e6" not in
                        setting else 1)  # fmt: skip
        assert line in done.stderr and done.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


# ---- read back by the libraries -------------------------------------------------------------------------------------


DECLARED = []  # a library of torch lives as long as somebody holds it


def _can_import_torchvision() -> None:
    """streaming imports torchvision, whose wheels are built for CUDA: beside a torch without it their kernels do not
    load, and the import ends at those that it describes anew. So they are declared; nothing here calls them.
    """
    import torch

    if torch.version.cuda is None and not DECLARED:
        DECLARED.append(torch.library.Library("torchvision", "DEF"))
        for kernel in ("nms", "qnms"):
            DECLARED[0].define(f"{kernel}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _from_mds(folder: Path) -> list[dict]:
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
    return [data[k] for k in range(len(data))]


def _from_litdata(folder: Path) -> list[dict]:
    from litdata import StreamingDataset

    data = StreamingDataset(str(folder), shuffle=False)
    return [data[k] for k in range(len(data))]


def _from_webdataset(folder: Path) -> list[dict]:
    import webdataset

    data = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False).decode()
    return [one["json"] | {name.removesuffix(".npy"): value for name, value in one.items() if name.endswith(".npy")}
            for one in data]  # fmt: skip


def _from_hf(folder: Path) -> list[dict]:
    import datasets

    return list(datasets.load_from_disk(str(folder)))


READ = {"mds": ("streaming", _from_mds), "litdata": ("litdata", _from_litdata),
        "webdataset": ("webdataset", _from_webdataset), "hf": ("datasets", _from_hf)}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("scheme", ["binned", "per-spike"])
@pytest.mark.parametrize("to", READ)
def test_each_library_reads_back_the_same_samples(root, tmp_path, to, scheme):
    module, read = READ[to]
    if to == "mds":
        _can_import_torchvision()
    pytest.importorskip(module)
    out = tmp_path / "out"
    words = ["export", "made/*", "--to", to, "--out", out, "--set", f"scheme={scheme}", "--set", "window_ms=500",
             "--set", "split.kind=block", "--set", "split.train=0.6", "--set", "split.valid=0.2",
             "--set", "split.test=0.2"]  # fmt: skip
    spiketok(root, *words)
    facts = read_signed(out / "spiketok.json", "facts", "")
    assert facts["sessions"]["made/one"]["unit_id"] == ["one-0", "one-1", "one-2", "one-3"]
    for name, due in expected(root, scheme).items():
        found = read(out / name)
        assert len(found) == len(due) == facts["samples"][name]
        for one, same in zip(found, due, strict=True):
            assert same.keys() <= one.keys()
            for key, value in same.items():
                if isinstance(value, np.ndarray):
                    came = np.asarray(one[key])
                    assert came.size == value.size
                    np.testing.assert_array_equal(came.reshape(value.shape).astype(value.dtype), value)
                else:
                    assert one[key] == value
    assert "already" in spiketok(root, *words).stderr
    assert "--overwrite replaces it" in spiketok(root, *words, "--set", "step_ms=100", code=2).stderr
