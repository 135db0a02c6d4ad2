"""JSON Schemas of the files that people write, so that editors complete and check them; a test keeps them current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench_core.contract.manifest import Manifest
from bench_core.contract.record import Record
from bench_core.drive.catalogue import REPOSITORY
from bench_core.drive.request import Suite

SCHEMAS: dict[Path, type[Record]] = {
    REPOSITORY / "docs" / "schema" / "image.schema.json": Manifest,
    REPOSITORY / "docs" / "schema" / "suite.schema.json": Suite,
}


def schema_text(path: Path) -> str:
    """What the schema file at ``path`` must hold."""
    return json.dumps(SCHEMAS[path].model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    for target in SCHEMAS:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(schema_text(target), encoding="utf-8")
        sys.stdout.write(f"{target.relative_to(REPOSITORY)}\n")
