"""The laws of a kind of question, of an entry of the catalogue, and of a metric."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path

import numpy as np

from spiketok.recording.metrics import measures, why_no_metric
from spiketok.settings import build
from spiketok.sources.catalogue.base import Dataset

Laws = Iterator[tuple[str, Callable[[Path], None]]]


# ---- tasks ----------------------------------------------------------------------------------------------------------


def laws_of_task(cls: type) -> Laws:
    """By name, each law of a kind of question; it is asked of a model that serves it."""
    yield "it says what it is", lambda _: task_says_what_it_is(cls)
    yield "it is asked, learned and scored", lambda folder: task_is_asked(cls, folder)
    yield "time that was not observed changes no truth", lambda folder: task_ignores_what_nobody_recorded(cls, folder)


def task_says_what_it_is(cls: type) -> None:
    """Metrics with titles, and settings that all have defaults."""
    from spiketok.training.tasks import why_no_task

    fault = why_no_task(cls)
    assert not fault, fault
    assert is_dataclass(cls.Config) and build(cls.Config, {}, f"task.{cls.kind}") == cls.Config()
    if isinstance(cls.metrics, tuple):
        assert cls.metrics, "it has no metric"
        assert set(cls.metrics) <= set(cls.titles), f"no title of {', '.join(set(cls.metrics) - set(cls.titles))}"
    assert re.fullmatch(r"[a-z][a-z0-9_-]*", cls.kind), f"kind is '{cls.kind}': a word of small letters"


def _bench(cls: type, folder: Path):
    """The sessions of the laws, and a small model that answers questions of this kind."""
    from spiketok.models import MODELS
    from spiketok.testing.models import Bench

    kind = cls.like or cls.kind
    name = next((name for name in ("ndt1", *MODELS.builtin) if kind in MODELS[name].tasks), None)
    assert name is not None, f"no model answers '{cls.kind}': let it be answered like a built-in kind (Task.like)"
    settings = {"dim": 16, "heads": 2, "hidden": 24} if name == "ndt1" else {}
    return Bench(name, settings, folder, [f"tasks=['{cls.kind}']"])


def task_is_asked(cls: type, folder: Path) -> None:
    """A model trains on it; the score has its metrics, finite, and a checkpoint gives the same task back."""
    from spiketok.training.checkpoints import load_run
    from spiketok.training.tasks.decode import Prediction, TargetSpec

    bench = _bench(cls, folder)
    result = bench.train("run")
    for session, by_task in result.scores.items():
        (score,) = by_task.values()
        run = load_run(folder / "run")
        (task,) = run.tasks
        lacking = [name for name in task.metrics if name not in score]
        assert not lacking, f"the score of {session} has no {', '.join(lacking)}: {sorted(score)}"
        head = score[task.metrics[0]]
        assert head is not None and np.isfinite(head), f"{task.metrics[0]} of {session} is {head}"
    state = json.loads(json.dumps(task.to_dict()))
    again = type(task).from_dict(state, task.config)
    assert json.loads(json.dumps(again.to_dict())) == state, "from_dict(to_dict()) is another task"
    assert again.head() == task.head() and again.name == task.name, f"{again.head()} is not {task.head()}"
    assert task.name.split(":")[0] == cls.kind, f"a question of it is called {task.name}"
    if task.head().output == "values":
        assert isinstance(getattr(task, "target", None), TargetSpec), "a task of values has its TargetSpec as target"
        found = [answer for answers in result.answers.values() for answer in answers.values()]
        assert all(isinstance(answer, Prediction) for answer in found), "answers of values are a decode.Prediction"


def task_ignores_what_nobody_recorded(cls: type, folder: Path) -> None:
    """Other behaviour and other spikes in unobserved time change neither what is learned nor what is scored."""
    from spiketok.testing.models import unobserved_time_changes_nothing

    unobserved_time_changes_nothing(_bench(cls, folder))


# ---- datasets -------------------------------------------------------------------------------------------------------


def laws_of_dataset(entry: Dataset) -> Laws:
    """By name, each law of an entry of the catalogue."""
    yield "it is whole", lambda _: entry_is_whole(entry)
    yield "its names lead to it", lambda _: entry_is_found(entry)


def entry_is_whole(dataset: Dataset) -> None:
    """What the list and the page of a dataset need, and quirks with an id each."""
    assert dataset.title and dataset.recording, "it has no title, or does not say what was recorded"
    assert bool(dataset.dandiset) == (dataset.host == "dandi"), f"host is {dataset.host}, dandiset {dataset.dandiset!r}"
    assert bool(dataset.record) == (dataset.host in ("zenodo", "s3")), (
        f"host is {dataset.host}, record {dataset.record!r}"
    )
    assert re.fullmatch(r"[a-z][a-z0-9_]*", dataset.name), f"'{dataset.name}' is no name: small letters, digits and _"
    assert len({q.id for q in dataset.quirks}) == len(dataset.quirks), "two quirks have one id"
    for quirk in dataset.quirks:
        assert re.fullmatch(r"[a-z0-9_-]+", quirk.id) and quirk.text and quirk.source, f"quirk {quirk} says too little"
    stated = dataset.doi is None or dataset.citation is None or dataset.doi in dataset.citation
    assert stated, f"the citation does not hold the DOI {dataset.doi}"
    json.dumps(asdict(dataset))


def entry_is_found(dataset: Dataset) -> None:
    """By its name and its aliases, as ``spiketok fetch`` looks for them, without the network."""
    from spiketok.sources.catalogue import catalogued, resolve

    for name in (dataset.name, *dataset.aliases):
        found = catalogued(name)
        assert found == dataset, f"'{name}' leads to {found.name}"
        assert resolve(name).name == name


# ---- metrics --------------------------------------------------------------------------------------------------------


def laws_of_metric(metric: Callable) -> Laws:
    """By name, each law of a metric."""
    yield "it says what it compares", lambda _: _says(metric)
    yield "higher is better", lambda _: metric_prefers_the_truth(metric)
    yield "there is no score of nothing", lambda _: metric_of_nothing_is_nan(metric)
    yield "it changes nothing in place", lambda _: metric_changes_nothing(metric)


def _says(metric: Callable) -> None:
    fault = why_no_metric(metric)
    assert not fault, fault
    assert metric.__doc__, "it has no docstring"


def _case(metric: Callable, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The arguments, in their order: an answer with some noise in it, and the truth."""
    rng = np.random.default_rng(0)
    if measures(metric) == "behaviour":
        target = rng.normal(size=(200, 2))
        return target, target + noise * rng.normal(size=target.shape)
    rate = rng.gamma(2.0, 0.5, (200, 3))
    count = rng.poisson(rate).astype(np.float64)
    return rate * np.exp(noise * rng.normal(size=rate.shape)), count


