"""Ingest: from source files to sessions in the store.

    files -> groups (the files of one session) -> normalize: read, adjust, join, mask, filter, process -> store

What is unusual: all that shapes a session besides the bytes of its files is in its *settings*, a JSON object in the
store that is part of the session's digest. The same bytes under the same settings are not read again, and ``verify``
makes the session once more from both and expects the same digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path

from spiketok.errors import ArtefactError, DataError, SourceError, UnknownNameError, UnreadableError, UsageError
from spiketok.pipeline.admission import Ingested, admitted, gate, ingested
from spiketok.pipeline.isolation import bounds, isolated
from spiketok.pipeline.jobs import Job, Outcome, run_jobs, share_of
from spiketok.pipeline.readers import READER, SORTED, as_found, digest_of, files_read, reader_of
from spiketok.recording.joining_time import join_files
from spiketok.recording.masking import mask_time
from spiketok.recording.nouns import Finding, Session, Source
from spiketok.recording.outside import drop_outside
from spiketok.recording.quality import apply_unit_settings
from spiketok.recording.splits import with_stored_sets
from spiketok.recording.steps import apply_steps
from spiketok.storage.causes import content_fault, raise_cause
from spiketok.storage.files import WIP, clean_leftovers, read_json, sha256_file, source_bytes, write_json
from spiketok.storage.locks import beside, locked, session_lock
from spiketok.storage.names import folded, safe_name, twin_of
from spiketok.storage.remote import RemotePath, local_copy, place
from spiketok.storage.store import holds_session, read_attributes, session_place, write_session
from spiketok.storage.workspace import Workspace

NO_RULES = "none"
FOLDERS = (".nwb", ".nwb.zarr")  # a folder with such a name is one source: zarr arrays

State = tuple[int, int, int]  # of a file: bytes, time of the last change in ns, inode


@dataclass(frozen=True)
class Group:
    """The files of one session, in order of path, and the rules by which it is made of them."""

    session_id: str
    files: tuple[Path | RemotePath, ...]
    rules: str

    @property
    def label(self) -> str:
        """What a message calls it."""
        return " + ".join(file.name for file in self.files)


# ---- which files ----------------------------------------------------------------------------------------------------


def find_files(
    paths: Sequence[Path | RemotePath | str], suffixes: Sequence[str] = (".nwb",), *, as_given: bool = False
) -> list[Path | RemotePath]:
    """The source files that the paths and URLs name: files as given, folders searched below.

    The last part of a URL may be a glob, which no shell resolves.

    Args:
        paths: files, folders, URLs.
        suffixes: of the files that are taken from a folder, in lower case.
        as_given: a folder is one source itself and is not searched.

    Raises:
        UsageError: a path does not exist. SourceError: a folder holds no such file. FetchError: a URL cannot be
            reached.
    """
    files: list[Path | RemotePath] = []
    for path in map(place, paths):
        if isinstance(path, RemotePath) and path.parents and "*" in path.name:
            found = [p for p in path.parent.iterdir() if fnmatchcase(p.name, path.name)]
            if not found:
                message = f"{path} matches nothing"
                raise UsageError(message)
            files += found
            continue
        if path.is_dir() and not as_given and not path.name.lower().endswith(FOLDERS):
            wanted = (*suffixes, *FOLDERS[1:]) if FOLDERS[0] in suffixes else suffixes
            within = sorted(p for suffix in wanted for p in path.rglob(f"*{suffix}"))
            found = [p for p in within if not any(_unfinished(part) for part in p.parts)]
            if not found:
                message = f"{path} holds no {' or '.join(suffixes)} file{_other_reader(path)}"
                raise SourceError(message)
            files += found
        elif path.exists() or (isinstance(path, Path) and path.is_symlink()):
            files.append(path)
        else:
            if isinstance(path, Path):
                _refuse_place(path)
            message = f"{path} does not exist"
            raise UsageError(message)
    return list(dict.fromkeys(map(_resolved, files)))


def _other_reader(path: Path | RemotePath) -> str:
    """What to add to say that a folder looks like one of another reader."""
    from spiketok.sources.formats.sorting import looks_like

    sorter = looks_like(path) if isinstance(path, Path) else ""
    if not sorter and any(True for suffix in (".h5", ".hdf5") for _ in path.rglob(f"*{suffix}")):
        return f", but HDF5 files: name them (spiketok ingest {path}/*.h5), or their dataset by --dataset NAME"
    return f", but what looks like {sorter}: add --sorter {sorter}" if sorter else ""


def _refuse_place(path: Path) -> None:
    """Raise SourceError where a path leads to nothing because of what is above it."""
    try:
        path.stat()
    except OSError as error:
        raise_cause(error, path, SourceError)


def _resolved(path: Path | RemotePath) -> Path | RemotePath:
    """The path without links; one that leads nowhere or to itself stays, and is the reader's to refuse."""
    return path.resolve() if isinstance(path, RemotePath) or path.exists() else path.absolute()


