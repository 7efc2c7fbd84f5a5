"""Files of torch_brain: damaged by chance, hostile, or of odd types and shapes; ``ingest``, ``inspect`` and ``verify``.

Each is refused in a line that names it, or comes into the store, where ``verify`` can make the same session again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from tests.fuzzing import damaged
from tests.layouts import bwb
from tests.robustness import Case, Cli
from tests.robustness.bounds import HUGE, Change, declared, packed

FUZZED = 40
SPIKES, WHEEL, TRIALS = "spikes", "wheel", "trials"


def written(path: Path) -> Path:
    bwb.write(path, seed=11, n_units=4, n_trials=18)
    return path


def put(place: str, value: object, **how: object) -> Change:
    """Another dataset in the place of one, with its attributes."""

    def change(file: h5py.File) -> None:
        said = dict(file[place].attrs) if place in file else {}
        if place in file:
            del file[place]
        file.create_dataset(place, data=value, **how)
        file[place].attrs.update(said)

    return change


def told(place: str, name: str, value: object) -> Change:
    return lambda file: file[place].attrs.__setitem__(name, value)


def like(place: str, change: Callable[[np.ndarray], object]) -> Change:
    return lambda file: put(place, change(file[place][()]))(file)


def outside(file: h5py.File) -> None:
    """Values of a file beside it, through HDF5's external storage."""
    Path(file.filename).with_name("secret.bin").write_bytes(bytes(8 * 50))
    del file["wheel/wheel_vel"]
    kept = [("../" * 8 + "etc/passwd", 0, 400)]
    file.create_dataset("wheel/wheel_vel", (50,), "f8", external=kept)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((len(file["wheel/wheel_speed"]),), "f8")
    layout[:] = h5py.VirtualSource("/etc/hostname.h5", "x", layout.shape)
    del file["wheel/wheel_speed"]
    file.create_virtual_dataset("wheel/wheel_speed", layout)


def many(n: int, place: str) -> Change:
    def change(file: h5py.File) -> None:
        like_it = file.get(place)
        for k in range(n):
            if like_it is None:
                bwb.data(file, f"g{k}")
            else:
                like_it.create_dataset(f"c{k}", data=like_it[next(iter(like_it))][:])

    return change


def deep(file: h5py.File) -> None:
    group = file["/"]
    for _ in range(3000):
        group = bwb.data(group, "g")


