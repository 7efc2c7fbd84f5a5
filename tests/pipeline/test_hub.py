"""push and pull: what came is what was sent, or nothing came and the file is named."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import ArtefactError, FetchError
from spiketok.pipeline.citations import Citation
from spiketok.pipeline.hub.card import KEPT, license_of
from spiketok.pipeline.hub.items import pickle_in
from spiketok.pipeline.hub.places import Bucket, File
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.files import human_bytes, json_text, sha256_file
from spiketok.storage.locks import locked
from spiketok.storage.pushed import PUSHED, manifest_of, read_manifest, require_names
from spiketok.storage.remote import RemotePath
from tests.cli.test_cli import Done, in_a_process, spiketok
from tests.hf_server import hf_server
from tests.s3_server import s3_server

FEW = ["--set", "optim.steps=2", "--set", "data.window_ms=500", "--set", "data.batch_size=4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two sessions, a linear decoder of the first and its report on the second."""
    root = tmp_path_factory.mktemp("workspace")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=2, n_units=8, duration_s=40.0)
    spiketok(root, "ingest", *simulate(config, tmp_path_factory.mktemp("nwb")))
    spiketok(root, "tokenize", "--scheme", "binned")
    spiketok(root, "train", "--model", "linear", "--task", "decode:cursor_vel", "--save-predictions")
    spiketok(root, "eval-xsession", "linear", "--calibration-s", "10", "--protocols", "zero_shot")
    return root


@pytest.fixture(scope="module")
def steps(root) -> str:
    """A run that learned by steps."""
    spiketok(root, "train", "--model", "ndt1", "--task", "decode:cursor_vel", *FEW)
    return run_of(root, "ndt1")


def refused(root: Path, *words: str | Path, code: int = 1) -> Done:
    """What a command says that must fail, in one line."""
    done = spiketok(root, *words, code=code)
    assert done.stderr.count("error:") == 1
    return done


def run_of(root: Path, model: str = "linear") -> str:
    (run,) = root.glob(f"runs/{model}-*")
    return run.name


def files(folder: Path, below: str = "") -> dict[str, str]:
    """Digest of each file that is an artefact's, by its place."""
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted((folder / below).rglob("*"))
            if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)}  # fmt: skip


def artefacts(root: Path) -> dict[str, str]:
    return {name: digest for part in ("runs", "store", "shards") for name, digest in files(root, part).items()
            if not name.endswith("index.jsonl")}  # fmt: skip


def chain(root: Path, name: str, *words: str) -> list[dict]:
    return json.loads(spiketok(root, "verify", name, "--json", *words).stdout)["chain"]


# ---- folder ---------------------------------------------------------------------------------------------------------


def test_a_run_goes_through_a_folder_and_is_used_in_another_workspace(root, tmp_path):
    run, there, other = run_of(root), tmp_path / "given", tmp_path / "other"
    done = spiketok(root, "push", run, there)
    assert "1 item: 1 written" in done.stderr
    spiketok(other, "pull", there)
    came = files(other, "runs")
    assert came == {name: digest for name, digest in files(root, f"runs/{run}").items() if "train_state" not in name}
    assert not list(other.glob(".pulling*")) and not list(there.rglob(".*"))
    links = chain(other, run)
    states = {(link["kind"], link["state"]) for link in links}
    assert states == {("result", "holds"), ("predictions", "holds"), ("checkpoint", "holds"), ("shard", "not here"),
                      ("store", "not here")}  # fmt: skip
    assert "pulled without" in next(link["remark"] for link in links if link["kind"] == "shard")
    assert chain(other, f"{run}/xsession")[0]["state"] == "holds"
    assert spiketok(other, "cite", run).stdout == spiketok(root, "cite", run).stdout
    assert spiketok(other, "inspect", run).stdout


@pytest.mark.long
def test_a_pulled_run_evaluates_sessions_of_the_other_workspace(root, tmp_path):
    run, there, other = run_of(root), tmp_path / "given", tmp_path / "other"
    spiketok(root, "push", run, there)
    shutil.copytree(root / "store", other / "store")
    spiketok(other, "tokenize", "--scheme", "binned", "--sessions", "*day02*")
    spiketok(other, "pull", there)
    shutil.rmtree(other / "runs" / run / "xsession")
    spiketok(other, "eval-xsession", "linear", "--calibration-s", "10", "--protocols", "zero_shot",
             "--sessions", "*day02*")  # fmt: skip
    here, came = (json.loads((r / "runs" / run / "xsession" / "report.json").read_text()) for r in (root, other))
    assert here["scores"] == came["scores"]


