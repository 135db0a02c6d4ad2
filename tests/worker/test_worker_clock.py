"""With a clock that the test turns by hand, every stamp and every latency is known to the microsecond."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from worker_material import make_spec, make_workload

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import Arrivals, BatchEvent, EngineEvent, PhaseEvent, StopEvent, WarmupEndEvent
from bench_core.contract.records.record import Record
from bench_core.contract.records.workload import Workload
from bench_core.contract.statistics.workload_rate import MeanWork
from bench_core.worker.engine.guard import ContractBroken, PromptRefused
from bench_core.worker.engine.measure import CellRun, StopRequested, progress_total
from bench_core.worker.engine.sink import StampingSink

WORKLOAD = make_workload([[10 + row] * (row + 1) for row in range(9)])
START_NS = 5_000_000_000


@dataclass
class FakeClock:
    """Nanoseconds that pass only when told to."""

    now_ns: int = START_NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_us(self, microseconds: float) -> None:
        self.now_ns += round(microseconds * 1000)


# The sink.


def test_a_token_is_stamped_with_the_clock_at_its_arrival() -> None:
    clock = FakeClock()
    sink = StampingSink(2, clock, wanted=True)
    for row, count, later_us in ((0, 1, 1500), (1, 2, 250), (0, 1, 1), (0, 1, 0)):
        clock.pass_us(later_us)
        sink(row, count)
    assert sink.arrivals(START_NS) == Arrivals(
        source="worker", shared=False, offsets_us=((1500, 1751, 1751), (1750, 1750))
    )


def test_one_step_gives_its_rows_one_stamp_and_equal_rows_are_told_once() -> None:
    clock = FakeClock()
    sink = StampingSink(3, clock, wanted=True)
    for later_us in (20_000, 5_000, 5_000):
        clock.pass_us(later_us)
        sink.step([0, 1, 2])
    assert sink.arrivals(START_NS) == Arrivals(source="worker", shared=True, offsets_us=((20_000, 25_000, 30_000),))


def test_rows_that_end_early_have_fewer_stamps() -> None:
    clock = FakeClock()
    sink = StampingSink(2, clock, wanted=True)
    for rows in ([0, 1], [1]):
        clock.pass_us(10)
        sink.step(rows)
    assert sink.arrivals(START_NS) == Arrivals(source="worker", shared=False, offsets_us=((10,), (10, 20)))


def test_parts_of_a_microsecond_are_cut_not_rounded_up() -> None:
    clock = FakeClock()
    sink = StampingSink(1, clock, wanted=True)
    clock.now_ns += 1_999
    sink(0)
    assert sink.arrivals(START_NS) == Arrivals(source="worker", shared=True, offsets_us=((1,),))


def test_the_engines_own_stamps_are_marked_and_win() -> None:
    sink = StampingSink(2, FakeClock(), wanted=True)
    sink(0)
    sink.engine(0, [5.000_100, 5.000_300])
    sink.engine(1, [4.999_999, 5.000_250])  # a stamp before the call is not before it by more than the clock's grain
    assert sink.arrivals(START_NS) == Arrivals(source="engine", shared=False, offsets_us=((100, 300), (0, 250)))


def test_without_stamps_or_without_the_wish_for_them_there_are_none() -> None:
    assert StampingSink(2, FakeClock(), wanted=True).arrivals(START_NS) is None
    unwanted = StampingSink(1, FakeClock(), wanted=False)
    unwanted(0)
    assert not unwanted.wanted
    assert unwanted.arrivals(START_NS) is None


# A cell.


@dataclass
class FakeAdapter:
    """Takes exactly the time that its script says, and notes what it is asked for."""

    clock: FakeClock
    ttft_us: int = 20_000
    tpot_us: int = 5_000
    after_us: int = 300  # between the last token and the return
    prepare_us: int = 7_000
    emitted: int | None = None  # tokens reported to the sink, if not all
    ignore_wish: bool = True
    asked: list[tuple[list[list[int]], Decoding, bool]] = field(default_factory=list)
    prepared: list[tuple[int, int, int]] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    spoil_prompts: bool = False

    def load(self, artifact: Path, variant: Variant, device: Device) -> None: ...

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        self.prepared.append((batch_size, max_prompt_tokens, max_new_tokens))
        self.clock.pass_us(self.prepare_us)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        self.journal.append("generate begins")
        self.asked.append(([list(prompt) for prompt in prompts], decoding, on_tokens.wanted))
        emitted = decoding.max_new_tokens if self.emitted is None else self.emitted
        for step in range(emitted):
            self.clock.pass_us(self.tpot_us if step else self.ttft_us)
            on_tokens.step(range(len(prompts)))
        self.clock.pass_us(self.after_us)
        if self.spoil_prompts:
            for prompt in prompts:
                assert isinstance(prompt, list)
                prompt.clear()
        self.journal.append("generate ends")
        return [Completion([40 + step for step in range(decoding.max_new_tokens)]) for _ in prompts]

    def close(self) -> None: ...


@dataclass
class Sent:
    """Where events go; writing one takes a whole second, which no latency may contain."""

    adapter: FakeAdapter
    events: list[Record] = field(default_factory=list)

    def __call__(self, event: Record) -> None:
        self.adapter.journal.append("sent")
        self.adapter.clock.pass_us(1_000_000)
        self.events.append(event)

    def batches(self, phase: str) -> list[BatchEvent]:
        return [event for event in self.events if isinstance(event, BatchEvent) and event.phase == phase]


def run_cell(
    adapter: FakeAdapter,
    *,
    workload: Workload = WORKLOAD,
    stopping: Callable[[], bool] = lambda: False,
    **changes: object,
) -> Sent:
    sent = Sent(adapter)
    CellRun(adapter, make_spec(workload, **changes), workload, adapter.clock, sent, stopping).run()
    return sent


def test_every_latency_and_every_stamp_is_exact() -> None:
    adapter = FakeAdapter(FakeClock())
    sent = run_cell(adapter)
    batches = sent.batches("warmup") + sent.batches("measure")
    assert len(batches) == 5
    for batch in batches:
        assert batch.latency_s == pytest.approx(0.030_300, abs=1e-12)
        assert batch.arrivals == Arrivals(source="worker", shared=True, offsets_us=((20_000, 25_000, 30_000),))
    prepare = sent.events[0]
    assert prepare == PhaseEvent(phase="prepare", started_s=5.0, duration_s=0.007)
    assert batches[0].started_s == pytest.approx(6.007, abs=1e-9)
    starts = [batch.started_s for batch in batches]
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == pytest.approx(
        [2.0303, 1.0303, 1.0303, 1.0303]  # the end of the warm-up is told in between
    )


def test_nothing_is_sent_while_the_clock_runs() -> None:
    adapter = FakeAdapter(FakeClock())
    run_cell(adapter)
    assert adapter.journal == [
        "sent",  # prepare
        *["generate begins", "generate ends", "sent"],
        "sent",  # the warm-up has ended
        *["generate begins", "generate ends", "sent"] * 4,
        "sent",  # measuring has stopped
    ]


def test_phases_come_in_order_and_are_counted_from_nought() -> None:
    sent = run_cell(FakeAdapter(FakeClock()), protocol=MeasureProtocol(warmup_batches=2, max_batches=3))
    told = [(event.phase, event.index) for event in sent.events if isinstance(event, BatchEvent)]
    assert told == [("warmup", 0), ("warmup", 1), ("measure", 0), ("measure", 1), ("measure", 2)]


def test_measured_batches_are_the_workload_in_order_and_only_full_ones() -> None:
    sent = run_cell(FakeAdapter(FakeClock()))
    assert [batch.prompts for batch in sent.batches("measure")] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    first = sent.batches("measure")[1]
    assert first.prompt_tokens == (3, 4)
    assert first.prompts_digest == prompts_sha256([WORKLOAD.prompts[2], WORKLOAD.prompts[3]])


def test_warm_up_takes_batches_from_the_end_and_begins_again_if_it_needs_more() -> None:
    sent = run_cell(FakeAdapter(FakeClock()), protocol=MeasureProtocol(warmup_batches=6))
    assert [batch.prompts[0] for batch in sent.batches("warmup")] == [6, 4, 2, 0, 6, 4]


def test_the_shape_is_prepared_once_for_the_longest_prompt_of_the_cells_batches() -> None:
    """The workload's longest prompt is its ninth, which no full batch of four holds."""
    adapter = FakeAdapter(FakeClock())
    run_cell(adapter, batch_size=4)
    assert adapter.prepared == [(4, 8, 3)]


