"""The digest chain: whatever is changed, lost or made anew, exactly that link is named; and who is to be cited."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.pipeline import citations
from spiketok.pipeline.provenance import first_broken, walk
from spiketok.recording.nouns import Source
from spiketok.sources.catalogue import DATASETS
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.files import content_digest, sha256_file, write_json
from spiketok.storage.store import read_attributes, read_session, write_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.layouts.nlb import write_nlb
from tests.made import golden_session

DAY = "local/sub-S01_ses-CO-day0{}_behavior+ecephys"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """From two source files to a report, by a linear decoder."""
    root = tmp_path_factory.mktemp("workspace")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=2, n_units=8, duration_s=40.0)
    spiketok(root, "ingest", *simulate(config, tmp_path_factory.mktemp("nwb")))
    spiketok(root, "tokenize", "--scheme", "binned")
    spiketok(root, "train", "--model", "linear", "--task", "decode:cursor_vel", "--hold-out", "*day02*")
    spiketok(root, "eval-xsession", "linear", "--calibration-s", "10", "--protocols", "zero_shot")
    return root


def run_of(root: Path) -> Path:
    (run,) = root.glob("runs/linear-*")
    return run


def report_of(root: Path) -> Path:
    return run_of(root) / "xsession"


def shard_of(root: Path, day: int = 1) -> Path:
    (manifest,) = root.glob(f"shards/binned/{DAY.format(day)}/*/manifest.json")
    return manifest.parent


def context_of(root: Path, day: int = 1) -> Path:
    (manifest,) = root.glob(f"shards/context/{DAY.format(day)}/*/manifest.json")
    return manifest.parent


def flip_column(folder: Path, name: str) -> None:
    entry = json.loads((folder / "manifest.json").read_text())["columns"][name]
    content = bytearray((folder / "columns.bin").read_bytes())
    content[entry["offset"] + entry["bytes"] // 2] ^= 1
    (folder / "columns.bin").write_bytes(content)


def store_of(root: Path, day: int = 1) -> Path:
    return root / "store" / DAY.format(day)


def source_of(root: Path, day: int = 1) -> Path:
    (path,) = json.loads((root / "sources.json").read_text())[DAY.format(day)]
    return Path(path)


# ---- what can happen to a link --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def edit(path: Path, *, sign: bool) -> None:
    """Other facts in a JSON artefact; with ``sign``, as if they had been made so, else as by hand."""
    facts = json.loads(path.read_text())
    facts["made"] = "otherwise"
    path.write_text(json.dumps(facts | ({"digest": content_digest(facts)} if sign else {})))


def ingest_otherwise(store: Path) -> None:
    session = read_session(store)
    write_session(replace(session, subject="another"), store, read_attributes(store)["settings"])


Change = Callable[[Path], None]
BROKEN: dict[str, tuple[Change, str, str]] = {
    "report edited": (lambda r: edit(report_of(r) / "report.json", sign=False), "report", "was changed"),
    "report cut": (lambda r: (report_of(r) / "report.json").write_text("{"), "report", "cannot be read"),
    "page flipped": (lambda r: flip(report_of(r) / "report.html"), "report", "report.html has sha256"),
    "page deleted": (lambda r: remove(report_of(r) / "report.html"), "report", "is gone"),
    "checkpoint edited": (
        lambda r: edit(run_of(r) / "checkpoint" / "checkpoint.json", sign=False),
        "checkpoint",
        "was changed",
    ),
    "weights flipped": (lambda r: flip(run_of(r) / "checkpoint" / "model.safetensors"), "checkpoint", "model.safeten"),
    "trained anew": (
        lambda r: edit(run_of(r) / "checkpoint" / "checkpoint.json", sign=True),
        "checkpoint",
        "the report was made from",
    ),
    "checkpoint deleted": (lambda r: remove(run_of(r) / "checkpoint"), "checkpoint", "is gone"),
    "column flipped": (lambda r: flip_column(shard_of(r), "counts"), "shard", "column 'counts' has sha256"),
    "columns deleted": (lambda r: remove(shard_of(r) / "columns.bin"), "shard", "lacks its columns"),
    "manifest edited": (lambda r: edit(shard_of(r) / "manifest.json", sign=False), "shard", "damaged manifest"),
    "tokenized anew": (
        lambda r: edit(shard_of(r) / "manifest.json", sign=True),
        "shard",
        "the checkpoint was made from",
    ),
    "shard deleted": (lambda r: remove(shard_of(r)), "shard", "is gone: spiketok tokenize --scheme binned"),
    "scored shard flipped": (lambda r: flip_column(shard_of(r, 2), "counts"), "shard", "column 'counts' has sha256"),
    "behaviour flipped": (
        lambda r: flip_column(context_of(r), "signal.cursor_vel.value"),
        "context",
        "column 'signal.cursor_vel.value' has sha256",
    ),
    "context edited": (lambda r: edit(context_of(r) / "manifest.json", sign=False), "context", "damaged manifest"),
    "another context": (
        lambda r: edit(context_of(r) / "manifest.json", sign=True),
        "context",
        "the shard was made from",
    ),
    "context deleted": (lambda r: remove(context_of(r)), "context", "no context at"),
    "chunk flipped": (lambda r: flip(store_of(r) / "arrays.zip"), "store", "is damaged"),
    "attributes edited": (lambda r: edit(store_of(r) / "session.json", sign=False), "store", "is damaged"),
    "ingested anew": (lambda r: ingest_otherwise(store_of(r)), "store", "the shard was made from"),
    "store deleted": (lambda r: remove(store_of(r)), "store", "holds no session"),
    "source flipped": (lambda r: flip(source_of(r)), "source", "was ingested as"),
}  # fmt: skip


@contextlib.contextmanager
def kept(root: Path, tmp_path: Path) -> Iterator[None]:
    """Whatever happens in the block to the workspace or its sources, they are as before afterwards."""
    sources = source_of(root).parent
    shutil.copytree(root, tmp_path / "root")
    shutil.copytree(sources, tmp_path / "sources")
    try:
        yield
    finally:
        for folder, copy in ((root, "root"), (sources, "sources")):
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / copy, folder)


def test_a_whole_chain_holds_and_is_equal_to_its_sources(root):
    done = spiketok(root, "verify", report_of(root) / "report.html")  # the path that eval-xsession prints
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    kinds = [line[0].strip() for line in lines[1:]]
    assert kinds == ["report", "checkpoint", *["shard", "context", "store", "source"] * 2]
    assert {line[2] for line in lines[1:]} == {"holds"}
    assert [line[4] for line in lines[1:] if line[0].strip() == "store"] == ["equal to its source, read by pynwb"] * 2
    assert "10 of 10 links hold" in done.stderr
    told = json.loads(spiketok(root, "verify", "--quick", "--json", run_of(root)).stdout)
    assert [link["kind"] for link in told["chain"]] == ["result", "checkpoint", "shard", "context", "store", "source"]
    assert told["first_broken"] is None


def test_a_path_says_where_the_rest_of_its_chain_lies(root, tmp_path, monkeypatch):
    """From another folder and without --root, the chain of a report is that of the workspace that it lies in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIKETOK_ROOT", raising=False)
    for path in (report_of(root), run_of(root), shard_of(root)):
        assert Workspace.around(path) == Workspace(root.resolve())
    done = CliRunner().invoke(app, ["verify", str(report_of(root)), "--quick"])
    assert done.exit_code == 0, done.output
    assert Workspace.around(tmp_path / "runs" / "moved") is None


