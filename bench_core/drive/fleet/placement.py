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


def workers_of(
    gpus: Sequence[GpuInfo], cpu_slices: int | None, launcher: LauncherName, gpus_per_cell: int = 1
) -> tuple[Worker, ...]:
    """The workers of this host. A single one, or the CPUs as a whole, have all of it, as ever.

    Args:
        gpus: in the order in which they are put together; see :func:`in_groups`.
        gpus_per_cell: of each worker.

    Raises:
        BadInput: there are fewer cores than slices.
    """
    if cpu_slices is not None and not gpus:
        return deal_slices(cpu_slices, nodes(), launcher)
    if len(gpus) // gpus_per_cell < 2:
        return tuple(map(_worker, _groups(gpus, gpus_per_cell))) or (Worker("CPU"),)
    present = {gpu.uuid: gpu for gpu in (*visible_gpus(), *gpus)}
    single = deal_gpus(gpus, tuple(present), nodes(), node_of_gpu, launcher)
    return put_together(single, gpus_per_cell)


def in_groups(gpus: Sequence[GpuInfo], count: int, node_of: Callable[[str], int | None]) -> tuple[GpuInfo, ...]:
    """The same in an order in which each ``count`` of them make a group: GPUs of one NUMA node as far as there are
    enough, then those that are left over, in their order. What makes no whole group is left out."""
    if count == 1:
        return tuple(gpus)
    at: dict[int | None, list[GpuInfo]] = {}
    for gpu in gpus:
        at.setdefault(node_of(gpu.uuid), []).append(gpu)
    whole = [group for there in at.values() for group in _groups(there, count)]
    taken = {gpu.uuid for group in whole for gpu in group}
    whole += _groups([gpu for gpu in gpus if gpu.uuid not in taken], count)
    order = [gpu.uuid for gpu in gpus]
    whole.sort(key=lambda group: order.index(group[0].uuid))
    return tuple(gpu for group in whole for gpu in group)


def _groups(gpus: Sequence[GpuInfo], count: int) -> list[tuple[GpuInfo, ...]]:
    """Each ``count`` of them; a rest is left out."""
    return [tuple(gpus[first : first + count]) for first in range(0, len(gpus) - count + 1, count)]


def _worker(gpus: Sequence[GpuInfo], placement: Placement | None = None) -> Worker:
    return Worker("+".join(gpu.uuid for gpu in gpus), gpus[0], placement, tuple(gpus[1:]))


def put_together(single: Sequence[Worker], count: int) -> tuple[Worker, ...]:
    """Workers of ``count`` GPUs each, made of workers of one: their shares of the host are put together."""
    if count == 1:
        return tuple(single)
    found = []
    for first in range(0, len(single) - count + 1, count):
        parts = single[first : first + count]
        worker = _worker([gpu for part in parts for gpu in part.gpus])
        places = [part.placement for part in parts if part.placement is not None]
        limits = [place.memory_bytes for place in places if place.memory_bytes is not None]
        placement = places[0].model_copy(
            update={
                "worker": worker.name,
                "workers": len(single) // count,
                "cpus": tuple(sorted({cpu for place in places for cpu in place.cpus})),
                "mems": tuple(sorted({node for place in places for node in place.mems})),
                "memory_bytes": sum(limits) if limits else None,
            }
        )
        found.append(_worker(worker.gpus, placement))
    return tuple(found)


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