def test_the_engine_gets_the_workloads_ids_and_what_it_does_to_them_is_not_recorded() -> None:
    adapter = FakeAdapter(FakeClock(), spoil_prompts=True)
    sent = run_cell(adapter)
    assert adapter.asked[1][0] == [[10], [11, 11]]
    assert sent.batches("measure")[0].prompts_digest == prompts_sha256([[10], [11, 11]])
    assert WORKLOAD.prompts[0] == (10,)


@pytest.mark.parametrize("token_times", ["live", "engine", "none"])
def test_batches_of_their_own_for_token_times_exist_only_where_asked_for(token_times: str) -> None:
    adapter = FakeAdapter(FakeClock())
    sent = run_cell(adapter, token_times=token_times)
    assert sent.batches("latency") == []
    assert {wanted for _, _, wanted in adapter.asked} == {token_times != "none"}


def test_separate_token_times_come_after_the_measured_batches_which_are_without() -> None:
    adapter = FakeAdapter(FakeClock())
    protocol = MeasureProtocol(latency_batches=2)
    sent = run_cell(adapter, token_times="separate", protocol=protocol)  # noqa: S106  # not a password
    assert [wanted for _, _, wanted in adapter.asked] == [False] * 5 + [True] * 2
    assert all(batch.arrivals is None for batch in sent.batches("warmup") + sent.batches("measure"))
    assert [batch.prompts for batch in sent.batches("latency")] == [(0, 1), (2, 3)]
    assert all(batch.arrivals is not None for batch in sent.batches("latency"))


