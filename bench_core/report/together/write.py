"""Writes a page of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.report.conditions import run_names
from bench_core.report.decide.cost import NO_PRICE, Prices
from bench_core.report.page.data import Part, several_data
from bench_core.report.page.write import page_of
from bench_core.report.together.document import document_of
from bench_core.report.together.group import Group, NamedRun, groups_of
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView
from bench_core.system.files import write_text

KINDS = (".html", ".md")


def write_together(folders: Sequence[Path], target: Path, prices: Prices = NO_PRICE, *, processes: int = 1) -> Path:
    """Several runs beside each other as one page, or as Markdown where ``target`` ends in ``.md``.

    Args:
        processes: see :func:`~bench_core.runs.load.load_run`.

    Raises:
        BadInput: the target's name ends otherwise, a folder is given twice or is not a run.
        MachineFailure: the target cannot be written.
    """
    if target.suffix not in KINDS:
        raise BadInput(f"--out {target}: of several runs one file is made", f"end its name in {' or '.join(KINDS)}")
    places = [folder.resolve() for folder in folders]
    twice = next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise BadInput(f"{twice} is given twice")
    named = list(zip(run_names(folders), folders, strict=True))
    text = together(named, prices, as_markdown=target.suffix == ".md", processes=processes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    except OSError as error:
        raise MachineFailure(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def together(
    named: Sequence[tuple[str, Path]],
    prices: Prices = NO_PRICE,
    *,
    as_markdown: bool = False,
    runtime: str | None = None,
    processes: int = 1,
) -> str:
    """The page, or the Markdown, of runs by their names. ``processes``: as of :func:`write_together`."""
    runs = [NamedRun(name, load_run(folder, processes=processes)) for name, folder in named]
    groups = groups_of(runs)
    words = document_of(runs, groups)
    if as_markdown:
        return markdown(words)
    parts = [
        Part(group.options, _views(group), verdicts, group.words)
        for group, verdicts in zip(groups, words.verdicts, strict=True)
    ]
    data = several_data(words.title, parts)
    return page_of(words, " · ".join(run.name for run in runs), data, prices, runtime=runtime)


def _views(group: Group) -> dict[str, RunView]:
    return {option.run: group.run_of(option).view for option in group.options}
