"""Why an engine's process ended: the verdict on the cell in hand, where the engine did not tell itself."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from bench_core.contract.records.outcome import Outcome, Verdict, stopped_on_request
from bench_core.worker.supervise.limits import Watchdog
from bench_core.worker.supervise.log import last_line


@dataclass(frozen=True)
class Death:
    """The end of an engine's process before its work was done, and what was known by then.

    Attributes:
        phase: that it was in.
        printed: the end of what it had printed.
        oom_kills: processes that the kernel has killed for memory in this container; ``killed_for_memory``: one more
            than before this engine.
        garbled: what came on the pipe of its events was none.
        stopped: a stop had been asked for.
    """

    exit_code: int
    phase: str
    printed: str
    oom_kills: int
    killed_for_memory: bool
    garbled: bool
    stopped: bool

    def verdict(self, out_of_memory_signs: Sequence[str]) -> Verdict:
        """``out_of_memory_signs`` is what this image's engine prints before it ends itself for want of memory."""
        exit_code = self.exit_code
        sign = next((sign for sign in out_of_memory_signs if sign in self.printed.lower()), None)
        evidence = {"oom_kills": str(self.oom_kills)} if self.killed_for_memory else {}
        evidence |= _last_line(self.printed)
        memory = Outcome.OOM_LOAD if self.phase in ("start", "load") else Outcome.OOM_KV
        if self.killed_for_memory:
            outcome, cause = memory, "the kernel ended the engine: the container's memory limit was reached"
        elif self.garbled:
            outcome, cause = Outcome.CRASHED, "the engine's process wrote something else than events to their pipe"
        elif self.stopped:
            return stopped_on_request(self.phase, exit_code)
        elif exit_code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            outcome, cause = Outcome.KILLED, f"the engine was ended from outside by {signal.Signals(-exit_code).name}"
        elif sign is not None:
            outcome, cause = memory, f"the engine ended itself ({exit_words(exit_code)}), having said {sign!r}"
        elif exit_code < 0:
            outcome, cause = Outcome.CRASHED, f"the engine died of {exit_words(exit_code)}"
        else:
            outcome, cause = Outcome.CRASHED, f"the engine ended with {exit_words(exit_code)} before its work was done"
        return Verdict(
            outcome=outcome, cause=cause, phase=self.phase, judged_by="worker", exit_code=exit_code, evidence=evidence
        )


def on_timeout(watchdog: Watchdog, batches: int, printed: str, exit_code: int | None = None) -> Verdict | None:
    """The verdict where a limit was exceeded; what the engine did when it was stopped for it does not count."""
    expired = watchdog.expired
    if expired is None:
        return None
    evidence = {"limit": f"{expired.name} {expired.limit_s:g} s", "batches_done": str(batches)}
    evidence["stopped_by"] = "SIGKILL" if watchdog.killed else "SIGTERM"
    evidence |= _last_line(printed)
    return Verdict(
        outcome=Outcome.TIMEOUT,
        cause=expired.cause,
        phase=expired.phase,
        judged_by="worker",
        exit_code=exit_code,
        evidence=evidence,
    )


def _last_line(printed: str) -> dict[str, str]:
    said = last_line(printed)
    return {"last_line": said} if said else {}


def exit_words(exit_code: int) -> str:
    """``SIGKILL``, or ``code 1``."""
    return signal.Signals(-exit_code).name if exit_code < 0 else f"code {exit_code}"
