"""Losses that models share. Absent data never count: every mean runs over what is valid, and is 0 where nothing is.

Shape letters: B windows, Q query times, C components or classes, T bins, N units, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spiketok.models.batch import Batch, Head


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over components per query, then the weighted mean over queries (POYO's loss); 0 where all weights are 0.

    Args:
        prediction, target: ``[Q, C]``.
        weight: ``[Q]``, not negative. What stands at a query of weight 0 has no influence, not even NaN.
    """
    used = weight > 0
    error = torch.where(used[:, None], prediction - target, 0.0).square().mean(dim=-1)
    return (weight * error).sum() / weight.sum().clamp_min(torch.finfo(error.dtype).tiny)


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the cross entropy over queries; 0 where all weights are 0.

    Args:
        logits: ``[Q, C]``. label: int64 ``[Q]``, the class.
        weight: ``[Q]``, not negative. What stands at a query of weight 0 has no influence, not even a label out of
            range.

    >>> weighted_cross_entropy(torch.zeros(2, 4), torch.tensor([3, -1]), torch.tensor([1.0, 0.0]))
    tensor(1.3863)
    """
    used = weight > 0
    safe = torch.where(used[:, None], logits.float(), 0.0)
    error = F.cross_entropy(safe, torch.where(used, label, 0), reduction="none")
    return (weight * error).sum() / weight.sum().clamp_min(torch.finfo(error.dtype).tiny)


def mallow_distance(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over queries of the distance of cumulative distributions, for classes that have an order.

    For each query the mean over classes of the squared difference between the cumulative sums of the probabilities and
    of the label (torch_brain's MallowDistanceLoss); 0 where all weights are 0.

    Args:
        logits: ``[Q, C]``. label, weight: as in :func:`weighted_cross_entropy`.

    >>> mallow_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), torch.tensor([1.0]))
    tensor(0.1250)
    """
    used = weight > 0
    safe = torch.where(used[:, None], logits.float(), 0.0)
    true = F.one_hot(torch.where(used, label, 0), logits.shape[-1]).cumsum(-1)
    error = (true - safe.softmax(-1).cumsum(-1)).square().mean(-1)
    return (weight * error).sum() / weight.sum().clamp_min(torch.finfo(error.dtype).tiny)


CLASS_LOSSES = {"cross_entropy": weighted_cross_entropy, "mallow": mallow_distance}


def behaviour_losses(
    heads: Mapping[str, Head],
    batch: Batch,
    output: Mapping[str, Tensor],
    class_loss: Callable[[Tensor, Tensor, Tensor], Tensor] = weighted_cross_entropy,
) -> dict[str, Tensor]:
    """By task, the loss of each behaviour that the batch asks: that of classes, else MSE of values.

    Args:
        heads: of the model, by task; those of counts are passed over. output: by task ``[Q, C]``.
        class_loss: of logits, labels and weights.
    """
    terms = {}
    for task, asked in batch.asked.items():
        if task in heads and heads[task].output != "counts":
            measure = class_loss if heads[task].output == "classes" else weighted_mse
            terms[task] = measure(output[task].float(), asked.target, asked.weight)
    return terms


def total_by_share(terms: Mapping[str, Tensor], batch: Batch, like: Tensor) -> Tensor:
    """The sum of losses, each weighed by the share of the batch's windows that have a query of its task (POYO+).

    Args:
        terms: by task. like: a parameter, on whose device the sum of no terms is 0.
    """
    total = like.new_zeros((), dtype=torch.float32)
    for task, term in terms.items():
        total = total + term * (batch.asked[task].offset.diff() > 0).sum() / len(batch)
    return total


def poisson_log_rate(log_rate: Tensor, count: Tensor, scored: Tensor, *, top: float = 1.0) -> Tensor:
    """Mean of ``exp(z) - y z`` over the scored elements (the Poisson loss without ``log y!``); 0 where none is scored.

    Args:
        log_rate: z, float ``[T, N]``, ln of expected spikes per bin.
        count: y, ``[T, N]``.
        scored: bool, of a shape that broadcasts to ``[T, N]``; for masked models what is hidden and observed.
        top: share of the scored elements, those with the largest terms, that are summed. The sum is divided by the
            number of all scored elements (as NDT1's option ``TOPK``).
    """
    scored = scored.expand_as(log_rate)
    z = torch.where(scored, log_rate.float(), 0.0)
    return _mean_of_top(torch.where(scored, z.exp() - count * z, 0.0), scored, top)