def test_with_data_all_of_the_chain_comes_and_holds(root, tmp_path):
    run, there, other = run_of(root), tmp_path / "given", tmp_path / "other"
    spiketok(root, "push", "--with-data", run, there)
    spiketok(other, "pull", there)
    sent = artefacts(root)
    assert artefacts(other) == {n: d for n, d in sent.items() if "/ndt1-" not in n and "train_state" not in n}
    states = {link["kind"]: link["state"] for link in chain(other, run, "--quick")}
    assert states == {"result": "holds", "predictions": "holds", "checkpoint": "holds", "shard": "holds",
                      "context": "holds", "store": "holds", "source": "not here"}  # fmt: skip
    done = spiketok(other, "verify")
    assert done.stdout.count("source not here, digests hold") == 2 and "before it was pulled" in done.stderr
    assert "binned" in spiketok(other, "inspect", "--json").stdout
    # a folder that was pushed to is a workspace
    assert {link["state"] for link in chain(there, run, "--quick")} == {"holds", "not here"}


def test_what_is_there_is_not_sent_and_what_is_here_is_not_fetched(root, tmp_path):
    there, other = tmp_path / "given", tmp_path / "other"
    spiketok(root, "push", "*day01*", there)
    before = {p: p.stat().st_mtime_ns for p in there.rglob("*") if p.is_file()}
    done = spiketok(root, "push", "*day01*", there)
    assert "1 item: 1 already; 0 B sent" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in there.rglob("*") if p.is_file()} == before
    spiketok(root, "push", "*day02*", there)  # beside what is there
    assert len(read_manifest((there / PUSHED).read_bytes(), "there")["items"]) == 2
    assert "2 items: 2 written" in spiketok(other, "pull", there).stderr
    assert "2 items: 2 already; 0 B fetched" in spiketok(other, "pull", there).stderr
    shutil.rmtree(next(other.glob("store/*/*day02*")))
    assert "1 written, 1 already" in spiketok(other, "pull", there).stderr


def test_a_link_out_of_the_workspace_stays_where_it_is(root, tmp_path):
    """Whoever gives a run away gives no file that somebody put a link to into its folder."""
    run, there = run_of(root), tmp_path / "given"
    folder = root / "runs" / run
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cr3t")
    links = [folder / "notes.txt", folder / "xsession" / "more.json"]
    inside = folder / "again.txt"
    weights, moved = folder / "checkpoint" / "model.safetensors", tmp_path / "model.safetensors"
    shutil.move(weights, moved)
    try:
        for link in links:
            link.symlink_to(secret)
        inside.symlink_to(folder / "config.json")
        weights.symlink_to(moved)  # on another disk, and known by its digest
        done = spiketok(root, "push", run, there)
    finally:
        for link in (*links, inside, weights):
            link.unlink()
        shutil.move(moved, weights)
    assert "notes.txt and 1 more stays here: a link out of the workspace" in done.stderr
    came = files(there, f"runs/{run}")
    assert not any(name.endswith(("notes.txt", "more.json")) for name in came)
    assert {"again.txt", "model.safetensors"} <= {Path(name).name for name in came}
    assert not any(b"s3cr3t" in p.read_bytes() for p in there.rglob("*") if p.is_file())


@pytest.mark.long
def test_the_state_of_the_optimizer_comes_only_where_it_was_asked_for(root, steps, tmp_path):
    run = steps
    state = Path("runs") / run / "checkpoint" / "train_state.safetensors"
    done = spiketok(root, "push", run, tmp_path / "given")
    assert "train_state.safetensors stays here: --optimizer" in done.stderr
    spiketok(root, "push", "--optimizer", run, tmp_path / "whole")
    for place, has in (("given", False), ("whole", True)):
        spiketok(tmp_path / f"ws-{place}", "pull", tmp_path / place)
        assert (tmp_path / f"ws-{place}" / state).exists() == has
        assert chain(tmp_path / f"ws-{place}", run)[0]["state"] == "holds"
    (tmp_path / "ws-whole" / state).unlink()  # it came, and is lost
    done = refused(tmp_path / "ws-whole", "verify", run)
    assert "train_state.safetensors is gone" in done.stderr


