"""Two runs beside each other: every cell of either, paired, judged, or told in words why it is not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench_core.compare.change import Change, Spread
from bench_core.compare.pair import Pair
from bench_core.compare.quantities import Quantity
from bench_core.compare.side import Cell, Side
from bench_core.compare.verdict import WORST_FIRST, Judged, Verdict, judge, judge_memory
from bench_core.contract.errors import BadInput
from bench_core.contract.statistics.interval import FEWEST_BATCHES
from bench_core.report.conditions import OF_CELLS, OF_RUNS, decisive


@dataclass(frozen=True)
class Asked:
    """How to compare.

    Attributes:
        bounds: the largest worsening of each quantity, as a share.
        allowed: conditions that may differ.
        starts: standard deviation between starts of an engine, as a share, where cells were measured once.
    """

    quantities: tuple[Quantity, ...]
    bounds: dict[str, float]
    allowed: frozenset[str] = frozenset()
    starts: float = 0.0


@dataclass(frozen=True)
class Line:
    """One quantity of one cell; or a cell of which there is only something to say.

    Attributes:
        cell: its name; ``label`` and ``scenario`` in words.
        quantity: ``None`` for the latter.
        old, new: means over the repeats, in the quantity's unit.
        pair: where both runs have numbers.
    """

    cell: str
    label: str
    scenario: str
    judged: Judged
    quantity: Quantity | None = None
    old: float | None = None
    new: float | None = None
    change: Change | None = None
    bound: float | None = None
    pair: Pair | None = None

    @property
    def verdict(self) -> Verdict:
        """Of the rule."""
        return self.judged.verdict


@dataclass(frozen=True)
class Comparison:
    """A run beside the baseline.

    Attributes:
        warnings: what makes the numbers hard to compare; stands at the top.
        notes: what else a reader has to know.
        lines: in the order of the baseline's plan.
    """

    old: Side
    new: Side
    asked: Asked
    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """FAIL where one line failed, else INCONCLUSIVE where one is or where nothing could be compared, else PASS."""
        found = {line.verdict for line in self.lines}
        order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
        return next((verdict for verdict in order if verdict in found), Verdict.INCONCLUSIVE)

    @property
    def worst_first(self) -> list[Line]:
        """Lines by verdict, in each the largest worsening first."""
        return sorted(self.lines, key=_rank)

    def count(self, verdict: Verdict) -> int:
        """Lines of a verdict."""
        return sum(line.verdict is verdict for line in self.lines)


def _rank(line: Line) -> tuple[int, float]:
    worse = line.quantity.worsening(line.change.log) if line.quantity and line.change else float("inf")
    return WORST_FIRST.index(line.verdict), -worse


def compare(old: Side, new: Side, asked: Asked) -> Comparison:
    """Compares a run with the baseline.

    Raises:
        BadInput: they differ in what decides all numbers, and that was not allowed; or have no cell in common.
    """
    warnings = tuple(_run_differences(old, new, asked.allowed))
    if not old.cells.keys() & new.cells.keys():
        one, other = (old.name, new.name) if old.folder == new.folder else (old.folder, new.folder)
        raise BadInput(
            f"{one} and {other} have no cell in common",
            "cells are paired by image, variant, and batch size or load point",
        )
    alone: dict[str, list[Line]] = {}
    pairs: list[Pair] = []
    order = list(dict.fromkeys((*old.cells, *new.cells)))
    for key in order:
        before, after = old.cells.get(key), new.cells.get(key)
        alone[key.name] = list(_told(before, after, old, new, asked.allowed))
        if before is not None and after is not None and not _not_comparable(before, after, asked.allowed):
            pairs.append(Pair(before, after, old.forced and new.forced))
    lines = _judged(pairs, asked, old, new)
    in_order = [line for key in order for line in (*alone[key.name], *lines.get(key.name, ()))]
    return Comparison(old, new, asked, tuple(in_order), warnings, tuple(_notes(pairs, asked)))


def _run_differences(old: Side, new: Side, allowed: Collection[str]) -> Iterator[str]:
    sides = (old.conditions, new.conditions)
    names = [name for name in OF_RUNS if len({decisive(name, side.get(name, "")) for side in sides}) > 1]
    words = {n: f"{n} is {old.conditions.get(n, 'none')}, and {new.conditions.get(n, 'none')}" for n in names}
    refused = [name for name in names if name not in allowed]
    if refused:
        raise BadInput(
            f"{old.folder} and {new.folder} cannot be compared: {'; '.join(words[name] for name in refused)}",
            f"compare them nevertheless with --allow-different {','.join(names)}",
        )
    for name in names:
        yield f"the runs differ in what decides their numbers: {words[name]}"


def _not_comparable(before: Cell, after: Cell, allowed: Collection[str]) -> str:
    """Why numbers of a cell are not compared; empty where they are."""
    if before.trouble or after.trouble:
        return before.trouble or after.trouble
    names = [n for n in OF_CELLS if before.conditions.get(n) != after.conditions.get(n) and n not in allowed]
    found = [f"{n} is {before.conditions.get(n, 'none')}, and {after.conditions.get(n, 'none')}" for n in names]
    return f"not the same cell: {'; '.join(found)} (--allow-different {','.join(names)})" if names else ""


def _told(before: Cell | None, after: Cell | None, old: Side, new: Side, allowed: Collection[str]) -> Iterator[Line]:
    """What there is to say of a cell beside its numbers."""
    cell = before or after
    assert cell is not None  # noqa: S101  # a key is of one of them

    def line(verdict: Verdict, cause: str) -> Line:
        return Line(cell.key.name, cell.label, cell.scenario, Judged(verdict, cause))

    if before is None:
        yield line(Verdict.NOTE, f"not in {old.name}")
    elif after is None:
        yield line(Verdict.INCONCLUSIVE, f"not in {new.name}")
    elif after.trouble:
        if before.trouble:
            yield line(Verdict.NOTE, f"no number in either: {before.trouble}, and {after.trouble}")
        else:
            yield line(Verdict.FAIL if after.failed else Verdict.INCONCLUSIVE, f"in {new.name}: {after.trouble}")
    elif before.trouble:
        verdict = Verdict.NOTE if before.failed else Verdict.INCONCLUSIVE
        yield line(verdict, f"in {old.name}: {before.trouble}; {new.name} has numbers")
    elif why := _not_comparable(before, after, allowed):
        yield line(Verdict.INCONCLUSIVE, why)
    elif before.saturated != after.saturated:
        where, verdict = (new.name, Verdict.FAIL) if after.saturated else (old.name, Verdict.NOTE)
        yield line(verdict, f"saturated in {where} alone: its latencies belong to no lasting state")


def _judged(pairs: Sequence[Pair], asked: Asked, old: Side, new: Side) -> dict[str, list[Line]]:
    """Lines of all quantities of all pairs, by the cell's name."""
    of_image: dict[tuple[str, str], Spread] = {}
    for pair in pairs:
        if pair.once:
            continue
        for quantity in asked.quantities:
            place = (pair.new.key.image, quantity.name)
            of_image[place] = of_image.get(place, Spread()) + pair.spread(quantity.name)
    lines: list[Line] = []
    changed: list[tuple[int, tuple[Quantity, Change, float]]] = []
    for pair in pairs:
        for quantity in asked.quantities:
            line = _line(pair, quantity, asked.bounds[quantity.name], old, new)
            if line is None:
                continue
            change = pair.change(quantity, of_image, asked.starts)
            before, after = line.old, line.new
            if change is not None and before is not None and after is not None:
                line = replace(line, change=change)
                bound = asked.bounds[quantity.name]
                if quantity.name == "memory":
                    line = replace(line, judged=judge_memory(before, after, quantity, bound))
                else:
                    changed.append((len(lines), (quantity, change, bound)))
            lines.append(line)
    for (index, _), judged in zip(changed, judge([one for _, one in changed]), strict=True):
        lines[index] = replace(lines[index], judged=judged)
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.cell, []).append(line)
    return found