@pytest.mark.parametrize("name", BROKEN)
def test_exactly_the_broken_link_is_named(root, tmp_path, name):
    change, kind, words = BROKEN[name]
    workspace = Workspace.locate(root)
    with kept(root, tmp_path):
        path = report_of(root)
        change(root)
        links = list(walk(path, workspace, quick=True))
    broken = [link for link in links if link.state == "broken"]
    assert [link.kind for link in broken] == [kind]
    assert first_broken(links) == broken[0]
    assert words in broken[0].remark, broken[0].remark
    assert "\n" not in broken[0].remark
    assert all(link.state == "holds" for link in links if link is not broken[0])
    if name != "report cut":
        assert len(links) == 10 - (name == "shard deleted") or kind == "store"


FILES = {
    "report": lambda r: report_of(r) / "report.json",
    "checkpoint": lambda r: run_of(r) / "checkpoint" / "checkpoint.json",
    "shard": lambda r: shard_of(r) / "manifest.json",
    "context": lambda r: context_of(r) / "manifest.json",
    "store": lambda r: store_of(r) / "session.json",
}


@pytest.mark.parametrize("kind", FILES)
def test_any_flipped_byte_of_what_says_so_is_found(root, kind):
    """Names of keys, digests, numbers, quotes: its link is broken, and nothing ends in a traceback."""
    path, report = FILES[kind](root), report_of(root)
    content = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(content), 10)
    try:
        for place in places.tolist():
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 7)
            path.write_bytes(changed)
            links = list(walk(report, Workspace.locate(root), quick=True))
            broken = first_broken(links)
            assert broken is not None, (place, content[place - 20 : place + 20])
            assert broken.kind == kind, (place, broken)
    finally:
        path.write_bytes(content)


