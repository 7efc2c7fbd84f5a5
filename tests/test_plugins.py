"""Models, schemes, datasets, tasks and metrics of other packages: found, used, recorded, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok import notes  # noqa: E402
from spiketok.cli import completion  # noqa: E402
from spiketok.errors import ArtefactError, PluginError, UnknownNameError, UsageError  # noqa: E402
from spiketok.models import MODELS  # noqa: E402
from spiketok.models.poyo import Poyo  # noqa: E402
from spiketok.pipeline.hub.items import check_item  # noqa: E402
from spiketok.plugins import Origin, find_module, origins_of, present  # noqa: E402
from spiketok.recording.metrics import METRICS  # noqa: E402
from spiketok.sources.catalogue import DATASETS, RULES, catalogued  # noqa: E402
from spiketok.sources.simulator import SimulationConfig, simulate  # noqa: E402
from spiketok.storage.files import read_json, write_signed  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.testing import check, laws  # noqa: E402
from spiketok.tokens.schemes import SCHEMES, make_scheme  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.tasks import TASKS  # noqa: E402
from tests.cli.test_cli import spiketok  # noqa: E402
from tests.dandi_server import DandiServer  # noqa: E402
from tests.example_package import EXAMPLE, installed, write_example, write_package  # noqa: E402

UNSEEN = "simulated/sub-S01_ses-CO-day03_behavior+ecephys"
FEW = ("--set", "optim.steps=6", "--set", "optim.checkpoint_every=3", "--set", "data.batch_size=8")


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    """A note is said once in a process; each test hears its own."""
    monkeypatch.setattr(notes, "_said", set())


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The example package, installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    write_example(folder)
    return folder


@pytest.fixture
def example(site):
    with installed(site):
        yield site


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Three days of one animal."""
    root, nwb = tmp_path_factory.mktemp("stored"), tmp_path_factory.mktemp("nwb")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=12, duration_s=40.0)
    spiketok(root, "ingest", "--dataset", "simulated", *simulate(config, nwb))
    return root


@pytest.fixture
def root(stored, tmp_path) -> Path:
    shutil.copytree(stored, tmp_path / "root")
    return tmp_path / "root"


def broken(folder: Path, text: str, group: str = "models", name: str = "odd") -> Path:
    """A package whose one entry leads to what a text defines as Thing."""
    entries = {f"spiketok.{group}": {name: "odd_module:Thing"}}
    write_package(folder, "odd-package", "0.3", entries, {"odd_module.py": text})
    return folder


# ---- the example package --------------------------------------------------------------------------------------------


def test_a_shell_completes_its_names_and_keys_and_imports_nothing_of_it(example):
    before = set(sys.modules)
    assert "unit-sum" in completion.model_names() and "sparse-counts" in completion.scheme_names()
    assert "example_reach" in completion.dataset_names()
    keys = completion.set_keys("train", SimpleNamespace(params={"model": "unit-sum"}))
    assert {"model.dim", "model.past_bins", "model.init_std", "task.speed.root"} <= set(keys)
    assert "bin_ns" in completion.set_keys("tokenize", SimpleNamespace(params={"scheme": "sparse-counts"}))
    assert not [name for name in set(sys.modules) - before if "example" in name]


def _example_laws() -> list:
    """As its own test has them."""
    sys.path[:0] = [str(EXAMPLE), str(EXAMPLE / "tests")]
    try:
        import test_contract
    finally:
        del sys.path[:2]
    return test_contract.ALL


@pytest.mark.parametrize("law", _example_laws(), ids=str)
def test_the_example_keeps_all_laws(law, tmp_path):
    law(tmp_path)


