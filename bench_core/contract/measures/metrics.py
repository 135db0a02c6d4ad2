"""The formulas: raw events in, numbers out. Everything published is computed here and nowhere else."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import CpuUse, judged
from bench_core.contract.measures.phase_rates import batch_phase_times, row_decode_tok_s, row_prefill_tok_s, summed
from bench_core.contract.measures.quality import Likelihood, likelihood
from bench_core.contract.measures.telemetry import TelemetrySummary, summarise_telemetry
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
from bench_core.contract.statistics.median import median_interval
from bench_core.contract.statistics.steadiness import Steadiness, steadiness

# A percentile q of n values is given only if at least this many values lie beyond it: p90 from 50 values, p99 from 500.
VALUES_BEYOND_A_PERCENTILE = 5
# A sample is taken when a phase or batch ends; one that comes later than this says nothing of that moment.
SAMPLE_BELONGS_WITHIN_S = 2.0


class Distribution(Record):
    """A sample in a few numbers, in the unit of its name.

    ``stdev`` is the sample standard deviation (n - 1), absent for one value. A percentile is absent where fewer than
    five values lie beyond it; percentiles interpolate linearly (Hyndman and Fan, 1996, type 7).
    """

    n: int = Field(ge=1)
    mean: float
    median: float
    min: float
    max: float
    stdev: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """Summarises values in any order; ``None`` for none at all."""
        if not values:
            return None
        ordered = sorted(values)
        mean = statistics.fmean(ordered)
        return cls(
            n=len(ordered),
            mean=mean,
            median=statistics.median(ordered),
            min=ordered[0],
            max=ordered[-1],
            stdev=_stdev(ordered, mean) if len(ordered) > 1 else None,
            p90=percentile(ordered, 0.90),
            p95=percentile(ordered, 0.95),
            p99=percentile(ordered, 0.99),
        )


def _stdev(values: Sequence[float], mean: float) -> float:
    """Sample standard deviation in two passes of exact sums: the same digits with every Python, as that of the
    standard library is not."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def percentile(ordered: Sequence[float], q: float) -> float | None:
    """The q-quantile of ascending values, or ``None`` where the sample does not carry it (see ``Distribution``)."""
    if len(ordered) * (1.0 - q) < VALUES_BEYOND_A_PERCENTILE - 1e-9:
        return None
    position = (len(ordered) - 1) * q
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


class MemoryUse(Record):
    """Memory over a cell's life, bytes; ``None`` where nothing could be read.

    Attributes:
        baseline_bytes: before the engine was loaded.
        after_load_bytes, after_prepare_bytes: when that phase had ended.
        load_peak_bytes: highest sample while loading.
        peak_bytes, mean_bytes: over the warm-up and measured batches, and over the measured ones.
    """

    baseline_bytes: int | None
    load_peak_bytes: int | None
    after_load_bytes: int | None
    after_prepare_bytes: int | None
    peak_bytes: int | None
    mean_bytes: float | None


class Parity(Record):
    """The suite's own batches beside the same batches given to the engine directly, in the same process.

    Attributes:
        batches: different ones.
        rounds: how often each was run by both.
        output_throughput_tok_s, direct_output_throughput_tok_s: over all rounds of all batches.
        ratio: suite / direct; 1 where the suite costs nothing.
        median_ratio: of the batches' own: fastest by the suite / fastest by the engine directly. What a host does to a
            call makes it slower and never faster, so that the fastest of some rounds tells of the calls and the mean of
            the host (Python's documentation of ``timeit.Timer.repeat`` says the same). Absent in logs of before the two
            of a pair were run one right after the other; there the suite's is the measured batch.
        median_low, median_high: the median's 95 % interval; absent for fewer than six batches.
        rows_with_equal_tokens: prompts of the pairs that got the same ids from both, of ``rows``.
    """

    batches: int = Field(ge=1)
    rounds: int = Field(1, ge=1)
    rows: int = Field(ge=1)
    rows_with_equal_tokens: int = Field(ge=0)
    output_throughput_tok_s: float
    direct_output_throughput_tok_s: float
    ratio: float
    median_ratio: float | None = None
    median_low: float | None = None
    median_high: float | None = None


