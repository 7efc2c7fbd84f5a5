"""APST: units told apart by a few numbers of what they did while the animal did something; no weight is a session's.

By HsinyuanZhang; no paper is known. Reference code: HsinyuanZhang/APST (decoder, encoder) and HsinyuanZhang/iBCI
(profiles of FALCON's data); a transcription of both by hand gave recorded numbers, which this model and
``spiketok.recording.profiles`` give too (tests/references/apst.py).

What is unusual:

- a unit's profile is computed in closed form from labelled time: how far its rate is from its mean while the behaviour
  goes one way or the other, in the first four directions of the units that were trained on. Basis and scale are fitted
  with the run and never again, so a new session needs labelled calibration and one pass: no gradient, no weight of its
  own. It takes several sessions to learn what a profile means;
- the profile enters twice: it scales and shifts (FiLM) what an encoder makes of the unit's calibration trials, and it
  stands in each of the unit's tokens;
- a token is a unit in a bin: a causal convolution of its counts, its identity, its profile. A few learned slots attend
  to the tokens of a bin, so the order of the units changes nothing and their number is free;
- causal blocks over bins see a few bins back and know no position: a key's logit falls by a trained slope with its age.

Differs from the reference:

- one stage: the encoder of calibration trials is trained with the rest; the reference trains it first, beside another
  decoder, and keeps its moving average. Weights have no moving average here;
- a profile in training is of one of ``profile_draws`` stretches of ``profile_s`` seconds of the session's training
  time, drawn a batch, so that the model meets profiles as noisy as those of a short calibration; in evaluation of a
  trained session it is of all its training time. The reference has one profile, of as many trials as a new session
  gives (``profile_draws=0``: one, of all training time);
- behaviour is normalised by the run, so its mean is taken off before states are made of it; ``rectified`` states are
  what lies above the mean;
- every bin of a window is learned from, but for ``last_bin``; in the first bins of a window less of the past is seen;
- bins and units that were not recorded are seen by no one; the reference knows left-padded bins and padded units;
- the basis of ``signed`` profiles has fixed signs; of the half-lives of its eight heads six are the reference's and two
  are flat, since the code that scales them was not read; its identity is as wide as the encoder of trials.

Shape letters: B windows, T bins, N units, C components, M calibration trials, P points of a trial, p numbers of a
profile, E width of an identity, D width, H heads, S slots, Q query times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range, session_of
from spiketok.models.batch import (
    Batch,
    Head,
    Input,
    Progress,
    Stretch,
    Timing,
    Tokens,
    bins_of,
    observed_counts,
    query_bin,
)
from spiketok.models.binned import COUNTS, BinnedModel
from spiketok.models.losses import weighted_mse
from spiketok.models.nn import module_key
from spiketok.notes import note_once
from spiketok.recording import profiles

NUMBERS = 4  # of a profile, at most
LEAST_SESSIONS = 2
CHANNELS = 16  # of the convolution

# The one complete recipe of the reference: DANDI 688, 24 passes of 3165 steps, batches of one session.
_OPTIM = {
    "name": "adamw",
    "lr": 3e-4,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_steps": 3165,
    "steps": 24 * 3165,
    "clip": 1.0,
    "accelerator": "auto",
}
_HALF_LIVES = (0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 0.0, 0.0)


def _published(window_bins: int) -> dict[str, dict]:
    """Each bin is answered by the window that ends with it."""
    data = {"window_ms": 20.0 * window_bins, "eval_step_ms": 20.0, "bin_ms": 20.0, "batch_size": 32}
    return {"data": data | {"stitch": "causal"}, "optim": _OPTIM}


@dataclass(frozen=True)
class ApstConfig:
    """The defaults are the reference's for DANDI 688 and FALCON M2, but for the profile.

    Args:
        dim: D. heads, hidden: of the blocks over bins. reach: by block, how many bins it sees, its own the last.
        slots: S. slot_heads, slot_hidden: of the attention to units. kernel: bins of the convolution of counts.
        read_out: width of the read-out's hidden layer.
        identity: E, and the width of the encoder of calibration trials. film: hidden width of the profile's FiLM.
        calibration_trials: the most trials that are read, M. calibration_length: P.
        profile: ``"signed"``: states are softplus of each component and of its negative; ``"rectified"``: what is above
            0 of each; ``"cosine"``: the fit of a cosine to the counts of trials.
        profile_bins: bins of a row of a profile. profile_prior: rows of no response that are added.
        profile_draws, profile_s: stretches of training time, and their seconds, of which profiles of training are.
        angle: for ``"cosine"``, the trial column of angles in radians. angle_bins: which bins after a trial's start.
        half_life_s: by head, the age at which a key counts half at the start, 0 for no fall; one value is for all.
        unit_dropout: share of a window's units that are not seen in training.
        output_ema: share of the answer before in each answer of a window, in evaluation.
        last_bin: learn from the last bin of a window alone.
    """

    dim: int = 256
    heads: int = 8
    hidden: int = 512
    reach: tuple[int, ...] = (13, 12, 12, 12)
    slots: int = 8
    slot_heads: int = 8
    slot_hidden: int = 1024
    kernel: int = 5
    read_out: int = 128
    identity: int = 64
    film: int = 8
    calibration_trials: int = 33
    calibration_length: int = 100
    profile: Literal["signed", "rectified", "cosine"] = "signed"
    profile_bins: int = 5
    profile_prior: float = 10.0
    profile_draws: int = 16
    profile_s: float = 30.0
    angle: str = ""
    angle_bins: tuple[int, int] = (5, 30)
    half_life_s: tuple[float, ...] = (25.0,)
    unit_dropout: float = 0.1
    output_ema: float = 1 / 3
    last_bin: bool = False

    def __post_init__(self) -> None:
        counted = ("dim", "heads", "hidden", "slots", "slot_heads", "slot_hidden", "kernel", "read_out", "identity")
        check_range(self, "[1, inf)", *counted, "film", "calibration_trials", "profile_bins")
        check_range(self, "[2, inf)", "calibration_length")
        check_range(self, "[0, inf)", "profile_draws")
        check_range(self, "(0, inf)", "profile_s", "profile_prior")
        check_range(self, "[0, 1)", "unit_dropout", "output_ema")
        for name in ("heads", "slot_heads"):
            if self.dim % getattr(self, name):
                message = f"model.dim is {self.dim}, which {getattr(self, name)} heads (model.{name}) do not divide"
                raise UsageError(message)
        if not self.reach or min(self.reach) < 1:
            message = f"model.reach is {self.reach}: need a number of bins, at least 1, for each block"
            raise UsageError(message)
        if len(self.half_life_s) not in (1, self.heads) or min(self.half_life_s) < 0:
            message = f"model.half_life_s is {self.half_life_s}: need 1 or {self.heads} (model.heads), at least 0"
            raise UsageError(message)
        if (self.profile == "cosine") != bool(self.angle):
            message = (
                f"model.profile is '{self.profile}' and model.angle '{self.angle}': 'cosine' needs the trial column "
                "of the angles, the others read none"
            )
            raise UsageError(message)
        if self.profile == "cosine" and self.profile_draws:
            message = f"model.profile_draws is {self.profile_draws}: profiles by trials have no draws, set it to 0"
            raise UsageError(message)
        if not 0 <= self.angle_bins[0] < self.angle_bins[1]:
            message = f"model.angle_bins is {self.angle_bins}: must be from 0 on and go up"
            raise UsageError(message)

    def n_states(self, n_components: int) -> int:
        """Numbers of a raw response."""
        return {"signed": 2 * n_components, "rectified": n_components, "cosine": NUMBERS}[self.profile]


class _Profiles(nn.Module):
    """The profiles of one session's units, as buffers; zeros (those of the mean unit) while nothing is fitted."""

    whole: Tensor  # [N, p] of all labelled time that the model was given
    drawn: Tensor  # [draws, N, p] of stretches of it

    def __init__(self, n_units: int, n_numbers: int, draws: int) -> None:
        super().__init__()
        self.register_buffer("whole", torch.zeros(n_units, n_numbers))
        self.register_buffer("drawn", torch.zeros(draws, n_units, n_numbers))


