"""The command line as a user meets it: exit codes, one clear line for bad input, results on stdout."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spiketok import __version__
from spiketok.cli import main
from spiketok.sources.simulator import SimulationConfig, simulate
from tests.dandi_server import DandiServer


@dataclass
class Done:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Terminal(io.StringIO):
    """Catches what is printed and claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def spiketok(root: Path, *words: str | Path, code: int = 0, stream: type[io.StringIO] = io.StringIO) -> Done:
    """Run a command in this process, as the console script does."""
    out, err = stream(), stream()
    argv, environment = sys.argv, dict(os.environ)
    sys.argv = ["spiketok", *map(str, words)]
    os.environ["SPIKETOK_ROOT"] = str(root)
    returned = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        returned = stop.code or 0
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
    assert returned == code, f"exit {returned}\n{out.getvalue()}\n{err.getvalue()}"
    return Done(returned, out.getvalue(), err.getvalue())


def in_a_process(root: Path, *words: str | Path, first: str = "", **environment: str) -> Done:
    """Run a command in a process of its own, after some statements that spoil its surroundings."""
    code = f"{first}\nimport sys; sys.argv = ['spiketok', *sys.argv[1:]]; from spiketok.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | {"SPIKETOK_ROOT": str(root)} | environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


# few tokens, few windows: enough for what the command line says of a run
FEW = ("model.dim=16", "model.depth=1", "model.latents_per_step=2", "data.window_ms=200", "data.eval_step_ms=2000")
SMALL = [word for text in FEW for word in ("--set", text)]


def write_config(folder: Path) -> Path:
    """A run that is over in seconds."""
    config = folder / "run.toml"
    config.write_text(
        'seed = 1\ntasks = ["decode:cursor_vel"]\n[optim]\nsteps = 5\n'
        "[transfer]\nidentity_steps = 3\nunfreeze_after = 1\nfull_steps = 3\nadapt_steps = 1\n"
    )
    return config


@pytest.fixture(scope="module")
def nwb(tmp_path_factory) -> list[Path]:
    """Two short simulated sessions of one subject."""
    folder = tmp_path_factory.mktemp("nwb")
    return simulate(SimulationConfig(n_subjects=1, sessions_per_subject=2, n_units=12, duration_s=60.0), folder)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, nwb) -> Path:
    """A workspace in which the main job ran from NWB files to a report."""
    root = tmp_path_factory.mktemp("workspace")
    spiketok(root, "ingest", *nwb)
    spiketok(root, "tokenize", "--scheme", "per-spike")
    spiketok(root, "tokenize", "--scheme", "binned")
    spiketok(root, "train", "--model", "poyo", "--config", write_config(root), "--hold-out", "*day02*", *SMALL)
    return root


def test_the_main_job_writes_a_report(workspace):
    done = spiketok(workspace, "eval-xsession", "poyo", "--calibration-s", "20", "--set", "transfer.full_steps=4")
    header, *rows = [line.split("\t") for line in done.stdout.splitlines()[:-1]]
    assert header == ["protocol", "session", "r2_variance_weighted", "r2_mean", "sd", "n", "scored_s", "unanswered_s"]
    shown = ["linear", "zero_shot", "mapped_unlabelled", "identity_only", "full", "mapped", "adapted", "adapted+linear"]
    assert [row[0] for row in rows[::2]] == shown
    assert [row[1] for row in rows[1::2]] == ["mean over sessions"] * len(shown)
    assert "adapted of local/sub-S01_ses-CO-day02_behavior+ecephys, decode:cursor_vel: begins at the map" in done.stderr
    report = Path(done.stdout.strip().splitlines()[-1].split(maxsplit=1)[1])
    page = report.read_text()
    assert "day02" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert json.loads((report.parent / "report.json").read_text())
    told = spiketok(workspace, "inspect", report.parent).stdout
    assert "report" in told or "identity_only" in told


def test_a_session_that_was_trained_on_is_refused(workspace):
    done = spiketok(workspace, "eval-xsession", "poyo", "--sessions", "*day01*", code=2)
    assert "trained on" in done.stderr
    assert "--within" in done.stderr