@pytest.mark.long
def test_a_pull_that_was_killed_goes_on(root, tmp_path, monkeypatch):
    from spiketok.pipeline.hub import places

    there, other = tmp_path / "given", tmp_path / "other"
    spiketok(root, "push", "--with-data", run_of(root), there)
    got, get = [], places.Folder.get

    def dies(self, path, target):
        if len(got) == 5:
            raise OSError(5, "the network is gone")
        get(self, path, target)
        got.append(path)

    monkeypatch.setattr(places.Folder, "get", dies)
    refused(other, "pull", there)
    assert not any((other / part).exists() for part in ("runs", "store", "shards", "pulled")), "nothing is seen"
    monkeypatch.setattr(places.Folder, "get", lambda self, path, target: (get(self, path, target), got.append(path)))
    spiketok(other, "pull", there)
    assert len(got) == len(set(got)), "no file was fetched twice"
    assert {link["state"] for link in chain(other, run_of(root), "--quick")} == {"holds", "not here"}


@pytest.mark.long
def test_training_from_shards_behind_a_url_gives_the_same_weights(root, steps, tmp_path, monkeypatch):
    other, run = tmp_path / "other", steps
    shutil.copytree(root / "store", other / "store")
    monkeypatch.setenv("SPIKETOK_CACHE", str(tmp_path / "cache"))
    sizes = [p.stat().st_size for p in (root / "shards").rglob("columns.bin") if "day01" in str(p)]
    words = ["--model", "ndt1", "--task", "decode:cursor_vel", *FEW, "--shards", f"file://{root}/shards"]
    done = spiketok(other, "train", *words, "--shards-cap", f"{sum(sizes) + 100}")
    assert f"at most {human_bytes(sum(sizes) + 100)} of columns are kept in {tmp_path / 'cache'}" in done.stderr
    name = f"runs/{run}/checkpoint/model.safetensors"
    assert sha256_file(other / name) == sha256_file(root / name)
    assert not (other / "shards").exists()
    monkeypatch.setenv("SPIKETOK_CACHE", str(tmp_path / "small"))
    done = refused(other, "train", *words, "--restart", "--shards-cap", f"{min(sizes) + 1}")
    assert "does not fit" in done.stderr and "--shards-cap" in done.stderr
    done = refused(other, "train", *words, "--set", "data.bin_ms=10", "--tokenize", code=2)
    assert "where none are made" in done.stderr


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_refused_by_name(root, tmp_path):
    there, run = tmp_path / "given", run_of(root)
    spiketok(root, "push", run, there)
    file = there / "runs" / run / "checkpoint" / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = refused(tmp_path / "other", "pull", there)
    assert f"runs/{run}/checkpoint/model.safetensors has sha256" in done.stderr
    assert artefacts(tmp_path / "other") == {}


@pytest.mark.long
def test_a_flipped_byte_is_refused_by_name_wherever_it_is(root, tmp_path):
    there = tmp_path / "given"
    spiketok(root, "push", "--with-data", run_of(root), there)
    flipped = sorted(p for p in there.rglob("*") if p.is_file() and p.name not in ("README.md", PUSHED))
    kinds = {p.name if p.parts[-2] != "predictions" else "predictions": p for p in flipped}
    assert len(kinds) >= 9
    for k, file in enumerate(kinds.values()):
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        done = refused(tmp_path / f"other{k}", "pull", there)
        assert file.relative_to(there).as_posix() in done.stderr and "has sha256" in done.stderr
        assert artefacts(tmp_path / f"other{k}") == {}
        file.write_bytes(data)
    manifest = there / PUSHED
    manifest.write_text(manifest.read_text().replace('"bytes": ', '"bytes": 1', 1))
    assert "was changed since it was written" in refused(tmp_path / "other", "pull", there).stderr


