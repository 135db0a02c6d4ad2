"""What measuring needs, once it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import usable_artifact
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.schedule import Schedule
from bench_core.drive.plan.plan import Job


@dataclass
class Prepared:
    """What measuring needs: a model, a workload, and where they are; of a recorded load when its requests are sent."""

    model: ModelInfo
    model_folder: Path
    workload: Workload
    workload_path: Path
    trace: Schedule | None = None


def lacks(prepared: Prepared, job: Job) -> bool:
    """Whether model, workload or artifact are not there any more as they were made ready for a job's boxes."""
    try:
        digests = (
            ModelInfo.read(prepared.model_folder / layout.MODEL_FILE).digest,
            Workload.read(prepared.workload_path).digest,
        )
    except BadInput:
        return True
    if digests != (prepared.model.digest, prepared.workload.digest):
        return True
    artifact = prepared.model_folder / job.artifact
    return job.artifact != layout.NO_ARTIFACT and usable_artifact(artifact, prepared.model.digest, None) is None
