"""``events.jsonl``: the raw record of a cell, one JSON object per line, from which every published number follows.

All times are seconds of CLOCK_MONOTONIC, one clock for all processes of a machine. A line is written after the batch
that it tells of, never while the clock runs.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import CpuReadings
from bench_core.contract.records.outcome import Outcome, was_stopped
from bench_core.contract.records.record import Reader, Record, describe
from bench_core.contract.statistics.representation import WorkSpread
from bench_core.contract.statistics.stopping import StoppingRule, StopReason, WarmupEnd, WarmupRule
from bench_core.contract.statistics.workload_rate import MeanWork, WholeWork

Count = Annotated[int, Field(ge=0)]
MaybeCount = Count | None
# Seconds of a clock since its beginning: room for any clock.
Moment = Annotated[float, Field(ge=0, le=1e12)]
# A nanosecond is what clocks tell apart; less would divide into numbers without end.
Duration = Annotated[float, Field(ge=1e-9, le=1e12)]

NOT_INSTALLED = "not installed"  # in place of a version

BatchPhase = Literal["warmup", "measure", "latency", "paired", "direct"]
Phase = Literal["start", "load", "prepare", "warmup", "measure", "latency", "paired", "direct", "score", "close"]


class StartEvent(Record):
    """First line: who measures, where, with what.

    Attributes:
        wall_time_utc: ISO 8601, the same moment as ``t_s``.
        versions: distribution name to version, of Python and of the image's ``packages`` in their order, the engine
            first; ``NOT_INSTALLED`` for one that is not there.
        host: facts of the machine as the container sees it (cpu, cores, kernel).
        harness: digest of the suite's own code that measures, as it lies in the image (``digest.own_code_sha256``);
            ``None`` in logs of before it was kept.
    """

    type: Literal["start"] = "start"
    version: Literal[1] = 1
    t_s: Moment
    wall_time_utc: str
    versions: dict[str, str]
    host: dict[str, str]
    harness: str | None = None


class PhaseEvent(Record):
    """A phase other than a batch has ended: ``load``, ``prepare`` or ``close``."""

    type: Literal["phase"] = "phase"
    phase: Phase
    started_s: Moment
    duration_s: Moment


class EngineEvent(Record):
    """What the engine says of how it runs (``facts``), and of its own memory pool (bytes)."""

    type: Literal["engine"] = "engine"
    t_s: Moment
    facts: dict[str, str] = {}
    memory: dict[str, int] = {}


class Arrivals(Record):
    """When output tokens reached the host: offsets from the batch's start in whole microseconds, in order.

    Attributes:
        source: the worker's clock at a callback, or the engine's own stamps (CLOCK_MONOTONIC).
        shared: all rows arrived together; ``offsets_us`` then has one list for all.
        offsets_us: shape (1 or rows, tokens of the row).
    """

    source: Literal["worker", "engine"]
    shared: bool
    offsets_us: tuple[tuple[int, ...], ...]

    def of_row(self, row: int) -> tuple[int, ...]:
        """Offsets of one row, microseconds."""
        return self.offsets_us[0 if self.shared else row]


class BatchEvent(Record):
    """One ``generate`` call.

    Attributes:
        prompts: indices into the workload, in the order given to the engine.
        prompts_digest: over the token ids really given, in order.
        prompt_tokens: per row.
        latency_s: from the call to its return, the device finished.
        outputs: token ids per row, without the prompt.
        arrivals: where token times were asked for and are told.
    """

    type: Literal["batch"] = "batch"
    phase: BatchPhase
    index: int = Field(ge=0, description="counts from 0 within its phase")
    prompts: tuple[Count, ...] = Field(min_length=1)
    prompts_digest: str
    prompt_tokens: tuple[Count, ...]
    started_s: Moment
    latency_s: Duration
    outputs: tuple[tuple[int, ...], ...]
    arrivals: Arrivals | None = None
    cpu: CpuReadings | None = None

    @cached_property
    def output_tokens(self) -> tuple[int, ...]:
        """Output tokens per row, counted from the engine's ids."""
        return tuple(map(len, self.outputs))

    @cached_property
    def arrivals_us(self) -> tuple[tuple[int, ...], ...]:
        """When each row's tokens arrived, microseconds from the batch's start; nothing where that is not told."""
        if self.arrivals is None:
            return ()
        offsets = self.arrivals.offsets_us
        return offsets * len(self.prompts) if self.arrivals.shared else offsets

    @model_validator(mode="after")
    def _rectangular(self) -> BatchEvent:
        rows = len(self.prompts)
        if len(self.prompt_tokens) != rows or len(self.outputs) != rows:
            raise ValueError("prompts, prompt_tokens and outputs differ in their number of rows")
        if self.arrivals is not None:
            if len(self.arrivals.offsets_us) != (1 if self.arrivals.shared else rows):
                raise ValueError("arrivals and outputs differ in their number of rows")
            arrived = [*map(len, self.arrivals.offsets_us)] * (rows if self.arrivals.shared else 1)
            if arrived != [*map(len, self.outputs)]:
                raise ValueError("a row has another number of arrivals than of output tokens")
            if any(offsets and not _ascending(offsets) for offsets in self.arrivals.offsets_us):
                raise ValueError("arrivals are not in order or before the batch")
        return self


