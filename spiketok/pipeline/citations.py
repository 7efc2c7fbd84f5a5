"""Whom to cite: the recordings, with version, licence and DOI, that a run, a report, a session or a dataset is of.

What is said here is what was recorded when a file was fetched, or what the catalogue states. A licence that nobody
states is "not stated", never a guess; a local file that was never fetched is named as such, with the publications that
the file itself names.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spiketok.errors import ArtefactError, NotFoundError, UnknownNameError, UsageError
from spiketok.pipeline.inspect import kind_of, leaderboard_file, locate, report_file
from spiketok.plugins import find_module, origins_of, said_of
from spiketok.recording.nouns import Source
from spiketok.storage.files import read_signed
from spiketok.storage.records import leaderboard_body, report_body, run_checkpoint
from spiketok.storage.store import read_attributes
from spiketok.storage.workspace import MANIFEST, Workspace

NOT_STATED = "not stated"
_DOI = re.compile(r"10\.\d{4,9}/[^\s;,]*[^\s;,.)\]]")
_DATA_SET = re.compile(
    r"(?P<author>.+?) \((?P<year>\d{4})\) (?P<title>.+?) \(Version (?P<version>[^)]+)\) \[Data set\]\. "
    r"(?P<publisher>[^.]+)\. (?P<url>https?://\S+)"
)
_METHOD = re.compile(r"\b(arXiv|bioRxiv|doi)[: ]\s*([\w.()/-]*\d)")


@dataclass(frozen=True)
class Citation:
    """One thing to cite.

    Args:
        kind: ``"data"`` (a version of a dataset, or a file), ``"publication"`` (that a file or the catalogue names for
            it), ``"method"`` or ``"package"`` (that gave a model, a scheme, rules).
        name: as ``"DANDI:000140/0.220113.0408"``, a file's name, a model's name, or a package and its version.
        text: the citation; empty where nobody states one.
        doi, version, license: empty where nobody states them.
        used_by: ids of sessions, or names of datasets, in order.
    """

    kind: str
    name: str
    text: str
    doi: str = ""
    version: str = ""
    license: str = ""
    used_by: tuple[str, ...] = ()


def cite(names: Sequence[str], workspace: Workspace) -> list[Citation]:
    """Everything to cite for what the names mean; for all sessions of the workspace without a name.

    Args:
        names: sessions, runs, reports, shards (by path or by name in the workspace) and datasets of the catalogue.
        workspace: where they are looked up.

    Returns:
        each thing once, data before publications before methods before packages, in order of name.

    Raises:
        UnknownNameError, UsageError: a name is none of these. DataError: there is no session at all.
    """
    found: list[Citation] = []
    for name in names:
        found += _of_name(name, workspace)
    if not names:
        for session_id in workspace.select():
            found += _of_session(session_id, workspace)
    return merge_citations(found)


def merge_citations(found: Iterable[Citation]) -> list[Citation]:
    """Each thing once, with everybody that uses it."""
    merged: dict[tuple[str, str, str], Citation] = {}
    for one in found:
        key = (one.kind, one.name, one.text)
        before = merged.get(key)
        used_by = tuple(dict.fromkeys([*(before.used_by if before else ()), *one.used_by]))
        merged[key] = replace(one, used_by=tuple(sorted(used_by)))
    order = ("data", "publication", "method", "package")
    return sorted(merged.values(), key=lambda c: (order.index(c.kind), c.name, c.text))


# ---- what a name means ----------------------------------------------------------------------------------------------


def _of_name(name: str, workspace: Workspace) -> list[Citation]:
    from spiketok.sources.catalogue import DATASETS

    dataset = next((d for d in DATASETS.values() if name in (d.name, *d.aliases)), None)
    if dataset is not None:
        return _of_dataset(dataset)
    try:
        path = locate(name, workspace)
    except NotFoundError as error:
        raise UnknownNameError("session, run or dataset", name, [*error.known, *DATASETS]) from error
    return _of_path(path, workspace)


def _of_path(path: Path, workspace: Workspace) -> list[Citation]:
    kind = kind_of(path)
    try:
        return _of_kind(kind, path, workspace)
    except (KeyError, TypeError, AttributeError) as error:
        message = f"{path} does not say what a {kind} says ({type(error).__name__}: {error}): spiketok verify {path}"
        raise ArtefactError(message) from error


def _of_kind(kind: str, path: Path, workspace: Workspace) -> list[Citation]:
    if kind == "workspace":
        return [c for session_id in workspace.session_ids() for c in _of_session(session_id, workspace)]
    if kind == "session":
        attributes = read_attributes(path)
        return _of_session(attributes["id"], workspace, attributes)
    if kind in ("shard", "context"):
        manifest = read_signed(path / MANIFEST, kind, f"spiketok verify {path}")
        found = _of_entry(manifest["session"]["id"], manifest["source"], workspace)
        return found + _of_plugins([manifest["plugin"]] if "plugin" in manifest else [], path.name)
    if kind == "leaderboard":
        board = leaderboard_body(leaderboard_file(path))
        found = [c for session_id in board["sessions"] for c in _of_session(session_id, workspace)]
        models = dict.fromkeys(entry["model"] for entry in board["suite"]["models"] if entry["name"] in board["models"])
        used = (path.name,)
        return found + [Citation("method", m, text, used_by=used) for m in models for text in method_references(m)]
    if kind == "report":
        report = report_body(report_file(path))
        entries, model = [*report["trained_on"], *report["sessions"]], report["model"]
        plugins = report.get("plugins")
    elif kind == "run":
        checkpoint = run_checkpoint(path)
        entries, model = checkpoint["sessions"], checkpoint["config"]["model"]
        plugins = checkpoint.get("plugins")
    else:
        message = (
            f"{path} is a {kind}: what to cite is known of sessions, runs, reports, leaderboards, shards and datasets"
        )
        raise UsageError(message)
    found = [c for entry in entries for c in _of_entry(entry["id"], entry.get("source"), workspace)]
    papers = method_references(model, plugins)
    found += [Citation("method", model, text, used_by=(path.name,)) for text in papers]
    return found + _of_plugins(plugins, path.name)


def _of_entry(session_id: str, recorded: Mapping | None, workspace: Workspace) -> list[Citation]:
    """A session as a run or report names it: by its record of the source; an older one has none, the store may."""
    if recorded:
        return _of_source(Source.from_dict(recorded), session_id, _info_of(session_id, workspace))
    return _of_session(session_id, workspace)


def _of_session(session_id: str, workspace: Workspace, attributes: Mapping | None = None) -> list[Citation]:
    attributes = attributes or workspace.attributes(session_id)
    found = _of_source(Source.from_dict(attributes["source"]), session_id, attributes["info"])
    rules = attributes["settings"].get("rules_plugin")
    return found + _of_plugins([rules] if rules else [], session_id)


def _of_plugins(recorded: object, used_by: str) -> list[Citation]:
    """The packages that gave a model, a scheme, rules: with what they say of themselves, where they are here."""
    packages = dict.fromkeys(origin.distribution for origin in origins_of(recorded))
    return [Citation("package", name, said_of(name.split(" ")[0]), used_by=(used_by,)) for name in packages]


def _info_of(session_id: str, workspace: Workspace) -> Mapping[str, str]:
    """What the source says of itself, where the store is here; nothing where it is not."""
    try:
        return workspace.attributes(session_id)["info"]
    except ArtefactError:
        return {}


def _of_source(source: Source, session_id: str, info: Mapping[str, str]) -> list[Citation]:
    found = []
    for part in source.files:
        place = part.origin
        text = "" if place == part.citation else part.citation  # of a plain address nothing more is known
        name = place or f"file {part.file}"
        found.append(Citation("data", name, text, _doi(part), part.version, part.license, used_by=(session_id,)))
        for other in part.linked:  # whose values came into the session, too
            name = f"file {other.file}, to which {part.file} links"
            found.append(
                Citation("data", name, other.citation, _doi(other), other.version, other.license, (session_id,))
            )
    papers = [paper.strip() for paper in info.get("related_publications", "").split("; ")]
    found += [Citation("publication", p, p, _doi_in(p), used_by=(session_id,)) for p in papers if p]
    return found + _reference_of(session_id.split("/")[0])


def _of_dataset(dataset) -> list[Citation]:
    version = dataset.version or "latest"
    place = f"DANDI:{dataset.dandiset}/{version}" if dataset.dandiset else f"zenodo:{dataset.record}"
    text, doi = dataset.citation or "", dataset.doi or ""
    data = Citation("data", place, text, doi, dataset.version or "", dataset.license or "", used_by=(dataset.name,))
    return [data, *_reference_of(dataset.name)]


def _reference_of(dataset_name: str) -> list[Citation]:
    """The paper or loader by which the catalogue's rules for this dataset are defined."""
    from spiketok.sources.catalogue import DATASETS

    dataset = DATASETS.get(dataset_name)
    if dataset is None or not dataset.reference:
        return []
    text = dataset.reference
    return [Citation("publication", text, text, _doi_in(text), used_by=(dataset_name,))]


