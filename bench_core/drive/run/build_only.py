"""Building all that a run would need, and nothing else."""

from __future__ import annotations

from bench_core.contract.records.outcome import EXIT_OK
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.ask.request import Request
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.material.provide import Provision
from bench_core.drive.plan.catalogue import Image
from bench_core.drive.plan.plan import Plan
from bench_core.drive.run.device_rates import is_at_hand
from bench_core.drive.run.execute import Execution, pass_on_signals
from bench_core.drive.show.display import make_display
from bench_core.drive.show.outline import Outline
from bench_core.system.locks import Locks


def build_only(
    request: Request,
    plan: Plan,
    launcher: Launcher,
    gpus: list[GpuInfo],
    locks: Locks,
    probe: Image | None,
    *,
    as_json: bool,
) -> int:
    """Builds engines, converters, what measures the device and services; returns the exit code.

    Raises:
        BadInput: an image cannot be built.
    """
    with make_display(as_json, Outline(request.results, "", title="images")) as display:
        execution = Execution(request, plan, launcher, gpus, display)
        pass_on_signals(execution)
        provision = Provision(request, plan, launcher, gpus, display, locks, execution)
        provision.install()
        provision.require_all()
        for image in plan.images:
            if image.manifest.converts:
                info = launcher.ensure(image, "convert", plan.device, display.detail)
                display.note(f"image {info.reference} is ready")
        if probe is not None and is_at_hand(probe, plan, launcher):
            display.note(f"image {launcher.ensure(probe, 'measure', plan.device, display.detail).reference} is ready")
        for reference in launcher.ensure_services(plan.device, display.detail):
            display.note(f"image {reference} is ready")
    return EXIT_OK
