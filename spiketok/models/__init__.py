"""The models, by the name that the command line knows; a bare ``train`` takes the first that the shards serve.

Other packages have theirs by entry points of the group ``spiketok.models`` (:mod:`spiketok.plugins`).
"""

from __future__ import annotations

from spiketok.models.apst import Apst
from spiketok.models.base import Model
from spiketok.models.batch import Timing
from spiketok.models.capoyo import Capoyo
from spiketok.models.ldns import Ldns
from spiketok.models.lfads import Lfads
from spiketok.models.linear import Linear
from spiketok.models.mtm import Mtm
from spiketok.models.mtm_bwb import MtmBwb
from spiketok.models.ndt1 import Ndt1
from spiketok.models.ndt2 import Ndt2
from spiketok.models.ndt3 import Ndt3
from spiketok.models.ndt_stitch import NdtStitch
from spiketok.models.neds import Neds
from spiketok.models.neuroformer import Neuroformer
from spiketok.models.nuclr import Nuclr
from spiketok.models.onset import Onset
from spiketok.models.possm import Possm
from spiketok.models.poyo import Poyo
from spiketok.models.poyo_id import PoyoId
from spiketok.models.poyo_plus import PoyoPlus
from spiketok.models.spint import Spint
from spiketok.models.stndt import Stndt
from spiketok.plugins import Registry, why_no_class

_BUILT_IN = {
    model.name: model
    for model in (
        *(Poyo, Ndt1, Linear, Spint, Stndt, Ndt2, Ndt3, Mtm, Neds, Lfads),
        *(PoyoPlus, Capoyo, Ldns, Possm, Neuroformer, Nuclr, Apst, Onset),
        *(PoyoId, NdtStitch, MtmBwb),
    )
}


def why_no_model(thing: object, module: object = None) -> str:
    """Why something is no model that the trunk could use; empty where it is one."""
    fault = why_no_class(thing, Model, ("name", "Config", "sizes"))
    if fault:
        return fault
    if not thing.sizes:
        return "has no sizes, expected at least one"
    if default := set(thing.default_tasks) - set(thing.tasks):
        return f"asks {', '.join(sorted(default))} by default, which is not among its tasks"
    for values in thing.sizes.values():  # an error in one is this model's, and told as such
        thing.inputs(thing.Config(**values), thing.default_tasks, Timing(10**9, 20_000_000))
    return ""


MODELS = Registry("model", _BUILT_IN, why_no_model, by_module=True)
