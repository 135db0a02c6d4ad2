"""``python -m bench_core.report RUN``: makes a run's report again from its raw events, or checks the one at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED
from bench_core.report import options as given
from bench_core.report.decide.choose import choose as find
from bench_core.report.decide.cost import Prices, prices
from bench_core.report.decide.option import options_of
from bench_core.report.decide.verdict import choice_sentences
from bench_core.report.decide.wanted import parse_wanted
from bench_core.report.write.files import differences, write_report
from bench_core.runs.collector import collect_seldom
from bench_core.runs.forks import cpus
from bench_core.runs.load import load_run

_PLAIN_WIDTH = 160  # of tables where standard output is no terminal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    runs: given.RunFolders,
    out: given.Out = None,
    embed: given.Embed = None,
    check: given.Check = False,
    publish_to: given.Publish = None,
    without_prompts: given.WithoutPrompts = False,
    unfinished: given.Unfinished = False,
    choose: given.Choose = None,
    export_to: given.Export = None,
    export_format: given.ExportFormat = "",
    gpu_hour_price: given.GpuHourPrice = None,
    kwh_price: given.KwhPrice = None,
    currency: given.Currency = "",
) -> None:
    """Recompute a run's tables and figures from its raw events."""
    try:
        priced = prices(gpu_hour_price, kwh_price, currency)
        asked = given.Asked(
            runs, out, embed, check, publish_to, without_prompts, unfinished, choose, export_to, export_format, priced
        )
        asked.require_sense()
        _do(asked)
    except BadInput as error:
        typer.echo(f"error: {error.cause}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None


def _do(asked: given.Asked) -> None:
    # What only one of the ways needs is imported there: it loads libraries that --help need not wait for.
    run = asked.runs[0]
    if len(asked.runs) > 1 and asked.out is not None:
        from bench_core.report.together.write import write_together  # noqa: PLC0415

        typer.echo(write_together(asked.runs, asked.out, asked.prices, processes=cpus()))
    elif asked.choose is not None:
        _choose(run, asked.choose, asked.prices)
    elif asked.export_to is not None:
        _export(run, asked.export_to, asked.export_format)
    elif asked.publish_to is not None:
        _publish(run, asked.publish_to, prompts=not asked.without_prompts, unfinished=asked.unfinished)
    elif asked.check:
        _check(run, asked.out)
    elif asked.embed is not None:
        from bench_core.report.write.embed import embed as put  # noqa: PLC0415

        put(asked.embed, run, run.as_posix())
        typer.echo(asked.embed)
    else:
        paths = write_report(run, asked.out, asked.prices, processes=cpus())
        for path in (paths.markdown, paths.page, *paths.tables, *paths.figures):
            typer.echo(path)


def _choose(run: Path, limits: str, priced: Prices) -> None:
    """Shows the answer; exits with 1 if no method is within the limits."""
    from rich.console import Console  # noqa: PLC0415  # the one use

    from bench_core.report.write.choice import console_choice  # noqa: PLC0415
    from bench_core.report.write.narrow import fitted  # noqa: PLC0415

    wanted = parse_wanted(limits)
    options = options_of(load_run(run, processes=cpus()))
    choice = find(options, wanted)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    for part in console_choice(choice, choice_sentences(options, choice, wanted), wanted, priced):
        console.print(fitted(part, console))
    if not choice.ranked:
        raise typer.Exit(EXIT_FAILED)


def _export(run: Path, target: Path, formats: str) -> None:
    from bench_core.report.export.write import export, formats_of  # noqa: PLC0415  # the one use

    for path in export(run, target, formats_of(formats)):
        typer.echo(path)


def _check(run: Path, out: Path | None) -> None:
    found = differences(run, out, processes=cpus())
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
