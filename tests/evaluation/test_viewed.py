"""What a page shows of answers: labels as a person reads them, scores without a sign of zero."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from spiketok.evaluation.viewed import _shown, _words
from spiketok.training.tasks.classify import Classified
from spiketok.training.tasks.sequence import Read

TASK = SimpleNamespace(name="asked", metrics=("a", "b", "c"), titles={"a": "A", "b": "B"})


def test_sequences_are_text_as_it_is_divided_and_an_empty_one_says_so():
    moments = np.array([0, 5])
    for separator, said in (("", ["(nothing)", "updown"]), (" ", ["(nothing)", "up down"])):
        answer = Read(moments, ((), ("up", "down")), (("up",), ()), ("up", "down"), separator)
        shown = _shown(TASK, answer, "s")
        assert (shown.said, shown.true) == (said, ["up", "(nothing)"])
        assert shown.time_ns.tolist() == [0, 5]


def test_classes_are_those_of_trials_that_count():
    logs = np.log([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    answer = Classified(np.arange(3), logs, np.array([0, 0, 1]), np.array([1, 1, 0], np.float32), ("left", "right"))
    shown = _shown(TASK, answer, "s")
    assert (shown.said, shown.true, shown.time_ns.tolist()) == (["left", "right"], ["left", "left"], [0, 1])


def test_scores_are_named_and_what_rounds_to_zero_has_no_sign():
    assert _words(TASK, {"a": -0.0001, "b": -0.25, "c": None}) == "A 0.000, B -0.250"
    assert _words(TASK, {"a": None}) == "no score"