def test_a_source_that_was_deleted_is_not_here_and_no_fault(root, tmp_path):
    with kept(root, tmp_path):
        report = report_of(root)
        source_of(root).unlink()
        done = spiketok(root, "verify", report)
        session = spiketok(root, "verify", "--quick", "--sessions", "*day01*")
        full = spiketok(root, "verify", "--sessions", "*day01*", code=1)
    (line,) = [line for line in done.stdout.splitlines() if "not here" in line]
    assert line.split("\t")[0].strip() == "source"
    assert "put sub-S01_ses-CO-day01_behavior+ecephys.nwb back" in line
    assert "9 of 10 links hold (1 not here)" in done.stderr
    assert "source not here, digests hold" in session.stdout
    assert "is gone" in full.stderr


def test_a_broken_chain_is_one_line_and_exit_code_1(root, tmp_path):
    with kept(root, tmp_path):
        report = report_of(root)
        flip_column(shard_of(root), "counts")
        done = spiketok(root, "verify", "--quick", report, code=1)
        shard = spiketok(root, "verify", "--quick", shard_of(root), code=1)
        session = spiketok(root, "verify", "--quick", DAY.format(1), code=1)
    assert len([line for line in done.stderr.splitlines() if "the first broken link: shard" in line]) == 1
    assert "spiketok tokenize" in done.stderr
    assert "the first broken link: shard" in shard.stderr
    assert "column 'counts'" in session.stderr


def test_a_broken_context_is_named_by_whoever_needs_it(root, tmp_path):
    with kept(root, tmp_path):
        place = context_of(root)
        assert "cursor_vel" in spiketok(root, "inspect", place).stdout
        assert "3 of 3 links hold" in spiketok(root, "verify", "--quick", place).stderr
        flip_column(place, "signal.cursor_vel.value")
        flipped = spiketok(root, "verify", "--quick", DAY.format(1), code=1)
        assert "column 'signal.cursor_vel.value' has sha256" in flipped.stderr
        assert "the first broken link: context" in spiketok(root, "verify", "--quick", shard_of(root), code=1).stderr
        remove(place)
        assert "no context at" in spiketok(root, "verify", "--quick", DAY.format(1), code=1).stderr
        again = json.loads(spiketok(root, "tokenize", "--scheme", "binned", "--json").stdout)
        assert {row["state"] for row in again} == {"already"}  # the context came again, byte for byte
        assert "10 of 10 links hold" in spiketok(root, "verify", report_of(root)).stderr


def test_a_session_that_was_changed_with_its_digest_is_not_equal_to_its_source(root, tmp_path):
    """All digests agree, since everything behind the store was made of the wrong session: only the source tells."""
    with kept(root, tmp_path):
        ingest_otherwise(store_of(root))
        spiketok(root, "tokenize", "--scheme", "binned", "--sessions", "*day01*")
        shards = sorted(root.glob(f"shards/binned/{DAY.format(1)}/*/manifest.json"))
        digest = read_attributes(store_of(root))["digest"]
        (shard,) = [p.parent for p in shards if json.loads(p.read_text())["store_digest"] == digest]
        assert "4 of 4 links hold" in spiketok(root, "verify", "--quick", shard).stderr
        done = spiketok(root, "verify", shard, code=1)
    assert "the first broken link: store" in done.stderr
    assert "subject: another in the session" in done.stderr


TRAIN = ("train", "--model", "linear", "--task", "decode:cursor_vel", "--hold-out", "*day02*")


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(
    ("name", "key", "commands"),
    [
        ("checkpoint/checkpoint.json", "total_steps", ["verify", "inspect", "cite", "eval-xsession", TRAIN]),
        ("result.json", "step", ["verify", "inspect", "eval-xsession"]),
        ("config.json", "seed", ["verify", "inspect", "eval-xsession"]),
    ],
)
def test_a_run_whose_files_were_changed_is_refused(root, tmp_path, name, key, commands, unsigned):
    if unsigned and name == "config.json":
        pytest.skip("earlier releases did not sign config.json: nothing there can be found changed")
    with kept(root, tmp_path):
        run = run_of(root)
        facts = json.loads((run / name).read_text())
        facts[key] += 1
        if unsigned:
            del facts["digest"]
        (run / name).write_text(json.dumps(facts))
        for command in commands:
            newest = command == "eval-xsession" and name == "result.json"  # reads the results to find the newest run
            words = command if command is TRAIN else (command, "linear" if newest else run)
            told = spiketok(root, *words, code=1).stderr
            assert f"{name} was changed since it was written: its content has digest" in told
            assert ("it names none" in told) == unsigned


