"""Ten orders of one workload, and random ones: an interval that a cell states holds the throughput of all of it, as
measuring everything gives it, or is not stated. The worker's own code on a clock of our own, so that there is no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from worker_material import make_spec, make_workload
from workload_orders import orders

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.records.events import BatchEvent, StopEvent
from bench_core.contract.records.record import Record
from bench_core.contract.records.workload import Workload, shuffled_order
from bench_core.contract.statistics.steadiness import sample, steadiness
from bench_core.contract.statistics.stopping import StopReason
from bench_core.contract.statistics.workload_rate import Work, WorkloadRate, work_of
from bench_core.worker.engine.measure import CellRun

ROWS, PROMPTS, NEW_TOKENS = 4, 800, 8
LENGTHS = [20 + 2 * k for k in range(PROMPTS)]  # rising, as in the report of the fault
ORDERS = orders(LENGTHS, ROWS)
RANDOM = {f"random, seed {seed}": [LENGTHS[place] for place in shuffled_order(PROMPTS, seed)] for seed in range(5)}

# Seconds of a batch by what is in it: the engine of the fault's report, one that pads, one whose time bends as no
# straight line does (attention over the longest prompts has a fifth of its time).
ENGINES: dict[str, Callable[[Work], float]] = {
    "reads": lambda work: 0.05 + 10e-6 * work.prompt_tokens,
    "pads": lambda work: 0.05 + 40e-6 * work.longest_prompt_tokens,
    "bends": lambda work: 0.05 + 10e-6 * work.prompt_tokens + 5e-9 * work.longest_prompt_tokens**2,
}
LIMITS = {"precision": None, "five": 5, "eight": 8, "twenty": 20}


@dataclass
class Scripted:
    """Takes exactly the time that its formula says, in whole microseconds; tells it to a clock of its own."""

    seconds: Callable[[Work], float]
    now_ns: int = 0
    events: list[Record] = field(default_factory=list)

    def load(self, artifact: Path, variant: Variant, device: Device) -> None: ...

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None: ...

    def close(self) -> None: ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        on_tokens: TokenSink,  # it tells no token times
    ) -> Sequence[Completion]:
        self.now_ns += round(self.seconds(work_of([len(prompt) for prompt in prompts])) * 1e6) * 1000
        return [Completion([3] * decoding.max_new_tokens) for _ in prompts]


@cache
def _workload(lengths: tuple[int, ...]) -> Workload:
    return make_workload([[3 + place % 250] * length for place, length in enumerate(lengths)])


@cache
def _measured(engine: str, lengths: tuple[int, ...], protocol: MeasureProtocol) -> tuple[WorkloadRate, StopReason, int]:
    """What the cell's own log says: the rate, why measuring stopped, after how many batches."""
    workload, adapter = _workload(lengths), Scripted(ENGINES[engine])
    spec = make_spec(workload, batch_size=ROWS, max_new_tokens=NEW_TOKENS, token_times="none", protocol=protocol)  # noqa: S106
    CellRun(adapter, spec, workload, lambda: adapter.now_ns, adapter.events.append, lambda: False).run()
    batches = [event for event in adapter.events if isinstance(event, BatchEvent) and event.phase == "measure"]
    (stop,) = [event for event in adapter.events if isinstance(event, StopEvent)]
    found = steadiness([], batches, None, stop).workload_rate
    assert found is not None
    assert len([sample(batch) for batch in batches]) == len(batches)
    return found, stop.reason, len(batches)


def _true_tok_s(engine: str, lengths: tuple[int, ...]) -> float:
    found, reason, batches = _measured(engine, lengths, MeasureProtocol())
    assert (reason, batches) == ("exhaustive", PROMPTS // ROWS)
    return found.throughput_tok_s


def _holds(found: WorkloadRate, true_tok_s: float) -> bool:
    """Without noise an interval may have no width; clock readings are whole microseconds of 50 ms and more."""
    assert found.interval is not None
    slack = 2e-5 * true_tok_s
    return found.interval.low_tok_s - slack <= true_tok_s <= found.interval.high_tok_s + slack


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in ORDERS for engine in ENGINES]
    + [(name, engine) for name in RANDOM for engine in ENGINES if engine != "bends"],
)
def test_a_stated_interval_holds_the_whole_workloads_throughput(name: str, engine: str, limit: str) -> None:
    lengths = tuple({**ORDERS, **RANDOM}[name])
    found, reason, batches = _measured(engine, lengths, MeasureProtocol(precision=0.01, max_batches=LIMITS[limit]))
    if found.interval is None:
        assert found.misfit is not None, "it says why"
        assert found.misfit.measured_batches == batches < PROMPTS // ROWS
        assert reason == "max_batches", "no cell ends by precision, or at the workload's end, without an interval"
        assert limit != "precision"
    else:
        assert _holds(found, _true_tok_s(engine, lengths)), found


# Where eight batches tell nothing of the others: which orders, whatever the engine.
MISLEADING = {"sorted", "reversed", "grouped", "cyclic, long", "from the middle", "from both ends", "drifting"}


@pytest.mark.parametrize("engine", ENGINES)
def test_withholding_is_for_orders_that_mislead_and_for_no_others(engine: str) -> None:
    eight = MeasureProtocol(precision=1e-9, max_batches=8)
    withheld = {
        name
        for name, lengths in {**ORDERS, **RANDOM}.items()
        if _measured(engine, tuple(lengths), eight)[0].interval is None
    }
    assert withheld >= MISLEADING
    assert not withheld & {"alternating", *RANDOM}, withheld


@pytest.mark.parametrize("engine", ["reads", "pads"])
@pytest.mark.parametrize("name", ORDERS)
def test_shuffled_no_order_of_the_dataset_costs_an_interval_or_many_batches(name: str, engine: str) -> None:
    """What preparing does by default."""
    for seed in range(3):
        lengths = tuple(ORDERS[name][place] for place in shuffled_order(PROMPTS, seed))
        found, reason, batches = _measured(engine, lengths, MeasureProtocol(precision=0.01))
        assert reason == "precision"
        assert batches <= 62
        assert _holds(found, _true_tok_s(engine, lengths))


def test_where_time_bends_and_nothing_else_moves_it_nine_of_ten_intervals_hold_and_the_others_miss_by_little() -> None:
    """The limit of a straight line through eight batches, stated as it is: without any noise to hide behind, an
    interval of a quarter of a per cent."""
    misses, seeds = [], range(20)
    for seed in seeds:
        lengths = tuple(LENGTHS[place] for place in shuffled_order(PROMPTS, seed))
        found, _, _ = _measured("bends", lengths, MeasureProtocol(precision=0.01))
        true_tok_s = _true_tok_s("bends", lengths)
        if not _holds(found, true_tok_s):
            misses.append(abs(found.throughput_tok_s / true_tok_s - 1))
    assert len(misses) <= 0.15 * len(seeds), misses
    assert max(misses, default=0.0) < 0.005
