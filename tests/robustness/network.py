"""Servers that fail, through ``fetch``: what failed is named, nothing is half there, the same command again mends it.

The servers are on this machine. ``SPIKETOK_NETWORK_TIMEOUT`` makes the waits for an answer short, and a module that the
commands' Python imports at its start cuts their pauses between attempts, which are minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.dandi_server import DandiServer
from tests.robustness import Case, Cli, Outcome
from tests.sources.test_fetch_faults import BIG, BYTES, FAULTS, SMALL
from tests.zenodo_server import ZenodoServer

TIMEOUT_S = 2
MOST_PAUSE_S = 0.05
HASTE = f"""
import threading
import time
sleep, wait = time.sleep, threading.Event.wait
time.sleep = lambda seconds: sleep(min(seconds, {MOST_PAUSE_S}))
threading.Event.wait = lambda event, seconds=None: wait(event, seconds and min(seconds, {MOST_PAUSE_S}))
"""
FOLDER = "000140/0.220113.0408"
FOR_EVER = 99
PLACES = {"info": "/api/info/", "dandiset": "/api/dandisets/000140/", "list": "/assets/?", "digests": "/assets/",
          "redirect": "/download/", "file": "/blobs/"}  # fmt: skip
OLD_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def cases(count: int | None) -> list[Case]:
    found = [Case(f"dandi: {name}", partial(_dandi_fault, name)) for name in FAULTS]
    found += [Case(f"dandi: {at} hangs once", partial(_dandi_hangs, part, 1)) for at, part in PLACES.items()]
    found += [Case(f"dandi: {at} hangs twice", partial(_dandi_hangs, part, 2)) for at, part in PLACES.items()]
    found += [Case(f"dandi: {at} hangs", partial(_dandi_hangs, part, FOR_EVER)) for at, part in PLACES.items()]
    found += [
        Case("dandi: list trickles", _dandi_trickles),
        Case("dandi: a page of HTML", partial(_dandi_page, "not JSON")),
        Case("dandi: nobody there", _nobody),
        Case("dandi: file stalls in its middle", _dandi_stalls),
        Case("dandi: server dies and comes back", _dandi_dies),
        Case("dandi: token asked for", _embargoed),
        Case("dandi: ranges ignored", partial(_dandi_set, "ignore_range", True)),
        Case("dandi: other bytes than the range", _wrong_range),
        Case("dandi: API busy for long", _dandi_busy),
        Case("dandi: API 429", partial(_dandi_set, "api_status", [429, 429])),
    ]
    found += [Case(f"zenodo: {name}", partial(_zenodo_fault, fault)) for name, fault in ZENODO.items()]
    found += [Case(f"url: {name}", partial(_url_fault, fault)) for name, fault in URL.items()]
    return found[:count]


def fetch(cli: Cli, folder: Path, name: str, *words: str) -> Outcome:
    """The command, hasty; it must end in time, in words without secrets."""
    (folder / "haste").mkdir(exist_ok=True)
    (folder / "haste" / "sitecustomize.py").write_text(HASTE)
    env = {"PYTHONPATH": f"{folder / 'haste'}:{cli.package}", "SPIKETOK_NETWORK_TIMEOUT": str(TIMEOUT_S)}
    root = folder / "work"
    root.mkdir(exist_ok=True)
    done = cli("fetch", name, "--download-only", "-J", "1", *words, root=root, env=env).sane()
    assert "secret" not in done.text, f"a signature is told: {done}"
    return done


def finals(folder: Path, below: str) -> dict[str, bytes]:
    """What stands under final names."""
    home = folder / "work" / "raw" / below
    hidden = (
        p for p in home.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.parts[len(home.parts) :])
    )
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in hidden if p.suffix != ".json"}


# ---- DANDI ----------------------------------------------------------------------------------------------------------


def _dandi(cli: Cli, folder: Path, server: DandiServer) -> Outcome:
    return fetch(cli, folder, "mc_maze_small", "--api-url", server.api_url)


def _first_and_again(cli: Cli, folder: Path, server: DandiServer, failed: set[str], *words: str) -> Outcome:
    """The command under the faults that are set, then without them."""
    first = _dandi(cli, folder, server)
    if failed:
        first.refuses(*words)
        assert sum(line.startswith("error:") for line in first.err.splitlines()) <= len(BYTES), str(first)
    else:
        first.succeeds(*words)
    assert finals(folder, FOLDER) == {path: BYTES[path] for path in BYTES.keys() - failed}, (
        "half a file, or one too few"
    )
    assert not list(folder.rglob("outside*"))
    server.release.set()
    server.faults, server.assets = type(server.faults)(), dict(BYTES)
    time.sleep(1)  # answers that were held back end, and count what they send
    server.forget()
    _dandi(cli, folder, server).succeeds()
    assert finals(folder, FOLDER) == BYTES
    assert server.blob_bytes <= sum(len(BYTES[path]) for path in failed), "what was here came once more"
    assert not (folder / "work" / "raw" / ".staging").exists()
    return first


def _dandi_fault(name: str, cli: Cli, folder: Path) -> None:
    sets, failed = FAULTS[name]
    with DandiServer(BYTES) as server:
        sets(server)
        _first_and_again(cli, folder, server, failed)


def _dandi_hangs(part: str, times: int, cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.hang[part] = times
        _first_and_again(cli, folder, server, set(BYTES) if times == FOR_EVER else set())


def _dandi_set(field: str, value: object, cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        setattr(server.faults, field, value)
        _first_and_again(cli, folder, server, set())


def _dandi_busy(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.api_status = [503] * FOR_EVER
        _first_and_again(cli, folder, server, set(BYTES), "503")


def _dandi_trickles(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.api_trickle_s = 0.3
        _first_and_again(cli, folder, server, set(BYTES))


def _dandi_page(words: str, cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.html = True
        _first_and_again(cli, folder, server, set(BYTES), words)


def _dandi_stalls(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.stall[BIG] = 300_000  # of each answer: the third one brings the rest
        _first_and_again(cli, folder, server, set())


def _wrong_range(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.cut[BIG], server.faults.wrong_range = [400_000], True
        first = _dandi(cli, folder, server)
        failed = {BIG} if first.code else set()
        assert finals(folder, FOLDER) == {path: BYTES[path] for path in BYTES.keys() - failed}
        server.faults = type(server.faults)()
        _dandi(cli, folder, server).succeeds()
        assert finals(folder, FOLDER) == BYTES


def _embargoed(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.token = "none"
        _first_and_again(cli, folder, server, set(BYTES), "token")


def _nobody(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        address = server.api_url
    fetch(cli, folder, "mc_maze_small", "--api-url", address).refuses("does not answer")
    with DandiServer(BYTES, port=server.port) as again:
        _dandi(cli, folder, again).succeeds()


def _dandi_dies(cli: Cli, folder: Path) -> None:
    with DandiServer(BYTES) as server:
        server.faults.cut[BIG] = [350_000] + [0] * 40
        _dandi(cli, folder, server).refuses(BIG)
    assert finals(folder, FOLDER) == {SMALL: BYTES[SMALL]}
    fetch(cli, folder, "mc_maze_small", "--api-url", server.api_url).refuses()
    with DandiServer(BYTES, port=server.port) as again:
        _dandi(cli, folder, again).succeeds()
        assert finals(folder, FOLDER) == BYTES


# ---- Zenodo and plain addresses -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """How a server is set up, and whether the first run must fail for it."""

    sets: Callable[[object], object]
    fails: bool = False
    words: tuple[str, ...] = ()


def _zenodo_set(**values: object) -> Callable[[ZenodoServer], None]:
    return lambda server: vars(server).update(values)


NAME = "a.nwb"
BUSY = (503, {"Retry-After": "0"})
ZENODO = {
    "cut once": Fault(_zenodo_set(cut={NAME: [200_000]})),
    "cut three times": Fault(_zenodo_set(cut={NAME: [200_000, 10, 90_000]})),
    "busy file": Fault(_zenodo_set(status={NAME: [BUSY, BUSY, (429, {"Retry-After": "0"})]})),
    "busy record": Fault(_zenodo_set(status={"": [BUSY, BUSY]})),
    "Retry-After as a date": Fault(_zenodo_set(status={NAME: [(503, {"Retry-After": OLD_DATE})]})),
    "busy for ever": Fault(_zenodo_set(status={NAME: [BUSY] * 99}), True, ("503",)),
    "no such record": Fault(_zenodo_set(status={"": [(404, {})]}), True, ("has no record",)),
    "record withdrawn": Fault(_zenodo_set(status={"": [(410, {})]}), True, ("410",)),
    "file gone": Fault(_zenodo_set(status={NAME: [(404, {})]}), True, ("404",)),
    "file forbidden": Fault(_zenodo_set(status={NAME: [(403, {})]}), True, ("403",)),
    "wrong byte once": Fault(_zenodo_set(corrupt={NAME: 1})),
    "wrong bytes": Fault(_zenodo_set(corrupt={NAME: 9}), True, ("md5",)),
    "ranges ignored": Fault(_zenodo_set(cut={NAME: [200_000]}, ignore_range=True)),
    "record hangs once": Fault(_zenodo_set(hang={"/api/records/77": 1})),
    "record hangs": Fault(_zenodo_set(hang={"/api/records/77": FOR_EVER}), True, ("no answer",)),
    "file hangs once": Fault(_zenodo_set(hang={"/content": 1})),
    "file hangs": Fault(_zenodo_set(hang={"/content": FOR_EVER}), True, ("no answer",)),
    "file stalls in its middle": Fault(_zenodo_set(stall={NAME: 200_000}), True),
    "hostile name": Fault(_zenodo_set(files={"../../x.nwb": b"x"}), True, ("nothing was written",)),
    "announced size too small": Fault(_zenodo_set(said={NAME: {"size": 399_000}}), True, ("announced",)),
}


def _zenodo_fault(fault: Fault, cli: Cli, folder: Path) -> None:
    body = BYTES[BIG][:400_000]
    with ZenodoServer({NAME: body}, record="77") as server:
        fault.sets(server)
        words = ("zenodo:77", "--api-url", server.api_url)
        _twice(cli, folder, fault, words, "zenodo/77", {NAME: body}, lambda: _mend_zenodo(server, body))


def _mend_zenodo(server: ZenodoServer, body: bytes) -> None:
    server.release.set()
    kinds = {"cut": {}, "status": {}, "corrupt": {}, "stall": {}, "said": {}, "hang": {}}
    vars(server).update(kinds, ignore_range=False, files={NAME: body})


def _url_set(**values: object) -> Callable[[DandiServer], None]:
    return lambda server: [setattr(server.faults, key, value) for key, value in values.items()]


AT = f"/{NAME}"
URL = {
    "cut once": Fault(_url_set(cut={AT: [200_000]})),
    "cut twice": Fault(_url_set(cut={AT: [200_000, 50_000]})),
    "hangs once": Fault(_url_set(hang={AT: 1})),
    "hangs": Fault(_url_set(hang={AT: FOR_EVER}), True, ("no answer",)),
    "stalls in its middle": Fault(_url_set(stall={AT: 200_000}), True),
    "gone": Fault(lambda server: server.plain.clear(), True, ("404",)),
    "no NWB": Fault(lambda server: server.plain.update({AT: b"<html>sign in</html>" * 999}), True, ("no NWB",)),
    "replaced while it was cut": Fault(lambda server: _url_set(cut={AT: [200_000]})(server) and _renew(server)),
    "ranges ignored": Fault(_url_set(cut={AT: [200_000]}, ignore_range=True)),
}


def _renew(server: DandiServer) -> None:
    server.validators[AT] = ("ETag", '"two"')


def _url_fault(fault: Fault, cli: Cli, folder: Path) -> None:
    from tests.nwb_files import write_plain

    body = write_plain(folder / "made.nwb").read_bytes() + bytes(300_000)
    with DandiServer({}) as server:
        server.plain, server.validators = {AT: body}, {AT: ("ETag", '"one"')}
        fault.sets(server)

        def mend() -> None:
            server.release.set()
            server.faults, server.plain = type(server.faults)(), {AT: body}

        _twice(cli, folder, fault, (f"{server.root}{AT}",), "url", {NAME: body}, mend)


def _twice(
    cli: Cli,
    folder: Path,
    fault: Fault,
    words: tuple[str, ...],
    below: str,
    right: dict[str, bytes],
    mend: Callable[[], None],
) -> None:
    first = fetch(cli, folder, *words)
    first.refuses(*fault.words) if fault.fails else first.succeeds(*fault.words)
    assert finals(folder, below) == ({} if fault.fails else right), "half a file, or one too few"
    assert not list(folder.rglob("x.nwb"))
    mend()
    fetch(cli, folder, *words).succeeds()
    assert finals(folder, below) == right
