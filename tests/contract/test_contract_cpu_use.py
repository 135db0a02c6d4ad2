"""What others took of the CPUs follows from the counters, and a sample that they disturbed is no precise one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import BusyRule, CpuReading, CpuReadings, cpu_use, judged, taken_by_others
from bench_core.contract.records.events import BatchEvent, StopEvent, parse_event
from bench_core.contract.statistics.steadiness import steadiness
from bench_core.contract.statistics.stopping import Sample, StoppingRule, stop_reason
from bench_core.contract.statistics.workload_rate import Work


def readings(
    times_s: Sequence[float], *, cpus: int = 2, own: float = 1.0, others: float | Sequence[float] = 0.0
) -> list[CpuReadings]:
    """Counters before and after batches that begin and end at these times (CPUs used by the cell and by others)."""
    rates = [others] * len(times_s) if isinstance(others, int | float) else list(others)
    idle_s, own_s, last, found = 100.0, 7.0, times_s[0], []
    for time_s, rate in zip(times_s, rates, strict=True):
        idle_s += (cpus - own - rate) * (time_s - last)
        own_s += own * (time_s - last)
        last = time_s
        found.append(CpuReading(t_s=time_s, cpus=cpus, idle_s=max(0.0, idle_s), own_s=own_s))
    return list(zip(found[::2], found[1::2], strict=True))


def batch_times(count: int, latency_s: float = 0.2, pause_s: float = 0.01) -> list[float]:
    return [
        t for n in range(count) for t in (50 + n * (latency_s + pause_s), 50 + n * (latency_s + pause_s) + latency_s)
    ]


def test_others_time_is_what_is_neither_idle_nor_the_cells_own() -> None:
    first = CpuReading(t_s=10.0, cpus=4, idle_s=1000.0, steal_s=5.0, own_s=30.0)
    last = CpuReading(t_s=12.0, cpus=4, idle_s=1003.0, steal_s=5.5, own_s=33.0)
    use = cpu_use(first, last)
    assert use is not None
    assert (use.own_cpus, use.idle_cpus, use.steal_cpus) == (1.5, 1.5, 0.25)
    assert use.others_cpus == pytest.approx((4 * 2 - 3 - 3) / 2)
    assert use.others_share == pytest.approx(0.25)
    assert taken_by_others(use) == "1.00 of 4 CPUs (25 %), the hypervisor 0.25 of it"


def test_what_the_counters_cannot_tell_is_not_told() -> None:
    first = CpuReading(t_s=10.0, cpus=2, idle_s=1000.0, own_s=30.0)
    short = first.model_copy(update={"t_s": 10.4})
    fallen = first.model_copy(update={"t_s": 12.0, "own_s": 29.0})
    other = first.model_copy(update={"t_s": 12.0, "cpus": 1})
    assert [cpu_use(first, last) for last in (short, fallen, other)] == [None, None, None]
    assert judged(BusyRule(), []) is None
    assert judged(BusyRule(), [None, None]) is None
    assert judged(None, readings(batch_times(10), others=1.0)) is None, "a log of before it was looked at"
    rounded = first.model_copy(update={"t_s": 11.0, "idle_s": 1001.02, "own_s": 31.0})  # steps of 10 ms, two CPUs
    use = cpu_use(first, rounded)
    assert use is not None
    assert use.others_cpus == 0.0


@pytest.mark.parametrize(("cpus", "limit"), [(1, 0.1), (2, 0.2), (4, 0.4), (16, 0.4), (128, 0.4)])
def test_from_a_tenth_of_the_cpus_on_and_always_from_one_busy_loop_on(cpus: int, limit: float) -> None:
    """A loop that shares its CPU with a thread of the engine gets half of it: it must be seen on any machine."""
    rule = BusyRule()
    assert rule.limit_cpus(cpus) == pytest.approx(limit)
    for others, busy in ((limit * 0.9, False), (limit * 1.1, True), (0.5, True)):
        use = judged(rule, readings(batch_times(10), cpus=cpus, own=cpus / 2 - 0.1, others=others))
        assert use is not None
        assert use.busy is busy, (others, use)
    assert BusyRule(cpus=3.0).limit_cpus(cpus) == 3.0


def test_a_gpu_cell_is_disturbed_where_no_cpu_was_left_for_it() -> None:
    rule = BusyRule(idle_cpus=1.0)
    for others, busy in ((12.0, False), (15.0, True), (0.2, False)):
        use = judged(rule, readings(batch_times(10), cpus=16, own=1.0, others=others))
        assert use is not None
        assert use.busy is busy, use


def samples(count: int, cpu: Sequence[CpuReadings | None]) -> list[Sample]:
    """Batches of equal length: as precise as can be at the second look."""
    return [Sample(100, 0.2, 50 + n * 0.21, Work(50, 50), cpu[n]) for n in range(count)]


def reasons(rule: StoppingRule, cpu: Sequence[CpuReadings | None], available: int = 100) -> tuple[int, str | None]:
    """After how many batches measuring ends, and why."""
    for n in range(1, available + 1):
        reason = stop_reason(rule, samples(n, cpu), available, None)
        if reason is not None:
            return n, reason
    return available, None


def test_a_disturbed_sample_is_no_precise_one() -> None:
    """It has one look more to become a quiet one; then no more time is spent on it, and it is told what it is."""
    rule = StoppingRule(precision=0.01, busy=BusyRule())
    quiet, busy = readings(batch_times(100), others=0.05), readings(batch_times(100), others=1.0)
    assert reasons(rule, quiet) == (8, "precision")
    assert reasons(rule, busy) == (12, "busy")
    assert reasons(rule, [None] * 100) == (8, "precision")
    assert reasons(StoppingRule(precision=0.01), busy) == (8, "precision"), "a log of before it was looked at"
    passing = [1.0 if n < 4 else 0.0 for n in range(200)]  # the first two of the batches
    assert reasons(rule, readings(batch_times(100), others=passing)) == (12, "precision")
    assert reasons(rule, busy, available=10) == (10, "workload")
    assert reasons(StoppingRule(busy=BusyRule()), busy, available=10) == (10, "exhaustive")


def event(index: int, cpu: CpuReadings | None) -> BatchEvent:
    return BatchEvent(
        phase="measure", index=index, prompts=(index,), prompts_digest="0", prompt_tokens=(5,),
        started_s=50 + index * 0.21, latency_s=0.2, outputs=((1,) * 100,), cpu=cpu,
    )  # fmt: skip


def test_the_log_says_again_why_measuring_stopped() -> None:
    rule = StoppingRule(precision=0.01, busy=BusyRule())
    cpu = readings(batch_times(12), others=1.0)
    measured = [event(n, cpu[n]) for n in range(12)]
    stop = StopEvent(t_s=60.0, reason="busy", rule=rule, available_batches=100)
    assert steadiness([], measured, None, stop).stop_reason == "busy"
    assert parse_event(measured[0].model_dump_json(), "log") == measured[0]
    with pytest.raises(BadInput, match="say otherwise"):
        steadiness([], measured, None, stop.model_copy(update={"reason": "precision"}))
    with pytest.raises(BadInput, match="say otherwise"):
        steadiness([], [event(n, None) for n in range(12)], None, stop)