@pytest.mark.parametrize("max_batches", [None, 1, 3, 99])
@pytest.mark.parametrize("token_times", ["live", "separate"])
def test_as_many_batches_are_run_as_were_announced(max_batches: int | None, token_times: str) -> None:
    adapter = FakeAdapter(FakeClock())
    protocol = MeasureProtocol(warmup_batches=2, latency_batches=3, max_batches=max_batches)
    run_cell(adapter, token_times=token_times, protocol=protocol)
    spec = make_spec(WORKLOAD, token_times=token_times, protocol=protocol)
    assert len(adapter.asked) == progress_total(spec, WORKLOAD)


@pytest.mark.parametrize(("length", "eos"), [("forced", ()), ("natural", (2,))])
def test_only_natural_rows_may_stop_at_end_of_sequence(length: str, eos: tuple[int, ...]) -> None:
    adapter = FakeAdapter(FakeClock())
    run_cell(adapter, length=length)
    assert {decoding.eos_token_ids for _, decoding, _ in adapter.asked} == {eos}
    assert {decoding.max_new_tokens for _, decoding, _ in adapter.asked} == {3}


def test_a_stop_is_heard_between_two_batches() -> None:
    adapter = FakeAdapter(FakeClock())
    sent = Sent(adapter)
    run = CellRun(
        adapter, make_spec(WORKLOAD), WORKLOAD, adapter.clock, sent, lambda: len(sent.batches("measure")) >= 2
    )
    with pytest.raises(StopRequested):
        run.run()
    assert len(sent.batches("measure")) == 2
    assert adapter.journal[-2:] == ["generate ends", "sent"]
    assert run.phase == "measure"


