"""What every way of launching an engine offers to the driver: the same arguments, the same files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import GpuInfo, ImageInfo, LauncherName
from bench_core.drive.launch.published import Published
from bench_core.drive.plan.builds import Build
from bench_core.drive.plan.catalogue import Image


class NotInstalled(BadInput):
    """An image or environment could not be made. ``log`` is the last of what pip or Docker said."""

    def __init__(self, cause: str, hint: str = "", log: str = "") -> None:
        super().__init__(cause, hint)
        self.log = log


Target = Literal["measure", "convert"]
LineTaker = Callable[[bytes], None]


@dataclass(frozen=True)
class Folders:
    """Host folders that a box sees: one model's, the data, one run's. What is not named here is not there.

    Attributes:
        artifact: what it reads of the model's folder, beside the files that lie in that folder itself.
    """

    model: Path
    artifact: str
    model_writable: bool = False
    data: Path | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Launch:
    """One start of an image's worker.

    Attributes:
        arguments: of this launch, for ``python -m bench_core.worker``; the launcher adds paths, since it knows where
            things are. What is asked of the cells stands in the file that ``--assignment`` names.
        labels: run and cells, for people and for finding leftovers.
        silence_limit_s: a box that says nothing for so long is ended; ``None`` for one that need not speak.
        run_lock: the open file of the run's lock, for a worker process to hold on to as long as it lives.
        client_processes: where the cells are under load: load generators of the client, which runs beside the engine's
            server, writes the cells and is the one that is followed; 0 otherwise. Of a load from other hosts those of
            each.
        placement: its share of the host; ``None``: all of it.
        other_gpus: beside ``gpu``, where one model is split over several.
        published: of cells under load that comes from other hosts: where these find server and client. Nobody else's
            server can be reached from outside.
    """

    image: Image
    target: Target
    arguments: tuple[str, ...]
    folders: Folders
    gpu: GpuInfo | None = None
    labels: dict[str, str] = field(default_factory=dict)
    run_lock: int | None = None
    client_processes: int = 0
    silence_limit_s: float | None = None
    placement: Placement | None = None
    other_gpus: tuple[GpuInfo, ...] = ()
    published: Published | None = None

    @property
    def gpus(self) -> tuple[GpuInfo, ...]:
        """That it sees; none on a CPU."""
        return () if self.gpu is None else (self.gpu, *self.other_gpus)

    @property
    def generators_here(self) -> int:
        """Processes of the client that need a CPU of this host: load generators, or the one that gathers what those of
        other hosts say."""
        return 1 if self.published is not None else self.client_processes

    @property
    def cpus(self) -> tuple[int, ...] | None:
        """That it may use; ``None``: all that this process may."""
        return self.placement.cpus or None if self.placement is not None else None


@dataclass(frozen=True)
class Ended:
    """How a box ended.

    Attributes:
        exit_code: of the worker (negative: a signal, for a process).
        silent: it was ended because it had said nothing for its launch's ``silence_limit_s``.
        out_of_memory: the kernel ended it at its memory limit.
        stderr_tail: the last of what it said.
        engine_lost: the Docker engine went away while the box ran, and the box with it.
        never_ran: it could not be made or started; ``stderr_tail`` says why.
        removed: links, pipes and the like that it left in the run's folder, and that were removed.
        started_s, ended_s: CLOCK_MONOTONIC around create and removal; for the driver's own overhead.
    """

    exit_code: int
    out_of_memory: bool
    stderr_tail: str
    started_s: float
    ended_s: float
    silent: bool = False
    engine_lost: bool = False
    never_ran: bool = False
    removed: tuple[str, ...] = ()


class Launcher(Protocol):
    """Docker or processes."""

    @property
    def name(self) -> LauncherName: ...

    def recipe(self, image: Image, device: DeviceKind) -> str:
        """Digest of the files that decide what an image is, without building it; the same on every machine."""

    def clear_orphans(self, tell: Callable[[str], None]) -> int:
        """Removes boxes that ended drivers have left on this machine, never a living one's; how many."""

    def is_ready(self, image: Image, target: Target, device: DeviceKind) -> bool:
        """Whether nothing has to be built or installed for it."""

    def builds(self, image: Image, target: Target, device: DeviceKind) -> list[Build]:
        """What :meth:`ensure` would build or install, in order; nothing where it is ready."""

    def ensure(self, image: Image, target: Target, device: DeviceKind, tell: Callable[[str], None]) -> ImageInfo:
        """Builds or installs what is missing; says what it is.

        Raises:
            NotInstalled: it cannot be built; the cause is the build's last line.
            MayPass, MachineFailure: the network, the disk or the Docker engine does not let it be built.
        """

    def ensure_services(self, device: DeviceKind, tell: Callable[[str], None]) -> list[str]:
        """Builds what is no engine but runs in a box of its own when there is no driver; their references."""

    def client_builds(self, device: DeviceKind) -> list[Build]:
        """What :meth:`ensure_client` would build, in order."""

    def ensure_client(self, device: DeviceKind, tell: Callable[[str], None]) -> None:
        """Builds what cells under load are measured with, where it is not there.

        Raises:
            NotInstalled, MayPass, MachineFailure: as :meth:`ensure`.
        """

    def run(self, launch: Launch, on_stdout: LineTaker) -> Ended:
        """Starts the worker, hands over its lines, waits for its end, clears away the box."""

    def stop(self) -> None:
        """Asks the worker that runs now to stop after the batch in hand; a second call ends it at once."""
