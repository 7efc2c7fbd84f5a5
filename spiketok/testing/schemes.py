"""The laws of a token scheme (``spiketok/tokens/schemes/base.py``), each for one session, its segments and windows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, Stimulus
from spiketok.storage.store import session_info
from spiketok.testing.sessions import nasty_cases, nasty_session
from spiketok.tokens.live import Streamer
from spiketok.tokens.schemes import Scheme, scheme_config, scheme_from_config, why_no_scheme
from spiketok.tokens.schemes.base import Columns, Tokens, Windows
from spiketok.tokens.shards import ShardReader, plan_bytes, write_shard

Keep = np.ndarray | None


def laws_of_scheme(cls: type, variants: Sequence[Scheme], reference) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """By name, each law for every variant of a scheme."""
    of_cases = {
        "2 and 6: a window does not depend on others": windows_are_alone,
        "fill writes its own rows only": fill_writes_its_own_rows,
        "3: no spike is invented or lost without a count": spikes_are_counted,
        "4: tokens survive detokenize": tokens_survive_detokenize,
        "7: the same bytes in any thread": threads_change_nothing,
        "the plan bounds the bake": plan_bounds_the_bake,
        "what is baked passes its own check, and nothing else": bake_passes_the_check,
    }
    yield "it says what it is", lambda _: says_what_it_is(cls)
    for k, scheme in enumerate(variants):
        end = f" [{scheme}]" if len(variants) > 1 else ""
        if reference is not None:
            yield f"1: a cut equals the reference{end}", partial(_each, cut_equals, scheme, reference=reference)
        for name, law in of_cases.items():
            yield f"{name}{end}", partial(_each, law, scheme)
        yield f"5: it is its JSON{end}", lambda _, s=scheme: is_its_json(s)
        yield f"a window that does not fit is refused{end}", lambda _, s=scheme: misplaced_windows_are_refused(s)
        yield f"units that do not fit are refused{end}", lambda _, s=scheme: misfit_units_are_refused(s)
        yield f"a shard is what was baked{end}", partial(_shard, scheme, k)
        if not scheme.not_live:
            yield f"7: a live stream gives the bytes of the shard{end}", lambda _, s=scheme: _streamed(s)


def _each(law, scheme: Scheme, folder: Path, **how) -> None:
    for number, (session, segments, window, keep) in enumerate(nasty_cases(scheme)):
        try:
            law(scheme, session, segments, window, keep, **how)
        except AssertionError as error:
            message = f"case {number} of nasty_cases, {len(session.spikes)} spikes, {len(window)} windows: {error}"
            raise AssertionError(message) from error


# ---- tokens ---------------------------------------------------------------------------------------------------------


def token_rows(tokens: Tokens, b: int) -> dict[str, np.ndarray]:
    """The tokens of window b."""
    return {name: column[tokens.offset[b] : tokens.offset[b + 1]] for name, column in tokens.columns.items()}


def one(windows: Windows, b: int) -> Windows:
    return Windows(windows.segment[b : b + 1], windows.start_ns[b : b + 1], windows.length_ns)


def cut_one(scheme: Scheme, columns: Columns, windows: Windows, b: int, keep=None, unit_row=None) -> Tokens:
    return scheme.cut(columns, one(windows, b), None if keep is None else keep[b : b + 1], unit_row)


def assert_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Same columns, dtypes and bytes (NaN equals NaN)."""
    assert found.keys() == wanted.keys(), f"columns are {sorted(found)}, expected {sorted(wanted)}"
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, f"{name} is {found[name].dtype}, expected {wanted[name].dtype}"
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def of_all_units(known: Signal, n_units: int) -> Signal:
    """A signal whose components are the rows of the units that left tokens, with zeros for the others."""
    value = np.zeros((len(known.time_ns), n_units), np.float32)
    value[:, [int(row) for row in known.components]] = known.value
    return Signal(known.time_ns, value, tuple(str(n) for n in range(n_units)), known.measure, known.valid)


# ---- laws of one session, its segments and windows ------------------------------------------------------------------


def other_rows(session: Session) -> np.ndarray:
    """Rows of a vocabulary for the session's units, in an order that is not theirs."""
    return np.arange(len(session.units), dtype=np.int32)[::-1] * 3 + 5