def test_the_last_session_of_a_subject_is_held_out_unless_told(workspace, tmp_path):
    few = ["--model", "linear", "--task", "decode:cursor_vel"]
    done = spiketok(workspace, "train", *few, "--json")
    told, last = json.loads(done.stdout), "local/sub-S01_ses-CO-day02_behavior+ecephys"
    assert told["held_out"] == [last]
    assert [row["session"] for row in told["test"]] == ["local/sub-S01_ses-CO-day01_behavior+ecephys"]
    assert f"held out for eval-xsession: {last} (the last session of each subject" in done.stderr
    every = json.loads(spiketok(workspace, "train", *few, "--hold-out", "none", "--json").stdout)
    assert every["held_out"] == []
    assert len(every["test"]) == 2
    named = json.loads(spiketok(workspace, "train", *few, "--sessions", "*", "--json").stdout)
    assert len(named["test"]) == 2  # who names the sessions has chosen
    for run in (every["run"], told["run"]):
        shutil.rmtree(run)


def test_results_are_json_on_request_and_plain_lines_in_a_pipe(workspace):
    rows = json.loads(spiketok(workspace, "tokenize", "--scheme", "binned", "--json").stdout)
    assert [row["state"] for row in rows] == ["already", "already"]
    plain = spiketok(workspace, "verify").stdout.splitlines()
    assert plain[0].split("\t")[0] == "session"
    assert all(line.endswith("\tequal") for line in plain[1:])
    assert len(plain) == 3
    for command in (["datasets"], ["doctor"], ["inspect"], ["verify"]):
        assert json.loads(spiketok(workspace, *command, "--json").stdout)


def test_inspect_tells_and_draws_everything(workspace, nwb, tmp_path):
    session = "sub-S01_ses-CO-day01_behavior+ecephys"
    made = sorted(p.parent for p in workspace.glob("shards/*/*/*/*/manifest.json"))
    shards = [p for p in made if p.parts[-4] != "context"]
    assert "unit columns" in spiketok(workspace, "inspect", next(p for p in made if p not in shards)).stdout
    run = next(workspace.glob("runs/poyo-*"))
    for path in (session, nwb[0], *shards[:3], run, nwb[0].with_name(f"{nwb[0].stem.split('_behavior')[0]}_truth.npz")):
        assert spiketok(workspace, "inspect", path).stdout
    for k, path in enumerate((session, nwb[0], shards[0], shards[-1], run)):
        picture = tmp_path / f"{k}.png"
        spiketok(workspace, "inspect", path, "--plot", picture)
        assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "neither a path" in spiketok(workspace, "inspect", "nothing", code=2).stderr


def test_a_terminal_gets_tables_and_a_live_training(workspace, monkeypatch):
    monkeypatch.setattr("spiketok.cli.console.QUIET_S", 0.0)
    told = spiketok(workspace, "verify", stream=Terminal)
    assert "session" in told.stdout
    assert "\t" not in told.stdout
    assert "verify" in told.stderr  # the bar
    assert "2/2" in told.stderr
    assert "sessions/s" in told.stderr
    again = ["train", "--config", write_config(workspace), "--model", "poyo", "--hold-out", "*day02*", *SMALL]
    done = spiketok(workspace, *again, "--restart", stream=Terminal)
    assert "scores on the test split" in done.stdout
    assert "parameters, 1 sessions, 12 units" in done.stderr
    assert "5 of 5" in done.stderr
    assert "learning rate" in done.stderr
    bad = spiketok(workspace, "inspect", "nothing", code=2, stream=Terminal)
    assert "\033[31merror:" in bad.stderr


