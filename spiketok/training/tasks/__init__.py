"""The kinds of question by name: one file a kind, one name here."""

from __future__ import annotations

from spiketok.training.tasks.base import Task
from spiketok.training.tasks.classify import Classify
from spiketok.training.tasks.decode import Decode
from spiketok.training.tasks.embed import Embed
from spiketok.training.tasks.events import Events
from spiketok.training.tasks.population import Population
from spiketok.training.tasks.sequence import SequenceTask

TASKS: dict[str, type[Task]] = {task.kind: task for task in (Decode, Classify, Population, SequenceTask, Events, Embed)}
