"""Errors of the machine, of what is newer than we are, and of names: each told for what it is, with what mends it.

Nothing that is read here is damaged: a line that says so, or that advises to remove, ingest, fetch or train anew, is
wrong. Permissions, links, names and limits are real; what a disk or a network does is played by ``_shim``.
"""

from __future__ import annotations

import ctypes
import hashlib
import http.server
import json
import os
import resource
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from tests.nwb_files import write_plain, write_rich
from tests.robustness import LOCKING, Case, Cli, Outcome
from tests.robustness._workspace import LINEAR, workspace

SHIM = Path(__file__).with_name("_shim")
DAY = "simulated/sub-S01_ses-CO-day01_behavior+ecephys"
WRONG = (
    *("damaged", "delete", "remove it", "ingest again", "ingest it again", "ingest its source", "fetch it again"),
    *("copy it again", "train again", "is not HDF5", "--restart", "is gone", "cut off"),
)
# By the name of an errno: what must be said of it, in any case.
SAID = {
    "EIO": "dmesg",
    "ESTALE": "mount",
    "ENOTCONN": "mount",
    "ETIMEDOUT": "mount",
    "EMFILE": "ulimit -n",
    "ENOLCK": "lock",
    "EACCES": "this process is user",
    "EROFS": "read-only file system",
    "EDQUOT": "quota",
    "EAGAIN": "ulimit -u",
}


def told(outcome: Outcome, *words: str, code: int = 1) -> None:
    """It ends with the code, says the words, and blames no file."""
    outcome.refuses(*words, code=code)
    wrong = [word for word in WRONG if word in outcome.text]
    assert not wrong, f"said, and not true: {wrong}: {outcome}"


def failing(cli: Cli, *faults: tuple[str, str, str]) -> dict[str, str]:
    """The environment of a machine on which calls on some paths fail; see ``_shim``."""
    return {"PYTHONPATH": f"{SHIM}:{cli.package}", "SPIKETOK_SHIM": json.dumps(faults)}