HOSTILE: dict[str, Change] = {
    "an external link": lambda file: file.__setitem__("wheel2", h5py.ExternalLink("/etc/hosts.h5", "/")),
    "external storage": outside,
    "a virtual dataset": virtual,
    "a group in itself": lambda file: file["wheel"].__setitem__("again", file["/"]),
    "soft links in a circle": lambda file: [
        file.__setitem__(one, h5py.SoftLink(f"/{other}")) for one, other in (("up", "down"), ("down", "up"))
    ],
    "spike times of zeros": packed(f"{SPIKES}/timestamps", (HUGE,)),
    "spike times declared": declared(f"{SPIKES}/timestamps", (10**10,)),
    "unit rows of zeros": packed(f"{SPIKES}/unit_index", (HUGE,), "i8"),
    "samples of zeros": packed(f"{WHEEL}/wheel_speed", (HUGE,)),
    "a trial column of zeros": packed(f"{TRIALS}/choice", (HUGE,), "i8"),
    "unit ids of zeros": packed("units/id", (HUGE,), "S36"),
    "a units column of 2 GB": packed("units/location", (4, 2**26)),
    "ids of 300 MB": lambda file: declared("units/id", (4,), f"S{3 * 10**8}")(file),
    "10 thousand trial columns": many(10**4, TRIALS),
    "20 thousand groups": many(2 * 10**4, "nothing"),
    "3 thousand groups deep": deep,
    "unit rows as float": like(f"{SPIKES}/unit_index", lambda value: value + 0.5),
    "unit rows as text": like(f"{SPIKES}/unit_index", lambda value: value.astype("S")),
    "unit rows as uint64 beyond": like(f"{SPIKES}/unit_index", lambda value: value.astype(np.uint64) + 2**63),
    "unit rows negative": like(f"{SPIKES}/unit_index", lambda value: value - 2),
    "spike times as text": like(f"{SPIKES}/timestamps", lambda value: value.astype("S")),
    "spike times as complex": like(f"{SPIKES}/timestamps", lambda value: value * 1j),
    "spike times in two dimensions": like(f"{SPIKES}/timestamps", lambda value: value[:, None]),
    "spike times as one number": put(f"{SPIKES}/timestamps", 3.0),
    "spike times of NaN": like(f"{SPIKES}/timestamps", lambda value: value * np.nan),
    "spike times of 1e300": like(f"{SPIKES}/timestamps", lambda value: value + 1e300),
    "spike times in ms": like(f"{SPIKES}/timestamps", lambda value: value * 1e6),
    "spike times that begin again": like(f"{SPIKES}/timestamps", lambda value: np.tile(value[: len(value) // 2], 3)),
    "spike times of compounds": put(f"{SPIKES}/timestamps", np.zeros(9, [("a", "f8"), ("b", "i4")])),
    "spike times of references": lambda file: put(f"{SPIKES}/timestamps", np.array([file.ref] * 3, h5py.ref_dtype))(
        file
    ),
    "a rate of NaN": told(WHEEL, "sampling_rate", np.nan),
    "a rate of 0": told(WHEEL, "sampling_rate", 0.0),
    "a negative rate": told(WHEEL, "sampling_rate", -50.0),
    "a rate of 1e300": told(WHEEL, "sampling_rate", 1e300),
    "a rate of 1e-300": told(WHEEL, "sampling_rate", 1e-300),
    "a rate as text": told(WHEEL, "sampling_rate", "fifty"),
    "a rate as a list": told(WHEEL, "sampling_rate", [50.0, 60.0]),
    "a class that is a number": told(WHEEL, "object", 7),
    "a class that is a list": told(WHEEL, "object", ["Data", "Interval"]),
    "a class that is no text": told(WHEEL, "object", np.bytes_(b"\xff\xfe\x00\x01")),
    "a class of no other": told(WHEEL, "object", "Spectrogram"),
    "a series without a domain": lambda file: file[WHEEL].__delitem__("domain"),
    "a domain that ends before it starts": put("domain/end", [-5.0]),
    "a domain of NaN": put("domain/start", [np.nan]),
    "a domain of infinity": put("domain/end", [np.inf]),
    "a domain of 30 years": put("domain/end", [1e9]),
    "a split of 1e300": put("ts1_test_domain/end", [1e300]),
    "trials that end before": like(f"{TRIALS}/end", lambda value: value - 1e3),
    "trial starts as text": like(f"{TRIALS}/start", lambda value: value.astype("S")),
    "labels of 1e18": like(f"{TRIALS}/choice", lambda value: value + 10**18),
    "labels of NaN": like(f"{TRIALS}/choice", lambda value: value * np.nan),
    "samples as objects": put(f"{WHEEL}/wheel_speed", [b"a", b"bb"], dtype=h5py.string_dtype()),
    "no spikes": lambda file: file.__delitem__(SPIKES),
    "no units": lambda file: file.__delitem__("units"),
    "twice the same unit": like("units/id", lambda value: np.repeat(value[:1], len(value))),
    "a name with a newline and an escape": lambda file: file.move(WHEEL, "whe\nel\x1b[31m"),
    "a subject of a megabyte": told("subject", "id", "m" * 60_000),
    "a subject with an escape": told("subject", "id", "\x1b]0;m\x07\n../x"),
    "our own group of garbage": lambda file: file.create_group("spiketok").create_dataset(
        "session", data=np.frombuffer(b"\xff\xfe\x00{", np.uint8)
    ),
    "our own group of brackets": lambda file: file.create_group("spiketok").create_dataset(
        "session", data=np.frombuffer(b"[" * 10**5 + b"]" * 10**5, np.uint8)
    ),
    "our own group of 1 GB": lambda file: packed("spiketok/session", (HUGE,), "u1")(file),
    "our own group as a dataset": lambda file: file.__setitem__("spiketok", np.zeros(3)),
}


def cases(count: int | None = None) -> list[Case]:
    made = [Case(name, partial(_read, change)) for name, change in HOSTILE.items()]
    made += [Case(f"seed {seed}", partial(_damaged, seed)) for seed in range(FUZZED)]
    return made[:count]


def _read(change: Change, cli: Cli, folder: Path) -> None:
    path = written(folder / "bad.h5")
    with h5py.File(path, "a") as file:
        change(file)
    _met(cli, folder, path)


def _damaged(seed: int, cli: Cli, folder: Path) -> None:
    path = written(folder / "good.h5")
    done, content = damaged(path.read_bytes(), seed)
    path = folder / "bad.h5"
    path.write_bytes(content)
    _met(cli, folder, path, done)


def _met(cli: Cli, folder: Path, path: Path, done: str = "") -> None:
    outcome = cli("ingest", path, root=folder).sane()
    if outcome.code:
        assert path.name in outcome.text, f"{done}: the file is not named: {outcome}"
        assert not list((folder / "store").glob("*/*")), f"{done}: something is left in the store: {outcome}"
    looked = cli("inspect", path, root=folder).sane()
    assert looked.code == outcome.code, f"{done}: ingest ended with {outcome.code}: {looked}"
    if outcome.code == 0:
        cli("verify", root=folder).succeeds("equal")
    assert "\x1b" not in outcome.text + looked.text, f"{done}: an escape reaches the terminal: {outcome}"
