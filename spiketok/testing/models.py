"""The laws of a model, on shards of made sessions: from tokens to a checkpoint and back.

Sessions have an unobserved stretch inside of their segment and different numbers of units. Each model trains a few
steps at a small size.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import DataError
from spiketok.models import MODELS, why_no_model
from spiketok.models.base import PROTOCOLS, Model, Part
from spiketok.models.batch import Batch, Progress, Timing
from spiketok.recording.nouns import Intervals
from spiketok.settings import typed
from spiketok.testing.sessions import UNITS, recorded
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.checkpoints import load_run
from spiketok.training.config import RunConfig, default_size, load_config
from spiketok.training.loop import TrainResult, prepare, train, train_loader
from spiketok.training.optimizers import build_optimizer
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import Once, SessionTokens
from spiketok.training.sections import OptimConfig
from spiketok.training.tables import only
from spiketok.training.tasks import TASKS

STEPS = 4
TIMING = Timing(500_000_000, 20_000_000)
SETS = [
    *("data.window_ms=500", "data.bin_ms=20", "data.eval_step_ms=500", "data.batch_size=4", "optim.accelerator=cpu"),
    *(f"optim.steps={STEPS}", "optim.checkpoint_every=2", "transfer.identity_steps=3", "transfer.batch_size=4"),
]


def laws_of_model(cls: type, settings: Mapping[str, object]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """By name, each law of a model at a small size."""
    yield "it says what it is", lambda _: says_what_it_is(cls)
    on_shards = {
        "answers are where they are asked, and finite": answers_are_finite,
        "one seed, one model": one_seed_one_model,
        "a new session leaves old answers as they are": new_sessions_leave_old_answers,
        "other units under a known name are refused": other_units_are_refused,
        "its state rebuilds it": state_rebuilds_it,
        "a window does not see its batch": a_window_does_not_see_its_batch,
        "what has no weight has no influence": no_weight_no_influence,
        "an evaluation never reads the truth": an_evaluation_never_reads_the_truth,
        "each row of the transfer table is there or has a reason": rows_are_there_or_have_a_reason,
        "identity parameters are all that identity_only moves": identity_is_all_that_moves,
        "a run that stopped goes on to the same bytes": stopped_runs_go_on,
        "time that was not observed changes no training": unobserved_time_changes_nothing,
    }
    for name, law in on_shards.items():
        yield name, lambda folder, law=law: law(Bench(cls.name, settings, folder))


class Stopped(Exception):
    """A training was interrupted, on purpose."""


class Bench:
    """A model by its name at a small size, and shards of the sessions of its laws.

    Args:
        settings: fields of its Config. folder: for shards and runs. sets: of the run, over ``SETS``.
    """

    def __init__(self, name: str, settings: Mapping[str, object], folder: Path, sets: Sequence[str] = ()) -> None:
        size = [f"size={typed(default_size(name))}"]
        own = [f"model.{key}={typed(value)}" for key, value in settings.items()]
        self.cls, self.folder = MODELS[name], Path(folder)
        self.config = load_config(name, None, [*size, *own, *SETS, *sets])
        self._shard = cache(self._written)

    def _written(self, name: str, scheme, noise: bool) -> ShardReader:
        session = recorded(name, noise)
        target = self.folder / f"shard-{len(list(self.folder.iterdir()))}"
        whole = Intervals([0], [session.stop_ns])
        write_shard(target, scheme, session, whole, segments_rule="continuous", store_digest="d" * 64)
        return ShardReader(target)

    def tokens(self, names: Sequence[str] = (), noise: bool = False, config: RunConfig | None = None):
        """The shards of sessions (of ``UNITS``) that a run reads, as a training takes them."""
        names = names or (("a",) if self.cls.one_session else ("a", "b"))
        return [self._tokens(name, noise, config or self.config) for name in names]

    def _tokens(self, name: str, noise: bool, config: RunConfig) -> SessionTokens:
        inputs = run_inputs(config).items()
        readers = {key: self._shard(name, scheme_of(wanted), noise) for key, wanted in inputs}
        once = {key: Once(readers[key], w.most, w.choose) for key, w in inputs if w.per == "session"}
        return SessionTokens({key: reader for key, reader in readers.items() if key not in once}, once)

    def model(self, names: Sequence[str] = (), seed: int = 0) -> tuple[Model, Batch]:
        """The model as it stands before its first step, in eval mode, and a batch of its training windows."""
        divided, tasks = prepare(self.config, self.tokens(names))
        torch.manual_seed(seed)
        model = self.cls(self.config.model_config(), [task.head() for task in tasks], self.config.timing)
        model.add_sessions([session.tokens.info for session in divided])
        batch = next(iter(train_loader(self.config, divided, model, tasks))).clone()
        return model.eval(), batch

    def train(self, where: str, noise: bool = False, **how) -> TrainResult:
        return train(self.config, self.tokens(noise=noise), self.folder / where, **how)


def answers(model: Model, batch: Batch) -> dict[str, torch.Tensor]:
    """What an evaluation gets, by task; a model that draws draws the same."""
    torch.manual_seed(5)
    with torch.no_grad():
        output, _ = model.predict(batch)
    return {task: output[task] for task in batch.asked}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, bit for bit; NaN equals NaN."""
    return a.shape == b.shape and torch.equal(a.nan_to_num(1e9), b.nan_to_num(1e9))