class PhaseRates(Record):
    """Throughput of the two phases, tokens/s, where the engine reveals token times; ``None`` otherwise, never 0.

    Attributes:
        prefill_tok_s, decode_tok_s: over all batches with token times: prompt tokens / the mean of the rows' times to
            first token; output tokens after the first / the mean of the rows' times from first to last token.
        batch_prefill_tok_s, batch_decode_tok_s: one value per batch.
        row_prefill_tok_s, row_decode_tok_s: one value per row, of that row's tokens alone.
    """

    prefill_tok_s: float | None
    decode_tok_s: float | None
    batch_prefill_tok_s: Distribution | None
    batch_decode_tok_s: Distribution | None
    row_prefill_tok_s: Distribution | None
    row_decode_tok_s: Distribution | None


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
    steadiness: Steadiness = Steadiness()
    phase_rates: PhaseRates | None = None
    cpu: CpuUse | None = None

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
        if isinstance(event, StartEvent):
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
        elif isinstance(event, BatchEvent):
            self.batches[event.phase].append(event)
        elif isinstance(event, ScoreEvent):
            if self.score is not None:
                raise BadInput("the event log tells the score twice")
            self.score = event
        elif isinstance(event, TelemetryEvent):
            self.telemetry.append(event)
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
    separate = not any(batch.arrivals for batch in measured) and any(b.arrivals for b in events.batches["latency"])
    stamped = [b for b in (events.batches["latency"] if separate else measured) if b.arrivals is not None]
    sources = {b.arrivals.source for b in stamped if b.arrivals is not None}
    if len(sources) > 1:
        raise BadInput("token times of one cell come from two clocks")
    source = next(iter(sources)) + (", separate batches" if separate else "") if sources else None
    latency = Distribution.of(latencies)
    assert latency is not None  # there is at least one measured batch
    pool = next((event.memory for event in reversed(events.engine) if event.memory), {})
    began_s, ended_s = measured[0].started_s, measured[-1].started_s + measured[-1].latency_s
    return CellMetrics(
        batches=len(measured),
        rows=sum(len(batch.prompts) for batch in measured),
        warmup_batches=len(events.batches["warmup"]),
        prompt_tokens=sum(sum(batch.prompt_tokens) for batch in measured),
        output_tokens=output_tokens,
        output_tokens_per_batch=output_tokens / len(measured),
        batch_latency_s=latency,
        output_throughput_tok_s=_throughput(measured),
        ttft_s=Distribution.of([value for batch in stamped for value in row_ttft_s(batch)]),
        tpot_s=Distribution.of([value for batch in stamped for value in row_tpot_s(batch)]),
        itl_s=Distribution.of([value for batch in stamped for value in row_itl_s(batch)]),
        token_times_source=source,
        start_s=_duration(events, "start"),
        load_s=_duration(events, "load"),
        prepare_s=_duration(events, "prepare"),
        batches_s=math.fsum(batch.latency_s for batches in events.batches.values() for batch in batches),
        measured_s=measured[-1].started_s + measured[-1].latency_s - measured[0].started_s,
        device_memory=_memory(events, "device_used_bytes"),
        host_memory=_memory(events, "rss_bytes"),
        reserved_bytes=pool.get("reserved_bytes"),
        used_bytes=pool.get("used_bytes"),
        device_energy_joules=_energy_joules(events, measured),
        parity=_parity(events.batches["direct"], events.batches["paired"], measured),
        likelihood=likelihood(events.score) if events.score else None,
        decode=decode_steps(stamped),
        prompts=prompt_reading(stamped),
        longest_batch_tokens=max(_rectangle_tokens(batch) for batch in measured),
        shrinking_batch_tokens=max(_shrinking_tokens(batch) for batch in measured),
        held_batch_tokens=max(sum(_row_tokens(batch)) for batch in measured),
        telemetry=summarise_telemetry(events.telemetry, began_s, ended_s, output_tokens),
        steadiness=steadiness(events.batches["warmup"], measured, events.warmup_end, events.stop),
        phase_rates=_phase_rates(stamped),
        cpu=_cpu(events, measured),
    )


