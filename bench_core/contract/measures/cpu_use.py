"""What others took of the CPUs while a cell was measured: from the kernel's counters, read before and after each batch.

Others' time is what is left of the CPUs' time when their idle time and the time that the cell's own processes ran are
taken away: other processes, interrupts, and what a hypervisor gave to other machines (steal). Only the CPUs that the
cell may use count. A busy sibling of such a CPU (hyper-threading) slows it as well and is seen only if the cell may use
it, too.

The kernel counts idle time in steps of 10 ms for each CPU, so that a window of less than half a second says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bench_core.contract.records.record import Record

# Steps of 10 ms at both ends are then at most a twentieth of a CPU, for each CPU.
SHORTEST_WINDOW_S = 0.5
# An engine whose threads wait for each other loses what others take of any CPU, in the worst case all of it; a quiet
# machine's own services and this suite's driver take a few hundredths.
DEFAULT_SHARE = 0.1
DEFAULT_MOST_CPUS = 0.4
# An engine on a GPU needs a CPU for each of its few busy threads, which others do not take as long as one is idle.
GPU_IDLE_CPUS = 1.0


class CpuReading(Record):
    """Counters at one moment; their differences count.

    Attributes:
        t_s: CLOCK_MONOTONIC.
        cpus: that the cell may use (its affinity).
        idle_s: they have been idle since the machine's start, summed.
        steal_s: a hypervisor took of them, summed; part of others' time.
        own_s: the cell's processes have run on any CPU (its container's counter, or the sum over its process tree).
    """

    t_s: float
    cpus: int = Field(ge=1)
    idle_s: float = Field(ge=0)
    steal_s: float = Field(0.0, ge=0)
    own_s: float = Field(ge=0)


CpuReadings = tuple[CpuReading, CpuReading]  # before and after one batch


class BusyRule(Record):
    """From when on a cell counts as disturbed by others.

    Attributes:
        cpus: time of so many CPUs taken by others; ``None``: a tenth of those that the cell may use, 0.4 at most.
        idle_cpus: only where less than so many were left idle, as for an engine on a GPU; ``None``: whatever is left.
    """

    cpus: float | None = Field(None, gt=0)
    idle_cpus: float | None = Field(None, gt=0)

    def limit_cpus(self, cpus: int) -> float:
        """The same as a number."""
        return self.cpus if self.cpus is not None else min(DEFAULT_SHARE * cpus, DEFAULT_MOST_CPUS)

    def is_broken(self, use: CpuUse) -> bool:
        """Whether others took too much."""
        full = self.idle_cpus is None or use.idle_cpus < self.idle_cpus
        return full and use.others_cpus >= self.limit_cpus(use.cpus)


class CpuUse(Record):
    """Who used the CPUs over a window: CPUs, of ``cpus``, on average.

    Attributes:
        window_s: between the readings.
        cpus: that the cell may use.
        others_cpus: taken by others, steal included.
        busy: so much that the cell counts as disturbed (``BusyRule``).
    """

    window_s: float
    cpus: int
    own_cpus: float
    idle_cpus: float
    steal_cpus: float
    others_cpus: float
    busy: bool = False

    @property
    def others_share(self) -> float:
        """Of the CPUs that the cell may use, 0 to 1."""
        return self.others_cpus / self.cpus


def cpu_use(first: CpuReading, last: CpuReading) -> CpuUse | None:
    """What two readings say of the time between them; ``None`` where that is too short, or counters fell."""
    window_s = last.t_s - first.t_s
    idle_s, own_s = last.idle_s - first.idle_s, last.own_s - first.own_s
    if window_s < SHORTEST_WINDOW_S or last.cpus != first.cpus or min(idle_s, own_s) < 0:
        return None
    taken_s = last.cpus * window_s - idle_s - own_s
    return CpuUse(
        window_s=window_s,
        cpus=last.cpus,
        own_cpus=own_s / window_s,
        idle_cpus=idle_s / window_s,
        steal_cpus=max(0.0, last.steal_s - first.steal_s) / window_s,
        others_cpus=min(max(0.0, taken_s / window_s), float(last.cpus)),
    )


def taken_by_others(use: CpuUse) -> str:
    """``1.49 of 2 CPUs (75 %)``, and what a hypervisor took of it where that matters."""
    words = f"{use.others_cpus:.2f} of {use.cpus} CPU{'s' if use.cpus > 1 else ''} ({use.others_share:.0%})"
    words = words.replace("%)", " %)")
    return words + (f", the hypervisor {use.steal_cpus:.2f} of it" if use.steal_cpus >= 0.05 else "")


def judged(rule: BusyRule | None, batches: Sequence[CpuReadings | None]) -> CpuUse | None:
    """Of the time from the first of these batches to the end of the last, pauses included; ``None`` where it is not
    looked at or cannot be told."""
    first, last = (batches[0], batches[-1]) if batches else (None, None)
    if rule is None or first is None or last is None:
        return None
    use = cpu_use(first[0], last[1])
    return None if use is None else use.model_copy(update={"busy": rule.is_broken(use)})