def bytes_of(run_dir: Path) -> dict[str, bytes]:
    """The files of a checkpoint by name."""
    return {p.name: p.read_bytes() for p in sorted((run_dir / "checkpoint").iterdir())}


def _trains(model: Model) -> bool:
    return any(p.requires_grad for p in model.parameters())


# ---- the laws -------------------------------------------------------------------------------------------------------


def says_what_it_is(cls: type) -> None:
    """Names, presets and inputs: every field of a scheme exists and has a value that can be."""
    fault = why_no_model(cls)
    assert not fault, fault
    unknown = set(cls.tasks) - set(TASKS)
    assert not unknown, f"it answers {', '.join(sorted(unknown))}, which is no kind of question"
    rows = set(cls.protocols) - set(PROTOCOLS)
    assert not rows, f"it has the rows {', '.join(sorted(rows))}, which the transfer table has not"
    for size, values in cls.sizes.items():
        config = cls.Config(**values)
        assert cls.Config(**dataclasses.asdict(config)) == config, f"size {size} is not what its fields say"
        inputs = cls.inputs(config, cls.tasks, TIMING)
        assert any(wanted.per == "window" for wanted in inputs.values()), "it reads nothing of a window"
        for key, wanted in inputs.items():
            scheme = make_scheme(wanted.scheme, **wanted.fields)
            fits = wanted.per == "session" or TIMING.window_ns % scheme.length_grid_ns == 0
            assert fits, f"input {key} has no windows of {TIMING.window_ns} ns with bins of {TIMING.bin_ns} ns"
        try:
            config.any_field = 1
        except dataclasses.FrozenInstanceError:
            continue
        message = "its Config can be changed: make it a frozen dataclass"
        raise AssertionError(message)


def answers_are_finite(bench: Bench) -> None:
    """Each task has a row a query of its head's width, and the loss a term for it."""
    model, batch = bench.model()
    output = model(batch)
    for task, asked in batch.asked.items():
        head = model.heads[task]
        assert task in output, f"forward() says nothing of {task}"
        if head.output in ("values", "classes"):
            wanted = (len(asked.ns), head.size)
            assert tuple(output[task].shape) == wanted, f"{task} is {tuple(output[task].shape)}, asked were {wanted}"
        known = output.get(f"{task}.known")
        rows = output[task] if known is None else output[task][known]
        assert rows.isfinite().all(), f"{task} has rows that are not finite, and no '{task}.known' that says so"
    terms = model.loss(batch, output, Progress(1, 2))
    assert {"total", *batch.asked} <= set(terms), f"loss() gives {sorted(terms)}, expected total and each task"
    assert all(term.isfinite() for term in terms.values()), f"a loss is not finite: {terms}"


def one_seed_one_model(bench: Bench) -> None:
    """New parameters are drawn from torch's generator and from nothing else."""
    (first, batch), (again, _), (other, _) = (bench.model(seed=seed) for seed in (0, 0, 1))
    for task, said in answers(first, batch).items():
        assert same(said, answers(again, batch)[task]), f"{task}: one seed gives two models"
        if _trains(first):
            assert not same(said, answers(other, batch)[task]), f"{task}: two seeds give one model"


def new_sessions_leave_old_answers(bench: Bench) -> None:
    """A table that grows keeps its old rows bit for bit; sessions keep their order and rows."""
    model, batch = bench.model()
    before, known = answers(model, batch), model.sessions()
    (new,) = bench.tokens(("new",))
    model.add_sessions([tokens.info for tokens in bench.tokens()])  # those that it knows stay as they are
    assert model.sessions() == known, f"sessions that it knows come twice: {model.sessions()}"
    if bench.cls.one_session:
        return
    model.add_sessions([new.info])
    assert model.sessions() == [*known, new.id], f"it knows {model.sessions()}, expected {[*known, new.id]}"
    for task, said in answers(model, batch).items():
        assert same(said, before[task]), f"{task}: a new session changes what it says of old ones"


