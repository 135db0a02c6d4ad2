"""The estimate for a whole workload, held against a workload that was measured whole: real engines, real stories.

The published run measured every batch of 800 stories. Some of its batches, drawn at random, must tell what all of them
took. Drawn at random, not one after the other: how a host's speed wanders in minutes is not in any few batches.
"""

from __future__ import annotations

import random
from pathlib import Path
from statistics import mean

import pytest

from bench_core.contract.records import layout
from bench_core.contract.statistics.steadiness import sample
from bench_core.contract.statistics.stopping import Sample, rate_of
from bench_core.contract.statistics.workload_rate import WholeWork
from bench_core.runs.files import read_events
from bench_core.runs.load import load_run

RUN = Path(__file__).resolve().parents[2] / "results" / "published" / "2026-11-23-cpu-exhaustive"
DRAWS = 500


@pytest.fixture(scope="module")
def cells() -> dict[str, tuple[list[Sample], WholeWork]]:
    """The measured batches of each cell, and the workload's mean work."""
    view = load_run(RUN)
    assert view.workload is not None
    found = {}
    for row in view.grid:
        events = read_events(RUN, layout.cell_folder(RUN, row.planned.cell))
        done = [sample(event) for event in events if event.type == "batch" and event.phase == "measure"]
        found[row.planned.cell] = done, view.workload.whole_work(row.planned.batch_size)
    return found


# How many times smaller than the plain ratio's the error is, of five batches and of more. CTranslate2 reads what
# prompts have beyond the shortest of a batch token by token, and the shortest is not among the variables.
GAINS = {"transformers.fp32.b4": (2.0, 3.0), "llama-cpp-python.q8_0.b4": (2.0, 3.0), "ctranslate2.int8.b4": (1.0, 1.4)}


@pytest.mark.parametrize("n", [5, 8, 12, 18])
@pytest.mark.parametrize("cell", GAINS)
def test_some_batches_tell_what_all_of_them_took(
    cells: dict[str, tuple[list[Sample], WholeWork]], cell: str, n: int
) -> None:
    done, whole = cells[cell]
    true_tok_s = sum(batch.tokens for batch in done) / sum(batch.latency_s for batch in done)
    assert rate_of(done, whole).throughput_tok_s == pytest.approx(true_tok_s, rel=1e-9), "all of them are the workload"
    drawn = random.Random(n)  # noqa: S311  # a simulation
    covered, withheld, errors, plain_errors = 0, 0, [], []
    for _ in range(DRAWS):
        some = [done[k] for k in sorted(drawn.sample(range(len(done)), n))]
        found = rate_of(some, whole)
        if found.interval is None:
            assert found.misfit is not None
            withheld += 1
            continue
        covered += found.interval.low_tok_s <= true_tok_s <= found.interval.high_tok_s
        errors.append(abs(found.throughput_tok_s / true_tok_s - 1))
        plain_errors.append(abs(rate_of(some, None).throughput_tok_s / true_tok_s - 1))
    assert covered / (DRAWS - withheld) >= 0.92
    assert withheld / DRAWS <= 0.08, "they are drawn at random"
    assert mean(plain_errors) / mean(errors) >= GAINS[cell][n > 5]