def test_all_of_the_example_is_listed(example, tmp_path):
    for command, name in (("models", "unit-sum"), ("schemes", "sparse-counts"), ("datasets", "example_reach")):
        listed = spiketok(tmp_path, command).stdout.splitlines()
        (row,) = [line for line in listed if line.startswith(f"{name}\t")]
        assert row.endswith("\tspiketok-example 0.1.0")
        assert sum(line.endswith("\tspiketok") for line in listed) == len(listed) - 2
        assert "spiketok-example 0.1.0" in spiketok(tmp_path, command, name).stdout
    answers = {row["model"]: row["answers"] for row in json.loads(spiketok(tmp_path, "models", "--json").stdout)}
    assert answers["unit-sum"] == answers["poyo"] == "decode, speed" and "speed" not in answers["nuclr"]
    found = spiketok(tmp_path, "doctor").stdout
    assert all(f"{word}\tok\tspiketok-example 0.1.0" in found for word in ("task speed", "metric correlation"))


def test_nothing_is_imported_before_a_name_is_asked_for(site):
    code = (
        "import sys; from spiketok.models import MODELS; from spiketok.tokens.schemes import SCHEMES, make_scheme\n"
        "from spiketok.training.config import load_config\n"
        "make_scheme('binned'); load_config('poyo'); assert 'unit-sum' in MODELS\n"
        "assert 'spiketok_example' not in sys.modules\n"
        "make_scheme('sparse-counts'); assert 'spiketok_example.model' not in sys.modules\n"
        "MODELS['unit-sum']; assert 'spiketok_example.task' not in sys.modules"
    )
    path = f"{site}:{Path(__file__).resolve().parents[1]}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr


def test_a_model_scheme_task_and_metric_go_the_whole_way(example, root):
    """Train, evaluate, verify, cite, inspect; and without the package each says what to install."""
    asked = (
        "--task",
        "speed:cursor_vel",
        "--task",
        "decode:cursor_vel",
        "--set",
        "task.decode.metrics=['correlation']",
    )
    spiketok(root, "train", "--model", "unit-sum", "--task", "speed:cursor_vel", "--tokenize", *FEW)
    done = spiketok(root, "train", "--model", "poyo_plus", *asked, "--tokenize", *FEW, "--json")
    assert {"correlation", "r2_mean"} <= {key for row in json.loads(done.stdout)["test"] for key in row}
    assert {row["task"] for row in json.loads(done.stdout)["test"]} == {"speed:cursor_vel", "decode:cursor_vel"}
    (run,) = root.glob("runs/unit-sum-*")
    facts = json.loads((run / "checkpoint" / "checkpoint.json").read_text())
    package = {"package": "spiketok-example", "version": "0.1.0"}
    assert facts["plugins"] == [
        {"kind": "model", "name": "unit-sum", "entry": "spiketok_example.model:UnitSum"} | package,
        {"kind": "scheme", "name": "sparse-counts", "entry": "spiketok_example.scheme:SparseCounts"} | package,
        {"kind": "task", "name": "speed", "entry": "spiketok_example.task:Speed"} | package,
    ]
    rows = ("--protocols", "zero_shot,identity_only")
    done = spiketok(root, "eval-xsession", "unit-sum", "--calibration-s", "8", *rows, "--json")
    scores = {row["protocol"]: row["score"] for row in json.loads(done.stdout)["scores"] if row["score"]}
    assert scores["identity_only"]["speed_r2"] is not None and "linear" in scores
    report = run / "xsession" / "report.json"
    chain = json.loads(spiketok(root, "verify", report, "--json").stdout)
    assert chain["first_broken"] is None
    assert [link["name"] for link in chain["chain"] if link["kind"] == "plugin"] == [
        f"{what} of spiketok-example 0.1.0" for what in ("model unit-sum", "scheme sparse-counts", "task speed")
    ]
    assert "spiketok-example 0.1.0\n  package   Of the tests\n" in spiketok(root, "cite", run).stdout
    assert "model 'unit-sum' of spiketok-example 0.1.0; scheme" in spiketok(root, "inspect", run).stdout
    (shard,) = root.glob(f"shards/sparse-counts/{UNSEEN}/*")
    assert "scheme 'sparse-counts' of spiketok-example 0.1.0" in spiketok(root, "inspect", shard).stdout