def other_units_are_refused(bench: Bench) -> None:
    """DataError, and before anything is changed."""
    model, _ = bench.model()
    (tokens,) = bench.tokens(("a",))
    fewer = dataclasses.replace(tokens.info, unit_id=tokens.info.unit_id[:-1], unit_columns={})
    for name, call in {
        f"{UNITS['a'] - 1} units of a session with {UNITS['a']}": lambda: model.add_sessions([fewer]),
        "the row of a session that it does not know": lambda: model.session_row("made/nobody"),
    }.items():
        try:
            call()
        except DataError:
            continue
        message = f"it takes {name}"
        raise AssertionError(message)


def state_rebuilds_it(bench: Bench) -> None:
    """``extra_state`` is JSON, and with the weights it gives the same model, also one that has adapted."""
    model, batch = bench.model()
    first = bench.tokens()[0].info
    if model.infers:
        model.calibrate([batch])
        model.own_units(first.id)
    if model.by_place:
        model.put_units(first.id, model.unit_places(first)[::-1])
    state = json.loads(json.dumps(model.extra_state()))
    torch.manual_seed(99)
    other = bench.cls(bench.config.model_config(), list(model.heads.values()), bench.config.timing)
    other.load_extra_state(state)
    other.load_state_dict(model.state_dict())
    assert other.eval().sessions() == model.sessions(), f"it knows {other.sessions()}, expected {model.sessions()}"
    for tokens in bench.tokens():
        np.testing.assert_array_equal(other.unit_row(tokens.info), model.unit_row(tokens.info), err_msg=tokens.id)
    for task, said in answers(model, batch).items():
        assert same(said, answers(other, batch)[task]), f"{task}: the model that was rebuilt says something else"


def a_window_does_not_see_its_batch(bench: Bench) -> None:
    """What stands in other windows of a batch changes no answer: their spikes are replaced by none."""
    model, batch = bench.model()
    for key, tokens in batch.inputs.items():
        assert tokens.offset is not None, f"input {key} is not packed"
    first = {task: int(asked.offset[1]) for task, asked in batch.asked.items()}
    before, changed = answers(model, batch), _with_others_silent(batch)
    for task, said in answers(model, changed).items():
        if model.heads[task].output not in ("values", "classes", "counts"):
            continue
        n = first[task]
        torch.testing.assert_close(said[:n], before[task][:n], rtol=1e-4, atol=1e-5, equal_nan=True, msg=task)


def _with_others_silent(batch: Batch) -> Batch:
    """The batch whose windows but the first have other numbers in whatever columns hold counts or weights of tokens."""
    inputs = {}
    for key, tokens in batch.inputs.items():
        columns, rows = dict(tokens.columns), int(tokens.offset[1])
        for name in ("counts", "count", "patch", "series"):
            if name in columns:
                columns[name] = torch.cat([columns[name][:rows], torch.zeros_like(columns[name][rows:])])
        inputs[key] = dataclasses.replace(tokens, columns=columns)
    return dataclasses.replace(batch, inputs=inputs)


def no_weight_no_influence(bench: Bench) -> None:
    """Not even NaN, where a query has weight 0."""
    model, batch = bench.model()
    asked = {}
    for spoil in (False, True):
        own = {}
        for task, a in batch.asked.items():
            weight = (torch.arange(a.weight.numel()).reshape(a.weight.shape) % 3 > 0).to(a.weight.dtype)
            nonsense = torch.nan if a.target.is_floating_point() else 255
            kept = weight if weight.ndim >= a.target.ndim else weight[:, None]
            target = torch.where(kept > 0, a.target, nonsense).to(a.target.dtype) if spoil else a.target
            own[task] = dataclasses.replace(a, weight=weight, target=target)
        torch.manual_seed(5)
        changed = dataclasses.replace(batch, asked=own)
        asked[spoil] = model.loss(changed, model(changed), Progress(1, 2))
    for key, term in asked[False].items():
        assert torch.equal(term, asked[True][key]), f"loss {key} is {asked[True][key]:g}, was {term:g} without nonsense"


