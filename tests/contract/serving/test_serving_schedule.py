"""When requests are sent: the same everywhere, as asked for, and refused where it is not what it says."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.schedule import Schedule, constant, make_schedule, poisson

RATE = Serve(load="rate", request_rate=8.0)


def test_poisson_times_are_these_on_every_machine() -> None:
    """u of random.Random(1): 0.13436424411240122, 0.8474337369372327, 0.763774618976614."""
    first = -math.log(1 - 0.13436424411240122) / 2
    second = first - math.log(1 - 0.8474337369372327) / 2
    assert poisson(2.0, 1, 2) == [round(first * 1e6), round(second * 1e6)]
    assert poisson(2.0, 1, 3) == [72146, 1012224, 1733708]


def test_poisson_gaps_have_the_rate() -> None:
    times = poisson(8.0, 3, 20_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert math.fsum(gaps) / len(gaps) == pytest.approx(125_000, rel=0.03)
    assert sum(gap > 125_000 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.015)


def test_constant_gaps_do_not_drift() -> None:
    assert constant(3.0, 4) == [0, 333333, 666667, 1000000]


def test_a_rate_fills_its_horizon_and_uses_prompts_again() -> None:
    found = make_schedule(RATE, 7, prompts=10, max_new_tokens=20, horizon_s=30.0)
    assert found.offsets_us[-1] < 30_000_000
    assert found.requests == len(found.offsets_us) == pytest.approx(240, abs=60)
    assert found.prompts[:12] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1)
    assert found.prompt_of(11) == 1
    assert found.output_of(5) == 20
    longer = make_schedule(RATE, 7, prompts=10, max_new_tokens=20, horizon_s=60.0)
    assert longer.offsets_us[: len(found.offsets_us)] == found.offsets_us
    assert make_schedule(RATE, 8, 10, 20, 30.0).digest != found.digest
    even = make_schedule(Serve(load="rate", request_rate=8.0, arrivals="constant"), 7, 10, 20, 1.0)
    assert even.offsets_us == (0, 125000, 250000, 375000, 500000, 625000, 750000, 875000)


def test_a_closed_loop_has_no_times() -> None:
    found = make_schedule(Serve(load="concurrency", concurrency=4), 7, 10, 20, 30.0)
    assert found.offsets_us == ()
    assert found.requests is None
    assert found.prompt_of(23) == 3


def test_a_very_slow_rate_has_one_request() -> None:
    assert make_schedule(Serve(load="rate", request_rate=0.001), 1, 10, 20, 1.0).requests == 1


@pytest.mark.parametrize(
    ("load", "prompts", "horizon_s", "cause"),
    [
        (RATE, 0, 10.0, "needs a prompt"),
        (Serve(load="trace"), 5, 10.0, "follows from its file"),
        (Serve(load="rate", request_rate=1e6), 5, 1e6, "more than 500000"),
        (RATE, 5, math.inf, "more than"),
        (RATE, 5, math.nan, "more than"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(load: Serve, prompts: int, horizon_s: float, cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        make_schedule(load, 1, prompts, 20, horizon_s)


@given(
    rate=st.floats(0.01, 1000), seed=st.integers(0, 2**63 - 1), horizon_s=st.floats(0.1, 5), prompts=st.integers(1, 50)
)
def test_a_schedule_comes_back_from_its_file(rate: float, seed: int, horizon_s: float, prompts: int) -> None:
    made = make_schedule(Serve(load="rate", request_rate=rate), seed, prompts, 20, horizon_s)
    assert Schedule.unpacked(made.packed(), "file") == made
    assert made.packed() == make_schedule(Serve(load="rate", request_rate=rate), seed, prompts, 20, horizon_s).packed()


def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    made = make_schedule(RATE, 1, 5, 20, 2.0)
    path = tmp_path / "schedule.json.gz"
    with pytest.raises(BadInput, match=r"schedule\.json\.gz"):
        Schedule.read_packed(path)
    path.write_bytes(made.packed())
    assert Schedule.read_packed(path) == made
    for content in (b"", b"no gzip", made.packed()[:-9], gzip.compress(b"{}")):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"schedule\.json\.gz"):
            Schedule.read_packed(path)
    changed = gzip.decompress(made.packed()).replace(b'"seed":1', b'"seed":2')
    with pytest.raises(BadInput, match="digest"):
        Schedule.unpacked(gzip.compress(changed), "file")


@pytest.mark.parametrize(
    ("load", "offsets", "prompts", "output"),
    [
        (RATE, (), (0,), 5),
        (RATE, (2, 1), (0, 1), 5),
        (RATE, (1, 2), (0,), 5),
        (RATE, (1, 2), (0, 1), (5,)),
        (RATE, (1, 2), (0, 1), (5, 0)),
        (RATE, (-1, 2), (0, 1), 5),
        (Serve(load="concurrency", concurrency=2), (1,), (0,), 5),
        (Serve(load="concurrency", concurrency=2), (), (), 5),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(
    load: Serve, offsets: tuple[int, ...], prompts: tuple[int, ...], output: int | tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Schedule.made(load, 1, offsets, prompts, output)
