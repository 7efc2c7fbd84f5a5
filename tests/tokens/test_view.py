"""The page of a session: one file, well formed, with the session's own spikes; held to its cap; safe against names."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, UnitTable
from spiketok.storage.clock import ns_from_ticks
from spiketok.tokens.schemes import SCHEMES
from spiketok.tokens.view import Extra, Labels, Trace, write_page
from spiketok.tokens.view.layers import LAYERS
from spiketok.tokens.view.packing import varints
from tests.made import MS, SECOND, random_session, shard

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """The elements of a page; every one that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.facts = json.loads(self.scripts["facts"])

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts[dict(attrs).get("id", "script")] = ""
            self.last = dict(attrs).get("id", "script")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.last] += data

    def raw(self, ref) -> bytes:
        return gzip.decompress(base64.b64decode(self.scripts[f"b{ref['blob']}"]))

    def rising(self, ref) -> np.ndarray:
        value, out, place, raw = ref["first"], [], 0, self.raw(ref)
        while place < len(raw):
            step = shift = 0
            while True:
                step |= (raw[place] & 127) << shift
                shift, place = shift + 7, place + 1
                if raw[place - 1] < 128:
                    break
            value += step
            out.append(value)
        assert len(out) == ref["n"]
        return np.array(out, np.int64)

    def whole(self, ref) -> np.ndarray:
        return np.frombuffer(self.raw(ref), f"<{ref['kind']}")

    def floats(self, ref) -> np.ndarray:
        planes = np.frombuffer(self.raw(ref), np.uint8).reshape(4, -1)
        return np.ascontiguousarray(planes.T).view("<f4").reshape(-1)

    def spikes(self) -> tuple[np.ndarray, np.ndarray]:
        spikes = self.facts["spikes"]
        return ns_from_ticks(self.rising(spikes["tick"]), Fraction(*spikes["period_ns"])), self.whole(spikes["unit"])


def page_of(session: Session, folder, extra: Extra | None = None, **options) -> tuple[Page, object]:
    written = write_page(session, folder / "page.html", extra, **options)
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert written.nbytes == len(text.encode())
    return Page(text), written


def on_clock(session: Session) -> Session:
    time_ns = np.rint(np.rint(session.spikes.time_ns * 3e-5) * (1e9 / 30_000)).astype(np.int64)
    order = np.lexsort((session.spikes.unit, time_ns))
    return replace(session, spikes=Spikes(time_ns[order], session.spikes.unit[order]), clock_hz=30_000.0)


@pytest.mark.parametrize("made", [lambda s: s, on_clock, lambda s: replace(s, spikes=Spikes.from_units([[]] * 5))])
def test_a_page_parses_loads_nothing_and_holds_every_spike_to_the_ns(tmp_path, made):
    session = made(random_session("page", 1))
    page, written = page_of(session, tmp_path)
    assert written.whole and page.links == [] and not re.search(r"https?://|@import", "".join(page.scripts.values()))
    time_ns, unit = page.spikes()
    assert np.array_equal(time_ns, session.spikes.time_ns) and np.array_equal(unit, session.spikes.unit)
    assert page.facts["units"]["id"] == session.units.id.tolist()
    assert sum(page.facts["overview"]["total"]) == len(session.spikes)
    counts = page.whole(page.facts["overview"]["count"]).reshape(5, -1)
    assert counts.sum(axis=1).tolist() == np.bincount(session.spikes.unit, minlength=5).tolist()
    (name, signal), (shown,) = next(iter(session.signals.items())), page.facts["signals"]
    assert shown["name"] == name and np.array_equal(page.rising(shown["time"]), signal.time_ns)
    value = np.where(signal.valid[:, None], signal.value, np.nan)
    assert np.array_equal(page.floats(shown["value"]).reshape(value.shape), value.astype(np.float32), equal_nan=True)


def test_the_same_session_gives_the_same_bytes(tmp_path):
    session = random_session("twice", 2)
    first, second = (tmp_path / name for name in ("a.html", "b.html"))
    write_page(session, first)
    write_page(session, second)
    assert first.read_bytes() == second.read_bytes()


