"""The digest chain report -> checkpoint -> shards -> contexts -> store -> source file, walked back from any link.

Each artefact names what it was made from by digest. A walk reads every artefact again, computes its digest from the
bytes that are there, and compares it with what the artefact made from it says. Each link is judged by itself: a link
that is broken does not break those below it, so that the one that is at fault is the one that is named.

What is unusual: a source file that is not on this machine (deleted to save room, or the store was copied here) is no
fault and no success: its link is ``"not here"``. Everything that spiketok itself wrote must be here. What was written
before a digest was recorded reads ``"not recorded"``.

Nothing here imports torch: a chain can be checked where nothing can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from spiketok.errors import (
    AbsentPluginError,
    ArtefactError,
    ChangedError,
    FetchError,
    SourceError,
    SpiketokError,
    UsageError,
)
from spiketok.pipeline.ingest import linked_differences, recorded_paths
from spiketok.pipeline.inspect import kind_of, leaderboard_file, report_file
from spiketok.pipeline.jobs import describe
from spiketok.pipeline.readers import digest_of
from spiketok.pipeline.verify import compare_made
from spiketok.plugins import origins_of, present
from spiketok.recording.nouns import Session, Source
from spiketok.storage.files import below, read_json, read_signed, sha256_file
from spiketok.storage.pushed import Pulled
from spiketok.storage.records import checkpoint_digest, predictions_fault, run_config
from spiketok.storage.remote import local_copy
from spiketok.storage.store import read_attributes, read_session
from spiketok.storage.workspace import MANIFEST, Workspace

EARLIER = 1  # the version of checkpoints and reports whose chains are not walked: they name shards otherwise

State = Literal["holds", "broken", "not here", "not recorded"]


@dataclass(frozen=True)
class Link:
    """One artefact of a chain, judged.

    Args:
        kind: ``"report"``, ``"result"``, ``"predictions"``, ``"checkpoint"``, ``"vectors"``, ``"shard"``,
            ``"context"``, ``"store"``, ``"source"``, ``"leaderboard"`` or ``"plugin"``.
        name: which one.
        depth: how many links lie between it and where the walk began.
        state: see the module.
        digest: of what is there; empty where nothing is, or nothing that can be read.
        remark: where it is broken: what was expected, what is found, and the command that mends it. Else facts.
    """

    kind: str
    name: str
    depth: int
    state: State
    digest: str = ""
    remark: str = ""


@dataclass(frozen=True)
class _Expected:
    """What an artefact says of the one that it was made from: its digest (empty: not recorded), and who says so."""

    digest: str
    by: str


def walk(path: Path, workspace: Workspace, *, quick: bool = False) -> Iterator[Link]:
    """Every link from an artefact back to the source files, in the order of the walk.

    Args:
        path: of a leaderboard or report (its folder, its JSON or page), a run, a shard, a context or a stored session.
        workspace: where shards, store and the list of source files are looked for.
        quick: digests only; else each stored session is also compared with its source files, through pynwb, and made
            from them again.

    Raises:
        UsageError: the path is none of these. ArtefactError: it is nothing that spiketok writes.
    """
    kind = kind_of(path)
    if kind not in _WALKS:
        message = f"{path} is a {kind}: no chain begins there; give a report, a run, a shard, a context or a session"
        raise UsageError(message)
    return _followed(_WALKS[kind](_Walk(workspace, quick), path), kind, path)


def _followed(links: Iterator[Link], kind: str, path: Path) -> Iterator[Link]:
    """The links of a walk; where an artefact that was changed does not say what it was made from, as far as it goes."""
    is_broken = False
    try:
        for link in links:
            is_broken |= link.state == "broken"
            yield link
    except OSError as error:
        yield Link(kind, path.name, 0, "broken", "", f"it cannot be followed: {describe(error)}")
    except (KeyError, TypeError, AttributeError, ValueError, SpiketokError) as error:
        if not is_broken:
            remark = f"what it was made from cannot be read in it ({type(error).__name__}: {error}): make it anew"
            yield Link(kind, path.name, 0, "broken", "", remark)


def first_broken(links: Sequence[Link]) -> Link | None:
    """The broken link that lies nearest to where the walk began; None where all hold."""
    return next((link for link in links if link.state == "broken"), None)


# ---- reports and runs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Walk:
    workspace: Workspace
    quick: bool
    alone: bool = False  # it begins at something that was pulled without what it was made of

    @cached_property
    def pulled(self) -> Pulled:
        return Pulled.of(self.workspace.root)

    def beginning_at(self, *paths: str) -> _Walk:
        """The same walk, from something of these places in the workspace: what it came without is no loss."""
        came = [self.pulled.at(self.workspace.root, path) for path in paths]
        return replace(self, alone=any(item is not None for item in came))

    def _left(self, kind: str, name: str, path: str, depth: int, *, of: str) -> Link | None:
        """The link of an artefact that is gone because it was never pulled; None where it should be here.

        Args:
            path: its place in the workspace. of: what names it, in words.
        """
        if not self.alone or self.pulled.names(path):
            return None
        remark = f"{of} was pulled without it: spiketok pull FROM --with-data, where it was pushed so"
        return Link(kind, name, depth, "not here", "", remark)

    def from_report(self, path: Path) -> Iterator[Link]:
        file = report_file(path)
        body, link = _read_facts("report", file, "spiketok eval-xsession RUN")
        if body is None:
            yield link
            return
        if body.get("version") == EARLIER:
            remark = f"is of an earlier release (version {EARLIER}): spiketok eval-xsession {body.get('run', 'RUN')}"
            yield Link("report", link.name, 0, "broken", link.digest, remark)
            return
        page = body.get("page_sha256")
        if link.state == "holds" and page:
            html = file.with_name("report.html")
            found = sha256_file(html) if html.is_file() else ""
            if found != page:
                fact = f"its page {html.name} " + (_differs(found, page) if found else "is gone")
                link = Link("report", link.name, 0, "broken", link.digest, f"{fact}: spiketok eval-xsession RUN")
        yield link
        yield from self._predictions(file.with_name("predictions"), body.get("checkpoint_digest", ""), 1)
        run, expected = self._run_of(file, body), _Expected(body.get("checkpoint_digest", ""), "the report")
        self = self.beginning_at(f"runs/{run.name}") if run is not None else self
        yield from self._checkpoint(run, body.get("run", "of the report"), expected, 1)
        if vectors := body["config"]["model_overrides"].get("vectors"):
            yield self._vectors(vectors, 2)
        yield from _plugins(body.get("plugins"), 2)
        sessions = [(s, "the checkpoint") for s in body.get("trained_on", [])]
        sessions += [(s, "the report") for s in body.get("sessions", []) if not s.get("trained_on")]
        yield from self._sessions(sessions, 2)

    def from_leaderboard(self, path: Path) -> Iterator[Link]:
        """The checkpoint of each run, and each session once; of sessions that no run knows the store and its source."""
        body, link = _read_facts("leaderboard", leaderboard_file(path), "spiketok bench SUITE")
        yield link
        if body is None:
            return
        entries: list[tuple[Mapping, str]] = []
        plugins: list[Mapping] = []
        for one in body["runs"]:
            run = below(self.workspace.runs, one["run"], "the leaderboard")
            expected = _Expected(one["checkpoint_digest"], "the leaderboard")
            yield from self._checkpoint(run, one["run"], expected, 1)
            facts = _facts_or_none(run / "checkpoint" / "checkpoint.json") or {"sessions": []}
            entries += [(session, "the checkpoint") for session in facts["sessions"]]
            plugins += [plugin for plugin in facts.get("plugins", ()) if plugin not in plugins]
        yield from _plugins(plugins, 2)
        yield from self._sessions(entries, 2)
        trained = {entry["id"] for entry, _ in entries}
        for session_id, digest in body["sessions"].items():
            if session_id not in trained:
                yield from self._store(session_id, _Expected(digest, "the leaderboard"), 1)

    def from_run(self, path: Path) -> Iterator[Link]:
        path = path.resolve()
        self = self.beginning_at(f"runs/{path.name}")
        depth, expected = 0, _Expected("", "")
        facts = _facts_or_none(path / "checkpoint" / "checkpoint.json")
        if (path / "result.json").exists() or _is_at_its_end(facts):
            result, link = _read_facts("result", path / "result.json", "spiketok train (the same command again)")
            yield link
            depth = 1
            if result is not None:
                expected = _Expected(result.get("checkpoint_digest", ""), "the result")
        yield from self._predictions(path / "predictions", checkpoint_digest(path), depth)
        yield from self._checkpoint(path, path.name, expected, depth)
        if facts is not None and facts.get("version") != EARLIER:
            yield from self._origins(facts, depth + 1)
            if vectors := facts["config"]["model_overrides"].get("vectors"):
                yield self._vectors(vectors, depth + 1)
            yield from _plugins(facts.get("plugins"), depth + 1)
            yield from self._sessions([(s, "the checkpoint") for s in facts["sessions"]], depth + 1)

    def _origins(self, facts: Mapping, depth: int) -> Iterator[Link]:
        """The checkpoints whose weights or latents a checkpoint took in, and theirs in turn."""
        for key, does in (("start", "starts from"), ("latents", "learned the latents of")):
            if not (digest := facts["config"].get(key)):
                continue
            runs = (p.parent.parent for p in sorted(self.workspace.runs.glob("*/checkpoint/checkpoint.json")))
            found = next((run for run in runs if checkpoint_digest(run) == digest), None)
            name = f"{digest[:12]}, which it {does},"
            if found is None and self.alone:
                yield Link("checkpoint", name, depth, "not here", "", "the run was pulled without it")
                continue
            yield from self._checkpoint(found, name, _Expected(digest, "the checkpoint"), depth)
            earlier = found and _facts_or_none(found / "checkpoint" / "checkpoint.json")
            if earlier is not None and earlier.get("version") != EARLIER:
                yield from self._origins(earlier, depth + 1)

    def _vectors(self, digest: str, depth: int) -> Link:
        """The file of unit vectors that a run or a report reads; whose run made it stands in the file."""
        path = self.workspace.vectors_path(digest)
        found = sha256_file(path) if path.is_file() else ""
        remark = ""
        if found != digest:
            fact = _differs(found, digest) if found else f"is gone from {path.parent}"
            remark = f"{fact}: spiketok eval-xsession RUN --vectors FILE, with the file that it was trained on"
        return Link("vectors", path.name, depth, "broken" if remark else "holds", found, remark)

    def _predictions(self, folder: Path, checkpoint: str, depth: int) -> Iterator[Link]:
        """The predictions that were saved beside a result or a report; no link where none were."""
        if not folder.exists():
            return
        name = "/".join(folder.resolve().parts[-2:])
        try:
            fault = predictions_fault(folder, checkpoint, "make them again by --save-predictions")
        except FileNotFoundError:
            yield Link("predictions", name, depth, "not recorded", "", "their digests were not written down")
            return
        yield Link("predictions", name, depth, "broken" if fault else "holds", "", fault)

    def _run_of(self, report: Path, body: Mapping) -> Path | None:
        """The run whose checkpoint a report names: beside the report, under its name, or anywhere in the workspace."""
        runs = self.workspace.runs
        near = [report.resolve().parent.parent, *([below(runs, body["run"], "the report")] if body.get("run") else [])]
        there = [p for p in near if (p / "checkpoint" / "checkpoint.json").exists()]
        every = [*there, *sorted(p.parent.parent for p in runs.glob("*/checkpoint/checkpoint.json"))]
        same = [p for p in every if checkpoint_digest(p) == body.get("checkpoint_digest")]
        return next(iter([*same, *there]), None)

    def _checkpoint(self, run: Path | None, name: str, expected: _Expected, depth: int) -> Iterator[Link]:
        file = run / "checkpoint" / "checkpoint.json" if run is not None else None
        if file is None or not file.exists():
            remark = f"is gone from {self.workspace.runs if run is None else run}: train again"
            yield Link("checkpoint", name, depth, "broken", "", remark)
            return
        again = f"spiketok train --model {_model_of(run)} --restart"
        facts, link = _read_facts("checkpoint", file, again)
        link = Link("checkpoint", run.name, depth, link.state, checkpoint_digest(run), link.remark)
        if facts is None or link.state == "broken":
            yield link
            return
        if facts.get("version") == EARLIER:
            remark = f"is of an earlier release (version {EARLIER}): spiketok upgrade"
            yield Link("checkpoint", run.name, depth, "broken", link.digest, remark)
            return
        remark, without = "", []
        for part, digest in facts["files"].items():
            tensors = below(file.parent, part, "checkpoint.json")
            found = sha256_file(tensors) if tensors.is_file() else ""
            if not found and f"checkpoint/{part}" in self._left_out(run):
                without.append(part)
            elif found != digest and not remark:
                remark = f"its {part} {_differs(found, digest) if found else 'is gone'}: {again}"
        remark = remark or _config_fault(run, facts)
        if not remark and expected.digest and link.digest != expected.digest:
            mend = "spiketok eval-xsession RUN" if expected.by == "the report" else again
            remark = f"{_differs_from(link.digest, expected)}: {mend}"
        if not remark and without:
            remark = f"pulled without its {', '.join(without)}: it can be used, not trained on"
            yield Link("checkpoint", run.name, depth, "holds", link.digest, remark)
            return
        yield link if not remark else Link("checkpoint", run.name, depth, "broken", link.digest, remark)

    def _left_out(self, run: Path) -> Sequence[str]:
        """The files that a run was pulled without."""
        item = self.pulled.at(self.workspace.root, f"runs/{run.name}")
        return item["left_out"] if item is not None else ()

    # ---- sessions ---------------------------------------------------------------------------------------------------

    def _sessions(self, entries: Sequence[tuple[Mapping, str]], depth: int) -> Iterator[Link]:
        """The shards, contexts, stores and sources that a checkpoint or report names, each once."""
        shards: set[str] = set()
        contexts: set[Path] = set()
        stores: set[tuple[str, str]] = set()
        for entry, by in entries:
            for shard in entry["shards"].values():
                if shard["digest"] in shards:
                    continue
                shards.add(shard["digest"])
                yield self._shard(entry["id"], shard, by, depth)
                context = _context_of(below(self.workspace.shards, shard["shard"], by))
                if context is not None and context[0] not in contexts:
                    contexts.add(context[0])
                    yield self._judged_context(*context, depth + 1)
            store = (entry["id"], entry["store_digest"])
            if store not in stores:
                stores.add(store)
                yield from self._store(entry["id"], _Expected(entry["store_digest"], "the shard"), depth + 2)

    def _shard(self, session_id: str, shard: Mapping[str, str], by: str, depth: int) -> Link:
        expected, path = _Expected(shard["digest"], by), below(self.workspace.shards, shard["shard"], by)
        if not (path / MANIFEST).exists():
            left = self._left("shard", shard["shard"], f"shards/{shard['shard']}", depth, of="the run")
            if left is not None:
                return left
            scheme = shard["shard"].split("/")[0]
            remark = f"{expected.digest[:12]} is gone: spiketok tokenize --scheme {scheme} --sessions '{session_id}'"
            return Link("shard", shard["shard"], depth, "broken", "", remark)
        return self._judged_shard(path, expected, depth)

    def _judged_shard(self, path: Path, expected: _Expected, depth: int) -> Link:
        from spiketok.tokens.shards import ShardReader

        name = "/".join(path.parts[-4:])
        try:
            reader = ShardReader(path, anew=True)
        except AbsentPluginError as error:
            return Link("shard", name, depth, "not here", "", str(error))
        except ArtefactError as error:
            return Link("shard", name, depth, "broken", "", str(error))
        if expected.digest and reader.digest != expected.digest:
            remark = f"{_differs_from(reader.digest, expected)}: it was tokenized anew; train and evaluate again"
            return Link("shard", name, depth, "broken", reader.digest, remark)
        return Link("shard", name, depth, "holds", reader.digest)

    def _judged_context(self, path: Path, expected: _Expected, depth: int) -> Link:
        from spiketok.tokens.context import Context

        name, again = "/".join(path.parts[-4:]), "remove it and its shards, then spiketok tokenize"
        try:
            context = Context(path, anew=True)
        except ArtefactError as error:
            return Link("context", name, depth, "broken", "", str(error))
        if expected.digest and context.digest != expected.digest:
            remark = f"{_differs_from(context.digest, expected)}: {again}"
            return Link("context", name, depth, "broken", context.digest, remark)
        return Link("context", name, depth, "holds", context.digest)

    def from_shard(self, path: Path) -> Iterator[Link]:
        self = self.beginning_at("/".join(path.resolve().parts[-5:]))
        yield self._judged_shard(path.resolve(), _Expected("", ""), 0)
        context = _context_of(path)
        if context is not None:
            yield self._judged_context(*context, 1)
        yield from self._store_of(path, "the shard", 2)

    def from_context(self, path: Path) -> Iterator[Link]:
        self = self.beginning_at("/".join(path.resolve().parts[-5:]))
        yield self._judged_context(path.resolve(), _Expected("", ""), 0)
        yield from self._store_of(path, "the context", 1)

    def _store_of(self, path: Path, by: str, depth: int) -> Iterator[Link]:
        """The store that a shard or a context says it was made from."""
        facts = _facts_or_none(path / MANIFEST)
        if facts is not None and "session" in facts:
            yield from self._store(facts["session"]["id"], _Expected(facts["store_digest"], by), depth)

    def from_session(self, path: Path) -> Iterator[Link]:
        yield from self._store("/".join(path.parts[-2:]), _Expected("", ""), 0)

    def _store(self, session_id: str, expected: _Expected, depth: int) -> Iterator[Link]:
        path = self.workspace.store_path(session_id)
        left = self._left("store", session_id, f"store/{session_id}", depth, of="what was made of it")
        if left is not None and not path.exists():
            yield left
            return
        try:
            session, attributes = read_session(path), read_attributes(path)
        except ArtefactError as error:
            yield Link("store", session_id, depth, "broken", "", str(error))
            source = _source_or_none(path)
            settings = read_attributes(path).get("settings", {}) if source is not None else {}
            yield from self._sources(session_id, source, depth + 1, settings)
            return
        sources = list(self._sources(session_id, session.source, depth + 1, attributes["settings"]))
        yield self._judged_store(session, attributes, expected, sources, depth)
        yield from _plugins(_rules_plugin(attributes), depth + 1)
        yield from sources

    def _judged_store(
        self, session: Session, attributes: dict, expected: _Expected, sources: Sequence[Link], depth: int
    ) -> Link:
        digest = attributes["digest"]
        if expected.digest and digest != expected.digest:
            why = "it was ingested or divided anew; spiketok tokenize, then train again"
            remark = f"{_differs_from(digest, expected)}: {why}"
            return Link("store", session.id, depth, "broken", digest, remark)
        if attributes["settings"].get("streamed"):
            remark = "digest only: its source was read from afar and never verified as a whole"
            return Link("store", session.id, depth, "holds", digest, remark)
        absent = any(present(origin)[0] == "not here" for origin in origins_of(_rules_plugin(attributes)))
        if self.quick or absent or any(source.state != "holds" for source in sources):
            return Link("store", session.id, depth, "holds", digest, "digest only")
        with ExitStack() as stack:
            paths = recorded_paths(self.workspace, session.id)
            files = [stack.enter_context(local_copy(path, self.workspace.root)) for path in paths]
            differences = compare_made(session, attributes, files)
        if differences:
            remark = f"{differences[0]} ({len(differences)} differences): spiketok ingest its source again"
            return Link("store", session.id, depth, "broken", digest, remark)
        return Link(
            "store", session.id, depth, "holds", digest, f"equal to its source, {_compared(attributes['settings'])}"
        )

    def _sources(
        self, session_id: str, source: Source | None, depth: int, settings: Mapping[str, object]
    ) -> Iterator[Link]:
        """The files that a session was made from; none where its attributes cannot be read."""
        if source is None:
            return
        for one, path in zip_longest(source.files, recorded_paths(self.workspace, session_id)):
            if one is not None:
                yield self._source(one, path, depth, settings)

    def _source(self, source: Source, path, depth: int, settings: Mapping[str, object]) -> Link:
        from spiketok.sources.catalogue import load_source

        origin = source.origin or "a local file, never fetched"
        fetch = f"spiketok fetch {fetch_name(source)}" if fetch_name(source) else f"put {source.file} back"
        try:
            if path is None or not path.exists():
                told = "where it lies is not recorded here" if path is None else f"{path} is not there"
                return Link("source", source.file, depth, "not here", "", f"{told}; {origin}; to have it: {fetch}")
            with local_copy(path, self.workspace.root) as file:
                found = digest_of(file, settings)
            again = f"{fetch} -e overwrite-different" if fetch_name(source) else f"spiketok ingest {path}"
            if not source.sha256:
                return Link("source", source.file, depth, "not recorded", found, f"ingested without a digest; {origin}")
            if found != source.sha256:
                remark = f"has sha256 {found[:12]}, was ingested as {source.sha256[:12]}: {again}"
                return Link("source", source.file, depth, "broken", found, remark)
            if differences := linked_differences(source, path):
                return Link("source", source.file, depth, "broken", found, differences[0])
            fetched = load_source(path)
        except (FetchError, SourceError) as error:
            return Link("source", source.file, depth, "not here", "", f"{error}; {origin}")
        except ArtefactError as error:
            return Link("source", source.file, depth, "broken", "", str(error))
        if fetched is not None and (fetched.origin, fetched.version) != (source.origin, source.version):
            remark = f"was fetched from {fetched.origin}, the store says {origin}: spiketok ingest {path}"
            return Link("source", source.file, depth, "broken", found, remark)
        return Link("source", source.file, depth, "holds", found, origin)


_WALKS: dict[str, Callable[[_Walk, Path], Iterator[Link]]] = {
    "report": _Walk.from_report,
    "run": _Walk.from_run,
    "shard": _Walk.from_shard,
    "context": _Walk.from_context,
    "session": _Walk.from_session,
    "leaderboard": _Walk.from_leaderboard,
}


# ---- small parts ----------------------------------------------------------------------------------------------------


def fetch_name(source: Source) -> str:
    """What ``spiketok fetch`` takes to bring this one file again; empty for a local file."""
    place = source.origin
    return place if place.startswith("http") or not place else f"{place}:{source.file}"


def _compared(settings: Mapping) -> str:
    """By what a session is compared with its source: pynwb reads nothing but NWB."""
    from spiketok.sources.catalogue import RULES
    from spiketok.sources.catalogue.base import read_nwb_file

    return "read by pynwb" if RULES[settings.get("rules", "")].read is read_nwb_file else "made again from it"


def _plugins(recorded: object, depth: int) -> Iterator[Link]:
    """What other packages gave: whether they are here, and the same."""
    for origin in origins_of(recorded):
        state, remark = present(origin)
        yield Link("plugin", f"{origin.kind} {origin.name} of {origin.distribution}", depth, state, "", remark)


def _rules_plugin(attributes: Mapping) -> list:
    """The package whose rules made a stored session, if it is another's."""
    return [one] if (one := attributes["settings"].get("rules_plugin")) else []


