"""Footnote signs as short words: the page says the word beside the number, and the note where one points at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench_core.report.column import Entry, Sheet
from bench_core.report.explain.marks import MARKS, NOT_RANKED_MARK, SEQUENTIAL_MARK, THROTTLED_MARK

_WORDS = {
    SEQUENTIAL_MARK: "sequential",
    NOT_RANKED_MARK: "not ranked",
    THROTTLED_MARK: "throttled",
    **{sign: word for word, sign in MARKS.items()},
}


@dataclass(frozen=True)
class Badge:
    """A word beside a number, and what it says in full."""

    word: str
    explanation: str


def badges(sheet: Sheet, entry: Entry) -> Iterator[Badge]:
    """The signs of an entry as words; a sign that has none stays as it is."""
    for sign in entry.mark.split():
        said = [note.removeprefix(sign).lstrip(": ") for note in sheet.notes if note.startswith(sign)]
        yield Badge(_WORDS.get(sign, sign), " ".join(said) or _WORDS.get(sign, sign))


def notes(sheet: Sheet) -> list[str]:
    """The notes of a table that no sign in it points at."""
    signs = {sign for row in sheet.rows for entry in row for sign in entry.mark.split()}
    return [note for note in sheet.notes if not any(note.startswith(sign) for sign in signs)]
