"""What a report says of a grid that was measured several times: the spread between runs, the interval within one."""

from __future__ import annotations

from collections.abc import Iterable

from bench_core.contract.repeats import BetweenRuns, between_runs
from bench_core.report.cell_key import cell_key
from bench_core.report.format import ABSENT, rate, rate_within
from bench_core.report.protocol import MISFIT_MARK, mark_notes, percent_entry
from bench_core.report.sheet import Entry, Sheet
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


def repeats_sheet(view: RunView) -> Iterable[Sheet]:
    """One line for each cell that was measured repeatedly."""
    if view.record.repeats == 1:
        return
    summed = over_repeats(view)
    lines = []
    for rows in view.repeated:
        key = cell_key(rows[0])
        planned = sum(row.planned.repeat <= view.record.repeats for row in rows)
        found = summed.get(rows[0].planned.cell)
        if found is None:
            lines.append((*key, Entry(f"0 of {planned}", 0, failed=True), *(Entry(ABSENT, failed=True),) * 6))
            continue
        lines.append(
            (
                *key,
                Entry(f"{found.runs} of {planned}", found.runs),
                Entry(
                    rate_within(found.mean_tok_s, found.half_width_tok_s),
                    found.mean_tok_s,
                    mark="" if found.represents else MISFIT_MARK,
                ),
                Entry(rate(found.stdev_tok_s), found.stdev_tok_s),
                percent_entry(found.relative_stdev),
                Entry(f"{rate(found.low_tok_s)} to {rate(found.high_tok_s)}", found.high_tok_s - found.low_tok_s),
                percent_entry(found.within_relative_half_width),
                Entry(ABSENT if found.agreeing is None else f"{found.agreeing} of {found.runs}", found.agreeing),
            )
        )
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Repeats", True),
        ("Mean (token/s)", True),
        ("Stdev (token/s)", True),
        ("Stdev (%)", True),
        ("Range (token/s)", True),
        ("Interval within (± %)", True),
        ("Agreeing", True),
    )
    notes = (
        "The whole grid was measured repeatedly, in a random order each time, every repeat in a process of its own. "
        "Mean: of the repeats' throughputs, ± half of its 95 % confidence interval by their spread "
        "(Student's). Stdev: between runs. Interval within: mean of the repeats' own 95 % intervals. Where the first "
        "is much larger than the second, an engine differs from start to start. Agreeing: repeats that lie within the "
        "mean of the others ± the mean of their half intervals (none: 0) and the stdev. The other tables show the "
        "first repeat, whose memory and token times belong together; At a glance and the figure show means.",
        *(note for note in mark_notes([row for rows in view.repeated for row in rows]) if note.startswith(MISFIT_MARK)),
    )
    yield Sheet("Repeats", columns, tuple(lines), notes)
