"""docs/serving.md's table of the two clients beside one server follows from what both have left."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from bench_core.runs.load import load_run

RUN = ROOT / "results" / "published" / "h200-serving"
OTHER = ROOT / "tests" / "data" / "serving_parity"
LOADS = {"concurrency-16": "concurrency 16", "concurrency-64": "concurrency 64", "rate-16": "16 requests/s"}


@pytest.mark.parametrize("name", LOADS)
def test_both_sides_stand_in_the_table(name: str) -> None:
    other = json.loads((OTHER / f"{name}.json").read_text(encoding="utf-8"))
    assert other["failed"] == 0
    row = next(row for row in load_run(RUN).served if row.load.words == LOADS[name])
    assert row.result is not None
    ours = row.result.metrics
    assert ours.ttft_s is not None
    assert ours.ttft_s.p50 is not None
    assert ours.tpot_s is not None
    assert ours.tpot_s.p50 is not None
    line = (
        f"| {LOADS[name]} | {ours.output_throughput_tok_s.value:.0f} | {other['output_throughput']:.0f} "
        f"| {ours.output_throughput_tok_s.value / other['output_throughput']:.3f} "
        f"| {ours.ttft_s.p50.value * 1e3:.1f} | {other['median_ttft_ms']:.1f} "
        f"| {ours.tpot_s.p50.value * 1e3:.2f} | {other['median_tpot_ms']:.2f} |"
    )
    assert line in (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), line
