"""Windows of shards as datasets of other libraries: ``spiketok export SESSION... --to mds|litdata|webdataset|hf``.

FOLDER/spiketok.json        what they are: sessions, digests, units, scheme, settings; signed
FOLDER/<split>/             the samples, as the library writes them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spiketok import __version__
from spiketok.errors import ArtefactError, UsageError
from spiketok.pipeline.citations import cite
from spiketok.pipeline.samples.windows import Samples, sources
from spiketok.pipeline.samples.writers import WRITERS
from spiketok.settings import build
from spiketok.storage.files import atomic_folder, read_signed, signed, write_signed
from spiketok.storage.locks import beside, locked
from spiketok.storage.workspace import Workspace
from spiketok.tokens.shards import ShardReader

FACTS = "spiketok.json"
FORMAT = "spiketok-samples"


@dataclass(frozen=True)
class Written:
    """What stands in a folder: ``state`` as of an export, samples and sessions by split, and its size."""

    state: str
    samples: Mapping[str, int]
    sessions: int
    nbytes: int


def export_samples(
    workspace: Workspace,
    session_ids: Sequence[str],
    to: str,
    out: Path,
    values: Mapping[str, object],
    *,
    overwrite: bool = False,
    told: Callable[[], None] = lambda: None,
) -> Written:
    """Write windows of sessions' shards, whole or not at all.

    Args:
        to: of :data:`WRITERS`. values: of :class:`Samples`, as they are typed.

    Raises:
        UsageError: something else stands there, or a setting is wrong. MissingExtraError: the library is not installed.
        DataError: a session has no shard, or no window fits.
    """
    writer = WRITERS[to]
    writer.require()
    settings = build(Samples, values, "samples", "setting")
    by_split, readers, target = sources(workspace, session_ids, settings)
    signal = readers[0].signal(target) if target else None
    decoded = {"name": target, "components": list(signal.components), "measure": signal.measure} if signal else None
    facts = {
        "format": FORMAT,
        "version": 1,
        "written_by": f"spiketok {__version__}",
        "to": to,
        "settings": asdict(settings) | {"split": asdict(settings.split)},
        "scheme": readers[0].manifest["scheme"],
        "target": decoded,
        "samples": {name: sum(len(one) for one in own) for name, own in by_split.items()},
        "sessions": {reader.info.id: _session(reader) for reader in readers},
        "cite": [asdict(one) for one in cite(list(session_ids), workspace)],
    }  # fmt: skip
    with locked(beside(out), str(out), wait=True):
        there = out.exists()
        if there and not overwrite:
            if _digest_there(out) == signed(facts)["digest"]:
                return Written("already", facts["samples"], len(readers), _size(out))
            message = f"{out} is there already, and was made of something else: --overwrite replaces it"
            raise UsageError(message)
        with atomic_folder(out) as wip:
            for name, own in by_split.items():
                (wip / name).mkdir()
                writer.write(wip / name, own, told)
            write_signed(wip / FACTS, facts)
    return Written("replaced" if there else "new", facts["samples"], len(readers), _size(out))


def _session(reader: ShardReader) -> dict[str, object]:
    manifest = reader.manifest
    return {
        "shard_digest": reader.digest,
        "store_digest": manifest["store_digest"],
        "source": manifest["source"],
        "unit_id": [str(unit) for unit in reader.info.unit_id],
    }


def _digest_there(out: Path) -> str:
    try:
        return read_signed(out / FACTS, "facts of samples", "export again")["digest"]
    except (OSError, ArtefactError):
        return ""


def _size(out: Path) -> int:
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
