"""``run.json``: what a run set out to do, and where."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench_core.contract.model import ModelInfo
from bench_core.contract.record import Record
from bench_core.contract.spec import Length
from bench_core.contract.workload import WorkloadRef


class PlannedCell(Record):
    """One row to be."""

    cell: str
    image: str
    variant: str
    batch_size: int
    label: str
    ranked: bool = Field(True, description="compared with the others; a scripted engine is not")


class HostInfo(Record):
    """The machine that a run was made on."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str


class GpuInfo(Record):
    """One GPU, as NVML names it."""

    uuid: str
    name: str
    memory_bytes: int
    driver_version: str


class ImageInfo(Record):
    """What a cell of this image really ran in: a Docker image's id, or the digest of a virtual environment's pins."""

    reference: str
    id: str


class RunRecord(Record):
    """A run's plan and circumstances. ``cells`` is the plan: a cell without a folder was never reached."""

    schema_version: Literal[1] = 1
    run_id: str
    created_utc: str
    bench_version: str
    git_commit: str | None
    launcher: Literal["docker", "process", "standalone"]
    device: Literal["cuda", "cpu"]
    host: HostInfo
    gpus: tuple[GpuInfo, ...]
    images: dict[str, ImageInfo]
    model: ModelInfo
    workload: WorkloadRef
    max_new_tokens: int = Field(ge=1)
    length: Length
    cells: tuple[PlannedCell, ...]