def _unfinished(part: str) -> bool:
    return part.startswith(WIP) or part.endswith(".dandidownload")


def group_files(
    files: Sequence[Path | RemotePath],
    dataset: str = "local",
    rules: str | None = None,
    merge_as: str = "",
    *,
    as_given: bool = False,
) -> tuple[list[Group], list[Outcome]]:
    """The sessions that files make, and a failure for each file whose session would have to be two.

    Args:
        files: from :func:`find_files`.
        dataset: the first half of the session ids, where a file's provenance does not give one.
        rules: a name of ``RULES``, or ``"none"``; without it those of the dataset's catalogue entry.
        merge_as: the name of the one session that all files are parts of, see
            :func:`spiketok.recording.joining_time.join_files`.
        as_given: these files in the order given, not in that of their paths.

    Raises:
        UnknownNameError: there are no such rules. UsageError: the files to merge have rules that join them otherwise.
    """
    from spiketok.sources.catalogue import RULES, dataset_of, rules_of
    from spiketok.sources.formats.sorting import folder_name

    if rules not in (None, NO_RULES) and (not rules or rules not in RULES):
        raise UnknownNameError("rules", rules, [NO_RULES, *filter(None, RULES)])
    found: dict[str, tuple[str, list[Path | RemotePath]]] = {}
    for file in files:
        of = dataset_of(file) or dataset
        own = rules_of(of) if rules is None else RULES["" if rules == NO_RULES else rules]
        name = folder_name(file) if isinstance(file, Path) and file.is_dir() else file.name
        session_id = f"{of}/{safe_name(own.session_name(name))}"
        found.setdefault(session_id, (own.name, []))[1].append(file)
    if merge_as:
        group = _merged_group(found, f"{dataset}/{merge_as}")
        return [replace(group, files=tuple(files)) if as_given else group], []
    groups, failures = [], []
    for session_id, (name, members) in found.items():
        if len(members) == 1 or RULES[name].join is not None:
            groups.append(Group(session_id, tuple(sorted(members, key=str)), name))
            continue
        message = (
            f"{len(members)} files would all be session '{session_id}': "
            "ingest them one folder at a time with --dataset NAME"
        )
        failures += [Outcome(file.name, None, SourceError(f"{file.name}: {message}")) for file in members]
    return groups, failures


def twin_words(session_id: str, twin: str) -> str:
    """Why a session is not made beside a twin, see :func:`spiketok.storage.names.twin_of`."""
    fact = f"session '{session_id}' and '{twin}' are one name where a file system has no regard to case"
    return f"{fact} or accents: rename the file, or give another --dataset"


def _merged_group(found: Mapping[str, tuple[str, list[Path | RemotePath]]], session_id: str) -> Group:
    from spiketok.sources.catalogue import RULES

    names = sorted({name for name, _ in found.values()})
    if len(names) > 1 or RULES[names[0]].join is not None:
        message = f"{session_id}: the rules '{', '.join(names)}' join files in their own way: add --rules none to merge"
        raise UsageError(message)
    return Group(session_id, tuple(sorted((f for _, members in found.values() for f in members), key=str)), names[0])