def test_a_cap_is_held_and_said(tmp_path):
    session = random_session("large", 3, n_units=8, seconds=60.0, rate_hz=150.0)
    whole = page_of(session, tmp_path)[1].nbytes
    empty = len(write_page(replace(session, spikes=Spikes.from_units([[]] * 8)), tmp_path / "e.html").path.read_bytes())
    cap = (whole + empty) // 2
    page, written = page_of(session, tmp_path, start_s=40.0, duration_s=5.0, max_bytes=cap)
    assert written.nbytes <= cap and not written.whole
    low, high = (round(edge * SECOND) for edge in page.facts["stretch"])
    assert low <= 40 * SECOND and high >= 45 * SECOND, "what is shown first is in detail"
    held = (session.spikes.time_ns >= low) & (session.spikes.time_ns < high)
    time_ns, unit = page.spikes()
    assert np.array_equal(time_ns, session.spikes.time_ns[held]) and np.array_equal(unit, session.spikes.unit[held])
    assert sum(page.facts["overview"]["total"]) == len(session.spikes)
    assert f"({held.sum():,} of {len(session.spikes):,}" in page.facts["detail"] and "--max-mb" in page.facts["detail"]
    with pytest.raises(UsageError, match=r"the cap is 20\.0 kB: raise --max-mb"):
        write_page(session, tmp_path / "none.html", max_bytes=20_000)
    assert not (tmp_path / "none.html").exists()
    with pytest.raises(UsageError, match=r"--start-s 90 lies outside of made/large, which is 0 \.\. 60 s"):
        write_page(session, tmp_path / "none.html", start_s=90.0)


def test_a_long_behaviour_that_does_not_fit_is_drawn_from_lowest_to_highest(tmp_path):
    session = random_session("samples", 4, seconds=60.0)
    value = np.cumsum(np.random.default_rng(0).normal(size=(150_000, 2)), axis=0).astype(np.float32)
    signal = Signal(np.arange(150_000) * 400_000, value, ("x", "y"), "mm", np.ones(150_000, np.bool_), 2500.0)
    session = replace(session, signals={"hand": signal})
    page, _ = page_of(session, tmp_path, start_s=20.0, max_bytes=700_000)
    (shown,) = page.facts["signals"]
    assert not shown["whole"]
    low, high = (page.floats(shown["envelope"][k]).reshape(-1, 2) for k in ("low", "high"))
    assert np.array_equal(low.min(axis=0), value.min(axis=0)) and np.array_equal(high.max(axis=0), value.max(axis=0))
    assert (low <= high).all()


HOSTILE = "</script><script>alert(1)</script><!--&amp;\u2028\"'"


def test_names_cannot_leave_their_place(tmp_path):
    base = random_session("x", 5)
    trials = Intervals([0, SECOND], [SECOND, 2 * SECOND], {HOSTILE: np.array([HOSTILE, "b"])})
    signal = next(iter(base.signals.values()))
    session = replace(
        base,
        id=f"made/{HOSTILE.replace('/', '')}",
        subject=HOSTILE,
        units=UnitTable([HOSTILE, *base.units.id[1:]], {HOSTILE: np.array([HOSTILE] * 5)}),
        signals={HOSTILE: replace(signal, components=(HOSTILE, "y"), measure=HOSTILE)},
        intervals={"trials": trials, HOSTILE: trials},
    )
    extra = Extra(
        bands={HOSTILE: {HOSTILE: Intervals([0], [SECOND])}},
        traces=[Labels(HOSTILE, HOSTILE, np.array([MS]), [HOSTILE], [HOSTILE])],
        facts={HOSTILE: HOSTILE},
    )
    page, _ = page_of(session, tmp_path, extra)
    plain, _ = page_of(base, tmp_path)
    n_scripts = len([name for name in page.scripts if name.startswith("b")]) + 2
    assert page.tags.count("script") == n_scripts == len(page.scripts)
    assert set(page.tags) == set(plain.tags), "no element that a page does not have anyway"
    assert page.facts["title"] == session.id and page.facts["units"]["id"][0] == HOSTILE