def cut_equals(scheme, session, segments, window, keep: Keep, unit_row=None, *, reference) -> None:
    """Law 1, and with it 2 and 6: exact tokens, dtypes included, alone and among others.

    Args:
        reference: gives the columns of window b, see :func:`spiketok.testing.laws`.
    """
    columns = scheme.bake(session, segments).columns
    for rows in (unit_row,) if unit_row is not None else (None, other_rows(session)):
        tokens = scheme.cut(columns, window, keep, rows)
        for b in range(len(window)):
            wanted = reference(scheme, session, segments, window, b, keep, rows)
            assert_same(token_rows(tokens, b), wanted)
            assert_same(cut_one(scheme, columns, window, b, keep, rows).columns, wanted)


def windows_are_alone(scheme, session, segments, window, keep: Keep, unit_row=None) -> None:
    """Laws 2 and 6: with unit dropout and a vocabulary's rows a window is the same alone and among others."""
    columns = scheme.bake(session, segments).columns
    tokens = scheme.cut(columns, window, keep, unit_row)
    assert tokens.offset.dtype == np.int64, f"the offsets are {tokens.offset.dtype}"
    assert {len(column) for column in tokens.columns.values()} == {tokens.offset[-1]}, "columns differ in length"
    np.testing.assert_array_equal(np.diff(tokens.offset), scheme.lengths(columns, window, keep))
    assert scheme.empty(tokens).shape == (tokens.offset[-1],), "empty() has not one flag a token"
    for b in range(len(window)):
        assert_same(cut_one(scheme, columns, window, b, keep, unit_row).columns, token_rows(tokens, b))
    if "unit" in tokens.columns and unit_row is None:
        rows, held = other_rows(session), ~scheme.empty(tokens)  # what stands in tokens of no spike is the scheme's
        own = tokens.columns["unit"][held]
        mapped = scheme.cut(columns, window, keep, rows).columns["unit"][held]
        np.testing.assert_array_equal(mapped[own >= 0], rows[own[own >= 0]], err_msg="rows of a vocabulary")


def fill_writes_its_own_rows(scheme, session, segments, window, keep: Keep, wanted=None) -> None:
    """Windows may be filled in any order into buffers that hold other things.

    Args:
        wanted: gives the columns of window b; those of a cut of its own by default.
    """
    columns = scheme.bake(session, segments).columns
    length = scheme.lengths(columns, window, keep)
    row = 3 + np.concatenate([[0], np.cumsum(length + 2)])[:-1].astype(np.int64)
    total = int((length + 2).sum()) + 6
    outputs = scheme.outputs(columns, window.length_ns)
    out = {name: np.full((total, *item), 99, dtype) for name, (dtype, item) in outputs.items()}
    scheme.fill(columns, window, row, out, keep)
    free = np.ones(total, np.bool_)
    for b in range(len(window)):
        own = slice(row[b], row[b] + length[b])
        expected = cut_one(scheme, columns, window, b, keep).columns if wanted is None else wanted(b)
        assert_same({n: c[own] for n, c in out.items()}, expected)
        free[own] = False
    assert all((column[free] == 99).all() for column in out.values()), "rows of no window were written"


def spikes_are_counted(scheme, session, segments, window=None, keep: Keep = None) -> None:
    """Law 3, as far as it can be told of any scheme: what lies in no segment is lost, and counted as such."""
    baked = scheme.bake(session, segments)
    times = session.spikes.time_ns.tolist()
    pairs = list(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True))
    reached = sum(any(a <= t < z for a, z in pairs) for t in times)
    lost = baked.lost["outside_segments"]
    assert lost == len(times) - reached, f"{len(times) - reached} spikes lie in no segment, it counts {lost}"
    assert all(count >= 0 for count in baked.lost.values()), f"lost spikes are {baked.lost}"
    if len(segments) == 1 and scheme.reads_units and set(baked.lost) == {"outside_segments"}:
        held = scheme.spikes_held(baked.columns)
        assert held == reached, f"{reached} spikes lie in the segment, it says that it holds {held}"


