"""Comparisons as tables: columns that are declared once, for the terminal and for Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench_core.compare.comparison import Comparison, Line, needed
from bench_core.compare.side import Side
from bench_core.compare.verdict import WORST_FIRST, Verdict
from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.format import ABSENT, quantity, significant

# A terminal and a pull request hold so many lines that somebody reads; the rest is counted, and in the JSON.
MOST_LINES = 200
# Up to so many, those that pass are shown as well.
ALL_UP_TO = 60


def _number(line: Line, value: float | None) -> str:
    return ABSENT if value is None or line.quantity is None else line.quantity.written(value)


def change_words(line: Line) -> str:
    """``-4.81 (-5.10 to -4.49)``, per cent; without the interval where there is none."""
    if line.change is None:
        return ABSENT
    ends = line.change.ends
    own = f"{line.change.relative * 100:+.2f}"
    return f"{own} ({ends[0] * 100:+.2f} to {ends[1] * 100:+.2f})" if ends is not None else own


def known_by(line: Line) -> str:
    """What the change is known by, in a few words."""
    if line.change is None or not line.change.known:
        return ABSENT
    return "repeats" if line.change.repeats else "intervals"


def to_do(line: Line) -> str:
    """The cause of a verdict, and how long to measure to be able to tell."""
    cause = line.judged.cause
    found = needed(line)
    if found is None:
        return cause
    seconds, batches, repeats = found
    if line.change is not None and line.change.repeats:
        return f"{cause}: measure {repeats} repeats in each run"
    what = "requests" if line.pair is not None and line.pair.under_load else "batches"
    return f"{cause}: measure for about {_duration(seconds)} in each run ({batches} {what})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{significant(seconds, 2)} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{significant(seconds / 3600, 2)} hours"


def _quantity(line: Line) -> str:
    if line.quantity is None:
        return ABSENT
    return f"{line.quantity.title} ({line.quantity.shown_unit})" if line.quantity.shown_unit else line.quantity.title


def columns(comparison: Comparison) -> list[Column[Line]]:
    """Of a table of lines; the runs' names stand over their numbers."""
    return [
        Column("Verdict", "verdict.value", words=True, strong=lambda line: line.verdict is Verdict.FAIL),
        Column("Cell", lambda line: f"{line.label}, {line.scenario}", words=True),
        Column("Quantity", _quantity, words=True),
        Column(comparison.old.name, lambda line: _number(line, line.old)),
        Column(comparison.new.name, lambda line: _number(line, line.new)),
        Column("Change, its 95 % interval (%)", change_words),
        Column("Remark", to_do, words=True, absent=""),
    ]


@dataclass(frozen=True)
class _Count:
    """Verdicts of one quantity, or of cells without numbers."""

    title: str
    bound: str
    counts: Counter[Verdict]


def summary(comparison: Comparison) -> Sheet:
    """How many changes of each quantity passed and failed."""
    found: dict[str, Counter[Verdict]] = {}
    bounds: dict[str, str] = {}
    for line in comparison.lines:
        title = line.quantity.title if line.quantity is not None else "Cells that are not compared"
        found.setdefault(title, Counter())[line.verdict] += 1
        bounds[title] = ABSENT if line.bound is None else f"{significant(line.bound * 100, 3)} %"
    lines = [_Count(title, bounds[title], counts) for title, counts in found.items()]
    head: list[Column[_Count]] = [
        Column("Quantity", "title", words=True),
        Column("Allowed worsening", "bound"),
        *(Column(verdict.value, _counted(verdict)) for verdict in WORST_FIRST),
    ]
    return sheet("Verdicts", head, lines)


def _counted(verdict: Verdict) -> Callable[[_Count], int]:
    return lambda count: count.counts[verdict]


def shown(comparison: Comparison, *, everything: bool) -> tuple[list[Line], str]:
    """Lines to show, worst first, and what is said of those that are not."""
    lines = comparison.worst_first
    if everything or len(lines) <= ALL_UP_TO:
        return lines, ""
    kept = [line for line in lines if line.verdict is not Verdict.PASS][:MOST_LINES]
    left = Counter(line.verdict for line in lines) - Counter(line.verdict for line in kept)
    words = ", ".join(f"{left[verdict]} {verdict.value}" for verdict in WORST_FIRST if left[verdict])
    return kept, f"Not shown: {words}; --all shows every line, and --json has them." if words else ""


def detail(comparison: Comparison, *, everything: bool) -> Sheet:
    """The lines themselves."""
    lines, left = shown(comparison, everything=everything)
    return sheet("Changes", columns(comparison), lines, [left] if left else [])


def head(comparison: Comparison) -> str:
    """The verdict in one sentence."""
    counts = {verdict: comparison.count(verdict) for verdict in WORST_FIRST}
    open_lines = counts[Verdict.INCONCLUSIVE]
    words = {
        Verdict.FAIL: f"{quantity(counts[Verdict.FAIL], 'line')} worse than allowed",
        Verdict.INCONCLUSIVE: f"{quantity(open_lines, 'line')} cannot be told"
        if open_lines
        else "nothing was compared",
        Verdict.PASS: f"all {quantity(counts[Verdict.PASS], 'change')} within what is allowed",
    }
    return (
        f"{comparison.verdict.value}: {comparison.new.name} against {comparison.old.name}: {words[comparison.verdict]}"
    )


@dataclass(frozen=True)
class _Fact:
    """Something that the runs were made with. ``new`` is empty where it is the same."""

    what: str
    old: str
    new: str


def differences(comparison: Comparison) -> Sheet:
    """Conditions and circumstances of both runs, versions of engines, and their options where these differ."""
    old, new = ({**side.conditions, **side.facts} for side in (comparison.old, comparison.new))
    names = dict.fromkeys((*old, *new))
    lines = [_Fact(name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names]
    lines += _engines(comparison)
    head: Sequence[Column[_Fact]] = [
        Column("", "what", words=True),
        Column(comparison.old.name, "old", words=True),
        Column(comparison.new.name, "new", words=True),
    ]
    return sheet("What was compared", head, lines)


def _engines(comparison: Comparison) -> Iterator[_Fact]:
    images = dict.fromkeys(key.image for key in (*comparison.old.cells, *comparison.new.cells))
    for image in images:
        yield _Fact(f"{image}: versions", *(_versions(side, image) for side in (comparison.old, comparison.new)))
    told: dict[_Fact, None] = {}
    for key, before in comparison.old.cells.items():
        after = comparison.new.cells.get(key)
        if after is None:
            continue
        one, other = before.options, after.options
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                told[_Fact(f"{key.image}.{key.variant}: {name}", one.get(name, ABSENT), other.get(name, ABSENT))] = None
    yield from told


def _versions(side: Side, image: str) -> str:
    """Of all cells of an image: they differ where a run was gone on with."""
    found = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in cell.versions.items())
        for key, cell in side.cells.items()
        if key.image == image and cell.versions
    )
    return "; ".join(found) or ABSENT