def test_a_scheme_that_nothing_here_draws_is_told_in_one_line(example, root, tmp_path):
    """What other packages give has no picture, no layer of a page and no formula of attention."""
    whose = "scheme 'sparse-counts' of spiketok-example 0.1.0"
    told = f"there is no picture of {whose}: spiketok draws binned, "
    page = tmp_path / "page.html"
    spiketok(root, "tokenize", "--scheme", "sparse-counts", "--sessions", UNSEEN)
    (shard,) = root.glob(f"shards/sparse-counts/{UNSEEN}/*")
    for words in (("inspect", shard, "--plot", tmp_path / "p.png"),
                  ("view", UNSEEN, "--scheme", "sparse-counts", "--out", page)):  # fmt: skip
        (line,) = spiketok(root, *words, code=2).stderr.strip().splitlines()
        assert line.startswith(f"error: {told}")
    assert not page.exists() and not (tmp_path / "p.png").exists()
    for words in ((), ("--scheme", "all")):  # nobody asked for it by name: a page without its tokens
        notes._said.clear()
        said = spiketok(root, "view", UNSEEN, *words, "--out", page).stderr
        assert said.count(f"note: {told}") == 1 and "the page has none of its tokens" in said
        page.unlink()
    spiketok(root, "tokenize", "--scheme", "patch", "--sessions", UNSEEN)
    assert "note:" not in spiketok(root, "view", UNSEEN, "--out", page).stderr  # one that is drawn comes first

    words = ("compare", UNSEEN, "--scheme", "sparse-counts,binned", "--windows", "8")
    done = spiketok(root, *words, "--plot", tmp_path / "c.png", "--json")
    assert done.stderr.count(f"note: {whose} is read by unit-sum, of which no formula of attention is known") == 1
    ours, binned = json.loads(done.stdout)["schemes"]
    assert ours["attention_flops_per_s"] == {} and binned["attention_flops_per_s"] and ours["mean"]["tokens_per_s"]
    assert "\tnot known\t" in spiketok(root, *words).stdout


@pytest.mark.long
def test_without_the_package_each_artefact_says_what_to_install(site, root):
    remedy = "spiketok-example is not installed: pip install 'spiketok-example==0.1.0'"
    with installed(site):
        spiketok(root, "train", "--model", "unit-sum", "--tokenize", *FEW)
    (run,) = root.glob("runs/unit-sum-*")
    (shard,) = root.glob(f"shards/sparse-counts/{UNSEEN}/*")
    for words in (("eval-xsession", run), ("inspect", shard), ("train", "--from", run)):
        (line,) = spiketok(root, *words, code=1).stderr.strip().splitlines()
        assert line.endswith(remedy) and "spiketok-example 0.1.0" in line
    chain = json.loads(spiketok(root, "verify", run, "--json").stdout)
    assert chain["first_broken"] is None
    absent = {(link["kind"], link["state"]) for link in chain["chain"] if remedy in (link["remark"] or "")}
    assert absent == {("plugin", "not here"), ("shard", "not here")}
    assert "model 'unit-sum' of spiketok-example 0.1.0" in spiketok(root, "inspect", run).stdout
    assert "spiketok-example 0.1.0" in spiketok(root, "cite", run).stdout
    assert "unknown model 'unit-sum'" in spiketok(root, "train", "--model", "unit-sum", code=2).stderr
    assert "unknown scheme 'sparse-counts'" in spiketok(root, "tokenize", "--scheme", "sparse-counts", code=2).stderr


@pytest.mark.long
def test_another_release_of_a_package_is_told_and_no_fault(site, root, tmp_path):
    with installed(site):
        spiketok(root, "train", "--model", "unit-sum", "--tokenize", *FEW)
    write_example(tmp_path / "later", "0.2.0")
    with installed(tmp_path / "later"):
        (run,) = root.glob("runs/unit-sum-*")
        chain = json.loads(spiketok(root, "verify", run, "--json").stdout)["chain"]
        plugins = [link for link in chain if link["kind"] == "plugin"]
        assert {link["remark"] for link in plugins} == {"made with 0.1.0, here is 0.2.0"}
        assert {link["state"] for link in chain} == {"holds"}
        done = spiketok(root, "train", "--model", "unit-sum", *FEW)
        assert "nothing was left to train" in done.stderr and "made with 0.1.0, here is 0.2.0" in done.stderr


def test_a_dataset_and_its_rules_are_fetched_ingested_and_verified(site, stored, tmp_path):
    file = next(stored.parent.glob("nwb*/**/*day01*.nwb"))
    path = "sub-S01/sub-S01_ses-one.nwb"
    with DandiServer({path: file.read_bytes()}, dandiset="999999") as server, installed(site):
        spiketok(tmp_path, "fetch", "example/reach", "--api-url", server.api_url)
        (session,) = json.loads(spiketok(tmp_path, "inspect", "--json").stdout)["tables"]["sessions"]
        name = session["session"]
        assert name == "example_reach/sub-S01_ses-one"
        attributes = json.loads((tmp_path / "store" / name / "session.json").read_text())
        assert attributes["settings"]["rules_plugin"]["package"] == "spiketok-example"
        spiketok(tmp_path, "verify", name)
        assert "set example" in spiketok(tmp_path, "splits", name).stdout
        assert "dataset 'example_reach' of spiketok-example 0.1.0" in spiketok(tmp_path, "inspect", name).stdout
        raw = next((tmp_path / "raw").rglob("*.nwb"))
        assert "already" in spiketok(tmp_path, "ingest", raw).stderr
        write_example(tmp_path / "later", "0.2.0")
    with installed(tmp_path / "later"):  # another release with the same rules: the session stands
        assert "already" in spiketok(tmp_path, "ingest", raw).stderr
    remedy = "pip install 'spiketok-example==0.1.0'"
    assert remedy in spiketok(tmp_path, "verify", name, code=1).stderr


