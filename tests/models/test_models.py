"""The contract that every model in MODELS keeps, and what each promises beside it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.models import MODELS  # noqa: E402
from spiketok.models.base import Part  # noqa: E402
from spiketok.models.batch import Asked, Batch, Facts, Head, Input, Progress, Stretch, Timing, Tokens  # noqa: E402
from spiketok.models.linear import Linear, LinearConfig  # noqa: E402
from spiketok.models.poyo import Poyo, PoyoConfig  # noqa: E402
from spiketok.models.vocabulary import Vocabulary  # noqa: E402
from spiketok.recording.nouns import SessionInfo  # noqa: E402
from spiketok.testing import models as laws  # noqa: E402
from spiketok.training.optimizers import build_optimizer  # noqa: E402
from spiketok.training.sections import OptimConfig  # noqa: E402
from spiketok.training.tables import only  # noqa: E402

BIN_NS, N_BINS = 20_000_000, 25
WINDOW_NS = BIN_NS * N_BINS
TIMING, HALF = Timing(WINDOW_NS, BIN_NS), Progress(1, 2)
TASK = "decode:hand_vel"
VELOCITY = Head(TASK, "decode", "values", 2, ("x", "y"))
POPULATION = Head("population", "population", "counts", input="counts")
EVENTS = Head("events", "events", "events")
VECTORS = Head("embed", "embed", "vectors")
CHOICE = Head("classify:choice", "classify", "classes", 3, ("left", "none", "right"))
ALL = pytest.mark.parametrize("name", MODELS)
CLOSED_FORM = "linear"  # fitted by fit alone
TRAINED = pytest.mark.parametrize("name", [name for name in MODELS if name != CLOSED_FORM])
OF_BEHAVIOUR = pytest.mark.parametrize("name", [name for name, model in MODELS.items() if "decode" in model.tasks])
OF_WINDOWS = pytest.mark.parametrize("name", [n for n, m in MODELS.items() if {"decode", "embed"} & set(m.tasks)])
# the contrast of vectors has a floor above 0: that it falls is told in tests/models/test_nuclr.py
COSTLY = ("lfads", "ndt2", "neuroformer", "capoyo", "poyo_plus")  # to train; the others run by default
TO_LOWER = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.long] if n in COSTLY else [])
        for n, m in MODELS.items()
        if n != CLOSED_FORM and "decode" in m.tasks
    ],
)
OF_SEVERAL = pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.one_session])
OF_ONE = pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.one_session])
WITH_IDENTITY = pytest.mark.parametrize(
    "name", [n for n, model in MODELS.items() if "identity_only" in model.protocols]
)
QUICK = {
    "linear": {"lags": 4, "folds": 3},
    "ndt1": {"dim": 16, "heads": 2, "hidden": 24, "mask_mode": "timestep", "decode_weight": 10.0},
    # both tasks on one scale: an untrained read-out of rates has a large loss
    "ndt2": {"dim": 16, "heads": 2, "patch_size": 4, "max_bins": N_BINS, "decode_weight": 2.0},
    "poyo": {"dim": 16, "dim_head": 8, "self_heads": 2, "latents_per_step": 2, "dropout_lin": 0.0},
    "spint": {
        **{"dim": 16, "heads": 2, "hidden": 24, "history_bins": 5, "calibration_length": 8, "calibration_trials": 3},
        "unit_dropout_high": 0.0,
    },
    "stndt": {"hidden": 24, "dropout": 0.0, "dropout_embedding": 0.0, "decode_weight": 10.0},
    "ndt3": {"dim": 16, "heads": 2, "patch_size": 4, "layers": 2, "activation": "gelu"},
    "mtm": {"channels": 12, "dim": 16, "heads": 2, "hidden": 24, "decode_weight": 2.0},
    "neds": {"dim": 16, "heads": 2, "hidden": 24, "dropout": 0.0, "dropout_embedding": 0.0, "decode_weight": 2.0},
    "nuclr": {
        "dim": 16,
        "heads": 2,
        "dim_head": 8,
        "time_layers": 1,
        "unit_layers": 1,
        "patch_ms": 100.0,
        "dropout": 0.0,
    },
    "lfads": {
        **dict.fromkeys(("read_in", "encoder", "input_encoder", "controller", "initial", "generator", "factors"), 12),
        "decode_weight": 10.0,
    },
    "poyo_plus": {
        "dim": 16,
        "dim_head": 8,
        "self_heads": 2,
        "latents_per_step": 2,
        "dropout_lin": 0.0,
        "init_std": 0.1,
    },
    "capoyo": {"dim": 16, "dim_head": 8, "self_heads": 2, "latents_per_step": 2, "dropout_lin": 0.0, "init_std": 0.3},
    "ldns": {
        **{"channels": 16, "latents": 4, "blocks": 1, "states": 8, "decode_weight": 10.0, "diffuse_from": 1.0},
        **{"denoiser_channels": 8, "denoiser_blocks": 1, "timesteps": 25},
    },
    "possm": {"dim": 16, "dim_head": 8, "rnn_dim": 16, "frame_kernel": 4, "frame_stride": 2},
    "neuroformer": {"dim": 16, "heads": 2, "step_ms": 20.0, "history_ms": 160.0},
    "apst": {
        **{"dim": 16, "heads": 2, "hidden": 24, "reach": (4, 4), "slots": 2, "slot_heads": 2, "slot_hidden": 24},
        **{"read_out": 16, "identity": 8, "calibration_length": 8, "calibration_trials": 3, "profile_draws": 2},
        **{"unit_dropout": 0.0, "output_ema": 0.0},
    },
    "onset": {"hidden": 12},
    "ndt_stitch": {"dim": 16, "heads": 2, "hidden": 24, "decode_weight": 2.0},
    "mtm_bwb": {"channels": 12, "dim": 16, "heads": 2, "hidden": 24, "decode_weight": 2.0},
    "poyo_id": {
        **{"dim": 16, "dim_head": 8, "self_heads": 2, "latents_per_step": 2, "dropout_lin": 0.0},
        **{"calibration_length": 8, "calibration_trials": 3},
    },
}
RATES = {"poyo_id": 3e-3}  # with more its loss leaps, sooner or later by the order in which a machine adds

# ---- toy sessions and batches ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Toy:
    """A session of Poisson spikes whose velocity is a smooth function of the units' rates."""

    info: SessionInfo
    time_ns: np.ndarray
    unit: np.ndarray
    velocity: np.ndarray  # [T, 2] of each bin


