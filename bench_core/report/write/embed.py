"""Puts a table of a run's report into a page of the documentation, and tells whether one there still follows.

A block is marked, so that no number in a page is typed by hand::

    <!-- sheet: results/published/RUN Quality -->
    ...
    <!-- /sheet -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.report.document import document
from bench_core.report.write.markdown import sheet_markdown
from bench_core.runs.load import load_run

_BLOCK = re.compile(r"<!-- sheet: (?P<run>\S+) (?P<heading>[^>\n]+?) -->\n(?P<body>.*?)<!-- /sheet -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A marked block: whose table, which, and what stands there."""

    run: str
    heading: str
    body: str


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    return (Block(found["run"], found["heading"], found["body"]) for found in _BLOCK.finditer(text))


def sheet_of(run_folder: Path, heading: str) -> str:
    """One table of a run's report in Markdown with its notes, without the heading, recomputed from the raw events.

    Raises:
        BadInput: not a run, or its report has no such table.
    """
    words = document(load_run(run_folder))
    sheets = [*words.glance, *words.results, *words.details, words.images]
    found = next((sheet for sheet in sheets if sheet.heading == heading), None)
    if found is None:
        raise BadInput(f"{run_folder}: its report has no table {heading!r}", ", ".join(s.heading for s in sheets))
    return sheet_markdown(found)


def embed(page: Path, run_folder: Path, named: str) -> None:
    """Makes the blocks of a page tables of this run, and writes ``named`` into them as the run's place.

    Blocks that name it already, where there are any: a page may show several runs. Otherwise all, where they name one
    run, which this one replaces.

    Raises:
        BadInput: the page has no block, or blocks of several other runs; it cannot be read or written; or a table is
            not there.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{page}: cannot be read: {error}") from error
    runs = {block.run for block in blocks(text)}
    if not runs:
        raise BadInput(f"{page}: has no block for a table", "mark one: <!-- sheet: RUN Quality --> <!-- /sheet -->")
    replaced = runs & {named} or runs
    if len(replaced) > 1:
        raise BadInput(f"{page}: shows {', '.join(sorted(runs))}", f"name {named} in the blocks that are to show it")

    def made(found: re.Match[str]) -> str:
        if found["run"] not in replaced:
            return found[0]
        heading = found["heading"]
        return f"<!-- sheet: {named} {heading} -->\n{sheet_of(run_folder, heading)}\n<!-- /sheet -->"

    try:
        page.write_text(_BLOCK.sub(made, text), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{page}: cannot be written: {error.strerror or error}") from error