@pytest.mark.parametrize("emitted", [0, 2, 4])
def test_another_number_of_stamps_than_of_tokens_ends_the_cell(emitted: int) -> None:
    adapter = FakeAdapter(FakeClock(), emitted=emitted)
    with pytest.raises(ContractBroken, match="token times"):
        run_cell(adapter)


def test_stamps_are_not_asked_for_where_the_image_gives_none() -> None:
    sent = run_cell(FakeAdapter(FakeClock(), emitted=0), token_times="none")  # noqa: S106  # not a password
    assert len(sent.batches("measure")) == 4


def test_a_prompt_beyond_the_vocabulary_is_refused_before_the_engine_sees_it() -> None:
    adapter = FakeAdapter(FakeClock())
    with pytest.raises(PromptRefused):
        run_cell(adapter, workload=make_workload([[5], [6], [320], [7]]))
    assert [prompts for prompts, _, _ in adapter.asked] == []


class Telling(FakeAdapter):
    """One that also tells facts and its memory."""

    def describe(self) -> Mapping[str, str]:
        return {"attention": "flash"}

    def memory(self) -> Mapping[str, int]:
        return {"reserved_bytes": 2, "used_bytes": 1}


def test_facts_are_told_after_prepare_and_memory_at_the_end() -> None:
    sent = run_cell(Telling(FakeClock()))
    assert isinstance(sent.events[1], EngineEvent)
    assert sent.events[1].facts == {"attention": "flash"}
    assert isinstance(sent.events[-1], EngineEvent)
    assert sent.events[-1].memory == {"reserved_bytes": 2, "used_bytes": 1}


