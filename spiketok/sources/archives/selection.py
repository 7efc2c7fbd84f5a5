"""Which files of a listing are wanted: globs narrow it, limits cut it, and what was left out is told.

Limits count sessions, not files: the files that a dataset's rules join into one session are taken together or not at
all. Both limits take a beginning of the sessions in order of path, so that the same command means the same files
again, and a higher limit only adds to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from spiketok.errors import FetchError, UnknownNameError, UsageError
from spiketok.sources.archives.plans import Asset
from spiketok.storage.files import human_bytes

SUBJECT = "sub-"


@dataclass(frozen=True)
class Selection:
    """What of a dataset is wanted; everything by default.

    Args:
        sessions: comma-separated globs on the path, name or stem of a file, or on its session's id or name.
        subjects: comma-separated globs on the ``sub-`` part of a path, with or without the prefix.
        glob: comma-separated globs on whole paths; ``*`` matches ``/`` too.
        max_sessions: at most so many sessions. max_bytes: at most so many bytes, of what is here already, too.
    """

    sessions: str | None = None
    subjects: str | None = None
    glob: str | None = None
    max_sessions: int | None = None
    max_bytes: int | None = None


EVERYTHING = Selection()


@dataclass(frozen=True)
class Chosen:
    """The wanted files in order of path; ``beyond`` are those that a limit left out, ``limits`` says so in words."""

    assets: tuple[Asset, ...]
    beyond: tuple[Asset, ...] = ()
    limits: tuple[str, ...] = ()


def plain_session(path: str) -> str:
    """A file is a session: what is counted where no rules say otherwise."""
    return path


def choose(
    listing: Sequence[Asset],
    selection: Selection,
    place: str,
    *,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    path: str | None = None,
    session_of: Callable[[str], str] = plain_session,
) -> Chosen:
    """The assets of a listing that a request and a selection name.

    Args:
        listing: all files of the source.
        place: which listing that is, for messages.
        include, exclude: the dataset's globs on paths. path: one file, a folder or a glob; goes before the globs.
        session_of: the session that a file belongs to.

    Raises:
        UnknownNameError: the path or a pattern matches nothing. FetchError: the dataset's globs match nothing.
        UsageError: a limit leaves nothing, or needs sizes that nobody knows.
    """
    paths = [asset.path for asset in listing]
    within = _named(paths, path, place) if path is not None else _taken(paths, include, exclude, place)
    if selection.glob is not None:
        within = _matching(within, selection.glob, "path", place, lambda p: (p,))
    if selection.subjects is not None:
        within = _by_subject(within, selection.subjects, place)
    if selection.sessions is not None:
        within = _matching(
            within, selection.sessions, "session", place, lambda p: (*_short(p), *_named_as(session_of(p)))
        )
    wanted = set(within)
    return _limited([asset for asset in listing if asset.path in wanted], selection, place, session_of)


def _named(paths: list[str], wanted: str, place: str) -> list[str]:
    folder = wanted if wanted.endswith("/") else wanted + "/"
    found = [p for p in paths if p == wanted or p.startswith(folder)] or [p for p in paths if fnmatchcase(p, wanted)]
    if not found:
        raise UnknownNameError("asset", wanted, paths, place)
    return found


def _taken(paths: list[str], include: Iterable[str], exclude: Iterable[str], place: str) -> list[str]:
    include, exclude = list(include), list(exclude)
    found = [p for p in paths if any(fnmatchcase(p, glob) for glob in include)]
    left = [p for p in found if not any(fnmatchcase(p, glob) for glob in exclude)]
    if not left:
        but = f" but not {', '.join(exclude)}" if exclude else ""
        message = f"{place} holds {len(paths)} files and none that matches {', '.join(include)}{but}"
        raise FetchError(message)
    return left


def _short(path: str) -> tuple[str, str, str]:
    name = PurePosixPath(path)
    return path, name.name, name.stem


def _named_as(session_id: str) -> tuple[str, str]:
    return session_id, session_id.rpartition("/")[2]


def _matching(
    paths: list[str], patterns: str, kind: str, place: str, forms: Callable[[str], Sequence[str]]
) -> list[str]:
    """The paths of which a form matches any of the comma-separated globs.

    Raises:
        UnknownNameError: a pattern matches nothing; offers the nearest of the last forms.
    """
    spelled = {path: forms(path) for path in paths}
    chosen: set[str] = set()
    for pattern in filter(None, (p.strip() for p in patterns.split(","))):
        hits = {p for p, words in spelled.items() if any(w == pattern or fnmatchcase(w, pattern) for w in words)}
        if not hits:
            offered = {words[2] if len(words) > 2 else words[0] for words in spelled.values() if words}
            raise UnknownNameError(kind, pattern, offered, place)
        chosen |= hits
    return [path for path in paths if path in chosen]


def subject_of(path: str) -> str | None:
    """The subject in a path of the archive's form (``sub-NAME/sub-NAME_ses-...``); None where it names none.

    >>> subject_of("sub-Jenkins/sub-Jenkins_ses-small.nwb")
    'Jenkins'
    """
    parts = [part.split("_")[0] for part in PurePosixPath(path).with_suffix("").parts]
    return next((part.removeprefix(SUBJECT) for part in parts if part.startswith(SUBJECT)), None)


def _by_subject(paths: list[str], patterns: str, place: str) -> list[str]:
    if not any(map(subject_of, paths)):
        message = f"no file of {place} names a subject ('sub-NAME'): choose with --sessions or --glob"
        raise UsageError(message)
    plain = ",".join(p.strip().removeprefix(SUBJECT) for p in patterns.split(","))
    return _matching(paths, plain, "subject", place, lambda p: tuple(filter(None, [subject_of(p)])))


def _limited(assets: list[Asset], selection: Selection, place: str, session_of: Callable[[str], str]) -> Chosen:
    """What the limits leave of the files, whole sessions in order of their first path."""
    sessions: dict[str, list[Asset]] = {}
    for asset in sorted(assets, key=lambda asset: asset.path):
        sessions.setdefault(session_of(asset.path), []).append(asset)
    kept, limits = dict(sessions), []
    for option, limit in (("--max-sessions", selection.max_sessions), ("--max-bytes", selection.max_bytes)):
        if limit is None:
            continue
        if limit < 1:
            message = f"{option} {limit}: must be at least 1"
            raise UsageError(message)
        fits = _first_sessions(kept, limit) if option == "--max-sessions" else _first_bytes(kept, limit, place)
        left = [asset for name, files in kept.items() if name not in fits for asset in files]
        if left:
            shown = str(limit) if option == "--max-sessions" else human_bytes(limit)
            limits.append(
                f"{option} {shown} leaves out {len(kept) - len(fits)} of {len(kept)} sessions "
                f"({len(left)} files, {_size(left)}), from {left[0].path} on"
            )
        kept = {name: kept[name] for name in fits}
    chosen = {asset.path for files in kept.values() for asset in files}
    beyond = tuple(asset for asset in assets if asset.path not in chosen)
    return Chosen(tuple(asset for asset in assets if asset.path in chosen), beyond, tuple(limits))


def _first_sessions(sessions: dict[str, list[Asset]], limit: int) -> list[str]:
    return list(sessions)[:limit]


def _first_bytes(sessions: dict[str, list[Asset]], limit: int, place: str) -> list[str]:
    fits, total = [], 0
    for name, files in sessions.items():
        sizes = [asset.size for asset in files]
        if None in sizes:
            message = f"--max-bytes needs sizes, which {place} does not announce: choose with --sessions or --glob"
            raise UsageError(message)
        total += sum(sizes)
        if total > limit:
            break
        fits.append(name)
    if not fits and sessions:
        first = next(iter(sessions.values()))
        message = (
            f"--max-bytes {human_bytes(limit)} holds not even the first session of {place} "
            f"({first[0].path}, {_size(first)}): raise it, or choose another with --sessions"
        )
        raise UsageError(message)
    return fits


def _size(assets: Sequence[Asset]) -> str:
    sizes = [asset.size for asset in assets]
    return "? bytes" if None in sizes else human_bytes(sum(sizes))