def test_what_has_no_chain_is_said(root):
    assert "no chain begins there" in spiketok(root, "verify", source_of(root), code=2).stderr
    assert "neither a path nor" in spiketok(root, "verify", "nothing", code=2).stderr
    assert "give one" in spiketok(root, "verify", "x", "--sessions", "y", code=2).stderr


# ---- sources of several files, and fetched ones ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> Path:
    """mc_maze_small as a fetch leaves it: two files in the real layout and the record of their download."""
    root = tmp_path_factory.mktemp("fetched")
    entry = DATASETS["mc_maze_small"]
    folder = root / "raw" / entry.dandiset / entry.version
    files = write_nlb("mc_maze_small", folder).values()
    assets = {f.relative_to(folder).as_posix(): {"size": f.stat().st_size, "sha256": sha256_file(f)} for f in files}
    facts = {"dandiset": entry.dandiset, "version": entry.version, "license": entry.license, "citation": entry.citation}
    write_json(folder / "dandiset.json", facts | {"assets": assets})
    spiketok(root, "ingest", folder)
    spiketok(root, "tokenize", "--scheme", "binned")
    return root


def test_each_file_of_a_session_is_a_link_with_its_origin(fetched, tmp_path):
    (shard,) = [p.parent for p in fetched.glob("shards/binned/*/*/*/manifest.json")]
    links = list(walk(shard, Workspace.locate(fetched)))
    assert [link.kind for link in links] == ["shard", "context", "store", "source", "source"]
    assert {link.state for link in links} == {"holds"}
    assert links[2].remark == "equal to its source, read by pynwb"
    assert [link.remark for link in links[3:]] == ["DANDI:000140/0.220113.0408"] * 2
    record = next(fetched.glob("raw/*/*/dandiset.json"))
    files = sorted(record.parent.rglob("*.nwb"))
    before, content = record.read_text(), files[1].read_bytes()
    try:
        files[1].unlink()
        told = list(walk(shard, Workspace.locate(fetched)))
        assert [link.state for link in told] == ["holds", "holds", "holds", "holds", "not here"]
        assert "spiketok fetch DANDI:000140/0.220113.0408:" + links[4].name in told[4].remark
        files[1].write_bytes(content[:-1] + b"?")
        told = list(walk(shard, Workspace.locate(fetched), quick=True))
        assert [link.state for link in told] == ["holds", "holds", "holds", "holds", "broken"]
        assert told[4].remark.endswith("-e overwrite-different")
        files[1].write_bytes(content)
        record.write_text(before.replace("0.220113.0408", "0.210101.0000"))
        told = list(walk(shard, Workspace.locate(fetched), quick=True))
        assert "was fetched from DANDI:000140/0.210101.0000, the store says DANDI:000140/0.220113" in told[3].remark
        record.write_text("{")
        told = list(walk(shard, Workspace.locate(fetched), quick=True))
        assert [link.state for link in told[3:]] == ["broken"] * 2
    finally:
        record.write_text(before)
        files[1].write_bytes(content)


def test_what_was_fetched_is_cited_from_its_record(fetched):
    (data,) = [c for c in citations.cite([], Workspace.locate(fetched)) if c.kind == "data"]
    assert (data.doi, data.license) == (DATASETS["mc_maze_small"].doi, "CC-BY-4.0")
    told = spiketok(fetched, "inspect", data.used_by[0]).stdout
    assert "joined files" in told or "desc-train" in told
    assert "mc_maze-electrodes" in told or "none (of" in told


# ---- cite -----------------------------------------------------------------------------------------------------------

FETCHED = Source(
    file="sub-A/a.nwb",
    sha256="0" * 64,
    size=1,
    dandiset="000140",
    version="0.220113.0408",
    license="CC-BY-4.0",
    citation=(
        "One, A.; Two, B. (2022) A title & more (Version 0.220113.0408) [Data set]. DANDI archive. "
        "https://doi.org/10.48324/dandi.000140/0.220113.0408"
    ),
)


