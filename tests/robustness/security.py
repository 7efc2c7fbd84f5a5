"""Files that name other files, run code, write elsewhere or speak to the terminal: none gets what it asks for.

A file may be refused by its name, or what leads elsewhere is left out; what comes into the store is never what lies
outside of the file's folder. The secret is a number that no other file holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import threading
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import h5py
import numpy as np

from tests.dandi_server import DandiServer
from tests.nwb_files import write_plain
from tests.robustness import Case, Cli

DATA = "processing/behavior/hand_vel/data"
N, SECRET = 50, 4242.625
PREFIXES = ("HDF5_EXTFILE_PREFIX", "HDF5_VDS_PREFIX", "HDF5_EXT_PREFIX", "HDF5_EFILE_PREFIX", "HDF5_ELINK_PREFIX")
Elsewhere = Callable[[h5py.File, Path], None]  # makes DATA anew; the secret folder is given


def cases(count: int | None) -> list[Case]:
    made = [Case(f"behaviour {name}", partial(_read_elsewhere, change)) for name, change in ELSEWHERE.items()]
    made += [Case(name, run) for name, run in OTHERS.items()]
    made += [Case(f"an asset named {path!r}", partial(_asset, path)) for path in PATHS]
    return made[:count]


# ---- values that lie elsewhere --------------------------------------------------------------------------------------


def _read_elsewhere(change: Elsewhere, cli: Cli, folder: Path) -> None:
    """The secret lies beside the folder of the file; nothing of it comes into the store, and verify finds it equal."""
    outside, home = folder / "private", folder / "data"
    outside.mkdir(), home.mkdir()
    values = np.full((N, 2), SECRET)
    values.tofile(outside / "raw.bin")
    with h5py.File(outside / "secret.h5", "w") as file:
        file["x"] = values
    path = write_plain(home / "a.nwb")
    with h5py.File(path, "a") as file:
        attributes = dict(file[DATA].attrs)
        del file[DATA]
        change(file, outside)
        with contextlib.suppress(KeyError, OSError):
            if isinstance(file.get(DATA, getlink=True), h5py.HardLink):
                file[DATA].attrs.update(attributes)
    env = dict.fromkeys(PREFIXES, str(outside)) if "prefix" in change.__name__ else {}
    _expect_kept_out(cli, path, folder, env)


def _expect_kept_out(cli: Cli, path: Path, root: Path, env: dict[str, str]) -> None:
    told = cli("ingest", path, root=root, env=env).sane()
    if told.code:
        assert path.name in told.text, f"the file is not named: {told}"
        assert str(SECRET) not in told.text
        return
    cli("verify", root=root, env=env).succeeds()
    cli("export", "local/a", "--to", "nwb", "--out", root / "out", root=root).succeeds()
    with h5py.File(root / "out/local/a.nwb") as file:
        found: list[str] = []

        def look(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and (item[()] == SECRET).any():
                found.append(name)

        file.visititems(look)
    assert not found, f"{found[0]} of the store holds what lies outside of the file's folder"


def _external(name: str) -> Elsewhere:
    def change(file: h5py.File, outside: Path) -> None:
        place = name.format(outside=outside)
        file.create_dataset(DATA, (N, 2), "f8", external=[(place, 0, 16 * N)])

    return change


def _virtual(name: str) -> Elsewhere:
    def change(file: h5py.File, outside: Path) -> None:
        layout = h5py.VirtualLayout((N, 2), "f8")
        layout[:] = h5py.VirtualSource(name.format(outside=outside), "x", (N, 2))
        file.create_virtual_dataset(DATA, layout)

    return change


def _link(name: str) -> Elsewhere:
    def change(file: h5py.File, outside: Path) -> None:
        file[DATA] = h5py.ExternalLink(name.format(outside=outside), "/x")

    return change


def _near(file: h5py.File) -> Path:
    return Path(file.filename).parent / "near.h5"


def _by_prefix_external(file: h5py.File, outside: Path) -> None:
    _external("raw.bin")(file, outside)


def _by_prefix_virtual(file: h5py.File, outside: Path) -> None:
    _virtual("secret.h5")(file, outside)


def _by_prefix_link(file: h5py.File, outside: Path) -> None:
    _link("secret.h5")(file, outside)


def _symlink_external(file: h5py.File, outside: Path) -> None:
    (Path(file.filename).parent / "raw.bin").symlink_to(outside / "raw.bin")
    _external(str(Path(file.filename).parent / "raw.bin"))(file, outside)


def _symlink_link(file: h5py.File, outside: Path) -> None:
    _near(file).symlink_to(outside / "secret.h5")
    _link("near.h5")(file, outside)


def _chain(change: Elsewhere) -> Elsewhere:
    """A link to a file of the folder, whose dataset is what the change makes."""

    def chained(file: h5py.File, outside: Path) -> None:
        with h5py.File(_near(file), "w") as near:
            change(near, outside)
        file[DATA] = h5py.ExternalLink("near.h5", f"/{DATA}")

    return chained


def _soft(file: h5py.File, outside: Path) -> None:
    file["scratch"] = h5py.ExternalLink("../private/secret.h5", "/")
    file[DATA] = h5py.SoftLink("/scratch/x")


def _linked_group(file: h5py.File, outside: Path) -> None:
    """The whole series lies outside, as a good one."""
    with h5py.File(outside / "series.h5", "w") as other:
        file.copy("processing/behavior/hand_vel", other, "hand_vel")
        other["hand_vel/data"] = np.full((N, 2), SECRET)
    del file["processing/behavior/hand_vel"]
    file["acquisition/hand_vel"] = h5py.ExternalLink("../private/series.h5", "/hand_vel")


ELSEWHERE: dict[str, Elsewhere] = {
    "in external storage, absolute": _external("{outside}/raw.bin"),
    "in external storage, climbing": _external("../private/raw.bin"),
    "in external storage, climbing from the root": _external("private/raw.bin"),
    "in external storage by a prefix": _by_prefix_external,
    "in external storage over a symlink": _symlink_external,
    "in a virtual dataset, absolute": _virtual("{outside}/secret.h5"),
    "in a virtual dataset, climbing": _virtual("../private/secret.h5"),
    "in a virtual dataset by a prefix": _by_prefix_virtual,
    "by a link, absolute": _link("{outside}/secret.h5"),
    "by a link, climbing": _link("../private/secret.h5"),
    "by a link with a prefix": _by_prefix_link,
    "by a link over a symlink": _symlink_link,
    "by a link to a link": _chain(_link("../private/secret.h5")),
    "by a link to external storage": _chain(_external("{outside}/raw.bin")),
    "by a link to a virtual dataset": _chain(_virtual("{outside}/secret.h5")),
    "by a soft link over a link": _soft,
    "as a linked series of the acquisition": _linked_group,
}


# ---- one by one -----------------------------------------------------------------------------------------------------


def _missing_virtual(cli: Cli, folder: Path) -> None:
    """HDF5 gives zeros for sources that are gone: no behaviour of zeros comes into the store."""
    path = write_plain(folder / "a.nwb")
    with h5py.File(path, "a") as file:
        attributes = dict(file[DATA].attrs)
        del file[DATA]
        _virtual("gone.h5")(file, folder)
        file[DATA].attrs.update(attributes)
    cli("ingest", path, root=folder).refuses("a.nwb", DATA)


def _linked_inside(cli: Cli, folder: Path) -> None:
    """A link within the folder is refused, or said; then another file in its place is noticed by verify and ingest."""
    path = write_plain(folder / "a.nwb")
    for scale in (1, 2):
        with h5py.File(folder / "near.h5", "w") as near:
            near["x"] = scale * np.random.default_rng(7).normal(size=(N, 2))
            near["x"].attrs["unit"] = "mm/s"
        if scale == 1:
            with h5py.File(path, "a") as file:
                del file[DATA]
                file[DATA] = h5py.ExternalLink("near.h5", "/x")
            told = cli("ingest", path, root=folder).sane()
            if told.code:
                assert "a.nwb" in told.text
                return
            cli("inspect", "local/a", root=folder).succeeds("near.h5")
            cli("verify", root=folder).succeeds()
    cli("verify", root=folder).refuses("near.h5")
    cli("verify", "--quick", root=folder).sane()
    cli("ingest", path, root=folder).succeeds("replaced")
    cli("verify", root=folder).succeeds()


def _circles(cli: Cli, folder: Path) -> None:
    path = write_plain(folder / "a.nwb")
    with h5py.File(path, "a") as file:
        behavior = file["processing/behavior"]
        behavior["again"] = behavior
        behavior["up"] = file["/"]
        behavior["one"], behavior["two"] = (h5py.SoftLink(f"/processing/behavior/{to}") for to in ("two", "one"))
        behavior["out"] = h5py.ExternalLink("b.h5", "/back")
    with h5py.File(folder / "b.h5", "w") as other:
        other["back"] = h5py.ExternalLink("a.nwb", "/processing/behavior/out")
    told = cli("ingest", path, root=folder).sane()
    assert told.code == 0 or "a.nwb" in told.text


def _deep(cli: Cli, folder: Path) -> None:
    path = write_plain(folder / "a.nwb")
    with h5py.File(path, "a") as file:
        group = file["processing/behavior"]
        for _ in range(5000):
            group = group.create_group("g")
    cli("ingest", path, root=folder).sane()
    cli("inspect", path, root=folder).sane()


def _own_link(cli: Cli, folder: Path) -> None:
    path = write_plain(folder / "a.nwb")
    with h5py.File(path, "a") as file:
        del file[DATA]
        file[DATA] = h5py.ExternalLink("near.h5", "/x")
    message = b"\x01\x08\x40\x04data"
    content = path.read_bytes()
    assert content.count(message) == 1
    path.write_bytes(content.replace(message, b"\x01\x08\x51\x04data"))
    cli("ingest", path, root=folder).refuses("a.nwb")


def _references(cli: Cli, folder: Path) -> None:
    path = write_plain(folder / "a.nwb")
    with h5py.File(path, "a") as file:
        trials = file["intervals/trials"]
        region = file[DATA].regionref[0:3]
        trials.create_dataset("region", data=[region] * 3, dtype=h5py.regionref_dtype)
        trials.create_dataset("gone", data=[h5py.Reference()] * 3, dtype=h5py.ref_dtype)
        trials.attrs["colnames"] = [*trials.attrs["colnames"], "region", "gone"]
    cli("ingest", path, root=folder).sane()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _phy(folder: Path, params: str = "sample_rate = 30000.\n") -> Path:
    phy = folder / "phy"
    phy.mkdir()
    (phy / "params.py").write_text(params)
    np.save(phy / "spike_times.npy", np.arange(100, dtype=np.int64) * 300)
    np.save(phy / "spike_clusters.npy", np.arange(100, dtype=np.int32) % 3)
    return phy


def _params(cli: Cli, folder: Path) -> None:
    mark = folder / "ran"
    phy = _phy(folder, f"sample_rate = 30000.\ndat_path = open({str(mark)!r}, 'w').name\n")
    cli("ingest", phy, "--sorter", "phy", root=folder).refuses("params.py")
    assert not mark.exists(), "params.py was run"


def _pickled_spikes(cli: Cli, folder: Path) -> None:
    mark, phy = folder / "ran", _phy(folder)
    np.save(phy / "spike_times.npy", np.array([_Touch(mark)], object), allow_pickle=True)
    cli("ingest", phy, "--sorter", "phy", root=folder).refuses("spike_times.npy")
    assert not mark.exists(), "a pickle was run"


def _pickled_truth(cli: Cli, folder: Path) -> None:
    mark = folder / "ran"
    np.savez(folder / "a_truth.npz", x=np.array([_Touch(mark)], object))
    cli("inspect", folder / "a_truth.npz", root=folder).sane()
    assert not mark.exists(), "a pickle was run"


def _zarr(folder: Path) -> Path:
    """A folder that hdmf-zarr wrote of the plain file."""
    from hdmf_zarr.nwb import NWBZarrIO
    from pynwb import NWBHDF5IO

    path, target = write_plain(folder / "one.nwb"), folder / "data" / "a.nwb.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with NWBHDF5IO(str(path), "r") as source, NWBZarrIO(str(target), "w") as io:
            io.export(src_io=source, write_args={"link_data": False})
    path.unlink()
    (target / ".zmetadata").unlink(missing_ok=True)
    return target


def _zarr_link(cli: Cli, folder: Path) -> None:
    path = _zarr(folder)
    os.rename(path, folder / "private.zarr")
    shutil.copytree(folder / "private.zarr", path)
    series = path / "processing/behavior"
    attributes = json.loads((series / ".zattrs").read_text())
    link = {"name": "far", "path": "/processing/behavior/hand_vel", "source": "../../private.zarr"}
    (series / ".zattrs").write_text(json.dumps(attributes | {"zarr_link": [link]}))
    cli("ingest", path, root=folder).refuses("a.nwb.zarr", "private.zarr")


def _zarr_symlink(cli: Cli, folder: Path) -> None:
    path = _zarr(folder)
    data = path / DATA
    chunk = next(p for p in data.iterdir() if not p.name.startswith("."))
    os.rename(chunk, folder / "private.bin")
    chunk.symlink_to(folder / "private.bin")
    cli("ingest", path, root=folder).refuses("a.nwb.zarr")


def _zarr_pickle(cli: Cli, folder: Path) -> None:
    path, mark = _zarr(folder), folder / "ran"
    data = path / "intervals/trials/side"
    facts = json.loads((data / ".zarray").read_text())
    facts |= {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": None}
    (data / ".zarray").write_text(json.dumps(facts))
    for chunk in [p for p in data.iterdir() if not p.name.startswith(".")]:
        chunk.write_bytes(pickle.dumps(_Touch(mark)))
    cli("ingest", path, root=folder).refuses("a.nwb.zarr")
    assert not mark.exists(), "a pickle was run"


def _zip(cli: Cli, folder: Path) -> None:
    """A zip where a source is expected writes nothing."""
    path = folder / "data" / "a.nwb.zarr.zip"
    path.parent.mkdir()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as file:
        for name in ("../slipped", f"{folder}/slipped", ".zgroup", ".zgroup", "../../slipped"):
            file.writestr(name, '{"zarr_format": 2}')
    cli("ingest", path, root=folder).refuses("a.nwb.zarr.zip")
    (path.parent / "b.nwb").write_bytes(path.read_bytes())
    cli("ingest", path.parent, root=folder).refuses("b.nwb")
    assert not list(folder.rglob("slipped"))


def _store_zip(cli: Cli, folder: Path) -> None:
    """A store's own zip, exchanged for one that climbs and holds a name twice."""
    cli("ingest", write_plain(folder / "a.nwb"), root=folder).succeeds()
    arrays = folder / "store/local/a/arrays.zip"
    with zipfile.ZipFile(arrays) as before:
        held = {name: before.read(name) for name in before.namelist()}
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(arrays, "w") as after:
        for name, content in [*held.items(), *held.items(), ("../slipped", b"x")]:
            after.writestr(name, content)
    for command in (["inspect", "local/a"], ["verify"], ["tokenize", "--scheme", "per-spike"]):
        assert cli(*command, root=folder).sane().code == 1
    assert not list(folder.rglob("slipped"))


