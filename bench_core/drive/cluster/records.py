"""What driver and node say to each other: plain JSON, so that neither unpickles the other's classes."""

from __future__ import annotations

from typing import Literal

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import GpuInfo, HostInfo, LauncherName
from bench_core.contract.records.spec import Assignment


class Terms(Record):
    """What holds for all launches of a run, on every node.

    Attributes:
        engine_version: versions of engines that images are made for, as the driver was asked for them.
        busy_cpus: CPUs that others may use before a box on the CPUs waits.
        registry: that images are taken from; empty for none.
    """

    launcher: LauncherName
    device: DeviceKind
    run: str
    engine_version: dict[str, tuple[str, ...]] = {}
    cpu_slices: int | None = None
    on_busy: Literal["wait", "refuse", "ignore"] = "wait"
    busy_wait_s: float = 600.0
    busy_cpus: float | None = None
    registry: str = ""


class NodeReport(Record):
    """What a node is and has.

    Attributes:
        code: digest of the repository's state there.
        gpus: that NVML shows.
        shares: of the workers that it can be dealt out to; of a worker that has all of it, without CPUs.
        addresses: IPv4, of its interfaces.
        problem: why it cannot be used, in one line; empty where it can.
        removed: boxes that ended drivers had left there.
    """

    host: HostInfo
    code: str
    gpus: tuple[GpuInfo, ...] = ()
    shares: tuple[Placement, ...] = ()
    addresses: tuple[str, ...] = ()
    problem: str = ""
    removed: tuple[str, ...] = ()


class ClientPlace(Record):
    """A node that a load may come from.

    Attributes:
        cpus: that Ray sets aside there while the load goes on.
    """

    node_id: str
    name: str
    cpus: float


class Order(Record):
    """One launch for a node.

    Attributes:
        number: of the launch, among all of its driver.
        share: number of the worker of that node; of a GPU the one that Ray gave decides.
        workers: of the whole run, side by side.
        model_key, data_key: of the parcels that hold its model and its data; ``model`` is the folder's name.
        served: load generators of the client; 0 for closed batches.
        results: whether it writes into a run's folder.
        images: tags of the launch's containers to what they hold, where they are Docker's.
        clients: nodes that the load may come from, in the order in which they are taken.
        client_nodes: of these, so many are needed; 0 where the load comes from the server's own node.
        serve_address: of the node, that others may reach the server on.
        clients_wait_s: how long these may have something else to do.
    """

    number: int
    terms: Terms
    node: str
    share: int = 0
    workers: int = 1
    image: str
    arguments: tuple[str, ...] = ()
    assignment: Assignment
    artifact: str
    model: str
    model_key: str
    data_key: str
    labels: dict[str, str] = {}
    silence_limit_s: float | None = None
    served: int = 0
    title: str
    mark: str = ""
    pause_s: float = 0.0
    gated: bool = True
    results: bool = True
    images: dict[str, str] = {}
    clients: tuple[ClientPlace, ...] = ()
    client_nodes: int = 0
    serve_address: str = ""
    clients_wait_s: float = 600.0


class EndedThere(Record):
    """How a box ended, as ``Ended``; its times are of the node's own clock."""

    exit_code: int
    out_of_memory: bool
    stderr_tail: str
    started_s: float
    ended_s: float
    silent: bool = False
    engine_lost: bool = False
    never_ran: bool = False
    removed: tuple[str, ...] = ()
