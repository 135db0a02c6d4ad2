"""How fast a cell is so far, from the lines that its log has until now.

For whoever watches: what is published follows from the checked records alone. A line that is no event is left out.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import Any, Protocol

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.result import ServeResult
from bench_core.contract.statistics.correlated import percentile_interval, rate_interval
from bench_core.contract.statistics.stopping import Sample, rate_of
from bench_core.contract.statistics.workload_rate import WholeWork, work_of
from bench_core.report.format import percent, quantity, rate_within, significant, within

_PIECE_S = 0.05  # of the time in which a server's tokens are counted
_LEAST_S = 1.0  # of a window whose rate is told
_MOST_ROWS = 100_000  # whose time to first token is kept


class SoFar(Protocol):
    """Takes a log's lines, and says what follows."""

    def take(self, line: bytes) -> None:
        """One line."""

    def measuring_since(self, t_s: float) -> None:
        """Measuring began at this moment of CLOCK_MONOTONIC, or the warm-up has ended."""

    def words(self) -> str:
        """``16 batches, 764.1 ± 0.4 token/s (± 0.05 %), TTFT p50 20.1 ms``; empty where there is nothing to tell."""


@dataclass(frozen=True)
class _Batch:
    sample: Sample
    ttft_s: tuple[float, ...]


class BatchesSoFar:
    """Of closed batches of one size."""

    def __init__(self, batch_size: int, workload: Workload | None) -> None:
        self._batch_size, self._workload = batch_size, workload
        self._whole: WholeWork | None = None
        self._samples: list[Sample] = []
        self._ttft_s: list[float] = []
        self._told: tuple[int, str] = (0, "")

    def take(self, line: bytes) -> None:
        """A measured batch; anything else says nothing of its rate."""
        event = _event(line)
        if event.get("type") != "batch" or event.get("phase") != "measure":
            return
        try:
            batch = _batch(event)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError):
            return
        self._samples.append(batch.sample)
        if len(self._ttft_s) < _MOST_ROWS:
            self._ttft_s += batch.ttft_s

    def measuring_since(self, t_s: float) -> None:
        """Its log says so itself."""

    def words(self) -> str:
        """As measured until now; worked out once for each number of batches."""
        n = len(self._samples)
        if n != self._told[0]:
            self._told = (n, self._words(n))
        return self._told[1]

    def _words(self, n: int) -> str:
        if self._whole is None and self._workload is not None:
            if len(self._workload.prompts) >= self._batch_size:
                self._whole = self._workload.whole_work(self._batch_size)
            self._workload = None
        try:
            rate = rate_of(self._samples, self._whole)
        except (ArithmeticError, ValueError):  # numbers that no engine measures
            return quantity(n, "batch")
        half = rate.interval.half_width_tok_s if rate.interval is not None else None
        found = [quantity(n, "batch"), f"{rate_within(rate.throughput_tok_s, half)} token/s"]
        if rate.interval is not None:
            found[-1] += f" (± {percent(rate.interval.relative_half_width)} %)"
        if self._ttft_s:
            found.append(f"TTFT p50 {_ms(statistics.median(self._ttft_s))}")
        return ", ".join(found)


def _batch(event: dict[str, Any]) -> _Batch:
    tokens = sum(len(row) for row in event["outputs"])
    lengths = [int(length) for length in event["prompt_tokens"]]
    latency_s, started_s = float(event["latency_s"]), float(event["started_s"])
    if not latency_s > 0:
        raise ValueError
    arrivals = event.get("arrivals") or {"offsets_us": [], "shared": False}
    first = [offsets[0] / 1e6 for offsets in arrivals["offsets_us"] if offsets]
    if arrivals["shared"]:
        first *= len(lengths)
    return _Batch(Sample(tokens, latency_s, started_s, work_of(lengths)), tuple(first))


class ServedSoFar:
    """Of requests to a server."""

    def __init__(self) -> None:
        self._begin_s: float | None = None
        self._ok = self._failed = 0
        self._ttft: list[tuple[float, float]] = []  # due, time to first token; in the order of their ends
        self._tokens: dict[int, int] = {}  # by pieces of time
        self._longest_s = self._last_s = 0.0
        self._told: tuple[tuple[int, float | None], str] = ((0, None), "")

    def take(self, line: bytes) -> None:
        """A request that has ended."""
        event = _event(line)
        if event.get("type") != "request":
            return
        if event.get("end") != "ok":
            self._failed += event.get("end") != "unfinished"
            return
        try:
            sent_s, due_s, ended_s = (float(event[key]) for key in ("sent_s", "scheduled_s", "ended_s"))
            arrivals = [sent_s + at_us / 1e6 for at_us in event["arrivals_us"]]
            counts = [int(count) for count in event["arrival_tokens"]]
            for at_s, count in zip(arrivals, counts, strict=True):
                piece = int(at_s / _PIECE_S)
                self._tokens[piece] = self._tokens.get(piece, 0) + count
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        self._ok += 1
        self._last_s, self._longest_s = max(self._last_s, ended_s), max(self._longest_s, ended_s - due_s)
        if arrivals and len(self._ttft) < _MOST_ROWS:
            self._ttft.append((due_s, arrivals[0] - due_s))

    def measuring_since(self, t_s: float) -> None:
        """What was due before is warm-up."""
        self._begin_s = t_s

    def words(self) -> str:
        """As measured until now."""
        seen = (self._ok + self._failed, self._begin_s)
        if seen != self._told[0]:
            self._told = (seen, self._words())
        return self._told[1]

    def _words(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        found = [f"{quantity(self._ok, 'request')} answered{failed}"]
        # What is in flight is not told yet: tokens count up to when all that was sent before has surely ended.
        begin_s, until_s = self._begin_s, self._last_s - self._longest_s
        if begin_s is not None and until_s - begin_s >= _LEAST_S:
            times = [(piece + 0.5) * _PIECE_S for piece in self._tokens]
            rate = rate_interval(times, [*self._tokens.values()], begin_s, until_s)
            found.append(f"{within(rate.value, rate.low, rate.high)} token/s")
        first = [ttft_s for due_s, ttft_s in self._ttft if begin_s is not None and due_s >= begin_s]
        p50 = percentile_interval(first, 0.5)
        if p50 is not None:
            found.append(f"TTFT p50 {within(p50.value, p50.low, p50.high, 1e3)} ms")
        return ", ".join(found)


def _event(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def ended_words(result: bytes, *, served: bool) -> str:
    """The number of a cell that has ended well, of its ``result.json``; empty where there is none to read."""
    try:
        if served:
            return _served_words(ServeResult.parse(result, "result.json"))
        metrics = CellResult.parse(result, "result.json").metrics
    except BadInput:
        return ""
    rate = metrics.steadiness.workload_rate
    throughput = rate.throughput_tok_s if rate is not None else metrics.output_throughput_tok_s
    half = rate.interval.half_width_tok_s if rate is not None and rate.interval is not None else None
    found = f"{rate_within(throughput, half)} token/s"
    return f"{found}, TTFT p50 {_ms(metrics.ttft_s.median)}" if metrics.ttft_s is not None else found


def _served_words(result: ServeResult) -> str:
    metrics = result.metrics
    rate = metrics.output_throughput_tok_s
    found = f"{within(rate.value, rate.low, rate.high)} token/s"
    p50 = metrics.ttft_s.p50 if metrics.ttft_s is not None else None
    return f"{found}, TTFT p50 {within(p50.value, p50.low, p50.high, 1e3)} ms" if p50 is not None else found


def _ms(value_s: float) -> str:
    return f"{significant(value_s * 1e3, 3)} ms"
