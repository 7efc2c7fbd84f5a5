"""Records of Zenodo: a plan from its REST API, and the files through pooch, each against the announced MD5.

A record is one version of the data and its files never change, so its list is kept and a complete record needs no
network. pooch checks the digest and cannot resume, so it is given a downloader that goes on where an earlier attempt
or an earlier run ended: a cut connection costs the bytes that are missing. MD5 is what Zenodo has; our own sha256 is
recorded beside it and binds the file from then on.

    <raw>/zenodo/<record>/<file>            only whole, verified files
    <raw>/zenodo/<record>/zenodo.json       what they are: licence, citation, DOI, size, md5 and sha256 of each
    <raw>/zenodo/<record>/.listing.json     the list of files, so that a rerun needs no network
    <raw>/.staging/zenodo/<record>/         parts of files, kept for the next run

API: https://developers.zenodo.org (records), the answer's form as of InvenioRDM.
"""

from __future__ import annotations

from spiketok.sources.archives.zenodo.download import download_zenodo
from spiketok.sources.archives.zenodo.local import FOLDER, find_record, find_source, read_record
from spiketok.sources.archives.zenodo.plan import plan_zenodo

__all__ = ["FOLDER", "download_zenodo", "find_record", "find_source", "plan_zenodo", "read_record"]
