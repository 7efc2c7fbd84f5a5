"""What this machine has of what spiketok needs, and whether its kernels compute rightly here."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

import typer

from spiketok import __version__
from spiketok.cli.console import show_json, show_rows
from spiketok.cli.options import Json, Root
from spiketok.errors import SpiketokError
from spiketok.storage.files import human_bytes
from spiketok.storage.preferences import FILE, SHARED, sources
from spiketok.storage.workspace import DEFAULT_ROOT, Workspace

REQUIRED = ("numpy", "scipy", "numba", "h5py", "pynwb", "zarr", "numcodecs", "pydantic", "typer", "rich")
EXTRAS = {
    "train": ("torch", "lightning-fabric", "torchmetrics", "scikit-learn", "safetensors"),
    "dandi": ("dandi", "requests"),
    "plots": ("matplotlib",),
    "sorting": ("spikeinterface",),
    "alf": ("pyarrow",),
    "dask": ("dask", "distributed"),
    "remote": ("fsspec", "s3fs", "remfile"),
    "hub": ("huggingface_hub",),
    "zarr-nwb": ("hdmf-zarr",),
    "lightning": ("lightning",),
    "pynapple": ("pynapple",),
}


DEFAULTS = {"root": DEFAULT_ROOT, "store": "ROOT/store", "jobs": 1, "executor": "this process, or --jobs"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``state``: ``"ok"``, ``"missing"`` (an extra) or ``"broken"``."""

    check: str
    state: str
    found: str


def examine(workspace: Workspace, flag: Path | None = None) -> list[Check]:
    """Look at everything; never raises for what it finds. ``flag``: what ``--root`` gave."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    checks = [
        Check("spiketok", "ok", __version__),
        Check("python", "ok" if sys.version_info >= (3, 11) else "broken", python),
        Check("machine", "ok", f"{os.cpu_count()} cores, {human_bytes(_memory_bytes())} memory"),
    ]
    checks += [_package(name, "broken", "pip install spiketok") for name in REQUIRED]
    for extra, names in EXTRAS.items():
        checks += [_package(name, "missing", f"pip install 'spiketok[{extra}]'") for name in names]
    checks += _plugins()
    checks += [_tried("kernels", _kernels), _tried("kernel cache", _kernel_cache), _tried("devices", _devices)]
    checks += preferences(flag)
    return [*checks, _tried("workspace", lambda: _space(workspace))]


def preferences(flag: Path | None) -> list[Check]:
    """The value of each shared setting and where it comes from; what the files of ``spiketok.toml`` say of commands.

    Args:
        flag: what ``--root`` gave, on the line or by its environment variable.
    """
    try:
        files = sources()
    except SpiketokError as error:
        return [Check(FILE, "broken", str(error))]
    checks = []
    for key in SHARED:
        variable = f"SPIKETOK_{key.upper()}"
        given = [(variable, os.environ.get(variable))]
        if key == "root" and flag is not None and str(flag) != given[0][1]:
            given.insert(0, ("--root", flag))
        given += [(one.words, one.shared.get(key)) for one in files]
        place, value = next(((p, v) for p, v in given if v), ("the default", DEFAULTS[key]))
        checks.append(Check(key, "ok", f"{value} ({place})"))
    for one in files:
        told = "; ".join(f"[{name}] {', '.join(own)}" for name, own in one.commands.items())
        checks.append(Check(FILE, "ok", f"{one.words}{f': {told}' if told else ''}"))
    return checks


def _tried(name: str, look: Callable[[], Check]) -> Check:
    """A check that may meet anything on a broken machine; what it met is what is told."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - what is broken here is what the command is to say
        return Check(name, "broken", " ".join(f"{type(error).__name__}: {error}".split()))


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _package(name: str, state: str, remedy: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, state, f"not installed: {remedy}")


def _plugins() -> list[Check]:
    """What other packages give by entry points, and why one cannot be used."""
    from contextlib import suppress

    from spiketok.plugins import all_plugins

    for room in ("recording.metrics", "sources.catalogue", "tokens.schemes", "models", "training.tasks"):
        with suppress(ImportError):  # torch may be missing, which its own line says
            import_module(f"spiketok.{room}")
    return [
        Check(f"{origin.kind} {origin.name}", "broken" if fault else "ok", fault or f"{origin.distribution}, a plug-in")
        for origin, fault in all_plugins()
    ]


def _kernels() -> Check:
    """Count 10,000 spikes on bin edges, where float arithmetic goes wrong, through the compiled kernel."""
    import numpy as np

    from spiketok.recording.nouns import Intervals, Session, Source, Spikes, UnitTable
    from spiketok.tokens.schemes import make_scheme

    edges = np.arange(10_000, dtype=np.int64) * 20_000_000
    session = Session(
        id="doctor/edges",
        subject="",
        start_ns=0,
        stop_ns=int(edges[-1]) + 20_000_000,
        units=UnitTable(np.array(["0"])),
        spikes=Spikes(edges, np.zeros(edges.size, np.int32)),
        observed=Intervals(np.array([0]), np.array([edges[-1] + 20_000_000])),
        source=Source("", "", 0),
    )
    segments = Intervals(np.array([0]), np.array([session.stop_ns]))
    counts = make_scheme("binned").bake(session, segments).columns["counts"]
    right = int((counts == 1).sum())
    state = "ok" if right == edges.size else "broken"
    return Check("kernels", state, f"{right:,} of {edges.size:,} spikes on bin edges in the right bin")


def _kernel_cache() -> Check:
    """Where compiled loops are kept for the next command; called after the loops were imported."""
    from spiketok.compiled import REMEDY, cache_places

    places, why = cache_places()
    if why:
        return Check("kernel cache", "missing", f"none, each command compiles its own ({why}): {REMEDY}")
    return Check("kernel cache", "ok", ", ".join(places))


def _devices() -> Check:
    try:
        import torch
    except ModuleNotFoundError:
        return Check("devices", "missing", "no torch: pip install 'spiketok[train]'")
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return Check("devices", "ok", ", ".join(names) or f"CPU only, {torch.get_num_threads()} threads")


def _space(workspace: Workspace) -> Check:
    folder = workspace.root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state = "ok" if os.access(folder, os.W_OK) and free > 10**9 else "broken"
    return Check(
        "workspace", state, f"{workspace.root}: {human_bytes(free)} free, {len(workspace.session_ids())} sessions"
    )


def doctor(root: Root = None, as_json: Json = False) -> None:
    """Check this machine: versions, extras, kernels, devices, space."""
    try:
        workspace = Workspace.locate(root)
    except SpiketokError:  # a faulty spiketok.toml, which the checks tell
        workspace = Workspace(root or Path(DEFAULT_ROOT))
    findings = examine(workspace, root)
    if as_json:
        show_json([asdict(f) for f in findings])
    else:
        show_rows("doctor", ["check", "state", "found"], [asdict(f) for f in findings])
    if any(f.state == "broken" for f in findings):
        raise typer.Exit(1)
