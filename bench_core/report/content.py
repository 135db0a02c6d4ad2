"""What a report says, as plain text in its place: Markdown, HTML and the terminal only dress it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from bench_core.contract.equal_work import repeated_prompts
from bench_core.contract.metrics import VALUES_BEYOND_A_PERCENTILE, CellResult, MemoryUse, Parity
from bench_core.contract.outcome import MARKED
from bench_core.contract.workload import WorkloadRef
from bench_core.report.busy_host import cpu_sheet, warning
from bench_core.report.cell_key import bits_entry, cell_key
from bench_core.report.device_time import device_time, device_time_sheet
from bench_core.report.format import (
    ABSENT,
    NO_GPU,
    count,
    gib,
    milliseconds,
    percent,
    quantity,
    rate,
    seconds,
    significant,
)
from bench_core.report.glance import glance_sheet
from bench_core.report.largest import largest_sheets
from bench_core.report.own_error import HOW, NO_DEVICE_MEMORY, error_rows, own_error, title, written
from bench_core.report.protocol import mark_notes, measured_sheet, throughput_entry
from bench_core.report.quality_sheet import quality_sheet
from bench_core.report.repeats import repeats_sheet
from bench_core.report.roofs import THROTTLED_MARK, THROTTLED_NOTE, is_throttled, roof_sheets
from bench_core.report.same_batches import fastest, shared_note, shared_sheet
from bench_core.report.sheet import Entry, Sheet
from bench_core.report.visits import control_sheet, visits_note, visits_sheet
from bench_core.runs.text import foreign
from bench_core.runs.view import DAMAGED, Row, RunView

SEQUENTIAL_MARK = "†"
NOT_RANKED_MARK = "‡"
NOT_TOLD = "not told"
NOT_READ = "not read"


@dataclass(frozen=True)
class Failure:
    """A cell without numbers."""

    method: str
    batch_size: int
    status: str
    cause: str
    evidence: str


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        facts: what was measured, on what, when: (name, text).
        images: what each engine ran in, and versions.
        meanings: one line for each column: (column, text).
        glance: the winners of each batch size, where methods are compared.
        results: one table for each batch size.
        details: further tables over all batch sizes.
        failures: every cell without numbers, with its cause.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    images: Sheet
    meanings: tuple[tuple[str, str], ...]
    glance: tuple[Sheet, ...]
    results: tuple[Sheet, ...]
    details: tuple[Sheet, ...]
    failures: tuple[Failure, ...]


def document(view: RunView) -> Document:
    """Words a run."""
    return Document(
        title=f"Run {view.record.run_id}",
        facts=tuple(_facts(view)),
        images=_images(view),
        meanings=_meanings(view),
        glance=tuple(glance_sheet(view)),
        results=tuple(result_sheet(view, size) for size in view.batch_sizes),
        details=(
            *_beside(view),
            _times(view),
            measured_sheet([row for row, _ in _measured(view)]),
            *cpu_sheet([row for row, _ in _measured(view)]),
            *shared_sheet(view),
            *repeats_sheet(view),
            *device_time_sheet(view),
            _memory(view),
            *_parity(view),
            *quality_sheet(view),
            *roof_sheets(view, _measured(view)),
            *largest_sheets(view),
            _engines(view),
            *control_sheet(view),
            *visits_sheet(view),
            *_marked(view),
            *_own_error(view),
        ),
        failures=tuple(_failure(row) for row in view.rows if row.result is None),
    )


# --- the head ---------------------------------------------------------------------------------------------------------


def _prompt_source(workload: WorkloadRef) -> str:
    """Which part of the dataset the prompts are; nothing for a run of before that was recorded."""
    return f"; prompts are {workload.prompt_source.words}" if workload.prompt_source is not None else ""


def _facts(view: RunView) -> Iterable[tuple[str, str]]:
    busy = warning(view)
    if busy:
        yield "Warning", busy
    record, model, host = view.record, view.record.model, view.record.host
    weights = "random weights of the true shape" if model.synthetic else "trained weights"
    yield (
        "Model",
        (
            f"{foreign(model.name)} ({weights}; {foreign(model.architecture)}, "
            f"{_short_count(model.parameters)} parameters, stored as {foreign(model.dtype)})"
        ),
    )
    yield (
        "Workload",
        (
            f"{foreign(record.workload.name)}, {quantity(record.workload.prompts, 'prompt')}, "
            f"longest {quantity(record.workload.longest_prompt_tokens, 'token')}, {record.workload.order}, "
            f"digest {record.workload.digest[:12]}"
            f"{_prompt_source(record.workload)}"
        ),
    )
    new = quantity(record.max_new_tokens, "new token")
    forced = record.length == "forced"
    yield (
        "Length",
        (
            f"forced: exactly {new} for each prompt, end of sequence ignored"
            if forced
            else f"natural: at most {new} for each prompt, less where the model ends its text"
            if record.model.eos_token_ids
            else f"natural: {new} for each prompt, since the model names no end-of-sequence id"
        ),
    )
    yield "Device", _device(view)
    yield (
        "Host",
        f"{foreign(host.cpu)}, {quantity(host.cores, 'core')}, {gib(host.memory_bytes)}, {foreign(host.system)}",
    )
    yield "CPU threads", _spread([row.spec.threads for row in view.rows if row.spec], "not known: no cell was reached")
    visits = record.all_visits
    again = f", {len(visits)} visits until {visits[-1].started_utc}; see Visits" if len(visits) > 1 else ""
    yield "Date", record.created_utc + again
    yield "Launcher", record.launcher
    retried = [f"{what} ({quantity(n, 'time')})" for visit in visits for what, n in visit.retries.items()]
    if retried:
        yield "Tried again", "for failures of the network, the hub or the Docker engine: " + ", ".join(retried)
    commit = f"commit {record.git_commit}" if record.git_commit else "commit not known"
    yield "Made by", f"llm-bench {record.bench_version}, {commit}, Python {host.python}"
    warmup = [row.result.metrics.warmup_batches for row in view.rows if row.result]
    batches = "batch" if warmup and max(warmup) == 1 else "batches"
    yield "Warm-up", f"{_spread(warmup, 'no')} {batches} run before each cell's measurement and discarded"
    yield from _equal_work(view)
    spent = device_time(view)
    if spent is not None:
        yield "Device time", spent
    error = own_error(view)
    if error is not None:
        yield "The suite's own error", error
    good = sum(row.result is not None for row in view.rows)
    yield "Cells", f"{good} of {len(view.rows)} measured" + ("" if good == len(view.rows) else "; the others are below")


def _equal_work(view: RunView) -> Iterable[tuple[str, str]]:
    """What was checked on every batch, and how many cells did not pass."""
    broken = sum(bool(row.breaches) for row in view.rows)
    if view.workload_damage is not None:
        yield "Equal work", f"the prompts kept with the run cannot be used: {view.workload_damage.what}"
    if view.workload is None and not broken:
        return
    checked = [
        "ids in against the prompts kept with the run" if view.workload else "ids in, cell against cell",
        "order",
        "output tokens of every row",
    ]
    words = f"checked on every batch: {', '.join(checked)}; "
    words += f"{quantity(broken, 'cell')} not ranked for it" if broken else "nothing found"
    again = repeated_prompts(view.workload.prompts) if view.workload else 0
    if again:
        words += f"; {quantity(again, 'prompt')} of the workload equal to an earlier one, the same in every cell"
    yield "Equal work", words


def _device(view: RunView) -> str:
    if not view.on_cuda:
        return "CPU"
    if not view.record.gpus:
        return "CUDA, the GPU is not recorded"
    return "; ".join(
        f"{foreign(gpu.name)}, {gib(gpu.memory_bytes)}, driver {gpu.driver_version}, {gpu.uuid}"
        for gpu in view.record.gpus
    )


def _short_count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{significant(number / size, 3)}{unit}"
    return str(number)


def _spread(numbers: Sequence[int], none: str) -> str:
    if not numbers:
        return none
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _images(view: RunView) -> Sheet:
    rows = []
    for image in dict.fromkeys(row.planned.image for row in view.rows):
        told = [row.result.versions for row in view.rows if row.planned.image == image and row.result]
        names = sorted({name for versions in told for name in versions})
        versions = ", ".join(
            f"{name} {' / '.join(sorted({foreign(versions[name]) for versions in told if name in versions}))}"
            for name in names
        )
        infos = [visit.images[image] for visit in view.record.all_visits if image in visit.images]
        rows.append(
            (
                Entry(image),
                Entry(" / ".join(dict.fromkeys(foreign(info.reference) for info in infos)) or "not recorded"),
                Entry(" / ".join(dict.fromkeys(info.id.removeprefix("sha256:")[:12] for info in infos)) or ABSENT),
                Entry(versions or "not known: none of its cells was measured"),
            )
        )
    columns = (("Image", False), ("Ran in", False), ("Id", False), ("Versions", False))
    return Sheet("Engines", columns, tuple(rows), tuple(_image_notes(view)))


def _image_notes(view: RunView) -> Iterable[str]:
    """What an image tells of itself to a reader, as its last visit had it."""
    for image in dict.fromkeys(row.planned.image for row in view.rows):
        told = [visit.images[image].notes for visit in view.record.all_visits if image in visit.images]
        if told and told[-1]:
            yield f"{image}: {told[-1]}"


def _meanings(view: RunView) -> tuple[tuple[str, str], ...]:
    gpu = "on the GPU, by all processes (NVML), highest over warm-up and measured batches"
    return (
        (
            "Latency (s)",
            "mean time of one batch: one generate call until the device has finished; like throughput, for the prompts "
            "of the whole workload where the measured batches tell (see How it was measured)",
        ),
        ("Tokens", "mean output tokens of one batch, all its prompts together, counted from the engine's own ids"),
        (
            "Throughput (token/s)",
            "output tokens / the sum of the batches' latencies ± half of its 95 % confidence interval",
        ),
        ("GPU Memory", f"in use {gpu}" if view.on_cuda else "this run used no GPU; see Host memory"),
        ("TTFT (s)", "time to first token: mean over prompts, from the batch's start to the prompt's first token"),
        ("TPOT (ms)", "time per output token after the first: mean over prompts"),
        ("Host memory", "resident memory of the engine's processes, highest over warm-up and measured batches"),
        ("Batches", "measured batches, warm-up excluded"),
        (
            "Bits per weight",
            "bits of all weights, with the scales, zero points and orders of groups that belong to them / number of "
            "the model's weights: by the headers of the file that the engine reads, or of the tensors that it holds, "
            "where it quantises or converts while loading; a title says so where they exceed the bits that it names by "
            "a quarter",
        ),
        (
            "Percentiles",
            f"given in result.json only where {VALUES_BEYOND_A_PERCENTILE} values or more lie beyond: "
            "p90 from 50 values, p95 from 100, p99 from 500",
        ),
    )


# --- one table for each batch size ------------------------------------------------------------------------------------

RESULT_COLUMNS = (
    ("Method", False),
    ("Latency (s)", True),
    ("Tokens", True),
    ("Throughput (token/s)", True),
    ("GPU Memory", True),
    ("TTFT (s)", True),
    ("TPOT (ms)", True),
    ("Host memory", True),
    ("Batches", True),
    ("Bits per weight", True),
)
_STUDY_COLUMNS = 4  # of numbers, those that the study has


def result_sheet(view: RunView, batch_size: int) -> Sheet:
    """The study's table for one batch size, rows in the order of the plan, the highest throughput marked."""
    rows = view.of_batch_size(batch_size)
    best = fastest(view, rows) if len(rows) > 1 else frozenset()
    notes = []
    if best:
        notes.append("Bold: the highest throughput of this batch size.")
        notes += shared_note(view, rows)
    notes += [
        f"{NOT_RANKED_MARK} not ranked: {row.label} did not do equal work: {row.breaches[0]}"
        + (f" (and {len(row.breaches) - 1} more)" if len(row.breaches) > 1 else "")
        for row in rows
        if row.breaches
    ]
    error = own_error(view)
    if error is not None and view.harness:
        notes.append(f"The suite's own error on this machine: {error}; see Details.")
    # With one prompt there is no batch to take apart.
    sequential = batch_size > 1 and any(row.sequential for row in rows)
    if sequential:
        notes.append(
            f"{SEQUENTIAL_MARK} sequential: this engine works through a batch one prompt after the other; "
            "its first token is that of each prompt counted from the batch's start."
        )
    if any(view.shortfall(row) for row in rows):
        notes.append(f"{NOT_RANKED_MARK} falls past the bounds of quality and is not ranked; see Quality.")
    if any(row.result and is_throttled(row.result.metrics) for row in rows):
        notes.append(THROTTLED_NOTE)
    notes += mark_notes(rows)
    notes += visits_note(view, rows)
    if view.record.repeats > 1:
        notes.append(f"The first of {view.record.repeats} repeats; see Repeats for all of them.")
    return Sheet(
        heading=f"Batch size {batch_size}",
        columns=RESULT_COLUMNS,
        rows=tuple((_method(view, row, sequential), *result_entries(view, row, best)) for row in rows),
        notes=tuple(notes),
    )


