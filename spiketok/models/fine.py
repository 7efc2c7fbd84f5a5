"""What models of bins read of the fine structure inside their bins: the numbers of the scheme ``fine-time``.

It stands beside the counts, as an input of its own, so that what is hidden, not observed or dropped is known from the
counts, and a model without it is the model as it was.

Shape letters: L rows (bins), N units, F = 4 features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FINE = "fine"  # the name of the input
N_FEATURES = 4


def fine_features(columns: Mapping[str, Tensor], bin_ns: int) -> Tensor:
    """float32 ``[L, N, 4]`` of tokens by ``fine-time``: first and last spike, mean and variation of the intervals.

    First and last are the place in the bin, from -1 at its start to 1 at its end; the mean interval is in bins. A unit
    without a spike in the bin has four zeros, and so has a bin that was not observed. With one spike the intervals have
    zeros: the count, which stands elsewhere, says that there was none.

    >>> ones = torch.ones(1, 1)
    >>> cell = {"count": ones, "first_ns": 5 * ones, "last_ns": 5 * ones, "mean_isi_ns": 0 * ones, "cv_isi": 0 * ones}
    >>> fine_features(cell | {"observed": ones[0]}, 20).tolist()
    [[[-0.5, -0.5, 0.0, 0.0]]]
    """
    first, last = (columns[name].float() * (2 / bin_ns) - 1 for name in ("first_ns", "last_ns"))
    features = torch.stack([first, last, columns["mean_isi_ns"] / bin_ns, columns["cv_isi"]], dim=-1)
    seen = columns.get("unit_observed", columns["observed"][:, None]) > 0
    return torch.where(((columns["count"] > 0) & seen)[..., None], features, 0.0)
