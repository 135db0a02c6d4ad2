"""The searches that a call asks for, made after its cells."""

from __future__ import annotations

from dataclasses import replace

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.serving.load import Serve
from bench_core.drive.ask.request import Modes, Request, Suite
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.material.material import Material
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import Job, Plan, cell_job, method_job
from bench_core.drive.run.execute import Execution, Finished, pass_on_signals
from bench_core.drive.search.capacity import CapacitySearch
from bench_core.drive.search.max_batch import BatchSizeSearch
from bench_core.drive.search.min_memory import MemorySearch, budget_of
from bench_core.drive.search.trials import Site
from bench_core.drive.show.display import make_display
from bench_core.drive.show.outline import Outline, resume_command
from bench_core.drive.show.web import Web
from bench_core.system.locks import Locks


class Searches:
    """For the smallest memory of a cell, and for the largest batch sizes of methods."""

    def __init__(self, request: Request, modes: Modes, catalogue: Catalogue, device: DeviceKind) -> None:
        self._request = request
        self._min_memory = modes.min_memory
        self._as_json = modes.as_json
        self._catalogue = catalogue
        self._device: DeviceKind = device

    @property
    def asked(self) -> bool:
        """Whether there is any."""
        suite = self._request.suite
        return self._min_memory is not None or bool(suite.find_max_batch or suite.find_capacity)

    def require(self) -> None:
        """Before anything is built or written.

        Raises:
            BadInput: one of them cannot be made.
        """
        self._min_memory_job()
        self.max_batch_jobs()
        self.capacity_jobs()

    def run(
        self,
        finished: Finished,
        material: Material,
        launcher: Launcher,
        gpus: list[GpuInfo],
        locks: Locks,
        web: Web | None = None,
    ) -> int:
        """Makes them all, each with short cells of its own; returns the exit code: 0 if every search has found what it
        was to find.

        Raises:
            BadInput: something that they need cannot be had.
        """
        jobs, least, served = self.max_batch_jobs(), self._min_memory_job(), self.capacity_jobs()
        plan = Plan(self._device, (*jobs, *([least] if least else []), *served))
        codes: list[int] = []
        folder = finished.run_folder
        outline = Outline(folder, resume_command(self._request, folder), on_cpu=not gpus)
        with make_display(self._as_json, outline, web) as display:
            execution = Execution(self._request, plan, launcher, gpus, display, locks)
            site = Site(self._request, launcher, gpus, display, self._device, pass_on_signals, locks)
            _, prepared = material.all_ready(execution, plan, site)
            if least is not None:
                memory = MemorySearch(site, least)
                smallest = memory.run(prepared, finished.run_folder).smallest
                codes.append(_code_of(memory.stopped, found=smallest is not None))
            for job in jobs:
                if EXIT_INTERRUPTED in codes:
                    break
                sizes = BatchSizeSearch(site, job)
                largest = sizes.run(prepared, finished.run_folder).largest
                codes.append(_code_of(sizes.stopped, found=largest is not None))
            for job in served:
                if EXIT_INTERRUPTED in codes:
                    break
                capacity = CapacitySearch(site, job).run(execution, prepared, finished.run_folder)
                found = capacity is not None and capacity.highest is not None and not capacity.problem
                codes.append(_code_of(execution.stopped, found=found))
        return max(codes, default=EXIT_OK)

    def _min_memory_job(self) -> Job | None:
        """The cell whose smallest budget is asked for."""
        if self._min_memory is None:
            return None
        job = cell_job(self._min_memory, "--min-memory", self._request.suite, self._catalogue, self._device)
        budget_of(job, self._device)
        return job

    def max_batch_jobs(self) -> list[Job]:
        """The methods whose largest batch size is asked for."""
        suite = self._request.suite
        methods = dict.fromkeys(suite.find_max_batch)
        return [method_job(method, "--find-max-batch", suite, self._catalogue, self._device) for method in methods]

    def capacity_jobs(self) -> list[Job]:
        """The methods whose capacity is asked for, at the load that the search begins with."""
        suite, device = self._request.suite, self._device
        jobs = []
        for method in dict.fromkeys(suite.find_capacity):
            job = method_job(method, "--find-capacity", suite, self._catalogue, device)
            if job.variant not in job.image.manifest.served_on(device):
                raise BadInput(f"--find-capacity: {method} has no server on {device}", "see serve: in its image.yaml")
            jobs.append(replace(job, scenarios=(_first_load(suite),)))
        return jobs


def _first_load(suite: Suite) -> Serve:
    if suite.capacity_of == "concurrency":
        return Serve(load="concurrency", concurrency=max(1, int(suite.capacity_start)))
    return Serve(load="rate", request_rate=suite.capacity_start, arrivals=suite.arrivals)


def _code_of(stopped: bool, *, found: bool) -> int:
    return EXIT_INTERRUPTED if stopped else EXIT_OK if found else EXIT_FAILED
