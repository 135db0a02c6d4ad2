"""``python -m bench_core.client``: sends requests to an engine's server, and writes down when tokens came back."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from types import FrameType

from pydantic import ValidationError

from bench_core import __version__
from bench_core.client.by_hand import Places, number_of, plan
from bench_core.client.nodes.gathering import Gathering
from bench_core.client.supervisor import Client, Work
from bench_core.contract.asked.arguments import Parser, add_launch, add_options, given
from bench_core.contract.asked.by_hand import ByHand, LoadOptions
from bench_core.contract.asked.declaration import declared, flag_of
from bench_core.contract.asked.loads import Loads
from bench_core.contract.asked.protocol import Timeouts, WorkFields
from bench_core.contract.errors import BadInput, MachineFailure, is_of_the_machine
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_MACHINE, Outcome
from bench_core.contract.records.record import Record, describe
from bench_core.contract.records.spec import Assignment
from bench_core.contract.serving.protocol import ServeFields
from bench_core.contract.serving.sidecar import CLIENT_SECRET, SERVER_GONE
from bench_core.system.last_words import last_words
from bench_core.system.processes import end_with_parent

# What is asked of cells under load, in the order of the help; the rest of the declaration is of closed batches.
_HEADINGS = (Loads, ServeFields, ByHand, WorkFields, Timeouts)
_OPTIONS = sorted(
    (
        option
        for option in declared(LoadOptions)
        if option.origin in _HEADINGS and (option.origin is not Timeouts or option.name == "load_timeout_s")
    ),
    key=lambda option: _HEADINGS.index(option.origin),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser; its defaults are the mounts of a container."""
    parser = Parser(prog="python -m bench_core.client", description=__doc__)
    add_options(parser, _OPTIONS)
    launch = add_launch(parser)
    launch.add_argument("--server", required=True, metavar="HOST:PORT", help="its supervisor listens on the next port")
    launch.add_argument("--network", choices=("internal", "shared", "loopback", "published"), default="internal")
    # Of a driver's launch with load generators on other hosts.
    launch.add_argument("--nodes", type=int, default=0, metavar="N", help=argparse.SUPPRESS)
    launch.add_argument("--listen", metavar="HOST:PORT", help=argparse.SUPPRESS)
    launch.add_argument("--reached-at", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--end-with", type=int, metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code (see ``contract.records.outcome``)."""
    try:
        parsed = build_parser().parse_args(arguments)
        if parsed.end_with is not None:
            end_with_parent(parsed.end_with)
        with _gathering(parsed) as gathering:
            client = _client(parsed, gathering)
            outcome = _assigned(client, parsed) if parsed.assignment is not None else _by_hand(client, parsed)
    except BadInput as error:
        sys.stderr.write(f"error: {error.cause}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return EXIT_MACHINE if isinstance(error, MachineFailure) else EXIT_BAD_INPUT
    except OSError as error:
        if not is_of_the_machine(error, own=True):
            raise
        sys.stderr.write(f"error: this machine did not let the client go on: {error}\n")
        return EXIT_MACHINE
    return outcome.worker_exit_code if outcome is not None else Outcome.CRASHED.worker_exit_code


def _assigned(client: Client, parsed: argparse.Namespace) -> Outcome | None:
    idle = sorted(given(parsed, _OPTIONS))
    if idle:
        raise BadInput(f"{flag_of(LoadOptions, idle[0])} would change nothing: --assignment says what is measured")
    if parsed.run_id is None:
        raise BadInput("--assignment needs a run", "name it by --run-id")
    assignment = Assignment.read(parsed.data / parsed.assignment)
    return client.measure(Work.assigned(assignment, parsed.data, parsed.results / parsed.run_id))


def _by_hand(client: Client, parsed: argparse.Namespace) -> Outcome | None:
    try:
        options = LoadOptions.model_validate(given(parsed, _OPTIONS))
    except ValidationError as error:
        raise BadInput(describe(error), "see --help") from error
    try:
        work = plan(options, parsed.run_id, Places(parsed.data, parsed.results), client.sidecar)
        outcome = client.measure(work)
    finally:
        with contextlib.suppress(MachineFailure):  # it has ended already
            client.sidecar.end()
    sys.stderr.write("\n".join(last_words(work.run_folder, work.cells, number_of, parsed.then)) + "\n")
    return outcome


def _gathering(parsed: argparse.Namespace) -> contextlib.AbstractContextManager[Gathering | None]:
    """Of the hosts that the load comes from, where these are others."""
    if not parsed.nodes:
        return contextlib.nullcontext()
    secret = bytes.fromhex(os.environ.pop(CLIENT_SECRET, ""))
    if not secret:
        raise BadInput("--nodes needs the launch's secret", f"in {CLIENT_SECRET}")
    return Gathering(_address("--listen", parsed.listen), parsed.nodes, secret)


def _address(flag: str, word: str | None) -> tuple[str, int]:
    host, _, port = (word or "").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise BadInput(f"{flag} {word!r} is not HOST:PORT")
    return host, int(port)


def _client(parsed: argparse.Namespace, gathering: Gathering | None) -> Client:
    if parsed.run_id is not None and not layout.is_name(parsed.run_id):
        raise BadInput(f"--run-id {parsed.run_id!r} is not a name", "lower case letters, digits, '.', '_' and '-'")
    reached_at = _address("--reached-at", parsed.reached_at) if gathering is not None else None
    client = Client(_address("--server", parsed.server), parsed.network, _say, gathering, reached_at)

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
