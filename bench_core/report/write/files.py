"""Writes a run's report beside its cells, and tells whether one there still follows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.report.decide.cost import NO_PRICE, Prices, prices_told
from bench_core.report.document import document
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.markdown import markdown
from bench_core.report.write.serving_table import serving_table
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView
from bench_core.system.files import write_file
from bench_core.system.text import foreign


@dataclass(frozen=True)
class ReportPaths:
    """What was written. ``tables``: a CSV of cells of closed batches, one of cells under load, as there are any."""

    markdown: Path
    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]


def write_report(
    run_folder: Path, out: Path | None = None, prices: Prices = NO_PRICE, *, processes: int = 1
) -> ReportPaths:
    """Recomputes a run from its raw events and writes its report into its folder, or into ``out``.

    All of it is made in memory first, and each file replaces its predecessor at once.

    Args:
        processes: see :func:`~bench_core.runs.load.load_run`.

    Raises:
        BadInput: not a run.
        MachineFailure: the target cannot be written.
    """
    # The page's template engine: --help and --check need not wait for it.
    from bench_core.report.figures.every import draw_all  # noqa: PLC0415
    from bench_core.report.page import write as page  # noqa: PLC0415

    target = run_folder if out is None else out
    view = load_run(run_folder, processes=processes)
    with ThreadPoolExecutor(1) as beside:  # the drawing program works outside of Python
        drawing = beside.submit(draw_all, view)
        words = document(view, prices)
        tables = csv_tables(view, prices)
        texts = markdown(words).encode(), page.html(view, words, prices).encode()
        drawn = drawing.result()
    paths = ReportPaths(
        markdown=target / layout.REPORT_FILE,
        page=target / layout.PAGE_FILE,
        tables=tuple(target / name for name in tables),
        figures=tuple(target / layout.FIGURES_FOLDER / f"{name}.{kind}" for name in drawn for kind in ("svg", "png")),
    )
    contents = {
        paths.markdown: texts[0],
        paths.page: texts[1],
        **{target / name: text.encode() for name, text in tables.items()},
    }
    for name, figure in drawn.items():
        contents[target / layout.FIGURES_FOLDER / f"{name}.svg"] = figure.svg.encode()
        contents[target / layout.FIGURES_FOLDER / f"{name}.png"] = figure.png
    try:
        (target / layout.FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            write_file(path, content)
    except OSError as error:
        raise MachineFailure(f"{target}: cannot write the report: {error.strerror or error}", "see --out") from error
    return paths


def csv_tables(view: RunView, prices: Prices = NO_PRICE) -> dict[str, str]:
    """The CSVs of a run, by the names of their files: of each kind of cell that it has."""
    found = {layout.TABLE_FILE: csv_table(view, prices)} if view.rows else {}
    return found | ({layout.SERVING_TABLE_FILE: serving_table(view, prices)} if view.served else {})


def differences(run_folder: Path, out: Path | None = None, *, processes: int = 1) -> list[str]:
    """How the report at hand differs from the one that the raw events make; one line for each file, empty if it holds.

    Compares the Markdown and the CSVs, to the byte; with costs by the prices that the Markdown says.

    Args:
        processes: see :func:`~bench_core.runs.load.load_run`.

    Raises:
        BadInput: not a run, or there is no report to compare.
    """
    target = run_folder if out is None else out
    view = load_run(run_folder, processes=processes)
    prices = prices_told(_present(target / layout.REPORT_FILE))
    expected = {layout.REPORT_FILE: markdown(document(view, prices)), **csv_tables(view, prices)}
    found = []
    for name, text in expected.items():
        difference = _first_difference(_present(target / name), text)
        if difference:
            found.append(f"{target / name}{difference}")
    return found


def _present(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", "without --check the report is written") from error


def _first_difference(present: str, expected: str) -> str:
    """``:line: has ..., recomputed ...``; empty where the texts are equal."""
    if present == expected:
        return ""
    has, wants = present.splitlines(keepends=True), expected.splitlines(keepends=True)
    number = next(
        (k for k, (left, right) in enumerate(zip(has, wants, strict=False)) if left != right), min(len(has), len(wants))
    )
    left = _excerpt(has[number]) if number < len(has) else "nothing"
    right = _excerpt(wants[number]) if number < len(wants) else "nothing"
    return f":{number + 1}: has {left}, recomputed {right}"


def _excerpt(line: str) -> str:
    return repr(foreign(line, 240))