@pytest.fixture(scope="module")
def cited(tmp_path_factory) -> Workspace:
    """Three sessions: two of one dandiset (one of them joined of two files), and one of nowhere."""
    session, root = golden_session(), tmp_path_factory.mktemp("cited")
    second = replace(FETCHED, file="sub-A/b.nwb")
    for name, source in (
        ("mc_maze_small/a", replace(FETCHED, joined=(second,))),
        ("mc_maze_small/b", second),
        ("local/c", Source("c.nwb", "1" * 64, 1)),
    ):
        info = {"related_publications": "10.1000/xyz; A paper"} if name == "local/c" else {}
        write_session(replace(session, id=name, source=source, info=info), root / "store" / name)
    return Workspace.locate(root)


def test_each_thing_is_cited_once_with_what_is_stated(cited):
    data, file, *papers = [c for c in citations.cite([], cited) if c.kind != "method"]
    assert (data.name, data.text, data.version) == ("DANDI:000140/0.220113.0408", FETCHED.citation, "0.220113.0408")
    assert data.doi == "10.48324/dandi.000140/0.220113.0408"
    assert data.used_by == ("mc_maze_small/a", "mc_maze_small/b")
    assert (file.name, file.text, file.license, file.doi) == ("file c.nwb", "", "", "")
    named = {p.text: p.doi for p in papers if p.used_by == ("local/c",)}
    assert named == {"10.1000/xyz": "10.1000/xyz", "A paper": ""}
    assert citations.cite(["mc_maze_small/a"], cited)[0].used_by == ("mc_maze_small/a",)


def test_an_unknown_licence_is_not_guessed(cited):
    done = spiketok(cited.root, "cite", "local/c")
    assert "  licence   not stated" in done.stdout.splitlines()
    assert "no licence is stated for file c.nwb" in done.stderr
    assert json.loads(spiketok(cited.root, "cite", "--json").stdout)[0]["license"] == "CC-BY-4.0"


def test_bibtex_of_a_data_set_has_its_parts(cited):
    lines = spiketok(cited.root, "cite", "mc_maze_small/b", "--bibtex").stdout.splitlines()
    assert lines[0] == "@misc{dandi-000140-0-220113-0408,"
    for line in (
        "  author = {One, A. and Two, B.},",
        "  title = {A title \\& more},",
        "  year = {2022},",
        "  publisher = {DANDI archive},",
        "  doi = {10.48324/dandi.000140/0.220113.0408},",
        "  note = {Data set, CC-BY-4.0},",
    ):
        assert line in lines, line


def test_no_two_bibtex_entries_have_one_key():
    names = [f"publication {'long ' * 30}{k}" for k in range(3)]
    lines = list(citations.to_bibtex([citations.Citation("publication", n, n) for n in names]))
    keys = [line for line in lines if line.startswith("@")]
    assert len(set(keys)) == 3


def test_runs_reports_and_datasets_are_cited(root):
    told = citations.cite([str(report_of(root) / "report.html"), "mc_rtt"], Workspace.locate(root))
    names = [c.name for c in told if c.kind == "data"]
    assert names == ["DANDI:000129/0.241017.1444", *(f"file {Path(DAY.format(d)).name}.nwb" for d in (1, 2))]
    assert citations.method_references("poyo") == ["arXiv 2310.16046"]
    assert "did you mean" in spiketok(root, "cite", "mc_mazes", code=2).stderr


def test_inspect_tells_where_a_session_is_from(cited):
    told = dict(
        line.split(maxsplit=1) for line in spiketok(cited.root, "inspect", "mc_maze_small/a").stdout.splitlines()[:6]
    )
    assert told["from"] == "DANDI:000140/0.220113.0408"
    lines = spiketok(cited.root, "inspect", "mc_maze_small/a").stdout
    assert FETCHED.citation in lines
    assert "sub-A/b.nwb" in lines
    assert "not stated" in spiketok(cited.root, "inspect", "local/c").stdout


# ---- export, by its command -----------------------------------------------------------------------------------------


