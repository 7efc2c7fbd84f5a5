"""The sessions of a track: simulated by settings that stand in the suite, or found in the store.

What is unusual: simulated sessions have the fingerprint of their settings in their dataset's name, so that suites of
the same settings share them and no other simulation in the workspace is taken for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spiketok.errors import DataError
from spiketok.evaluation.bench.suite import Suite, Track
from spiketok.pipeline.ingest import ingest
from spiketok.settings import build
from spiketok.sources.simulator import SIMULATOR_VERSION, SimulationConfig, simulate
from spiketok.storage.files import fingerprint
from spiketok.storage.index import open_index
from spiketok.storage.locks import beside, locked
from spiketok.storage.workspace import Workspace
from spiketok.training.runs import choose_training

Told = Callable[[str], None]


@dataclass(frozen=True)
class Sessions:
    """The sessions of a track: those that are trained on and those that are not."""

    trained: tuple[str, ...]
    unseen: tuple[str, ...]


def dataset_of(track: Track) -> str:
    """The dataset that a track's sessions have in the store."""
    if track.simulate is None:
        return track.dataset
    return f"{track.dataset}-{fingerprint([SIMULATOR_VERSION, plain_settings(track)])[:8]}"


def plain_settings(track: Track) -> dict[str, object]:
    """The settings of a track's simulation, each checked; those not stated at their defaults."""
    from dataclasses import asdict

    return asdict(build(SimulationConfig, track.simulate, f"track {track.name}: simulate", "setting"))


def require_data(workspace: Workspace, suite: Suite, tracks: Sequence[Track]) -> None:
    """Raise DataError, with the command that fetches them, where the store lacks sessions that no suite makes."""
    have = {session.split("/")[0] for session in workspace.session_ids()}
    lacking = list(dict.fromkeys(t.dataset for t in tracks if t.simulate is None and t.dataset not in have))
    if not lacking:
        return
    there = [t.name for t in tracks if t.simulate is not None or t.dataset in have]
    fewer = f"; or what is there: --tracks {','.join(there)}" if there else ""
    message = (
        f"suite '{suite.name}' needs {', '.join(lacking)}, of which {workspace.store} holds no session: "
        f"spiketok fetch {' '.join(lacking)}{fewer}"
    )
    raise DataError(message)


def make_data(workspace: Workspace, tracks: Sequence[Track], told: Told) -> None:
    """Simulate and ingest the sessions that are made and are not in the store."""
    for track in tracks:
        if track.simulate is None:
            continue
        config, dataset = build(SimulationConfig, track.simulate), dataset_of(track)
        folder, wanted = workspace.simulated / dataset, config.n_subjects * config.sessions_per_subject
        with locked(beside(folder), f"simulation {folder}", wait=True):
            if sum(s.split("/")[0] == dataset for s in workspace.session_ids()) >= wanted:
                continue
            told(f"track {track.name}: simulating {wanted} sessions of {config.duration_s:g} s as {dataset}")
            for outcome in ingest(workspace, simulate(config, folder), dataset, told=told):
                if outcome.error is not None:
                    raise outcome.error
            open_index(workspace.store, told, put=True)


def sessions_of(workspace: Workspace, track: Track) -> Sessions:
    """The sessions of a track, chosen as ``train --sessions --hold-out`` chooses them.

    Raises:
        UnknownNameError: a glob matches none. UsageError: one recording would be trained on and scored.
    """
    dataset = dataset_of(track)
    unseen = track.patterns(dataset, track.unseen) or "none"
    found = choose_training(workspace, None, track.patterns(dataset, track.sessions), unseen)
    return Sessions(tuple(found.sessions), tuple(found.held_out))