def _method(view: RunView, row: Row, marked: bool = False) -> Entry:
    marks = [SEQUENTIAL_MARK] if marked and row.sequential else []
    marks += [NOT_RANKED_MARK] if view.unranked(row) else []
    return Entry(row.label, mark=" ".join(marks))


def result_entries(view: RunView, row: Row, best: Collection[str] = ()) -> tuple[Entry, ...]:
    """The numbers of one row, in the order of ``RESULT_COLUMNS`` without the method; or its outcome instead.

    Args:
        best: cells whose throughput is marked.
    """
    if row.result is None or row.rate is None:
        where = f"{DAMAGED}: {row.damage.where}" if row.damage else row.status
        first = Entry(where, failed=True)
        study = (Entry(row.status, failed=True),) * (_STUDY_COLUMNS - 1)
        absent = (Entry(ABSENT, failed=True),) * (len(RESULT_COLUMNS) - 2 - _STUDY_COLUMNS)
        return (first, *study, *absent, bits_entry(row))
    metrics, pace = row.result.metrics, row.rate
    return (
        Entry(seconds(pace.batch_latency_s), pace.batch_latency_s),
        Entry(count(pace.output_tokens_per_batch), pace.output_tokens_per_batch),
        throughput_entry(
            row,
            strong=row.planned.cell in best,
            marks=(THROTTLED_MARK,) if is_throttled(metrics) else (),
        ),
        _bytes(metrics.device_memory.peak_bytes if metrics.device_memory else None) if view.on_cuda else Entry(NO_GPU),
        _told(metrics.ttft_s.mean if metrics.ttft_s else None, seconds),
        _told(metrics.tpot_s.mean if metrics.tpot_s else None, milliseconds),
        _bytes(metrics.host_memory.peak_bytes if metrics.host_memory else None),
        Entry(str(metrics.batches), metrics.batches),
        bits_entry(row),
    )


