"""``--find-capacity``: ever other loads on one server, until the highest is found that keeps the latency limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST, Outcome
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.capacity import Capacity, LoadTrial, search_capacity
from bench_core.contract.serving.cell import CapacityAsk
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.result import ServeResult
from bench_core.contract.serving.schedule import make_schedule
from bench_core.system.files import write_file, write_text

if TYPE_CHECKING:  # the client calls this, which needs nothing of it but its cells
    from bench_core.client.supervisor import Client, Measuring


def search(client: Client, here: Measuring, spec: CellSpec, ask: CapacityAsk, run_folder: Path) -> Outcome:
    """Makes the trials, each a whole cell in a folder of its own, and writes ``capacity/<image>.<variant>.json`` after
    each.

    Raises:
        ServerGone: the server's container has ended.
    """
    home = run_folder / layout.CAPACITY_FOLDER
    method = f"{spec.image}.{spec.variant}"
    assert spec.serve is not None  # noqa: S101  # of a cell under load
    window_s = spec.serve.protocol.max_serve_seconds
    record = Capacity(
        image=spec.image, variant=spec.variant, searches=ask.searches, varied=ask.varied, limits=ask.limits,
        attainment=ask.attainment, conditions=ask.conditions, limit=ask.limit, window_s=window_s,
    )  # fmt: skip
    path = home / f"{method}.json"

    def attempt(load: float) -> LoadTrial:
        nonlocal record
        number = len(record.trials) + 1
        client.note(spec.cell_id, number, number + 1)
        trial = _trial(client, here, spec, ask, load, number, home / record.home)
        record = record.model_copy(update={"trials": (*record.trials, trial)})
        write_text(path, record.to_json())
        return trial

    found = search_capacity(ask.varied, ask.first, ask.limit, attempt, attainment=ask.attainment, window_s=window_s)
    record = record.model_copy(update={name: getattr(found, name) for name in ("trials", "highest", "lowest_failing")})
    problem = STOPPED_ON_REQUEST if client.stopped else found.problem
    write_text(path, record.model_copy(update={"problem": problem}).to_json())
    return (
        Outcome.OK
        if record.highest is not None and not problem
        else Outcome.KILLED
        if client.stopped
        else Outcome.SKIPPED
    )


def _trial(
    client: Client, here: Measuring, spec: CellSpec, ask: CapacityAsk, load: float, number: int, home: Path
) -> LoadTrial:
    point = _load_point(ask, load)
    assert spec.serve is not None  # noqa: S101  # of a cell under load
    protocol = spec.serve.protocol
    schedule = make_schedule(
        point, protocol.arrival_seed, len(here.workload.prompts), spec.max_new_tokens, protocol.horizon_s
    )
    cell = spec.model_copy(
        update={"scenario": point, "serve": spec.serve.model_copy(update={"schedule": schedule.digest})}
    )
    folder = home / layout.trial_folder(number)
    write_file(folder / layout.SCHEDULES_FOLDER / f"{point.word}.json.gz", schedule.packed())
    verdict = client.cell(cell, here, schedule, folder)
    result = layout.cell_folder(folder, cell.cell_id) / layout.RESULT_FILE
    try:
        metrics = ServeResult.read(result).metrics if verdict.outcome is Outcome.OK else None
    except BadInput as error:
        return LoadTrial(load=load, number=number, attainment=None, problem=error.cause)
    return LoadTrial.of(load, number, verdict, metrics)


def _load_point(ask: CapacityAsk, load: float) -> Serve:
    if ask.varied == "concurrency":
        return Serve(load="concurrency", concurrency=int(load))
    return Serve(load="rate", request_rate=load, arrivals=ask.arrivals)
