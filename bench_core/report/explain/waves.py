"""Cells whose batches an engine served in waves: a warning for the head, a legend for the mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench_core.report.format import quantity
from bench_core.runs.view import Row, RunView

WAVES = "waves"


def warning(view: RunView) -> str:
    """One line for the head of a report; empty where all rows of all batches ran together, as far as is told."""
    found = [row for row in view.rows if row.in_waves]
    if not found:
        return ""
    one = len(found) == 1
    return (
        f"{quantity(len(found), 'cell')} served {'its' if one else 'their'} batches in waves, some rows after others, "
        f"so that {'its' if one else 'their'} batch size was not what ran: {'it is' if one else 'they are'} marked "
        f"{WAVES} and not ranked"
    )


def waves_note(rows: Sequence[Row]) -> Iterator[str]:
    """The legend of the word beside a throughput, with what was seen of each row."""
    found = [f"{row.planned.label}: {seen}" for row in rows if (seen := row.in_waves)]
    if found:
        yield (
            f"{WAVES}: the engine did not work on all prompts of a batch together, so that this is not ranked "
            f"({'; '.join(found)}). A limit of the engine's own holds rows back: slots, memory for keys and values, or "
            "prompt tokens in one step."
        )
