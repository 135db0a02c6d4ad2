"""One call of the driver: plan, show, prepare, build, convert, measure, report."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from bench_core.contract.asked.declaration import declared, fields_that_may_differ
from bench_core.contract.asked.manifest import DeviceKind, VariantEntry
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo, VisitInfo
from bench_core.contract.records.spec import require_end_of_text
from bench_core.contract.records.workload import Workload, require_fit
from bench_core.drive.ask.request import Modes, Request, Suite
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.launch.launcher_choice import Choice, choose_launcher
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.outlook import Outlook, look_ahead, plan_words
from bench_core.drive.plan.plan import Job, Plan, cell_job, harness_job, make_plan, method_job, plan_of_cells
from bench_core.drive.plan.resume import Earlier
from bench_core.drive.run.assignment import clear_left_over
from bench_core.drive.run.calibration import is_at_hand, measure_devices
from bench_core.drive.run.execute import Execution, Finished, Prepared
from bench_core.drive.run.gpus import choose_gpus
from bench_core.drive.run.progress import Display, make_display, printable
from bench_core.drive.run.provide import Provision
from bench_core.drive.run.visit import (
    artifacts_read,
    begin,
    clear_half_written,
    extended_record,
    new_record,
    point_latest,
    put_beside,
    run_id_now,
    visit_info,
)
from bench_core.drive.search.max_batch import BatchSizeSearch
from bench_core.drive.search.min_memory import MemorySearch, budget_of
from bench_core.drive.search.trials import Site
from bench_core.prepare.disk import nearest_there
from bench_core.prepare.models.given_artifact import prepare_given
from bench_core.prepare.models.model import ModelRequest, plan_model, prepare_model
from bench_core.prepare.prompts.tokenizer import load_tokenizer
from bench_core.prepare.prompts.workload import WorkloadRequest, prepare_workload, put_workload, survey_workload
from bench_core.runs.published import read_published
from bench_core.system.locks import Locks
from bench_core.system.nvml import visible_gpus

DEFAULT_MAX_PROMPT_TOKENS = 1024
# Options that say what the prompts are; a suite file says all of them.
_OF_THE_PROMPTS = {
    "suite", "dataset", "split", "text_column", "samples", "sample_order", "sample_seed", "max_prompt_tokens",
}  # fmt: skip
_PLAIN_WIDTH = 120  # of the table where standard output is no terminal


class Session:
    """One call of the command."""

    def __init__(
        self, request: Request, modes: Modes, earlier: Earlier | None = None, locks: Locks | None = None
    ) -> None:
        self._request = request
        self._modes = modes
        self._catalogue = Catalogue()
        self._earlier = earlier
        self._locks = locks or Locks()
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        self._console = Console(stderr=modes.as_json, highlight=False, width=width)

    def run(self) -> int:
        """Plans, then does what the modes say; returns the exit code.

        Raises:
            BadInput: before anything was written, if anything given cannot be used.
        """
        request, suite = self._request, self._request.suite
        device, gpus = self._device()
        self._refuse_early(device)
        choice = self._choose()
        launcher = choice.launcher
        if not self._modes.dry_run and launcher.clear_orphans(self._say) and self._earlier is not None:
            self._earlier = Earlier.load(self._earlier.folder)  # one of them may just have ended a cell
        plan = self._with_harness(self._plan(device))
        self._require_use_of_options(plan, device)
        if self._modes.build_only:
            return self._build_only(plan, launcher, gpus)
        if self._earlier is not None:
            self._earlier.require_same_plan(plan, suite, launcher, gpus)
        outlook = self._checked_input(plan)
        run_folder = request.results / (request.run_id or run_id_now(suite.name))
        if self._earlier is not None:
            run_folder = self._earlier.folder
        if not self._modes.self_check:
            _require_writable(run_folder, resumed=self._earlier is not None)
        self._show(plan, outlook, choice, gpus)
        if self._modes.dry_run:
            return EXIT_OK
        if not plan.jobs:
            self._require_use_without_cells()
            clear_half_written(run_folder)  # no visit begins, which would
            put_beside(run_folder, suite)
            finished = Finished(run_folder, kept=self._kept(plan))
            return self._search_and_finish(finished, launcher, gpus, device)
        self._ask(plan, outlook)
        self._hold(run_folder, gpus)
        clear_left_over(request.data)
        with make_display(self._modes.as_json) as display:
            execution = Execution(request, plan, launcher, gpus, display, self._locks)
            _pass_on_signals(execution)
            prepared = self._material(execution, plan, display)
            provision = Provision(request, plan, launcher, gpus, display, self._locks, execution)
            if self._modes.self_check:
                ready = self._provide(provision, plan, prepared)
                return self._report_checks(self._self_check(execution, provision, plan, ready, prepared))
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
        visit = visit_info(plan, launcher, gpus)
        if self._earlier is None:  # before minutes of building, so that there is a run to go on with
            self._begin(run_folder, plan, visit, prepared)
        ready = self._provide(provision, plan, prepared)
        machine = [failure.error for failure in provision.failures if failure.of_the_machine]
        if machine and not ready and self._earlier is not None and len(machine) == len(provision.failures):
            raise machine[0]
        harness = plan.harness if ready else None
        info = provision.harness(harness) if harness is not None else None
        if info is None:
            plan, harness = replace(plan, harness=None), None
        visit = visit.model_copy(
            update={
                "retries": dict(execution.retries.counted),
                "images": {**provision.images, **({harness.image.name: info} if harness and info else {})},
                "artifacts": artifacts_read(ready, prepared),
                "harness_check": tuple(harness.planned()) if harness is not None else (),
            }
        )
        self._begin(run_folder, plan, visit, prepared)
        rows = provision.write_rows(run_folder)
        if ready and not execution.stopped:
            execution.await_free_cpus()  # before anything is measured, the device's roofs and the suite's error too
        if ready and not execution.stopped:
            self._measure_devices(plan, launcher, gpus, display, run_folder, prepared)
            execution.settle("the device was measured")
        if harness is not None and not execution.stopped:
            execution.measure_harness(harness, prepared, run_folder)
        finished = execution.measure(prepared, run_folder, self._kept(plan), ready, rows)
        finished.refusal = finished.refusal or next(iter(machine), None)
        return finished

    def _refuse_early(self, device: DeviceKind) -> None:
        """What is asked for beside the cells, before anything is built or written.

        Raises:
            BadInput: it cannot be had.
        """
        if self._request.suite.beside is not None:
            read_published(self._request.suite.beside)
        if self._modes.min_memory is not None:
            self._search_job(device)
        self._max_batch_jobs(device)

    def _require_use_of_options(self, plan: Plan, device: DeviceKind) -> None:
        """Nothing that ``--option`` says is left aside: each image that it names is measured or searched with here."""
        jobs = [*plan.grid, *([plan.control] if plan.control else []), *self._max_batch_jobs(device)]
        unused = sorted(self._modes.options_of - {job.image.name for job in jobs})
        if unused:
            raise BadInput(
                f"--option names {unused[0]}, which is not among the images of this run",
                f"those are {', '.join(dict.fromkeys(job.image.name for job in jobs))}",
            )

    def _require_use_without_cells(self) -> None:
        """Every cell of a resumed run is complete: what would only show in new cells must not be taken in silence.

        Raises:
            BadInput: such an option is given, and is not what the run was asked for before.
        """
        assert self._earlier is not None  # noqa: S101  # a new run has cells
        before, now = self._earlier.suite(), self._request.suite
        of_new_cells = [option for option in declared(Suite) if option.name in fields_that_may_differ(Suite)]
        given = [option for option in of_new_cells if option.name in self._modes.given]
        idle = [option.flag for option in given if getattr(now, option.name) != getattr(before, option.name)]
        idle += ["--calibration"] if self._modes.calibration else []
        if idle:
            raise BadInput(
                f"{', '.join(idle)} would change nothing: every cell asked for is complete",
                "add cells by --images, --variants, --batch-sizes or --repeats, or start a new run",
            )

    def _measure_devices(
        self,
        plan: Plan,
        launcher: Launcher,
        gpus: list[GpuInfo],
        display: Display,
        run_folder: Path,
        prepared: Prepared,
    ) -> None:
        """The roofs of this visit's devices, unless that is unwanted or would cost more than seconds."""
        probe, wanted = self._catalogue.probe(plan.device), self._modes.calibration
        if probe is None or wanted is False or not (wanted or is_at_hand(probe, plan, launcher)):
            return
        visit = 1 + len(self._earlier.record.all_visits) if self._earlier is not None else 1
        measure_devices(
            probe, plan, launcher, gpus, display,
            run_folder=run_folder, model_folder=prepared.model_folder, visit=visit,
            threads=self._request.suite.threads,
        )  # fmt: skip

    def _search_and_finish(
        self, finished: Finished, launcher: Launcher, gpus: list[GpuInfo], device: DeviceKind, *, stopped: bool = False
    ) -> int:
        """The searches that are asked for, each with short cells of its own, then the report."""
        code = EXIT_INTERRUPTED if stopped else finished.exit_code
        asked = self._modes.min_memory is not None or self._request.suite.find_max_batch
        if asked and not stopped and finished.refusal is None:
            self._lock(finished.run_folder, gpus)  # where nothing was to be measured, the GPU is not held yet
            try:
                code = self._search(finished, launcher, gpus, device) or code
            except BadInput as error:  # what was measured and tried until then is reported
                finished.refusal = error
        try:
            self._finish(finished)
        except BadInput:
            if finished.refusal is None:
                raise
            # What kept the rest from being measured may keep a report from being written; it is what is told.
        if finished.refusal is not None:
            raise finished.refusal
        return code

    def _search(self, finished: Finished, launcher: Launcher, gpus: list[GpuInfo], device: DeviceKind) -> int:
        """Returns the exit code; 0 if every search has found what it was to find."""
        jobs = self._max_batch_jobs(device)
        least = self._search_job(device) if self._modes.min_memory is not None else None
        plan = Plan(device, (*jobs, *([least] if least else [])))
        codes: list[int] = []
        with make_display(self._modes.as_json) as display:
            execution = Execution(self._request, plan, launcher, gpus, display, self._locks)
            site = Site(self._request, launcher, gpus, display, device, _pass_on_signals, self._locks)
            _, prepared = self._all_ready(execution, plan, display, site)
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
        return max(codes, default=EXIT_OK)

    def _search_job(self, device: DeviceKind) -> Job:
        job = cell_job(str(self._modes.min_memory), "--min-memory", self._request.suite, self._catalogue, device)
        budget_of(job, device)
        return job

    def _max_batch_jobs(self, device: DeviceKind) -> list[Job]:
        suite = self._request.suite
        methods = dict.fromkeys(suite.find_max_batch)
        return [method_job(method, "--find-max-batch", suite, self._catalogue, device) for method in methods]

    def measure_quietly(self) -> Finished:
        """Measures without showing a plan or writing a report.

        Raises:
            BadInput: as :meth:`run`, or a cell does not end well.
        """
        device, gpus = self._device()
        plan = self._plan(device)
        launcher = self._choose().launcher
        run_folder = self._request.results / (self._request.run_id or run_id_now(""))
        self._hold(run_folder, gpus)
        with Display() as display:
            execution = Execution(self._request, plan, launcher, gpus, display, self._locks)
            site = Site(self._request, launcher, gpus, display, device, _pass_on_signals, self._locks)
            provision, prepared = self._all_ready(execution, plan, display, site)
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

    def _say(self, text: str) -> None:
        """A line of news before there is a display."""
        if self._modes.as_json:
            sys.stdout.write(json.dumps({"type": "note", "text": text}) + "\n")
        else:
            self._console.print(printable(text), markup=False, soft_wrap=True)

    def _hold(self, run_folder: Path, gpus: list[GpuInfo]) -> None:
        """Keeps other drivers off the run's folder and the GPUs; looks once more whether the name is still free.

        Raises:
            BadInput: another driver is there.
        """
        self._lock(run_folder, gpus)
        if not self._modes.self_check:
            _require_writable(run_folder, resumed=self._earlier is not None)

    def _lock(self, run_folder: Path, gpus: list[GpuInfo]) -> None:
        """What is held already stays held."""
        if not self._modes.self_check:
            self._locks.hold_run(run_folder)
        for gpu in gpus:
            self._locks.hold_gpu(gpu.uuid, run_folder.name)
        if not gpus and not self._modes.self_check:
            self._locks.hold_cpus(run_folder.name)

    def _plan(self, device: DeviceKind) -> Plan:
        """What is asked for; of a run that is resumed, without the cells that are complete."""
        suite = self._request.suite
        known = {entry.artifact for name in self._catalogue.names for entry in self._variants(name)}
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

    def _with_harness(self, plan: Plan) -> Plan:
        """The plan with the scripted engine beside it, unless that is switched off."""
        if not self._request.suite.harness_check:
            return plan
        visit = 1 if self._earlier is None else 1 + len(self._earlier.record.all_visits)
        return replace(plan, harness=harness_job(plan, self._catalogue, visit))

    def _variants(self, image: str) -> Iterable[VariantEntry]:
        return self._catalogue.get(image).manifest.variants.values()

    def _material(self, execution: Execution, plan: Plan, display: Display) -> Prepared:
        """Model, workload, and artifacts that are taken from elsewhere."""
        prepared = execution.retries.run("model and workload", partial(self._prepare, plan, display))
        for artifact, source in self._request.suite.artifacts.items():
            if artifact in plan.artifacts:
                step = partial(prepare_given, artifact, source, prepared.model, self._request.models, display.note)
                execution.retries.run(f"artifact {artifact}", step)
        return prepared

    def _provide(self, provision: Provision, plan: Plan, prepared: Prepared) -> list[Job]:
        """Images and artifacts; the jobs that can be launched with what there is then."""
        provision.install()
        provision.convert(prepared, self._makers(plan))
        return [job for job in plan.jobs if provision.unready(job) is None]

    def _all_ready(self, execution: Execution, plan: Plan, display: Display, site: Site) -> tuple[Provision, Prepared]:
        """Everything that a plan needs, or the first failure.

        Raises:
            BadInput: something cannot be had.
        """
        prepared = self._material(execution, plan, display)
        provision = Provision(self._request, plan, site.launcher, list(site.gpus), display, self._locks, execution)
        self._provide(provision, plan, prepared)
        provision.require_all()
        return provision, prepared

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

    def _device(self) -> tuple[DeviceKind, list[GpuInfo]]:
        present = [] if self._request.suite.device == "cpu" else visible_gpus()
        if self._modes.build_only and self._request.suite.device == "cuda":
            return "cuda", present  # images are built where there is no GPU, too
        if self._request.suite.device == "cuda" or (self._request.suite.device == "auto" and present):
            return "cuda", choose_gpus(self._request.suite.gpus, present)
        if self._request.suite.gpus:
            raise BadInput("--gpus is given, but the run is on the CPU", "leave it out, or use --device cuda")
        return "cpu", []

    def _choose(self) -> Choice:
        """The launcher; says at the start where there are no containers though nobody asked for processes."""
        choice = choose_launcher(self._request.suite.launcher)
        if choice.instead_of_docker:
            self._say(f"engines run as processes, not in containers: {choice.instead_of_docker}")
        return choice

    def _makers(self, plan: Plan) -> dict[str, Job]:
        """Artifact to be converted to the image that makes it, with a variant of that image for its device."""
        makers = {}
        for artifact in plan.artifacts:
            if artifact in self._request.suite.artifacts:
                continue
            image = self._catalogue.maker_of(artifact)
            makers[artifact] = Job(image, image.manifest.default_variant(plan.device), (Offline(batch_size=1),), {})
        return makers

    def _build_only(self, plan: Plan, launcher: Launcher, gpus: list[GpuInfo]) -> int:
        with make_display(self._modes.as_json) as display:
            execution = Execution(self._request, plan, launcher, gpus, display)
            _pass_on_signals(execution)
            provision = Provision(self._request, plan, launcher, gpus, display, self._locks, execution)
            provision.install()
            provision.require_all()
            for image in plan.images:
                if image.manifest.converts:
                    info = launcher.ensure(image, "convert", plan.device, display.detail)
                    display.note(f"image {info.reference} is ready")
            probe = self._catalogue.probe(plan.device)
            if probe is not None and is_at_hand(probe, plan, launcher):
                display.note(
                    f"image {launcher.ensure(probe, 'measure', plan.device, display.detail).reference} is ready"
                )
            for reference in launcher.ensure_services(plan.device, display.detail):
                display.note(f"image {reference} is ready")
        return EXIT_OK

    def _model_request(self) -> ModelRequest:
        suite = self._request.suite
        return ModelRequest(name=suite.model, revision=suite.revision, tokenizer=suite.tokenizer, seed=suite.seed)

    def _checked_input(self, plan: Plan) -> Outlook:
        """Looks at model, dataset, artifacts and disk before anything is written."""
        suite = self._request.suite
        model_plan = plan_model(self._model_request(), self._request.models)
        if model_plan.eos_token_ids is not None:
            require_end_of_text(suite.length, model_plan.eos_token_ids, model_plan.name)
        if self._earlier is not None and model_plan.model is not None:
            self._earlier.require_same_model(model_plan.model.digest)
        kept = self._kept_prompts
        found = None
        if kept is None:
            found = survey_workload(self._workload_request(suite.max_prompt_tokens or DEFAULT_MAX_PROMPT_TOKENS))
        prompts = len(kept.prompts) if kept is not None else found.prompts if found is not None else suite.samples
        if prompts is not None:
            _require_batches(plan, prompts)
        prompts_are = kept.prompt_source if kept is not None else found.source if found is not None else None
        outlook = look_ahead(suite, plan, model_plan, self._makers(plan), self._request.models, prompts_are)
        outlook.require_disk(self._request.models)
        return outlook

    @property
    def _kept_prompts(self) -> Workload | None:
        """Those of the run that is resumed, which needs no dataset then; ``None`` where it keeps none, or where the
        command line or a suite file says anew what they are."""
        asked_anew = self._modes.given & _OF_THE_PROMPTS
        return None if self._earlier is None or asked_anew else self._earlier.view.workload

    def _workload_request(self, max_prompt_tokens: int) -> WorkloadRequest:
        suite = self._request.suite
        return WorkloadRequest(
            dataset=suite.dataset,
            split=suite.split,
            text_column=suite.text_column,
            samples=suite.samples,
            max_prompt_tokens=max_prompt_tokens,
            sample_seed=suite.shuffle_seed,
        )

    def _prepare(self, plan: Plan, display: Display) -> Prepared:
        request, suite = self._request, self._request.suite
        model = prepare_model(self._model_request(), request.models, display.note)
        require_end_of_text(suite.length, model.eos_token_ids, model.name)
        model_folder = request.models / model.folder
        room = model.context_length - suite.max_new_tokens
        limit = suite.max_prompt_tokens or min(DEFAULT_MAX_PROMPT_TOKENS, room)
        if limit < 1:
            raise BadInput(
                f"--max-new-tokens {suite.max_new_tokens} leaves no room for a prompt in the context of {model.name}, "
                f"{model.context_length} tokens"
            )
        workload = self._kept_prompts
        if workload is not None:
            path = put_workload(workload, request.data)
            display.note(f"workload {workload.name}: {len(workload.prompts)} prompts, kept by the run")
        else:
            tokenizer = load_tokenizer(model_folder / layout.HF_ARTIFACT)
            path, workload = prepare_workload(self._workload_request(limit), tokenizer, request.data, display.note)
        require_fit(workload, model, plan.batch_sizes, suite.max_new_tokens)
        return Prepared(model, model_folder, workload, path)

    def _show(self, plan: Plan, outlook: Outlook, choice: Choice, gpus: list[GpuInfo]) -> None:
        """The plan in words."""
        resumed = self._earlier.record.run_id if self._earlier is not None else None
        lines = plan_words(self._request.suite, plan, outlook, choice, gpus, resumed)
        if self._modes.as_json:
            news = {"type": "plan", "cells": list(plan.to_measure), "words": lines}
            sys.stdout.write(json.dumps(news) + "\n")
        else:
            for line in lines:
                self._console.print(printable(line), markup=False, soft_wrap=True)

    def _ask(self, plan: Plan, outlook: Outlook) -> None:
        """Asks a person at a terminal before a download; anything else goes ahead."""
        if self._modes.yes or self._modes.as_json or not sys.stdin.isatty() or not outlook.downloads:
            return
        question = f"download {', '.join(outlook.downloads)} and measure {len(plan.to_measure)} cells?"
        if not click.confirm(question, default=True):
            raise click.exceptions.Exit(EXIT_INTERRUPTED)

    def _finish(self, finished: Finished) -> None:
        """Writes the report and shows the table."""
        from bench_core.report.tables.glance import fastest_lines  # noqa: PLC0415
        from bench_core.report.write.console import console_searches, console_table  # noqa: PLC0415
        from bench_core.report.write.files import write_report  # noqa: PLC0415
        from bench_core.runs.load import load_run  # noqa: PLC0415  # drawing is not needed before

        paths = write_report(finished.run_folder)
        if self._modes.as_json:
            verdicts = {cell: verdict.model_dump(mode="json") for cell, verdict in finished.all_verdicts.items()}
            news = {"type": "run_ended", "run": str(finished.run_folder), "verdicts": verdicts}
            if self._request.suite.find_max_batch:
                found = load_run(finished.run_folder).max_batches
                news["max_batch"] = {one.method: {"largest": one.largest, "problem": one.problem} for one in found}
            sys.stdout.write(json.dumps({**news, "report": str(paths.markdown)}) + "\n")
            return
        view = load_run(finished.run_folder)
        self._console.print(console_table(view))
        for shown in console_searches(view):
            self._console.print(shown)
        latest = point_latest(finished.run_folder)
        lines = [
            *fastest_lines(view),
            f"Report, for a browser: {paths.page}",
            f"The same as text: {paths.markdown}",
            *([f"The last run is always at {latest}"] if latest is not None else []),
        ]
        for line in lines:
            self._console.print(printable(line), markup=False, soft_wrap=True)

    def _report_checks(self, checks: dict[str, list[str]]) -> int:
        failed = 0
        for title, lines in checks.items():
            for line in lines:
                check = json.loads(line)
                failed += check["outcome"] == "failed"
                text = f"{title}  {check['name']}: {check['outcome']}" + (
                    f" ({check['detail']})" if check["detail"] else ""
                )
                if self._modes.as_json:
                    sys.stdout.write(json.dumps({**check, "job": title}) + "\n")
                else:
                    self._console.print(printable(text), markup=False, soft_wrap=True)
        return EXIT_FAILED if failed else EXIT_OK


