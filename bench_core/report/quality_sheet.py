"""The table of quality: likelihood of a fixed text, agreement with the reference, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable

from bench_core.contract.quality import ROWS_TO_JUDGE, SCORE_TOKENS, Agreement, Likelihood, NllDifference
from bench_core.report.cell_key import bits_entry, cell_key
from bench_core.report.format import ABSENT, quantity, significant
from bench_core.report.sheet import Entry, Sheet
from bench_core.runs.quality import CellQuality, RunQuality
from bench_core.runs.text import foreign
from bench_core.runs.view import Row, RunView

QUALITY_HEADING = "Quality"
_COLUMNS = (
    ("Method", False),
    ("Batch size", True),
    ("Bits per weight", True),
    ("NLL (nat/token)", True),
    ("Difference to the reference", True),
    ("Perplexity", True),
    ("Same first token", True),
    ("Rows identical", True),
    ("Common prefix, mean", True),
    ("Common prefix, median", True),
    ("Equal tokens", True),
    ("Compared with", False),
    ("Verdict", False),
)


def quality_sheet(view: RunView) -> Iterable[Sheet]:
    """One table, or none for a run in which nothing can be compared: method by method, batch sizes ascending."""
    quality = view.quality
    if quality is None:
        return
    methods = list(dict.fromkeys((row.planned.image, row.planned.variant) for row in view.rows))
    rows = sorted(view.grid, key=lambda r: (methods.index((r.planned.image, r.planned.variant)), r.planned.batch_size))
    lines = tuple(_line(row, quality.cells[row.planned.cell]) for row in rows if row.planned.cell in quality.cells)
    yield Sheet(QUALITY_HEADING, _COLUMNS, lines, tuple(_notes(view, quality)))


def _line(row: Row, cell: CellQuality) -> tuple[Entry, ...]:
    return (
        *cell_key(row),
        bits_entry(row),
        _nll(cell.likelihood),
        _difference(cell.difference),
        _perplexity(cell.likelihood),
        *_agreement(cell.agreement),
        Entry(cell.beside or ABSENT),
        Entry(cell.verdict, failed=bool(cell.failure)),
    )


def _nll(likelihood: Likelihood | None) -> Entry:
    if likelihood is None:
        return Entry(ABSENT)
    if likelihood.nll_nat_per_token is None:
        return Entry(f"not scored: {foreign(likelihood.cause)}", failed=True)
    return Entry(f"{likelihood.nll_nat_per_token:.4f}", likelihood.nll_nat_per_token)


def _difference(difference: NllDifference | None) -> Entry:
    if difference is None:
        return Entry(ABSENT)
    error = "" if difference.standard_error is None else f" ± {difference.standard_error:.4f}"
    written = f"{round(difference.nat_per_token, 4) + 0.0:+.4f}"  # + 0.0: no minus before a zero
    return Entry(written + error, difference.nat_per_token)


def _perplexity(likelihood: Likelihood | None) -> Entry:
    if likelihood is None or likelihood.perplexity is None:
        return Entry(ABSENT)
    return Entry(significant(likelihood.perplexity), likelihood.perplexity)


def _agreement(agreed: Agreement | None) -> tuple[Entry, ...]:
    if agreed is None:
        return (Entry(ABSENT),) * 5
    return (
        _rows(agreed.rows_same_first_token, agreed.rows),
        _rows(agreed.rows_identical, agreed.rows),
        _share(agreed.mean_common_prefix),
        _share(agreed.median_common_prefix),
        _share(agreed.equal_positions),
    )


def _rows(number: int, of: int) -> Entry:
    return Entry(f"{number} of {of}", number / of)


def _share(value: float) -> Entry:
    return Entry(f"{value:.1%}", value)


def _notes(view: RunView, quality: RunQuality) -> Iterable[str]:
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
