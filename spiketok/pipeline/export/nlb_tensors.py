"""The benchmark's tensors, from a stored session: what nlb_tools' three ``make_..._tensors`` return, key by key.

    train = train_input(session, behaviour=True, forward=True)      # train_spikes_heldin [R, T, U] ...
    eval_ = eval_input(session, "test")                             # eval_spikes_heldin
    target = eval_target(session, psth=True)["mc_maze_small"]       # eval_spikes_heldout, eval_behavior, psth ...

Names of keys, shapes, order of trials and numbers are those of nlb_tools 0.0.4 (``make_tensors.py``), compared in
tests/sources/test_oracle_nlb.py. What differs: spikes are float32 (float16 there, float32 in its files); a window that
reaches past the recording or into unobserved time keeps its length and is nan there (it is cut, and then refused,
there); the name of the validation split is ``valid`` (``val`` is accepted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session
from spiketok.recording.segments import held_in_trials
from spiketok.sources.catalogue.nlb.benchmark import BENCHMARKS
from spiketok.sources.catalogue.nlb.grid import Grid, Group, behaviour, count, grid_of, group_of, smooth
from spiketok.storage.files import atomic_file
from spiketok.storage.hdf5 import writing_hdf5

SPLITS = {"train": ("train",), "valid": ("val", "valid"), "val": ("val", "valid"), "test": ("test",)}
BIN_MS = 5
END_EARLY_NS = 1000  # a window's last bin begins at least 1 us before its end
TOO_SHORT = 0.8  # trials shorter than this share of their condition's mean are no part of its PSTH


# ---- what is asked for ----------------------------------------------------------------------------------------------


def train_input(
    session: Session,
    dataset: str = "",
    split: str = "train",
    *,
    bin_ms: int = BIN_MS,
    with_behaviour: bool = False,
    with_forward: bool = False,
    seed: int = 0,
    observed: str = "first",
) -> dict[str, np.ndarray]:
    """What a model may be trained on.

    Args:
        session: with the train file's units, as the rules "nlb" store it.
        dataset: a name of BENCHMARKS; empty: the session's dataset.
        split: ``"train"``, ``"valid"``, or several joined by ``+``.
        bin_ms: 5 or 20 (any whole number of ms).
        seed: of the jitter of dmfc_rsg.
        observed: ``"first"`` or ``"all"``: see :func:`spiketok.sources.catalogue.nlb.grid.group_of`.

    Returns:
        ``train_spikes_heldin`` and ``train_spikes_heldout``, float32 ``[R, T, U]``, nan where not observed; with
        behaviour ``train_behavior``, float64 ``[R, T, C]`` (dmfc_rsg: ``[R, 5]``); with forward the same spikes
        ``..._forward`` over the next 200 ms.

    Raises:
        DataError: the session lacks what the benchmark needs. UnknownNameError: no such set or split.
    """
    cut = _Cut(session, dataset, bin_ms, observed)
    rows = cut.rows(split, jitter_seed=seed)
    low, high = cut.bench.window_ms
    window = cut.window(rows, low, high, overlap=cut.bench.overlap)
    out = {f"train_spikes_{name}": cut.spikes(name, window) for name in ("heldin", "heldout")}
    if with_behaviour:
        out["train_behavior"] = cut.behaviour(rows, overlap=cut.bench.overlap)
    if with_forward:
        ahead = cut.forward(rows)
        out |= {f"train_spikes_{name}_forward": cut.spikes(name, ahead) for name in ("heldin", "heldout")}
    return out


def eval_input(
    session: Session,
    dataset: str = "",
    split: str = "valid",
    *,
    bin_ms: int = BIN_MS,
    seed: int = 0,
    observed: str = "first",
) -> dict[str, np.ndarray]:
    """What a model is given at evaluation: ``eval_spikes_heldin``, and ``eval_spikes_heldout`` where it is public.

    Arguments, shapes and errors as :func:`train_input`; ``split`` may be ``"test"`` too.
    """
    cut = _Cut(session, dataset, bin_ms, observed)
    rows = cut.rows(split, jitter_seed=seed)
    window = cut.window(rows, *cut.bench.window_ms, overlap=cut.bench.overlap)
    names = ("heldin",) if (cut.split[rows.index] == "test").any() else ("heldin", "heldout")
    return {f"eval_spikes_{name}": cut.spikes(name, window) for name in names}


def eval_target(
    session: Session,
    dataset: str = "",
    split: str = "valid",
    train_split: str = "train",
    *,
    bin_ms: int = BIN_MS,
    psth: bool = False,
    seed: int = 0,
    observed: str = "first",
) -> dict[str, dict[str, np.ndarray]]:
    """What predictions are scored against, below the set's name (with ``_20`` for bins of 20 ms, none for 5 ms).

    Returns:
        ``eval_spikes_heldout``, float32 ``[E, T, U]``; ``train_behavior`` and ``eval_behavior``, float64;
        ``eval_spikes_heldin_forward``, ``eval_spikes_heldout_forward``; area2_bump: ``train_decode_mask``,
        ``eval_decode_mask``, bool ``[R, 2]`` (active, passive). With psth, where the set has conditions: ``psth``,
        float64 ``[K, T, U]`` over held-in then held-out units, ``train_cond_idx`` and ``eval_cond_idx`` (rows of each
        condition, arrays of their own), and for dmfc_rsg ``train_jitter`` and ``eval_jitter`` in bins.

    Arguments and errors as :func:`train_input`; the test split has no public targets.
    """
    if "test" in split.split("+"):
        message = "the test split's targets are not public: choose --split valid"
        raise UsageError(message)
    cut = _Cut(session, dataset, bin_ms, observed)
    bench = cut.bench
    train, rows = cut.rows(train_split, jitter_seed=seed), cut.rows(split, jitter_seed=seed)
    if bench.eval_span:
        spikes = cut.span_spikes("heldout", rows)
    else:
        spikes = cut.spikes("heldout", cut.window(rows, *bench.window_ms, overlap=bench.eval_overlap))
    ahead = cut.forward(rows)
    out = {
        "eval_spikes_heldout": spikes,
        "train_behavior": cut.behaviour(train, overlap=bench.eval_overlap),
        "eval_behavior": cut.behaviour(rows, overlap=bench.eval_overlap),
        "eval_spikes_heldin_forward": cut.spikes("heldin", ahead),
        "eval_spikes_heldout_forward": cut.spikes("heldout", ahead),
    }
    if bench.decoders:
        passive = cut.column(bench.decoders).astype(np.float64)
        for name, part in (("train", train), ("eval", rows)):
            out[f"{name}_decode_mask"] = np.stack([passive[part.index] == 0, passive[part.index] == 1]).T
    if psth and bench.conditions:
        out["psth"], out["train_cond_idx"], out["eval_cond_idx"] = cut.psth(train, rows)
        if bench.jitter_ms:
            out["train_jitter"], out["eval_jitter"] = train.jitter_bins, rows.jitter_bins
    return {cut.dataset + ("" if bin_ms == BIN_MS else f"_{bin_ms}"): out}


def window_starts(
    session: Session, dataset: str = "", split: str = "valid", *, bin_ms: int = BIN_MS, seed: int = 0
) -> np.ndarray:
    """int64 ``[R]``: the session time at which the first bin of each row of the tensors of a split begins.

    Arguments and errors as :func:`train_input`.
    """
    cut = _Cut(session, dataset, bin_ms, "first")
    rows = cut.rows(split, jitter_seed=seed)
    first = cut.window(rows, *cut.bench.window_ms, overlap=True).first
    part = cut.part[rows.index]
    return first * cut.bin_ns - cut.grid.first_ms[part] * NS_PER_MS + cut.grid.start_ns[part]


# ---- how windows are cut --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Rows:
    """Trials of a split, those without a time to align to left out.

    ``index``: rows in the order of the axis. ``align_ns``: on the axis, jitter
    added. ``jitter_bins``: what was added. ``chosen``, ``chosen_align``: before those without a time were left out.
    """

    index: np.ndarray
    align_ns: np.ndarray
    jitter_bins: np.ndarray
    chosen: np.ndarray
    chosen_align: np.ndarray


@dataclass(frozen=True, eq=False)
class _Window:
    """``n_bins`` bins from ``first`` [R] on, of which only those before ``usable`` [R] count."""

    first: np.ndarray
    n_bins: int
    usable: np.ndarray


class _Cut:
    """A session on the benchmark's axis, with the cuts that the three tensors share."""

    def __init__(self, session: Session, dataset: str, bin_ms: int, observed: str) -> None:
        self.session, self.dataset, self.bin_ms, self.observed = session, dataset or session.dataset, bin_ms, observed
        if self.dataset not in BENCHMARKS:
            raise UnknownNameError("benchmark set", self.dataset, BENCHMARKS)
        if bin_ms < 1:
            message = f"bins of {bin_ms} ms: must be at least 1"
            raise UsageError(message)
        if observed not in ("first", "all"):
            raise UnknownNameError("rule for observed time", observed, ("first", "all"))
        if session.trials is None or not isinstance(session.trials.columns.get("split"), np.ndarray):
            message = f"{session.id} has no trials with a column 'split': it is no session of the benchmark"
            raise DataError(message)
        self.bench = BENCHMARKS[self.dataset]
        self.grid: Grid = grid_of(session)
        self.bin_ns = bin_ms * NS_PER_MS
        trials: Intervals = session.trials
        part = self.grid.part(trials.start_ns)
        self.order = np.argsort(self.grid.first_ms[part], kind="stable")  # the reference's: files in order of name
        self.part = part[self.order]
        self.start_ns = self.grid.place(trials.start_ns, part)[self.order]
        self.split = trials.columns["split"][self.order]
        self._groups: dict[str, Group] = {}
        self._binned: np.ndarray | None = None

    def column(self, name: str) -> np.ndarray:
        values = self.session.trials.columns.get(name)
        if values is None or isinstance(values, Ragged):
            message = f"{self.session.id}: its trials have no column '{name}', which {self.dataset} needs"
            raise DataError(message)
        return values[self.order]

    def time_ns(self, name: str) -> np.ndarray:
        """A trial time on the axis, float64 ns (exact below 104 days), nan where there is none, or a filler."""
        if name == "start_time":
            return self.start_ns.astype(np.float64)
        trials, seconds = self.session.trials.take(self.order), self.column(name).astype(np.float64)
        if not np.isfinite(seconds).any():  # of a file of test trials
            return np.full(seconds.size, np.nan)
        cure = "its tensors need times of the session"
        found = held_in_trials(trials, seconds, name, self.session.id, slack_ns=NS_PER_S, cure=cure)
        return np.where(found.inside, self.grid.place(found.time_ns, self.part), np.nan)

    def group(self, name: str) -> Group:
        if name not in self._groups:
            self._groups[name] = group_of(self.session, self.grid, held_out=name == "heldout", observed=self.observed)
        return self._groups[name]

    def rows(self, split: str, *, jitter_seed: int) -> _Rows:
        names: list[str] = []
        for word in split.split("+"):
            if word not in SPLITS:
                raise UnknownNameError("split", word, SPLITS)
            names += SPLITS[word]
        chosen = np.flatnonzero(np.isin(self.split, names))
        if not chosen.size:
            message = (
                f"{self.session.id} has no trials of split '{split}' (it has: {', '.join(sorted(set(self.split)))})"
            )
            raise DataError(message)
        align = self.time_ns(self.bench.align)[chosen]
        jitter = self._jitter(chosen, jitter_seed)
        align = align + jitter * self.bin_ns
        known = ~np.isnan(align)
        index = chosen[known]
        whole = align[known].astype(np.int64)
        return _Rows(index, whole, jitter[known].astype(np.int64), chosen, align)

    def _jitter(self, chosen: np.ndarray, seed: int) -> np.ndarray:
        """Whole bins, float64; nan where the trial does not say how long it was."""
        bench = self.bench
        if not bench.jitter_ms:
            return np.zeros(chosen.size)
        is_test = self.split[chosen] == "test"
        produced = np.full(chosen.size, np.nan) if is_test.all() else self.column("tp")[chosen].astype(np.float64)
        most_ms = np.where(is_test, 0.0, np.clip(-bench.window_ms[0] - produced, 0, bench.jitter_ms))
        most = np.floor(np.round(most_ms / self.bin_ms, 4))
        return np.rint(np.random.RandomState(seed).random_sample(chosen.size) * most)

    def window(self, rows: _Rows, low_ms: int, high_ms: int, *, overlap: bool) -> _Window:
        """The bins that begin in ``[align + low, align + high)``."""
        n_bins = round((high_ms - low_ms) / self.bin_ms)
        start = rows.align_ns + low_ms * NS_PER_MS
        stop = start + n_bins * self.bin_ns
        first = -(-start // self.bin_ns)
        last_ns = stop - END_EARLY_NS
        if not overlap:
            last_ns = np.minimum(last_ns, self._bound(rows, low_ms))
        usable = np.clip(last_ns // self.bin_ns - first + 1, 0, n_bins)
        return _Window(first, n_bins, usable)

    def _bound(self, rows: _Rows, low_ms: int, start_ns: np.ndarray | None = None) -> np.ndarray:
        """The last instant of each row's window: before the next window, or the trial after it, begins."""
        following = np.append(self.start_ns[1:], np.iinfo(np.int64).max).astype(np.float64)[rows.chosen]
        own = rows.chosen_align + low_ms * NS_PER_MS if start_ns is None else start_ns
        begin = np.fmin(following, own)
        bound = np.append(begin[1:], np.inf)[np.isin(rows.chosen, rows.index)]
        return np.where(np.isfinite(bound), bound, 2.0**62).astype(np.int64) - END_EARLY_NS

    def spikes(self, name: str, window: _Window) -> np.ndarray:
        group = self.group(name)
        if not group.unit.size:
            message = f"{self.session.id} has no {name} units: its train file is not part of it"
            raise DataError(message)
        out = count(group, window.first, window.n_bins, self.bin_ms, self.grid.total_ms)
        out[np.arange(window.n_bins) >= window.usable[:, None]] = np.nan
        return out

    def forward(self, rows: _Rows) -> _Window:
        high = self.bench.window_ms[1]
        return self.window(rows, high, high + self.bench.forward_ms, overlap=True)

    def span_spikes(self, name: str, rows: _Rows) -> np.ndarray:
        """Spikes between two times of each trial, at the end of a window of one length, moved back by the jitter."""
        low, high = self.bench.window_ms
        n_bins = round((high - low) / self.bin_ms)
        first, last = self._span(rows.index)
        window = _Window(last - (n_bins - 1), n_bins, np.full(first.size, n_bins))
        dense = self.spikes(name, window)
        dense[window.first[:, None] + np.arange(n_bins) < first[:, None]] = np.nan
        out = np.full_like(dense, np.nan)
        for row, jitter in enumerate(rows.jitter_bins):
            out[row, : n_bins - jitter] = dense[row, jitter:]
        return out

    def _span(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first and last bin of each trial's span."""
        start, stop = (self.time_ns(name)[index] for name in self.bench.eval_span)
        if np.isnan(start).any() or np.isnan(stop).any():
            message = f"{self.session.id}: a trial of {self.dataset} has no {' or no '.join(self.bench.eval_span)}"
            raise DataError(message)
        return -(-start.astype(np.int64) // self.bin_ns), (stop.astype(np.int64) - END_EARLY_NS) // self.bin_ns

    def behaviour(self, rows: _Rows, *, overlap: bool) -> np.ndarray:
        bench = self.bench
        if isinstance(bench.behaviour, str):
            low, high = (edge + bench.lag_ms for edge in bench.window_ms)
            window = self.window(rows, low, high, overlap=overlap)
            if self._binned is None:
                self._binned = behaviour(self.session, self.grid, bench.behaviour, self.bin_ms)
            binned = self._binned
            at = window.first[:, None] + np.arange(window.n_bins)
            off = (at < 0) | (at >= len(binned)) | (np.arange(window.n_bins) >= window.usable[:, None])
            out = binned[np.clip(at, 0, len(binned) - 1)]
            out[off] = np.nan
            return out
        out = np.stack([self.column(name)[rows.index].astype(np.float64) for name in bench.behaviour], axis=1)
        if bench.outliers:
            out[self.column(bench.outliers)[rows.index] != 0] = np.nan
        return out

    # ---- PSTH -------------------------------------------------------------------------------------------------------

    def psth(self, train: _Rows, rows: _Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each condition's mean over the trials of both splits, and which rows of each split are of it."""
        bench = self.bench
        columns = [self.column(name) for name in bench.conditions]
        values = np.stack([c.astype(np.float64) for c in columns], axis=1)
        used = np.union1d(train.chosen, rows.chosen)
        skipped = self.column(bench.outliers) == 1 if bench.outliers else np.zeros(len(values), bool)
        known = used[~np.isnan(values[used]).any(axis=1)]
        found, train_rows, eval_rows = [], [], []
        for condition in np.unique(values[known], axis=0):
            members = known[(values[known] == condition).all(axis=1) & ~skipped[known]]
            if not members.size:
                continue
            mean, kept = self._mean(members)
            found.append(mean)
            train_rows.append(np.flatnonzero(np.isin(train.index, kept)))
            eval_rows.append(np.flatnonzero(np.isin(rows.index, kept)))
        low, high = bench.window_ms
        from_end = bool(bench.eval_span)
        n_bins = round((high - low) / self.bin_ms) if from_end else max(len(mean) for mean in found)
        out = np.full((len(found), n_bins, found[0].shape[1]), np.nan)
        for k, mean in enumerate(found):
            if from_end:
                mean = mean[-n_bins:]
                out[k, n_bins - len(mean) :] = mean
            else:
                out[k, : len(mean)] = mean
        return out, _ragged(train_rows), _ragged(eval_rows)

    def _mean(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean of one condition over time from its alignment, and the rows that it was taken over."""
        bench, bin_ns = self.bench, self.bin_ns
        align = self.time_ns(bench.align)[members]
        known = ~np.isnan(align)
        rows = _Rows(members[known], align[known].astype(np.int64), members[known] * 0, members, align)
        if bench.eval_span:
            first, last = self._span(rows.index)
            span_start = self.time_ns(bench.eval_span[0])[members]
            last = np.minimum(last, self._bound(rows, 0, span_start) // bin_ns)
            n_bins = last - first + 1
        else:
            window = self.window(rows, *bench.window_ms, overlap=False)
            first, n_bins = window.first, window.usable
        keep = n_bins >= TOO_SHORT * n_bins.mean()
        first, n_bins, kept = first[keep], n_bins[keep], rows.index[keep]
        values = np.concatenate(
            [
                smooth(self.group(name), first, n_bins, self.bin_ms, bench.kernel_sd_ms, self.grid.total_ms)
                for name in ("heldin", "heldout")
            ],
            axis=2,
        )
        offset = first + -rows.align_ns[keep] // bin_ns  # bins from the alignment, which is rounded up
        low = int(offset.min())
        n_all = int((offset + n_bins).max()) - low
        total, seen = np.zeros((n_all, values.shape[2])), np.zeros((n_all, values.shape[2]))
        present = np.zeros(n_all, bool)
        for row in range(kept.size):
            at = slice(int(offset[row]) - low, int(offset[row]) - low + int(n_bins[row]))
            value = values[row, : n_bins[row]]
            total[at] += np.nan_to_num(value)
            seen[at] += ~np.isnan(value)
            present[at] = True
        mean = np.divide(total, seen, out=np.full_like(total, np.nan), where=seen > 0)[present]
        shortest = int(n_bins.min())
        return (mean[-shortest:] if bench.eval_span else mean[:shortest]), kept


def _ragged(rows: Sequence[np.ndarray]) -> np.ndarray:
    """One array of indices a condition, as an array of objects."""
    out = np.empty(len(rows), object)
    for k, row in enumerate(rows):
        out[k] = row
    return out


# ---- files ----------------------------------------------------------------------------------------------------------


def write_nlb(
    session: Session, dataset: str, out: Path, bin_ms: int = BIN_MS, split: str = "valid", *, psth: bool = False
) -> dict[str, tuple[int, ...]]:
    """Write the tensors of a session to one HDF5 file with the keys, types and nesting of nlb_tools' files.

    Args:
        dataset: a name of BENCHMARKS; empty: the session's dataset.
        out: the file; it becomes visible whole.
        split: ``"valid"``: train tensors with behaviour and forward bins, eval tensors, and the targets in a group with
            the set's name. ``"test"``: eval tensors of the test split, and the train tensors over train and valid
            where the session has them.

    Returns:
        the shape of each array by its path in the file.
    """
    with atomic_file(Path(out)) as part:
        return fill_nlb(session, dataset, part, bin_ms, split, psth=psth)


def fill_nlb(
    session: Session, dataset: str, path: Path, bin_ms: int = BIN_MS, split: str = "valid", *, psth: bool = False
) -> dict[str, tuple[int, ...]]:
    """:func:`write_nlb` to a path that the caller makes visible."""

    cut = _Cut(session, dataset, bin_ms, "first")
    tree: dict[str, object] = dict(eval_input(session, dataset, split, bin_ms=bin_ms))
    train_split = "train+valid" if split == "test" else "train"
    if np.isin(cut.split, SPLITS["train"]).any():
        tree |= train_input(session, dataset, train_split, bin_ms=bin_ms, with_behaviour=True, with_forward=True)
    if split != "test":
        tree |= eval_target(session, dataset, split, bin_ms=bin_ms, psth=psth)
    shapes: dict[str, tuple[int, ...]] = {}
    with writing_hdf5(path) as h5:
        _write_tree(h5, tree, "", shapes)
        h5.attrs["session"], h5.attrs["dataset"], h5.attrs["bin_ms"] = session.id, cut.dataset, bin_ms
    return shapes


def _write_tree(group: object, tree: dict[str, object], path: str, shapes: dict[str, tuple[int, ...]]) -> None:
    import h5py

    for name, value in tree.items():
        if isinstance(value, dict):
            _write_tree(group.create_group(name), value, f"{path}{name}/", shapes)
            continue
        if value.dtype == object:
            dtype = h5py.vlen_dtype(np.int32)
        else:
            dtype = {"f": np.float32, "i": np.int32}.get(value.dtype.kind, value.dtype)
        group.create_dataset(name, data=value, dtype=dtype, compression="gzip", track_times=False)
        shapes[path + name] = value.shape