def tokens_survive_detokenize(scheme, session, segments, window, keep: Keep) -> None:
    """Law 4: a session made of a window's detokenized spikes gives the same tokens, dropout included."""
    tokens = scheme.cut(scheme.bake(session, segments).columns, window, keep)
    back = scheme.detokenize(tokens, window)
    assert len(back) == len(window), f"detokenize gives {len(back)} of {len(window)} windows"
    for b, known in enumerate(back):
        start, stop = window.start_ns[b] - scheme.lookback_ns, window.start_ns[b] + window.length_ns
        assert ((known.time_ns >= start) & (known.time_ns < stop)).all(), "it gives times outside of the window"
        if isinstance(known, Signal):
            known = of_all_units(known, len(session.units))
            again = replace(session, signals={**session.signals, scheme.signal: known})
        elif isinstance(known, Stimulus):
            again = replace(session, stimuli=dict.fromkeys(session.stimuli, known))
        else:
            assert isinstance(known, Spikes), f"detokenize gives {type(known).__name__}"
            again = replace(session, spikes=known)
        found = cut_one(scheme, scheme.bake(again, segments).columns, window, b, keep)
        assert_same(found.columns, token_rows(tokens, b))


def threads_change_nothing(scheme, session, segments, window, keep: Keep = None) -> None:
    """Law 7: baking and cutting in threads beside others, and in pieces, gives the same bytes."""
    baked = scheme.bake(session, segments)
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda _: scheme.bake(session, segments), range(3)))
        pieces = list(pool.map(lambda b: scheme.cut(baked.columns, one(window, b)), range(len(window))))
    for other in others:
        assert other.lost == baked.lost, f"lost spikes are {other.lost} and {baked.lost}"
        assert_same(other.columns, baked.columns)
    whole = scheme.cut(baked.columns, window)
    for b, piece in enumerate(pieces):
        assert_same(piece.columns, token_rows(whole, b))


def plan_bounds_the_bake(scheme, session, segments, window=None, keep: Keep = None) -> None:
    """Columns, dtypes and an upper bound of their rows are known before any work; what is baked is read-only."""
    info = session_info(session)
    plan, columns = scheme.plan(info, segments), scheme.bake(session, segments).columns
    assert columns.keys() <= plan.keys(), f"columns {sorted(columns.keys() - plan.keys())} are in no plan"
    for name, column in columns.items():
        found = column.dtype, column.shape[1:]
        assert found == (plan[name].dtype, plan[name].item), f"{name} is {found}, planned was {plan[name]}"
        assert len(column) <= plan[name].rows, f"{name} has {len(column)} rows, planned were {plan[name].rows}"
        assert not column.flags.writeable, f"{name} can be written: freeze() what is baked"
    assert plan_bytes(scheme, info, segments) >= sum(c.nbytes for c in columns.values())


def bake_passes_the_check(scheme, session, segments, window=None, keep: Keep = None) -> None:
    """``check`` takes what was baked, and refuses it where a column that it needs is gone or of another dtype."""
    columns = dict(scheme.bake(session, segments).columns)
    scheme.check(columns)
    for name in ("segment.start_ns", "segment.stop_ns", "segment.row"):
        assert name in columns, f"every bake has the column {name}"
    for name, column in columns.items():
        other = column.astype(np.float64 if column.dtype != np.float64 else np.float32)
        try:
            scheme.check(columns | {name: other})
        except ArtefactError as error:
            assert name.split(".")[0] in str(error), f"of a wrong {name} it says: {error}"
        else:
            message = f"check() takes {name} as {other.dtype}"
            raise AssertionError(message)


# ---- laws of a scheme alone -----------------------------------------------------------------------------------------


def says_what_it_is(cls: type) -> None:
    """It could be registered, and tells people what it is."""
    fault = why_no_scheme(cls)
    assert not fault, fault
    assert cls.readers and all((cls.token, cls.keeps, cls.loses)), "readers, token, keeps and loses are words"
    assert type(cls.version) is int and cls.version >= 1, f"version is {cls.version!r}"


def is_its_json(scheme) -> None:
    """Law 5."""
    assert type(scheme)(**json.loads(json.dumps(asdict(scheme)))) == scheme
    assert scheme_from_config(json.loads(json.dumps(scheme_config(scheme)))) == scheme
    assert hash(scheme) == hash(scheme_from_config(scheme_config(scheme)))


