"""DANDI archive: a plan of a dandiset's NWB files, and their download through the official client.

Resume, retries and ranges are the client's (``dandi.download.Downloader``, driven one asset at a time). Added here is
what it leaves open (measured with 0.81): it writes any path that a server names, waits without end for an API answer,
asks for a token on the terminal, stops all assets for one refused metadata request, and leaves a file with wrong bytes
under its final name. So here every path is judged first, API calls have a deadline, nothing prompts, one asset's error
is that asset's alone, and a file gets its final name only after its size and digest agree.

    <raw>/<dandiset>/<version>/<asset path>      only whole, verified files
    <raw>/<dandiset>/<version>/dandiset.json     what they are: licence, citation, size and sha256 of each
    <raw>/<dandiset>/<version>/.listing.json     the asset list of a published version, so that a rerun needs no network
    <raw>/.staging/<dandiset>/<version>/         parts of files, kept for the next run

``Downloader`` is not public API of the client, so it is used in one function (``download._stage``), and the tests
run the real client against a loopback archive.
"""

from __future__ import annotations

from spiketok.sources.archives.dandi.download import download_dandi
from spiketok.sources.archives.dandi.local import find_source, read_record
from spiketok.sources.archives.dandi.plan import JOBS, plan_dandi
from spiketok.sources.archives.dandi.stream import open_remote

__all__ = ["JOBS", "download_dandi", "find_source", "open_remote", "plan_dandi", "read_record"]
