"""Columns that say of each cell which run, machine, engine and workload it is of; the same for cells of any kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bench_core.contract.records.run import GpuInfo, ImageInfo, VisitInfo
from bench_core.report.cell import Cell
from bench_core.report.column import Column
from bench_core.report.conditions import engine_version
from bench_core.report.served import Served
from bench_core.runs.view import Row

VERSION = 1  # of the export's schema: a column that changes its meaning, its type or its name makes it another

Line = Cell | Served


def _schema_version(_line: Line) -> int:
    return VERSION


def _scenario(line: Line) -> str:
    return line.row.planned.scenario.kind


def _point(line: Line) -> str:
    return line.row.planned.scenario.word


def _visit(line: Line) -> VisitInfo | None:
    number = line.view.visit_of(line.row)
    return line.view.record.all_visits[number - 1] if number else None


def card_of(line: Line) -> GpuInfo | None:
    """The GPU that measured a cell; of one that was not reached the run's, where it has one kind."""
    record, uuid = line.view.record, line.row.spec.gpu_uuid if line.row.spec else None
    cards = [*record.gpus, *(gpu for visit in record.all_visits for gpu in visit.gpus)]
    if uuid is not None:
        return next((gpu for gpu in cards if gpu.uuid == uuid), None)
    return cards[0] if len({(gpu.name, gpu.driver_version) for gpu in cards}) == 1 else None


def _gpu(line: Line) -> str | None:
    card = card_of(line)
    return card.name if card else None


def _gpu_memory(line: Line) -> int | None:
    card = card_of(line)
    return card.memory_bytes if card else None


def _driver(line: Line) -> str | None:
    card = card_of(line)
    return card.driver_version if card else None


def _host(read: Callable[[Any], str | int]) -> Callable[[Line], Any]:
    return lambda line: read((_visit(line) or line.view.record.all_visits[0]).host)


def _cpu(line: Line) -> str:
    return str(_host(lambda host: host.cpu)(line))


def _system(line: Line) -> str:
    return str(_host(lambda host: host.system)(line))


def versions_of(line: Line) -> dict[str, str]:
    """Versions of the image's packages as the cell told them, the engine first; empty for a cell without numbers."""
    return line.row.result.versions if line.row.result else {}


def _engine(line: Line) -> str | None:
    return engine_version(versions_of(line)).partition(" ")[0] or None


def _engine_version(line: Line) -> str | None:
    return engine_version(versions_of(line)).partition(" ")[2] or None


def _versions(line: Line) -> str | None:
    return json.dumps(versions_of(line)) if versions_of(line) else None


def _options(line: Line) -> str | None:
    return json.dumps(line.row.spec.options) if line.row.spec else None


def image_of(line: Line) -> ImageInfo | None:
    """What a cell ran in, at the visit that measured it."""
    visit = _visit(line)
    return (visit.images if visit else line.view.record.images).get(line.row.planned.image)


def _image_id(line: Line) -> str | None:
    image = image_of(line)
    return image.id if image else None


def _recipe(line: Line) -> str | None:
    image = image_of(line)
    return image.recipe if image else None


def _order_seed(line: Line) -> int | None:
    return line.view.record.workload.sample_seed


def _schedule(line: Line) -> str | None:
    serve = line.row.spec.serve if line.row.spec else None
    return serve.schedule if serve else None


def unranked(line: Line) -> str | None:
    """Why a cell with numbers is compared with no other."""
    row = line.row
    if not row.planned.ranked:
        return "a scripted engine"
    found = line.view.unranked(row) if isinstance(row, Row) else row.unranked
    return found or None


def _ranked(line: Line) -> bool:
    return line.row.measured and unranked(line) is None


def _column(name: str, value: Callable[[Line], Any] | str, meaning: str) -> Column[Any]:
    return Column("", value, csv=name, meaning=meaning)


ABOUT: tuple[Column[Any], ...] = (
    _column("schema_version", _schema_version, "of this export"),
    _column("run_id", "view.record.run_id", "the run's name; with `cell` the key of a row in all files of a run"),
    _column("scenario", _scenario, "offline: closed batches; serve: requests under load"),
    _column("point", _point, "batch size or load point in a word: b16, c16, r8, trace"),
    _column("ranked", _ranked, "has numbers that may be compared with others'"),
    _column("unranked", unranked, "why a cell is compared with no other"),
    _column("created_utc", "view.record.created_utc", "when the run began, ISO 8601"),
    _column("bench_version", "view.record.bench_version", "of the suite that measured"),
    _column("git_commit", "view.record.git_commit", "of the suite that measured"),
    _column("device", "view.record.device", "cuda or cpu"),
    _column("gpu", _gpu, "model of the GPU, as NVML names it"),
    _column("gpu_memory_bytes", _gpu_memory, "of the GPU"),
    _column("driver_version", _driver, "of the GPU's driver"),
    _column("cpu", _cpu, "model of the host's CPU"),
    _column("host_system", _system, "operating system and kernel"),
    _column("engine", _engine, "the engine's package: the first of the image's that is installed"),
    _column("engine_version", _engine_version, "of that package"),
    _column("versions", _versions, "of all packages that the image names, a JSON object"),
    _column("options", _options, "of the engine, a JSON object"),
    _column("image_id", _image_id, "of the container image, or digest of the environment's pins"),
    _column("image_recipe", _recipe, "digest of the files that the image is made of"),
    _column("model", "view.record.model.name", "as it was asked for"),
    _column("model_digest", "view.record.model.digest", "of the model's files"),
    _column("random_weights", "view.record.model.synthetic", "the weights are random, in the true shape"),
    _column("artifact", "row.spec.artifact", "the form of the model that the engine read"),
    _column("artifact_digest", "row.spec.artifact_digest", "of the files that the engine read"),
    _column("workload", "view.record.workload.name", "where the prompts are from"),
    _column("workload_digest", "view.record.workload.digest", "of the prompts' token ids in order"),
    _column("workload_prompts", "view.record.workload.prompts", "prompts of the workload"),
    _column("workload_seed", _order_seed, "of the prompts' order; none: the dataset's own order"),
    _column("schedule_digest", _schedule, "of what was sent and when, under load"),
    _column("length", "view.record.length", "forced: exactly max_new_tokens a prompt; natural: at most"),
    _column("max_new_tokens", "view.record.max_new_tokens", "asked for, for each prompt"),
)
