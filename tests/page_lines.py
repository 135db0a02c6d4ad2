"""The lines of the tables of docs/models-and-data.md, and the test that each of them names.

A table either has a last column ``test``, in which each line names a test's function as ``file.py::function`` below
``tests/``, or the paragraph after it begins with "Each line is a case of" and names one function that is parametrised
with the table's lines (:func:`page_lines`, ids from :attr:`Line.name`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models-and-data.md"
_TEST_COLUMN = "test"
_CASES = "Each line is a case of"


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        section: the nearest heading above the table.
        cells: the column's title to the cell's Markdown.
        test: ``file.py::function``, or ``file.py::function[name]`` where the line is a case; empty if none is named.
    """

    section: str
    cells: dict[str, str]
    name: str
    test: str

    def code(self, column: str) -> list[str]:
        """What stands in code marks in a cell."""
        return re.findall(r"`([^`]+)`", self.cells[column])


@cache
def all_lines() -> tuple[Line, ...]:
    """Every line of every table of the page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(PAGE.read_text(encoding="utf-8"))
    found: list[Line] = []
    section = ""
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            section = tokens[index + 1].content
        if token.type == "table_open":
            found += _table(section, tokens, index)
    return tuple(found)


def page_lines(section: str) -> list[Line]:
    """The lines of a section's table, as parameters of a test: ``ids=lambda line: line.name``.

    Raises:
        LookupError: the page has no such table.
    """
    lines = [line for line in all_lines() if line.section == section]
    if not lines:
        raise LookupError(f"{PAGE.name} has no table under the heading {section!r}")
    return lines


def _table(section: str, tokens: list[Token], start: int) -> list[Line]:
    rows: list[list[str]] = []
    index = start
    while tokens[index].type != "table_close":
        if tokens[index].type == "tr_open":
            rows.append([])
        if tokens[index].type == "inline":
            rows[-1].append(tokens[index].content)
        index += 1
    after = tokens[index + 2].content if index + 2 < len(tokens) and tokens[index + 1].type == "paragraph_open" else ""
    cases = re.findall(r"`([^`]+)`", after)[:1] if after.startswith(_CASES) else []
    lines = []
    for number, row in enumerate(rows[1:], start=1):
        cells = dict(zip(rows[0], row, strict=True))
        name = f"{number}-" + re.sub(r"[^A-Za-z0-9.]+", "-", row[0]).strip("-")[:40]
        named = re.findall(r"`([^`]+)`", cells.get(_TEST_COLUMN, ""))[:1]
        lines.append(Line(section, cells, name, named[0] if named else f"{cases[0]}[{name}]" if cases else ""))
    return lines
