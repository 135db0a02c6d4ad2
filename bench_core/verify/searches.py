"""Searches against what their trials left: the answer follows from the cells, or is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.measures.cell import CellMetrics, CellResult
from bench_core.contract.measures.max_batch import BatchTrial, MaxBatch, search_largest
from bench_core.contract.measures.memory_model import cache_tokens
from bench_core.contract.measures.min_memory import SUSTAINED_SHARE, MinMemory, Trial, search_budget
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.serving.capacity import LoadTrial, search_capacity
from bench_core.runs.files import Unreadable, read_record
from bench_core.runs.view import RunView
from bench_core.verify.cells import recomputed
from bench_core.verify.differences import Difference, of_run, unequal


class _Untried(Exception):
    """What the answer needs was not tried."""


def search_differences(folder: Path, view: RunView) -> Iterator[Difference]:
    """One for each trial that is not what its cell says, and for an answer that does not follow from the trials."""
    yield from _largest_batches(folder, view)
    yield from _highest_loads(view)
    for search in view.searches:
        yield from _smallest_budget(folder, search)


def _largest_batches(folder: Path, view: RunView) -> Iterator[Difference]:
    for found in view.max_batches:
        name = f"{layout.MAX_BATCH_FOLDER}/{found.method}.json"
        for trial in found.trials:
            for what in _trial(folder, found, trial):
                yield of_run(name, f"trial {trial.number} (batch size {trial.batch_size}): {what}")
        if found.problem:
            continue
        try:
            follows = search_largest(found.limit, _not_tried, found.trials)
        except _Untried:
            yield of_run(name, "its answer does not follow from its trials: one is missing")
            continue
        yield from _other_answer(name, found, follows, ("largest", "smallest_failing"))


def _highest_loads(view: RunView) -> Iterator[Difference]:
    """Answers against their trials. The first trial is of the load that the search began with."""
    for found in view.capacities:
        if (found.problem and not found.none_keeps) or not found.trials:
            continue
        name = f"{layout.CAPACITY_FOLDER}/{found.method}.json"
        first = found.trials[0].load
        try:
            follows = search_capacity(
                found.varied, first, found.limit, _not_loaded,
                attainment=found.attainment, window_s=found.window_s, known=found.trials,
            )  # fmt: skip
        except _Untried:
            yield of_run(name, "its answer does not follow from its trials: one is missing")
            continue
        yield from _other_answer(name, found, follows, ("highest", "lowest_failing", "problem"))


def _not_loaded(load: float) -> LoadTrial:
    raise _Untried(load)


def _other_answer(name: str, found: Record, follows: Record, fields: Iterable[str]) -> Iterator[Difference]:
    for field in fields:
        has, expected = getattr(found, field), getattr(follows, field)
        if has != expected:
            yield of_run(name, f"{field} is {has}, from its trials follows {expected}")


def _not_tried(size: int) -> BatchTrial:
    raise _Untried(size)


def _trial(run_folder: Path, found: MaxBatch, trial: BatchTrial) -> Iterator[str]:
    home = run_folder / layout.MAX_BATCH_FOLDER / found.home / trial.folder
    cell = layout.cell_id(found.image, found.variant, Offline(batch_size=trial.batch_size).word, gpus=found.gpus)
    what, result = _left(run_folder, home, cell, trial.outcome, trial.cause)
    yield from what
    if result is not None:
        yield from _other_peaks(trial.device_peak_bytes, trial.host_peak_bytes, result.metrics)


def _smallest_budget(folder: Path, found: MinMemory) -> Iterator[Difference]:
    name = f"{layout.MIN_MEMORY_FOLDER}/{found.cell}.json"
    for trial in found.trials:
        for what in _budget_trial(folder, found, trial):
            yield of_run(name, f"trial {trial.number} ({found.option} {trial.value:g}): {what}")
    if found.problem:
        return
    tried = {trial.value: trial for trial in found.trials}

    def again(value: float, _reference_tok_s: float | None) -> Trial:
        if value not in tried:
            raise _Untried(value)
        return tried[value]

    try:
        follows = search_budget(
            found.low, found.high, again, unit=found.unit, device_memory_bytes=found.device_memory_bytes
        )
    except _Untried:
        yield of_run(name, "its answer does not follow from its trials: one is missing")
        return
    yield from _other_answer(name, found, follows, ("guess", "smallest", "largest_failing", "problem"))


def _budget_trial(run_folder: Path, found: MinMemory, trial: Trial) -> Iterator[str]:
    home = run_folder / layout.MIN_MEMORY_FOLDER / found.home / trial.folder
    # Of a trial that ended well the cause says that it was too slow: the cell knows nothing of that.
    what, result = _left(
        run_folder, home, found.cell, trial.outcome, trial.cause if trial.outcome is not Outcome.OK else ""
    )
    yield from what
    if result is None:
        return
    metrics = result.metrics
    yield from _other_peaks(trial.device_peak_bytes, trial.host_peak_bytes, metrics)
    facts = {
        "output_throughput_tok_s": metrics.output_throughput_tok_s,
        "prompt_tokens": metrics.prompt_tokens,
        # What paged rows hold is not in older records; their trials counted the rectangle.
        "cache_tokens": cache_tokens(result.engine_facts, metrics) or metrics.longest_batch_tokens,
        "unused_bytes": metrics.unused_bytes,
        "sustained": metrics.output_throughput_tok_s
        >= SUSTAINED_SHARE * (found.trials[0].output_throughput_tok_s or 0),
    }
    for field, expected in facts.items():
        if getattr(trial, field) != expected:
            yield f"{field} is {getattr(trial, field)}, its cell says {expected}"


def _left(
    run_folder: Path, home: Path, cell_id: str, outcome: Outcome, cause: str
) -> tuple[list[str], CellResult | None]:
    """What is amiss with what a trial left, and its result where there is one to compare."""
    if not home.is_dir():
        return [f"{home.name} is missing"], None
    if outcome is Outcome.KILLED:
        return [], None  # stopped with its driver or by a person: what it left says nothing, and nothing is made of it
    cell = layout.cell_folder(home, cell_id)
    try:
        verdict = read_record(run_folder, cell / layout.OUTCOME_FILE, Verdict)
        result = read_record(run_folder, cell / layout.RESULT_FILE, CellResult)
    except Unreadable as error:
        return [f"{error.damage.where}: {error.damage.what}"], None
    if verdict is None:
        return [f"{layout.OUTCOME_FILE} is missing"], None
    amiss = []
    if (verdict.outcome, verdict.cause) != (outcome, cause):
        amiss.append(f"is {outcome.value}, {layout.OUTCOME_FILE} says {verdict.outcome.value}")
    if (result is not None) is not (verdict.outcome is Outcome.OK):
        amiss.append(f"{layout.RESULT_FILE} and the outcome {verdict.outcome.value} do not go together")
    if result is not None:
        follows = recomputed(run_folder, cell, cell_id)
        if follows is None:
            return [*amiss, f"{layout.RESULT_FILE} does not follow from {layout.EVENTS_FILE}"], result
        has = json.loads((cell / layout.RESULT_FILE).read_bytes())
        for where, told, computed in unequal(has, json.loads(follows.model_dump_json())):
            amiss.append(f"{layout.RESULT_FILE}: {where} is {told}, recomputed {computed}")
    return amiss, result


def _other_peaks(device: int | None, host: int | None, metrics: CellMetrics) -> Iterator[str]:
    for name, has, use in (("device", device, metrics.device_memory), ("host", host, metrics.host_memory)):
        expected = use.peak_bytes if use is not None else None
        if has != expected:
            yield f"{name}_peak_bytes is {has}, its cell says {expected}"
