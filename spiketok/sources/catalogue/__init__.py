"""What can be fetched: the catalogue, and from a name to a plan to files.

    request = resolve("mc_maze_small")                 # or 000140/draft, dandi://..., an address, a list, a path
    plan = plan_fetch(request, workspace.raw)          # files, bytes, licence; nothing is written
    results = download(plan, workspace.raw)            # verified files under their final names

A new dataset is one :class:`~spiketok.sources.catalogue.base.Dataset` in its own file and one name in ``DATASETS``;
what its conventions make of its files is a :class:`~spiketok.sources.catalogue.base.Rules` beside it and one name in
``RULES``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from spiketok.errors import ArtefactError, FetchError, UnknownNameError, UsageError
from spiketok.recording.nouns import Source
from spiketok.sources.archives import dandi, urls, zenodo
from spiketok.sources.archives.offline import Checked, check_files
from spiketok.sources.archives.plans import (
    POLICIES,
    Asset,
    AssetResult,
    DandiRequest,
    LocalRequest,
    Plan,
    Progress,
    Request,
    UrlRequest,
    ZenodoRequest,
)
from spiketok.sources.archives.selection import EVERYTHING, Selection
from spiketok.sources.catalogue import (
    allen,
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
    "resolve",
    "rules_of",
    "session_of",
]

_SOURCES = (nlb, falcon, perich_miller, churchland, odoherty_sabes, link, steinmetz, ibl, allen)
DATASETS: dict[str, Dataset] = {dataset.name: dataset for source in _SOURCES for dataset in source.ENTRIES}
RULES: dict[str, Rules] = {  # the first: no rules, a session a file
    rules.name: rules for rules in (Rules("", 0), *(source.RULES for source in _SOURCES))
}

NOTHING: dict[str, dict] = {"assets": {}}  # the record of a run that was killed before it wrote one
MAX_LIST_BYTES = 16 * 2**20
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_ID, _VERSION = r"(?P<id>[0-9]{6})", r"(?P<version>draft|[0-9]+\.[0-9]+\.[0-9]+)"
_DOI = r"(?:https?://(?:dx\.)?doi\.org/|doi:)?"
_FORMS = (
    re.compile(rf"(?:DANDI:)?{_ID}(?:[/@]{_VERSION})?(?::(?P<path>.+))?", re.IGNORECASE),
    re.compile(rf"dandi://(?P<instance>[a-z-]+)/{_ID}(?:@{_VERSION})?(?:/(?P<path>.+)?)?", re.IGNORECASE),
    re.compile(rf"{_DOI}10\.48324/dandi\.{_ID}(?:/{_VERSION})?", re.IGNORECASE),
)
_RECORD = r"(?P<record>[0-9]{1,12})"
_RECORD_FORMS = (
    re.compile(rf"zenodo:{_RECORD}(?::(?P<path>.+))?", re.IGNORECASE),
    re.compile(rf"{_DOI}10\.5281/zenodo\.{_RECORD}", re.IGNORECASE),
    re.compile(
        rf"https?://(?:www\.)?zenodo\.org/records?/{_RECORD}(?:/files/(?P<quoted>[^?#]+))?/?(?:[?#].*)?", re.IGNORECASE
    ),
)
_PAGE = re.compile(rf"/dandiset/{_ID}(?:/{_VERSION})?(?:/files)?/?")
_HOSTS = {
    "dandiarchive.org": "dandi",
    "www.dandiarchive.org": "dandi",
    "gui.dandiarchive.org": "dandi",
    "sandbox.dandiarchive.org": "dandi-sandbox",
}


def resolve(name: str, version: str | None = None) -> Request:
    """What a word on the command line means.

    Args:
        name: a name of the catalogue or one of its aliases (``nlb/mc_maze`` is ``nlb_mc_maze``); ``000140``,
            ``000140/0.220113.0408``, ``000140/draft``, ``DANDI:000140/...``,
            ``dandi://dandi/000140@0.220113.0408/sub-Jenkins/``, the dandiset's page or DOI;
            ``000128:sub-Jenkins/file.nwb`` (one asset, a folder, a glob); ``zenodo:3854034``, the record's page or DOI,
            ``zenodo:3854034:file.mat``; the http(s) address of an NWB file; a text file of such addresses, one a line,
            ``#`` begins a comment; an NWB file or a folder on this machine.
        version: ``latest``, ``draft`` or a version, in place of the one that the name means.

    Returns:
        A DandiRequest, ZenodoRequest, UrlRequest or LocalRequest. A dandiset with no version means the most recent
        published one; a name of the catalogue means its pinned version.

    Raises:
        UnknownNameError: none of these; offers the nearest name of the catalogue.
        UsageError: a list with a line that is no address, a path that does not exist, a version that cannot be.

    >>> resolve("mc_maze_small").version
    '0.220113.0408'
    >>> resolve("DANDI:000128:sub-Jenkins/").path
    'sub-Jenkins/'
    """
    request = _resolve(name)
    return request if version is None else _with_version(request, version, pinned=_in_catalogue(name) is not None)


def _resolve(name: str) -> Request:
    dataset = _in_catalogue(name)
    if dataset is not None and dataset.host == "zenodo":
        return ZenodoRequest(name, dataset.record, dataset.include, dataset.exclude, dataset=dataset.name)
    if dataset is not None:
        return DandiRequest(
            name, dataset.dandiset, dataset.version, dataset.include, dataset=dataset.name, exclude=dataset.exclude
        )
    for form in _RECORD_FORMS:
        match = form.fullmatch(name)
        if match:
            parts = match.groupdict()
            path = parts.get("path") or (unquote(parts["quoted"]) if parts.get("quoted") else None)
            return _zenodo_request(name, parts["record"], path)
    for form in _FORMS:
        match = form.fullmatch(name)
        if match:
            parts = match.groupdict()
            version = parts["version"].lower() if parts["version"] else None
            return _dandi_request(name, parts["id"], version, parts.get("path"), parts.get("instance"))
    if re.match(r"https?://", name, re.IGNORECASE):
        return _page_request(name) or UrlRequest(name, (name,))
    return _local_request(name)


def plan_fetch(
    request: Request,
    raw: Path,
    *,
    api_url: str | None = None,
    selection: Selection = EVERYTHING,
    policy: str = "skip",
    jobs: int = dandi.JOBS,
) -> Plan | None:
    """What a request means in files and bytes; None for a local one. See ``plan_dandi`` and its namesakes."""
    match request:
        case DandiRequest():
            return dandi.plan_dandi(
                request,
                raw,
                api_url=api_url,
                selection=selection,
                session_of=partial(session_of, request),
                policy=policy,
                jobs=jobs,
            )
        case ZenodoRequest():
            return zenodo.plan_zenodo(
                request,
                raw,
                api_url=api_url,
                selection=selection,
                session_of=partial(session_of, request),
                policy=policy,
            )
        case UrlRequest():
            return urls.plan_urls(request, raw, selection=selection, policy=policy)
        case LocalRequest():
            return None


def download(
    plan: Plan, raw: Path, *, jobs: int = dandi.JOBS, policy: str = "skip", progress: Progress | None = None
) -> list[AssetResult]:
    """Fetch what a plan lacks; one result an asset, in the plan's order.

    Raises:
        FetchError: the disk has no room for the plan, or for the record of what came. ArtefactError: a damaged record.
    """
    fetch = dandi.download_dandi if plan.dandiset else zenodo.download_zenodo if plan.record else urls.download_urls
    try:
        return fetch(plan, raw, jobs=jobs, policy=policy, progress=progress)
    except OSError as error:  # of our own listing and record: files have their errors in their results
        if error.errno is None:  # not the system's
            raise
        message = f"{plan.name}: this machine's disk: {error.strerror or error}: free some, then run the command again"
        raise FetchError(message) from error


def load_source(file: Path | RemotePath) -> Source | None:
    """Where a file in the raw tree was fetched from, here or in a copy of it behind a URL; None for any other file.

    Raises:
        ArtefactError: its record is damaged, or the file has another size than was fetched.
    """
    source = dandi.find_source(file) or zenodo.find_source(file) or urls.find_source(file)
    if source is not None and file.stat().st_size != source.size:
        found = zenodo.find_record(file)
        origin = f"zenodo:{found[0]['record']}" if found else f"{source.dandiset}/{source.version}"
        origin = origin if found or source.dandiset else source.citation
        message = (
            f"{file} has {file.stat().st_size} bytes, {source.size} were fetched: "
            f"spiketok fetch {origin} -e overwrite-different"
        )
        raise ArtefactError(message)
    return source


def dataset_of(file: Path | RemotePath) -> str | None:
    """The dataset's name for session ids: the catalogue's, else the dandiset's or record's number; else None.

    Raises:
        ArtefactError: the record of what was fetched is damaged.
    """
    found = zenodo.find_record(file)
    if found is not None:
        record, path = found
        names = [d.name for d in DATASETS.values() if d.host == "zenodo" and d.record == record["record"]]
        return next((name for name in names if DATASETS[name].takes(path)), f"zenodo-{record['record']}")
    source = dandi.find_source(file)
    if source is None:
        return None
    names = [dataset.name for dataset in DATASETS.values() if dataset.holds(source.dandiset, source.file)]
    return names[0] if names else source.dandiset


def catalogued(name: str) -> Dataset:
    """The catalogue's entry for a name, an alias, or anything that :func:`resolve` takes for one of its dandisets.

    Raises:
        UnknownNameError: there is none.
    """
    dataset = _in_catalogue(name)
    if dataset is None:
        dataset = DATASETS.get(getattr(resolve(name), "dataset", ""))
    if dataset is None:
        raise UnknownNameError("dataset", name, DATASETS, "the catalogue")
    return dataset


def rules_of(dataset: str) -> Rules:
    """The rules of a dataset's catalogue entry; those that change nothing where it has none, or no entry."""
    return RULES[DATASETS[dataset].rules if dataset in DATASETS else ""]