def _cpu(events: CellEvents, measured: list[BatchEvent]) -> CpuUse | None:
    rule = events.stop.rule.busy if events.stop is not None else None
    of_measured = judged(rule, [batch.cpu for batch in measured])
    return of_measured or judged(rule, [batch.cpu for batch in (*events.batches["warmup"], *measured)])


def _phase_rates(stamped: list[BatchEvent]) -> PhaseRates | None:
    found = [(batch, times) for batch in stamped if (times := batch_phase_times(batch)) is not None]
    total = summed([times for _, times in found])
    if total is None:
        return None
    batches = [batch for batch, _ in found]
    return PhaseRates(
        prefill_tok_s=total.prefill_tok_s,
        decode_tok_s=total.decode_tok_s,
        batch_prefill_tok_s=Distribution.of([t.prefill_tok_s for _, t in found if t.prefill_tok_s is not None]),
        batch_decode_tok_s=Distribution.of([t.decode_tok_s for _, t in found if t.decode_tok_s is not None]),
        row_prefill_tok_s=Distribution.of([value for batch in batches for value in row_prefill_tok_s(batch)]),
        row_decode_tok_s=Distribution.of([value for batch in batches for value in row_decode_tok_s(batch)]),
    )


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


def _parity(direct: list[BatchEvent], paired: list[BatchEvent], measured: list[BatchEvent]) -> Parity | None:
    """
    Raises:
        BadInput: a batch was given to the engine directly that was not measured, or whose pair is another one.
    """
    if not direct:
        return None
    of_prompts = {batch.prompts_digest: batch for batch in measured}
    if any(batch.prompts_digest not in of_prompts for batch in direct):
        raise BadInput("a batch was given to the engine directly that was not measured")
    if paired and [batch.prompts_digest for batch in paired] != [batch.prompts_digest for batch in direct]:
        raise BadInput("a batch was given to the engine directly whose pair is another one")
    pairs = list(zip(paired or [of_prompts[batch.prompts_digest] for batch in direct], direct, strict=True))
    rates = [_throughput(side) for side in zip(*pairs, strict=True)]
    theirs_at_best = _at_best(direct)
    rounds, uneven = divmod(len(pairs), len(theirs_at_best))
    if uneven:
        raise BadInput("not all batches were given to the engine directly equally often")
    ratios = [best / theirs_at_best[digest] for digest, best in _at_best(paired).items()]
    low, high = median_interval(ratios) or (None, None)
    return Parity(
        batches=len(theirs_at_best),
        rounds=rounds,
        rows=sum(len(batch.outputs) for _, batch in pairs),
        rows_with_equal_tokens=sum(
            ours == theirs for suite, batch in pairs for ours, theirs in zip(suite.outputs, batch.outputs, strict=True)
        ),
        output_throughput_tok_s=rates[0],
        direct_output_throughput_tok_s=rates[1],
        ratio=rates[0] / rates[1],
        median_ratio=statistics.median(ratios) if ratios else None,
        median_low=low,
        median_high=high,
    )


def _at_best(batches: Iterable[BatchEvent]) -> dict[str, float]:
    """Digest of a batch's prompts to the highest throughput that it had, tokens/s."""
    best: dict[str, float] = {}
    for batch in batches:
        best[batch.prompts_digest] = max(best.get(batch.prompts_digest, 0.0), _throughput([batch]))
    return best


def _throughput(batches: Sequence[BatchEvent]) -> float:
    return sum(sum(batch.output_tokens) for batch in batches) / math.fsum(batch.latency_s for batch in batches)


def row_ttft_s(batch: BatchEvent) -> list[float]:
    """Time to first token of each row that has one, seconds from the batch's start."""
    return [offsets[0] / 1e6 for offsets in _row_offsets(batch) if offsets]


def row_tpot_s(batch: BatchEvent) -> list[float]:
    """Time per output token after the first, of each row of two tokens or more, seconds."""
    return [
        (offsets[-1] - offsets[0]) / 1e6 / (len(offsets) - 1) for offsets in _row_offsets(batch) if len(offsets) > 1
    ]


