"""The table of quality: likelihood of a fixed text, agreement with the reference, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench_core.contract.measures.quality import ROWS_TO_JUDGE, SCORE_TOKENS
from bench_core.report.cell import BITS, KEY, Cell, by_method
from bench_core.report.column import Column, Entry, Sheet, at, raw, sheet
from bench_core.report.format import ABSENT, quantity, significant
from bench_core.runs.quality import RunQuality
from bench_core.runs.view import RunView
from bench_core.system.text import foreign


def _not_scored(cell: Cell) -> str:
    found = cell.quality.likelihood if cell.quality else None
    return f"not scored: {foreign(found.cause)}" if found and found.nll_nat_per_token is None else ""


def _difference(cell: Cell) -> Entry:
    difference = cell.quality.difference if cell.quality else None
    if difference is None:
        return Entry(ABSENT)
    error = "" if difference.standard_error is None else f" ± {difference.standard_error:.4f}"
    written = f"{round(difference.nat_per_token, 4) + 0.0:+.4f}"  # + 0.0: no minus before a zero
    return Entry(written + error, difference.nat_per_token)


def _rows(path: str) -> Callable[[Cell], Entry]:
    """A number of rows beside how many were compared."""

    def shown(cell: Cell) -> Entry:
        number, agreed = at(path)(cell), cell.quality.agreement if cell.quality else None
        return Entry(f"{number} of {agreed.rows}", number / agreed.rows) if agreed else Entry(ABSENT)

    return shown


def _verdict(cell: Cell) -> Entry:
    found = cell.quality
    return Entry(found.verdict, failed=bool(found.failure)) if found else Entry(ABSENT)


def _agreement(title: str, name: str, *, rows: bool = False) -> Column[Cell]:
    path = f"quality.agreement.{name}"
    return Column(title, path, "{:.1%}".format, csv=f"agreement_{name}", shown=_rows(path) if rows else None)


QUALITY: Sequence[Column[Cell]] = [
    *KEY,
    BITS,
    Column(
        "NLL",
        "quality.likelihood.nll_nat_per_token",
        "{:.4f}".format,
        unit="nat/token",
        csv="nll_nat_per_token",
        failed=_not_scored,
    ),
    Column(
        "Difference to the reference",
        "quality.difference.nat_per_token",
        csv="nll_difference_nat_per_token",
        shown=_difference,
    ),
    Column("Perplexity", "quality.likelihood.perplexity", significant),
    _agreement("Same first token", "rows_same_first_token", rows=True),
    _agreement("Rows identical", "rows_identical", rows=True),
    _agreement("Common prefix, mean", "mean_common_prefix"),
    _agreement("Common prefix, median", "median_common_prefix"),
    _agreement("Equal tokens", "equal_positions"),
    Column("Compared with", "quality.beside", lambda label: label or ABSENT, csv="agreement_beside", words=True),
    Column("Verdict", "quality.verdict", csv="quality_verdict", words=True, shown=_verdict),
]
RAW: tuple[Column[Cell], ...] = raw("quality.agreement", "rows", csv="agreement_{}")


def quality_sheet(view: RunView) -> Iterator[Sheet]:
    """One table, or none for a run in which nothing can be compared: method by method, batch sizes ascending."""
    if view.quality is not None:
        cells = [cell for cell in by_method(view) if cell.quality]
        yield sheet("Quality", QUALITY, cells, _notes(view, view.quality))


def _notes(view: RunView, quality: RunQuality) -> Iterator[str]:
    bounds, synthetic = view.record.quality, view.record.model.synthetic
    scored = next((c.likelihood for c in quality.cells.values() if c.likelihood and c.likelihood.scored_tokens), None)
    if scored is not None:
        tokens = quantity(sum(scored.scored_tokens), "token")
        texts = quantity(len(scored.scored_tokens), "text")
        yield (
            f"NLL: negative log-likelihood, natural logarithm, of {tokens} in {texts} "
            f"(first {SCORE_TOKENS} tokens of the workload's first prompts; digest {scored.digest[:12]}), scored once "
            "for each method after its batches. Perplexity: its exponential. ±: standard error of the difference over "
            f"texts. The reference: {quality.likelihood_reference or 'none'}."
        )
    yield (
        "Agreement: each measured output beside that of the same prompt in the cell named. Common prefix: share of a "
        "row's tokens before the first difference. Greedy decoding turns a near-tie into another text, so that correct "
        "engines differ too; equal tokens after a first difference are coincidence."
    )
    if synthetic:
        yield (
            "Random weights: every choice is a near-tie, agreement says nothing and excludes nobody. The NLL shows "
            f"that engines compute the same; one more than {bounds.max_nll_increase:g} nat/token above the "
            "reference's is not ranked."
        )
    else:
        yield (
            f"Not ranked: an NLL more than {bounds.max_nll_increase:g} nat/token above the reference's, or fewer than "
            f"{bounds.min_agreement:.0%} of {ROWS_TO_JUDGE} rows or more with the reference's first token."
        )
    if quality.stand_ins:
        yield "Reference: " + "; ".join(quality.stand_ins) + "."