def misplaced_windows_are_refused(scheme, session_of: Callable[[int], Session] | None = None) -> None:
    """Windows outside of their segment, off the grid or of a length that cannot be: a kernel would read elsewhere.

    Args:
        session_of: gives a session that the scheme serves, from 0 to a time; one with a spike by default.
    """
    length, grid = scheme.window_ns or scheme.length_grid_ns, scheme.grid_ns
    far = 10 * max(length, 100_000_000)
    whole = Intervals([0, far + grid], [far, 2 * far])
    columns = scheme.bake((session_of or _plain)(2 * far), whole).columns
    last = (far - length) // grid * grid
    wrong = [(0, -grid, length), (0, last + grid, length), (1, 0, length), (2, 0, length), (-1, 0, length), (0, 0, 0)]
    if grid > 1:
        wrong += [(0, 1, length)]
    if scheme.length_grid_ns > 1:
        wrong += [(0, 0, length + 1)]
    if scheme.window_ns:
        wrong += [(0, 0, length + scheme.length_grid_ns)]
    for segment, start, size in wrong:
        shown = f"a window of {size} ns at {start} ns of segment {segment}"
        _refused(
            lambda w: scheme.cut(columns, w), Windows(np.array([segment]), np.array([start]), size), "window", shown
        )


def misfit_units_are_refused(scheme, session_of: Callable[[int], Session] | None = None) -> None:
    """``keep`` and ``unit_row`` of other dtypes and shapes: a kernel would read behind the end of its arrays."""
    length = scheme.window_ns or scheme.length_grid_ns
    session = (session_of or _plain)(length)
    columns = scheme.bake(session, Intervals([0], [length])).columns
    window, n = Windows(np.array([0]), np.array([0]), length), len(session.units)
    for keep in (np.ones((1, n - 1), bool), np.ones((2, n), bool), np.ones(n, bool), np.ones((1, n), np.uint8)):
        shown = f"keep of {keep.dtype} {keep.shape}"
        _refused(lambda k: scheme.cut(columns, window, k), keep, "keep is", shown)
    if "unit" in scheme.outputs(columns, length):
        for unit_row in (np.zeros(n - 1, np.int32), np.zeros(n, np.int64)):
            shown = f"unit_row of {unit_row.dtype} {unit_row.shape}"
            _refused(lambda r: scheme.cut(columns, window, None, r), unit_row, "unit_row is", shown)


def _refused(call: Callable, wrong: object, words: str, shown: str) -> None:
    try:
        call(wrong)
    except UsageError as error:
        assert words in str(error), f"of {shown} it says: {error}"
    else:
        message = f"{shown} is taken"
        raise AssertionError(message)


def _plain(stop_ns: int) -> Session:
    """Two units, a spike at the start."""
    session = nasty_session(1)
    spikes = Spikes(np.zeros(1, np.int64), np.zeros(1, np.int32))
    units = replace(session.units, id=np.array(["u", "v"]), columns={})
    return replace(session, start_ns=0, stop_ns=stop_ns, units=units, spikes=spikes, observed=Intervals([0], [stop_ns]))


def _shard(scheme: Scheme, k: int, folder: Path) -> None:
    """Written and read again; the bytes of two bakes are the same."""
    session = nasty_session(7)
    segments = Intervals([session.start_ns], [session.stop_ns])
    how = {"segments_rule": "continuous", "store_digest": "d" * 64}
    told = [write_shard(folder / f"{k}-{n}", scheme, session, segments, **how) for n in range(2)]
    assert told[0]["digest"] == told[1]["digest"], "two bakes of a session have other bytes"
    reader = ShardReader(folder / f"{k}-0")
    assert reader.scheme == scheme, f"a shard of {scheme} is read as {reader.scheme}"
    for name, column in scheme.bake(session, segments).columns.items():
        np.testing.assert_array_equal(reader.columns[name], column, err_msg=name)


def _streamed(scheme: Scheme) -> None:
    """Law 7: pushed in pieces of any size, the windows of a stream are those of the shard."""
    for seed in range(8):
        session = nasty_session(seed)
        length = scheme.window_ns or scheme.length_grid_ns * max(1, 40_000_000 // scheme.length_grid_ns)
        streamer = Streamer(scheme, session, length, step_ns=length)
        found, low, rng = [], 0, np.random.default_rng(seed)
        while low < len(session.spikes):
            high = low + int(rng.integers(1, 20))
            found += streamer.push(session.spikes.time_ns[low:high], session.spikes.unit[low:high])
            low = high
        found += streamer.finish(session.stop_ns)
        columns = scheme.bake(session, Intervals([session.start_ns], [session.stop_ns])).columns
        starts = np.arange(session.start_ns, session.stop_ns - length + 1, length)
        assert [start for start, _ in found] == starts.tolist(), "the windows of the stream begin elsewhere"
        window = Windows(np.zeros(len(starts), np.int64), starts, length)
        for b, (_, tokens) in enumerate(found):
            assert_same(tokens.columns, cut_one(scheme, columns, window, b).columns)
