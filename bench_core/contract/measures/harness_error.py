"""How far the suite's own numbers are off: a scripted engine says in advance what must be measured.

An image whose ``image.yaml`` names a ``harness_variant`` promises that three options of that variant are its script:

- ``ttft_s``: seconds from a batch's start to the first token of every row;
- ``tpot_s``: seconds between tokens after that, of all rows together;
- ``load_bytes``: memory that the engine's process takes while it loads, and keeps.

What is measured beyond that is the suite's: its clock, its callbacks, its sampling, and the waking of its processes.
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


@dataclass(frozen=True)
class Gap:
    """One number of one cell beside the script's.

    Attributes:
        name: ``ttft_s``, ``tpot_s``, ``output_throughput_tok_s`` or ``memory_bytes``.
        scripted, measured: in the unit of the name. Measured is the median over the measured batches (of a batch's mean
            over its rows, for times), so that one late waking of the scripted engine itself is not taken for the
            suite's error.
        worst: the batch furthest from the script; ``None`` for memory, of which there is one value.
    """

    name: str
    scripted: float
    measured: float
    worst: float | None

    @property
    def error(self) -> float:
        """(measured - scripted) / scripted."""
        return self.measured / self.scripted - 1.0

    @property
    def worst_error(self) -> float | None:
        """The same of the batch furthest from the script."""
        return None if self.worst is None else self.worst / self.scripted - 1.0


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


def bounds(cells: Iterable[Sequence[Gap]]) -> dict[str, float]:
    """For each number the largest relative error of its cells, whichever its sign: what tables may be off by."""
    largest: dict[str, float] = {}
    for gap in (gap for cell in cells for gap in cell):
        largest[gap.name] = max(largest.get(gap.name, 0.0), abs(gap.error))
    return largest