def _doi(source: Source) -> str:
    """The DOI in a source's citation, else the catalogue's for this version of this dandiset."""
    from spiketok.sources.catalogue import DATASETS

    stated = _doi_in(source.citation)
    if stated or not source.dandiset:
        return stated
    same = (d for d in DATASETS.values() if (d.dandiset, d.version) == (source.dandiset, source.version))
    return next((d.doi for d in same if d.doi), "")


def _doi_in(text: str) -> str:
    found = _DOI.search(text)
    return found[0] if found else ""


def method_references(model: str, plugins: object = None) -> list[str]:
    """The papers that a model's file names, as ``"arXiv 2310.16046"``; its source is read, not imported.

    Args:
        plugins: what an artefact records of other packages, whose model it may be.
    """
    others = {origin.name: origin.entry for origin in origins_of(plugins) if origin.kind == "model"}
    file = Path(__file__).parents[1] / "models" / f"{model}.py"
    if model in others:
        file = find_module(others[model].split(":")[0])
    if file is None or not file.is_file():
        return []
    told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return list(dict.fromkeys(f"{kind} {number}" for kind, number in _METHOD.findall(told)))


# ---- as text --------------------------------------------------------------------------------------------------------


def to_lines(citations: Iterable[Citation]) -> Iterator[str]:
    """For people: one block a citation; what nobody states is said to be so."""
    for one in citations:
        yield one.name
        if one.kind == "data":
            yield f"  citation  {one.text or NOT_STATED}"
            yield f"  doi       {one.doi or NOT_STATED}"
            yield f"  version   {one.version or NOT_STATED}"
            yield f"  licence   {one.license or NOT_STATED}"
        elif one.kind == "package":
            yield f"  package   {one.text or NOT_STATED}"
        elif one.text != one.name:
            yield f"  paper     {one.text}"
        yield f"  used by   {', '.join(one.used_by)}"


def to_bibtex(citations: Iterable[Citation]) -> Iterator[str]:
    """BibTeX entries: of their parts where a citation has the archive's form, else with the citation as a note."""
    used: Counter[str] = Counter()
    for one in citations:
        parts = _DATA_SET.fullmatch(one.text)
        fields = dict(parts.groupdict()) if parts else {"title": one.name, "note": one.text.removeprefix(one.name)}
        if parts:
            fields["author"] = " and ".join(fields["author"].split("; "))
            fields["note"] = f"Data set, {one.license}" if one.license else "Data set, licence not stated"
        elif one.kind == "data":
            fields |= {"version": one.version, "howpublished": f"licence: {one.license or NOT_STATED}"}
        fields["doi"] = one.doi
        key = _bibtex_key(one.name)
        used[key] += 1
        yield f"@misc{{{key}{f'-{used[key]}' * (used[key] > 1)},"
        for field, value in sorted(fields.items()):
            if value:
                yield f"  {field} = {{{value if field in ('doi', 'url') else _escaped(value)}}},"
        yield "}"


def _bibtex_key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60].lower()


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
