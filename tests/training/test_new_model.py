"""A model is one file and one name: three that the package has never seen go the whole way, by the command line alone.

Each reads tokens that no model of the package reads so: patches of a size of its own, spikes in chunks, two inputs.
Nothing is told to the trunk but the name in ``MODELS``; every field of a scheme comes from the model's own Config.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from torch import Tensor, nn  # noqa: E402

from spiketok.evaluation.results import OF_MAPS  # noqa: E402
from spiketok.models import MODELS  # noqa: E402
from spiketok.models.base import PROTOCOLS, Model, Part, check_same_units  # noqa: E402
from spiketok.models.batch import Batch, Head, Input, Progress, Timing, query_bin  # noqa: E402
from spiketok.models.losses import weighted_mse  # noqa: E402
from spiketok.models.vocabulary import Vocabulary  # noqa: E402
from spiketok.recording.nouns import SessionInfo  # noqa: E402
from spiketok.sources.simulator import SimulationConfig, simulate  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.runs import open_shards  # noqa: E402
from spiketok.training.sessions import divide  # noqa: E402
from tests.cli.test_cli import Done, spiketok  # noqa: E402

DAY = "local/sub-S01_ses-CO-day0{}_behavior+ecephys"
TRAINED, UNSEEN = [DAY.format(1), DAY.format(2)], DAY.format(3)
RECIPE = {
    "data": {"window_ms": 1000.0, "batch_size": 8},
    "optim": {"lr": 5e-3, "steps": 6, "checkpoint_every": 2},
    "transfer": {"identity_steps": 3, "full_steps": 3, "unfreeze_after": 1, "batch_size": 4, "adapt_steps": 1},
}

# ---- three models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PatchConfig:
    """A width; and what the scheme ``patch`` is asked for."""

    dim: int = 16
    patch_size: int = 32
    max_count: int = 20
    group_by: str = ""


class Patches(Model):
    """A patch is the sum of its units' rows by their counts; a bin the mean of its patches, whose places have rows."""

    name: ClassVar[str] = "toy-patches"
    Config: ClassVar[type] = PatchConfig
    sizes: ClassVar[dict] = {"default": {}}
    recipes: ClassVar[dict] = {"*": RECIPE}

    @classmethod
    def inputs(cls, config: PatchConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        asked = {"bin_ns": timing.bin_ns, "patch_size": config.patch_size}
        return {"patches": Input("patch", {**asked, "max_count": config.max_count, "group_by": config.group_by})}

    def __init__(self, config: PatchConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task, dim = self.head("values").task, config.dim
        self.units, self.places = Vocabulary(dim, 0.1, padding=True), nn.Embedding(16, dim)
        self.read_out = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, self.head("values").size))

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        for info in infos:
            check_same_units(info.id, self.units.words.get(info.id, info.unit_keys()), info.unit_keys())
        self.units.extend({info.id: info.unit_keys() for info in infos if info.id not in self.units.words})

    def sessions(self) -> list[str]:
        return list(self.units.words)

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        return self.units.rows(info.id)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        return [Part.of(self.units, session) for session in (self.sessions() if sessions is None else sessions)]

    def extra_state(self) -> dict[str, object]:
        return {"units": self.units.state()}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units.load_state(state["units"])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        columns, length = batch.tokens().packed()
        patch, unit = columns["patch"], columns["unit"].long()
        assert patch.shape[1] == self.config.patch_size
        assert int(patch.max()) <= self.config.max_count
        x = (self.units(unit.clamp_min(0)) * patch.float().log1p()[..., None]).sum(1)
        x = x + self.places(columns["space"].long())
        n_bins = batch.window_ns // self.timing.bin_ns
        window = torch.repeat_interleave(torch.arange(len(length)), torch.tensor(length))
        row = window * n_bins + columns["time"].long()
        bins = torch.zeros(len(length) * n_bins, self.config.dim).index_add(0, row, x)
        return {self.task: self.read_out(bins[query_bin(batch, batch.asked[self.task], n_bins)])}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        asked = batch.asked[self.task]
        mse = weighted_mse(output[self.task], asked.target, asked.weight)
        return {self.task: mse, "total": mse}


@dataclass(frozen=True)
class ChunksConfig:
    """A width; and the length of the chunks in which the scheme ``per-spike`` gives its tokens."""

    dim: int = 16
    chunk_ms: float = 100.0