# ---- one session ----------------------------------------------------------------------------------------------------


def settings_of(group: Group, wanted: Mapping[str, object] | None = None) -> dict[str, object]:
    """The settings of a session: the reader's, its rules' where it has any, and what the user wants besides."""
    from spiketok.sources.catalogue import RULES

    rules = {"rules": group.rules, "rules_version": RULES[group.rules].version} if group.rules else {}
    if group.rules and (origin := RULES.origin(group.rules)):
        rules["rules_plugin"] = origin.to_dict()
    return READER | rules | dict(wanted or {})


def normalize(
    files: Sequence[Path], session_id: str, sources: Sequence[Source], settings: Mapping[str, object]
) -> Session:
    """Make a session of its files by its settings: read, adjust, join; then filters of units, then processing steps.

    Args:
        files: on this machine, in the group's order. sources: where each came from.
        session_id: ``"<dataset>/<session>"``.
        settings: from :func:`settings_of`, or as a store recorded them.

    Raises:
        SourceError: a file cannot be read. DataError: what it holds does not fit the settings.
    """
    from spiketok.sources.catalogue import RULES, require_rules
    from spiketok.sources.catalogue.base import read_nwb_file

    require_rules(settings, session_id)
    rules = RULES[settings.get("rules", "")]
    read = reader_of(settings) or rules.read
    if read is read_nwb_file:
        stated = {"time_unit": settings.get("time_unit"), "restarts": settings.get("restarts", ())}
        stated |= {"units_path": settings.get("units", ""), "is_part": bool(settings.get("merge"))}
        read = partial(read, mends_clocks=rules.mends_clocks, **stated)
    else:
        own = ("time_unit",) if settings.get("reader") == SORTED else ()  # a sorter's folder may state its unit
        for setting, option in (("time_unit", "--time-unit"), ("units", "--units"), ("restarts", "--restarts")):
            if setting in settings and setting not in own:
                message = f"{session_id}: {option} is for NWB files that the general reader reads, not for these"
                raise UsageError(message)
    parts = [rules.adjust(read(file, session_id, source), file) for file, source in zip(files, sources, strict=True)]
    if settings.get("drop_outside"):
        parts = [drop_outside(part) for part in parts]
    if settings.get("merge"):
        _require_stated(parts, settings, session_id)
        session = join_files(parts, session_id, str(settings.get("join", "")))
    else:
        session = parts[0] if rules.join is None else rules.join(parts, session_id)
    joined = tuple(part.source for part in parts[1:])
    session = replace(session, source=replace(session.source, joined=joined)) if joined else session
    session = mask_time(session, settings.get("mask", ()))
    if settings.get("trials"):
        session = _with_trials(session, str(settings["trials"]))
    if settings.get("drop_outside") and settings.get("mask"):
        session = drop_outside(session)
    session = apply_steps(apply_unit_settings(session, settings), settings.get("process", ()))
    return with_stored_sets(session, settings.get("splits", {}))


def _with_trials(session: Session, table: str) -> Session:
    """The session whose trials are the rows of another of its interval tables, which is then called so."""
    if table not in session.intervals:
        raise UnknownNameError("interval table", table, session.intervals, session.id)
    if session.trials is not None and table != "trials":
        message = (
            f"{session.id} has a table of {len(session.trials)} trials, so that --trials {table} cannot be it: "
            "leave --trials out"
        )
        raise DataError(message)
    named = {"trials" if name == table else name: rows for name, rows in session.intervals.items()}
    note = Finding(
        "trials-stated", len(named["trials"]), f"the {len(named['trials'])} rows of '{table}' are the trials"
    )
    return replace(session, intervals=named, notes=(*session.notes, note))