def without_rights() -> None:
    """In the child: root is bound by the modes of files, as everybody is."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


# ---- on artefacts of a whole workspace ------------------------------------------------------------------------------

TOKENIZE = ("tokenize", "--scheme", "quantized")
EVALUATE = ("eval-xsession", "linear", "--protocols", "zero_shot", "--calibration-s", "8")
VERIFY = ("verify", "{linear}")
LINEAR_RUN = "runs/linear-*"
# artefact: which file of it, and the commands that read it
ARTEFACTS: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "session.json": (f"store/{DAY}/session.json", [TOKENIZE]),
    "arrays.zip": (f"store/{DAY}/arrays.zip", [TOKENIZE]),
    "shard's manifest": (f"shards/binned/{DAY}/*/manifest.json", [(*LINEAR, "--restart")]),
    "shard's columns": (f"shards/binned/{DAY}/*/columns.bin", [(*LINEAR, "--restart")]),
    "context": (f"shards/context/{DAY}/*/columns.bin", [(*LINEAR, "--restart")]),
    "checkpoint.json": (f"{LINEAR_RUN}/checkpoint/checkpoint.json", [EVALUATE]),
    "weights": (f"{LINEAR_RUN}/checkpoint/model.safetensors", [EVALUATE]),
    "config.json": (f"{LINEAR_RUN}/config.json", [EVALUATE]),
    "report.json": (f"{LINEAR_RUN}/xsession/report.json", [("inspect", "{linear}/xsession")]),
    "sources.json": ("sources.json", [("verify",)]),
    "source": ("simulated/sub-S01/*day01*.nwb", [("ingest", "simulated", "--dataset", "new")]),
}


def _artefact(name: str, fault: str, cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    pattern, commands = ARTEFACTS[name]
    (file,) = root.glob(pattern)
    if name.startswith(("shard", "context")):
        file.with_name(".checked").unlink(missing_ok=True)
    (linear,) = root.glob(LINEAR_RUN)
    options: dict = {}
    if fault == "EACCES":
        file.chmod(0)
        options["preexec_fn"] = without_rights
    elif fault == "dangling link":
        os.rename(file, root / "elsewhere")
        file.symlink_to(root / "unmounted" / "elsewhere")
    else:
        what = "read" if fault in ("EIO", "ESTALE") else "open"
        options["env"] = failing(cli, (what, str(file.relative_to(root)), fault))
    for words in commands:
        said = SAID.get(fault, "link that leads nowhere")
        outcome = cli(*(word.format(linear=linear) for word in words), root=root, **options)
        told(outcome, said, file.name)


def _by_artefact() -> list[Case]:
    faults = {
        "EACCES": ARTEFACTS,
        "EIO": ARTEFACTS,
        "dangling link": ("session.json", "arrays.zip", "shard's columns", "weights", "source"),
        "ESTALE": ("arrays.zip", "weights"),
        "EMFILE": ("context", "config.json"),
    }
    return [
        Case(f"{fault} of {name}", partial(_artefact, name, fault)) for fault, them in faults.items() for name in them
    ]


# ---- sources --------------------------------------------------------------------------------------------------------


def _source(words: tuple[str, ...], faults: list, said: tuple[str, ...], cli: Cli, folder: Path) -> None:
    write_plain(folder / "a.nwb")
    told(cli("ingest", "a.nwb", *words, root=folder, env=failing(cli, *faults)), "a.nwb", *said)


def _hdf5_without_locks(cli: Cli, folder: Path) -> None:
    write_rich(folder / "a.nwb")
    env = failing(cli, ("lock", ".nwb", "ENOLCK"))
    cli("ingest", "a.nwb", root=folder, env=env).succeeds()
    cli("verify", root=folder, env=env).succeeds("equal")


def _hdf5_in_use(cli: Cli, folder: Path) -> None:
    """By another program indeed: the process that runs the cases takes no locks."""
    path = write_plain(folder / "a.nwb")
    code = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    env = {name: value for name, value in os.environ.items() if name != LOCKING}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([cli.python, "-c", code, str(path)], env=env, **pipes) as other:
        assert other.stdout.readline() == b"open\n"
        told(cli("ingest", "a.nwb", root=folder), "a.nwb", "locked by another program", "wait")
        other.stdin.close()


def _newer_superblock(cli: Cli, folder: Path) -> None:
    path = write_plain(folder / "a.nwb")
    content = bytearray(path.read_bytes())
    content[8] = 7
    path.write_bytes(content)
    told(cli("ingest", "a.nwb", root=folder), "a.nwb", "superblock version 7", "upgrade h5py")


def _newer_nwb(cli: Cli, folder: Path) -> None:
    with h5py.File(write_plain(folder / "a.nwb"), "r+") as file:
        file.attrs["nwb_version"] = "3.1.0"
    outcome = cli("ingest", "a.nwb", root=folder)
    told(outcome, "a.nwb", "'3.1.0'", "upgrade")


def _entry(make: Callable[[Path], Path], said: tuple[str, ...], cli: Cli, folder: Path) -> None:
    told(cli("ingest", make(folder), root=folder, preexec_fn=without_rights), *said)


def _locked_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    path = write_plain(folder / "in" / "a.nwb")
    (folder / "in").chmod(0)
    return path


def _circle(folder: Path) -> Path:
    (folder / "a.nwb").symlink_to(folder / "b.nwb")
    (folder / "b.nwb").symlink_to(folder / "a.nwb")
    return folder / "a.nwb"


def _below_a_file(folder: Path) -> Path:
    return write_plain(folder / "a.nwb") / "b.nwb"


def _phy(fault: str, cli: Cli, folder: Path) -> None:
    where = folder / "phy"
    where.mkdir()
    (where / "params.py").write_text("dat_path = 'a.dat'\nn_channels_dat = 4\nsample_rate = 20000.\ndtype = 'int16'\n")
    np.save(where / "spike_times.npy", np.arange(100, 90_000, 700))
    np.save(where / "spike_clusters.npy", np.arange(100, 90_000, 700) % 3)
    (where / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n1\tgood\n2\tmua\n")
    words, options = ("ingest", "phy", "--sorter", "phy"), {}
    if fault == "EACCES":
        (where / "spike_clusters.npy").chmod(0)
        told(cli(*words, root=folder, preexec_fn=without_rights), "spike_clusters.npy", SAID["EACCES"])
    elif fault == "UTF-16":
        text = (where / "cluster_group.tsv").read_text()
        (where / "cluster_group.tsv").write_bytes(text.encode("utf-16"))
        told(cli(*words, root=folder, **options), "cluster_group.tsv", "UTF-16")
    else:
        env = failing(cli, ("read", "spike_times.npy", fault))
        told(cli(*words, root=folder, env=env), "phy", SAID[fault])


# ---- newer than we are ----------------------------------------------------------------------------------------------


def _signed(facts: dict) -> str:
    plain = {key: value for key, value in facts.items() if key != "digest"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return json.dumps(plain | {"digest": hashlib.sha256(text.encode()).hexdigest()})


def _newer(pattern: str, key: str, words: tuple[str, ...], cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    (file,) = root.glob(pattern)
    file.write_text(_signed(json.loads(file.read_text()) | {key: 99}))
    result = file.parents[1] / "result.json"  # a newer run's is of its own checkpoint
    if file.name == "checkpoint.json":
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        result.write_text(_signed(json.loads(result.read_text()) | {"checkpoint_digest": digest}))
    told(cli(*words, root=root), "99", "upgrade")


# ---- what is written ------------------------------------------------------------------------------------------------


def _not_to_be_written(which: str, cli: Cli, folder: Path) -> None:
    """A folder in which nothing may be written."""
    root = workspace(cli, folder)
    (root / "out").mkdir()
    place, words = {
        "store": (root / "store", ("ingest", "simulated", "--dataset", "new")),
        "shards": (root / "shards", TOKENIZE),
        "runs": (root / "runs", (*LINEAR, "--set", "seed=7")),
        "export": (root / "out", ("export", DAY, "--to", "nwb", "--out", "out")),
        "picture": (root / "out", ("inspect", f"store/{DAY}", "--plot", "out/a.png")),
    }[which]
    place.chmod(0o500)
    before = sorted(place.rglob("*"))
    told(cli(*words, root=root, preexec_fn=without_rights), "may be", SAID["EACCES"], str(place))
    place.chmod(0o700)
    assert sorted(place.rglob("*")) == before


def _write(words: tuple[str, ...], letters: str, fault: str, cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    told(cli(*words, root=root, env=failing(cli, ("write", letters, fault))), SAID[fault])


def _too_long(cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    cli("ingest", "simulated", "--dataset", "x" * 300, root=root).refuses("300 bytes", "180", code=2)


def _out_is_a_file(cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    (root / "out").write_text("mine")
    told(cli("export", DAY, "--to", "nwb", "--out", "out", root=root), "out", "expected a folder")
    assert (root / "out").read_text() == "mine"


def _longer_than_allowed(cli: Cli, folder: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    root = workspace(cli, folder)
    told(cli("export", DAY, "--to", "nwb", "--out", "out", root=root, preexec_fn=small), "ulimit -f")
    assert not [path for path in (root / "out").rglob("*") if path.is_file()]


def _stdout_full(cli: Cli, folder: Path) -> None:
    write_plain(folder / "a.nwb")
    command = cli.start("schemes", root=folder, stdout=open("/dev/full", "w"))  # noqa: SIM115
    _, err = command.communicate(timeout=120)
    assert command.returncode == 1, err
    assert "no space left" in err, err
    assert "Exception" not in err, err


def _runs_without_locks(cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    outcome = cli(*LINEAR, "--restart", root=root, env=failing(cli, ("lock", "runs/", "ENOLCK")))
    outcome.succeeds("has no locks")


# ---- the rest -------------------------------------------------------------------------------------------------------


def _config(kind: str, cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    file = root / "run.toml"
    file.write_text('model = "linear"\n')
    words = ("train", "--config", "run.toml")
    if kind == "EACCES":
        file.chmod(0)
        told(cli(*words, root=root, preexec_fn=without_rights), "run.toml", SAID["EACCES"])
    elif kind == "a folder":
        file.unlink()
        file.mkdir()
        outcome = cli(*words, root=root).sane()
        assert outcome.code and "run.toml" in outcome.text and "folder" in outcome.text, str(outcome)
    else:
        file.write_bytes(file.read_text().encode("utf-16"))
        outcome = cli(*words, root=root).sane()
        assert outcome.code and "UTF-16" in outcome.text, str(outcome)


def _index_goes_on(fault: str, cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    env = failing(cli, ("read", "index.jsonl", fault))
    outcome = cli("tokenize", "--scheme", "binned", root=root, env=env).succeeds("made anew")
    assert "damaged" not in outcome.text, str(outcome)


def _one_unreadable_session(cli: Cli, folder: Path) -> None:
    """The other session is served."""
    root = workspace(cli, folder)
    (root / "store" / DAY).chmod(0)
    outcome = cli(*TOKENIZE, root=root, preexec_fn=without_rights)
    told(outcome, SAID["EACCES"], DAY)
    assert len(list((root / "shards" / "quantized").glob("*/*/*/manifest.json"))) == 1, str(outcome)


def _verify_goes_on(cli: Cli, folder: Path) -> None:
    """One source cannot be read: the other session is verified."""
    root = workspace(cli, folder)
    outcome = cli("verify", root=root, env=failing(cli, ("read", "day01_behavior+ecephys.nwb", "EIO")))
    told(outcome, SAID["EIO"], "day01")
    assert "day02_behavior+ecephys" in outcome.out, str(outcome)


def _verify_a_run(cli: Cli, folder: Path) -> None:
    root = workspace(cli, folder)
    (linear,) = root.glob(LINEAR_RUN)
    outcome = cli("verify", linear, root=root, env=failing(cli, ("read", "model.safetensors", "EIO")))
    assert outcome.sane().code == 1, str(outcome)
    assert SAID["EIO"] in outcome.text, str(outcome)
    assert "damaged" not in outcome.text, str(outcome)


def _fetch(fault: str, cli: Cli, folder: Path) -> None:
    served = folder / "served"
    served.mkdir()
    write_plain(served / "a.nwb")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.nwb"
        words = ("fetch", url, "--download-only")
        if fault == "ENOLCK":
            cli(*words, root=folder, env=failing(cli, ("lock", "/raw/", fault))).succeeds()
        elif fault == "EACCES":
            (folder / "raw").mkdir()
            (folder / "raw").chmod(0o500)
            told(cli(*words, root=folder, preexec_fn=without_rights), SAID[fault], "raw")
        else:
            told(cli(*words, root=folder, env=failing(cli, ("write", "/raw/", fault))), SAID[fault])
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _fork(cli: Cli, folder: Path) -> None:
    write_plain(folder / "a.nwb")
    told(cli("ingest", "a.nwb", root=folder, env=failing(cli, ("fork", "", "EAGAIN"))), SAID["EAGAIN"])


def cases(count: int | None) -> list[Case]:
    source = {
        "EIO at opening a file": ([("open", "a.nwb", "EIO")], (SAID["EIO"],)),
        "EIO in values of HDF5": ([("hdf5 read", "a.nwb", "EIO")], (SAID["EIO"],)),
        "ENOTCONN in values of HDF5": ([("hdf5 read", "a.nwb", "ENOTCONN")], (SAID["ENOTCONN"],)),
        "EMFILE at opening a file": ([("open", "a.nwb", "EMFILE")], (SAID["EMFILE"],)),
        "a file that grows": ([("grow", "a.nwb", "")], ("changed while it was read",)),
    }
    entries = {
        "a folder that may not be entered": (_locked_folder, (SAID["EACCES"], "in")),
        "a link in a circle": (_circle, ("a.nwb", "circle")),
        "a path below a file": (_below_a_file, ("a.nwb", "expected a folder")),
    }
    newer = {
        "store": (f"store/{DAY}/session.json", "version", TOKENIZE),
        "shard": (f"shards/binned/{DAY}/*/manifest.json", "format_version", (*LINEAR, "--restart")),
        "context": (f"shards/context/{DAY}/*/manifest.json", "format_version", (*LINEAR, "--restart")),
        "checkpoint": (f"{LINEAR_RUN}/checkpoint/checkpoint.json", "version", EVALUATE),
    }
    found = _by_artefact()
    found += [Case(name, partial(_source, (), faults, said)) for name, (faults, said) in source.items()]
    found += [Case(name, partial(_entry, make, said)) for name, (make, said) in entries.items()]
    found += [Case(f"a newer {name}", partial(_newer, *how)) for name, how in newer.items()]
    found += [Case(f"{fault} of a phy folder", partial(_phy, fault)) for fault in ("EACCES", "EIO", "UTF-16")]
    places = ("store", "shards", "runs", "export", "picture")
    found += [Case(f"nothing may be written: {one}", partial(_not_to_be_written, one)) for one in places]
    found += [
        Case(
            "a store on a read-only file system",
            partial(_write, ("ingest", "simulated", "--dataset", "new"), "/store/new", "EROFS"),
        ),
        Case("a quota that is used up", partial(_write, TOKENIZE, "/shards/quantized", "EDQUOT")),
        Case("a disk that fails at writing", partial(_write, (*LINEAR, "--restart"), "checkpoint", "EIO")),
    ]
    found += [Case(f"a configuration: {kind}", partial(_config, kind)) for kind in ("EACCES", "a folder", "UTF-16")]
    found += [Case(f"an index that cannot be read: {fault}", partial(_index_goes_on, fault)) for fault in ("EIO",)]
    found += [Case(f"fetch and {fault}", partial(_fetch, fault)) for fault in ("EACCES", "EDQUOT", "EIO", "ENOLCK")]
    found += [
        Case("HDF5 without locks", _hdf5_without_locks),
        Case("HDF5 that another program writes", _hdf5_in_use),
        Case("a newer superblock of HDF5", _newer_superblock),
        Case("a newer NWB", _newer_nwb),
        Case("a name that is too long", _too_long),
        Case("a file where a folder is wanted", _out_is_a_file),
        Case("a file longer than allowed", _longer_than_allowed),
        Case("stdout on a full disk", _stdout_full),
        Case("runs without locks", _runs_without_locks),
        Case("one unreadable session of two", _one_unreadable_session),
        Case("verify with one unreadable source of two", _verify_goes_on),
        Case("verify of a run with unreadable weights", _verify_a_run),
        Case("no further process", _fork),
    ]
    return found if count is None else found[:count]