def metric_prefers_the_truth(metric: Callable) -> None:
    """The score falls as noise grows in the answer."""
    scores = [metric(*_case(metric, noise)) for noise in (0.0, 0.5, 2.0)]
    assert all(isinstance(score, float) for score in scores), f"it gives {[type(s).__name__ for s in scores]}"
    assert scores[0] > scores[1] > scores[2], f"without noise, with some, with much it scores {scores}"


def metric_of_nothing_is_nan(metric: Callable) -> None:
    """nan, never 0 and never 1."""
    first, second = _case(metric, 0.5)
    if measures(metric) == "behaviour":
        found = metric(first, second, valid=np.zeros(len(first), np.bool_))
        some = np.arange(len(first)) < 100
        other = np.where(some[:, None], second, 1e6)
        parts = metric(first, other, valid=some), metric(first[:100], second[:100])
        assert np.isclose(*parts), f"what is not valid counts: {parts}"
    else:
        found = metric(first, np.full_like(second, np.nan))
    assert np.isnan(found), f"of nothing it scores {found}"


def metric_changes_nothing(metric: Callable) -> None:
    """Its arguments are as before."""
    first, second = _case(metric, 0.5)
    kept = first.copy(), second.copy()
    metric(first, second)
    assert np.array_equal(first, kept[0]) and np.array_equal(second, kept[1]), "it changes its arguments"
