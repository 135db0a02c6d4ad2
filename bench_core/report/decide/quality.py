"""What a method's speed costs in quality: its perplexity beside the reference's."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bench_core.report.decide.option import Option
from bench_core.report.format import significant

# Of the reference's perplexity: whoever is no worse than this is near it.
NEAR = 0.02
NEAR_WORDS = f"{NEAR * 100:g} % of the reference's quality"


def quality_loss(option: Option) -> float | None:
    """The relative increase of perplexity above the reference's, exp(nll_increase) - 1; ``None`` where it is not
    known."""
    return None if option.nll_increase is None else math.expm1(option.nll_increase)


def is_near(option: Option) -> bool:
    """Whether a cell is known to be within ``NEAR`` of the reference's perplexity, or below it."""
    loss = quality_loss(option)
    return loss is not None and loss <= NEAR


def reference_perplexity(options: Iterable[Option]) -> float | None:
    """The reference's perplexity, of all cells of a run; ``None`` where quality was not measured."""
    return next((option.perplexity for option in options if option.nll_increase == 0 and option.perplexity), None)


def quality_words(option: Option, reference: float | None) -> str:
    """``perplexity 11.4, the reference has 8.4``; empty in a run without quality."""
    if reference is None:
        return ""
    if option.perplexity is None or option.nll_increase is None:
        return "quality not measured"
    return f"perplexity {significant(option.perplexity)}, the reference has {significant(reference)}"