def _differs(found: str, expected: str) -> str:
    return f"has sha256 {found[:12]}, written was {expected[:12]}"


def _differs_from(found: str, expected: _Expected) -> str:
    return f"has digest {found[:12]}, {expected.by} was made from {expected.digest[:12]}"


def _read_facts(kind: str, file: Path, again: str) -> tuple[dict | None, Link]:
    """A JSON artefact and its link at depth 0: whether it is what was written, by its own digest."""
    name = "/".join(file.resolve().parts[-3:-1])
    try:
        facts = read_signed(file, kind, again)
    except (OSError, ArtefactError) as error:
        remark = f"{file} is gone: {again}" if isinstance(error, OSError) else str(error)
        said = error.facts if isinstance(error, ChangedError) else None
        return said, Link(kind, name, 0, "broken", "", remark)
    return facts, Link(kind, name, 0, "holds", facts["digest"])


def _is_at_its_end(checkpoint: Mapping | None) -> bool:
    """Whether a training took all its steps, so that a result must lie beside its checkpoint."""
    steps = (checkpoint or {}).get("step"), (checkpoint or {}).get("total_steps")
    return all(isinstance(one, int) for one in steps) and steps[0] >= steps[1]


def _config_fault(run: Path, checkpoint: Mapping) -> str:
    """Why the configuration beside a checkpoint, by which its model adapts, cannot be believed; empty if it can."""
    try:
        run_config(run, checkpoint)
    except ArtefactError as error:
        return str(error)
    return ""


def _facts_or_none(file: Path) -> dict | None:
    """A JSON artefact; None where it is not there or damaged, which its own link says."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return None


def _context_of(shard: Path) -> tuple[Path, _Expected] | None:
    """Where the context of a shard lies, and its digest as the shard has it; None where the shard does not say so."""
    said = (_facts_or_none(shard / MANIFEST) or {}).get("context")
    if not isinstance(said, dict) or not {"path", "digest"} <= said.keys():
        return None
    return (shard / said["path"]).resolve(), _Expected(said["digest"], "the shard")


def _source_or_none(path) -> Source | None:
    """The source that a session's attributes name; None where they cannot be read."""
    try:
        return Source.from_dict(read_attributes(path)["source"])
    except (SpiketokError, KeyError, TypeError, AttributeError):
        return None


def _model_of(run: Path) -> str:
    facts = _facts_or_none(run / "config.json")
    return facts["model"] if facts and "model" in facts else "NAME"
