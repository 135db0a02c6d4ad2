"""Several runs in words and tables: a document as that of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench_core.report.column import Entry, Sheet
from bench_core.report.decide.verdict import PLUS_MINUS, Verdict, verdict_of
from bench_core.report.document import Document, failures_of
from bench_core.report.explain.facts import facts
from bench_core.report.format import quantity
from bench_core.report.tables.engines import images_sheet
from bench_core.report.together.equal import Fact, equal_sheet, facts_of, sentences
from bench_core.report.together.group import Group, NamedRun
from bench_core.report.together.ranking import meanings, ranking_sheets

_OWN_REFERENCES = "Quality is told against each run's own reference."


def document_of(runs: Sequence[NamedRun], groups: Sequence[Group]) -> Document:
    """Words several runs."""
    told = facts_of(runs)
    several = len(groups) > 1
    found = [verdict_of(group.options) for group in groups]
    equal, apart = tuple(sentences(told, runs)), tuple(filter(None, [why_apart(groups, told)]))
    return Document(
        title=f"{len(runs)} runs side by side",
        verdict=(*equal, *apart, *_verdicts(groups, found, several=several)),
        # On the page a table of what is equal stands below.
        verdicts=tuple(
            {word: (*apart, *_said(group, said, several=several), *equal) for word, said in verdict.at.items()}
            for group, verdict in zip(groups, found, strict=True)
        ),
        facts=tuple((f"{run.name}: {name}", text) for run in runs for name, text in facts(run.view)),
        images=_images(runs),
        meanings=tuple(meanings()),
        glance=tuple(sheet for group in groups for sheet in ranking_sheets(group, several=several)),
        results=(),
        figures=(),
        details=(),
        failures=tuple(
            replace(failure, method=f"{failure.method} · {run.name}")
            for run in runs
            for failure in failures_of(run.view)
        ),
        beside=(equal_sheet(told, runs),),
        closing="Every number here follows from the raw events of these runs.",
        again="`python -m bench_core.report RUN` makes the whole report of one of them.",
    )


def why_apart(groups: Sequence[Group], told: Sequence[Fact]) -> str:
    """Why there are several rankings; empty where there is one."""
    if len(groups) < 2:
        return ""
    differing = [fact.title if fact.title.isupper() else fact.title.lower() for fact in told if _parts(fact)]
    return (
        f"{len(groups)} rankings, and no common one: the runs differ in {_and(differing)}, and numbers that were "
        "measured on different ones do not rank."
    )


def _parts(fact: Fact) -> bool:
    return fact.decides and len(set(fact.values)) > 1


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _verdicts(groups: Sequence[Group], found: Sequence[Verdict], *, several: bool) -> Iterator[str]:
    """Of each ranking one line, and what is to be known of them."""
    marked = False
    for group, verdict in zip(groups, found, strict=True):
        marked = marked or PLUS_MINUS in verdict.sentences
        words = " ".join(sentence for sentence in verdict.sentences if sentence != PLUS_MINUS)
        yield _named(group, words, several=several)
        yield from _of_quality(group)
    if marked:
        yield PLUS_MINUS


def _said(group: Group, said: Sequence[str], *, several: bool) -> Iterator[str]:
    """The sentences of one point, each in a line of its own."""
    yield _named(group, said[0], several=several)
    yield from (sentence for sentence in said[1:] if sentence != PLUS_MINUS)
    yield from _of_quality(group)
    if PLUS_MINUS in said:
        yield PLUS_MINUS


def _named(group: Group, words: str, *, several: bool) -> str:
    return f"{group.words}: {words}" if several else words


def _of_quality(group: Group) -> Iterator[str]:
    if len(group.runs) > 1 and any(option.nll_increase for option in group.options):
        yield _OWN_REFERENCES


def _images(runs: Sequence[NamedRun]) -> Sheet:
    """What each engine ran in, run by run."""
    sheets = [(run, images_sheet(run.view)) for run in runs]
    rows = tuple((Entry(run.name), *row) for run, found in sheets for row in found.rows)
    notes = dict.fromkeys(note for _, found in sheets for note in found.notes)
    many = quantity(len(runs), "run")
    return Sheet(f"Engines of {many}", (("Run", False), *sheets[0][1].columns), rows, tuple(notes))