def poisson_rate(rate: Tensor, count: Tensor, scored: Tensor, *, top: float = 1.0, eps: float = 1e-8) -> Tensor:
    """Mean of ``r - y ln(r + eps)`` over the scored elements, for models that put out a rate.

    Args:
        rate: r, float ``[T, N]``, expected spikes per bin, not negative.
        count, scored, top: as in :func:`poisson_log_rate`.
    """
    scored = scored.expand_as(rate)
    r = torch.where(scored, rate.float(), 1.0)
    return _mean_of_top(torch.where(scored, r - count * (r + eps).log(), 0.0), scored, top)


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.07) -> Tensor:
    """NT-Xent of two views of each window: mean cross entropy of finding a row's other view among all other rows.

    Similarity is the cosine over ``temperature``; rows are the 2 B of both views (Chen et al. 2020, SimCLR; as STNDT).

    Args:
        first, second: ``[B, F]``, row b of both being views of one window. A single window gives 0.
    """
    with torch.autocast(first.device.type, enabled=False):  # half precision would blur cosines near 1
        rows = F.normalize(torch.cat([first, second]).float(), dim=1)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        similarity = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
        return F.cross_entropy(similarity, torch.arange(len(rows), device=rows.device).roll(len(first)))


def softened_counts(max_count: int, *, top_row: bool = True) -> Tensor:
    """float32 ``[C + 1, C + 1]``: row y is the Poisson distribution of mean y over the counts 0 to C, summing to 1.

    What stands in the place of the class y when counts are classes (NDT2, NDT3).

    Args:
        max_count: C. top_row: False leaves row C at 0, as NDT2's code, so that a count of C has no loss.

    >>> softened_counts(2)[1]
    tensor([0.4000, 0.4000, 0.2000])
    """
    y = torch.arange(max_count + 1, dtype=torch.float64)
    log_pmf = torch.xlogy(y, y[:, None]) - y[:, None] - torch.lgamma(y + 1)
    table = log_pmf.softmax(dim=1)
    if not top_row:
        table[-1] = 0
    return table.float()


def softened_cross_entropy(logits: Tensor, count: Tensor, scored: Tensor, table: Tensor) -> Tensor:
    """Mean over the scored elements of the cross entropy against softened counts; 0 where none is scored.

    Args:
        logits: ``[..., C + 1]``. count: ``[...]``; larger ones than C count as C.
        scored: bool ``[...]``. table: of :func:`softened_counts`.
    """
    safe = torch.where(scored[..., None], logits.float(), 0.0)
    target = table[torch.where(scored, count, 0).long().clamp_max(len(table) - 1)]
    term = -(target * safe.log_softmax(dim=-1)).sum(dim=-1)
    return torch.where(scored, term, 0.0).sum() / scored.sum().clamp_min(1)


def _mean_of_top(term: Tensor, scored: Tensor, top: float) -> Tensor:
    """The sum of the ``top`` largest scored terms over the number of all that are scored."""
    n = scored.sum().clamp_min(1)
    if top >= 1:
        return term.sum() / n
    chosen = term[scored]
    return chosen.topk(int(len(chosen) * top)).values.sum() / n


def stirling(count: Tensor, scored: Tensor) -> Tensor:
    """Mean of Stirling's ``log y!`` over the scored elements, 0 for y up to 1: makes a Poisson loss a log likelihood.

    As torch's ``poisson_nll_loss(full=True)``.

    Args:
        count: y, ``[T, N]``. scored: bool, of a shape that broadcasts to it.
    """
    scored = scored.expand_as(count)
    y = torch.where(scored, count, 0).float().clamp_min(1.0)
    term = y * y.log() - y + 0.5 * (2 * torch.pi * y).log()
    return torch.where(y > 1, term, 0.0).sum() / scored.sum().clamp_min(1)


def ctc(logits: Tensor, frame_offset: Tensor, label: Tensor, label_offset: Tensor) -> Tensor:
    """CTC with blank 0: the mean over windows of the loss over the number of labels; 0 where no window has labels.

    A window without labels is left out; one whose frames are too few for its labels adds 0.

    Args:
        logits: ``[F, C]``. frame_offset: int64 ``[B + 1]``, frames of each window.
        label: int64 ``[Q]``, from 1. label_offset: int64 ``[B + 1]``.
    """
    frames, labels = frame_offset.diff().tolist(), label_offset.diff().tolist()
    used = [b for b, (f, n) in enumerate(zip(frames, labels, strict=True)) if f and n]
    if not used:
        return logits.sum() * 0.0
    log_p = logits.float().log_softmax(dim=-1).split(frames)
    padded = pad_sequence([log_p[b] for b in used])
    own = label.split(labels)
    n_frames, n_labels = (torch.tensor([length[b] for b in used]) for length in (frames, labels))
    return F.ctc_loss(padded, torch.cat([own[b] for b in used]), n_frames, n_labels, zero_infinity=True)
