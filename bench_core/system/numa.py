"""The host's CPUs and memory by NUMA node, and the node of a GPU; read from /sys."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench_core.system.machine import memory_bytes

_SYS = Path("/sys/devices/system")
_PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Node:
    """A NUMA node, as far as this process may use it.

    Attributes:
        cores: CPU numbers of each core; more than one where it runs several threads.
        memory_bytes: of its own.
    """

    number: int
    cores: tuple[tuple[int, ...], ...]
    memory_bytes: int


def nodes(system: Path = _SYS, allowed: frozenset[int] | None = None) -> tuple[Node, ...]:
    """Nodes that have CPUs for this process, by number; one of all CPUs where the machine does not tell.

    Args:
        allowed: CPUs that may be used; this process's where not given.
    """
    usable = frozenset(os.sched_getaffinity(0)) if allowed is None else allowed
    found = []
    for folder in sorted((system / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        cpus = sorted(usable & {*cpu_list(_text(folder / "cpulist"))})
        if cpus:
            memory = _memory(_text(folder / "meminfo"))
            found.append(Node(int(folder.name[4:]), cores_of(cpus, system), memory or memory_bytes()))
    if {cpu for node in found for core in node.cores for cpu in core} != usable:
        return (Node(0, cores_of(sorted(usable), system), memory_bytes()),)
    return tuple(found)


def cores_of(cpus: Iterable[int], system: Path = _SYS) -> tuple[tuple[int, ...], ...]:
    """These CPUs by the core that they are threads of, in the order of the first of each."""
    left, found = dict.fromkeys(cpus), []
    while left:
        first = next(iter(left))
        siblings = cpu_list(_text(system / "cpu" / f"cpu{first}" / "topology" / "thread_siblings_list"))
        core = tuple(cpu for cpu in sorted({first, *siblings}) if cpu in left)
        for cpu in core:
            del left[cpu]
        found.append(core)
    return tuple(found)


def node_of_pci(bus_id: str, devices: Path = _PCI) -> int | None:
    """The node that a PCI device is at; ``None`` where the machine has one only, or does not tell.

    Args:
        bus_id: as NVML has it, ``00000000:17:00.0``.
    """
    domain, _, place = bus_id.lower().partition(":")
    text = _text(devices / f"{domain[-4:]}:{place}" / "numa_node").strip()
    return int(text) if text.isdigit() else None  # -1: not told


def cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's own form of a set of CPUs: ``0-3,8``."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _memory(text: str) -> int | None:
    for line in text.splitlines():
        words = line.split()  # Node 0 MemTotal:       24689780 kB
        if len(words) == 5 and words[2] == "MemTotal:":
            return int(words[3]) * 1024
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
