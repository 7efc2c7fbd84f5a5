"""Pages of sessions: of the store, with the tokens that were baked of them, or of an NWB file."""

from __future__ import annotations

from pathlib import Path

from spiketok.errors import DataError, UsageError
from spiketok.pipeline.inspect import OF_OTHERS, kind_of, load_session
from spiketok.pipeline.isolation import bounds, isolated
from spiketok.storage.files import source_bytes
from spiketok.storage.workspace import CONTEXT, Workspace
from spiketok.tokens.pictures import not_drawn
from spiketok.tokens.shards import ShardReader
from spiketok.tokens.view import Extra, Written, write_page
from spiketok.tokens.view.layers import LAYERS

FIRST = ("binned", "per-spike")  # whose tokens are shown where nobody chose, if there are any


def shards_of(workspace: Workspace, session_id: str, schemes: list[str] | None) -> list[ShardReader]:
    """The newest shard of each scheme that was asked for; of none that was, of one that is there.

    Raises:
        DataError: a scheme that was asked for has no shard of the session. UsageError: nothing draws its tokens.
    """
    newest: dict[str, Path] = {}
    for folder in workspace.baked(session_id):
        name = folder.parts[-4]
        if name != CONTEXT and (name not in newest or folder.stat().st_mtime > newest[name].stat().st_mtime):
            newest[name] = folder
    if schemes is None:
        ours = [name for name in sorted(newest) if name in LAYERS]
        schemes = [name for name in (*FIRST, *ours, *sorted(newest)) if name in newest][:1]
    elif schemes == ["all"]:
        schemes = sorted(newest)
    elif others := [name for name in schemes if name in newest and name not in LAYERS]:
        message = f"{not_drawn(others[0], LAYERS)}: choose of them, or --scheme none"
        raise UsageError(message)
    for name in schemes:
        if name not in newest:
            message = (
                f"{session_id} has no {name} shard (there are {', '.join(sorted(newest)) or 'none'}): "
                f"spiketok tokenize --scheme {name} --sessions '{session_id}'"
            )
            raise DataError(message)
    return [ShardReader(newest[name]) for name in schemes]


def view_path(path: Path, out: Path, extra: Extra | None, **options: object) -> Written:
    """Write the page of a stored session or of an NWB file; a file of others is read within bounds, elsewhere."""
    kind = kind_of(path)
    if kind in OF_OTHERS:
        size = source_bytes(path) if path.is_file() or path.is_dir() else 0
        return isolated(_page, path, kind, out, extra, options, name=path.name, **bounds(size))
    return _page(path, kind, out, extra, options)


def _page(path: Path, kind: str, out: Path, extra: Extra | None, options: dict) -> Written:
    return write_page(load_session(path, kind), out, extra, **options)
