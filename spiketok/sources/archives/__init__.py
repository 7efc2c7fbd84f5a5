"""Archives: what is wanted, what that is in files and bytes, its download. One contract (``base``), one plan, one loop.

A new archive is one :class:`~spiketok.sources.archives.base.Archive` in its own file and one line in ``ARCHIVES``.
"""

from __future__ import annotations

from spiketok.sources.archives.base import Archive
from spiketok.sources.archives.dandi import Dandi
from spiketok.sources.archives.s3 import S3
from spiketok.sources.archives.urls import Urls
from spiketok.sources.archives.zenodo import Zenodo

# In the order in which they are asked whether a word is theirs: a page of an archive is an address, too.
ARCHIVES: dict[str, Archive] = {archive.host: archive for archive in (Dandi(), Zenodo(), S3(), Urls())}
