"""JSON Schemas of the files that people write, so that editors complete and check them, and of a run's export, so that
programs can rely on it; a test keeps them current."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records.record import LARGEST_FLOAT, LARGEST_INT, SMALLEST_INT, Record
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import REPOSITORY
from bench_core.report.export.schema import Export

SCHEMAS: dict[Path, type[Record]] = {
    REPOSITORY / "docs" / "schema" / "image.schema.json": Manifest,
    REPOSITORY / "docs" / "schema" / "suite.schema.json": Suite,
    REPOSITORY / "docs" / "schema" / "export.schema.json": Export,
}


def schema_text(path: Path) -> str:
    """What the schema file at ``path`` must hold."""
    return json.dumps(_without_bounds_of_all(SCHEMAS[path].model_json_schema()), indent=2) + "\n"


def _without_bounds_of_all(schema: Any) -> Any:
    """Leaves out what holds for every number of every record: it tells an editor nothing."""
    if isinstance(schema, list):
        return [_without_bounds_of_all(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    usual = {"minimum": (SMALLEST_INT, -LARGEST_FLOAT), "maximum": (LARGEST_INT, LARGEST_FLOAT)}
    return {
        key: _without_bounds_of_all(part)
        for key, part in schema.items()
        if isinstance(part, dict | list) or part not in usual.get(key, ())
    }


if __name__ == "__main__":
    for target in SCHEMAS:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(schema_text(target), encoding="utf-8")
        sys.stdout.write(f"{target.relative_to(REPOSITORY)}\n")
