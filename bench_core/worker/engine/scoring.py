"""The log-likelihood of a fixed text, asked for when a cell is measured: nothing here can change or fail the cell."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import traceback
from collections.abc import Callable, Sequence

from bench_core.contract.adapter import Adapter, Scores
from bench_core.contract.errors import first_line
from bench_core.contract.measures.quality import scored_texts
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import ScoreEvent
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST
from bench_core.contract.records.workload import Workload
from bench_core.worker.engine.clock import Clock, seconds

NO_SCORE = "this adapter does not tell probabilities"
# An engine rounds: a token that is certain may come out this little above probability 1.
_ABOVE_ZERO_NAT = 1e-4


class NotProbabilities(ValueError):
    """An adapter's ``score`` gave something else than a log-probability for every token but the first."""


def score(
    adapter: Adapter, workload: Workload, texts: int, clock: Clock, stopping: Callable[[], bool]
) -> tuple[ScoreEvent, bool]:
    """Scores the workload's first ``texts`` texts; returns what is to be recorded, and whether the engine raised.

    All texts or none: a comparison needs the same ones of every engine. Whatever the engine raises becomes the cause.
    """
    chosen = scored_texts(workload.prompts, texts)
    indices, ids = tuple(index for index, _ in chosen), [text for _, text in chosen]
    started = clock()
    sums: list[float] = []
    cause, raised = "", False
    if not isinstance(adapter, Scores):
        cause = NO_SCORE
    elif not chosen:
        cause = "no prompt of the workload has two tokens"
    else:
        try:
            for text in ids:
                if stopping():
                    cause = STOPPED_ON_REQUEST
                    break
                sums.append(_checked_sum(adapter.score(list(text)), len(text) - 1))
        except Exception as error:  # noqa: BLE001  # whatever an engine raises, the measured cell stands
            traceback.print_exc(file=sys.stderr)
            cause, raised = first_line(error), True
    ended = clock()
    event = ScoreEvent(
        started_s=seconds(started),
        duration_s=seconds(ended - started),
        texts=indices,
        digest=prompts_sha256(ids),
        scored_tokens=() if cause else tuple(len(text) - 1 for text in ids),
        log_probability_nat=() if cause else tuple(sums),
        cause=cause,
    )
    return event, raised


def not_scored(workload: Workload, texts: int, at_s: float, cause: str) -> ScoreEvent:
    """What is recorded for an engine that did not survive being asked."""
    chosen = scored_texts(workload.prompts, texts)
    return ScoreEvent(
        started_s=at_s,
        duration_s=0.0,
        texts=tuple(index for index, _ in chosen),
        digest=prompts_sha256(text for _, text in chosen),
        cause=cause,
    )


def give_back_memory() -> None:
    """Returns what scoring left on the heap to the system, so that the next cell's memory is its own."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _checked_sum(values: Sequence[float], expected: int) -> float:
    found = [float(value) for value in values]
    if len(found) != expected:
        raise NotProbabilities(f"{len(found)} log-probabilities for {expected} tokens")
    for place, value in enumerate(found, start=1):
        if not math.isfinite(value) or value > _ABOVE_ZERO_NAT:
            raise NotProbabilities(f"token {place} of a text has the log-probability {value}")
    return math.fsum(found)
