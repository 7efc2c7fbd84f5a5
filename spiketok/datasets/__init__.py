"""What can be fetched: the catalogue, and from a name to a plan to files.

    request = resolve("mc_maze_small")                 # or 000140/draft, dandi://..., an address, a list, a path
    plan = plan_fetch(request, workspace.raw)          # files, bytes, licence; nothing is written
    results = download(plan, workspace.raw)            # verified files under their final names

A new dataset is one :class:`~spiketok.datasets.base.Dataset` in its own file and one name in ``DATASETS``; what its
conventions make of its files is a :class:`~spiketok.datasets.base.Rules` beside it and one name in ``RULES``.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from spiketok.datasets import dandi, urls
from spiketok.datasets.base import (
    POLICIES,
    Asset,
    AssetResult,
    DandiRequest,
    Dataset,
    LocalRequest,
    Plan,
    Progress,
    Request,
    Rules,
    UrlRequest,
)
from spiketok.datasets.nlb import MC_MAZE_SMALL, MC_RTT
from spiketok.errors import ArtefactError, UnknownNameError, UsageError
from spiketok.recording import Source
from spiketok.remote import RemotePath

__all__ = [
    "DATASETS",
    "POLICIES",
    "RULES",
    "Asset",
    "AssetResult",
    "DandiRequest",
    "Dataset",
    "LocalRequest",
    "Plan",
    "Progress",
    "Request",
    "Rules",
    "UrlRequest",
    "catalogued",
    "dataset_of",
    "download",
    "load_source",
    "plan_fetch",
    "resolve",
    "rules_of",
]

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (MC_MAZE_SMALL, MC_RTT)}
RULES: dict[str, Rules] = {rules.name: rules for rules in (Rules("", 0),)}  # the first: no rules, a session a file

MAX_LIST_BYTES = 16 * 2**20
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_ID, _VERSION = r"(?P<id>[0-9]{6})", r"(?P<version>draft|[0-9]+\.[0-9]+\.[0-9]+)"
_FORMS = (
    re.compile(rf"(?:DANDI:)?{_ID}(?:[/@]{_VERSION})?(?::(?P<path>.+))?", re.IGNORECASE),
    re.compile(rf"dandi://(?P<instance>[a-z-]+)/{_ID}(?:@{_VERSION})?(?:/(?P<path>.+)?)?", re.IGNORECASE),
    re.compile(rf"https?://doi\.org/10\.48324/dandi\.{_ID}(?:/{_VERSION})?", re.IGNORECASE),
)
_PAGE = re.compile(rf"/dandiset/{_ID}(?:/{_VERSION})?(?:/files)?/?")
_HOSTS = {
    "dandiarchive.org": "dandi",
    "www.dandiarchive.org": "dandi",
    "gui.dandiarchive.org": "dandi",
    "sandbox.dandiarchive.org": "dandi-sandbox",
}


def resolve(name: str) -> Request:
    """What a word on the command line means.

    Args:
        name: a name of the catalogue or one of its aliases; ``000140``, ``000140/0.220113.0408``, ``000140/draft``,
            ``DANDI:000140/...``, ``dandi://dandi/000140@0.220113.0408/sub-Jenkins/``, the dandiset's page or DOI;
            ``000128:sub-Jenkins/file.nwb`` (one asset, a folder, a glob); the http(s) address of an NWB file; a text
            file of such addresses, one a line, ``#`` begins a comment; an NWB file or a folder on this machine.

    Returns:
        A DandiRequest, UrlRequest or LocalRequest. A dandiset with no version means the most recent published one; a
        name of the catalogue means its pinned version.

    Raises:
        UnknownNameError: none of these; offers the nearest name of the catalogue.
        UsageError: a list with a line that is no address, a path that does not exist.

    >>> resolve("mc_maze_small").version
    '0.220113.0408'
    >>> resolve("DANDI:000128:sub-Jenkins/").path
    'sub-Jenkins/'
    """
    dataset = _in_catalogue(name)
    if dataset is not None:
        return DandiRequest(name, dataset.dandiset, dataset.version, dataset.include, dataset=dataset.name)
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
    sessions: str | None = None,
    policy: str = "skip",
    jobs: int = dandi.JOBS,
) -> Plan | None:
    """What a request means in files and bytes; None for a local one. See ``plan_dandi`` and ``plan_urls``."""
    match request:
        case DandiRequest():
            return dandi.plan_dandi(request, raw, api_url=api_url, sessions=sessions, policy=policy, jobs=jobs)
        case UrlRequest():
            return urls.plan_urls(request, raw, sessions=sessions, policy=policy)
        case LocalRequest():
            return None


def download(
    plan: Plan, raw: Path, *, jobs: int = dandi.JOBS, policy: str = "skip", progress: Progress | None = None
) -> list[AssetResult]:
    """Fetch what a plan lacks; one result an asset, in the plan's order."""
    fetch = dandi.download_dandi if plan.dandiset else urls.download_urls
    return fetch(plan, raw, jobs=jobs, policy=policy, progress=progress)


def load_source(file: Path | RemotePath) -> Source | None:
    """Where a file in the raw tree was fetched from, here or in a copy of it behind a URL; None for any other file.

    Raises:
        ArtefactError: its record is damaged, or the file has another size than was fetched.
    """
    source = dandi.find_source(file) or urls.find_source(file)
    if source is not None and file.stat().st_size != source.size:
        origin = f"{source.dandiset}/{source.version}" if source.dandiset else source.citation
        message = (
            f"{file} has {file.stat().st_size} bytes, {source.size} were fetched: "
            f"spiketok fetch {origin} -e overwrite-different"
        )
        raise ArtefactError(message)
    return source


def dataset_of(file: Path | RemotePath) -> str | None:
    """The dataset's name for session ids: the catalogue's, else the dandiset's number; None for any other file.

    Raises:
        ArtefactError: the record of what was fetched is damaged.
    """
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


def _in_catalogue(name: str) -> Dataset | None:
    wanted = name.lower().replace("-", "_")
    return next((d for d in DATASETS.values() if wanted in (d.name, *d.aliases)), None)


def _dandi_request(
    name: str, dandiset: str, version: str | None, path: str | None = None, instance: str | None = None
) -> DandiRequest:
    known = [d.name for d in DATASETS.values() if d.dandiset == dandiset]
    return DandiRequest(name, dandiset, version, path=path, instance=instance, dataset=known[0] if known else "")


def _page_request(address: str) -> DandiRequest | None:
    """A dandiset's page in the archive's web interface, as it stands in a browser."""
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