def test_the_engine_called_directly_gets_the_last_measured_batches_and_the_same_clock() -> None:
    adapter = FakeAdapter(FakeClock())
    given: list[tuple[object, list[list[int]], Decoding]] = []

    def direct(engine: object, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
        given.append((engine, [list(prompt) for prompt in prompts], decoding))
        adapter.clock.pass_us(15_000)
        return [[40, 41, 99] for _ in prompts]

    sent = Sent(adapter)
    spec = make_spec(WORKLOAD, protocol=MeasureProtocol(direct_batches=2, max_batches=3))
    CellRun(adapter, spec, WORKLOAD, adapter.clock, sent, lambda: False, direct).run()
    batches = sent.batches("direct")
    assert [(batch.index, batch.prompts) for batch in batches] == [(0, (2, 3)), (1, (4, 5))]
    assert [batch.prompts_digest for batch in batches] == [b.prompts_digest for b in sent.batches("measure")[1:]]
    assert all(batch.latency_s == pytest.approx(0.015, abs=1e-12) and batch.arrivals is None for batch in batches)
    assert batches[0].outputs == ((40, 41, 99), (40, 41, 99))
    assert [engine for engine, _, _ in given] == [adapter, adapter]
    assert given[0][1] == [list(WORKLOAD.prompts[2]), list(WORKLOAD.prompts[3])]
    order = [(b.phase, b.index) for b in sent.events if isinstance(b, BatchEvent) and b.phase in ("paired", "direct")]
    assert order == [("paired", 0), ("direct", 0), ("direct", 1), ("paired", 1)], "in turns the first"
    paired = sent.batches("paired")
    assert [batch.prompts_digest for batch in paired] == [batch.prompts_digest for batch in batches]
    assert all(batch.arrivals is not None for batch in paired), "with all that the suite does in a measured batch"
    assert progress_total(spec, WORKLOAD) == 1 + 3 + 2 * 2


def test_rounds_give_each_batch_so_often_to_both_and_each_is_the_first_in_turns() -> None:
    adapter = FakeAdapter(FakeClock())
    sent = Sent(adapter)

    def direct(_adapter: object, prompts: Sequence[Sequence[int]], _decoding: Decoding) -> list[list[int]]:
        adapter.clock.pass_us(1000)
        return [[40, 41, 99] for _ in prompts]

    spec = make_spec(WORKLOAD, protocol=MeasureProtocol(direct_batches=2, direct_rounds=3, max_batches=3))
    CellRun(adapter, spec, WORKLOAD, adapter.clock, sent, lambda: False, direct).run()
    calls = [b for b in sent.events if isinstance(b, BatchEvent) and b.phase in ("paired", "direct")]
    assert [batch.index for batch in calls] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [batch.prompts[0] for batch in calls] == [2, 2, 4, 4] * 3
    first = [(batch.prompts[0], batch.phase) for batch in calls[::2]]
    assert first == [(2, "paired"), (4, "direct"), (2, "direct"), (4, "paired"), (2, "paired"), (4, "direct")]
    assert progress_total(spec, WORKLOAD) == 1 + 3 + 2 * 2 * 3


def test_a_direct_call_that_does_less_work_fails_the_cell() -> None:
    adapter = FakeAdapter(FakeClock())
    spec = make_spec(WORKLOAD, protocol=MeasureProtocol(direct_batches=1, max_batches=1))
    run = CellRun(
        adapter,
        spec,
        WORKLOAD,
        adapter.clock,
        Sent(adapter),
        lambda: False,
        lambda _a, prompts, _d: [[1]] * len(prompts),
    )
    with pytest.raises(ContractBroken):
        run.run()
    assert run.phase == "direct"


def test_measuring_stops_when_the_rule_says_so_and_the_log_says_why() -> None:
    """Every batch takes as long as the others: two looks are enough, of a workload of 20 batches."""
    workload = make_workload([[k % 250 + 3] for k in range(40)])
    protocol = MeasureProtocol(precision=0.01, max_warmup_batches=20, direct_batches=2)
    sent = run_cell(FakeAdapter(FakeClock()), workload=workload, protocol=protocol)
    assert [batch.prompts for batch in sent.batches("warmup")] == [(38, 39)] * 5
    assert [batch.index for batch in sent.batches("measure")] == list(range(8))
    (warm,) = [event for event in sent.events if isinstance(event, WarmupEndEvent)]
    (stop,) = [event for event in sent.events if isinstance(event, StopEvent)]
    assert (warm.end, warm.rule) == ("flat", protocol.warmup_rule)
    assert (stop.reason, stop.available_batches, stop.rule) == ("precision", 20, protocol.stopping_rule)
    assert stop.mean_work == MeanWork(prompt_tokens=2.0, longest_prompt_tokens=1.0)
    assert stop.whole_work == workload.whole_work(2)


def test_batches_given_directly_are_the_last_that_were_measured() -> None:
    """Not the last of the workload, which the rule left alone."""
    workload = make_workload([[k % 250 + 3] for k in range(40)])
    spec = make_spec(workload, protocol=MeasureProtocol(precision=0.01, direct_batches=2))
    adapter = FakeAdapter(FakeClock())
    sent = Sent(adapter)

    def direct(_adapter: object, prompts: Sequence[Sequence[int]], _decoding: Decoding) -> list[list[int]]:
        adapter.clock.pass_us(1000)
        return [[3, 4, 5] for _ in prompts]

    CellRun(adapter, spec, workload, adapter.clock, sent, lambda: False, direct).run()
    assert [batch.prompts for batch in sent.batches("direct")] == [(12, 13), (14, 15)]


def test_limits_of_time_are_kept_between_batches() -> None:
    workload = make_workload([[k % 250 + 3] for k in range(40)])
    sent = run_cell(FakeAdapter(FakeClock()), workload=workload, protocol=MeasureProtocol(max_seconds=2.5))
    assert len(sent.batches("measure")) == 4, "each begins 1.0303 s after the one before"
    (stop,) = [event for event in sent.events if isinstance(event, StopEvent)]
    assert stop.reason == "max_seconds"
