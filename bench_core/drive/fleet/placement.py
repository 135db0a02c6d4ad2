"""Which part of the host each worker gets: CPU cores and memory are dealt out per NUMA node, in equal shares.

The shares of GPUs are those of all GPUs that this host has, whichever are used: a GPU has the same CPUs in each call,
and two drivers on different GPUs share none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench_core.contract.errors import BadInput
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import GpuInfo, LauncherName
from bench_core.drive.fleet.executor import Worker
from bench_core.system.numa import Node, node_of_pci, nodes
from bench_core.system.nvml import pci_bus_id, visible_gpus

_MEMORY_SHARE = 0.95  # as of a single box: what is left keeps the host answering


def workers_of(gpus: Sequence[GpuInfo], cpu_slices: int | None, launcher: LauncherName) -> tuple[Worker, ...]:
    """The workers of this host. A single GPU, or the CPUs as a whole, have all of it, as ever.

    Raises:
        BadInput: there are fewer cores than slices.
    """
    if cpu_slices is not None and not gpus:
        return deal_slices(cpu_slices, nodes(), launcher)
    if len(gpus) < 2:
        return tuple(Worker(gpu.uuid, gpu) for gpu in gpus) or (Worker("CPU"),)
    present = {gpu.uuid: gpu for gpu in (*visible_gpus(), *gpus)}
    return deal_gpus(gpus, tuple(present), nodes(), node_of_gpu, launcher)


def node_of_gpu(uuid: str) -> int | None:
    """The NUMA node of a GPU; ``None`` where nobody tells."""
    bus_id = pci_bus_id(uuid)
    return None if bus_id is None else node_of_pci(bus_id)


def deal_gpus(
    gpus: Sequence[GpuInfo],
    present: Sequence[str],
    there: Sequence[Node],
    node_of: Callable[[str], int | None],
    launcher: LauncherName,
) -> tuple[Worker, ...]:
    """A worker for each GPU, with an equal share of the cores and the memory of its node.

    Args:
        present: UUIDs of all GPUs of the host.
        node_of: a GPU's node; one whose node is not told goes where most cores are left for each.
    """
    by_number = {node.number: node for node in there}
    at: dict[int, list[str]] = {number: [] for number in by_number}
    told = {uuid: node_of(uuid) for uuid in present}
    for uuid in sorted(present, key=lambda uuid: told[uuid] not in by_number):
        number = told[uuid]
        if number not in by_number:
            number = max(at, key=lambda n: len(by_number[n].cores) / (len(at[n]) + 1))
        at[number].append(uuid)
    found: dict[str, Placement] = {}
    for number, uuids in at.items():
        node = by_number[number]
        share = len(node.cores) // len(uuids) if uuids else 0
        for index, uuid in enumerate(uuids):  # without a core for each, all of the node's are shared
            cores = node.cores[index * share : (index + 1) * share] or node.cores
            found[uuid] = _placement(uuid, len(gpus), cores, (node,), len(uuids), launcher)
    return tuple(Worker(gpu.uuid, gpu, found[gpu.uuid]) for gpu in gpus)


def deal_slices(count: int, there: Sequence[Node], launcher: LauncherName) -> tuple[Worker, ...]:
    """So many workers on the CPUs, each with as many whole cores as the others, of one node where that can be.

    Raises:
        BadInput: there are fewer cores: two cells would share one, and disturb each other by all that they do.
    """
    total = sum(len(node.cores) for node in there)
    if count > total:
        raise BadInput(
            f"--cpu-slices {count}, but there are {total} cores", "a slice is one whole core or more: ask for fewer"
        )
    on = [0] * len(there)  # slices on each node
    for _ in range(count):
        on[max(range(len(there)), key=lambda n: len(there[n].cores) / (on[n] + 1))] += 1
    size = min(len(node.cores) // slices for node, slices in zip(there, on, strict=True) if slices)
    if size * count < total // count * count and count < len(there):  # a slice spans nodes
        every = [(core, node) for node in there for core in node.cores]
        size = total // count
        parts = [every[n * size : (n + 1) * size] for n in range(count)]
    else:
        parts = [
            [(core, node) for core in node.cores[n * size : (n + 1) * size]]
            for node, slices in zip(there, on, strict=True)
            for n in range(slices)
        ]
    workers = []
    for number, part in enumerate(parts):
        home = tuple(dict.fromkeys(node for _, node in part))
        beside = sum(any(node in home for _, node in other) for other in parts)
        name, cores = f"slice {number}", [core for core, _ in part]
        workers.append(Worker(name, None, _placement(name, count, cores, home, beside, launcher)))
    return tuple(workers)


def _placement(
    worker: str,
    workers: int,
    cores: Sequence[tuple[int, ...]],
    home: Sequence[Node],
    sharing: int,
    launcher: LauncherName,
) -> Placement:
    """``sharing``: workers that the memory of these nodes is dealt out to."""
    bound = launcher == "docker"
    memory = int(sum(node.memory_bytes for node in home) * _MEMORY_SHARE / sharing)
    return Placement(
        worker=worker,
        workers=workers,
        cpus=tuple(sorted(cpu for core in cores for cpu in core)),
        mems=tuple(sorted(node.number for node in home)),
        memory="bound" if bound else "local",
        memory_bytes=memory if bound else None,
    )
