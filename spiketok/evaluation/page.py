"""What the pages of evaluations are made of: one HTML file each, whose style and pictures it holds; light and dark."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

STYLE = """
:root { --ink:#22262b; --soft:#5b626b; --line:#e3e6ea; --band:#f6f7f9; --accent:#0072b2; --page:#fff; }
:root { color-scheme:light dark; }
* { box-sizing:border-box; }
body { margin:0; color:var(--ink); background:var(--page); }
body { font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
main { max-width:1160px; margin:0 auto; padding:36px 24px 64px; }
h1 { font-size:26px; line-height:1.25; margin:0 0 6px; }
h2 { font-size:18px; margin:40px 0 10px; padding-bottom:6px; border-bottom:1px solid var(--line); }
h3 { font-size:15px; margin:24px 0 6px; }
p { margin:8px 0; } .soft { color:var(--soft); } .small { font-size:13px; }
.facts { display:flex; flex-wrap:wrap; gap:10px; margin:20px 0 8px; }
.fact { background:var(--band); border:1px solid var(--line); border-radius:8px; padding:9px 14px; }
.fact b { display:block; font-size:18px; font-weight:650; } .fact span { color:var(--soft); font-size:12.5px; }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:13.5px; margin:8px 0; }
th { text-align:left; font-weight:600; color:var(--soft); border-bottom:1.5px solid var(--line); padding:6px 10px; }
td { border-bottom:1px solid var(--line); padding:6px 10px; vertical-align:top; }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; }
td.n, .protocol, .whole { white-space:nowrap; }
.sees { display:block; min-width:230px; }
tr.mean td { background:var(--band); font-weight:600; }
.dot { display:inline-block; width:10px; height:10px; border-radius:3px; margin-right:7px; }
.empty { color:var(--soft); font-style:italic; }
code, .hash { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; font-size:12px; }
img { width:auto; max-width:100%; min-width:640px; height:auto; display:block; margin:6px 0; }
details { margin:10px 0; } summary { cursor:pointer; color:var(--accent); }
pre { background:var(--band); border:1px solid var(--line); border-radius:8px; padding:12px; }
pre { overflow:auto; font-size:12px; }
@media (prefers-color-scheme:dark) {
  :root { --ink:#e4e7ea; --soft:#a4adb7; --line:#363d45; --band:#1f242a; --accent:#6cb6e8; --page:#15181c; }
  img { background:#fff; border-radius:8px; }
}
@media print { img { min-width:0; } }
"""


def escape(value: object) -> str:
    return html.escape(str(value))


def number(value: float | None, digits: int = 3) -> str:
    """A score as text, empty where there is none; what rounds to zero has no sign."""
    return "" if value is None else f"{value:z.{digits}f}"


def whole(text: object) -> str:
    """A word that is not broken over lines, as an id."""
    return f'<span class="whole">{escape(text)}</span>'


def html_table(head: Sequence[tuple[str, bool]], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """``head``: (text, is a number); ``rows``: (class of the row, cells as HTML; one alone goes over all columns)."""
    kind = ["n" if is_number else "" for _, is_number in head]
    top = "".join(f'<th class="{k}">{escape(text)}</th>' for k, (text, _) in zip(kind, head, strict=True))
    body = "".join(f'<tr class="{cls}">{_cells(kind, cells)}</tr>' for cls, cells in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(kind: Sequence[str], cells: Sequence[str]) -> str:
    if len(cells) == 1 < len(kind):
        return f'<td colspan="{len(kind)}">{cells[0]}</td>'
    return "".join(f'<td class="{k}">{cell}</td>' for k, cell in zip(kind, cells, strict=True))


def picture(figure, text: str) -> str:
    """A figure as an image of the page, which is scrolled where the page is narrow: it would be too small to read."""
    data = base64.b64encode(_png(figure)).decode()
    return f'<div class="scroll"><img alt="{escape(text)}" src="data:image/png;base64,{data}"></div>'


def _png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def whole_page(title: str, sections: Sequence[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )
