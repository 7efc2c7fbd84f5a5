"""What a suite says: nouns, checks, and where suites are found.

What is unusual: a suite's numbers mean something as long as its file stays as it is. Its version is part of its name on
disk, its digest stands in every leaderboard, and each version has at least one line under ``changes`` that says what in
it can move a number. A suite of one's own must not take the name of one of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from spiketok.errors import UnknownNameError, UsageError, the_one
from spiketok.settings import build, plain, read_toml
from spiketok.storage.files import fingerprint
from spiketok.storage.names import require_name

FOLDER = Path(__file__).parent / "suites"
TRANSFER, TEST, NLB = "transfer", "test", "nlb"


@dataclass(frozen=True)
class Change:
    """A line of the suite's changelog: what can move a number, since which version."""

    version: int
    text: str


@dataclass(frozen=True)
class Entry:
    """A model in a suite.

    Args:
        name: in the leaderboard. model: of ``spiketok models``.
        sets: ``KEY=VALUE`` as ``train --set`` takes them, behind those of the track; also ``transfer.*``.
        protocol: the row of the transfer table that stands in the ranking, named before anything is scored; empty
            where no track transfers.
        tracks: globs on the names of the tracks that it takes part in.
    """

    name: str
    model: str
    sets: tuple[str, ...] = ()
    protocol: str = ""
    tracks: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Track:
    """Data and what is scored on them.

    Args:
        name: in the leaderboard. dataset: first half of the sessions' ids, a name of the catalogue; of simulated
            sessions what comes before the fingerprint of their settings.
        simulate: settings of the simulator; empty for sessions that must be in the store.
        sessions: globs on the names of the sessions that take part. unseen: those of them that are not trained on.
        score: ``"transfer"``: the unseen sessions by each protocol and calibration; ``"test"``: the test split of the
            sessions trained on; ``"nlb"``: rates of the valid split, by the Neural Latents Benchmark's definitions.
        tasks: as ``train --task`` takes them. metrics: of the score; the first one is ranked.
        sets: ``KEY=VALUE`` for all models.
        protocols: rows of the transfer table; the floor stands beside them always.
        calibration_s: lengths of labelled or unlabelled calibration. headline_s: the one that is ranked.
    """

    name: str
    dataset: str
    score: Literal["transfer", "test", "nlb"]
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    simulate: dict[str, object] | None = None
    sessions: str = "*"
    unseen: str = ""
    sets: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    calibration_s: tuple[float, ...] = ()
    headline_s: float | None = None

    def __post_init__(self) -> None:
        transfers = self.score == TRANSFER
        for name, value in (
            ("unseen", self.unseen),
            ("protocols", self.protocols),
            ("calibration_s", self.calibration_s),
        ):
            if bool(value) is not transfers:
                fact = "needs" if transfers else "has no use for"
                message = f"track '{self.name}' scores {self.score} and {fact} '{name}'"
                raise UsageError(message)
        if not self.tasks or not self.metrics:
            message = f"track '{self.name}' names no {'metrics' if self.tasks else 'tasks'}"
            raise UsageError(message)
        if any(not s > 0 for s in self.calibration_s) or (transfers and self.headline_s not in self.calibration_s):
            message = (
                f"track '{self.name}': headline_s is {self.headline_s}, must be one of calibration_s "
                f"({', '.join(f'{s:g}' for s in self.calibration_s)}), all above 0"
            )
            raise UsageError(message)

    def patterns(self, dataset: str, globs: str) -> str:
        """Globs on whole ids, of globs on the names of sessions."""
        return ",".join(f"{dataset}/{glob.strip()}" for glob in globs.split(",") if glob.strip())


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Args:
        name, version: what it is cited as. title, about: for the page.
        seeds: of the trainings. models, tracks: each model is trained on each of its tracks with each seed.
        changes: what can move a number, the newest last.
        needs: what it needs that it does not make; empty for nothing.
    """

    name: str
    version: int
    title: str
    about: str
    seeds: tuple[int, ...]
    models: tuple[Entry, ...]
    tracks: tuple[Track, ...]
    changes: tuple[Change, ...]
    needs: str = ""

    def __post_init__(self) -> None:
        require_name(self.name, "suite")
        for what, names in (("models", self.models), ("tracks", self.tracks)):
            for one in names:
                require_name(one.name, what)
            found = [one.name for one in names]
            if not found or len(set(found)) < len(found):
                message = f"suite '{self.name}': {what} are {', '.join(found) or 'none'}, name at least one, each once"
                raise UsageError(message)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            message = f"suite '{self.name}': seeds are {list(self.seeds)}, expected some from 0 on, each once"
            raise UsageError(message)
        if not any(change.version == self.version for change in self.changes):
            message = f"suite '{self.name}' is of version {self.version}, of which its changes say nothing"
            raise UsageError(message)
        for entry in self.models:
            of = self.tracks_of(entry)
            if not of:
                message = (
                    f"model '{entry.name}' takes part in no track: tracks are {', '.join(t.name for t in self.tracks)}"
                )
                raise UsageError(message)
            if not entry.protocol and any(track.score == TRANSFER for track in of):
                message = f"model '{entry.name}' names no protocol, which a ranking of unseen sessions needs"
                raise UsageError(message)

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def digest(self) -> str:
        """Names all that the suite says."""
        return fingerprint(plain(asdict(self)))

    def tracks_of(self, entry: Entry) -> list[Track]:
        return [t for t in self.tracks if any(fnmatchcase(t.name, glob) for glob in entry.tracks)]


def suite_names() -> list[str]:
    """The suites of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_suite(name: str) -> Suite:
    """A suite by its name, or from a file whose name ends in ``.toml``.

    Raises:
        UnknownNameError: there is none of that name, or a key is none. UsageError: what it says is wrong; or a file of
            one's own has the name of a suite of the package.
    """
    own = name.endswith(".toml")
    path = Path(name) if own else FOLDER / f"{the_one('suite', name, suite_names())}.toml"
    suite = build(Suite, read_toml(path), noun="key of a suite")
    if own and suite.name in suite_names() and path.resolve().parent != FOLDER.resolve():
        message = f"{path} has the name of a suite of the package, '{suite.name}': give it another"
        raise UsageError(message)
    return suite


@dataclass(frozen=True)
class Part:
    """What of a suite is taken.

    Args:
        entries, seeds, tracks: those taken. missing: a line for each kind of which some were left out.
    """

    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    tracks: tuple[Track, ...]
    missing: tuple[str, ...] = ()


def part_of(
    suite: Suite,
    models: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    tracks: Sequence[str] | None = None,
) -> Part:
    """The models, seeds and tracks that were asked for, all without; in the order of the suite.

    Raises:
        UnknownNameError: a name or a seed is none of the suite's. UsageError: none of the models has a track left.
    """
    taken, missing = [], []
    for kind, asked, known in (
        ("model", models, {e.name: e for e in suite.models}),
        ("seed", seeds, {s: s for s in suite.seeds}),
        ("track", tracks, {t.name: t for t in suite.tracks}),
    ):
        for name in asked or ():
            if name not in known:
                raise UnknownNameError(kind, str(name), map(str, known), f"suite '{suite.name}'")
        names = [name for name in known if not asked or name in asked]
        taken.append(tuple(known[name] for name in names))
        if len(names) < len(known):
            missing.append(f"{kind}s {', '.join(map(str, names))} of {', '.join(map(str, known))}")
    entries, chosen, on = taken
    entries = tuple(e for e in entries if any(t in on for t in suite.tracks_of(e)))
    if not entries:
        message = f"suite '{suite.name}': none of these models takes part in {', '.join(t.name for t in on)}"
        raise UsageError(message)
    return Part(entries, chosen, on, tuple(missing))
