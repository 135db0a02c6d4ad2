"""One call of the driver: plan, show, prepare, build, convert, measure, report."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput, first_line, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_INTERRUPTED, EXIT_OK, Outcome, Verdict
from bench_core.contract.records.run import AgainCell, GpuInfo, VisitInfo
from bench_core.drive.ask.request import Modes, Request
from bench_core.drive.fleet.hosts import Hosts, ThisHost
from bench_core.drive.fleet.queue import Before
from bench_core.drive.fleet.sample import sampled, with_control
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.launch.launcher_choice import Choice, choose_launcher
from bench_core.drive.material.material import Material
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.material.provide import Provision
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.plan.effort import effort_of
from bench_core.drive.plan.engine_versions import with_versions
from bench_core.drive.plan.estimate import TYPICAL_PROMPTS, job_estimate_s
from bench_core.drive.plan.given_options import require_use_of_options, require_use_without_cells
from bench_core.drive.plan.outlook import plan_words
from bench_core.drive.plan.own_error import own_error_jobs
from bench_core.drive.plan.plan import Job, Plan, make_plan, plan_of_cells
from bench_core.drive.plan.resume import Earlier
from bench_core.drive.run.assignment import clear_left_over
from bench_core.drive.run.build_only import build_only
from bench_core.drive.run.device_rates import is_at_hand, measure_devices
from bench_core.drive.run.execute import Execution, Finished, pass_on_signals
from bench_core.drive.run.news import News
from bench_core.drive.run.progress import Display
from bench_core.drive.run.visit import (
    artifacts_read,
    begin,
    clear_half_written,
    extended_record,
    new_record,
    put_beside,
    require_writable,
    run_id_now,
    visit_info,
)
from bench_core.drive.search.asked import Searches
from bench_core.drive.search.trials import Site
from bench_core.drive.show.display import make_display
from bench_core.drive.show.outline import outline_of, resume_command
from bench_core.drive.show.web import Web
from bench_core.runs.published import read_published
from bench_core.system.locks import Locks


class Session:
    """One call of the command."""

    def __init__(
        self,
        request: Request,
        modes: Modes,
        earlier: Earlier | None = None,
        locks: Locks | None = None,
        web: Web | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._hosts = hosts or ThisHost()
        self._request = request
        self._modes = modes
        self._catalogue = with_versions(Catalogue(), request.suite.engine_version)
        self._earlier = earlier
        self._locks = locks or Locks()
        self._news = News(modes)
        self._web = web

    def run(self) -> int:
        """Plans, then does what the modes say; returns the exit code.

        Raises:
            BadInput: before anything was written, if anything given cannot be used.
        """
        device, gpus = self._hosts.devices(self._request.suite, build_only=self._modes.build_only)
        self._refuse_early(device)
        choice = self._choose()
        launcher = choice.launcher
        if not self._modes.dry_run and launcher.clear_orphans(self._news.say) and self._earlier is not None:
            self._earlier = Earlier.load(self._earlier.folder)  # one of them may just have ended a cell
        plan = self._with_own_error(self._side_by_side(self._plan(device), gpus, launcher))
        request, suite = self._request, self._request.suite
        require_use_of_options(self._modes, [*plan.grid, *plan.controls[:1], *self._searches(device).max_batch_jobs()])
        if self._modes.build_only:
            probe = self._catalogue.probe(plan.device)
            return build_only(request, plan, launcher, gpus, self._locks, probe, as_json=self._modes.as_json)
        if self._earlier is not None:
            self._earlier.require_same_plan(plan, suite, launcher, gpus, self._hosts.host)
        outlook = self._material.checked(plan)
        run_folder = request.results / (request.run_id or run_id_now(suite.name))
        if self._earlier is not None:
            run_folder = self._earlier.folder
        if not self._modes.self_check:
            require_writable(run_folder, resumed=self._earlier is not None)
        resumed = self._earlier.record.run_id if self._earlier is not None else None
        probe = self._probe(plan, launcher)
        effort = effort_of(suite, plan, outlook, launcher, probe, request.models)
        where = self._hosts.words(plan, partial(self._seconds, plan, outlook.weights_bytes))
        self._news.plan(
            plan, [*plan_words(suite, plan, outlook, choice, gpus, resumed, self._again), *where, *effort.words]
        )
        if self._modes.dry_run:
            return EXIT_OK
        if not plan.jobs:
            assert self._earlier is not None  # noqa: S101  # a new run has cells
            require_use_without_cells(self._modes, self._earlier.suite(), suite)
            clear_half_written(run_folder)  # no visit begins, which would
            put_beside(run_folder, suite)
            finished = Finished(run_folder, kept=self._kept(plan))
            return self._search_and_finish(finished, launcher, gpus, device)
        self._news.ask(plan, outlook, effort)
        self._hold(run_folder, gpus)
        clear_left_over(request.data)
        if self._web is not None:
            self._news.say(f"the run's page, while it goes on: {self._web.url}")
        outline = outline_of(request, plan, effort, run_folder, len(gpus), probed=probe is not None)
        with make_display(self._modes.as_json, outline, self._web) as display:
            own = gpus if self._hosts.here else []  # that this process starts boxes on
            executor = self._hosts.executor(request, run_folder.name, display.note)
            execution = Execution(request, plan, launcher, own, display, self._locks, executor=executor)
            pass_on_signals(execution)
            prepared = self._material.ready(execution, plan, display)
            provision = Provision(request, plan, launcher, own, display, self._locks, execution)
            if self._modes.self_check:
                ready = self._material.provide(provision, plan, prepared)
                return self._news.checks(self._self_check(execution, provision, plan, ready, prepared))
            finished = self._measure(execution, provision, plan, prepared, run_folder, launcher, gpus, display)
        return self._search_and_finish(finished, launcher, gpus, device, stopped=execution.stopped)

    def _measure(
        self,
        execution: Execution,
        provision: Provision,
        plan: Plan,
        prepared: Prepared,
        run_folder: Path,
        launcher: Launcher,
        gpus: list[GpuInfo],
        display: Display,
    ) -> Finished:
        """One visit: what it needs is installed and converted, what is there then is measured, the rest are rows.

        Raises:
            MachineFailure: nothing could be made ready for a resumed run, which is left as it was.
        """
        places = [worker.placement for worker in execution.workers if worker.placement is not None]
        visit = self._hosts.recorded(visit_info(plan, launcher, gpus, places, self._again))
        if self._earlier is None:  # before minutes of building, so that there is a run to go on with
            self._begin(run_folder, plan, visit, prepared)
        ready = self._material.provide(provision, plan, prepared)
        machine = [failure.error for failure in provision.failures if failure.of_the_machine]
        if machine and not ready and self._earlier is not None and len(machine) == len(provision.failures):
            raise machine[0]
        scripted = provision.own_error(plan.own_error) if ready else {}
        plan = plan if scripted else replace(plan, own_error=())
        visit = visit.model_copy(
            update={
                "retries": dict(execution.retries.counted),
                "images": {**provision.images, **scripted},
                "artifacts": artifacts_read(ready, prepared),
                "harness_check": plan.own_error_cells,
            }
        )
        self._begin(run_folder, plan, visit, prepared)
        rows = provision.write_rows(run_folder)
        self._hosts.provide([*ready, *plan.own_error], prepared, display.step)
        if ready and not execution.stopped:
            execution.await_free_cpus()  # before anything is measured, the device's roofs and the suite's error too
        if ready and not execution.stopped:
            self._measure_devices(plan, launcher, gpus, display, run_folder, prepared)
            execution.settle("the device was measured")
        execution.measure_own_error(plan.own_error, prepared, run_folder)
        before = self._earlier.of_the_pool() if self._earlier else Before()
        finished = execution.measure(prepared, run_folder, self._kept(plan), ready, rows, before)
        finished.refusal = finished.refusal or next(iter(machine), None)
        return finished

    def _refuse_early(self, device: DeviceKind) -> None:
        """What is asked for beside the cells, before anything is built or written.

        Raises:
            BadInput: it cannot be had.
        """
        if self._request.suite.beside is not None:
            read_published(self._request.suite.beside)
        trace = self._request.suite.trace
        if trace is not None and (self._earlier is None or "trace" in self._modes.given):  # else the run keeps it
            try:
                trace.open("rb").close()
            except (OSError, ValueError) as error:  # ValueError: no path can have that name
                raise BadInput(
                    f"--trace {trace}: {first_line(error)}", "a file of JSON lines; docs/serving.md"
                ) from error
        self._searches(device).require()

    def _measure_devices(
        self,
        plan: Plan,
        launcher: Launcher,
        gpus: list[GpuInfo],
        display: Display,
        run_folder: Path,
        prepared: Prepared,
    ) -> None:
        """The peak rates of this visit's devices, unless that is unwanted or would cost more than seconds."""
        probe = self._probe(plan, launcher)
        if probe is None:
            return
        visit = 1 + len(self._earlier.record.all_visits) if self._earlier is not None else 1
        measure_devices(
            probe, plan, launcher, gpus, display,
            run_folder=run_folder, model_folder=prepared.model_folder, visit=visit,
            threads=self._request.suite.threads,
        )  # fmt: skip

    def _probe(self, plan: Plan, launcher: Launcher) -> Image | None:
        """What measures the device; ``None`` where that is unwanted or would cost more than seconds."""
        probe, wanted = self._catalogue.probe(plan.device), self._modes.device_rates
        if (
            not self._hosts.here
            or probe is None
            or wanted is False
            or not (wanted or is_at_hand(probe, plan, launcher))
        ):
            return None
        return probe

    def _search_and_finish(
        self, finished: Finished, launcher: Launcher, gpus: list[GpuInfo], device: DeviceKind, *, stopped: bool = False
    ) -> int:
        """The searches that are asked for, each with short cells of its own, then the report."""
        code = EXIT_INTERRUPTED if stopped else finished.exit_code
        searches = self._searches(device)
        if searches.asked and not stopped and finished.refusal is None:
            self._lock(finished.run_folder, gpus)  # where nothing was to be measured, the GPU is not held yet
            try:
                code = searches.run(finished, self._material, launcher, gpus, self._locks, self._web) or code
            except BadInput as error:  # what was measured and tried until then is reported
                finished.refusal = error
        try:
            self._news.finish(
                finished,
                resume=resume_command(self._request, finished.run_folder),
                sizes_searched=bool(self._request.suite.find_max_batch),
            )
        except BadInput:
            if finished.refusal is None:
                raise
            # What kept the rest from being measured may keep a report from being written; it is what is told.
        if finished.refusal is not None:
            raise finished.refusal
        return code

    @property
    def _again(self) -> tuple[AgainCell, ...]:
        """Complete cells of the run that are measured again."""
        return self._earlier.again if self._earlier is not None else ()

    @property
    def _material(self) -> Material:
        return Material(self._request, self._modes.given, self._catalogue, self._earlier)

    def _searches(self, device: DeviceKind) -> Searches:
        return Searches(self._request, self._modes, self._catalogue, device)

    def measure_quietly(self) -> Finished:
        """Measures without showing a plan or writing a report.

        Raises:
            BadInput: as :meth:`run`, or a cell does not end well.
        """
        device, gpus = self._hosts.devices(self._request.suite, build_only=self._modes.build_only)
        plan = self._plan(device)
        launcher = self._choose().launcher
        run_folder = self._request.results / (self._request.run_id or run_id_now(""))
        self._hold(run_folder, gpus)
        with Display() as display:
            execution = Execution(self._request, plan, launcher, gpus, display, self._locks)
            site = Site(self._request, launcher, gpus, display, device, pass_on_signals, self._locks)
            provision, prepared = self._material.all_ready(execution, plan, site)
            material = {"images": provision.images, "artifacts": artifacts_read(plan.jobs, prepared)}
            visit = visit_info(plan, launcher, gpus).model_copy(update=material)
            self._begin(run_folder, plan, visit, prepared)
            finished = execution.measure(prepared, run_folder, {})
        if finished.refusal is not None:
            raise finished.refusal
        for cell, verdict in finished.verdicts.items():
            if verdict.outcome is not Outcome.OK:
                raise BadInput(f"{cell}: {verdict.outcome.value}: {verdict.cause}")
        return finished

    def _hold(self, run_folder: Path, gpus: list[GpuInfo]) -> None:
        """Keeps other drivers off the run's folder and the GPUs; looks once more whether the name is still free.

        Raises:
            BadInput: another driver is there.
        """
        self._lock(run_folder, gpus)
        if not self._modes.self_check:
            require_writable(run_folder, resumed=self._earlier is not None)

    def _lock(self, run_folder: Path, gpus: list[GpuInfo]) -> None:
        """What is held already stays held."""
        if not self._modes.self_check:
            self._locks.hold_run(run_folder)
        if gpus or not self._modes.self_check:
            self._hosts.hold(self._locks, gpus, run_folder.name)

    def _plan(self, device: DeviceKind) -> Plan:
        """What is asked for; of a run that is resumed, without the cells that are complete."""
        suite = self._request.suite
        known = {entry.artifact for image in self._catalogue.every for entry in image.manifest.variants.values()}
        known -= {layout.HF_ARTIFACT, layout.NO_ARTIFACT}  # the model itself, and nothing
        for artifact in suite.artifacts:
            if artifact not in known:
                raise BadInput(
                    f"--artifact: no image reads {artifact!r} as an artifact of its own", nearest(artifact, known)
                )
        if self._earlier is None:
            return make_plan(suite, self._catalogue, device)
        if self._request.whole_run:
            if "repeats" in self._modes.given and suite.repeats < self._earlier.record.repeats:
                raise BadInput(
                    f"--repeats {suite.repeats}, but {self._earlier.record.run_id} has {self._earlier.record.repeats}",
                    "repeats are added, never taken away: ask for more, or leave it out",
                )
            plan = plan_of_cells(self._earlier.record.cells, suite, self._catalogue, device)
        else:
            plan = make_plan(suite, self._catalogue, device)
        return plan.resumed(self._earlier.complete_cells)

    def _side_by_side(self, plan: Plan, gpus: list[GpuInfo], launcher: Launcher) -> Plan:
        """The plan with what tells how far several devices differ; the suite then names its control."""
        devices = len(self._hosts.workers(gpus, self._request.suite, launcher.name))
        suite = with_control(self._request.suite, plan, devices)
        self._request = self._request.model_copy(update={"suite": suite})
        known = self._earlier.record.alone if self._earlier else ()
        return sampled(self._plan(plan.device), suite, devices, known) if devices > 1 else plan

    def _with_own_error(self, plan: Plan) -> Plan:
        """The plan with the scripted engine beside it, unless that is switched off."""
        if not self._request.suite.harness_check:
            return plan
        visit = 1 if self._earlier is None else 1 + len(self._earlier.record.all_visits)
        jobs = own_error_jobs(plan, self._catalogue, visit, self._request.suite.max_new_tokens)
        return replace(plan, own_error=jobs)

    def _self_check(
        self, execution: Execution, provision: Provision, plan: Plan, ready: list[Job], prepared: Prepared
    ) -> dict[str, list[str]]:
        """Checks of every job; of one that could not be made ready, one that has failed."""
        checks: dict[str, list[str]] = {}
        for job in plan.jobs:
            unready = provision.unready(job)
            if unready is not None and unready.of_the_machine:
                raise unready.error
            if unready is not None:
                failure = {"name": "starts", "outcome": "failed", "detail": unready.error.cause}
                checks[job.title] = [json.dumps(failure)]
        return {**checks, **execution.self_check(prepared, ready)}

    def _begin(self, run_folder: Path, plan: Plan, visit: VisitInfo, prepared: Prepared) -> None:
        """Writes the visit into the run's folder, if it belongs there."""
        suite = self._request.suite
        if self._earlier is None:
            begin(run_folder, new_record(run_folder.name, suite, plan, visit, prepared), suite, prepared.workload)
            return
        self._earlier.require_same_material(prepared, visit)
        record = extended_record(self._earlier.record, plan, visit)
        begin(run_folder, record, self._earlier.kept_suite(suite, whole=self._request.whole_run), prepared.workload)

    def _kept(self, plan: Plan) -> dict[str, Verdict]:
        """Verdicts of the cells asked for that an earlier visit has measured."""
        asked = {cell.cell for cell in plan.cells}
        rows = self._earlier.complete if self._earlier is not None else ()
        return {row.planned.cell: row.verdict for row in rows if row.verdict and row.planned.cell in asked}

    def _seconds(self, plan: Plan, weights_bytes: int, job: Job) -> float:
        """That a job is expected to take."""
        suite = self._request.suite
        return job_estimate_s(job, plan.device, suite, weights_bytes, suite.samples or TYPICAL_PROMPTS)

    def _choose(self) -> Choice:
        """The launcher; says at the start where there are no containers though nobody asked for processes."""
        choice = choose_launcher(self._request.suite.launcher)
        if choice.instead_of_docker:
            self._news.say(f"engines run as processes, not in containers: {choice.instead_of_docker}")
        return choice
