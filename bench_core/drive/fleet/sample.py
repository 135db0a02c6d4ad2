"""Cells that tell what the pool itself does to numbers: the control of every device, and those measured again alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from bench_core.contract.asked.scenario import MAX_REPEAT, Offline
from bench_core.contract.records.run import PlannedCell
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.estimate import TYPICAL_PROMPTS, job_estimate_s
from bench_core.drive.plan.plan import Job, Plan


def with_control(suite: Suite, plan: Plan, devices: int) -> Suite:
    """The suite with a control for several devices, where it names none: the cell of closed batches that takes least,
    of methods that are ranked where there are any."""
    if devices < 2 or suite.control is not None:
        return suite
    single = [job for job in _single(plan.grid) if job.repeat == 1]
    ranked = [job for job in single if job.image.manifest.ranked] or single
    if not ranked:
        return suite
    return suite.model_copy(update={"control": min(ranked, key=partial(_seconds, plan, suite)).cells[0]})


def sampled(plan: Plan, suite: Suite, devices: int, known: Iterable[PlannedCell]) -> Plan:
    """The plan for several devices, with a sample of its cells to be measured again while nothing else runs: the
    control's, which all devices measure at the same time, then the shortest of other methods.

    Args:
        known: cells that the run has measured alone so far.
    """
    plan = replace(plan, devices=devices)
    order = [
        *plan.controls[:1],
        *sorted(_single(plan.jobs[len(plan.controls) :]), key=partial(_seconds, plan, suite)),
    ]
    chosen: dict[str, Job] = {}
    for job in order:
        if isinstance(job.scenarios[0], Offline):
            chosen.setdefault(job.title, job)
    before = Counter((cell.image, cell.variant, cell.scenario.word) for cell in known)
    found = []
    for job in list(chosen.values())[: suite.beside_sample]:
        # From above: the grid's repeats and the control's, which may be asked for later, count from below.
        repeat = MAX_REPEAT - before[job.image.name, job.variant, job.scenarios[0].word]
        found.append((replace(job, repeat=repeat), job.cells[0]))
    return replace(plan, alone=tuple(found))


def _seconds(plan: Plan, suite: Suite, job: Job) -> float:
    """That a job will take, but for the model's weights, which are not looked at yet."""
    return job_estimate_s(job, plan.device, suite, 0, suite.samples or TYPICAL_PROMPTS)


def _single(jobs: Iterable[Job]) -> Iterable[Job]:
    """Each cell of closed batches as a job of its own."""
    return [
        replace(job, scenarios=(scenario,))
        for job in jobs
        for scenario in job.scenarios
        if isinstance(scenario, Offline)
    ]
