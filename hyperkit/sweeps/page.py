"""A report as one HTML file: pictures inside, no scripts, nothing from the network, light or dark as the reader is."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hyperkit._version import __version__
from hyperkit.sweeps.document import Links, Picture, Section, Table, relative

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #5d6873; --ground: #ffffff; --panel: #f5f7f9; --rule: #dde3e8;
  --link: #2a5f9e; --done: #2e7d43; --failed: #b3261e; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --dim: #9aa6b2; --ground: #14181c; --panel: #1d2328;
  --rule: #343d46; --link: #8ab8f0; --done: #7fce93; --failed: #ff9c94; --open: #e5bd62; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.2rem 1rem 3rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .4rem 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
a { color: var(--link); }
code { font: .88em ui-monospace, monospace; background: var(--panel); padding: .1em .3em; border-radius: 4px; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; }
.notes { background: var(--panel); border-left: 4px solid var(--open); padding: .6rem 1rem .6rem 1.8rem; margin: 1rem 0;
  border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap;
  overflow-wrap: normal; vertical-align: top; }
th { color: var(--dim); font-weight: 600; white-space: normal; vertical-align: bottom; }
.word { text-align: left; }
.long { white-space: normal; min-width: 16rem; max-width: 30rem; }
.done { color: var(--done); } .failed { color: var(--failed); font-weight: 600; } .open { color: var(--open); }
figure { margin: 1rem 0; } figcaption, .note { color: var(--dim); font-size: .9rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.wide img { width: 46rem; padding: .4rem; border: 1px solid var(--rule); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.sheet figure { margin: 0; } .sheet img { width: 100%; }
summary { cursor: pointer; color: var(--link); margin: .4rem 0; }
footer { margin-top: 3rem; color: var(--dim); font-size: .85rem; }
"""

_LONG = 40
"""A cell with more characters may be broken into lines."""

_ROWS_OPEN = 12
"""A table of words with more rows is folded away until it is asked for."""

_STATES = {"done": "done", "failed": "failed", "running": "open", "pending": "open"}
_THUMBNAIL = (900, 700)


def page(title: str, lead: Sequence[str], notes: Sequence[str], sections: Sequence[Section], root: Path) -> str:
    """Return a report as HTML.

    Args:
        title: of all.
        lead: sentences under it.
        notes: a list under them, set apart.
        sections: in order.
        root: folder of the report, from which links are seen; pictures are inside the page.
    """
    body = [f"<h1>{escape(title)}</h1>", *map(_paragraph, lead)]
    if notes:
        body.append('<ul class="notes">' + "".join(f"<li>{_inline(note)}</li>" for note in notes) + "</ul>")
    places = {section.title: f"part-{index}" for index, section in enumerate(sections)}
    body.append("<nav>" + "".join(f'<a href="#{p}">{escape(t)}</a>' for t, p in places.items()) + "</nav>")
    for section in sections:
        body += [f'<section id="{places[section.title]}">', f"<h2>{escape(section.title)}</h2>"]
        body += [*_section(section, root), "</section>"]
    body.append(f"<footer>Written by hyperkit {escape(__version__)}.</footer>")
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>"
    )
    content = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'


def _section(section: Section, root: Path) -> list[str]:
    parts = []
    if section.table is not None:
        parts.append(_table(section.table, root))
    parts += [_figure(picture, root) for picture in section.pictures if picture.wide]
    if small := [_figure(picture, root) for picture in section.pictures if not picture.wide]:
        parts.append('<div class="sheet">' + "".join(small) + "</div>")
    if section.items:
        parts.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in section.items) + "</ul>")
    return parts + [f'<p class="note">{_inline(note)}</p>' for note in section.notes]


def _paragraph(text: str) -> str:
    return f"<p>{_inline(text)}</p>"


def _inline(text: str) -> str:
    """Return text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(table: Table, root: Path) -> str:
    if not table.rows or not table.headings:
        return "<p>Nothing is measured yet.</p>"
    words = table.text_columns
    head = "".join(f'<th{_kind(index < words)} scope="col">{escape(h)}</th>' for index, h in enumerate(table.headings))
    rows = []
    for row in table.rows:
        cells = []
        for index, cell in enumerate(row):
            long = isinstance(cell, str) and len(cell) > _LONG
            cells.append(f"<td{_kind(index < words, long, cell)}>{_cell(cell, root)}</td>")
        rows.append("<tr>" + "".join(cells) + "</tr>")
    text = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n' + "\n".join(rows)
    text += "\n</tbody></table></div>"
    if words >= len(table.headings) and len(rows) > _ROWS_OPEN:
        return f"<details><summary>Show all {len(rows)}</summary>{text}</details>"
    return text


def _kind(word: bool, long: bool = False, cell: str | Links = "") -> str:
    names = [*(["word"] if word else []), *(["long"] if long else [])]
    if isinstance(cell, str) and word and cell in _STATES:
        names.append(_STATES[cell])
    return f' class="{" ".join(names)}"' if names else ""


def _cell(cell: str | Links, root: Path) -> str:
    if isinstance(cell, Links):
        return " · ".join(f'<a href="{relative(path, root)}">{escape(text)}</a>' for text, path in cell.targets)
    return _inline(cell)


def _figure(picture: Picture, root: Path) -> str:
    source = _data_uri(picture.path, small=not picture.wide)
    image = f'<img src="{source}" alt="{escape(picture.caption)}" loading="lazy">'
    if not picture.wide:
        image = f'<a href="{relative(picture.path, root)}">{image}</a>'
    kind = ' class="wide"' if picture.wide else ""
    return f"<figure{kind}>{image}<figcaption>{_inline(picture.caption)}</figcaption></figure>"


def _data_uri(path: Path, small: bool) -> str:
    """Return a picture as text; a small one as a JPEG that fits ``_THUMBNAIL``, others as they are."""
    if not small:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        reduced = image.convert("RGB")
        reduced.thumbnail(_THUMBNAIL)
        reduced.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
