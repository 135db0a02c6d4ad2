"""The head of a report: what was measured, on what, when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench_core.contract.measures.equal_work import repeated_prompts
from bench_core.contract.records.run import AgainCell
from bench_core.contract.records.workload import WorkloadRef
from bench_core.report.explain import waves
from bench_core.report.explain.busy_host import warning
from bench_core.report.explain.device_time import device_time
from bench_core.report.explain.own_error import own_error
from bench_core.report.explain.serving_facts import serving_facts
from bench_core.report.explain.under_load import busy_words
from bench_core.report.fleet import words as fleet_words
from bench_core.report.format import gib, quantity, significant
from bench_core.runs.view import RunView
from bench_core.system.text import foreign


def facts(view: RunView) -> Iterable[tuple[str, str]]:
    """Name and text of each."""
    for told in (waves.warning(view), warning(view), busy_words(view), fleet_words.warning(view)):
        if told:
            yield "Warning", told
    yield from _asked(view)
    record, host = view.record, view.record.host
    yield "Device", _device(view)
    yield (
        "Host",
        f"{foreign(host.cpu)}, {quantity(host.cores, 'core')}, {gib(host.memory_bytes)}, {foreign(host.system)}",
    )
    nodes = sorted({name for visit in record.all_visits for name in visit.nodes})
    if nodes:
        yield "Cluster", f"{quantity(len(nodes), 'node')} of this kind: {', '.join(map(foreign, nodes))}"
    threads = [row.spec.threads for row in view.every if row.spec]
    yield "CPU threads", _spread(threads, "not known: no cell was reached")
    visits = record.all_visits
    again = f", {len(visits)} visits until {visits[-1].started_utc}; see Visits" if len(visits) > 1 else ""
    yield "Date", record.created_utc + again
    yield "Launcher", record.launcher
    beside = fleet_words.side_by_side(view)
    if beside is not None:
        yield "Side by side", beside
    retried = [f"{what} ({quantity(n, 'time')})" for visit in visits for what, n in visit.retries.items()]
    if retried:
        yield "Tried again", "for failures of the network, the hub or the Docker engine: " + ", ".join(retried)
    commit = f"commit {record.git_commit}" if record.git_commit else "commit not known"
    yield "Made by", f"llm-bench {record.bench_version}, {commit}, Python {host.python}"
    yield from serving_facts(view)
    if view.rows:
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
    yield "Cells", "; ".join(_cells(view))
    repeated = [_again(view, one) for visit in visits for one in visit.again]
    if repeated:
        yield "Measured again", "; ".join(repeated)


def _again(view: RunView, one: AgainCell) -> str:
    """Which cell, and what it was and had before."""
    row = next((row for row in view.every if row.planned.cell == one.cell), None)
    name = f"{row.label} at {row.planned.scenario.words}" if row else foreign(one.cell)
    had = "" if one.output_throughput_tok_s is None else f"; {significant(one.output_throughput_tok_s)} token/s before"
    return f"{name} ({foreign(one.why)}{had})"


def _cells(view: RunView) -> Iterable[str]:
    """How many have numbers, and what became of the others."""
    measured, pending = sum(row.measured for row in view.every), sum(row.pending for row in view.every)
    yield f"{measured} of {len(view.every)} measured"
    if pending:
        yield f"{pending} not measured yet, --resume measures {'it' if pending == 1 else 'them'}"
    if measured + pending < len(view.every):
        yield "the others are below"


def _asked(view: RunView) -> Iterable[tuple[str, str]]:
    """What every cell was given: model, prompts, tokens to generate."""
    record, model = view.record, view.record.model
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


def _prompt_source(workload: WorkloadRef) -> str:
    """Which part of the dataset the prompts are; nothing for a run of before that was recorded."""
    return f"; prompts are {workload.prompt_source.words}" if workload.prompt_source is not None else ""


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