def _require_stated(parts: Sequence[Session], settings: Mapping[str, object], session_id: str) -> None:
    """Raise UsageError where a time unit is stated of what none of the files has."""
    held = {name for part in parts for name in (*part.signals, *part.intervals, *part.stimuli)}
    held |= {"", "spikes", "obs_intervals"}
    held |= {name for part in parts for table in part.intervals.values() for name in table.columns}
    for what in settings.get("time_unit", {}):
        if not any(what.split("/")[-1] in (name, name.split(".")[-1]) for name in held):
            message = f"{session_id}: a time unit is stated of '{what}', which none of its files has"
            raise UsageError(message)


def ingest(
    workspace: Workspace,
    paths: Sequence[Path | RemotePath | str],
    dataset: str = "local",
    executor: str | int = "",
    *,
    rules: str | None = None,
    wanted: Mapping[str, object] | None = None,
    merge_as: str = "",
    strict: bool = False,
    part: tuple[int, int] | None = None,
    told: Callable[[str], None] = print,
) -> Iterator[Outcome]:
    """Normalize source files into the store; yields one outcome a session, its result an :class:`Ingested`.

    A session that is refused by ``strict`` has both a result, with its findings, and an error.

    Args:
        workspace: where the store is.
        paths: files and folders of them, here or behind URLs.
        dataset: the first half of the session ids, where a file's provenance does not give one.
        executor: see :func:`spiketok.pipeline.jobs.run_jobs`.
        rules: see :func:`group_files`.
        wanted: further settings, see :func:`settings_of`.
        merge_as: see :func:`group_files`.
        strict: store no session that has a warning or an error.
        part: I and N: the I-th of N parts of the sessions alone; the first tells of files that make none.
        told: called with a line where the store's index had to be made anew.
    """
    from spiketok.sources.catalogue import rules_of

    first = part is None or part[0] == 1
    wanted = dict(wanted or {}) | ({"merge": "units"} if merge_as else {})
    is_sorted = wanted.get("reader") == SORTED
    files = find_files(paths, rules_of(dataset).suffixes, as_given=is_sorted)
    workspace = workspace.absolute()
    clean_leftovers(workspace.root)
    as_given = wanted.get("join") == "time"
    groups, failures = group_files(files, dataset, NO_RULES if is_sorted else rules, merge_as, as_given=as_given)
    yield from failures if first else ()
    known = folded(workspace.session_ids())
    for group in list(groups):
        twin = twin_of(group.session_id, known)
        known |= folded([] if twin else [group.session_id])
        if twin:
            groups.remove(group)
            if first:
                yield Outcome(group.label, None, DataError(f"{group.label}: {twin_words(group.session_id, twin)}"))
    groups = share_of(sorted(groups, key=lambda group: group.session_id), part) if part else groups
    with gate(workspace, strict, told) as through:
        jobs = [
            Job(
                group.label,
                ingest_group,
                (workspace, group, settings_of(group, wanted), through.place(group.session_id)),
            )
            for group in groups
        ]
        for outcome in run_jobs(jobs, executor):
            done = admitted(outcome, through)
            if done.error is None:
                _remember_source(workspace, done.result)
            yield done


def ingest_group(
    workspace: Workspace, group: Group, settings: Mapping[str, object], into: Path | None = None
) -> Ingested:
    """Read the files of one session and write it, unless the store has it from the same bytes and settings.

    Args:
        into: where it is written; without one into the store.
    """
    from contextlib import ExitStack

    target = workspace.store_path(group.session_id)
    with ExitStack() as stack:
        files = [stack.enter_context(local_copy(path, workspace.root)) for path in group.files]
        before = [_state_of(file) for file in files]
        settings = settings if group.rules else as_found(group.files, files, settings)
        digests = [digest_of(file, settings) if file.is_file() or file.is_dir() else "" for file in files]
        done = stored_from(target, group, digests, with_stored_splits(target, settings))
        if done is not None:
            return done
        stack.enter_context(session_lock(target))  # who had it may have made just this
        settings = with_stored_splits(target, settings)
        done = stored_from(target, group, digests, settings)
        if done is not None:
            return done
        state = "replaced" if holds_session(target) else "new"
        read = files_read(settings)
        sources = [_source(path, file, d, read) for path, file, d in zip(group.files, files, digests, strict=True)]
        with session_place(into or target) as folder:
            _make_isolated(group, files, before, sources, settings, folder)
    return ingested(state, named(group), read_attributes(into or target), into)


