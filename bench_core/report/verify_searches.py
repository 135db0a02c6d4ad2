"""Searches for the largest batch size against what their trials left: the answer follows from the cells, or is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench_core.contract import layout
from bench_core.contract.max_batch import BatchTrial, MaxBatch, search_largest
from bench_core.contract.metrics import CellResult
from bench_core.contract.outcome import Outcome, Verdict
from bench_core.report.differences import Difference, of_run
from bench_core.report.load import RunView, Unreadable, read_record


class _Untried(Exception):
    """A batch size that the answer needs was not tried."""


def search_differences(folder: Path, view: RunView) -> Iterator[Difference]:
    """One for each trial that is not what its cell says, and for an answer that does not follow from the trials."""
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
        for field in ("largest", "smallest_failing"):
            has, expected = getattr(found, field), getattr(follows, field)
            if has != expected:
                yield of_run(name, f"{field} is {has}, from its trials follows {expected}")


def _not_tried(size: int) -> BatchTrial:
    raise _Untried(size)


def _trial(run_folder: Path, found: MaxBatch, trial: BatchTrial) -> Iterator[str]:
    home = run_folder / layout.MAX_BATCH_FOLDER / found.home / trial.folder
    if not home.is_dir():
        yield f"{home.name} is missing"
        return
    if trial.outcome is Outcome.KILLED:
        return  # stopped with its driver or by a person: what it left says nothing, and nothing is made of it
    cell = layout.cell_folder(home, layout.cell_id(found.image, found.variant, trial.batch_size))
    try:
        verdict = read_record(run_folder, cell / layout.OUTCOME_FILE, Verdict)
        result = read_record(run_folder, cell / layout.RESULT_FILE, CellResult)
    except Unreadable as error:
        yield f"{error.damage.where}: {error.damage.what}"
        return
    if verdict is None:
        yield f"{layout.OUTCOME_FILE} is missing"
        return
    if (verdict.outcome, verdict.cause) != (trial.outcome, trial.cause):
        yield f"is {trial.outcome.value}, {layout.OUTCOME_FILE} says {verdict.outcome.value}"
    if (result is not None) is not (verdict.outcome is Outcome.OK):
        yield f"{layout.RESULT_FILE} and the outcome {verdict.outcome.value} do not go together"