def _ascending(offsets: tuple[int, ...]) -> bool:
    return offsets[0] >= 0 and all(map(operator.le, offsets, offsets[1:]))


class WarmupEndEvent(Record):
    """The warm-up has ended, and how; ``rule`` is what it was held to, so that the log alone can be judged."""

    type: Literal["warmup_end"] = "warmup_end"
    t_s: Moment
    end: WarmupEnd
    rule: WarmupRule


class StopEvent(Record):
    """Measuring has stopped, and why; ``rule``, the workload's full batches and their work are what decided it.

    ``mean_work`` and ``work_spread`` are absent in logs of before they were looked at.
    """

    type: Literal["stop"] = "stop"
    t_s: Moment
    reason: StopReason
    rule: StoppingRule
    available_batches: int = Field(ge=1)
    mean_work: MeanWork | None = None
    work_spread: WorkSpread | None = None

    @property
    def whole_work(self) -> WholeWork | None:
        """What is told of the workload's work; ``None`` where nothing is."""
        if self.mean_work is None:
            return None
        return WholeWork(batches=self.available_batches, mean=self.mean_work, spread=self.work_spread)


class TelemetryEvent(Record):
    """Samples since the last such line, in columns of equal length; ``None`` where a source does not answer.

    Several GPUs of a cell are read as one device: memory, power and energy are sums (``system.nvml.Together``).

    Attributes:
        t_s: sampling times.
        rss_bytes: resident memory of the engine's process and its children, summed.
        device_used_bytes: memory in use on the GPU, by all processes (NVML, by UUID).
        power_w: instantaneous board power.
        energy_mj: NVML's energy counter, millijoules since the driver was loaded.
        sm_clock_mhz, memory_clock_mhz, temperature_c, utilisation_percent: as NVML tells them.
        throttle_reasons: NVML's clock-event bit mask.
        package_energy_uj: energy of all CPU packages since sampling began (RAPL), microjoules.
    """

    type: Literal["telemetry"] = "telemetry"
    t_s: tuple[Moment, ...]
    rss_bytes: tuple[MaybeCount, ...]
    device_used_bytes: tuple[MaybeCount, ...] | None = None
    power_w: tuple[float | None, ...] | None = None
    energy_mj: tuple[MaybeCount, ...] | None = None
    sm_clock_mhz: tuple[MaybeCount, ...] | None = None
    memory_clock_mhz: tuple[MaybeCount, ...] | None = None
    temperature_c: tuple[int | None, ...] | None = None
    utilisation_percent: tuple[MaybeCount, ...] | None = None
    throttle_reasons: tuple[MaybeCount, ...] | None = None
    package_energy_uj: tuple[MaybeCount, ...] | None = None

    @model_validator(mode="after")
    def _columns_of_one_length(self) -> TelemetryEvent:
        lengths = {len(column) for column in self.__dict__.values() if column.__class__ is tuple}
        if len(lengths) > 1:
            raise ValueError("the columns differ in length")
        return self


