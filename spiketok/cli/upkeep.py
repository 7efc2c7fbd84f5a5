"""The commands ``index`` and ``upgrade``, which keep a workspace as this spiketok reads it best."""

from __future__ import annotations

from spiketok.cli.console import say, show_json
from spiketok.cli.options import Json, Root, Store
from spiketok.storage.workspace import Workspace


def index(root: Root = None, store: Store = None, as_json: Json = False) -> None:
    """Make the index of a store true and write it, also behind a URL: for one that others write."""
    from spiketok.storage.index import INDEX, open_index

    place = Workspace.locate(root, store).store
    made = open_index(place, say, put=True)
    if as_json:
        show_json({"index": str(place / INDEX), "sessions": len(made.ids), "read": made.read})
        return
    unread = len(made.ids) - len(made.entries)
    print(f"index {place / INDEX}: {len(made.ids)} sessions, {made.read} of them read anew")
    if unread:
        say(f"{unread} sessions cannot be read: spiketok verify tells which")
