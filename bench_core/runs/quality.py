"""Quality of a run's cells: with what each is compared, and whether it may be ranked.

Decides nothing by an engine's name: which variant is the reference, and which stand in for it in what order, was
recorded with the plan.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench_core.contract.measures.quality import (
    ROWS_TO_JUDGE,
    Agreement,
    Likelihood,
    NllDifference,
    QualityBounds,
    agreement,
    doubt,
    nll_difference,
    shortfall,
)
from bench_core.contract.records.events import BatchEvent

Method = tuple[str, str]  # image, variant


@dataclass(frozen=True)
class Outputs:
    """The measured outputs of a cell, by prompt; compact, since all cells of a run are held at once.

    Attributes:
        tokens: ids of all rows, one after the other.
        prompts: of each row, the index of its prompt in the workload.
        ends: of each row, where its ids end in ``tokens``.
    """

    tokens: array[int]
    prompts: array[int]
    ends: array[int]

    @classmethod
    def of(cls, batches: Iterable[BatchEvent]) -> Outputs:
        """Of measured batches; where a prompt was measured more than once, its first output counts."""
        rows: dict[int, tuple[int, ...]] = {}
        for batch in batches:
            for prompt, row in zip(batch.prompts, batch.outputs, strict=True):
                rows.setdefault(prompt, row)
        ends = itertools.accumulate(map(len, rows.values()))
        return cls(_compact(itertools.chain.from_iterable(rows.values())), _compact(rows), _compact(ends))

    def rows(self) -> dict[int, array[int]]:
        """Token ids of each prompt's output, by the prompt."""
        edges = itertools.pairwise((0, *self.ends))
        return {prompt: self.tokens[first:end] for prompt, (first, end) in zip(self.prompts, edges, strict=True)}

    def beside(self, other: Outputs) -> Iterable[tuple[Sequence[int], Sequence[int]]]:
        """(ours, other's) rows of the prompts that both have."""
        ours, others = self.rows(), other.rows()
        return ((row, others[prompt]) for prompt, row in ours.items() if prompt in others)


def _compact(values: Iterable[int]) -> array[int]:
    """With four bytes for each value, where that is enough."""
    kept = list(values)
    try:
        return array("i", kept)
    except OverflowError:
        return array("q", kept)


@dataclass(frozen=True)
class Candidate:
    """A measured cell, as far as quality needs it.

    Attributes:
        rank: 0 for the reference, from 1 for those that may stand in, in order; ``None`` for all others.
        compared: whether it takes part in comparisons at all; a scripted engine has no quality.
    """

    cell: str
    method: Method
    label: str
    batch_size: int
    rank: int | None
    compared: bool
    outputs: Outputs
    likelihood: Likelihood | None


@dataclass(frozen=True)
class CellQuality:
    """What can be said of one cell.

    Attributes:
        likelihood: of the cell's method: its own, or that of another batch size.
        difference: of that from the reference's; ``None`` where there is nothing to compare.
        agreement: of the cell's outputs with those of ``beside``; ``None`` where nothing serves as reference.
        beside: label and batch size of the cell compared with; empty for one that is compared with itself.
        failure: why the cell is not ranked; empty where it is.
        verdict: in a few words.
    """

    likelihood: Likelihood | None
    difference: NllDifference | None
    agreement: Agreement | None
    beside: str
    failure: str
    verdict: str


@dataclass(frozen=True)
class RunQuality:
    """The quality of a run's cells.

    Attributes:
        cells: by the cell's name; only those that take part.
        likelihood_reference: label of the method whose likelihood the others' are compared with; empty for none.
        stand_ins: who stood in for the reference where, in words.
    """

    cells: dict[str, CellQuality] = field(default_factory=dict)
    likelihood_reference: str = ""
    stand_ins: tuple[str, ...] = ()


