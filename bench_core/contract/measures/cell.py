"""A cell's result: its raw events in, all its numbers out. Everything published of one cell is computed from here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import CpuUse, judged
from bench_core.contract.measures.memory import MemoryUse, memory_use
from bench_core.contract.measures.parity import Parity, parity, throughput_tok_s
from bench_core.contract.measures.quality import Likelihood, likelihood
from bench_core.contract.measures.telemetry import (
    TelemetrySummary,
    device_energy_joules,
    samples_of,
    summarise_telemetry,
)
from bench_core.contract.measures.token_times import (
    PhaseRates,
    itl_s,
    phase_rates,
    row_tpot_s,
    row_ttft_s,
    tokens_per_step,
)
from bench_core.contract.models.steps import DecodeSteps, PromptReading, decode_steps, prompt_reading
from bench_core.contract.records.events import (
    BatchEvent,
    BatchPhase,
    EndEvent,
    EngineEvent,
    Event,
    PhaseEvent,
    ScoreEvent,
    StartEvent,
    StopEvent,
    TelemetryEvent,
    WarmupEndEvent,
)
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.record import Record, describe
from bench_core.contract.statistics.distribution import Distribution
from bench_core.contract.statistics.steadiness import Steadiness, steadiness
from bench_core.contract.waves import Waves, waves


class CellMetrics(Record):
    """What one cell measured. Warm-up is excluded everywhere but in ``peak_bytes``.

    Attributes:
        batches, rows: measured ``generate`` calls and the prompts in them.
        prompt_tokens, output_tokens: sums over the measured batches.
        output_tokens_per_batch: mean; the study's "Tokens".
        batch_latency_s: one value per measured batch; its mean is the study's "Latency (s)".
        output_throughput_tok_s: sum of output tokens / sum of batch latencies; the study's "Throughput (token/s)".
        ttft_s: per row, first token minus batch start; absent where the engine does not tell.
        tpot_s: per row, (last token - first token) / (output tokens - 1), rows of two tokens or more.
        itl_s: all gaps between tokens of a row.
        token_times_source: who stamped the tokens, and whether in batches of their own (``latency``).
        device_memory: GPU memory in use by all processes on that GPU; absent on a CPU.
        host_memory: resident memory of the engine's processes.
        reserved_bytes, used_bytes: of the engine's own pool, where it has one.
        start_s, load_s, prepare_s: importing the engine, reading the model (both shared by the cells of one container),
            making caches for this batch size.
        batches_s: sum of the latencies of all batches, warm-up included.
        measured_s: from the first measured batch's start to the last one's end, pauses between them included.
        device_energy_joules: NVML's counter over ``measured_s``.
        likelihood: of a fixed text, in the cell that was to score it.
        decode, prompts: decode steps and prompt reading, from the batches that token times come from.
        longest_batch_tokens: positions that the largest batch's rows need together, each row as long as the longest.
        shrinking_batch_tokens: the same where a row that has ended leaves the batch: at the worst moment of the worst
            batch, the rows that are left times their length then; ``None`` in older records.
        held_batch_tokens: the same where each row takes what it holds; ``None`` in older records.
        telemetry: clocks, power, throttling and sampling gaps over ``measured_s``.
        steadiness: why measuring stopped, how well throughput is known, whether it stood still.
        phase_rates: prefill and decode; absent where the engine does not tell when tokens came, or has no such phases.
        cpu: who used the CPUs over ``measured_s``, or from the first warm-up batch on where that is too short; absent
            in logs of before it was looked at, and where the machine does not tell.
        tokens_per_step: of a row, on average; absent where each token comes alone, and in older records.
        waves: whether all rows of a batch ran together; absent where token times do not tell.
    """

    batches: int = Field(ge=1)
    rows: int = Field(ge=1)
    warmup_batches: int = Field(ge=0)
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_batch: float
    batch_latency_s: Distribution
    output_throughput_tok_s: float
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    itl_s: Distribution | None
    token_times_source: Literal["worker", "engine", "worker, separate batches", "engine, separate batches"] | None
    start_s: float | None
    load_s: float | None
    prepare_s: float | None
    batches_s: float
    measured_s: float
    device_memory: MemoryUse | None
    host_memory: MemoryUse | None
    reserved_bytes: int | None = None
    used_bytes: int | None = None
    device_energy_joules: float | None = None
    parity: Parity | None = None
    likelihood: Likelihood | None = None
    decode: DecodeSteps | None = None
    prompts: PromptReading | None = None
    longest_batch_tokens: int | None = None
    shrinking_batch_tokens: int | None = None
    held_batch_tokens: int | None = None
    telemetry: TelemetrySummary | None = None
    steadiness: Steadiness = Field(default_factory=Steadiness)  # not built where none is read
    phase_rates: PhaseRates | None = None
    cpu: CpuUse | None = None
    tokens_per_step: float | None = None
    waves: Waves | None = None

    @property
    def unused_bytes(self) -> int | None:
        """What the engine's pool reserved and did not fill; ``None`` where it has none."""
        if self.reserved_bytes is None or self.used_bytes is None:
            return None
        return self.reserved_bytes - self.used_bytes


