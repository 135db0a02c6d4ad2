"""The worker's command line: one parser for the driver, ``docker compose run`` and a developer's ``docker run``."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from bench_core import __version__
from bench_core.contract import layout
from bench_core.contract.calibration import Calibration
from bench_core.contract.cpu_use import BusyRule
from bench_core.contract.errors import BadInput, MachineFailure, first_line, is_of_the_machine
from bench_core.contract.outcome import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_MACHINE, EXIT_OK, Outcome
from bench_core.contract.record import Record
from bench_core.contract.spec import MAX_REPEAT, MeasureProtocol
from bench_core.contract.stopping import DEFAULT_MAX_WARMUP_BATCHES, DEFAULT_MAX_WARMUP_S, DEFAULT_PRECISION
from bench_core.worker.calibration import device_words, write_calibration
from bench_core.worker.cell_writer import refuse_if_measured
from bench_core.worker.convert import convert
from bench_core.worker.files import write_atomically
from bench_core.worker.job import Job
from bench_core.worker.limits import Limits
from bench_core.worker.parent import end_with_parent
from bench_core.worker.request import Options, Places, Resolver, choose_device
from bench_core.worker.standalone import standalone_record
from bench_core.worker.supervisor import Supervisor, run_self_check


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(message, "see --help")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def up_to(limit: int) -> Callable[[str], int]:
    """A reader of whole numbers from 1 to a limit, the same limit as in the spec."""

    def read(text: str) -> int:
        value = positive(text)
        if value > limit:
            raise argparse.ArgumentTypeError(f"{text!r} is more than {limit}")
        return value

    return read


def at_most(limit: int) -> Callable[[str], int]:
    """A reader of whole numbers from 0 to a limit."""

    def read(text: str) -> int:
        return 0 if text == "0" else up_to(limit)(text)

    return read


def more_than_0(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number above 0 and below 1."""
    value = more_than_0(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not below 1; 0.01 is 1 %")
    return value


def batch_size_list(text: str) -> list[int]:
    """``16`` or ``1,4,16``."""
    return [up_to(65536)(part.strip()) for part in text.split(",")]


def option(text: str) -> tuple[str, str]:
    """``key=value``; what the value is, ``image.yaml`` declares."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


def build_parser() -> argparse.ArgumentParser:
    """The parser; its defaults work in a container started by ``docker compose run``."""
    parser = _Parser(prog="python -m bench_core.worker", description="Measures one engine, in its own container.")
    what = parser.add_argument_group("what to measure")
    what.add_argument("--variant", help="a variant of image.yaml (default: the image's default for the device)")
    what.add_argument(
        "--batch-size", "--batch-sizes", action="append", type=batch_size_list, metavar="N[,N...]",
        help="prompts in one generate call (default: 1)",
    )  # fmt: skip
    what.add_argument("--max-new-tokens", type=positive, default=200, metavar="N", help="(default: %(default)s)")
    what.add_argument(
        "--length", choices=("forced", "natural"), default="forced",
        help="exactly that many new tokens, or stop at end of sequence (default: %(default)s)",
    )  # fmt: skip
    what.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    what.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all that are allowed)")
    what.add_argument(
        "--option",
        action="append",
        type=option,
        default=[],
        metavar="KEY=VALUE",
        help="replaces an option of the variant",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--warmup-batches", type=up_to(1000), default=1, metavar="N", help="discarded, at least (default: 1)"
    )
    how.add_argument(
        "--max-warmup-batches", type=up_to(1000), default=DEFAULT_MAX_WARMUP_BATCHES, metavar="N",
        help="discarded until latencies show no trend, at most (default: %(default)s; 1: no test)",
    )  # fmt: skip
    how.add_argument(
        "--max-warmup-seconds", type=more_than_0, default=DEFAULT_MAX_WARMUP_S, metavar="S",
        help="of warm-up beyond --warmup-batches (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--precision", type=share, default=DEFAULT_PRECISION, metavar="P",
        help="measure until throughput's 95 %% interval is within this share of it (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--exhaustive", action="store_true", help="measure the whole workload, whatever the precision")
    how.add_argument("--max-seconds", type=more_than_0, metavar="S", help="of measuring (default: no limit)")
    how.add_argument("--latency-batches", type=up_to(1000), default=3, metavar="N", help="where token callbacks cost")
    how.add_argument(
        "--max-batches", type=positive, metavar="N", help="measured batches at most (default: whole workload)"
    )
    how.add_argument(
        "--direct-batches", type=up_to(1000), default=0, metavar="N",
        help="measured batches given once more to the engine directly, for parity (default: none)",
    )  # fmt: skip
    how.add_argument(
        "--direct-rounds", type=up_to(1000), default=1, metavar="N", help="each so often (default: %(default)s)"
    )
    how.add_argument(
        "--direct-batch-sizes", type=batch_size_list, metavar="N[,N...]", help="where to do so (default: at all)"
    )
    how.add_argument(
        "--score-texts", type=at_most(1000), default=8, metavar="N",
        help="texts whose log-likelihood is asked for after the batches of the first cell (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--busy-cpus", type=more_than_0, metavar="CPUS",
        help="mark a cell where others take the time of so many CPUs (default: a tenth of all, 0.4 at most)",
    )  # fmt: skip
    how.add_argument(
        "--repeat", type=up_to(MAX_REPEAT), default=1, metavar="N", help="which measurement of the same cell it is"
    )
    limits = parser.add_argument_group("time limits, seconds; an engine that exceeds one is stopped")
    for name, value in vars(Limits()).items():
        limits.add_argument(
            f"--{name.removesuffix('_s')}-timeout-s", type=positive_number, default=value, metavar="S",
            help="(default: %(default)s)",
        )  # fmt: skip
    how.add_argument("--marked", default="", metavar="TEXT", help="what disturbs the measurement, kept with each cell")
    where = parser.add_argument_group("where")
    where.add_argument("--model-folder", metavar="NAME", help="under the models folder (default: prepared last)")
    where.add_argument("--workload", metavar="FILE", help="under the data folder (default: prepared last)")
    where.add_argument(
        "--artifact", type=Path, metavar="FOLDER",
        help="with an artifact.json, instead of the model's own (the driver's --artifact makes it the model's own)",
    )  # fmt: skip
    where.add_argument("--run-id", metavar="NAME", help="folder under the results folder (default: time and image)")
    where.add_argument("--image-folder", type=Path, default=layout.IMAGE_MOUNT)
    where.add_argument("--data", type=Path, default=layout.DATA_MOUNT)
    where.add_argument("--models", type=Path, default=layout.MODELS_MOUNT)
    where.add_argument("--results", type=Path, default=layout.RESULTS_MOUNT)
    instead = parser.add_argument_group("instead of measuring").add_mutually_exclusive_group()
    instead.add_argument(
        "--convert",
        metavar="ARTIFACT",
        help="make an artifact of the model (auto: what the variant reads, if made here)",
    )
    instead.add_argument(
        "--calibrate", dest="calibration", metavar="NAME",
        help="measure the device, in the image made for it, into calibrations/NAME.json of the run",
    )  # fmt: skip
    instead.add_argument("--self-check", action="store_true", help="run the contract suite on this image")
    # Of the process launcher: a container ends with its own first process, a worker process with its driver.
    parser.add_argument("--end-with", type=positive, metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code (see ``contract.outcome``)."""
    try:
        parsed = build_parser().parse_args(arguments)
        if parsed.end_with is not None:
            end_with_parent(parsed.end_with)
        if parsed.calibration:
            return _calibration(parsed)
        resolver = _resolver(parsed)
        if parsed.convert:
            return _convert(resolver, parsed.convert)
        if parsed.self_check:
            return _self_check(resolver)
        limits = Limits(*(getattr(parsed, f"{name.removesuffix('_s')}_timeout_s") for name in vars(Limits())))
        return _measure(resolver, parsed.run_id, parsed.marked, limits)
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


def _resolver(parsed: argparse.Namespace) -> Resolver:
    sizes = [size for given in parsed.batch_size or [[1]] for size in given]
    options = Options(
        variant=parsed.variant,
        batch_sizes=tuple(dict.fromkeys(sizes)),
        device=parsed.device,
        threads=parsed.threads,
        model_folder=parsed.model_folder,
        artifact=parsed.artifact,
        workload=parsed.workload,
        max_new_tokens=parsed.max_new_tokens,
        length=parsed.length,
        protocol=MeasureProtocol(
            warmup_batches=parsed.warmup_batches,
            latency_batches=parsed.latency_batches,
            max_batches=parsed.max_batches,
            direct_batches=parsed.direct_batches,
            direct_rounds=parsed.direct_rounds,
            score_texts=parsed.score_texts,
            precision=None if parsed.exhaustive else parsed.precision,
            max_seconds=parsed.max_seconds,
            max_warmup_batches=parsed.max_warmup_batches,
            max_warmup_seconds=parsed.max_warmup_seconds,
            busy=BusyRule(cpus=parsed.busy_cpus),
        ),
        direct_batch_sizes=None if parsed.direct_batch_sizes is None else frozenset(parsed.direct_batch_sizes),
        options=dict(parsed.option),
        repeat=parsed.repeat,
    )
    return Resolver(Places(parsed.image_folder, parsed.data, parsed.models, parsed.results), options)


def _calibration(parsed: argparse.Namespace) -> int:
    if parsed.run_id is None or not layout.is_name(parsed.run_id):
        raise BadInput("--calibrate needs a run", "name it by --run-id")
    device = choose_device(parsed.device, parsed.threads)
    path = write_calibration(parsed.image_folder, device, parsed.results / parsed.run_id, parsed.calibration)
    sys.stderr.write(f"{path.name}: {device_words(Calibration.read(path))}\n")
    return EXIT_OK


def _say(line: Record) -> None:
    sys.stdout.write(line.model_dump_json() + "\n")
    sys.stdout.flush()


def _measure(resolver: Resolver, run_id: str | None, marked: str, limits: Limits) -> int:
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
        write_atomically(request.run_folder / layout.RUN_FILE, record.to_json())
        sys.stderr.write(f"run folder: {name}\n")
    try:
        outcome = Supervisor(request, workload, _say, marked, limits).measure()
    except OSError as error:
        return _not_let_on(error)
    return outcome.worker_exit_code


def _convert(resolver: Resolver, wanted: str) -> int:
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
