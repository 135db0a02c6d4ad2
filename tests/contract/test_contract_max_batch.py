"""The search for the largest batch size: the right answer in few trials, or why there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.measures.max_batch import BatchTrial, MaxBatch, search_largest
from bench_core.contract.records.outcome import MemoryEvidence, Outcome

Attempt = Callable[[int], BatchTrial]


def engine(largest: int, asked: list[int], **odd: Outcome) -> Attempt:
    """One that runs out of memory above ``largest``; ``b<size>=outcome`` for sizes that end otherwise."""

    def attempt(size: int) -> BatchTrial:
        asked.append(size)
        outcome = odd.get(f"b{size}", Outcome.OK if size <= largest else Outcome.OOM_KV)
        cause = "" if outcome is Outcome.OK else "it says so"
        return BatchTrial(batch_size=size, number=len(asked), outcome=outcome, cause=cause)

    return attempt


@given(largest=st.integers(1, 5000), limit=st.integers(1, 5000))
def test_the_largest_that_fits_is_found_and_nothing_is_tried_twice(largest: int, limit: int) -> None:
    asked: list[int] = []
    found = search_largest(limit, engine(largest, asked))
    assert found.problem == ""
    assert found.largest == min(largest, limit)
    assert found.smallest_failing == (largest + 1 if largest < limit else None)
    assert len(asked) == len(set(asked)) <= 2 * limit.bit_length()
    assert max(asked) <= limit
    assert [trial.batch_size for trial in found.trials] == asked


def test_it_doubles_then_bisects() -> None:
    asked: list[int] = []
    search_largest(100, engine(23, asked))
    assert asked == [1, 2, 4, 8, 16, 32, 24, 20, 22, 23]


@given(largest=st.integers(0, 300), cut=st.integers(0, 20))
def test_a_search_that_was_cut_off_goes_on_with_what_it_knows(largest: int, cut: int) -> None:
    whole: list[int] = []
    expected = search_largest(256, engine(largest, whole))
    rest: list[int] = []
    found = search_largest(256, engine(largest, rest), expected.trials[:cut])
    assert whole[:cut] + rest == whole
    assert (found.largest, found.smallest_failing, found.problem) == (
        expected.largest,
        expected.smallest_failing,
        expected.problem,
    )


def test_not_even_one_fits() -> None:
    found = search_largest(64, engine(0, []))
    assert (found.largest, len(found.trials)) == (None, 1)
    assert found.problem == "not even batch size 1 fits: oom_kv: it says so"


@pytest.mark.parametrize("odd", [Outcome.CRASHED, Outcome.TIMEOUT, Outcome.KILLED, Outcome.OOM_LOAD])
def test_another_failure_says_nothing_of_the_batch_size_and_ends_the_search(odd: Outcome) -> None:
    """Neither as too large, which would make the answer too small, nor as fitting. It is tried again the next time."""
    asked: list[int] = []
    found = search_largest(64, engine(23, asked, b24=odd))
    assert found.largest is None
    assert found.problem == f"batch size 24: {odd.value}: it says so; 16 fits"
    assert asked[-1] == 24
    again = search_largest(64, engine(23, asked), found.trials)
    assert (again.largest, again.smallest_failing) == (23, 24)
    assert asked.count(24) == 2


def test_a_limit_that_fits_is_no_largest_of_the_engine() -> None:
    record = MaxBatch(
        image="null", variant="scripted", conditions={}, limit=12, limited_by="prompts", largest=12,
        trials=(engine(99, [])(12),), searches=2,
    )  # fmt: skip
    assert record.at_limit
    assert record.home == "null.scripted.2"
    assert record.trial_of(12) is not None
    assert record.trial_of(None) is None


def test_evidence_of_memory_is_read_back_and_nonsense_is_nothing() -> None:
    evidence = MemoryEvidence(host_at_death=5, host_peak=7, device_peak=0)
    assert evidence.words == {"host_bytes_at_death": "5", "host_peak_bytes": "7", "device_peak_bytes": "0"}
    assert MemoryEvidence.of({**evidence.words, "limit": "x"}) == evidence
    assert MemoryEvidence.of({"host_bytes_at_death": "-1", "host_peak_bytes": "\u0663"}) == MemoryEvidence()
    assert MemoryEvidence.of({"host_peak_bytes": "9" * 5000}) == MemoryEvidence()
    assert (evidence.at_death(on_cuda=False), evidence.at_death(on_cuda=True)) == (5, None)
    assert (evidence.peak(on_cuda=False), evidence.peak(on_cuda=True)) == (7, 0)
