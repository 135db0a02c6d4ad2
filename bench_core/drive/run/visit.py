"""What a visit writes into a run's folder before it measures: itself, the cells that it adds, and room for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from bench_core import __version__
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.digest import own_code_sha256
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import AgainCell, AloneCell, ArtifactInfo, GpuInfo, RunRecord, VisitInfo
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.commit import git_commit
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.collect import set_aside, write_record
from bench_core.prepare.disk import nearest_there
from bench_core.system.files import write_file
from bench_core.system.processor import this_host

LATEST = "latest"


def run_id_now(title: str) -> str:
    """A new run's name: time in UTC, and the suite's name where it has one."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dt%H%M%Sz")
    suffix = layout.slug(title) if title else ""
    return f"{stamp}-{suffix}"[:64].rstrip("-._") if suffix else stamp


def visit_info(
    plan: Plan,
    launcher: Launcher,
    gpus: Iterable[GpuInfo],
    workers: Iterable[Placement] = (),
    again: Iterable[AgainCell] = (),
) -> VisitInfo:
    """This call, on this machine, before anything is installed or converted for it."""
    return VisitInfo(
        started_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bench_version=__version__,
        git_commit=git_commit(),
        launcher=launcher.name,
        host=this_host(),
        gpus=tuple(gpus),
        harness=own_code_sha256(),
        images={},
        artifacts={},
        cells=plan.to_measure,
        harness_check=plan.own_error_cells,
        order_seed=plan.order_seed if plan.repeats > 1 else None,
        alone=tuple(AloneCell(**dict(job.planned()[0]), beside=beside) for job, beside in plan.alone),
        workers=tuple(workers),
        again=tuple(one for one in again if one.cell in plan.to_measure),
    )


def artifacts_read(jobs: Iterable[Job], prepared: Prepared) -> dict[str, ArtifactInfo]:
    """What these jobs read beyond the model itself.

    Raises:
        BadInput: an artifact is not there.
    """
    names = {job.artifact for job in jobs} - {layout.NO_ARTIFACT, layout.HF_ARTIFACT}
    return {name: _artifact(prepared.model_folder / name) for name in sorted(names)}


def _artifact(folder: Path) -> ArtifactInfo:
    record = ArtifactRecord.read(folder / layout.ARTIFACT_FILE)
    return ArtifactInfo(
        digest=record.digest,
        converter_digest=record.converter_digest,
        made_by=record.made_by,
        given=record.given,
        tensors=record.facts.get("tensors", ""),
    )


def new_record(run_id: str, suite: Suite, plan: Plan, visit: VisitInfo, prepared: Prepared) -> RunRecord:
    """A run at its first visit."""
    return RunRecord(
        run_id=run_id,
        created_utc=visit.started_utc,
        bench_version=visit.bench_version,
        git_commit=visit.git_commit,
        launcher=visit.launcher,
        device=plan.device,
        host=visit.host,
        gpus=visit.gpus,
        images=visit.images,
        model=prepared.model,
        workload=prepared.workload.reference,
        max_new_tokens=suite.max_new_tokens,
        length=suite.length,
        cells=plan.cells,
        visits=(visit,),
        quality=suite.quality,
        repeats=plan.repeats,
        engine_versions=plan.engine_versions,
    )


def extended_record(record: RunRecord, plan: Plan, visit: VisitInfo) -> RunRecord:
    """The same run with one more visit: its new cells stand behind those that were planned before."""
    cells = {cell.cell: cell for cell in (*plan.cells, *record.cells)}
    order = [cell.cell for cell in (*record.cells, *plan.cells)]
    cards = {gpu.uuid: gpu for gpu in (*visit.gpus, *record.gpus)}
    known = [gpu.uuid for gpu in (*record.gpus, *visit.gpus)]
    return record.model_copy(
        update={
            "cells": tuple(cells[name] for name in dict.fromkeys(order)),
            "gpus": tuple(cards[uuid] for uuid in dict.fromkeys(known)),
            "images": {**record.images, **visit.images},
            "visits": (*record.all_visits, visit),
            "repeats": max(record.repeats, plan.repeats),
            "engine_versions": {**record.engine_versions, **plan.engine_versions},
        }
    )


def clear_half_written(run_folder: Path) -> None:
    """Removes what a driver that was killed left of the files that it was just writing, beside the cells.

    For the driver that holds the run: all that it writes has a temporary name first, with a dot in front.
    """
    for folder in (run_folder, run_folder / layout.FIGURES_FOLDER):
        for leftover in folder.glob(".*.*"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


def point_latest(run_folder: Path) -> Path | None:
    """Lets the link ``latest`` beside a run lead to it.

    ``None`` where that cannot be: a run or a folder of that name is there, or the file system takes no links.
    """
    link = run_folder.parent / LATEST
    if run_folder.name == LATEST or (link.exists() and not link.is_symlink()):
        return None
    temporary = link.with_name(f".{LATEST}-{os.getpid()}")
    try:
        temporary.symlink_to(run_folder.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
        return None
    return link


def put_beside(run_folder: Path, suite: Suite) -> None:
    """Keeps the published figures that the suite names, if any, with the run."""
    if suite.beside is not None:
        write_file(run_folder / layout.BESIDE_FILE, suite.beside.read_bytes())


def begin(run_folder: Path, record: RunRecord, suite: Suite, workload: Workload) -> None:
    """Makes a run's folder ready for the cells of its last visit.

    What an earlier visit left of them is set aside, never mixed with what comes. Killed in between, such a cell is
    one that was not reached; a complete cell is not touched.
    """
    (run_folder / layout.CELLS_FOLDER).mkdir(parents=True, exist_ok=True)
    clear_half_written(run_folder)
    visit = record.visits[-1]
    set_aside(run_folder, *visit.cells, *(planned.cell for planned in visit.harness_check or ()))
    put_beside(run_folder, suite)
    write_file(run_folder / layout.WORKLOAD_FILE, workload.packed())
    write_record(run_folder / layout.SUITE_FILE, suite)
    write_record(run_folder / layout.RUN_FILE, record)


def require_writable(run_folder: Path, *, resumed: bool) -> None:
    """The run's folder can be made, and there is none of that name with cells in it unless it is resumed.

    Raises:
        BadInput: neither is so.
    """
    if not resumed and (run_folder / layout.RUN_FILE).exists():
        raise BadInput(f"{run_folder} already holds a run", "choose another --run-id, or --resume it")
    place = nearest_there(run_folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or _read_only(place):
        raise BadInput(
            f"results folder {run_folder.parent} cannot be written", "check its owner, or name another by --results"
        )


def _read_only(place: Path) -> bool:
    """Root may write anywhere but on a file system that is read-only or takes no files."""
    return (
        bool(os.statvfs(place).f_flag & os.ST_RDONLY) or place.is_relative_to("/proc") or place.is_relative_to("/sys")
    )
