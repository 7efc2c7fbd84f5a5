"""POYO whose units have no rows: spikes go in one by one, and who a unit is follows from calibration.

A hybrid that no paper describes: the trunk of POYO (Azabou et al. 2023, arXiv 2310.16046, see ``poyo``) with, in place
of its unit rows, identities that are inferred, as SPINT does (Le et al. 2025, arXiv 2507.08402, see ``spint``).
Reference code: of the trunk neuro-galaxy/torch_brain 0.2.1, of the encoder of counts shlizee/SPINT; of the hybrid none.

What is unusual:

- ``model.identity`` says what a unit is known by: ``"counts"``, SPINT's encoder over calibration trials of counts;
  ``"spikes"``, learned queries that attend over the unit's own calibration spikes; ``"vectors"``, a fixed vector from
  a file (``spiketok embed``) through a linear layer;
- nothing belongs to a session, so its query is one for all sessions; an unseen session needs unlabelled calibration and
  no gradient (``zero_gradient``);
- in training the trials, or the stretch of spikes, are drawn anew for each batch from all of the training time, so that
  an identity comes from other time than the window; in evaluation the first trials are read, and of the spikes several
  stretches that lie evenly over the calibration, whose identities are averaged;
- an identity is taken among those of its session: mean 0 and variance 1 over its units in each channel, times a learned
  gain that begins at the spread of POYO's rows. What comes out of the encoders differs little from unit to unit at
  first (a hundredth of that spread), and a training then stays at the mean behaviour for hundreds of steps;
- without calibration (``zero_shot``) all units are the same.

Shape letters: B windows, N units, L tokens, P points of a trial, Q query times, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range
from spiketok.models.batch import Batch, Head, Input, Progress, Timing, Tokens
from spiketok.models.inferred import (
    VECTORS,
    Inferred,
    PoolSpikes,
    ReadVectors,
    check_trials,
    check_vectors,
    mean_over_trials,
    spikes_of,
    stack,
)
from spiketok.models.losses import weighted_mse
from spiketok.models.perceiver import TINY, TINY_RECIPE, Trunk, TrunkConfig, published, window_of


@dataclass(frozen=True)
class PoyoIdConfig(TrunkConfig):
    """POYO's numbers, and how a unit is told.

    Args:
        identity: ``"counts"``, ``"spikes"`` or ``"vectors"``.
        identity_layers: linear layers of the trial encoder, and of the network behind a mean or a pool.
        calibration_trials: of ``"counts"``, the most trials that are read. calibration_length: P.
        spikes_block: of ``"spikes"``, spikes of all units that are read at once; in training one such stretch.
        spikes_blocks: stretches that an evaluation reads at most. spikes_queries: learned queries over a unit's spikes.
        vectors: of ``"vectors"``, sha256 of the file; set by ``train --vectors``. vector_dim: width of its vectors.
    """

    identity: Literal["counts", "spikes", "vectors"] = "counts"
    identity_layers: int = 3
    calibration_trials: int = 24
    calibration_length: int = 64
    spikes_block: int = 4096
    spikes_blocks: int = 8
    spikes_queries: int = 4
    vectors: str = ""
    vector_dim: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        counted = ("identity_layers", "calibration_trials", "spikes_block", "spikes_blocks", "spikes_queries")
        check_range(self, "[1, inf)", *counted)
        check_range(self, "[2, inf)", "calibration_length")
        check_vectors(self)
        if (self.identity == "vectors") != bool(self.vector_dim):
            message = (
                f"model.identity is '{self.identity}' and model.vector_dim {self.vector_dim}: vectors, and only they, "
                "come from a file: spiketok embed RUN, then train --model poyo_id --set model.identity=vectors "
                "--vectors FILE"
            )
            raise UsageError(message)


class PoyoId(Inferred, Trunk):
    """Reads per-spike tokens and calibration of their session, decodes behaviour at the queries' times."""

    name: ClassVar[str] = "poyo_id"
    checked: ClassVar[str] = "its trunk is poyo's, its encoder of counts spint's; the pool over spikes a slow twin"
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "zero_gradient", "full")
    Config: ClassVar[type] = PoyoIdConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": TINY,
        "1.3M": {},
        "11.8M": {"dim": 128, "depth": 24, "cross_heads": 4, "latents_per_step": 32},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": TINY_RECIPE,
        "*": published(128, 1000, {"min": 30, "mode": 100, "max": 300, "peak": 4.0}),
    }

    @classmethod
    def inputs(cls, config: PoyoIdConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        spikes = Input("per-spike")
        if config.identity == "vectors":
            return {"spikes": spikes}
        if config.identity == "spikes":  # the same shard, cut once a session
            return {"spikes": spikes, "calibration": Input("per-spike", per="session")}
        trials = {"bin_ns": timing.bin_ns, "length": config.calibration_length, "choose": "all", "resample": "cubic"}
        most = config.calibration_trials
        return {"spikes": spikes, "calibration": Input("calibration", trials, per="session", most=most, choose="block")}

    def __init__(self, config: PoyoIdConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task = self.head("values").task
        self.make_inferred((VECTORS,) if config.identity == "vectors" else ("calibration",))
        self.make_trunk(config)
        self.session = nn.Parameter(torch.randn(1, config.dim) * config.init_std)
        self.gain = nn.Parameter(torch.full((config.dim,), config.init_std))
        self.readout = nn.Linear(config.dim, self.head("values").size)
        dim, layers = config.dim, config.identity_layers
        if config.identity == "vectors":
            self.read_vectors = ReadVectors(config.vector_dim, dim)
        elif config.identity == "counts":
            self.encode_trial = stack(config.calibration_length, dim, dim, layers)
            self.to_identity = stack(dim, dim, dim, layers)
        else:
            self.pool = PoolSpikes(dim, config.spikes_queries)
            self.to_identity = stack(config.spikes_queries * dim, dim, dim, layers)

    # ---- identities -----------------------------------------------------------------------------------------------

    def identify(self, given: Sequence[Mapping[str, Tokens]], n_units: Sequence[int]) -> list[Tensor]:
        with torch.autocast(self.gain.device.type, enabled=False):  # units that hardly differ would round to one
            full = [{name: _full(tokens) for name, tokens in own.items()} for own in given]
            return [self.gain * among(own) for own in self._encoded(full, n_units)]

    def _encoded(self, given: Sequence[Mapping[str, Tokens]], n_units: Sequence[int]) -> list[Tensor]:
        """``[N, D]`` for each session, each unit by itself."""
        if self.config.identity == "vectors":
            return self.read_vectors([tokens[VECTORS] for tokens in given], n_units)
        calibration = [tokens["calibration"] for tokens in given]
        if self.config.identity == "counts":
            mean = mean_over_trials(self.encode_trial, calibration, n_units)
            return list(self.to_identity(mean).split(list(n_units)))
        return [self._from_spikes(tokens, n) for tokens, n in zip(calibration, n_units, strict=True)]

    def _from_spikes(self, tokens: Tokens, n_units: int) -> Tensor:
        """``[N, D]``: the mean over the stretches that are read."""
        spikes, size = spikes_of(tokens), self.config.spikes_block
        room = max(len(spikes[0]) - size, 0)  # the last place where a stretch may begin
        if self.training:
            starts = torch.randint(room + 1, (1,)).tolist()
        else:
            n = min(self.config.spikes_blocks, room // size + 1)
            starts = [room * k // max(n - 1, 1) for k in range(n)]
        found = []
        for first in starts:
            time, unit, stretch = (column[first : first + size] for column in spikes)
            found.append(self.to_identity(self.pool(time, unit, stretch, n_units)))
        return torch.stack(found).mean(0)

    def check_given(self, session: str, given: Mapping[str, Tokens]) -> None:
        n_units = len(self.units[session])
        if self.config.identity == "counts":
            check_trials(session, given["calibration"], self.config.calibration_length, n_units)
        elif self.config.identity == "spikes":
            unit = given["calibration"].columns["unit"]
            if len(unit) and int(unit.max()) >= n_units:
                message = f"{session}: calibration spikes of unit {int(unit.max())}, the model knows {n_units} units"
                raise DataError(message)

    # ---- the computation ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        asked = batch.asked[self.task]
        identities = self.session_identities(batch)
        columns, token_length = batch.inputs["spikes"].packed()
        device = columns["unit"].device
        first = torch.tensor([0, *accumulate(map(len, identities))], device=device)[batch.present_B]
        length = torch.tensor(token_length, device=device)
        unit = torch.repeat_interleave(first, length, output_size=len(columns["unit"])) + columns["unit"]
        identity = torch.cat(identities)
        key_value = self.projections(lambda row: F.embedding(row, identity), unit, columns["type"])
        latents = self.encode(key_value, columns["time"], token_length, batch.window_ns)
        window = window_of(asked)
        y = self.decode(latents, self.session, torch.zeros_like(window), asked.time, asked.offset.diff().tolist())
        return {self.task: self.readout(y)}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Weighted MSE of the normalised behaviour."""
        asked = batch.asked[self.task]
        mse = weighted_mse(output[self.task].float(), asked.target, asked.weight)
        return {self.task: mse, "total": mse}


def _full(tokens: Tokens) -> Tokens:
    """The tokens with their floating columns as float32."""
    columns = {key: c.float() if c.is_floating_point() else c for key, c in tokens.columns.items()}
    return Tokens(columns, tokens.offset, tokens.valid_BL)


def among(identity: Tensor) -> Tensor:
    """``[N, D]`` with mean 0 and variance 1 over the units of a session; 0 where they are all the same."""
    apart = identity - identity.mean(0)
    return apart / (apart.square().mean(0) + 1e-8).sqrt()
