"""NEDS: one transformer over spikes and behaviours, which fills in whichever of them is hidden.

Zhang, Wang, Azabou, ..., Dyer, Paninski and Hurwitz 2025, "Neural Encoding and Decoding at Scale" (ICML, arXiv
2504.08201). Reference code: yzhang511/NEDS (61d2ef6; src/multi_modal/mm.py, encoder_embeddings.py, mm_utils.py,
src/models/stitcher.py, masker.py, src/configs/multi_modal).

What is unusual:

- the spikes and each behaviour that the run asks are modalities of T tokens each, one a bin, in one sequence: what a
  token holds, and rows of its modality, its bin and its session. What is hidden is one learned token in their place;
- a behaviour is an input too: in training each window draws what it hides (``MODALITY_MASKS`` of ``masking``), so that
  one model encodes (rates from behaviour), decodes (behaviour from spikes) and fills in either from itself;
- in an evaluation behaviours are hidden but for those that the batch gives (``Batch.given``), and spikes are seen but
  for what the batch hides: whichever is wholly hidden is predicted from the others;
- a label is a modality of T tokens as well: one label a window, read as T pairs of numbers, answered by a weighted sum
  over the bins. A window with several labels that differ is neither read nor learned from, and says one for all;
- read-ins and read-outs of all modalities belong to a session.

Differs from the reference:

- a session has as many inputs as units; there all are padded with -1, which goes through the read-in. A label enters as
  one of K inputs, not as its number, which says that class 2 is twice class 1;
- bins without an observation or a behaviour are hidden tokens, and are not scored. Held-out units are always 0 on the
  input side and always scored. A window that has no behaviour at all hides bins of its spikes alone;
- each window draws bins of its own; there all windows of a mask share them;
- a label is learned where all its tokens are hidden, and its loss is a mean over windows;
- read-ins and read-outs of behaviour start alike in all sessions, those of a later session at the mean of the known;
- ``rope`` and learned rows of bins stand side by side in both; ScaleNorm and other masks of its masker are not built.

``reference_quirks`` brings back: windows of a mask hide the same bins; the cross entropy sums over all windows, also
those whose label is seen, and divides by the number of hidden tokens; a batch of one window has no row of its session
and answers labels from nothing; read-outs of the forms for one direction are not trained.

Shape letters: B windows, T bins of a window, M modalities that are read, N units, D width, C components or classes,
Q query times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Part, check_range, session_of
from spiketok.models.batch import (
    Asked,
    Batch,
    Head,
    Progress,
    Stretch,
    Timing,
    bins_of,
    query_bin,
    whole_counts,
)
from spiketok.models.binned import COUNTS, BinnedModel, begin_at_mean_rates
from spiketok.models.losses import behaviour_losses, poisson_log_rate
from spiketok.models.masking import MODALITY_MASKS, draw_modality_masks, hide_modalities
from spiketok.models.nn import EncoderBlock, module_key, rotary_steps
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

SPIKES = "spikes"  # the name of the first modality; behaviours have those of their tasks
SELF_SPIKES = MODALITY_MASKS.index("self_spikes")


@dataclass(frozen=True)
class NedsConfig:
    """The defaults are the reference's mm.yaml, with the share of hidden bins of its command line.

    Args:
        form: ``"multimodal"``; or for one direction alone ``"encoding"`` (behaviours in, rates out: it says of a
            behaviour its mean, as it knows nothing of it) or ``"decoding"`` (spikes in, behaviours out).
        masks: what a window of the multimodal form may hide in training, names in ``MODALITY_MASKS``.
        mask_ratio: share of the bins that the last three of them hide.
        dim: D. layers, heads; hidden: width of the feed-forward layers.
        widen: width of the read-ins' hidden layer, over their inputs.
        dropout: inside the layers. dropout_embedding: of what the read-ins give.
        rope: turn queries and keys by their bin, beside the learned rows of bins.
        embedding_std: of the rows of modalities, bins and sessions at their start.
        fixup_init: scale the layers' weights by 0.67 / layers ** 0.25 (T-Fixup).
        rate_init: the biases of the read-outs of rates start from the mean rates of the training time.
        decode_weight: of the losses of behaviour beside the Poisson loss.
        reference_quirks: compute as the reference where it differs (see above).
    """

    form: Literal["multimodal", "encoding", "decoding"] = "multimodal"
    masks: tuple[str, ...] = MODALITY_MASKS
    mask_ratio: float = 0.1
    dim: int = 256
    layers: int = 5
    heads: int = 8
    hidden: int = 512
    widen: int = 2
    dropout: float = 0.4
    dropout_embedding: float = 0.2
    rope: bool = True
    embedding_std: float = 1.0
    fixup_init: bool = True
    rate_init: bool = False
    decode_weight: float = 1.0
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "dim", "layers", "heads", "hidden", "widen")
        check_range(self, "[0, inf)", "embedding_std", "decode_weight")
        check_range(self, "[0, 1)", "dropout", "dropout_embedding")
        check_range(self, "(0, 1)", "mask_ratio")
        if self.dim % (2 * self.heads):
            message = f"model.dim is {self.dim}, must be a multiple of twice model.heads, {2 * self.heads}"
            raise UsageError(message)
        unknown = [name for name in self.masks if name not in MODALITY_MASKS]
        if unknown or not self.masks:
            message = f"model.masks are {', '.join(self.masks) or 'none'}: there are {', '.join(MODALITY_MASKS)}"
            raise UsageError(message)


class _ReadIn(nn.Module):
    """A layer, softsign, a layer: what a modality's tokens hold.

    Args:
        n: inputs. width: hidden numbers of a token. n_tokens: tokens that one row of inputs makes.
    """

    def __init__(self, n: int, width: int, dim: int, n_tokens: int = 1) -> None:
        super().__init__()
        self.width = width
        self.to_hidden = nn.Linear(n, width * n_tokens)
        self.to_token = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, D]`` for ``[B, T, n]``, or for ``[B, n]`` where a row makes T tokens."""
        hidden = self.to_hidden(x)
        return self.to_token(F.softsign(hidden if x.ndim == 3 else hidden.unflatten(1, (-1, self.width))))


