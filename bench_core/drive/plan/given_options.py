"""Options that a call gives and that would change nothing are refused."""

from __future__ import annotations

from collections.abc import Iterable

from bench_core.contract.asked.declaration import declared, fields_that_may_differ
from bench_core.contract.errors import BadInput
from bench_core.drive.ask.request import Modes, Suite
from bench_core.drive.plan.plan import Job


def require_use_of_options(modes: Modes, jobs: Iterable[Job]) -> None:
    """Nothing that ``--option`` and ``--engine-version`` say is left aside: each image that they name is measured or
    searched with here.

    Raises:
        BadInput: one is not.
    """
    jobs = list(jobs)
    names = {name for job in jobs for name in (job.image.name, job.image.engine)}
    for option, named in (("--option", modes.options_of), ("--engine-version", modes.versions_of)):
        unused = sorted(named - names)
        if unused:
            raise BadInput(
                f"{option} names {unused[0]}, which is not among the images of this run",
                f"those are {', '.join(dict.fromkeys(job.image.name for job in jobs))}",
            )


def require_use_without_cells(modes: Modes, before: Suite, now: Suite) -> None:
    """Every cell of a resumed run is complete: what would only show in new cells must not be taken in silence.

    Raises:
        BadInput: such an option is given, and is not what the run was asked for before.
    """
    of_new_cells = [option for option in declared(Suite) if option.name in fields_that_may_differ(Suite)]
    given = [option for option in of_new_cells if option.name in modes.given]
    idle = [option.flag for option in given if getattr(now, option.name) != getattr(before, option.name)]
    idle += ["--device-rates"] if modes.device_rates else []
    if idle:
        raise BadInput(
            f"{', '.join(idle)} would change nothing: every cell asked for is complete",
            "add cells by --images, --variants, --batch-sizes or --repeats, or start a new run",
        )
