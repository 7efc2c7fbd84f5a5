"""A table of named rows that several models share.

What is unusual: it is one parameter with a range of rows for each session; a batch reads the rows that it holds, and
its gradient is of them alone.

Shape letters: D width, K rows that are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError


class Vocabulary(nn.Module):
    """A table of rows with names, that grows: one parameter, in which each block is a range of rows.

    A block is what one session brings. New blocks leave the rows of old ones as they are, bit for bit, in a parameter
    that is new: make the optimizer after them.

    What is read of the table costs what is read, whatever its size: the gradient is a sparse tensor of the rows that a
    batch held. An optimizer that leaves other rows behind (``spiketok.training.optimizers``) sets :attr:`late`.

    Rows count through the blocks in the order of their coming. With ``padding``, row 0 is a constant zero vector (the
    "NA" unit of padded tokens), which the parameter does not hold, and the first word has row 1.

    Args:
        dim: D. std: new rows are drawn from N(0, std).

    Attributes:
        weight: ``[n, D]``, the rows without the one of padding.
        words: by block, the names of its rows, each once in a block.
        late: what rows (int64 ``[k]``, of ``weight``) still have to be moved by, ``[k, D]``, before they are what they
            should be; None where all are.
    """

    def __init__(self, dim: int, std: float = 0.02, *, padding: bool) -> None:
        super().__init__()
        self.dim, self.std, self.first = dim, std, int(padding)
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.words: dict[str, list[str]] = {}
        self.late: Callable[[Tensor], Tensor | None] | None = None
        self._start: dict[str, int] = {}

    def __len__(self) -> int:
        return self.first + len(self.weight)

    def extend(self, blocks: Mapping[str, Sequence[str]], values: Iterable[Tensor | None] | None = None) -> None:
        """Add blocks of rows, all at once: each call copies the table.

        Args:
            blocks: by name, the words of its rows.
            values: ``[n, D]`` for each, what its rows begin as; drawn where it is None, one block after the other.

        Raises:
            DataError: a block is there already, or a word comes twice in one.
        """
        blocks = {block: list(words) for block, words in blocks.items()}
        for block, words in blocks.items():
            if block in self.words:
                message = f"the table has a block '{block}' already"
                raise DataError(message)
            if len(set(words)) < len(words):
                twice = next(word for k, word in enumerate(words) if word in words[:k])
                message = f"'{twice}' of block '{block}' stands twice: the rows of a block have a name each"
                raise DataError(message)
        fresh, row = torch.empty(sum(map(len, blocks.values())), self.dim), 0
        given = itertools.repeat(None) if values is None else iter(values)
        for block, words in blocks.items():
            part, value = fresh[row : row + len(words)], next(given)
            if value is None:
                self._draw(part)
            else:
                part.copy_(value.detach())
            self._start[block] = len(self.weight) + row
            row += len(words)
        self.words |= blocks
        self._grow(fresh)

    def _grow(self, fresh: Tensor) -> None:
        held, fresh = self.weight.detach(), fresh.to(self.weight)
        grown = torch.cat([held, fresh]) if len(held) else fresh
        self.weight = nn.Parameter(grown, requires_grad=self.weight.requires_grad)
        self.late = None  # it was of the parameter before

    def draw(self, n: int) -> Tensor:
        """New rows ``[n, D]`` from N(0, std), by torch's global generator."""
        return self._draw(torch.empty(n, self.dim))

    def _draw(self, out: Tensor) -> Tensor:
        return out.normal_().mul_(self.std)

    def rows(self, block: str) -> np.ndarray:
        """int32 ``[n]``: the rows of a block.

        Raises:
            DataError: there is no such block.
        """
        span = self.span(block)
        return np.arange(self.first + span.start, self.first + span.stop, dtype=np.int32)

    def span(self, block: str) -> slice:
        """Where in ``weight`` a block lies.

        Raises:
            DataError: there is no such block.
        """
        if block not in self._start:
            message = f"the table has no block '{block}' among its {len(self.words)}"
            raise DataError(message)
        start = self._start[block]
        return slice(start, start + len(self.words[block]))

    def starts(self) -> list[int]:
        """The first row in ``weight`` of each block, in their order."""
        return list(self._start.values())

    def block(self, block: str) -> Tensor:
        """The rows of one block, ``[n, D]``: a view of the parameter, without a gradient."""
        return self.weight.detach()[self.span(block)]

    def table(self) -> Tensor:
        """All rows, ``[len(self), D]``: for looking at, as it costs the whole table."""
        return self(torch.arange(len(self), device=self.weight.device))

    def forward(self, row: Tensor) -> Tensor:
        """``[..., D]`` for integer rows ``[...]``; in training each row is read once, however often it comes."""
        if self.late is None and not torch.is_grad_enabled():
            return self._read(row.long())
        distinct, index = torch.unique(row.long(), return_inverse=True)
        return F.embedding(index, self._read(distinct))

    def _read(self, row_K: Tensor) -> Tensor:
        own = (row_K - self.first).clamp_min(0)
        value = F.embedding(own, self.weight, sparse=True)
        move = self.late(own) if self.late is not None else None
        value = value if move is None else value + move
        return value * (row_K >= self.first)[..., None] if self.first else value

    def state(self) -> list[list]:
        """JSON-able: ``[block, words]`` in the order of their rows."""
        return [[block, words] for block, words in self.words.items()]

    def load_state(self, state: Sequence[Sequence]) -> None:
        """Replace all blocks by those of :meth:`state`; their values are to be loaded with ``load_state_dict``."""
        blocks = {block: list(words) for block, words in state}
        self.words, self._start = {}, {}
        self.weight, self.late = nn.Parameter(self.weight.detach()[:0]), None
        self.extend(blocks, [torch.zeros(len(words), self.dim) for words in blocks.values()])