BAD_USAGE = [
    (["tokenize", "--scheme", "per_spike"], "unknown scheme 'per_spike': did you mean 'per-spike'?"),
    (["tokenize", "--scheme", "binned", "--bin-ms", "0"], "must be a positive whole number of ns"),
    (["tokenize", "--scheme", "binned", "--segments", "trial:x"], "cannot be read"),
    (["tokenize", "--scheme", "binned", "--sessions", "day99"], "unknown session 'day99'"),
    (["train", "--model", "poyo", "--task", "decoed"], "unknown task 'decoed': did you mean 'decode'?"),
    (["train", "-m", "poyo", "--task", "decode:cursor_ve"], "unknown behaviour 'cursor_ve' in "),
    (["train", "-m", "poyo", "--task", "decode:cursor_ve"], "did you mean 'cursor_vel'?"),
    (["train", "--model", "poyo", "--set", "data.target=x"], "use --task decode:x"),
    (["simulate", "--set", "n_rotations=many"], "simulation.n_rotations is 'many', expected int"),
    (["train", "--model", "poyoo"], "unknown model 'poyoo': did you mean 'poyo'?"),
    (["train", "--model", "poyo", "--set", "optim.stepz=5"], "stepz"),
    (["train", "--model", "poyo", "--set", "optim.steps=many"], "many"),
    (["train", "--model", "poyo", "--resume", "--restart"], "exclude each other"),
    (
        ["eval-xsession", "poyo", "--protocols", "zero_shots"],
        "unknown protocol 'zero_shots': did you mean 'zero_shot'?",
    ),
    (["eval-xsession", "poyo", "--set", "optim.lr=1"], "only transfer.* can be changed here"),
    (["eval-xsession", "poyo", "--set", "transfer.full_step=1"], "did you mean 'transfer.full_steps'?"),
    (["eval-xsession", "nothing"], "unknown run 'nothing'"),
    (["eval-xsession", "poyo", "--calibration-s", "10,x"], "'x' must be a number of seconds above 0"),
    (["eval-xsession", "poyo", "--calibration", "last"], "--calibration last: must be one of first, spread, random"),
    (["eval-xsession", "poyo", "--repeats", "2"], "--repeats 2 with --calibration first"),
    (["fetch", "mc_maze_smal"], "did you mean 'mc_maze_small'?"),
    (["simulate", "--set", "turnovr=0.1"], "did you mean 'turnover'?"),
    (["inspect", "--plot", "x.jpeg"], "is not one of .png, .pdf, .svg"),
]


