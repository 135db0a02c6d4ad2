"""``python -m bench_core.verify RUN``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED
from bench_core.report.format import quantity
from bench_core.runs.collector import collect_seldom
from bench_core.runs.forks import cpus
from bench_core.verify.differences import Difference
from bench_core.verify.run import Verification, verify_run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The run's folder: results/<run>.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object on standard output.")] = False,
) -> None:
    """Compute everything that a run publishes again from its raw events, and compare every digest that it keeps.

    Exit code 0: all agrees. 1: it does not; one line for each difference. 2: not a run.
    """
    try:
        done = verify_run(run, processes=cpus())
    except BadInput as error:
        typer.echo(f"error: {error.cause}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    if as_json:
        typer.echo(json.dumps(_plain(done)))
    else:
        _tell(done)
    if done.differences:
        raise typer.Exit(EXIT_FAILED)


def _tell(done: Verification) -> None:
    for difference in done.differences:
        typer.echo(f"differs: {difference.line}", err=True)
    for line in done.not_checked:
        typer.echo(f"not checked: {line}")
    count = len(done.differences)
    verdict = "all that is published follows from the raw events" if not count else quantity(count, "difference")
    typer.echo(f"{done.run_id}: {quantity(done.cells, 'cell')}: {verdict}")


def _plain(done: Verification) -> dict[str, object]:
    def fields(difference: Difference) -> dict[str, str | None]:
        return {"file": difference.file, "cell": difference.cell, "what": difference.what}

    return {
        "run": done.run_id,
        "agrees": not done.differences,
        "cells": done.cells,
        "differences": [fields(difference) for difference in done.differences],
        "not_checked": list(done.not_checked),
    }


def main(prog_name: str = "python -m bench_core.verify") -> None:
    """Runs the command line."""
    collect_seldom()
    app(prog_name=prog_name)
