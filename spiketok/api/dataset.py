"""Windows as torch knows data: an IterableDataset that workers and ranks divide, and batches as models get them.

What is unusual:

- an epoch is planned as a whole, the same in every process, and then divided: over ranks, and inside a rank over the
  workers of its DataLoader. Every window is met exactly once, whatever their numbers;
- with ``batch_size`` the dataset gives whole batches, each cut by one call of compiled code. Workers take them in turn,
  in the order in which a DataLoader asks workers, so that the same batches come in the same order for any
  ``num_workers`` (give the DataLoader ``batch_size=None``). Without, it gives single windows, as plain dicts;
- everything random (places of windows, order, unit dropout) is a function of seed, epoch and position;
- the epoch is in shared memory: :meth:`WindowDataset.set_epoch` also reaches workers that stay alive.

Shape letters: B windows in a batch, L tokens, N units, T bins, Q query times, C components.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from spiketok.errors import UnknownNameError, UsageError
from spiketok.models.batch import Asked, Batch, Facts, Tokens
from spiketok.recording.nouns import Intervals, SessionInfo
from spiketok.training.loader import Loader
from spiketok.training.predict import score_split
from spiketok.training.sampling import RandomWindows, Sampler, SequentialWindows, SessionWindows
from spiketok.training.sections import DataConfig
from spiketok.training.sessions import DividedSession
from spiketok.training.tasks.base import Score, Task, own_sampler
from spiketok.training.unit_dropout import UnitDropout

AHEAD = 2  # batches that are cut while one is used, where no worker does it
CUT_TOGETHER, PIECES = 32, 64  # single windows are cut in groups: at most so many, at least so many groups an epoch
Window = dict[str, object]


@dataclass(frozen=True)
class Placing:
    """Which windows an epoch has: at random places of the training time, or one behind the other.

    Args:
        window_ns: their length. shuffled: at random places, new ones each epoch. seed: of the places.
    """

    window_ns: int
    shuffled: bool
    seed: int

    def __call__(self, windows: Sequence[SessionWindows], tasks: Sequence[Task]) -> Sampler:
        own = own_sampler(tasks, windows, self.window_ns, seed=self.seed, training=self.shuffled)
        if own is not None:
            return own
        if self.shuffled:
            return RandomWindows(windows, self.window_ns, seed=self.seed)
        return SequentialWindows(windows, self.window_ns)


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that the windows of a dataset follow from; it travels to worker processes, and they open the shards anew.

    Args:
        sessions: with their time divided. tasks: what is asked. split: whose windows.
        sampler: gives the sampler of windows and tasks; a plain function, or one that pickles.
        window_ns, batch_size, layout, one_session, unit_dropout, seed: as of :class:`spiketok.training.loader.Loader`;
            ``batch_size`` None for single windows.
        unit_rows, session_rows: by session id, what stands for each unit and session in a batch.
        data: settings of the windows in which a score is made.
    """

    sessions: Sequence[DividedSession]
    tasks: tuple[Task, ...]
    split: str
    sampler: Callable[[Sequence[SessionWindows], Sequence[Task]], Sampler]
    window_ns: int
    batch_size: int | None
    layout: str
    one_session: bool
    unit_dropout: UnitDropout | None
    seed: int
    unit_rows: Mapping[str, np.ndarray]
    session_rows: Mapping[str, int]
    data: DataConfig

    def loader(self) -> Loader:
        """The loader of this process, whose batches are then divided.

        Raises:
            DataError: no window fits.
        """
        windows = [s.windows(self.split) for s in self.sessions if len(s.splits[self.split])]
        sampler = self.sampler(windows, self.tasks)
        size = self.batch_size
        if size is None:
            n = len(sampler.plan(0))
            size = max(1, min(CUT_TOGETHER, n // PIECES)) * sampler.together
        return Loader(
            windows,
            sampler,
            batch_size=size,
            tasks=self.tasks,
            calibration={s.id: s.calibration for s in self.sessions if s.tokens.once_names},
            unit_rows=self.unit_rows,
            session_rows=self.session_rows,
            unit_dropout=self.unit_dropout,
            one_session=self.one_session,
            layout=self.layout,
            prefetch=0,
            seed=self.seed,
        )

    def to_travel(self) -> Recipe:
        """The same without what was looked up and kept in the meantime."""
        return replace(self, sessions=[replace(s, tokens=replace(s.tokens)) for s in self.sessions])


class WindowDataset(IterableDataset):
    """Windows of sessions for a DataLoader: ``ws.dataset(...)`` and ``ws.prepare(...).dataset()`` make it.

    Without ``batch_size`` each item is a dict of one window, which torch's own collate takes as far as windows have
    equal shapes, and :meth:`collate` always: ``session`` (its id), ``session_row``, ``start_ns``, ``tokens`` (the
    scheme's columns), and where something is asked ``target`` ``[Q, C]`` (normalised by training time), ``weight``
    ``[Q]`` (0 where nothing was measured) and ``time_s`` ``[Q]`` from the window's start. Where a window has tokens of
    several schemes, or several questions, these are dicts by name.

    With ``batch_size`` each item is a :class:`~spiketok.models.batch.Batch`, as the package's models get it.

    A DataLoader that is iterated again gives the windows of the same epoch: call :meth:`set_epoch` before, as of
    torch's DistributedSampler, or take :meth:`loader`, which does.

    Args:
        recipe: what the windows follow from.
        rank, world: this process among those of a distributed training; by default as ``torch.distributed`` says.
        even: every rank gets equally many batches, as a training in step needs it: up to ``world - 1`` batches of an
            epoch are left out, others in each epoch. Without, every window is met exactly once.
    """

    def __init__(self, recipe: Recipe, *, rank: int | None = None, world: int | None = None, even: bool = False):
        super().__init__()
        if (rank is None) != (world is None) or (world is not None and not 0 <= rank < world):
            message = f"rank is {rank} and world {world}: give both, with rank below world, or none"
            raise UsageError(message)
        self.recipe, self.even, self._given = recipe, even, None if world is None else (rank, world)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._made: Loader | None = None
        self._loader()  # what cannot be cut is said here, and not by a worker

    def __repr__(self) -> str:
        of, recipe = [task.name for task in self.tasks], self.recipe
        each = "windows" if recipe.batch_size is None else f"batches of {recipe.batch_size}"
        asked = f", {', '.join(of)}" if of else ""
        return (
            f"WindowDataset({recipe.split} of {len(recipe.sessions)} sessions, {recipe.window_ns / 1e9:g} s{asked}: "
            f"{len(self)} {each} an epoch)"
        )

    def __getstate__(self) -> dict[str, object]:
        # a worker that is spawned knows of no process group: where it belongs is said here, once there is one
        given = self.place if _in_group() else self._given
        return self.__dict__ | {"recipe": self.recipe.to_travel(), "_made": None, "_given": given}

    # ---- what it is -----------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is asked, fitted on training time."""
        return self.recipe.tasks

    @property
    def sessions(self) -> list[str]:
        """Ids of the sessions, in order."""
        return [session.id for session in self.recipe.sessions]

    @property
    def infos(self) -> dict[str, SessionInfo]:
        """By session id its units and behaviours, as models get them (``Batch.facts``)."""
        return {session.id: session.tokens.info for session in self.recipe.sessions}

    @property
    def units(self) -> list[str]:
        """The units of all sessions, ``"<dataset>/<session>/<unit>"``: a token's ``unit`` is a row of this list."""
        return [key for session in self.recipe.sessions for key in session.tokens.info.unit_keys()]

    @property
    def place(self) -> tuple[int, int]:
        """The rank of this process and the number of processes."""
        if self._given is not None:
            return self._given
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _in_group() else (0, 1)

    @property
    def dropped(self) -> dict[str, int]:
        """Time of the split that no window uses, in ns by reason, and with ``even`` the batches that no rank has."""
        _, world = self.place
        left = len(self._loader().sizes(self.epoch)) % world if self.even else 0
        return self._loader().dropped | ({"batches_rank": left} if self.even else {})

    @property
    def epoch(self) -> int:
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration gives; it also reaches the workers of a DataLoader that keeps them."""
        if epoch < 0:
            message = f"epoch is {epoch}, must be at least 0"
            raise UsageError(message)
        self._epoch[0] = epoch

    def of(self, split: str, **changes: object) -> WindowDataset:
        """The same questions on another split, in windows one behind the other unless it is ``"train"``.

        Args:
            changes: ``batch_size``, ``layout``, ``rank``, ``world`` or ``even``, where they are to be others.

        Raises:
            UnknownNameError: there is no such split. DataError: it has no window.
        """
        known = self.recipe.sessions[0].splits
        if split not in known:
            raise UnknownNameError("split", split, known)
        recipe, training = self.recipe, split == "train"
        if training != (recipe.split == "train"):
            sampler = Placing(recipe.window_ns, training, recipe.seed)
            recipe = replace(recipe, sampler=sampler, unit_dropout=recipe.unit_dropout if training else None)
        own = {key: changes.pop(key) for key in ("batch_size", "layout") if key in changes}
        place = {} if self._given is None else dict(zip(("rank", "world"), self._given, strict=True))
        return WindowDataset(replace(recipe, split=split, **own), **({"even": self.even} | place | changes))

    # ---- iteration ------------------------------------------------------------------------------------------------

    def _loader(self) -> Loader:
        if self._made is None:
            self._made = self.recipe.loader()
        return self._made

    def _own(self) -> range:
        """The numbers of the batches (or groups of windows) of an epoch that this rank has."""
        rank, world = self.place
        n = len(self._loader().sizes(self.epoch))
        return range(rank, n // world * world if self.even else n, world)

    def __len__(self) -> int:
        """Items of an epoch of this rank, over all its workers."""
        own = self._own()
        if self.recipe.batch_size is not None:
            return len(own)
        return int(self._loader().sizes(self.epoch)[own.start : own.stop : own.step].sum())

    def __iter__(self) -> Iterator[Batch | Window]:
        info, epoch = get_worker_info(), self.epoch
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        for batch in self._batches(epoch, self._own()[worker::workers], 0 if info is not None else AHEAD):
            if self.recipe.batch_size is None:
                yield from self._windows(batch)
            elif info is None:
                yield batch
            else:  # what travels to the process that asked
                yield replace(batch, facts=Facts({session: batch.facts[session] for session in batch.present}))

    def _batches(self, epoch: int, numbers: Sequence[int], ahead: int) -> Iterator[Batch]:
        """Batches by their numbers, in order; some are cut in threads while one is used."""
        loader = self._loader()
        loader.sizes(epoch)  # planned once, before any thread asks
        if not ahead:
            yield from (loader.batch_at(epoch, number) for number in numbers)
            return
        left, waiting = iter(numbers), deque()
        with ThreadPoolExecutor(ahead, thread_name_prefix="spiketok-dataset") as pool:
            try:
                for number in itertools.islice(left, ahead):
                    waiting.append(pool.submit(loader.batch_at, epoch, number))
                while waiting:
                    batch = waiting.popleft().result()
                    for number in itertools.islice(left, 1):
                        waiting.append(pool.submit(loader.batch_at, epoch, number))
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()

    def _windows(self, batch: Batch) -> Iterator[Window]:
        """The windows of a batch as plain dicts, in memory of their own."""
        whole = [name for name, one in batch.asked.items() if one.span is not None or one.exposure is not None]
        if whole or batch.session_inputs:
            why = f"'{whole[0]}' asks more than values at times" if whole else "calibration is read once a session"
            message = f"single windows cannot hold all of it, {why}: take batches, by batch_size=B"
            raise UsageError(message)
        for b, session in enumerate(batch.sessions):
            tokens = {name: _rows(held.columns, held.offset, b) for name, held in batch.inputs.items()}
            window: Window = {
                "session": session,
                "session_row": int(batch.session_B[b]),
                "start_ns": int(batch.start_ns[b]),
                "tokens": tokens if len(tokens) > 1 else next(iter(tokens.values())),
            }
            asked = {name: _asked(one, b) for name, one in batch.asked.items()}
            if len(asked) == 1:
                window |= next(iter(asked.values()))
            elif asked:
                window |= {
                    key: {name: one[key] for name, one in asked.items()} for key in ("target", "weight", "time_s")
                }
                window["time_ns"] = {name: one["time_ns"] for name, one in asked.items()}
            if batch.hidden:
                window["hidden"] = {
                    name: hidden[batch.inputs[name].offset[b] : batch.inputs[name].offset[b + 1]].clone()
                    for name, hidden in batch.hidden.items()
                }
            yield window

    def collate(self, windows: Sequence[Window]) -> Batch:
        """Single windows as one batch, as the package's models get it: the ``collate_fn`` of a DataLoader.

        Raises:
            UsageError: the windows have columns of different widths (sessions with other numbers of units).
        """
        names = list(self.recipe.sessions[0].tokens.windowed)
        inputs, hidden = {}, {}
        for name in names:
            parts = [w["tokens"] if len(names) == 1 else w["tokens"][name] for w in windows]
            length = [len(next(iter(part.values()))) for part in parts]
            columns = {column: _joined([part[column] for part in parts], column, windows) for column in parts[0]}
            inputs[name] = Tokens(columns, _offset(length))
        for name in windows[0].get("hidden", {}):
            hidden[name] = torch.cat([w["hidden"][name] for w in windows])
        asked = {}
        for task in self.tasks:
            one = len(self.tasks) == 1

            def of(key: str, task: Task = task, one: bool = one) -> list[Tensor]:
                return [w[key] if one else w[key][task.name] for w in windows]

            asked[task.name] = Asked(
                time=torch.cat(of("time_s")),
                offset=_offset([len(time) for time in of("time_s")]),
                ns=torch.cat(of("time_ns")).numpy(),
                target=_joined(of("target"), f"target of {task.name}", windows),
                weight=torch.cat(of("weight")),
            )
        sessions = [str(w["session"]) for w in windows]
        present = list(dict.fromkeys(sessions))
        infos = self.infos
        return Batch(
            inputs=inputs,
            window_ns=self.recipe.window_ns,
            session_B=torch.tensor([w["session_row"] for w in windows], dtype=torch.int64),
            sessions=sessions,
            start_ns=np.array([w["start_ns"] for w in windows], np.int64),
            asked=asked,
            hidden=hidden,
            present=present,
            present_B=torch.tensor([present.index(session) for session in sessions], dtype=torch.int64),
            facts=Facts({session: infos[session] for session in present}),
        )

    def loader(self, **options: object) -> WindowLoader:
        """A DataLoader of this dataset, each iteration of which is the next epoch.

        Args:
            options: of ``torch.utils.data.DataLoader``, as ``num_workers``; of single windows also ``batch_size``.
        """
        if self.recipe.batch_size is not None:
            options = {"batch_size": None} | options
        else:
            options = {"collate_fn": self.collate} | options
        return WindowLoader(self, **options)

    # ---- scores ---------------------------------------------------------------------------------------------------

    def score(
        self,
        model: Callable[[Batch], Tensor | Mapping[str, Tensor]],
        split: str = "test",
        device: torch.device | str = "cpu",
    ) -> dict[str, dict[str, Score]]:
        """The scores of any model on a split, by session and question, as ``spiketok train`` scores its own.

        Windows overlap by half and predictions at the same time are averaged, in the behaviour's own measure.

        Args:
            model: gives for a batch what it predicts, ``[Q, C]`` at ``asked.time`` of the one question, normalised as
                the targets are; of several questions a dict by name. A module is put into eval mode for the time.

        Raises:
            UsageError: nothing is asked, or what it gives has another shape than the targets.
        """
        if not self.tasks:
            message = "nothing is asked of these windows, so there is nothing to score: ws.dataset(..., target=NAME)"
            raise UsageError(message)
        if split not in self.recipe.sessions[0].splits:
            raise UnknownNameError("split", split, self.recipe.sessions[0].splits)
        own = _Answering(model, self.recipe)
        config = SimpleNamespace(data=self.recipe.data)
        return score_split(own, self.recipe.sessions, split, config, device)[0]


class WindowLoader(DataLoader):
    """A DataLoader that goes on to the next epoch each time that it is iterated.

    Attributes:
        next_epoch: which one comes.
    """

    def __init__(self, dataset: WindowDataset, **options: object) -> None:
        super().__init__(dataset, **options)
        self.next_epoch = dataset.epoch

    def __iter__(self) -> Iterator:
        self.dataset.set_epoch(self.next_epoch)
        self.next_epoch += 1
        return super().__iter__()


class _Answering:
    """Any callable as far as a score asks a model."""

    carries = causal = False
    unanswered_ns = 0

    def __init__(self, answer: Callable[[Batch], Tensor | Mapping[str, Tensor]], recipe: Recipe) -> None:
        self.answer, self.recipe, self.one_session_batches = answer, recipe, recipe.one_session

    @property
    def training(self) -> bool:
        return isinstance(self.answer, nn.Module) and self.answer.training

    def eval(self) -> None:
        self.train(False)

    def train(self, mode: bool) -> None:
        if isinstance(self.answer, nn.Module):
            self.answer.train(mode)

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        return self.recipe.unit_rows[info.id]

    def session_row(self, session_id: str) -> int:
        return self.recipe.session_rows[session_id]

    def predict(self, batch: Batch, carry: object) -> tuple[Mapping[str, Tensor], object]:
        said = self.answer(batch)
        if isinstance(said, Tensor):
            said = dict.fromkeys(batch.asked, said)
        for name, asked in batch.asked.items():
            shape = None if name not in said else tuple(said[name].shape)
            values = asked.target.is_floating_point()
            expected = tuple(asked.target.shape) if values else (len(asked.target), "classes")
            if shape is None or (shape != expected if values else shape[:1] != expected[:1]):
                message = f"the model gives {shape or 'nothing'} for '{name}', asked is {expected}"
                raise UsageError(message)
        return said, None


def _in_group() -> bool:
    """Whether this process is one of a distributed training."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


# ---- windows and batches --------------------------------------------------------------------------------------------


def _rows(columns: Mapping[str, Tensor], offset: Tensor, b: int) -> dict[str, Tensor]:
    return {name: column[offset[b] : offset[b + 1]].clone() for name, column in columns.items()}


def _asked(asked: Asked, b: int) -> dict[str, Tensor]:
    rows = slice(int(asked.offset[b]), int(asked.offset[b + 1]))
    return {
        "target": asked.target[rows].clone(),
        "weight": asked.weight[rows].clone(),
        "time_s": asked.time[rows].clone(),
        "time_ns": torch.from_numpy(np.array(asked.ns[rows], np.int64)),
    }


def _offset(length: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(length)]).astype(np.int64))