class _Slots(nn.Module):
    """Learned slots attend to the units of a bin, then a feed-forward layer; both add to the normalised slots."""

    def __init__(self, config: ApstConfig) -> None:
        super().__init__()
        dim, self.heads = config.dim, config.slot_heads
        self.slots = nn.Parameter(0.02 * torch.randn(config.slots, dim))
        self.norm_slots, self.norm_units = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm_hidden = nn.LayerNorm(dim)
        self.to_hidden, self.from_hidden = nn.Linear(dim, config.slot_hidden), nn.Linear(config.slot_hidden, dim)
        self.project = nn.Linear(config.slots * dim, dim)

    def forward(self, token_GND: Tensor, seen_GN: Tensor) -> Tensor:
        """``[G, D]`` of bins; one in which no unit was seen has the slots alone."""
        slots = self.norm_slots(self.slots)
        query = self.to_query(slots).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # [H, S, e]
        key_value = self.to_key_value(self.norm_units(token_GND)).unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # [G, H, N, e]
        any_G = seen_GN.any(-1)
        mask = (seen_GN | ~any_G[:, None])[:, None, None]
        out = F.scaled_dot_product_attention(query.expand(len(key), -1, -1, -1), key, value, attn_mask=mask)
        out = out.transpose(1, 2).flatten(-2) * any_G[:, None, None]
        slots = slots + self.to_out(out)  # [G, S, D]
        slots = slots + self.from_hidden(F.gelu(self.to_hidden(self.norm_hidden(slots))))
        return self.project(slots.flatten(-2))


