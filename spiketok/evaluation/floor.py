"""The floor that transfer must beat: a linear decoder that saw the same seconds of calibration, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.errors import SpiketokError
from spiketok.evaluation.results import Cell, _Task
from spiketok.recording.leakage import with_stated_reach
from spiketok.recording.nouns import NS_PER_MS, Session, Source, Spikes, UnitTable
from spiketok.tokens.schemes import SCHEMES
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.config import RunConfig, load_config, model_class
from spiketok.training.loop import stretches
from spiketok.training.tasks.decoding import predict

FLOOR = "linear"
FLOOR_BINS = 50


def _floor(task: _Task) -> Cell:
    """Ridge on lagged counts, fitted on the session's calibration alone; scored at its bins, not at the raw samples."""
    session, target = task.session, task.run.target
    config = _floor_config(task.run.config, session.reader)
    with _binned_reader(session.reader, config) as reader:
        binned = replace(session, reader=reader)
        model = model_class(FLOOR)(config.model_config(), target)
        model.add_sessions([reader.info])
        try:
            model.fit_closed_form({session.id: stretches(binned, "calibration", target)})
            prediction = predict(model, [binned.windows("test")], target, config)[session.id]
        except SpiketokError as error:
            return Cell(session.id, FLOOR, None, str(error))
    return Cell(session.id, FLOOR, prediction.score(), "", model.n_fitted(), prediction)


def _floor_config(run: RunConfig, reader: ShardReader) -> RunConfig:
    """The run's own settings where it is linear; else linear's, with the run's windows.

    Bins that are cut here are a fiftieth of the window, at least linear's own: a run with long windows decodes slow
    behaviour, for which linear's fixed number of lags must reach further back to be a fair floor.
    """
    if run.model == FLOOR:
        return run
    config = load_config(FLOOR)
    bin_ns = reader.scheme.grid_ns
    if reader.scheme.name != "binned":
        bin_ms = max(run.data.window_ns // FLOOR_BINS // NS_PER_MS, 1)
        bin_ns = max(bin_ms * NS_PER_MS, round(config.data.bin_ms * NS_PER_MS))
    window_ns = max(run.data.window_ns // bin_ns, 1) * bin_ns
    data = replace(config.data, window_ms=window_ns / NS_PER_MS, bin_ms=bin_ns / NS_PER_MS, eval_step_ms=None)
    return replace(config, data=data)


@contextmanager
def _binned_reader(reader: ShardReader, config: RunConfig) -> Iterator[ShardReader]:
    """The same session in bins: the shard itself, or one that is baked from the spikes of a per-spike shard."""
    if reader.scheme.name == "binned":
        yield reader
        return
    session = session_of(reader)
    scheme = SCHEMES["binned"](bin_ns=round(config.data.bin_ms * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "binned"
        segments_rule = f"those of shard {reader.digest}"
        write_shard(path, scheme, session, reader.segments, segments_rule=segments_rule, store_digest="")
        yield ShardReader(path)


def session_of(reader: ShardReader) -> Session:
    """The session that a per-spike shard still knows: every spike of its segments, and the behaviours.

    Where segments overlap, a spike stands in the shard more than once; it is taken once.
    """
    row, columns = reader.columns["segment.row"], reader.columns
    times, units, reach = [], [], np.iinfo(np.int64).min
    for g in np.argsort(reader.segments.start_ns, kind="stable"):
        time_ns, unit = columns["time_ns"][row[g] : row[g + 1]], columns["unit"][row[g] : row[g + 1]]
        new = np.searchsorted(time_ns, reach)
        times.append(time_ns[new:])
        units.append(unit[new:])
        reach = max(reach, int(reader.segments.stop_ns[g]))
    info, facts = reader.info, {}
    for name in info.signals:
        facts = with_stated_reach(facts, name, *reader.signal_reach_ns(name))
    return Session(
        id=info.id,
        subject=info.subject,
        start_ns=info.start_ns,
        stop_ns=info.stop_ns,
        units=UnitTable(info.unit_id),
        spikes=Spikes(np.concatenate(times), np.concatenate(units)),
        observed=reader.observed,
        source=Source.from_dict(reader.manifest["source"]),
        splits=reader.splits,
        signals={name: reader.signal(name) for name in info.signals},
        info=facts,
    )