def _bytes(value: float | None) -> Entry:
    return Entry(NOT_READ) if value is None else Entry(gib(value), value)


def _told(value: float | None, written: Callable[[float | None], str]) -> Entry:
    return Entry(NOT_TOLD) if value is None else Entry(written(value), value)


def _optional(value: float | None, written: Callable[[float | None], str]) -> Entry:
    return Entry(written(value), value)


# --- details ----------------------------------------------------------------------------------------------------------


def _measured(view: RunView) -> Iterable[tuple[Row, CellResult]]:
    """Rows with numbers, method by method in the order of the plan, batch sizes ascending."""
    methods = list(dict.fromkeys((row.planned.image, row.planned.variant) for row in view.rows))
    rows = sorted(view.grid, key=lambda r: (methods.index((r.planned.image, r.planned.variant)), r.planned.batch_size))
    for row in rows:
        if row.result is not None:
            yield row, row.result


def _times(view: RunView) -> Sheet:
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Load (s)", True),
        ("Prepare (s)", True),
        ("TTFT median (s)", True),
        ("TPOT median (ms)", True),
        ("Latency stdev (s)", True),
        ("Throughput (token/s)", True),
        ("Prefill (token/s)", True),
        ("Decode (token/s)", True),
        ("Batches", True),
        ("Token times", False),
    )
    rows = []
    for row, result in _measured(view):
        m = result.metrics
        rows.append(
            (
                *cell_key(row),
                _optional(m.load_s, seconds),
                _optional(m.prepare_s, seconds),
                _told(m.ttft_s.median if m.ttft_s else None, seconds),
                _told(m.tpot_s.median if m.tpot_s else None, milliseconds),
                _optional(m.batch_latency_s.stdev, seconds),
                _optional(row.rate.throughput_tok_s if row.rate else None, rate),
                _told(m.phase_rates.prefill_tok_s if m.phase_rates else None, rate),
                _told(m.phase_rates.decode_tok_s if m.phase_rates else None, rate),
                Entry(str(m.batches), m.batches),
                Entry(m.token_times_source or NOT_TOLD),
            )
        )
    notes = (
        "Stdev: of the batches' latencies, absent for one batch. Token times: who stamped them, the worker's clock or "
        "the engine's own; in separate batches where asking for them costs, so that throughput is measured without.",
        "Prefill: prompt tokens / the mean of the rows' times to first token. Decode: output tokens after the first / "
        "the mean of the rows' times from first to last token. Both are not told where the engine does not say when "
        "tokens came, or works through a batch one prompt after the other.",
    )
    return Sheet("Times", columns, tuple(rows), notes)