def check_here(request: Request, raw: Path, selection: Selection = EVERYTHING) -> list[Checked]:
    """Whether all that was fetched of a request still has its recorded digests; asks no server.

    A dandiset without a version means every version that is here.

    Raises:
        FetchError: nothing of it is here. ArtefactError: a record is damaged. UsageError: it was never fetched.
    """
    raw, found = Path(raw), []
    of = partial(session_of, request)
    match request:
        case DandiRequest():
            for folder in sorted((raw / request.dandiset).glob(request.version or "*")):
                recorded, place = dandi.read_record(folder) or NOTHING, f"{request.dandiset}/{folder.name}"
                found += check_files(
                    folder, recorded["assets"], selection, f"dandiset {place}", request, f"{place}:", of
                )
        case ZenodoRequest():
            folder, place = raw / zenodo.FOLDER / request.record, f"zenodo:{request.record}"
            recorded = zenodo.read_record(folder) or NOTHING
            found = check_files(folder, recorded["assets"], selection, place, request, f"{place}:", of)
        case UrlRequest():
            asked = {urls.public_url(url) for url in request.urls}
            recorded = {n: e for n, e in urls.read_record(raw / urls.FOLDER).items() if e["url"] in asked}
            found = check_files(raw / urls.FOLDER, recorded, selection, request.name, None, "", of)
        case LocalRequest():
            message = f"{request.name} was not fetched: 'spiketok verify' checks what was ingested from it"
            raise UsageError(message)
    if not found:
        message = f"nothing of {request.name} is here: spiketok fetch {request.name}"
        raise FetchError(message)
    return found


