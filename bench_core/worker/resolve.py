"""From a command line, or a driver's assignment, to cells: finds workload, model and artifact, and checks all of it
before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bench_core.contract.adapter import Device
from bench_core.contract.asked.manifest import DeviceKind, Manifest
from bench_core.contract.asked.protocol import Timeouts
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.stored_weights import StoredWeights, stored_weights
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.artifact_form import other_form
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.record import Scalar
from bench_core.contract.records.spec import (
    Assignment,
    CellPlan,
    CellSpec,
    image_facts,
    require_end_of_text,
)
from bench_core.contract.records.workload import Prepared, Workload, WorkloadRef, require_fit, require_vocabulary
from bench_core.system.machine import available_cores
from bench_core.system.nvml import given_gpus


@dataclass(frozen=True)
class Places:
    """Where things are; the mount points of a container unless told otherwise."""

    image_folder: Path = layout.IMAGE_MOUNT
    data: Path = layout.DATA_MOUNT
    models: Path = layout.MODELS_MOUNT
    results: Path = layout.RESULTS_MOUNT


@dataclass(frozen=True)
class MeasureRequest:
    """Cells of one variant, all that they read, and the folder that they go to.

    Attributes:
        searched: other concurrencies than that of the one cell follow, on the same server.
    """

    cells: tuple[CellSpec, ...]
    image_folder: Path
    artifact: Path
    workload: Path
    run_folder: Path
    out_of_memory_signs: tuple[str, ...] = ()
    searched: bool = False

    @property
    def at_once(self) -> frozenset[int | None]:
        """Under load: requests in flight, of each load point that its server answers; ``None``: nobody knows it."""
        loads = (cell.load for cell in self.cells)
        known = frozenset(load.concurrency for load in loads if load is not None)
        return known | {None} if self.searched else known


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


class Whereabouts(Protocol):
    """Of one launch: which model's folder, and an artifact that is read instead of the model's own."""

    @property
    def model_folder(self) -> str | None: ...
    @property
    def artifact(self) -> Path | None: ...


class Resolver:
    """Finds what a request needs, in one place for measuring, serving, converting and self-checks.

    Whoever plans says what is asked for: a driver (:class:`Planned`), or a person, ``worker/by_hand.py``.

    Args:
        device, threads, gpus: that are asked for.
        variant: ``None``: the image's default for the device.
    """

    def __init__(
        self,
        places: Places,
        where: Whereabouts,
        device: Literal["auto", "cuda", "cpu"],
        threads: int | None,
        gpus: int,
        variant: str | None,
    ) -> None:
        self.places = places
        self.where = where
        self.manifest = Manifest.load(places.image_folder)
        self.device = choose_device(device, threads, gpus)
        kind = self.device.kind
        self.variant_name = variant or self.manifest.default_variant(kind)
        self.variant = self.manifest.variant(self.variant_name, self._options(kind), kind)
        if self.variant_name not in self.manifest.variants_on(kind):
            known = ", ".join(self.manifest.variants_on(kind)) or "none"
            raise BadInput(
                f"variant {self.variant_name} of {self.manifest.name} does not run on {kind}",
                f"variants that do: {known}",
            )
        if gpus > 1 and (reason := self.manifest.why_not_split(self.variant_name)):
            raise BadInput(reason, "see split: in image.yaml")

    def _options(self, kind: DeviceKind) -> Mapping[str, Scalar]:
        """Of the engine, instead of the variant's."""
        raise NotImplementedError

    @property
    def timeouts(self) -> Timeouts:
        """Of the cells to be measured."""
        raise NotImplementedError

    def workload_path(self) -> Path:
        """The workload's file."""
        raise NotImplementedError

    def _plan(self, model: ModelInfo, workload: WorkloadRef) -> tuple[CellPlan, ...]:
        """The cells.

        Raises:
            BadInput, MachineFailure: they cannot be measured here.
        """
        raise NotImplementedError

    def _workload(self) -> Workload:
        return Workload.read(self.workload_path())

    @property
    def _names_workload(self) -> bool:
        """Whether the workload is not just the one that was prepared last."""
        return True

    @property
    def searched(self) -> bool:
        """See ``MeasureRequest``: nothing is searched by hand."""
        return False

    @property
    def placement(self) -> Placement | None:
        """Where the cells run, where others run beside them."""
        return None

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
        return self.places.models / (self.where.model_folder or self._prepared().model_folder)

    def model(self) -> ModelInfo:
        """The model's facts.

        Raises:
            BadInput: no such model folder.
        """
        return ModelInfo.read(self.model_path / layout.MODEL_FILE)

    def calibration(self, model: ModelInfo) -> tuple[tuple[int, ...], ...]:
        """What a quantiser may look at: the prompts of the workload named, or of the one prepared last for this model.

        Raises:
            BadInput: that workload is missing, damaged or made with another tokenizer.
        """
        if not self._names_workload:
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
        folder = self.where.artifact or self.model_path / name
        hint = f"make it first: --convert {name} in the image that makes it"
        try:
            record = ArtifactRecord.read(folder / layout.ARTIFACT_FILE)
        except BadInput as error:
            raise BadInput(f"artifact {name} of {model.name} is missing: {error.cause}", hint) from error
        if record.source_digest != model.digest and self.where.artifact is None:
            raise BadInput(f"artifact {name} was made from another model", hint)
        damage = record.damage(folder)
        if damage is not None:
            raise BadInput(f"artifact {name} is damaged: {damage}", hint)
        form = other_form(folder, name)
        if form is not None:
            raise BadInput(f"artifact {name} is {form}", "name another variant or artifact")
        if record.given is not None:
            from bench_core.contract.models.artifact_tensors import given_form  # noqa: PLC0415  # a person's own alone

            _, problem = given_form(folder, name, [file.path for file in record.files])
            if problem:
                raise BadInput(f"artifact {name} is not what its name says: {problem}", "name another artifact")
        return folder, record.digest, stored_weights(folder, record)

    def measure_request(self, run_id: str) -> tuple[MeasureRequest, Workload]:
        """Everything for measuring.

        Raises:
            BadInput: anything missing, damaged or not fitting together.
            MachineFailure: it is not what a driver has planned.
        """
        model = self.model()
        workload = self._workload()
        planned = self._plan(model, workload.reference)
        require_fit(
            workload, model, [cell.batch_size for cell in planned if cell.load is None], planned[0].max_new_tokens
        )
        require_end_of_text(planned[0].length, model.eos_token_ids, model.name)
        artifact, digest, weights = self.artifact(model)
        found = {
            "gpu_uuid": self.device.uuid, "threads": self.device.threads,
            "gpu_uuids": (self.device.uuid, *self.device.others) if self.device.others else (),
            "artifact_digest": digest, "weights": weights,
            "placement": self.placement,
        }  # fmt: skip
        cells = tuple(CellSpec.model_validate({**dict(plan), **found}) for plan in planned)
        run_folder = self.places.results / run_id
        signs = self.manifest.out_of_memory_signs
        return MeasureRequest(
            cells, self.places.image_folder, artifact, self.workload_path(), run_folder, signs, self.searched
        ), workload


class Planned(Resolver):
    """Of what a driver has planned, which must fit what is here."""

    def __init__(self, places: Places, where: Whereabouts, assignment: Assignment) -> None:
        self.assignment = assignment
        first = assignment.cells[0]
        if assignment.manifest is not None:
            assignment.manifest.keep()
        super().__init__(places, where, first.device, assignment.threads, first.gpus, first.variant)

    def _options(self, kind: DeviceKind) -> Mapping[str, Scalar]:  # noqa: ARG002  # planned for it
        return self.assignment.cells[0].options

    @property
    def timeouts(self) -> Timeouts:
        """The driver's."""
        return self.assignment.timeouts

    @property
    def placement(self) -> Placement | None:
        """The driver's."""
        return self.assignment.placement

    @property
    def searched(self) -> bool:
        """Whether a search varies the concurrency."""
        capacity = self.assignment.capacity
        return capacity is not None and capacity.varied == "concurrency"

    def workload_path(self) -> Path:
        """The workload's file."""
        return self.places.data / self.assignment.workload

    def _plan(self, model: ModelInfo, workload: WorkloadRef) -> tuple[CellPlan, ...]:
        """
        Raises:
            MachineFailure: the plan is of another image, model or workload: nothing that a cell did.
        """
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
