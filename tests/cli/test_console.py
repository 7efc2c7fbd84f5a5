"""What is printed of names and texts that others wrote: as they are, but for what a terminal would obey."""

from __future__ import annotations

import io

import pytest

from spiketok.cli import console

HOSTILE = "a\x1b[2J\r\u202eb\u2066c\x9b5m\x00\udc80"


@pytest.mark.parametrize("text", ["plain", "µ é 猫 (a) [b]", "two\nlines\tand a tab", ""])
def test_texts_stay(text):
    assert console.shown(text) == text


def test_what_a_terminal_would_obey_is_escaped():
    assert console.shown(HOSTILE) == r"a\x1b[2J\r\u202eb\u2066c\x9b5m\x00\udc80"
    assert console.shown("a\nb", keep="") == r"a\nb"


def test_every_way_of_printing_escapes(capsys):
    console.say(HOSTILE)
    console.complain(HOSTILE)
    console.show(HOSTILE)
    console.show_rows("t", ["x"], [{"x": HOSTILE}])
    console.show_json({"x": HOSTILE})
    told = "".join(capsys.readouterr())
    assert not set(told) & set("\x1b\r\u202e\u2066\x9b\x00\udc80")
    assert told.count(r"\u202e") == 5


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_table_on_a_terminal_shows_markup_as_it_is(monkeypatch):
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "100")
    console.show_rows("t\x1b]0;x\x07", ["x"], [{"x": "[/red] :smile: [bold]b"}, {"x": HOSTILE}])
    assert "[/red] :smile: [bold]b" in out.getvalue()
    assert "\x1b]0" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