def _joined(parts: Sequence[Tensor], what: str, windows: Sequence[Window]) -> Tensor:
    width = {tuple(part.shape[1:]): w["session"] for part, w in zip(parts, windows, strict=True)}
    if len(width) > 1:
        (one, first), (other, second) = list(width.items())[:2]
        message = (
            f"'{what}' is {list(one)} wide in {first} and {list(other)} in {second}, which cannot share a batch: "
            "ws.dataset(..., batch_size=B) makes batches of one session"
        )
        raise UsageError(message)
    return torch.cat(list(parts))


def rows_of_all(sessions: Sequence[DividedSession]) -> dict[str, np.ndarray]:
    """int32 ``[N]`` by session id: rows of the units of all sessions, one session behind the other."""
    found, first = {}, 0
    for session in sessions:
        n = session.tokens.info.n_units
        found[session.id] = np.arange(first, first + n, dtype=np.int32)
        first += n
    return found


def differ_in_width(sessions: Sequence[DividedSession], window_ns: int) -> bool:
    """Whether tokens of these sessions have items of different widths, so that they cannot share a batch."""
    shapes = [
        {name: r.scheme.outputs(r.columns, window_ns) for name, r in session.tokens.windowed.items()}
        for session in sessions
    ]
    return any(own != shapes[0] for own in shapes[1:])


def empty_split(sessions: Sequence[DividedSession], split: str) -> bool:
    """Whether no session has time of a split."""
    return not any(len(session.splits.get(split, Intervals.empty())) for session in sessions)