@contextmanager
def _unchanged(files: Sequence[Path], before: Sequence[State | None]) -> Iterator[None]:
    """Raise SourceError where a file has changed at the end of the block, whatever else went wrong because of that."""
    try:
        yield
    except Exception:
        _refuse_changed(files, before)
        raise
    _refuse_changed(files, before)


def _state_of(file: Path) -> State | None:
    try:
        found = file.stat()
    except OSError:  # gone, or not to be had: what reads it says so
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _refuse_changed(files: Sequence[Path], before: Sequence[State | None]) -> None:
    for file, was in zip(files, before, strict=True):
        now = _state_of(file)
        if None not in (was, now) and now != was:
            message = (
                f"{file.name}: changed while it was read ({was[0]} bytes before, {now[0]} now): "
                "ingest it when the program that writes it has ended"
            )
            raise SourceError(message)


def _make_isolated(
    group: Group,
    files: Sequence[Path],
    before: Sequence[State | None],
    sources: Sequence[Source],
    settings: Mapping[str, object],
    folder: Path,
) -> None:
    """Make a session and write it to a folder, in a process that may die of what is in the files."""
    _warm_up()
    most = bounds(sum(source.size for source in sources))
    try:
        isolated(_make, files, before, group.session_id, sources, settings, folder, name=group.label, **most)
    finally:
        clean_leftovers(folder.parent)  # of a child that died


@lru_cache(maxsize=1)
def _warm_up() -> None:
    """Import here what each child would import anew."""
    import numcodecs.blosc  # noqa: F401

    from spiketok.sources.formats.nwb.units import warm_up

    warm_up()


def _make(
    files: Sequence[Path],
    before: Sequence[State | None],
    session_id: str,
    sources: Sequence[Source],
    settings: Mapping[str, object],
    folder: Path,
) -> None:
    with _unchanged(files, before):
        session = normalize(files, session_id, sources, settings)
    write_session(session, folder, settings)


def with_stored_splits(target: Path | RemotePath, settings: Mapping[str, object]) -> dict[str, object]:
    """The settings with the divisions by rule that the store has of the session: they stay, and are made again."""
    before = _attributes_or_none(target)
    stored = (before or {}).get("settings", {})
    return ({"splits": stored["splits"]} if "splits" in stored else {}) | dict(settings)


def stored_from(
    target: Path | RemotePath, group: Group, digests: Sequence[str], settings: Mapping[str, object]
) -> Ingested | None:
    """What the store has of a session, if it was made of just these bytes by just these settings; else None."""
    before = _attributes_or_none(target)
    if before is None or _but_releases(before["settings"]) != _but_releases(settings):
        return None
    parts = Source.from_dict(before["source"]).files
    same = [part.sha256 for part in parts] == list(digests)
    if same and any(linked_differences(part, path) for part, path in zip(parts, group.files, strict=True)):
        return None
    return ingested("already", named(group), before) if same else None


