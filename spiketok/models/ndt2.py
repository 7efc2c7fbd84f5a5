"""NDT2: a masked autoencoder over patches of an array in time, with tokens that say whose recording it is.

Ye, Collinger, Wehbe and Gaunt 2023, "Neural Data Transformer 2: Multi-context Pretraining for Neural Spiking Activity"
(NeurIPS, bioRxiv 2023.09.18.558113). Reference code: joel99/context_general_bci (8b7226c; context_general_bci/model.py,
components.py, task_io.py, config/presets.py, config/exp/falcon).

What is unusual:

- a token is K neighbouring units of one array in one bin; each count is a row of one small table, K of them side by
  side are the token. Where it stands is a learned row of its bin and one of its patch;
- no parameter belongs to a unit. Session, subject and dataset are tokens at the end of a window: spikes see them, they
  see only each other. They are all that a new session must learn, and the spikes alone teach them;
- one random choice of tokens for a whole batch is left out of the encoder; a smaller decoder, with tables of its own,
  gets what the encoder made of the others and fills the rest in as Poisson log rates;
- with ``fine_time``, which the original has not, a slot says beside its count when in the bin the unit fired;
- with ``causal`` a row sees its own bin and those before it. That and what context may see is one rule
  (:class:`spiketok.models.nn.Visible`), without a mask of the batch.

Differs from the reference:

- no value stands for padding: a slot without a unit, and a count that is hidden or was not observed, embeds to zeros.
  There such a slot reads as a silent one, and a true count of 5 embeds to zeros (5 pads batches);
- bins that were not observed are left out of the encoder and seen by nobody;
- held-out units and forward bins (``batch.hidden``) are always left out and always scored. In evaluation the model says
  the rate of a count from a pass in which it did not see the count's token: the tokens are left out in turn;
- with classes for counts, the top class is softened as the others; there it has no loss;
- several behaviours in one run: a read-out each on one decoder. A batch holds windows of one session;
- not built: readin matrices and cross-attention (declared deprecated there), temporal context, factorized layers.

``reference_quirks`` brings back: silent empty slots, the count of 5, the top class, and that a pooled bin of which a
token was drawn counts as present even if nothing was observed in it.

Shape letters: B windows, T bins of a window, L tokens, K units of a patch, N units, D width, C context rows, Q queries.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Model, Part, check_range, check_same_units, n_patches
from spiketok.models.batch import Asked, Batch, Head, Input, Progress, Stretch, Timing, query_bin
from spiketok.models.fine import FINE, N_FEATURES, fine_features
from spiketok.models.losses import poisson_log_rate, softened_counts, softened_cross_entropy, weighted_mse
from spiketok.models.masking import keep_tokens
from spiketok.models.ndt2_layers import Reader, Rows, Stack, together
from spiketok.models.nn import NEVER, module_key
from spiketok.models.places import ByPlace
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

PATCHES = "patches"  # the name of the input
COUNTS = "counts"  # the name under which a population task hides counts
CONTEXT = ("session", "subject", "dataset")  # what has tokens at the end of a window, in their order
QUIRK_COUNT = 5  # the reference's pad_value
MIN_RATE = 1e-9  # of rates that are sums over classes


@dataclass(frozen=True)
class Ndt2Config:
    """The defaults are those of the reference's flat encoder-decoder (presets.py) with the paper's f32.yaml.

    Args:
        patch_size: K. group_by: a unit column whose groups (arrays) are cut into patches apart; empty for none.
        max_count: larger counts read the table's last row; the loss takes the true ones.
        embed: ``"count_table"``: a row a count; ``"project"``: a line through the count.
        dim: D. layers, decoder_layers, heads; ffn_factor: width of the feed-forward layers over D.
        dropout: inside the layers, before the first and after the last. pre_norm: normalise before each branch, and
            after the last layer; else after each sum.
        causal: a row sees its own bin and those before. mask_ratio: share of the tokens that training leaves out.
        max_bins, max_patches: rows of the tables of bins and patches.
        local_start: the tables of bins start as sines and cosines, not from N(0, 1), and keys of encoder layers as
            their queries: that near bins tell of each other need not be found first.
        session_tokens: number of a session's own tokens. subject_token, dataset_token: whether there are such (the
            dataset stands for the reference's task).
        spike_loss: ``"poisson"``; or ``"soft_ce"``: cross entropy over ``max_count + 1`` softened counts.
        rate_init: the read-out of rates starts from the mean count of the training time.
        read_out: of behaviour. ``"linear"``: a layer on the mean of each bin's tokens; ``"in_context"``: a query a bin
            among them in an encoder of its own; ``"cross_attention"``: queries that attend to them. pool: what these
            two read is the mean of each bin; else all tokens.
        lag_ms: behaviour of a bin is read from the bin so much earlier; there is none for a window's first such bins.
        decode_weight: of the losses of behaviour beside that of the spikes.
        reference_quirks: compute as the reference where it differs (see above).
        fine_time: to the row of a slot's count a linear map of its first and last spike in the bin and of the intervals
            between is added (the scheme ``fine-time``).
    """

    patch_size: int = 32
    group_by: str = "group"
    max_count: int = 20
    embed: Literal["count_table", "project"] = "count_table"
    dim: int = 256
    layers: int = 6
    decoder_layers: int = 2
    heads: int = 4
    ffn_factor: float = 1.0
    dropout: float = 0.1
    pre_norm: bool = False
    causal: bool = True
    mask_ratio: float = 0.5
    max_bins: int = 250
    max_patches: int = 16
    local_start: bool = False
    session_tokens: int = 1
    subject_token: bool = False
    dataset_token: bool = False
    spike_loss: Literal["poisson", "soft_ce"] = "poisson"
    rate_init: bool = False
    read_out: Literal["linear", "in_context", "cross_attention"] = "in_context"
    pool: bool = True
    lag_ms: float = 0.0
    decode_weight: float = 20.0
    reference_quirks: bool = False
    fine_time: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "patch_size", "max_count", "dim", "heads", "max_bins", "max_patches")
        check_range(self, "[0, inf)", "layers", "decoder_layers", "session_tokens", "lag_ms", "decode_weight")
        check_range(self, "[0, 1)", "dropout")
        check_range(self, "(0, 1)", "mask_ratio")
        check_range(self, "(0, inf)", "ffn_factor")
        for name in ("patch_size", "heads"):
            if self.dim % getattr(self, name):
                message = f"model.dim is {self.dim}, which model.{name} {getattr(self, name)} does not divide"
                raise UsageError(message)
        if self.read_out == "linear" and not self.pool:
            message = "model.read_out is linear and model.pool false: a linear read-out needs one vector a bin"
            raise UsageError(message)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The tokens of a batch.

    Args:
        rows: where they stand. patch, unit: int64 ``[L, K]``; unit -1 where there is none. seen: bool ``[L, K]``, slots
            with a count that is observed and not hidden. observed: bool ``[L]``.
        bin: int64 ``[L]``, rows of all windows' bins. n_bins: T. flagged, context: ``[B, C, D]``, the context tokens
            with their flags and without.
    """

    rows: Rows
    patch: Tensor
    fine: Tensor | None
    unit: Tensor
    seen: Tensor
    observed: Tensor
    bin: Tensor
    n_bins: int
    flagged: Tensor
    context: Tensor


