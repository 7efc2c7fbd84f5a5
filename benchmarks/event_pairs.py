"""Event pairs: windows of (unit, step) tokens, against a plain Python transcription of the published algorithm.

The transcription is our own, from the description of Neuroformer's loader: a dense matrix of counts (units by steps of
10 ms); for each window nested loops over steps and units repeat a unit as often as it fired; ids and times are looked
up in dictionaries, the times as float seconds; SOS, EOS and PAD are added up to the fixed length. It gives lists, where
the published loader goes on to make tensors of them. Where it would put a spike's dt beside another's id (too many
spikes) it cuts both, as spiketok does, so that all windows can be compared.
"""

from __future__ import annotations

import numpy as np
from harness import Row, measure
from recordings import recording

from spiketok.tokens.schemes import EventPair
from spiketok.tokens.schemes.base import Windows

BATCH, CHECKED = 128, 512
AT_LEAST = {"small": None, "S": 1000, "L": None}


class Transcription:
    """One session as a matrix of counts, and the vocabularies of ids and times."""

    def __init__(self, scheme: EventPair, count: np.ndarray) -> None:
        self.scheme, self.count = scheme, count
        self.step_s = scheme.step_ns * 1e-9
        n_units = len(count)
        self.id_of = {n: n for n in range(n_units)} | {"SOS": n_units, "EOS": n_units + 1, "PAD": n_units + 2}
        self.dt_of = {round(k * self.step_s, 6): k for k in range(scheme.n_steps + 1)}
        self.dt_of |= {"SOS": scheme.n_steps + 1, "EOS": scheme.n_steps + 2, "PAD": scheme.n_steps + 3}

    def stream(self, low: int, first: int, stop: int, room: int) -> tuple[list[int], list[int]]:
        """Ids and dts of the steps ``first`` to ``stop``, times counted from the step ``low``."""
        ids, times = [], []
        for step in range(first, stop):
            for neuron, fired in enumerate(self.count[:, step]):
                ids += [neuron] * int(fired)
                times += [round((step - low) * self.step_s, 6)] * int(fired)
        ids, times = ids[-(room - 2) :], times[-(room - 2) :]
        id_tokens = [self.id_of["SOS"], *[self.id_of[n] for n in ids], self.id_of["EOS"]]
        dt_tokens = [0, *[self.dt_of[t] for t in times], self.dt_of["EOS"]]
        n_pad = room - len(id_tokens)
        return id_tokens + [self.id_of["PAD"]] * n_pad, dt_tokens + [self.dt_of["PAD"]] * n_pad

    def window(self, step: int) -> tuple[list[int], list[int]]:
        """The tokens of the window whose current part begins at a step: history, then current."""
        low = step - self.scheme.history_ns // self.scheme.step_ns
        stop = step + self.scheme.current_ns // self.scheme.step_ns
        before = self.stream(low, max(low, 0), step, self.scheme.max_history)
        now = self.stream(step, step, stop, self.scheme.max_current)
        return before[0] + now[0], before[1] + now[1]


def rows(size: str, rounds: int) -> list[Row]:
    """Cutting one window, in batches of 128 random ones, and ordering the session (spiketok alone)."""
    session, scheme = recording(size), EventPair()
    n_steps = session.stop_ns // scheme.step_ns
    count = np.zeros((len(session.units), n_steps), np.uint8)
    np.add.at(count, (session.spikes.unit, session.spikes.time_ns // scheme.step_ns), 1)
    theirs = Transcription(scheme, count)
    columns = scheme.bake(session, session.observed).columns

    last = n_steps - scheme.current_ns // scheme.step_ns
    steps = np.random.default_rng(0).integers(0, last + 1, CHECKED)
    steps[:4] = 0, 1, 14, last  # a history that the session's start clips, and the very last window
    batches = [
        Windows(np.zeros(BATCH, np.int64), s * scheme.step_ns, scheme.current_ns) for s in steps.reshape(-1, BATCH)
    ]
    row = np.arange(BATCH) * (scheme.max_history + scheme.max_current)
    outputs = scheme.outputs(columns, scheme.current_ns)
    out = {
        name: np.empty((BATCH * (scheme.max_history + scheme.max_current), *item), dtype)
        for name, (dtype, item) in outputs.items()
    }

    def ours(windows: Windows) -> None:
        scheme.fill(columns, windows, row, out, length=scheme.lengths(columns, windows))

    for batch, windows in enumerate(batches):
        ours(windows)
        for b in range(BATCH):
            ids, dts = theirs.window(int(steps[batch * BATCH + b]))
            own = slice(row[b], row[b] + len(ids))
            np.testing.assert_array_equal(out["unit"][own], ids)
            np.testing.assert_array_equal(out["dt"][own], dts)

    turn = {"ours": 0, "theirs": 0}

    def next_batch() -> None:
        turn["ours"] += 1
        ours(batches[turn["ours"] % len(batches)])

    def next_window() -> None:
        turn["theirs"] += 1
        theirs.window(int(steps[turn["theirs"] % CHECKED]))

    timing = measure(
        {"python": next_window, "spiketok": next_batch, "order": lambda: scheme.bake(session, session.observed)}, rounds
    )
    task = f"event pairs, one window, {size}"
    return [
        Row(task, "plain Python", timing.median("python"), timing.ratio("python", "spiketok") * BATCH, AT_LEAST[size]),
        Row(task, "spiketok (batches of 128)", timing.median("spiketok") / BATCH),
        Row(f"event pairs, ordering {len(session.spikes):,} spikes, {size}", "spiketok", timing.median("order")),
    ]
