"""Settings: what is typed, and frozen dataclasses built of it, strictly; every mistake one clear line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import UnknownNameError, UsageError
from spiketok.settings import (
    build,
    keys_of,
    merge,
    parse_assignment,
    plain,
    read_toml,
    read_value,
    split_assignment,
    type_text,
)


@dataclass(frozen=True)
class Inner:
    low: int = 1
    high: float = 2.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            message = f"inner.low is {self.low}, above inner.high, {self.high}"
            raise UsageError(message)


@dataclass(frozen=True)
class Outer:
    count: int
    name: str = "x"
    kind: Literal["one", "two"] = "one"
    on: bool = False
    rate: float = 1.0
    limit: float | None = None
    inner: Inner | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)
    tables: dict[str, dict[str, object]] = field(default_factory=dict)
    made: int = field(default=7, init=False)


# ---- as it is typed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1", {"a": 1}),
        (" a.b = 1.5 ", {"a": {"b": 1.5}}),
        ("a=true", {"a": True}),
        ('a="1"', {"a": "1"}),
        ('a="x = y # z"', {"a": "x = y # z"}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ('a={b = 1, "c/d" = 2}', {"a": {"b": 1, "c/d": 2}}),
        ("a=hand_vel", {"a": "hand_vel"}),
        ("a=trials:go_cue,-200,800", {"a": "trials:go_cue,-200,800"}),
        ("a=1,2,3", {"a": "1,2,3"}),
        ("a=2024-01-01", {"a": "2024-01-01"}),  # a date to TOML, a name here
        ("a=100hz", {"a": "100hz"}),
        ("a=", {"a": ""}),
        ("a=1_000", {"a": 1000}),
    ],
)
def test_an_assignment_is_read_as_toml_or_as_a_bare_word(text, values):
    assert parse_assignment(text, "--set") == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noequals", "--set 'noequals' must read KEY=VALUE"),
        ("=3", "--set '=3' must read KEY=VALUE"),
        ("a=b c", "--set 'a=b c': 'b c' is neither a TOML value nor a bare word: put text in quotes"),
        ("a=[1", "'[1' is neither"),
        ("a=1\nb=2", "is neither"),
        ("a=" + "[" * 5000, "is neither"),
    ],
)
def test_what_is_no_assignment_is_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse_assignment(text, "--set")
    assert message in str(caught.value)


def test_the_first_equals_sign_cuts():
    assert split_assignment("v=derivative(p, order=2)", "step") == ("v", "derivative(p, order=2)")
    with pytest.raises(UsageError, match="step 'v' must read NAME=CALL"):
        split_assignment("v", "step", "NAME=CALL")


@given(st.text())
def test_any_text_is_a_value_or_a_usage_error(word):
    try:
        value = read_value(word, "--set")
    except UsageError:
        return
    assert isinstance(value, bool | int | float | str | list | dict)


def test_tables_merge_and_change_nothing_below():
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merge(base, {"a": {"c": {"f": 4}}, "e": {"g": 5}}) == {"a": {"b": 1, "c": {"d": 2, "f": 4}}, "e": {"g": 5}}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


# ---- building -------------------------------------------------------------------------------------------------------


def test_what_is_taken_for_what():
    built = build(
        Outer,
        {
            "count": 3,
            "rate": 2,
            "limit": "off",
            "inner": {"high": 5},
            "pair": [1, 2],
            "words": "a,b",
            "numbers": 4,
            "factors": {"x": {"y": 1, "z": {"w": 2}}, "a/b": 3},
            "tables": {"t": {"list": [1, "two"]}},
        },
    )
    expected = Outer(
        count=3,
        rate=2.0,
        inner=Inner(high=5.0),
        pair=(1.0, 2.0),
        words=("a", "b"),
        numbers=(4,),
        factors={"x.y": 1.0, "x.z.w": 2.0, "a/b": 3.0},
        tables={"t": {"list": [1, "two"]}},
    )
    assert built == expected
    assert [type(v) for v in (built.rate, built.inner.high, *built.pair)] == [float] * 4
    assert built.made == 7
    for word in ("off", "auto", "none", None):
        assert build(Outer, {"count": 1, "inner": word, "limit": word}) == Outer(1)
    assert build(Outer, {"count": 1, "name": "off", "words": ""}) == Outer(1, name="off")  # no optional field: a word
    assert build(Outer, {"count": 1, "numbers": "1,2"}).numbers == (1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 1.0}, "here.count is 1.0, expected int"),
        ({"count": True}, "here.count is True, expected int"),
        ({"count": "1"}, "here.count is '1', expected int"),
        ({"count": None}, "here.count is None, expected int"),
        ({}, "here.count is missing, expected int"),
        ({"count": 1, "name": 3}, 'here.name is 3, expected str (in quotes: "3")'),
        ({"count": 1, "on": 1}, "here.on is 1, expected true or false"),
        ({"count": 1, "rate": "1"}, "here.rate is '1', expected float"),
        ({"count": 1, "limit": "high"}, "here.limit is 'high', expected float or off"),
        ({"count": 1, "inner": 3}, "here.inner is 3, expected a table or off"),
        ({"count": 1, "inner": {"low": 1.5}}, "here.inner.low is 1.5, expected int"),
        ({"count": 1, "inner": {"low": 9}}, "inner.low is 9, above inner.high, 2.0"),
        ({"count": 1, "pair": [1]}, "here.pair is [1], expected tuple[float, float]"),
        ({"count": 1, "pair": [1, 2, 3]}, "here.pair is [1, 2, 3], expected tuple[float, float]"),
        ({"count": 1, "pair": 1}, "here.pair is 1, expected tuple[float, float]"),
        ({"count": 1, "pair": [1, "x"]}, "here.pair[1] is 'x', expected float"),
        ({"count": 1, "numbers": "1,x"}, "here.numbers[1] is 'x', expected int"),
        ({"count": 1, "factors": {"a": "x"}}, "here.factors['a'] is 'x', expected float"),
        ({"count": 1, "factors": 3}, "here.factors is 3, expected a table of float"),
        ({"count": 1, "tables": {"t": 3}}, "here.tables['t'] is 3, expected a table"),
        ({"count": np.int64(1)}, "expected plain values"),
        ({"count": 1, "name": "\udcff"}, "Invalid JSON"),
        (3, "here is 3, expected a table"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_is_expected(values, message):
    with pytest.raises(UsageError) as caught:
        build(Outer, values, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or not caught.value.__context__


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 1}, "unknown field 'cuont' in here: did you mean 'count'?"),
        ({"count": 1, "made": 3}, "unknown field 'made' in here"),
        ({"count": 1, "inner": {"lwo": 1}}, "unknown field 'lwo' in here.inner: did you mean 'low'?"),
        ({"count": 1, "kind": "too"}, "unknown value 'too' in here.kind: did you mean 'two'?"),
        ({"count": 1, "kind": 2}, "unknown value '2' in here.kind: known: one, two"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(values, message):
    with pytest.raises(UnknownNameError) as caught:
        build(Outer, values, "here", "field")
    assert message in str(caught.value)


def test_a_value_error_of_a_class_is_one_line():
    with pytest.raises(UsageError, match="^here: no luck$"):
        build(Unlucky, {"n": 13}, "here")


@dataclass(frozen=True)
class Unlucky:
    n: int

    def __post_init__(self) -> None:
        if self.n == 13:
            message = "no luck"
            raise ValueError(message)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**63 - 1)


@given(
    st.builds(
        Outer,
        count=WHOLE,
        name=st.text(st.characters(exclude_categories=["Cs"])),
        kind=st.sampled_from(["one", "two"]),
        on=st.booleans(),
        rate=FLOATS,
        limit=st.none() | FLOATS,
        inner=st.none() | st.builds(Inner, low=st.integers(-9, 9), high=st.floats(9, 1e300)),
        pair=st.tuples(FLOATS, FLOATS),
        words=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
        numbers=st.lists(WHOLE).map(tuple),
        factors=st.dictionaries(st.text("abc/."), FLOATS),
    )
)
def test_what_a_dataclass_holds_builds_the_same_one(made):
    values = {k: v for k, v in plain(asdict(made)).items() if k != "made"}
    again = build(Outer, values)
    assert again == made
    assert build(Outer, json.loads(json.dumps(values))) == made
    assert math.copysign(1, again.rate) == math.copysign(1, made.rate)  # to the bit


def test_keys_and_types_in_words():
    keys = dict(keys_of(Outer, "a."))
    assert list(keys)[:3] == ["a.count", "a.name", "a.kind"]
    assert {"a.inner", "a.inner.low", "a.factors"} <= set(keys) and "a.made" not in keys
    assert type_text(keys["a.kind"]) == "one or two"
    assert type_text(keys["a.limit"]) == "float or off"


# ---- values that no setting may have --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seeded:
    seed: int = 0
    inner: Outer | None = None


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"count": 1, "rate": math.inf}, "run.rate is inf, expected a finite number"),
        ({"count": 1, "rate": math.nan}, "run.rate is nan, expected a finite number"),
        ({"count": 1, "pair": [0.0, -math.inf]}, "run.pair[1] is -inf, expected a finite number"),
        ({"count": 1, "factors": {"a": math.inf}}, "run.factors.a is inf, expected a finite number"),
        ({"count": 1, "tables": {"a": {"b": math.nan}}}, "run.tables.a.b is nan, expected a finite number"),
        ({"count": 2**63}, "run.count is 9223372036854775808, beyond the whole numbers of 64 bits"),
        ({"count": -(2**63) - 1}, "run.count is -9223372036854775809, beyond the whole numbers of 64 bits"),
        ({"count": 10**400}, "..., beyond the whole numbers of 64 bits"),
        ({"count": 1, "tables": {"a": {"b": nested(40)}}}, "is nested more than 32 deep"),
        ({"count": date(2024, 5, 6)}, "run.count is 2024-05-06, expected plain values"),
        ({"count": 1, "words": ["a", date(2024, 5, 6)]}, "run.words[1] is 2024-05-06, expected plain values"),
    ],
)
def test_no_setting_may_be_this(values, told):
    with pytest.raises(UsageError) as caught:
        build(Outer, values, "run")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


def test_seeds_are_not_negative():
    assert build(Seeded, {"seed": 2**63 - 1}).seed == 2**63 - 1
    with pytest.raises(UsageError, match="^seed is -1, must not be negative$"):
        build(Seeded, {"seed": -1})
    with pytest.raises(UsageError, match=r"^run\.seed is -1, must not be negative$"):
        build(Seeded, {"seed": -1}, "run")
    assert build(Outer, {"count": -1}).count == -1  # of a seed alone it is a slip


@pytest.mark.parametrize("text", ["a..b=1", ".a=1", "a.=1", "a." * 40 + "b=1", f"a={'[' * 10**5}"])
def test_assignments_that_are_none_are_told_in_short(text):
    with pytest.raises(UsageError) as caught:
        parse_assignment(text, "--set")
    assert len(str(caught.value)) < 400


TOML = "seed = 7\n[optim]\nlr = 1e-3\n"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (TOML.encode("utf-16"), "it is in UTF-16"),
        (bytes(range(128, 256)), "it is not in UTF-8"),
        (b"a = " + b"[" * 10**5, "nested too deeply"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"a = 1\na = 2", "Cannot overwrite a value"),
        (TOML.encode()[:-2], "is not TOML"),
    ],
)
def test_toml_that_is_none(tmp_path, content, fault):
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"run\.toml is not TOML: .*{fault}|run\.toml {fault}") as caught:
        read_toml(tmp_path / "run.toml")
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300


def test_toml_with_marks_of_an_editor(tmp_path):
    for content in (TOML.encode(), TOML.encode("utf-8-sig"), TOML.replace("\n", "\r\n").encode()):
        (tmp_path / "run.toml").write_bytes(content)
        assert read_toml(tmp_path / "run.toml") == {"seed": 7, "optim": {"lr": 1e-3}}
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "utf16.toml").write_bytes(TOML.encode("utf-16"))
    for name, fault in (("gone", "no configuration file"), ("utf16.toml", "it is in UTF-16: save it as UTF-8")):
        with pytest.raises(UsageError, match=fault):
            read_toml(tmp_path / name)
    for name in ("folder", "circle"):  # who reads it says what the machine did
        with pytest.raises(OSError):
            read_toml(tmp_path / name)
