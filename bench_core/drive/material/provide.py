"""What must exist before a cell can be measured: its image, and its artifact, made by whichever image makes it.

One engine that cannot be installed, or cannot convert this model, is a row that says so; everything else is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench_core.contract.asked.declaration import as_arguments
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import digest_of_converter, usable_artifact
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_MACHINE, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo, ImageInfo
from bench_core.drive.ask.request import Request
from bench_core.drive.launch.launcher import Ended, Folders, Launch, Launcher, NotInstalled, Target
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.catalogue import Image
from bench_core.drive.plan.estimate import conversion_bytes
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.collect import last_line, stated_cause, write_record
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.progress import Display
from bench_core.prepare.disk import require_free
from bench_core.system.files import write_text
from bench_core.system.locks import Locks

INSTALL, CONVERT = "install", "convert"  # phases of a verdict: of the time before there is a worker


@dataclass(frozen=True)
class Unready:
    """Why the cells of a job cannot be measured.

    Attributes:
        error: as it is raised where nothing but this was asked for; a ``MachineFailure`` is no outcome of any cell.
        verdict: on each cell of the job; of the machine's failure there is none.
        log: what pip, Docker or the converter said last.
    """

    error: BadInput
    verdict: Verdict
    log: str

    @property
    def of_the_machine(self) -> bool:
        """Whether the cells are still to come."""
        return isinstance(self.error, MachineFailure)


class Provision:
    """Installs and converts what one plan needs, and keeps what could not be had."""

    def __init__(
        self,
        request: Request,
        plan: Plan,
        launcher: Launcher,
        gpus: list[GpuInfo],
        display: Display,
        locks: Locks,
        execution: Execution,
    ) -> None:
        self._request = request
        self._plan = plan
        self._launcher = launcher
        self._gpus = gpus
        self._display = display
        self._locks = locks
        self._retries = execution.retries
        self._settle = execution.settle
        self._engines: dict[tuple[str, Target], Unready | ImageInfo] = {}
        self._artifacts: dict[str, Unready] = {}

    @property
    def images(self) -> dict[str, ImageInfo]:
        """Those that measure and are there."""
        measure = {name: found for (name, target), found in self._engines.items() if target == "measure"}
        return {name: found for name, found in measure.items() if isinstance(found, ImageInfo)}

    def unready(self, job: Job) -> Unready | None:
        """Why a job cannot be measured; ``None`` where all of it is there."""
        engine = self._engines.get((job.image.name, "measure"))
        return engine if isinstance(engine, Unready) else self._artifacts.get(job.artifact)

    @property
    def failures(self) -> list[Unready]:
        """Of the jobs, each once."""
        found = [unready for job in self._plan.jobs if (unready := self.unready(job)) is not None]
        return list({id(unready): unready for unready in found}.values())

    def require_all(self) -> None:
        """For who has asked for one thing alone.

        Raises:
            BadInput: something could not be had.
        """
        for unready in self.failures:
            raise unready.error

    def install(self) -> None:
        """Builds or finds every image that measures; one that converts is built by :meth:`convert`, if it must."""
        for image in self._plan.images:
            found = self._engine(image, "measure")
            if isinstance(found, ImageInfo):
                self._display.note(f"image {found.reference} is ready")
        if self._plan.loads:
            self._retries.run("client", partial(self._launcher.ensure_client, self._plan.device, self._display.detail))

    def own_error(self, jobs: Sequence[Job]) -> dict[str, ImageInfo]:
        """Builds or finds the scripted engine's image; nothing, and a note, where that cannot be done: a run does not
        fail for want of what nobody has asked for by name."""
        try:
            return {job.image.name: self._ensure(job.image, "measure") for job in jobs[:1]}
        except BadInput as error:
            self._display.trouble(f"the suite's own error will not be known: {error.cause}")
            return {}

    def convert(self, prepared: Prepared, makers: Mapping[str, Job]) -> None:
        """Makes every artifact that is missing or damaged and that an engine which is there reads, in the image that
        makes it."""
        read = {job.artifact for job in self._plan.jobs if self.unready(job) is None}
        for artifact, maker in makers.items():
            if artifact not in read or _has(prepared, artifact, maker):
                continue
            try:
                with self._locks.converting(prepared.model_folder):
                    if not _has(prepared, artifact, maker):  # another driver may just have made it
                        self._convert(prepared, artifact, maker)
            except MachineFailure as error:  # no room, or no Docker engine
                self._artifacts[artifact] = self._failed(error, CONVERT, maker.image, artifact)

    def write_rows(self, run_folder: Path) -> dict[str, Verdict]:
        """The verdict of every cell whose image or artifact could not be had, written into its folder."""
        verdicts: dict[str, Verdict] = {}
        for job in self._plan.jobs:
            unready = self.unready(job)
            if unready is None or unready.of_the_machine:
                continue
            for cell in job.cells:
                folder = layout.cell_folder(run_folder, cell)
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / layout.LOG_FILE, unready.log)
                write_record(folder / layout.OUTCOME_FILE, unready.verdict)
                verdicts[cell] = unready.verdict
        return verdicts

    def _engine(self, image: Image, target: Target) -> Unready | ImageInfo:
        """An image, or why it is not there; asked for once, since installing takes minutes."""
        if not image.manifest.convert_target:  # one image for both
            target = "measure"
        if (image.name, target) not in self._engines:
            step = partial(self._ensure, image, target)
            try:
                self._engines[image.name, target] = self._retries.run(f"image {image.name}", step)
            except BadInput as error:
                self._engines[image.name, target] = self._failed(error, INSTALL, image)
        return self._engines[image.name, target]

    def _ensure(self, image: Image, target: Target) -> ImageInfo:
        try:
            return self._launcher.ensure(image, target, self._plan.device, self._display.detail)
        finally:
            self._display.step("")

    def _failed(self, error: BadInput, phase: str, image: Image, artifact: str = "") -> Unready:
        log = error.log if isinstance(error, NotInstalled) else f"{error}\n"
        outcome = Outcome.LOAD_FAILED
        evidence = {"image": image.name, **({"artifact": artifact} if artifact else {})}
        verdict = Verdict(outcome=outcome, cause=error.cause, phase=phase, judged_by="driver", evidence=evidence)
        self._display.trouble(f"{error.cause}; everything else goes on" + (f" ({error.hint})" if error.hint else ""))
        return Unready(error, verdict, log)

    def _convert(self, prepared: Prepared, artifact: str, maker: Job) -> None:
        engine = self._engine(maker.image, "convert")
        if isinstance(engine, Unready):
            cause = f"{artifact} could not be made: {engine.error.cause}"
            verdict = engine.verdict.model_copy(
                update={"cause": cause, "evidence": {**engine.verdict.evidence, "artifact": artifact}}
            )
            error = type(engine.error)(cause, engine.error.hint)
            self._artifacts[artifact] = Unready(error, verdict, engine.log)
            return
        needed = conversion_bytes([artifact], prepared.model.weights_bytes)
        require_free(prepared.model_folder, needed, f"the conversion to {artifact}")
        self._display.step(f"convert {artifact}")
        self._display.note(f"converting {prepared.model.name} to {artifact} in {maker.image.name}")
        # The workload goes along for quantisers that calibrate.
        asked = {
            "convert": artifact,
            "variant": maker.variant,
            "workload": prepared.workload_path.relative_to(self._request.data),
            "device": self._plan.device,
            "threads": self._request.suite.threads,
        }
        launch = Launch(
            image=maker.image,
            target="convert",
            arguments=as_arguments(asked),
            folders=Folders(prepared.model_folder, layout.HF_ARTIFACT, model_writable=True, data=self._request.data),
            gpu=self._gpus[0] if self._gpus else None,
            labels={"convert": artifact},
        )
        ended = self._launcher.run(launch, lambda _line: None)
        self._display.step("")
        self._settle(f"the conversion to {artifact}")
        if ended.exit_code == 0:
            self._display.note(last_line(ended.stderr_tail))
            return
        self._display.detail(ended.stderr_tail)
        self._artifacts[artifact] = self._not_made(ended, artifact, maker.image)

    def _not_made(self, ended: Ended, artifact: str, image: Image) -> Unready:
        said = stated_cause(ended.stderr_tail)
        cause = said if said.startswith(f"{artifact} could not be made") else f"{artifact} could not be made: {said}"
        kind = MachineFailure if ended.exit_code == EXIT_MACHINE or ended.engine_lost else BadInput
        unready = self._failed(kind(cause, "its worker.log has the converter's own words"), CONVERT, image, artifact)
        verdict = unready.verdict.model_copy(
            update={
                "outcome": _outcome_of_conversion(ended),
                "exit_code": ended.exit_code,
                "evidence": {**unready.verdict.evidence, "last_line": last_line(ended.stderr_tail)},
            }
        )
        return Unready(unready.error, verdict, ended.stderr_tail)


def _has(prepared: Prepared, artifact: str, maker: Job) -> bool:
    converter_digest = digest_of_converter(maker.image.folder)
    return usable_artifact(prepared.model_folder / artifact, prepared.model.digest, converter_digest) is not None


def _outcome_of_conversion(ended: Ended) -> Outcome:
    """A converter that refuses a model in the contract's own words does not support it; one that raises has failed."""
    if ended.out_of_memory:
        return Outcome.OOM_LOAD
    if ended.exit_code == EXIT_BAD_INPUT:
        return Outcome.UNSUPPORTED
    if ended.never_ran or ended.exit_code in (137, -9, 143, -15):
        return Outcome.KILLED
    return Outcome.LOAD_FAILED