_STAGES: tuple[tuple[str, Callable[[MemoryUse], float | None]], ...] = (
    ("Baseline", lambda use: use.baseline_bytes),
    ("After load", lambda use: use.after_load_bytes),
    ("After prepare", lambda use: use.after_prepare_bytes),
    ("Peak", lambda use: use.peak_bytes),
    ("Mean", lambda use: use.mean_bytes),
)


def _memory(view: RunView) -> Sheet:
    where = "on the GPU, by all processes" if view.on_cuda else "resident, of the engine's processes"
    columns = [("Method", False), ("Batch size", True), *((stage, True) for stage, _ in _STAGES)]
    columns += [("Host peak", True)] if view.on_cuda else []
    columns += [("Pool reserved", True), ("Pool used", True)]
    rows = []
    for row, result in _measured(view):
        m = result.metrics
        use = m.device_memory if view.on_cuda else m.host_memory
        entries = [*cell_key(row), *(_bytes(stage(use) if use else None) for _, stage in _STAGES)]
        if view.on_cuda:
            entries.append(_bytes(m.host_memory.peak_bytes if m.host_memory else None))
        entries += [_optional(m.reserved_bytes, gib), _optional(m.used_bytes, gib)]
        rows.append(tuple(entries))
    notes = (
        f"Memory {where}: before loading, after it, after caches and graphs were made, highest over warm-up and "
        "measured batches, mean over the measured ones. Pool: where the engine keeps one of its own, what it took and "
        "what it filled.",
    )
    return Sheet("Memory", tuple(columns), tuple(rows), notes)


