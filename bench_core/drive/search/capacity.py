"""``--find-capacity``: one server, ever other loads, until the highest is found that keeps the latency limits.

The client makes the trials, against one server: loading a model for each would cost more than measuring.
"""

from __future__ import annotations

from pathlib import Path

from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_MACHINE
from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.cell import CapacityAsk
from bench_core.contract.serving.protocol import ServeProtocol
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job
from bench_core.drive.run.collect import stated_cause
from bench_core.drive.run.execute import Execution
from bench_core.drive.search.trials import Site, conditions_of, unused_number


class CapacitySearch:
    """One search, for one variant on one device."""

    def __init__(self, site: Site, job: Job) -> None:
        """``job``: has the load that the search begins with."""
        self._site, self._job = site, job

    def run(self, execution: Execution, prepared: Prepared, run_folder: Path) -> Capacity | None:
        """Searches, unless this run has the answer under the same conditions; ``None`` where nothing was tried.

        Raises:
            BadInput: the folder cannot be written.
            MachineFailure: this machine did not let it be made.
        """
        home = run_folder / layout.CAPACITY_FOLDER
        home.mkdir(exist_ok=True)
        path = home / f"{self._job.title}.json"
        ask = self._ask(prepared, home)
        earlier = _read(path)
        if earlier is not None and earlier.is_answered and earlier.conditions == ask.conditions:
            self._site.display.note(f"{self._job.title}: the capacity is known already, nothing was tried again")
            return earlier
        ended = execution.search(self._job, prepared, run_folder, ask)
        found = _read(path)
        if ended.exit_code == EXIT_MACHINE:
            raise MachineFailure(stated_cause(ended.stderr_tail), "mend that, then --resume the run")
        if found is None or found.searches != ask.searches:
            self._site.display.note(f"{self._job.title}: no load was tried: {stated_cause(ended.stderr_tail)}")
            return None
        told = f"highest {ask.varied.replace('_', ' ')} within the limits: "
        told += f"{found.highest:g}" if found.highest is not None else f"not found: {found.problem}"
        self._site.display.note(f"{self._job.title}: {found.problem if found.none_keeps else told}")
        return found

    def _ask(self, prepared: Prepared, home: Path) -> CapacityAsk:
        suite = self._site.request.suite
        limits = suite.limits
        assert limits is not None  # noqa: S101  # the suite has refused a search without limits
        protocol = {name: str(getattr(suite, name)) for name in ServeProtocol.model_fields}
        asked = {"attainment": str(suite.attainment), "varied": suite.capacity_of, "limit": str(suite.capacity_limit)}
        return CapacityAsk(
            varied=suite.capacity_of,
            first=suite.capacity_start,
            limit=suite.capacity_limit,
            arrivals=suite.arrivals,
            limits=limits,
            attainment=suite.attainment,
            conditions={**conditions_of(self._site, self._job, prepared), **protocol, **asked},
            searches=unused_number(home, self._job.title),
        )


def _read(path: Path) -> Capacity | None:
    """An earlier record; ``None`` where there is none, or none that can be read."""
    try:
        return Capacity.read(path) if path.exists() else None
    except BadInput:
        return None
