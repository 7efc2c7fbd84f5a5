"""Names of datasets and sessions: which are refused, what is made of others, and which two are one."""

from __future__ import annotations

import unicodedata

import pytest

from spiketok.errors import UsageError
from spiketok.storage.names import MAX_BYTES, fault_of, file_stem, folded, require_name, safe_name, twin_of

GOOD = (
    "local",
    "sub-1_ses-2020+a.b",
    "_",
    "äöü",
    "mc_maze_small",
    "x" * MAX_BYTES,
    "COM10",
    "console",
    "a b",
    "000140",
)
BAD = (
    *("", ".", "..", ".a", "-a", " a", "a.", "a ", "a/b", "a\\b", "a\nb", "a\x1bb", "a\u202eb", "a\u2028b", "*", "a?"),
    *("a:b", "<a", "a|b", 'a"', "a,b", "[a]", "CON", "nul", "Com1", "lpt9.x", "aux.nwb", "x" * (MAX_BYTES + 1)),
    *("e\u0301", "é" * MAX_BYTES, "\x7f", "\udc80"),
)


@pytest.mark.parametrize("name", GOOD)
def test_a_safe_name_is_taken_and_stays(name):
    assert require_name(name, "--dataset") == name
    assert safe_name(name) == name.replace(" ", "_")


@pytest.mark.parametrize("name", BAD)
def test_another_is_refused_or_made_safe(name):
    with pytest.raises(UsageError, match="--dataset"):
        require_name(name, "--dataset")
    made = safe_name(name)
    assert fault_of(made) == ""
    assert safe_name(made) == made


def test_what_is_made_of_long_names_stays_apart():
    assert len({safe_name("x" * 400 + end) for end in "abc"}) == 3


def test_every_sign_is_made_safe():
    for code in [*range(0x3000), *range(0xD7F0, 0x10000, 7)]:
        made = safe_name(f"{chr(code)}a{chr(code)}")
        assert fault_of(made) == "", hex(code)


def test_twins():
    known = folded(["local/Mouse", "local/b", "Steinmetz/é"])
    assert twin_of("local/mouse", known) == "local/Mouse"
    assert twin_of("local/Mouse", known) == ""
    assert twin_of("steinmetz/other", known) == "Steinmetz"
    assert twin_of("Steinmetz/" + unicodedata.normalize("NFD", "É"), known) == "Steinmetz/é"
    assert twin_of("local/c", known) == twin_of("new/b", known) == ""


@pytest.mark.parametrize("text", ["decode:cursor_vel", "a/b", "..", "猫" * 100, "x" * 300, "a\nb\x1b[2J", "", "\ud800"])
def test_any_text_is_the_stem_of_a_file(tmp_path, text):
    """Behaviours and sessions have any names; two that share their first letters stay two files."""
    stems = {file_stem(text + end) for end in ("", "1", "2")}
    assert len(stems) == 3
    for stem in stems:
        (tmp_path / f"{stem}.safetensors").write_bytes(b"x")
    assert len([*tmp_path.iterdir()]) == 3
