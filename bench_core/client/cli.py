"""``python -m bench_core.client``: sends requests to an engine's server, and writes down when tokens came back."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from bench_core import __version__
from bench_core.client.supervisor import Client, Places
from bench_core.contract.errors import BadInput, MachineFailure, is_of_the_machine
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_MACHINE, Outcome
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import Assignment
from bench_core.contract.serving.sidecar import SERVER_GONE
from bench_core.system.processes import end_with_parent


def build_parser() -> argparse.ArgumentParser:
    """The parser; its defaults are the mounts of a container."""
    parser = argparse.ArgumentParser(prog="python -m bench_core.client", description=__doc__)
    parser.add_argument("--assignment", required=True, metavar="FILE", help="below the data folder: what to measure")
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="its supervisor listens on the next port")
    parser.add_argument("--network", choices=("internal", "shared", "loopback"), default="internal")
    parser.add_argument("--run-id", required=True, metavar="NAME", help="folder below the results folder")
    parser.add_argument("--data", type=Path, default=layout.DATA_MOUNT)
    parser.add_argument("--results", type=Path, default=layout.RESULTS_MOUNT)
    parser.add_argument("--end-with", type=int, metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code (see ``contract.records.outcome``)."""
    parsed = build_parser().parse_args(arguments)
    if parsed.end_with is not None:
        end_with_parent(parsed.end_with)
    try:
        client = _client(parsed)
        outcome = client.measure()
    except BadInput as error:
        sys.stderr.write(f"error: {error.cause}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return EXIT_MACHINE if isinstance(error, MachineFailure) else EXIT_BAD_INPUT
    except OSError as error:
        if not is_of_the_machine(error, own=True):
            raise
        sys.stderr.write(f"error: this machine did not let the client go on: {error}\n")
        return EXIT_MACHINE
    return outcome.worker_exit_code if outcome is not None else Outcome.CRASHED.worker_exit_code


def _client(parsed: argparse.Namespace) -> Client:
    if not layout.is_name(parsed.run_id):
        raise BadInput(f"--run-id {parsed.run_id!r} is not a name", "lower case letters, digits, '.', '_' and '-'")
    host, _, port = parsed.server.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise BadInput(f"--server {parsed.server!r} is not HOST:PORT")
    assignment = Assignment.read(parsed.data / parsed.assignment)
    places = Places(parsed.data, parsed.results / parsed.run_id)
    client = Client(assignment, places, (host, int(port)), parsed.network, _say)

    def stop(_number: int, _frame: FrameType | None) -> None:
        client.stop()

    def gone(_number: int, _frame: FrameType | None) -> None:
        client.server_is_gone()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.Signals[SERVER_GONE], gone)
    return client


def _say(line: Record) -> None:
    sys.stdout.write(line.model_dump_json() + "\n")
    sys.stdout.flush()
