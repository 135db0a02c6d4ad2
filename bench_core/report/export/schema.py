"""``export.json``, and by its rows the Parquet and CSV files: version 1 of docs/schema/export.schema.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, create_model

from bench_core.contract.records.record import Record
from bench_core.report.export.tables import Field as Column
from bench_core.report.export.tables import batch_fields, cell_fields, request_fields


def _row(name: str, what: str, fields: Sequence[Column]) -> type[Record]:
    """A record of a table's row; every number and word may be missing, but for those that make the key."""
    declared: dict[str, Any] = {}
    for column in fields:
        meaning = column.meaning or None
        if column.name in ("run_id", "cell"):
            declared[column.name] = (column.kind, Field(description=meaning))
        elif column.name == "schema_version":
            declared[column.name] = (Literal[1], Field(description=meaning))
        else:
            unit = {"unit": column.unit} if column.unit else {}
            declared[column.name] = (column.kind | None, Field(None, description=meaning, json_schema_extra={**unit}))
    return create_model(name, __base__=Record, __doc__=what, **declared)


Cells = _row("Cells", "One cell: a method at a batch size or load point.", cell_fields())
Batches = _row("Batches", "One batch of a cell of closed batches.", batch_fields())
Requests = _row("Requests", "One request of a cell under load.", request_fields())


class Export(Record):
    """A run as tables. A field that is not there has no value; names end in their unit, where they have one.

    Attributes:
        run_id: the run's name.
        exported_by: version of the suite that wrote this.
    """

    schema_version: Literal[1] = 1
    run_id: str
    exported_by: str
    cells: tuple[Cells, ...]  # type: ignore[valid-type]  # made of the declared columns
    batches: tuple[Batches, ...] = ()  # type: ignore[valid-type]
    requests: tuple[Requests, ...] = ()  # type: ignore[valid-type]