def test_a_signed_manifest_of_a_damaged_chain_is_refused(root, tmp_path):
    """Who can write the place can sign: then the artefacts' own digests tell."""
    there = tmp_path / "given"
    spiketok(root, "push", "--with-data", run_of(root), there)
    facts = json.loads((there / PUSHED).read_text())
    items = facts["items"]
    run = next(path for path in items if path.startswith("runs/"))
    result = there / run / "result.json"
    result.write_text(result.read_text().replace('"r2_mean": 0.', '"r2_mean": 0.9', 1))
    items[run]["files"]["result.json"] = {"sha256": sha256_file(result), "bytes": result.stat().st_size}
    (there / PUSHED).write_text(json_text(manifest_of(items, "somebody")))
    done = refused(tmp_path / "other", "pull", there)
    assert "result" in done.stderr and "was changed since it was written" in done.stderr
    assert artefacts(tmp_path / "other") == {}


def item(*names: str) -> dict:
    files = {name: {"sha256": "0" * 64, "bytes": 1} for name in names}
    return {"kind": "run", "left_out": [], "needs": [], "made_of": [], "about": {}, "cite": [], "files": files}


MARK = "checkpoint/checkpoint.json"


@pytest.mark.parametrize(
    ("path", "names", "why"),
    [
        ("runs/../x", [MARK], "outside of the workspace"),
        ("/runs/x", [MARK], "outside of the workspace"),
        ("runs/x", [MARK, "../../y.json"], "outside of the workspace"),
        ("runs/x", [MARK, "/etc/y.json"], "is empty"),
        ("runs/x", [MARK, "a\\..\\y.json"], "outside of the workspace"),
        ("runs/x", [MARK, "a//y.json"], "is empty"),
        ("runs/x", [MARK, ".ssh/y.json"], "begins with '.'"),
        ("runs/x", [MARK, "con.json"], "device"),
        ("runs/x", [MARK, "a\u202ey.json"], "has '"),
        ("runs/x", [MARK, "y.pt"], "no kind of file"),
        ("runs/x", [MARK, "y.json", "Y.json"], "are one to some file systems"),
        ("runs/x", [MARK, "y.json", "y.json/z.json"], "are one to some file systems"),
        ("runs/x", ["config.json"], "has no checkpoint"),
        ("somewhere/x", [MARK], "is no place of"),
    ],
)
def test_hostile_names_in_a_manifest_are_refused(path, names, why):
    data = json_text(manifest_of({path: item(*names)}, "somebody")).encode()
    with pytest.raises(ArtefactError, match=f"(?s){why}"):
        read_manifest(data, "place")


def test_case_twins_of_items_are_refused():
    one = item(MARK)
    with pytest.raises(ArtefactError, match="are one to some"):
        require_names({"runs/Poyo": one, "runs/poyo": one}, "place")
    require_names({"runs/poyo1": one, "runs/poyo": one}, "place")


def test_a_twin_of_a_session_that_is_here_is_refused(root, tmp_path):
    there, other = tmp_path / "given", tmp_path / "other"
    spiketok(root, "push", "*day01*", there)
    source = next(root.glob("store/*/*day01*"))
    shutil.copytree(source, other / "store" / source.parent.name.upper() / source.name)
    assert "are one to some file systems" in refused(other, "pull", there).stderr


def test_a_pickle_is_neither_sent_nor_taken(root, tmp_path):
    run = root / "runs" / run_of(root)
    stray = run / "weights.safetensors"
    stray.write_bytes(pickle.dumps({"a": 1}))
    try:
        done = refused(root, "push", run.name, tmp_path / "given")
    finally:
        stray.unlink()
    assert "weights.safetensors is a pickle" in done.stderr and not (tmp_path / "given").exists()
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([{}], object))
    assert "array of objects" in pickle_in(objects)
    np.savez(objects, a=np.arange(3))
    assert pickle_in(objects) == ""
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 40)
    assert "not in safetensors" in pickle_in(tmp_path / "x.safetensors")


@pytest.mark.long
def test_another_artefact_in_the_place_is_not_replaced_unasked(root, tmp_path):
    there, other, run = tmp_path / "given", tmp_path / "other", run_of(root)
    spiketok(root, "push", run, there)
    spiketok(other, "pull", there)
    own = other / "runs" / run / "xsession2" / "mine.json"
    own.parent.mkdir()
    own.write_text("{}")
    metrics = other / "runs" / run / "config.json"
    whole = metrics.read_bytes()
    metrics.write_text("{}")
    assert "config.json is another than what would come: --overwrite" in refused(other, "pull", there).stderr
    spiketok(other, "pull", "--overwrite", there)
    assert metrics.read_bytes() == whole and own.exists(), "what stands beside what came is kept"


