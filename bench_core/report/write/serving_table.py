"""The raw numbers of every cell under load as CSV."""

from __future__ import annotations

from bench_core.report.decide.cost import NO_PRICE, Prices
from bench_core.report.document import served_columns
from bench_core.report.served import Served
from bench_core.report.write.cell_table import written
from bench_core.runs.view import RunView


def serving_table(view: RunView, prices: Prices = NO_PRICE) -> str:
    """One line for each planned cell under load in the order of the plan; raw numbers, units in the columns' names.

    A field is empty where there is no such number; ``outcome`` and ``cause`` say why a whole line has none.
    """
    return written(served_columns(view, prices), [Served(view, row) for row in view.served])