class CellResult(Record):
    """``result.json``: present only if the cell is complete; everything in it follows from ``events.jsonl``."""

    schema_version: Literal[1] = 1
    cell: str
    outcome: Literal[Outcome.OK] = Outcome.OK
    versions: dict[str, str]
    engine_facts: dict[str, str]
    metrics: CellMetrics


@dataclass
class CellEvents:
    """A cell's events, sorted by kind."""

    start: StartEvent | None = None
    end: EndEvent | None = None
    phases: dict[str, PhaseEvent] = field(default_factory=dict)
    engine: list[EngineEvent] = field(default_factory=list)
    batches: dict[str, list[BatchEvent]] = field(default_factory=lambda: {phase: [] for phase in get_args(BatchPhase)})
    telemetry: list[TelemetryEvent] = field(default_factory=list)
    score: ScoreEvent | None = None
    warmup_end: WarmupEndEvent | None = None
    stop: StopEvent | None = None

    def add(self, event: Event) -> None:
        """Files one event.

        Raises:
            BadInput: a second start, end or score, a phase or a stop told twice, or anything after the end.
        """
        if self.end is not None:
            raise BadInput(f"the event log goes on after its end, with {event.type}")
        if isinstance(event, BatchEvent):
            self.batches[event.phase].append(event)
        elif isinstance(event, TelemetryEvent):
            self.telemetry.append(event)
        elif isinstance(event, StartEvent):
            if self.start is not None:
                raise BadInput("the event log starts twice")
            self.start = event
        elif isinstance(event, EndEvent):
            self.end = event
        elif isinstance(event, PhaseEvent):
            if event.phase in self.phases:
                raise BadInput(f"the event log tells the phase {event.phase} twice")
            self.phases[event.phase] = event
        elif isinstance(event, EngineEvent):
            self.engine.append(event)
        elif isinstance(event, ScoreEvent):
            if self.score is not None:
                raise BadInput("the event log tells the score twice")
            self.score = event
        else:
            self._end_phase(event)

    def _end_phase(self, event: WarmupEndEvent | StopEvent) -> None:
        if event.type in {known.type for known in (self.warmup_end, self.stop) if known is not None}:
            raise BadInput(f"the event log tells {event.type} twice")
        if isinstance(event, WarmupEndEvent):
            self.warmup_end = event
        else:
            self.stop = event

    @property
    def stamped(self) -> list[BatchEvent]:
        """Batches whose token times are told: the measured ones, or where none of them tells, those of phase
        ``latency``."""
        measured, latency = (
            [batch for batch in self.batches[phase] if batch.arrivals is not None] for phase in ("measure", "latency")
        )
        return measured or latency

    @property
    def facts(self) -> dict[str, str]:
        """All facts the engine told, later ones over earlier ones."""
        return {key: value for event in self.engine for key, value in event.facts.items()}


def summarise(cell: str, events: CellEvents) -> CellResult:
    """Computes a cell's result from its events.

    Raises:
        BadInput: not the events of a complete cell (no start, no measured batch, indices missing, no good end), or
            numbers from which none follows.
    """
    measured = events.batches["measure"]
    if events.start is None:
        raise BadInput(f"{cell}: the event log has no start")
    if events.end is None or events.end.outcome is not Outcome.OK:
        raise BadInput(f"{cell}: the event log does not end well")
    if not measured:
        raise BadInput(f"{cell}: the event log has no measured batch")
    for phase, batches in events.batches.items():
        if [batch.index for batch in batches] != list(range(len(batches))):
            raise BadInput(f"{cell}: {phase} batches are missing or out of order")
    try:
        metrics = _metrics(events, measured)
    except (ArithmeticError, ValueError, AttributeError) as error:  # statistics.stdev answers an infinity with the last
        raise BadInput(f"{cell}: no number follows from the event log: {describe(error)}") from error
    return CellResult(cell=cell, versions=events.start.versions, engine_facts=events.facts, metrics=metrics)


