"""How a command of the driver's room ends where something is wrong: a cause, a hint and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_MACHINE, EXIT_OK
from bench_core.drive.run.progress import printable


def refuse(error: BadInput) -> NoReturn:
    """Ends the process with one line of cause and one of what to do; code 3 where it is this machine that failed."""
    hint = f"hint: {printable(error.hint)}\n" if error.hint else ""
    sys.stderr.write(f"error: {printable(error.cause)}\n{hint}")
    sys.exit(EXIT_MACHINE if isinstance(error, MachineFailure) else EXIT_BAD_INPUT)


def run_command(function: Callable[..., Any], prog_name: str) -> NoReturn:
    """Runs a function whose parameters are a command line; a misuse is a line of cause, a line of hint, and code 2."""
    code: int | None = None
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(function)
    try:
        code = typer.main.get_command(app).main(prog_name=prog_name, standalone_mode=False)
    except BadInput as error:
        refuse(error)
    except typer.TyperException as error:
        refuse(BadInput(error.format_message(), "see --help"))
    except typer.Abort:
        code = EXIT_INTERRUPTED
    sys.exit(code or EXIT_OK)
