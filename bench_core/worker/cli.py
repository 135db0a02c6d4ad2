"""The worker's command line: one parser for the driver, ``docker compose run`` and a developer's ``docker run``.

What is done instead of measuring is imported where it is asked for: a launch of a short cell is mostly imports.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from bench_core import __version__
from bench_core.contract.asked.arguments import Parser, add_launch, add_options, given, whole_number
from bench_core.contract.asked.by_hand import ByHand
from bench_core.contract.asked.declaration import declared, flag_of
from bench_core.contract.asked.protocol import MeasureOptions, ProtocolFields, Timeouts, WorkFields
from bench_core.contract.errors import BadInput, MachineFailure, first_line, is_of_the_machine
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import DeviceRates
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_MACHINE, EXIT_OK, Outcome
from bench_core.contract.records.record import Record, describe
from bench_core.contract.records.spec import Assignment
from bench_core.contract.serving.protocol import ServeFields
from bench_core.system.cell_writer import refuse_if_measured
from bench_core.system.files import write_text
from bench_core.system.last_words import last_words
from bench_core.system.processes import end_with_parent
from bench_core.worker.engine.job import Job
from bench_core.worker.resolve import Options, Places, Resolver, choose_device
from bench_core.worker.standalone import number_of, standalone_record
from bench_core.worker.supervise.supervisor import Supervisor, run_self_check

# The records that declare what is asked of the cells, in the order of the help.
_HEADINGS = (Options, ByHand, WorkFields, ProtocolFields, ServeFields, MeasureOptions, Timeouts)
_OPTIONS = sorted(declared(Options), key=lambda option: _HEADINGS.index(option.origin))


def build_parser() -> argparse.ArgumentParser:
    """The parser; its defaults work in a container started by ``docker compose run``. What is asked of the cells is
    declared by ``Options``; what is of this launch alone stands here."""
    parser = Parser(prog="python -m bench_core.worker", description="Measures one engine, in its own container.")
    add_options(parser, _OPTIONS)
    launch = add_launch(parser)
    launch.add_argument("--marked", default="", metavar="TEXT", help="what disturbs it, kept with each cell")
    launch.add_argument("--image-folder", type=Path, default=layout.IMAGE_MOUNT)
    launch.add_argument("--models", type=Path, default=layout.MODELS_MOUNT)
    instead = parser.add_argument_group("Instead of measuring").add_mutually_exclusive_group()
    instead.add_argument(
        "--convert",
        metavar="ARTIFACT",
        help="make an artifact of the model (auto: what the variant reads, if made here)",
    )
    instead.add_argument(
        "--measure-device", dest="device_rates", metavar="NAME",
        help="measure the device, in the image made for it, into device-rates/NAME.json of the run",
    )  # fmt: skip
    instead.add_argument(
        "--serve", metavar="PORT", type=whole_number(1),
        help="run the engine's own server on this port, and tell of it on the next one, for a client beside it",
    )  # fmt: skip
    launch.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="that --serve listens on")
    launch.add_argument(
        "--supervisor-host", metavar="ADDRESS", help="that the server's supervisor listens on; default: that of --host"
    )
    instead.add_argument("--self-check", action="store_true", help="run the contract suite on this image")
    # Of the process launcher: a container ends with its own first process, a worker process with its driver.
    parser.add_argument("--end-with", type=whole_number(1), metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code (see ``contract.outcome``)."""
    try:
        parsed = build_parser().parse_args(arguments)
        if parsed.end_with is not None:
            end_with_parent(parsed.end_with)
        if parsed.device_rates:
            return _device_rates(parsed)
        resolver = _resolver(parsed)
        if parsed.convert:
            return _convert(resolver, parsed.convert)
        if parsed.self_check or parsed.serve:
            return _self_check(resolver) if parsed.self_check else _serve(resolver, parsed)
        return _measure(resolver, parsed.run_id, parsed.marked, parsed.then)
    except BadInput as error:
        sys.stderr.write(f"error: {error.cause}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return EXIT_MACHINE if isinstance(error, MachineFailure) else EXIT_BAD_INPUT
    except OSError as error:
        if not is_of_the_machine(error, own=True):
            raise
        return _not_let_on(error)


def _not_let_on(error: OSError) -> int:
    """A full disk is the machine's failure; no process to be had, or a folder that somebody has removed, is nothing
    that the cell in hand did either, but the next one may not meet it."""
    where = f"{error.filename}: " if error.filename else ""
    sys.stderr.write(f"error: this machine did not let the worker go on: {where}{error.strerror or error}\n")
    return EXIT_MACHINE if is_of_the_machine(error, own=True) else Outcome.KILLED.worker_exit_code


def _options(parsed: argparse.Namespace) -> Options:
    try:
        return Options.model_validate(given(parsed, _OPTIONS))
    except ValidationError as error:
        raise BadInput(describe(error), "see --help") from error


def _resolver(parsed: argparse.Namespace) -> Resolver:
    places = Places(parsed.image_folder, parsed.data, parsed.models, parsed.results)
    options = _options(parsed)
    if parsed.assignment is None:
        return Resolver(places, options)
    idle = sorted(options.model_fields_set - {"model_folder", "artifact"})  # which say where things are
    if idle:
        raise BadInput(f"{flag_of(Options, idle[0])} would change nothing: --assignment says what is measured")
    return Resolver(places, options, Assignment.read(parsed.data / parsed.assignment))


def _device_rates(parsed: argparse.Namespace) -> int:
    from bench_core.worker.device_rates import device_words, write_device_rates  # noqa: PLC0415

    if parsed.run_id is None or not layout.is_name(parsed.run_id):
        raise BadInput("--measure-device needs a run", "name it by --run-id")
    options = _options(parsed)
    device = choose_device(options.device, options.threads)
    path = write_device_rates(parsed.image_folder, device, parsed.results / parsed.run_id, parsed.device_rates)
    sys.stderr.write(f"{path.name}: {device_words(DeviceRates.read(path))}\n")
    return EXIT_OK


def _say(line: Record) -> None:
    sys.stdout.write(line.model_dump_json() + "\n")
    sys.stdout.flush()


def _measure(resolver: Resolver, run_id: str | None, marked: str, then: str) -> int:
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
        record = standalone_record(name, request, resolver.device.kind, resolver.manifest.notes)
        (request.run_folder / layout.WORKLOAD_FILE).write_bytes(workload.packed())
        write_text(request.run_folder / layout.RUN_FILE, record.to_json())
    try:
        outcome = Supervisor(request, workload, _say, marked, resolver.timeouts).measure()
    except OSError as error:
        return _not_let_on(error)
    if standalone:
        words = last_words(request.run_folder, [spec.cell_id for spec in request.cells], number_of, then)
        sys.stderr.write("\n".join(words) + "\n")
    return outcome.worker_exit_code


def _serve(resolver: Resolver, parsed: argparse.Namespace) -> int:
    """With an assignment, its cells; else what a client asks for that was started by hand."""
    from bench_core.worker.serve.by_hand import Planner  # noqa: PLC0415
    from bench_core.worker.serve.sidecar import Served, Sidecar  # noqa: PLC0415

    served = None
    if parsed.assignment is not None:
        request, workload = resolver.measure_request("served")
        longest = workload.longest + max(spec.max_new_tokens for spec in request.cells)
        served = Served(resolver.manifest, request, longest, resolver.timeouts.load_timeout_s)
    planner = Planner(resolver.places, _options(parsed) if served is None else Options())
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
