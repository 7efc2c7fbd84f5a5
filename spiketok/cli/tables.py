"""How rows are laid out on a terminal: ids stay whole, at any width.

Where all columns fit, a table. Else prose (cells of several words) is wrapped between its words. Else columns go that
say nothing of any row, then those that say the same of every row, then the last ones, up to a third of all; what went
is said below. Else each row becomes a record: its id on a line of its own, its fields after it, wrapped between fields.
No cell is ever cut or broken inside of a word.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2  # blanks between columns
PROSE = 18  # what a column of prose keeps at least
LONG_WORD = 40  # what is longer in the last column, as a path, may get a line of its own below the row
MOST_DROPPED = 1 / 3
SAYS_NOTHING = ("-", "0", "none", "no", "")
NEVER_DROPPED = (
    "session",
    "run",
    "name",
    "state",
    "result",
    "file",
    "task",
    "model",
    "scheme",
    "protocol",
    "warnings",
    "errors",
    "what",
    "found",
)


@dataclass(frozen=True)
class Table:
    """Lines of text; ``left_out``: the columns that had no room."""

    lines: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def lay_out(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], width: int) -> Table:
    """Rows in at most ``width`` columns of a terminal, but for words that are longer by themselves.

    Args:
        columns: their heads. cells: the rows, as text. numeric: which columns are set to the right.
    """
    kept = list(range(len(columns)))
    while True:
        widths = _fitting([columns[k] for k in kept], [[row[k] for k in kept] for row in cells], width)
        if widths is not None:
            lines = _table([columns[k] for k in kept], [[row[k] for k in kept] for row in cells],
                           [numeric[k] for k in kept], widths)  # fmt: skip
            return Table(tuple(lines), tuple(c for k, c in enumerate(columns) if k not in kept))
        gone = _least(columns, cells, kept)
        if gone is None:
            return Table(tuple(_records(columns, cells, width)))
        kept.remove(gone)


def _least(columns: Sequence[str], cells: Sequence[Sequence[str]], kept: list[int]) -> int | None:
    """The column of least importance; None where enough of them went, or none may go."""
    silent = [k for k in kept[1:] if all(row[k] in SAYS_NOTHING for row in cells)]
    if silent:
        return silent[-1]
    told = [k for k in range(1, len(columns)) if any(row[k] not in SAYS_NOTHING for row in cells)]
    others = [k for k in kept[1:] if columns[k] not in NEVER_DROPPED]
    if not others or len(set(told) - set(kept)) + 1 > MOST_DROPPED * len(columns):
        return None
    same = [k for k in others if len(cells) > 1 and len({row[k] for row in cells}) == 1]
    return (same or others)[-1]


def _fitting(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The width of each column in a table that fits; None where there is none without a broken word."""
    full = [max([len(row[k]) for row in cells], default=0) for k in range(len(columns))]
    full = [max(wide, *map(len, _head(c, wide))) for wide, c in zip(full, columns, strict=True)]
    over = sum(full) + GAP * (len(columns) - 1) - width
    if over <= 0:
        return full
    least = [_least_width(columns[k], [row[k] for row in cells], full[k]) for k in range(len(columns))]
    least[-1] = min(least[-1], max(PROSE, *map(len, _head(columns[-1], 0)), _own_line(cells, columns)))
    if sum(full) - sum(least) < over:
        return None
    while over > 0:  # the widest prose gives way first
        widest = max((k for k in range(len(full)) if full[k] > least[k]), key=lambda k: full[k])
        full[widest] -= 1
        over -= 1
    return full


def _least_width(column: str, cells: Sequence[str], full: int) -> int:
    """How narrow a column may be: prose down to its longest word, else as it is."""
    words = [word for cell in cells for word in cell.split()]
    if not any(cell.count(" ") >= 2 or ", " in cell for cell in cells):
        return full
    longest = max(map(len, [*words, *_head(column, 0)]))
    return min(full, max(PROSE, longest))


def _own_line(cells: Sequence[Sequence[str]], columns: Sequence[str]) -> int:
    """How wide the last column is without the words (long paths) that get a line of their own."""
    if not any(row[-1].count(" ") >= 2 for row in cells) or len(columns) < 2:  # numbers and ids stay in their column
        return max(len(row[-1]) for row in cells)
    return max((len(w) for row in cells for w in row[-1].split() if len(w) <= LONG_WORD), default=0)


def _head(column: str, wide: int) -> list[str]:
    """A column's head in lines: a name that is longer than its cells takes two."""
    words = column.replace("_", " ").split(" ")
    if len(words) < 2 or len(column) <= wide:
        return [" ".join(words)]
    cut = min(range(1, len(words)), key=lambda k: max(len(" ".join(words[:k])), len(" ".join(words[k:]))))
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def _table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], widths: Sequence[int]
) -> list[str]:
    heads = [_head(c, wide) for c, wide in zip(columns, widths, strict=True)]
    deep = max(map(len, heads))
    heads = [[""] * (deep - len(head)) + head for head in heads]

    def line(parts: Sequence[str]) -> str:
        set_out = (p.rjust(w) if right else p.ljust(w) for p, w, right in zip(parts, widths, numeric, strict=True))
        return (" " * GAP).join(set_out).rstrip()

    lines = [line([head[k] for head in heads]) for k in range(deep)]
    lines.append("─" * (sum(widths) + GAP * (len(widths) - 1)))
    for row in cells:
        below = max(map(len, row[-1].split()), default=0) > widths[-1]
        shown = [*row[:-1], "" if below else row[-1]]
        wrapped = [_wrapped(cell, wide) for cell, wide in zip(shown, widths, strict=True)]
        for k in range(max(map(len, wrapped))):
            lines.append(line([part[k] if k < len(part) else "" for part in wrapped]))
        if below:
            lines += _packed([row[-1]], sum(widths) + GAP * (len(widths) - 1), "    ")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words; blanks before the first word (a tree's) stay."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _records(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """Each row as its first cell and its other fields below."""
    lines = []
    own = 2 if len(columns) > 1 and columns[1] == "name" else 1  # what a record begins with
    for row in cells:
        lines.append(" ".join(row[:own]))
        held = list(zip(columns, row, strict=True))[own:]
        fields = [f"{c.replace('_', ' ')} {cell}" for c, cell in held if cell != "-"]
        lines += _packed(fields, width, "  ")
    return lines


def _packed(fields: Sequence[str], width: int, margin: str) -> list[str]:
    """Fields beside each other, as many as fit in a line; one that is wider by itself is wrapped between its words."""
    lines, held = [], ""
    for one in fields:
        joined = f"{held}   {one}" if held else f"{margin}{one}"
        if len(joined) > width and held:
            lines.append(held)
            joined = f"{margin}{one}"
        held = joined
        if len(held) > width:
            *done, held = textwrap.wrap(
                held, width, subsequent_indent=margin * 2, break_long_words=False, break_on_hyphens=False
            )
            lines += done
    return [*lines, held] if held else lines


def folded(text: str, width: int, indent: int = 0) -> str:
    """A line for a person, wrapped between words where a terminal would break inside of them."""
    if len(text) <= width or "\n" in text:
        return text
    start = len(text) - len(text.lstrip())
    return "\n".join(
        textwrap.wrap(
            text,
            width,
            subsequent_indent=" " * max(indent, start),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    )
