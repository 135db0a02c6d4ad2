"""The JSON of comparisons: version 1 of its schema, which docs/schema/comparison.schema.json describes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bench_core.compare.comparison import Asked, Comparison, Line, needed
from bench_core.compare.side import Side
from bench_core.compare.tables import known_by, to_do
from bench_core.compare.verdict import Verdict

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schema" / "comparison.schema.json"
Word = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOTE"]


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunRecordOf(_Plain):
    """A run, or one version of an engine in it: its name, the folder that was given, what has to be alike, and what may
    differ."""

    name: str
    folder: str
    conditions: dict[str, str]
    facts: dict[str, str]


class Needed(_Plain):
    """How long to measure to be able to tell."""

    factor: float = Field(description="times as much as now")
    seconds: float = Field(description="of each measurement")
    batches: int = Field(description="of each measurement; of a cell under load, requests")
    repeats: int = Field(description="in each run")


class LineRecord(_Plain):
    """One quantity of one cell; without a quantity, a cell of which there is only something to say."""

    cell: str = Field(description="image.variant.scenario")
    method: str
    scenario: str
    verdict: Word
    quantity: str | None = None
    unit: str | None = None
    higher_is_better: bool | None = None
    old: float | None = Field(None, description="mean of the baseline's repeats")
    new: float | None = None
    change: float | None = Field(None, description="new / old - 1; of the batches that both measured, where there are")
    low: float | None = Field(None, description="lower end of its 95 % interval; absent where there is none")
    high: float | None = None
    known_by: Literal["intervals", "repeats"] | None = None
    bound: float | None = Field(None, description="allowed worsening, a share")
    remark: str = ""
    needed: Needed | None = None


class ComparisonRecord(_Plain):
    """A run against the baseline."""

    run: RunRecordOf
    verdict: Word
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    lines: tuple[LineRecord, ...]


class ComparisonsRecord(_Plain):
    """The file."""

    schema_version: Literal[1] = 1
    bench_version: str
    verdict: Word = Field(description="the worst of all comparisons")
    exit_code: Literal[0, 1, 3]
    baseline: RunRecordOf
    max_regression: dict[str, float] = Field(description="allowed worsening by quantity, a share")
    between_runs: float = Field(description="standard deviation between starts that was given; 0: none")
    comparisons: tuple[ComparisonRecord, ...]


def record_of(comparisons: Sequence[Comparison], verdict: Verdict, exit_code: int, version: str) -> ComparisonsRecord:
    """All comparisons with one baseline."""
    first = comparisons[0]
    asked: Asked = first.asked
    return ComparisonsRecord.model_validate({
        "bench_version": version,
        "verdict": verdict.value,
        "exit_code": exit_code,
        "baseline": _run(first.old),
        "max_regression": {quantity.name: asked.bounds[quantity.name] for quantity in asked.quantities},
        "between_runs": asked.starts,
        "comparisons": [
            ComparisonRecord(
                run=_run(one.new), verdict=one.verdict.value, warnings=one.warnings, notes=one.notes,
                lines=tuple(_line(line) for line in one.lines),
            )
            for one in comparisons
        ],
    })  # fmt: skip


def _run(side: Side) -> RunRecordOf:
    return RunRecordOf(name=side.name, folder=side.folder, conditions=side.conditions, facts=side.facts)


def _line(line: Line) -> LineRecord:
    quantity, change, factor = line.quantity, line.change, line.judged.factor
    ends = change.ends if change is not None else None
    found = needed(line)
    more = None
    if found is not None and factor is not None:
        more = Needed(factor=factor, seconds=found[0], batches=found[1], repeats=found[2])
    by = known_by(line)
    return LineRecord(
        cell=line.cell, method=line.label, scenario=line.scenario, verdict=line.verdict.value,
        quantity=quantity.name if quantity is not None else None,
        unit=quantity.unit if quantity is not None else None,
        higher_is_better=quantity.higher_is_better if quantity is not None else None,
        old=line.old, new=line.new, change=change.relative if change is not None else None,
        low=ends[0] if ends is not None else None, high=ends[1] if ends is not None else None,
        known_by="repeats" if by == "repeats" else "intervals" if by == "intervals" else None,
        bound=line.bound, remark=to_do(line), needed=more,
    )  # fmt: skip


def schema_text() -> str:
    """What docs/schema/comparison.schema.json must hold."""
    return json.dumps(ComparisonsRecord.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    sys.stdout.write(f"{SCHEMA.name}\n")
