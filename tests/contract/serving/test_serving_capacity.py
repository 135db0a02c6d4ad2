"""The highest load that keeps the limits: in few trials, to within 3 %, or why there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.serving.capacity import Capacity, LoadTrial, search_capacity
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.statistics.correlated import Estimate


def trial(load: float, number: int, share: float, *, saturated: bool = False, problem: str = "") -> LoadTrial:
    found = Estimate(value=share, low=share - 0.01, high=min(share + 0.01, 1.0), n=500)
    return LoadTrial(load=load, number=number, attainment=found, saturated=saturated, problem=problem)


def server(capacity: float, asked: list[float]) -> Callable[[float], LoadTrial]:
    """Keeps the limits up to a load; beyond twice as much it is saturated."""

    def attempt(load: float) -> LoadTrial:
        asked.append(load)
        share = 1.0 if load <= capacity else 0.9
        return trial(load, len(asked), share, saturated=load > 2 * capacity)

    return attempt


@given(capacity=st.floats(0.02, 5000), first=st.floats(0.5, 10))
def test_a_rate_is_found_to_within_three_percent(capacity: float, first: float) -> None:
    asked: list[float] = []
    found = search_capacity("request_rate", first, 1000.0, server(capacity, asked))
    if capacity < first / 1024:
        assert "not even" in found.problem
        return
    assert found.problem == ""
    assert found.highest is not None
    assert len(asked) == len(set(asked)) <= 24
    if found.lowest_failing is None:
        assert found.highest == 1000.0 <= capacity
    else:
        assert found.highest <= capacity < found.lowest_failing <= 1.03 * found.highest + 1e-9


@given(capacity=st.integers(1, 3000), limit=st.integers(1, 2000), first=st.integers(1, 64))
def test_a_concurrency_is_whole(capacity: int, limit: int, first: int) -> None:
    asked: list[float] = []
    found = search_capacity("concurrency", first, limit, server(capacity, asked))
    assert all(load == int(load) <= limit for load in asked)
    assert found.highest is not None
    assert found.highest <= min(capacity, limit)
    if found.lowest_failing is None:
        assert found.highest == limit
    else:
        assert found.lowest_failing - found.highest <= max(1.0, 0.03 * found.highest)


def test_it_doubles_then_bisects() -> None:
    asked: list[float] = []
    search_capacity("concurrency", 1, 100, server(23, asked))
    assert asked == [1, 2, 4, 8, 16, 32, 24, 20, 22, 23]


def test_a_close_trial_is_decided_by_its_value_and_says_that_it_is_close() -> None:
    assert trial(1.0, 1, 0.991).keeps(0.99) is True
    assert trial(1.0, 1, 0.989).keeps(0.99) is False
    assert trial(1.0, 1, 0.989).is_close(0.99)
    assert not trial(1.0, 1, 0.9).is_close(0.99)
    assert trial(1.0, 1, 1.0, saturated=True).keeps(0.99) is False
    assert trial(1.0, 1, 1.0, problem="no server").keeps(0.99) is None


def test_a_trial_that_does_not_tell_ends_the_search() -> None:
    def attempt(load: float) -> LoadTrial:
        return trial(load, 1, 1.0, problem="the server ended" if load > 2 else "")

    found = search_capacity("request_rate", 1.0, 100.0, attempt)
    assert found.highest is None
    assert found.problem == "4 requests/s: the server ended; 2 requests/s keeps them"


def test_nothing_is_kept() -> None:
    found = search_capacity("concurrency", 4, 100, lambda load: trial(load, 1, 0.5))
    assert found.problem == "not even concurrency 1 keeps the limits"
    assert [one.load for one in found.trials] == [4, 2, 1]


@pytest.mark.parametrize(
    ("window_s", "first", "asked"),
    [(120.0, 1.0, [1.0, 0.5, 0.25]), (20.0, 1.0, [1.0]), (60.0, 3.0, [3.0, 1.5, 0.75, 0.5]), (1e5, 1.0, None)],
)
def test_no_rate_is_kept(window_s: float, first: float, asked: list[float] | None) -> None:
    """No window has fewer than thirty requests, but for that of the rate asked for; and ten halvings are enough."""
    found = search_capacity("request_rate", first, 100.0, lambda load: trial(load, 1, 0.5), window_s=window_s)
    loads = [one.load for one in found.trials]
    assert loads == (asked or [2.0**-k for k in range(11)])
    assert found.problem.startswith(f"no rate within the limits: the least tried was {loads[-1]:g} requests/s")
    assert ("--max-serve-seconds" in found.problem) == (asked is not None)
    assert found.none_keeps
    assert found.is_answered
    assert found.lowest_failing == loads[-1]
    assert all(load * window_s >= 30 for load in loads[1:])


def test_a_rate_below_the_first_is_found_where_windows_have_enough_requests() -> None:
    asked: list[float] = []
    found = search_capacity("request_rate", 2.0, 100.0, server(0.4, asked), window_s=120.0)
    assert asked[:4] == [2.0, 1.0, 0.5, 0.25]
    assert found.highest == pytest.approx(0.4, rel=0.03)
    assert not found.none_keeps


def test_a_search_that_was_cut_off_goes_on_with_what_it_knows() -> None:
    whole: list[float] = []
    expected = search_capacity("request_rate", 1.0, 100.0, server(23.0, whole))
    asked: list[float] = []
    found = search_capacity("request_rate", 1.0, 100.0, server(23.0, asked), known=expected.trials[:5])
    assert asked == whole[5:]
    assert found.highest == expected.highest


def test_a_record_of_it_names_its_folders() -> None:
    record = Capacity(
        image="vllm", variant="fp16", varied="request_rate", limits=Limits(ttft_s=0.5), conditions={}, limit=100.0,
        trials=(trial(1.0, 1, 1.0),), highest=100.0,
    )  # fmt: skip
    assert record.method == "vllm.fp16"
    assert record.at_limit
    assert record.trials[0].folder == "trial-01"
    assert record.home == "vllm.fp16"
    assert Capacity.parse(record.to_json(), "file") == record


def test_loads_are_bounded() -> None:
    with pytest.raises(ValueError, match="load"):
        trial(0.0, 1, 1.0)
