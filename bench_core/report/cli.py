"""``python -m bench_core.report RUN``: makes a run's report again from its raw events, or checks the one at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED
from bench_core.report.decide.choose import choose as find
from bench_core.report.decide.cost import Prices, prices
from bench_core.report.decide.option import options_of
from bench_core.report.decide.wanted import EXAMPLE, parse_wanted
from bench_core.report.write.files import differences, write_report
from bench_core.runs.collector import collect_seldom
from bench_core.runs.forks import cpus
from bench_core.runs.load import load_run

_PLAIN_WIDTH = 160  # of tables where standard output is no terminal

_Publish = Annotated[
    Path | None,
    typer.Option(
        "--publish",
        metavar="FOLDER",
        help="Copy the run there, raw events compressed, without what is private, and verify the copy.",
        show_default=False,
    ),
]
_Choose = Annotated[
    str | None,
    typer.Option(
        "--choose",
        metavar="LIMITS",
        help=f"Write nothing; show which method to take within limits: {EXAMPLE}. Exit with 1 if none fits.",
        show_default=False,
    ),
]
_GpuHourPrice = Annotated[
    float | None,
    typer.Option(help="Price of an hour of the device: adds the cost of a million output tokens.", show_default=False),
]
_KwhPrice = Annotated[
    float | None, typer.Option(help="Price of a kWh: adds the cost of the device's energy.", show_default=False)
]
_Currency = Annotated[str, typer.Option(help="Of the prices, a word for headings, as EUR.", show_default=False)]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run's folder: results/<run>.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report. Default: the run's folder.", show_default=False)
    ] = None,
    embed: Annotated[
        Path | None,
        typer.Option(
            "--embed", help="Write only this: the run's tables into a page's marked blocks.", show_default=False
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if report.md or a CSV differs.")
    ] = False,
    publish_to: _Publish = None,
    without_prompts: Annotated[
        bool, typer.Option("--without-prompts", help="With --publish: leave the prompts' token ids out.")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="With --publish: though planned cells have not been reached yet.")
    ] = False,
    choose: _Choose = None,
    gpu_hour_price: _GpuHourPrice = None,
    kwh_price: _KwhPrice = None,
    currency: _Currency = "",
) -> None:
    """Recompute a run's tables and figures from its raw events."""
    try:
        priced = prices(gpu_hour_price, kwh_price, currency)
        elsewhere = check or embed is not None or publish_to is not None
        if priced and elsewhere:
            raise BadInput("prices go with a report or with --choose", "leave them out")
        if choose is not None:
            _choose(run, choose, priced, alone=not elsewhere and out is None)
            return
        if publish_to is not None:
            if check or out is not None:
                raise BadInput("--publish makes a folder of its own", "leave out --check and --out")
            _publish(run, publish_to, prompts=not without_prompts, unfinished=unfinished)
            return
        if without_prompts or unfinished:
            raise BadInput(f"--{'without-prompts' if without_prompts else 'unfinished'} goes with --publish")
        if check:
            _check(run, out)
            return
        if embed is not None:
            from bench_core.report.write.embed import embed as put  # noqa: PLC0415  # the one use

            put(embed, run, run.as_posix())
            typer.echo(embed)
            return
        paths = write_report(run, out, priced, processes=cpus())
    except BadInput as error:
        typer.echo(f"error: {error.cause}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    for path in (paths.markdown, paths.page, *paths.tables, *paths.figures):
        typer.echo(path)


def _choose(run: Path, limits: str, priced: Prices, *, alone: bool) -> None:
    """Shows the answer; exits with 1 if no method is within the limits. ``alone``: nothing else was asked for."""
    if not alone:
        raise BadInput("--choose writes nothing", "leave out --out, --check, --embed and --publish")
    from rich.console import Console  # noqa: PLC0415  # the one use

    from bench_core.report.write.choice import console_choice  # noqa: PLC0415

    wanted = parse_wanted(limits)
    choice = find(options_of(load_run(run)), wanted)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    for part in console_choice(choice, wanted, priced):
        console.print(part)
    if not choice.ranked:
        raise typer.Exit(EXIT_FAILED)


def _check(run: Path, out: Path | None) -> None:
    found = differences(run, out)
    if found:
        for line in found:
            typer.echo(f"differs: {line}", err=True)
        raise typer.Exit(EXIT_FAILED)
    typer.echo("the report follows from the raw events")


def _publish(run: Path, target: Path, *, prompts: bool, unfinished: bool) -> None:
    # The one import against the order of the rooms: people look for this option beside the report, and what publishes
    # has to verify, which reads reports.
    from bench_core.verify.publish import NotVerified, publish  # noqa: PLC0415

    try:
        files = publish(run, target, prompts=prompts, unfinished=unfinished)
    except NotVerified as error:
        for difference in error.differences:
            typer.echo(f"differs: {difference.line}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    size = sum(path.stat().st_size for path in files)
    typer.echo(f"{target}: {len(files)} files, {size / 1e6:.2f} MB, verified")


def main(prog_name: str = "python -m bench_core.report") -> None:
    """Runs the command line."""
    collect_seldom()
    app(prog_name=prog_name)
