"""Names of datasets and sessions, which become names of folders: safe on every file system, and one for one.

What is typed is refused with the reason where it is not safe; what is made of a file's name is made safe. Two names
that differ in case or in the form of their accents are one to some file systems: the second is refused on all.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from spiketok.errors import UsageError

RESERVED = '<>:"/\\|?*[],'  # of Windows; of patterns, by which sessions are chosen
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
MAX_BYTES = 180  # of 255 that a name may have, less what a temporary folder's name has beside it
MAX_STEM = 150  # of a file of predictions: a temporary name has more beside it
DIGEST_CHARS = 8


def fault_of(name: str) -> str:
    """Why a name is not safe as that of a folder on every system; empty if it is."""
    odd = [c for c in name if c in RESERVED or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
    if not name:
        return "is empty"
    if odd:
        return f"has {odd[0]!r}"
    if name[0] in ".- " or name[-1] in ". ":
        return "begins with '.', '-' or a space, or ends with '.' or a space"
    if DEVICES.fullmatch(name):
        return "is the name of a device on Windows"
    if len(name.encode()) > MAX_BYTES:
        return f"has {len(name.encode())} bytes, more than {MAX_BYTES}"
    if unicodedata.normalize("NFC", name) != name:
        return "has accents apart from their letters (it is not in Unicode's form NFC)"
    return ""


def require_name(name: str, option: str) -> str:
    """A name that was typed after an option.

    Raises:
        UsageError: it is not safe.
    """
    if fault := fault_of(name):
        message = f"{option} {name!r} {fault}: give a name that every file system takes, of letters, digits and -_+."
        raise UsageError(message)
    return name


def safe_name(text: str) -> str:
    """A safe name made of any text: the text itself if it has letters, digits and ``-_+.`` alone and is safe."""
    text = unicodedata.normalize("NFC", text)
    name = "".join(c if c.isalnum() or c in "-_+." else "_" for c in text).lstrip(".").rstrip(".") or "_"
    name = f"_{name[1:]}" if name[0] == "-" else name
    name = f"_{name}" if DEVICES.fullmatch(name) else name
    if len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_CHARS]
    return f"{name.encode()[: MAX_BYTES - DIGEST_CHARS - 1].decode('utf-8', 'ignore')}-{digest}"


def file_stem(text: str) -> str:
    """Any text as the stem of a file's name, percent-encoded; a long one is cut, and ends in ``~`` and a digest.

    >>> file_stem("made/a"), len(file_stem("猫" * 100))
    ('made%2Fa', 150)
    """
    word = quote(text, safe="", errors="surrogatepass")
    if len(word) <= MAX_STEM:
        return word
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{word[: MAX_STEM - 17]}~{digest}"


def folded(session_ids: Iterable[str]) -> dict[str, str]:
    """Datasets and sessions by what a file system without regard to case and form calls them."""
    names = {name for session_id in session_ids for name in (session_id.partition("/")[0], session_id)}
    return {fold_name(name): name for name in sorted(names)}


def twin_of(session_id: str, known: Mapping[str, str]) -> str:
    """The dataset or session among those known that some file systems take for this one's; empty if there is none.

    Args:
        session_id: ``"<dataset>/<session>"``. known: from :func:`folded`.
    """
    names = (session_id.partition("/")[0], session_id)
    return next((known[fold_name(name)] for name in names if known.get(fold_name(name), name) != name), "")


def fold_name(name: str) -> str:
    """What a file system without regard to case and form calls a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