def _code_of(stopped: bool, *, found: bool) -> int:
    return EXIT_INTERRUPTED if stopped else EXIT_OK if found else EXIT_FAILED


def _pass_on_signals(execution: Execution) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        execution.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _require_batches(plan: Plan, prompts: int) -> None:
    largest = max(plan.batch_sizes, default=0)
    if largest > prompts:
        raise BadInput(
            f"batch size {largest} needs at least {largest} prompts, there are {prompts}",
            "raise --samples, or leave that batch size out",
        )


def _require_writable(run_folder: Path, *, resumed: bool) -> None:
    """The run's folder can be made, and there is none of that name with cells in it unless it is resumed."""
    if not resumed and (run_folder / layout.RUN_FILE).exists():
        raise BadInput(f"{run_folder} already holds a run", "choose another --run-id, or --resume it")
    place = nearest_there(run_folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or _read_only(place):
        raise BadInput(
            f"results folder {run_folder.parent} cannot be written", "check its owner, or name another by --results"
        )


def _read_only(place: Path) -> bool:
    """Root may write anywhere but on a file system that is read-only or takes no files."""
    return (
        bool(os.statvfs(place).f_flag & os.ST_RDONLY) or place.is_relative_to("/proc") or place.is_relative_to("/sys")
    )
