"""What is published of a run (table, report, page, figures) against what its raw events give."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from bench_core.contract.records import layout
from bench_core.report.decide.cost import prices_told
from bench_core.report.document import document
from bench_core.report.figures.draw import Drawing
from bench_core.report.figures.every import drawings
from bench_core.report.write.files import csv_tables
from bench_core.report.write.markdown import markdown
from bench_core.runs.files import Unreadable, check_inside
from bench_core.runs.view import RunView
from bench_core.system.text import foreign, one_line
from bench_core.verify.differences import Difference, of_run

_PART = 160  # characters of a line that differs
_MOST_LINES = 20  # of one file; a table of another run differs everywhere
# Of the page's figures, which are the same for every run: it depends on the drawing tool's version.
_RUNTIME = re.compile(r'(?<=<script id="runtime">).*?(?=</script>)', re.DOTALL)
# A mark says its own data: batch size or load, value, method. A line says that of what it begins with. Axes and layout
# depend on the drawing tool's version.
_LABEL = re.compile(r'aria-label="([^"]*)"(?: role="[^"]*")?(?: aria-roledescription="([^"]*)")?')
_OF_DATA = ("batch_size: ", "load: ")
_LINE = "line mark"


def report_differences(folder: Path, view: RunView) -> tuple[list[Difference], list[str]]:
    """Compares every published file that is there; also says which are not.

    The table is compared field by field, the report line by line, the page (with the data of its figures) without
    the runtime that draws them, the drawings by the data of their marks (how they are laid out depends on the drawing
    tool's version). PNGs are not compared.
    """
    found: list[Difference] = []
    missing: list[str] = []
    # Costs are checked by the prices that the report says; no run has any.
    prices = prices_told(_text(folder, layout.REPORT_FILE) or "")
    words = document(view, prices)
    for name, text in {**csv_tables(view, prices), layout.REPORT_FILE: markdown(words)}.items():
        present = _text(folder, name)
        if present is None:
            missing.append(f"{name}: the run has none")
        elif name == layout.REPORT_FILE:
            found += _lines(name, present, text)
        else:
            found += _table(name, present, text)
    present = _text(folder, layout.PAGE_FILE)
    if present is None:
        missing.append(f"{layout.PAGE_FILE}: the run has none")
    else:
        from bench_core.report.page.write import html  # noqa: PLC0415  # its template engine; published runs have no page

        found += _lines(layout.PAGE_FILE, _RUNTIME.sub("", present), html(view, words, prices, runtime=""))
    for name, drawing in drawings(view).items():
        file = f"{layout.FIGURES_FOLDER}/{name}.svg"
        present = _text(folder, file)
        if present is None:
            missing.append(f"{file}: the run has none")
        else:
            found += _marks(file, present, drawing)
    return found, missing


def _text(folder: Path, name: str) -> str | None:
    """A published file; ``None`` where there is none that belongs to the run (a link out of it, a pipe)."""
    try:
        check_inside(folder, folder / name)
        return (folder / name).read_bytes().decode("utf-8", "replace")
    except (OSError, Unreadable):
        return None


def _table(name: str, present: str, expected: str) -> Iterator[Difference]:
    """One line for each field that differs, with its cell and column."""
    has, wants = _records(present), _records(expected)
    if has[:1] != wants[:1]:
        yield of_run(f"{name}:1", "the columns are not those of this version's table")
        return
    by_cell = {row[0]: (number, row) for number, row in enumerate(has[1:], start=2) if row}
    if len(by_cell) != len(has) - 1:
        yield of_run(name, "a cell stands in it twice, or a line is empty")
    for row in wants[1:]:
        number, told = by_cell.pop(row[0], (0, []))
        if len(told) != len(row):
            yield of_run(name, "the cell's line is missing or has another number of fields", row[0])
            continue
        for column, left, right in zip(wants[0], told, row, strict=True):
            if left != right:
                what = f"{column} is {foreign(left, 80) or 'empty'}, recomputed {foreign(right, 80) or 'empty'}"
                yield of_run(f"{name}:{number}", what, row[0])
    for cell, (number, _) in by_cell.items():
        yield of_run(f"{name}:{number}", "is not in the plan", foreign(cell, 100))
    if present != expected and has == wants:
        yield of_run(name, "is written otherwise, with the same fields")


def _records(text: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error:
        return []


def _lines(name: str, present: str, expected: str) -> Iterator[Difference]:
    """Each line that differs where both have as many; else the first."""
    has, wants = present.splitlines(), expected.splitlines()
    pairs = enumerate(zip(has, wants, strict=False), start=1)
    unequal = [(number, left, right) for number, (left, right) in pairs if left != right]
    if len(has) != len(wants):
        if not unequal:
            yield of_run(name, f"has {len(has)} lines, recomputed {len(wants)}")
        unequal = unequal[:1]
    for number, left, right in unequal[:_MOST_LINES]:
        start = next((k for k, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), 0)
        start = max(0, start - 60)  # a row of a table is long; what differs should show
        yield of_run(f"{name}:{number}", f"has {_part(left, start)}, recomputed {_part(right, start)}")
    if len(unequal) > _MOST_LINES:
        yield of_run(name, f"{len(unequal) - _MOST_LINES} more lines differ")


def _part(line: str, start: int) -> str:
    more = "…" if len(line) > start + _PART else ""
    return repr(("…" if start else "") + one_line(line[start : start + _PART]) + more)


def _marks(name: str, present: str, drawing: Drawing) -> Iterator[Difference]:
    """Every mark of data and every line, each as often as it follows."""
    told = [(unescape(label), role == _LINE) for label, role in _LABEL.findall(present)]
    marks = Counter(label for label, is_line in told if not is_line and label.startswith(_OF_DATA))
    lines = Counter(label for label, is_line in told if is_line)
    for what, has, wants in (("marks", marks, Counter(drawing.marks)), ("lines", lines, Counter(drawing.lines))):
        if has != wants:
            odd = min(has - wants or wants - has)
            yield of_run(name, f"its {what} are not those of the raw events, among them {foreign(odd, 200)!r}")