def _but_releases(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings without the release of the package whose rules they name: ``rules_version`` tells those apart."""
    plugin = settings.get("rules_plugin")
    if not isinstance(plugin, Mapping):
        return dict(settings)
    return dict(settings) | {"rules_plugin": {k: v for k, v in plugin.items() if k != "version"}}


def linked_differences(source: Source, path: Path | RemotePath) -> list[str]:
    """Which files that a source's links led to when it was ingested are now gone from its folder, or other ones."""
    differences = []
    for one in source.linked:
        place = path.parent / one.file
        found = sha256_file(place) if place.is_file() else ""
        if found != one.sha256:
            now = f"has sha256 {found[:12]}" if found else "is gone"
            fact = f"{one.file}, to which {source.file} has links, {now}, was ingested as {one.sha256[:12]}"
            differences.append(f"{fact}: ingest {source.file} again")
    return differences


def _source(path: Path | RemotePath, file: Path, digest: str, read: Callable[[str], bool] | None = None) -> Source:
    """Where a file came from: the record of its download, which its bytes must agree with, else the file itself."""
    from spiketok.sources.catalogue import load_source

    source = load_source(path) or Source(file=path.name, sha256=digest, size=source_bytes(file, read) if digest else 0)
    if source.sha256 != digest:
        message = f"{path.name} has sha256 {digest[:12]}, was fetched as {source.sha256[:12]}: fetch it again"
        raise SourceError(message)
    return source


def _attributes_or_none(target: Path | RemotePath) -> dict | None:
    """A session's attributes; None where there is none, or one of another version or damaged, to be made again."""
    try:
        return read_attributes(target)
    except UnreadableError:
        raise
    except ArtefactError:
        return None


def named(group: Group) -> tuple[str, ...]:
    """The paths of a session's files, as they are told."""
    return tuple(str(path) for path in group.files)


# ---- where the sources are ------------------------------------------------------------------------------------------


def _source_index(workspace: Workspace) -> Path:
    """Where this machine keeps the paths of each session's files: beside the store, never inside it."""
    return workspace.root / "sources.json"


def _known_sources(workspace: Workspace) -> dict[str, list[str]]:
    """The paths of each session's files, by id; ArtefactError where the file holds anything else."""
    index = _source_index(workspace)
    try:
        known = read_json(index)
    except FileNotFoundError as error:
        raise_cause(error, index)
        return {}
    except (OSError, ValueError) as error:
        raise_cause(error, index)
        message = f"{index} cannot be read ({content_fault(error)}): move it away and ingest again, which makes it"
        raise ArtefactError(message) from error
    paths = {s: [listed] if isinstance(listed, str) else listed for s, listed in known.items()}
    wrong = [s for s, listed in paths.items() if not _are_paths(listed)]
    if wrong:
        message = f"{index} holds no list of paths for {wrong[0]}: move it away and ingest again, which writes it anew"
        raise ArtefactError(message)
    return paths


def _are_paths(listed: object) -> bool:
    return isinstance(listed, list) and all(isinstance(path, str) and "\0" not in path for path in listed)


def _remember_source(workspace: Workspace, done: Ingested) -> None:
    index = _source_index(workspace)
    if _known_sources(workspace).get(done.session_id) == list(done.paths):
        return
    with locked(beside(index), str(index), wait=True):  # what another ingest adds meanwhile must not be lost
        write_json(index, _known_sources(workspace) | {done.session_id: list(done.paths)})


def move_sources(workspace: Workspace, old: str, new: str | None) -> None:
    """Keep the paths of a session's files under another id; None: forget them."""
    index = _source_index(workspace)
    if old not in _known_sources(workspace):
        return
    with locked(beside(index), str(index), wait=True):
        known = _known_sources(workspace)
        paths = known.pop(old, [])
        write_json(index, known | ({new: paths} if new is not None else {}))


def recorded_paths(workspace: Workspace, session_id: str) -> list[Path | RemotePath]:
    """Where the files of a session lay when it was ingested, in the order of its sources; none if nobody knows here."""
    return [place(text) for text in _known_sources(workspace).get(session_id, [])]


def source_paths(workspace: Workspace, session_id: str) -> list[Path | RemotePath]:
    """The files that a session was read from, on this machine or behind URLs, in the order of its sources.

    Raises:
        SourceError: they are not known here, or one is gone. FetchError: a URL cannot be reached.
    """
    paths = recorded_paths(workspace, session_id)
    if not paths:
        message = (
            f"{session_id}: where its source file lies is not recorded in {_source_index(workspace)}: ingest it again"
        )
        raise SourceError(message)
    for path in paths:
        if not path.exists():
            message = f"{session_id}: its source file {path} is gone, which {_source_index(workspace)} names"
            raise SourceError(message)
    return paths
