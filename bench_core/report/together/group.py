"""Which of several runs may share a ranking, and their cells as they stand in it.

Runs share one where GPU (on a CPU run, the CPU), model, workload and lengths are equal, and cells where what else
decides their numbers is: the rules of ``bench_core.report.conditions``, which comparing two runs goes by, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bench_core.report.conditions import OF_CELLS, OF_RUNS, cell_conditions, decisive, engine_version, run_conditions
from bench_core.report.decide.option import Option, options_of
from bench_core.report.explain.same_batches import rates_of
from bench_core.report.format import NO_GPU
from bench_core.runs.view import Row, RunView, ServedRow


@dataclass(frozen=True)
class NamedRun:
    """A run and what it is called on the page."""

    name: str
    view: RunView

    @cached_property
    def conditions(self) -> dict[str, str]:
        """What decides with which runs it may share a ranking."""
        return run_conditions(self.view)

    @cached_property
    def rows(self) -> dict[str, Row | ServedRow]:
        """Its cells of any kind, by name."""
        rows: list[Row | ServedRow] = [*self.view.rows, *self.view.served]
        return {row.planned.cell: row for row in rows}

    def version_of(self, image: str) -> str:
        """The engine's version, as ``vllm 0.26.0``; empty where no cell of the image tells it."""
        told = (engine_version(row.result.versions) for row in self.of_image(image) if row.result)
        return " / ".join(dict.fromkeys(words for words in told if words))

    def of_image(self, image: str) -> Iterator[Row | ServedRow]:
        """The cells of an image."""
        return (row for row in self.rows.values() if row.planned.image == image)


@dataclass(frozen=True)
class Group:
    """Runs that may share a ranking.

    Attributes:
        words: their names and what they were measured on.
        runs: in the order in which they were given.
        options: all their cells. Cells of one ``point`` are ranked beside each other and beside no others.
    """

    words: str
    runs: tuple[NamedRun, ...]
    options: tuple[Option, ...]

    def run_of(self, option: Option) -> NamedRun:
        """The run that measured a cell."""
        return self.runs[0] if len(self.runs) == 1 else next(run for run in self.runs if run.name == option.run)


def groups_of(runs: Sequence[NamedRun]) -> tuple[Group, ...]:
    """The runs, put together as they may be ranked; in the order in which each first occurs."""
    found: dict[tuple[str, ...], list[NamedRun]] = {}
    for run in runs:
        found.setdefault(tuple(decisive(name, run.conditions.get(name, "")) for name in OF_RUNS), []).append(run)
    return tuple(Group(_words(members), tuple(members), _options(members)) for members in found.values())


def _words(runs: Sequence[NamedRun]) -> str:
    gpu = runs[0].conditions["gpu"]
    device = runs[0].conditions.get("cpu", gpu) if gpu == NO_GPU else gpu
    return f"{', '.join(run.name for run in runs)} on {device}"


def _options(runs: Sequence[NamedRun]) -> tuple[Option, ...]:
    """The cells of all, by point; each with its run in its name where there are several."""
    if len(runs) == 1:
        return options_of(runs[0].view)
    options = [
        replace(option, run=run.name, method=f"{option.method} · {run.name}{_version(run, option, runs)}")
        for run in runs
        for option in options_of(run.view)
    ]
    places = [_place(option, options, runs) for option in options]
    apart = [
        replace(option, point=point, point_words=words) for option, (point, words) in zip(options, places, strict=True)
    ]
    order = {point: place for place, point in enumerate(_in_order(apart))}
    return _ranked_alike(sorted(apart, key=lambda option: order[option.point]), runs)


def _version(run: NamedRun, option: Option, runs: Iterable[NamedRun]) -> str:
    """The engine's version, where it is not the same in all runs that have the engine."""
    versions = {version for other in runs if (version := other.version_of(option.image))}
    own = run.version_of(option.image)
    return f" ({own})" if own and len(versions) > 1 else ""


def _place(option: Option, options: Iterable[Option], runs: Sequence[NamedRun]) -> tuple[str, str]:
    """Point and its words: one of its own for each set of conditions that cells of a point were measured under. A cell
    that was not reached has none and stands with the first."""
    by_name = {run.name: run for run in runs}

    def conditions(one: Option) -> tuple[str, ...]:
        found = cell_conditions(by_name[one.run].rows[one.cell])
        return tuple(found.get(name, "") for name in OF_CELLS) if found else ()

    known = list(dict.fromkeys(found for one in options if one.point == option.point and (found := conditions(one))))
    if len(known) < 2:
        return option.point, option.point_words
    own = conditions(option) or known[0]
    differing = [k for k in range(len(OF_CELLS)) if len({found[k] for found in known}) > 1]
    words = ", ".join(f"{OF_CELLS[k]} {own[k].removeprefix(OF_CELLS[k]).strip() or 'none'}" for k in differing)
    number = known.index(own)
    # The word of the point stays at the end, where its number is read.
    return f"{number + 1}:{option.point}" if number else option.point, f"{option.point_words} ({words})"


def _in_order(options: Iterable[Option]) -> list[str]:
    """Points kind by kind, ascending; of one load under several conditions in the order of the runs."""

    def place(option: Option) -> tuple[int, float]:
        for kind, size in enumerate((option.batch_size, option.concurrency, option.request_rate)):
            if size is not None:
                return kind, size
        return 3, 0.0

    return list(dict.fromkeys(option.point for option in sorted(options, key=place)))


def _ranked_alike(options: Sequence[Option], runs: Sequence[NamedRun]) -> tuple[Option, ...]:
    """Closed batches without an interval are ranked by the batches that others measured too: of all these runs. Of a
    run that was measured repeatedly the mean of the repeats stays."""
    by_name = {run.name: run for run in runs}
    rates: dict[tuple[str, str], float] = {}
    for point in dict.fromkeys(option.point for option in options):
        ranked: dict[tuple[str, str], Row] = {}
        for option in options:
            run = by_name[option.run]
            row = run.rows[option.cell]
            once = not run.view.repeated
            if option.point == point and once and isinstance(row, Row) and option.ranked and run.view.compares(row):
                ranked[option.run, option.cell] = row
        rates |= rates_of(ranked)
    return tuple(
        replace(option, compared_tok_s=rates.get((option.run, option.cell), option.compared_tok_s))
        for option in options
    )
