"""``run.json`` of a container that was started without the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bench_core import __version__
from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records import layout
from bench_core.contract.records.run import ImageInfo, PlannedCell, RunRecord
from bench_core.system.machine import host_info
from bench_core.system.nvml import given_gpus
from bench_core.worker.engine.clock import utc_now
from bench_core.worker.resolve import MeasureRequest


def standalone_record(
    run_id: str, request: MeasureRequest, device: Literal["cuda", "cpu"], notes: str = ""
) -> RunRecord:
    """What the driver would have written, as far as a container can know it: neither commit nor image id.

    Args:
        notes: of the image's manifest.
    """
    first = request.cells[0]
    return RunRecord(
        run_id=run_id,
        created_utc=utc_now(),
        bench_version=__version__,
        git_commit=None,
        launcher="standalone",
        device=device,
        host=host_info(),
        gpus=tuple(given_gpus()) if device == "cuda" else (),
        images={first.image: ImageInfo(reference=first.image, id="unknown to the container", notes=notes)},
        model=first.model,
        workload=first.workload,
        max_new_tokens=first.max_new_tokens,
        length=first.length,
        cells=tuple(
            PlannedCell(
                cell=spec.cell_id,
                image=spec.image,
                variant=spec.variant,
                scenario=spec.scenario,
                repeat=spec.repeat,
                gpus=spec.gpus,
                label=spec.label,
                bits=spec.bits,
                ranked=spec.ranked,
                reference=spec.reference,
            )
            for spec in request.cells
        ),
    )


def number_of(folder: Path) -> str:
    """A cell's throughput in words.

    Raises:
        BadInput: it has no result.
    """
    metrics = CellResult.read(folder / layout.RESULT_FILE).metrics
    return f"{metrics.output_throughput_tok_s:.4g} token/s over {metrics.batches} batches"
