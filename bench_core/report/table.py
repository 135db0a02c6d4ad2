"""The report in Markdown, and the raw numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench_core.contract import layout
from bench_core.contract.metrics import CellMetrics, Distribution, MemoryUse
from bench_core.report.content import Document, Failure
from bench_core.report.format import csv_text, markdown_text
from bench_core.report.protocol import misfit_words
from bench_core.report.roofs import csv_roofs
from bench_core.report.sheet import Entry, Sheet
from bench_core.runs.view import Row, RunView

FIGURES = (
    ("throughput", "Throughput by batch size, one line for each method"),
    ("memory", "Peak memory by batch size, one line for each method"),
)


def markdown(document: Document) -> str:
    """The whole report. Text from names, causes and facts is inert in it."""
    parts = [f"# {markdown_text(document.title)}", _facts(document.facts)]
    parts += [_sheet(sheet, level=2) for sheet in document.glance]
    parts += ["What the columns mean:", _facts(document.meanings)]
    parts += [_sheet(sheet, level=2) for sheet in document.results]
    parts += ["## Scaling"]
    parts += [f"![{alt}]({layout.FIGURES_FOLDER}/{name}.svg)" for name, alt in FIGURES]
    if document.failures:
        parts += ["## Cells without numbers", "\n".join(_failure(failure) for failure in document.failures)]
    parts += ["## Details"]
    parts += [_sheet(sheet, level=3) for sheet in (*document.details, document.images)]
    parts += [
        "Every number here follows from the raw events of this run; "
        "`python -m bench_core.report RUN` computes them again."
    ]
    return "\n\n".join(parts) + "\n"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {markdown_text(text)}" for name, text in facts)


def _sheet(sheet: Sheet, level: int) -> str:
    return f"{'#' * level} {sheet.heading}\n\n{sheet_markdown(sheet)}"


def sheet_markdown(sheet: Sheet) -> str:
    """A table and its notes, without its heading."""
    if not sheet.rows:
        return "No cell was measured."
    lines = ["| " + " | ".join(title for title, _ in sheet.columns) + " |"]
    lines.append("|" + "|".join("---:" if of_numbers else "---" for _, of_numbers in sheet.columns) + "|")
    lines += ["| " + " | ".join(_entry(entry) for entry in row) + " |" for row in sheet.rows]
    for note in sheet.notes:
        lines += ["", markdown_text(note)]
    return "\n".join(lines)


def _entry(entry: Entry) -> str:
    text = markdown_text(entry.text)
    if entry.strong:
        text = f"**{text}**"
    return f"{text} {entry.mark}" if entry.mark else text


def _failure(failure: Failure) -> str:
    evidence = f" ({markdown_text(failure.evidence)})" if failure.evidence else ""
    return (
        f"- **{markdown_text(failure.method)}**, batch size {failure.batch_size}: "
        f"{markdown_text(failure.status)}: {markdown_text(failure.cause)}{evidence}"
    )


def csv_table(view: RunView) -> str:
    """One line for each planned cell in the order of the plan; raw numbers, units in the columns' names.

    A field is empty where there is no such number; ``outcome`` says why a whole line has none.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    lines = [_csv_line(view, row) for row in view.rows]
    writer.writerow(lines[0])
    writer.writerows(line.values() for line in lines)
    return target.getvalue()


def _csv_line(view: RunView, row: Row) -> dict[str, str | float | None]:
    metrics = row.result.metrics if row.result else None
    return {
        "cell": row.planned.cell,
        "image": row.planned.image,
        "variant": row.planned.variant,
        "method": csv_text(row.label),
        "batch_size": row.planned.batch_size,
        "repeat": row.planned.repeat,
        "visit": view.visit_of(row),
        "gpu_uuid": row.spec.gpu_uuid if row.spec else None,
        "outcome": row.status,
        "cause": csv_text(row.problem or "; ".join(f"not ranked: {breach}" for breach in row.breaches)),
        "batching": row.spec.batching if row.spec else None,
        "bits_per_weight": row.bits.per_weight if row.bits else None,
        "bits_source": row.bits.source if row.bits else None,
        **_csv_metrics(metrics),
        **_csv_distribution("batch_latency", metrics.batch_latency_s if metrics else None),
        **_csv_distribution("ttft", metrics.ttft_s if metrics else None),
        **_csv_distribution("tpot", metrics.tpot_s if metrics else None),
        **_csv_distribution("itl", metrics.itl_s if metrics else None),
        **_csv_memory("device_memory", metrics.device_memory if metrics else None),
        **_csv_memory("host_memory", metrics.host_memory if metrics else None),
        **_csv_quality(view, row),
        **csv_roofs(view, row),
        **_csv_protocol(row),
        **_csv_cpu(view, row),
    }