class _Block(nn.Module):
    """Attention to the bins just before, then a feed-forward layer; normalised before, both add to the bins."""

    def __init__(self, config: ApstConfig, reach: int) -> None:
        super().__init__()
        dim, self.heads, self.reach = config.dim, config.heads, reach
        self.norm_attention, self.norm_hidden = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.to_hidden, self.from_hidden = nn.Linear(dim, config.hidden), nn.Linear(config.hidden, dim)
        self.slope_log = nn.Parameter(torch.zeros(config.heads))

    def forward(self, x_BTD: Tensor, seen_BT: Tensor, slope_H: Tensor) -> Tensor:
        """A bin that was not seen is seen by itself alone."""
        n_bins = x_BTD.shape[1]
        bins = torch.arange(n_bins, device=x_BTD.device)
        age = bins[:, None] - bins
        near = (age >= 0) & (age < self.reach) & (seen_BT[:, None, :] | (age == 0))  # [B, T, T]
        fall = -(slope_H * self.slope_log.exp())[:, None, None] * age  # [H, T, T]
        qkv = self.to_qkv(self.norm_attention(x_BTD)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, H, T, e]
        bias = torch.where(near[:, None], fall, -torch.inf).to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x_BTD = x_BTD + self.to_out(out.transpose(1, 2).flatten(-2))
        return x_BTD + self.from_hidden(F.gelu(self.to_hidden(self.norm_hidden(x_BTD))))


