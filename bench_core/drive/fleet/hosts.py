"""Where a run's launches run: the devices of this host, or those of other hosts (:mod:`bench_core.drive.cluster`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.records.run import GpuInfo, HostInfo, LauncherName, VisitInfo
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.fleet.executor import Executor, Worker
from bench_core.drive.fleet.placement import workers_of
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.gpus import choose_device
from bench_core.system.locks import Locks
from bench_core.system.processor import this_host

Tell = Callable[[str], None]


class Hosts(Protocol):
    """What a session asks of the hosts that it measures on."""

    @property
    def here(self) -> bool:
        """Whether they are this host alone, whose devices this process itself may look at and lock."""

    @property
    def host(self) -> HostInfo:
        """The machine of the run's record: all of them are of its kind."""

    def devices(self, suite: Suite, *, build_only: bool) -> tuple[DeviceKind, list[GpuInfo]]:
        """What is measured on, and all GPUs.

        Raises:
            BadInput: there is no such device.
        """

    def workers(self, gpus: Sequence[GpuInfo], suite: Suite, launcher: LauncherName) -> tuple[Worker, ...]:
        """That run cells side by side.

        Raises:
            BadInput: they cannot be had.
        """

    def words(self, plan: Plan, seconds: Callable[[Job], float]) -> list[str]:
        """Of the plan: which launch is expected where."""

    def hold(self, locks: Locks, gpus: Sequence[GpuInfo], run: str) -> None:
        """Keeps other drivers off the devices.

        Raises:
            BadInput: another driver is there.
        """

    def executor(self, request: Request, run: str, tell: Tell) -> Executor | None:
        """What runs the launches; ``None`` for that of this host."""

    def provide(self, jobs: Sequence[Job], prepared: Prepared, step: Tell) -> None:
        """Brings what these jobs read to where they run.

        Raises:
            MachineFailure: nowhere could it be brought to.
        """

    def recorded(self, visit: VisitInfo) -> VisitInfo:
        """The visit with what is to be known of the hosts."""


class ThisHost:
    """The devices of this host."""

    here = True

    @property
    def host(self) -> HostInfo:
        """This machine."""
        return this_host()

    def devices(self, suite: Suite, *, build_only: bool) -> tuple[DeviceKind, list[GpuInfo]]:
        """As the suite says, of those that NVML shows."""
        return choose_device(suite, build_only=build_only)

    def workers(self, gpus: Sequence[GpuInfo], suite: Suite, launcher: LauncherName) -> tuple[Worker, ...]:
        """A GPU, or a slice of the CPUs, each."""
        return workers_of(gpus, suite.cpu_slices, launcher, suite.gpus_per_cell)

    def words(self, plan: Plan, seconds: Callable[[Job], float]) -> list[str]:  # noqa: ARG002
        """None: the plan says how many there are."""
        return []

    def hold(self, locks: Locks, gpus: Sequence[GpuInfo], run: str) -> None:
        """What is held already stays held."""
        for gpu in gpus:
            locks.hold_gpu(gpu.uuid, run)
        if not gpus:
            locks.hold_cpus(run)

    def executor(self, request: Request, run: str, tell: Tell) -> Executor | None:  # noqa: ARG002
        """The pool that an execution makes."""
        return None

    def provide(self, jobs: Sequence[Job], prepared: Prepared, step: Tell) -> None:
        """It is here."""

    def recorded(self, visit: VisitInfo) -> VisitInfo:
        """As it is."""
        return visit
