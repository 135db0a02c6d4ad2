"""What a call is about to do, step by step and cell by cell, with what each will roughly take."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench_core.drive.ask.request import Request
from bench_core.drive.material.material import MODEL_STEP
from bench_core.drive.plan.effort import Effort
from bench_core.drive.plan.estimate import PROBE_S, own_error_estimate_s
from bench_core.drive.plan.plan import Plan
from bench_core.drive.run.device_rates import DEVICE_STEP
from bench_core.drive.run.execute import OWN_ERROR_STEP


@dataclass(frozen=True)
class Step:
    """Something that is done before cells are measured.

    Attributes:
        size_bytes: disk that it takes; ``None`` where that is not known, or nothing.
        expected_s: seconds; ``None`` where nobody knows.
    """

    name: str
    size_bytes: int | None = None
    expected_s: float | None = None


@dataclass(frozen=True)
class Outline:
    """Of one call.

    Attributes:
        run_folder: of the run that is measured.
        resume: the command that goes on with it.
        steps: in order.
        cells: to be measured, in the order of the launches, with the seconds that each will roughly take.
        places: cells that are measured at the same time: one a GPU.
        on_cpu: cells are measured on the CPUs that the watching takes its time of.
        title: of the call, where it is not the run's folder.
    """

    run_folder: Path
    resume: str
    steps: tuple[Step, ...] = ()
    cells: Mapping[str, float] = field(default_factory=dict)
    places: int = 1
    on_cpu: bool = True
    title: str = ""


def outline_of(request: Request, plan: Plan, effort: Effort, run_folder: Path, gpus: int, *, probed: bool) -> Outline:
    """Of a call that measures.

    Args:
        gpus: that it measures on.
        probed: the device itself is measured, too.
    """
    steps = [Step(MODEL_STEP, expected_s=effort.preparing_s)]
    steps += [Step(f"build {one.build.name}", one.size_bytes, one.seconds) for one in effort.builds]
    steps += [Step(f"build {build.name}") for build in effort.unknown]
    steps += [Step(f"convert {artifact}", expected_s=seconds) for artifact, seconds in effort.conversions_s.items()]
    steps += [Step(DEVICE_STEP, expected_s=PROBE_S)] if probed else []
    steps += [Step(OWN_ERROR_STEP, expected_s=own_error_estimate_s(plan))] if plan.own_error else []
    return Outline(
        run_folder=run_folder,
        resume=resume_command(request, run_folder),
        steps=tuple(steps),
        cells=dict(effort.cells_s),
        places=max(1, gpus),
        on_cpu=not gpus,
    )


def resume_command(request: Request, run_folder: Path) -> str:
    """What to type to go on with a run, from the same folder."""
    words: Sequence[str] = ("python", "-m", "bench_core.drive", "--resume", str(run_folder))
    for name in ("data", "models"):
        place = getattr(request, name)
        if place != Request.model_fields[name].default:
            words = (*words, f"--{name}", str(place))
    return shlex.join(words)
