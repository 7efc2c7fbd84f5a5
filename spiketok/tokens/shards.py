"""Shards: one session's tokens by one scheme, as raw columns that are mapped into memory and a manifest.

A shard is a folder of two files (``spiketok.tokens.columns``): a window is a slice of mapped memory and costs
microseconds. It holds tokens only. What else training needs of the session, its behaviours, splits, trials, observed
time and units, is kept once in the session's context (``spiketok.tokens.context``), which the shard names by digest and
by its place from its own folder, so that shards can be moved as a whole and the store can be elsewhere.

Nothing in a shard depends on a model, a vocabulary or another session; it holds no dates, and the same session,
segments and scheme give the same bytes. The format is specified in ``docs/shard-format.md``.

Shape letters: N units, G segments, T bins, C components.
"""

from __future__ import annotations

import json
import os
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, NotServedError, UsageError
from spiketok.plugins import Origin, require_origins
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session, SessionInfo, Signal
from spiketok.storage.files import fingerprint
from spiketok.tokens.columns import ALIGNMENT, Columns, Kind, write_folder
from spiketok.tokens.context import Context, context_beside, ensure_context
from spiketok.tokens.schemes import SCHEMES, Scheme, scheme_config, scheme_from_config
from spiketok.tokens.schemes.base import freeze, grid_rows
from spiketok.tokens.schemes.behaviour import signal_on_bins

FORMAT = "spiketok-shard"
FORMAT_VERSION = 2
KIND = Kind("shard", FORMAT, FORMAT_VERSION)


def shard_fingerprint(scheme: Scheme, segments_rule: str, store_digest: str) -> str:
    """The name of a shard's folder: other scheme, segments or store, other name."""
    named = {
        "format": FORMAT_VERSION,
        "scheme": scheme_config(scheme),
        "segments": segments_rule,
        "store": store_digest,
    }
    plugin = _plugin_of(scheme)
    return fingerprint(named | {"package": plugin.package} if plugin else named)


def _plugin_of(scheme: Scheme) -> Origin | None:
    """Where a scheme of another package comes from."""
    known = SCHEMES.builtin.get(scheme.name) is None and scheme.name in SCHEMES
    return SCHEMES.origin(scheme.name) if known else None


def plan_bytes(scheme: Scheme, info: SessionInfo, segments: Intervals) -> int:
    """An upper bound of what a bake holds in memory and a shard's columns on disk."""
    return sum(column.nbytes + ALIGNMENT for column in scheme.plan(info, segments).values())


def write_shard(
    target: Path,
    scheme: Scheme,
    session: Session,
    segments: Intervals,
    *,
    segments_rule: str,
    store_digest: str,
    context: Path | None = None,
    refuse_nothing: bool = False,
) -> dict:
    """Bake a session and write its shard, whole or not at all.

    Args:
        target: the shard's folder; one that is there is replaced.
        segments: the stretches to bake; they may overlap and reach over the session's ends.
        segments_rule: how they were made, as ``"continuous"``.
        store_digest: the digest of the store that the session was read from.
        context: the folder of the session's context, which is written if there is none; beside the shard by default.
        refuse_nothing: do not write a shard of which nothing can be used.

    Returns:
        The manifest.

    Raises:
        NotServedError: with ``refuse_nothing``, no bin was recorded whole, or no trial is held.
    """
    target = Path(target)
    baked = scheme.bake(session, segments)
    why = _nothing(scheme, session, baked.columns) if refuse_nothing else ""
    if why:
        message = f"{session.id} {why}"
        raise NotServedError(message)
    place = context or context_beside(target.parent, session, store_digest=store_digest)
    known = ensure_context(place, session, store_digest=store_digest)
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "scheme": scheme_config(scheme),
        "session": {"id": session.id},
        "context": {"path": _way(target, place), "digest": known["digest"]},
        "source": session.source.to_dict(),
        "store_digest": store_digest,
        "segments_rule": segments_rule,
        "n_spikes": len(session.spikes),
        "lost": baked.lost,
    }
    if plugin := _plugin_of(scheme):
        facts["plugin"] = plugin.to_dict()
    return write_folder(target, facts, baked.columns)


def _nothing(scheme: Scheme, session: Session, columns: Columns) -> str:
    """Why nothing of what was baked can be used, with counts; empty where something can."""
    if "trials.found" in columns and not len(columns["start_ns"]):
        found, short = int(columns["trials.found"][0]), int(columns["trials.short"][0])
        if not found:
            return f"has no trials, and no observed stretch as long as one ({scheme.pseudo_ns / NS_PER_MS:g} ms)"
        bins = f"scored bins of {scheme.bin_ns / NS_PER_MS:g} ms"
        return f"has no trial to hold: {short} of {found} have too few {bins} that were recorded whole"
    observed = columns.get("observed")
    if observed is None or not hasattr(scheme, "bin_ns") or observed.any():
        return ""
    ms, seconds = scheme.bin_ns / NS_PER_MS, session.observed.total_ns / NS_PER_S
    longest_ms = (session.observed.stop_ns - session.observed.start_ns).max(initial=0) / NS_PER_MS
    which = "in part" if getattr(scheme, "exposure", False) else "whole"
    why = (
        f"has {len(observed)} bins of {ms:g} ms, none of them recorded {which}: {seconds:.6g} s were observed, the "
        f"longest stretch {longest_ms:.6g} ms"
    )
    if not session.observed.total_ns:
        return why
    share = ", or count by the share of a bin that was (binned: --set exposure=true)"
    return f"{why}: use shorter bins (--bin-ms){share}"


def _way(target: Path, context: Path) -> str:
    """From a shard's folder to its context, as the file system goes it."""
    home = os.path.join(os.path.realpath(target.parent), target.name)
    return Path(os.path.relpath(os.path.realpath(context), home)).as_posix()


