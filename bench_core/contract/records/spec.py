"""What a cell is to measure (``CellPlan``), and with what was found where it is measured, its ``spec.json``.

A plan is made in one way from what was asked: by the driver, which hands it to a container, and by a worker that was
started without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from bench_core.contract.adapter import Device, Variant
from bench_core.contract.asked.declaration import MayDiffer
from bench_core.contract.asked.manifest import DeviceKind, Manifest, Name
from bench_core.contract.asked.protocol import Length, MeasureOptions, MeasureProtocol, NewTokens, Timeouts
from bench_core.contract.asked.read_manifest import ReadManifest
from bench_core.contract.asked.scenario import NamedCell, Offline, Scenario
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.stored_weights import StoredWeights
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.record import Record, Scalar
from bench_core.contract.records.workload import WorkloadRef
from bench_core.contract.serving.cell import CapacityAsk, ServePlan, ServerFacts


def require_end_of_text(length: Length, eos_token_ids: Sequence[int], model: str) -> None:
    """Refuses ``natural`` for a model that cannot end a text: each would run to the limit, and be called natural.

    Raises:
        BadInput: the model names no end-of-sequence id.
    """
    if length == "natural" and not eos_token_ids:
        raise BadInput(
            f"--length natural, but {model} names no end-of-sequence id: no text would end before the limit",
            "take --length forced, or write eos_token_id into the model's generation_config.json",
        )


class CellPlan(NamedCell):
    """One cell: image x variant x scenario on one model, workload and kind of device; known before it is launched."""

    schema_version: Literal[1] = 1
    image: Name
    variant: Name
    label: str = Field(description="the row's name in tables")
    bits: float | None = Field(
        None, gt=0, le=64, description="of a weight, as the variant names them; not told in older records"
    )
    batching: Literal["native", "sequential"]
    token_times: Literal["live", "engine", "separate", "none"]
    ranked: bool = True
    reference: int | None = Field(None, ge=0, description="0: the reference; from 1: order of those that stand in")
    speculative: bool = Field(False, description="whether its speed depends on how many guessed tokens are right")
    device: DeviceKind
    model: ModelInfo
    artifact: str
    options: dict[str, Scalar]
    workload: WorkloadRef
    max_new_tokens: NewTokens
    length: Length
    protocol: MeasureProtocol
    serve: ServePlan | None = Field(None, description="of a serving cell")


class CellSpec(CellPlan):
    """``spec.json``: a cell as it was measured; its plan, and what only the place of measuring can tell."""

    gpu_uuid: str | None = None
    gpu_uuids: tuple[str, ...] = Field((), description="of a cell on several GPUs: all of them, gpu_uuid first")
    threads: int = Field(ge=1)
    artifact_digest: str | None = Field(description="of the files that the engine read, if any")
    weights: StoredWeights | None = Field(None, description="that the artifact holds; not known in older records")
    server: ServerFacts | None = Field(None, description="of a serving cell: how its server was started and asked")
    placement: Annotated[Placement | None, MayDiffer()] = Field(None, description="where it ran beside other cells")

    @property
    def cards(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that it ran on; none on a CPU."""
        return self.gpu_uuids or (() if self.gpu_uuid is None else (self.gpu_uuid,))

    @property
    def run_on(self) -> Device:
        """As an adapter is told."""
        return Device(self.device, self.gpu_uuid, self.threads, self.cards[1:])


class Assignment(Record):
    """What a driver hands to one container, in one file: cells of one variant, and what they are measured with.

    Attributes:
        workload: the file, below the data folder.
        schedules: of serving cells, by the word of their load: the file, below the data folder.
        capacity: a search that begins with the one cell instead of measuring it.
        threads: CPU threads of the engine; ``None``: all that the container may use, which only it can tell.
        placement: where it runs, where others run beside it.
        manifest: the image's, which need not be read again where the container has the same.
    """

    schema_version: Literal[1] = 1
    cells: tuple[CellPlan, ...] = Field(min_length=1)
    workload: str
    schedules: dict[str, str] = {}
    capacity: CapacityAsk | None = None
    threads: int | None = Field(None, ge=1)
    timeouts: Timeouts
    placement: Placement | None = None
    manifest: ReadManifest | None = None


def image_facts(manifest: Manifest, variant: Variant, gpus: int) -> dict[str, Any]:
    """The fields of a plan that follow from an image, its variant and the number of its GPUs alone."""
    return {
        "image": manifest.name,
        "variant": variant.name,
        "gpus": gpus,
        "label": manifest.label(variant.name, gpus),
        "bits": manifest.bits(variant.name),
        "batching": manifest.batching,
        "token_times": manifest.token_times,
        "ranked": manifest.ranked,
        "reference": manifest.reference_rank(variant.name),
        "speculative": manifest.variants[variant.name].speculative,
        "artifact": variant.artifact,
        "options": dict(variant.options),
    }


def plan_cells(
    options: MeasureOptions,
    manifest: Manifest,
    variant: Variant,
    device: DeviceKind,
    scenarios: Sequence[Scenario],
    model: ModelInfo,
    workload: WorkloadRef,
    repeat: int = 1,
    schedules: Mapping[str, str] | None = None,
) -> tuple[CellPlan, ...]:
    """The cells of one launch: one variant, loaded once, in these scenarios.

    Args:
        variant: with the engine's options as they are here; see ``Manifest.variant``.
        repeat: which measurement of these cells it is.
        schedules: of serving cells, by the word of their load: the digest.

    Raises:
        BadInput: closed batches of a variant that is its server's alone.
    """
    if not manifest.variants[variant.name].closed_batches and any(isinstance(one, Offline) for one in scenarios):
        raise BadInput(
            f"{manifest.name}.{variant.name} is its server's alone: it has no closed batches",
            "name a load: --concurrency 1,16, for example",
        )
    if manifest.direct is None:
        options = options.model_copy(update={"direct_batches": 0})
    return tuple(
        CellPlan(
            scenario=scenario,
            repeat=repeat,
            device=device,
            model=model,
            workload=workload,
            max_new_tokens=options.max_new_tokens,
            length=options.length,
            protocol=options.protocol_of(scenario, device, first=number == 0),
            serve=_serve_plan(options, scenario, workload, schedules or {}),
            **image_facts(manifest, variant, options.gpus_per_cell),
        )
        for number, scenario in enumerate(scenarios)
    )


def _serve_plan(
    options: MeasureOptions, scenario: Scenario, workload: WorkloadRef, schedules: Mapping[str, str]
) -> ServePlan | None:
    if isinstance(scenario, Offline):
        return None
    cached = bool(workload.shared_prefix_tokens)
    return ServePlan(protocol=options.serve_protocol, schedule=schedules[scenario.word], prefix_cache=cached)