# Minutes on two CPU cores. What it waits for is that rows find which bins tell of theirs: behaviour helps (a weight of
# 1 is slower than 5), and so do short windows. Post-norm learns half as much of the spikes in the same steps.
_TINY = {
    "dim": 64,
    "layers": 2,
    "decoder_layers": 2,
    "ffn_factor": 4.0,
    "dropout": 0.0,
    "pre_norm": True,
    "causal": False,
    "session_tokens": 4,
    "rate_init": True,
    "local_start": True,
    "decode_weight": 5.0,
}
_FALCON = {"read_out": "cross_attention", "pool": False, "mask_ratio": 0.25, "decode_weight": 1.0, "max_bins": 200}
_PUBLISHED = {
    "name": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "clip": 1.0,
    "accelerator": "auto",
}


class Ndt2(ByPlace, Model):
    """Reads patches; gives log rates of what it does not see, and behaviour at the bins of the queries."""

    name: ClassVar[str] = "ndt2"
    checked: ClassVar[str] = "8 recorded configurations of its original: outputs, losses, gradients"
    tasks: ClassVar[tuple[str, ...]] = ("population", "decode")
    default_tasks: ClassVar[tuple[str, ...]] = ("population", "decode")
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "identity_unlabelled", "identity_only", "full")
    one_session_batches: ClassVar[bool] = True  # what a population is asked is one table for a batch
    read_by: ClassVar[str] = "decoders"
    Config: ClassVar[type] = Ndt2Config
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": _TINY,
        "f32": {"subject_token": True},  # the paper: 256 wide, 6 + 2 layers, patches of 32, half left out
        "falcon": _FALCON,  # config/exp/falcon/h1/h1.yaml; its sweep also has 512 and 1024
        "falcon-512": _FALCON | {"dim": 512},
        "falcon-1024": _FALCON | {"dim": 1024},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 500.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "schedule": "cosine", "steps": 2000},
        },
        # presets.py and config_base.py: linear rise of 100 epochs, cosine of 2500; effective batches of 256 trials.
        "f32": {
            "data": {"window_ms": 1000.0, "batch_size": 256},
            "optim": _PUBLISHED | {"epochs": 2500, "warmup_epochs": 100},
        },
        # config/exp/falcon: rise 50, cosine 1500, batches of 32; chops of up to 4 s, here 2 s.
        "*": {
            "data": {"window_ms": 2000.0, "batch_size": 32},
            "optim": _PUBLISHED | {"epochs": 1500, "warmup_epochs": 50},
        },
    }

    @classmethod
    def inputs(cls, config: Ndt2Config, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        fields = {"bin_ns": timing.bin_ns, "patch_size": config.patch_size, "max_count": config.max_count}
        inputs = {PATCHES: Input("patch", fields | {"group_by": config.group_by})}
        return inputs | ({FINE: Input("fine-time", {"bin_ns": timing.bin_ns})} if config.fine_time else {})

    def __init__(self, config: Ndt2Config, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        rates = [head for head in heads if head.output == "counts"]
        self.population = self.head("counts").task if rates else ""
        self.causal = config.causal
        self.lag_bins = round(config.lag_ms * 1e6 / timing.bin_ns)
        dim, width = config.dim, config.dim // config.patch_size
        if config.embed == "count_table":
            self.count_table = nn.Embedding(config.max_count + 1, width)
        else:
            self.project = nn.Linear(1, width)
        if config.fine_time:
            self.read_fine = nn.Linear(N_FEATURES, width, bias=False)
        numbers = config.session_tokens, int(config.subject_token), int(config.dataset_token)
        for name, n in zip(CONTEXT, numbers, strict=True):
            if n:
                setattr(self, f"{name}_table", Vocabulary(dim, 1.0, padding=False))
                setattr(self, f"{name}_flag", nn.Parameter(torch.randn(n, dim) / math.sqrt(dim)))
        self.encoder = Stack(config, config.layers, config.max_patches)
        if self.population:
            classes = 1 if config.spike_loss == "poisson" else config.max_count + 1
            self.infill = Stack(config, config.decoder_layers, config.max_patches)
            self.mask_token = nn.Parameter(torch.randn(dim))
            self.read_rates = nn.Linear(dim, config.patch_size * classes)
            if classes > 1:
                table = softened_counts(config.max_count, top_row=not config.reference_quirks)
                self.register_buffer("softened", table, persistent=False)
        decoded = [head for head in heads if head.output != "counts"]
        self.decoders = nn.ModuleDict({module_key(head.task): nn.Linear(dim, head.size) for head in decoded})
        if decoded and config.read_out != "linear":
            self.query_token = nn.Parameter(torch.randn(dim))
            in_context = config.read_out == "in_context"
            self.behaviour = Stack(config, config.decoder_layers, 0) if in_context else Reader(config)
        self.units: dict[str, list[str]] = {}
        self.subject_of: dict[str, str] = {}
        self.put: dict[str, list[int]] = {}

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """The tokens of each new session, and of its subject and dataset where those are new.

        The first come from N(0, 1), as in the reference; later ones start at the mean of those that are there.

        Raises:
            DataError: a session has more patches than the table has rows.
        """
        fresh: dict[str, list[str]] = {}
        for info in infos:
            keys = info.unit_keys()
            if info.id in self.units or info.id in fresh:
                check_same_units(info.id, self.units.get(info.id, fresh.get(info.id)), keys)
                continue
            self._check_patches(info)
            fresh[info.id] = keys
        self.units |= fresh
        self.subject_of |= {info.id: info.subject for info in infos if info.id in fresh}
        kinds = self._kinds()
        starts = [t.weight.detach().unflatten(0, (-1, len(f))).mean(0) if len(t) else None for t, f, _ in kinds]
        added: list[dict[str, Tensor]] = [{} for _ in kinds]
        for session in fresh:  # drawn in turns: what a session needs of every kind, then the next
            for (table, flag, block_of), start, values in zip(kinds, starts, added, strict=True):
                block = block_of(session)
                if block not in table.words and block not in values:
                    values[block] = table.draw(len(flag)) if start is None else start
        for (table, flag, _), values in zip(kinds, added, strict=True):
            if values:
                table.extend(dict.fromkeys(values, _words(flag)), values.values())

    def _kinds(self) -> list[tuple[Vocabulary, nn.Parameter, Callable[[str], str]]]:
        """Of each kind of context tokens that there is: their table, their flags, and which block a session reads."""
        blocks = zip(CONTEXT, (str, self._subject, _dataset), strict=True)
        return [
            (getattr(self, f"{name}_table"), getattr(self, f"{name}_flag"), block_of)
            for name, block_of in blocks
            if hasattr(self, f"{name}_table")
        ]

    def _check_patches(self, info: SessionInfo) -> None:
        n = n_patches(info, self.config.patch_size, self.config.group_by)
        if n > self.config.max_patches:
            message = (
                f"{info.id} has {n} patches of {self.config.patch_size} units and model.max_patches is "
                f"{self.config.max_patches}: raise it, or model.patch_size"
            )
            raise DataError(message)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The tokens of each session, and those of a subject or dataset that no other session has."""
        kinds = [(table, block_of, Counter(map(block_of, self.units))) for table, _, block_of in self._kinds()]
        found = []
        for session in self.units if sessions is None else sessions:
            if session not in self.units:
                raise self.unknown(session)
            for table, block_of, n_sessions in kinds:
                block = block_of(session)
                if n_sessions[block] == 1:
                    found.append(Part.of(table, block))
        return found

    def _subject(self, session: str) -> str:
        return f"{_dataset(session)}/{self.subject_of[session]}"

    def extra_state(self) -> dict[str, object]:
        sessions = [[session, self.subject_of[session], keys] for session, keys in self.units.items()]
        return {"sessions": sessions} | self.put_state()

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units = {session: list(keys) for session, _, keys in state["sessions"]}
        self.subject_of = {session: subject for session, subject, _ in state["sessions"]}
        self.load_put(state)
        for table, flag, block_of in self._kinds():
            blocks = dict.fromkeys(map(block_of, self.units))
            table.load_state([[block, _words(flag)] for block in blocks])

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the log of the mean observed count of the training time as the bias of all rates."""
        if not (self.config.rate_init and self.population and self.config.spike_loss == "poisson"):
            return
        spikes, bins = 0.5, 1.0
        for session in self.sessions():
            for stretch in sessions[session]:
                columns = stretch.columns[COUNTS]
                counts = columns["counts"]
                seen = np.broadcast_to(columns.get("unit_observed", columns["observed"][:, None]) > 0, counts.shape)
                spikes, bins = spikes + float(counts[seen].sum()), bins + float(seen.sum())
        nn.init.constant_(self.read_rates.bias, math.log(spikes / bins))

    # ---- the computation ----------------------------------------------------------------------------------------

    @property
    def partial(self) -> bool:
        """Behaviour of a window's first bins would be read from before it."""
        return self.lag_bins > 0 and bool(self.decoders)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``; beside the rates, by slot ``[L, K]``: what the
        read-out says (``slots``), the true ``count`` and whether it is ``scored``.

        Scored are counts that the batch hides, and in training those of the tokens that the model leaves out itself; in
        evaluation, where the batch hides nothing, all that were observed.
        """
        tokens = self._tokens(batch)
        asked = batch.asked.get(self.population)
        drawn = torch.ones_like(tokens.observed)
        if asked is not None and self.training:
            start = torch.tensor([0, *np.cumsum(tokens.rows.length).tolist()], device=drawn.device)
            in_window = torch.arange(len(drawn), device=drawn.device) - start[tokens.rows.window]
            drawn = self.draw_kept(max(tokens.rows.length), drawn.device)[in_window]
        kept = drawn & tokens.seen.any(1)
        encoded = self._encode(tokens, kept)
        output = self._decode(batch, tokens, kept, drawn, encoded)
        if asked is not None:
            output |= self._population(batch, asked, tokens, kept, encoded)
        return output

    def draw_kept(self, n_tokens: int, device: torch.device) -> Tensor:
        """bool ``[L]``: the tokens of a window that the encoder sees in training, the same in every window."""
        return keep_tokens(n_tokens, self.config.mask_ratio, device=device)

    def _tokens(self, batch: Batch) -> _Tokens:
        columns, length = self.patches(batch, PATCHES)
        n_bins = batch.window_ns // self.timing.bin_ns
        needed = n_bins + (self.lag_bins if self.decoders and self.config.causal else 0)
        if needed > self.config.max_bins:
            message = (
                f"a window has {n_bins} bins (with its lag {needed}) and model.max_bins is {self.config.max_bins}: "
                "shorten data.window_ms, or raise model.max_bins and train anew"
            )
            raise DataError(message)
        time, unit = columns["time"].long(), columns["unit"].long()
        window = torch.repeat_interleave(torch.tensor(length, device=time.device), output_size=len(time))
        observed = columns["observed"] > 0
        seen = (unit >= 0) & observed[:, None]
        if "unit_observed" in columns:
            seen = seen & (columns["unit_observed"] > 0)
        row = window * n_bins + time
        hidden = batch.hidden.get(COUNTS)
        if hidden is not None:
            seen = seen & ~hidden[row[:, None], unit.clamp_min(0)]
        order = self._order(time)
        key = torch.where(observed, order, NEVER)
        rows = Rows(window, time, columns["space"].long(), order, key, length)
        flagged, context = self._context(batch)
        fine = self._fine(batch, row, unit) if self.config.fine_time else None
        return _Tokens(rows, columns["patch"].long(), fine, unit, seen, observed, row, n_bins, flagged, context)

    def _fine(self, batch: Batch, row: Tensor, unit_LK: Tensor) -> Tensor:
        """``[L, K, 4]``, of the unit of each slot in its bin; what stands in empty slots is not read."""
        columns, _ = batch.inputs[FINE].packed()
        return fine_features(columns, self.timing.bin_ns)[row[:, None], unit_LK.clamp_min(0)]

    def _order(self, time: Tensor) -> Tensor:
        return time if self.config.causal else torch.zeros_like(time)

    def _context(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``[B, C, D]``, the tokens of each window's session, subject and dataset, with flags and without."""
        kinds = self._kinds()
        if not kinds:
            empty = self.encoder.time.weight.new_zeros(len(batch), 0, self.config.dim)
            return empty, empty
        tokens = []
        for table, _, block_of in kinds:
            row = torch.from_numpy(np.stack([table.rows(block_of(session)) for session in batch.sessions]))
            tokens.append(table(row.to(batch.session_B)))
        context = torch.cat(tokens, dim=1)
        return context + torch.cat([flag for _, flag, _ in kinds]), context

    def _encode(self, tokens: _Tokens, kept: Tensor) -> Tensor:
        """The encoder's output for the tokens that it sees, ``[L', D]``."""
        fine = None if tokens.fine is None else tokens.fine[kept]
        x = self._embed(tokens.patch[kept], tokens.seen[kept], fine)
        return self.encoder(x, tokens.rows.take(kept), tokens.flagged)

    def _embed(self, patch_LK: Tensor, seen_LK: Tensor, fine: Tensor | None = None) -> Tensor:
        """``[L, D]``, not yet placed."""
        quirks = self.config.reference_quirks
        count = torch.where(seen_LK, patch_LK, 0)
        if self.config.embed == "project":
            x = self.project(count.float()[..., None])
            shown = torch.ones_like(seen_LK) if quirks else seen_LK
        else:
            x = self.count_table(count)
            shown = count != QUIRK_COUNT if quirks else seen_LK
        if fine is not None:
            x = x + self.read_fine(torch.where(seen_LK[..., None], fine, 0.0))
        return torch.where(shown[..., None], x, 0.0).flatten(1)

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The loss of the spikes, ``decode_weight`` times those of behaviour, and their sum."""
        terms, parts = {}, []
        if "slots" in output:
            slots, count, scored = output["slots"], output["count"], output["scored"]
            if self.config.spike_loss == "poisson":
                terms[self.population] = poisson_log_rate(slots, count, scored)
            else:
                terms[self.population] = softened_cross_entropy(slots, count, scored, self.softened)
            parts.append(terms[self.population])
        for task, asked in batch.asked.items():
            if module_key(task) in self.decoders:
                made = output[task].isfinite().all(-1) if self.partial else True
                terms[task] = weighted_mse(output[task].float(), asked.target, asked.weight * made)
                parts.append(self.config.decode_weight * terms[task])
        total = torch.stack(parts).sum() if parts else self.encoder.time.weight.new_zeros(())
        return terms | {"total": total}

    # ---- the spikes ---------------------------------------------------------------------------------------------

    def _population(self, batch: Batch, asked: Asked, tokens: _Tokens, kept: Tensor, encoded: Tensor) -> dict:
        place = tokens.bin[:, None], tokens.unit.clamp_min(0)
        real = tokens.unit >= 0
        slots = self._fill_in(tokens, kept, encoded)
        hidden = batch.hidden.get(COUNTS)
        if self.training:
            scored = ~kept[:, None] if hidden is None else ~kept[:, None] | hidden[place]
        else:
            scored = real if hidden is None else hidden[place]
            if not batch.mode:  # in a mode what is seen is not scored
                slots = self._unseen(tokens, kept, slots)
        rate = slots if slots.ndim == 2 else self._expected(slots)
        where = place[0].expand_as(real)[real], place[1][real]
        dense = rate.new_zeros(asked.target.shape).index_put(where, rate[real])
        scored = scored & real & (asked.weight[place] > 0)
        return {self.population: dense, "slots": slots, "count": asked.target[place], "scored": scored}

    def _fill_in(self, tokens: _Tokens, kept: Tensor, encoded: Tensor) -> Tensor:
        """What the read-out of rates says of every slot, ``[L, K]`` or ``[L, K, classes]``."""
        spread = encoded.new_zeros(len(kept), encoded.shape[1]).masked_scatter(kept[:, None], encoded)
        x = torch.where(kept[:, None], spread, self.mask_token)
        slots = self.read_rates(self.infill(x, tokens.rows, tokens.context))
        return slots if self.config.spike_loss == "poisson" else slots.unflatten(1, (self.config.patch_size, -1))

    def _unseen(self, tokens: _Tokens, kept: Tensor, slots: Tensor) -> Tensor:
        """The same, but each count that is seen from a pass without its token; about ``mask_ratio`` of them in each."""
        n = max(round(1 / self.config.mask_ratio), 2)
        fold = (tokens.rows.time + tokens.rows.space) % n
        for k in range(n):
            rest = kept & (fold != k)
            said = self._fill_in(tokens, rest, self._encode(tokens, rest))
            left_out = tokens.seen & (fold == k)[:, None]
            slots = torch.where(left_out if slots.ndim == 2 else left_out[..., None], said, slots)
        return slots

    def _expected(self, logits: Tensor) -> Tensor:
        """Log rates of classes."""
        count = torch.arange(logits.shape[-1], device=logits.device)
        return (logits.float().softmax(-1) * count).sum(-1).clamp_min(MIN_RATE).log()

    # ---- behaviour ----------------------------------------------------------------------------------------------

    def _decode(self, batch: Batch, tokens: _Tokens, kept: Tensor, drawn: Tensor, encoded: Tensor) -> dict[str, Tensor]:
        asked = {task: a for task, a in batch.asked.items() if module_key(task) in self.decoders}
        if not asked:
            return {}
        read, lag = self._read(tokens, kept, drawn, encoded), self.lag_bins  # [B, T, D]
        output = {}
        for task, question in asked.items():
            said = self.decoders[module_key(task)](read)
            if lag:
                none = said.new_full((len(said), min(lag, tokens.n_bins), said.shape[-1]), torch.nan)
                said = torch.cat([none, said[:, : max(tokens.n_bins - lag, 0)]], dim=1)
            output[task] = said.flatten(0, 1)[query_bin(batch, question, tokens.n_bins)]
        return output

    def _read(self, tokens: _Tokens, kept: Tensor, drawn: Tensor, features: Tensor) -> Tensor:
        """``[B, T, D]``, one vector a bin, of what the encoder made of the tokens that it saw."""
        config, rows, n_bins = self.config, tokens.rows.take(kept), tokens.n_bins
        n_windows = len(rows.length)
        if config.pool:
            features, rows = self._pooled(tokens, kept, drawn if config.reference_quirks else kept, features)
        if config.read_out == "linear":
            return features.unflatten(0, (n_windows, n_bins))
        every = torch.arange(n_windows * n_bins, device=kept.device)
        time = every % n_bins + (self.lag_bins if config.causal else 0)
        observed = torch.zeros_like(every, dtype=torch.bool).index_fill(0, tokens.bin[tokens.observed], True)
        order = self._order(time)
        key = torch.where(observed, order, NEVER)
        queries = Rows(every // n_bins, time, None, order, key, [n_bins] * n_windows)
        query = self.query_token.expand(len(every), -1)
        context = tokens.context.detach()
        if config.read_out == "cross_attention":
            read = self.behaviour(query, queries, features, rows, context)
        else:
            both, row, place = together([rows, queries])
            x = torch.cat([features, query])[row]
            read = self.behaviour(x, both, context)[place[len(rows.time) :]]
        return read.unflatten(0, (n_windows, n_bins))

    def _pooled(self, tokens: _Tokens, kept: Tensor, counted: Tensor, features: Tensor) -> tuple[Tensor, Rows]:
        """The mean of each bin's tokens; for a linear read-out of all bins, else of those that have one.

        Args:
            counted: bool ``[L]``, the tokens for which a bin counts as present.
        """
        n_windows, n_bins = len(tokens.rows.length), tokens.n_bins
        n = features.new_zeros(n_windows * n_bins).index_add(0, tokens.bin[kept], features.new_ones(len(features)))
        total = features.new_zeros(len(n), features.shape[1]).index_add(0, tokens.bin[kept], features)
        mean, every = total / n.clamp_min(1)[:, None], torch.arange(len(n), device=n.device)
        time = every % n_bins
        rows = Rows(every // n_bins, time, None, self._order(time), self._order(time), [n_bins] * n_windows)
        if self.config.read_out == "linear":
            return mean, rows
        present = torch.zeros_like(every, dtype=torch.bool).index_fill(0, tokens.bin[counted], True)
        return mean[present], rows.take(present)


def _words(flag: Tensor) -> list[str]:
    """The names of the rows of a block: the numbers of the tokens."""
    return [str(k) for k in range(len(flag))]


def _dataset(session: str) -> str:
    return session.split("/")[0]
