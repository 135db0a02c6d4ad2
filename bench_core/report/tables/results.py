"""One table for each batch size, as the study has it; and the figures of others beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench_core.report.cell import BATCH_SIZE, BATCHES, BITS, METHOD, Cell
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.explain.marks import (
    MARKS,
    NOT_RANKED_MARK,
    SEQUENTIAL_MARK,
    THROTTLED_MARK,
    THROTTLED_NOTE,
    is_throttled,
    mark_notes,
    remarks,
    throughput_text,
)
from bench_core.report.explain.own_error import own_error_of_batches
from bench_core.report.explain.same_batches import fastest, shared_note
from bench_core.report.explain.visits import visits_note
from bench_core.report.format import ABSENT, NO_GPU, NOT_READ, NOT_TOLD, count, gib, milliseconds, rate, seconds
from bench_core.runs.published import PublishedRow
from bench_core.runs.view import DAMAGED, Row, RunView


@dataclass(frozen=True)
class Result(Cell):
    """A cell beside the others of its batch size. ``best``: its throughput is the highest of those ranked."""

    best: bool = False


def results_of(view: RunView, batch_size: int) -> list[Result]:
    """The lines of one batch size in the order of the plan."""
    rows = view.of_batch_size(batch_size)
    best = fastest(view, rows) if len(rows) > 1 else frozenset[str]()
    return [Result(view, row, best=row.planned.cell in best) for row in rows]


def _has_numbers(cell: Cell) -> bool:
    return cell.row.result is not None and cell.row.rate is not None


def _where(cell: Cell) -> str:
    """In the first column of numbers: the outcome, or the file that is damaged."""
    damage = cell.row.damage
    return "" if _has_numbers(cell) else f"{DAMAGED}: {damage.where}" if damage else cell.row.status


def _status(cell: Cell) -> str:
    return "" if _has_numbers(cell) else cell.row.status


def _absent(cell: Cell) -> str:
    return "" if _has_numbers(cell) else ABSENT


def _method_marks(cell: Cell) -> str:
    marks = [SEQUENTIAL_MARK] if _is_marked_sequential(cell.row) else []
    return " ".join([*marks, NOT_RANKED_MARK] if cell.view.unranked(cell.row) else marks)


def _is_marked_sequential(row: Row) -> bool:
    """With one prompt there is no batch to take apart."""
    return row.sequential and row.planned.batch_size > 1


def _throughput(cell: Cell) -> Entry:
    row = cell.row
    marks = [THROTTLED_MARK] if cell.metrics and is_throttled(cell.metrics) else []
    marks += [mark for remark, mark in MARKS.items() if remark in remarks(row)]
    number = row.rate.throughput_tok_s if row.rate else None
    return Entry(throughput_text(row), number, strong=isinstance(cell, Result) and cell.best, mark=" ".join(marks))


LATENCY = Column[Cell](
    "Latency",
    "rate.batch_latency_s",
    seconds,
    unit="s",
    csv="workload_batch_latency_s",
    failed=_where,
    meaning=(
        "mean time of one batch: one generate call until the device has finished; like throughput, for the prompts "
        "of the whole workload where the measured batches tell (see How it was measured)"
    ),
)
TOKENS = Column[Cell](
    "Tokens",
    "rate.output_tokens_per_batch",
    count,
    failed=_status,
    meaning="mean output tokens of one batch, all its prompts together, counted from the engine's own ids",
)
THROUGHPUT = Column[Cell](
    "Throughput",
    "rate.throughput_tok_s",
    unit="token/s",
    csv="workload_throughput_tok_s",
    failed=_status,
    shown=_throughput,
    meaning="output tokens / the sum of the batches' latencies ± half of its 95 % confidence interval",
)


def _per_gpu(cell: Cell) -> float | None:
    return cell.rate.throughput_tok_s / cell.row.planned.gpus if cell.rate is not None else None


# Where models are split over several GPUs: what each of them is worth, beside what they do together.
PER_GPU = Column[Cell](
    "Per GPU",
    _per_gpu,
    rate,
    unit="token/s",
    csv="throughput_per_gpu_tok_s",
    failed=_absent,
    meaning="throughput / the GPUs that the model is split over; memory, power and energy are sums over these GPUs",
)
GPUS = Column[Cell]("GPUs", "row.planned.gpus", csv="gpus")
TTFT = Column[Cell](
    "TTFT",
    "metrics.ttft_s.mean",
    seconds,
    unit="s",
    csv="ttft_mean_s",
    absent=NOT_TOLD,
    failed=_absent,
    meaning="time to first token: mean over prompts, from the batch's start to the prompt's first token",
)
TPOT = Column[Cell](
    "TPOT",
    "metrics.tpot_s.mean",
    milliseconds,
    unit="ms",
    csv="tpot_mean_s",
    absent=NOT_TOLD,
    failed=_absent,
    meaning="time per output token after the first: mean over prompts",
)
HOST_MEMORY = Column[Cell](
    "Host memory",
    "metrics.host_memory.peak_bytes",
    gib,
    csv="host_memory_peak_bytes",
    absent=NOT_READ,
    failed=_absent,
    meaning="resident memory of the engine's processes, highest over warm-up and measured batches",
)


def _gpu_memory(on_cuda: bool) -> Column[Cell]:
    meaning = "in use on the GPU, by all processes (NVML), highest over warm-up and measured batches"
    return Column(
        "GPU Memory",
        "metrics.device_memory.peak_bytes",
        gib,
        csv="device_memory_peak_bytes",
        absent=NOT_READ if on_cuda else NO_GPU,
        failed=_status,
        meaning=meaning if on_cuda else "this run used no GPU; see Host memory",
    )


def memory_column(view: RunView) -> Column[Cell]:
    """The memory that a run compares."""
    return _gpu_memory(on_cuda=True) if view.on_cuda else HOST_MEMORY


def result_columns(view: RunView) -> tuple[Column[Cell], ...]:
    """Columns of the tables of one batch size each."""
    return columns_on(on_cuda=view.on_cuda, split=view.gpus_per_cell > 1)


def columns_on(*, on_cuda: bool, split: bool = False) -> tuple[Column[Cell], ...]:
    """The same for runs on a GPU, or without one.

    Args:
        split: the model of each cell is on several GPUs.
    """
    method = replace(METHOD, mark=_method_marks)
    batches = replace(BATCHES, failed=_absent)
    throughput = (THROUGHPUT, PER_GPU) if split else (THROUGHPUT,)
    study = (LATENCY, TOKENS, *throughput, _gpu_memory(on_cuda))
    return (method, *study, TTFT, TPOT, HOST_MEMORY, batches, BITS)


def result_sheet(view: RunView, batch_size: int) -> Sheet:
    """The study's table for one batch size, rows in the order of the plan, the highest throughput marked."""
    lines = results_of(view, batch_size)
    return sheet(f"Batch size {batch_size}", result_columns(view), lines, _notes(view, lines))


