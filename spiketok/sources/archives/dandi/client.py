"""The official client as what brings the bytes of one asset: it resumes from its own parts beside ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spiketok.errors import FetchError
from spiketok.sources.archives.base import Bring, DamagedError, Job
from spiketok.sources.archives.dandi.api import connect, gave_up, instance_of, listen
from spiketok.sources.archives.plans import Plan
from spiketok.sources.archives.web import StoppedError, Trace, Watch, one_line
from spiketok.storage.files import fingerprint

PARTS = ".dandidownload"  # what the client adds to a name for the folder of what came


def staged_name(path: str) -> str:
    """A short flat name for the parts of an asset: a long path has no room for the client's suffix."""
    return f"{fingerprint(path)}.part"


@contextmanager
def by_client(plan: Plan, trace: Trace, stop: threading.Event) -> Iterator[Bring]:
    """Brings the assets of a plan; greets the archive first."""
    instance = instance_of(plan)
    with connect(instance, token=plan.needs_token, trace=trace, stop=stop) as (client, watch), listen(trace):

        def bring(job: Job) -> None:
            watch.done()
            # whole already: an earlier run was killed between the last byte and the final name
            if not (job.part.is_file() and job.part.stat().st_size == job.asset.size):
                job.part.unlink(missing_ok=True)
                _stage(client, watch, plan, job)

        yield bring


@dataclass(frozen=True)
class _OneAsset:
    """Stands where the official ``Downloader`` takes a URL: hands it one known asset and our own connection."""

    client: Any
    asset: Any
    name: str

    @contextmanager
    def navigate(self, *, strict: bool = False, authenticate: bool | None = None) -> Iterator[tuple[Any, None, list]]:
        yield self.client, None, [self.asset]

    def get_asset_download_path(self, asset: Any, preserve_tree: bool) -> str:
        return self.name


def _stage(client: Any, watch: Watch, plan: Plan, job: Job) -> None:
    """Let the official client bring one asset to its part: it resumes from its own ``<part>.dandidownload``.

    Raises:
        DamagedError: bytes came and they are wrong. FetchError: the client gave up, or the server is too slow; what
            came stays.
    """
    import requests
    from dandi.dandiapi import RemoteAsset, RemoteDandiset
    from dandi.download import Downloader, DownloadExisting

    asset, part = job.asset, job.part
    listed = {"asset_id": asset.asset_id, "path": asset.path, "size": asset.size, "blob": asset.asset_id}
    listed |= {"created": asset.modified, "modified": asset.modified}
    digests = {"dandi:dandi-etag": asset.etag} | ({"dandi:sha2-256": asset.sha256} if asset.sha256 else {})
    remote = RemoteAsset.from_data(
        RemoteDandiset(client, plan.dandiset, plan.version),
        listed,
        {"digest": digests, "blobDateModified": asset.modified},
    )
    downloader = Downloader(
        url=_OneAsset(client, remote, part.name),
        output_dir=part.parent,
        existing=DownloadExisting.OVERWRITE,
        get_metadata=False,
        get_assets=True,
        preserve_tree=False,
        jobs_per_zarr=None,
        on_error="raise",
    )
    try:
        for record in downloader.download_generator():
            if job.stop.is_set():
                message = "interrupted"
                raise StoppedError(message)
            watch.moved()
            if "done" in record:
                job.tell(record["done"], asset.size)
            if record.get("status") == "error":
                message = record.get("message", "no reason given")
                if record.get("checksum") == "differs":
                    raise DamagedError(message)
                message = gave_up(message)
                raise FetchError(message)
    except requests.RequestException:  # some are ValueErrors, too
        raise
    except ValueError as error:  # the client's digest counts the bytes: more came than announced
        message = f"other bytes than announced ({one_line(error)})"
        raise DamagedError(message) from error
