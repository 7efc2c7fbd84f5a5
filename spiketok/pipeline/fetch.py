"""A fetch of several names: their plans, the files that make whole sessions, what is here. One name's trouble stops no
other: it becomes a Failure in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spiketok.errors import ArtefactError, FetchError, UsageError
from spiketok.pipeline.jobs import share_of
from spiketok.sources.catalogue import (
    DATASETS,
    Checked,
    Dataset,
    LocalRequest,
    Plan,
    Progress,
    Request,
    Selection,
    check_here,
    dataset_of,
    download,
    plan_fetch,
    session_of,
)


@dataclass(frozen=True)
class Failure:
    """What could not be had.

    Args:
        name: of the request or file. stage: ``plan``, ``download``, ``ingest``, ``stream`` or ``verify``.
        error: why, one line. tried: what was tried before, in order and with times.
    """

    name: str
    stage: str
    error: str
    tried: tuple[str, ...] = ()


@dataclass(frozen=True)
class Brought:
    """What a download gave: files that are here, whole and verified, and what failed.

    ``states``: of each file that is here, ``"fetched"`` or ``"skipped"``, also of those whose session is not whole.
    """

    files: tuple[Path, ...] = ()
    failures: tuple[Failure, ...] = ()
    states: tuple[str, ...] = ()


def by_size() -> list[Dataset]:
    """The catalogue, smallest first; those of unknown size last."""
    return sorted(DATASETS.values(), key=lambda d: (d.bytes is None, d.bytes or 0, d.name))


def pinned(name: str) -> Dataset | None:
    """The catalogue's entry of this name, where its version is pinned: what is known of it does not change."""
    dataset = DATASETS.get(name)
    return dataset if dataset is not None and (dataset.version or dataset.record) else None


def plan_each(
    requests: Sequence[Request | LocalRequest],
    raw: Path,
    *,
    api_url: str | None,
    selection: Selection,
    policy: str,
    jobs: int,
) -> Iterator[Plan | Failure]:
    """The plans of all requests that ask for something; see :func:`spiketok.sources.catalogue.plan_fetch`."""
    for request in requests:
        try:
            plan = plan_fetch(request, raw, api_url=api_url, selection=selection, policy=policy, jobs=jobs)
        except (FetchError, ArtefactError) as error:
            yield Failure(request.name, "plan", str(error))
        else:
            if plan is not None:
                yield plan


def plans_of_part(plans: Sequence[Plan], part: tuple[int, int] | None) -> list[Plan]:
    """The plans with the files of one of several parts alone, whole sessions each; those that hold none are left out.

    Each plan is divided by itself: one that cannot be made moves no session of another to another part.
    """
    found = []
    for plan in plans:
        of = [session_of(plan, asset.path) for asset in plan.assets]
        taken = set(share_of(sorted(set(of)), part))
        assets = tuple(asset for asset, session in zip(plan.assets, of, strict=True) if session in taken)
        found += [replace(plan, assets=assets)] if assets or part is None else []
    return found


def plan_facts(plan: Plan) -> dict[str, object]:
    """A plan as plain values, with its bytes and without the assets that were not chosen."""
    counted = {"total_bytes": plan.total_bytes, "fetch_bytes": plan.fetch_bytes}
    return asdict(replace(plan, listing=())) | counted


def bring(
    plan: Plan, raw: Path, *, jobs: int, policy: str, progress: Progress | None = None, whole_sessions: bool
) -> Brought:
    """Download a plan.

    Args:
        jobs, policy, progress: of :func:`spiketok.sources.catalogue.download`.
        whole_sessions: without the files of a session of which another file failed, for half of it is no session.
    """
    try:
        results = download(plan, raw, jobs=jobs, policy=policy, progress=progress)
    except (FetchError, ArtefactError) as error:
        return Brought(failures=(Failure(plan.name, "download", str(error)),))
    files, failures = [], []
    broken = {session_of(plan, result.path) for result in results if result.file is None}
    for result in results:
        if result.file is None:
            failures.append(Failure(result.path, "download", result.message, result.tried))
        elif whole_sessions and session_of(plan, result.path) in broken:
            why = "not ingested: another file of its session could not be fetched"
            failures.append(Failure(result.path, "ingest", why))
        else:
            files.append(result.file)
    states = tuple(result.status for result in results if result.file is not None)
    return Brought(tuple(files), tuple(failures), states)


def joined_under(files: Sequence[Path], merge_as: str) -> str:
    """The dataset of the one session that these files make: that of those that were fetched.

    Raises:
        UsageError: they were fetched from several.
    """
    names = sorted({name for file in files if (name := dataset_of(file)) is not None})
    if len(names) > 1:
        message = f"--merge-as {merge_as}: the files are of {' and '.join(names)}; a session is of one dataset"
        raise UsageError(message)
    return names[0] if names else "local"


def check_each(
    requests: Sequence[Request | LocalRequest], raw: Path, selection: Selection
) -> Iterator[list[Checked] | Failure]:
    """What is here of each request; see :func:`spiketok.sources.catalogue.check_here`."""
    for request in requests:
        try:
            yield check_here(request, raw, selection)
        except (FetchError, ArtefactError) as error:
            yield Failure(request.name, "verify", str(error))
