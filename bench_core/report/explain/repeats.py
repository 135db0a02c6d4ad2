"""A grid that was measured several times: each cell over its repeats."""

from __future__ import annotations

from bench_core.contract.measures.repeats import BetweenRuns, between_runs
from bench_core.runs.view import RunView


def over_repeats(view: RunView) -> dict[str, BetweenRuns]:
    """The repeats of each cell that has numbers, by the name of the first; empty for a grid that was measured once.

    A control cell is measured at every visit, which does not repeat the grid.
    """
    if view.record.repeats == 1:
        return {}
    found = {}
    for rows in view.cells:
        summed = between_runs([row.rate for row in rows if row.rate and row.planned.repeat <= view.record.repeats])
        if summed is not None:
            found[rows[0].planned.cell] = summed
    return found
