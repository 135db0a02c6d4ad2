"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench_core.contract.records import layout
from bench_core.report.column import Entry, Sheet
from bench_core.report.document import Document, Failure
from bench_core.report.format import markdown_text


def markdown(document: Document) -> str:
    """The whole report. Text from names, causes and facts is inert in it."""
    verdict = " ".join(markdown_text(sentence) for sentence in document.verdict)
    parts = [f"# {markdown_text(document.title)}", verdict]
    if document.beside:
        parts += [_sheet(sheet, level=2) for sheet in document.beside]
    else:
        parts += [_facts(document.facts)]
    parts += [_sheet(sheet, level=2) for sheet in document.glance]
    parts += ["What the columns mean:", _facts(document.meanings)]
    parts += [_sheet(sheet, level=2) for sheet in document.results]
    for group in document.figures:
        parts += [f"## {group.heading}"]
        parts += [f"![{alt}]({layout.FIGURES_FOLDER}/{name}.svg)" for name, alt in group.figures]
    if document.failures:
        parts += ["## Cells without numbers", "\n".join(_failure(failure) for failure in document.failures)]
    parts += ["## Details"]
    parts += [_facts(document.facts)] if document.beside else []
    parts += [_sheet(sheet, level=3) for sheet in (*document.details, document.images)]
    parts += [f"{document.closing.removesuffix('.')}; {document.again}"]
    return "\n\n".join(parts) + "\n"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{markdown_text(name)}**: {markdown_text(text)}" for name, text in facts)


def _sheet(sheet: Sheet, level: int) -> str:
    return f"{'#' * level} {markdown_text(sheet.heading)}\n\n{sheet_markdown(sheet)}"


def sheet_markdown(sheet: Sheet) -> str:
    """A table and its notes, without its heading."""
    if not sheet.rows:
        return "No cell was measured."
    lines = ["| " + " | ".join(markdown_text(title) for title, _ in sheet.columns) + " |"]
    lines.append("|" + "|".join("---:" if of_numbers else "---" for _, of_numbers in sheet.columns) + "|")
    lines += ["| " + " | ".join(_entry(entry) for entry in row) + " |" for row in sheet.rows]
    for note in sheet.notes:
        lines += ["", markdown_text(note)]
    return "\n".join(lines)


def _entry(entry: Entry) -> str:
    text = markdown_text(entry.text)
    if entry.strong:
        text = f"**{text}**"
    return f"{text} {entry.mark}" if entry.mark else text


def _failure(failure: Failure) -> str:
    evidence = f" ({markdown_text(failure.evidence)})" if failure.evidence else ""
    return (
        f"- **{markdown_text(failure.method)}**, {failure.scenario}: "
        f"{markdown_text(failure.status)}: {markdown_text(failure.cause)}{evidence}"
    )
