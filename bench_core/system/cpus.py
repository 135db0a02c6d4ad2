"""Which CPUs a server and its client get: none is shared where there are two or more."""

from __future__ import annotations

import os
from dataclasses import dataclass

# With fewer CPUs than this for each load generator, the client's supervisor has none of its own: the engine needs them.
_ENOUGH_FOR_A_SUPERVISOR = 4


@dataclass(frozen=True)
class Shares:
    """CPU numbers of the two."""

    server: tuple[int, ...]
    client: tuple[int, ...]


def deal(client_processes: int, present: tuple[int, ...] | None = None) -> Shares:
    """The last CPUs for the client, one for each load generator and, where there are plenty, one for its supervisor;
    the others for the server. A single CPU is shared.

    Args:
        present: that may be used; those of this process where not given.
    """
    cpus = tuple(sorted(os.sched_getaffinity(0))) if present is None else present
    if len(cpus) < 2:
        return Shares(cpus, cpus)
    wanted = client_processes + (len(cpus) >= _ENOUGH_FOR_A_SUPERVISOR * (client_processes + 1))
    count = min(wanted, len(cpus) - 1)
    return Shares(cpus[:-count], cpus[-count:])
