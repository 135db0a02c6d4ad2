"""The worker's command line: one parser for the driver, ``docker compose run`` and a developer's ``docker run``.

What is done instead of measuring is imported where it is asked for: a launch of a short cell is mostly imports.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from bench_core.contract.errors import BadInput, MachineFailure, first_line, is_of_the_machine
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_MACHINE, EXIT_OK, Outcome
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import Assignment
from bench_core.system.cell_writer import refuse_if_measured
from bench_core.system.files import write_text
from bench_core.system.processes import end_with_parent
from bench_core.worker.engine.job import Job
from bench_core.worker.launch import places_of, planned_parser
from bench_core.worker.resolve import Planned, Resolver, choose_device
from bench_core.worker.supervise.supervisor import Supervisor, run_self_check

if TYPE_CHECKING:  # imported where they are needed
    from bench_core.worker.by_hand import Options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code (see ``contract.outcome``)."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        parsed = _planned(words)
        if parsed is None:
            return _by_hand(words)
        if parsed.end_with is not None:
            end_with_parent(parsed.end_with)
        resolver = Planned(places_of(parsed), parsed, Assignment.read(parsed.data / parsed.assignment))
        return _serve(resolver, parsed) if parsed.serve else _measure(resolver, parsed)
    except BadInput as error:
        sys.stderr.write(f"error: {error.cause}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return EXIT_MACHINE if isinstance(error, MachineFailure) else EXIT_BAD_INPUT
    except OSError as error:
        if not is_of_the_machine(error, own=True):
            raise
        return _not_let_on(error)


def _planned(words: list[str]) -> argparse.Namespace | None:
    """The command line of a launch that a driver has planned and that says nothing else; ``None`` for any other."""
    if "--assignment" not in words:
        return None
    parsed, others = planned_parser().parse_known_args(words)
    return None if others else parsed


def _by_hand(words: list[str]) -> int:
    """A launch that a person has asked for, or that does something else than measuring."""
    from bench_core.worker import by_hand  # noqa: PLC0415

    parsed = by_hand.build_parser().parse_args(words)
    if parsed.end_with is not None:
        end_with_parent(parsed.end_with)
    if parsed.device_rates:
        return _device_rates(parsed, by_hand.options_of(parsed))
    resolver = by_hand.resolver_of(parsed)
    if parsed.convert:
        return _convert(resolver, parsed.convert)
    if parsed.self_check:
        return _self_check(resolver)
    return _serve(resolver, parsed) if parsed.serve else _measure(resolver, parsed)


def _not_let_on(error: OSError) -> int:
    """A full disk is the machine's failure; no process to be had, or a folder that somebody has removed, is nothing
    that the cell in hand did either, but the next one may not meet it."""
    where = f"{error.filename}: " if error.filename else ""
    sys.stderr.write(f"error: this machine did not let the worker go on: {where}{error.strerror or error}\n")
    return EXIT_MACHINE if is_of_the_machine(error, own=True) else Outcome.KILLED.worker_exit_code


def _device_rates(parsed: argparse.Namespace, options: Options) -> int:
    from bench_core.contract.records.device_rates import DeviceRates  # noqa: PLC0415
    from bench_core.worker.device_rates import device_words, write_device_rates  # noqa: PLC0415

    if parsed.run_id is None or not layout.is_name(parsed.run_id):
        raise BadInput("--measure-device needs a run", "name it by --run-id")
    device = choose_device(options.device, options.threads)
    path = write_device_rates(parsed.image_folder, device, parsed.results / parsed.run_id, parsed.device_rates)
    sys.stderr.write(f"{path.name}: {device_words(DeviceRates.read(path))}\n")
    return EXIT_OK


def _say(line: Record) -> None:
    sys.stdout.write(line.model_dump_json() + "\n")
    sys.stdout.flush()


def _measure(resolver: Resolver, parsed: argparse.Namespace) -> int:
    run_id: str | None = parsed.run_id
    if run_id is not None and not layout.is_name(run_id):
        raise BadInput(f"--run-id {run_id!r} is not a name", "lower case letters, digits, '.', '_' and '-'")
    standalone = run_id is None
    name = run_id or f"{datetime.now(timezone.utc):%Y%m%dt%H%M%Sz}-{resolver.manifest.name}"
    request, workload = resolver.measure_request(name)
    for spec in request.cells:
        refuse_if_measured(request.run_folder, spec)
    try:
        request.run_folder.mkdir(parents=True, exist_ok=True)
        if not os.access(request.run_folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        cause = f"{request.run_folder} cannot be written: {error.strerror}"
        raise MachineFailure(cause, "check its owner") from error
    if standalone:
        from bench_core.worker.standalone import standalone_record  # noqa: PLC0415

        record = standalone_record(name, request, resolver.device.kind, resolver.manifest.notes)
        (request.run_folder / layout.WORKLOAD_FILE).write_bytes(workload.packed())
        write_text(request.run_folder / layout.RUN_FILE, record.to_json())
    try:
        outcome = Supervisor(request, workload, _say, parsed.marked, resolver.timeouts).measure()
    except OSError as error:
        return _not_let_on(error)
    if standalone:
        from bench_core.system.last_words import last_words  # noqa: PLC0415
        from bench_core.worker.standalone import number_of  # noqa: PLC0415

        words = last_words(request.run_folder, [spec.cell_id for spec in request.cells], number_of, parsed.then)
        sys.stderr.write("\n".join(words) + "\n")
    return outcome.worker_exit_code


def _serve(resolver: Resolver, parsed: argparse.Namespace) -> int:
    """With an assignment, its cells; else what a client asks for that was started by hand."""
    from bench_core.worker import by_hand  # noqa: PLC0415
    from bench_core.worker.serve.by_hand import Planner  # noqa: PLC0415
    from bench_core.worker.serve.sidecar import Served, Sidecar  # noqa: PLC0415

    served = None
    if parsed.assignment is not None:
        request, workload = resolver.measure_request("served")
        longest = workload.longest + max(spec.max_new_tokens for spec in request.cells)
        served = Served(resolver.manifest, request, longest, resolver.timeouts.load_timeout_s)
    planner = Planner(resolver.places, by_hand.options_of(parsed) if served is None else by_hand.Options())
    ports = (parsed.serve, parsed.serve + 1)
    Sidecar(
        parsed.host, ports, served=served, plan=planner.plan, marked=parsed.marked, own_host=parsed.supervisor_host
    ).run()
    return EXIT_OK


def _convert(resolver: Resolver, wanted: str) -> int:
    from bench_core.worker.convert import convert  # noqa: PLC0415

    artifact = resolver.variant.artifact if wanted == "auto" else wanted
    if wanted == "auto" and artifact not in resolver.manifest.converts:
        sys.stderr.write(f"{artifact} is not made by {resolver.manifest.name}: nothing to do\n")
        return EXIT_OK
    try:
        record, made = convert(resolver, artifact)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  # a converter may fail in any way; the cause is what counts
        traceback.print_exc()
        sys.stderr.write(f"error: {artifact} could not be made: {first_line(error)}\n")
        return EXIT_MACHINE if is_of_the_machine(error) else Outcome.LOAD_FAILED.worker_exit_code
    state = f"made in {record.seconds:.1f} s" if made else "is there and whole"
    sys.stderr.write(f"{artifact}: {state}, {record.size_bytes} bytes, {record.digest[:12]}\n")
    return EXIT_OK


def _self_check(resolver: Resolver) -> int:
    request, _ = resolver.measure_request("self-check")
    job = Job(
        task="self-check",
        image_folder=request.image_folder,
        artifact=request.artifact,
        workload=request.workload,
        cells=request.cells,
    )
    checks = run_self_check(job)
    for check in checks:
        _say(check)
    failed = [check.name for check in checks if check.outcome == "failed"]
    sys.stderr.write(f"{len(checks)} checks, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}\n")
    return EXIT_FAILED if failed or not checks else EXIT_OK
