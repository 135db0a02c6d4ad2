"""The fields of a table's row as HTML: in Python, since a page may have 300,000 of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

from bench_core.report.column import Entry, Sheet
from bench_core.report.page.badges import Badge, badges
from bench_core.system.text import one_line

# Between a number and what belongs to it: its unit, its interval.
_WITHIN_A_QUANTITY = re.compile(r"(?<=\d) (?=±|s\b|GiB|J/token)|(?<=±) (?=\d)")


def unbroken(text: str) -> str:
    """The same with spaces at which no line breaks inside quantities."""
    return _WITHIN_A_QUANTITY.sub("\N{NO-BREAK SPACE}", text) if " " in text else text


def fields(sheet: Sheet, row: tuple[Entry, ...]) -> Markup:
    """One row of a table, escaped."""
    pairs = zip(row, sheet.columns, strict=True)
    return Markup("".join([_field(sheet, entry, of_numbers) for entry, (_, of_numbers) in pairs]))  # noqa: S704


def _field(sheet: Sheet, entry: Entry, of_numbers: bool) -> str:
    # Short: what has a number is known by that, and nine digits sort.
    number = entry.number
    kinds = ("" if number is not None else "number") if of_numbers else "text"
    if entry.strong:
        kinds += " strong"
    if entry.failed:
        kinds += " failed"
    kinds = kinds.strip()
    shown = f' class="{kinds}"' if kinds else ""
    sorts = "" if number is None else f" data-number={number:.9g}"
    text = escape(unbroken(one_line(entry.text)))
    return f"<td{shown}{sorts}>{_with_badges(sheet, entry, text) if entry.mark else text}</td>"


def _with_badges(sheet: Sheet, entry: Entry, text: str) -> str:
    """The field's text and its badges; a text that a badge says again is left out."""
    found = list(badges(sheet, entry))
    return f"{'' if any(badge.word == entry.text for badge in found) else text}{_spans(found)}"


def _spans(of: Iterable[Badge]) -> str:
    found = []
    for badge in of:
        word, explanation = escape(badge.word), escape(one_line(badge.explanation))
        said = f'data-tip="{explanation}" aria-label="{word}: {explanation}"'
        found.append(f' <span class="badge" tabindex="0" {said}>{word}</span>')
    return "".join(found)
