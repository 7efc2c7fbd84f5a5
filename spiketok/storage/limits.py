"""What the system lets a process have of open files and maps: raised where it may be, named where it is reached."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

OPEN_FILES, ALL_FILES, MAPS = errno.EMFILE, errno.ENFILE, errno.ENOMEM


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: the usual soft limit, 1,024, is older than data sets are."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and refuses it: the soft one stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def process_words() -> tuple[str, str]:
    """That no further process or thread can be had, and what mends it."""
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    told = "not limited here" if most == resource.RLIM_INFINITY else most
    return (
        f"this machine gives no further process or thread (ulimit -u: {told})",
        "end other programs, set OMP_NUM_THREADS=1, or use fewer --jobs",
    )


def available_memory() -> int:
    """Bytes of memory that this process may still take, as far as the system tells; without limit where it does not."""
    rooms = [2**63]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        rooms.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))))
    with contextlib.suppress(OSError, ValueError):  # of a container; "max" is no number
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        rooms.append(max(most - int(Path("/sys/fs/cgroup/memory.current").read_text()), 0))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        rooms.append(max(most - held, 0) if most != resource.RLIM_INFINITY else 2**63)
    return min(rooms)


def memory_words(asked: str = "") -> tuple[str, str]:
    """That there is no memory or no map left, and what mends it; ``asked``: for what."""
    maps, most = _lines("/proc/self/maps"), _number("/proc/sys/vm/max_map_count")
    if most.isdigit() and maps >= 0.9 * int(most):
        return (
            f"too many maps: this process has {maps}, vm.max_map_count is {most}",
            f"run 'sysctl -w vm.max_map_count={4 * int(most)}' as root, or use fewer sessions at once",
        )
    what = f"{asked}; " if asked else ""
    remedy = "use fewer --jobs, a smaller batch, or --max-memory"
    return f"no memory left ({what}ulimit -v {_address_space()})", remedy


def _open_files() -> tuple[str, str]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = f"run 'ulimit -n {hard}' first" if soft < hard else "let it be raised ('ulimit -Hn', --ulimit nofile)"
    fact = f"too many open files: this process may have {soft} at once (ulimit -n)"
    return fact, f"{remedy}, or use fewer --jobs"


def _all_files() -> tuple[str, str]:
    most = _number("/proc/sys/fs/file-max")
    return f"too many open files on this machine: fs.file-max is {most}", "close programs, or raise it by sysctl"


def _address_space() -> str:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} kB"


def _number(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:  # no such system, or not one file more can be opened
        return "not known"


def _lines(file: str) -> int:
    try:
        return len(Path(file).read_bytes().splitlines())
    except OSError:
        return 0


LIMITS = {OPEN_FILES: _open_files, ALL_FILES: _all_files, MAPS: memory_words}
