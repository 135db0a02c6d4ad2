"""The offset of another machine's clock, from questions and answers, and what of it makes a cell not ranked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bench_core.contract.serving.measures import client_limited
from bench_core.contract.statistics.clocks import ClientEvent, ClockRounds

US = 1000


def rounds(ahead_ns: int, *ways_us: tuple[int, int], at_ns: int = 10**12) -> ClockRounds:
    """Questions whose ways there and back take so long, to a clock that is ahead and answers after 5 µs."""
    asked = [at_ns + 10**7 * place for place in range(len(ways_us))]
    heard = [at + ahead_ns + there * US for at, (there, _) in zip(asked, ways_us, strict=True)]
    answered = [at + 5 * US for at in heard]
    back = [at - ahead_ns + home * US for at, (_, home) in zip(answered, ways_us, strict=True)]
    return ClockRounds(asked=tuple(asked), heard=tuple(heard), answered=tuple(answered), back=tuple(back))


@pytest.mark.parametrize("ahead_ns", [0, 5_000_000_000_123, 7, -123_456_789])
@pytest.mark.parametrize("ways_us", [(30, 30), (55, 5), (0, 60), (60, 0)])
def test_the_truth_is_within_the_bound_whichever_way_is_slower(ahead_ns: int, ways_us: tuple[int, int]) -> None:
    found = rounds(ahead_ns, (400, 90), ways_us, (80, 300))
    assert found.bound_ns == 30 * US + 1, "half of the shortest round trip"
    assert abs(found.offset_ns - ahead_ns) <= found.bound_ns
    if ways_us[0] == ways_us[1]:
        assert found.offset_ns == ahead_ns


def client(drift_us: int, way_us: int) -> ClientEvent:
    start_ns, before = 10**12 + 10**9, rounds(0, (way_us, way_us))
    after = rounds(drift_us * US, (way_us, way_us), at_ns=10**12 + 60 * 10**9)
    return ClientEvent(
        node="far", processes=(0,), before=before, after=after,
        start_ns=start_ns, start_there_ns=start_ns + before.offset_ns,
    )  # fmt: skip


def test_drift_is_what_the_offset_has_changed_by() -> None:
    found = client(-700, 40)
    assert found.drift_s == pytest.approx(-0.0007)
    assert found.lasted_s == pytest.approx(60)
    assert found.misplaced_s == pytest.approx(0.0007 + 0.00004, abs=1e-8)
    assert client(10, 40).misplaced_s == pytest.approx(0.00005, abs=1e-8)


@pytest.mark.parametrize(
    ("drift_us", "way_us", "limited"), [(0, 40, False), (1900, 40, False), (2100, 40, True), (0, 2100, True)]
)
def test_a_clock_that_is_known_to_less_than_what_lateness_may_be_is_the_clients_limit(
    drift_us: int, way_us: int, limited: bool
) -> None:
    words = client_limited((), None, None, (client(0, 10), client(drift_us, way_us)))
    assert words.startswith("the clock of far is known to 2.") if limited else words == ""


def test_rounds_that_cannot_be_are_refused() -> None:
    good = rounds(0, (30, 30))
    with pytest.raises(ValidationError, match="differ in length"):
        ClockRounds(asked=good.asked, heard=good.heard * 2, answered=good.answered, back=good.back)
    with pytest.raises(ValidationError, match="before it could be"):
        ClockRounds(asked=good.asked, heard=good.heard, answered=good.answered, back=good.asked)
