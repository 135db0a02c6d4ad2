"""How far the suite's own numbers are off: a scripted engine says in advance what must be measured.

An image whose ``image.yaml`` names a ``harness_variant`` promises that three options of that variant are its script:

- ``ttft_s``: seconds from a batch's start to the first token of every row;
- ``tpot_s``: seconds between tokens after that, of all rows together;
- ``load_bytes``: memory that the engine's process takes while it loads, and keeps.

What is measured beyond that is the suite's: its clock, its callbacks, its sampling, and the waking of its processes.
Under load the image's server has the same script for each request, and the client is measured with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.measures.token_times import row_tpot_s, row_ttft_s
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.record import Scalar
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.measures import Latency, ServeMetrics
from bench_core.contract.serving.requests import RequestEvent, WindowEvent
from bench_core.contract.statistics.correlated import Estimate


@dataclass(frozen=True)
class Script:
    """What the scripted engine does: seconds, and bytes of host memory (0: not scripted)."""

    ttft_s: float
    tpot_s: float
    load_bytes: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Scalar]) -> Script:
        """Reads a script from the options of a cell.

        Raises:
            BadInput: a time is missing or is no positive number.
        """
        numbers = {}
        for name in ("ttft_s", "tpot_s", "load_bytes"):
            value = options.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(f"the script's {name} is no number")
            numbers[name] = value
        if min(numbers["ttft_s"], numbers["tpot_s"]) <= 0 or numbers["load_bytes"] < 0:
            raise BadInput("the script has no times, or a negative amount of memory")
        return cls(float(numbers["ttft_s"]), float(numbers["tpot_s"]), int(numbers["load_bytes"]))

    def latency_s(self, output_tokens: Sequence[int]) -> float:
        """One batch whose rows have these numbers of output tokens: it ends with the longest row's last token."""
        return self.ttft_s + (max(output_tokens) - 1) * self.tpot_s

    def throughput_tok_s(self, batches: Iterable[Sequence[int]]) -> float:
        """Output tokens of all batches (their rows' numbers of tokens) / sum of the scripted latencies."""
        rows = list(batches)
        return sum(map(sum, rows)) / math.fsum(map(self.latency_s, rows))

    def served_tok_s(self, load: Serve, requests: Iterable[RequestEvent], window: WindowEvent) -> float:
        """Output tokens/s in a window, if every request had been sent when it was to be and nothing took time but the
        script. In a closed loop each stream then sends a request at the moment at which the one before has ended.

        Streams that begin together fall silent together for ``ttft_s``. So tokens are counted one by one: the formula
        streams x tokens / latency would err by such a pause in a window of seconds.

        Raises:
            BadInput: there are no requests.
        """
        asked = list(requests)
        if not asked:
            raise BadInput("the scripted server was asked for nothing")
        if load.concurrency is not None:
            asked = [request for request in asked if request.index < load.concurrency]
        ends = (window.begin_s, window.end_s)
        counts = (
            self._sent_before(request, end_s, load.concurrency is not None) for request in asked for end_s in ends
        )
        return sum(after - before for before, after in zip(counts, counts, strict=True)) / (ends[1] - ends[0])

    def _sent_before(self, request: RequestEvent, moment_s: float, again: bool) -> int:
        """Tokens that the script has sent by then, of one request, or of the stream that begins with it."""
        since_s, tokens = moment_s - request.scheduled_s, request.asked_tokens
        if since_s <= 0:
            return 0
        cycles = int(since_s // self.latency_s([tokens])) if again else 0
        since_s -= cycles * self.latency_s([tokens])
        return cycles * tokens + min(max(math.ceil((since_s - self.ttft_s) / self.tpot_s), 0), tokens)


@dataclass(frozen=True)
class Gap:
    """One number of one cell beside the script's.

    Attributes:
        name: ``ttft_s``, ``tpot_s``, ``output_throughput_tok_s`` or ``memory_bytes``; of a cell under load the first
            three, and ``lateness_s``, whose script is 0.
        scripted, measured: in the unit of the name. Measured is the median over the measured batches (of a batch's mean
            over its rows, for times), so that one late waking of the scripted engine itself is not taken for the
            suite's error; under load over the window's requests, of throughput the window's.
        worst: the batch, or the request, furthest from the script; ``None`` for what has one value.
        low, high: ends of the 95 % interval of what was measured; ``None`` where there is none.
    """

    name: str
    scripted: float
    measured: float
    worst: float | None
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float:
        """Measured - scripted, in the unit of the name."""
        return self.measured - self.scripted

    @property
    def error(self) -> float:
        """(measured - scripted) / scripted; 0 where nothing is scripted and nothing measured, else without end."""
        return self._relative(self.measured)

    @property
    def worst_error(self) -> float | None:
        """The same of the batch furthest from the script."""
        return None if self.worst is None else self._relative(self.worst)

    def _relative(self, value: float) -> float:
        if self.scripted == 0:
            return 0.0 if value == 0 else math.copysign(math.inf, value)
        return value / self.scripted - 1.0


def gaps(script: Script, metrics: CellMetrics, measured: Sequence[BatchEvent]) -> tuple[Gap, ...]:
    """A scripted cell's numbers beside its script.

    Throughput of a batch is compared as the script's throughput x scripted latency / measured latency, which for rows
    of one length is tokens / latency. Memory is what loading added to the resident memory of the engine's process, as
    sampled.

    Args:
        metrics: what the suite makes of the cell.
        measured: the cell's measured batches.

    Raises:
        BadInput: the cell has no token times.
    """
    rows = [batch.output_tokens for batch in measured]
    expected = script.throughput_tok_s(rows)
    ttft = [fmean(values) for batch in measured if (values := row_ttft_s(batch))]
    tpot = [fmean(values) for batch in measured if (values := row_tpot_s(batch))]
    if not ttft:
        raise BadInput("the scripted engine's cell has no token times")
    found = [_gap("ttft_s", script.ttft_s, ttft)]
    if tpot:  # one output token has no time per further token
        found.append(_gap("tpot_s", script.tpot_s, tpot))
    rates = [
        expected * script.latency_s(tokens) / batch.latency_s for batch, tokens in zip(measured, rows, strict=True)
    ]
    found.append(_gap("output_throughput_tok_s", expected, rates))
    use = metrics.host_memory
    if script.load_bytes and use is not None and use.baseline_bytes is not None and use.after_load_bytes is not None:
        added = use.after_load_bytes - use.baseline_bytes
        found.append(Gap("memory_bytes", float(script.load_bytes), float(added), None))
    return tuple(found)


def _gap(name: str, scripted: float, of_batches: Sequence[float]) -> Gap:
    worst = max(of_batches, key=lambda value: abs(value - scripted))
    return Gap(name, scripted, median(of_batches), worst)


def served_gaps(
    script: Script, load: Serve, metrics: ServeMetrics, requests: Sequence[RequestEvent], window: WindowEvent
) -> tuple[Gap, ...]:
    """A scripted cell's numbers under load beside its script: times of answered requests, from when they were to be
    sent; the output rate beside the ideal one; and how late requests were sent, of which the script has nothing.

    Args:
        metrics: what the suite makes of the cell.
        requests: all of its log, of warm-up and window.

    Raises:
        BadInput: no request was answered within the window.
    """
    if metrics.ttft_s is None:
        raise BadInput("the scripted server's cell has no answered request")
    found = [_latency_gap("ttft_s", script.ttft_s, metrics.ttft_s)]
    if metrics.tpot_s is not None:
        found.append(_latency_gap("tpot_s", script.tpot_s, metrics.tpot_s))
    rate, ideal = metrics.output_throughput_tok_s, script.served_tok_s(load, requests, window)
    found.append(Gap("output_throughput_tok_s", ideal, rate.value, None, rate.low, rate.high))
    late = metrics.lateness_s
    if late is not None:
        found.append(Gap("lateness_s", 0.0, late.max if late.p50 is None else late.p50, late.max))
    return tuple(found)


def _latency_gap(name: str, scripted: float, measured: Latency) -> Gap:
    """Of the median; of the mean where there are too few requests for one."""
    middle: Estimate = measured.mean if measured.p50 is None else measured.p50
    return Gap(name, scripted, middle.value, measured.max, middle.low, middle.high)


def bounds(cells: Iterable[Sequence[Gap]]) -> dict[str, float]:
    """For each number the largest relative error of its cells, whichever its sign: what tables may be off by."""
    largest: dict[str, float] = {}
    for gap in (gap for cell in cells for gap in cell):
        largest[gap.name] = max(largest.get(gap.name, 0.0), abs(gap.error))
    return largest
