"""The device that is measured on, and the GPUs of this host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pynvml

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.ask.request import Suite
from bench_core.drive.fleet.placement import in_groups, node_of_gpu
from bench_core.system.nvml import visible_gpus

# Freed memory comes back within milliseconds of a process's end; a context that is torn down may take seconds.
_MEMORY_RETURN_S = 30.0
_MEMORY_SLACK_BYTES = 64 * 1024 * 1024


def choose_device(suite: Suite, *, build_only: bool) -> tuple[DeviceKind, list[GpuInfo]]:
    """What is measured on, and on which GPUs.

    Raises:
        BadInput: there is no such device.
    """
    present = [] if suite.device == "cpu" else visible_gpus()
    if build_only and suite.device == "cuda":
        return "cuda", present  # images are built where there is no GPU, too
    if suite.device == "cuda" or (suite.device == "auto" and present):
        if suite.cpu_slices is not None:
            raise BadInput("--cpu-slices is given, but the run is on a GPU", "leave it out, or use --device cpu")
        return "cuda", choose_gpus(suite.gpus, present, suite.gpus_per_cell)
    if suite.gpus_per_cell > 1:
        raise BadInput(
            f"--gpus-per-cell {suite.gpus_per_cell}, but the run is on the CPU",
            "leave it out, or use --device cuda where there are GPUs",
        )
    if suite.gpus:
        raise BadInput("--gpus is given, but the run is on the CPU", "leave it out, or use --device cuda")
    return "cpu", []


def choose_gpus(
    wanted: tuple[str, ...],
    present: list[GpuInfo],
    per_cell: int = 1,
    node_of: Callable[[str], int | None] = node_of_gpu,
) -> list[GpuInfo]:
    """The GPUs to use, by index or UUID; ``all`` for every one, nothing for as many as one cell takes: the first ones,
    of one NUMA node where there are enough.

    Args:
        per_cell: GPUs of each cell; those of a cell stand side by side in the answer, and what is left over is not in
            it.

    Raises:
        BadInput: there is none, or no such one, or fewer than a cell takes.
    """
    if not present:
        raise BadInput("--device cuda: this host has no GPU that NVML answers for", "use --device cpu")
    chosen = _named(wanted, present) if wanted and wanted != ("all",) else present
    grouped = list(in_groups(chosen, per_cell, node_of))
    if not grouped:
        raise BadInput(
            f"--gpus-per-cell {per_cell}, but the GPUs to use are {len(chosen)}",
            f"ask for fewer, or name more by --gpus: {len(present)} are here",
        )
    return grouped if wanted else grouped[:per_cell]


def _named(wanted: tuple[str, ...], present: list[GpuInfo]) -> list[GpuInfo]:
    chosen = []
    for name in wanted:
        matches = [gpu for index, gpu in enumerate(present) if name in (str(index), gpu.uuid)]
        if not matches:
            known = ", ".join(f"{index} = {gpu.uuid}" for index, gpu in enumerate(present))
            raise BadInput(f"--gpus: there is no GPU {name!r}", f"present: {known}")
        chosen.append(matches[0])
    return list(dict.fromkeys(chosen))


def used_bytes(uuid: str) -> int | None:
    """Memory in use on a GPU by all processes; ``None`` where NVML does not answer."""
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid)).used)
    return None


def memory_came_back(uuid: str, baseline_bytes: int | None) -> bool:
    """Waits until a GPU's memory is down to its baseline again; ``False`` if it is not after half a minute."""
    if baseline_bytes is None:
        return True
    deadline = time.monotonic() + _MEMORY_RETURN_S
    while time.monotonic() < deadline:
        used = used_bytes(uuid)
        if used is None or used <= baseline_bytes + _MEMORY_SLACK_BYTES:
            return True
        time.sleep(0.2)
    return False
