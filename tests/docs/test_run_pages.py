"""Every block and every command of the guides is run (``make wheel``), by the spiketok of a clean environment.

Which: the fenced blocks of quickstart.md and python.md, in order, in one folder a page; the commands of how-do-i.md,
question by question. What cannot be run here says why on the page, ``<!-- not run: ... -->``, and is counted.
A word in capitals (``SESSION``, ``RUN``) is what a reader puts in; :data:`GIVEN` is what we put in.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.dandi_server import DandiServer
from tests.docs.markdown import CODE, NOT_RUN, ROOT, blocks
from tests.docs.questions import GIVEN, WORDS, questions
from tests.docs.running import Place

pytestmark = pytest.mark.slow
GUIDES = [page for name in ("quickstart", "python") if (page := ROOT / "docs" / f"{name}.md").is_file()]


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """Addresses of servers that hold made files of the dandisets which the pages name."""
    from spiketok.sources.catalogue import resolve
    from tests.layouts import falcon, nlb, perich_miller

    made = tmp_path_factory.mktemp("archives")
    small = nlb.write_nlb("mc_maze", made / "nlb")
    falcon.write_set(made / "m1", "m1")
    perich_miller.write_center_out(made / perich_miller.CENTER_OUT)
    with ExitStack() as stack:

        def serve(names: str, request: str, files: dict[str, Path]) -> dict[str, str]:
            entry = resolve(request).entry
            server = DandiServer({k: p.read_bytes() for k, p in files.items()}, entry.dandiset, entry.version)
            stack.enter_context(server)
            return dict.fromkeys(names.split(), server.api_url)

        yield {}


@pytest.fixture(scope="module", params=GUIDES, ids=lambda page: page.stem)
def guide(request, tmp_path_factory, archives):
    return request.param, Place(tmp_path_factory.mktemp(request.param.stem), archives)
