"""``--min-memory``: launches short cells until the smallest memory budget is found that still sustains a batch size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench_core.contract.asked.manifest import DeviceKind, MemoryBudget
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.memory_model import cache_tokens
from bench_core.contract.measures.min_memory import SUSTAINED_SHARE, MinMemory, Trial, search_budget
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST, Outcome
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job
from bench_core.drive.run.collect import write_record
from bench_core.drive.search.trials import Site, Trials, unused_number


def budget_of(job: Job, device: DeviceKind) -> MemoryBudget:
    """The budget that a cell's image declares.

    Raises:
        BadInput: none, or none on this device.
    """
    budget = job.image.manifest.memory_budget
    if budget is None or device not in (budget.devices or job.image.manifest.devices):
        raise BadInput(
            f"--min-memory: {job.image.name} has no memory budget on {device}",
            "an engine that takes what it needs shows its smallest memory in the Memory table",
        )
    return budget


# A batch that comes out slow once may have been disturbed; a budget that is too small makes it slow every time.
LAUNCHES_OF_A_SLOW_TRIAL = 3


class MemorySearch:
    """One search, for one cell on one device."""

    def __init__(self, site: Site, job: Job) -> None:
        self._job = job
        self._site = site
        self._budget = budget_of(job, site.device)
        # One batch of the full shape after one warm-up: what is asked is whether it fits, not how fast it is.
        short = {"warmup_batches": 1, "max_warmup_batches": 1, "max_batches": 1, "direct_batches": 0, "score_texts": 0}
        self._trials = Trials(site, short)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._trials.stopped

    @property
    def cell(self) -> str:
        """The cell's name."""
        return self._job.cells[0]

    def run(self, prepared: Prepared, run_folder: Path) -> MinMemory:
        """Searches, and writes ``min-memory/<cell>.json`` into the run's folder; earlier trials of it are replaced.

        Raises:
            BadInput: the folder cannot be written, or a trial cannot be launched.
        """
        home = run_folder / layout.MIN_MEMORY_FOLDER
        searches = unused_number(home, self.cell)
        trials = home / layout.numbered(self.cell, searches)
        trials.mkdir(parents=True)
        budget, gpu = self._budget, self._site.gpu
        number = 0

        def attempt(value: float, reference_tok_s: float | None) -> Trial:
            nonlocal number
            for _ in range(LAUNCHES_OF_A_SLOW_TRIAL):
                number += 1
                trial = self._trial(value, number, reference_tok_s, prepared, trials, run_folder)
                if trial.sustained or trial.outcome is not Outcome.OK:
                    break
            words = "sustained" if trial.sustained else trial.cause or trial.outcome.value
            self._site.display.note(f"{self.cell} with {budget.option}={self._option(value)}: {words}")
            return trial

        memory_bytes = sum(card.memory_bytes for card in self._site.cards) if gpu else None
        found = search_budget(budget.min, budget.max, attempt, unit=budget.unit, device_memory_bytes=memory_bytes)
        if self.stopped:
            found = found.model_copy(update={"problem": STOPPED_ON_REQUEST})
        record = MinMemory(
            cell=self.cell,
            searches=searches,
            option=budget.option,
            unit=budget.unit,
            low=budget.min,
            high=budget.max,
            device_memory_bytes=memory_bytes,
            gpu_uuid=gpu.uuid if gpu else None,
            **dict(found),
        )
        write_record(home / f"{self.cell}.json", record)
        return record

    def _option(self, value: float) -> int | float:
        return round(value) if self._budget.unit == "bytes" else value

    def _trial(
        self,
        value: float,
        number: int,
        reference_tok_s: float | None,
        prepared: Prepared,
        trials: Path,
        run_folder: Path,
    ) -> Trial:
        job = replace(self._job, options={**self._job.options, self._budget.option: self._option(value)})
        tried = self._trials.run(job, prepared, trials / layout.trial_folder(number), run_folder)
        verdict, result = tried.verdict, tried.result
        if result is None:
            return Trial(value=value, number=number, outcome=verdict.outcome, cause=verdict.cause, sustained=False)
        metrics = result.metrics
        throughput = metrics.output_throughput_tok_s
        kept_up = reference_tok_s is None or throughput >= SUSTAINED_SHARE * reference_tok_s
        return Trial(
            value=value,
            number=number,
            outcome=Outcome.OK,
            cause="" if kept_up else f"slower than {SUSTAINED_SHARE:.0%} of what the largest budget gives",
            sustained=kept_up,
            output_throughput_tok_s=throughput,
            device_peak_bytes=metrics.device_memory.peak_bytes if metrics.device_memory else None,
            host_peak_bytes=metrics.host_memory.peak_bytes if metrics.host_memory else None,
            prompt_tokens=metrics.prompt_tokens,
            cache_tokens=cache_tokens(result.engine_facts, metrics),
            unused_bytes=metrics.unused_bytes,
        )