ESCAPES = "\x1b]0;title\x07\x1b[2J\rover\u202eback\u2066"


def _clean(text: str) -> None:
    raw = {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf")}
    assert not raw, f"printed raw: {sorted(map(ascii, raw))}"


def _terminal(cli: Cli, folder: Path) -> None:
    """Escapes in texts, names of signals, columns and units are shown, not obeyed."""
    path = write_plain(folder / "a.nwb")
    with h5py.File(path, "a") as file:
        del file["session_description"]
        file["session_description"] = f"plain {ESCAPES}"
        file.move("processing/behavior/hand_vel", f"processing/behavior/vel{ESCAPES}")
        file["processing/behavior"].create_group(f"left{ESCAPES}").create_dataset("timestamps", data=["a", "b"])
        file["intervals/trials"].move("side", f"side{ESCAPES}")
        file["intervals/trials"].attrs["colnames"] = [f"side{ESCAPES}"]
    for command in (["ingest", path], ["inspect", path], ["inspect", "local/a"], ["verify"], ["splits"]):
        told = cli(*command, root=folder).sane()
        _clean(told.text)


def _terminal_file_name(cli: Cli, folder: Path) -> None:
    name = f"a\x1b[2J\r\u202e{'b'}.nwb"
    (folder / name).write_bytes(b"no HDF5")
    _clean(cli("ingest", name, root=folder).refuses().text)
    write_plain(folder / name)
    _clean(cli("ingest", name, root=folder).sane().text)
    _clean(cli("inspect", root=folder).sane().text)


@contextlib.contextmanager
def _server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _credentials(cli: Cli, folder: Path) -> None:
    """User, password and signature of an address are in nothing that is printed or kept; nor of one to ingest."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(403)
        handler.end_headers()

    with _server(answer) as url:
        address = url.replace("//", "//someone:s3cr3t@") + "/a.nwb?X-Amz-Signature=t0ps3cret&token=t0ken"
        told = cli("fetch", address, "--download-only", root=folder).sane()
        ingested = cli("ingest", address, root=folder).sane()
    assert told.code and ingested.code
    kept = told.text + ingested.text
    kept += "".join(f"{p.name} {p.read_text(errors='replace')}" for p in folder.rglob("*") if p.is_file())
    found = [word for word in ("s3cr3t", "t0ps3cret", "t0ken") if word in kept]
    assert not found, f"{found} of the address is in what was printed or kept: {told}"


def _redirect(cli: Cli, folder: Path) -> None:
    """A server that sends the client to a file of this machine."""
    secret = write_plain(folder / "private.nwb")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"file://{secret}")
        handler.end_headers()

    with _server(answer) as url:
        told = cli("fetch", f"{url}/a.nwb", "--download-only", root=folder).sane()
    assert told.code
    assert not [p for p in (folder / "raw").rglob("*.nwb") if p.is_file()]


def _disposition(cli: Cli, folder: Path) -> None:
    """The name is that of the address, whatever a header says."""
    body = write_plain(folder / "good.nwb").read_bytes()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Content-Disposition", 'attachment; filename="../../evil.nwb"')
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    with _server(answer) as url:
        cli("fetch", f"{url}/sub%2f..%2f..%2fx.nwb", "--download-only", root=folder).sane()
    inside = {p for p in folder.rglob("*.nwb") if (folder / "raw") in p.parents}
    assert {p.name for p in folder.rglob("*.nwb") if p not in inside} == {"good.nwb"}
    assert not any("evil" in p.name for p in inside)


def _page(cli: Cli, folder: Path) -> None:
    """Names of signals and units go into a report as text."""
    script = "<script>alert(1)</script>$\\frac{"
    rng = np.random.default_rng(3)
    path = write_plain(folder / "a.nwb", [np.sort(rng.uniform(0, 60, 300)) for _ in range(4)])
    name = script.replace("/", "")
    with h5py.File(path, "a") as file:
        series = file["processing/behavior/hand_vel"]
        for part, values in (("data", rng.normal(size=(3000, 2))), ("timestamps", np.arange(3000) * 0.02)):
            attributes = dict(series[part].attrs)
            del series[part]
            series[part] = values
            series[part].attrs.update(attributes)
        series.attrs["comments"] = f"columns=[{script},y]"
        file.move("processing/behavior/hand_vel", f"processing/behavior/{name}")
        ids = file["units/id"].shape[0]
        file["units"].create_dataset("label", data=[script] * ids)
    cli("ingest", path, root=folder).succeeds()
    cli("tokenize", "--scheme", "binned", root=folder).succeeds()
    if cli("train", "--model", "linear", root=folder).code:
        return
    run = next((folder / "runs").iterdir()).name
    cli("eval-xsession", run, "--protocols", "zero_shot", root=folder).sane()
    for page in folder.rglob("*.html"):
        assert "<script>alert(1)" not in page.read_text()


OTHERS: dict[str, Callable[[Cli, Path], None]] = {
    "a virtual dataset whose sources are gone": _missing_virtual,
    "a link within the folder, then another file there": _linked_inside,
    "links and groups in circles": _circles,
    "five thousand groups deep": _deep,
    "a link of a kind of its own": _own_link,
    "references to regions and to nothing": _references,
    "params.py that runs code": _params,
    "spike times that are a pickle": _pickled_spikes,
    "a truth that is a pickle": _pickled_truth,
    "a zarr folder that links into another": _zarr_link,
    "a zarr folder with a chunk elsewhere": _zarr_symlink,
    "a zarr folder with a pickle": _zarr_pickle,
    "a zip that climbs, as a source": _zip,
    "a zip that climbs, in the store": _store_zip,
    "terminal escapes in texts": _terminal,
    "terminal escapes in a file's name": _terminal_file_name,
    "credentials in an address": _credentials,
    "a redirect to a local file": _redirect,
    "a name in a header": _disposition,
    "a script in a name, in the report": _page,
}


# ---- assets ---------------------------------------------------------------------------------------------------------

PATHS = (
    *("../up.nwb", "sub/../../up.nwb", "/tmp/abs.nwb", "C:\\drive.nwb", "c:/drive.nwb", "a\\..\\..\\back.nwb"),
    *("sub//two.nwb", "./dot.nwb", "sub/line\nfeed.nwb", "sub/esc\x1b[2J.nwb", "sub/bidi\u202e.nwb"),
)


def _asset(path: str, cli: Cli, folder: Path) -> None:
    """An archive that names a file so is refused before anything is written."""
    body = write_plain(folder / "good.nwb").read_bytes()
    with DandiServer({path: body}) as server:
        told = cli("fetch", "000140", "--api-url", server.api_url, "--download-only", root=folder).sane()
    _clean(told.text)
    assert told.code, str(told)
    written = [p for p in folder.rglob("*.nwb") if p.name != "good.nwb"]
    assert not written, f"{written[0]} was written"
