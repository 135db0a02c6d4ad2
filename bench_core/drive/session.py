"""One call of the driver: plan, show, prepare, build, convert, measure, report."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console

from bench_core.contract import layout
from bench_core.contract.artifact import recipe_digest, usable_artifact
from bench_core.contract.errors import BadInput
from bench_core.contract.manifest import DeviceKind
from bench_core.contract.outcome import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Outcome
from bench_core.contract.run import GpuInfo
from bench_core.contract.workload import require_fit
from bench_core.drive.catalogue import Catalogue
from bench_core.drive.estimate import TYPICAL_PROMPTS, conversion_bytes, measuring_estimate_s, readable_duration
from bench_core.drive.execute import Execution, Finished, Prepared, run_id_now
from bench_core.drive.gpus import choose_gpus, host_gpus
from bench_core.drive.launcher import Launcher
from bench_core.drive.plan import Job, Plan, make_plan
from bench_core.drive.progress import Display, SilentDisplay, make_display
from bench_core.drive.request import Request
from bench_core.prepare.disk import readable, require_free
from bench_core.prepare.model import ModelPlan, ModelRequest, plan_model, prepare_model
from bench_core.prepare.tokenizer import load_tokenizer
from bench_core.prepare.workload import WorkloadRequest, prepare_workload, survey_workload

DEFAULT_MAX_PROMPT_TOKENS = 1024
_PLAIN_WIDTH = 120  # of the table where standard output is no terminal


@dataclass(frozen=True)
class Modes:
    """What to do with the plan."""

    dry_run: bool = False
    yes: bool = False
    as_json: bool = False
    build_only: bool = False
    self_check: bool = False


class Session:
    """One call of the command."""

    def __init__(self, request: Request, modes: Modes) -> None:
        self._request = request
        self._modes = modes
        self._catalogue = Catalogue()
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        self._console = Console(stderr=modes.as_json, highlight=False, width=width)

    def run(self) -> int:
        """Plans, then does what the modes say; returns the exit code.

        Raises:
            BadInput: before anything was written, if anything given cannot be used.
        """
        request, suite = self._request, self._request.suite
        device, gpus = self._device()
        plan = make_plan(suite, self._catalogue, device)
        launcher = self._launcher()
        makers = self._makers(plan)
        if self._modes.build_only:
            return self._build_only(plan, launcher, gpus)
        model_plan = self._checked_input(makers)
        run_folder = request.results / (request.run_id or run_id_now(suite.name))
        if not self._modes.self_check:
            _require_writable(run_folder)
        self._show(plan, launcher, model_plan, makers, gpus)
        if self._modes.dry_run:
            return EXIT_OK
        self._ask(plan, model_plan)
        with make_display(self._modes.as_json) as display:
            execution = Execution(request, plan, launcher, gpus, display)
            _pass_on_signals(execution)
            images = execution.build()
            prepared = self._prepare(display)
            execution.convert(prepared, makers)
            if self._modes.self_check:
                return self._report_checks(execution.self_check(prepared))
            finished = execution.measure(prepared, images, run_folder)
        self._finish(finished)
        return EXIT_INTERRUPTED if execution.stopped else finished.exit_code

    def measure_quietly(self) -> Finished:
        """Measures without showing a plan or writing a report.

        Raises:
            BadInput: as :meth:`run`, or a cell does not end well.
        """
        device, gpus = self._device()
        plan = make_plan(self._request.suite, self._catalogue, device)
        with SilentDisplay() as display:
            execution = Execution(self._request, plan, self._launcher(), gpus, display)
            images = execution.build()
            prepared = self._prepare(display)
            execution.convert(prepared, self._makers(plan))
            run_folder = self._request.results / (self._request.run_id or run_id_now(""))
            finished = execution.measure(prepared, images, run_folder)
        for cell, verdict in finished.verdicts.items():
            if verdict.outcome is not Outcome.OK:
                raise BadInput(f"{cell}: {verdict.outcome.value}: {verdict.cause}")
        return finished

    def _device(self) -> tuple[DeviceKind, list[GpuInfo]]:
        present = [] if self._request.suite.device == "cpu" else host_gpus()
        if self._request.suite.device == "cuda" or (self._request.suite.device == "auto" and present):
            return "cuda", choose_gpus(self._request.suite.gpus, present)
        if self._request.suite.gpus:
            raise BadInput("--gpus is given, but the run is on the CPU", "leave it out, or use --device cuda")
        return "cpu", []

    def _launcher(self) -> Launcher:
        # Each brings its own world; the one not taken is not imported.
        if self._request.suite.launcher != "process":
            from bench_core.drive.docker_launcher import DockerLauncher, connect  # noqa: PLC0415

            try:
                return DockerLauncher(connect())
            except BadInput:
                if self._request.suite.launcher == "docker":
                    raise
        from bench_core.drive.process_launcher import ProcessLauncher  # noqa: PLC0415

        return ProcessLauncher()

    def _makers(self, plan: Plan) -> dict[str, Job]:
        """Artifact to the image that makes it, with a variant of that image for its device."""
        makers = {}
        for artifact in plan.artifacts:
            image = self._catalogue.maker_of(artifact)
            makers[artifact] = Job(image, image.manifest.default_variant(plan.device), (1,), {})
        return makers

    def _build_only(self, plan: Plan, launcher: Launcher, gpus: list[GpuInfo]) -> int:
        with make_display(self._modes.as_json) as display:
            Execution(self._request, plan, launcher, gpus, display).build()
            for image in plan.images:
                if image.manifest.converts:
                    info = launcher.ensure(image, "convert", plan.device, display.detail)
                    display.note(f"image {info.reference} is ready")
            for reference in launcher.ensure_services(plan.device, display.detail):
                display.note(f"image {reference} is ready")
        return EXIT_OK

    def _model_request(self) -> ModelRequest:
        suite = self._request.suite
        return ModelRequest(name=suite.model, revision=suite.revision, tokenizer=suite.tokenizer, seed=suite.seed)

    def _checked_input(self, makers: dict[str, Job]) -> ModelPlan:
        """Looks at model, dataset and disk before anything is written."""
        suite = self._request.suite
        model_plan = plan_model(self._model_request(), self._request.models)
        found = survey_workload(self._workload_request(suite.max_prompt_tokens or DEFAULT_MAX_PROMPT_TOKENS))
        prompts = found if found is not None else suite.samples
        if prompts is not None:
            self._require_batches(prompts)
        to_make = [artifact for artifact, maker in makers.items() if self._missing(artifact, maker, model_plan)]
        for_conversion = sum(conversion_bytes(artifact, self._weights_bytes(model_plan)) for artifact in to_make)
        require_free(
            self._request.models,
            (model_plan.bytes_expected or 0) + for_conversion,
            f"the model and its conversion to {', '.join(to_make)}" if to_make else "the model",
        )
        return model_plan

    def _weights_bytes(self, model_plan: ModelPlan) -> int:
        """Size of the stored weights, as far as it is known before the model is there."""
        if model_plan.model is not None:
            return model_plan.model.parameters * (4 if model_plan.model.dtype == "float32" else 2)
        if model_plan.action == "link":
            return sum(path.stat().st_size for path in Path(self._request.suite.model).glob("*.safetensors"))
        return model_plan.bytes_expected or 0

    def _workload_request(self, max_prompt_tokens: int) -> WorkloadRequest:
        suite = self._request.suite
        return WorkloadRequest(
            dataset=suite.dataset,
            split=suite.split,
            text_column=suite.text_column,
            samples=suite.samples,
            max_prompt_tokens=max_prompt_tokens,
        )

    def _require_batches(self, prompts: int) -> None:
        largest = max(self._request.suite.batch_sizes)
        if largest > prompts:
            raise BadInput(
                f"batch size {largest} needs at least {largest} prompts, there are {prompts}",
                "raise --samples, or leave that batch size out",
            )

    def _prepare(self, display: Display) -> Prepared:
        request, suite = self._request, self._request.suite
        model = prepare_model(self._model_request(), request.models, display.note)
        model_folder = request.models / model.folder
        room = model.context_length - suite.max_new_tokens
        limit = suite.max_prompt_tokens or min(DEFAULT_MAX_PROMPT_TOKENS, room)
        if limit < 1:
            raise BadInput(
                f"--max-new-tokens {suite.max_new_tokens} leaves no room for a prompt in the context of {model.name}, "
                f"{model.context_length} tokens"
            )
        tokenizer = load_tokenizer(model_folder / layout.HF_ARTIFACT)
        path, workload = prepare_workload(self._workload_request(limit), tokenizer, request.data, display.note)
        require_fit(workload, model, suite.batch_sizes, suite.max_new_tokens)
        return Prepared(model, model_folder, workload, path)

    def _show(
        self, plan: Plan, launcher: Launcher, model_plan: ModelPlan, makers: dict[str, Job], gpus: list[GpuInfo]
    ) -> None:
        """The plan in words: cells, what will be built, fetched and converted, time and disk."""
        suite = self._request.suite
        to_build = [image.name for image in plan.images if not launcher.is_ready(image, "measure", plan.device)]
        to_convert = [a for a, maker in makers.items() if self._missing(a, maker, model_plan)]
        to_build += [
            f"{makers[a].image.name} (converter)"
            for a in to_convert
            if makers[a].image.manifest.convert_target
            and not launcher.is_ready(makers[a].image, "convert", plan.device)
        ]
        weights_bytes = self._weights_bytes(model_plan)
        measuring_s = measuring_estimate_s(plan, suite, weights_bytes, suite.samples or TYPICAL_PROMPTS)
        disk_bytes = sum(conversion_bytes(artifact, weights_bytes) for artifact in to_convert)
        lines = [
            f"{len(plan.cells)} cells: " + ", ".join(f"{job.title} x {_sizes(job.batch_sizes)}" for job in plan.jobs),
            f"on {', '.join(gpu.name for gpu in gpus) or 'the CPU'}, launched as {launcher.name}",
            f"model {suite.model}: {_action(model_plan)}",
            f"prompts: {suite.dataset}, {suite.samples or 'all'}; {suite.max_new_tokens} new tokens, {suite.length}",
            "to build: " + (", ".join(dict.fromkeys(to_build)) or "nothing"),
            "to convert: " + (", ".join(to_convert) or "nothing"),
            f"measuring will take about {readable_duration(measuring_s)} (rough), "
            f"conversions {readable(disk_bytes)} of disk at most",
        ]
        lines += [f"left out: {reason}" for reason in plan.left_out]
        if self._modes.as_json:
            news = {"type": "plan", "cells": [cell.cell for cell in plan.cells], "words": lines}
            sys.stdout.write(json.dumps(news) + "\n")
        else:
            for line in lines:
                self._console.print(line, markup=False, soft_wrap=True)

    def _missing(self, artifact: str, maker: Job, model_plan: ModelPlan) -> bool:
        if model_plan.model is None:
            return True
        folder = self._request.models / model_plan.model.folder / artifact
        return usable_artifact(folder, model_plan.model.digest, recipe_digest(maker.image.folder)) is None

    def _ask(self, plan: Plan, model_plan: ModelPlan) -> None:
        """Asks a person at a terminal before a download; anything else goes ahead."""
        if self._modes.yes or self._modes.as_json or not sys.stdin.isatty() or model_plan.action != "download":
            return
        if not typer.confirm(f"download {model_plan.name} and measure {len(plan.cells)} cells?", default=True):
            raise typer.Exit(EXIT_INTERRUPTED)

    def _finish(self, finished: Finished) -> None:
        """Writes the report and shows the table."""
        from bench_core.report.load import load_run  # noqa: PLC0415  # drawing is not needed before
        from bench_core.report.write import console_table, write_report  # noqa: PLC0415

        paths = write_report(finished.run_folder)
        if self._modes.as_json:
            verdicts = {cell: verdict.model_dump(mode="json") for cell, verdict in finished.verdicts.items()}
            news = {"type": "run_ended", "run": str(finished.run_folder), "verdicts": verdicts}
            sys.stdout.write(json.dumps({**news, "report": str(paths.markdown)}) + "\n")
            return
        self._console.print(console_table(load_run(finished.run_folder)))
        for path in (paths.markdown, paths.page, *paths.figures):
            self._console.print(str(path), markup=False, soft_wrap=True)

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
                    self._console.print(text, markup=False, soft_wrap=True)
        return EXIT_FAILED if failed else EXIT_OK


def _pass_on_signals(execution: Execution) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        execution.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _require_writable(run_folder: Path) -> None:
    """The run's folder can be made, and there is none of that name with cells in it."""
    if (run_folder / layout.RUN_FILE).exists():
        raise BadInput(f"{run_folder} already holds a run", "choose another --run-id")
    place = run_folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or _read_only(place):
        raise BadInput(
            f"results folder {run_folder.parent} cannot be written", "check its owner, or name another by --results"
        )


def _read_only(place: Path) -> bool:
    """Root may write anywhere but on a file system that is read-only or takes no files."""
    return (
        bool(os.statvfs(place).f_flag & os.ST_RDONLY) or place.is_relative_to("/proc") or place.is_relative_to("/sys")
    )


def _sizes(batch_sizes: tuple[int, ...]) -> str:
    return "{" + ",".join(str(size) for size in batch_sizes) + "}"


def _action(plan: ModelPlan) -> str:
    size = f", {readable(plan.bytes_expected)}" if plan.bytes_expected else ""
    words = {
        "present": "present",
        "link": "to be linked",
        "generate": "to be generated",
        "download": "to be downloaded",
    }
    return words[plan.action] + size + (f" ({plan.remark})" if plan.remark else "")
