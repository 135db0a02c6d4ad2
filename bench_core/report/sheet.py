"""A table before it is dressed: what Markdown, HTML and the terminal all show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One field of a table: unescaped text.

    Attributes:
        text: what is shown.
        number: what it sorts by, where it is a number.
        strong: the best of its column.
        failed: stands in place of a number.
        mark: a footnote's sign beside the text.
    """

    text: str
    number: float | None = None
    strong: bool = False
    failed: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table: a heading, columns (``True``: of numbers), rows, and footnotes."""

    heading: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