def test_export_writes_each_session_and_tells_what_is_lost(root, tmp_path):
    done = spiketok(root, "export", "*day01*", "--to", "nwb", "--out", tmp_path)
    path = tmp_path / f"{DAY.format(1)}.nwb"
    assert str(path) in done.stdout
    both = spiketok(root, "export", "*day*", "--to", "nwb", "--out", tmp_path)
    assert "2 sessions: 1 written, 1 already" in both.stderr
    (tmp_path / f"{DAY.format(2)}.nwb").unlink()
    spiketok(root, "export", "*day*", "--to", "torch_brain", "--out", tmp_path)
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".h5", ".h5", ".nwb"]
    spiketok(tmp_path / "again", "ingest", path)
    ours, theirs = read_session(store_of(root)), read_session(tmp_path / "again" / "store" / DAY.format(1))
    assert ours.spikes.time_ns.tolist() == theirs.spikes.time_ns.tolist()
    assert ours.units.id.tolist() == theirs.units.id.tolist()


# ---- what was edited or is gone -------------------------------------------------------------------------------------


def test_what_was_changed_is_shown_and_said(root, tmp_path):
    """``inspect`` shows what a file says now, says that it was changed, and ends with 1."""
    with kept(root, tmp_path):
        file = report_of(root) / "report.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"size": "enormous"}))
        done = spiketok(root, "inspect", report_of(root), code=1)
        assert "enormous" in done.stdout
        assert "report.json was changed since it was written" in done.stderr
        assert "report.json was changed" in spiketok(root, "cite", report_of(root), code=1).stderr
        file = run_of(root) / "result.json"
        (score,) = (by_task["decode:cursor_vel"] for by_task in json.loads(file.read_text())["test"].values())
        number = next(value for value in score.values() if isinstance(value, float))
        file.write_text(file.read_text().replace(json.dumps(number), "0.98765"))
        done = spiketok(root, "inspect", run_of(root), "--json", code=1)
        assert "0.98765" in done.stdout
        assert "result.json was changed since it was written" in done.stderr


@pytest.mark.parametrize("facts", [{"sessions": None}, {"tasks": {"a": 1}}])
def test_what_was_changed_and_cannot_be_shown_is_said(root, tmp_path, facts):
    with kept(root, tmp_path):
        file = run_of(root) / "checkpoint" / "checkpoint.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))
        for command in ("inspect", "cite", "verify"):
            told = spiketok(root, command, run_of(root), code=1).stderr
            assert "checkpoint.json was changed since it was written" in told, command


def test_a_result_that_is_gone_is_noticed(root, tmp_path):
    with kept(root, tmp_path):
        remove(run_of(root) / "result.json")
        told = spiketok(root, "verify", "--quick", run_of(root), code=1).stderr
        assert "result.json is gone: spiketok train (the same command again)" in told
        assert "trained, and its result.json is gone" in spiketok(root, "inspect", run_of(root)).stdout
        told = spiketok(root, "eval-xsession", "linear", code=1).stderr
        assert f"{run_of(root).name} has no result.json: run the same 'spiketok train' again" in told


@pytest.mark.parametrize("name", ["binned/../../x", 7])
def test_a_checkpoint_that_names_what_lies_outside(root, tmp_path, name):
    """Also where somebody signed it anew."""
    with kept(root, tmp_path):
        file = run_of(root) / "checkpoint" / "checkpoint.json"
        facts = json.loads(file.read_text())
        next(iter(facts["sessions"][0]["shards"].values()))["shard"] = name
        file.write_text(json.dumps(facts | {"digest": content_digest(facts)}))
        result = json.loads((run_of(root) / "result.json").read_text()) | {"checkpoint_digest": sha256_file(file)}
        (run_of(root) / "result.json").write_text(json.dumps(result | {"digest": content_digest(result)}))
        links = list(walk(run_of(root), Workspace.locate(root), quick=True))
    (broken,) = [link.remark for link in links if link.state == "broken"]
    assert f"names '{name}', which does not lie in {root / 'shards'}" in broken


def test_a_shard_whose_context_is_said_to_lie_elsewhere(root, tmp_path):
    with kept(root, tmp_path):
        file = shard_of(root) / "manifest.json"
        facts = json.loads(file.read_text())
        facts["context"]["path"] = str(context_of(root))
        file.write_text(json.dumps(facts | {"digest": content_digest(facts)}))
        told = spiketok(root, "verify", "--quick", shard_of(root), code=1).stderr
    assert "which is no way from its folder" in told


def test_a_manifest_that_says_another_store_is_no_earlier_one(root, tmp_path):
    """Shards of an earlier state of the store are passed over; one that was edited to seem so is not."""
    with kept(root, tmp_path):
        file = shard_of(root) / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"store_digest": "0" * 64}))
        told = spiketok(root, "verify", "--quick", code=1).stderr
    assert "damaged manifest" in told