def row_itl_s(batch: BatchEvent) -> list[float]:
    """Gaps between consecutive tokens of each row, seconds, all rows in one list."""
    return [
        (later - earlier) / 1e6 for offsets in _row_offsets(batch) for earlier, later in itertools.pairwise(offsets)
    ]


def _row_offsets(batch: BatchEvent) -> list[tuple[int, ...]]:
    if batch.arrivals is None:
        return []
    return [batch.arrivals.of_row(row) for row in range(len(batch.prompts))]


def _duration(events: CellEvents, phase: str) -> float | None:
    event = events.phases.get(phase)
    return event.duration_s if event else None


def _samples(events: CellEvents, column: str) -> list[tuple[float, int]]:
    """(time, value) of one telemetry column where it has a value, in time order."""
    found: list[tuple[float, int]] = []
    for event in events.telemetry:
        values = getattr(event, column)
        if values is not None:
            found.extend((t, v) for t, v in zip(event.t_s, values, strict=True) if v is not None)
    return sorted(found)


def _memory(events: CellEvents, column: str) -> MemoryUse | None:
    """Memory at the moments that count. A sample is taken whenever a phase or batch ends, so each moment has one."""
    samples = _samples(events, column)
    if not samples:
        return None
    load, prepare = events.phases.get("load"), events.phases.get("prepare")
    measured = events.batches["measure"]
    first = (events.batches["warmup"] or measured)[0]
    end = measured[-1].started_s + measured[-1].latency_s
    last = _first_sample_after(samples, end)
    window_end = last[0] if last else end
    loading = [v for t, v in samples if load and load.started_s <= t <= load.started_s + load.duration_s]
    return MemoryUse(
        baseline_bytes=next((v for t, v in reversed(samples) if load and t <= load.started_s), None),
        load_peak_bytes=max(loading, default=None),
        after_load_bytes=_value_after(samples, load),
        after_prepare_bytes=_value_after(samples, prepare),
        peak_bytes=max((v for t, v in samples if first.started_s <= t <= window_end), default=None),
        mean_bytes=_mean_over_time([(t, v) for t, v in samples if measured[0].started_s <= t <= window_end]),
    )


def _first_sample_after(samples: list[tuple[float, int]], moment_s: float) -> tuple[float, int] | None:
    """The reading that belongs to a moment: the first at or after it, unless the sampler was silent by then."""
    found = next(((t, v) for t, v in samples if t >= moment_s), None)
    return found if found is not None and found[0] - moment_s <= SAMPLE_BELONGS_WITHIN_S else None


def _value_after(samples: list[tuple[float, int]], phase: PhaseEvent | None) -> int | None:
    found = _first_sample_after(samples, phase.started_s + phase.duration_s) if phase else None
    return found[1] if found else None


def _mean_over_time(samples: list[tuple[float, int]]) -> float | None:
    """Mean weighted by time (trapezoids), since samples at batch ends make some stretches denser than others."""
    if not samples:
        return None
    span_s = samples[-1][0] - samples[0][0]
    if span_s <= 0.0:
        return float(samples[-1][1])
    area = math.fsum((t1 - t0) * (v0 + v1) / 2 for (t0, v0), (t1, v1) in itertools.pairwise(samples))
    return area / span_s


def _energy_joules(events: CellEvents, measured: list[BatchEvent]) -> float | None:
    """The counter's difference over the window from the first measured batch's start to the last one's end, scaled
    from the samples within it; pauses between batches are part of the window.

    Absent where the window is shorter than a second (the counter is read about every 50 ms), where the samples span
    less than nine tenths of it, or where the counter fell.
    """
    start = measured[0].started_s
    end = measured[-1].started_s + measured[-1].latency_s
    inside = [(t, v) for t, v in _samples(events, "energy_mj") if start <= t <= end]
    if end - start < 1.0 or len(inside) < 2:
        return None
    (first_t, first), (last_t, last) = inside[0], inside[-1]
    if last < first or last_t - first_t < 0.9 * (end - start):
        return None
    return (last - first) / 1000.0 * (end - start) / (last_t - first_t)