def session_of(of: Request | Plan, path: str) -> str:
    """The id of the session that a file of a request or plan belongs to; its path, where it is in no catalogue."""
    dandiset, record = getattr(of, "dandiset", ""), getattr(of, "record", "")
    names = [d.name for d in DATASETS.values() if d.holds(dandiset, path)]
    names += [d.name for d in DATASETS.values() if record and d.record == record and d.takes(path)]
    return f"{names[0]}/{rules_of(names[0]).session_name(PurePosixPath(path).name)}" if names else path


def _in_catalogue(name: str) -> Dataset | None:
    wanted = name.lower().replace("-", "_").replace("/", "_")
    return next((d for d in DATASETS.values() if wanted in (d.name, *d.aliases)), None)


def _dandi_request(
    name: str, dandiset: str, version: str | None, path: str | None = None, instance: str | None = None
) -> DandiRequest:
    known = [d.name for d in DATASETS.values() if d.dandiset == dandiset]
    return DandiRequest(name, dandiset, version, path=path, instance=instance, dataset=known[0] if known else "")


def _zenodo_request(name: str, record: str, path: str | None) -> ZenodoRequest:
    record = record.lstrip("0") or "0"
    known = [d for d in DATASETS.values() if d.host == "zenodo" and d.record == record]
    if not known:
        return ZenodoRequest(name, record, path=path)
    return ZenodoRequest(name, record, known[0].include, known[0].exclude, path, known[0].name)


def _with_version(request: Request, version: str, *, pinned: bool) -> Request:
    """The request for another version than its name means."""
    match request:
        case DandiRequest():
            if version != "latest" and not re.fullmatch(_VERSION, version):
                message = f"--version {version}: must be latest, draft or a version such as 0.220113.0408"
                raise UsageError(message)
            wanted = None if version == "latest" else version
            if not pinned and request.version is not None and request.version != wanted:
                message = f"{request.name} names the version {request.version}, --version says {version}: give one"
                raise UsageError(message)
            return replace(request, version=wanted)
        case ZenodoRequest():
            if version != "latest":
                message = f"--version {version}: a Zenodo record is one version; name the record that is {version}"
                raise UsageError(message)
            return replace(request, latest=True)
        case UrlRequest() | LocalRequest():
            message = f"{request.name} has no versions: leave out --version"
            raise UsageError(message)


def _page_request(address: str) -> DandiRequest | None:
    """A dandiset's page in the archive's web interface, as a browser shows it."""
    parts = urlsplit(address.replace("/#/", "/", 1))
    instance = _HOSTS.get(parts.hostname or "")
    match = _PAGE.fullmatch(parts.path) if instance else None
    if match is None:
        return None
    location = parse_qs(parts.query).get("location", [""])[0].strip("/")
    return _dandi_request(address, match["id"], match["version"], location or None, instance)


def _local_request(name: str) -> Request:
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