class _Pool(nn.Module):
    """Classes of a window: a weighted sum over its bins, then a layer."""

    def __init__(self, dim: int, n_bins: int, classes: int) -> None:
        super().__init__()
        self.bins = nn.Parameter(torch.rand(n_bins) * (2 / n_bins))  # the sum is about 1; there about half of T
        self.out = nn.Linear(dim, classes)

    def forward(self, x_BTD: Tensor, empty: bool) -> Tensor:
        """``[B, C]``; ``empty``: of nothing."""
        weight = torch.zeros_like(self.bins) if empty else self.bins
        return self.out((x_BTD * weight[:, None]).sum(1))


@dataclass(frozen=True, eq=False)
class _Read:
    """What a batch lets the model see of a modality.

    Args:
        value: what its read-in takes; None where nothing may be read. known: bool ``[B, T]``.
    """

    value: Tensor | None
    known: Tensor


_TINY = {
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "hidden": 128,
    "dropout": 0.0,  # of attention weights it takes the fast kernel of a CPU away: six times slower
    "dropout_embedding": 0.1,
    "mask_ratio": 0.3,
    "embedding_std": 0.1,
    "rate_init": True,
}


def _published(batch_size: int, lr: float) -> dict[str, dict]:
    """trainer_mm.yaml, train.py: two seconds around a stimulus; OneCycle, a rise of .15 from a tenth, then cosine."""
    return {
        "data": {"window_ms": 2000.0, "bin_ms": 20.0, "batch_size": batch_size},
        "optim": {
            "name": "adamw",
            "lr": lr,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup": 0.15,
            "epochs": 2000,
            "accelerator": "auto",
        },
    }


