"""Cells under load in detail: every latency with its intervals, and how each cell was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.serving.measures import Latency
from bench_core.report.column import Column, Entry, Sheet, at, sheet
from bench_core.report.explain.under_load import SENT_TWICE_NOTE, STOPS
from bench_core.report.format import ABSENT, digits, milliseconds, seconds, significant, within
from bench_core.report.served import KEY, Served, ends, estimate_column, measured
from bench_core.report.tables.serving.load import absent_notes, failed_entry
from bench_core.runs.view import RunView

# Name of the field, title, factor and unit.
_LATENCIES = (
    ("ttft_s", "TTFT", 1e3, "ms"),
    ("ttft_from_sent_s", "TTFT from sent", 1e3, "ms"),
    ("tpot_s", "TPOT", 1e3, "ms"),
    ("itl_s", "ITL", 1e3, "ms"),
    ("e2e_s", "E2E", 1.0, "s"),
    ("e2e_from_sent_s", "E2E from sent", 1.0, "s"),
)
_PLACES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class _Latency(Served):
    """One kind of latency of a cell."""

    what: str
    factor: float
    latency: Latency


def _in_unit(name: str) -> Column[_Latency]:
    def shown(line: _Latency) -> Entry:
        found = getattr(line.latency, name)
        if found is None:
            return Entry(ABSENT)
        return Entry(within(found.value, found.low, found.high, line.factor), found.value * line.factor)

    return Column(name.capitalize() if name == "mean" else name, f"latency.{name}", shown=shown)


_DETAILS: Sequence[Column[_Latency]] = [
    *KEY,
    Column("Latency", "what", words=True),
    Column("Values", "latency.n"),
    *(_in_unit(name) for name in ("mean", *_PLACES)),
    Column("Highest", lambda line: line.latency.max * line.factor, significant),
]
_DETAILS_NOTE = (
    "Each number with its 95 % interval: ± half of it, or its ends where it is uneven; alone where the sample carries "
    "none. Counted from when a request was to be sent; from sent: from when it was, which leaves out the client's own "
    "delay. Of requests that were to be sent in the window and were answered; ITL: of each token after a request's "
    "first that arrived in the window."
)


def latency_sheet(view: RunView) -> Iterator[Sheet]:
    """Every kind of latency of every cell."""
    lines = []
    for cell in measured(view):
        for name, title, factor, unit in _LATENCIES:
            latency = getattr(cell.metrics, name)
            if latency is not None:
                lines.append(_Latency(view, cell.row, f"{title} ({unit})", factor, latency))
    if lines:
        yield sheet("Latencies under load", _DETAILS, lines, (_DETAILS_NOTE, *_without_interval(lines)))


def _without_interval(lines: Sequence[_Latency]) -> Iterator[str]:
    """Why some numbers have no interval, each reason once."""
    found: dict[str, int] = {}
    for line in lines:
        for name in ("mean", *_PLACES):
            estimate = getattr(line.latency, name)
            if estimate is not None and estimate.absent:
                found[estimate.absent] = found.get(estimate.absent, 0) + 1
    if found:
        yield "Without an interval: " + "; ".join(f"{number} x {why}" for why, number in found.items()) + "."


# --- how each cell was measured ---------------------------------------------------------------------------------------


def _asked(line: Served) -> str | None:
    serve = line.row.spec.serve if line.row.spec else None
    if serve is None:
        return None
    p = serve.protocol
    return f"{p.serve_precision * 100:g}, {p.ttft_precision * 100:g} (p{p.ttft_percentile})"


def _width(path: str) -> Column[Served]:
    read = at(path)

    def shown(line: Served) -> Entry:
        found = read(line)
        if found is None or found.low is None:
            return Entry(ABSENT)
        return Entry(significant(found.relative_half_width * 100, 2), found.relative_half_width)

    return Column("Interval of output", f"{path}.relative_half_width", unit="± %", shown=shown)


def _cpu(line: Served) -> Entry:
    use = line.row.result.cpu if line.row.result else None
    if use is None:
        return Entry(ABSENT)
    return Entry(f"{use.others_cpus:.2f} of {use.cpus}", use.others_cpus, failed=use.busy)


MEASURED: Sequence[Column[Served]] = [
    *KEY,
    Column("Window", "metrics.window_s", digits(3), unit="s", csv="window_s"),
    Column("Ended by", "metrics.stop_reason", lambda reason: STOPS.get(reason, reason), csv="stop_reason", words=True),
    Column(
        "Warm-up",
        "metrics.warmup_steady",
        lambda steady: "steady" if steady else "not steady",
        csv="warmup_steady",
        words=True,
    ),
    _width("metrics.output_throughput_tok_s"),
    Column("Asked for, output and TTFT", _asked, unit="± %", words=True),
    Column("Scheduled", "metrics.requests.scheduled", csv="requests_scheduled"),
    Column("Answered", "metrics.requests.ok", csv="requests_ok"),
    Column("Failed", "metrics.share_failed", shown=failed_entry, words=True),
    Column("Most in flight", "metrics.in_flight.max", csv="in_flight_max"),
    Column("Late, median", "metrics.lateness_s.p50", milliseconds, unit="ms", csv="lateness_p50_s"),
    Column("Late, most", "metrics.lateness_s.max", milliseconds, unit="ms", csv="lateness_max_s"),
    estimate_column("Prompts read", "metrics.prompt_throughput_tok_s", unit="token/s", csv="prompt_throughput_tok_s"),
    Column("Server start", "row.result.load_s", seconds, unit="s", csv="load_s"),
    Column("CPUs taken by others", "row.result.cpu.others_cpus", csv="cpu_others_cpus", shown=_cpu),
]


def measured_sheet(view: RunView) -> Iterator[Sheet]:
    """The window of each cell, and its requests."""
    lines = measured(view)
    if lines:
        note = (
            "Window: from when the load stood still to when measuring ended; requests that were to be sent in it "
            "count. Failed requests have no latency and are in no percentile; they count as misses of the limits. "
            "Late: the client's delay. Server start: until its first answer."
        )
        twice = any(line.metrics is not None and line.metrics.requests.resent for line in lines)
        notes = (note, *([SENT_TWICE_NOTE] if twice else []), *absent_notes(lines))
        yield sheet("How load points were measured", MEASURED, lines, notes)


# --- in the CSV alone -------------------------------------------------------------------------------------------------


def _kinds(line: Served) -> str | None:
    """``status 3, timeout 1``."""
    return None if line.metrics is None else ", ".join(f"{k} {n}" for k, n in line.metrics.requests.failed.items())


def _raw() -> Iterator[Column[Served]]:
    for path, name in (
        ("output_throughput_tok_s", "output_throughput_{}_tok_s"),
        ("prompt_throughput_tok_s", "prompt_throughput_{}_tok_s"),
        ("request_throughput_per_s", "request_throughput_{}_per_s"),
        ("per_user_tok_s", "per_user_{}_tok_s"),
        ("kept.attainment", "attainment_{}"),
        ("kept.goodput", "goodput_{}_per_s"),
    ):
        yield from ends(f"metrics.{path}", name)
    for field, *_ in _LATENCIES:
        base = field.removesuffix("_s")
        yield Column("", f"metrics.{field}.n", csv=f"{base}_values")
        for name in ("mean", *_PLACES):
            yield Column("", f"metrics.{field}.{name}.value", csv=f"{base}_{name}_s")
            yield from ends(f"metrics.{field}.{name}", f"{base}_{name}_{{}}_s")
        yield Column("", f"metrics.{field}.max", csv=f"{base}_max_s")
    yield Column("", "metrics.requests.sent", csv="requests_sent")
    yield Column("", _kinds, csv="requests_failed")
    yield Column("", "metrics.requests.unfinished", csv="requests_unfinished")
    yield Column("", "metrics.requests.resent", csv="requests_sent_twice")
    yield Column("", "metrics.saturated", csv="saturated")
    yield Column("", "metrics.client_limited", csv="client_limited")
    yield Column("", "row.result.cpu.busy", csv="cpu_busy")


RAW: Sequence[Column[Served]] = tuple(_raw())
