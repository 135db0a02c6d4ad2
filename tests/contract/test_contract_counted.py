"""What is computed from counts, ranges and windows is what a list of every value gives, to the last digit."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.measures.token_times import itl_s
from bench_core.contract.models.steps import _quantiles
from bench_core.contract.records.events import Arrivals, BatchEvent
from bench_core.contract.statistics.distribution import Distribution

GAPS = st.lists(st.integers(0, 40).map(lambda gap: gap / 1e6), min_size=1, max_size=700)


@given(GAPS)
def test_counted_values_have_the_distribution_of_a_list_of_them(values: list[float]) -> None:
    found = Distribution.of_counts(Counter(values))
    assert found == Distribution.of(values)
    assert found is not None
    assert found.median == statistics.median(values)
    assert found.mean == math.fsum(values) / len(values)


ANY = st.floats(-1e30, 1e30) | st.floats(-1e-3, 1e-3)  # as far as a record's numbers go, and down to the least


@given(st.dictionaries(ANY, st.integers(1, 300), min_size=1, max_size=30))
def test_sums_of_counted_values_are_rounded_once(counts: dict[float, int]) -> None:
    values = sorted(Counter(counts).elements())
    found, listed = Distribution.of_counts(counts), Distribution.of(values)
    assert found == listed
    assert found is not None
    assert found.mean == math.fsum(values) / len(values)


def test_nothing_counted_has_no_distribution() -> None:
    assert Distribution.of_counts({}) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=40))
def test_quantiles_of_ranges_are_those_of_their_values(spans: list[tuple[int, int]]) -> None:
    ranges = [range(start, start + length) for start, length in spans]
    values = sorted(value for one in ranges for value in one)
    if not values:
        return
    ranks = [max(1, math.ceil(len(values) * step / 20)) for step in range(21)]
    assert _quantiles(ranges) == tuple(values[rank - 1] for rank in ranks)


@pytest.mark.parametrize("shared", [True, False])
def test_gaps_of_rows_that_share_their_arrivals_count_for_each_row(shared: bool) -> None:
    offsets = (1000, 3000, 5000, 9000)
    batch = BatchEvent(
        phase="measure", index=0, prompts=(0, 1), prompts_digest="", prompt_tokens=(1, 1), started_s=1.0, latency_s=1.0,
        outputs=((1,) * 4, (2,) * 4),
        arrivals=Arrivals(source="worker", shared=shared, offsets_us=(offsets,) * (1 if shared else 2)),
    )  # fmt: skip
    assert itl_s([batch, batch]) == {0.002: 8, 0.004: 4}
