"""A client that no driver has started: it asks the server's supervisor for a plan, makes the schedules and the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench_core.client.sidecar import SidecarClient
from bench_core.client.supervisor import Work
from bench_core.contract.asked.by_hand import LoadOptions
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.workload import Prepared, Workload
from bench_core.contract.serving.result import ServeResult
from bench_core.contract.serving.schedule import Schedule, make_schedule
from bench_core.contract.serving.sidecar import ServeAsk
from bench_core.contract.serving.trace import traced
from bench_core.system.files import write_file, write_text


@dataclass(frozen=True)
class Places:
    """Where things are: what is sent, and the folder of runs."""

    data: Path
    results: Path


def plan(options: LoadOptions, run_id: str | None, places: Places, sidecar: SidecarClient) -> Work:
    """What a person asks for, planned where the server is, with the run's folder made and its record written. From now
    on this process stays on the CPUs that are left to it.

    Raises:
        BadInput: no load is asked for, or something is missing, damaged or does not fit together.
        MachineFailure: no server's supervisor answers, or it has other prompts.
    """
    if not options.loads:
        raise BadInput("no load is asked for", "give --concurrency, --request-rate or --trace; see --help")
    if options.client_nodes:
        raise BadInput("--client-nodes are nodes of a cluster, which a driver deals out", "python -m bench_core.drive")
    workload = Workload.read(places.data / (options.workload or _prepared(places.data).workload))
    trace: tuple[Workload, Schedule] | None = None
    if options.trace is not None:
        path = places.data / options.trace
        trace = traced(path, workload, _special(workload), options.max_new_tokens)
        workload = trace[0]
    schedules = {
        load.word: trace[1]
        if trace is not None and load.load == "trace"
        else make_schedule(load, options.arrival_seed, len(workload.prompts), options.max_new_tokens, options.horizon_s)
        for load in options.loads
    }
    planned = sidecar.plan(
        ServeAsk(
            run_id=run_id,
            options=options,
            schedules={word: schedule.digest for word, schedule in schedules.items()},
            traced=workload if trace is not None else None,
            cpus=tuple(sorted(os.sched_getaffinity(0))),
        )
    )
    record = planned.record
    if record.workload.digest != workload.digest:
        raise MachineFailure("the server was started with other prompts than there are here")
    os.sched_setaffinity(0, planned.client_cpus)
    folder = places.results / record.run_id
    _write(record, workload, schedules, folder)
    return Work(tuple(cell.cell for cell in record.cells), workload, schedules, folder, by_hand=True)


def _prepared(data: Path) -> Prepared:
    path = data / layout.PREPARED_FILE
    if not path.exists():
        raise BadInput(f"nothing is prepared: there is no {path}", "run `python -m bench_core.prepare` first")
    return Prepared.read(path)


def _special(workload: Workload) -> int:
    """A tokenizer's own token at the beginning, which no tokenizer is here to tell: what all prompts begin with."""
    first = {prompt[0] for prompt in workload.prompts}
    return int(len(first) == 1 < len(workload.prompts))


def _write(record: RunRecord, workload: Workload, schedules: dict[str, Schedule], folder: Path) -> None:
    """
    Raises:
        BadInput: a run of that name is there.
        MachineFailure: the folder cannot be written.
    """
    if (folder / layout.RUN_FILE).exists():
        raise BadInput(f"there is a run {record.run_id} already", "choose another --run-id")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / layout.WORKLOAD_FILE, workload.packed())
        for word, schedule in schedules.items():
            write_file(folder / layout.SCHEDULES_FOLDER / f"{word}.json.gz", schedule.packed())
        write_text(folder / layout.RUN_FILE, record.to_json())
    except PermissionError as error:
        raise MachineFailure(f"{folder} cannot be written: {error.strerror}", "check its owner") from error


def number_of(folder: Path) -> str:
    """A cell's numbers in words.

    Raises:
        BadInput: it has no result.
    """
    metrics = ServeResult.read(folder / layout.RESULT_FILE).metrics
    words = [f"{metrics.output_throughput_tok_s.value:.4g} output token/s"]
    if metrics.ttft_s is not None and metrics.ttft_s.p50 is not None:
        words.append(f"median time to first token {metrics.ttft_s.p50.value:.4g} s")
    words.append(f"{metrics.requests.ok} requests answered, {sum(metrics.requests.failed.values())} failed")
    if metrics.saturated:
        words.append("saturated")
    return ", ".join(words)