def _parity(view: RunView) -> Iterable[Sheet]:
    """The suite beside the engine called directly, where that was asked for."""
    found = [(row, result.metrics.parity) for row, result in _measured(view)]
    medians = any(parity is not None and parity.median_ratio is not None for _, parity in found)
    rounds = any(parity is not None and parity.rounds > 1 for _, parity in found)
    rows = []
    for row, parity in found:
        if parity is None:
            continue
        rows.append(
            (
                *cell_key(row),
                Entry(rate(parity.output_throughput_tok_s), parity.output_throughput_tok_s),
                Entry(rate(parity.direct_output_throughput_tok_s), parity.direct_output_throughput_tok_s),
                Entry(f"{parity.ratio:.3f}", parity.ratio),
                *((_median(parity),) if medians else ()),
                Entry(str(parity.batches), parity.batches),
                *((Entry(str(parity.rounds), parity.rounds),) if rounds else ()),
                Entry(f"{parity.rows_with_equal_tokens} of {parity.rows}", parity.rows_with_equal_tokens),
            )
        )
    if not rows:
        return
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Suite (token/s)", True),
        ("Direct (token/s)", True),
        ("Suite / direct", True),
        *((("Median of batches", True),) if medians else ()),
        ("Batches", True),
        *((("Rounds", True),) if rounds else ()),
        ("Rows with equal tokens", True),
    )
    notes = [
        "Direct: the last measured batches given once more to the same loaded engine in the way of its own "
        "documentation, without the suite's code in between, right after the measurement. 1: the suite costs nothing."
    ]
    if medians:
        notes.append(
            "Suite: each of these batches by the suite once more, right beside the direct one and in turns before and "
            "after it, so that a host that is quicker now than then is so for both; without a median, the batch as it "
            "was measured. In brackets the median's 95 % interval, from six batches on, whatever their distribution."
        )
    if rounds:
        notes.append(
            "Rounds: how often each batch was given to both. Suite / direct is of all of them; the median takes of "
            "each batch the fastest of either side, since a host that is busy makes a call slower and never faster."
        )
    yield Sheet("Parity", columns, tuple(rows), tuple(notes))


def _median(parity: Parity) -> Entry:
    if parity.median_ratio is None:
        return Entry(ABSENT)
    known = parity.median_low is not None and parity.median_high is not None
    interval = f" ({parity.median_low:.3f} to {parity.median_high:.3f})" if known else ""
    return Entry(f"{parity.median_ratio:.3f}{interval}", parity.median_ratio)


def _engines(view: RunView) -> Sheet:
    """What the engines told of how they ran, once for all batch sizes where they told the same."""
    told: dict[tuple[str, str, str], list[int]] = {}
    for row, result in _measured(view):
        told_facts = sorted(result.engine_facts.items())
        facts = ", ".join(f"{name}: {foreign(value)}" for name, value in told_facts) or NOT_TOLD
        artifact = _artifact(view, row)
        told.setdefault((row.label, artifact, facts), []).append(row.planned.batch_size)
    rows = tuple(
        (Entry(label), Entry(", ".join(map(str, sizes))), Entry(artifact), Entry(facts))
        for (label, artifact, facts), sizes in told.items()
    )
    return Sheet(
        "How the engines ran",
        (("Method", False), ("Batch sizes", False), ("Artifact", False), ("What the engine told", False)),
        rows,
    )


