"""What each device of a visit can do, measured before its cells in a box like theirs. It never fails a run."""

from __future__ import annotations

from pathlib import Path

from bench_core.contract.asked.declaration import as_arguments
from bench_core.contract.errors import first_line
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import DeviceRates
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.launch.launcher import Folders, Launch, Launcher
from bench_core.drive.plan.catalogue import Image
from bench_core.drive.plan.plan import Plan
from bench_core.drive.run.collect import stated_cause
from bench_core.drive.run.gpus import memory_came_back, used_bytes
from bench_core.drive.run.progress import Display

DEVICE_STEP = "measure the device"


def is_at_hand(probe: Image, plan: Plan, launcher: Launcher) -> bool:
    """Whether measuring the device costs seconds: the image is there, or Docker has only to put the suite's own code on
    a base that an engine of this plan stands on as well. A process would need an environment of its own."""
    if launcher.is_ready(probe, "measure", plan.device):
        return True
    bases = {image.manifest.base for image in plan.images}
    return launcher.name == "docker" and probe.manifest.base in bases


def name_of(visit: int, gpu: GpuInfo | None) -> str:
    """``v<visit>.<beginning of the GPU's UUID, or cpu>``."""
    return f"v{visit}.{layout.slug(gpu.uuid)[:20].strip('-._') if gpu else 'cpu'}"


def measure_devices(
    probe: Image,
    plan: Plan,
    launcher: Launcher,
    gpus: list[GpuInfo],
    display: Display,
    *,
    run_folder: Path,
    model_folder: Path,
    visit: int,
    threads: int | None,
) -> list[Path]:
    """Builds the image where needed and runs it once for each GPU, or for the CPU; returns the files that it left.

    Whatever goes wrong is said in one line, and the run goes on without roofs.
    """
    written: list[Path] = []
    try:
        launcher.ensure(probe, "measure", plan.device, display.detail)
        display.step(DEVICE_STEP)
        devices: list[GpuInfo | None] = [*gpus] or [None]
        for gpu in devices:
            name = name_of(visit, gpu)
            baseline = used_bytes(gpu.uuid) if gpu else None
            launch = Launch(
                image=probe,
                target="measure",
                arguments=as_arguments({"measure_device": name, "device": plan.device, "threads": threads}),
                folders=Folders(model=model_folder, artifact=layout.NO_ARTIFACT, run=run_folder),
                gpu=gpu,
                labels={"run": run_folder.name, "device_rates": name},
            )
            ended = launcher.run(launch, lambda _line: None)
            path = run_folder / layout.DEVICE_RATES_FOLDER / f"{name}.json"
            if ended.exit_code != 0:
                display.trouble(f"the device was not measured: {stated_cause(ended.stderr_tail)}")
            else:
                DeviceRates.read(path)
                written.append(path)
                display.note(f"device measured: {stated_cause(ended.stderr_tail)}")
            if gpu and not memory_came_back(gpu.uuid, baseline):
                display.trouble(f"the memory of {gpu.uuid} has not come back after the device was measured")
    except Exception as error:  # noqa: BLE001  # roofs are worth seconds, a run may be worth a night
        display.trouble(f"the device was not measured: {first_line(error)}")
    return written