def an_evaluation_never_reads_the_truth(bench: Bench) -> None:
    """Other targets change no answer."""
    model, batch = bench.model()
    before = answers(model, batch)
    other = {
        task: dataclasses.replace(a, target=a.target + 3.0 if a.target.is_floating_point() else (a.target + 1) % 2)
        for task, a in batch.asked.items()
    }
    for task, said in answers(model, dataclasses.replace(batch, asked=other)).items():
        assert same(said, before[task]), f"{task}: it answers otherwise where the truth is another"


def rows_are_there_or_have_a_reason(bench: Bench) -> None:
    """``why_not`` is empty for the protocols that it has, and one line for each of the others."""
    model, _ = bench.model()
    rows_of(model, model.sessions()[0])


def rows_of(model: Model, session: str) -> None:
    """The same of a model that knows a session."""
    for protocol in PROTOCOLS:
        why = model.why_not(protocol, session)
        assert (why == "") == (protocol in model.protocols), f"of {protocol} it says '{why}', it has {model.protocols}"
        assert "\n" not in why, f"of {protocol} it says several lines"
    has = bool(model.identity_parameters([session]))
    assert has == ("identity_only" in model.protocols), "identity_only is a row where there are identity parameters"


def numbers_of(parts: Sequence[Part]) -> set[tuple[int, int]]:
    """The rows of all parameters that parts are of."""
    rows = [(part.parameter, range(len(part.parameter))[part.rows or slice(None)]) for part in parts]
    return {(id(p), row) for p, own in rows for row in own}


def identity_is_all_that_moves(bench: Bench) -> None:
    """Under an optimizer with momentum and weight decay: of the new session all, of everything else not a bit."""
    if "identity_only" not in bench.cls.protocols:
        return
    names = ("a",) if bench.cls.one_session else ("a", "b")
    model, batch = bench.model(names)
    session = model.sessions()[-1]
    identity = model.identity_parameters([session])
    everything = numbers_of([Part(p) for p in model.parameters()])
    per_session = [numbers_of(model.identity_parameters([s])) for s in model.sessions()]
    assert all(numbers <= everything for numbers in per_session), "an identity parameter is none of the model's"
    shared = sum(map(len, per_session)) - len(set.union(*per_session))
    assert not shared, f"{shared} rows belong to two sessions"
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    config = OptimConfig(lr=1e-2, weight_decay=0.1, schedule="constant", steps=3)
    model.train()
    with only(model, identity):
        optimizer = build_optimizer(model, config)
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(batch, model(batch), Progress(1, 2))["total"].backward()
            optimizer.step()
        optimizer.catch_up()
    model.eval()
    own = numbers_of(identity)
    for key, parameter in model.named_parameters():
        changed = (parameter != before[key]).reshape(len(parameter), -1).any(1).nonzero().flatten().tolist()
        others = {(id(parameter), row) for row in changed} - own
        assert not others, f"{len(others)} rows of {key} moved, which are not of {session}"


def stopped_runs_go_on(bench: Bench) -> None:
    """Stopped at its first checkpoint, a training ends in the bytes of one that was not."""

    def stop(told: Mapping) -> None:
        if (told["event"], told.get("step")) == ("checkpoint", 2):
            raise Stopped

    model, _ = bench.model()
    if not _trains(model):
        return
    whole = bench.train("whole")
    try:
        bench.train("stopped", on_event=stop)
    except Stopped:
        pass
    else:
        message = "no checkpoint was written at step 2"
        raise AssertionError(message)
    result = bench.train("stopped", resume="must")
    assert result.resumed_from == 2, f"it went on from step {result.resumed_from}, stopped at 2"
    again = bytes_of(bench.folder / "stopped")
    for name, content in bytes_of(bench.folder / "whole").items():
        assert again[name] == content, f"{name} differs from that of a run that was not stopped"
    assert result.scores == whole.scores, f"it scores {result.scores}, without a stop {whole.scores}"
    assert load_run(bench.folder / "stopped").model.sessions() == model.sessions()


def unobserved_time_changes_nothing(bench: Bench) -> None:
    """Spikes and behaviour in time that nobody recorded reach no weight and no score."""
    clean, noisy = bench.train("clean"), bench.train("noisy", noise=True)
    weights = [bytes_of(bench.folder / name)["model.safetensors"] for name in ("clean", "noisy")]
    assert weights[0] == weights[1], "what stands in time that was not observed changes the weights"
    assert clean.scores == noisy.scores, f"it changes the scores: {noisy.scores}, {clean.scores} without"
