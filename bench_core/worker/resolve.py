"""From a command line, or a driver's assignment, to cells: finds workload, model and artifact, and checks all of it
before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from bench_core.contract.adapter import Device
from bench_core.contract.asked.by_hand import ByHand, LoadOptions
from bench_core.contract.asked.declaration import Said
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.protocol import Timeouts
from bench_core.contract.asked.scenario import BatchSize, Offline, Scenario
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.models.artifact_tensors import given_form
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.stored_weights import StoredWeights, stored_weights
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.artifact_form import other_form
from bench_core.contract.records.spec import (
    Assignment,
    CellPlan,
    CellSpec,
    image_facts,
    plan_cells,
    require_end_of_text,
)
from bench_core.contract.records.workload import Prepared, Workload, WorkloadRef, require_fit, require_vocabulary
from bench_core.contract.serving.sidecar import ServeAsk
from bench_core.system.machine import available_cores
from bench_core.system.nvml import given_gpus


@dataclass(frozen=True)
class Places:
    """Where things are; the mount points of a container unless told otherwise."""

    image_folder: Path = layout.IMAGE_MOUNT
    data: Path = layout.DATA_MOUNT
    models: Path = layout.MODELS_MOUNT
    results: Path = layout.RESULTS_MOUNT


class Options(ByHand):
    """What to measure in closed batches, for a container that is started by hand."""

    batch_sizes: Annotated[tuple[BatchSize, ...], Said(flag="batch-size", also=("batch-sizes",))] = Field(
        (1,), min_length=1, description="prompts in one generate call; a cell each"
    )

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(sizes))


@dataclass(frozen=True)
class MeasureRequest:
    """Cells of one variant, all that they read, and the folder that they go to."""

    cells: tuple[CellSpec, ...]
    image_folder: Path
    artifact: Path
    workload: Path
    run_folder: Path
    out_of_memory_signs: tuple[str, ...] = ()


def choose_device(wanted: Literal["auto", "cuda", "cpu"], threads: int | None, count: int = 1) -> Device:
    """The device: a GPU where there is one and none other is asked for.

    Args:
        count: GPUs that the model is to be split over.

    Raises:
        BadInput: several are asked for of a CPU.
        MachineFailure: ``cuda`` is asked for and no GPU answers, or fewer than asked for.
    """
    gpus = [] if wanted == "cpu" else given_gpus()
    if count > 1 and not gpus and wanted != "cuda":
        raise BadInput(f"--gpus-per-cell {count}, but the cells are on the CPU", "leave it out, or use --device cuda")
    if count > len(gpus) > 0:
        raise MachineFailure(
            f"--gpus-per-cell {count}, but {len(gpus)} GPUs are here", "start the container with as many GPUs"
        )
    if wanted == "cuda" and not gpus:
        raise MachineFailure(
            "--device cuda: no GPU answers through NVML here", "start the container with --gpus, or use cpu"
        )
    cores = threads or available_cores()
    if not gpus:
        return Device("cpu", None, cores)
    return Device("cuda", gpus[0].uuid, cores, tuple(gpu.uuid for gpu in gpus[1:count]))


class Resolver:
    """Finds what a request needs, in one place for measuring, serving, converting and self-checks.

    Args:
        assignment: what a driver has planned; without one, the options say what is measured.
        ask: of a client that was started by hand, which the options then are of.
    """

    def __init__(
        self,
        places: Places,
        options: Options | LoadOptions,
        assignment: Assignment | None = None,
        ask: ServeAsk | None = None,
    ) -> None:
        self.places = places
        self.options = options
        self.assignment = assignment
        self.ask = ask
        self.manifest = Manifest.load(places.image_folder)
        planned = assignment.cells[0] if assignment is not None else None
        gpus = planned.gpus if planned else options.gpus_per_cell
        self.device = choose_device(planned.device if planned else options.device, self._threads, gpus)
        kind = self.device.kind
        self.variant_name = (planned.variant if planned else options.variant) or self.manifest.default_variant(kind)
        declared = self.manifest.options_on(kind)
        read = {name: declared.read(name, text) for name, text in options.options.items()}
        self.variant = self.manifest.variant(self.variant_name, planned.options if planned else read, kind)
        if self.variant_name not in self.manifest.variants_on(kind):
            known = ", ".join(self.manifest.variants_on(kind)) or "none"
            raise BadInput(
                f"variant {self.variant_name} of {self.manifest.name} does not run on {kind}",
                f"variants that do: {known}",
            )
        if gpus > 1 and (reason := self.manifest.why_not_split(self.variant_name)):
            raise BadInput(reason, "see split: in image.yaml")

    @property
    def _threads(self) -> int | None:
        return self.assignment.threads if self.assignment is not None else self.options.threads

    @property
    def timeouts(self) -> Timeouts:
        """Of the cells to be measured."""
        return self.assignment.timeouts if self.assignment is not None else self.options.timeouts

    def _prepared(self) -> Prepared:
        path = self.places.data / layout.PREPARED_FILE
        if not path.exists():
            raise BadInput(
                f"nothing is prepared: there is no {path}",
                "run `python -m bench_core.prepare` first, or name --workload and --model-folder",
            )
        return Prepared.read(path)

    @property
    def model_path(self) -> Path:
        """The model's folder."""
        return self.places.models / (self.options.model_folder or self._prepared().model_folder)

    def model(self) -> ModelInfo:
        """The model's facts.

        Raises:
            BadInput: no such model folder.
        """
        return ModelInfo.read(self.model_path / layout.MODEL_FILE)

    def workload_path(self) -> Path:
        """The workload's file."""
        named = self.assignment.workload if self.assignment is not None else self.options.workload
        return self.places.data / (named or self._prepared().workload)

    def calibration(self, model: ModelInfo) -> tuple[tuple[int, ...], ...]:
        """What a quantiser may look at: the prompts of the workload named, or of the one prepared last for this model.

        Raises:
            BadInput: that workload is missing, damaged or made with another tokenizer.
        """
        if self.options.workload is None:
            if not (self.places.data / layout.PREPARED_FILE).exists():
                return ()
            if self._prepared().model_folder != self.model_path.name:
                return ()
        workload = Workload.read(self.workload_path())
        require_vocabulary(workload, model)
        return workload.prompts

    def artifact(self, model: ModelInfo) -> tuple[Path, str | None, StoredWeights | None]:
        """Folder, digest and weights of what the engine will read.

        Raises:
            BadInput: missing, damaged, or made from another model.
        """
        name = self.variant.artifact
        if name == layout.NO_ARTIFACT:
            return self.model_path, None, None
        folder = self.options.artifact or self.model_path / name
        hint = f"make it first: --convert {name} in the image that makes it"
        try:
            record = ArtifactRecord.read(folder / layout.ARTIFACT_FILE)
        except BadInput as error:
            raise BadInput(f"artifact {name} of {model.name} is missing: {error.cause}", hint) from error
        if record.source_digest != model.digest and self.options.artifact is None:
            raise BadInput(f"artifact {name} was made from another model", hint)
        damage = record.damage(folder)
        if damage is not None:
            raise BadInput(f"artifact {name} is damaged: {damage}", hint)
        form = other_form(folder, name)
        if form is not None:
            raise BadInput(f"artifact {name} is {form}", "name another variant or artifact")
        if record.given is not None:
            _, problem = given_form(folder, name, [file.path for file in record.files])
            if problem:
                raise BadInput(f"artifact {name} is not what its name says: {problem}", "name another artifact")
        return folder, record.digest, stored_weights(folder, record)

    @property
    def _scenarios(self) -> tuple[Scenario, ...]:
        """That the options ask for."""
        if isinstance(self.options, LoadOptions):
            return self.options.loads
        return tuple(Offline(batch_size=size) for size in self.options.batch_sizes)

    def _planned(self, model: ModelInfo, workload: WorkloadRef) -> tuple[CellPlan, ...]:
        """The cells: the driver's, which must fit what is here, or those that the options ask for.

        Raises:
            BadInput: a direct call is asked for and the image has none.
            MachineFailure: the driver's plan is of another image, model or workload: nothing that a cell did.
        """
        if self.assignment is None:
            if self.options.direct_batches and self.manifest.direct is None:
                raise BadInput(
                    f"image {self.manifest.name} does not call its engine directly", "leave --direct-batches out"
                )
            kind, repeat = self.device.kind, self.options.repeat
            schedules = self.ask.schedules if self.ask is not None else None
            return plan_cells(
                self.options, self.manifest, self.variant, kind, self._scenarios, model, workload, repeat, schedules
            )
        here = {**image_facts(self.manifest, self.variant, self.device.gpus), "device": self.device.kind}
        for cell in self.assignment.cells:
            other = [name for name, value in here.items() if getattr(cell, name) != value]
            other += ["model"] if cell.model.digest != model.digest else []
            other += [] if cell.workload.agrees(workload) else ["workload"]
            if other:
                raise MachineFailure(
                    f"{cell.cell_id} was planned with another {other[0]} than there is here",
                    "something was changed since the run began: --resume it",
                )
        return self.assignment.cells

    def measure_request(self, run_id: str) -> tuple[MeasureRequest, Workload]:
        """Everything for measuring.

        Raises:
            BadInput: anything missing, damaged or not fitting together.
            MachineFailure: it is not what a driver has planned.
        """
        model = self.model()
        workload_path = self.workload_path()
        traced = self.ask.traced if self.ask is not None else None
        workload = traced or Workload.read(workload_path)
        planned = self._planned(model, workload.reference)
        require_fit(
            workload, model, [cell.batch_size for cell in planned if cell.load is None], planned[0].max_new_tokens
        )
        require_end_of_text(planned[0].length, model.eos_token_ids, model.name)
        artifact, digest, weights = self.artifact(model)
        found = {
            "gpu_uuid": self.device.uuid, "threads": self.device.threads,
            "gpu_uuids": (self.device.uuid, *self.device.others) if self.device.others else (),
            "artifact_digest": digest, "weights": weights,
            "placement": self.assignment.placement if self.assignment is not None else None,
        }  # fmt: skip
        cells = tuple(CellSpec.model_validate({**dict(plan), **found}) for plan in planned)
        run_folder = self.places.results / run_id
        signs = self.manifest.out_of_memory_signs
        return MeasureRequest(cells, self.places.image_folder, artifact, workload_path, run_folder, signs), workload
