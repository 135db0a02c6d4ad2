"""Shares of a host: whole cores, equal, of one NUMA node, and no CPU for two workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.fleet.executor import Worker
from bench_core.drive.fleet.placement import deal_gpus, deal_slices, workers_of
from bench_core.system.numa import Node, cpu_list, node_of_pci, nodes

GIB = 1 << 30


def node(number: int, *cores: tuple[int, ...]) -> Node:
    return Node(number, cores, 64 * GIB)


# As on common hosts: the second threads of the cores have the higher numbers.
TWO = (node(0, *((n, n + 8) for n in range(4))), node(1, *((n, n + 8) for n in range(4, 8))))


def gpu(number: int) -> GpuInfo:
    return GpuInfo(uuid=f"GPU-{number}", name="N", memory_bytes=GIB, driver_version="1")


def _cpus(workers: tuple[Worker, ...]) -> list[tuple[int, ...]]:
    return [worker.placement.cpus for worker in workers if worker.placement is not None]


def test_each_gpu_has_cores_of_its_own_node() -> None:
    places = {"GPU-0": 1, "GPU-1": 1, "GPU-2": 0, "GPU-3": 0}
    workers = deal_gpus([gpu(n) for n in range(4)], tuple(places), TWO, places.get, "docker")
    assert [worker.name for worker in workers] == list(places)
    assert _cpus(workers) == [(4, 5, 12, 13), (6, 7, 14, 15), (0, 1, 8, 9), (2, 3, 10, 11)]
    first = workers[0].placement
    assert first is not None
    assert (first.mems, first.memory, first.workers) == ((1,), "bound", 4)
    assert first.memory_bytes == int(64 * GIB * 0.95 / 2)


def test_a_gpus_share_is_the_same_whichever_others_are_used() -> None:
    places = {f"GPU-{n}": n // 2 for n in range(4)}
    every = deal_gpus([gpu(n) for n in range(4)], tuple(places), TWO, places.get, "process")
    some = deal_gpus([gpu(1), gpu(3)], tuple(places), TWO, places.get, "process")
    assert _cpus(some) == [_cpus(every)[1], _cpus(every)[3]]


def test_where_nobody_tells_a_gpus_node_the_shares_are_still_equal_and_apart() -> None:
    workers = deal_gpus([gpu(n) for n in range(4)], [f"GPU-{n}" for n in range(4)], TWO, lambda _: None, "process")
    cpus = _cpus(workers)
    assert {len(found) for found in cpus} == {4}
    assert len({cpu for found in cpus for cpu in found}) == 16


def test_more_gpus_than_cores_share_those_of_the_node() -> None:
    gpus, small = [gpu(n) for n in range(3)], node(0, (0,), (1,))
    workers = deal_gpus(gpus, [one.uuid for one in gpus], (small,), lambda _: 0, "process")
    assert _cpus(workers) == [(0, 1)] * 3


@pytest.mark.parametrize(("count", "sizes"), [(1, [16]), (2, [8, 8]), (3, [4, 4, 4]), (4, [4] * 4), (8, [2] * 8)])
def test_slices_are_equal_and_of_whole_cores(count: int, sizes: list[int]) -> None:
    cpus = _cpus(deal_slices(count, TWO, "process"))
    assert list(map(len, cpus)) == sizes
    every = [cpu for found in cpus for cpu in found]
    assert len(every) == len({*every})
    assert all((cpu + 8) % 16 in found for found in cpus for cpu in found), "both threads of a core, or neither"


def test_a_slice_is_of_one_node_where_that_can_be() -> None:
    for count in (2, 3, 4, 8):
        for worker in deal_slices(count, TWO, "docker"):
            assert worker.placement is not None
            assert len(worker.placement.mems) == 1


def test_less_than_a_core_is_no_slice() -> None:
    with pytest.raises(BadInput, match="--cpu-slices 9, but there are 8 cores"):
        deal_slices(9, TWO, "process")


def test_one_device_has_all_of_its_host() -> None:
    assert workers_of([], None, "docker") == (Worker("CPU"),)
    assert workers_of([gpu(1)], None, "docker") == (Worker("GPU-1", gpu(1)),)


def test_the_kernels_files_are_read(tmp_path: Path) -> None:
    for number, cpus in ((0, "0-1,4-5"), (1, "2-3,6-7"), (2, "")):  # the last has memory alone
        folder = tmp_path / "node" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
        (folder / "meminfo").write_text(f"Node {number} MemTotal:       1024 kB\nNode {number} MemFree: 1 kB\n")
    for cpu in range(8):
        folder = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    found = nodes(tmp_path, frozenset(range(8)))
    assert found == (Node(0, ((0, 4), (1, 5)), 1 << 20), Node(1, ((2, 6), (3, 7)), 1 << 20))
    some = nodes(tmp_path, frozenset({1, 2, 6}))
    assert [one.cores for one in some] == [((1,),), ((2, 6),)], "only what this process may use"
    (silent,) = nodes(tmp_path / "nothing", frozenset({0, 3}))
    assert silent.cores == ((0,), (3,))


def test_a_gpus_node_is_that_of_its_pci_device(tmp_path: Path) -> None:
    for bus, text in (("0000:17:00.0", "1\n"), ("0000:65:00.0", "-1\n")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "numa_node").write_text(text)
    assert node_of_pci("00000000:17:00.0", tmp_path) == 1
    assert node_of_pci("00000000:65:00.0", tmp_path) is None
    assert node_of_pci("00000000:AF:00.0", tmp_path) is None


def test_this_machine_is_read() -> None:
    cpus = [cpu for found in nodes() for core in found.cores for cpu in core]
    assert sorted(cpus) == sorted(os.sched_getaffinity(0))
    assert cpu_list("0-2,7\n") == (0, 1, 2, 7)
