"""The export's tables: columns with type and unit, and rows of plain values. Every format is written from these.

A column's type follows from where its value stands: the path that it is declared with, or the function's annotation.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from bench_core.report.cell import Cell
from bench_core.report.column import Column
from bench_core.report.document import every_cell_column, every_served_column
from bench_core.report.export.about import ABOUT
from bench_core.report.export.detail import BATCHES, REQUESTS, BatchLine, Detailed, RequestLine
from bench_core.report.served import Served
from bench_core.system.text import one_line

Value = str | int | float | bool | None

# By which part of a name says it; the longest first.
UNITS = {
    "nat_per_token": "nat/token", "joules_per_output_token": "J/token", "tok_s": "token/s", "per_s": "1/s",
    "bytes": "byte", "joules": "J", "flop": "FLOP", "mhz": "MHz", "cpus": "CPU", "w": "W", "c": "°C", "s": "s",
}  # fmt: skip
_PLACES = """
schema_version run_id cell scenario point image variant method batch_size load concurrency request_rate_per_s arrivals
repeat visit outcome cause ranked unranked
"""


@dataclass(frozen=True)
class Field:
    """One column of a table.

    Attributes:
        kind: of its values: str, int, float or bool.
        unit: empty for words, counts and shares.
        of: what reads it, by the kind of line.
    """

    name: str
    kind: type
    unit: str
    meaning: str
    of: Mapping[type, Column[Any]]


@dataclass(frozen=True)
class Table:
    """A table: columns, the same for every run, and a row for each cell, batch or request."""

    name: str
    fields: tuple[Field, ...]
    rows: tuple[dict[str, Value], ...]


@cache
def cell_fields() -> tuple[Field, ...]:
    """Columns of a cell of any kind."""
    declared: dict[str, dict[type, Column[Any]]] = {}
    for line, columns in ((Cell, (*ABOUT, *every_cell_column())), (Served, (*ABOUT, *every_served_column()))):
        for column in columns:
            if column.csv:
                declared.setdefault(column.csv, {}).setdefault(line, column)
    first = _PLACES.split()
    names = (*first, *(name for name in declared if name not in first))
    return tuple(_field(name, declared[name]) for name in names)


@cache
def batch_fields() -> tuple[Field, ...]:
    """Columns of a batch."""
    return tuple(_field(column.csv, {BatchLine: column}) for column in BATCHES)


@cache
def request_fields() -> tuple[Field, ...]:
    """Columns of a request."""
    return tuple(_field(column.csv, {RequestLine: column}) for column in REQUESTS)


def tables_of(run: Detailed) -> tuple[Table, ...]:
    """``cells``, and ``batches`` or ``requests`` or both, as the run has them."""
    view = run.view
    cells: list[Cell | Served] = [*(Cell(view, row) for row in view.rows), *(Served(view, row) for row in view.served)]
    found = [Table("cells", cell_fields(), _rows(cell_fields(), cells))]
    if view.rows:
        found.append(Table("batches", batch_fields(), _rows(batch_fields(), run.batches)))
    if view.served:
        found.append(Table("requests", request_fields(), _rows(request_fields(), run.requests)))
    return tuple(found)


def _rows(fields: Sequence[Field], lines: Iterable[Any]) -> tuple[dict[str, Value], ...]:
    return tuple({field.name: _value(field, line) for field in fields} for line in lines)


def _value(field: Field, line: Any) -> Value:
    column = field.of.get(type(line))
    return None if column is None else plain(column.of(line), field.kind)


def plain(value: Any, kind: type) -> Value:
    """A value as tables hold it: text in one printable line; no number for one that is not finite."""
    if value is None:
        return None
    if kind is str:
        return one_line(str(value))
    if kind is float:
        return float(value) if math.isfinite(value) else None
    return kind(value)  # type: ignore[no-any-return]  # int or bool


def _field(name: str, of: Mapping[type, Column[Any]]) -> Field:
    kinds = {kind_of(column, line) for line, column in of.items()}
    if len(kinds) > 1 and kinds != {int, float}:
        raise TypeError(f"{name} has values of several types")
    kind = float if float in kinds else kinds.pop()
    return Field(name, kind, "" if kind in (str, bool) else unit_of(name), _meaning(name, of.values()), of)


def _meaning(name: str, columns: Iterable[Column[Any]]) -> str:
    """What the declarations say; of an interval's end which it is of."""
    for end, words in (("_low", "lower"), ("_high", "upper")):
        if name.endswith(end) or f"{end}_" in name:
            return f"{words} end of the 95 % interval of {name.replace(end, '', 1)}"
    said = dict.fromkeys(column.meaning or column.title for column in columns)
    return "; under load: ".join(words for words in said if words)


def unit_of(name: str) -> str:
    """What the end of a name says; empty for counts and shares."""
    return next((unit for end, unit in UNITS.items() if name == end or name.endswith(f"_{end}")), "")


def kind_of(column: Column[Any], line: type) -> type:
    """The type of a column's values.

    Raises:
        TypeError: its declaration does not tell it.
    """
    if callable(column.value):
        found = _plain_types(typing.get_type_hints(column.value).get("return"))
    else:
        found = {line}
        for name in column.value.split("."):
            found = {kind for owner in found for kind in _attribute(owner, name)}
    known = {str if isinstance(kind, str) else kind for kind in found}
    if known == {int, float}:
        known = {float}
    if len(known) != 1 or not known <= {str, int, float, bool}:
        raise TypeError(f"{column.csv}: {column.value} does not say of which type it is: {found}")
    return known.pop()


def _attribute(owner: type, name: str) -> set[Any]:
    for base in owner.__mro__:
        found = base.__dict__.get(name)
        read: Callable[..., Any] | None = None
        if isinstance(found, property):
            read = found.fget
        elif isinstance(found, cached_property):
            read = found.func
        if read is not None:
            return _plain_types(typing.get_type_hints(read)["return"])
    return _plain_types(typing.get_type_hints(owner)[name])


def _plain_types(hint: Any) -> set[Any]:
    """What stands in an annotation, ``None`` left out; of a literal its type."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    if origin in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(hint) if part is not type(None) for kind in _plain_types(part)}
    return {hint}
