"""The leaderboard of a suite: what was scored, as means over sessions, standard errors over seeds, and ranks.

How numbers are made: the score of a seed is the mean over a track's sessions; where one has none, the seed has none and
the reason is told. The mean and its standard error (n - 1 in the denominator) are over seeds. Ranks are step-down ranks
by Welch's t test over seeds (``scoring.ranks``): two models that the seeds do not tell apart share a place.

What is unusual: what is ranked was named before anything was scored, in the suite: a model's row of the transfer table,
a track's metric and length of calibration. All other rows stand below, unranked.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from spiketok import __version__
from spiketok.errors import UsageError
from spiketok.evaluation.bench.data import Sessions, Told, make_data, require_data, sessions_of
from spiketok.evaluation.bench.jobs import CHEATS, Cells, Job, Scored, jobs_of, run_job, share
from spiketok.evaluation.bench.suite import NLB, TEST, TRANSFER, Part, Suite, Track
from spiketok.evaluation.controls import METRIC, WITHOUT_SPIKES
from spiketok.evaluation.results import FLOOR
from spiketok.evaluation.scoring.ranks import Summary, step_down_ranks
from spiketok.settings import plain
from spiketok.storage.files import write_signed
from spiketok.storage.workspace import Workspace

FORMAT, VERSION = "spiketok-leaderboard", 1
LIBRARIES = ("torch", "numpy", "scipy", "numba")


@dataclass(frozen=True)
class Row:
    """One model on one track, by one protocol with one calibration.

    Args:
        protocol: row of the transfer table; ``"test"`` for the test split of the trained sessions, ``"nlb"``.
        calibration_s: 0 where there is none.
        values: by metric, seed and session; None without a score. reason: why one lacks; empty where none does.
    """

    track: Track
    model: str
    protocol: str
    calibration_s: float
    values: Mapping[str, Mapping[int, Mapping[str, float | None]]]
    reason: str = ""

    def seeds(self, metric: str) -> dict[int, float]:
        """The mean over sessions by seed; without the seeds where a session has no score."""
        by_seed = self.values[metric]
        return {s: sum(v.values()) / len(v) for s, v in by_seed.items() if v and None not in v.values()}

    def summary(self, metric: str) -> Summary | None:
        """Mean and standard error over seeds; None where a seed has no score."""
        found = self.seeds(metric)
        return Summary.of(list(found.values())) if len(found) == len(self.values[metric]) else None

    def session(self, metric: str, session: str) -> float | None:
        """The mean over seeds of one session."""
        found = [own[session] for own in self.values[metric].values()]
        return None if None in found else sum(found) / len(found)

    @property
    def sessions(self) -> list[str]:
        return sorted({s for by_seed in self.values.values() for own in by_seed.values() for s in own})


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """What was scored of a suite.

    Args:
        suite, part: what it is of. sessions: by track. digests: of the sessions in the store.
        jobs, scored: in the same order. costs: of each job, see :meth:`.jobs.Cells.costs`.
        rows: all, by track, model, protocol and calibration.
    """

    suite: Suite
    part: Part
    sessions: Mapping[str, Sessions]
    digests: Mapping[str, str]
    jobs: Sequence[Job]
    scored: Sequence[Scored]
    costs: Sequence[dict[str, dict]]
    rows: Sequence[Row]

    @property
    def partial(self) -> tuple[str, ...]:
        return self.part.missing

    def of(self, track: Track, **wanted: object) -> list[Row]:
        return [r for r in self.rows if r.track == track and all(getattr(r, k) == v for k, v in wanted.items())]

    def ranked(self, track: Track) -> list[tuple[int | None, Row]]:
        """The rows of a track that are ranked with their places, the best mean first; those without a score last."""
        found = []
        for entry in self.part.entries:
            protocol = entry.protocol if track.score == TRANSFER else track.score
            found += self.of(track, model=entry.name, protocol=protocol, calibration_s=track.headline_s or 0.0)
        scored = {r.model: s for r in found if (s := r.summary(track.metrics[0])) is not None}
        places = step_down_ranks(scored)
        order = sorted(found, key=lambda r: -scored[r.model].mean if r.model in scored else float("inf"))
        return [(places.get(row.model), row) for row in order]

    def floor(self, row: Row) -> Row | None:
        """The linear decoder that saw the same calibration, beside the same runs; None for the floor itself."""
        if row.track.score != TRANSFER or row.protocol in (FLOOR, TEST):
            return None
        return self.of(row.track, model=row.model, protocol=FLOOR, calibration_s=row.calibration_s)[0]

    def cheat(self, row: Row, control: str) -> float | None:
        """What a decoder without spikes gets where the row was scored, mean over seeds; None where it was not made."""
        found = self.of(row.track, model=row.model, protocol=control, calibration_s=row.calibration_s)
        scored = found[0].summary(METRIC) if found and row.track.metrics[0] == METRIC else None
        return None if scored is None else scored.mean

    def seconds(self, kind: str) -> float:
        """Wall seconds of all that was done and written, of a kind (``"train"``, ``"evaluate"``)."""
        return sum(cost.get(kind, {}).get("wall_s", 0.0) for cost in self.costs)

    def reasons(self) -> list[str]:
        """A line for each row without a score, one for several lengths of calibration."""
        found: dict[tuple[str, str, str, str], list[float]] = {}
        for row in self.rows:
            if row.reason:
                found.setdefault((row.track.name, row.model, row.protocol, row.reason), []).append(row.calibration_s)
        lines = []
        for (track, model, protocol, why), lengths in found.items():
            all_of = next(t for t in self.part.tracks if t.name == track).calibration_s
            some = f", {', '.join(f'{s:g} s' for s in lengths)}" if len(lengths) < len(all_of) else ""
            lines.append(f"{track}, {model}, {protocol}{some}: {why}")
        return lines

    def to_json(self) -> dict[str, object]:
        """Everything but times and machine: the same scores give the same bytes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "suite": plain(asdict(self.suite)),
            "suite_digest": self.suite.digest,
            "partial": list(self.partial),
            "models": [entry.name for entry in self.part.entries],
            "seeds": list(self.part.seeds),
            "versions": versions(),
            "tracks": [
                {
                    "name": track.name,
                    "trained": list(self.sessions[track.name].trained),
                    "unseen": list(self.sessions[track.name].unseen),
                    "ranking": [self._row(row) | {"rank": place} for place, row in self.ranked(track)],
                }
                for track in self.part.tracks
            ],
            "sessions": dict(self.digests),
            "rows": [self._row(row) for row in self.rows],
            "runs": [
                {"track": job.track.name, "model": job.entry.name, "seed": job.seed, **found.run}
                for job, found in zip(self.jobs, self.scored, strict=True)
            ],
        }

    def _row(self, row: Row) -> dict[str, object]:
        floor, head = self.floor(row), row.track.metrics[0]
        level = None if floor is None else floor.summary(head)
        return {
            "track": row.track.name,
            "model": row.model,
            "protocol": row.protocol,
            "calibration_s": row.calibration_s,
            "reason": row.reason,
            "floor": None if level is None else level.mean,
            "metrics": {
                metric: {
                    "mean": None if (s := row.summary(metric)) is None else s.mean,
                    "sem": None if s is None else s.sem,
                    "n": len(row.seeds(metric)),
                    "values": {str(seed): dict(own) for seed, own in row.values[metric].items()},
                }
                for metric in row.track.metrics
            },
        }


