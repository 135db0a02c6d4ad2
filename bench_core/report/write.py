"""Writes a run's report beside its cells, and words its table for a terminal."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench_core.contract import layout
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.report.busy_host import warning
from bench_core.report.content import RESULT_COLUMNS, SEQUENTIAL_MARK, document, result_entries
from bench_core.report.own_error import own_error
from bench_core.report.protocol import remarks
from bench_core.report.same_batches import fastest
from bench_core.report.table import FIGURES, csv_table, markdown
from bench_core.runs.load import load_run
from bench_core.runs.text import foreign, one_line
from bench_core.runs.view import RunView

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ReportPaths:
    """What was written."""

    markdown: Path
    page: Path
    csv: Path
    figures: tuple[Path, ...]


def write_report(run_folder: Path, out: Path | None = None) -> ReportPaths:
    """Recomputes a run from its raw events and writes its report into its folder, or into ``out``.

    All of it is made in memory first, and each file replaces its predecessor at once.

    Raises:
        BadInput: not a run.
        MachineFailure: the target cannot be written.
    """
    # Drawing imports altair: a second that --help and --check need not wait for.
    from bench_core.report import figures, page  # noqa: PLC0415

    target = run_folder if out is None else out
    view = load_run(run_folder)
    words = document(view)
    drawn = {"throughput": figures.throughput(view), "memory": figures.memory(view)}
    paths = ReportPaths(
        markdown=target / layout.REPORT_FILE,
        page=target / layout.PAGE_FILE,
        csv=target / layout.TABLE_FILE,
        figures=tuple(target / layout.FIGURES_FOLDER / f"{name}.{kind}" for name in drawn for kind in ("svg", "png")),
    )
    contents = {
        paths.markdown: markdown(words).encode(),
        paths.page: page.html(words, [(alt, drawn[name].svg) for name, alt in FIGURES]).encode(),
        paths.csv: csv_table(view).encode(),
    }
    for name, figure in drawn.items():
        contents[target / layout.FIGURES_FOLDER / f"{name}.svg"] = figure.svg.encode()
        contents[target / layout.FIGURES_FOLDER / f"{name}.png"] = figure.png
    try:
        (target / layout.FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            _replace(path, content)
    except OSError as error:
        raise MachineFailure(f"{target}: cannot write the report: {error.strerror or error}", "see --out") from error
    return paths


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would hide a published report
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def differences(run_folder: Path, out: Path | None = None) -> list[str]:
    """How the report at hand differs from the one that the raw events make; one line for each file, empty if it holds.

    Compares the Markdown and the CSV, to the byte.

    Raises:
        BadInput: not a run, or there is no report to compare.
    """
    target = run_folder if out is None else out
    view = load_run(run_folder)
    expected = {layout.REPORT_FILE: markdown(document(view)), layout.TABLE_FILE: csv_table(view)}
    found = []
    for name, text in expected.items():
        try:
            present = (target / name).read_bytes().decode("utf-8", "replace")
        except OSError as error:
            raise BadInput(
                f"{target / name}: {error.strerror or error}", "without --check the report is written"
            ) from error
        difference = _first_difference(present, text)
        if difference:
            found.append(f"{target / name}{difference}")
    return found


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


def console_table(view: RunView) -> Table:
    """A run's rows for a terminal; names and causes are plain text in it."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    memory = "GPU Memory" if view.on_cuda else "Host memory"
    shown = [name for name, _ in RESULT_COLUMNS]
    wanted = [shown.index(name) - 1 for name in ("Latency (s)", "Tokens", "Throughput (token/s)", memory)]
    sequential = any(row.sequential for row in view.rows)
    captions = [text for text in (warning(view),) if text]
    captions += [f"{SEQUENTIAL_MARK} one prompt of a batch after the other"] if sequential else []
    error = own_error(view)
    captions += [f"the suite's own error: {error}"] if error is not None else []
    caption = Text("; ".join(captions)) if captions else None
    table = Table(title=Text(one_line(view.record.run_id)), title_justify="left", caption=caption)
    table.add_column("Method", overflow="fold")
    for name in ("Batch size", "Latency (s)", "Tokens", "Throughput (token/s)", memory):
        table.add_column(name, justify="right")
    table.add_column("Outcome", overflow="fold")
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        best = fastest(view, rows)
        for row in rows:
            entries = result_entries(view, row, best)
            outcome = ", ".join([row.status, *remarks(row)]) if row.result else f"{row.status}: {row.problem}"
            if view.unranked(row):
                outcome += f", not ranked: {view.unranked(row)}"
            table.add_row(
                Text(one_line(row.label) + (f" {SEQUENTIAL_MARK}" if row.sequential else "")),
                Text(str(size)),
                *(
                    Text(
                        f"{entries[k].text} {entries[k].mark}".rstrip() if row.result else row.status,
                        style="bold" if entries[k].strong else "red" if entries[k].failed else "",
                    )
                    for k in wanted
                ),
                Text(one_line(outcome), style="" if row.result else "red"),
            )
        table.add_section()
    return table
