"""The kinds of question by name: one file a kind, one name here.

Other packages have theirs by entry points of the group ``spiketok.tasks`` (:mod:`spiketok.plugins`).
"""

from __future__ import annotations

from spiketok.plugins import Registry, why_no_class
from spiketok.training.tasks.base import Task
from spiketok.training.tasks.classify import Classify
from spiketok.training.tasks.decode import Decode
from spiketok.training.tasks.embed import Embed
from spiketok.training.tasks.events import Events
from spiketok.training.tasks.population import Population
from spiketok.training.tasks.sequence import SequenceTask

_BUILT_IN = {task.kind: task for task in (Decode, Classify, Population, SequenceTask, Events, Embed)}


def why_no_task(thing: object, module: object = None) -> str:
    """Why something is no kind of question that a run could ask; empty where it is one."""
    fault = why_no_class(thing, Task, ("kind", "Config", "metrics", "titles"))
    if not fault and thing.like and thing.like not in _BUILT_IN:
        return f"is answered like '{thing.like}', expected one of {', '.join(_BUILT_IN)}"
    if not fault:
        thing.Config()  # every setting has a default
    return fault


TASKS = Registry("task", _BUILT_IN, why_no_task, name_of=lambda task: task.kind)
