"""A table is a list of columns. A column is declared once; Markdown, HTML, terminal and CSV follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from bench_core.report.format import ABSENT

T_contra = TypeVar("T_contra", contravariant=True)


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
    """A table before it is dressed: a heading, columns (``True``: of numbers), rows, and footnotes."""

    heading: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


def _nothing(_line: object) -> str:
    return ""


def _no(_line: object) -> bool:
    return False


@dataclass(frozen=True)
class Column(Generic[T_contra]):
    """One metric, or one word, of each line of a table.

    Attributes:
        title: without the unit.
        value: of a line, in the unit that its name in the CSV ends in; ``None`` where the line has none. Or the path
            to it: ``metrics.ttft_s.mean``.
        written: the text of a value that is there.
        unit: as the heading shows it.
        csv: its name in ``table.csv``, whose lines are cells; empty for a column that is not there.
        meaning: one line, without the title.
        words: no numbers: aligned left, sorted by its text.
        absent: stands where there is no value.
        mark: a footnote's sign beside the text.
        strong: whether it is the best of its column.
        failed: what stands in place of a number, and is coloured; empty for a line that has its number.
        shown: the whole field, where text and sorting follow from more than the value.
    """

    title: str
    value: Callable[[T_contra], Any] | str
    written: Callable[[Any], str] = str
    unit: str = ""
    csv: str = ""
    meaning: str = ""
    words: bool = False
    absent: str = ABSENT
    mark: Callable[[T_contra], str] = _nothing
    strong: Callable[[T_contra], bool] = _no
    failed: Callable[[T_contra], str] = _nothing
    shown: Callable[[T_contra], Entry] | None = None

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def of(self, line: T_contra) -> Any:
        """The value of one line."""
        return at(self.value)(line) if isinstance(self.value, str) else self.value(line)

    def entry(self, line: T_contra) -> Entry:
        """The field of one line."""
        instead = self.failed(line)
        if instead:
            return Entry(instead, failed=True)
        if self.shown is not None:
            return self.shown(line)
        value = self.of(line)
        text = self.absent if value is None else self.written(value)
        return Entry(text, None if self.words else value, strong=self.strong(line), mark=self.mark(line))


@cache
def at(path: str) -> Callable[[Any], Any]:
    """Reads attributes one after the other, ``None`` from the first that is ``None``: ``metrics.ttft_s.mean``.

    What it returns raises AttributeError for a name that is not there.
    """
    names = path.split(".")

    def read(line: Any) -> Any:
        for name in names:
            if line is None:
                return None
            line = getattr(line, name)
        return line

    return read


def raw(path: str, *names: str, csv: str = "{}") -> tuple[Column[Any], ...]:
    """Columns that stand in the CSV alone: attributes of what ``path`` leads to, ``csv`` their names there."""
    return tuple(Column("", f"{path}.{name}", csv=csv.format(name)) for name in names)


def entries(columns: Iterable[Column[T_contra]], line: T_contra) -> tuple[Entry, ...]:
    """One row of a table."""
    return tuple(column.entry(line) for column in columns)


def sheet(
    heading: str, columns: Sequence[Column[T_contra]], lines: Iterable[T_contra], notes: Iterable[str] = ()
) -> Sheet:
    """A table of these lines."""
    headings = tuple((column.heading, not column.words) for column in columns)
    return Sheet(heading, headings, tuple(entries(columns, line) for line in lines), tuple(notes))