def _artifact(view: RunView, row: Row) -> str:
    """Its name, and of one that was given where it is from and what its tensors are."""
    if row.spec is None:
        return ABSENT
    visit = view.visit_of(row)
    info = view.record.all_visits[visit - 1].artifacts.get(row.spec.artifact) if visit else None
    if info is None or info.given is None:
        return row.spec.artifact
    return f"{row.spec.artifact}, given: {foreign(info.given)}" + (f" ({info.tensors})" if info.tensors else "")


def _beside(view: RunView) -> Iterable[Sheet]:
    """Figures that others have published, where the run was told of them."""
    published = view.beside
    if published is None:
        return
    rows = []
    for row in view.grid:
        planned = row.planned
        figure = published.of(planned.image, planned.variant, planned.batch_size)
        if figure is None:
            continue
        rows.append(
            (
                Entry(figure.label),
                Entry(str(planned.batch_size), planned.batch_size),
                _optional(figure.batch_latency_s, seconds),
                Entry(ABSENT if figure.output_tokens_per_batch is None else count(figure.output_tokens_per_batch)),
                _optional(figure.output_throughput_tok_s, rate),
                Entry(row.label),
                *result_entries(view, row)[:3],
            )
        )
    columns = (
        ("Published as", False),
        ("Batch size", True),
        ("Latency (s)", True),
        ("Tokens", True),
        ("Throughput (token/s)", True),
        ("Here", False),
        ("Latency here (s)", True),
        ("Tokens here", True),
        ("Throughput here (token/s)", True),
    )
    notes = (
        f"Published: {published.name}, {published.device} ({published.source}). What differs: {published.differs}",
    )
    yield Sheet(f"Beside {published.name}", columns, tuple(rows), notes)


def _own_error(view: RunView) -> Iterable[Sheet]:
    """The scripted engine's numbers beside its script."""
    if not view.harness:
        return
    rows = []
    for visit, size, name, gap, problem in error_rows(view):
        head = (Entry(str(visit), visit), Entry(str(size), size), Entry(title(name)))
        if gap is None:
            rows.append((*head, Entry(problem, failed=True), *(Entry(ABSENT, failed=True),) * 3))
            continue
        worst = gap.worst_error
        rows.append(
            (
                *head,
                Entry(written(gap, gap.scripted), gap.scripted),
                Entry(written(gap, gap.measured), gap.measured),
                Entry(_signed(gap.error), gap.error),
                Entry(ABSENT if worst is None else _signed(worst), worst),
            )
        )
    columns = (
        ("Visit", True),
        ("Batch size", True),
        ("Number", False),
        ("Script", True),
        ("Measured", True),
        ("Error (%)", True),
        ("Worst batch (%)", True),
    )
    yield Sheet("The suite's own error", columns, tuple(rows), (*HOW, NO_DEVICE_MEMORY) if view.on_cuda else HOW)


def _signed(share: float) -> str:
    return f"{'-' if share < 0 else '+'}{percent(abs(share))}"


def _failure(row: Row) -> Failure:
    evidence: list[str] = []
    if row.planned.repeat > 1:
        evidence.append(f"repeat {row.planned.repeat}")
    if row.verdict is not None and row.damage is None:
        if row.verdict.phase:
            evidence.append(f"phase {row.verdict.phase}")
        if row.verdict.exit_code is not None:
            evidence.append(f"exit code {row.verdict.exit_code}")
        evidence += [f"{name} {foreign(value)}" for name, value in sorted(row.verdict.evidence.items())]
        evidence.append(f"judged by the {row.verdict.judged_by}")
    return Failure(row.label, row.planned.batch_size, row.status, row.problem, ", ".join(evidence))


def _marked(view: RunView) -> Iterable[Sheet]:
    """Cells whose circumstances were not as they should be, whatever came of them."""
    found = [(row, row.verdict.evidence[MARKED]) for row in view.rows if row.verdict and MARKED in row.verdict.evidence]
    if found:
        rows = tuple((Entry(row.planned.cell), Entry(mark)) for row, mark in found)
        yield Sheet("Marked", (("Cell", False), ("What disturbed it", False)), rows)
