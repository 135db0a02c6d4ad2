"""Least squares of a series on a few others, by bases made orthogonal one after the other (Gram and Schmidt)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

# A column that is this small a part of itself once the earlier ones are taken out says nothing new.
_NOTHING_NEW = 1e-9


class _Base(NamedTuple):
    values: list[float]
    square: float


class Fit:
    """What columns say of a series, its mean apart.

    Args:
        columns: each of the series' length. One that is constant, or that follows from the earlier ones, is left out.
        at: for each column, the place that ``shift`` and ``leverage`` speak of; the columns' means if left out.
    """

    def __init__(self, columns: Sequence[Sequence[float]], at: Sequence[float] | None = None) -> None:
        self._n = len(columns[0]) if columns else 1
        self._bases: list[_Base] = []
        self._at: list[float] = []
        for index, column in enumerate(columns):
            centre = math.fsum(column) / len(column)
            centred = [value - centre for value in column]
            values, shares = self._without_bases(centred)
            square = _dot(values, values)
            if square > _NOTHING_NEW * max(_dot(centred, centred), 1.0):
                place = (at[index] if at is not None else centre) - centre
                self._at.append(place - math.fsum(s * p for s, p in zip(shares, self._at, strict=True)))
                self._bases.append(_Base(values, square))

    @property
    def columns(self) -> int:
        """Columns that were not left out."""
        return len(self._bases)

    def residuals(self, values: Sequence[float]) -> list[float]:
        """A series less its mean and what the columns say of it."""
        mean = math.fsum(values) / len(values)
        return self._without_bases([value - mean for value in values])[0]

    def shift(self, values: Sequence[float]) -> float:
        """What the columns say of a series at the place asked for, less its mean."""
        return math.fsum(
            _dot(values, base.values) / base.square * place for base, place in zip(self._bases, self._at, strict=True)
        )

    @property
    def leverage(self) -> float:
        """Variance that the slopes add to the series' mean at the place asked for / variance of one residual."""
        return math.fsum(place * place / base.square for base, place in zip(self._bases, self._at, strict=True))

    @property
    def neighbours(self) -> float:
        """Sum of the hat matrix's first off-diagonal, the mean included: how much alike the fit makes the residuals of
        neighbours that are independent. 1 - 1/n without a column."""
        own = math.fsum(
            math.fsum(a * b for a, b in itertools.pairwise(base.values)) / base.square for base in self._bases
        )
        return (self._n - 1) / self._n + own

    def _without_bases(self, centred: list[float]) -> tuple[list[float], tuple[float, ...]]:
        rest, shares = centred, []
        for base in self._bases:
            share = _dot(rest, base.values) / base.square
            rest = [value - share * part for value, part in zip(rest, base.values, strict=True)]
            shares.append(share)
        return rest, tuple(shares)


@lru_cache(maxsize=64)
def known_fit(columns: tuple[tuple[float, ...], ...], at: tuple[float, ...] | None = None) -> Fit:
    """The same, kept: cells of one run were given the same batches."""
    return Fit(columns, at)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
