"""Writes the export of a run, in one or several formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_core import __version__
from bench_core.contract.errors import BadInput, MachineFailure, nearest
from bench_core.report.export.about import VERSION
from bench_core.report.export.detail import Detailed, read_detailed
from bench_core.report.export.llm_d import reports_of
from bench_core.report.export.tables import Table, Value, tables_of
from bench_core.report.format import csv_text
from bench_core.system.files import write_file

FORMATS = ("parquet", "csv", "json", "llm-d")
JSON_FILE = "export.json"
LLM_D_FOLDER = "llm-d"


def formats_of(words: str) -> tuple[str, ...]:
    """``parquet,csv``; all for an empty text.

    Raises:
        BadInput: a name that is none of ``FORMATS``.
    """
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    for name in names:
        if name not in FORMATS:
            raise BadInput(f"--export-format: {name!r} is no format", nearest(name, FORMATS))
    return names or FORMATS


def export(run_folder: Path, target: Path, formats: Sequence[str] = FORMATS) -> tuple[Path, ...]:
    """Recomputes a run from its raw events and writes it into a folder; each file replaces its predecessor at once.

    Raises:
        BadInput: not a run; or llm-d's report alone is wanted, and no cell under load has numbers.
        MachineFailure: the target cannot be written.
    """
    run = read_detailed(run_folder)
    tables = tables_of(run)
    made = {"parquet": _parquet, "csv": _csv, "json": _json, "llm-d": _llm_d}
    contents: dict[str, bytes] = {}
    for name in formats:
        contents |= made[name](run, tables)
    if not contents:
        raise BadInput(
            f"{run_folder}: llm-d's report is of cells under load, and none has numbers",
            "--export-format parquet,csv,json writes cells of any kind",
        )
    try:
        for name, content in contents.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(target / name, content)
    except OSError as error:
        raise MachineFailure(f"{target}: cannot write the export: {error.strerror or error}") from error
    return tuple(target / name for name in contents)


def _csv(_run: Detailed, tables: Sequence[Table]) -> dict[str, bytes]:
    return {f"{table.name}.csv": csv_of(table).encode() for table in tables}


def csv_of(table: Table) -> str:
    """A table as CSV: the first line has the names, an empty field has no value, no text is a formula."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(field.name for field in table.fields)
    for row in table.rows:
        writer.writerow(_field(row[field.name]) for field in table.fields)
    return target.getvalue()


def _field(value: Value) -> Value:
    return csv_text(value) if isinstance(value, str) else value


def _parquet(run: Detailed, tables: Sequence[Table]) -> dict[str, bytes]:
    import pyarrow  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy
    from pyarrow import parquet  # noqa: PLC0415 - heavy

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    about = {"llm_bench.schema_version": str(VERSION), "llm_bench.run_id": run.view.record.run_id}
    found = {}
    for table in tables:
        schema = pyarrow.schema(
            [
                pyarrow.field(field.name, kinds[field.kind], metadata=_words(field.unit, field.meaning))
                for field in table.fields
            ],
            metadata=about,
        )
        target = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(list(table.rows), schema=schema), target, compression="zstd")
        found[f"{table.name}.parquet"] = target.getvalue()
    return found


def _words(unit: str, meaning: str) -> dict[str, str]:
    return {name: text for name, text in (("unit", unit), ("meaning", meaning)) if text}


def _json(run: Detailed, tables: Sequence[Table]) -> dict[str, bytes]:
    from bench_core.report.export.schema import Export  # noqa: PLC0415 - it makes three models of many fields

    rows: dict[str, Any] = {table.name: table.rows for table in tables}
    made = Export(run_id=run.view.record.run_id, exported_by=__version__, **rows)
    return {JSON_FILE: (made.model_dump_json(indent=1, exclude_none=True) + "\n").encode()}


def _llm_d(run: Detailed, tables: Sequence[Table]) -> dict[str, bytes]:
    cells = {str(row["cell"]): row for row in tables[0].rows}
    return {
        f"{LLM_D_FOLDER}/{cell}.json": (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()
        for cell, report in reports_of(run, cells).items()
    }