class Apst(BinnedModel):
    """Reads binned counts and calibration trials of one session a batch; decodes behaviour at the queries' bins."""

    name: ClassVar[str] = "apst"
    checked: ClassVar[str] = "6 recorded files of a transcription of its original: profiles, outputs, loss, gradients"
    tasks: ClassVar[tuple[str, ...]] = ("decode",)
    default_tasks: ClassVar[tuple[str, ...]] = ("decode",)
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "profile")
    causal: ClassVar[bool] = True
    own_tables: ClassVar[tuple[str, ...]] = ("profiles",)
    Config: ClassVar[type] = ApstConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": {
            **{"dim": 64, "heads": 4, "hidden": 128, "reach": (12, 12), "slots": 4, "slot_heads": 4},
            **{"slot_hidden": 128, "read_out": 64, "identity": 32, "calibration_trials": 16, "calibration_length": 50},
        },
        "M2": {"last_bin": True},  # FALCON M2, and DANDI 688: 2-D reaches
        "M1": {  # FALCON M1: 16 muscles
            **{"reach": (25, 25, 25, 24), "calibration_trials": 4, "profile": "rectified", "profile_bins": 1},
            **{"half_life_s": _HALF_LIVES, "last_bin": True},
        },
        "H1": {  # FALCON H1: 7 velocities
            **{"reach": (75, 75, 75, 74), "calibration_trials": 3, "calibration_length": 700},
            **{"half_life_s": _HALF_LIVES, "last_bin": True},
        },
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 500.0, "bin_ms": 20.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "cosine", "steps": 1000},
        },
        "M1": _published(100),
        "H1": _published(300),
        "*": _published(50),
    }

    @classmethod
    def inputs(cls, config: ApstConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        """Counts, and the calibration trials of a session; the shard holds every trial."""
        trials = {
            "bin_ns": timing.bin_ns,
            "length": config.calibration_length,
            "choose": "all",
            "resample": "cubic",
        }
        return super().inputs(config, tasks, timing) | {
            "calibration": Input("calibration", trials, per="session", most=config.calibration_trials, choose="block")
        }

    def __init__(self, config: ApstConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        head = self.head("values")
        self.task, n_states = head.task, config.n_states(head.size)
        self.n_numbers = n_numbers = min(NUMBERS, n_states)
        width, dim = config.identity, config.dim
        self.register_buffer("behaviour_rms", torch.ones(head.size))
        self.register_buffer("basis", torch.zeros(n_states, n_numbers))
        self.register_buffer("profile_mean", torch.zeros(n_numbers))
        self.register_buffer("profile_scale", torch.ones(n_numbers))

        self.encode_trial = nn.Linear(config.calibration_length, width)
        self.to_film, self.film = nn.Linear(n_numbers, config.film), nn.Linear(config.film, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.to_identity = nn.Sequential(
            nn.Linear(width + n_numbers, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.conv = nn.Conv1d(1, CHANNELS, config.kernel)
        self.from_identity = nn.Linear(width, CHANNELS, bias=False)
        self.token = nn.Sequential(nn.Linear(CHANNELS + n_numbers, dim), nn.GELU(), nn.Linear(dim, dim))
        self.read_units = _Slots(config)
        self.blocks = nn.ModuleList(_Block(config, reach) for reach in config.reach)
        bins = [half_life / (timing.bin_ns / 1e9) for half_life in config.half_life_s]
        slopes = torch.tensor([math.log(2) / b if b else 0.0 for b in bins]).expand(config.heads)
        self.register_buffer("slope_H", slopes.clone(), persistent=False)
        self.read_out = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, config.read_out), nn.GELU(), nn.Linear(config.read_out, head.size)
        )
        self.clear_sessions()

    # ---- profiles ---------------------------------------------------------------------------------------------------

    def add_own(self, session: str, n_units: int) -> None:
        """Room for its profiles; :meth:`fit_sessions` fills it."""
        own = _Profiles(n_units, self.n_numbers, self.config.profile_draws)
        self.profiles[module_key(session)] = own.to(self.basis.device)

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """What makes profiles comparable, of all sessions; then the profiles of each.

        Raises:
            DataError: a session without enough labelled time.
        """
        if len(sessions) < LEAST_SESSIONS:
            note_once(
                f"apst learns of several sessions what a profile means, and {', '.join(sessions)} is alone: sessions "
                "that it never saw may be read badly, train on two or more"
            )
        if self.config.profile != "cosine":
            square, n = np.zeros(len(self.behaviour_rms)), 0
            for stretch in (s for own in sessions.values() for s in own):
                target = stretch.target[self.task][stretch.weight[self.task] > 0]
                square, n = square + np.square(target, dtype=np.float64).sum(0), n + len(target)
            rms = np.sqrt(square / max(n, 1))
            self.behaviour_rms.copy_(torch.from_numpy(np.where(rms > 0, rms, 1.0)))
        raws = {session: list(self._raw(session, stretches)) for session, stretches in sessions.items()}
        kept = None if self.config.profile == "cosine" else self.n_numbers
        rows = np.concatenate([raw[0] for raw in raws.values()])
        found = profiles.fit_normaliser(rows, kept, one_scale=self.config.profile == "rectified")
        for buffer, value in (
            (self.basis, found.basis), (self.profile_mean, found.mean), (self.profile_scale, found.scale)
        ):  # fmt: skip
            buffer.copy_(torch.from_numpy(value))
        for session, raw in raws.items():
            self._keep(session, raw)

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """The profiles of new sessions, by the basis and scale of the run; of stretches without labels nothing.

        Raises:
            DataError: a session without enough labelled time.
        """
        for session, stretches in sessions.items():
            if any(self.task in stretch.target for stretch in stretches):
                self._keep(session, list(self._raw(session, stretches)))

    def _keep(self, session: str, raw: Sequence[np.ndarray]) -> None:
        to_profile = profiles.Normaliser(
            *(b.double().cpu().numpy() for b in (self.basis, self.profile_mean, self.profile_scale))
        )
        found = torch.from_numpy(np.stack([to_profile(one) for one in raw])).float()
        own = self.profiles[module_key(session)]
        own.whole.copy_(found[0])
        own.drawn.copy_(found[1:])

    def _raw(self, session: str, stretches: Sequence[Stretch]) -> Iterator[np.ndarray]:
        """``[N, K]`` raw responses: of all of the stretches, then of each draw."""
        if session not in self.units:
            raise self.unknown(session)
        if self.config.profile == "cosine":
            yield self._cosine(session, stretches)
            return
        row_s = self.config.profile_bins * self.timing.bin_ns / 1e9
        found = [self._rows(stretch) for stretch in stretches]
        if not any(known.any() for *_, known in found):
            message = f"{session}: no {row_s:g} s of it are labelled and recorded: it has no profile"
            raise DataError(message)
        counts, target, known = (np.concatenate(parts) for parts in zip(*found, strict=True))
        make = {"signed": profiles.signed_states, "rectified": profiles.rectified_states}[self.config.profile]
        states = make(target, self.behaviour_rms.double().cpu().numpy())
        length = min(max(round(self.config.profile_s / row_s), 1), len(counts))
        starts = np.linspace(0, len(counts) - length, self.config.profile_draws).round().astype(int)
        for rows in (slice(None), *(slice(start, start + length) for start in starts)):
            deviation = profiles.deviations(counts[rows] / row_s, row_s, known[rows])
            yield profiles.responses(deviation, states[rows], self.config.profile_prior, known[rows])

    def _rows(self, stretch: Stretch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts ``[R, N]``, behaviour ``[R, C]`` and what is known ``[R, N]`` of rows of some bins each."""
        counts, seen = _recorded(stretch)
        n_bins = self.config.profile_bins
        n_rows = len(counts) // n_bins
        known = seen & (stretch.weight[self.task] > 0)[:, None]
        counts, target, known = (
            a[: n_rows * n_bins].reshape(n_rows, n_bins, -1) for a in (counts, stretch.target[self.task], known)
        )
        return counts.sum(1), target.astype(np.float64).mean(1), known.all(1)

    def _cosine(self, session: str, stretches: Sequence[Stretch]) -> np.ndarray:
        """``[N, 4]``: of the trials whose bins lie in a stretch and were recorded whole."""
        (low, high), sums, angles = self.config.angle_bins, [], []
        for stretch in stretches:
            counts, seen = _recorded(stretch)
            if self.config.angle not in stretch.trial_columns and len(stretch.trial_bin):
                names = ", ".join(stretch.trial_columns) or "none"
                message = f"{session} has no trial column '{self.config.angle}' (model.angle), it has {names}"
                raise DataError(message)
            for first, angle in zip(stretch.trial_bin, stretch.trial_columns.get(self.config.angle, ()), strict=True):
                rows = slice(first + low, first + high)
                if first + high <= len(counts) and seen[rows].all():
                    sums.append(counts[rows].sum(0))
                    angles.append(float(angle))
        sums = np.reshape(sums, (len(angles), len(self.units[session])))
        try:
            return profiles.cosine_tuning(sums, np.full(len(angles), high - low), np.array(angles))
        except DataError as error:
            message = f"{session}: {error}"
            raise DataError(message) from error

    def why_not(self, protocol: str, session_id: str) -> str:
        if protocol in ("zero_gradient", "full"):
            return "a new session brings a profile, from labels and without a gradient: the row 'profile'"
        return super().why_not(protocol, session_id)

    # ---- the computation --------------------------------------------------------------------------------------------

    def identities(self, trials: Tokens, profile_Np: Tensor) -> Tensor:
        """``[N, E]``: of calibration trials ``matrix`` ``[M, P, N]``, whose mean is zero where there are none."""
        encoded = F.relu(self.encode_trial(trials.columns["matrix"].transpose(1, 2)))  # [M, N, E]
        weight = torch.ones_like(encoded[..., :1])
        if "unit_observed" in trials.columns:
            weight = trials.columns["unit_observed"].to(encoded)[..., None]
        mean = (encoded * weight).sum(0) / weight.sum(0).clamp_min(1)
        gamma, beta = self.film(F.relu(self.to_film(profile_Np))).chunk(2, -1)
        return self.to_identity(torch.cat([(1 + gamma) * mean + beta, profile_Np], -1))

    def bins(self, counts: Tensor, seen: Tensor, identity_NE: Tensor, profile_Np: Tensor) -> Tensor:
        """``[B, T, D]``: what the units of each bin say together.

        Args:
            counts: float ``[B, T, N]``, 0 where not seen. seen: bool in its shape.
        """
        n_windows, _, n_units = counts.shape
        series = F.pad(counts.transpose(1, 2).flatten(0, 1)[:, None], (self.config.kernel - 1, 0))
        x = F.silu(self.conv(series)).unflatten(0, (n_windows, n_units)).permute(0, 3, 1, 2)  # [B, T, N, 16]
        x = x + self.from_identity(identity_NE)
        x = self.token(torch.cat([x, profile_Np.to(x.dtype).expand(*x.shape[:3], -1)], -1))
        return self.read_units(x.flatten(0, 1), seen.flatten(0, 1)).unflatten(0, (n_windows, -1))

    def over_time(self, x_BTD: Tensor, seen_BT: Tensor) -> Tensor:
        """``[B, T, D]``: of each bin and those before; zeros where it was not seen."""
        for block in self.blocks:
            x_BTD = block(x_BTD, seen_BT, self.slope_H)
        return x_BTD * seen_BT[..., None]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task ``[Q, C]``, of the bin that holds the query."""
        columns, length = batch.inputs[COUNTS].packed()
        n_bins, n_units = bins_of(length), columns["counts"].shape[1]
        session = session_of(self, batch, self.units, n_units)
        own = self.profiles[module_key(session)]
        profile = own.whole
        if self.training and self.config.profile_draws:
            profile = own.drawn[int(torch.randint(len(own.drawn), ()))]
        counts = observed_counts(columns).float().unflatten(0, (-1, n_bins))
        seen = (columns.get("unit_observed", columns["observed"][:, None]) > 0).expand(-1, n_units)
        seen = seen.unflatten(0, (-1, n_bins))
        if self.training and self.config.unit_dropout:
            kept = torch.rand(len(counts), 1, n_units, device=counts.device) >= self.config.unit_dropout
            seen = seen & kept
        identity = self.identities(self._trials(batch, session), profile)
        bins = self.read_out(self.over_time(self.bins(counts, seen, identity, profile), seen.any(-1)))
        if not self.training:
            bins = smoothed(bins, self.config.output_ema)
        asked = batch.asked[self.task]
        return {self.task: bins.flatten(0, 1)[query_bin(batch, asked, n_bins)]}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The weighted MSE of the normalised behaviour."""
        asked = batch.asked[self.task]
        weight = asked.weight
        if self.config.last_bin:
            n_bins = batch.window_ns // self.timing.bin_ns
            weight = weight * (query_bin(batch, asked, n_bins) % n_bins == n_bins - 1)
        mse = weighted_mse(output[self.task].float(), asked.target, weight)
        return {self.task: mse, "total": mse}

    def _trials(self, batch: Batch, session: str) -> Tokens:
        """The calibration trials of the batch's session.

        Raises:
            DataError: there are none, or they are of other units or of another length.
        """
        given = batch.session_inputs.get("calibration", ())
        if len(given) != 1:
            message = f"the batch has no calibration of {session}: apst reads it beside the windows"
            raise DataError(message)
        expected = (self.config.calibration_length, len(self.units[session]))
        found = tuple(given[0].columns["matrix"].shape[1:])
        if found != expected:
            message = f"{session}: calibration trials of {found} points and units, the model reads {expected}"
            raise DataError(message)
        return given[0]


def _recorded(stretch: Stretch) -> tuple[np.ndarray, np.ndarray]:
    """Counts ``[T, N]``, 0 where they were not seen, and bool in their shape: where they were."""
    columns = stretch.columns[COUNTS]
    seen = columns.get("unit_observed", columns["observed"][:, None]) > 0
    seen = np.broadcast_to(seen, columns["counts"].shape)
    return np.where(seen, columns["counts"], 0).astype(np.float64), seen


def smoothed(answer_BTC: Tensor, share: float) -> Tensor:
    """Each bin with a share of the one before, smoothed itself; from the first of a window on.

    >>> smoothed(torch.tensor([[[0.0], [1.0], [1.0]]]), 0.5).flatten().tolist()
    [0.0, 0.5, 0.75]
    """
    if not share:
        return answer_BTC
    found = [answer_BTC[:, 0]]
    for now in answer_BTC.unbind(1)[1:]:
        found.append(share * found[-1] + (1 - share) * now)
    return torch.stack(found, 1)
