"""What is of a worker's launch and of no cell: where things are, and what is done instead of measuring."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from bench_core.contract.asked.arguments import Parser, add_launch, whole_number
from bench_core.contract.records import layout
from bench_core.worker.resolve import Places


def add_this_launch(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Adds the options; returns the group of what is done instead of measuring, for more of it."""
    launch = add_launch(parser)
    launch.add_argument("--marked", default="", metavar="TEXT", help="what disturbs it, kept with each cell")
    launch.add_argument("--image-folder", type=Path, default=layout.IMAGE_MOUNT)
    launch.add_argument("--models", type=Path, default=layout.MODELS_MOUNT)
    launch.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="that --serve listens on")
    launch.add_argument(
        "--supervisor-host", metavar="ADDRESS", help="that the server's supervisor listens on; default: that of --host"
    )
    instead = parser.add_argument_group("Instead of measuring").add_mutually_exclusive_group()
    instead.add_argument(
        "--serve", metavar="PORT", type=whole_number(1),
        help="run the engine's own server on this port, and tell of it on the next one, for a client beside it",
    )  # fmt: skip
    # Of the process launcher: a container ends with its own first process, a worker process with its driver.
    parser.add_argument("--end-with", type=whole_number(1), metavar="PID", help=argparse.SUPPRESS)
    return instead


def planned_parser() -> argparse.ArgumentParser:
    """Of a launch whose cells a driver has planned: what else may be said of it.

    Nobody reads its help, whose width argparse would ask for all the same, with imports of a hundredth of a launch.
    """
    narrow = partial(argparse.HelpFormatter, width=80)
    parser = Parser(prog="python -m bench_core.worker", add_help=False, formatter_class=narrow)
    add_this_launch(parser)
    parser.add_argument("--model-folder")
    parser.add_argument("--artifact", type=Path)
    return parser


def places_of(parsed: argparse.Namespace) -> Places:
    """Where things are."""
    return Places(parsed.image_folder, parsed.data, parsed.models, parsed.results)
