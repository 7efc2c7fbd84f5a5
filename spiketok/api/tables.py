"""Rows for people: pandas tables, and the HTML that a notebook shows of an object."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from spiketok.recording.nouns import NS_PER_S, Column, Intervals, Ragged, Signal

if TYPE_CHECKING:
    import pandas as pd


def html_of(title: str, facts: Mapping[str, object]) -> str:
    """A small table of what an object is, for ``_repr_html_``."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(str(name))}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<div><b>{escape(title)}</b><table>{rows}</table></div>"


def columns_of(columns: Mapping[str, Column]) -> dict[str, list]:
    """Columns as a table takes them: what has several values a row is an array in its cell."""
    found: dict[str, list] = {}
    for name, column in columns.items():
        plain = not isinstance(column, Ragged) and np.ndim(column) == 1
        found[name] = np.asarray(column) if plain else [column[k] for k in range(len(column))]
    return found


def interval_table(intervals: Intervals) -> pd.DataFrame:
    """Intervals as a table: ``start_s`` and ``stop_s`` for people, ``start_ns`` and ``stop_ns`` exact, columns."""
    import pandas as pd

    start, stop = intervals.start_ns, intervals.stop_ns
    times = {"start_s": start / NS_PER_S, "stop_s": stop / NS_PER_S, "start_ns": start, "stop_ns": stop}
    return pd.DataFrame(times | columns_of({k: c for k, c in intervals.columns.items() if k not in times}))


def signal_table(signal: Signal) -> pd.DataFrame:
    """A behaviour as a table over seconds; NaN where it was not measured."""
    import pandas as pd

    value = np.where(signal.valid[:, None], signal.value, np.nan)
    index = pd.Index(signal.time_ns / NS_PER_S, name="time_s")
    return pd.DataFrame(value, index=index, columns=list(signal.components))
