"""``llm-bench COMMAND``, the same as ``python -m bench_core COMMAND``: a door to each room that has a command line."""

from __future__ import annotations

import sys
from importlib import import_module

from bench_core import __version__
from bench_core.contract.records.outcome import EXIT_BAD_INPUT

COMMANDS = {
    "run": ("drive.ask.cli", "measure engines, each in its own container"),
    "resume": ("drive.ask.cli", "RUN: measure what a run lacks, or add to it"),
    "report": ("report.cli", "make a run's tables and figures again from its raw events, or check them"),
    "verify": ("verify.cli", "compare everything that a run publishes with its raw events and digests"),
    "compare": ("compare.cli", "A B: what has changed between two runs, and whether it is worse than allowed"),
    "prepare": ("prepare.cli", "prepare a model and a workload beforehand"),
    "images": ("drive.images", "list engines, variants, where they run and what is built"),
    "doctor": ("drive.doctor", "what this machine has for measuring, and what mends what it lacks"),
    "prune": ("drive.prune", "give back the disk that earlier builds and models take"),
}


def usage() -> str:
    """The help of the command without a subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {words}" for name, (_, words) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llm-bench COMMAND [options]",
            "",
            *lines,
            "",
            "run, resume, images and prune need a clone of the repository. llm-bench COMMAND --help lists the options.",
        ]
    )


def main() -> None:
    """Runs a subcommand; without one, or without any option for ``run`` and ``resume``, shows help and does nothing."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h", "help"):
        sys.stdout.write(f"{usage()}\n")
        return
    if words[0] == "--version":
        sys.stdout.write(f"{__version__}\n")
        return
    if words[0] not in COMMANDS:
        sys.stderr.write(f"error: there is no command {words[0]!r}\nhint: {', '.join(COMMANDS)}\n")
        sys.exit(EXIT_BAD_INPUT)
    name, options = words[0], words[1:]
    if name == "run" and not options:  # a bare name must not build and measure
        options = ["--help"]
    if name == "resume":
        options = ["--resume", *options] if options and not options[0].startswith("-") else ["--help"]
    sys.argv = [sys.argv[0], *options]
    sys.exit(import_module(f"bench_core.{COMMANDS[name][0]}").main(prog_name=f"llm-bench {name}"))


if __name__ == "__main__":
    main()