def _notes(view: RunView, lines: Sequence[Result]) -> Iterator[str]:
    rows = [line.row for line in lines]
    if any(line.best for line in lines):
        yield "Bold: the highest throughput of this batch size."
        yield from shared_note(view, rows)
    for row in rows:
        if row.breaches:
            more = f" (and {len(row.breaches) - 1} more)" if len(row.breaches) > 1 else ""
            yield f"{NOT_RANKED_MARK} not ranked: {row.label} did not do equal work: {row.breaches[0]}{more}"
    error = own_error_of_batches(view)
    if error:
        yield f"The suite's own error on this machine: {error}; see Details."
    if any(map(_is_marked_sequential, rows)):
        yield (
            f"{SEQUENTIAL_MARK} sequential: this engine works through a batch one prompt after the other; "
            "its first token is that of each prompt counted from the batch's start."
        )
    if any(view.shortfall(row) for row in rows):
        yield f"{NOT_RANKED_MARK} falls past the bounds of quality and is not ranked; see Quality."
    if any(row.result and is_throttled(row.result.metrics) for row in rows):
        yield THROTTLED_NOTE
    yield from mark_notes(rows)
    yield from visits_note(view, rows)
    if view.record.repeats > 1:
        yield f"The first of {view.record.repeats} repeats; see Repeats for all of them."


@dataclass(frozen=True)
class _Beside(Cell):
    figure: PublishedRow


def _published_tokens(line: _Beside) -> Entry:
    """Others' tokens are shown, not sorted by."""
    tokens = line.figure.output_tokens_per_batch
    return Entry(ABSENT if tokens is None else count(tokens))


_BESIDE: Sequence[Column[_Beside]] = [
    Column("Published as", "figure.label", words=True),
    BATCH_SIZE,
    Column("Latency", "figure.batch_latency_s", seconds, unit="s"),
    Column("Tokens", "figure.output_tokens_per_batch", shown=_published_tokens),
    Column("Throughput", "figure.output_throughput_tok_s", rate, unit="token/s"),
    replace(METHOD, title="Here"),
    replace(LATENCY, title="Latency here"),
    replace(TOKENS, title="Tokens here"),
    replace(THROUGHPUT, title="Throughput here"),
]


def beside_sheet(view: RunView) -> Iterator[Sheet]:
    """Figures that others have published, where the run was told of them."""
    published = view.beside
    if published is None:
        return
    found = ((row, published.of(row.planned.image, row.planned.variant, row.planned.batch_size)) for row in view.grid)
    lines = [_Beside(view, row, figure) for row, figure in found if figure is not None]
    note = f"Published: {published.name}, {published.device} ({published.source}). What differs: {published.differs}"
    yield sheet(f"Beside {published.name}", _BESIDE, lines, [note])
