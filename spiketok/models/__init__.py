"""The models, by the name that the command line knows."""

from __future__ import annotations

from spiketok.models.linear import Linear
from spiketok.models.ndt1 import Ndt1
from spiketok.models.poyo import Poyo

MODELS = {model.name: model for model in (Linear, Ndt1, Poyo)}