def toy(name: str, n_units: int, seed: int = 0, n_bins: int = 1500) -> Toy:
    rng = np.random.default_rng(seed)
    info = SessionInfo(f"toy/{name}", "m", np.array([f"u{i}" for i in range(n_units)]), 0, 0, n_bins * BIN_NS)
    slow = np.stack([np.convolve(rng.normal(size=n_bins + 40), np.hanning(41), "valid") for _ in range(2)], 1)
    slow /= slow.std(0)
    count = rng.poisson(np.exp(slow @ rng.normal(size=(2, n_units)) * 0.8 - 1.5))
    bins, unit = np.nonzero(count)
    bins, unit = np.repeat(bins, count[bins, unit]), np.repeat(unit, count[bins, unit])
    time_ns = bins * BIN_NS + rng.integers(0, BIN_NS, len(bins))
    order = np.argsort(time_ns, kind="stable")
    return Toy(info, time_ns[order], unit[order].astype(np.int32), slow.astype(np.float32))


def counts_of(session: Toy) -> np.ndarray:
    """uint8 ``[T, N]``: the spikes of each bin of a session."""
    counts = np.zeros((len(session.velocity), session.info.n_units), np.uint8)
    np.add.at(counts, (session.time_ns // BIN_NS, session.unit), 1)
    return counts


def histories(model, session: Toy, start_bin: int, history_bins: int) -> dict[str, np.ndarray]:
    """A token for each bin of a window and each unit: its counts up to that bin."""
    n = session.info.n_units
    before = np.concatenate([np.zeros((history_bins - 1, n), np.uint8), counts_of(session)])
    series = np.concatenate([before[t : t + history_bins].T for t in range(start_bin, start_bin + N_BINS)])
    return {
        "series": series,
        "observed": np.ones_like(series),
        "unit": np.tile(model.unit_row(session.info), N_BINS).astype(np.int32),
        "time": np.repeat(np.arange(N_BINS), n).astype(np.int32),
    }


def patches(session: Toy, start_bin: int, patch_size: int, max_count: int) -> dict[str, np.ndarray]:
    """A token for each bin and patch of a window: the counts of neighbouring units, the last patch perhaps not full."""
    n, n_patches = session.info.n_units, -(-session.info.n_units // patch_size)
    counts = np.zeros((N_BINS, n_patches * patch_size), np.uint8)
    counts[:, :n] = counts_of(session)[start_bin : start_bin + N_BINS].clip(max=max_count)
    unit = np.where(np.arange(n_patches * patch_size) < n, np.arange(n_patches * patch_size), -1)
    return {
        "patch": counts.reshape(-1, patch_size),
        "unit": np.tile(unit.reshape(-1, patch_size), (N_BINS, 1)).astype(np.int32),
        "time": np.repeat(np.arange(N_BINS), n_patches).astype(np.int32),
        "space": np.tile(np.arange(n_patches), N_BINS).astype(np.int32),
        "n_real": np.tile((unit.reshape(-1, patch_size) >= 0).sum(1), N_BINS).astype(np.uint16),
        "observed": np.ones(N_BINS * n_patches, np.uint8),
    }


def fine_times(session: Toy, start_bin: int, history_bins: int) -> dict[str, np.ndarray]:
    """For each bin of a window and each unit the numbers of the scheme fine-time, some bins before the window first."""
    bins = range(start_bin - history_bins + 1, start_bin + N_BINS)
    out = {name: np.zeros((len(bins), session.info.n_units), np.float32) for name in ("mean_isi_ns", "cv_isi")}
    out |= {name: np.zeros_like(out["cv_isi"], np.int32) for name in ("count", "first_ns", "last_ns")}
    bin_of = session.time_ns // BIN_NS
    for k, n in np.ndindex(out["count"].shape):
        own = session.time_ns[(bin_of == bins[k]) & (session.unit == n)] - bins[k] * BIN_NS
        if len(own):
            out["count"][k, n], out["first_ns"][k, n], out["last_ns"][k, n] = len(own), own[0], own[-1]
        if len(own) > 1:
            out["mean_isi_ns"][k, n] = np.diff(own).mean()
            out["cv_isi"][k, n] = np.diff(own).std() / max(np.diff(own).mean(), 1)
    return out | {"count": out["count"].astype(np.uint8), "observed": np.ones(len(bins), np.uint8)}


def frames(model, session: Toy, start_bin: int) -> dict[str, np.ndarray]:
    """A token for each unit in each bin of a window, as if it were a frame: its counts of the bins up to it, fading."""
    fading = 0.8 ** np.arange(10)
    counts = counts_of(session)[: start_bin + N_BINS].astype(np.float32)
    value = sum(w * counts[start_bin - k :][:N_BINS] for k, w in enumerate(fading[: start_bin + 1]))
    n = session.info.n_units
    return {
        "value": (0.2 * value).astype(np.float32).ravel(),
        "time": np.repeat((np.arange(N_BINS) + 0.5) * BIN_NS / 1e9, n).astype(np.float32),
        "unit": np.tile(model.unit_row(session.info), N_BINS).astype(np.int32),
    }


def events_in(session: Toy, start_bin: int, n_bins: int) -> list[tuple[int, int]]:
    """(bin, unit) of each spike of some bins, bin by bin, in each bin unit by unit; bins are counted from the first."""
    counts = counts_of(session)
    return [
        (t - start_bin, unit)
        for t in range(max(start_bin, 0), start_bin + n_bins)
        for unit in range(session.info.n_units)
        for _ in range(counts[t, unit])
    ]


def sentences(model, session: Toy, start_bin: int, fields: dict) -> dict[str, np.ndarray]:
    """Tokens of the history and of a window, for steps that are as long as a bin."""
    back, rows = fields["history_ns"] // BIN_NS, model.unit_row(session.info)
    end, top = max(back, N_BINS) + 2, int(rows.max()) + 1
    tokens = []  # unit, dt, stream, type
    for stream, first, n_bins in ((0, start_bin - back, back), (1, start_bin, N_BINS)):
        spikes = events_in(session, first, n_bins)[-(fields["max_current" if stream else "max_history"] - 2) :]
        tokens += [
            (top, 0, stream, 1),
            *((rows[unit], dt, stream, 0) for dt, unit in spikes),
            (top + 1, end, stream, 2),
        ]
    dtypes = {"unit": np.int32, "dt": np.int16, "stream": np.uint8, "type": np.uint8}
    return {
        name: np.array(column, dtypes[name]) for name, column in zip(dtypes, zip(*tokens, strict=True), strict=True)
    }


def next_events(model, windows: list[tuple[Toy, int]]) -> Asked:
    """The spikes of each window one after the other, and its end."""
    target, ns, count = [], [], []
    for session, b in windows:
        spikes = events_in(session, b, N_BINS)[-(model.config.max_current - 2) :]
        target += [*((unit, dt) for dt, unit in spikes), (session.info.n_units, 0)]
        ns += [*((b + dt) * BIN_NS + BIN_NS // 2 for dt, _ in spikes), (b + N_BINS) * BIN_NS - 1]
        count.append(len(spikes) + 1)
    since = np.array(ns) - np.repeat([b * BIN_NS for _, b in windows], count)
    return Asked(
        time=torch.from_numpy((since / 1e9).astype(np.float32)),
        offset=torch.tensor(np.cumsum([0, *count])),
        ns=np.array(ns, np.int64),
        target=torch.tensor(target),
        weight=torch.ones(len(ns)),
    )


def pictures(start_bin: int, fields) -> dict[str, np.ndarray]:
    """What is shown in the bins of a window and of its history: noise of its own in each bin, every fifth bin dark."""
    each_ns = 1e9 / fields["rate_hz"]
    stop = start_bin * BIN_NS + WINDOW_NS
    low = math.floor((start_bin * BIN_NS - fields["history_ms"] * 1e6) / each_ns)
    bins = np.arange(low, math.ceil(stop / each_ns))
    side = fields["height"], fields["width"]
    noise = [np.random.default_rng(int(k) + 1000).integers(0, 256, side) for k in bins]
    return {"pixels": np.array(noise, np.uint8), "shown": (bins % 5 > 0).astype(np.uint8)}


def window_tokens(model, wanted: Input, session: Toy, start_bin: int) -> dict[str, np.ndarray]:
    """The columns of one window by an input, made by hand."""
    start = start_bin * BIN_NS
    if wanted.scheme == "binned":
        counts = counts_of(session)[start_bin : start_bin + N_BINS]
        return {"counts": counts, "observed": np.ones(N_BINS, np.uint8)}
    if wanted.scheme == "patch":
        return patches(session, start_bin, wanted.fields["patch_size"], wanted.fields["max_count"])
    if wanted.scheme == "neuron":
        return histories(model, session, start_bin, wanted.fields["history_bins"])
    if wanted.scheme == "fine-time":
        return fine_times(session, start_bin, wanted.fields.get("history_bins", 1))
    if wanted.scheme == "fluorescence":
        return frames(model, session, start_bin)
    if wanted.scheme == "frames":
        return pictures(start_bin, wanted.fields)
    if wanted.scheme == "event-pair":
        return sentences(model, session, start_bin, wanted.fields)
    inside = (session.time_ns >= start) & (session.time_ns < start + WINDOW_NS)
    time, unit, n = session.time_ns[inside] - start, session.unit[inside], session.info.n_units
    rows = model.unit_row(session.info)
    if "chunk_ns" in wanted.fields:
        return in_chunks(rows[unit], time, wanted.fields["chunk_ns"])
    return {
        "unit": np.concatenate([np.repeat(rows, 2), rows[unit]]).astype(np.int32),
        "type": np.concatenate([np.tile([1, 2], n), np.zeros(len(unit))]).astype(np.uint8),
        "time": np.concatenate([np.tile([0.0, WINDOW_NS / 1e9], n), time / 1e9]).astype(np.float32),
    }


def in_chunks(unit: np.ndarray, time_ns: np.ndarray, chunk_ns: int) -> dict[str, np.ndarray]:
    """Spikes of a window by chunk, and a blank in each chunk that has none."""
    chunk = time_ns // chunk_ns
    silent = np.setdiff1d(np.arange(WINDOW_NS // chunk_ns), chunk)
    chunk, time = np.concatenate([chunk, silent]), np.concatenate([time_ns - chunk * chunk_ns, 0 * silent])
    order = np.argsort(chunk, kind="stable")
    return {
        "unit": np.concatenate([unit, 0 * silent])[order].astype(np.int32),
        "type": np.concatenate([0 * unit, 0 * silent + 3])[order].astype(np.uint8),
        "time": (time / 1e9)[order].astype(np.float32),
        "chunk": chunk[order].astype(np.int32),
    }


def session_tokens(wanted: Input, session: Toy) -> Tokens:
    """Calibration trials, one behind the other from the session's start; or all its spikes."""
    if wanted.scheme == "per-spike":
        columns = {"time": session.time_ns / 1e9, "unit": session.unit, "type": np.zeros(len(session.unit))}
        dtypes = (np.float32, np.int32, np.uint8)
        columns = {key: torch.from_numpy(c.astype(t)) for (key, c), t in zip(columns.items(), dtypes, strict=True)}
        return Tokens(columns, torch.tensor([0, len(session.unit)]))
    length, trials = wanted.fields["length"], wanted.most
    matrix = counts_of(session)[: length * trials].reshape(trials, length, -1).astype(np.float32)
    return Tokens({"matrix": torch.from_numpy(matrix)}, torch.tensor([0, trials]))


def put_together(cuts: list[dict[str, np.ndarray]], padded: bool) -> Tokens:
    """The tokens of windows as one batch holds them."""
    length = [len(next(iter(cut.values()))) for cut in cuts]
    columns, offset, valid = {}, torch.tensor(np.cumsum([0, *length])), None
    if padded:
        top = max(length) + 3
        valid, offset = torch.arange(top) < torch.tensor(length)[:, None], None
    for name in cuts[0]:
        parts = [torch.from_numpy(cut[name]) for cut in cuts]
        if padded:
            column = torch.zeros(len(parts), top, *parts[0].shape[1:], dtype=parts[0].dtype)
            for row, part in zip(column, parts, strict=True):
                row[: len(part)] = part
            columns[name] = column
        else:
            columns[name] = torch.cat(parts)
    return Tokens(columns, offset, valid)


def make_batch(model, windows: list[tuple[Toy, int]], *, padded: bool = False, queries=None) -> Batch:
    """A batch of windows (session, first bin); ``queries``: number of query times of each window.

    The behaviour is asked, and of a model of the spikes all counts.
    """
    inputs = inputs_of(model)
    queries = [N_BINS] * len(windows) if queries is None else queries
    bins = [b + (np.arange(q) * N_BINS) // max(q, 1) for (_, b), q in zip(windows, queries, strict=True)]
    query_ns = np.concatenate([b * BIN_NS + BIN_NS // 2 for b in bins]).astype(np.int64)
    start_ns = np.array([b * BIN_NS for _, b in windows], np.int64)
    target = np.concatenate([s.velocity[b] for (s, _), b in zip(windows, bins, strict=True)])
    present = list({s.info.id: s for s, _ in windows}.values())
    ids = [s.info.id for s in present]
    asked = {
        TASK: Asked(
            time=torch.from_numpy((query_ns - np.repeat(start_ns, queries)).astype(np.float32) / 1e9),
            offset=torch.tensor(np.cumsum([0, *queries])),
            ns=query_ns,
            target=torch.from_numpy(target.astype(np.float32)),
            weight=torch.ones(len(query_ns)),
        )
    }
    if VECTORS.task in model.heads:  # nothing is asked at any time
        none = torch.zeros(0)
        none_of = torch.zeros(len(windows) + 1, dtype=torch.int64)
        asked = {VECTORS.task: Asked(none, none_of, np.zeros(0, np.int64), none, none)}
    if CHOICE.task in model.heads and TASK not in model.heads:
        asked = {CHOICE.task: one_label(start_ns)}
    if "population" in model.heads:
        every = np.arange(N_BINS)
        counts = torch.from_numpy(np.concatenate([counts_of(s)[b + every] for s, b in windows]))
        asked["population"] = Asked(
            time=torch.from_numpy(np.tile((every + 0.5) * BIN_NS / 1e9, len(windows)).astype(np.float32)),
            offset=torch.arange(len(windows) + 1) * N_BINS,
            ns=np.repeat(start_ns, N_BINS) + np.tile(every * BIN_NS + BIN_NS // 2, len(windows)),
            target=counts,
            weight=torch.ones_like(counts, dtype=torch.bool),
        )
    if EVENTS.task in model.heads:
        asked[EVENTS.task] = next_events(model, windows)
    return Batch(
        inputs={
            name: put_together([window_tokens(model, wanted, s, b) for s, b in windows], padded)
            for name, wanted in inputs.items()
            if wanted.per == "window"
        },
        session_inputs={
            name: [session_tokens(wanted, s) for s in present]
            for name, wanted in inputs.items()
            if wanted.per == "session"
        },
        window_ns=WINDOW_NS,
        session_B=torch.tensor([model.session_row(s.info.id) for s, _ in windows]),
        sessions=[s.info.id for s, _ in windows],
        start_ns=start_ns,
        asked=asked,
        present=ids,
        present_B=torch.tensor([ids.index(s.info.id) for s, _ in windows]),
        facts=Facts({s.info.id: s.info for s in present}),
    )


def one_label(start_ns: np.ndarray) -> Asked:
    """A label is asked once a window, in its middle."""
    n = len(start_ns)
    return Asked(
        time=torch.full((n,), WINDOW_NS / 2e9),
        offset=torch.arange(n + 1),
        ns=start_ns + WINDOW_NS // 2,
        target=torch.arange(n) % CHOICE.size,
        weight=torch.ones(n),
    )


def without_tokens(tokens: Tokens) -> Tokens:
    """The same without those of the first window."""
    n = int(tokens.offset[1])
    return Tokens({key: c[n:] for key, c in tokens.columns.items()}, (tokens.offset - n).clamp_min(0))


A, B, C = toy("a.1", 6, 0), toy("b", 9, 1), toy("c", 5, 2)


def stretches(session: Toy) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Counts, velocity and weight of each half of a session."""
    counts = counts_of(session).astype(np.float64)
    half = len(counts) // 2
    return [(counts[p], session.velocity[p], np.ones(half)) for p in (slice(0, half), slice(half, 2 * half))]


def fit(model, pieces: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]) -> None:
    """Fit on such stretches, by session."""
    model.fit(
        {
            session: [Stretch({"counts": {"counts": c}}, {TASK: target}, {TASK: weight}) for c, target, weight in own]
            for session, own in pieces.items()
        }
    )


def config_of(name: str):
    model = MODELS[name]
    size = "tiny" if "tiny" in model.sizes else next(iter(model.sizes))
    return model.Config(**(model.sizes[size] | QUICK[name]))


def heads_of(name: str) -> list[Head]:
    """What a run of this model asks by default."""
    if "embed" in MODELS[name].default_tasks:
        return [VECTORS]
    if "classify" in MODELS[name].default_tasks:
        return [CHOICE]
    return [VELOCITY, *(head for head in (POPULATION, EVENTS) if head.kind in MODELS[name].default_tasks)]


def inputs_of(model) -> dict[str, Input]:
    return model.inputs(model.config, [head.kind for head in model.heads.values()], TIMING)


def sessions_of(name: str) -> tuple[Toy, ...]:
    """The sessions that a model of these tests knows."""
    return (A,) if MODELS[name].one_session else (A, B)


def build(name: str, sessions=None, seed: int = 0):
    """A model of toy size that knows the sessions; one in closed form is fitted, others stand at their start."""
    torch.manual_seed(seed)
    sessions = sessions_of(name) if sessions is None else sessions
    model = MODELS[name](config_of(name), heads_of(name), TIMING)
    add(model, sessions)
    return model.eval()


def add(model, sessions) -> None:
    model.add_sessions([s.info for s in sessions])
    if model.name == CLOSED_FORM:
        fit(model, {s.info.id: stretches(s) for s in sessions})


def windows_of(model, session: Toy = A, n: int = 4) -> list[tuple[Toy, int]]:
    """Windows that may stand in one batch of this model."""
    other = session if model.one_session_batches else B
    return [((session, other)[i % 2], 40 * i + 3) for i in range(n)]


def headline(model) -> str:
    """The task whose answers are looked at."""
    return next(task for task in (TASK, VECTORS.task, CHOICE.task) if task in model.heads)


def predict(model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)[headline(model)]


def by_window(model, batch: Batch) -> tuple[torch.Tensor, ...]:
    """The answer of each window: at its bins, or for its units."""
    with torch.no_grad():
        output = model(batch)
    if TASK in model.heads:
        return output[TASK].split(N_BINS)
    return output[VECTORS.task].split(output[f"{VECTORS.task}.offset"].diff().tolist())


def past_bins(model) -> int:
    """Bins at a window's start for which the model makes no prediction, because their past lies outside of it."""
    return model.config.lags - 1 if model.name == CLOSED_FORM else 0


def made(model, batch: Batch) -> torch.Tensor:
    """bool [Q]: queries for which the model makes a prediction at all."""
    asked = batch.asked[TASK]
    bins = torch.from_numpy((asked.ns - np.repeat(batch.start_ns, asked.offset.diff())) // BIN_NS)
    return bins >= past_bins(model)


def losses(model, batch: Batch) -> dict[str, torch.Tensor]:
    return model.loss(batch, model(batch), HALF)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(1e9), b.nan_to_num(1e9))


def train(model, batches, steps: int, parts=None, lr: float = 1e-2, weight_decay: float = 0.1) -> list[float]:
    config = OptimConfig(lr=lr, weight_decay=weight_decay, schedule="constant", steps=steps)
    model.train()
    totals = []
    with only(model, [Part(p) for p in model.parameters()] if parts is None else parts):
        optimizer = build_optimizer(model, config)
        for step in range(steps):
            batch = batches[step % len(batches)]
            optimizer.zero_grad()
            loss = losses(model, batch)["total"]
            loss.backward()
            optimizer.step()
            totals.append(loss.item())
        optimizer.catch_up()
    model.eval()
    return totals


# ---- the contract ---------------------------------------------------------------------------------------------------


@ALL
def test_names_and_presets(name):
    assert MODELS[name].name == name
    laws.says_what_it_is(MODELS[name])


@OF_BEHAVIOUR
def test_shapes_and_losses(name):
    model = build(name)
    queries = [3, 0, N_BINS, 7]
    batch = make_batch(model, windows_of(model), queries=queries)
    output = model(batch)
    assert output[TASK].shape == (sum(queries), 2)
    assert torch.equal(output[TASK].isfinite().all(-1), made(model, batch))
    assert {"total", *batch.asked} == set(model.loss(batch, output, HALF))
    terms = model.loss(batch, output, HALF)
    assert terms["total"].shape == ()
    assert all(term.isfinite() for term in terms.values())


@ALL
def test_one_seed_one_model(name):
    batch = make_batch(build(name), windows_of(MODELS[name]))
    first, again, other = (predict(build(name, seed=seed), batch) for seed in (0, 0, 1))
    assert same(first, again)
    assert name == CLOSED_FORM or not same(first, other)


@TO_LOWER
def test_training_is_reproducible_and_lowers_the_loss(name):
    """Twice the same losses: the second time the first ten steps of them."""
    runs = []
    for steps in (60, 10):
        model = build(name)
        batches = [make_batch(model, windows_of(model, session)) for session in sessions_of(name)]
        before = float(sum(losses(model, b)["total"] for b in batches).detach())
        torch.manual_seed(7)
        runs.append(train(model, batches, steps, lr=RATES.get(name, 1e-2), weight_decay=0.0))
        if steps == 60:
            after = float(sum(losses(model, b)["total"] for b in batches).detach())
            assert after < 0.6 * before
    assert runs[1] == runs[0][:10]


@OF_SEVERAL
def test_a_new_session_leaves_old_outputs_as_they_are(name):
    model = build(name)
    batch = make_batch(model, windows_of(model))
    expected, parameters = predict(model, batch), dict(model.named_parameters())
    add(model, [C])
    assert same(predict(model, batch), expected)
    tables = {f"{key}.weight" for key, module in model.named_modules() if isinstance(module, Vocabulary)}
    for key, parameter in parameters.items():
        if key in tables:  # which grows into another parameter
            grown = dict(model.named_parameters())[key]
            assert len(grown) > len(parameter) and torch.equal(grown[: len(parameter)], parameter), key
        else:
            assert dict(model.named_parameters())[key] is parameter, f"{key}: an optimizer made before has lost it"
    assert model.sessions() == [A.info.id, B.info.id, C.info.id]
    assert [model.session_row(s) for s in model.sessions()] == [0, 1, 2]
    new = predict(model, make_batch(model, [(C, 10)]))
    assert new[past_bins(model) :].isfinite().all()


@OF_ONE
def test_a_second_session_is_refused_and_changes_nothing(name):
    model = build(name)
    batch = make_batch(model, windows_of(model))
    expected, state = predict(model, batch), copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=rf"{name} holds one session, toy/a\.1, not toy/c too: .*--sessions toy/c"):
        model.add_sessions([C.info])
    assert model.sessions() == [A.info.id]
    assert same(predict(model, batch), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@ALL
def test_known_sessions_are_left_alone(name):
    model, known = build(name), sessions_of(name)
    batch = make_batch(model, windows_of(model))
    expected = predict(model, batch)
    model.add_sessions([session.info for session in known])
    assert same(predict(model, batch), expected)
    assert model.sessions() == [session.info.id for session in known]
    for changed in (A.info.unit_id[:-1], A.info.unit_id[::-1]):
        with pytest.raises(DataError, match=r"toy/a\.1: .* 6 units"):
            model.add_sessions([dataclasses.replace(A.info, unit_id=changed)])


@ALL
def test_unknown_sessions_are_refused(name):
    model = build(name)
    for call in (lambda: model.session_row("toy/x"), lambda: model.identity_parameters(["toy/x"])):
        with pytest.raises(DataError, match=f"'toy/x' is not one of the {len(sessions_of(name))}"):
            call()


@ALL
def test_state_rebuilds_the_model(name):
    model = build(name)
    if model.name != CLOSED_FORM:
        train(model, [make_batch(model, windows_of(model))], 2)
    state, weights = json.loads(json.dumps(model.extra_state())), copy.deepcopy(model.state_dict())
    torch.manual_seed(99)
    other = MODELS[name](type(model.config)(**dataclasses.asdict(model.config)), heads_of(name), TIMING)
    other.load_extra_state(state)
    other.load_state_dict(weights)
    other.eval()
    assert other.sessions() == model.sessions()
    assert other.extra_state() == model.extra_state()
    for session in sessions_of(name):
        np.testing.assert_array_equal(other.unit_row(session.info), model.unit_row(session.info))
        batch = make_batch(model, windows_of(model, session))
        assert same(predict(other, batch), predict(model, batch))


@WITH_IDENTITY
def test_identity_parameters_are_what_identity_only_changes(name):
    """Under an optimizer with momentum and weight decay nothing but the new session's parameters changes, by a bit."""
    model = build(name)
    batch = make_batch(model, windows_of(model))
    train(model, [batch], 3)
    add(model, [C])
    identity = model.identity_parameters([C.info.id])
    assert identity
    everything = laws.numbers_of([Part(p) for p in model.parameters()])
    per_session = [laws.numbers_of(model.identity_parameters([s])) for s in model.sessions()]
    assert all(numbers <= everything for numbers in per_session)
    assert len(set.union(*per_session)) == sum(map(len, per_session))  # no number belongs to two sessions
    assert laws.numbers_of(model.identity_parameters()) == set.union(*per_session)
    old, new = predict(model, batch), make_batch(model, [(C, 10), (C, 60)])
    before, new_before = copy.deepcopy(model.state_dict()), predict(model, new)
    train(model, [new], 3, parts=identity)
    model.eval()
    assert same(predict(model, batch), old)
    assert not same(predict(model, new), new_before)
    own = laws.numbers_of(identity)
    for key, parameter in model.named_parameters():
        changed = (parameter != before[key]).nonzero()[:, :1].flatten().tolist()
        assert {(id(parameter), row) for row in changed} == {place for place in own if place[0] == id(parameter)}, key


def test_closed_form_has_no_identity_parameters():
    assert build("linear").identity_parameters() == []
    assert list(build("linear").parameters()) == []


@ALL
def test_a_row_of_the_transfer_table_is_there_or_has_a_reason(name):
    laws.rows_of(build(name), A.info.id)


@ALL
def test_padded_is_packed(name):
    model = build(name)
    windows = windows_of(model)
    packed, padded = make_batch(model, windows), make_batch(model, windows, padded=True)
    assert same(predict(model, packed), predict(model, padded))
    for key, term in losses(model, packed).items():
        assert torch.equal(term, losses(model, padded)[key]), key


@OF_WINDOWS
def test_a_window_does_not_see_its_batch(name):
    model = build(name)
    windows = windows_of(model, n=7)
    together = by_window(model, make_batch(model, windows))
    for window, expected in zip(windows, together, strict=True):
        (alone,) = by_window(model, make_batch(model, [window]))
        torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@OF_BEHAVIOUR
def test_what_has_no_weight_has_no_influence(name):
    model = build(name)
    batch = make_batch(model, windows_of(model))

    def weighed(weight_of, spoil: bool = False) -> Batch:
        """The batch with other weights, and what has none spoilt."""
        asked = {}
        for task, a in batch.asked.items():
            weight = weight_of(torch.arange(a.weight.numel()).reshape(a.weight.shape)).to(a.weight.dtype)
            nonsense = torch.nan if a.target.is_floating_point() else 255
            kept = weight if weight.ndim == 2 else weight[:, None]
            target = torch.where(kept > 0, a.target, nonsense).to(a.target.dtype) if spoil else a.target
            asked[task] = dataclasses.replace(a, weight=weight, target=target)
        return dataclasses.replace(batch, asked=asked)

    some, spoilt = weighed(lambda row: row % 3 > 0), weighed(lambda row: row % 3 > 0, spoil=True)
    for key, term in losses(model, some).items():
        assert torch.equal(term, losses(model, spoilt)[key]), key
    terms = losses(model, weighed(torch.zeros_like))
    assert all(terms[task] == 0 for task in batch.asked)
    if model.name != CLOSED_FORM:
        terms["total"].backward()
        assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


@OF_WINDOWS
def test_silence_gives_numbers(name):
    """A window without a single spike, and where the scheme has such a thing, without a single token."""
    model = build(name)
    silent = dataclasses.replace(A, time_ns=A.time_ns[:0], unit=A.unit[:0])
    batch = make_batch(model, [(silent, 5), (A, 5)])
    output = model(batch)
    said = output[TASK][made(model, batch)] if TASK in model.heads else output[VECTORS.task]
    assert len(said) and said.isfinite().all()
    (name, wanted), *others = inputs_of(model).items()
    if wanted.scheme in ("per-spike", "fluorescence") and not others:
        batch.inputs[name] = without_tokens(batch.inputs[name])
        output = model(batch)
        assert output[TASK].isfinite().all()
    if model.name != CLOSED_FORM:
        model.loss(batch, output, HALF)["total"].backward()
        assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


@OF_BEHAVIOUR
def test_a_batch_without_queries(name):
    model = build(name)
    batch = make_batch(model, windows_of(model), queries=[0] * 4)
    output = model(batch)
    assert output[TASK].shape == (0, 2)
    assert model.loss(batch, output, HALF)[TASK] == 0


@TRAINED
def test_in_half_precision(name):
    model = build(name)
    batch = make_batch(model, windows_of(model))
    exact = predict(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
        total = model.loss(batch, output, HALF)["total"]
    total.backward()
    assert total.isfinite()
    said = output[headline(model)]
    torch.testing.assert_close(said.float(), exact, rtol=0.1, atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is here: run it on a machine that has one")
@OF_BEHAVIOUR
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_on_a_gpu_as_on_the_cpu(name, dtype, tolerance):
    """Output and gradients; in half precision windows of unequal length take the varlen kernel."""
    here, there = build(name), build(name).cuda()
    batch = make_batch(here, windows_of(here), queries=[3, 0, N_BINS, 7])
    output = here(batch)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        other = there(batch.to("cuda"))
        there.loss(batch.to("cuda"), other, HALF)["total"].backward()
    here.loss(batch, output, HALF)["total"].backward()
    torch.testing.assert_close(other[TASK].float().cpu(), output[TASK], rtol=tolerance, atol=tolerance)
    for (key, a), b in zip(here.named_parameters(), there.parameters(), strict=True):
        if a.grad is not None:
            here_grad, there_grad = a.grad.to_dense(), b.grad.to_dense().cpu()
            scale = here_grad.abs().max().clamp_min(1e-3)
            torch.testing.assert_close(there_grad / scale, here_grad / scale, rtol=tolerance, atol=tolerance, msg=key)


# ---- poyo -----------------------------------------------------------------------------------------------------------


def test_poyo_published_sizes():
    """Parameters without the tables of units and sessions: 1.3M and 11.8M, as the names say."""
    for size, expected in (("1.3M", 1.3e6), ("11.8M", 11.8e6)):
        model = Poyo(PoyoConfig(**Poyo.sizes[size]), [VELOCITY], TIMING)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=0.05), size


def test_poyo_rows():
    model = build("poyo")
    assert model.unit_row(A.info).tolist() == [1, 2, 3, 4, 5, 6]
    assert model.unit_row(B.info).tolist() == list(range(7, 16))
    assert model.unit_row(B.info).dtype == np.int32
    with pytest.raises(DataError, match="toy/c"):
        model.unit_row(C.info)


def test_poyo_new_session_starts_at_the_mean():
    model = build("poyo")
    mean = model.session_table.table().mean(0)
    model.add_sessions([C.info])
    torch.testing.assert_close(model.session_table.block(C.info.id)[0], mean)
    assert not torch.equal(*model.session_table.table()[:2])


def test_poyo_reads_time_and_type():
    """Moving one spike by a millisecond, or calling it a start, changes the prediction."""
    model = build("poyo")
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    batch = make_batch(model, [(A, 5)])
    expected = predict(model, batch)
    for column, change in (("time", 1e-3), ("type", 1)):
        moved = batch.clone()
        moved.inputs["spikes"].columns[column][-1] += change
        assert (predict(model, moved) - expected).abs().max() > 1e-5, column


@pytest.mark.parametrize(
    ("key", "value"), [("dim", 0), ("dim_head", 6), ("latent_step_ms", -1.0), ("dropout_lin", 1.0), ("depth", -1)]
)
def test_poyo_refuses(key, value):
    with pytest.raises(UsageError, match=key):
        Poyo(PoyoConfig(**{key: value}), [VELOCITY], TIMING)


# ---- linear ---------------------------------------------------------------------------------------------------------


def lagged(counts: np.ndarray, lags: int) -> np.ndarray:
    """Predictors by loops: for each bin from ``lags - 1`` on, the bins of its history, oldest first."""
    return np.array([counts[t - lags + 1 : t + 1].ravel() for t in range(lags - 1, len(counts))])


def test_linear_is_scikit_learns_ridge():
    sklearn = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    )
    rng = np.random.default_rng(0)
    data = [(c, y, rng.uniform(0, 2, len(w)) * (rng.random(len(w)) > 0.2)) for c, y, w in stretches(A)]
    model = Linear(LinearConfig(lags=4, alphas=(3.0,)), [VELOCITY], TIMING)
    model.add_sessions([A.info])
    fit(model, {A.info.id: data})
    x = np.concatenate([lagged(np.sqrt(c), 4) for c, _, _ in data])
    y, weight = (np.concatenate([part[i][3:] for part in data]) for i in (1, 2))
    ridge = sklearn.Ridge(alpha=3.0).fit(x, y, sample_weight=weight)
    got = model._ridge(A.info.id)
    expected = ridge.coef_.reshape(2, 4, 6).transpose(0, 2, 1)
    np.testing.assert_allclose(got.weight, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.intercept, ridge.intercept_, rtol=1e-4, atol=1e-6)


def test_linear_predicts_what_its_weights_say():
    model = build("linear")
    windows = [(A, 5), (A, 200)]
    got = predict(model, make_batch(model, windows)).unflatten(0, (2, N_BINS))
    ridge = model._ridge(A.info.id)
    weight = ridge.weight.numpy().transpose(2, 1, 0).reshape(-1, 2)
    for row, (session, start) in zip(got, windows, strict=True):
        counts = counts_of(session)[start : start + N_BINS].astype(float)
        expected = lagged(np.sqrt(counts), 4) @ weight + ridge.intercept.numpy()
        np.testing.assert_allclose(row[3:], expected, rtol=1e-4, atol=1e-5)
        assert row[:3].isnan().all()


def test_linear_chooses_the_penalty_by_blocks_of_time():
    """The choice is that of scikit-learn fitted on the other blocks, where no block's rows see another's bins."""
    sklearn = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    )
    alphas, rng = (1e-2, 1.0, 30.0, 1e3, 1e5), np.random.default_rng(1)
    counts = rng.poisson(1.0, (120, 6)).astype(float)
    target = np.stack([counts[:, 0] + 3 * rng.normal(size=120), 3 * rng.normal(size=120)], 1)
    blocks = [(lagged(np.sqrt(counts[p]), 4), target[p][3:]) for p in (slice(0, 40), slice(40, 80), slice(80, 120))]
    error = np.zeros(len(alphas))
    for k, (x, y) in enumerate(blocks):
        rest = [block for i, block in enumerate(blocks) if i != k]
        train_x, train_y = (np.concatenate([block[i] for block in rest]) for i in (0, 1))
        for i, alpha in enumerate(alphas):
            error[i] += ((sklearn.Ridge(alpha=alpha).fit(train_x, train_y).predict(x) - y) ** 2).sum()
    model = Linear(LinearConfig(lags=4, folds=3, alphas=alphas), [VELOCITY], TIMING)
    model.add_sessions([A.info])
    fit(model, {A.info.id: [(counts, target, np.ones(120))]})
    assert model.alpha(A.info.id) == alphas[int(np.argmin(error))]
    assert 0 < int(np.argmin(error)) < len(alphas) - 1  # a choice, not an end of the list


def test_linear_fit_does_not_reach_over_borders():
    """Moving what lies behind a stretch's end to another place changes nothing; joining the stretches does."""
    first, second = stretches(A)
    weights = []
    for data in ([first, second], [second, first], [tuple(np.concatenate(p) for p in zip(first, second, strict=True))]):
        model = Linear(LinearConfig(lags=4, alphas=(10.0,)), [VELOCITY], TIMING)
        model.add_sessions([A.info])
        fit(model, {A.info.id: data})
        weights.append(model._ridge(A.info.id).weight.clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(weights[0], weights[2], rtol=1e-5, atol=1e-7)


def test_linear_decodes():
    model = build("linear")
    batch = make_batch(model, [(A, b) for b in range(0, 1000, N_BINS)])
    mse = losses(model, batch)[TASK]
    assert mse < 0.5 * batch.asked[TASK].target.var()


def test_linear_makes_no_prediction_over_a_gap():
    model = build("linear")
    batch = make_batch(model, [(A, 5)])
    expected = predict(model, batch)
    batch.inputs["counts"].columns["observed"][10] = 0
    got = predict(model, batch)
    assert got.isnan().any(1).nonzero().flatten().tolist() == [0, 1, 2, 10, 11, 12, 13]
    kept = got.isfinite()
    assert torch.equal(got[kept], expected[kept])


def test_linear_refuses():
    model = Linear(LinearConfig(lags=4), [VELOCITY], TIMING)
    model.add_sessions([A.info, B.info])
    with pytest.raises(DataError, match=r"no weights for session 'toy/a\.1'"):
        predict(model, make_batch(model, [(A, 5)]))
    counts, target, weight = stretches(A)[0]
    with pytest.raises(DataError, match=r"toy/b: .*\(750, 6\).*\(750, 9\)"):
        fit(model, {B.info.id: [(counts, target, weight)]})
    with pytest.raises(DataError, match="0 labelled bins with a history of 4 bins in 0 bins are too few"):
        fit(model, {A.info.id: []})
    with pytest.raises(DataError, match="0 labelled bins with a history of 4 bins in 12 bins are too few"):
        fit(model, {A.info.id: [(counts[:12], target[:12], weight[:12])]})
    with pytest.raises(DataError, match="not finite"):
        fit(model, {A.info.id: [(counts, np.where(np.arange(750)[:, None] == 9, np.nan, target), weight)]})
    long = Linear(LinearConfig(lags=N_BINS + 1), [VELOCITY], TIMING)
    add(long, [A])
    with pytest.raises(DataError, match="25 bins is shorter than model.lags, 26"):
        predict(long, make_batch(long, [(A, 5)]))
    with pytest.raises(UsageError, match="model.folds 1"):
        LinearConfig(folds=1)
    with pytest.raises(UsageError, match="model.alphas"):
        LinearConfig(alphas=(0.0,))


def test_queries_outside_of_their_window_are_refused():
    model = build("linear")
    batch = make_batch(model, [(A, 5)])
    batch.asked[TASK].ns = batch.asked[TASK].ns + WINDOW_NS
    with pytest.raises(DataError, match="610000000 ns is not in its window 100000000..600000000 ns"):
        predict(model, batch)
