"""The models, by the name that the command line knows; a bare ``train`` takes the first that the shards serve."""

from __future__ import annotations

from spiketok.models.apst import Apst
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

MODELS = {
    model.name: model
    for model in (
        *(Poyo, Ndt1, Linear, Spint, Stndt, Ndt2, Ndt3, Mtm, Neds, Lfads),
        *(PoyoPlus, Capoyo, Ldns, Possm, Neuroformer, Nuclr, Apst, Onset),
        *(PoyoId, NdtStitch, MtmBwb),
    )
}
