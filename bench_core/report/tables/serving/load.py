"""Cells under load: a table for each load point, methods beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench_core.contract.serving.load import Serve
from bench_core.contract.statistics.distribution import VALUES_BEYOND_A_PERCENTILE
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.explain.marks import NOT_RANKED_MARK, SPECULATIVE, SPECULATIVE_NOTE
from bench_core.report.explain.own_error import own_error_under_load
from bench_core.report.explain.under_load import (
    NONE_FAILED,
    SATURATED,
    SATURATED_NOTE,
    asked_limits,
    failed_words,
    first_at,
    limits_words,
    not_compared,
    state,
)
from bench_core.report.format import ABSENT, NOT_READ, count, digits, gib, milliseconds, rate, seconds, significant
from bench_core.report.served import (
    METHOD,
    Served,
    estimate_column,
    load_points,
    measured,
    nothing,
    of_load,
    status,
)
from bench_core.runs.view import RunView


@dataclass(frozen=True)
class Loaded(Served):
    """A cell beside the others of its load point. ``best``: it is first among those ranked."""

    best: bool = False


def _best(line: Served) -> bool:
    return isinstance(line, Loaded) and line.best


def _first_in_closed(line: Served) -> bool:
    return _best(line) and not line.row.load.open_loop


def _first_in_open(line: Served) -> bool:
    return _best(line) and line.row.load.open_loop


def _mark(line: Served) -> str:
    return NOT_RANKED_MARK if line.row.result and not_compared(line.row) else ""


def _percentile(name: str, place: int, meaning: str = "", *, in_ms: bool = True) -> Column[Served]:
    """A percentile of a latency, without its interval: that stands in the detailed table."""
    base = name.removesuffix("_s")
    return Column(
        f"{base.upper()} p{place}",
        f"metrics.{name}.p{place}.value",
        milliseconds if in_ms else seconds,
        unit="ms" if in_ms else "s",
        csv=f"{base}_p{place}_s",
        failed=nothing,
        meaning=meaning,
    )


def failed_entry(line: Served) -> Entry:
    """How many requests of a cell failed, and how."""
    metrics = line.metrics
    if metrics is None:
        return Entry(ABSENT)
    words = failed_words(metrics.requests)
    return Entry(words, metrics.share_failed, failed=words != NONE_FAILED)


def _state(line: Served) -> Entry:
    words = state(line.row)
    return Entry(words, failed=words.removesuffix(f", {SPECULATIVE}") != "ok")


THROUGHPUT = estimate_column(
    "Output",
    "metrics.output_throughput_tok_s",
    unit="token/s",
    csv="output_throughput_tok_s",
    failed=status,
    strong=_first_in_closed,
    meaning=(
        "output tokens that arrived in the window, of all requests / its length, with the 95 % interval: ± half of it, "
        "or its ends where it is uneven"
    ),
)


def _per_gpu(line: Served) -> float | None:
    metrics = line.metrics
    return metrics.output_throughput_tok_s.value / line.row.planned.gpus if metrics is not None else None


# Where models are split over several GPUs.
PER_GPU = Column[Served](
    "Per GPU",
    _per_gpu,
    rate,
    unit="token/s",
    csv="output_throughput_per_gpu_tok_s",
    failed=nothing,
    meaning="output / the GPUs that the model is split over; memory, power and energy are sums over these GPUs",
)
GPUS = Column[Served]("GPUs", "row.planned.gpus", csv="gpus")
REQUESTS = estimate_column(
    "Requests",
    "metrics.request_throughput_per_s",
    unit="1/s",
    csv="request_throughput_per_s",
    meaning="requests that were answered as asked and ended in the window / its length, with the 95 % interval",
)
TTFT_P50 = replace(
    _percentile(
        "ttft_s",
        50,
        "median time to first token, from when the request was to be sent; p90, p99: 90 and 99 of 100 requests were "
        "faster",
    ),
    strong=_first_in_open,
)
TTFT_P99 = _percentile("ttft_s", 99)
TPOT_P50 = _percentile(
    "tpot_s", 50, "median over requests of the time for each output token after the first: the mean of a request"
)
WITHIN = estimate_column(
    "Within limits",
    "metrics.kept.attainment",
    factor=100.0,
    unit="%",
    csv="attainment",
    meaning="share of the window's requests that kept every latency limit; one that failed did not",
)
GOODPUT = estimate_column(
    "Requests within limits",
    "metrics.kept.goodput",
    unit="1/s",
    csv="goodput_per_s",
    meaning="requests of the window that kept every limit / its length: goodput",
)
STATE = Column[Served](
    "Outcome",
    lambda line: state(line.row),
    shown=_state,
    words=True,
    meaning=f"{SATURATED}: the server did not keep up with what was sent",
)
_SPEED: Sequence[Column[Served]] = [
    THROUGHPUT,
    REQUESTS,
    Column(
        "Per user",
        "metrics.per_user_tok_s.value",
        significant,
        unit="token/s",
        csv="per_user_tok_s",
        failed=nothing,
        meaning="1 / the median TPOT: how fast one user's text is written",
    ),
    TTFT_P50,
    _percentile("ttft_s", 90),
    TTFT_P99,
    TPOT_P50,
    _percentile("tpot_s", 99),
    _percentile("itl_s", 99, "the gap before a token after the first: 99 of 100 tokens came faster"),
    _percentile("e2e_s", 50, "median time from when the request was to be sent to its complete answer", in_ms=False),
    _percentile("e2e_s", 99, in_ms=False),
    Column(
        "In flight",
        "metrics.in_flight.mean",
        count,
        csv="in_flight_mean",
        failed=nothing,
        meaning="requests that were sent and had not ended: mean over the window",
    ),
    Column(
        "Late p99",
        "metrics.lateness_s.p99",
        milliseconds,
        unit="ms",
        csv="lateness_p99_s",
        failed=nothing,
        meaning="how much later than planned the client sent requests: 99 of 100 were less late",
    ),
    Column(
        "Failed",
        "metrics.share_failed",
        csv="share_failed",
        shown=failed_entry,
        words=True,
        meaning="requests of the window that were not answered as asked, by kind; percentiles are of the others",
    ),
]


_GPU_MEMORY = Column[Served](
    "GPU memory",
    "metrics.device_peak_bytes",
    gib,
    csv="device_peak_bytes",
    absent=NOT_READ,
    failed=nothing,
    meaning="in use on the GPU by all processes, highest in the window",
)
_SERVER_MEMORY = Column[Served](
    "Server memory",
    "row.result.host_peak_bytes",
    gib,
    csv="host_peak_bytes",
    absent=NOT_READ,
    failed=nothing,
    meaning="resident memory of the server's processes, highest in the window",
)
_ENERGY = Column[Served](
    "Energy",
    "metrics.telemetry.joules_per_output_token",
    digits(3),
    unit="J/token",
    csv="joules_per_output_token",
    failed=nothing,
    meaning="of the device over the window / output tokens",
)
# Of any run.
EVERY: Sequence[Column[Served]] = (
    *(METHOD, *_SPEED, WITHIN, GOODPUT, _GPU_MEMORY, _SERVER_MEMORY, _ENERGY, STATE),
    *(PER_GPU, GPUS),
)


def _memory(view: RunView) -> Iterator[Column[Served]]:
    if view.on_cuda:
        yield _GPU_MEMORY
    yield _SERVER_MEMORY
    if any(_ENERGY.of(line) is not None for line in measured(view)):
        yield _ENERGY


def load_columns(view: RunView) -> tuple[Column[Served], ...]:
    """Columns of the tables of one load point each."""
    limits = (WITHIN, GOODPUT) if asked_limits(view) else ()
    speed = (_SPEED[0], PER_GPU, *_SPEED[1:]) if view.gpus_per_cell > 1 else _SPEED
    return (replace(METHOD, mark=_mark), *speed, *limits, *_memory(view), STATE)


def load_sheets(view: RunView) -> Iterator[Sheet]:
    """One table for each load point, rows in the order of the plan."""
    columns = load_columns(view)
    for load in load_points(view):
        lines = loaded(view, load)
        yield sheet(f"Under load: {load.words}", columns, lines, _notes(view, load, lines))


def loaded(view: RunView, load: Serve) -> list[Loaded]:
    """The cells of one load point in the order of the plan, the first among those ranked marked."""
    lines = of_load(view, load)
    found = first_at(load, [line.row for line in lines])
    best = {row.planned.cell for row in found.leads} if found else set()
    return [Loaded(view, line.row, best=line.row.planned.cell in best) for line in lines]


def _notes(view: RunView, load: Serve, lines: Sequence[Loaded]) -> Iterator[str]:
    if any(line.best for line in lines):
        what = "lowest median time to first token" if load.open_loop else "most output tokens/s"
        yield f"Bold: {what} of the methods that are ranked and kept up."
    for limits in asked_limits(view):
        yield f"Limits of a request: {limits_words(limits)}."
    for line in lines:
        reason = not_compared(line.row) if line.row.result else ""
        if reason:
            yield f"{NOT_RANKED_MARK} not ranked: {line.label}: {reason}."
    if any(line.row.result and line.row.speculative for line in lines):
        yield f"{SPECULATIVE}: {SPECULATIVE_NOTE}"
    if any(line.metrics and line.metrics.saturated for line in lines):
        yield SATURATED_NOTE
    error = own_error_under_load(view)
    if error:
        yield f"The suite's own error on this machine: {error}; see Details."
    yield from absent_notes(lines)


def absent_notes(lines: Sequence[Served]) -> Iterator[str]:
    """Why percentiles are absent; with the load points where the lines are of several."""
    several = len({line.row.load for line in lines}) > 1
    few, unanswered = [], []
    for line in lines:
        metrics = line.metrics
        if metrics is None:
            continue
        name = f"{line.label} at {line.row.load.words}" if several else line.label
        if metrics.ttft_s is None:
            unanswered.append(name)
        elif metrics.ttft_s.p99 is None:
            few.append(f"{name}: {metrics.ttft_s.n}")
    if few:
        yield (
            f"{ABSENT}: a percentile is given only where {VALUES_BEYOND_A_PERCENTILE} values or more lie beyond it: "
            f"p50 from 10 values, p90 from 50, p99 from 500. Answered requests of the window: {'; '.join(few)}."
        )
    if unanswered:
        yield f"{ABSENT}: no request that was to be sent in the window was answered: {'; '.join(unanswered)}."
