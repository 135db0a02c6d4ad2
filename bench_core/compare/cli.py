"""``python -m bench_core.compare A B [C ...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench_core import __version__
from bench_core.compare.comparison import Asked, Comparison, compare
from bench_core.compare.quantities import bounds_of, chosen, share_of
from bench_core.compare.read import read_sides, read_versions
from bench_core.compare.record import record_of
from bench_core.compare.verdict import Verdict
from bench_core.compare.write import console, markdown
from bench_core.contract.errors import BadInput, MachineFailure, nearest
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INCONCLUSIVE, EXIT_OK
from bench_core.report.conditions import OF_CELLS, OF_RUNS
from bench_core.runs.collector import collect_seldom
from bench_core.system.files import write_text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_PLAIN_WIDTH = 160  # of tables where standard output is no terminal, as in the log of a CI
_EXIT_CODES = {Verdict.PASS: EXIT_OK, Verdict.FAIL: EXIT_FAILED, Verdict.INCONCLUSIVE: EXIT_INCONCLUSIVE}


_Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of runs: the baseline first, then each run to compare with it. "
        "Of one run alone, the versions of its engine are compared."
    ),
]
_Versions = Annotated[
    str,
    typer.Option(
        "--engine-version",
        help="Of one run: compare these versions, as vllm=0.26.0,0.33.0, the baseline first.",
        show_default="all that it has",
    ),
]


@app.command("compare")
def compare_runs(
    runs: _Runs,
    engine_version: _Versions = "",
    max_regression: Annotated[
        str, typer.Option("--max-regression", help="Allowed worsening, as 3%, or with some of its own: 3%,memory=5%.")
    ] = "3%",
    quantities: Annotated[
        str, typer.Option("--quantities", help="Compare these alone, as throughput,tpot.", show_default="all")
    ] = "",
    allow_different: Annotated[
        str,
        typer.Option(
            "--allow-different",
            help=f"Compare although these differ, of {', '.join((*OF_RUNS, *OF_CELLS))}.",
            show_default="none",
        ),
    ] = "",
    between_runs: Annotated[
        str,
        typer.Option(
            "--between-runs",
            help="Standard deviation between starts of an engine, as 1%, for cells that were measured once.",
            show_default="not known",
        ),
    ] = "",
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write a summary for a pull request.", show_default=False)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything as JSON.", show_default=False)
    ] = None,
    figure_file: Annotated[
        Path | None, typer.Option("--figure", help="Draw all changes: a file that ends in .svg.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show lines that pass, too, however many.")] = False,
) -> None:
    """Compare runs cell by cell with a baseline, or the versions of an engine in one run.

    Exit code 0: nothing is worse than allowed. 1: something is. 3: nothing is known to be, but not all can be told.
    2: these runs cannot be compared.
    """
    try:
        asked = Asked(chosen(quantities), bounds_of(max_regression), _allowed(allow_different), _starts(between_runs))
        comparisons = _compared(runs, engine_version, asked, figure_file)
        verdict = _worst(comparisons)
        _tell(comparisons, everything=everything)
        _write(comparisons, verdict, markdown_file, json_file, figure_file)
    except BadInput as error:
        typer.echo(f"error: {error.cause}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    raise typer.Exit(_EXIT_CODES[verdict])


def _compared(runs: Sequence[Path], versions: str, asked: Asked, figure: Path | None) -> list[Comparison]:
    if versions and len(runs) > 1:
        raise BadInput("--engine-version compares versions within one run", "give one run, or leave it out")
    if figure is not None and figure.suffix != ".svg":
        raise BadInput(f"--figure {figure}: its name does not end in .svg")
    sides = read_sides(runs) if len(runs) > 1 else read_versions(runs[0], *_versions(versions))
    return [compare(sides[0], side, asked) for side in sides[1:]]


def _worst(comparisons: Sequence[Comparison]) -> Verdict:
    found = {one.verdict for one in comparisons}
    return next((v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE) if v in found), Verdict.PASS)


def _allowed(words: str) -> frozenset[str]:
    names = frozenset(word.strip() for word in words.split(",") if word.strip())
    for name in sorted(names - {*OF_RUNS, *OF_CELLS}):
        raise BadInput(f"--allow-different: {name!r} is nothing that may differ", nearest(name, (*OF_RUNS, *OF_CELLS)))
    return names


def _versions(words: str) -> tuple[str, list[str]]:
    """``IMAGE=VERSION,VERSION`` or ``IMAGE`` alone, of which all are meant; nothing where one engine has versions."""
    engine, separator, listed = words.partition("=")
    versions = list(dict.fromkeys(word.strip() for word in listed.split(",") if word.strip()))
    if words and (not engine or (separator and len(versions) < 2)):
        raise BadInput(f"--engine-version {words!r} is not IMAGE=VERSION,VERSION", "for example vllm=0.26.0,0.33.0")
    return engine.strip(), versions


def _starts(text: str) -> float:
    starts = share_of(text, "--between-runs") if text else 0.0
    if not 0 <= starts < 1:
        raise BadInput(f"--between-runs {text}: a standard deviation is a share from 0 to 100 %")
    return starts


def _tell(comparisons: Sequence[Comparison], *, everything: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from bench_core.report.write.narrow import fitted  # noqa: PLC0415

    terminal = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    for comparison in comparisons:
        for part in console(comparison, everything=everything):
            terminal.print(fitted(part, terminal))


def _write(
    comparisons: Sequence[Comparison], verdict: Verdict, md: Path | None, js: Path | None, svg: Path | None
) -> None:
    """The files that were asked for; each replaces its predecessor at once.

    Raises:
        MachineFailure: one cannot be written.
    """
    texts: list[tuple[Path, str]] = []
    if md is not None:
        texts.append((md, markdown(comparisons)))
    if js is not None:
        record = record_of(comparisons, verdict, _EXIT_CODES[verdict], __version__)
        texts.append((js, record.model_dump_json(indent=1) + "\n"))
    if svg is not None:
        from bench_core.compare.figure import draw  # noqa: PLC0415  # the one use

        texts.append((svg, draw(comparisons).svg))
    for path, text in texts:
        try:
            write_text(path, text)
        except OSError as error:
            raise MachineFailure(f"{path}: cannot be written: {error.strerror or error}") from error
        typer.echo(path)


def main(prog_name: str = "python -m bench_core.compare") -> None:
    """Runs the command line."""
    collect_seldom()
    app(prog_name=prog_name)
