"""``run.json``: what a run set out to do, and where."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from bench_core.contract.asked.protocol import Length
from bench_core.contract.asked.scenario import MAX_REPEAT, NamedCell
from bench_core.contract.measures.quality import QualityBounds
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.placement import GpuInfo, HostInfo, Placement
from bench_core.contract.records.record import Record
from bench_core.contract.records.workload import WorkloadRef

__all__ = [
    "AloneCell", "ArtifactInfo", "EngineVersion", "GpuInfo", "HostInfo", "ImageInfo", "LauncherName", "PlannedCell",
    "RunRecord", "VisitInfo",
]  # fmt: skip


class PlannedCell(NamedCell):
    """One row to be."""

    cell: str
    label: str
    bits: float | None = Field(
        None, gt=0, le=64, description="of a weight, as the variant names them; not told in older records"
    )
    ranked: bool = Field(True, description="compared with the others; a scripted engine is not")
    harness: bool = Field(False, description="of the scripted engine, for the suite's own error; in no other table")
    reference: int | None = Field(
        None, ge=0, description="0: others' outputs are compared with its; from 1: order in which one stands in for it"
    )


class AloneCell(PlannedCell):
    """A cell of a pool that is measured once more while nothing runs beside it; in no table of the others.

    Attributes:
        beside: the same cell as it was measured beside others.
    """

    beside: str


LauncherName = Literal["docker", "process"]  # ways to start an engine that the driver has


class EngineVersion(Record):
    """Of an image that was made for one version of an engine: of which image of the repository, and the version."""

    image: str
    version: str


class ImageInfo(Record):
    """What a cell of this image really ran in: a Docker image's id, or the digest of a virtual environment's pins.

    Attributes:
        recipe: digest of the files that it is made of; the same on every machine, as an id is not. ``None`` in records
            of before it was kept, and of containers started by hand.
        notes: what its image.yaml tells a reader of the table; empty in records of before it was kept.
    """

    reference: str
    id: str
    recipe: str | None = None
    notes: str = ""


class ArtifactInfo(Record):
    """An artifact that a visit's engines read.

    Attributes:
        converter_digest: of its converter, or of bringing it here; see ``ArtifactRecord``.
        given: where it was taken from, if it was not converted from the model.
        tensors: what its tensors were found to be then, in a few words.
    """

    digest: str
    converter_digest: str = Field(validation_alias=AliasChoices("converter_digest", "recipe"))
    made_by: str
    given: str | None = None
    tensors: str = ""


class AgainCell(Record):
    """A cell that was complete and that somebody asked to measure again.

    Attributes:
        why: the marks that it bore, or how it had failed; ``nothing was marked`` where its name alone was given.
        output_throughput_tok_s: what it had until then; ``None`` of one that had failed.
    """

    cell: str
    why: str
    output_throughput_tok_s: float | None = None


class VisitInfo(Record):
    """One call of the driver that measured cells of a run, on one machine.

    Attributes:
        harness: digest of the suite's own code inside the images.
        images: those of this visit's cells.
        retries: steps of the preparation that were tried again, and how often.
        cells: planned for this visit, in the order of launches; several workers take the longest of each repeat first.
            A cell was measured in the last visit that names it.
        harness_check: cells of the scripted engine, measured before the others for the suite's own error on this
            machine; their repeat is the visit's number. Empty where it was switched off; ``None`` in records of before.
        order_seed: of that order, where the grid is repeated; ``None`` where it is the table's.
        alone: of the cells measured beside others a sample, measured again without them.
        workers: that ran cells side by side; empty where there was one.
        nodes: the hosts of a cluster by name, which ``placement`` of a cell names; ``host`` is the first of them. Empty
            for a visit to one host.
        again: complete cells that this visit was asked to measure again, with what they had before.
    """

    started_utc: str
    bench_version: str
    git_commit: str | None
    launcher: Literal[LauncherName, "standalone"]
    host: HostInfo
    gpus: tuple[GpuInfo, ...]
    harness: str | None = None
    images: dict[str, ImageInfo]
    artifacts: dict[str, ArtifactInfo] = {}
    cells: tuple[str, ...]
    harness_check: tuple[PlannedCell, ...] | None = None
    order_seed: int | None = None
    retries: dict[str, int] = {}
    alone: tuple[AloneCell, ...] = ()
    workers: tuple[Placement, ...] = ()
    nodes: dict[str, HostInfo] = {}
    again: tuple[AgainCell, ...] = ()


class RunRecord(Record):
    """A run's plan and circumstances. ``cells`` is the plan: a cell without a folder was never reached.

    Attributes:
        created_utc, bench_version, git_commit, host: of the first visit.
        gpus: all cards that cells were planned on, each once.
        images: what each image's first cells ran in.
        visits: in order; empty in records of before runs could be resumed.
        quality: what a method must keep of the reference's quality to be ranked.
        repeats: how often the grid is measured; a cell's further repeats are controls of the visits.
    """

    schema_version: Literal[1] = 1
    run_id: str
    created_utc: str
    bench_version: str
    git_commit: str | None
    launcher: Literal[LauncherName, "standalone"]
    device: Literal["cuda", "cpu"]
    host: HostInfo
    gpus: tuple[GpuInfo, ...]
    images: dict[str, ImageInfo]
    model: ModelInfo
    workload: WorkloadRef
    max_new_tokens: int = Field(ge=1)
    length: Length
    cells: tuple[PlannedCell, ...]
    visits: tuple[VisitInfo, ...] = ()
    quality: QualityBounds = Field(default_factory=QualityBounds)
    repeats: int = Field(1, ge=1, le=MAX_REPEAT)
    engine_versions: dict[str, EngineVersion] = Field(
        {}, description="of images that were made for one version of an engine, by their names"
    )

    def engine_of(self, image: str) -> str:
        """The image of the repository that an image of this run is, or is a version of."""
        made = self.engine_versions.get(image)
        return image if made is None else made.image

    @property
    def alone(self) -> tuple[AloneCell, ...]:
        """Of all visits."""
        return tuple(cell for visit in self.visits for cell in visit.alone)

    @property
    def all_visits(self) -> tuple[VisitInfo, ...]:
        """The visits; where none is recorded, the one that the record itself tells of."""
        return self.visits or (
            VisitInfo(
                started_utc=self.created_utc,
                bench_version=self.bench_version,
                git_commit=self.git_commit,
                launcher=self.launcher,
                host=self.host,
                gpus=self.gpus,
                images=self.images,
                cells=tuple(cell.cell for cell in self.cells),
            ),
        )
