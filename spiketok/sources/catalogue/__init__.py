"""What can be fetched: the catalogue, and from a name to a plan to files.

    request = resolve("mc_maze_small")                 # or 000140/draft, dandi://..., an address, a list, a path
    plan = plan_fetch(request, workspace.raw)          # files, bytes, licence; nothing is written
    results = download(plan, workspace.raw)            # verified files under their final names

A new dataset is one :class:`~spiketok.sources.catalogue.base.Dataset` in its own file and one name in ``DATASETS``;
what its conventions make of its files is a :class:`~spiketok.sources.catalogue.base.Rules` beside it and one name in
``RULES``.

Other packages have theirs by entry points of the group ``spiketok.datasets`` (:mod:`spiketok.plugins`): each names a
:class:`~spiketok.sources.catalogue.base.Dataset`, in whose module the Rules stand as ``RULES``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from spiketok.errors import AmbiguousNameError, ArtefactError, FetchError, PluginError, UnknownNameError, UsageError
from spiketok.plugins import Origin, Registry, require_origins
from spiketok.recording.nouns import Source
from spiketok.sources.archives import ARCHIVES
from spiketok.sources.archives.base import Archive, Found
from spiketok.sources.archives.dandi import DandiRequest
from spiketok.sources.archives.download import download_plan
from spiketok.sources.archives.offline import Checked, check_files
from spiketok.sources.archives.planning import plan_of
from spiketok.sources.archives.plans import JOBS, POLICIES, Asset, AssetResult, Plan, Progress, Request
from spiketok.sources.archives.selection import EVERYTHING, Selection
from spiketok.sources.archives.urls import UrlRequest
from spiketok.sources.archives.zenodo import ZenodoRequest
from spiketok.sources.catalogue import (
    allen,
    bwb,
    churchland,
    falcon,
    ibl,
    link,
    nlb,
    odoherty_sabes,
    perich_miller,
    steinmetz,
)
from spiketok.sources.catalogue.base import Dataset, Rules
from spiketok.storage.causes import cause_of
from spiketok.storage.remote import RemotePath

__all__ = [
    "DATASETS",
    "POLICIES",
    "RULES",
    "Asset",
    "AssetResult",
    "Checked",
    "DandiRequest",
    "Dataset",
    "LocalRequest",
    "Plan",
    "Progress",
    "Request",
    "Rules",
    "Selection",
    "UrlRequest",
    "ZenodoRequest",
    "catalogued",
    "check_here",
    "dataset_of",
    "download",
    "load_source",
    "plan_fetch",
    "require_rules",
    "resolve",
    "rules_of",
    "session_of",
]

_SOURCES = (nlb, falcon, perich_miller, churchland, odoherty_sabes, link, steinmetz, ibl, allen, bwb)
_RULES = {rules.name: rules for rules in (Rules("", 0), *(source.RULES for source in _SOURCES))}


def why_no_dataset(thing: object, module: object = None) -> str:
    """Why something is no entry of the catalogue; empty where it is one, and its rules are there."""
    if not isinstance(thing, Dataset):
        return f"is of {type(thing).__name__}, expected a Dataset"
    if thing.host not in ARCHIVES:
        return f"is at '{thing.host}', expected one of {', '.join(ARCHIVES)}"
    if not thing.number:
        return "names neither a dandiset nor a record"
    rules = getattr(module, "RULES", None)
    if rules is None or not thing.rules:
        return "" if thing.rules in _RULES else f"has the rules '{thing.rules}', of which its module has no RULES"
    if not isinstance(rules, Rules):
        return f"has RULES of {type(rules).__name__} in its module, expected Rules"
    if rules.name in _RULES:
        return f"has rules that are called '{rules.name}', which are built in"
    return "" if rules.name == thing.rules else f"has the rules '{thing.rules}', its module has '{rules.name}'"


_BUILT_IN = {dataset.name: dataset for source in _SOURCES for dataset in source.ENTRIES}
DATASETS = Registry("dataset", _BUILT_IN, why_no_dataset, aliases=lambda dataset: dataset.aliases)


class _AllRules(MutableMapping):
    """Rules by name: the built-in ones (the first: no rules, a session a file), then those beside others' datasets."""

    def __init__(self) -> None:
        self.builtin = dict(_RULES)

    def __getitem__(self, name: str) -> Rules:
        if name in self.builtin:
            return self.builtin[name]
        origin = self.origin(name)
        if origin is None:
            raise KeyError(name)
        return DATASETS.module_of(origin.name).RULES

    def __setitem__(self, name: str, rules: Rules) -> None:
        self.builtin[name] = rules

    def __delitem__(self, name: str) -> None:
        del self.builtin[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        yield from dict.fromkeys(d.rules for d in DATASETS.values() if d.rules not in self.builtin)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def origin(self, name: str) -> Origin | None:
        """The dataset of another package that has these rules; None for built-in ones, and where nothing has them.

        Raises:
            PluginError: two packages have rules of this name.
        """
        if name in self.builtin:
            return None
        found = [DATASETS.origin(d.name) for d in DATASETS.values() if d.rules == name]
        found = [origin for origin in found if origin is not None]
        packages = list(dict.fromkeys(origin.distribution for origin in found))
        if len(packages) > 1:
            message = f"the rules '{name}' are of {' and of '.join(packages)}: uninstall one, neither is used"
            raise PluginError(message)
        return found[0] if found else None


RULES = _AllRules()


def require_rules(settings: Mapping[str, object], session_id: str) -> None:
    """Raise AbsentPluginError where a session was made by the rules of a package that is not here."""
    if "rules_plugin" in settings:
        require_origins([settings["rules_plugin"]], session_id)


MAX_LIST_BYTES = 16 * 2**20
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class LocalRequest:
    """A file or folder on this machine: nothing to fetch."""

    name: str
    path: Path


def resolve(name: str, version: str | None = None) -> Request | LocalRequest:
    """What a word on the command line means.

    Args:
        name: a name of the catalogue or one of its aliases (``nlb/mc_maze`` is ``nlb_mc_maze``); ``000140``,
            ``000140/0.220113.0408``, ``000140/draft``, ``DANDI:000140/...``,
            ``dandi://dandi/000140@0.220113.0408/sub-Jenkins/``, the dandiset's page or DOI;
            ``000128:sub-Jenkins/file.nwb`` (one asset, a folder, a glob); ``zenodo:3854034``, the record's page or DOI,
            ``zenodo:3854034:file.mat``; ``s3://bucket/folder/``;
            the http(s) address of an NWB file; a text file of such addresses, one a line,
            ``#`` begins a comment; an NWB file or a folder on this machine.
        version: ``latest``, ``draft`` or a version, in place of the one that the name means.

    Returns:
        The request of an archive (a DandiRequest, ZenodoRequest or UrlRequest), or a LocalRequest. A dandiset with no
        version means the most recent published one; a name of the catalogue means its pinned version.

    Raises:
        UnknownNameError: none of these; offers the nearest name of the catalogue.
        UsageError: a list with a line that is no address, a path that does not exist, a version that cannot be.

    >>> resolve("mc_maze_small").version
    '0.220113.0408'
    >>> resolve("DANDI:000128:sub-Jenkins/").path
    'sub-Jenkins/'
    """
    request = _resolve(name)
    if version is None:
        return request
    if isinstance(request, LocalRequest):
        message = f"{name} has no versions: leave out --version"
        raise UsageError(message)
    return ARCHIVES[request.host].with_version(request, version, pinned=_in_catalogue(name) is not None)


def _resolve(name: str) -> Request | LocalRequest:
    dataset = _in_catalogue(name)
    if dataset is not None:
        request = ARCHIVES[dataset.host].request(dataset.word)
        return replace(request, name=name, include=dataset.include, exclude=dataset.exclude, dataset=dataset.name)
    for archive in ARCHIVES.values():
        request = archive.request(name)
        if request is not None:
            return _named(request)
    return _local_request(name)


def plan_fetch(
    request: Request | LocalRequest,
    raw: Path,
    *,
    api_url: str | None = None,
    selection: Selection = EVERYTHING,
    policy: str = "skip",
    jobs: int = JOBS,
) -> Plan | None:
    """What a request means in files and bytes; None for a local one.

    See :func:`spiketok.sources.archives.planning.plan_of`.
    """
    if isinstance(request, LocalRequest):
        return None
    return plan_of(
        ARCHIVES[request.host],
        request,
        raw,
        api_url=api_url,
        selection=selection,
        session_of=partial(session_of, request),
        policy=policy,
        jobs=jobs,
    )


def download(
    plan: Plan, raw: Path, *, jobs: int = JOBS, policy: str = "skip", progress: Progress | None = None
) -> list[AssetResult]:
    """Fetch what a plan lacks; one result an asset, in the plan's order.

    Raises:
        FetchError: the disk has no room for the plan, or for the record of what came. ArtefactError: a damaged record.
    """
    try:
        return download_plan(ARCHIVES[plan.host], plan, raw, jobs=jobs, policy=policy, progress=progress)
    except OSError as error:  # of our own listing and record: files have their errors in their results
        if error.errno is None:  # not the system's
            raise
        message = f"{plan.name}: this machine's disk: {cause_of(error)}"
        raise FetchError(message) from error


def load_source(file: Path | RemotePath) -> Source | None:
    """Where a file in the raw tree was fetched from, here or in a copy of it behind a URL; None for any other file.

    Raises:
        ArtefactError: its record is damaged, or the file has another size than was fetched.
    """
    found = _find(file)
    if found is None:
        return None
    archive, what = found
    source = archive.source(what)
    if file.stat().st_size != source.size:
        message = (
            f"{file} has {file.stat().st_size} bytes, {source.size} were fetched: "
            f"{shlex.join(['spiketok', 'fetch', archive.word(what), '-e', 'overwrite-different'])}"
        )
        raise ArtefactError(message)
    if not source.license:  # a bucket has none: the catalogue knows it
        held = [d for d in DATASETS.values() if d.holds(archive.host, archive.number(what), what.path)]
        return replace(source, license=held[0].license or "") if held else source
    return source


def _find(file: Path | RemotePath) -> tuple[Archive, Found] | None:
    """Which archive a file in the raw tree was fetched from, and what it recorded."""
    for archive in ARCHIVES.values():
        found = archive.find(file)
        if found is not None:
            return archive, found
    return None


def dataset_of(file: Path | RemotePath) -> str | None:
    """The dataset's name for session ids: the catalogue's, else the dandiset's or record's number; else None.

    Raises:
        ArtefactError: the record of what was fetched is damaged.
    """
    found = _find(file)
    if found is None:
        return None
    archive, what = found
    number = archive.number(what)
    names = [d.name for d in DATASETS.values() if d.holds(archive.host, number, what.path)]
    return names[0] if names else archive.plain_name(number)


def catalogued(name: str) -> Dataset:
    """The catalogue's entry for a name, an alias, the beginning of one name, or what :func:`resolve` takes for one.

    Raises:
        UnknownNameError: there is none. AmbiguousNameError: several begin so.
    """
    dataset = _in_catalogue(name)
    begin = [one for one in DATASETS if name and one.startswith(name)] if dataset is None else []
    if len(begin) > 1:
        raise AmbiguousNameError("dataset", name, begin)
    if begin:
        return DATASETS[begin[0]]
    if dataset is None:
        dataset = DATASETS.get(getattr(resolve(name), "dataset", ""))
    if dataset is None:
        raise UnknownNameError("dataset", name, DATASETS, "the catalogue")
    return dataset


def rules_of(dataset: str) -> Rules:
    """The rules of a dataset's catalogue entry; those that change nothing where it has none, or no entry."""
    return RULES[DATASETS[dataset].rules if dataset in DATASETS else ""]


def check_here(request: Request | LocalRequest, raw: Path, selection: Selection = EVERYTHING) -> list[Checked]:
    """Whether all that was fetched of a request still has its recorded digests; asks no server.

    A dandiset without a version means every version that is here.

    Raises:
        FetchError: nothing of it is here. ArtefactError: a record is damaged. UsageError: it was never fetched.
    """
    if isinstance(request, LocalRequest):
        message = f"{request.name} was not fetched: 'spiketok verify' checks what was ingested from it"
        raise UsageError(message)
    found = check_files(ARCHIVES[request.host], request, Path(raw), selection, partial(session_of, request))
    if not found:
        message = f"nothing of {request.name} is here: spiketok fetch {request.name}"
        raise FetchError(message)
    return found


def session_of(of: Request | Plan, path: str) -> str:
    """The id of the session that a file of a request or plan belongs to; its path, where it is in no catalogue."""
    names = [d.name for d in DATASETS.values() if d.holds(of.host, of.number, path)]
    return f"{names[0]}/{rules_of(names[0]).session_name(PurePosixPath(path).name)}" if names else path


def _in_catalogue(name: str) -> Dataset | None:
    wanted = name.lower().replace("-", "_").replace("/", "_")
    return next((d for d in DATASETS.values() if wanted in (d.name, *d.aliases)), None)


def _named(request: Request) -> Request:
    """A request with the catalogue's name for it, and with its globs where the files are no NWB."""
    known = [d for d in DATASETS.values() if d.host == request.host and d.number == request.number]
    if not known:
        return request
    request = replace(request, dataset=known[0].name)
    if any(glob.lower().endswith(".nwb") for glob in known[0].include):
        return request
    return replace(request, include=known[0].include, exclude=known[0].exclude)


def _local_request(name: str) -> Request | LocalRequest:
    path = Path(name).expanduser()
    if path.is_dir():
        return LocalRequest(name, path)
    if path.is_file():
        with open(path, "rb") as stream:
            start = stream.read(len(HDF5_SIGNATURE))
        if start == HDF5_SIGNATURE or path.suffix.lower() in (".nwb", ".h5", ".hdf5"):
            return LocalRequest(name, path)
        return UrlRequest(name, _read_list(path))
    if path.exists():
        message = f"{name} is neither a file nor a folder"
        raise UsageError(message)
    if re.fullmatch(r"(?:DANDI:)?[0-9]{1,5}", name, re.IGNORECASE):
        number = name.rpartition(":")[2]
        message = f"'{name}' is no dandiset, whose number has six digits: did you mean {number.zfill(6)}?"
        raise UsageError(message)
    if "/" in name or path.suffix.lower() in (".nwb", ".txt", ".h5", ".hdf5", ".list"):
        message = f"{name}: no such file or folder, and no dandiset or address of this form"
        raise UsageError(message)
    names = [form for dataset in DATASETS.values() for form in (dataset.name, *dataset.aliases)]
    raise UnknownNameError("dataset", name, names)


def _read_list(path: Path) -> tuple[str, ...]:
    """The addresses in a text file, in its order, each once."""
    if path.stat().st_size > MAX_LIST_BYTES:
        message = f"{path} is no NWB (HDF5) file, and too large for a list of addresses"
        raise UsageError(message)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        message = f"{path} is neither an NWB (HDF5) file nor a text file with one address a line"
        raise UsageError(message) from None
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        address = re.sub(r"(^|\s)#.*", "", line).strip()
        if not address:
            continue
        if not re.fullmatch(r"https?://\S+", address, re.IGNORECASE):
            message = f"{path}, line {number}: {address[:80]!r} is not an http(s) address"
            raise UsageError(message)
        found[address] = None
    if not found:
        message = f"{path} holds no address: one http(s) address of an NWB file a line"
        raise UsageError(message)
    return tuple(found)
