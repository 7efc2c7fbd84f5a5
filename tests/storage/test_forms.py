"""Forms of JSON artefacts: what is right passes, and one value of another kind is named by its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError
from spiketok.storage.files import write_signed
from spiketok.storage.forms import Each, Maybe, form_fault
from spiketok.storage.pushed import Pulled
from spiketok.storage.records import leaderboard_body, predictions_fault, report_body, star_body

FORM = {"name": str, "scores": Each(Each(Maybe(float))), "sessions": [{"id": str, "units": int, "earlier?": bool}]}
RIGHT = {
    "name": "x",
    "scores": {"a": {"r2": 0.5, "n": 3, "none": None}},
    "sessions": [{"id": "d/a", "units": 3}, {"id": "d/b", "units": 4, "earlier": False}],
    "more": [None],
}


def places(value: object, way: tuple = ()):
    if way:
        yield way
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from places(item, (*way, key))


other = st.sampled_from([None, True, -1, 10**30, 0.5, "x", "../" * 9, "y" * 5000, [], [[]], {}, {"a": 1}])


@given(way=st.sampled_from([w for w in places(RIGHT) if w[0] != "more"]), value=other)
def test_a_value_of_another_kind_is_named_by_its_place(way, value):
    facts = json.loads(json.dumps(RIGHT))
    holder = facts
    for key in way[:-1]:
        holder = holder[key]
    before, holder[way[-1]] = holder[way[-1]], value
    fault = form_fault(facts, FORM)
    if way in (("scores", "a", "r2"), ("scores", "a", "n"), ("scores", "a", "none")):
        fits = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    elif isinstance(before, dict | list):
        numbers = value == {} or (value == {"a": 1} and way == ("scores", "a"))
        fits = value == [] if way == ("sessions",) else numbers and way[0] == "scores"
    else:
        fits = type(value) is type(before)
    assert bool(fault) != fits, fault
    assert fits or ".".join(map(str, way)) in fault
    assert len(fault) < 300


def test_what_is_right_and_what_is_missing():
    assert form_fault(RIGHT, FORM) == ""
    assert form_fault({k: v for k, v in RIGHT.items() if k != "name"}, FORM) == "it does not say 'name'"
    assert form_fault([], FORM) == "it is a list, expected an object"


@pytest.mark.parametrize("value", [None, [None], 7, "x", True, {"files": None}])
def test_records_that_were_edited_and_signed_anew_are_refused_in_one_line(tmp_path, value):
    """Their digests hold; what they say is not what such a record says."""
    files = {name: tmp_path / f"{name}.json" for name in ("report", "leaderboard", "star")}
    for name, read in (("report", report_body), ("leaderboard", leaderboard_body), ("star", star_body)):
        write_signed(files[name], {"sessions": value, "models": value})
        with pytest.raises(ArtefactError, match=rf"{name}.json was changed since it was written: it.*: spiketok "):
            read(files[name])
    write_signed(tmp_path / "predictions.json", {"files": value, "checkpoint_digest": "c0"})
    assert "was changed since it was written: its 'files" in predictions_fault(tmp_path, "c0", "again")
    write_signed(tmp_path / "pulled" / "x.json", {"items": {"runs/a": value}})
    with pytest.raises(ArtefactError, match=r"x.json was changed since it was written: .*'items.runs/a.*: pull it"):
        Pulled.of(tmp_path)


def test_a_record_of_what_was_pulled_names_no_place_outside(tmp_path):
    item = {"kind": "run", "files": {"checkpoint/checkpoint.json": {"sha256": "0" * 64, "bytes": 1}}}
    item |= {"needs": [], "made_of": [], "left_out": [], "about": {}}
    write_signed(tmp_path / "pulled" / "x.json", {"items": {"runs/../../etc": item}})
    with pytest.raises(ArtefactError, match=r"names 'runs/../../etc', which lies outside of the workspace"):
        Pulled.of(tmp_path)
