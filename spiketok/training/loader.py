"""Batches for models: windows cut into reused buffers (Loader), as torch tensors (Batch).

What is unusual:

- A batch is cut by kernels that release the GIL straight into its rows, in the process itself, in threads. A worker
  process costs more than the cut, because every batch then travels through fresh shared memory.
- Everything random is a pure function of (seed, epoch, position): the same batches come for any ``prefetch``, on any
  machine, and after a resume.
- The buffers are reused: the batch in hand and the one before it are valid, older ones are overwritten
  (:meth:`Batch.clone` keeps one).
- Nothing is left out silently: ``Loader.dropped`` says what time no window uses, and why.

Shape letters: B windows in a batch, L tokens, N units, Q query times, C components.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Batch, Facts, Tokens
from spiketok.recording.nouns import Intervals
from spiketok.storage.files import fingerprint
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader
from spiketok.training.sampling import (
    Sampler,
    SessionTokens,
    SessionWindows,
    Stream,
    WindowPlan,
    generator,
)
from spiketok.training.tasks.base import Group, Task, Truth
from spiketok.training.unit_dropout import UnitDropout

PAD_TO = 8  # padded batches are a multiple of this long, as POYO's
RING_SPARE = 2  # batches that stay valid: the one in hand and the one before


class _Buffers:
    """One batch's memory, which grows to the largest batch and is then reused: fresh memory costs more than the cut."""

    def __init__(self) -> None:
        self._bytes: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array of this shape, with whatever was in it before."""
        dtype = np.dtype(dtype)
        size = dtype.itemsize
        for n in shape:
            size *= n
        held = self._bytes.get(name)
        if held is None or held.size < size:
            held = self._bytes[name] = np.empty(size + size // 4 + 64, np.uint8)
        return held[:size].view(dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class _Source:
    """What the loader needs of one session, looked up once."""

    tokens: SessionTokens
    unit_row: np.ndarray
    session_row: int
    truth: dict[str, Truth | None]  # by task
    once: dict[str, Tokens]  # by input of the session: all inside its calibration time

    @property
    def id(self) -> str:
        return self.tokens.id


@dataclass(frozen=True, eq=False)
class _Epoch:
    """The windows that this rank meets in an epoch, batch behind batch, and inside a batch session by session.

    Args:
        windows: all of them. bound: int64 ``[batches + 1]``, the first window of each batch.
        groups: for each batch, the first window of each session in it and the end, counted from the batch's start.
    """

    windows: WindowPlan
    bound: np.ndarray
    groups: list[list[int]]


class Loader:
    """Batches of tokens and targets; iterate over it, an epoch at a time.

    An iteration begins where the loader stands and moves it on; one that runs to its end leaves the loader at the start
    of the next epoch. ``state_dict`` counts batches that were handed out, whatever was prefetched.

    The tensors of a batch share the loader's buffers: the batch in hand and the one before stay valid, older ones are
    overwritten. ``batch.clone()`` keeps one.

    Args:
        sessions: those of the sampler, in its order.
        sampler: which windows, in which order.
        batch_size: windows in a batch, of each rank.
        tasks: what is asked of each window; none for batches without a question.
        calibration: by session id, the time of which the inputs of the session are cut; none is empty time. Where such
            an input takes a block of its tokens (``Once.choose``), a shuffled sampler's batches each draw their own.
        unit_rows: int32 ``[N]`` by session id, what the cut writes for each unit; the session's own rows by default.
        session_rows: by session id; the position in ``sessions`` by default.
        unit_dropout: how many units a window keeps; None keeps all.
        one_session: every batch holds windows of one session. Schemes whose items have the width of the population
            (``binned``) need it where sessions differ in their number of units.
        layout: ``"packed"``, or ``"padded"`` with zeros to a multiple of 8 tokens (and ``valid_BL``).
        prefetch: batches that are cut ahead, each in a thread; 0 cuts in the calling thread.
        seed: of unit dropout, of the order of one-session batches and of blocks of calibration.
        drop_last: leave out batches that are not full.
        rank, world: this process and how many there are. All ranks get equally many batches: of a shuffled sampler's
            windows up to ``world - 1`` are left out, of an unshuffled one's some come twice; ``dropped`` counts them.

    Raises:
        DataError: no window fits. UsageError: the arguments do not go together.
    """

    def __init__(
        self,
        sessions: Sequence[SessionWindows],
        sampler: Sampler,
        *,
        batch_size: int,
        tasks: Sequence[Task] = (),
        calibration: Mapping[str, Intervals] | None = None,
        unit_rows: Mapping[str, np.ndarray] | None = None,
        session_rows: Mapping[str, int] | None = None,
        unit_dropout: UnitDropout | None = None,
        one_session: bool = False,
        layout: str = "packed",
        prefetch: int = 2,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sampler, self.tasks, self.unit_dropout = sampler, tuple(tasks), unit_dropout
        self.batch_size, self.one_session, self.layout = batch_size, one_session, layout
        self.prefetch, self.seed, self.drop_last = prefetch, seed, drop_last
        self.rank, self.world = rank, world
        self.epoch, self.batch = 0, 0
        self._check(sessions)
        held = calibration or {}
        self._sources = [
            self._source(k, s.tokens, held.get(s.id, Intervals.empty()), unit_rows, session_rows)
            for k, s in enumerate(sessions)
        ]
        self._facts = Facts({source.id: source.tokens.info for source in self._sources})
        self._check_items()
        self._dropped: dict[str, int] = {}
        self._planned: tuple[int, _Epoch] = (0, self._plan(0))
        self._n_batches = len(self._planned[1].bound) - 1
        self._ring = [_Buffers() for _ in range(prefetch + RING_SPARE)]
        self._handed = 0  # batches handed out in the loader's life: where in the ring the next one lies
        # weak, so that an iteration that is left ends its threads at once
        self._live: weakref.ref[Generator[Batch, None, None]] | None = None

    # -- set-up

    def _check(self, sessions: Sequence[SessionWindows]) -> None:
        ids = [s.id for s in sessions]
        if ids != [s.id for s in self.sampler.sessions]:
            message = f"the loader has sessions {', '.join(ids)}, its sampler others or another order"
            raise UsageError(message)
        if self.batch_size < 1 or self.prefetch < 0 or not 0 <= self.rank < self.world:
            message = (
                f"batch_size is {self.batch_size}, prefetch {self.prefetch}, rank {self.rank} of world {self.world}: "
                "must be at least 1, at least 0, and a rank below world"
            )
            raise UsageError(message)
        if self.batch_size % self.sampler.together:
            message = (
                f"batch_size is {self.batch_size}, windows come {self.sampler.together} at a time: must be a multiple"
            )
            raise UsageError(message)
        if self.layout not in ("packed", "padded"):
            message = f"layout is '{self.layout}', must be 'packed' or 'padded'"
            raise UsageError(message)

    def _source(self, k: int, tokens: SessionTokens, calibration: Intervals, unit_rows, session_rows) -> _Source:
        info = tokens.info
        for what, given in (("unit_rows", unit_rows), ("session_rows", session_rows)):
            if given is not None and info.id not in given:
                message = f"{what} lacks session {info.id}, it has {', '.join(given) or 'none'}"
                raise UsageError(message)
        unit_row = np.arange(info.n_units) if unit_rows is None else np.asarray(unit_rows[info.id])
        if unit_row.shape != (info.n_units,):
            message = f"unit_rows of {info.id} has shape {unit_row.shape}, the session has {info.n_units} units"
            raise UsageError(message)
        session_row = k if session_rows is None else int(session_rows[info.id])
        unit_row = np.ascontiguousarray(unit_row, np.int32)
        truth = {task.name: None if task.why_not(tokens) else task.truth(tokens) for task in self.tasks}
        return _Source(
            tokens, unit_row, session_row, truth, {n: _once(tokens, n, calibration) for n in tokens.once_names}
        )

    def _check_items(self) -> None:
        first = self._sources[0].tokens
        length_ns = self.sampler.window_ns
        for source in self._sources[1:]:
            other = source.tokens
            if list(other.windowed) != list(first.windowed) or other.once_names != first.once_names:
                message = f"{first.id} has inputs {', '.join(first.windowed)}, {other.id} {', '.join(other.windowed)}"
                raise UsageError(message)
            for name, reader in first.windowed.items():
                mine = other.windowed[name]
                if mine.scheme != reader.scheme:
                    message = f"{first.id} was baked by {reader.scheme}, {other.id} by {mine.scheme}"
                    raise UsageError(message)
                items = reader.scheme.outputs(reader.columns, length_ns)
                if not self.one_session and mine.scheme.outputs(mine.columns, length_ns) != items:
                    message = (
                        f"{first.id} has {first.info.n_units} units and {other.id} {other.info.n_units} (or only one "
                        "has unit_observed): their tokens cannot share a batch, use one_session=True"
                    )
                    raise UsageError(message)

    # -- which windows

    def _plan(self, epoch: int) -> _Epoch:
        """This rank's batches of an epoch; counts what the division leaves out."""
        windows = self.sampler.plan(epoch)
        if len(windows) == 0:
            longest = max((int((s.stop_ns - s.start_ns).max(initial=0)) for s in self.sampler.sessions), default=0)
            message = (
                f"no window of {self.sampler.window_ns / 1e6:g} ms fits in the usable time of "
                f"{len(self._sources)} sessions, whose longest stretch is {longest / 1e6:g} ms: use a shorter window"
            )
            raise DataError(message)
        index, batch_of = (
            self._one_session_batches(windows, epoch) if self.one_session else self._mixed_batches(windows)
        )
        if len(index) == 0:
            message = (
                f"{len(windows)} windows in batches of {self.batch_size} on {self.world} ranks leave no whole batch: "
                "use a smaller batch, fewer ranks or drop_last=False"
            )
            raise DataError(message)
        index = index[np.lexsort((windows.session[index], batch_of))]  # stable: inside a batch in the sampler's order
        windows = windows.take(index)
        bound = np.searchsorted(batch_of, np.arange(batch_of[-1] + 2))
        new = np.flatnonzero(np.diff(windows.session, prepend=-1) | np.diff(batch_of, prepend=-1))
        first = np.searchsorted(new, bound)
        groups = [
            [*(new[first[k] : first[k + 1]] - bound[k]).tolist(), int(bound[k + 1] - bound[k])]
            for k in range(len(bound) - 1)
        ]
        return _Epoch(windows, bound, groups)

    def _own_of(self, rank: int, n: int) -> np.ndarray:
        """Which of ``n`` windows or batches are a rank's: equally many for each rank."""
        if self.sampler.shuffled:
            return np.arange(rank, n // self.world * self.world, self.world)
        return np.arange(rank, -(-n // self.world) * self.world, self.world) % n

    def _mixed_batches(self, windows: WindowPlan) -> tuple[np.ndarray, np.ndarray]:
        """Positions in ``windows``, batch behind batch, and the batch of each."""
        together = self.sampler.together
        n, own = len(windows), self._own_of(self.rank, len(windows) // together)
        own = (own[:, None] * together + np.arange(together)).ravel()
        kept = len(own) // self.batch_size * self.batch_size if self.drop_last else len(own)
        self._dropped = {
            "windows_rank": max(0, n - len(own) * self.world),
            "windows_repeated": max(0, len(own) * self.world - n),
            "windows_last_batch": (len(own) - kept) * self.world,
        }
        return own[:kept], np.arange(kept) // self.batch_size

    def _one_session_batches(self, windows: WindowPlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The same, each batch of one session; a shuffled sampler's batches come in an order of their own."""
        by_session = np.argsort(windows.session, kind="stable")
        size = np.bincount(windows.session, minlength=len(self._sources))
        batches = []
        for own in np.split(by_session, np.cumsum(size)[:-1]):
            batches += [own[k : k + self.batch_size] for k in range(0, len(own), self.batch_size)]
        whole = [b for b in batches if len(b) == self.batch_size or not self.drop_last]
        order = np.arange(len(whole))
        if self.sampler.shuffled:
            order = generator(Stream.BATCH_ORDER, self.seed, epoch).permutation(len(whole))
        met = [order[k] for r in range(self.world) for k in self._own_of(r, len(whole))]
        times = np.bincount(met, minlength=len(whole)) if whole else np.zeros(0, np.int64)
        length = np.array([len(b) for b in whole], np.int64)
        self._dropped = {
            "windows_rank": int(length[times == 0].sum()),
            "windows_repeated": int((length * np.maximum(times - 1, 0)).sum()),
            "windows_last_batch": len(windows) - int(length.sum()),
        }
        own = [whole[order[k]] for k in self._own_of(self.rank, len(whole))]
        return (
            np.concatenate([np.zeros(0, np.int64), *own]),
            np.repeat(np.arange(len(own)), [len(b) for b in own]),
        )

    @property
    def dropped(self) -> dict[str, int]:
        """What no batch holds, by reason: the sampler's time (``_ns``) and intervals, and windows of the division."""
        return self.sampler.dropped | self._dropped

    def __len__(self) -> int:
        """Batches in an epoch, the same in every one."""
        return self._n_batches

    # -- an epoch in another division

    def sizes(self, epoch: int) -> np.ndarray:
        """int64 ``[batches]``: how many windows each batch of an epoch holds."""
        return np.diff(self._epoch_plan(epoch).bound)

    def batch_at(self, epoch: int, number: int) -> Batch:
        """One batch of an epoch by its number, in memory of its own: for who divides an epoch among processes.

        It has the bytes of the batch that iterating gives there, and the loader stands where it stood.
        """
        return self._cut(self._epoch_plan(epoch), epoch, number, _Buffers())

    def _epoch_plan(self, epoch: int) -> _Epoch:
        if self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    # -- where the loader stands

    def state_dict(self) -> dict[str, object]:
        """JSON: where the loader stands (batches handed out), and what it must be to go on from there."""
        return {"epoch": self.epoch, "batch": self.batch, "loader": self._describe()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on with the batch behind the last one that was handed out.

        Raises:
            UsageError: the state is of a loader with other windows or batches.
        """
        here, there = self._describe(), dict(state["loader"])
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                message = f"cannot resume: {name} was {there.get(name)} and is {here.get(name)}"
                raise UsageError(message)
        self._stop()
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def _describe(self) -> dict[str, object]:
        return {
            **self.sampler.describe(),
            "sessions": fingerprint([source.id for source in self._sources]),
            "batches": len(self),
            "batch_size": self.batch_size,
            "one_session": self.one_session,
            "world": self.world,
            "seed": self.seed,
            "unit_dropout": None if self.unit_dropout is None else asdict(self.unit_dropout),
        }

    # -- iteration

    def __iter__(self) -> Iterator[Batch]:
        self._stop()
        iteration = self._iterate()
        self._live = weakref.ref(iteration)
        return iteration

    def _stop(self) -> None:
        """End an iteration that is still open: two at a time would overwrite each other's buffers."""
        iteration = self._live() if self._live is not None else None
        if iteration is not None:
            iteration.close()

    def _iterate(self) -> Generator[Batch, None, None]:
        epoch, n_batches = self.epoch, len(self)
        plan = self._epoch_plan(epoch)
        if self.prefetch == 0:
            while self.batch < n_batches:
                batch = self._cut(plan, epoch, self.batch, self._buffers(0))
                self._hand_out()
                yield batch
        else:
            yield from self._prefetched(plan, epoch, n_batches)
        self.epoch, self.batch = epoch + 1, 0

    def _prefetched(self, plan: _Epoch, epoch: int, n_batches: int) -> Generator[Batch, None, None]:
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.prefetch, thread_name_prefix="spiketok-loader") as pool:

            def top_up() -> None:
                while len(ahead) < min(self.prefetch, n_batches - self.batch):
                    k = len(ahead)
                    ahead.append(pool.submit(self._cut, plan, epoch, self.batch + k, self._buffers(k)))

            try:
                while self.batch < n_batches:
                    top_up()
                    batch = ahead.popleft().result()
                    self._hand_out()
                    top_up()  # before the batch is handed out, so that the next one is cut while it is used
                    yield batch
            finally:
                for future in ahead:
                    future.cancel()

    def _buffers(self, ahead: int) -> _Buffers:
        return self._ring[(self._handed + ahead) % len(self._ring)]

    def _hand_out(self) -> None:
        self.batch += 1
        self._handed += 1

    # -- one batch

    def _cut(self, plan: _Epoch, epoch: int, batch: int, buffers: _Buffers) -> Batch:
        """Cut batch number ``batch``: of each input the lengths of all windows, then all tokens into their rows."""
        windows = plan.windows.take(slice(plan.bound[batch], plan.bound[batch + 1]))
        n_windows = len(windows)
        groups = [
            (
                self._sources[windows.session[low]],
                slice(low, high),
                Windows(windows.segment[low:high], windows.start_ns[low:high], self.sampler.window_ns),
            )
            for low, high in itertools.pairwise(plan.groups[batch])
        ]
        keeps = self._keep(groups, epoch, batch, n_windows, buffers)
        random = generator(Stream.CALIBRATION, self.seed, epoch, self.rank, batch) if self._sources[0].once else None
        session_row = buffers.array("session_row", (n_windows,), np.int64)
        present_row = buffers.array("present_row", (n_windows,), np.int64)
        for k, (source, rows, _) in enumerate(groups):
            session_row[rows], present_row[rows] = source.session_row, k
        cut = Batch(
            inputs={n: self._tokens(n, groups, keeps, n_windows, buffers) for n in self._sources[0].tokens.windowed},
            session_inputs={n: [self._once(s, n, random) for s, _, _ in groups] for n in self._sources[0].once},
            window_ns=self.sampler.window_ns,
            session_B=torch.from_numpy(session_row),
            sessions=[source.id for source, rows, _ in groups for _ in range(rows.start, rows.stop)],
            start_ns=windows.start_ns,
            present=[source.id for source, _, _ in groups],
            present_B=torch.from_numpy(present_row),
            facts=self._facts,
        )
        for task in self.tasks:
            asked = [
                Group(source.tokens, rows, own, source.truth[task.name], keep)
                for (source, rows, own), keep in zip(groups, keeps, strict=True)
            ]
            task.ask(asked, cut, buffers)
        return cut

    def _tokens(self, name: str, groups, keeps, n_windows: int, buffers: _Buffers) -> Tokens:
        """The tokens of one input."""
        length = buffers.array(f"{name}.length", (n_windows,), np.int64)
        for (source, rows, own), keep in zip(groups, keeps, strict=True):
            reader = source.tokens.windowed[name]
            length[rows] = reader.scheme.lengths(reader.columns, own, keep)
        first = groups[0][0].tokens.windowed[name]
        columns, offset, valid, row = self._token_buffers(name, first, length, buffers)
        for (source, rows, own), keep in zip(groups, keeps, strict=True):
            reader = source.tokens.windowed[name]
            reader.scheme.fill(reader.columns, own, row[rows], columns, keep, source.unit_row, length[rows])
        if valid is not None:
            self._pad(columns, length, valid)
            columns = {name: c.reshape(valid.shape + c.shape[1:]) for name, c in columns.items()}
        return Tokens(
            columns={name: torch.from_numpy(column) for name, column in columns.items()},
            offset=None if offset is None else torch.from_numpy(offset),
            valid_BL=None if valid is None else torch.from_numpy(valid),
        )

    def _once(self, source: _Source, name: str, random: np.random.Generator | None) -> Tokens:
        """The tokens of an input of the session that a batch holds: views of those that were cut."""
        held, once = source.once[name], source.tokens.once.get(name)
        n = len(next(iter(held.columns.values()), ()))
        if once is None or once.most is None or n <= once.most:
            return held
        drawn = once.choose == "block" and self.sampler.shuffled
        first = int(random.integers(n - once.most + 1)) if drawn else 0
        rows = slice(first, first + once.most)
        return Tokens({key: column[rows] for key, column in held.columns.items()}, offset=torch.tensor([0, once.most]))

    def _keep(self, groups, epoch: int, batch: int, n_windows: int, buffers: _Buffers) -> list[np.ndarray | None]:
        """For each group bool ``[b, N]``, or None where all units are kept."""
        dropout = self.unit_dropout
        if dropout is None:
            return [None] * len(groups)
        from spiketok.tokens.schemes.kernels import batches as kernels

        random = generator(Stream.UNITS, self.seed, dropout.seed, epoch, self.rank, batch)
        n_units = np.empty(n_windows, np.int64)
        for source, rows, _ in groups:
            n_units[rows] = source.tokens.info.n_units
        n_keep = dropout.n_keep(random.random(n_windows), n_units)
        keeps: list[np.ndarray | None] = []
        for g, (source, rows, _) in enumerate(groups):
            width, wanted = source.tokens.info.n_units, n_keep[rows]
            n_draws = int(np.minimum(wanted, width - wanted).sum())
            draws = random.bit_generator.random_raw(-(-n_draws // 2)).view(np.uint32)
            keep = buffers.array(f"keep{g}", (len(wanted), width), np.bool_)
            kernels.choose_units(wanted, draws, keep)
            keeps.append(keep)
        return keeps

    def _token_buffers(self, name: str, reader: ShardReader, length: np.ndarray, buffers: _Buffers):
        """Flat columns for all windows, offsets or valid flags of the layout, and each window's first row."""
        n_windows = len(length)
        if self.layout == "packed":
            offset = buffers.array(f"{name}.offset", (n_windows + 1,), np.int64)
            offset[0] = 0
            np.cumsum(length, out=offset[1:])
            total, row, valid = int(offset[-1]), offset[:-1], None
        else:
            width = -(-int(length.max()) // PAD_TO) * PAD_TO
            total, row, offset = n_windows * width, np.arange(n_windows) * width, None
            valid = buffers.array(f"{name}.valid", (n_windows, width), np.bool_)
        columns = {
            column: buffers.array(f"{name}.column.{column}", (total, *item), dtype)
            for column, (dtype, item) in reader.scheme.outputs(reader.columns, self.sampler.window_ns).items()
        }
        return columns, offset, valid, row

    @staticmethod
    def _pad(columns: Mapping[str, np.ndarray], length: np.ndarray, valid: np.ndarray) -> None:
        """Zero what lies behind each window's tokens, and flag what lies before."""
        from spiketok.tokens.schemes.kernels import batches as kernels

        np.less(np.arange(valid.shape[1]), length[:, None], out=valid)
        for column in columns.values():
            item_bytes = column.dtype.itemsize * int(np.prod(column.shape[1:]))
            row_bytes = column.reshape(-1).view(np.uint8).reshape(len(length), valid.shape[1] * item_bytes)
            kernels.clear_tails(row_bytes, length * item_bytes)


def _once(tokens: SessionTokens, name: str, calibration: Intervals) -> Tokens:
    """The tokens of an input of the session inside its calibration time, as one window."""
    columns = {key: torch.from_numpy(column) for key, column in tokens.cut_once(name, calibration).items()}
    n = len(next(iter(columns.values()), ()))
    return Tokens(columns, offset=torch.tensor([0, n]))
