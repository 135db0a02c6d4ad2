"""What is equal in several runs, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.conditions import OF_RUNS, decisive, run_facts
from bench_core.report.format import ABSENT
from bench_core.report.together.group import NamedRun
from bench_core.system.text import foreign

_TITLES = {
    "gpu": "GPU", "cpu": "CPU", "model": "Model", "workload": "Workload", "lengths": "Lengths", "driver": "Driver",
    "suite": "Suite", "host": "Host", "cards": "Cards", "visits": "Visits", "repeats": "Repeats", "date": "Date",
}  # fmt: skip
# What may differ in one ranking and is still the first thing to know; the rest stands in the table alone.
_TOLD = ("driver",)
_SHOWN_FACTS = ("driver", "suite", "host", "cards", "visits", "repeats", "date")


@dataclass(frozen=True)
class Fact:
    """One thing that runs have in common or differ in.

    Attributes:
        decides: runs that differ in it are never ranked beside each other.
        top: said in the page's first lines.
        values: of each run, in their order; empty where a run has no such thing.
        brief: the same for the first lines.
        alike: what of the values has to be alike; the values themselves where empty.
    """

    title: str
    values: tuple[str, ...]
    decides: bool = False
    top: bool = False
    brief: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """``equal`` in all runs, ``differs``, or ``not in all`` where those that have it have the same."""
        if len(set(self.alike or self.values)) == 1:
            return "equal"
        return "differs" if self.decides or len({value for value in self.values if value}) > 1 else "not in all"


def facts_of(runs: Sequence[NamedRun]) -> list[Fact]:
    """What decides first, then versions and options of engines, then what else there is."""
    found = [
        Fact(_TITLES[name], values, decides=True, top=True, alike=tuple(decisive(name, value) for value in values))
        for name in OF_RUNS
        for values in [_of(runs, name)]
    ]
    facts = [run_facts(run.view) for run in runs]
    told = [Fact(_TITLES[name], tuple(one[name] for one in facts), top=name in _TOLD) for name in _SHOWN_FACTS]
    engines = list(_engines(runs))
    return [fact for fact in (*found, *told[:1], *engines, *_options(runs), *told[1:]) if any(fact.values)]


def _of(runs: Sequence[NamedRun], name: str) -> tuple[str, ...]:
    return tuple(run.conditions.get(name, "") for run in runs)


def _images(runs: Sequence[NamedRun]) -> list[str]:
    return list(dict.fromkeys(row.planned.image for run in runs for row in run.rows.values()))


def _engines(runs: Sequence[NamedRun]) -> Iterator[Fact]:
    """Versions of each image's packages."""
    for image in _images(runs):
        versions = tuple(_versions(run, image) for run in runs)
        brief = tuple(run.version_of(image) for run in runs)
        if len(set(brief)) == 1 and len(set(versions)) > 1:  # what differs is another package
            brief = versions
        yield Fact(f"Versions of {foreign(image)}", versions, top=any(brief), brief=brief)


def _versions(run: NamedRun, image: str) -> str:
    told: dict[str, dict[str, None]] = {}
    for row in run.of_image(image):
        for name, version in (row.result.versions if row.result else {}).items():
            told.setdefault(foreign(name), {})[foreign(version)] = None
    return ", ".join(f"{name} {' / '.join(versions)}" for name, versions in told.items())


def _options(runs: Sequence[NamedRun]) -> Iterator[Fact]:
    """Options of each method that differ."""
    keys = {(row.planned.image, row.planned.variant): None for run in runs for row in run.rows.values()}
    for image, variant in keys:
        options = [
            next((row.spec.options for row in run.of_image(image) if row.planned.variant == variant and row.spec), None)
            for run in runs
        ]
        names = sorted({name for one in options for name in one or {}})
        differing = [name for name in names if len({repr(one.get(name)) for one in options if one is not None}) > 1]
        if differing:
            words = tuple(
                ", ".join(f"{name} {foreign(str(one[name]))}" for name in differing if name in one) if one else ""
                for one in options
            )
            yield Fact(f"Options of {foreign(image)}.{foreign(variant)}", words)


def sentences(facts: Sequence[Fact], runs: Sequence[NamedRun]) -> Iterator[str]:
    """What is equal in all runs and what differs, of what stands at the top."""
    top = [fact for fact in facts if fact.top]
    equal = [f"{fact.title}: {(fact.brief or fact.values)[0]}" for fact in top if fact.words == "equal"]
    if equal:
        yield f"Equal in all runs: {'; '.join(equal)}."
    shared = [fact for fact in top if fact.words == "not in all" and sum(map(bool, fact.values)) > 1]
    if shared:
        yield f"Equal in the runs that have it: {'; '.join(f'{one.title}: {_each(one, runs)}' for one in shared)}."
    differing = [f"{fact.title}: {_each(fact, runs)}" for fact in top if fact.words == "differs"]
    yield f"Different: {'; '.join(differing)}." if differing else "Nothing of what decides numbers differs."


def _each(fact: Fact, runs: Sequence[NamedRun]) -> str:
    """Each value with the runs that have it."""
    of_value: dict[str, list[str]] = {}
    for run, value in zip(runs, fact.brief or fact.values, strict=True):
        if value or fact.decides:
            of_value.setdefault(value or "none", []).append(run.name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in of_value.items())


def equal_sheet(facts: Sequence[Fact], runs: Sequence[NamedRun]) -> Sheet:
    """A line for each fact, a column for each run."""
    columns = [
        Column[Fact]("What", "title", words=True),
        Column[Fact]("", "words", words=True, strong=lambda fact: fact.words == "differs"),
        *(_column(run.name, place) for place, run in enumerate(runs)),
    ]
    decides = ", ".join(fact.title for fact in facts if fact.decides)
    note = f"Runs share a ranking where these are equal: {decides}. Everything else may differ and is told."
    return sheet("What is equal, what differs", columns, facts, (note,))


def _column(name: str, place: int) -> Column[Fact]:
    return Column(name, "values", shown=lambda fact: Entry(fact.values[place] or ABSENT), words=True)
