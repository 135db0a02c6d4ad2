"""From a command line to cells: finds workload, model and artifact, and checks all before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench_core.contract import layout
from bench_core.contract.adapter import Device
from bench_core.contract.artifact import ArtifactRecord
from bench_core.contract.artifact_form import other_form
from bench_core.contract.artifact_tensors import given_form
from bench_core.contract.cpu_use import GPU_IDLE_CPUS
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.host import available_cores
from bench_core.contract.manifest import Manifest
from bench_core.contract.model import ModelInfo
from bench_core.contract.spec import CellSpec, Length, MeasureProtocol, require_end_of_text
from bench_core.contract.stored_weights import StoredWeights, stored_weights
from bench_core.contract.workload import Prepared, Workload, require_fit, require_vocabulary
from bench_core.worker.nvml import visible_gpus


@dataclass(frozen=True)
class Places:
    """Where things are; the mount points of a container unless told otherwise."""

    image_folder: Path = layout.IMAGE_MOUNT
    data: Path = layout.DATA_MOUNT
    models: Path = layout.MODELS_MOUNT
    results: Path = layout.RESULTS_MOUNT


@dataclass(frozen=True)
class Options:
    """What the command line says; ``None`` and empty mean "the default that works"."""

    variant: str | None
    batch_sizes: tuple[int, ...]
    device: Literal["auto", "cuda", "cpu"]
    threads: int | None
    model_folder: str | None
    artifact: Path | None
    workload: str | None
    max_new_tokens: int
    length: Length
    protocol: MeasureProtocol
    options: dict[str, str]
    direct_batch_sizes: frozenset[int] | None = None
    repeat: int = 1


@dataclass(frozen=True)
class MeasureRequest:
    """Cells of one variant, all that they read, and the folder that they go to."""

    cells: tuple[CellSpec, ...]
    image_folder: Path
    artifact: Path
    workload: Path
    run_folder: Path
    out_of_memory_signs: tuple[str, ...] = ()


def choose_device(wanted: Literal["auto", "cuda", "cpu"], threads: int | None) -> Device:
    """The device: a GPU where there is one and none other is asked for.

    Raises:
        MachineFailure: ``cuda`` is asked for and no GPU answers.
    """
    gpus = [] if wanted == "cpu" else visible_gpus()
    if wanted == "cuda" and not gpus:
        raise MachineFailure(
            "--device cuda: no GPU answers through NVML here", "start the container with --gpus, or use cpu"
        )
    cores = threads or available_cores()
    return Device("cuda", gpus[0].uuid, cores) if gpus else Device("cpu", None, cores)


class Resolver:
    """Finds what a request needs, in one place for measuring, converting and self-checks."""

    def __init__(self, places: Places, options: Options) -> None:
        self.places = places
        self.options = options
        self.manifest = Manifest.load(places.image_folder)
        self.device = choose_device(options.device, options.threads)
        self.variant_name = options.variant or self.manifest.default_variant(self.device.kind)
        declared = self.manifest.options_on(self.device.kind)
        given = {name: declared.read(name, text) for name, text in options.options.items()}
        self.variant = self.manifest.variant(self.variant_name, given, self.device.kind)
        if self.variant_name not in self.manifest.variants_on(self.device.kind):
            known = ", ".join(self.manifest.variants_on(self.device.kind)) or "none"
            raise BadInput(
                f"variant {self.variant_name} of {self.manifest.name} does not run on {self.device.kind}",
                f"variants that do: {known}",
            )

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
        return self.places.data / (self.options.workload or self._prepared().workload)

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

    def _protocol(self, batch_size: int) -> MeasureProtocol:
        protocol, sizes = self.options.protocol, self.options.direct_batch_sizes
        if batch_size != self.options.batch_sizes[0]:
            # One score serves all batch sizes; the first cell is the one that most surely comes to its end.
            protocol = protocol.model_copy(update={"score_texts": 0})
        if self.device.kind == "cuda" and protocol.busy is not None:
            protocol = protocol.model_copy(
                update={"busy": protocol.busy.model_copy(update={"idle_cpus": GPU_IDLE_CPUS})}
            )
        if protocol.direct_batches and self.manifest.direct is None:
            raise BadInput(
                f"image {self.manifest.name} does not call its engine directly", "leave --direct-batches out"
            )
        if sizes is not None and batch_size not in sizes:
            return protocol.model_copy(update={"direct_batches": 0})
        return protocol

    def measure_request(self, run_id: str) -> tuple[MeasureRequest, Workload]:
        """Everything for measuring.

        Raises:
            BadInput: anything missing, damaged or not fitting together.
        """
        model = self.model()
        workload_path = self.workload_path()
        workload = Workload.read(workload_path)
        require_fit(workload, model, self.options.batch_sizes, self.options.max_new_tokens)
        require_end_of_text(self.options.length, model.eos_token_ids, model.name)
        artifact, digest, weights = self.artifact(model)
        cells = tuple(
            CellSpec(
                image=self.manifest.name,
                variant=self.variant_name,
                label=self.manifest.label(self.variant_name),
                bits=self.manifest.bits(self.variant_name),
                batching=self.manifest.batching,
                token_times=self.manifest.token_times,
                ranked=self.manifest.ranked,
                reference=self.manifest.reference_rank(self.variant_name),
                batch_size=batch_size,
                repeat=self.options.repeat,
                device=self.device.kind,
                gpu_uuid=self.device.uuid,
                threads=self.device.threads,
                model=model,
                artifact=self.variant.artifact,
                artifact_digest=digest,
                weights=weights,
                options=dict(self.variant.options),
                workload=workload.reference,
                max_new_tokens=self.options.max_new_tokens,
                length=self.options.length,
                protocol=self._protocol(batch_size),
            )
            for batch_size in self.options.batch_sizes
        )
        run_folder = self.places.results / run_id
        signs = self.manifest.out_of_memory_signs
        return MeasureRequest(cells, self.places.image_folder, artifact, workload_path, run_folder, signs), workload