_PLAIN = (
    "batches",
    "warmup_batches",
    "rows",
    "prompt_tokens",
    "output_tokens",
    "output_tokens_per_batch",
    "output_throughput_tok_s",
    "load_s",
    "prepare_s",
    "measured_s",
    "token_times_source",
    "reserved_bytes",
    "used_bytes",
    "device_energy_joules",
)


def _csv_metrics(metrics: CellMetrics | None) -> dict[str, str | float | None]:
    return {name: getattr(metrics, name) if metrics else None for name in _PLAIN}


def _csv_quality(view: RunView, row: Row) -> dict[str, str | float | None]:
    """No such column in a run in which nothing can be compared."""
    if view.quality is None:
        return {}
    found = view.quality.cells.get(row.planned.cell)
    likelihood, agreement = (found.likelihood, found.agreement) if found else (None, None)
    return {
        "nll_nat_per_token": likelihood.nll_nat_per_token if likelihood else None,
        "nll_difference_nat_per_token": found.difference.nat_per_token if found and found.difference else None,
        "agreement_rows": agreement.rows if agreement else None,
        "agreement_rows_identical": agreement.rows_identical if agreement else None,
        "agreement_rows_same_first_token": agreement.rows_same_first_token if agreement else None,
        "agreement_mean_common_prefix": agreement.mean_common_prefix if agreement else None,
        "agreement_median_common_prefix": agreement.median_common_prefix if agreement else None,
        "agreement_equal_positions": agreement.equal_positions if agreement else None,
        "agreement_beside": csv_text(found.beside) if found else None,
        "quality_verdict": csv_text(found.verdict) if found else None,
    }


def _csv_protocol(row: Row) -> dict[str, str | float | None]:
    metrics = row.result.metrics if row.result else None
    steadiness = metrics.steadiness if metrics else None
    pace = row.rate
    interval = pace.interval if pace else None
    drift = steadiness.drift if steadiness else None
    rates = metrics.phase_rates if metrics else None
    return {
        "stop_reason": steadiness.stop_reason if steadiness else None,
        "precision": steadiness.precision if steadiness else None,
        "workload_throughput_tok_s": pace.throughput_tok_s if pace else None,
        "workload_batch_latency_s": pace.batch_latency_s if pace else None,
        "explained_by_prompts": pace.explained if pace else None,
        "throughput_low_tok_s": interval.low_tok_s if interval else None,
        "throughput_high_tok_s": interval.high_tok_s if interval else None,
        "throughput_relative_half_width": interval.relative_half_width if interval else None,
        "not_representative": csv_text(misfit_words(pace.misfit)) if pace and pace.misfit else None,
        "warmup": steadiness.warmup if steadiness else None,
        "drift_relative_change": drift.relative_change if drift else None,
        "drift_p_value": drift.p_value if drift else None,
        "unsteady": steadiness.unsteady if steadiness else None,
        "prefill_tok_s": rates.prefill_tok_s if rates else None,
        "decode_tok_s": rates.decode_tok_s if rates else None,
    }


def _csv_cpu(view: RunView, row: Row) -> dict[str, str | float | None]:
    """No such column in a run of before it was looked at."""
    if not any(other.result and other.result.metrics.cpu for other in view.rows):
        return {}
    use = row.result.metrics.cpu if row.result else None
    names = ("cpus", "own_cpus", "others_cpus", "steal_cpus", "idle_cpus", "busy")
    return {f"cpu_use_{name}": getattr(use, name, None) for name in names}


def _csv_distribution(name: str, values: Distribution | None) -> dict[str, str | float | None]:
    fields = ("mean", "median", "min", "max", "stdev")
    return {f"{name}_{field}_s": getattr(values, field) if values else None for field in fields}


def _csv_memory(name: str, use: MemoryUse | None) -> dict[str, str | float | None]:
    stages = ("baseline", "load_peak", "after_load", "after_prepare", "peak", "mean")
    return {f"{name}_{stage}_bytes": getattr(use, f"{stage}_bytes") if use else None for stage in stages}