class Neds(BinnedModel):
    """Reads binned counts and behaviours; gives log rates, behaviour at the queries' bins and labels of windows."""

    name: ClassVar[str] = "neds"
    weighs_exposure = True
    checked: ClassVar[str] = "9 recorded configurations of its original: outputs, losses, gradients"
    own_tables: ClassVar[tuple[str, ...]] = ("read_in", "read_out")  # by session, then by modality
    Config: ClassVar[type] = NedsConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": _TINY,  # minutes on a CPU core
        "base": {},  # mm.yaml: one session, and ten
        "medium": {"layers": 16},  # mm_medium_size.yaml
        "large": {"layers": 22},  # mm_large_size.yaml: 70 sessions and more
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "schedule": "cosine", "steps": 2500},
        },
        "base": _published(16, 2e-4),
        "medium": _published(64, 2e-4),  # trainer_multi_session.yaml
        "large": _published(1024, 3e-3),  # the paper's pretraining: so many windows over all processes
    }

    def __init__(self, config: NedsConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.n_bins = timing.window_ns // timing.bin_ns
        self._check_form()
        # of a run that does not ask the spikes, only what hides a behaviour has a loss
        self.masks = [s for s in config.masks if self.population or s not in ("encoding", "self_spikes")]
        if not self.masks:
            message = f"model.masks {', '.join(config.masks)} hide spikes alone and the run has no population task"
            raise UsageError(message)
        self.modalities = [SPIKES, *(head.task for head in self.behaviours)]
        if config.form != "multimodal":
            self.modalities = self.modalities[:1] if config.form == "decoding" else self.modalities[1:]
        # as the reference, whose optimizer does not know them
        self.still_read_outs = config.reference_quirks and config.form != "multimodal"
        dim, std = config.dim, config.embedding_std
        self.mask_token = nn.Parameter(torch.zeros(dim))
        # by modality, so that a run with other behaviours can start from these weights
        names = [module_key(name) for name in self.modalities]
        self.modality = nn.ParameterDict({name: nn.Parameter(torch.randn(1, dim) * std) for name in names})
        self.position = nn.ParameterDict({name: nn.Parameter(torch.randn(self.n_bins, dim) * std) for name in names})
        self.session_tables = nn.ModuleDict({name: Vocabulary(dim, std, padding=False) for name in names})
        self.dropout_embedding = nn.Dropout(config.dropout_embedding)
        self.layers = nn.ModuleList(
            EncoderBlock(dim, config.heads, config.hidden, config.dropout, activation="gelu")
            for _ in range(config.layers)
        )
        if config.fixup_init:
            self._scale_layers()
        self.norm = nn.LayerNorm(dim)
        self.clear_sessions()

    def _check_form(self) -> None:
        form, asked = self.config.form, ", ".join(self.heads) or "nothing"
        if form == "decoding" and self.population:
            message = f"model.form is decoding, which gives no rates, and asked are {asked}: use --task decode"
            raise UsageError(message)
        if form == "encoding" and not (self.population and self.behaviours):
            message = (
                f"model.form is encoding, rates from behaviour, and asked are {asked}: use --task population,decode"
            )
            raise UsageError(message)

    def _scale_layers(self) -> None:
        scale, dim = 0.67 * self.config.layers**-0.25, self.config.dim
        with torch.no_grad():
            for layer in self.layers:
                for part in (layer.to_hidden, layer.from_hidden, layer.to_out):
                    part.weight.mul_(scale)
                layer.to_qkv.weight[2 * dim :].mul_(scale * 2**0.5)  # the values

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """Read-ins, read-outs and rows of each new session.

        What all sessions have in one shape starts at the mean of the known ones; of the first sessions, that of
        behaviour starts alike in all, and rows come from a normal distribution.
        """
        known, fresh = list(self.units), []
        for info in self.fresh(infos):
            self.keep(info.id, info.unit_keys())
            self._start_behaviour(info.id, known or fresh[:1])
            fresh.append(info.id)
        for table in self.session_tables.values() if fresh else ():
            start = table.weight.detach().mean(0, keepdim=True) if known else None
            table.extend({session: ["session"] for session in fresh}, [start] * len(fresh))

    def add_own(self, session: str, n_units: int) -> None:
        """Its modules, drawn."""
        config, dim, key = self.config, self.config.dim, module_key(session)
        read_in, read_out = {}, {}
        if SPIKES in self.modalities:
            read_in[SPIKES] = _ReadIn(n_units, config.widen * n_units, dim)
        for head in self.behaviours:
            name, static = module_key(head.task), head.output == "classes"
            if head.task in self.modalities and static:
                read_in[name] = _ReadIn(head.size, config.widen, dim, self.n_bins)
            elif head.task in self.modalities:
                read_in[name] = _ReadIn(head.size, config.widen * head.size, dim)
            if config.form != "encoding":
                read_out[name] = _Pool(dim, self.n_bins, head.size) if static else nn.Linear(dim, head.size)
        if self.population:
            read_out[SPIKES] = nn.Linear(dim * (len(self.modalities) if config.form == "encoding" else 1), n_units)
        self.read_in[key] = nn.ModuleDict(read_in).to(self.mask_token.device)
        self.read_out[key] = nn.ModuleDict(read_out).to(self.mask_token.device)

    @torch.no_grad()
    def _start_behaviour(self, session: str, known: Sequence[str]) -> None:
        for table in (self.read_in, self.read_out):
            for name, module in table[module_key(session)].items():
                if name != SPIKES and known:
                    others = zip(*(table[module_key(s)][name].parameters() for s in known), strict=True)
                    for parameter, values in zip(module.parameters(), others, strict=True):
                        parameter.copy_(torch.stack(values).mean(0))

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the mean rate of each unit in the observed time as the bias of its read-out."""
        if self.config.rate_init and self.population:
            for session in sessions:
                begin_at_mean_rates(self.read_out[module_key(session)][SPIKES].bias, sessions[session])

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The read-ins and read-outs of each session, and its rows."""
        found: list[Part] = []
        for session in self.units if sessions is None else sessions:
            found += super().identity_parameters([session])
            found += [Part.of(table, session) for table in self.session_tables.values()]
        return found

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.clear_sessions()
        for session, keys in state["units"]:
            self.keep(session, list(keys))
            self._start_behaviour(session, list(self.units)[:1])
        for table in self.session_tables.values():
            table.load_state([[session, ["session"]] for session in self.units])

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour and logits ``[Q, C]`` and log rates ``[B * T, N]``.

        Beside them stands what a loss is taken of: bool ``scored`` ``[B * T, N]``, and ``<task>.weight`` ``[Q]``. In
        training that is what was hidden; in evaluation of the spikes what the batch hides (all that was observed, where
        it hides nothing) and of behaviour what it does not give.
        """
        columns, length = batch.inputs[COUNTS].packed()
        session = self._session(batch, columns["counts"].shape[-1], bins_of(length))
        read = {SPIKES: self._spikes(batch, columns)}
        read |= {head.task: self._behaviour(head, batch) for head in self.behaviours}
        known = torch.stack([one.known for one in read.values()], 1)  # [B, 1 + behaviours, T]
        drawn = self.draw(known[:, 1:].any(2).any(1)) if self.training else torch.zeros_like(known)
        hidden = dict(zip(read, (drawn | ~known).unbind(1), strict=True))
        x_BMTD = self._encode(session, {name: (read[name], hidden[name]) for name in self.modalities})
        output: dict[str, Tensor] = {}
        if self.population in batch.asked:
            output[self.population] = self._rates(session, x_BMTD)
            output["scored"] = self._scored(batch, drawn[:, 0])
        for head in self.behaviours:
            if head.task in batch.asked:
                output |= self._answer(session, head, batch, x_BMTD, hidden[head.task])
        return output

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The Poisson loss of the population, ``decode_weight`` times the losses of behaviour, and their sum."""
        terms: dict[str, Tensor] = {}
        if "scored" in output:
            asked = batch.asked[self.population]
            log_rate = asked.exposed(output[self.population])
            terms[self.population] = poisson_log_rate(log_rate, asked.target, output["scored"])
        asked = {
            head.task: replace(batch.asked[head.task], weight=output[f"{head.task}.weight"])
            for head in self.behaviours
            if head.task in batch.asked
        }
        decode = behaviour_losses(self.heads, replace(batch, asked=asked), output)
        for task in decode:
            if f"{task}.tokens" in output:  # the reference's: a sum over windows, divided by hidden tokens
                n = (asked[task].weight > 0).sum() / output[f"{task}.tokens"].clamp_min(1)
                decode[task] = decode[task] * n * (output[f"{task}.tokens"] > 0)
        parts = [*terms.values(), *(self.config.decode_weight * term for term in decode.values())]
        total = torch.stack(parts).sum() if parts else self.mask_token.new_zeros((), dtype=torch.float32)
        return terms | decode | {"total": total}

    def draw(self, able_B: Tensor) -> Tensor:
        """What a training batch hides of the spikes and of each behaviour, bool ``[B, 1 + behaviours, T]``.

        Args:
            able_B: bool, windows with a behaviour; the others hide bins of their spikes.
        """
        config = self.config
        names = self.masks if config.form == "multimodal" else [config.form]
        mask_B = draw_modality_masks(len(able_B), names, device=able_B.device)
        if config.form == "multimodal":
            mask_B = torch.where(able_B, mask_B, SELF_SPIKES)
        n_behaviours, one_row = len(self.behaviours), config.reference_quirks
        return hide_modalities(mask_B, n_behaviours, self.n_bins, config.mask_ratio, one_row=one_row)

    def _session(self, batch: Batch, n_units: int, n_bins: int) -> str:
        session = session_of(self, batch, self.units, n_units)
        if n_bins != self.n_bins:
            message = f"a window has {n_bins} bins and neds was built for {self.n_bins}: it reads one length"
            raise DataError(message)
        return session

    # ---- what is seen -------------------------------------------------------------------------------------------

    def _spikes(self, batch: Batch, columns: Mapping[str, Tensor]) -> _Read:
        """Counts ``[B, T, N]`` with 0 where the batch hides them; bins with nothing left are not known."""
        counts = whole_counts(columns).float()
        seen = columns.get("unit_observed", columns["observed"][:, None]) > 0
        if COUNTS in batch.hidden:
            seen = seen & ~batch.hidden[COUNTS]
        shape = len(batch), self.n_bins
        return _Read(torch.where(seen, counts, 0.0).unflatten(0, shape), seen.any(1).unflatten(0, shape))

    def _behaviour(self, head: Head, batch: Batch) -> _Read:
        """Values ``[B, T, C]`` of the bins that have one, or the label of each window that has one, ``[B, C]``."""
        asked, shape = batch.asked.get(head.task), (len(batch), self.n_bins)
        if asked is None or not (self.training or head.task in batch.given):
            return _Read(None, torch.zeros(shape, dtype=torch.bool, device=self.mask_token.device))
        if head.output == "classes":
            label, known = labels(asked, len(batch))
            value = F.one_hot(torch.where(known, label, 0), head.size).to(self.mask_token.dtype)
            return _Read(value, known[:, None].expand(shape))
        used = asked.weight > 0
        row = query_bin(batch, asked, self.n_bins)[used]
        n = asked.weight.new_zeros(len(batch) * self.n_bins).index_add(0, row, torch.ones_like(asked.weight[used]))
        total = asked.target.new_zeros(len(n), head.size).index_add(0, row, asked.target[used])
        value = total / n.clamp_min(1)[:, None]  # the mean, where a bin has several
        return _Read(value.unflatten(0, shape), (n > 0).unflatten(0, shape))

    def _encode(self, session: str, read: Mapping[str, tuple[_Read, Tensor]]) -> Tensor:
        """``[B, M, T, D]``, for each modality what may be read of it and bool ``[B, T]``, what is hidden."""
        tokens = [self._tokens(session, name, seen.value, hidden) for name, (seen, hidden) in read.items()]
        x_BMTD = torch.stack(tokens, 1)
        n_windows, n, n_bins, _ = x_BMTD.shape
        names = [module_key(name) for name in read]
        place = torch.stack([self.modality[name] + self.position[name] for name in names])
        if not self._alone(n_windows):
            tables = [self.session_tables[name] for name in names]
            rows = [torch.from_numpy(table.rows(session)).to(place.device) for table in tables]
            place = place + torch.stack([table(row) for table, row in zip(tables, rows, strict=True)])
        x = (x_BMTD + place).flatten(0, 2)
        turn = None
        if self.config.rope:
            step = torch.arange(n_bins, device=x.device).repeat(n_windows * n)
            turn = rotary_steps(step, self.config.dim // self.config.heads)
        for layer in self.layers:
            x = layer(x, [n * n_bins] * n_windows, None, turn)
        return self.norm(x).unflatten(0, (n_windows, n, n_bins))

    def _tokens(self, session: str, name: str, value: Tensor | None, hidden_BT: Tensor) -> Tensor:
        """``[B, T, D]``, without their places."""
        if value is None:
            return self.mask_token.expand(*hidden_BT.shape, -1)
        content = self.dropout_embedding(self.read_in[module_key(session)][module_key(name)](value))
        return torch.where(hidden_BT[..., None], self.mask_token.to(content.dtype), content)

    def _alone(self, n_windows: int) -> bool:
        return self.config.reference_quirks and n_windows == 1

    # ---- what is said -------------------------------------------------------------------------------------------

    def _rates(self, session: str, x_BMTD: Tensor) -> Tensor:
        """Log rates ``[B * T, N]``."""
        encoding = self.config.form == "encoding"
        x = x_BMTD.transpose(1, 2).flatten(2) if encoding else x_BMTD[:, 0]
        return self._held(self.read_out[module_key(session)][SPIKES], x).flatten(0, 1)

    def _scored(self, batch: Batch, drawn_BT: Tensor) -> Tensor:
        """bool ``[B * T, N]``: the observed counts that were hidden; in evaluation all, where none was."""
        observed, always = batch.asked[self.population].weight > 0, batch.hidden.get(COUNTS)
        if self.training:
            drawn = drawn_BT.flatten()[:, None]
            return observed & (drawn if always is None else drawn | always)
        return observed if always is None else observed & always

    def _answer(self, session: str, head: Head, batch: Batch, x_BMTD: Tensor, hidden_BT: Tensor) -> dict[str, Tensor]:
        """What is said of a behaviour at its queries, and the weight that each has in the loss."""
        task, asked = head.task, batch.asked[head.task]
        row = query_bin(batch, asked, self.n_bins)
        window, static = row // self.n_bins, head.output == "classes"
        hidden = hidden_BT.all(1)[window] if static else hidden_BT.flatten()[row]
        if static and self.training:
            hidden = hidden & labels(asked, len(batch))[1][window]
        weight = torch.where(hidden, asked.weight, 0.0)
        if self.config.form == "encoding":
            return {task: x_BMTD.new_zeros(len(row), head.size), f"{task}.weight": weight}
        read_out = self.read_out[module_key(session)][module_key(task)]
        x_BTD = x_BMTD[:, 0 if self.config.form == "decoding" else self.modalities.index(task)]
        if not static:
            return {task: self._held(read_out, x_BTD).flatten(0, 1)[row], f"{task}.weight": weight}
        said = self._held(read_out, x_BTD, self._alone(len(batch)))[window]
        if not self.config.reference_quirks:
            return {task: said, f"{task}.weight": weight}
        return {task: said, f"{task}.weight": asked.weight, f"{task}.tokens": hidden_BT.sum()}

    def _held(self, read_out: nn.Module, *given) -> Tensor:
        """What a read-out says; without a gradient for its own parameters where they are not trained."""
        if not self.still_read_outs:
            return read_out(*given)
        still = {name: p.detach() for name, p in read_out.named_parameters()}
        return torch.func.functional_call(read_out, still, given)


def labels(asked: Asked, n_windows: int) -> tuple[Tensor, Tensor]:
    """The label of each window, int64 ``[B]``, and bool ``[B]``: whether it has one, and no other beside it."""
    window = torch.repeat_interleave(torch.arange(n_windows, device=asked.offset.device), asked.offset.diff())
    used = asked.weight > 0
    window, label = window.to(used.device)[used], asked.target[used]
    none = label.new_full((n_windows,), -1)
    low, high = (none.scatter_reduce(0, window, label, how, include_self=False) for how in ("amin", "amax"))
    return high, (low == high) & (high >= 0)