class ScoreEvent(Record):
    """The engine's probabilities of a fixed text, asked for after all batches; see ``contract.quality``.

    Attributes:
        texts: indices into the workload; each text is the beginning of that prompt.
        digest: over the token ids scored, text by text.
        scored_tokens: for each text, how many of its tokens have a probability (all but the first).
        log_probability_nat: for each text, the sum of these tokens' log-probabilities, nats.
        cause: why there are none, one line; the two columns above are then empty.
    """

    type: Literal["score"] = "score"
    started_s: Moment
    duration_s: Moment
    texts: tuple[Count, ...]
    digest: str
    scored_tokens: tuple[Annotated[int, Field(ge=1)], ...] = ()
    log_probability_nat: tuple[float, ...] = ()
    cause: str = ""

    @model_validator(mode="after")
    def _scored_or_not(self) -> ScoreEvent:
        expected = 0 if self.cause else len(self.texts)
        if len(self.scored_tokens) != expected or len(self.log_probability_nat) != expected:
            raise ValueError("texts, scored tokens and log-probabilities differ in their number")
        return self


class EndEvent(Record):
    """Last line of a cell that could still speak."""

    type: Literal["end"] = "end"
    t_s: Moment
    outcome: Outcome
    phase: Phase | None = None
    cause: str = ""


Event = (
    StartEvent
    | PhaseEvent
    | EngineEvent
    | BatchEvent
    | TelemetryEvent
    | ScoreEvent
    | EndEvent
    | WarmupEndEvent
    | StopEvent
)

_EVENT: Reader[Event] = Reader(Annotated[Event, Field(discriminator="type")], "event")


def parse_event(line: str | bytes, origin: str) -> Event:
    """Reads one line.

    Raises:
        BadInput: not JSON, not an event, or an event of another version; ``origin`` stands in the message.
    """
    try:
        return _EVENT.validate_json(line)
    except (ValidationError, ValueError, RecursionError) as error:
        raise BadInput(f"{origin}: {describe(error)}", "the event log is damaged") from error


def parse_events(lines: Iterable[str | bytes], origin: str) -> Iterator[Event]:
    """Reads the lines of an event log in order; blank lines are refused like any other damage.

    Raises:
        BadInput: see :func:`parse_event`; the message names the line.
    """
    for number, line in enumerate(lines, start=1):
        yield parse_event(line, f"{origin}:{number}")


class Progress(Record):
    """One line on a worker's standard output: how far a cell is. Not part of the event log."""

    type: Literal["progress"] = "progress"
    cell: str
    phase: Phase
    done: int = Field(ge=0)
    of: int = Field(ge=0)


class CellEnded(Record):
    """One line on a worker's standard output: a cell's folder is complete as far as the worker can make it so."""

    type: Literal["cell_ended"] = "cell_ended"
    cell: str
    outcome: Outcome
    cause: str = ""

    @property
    def stopped(self) -> bool:
        """Whether it has no numbers since somebody asked for a stop."""
        return was_stopped(self.outcome, self.cause)

    @property
    def words(self) -> str:
        """For a person: the outcome and its cause; of a cell that was stopped, the cause alone."""
        if self.stopped:
            return self.cause
        return self.outcome.value + (f": {self.cause}" if self.cause else "")


StdoutLine = Progress | CellEnded
_STDOUT: Reader[StdoutLine] = Reader(Annotated[StdoutLine, Field(discriminator="type")], "line of a worker")


def parse_stdout(line: str | bytes) -> StdoutLine | None:
    """Reads one line of a worker's standard output; ``None`` for anything else (it is then only logged)."""
    try:
        return _STDOUT.validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        return None
