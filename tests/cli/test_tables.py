"""How rows are laid out: at any width no id is broken, and what has no room is said or folded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spiketok.cli.console import clock, times_words
from spiketok.cli.tables import folded, lay_out

ID = "simulated/sub-S01_ses-CO-day01_behavior+ecephys"
COLUMNS = ["session", "state", "units", "spikes", "seconds", "repairs", "notes", "warnings", "errors"]
ROWS = [
    [ID, "new", "19", "8,835", "60.000", "0", "1", "0", "0"],
    [ID, "new", "21", "7,927", "59.000", "0", "0", "0", "0"],
]


def laid(columns, rows, width):
    return lay_out(columns, rows, [False] + [True] * (len(columns) - 1), width)


def test_what_fits_is_a_table_with_all_columns():
    table = laid(COLUMNS, ROWS, 130)
    assert table.left_out == ()
    assert table.lines[0].split() == COLUMNS
    assert len(table.lines) == 2 + len(ROWS)


def test_columns_that_say_nothing_go_first_and_are_named():
    table = laid(COLUMNS, ROWS, 80)
    assert table.left_out == ("repairs", "notes", "warnings", "errors")
    assert all(len(line) <= 80 for line in table.lines)
    assert all(ID in line for line in table.lines[2:])


def test_a_warning_is_not_dropped_for_lack_of_room():
    rows = [[*ROWS[0][:-1], "3"], ROWS[1]]
    for width in (60, 70, 80):
        assert "errors" not in laid(COLUMNS, rows, width).left_out


def test_records_hold_all_where_no_table_fits():
    table = laid(COLUMNS, [[*r[:-4], "1", "2", "3", "4"] for r in ROWS], 50)
    assert table.left_out == ()
    assert table.lines[0] == ID
    assert "errors 4" in " ".join(table.lines)
    assert all(len(line) <= 50 for line in table.lines)


def test_prose_is_wrapped_between_its_words():
    rows = [["a", "one spike, and START and END of each unit, in windows of any length"]]
    table = lay_out(["scheme", "one token is"], rows, [False, False], 40)
    assert len(table.lines) > 3 and all(len(line) <= 40 for line in table.lines)
    assert " ".join(" ".join(table.lines[2:]).split()) == "a " + rows[0][1]


def test_a_long_path_in_the_last_column_makes_no_records():
    rows = [["python", "ok", "3.11 on Linux, as it should be"], ["cache", "ok", "is in " + "/a" * 25]]
    table = lay_out(["check", "state", "found"], rows, [False] * 3, 60)
    assert table.lines[2].split()[:3] == ["python", "ok", "3.11"]
    assert table.lines[-1].strip().endswith("/a" * 25) and all(len(line) <= 66 for line in table.lines)


@given(
    st.lists(st.lists(st.text("ab/-_,. ", min_size=1, max_size=60), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(20, 100),
)
def test_no_word_is_ever_broken(rows, width):
    table = laid(["name", "what it is", "long_column_name"], rows, width)
    text = " ".join(table.lines)
    for row in rows:
        for word in row[0].split():
            assert word in text
    longest = max([len(w) for row in rows for cell in row for w in cell.split()] + [0])
    assert all(len(line.rstrip()) <= max(width, longest + 30, max(len(r[0]) for r in rows)) for line in table.lines)


def test_lines_for_people_break_between_words_only():
    line = f"left out: {ID} and {ID} share their recording, which is said once"
    assert folded(line, 80, 2).split() == line.split()
    assert all(len(one) <= 80 for one in folded(line, 80, 2).splitlines())
    assert folded("short", 80) == "short"


def test_times_have_their_names():
    assert [clock(s) for s in (0.4, 59, 65, 3723)] == ["0 s", "59 s", "1:05 min", "1:02:03 h"]
    assert times_words(10, 2, 10) == "10 s elapsed, 40 s left"
    assert times_words(10, 0, 10) == times_words(10, 3, None) == "10 s elapsed"