@pytest.mark.parametrize(("words", "line"), BAD_USAGE, ids=[" ".join(w) for w, _ in BAD_USAGE])
def test_wrong_requests_get_one_line_and_exit_2(workspace, words, line):
    done = spiketok(workspace, *words, code=2)
    assert line in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_good_files_go_through_and_bad_ones_are_listed(nwb, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(nwb[0], folder / "good.nwb")
    (folder / "text.nwb").write_text("not HDF5")
    (folder / "cut.nwb").write_bytes(nwb[1].read_bytes()[:100_000])
    done = spiketok(tmp_path / "root", "ingest", folder, code=1)
    assert "good" in done.stdout
    assert "3 sessions: 1 written, 2 failed" in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert {line.split()[1] for line in errors} == {"text.nwb:", "cut.nwb:"}


def test_two_files_of_one_name_are_refused_not_overwritten(nwb, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(nwb[0], tmp_path / name / "same.nwb")
    done = spiketok(tmp_path / "root", "ingest", tmp_path / "a", tmp_path / "b", code=1)
    assert "2 files would all be session 'local/same'" in done.stderr


def test_a_changed_source_is_told_and_taken_up_by_ingest(nwb, tmp_path):
    root, source = tmp_path / "root", tmp_path / "x.nwb"
    shutil.copy(nwb[0], source)
    spiketok(root, "ingest", source)
    spiketok(root, "tokenize", "--scheme", "per-spike")
    shutil.copy(nwb[1], source)
    assert "was ingested as" in spiketok(root, "verify", code=1).stderr
    assert "\treplaced\t" in spiketok(root, "ingest", source).stdout
    assert "\tequal" in spiketok(root, "verify").stdout
    done = spiketok(root, "train", "--model", "poyo", "--task", "decode:cursor_vel", code=1)
    assert "no per-spike shard" in done.stderr  # the old one is of another store
    assert "spiketok tokenize --scheme per-spike" in done.stderr


def test_an_empty_workspace_says_what_to_do(tmp_path):
    for words in (["tokenize", "--scheme", "binned"], ["train", "--model", "linear"], ["verify"]):
        assert "spiketok ingest PATH" in spiketok(tmp_path, *words, code=1).stderr
    assert "does not exist" in spiketok(tmp_path, "ingest", tmp_path / "no.nwb", code=2).stderr
    assert "holds no .nwb file" in spiketok(tmp_path, "ingest", tmp_path, code=1).stderr


def test_trial_segments_are_cut_about_the_named_time(workspace):
    rule = "trials:go_cue_time,200,500"
    rows = json.loads(spiketok(workspace, "tokenize", "--scheme", "binned", "--segments", rule, "--json").stdout)
    assert all(row["spikes"] > 0 for row in rows)
    from spiketok.tokens.shards import ShardReader

    segments = ShardReader(Path(rows[0]["path"])).segments
    assert np.all(segments.stop_ns - segments.start_ns == 700_000_000)
    done = spiketok(workspace, "tokenize", "--scheme", "binned", "--segments", "trials:go_cue,0,100", code=1)
    assert "unknown trial time 'go_cue'" in done.stderr


def test_a_missing_extra_is_one_line(workspace, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    done = in_a_process(workspace, "train", "--model", "poyo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip() == "error: training needs 'torch', which is not installed: pip install 'spiketok[train]'"


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["ingest", "NWB"], "store"),
        (["tokenize", "--scheme", "per-spike"], "shards"),
        pytest.param(
            ["train", "--model", "poyo", "--task", "decode:cursor_vel", "--set", "optim.steps=2", *SMALL],
            "runs",
            marks=pytest.mark.long,
        ),
    ],
    ids=["ingest", "tokenize", "train"],
)
def test_a_full_disk_leaves_nothing_half_written(nwb, tmp_path, words, written):
    words = [str(nwb[0]) if w == "NWB" else w for w in words]
    if written != "store":
        spiketok(tmp_path, "ingest", nwb[0])
    if written == "runs":
        spiketok(tmp_path, "tokenize", "--scheme", "per-spike")
    full = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    full += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    done = in_a_process(tmp_path, *words, first=full, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 1
    assert "longer than a file may be here" in done.stderr
    whole = {"config.json", "metrics.jsonl", ".lock"}  # a run's own notes; its checkpoint is what counts
    assert not [p for p in (tmp_path / written).rglob("*") if p.is_file() and p.name not in whole]
    spiketok(tmp_path, *words)
    assert [p for p in (tmp_path / written).rglob("*") if p.is_file() and p.name not in whole]


def test_a_model_is_told_with_every_setting():
    lines = spiketok(Path("."), "models", "ndt1", "--size", "nlb").stdout.splitlines()
    assert "model.mask_ratio\tfloat\t0.25\tdefault" in lines
    assert "optim.epochs\tint or off\t500\trecipe of size nlb" in lines
    assert "optim.weight_decay\tfloat\t5e-05\trecipe of size nlb" in lines
    assert "data.unit_dropout\ta table or off\toff\tdefault" in lines
    assert not any(line.startswith("optim\t") for line in lines)  # its keys stand there one by one
    listed = {row["model"]: row["transfer"] for row in json.loads(spiketok(Path("."), "models", "--json").stdout)}
    assert listed["stndt"] == "none (it holds one session)"
    assert listed["linear"] == "none (its refit is the floor)"
    told = json.loads(spiketok(Path("."), "models", "poyo", "--json").stdout)
    assert {"key": "model.depth", "type": "int", "default": 2, "source": "model preset"} in told["settings"]
    assert {"protocol": "mapped", "has it": "yes", "why not": ""} in told["protocols"]
    (mapped,) = (
        r
        for r in json.loads(spiketok(Path("."), "models", "neds", "--json").stdout)["protocols"]
        if r["protocol"] == "mapped"
    )
    assert mapped["has it"] == "no" and "numbers of each unit" in mapped["why not"]
    assert "unknown model 'poyoo'" in spiketok(Path("."), "models", "poyoo", code=2).stderr


def test_seeds_of_a_model_of_one_session_make_an_ensemble(workspace):
    few = ["--model", "stndt", "--task", "population", "--set", "model.layers=1", "--set", "optim.steps=2"]
    few += ["--set", "task.population.held_out=0.25"]
    two = spiketok(workspace, "train", *few, "--sessions", "*", code=2).stderr
    assert "stndt holds one session, local/sub-S01_ses-CO-day01" in two and "Traceback" not in two
    runs = [
        json.loads(spiketok(workspace, "train", *few, "--set", f"seed={k}", "--json").stdout)["run"] for k in (1, 2)
    ]
    told = json.loads(spiketok(workspace, "ensemble", *runs, "--json").stdout)
    assert sorted(member["run"] for member in told["members"]) == sorted(Path(run).name for run in runs)
    assert told["members"][0]["taken"] and told["metric"] == "co_bps"
    ((session, score),) = told["test"].items()
    assert session.endswith("day01_behavior+ecephys") and np.isfinite(score["co_bps"])
    table = spiketok(workspace, "ensemble", *(Path(run).name for run in runs))
    assert table.stdout.splitlines()[0].split("\t") == ["run", "valid", "test", "taken"]
    assert "best on the valid time: co_bps" in table.stderr
    assert "at least two different runs" in spiketok(workspace, "ensemble", runs[0], code=2).stderr
    for run in (workspace / "runs").glob("stndt-*"):
        shutil.rmtree(run)


def test_a_run_decodes_a_session_live(workspace, tmp_path):
    from safetensors.numpy import load_file

    words = ["stream", "*day01*", "--run", "poyo", "--step-ms", 50, "--duration-s", 2, "--out", tmp_path]
    *lines, last = map(json.loads, spiketok(workspace, *words, "--json").stdout.splitlines())
    summary = last["summary"]
    assert len(lines) == summary["n_windows"] > 10
    times = [t for line in lines for t in line["answers"]["decode:cursor_vel"]["time_ns"]]
    assert times == sorted(set(times))
    scores = summary["scores"]["decode:cursor_vel"]
    assert scores["live"]["r2_mean"] == pytest.approx(scores["offline"]["r2_mean"], abs=1e-4)
    (file,) = map(Path, summary["files"])
    assert len(load_file(file)["prediction"]) == len(times)
    plain = spiketok(workspace, *words, "--speed", "0").stdout
    assert "as fast as it can" in plain and "\nlatency_ms\tp50\tp95\tp99\tmax\n" in plain
    shown = spiketok(workspace, *words[:-2], stream=Terminal).stdout
    assert "scores of the times that both answer" in shown
    for wrong, why in (
        ([], "give --scheme NAME or --run RUN"),
        (["--run", "poyo", "--scheme", "binned"], "give --scheme NAME or --run RUN"),
        (["--run", "poyo", "--window-ms", 50], "--window-ms does not go with --run"),
        (["--scheme", "binned", "--step-ms", 50], "--step-ms does not go with --scheme"),
        (["--run", "poyo", "--speed", "fast"], "--speed fast: must be a number from 0, or max"),
    ):
        assert why in spiketok(workspace, "stream", "*day01*", *wrong, code=2).stderr


def test_version_needs_no_command():
    assert spiketok(Path("."), "--version").stdout == f"spiketok {__version__}\n"


def test_help_names_what_exists():
    from spiketok.models import MODELS
    from spiketok.tokens.schemes import SCHEMES

    assert "spiketok models" in " ".join(spiketok(Path("."), "train", "--help").stdout.split())
    for words, names in ((["models"], MODELS), (["tokenize", "--help"], SCHEMES)):
        text = spiketok(Path("."), *words).stdout
        for name in names:
            assert name in text


@pytest.mark.long
def test_the_four_commands_from_an_archive_to_a_report(nwb, tmp_path):
    pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")
    path = "sub-Jenkins/sub-Jenkins_ses-small_desc-train_behavior+ecephys.nwb"
    with DandiServer({path: nwb[0].read_bytes()}) as server:
        there = ["--api-url", server.api_url]
        plan = spiketok(tmp_path, "fetch", "mc_maze_small", "--dry-run", *there).stdout
        assert "CC-BY-4.0" in plan
        assert path in plan
        assert not (tmp_path / "raw").exists()
        first = spiketok(tmp_path, "fetch", "mc_maze_small", *there)
        assert "mc_maze_small/sub-Jenkins_ses-small\tnew" in first.stdout
        asked = len(server.requests)
        assert "\talready\t" in spiketok(tmp_path, "fetch", "mc_maze_small", *there).stdout
        assert len(server.requests) == asked  # a complete published version needs no network
        done = spiketok(tmp_path, "fetch", "mc_maze_small", "000999", "--download-only", *there, code=1)
        assert "000999" in done.stderr
    spiketok(tmp_path, "tokenize", "--scheme", "per-spike")
    few = ["--set", "optim.steps=3", "--task", "decode:cursor_vel"]
    steps = ["transfer.identity_steps=2", "transfer.full_steps=2", "transfer.unfreeze_after=1"]
    spiketok(tmp_path, "train", "--model", "poyo", *few, *(w for s in steps for w in ("--set", s)))
    done = spiketok(tmp_path, "eval-xsession", "poyo")
    assert "WITHIN the sessions trained on" in done.stderr  # one session: nothing unseen, and it says so
    report = json.loads((Path(done.stdout.split("report ")[-1].strip()).parent / "report.json").read_text())
    source = json.dumps(report)
    assert hashlib.sha256(nwb[0].read_bytes()).hexdigest() in source  # the chain leads back to the asset
