"""POYO: one token a spike, compressed by cross-attention into latents, decoded at any time by queries.

Azabou et al. 2023, "A Unified, Scalable Framework for Neural Population Decoding" (NeurIPS, arXiv 2310.16046).
Reference code: neuro-galaxy/torch_brain 0.2.1, torch_brain/models/poyo.py and examples/poyo; with its weights copied
in, this model gives its outputs (tests/models/test_oracle_models.py).

What is unusual:

- a token is the sum of its unit's row and its type's row; its time enters only by rotation
  (:class:`spiketok.models.nn.RotaryTime`), and in the encoder and among the latents the *values* are turned too, and
  the result is turned back by the query's time;
- the same few latents are repeated at every latent step; their number follows from the window's length;
- a query is its session's row at a time; there is no other information on the session;
- with ``experts`` (which the reference has not) each feed-forward layer among the latents is a mixture of several,
  weighed by the session's row: a softmax over a linear map of it. A new session has the weights of the mean row until
  its own is trained. The loss has a term ``balance`` (Shazeer et al. 2017, "Outrageously large neural networks", eq. 7:
  the squared coefficient of variation of the experts' mean weights), without which one expert may serve all.

Computed otherwise than in the reference, with the same result:

- key and value of a token depend, before they are turned, on its unit and type alone: they are computed once for each
  pair that the batch holds and looked up for the tokens (600 rows instead of 20,000 for 32 windows of four sessions);
- the first latents are the same in every window, and a window's queries before they are turned: projected once.

Differs from the reference in the start of an unseen session's row: ``add_sessions`` in ``spiketok.models.perceiver``
says how.

Shape letters: B windows, D width, E width of a head, X experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from spiketok.models.base import check_range
from spiketok.models.batch import Batch, Head, Input, Progress, Timing
from spiketok.models.losses import weighted_mse
from spiketok.models.perceiver import TINY, TINY_RECIPE, Perceiver, TrunkConfig, published, window_of


@dataclass(frozen=True)
class PoyoConfig(TrunkConfig):
    """The defaults are the reference's 1.3M model (examples/poyo/configs/model/poyo_1.3M.yaml).

    Args:
        experts: feed-forward layers side by side in each layer among the latents, weighed by the session's row; 1 for
            the reference's. balance: what the term of the loss counts that keeps them all in use.
    """

    experts: int = 1
    balance: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[1, inf)", "experts")
        check_range(self, "[0, inf)", "balance")


class Poyo(Perceiver):
    """Reads per-spike tokens, decodes behaviour at the queries' times."""

    name: ClassVar[str] = "poyo"
    checked: ClassVar[str] = "1 recorded configuration of its original: outputs, losses; torch_brain in 'make oracle'"
    Config: ClassVar[type] = PoyoConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": TINY,
        "1.3M": {},  # single sessions, NLB
        "11.8M": {"dim": 128, "depth": 24, "cross_heads": 4, "latents_per_step": 32},  # POYO-mp, POYO-1
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": TINY_RECIPE,
        # The published training (examples/poyo of torch_brain: configs/defaults.yaml, train.py): LAMB, 3.125e-5 a
        # window, weight decay 1e-4, constant for half of the steps then cosine, 1000 epochs, batch 128.
        "*": published(128, 1000, {"min": 30, "mode": 100, "max": 300, "peak": 4.0}),
    }

    @classmethod
    def inputs(cls, config: PoyoConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {"spikes": Input("per-spike")}

    def __init__(self, config: PoyoConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task = self.head("values").task
        self.make_rows(config.dim, config.init_std)
        self.make_trunk(config, experts=config.experts)
        self.readout = nn.Linear(config.dim, self.head("values").size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        asked = batch.asked[self.task]
        columns, token_length = batch.inputs["spikes"].packed()
        key_value = self.spike_projections(columns["unit"], columns["type"])
        weight_BX = self.expert_weights(batch.session_B) if self.config.experts > 1 else None
        latents = self.encode(key_value, columns["time"], token_length, batch.window_ns, weight_BX)
        session = self.session_table(batch.session_B)
        y = self.decode(latents, session, window_of(asked), asked.time, asked.offset.diff().tolist())
        return {self.task: self.readout(y)} | ({} if weight_BX is None else {"experts": weight_BX})

    def last_layers(self) -> dict[str, nn.Module]:
        return {self.task: self.readout}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Weighted MSE of the normalised behaviour; with experts their balance beside it."""
        asked = batch.asked[self.task]
        mse = weighted_mse(output[self.task].float(), asked.target, asked.weight)
        if "experts" not in output:
            return {self.task: mse, "total": mse}
        balance = self._balance(output["experts"], len(set(batch.sessions)))
        return {self.task: mse, "balance": balance, "total": mse + self.config.balance * balance}

    def _balance(self, weight_BX: Tensor, n_sessions: int) -> Tensor:
        """The squared coefficient of variation of the mean weights: 0 where all experts serve as much.

        A batch of one session, as in an adaptation, does not tell how sessions share the experts: 0.
        """
        if n_sessions < 2:
            return weight_BX.new_zeros(())
        return weight_BX.shape[1] * weight_BX.mean(0).square().sum() - 1
