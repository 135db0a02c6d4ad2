"""Schedules of cells under load: what is sent and when, made once before the cells, kept with the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.records import layout
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.schedule import Schedule, make_schedule
from bench_core.drive.ask.request import Suite
from bench_core.system.files import write_file


@dataclass(frozen=True)
class PlacedSchedule:
    """A schedule, and its file below the data folder."""

    schedule: Schedule
    path: Path


def place_schedules(
    loads: tuple[Serve, ...], suite: Suite, prompts: int, trace: Schedule | None, data: Path, run_folder: Path
) -> dict[str, PlacedSchedule]:
    """Of each load point, by its word; its file below the data folder, for containers, and in the run, for ever.

    Args:
        prompts: of the workload.
        trace: when the requests of a recorded load are sent.
    """
    placed: dict[str, PlacedSchedule] = {}
    for load in loads:
        schedule = trace if load.load == "trace" else None
        schedule = schedule or make_schedule(load, suite.arrival_seed, prompts, suite.max_new_tokens, suite.horizon_s)
        packed = schedule.packed()
        path = data / layout.SCHEDULES_FOLDER / f"{load.word}-{schedule.digest[:16]}.json.gz"
        for place in (path, run_folder / layout.SCHEDULES_FOLDER / f"{load.word}.json.gz"):
            if not place.is_file() or place.read_bytes() != packed:
                write_file(place, packed)
        placed[load.word] = PlacedSchedule(schedule, path)
    return placed