def test_requests_that_are_wrong_are_one_line(root, tmp_path):
    assert "push WHAT... TO" in refused(root, "push", "x", code=2).stderr
    assert "unknown run, shard or session 'nothing'" in refused(root, "push", "nothing", tmp_path / "x", code=2).stderr
    assert "is a workspace" in refused(root, "push", "*day01*", root, code=2).stderr
    assert "nothing was pushed there" in refused(root, "pull", tmp_path / "empty").stderr
    assert "--public" in refused(root, "push", "--public", "*day01*", tmp_path / "x", code=2).stderr
    assert "hf://datasets/OWNER/NAME" in refused(root, "push", "*day01*", "hf://justname", code=2).stderr
    spiketok(root, "push", "*day01*", tmp_path / "given")
    assert "unknown item 'binned'" in refused(root, "pull", tmp_path / "given", "binned", code=2).stderr


# ---- the card -------------------------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_and_keeps_what_people_wrote(root, tmp_path):
    yaml = pytest.importorskip("yaml")
    there = tmp_path / "given"
    spiketok(root, "push", run_of(root), "*day01*", "binned", there)
    card = (there / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "unknown" and front["library_name"] == "spiketok" and "linear" in front["tags"]
    result = json.loads((root / "runs" / run_of(root) / "result.json").read_text())
    scores = {m["name"]: m["value"] for m in front["model-index"][0]["results"][0]["metrics"]}
    assert scores["decode:cursor_vel: r2_mean"] == result["test_mean"]["decode:cursor_vel"]["r2_mean"]
    facts = read_manifest((there / PUSHED).read_bytes(), "there")
    assert facts["digest"] in card and str(tmp_path) not in card and "day02" in card
    for heading in ("## Sessions", "## Token shards", "## Citation", "## Digests", "spiketok pull given"):
        assert heading in card
    (there / "README.md").write_text(card + "Recorded in the cellar.\n")
    spiketok(root, "push", "*day02*", there)
    again = (there / "README.md").read_text()
    assert again.endswith(f"{KEPT}\nRecorded in the cellar.\n") and again.count(KEPT) == 1


def test_licences():
    def of(*licences: str) -> list[Citation]:
        return [Citation("data", str(k), "", license=one) for k, one in enumerate(licences)]

    assert license_of(of("spdx:CC-BY-4.0"))[0] == "cc-by-4.0"
    assert license_of(of("spdx:CC-BY-4.0", "spdx:CC0-1.0"))[0] == "other"
    assert license_of(of("spdx:CC-BY-4.0", ""))[0] == "unknown"
    assert license_of(of("a licence of our own")) == ("other", ["a licence of our own"])


# ---- S3 and Hugging Face --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_through_a_bucket(root, tmp_path):
    run, other = run_of(root), tmp_path / "other"
    with s3_server() as (s3, answered):
        s3.mkdir("given")
        spiketok(root, "push", "--with-data", run, "s3://given/one")
        answered.clear()
        done = spiketok(root, "push", "--with-data", run, "s3://given/one")
        assert "0 B sent" in done.stderr and not [one for one in answered if one.startswith("PUT")]
        spiketok(other, "pull", "s3://given/one")
        assert {n: d for n, d in artefacts(root).items() if n in artefacts(other)} == artefacts(other) != {}
        assert {link["state"] for link in chain(other, run, "--quick")} == {"holds", "not here"}
        spiketok(tmp_path / "fourth", "pull", "s3://given/one", "*day01*", "--store", "s3://given/two/store")
        done = spiketok(tmp_path / "fourth", "verify", "--store", "s3://given/two/store")
        assert "source not here, digests hold" in done.stdout
        name = f"given/one/runs/{run}/checkpoint/model.safetensors"
        data = s3.cat_file(name)
        s3.pipe_file(name, data[:-1] + bytes([data[-1] ^ 1]))
        done = refused(tmp_path / "third", "pull", "s3://given/one")
        assert "checkpoint/model.safetensors has sha256" in done.stderr and artefacts(tmp_path / "third") == {}
        assert "; 0 B sent" not in spiketok(root, "push", run, "s3://given/one").stderr
        spiketok(tmp_path / "third", "pull", "s3://given/one")  # what was changed there was sent again


KILLED = """
import os, signal
from spiketok.storage.remote import RemotePath
upload, sent = RemotePath.upload_file, []
def dies(self, path):
    if len(sent) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    upload(self, path)
    sent.append(path)
RemotePath.upload_file = dies
"""


def put(answered: list[str]) -> list[str]:
    return [one.removeprefix("PUT /given/").partition("?")[0] for one in answered if one.startswith("PUT")]


@pytest.mark.long
def test_a_push_to_a_bucket_that_was_interrupted_goes_on(root, tmp_path, monkeypatch):
    """By a kill, which leaves no note, and by the network, after which what came is known."""
    run, other, copy = run_of(root), tmp_path / "other", tmp_path / "copy"
    for part in ("runs", "shards", "store"):
        shutil.copytree(root / part, copy / part)
    with s3_server() as (s3, answered):
        s3.mkdir("given")
        words = ("push", "--with-data", run, "s3://given/one")
        answered.clear()
        assert in_a_process(copy, *words, first=KILLED).returncode == -9
        assert len(put(answered)) == 3
        assert "nothing was pushed there" in refused(other, "pull", "s3://given/one").stderr
        assert artefacts(other) == {}

        upload, done = RemotePath.upload_file, []

        def breaks(self, path):
            if len(done) == 5:
                message = f"{self}: the network is gone"
                raise FetchError(message)
            upload(self, path)
            done.append(str(self).removeprefix("s3://given/"))

        monkeypatch.setattr(RemotePath, "upload_file", breaks)
        assert "the network is gone" in refused(copy, *words).stderr
        monkeypatch.setattr(RemotePath, "upload_file", upload)
        assert not s3.exists(f"given/one/{PUSHED}")
        answered.clear()
        spiketok(copy, *words)
        again = put(answered)
        assert not set(again) & set(done) and again[-1] == f"one/{PUSHED}"
        answered.clear()
        assert "0 B sent" in spiketok(copy, *words).stderr and not put(answered)
        spiketok(other, "pull", "s3://given/one")
        assert {n: d for n, d in artefacts(root).items() if n in artefacts(other)} == artefacts(other) != {}
        assert {link["state"] for link in chain(other, run, "--quick")} == {"holds", "not here"}


def test_what_a_killed_push_may_have_left_is_not_taken_for_what_the_manifest_says(tmp_path, monkeypatch):
    """Another machine pushed; a push of changed files of the same size was killed here; then the first ones again."""
    here = {}
    for version in ("old", "new"):
        for name in ("a", "b"):
            path = tmp_path / version / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{version} {name}")
            here.setdefault(version, {})[name] = File(path, sha256_file(path), path.stat().st_size)
    (tmp_path / "there").mkdir()
    url = RemotePath(f"file://{tmp_path}/there")
    Bucket(url, None).put(here["old"], b"card", b"manifest", lambda name, nbytes: None)
    known = {name: (file.sha256, file.nbytes) for name, file in here["old"].items()}
    assert Bucket(url, tmp_path).there(here["old"], known) == {"a", "b"}

    class Killed(BaseException):
        pass

    def dies(name: str, nbytes: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "_note", lambda self, batch: None)  # a kill notes nothing
        with pytest.raises(Killed):
            Bucket(url, tmp_path).put(here["new"], b"card", b"other", dies)
    assert (tmp_path / "there" / "a").read_text() == "new a"
    assert "a" not in Bucket(url, tmp_path).there(here["old"], known)
    Bucket(url, tmp_path).put(here["old"], b"card", b"manifest", lambda name, nbytes: None)
    assert (tmp_path / "there" / "a").read_text() == "old a"
    assert Bucket(url, tmp_path).there(here["old"], known) == {"a", "b"}


@pytest.mark.long
def test_training_from_shards_in_a_bucket_gives_the_same_weights_within_the_cap(root, tmp_path, monkeypatch):
    """Of two sessions whose columns do not fit into the cache together: what is read next comes again."""
    local, far = tmp_path / "local", tmp_path / "far"
    for workspace in (local, far):
        shutil.copytree(root / "store", workspace / "store")
    shutil.copytree(root / "shards", local / "shards")
    words = ["train", "--model", "ndt1", "--task", "decode:cursor_vel", "--hold-out", "none", *FEW]
    spiketok(local, *words)
    sizes = [p.stat().st_size for p in (root / "shards").rglob("columns.bin")]
    cap, most, done = sum(sizes) - min(sizes) // 2, [0], threading.Event()
    monkeypatch.setenv("SPIKETOK_CACHE", str(tmp_path / "cache"))

    def held() -> int:
        total = 0
        for file in (tmp_path / "cache").rglob("columns.bin*"):
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size if file.name == "columns.bin" else int(file.name.rpartition("-")[2])
        return total

    def watch() -> None:
        while not done.is_set():
            for home in (tmp_path / "cache").glob("shards/*"):
                with locked(home / ".lock", "the cache", wait=True):  # else it counts what goes and what comes
                    most[0] = max(most[0], held())
            time.sleep(0.01)

    with s3_server() as (s3, answered):
        s3.put(str(root / "shards"), "given/shards", recursive=True)
        answered.clear()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            spiketok(far, *words, "--shards", "s3://given/shards", "--shards-cap", str(cap))
        finally:
            done.set()
            watcher.join()
        fetched = [one.partition("?")[0] for one in answered if one.startswith("GET") and "columns.bin" in one]
    assert 0 < most[0] <= cap and not (far / "shards").exists()
    assert len(set(fetched)) == len(sizes)
    (mine,), (theirs,) = (list(workspace.glob("runs/ndt1-*")) for workspace in (local, far))
    assert mine.name == theirs.name
    for name in ("checkpoint/model.safetensors", "result.json"):
        assert sha256_file(mine / name) == sha256_file(theirs / name)


@pytest.mark.long
def test_through_hugging_face(root, tmp_path):
    run, other = run_of(root), tmp_path / "other"
    with hf_server() as hub:
        place = "hf://datasets/lab/reach"
        spiketok(root, "push", "--with-data", run, place)
        assert hub.private["dataset", "lab/reach"] == "private"
        there = hub.files("dataset", "lab/reach")
        assert there[f"runs/{run}/result.json"] == (root / "runs" / run / "result.json").read_bytes()
        assert there["README.md"].startswith(b"---\nlicense: ") and b"pretty_name" in there["README.md"]
        assert len(hub.repos["dataset", "lab/reach"]) == 2, "one commit"
        hub.answered.clear()
        assert "0 B sent" in spiketok(root, "push", "--with-data", run, place).stderr
        assert not [one for one in hub.answered if one.startswith("PUT") or "/commit/" in one]
        spiketok(other, "pull", place)
        assert {n: d for n, d in artefacts(root).items() if n in artefacts(other)} == artefacts(other) != {}
        assert {link["state"] for link in chain(other, run, "--quick")} == {"holds", "not here"}

        name = f"runs/{run}/checkpoint/model.safetensors"
        whole = there[name]
        first = hub.repos["dataset", "lab/reach"][-1][0]
        hub.change("dataset", "lab/reach", name, whole[:-1] + bytes([whole[-1] ^ 1]))
        done = refused(tmp_path / "third", "pull", place)
        assert f"{name} has sha256" in done.stderr and artefacts(tmp_path / "third") == {}
        spiketok(tmp_path / "third", "pull", f"{place}@{first}")  # as it was
        spiketok(root, "push", run, place)
        assert hub.files("dataset", "lab/reach")[name] == whole


def test_a_model_repository_and_what_its_server_refuses(root, tmp_path, monkeypatch):
    run = run_of(root)
    with hf_server() as hub:
        hub.fail_after = 0
        done = refused(root, "push", run, "hf://lab/decoder")
        assert "did not take it" in done.stderr and f"runs/{run}/" in done.stderr and "507" in done.stderr
        hub.fail_after = None
        spiketok(root, "push", "--public", run, "hf://lab/decoder")
        assert b"library_name" in hub.files("model", "lab/decoder")["README.md"]
        assert "nothing was pushed there" in refused(tmp_path, "pull", "hf://lab/other").stderr
        assert "no revision 'v9'" in refused(tmp_path, "pull", "hf://lab/decoder@v9").stderr
        monkeypatch.setenv("HF_TOKEN", "hf_bad")
        assert "HF_TOKEN" in refused(root, "push", "*day01*", "hf://lab/decoder").stderr