def test_the_script_puts_nothing_into_the_page_as_markup(tmp_path):
    page, _ = page_of(random_session("x", 6), tmp_path)
    script = page.scripts["script"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", script)


def test_codes_are_ticks_and_never_lines(tmp_path):
    session = random_session("codes", 7)
    time_ns = np.arange(100) * 20 * MS
    word = (np.arange(100) // 10 % 3).astype(np.float32)[:, None]
    signals = {**session.signals, "strobe": Signal(time_ns, word, ("w",), "", np.ones(100, np.bool_))}
    page, _ = page_of(replace(session, signals=signals), tmp_path)
    assert "strobe" not in {s["name"] for s in page.facts["signals"]}
    (codes,) = page.facts["codes"]
    assert codes["name"] == "strobe" and codes["label"] == ["0", "1", "2"] * 3 + ["0"]
    assert codes["time"] == [round(k * 0.2, 6) for k in range(10)]


def test_predictions_and_bands_are_in_the_page(tmp_path):
    session = random_session("p", 8)
    time_ns = np.arange(50) * 20 * MS
    said = np.linspace(-1, 1, 100, dtype=np.float32).reshape(50, 2)
    true = np.where(np.arange(100).reshape(50, 2) % 7 == 0, np.nan, said + 1).astype(np.float32)
    extra = Extra(
        bands={"division": {"test": Intervals([0], [2 * SECOND])}},
        traces=[Trace("decode:vel", "R2 0.5", "mm/s", ("x", "y"), time_ns, said, true)],
    )
    page, _ = page_of(session, tmp_path, extra)
    (shown,) = page.facts["predictions"]
    assert shown["score"] == "R2 0.5" and np.array_equal(page.rising(shown["time"]), time_ns)
    assert np.array_equal(page.floats(shown["said"]), said.reshape(-1))
    assert np.array_equal(page.floats(shown["truth"]), true.reshape(-1), equal_nan=True)
    assert page.facts["bands"][-1] == {"name": "division", "rows": [[0.0, 2.0, "test"]]}


def test_every_scheme_has_a_layer():
    assert set(LAYERS) == set(SCHEMES)


@pytest.mark.parametrize("name", ["binned", "patch", "quantized", "per-spike", "event-pair", "neuron", "fine-time"])
def test_a_layer_holds_the_spikes_of_its_windows(tmp_path, name):
    session = random_session("layer", 9)
    reader = shard(tmp_path / "shard", session, SCHEMES[name]())
    page, _ = page_of(session, tmp_path, Extra(shards=[reader]), start_s=2.0, duration_s=2.0)
    (layer,) = page.facts["tokens"]
    inside = np.zeros(len(session.spikes), np.bool_)
    for low, high in zip(layer["start"], layer["stop"], strict=True):
        inside |= (session.spikes.time_ns >= low * SECOND) & (session.spikes.time_ns < high * SECOND)
    per_unit = np.bincount(session.spikes.unit[inside], minlength=5)
    if "cells" in layer:
        cells = page.whole(layer["cells"]).reshape(layer["shape"])
        count = np.rint(cells / 255 * layer["most"]).sum(axis=(0, 1))[:5]
    else:
        mark = page.whole(layer["mark"])
        spike = mark == 0 if name == "per-spike" else np.ones(len(mark), np.bool_)
        count = np.bincount(page.whole(layer["row"])[spike], minlength=5)
    if name == "event-pair":  # one token a unit and step, and no more than fit
        assert 0 < count.sum() <= per_unit.sum()
    else:
        assert count.tolist() == per_unit.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**62 - 1), max_size=30))
def test_varints_come_back(values):
    raw, out, step, shift = varints(np.array(values, np.int64)), [], 0, 0
    for byte in raw:
        step |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            out.append(step)
            step = shift = 0
    assert out == values