@lru_cache(maxsize=256)
def _scheme_from(text: str) -> Scheme:
    return scheme_from_config(json.loads(text))


def _scheme_of(manifest: dict) -> Scheme:
    """The scheme that a manifest names; made once for all shards that say the same of it.

    Raises:
        AbsentPluginError: it is of a package that is not here.
    """
    if "plugin" in manifest:
        require_origins([manifest["plugin"]], f"the {manifest['scheme']['name']} shard of {manifest['session']['id']}")
    return _scheme_from(json.dumps(manifest["scheme"]))


def _require_sound(manifest: dict, columns: Columns) -> None:
    """Raise a SpiketokError where a shard's columns would lead a kernel outside of them, KeyError where facts lack."""
    _ = manifest["session"]["id"], manifest["context"]["digest"], manifest["store_digest"]
    if os.path.isabs(manifest["context"]["path"]):  # a shard and its context move together
        message = f"its context is said to lie at {manifest['context']['path']}, which is no way from its folder"
        raise ArtefactError(message)
    _ = manifest["n_spikes"], dict(manifest["lost"]), manifest["segments_rule"], dict(manifest["source"])
    _scheme_of(manifest).check(columns)


class ShardReader:
    """A shard, ready for random access; its columns are mapped into memory when first used, never read as a whole.

    Attributes:
        path: the folder. manifest: as :func:`write_shard` returned it.
        scheme: the scheme with its fields. columns: read-only arrays by name.

    Args:
        anew: check every byte, whatever the shard's stamp says; else only the first reader of a shard does.

    Raises:
        ArtefactError: no shard there, another format version, or a damaged manifest or file, or columns that lead
            outside of their bounds. What asks for the context (``info``, ``observed``, ``splits``, ``trials``, signals)
            raises it where the context is not there, is damaged, or is not the one that the shard was made with.
    """

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        self.path = Path(path)
        self.manifest, self.columns = KIND.open(self.path, _require_sound, anew=anew)
        self.scheme = _scheme_of(self.manifest)
        self._on_bins: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __reduce__(self):
        return (type(self), (self.path,))

    def __repr__(self) -> str:
        return f"ShardReader({self.manifest['session']['id']}, {self.scheme}, {self.manifest['n_spikes']} spikes)"

    def verify(self) -> list[str]:
        """Read every byte again; what differs from the manifest's digests, one line a column, none if all is well.

        The context has its own :meth:`~spiketok.tokens.context.Context.verify`.
        """
        return self.columns.verify()

    @property
    def digest(self) -> str:
        """One digest over everything in the shard, and by its digest over its context."""
        return self.manifest["digest"]

    @property
    def lost(self) -> dict[str, int]:
        """Spikes of the session that the columns do not hold, by reason."""
        return dict(self.manifest["lost"])

    @cached_property
    def segments(self) -> Intervals:
        # copies, as of all that is kept: an array on the map would keep it for as long as the reader lives
        return Intervals(self.columns["segment.start_ns"].copy(), self.columns["segment.stop_ns"].copy())

    @cached_property
    def bin_row(self) -> np.ndarray:
        """int64 ``[G + 1]``: the first row of each segment where its bins follow one after the other."""
        return grid_rows(self.segments.start_ns, self.segments.stop_ns, self.scheme.grid_ns)

    def bin_signal(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A behaviour on the scheme's bins, laid there when first asked for and kept; rows as :attr:`bin_row` says.

        Returns:
            float32 ``[T, C]``, 0 where not valid; uint8 ``[T]``. Both are read-only.

        Raises:
            UnknownNameError: the session has no such behaviour. UsageError: the scheme has no bins.
        """
        found = self._on_bins.get(name)
        if found is None:
            if self.scheme.grid_ns == 1:
                message = f"scheme '{self.scheme.name}' has no bins to lay '{name}' on: use signal('{name}')"
                raise UsageError(message)
            value, valid = signal_on_bins(self.signal(name), self.segments, self.scheme.grid_ns)
            freeze({"value": value, "valid": valid})
            found = self._on_bins[name] = value, valid
        return found

    # ---- the session's context --------------------------------------------------------------------------------------

    @cached_property
    def context(self) -> Context:
        """The session's context, the very one that the shard was made with."""
        said = self.manifest["context"]
        context = Context((self.path / said["path"]).resolve())
        if context.digest != said["digest"]:
            fact = f"was made with context {said['digest'][:12]}, at {context.path} lies {context.digest[:12]}"
            KIND.refuse(self.path, fact)
        return context

    def require_context(self) -> None:
        """Raise ArtefactError where the context is not there, damaged, or another than the shard was made with."""
        _ = self.context

    @property
    def info(self) -> SessionInfo:
        return self.context.info

    @property
    def observed(self) -> Intervals:
        return self.context.observed

    @property
    def splits(self) -> Intervals:
        """The stored splits, with a column ``name`` and, where the session has it, ``set``; empty where it has none."""
        return self.context.splits

    @property
    def trials(self) -> Intervals:
        """The main trial table's times, and its columns of few values or text, as str; empty where there is none."""
        return self.context.trials

    def signal(self, name: str) -> Signal:
        """A behaviour as it was sampled; UnknownNameError where the session has no such one."""
        return self.context.signal(name)

    def signal_reach_ns(self, name: str) -> tuple[int, int]:
        """How far before and after its time a sample of a behaviour depends on, by the processing that made it."""
        return self.context.signal_reach_ns(name)

    def require_signal(self, name: str) -> None:
        """Raise UnknownNameError if the session has no such behaviour."""
        self.context.require_signal(name)
