"""A report before it is written: sections of sentences, tables and pictures; and how it is written as Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class Links:
    """A cell of a table that leads to files.

    Attributes:
        targets: what is written, and the file.
    """

    targets: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headings: of the columns.
        rows: their cells, as many as headings.
        text_columns: how many of the first columns are words; the others are numbers, which stand to the right.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str | Links]]
    text_columns: int = 1


@dataclass(frozen=True)
class Picture:
    """A picture with what is said under it.

    Attributes:
        path: of the file.
        caption: one sentence.
        wide: a figure to be read, rather than one of several small pictures side by side.
    """

    path: Path
    caption: str
    wide: bool = True


@dataclass(frozen=True)
class Section:
    """A part of a report; what is empty is left out.

    Attributes:
        title: its heading.
        table: its table.
        pictures: after the table.
        items: a list after them.
        notes: sentences at its end.
    """

    title: str
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    items: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def relative(path: Path, root: Path) -> str:
    """Return the address of a file as seen from the folder of the report."""
    return quote(Path(os.path.relpath(path, root)).as_posix())


def markdown(title: str, lead: Sequence[str], notes: Sequence[str], sections: Sequence[Section], root: Path) -> str:
    """Return a report as Markdown.

    Args:
        title: of all.
        lead: sentences under it.
        notes: a list under them.
        sections: in order.
        root: folder of the report, from which pictures and links are seen.
    """
    parts = [f"# {title}", *lead]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    for section in sections:
        parts.append(f"## {section.title}")
        if section.table is not None:
            parts.append(_table(section.table, root))
        parts += [f"![{_escaped(p.caption)}]({relative(p.path, root)})\n\n{p.caption}" for p in section.pictures]
        if section.items:
            parts.append("\n".join(f"- {item}" for item in section.items))
        parts += section.notes
    return "\n\n".join(parts) + "\n"


def _table(table: Table, root: Path) -> str:
    if not table.rows or not table.headings:
        return "Nothing is measured yet."
    words = min(table.text_columns, len(table.headings))
    ruler = [*[":--"] * words, *["--:"] * (len(table.headings) - words)]
    lines = [table.headings, ruler, *table.rows]
    return "\n".join("| " + " | ".join(_cell(cell, root) for cell in line) + " |" for line in lines)


def _cell(cell: str | Links, root: Path) -> str:
    if isinstance(cell, Links):
        return ", ".join(f"[{text}]({relative(path, root)})" for text, path in cell.targets)
    return cell.replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")