# ---- a class of a module on the path --------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a model in a file of its own."""
    text = "from spiketok.models.linear import Linear\nclass Mine(Linear):\n    name = 'mine'\nclass Other:\n    pass\n"
    (tmp_path / "my_models.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with installed(tmp_path):
        yield tmp_path


def test_a_class_of_a_module_is_a_model_without_being_installed(here, root):
    spiketok(root, "train", "--model", "my_models:Mine", "--tokenize")
    (run,) = root.glob("runs/my_models.Mine-*")
    spiketok(root, "eval-xsession", "my_models:Mine", "--calibration-s", "8", "--protocols", "zero_shot")
    told = spiketok(root, "inspect", run).stdout
    assert "model 'my_models:Mine' of module my_models, sha256 " in told
    assert spiketok(root, "verify", run).returncode == 0
    (here / "my_models.py").write_text((here / "my_models.py").read_text() + "# changed\n")
    line = spiketok(root, "verify", run, code=1).stderr.strip().splitlines()[-1]
    assert "plugin model my_models:Mine" in line and "put that back" in line
    (here / "my_models.py").unlink()
    line = spiketok(root, "eval-xsession", run, code=1).stderr.strip()
    assert "there is no module my_models: put the file of module my_models into this folder or on PYTHONPATH" in line


@pytest.mark.long
def test_a_pulled_run_of_a_module_says_what_it_needs_and_nothing_is_imported(here, root, tmp_path):
    spiketok(root, "train", "--model", "my_models:Mine", "--tokenize")
    (run,) = root.glob("runs/my_models.Mine-*")
    spiketok(root, "push", run, tmp_path / "given")
    needs = f"runs/{run.name}: it needs model 'my_models:Mine' of module my_models, sha256 "
    pull = "from spiketok.cli import main; import sys; sys.argv = ['spiketok', *sys.argv[1:]]; main()"

    def pulled(other: str, *words: str, code: int = 0) -> str:
        """In a process of its own, where the module would tell that it is imported."""
        env = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", pull, "pull", tmp_path / "given", "--root", tmp_path / other, *words]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, cwd=here)
        assert done.returncode == code and "IMPORTED" not in done.stdout + done.stderr, done
        (line,) = [line for line in done.stderr.splitlines() if (needs if code == 0 else "error: ") in line]
        return line

    file = here / "my_models.py"
    assert pulled("same").endswith(f": what uses it imports {file}")
    file.write_text(file.read_text() + "print('IMPORTED')\n")
    line = pulled("changed", code=1)
    assert "plugin model my_models:Mine of module my_models, " in line and line.endswith("it was used: put that back")
    assert not (tmp_path / "changed" / "runs").exists()
    file.unlink()
    remedy = "there is no module my_models: put the file of module my_models into this folder or on PYTHONPATH"
    assert pulled("dry", "--dry-run").endswith(remedy) and pulled("gone").endswith(remedy)
    assert "model 'my_models:Mine' of module my_models" in spiketok(tmp_path / "gone", "inspect", run.name).stdout
    line = spiketok(tmp_path / "gone", "eval-xsession", run.name, code=1).stderr.strip().splitlines()[-1]
    assert remedy in line


def test_a_run_that_names_a_module_and_no_plugin_is_not_taken(here, root, tmp_path):
    """Signed by who changed it: nobody was told, and loading it would import what has the name here."""
    spiketok(root, "train", "--model", "my_models:Mine", "--tokenize")
    (run,) = root.glob("runs/my_models.Mine-*")
    file = run / "checkpoint" / "checkpoint.json"
    write_signed(file, {k: v for k, v in read_json(file).items() if k not in ("plugins", "digest")})
    line = f"runs/{run.name} has the model 'my_models:Mine' and does not say what plug-in that is: it is not taken"
    with pytest.raises(ArtefactError, match=line):
        check_item(Workspace(root), f"runs/{run.name}")


def test_a_pulled_shard_of_a_package_that_is_not_here_says_what_to_install(site, root, tmp_path):
    with installed(site):
        spiketok(root, "tokenize", "--scheme", "sparse-counts", "--sessions", UNSEEN)
        spiketok(root, "push", "sparse-counts", tmp_path / "given")
        said = spiketok(tmp_path / "here", "pull", tmp_path / "given").stderr
        assert "it needs scheme 'sparse-counts' of spiketok-example 0.1.0: what uses it imports " in said
    (line,) = spiketok(tmp_path / "other", "pull", tmp_path / "given", code=1).stderr.strip().splitlines()[-1:]
    assert line.startswith("error: shards/sparse-counts/")
    assert line.endswith("spiketok-example is not installed: pip install 'spiketok-example==0.1.0'")
    assert not (tmp_path / "other" / "shards").exists()


@pytest.mark.parametrize(
    ("word", "error", "says"),
    [
        ("my_models:Other", PluginError, r"my_models.py is a class that is no spiketok\.models\.base\.Model"),
        ("my_models:Mane", UsageError, r"my_models.py has no 'Mane' \(it has Mine, Other\)"),
        ("no_module:Mine", UsageError, "there is no module 'no_module' on the path or in"),
        ("bad_module:Mine", PluginError, r"bad_module.py cannot be imported \(SyntaxError: "),
        ("my_models.Mine", UnknownNameError, "unknown model 'my_models.Mine'"),
        ("my_models:", UnknownNameError, "unknown model 'my_models:'"),
    ],
)
def test_a_word_that_leads_to_no_model_is_one_line(here, word, error, says):
    (here / "bad_module.py").write_text("class Mine(:\n")
    with pytest.raises(error, match=says) as raised:
        load_config(word)
    assert "\n" not in str(raised.value)


# ---- what cannot be used --------------------------------------------------------------------------------------------

FAULTS = {
    "import": ("import nothing_of_this_name", r"cannot be imported \(ModuleNotFoundError: No module named 'nothing"),
    "exit": ("raise RuntimeError('two\\nlines')", r"cannot be imported \(RuntimeError: two lines\)"),
    "gone": ("Other = 1", "cannot be imported .AttributeError"),
    "kind": ("class Thing: pass", r"is a class that is no spiketok\.models\.base\.Model"),
    "value": ("Thing = 3", "is an int, expected a class"),
    "lacks": (
        "from spiketok.models.base import Model\nclass Thing(Model): name = 'odd'",
        "lacks __init__, add_sessions, forward, inputs, loss, sessions",
    ),
    "name": ("from spiketok.models.poyo import Poyo as Thing", "calls itself 'poyo', not 'odd'"),
    "inputs": (
        "from spiketok.models.linear import Linear\nclass Thing(Linear):\n    name = 'odd'\n"
        "    @classmethod\n    def inputs(cls, *args): return 1 / 0",
        r"cannot be asked what it is \(ZeroDivisionError: division by zero\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_broken_is_one_line_and_breaks_no_other(fault, site, tmp_path):
    text, says = FAULTS[fault]
    with installed(site, broken(tmp_path / "odd", text)):
        with pytest.raises(PluginError, match=says) as raised:
            load_config("odd")
        line = str(raised.value)
        assert line.startswith("model 'odd' of odd-package 0.3 (odd_module:Thing) ") and "\n" not in line
        assert line.endswith(": mend or uninstall it")
        assert load_config("unit-sum").model == "unit-sum"
        assert "odd" not in list(MODELS) and "unit-sum" in list(MODELS)


def test_a_broken_model_is_noted_by_the_list_and_refused_by_name(site, tmp_path):
    with installed(site, broken(tmp_path / "odd", "import nothing_of_this_name")):
        done = spiketok(tmp_path, "models")
        assert "\nunit-sum\t" in done.stdout and "\nodd\t" not in done.stdout
        (said,) = [line for line in done.stderr.splitlines() if "odd-package" in line]
        assert said.startswith("note: model 'odd' of odd-package 0.3 (odd_module:Thing) cannot be imported")
        (line,) = spiketok(tmp_path, "train", "--model", "odd", code=1).stderr.strip().splitlines()
        assert line.startswith("error: model 'odd' of odd-package 0.3 (odd_module:Thing) cannot be imported")
        assert "model odd\tbroken\tmodel 'odd' of odd-package 0.3" in spiketok(tmp_path, "doctor", code=1).stdout


OTHERS = {
    "schemes": (SCHEMES, "from dataclasses import dataclass\nclass Thing: name = 'odd'", "Scheme"),
    "tasks": (TASKS, "class Thing: kind = 'odd'", r"is a class that is no spiketok\.training\.tasks"),
    "datasets": (DATASETS, "Thing = {}", "is of dict, expected a Dataset"),
    "metrics": (METRICS, "def Thing(a, b): return 0", r"has the arguments \(a, b\), expected \(target, prediction\)"),
}


@pytest.mark.parametrize("group", OTHERS)
def test_other_kinds_are_refused_in_the_same_way(group, tmp_path):
    registry, text, says = OTHERS[group]
    with installed(broken(tmp_path / "odd", text, group)):
        with pytest.raises(PluginError, match=says) as raised:
            registry["odd"]
        assert str(raised.value).startswith(f"{registry.kind} 'odd' of odd-package 0.3 (odd_module:Thing) ")
        assert "odd" not in list(registry)


def test_names_that_clash_are_refused_naming_both(tmp_path, capsys):
    mine = "from spiketok.models.linear import Linear\nclass Thing(Linear):\n    name = 'twice'\n"
    for package in ("first", "second"):
        entries = {"spiketok.models": {"twice": f"{package}_module:Thing", "poyo": f"{package}_module:Thing"}}
        write_package(tmp_path / package, package, "1.0", entries, {f"{package}_module.py": mine})
    with installed(tmp_path / "first", tmp_path / "second"):
        with pytest.raises(PluginError) as raised:
            load_config("twice")
        for shown in ("first 1.0 (first_module:Thing)", "second 1.0 (second_module:Thing)"):
            assert shown in str(raised.value)
        assert MODELS["poyo"] is Poyo
        said = capsys.readouterr().err
        assert "model 'poyo' is built into spiketok, that of first 1.0 (first_module:Thing) and second 1.0" in said
        assert list(MODELS) == list(MODELS.builtin)


@pytest.mark.long
def test_a_run_of_another_package_of_the_same_name_is_not_gone_on_with(site, root, tmp_path):
    with installed(site):
        spiketok(root, "train", "--model", "unit-sum", "--tokenize", *FEW)
        entries = {"spiketok.models": {"unit-sum": "spiketok_example.model:UnitSum"}}
        write_package(tmp_path / "rival", "rival", "2.0", entries, {})
        with installed(tmp_path / "rival"):
            line = spiketok(root, "eval-xsession", "unit-sum", code=1).stderr.strip()
            assert "rival 2.0" in line and "spiketok-example 0.1.0" in line


# ---- the parts ------------------------------------------------------------------------------------------------------


def test_metrics_are_named_by_a_run(example):
    config = load_config("ndt1", None, ["task.decode.metrics=['correlation']"])
    assert config.task_config("decode").metrics == ("correlation",)
    for name, says in {
        "r2_mean": "is reported already",
        "co_bps": "compares spikes",
        "corelation": "did you mean",
    }.items():
        with pytest.raises(UsageError, match=says):
            load_config("ndt1", None, [f"task.decode.metrics=['{name}']"]).task_config("decode")
    with pytest.raises(UsageError, match="compares behaviour"):
        load_config("ndt1", None, ["task.population.metrics=['correlation']"])


def test_a_task_is_served_by_who_serves_what_it_is_like(example):
    assert load_config("poyo", None, ["task.speed.root=0.5"], ["speed:hand_vel"]).task_config("speed").root == 0.5
    with pytest.raises(UsageError, match="model 'nuclr' answers embed, not speed"):
        load_config("nuclr", None, [], ["speed"])
    with pytest.raises(UnknownNameError, match=r"task\.speed\.rot"):
        load_config("poyo", None, ["task.speed.rot=0.5"], ["speed:hand_vel"])


def test_datasets_and_rules_are_found_by_all_their_names(example):
    assert catalogued("example/reach").name == "example_reach"
    assert RULES["example_reach"].version == 1 and "example_reach" in list(RULES)
    assert RULES.origin("example_reach").package == "spiketok-example" and RULES.origin("nlb") is None


def test_what_is_recorded_is_read_strictly(tmp_path):
    whole = Origin("model", "a", "b.c:D", "p", "1")
    assert origins_of([whole.to_dict()]) == [whole] and origins_of(None) == []
    for wrong in ([{"kind": "model"}], [3], [whole.to_dict() | {"more": "1"}], [whole.to_dict() | {"name": 3}]):
        with pytest.raises(Exception, match="plug-ins are recorded as"):
            origins_of(wrong)
    assert present(whole) == ("not here", "p is not installed: pip install 'p==1'")
    assert find_module("spiketok.models.poyo") == Path(sys.modules["spiketok.models.poyo"].__file__)
    assert find_module("spiketok.models.nobody") is None and find_module("nobody.at.all") is None


def test_a_scheme_that_breaks_a_law_is_told_which(example):
    from spiketok_example.scheme import SparseCounts

    class Leaky(SparseCounts):
        """Forgets the last spike."""

        name = "leaky"

        def spikes_held(self, columns):
            return max(0, super().spikes_held(columns) - 1)

    with pytest.raises(AssertionError, match=r"3: no spike is invented.* spikes lie in the segment, it says") as raised:
        check(Leaky)
    assert len(str(raised.value).splitlines()) < 20 and make_scheme("sparse-counts").bin_ns == 20_000_000
    assert "leaky" not in SCHEMES and len(laws(Leaky)) > 10
