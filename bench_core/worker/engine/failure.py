"""What an exception of an engine means."""

from __future__ import annotations

from bench_core.contract.adapter import Adapter, Classifies
from bench_core.contract.errors import BadInput, first_line, is_of_the_machine, shortened
from bench_core.contract.records.outcome import STOPPED_AFTER_BATCH, Outcome
from bench_core.worker.engine.guard import PromptRefused
from bench_core.worker.engine.measure import StopRequested


def classify(error: BaseException, phase: str, adapter: Adapter | None) -> tuple[Outcome, str]:
    """The outcome and its cause in one line.

    The adapter is asked first, since only it knows its engine's words; memory that runs out while loading is
    ``oom_load`` whatever word the adapter has for it.
    """
    if isinstance(error, StopRequested):
        return Outcome.KILLED, STOPPED_AFTER_BATCH
    if is_of_the_machine(error):
        return Outcome.KILLED, shortened(f"this machine did not let the engine go on: {first_line(error)}", 300)
    if isinstance(error, BadInput | PromptRefused):
        return Outcome.BAD_SPEC, first_line(error)
    outcome = adapter.classify(error) if isinstance(adapter, Classifies) else None
    if outcome is None:
        outcome = Outcome.OOM_KV if isinstance(error, MemoryError) else None
    loading = phase in ("start", "load")
    if outcome in (Outcome.OOM_LOAD, Outcome.OOM_KV):
        outcome = Outcome.OOM_LOAD if loading else Outcome.OOM_KV
    if outcome is None:
        outcome = Outcome.LOAD_FAILED if loading else Outcome.GENERATE_FAILED
    return outcome, first_line(error)