class Chunks(Model):
    """Sums the spikes of a chunk and hands them to a recurrent cell, whose state goes on from window to window."""

    name: ClassVar[str] = "toy-chunks"
    causal: ClassVar[bool] = True
    carries: ClassVar[bool] = True
    Config: ClassVar[type] = ChunksConfig
    sizes: ClassVar[dict] = {"default": {}}
    recipes: ClassVar[dict] = {"*": RECIPE}

    @classmethod
    def inputs(cls, config: ChunksConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {"chunks": Input("per-spike", {"start_end": False, "chunk_ns": round(config.chunk_ms * 1e6)})}

    def __init__(self, config: ChunksConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task, dim = self.head("values").task, config.dim
        self.units, self.when = Vocabulary(dim, 0.1, padding=True), nn.Linear(1, dim)
        self.cell, self.read_out = nn.GRU(dim, dim, batch_first=True), nn.Linear(dim, self.head("values").size)

    add_sessions, sessions, unit_row = Patches.add_sessions, Patches.sessions, Patches.unit_row
    identity_parameters, loss = Patches.identity_parameters, Patches.loss
    extra_state, load_extra_state = Patches.extra_state, Patches.load_extra_state

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.predict(batch)[0]

    def predict(self, batch: Batch, carry: object = None) -> tuple[dict[str, Tensor], object]:
        columns, length = batch.tokens().packed()
        chunk_s = self.config.chunk_ms / 1e3
        assert float(columns["time"].max()) <= chunk_s  # counted from the chunk's start, not from the window's
        n_chunks = batch.window_ns // round(self.config.chunk_ms * 1e6)
        spike = (columns["type"] == 0).float()[:, None]
        x = (self.units(columns["unit"].long()) + self.when(columns["time"][:, None] / chunk_s)) * spike
        window = torch.repeat_interleave(torch.arange(len(length)), torch.tensor(length))
        row = window * n_chunks + columns["chunk"].long()
        chunks = torch.zeros(len(length) * n_chunks, self.config.dim).index_add(0, row, x)
        y, state = self.cell(chunks.unflatten(0, (len(length), n_chunks)), carry)
        asked = batch.asked[self.task]
        return {self.task: self.read_out(y.flatten(0, 1)[query_bin(batch, asked, n_chunks)])}, state


@dataclass(frozen=True)
class BothConfig:
    """A width; and the order in which spikes stand."""

    dim: int = 16
    order: str = "time"


class Both(Model):
    """Reads counts and the spikes themselves; the mean count of an unseen session's units is taken in without training.

    Units are sorted by nothing and have no rows: the sums over units are all that it knows.
    """

    name: ClassVar[str] = "toy-both"
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "zero_gradient", "full")
    one_session_batches: ClassVar[bool] = True
    Config: ClassVar[type] = BothConfig
    sizes: ClassVar[dict] = {"default": {}}
    recipes: ClassVar[dict] = {"*": RECIPE}

    @classmethod
    def inputs(cls, config: BothConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        spikes = {"start_end": False, "order": config.order}
        return {"counts": Input("binned", {"bin_ns": timing.bin_ns}), "spikes": Input("per-spike", spikes)}

    def __init__(self, config: BothConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task, dim = self.head("values").task, config.dim
        self.known: dict[str, list[str]] = {}
        self.mean: dict[str, Tensor] = {}
        self.read_in = nn.Sequential(nn.Linear(3, dim), nn.ReLU())
        self.read_out = nn.Linear(dim, self.head("values").size)

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        for info in infos:
            check_same_units(info.id, self.known.get(info.id, info.unit_keys()), info.unit_keys())
            self.known[info.id] = info.unit_keys()

    def sessions(self) -> list[str]:
        return list(self.known)

    def extra_state(self) -> dict[str, object]:
        return {"units": [[session, keys] for session, keys in self.known.items()]}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.known = {session: list(keys) for session, keys in state["units"]}

    def calibrate(self, batches: Iterable[Batch]) -> None:
        total: dict[str, list[Tensor]] = {}
        for batch in batches:
            assert not batch.asked  # no label was cut
            total.setdefault(batch.sessions[0], []).append(batch.inputs["counts"].packed()[0]["counts"].float())
        self.mean |= {session: torch.cat(counts).mean() for session, counts in total.items()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        counts, length = batch.inputs["counts"].packed()
        spikes, in_window = batch.inputs["spikes"].packed()
        n_bins = length[0]
        if self.config.order == "unit" and len(spikes["unit"]):
            first = spikes["unit"][: in_window[0]]
            assert bool((first.diff() >= 0).all())
        window = torch.repeat_interleave(torch.arange(len(in_window)), torch.tensor(in_window))
        row = window * n_bins + (spikes["time"].double() * 1e9 / self.timing.bin_ns).long().clamp_max(n_bins - 1)
        late = torch.zeros(sum(length)).index_add(0, row, spikes["time"] % (self.timing.bin_ns / 1e9))
        mean = counts["counts"].float().mean(1)
        known = self.mean.get(batch.one_session(self.name), torch.tensor(1.0))
        x = torch.stack([mean, mean / known.clamp_min(0.01), late], 1)
        return {self.task: self.read_out(self.read_in(x))[query_bin(batch, batch.asked[self.task], n_bins)]}

    loss = Patches.loss


TOYS = {model.name: model for model in (Patches, Chunks, Both)}

# What the command line sets of each, and what the schemes of its inputs must then have.
CHOSEN = {
    "toy-patches": (["model.patch_size=16"], {"patches": ("patch", {"patch_size": 16, "bin_ns": 20_000_000})}),
    "toy-chunks": (["model.chunk_ms=50"], {"chunks": ("per-spike", {"start_end": False, "chunk_ns": 50_000_000})}),
    "toy-both": (
        ["model.order=unit", "data.bin_ms=25"],
        {
            "counts": ("binned", {"bin_ns": 25_000_000}),
            "spikes": ("per-spike", {"start_end": False, "order": "unit", "chunk_ns": 0}),
        },
    ),
}
# the one with inputs of two schemes
ONE_OF_TOYS = pytest.mark.parametrize(
    "name", [n if n == "toy-both" else pytest.param(n, marks=pytest.mark.long) for n in TOYS]
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The one name that a model is, outside of its file."""
    for name, model in TOYS.items():
        monkeypatch.setitem(MODELS, name, model)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A workspace with three simulated sessions of one subject, and no shard."""
    root, nwb = tmp_path_factory.mktemp("stored"), tmp_path_factory.mktemp("nwb")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=20, duration_s=40.0)
    spiketok(root, "ingest", *simulate(config, nwb))
    return root


@pytest.fixture
def root(stored, tmp_path) -> Path:
    shutil.copytree(stored, tmp_path / "root")
    return tmp_path / "root"


def train(root: Path, name: str, sets: Sequence[str], *words: str, code: int = 0) -> Done:
    """Train on the first two days, with settings."""
    return spiketok(
        root, "train", "--model", name, "--task", "decode:cursor_vel", *(w for s in sets for w in ("--set", s)), *words,
        code=code,
    )  # fmt: skip


def run_of(root: Path, name: str) -> Path:
    (run,) = root.glob(f"runs/{name}-*")
    return run


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def manifests(root: Path, sessions: list[dict]) -> dict[str, list[dict]]:
    """By input, the manifest of the shard of each session that an artefact names; its digest is the one that is named.

    The path of a shard says its scheme and session, and the digest all of its bytes.
    """
    found: dict[str, list[dict]] = {}
    for session in sessions:
        for name, shard in session["shards"].items():
            manifest = read(root / "shards" / shard["shard"] / "manifest.json")
            assert manifest["digest"] == shard["digest"]
            assert manifest["session"]["id"] == session["id"]
            found.setdefault(name, []).append(manifest)
    return found


def assert_read(root: Path, sessions: list[dict], expected: dict[str, tuple[str, dict]]) -> None:
    """Every session's shard of each input has the scheme with these fields."""
    found = manifests(root, sessions)
    assert found.keys() == expected.keys()
    for name, (scheme, fields) in expected.items():
        for manifest in found[name]:
            assert manifest["scheme"]["name"] == scheme
            assert {key: manifest["scheme"]["config"][key] for key in fields} == fields, name


# ---- the whole way --------------------------------------------------------------------------------------------------


@ONE_OF_TOYS
def test_a_new_model_goes_from_the_store_to_a_verified_report(root, name):
    sets, expected = CHOSEN[name]
    done = train(root, name, sets, "--tokenize")
    assert f"held out for eval-xsession: {UNSEEN}" in done.stderr
    result = read(run_of(root, name) / "result.json")
    assert result["step"] == 6
    assert [s["id"] for s in result["sessions"]] == TRAINED
    assert_read(root, result["sessions"], expected)
    assert all(np.isfinite(result["test"][s]["decode:cursor_vel"]["r2_mean"]) for s in TRAINED)

    # --tokenize made those of the held-out session too; without them a run asks for the schemes that it was trained on
    for shards in root.glob(f"shards/*/{UNSEEN}"):
        shutil.rmtree(shards)
    refused = spiketok(root, "eval-xsession", name, "--calibration-s", "8", code=1)
    assert UNSEEN in refused.stderr
    done = spiketok(root, "eval-xsession", name, "--calibration-s", "8", "--tokenize")
    report = Path(done.stdout.strip().splitlines()[-1].removeprefix("report "))
    told = read(report.with_name("report.json"))
    assert_read(root, told["sessions"], expected)
    scores = {row["protocol"]: row for row in told["scores"]}
    assert scores.keys() == {"linear", "zero_shot", *TOYS[name].protocols, *OF_MAPS, "adapted+linear"}
    for mapped in (scores.pop("mapped"), scores.pop("mapped_unlabelled")):
        assert "no numbers of each unit" in mapped["reason"]
    for row in scores.values():
        assert (row["session"], row["reason"]) == (UNSEEN, "")
        assert np.isfinite(row["score"]["r2_mean"])
    assert (scores["full"]["trained_parameters"] > 0) and scores["zero_shot"]["trained_parameters"] == 0
    rest = [p for p in PROTOCOLS if p not in scores]
    done = spiketok(root, "eval-xsession", name, "--calibration-s", "8", "--protocols", ",".join(rest), "--json",
                    "--out", root / "rest")  # fmt: skip
    assert all(row["reason"] for row in json.loads(done.stdout)["scores"] if row["protocol"] != "linear")

    links = json.loads(spiketok(root, "verify", report, "--json").stdout)
    assert links["first_broken"] is None
    assert {link["state"] for link in links["chain"]} == {"holds"}
    kinds = [link["kind"] for link in links["chain"] if link["kind"] != "context"]
    assert kinds == ["report", "checkpoint", *[*["shard"] * len(expected), "store", "source"] * 3]


@ONE_OF_TOYS
def test_a_new_model_that_was_stopped_goes_on_to_the_same_bytes(root, tmp_path, name, monkeypatch):
    sets, _ = CHOSEN[name]
    train(root, name, sets, "--tokenize")
    whole = (run_of(root, name) / "checkpoint" / "model.safetensors").read_bytes()
    shutil.rmtree(root / "runs")
    plain = TOYS[name].loss

    def stopping(self, batch, output, progress):
        if progress.step == 5:
            raise RuntimeError("the power went")
        return plain(self, batch, output, progress)

    with monkeypatch.context() as patched:
        patched.setattr(TOYS[name], "loss", stopping)
        assert "the power went" in train(root, name, sets, code=1).stderr
    assert read(run_of(root, name) / "checkpoint" / "checkpoint.json")["step"] == 4
    assert "going on from step 4 of " in train(root, name, sets, "--resume").stderr
    assert (run_of(root, name) / "checkpoint" / "model.safetensors").read_bytes() == whole
    assert "nothing was left to train" in train(root, name, sets).stderr


def test_the_carry_goes_from_window_to_window(root, monkeypatch):
    """What a recurrent model of one file says of a window depends on the one before it, and on none after a gap."""
    train(root, "toy-chunks", CHOSEN["toy-chunks"][0], "--tokenize")
    run = load_run(run_of(root, "toy-chunks"))
    (tokens,) = open_shards(Workspace.locate(root), TRAINED[:1], run.config)
    session = divide(tokens, run.tasks, run.config.split)
    carried = predict(run.model, session, "test", run.config)["decode:cursor_vel"]
    carrying = Chunks.predict
    monkeypatch.setattr(Chunks, "predict", lambda self, batch, carry=None: (carrying(self, batch)[0], None))
    alone = predict(run.model, session, "test", run.config)["decode:cursor_vel"]
    np.testing.assert_array_equal(carried.time_ns, alone.time_ns)
    assert set(carried.windows) == {1}
    first = carried.time_ns < carried.time_ns[0] + 1_000_000_000
    np.testing.assert_array_equal(carried.predicted[first], alone.predicted[first])
    assert (carried.predicted[~first] != alone.predicted[~first]).any(1).mean() > 0.9


# ---- every field that is set is the one that is read ----------------------------------------------------------------

FIELDS = {
    "size": ("toy-patches", "model.patch_size=8", "patches", {"patch_size": 8}, "--set patch_size=8"),
    "bins": ("toy-patches", "data.bin_ms=40", "patches", {"bin_ns": 40_000_000}, "--bin-ms 40"),
    "odd bins": ("toy-patches", "data.bin_ms=31.25", "patches", {"bin_ns": 31_250_000}, "--bin-ms 31.25"),
    "clipping": ("toy-patches", "model.max_count=3", "patches", {"max_count": 3}, "--set max_count=3"),
    "groups": ("toy-patches", "model.group_by=region", "patches", {"group_by": "region"}, "--set group_by=region"),
    "chunks": (
        *("toy-chunks", "model.chunk_ms=125", "chunks", {"chunk_ns": 125_000_000, "start_end": False}),
        "--set start_end=false --set chunk_ns=125000000",
    ),
    "order": (
        *("toy-both", "model.order=unit", "spikes", {"order": "unit", "start_end": False}),
        "--set start_end=false --set order=unit",
    ),
    "both": ("toy-both", "data.bin_ms=12.5", "counts", {"bin_ns": 12_500_000}, "--bin-ms 12.5"),
}
ODD = ("odd bins", "groups", "chunks", "both")  # a fraction, a word, a setting of two fields, two schemes


@pytest.mark.parametrize("case", [c if c in ODD else pytest.param(c, marks=pytest.mark.long) for c in FIELDS])
def test_the_command_that_is_named_makes_the_shard_that_is_found(root, case):
    name, setting, key, fields, words = FIELDS[case]
    sets = [setting, "optim.steps=1"]
    done = train(root, name, sets, code=1)
    assert len(done.stderr.strip().splitlines()) == 2  # what is held out, and the error
    commands = re.search(r"for this run: (.*) \(or add --tokenize\)$", done.stderr.strip()).group(1).split(" && ")
    scheme = TOYS[name].inputs(TOYS[name].Config(), [], Timing(10**9, 20_000_000))[key].scheme
    assert f"spiketok tokenize --scheme {scheme} {words}" in commands
    for command in commands:
        program, *rest = shlex.split(command)
        assert program == "spiketok"
        spiketok(root, *rest)
    made = sorted(p.parent for p in root.glob("shards/*/*/*/*/manifest.json") if "context" not in p.parts)
    assert len(made) == 3 * len(commands)
    train(root, name, sets)
    result = read(run_of(root, name) / "result.json")
    read_shards = {root / "shards" / shard["shard"] for s in result["sessions"] for shard in s["shards"].values()}
    assert read_shards == {path for path in made if UNSEEN not in path.as_posix()}
    for manifest in manifests(root, result["sessions"])[key]:
        assert {k: manifest["scheme"]["config"][k] for k in fields} == fields
    # what --tokenize makes is the same: nothing is left for it to do
    assert "tokenizing" not in train(root, name, sets, "--tokenize").stderr


def test_another_value_asks_for_another_shard(root):
    train(root, "toy-patches", ["model.patch_size=16", "optim.steps=1"], "--tokenize")
    done = train(root, "toy-patches", ["model.patch_size=8", "optim.steps=1"], code=1)
    assert "spiketok tokenize --scheme patch --set patch_size=8" in done.stderr
    train(root, "toy-patches", ["model.patch_size=8", "optim.steps=1"], "--tokenize")
    runs = [read(run / "result.json")["sessions"] for run in root.glob("runs/toy-patches-*")]
    sizes = {m["scheme"]["config"]["patch_size"] for s in runs for m in manifests(root, s)["patches"]}
    assert (len(runs), sizes) == (2, {8, 16})


def test_what_the_scheme_refuses_is_one_line(root):
    done = train(root, "toy-patches", ["model.patch_size=0"], code=2)
    assert "patch: patch_size is 0, must be a whole number from 1" in done.stderr
    done = train(root, "toy-chunks", ["model.chunk_ms=300"], "--tokenize", code=2)
    assert "data.window_ms is 1000, no multiple of the 300 ms" in done.stderr


def test_a_new_model_is_told_with_its_inputs_and_settings(stored):
    told = json.loads(spiketok(stored, "models", "toy-both", "--json").stdout)
    assert told["reads"] == "binned, per-spike"
    assert told["transfer"] == "zero_shot, zero_gradient, full"
    (order,) = [row for row in told["settings"] if row["key"] == "model.order"]
    assert order == {"key": "model.order", "type": "str", "default": "time", "source": "default"}
    assert "start_end=False" in told["inputs"]["spikes"]
    lines = spiketok(stored, "models", "toy-both").stdout.splitlines()
    assert "model.order\tstr\ttime\tdefault" in lines
    assert lines[-1] == Both.Config.__doc__