def _metrics(events: CellEvents, measured: list[BatchEvent]) -> CellMetrics:
    latencies = [batch.latency_s for batch in measured]
    output_tokens = sum(sum(batch.output_tokens) for batch in measured)
    stamped = events.stamped
    separate = bool(stamped) and stamped[0].phase == "latency"
    sources = {b.arrivals.source for b in stamped if b.arrivals is not None}
    if len(sources) > 1:
        raise BadInput("token times of one cell come from two clocks")
    source = next(iter(sources)) + (", separate batches" if separate else "") if sources else None
    latency = Distribution.of(latencies)
    assert latency is not None  # noqa: S101  # there is at least one measured batch
    pool = next((event.memory for event in reversed(events.engine) if event.memory), {})
    moments = (events.phases, events.batches["warmup"], measured)
    began_s, ended_s = measured[0].started_s, measured[-1].started_s + measured[-1].latency_s
    return CellMetrics(
        batches=len(measured),
        rows=sum(len(batch.prompts) for batch in measured),
        warmup_batches=len(events.batches["warmup"]),
        prompt_tokens=sum(sum(batch.prompt_tokens) for batch in measured),
        output_tokens=output_tokens,
        output_tokens_per_batch=output_tokens / len(measured),
        batch_latency_s=latency,
        output_throughput_tok_s=throughput_tok_s(measured),
        ttft_s=Distribution.of([value for batch in stamped for value in row_ttft_s(batch)]),
        tpot_s=Distribution.of([value for batch in stamped for value in row_tpot_s(batch)]),
        itl_s=Distribution.of_counts(itl_s(stamped)),
        token_times_source=source,
        start_s=_duration(events, "start"),
        load_s=_duration(events, "load"),
        prepare_s=_duration(events, "prepare"),
        batches_s=math.fsum(batch.latency_s for batches in events.batches.values() for batch in batches),
        measured_s=measured[-1].started_s + measured[-1].latency_s - measured[0].started_s,
        device_memory=memory_use(samples_of(events.telemetry, "device_used_bytes"), *moments),
        host_memory=memory_use(samples_of(events.telemetry, "rss_bytes"), *moments),
        reserved_bytes=pool.get("reserved_bytes"),
        used_bytes=pool.get("used_bytes"),
        device_energy_joules=device_energy_joules(events.telemetry, measured),
        parity=parity(events.batches["direct"], events.batches["paired"], measured),
        likelihood=likelihood(events.score) if events.score else None,
        decode=decode_steps(stamped),
        prompts=prompt_reading(stamped),
        longest_batch_tokens=max(_rectangle_tokens(batch) for batch in measured),
        shrinking_batch_tokens=max(_shrinking_tokens(batch) for batch in measured),
        held_batch_tokens=max(sum(_row_tokens(batch)) for batch in measured),
        telemetry=summarise_telemetry(events.telemetry, began_s, ended_s, output_tokens),
        steadiness=steadiness(events.batches["warmup"], measured, events.warmup_end, events.stop),
        phase_rates=phase_rates(stamped),
        cpu=_cpu(events, measured),
        tokens_per_step=tokens_per_step(stamped),
        waves=waves(stamped),
    )


def _cpu(events: CellEvents, measured: list[BatchEvent]) -> CpuUse | None:
    rule = events.stop.rule.busy if events.stop is not None else None
    of_measured = judged(rule, [batch.cpu for batch in measured])
    return of_measured or judged(rule, [batch.cpu for batch in (*events.batches["warmup"], *measured)])


def _rectangle_tokens(batch: BatchEvent) -> int:
    """Rows x the longest prompt with the longest output."""
    return len(batch.prompts) * (max(batch.prompt_tokens) + max(batch.output_tokens))


def _row_tokens(batch: BatchEvent) -> list[int]:
    """Prompt and output of each row."""
    return [prompt + output for prompt, output in zip(batch.prompt_tokens, batch.output_tokens, strict=True)]


def _shrinking_tokens(batch: BatchEvent) -> int:
    """Rows that are left x their length, when that is most. All rows begin together and end at their own lengths."""
    longest_first = sorted(_row_tokens(batch), reverse=True)
    return max(left * length for left, length in enumerate(longest_first, 1))


def _duration(events: CellEvents, phase: str) -> float | None:
    event = events.phases.get(phase)
    return event.duration_s if event else None