def _line(pair: Pair, quantity: Quantity, bound: float, old: Side, new: Side) -> Line | None:
    """Before it is judged; ``None`` where neither run has the quantity, or a saturated one can have none."""
    numbers = pair.numbers(quantity.name)
    means = [sum(one.value for one in known) / len(known) if known else None for known in numbers]
    if means == [None, None] or (None in means and (pair.old.saturated or pair.new.saturated)):
        return None
    judged = Judged(Verdict.INCONCLUSIVE, f"not told in {new.name}")
    if means[0] is None:
        judged = Judged(Verdict.NOTE, f"not told in {old.name}")
    cell = pair.new
    return Line(cell.key.name, cell.label, cell.scenario, judged, quantity, means[0], means[1], None, bound, pair)


def _notes(pairs: Sequence[Pair], asked: Asked) -> Iterator[str]:
    if any(pair.once for pair in pairs) and not asked.starts:
        yield (
            "Cells that were measured once: what an engine differs by from start to start is in no interval. Measure "
            "with --repeats 3, or say what is known of it with --between-runs."
        )
    fewer = [
        f"{cell.key.name}: {len(cell.repeats)} of {cell.planned}"
        for pair in pairs
        for cell in (pair.old, pair.new)
        if len(cell.repeats) < cell.planned
    ]
    if fewer:
        yield f"Repeats that have numbers and are ranked: {'; '.join(dict.fromkeys(fewer))}."


def needed(line: Line) -> tuple[float, int, int] | None:
    """How long to measure to be able to tell, by the square-root law: seconds, batches (or requests) of each
    measurement, and repeats in each run; one of the last two grows. ``None`` where no factor is known."""
    factor, pair = line.judged.factor, line.pair
    if factor is None or pair is None or line.change is None:
        return None
    if line.change.repeats:
        return pair.measured_s, pair.batches, max(round(factor * max(pair.repeats) + 0.5), max(pair.repeats) + 1)
    batches = max(round(factor * pair.batches + 0.5), FEWEST_BATCHES)
    return factor * pair.measured_s, batches, max(pair.repeats)