def assess(
    candidates: Sequence[Candidate], planned_reference: str, bounds: QualityBounds, *, random_weights: bool
) -> RunQuality | None:
    """Compares the cells of a run; ``None`` where there is nothing to compare with and no likelihood at all.

    Args:
        candidates: the measured cells that tables show, in the order of the plan.
        planned_reference: label of the variant that its image declares as the reference, where the plan has one.

    For outputs, the reference of a batch size is the cell of the lowest rank that has numbers there; where none has,
    the reference's outputs at the nearest batch size serve, for the prompts that both have answered. For likelihood,
    it is the method of the lowest rank that has one. A reference is doubted where another method's likelihood shows
    that it is damaged (:func:`~bench_core.contract.measures.quality.doubt`): it is not ranked, judges nobody, and the
    next stands in.
    """
    taking_part = [candidate for candidate in candidates if candidate.compared]
    declared = sorted((c for c in taking_part if c.rank is not None), key=_rank)
    scores = _scores(taking_part)
    if not declared and not scores:
        return None
    doubted = _doubted(declared, taking_part, scores, bounds)
    ranked = [c for c in declared if c.method not in doubted]
    likely = next((c for c in ranked if c.method in scores), None)
    cells, notes = {}, [*_absence(declared, planned_reference), *_doubts(declared, doubted, ranked)]
    for candidate in taking_part:
        reference = _reference_of(candidate, ranked)
        agreed = None
        if reference is not None and reference.cell != candidate.cell:
            agreed = agreement(candidate.outputs.beside(reference.outputs))
        score = scores.get(candidate.method)
        difference = None
        if likely is not None and score is not None and likely.method != candidate.method:
            difference = nll_difference(score, scores[likely.method])
        failure = shortfall(difference, agreed, bounds, random_weights=random_weights)
        if candidate.method in doubted:
            failure = f"as a reference it is doubted: {doubted[candidate.method]}"
        is_reference = candidate.cell in {c.cell for c in (reference, likely) if c is not None}
        cells[candidate.cell] = CellQuality(
            likelihood=score,
            difference=difference,
            agreement=agreed,
            beside=f"{reference.label} at {reference.batch_size}" if agreed is not None and reference else "",
            failure=failure,
            verdict=_verdict(failure, difference, agreed, is_reference=is_reference, random_weights=random_weights),
        )
        if reference is not None and reference.rank and reference.cell == candidate.cell:
            notes.append(f"at batch size {candidate.batch_size}, {candidate.label} stands in for the reference")
    return RunQuality(cells, likely.label if likely else "", tuple(dict.fromkeys(notes)))


def _rank(candidate: Candidate) -> int:
    assert candidate.rank is not None  # noqa: S101  # callers leave out those that have none
    return candidate.rank


def _scores(candidates: Sequence[Candidate]) -> dict[Method, Likelihood]:
    """Each method's likelihood: the first that has numbers, else the first that says why there are none."""
    found: dict[Method, Likelihood] = {}
    for candidate in candidates:
        score, known = candidate.likelihood, found.get(candidate.method)
        if score is not None and (known is None or (known.cause and not score.cause)):
            found[candidate.method] = score
    return found


def _reference_of(candidate: Candidate, ranked: Sequence[Candidate]) -> Candidate | None:
    here = [c for c in ranked if c.batch_size == candidate.batch_size]
    if here or not ranked:
        return here[0] if here else None
    best = [c for c in ranked if c.rank == ranked[0].rank]
    return min(best, key=lambda c: abs(c.batch_size - candidate.batch_size))


def _doubted(
    declared: Sequence[Candidate],
    taking_part: Sequence[Candidate],
    scores: Mapping[Method, Likelihood],
    bounds: QualityBounds,
) -> dict[Method, str]:
    """The methods that would judge others and must not, and why."""
    labels = {c.method: c.label for c in taking_part}
    found = {}
    for method in dict.fromkeys(c.method for c in declared if c.method in scores):
        others = [(labels[other], score) for other, score in scores.items() if other != method]
        reason = doubt(scores[method], others, bounds)
        if reason:
            found[method] = reason
    return found


def _doubts(declared: Sequence[Candidate], doubted: Mapping[Method, str], ranked: Sequence[Candidate]) -> Iterable[str]:
    labels = {c.method: c.label for c in declared}
    for method, reason in doubted.items():
        yield f"{labels[method]} is doubted and judges nobody: {reason}"
    if doubted and not ranked:
        yield "no reference is left, and nobody is judged by one"


def _absence(ranked: Sequence[Candidate], planned_reference: str) -> list[str]:
    if not ranked:
        return ["no variant of this run serves as reference"]
    if not planned_reference:
        return ["the variant declared as the reference is not part of this run"]
    if all(candidate.rank for candidate in ranked):
        return [f"the reference, {planned_reference}, has no numbers in this run"]
    return []


def _verdict(
    failure: str,
    difference: NllDifference | None,
    agreed: Agreement | None,
    *,
    is_reference: bool,
    random_weights: bool,
) -> str:
    if failure:
        return f"not ranked: {failure}"
    if is_reference and difference is None and agreed is None:
        return "reference"
    if difference is not None:
        return "within the bounds"
    if agreed is not None and not random_weights and agreed.rows >= ROWS_TO_JUDGE:
        return "within the bound of agreement, not scored"
    return "not judged"
