"""Comparisons for a terminal and for a pull request. Names and causes are plain text in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench_core.compare.comparison import Comparison
from bench_core.compare.tables import detail, differences, head, summary
from bench_core.compare.verdict import Verdict
from bench_core.report.column import Entry, Sheet
from bench_core.report.format import markdown_text
from bench_core.report.write.markdown import sheet_markdown
from bench_core.system.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_STYLES = {Verdict.FAIL.value: "bold red", Verdict.INCONCLUSIVE.value: "yellow", Verdict.PASS.value: "green"}


def console(comparison: Comparison, *, everything: bool) -> Iterator[RenderableType]:
    """One comparison for a terminal, its verdict last, where it is read first."""
    from rich.text import Text  # noqa: PLC0415

    for warning in comparison.warnings:
        yield Text(f"warning: {one_line(warning)}", style="bold yellow")
    yield _table(_what_differs(differences(comparison)))
    lines = detail(comparison, everything=everything)
    if lines.rows:
        yield _table(lines)
    yield _table(summary(comparison))
    for note in (*lines.notes, *comparison.notes):
        yield Text(one_line(note))
    yield Text(one_line(head(comparison)), style=_STYLES[comparison.verdict.value])


def _what_differs(sheet: Sheet) -> Sheet:
    """Rows whose last two fields differ, and those of versions; Markdown has all of them."""
    rows = tuple(row for row in sheet.rows if row[-1].text != row[-2].text or row[0].text.endswith("versions"))
    return Sheet(sheet.heading, sheet.columns, rows, sheet.notes)


def _table(sheet: Sheet) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text(sheet.heading), title_justify="left")
    for name, of_numbers in sheet.columns:
        whole = name == "Verdict"
        table.add_column(
            Text(one_line(name)), justify="right" if of_numbers else "left", overflow="fold", no_wrap=whole
        )
    for row in sheet.rows:
        table.add_row(*(Text(one_line(entry.text), style=_style(entry)) for entry in row))
    return table


def _style(entry: Entry) -> str:
    return _STYLES.get(entry.text, "")


def markdown(comparisons: Sequence[Comparison]) -> str:
    """All comparisons for a pull request: verdict, warnings, what failed; circumstances folded."""
    parts: list[str] = []
    for comparison in comparisons:
        parts += [f"### {markdown_text(head(comparison))}"]
        parts += [f"> **Warning**: {markdown_text(warning)}" for warning in comparison.warnings]
        parts += [sheet_markdown(summary(comparison))]
        lines = detail(comparison, everything=False)
        if lines.rows:
            parts += [sheet_markdown(lines)]
        elif lines.notes:
            parts += [markdown_text(note) for note in lines.notes]
        parts += [markdown_text(note) for note in comparison.notes]
        table = sheet_markdown(differences(comparison))
        parts += [f"<details><summary>What was compared</summary>\n\n{table}\n\n</details>"]
    return "\n\n".join(parts) + "\n"