def versions() -> dict[str, str]:
    """Of what computed the scores."""
    return {"spiketok": __version__, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def write_leaderboard(board: Leaderboard, path: Path) -> None:
    """Write the scores, whole or not at all, with a digest of what they say."""
    write_signed(path, board.to_json())


# ---- a suite --------------------------------------------------------------------------------------------------------


def run_suite(
    workspace: Workspace,
    suite: Suite,
    part: Part,
    folder: Path,
    told: Told,
    *,
    division: tuple[int, int] | None = None,
    refreshed: Callable[[Workspace], Workspace] = lambda workspace: workspace,
) -> Leaderboard | None:
    """Train and score what is not there yet, and collect the leaderboard.

    Args:
        folder: of the cells. division: (k, n), do the k-th of n parts of the jobs alone.
        refreshed: the workspace with its index as it is now, after sessions were made.

    Returns:
        None where a part was done and other parts are still to do.

    Raises:
        DataError: sessions are absent that must be fetched. SpiketokError: as ``train`` and ``eval-xsession``.
    """
    jobs, cells = jobs_of(suite, part), Cells(folder)
    require_data(workspace, suite, part.tracks)
    make_data(workspace, part.tracks, told)
    workspace = refreshed(workspace)
    sessions = {track.name: sessions_of(workspace, track) for track in part.tracks}
    own = jobs if division is None else share(jobs, *division)
    for job in own:
        run_job(workspace, job, sessions[job.track.name], cells, told)
    scored = [run_job(workspace, job, sessions[job.track.name], cells, told, only_look=True) for job in jobs]
    done = sum(found is not None for found in scored)
    told(f"{done} of {len(jobs)} trainings are there and scored")
    if done < len(jobs):
        return None
    known = [s for own in sessions.values() for s in (*own.trained, *own.unseen)]
    digests = {s: str(workspace.facts(s)["digest"]) for s in dict.fromkeys(known)}
    rows = _rows(part, suite, jobs, scored)
    return Leaderboard(suite, part, sessions, digests, jobs, scored, [cells.costs(job) for job in jobs], rows)


def _rows(part: Part, suite: Suite, jobs: Sequence[Job], scored: Sequence[Scored]) -> list[Row]:
    rows = []
    for track in part.tracks:
        for entry in part.entries:
            of = [(j, s) for j, s in zip(jobs, scored, strict=True) if (j.track, j.entry) == (track, entry)]
            if not of:
                continue
            if track.score != NLB:
                tests = {job.seed: found.run["test"] for job, found in of}
                rows.append(_row(track, entry.name, TEST, 0.0, tests, ""))
            for length_s, protocol in dict.fromkeys((key[1], key[2]) for _, found in of for key in found.cells):
                cells = {
                    job.seed: {s: cell for (s, *key), cell in found.cells.items() if key == [length_s, protocol]}
                    for job, found in of
                }
                if protocol == CHEATS:
                    rows += _cheat_rows(track, entry.name, length_s, cells)
                    continue
                scores = {seed: {s: cell["score"] for s, cell in own.items()} for seed, own in cells.items()}
                reason = next((c["reason"] for own in cells.values() for c in own.values() if c["reason"]), "")
                rows.append(_row(track, entry.name, protocol, length_s, scores, reason))
    return rows


def _cheat_rows(track: Track, model: str, length_s: float, cells: Mapping[int, Mapping[str, dict]]) -> list[Row]:
    """A row a control without spikes, where the track has its metric."""
    rows = []
    for control in WITHOUT_SPIKES if METRIC in track.metrics else ():
        values: dict[int, dict[str, float | None]] = {}
        reason = ""
        for seed, own in cells.items():
            values[seed] = {}
            for session, cell in own.items():
                by_control = next(iter(cell["score"].values()), None) or {}
                said = by_control.get(control, {"reason": cell["reason"]})
                values[seed][session], reason = said.get("score"), said.get("reason") or reason
        empty = {seed: dict.fromkeys(own) for seed, own in values.items()}
        by_metric = {metric: values if metric == METRIC else empty for metric in track.metrics}
        rows.append(Row(track, model, control, length_s, by_metric, reason))
    return rows


def _row(track: Track, model: str, protocol: str, length_s: float, scores: dict, reason: str) -> Row:
    """A row of scores by seed, session and task; a metric is of the first task that has it."""
    values: dict[str, dict[int, dict[str, float | None]]] = {}
    for metric in track.metrics:
        values[metric] = {
            seed: {session: _value(track, metric, by_task) for session, by_task in own.items()}
            for seed, own in scores.items()
        }
    return Row(track, model, protocol, length_s, values, reason)


def _value(track: Track, metric: str, by_task: Mapping[str, Mapping | None]) -> float | None:
    of = [score for score in by_task.values() if score is not None]
    found = [score[metric] for score in of if metric in score]
    if of and not found:
        known = sorted({k for score in of for k, v in score.items() if isinstance(v, int | float)})
        message = f"track '{track.name}': metric '{metric}' is none of its scores ({', '.join(known)})"
        raise UsageError(message)
    return None if not found or found[0] is None else float(found[0])
