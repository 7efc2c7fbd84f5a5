"""The table of severities: every id that the code can make stands in it, and what commands say again."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import spiketok
from spiketok.recording.findings import (
    GRAVE,
    SEVERITIES,
    TABLE,
    TOKENIZE,
    TRAIN,
    Rated,
    grave,
    is_about,
    named,
    rated,
    told_again,
    worth_keeping,
)
from spiketok.recording.nouns import Finding

MAKERS = {"Finding", "note", "repair"}
MAKES = re.compile(r"\bFinding\(|\.note\(|\.repair\(")


def ids_in(program: str) -> tuple[set[str], list[str]]:
    """The ids of findings that a module makes, and the lines on which that cannot be told.

    An id may be written out, be a name of the module, or come in by an argument: then the calls of that function are
    looked at. A name in a function stands for every text that is assigned to it there.
    """
    tree = ast.parse(program)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    makers = dict.fromkeys(MAKERS, 0)
    found, unclear = set(), []

    def texts(value: ast.expr, within: ast.FunctionDef | None) -> set[str] | None:
        if isinstance(value, ast.Constant):
            return {value.value} if isinstance(value.value, str) else None
        if not isinstance(value, ast.Name):
            return None
        if value.id in constants:
            return texts(constants[value.id], None)
        said: set[str] = set()
        for node in ast.walk(within) if within is not None else ():
            pairs = []
            if isinstance(node, ast.Assign):
                pairs = [(node.targets[0], node.value)]
            elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple):
                pairs = [(node.target, item) for item in node.iter.elts]
            for target, given in pairs:
                if isinstance(target, ast.Tuple) and isinstance(given, ast.Tuple):
                    both = zip(target.elts, given.elts, strict=True)
                    said |= {g.value for t, g in both if ast.unparse(t) == value.id and isinstance(g, ast.Constant)}
                elif ast.unparse(target) == value.id and isinstance(given, ast.Constant):
                    said.add(given.value)
        return said or None

    calls = [
        (within, node)
        for within in (None, *functions)
        for node in ast.walk(within or tree)
        if isinstance(node, ast.Call) and node.args
    ]
    while True:
        found, unclear, before = set(), [], dict(makers)
        for within, node in calls:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name not in makers or len(node.args) <= makers[name]:
                continue
            value = node.args[makers[name]]
            own = texts(value, within)
            arguments = [a.arg for a in within.args.args] if within is not None else []
            if own is not None:
                found |= own
            elif isinstance(value, ast.Name) and value.id in arguments:
                makers.setdefault(within.name, arguments.index(value.id))  # a helper: its calls say which ids
            elif within is not None:
                unclear.append(f"{node.lineno}: {ast.unparse(node)[:80]}")
        if makers == before:
            break
    return found, unclear


def test_every_id_of_the_source_has_a_severity():
    """Also those that rules of datasets make by helpers of their own; an id that nobody can read here is a fault."""
    rooms = ("recording", "sources", "pipeline")
    seen: set[str] = set()
    for room in rooms:
        for path in sorted((Path(spiketok.__file__).parent / room).rglob("*.py")):
            program = path.read_text()
            if path.name in ("findings.py", "admission.py") or not MAKES.search(program):
                continue  # who rates them and passes them on, or makes none
            found, unclear = ids_in(program)
            assert not unclear, f"{path.name}: write the id out: {unclear}"
            seen |= {name for name in found if "-" in name or name in TABLE}
    assert seen - TABLE.keys() == set(), "without a severity"
    assert TABLE.keys() - seen == {"same-file", "same-recording"}, "in the table and made nowhere"  # of identity.py
    assert {"interval-stop-missing", "steinmetz-frames", "streamed", "falcon-role", "ibl-trials"} <= seen


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ('Finding("a-b", 1, text)', {"a-b"}),
        ('NAME = "c-d"\ndef f():\n    return Finding(NAME, 1, "")', {"c-d"}),
        ('def f(s, name): return Finding(name, 1, "")\ndef g(): return f(1, "e-f")', {"e-f"}),
        ('def f():\n    for n, t in (("g-h", 1), ("i-j", 2)):\n        found.note(n, 1, t)', {"g-h", "i-j"}),
        ('def f(x):\n    if x:\n        n, t = "k-l", 1\n    return Finding(n, 1, t)', {"k-l"}),
    ],
)
def test_the_walk_of_the_source_sees_them(program, found):
    assert found <= ids_in(program)[0]


def test_the_walk_says_what_it_cannot_read():
    assert ids_in('def f(x): return Finding(f"{x}-y", 1, "")')[1]


def test_every_rating_is_one():
    for name, rating in TABLE.items():
        assert rating.severity in SEVERITIES, name
        assert bool(rating.told) == bool(rating.short), name
        assert not rating.of_signal or rating.told == (TRAIN,), name
    assert TABLE["observed-assumed"].severity == "info"  # of nearly every file: --strict must be of use
    assert TABLE["invalid-times"].severity == "error"


def test_the_gravest_come_first_and_an_unknown_id_is_a_warning():
    repairs = [Finding("processed", 7, "")]
    notes = [Finding("of-another-package", 3, ""), Finding("invalid-times", 1, ""), Finding("clock-unix", 1, "")]
    found = rated(repairs, notes)
    assert [(one.id, one.severity, one.kind) for one in found] == [
        ("invalid-times", "error", "note"),
        ("of-another-package", "warning", "note"),
        ("processed", "info", "repair"),
        ("clock-unix", "info", "note"),
    ]
    assert [one.id for one in grave(found)] == ["invalid-times", "of-another-package"]
    assert named(grave(found)) == "invalid-times (error, 1), of-another-package (warning, 3)"
    assert [one.id for one in worth_keeping(found)] == ["invalid-times"]
    assert set(GRAVE) < set(SEVERITIES)


def test_invalid_time_that_was_masked_is_decided():
    notes = [Finding("invalid-times", 2, "2 rows"), Finding("time-masked", 2, "9.0 s in 2 rows of 'invalid_times' are")]
    assert {one.severity for one in rated([], notes)} == {"info"}
    other = [notes[0], Finding("time-masked", 2, "9.0 s in 2 rows of 'licks' are not observed")]
    assert [one.severity for one in rated([], other)] == ["error", "info"]


def test_what_is_said_again_is_said_once_and_where_it_matters():
    def found(name: str, text: str = "") -> Rated:
        return rated([], [Finding(name, 1, text)])[0]

    sessions = {
        "made/a": [found("observed-assumed"), found("signal-times", "processing/behavior/Position/hand: dropped 3")],
        "made/b": [found("observed-assumed"), found("spikes-unobserved"), found("clock-unix")],
        "made/c": [found("signal-times", "processing/behavior/eye: dropped 3"), found("observed-assumed")],
    }
    signals = {"made/a": ["hand_vel", "hand"], "made/c": ["hand"]}
    told = told_again(TRAIN, sessions, signals)
    assert [(one.id, one.severity, one.sessions) for one in told] == [
        ("signal-times", "warning", ("made/a",)),
        ("spikes-unobserved", "warning", ("made/b",)),
        ("observed-assumed", "info", ("made/a", "made/b", "made/c")),
    ]
    assert told[0].line.startswith("warning: signal-times in made/a: hand: samples without a good time stamp")
    assert "made/a and 2 more" in told[2].line and told[2].line.endswith("(spiketok inspect made/a)")
    assert [one.id for one in told_again(TOKENIZE, sessions)] == ["spikes-unobserved"]


@pytest.mark.parametrize(
    ("text", "signal", "is_it"),
    [
        ("processing/behavior/Position/hand has 9 samples", "hand", True),
        ("probe0: processing/behavior/hand: 2 of 9", "hand", True),
        ("processing/behavior/Position/hand has 9 samples", "Position.hand", True),
        ("processing/behavior/Position/hand has 9 samples", "behavior.hand", False),
        ("processing/behavior/hand2: 2 of 9", "hand", False),
        ("processing/behavior/left hand: 2 of 9", "left hand", True),
        ("hand_vel: stamps do not rise", "hand_vel", True),
        ("processing/a.b/c+d: 2 of 9", "c+d", True),
    ],
)
def test_a_finding_is_of_a_behaviour_by_the_end_of_its_path(text, signal, is_it):
    assert is_about(text, signal) is is_it
